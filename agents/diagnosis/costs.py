"""Cost checks: copies of a backbone inside a policy, and images encoded for one environment step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from torch import nn

from stillsight.agents.diagnosis.case import Case
from stillsight.agents.diagnosis.finding import ENCODE_ONCE, Finding, Severity

_CUT = (
    "Encode what does not learn once, before the policy: stillsight.encoders.build(NAME, 'finetune', unfreeze=STAGE)."
)


def copies(case: Case) -> Iterator[Finding]:
    """Count the copies of the backbone that the policy holds, and their bytes."""
    held = [network for network in case.networks if network.held]
    if not held or not case.presumed_pretrained:
        return
    size = sum(map(_bytes, (network.module for network in held)))
    target = "; the targets are averaged tensor by tensor" if any("_target" in n.where for n in held) else ""
    yield Finding(
        "copies",
        "cost" if case.frozen else "note",
        case.where,
        f"The policy holds {len(held)} {'copy' if len(held) == 1 else 'copies'} of {type(case.first.module).__name__}, "
        f"{size / 1e6:.1f} MB together, in memory and in every checkpoint{target}.",
        ENCODE_ONCE if case.frozen else _CUT,
    )


def _bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in [*module.parameters(), *module.buffers()])


def images_repeated(case: Case) -> Iterator[Finding]:
    """Count the images that go through the backbone for one environment step."""
    passes = passes_per_step(case.model)
    if passes is None or case.forward is None or not case.forward.images or not case.presumed_pretrained:
        return
    count, formula = passes
    images = count * case.forward.images
    severity: Severity = "cost" if case.frozen else "note"
    stack = f", times {case.forward.images} frames in an observation" if case.forward.images > 1 else ""
    yield Finding(
        "frames-encoded-per-step",
        severity,
        case.where,
        f"About {images:,.1f} images go through the backbone for one environment step: {formula}{stack}. "
        "Encoded once, it would be 1.",
        ENCODE_ONCE if case.frozen else _CUT,
    )


_UPDATE = {
    "DQN": (2.0, "2 networks"),
    "QRDQN": (2.0, "2 networks"),
    "SAC": (5.0, "5 passes (actor on both states, target, critic twice)"),
    "TQC": (5.0, "5 passes (actor on both states, target, critic twice)"),
}
"""Forward passes of a batch in one gradient step, as their `train` makes them."""


def passes_per_step(model: BaseAlgorithm) -> tuple[float, str] | None:
    """Count the observations that go through features extractors for one environment step.

    Counted in the `train` and `collect_rollouts` of SB3 and sb3-contrib 2.7; the pass for the last observation of an
    episode, early stopping and steps at random are left out.

    Returns:
        The number and its formula, or None for algorithms and settings of which it is not known.
    """
    names = [cls.__name__ for cls in type(model).__mro__]
    if isinstance(model, OnPolicyAlgorithm):
        return _on_policy(model, names)
    if isinstance(model, OffPolicyAlgorithm):
        return _off_policy(model, names)
    return None


def _on_policy(model: OnPolicyAlgorithm, names: list[str]) -> tuple[float, str] | None:
    epochs = getattr(model, "n_epochs", 1 if "A2C" in names else None)
    if epochs is None:
        return None
    extractors = 1 if model.policy.share_features_extractor else 2
    unshared = "" if extractors == 1 else "2 extractors x "
    formula = f"{unshared}(1 to act + {epochs} epochs) + 1/{model.n_steps} for the last value"
    return extractors * (1 + epochs) + 1 / model.n_steps, formula


def _off_policy(model: OffPolicyAlgorithm, names: list[str]) -> tuple[float, str] | None:
    passes, of = next((_UPDATE[name] for name in names if name in _UPDATE), (0.0, ""))
    if "TD3" in names:
        delay = getattr(model, "policy_delay", 1)
        passes, of = 3 + 2 / delay, f"(3 + 2/{delay}) passes (both targets, critic; every {delay} actor and critic)"
    frequency: Any = model.train_freq
    if not passes or not isinstance(frequency, TrainFreq):
        return None
    if model.gradient_steps < 0:
        steps = 1.0
    elif frequency.unit is TrainFrequencyUnit.STEP:
        steps = model.gradient_steps / (frequency.frequency * model.n_envs)
    else:
        return None
    formula = f"1 to act + {of} x batch of {model.batch_size} x {steps:g} gradient steps per environment step"
    return 1 + passes * model.batch_size * steps, formula
