"""Presets stand with the suites as data: algorithms take them, sources are named, and the card stars changes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import gymnasium as gym
import pytest

from stillsight.agents import RlConfig
from stillsight.agents.training.algorithms import ALGORITHMS, spec
from stillsight.agents.training.build import make_agent
from stillsight.agents.training.presets import preset
from stillsight.agents.training.settings import overrides, settings
from stillsight.agents.training.summary import card
from stillsight.encoders.building import build as build_encoder
from stillsight.envs.spec import Preset
from stillsight.envs.suites import SUITES
from stillsight.envs.suites.suite import EVERY

Tiny = Callable[..., RlConfig]
EACH = pytest.mark.parametrize(
    ("env", "algo", "known"),
    [
        pytest.param(env if env != EVERY else suite.rows[0].id, algo, known, id=f"{suite.name}-{env}-{algo}")
        for suite in SUITES
        for (env, algo), known in suite.presets.items()
    ],
)


@EACH
def test_an_algorithm_takes_what_its_preset_sets_and_the_source_is_named(env: str, algo: str, known: Preset) -> None:
    row = ALGORITHMS[algo]
    assert preset(env, algo) is known or preset(env, algo).source, "one for the id itself goes before that for all"
    assert known.settings.keys() <= inspect.signature(row.load_class()).parameters.keys()
    assert known.source
    assert known.frame_stack >= 1
    written = tuple(f"{name}={value!r}" for name, value in known.settings.items())
    assert overrides(written, "--set") == dict(known.settings), "as config.json has them"
    chosen = settings(row, env, {})
    assert {name: chosen[name] for name in known.settings} == dict(known.settings)


def test_published_numbers_are_those_of_their_sources() -> None:
    drq = preset("dm_control/cheetah-run-v0", "td3")
    # facebookresearch/drqv2, cfgs/config.yaml
    assert (drq.settings["n_steps"], drq.frame_stack) == (3, 3)
    assert (drq.settings["learning_rate"], drq.settings["batch_size"], drq.settings["tau"]) == (1e-4, 256, 0.01)
    assert (drq.settings["train_freq"], drq.settings["learning_starts"]) == (2, 2_000)
    # cfgs/task/walker_{stand,walk,run}.yaml and humanoid_*.yaml
    for task in ("stand", "walk", "run"):
        walker = preset(f"dm_control/walker-{task}-v0", "td3").settings
        assert walker == {**drq.settings, "n_steps": 1, "batch_size": 512}
        assert preset(f"dm_control/humanoid-{task}-v0", "td3").settings == {**drq.settings, "learning_rate": 8e-5}
    # denisyarats/drq, config.yaml
    sac = preset("dm_control/walker-walk-v0", "sac")
    assert (sac.settings["learning_rate"], sac.settings["batch_size"], sac.settings["tau"]) == (1e-3, 128, 0.01)
    assert (sac.settings["ent_coef"], sac.settings["learning_starts"], sac.frame_stack) == ("auto_0.1", 1_000, 3)
    assert "n_steps" not in sac.settings, "whose returns of several steps have no entropy in between"
    assert preset("dm_control/cheetah-run-v0", "tqc") is sac
    grid = preset("MiniGrid-DoorKey-5x5-v0", "ppo")
    # DLR-RM/rl-baselines3-zoo, hyperparams/ppo.yml
    assert (grid.n_envs, grid.settings["n_steps"], grid.settings["n_epochs"]) == (8, 128, 10)
    assert preset("MiniGrid-FourRooms-v0", "ppo").settings["n_steps"] == 512
    assert preset("BabyAI-GoToLocal-v0", "ppo") is grid
    swimmer = preset("Swimmer-v5", "ppo")
    assert (swimmer.n_envs, swimmer.settings["gamma"], swimmer.settings["n_steps"]) == (4, 0.9999, 1024)
    # hyperparams/sac.yml and dqn.yml
    assert preset("Swimmer-v5", "sac").settings == {"learning_starts": 10_000, "gamma": 0.9999}
    race = preset("CarRacing-v3", "sac")
    assert (race.n_envs, race.frame_stack, race.settings["learning_rate"], race.settings["tau"]) == (2, 2, 7.3e-4, 0.02)
    assert (race.settings["train_freq"], race.settings["gradient_steps"]) == (8, 10)
    assert preset("FetchReach-v4", "sac").settings["gamma"] == 0.95
    pole = preset("CartPole-v1", "dqn").settings
    assert (pole["learning_rate"], pole["train_freq"], pole["gradient_steps"]) == (2.3e-3, 256, 128)
    # Farama-Foundation/HighwayEnv, scripts/sb3_highway_dqn_cnn.py
    drive = preset("highway-fast-v0", "dqn").settings
    assert (drive["learning_rate"], drive["gamma"], drive["target_update_interval"]) == (5e-4, 0.8, 50)
    assert preset("ALE/Breakout-v5", "ppo") == Preset()
    assert preset("somewhere:ALE/Pong-v5", "ppo").settings["learning_rate"] == "lin_7e-4"


@pytest.mark.parametrize("env", ["Ant-v4", "HumanoidStandup-v5"])
def test_a_robot_without_a_row_has_the_settings_of_robots(env: str) -> None:
    """It sounds like no suite, and was trained with PPO's settings for Atari."""
    robot = preset(env, "ppo")
    assert (robot.n_envs, robot.settings["n_steps"], robot.settings["batch_size"]) == (1, 2048, 64)
    assert settings(ALGORITHMS["ppo"], env, {})["ent_coef"] == 0.0
    assert preset(env, "sac").settings == {"learning_starts": 10_000}


def test_an_environment_of_one_s_own_has_no_stranger_s_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run has the preset of what its module registered, not that of the MiniGrid that it sounds like."""
    (tmp_path / "my_grids.py").write_text(
        "import gymnasium as gym\ngym.register('MiniGrid-Mine-v0', 'gymnasium.envs.classic_control:CartPoleEnv')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    env = "my_grids:MiniGrid-Mine-v0"
    try:
        config = RlConfig(env=env, algo="ppo").resolved()
        assert overrides(config.set, "--set") == ALGORITHMS["ppo"].preset
        assert config.n_envs == ALGORITHMS["ppo"].n_envs
        assert preset(env, "ppo") == Preset()
    finally:
        gym.registry.pop("MiniGrid-Mine-v0", None)


def test_a_run_takes_environments_frames_and_settings_from_the_preset() -> None:
    config = RlConfig(env="CartPole-v1", algo="ppo").resolved()
    assert (config.n_envs, config.frame_stack) == (8, 4)
    assert overrides(config.set, "--set")["gae_lambda"] == 0.8
    assert RlConfig(env="CartPole-v1", algo="ppo", n_envs=2, frame_stack=1).resolved().n_envs == 2
    assert RlConfig(env="Pendulum-v1", algo="ppo").resolved().n_envs == 4


@pytest.mark.parametrize(
    ("algo", "told"),
    [
        ("ppo", "made for games of discrete actions; .* say: --n-envs 1 --set n_steps=2048 batch_size=64 n_epochs=10"),
        (
            "a2c",
            "Atari preset, with SB3's default rate and its default RMSprop.*, made for games of discrete",
        ),
        ("stable_baselines3:PPO", r"^the class's own defaults\. \*: changed by you$"),
    ],
)
def test_the_card_says_what_a_preset_is_not_made_for(
    tiny: Tiny, algo: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stillsight.agents.training.summary.preset", lambda *_: Preset())  # as of no suite
    known = tiny("a2c" if algo == "a2c" else "ppo", env="stillsight/OrchardContinuous-v0")
    config = replace(known, algo=algo).resolved()
    assert re.search(told, card(make_agent(config, build_encoder(config), n_envs=1))["preset"])


def test_the_card_stars_what_the_user_changed_and_nothing_else(tiny: Tiny) -> None:
    config = tiny("ppo", set=("n_epochs=2", "gamma=0.95"), n_envs=2, frame_skip=2).resolved()
    rows = card(make_agent(config, build_encoder(config), n_envs=2))
    told = rows["settings"].split(", ")
    usual = settings(spec("ppo"), "stillsight/Orchard-v0", {})
    assert "n_epochs=2*" in told
    assert "gamma=0.95" in told, "that is the preset's"
    assert f"learning_rate={usual['learning_rate']!r}" in told
    assert [word for word in told if word.startswith("n_envs=")] == ["n_envs=2*"]
    assert "frame_skip 2*" in rows["env"]
    assert rows["preset"] == (
        "tried here, for about 100,000 steps; on top of rl-baselines3-zoo's Atari preset. *: changed by you"
    )


@pytest.mark.parametrize(
    ("algo", "env", "packages", "kept", "changed", "source"),
    [
        (
            "sac",
            "dm_control/cartpole-swingup-v0",
            ("dm_control",),
            {"learning_rate": 1e-3, "tau": 0.01, "ent_coef": "auto_0.1"},
            {"learning_starts": 16, "buffer_size": 64},
            "DrQ's (Kostrikov et al. 2021) as its code has them: three frames, rate 1e-3, temperature from 0.1, tau "
            "0.01, batches of 128; on top of SB3's defaults (Haarnoja et al. 2018), both layers behind a head",
        ),
        (
            "dqn",
            "CartPole-v1",
            ("pygame",),
            {"learning_rate": 2.3e-3, "train_freq": 256, "gradient_steps": 128},
            {"learning_starts": 16, "buffer_size": 64},
            "rl-baselines3-zoo's preset, tuned on the state, for 50,000 steps; on top of rl-baselines3-zoo's Atari",
        ),
        (
            "ppo",
            "CartPole-v1",
            ("pygame",),
            {"gae_lambda": 0.8, "n_epochs": 20, "learning_rate": "lin_1e-3"},
            {"n_steps": 8, "batch_size": 8},
            "rl-baselines3-zoo's preset, tuned on the state; on top of rl-baselines3-zoo's Atari preset",
        ),
    ],
    ids=["sac", "dqn", "ppo"],
)
def test_a_preset_of_a_suite_is_taken_and_starred_where_the_user_changed_it(
    tiny: Tiny,
    algo: str,
    env: str,
    packages: tuple[str, ...],
    kept: dict[str, object],
    changed: dict[str, int],
    source: str,
) -> None:
    for package in packages:
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    typed = tuple(f"{name}={value}" for name, value in changed.items())
    config = tiny(algo, env=env, set=typed, n_envs=1, frame_stack=None).resolved()
    agent = make_agent(config, build_encoder(config), n_envs=1)
    rows = card(agent)
    told = rows["settings"].split(", ")
    for name, value in kept.items():
        assert f"{name}={value!r}" in told
    for name, value in changed.items():
        assert f"{name}={value}*" in told
    assert {word.partition("=")[0] for word in told if word.endswith("*")} <= {*changed, "n_envs"}
    assert rows["preset"].startswith(source)
    if algo == "sac":
        assert "net_arch=[256, 256]," in rows["settings"]
        assert agent.model.policy.net_arch == [256, 256]
        assert agent.model.log_ent_coef.exp().item() == pytest.approx(0.1)
        assert agent.model.lr_schedule(1.0) == 1e-3
        assert config.env_options().frame_skip == 2
        assert config.frame_stack == 3
    agent.venv.close()
