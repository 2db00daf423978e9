"""A user's own environments that are built on what a suite's are built on: none disturbs another of its process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from stillsight.envs import EnvOptions, make_env
from stillsight.envs.adapters.own_context import RENDERERS, OwnContext, OwnScene
from stillsight.envs.making import bare
from stillsight.envs.state import objection, restore_state, save_state
from stillsight.envs.suites import highway

CURRENT: dict[str, Any] = {}
"""Whose OpenGL context it is."""


class Viewer:
    """As much of Gymnasium's as draws: in whatever context is the current one."""

    opengl_context = "its own"

    def __init__(self) -> None:
        self.con, self.blind = self, False
        self.make_context_current()

    def make_context_current(self) -> None:
        CURRENT["of"] = self

    def free(self) -> None:
        CURRENT["of"].blind = True

    def draw(self) -> Any:
        seen = 200 if CURRENT["of"] is self and not self.blind else 0
        return np.full((16, 16, 3), seen, np.uint8)


class Renderer:
    """Gymnasium's `MujocoRenderer`, which begins with its first picture."""

    def __init__(self) -> None:
        self._viewers: dict[str, Viewer] = {}

    def render(self) -> Any:
        if not self._viewers:
            self._viewers["rgb_array"] = Viewer()
        return self._viewers["rgb_array"].draw()


class Body(gym.Env[Any, Any]):
    """A robot of a user's own, which observes what it draws."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space, action_space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8), gym.spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode, self.mujoco_renderer = render_mode, Renderer()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        return self.render(), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        return self.render(), np.float32(action), False, False, {}

    def render(self) -> Any:
        return self.mujoco_renderer.render()


class Held(Body):
    """The same, held by an environment that draws by it."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.robot: Any = gym.wrappers.TimeLimit(Body(), 10)
        del self.mujoco_renderer

    def render(self) -> Any:
        return self.robot.unwrapped.render()


@pytest.fixture
def registered() -> Iterator[None]:
    gym.register("StillsightTestBody-v0", Body, disable_env_checker=True)
    gym.register("StillsightTestHeld-v0", Held, disable_env_checker=True)
    yield
    for name in ("StillsightTestBody-v0", "StillsightTestHeld-v0"):
        gym.registry.pop(name)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("env_id", ["StillsightTestBody-v0", "StillsightTestHeld-v0"])
def test_a_robot_of_one_s_own_draws_in_its_own_context(env_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pictures were black from the moment on when an evaluation was closed."""
    monkeypatch.setitem(sys.modules, RENDERERS, ModuleType(RENDERERS))
    first, second = (make_env(env_id, seed=seed) for seed in (1, 2))
    for _ in range(2):
        for env in (first, second):
            assert env.reset()[0].min() == 200
            shown, reward, *_ = env.step(1)
            assert (shown.min(), type(reward)) == (200, float)
    second.close()
    CURRENT["of"] = Viewer()
    assert first.step(0)[0].min() == 200
    assert first.render().min() == 200  # type: ignore[union-attr]


@pytest.mark.usefixtures("registered")
def test_where_nobody_draws_by_that_renderer_nothing_stands_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, RENDERERS, raising=False)
    layer: Any = bare("StillsightTestBody-v0", EnvOptions())
    while isinstance(layer, gym.Wrapper):
        assert not isinstance(layer, OwnContext)
        layer = layer.env


class World(Body):
    """As much of MiniWorld's as is given walls of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.shadow_window = type("Window", (), {"switch_to": lambda _: None})()
        self.params = None

    def _render_static(self) -> None: ...

    def _render_world(self) -> None: ...


class Road(Body):
    """As much of highway-env's as is given rules of its own, which it writes into the class of all drivers."""

    drivers = type("Drivers", (), {"DISTANCE_WANTED": 10.0})

    def __init__(self, wanted: float = 7.0) -> None:
        super().__init__()
        self.config, self.wanted = {"other_vehicles_type": "of this test"}, wanted
        self.reset()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        setattr(self.drivers, "DISTANCE_WANTED", self.wanted)  # noqa: B010 - as highway-env does it
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        shown, _, *rest = super().step(action)
        return shown, getattr(self.drivers, "DISTANCE_WANTED"), *rest  # type: ignore[return-value]  # noqa: B009

    def snapshot(self) -> dict[str, Any]:
        return {}

    def restore_snapshot(self, values: Any) -> None: ...


def test_a_world_of_one_s_own_gets_walls_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    module, pyglet = ModuleType("miniworld.miniworld"), ModuleType("pyglet")
    vars(module)["MiniWorldEnv"] = World
    vars(pyglet)["gl"] = type("GL", (), {"glGenLists": lambda *_: 1, "glDeleteLists": lambda *_: None})()
    monkeypatch.setitem(sys.modules, "miniworld.miniworld", module)
    monkeypatch.setitem(sys.modules, "pyglet", pyglet)
    monkeypatch.setattr("stillsight.envs.registry.SUITES", [_ready("miniworld", lambda: None)])
    gym.register("StillsightTestWorld-v0", type("Mine", (World,), {}), disable_env_checker=True)
    try:
        env: Any = bare("StillsightTestWorld-v0", EnvOptions())
        assert isinstance(env, OwnScene)
    finally:
        gym.registry.pop("StillsightTestWorld-v0")


def test_roads_of_one_s_own_keep_to_their_own_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """The road that was reset last had its rules taken for those of every road of the process."""
    module, utils = ModuleType("highway_env.envs.common.abstract"), ModuleType("highway_env.utils")
    vars(module)["AbstractEnv"], vars(utils)["class_from_path"] = Road, lambda _: Road.drivers
    monkeypatch.setitem(sys.modules, "highway_env", ModuleType("highway_env"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, utils.__name__, utils)
    first: dict[type, dict[str, float]] = {}
    monkeypatch.setattr("stillsight.envs.suites.highway.FIRST_RULES", first)
    monkeypatch.setattr("stillsight.envs.adapters.highway_rules.FIRST_RULES", first)
    ready = _ready("highway", lambda: highway.remember_rules(Road.drivers))
    monkeypatch.setattr("stillsight.envs.registry.SUITES", [ready])
    gym.register("StillsightTestRoad-v0", type("Mine", (Road,), {}), disable_env_checker=True)
    try:
        near, far = (
            make_env("StillsightTestRoad-v0", EnvOptions(kwargs=(("wanted", wanted),))) for wanted in (7.0, 20.0)
        )
        assert (near.step(0)[1], far.step(0)[1], near.step(0)[1]) == (7.0, 20.0, 7.0)
        assert Road.drivers.DISTANCE_WANTED == 10.0, "for roads that stand in no wrapper of ours"  # type: ignore[attr-defined]
        assert objection(near) is None
        restore_state(near, save_state(far))
        assert near.step(0)[1] == 20.0
    finally:
        gym.registry.pop("StillsightTestRoad-v0")


def _ready(name: str, register: Any) -> Any:
    """A suite's record whose package need not be here."""
    return replace(import_module(f"stillsight.envs.suites.{name}").SUITE, register=register)


@pytest.mark.slow
def test_a_mujoco_robot_of_one_s_own_is_not_blinded_by_one_that_goes() -> None:
    if find_spec("mujoco") is None:
        pytest.skip("mujoco is not installed")
    pytest.importorskip("imageio")  # which Gymnasium's renderer imports
    from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv

    class Mine(InvertedPendulumEnv):
        """In a module of the user's."""

    gym.register("StillsightTestMine-v0", Mine, kwargs={"width": 48, "height": 48})
    try:
        first = make_env("StillsightTestMine-v0", seed=1)
        before = first.reset(seed=1)[0].copy()
        second = make_env("StillsightTestMine-v0", seed=2)
        second.reset()
        second.close()
        assert before.std() > 1.0
        np.testing.assert_array_equal(first.reset(seed=1)[0], before)
        first.close()
    finally:
        gym.registry.pop("StillsightTestMine-v0")
