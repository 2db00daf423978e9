"""Worlds of MiniWorld show their own walls, whichever other world of the process was reset last."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from stillsight.envs import EnvOptions, make_env, make_vec
from stillsight.envs.adapters.own_context import OwnScene, draw_in_own_scene

MAZE = "MiniWorld-MazeS3-v0"


class OpenGL:
    """As much of OpenGL as display lists are: pictures by number, shared by all contexts of a process."""

    def __init__(self) -> None:
        self.lists: dict[int, int] = {}
        self.context: object = None
        self.compiling = 0


GL = OpenGL()


def glNewList(number: int, _mode: int) -> None:  # noqa: N802 - OpenGL's names, which MiniWorld imports
    GL.compiling = number


def glCallList(number: int) -> None:  # noqa: N802
    GL.drawn = GL.lists.get(number, 0)  # type: ignore[attr-defined]


def glDeleteLists(number: int, many: int) -> None:  # noqa: N802
    assert many == 1
    GL.lists.pop(number, None)


def gl_gen_lists(many: int) -> int:
    assert many == 1
    number = max(GL.lists, default=0) + 1
    GL.lists[number] = 0
    return number


class Window:
    def switch_to(self) -> None:
        GL.context = self


class World(gym.Env[Any, Any]):
    """Compiles its walls, grey of its seed, into list 1 as MiniWorld does, and is reset while it is built."""

    observation_space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        self.shadow_window = Window()
        self.shadow_window.switch_to()
        self.reset(seed=200)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        assert GL.context is self.shadow_window, "textures and walls would go into another's context"
        self.grey = int(seed or 0)
        self._render_static()
        return self.render(), {}

    def _render_static(self) -> None:
        glDeleteLists(1, 1)
        glNewList(1, 0)
        GL.lists[GL.compiling] = self.grey

    def _render_world(self, size: int, *, agent: bool) -> Any:
        assert not agent
        glCallList(1)
        return np.full((size, size, 3), GL.drawn, np.uint8)  # type: ignore[attr-defined]

    def step(self, _action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.render(), 0.0, False, False, {}

    def render(self) -> Any:
        self.shadow_window.switch_to()
        return self._render_world(16, agent=False)


@pytest.fixture
def opengl(monkeypatch: pytest.MonkeyPatch) -> OpenGL:
    gl = ModuleType("pyglet.gl")
    vars(gl).update(glGenLists=gl_gen_lists, glDeleteLists=glDeleteLists)
    pyglet = ModuleType("pyglet")
    vars(pyglet)["gl"] = gl
    monkeypatch.setitem(sys.modules, "pyglet", pyglet)
    monkeypatch.setitem(sys.modules, "pyglet.gl", gl)
    vars(GL).update(vars(OpenGL()))
    return GL


def grey(picture: Any) -> int:
    (only,) = np.unique(picture)
    return int(only)


def test_worlds_of_a_process_draw_their_own_walls(opengl: OpenGL) -> None:
    """All compile into list 1: the world that was reset last, say an evaluation's, gave every other its walls."""
    first, second = (draw_in_own_scene(World(), EnvOptions()) for _ in range(2))
    assert grey(first.reset(seed=1)[0]) == 1
    assert grey(second.reset(seed=2)[0]) == 2
    plain = World()  # somebody's own, in no wrapper of ours
    for _ in range(2):
        assert [grey(env.step(0)[0]) for env in (first, second, plain)] == [1, 2, 200]
        assert [grey(env.render()) for env in (second, plain, first)] == [2, 200, 1]
    assert grey(first.unwrapped.render()) == 1, "for what looks at the bare world"
    assert grey(first.reset(seed=3)[0]) == 3
    assert grey(second.step(0)[0]) == 2
    assert sorted(opengl.lists.values()) == [2, 3, 200]
    first.close()
    first.close()  # which does no harm
    assert sorted(opengl.lists.values()) == [2, 200]
    assert grey(second.step(0)[0]) == 2


def test_a_world_is_reset_in_its_own_context(opengl: OpenGL) -> None:
    """Else its walls and textures go to whoever drew last, say a robot of MuJoCo's, and it shows those of before."""
    world = OwnScene(World())
    opengl.context = "another's"
    assert grey(world.reset(seed=7)[0]) == 7


def test_what_opengl_is_called_by_is_put_back(opengl: OpenGL, monkeypatch: pytest.MonkeyPatch) -> None:
    world = OwnScene(World())
    theirs = glNewList, glCallList, glDeleteLists
    monkeypatch.setitem(globals(), "glCallList", broken)
    with pytest.raises(MemoryError):
        world.render()
    assert (glNewList, glCallList, glDeleteLists) == (theirs[0], broken, theirs[2])
    assert opengl.compiling == 1


def broken(_number: int) -> None:
    raise MemoryError


def shown(env: Any, seed: int, beside: Any = None) -> list[Any]:
    """Pictures of an episode's beginning, as it observes and as it renders; `beside` is reset and plays in between."""
    pictures = [env.reset(seed=seed)[0].copy()]
    for step in range(2):
        if beside is not None:
            beside.reset(seed=100 * seed + step)
            beside.step(1)
        pictures.append(env.step(step % 2)[0].copy())
    return [*pictures, env.render().copy()]


@pytest.mark.slow
def test_a_maze_looks_the_same_beside_another() -> None:
    if find_spec("miniworld") is None:
        pytest.skip("miniworld is not installed")
    env = make_env(MAZE, training=False, seed=1)
    alone = {seed: shown(env, seed) for seed in (1, 2)}
    other = make_env(MAZE, training=False, seed=2)
    for seed, pictures in alone.items():
        assert all(picture.std() > 1.0 for picture in pictures), "blank"
        for picture, expected in zip(shown(env, seed, other), pictures, strict=True):
            np.testing.assert_array_equal(picture, expected)
    env.close()
    assert other.reset(seed=1)[0].std() > 1.0
    other.close()


@pytest.mark.slow
def test_copies_of_a_maze_in_one_process_show_what_each_shows_alone() -> None:
    if find_spec("miniworld") is None:
        pytest.skip("miniworld is not installed")
    singles: list[list[Any]] = []
    for seed in (1, 2, 3):
        env = make_env(MAZE, seed=seed)
        singles.append([env.reset(seed=seed)[0].copy(), *(env.step(action)[0].copy() for action in (0, 0, 1, 0, 0))])
        env.close()
    venv = make_vec(MAZE, 3, seed=1)
    together = [np.asarray(venv.reset()).copy()]
    together += [np.asarray(venv.step(np.full(3, action))[0]).copy() for action in (0, 0, 1, 0, 0)]
    venv.close()
    np.testing.assert_array_equal(np.stack(together), np.stack(singles, axis=1))
