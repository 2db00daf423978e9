"""The head standardises by fixed numbers, which random play gives before anything is learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import VecEnv

from stillsight.agents import RlConfig
from stillsight.agents.features.activation import Activation
from stillsight.agents.features.extractor import canonical
from stillsight.agents.features.head import Head
from stillsight.agents.features.standardise import FLOOR, LARGEST, Standardise, Statistics, gather_statistics
from stillsight.agents.features.state_head import StateHead
from stillsight.agents.training.build import make_agent
from stillsight.agents.training.seeds import STANDARDISE, env_seed
from stillsight.agents.training.summary import card
from stillsight.encoders.building import build as build_encoder
from stillsight.encoders.encoder import Block, Encoder
from stillsight.envs import make_vec

Tiny = Callable[..., RlConfig]


def by(statistics: Statistics) -> Standardise:
    """What standardises by `statistics`."""
    module = Standardise(len(statistics.mean))
    module.take(statistics)
    return module


def test_features_get_mean_zero_and_deviation_one() -> None:
    torch.manual_seed(0)
    features = torch.randn(1000, 3) * torch.tensor([0.5, 2.0, 3.0]) + torch.tensor([10.0, 0.0, -5.0])
    module = by(Statistics(features.mean(0), features.std(0, correction=0)))
    standard = module(features)
    torch.testing.assert_close(standard.mean(0), torch.zeros(3), atol=1e-5, rtol=0.0)
    torch.testing.assert_close(standard.std(0, correction=0), torch.ones(3), atol=1e-4, rtol=0.0)


def test_a_dead_feature_stays_quiet_and_a_wild_one_is_clipped() -> None:
    module = by(Statistics(torch.zeros(2), torch.tensor([0.0, 2.0])))
    floor = FLOOR * 1.0  # of the mean deviation
    torch.testing.assert_close(
        module(torch.tensor([0.001, 1e6])), torch.tensor([0.001 / floor, LARGEST]), rtol=1e-4, atol=0
    )


def test_a_small_change_on_a_large_constant_reaches_the_policy() -> None:
    # The failure it prevents: beside features that differ among each other a hundred times more than they move,
    # LayerNorm alone leaves almost nothing of the movement.
    torch.manual_seed(0)
    still = torch.randn(64) * 100
    features = still + torch.randn(500, 64)
    plain = Head(1, [Block(64, 1)], 1, 8)
    standard = Head(1, [Block(64, 1)], 1, 8)
    standard.standardise.take(Statistics(features.mean(0), features.std(0)))
    standard.load_state_dict({**plain.state_dict(), **standard.standardise.state_dict(prefix="standardise.")})
    moves = [head.norm(head.standardise(features)).std(0).mean().item() for head in (plain, standard)]
    assert moves[0] < 0.02
    assert moves[1] == pytest.approx(1.0, abs=0.1)


def test_a_head_ends_in_relu_or_in_layer_norm_and_tanh() -> None:
    torch.manual_seed(0)
    features, state = torch.randn(6, 3, 8), torch.randn(6, 3, 4)
    heads = {end: (Head(3, [Block(8, 1)], 0, 5, end=end), StateHead(3, 4, end=end)) for end in get_args(Activation)}
    for relu, tanh, seen in zip(heads["relu"], heads["tanh"], (features, state), strict=True):
        kept = tanh.load_state_dict(relu.state_dict(), strict=False)
        assert kept.missing_keys == ["activation.0.weight", "activation.0.bias"]
        assert not kept.unexpected_keys, "a head that ends in relu has the names that it always had"
        entered = relu.norm(seen) if isinstance(relu, Head) else seen
        linear = entered.flatten(1) @ relu.linear.weight.T + relu.linear.bias
        centred = linear - linear.mean(1, keepdim=True)
        scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
        torch.testing.assert_close(relu(seen), linear.clamp(min=0))
        torch.testing.assert_close(tanh(seen), scaled.tanh())


@pytest.mark.parametrize(("algo", "end"), [("ppo", "relu"), ("dqn", "relu"), ("sac", "tanh"), ("td3", "tanh")])
def test_the_algorithm_says_how_its_head_ends_and_runs_that_do_not_say_end_in_relu(
    tiny: Tiny, algo: str, end: str
) -> None:
    config = tiny(algo).resolved()
    assert config.activation == end
    told = card(make_agent(config, build_encoder(config), n_envs=2))["head"]
    assert told.endswith(", LayerNorm and tanh") == (end == "tanh")
    before = replace(config, activation=None)  # as config.json of an older run has nothing
    assert isinstance(
        canonical(make_agent(before, build_encoder(before), n_envs=2).model.policy).head.activation, torch.nn.ReLU
    )
    chosen = replace(config, activation="tanh" if end == "relu" else "relu")
    assert isinstance(
        canonical(make_agent(chosen, build_encoder(chosen), n_envs=2).model.policy).head.activation, torch.nn.ReLU
    ) == (end == "tanh")


def test_numbers_that_a_checkpoint_brings_are_standardised_by() -> None:
    bare, measured = Standardise(2), by(Statistics(torch.ones(2), torch.full((2,), 2.0)))
    assert bare(torch.tensor([100.0, -3.0])).tolist() == [100.0, -3.0]
    bare.load_state_dict(measured.state_dict())
    assert bare(torch.tensor([100.0, -3.0])).tolist() == [LARGEST, -2.0]


@pytest.mark.parametrize(
    ("places", "compress", "joined"), [(4, 3, 2 * 3 * 4), (1, 3, 2 * 3), (1, 0, 2 * 8), (0, 3, 2 * 8)]
)
def test_the_convolution_is_shared_by_places_and_frames(places: int, compress: int, joined: int) -> None:
    torch.manual_seed(0)
    head = Head(2, [Block(8, places)], compress, 5)
    assert head.linear.in_features == joined
    features = torch.randn(3, 2, 8)
    assert head(features).shape == (3, 5)
    if head.compress is None:
        return
    # By hand: channel c of place p is feature c * places + p; each place of each frame meets the same weights.
    normed = head.norm(features).view(3, 2, 8 // places, places)
    weight, bias = head.compress.weight.view(compress, -1), head.compress.bias
    assert bias is not None
    small = torch.relu(torch.einsum("kc,nfcp->nfkp", weight, normed) + bias[:, None])
    expected = torch.relu(head.linear(small.reshape(3, -1)))
    torch.testing.assert_close(head(features), expected)


def test_no_statistics_leave_features_as_they_are() -> None:
    features = torch.randn(5, 4)
    assert torch.equal(Standardise(4)(features), features)


def first_look(config: RlConfig, encoder: Encoder) -> Statistics:
    """What `make_agent` gathers before two environments of `config`."""
    venv = make_vec(config.env, 2, seed=env_seed(config.seed + STANDARDISE), options=config.env_options())
    found = gather_statistics(venv, encoder, encoder.learned, config.standardise).features
    assert found is not None
    return found


@pytest.mark.parametrize("mode", ["frozen", "scratch"])
def test_a_first_look_is_the_statistics_of_random_play(tiny: Tiny, mode: str) -> None:
    config = tiny(mode=mode, standardise=24).resolved()
    encoder = build_encoder(config, pinned=True)
    found = first_look(config, encoder)
    venv = make_vec(config.env, 2, seed=env_seed(config.seed + STANDARDISE), options=config.env_options())
    with torch.no_grad():
        features = encoder(torch.from_numpy(np.concatenate(random_frames(venv, 12))))
    assert len(features) == 24
    torch.testing.assert_close(found.mean, features.mean(0))
    torch.testing.assert_close(found.std, features.std(0, correction=0))


@pytest.mark.parametrize("envs", [12, 40])
def test_a_first_look_at_many_environments_goes_as_far_as_one_at_eight(tiny: Tiny, envs: int) -> None:
    """One frame after another, 32 frames of 40 environments would be their resets alone."""
    config = tiny().resolved()
    encoder = build_encoder(config, pinned=True)
    looked_at, played = (make_vec(config.env, envs, seed=3, options=config.env_options()) for _ in range(2))
    found = gather_statistics(looked_at, encoder, encoder.learned, 32).features
    assert found is not None
    turns = [[(step * 8 + place) % envs for place in range(8)] for step in range(4)]
    frames = [frame[turn] for frame, turn in zip(random_frames(played, 4), turns, strict=True)]
    with torch.no_grad():
        features = encoder(torch.from_numpy(np.concatenate(frames)))
    torch.testing.assert_close(found.mean, features.mean(0))
    torch.testing.assert_close(found.std, features.std(0, correction=0))


NEW = [("ppo", "scratch", "grid2"), ("a2c", "scratch", "flatten"), ("ppo", "random", "attention2"),
       ("ppo", "frozen", "conv4"), ("dqn", "scratch", "grid2"), ("sac", "scratch", "grid2")]  # fmt: skip


@pytest.mark.parametrize(("algo", "mode", "pooling"), NEW)
def test_the_first_look_goes_through_the_policy_s_own_eyes(tiny: Tiny, algo: str, mode: str, pooling: str) -> None:
    """SB3 gives what is not pretrained its orthogonal weights when it makes a policy, in PPO and its kin."""
    config = tiny(algo, mode=mode, pooling=pooling, standardise=64, standardise_features=True).resolved()
    encoder = build_encoder(config, pinned=True)
    extractor = canonical(make_agent(config, encoder, n_envs=2).model.policy)
    venv = make_vec(config.env, 2, seed=env_seed(config.seed + STANDARDISE), options=config.env_options())
    frames = torch.from_numpy(np.concatenate(random_frames(venv, 32)))
    with torch.no_grad():
        features = extractor.learned(encoder.frozen(frames))
        head = extractor.head
        assert head is not None
        seen = head.standardise(features)
    torch.testing.assert_close(head.standardise.mean, features.mean(0))
    moving = features.std(0, correction=0) >= FLOOR * features.std(0, correction=0).mean()
    assert moving.float().mean() > 0.3
    torch.testing.assert_close(seen.mean(0), torch.zeros_like(seen[0]), atol=0.2, rtol=0)  # some of it is clipped
    torch.testing.assert_close(seen.std(0)[moving].mean(), torch.tensor(1.0), atol=0.1, rtol=0)


def test_a_look_through_eyes_that_are_initialised_anew_would_blind_a_policy(tiny: Tiny) -> None:
    """The failure that this prevents: nearly all that the policy sees lies beyond the clip, whatever is shown."""
    config = tiny("ppo", mode="scratch", standardise=64, standardise_features=True).resolved()
    encoder = build_encoder(config, pinned=True)
    extractor = canonical(make_agent(config, encoder, n_envs=2).model.policy)
    wrong = by(first_look(config, encoder))
    venv = make_vec(config.env, 2, seed=env_seed(config.seed + STANDARDISE), options=config.env_options())
    with torch.no_grad():
        features = extractor.learned(encoder.frozen(torch.from_numpy(np.concatenate(random_frames(venv, 32)))))
    head = extractor.head
    assert head is not None
    assert (wrong(features).abs() == LARGEST).float().mean() > 0.3
    assert (head.standardise(features).abs() == LARGEST).float().mean() < 0.02


def random_frames(venv: VecEnv, steps: int) -> list[np.ndarray]:
    """What random play shows, from the reset on."""
    frames = [venv.reset()]
    for _ in range(steps - 1):
        frames.append(venv.step(np.array([venv.action_space.sample() for _ in range(venv.num_envs)]))[0])
    return frames


def test_every_network_of_an_agent_standardises_alike_and_training_does_not_move_it(tiny: Tiny) -> None:
    config = tiny("td3", standardise=16)
    encoder = build_encoder(config, pinned=True)
    agent = make_agent(config.resolved(), encoder, n_envs=2)
    policy = agent.model.policy
    expected = first_look(config.resolved(), encoder)
    agent.model.learn(64)
    for name in ("actor", "actor_target", "critic", "critic_target"):
        torch.testing.assert_close(getattr(policy, name).features_extractor.head.standardise.mean, expected.mean)


def test_zero_looks_at_nothing(tiny: Tiny) -> None:
    config = tiny(standardise=0).resolved()
    agent = make_agent(config, build_encoder(config, pinned=True), n_envs=1)
    head = canonical(agent.model.policy).head
    assert torch.equal(head.standardise.mean, torch.zeros_like(head.standardise.mean))
    far = torch.full_like(head.standardise.mean, 5 * LARGEST)
    assert torch.equal(head.standardise(far), far), "what is left as it is, is not clipped"
    assert "features as they are, LayerNorm" in card(agent)["head"]


def test_the_images_of_the_first_look_are_not_counted_as_training(tiny: Tiny) -> None:
    config = tiny(standardise=64).resolved()
    encoder = build_encoder(config, pinned=True)
    first_look(config, encoder)
    assert encoder.counter.images == 0


def test_features_may_be_small() -> None:
    """The last features of a MobileNetV2 with random weights lie near 1e-10."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(64, 5, generator=generator)
    wanted = by(Statistics(features.mean(0), features.std(0)))(features)
    small = features * 1e-10
    found = by(Statistics(small.mean(0), small.std(0)))(small)
    torch.testing.assert_close(found, wanted)
    still = torch.full((4, 5), 3.0)
    assert torch.equal(by(Statistics(still[0], torch.zeros(5)))(still), torch.zeros(4, 5))
