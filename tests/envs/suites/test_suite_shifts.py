"""Shifts that suites draw, on the suites themselves: the game is that without a shift, and the pictures are not."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest

from stillsight.envs import EnvOptions, make_env, make_vec, resolve
from stillsight.envs.shifts.rows import DOMAIN_SCENES, MUJOCO_SCENES

STEPS = 4
DRIFTS = {"drifting-colours", "drifting-camera"}


class World(NamedTuple):
    """An environment, and what of it is seen: few pixels, and its state where it has one."""

    env_id: str
    packages: tuple[str, ...]
    options: dict[str, Any]
    hidden: frozenset[str] = frozenset()
    """Shifts of which nothing is seen: from above, and over an endless floor, there is no sky."""

    @property
    def shown(self) -> EnvOptions:
        return resolve(self.env_id).options.merge(**self.options)


NO_SKY = frozenset({"sky"})
SMALL, STATE = {"width": 64, "height": 64}, {"state": ("on",)}
WORLDS = {
    "DeepMind Control": World("dm_control/cartpole-swingup-v0", ("dm_control",), {"size": 48, **STATE}),
    "two cameras": World(
        "dm_control/walker-walk-v0", ("dm_control",), {"size": 48, "pixels": ("side", "back"), **STATE}
    ),
    "from above": World("dm_control/reacher-easy-v0", ("dm_control",), {"size": 48, **STATE}, NO_SKY),
    "MuJoCo": World("HalfCheetah-v5", ("mujoco", "imageio"), {"size": 64, "kwargs": SMALL, **STATE}, NO_SKY),
    "Robotics": World("FetchReach-v4", ("gymnasium_robotics",), {"size": 48, **STATE}),
    "maze": World("PointMaze_UMaze-v3", ("gymnasium_robotics",), {"size": 48, **STATE}, NO_SKY),
    "Meta-World": World("metaworld/reach-v3", ("metaworld",), {"size": 48, **STATE}),
    "MiniWorld": World("MiniWorld-OneRoom-v0", ("miniworld",), {}),
    "CarRacing": World("CarRacing-v3", ("Box2D", "pygame"), {"size": 48}),
}
DOMAINS = ("MiniWorld", "CarRacing")
SHIFTS = [
    *((world, shift) for world in WORLDS if world not in DOMAINS for shift in MUJOCO_SCENES),
    *((world, shift) for world in DOMAINS for shift in DOMAIN_SCENES),
]


class Played(NamedTuple):
    """Two episodes, the second of which follows without a seed."""

    images: list[dict[str, Any]]
    vectors: list[dict[str, Any]]
    rewards: list[float]
    film: Any


def world_of(name: str) -> World:
    world = WORLDS[name]
    if missing := [package for package in world.packages if find_spec(package) is None]:
        pytest.skip(f"{', '.join(missing)} is not installed")
    return world


def play(world: World, shift: str | None = None, seed: int = 3) -> Played:
    env = make_env(world.env_id, world.shown.through(shift), training=False, seed=seed)
    try:
        env.action_space.seed(7)
        actions = [env.action_space.sample() for _ in range(STEPS)]
        seen, rewards = [], []
        for begin in ({"seed": seed}, {}):
            seen.append(env.reset(**begin)[0])
            for action in actions:
                observation, reward, *_ = env.step(action)
                seen.append(observation)
                rewards.append(float(reward))
        parts = [each if isinstance(each, dict) else {"": each} for each in seen]
        images = [{key: part for key, part in each.items() if np.ndim(part) == 3} for each in parts]
        vectors = [{key: part for key, part in each.items() if np.ndim(part) == 1} for each in parts]
        return Played(images, vectors, rewards, env.render())
    finally:
        env.close()


@pytest.fixture(scope="module")
def plain() -> dict[str, Played]:
    """What was played without a shift, by the name of the world."""
    return {}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shift"), SHIFTS)
def test_the_game_stays_and_what_is_seen_of_it_does_not(name: str, shift: str, plain: dict[str, Played]) -> None:
    world = world_of(name)
    own = plain.setdefault(name, play(world)) if name not in plain else plain[name]
    shifted = play(world, shift)
    assert shifted.rewards == own.rewards
    assert bool(own.vectors[0]) == ("state" in world.options)
    for shown, expected in zip(shifted.vectors, own.vectors, strict=True):
        for key, vector in expected.items():
            np.testing.assert_array_equal(shown[key], vector)
    changed = [
        bool((each[key] != other[key]).any())
        for each, other in zip(shifted.images, own.images, strict=True)
        for key in other
    ]
    assert all(changed) != (shift in world.hidden)
    assert any(changed) != (shift in world.hidden)
    assert (shifted.film != own.film).any() != (shift in world.hidden), "a film shows what the agent saw"
    assert all(image.std() > 1.0 for each in shifted.images for image in each.values()), "nothing is blank"


@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
def test_one_seed_gives_one_look_here_and_in_a_worker_and_another_seed_another(name: str) -> None:
    world = world_of(name)
    shift = "domain" if name in DOMAINS else "colours:0.2+drifting-camera:0.2+background"
    first, again, other = play(world, shift), play(world, shift), play(world, shift, seed=4)
    for key in first.images[0]:
        for one, two in zip(first.images, again.images, strict=True):
            np.testing.assert_array_equal(one[key], two[key])
        assert (first.images[0][key] != other.images[0][key]).any()
    venv = make_vec(
        world.env_id, 2, seed=3, options=world.shown.through(shift), training=False, workers=2, native=False
    )
    try:
        there: Any = venv.reset()
        venv.action_space.seed(7)
        actions = [venv.action_space.sample() for _ in range(STEPS)]
        for step in range(STEPS + 1):
            for copy, played in enumerate((first, other)):
                for key, image in played.images[step].items():
                    np.testing.assert_array_equal((there[key] if key else there)[copy], image)
            if step < STEPS:
                there = venv.step(np.asarray([actions[step]] * 2))[0]
    finally:
        venv.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["DeepMind Control", "MuJoCo", "Robotics", "Meta-World"])
def test_a_user_s_own_film_is_what_lies_behind(name: str, tmp_path: Path) -> None:
    world = world_of(name)
    film = tmp_path / "film"
    film.mkdir()
    for number in range(3):
        cv2.imwrite(str(film / f"{number}.png"), np.full((60, 60, 3), (255, 0, 255), np.uint8))
    own, shifted = play(world), play(world, f"background@{tmp_path}")
    assert shifted.rewards == own.rewards
    magenta = np.array([255, 0, 255])[:, None, None]
    covered = [(next(iter(each.values())) == magenta).all(0) for each in shifted.images]
    assert all(0.1 < there.mean() < 0.99 for there in covered), "sky and floor, and no thing"
    for there, each, before in zip(covered, shifted.images, own.images, strict=True):
        key = next(iter(each))
        kept = each[key] == before[key]
        assert kept[:, ~there].mean() > 0.5, "things stay as they are, but at their edges"
