"""FrameReplayBuffer: each frame once, and what is sampled equals a plain buffer of whole stacks, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from stillsight.agents.buffers import footprint
from stillsight.agents.buffers.footprint import check_memory, needed_bytes
from stillsight.agents.buffers.replay import FrameReplayBuffer
from stillsight.agents.errors import RunError
from stillsight.agents.training import algorithms
from stillsight.agents.training.model import make_model

ACTIONS = spaces.Box(-1, 1, (1,), np.float32)
FIELDS = ("observations", "next_observations", "actions", "rewards", "dones")
# Few values, so that frames repeat by chance; the last ones are where "equal" and "the same bits" part.
FLOATS = np.array([1.5, -2.0, 0.1, 3e-5, 0.0, -0.0, np.nan], np.float32)

Row = dict[str, np.ndarray]
Rows = dict[tuple[int, int], Row]


def space(count: int, width: int = 3, pixels: bool = False) -> spaces.Box:
    if pixels:
        return spaces.Box(0, 255, (count, 1, width, 1), np.uint8)
    return spaces.Box(-np.inf, np.inf, (count, width), np.float32)


class Player:
    """Environments of random frames, and SB3's own buffer of whole stacks, large enough to keep all that is played.

    `step` plays on everywhere: 0 the episode goes on, 1 it ends by the rules, 2 by a time limit, 3 it goes on from a
    stack that has nothing to do with the one before, as where somebody else stepped the environment.
    """

    def __init__(self, box: spaces.Box, n_envs: int, seed: int = 0) -> None:
        self.box, self.count, self.n_envs = box, box.shape[0], n_envs
        self.random = np.random.default_rng(seed)
        self.plain = ReplayBuffer(200 * n_envs, box, ACTIONS, "cpu", n_envs)
        self.stacks = np.stack([self._first() for _ in range(n_envs)])

    def _frames(self, number: int) -> np.ndarray:
        shape = (number, *self.box.shape[1:])
        if self.box.dtype == np.uint8:
            return self.random.integers(0, 3, shape, dtype=np.uint8)
        frames: np.ndarray = self.random.choice(FLOATS, shape)
        return frames

    def _first(self) -> np.ndarray:
        return np.repeat(self._frames(1), self.count, axis=0)

    def step(self, ends: list[int], *buffers: FrameReplayBuffer) -> None:
        following = np.stack([np.concatenate([stack[1:], self._frames(1)]) for stack in self.stacks])
        # The number of the step is its action, by which a test finds it again.
        action = np.full((self.n_envs, 1), self.plain.pos, np.float32)
        reward = self.random.standard_normal(self.n_envs).astype(np.float32)
        done = np.array([end in (1, 2) for end in ends])
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": end == 2} for end in ends]
        for buffer in (self.plain, *buffers):
            buffer.add(self.stacks.copy(), following.copy(), action.copy(), reward.copy(), done.copy(), infos)
        for env, end in enumerate(ends):
            goes_on = self._frames(self.count) if end == 3 else following[env]
            self.stacks[env] = self._first() if done[env] else goes_on

    def played(self, env: int, number: int) -> Row:
        """What SB3's buffer would give for step `number` of `env`."""
        plain = self.plain
        return {
            "observations": plain.observations[number, env],
            "next_observations": plain.next_observations[number, env],
            "actions": plain.actions[number, env],
            "rewards": plain.rewards[number, env : env + 1],
            "dones": (plain.dones * (1 - plain.timeouts))[number, env : env + 1],
        }


def rows(buffer: FrameReplayBuffer, places: np.ndarray) -> list[tuple[tuple[int, int], Row]]:
    batch = buffer._get_samples(places)
    found = [{name: getattr(batch, name)[index].numpy() for name in FIELDS} for index in range(len(places))]
    return [((int(p) % buffer.n_envs, int(row["actions"][0])), row) for p, row in zip(places, found, strict=True)]


def stored(buffer: FrameReplayBuffer) -> Rows:
    """All transitions that can be sampled, by environment and number of the step."""
    listed = rows(buffer, np.flatnonzero(buffer.valid))
    assert len(dict(listed)) == len(listed) == buffer.size(), "none twice, and counted right"
    return dict(listed)


def assert_same(found: Row, played: Row, dtype: str) -> None:
    for name, value in found.items():
        expected = played[name]
        if name.endswith("observations") and dtype == "float16":
            # numpy and torch write NaN with other spare bits when they convert it; everything else is the same bits.
            expected, value = (
                np.nan_to_num(frames, nan=7.0) for frames in (expected.astype(np.float16).astype(np.float32), value)
            )
        assert value.dtype == expected.dtype, name
        assert value.shape == expected.shape, name
        assert value.tobytes() == expected.tobytes(), name


@settings(max_examples=200, deadline=None)
@given(
    count=st.integers(1, 4),
    n_envs=st.integers(1, 3),
    slots=st.integers(6, 40),
    over=st.integers(0, 2),
    dtype=st.sampled_from(["float16", "float32", "uint8"]),
    often=st.sampled_from([[0] * 40 + [1, 2], [0, 0, 0, 0, 1, 2], [0, 0, 0, 1, 2, 3], [1, 2]]),
    length=st.integers(1, 120),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_is_stored_equals_a_buffer_of_whole_stacks(
    count: int, n_envs: int, slots: int, over: int, dtype: str, often: list[int], length: int, seed: int
) -> None:
    """Any ends at any time, environments out of step, rings that wrap many times, episodes longer than a ring."""
    box = space(count, pixels=dtype == "uint8")
    kept = "float32" if dtype == "float32" else "float16"
    # A size that the environments do not divide is rounded down to whole rings.
    buffer = FrameReplayBuffer(slots * n_envs + min(over, n_envs - 1), box, ACTIONS, "cpu", n_envs, dtype=kept)
    assert len(buffer.frames) == slots
    player = Player(box, n_envs, seed)
    ends = np.random.default_rng(seed).choice(often, (length, n_envs))
    for row in ends.tolist():
        player.step(row, buffer)
        assert buffer.size() == buffer.valid.sum()
    found = stored(buffer)
    for (env, number), transition in found.items():
        assert_same(transition, player.played(env, number), dtype)
    for env in range(n_envs):
        numbers = sorted(number for found_env, number in found if found_env == env)
        # Nothing is given up that the ring still holds whole: what is kept is the end of what was played.
        assert numbers == list(range(length))[-len(numbers) :]
        # At most the history of the oldest, an episode's last frame and a strange stack take slots of their own.
        lost = sum({0: 0, 1: 1, 2: 1, 3: count}[end] for end in ends[-slots:, env].tolist())
        assert len(numbers) >= max(1, min(length, slots - count - lost))


def test_an_episode_longer_than_the_ring_keeps_its_end() -> None:
    buffer = FrameReplayBuffer(10, space(4), ACTIONS, "cpu", 1, dtype="float32")
    player = Player(space(4), 1)
    for step in range(100):
        player.step([0], buffer)
        # Ten slots: the newest frame, from which nothing leads on, and six transitions with three frames before them.
        oldest = 0 if step < 9 else step - 5
        assert sorted(number for _, number in stored(buffer)) == list(range(oldest, step + 1))
        for (env, number), row in stored(buffer).items():
            assert_same(row, player.played(env, number), "float32")


def test_a_time_limit_is_no_end_by_the_rules() -> None:
    buffer = FrameReplayBuffer(40, space(2), ACTIONS, "cpu", 3)
    player = Player(space(2), 3)
    player.step([0, 1, 2], buffer)
    player.step([0, 0, 0], buffer)
    assert {key: float(row["dones"][0]) for key, row in stored(buffer).items() if key[1] == 0} == {
        (0, 0): 0.0,
        (1, 0): 1.0,
        (2, 0): 0.0,
    }
    # Both kinds of end begin a new episode, whose first stack is one frame repeated.
    for env in (1, 2):
        stack = stored(buffer)[env, 1]["observations"]
        assert stack[0].tobytes() == stack[1].tobytes()


def test_sampling_draws_only_whole_transitions_and_all_of_them() -> None:
    buffer = FrameReplayBuffer(40, space(3), ACTIONS, "cpu", 2)
    player = Player(space(3), 2)
    for step in range(70):
        player.step([int(step % 7 == 6), 2 * int(step % 5 == 4)], buffer)
    whole = stored(buffer)
    asked: list[np.ndarray] = []

    class Watched(FrameReplayBuffer):
        def _get_samples(self, batch_inds: np.ndarray, env: Any = None) -> ReplayBufferSamples:
            asked.append(batch_inds)
            return super()._get_samples(batch_inds, env)

    buffer.__class__ = Watched
    np.random.seed(0)
    batch = buffer.sample(8000)
    assert batch.observations.shape == (8000, 3, 3)
    assert batch.rewards.shape == batch.dones.shape == (8000, 1)
    drawn = [key for key, _ in rows(buffer, asked[0])]
    assert set(drawn) == set(whole)
    # Uniformly: 8000 draws of some 30, each within five standard deviations of its share.
    share = 8000 / len(whole)
    assert max(abs(drawn.count(key) - share) for key in whole) < 5 * share**0.5


def test_an_environment_that_is_ahead_does_not_hide_the_others() -> None:
    """One ring is wrapped around and the other half empty: what was never written is never sampled."""
    buffer = FrameReplayBuffer(2 * 12, space(2), ACTIONS, "cpu", 2)
    player = Player(space(2), 2)
    for _ in range(7):  # episodes of one step take two slots each
        player.step([1, 0], buffer)
    assert buffer.full
    assert buffer.heads.tolist() == [2, 8]
    np.random.seed(0)
    assert not buffer.sample(500).actions.isnan().any()
    for (env, number), row in stored(buffer).items():
        assert_same(row, player.played(env, number), "float16")


def test_the_same_last_frame_is_not_the_same_history() -> None:
    """A reset in the middle of an episode, as a second `learn` makes it, where both frames look alike."""
    buffer = FrameReplayBuffer(20, space(2), ACTIONS, "cpu", 1, dtype="float32")
    black, white = np.zeros((1, 1, 3), np.float32), np.ones((1, 1, 3), np.float32)
    ended, began = np.concatenate([black, white], axis=1), np.concatenate([white, white], axis=1)
    step = (np.zeros((1, 1)), np.zeros(1), np.zeros(1, bool), [{}])
    buffer.add(np.concatenate([black, black], axis=1), ended, *step)
    buffer.add(began, began, *step)
    observations = buffer._get_samples(np.flatnonzero(buffer.valid)).observations
    np.testing.assert_array_equal(observations[1], began[0])


def test_a_first_frame_of_zeros_is_a_frame() -> None:
    """An empty memory is zeros too; taken for the frame before, the first one would never be written."""
    buffer = FrameReplayBuffer(20, space(2), ACTIONS, "cpu", 2)
    black, white = np.zeros((2, 2, 3), np.float32), np.ones((2, 2, 3), np.float32)
    buffer.add(black, white, np.zeros((2, 1)), np.zeros(2), np.zeros(2, bool), [{}, {}])
    for row in stored(buffer).values():
        np.testing.assert_array_equal(row["observations"], black[0])
        np.testing.assert_array_equal(row["next_observations"], [[0, 0, 0], [1, 1, 1]])


def test_frames_that_are_no_numbers_are_kept_once_too() -> None:
    """NaN is not equal to itself: compared by value, every step would look like the start of another trajectory."""
    buffer = FrameReplayBuffer(60, space(4), ACTIONS, "cpu", 1)
    stacks = np.full((1, 4, 3), np.nan, np.float32)
    for _ in range(30):
        buffer.add(stacks, stacks, np.zeros((1, 1)), np.zeros(1), np.zeros(1, bool), [{}])
    assert buffer.heads.tolist() == [31]


def test_a_trajectory_may_begin_in_the_middle_of_an_episode() -> None:
    """After a resume, or where somebody else stepped the environment, the first stack is no repeated frame."""
    buffer = FrameReplayBuffer(20, space(3), ACTIONS, "cpu", 1)
    first = np.arange(9, dtype=np.float32).reshape(1, 3, 3)
    second = np.concatenate([first[:, 1:], np.full((1, 1, 3), 50, np.float32)], axis=1)
    other = first + 100  # does not continue the second
    for number, (obs, following) in enumerate(((first, second), (other, other + 10))):
        buffer.add(obs, following, np.full((1, 1), number), np.zeros(1), np.zeros(1, bool), [{}])
    found = stored(buffer)
    np.testing.assert_array_equal(found[0, 0]["observations"], first[0])
    np.testing.assert_array_equal(found[0, 0]["next_observations"], second[0])
    np.testing.assert_array_equal(found[0, 1]["observations"], other[0])


def test_pixels_stay_bytes() -> None:
    pixels = spaces.Box(0, 255, (2, 3, 8, 8), np.uint8)
    buffer = FrameReplayBuffer(30, pixels, ACTIONS, "cpu", 1)
    obs = np.random.default_rng(0).integers(0, 256, (1, 2, 3, 8, 8), dtype=np.uint8)
    following = np.concatenate([obs[:, 1:], 255 - obs[:, 1:]], axis=1)
    buffer.add(obs, following, np.zeros((1, 1)), np.zeros(1), np.zeros(1, bool), [{}])
    batch = buffer.sample(4)
    assert batch.observations.dtype == torch.uint8
    assert (batch.observations.numpy() == obs).all()
    assert (batch.next_observations.numpy() == following).all()


@pytest.mark.parametrize("before", [0, 3, 17, 60])
def test_state_survives_a_round_trip(before: int) -> None:
    box = space(3)
    buffer, other = (FrameReplayBuffer(24, box, ACTIONS, "cpu", 2, dtype="float32") for _ in range(2))
    player = Player(box, 2)
    for step in range(before):
        player.step([int(step % 6 == 5), 0], buffer)
    other.restore(buffer.state())
    assert other.size() == buffer.size() == buffer.valid.sum()
    for step in range(9):  # and goes on in the same way, with nothing written twice
        player.step([int(step == 3), 0], buffer, other)
    found = stored(other)
    assert found.keys() == stored(buffer).keys()
    for (env, number), row in found.items():
        assert_same(row, player.played(env, number), "float32")
    assert other.heads.tolist() == buffer.heads.tolist()


def test_a_state_of_another_shape_is_refused() -> None:
    buffer = FrameReplayBuffer(24, space(3), ACTIONS, "cpu", 2)
    player = Player(space(3), 2)
    for _ in range(20):
        player.step([0, 0], buffer)
    state = buffer.state()
    with pytest.raises(ValueError, match=r"holds frames \(12, 2, 3\), not \(12, 2, 5\)"):
        FrameReplayBuffer(24, space(3, width=5), ACTIONS, "cpu", 2).restore(state)
    # A ring that is wrapped around would have its seam in the middle of a larger one, and stacks across it.
    for size in (20, 28):
        other = FrameReplayBuffer(size, space(3), ACTIONS, "cpu", 2)
        with pytest.raises(ValueError, match=f"holds 12 slots, not {size // 2}"):
            other.restore(state)
        assert not other.size()


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("actions", [ACTIONS, spaces.Discrete(3), spaces.Box(-1, 1, (4,), np.float64)], ids=str)
@pytest.mark.parametrize(
    ("box", "dtype"), [(space(4, 16), "float16"), (space(4, 16), "float32"), (space(2, 5, True), "float16")]
)
def test_the_bytes_that_are_announced_are_the_bytes_that_are_taken(
    box: spaces.Box, dtype: str, actions: spaces.Space[Any], n_envs: int
) -> None:
    for size in (1, 7, 100):
        buffer = FrameReplayBuffer(size, box, actions, "cpu", n_envs, dtype=dtype)
        taken = sum(value.nbytes for value in vars(buffer).values() if isinstance(value, np.ndarray))
        assert needed_bytes(box, size, dtype, actions, n_envs) == taken


def test_memory_is_that_of_the_frames_once() -> None:
    """A million transitions of 512 features and stacks of 4 take 1.04 GB here, and 16.4 GB in SB3's own buffer."""
    box, slots = space(4, width=512), 1_000_000
    assert needed_bytes(box, slots, "float16", spaces.Discrete(6)) == slots * (1024 + 8 + 4 + 4 + 2 + 1) + 16 + 8192
    stock = ReplayBuffer(1000, box, spaces.Discrete(6), "cpu", 1)
    theirs = sum(value.nbytes for value in vars(stock).values() if isinstance(value, np.ndarray))
    assert theirs == 1000 * (2 * 4 * 512 * 4 + 8 + 3 * 4)


def test_memory_that_does_not_fit_is_refused_with_the_flag_that_fits() -> None:
    with pytest.raises(RunError, match=r"needs 12.7 GB, and 9.1 GB is free. Type --set buffer_size=57322, or take few"):
        check_memory(12_700_000_000, 100_000, 9_100_000_000)
    check_memory(12_700_000_000 * 57_322 // 100_000, 57_322, 9_100_000_000)
    check_memory(8_000_000_000, 100_000, 9_100_000_000)


def test_the_buffer_itself_refuses_before_it_takes_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "available_memory", lambda: 1_000_000)
    monkeypatch.setattr(np, "zeros", lambda *_: pytest.fail("memory was taken"))
    with pytest.raises(RunError, match=r"needs 1.0 GB, and 0.0 GB is free. Type --set buffer_size=767, or"):
        FrameReplayBuffer(1_000_000, space(4, 512), spaces.Discrete(6), "cpu")


def test_refuses_what_it_does_not_do() -> None:
    with pytest.raises(ValueError, match="Drop optimize_memory_usage"):
        FrameReplayBuffer(10, space(2), ACTIONS, optimize_memory_usage=True)
    buffer = FrameReplayBuffer(10, space(2), ACTIONS)
    with pytest.raises(ValueError, match="no transition yet"):
        buffer.sample(1)
    Player(space(2), 1).step([0], buffer)
    normaliser: Any = object()
    with pytest.raises(ValueError, match="put normalisation before the buffer"):
        buffer.sample(1, normaliser)


def test_off_policy_algorithms_learn_from_it() -> None:
    from stillsight.agents.features.extractor import EncodedVecEnv
    from stillsight.encoders import build
    from stillsight.envs import make_vec

    encoder = build("retina", "random", tap="stem", device="cpu")
    venv = EncodedVecEnv(make_vec("stillsight/OrchardContinuous-v0", 1), encoder, 2)
    row = algorithms.spec("sac")
    chosen = {"buffer_size": 200, "learning_starts": 20, "batch_size": 8}
    eyes = {"encoder": encoder, "features_dim": 8}
    model = make_model(row, venv, eyes, chosen, {"dtype": "float16"}, seed=0, device="cpu")
    assert isinstance(model, SAC)
    assert isinstance(model.replay_buffer, FrameReplayBuffer)
    model.learn(40)
    assert model.replay_buffer.size() == 40
    assert model.replay_buffer.frames.dtype == np.float16
