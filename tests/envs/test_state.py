"""An environment that was saved in mid-episode goes on, in another process or place, as if nothing had been."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from stillsight.envs import EnvError, make_env, make_vec
from stillsight.envs.options import EnvOptions
from stillsight.envs.registry import resolve
from stillsight.envs.state import objection, restore_state, save_state
from stillsight.envs.vec_state import restore_states, save_states, vec_objection

ORCHARD = "stillsight/Orchard-v0"
CONTINUOUS = "stillsight/OrchardContinuous-v0"


def play(env: gym.Env[Any, Any], steps: int) -> list[tuple[Any, ...]]:
    """What random play gives, the actions of its own generator and the ends of episodes among it."""
    seen: list[tuple[Any, ...]] = []
    for _ in range(steps):
        action = env.action_space.sample()
        pixels, reward, terminated, truncated, info = env.step(action)
        episode = info.get("episode", {})
        seen.append((np.array(action).tobytes(), pixels.tobytes(), reward, terminated, truncated, episode.get("r")))
        if terminated or truncated:
            seen.append((env.reset()[0].tobytes(),))
    return seen


def check(env_id: str, options: EnvOptions | None, before: int, after: int, times: int = 3) -> None:
    one, other = make_env(env_id, options, seed=3), make_env(env_id, options, seed=99)
    assert objection(one) is None
    one.reset()
    for number in range(times):
        play(one, before + 7 * number)
        saved = save_state(one)
        restore_state(other, saved)
        expected = play(one, after)
        assert play(other, after) == expected
        # What was saved shares nothing with the game that went on.
        restore_state(other, saved)
        assert play(other, after) == expected
    assert any(len(row) == 1 for row in expected) or after < 60, "no episode ended"
    one.close()
    other.close()


@pytest.mark.parametrize(
    ("env_id", "options"),
    [
        (ORCHARD, None),
        (CONTINUOUS, EnvOptions(size=32, frame_skip=2, max_episode_steps=30, clip_rewards=True)),
        (ORCHARD, EnvOptions(size=0, shift="overlay", shift_strength=0.5)),
        (ORCHARD, EnvOptions(size=0, shift="noise", shift_strength=0.5)),
    ],
)
def test_an_orchard_goes_on(env_id: str, options: EnvOptions | None) -> None:
    check(env_id, options, before=31, after=120)


def test_the_classics_go_on() -> None:
    pytest.importorskip("pygame")
    check("CartPole-v1", None, before=9, after=60)


@pytest.mark.parametrize(
    ("game", "changes"),
    [
        ("ALE/Breakout-v5", {}),
        ("ALE/Breakout-v5", {"frame_skip": 1}),
        ("ALE/Breakout-v5", {"kwargs": (("repeat_action_probability", 0.0),)}),
        ("ALE/Qbert-v5", {"terminal_on_life_loss": True, "kwargs": (("repeat_action_probability", 0.6),)}),
    ],
)
def test_an_atari_game_goes_on_with_the_action_that_it_holds(game: str, changes: dict[str, Any]) -> None:
    pytest.importorskip("ale_py")
    check(game, replace(resolve(game).options, **changes), before=11, after=40, times=12)


def test_too_sticky_a_game_cannot_be_saved() -> None:
    pytest.importorskip("ale_py")
    options = replace(resolve("ALE/Pong-v5").options, kwargs=(("repeat_action_probability", 0.95),))
    env = make_env("ALE/Pong-v5", options)
    assert objection(env) == "ALE/Pong-v5 cannot save its state: it repeats actions with probability 0.95, above 0.9"
    with pytest.raises(EnvError, match=r"The state of an environment was asked for, and ALE/Pong-v5 cannot"):
        save_state(env)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_vec_env_goes_on(workers: int) -> None:
    one, other = make_vec(ORCHARD, 2, seed=1, workers=workers), make_vec(ORCHARD, 2, seed=5)
    one.reset()
    draws = np.random.default_rng(0)
    for _ in range(40):
        one.step(draws.integers(0, 3, 2))
    assert vec_objection(one) is None
    saved = save_states(one)
    restore_states(other, saved)
    for _ in range(100):
        actions = draws.integers(0, 3, 2)
        expected, found = one.step(actions), other.step(actions)
        assert np.array_equal(expected[0], found[0])
        assert np.array_equal(expected[1], found[1])
        assert np.array_equal(expected[2], found[2])
    with pytest.raises(EnvError, match=r"are of 1 environments, and 2 play here"):
        restore_states(other, saved[:1])
    saved[1]["layers"] = saved[1]["layers"][1:]
    with pytest.raises(EnvError, match=r"does not fit stillsight/Orchard-v0 \(ValueError: it has"):
        restore_states(one, saved)
    one.step(actions)  # the worker lives on
    one.close()


def test_the_native_atari_says_why_and_what_to_type() -> None:
    pytest.importorskip("ale_py")
    venv = make_vec("ALE/Pong-v5", 1)
    assert vec_objection(venv) == (
        "ale-py's vectorised environment keeps its games to itself (--workers on plays them one by one, and can save "
        "them)"
    )
    with pytest.raises(EnvError, match=r"The states of environments were asked for, and ale-py's"):
        save_states(venv)
    venv.close()


class Counter(gym.Env[Any, Any]):
    """Shows how often it was stepped."""

    observation_space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)
    count = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.count = 0
        return self._shown(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        del action
        self.count += 1
        return self._shown(), float(self.np_random.random()), False, False, {}

    def _shown(self) -> Any:
        return np.full((16, 16, 3), self.count, np.uint8)


class Saved(Counter):
    """Can be saved."""

    kept: Any = None

    def snapshot(self) -> dict[str, Any]:
        return {"count": self.count, "kept": self.kept}

    def restore_snapshot(self, values: dict[str, Any]) -> None:
        self.count = values["count"]


class Odd(gym.Wrapper[Any, Any, Any, Any]):
    """Of somebody's own."""


def test_an_environment_of_ones_own_says_how() -> None:
    one, other = Saved(), Saved()
    one.reset(seed=1)
    other.reset(seed=2)
    one.step(0)
    restore_state(other, save_state(one))
    expected, found = one.step(0), other.step(0)
    assert expected[0].max() == found[0].max() == 2
    assert expected[1] == found[1]
    assert objection(Counter()) == "Counter cannot save its state"
    assert objection(Odd(Saved())) == "what the wrapper Odd of Saved keeps is not known"
    one.kept = object()
    with pytest.raises(EnvError, match=r"A snapshot holds a object\. It may hold numbers"):
        save_state(one)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("_kinds", np.zeros(3, np.int64), "an episode of Orchard has 10 objects"),
        ("_background", np.zeros((4, 4, 3), np.uint8), "a scene of Orchard is uint8"),
        ("_object", 10, "object 10 is none of Orchard's 10"),
        ("_basket", None, "TypeError"),
    ],
)
def test_a_damaged_state_is_a_sentence(field: str, value: Any, told: str) -> None:
    env = make_env(ORCHARD)
    state = save_state(env)
    state["layers"][-1][field] = value
    with pytest.raises(EnvError, match=rf"The saved state does not fit {ORCHARD} \(.*{told}"):
        restore_state(env, state)


def test_a_field_of_another_kind_is_a_sentence() -> None:
    env = make_env(ORCHARD, EnvOptions(size=0, max_episode_steps=9))
    state = save_state(env)
    for layer in state["layers"]:
        if "_elapsed_steps" in layer:
            layer["_elapsed_steps"] = "many"
    with pytest.raises(EnvError, match=r"_elapsed_steps is a str, not a int"):
        restore_state(env, state)
