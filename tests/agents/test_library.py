"""What a library user may write: an encoder that is to learn must be in the policy, and names are taken as typed."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

from stillsight.agents import EncodedVecEnv, EncoderExtractor, RlConfig, diagnose
from stillsight.agents.errors import RunError
from stillsight.agents.features.extractor import canonical
from stillsight.encoders import EncoderConfig, EncoderError, Mode, build, fingerprint

ORCHARD = "stillsight.envs.orchard:stillsight/Orchard-v0"
SMALL: dict[str, Any] = {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "device": "cpu"}


def environments() -> VecEnv:
    return make_vec_env(ORCHARD, n_envs=1)


@pytest.mark.parametrize("unfreeze", ["all", "layer2"])
def test_an_encoder_that_no_policy_holds_is_a_warning_and_a_finding(unfreeze: str) -> None:
    encoder = build("retina", "finetune", tap="layer2", pooling="grid2", unfreeze=unfreeze, device="cpu")
    venv = EncodedVecEnv(environments(), encoder)
    model = PPO("MlpPolicy", venv, policy_kwargs={"normalize_images": False}, **SMALL)
    (finding,) = [finding for finding in diagnose(model) if finding.code == "encoder-left-out"]
    assert finding.severity == "wrong"
    assert f"{sum(p.numel() for p in encoder.learned.parameters()):,} parameters" in finding.found
    with pytest.warns(UserWarning, match="no policy holds what lies behind its cut"):
        model.learn(8)


def test_an_encoder_in_the_policy_learns_and_nothing_is_said() -> None:
    torch.manual_seed(0)
    encoder = build("retina", "finetune", tap="layer2", pooling="grid2", unfreeze="layer2", device="cpu")
    venv = EncodedVecEnv(environments(), encoder, frame_stack=2)
    eyes = {"features_extractor_class": EncoderExtractor, "features_extractor_kwargs": {"encoder": encoder}}
    model = PPO("MlpPolicy", venv, policy_kwargs={**eyes, "normalize_images": False}, **SMALL)
    assert not [finding for finding in diagnose(model) if finding.code == "encoder-left-out"]
    before = fingerprint(canonical(model.policy).learned.state())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.learn(16)
    assert fingerprint(canonical(model.policy).learned.state()) != before


def test_a_frozen_encoder_needs_no_place_in_the_policy() -> None:
    venv = EncodedVecEnv(environments(), build("retina", tap="layer2", pooling="grid2", device="cpu"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        observation = venv.reset()
    assert observation.dtype == np.float32


def test_pixels_where_features_are_expected_are_refused_and_the_other_way_round() -> None:
    encoder = build("retina", tap="layer2", pooling="grid2", device="cpu")
    pixels, features = EncodedVecEnv(environments()), EncodedVecEnv(environments(), encoder)
    with pytest.raises(RunError, match=r"takes what the frozen part of retina gives, .* observations are pixels"):
        EncoderExtractor(pixels.observation_space, encoder)  # type: ignore[arg-type]
    with pytest.raises(RunError, match=r"EncoderExtractor\(in_policy=True\) takes stacks of pixels, .* float32"):
        EncoderExtractor(features.observation_space, encoder, in_policy=True)  # type: ignore[arg-type]
    EncoderExtractor(pixels.observation_space, encoder, in_policy=True)  # type: ignore[arg-type]
    EncoderExtractor(features.observation_space, encoder)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["random", "frozen", "scratch", "finetune"])
def test_a_mode_may_be_written_as_text(mode: str) -> None:
    config = RlConfig(mode=mode)  # type: ignore[arg-type]
    assert config.mode is Mode(mode)
    config.check()


def test_a_mode_that_does_not_exist_is_a_sentence() -> None:
    with pytest.raises(EncoderError, match=r"no mode named 'frozn'\. Did you mean 'frozen'\?"):
        EncoderConfig(mode="frozn")  # type: ignore[arg-type]
