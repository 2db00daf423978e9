"""diagnose(): report what happens to the pretrained network in the policy of any Stable-Baselines3 model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnvWrapper
from torch import Tensor

from stillsight.agents.diagnosis import costs, policy_effects, probe, update_effects
from stillsight.agents.diagnosis.case import Case
from stillsight.agents.diagnosis.finding import Finding, Severity
from stillsight.agents.diagnosis.reference_weights import read_references
from stillsight.agents.errors import RunError
from stillsight.agents.features.encoded_vec_env import EncodedVecEnv
from stillsight.agents.features.extractor import extractors

CHECKS = (
    policy_effects.weights_overwritten,
    policy_effects.layers_in_train_mode,
    policy_effects.pixels_misscaled,
    update_effects.frozen_but_optimised,
    update_effects.averaged,
    costs.copies,
    costs.images_repeated,
)


def diagnose(model: Any, *, weights: Mapping[str, Tensor] | Path | str | None = None) -> list[Finding]:
    """Report what happens to the vision network in the policy of `model`, an SB3 or sb3-contrib algorithm.

    The model is as it was afterwards: parameters, buffers, train and eval flags, random generators, environments. The
    features extractor runs forward three times, on a black, a white and a noise observation.

    Args:
        model: built or loaded, trained or not.
        weights: that the network was loaded with, as a state_dict or a file; without them lost weights are recognised
            only by the mark of orthogonal initialisation.

    Returns:
        Findings, the worst first; none where the policy holds no backbone.

    Raises:
        RunError: no SB3 model; weights of another network, or no network to compare them with.
        EncoderError: the weights file is damaged.
    """
    policy = getattr(model, "policy", None)
    if not isinstance(model, BaseAlgorithm) or not isinstance(policy, BasePolicy):
        raise RunError(
            f"diagnose takes a Stable-Baselines3 model with a policy, and got {type(model).__name__}. "
            "Type, say: diagnose(PPO('CnnPolicy', env))."
        )
    references = None if weights is None else read_references(weights)
    backbones = probe.networks(policy)
    findings = [*_left_out(model, policy), *update_effects.rates_overwritten(policy)]
    if not backbones:
        if references is not None:
            raise RunError(
                "This policy holds no network with convolutions or attention that weights could be compared with. "
                "Leave weights out: diagnose(model)."
            )
        return findings
    with probe.untouched(policy, backbones):
        in_train_mode = probe.switched_to_train_mode(policy, backbones)
        forward = None
        try:
            forward = probe.forward_pass(policy, backbones[0])
        except Exception as error:  # whatever a stranger's forward raises
            findings.append(_not_run(backbones[0], error))
    case = Case(model, policy, backbones, forward, in_train_mode, references)
    findings += [finding for check in CHECKS for finding in check(case)]
    return sorted(findings, key=lambda finding: get_args(Severity).index(finding.severity))


def _left_out(model: BaseAlgorithm, policy: BasePolicy) -> Iterator[Finding]:
    """An encoder that is to learn, before the policy, while no extractor in the policy holds what learns of it."""
    venv = model.get_env()
    while isinstance(venv, VecEnvWrapper) and not isinstance(venv, EncodedVecEnv):
        venv = venv.venv
    if not isinstance(venv, EncodedVecEnv) or venv.encoder is None:
        return
    learning = sum(parameter.numel() for parameter in venv.encoder.learned.parameters())
    if learning and not extractors(policy):
        yield Finding(
            "encoder-left-out",
            "wrong",
            "policy",
            f"{learning:,} parameters of {venv.encoder.name} are to learn, and none of them is in the policy: it sees "
            "what comes before the cut, and the encoder never moves.",
            "policy_kwargs={'features_extractor_class': EncoderExtractor, 'features_extractor_kwargs': {'encoder': "
            "encoder}, 'normalize_images': False}, or build the encoder frozen.",
        )


def _not_run(network: probe.Network, error: Exception) -> Finding:
    return Finding(
        "not-run",
        "note",
        f"policy.{network.where}",
        f"The features extractor does not run on a black image of its observation space ({error}), so what reaches the "
        "network was not measured.",
        "Make forward accept a batch of one, and call diagnose again.",
    )
