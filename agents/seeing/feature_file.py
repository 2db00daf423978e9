"""Files of features: float32 [N, D] as .npy or .safetensors, with the images' names and the encoder that made them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from stillsight.encoders.atomic import replacing, to_json, write_atomically, writing
from stillsight.encoders.weights import tensor_file

KEY = "features"
"""Name of the tensor in a .safetensors file."""


def write(path: Path, features: np.ndarray, facts: dict[str, Any]) -> None:
    """Write `features`, and `facts` about them: beside a .npy file as .json, in the header of a .safetensors file.

    Args:
        path: ends in .npy or .safetensors.
        features: float32 `[N, D]`.
        facts: as JSON knows them; "names" is a list of N.

    Raises:
        DiskFault: a file cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        told = {name: value if isinstance(value, str) else to_json(value) for name, value in facts.items()}
        tensor_file.write(path, {KEY: torch.from_numpy(features)}, told)
        return
    with replacing(path) as partial, writing(path), partial.open("wb") as file:
        np.save(file, features, allow_pickle=False)
    write_atomically(path.with_suffix(".json"), to_json(facts, indent=1) + "\n")
