"""Features whose differences float16 rounds away are refused before a replay memory keeps them so."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stillsight.agents import RlConfig, rl
from stillsight.agents.errors import RunError
from stillsight.agents.features import standardise
from stillsight.agents.features.extractor import canonical
from stillsight.agents.features.standardise import COARSEST, FLOOR, Standardise, Statistics, gather_statistics
from stillsight.agents.training.build import make_agent
from stillsight.agents.training.seeds import STANDARDISE, env_seed
from stillsight.encoders.building import build
from stillsight.envs import make_vec

Tiny = Callable[..., RlConfig]
ENCODER = """
import torch
from torch import nn
from stillsight.encoders import Backbone, Preprocessing


class Moved(nn.Module):
    def __init__(self, scale, offset):
        super().__init__()
        self.scale, self.offset = scale, offset

    def forward(self, maps):
        return maps * self.scale + self.offset


def made(scale, offset):
    torch.manual_seed(0)
    low = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), Moved(scale, offset))
    model = nn.Sequential(low, nn.Conv2d(8, 8, 1))
    return Backbone(model=model, stages={"low": low, "high": model[1]}, preprocessing=Preprocessing(), tap="low")


def usual():
    return made(1.0, 0.0)


def small():
    return made(1e-6, 0.0)


def far():
    return made(1.0, 1000.0)
"""


@pytest.fixture
def mine(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """`tiny` with an encoder of one's own: `usual`, one of features near 1e-6, or one of features near 1,000."""
    (tmp_path / "moved_eyes.py").write_text(ENCODER)
    monkeypatch.syspath_prepend(tmp_path)

    def make(name: str, algo: str, **changes: object) -> RlConfig:
        taps = {"mode": "random", "encoder": f"moved_eyes:{name}", "tap": "low"}
        return tiny(algo, **{**taps, "standardise": 24, **changes})

    return make


@pytest.mark.parametrize(
    ("name", "algo", "dtype", "refused"),
    [
        ("usual", "dqn", "float16", False),
        ("small", "dqn", "float16", True),
        ("far", "dqn", "float16", True),
        ("far", "sac", "float16", True),
        ("small", "dqn", "float32", False),
        ("far", "dqn", "float32", False),
        ("far", "ppo", "float16", False),
    ],
)
def test_features_that_float16_rounds_away_are_refused(
    mine: Tiny, tmp_path: Path, name: str, algo: str, dtype: str, refused: bool
) -> None:
    """The failure it prevents: a policy that learns from features which say next to nothing, without a word."""
    config = mine(name, algo, replay_dtype=dtype, out=tmp_path / "run")
    if refused:
        advice = r"rounding is [\d.]+% of what they vary by .*: allowed are 10%\..* Type --replay-dtype float32"
        with pytest.raises(RunError, match=advice):
            rl(config)
        assert not (tmp_path / "run").exists()
        return
    resolved = config.resolved()
    agent = make_agent(resolved, build(resolved, pinned=True), n_envs=resolved.n_envs or 1)
    agent.venv.close()


def test_a_run_of_before_that_was_refused_goes_on(mine: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--resume` takes no other --replay-dtype: what is refused there could never go on."""
    with monkeypatch.context() as patch:
        patch.setattr(standardise, "COARSEST", 1.0)
        rl(mine("far", "dqn", replay_dtype="float16", out=tmp_path / "run"))
    longer = rl(RlConfig(resume=tmp_path / "run", steps=192, trust=("moved_eyes:far",)))
    assert longer["env_steps"] == 192


def test_pixels_are_kept_as_they_are_whatever_becomes_of_them(mine: Tiny) -> None:
    config = mine("far", "dqn", in_policy=True, replay_dtype="float16").resolved()
    make_agent(config, build(config, pinned=True), n_envs=2).venv.close()


@pytest.mark.parametrize("name", ["usual", "small", "far"])
def test_the_rounding_is_that_of_what_replay_memory_keeps_and_moves_no_number(mine: Tiny, name: str) -> None:
    config = mine(name, "dqn", replay_dtype="float32").resolved()
    encoder = build(config, pinned=True)
    agent = make_agent(config, encoder, n_envs=2)
    learned, seed = canonical(agent.model.policy).learned, env_seed(config.seed + STANDARDISE)
    looks = [
        gather_statistics(
            make_vec(config.env, 2, seed=seed, options=config.env_options()), encoder, learned, 24, half=half
        )
        for half in (False, True)
    ]
    plain, half = looks
    assert plain.rounding is None
    assert plain.features is not None
    assert half.features is not None
    assert torch.equal(plain.features.mean, half.features.mean)
    assert torch.equal(plain.features.std, half.features.std)
    assert half.rounding is not None
    # float16 has eleven binary digits, down to 2 ** -24 = 6e-8: the error lies evenly within half a place.
    typical = {"usual": 1e-4, "small": 2.0**-24 / 12**0.5, "far": 0.5 / 12**0.5}[name]
    assert half.rounding.square().mean().sqrt().item() == pytest.approx(typical, rel=0.6)
    agent.venv.close()


def rounded(std: list[float], rounding: list[float], mean: float = 1.0) -> None:
    """Let a standardisation by these deviations look at what float16 would change."""
    statistics = Statistics(torch.full((len(std),), mean), torch.tensor(std))
    module = Standardise(len(std))
    module.take(statistics)
    module.check_rounding(statistics, torch.tensor(rounding))


def test_what_counts_is_the_mean_square_over_the_features_that_vary() -> None:
    just, beyond = 0.99 * COARSEST, 1.01 * COARSEST
    rounded([2.0, 2.0], [2.0 * just, 2.0 * just])
    with pytest.raises(RunError, match=r"is 10.1% of what they vary by"):
        rounded([2.0, 2.0], [2.0 * beyond, 2.0 * beyond])
    rounded([2.0] * 4, [2.0 * 1.9 * COARSEST, 0.0, 0.0, 0.0])
    with pytest.raises(RunError, match=r"is 10.5% of what they vary by"):
        rounded([2.0] * 4, [2.0 * 2.1 * COARSEST, 0.0, 0.0, 0.0])


def test_features_that_do_not_vary_do_not_count() -> None:
    rounded([0.0, 0.0], [5.0, 5.0])
    rounded([2.0, 0.0, 0.0], [0.01, 5.0, 5.0])
    rounded([2.0, 1e-4], [0.01, 5.0], mean=1000.0)  # by what float32 does to a sum
    with pytest.raises(RunError, match=r"is 13% of"):
        # Beside a constant, which must not hide what is lost of the rest.
        rounded([2.0, 0.0], [2.0 * 1.3 * COARSEST, 0.0])


def test_a_feature_that_hardly_varies_beside_others_counts_as_the_policy_sees_it() -> None:
    share = FLOOR * (2.0 + 0.01) / 2  # by which it is divided
    rounded([2.0, 0.01], [0.0, 1.3 * COARSEST * share])
    with pytest.raises(RunError, match=r"is 10.[56]\d*% of"):
        rounded([2.0, 0.01], [0.0, 1.5 * COARSEST * share])


def test_a_feature_that_is_lost_is_not_lost_more_than_once() -> None:
    rounded([1.0] * 200, [1e6, *[0.0] * 199])
    with pytest.raises(RunError, match=re.escape("is 14.1% of")):
        rounded([1.0] * 200, [float("nan"), float("inf"), 1e6, 1.0, *[0.0] * 196])
