"""Everything of an SB3 model that must be kept to go on learning: weights, optimizers, counters, replay memory, RNG."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from stillsight.agents.buffers.replay import FrameReplayBuffer, Mark
from stillsight.agents.errors import CheckpointError
from stillsight.agents.training.state.exploration import exploration
from stillsight.agents.training.state.fit import MISFITS, attribute, check_fit, check_learned, policy_of, variables
from stillsight.encoders.errors import first_line
from stillsight.envs.state import generator_state, set_generator

_NOT_COUNTERS = ("verbose", "start_time", "n_envs", "seed")


def learned(model: BaseAlgorithm) -> dict[str, Any]:
    """The policy's parameters and buffers, and how it explores: what an agent needs to act. The frozen encoder is not
    among them. What is learned beside the policy (the temperature of SAC and its kin) goes with it, for a run that
    begins there."""
    beside = {name: tensor for name, tensor in variables(model).items() if tensor.requires_grad}
    return {
        "policy": dict(model.policy.state_dict()),
        **({"variables": beside} if beside else {}),
        **exploration(model),
    }


def capture(model: BaseAlgorithm) -> dict[str, Any]:
    """The whole state, as nested dicts of tensors and plain values; replay memory comes from `capture_replay`."""
    return {
        "parameters": model.get_parameters(),
        "variables": variables(model),
        "counters": counters(model),
        "random": _random_state(model),
    }


def copied(state: Mapping[str, Any]) -> dict[str, Any]:
    """What `capture` gave, with copies of what networks and optimizers hold, which whatever happens to the model leaves
    alone. They lie in main memory, for that of a device may be full, and one under several names is copied once."""
    copies: dict[Any, Tensor] = {}

    def copy(node: Any) -> Any:
        if isinstance(node, Tensor):
            identity = (node.data_ptr(), node.shape, node.stride(), node.dtype) if node.numel() else id(node)
            if identity not in copies:
                copies[identity] = node.detach().to("cpu", copy=True)
            return copies[identity]
        if isinstance(node, Mapping):
            return {key: copy(value) for key, value in node.items()}
        return [copy(value) for value in node] if isinstance(node, list | tuple) else node

    return {**state, "parameters": copy(state["parameters"]), "variables": copy(state["variables"])}


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


def restore(model: BaseAlgorithm, state: Mapping[str, Any]) -> None:
    """Put a captured state back.

    Raises:
        CheckpointError: it belongs to another kind of model.
    """
    check_fit(model, state)
    try:
        model.set_parameters(state["parameters"], exact_match=True, device=model.device)
        with torch.no_grad():
            for name, value in state["variables"].items():
                tensor = attribute(model, name)
                if tensor is None:
                    raise KeyError(f"no {name} here")
                tensor.copy_(value)
        vars(model).update(state["counters"])
        set_random_state(model, state["random"])
    except MISFITS as error:
        raise CheckpointError(f"The checkpoint does not fit this agent ({first_line(error)}).") from error


def restore_learned(model: BaseAlgorithm, state: Mapping[str, Any]) -> None:
    """Put back what `learned` or `capture` gave of the policy. How it explores does `restore_exploration`: a new run
    that begins with the policy explores anew.

    Raises:
        CheckpointError: it belongs to another kind of model.
    """
    check_learned(model, state)
    try:
        model.policy.load_state_dict(policy_of(state))
    except MISFITS as error:
        raise CheckpointError(f"The checkpoint does not fit this agent ({first_line(error)}).") from error


def restore_beside(model: BaseAlgorithm, state: Mapping[str, Any]) -> list[str]:
    """Put back what is learned beside the policy, where both learn it.

    Returns:
        Names of what this model learns and the state does not hold.
    """
    kept, lacking = state.get("variables") or {}, []
    for name, tensor in variables(model).items():
        if not tensor.requires_grad:
            continue
        if name in kept and kept[name].shape == tensor.shape:
            with torch.no_grad():
                tensor.copy_(kept[name])
        else:
            lacking.append(name)
    return lacking


def capture_replay(model: BaseAlgorithm) -> dict[str, Any] | None:
    """The filled part of the replay memory, or None for algorithms without one."""
    buffer = getattr(model, "replay_buffer", None)
    return buffer.state() if isinstance(buffer, FrameReplayBuffer) else None


def keeps_half(model: BaseAlgorithm) -> bool:
    """Whether a replay memory keeps features in float16; pixels it keeps as they are."""
    buffer = getattr(model, "replay_buffer", None)
    return isinstance(buffer, FrameReplayBuffer) and buffer.frames.dtype == np.float16


def mark_replay(model: BaseAlgorithm) -> Mark | None:
    """Where the replay memory stands, for `rewind_replay`; None for algorithms without one."""
    buffer = getattr(model, "replay_buffer", None)
    return buffer.mark() if isinstance(buffer, FrameReplayBuffer) else None


def rewind_replay(model: BaseAlgorithm, mark: Mark | None) -> None:
    """Forget what the replay memory got since `mark_replay`, which gave None where there is none."""
    buffer = getattr(model, "replay_buffer", None)
    if mark is not None and isinstance(buffer, FrameReplayBuffer):
        buffer.rewind(mark)


def restore_replay(model: BaseAlgorithm, state: Mapping[str, Any]) -> None:
    """Put captured replay memory back.

    Raises:
        CheckpointError: its size or shapes differ from this model's.
    """
    buffer = getattr(model, "replay_buffer", None)
    assert isinstance(buffer, FrameReplayBuffer)
    try:
        buffer.restore(state)
    except MISFITS as error:
        raise CheckpointError(f"The checkpoint does not fit this agent: {error}.") from error


def _random_state(model: BaseAlgorithm) -> dict[str, Any]:
    _, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": [*random.getstate()[1], random.getstate()[2]],
        "numpy": {"keys": torch.from_numpy(np.asarray(keys).astype(np.int64)), "rest": [position, has_gauss, gauss]},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "actions": generator_state(model.action_space.np_random),
    }


def set_random_state(model: BaseAlgorithm, state: Mapping[str, Any]) -> None:
    """Let every random generator go on from where `capture` found it, see its "random".

    Raises:
        ValueError: the state is of no generator.
    """
    *internal, gauss_next = state["python"]
    random.setstate((3, tuple(internal), gauss_next))
    rest = state["numpy"]["rest"]
    if not 0 <= rest[0] <= 624:  # of the 624 words of MT19937; numpy reads behind them without a word
        raise ValueError(f"the random generator stands at {rest[0]!r}")
    np.random.set_state(("MT19937", state["numpy"]["keys"].numpy().astype(np.uint32), rest[0], rest[1], rest[2]))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all([tensor.cpu() for tensor in state["cuda"]])
    set_generator(model.action_space.np_random, state["actions"])
