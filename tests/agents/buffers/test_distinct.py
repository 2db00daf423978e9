"""Frames that are alike to the bit are found, and no others; an encoder learns the same from each of them once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stillsight.agents import RlConfig
from stillsight.agents.buffers import distinct as module
from stillsight.agents.buffers.distinct import WORTH, distinct
from stillsight.agents.features import extractor as eyes
from stillsight.agents.features.extractor import canonical
from stillsight.agents.training.build import Agent, make_agent
from stillsight.encoders.building import build as build_encoder

Tiny = Callable[..., RlConfig]


@given(kinds=st.lists(st.integers(0, 5), min_size=1, max_size=40), seed=st.integers(0, 9))
def test_each_frame_is_told_by_its_kind(kinds: list[int], seed: int) -> None:
    frames = torch.randint(0, 256, (6, 3, 4, 4), generator=torch.Generator().manual_seed(seed)).float()
    batch, different = frames[kinds], len(set(kinds))
    found = distinct(batch)
    assert (found is None) == (different > WORTH * len(kinds))
    if found is not None:
        assert len(found.first) == different
        assert torch.equal(batch[found.first][found.kind], batch)
        assert [kinds[place] for place in found.first[found.kind]] == kinds


def test_frames_that_project_to_one_number_are_not_taken_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure that this prevents: an agent would learn from what another frame showed."""
    batch = torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 1.0], [0.0, 1.0], [5.0, 1.0]])
    monkeypatch.setattr(module, "_projection", lambda _: torch.tensor([1.0, 0.0]))
    found = distinct(batch)
    if found is not None:  # which of the four leads the others goes by how they are sorted
        assert torch.equal(batch[found.first][found.kind], batch)
    assert distinct(torch.arange(20.0).view(10, 2)) is None


def test_what_is_no_number_is_never_alike() -> None:
    batch = torch.full((4, 2), float("nan"))
    assert distinct(batch) is None


def agent_of(config: RlConfig) -> Agent:
    resolved = config.resolved()
    return make_agent(resolved, build_encoder(resolved, pinned=True), n_envs=2)


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "scratch"},
        {"mode": "finetune"},
        {"mode": "finetune", "unfreeze": "layer1"},
        {"mode": "finetune", "unfreeze": "layer1", "in_policy": True},
        {"mode": "frozen", "pooling": "attention2"},
    ],
    ids=str,
)
def test_features_and_gradients_are_those_of_every_frame_by_itself(
    tiny: Tiny, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = agent_of(tiny(**changes))
    extractor = canonical(agent.model.policy)
    stacks = [agent.venv.reset()]
    for _ in range(15):
        stacks.append(agent.venv.step(np.array([agent.venv.action_space.sample() for _ in range(2)]))[0])
    shown = torch.as_tensor(np.concatenate(stacks)).float()

    def learned_from() -> tuple[torch.Tensor, dict[str, torch.Tensor], int]:
        extractor.zero_grad()
        passed = 0

        def count(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
            nonlocal passed
            passed += len(inputs[0])

        hook = extractor.learned.register_forward_pre_hook(count)
        features = extractor(shown)
        hook.remove()
        (features.square().sum() + features[:, 0].sum()).backward()
        gradients = {name: one.grad.clone() for name, one in extractor.named_parameters() if one.grad is not None}
        return features.detach(), gradients, passed

    once = learned_from()
    monkeypatch.setattr(eyes, "distinct", lambda _: None)
    each = learned_from()
    assert once[2] < 0.5 * each[2] == 0.5 * 32 * 3, "stacks of three share two with their neighbours"
    torch.testing.assert_close(once[0], each[0], rtol=1e-4, atol=1e-5)
    assert once[1].keys() == each[1].keys()
    assert any(name.startswith("learned") for name in once[1])
    for name, gradient in once[1].items():
        torch.testing.assert_close(gradient, each[1][name], rtol=1e-3, atol=1e-4 * float(each[1][name].abs().max()))


def test_an_encoder_that_does_not_learn_and_one_that_acts_are_left_alone(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: torch.Tensor) -> None:
        raise AssertionError("frames were told apart")

    monkeypatch.setattr(eyes, "distinct", refuse)
    frozen = agent_of(tiny())
    canonical(frozen.model.policy)(torch.as_tensor(frozen.venv.reset()).float())
    learning = agent_of(tiny(mode="scratch"))
    with torch.no_grad():
        canonical(learning.model.policy)(torch.as_tensor(learning.venv.reset()).float())
    gathering = agent_of(tiny(mode="scratch", batchnorm="train"))
    canonical(gathering.model.policy)(torch.as_tensor(gathering.venv.reset()).float())
    with pytest.raises(AssertionError, match="told apart"):
        canonical(learning.model.policy)(torch.as_tensor(learning.venv.reset()).float())
