"""What of a model, or of a stored one, is no finite number."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from stillsight.agents.errors import CheckpointError
from stillsight.agents.training.state.fit import KINDS, kind


def not_finite(model: BaseAlgorithm) -> str | None:
    """What of a model is NaN or infinite, in words: a loss of its last update, or a parameter; None if nothing is.

    A loss costs nothing to look at; all parameters are read once, which waits for the device.
    """
    return loss_not_finite(model) or _parameter_not_finite(model)


def loss_not_finite(model: BaseAlgorithm) -> str | None:
    """The loss of the last update that is NaN or infinite, in words; None if none is."""
    logger = getattr(model, "_logger", None)
    for name, value in (logger.name_to_value if logger is not None else {}).items():
        # SB3 reports explained_variance as NaN where returns do not vary, which is no fault.
        if name.startswith("train/") and name.endswith(("loss", "objective")) and not math.isfinite(value):
            return f"{name} is {value:g}"
    return None


def _parameter_not_finite(model: BaseAlgorithm) -> str | None:
    named = dict(model.policy.named_parameters())
    values: list[Tensor] = list(named.values())
    if not values:
        return None
    with torch.no_grad():
        finite = torch.stack([norm.isfinite() for norm in torch._foreach_norm(values, float("inf"))]).tolist()
    name = next((name for name, good in zip(named, finite, strict=True) if not good), None)
    if name is None:
        return None
    bad = int((~named[name].isfinite()).sum())
    return f"{bad:,} of the {named[name].numel():,} numbers of the parameter {name} are NaN or infinite"


def check_finite(state: Mapping[str, Any], path: Path) -> None:
    """Refuse a stored policy, and optimizers stored with it, that hold NaN or infinity.

    Training saves none (see `not_finite`). Where a hash vouches for one all the same, or there is no hash, nobody can
    play it or learn on from it: it was saved by something else, or damaged.

    Args:
        state: from `learned` or `capture`.
        path: of its file.

    Raises:
        CheckpointError: what is not finite; or there is no policy in it.
    """
    kept = {name: state[name] for name in ("policy", "parameters") if isinstance(state.get(name), Mapping)}
    if not kept:
        raise CheckpointError(f"The checkpoint {path} holds no policy. Take another one with --checkpoint.")
    for name, tensor in _tensors(kept):
        if tensor.dtype not in KINDS:
            raise CheckpointError(
                f"The checkpoint {path} is of no use: the numbers of {name} are {kind(tensor)}, which no policy has. "
                "Nothing was changed."
            )
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            bad = int((~tensor.isfinite()).sum())
            raise CheckpointError(
                f"The checkpoint {path} is of no use: {bad:,} of the {tensor.numel():,} numbers of {name} are NaN or "
                "infinite, which training saves never. Nothing was changed."
            )


def _tensors(node: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor below `node`, with the keys that lead there."""
    if isinstance(node, Tensor):
        yield path, node
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list | tuple) else ()
    for key, value in items:
        yield from _tensors(value, f"{path}.{key}" if path else str(key))
