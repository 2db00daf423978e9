"""Names become environments, and slips become sentences."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray

from stillsight.envs import EnvError, EnvOptions, EnvSpec, make_env, make_vec, resolve
from stillsight.envs.suites.atari import OPTIONS as ATARI


def array(observation: object) -> NDArray[np.uint8]:
    """SB3 types an observation as array, dict or tuple; here it is always the first."""
    assert isinstance(observation, np.ndarray)
    return observation


def test_importing_the_package_costs_neither_torch_nor_gymnasium() -> None:
    heavy = "{'torch', 'gymnasium', 'numpy', 'cv2', 'stable_baselines3', 'ale_py', 'vizdoom', 'Box2D', 'pygame'}"
    code = "import sys, stillsight.envs as e; e.ROWS; e.SHIFTS; e.EnvOptions(shift='hue'); "
    code += f"print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_resolving_the_own_environment_needs_no_torch() -> None:
    code = "import sys, stillsight.envs as e; e.resolve('stillsight/Orchard-v0'); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_every_public_name_is_there_and_others_are_not() -> None:
    import stillsight.envs as envs

    for name in envs.__all__:
        assert getattr(envs, name) is not None
    assert set(dir(envs)) == set(envs.__all__)
    with pytest.raises(AttributeError, match="no attribute 'make_vex'"):
        envs.make_vex  # noqa: B018


def test_any_gymnasium_id_resolves_with_plain_options() -> None:
    assert resolve("MountainCar-v0") == EnvSpec(id="MountainCar-v0", options=EnvOptions())


def test_every_atari_game_gets_the_atari_defaults_by_any_name() -> None:
    pytest.importorskip("ale_py")
    for env_id in ("ALE/Pong-v5", "ALE/Tennis-v5", "ale_py:PongNoFrameskip-v4"):
        spec = resolve(env_id)
        assert (spec.id, spec.options, spec.actions) == (env_id, ATARI, "discrete")


def test_a_module_is_imported_before_its_id_is_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "import gymnasium as gym\ngym.register('Elsewhere-v3', 'gymnasium.envs.classic_control:CartPoleEnv')\n"
    (tmp_path / "my_elsewhere.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert resolve("my_elsewhere:Elsewhere-v3").id == "my_elsewhere:Elsewhere-v3"
    assert array(make_vec("my_elsewhere:Elsewhere-v3").reset()).shape == (1, 3, 400, 600), "its native size"
    with pytest.raises(EnvError, match=r"The module 'my_elsewhere' registers no 'Elsewere-v3'\. Did you mean 'Else"):
        resolve("my_elsewhere:Elsewere-v3")
    gym.registry.pop("Elsewhere-v3")


def test_an_import_that_fails_inside_a_users_module_is_shown_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_broken.py").write_text("import not_to_be_found_anywhere\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="not_to_be_found_anywhere"):
        resolve("my_broken:Broken-v0")


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [
        ("Pong-v5", "ALE/Pong-v5"),
        ("ALE/Breakuot-v5", "ALE/Breakout-v5"),
        ("carracing", "CarRacing-v3"),
        ("CarRacing-v2", "CarRacing-v3"),
        ("healthgathering", "VizdoomHealthGathering-v1"),
        ("VizdoomBasic-v0", "VizdoomBasic-v1"),
        ("orchard", "stillsight/Orchard-v0"),
        ("CartPole", "CartPole-v1"),
    ],
)
def test_an_unknown_id_names_the_nearest(typed: str, nearest: str) -> None:
    with pytest.raises(EnvError, match=f"No environment is called '{typed}'. Did you mean '{nearest}'\\?"):
        resolve(typed)


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("", "No environment is called ''"),
        (":Arm-v0", "':Arm-v0' has no module before its colon. Type module:Id"),
        ("json:", "'json:' has no id behind its colon. Type module:Id, say: --env json:"),
        ("json:CartPole-v9", "registers no 'CartPole-v9'. Did you mean 'CartPole-v1'. Type: --env json:CartPole-v1"),
        ("CartPole-v9", "No environment is called 'CartPole-v9'. Did you mean 'CartPole-v1'. Type: --env CartPole-v1"),
    ],
)
def test_a_slip_in_an_id_ends_in_what_to_type(typed: str, sentence: str) -> None:
    with pytest.raises(EnvError, match=sentence.replace("'. Type", r"'\? Type")):
        resolve(typed)


@pytest.mark.parametrize("typed", ["NetHackScore-v0", "MicroRTS-Select-v0", "procgen-coinrun-v0"])
def test_an_id_of_a_package_that_is_not_imported_is_not_taken_for_another_game(typed: str) -> None:
    pytest.importorskip("ale_py")
    with pytest.raises(EnvError, match=f"No environment is called '{typed}'. Any Gymnasium id works.*MODULE:{typed}"):
        resolve(typed)


def test_a_missing_mujoco_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.mujoco")]:
        monkeypatch.delitem(sys.modules, name)
    for env_id in ("Ant-v5", "Ant-v4"):  # the second has no row
        with pytest.raises(EnvError, match=rf'^{env_id} needs mujoco, .* pip install "stillsight\[mujoco\]"'):
            make_env(env_id)


def test_a_module_that_does_not_exist_is_a_sentence() -> None:
    with pytest.raises(EnvError, match="The module 'no_such_module' of 'no_such_module:My-v0' cannot be found"):
        resolve("no_such_module:My-v0")


@pytest.mark.parametrize(
    ("env_id", "module", "extra"),
    [
        ("ALE/Pong-v5", "ale_py", "atari"),
        ("ALE/Tennis-v5", "ale_py", "atari"),
        ("CarRacing-v3", "Box2D", "box2d"),
        ("CartPole-v1", "pygame", "box2d"),
        ("VizdoomBasic-v1", "vizdoom", "vizdoom"),
        ("VizdoomFreedoom1E1M1-S3-v0", "vizdoom", "vizdoom"),
    ],
)
def test_a_missing_extra_names_what_to_install(
    env_id: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # Python's way to forbid an import
    with pytest.raises(EnvError) as caught:
        resolve(env_id)
    assert env_id in str(caught.value)
    assert f'pip install "stillsight[{extra}]"' in str(caught.value)


def test_a_package_that_only_building_reveals_as_missing_is_a_sentence() -> None:
    def build(**_: object) -> gym.Env[object, object]:
        raise gym.error.DependencyNotInstalled("frobnicator is not installed")

    gym.register("Frob-v0", build)
    try:
        with pytest.raises(EnvError, match="Frob-v0 needs a package that cannot be imported: frobnicator"):
            make_vec("Frob-v0")
    finally:
        gym.registry.pop("Frob-v0")


def test_options_merge_keeps_what_is_not_asked_for() -> None:
    base = EnvOptions(size=64, frame_skip=4, clip_rewards=True, kwargs=(("a", 1), ("b", 2)))
    assert base.merge() == base
    merged = base.merge(size=0, clip_rewards=False, kwargs={"b": 3, "c": None})
    assert merged == EnvOptions(size=0, frame_skip=4, kwargs=(("a", 1), ("b", 3), ("c", None)))


def test_options_survive_json() -> None:
    import json

    options = EnvOptions(size=0, noop_max=3, terminal_on_life_loss=True, kwargs=(("mode", 1), ("name", "x")))
    record = json.loads(json.dumps(options.to_json()))
    assert record["kwargs"] == {"mode": 1, "name": "x"}
    assert EnvOptions(**{**record, "kwargs": tuple(record["kwargs"].items())}) == options
    assert len({options, options.merge()}) == 1, "hashable"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"size": 4}, "size 4 was asked for; the size is 8 to 1024 pixels, or 0"),
        ({"size": -1}, "size -1 was asked for"),
        ({"size": 2000}, "size 2000 was asked for"),
        ({"frame_skip": 0}, "frame skip of 0 was asked for"),
        ({"max_episode_steps": -5}, "max_episode_steps is -5"),
        ({"noop_max": -1}, "noop_max is -1"),
    ],
)
def test_options_out_of_range_are_sentences(wrong: dict[str, int], sentence: str) -> None:
    with pytest.raises(EnvError, match=sentence):
        EnvOptions().merge(**wrong)  # type: ignore[arg-type]


class Incomplete(gym.Env[NDArray[np.uint8], np.int64]):
    """Needs a picture that its package was built without."""

    observation_space = spaces.Box(0, 255, (20, 20, 3), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, object] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, object]]:
        super().reset(seed=seed, options=options)
        Path("/nowhere/patterns/maze.png").read_bytes()
        raise AssertionError("there is no such file")


def test_an_environment_whose_package_is_incomplete_is_one_sentence() -> None:
    gym.register("StillsightTestIncomplete-v0", Incomplete, disable_env_checker=True)
    try:
        with pytest.raises(EnvError) as caught:
            make_env("StillsightTestIncomplete-v0")
    finally:
        gym.registry.pop("StillsightTestIncomplete-v0")
    assert str(caught.value) == (
        "StillsightTestIncomplete-v0 cannot begin: it needs the file /nowhere/patterns/maze.png, which is not here. "
        "Its package should have brought it: install that anew, or take another id."
    )
