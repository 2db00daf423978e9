"""An environment that breaks its word is stopped in that step, in a sentence; one that keeps it is not touched."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from stillsight.envs import EnvOptions, GymnasiumVecEnv, Pixels, make_env, make_vec
from stillsight.envs.errors import EnvFault
from stillsight.envs.wrappers.guard import Guard, Part

ID = "StillsightPromise-v0"
BYTES = spaces.Box(0, 255, (16, 20, 3), np.uint8)
FLOATS = spaces.Box(0.0, 1.0, (16, 20, 3), np.float32)
SIGNED = spaces.Box(-1.0, 1.0, (16, 20, 3), np.float32)
STATE = spaces.Box(-1.0, 1.0, (4,), np.float32)
PART = spaces.Dict(eye=BYTES, at=STATE)


class Promise(gym.Env[Any, Any]):
    """Keeps its word but in step `when` (0: at the reset), where observation or reward are what is given."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    action_space = spaces.Discrete(2)

    def __init__(
        self,
        space: gym.Space[Any] = BYTES,
        when: int = 3,
        shown: Any = None,
        reward: Any = 1.0,
        drawn: Any = None,
        render_mode: str | None = None,
    ) -> None:
        self.observation_space, self.render_mode = space, render_mode
        self.when, self.shown, self.reward, self.drawn = when, shown, reward, drawn

    def _observed(self) -> Any:
        broken = self.shown is not None and self.count == self.when
        return self.shown if broken else self.observation_space.sample()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.count = 0
        return self._observed(), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:  # noqa: ARG002
        self.count += 1
        return self._observed(), self.reward if self.count == self.when else 1.0, False, False, {}

    def render(self) -> Any:
        return self.drawn if self.drawn is not None and self.count == self.when else np.zeros((32, 32, 3), np.uint8)


@pytest.fixture
def promise() -> Iterator[Callable[..., gym.Env[Any, Any]]]:
    def make(**kwargs: Any) -> gym.Env[Any, Any]:
        gym.register(ID, lambda render_mode=None: Promise(render_mode=render_mode, **kwargs), disable_env_checker=True)
        return make_env(ID)

    yield make
    gym.registry.pop(ID, None)


def with_a_nan() -> np.ndarray:
    image = np.full((16, 20, 3), 0.5, np.float32)
    image[3, 4, 1] = np.nan
    return image


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "nan reward": ({"reward": float("nan")}, "its reward is nan, and rewards are finite numbers"),
    "infinite reward": ({"reward": np.float32(-np.inf)}, r"its reward is .*-inf.*, and rewards are finite numbers"),
    "no reward": ({"reward": None}, "its reward is None"),
    "several rewards": ({"reward": np.ones(2)}, r"its reward is array\(\[1., 1.\]\)"),
    "floats behind bytes": (
        {"shown": np.full((16, 20, 3), 0.5, np.float32)},
        r"it observes float32 \[16, 20, 3\], and its space says uint8 \[16, 20, 3\]",
    ),
    "whole numbers behind bytes": ({"shown": np.zeros((16, 20, 3), np.int64)}, r"it observes int64 \[16, 20, 3\]"),
    "another shape": (
        {"shown": np.zeros((18, 20, 3), np.uint8)},
        r"it observes uint8 \[18, 20, 3\], and its space says uint8 \[16, 20, 3\]",
    ),
    "no array": ({"shown": [[0]]}, r"it observes a list, and its space says uint8 \[16, 20, 3\]"),
    "nan pixels": ({"space": FLOATS, "shown": with_a_nan()}, "its observation holds numbers that are not finite"),
    "another range": (
        {"space": FLOATS, "shown": np.full((16, 20, 3), 200.0, np.float32)},
        r"it observes values of 200..200, and its space says 0..1",
    ),
    "another sign": (
        {"space": FLOATS, "shown": np.full((16, 20, 3), -1.0, np.float32)},
        r"it observes values of -1..-1, and its space says 0..1",
    ),
    "bytes behind floats": ({"space": FLOATS, "shown": np.zeros((16, 20, 3), np.uint8)}, r"it observes uint8 \[16"),
    "signed": ({"space": SIGNED, "shown": np.full((16, 20, 3), 2.0, np.float32)}, r"values of 2..2, .* says -1..1"),
    "no image": ({"space": PART, "shown": {"at": np.zeros(4, np.float32)}}, r"has no image .*KeyError: 'eye'"),
    "another part": (
        {"space": PART, "shown": {"eye": np.zeros((16, 20, 3), np.float64), "at": np.zeros(4, np.float32)}},
        r"it observes float64 \[16, 20, 3\]",
    ),
    "another frame": (
        {"space": STATE, "drawn": np.zeros((48, 32, 3), np.uint8)},
        r"it observes uint8 \[48, 32, 3\], and its space says uint8 \[32, 32, 3\]",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_the_first_broken_step_stops_and_is_named(promise: Any, case: str) -> None:
    arguments, fault = BROKEN[case]
    env = promise(**arguments)
    env.reset(seed=0)
    for _ in range(2):
        env.step(0)
    with pytest.raises(EnvFault, match=fault) as caught:
        env.step(1)
    assert str(caught.value).startswith(f"{ID} broke its word in step 3 (step 3 of its episode, after action 1): ")
    assert str(caught.value).endswith("mend the environment.")


def test_a_broken_reset_is_stopped_and_so_is_a_second_episode(promise: Any) -> None:
    with pytest.raises(EnvFault, match=f"{ID} broke its word at a reset: it observes float32"):
        promise(when=0, shown=np.zeros((16, 20, 3), np.float32))
    gym.registry.pop(ID)
    env = promise(reward=float("nan"), when=2)
    env.reset(seed=0)
    env.step(0)
    env.reset()
    env.step(0)
    with pytest.raises(EnvFault, match=r"in step 3 \(step 2 of its episode"):
        env.step(0)


@pytest.mark.parametrize("moment", ["reset", "step"])
def test_an_environment_does_not_end_the_run(promise: Any, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """`sys.exit(0)` in an environment would end a training in the middle with the exit code of a finished one."""
    env = promise()
    env.reset()
    monkeypatch.setattr(Promise, moment, lambda *_, **__: sys.exit(0))
    with pytest.raises(EnvFault, match=rf"{ID} broke its word (at a reset|in step 1 .*): it calls sys.exit\(0\)"):
        env.reset() if moment == "reset" else env.step(1)


@pytest.mark.parametrize("training", [True, False])
def test_a_reward_that_clipping_would_hide_is_stopped(promise: Any, training: bool) -> None:
    promise(reward=float("inf"), when=1).close()
    venv = make_vec(ID, 2, options=EnvOptions(clip_rewards=True, frame_skip=3), training=training)
    venv.reset()
    with pytest.raises(EnvFault, match="its reward is inf"):
        venv.step(np.array([0, 1]))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"space": FLOATS, "shown": np.full((16, 20, 3), 1.001, np.float64)},  # resizing overshoots; doubles are floats
        {"space": SIGNED, "shown": np.full((16, 20, 3), -1.0, np.float32)},
        {"reward": np.float64(2.0)},
        {"reward": np.array(2.0)},
        {"reward": True},
        {"space": PART, "shown": {"eye": np.ones((16, 20, 3), np.uint8), "at": np.full(4, np.nan)}},  # not seen
    ],
    ids=["nothing", "overshoot", "signed", "numpy number", "numpy array", "bool", "not seen"],
)
def test_an_environment_that_keeps_its_word_is_left_alone(promise: Any, arguments: dict[str, Any]) -> None:
    env = promise(**arguments)
    env.reset(seed=0)
    for _ in range(5):
        pixels, reward, *_ = env.step(0)
        assert pixels.shape == (3, 16, 20)
        assert np.isfinite(float(reward))


def test_the_guard_costs_little_beside_a_step_of_pong() -> None:
    pytest.importorskip("ale_py")
    env = make_env("ALE/Pong-v5")
    guard: Any = env
    while not isinstance(guard, Guard):
        guard = guard.env

    class Still(gym.Env[Any, Any]):
        """Costs nothing."""

        observation_space, action_space = guard.observation_space, guard.action_space
        picture = np.zeros((210, 160, 3), np.uint8)

        def step(self, action: Any) -> Any:  # noqa: ARG002
            return self.picture, 0.0, False, False, {}

    def seconds(step: Callable[[int], Any], count: int) -> float:
        times = []
        for _ in range(count):
            began = time.perf_counter()
            step(0)
            times.append(time.perf_counter() - began)
        return float(np.median(times))

    env.reset(seed=0)
    bare, guarded = Still(), Guard(Still(), [Part(lambda observation: observation, guard.observation_space)])
    cost = seconds(guarded.step, 2000) - seconds(bare.step, 2000)
    assert cost < 0.02 * seconds(env.step, 200)


class Misfit(gym.Env[Any, Any]):
    """Keeps to an older form of Gymnasium's, or to none."""

    observation_space, action_space = BYTES, spaces.Discrete(2)

    def __init__(self, how: str = "", render_mode: str | None = None) -> None:
        self.how, self.render_mode = how, render_mode

    def reset(self, **_: Any) -> Any:
        if self.how == "own":
            raise ValueError("the arm is not there")
        image = np.zeros(BYTES.shape, np.uint8)
        return image if self.how == "old" else (image, None if self.how == "no info" else {})

    def step(self, action: Any) -> Any:  # noqa: ARG002
        image = np.zeros(BYTES.shape, np.uint8)
        return (image, 0.0, False, {}) if self.how == "four" else (image, 0.0, False, False, {})


class Seedless(Misfit):
    """Knows no seed."""

    def reset(self) -> Any:
        return super().reset()


@pytest.mark.parametrize("how", ["old", "no info", "four", "no seed"])
@pytest.mark.parametrize("checked", [True, False])
def test_what_is_no_environment_as_gymnasium_has_them_is_said_in_a_sentence(how: str, checked: bool) -> None:
    def made() -> Guard:
        env: gym.Env[Any, Any] = Seedless() if how == "no seed" else Misfit(how)
        return Guard(gym.wrappers.PassiveEnvChecker(env) if checked else env, [Part(lambda seen: seen, BYTES)])

    def played() -> None:
        env = made()
        env.reset(seed=0)
        env.step(0)

    if how == "no info" and not checked:
        played()
        return
    with pytest.raises(EnvFault, match="it is no environment as Gymnasium has them"):
        played()


class Stateful(Misfit):
    """Observes a state, so that it is reset and drawn to see what it renders."""

    observation_space = STATE  # type: ignore[assignment]

    def reset(self) -> Any:
        return np.zeros(4, np.float32), {}

    def render(self, mode: str) -> Any:  # as Gym had it
        return mode


class Drawing(Stateful):
    """Knows a seed, and draws as Gym did."""

    def reset(self, **_: Any) -> Any:
        return super().reset()


@pytest.mark.parametrize("kind", [Stateful, Drawing])
def test_so_it_is_where_an_environment_is_drawn_before_it_is_played(kind: type[Misfit]) -> None:
    with pytest.raises(
        EnvFault, match=rf"^{kind.__name__} broke .* it is no environment as Gymnasium has them \(TypeE"
    ):
        Pixels(kind(render_mode="rgb_array"))


def test_what_an_environment_raises_itself_stays_what_it_is() -> None:
    env = Guard(Misfit("own"), [Part(lambda seen: seen, BYTES)])
    with pytest.raises(ValueError, match="the arm is not there"):
        env.reset(seed=0)


class Reused(gym.Env[Any, Any]):
    """Draws every frame into one array, and counts in one vector."""

    action_space = spaces.Discrete(2)
    observation_space = spaces.Dict(eye=BYTES, at=spaces.Box(-9, 9, (2,), np.float32))

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        planes = np.zeros((3, 16, 20), np.uint8)
        self.shown = {"eye": planes.transpose(1, 2, 0), "at": np.zeros(2, np.float32)}

    def _count(self, to: int) -> Any:
        self.shown["eye"][:] = to
        self.shown["at"][:] = to
        return self.shown

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.steps = 0
        return self._count(0), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:  # noqa: ARG002
        self.steps += 1
        return self._count(self.steps), 0.0, False, False, {}


def test_the_last_observation_of_an_episode_is_no_view_of_the_next_ones_first() -> None:
    gym.register(ID, Reused, max_episode_steps=3, disable_env_checker=True)
    try:
        venv = make_vec(ID, 2, options=EnvOptions(pixels=("eye",), state=("at",)), seed=0, workers=0)
        venv.reset()
        for _ in range(3):
            *_, infos = venv.step(np.zeros(2, np.int64))
        last = infos[0]["terminal_observation"]
        assert last["at"].tolist() == [3.0, 3.0]
        assert np.unique(last["eye"]).tolist() == [3]
        venv.close()
    finally:
        gym.registry.pop(ID, None)


class Renewed(Reused):
    """Makes its action space anew at each reset, as highway-env does."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.action_space = spaces.Discrete(1_000)
        return super().reset(seed=seed, options=options)


def test_random_play_is_the_seeds_where_a_space_is_made_anew_at_each_reset() -> None:
    gym.register(ID, Renewed, disable_env_checker=True)
    try:
        drawn = []
        for seed in (5, 5, 6):
            env, venv = (
                make_env(ID, EnvOptions(pixels=("eye",)), seed=seed),
                make_vec(ID, 1, options=EnvOptions(pixels=("eye",)), seed=seed, workers=0),
            )
            one = []
            for _ in range(3):
                env.reset()
                venv.reset()
                one += [int(env.action_space.sample()), int(venv.action_space.sample())]
            drawn.append(one)
            venv.close()
    finally:
        gym.registry.pop(ID, None)
    assert drawn[0] == drawn[1] != drawn[2]


class Talker(gym.Env[Any, Any]):
    """Episodes of 3 steps that pay 1 each. Says of itself what is `own`; `one` dict is given always, or anew."""

    action_space, observation_space = spaces.Discrete(2), BYTES

    def __init__(self, own: Any = None, one: bool = False, render_mode: str | None = None) -> None:
        self.own, self.render_mode = own, render_mode
        self.info: dict[str, Any] | None = {} if one else None

    def _said(self) -> dict[str, Any]:
        said = {**(self.own or {})} if self.info is None else self.info
        said["step"] = self.count
        return said

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.count = 0
        return self.observation_space.sample(), self._said()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:  # noqa: ARG002
        self.count += 1
        return self.observation_space.sample(), 1.0, self.count == 3, False, self._said()


SAID: dict[str, dict[str, Any]] = {
    "one dict": {"one": True},
    "its own count": {"own": {"episode": {"r": 100.0, "l": 50, "t": 0.0}}},
    "its own number": {"own": {"episode": 7}},
    "its own end": {"own": {"TimeLimit.truncated": True, "terminal_observation": "none"}},
}


@pytest.mark.parametrize("case", SAID)
@pytest.mark.parametrize("vectorised", [False, True], ids=["single", "vectorised"])
def test_what_an_environment_says_of_itself_is_no_episode_of_monitor_s(case: str, vectorised: bool) -> None:
    """Each step after the first end counted as an episode in the curves, or every step from the start."""
    if vectorised:
        maker = partial(Talker, **SAID[case])
        venv: Any = GymnasiumVecEnv(SyncVectorEnv([maker], autoreset_mode=AutoresetMode.DISABLED))
    else:
        gym.register(ID, Talker, kwargs=SAID[case], disable_env_checker=True)
    try:
        venv = venv if vectorised else make_vec(ID, 1)
        venv.reset()
        ends, steps = [], []
        for step in range(1, 10):
            (info,) = venv.step(np.zeros(1, np.int64))[3]
            steps.append(info["step"])
            assert info["TimeLimit.truncated"] is False
            assert ("terminal_observation" in info) == (step % 3 == 0)
            if "episode" in info:
                ends.append((step, info["episode"]["r"], info["episode"]["l"]))
        venv.close()
    finally:
        gym.registry.pop(ID, None)
    assert ends == [(3, 3.0, 3), (6, 3.0, 3), (9, 3.0, 3)]
    assert steps == [1, 2, 3] * 3, "all else that it says is handed on"


def test_an_info_that_is_no_dict_is_named(promise: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    env = promise()
    env.reset()
    monkeypatch.setattr(Promise, "step", lambda *_: (BYTES.sample(), 1.0, False, False, ["caught"]))
    with pytest.raises(EnvFault, match=r"in step 1 .*: its info is \['caught'\], and infos are dicts"):
        env.step(0)


class InPlace(gym.Env[Any, Any]):
    """Scales or shifts an action in place, and earns its first number."""

    observation_space = BYTES

    def __init__(self, action_space: gym.Space[Any], render_mode: str | None = None) -> None:
        self.action_space, self.render_mode = action_space, render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        return np.zeros((16, 20, 3), np.uint8), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if action.dtype.kind == "f":
            action *= 0.5
        else:
            action -= 1
        return np.zeros((16, 20, 3), np.uint8), float(action[0]), False, False, {}


@pytest.mark.parametrize("skip", [1, 2, 4])
@pytest.mark.parametrize(
    ("space", "actions", "earned"),
    [
        (spaces.Box(-1.0, 1.0, (1,), np.float32), np.ones((2, 1), np.float32), 0.5),
        (spaces.MultiDiscrete([5, 5]), np.array([[4, 4], [4, 0]]), 3.0),
    ],
    ids=["continuous", "choices"],
)
def test_an_action_that_is_changed_in_place_is_that_of_one_step_and_of_no_buffer(
    space: gym.Space[Any], actions: np.ndarray, earned: float, skip: int
) -> None:
    gym.register(ID, InPlace, kwargs={"action_space": space}, disable_env_checker=True)
    try:
        venv, chosen = make_vec(ID, 2, options=EnvOptions(frame_skip=skip)), actions.copy()
        venv.reset()
        for _ in range(2):
            assert venv.step(chosen)[1].tolist() == [skip * earned] * 2
        assert np.array_equal(chosen, actions)
        venv.close()
    finally:
        gym.registry.pop(ID, None)


class Places(Talker):
    """Says in one array, one dict and one list where it is."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        self.place, self.told, self.way = np.zeros(1, int), {"steps": 0}, [0]

    def _said(self) -> dict[str, Any]:
        self.place[:] = self.told["steps"] = self.way[0] = self.count
        return {"place": self.place, "told": self.told, "way": self.way}


def test_the_last_info_of_an_episode_says_nothing_of_the_next() -> None:
    gym.register(ID, Places, disable_env_checker=True)
    try:
        venv = make_vec(ID, 1)
        venv.reset()
        for step in (1, 2, 3, 1):
            (info,) = venv.step(np.zeros(1, np.int64))[3]
            assert (info["place"].tolist(), info["told"], info["way"]) == ([step], {"steps": step}, [step])
        venv.close()
    finally:
        gym.registry.pop(ID, None)
