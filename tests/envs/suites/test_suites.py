"""Suites are entered in one list, told by their ids and by what Gymnasium makes them from, and named nowhere else."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from stillsight.envs import ROWS, EnvError, EnvOptions, EnvSpec, make_env, resolve
from stillsight.envs.orchard.orchard import Orchard
from stillsight.envs.registry import OTHER, guessed_from_name, ids, named, suite_of
from stillsight.envs.suites import SUITES, atari, classic, doom, orchard_suite, racing
from stillsight.envs.suites.suite import Suite

EACH = pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)


def prefixes(suite: Suite) -> tuple[str, ...]:
    return (suite.prefix,) if isinstance(suite.prefix, str) else suite.prefix or ()


def test_every_file_of_a_suite_is_entered(root: Path) -> None:
    files = {file.stem for file in (root / "envs/suites").glob("*.py") if "\nSUITE = " in file.read_text()}
    entered = {name for name in files if resolve_name(f"stillsight.envs.suites.{name}:SUITE") in SUITES}
    assert {"atari", "orchard_suite"} <= files == entered
    assert len(SUITES) == len(files)


def test_no_two_suites_have_a_row_in_common() -> None:
    assert set(Counter(row.id for suite in SUITES for row in suite.rows).values()) == {1}
    assert list(ROWS.values()) == [row for suite in SUITES for row in suite.rows]


@pytest.mark.parametrize("door", ["making", "registry", "vector", "workers"])
def test_the_doors_name_no_suite(root: Path, door: str) -> None:
    text = (root / f"envs/{door}.py").read_text().lower()
    names = {suite.name for suite in SUITES} | {row.id for row in ROWS.values()}
    names |= {prefix for suite in SUITES for prefix in prefixes(suite)}
    names |= {need for row in ROWS.values() for need in row.needs}
    assert {"Atari", "ALE/", "Box2D", "CartPole-v1"} <= names
    assert [name for name in names if name.lower() in text] == []


@EACH
def test_rows_need_what_their_suite_needs_and_are_told_by_their_ids(suite: Suite) -> None:
    assert suite.rows or suite.entry_point, "it covers something"
    for row in suite.rows:
        assert (row.extra, row.needs) == (suite.default.extra, suite.default.needs)
        assert suite.covers(row.id)
        assert suite.spec(row.id) is row
        assert guessed_from_name(row.id) is guessed_from_name(f"my_module:{row.id}") is suite
        assert [other for other in SUITES if other.covers(row.id)] == [suite]
        assert suite.prefix is None or row.id.startswith(prefixes(suite))
    assert (suite.default.id, suite.default.summary) == ("", "")


@EACH
def test_all_that_a_suite_names_can_be_loaded(suite: Suite) -> None:
    if not suite.installed:
        pytest.skip(f"{suite.name} needs the extra {suite.default.extra}")
    for name in (suite.wrapping, suite.replacement, *suite.natives.values()):
        assert name is None or callable(resolve_name(name))
    vec_env = suite.native_class()
    assert (vec_env is None) == (not suite.natives)
    if vec_env is not None:
        assert "is no " in (vec_env.objection("CartPole-v1", EnvOptions(), training=True) or "")


@pytest.mark.parametrize(
    ("env_id", "suite", "options"),
    [
        ("ALE/Tennis-v5", atari.SUITE, atari.OPTIONS),
        ("VizdoomFreedoom1E1M1-S3-v0", doom.SUITE, doom.OPTIONS),
        ("stillsight/Orchard-v7", orchard_suite.SUITE, EnvOptions(size=0)),
        ("CarRacing-v9", OTHER, EnvOptions()),
        ("MountainCar-v0", OTHER, EnvOptions()),
    ],
)
def test_an_id_without_a_row_is_guessed_to_be_of_the_suite_that_it_sounds_like(
    env_id: str, suite: Suite, options: EnvOptions
) -> None:
    assert guessed_from_name(f"somewhere:{env_id}") is suite
    assert suite.spec(env_id) == EnvSpec(
        id=env_id,
        actions=suite.default.actions,
        extra=suite.default.extra,
        needs=suite.default.needs,
        options=options,
    )


@pytest.mark.parametrize(
    ("env_id", "suite"),
    [
        ("stillsight/Orchard-v0", orchard_suite.SUITE),
        ("ALE/Pong-v5", atari.SUITE),
        ("Pong-v4", atari.SUITE),
        ("VizdoomBasic-v1", doom.SUITE),
        ("CarRacing-v3", racing.SUITE),
        ("gymnasium.envs.box2d:CarRacing-v3", racing.SUITE),
        ("CartPole-v1", classic.SUITE),
        ("MountainCar-v0", OTHER),
    ],
)
def test_a_registered_id_is_of_the_suite_that_makes_it(env_id: str, suite: Suite) -> None:
    if not suite.installed:
        pytest.skip(f"{suite.name} needs the extra {suite.default.extra}")
    resolve(env_id)
    assert suite_of(env_id) is suite


@pytest.mark.parametrize(
    ("entry_point", "suite"),
    [
        ("ale_py.env:AtariEnv", atari.SUITE),
        ("ale_python:Env", OTHER),
        ("gymnasium.envs.box2d.car_racing:CarRacing", racing.SUITE),
        ("gymnasium.envs.box2d.car_racing:CarRacingOfMine", OTHER),
        ("gymnasium.envs.classic_control.cartpole:CartPoleEnv", OTHER),
    ],
)
def test_an_id_of_somebody_s_own_is_told_by_its_entry_point(
    entry_point: str, suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not suite.installed:
        pytest.skip(f"{suite.name} needs the extra {suite.default.extra}")
    monkeypatch.setitem(gym.registry, "Mine-v0", gym.envs.registration.EnvSpec("Mine-v0", entry_point))
    assert suite_of("Mine-v0") is suite
    assert resolve("Mine-v0").options == suite.default.options


class Odd(gym.Env[Any, Any]):
    """Takes arguments by names that ale-py and vizdoom have, too."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space = gym.spaces.Box(0, 255, (20, 20, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None, obs_type: str = "state", frameskip: int = 1) -> None:
        self.render_mode, self.obs_type, self.frameskip = render_mode, obs_type, frameskip

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        return np.zeros((20, 20, 3), np.uint8), {}


@pytest.mark.parametrize("entry_point", ["somewhere.mine:Odd", Odd], ids=["named", "class"])
@pytest.mark.parametrize("env_id", ["MiniGrid-Mine-v0", "FetchBall-v0", "ALE/Mine-v5", "parking-v0"])
def test_an_environment_of_one_s_own_is_of_no_suite_for_sounding_like_it(
    env_id: str, entry_point: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was refused for want of a package that it does not use, or shown with the options of a row of the same id."""
    sounds_like = guessed_from_name(env_id)
    for module in sounds_like.default.needs:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(gym.registry, env_id, gym.envs.registration.EnvSpec(env_id, entry_point))
    assert sounds_like is not OTHER
    assert suite_of(env_id) is suite_of(f"json:{env_id}") is OTHER
    assert resolve(f"json:{env_id}") == EnvSpec(id=f"json:{env_id}")


class Grove(Orchard):
    """An environment of one's own that is built on a suite's."""


@pytest.mark.parametrize(("made_from", "suite"), [(Orchard, orchard_suite.SUITE), (Grove, OTHER)])
def test_a_class_that_was_registered_itself_is_of_the_suite_that_it_is_from(
    made_from: type[Orchard], suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gym.registry, "Mine-v0", gym.envs.registration.EnvSpec("Mine-v0", made_from))
    assert suite_of("Mine-v0") is suite
    assert ("Mine-v0" in ids(orchard_suite.SUITE)) is (suite is orchard_suite.SUITE)


def test_an_id_that_nobody_registered_yet_is_of_the_suite_that_it_sounds_like() -> None:
    assert "MiniGrid-Nowhere-v0" not in gym.registry
    assert suite_of("somewhere:MiniGrid-Nowhere-v0") is named("minigrid")


def test_arguments_that_one_suite_reserves_are_free_elsewhere() -> None:
    gym.register("StillsightTestOdd-v0", Odd, disable_env_checker=True)
    try:
        env = make_env("StillsightTestOdd-v0", EnvOptions(kwargs=(("obs_type", "pixels"), ("frameskip", 3))))
        odd = env.unwrapped
        assert isinstance(odd, Odd)
        assert (odd.obs_type, odd.frameskip, odd.render_mode) == ("pixels", 3, "rgb_array")
        with pytest.raises(EnvError, match="'render_mode' is set by stillsight"):
            make_env("StillsightTestOdd-v0", EnvOptions(kwargs=(("render_mode", "human"),)))
    finally:
        gym.registry.pop("StillsightTestOdd-v0")


@pytest.mark.parametrize(
    "options", [EnvOptions(noop_max=3), EnvOptions(terminal_on_life_loss=True)], ids=["noop", "life"]
)
def test_options_of_one_suite_are_refused_elsewhere_with_what_to_leave(options: EnvOptions) -> None:
    with pytest.raises(EnvError) as caught:
        make_env("stillsight/Orchard-v0", options)
    assert str(caught.value) == (
        "stillsight/Orchard-v0 is no Atari game, and only those have noop_max and terminal_on_life_loss. "
        "Leave noop_max at 0 and terminal_on_life_loss at False."
    )


def test_a_suite_s_package_is_imported_only_for_its_own_ids() -> None:
    modules = ("ale_py", "vizdoom", "Box2D", "pygame", "torch", "stillsight.envs.orchard")
    code = f"import sys, stillsight.envs as e; e.resolve('MountainCar-v0'); print({modules} & sys.modules.keys())"
    code = code.replace(f"{modules}", f"set({modules})")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"


def test_a_package_that_is_absent_does_not_hinder_other_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("ale_py", "vizdoom"):
        monkeypatch.setitem(sys.modules, module, None)
    assert find_spec("ale_py") is None
    assert resolve("stillsight/Orchard-v0").actions == "discrete"
    with pytest.raises(EnvError, match=r"No environment is called 'Pong-v3'\. Did you mean 'ALE/Pong-v5'"):
        resolve("Pong-v3")


@pytest.mark.parametrize("suite", [suite for suite in SUITES if suite.default.needs], ids=lambda suite: suite.name)
def test_a_missing_extra_is_one_sentence_that_names_it(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in suite.default.needs:
        monkeypatch.setitem(sys.modules, module, None)
    needs = " and ".join(suite.default.needs)
    with pytest.raises(EnvError) as caught:
        make_env(suite.rows[0].id)
    assert str(caught.value) == (
        f'{suite.rows[0].id} needs {needs}, not found here. Run: pip install "stillsight[{suite.default.extra}]"'
    )


BROKEN = {
    "it lacks a library": (
        'raise ImportError("libGL.so.1: cannot open shared object file")',
        "ImportError: libGL.so.1",
    ),
    "it meets another version": (
        "import json; json.nothing",
        "AttributeError: module 'json' has no attribute 'nothing'",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_package_that_is_here_and_broken_is_one_sentence_for_its_own_ids_alone(how: str, tmp_path: Path) -> None:
    code, reason = BROKEN[how]
    (tmp_path / "highway_env").mkdir()
    (tmp_path / "highway_env/__init__.py").write_text(code)
    asked = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from stillsight.envs import EnvError, resolve\n"
        "from stillsight.envs.registry import ids, named\n"
        "def told(ask, word):\n"
        "    try: ask(word)\n"
        "    except EnvError as error: print(error)\n"
        "told(resolve, 'highway-fast-v0'); told(resolve, 'lane-keeping-v9'); told(ids, named('highway'))\n"
    )
    lines = subprocess.run(
        [sys.executable, "-c", asked, str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"highway-fast-v0 cannot be used: highway_env is here and does not load ({reason}")
    assert lines[0].endswith('install it anew: pip install --force-reinstall "stillsight[highway]"')
    assert lines[1].startswith("No environment is called 'lane-keeping-v9'.")
    assert lines[2].startswith("highway-env's ids cannot be used: highway_env is here and does not load")


@pytest.mark.parametrize(
    ("env_id", "near"),
    [
        ("dm_control/cartpole-swingupp-v0", "dm_control/cartpole-swingup-v0"),
        ("MiniGrid-DorKey-5x5-v0", "MiniGrid-DoorKey-5x5-v0"),
        ("BabyAI-GoToRedBal-v0", "BabyAI-GoToRedBall-v0"),
        ("CrafterRewards-v1", "CrafterReward-v1"),
        ("FetchReech-v4", "FetchReach-v4"),
        ("MiniWorld-OneRom-v0", "MiniWorld-OneRoom-v0"),
        ("retro/Airstrike-Genesis-v0", "retro/Airstriker-Genesis-v0"),
        ("highway-fst-v0", "highway-fast-v0"),
        ("metaworld/reech-v3", "metaworld/reach-v3"),
        ("HalfCheeta-v5", "HalfCheetah-v5"),
        ("ALE/Pnog-v5", "ALE/Pong-v5"),
        ("VizdoomBasik-v1", "VizdoomBasic-v1"),
        ("CarRacingg-v3", "CarRacing-v3"),
    ],
)
def test_an_unknown_id_of_a_suite_is_one_sentence_with_the_nearest_that_there_is(env_id: str, near: str) -> None:
    suite = guessed_from_name(near)
    if not suite.installed:
        pytest.skip(f"{suite.name} needs the extra {suite.default.extra}")
    with pytest.raises(EnvError, match=re.escape(f"No environment is called {env_id!r}. Did you mean '{near}'")):
        resolve(env_id)


def test_extras_of_suites_are_those_of_the_distribution(root: Path) -> None:
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    known = {suite.default.extra for suite in SUITES} - {None}
    assert known <= extras.keys()
    gathered = set(extras["suites"][0].partition("[")[2].rstrip("]").split(","))
    assert known - gathered == {"atari", "box2d", "vizdoom", "metaworld"}, "metaworld's MuJoCo excludes that of dmc"
    assert gathered <= known


@EACH
def test_arguments_that_a_stranger_s_run_may_set_name_no_file(suite: Suite) -> None:
    for name, kind in suite.harmless.items():
        assert name not in suite.reserved
        value = {bool: True, int: 3, float: 0.5}.get(kind) if isinstance(kind, type) else None  # type: ignore[call-overload]
        assert value is None or suite.takes_unasked(name, value)
        assert not suite.takes_unasked(name, "/etc/passwd")
    assert not suite.takes_unasked("file_of_mine", "x")


@pytest.mark.parametrize(
    ("word", "suite"),
    [
        ("atari", "Atari"),
        ("ALE", "Atari"),
        ("dmc", "DeepMind Control"),
        ("dm_control", "DeepMind Control"),
        ("BabyAI", "MiniGrid"),
        ("robotics", "Gymnasium-Robotics"),
        ("classic-control", "classic control"),
        ("retro", "stable-retro"),
    ],
)
def test_suites_go_by_name_extra_or_prefix(word: str, suite: str) -> None:
    assert named(word).name == suite


def test_an_unknown_suite_is_one_sentence() -> None:
    with pytest.raises(EnvError, match=r"^No suite is called 'atary'\. Did you mean 'atari'\? Suites: orchard, "):
        named("atary")


def test_ids_of_a_suite_are_all_that_it_makes() -> None:
    assert ids(orchard_suite.SUITE) == ["stillsight/Orchard-v0", "stillsight/OrchardContinuous-v0"]
    pytest.importorskip("ale_py")
    known = ids(atari.SUITE)
    assert {"ALE/Pong-v5", "ALE/Tennis-v5", "Pong-v4"} <= set(known)
    assert "CartPole-v1" not in known
