"""MiniGrid and BabyAI behind the one door are MiniGrid's own wrappers, with the mission kept."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from stillsight.envs import EnvError, EnvOptions, make_env, resolve
from stillsight.envs.adapters.minigrid_view import WORDS
from stillsight.envs.registry import ids
from stillsight.envs.suites.minigrid import SUITE

pytest.importorskip("minigrid")
DOOR = "MiniGrid-DoorKey-5x5-v0"


@pytest.mark.parametrize("env_id", [DOOR, "BabyAI-GoToRedBall-v0", "MiniGrid-Dynamic-Obstacles-6x6-v0"])
@pytest.mark.parametrize(("view", "tile_size"), [("agent", 8), ("full", 8), ("agent", 5)])
def test_frames_rewards_and_ends_are_those_of_its_own_wrappers(env_id: str, view: str, tile_size: int) -> None:
    from minigrid.wrappers import RGBImgObsWrapper, RGBImgPartialObsWrapper

    env = make_env(env_id, EnvOptions(kwargs=(("view", view), ("tile_size", tile_size))), training=False)
    own = (RGBImgPartialObsWrapper if view == "agent" else RGBImgObsWrapper)(gym.make(env_id), tile_size=tile_size)
    frame, _ = env.reset(seed=3)
    picture = own.reset(seed=3)[0]["image"]
    random = np.random.default_rng(1)
    ended, seen = 0, set()
    for _ in range(150):
        seen.add(frame.tobytes())
        np.testing.assert_array_equal(frame, picture.transpose(2, 0, 1))
        action = int(random.integers(7)) % own.action_space.n
        frame, *step = env.step(np.asarray(action))
        observation, *expected = own.step(action)
        picture = observation["image"]
        assert step[:3] == expected[:3]
        if step[1] or step[2]:
            np.testing.assert_array_equal(frame, picture.transpose(2, 0, 1))  # the last one is its own
            ended += 1
            frame, _ = env.reset()
            picture = own.reset()[0]["image"]
    assert ended or "Dynamic" not in env_id
    assert len(seen) > 5, "the pictures that are compared are many"


def test_the_mission_stays_as_text_beside_the_picture() -> None:
    env: Any = make_env(DOOR)
    while not isinstance(env.observation_space, spaces.Dict):
        env = env.env
    assert isinstance(env.observation_space["mission"], spaces.Text)
    observation, _ = env.reset(seed=0)
    assert observation["mission"] == "use the key to open the door and then get to the goal"
    assert env.observation_space.contains(observation)
    assert "mission (text)" in str(make_env(DOOR).get_wrapper_attr("seen"))


def test_worlds_are_looked_for_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    env_id = "BabyAI-GoToLocal-v0"
    bare = gym.make(env_id)
    seeds = range(40)
    for seed in seeds:
        bare.reset(seed=seed)
    assert "Sampling rejected" in capsys.readouterr().out, "it does print"
    env = make_env(env_id)
    for seed in seeds:
        env.reset(seed=seed)
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_every_mission_is_in_the_space_of_texts() -> None:
    resolve(DOOR)
    longest = 0
    for env_id in ids(SUITE):
        try:
            mission = gym.make(env_id, disable_env_checker=True).reset(seed=0)[0]["mission"]
        except FileNotFoundError:
            assert "-WFC-" in env_id, "whose patterns minigrid 3.2.0 was built without"
            with pytest.raises(EnvError, match=f"^{env_id} cannot begin: it needs the file .*png, which is not here"):
                make_env(env_id)
            continue
        assert spaces.Text(WORDS, min_length=0).contains(mission) or mission.isprintable()
        longest = max(longest, len(mission))
    assert 20 < longest <= WORDS


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ((("view", "top"),), f"{DOOR} has no view='top'; it takes agent or full. Type --env-set view=full."),
        (
            (("tile_size", 1),),
            f"{DOOR} has no tile_size=1; it takes a whole number of pixels, 2 to 64. Type --env-set tile_size=8.",
        ),
    ],
)
def test_views_that_there_are_not_are_refused(kwargs: Any, sentence: str) -> None:
    with pytest.raises(EnvError) as caught:
        make_env(DOOR, EnvOptions(kwargs=kwargs))
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("asked", "side"),
    [
        ({"tile_size": 2}, 14),
        ({"agent_view_size": 3, "tile_size": 5}, 15),
        ({"tile_size": 2, "view": "full"}, 10),
    ],
)
@pytest.mark.parametrize("parts", [{}, {"pixels": ("off",), "state": ("on",)}], ids=["seen", "as numbers"])
def test_tiles_too_small_for_an_image_are_refused_and_the_world_is_not_shown_in_their_place(
    asked: dict[str, Any], side: int, parts: dict[str, Any]
) -> None:
    """An agent was shown the whole world from above, while its config said that it sees the tiles before it."""
    with pytest.raises(EnvError) as caught:
        make_env(DOOR, EnvOptions(kwargs=tuple(asked.items()), **parts))
    assert str(caught.value) == (
        f"{DOOR} observes an image of uint8 [{side}, {side}, 3] under 'image', and an image has at least 16 pixels a "
        "side. Have it drawn larger: --env-set tile_size=8"
    )


def test_the_smallest_tiles_that_make_an_image_show_the_agents_view() -> None:
    env = make_env(DOOR, EnvOptions(kwargs=(("tile_size", 3),)))
    assert str(env.get_wrapper_attr("seen")).startswith("the observation 'image', uint8 [21, 21, 3]: 21 x 21 pixels")


@pytest.mark.parametrize(
    ("env_id", "own", "kwargs"),
    [
        (DOOR, 250, {}),
        (DOOR, 9, {"max_steps": 9}),
        ("BabyAI-GoToRedBall-v0", 64, {}),
        ("BabyAI-GoToRedBall-v0", 90, {"max_steps": 90}),
    ],
)
def test_no_time_limit_goes_beyond_the_clock_by_which_a_world_pays(
    env_id: str, own: int, kwargs: dict[str, Any]
) -> None:
    """1,000 steps were asked for and recorded, and episodes were cut after the world's own 100."""
    options = EnvOptions().merge(kwargs=kwargs)
    with pytest.raises(EnvError) as caught:
        make_env(env_id, options.merge(max_episode_steps=own + 1))
    assert str(caught.value) == (
        f"{env_id} ends an episode itself after {own} steps, by which it counts its rewards too, and {own + 1} were "
        f"asked for. Type --env-set max_steps={own + 1} for the game with that end, or ask for no more than its own, "
        "or for none: --max-episode-steps 0"
    )
    env = make_env(env_id, options.merge(max_episode_steps=own))
    env.reset(seed=0)
    ends = [env.step(0)[2:4] for _ in range(own)]
    assert ends == [(False, False)] * (own - 1) + [(False, True)]


def test_other_arguments_reach_the_world_and_unknown_ones_are_a_sentence() -> None:
    assert make_env(DOOR, EnvOptions(kwargs=(("max_steps", 9), ("view", "full")))).get_wrapper_attr("max_steps") == 9
    with pytest.raises(EnvError, match=r"does not take the arguments sise=3: "):
        make_env(DOOR, EnvOptions(kwargs=(("sise", 3),)))
