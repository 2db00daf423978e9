"""Crafter, highway-env, Gymnasium-Robotics, MiniWorld, stable-retro and Meta-World against their own packages."""

from __future__ import annotations

import gc
import hashlib
import math
import os
import subprocess
import sys
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from stillsight.envs import EnvError, EnvOptions, make_env, make_vec, resolve
from stillsight.envs.adapters import metaworld_task
from stillsight.envs.adapters.highway_rules import OwnRules
from stillsight.envs.adapters.metaworld_task import hangs
from stillsight.envs.suites import miniworld
from stillsight.envs.suites.crafter import arguments as crafter_arguments
from stillsight.envs.suites.highway import remember_rules, rules_of
from stillsight.envs.vector import WorkerVecEnv
from stillsight.envs.workers import workers_pay

CRAFTER, HIGHWAY, RETRO = "CrafterReward-v1", "highway-fast-v0", "retro/Airstriker-Genesis-v0"


def need(*packages: str) -> None:
    """Skip without them; they are not imported, which must wait until it was chosen what draws."""
    if missing := [package for package in packages if find_spec(package) is None]:
        pytest.skip(f"{', '.join(missing)} is not installed")


def shows(frames: list[Any]) -> None:
    """Pictures that are compared with others must not be equal for being blank, or the same all along."""
    assert all(frame.std() > 1.0 for frame in frames), "blank"
    assert any((frame != frames[0]).any() for frame in frames), "nothing moves"


def test_crafter_steps_as_its_package_does() -> None:
    crafter = pytest.importorskip("crafter")
    env = make_env(CRAFTER, training=False)
    frame, _ = env.reset(seed=4)
    seed = env.unwrapped._game._seed
    own = crafter.Env(seed=seed)
    np.testing.assert_array_equal(frame, own.reset().transpose(2, 0, 1))
    random = np.random.default_rng(0)
    frames = [frame]
    for _ in range(9):  # before its creatures are counted, in an order that is memory's
        action = int(random.integers(17))
        frame, reward, terminated, truncated, info = env.step(np.asarray(action))
        frames.append(frame)
        picture, expected, done, own_info = own.step(action)
        np.testing.assert_array_equal(frame, picture.transpose(2, 0, 1))
        assert (reward, terminated or truncated) == (expected, done)
        assert info["achievements"] == own_info["achievements"]
    shows(frames)
    assert env.render().shape == (256, 256, 3)


def test_crafter_draws_what_counts_as_an_image_at_any_size() -> None:
    assert crafter_arguments(CRAFTER, EnvOptions(size=8)) == {"size": 16}
    assert crafter_arguments(CRAFTER, EnvOptions(size=64)) == {"size": 64}


def test_crafter_tells_death_from_the_end_of_its_clock() -> None:
    need("crafter")
    env: Any = gym.make(make_env(CRAFTER).spec.id, length=2, disable_env_checker=True).unwrapped
    env.reset(seed=0)
    assert env.step(0)[2:4] == (False, False)
    assert env.step(0)[2:4] == (False, True)
    env.reset()
    env._game._player.health = 0
    assert env.step(0)[2:4] == (True, False)


CREATURES = """
import hashlib, numpy as np
junk = [object() for _ in range({junk})]
from stillsight.envs import make_env
env = make_env("CrafterReward-v1")
digest = hashlib.sha256(env.reset(seed=1)[0].tobytes())
for step in range(250):
    frame, _, over, cut, _ = env.step(np.asarray(step * 7 % 5))
    digest.update(frame.tobytes())
    if over or cut:
        break
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_crafter_plays_one_game_for_a_seed_wherever_its_creatures_lie_in_memory() -> None:
    need("crafter")
    told = {
        subprocess.run(
            [sys.executable, "-c", CREATURES.replace("{junk}", str(junk))],
            env={**os.environ, "PYTHONHASHSEED": str(junk)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for junk in (1, 5_001, 77_777)
    }
    assert len(told) == 1
    assert len(told.pop().strip()) == hashlib.sha256().digest_size * 2


@pytest.mark.parametrize("env_id", [HIGHWAY, pytest.param("racetrack-v1", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_highway_draws_and_steps_as_its_package_does_with_that_config(env_id: str) -> None:
    need("highway_env")
    env = make_env(env_id, training=False)
    config = {**dict(resolve(env_id).options.kwargs), "offscreen_rendering": True}
    own = gym.make(env_id, config=config, render_mode="rgb_array", disable_env_checker=True)
    frame, _ = env.reset(seed=2)
    own.reset(seed=2)
    own.action_space.seed(0)
    frames = []
    for _ in range(4):
        picture: Any = own.render()
        np.testing.assert_array_equal(frame, picture.transpose(2, 0, 1))
        frames.append(frame)
        action = own.action_space.sample()
        frame, *step = env.step(action)
        _, *expected = own.step(action)
        assert step[:3] == expected[:3]
    shows(frames)


def test_highway_is_refused_where_pygame_draws_nothing_and_would_be_black(monkeypatch: pytest.MonkeyPatch) -> None:
    need("highway_env")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    with pytest.raises(EnvError) as caught:
        make_env(HIGHWAY)
    assert str(caught.value) == (
        f"{HIGHWAY} would be black: SDL_VIDEODRIVER is dummy, by which highway-env draws nothing. Type: export "
        "SDL_VIDEODRIVER=offscreen"
    )


def test_settings_of_highway_are_those_of_its_config() -> None:
    need("highway_env")
    env = make_env(HIGHWAY, resolve(HIGHWAY).options.merge(kwargs={"vehicles_count": 3}))
    assert env.get_wrapper_attr("config")["vehicles_count"] == 3
    assert env.observation_space.shape == (3, 64, 128)
    with pytest.raises(EnvError) as caught:
        make_env(HIGHWAY, EnvOptions(kwargs=(("vehicle_count", 3),)))
    assert str(caught.value).startswith(
        f"{HIGHWAY} has no setting 'vehicle_count'. Did you mean 'vehicles_count'? Settings are those of"
    )


def test_a_time_limit_takes_the_place_of_a_roads_own_clock() -> None:
    need("highway_env")
    options = resolve("parking-v0").options.merge(max_episode_steps=7, kwargs={"vehicles_count": 0})
    assert make_env("parking-v0", options).get_wrapper_attr("config")["duration"] == math.inf
    timed = options.merge(kwargs={"duration": 1})  # of which one was asked for
    env = make_env("parking-v0", timed)
    env.reset(seed=0)
    assert [env.step(np.zeros(2, np.float32))[3] for _ in range(5)] == [False] * 4 + [True]


def test_no_time_limit_goes_beyond_the_clock_by_which_miniworld_pays() -> None:
    world = SimpleNamespace(max_episode_steps=180)
    with pytest.raises(EnvError) as caught:
        miniworld.play_on("MiniWorld-OneRoom-v0", world, 1_000)
    assert str(caught.value) == (
        "MiniWorld-OneRoom-v0 ends an episode itself after 180 steps, by which it counts its rewards too, and 1,000 "
        "were asked for. Ask for no more than its own, or for none: --max-episode-steps 0"
    )
    miniworld.play_on("MiniWorld-OneRoom-v0", world, 180)
    assert world.max_episode_steps == 180


@pytest.mark.slow
def test_a_time_limit_takes_the_place_of_an_arms_own_clock() -> None:
    need("metaworld")
    reach = "metaworld/reach-v3"
    blind = resolve(reach).options.merge(max_episode_steps=255, pixels=("off",), state=("on",))
    env = make_env(reach, blind)
    env.reset(seed=0)
    ends = [env.step(np.zeros(4, np.float32))[2:4] for _ in range(255)]  # of two of its steps; it has 500
    assert ends == [(False, False)] * 254 + [(False, True)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env_id", "package"),
    [
        ("FetchReach-v4", "gymnasium_robotics"),
        ("PointMaze_UMaze-v3", "gymnasium_robotics"),
        ("HalfCheetah-v5", "mujoco"),
        ("Reacher-v5", "mujoco"),
    ],
)
def test_robots_are_drawn_and_step_as_their_package_has_them(env_id: str, package: str) -> None:
    need(package)
    env = make_env(env_id, training=False)
    view = {"camera_name": "track"} if package == "mujoco" else {}
    own = gym.make(env_id, render_mode="rgb_array", width=84, height=84, disable_env_checker=True, **view)
    own.reset(seed=0)
    own.render()  # Gymnasium fixes its free camera by where things are at the first picture
    frame, _ = env.reset(seed=2)
    own.reset(seed=2)
    own.action_space.seed(0)
    frames = []
    for _ in range(3):
        picture: Any = own.render()
        np.testing.assert_array_equal(frame, picture.transpose(2, 0, 1))
        frames.append(frame)
        action = own.action_space.sample()
        frame, *step = env.step(action)
        _, *expected = own.step(action)
        assert step[:3] == expected[:3]
    shows(frames)
    env.close()
    own.close()


@pytest.mark.slow
@pytest.mark.parametrize("robot", ["HalfCheetah", "Hopper", "Walker2d", "Ant", "Swimmer", "Humanoid"])
def test_a_robot_that_walks_stays_in_its_picture(robot: str) -> None:
    """The failure it prevents: the camera stays where the robot was, and an agent that has learned to run is blind."""
    need("mujoco")
    env = make_env(f"{robot}-v5", training=False)
    env.reset(seed=1)
    bare: Any = env.unwrapped
    model, shown = bare.model, []
    robots = model.geom_bodyid > 0
    for place in (0.0, 10.0):
        where = bare.data.qpos.copy()
        where[0] = place
        bare.set_state(where, bare.data.qvel.copy())
        picture = bare.render().astype(int)
        looks = model.geom_matid.copy(), model.geom_rgba.copy()
        model.geom_matid[robots], model.geom_rgba[robots, 3] = -1, 0.0
        shown.append(int((bare.render() != picture).any(2).sum()))
        model.geom_matid[:], model.geom_rgba[:] = looks
    env.close()
    assert shown[0] > 50, "pixels in which it is"
    assert shown[1] > shown[0] / 2


def hung(up: float, body: int = 0, camera: int = 0) -> bool:
    """Whether a camera counts as hanging whose own upward direction has that height."""
    matrix = np.eye(3)
    matrix[2, 1] = up
    return hangs(
        SimpleNamespace(
            mujoco_renderer=SimpleNamespace(camera_id=camera),
            model=SimpleNamespace(cam_bodyid=np.array([body])),
            data=SimpleNamespace(cam_xmat=np.array([matrix.ravel()])),
        )
    )


def test_what_a_camera_shows_that_hangs_upside_down_is_turned() -> None:
    assert hung(-0.87), "Meta-World's corner2"
    assert not hung(0.9)
    assert not hung(-0.01), "it looks straight down"
    assert not hung(-0.87, body=3), "a hand's, which turns as it goes"
    assert not hung(-0.87, camera=-1), "one that is in no model"
    bare = SimpleNamespace(render=lambda: np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
    for turned in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(metaworld_task, "hangs", lambda _, turned=turned: turned)
            task = metaworld_task.MetaWorldTask.__new__(metaworld_task.MetaWorldTask)
            task.env = SimpleNamespace(render=bare.render, unwrapped=None)  # type: ignore[assignment]
            picture = task.render()
        assert picture[..., 0].tolist() == ([[9, 6], [3, 0]] if turned else [[0, 3], [6, 9]])


@pytest.mark.slow
def test_a_game_of_crafters_that_is_filmed_is_the_same_game() -> None:
    """The failure it prevents: from the first night on a film shows another episode than evaluations played."""
    need("crafter")
    played = []
    for filmed in (False, True):
        env = make_env(CRAFTER, training=False)
        frames = [env.reset(seed=1)[0]]
        for step in range(250):
            frame, _, over, cut, _ = env.step(np.asarray(step * 7 % 5))
            frames.append(frame)
            if filmed:
                env.render()
            if over or cut:
                break
        played.append(np.stack(frames))
    np.testing.assert_array_equal(*played)


@pytest.mark.slow
def test_miniworld_shows_what_its_package_observes() -> None:
    need("miniworld")
    env = make_env("MiniWorld-OneRoom-v0", training=False)
    own = gym.make("MiniWorld-OneRoom-v0", render_mode="rgb_array", disable_env_checker=True)
    frame, _ = env.reset(seed=2)
    picture, _ = own.reset(seed=2)
    frames = []
    for action in (0, 2, 1, 2, 2):
        np.testing.assert_array_equal(frame, picture.transpose(2, 0, 1))
        frames.append(frame)
        frame, *step = env.step(np.asarray(action))
        picture, *expected = own.step(action)
        assert step[:3] == expected[:3]
    shows(frames)
    env.close()


def test_a_console_s_game_steps_as_its_package_does() -> None:
    retro = pytest.importorskip("stable_retro")
    env = make_env(RETRO, EnvOptions(), training=False)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(40)]
    frames, rewards = [env.reset(seed=0)[0]], []
    for action in actions:
        frame, reward, *_ = env.step(action)
        frames.append(frame)
        rewards.append(reward)
    env.close()
    shows(frames)
    own = retro.make("Airstriker-Genesis-v0", render_mode="rgb_array")
    try:
        np.testing.assert_array_equal(frames[0], own.reset()[0].transpose(2, 0, 1))
        for action, frame, reward in zip(actions, frames[1:], rewards, strict=True):
            picture, expected, *_ = own.step(action)
            np.testing.assert_array_equal(frame, picture.transpose(2, 0, 1))
            assert reward == expected
    finally:
        own.close()


def test_consoles_get_a_process_each() -> None:
    need("stable_retro")
    resolve(RETRO)
    assert workers_pay(RETRO, 1, EnvOptions()) is True
    venv = make_vec(RETRO, 2, seed=1)
    try:
        assert isinstance(venv, WorkerVecEnv)
        frames = np.asarray(venv.reset())
        assert frames.shape == (2, 3, 84, 84)
        np.testing.assert_array_equal(frames[0], frames[1])  # nothing in it is random
    finally:
        venv.close()


def test_a_game_without_its_rom_and_actions_that_there_are_not_are_sentences() -> None:
    need("stable_retro")
    with pytest.raises(EnvError, match=r"needs the ROM of 1942-Nes-v0, .* type: python -m stable_retro\.import FOLDER"):
        make_env("retro/1942-Nes-v0")
    with pytest.raises(EnvError, match=r"has no actions='all-of-them'; it takes filtered, discrete, multi-discrete"):
        make_env(RETRO, EnvOptions(kwargs=(("actions", "all-of-them"),)))
    env = make_env(RETRO, EnvOptions(kwargs=(("actions", "discrete"),)))
    assert isinstance(env.action_space, gym.spaces.Discrete)
    env.close()


@pytest.mark.slow
def test_meta_world_draws_and_steps_as_its_package_does() -> None:
    need("metaworld")
    env_id = "metaworld/reach-v3"
    env = make_env(env_id, EnvOptions(size=84), training=False)
    own = gym.make(
        "Meta-World/MT1",
        env_name="reach-v3",
        seed=0,
        camera_name="corner2",
        width=84,
        height=84,
        render_mode="rgb_array",
        disable_env_checker=True,
    )
    frame, _ = env.reset(seed=2)
    own.reset(seed=2)
    frames = []
    for _ in range(3):
        picture: Any = own.render()
        np.testing.assert_array_equal(frame, picture[::-1, ::-1].transpose(2, 0, 1))  # where it hangs upside down
        frames.append(frame)
        frame, *step = env.step(np.ones(4, np.float32))
        _, *expected = own.step(np.ones(4, np.float32))
        assert step[:3] == expected[:3]
    shows(frames)


def drawn_alone_and_beside(env_id: str, other: str) -> tuple[list[Any], list[Any]]:
    """Pictures of `env_id` before `other` was made, and in turns with it."""
    small = {name: resolve(name).options.merge(size=32) for name in (env_id, other)}
    env = make_env(env_id, small[env_id], training=False, seed=1)
    still = np.zeros(env.action_space.shape or (), getattr(env.action_space, "dtype", np.int64))
    alone = [env.reset(seed=1)[0].copy(), env.step(still)[0].copy()]
    beside = make_env(other, small[other], training=False, seed=1)
    together = [env.reset(seed=1)[0].copy()]
    beside.reset(seed=1)
    together.append(env.step(still)[0].copy())
    env.close()
    beside.close()
    return alone, together


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env_id", "other", "packages"),
    [
        ("MiniWorld-OneRoom-v0", "InvertedPendulum-v5", ("miniworld", "mujoco")),
        ("InvertedPendulum-v5", "MiniWorld-OneRoom-v0", ("miniworld", "mujoco")),
        ("MiniWorld-OneRoom-v0", "dm_control/cartpole-swingup-v0", ("miniworld", "dm_control")),
        ("dm_control/cartpole-swingup-v0", "MiniWorld-OneRoom-v0", ("miniworld", "dm_control")),
        ("InvertedPendulum-v5", "HalfCheetah-v5", ("mujoco",)),
        ("dm_control/cartpole-swingup-v0", "HalfCheetah-v5", ("dm_control",)),
    ],
)
def test_what_draws_by_opengl_shows_the_same_beside_another(env_id: str, other: str, packages: tuple[str, ...]) -> None:
    """Each has a context of its own, and one that draws in another's gives other pictures without an error."""
    need(*packages)
    alone, together = drawn_alone_and_beside(env_id, other)
    assert all(frame.std() > 1.0 for frame in alone)
    np.testing.assert_array_equal(together, alone)


@pytest.mark.slow
def test_a_camera_that_is_fixed_by_the_first_picture_is_the_same_for_each_copy() -> None:
    """Gymnasium puts its free camera where things are when it first draws."""
    need("mujoco")
    pictures = [make_env("InvertedPendulum-v5", seed=seed).reset(seed=5)[0] for seed in (0, 1, 2)]
    assert pictures[0].std() > 1.0
    np.testing.assert_array_equal(pictures[1:], pictures[:1] * 2)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["closed", "closed and collected", "left open and collected"])
def test_an_environment_that_goes_does_not_blind_another(how: str) -> None:
    """In plain Gymnasium the second one frees the first one's objects, whose pictures are black from then on."""
    need("mujoco")
    first = make_env("Walker2d-v5", seed=1)
    before = first.reset(seed=1)[0].copy()
    second = make_env("Walker2d-v5", seed=1)
    second.reset(seed=1)
    if how.startswith("closed"):
        second.close()
        second.close()  # which does no harm
    if "collected" in how:
        del second
        gc.collect()
    assert before.std() > 1.0
    np.testing.assert_array_equal(first.reset(seed=1)[0], before)
    first.close()


DRIVER = {"DISTANCE_WANTED": 10.0, "COMFORT_ACC_MAX": 3.0, "COMFORT_ACC_MIN": -5.0}
CROSSING = {"DISTANCE_WANTED": 7.0, "COMFORT_ACC_MAX": 6.0, "COMFORT_ACC_MIN": -3.0}


class Road(gym.Env[Any, Any]):
    """As much of highway-env's as matters: it is reset while it is built, and pays what its drivers keep to."""

    observation_space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)
    sets: dict[str, float] = {}  # noqa: RUF012

    def __init__(self, drivers: type) -> None:
        self.config, self.drivers = {"other_vehicles_type": "of this test"}, drivers
        self.reset()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        for rule, value in self.sets.items():
            setattr(self.drivers, rule, value)
        return np.zeros((16, 16, 3), np.uint8), {}

    def step(self, _action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        rules = {rule: getattr(self.drivers, rule) for rule in DRIVER}
        return np.zeros((16, 16, 3), np.uint8), rules["DISTANCE_WANTED"], False, False, rules


class Crossing(Road):
    """Writes its rules into the class of all drivers."""

    sets = CROSSING


@pytest.mark.parametrize("order", [(Road, Crossing), (Crossing, Road)], ids=["road first", "crossing first"])
def test_drivers_keep_to_the_rules_of_their_own_road(
    order: tuple[type[Road], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crossing that was made first had its rules taken for those of every road of the process."""
    drivers = type("Drivers", (), DRIVER)
    utils = ModuleType("highway_env.utils")
    vars(utils)["class_from_path"] = lambda _: drivers
    monkeypatch.setitem(sys.modules, "highway_env", ModuleType("highway_env"))
    monkeypatch.setitem(sys.modules, "highway_env.utils", utils)
    monkeypatch.setattr("stillsight.envs.suites.highway.FIRST_RULES", first := {})
    monkeypatch.setattr("stillsight.envs.adapters.highway_rules.FIRST_RULES", first)
    remember_rules(drivers)  # as `register` does, before a road is made
    envs = {kind: OwnRules(kind(drivers)) for kind in order}
    for _ in range(2):
        assert {kind: envs[kind].step(0)[1] for kind in order} == {Road: 10.0, Crossing: 7.0}
        for env in envs.values():
            env.reset(seed=0)
    assert envs[Crossing].step(0)[4] == CROSSING
    assert envs[Road].step(0)[4] == DRIVER
    assert rules_of(drivers) == DRIVER, "for roads that stand in no wrapper of ours"


def test_a_class_of_drivers_is_remembered_with_those_that_are_built_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillsight.envs.suites.highway.FIRST_RULES", first := {})
    drivers = type("Drivers", (), DRIVER)
    slow = type("Slow", (drivers,), {"COMFORT_ACC_MAX": 1.0})
    remember_rules(drivers)
    before = dict(first)
    drivers.DISTANCE_WANTED = 7.0  # type: ignore[attr-defined]
    remember_rules(drivers)
    assert first == before == {drivers: DRIVER, slow: {**DRIVER, "COMFORT_ACC_MAX": 1.0}}


@pytest.mark.slow
@pytest.mark.parametrize("first", ["merge-v1", "intersection-v2"])
def test_roads_do_not_change_each_other_s_drivers(first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    need("highway_env")

    def merge() -> tuple[list[float], Any]:
        env = make_env("merge-v1", training=False, seed=1)
        env.reset(seed=1)
        return [float(env.step(action)[1]) for action in (3, 0, 1, 2, 3, 0, 1)], env

    alone, _ = merge()
    new: dict[type, dict[str, float]] = {}  # as in a process in which nothing was made
    monkeypatch.setattr("stillsight.envs.suites.highway.FIRST_RULES", new)
    monkeypatch.setattr("stillsight.envs.adapters.highway_rules.FIRST_RULES", new)
    if first == "merge-v1":
        merge()
    crossing = make_env("intersection-v2", training=False, seed=0)
    crossing.reset(seed=0)
    again, env = merge()
    assert again == alone
    env.reset(seed=1)
    turns = []
    for action in (3, 0, 1, 2, 3, 0, 1):  # in turns, step by step
        turns.append(float(env.step(action)[1]))
        crossing.step(1)
    assert turns == alone


@pytest.mark.slow
def test_rewards_are_python_s_numbers() -> None:
    need("gymnasium_robotics")
    env = make_env("FetchReach-v4", seed=0)
    assert type(env.step(env.action_space.sample())[1]) is float
    env.close()
