"""Fusion of the frames of a stack: differences by numpy, zero where an episode begins, learned from by algorithms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from stillsight.agents import EncodedVecEnv, EncoderExtractor, RlConfig
from stillsight.agents.cli import main
from stillsight.agents.errors import RunError
from stillsight.agents.features.encoded_vec_env import FrameStack
from stillsight.agents.features.extractor import canonical
from stillsight.agents.features.fusion import Fusion, fuse, fused
from stillsight.agents.features.head import Head
from stillsight.agents.training.build import make_agent
from stillsight.encoders.building import build
from stillsight.encoders.encoder import Block
from stillsight.envs import make_vec

Tiny = Callable[..., RlConfig]
FUSIONS: list[Fusion] = ["stack", "difference", "stack+difference"]


def reference(latents: np.ndarray, fusion: Fusion) -> np.ndarray:
    differences = np.diff(latents, axis=1)
    return {
        "stack": latents,
        "difference": differences,
        "stack+difference": np.concatenate([latents, differences], 1),
    }[fusion]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_differences_are_those_of_neighbours_the_newer_less_the_older(fusion: Fusion) -> None:
    latents = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    found = fuse(torch.from_numpy(latents), fusion)
    np.testing.assert_allclose(found.numpy(), reference(latents, fusion), atol=1e-6)
    assert found.shape[1] == fused(4, fusion)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_head_fuses_what_its_convolution_gives(fusion: Fusion) -> None:
    torch.manual_seed(0)
    head = Head(4, [Block(8, 4)], 3, 5, fusion=fusion)
    assert head.linear.in_features == fused(4, fusion) * 3 * 4
    features = torch.randn(2, 4, 8)
    assert isinstance(head.compress, torch.nn.Conv2d)
    weight, bias = head.compress.weight.view(3, 2), head.compress.bias
    assert bias is not None
    normed = head.norm(features).view(2, 4, 2, 4)
    latents = torch.relu(torch.einsum("kc,nfcp->nfkp", weight, normed) + bias[:, None]).flatten(2)
    expected = torch.relu(head.linear(torch.from_numpy(reference(latents.detach().numpy(), fusion)).flatten(1)))
    torch.testing.assert_close(head(features), expected)


def test_where_an_episode_begins_nothing_has_moved() -> None:
    """The stack begins as copies of one frame, in the middle of the others' episodes too."""
    frames = np.random.default_rng(0).normal(size=(3, 2, 6)).astype(np.float32)
    stack = FrameStack(2, 3, (6,), np.dtype(np.float32))
    first = fuse(torch.from_numpy(stack.start(frames[0])), "difference")
    assert torch.equal(first, torch.zeros(2, 2, 6))
    stack.push(frames[1], np.zeros(2, bool))
    later = fuse(torch.from_numpy(stack.push(frames[2], np.array([True, False]))), "difference")
    assert torch.equal(later[0], torch.zeros(2, 6))
    np.testing.assert_allclose(later[1].numpy(), np.diff(frames[:, 1], axis=0), atol=1e-6)
    # So a head that sees differences alone answers every first frame with its bias.
    torch.manual_seed(0)
    head = Head(3, [Block(6, 1)], 4, 5, fusion="difference")
    torch.testing.assert_close(head(torch.from_numpy(stack.start(frames[0]))), head.linear.bias.relu().expand(2, -1))


@pytest.mark.parametrize("algo", ["ppo", "dqn", "sac"])
def test_observations_and_buffers_stay_stacks_and_each_frame_is_encoded_once(tiny: Tiny, algo: str) -> None:
    images, shapes = [], []
    for fusion in ("stack", "stack+difference"):
        config = tiny(algo, fusion=fusion).resolved()
        agent = make_agent(config, build(config, pinned=True), n_envs=2)
        before = canonical(agent.model.policy).head.linear.weight.detach().clone()
        agent.model.learn(64)
        agent.venv.close()
        head = canonical(agent.model.policy).head
        assert head.linear.in_features == fused(3, config.fusion) * 4 * 4
        latest = head.linear.weight[:, -16:]  # of the newest difference, or frame
        assert not torch.equal(latest, before[:, -16:])
        images.append(agent.encoder.counter.images)
        shapes.append(agent.venv.observation_space.shape)
    # What is encoded depends on where episodes end, which the first frames' random actions decide alike.
    assert shapes[0] == shapes[1] == (3, 256)
    assert max(images) <= 64 + 12


def test_one_frame_has_no_differences(tiny: Tiny, capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    words = ["rl", "--fusion", "difference", "--frame-stack", "1", "--out", str(tmp_path / "run")]
    assert main(words) == 2
    said = "--fusion difference takes differences of frames, and an observation is one frame here. Type --frame-stack 4"
    assert said in capsys.readouterr().err
    with pytest.raises(RunError, match="--fusion difference takes differences"):
        RlConfig(fusion="difference").check()  # Orchard's preset has one frame
    config = tiny(fusion="difference")
    config.check()
    encoder = build(config, pinned=True)
    venv = EncodedVecEnv(make_vec(config.env, 1, options=config.env_options()), encoder, frame_stack=1)
    assert isinstance(venv.observation_space, spaces.Box)
    with pytest.raises(RunError, match=r"--fusion stack\+difference takes differences"):
        EncoderExtractor(venv.observation_space, encoder, fusion="stack+difference")
