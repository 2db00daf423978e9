"""Everything of an SB3 model that must be kept to go on learning: weights, optimizers, counters, replay memory, RNG."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from stillsight.agents.buffers.replay import FrameReplayBuffer
from stillsight.agents.errors import CheckpointError
from stillsight.envs.state import generator_state, set_generator

_NOT_COUNTERS = ("verbose", "start_time", "n_envs", "seed")


_MISFITS = (KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError, OverflowError)
"""What torch, numpy and SB3 raise of a state that is of another model, or of none."""


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def learned(model: BaseAlgorithm) -> dict[str, Any]:
    """The policy's parameters and buffers: what an agent needs to act. The frozen encoder is not among them."""
    return {"policy": dict(model.policy.state_dict())}


def capture(model: BaseAlgorithm) -> dict[str, Any]:
    """The whole state, as nested dicts of tensors and plain values; replay memory comes from `capture_replay`."""
    _, variables = model._get_torch_save_params()
    return {
        "parameters": model.get_parameters(),
        "variables": {name: _attribute(model, name) for name in variables if _attribute(model, name) is not None},
        "counters": counters(model),
        "random": _random_state(model),
    }


def counters(model: BaseAlgorithm) -> dict[str, Any]:
    """The plain numbers of a model: steps, updates, episodes, rates."""
    return {
        name: value
        for name, value in vars(model).items()
        if isinstance(value, bool | int | float) and name not in _NOT_COUNTERS
    }


def records(model: BaseAlgorithm) -> dict[str, Any]:
    """What SB3 has noted and not yet written: its last episodes, and the numbers of the update before this moment."""
    logger = getattr(model, "_logger", None)
    episodes = [[float(one["r"]), int(one["l"]), float(one["t"])] for one in model.ep_info_buffer or ()]
    values = {} if logger is None else {name: _plain(value) for name, value in logger.name_to_value.items()}
    return {
        "episodes": episodes,
        "successes": [bool(one) for one in model.ep_success_buffer or ()],
        "values": {name: value for name, value in values.items() if value is not None},
        "counts": {} if logger is None else {name: int(count) for name, count in logger.name_to_count.items()},
    }


def restore_records(model: BaseAlgorithm, records: Mapping[str, Any]) -> None:
    """Put back what `records` gave; the model has its logger by then."""
    window = model._stats_window_size
    model.ep_info_buffer = deque((dict(zip("rlt", one, strict=True)) for one in records["episodes"]), maxlen=window)
    model.ep_success_buffer = deque(records["successes"], maxlen=window)
    logger = getattr(model, "_logger", None)
    if logger is not None:
        logger.name_to_value.update(records["values"])
        logger.name_to_count.update(records["counts"])


def _plain(value: Any) -> int | float | None:
    """A number as JSON knows it; None for what is none."""
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, int | float) else None


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


def restore(model: BaseAlgorithm, state: Mapping[str, Any]) -> None:
    """Put a captured state back.

    Raises:
        CheckpointError: it belongs to another kind of model.
    """
    try:
        model.set_parameters(state["parameters"], exact_match=True, device=model.device)
        with torch.no_grad():
            for name, value in state["variables"].items():
                tensor = _attribute(model, name)
                if tensor is None:
                    raise KeyError(f"no {name} here")
                tensor.copy_(value)
        counters = dict(state["counters"])
        for name, value in counters.items():  # a file may say anything, and must replace no method
            if not isinstance(value, bool | int | float) or hasattr(type(model), name):
                raise ValueError(f"{name} is no counter")
        vars(model).update(counters)
        _set_random_state(model, state["random"])
    except _MISFITS as error:
        raise CheckpointError(f"The checkpoint does not fit this agent ({_reason(error)}).") from error


def restore_learned(model: BaseAlgorithm, state: Mapping[str, Any]) -> None:
    """Put back what `learned` or `capture` gave, as far as acting needs it.

    Raises:
        CheckpointError: it belongs to another kind of model.
    """
    try:
        policy = state["policy"] if "policy" in state else state["parameters"]["policy"]
        model.policy.load_state_dict(policy)
    except _MISFITS as error:
        raise CheckpointError(f"The checkpoint does not fit this agent ({_reason(error)}).") from error


def capture_replay(model: BaseAlgorithm) -> dict[str, Any] | None:
    """The filled part of the replay memory, or None for algorithms without one."""
    buffer = getattr(model, "replay_buffer", None)
    return buffer.state() if isinstance(buffer, FrameReplayBuffer) else None


def restore_replay(model: BaseAlgorithm, state: Mapping[str, Any]) -> None:
    """Put captured replay memory back.

    Raises:
        CheckpointError: its size or shapes differ from this model's.
    """
    buffer = getattr(model, "replay_buffer", None)
    assert isinstance(buffer, FrameReplayBuffer)
    try:
        buffer.restore(state)
    except _MISFITS as error:
        raise CheckpointError(f"The checkpoint does not fit this agent: {error}.") from error


def _attribute(model: BaseAlgorithm, path: str) -> Tensor | None:
    value: Any = model
    for name in path.split("."):
        value = getattr(value, name, None)
    return value if isinstance(value, Tensor) else None


def _random_state(model: BaseAlgorithm) -> dict[str, Any]:
    _, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": [*random.getstate()[1], random.getstate()[2]],
        "numpy": {"keys": torch.from_numpy(np.asarray(keys).astype(np.int64)), "rest": [position, has_gauss, gauss]},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "actions": generator_state(model.action_space.np_random),
    }


def _set_random_state(model: BaseAlgorithm, state: Mapping[str, Any]) -> None:
    *internal, gauss_next = state["python"]
    random.setstate((3, tuple(internal), gauss_next))
    rest = state["numpy"]["rest"]
    np.random.set_state(("MT19937", state["numpy"]["keys"].numpy().astype(np.uint32), rest[0], rest[1], rest[2]))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all([tensor.cpu() for tensor in state["cuda"]])
    set_generator(model.action_space.np_random, state["actions"])
