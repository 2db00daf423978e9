"""Before the cut: each new frame once, ends of episodes, stacks, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack
from torch import nn

from stillsight.agents import EncodedVecEnv, RlConfig
from stillsight.agents.errors import RunError
from stillsight.agents.features.encoded_vec_env import FrameStack
from stillsight.encoders import Backbone, Encoder, Preprocessing
from stillsight.encoders.building import build as build_encoder
from stillsight.envs import EnvOptions, make_vec

Tiny = Callable[..., RlConfig]
Ends = list[tuple[int, bool]]
"""Episodes of an environment: length, and whether it is cut off rather than ended. After the last they start over."""


class Scripted(gym.Env[np.ndarray, Any]):
    """Shows who it is, its episode and its step as pixel values; its episodes have the lengths that it is given."""

    def __init__(self, name: int, ends: Ends, channels_last: bool = False) -> None:
        self.name, self.ends, self.channels_last = name, ends, channels_last
        self.episode = -1
        shape = (4, 4, 3) if channels_last else (3, 4, 4)
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.action_space = spaces.Discrete(2)

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,  # noqa: ARG002 - Gymnasium's
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.now = self.episode + 1, 0
        return self._frame(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:  # noqa: ARG002
        self.now += 1
        length, cut_off = self.ends[self.episode % len(self.ends)]
        over = self.now == length
        return self._frame(), float(self.now), over and not cut_off, over and cut_off, {}

    def _frame(self) -> np.ndarray:
        frame = picture(self.name, self.episode, self.now)
        return np.ascontiguousarray(frame.transpose(1, 2, 0)) if self.channels_last else frame


def picture(name: int, episode: int, step: int) -> np.ndarray:
    """The frame of a `Scripted` environment, `[3, 4, 4]`: no two of them are equal."""
    frame = np.zeros((3, 4, 4), np.uint8)
    frame[0], frame[1], frame[2] = 10 + 40 * name, 7 * episode % 256, 5 * step % 256
    frame[:, 0, 0] = 255  # so that up is not down
    return frame


def network(unfreeze: str | None = None) -> Encoder:
    """An encoder of two stages whose features are cheap and differ for every picture."""
    torch.manual_seed(5)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))).eval()
    stages = {"first": model[0], "second": model[1]}
    recipe = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    backbone = Backbone(model=model, stages=stages, preprocessing=recipe, tap="second", pooling="flatten")
    return Encoder(backbone, unfreeze=unfreeze, precision="float32")


def scripted(scripts: Sequence[Ends], channels_last: bool = False) -> DummyVecEnv:
    return DummyVecEnv([partial(Scripted, name, ends, channels_last) for name, ends in enumerate(scripts)])


def array(observation: object) -> np.ndarray:
    assert isinstance(observation, np.ndarray)
    return observation


def slowly(frames: list[np.ndarray], count: int) -> np.ndarray:
    """The stack after `frames` of one episode, by the book."""
    padded = [frames[0]] * (count - 1) + frames
    return np.stack(padded[-count:])


scripts = st.lists(
    st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=4), min_size=1, max_size=3
)


@settings(deadline=None, max_examples=60)
@given(
    scripts=scripts, count=st.integers(1, 5), steps=st.integers(1, 12), mode=st.sampled_from([None, "second", "all"])
)
def test_stacks_and_last_frames_are_those_of_a_slow_reference(
    scripts: list[Ends], count: int, steps: int, mode: str | None
) -> None:
    encoder = network(mode)
    venv = EncodedVecEnv(scripted(scripts), encoder, count)

    def look(name: int, episode: int, last: int) -> np.ndarray:
        frames = [picture(name, episode, step) for step in range(last + 1)]
        return slowly([encoder.frozen.encode(frame[None])[0] for frame in frames], count)

    now = [(0, 0)] * len(scripts)
    observations = venv.reset()
    for _ in range(steps):
        np.testing.assert_allclose(observations, [look(i, *place) for i, place in enumerate(now)], atol=1e-5)
        assert observations.dtype == (np.uint8 if mode == "all" else np.float32)
        assert venv.observation_space.contains(observations[0])
        new, rewards, dones, infos = venv.step(np.zeros(len(scripts)))
        observations = array(new)
        for i, (episode, step) in enumerate(now):
            length, cut_off = scripts[i][episode % len(scripts[i])]
            over = step + 1 == length
            assert rewards[i] == step + 1
            assert dones[i] == over
            assert infos[i]["TimeLimit.truncated"] == (over and cut_off)
            if over:
                np.testing.assert_allclose(infos[i]["terminal_observation"], look(i, episode, length), atol=1e-5)
                assert venv.observation_space.contains(infos[i]["terminal_observation"])
            else:
                assert "terminal_observation" not in infos[i]
            now[i] = (episode + 1, 0) if over else (episode, step + 1)


@settings(deadline=None, max_examples=25)
@given(scripts=scripts, steps=st.integers(1, 30))
def test_every_new_frame_is_encoded_once(scripts: list[Ends], steps: int) -> None:
    encoder = network()
    venv = EncodedVecEnv(scripted(scripts), encoder, 4)
    assert encoder.counter.images == 0, "probing shapes does not count"
    venv.reset()
    ended = sum(int(venv.step(np.zeros(len(scripts)))[2].sum()) for _ in range(steps))
    assert encoder.counter.images == len(scripts) * (1 + steps) + ended


def test_at_most_one_image_and_a_tenth_for_an_environment_step(tiny: Tiny) -> None:
    encoder = build_encoder(tiny(), pinned=True)
    venv = EncodedVecEnv(make_vec("stillsight/Orchard-v0", 2, options=EnvOptions(size=16)), encoder, 4)
    venv.reset()
    for _ in range(150):
        venv.step(np.ones(2))
    assert 1.0 <= encoder.counter.images / 300 <= 1.1


def test_channels_last_images_give_the_same_features() -> None:
    ends = [[(3, False), (2, True)]] * 2
    encoder = network()
    first, second = EncodedVecEnv(scripted(ends), encoder, 2), EncodedVecEnv(scripted(ends, True), encoder, 2)
    assert first.pixel_shape == second.pixel_shape == (3, 4, 4)
    np.testing.assert_array_equal(first.reset(), second.reset())
    for _ in range(8):
        one, other = first.step(np.zeros(2)), second.step(np.zeros(2))
        np.testing.assert_array_equal(array(one[0]), array(other[0]))
        for info, twin in zip(one[3], other[3], strict=True):
            assert ("terminal_observation" in info) == ("terminal_observation" in twin)
            if "terminal_observation" in info:
                np.testing.assert_array_equal(info["terminal_observation"], twin["terminal_observation"])


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("encoder", [None, "all"])
def test_where_nothing_is_frozen_pixels_pass_as_they_are(encoder: str | None, channels_last: bool) -> None:
    venv = EncodedVecEnv(scripted([[(2, False)]], channels_last), network("all") if encoder else None, 2)
    assert venv.observation_space == spaces.Box(0, 255, (2, 3, 4, 4), np.uint8)
    observation = venv.reset()
    np.testing.assert_array_equal(observation[0], [picture(0, 0, 0), picture(0, 0, 0)])
    observation = array(venv.step(np.zeros(1))[0])
    assert observation.dtype == np.uint8
    np.testing.assert_array_equal(observation[0], [picture(0, 0, 0), picture(0, 0, 1)])
    _, _, _, infos = venv.step(np.zeros(1))
    assert infos[0]["terminal_observation"].dtype == np.uint8
    np.testing.assert_array_equal(infos[0]["terminal_observation"], [picture(0, 0, 1), picture(0, 0, 2)])


def test_sb3s_own_stack_begins_with_zeros_and_ours_with_the_first_frame() -> None:
    stock = VecFrameStack(scripted([[(3, False)]]), 3, channels_order="first")
    assert not array(stock.reset())[0, :6].any()
    ours = EncodedVecEnv(scripted([[(3, False)]]), None, 3).reset()
    np.testing.assert_array_equal(ours[0], [picture(0, 0, 0)] * 3)


def test_an_observation_is_a_copy_which_later_steps_leave_alone() -> None:
    venv = EncodedVecEnv(scripted([[(2, False)], [(3, True)]]), network(), 3)
    kept = [venv.reset()]
    before = [kept[0].copy()]
    lasts = []
    for _ in range(7):
        observation, _, _, infos = venv.step(np.zeros(2))
        kept.append(array(observation))
        before.append(array(observation).copy())
        lasts += [(i["terminal_observation"], i["terminal_observation"].copy()) for i in infos if len(i) > 1]
    for observation, copy in [*zip(kept, before, strict=True), *lasts]:
        np.testing.assert_array_equal(observation, copy)
    assert len(lasts) == 5


def test_writing_into_an_observation_does_not_change_the_next_one() -> None:
    clean = EncodedVecEnv(scripted([[(9, False)]]), network(), 3)
    dirty = EncodedVecEnv(scripted([[(9, False)]]), network(), 3)
    clean.reset()
    dirty.reset()[:] = -1
    np.testing.assert_array_equal(array(clean.step(np.zeros(1))[0]), array(dirty.step(np.zeros(1))[0]))


def test_after_shows_the_stack_that_a_frame_would_end_and_changes_nothing() -> None:
    stack = FrameStack(2, 3, (1,), np.dtype(np.float32))
    stack.start(np.array([[1.0], [5.0]], np.float32))
    stack.push(np.array([[2.0], [6.0]], np.float32), np.array([False, False]))
    before = stack.frames.copy()
    np.testing.assert_array_equal(stack.after(1, np.array([9.0], np.float32)), [[5.0], [6.0], [9.0]])
    np.testing.assert_array_equal(stack.frames, before)
    pushed = stack.push(np.array([[3.0], [7.0]], np.float32), np.array([True, False]))
    np.testing.assert_array_equal(pushed, [[[3.0], [3.0], [3.0]], [[5.0], [6.0], [7.0]]])


class Blank(gym.Env[np.ndarray, Any]):
    """An environment that exists for its observation space."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = space, spaces.Discrete(2)


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        (spaces.Box(0.0, 1.0, (3, 16, 16), np.float32), "takes uint8 images .* stillsight.envs.make_vec"),
        (spaces.Box(0, 255, (7,), np.uint8), "takes uint8 images"),
        (spaces.Discrete(3), "takes uint8 images"),
        (spaces.Box(0, 255, (4, 84, 84), np.uint8), "3 channels, .*Stack frames here .*frame_stack=4"),
        (spaces.Box(0, 255, (84, 84, 1), np.uint8), "3 channels, .*keep the colours"),
        (spaces.Box(0, 255, (12, 16, 16), np.uint8), "3 channels"),
    ],
)
def test_what_is_no_colour_image_is_refused_in_a_sentence(space: spaces.Space[Any], sentence: str) -> None:
    with pytest.raises(RunError, match=sentence):
        EncodedVecEnv(DummyVecEnv([lambda: Blank(space)]), network())


def test_the_last_frame_of_a_truncated_episode_is_what_ppo_bootstraps_from() -> None:
    # T14: SB3 values infos["terminal_observation"] at a time limit; raw pixels there would crash it or be garbage.
    from stillsight.agents.features.extractor import EncoderExtractor

    encoder = network()
    venv = EncodedVecEnv(scripted([[(3, True)]]), encoder, 2)
    kwargs = {
        "features_extractor_class": EncoderExtractor,
        "features_extractor_kwargs": {"encoder": encoder, "features_dim": 8},
        "normalize_images": False,
        "net_arch": [],
    }
    model = PPO("MlpPolicy", venv, policy_kwargs=kwargs, n_steps=3, batch_size=3, n_epochs=1, gamma=0.5, device="cpu")
    weights = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    model.learn(3)
    model.policy.load_state_dict(weights)  # those that the rollout was collected with
    frames = np.stack([encoder.frozen.encode(picture(0, 0, step)[None])[0] for step in (2, 3)])
    value = float(model.policy.predict_values(torch.from_numpy(frames[None])).detach())
    np.testing.assert_allclose(model.rollout_buffer.rewards[:, 0], [1.0, 2.0, 3.0 + 0.5 * value], atol=1e-5)


def test_workers_give_the_same_features(tiny: Tiny) -> None:
    encoder = build_encoder(tiny(), pinned=True)
    options = EnvOptions(size=16, max_episode_steps=6)
    venvs: list[VecEnv] = [
        EncodedVecEnv(make_vec("stillsight/Orchard-v0", 2, seed=4, options=options, workers=workers), encoder, 2)
        for workers in (0, 2)
    ]
    np.testing.assert_array_equal(array(venvs[0].reset()), array(venvs[1].reset()))
    for step in range(8):
        first, second = (venv.step(np.full(2, step % 3)) for venv in venvs)
        np.testing.assert_array_equal(array(first[0]), array(second[0]))
    for venv in venvs:
        venv.close()
