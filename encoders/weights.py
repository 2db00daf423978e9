"""Where weights come from: an explicit path, a local folder, torch's cache, then a download; checked before use."""

from __future__ import annotations

import hashlib
import importlib.resources
import os
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stillsight.encoders.backbone import Backbone
from stillsight.encoders.encoder import Provenance, up_to
from stillsight.encoders.errors import EncoderError
from stillsight.encoders.zoo.encoder_spec import EncoderSpec

FOLDER_VARIABLE = "STILLSIGHT_WEIGHTS"
"""Environment variable that names a folder of weight files under their official names."""

SHIPPED = {"retina": ("retina.safetensors", "162ded15")}
"""Encoder -> file in encoders/zoo/pretrained/ and the first digits of its sha256."""

ENCODER_FILE = "checkpoints/encoder.safetensors"
"""Where a run folder keeps the encoder that it trained; this is what makes a run folder usable as `--weights`."""

_TORCHVISION = "trained on ImageNet-1k, for research; code and weights file by torchvision, BSD-3-Clause"


@dataclass(frozen=True)
class Found:
    """Weights on this machine: the tensors under their official names, and where they came from."""

    state: Mapping[str, Tensor]
    provenance: Provenance


def find(row: EncoderSpec, weights: Path | None = None, folder: Path | None = None) -> Found:
    """Find, check and read pretrained weights.

    The first that exists is taken: `weights` (a file or a run folder), the shipped file, the file of official name in
    `folder` or in the folder that the environment variable STILLSIGHT_WEIGHTS names, torch's cache, a download.

    Args:
        row: the encoder's record.
        weights: explicit path.
        folder: local folder of weight files under their official names.

    Raises:
        EncoderError: nothing found, a damaged file, a wrong hash, no network.
    """
    if weights is not None:
        return _explicit(weights)
    if row.weights == "shipped":
        with importlib.resources.as_file(
            importlib.resources.files("stillsight.encoders.zoo") / "pretrained"
        ) as shipped:
            name, prefix = SHIPPED[row.name]
            provenance = _provenance("shipped", shipped / name)
            check_hash(shipped / name, provenance.sha256, prefix)
            return Found(read(shipped / name), provenance)
    if row.weights is None:
        raise EncoderError(
            f"{row.name} has no pretrained weights. Use --mode scratch or --mode random, or --weights FILE."
        )
    if row.own:
        return _explicit(Path(row.weights), row.licence)
    return _official(row.weights, folder)


def _explicit(path: Path, licence: str = "") -> Found:
    if path.is_dir():
        file = path / ENCODER_FILE
        if not file.is_file():
            raise EncoderError(
                f"{path} holds no trained encoder ({ENCODER_FILE} is missing). Give --weights a safetensors or .pth "
                "file, or the folder of a run that trained its encoder (--mode finetune or scratch)."
            )
        return Found(read(file), _provenance("run", file, name=str(path)))
    if not path.is_file():
        raise EncoderError(f"There is no file {path}. Give --weights a safetensors or .pth file, or a run folder.")
    return Found(read(path), _provenance("file", path, licence=licence))


def _official(entry: str, folder: Path | None) -> Found:
    """Weights by torchvision's entry name, e.g. "ResNet18_Weights.IMAGENET1K_V1"."""
    from torchvision.models import get_weight

    url = str(get_weight(entry).url)
    name = url.rsplit("/", 1)[-1]
    prefix = name.rsplit("-", 1)[-1].removesuffix(".pth")  # torchvision writes 8 digits of the sha256 into the name
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    variable = os.environ.get(FOLDER_VARIABLE)
    if folder is not None and not folder.is_dir():
        raise EncoderError(f"There is no folder {folder}. Give --weights-folder a folder that holds {name}.")
    places = [("folder", folder), ("folder", Path(variable) if variable else None), ("cache", cache)]
    for kind, place in places:
        if place is not None and (place / name).is_file():
            provenance = _provenance(kind, place / name, licence=_TORCHVISION)
            check_hash(place / name, provenance.sha256, prefix)
            return Found(read(place / name), provenance)
    path = cache / name
    try:
        cache.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix, progress=True)
    except (URLError, OSError, RuntimeError) as error:
        raise EncoderError(
            f"The weights {name} are not on this machine and could not be downloaded ({error}). Put the file into a "
            f"folder and give --weights-folder FOLDER (or set {FOLDER_VARIABLE}), give --weights FILE, or take an "
            "encoder that needs no download: --encoder retina."
        ) from error
    return Found(read(path), _provenance("download", path, licence=_TORCHVISION))


def check_hash(path: Path, sha256: str, prefix: str) -> None:
    """Raise `EncoderError` unless `sha256` begins with the official `prefix`."""
    if not sha256.startswith(prefix):
        raise EncoderError(
            f"{path} is damaged or not the official file: its sha256 begins with {sha256[: len(prefix)]}, and it "
            f"should be {prefix}. Delete it, or give your own weights with --weights FILE."
        )


def _provenance(kind: str, path: Path, *, name: str = "", licence: str = "") -> Provenance:
    sha256 = file_hash(path)
    licence = licence or metadata(path).get("license", "not stated in the file: yours to check")
    return Provenance(kind=kind, name=name or path.name, sha256=sha256, licence=licence)


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def metadata(path: Path) -> dict[str, str]:
    """The header that a safetensors file carries about itself; empty for other files."""
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(str(path), "pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def read(path: Path) -> dict[str, Tensor]:
    """Read tensors from a safetensors file, or a state_dict from a torch file with `weights_only`. No code is run.

    Raises:
        EncoderError: the file is damaged, holds other things than tensors, or has values that are not finite.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(str(path), "pt") as file:
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise EncoderError(
            f"{path} is damaged, or holds Python objects and not only tensors, and stillsight runs no code from a "
            "weights file. Save the state_dict alone: torch.save(model.state_dict(), FILE)."
        ) from error
    except (
        Exception
    ) as error:  # whatever torch's unpickler makes of arbitrary bytes: IndexError, EOFError, KeyError ...
        raise _damaged(path, error) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise EncoderError(
            f"{path} holds {type(state).__name__}, not a state_dict of tensors. Save model.state_dict()."
        )
    broken = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise EncoderError(f"{path} is damaged: {_some(broken)} holds values that are not finite. Get the file again.")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _damaged(path: Path, error: Exception) -> EncoderError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return EncoderError(f"{path} is damaged or incomplete ({reason}). Get the file again.")


def load_into(backbone: Backbone, found: Found, tap: str, name: str) -> None:
    """Copy weights into `backbone`, up to `tap`; what lies behind the tap may be missing from the file.

    Raises:
        EncoderError: tensors before the tap are missing or have other shapes, named.
    """
    wanted = backbone.model.state_dict(keep_vars=True)
    kept = {id(t) for stage in up_to(backbone, tap, name).values() for t in stage.state_dict(keep_vars=True).values()}
    needed = {key: tensor for key, tensor in wanted.items() if id(tensor) in kept}
    # Files from before torch 0.4.1 lack this counter, which does nothing in eval mode.
    missing = [key for key in needed if key not in found.state and not key.endswith("num_batches_tracked")]
    source = found.provenance.name
    if missing:
        complete = [stage for stage in backbone.stages if not _lacks(backbone, stage, wanted, missing)]
        reach = _leading(list(backbone.stages), complete)
        advice = f"They are complete up to {reach}: type --tap {reach}." if reach else f"Are they weights of {name}?"
        raise EncoderError(
            f"The weights in {source} lack {_some(missing)}, which {name} needs to reach {tap}. {advice}"
        )
    wrong = [key for key in needed if key in found.state and found.state[key].shape != needed[key].shape]
    if wrong:
        key = wrong[0]
        raise EncoderError(
            f"The weights in {source} do not fit {name}: {_some(wrong)} has shape {tuple(found.state[key].shape)}, and "
            f"{name} needs {tuple(needed[key].shape)}. Give the weights of {name} with --weights FILE, or another "
            "--encoder."
        )
    with torch.no_grad():
        for key, tensor in needed.items():
            if key in found.state:
                tensor.copy_(found.state[key])


def _lacks(backbone: Backbone, stage: str, wanted: Mapping[str, Tensor], missing: list[str]) -> bool:
    ids = {id(wanted[key]) for key in missing}
    return any(id(tensor) in ids for tensor in backbone.stages[stage].state_dict(keep_vars=True).values())


def _leading(stages: list[str], complete: list[str]) -> str | None:
    """The last of the stages before the first incomplete one."""
    last = None
    for stage in stages:
        if stage not in complete:
            break
        last = stage
    return last


def _some(names: Iterable[str], most: int = 2) -> str:
    listed = list(names)
    rest = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + rest
