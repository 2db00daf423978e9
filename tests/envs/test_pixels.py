"""Whatever an environment observes, an agent sees uint8 [3, H, W], and the wrappers score it truly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor

from stillsight.envs import EnvError, EnvOptions, Pixels, make_env
from stillsight.envs.wrappers.rules import FrameSkip, LifeLoss, sign

ID = "StillsightTestFake-v0"


class Fake(gym.Env[Any, Any]):
    """Observes a random element of `space`; rewards 1, 2, 3, ... ends after `length` steps."""

    def __init__(
        self,
        space: gym.Space[Any] | None = None,
        length: int = 1000,
        render_mode: str | None = None,
        frame: Any = None,
        modes: tuple[str, ...] = ("rgb_array",),
    ) -> None:
        self.metadata = {"render_modes": list(modes)}
        self.observation_space = space or spaces.Box(0, 255, (20, 30, 3), np.uint8)
        self.action_space = spaces.Discrete(2)
        self.render_mode, self.length, self.frame = render_mode, length, frame

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        if seed is not None:
            self.observation_space.seed(seed)
        self.count = 0
        self.last = self.observation_space.sample()
        return self.last, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:  # noqa: ARG002
        self.count += 1
        self.last = self.observation_space.sample()
        return self.last, float(self.count), self.count >= self.length, False, {"count": self.count}

    def render(self) -> Any:
        return self.frame


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gym.register(ID, lambda **kwargs: Fake(**kwargs), disable_env_checker=True)
    yield
    gym.registry.pop(ID)


def box(*shape: int, dtype: Any = np.uint8, high: float = 255) -> spaces.Box:
    return spaces.Box(0, high, shape, dtype)


def as_float(image: NDArray[Any], scale: float) -> NDArray[np.uint8]:
    return np.rint(image.astype(np.float64) * scale).astype(np.uint8)


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (box(20, 30, 3), lambda o: o.transpose(2, 0, 1)),
        (box(3, 20, 30), lambda o: o),
        (box(20, 30), lambda o: np.stack([o] * 3)),
        (box(20, 30, 1), lambda o: np.stack([o[..., 0]] * 3)),
        (box(1, 20, 30), lambda o: np.concatenate([o] * 3)),
        (box(20, 30, 3, dtype=np.float64, high=1), lambda o: as_float(o, 255).transpose(2, 0, 1)),
        (box(3, 20, 30, dtype=np.float32, high=1), lambda o: np.rint(o * 255.0).astype(np.uint8)),
        (box(20, 30, dtype=np.float32, high=255), lambda o: np.stack([as_float(o, 1)] * 3)),
        (spaces.Dict(eye=box(20, 30, 3), speed=box(4, dtype=np.float32)), lambda o: o["eye"].transpose(2, 0, 1)),
        (spaces.Dict(a=spaces.Dict(eye=box(3, 20, 30)), b=spaces.Discrete(3)), lambda o: o["a"]["eye"]),
    ],
    ids=lambda value: str(value) if isinstance(value, gym.Space) else "",  # a function's has its address in it
)
def test_every_form_of_image_becomes_three_by_height_by_width(space: gym.Space[Any], expected: Any) -> None:
    fake = Fake(space)
    env = Pixels(fake)
    assert env.observation_space == spaces.Box(0, 255, (3, 20, 30), np.uint8)
    pixels, _ = env.reset(seed=0)
    for _ in range(3):
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous
        np.testing.assert_array_equal(pixels, expected(fake.last))
        pixels = env.step(0)[0]


@settings(max_examples=25, deadline=None)
@given(height=st.integers(16, 60), width=st.integers(16, 60), size=st.integers(8, 70), grey=st.booleans())
def test_resizing_is_opencvs_area_interpolation(height: int, width: int, size: int, grey: bool) -> None:
    fake = Fake(box(height, width) if grey else box(height, width, 3))
    pixels, _ = Pixels(fake, size).reset(seed=1)
    reference = cv2.resize(fake.last, (size, size), interpolation=cv2.INTER_AREA)
    reference = np.stack([reference] * 3) if grey else reference.transpose(2, 0, 1)
    np.testing.assert_array_equal(pixels, reference)


def test_halving_takes_the_mean_of_four_pixels() -> None:
    fake = Fake(box(32, 32, 3))
    pixels, _ = Pixels(fake, 16).reset(seed=0)
    mean = fake.last.reshape(16, 2, 16, 2, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
    assert np.abs(pixels - mean).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(
    "space",
    [
        box(4, dtype=np.float32),
        spaces.Discrete(5),
        box(7, 7, 3),  # MiniGrid's symbols
        box(20, 30, 3, high=10),  # symbols again: bytes that do not span 0..255
        spaces.Box(-np.inf, np.inf, (20, 30), np.float32),  # a table of numbers
        spaces.Dict(symbols=box(7, 7, 3), direction=spaces.Discrete(4)),
    ],
    ids=str,
)
def test_what_is_no_image_is_rendered(space: gym.Space[Any]) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    env = Pixels(Fake(space, render_mode="rgb_array", frame=frame))
    pixels, _ = env.reset()
    np.testing.assert_array_equal(pixels, frame.transpose(2, 0, 1))
    np.testing.assert_array_equal(env.step(0)[0], frame.transpose(2, 0, 1))
    np.testing.assert_array_equal(env.render(), frame)


def test_no_image_and_no_rendering_is_a_sentence() -> None:
    blind = "StillsightTestBlind-v0"
    gym.register(blind, lambda **_: Fake(box(4, dtype=np.float32)), disable_env_checker=True)
    with pytest.raises(EnvError) as caught:
        make_env(blind)
    gym.registry.pop(blind)
    assert f"{blind} observes float32 [4], which is no image, and cannot render rgb_array" in str(caught.value)
    assert "stillsight needs one image: uint8 or float, [H, W, 3]" in str(caught.value)


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        (
            Fake(box(4, dtype=np.float32), modes=("ansi", "human")),
            r"Fake observes float32 \[4\].* cannot render rgb_array \(it offers ansi, human\)",
        ),
        (
            Fake(spaces.Dict(a=spaces.Discrete(3), b=box(2))),
            r"observes a Dict of a: Discrete\(3\), b: uint8 \[2\], which is no image",
        ),
        (
            Fake(box(4), render_mode="rgb_array", frame=np.zeros((9, 9), np.float32)),
            r"renders float32 \[9, 9\] in place of uint8",
        ),
        (Fake(box(4), render_mode="rgb_array"), "renders NoneType in place of uint8"),
        (Fake(spaces.Dict(left=box(20, 30, 3), right=box(3, 20, 30))), r"observes 2 images \(left, right\)"),
    ],
    ids=["modes", "dict", "frame", "none", "two"],
)
def test_other_observations_without_an_image_are_sentences(env: Fake, sentence: str) -> None:
    with pytest.raises(EnvError, match=sentence):
        Pixels(env)


def test_an_environment_that_cannot_render_is_filmed_through_its_observation() -> None:
    env = Pixels(Fake(modes=()), size=16)
    pixels, _ = env.reset(seed=2)
    assert env.render_mode == "rgb_array"
    np.testing.assert_array_equal(env.render(), pixels.transpose(1, 2, 0))


class Unfilmed(Fake):
    """A class without rendering, which takes no `render_mode`."""

    metadata: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__(modes=())


@pytest.mark.parametrize("maker", [Unfilmed, lambda: Unfilmed()], ids=["class", "function"])
def test_a_maker_that_takes_no_render_mode_is_not_given_one(maker: Any) -> None:
    gym.register("StillsightTestUnfilmed-v0", maker, disable_env_checker=True)
    env = make_env("StillsightTestUnfilmed-v0", EnvOptions(size=0))
    gym.registry.pop("StillsightTestUnfilmed-v0")
    pixels, _ = env.reset(seed=5)
    np.testing.assert_array_equal(env.render(), pixels.transpose(1, 2, 0))


class Offering(Unfilmed):
    """Offers `rgb_array` and takes no `render_mode`, which Gymnasium's own environments all do."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    render_mode = None


def anything(**kwargs: Any) -> gym.Env[Any, Any]:
    return Offering(**kwargs)


@pytest.mark.parametrize("maker", [Offering, anything], ids=["class", "function"])
def test_a_maker_that_offers_frames_and_takes_no_render_mode_is_made_without(maker: Any) -> None:
    """Gymnasium's TypeError came with a traceback, whatever was asked of the environment."""
    gym.register("StillsightTestOffering-v0", maker, disable_env_checker=True)
    try:
        env = make_env("StillsightTestOffering-v0")
        pixels, _ = env.reset(seed=5)
        np.testing.assert_array_equal(env.render(), pixels.transpose(1, 2, 0))
        with pytest.raises(EnvError, match=r"does not take the arguments speed=3: .*keyword argument 'speed'"):
            make_env("StillsightTestOffering-v0", EnvOptions(kwargs=(("speed", 3),)))
    finally:
        gym.registry.pop("StillsightTestOffering-v0")


def test_our_time_limit_replaces_those_that_an_entry_point_put_on() -> None:
    """`gymnasium.make` leaves out its own alone: an episode of 9 steps was cut after 4."""

    def timed(render_mode: str | None = None) -> gym.Env[Any, Any]:  # noqa: ARG001
        inner = gym.wrappers.TimeLimit(gym.wrappers.TimeLimit(Unfilmed(), 5), 4)
        return gym.wrappers.TimeLimit(gym.wrappers.OrderEnforcing(inner), 6)

    gym.register("StillsightTestTimed-v0", timed, max_episode_steps=7, disable_env_checker=True)
    try:
        lengths = []
        for limit in (9, 3, 0):
            env = make_env("StillsightTestTimed-v0", EnvOptions(max_episode_steps=limit))
            env.reset()
            lengths.append(next(step for step in range(1, 20) if env.step(0)[3]))
    finally:
        gym.registry.pop("StillsightTestTimed-v0")
    assert lengths == [9, 3, 4]


@settings(max_examples=30, deadline=None)
@given(skip=st.integers(1, 6), length=st.integers(1, 20))
def test_a_frame_skip_adds_rewards_and_stops_at_the_end(skip: int, length: int) -> None:
    env = FrameSkip(Fake(length=length), skip)
    env.reset(seed=0)
    rewards, infos, over = [], [], False
    while not over:
        _, reward, over, _, info = env.step(0)
        rewards.append(reward)
        infos.append(info["count"])
    counts = list(range(1, length + 1))
    assert rewards == [float(sum(counts[i : i + skip])) for i in range(0, length, skip)]
    assert infos[-1] == length


def test_clipping_is_for_learning_and_the_return_stays_true() -> None:
    options = EnvOptions(size=0, clip_rewards=True, frame_skip=2, kwargs=(("length", 6),))
    for training, expected in ((True, [1.0, 1.0, 1.0]), (False, [3.0, 7.0, 11.0])):
        env = make_env(ID, options, training=training)
        env.reset()
        steps = [env.step(0) for _ in range(3)]
        assert [step[1] for step in steps] == expected
        assert steps[-1][2]
        assert steps[-1][4]["episode"]["r"] == 21.0
        assert steps[-1][4]["episode"]["l"] == 3


@pytest.mark.parametrize(("reward", "expected"), [(-7, -1.0), (0, 0.0), (0.2, 1.0)])
def test_sign(reward: float, expected: float) -> None:
    assert sign(reward) == expected


def test_a_time_limit_truncates_after_agent_steps_and_replaces_the_environments_own() -> None:
    short = "StillsightTestShort-v0"
    gym.register(short, lambda **kwargs: Fake(**kwargs), max_episode_steps=4, disable_env_checker=True)
    own = make_env(short, EnvOptions(size=0))
    ours = make_env(short, EnvOptions(size=0, frame_skip=2, max_episode_steps=5))
    gym.registry.pop(short)
    for env, steps in ((own, 4), (ours, 5)):
        env.reset()
        ends = [env.step(0)[2:4] for _ in range(steps)]
        assert ends == [(False, False)] * (steps - 1) + [(False, True)]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (EnvOptions(noop_max=3), "is no Atari game"),
        (EnvOptions(terminal_on_life_loss=True), "is no Atari game"),
        (EnvOptions(kwargs=(("render_mode", "human"),)), "'render_mode' is set by stillsight: it is always rgb_array"),
        (EnvOptions(kwargs=(("lenght", 3),)), "does not take the arguments lenght=3: .*unexpected keyword.*'lenght'"),
    ],
    ids=["noop", "lives", "ours", "typo"],
)
def test_options_that_the_environment_does_not_have_are_sentences(options: EnvOptions, sentence: str) -> None:
    with pytest.raises(EnvError, match=sentence):
        make_env(ID, options)


def test_atari_frames_are_the_brighter_of_the_last_two_resized() -> None:
    pytest.importorskip("ale_py")
    env = make_env("ALE/Breakout-v5", EnvOptions(size=84, frame_skip=4))
    raw = gym.make("ALE/Breakout-v5", frameskip=1)
    for size in (84, 0):
        env = make_env("ALE/Breakout-v5", EnvOptions(size=size, frame_skip=4))
        pixels, _ = env.reset(seed=3)
        frame, _ = raw.reset(seed=3)
        for action in (1, 2, 2, 3, 0, 3, 3, 2) * 3:
            shown = cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA) if size else frame
            np.testing.assert_array_equal(pixels, shown.transpose(2, 0, 1))
            frames = [raw.step(action)[0] for _ in range(4)]
            frame = np.maximum(frames[2], frames[3])
            pixels = env.step(action)[0]
    assert raw.unwrapped.spec is not None
    assert raw.unwrapped.spec.kwargs["repeat_action_probability"] == 0.25


def test_a_lost_life_ends_an_episode_but_not_the_game() -> None:
    pytest.importorskip("ale_py")
    options = EnvOptions(frame_skip=4, terminal_on_life_loss=True)
    env = make_env("ALE/Breakout-v5", options, seed=1)
    env.reset(seed=1)
    random = np.random.default_rng(0)
    total, ends, lives = 0.0, 0, []
    info: dict[str, Any] = {}
    while "episode" not in info:
        _, reward, terminated, truncated, info = env.step(int(random.integers(4)))
        assert not truncated
        total += float(reward)
        if terminated:
            ends += 1
            lives.append(info["lives"])
            if "episode" not in info:
                assert env.reset()[1]["lives"] == info["lives"]
    assert (ends, lives) == (5, [4, 3, 2, 1, 0])
    assert total > 0
    assert info["episode"]["r"] == total
    assert env.reset()[1]["lives"] == 5
    env.step(1)
    assert env.reset(seed=4)[1]["lives"] == 5


class Lives(Fake):
    """Shows these lives, one a step, and ends with the last."""

    lives = (3, 3, 2, 2, 0, 0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return super().reset(seed=seed, options=options)[0], {"lives": 3}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, _, truncated, _ = super().step(action)
        return observation, reward, self.count == 6, truncated, {"lives": self.lives[self.count - 1]}


def test_no_lives_left_is_not_a_lost_life_until_the_game_is_over() -> None:
    # Qbert's way: the counter reads 0 for a while, and a reset there would restart a game that has not been scored.
    env = LifeLoss(Lives())
    env.reset(seed=0)
    assert [env.step(0)[2] for _ in range(6)] == [False, False, True, False, False, True]


class Short(Fake):
    """Earns 1 a step, loses a life in every fifth one and is over after six: in the no-op after the lost life."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return super().reset(seed=seed, options=options)[0], {"lives": 3}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation = super().step(action)[0]
        return observation, 1.0, self.count == 6, False, {"lives": 3 - self.count // 5}


def test_a_game_that_ends_in_the_no_op_after_a_lost_life_is_reported_in_the_next_step() -> None:
    env = LifeLoss(Monitor(Short()))
    env.reset(seed=0)
    reported = []
    for step in range(1, 21):
        _, _, over, _, info = env.step(1)
        assert over == (step % 5 == 0)
        if "episode" in info:
            reported.append((step, info["episode"]["r"], info["episode"]["l"]))
        if over:
            env.reset()
    assert reported == [(6, 6.0, 6), (11, 6.0, 6), (16, 6.0, 6)]
    other = LifeLoss(Monitor(Short()))
    other.reset()
    other.restore_snapshot(env.snapshot())
    assert other.step(1)[4]["episode"]["r"] == 6.0, "the fourth, which is not reported yet"
    assert "episode" not in other.step(1)[4]
    other.restore_snapshot({"_lives": 2, "_game_goes_on": False})
    assert "episode" not in other.step(1)[4]


def test_a_seeded_reset_in_mid_game_is_a_new_game_and_evaluation_has_whole_games() -> None:
    pytest.importorskip("ale_py")
    options = EnvOptions(frame_skip=4, terminal_on_life_loss=True, clip_rewards=True)
    training = make_env("ALE/Breakout-v5", options, seed=1)
    over, info = False, dict[str, Any]()
    training.reset(seed=1)
    random = np.random.default_rng(0)
    while not over:
        _, _, over, _, info = training.step(int(random.integers(4)))
    assert info["lives"] == 4
    assert training.reset(seed=1)[1]["lives"] == 5
    true_game = make_env("ALE/Breakout-v5", options, training=False, seed=1)
    true_game.reset(seed=1)
    random = np.random.default_rng(0)
    over = False
    while not over:
        _, _, over, _, info = true_game.step(int(random.integers(4)))
    assert info["lives"] == 0


@pytest.mark.parametrize("name", ["frameskip", "obs_type"])
def test_atari_arguments_that_would_break_the_picture_are_refused(name: str) -> None:
    pytest.importorskip("ale_py")
    with pytest.raises(EnvError, match=f"'{name}' is set by stillsight"):
        make_env("ALE/Pong-v5", EnvOptions(kwargs=((name, 2),)))
