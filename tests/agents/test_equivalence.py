"""Cached and in-policy are one algorithm: the same actions, and the same updates up to the rounding of batches."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor

from stillsight.agents import RlConfig
from stillsight.agents.training.algorithms import ALGORITHMS
from stillsight.agents.training.build import Agent, make_agent
from stillsight.encoders.device import seed_everything

Tiny = Callable[..., RlConfig]
TOLERANCE = 1e-5

CUTS: dict[str, dict[str, Any]] = {
    "frozen": {},
    "cut_after_the_stem": {"mode": "finetune", "tap": "layer1", "unfreeze": "layer1"},
    "cut_after_layer1": {"mode": "finetune", "tap": "layer2", "unfreeze": "layer2"},
}
STEPS = {"frozen": 256, "cut_after_the_stem": 96, "cut_after_layer1": 128}


class Recorder(BaseCallback):
    """Keeps every action that training took."""

    def __init__(self) -> None:
        super().__init__()
        self.actions: list[np.ndarray] = []

    def _on_step(self) -> bool:
        self.actions.append(np.array(self.locals["actions"]))
        return True


def calm(model: BaseAlgorithm) -> None:
    """Put a larger number beside the gradient's size, by which Adam and RMSprop divide the gradient.

    With SB3's 1e-8, a gradient that is nothing but rounding moves a weight as far as a true one, and two runs that
    differ in the order of a sum drift apart within forty updates.
    """
    for path in model._get_torch_save_params()[0]:
        if path.endswith("optimizer"):
            for group in attrgetter(path)(model).param_groups:
                group["eps"] = 1e-2


def train(config: RlConfig, steps: int) -> tuple[Agent, np.ndarray]:
    torch.set_num_threads(1)
    seed_everything(config.seed)
    agent = make_agent(config.resolved(), config.build_encoder(pinned=True), n_envs=2)
    calm(agent.model)
    before = {name: tensor.clone() for name, tensor in agent.model.policy.state_dict().items()}
    recorder = Recorder()
    agent.model.learn(steps, recorder)
    agent.venv.close()
    moved = max(float((tensor - before[name]).abs().max()) for name, tensor in agent.model.policy.state_dict().items())
    assert moved > 10 * TOLERANCE, "where nothing moves, everything is equal"
    return agent, np.stack(recorder.actions)


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        np.testing.assert_allclose(second[name], tensor, atol=TOLERANCE, rtol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_the_cached_path_is_the_in_policy_path(tiny: Tiny, algo: str, cut: str) -> None:
    assert_one_algorithm(tiny, algo, 64 if algo == "trpo" and cut != "frozen" else STEPS[cut], CUTS[cut])


@pytest.mark.parametrize("adapt", ["norm", "lora"])
@pytest.mark.parametrize("algo", ["ppo", "dqn", "td3"])
def test_it_is_where_only_some_of_the_trained_part_learns(tiny: Tiny, algo: str, adapt: str) -> None:
    changes = {**CUTS["cut_after_layer1"], "adapt": adapt, "encoder_lr": 0.5}
    assert_one_algorithm(tiny, algo, STEPS["cut_after_layer1"], changes)


def assert_one_algorithm(tiny: Tiny, algo: str, steps: int, changes: dict[str, Any]) -> None:
    cached, actions = train(tiny(algo, **changes), steps)
    looked = cached.encoder.counter.images
    in_policy, expected = train(tiny(algo, in_policy=True, **changes), steps)
    assert cached.model._n_updates == in_policy.model._n_updates > 0
    assert looked < in_policy.encoder.counter.images / 3, "or both ran the same way and nothing was compared"
    if actions.dtype == np.float32:
        np.testing.assert_allclose(actions, expected, atol=1e-4)
    else:
        np.testing.assert_array_equal(actions, expected)
        assert len(np.unique(actions)) == 3
    assert_equal(dict(in_policy.model.policy.state_dict()), dict(cached.model.policy.state_dict()))


def test_another_seed_is_another_run(tiny: Tiny) -> None:
    # The check of the test above can fail.
    first, actions = train(tiny("ppo"), 64)
    second, others = train(tiny("ppo", seed=1), 64)
    assert (actions != others).any()
    with pytest.raises(AssertionError):
        assert_equal(dict(first.model.policy.state_dict()), dict(second.model.policy.state_dict()))


def test_a_stack_in_the_policy_repeats_the_first_frame_too(tiny: Tiny) -> None:
    # Zeros in front of an episode, as SB3's VecFrameStack puts them, would be black images, or features of zero.
    cached = make_agent(tiny().resolved(), tiny().build_encoder(pinned=True), n_envs=2)
    config = tiny(in_policy=True)
    in_policy = make_agent(config.resolved(), config.build_encoder(pinned=True), n_envs=2)
    features: object = cached.venv.reset()
    pixels: object = in_policy.venv.reset()
    for step in range(50):
        assert isinstance(pixels, np.ndarray)
        with torch.no_grad():
            expected = in_policy.encoder(torch.from_numpy(pixels).flatten(0, 1)).unflatten(0, pixels.shape[:2])
        assert isinstance(features, np.ndarray)
        np.testing.assert_allclose(features, expected.numpy(), atol=1e-5)
        features, pixels = (agent.venv.step(np.full(2, step % 3))[0] for agent in (cached, in_policy))
