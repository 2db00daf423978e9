"""Whether a stored state is one of a model: its tensors, optimizers and counters, before any of them is taken."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor
from torch.optim import Optimizer

from stillsight.agents.errors import CheckpointError
from stillsight.agents.runs import schema
from stillsight.agents.training.state.exploration import EXPLORATION, exploration_rate
from stillsight.encoders.errors import first_line

MISFITS = (KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError, OverflowError)
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
    except MISFITS as error:
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
        _check_tensors("policy", policy_of(state), model.policy.state_dict())
        rate = exploration_rate(state)
        if rate is not None and not (isinstance(rate, int | float) and abs(rate) <= schema.LARGEST_COUNT):
            raise ValueError(f"{EXPLORATION} is {rate!r:.60}, and must be a number")
    except MISFITS as error:
        raise _misfit(error, path) from error


def policy_of(state: Mapping[str, Any]) -> Any:
    return state["policy"] if "policy" in state else state["parameters"]["policy"]


def _misfit(error: Exception, path: Path | None) -> CheckpointError:
    which = "The checkpoint" if path is None else f"The checkpoint {path}"
    return CheckpointError(
        f"{which} does not fit this agent ({first_line(error)}). Restore it, or the config.json beside it."
    )


def variables(model: BaseAlgorithm) -> dict[str, Tensor]:
    """The tensors that SB3 keeps beside the policy, by name."""
    _, names = model._get_torch_save_params()
    return {name: tensor for name in names if (tensor := attribute(model, name)) is not None}


def _check_capture(model: BaseAlgorithm, state: Mapping[str, Any]) -> None:
    """Raise one of `MISFITS` for a captured state that is not one of `model`."""
    parameters, built = state["parameters"], model.get_parameters()
    if set(parameters) != set(built):
        raise ValueError(f"it holds {', '.join(sorted(map(str, parameters)))}, not {', '.join(sorted(built))}")
    for name, ours in built.items():
        owner = found_in(model, name)
        if isinstance(owner, Optimizer):
            _check_optimizer(name, parameters[name], owner)
        else:
            _check_tensors(name, parameters[name], ours)
    _check_tensors("variables", state["variables"], variables(model))
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
        raise ValueError(f"{name} is {kind(kept)} {list(kept.shape)}, not {kind(built)} {list(built.shape)}")


def kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _check_optimizer(what: str, kept: Mapping[str, Any], optimizer: Optimizer) -> None:
    """Raise one of `MISFITS` unless a stored optimizer has the settings of `optimizer`, and moments that fit it.

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


def attribute(model: BaseAlgorithm, path: str) -> Tensor | None:
    value = found_in(model, path)
    return value if isinstance(value, Tensor) else None


def found_in(model: BaseAlgorithm, path: str) -> Any:
    """What lies at the dotted `path` in a model; None where nothing does."""
    value: Any = model
    for name in path.split("."):
        value = getattr(value, name, None)
    return value
