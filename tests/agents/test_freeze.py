"""The promise: what is frozen does not change by one bit, whatever an algorithm does to the policy around it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from stillsight.agents import RlConfig, rl
from stillsight.agents.errors import TrainingFault
from stillsight.agents.features.extractor import EncoderExtractor, canonical, encoder_state
from stillsight.agents.training import callbacks
from stillsight.agents.training.algorithms import ALGORITHMS
from stillsight.agents.training.build import Agent, make_agent
from stillsight.encoders import EncoderError, fingerprint
from stillsight.encoders.building import build as build_encoder
from stillsight.envs import EnvOptions, make_vec

Tiny = Callable[..., RlConfig]


def build(config: RlConfig) -> Agent:
    return make_agent(config.resolved(), build_encoder(config, pinned=True), n_envs=2)


def resnet_agent(tiny: Tiny, resnet_file: Path, algo: str, **changes: Any) -> Agent:
    chosen = {"encoder": "resnet18", "tap": "layer2", "weights": resnet_file, "size": 32, "frame_stack": 2, **changes}
    return build(tiny(algo, **chosen))


def heads(model: BaseAlgorithm) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.policy.state_dict().items() if ".head." in f".{name}"}


def in_file(path: Path, names: set[str]) -> str:
    """The hash that an encoder made of the tensors of a file must have."""
    return fingerprint({name: tensor for name, tensor in torch.load(path).items() if name in names})


def extractors(model: BaseAlgorithm) -> list[EncoderExtractor]:
    return [module for module in model.policy.modules() if isinstance(module, EncoderExtractor)]


@pytest.mark.parametrize("in_policy", [False, True], ids=["cached", "in_policy"])
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_no_algorithm_changes_a_bit_of_the_frozen_network(
    tiny: Tiny, resnet_file: Path, algo: str, in_policy: bool
) -> None:
    agent = resnet_agent(tiny, resnet_file, algo, in_policy=in_policy)
    names = set(agent.encoder.state())
    assert {"bn1.running_mean", "bn1.num_batches_tracked", "layer2.1.conv2.weight"} <= names
    expected = in_file(resnet_file, names)
    assert agent.sha256() == agent.encoder.sha256() == expected
    before = heads(agent.model)
    agent.model.learn(64)
    assert agent.model._n_updates > 0
    assert agent.sha256() == agent.encoder.sha256() == expected
    after = heads(agent.model)
    assert before
    learned = [name for name in before if "target" not in name]
    assert all((before[name] != after[name]).any() for name in learned if name.endswith("linear.weight"))
    agent.venv.close()


class Plain(BaseFeaturesExtractor):
    """What everybody writes first: the pretrained network in a features extractor, frozen and in eval mode."""

    def __init__(self, space: spaces.Box, weights: Path) -> None:
        super().__init__(space, 128)
        self.net = torchvision.models.resnet18(weights=None)
        self.net.load_state_dict(torch.load(weights))
        self.net.requires_grad_(False)
        self.net.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        net = self.net
        maps: Tensor = net.layer2(net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(pixels))))))
        return maps.mean((2, 3))


def stock(cls: type[BaseAlgorithm], weights: Path, **arguments: Any) -> tuple[BaseAlgorithm, nn.Module]:
    env = "stillsight/OrchardContinuous-v0" if cls in (SAC, TD3) else "stillsight/Orchard-v0"
    kwargs = {"features_extractor_class": Plain, "features_extractor_kwargs": {"weights": weights}, "net_arch": []}
    model = cls(
        "CnnPolicy",
        make_vec(env, 1, options=EnvOptions(size=32)),
        policy_kwargs=kwargs,
        seed=0,
        device="cpu",
        **arguments,
    )
    owner: Any = getattr(model.policy, "actor", None) or getattr(model.policy, "q_net", None) or model.policy
    network = owner.features_extractor.net
    assert isinstance(network, nn.Module)
    return model, network


def test_a_frozen_network_that_changes_all_the_same_ends_the_run_without_a_summary(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = callbacks.Episodes._on_step

    def on_step(self: callbacks.Episodes) -> bool:
        with torch.no_grad():
            next(iter(self.training_env.encoder.frozen.state().values())).add_(1e-3)  # type: ignore[attr-defined]
        return original(self)

    monkeypatch.setattr(callbacks.Episodes, "_on_step", on_step)
    with pytest.raises(TrainingFault, match=r"The encoder changed while its agent learned, and --mode frozen keeps it"):
        rl(tiny("ppo", out=tmp_path / "run"))
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize("cls", [PPO, A2C])
def test_stock_sb3_erases_pretrained_weights_before_the_first_step(cls: type[BaseAlgorithm], resnet_file: Path) -> None:
    # T1: orthogonal initialisation writes to parameters that require no gradient. Were this fixed upstream, our shield
    # would be needless; and the check of the test above is shown to be able to fail.
    _, network = stock(cls, resnet_file)
    pretrained = torch.load(resnet_file)
    changed = [name for name, tensor in network.state_dict().items() if not torch.equal(tensor, pretrained[name])]
    assert len([name for name in changed if "conv" in name or "downsample.0" in name]) == 20
    assert in_file(resnet_file, set(pretrained)) != fingerprint(network.state_dict())


@pytest.mark.parametrize("cls", [DQN, SAC, TD3])
def test_stock_sb3_moves_the_statistics_of_batchnorm(cls: type[BaseAlgorithm], resnet_file: Path) -> None:
    # T2: set_training_mode(True) overrides the .eval() of the constructor.
    model, network = stock(cls, resnet_file, learning_starts=4, batch_size=4, buffer_size=50, train_freq=4)
    pretrained = torch.load(resnet_file)
    assert fingerprint(network.state_dict()) == in_file(resnet_file, set(pretrained)), "before a step it is untouched"
    model.learn(12)
    drifted = [name for name, tensor in network.state_dict().items() if not torch.equal(tensor, pretrained[name])]
    assert "bn1.running_mean" in drifted
    assert "layer2.1.bn2.running_var" in drifted


def test_stock_ppo_moves_the_statistics_of_batchnorm_even_without_orthogonal_initialisation(resnet_file: Path) -> None:
    model = PPO(
        "CnnPolicy",
        make_vec("stillsight/Orchard-v0", 1, options=EnvOptions(size=32)),
        policy_kwargs={
            "features_extractor_class": Plain,
            "features_extractor_kwargs": {"weights": resnet_file},
            "ortho_init": False,
        },
        n_steps=8,
        batch_size=8,
        n_epochs=1,
        seed=0,
        device="cpu",
    )
    model.learn(8)
    drifted: Any = model.policy.features_extractor
    assert not torch.equal(drifted.net.bn1.running_mean, torch.load(resnet_file)["bn1.running_mean"])


def gram(weight: Tensor) -> Tensor:
    flat = weight.detach().flatten(1)
    return flat @ flat.T if flat.shape[0] <= flat.shape[1] else flat.T @ flat


@pytest.mark.parametrize("algo", ["ppo", "a2c", "trpo", "recurrent_ppo"])
def test_orthogonal_initialisation_still_reaches_the_head_and_the_actions(tiny: Tiny, algo: str) -> None:
    # Turning ortho_init off would have spared the encoder, and lost the small first action layer: a silent change.
    agent = build(tiny(algo))
    head = canonical(agent.model.policy).head
    assert head.compress is not None
    for layer, gain in ((head.linear, 2**0.5), (head.compress, 2**0.5), (agent.model.policy.action_net, 0.01)):
        assert isinstance(layer, nn.Module)
        weight = layer.get_parameter("weight")
        scale = gram(weight) / gain**2
        torch.testing.assert_close(scale, torch.eye(len(scale)), atol=1e-4, rtol=0)
    assert not head.linear.bias.any()


def test_initialisation_goes_past_pretrained_weights_that_learn_and_reaches_random_ones(
    tiny: Tiny, resnet_file: Path
) -> None:
    pretrained = torch.load(resnet_file)
    finetuned = resnet_agent(tiny, resnet_file, "ppo", mode="finetune")
    for name, tensor in encoder_state(finetuned.encoder, finetuned.model.policy).items():
        assert torch.equal(tensor, pretrained[name]), name
    scratch = resnet_agent(tiny, resnet_file, "ppo", mode="scratch", weights=None)
    first = encoder_state(scratch.encoder, scratch.model.policy)["conv1.weight"]
    torch.testing.assert_close(gram(first), 2 * torch.eye(64), atol=1e-4, rtol=0)


@pytest.mark.parametrize("in_policy", [False, True], ids=["cached", "in_policy"])
@pytest.mark.parametrize("algo", ["ppo", "dqn", "sac", "td3"])
def test_the_frozen_part_is_in_no_state_dict_and_in_no_optimizer(tiny: Tiny, algo: str, in_policy: bool) -> None:
    agent = build(tiny(algo, in_policy=in_policy))
    frozen = {tensor.data_ptr() for tensor in agent.encoder.frozen.steps.state_dict().values() if tensor.numel()}
    assert len(frozen) > 10
    policy = agent.model.policy
    held = [*policy.state_dict().values(), *policy.parameters(), *policy.buffers()]
    assert not frozen & {tensor.data_ptr() for tensor in held}
    assert not any(module is agent.encoder.frozen for module in policy.modules())
    optimized = [
        parameter
        for name in agent.model._get_torch_save_params()[0]
        if name.endswith("optimizer")
        for group in _attribute(agent.model, name).param_groups
        for parameter in group["params"]
    ]
    assert optimized
    assert not frozen & {parameter.data_ptr() for parameter in optimized}
    assert all(parameter.requires_grad for parameter in optimized if parameter.data_ptr() not in _targets(policy))


def _attribute(root: object, path: str) -> Any:
    for name in path.split("."):
        root = getattr(root, name)
    return root


def _targets(policy: nn.Module) -> set[int]:
    return {tensor.data_ptr() for name, tensor in policy.named_parameters() if "target" in name}


@pytest.mark.parametrize(("algo", "count"), [("ppo", 1), ("dqn", 2), ("sac", 3), ("td3", 4), ("qrdqn", 2), ("tqc", 3)])
def test_all_copies_of_the_extractor_look_through_one_frozen_network(tiny: Tiny, algo: str, count: int) -> None:
    # T4: every constructor of a plain extractor would load the weights once more.
    agent = build(tiny(algo, in_policy=True))
    found = extractors(agent.model)
    assert len(found) == count
    assert {id(extractor._frozen[0]) for extractor in found} == {id(agent.encoder.frozen)}
    assert len({extractor.head.linear.weight.data_ptr() for extractor in found}) == count


def test_copies_learn_on_their_own_and_the_target_follows(tiny: Tiny) -> None:
    agent = build(
        tiny("dqn", mode="finetune", set=("learning_starts=8", "batch_size=4", "target_update_interval=10_000"))
    )
    policy: Any = agent.model.policy
    online, target = policy.q_net.features_extractor.learned, policy.q_net_target.features_extractor.learned
    before = {name: tensor.clone() for name, tensor in target.state().items()}
    assert all(torch.equal(tensor, before[name]) for name, tensor in online.state().items())
    agent.model.learn(32)
    assert any((tensor != before[name]).any() for name, tensor in online.state().items())
    assert fingerprint(target.state()) == fingerprint(before), "between two updates the target stands still"


@pytest.mark.parametrize("algo", ["ppo", "dqn", "sac"])
def test_what_stands_before_an_intermediate_cut_is_frozen_and_batchnorm_behind_it_keeps_its_statistics(
    tiny: Tiny, resnet_file: Path, algo: str
) -> None:
    agent = resnet_agent(tiny, resnet_file, algo, mode="finetune", unfreeze="layer2")
    pretrained = torch.load(resnet_file)
    agent.model.learn(64)
    state = encoder_state(agent.encoder, agent.model.policy)
    changed = {name for name, tensor in state.items() if not torch.equal(tensor, pretrained[name])}
    assert {name.partition(".")[0] for name in changed} == {"layer2"}
    assert "layer2.0.conv1.weight" in changed
    assert not [name for name in changed if "running" in name or "num_batches" in name]


def test_the_first_update_of_ppo_starts_from_a_ratio_of_one(tiny: Tiny, resnet_file: Path) -> None:
    # T2: with BatchNorm in train mode, rollout and update disagree before anything is learned.
    agent = resnet_agent(
        tiny, resnet_file, "ppo", mode="finetune", set=("n_steps=16", "batch_size=32", "n_epochs=1", "clip_range=0.2")
    )
    agent.model.learn(32)
    assert abs(agent.model.logger.name_to_value["train/approx_kl"]) < 1e-6

    plain, network = stock(PPO, resnet_file, n_steps=16, batch_size=16, n_epochs=1)
    network.load_state_dict(torch.load(resnet_file))
    plain.learn(16)
    assert abs(plain.logger.name_to_value["train/approx_kl"]) > 1e-6


@pytest.mark.parametrize("algo", ["ppo", "dqn", "sac"])
def test_saving_with_stock_sb3_is_small_and_stock_loading_acts_the_same(
    tiny: Tiny, resnet_file: Path, tmp_path: Path, algo: str
) -> None:
    # T7: with a plain extractor the zip of SAC holds the backbone three times, and 45 MB each.
    # The loaded encoder runs as its author wrote it, and other engines round otherwise.
    agent = resnet_agent(tiny, resnet_file, algo, engine="eager")
    agent.model.learn(64)
    agent.model.save(tmp_path / "model.zip")
    # What learns, its target and two moments of Adam; the backbone alone would add 2.7 MB a copy.
    policy = sum(tensor.nbytes for tensor in agent.model.policy.state_dict().values())
    assert (tmp_path / "model.zip").stat().st_size < 3 * policy + 200_000
    assert (tmp_path / "model.zip").stat().st_size < (4_000_000 if algo == "sac" else 500_000)
    loaded = type(agent.model).load(tmp_path / "model.zip", device="cpu")
    random = np.random.default_rng(0)
    shape = agent.venv.observation_space.shape
    assert shape is not None
    observations = random.normal(0, 1, (20, *shape)).astype(np.float32)
    first, _ = agent.model.predict(observations, deterministic=True)
    second, _ = loaded.predict(observations, deterministic=True)
    np.testing.assert_array_equal(first, second)
    pixels = random.integers(0, 256, (6, 2, 3, 32, 32), dtype=np.uint8)
    assert extractors(loaded)[0]._frozen[0] is not agent.encoder.frozen
    features = []
    with torch.no_grad():
        for model in (loaded, agent.model):
            eyes = extractors(model)[0]
            frames = eyes._frozen[0](torch.from_numpy(pixels).flatten(0, 1)).unflatten(0, (6, 2))
            features.append(eyes(frames))
    torch.testing.assert_close(*features, rtol=0, atol=0)


def test_stock_loading_refuses_other_weights_under_the_same_name(tiny: Tiny, resnet_file: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    weights.write_bytes(resnet_file.read_bytes())
    agent = resnet_agent(tiny, weights, "ppo")
    agent.model.save(tmp_path / "model.zip")
    torch.manual_seed(99)
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), weights)
    with pytest.raises(EncoderError, match=r"The weights of resnet18 have changed.*weights\.pth now holds"):
        PPO.load(tmp_path / "model.zip", device="cpu")


def test_pixels_reach_the_encoder_unscaled(tiny: Tiny, resnet_file: Path) -> None:
    # T10: SB3 divides images by 255 before they reach an extractor; the encoder normalises by its own recipe.
    agent = resnet_agent(tiny, resnet_file, "ppo", in_policy=True)
    pixels = np.random.default_rng(1).integers(0, 256, (4, 2, 3, 32, 32), dtype=np.uint8)
    policy: Any = agent.model.policy
    tensor, _ = policy.obs_to_tensor(pixels)
    encoded = agent.encoder(torch.from_numpy(pixels).flatten(0, 1)).unflatten(0, (4, 2))
    with torch.no_grad():
        seen = policy.extract_features(tensor)
        torch.testing.assert_close(seen, canonical(policy).head(encoded))
        assert (seen - canonical(policy).head(torch.zeros_like(encoded))).abs().max() > 1e-3
