"""Random shifts: what moves, by how much, when, and for whom."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stillsight.agents import RlConfig
from stillsight.agents.errors import RunError
from stillsight.agents.features.extractor import EncoderExtractor
from stillsight.agents.features.random_shift import RandomShift
from stillsight.agents.training.build import make_agent
from stillsight.encoders import Mode
from stillsight.encoders.building import build as build_encoder


@given(seed=st.integers(0, 1_000), count=st.integers(1, 4), height=st.integers(9, 14), width=st.integers(9, 14))
def test_every_observation_is_moved_as_a_padded_crop(seed: int, count: int, height: int, width: int) -> None:
    """Against the reference: pad by repeating the border, then cut the image out again somewhere, as in drqv2.py."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 2, 3, height, width, generator=generator)
    torch.manual_seed(seed)
    moved = RandomShift(4)(images)
    padded = torch.nn.functional.pad(images.flatten(1, 2), (4, 4, 4, 4), mode="replicate")
    for before, after in zip(padded, moved.flatten(1, 2), strict=True):
        crops = [before[:, y : y + height, x : x + width] for y in range(9) for x in range(9)]
        assert any(torch.equal(after, crop) for crop in crops)


def test_all_81_shifts_occur_and_none_is_shared() -> None:
    torch.manual_seed(0)
    images = torch.arange(400.0).reshape(1, 1, 1, 20, 20).expand(4_000, 1, 3, 20, 20)
    centres = RandomShift(4)(images)[:, 0, 0, 10, 10]
    assert len(centres.unique()) == 81
    counts = torch.unique(centres, return_counts=True)[1]
    assert counts.min() > 4_000 / 81 / 2


def test_acting_sees_images_as_they_are() -> None:
    images = torch.rand(2, 1, 3, 12, 12)
    assert torch.equal(RandomShift().eval()(images), images)


def test_a_replay_memory_is_learned_from_through_shifts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The online network alone sees them, and only during updates: the target network and acting do not."""
    config = RlConfig(
        algo="dqn",
        encoder="impala",
        mode=Mode.SCRATCH,
        augment="shift",
        size=32,
        n_envs=1,
        frame_stack=1,
        head=8,
        standardise=0,
        steps=40,
        set=("learning_starts=20", "batch_size=4", "buffer_size=100"),
        device="cpu",
    ).resolved()
    agent = make_agent(config, build_encoder(config, pinned=True), n_envs=1)
    seen: dict[int, set[bool]] = {}
    forward = RandomShift.forward

    def watched(self: RandomShift, observations: torch.Tensor) -> torch.Tensor:
        moved = forward(self, observations)
        seen.setdefault(len(observations), set()).add(torch.equal(moved, observations))
        return moved

    monkeypatch.setattr(RandomShift, "forward", watched)
    agent.model.learn(40)
    assert seen[1] == {True}  # acting
    assert seen[4] == {True, False}  # the target network, and the one that learns
    agent.venv.close()


def test_without_the_flag_nothing_moves() -> None:
    config = RlConfig(mode=Mode.SCRATCH, encoder="impala", size=32, n_envs=1, head=8, standardise=0).resolved()
    agent = make_agent(config, build_encoder(config, pinned=True), n_envs=1)
    assert not any(isinstance(module, RandomShift) for module in agent.model.policy.modules())
    assert any(isinstance(module, EncoderExtractor) for module in agent.model.policy.modules())
    agent.venv.close()


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (RlConfig(algo="dqn", augment="shift"), "its first stages do not learn"),
        (RlConfig(algo="dqn", mode=Mode.FINETUNE, unfreeze="layer2", augment="shift"), "its first stages do not learn"),
        (RlConfig(algo="ppo", mode=Mode.SCRATCH, augment="shift"), "--augment shift needs a replay memory"),
    ],
)
def test_where_shifts_make_no_sense_they_are_refused(config: RlConfig, told: str) -> None:
    with pytest.raises(RunError, match=told):
        config.check()
