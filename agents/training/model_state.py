"""Everything of an SB3 model that must be kept to go on learning: weights, optimizers, counters, replay memory, RNG."""

from __future__ import annotations

import inspect
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
from torch.optim import Optimizer

from stillsight.agents.buffers.replay import FrameReplayBuffer
from stillsight.agents.errors import CheckpointError
from stillsight.agents.runs import schema
from stillsight.envs.state import generator_state, set_generator

_NOT_COUNTERS = ("verbose", "start_time", "n_envs", "seed")


_MISFITS = (KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError, OverflowError)
"""What torch, numpy and SB3 raise of a state that is of another model, or of none."""

LARGEST_WEIGHT = 1e12
"""Of a policy, by its size. Networks that act have weights of a few units, and float32 ends at 3e38: products of such
numbers over the layers of a policy would leave it."""
KINDS = frozenset(
    {torch.float64, torch.float32, torch.float16, torch.bfloat16}
    | {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool}
)
"""Types of the tensors of policies and optimizers; which of them each has, the built model says, see `check_fit`."""
COUNTED = ("num_timesteps", "_total_timesteps", "_num_timesteps_at_start", "_episode_num", "_n_updates", "_n_calls")
"""Counters of SB3, which begin at 0."""
EXPLORATION = "exploration_rate"
"""Where SB3's epsilon-greedy algorithms keep how many of their actions are random."""


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def learned(model: BaseAlgorithm) -> dict[str, Any]:
    """The policy's parameters and buffers, and how it explores: what an agent needs to act. The frozen encoder is not
    among them."""
    return {"policy": dict(model.policy.state_dict()), **exploration(model)}


def capture(model: BaseAlgorithm) -> dict[str, Any]:
    """The whole state, as nested dicts of tensors and plain values; replay memory comes from `capture_replay`."""
    _, variables = model._get_torch_save_params()
    return {
        "parameters": model.get_parameters(),
        "variables": {name: _attribute(model, name) for name in variables if _attribute(model, name) is not None},
        "counters": counters(model),
        "random": _random_state(model),
    }


def exploration(model: BaseAlgorithm) -> dict[str, float]:
    """The share of its actions that an epsilon-greedy agent (DQN, QR-DQN) now draws at random, wherever it is not asked
    for the most likely ones; empty for others, whose policies say themselves how they draw."""
    return {EXPLORATION: float(getattr(model, EXPLORATION))} if _is_epsilon_greedy(model) else {}


def _is_epsilon_greedy(model: BaseAlgorithm) -> bool:
    return hasattr(model, EXPLORATION) and hasattr(model, "exploration_schedule")


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
        if tensor.dtype not in KINDS:
            raise CheckpointError(
                f"The checkpoint {path} is of no use: the numbers of {name} are {_kind(tensor)}, which no policy has. "
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


def check_fit(model: BaseAlgorithm, state: Mapping[str, Any], path: Path | None = None) -> None:
    """Refuse what `capture` gave of another model: tensors of other names, types, shapes or sizes, optimizers of other
    settings, and hyperparameters that are not this model's.

    A run's hyperparameters stand in its config.json, by which the model was built. What a checkpoint says of them only
    has to agree; what adds up or falls while an agent learns is state, and stays the checkpoint's.

    Args:
        model: built by the run's configuration; it is not changed.
        state: from `capture`.
        path: of its file.

    Raises:
        CheckpointError: what does not fit.
    """
    try:
        _check_capture(model, state)
    except _MISFITS as error:
        raise _misfit(error, path) from error


def check_learned(model: BaseAlgorithm, state: Mapping[str, Any], path: Path | None = None) -> None:
    """Refuse what `learned` or `capture` gave of a policy with tensors of other names, types, shapes or sizes, or that
    explores at a rate which is no number.

    Args:
        model, state, path: as in `check_fit`.

    Raises:
        CheckpointError: what does not fit.
    """
    try:
        _check_tensors("policy", _policy(state), model.policy.state_dict())
        rate = _exploration_rate(state)
        if rate is not None and not (isinstance(rate, int | float) and abs(rate) <= schema.LARGEST_COUNT):
            raise ValueError(f"{EXPLORATION} is {rate!r:.60}, and must be a number")
    except _MISFITS as error:
        raise _misfit(error, path) from error


def _policy(state: Mapping[str, Any]) -> Any:
    return state["policy"] if "policy" in state else state["parameters"]["policy"]


def _exploration_rate(state: Mapping[str, Any]) -> Any:
    """What `learned`, or `capture` among its counters, gave of it; None where there is none."""
    return state.get("counters", state).get(EXPLORATION)


def _misfit(error: Exception, path: Path | None) -> CheckpointError:
    which = "The checkpoint" if path is None else f"The checkpoint {path}"
    return CheckpointError(
        f"{which} does not fit this agent ({_reason(error)}). Restore it, or the config.json beside it."
    )


def _check_capture(model: BaseAlgorithm, state: Mapping[str, Any]) -> None:
    """Raise one of `_MISFITS` for a captured state that is not one of `model`."""
    parameters, built = state["parameters"], model.get_parameters()
    if set(parameters) != set(built):
        raise ValueError(f"it holds {', '.join(sorted(map(str, parameters)))}, not {', '.join(sorted(built))}")
    for name, ours in built.items():
        owner = _found(model, name)
        if isinstance(owner, Optimizer):
            _check_optimizer(name, parameters[name], owner)
        else:
            _check_tensors(name, parameters[name], ours)
    _, variables = model._get_torch_save_params()
    present = {name: tensor for name in variables if (tensor := _attribute(model, name)) is not None}
    _check_tensors("variables", state["variables"], present)
    _check_counters(model, state["counters"])
    counted = state["counters"].get("num_timesteps")
    if "step" in state and counted != state["step"]:
        raise ValueError(f"num_timesteps is {counted!r:.60}, and it says that it is of step {state['step']!r:.60}")


def _check_tensors(what: str, kept: Mapping[str, Any], built: Mapping[str, Any]) -> None:
    """Raise `ValueError` unless tensors are of the names, types and shapes of those of the model, and of sane size."""
    tensors = {name: tensor for name, tensor in built.items() if isinstance(tensor, Tensor)}
    lacking, strange = sorted(set(tensors) - set(kept)), sorted(map(str, set(kept) - set(built)))
    if lacking or strange:
        raise ValueError(f"{what} has no {lacking[0]}" if lacking else f"{what} has no place for {strange[0]}")
    for name, tensor in tensors.items():
        _check_alike(f"{what}.{name}", kept[name], tensor)
        if tensor.is_floating_point() and tensor.numel() and float(kept[name].detach().abs().max()) > LARGEST_WEIGHT:
            raise ValueError(f"{what}.{name} holds numbers beyond {LARGEST_WEIGHT:g}, with which nothing can act")


def _check_alike(name: str, kept: Any, built: Tensor) -> None:
    if not isinstance(kept, Tensor):
        raise ValueError(f"{name} is a {type(kept).__name__}, not a tensor")
    if (kept.dtype, kept.shape) != (built.dtype, built.shape):
        raise ValueError(f"{name} is {_kind(kept)} {list(kept.shape)}, not {_kind(built)} {list(built.shape)}")


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _check_optimizer(what: str, kept: Mapping[str, Any], optimizer: Optimizer) -> None:
    """Raise one of `_MISFITS` unless a stored optimizer has the settings of `optimizer`, and moments that fit it.

    Its rates are left out: SB3 sets them before each update, by the schedule of the run.
    """
    built = optimizer.state_dict()
    groups = kept["param_groups"]
    if len(groups) != len(built["param_groups"]):
        raise ValueError(f"{what} has {len(groups)} groups of parameters, not {len(built['param_groups'])}")
    for group, ours in zip(groups, built["param_groups"], strict=True):
        for name, value in group.items():
            if name not in ours:
                raise ValueError(f"{what} has no setting {name}")
            if name == "lr":
                _check_number(f"{what}: its rate", value)
            elif _listed(value) != _listed(ours[name]):
                raise ValueError(f"{what}: {name} is {value!r:.60}, and {ours[name]!r:.60} by the run's configuration")
    parameters = dict(enumerate(one for group in optimizer.param_groups for one in group["params"]))
    expected = _moments(optimizer)
    for number, moments in kept["state"].items():
        if number not in parameters:
            raise ValueError(f"{what} has no parameter {number!r:.20}")
        if expected is not None and moments and set(moments) != set(expected):
            raise ValueError(f"{what} keeps {', '.join(sorted(map(str, moments)))}, not {', '.join(sorted(expected))}")
        for name, value in moments.items():
            shaped = expected[name] if expected is not None else isinstance(value, Tensor) and value.dim() > 0
            if shaped:
                _check_alike(f"{what}.{number}.{name}", value, parameters[number])
            elif isinstance(value, Tensor) and value.numel() != 1:
                raise ValueError(f"{what}.{number}.{name} is {list(value.shape)}, not a number")
            elif value is not None:
                _check_number(f"{what}.{number}.{name}", value.detach().item() if isinstance(value, Tensor) else value)


def _moments(optimizer: Optimizer) -> dict[str, bool] | None:
    """What an optimizer of this kind keeps of a parameter -> whether it is of the parameter's shape; None where that
    cannot be seen. A twin of it is asked, which makes one step."""
    parameter = torch.nn.Parameter(torch.zeros(2, 3))
    parameter.grad = torch.zeros(2, 3)
    taken = inspect.signature(type(optimizer)).parameters
    try:
        twin = type(optimizer)([parameter], **{name: one for name, one in optimizer.defaults.items() if name in taken})
        twin.step()
    except Exception:  # of anybody's own class
        return None
    return {name: isinstance(value, Tensor) and value.shape == (2, 3) for name, value in twin.state[parameter].items()}


def _listed(value: Any) -> Any:
    """A value of a setting as a checkpoint gives it back, where tuples are lists."""
    return [_listed(one) for one in value] if isinstance(value, list | tuple) else value


def _check_counters(model: BaseAlgorithm, counters: Mapping[str, Any]) -> None:
    """Raise `ValueError` for a hyperparameter that is not the model's, and for what is no counter of it."""
    arguments = {name for cls in type(model).__mro__[:-1] for name in inspect.signature(cls).parameters}
    for name, value in counters.items():  # a file may say anything, and must replace no method
        if not isinstance(value, bool | int | float) or hasattr(type(model), name):
            raise ValueError(f"{name} is no counter")
        ours = vars(model).get(name, value)
        if name.removeprefix("_") in arguments:
            if ours != value or isinstance(ours, bool) != isinstance(value, bool):
                raise ValueError(f"{name} is {value!r}, and {ours!r:.60} by the run's configuration")
            continue
        if not isinstance(ours, bool | int | float) or isinstance(ours, bool) != isinstance(value, bool):
            raise ValueError(f"{name} is no counter")
        if name in COUNTED:
            _check_number(name, value)
        elif not abs(value) <= schema.LARGEST_COUNT:
            raise ValueError(f"{name} is {value!r}, and nothing is counted so far")


def _check_number(name: str, value: Any) -> None:
    """Raise `ValueError` for what is no number from 0 to `schema.LARGEST_COUNT`."""
    if not (isinstance(value, int | float) and 0 <= value <= schema.LARGEST_COUNT):
        raise ValueError(f"{name} is {value!r:.60}, and must be a number from 0 to {schema.LARGEST_COUNT:,}")


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
                tensor = _attribute(model, name)
                if tensor is None:
                    raise KeyError(f"no {name} here")
                tensor.copy_(value)
        vars(model).update(state["counters"])
        _set_random_state(model, state["random"])
    except _MISFITS as error:
        raise CheckpointError(f"The checkpoint does not fit this agent ({_reason(error)}).") from error


def restore_learned(model: BaseAlgorithm, state: Mapping[str, Any]) -> None:
    """Put back what `learned` or `capture` gave of the policy. How it explores does `restore_exploration`: a new run
    that begins with the policy explores anew.

    Raises:
        CheckpointError: it belongs to another kind of model.
    """
    check_learned(model, state)
    try:
        model.policy.load_state_dict(_policy(state))
    except _MISFITS as error:
        raise CheckpointError(f"The checkpoint does not fit this agent ({_reason(error)}).") from error


def restore_exploration(model: BaseAlgorithm, state: Mapping[str, Any], done: float) -> None:
    """Let an epsilon-greedy agent explore as it did when `learned` or `capture` gave its state; nothing for others.

    Args:
        model: of the run's configuration.
        state: checked by `check_learned`.
        done: share of its run that lay behind it. Older versions kept no rate beside the best agent, and the schedule
            says what it was.
    """
    if _is_epsilon_greedy(model):
        rate, scheduled = _exploration_rate(state), vars(model)["exploration_schedule"]
        vars(model)[EXPLORATION] = scheduled(1.0 - done) if rate is None else rate


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
    value = _found(model, path)
    return value if isinstance(value, Tensor) else None


def _found(model: BaseAlgorithm, path: str) -> Any:
    """What lies at the dotted `path` in a model; None where nothing does."""
    value: Any = model
    for name in path.split("."):
        value = getattr(value, name, None)
    return value


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
    if not 0 <= rest[0] <= 624:  # of the 624 words of MT19937; numpy reads behind them without a word
        raise ValueError(f"the random generator stands at {rest[0]!r}")
    np.random.set_state(("MT19937", state["numpy"]["keys"].numpy().astype(np.uint32), rest[0], rest[1], rest[2]))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all([tensor.cpu() for tensor in state["cuda"]])
    set_generator(model.action_space.np_random, state["actions"])
