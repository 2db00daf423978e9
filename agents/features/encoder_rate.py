"""The encoder's own learning rate: a fixed share of the algorithm's, at every moment of its schedule."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer

from stillsight.encoders.learned import Learned
from stillsight.encoders.taps.learned_pooling import pooling_parameters

FACTOR = "lr_factor"
"""Entry of an optimizer's parameter group: what its rate is multiplied by while it steps. Checkpoints keep it."""

_GIVEN = "given_lr"


def optimizers(policy: nn.Module) -> dict[str, Optimizer]:
    """Every optimizer of a policy by its path: its own (PPO, A2C, DQN), or those of its actor and critic (SAC, TD3)."""
    return {
        f"{path}.{name}".strip("."): value
        for path, module in policy.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, Optimizer)
    }


def scale(policy: nn.Module, factor: float) -> None:
    """Let what learns of the encoder learn at `factor` times the algorithm's rate.

    SB3 writes the schedule's rate into every parameter group before each update, over whatever stood there. So the
    group of the encoder keeps a factor beside the rate, and torch's step hooks apply it around each step.

    Args:
        policy: of any SB3 algorithm, with its optimizers.
        factor: 1 changes nothing.
    """
    if factor == 1.0:
        return
    learned = {id(p) for part in policy.modules() if isinstance(part, Learned) for p in part.parameters()}
    learned -= pooling_parameters(policy)  # which begin at random, as the head does, and learn at its rate
    for optimizer in optimizers(policy).values():
        _split(optimizer, learned, factor)


def _split(optimizer: Optimizer, learned: set[int], factor: float) -> None:
    """Move the parameters in `learned` into groups of their own, which `factor` governs."""
    added: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        moved = [parameter for parameter in group["params"] if id(parameter) in learned]
        if moved:
            added.append({**group, "params": moved, FACTOR: factor})
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in learned]
    for group in added:
        optimizer.add_param_group(group)
    if added:
        optimizer.register_step_pre_hook(_apply)
        optimizer.register_step_post_hook(_restore)


def _apply(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG001 - torch's hook
    for group in optimizer.param_groups:
        if FACTOR in group:
            group[_GIVEN] = group["lr"]
            group["lr"] = group["lr"] * group[FACTOR]


def _restore(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG001 - torch's hook
    for group in optimizer.param_groups:
        if _GIVEN in group:
            group["lr"] = group.pop(_GIVEN)
