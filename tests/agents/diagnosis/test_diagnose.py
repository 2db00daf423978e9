"""diagnose(): each fault in a real, stock SB3 model that has it, and silence about the model in which it is mended."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
import torchvision
from gymnasium import spaces
from safetensors.torch import save_file
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from stillsight.agents import EncodedVecEnv, Finding, RlConfig, diagnose
from stillsight.agents.diagnosis.probe import networks
from stillsight.agents.errors import RunError
from stillsight.agents.training.algorithms import ALGORITHMS
from stillsight.agents.training.build import make_agent
from stillsight.encoders import EncoderError, build
from stillsight.encoders.building import build as build_encoder
from stillsight.envs import EnvOptions, make_vec

Tiny = Callable[..., RlConfig]
README = (Path(__file__).resolve().parents[3] / "agents" / "diagnosis" / "README.md").read_text()
BEFORE, AFTER = (text for text in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL) if "diagnose(" in text)
"""The two programs of the README, word for word."""


def net(seed: int = 5) -> nn.Sequential:
    """A small network as they come pretrained: convolutions, BatchNorm that has seen data, dropout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, stride=2, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(),
        )
    for norm in (model[1], model[4]):
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        norm.running_mean.fill_(0.1)
    return model


class Eyes(BaseFeaturesExtractor):
    """A pretrained network in a features extractor, in all the ways in which people write one."""

    passed = 0
    """Images that went through the network of any instance."""

    def __init__(
        self,
        space: spaces.Box,
        *,
        trained: bool = False,
        pinned: bool = False,
        without_graph: bool = False,
        scale: float = 1.0,
        mean: float = 0.0,
        std: float = 1.0,
        drop: float = 0.0,
        shared: nn.Module | None = None,
    ) -> None:
        super().__init__(space, 12)
        self.net = shared or net()
        self.pinned, self.without_graph = pinned, without_graph
        self.net.requires_grad_(trained or without_graph)
        self.scale, self.mean, self.std = scale, mean, std
        self.drop = nn.Dropout(drop)
        self.net.eval()
        if drop:
            self.net.append(self.drop)

    def train(self, mode: bool = True) -> Eyes:
        super().train(mode)
        if self.pinned:
            self.net.eval()
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        images = pixels.reshape(-1, 3, *pixels.shape[-2:])
        Eyes.passed += len(images)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.without_graph):
            features: Tensor = self.net((images * self.scale - self.mean) / self.std).mean((2, 3))
        return features.view(len(pixels), -1, 12).mean(1)


OFF = {"buffer_size": 200, "batch_size": 4, "learning_starts": 4}
SMALL: dict[type[BaseAlgorithm], dict[str, Any]] = {
    PPO: {"n_steps": 8, "batch_size": 8, "n_epochs": 2},
    A2C: {"n_steps": 8},
    DQN: OFF,
    SAC: OFF,
    TD3: OFF,
    DDPG: OFF,
}
CONTINUOUS = (SAC, TD3, DDPG)


def stock(
    cls: type[BaseAlgorithm], policy: dict[str, Any] | None = None, *, env: Any = None, n_envs: int = 1, **eyes: Any
) -> BaseAlgorithm:
    name = "stillsight/OrchardContinuous-v0" if cls in CONTINUOUS else "stillsight/Orchard-v0"
    env = env or make_vec(name, n_envs, options=EnvOptions(size=16))
    extractor = {"features_extractor_class": Eyes, "features_extractor_kwargs": eyes, "net_arch": [8]}
    return cls("CnnPolicy", env, policy_kwargs={**extractor, **(policy or {})}, seed=0, device="cpu", **SMALL[cls])


def of(findings: list[Finding], code: str) -> Finding | None:
    found = [finding for finding in findings if finding.code == code]
    assert len(found) <= 1
    return found[0] if found else None


def the(findings: list[Finding], code: str) -> Finding:
    found = of(findings, code)
    assert found is not None, [finding.code for finding in findings]
    return found


def severities(findings: list[Finding]) -> dict[str, str]:
    return {finding.code: finding.severity for finding in findings}


# The README


def test_the_programs_of_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(BEFORE, {"__name__": "readme"})
    shown = capsys.readouterr().out
    assert [line.split(",")[0] for line in shown.splitlines() if not line.startswith(" ")] == [
        "WRONG orthogonal-init",
        "WRONG batchnorm-not-pinned",
        "RISK not-normalised",
        "COST copies",
        "COST frames-encoded-per-step",
        "NOTE frozen-but-optimised",
    ]
    assert "21 of 21 weight tensors are not those that were given" in shown
    assert "0 to 1 reaches the first convolution" in shown
    exec(AFTER, {"__name__": "readme"})


# It changes nothing


class Restless(Eyes):
    """Moves a buffer, replaces another and draws random numbers from three generators in each forward pass."""

    def __init__(self, space: spaces.Box, **eyes: Any) -> None:
        super().__init__(space, drop=0.5, **eyes)
        self.register_buffer("seen", torch.zeros(1))
        self.register_buffer("last", torch.zeros(1))

    def forward(self, pixels: Tensor) -> Tensor:
        self.seen: Tensor
        self.seen += len(pixels)
        self.last = self.seen.clone()
        torch.rand(1), np.random.rand(), random.random()
        return super().forward(pixels)


def everything(model: BaseAlgorithm) -> dict[str, Any]:
    policy = model.policy
    modules = dict(policy.named_modules())
    assert model.observation_space is not None
    return {
        "state": {name: tensor.clone() for name, tensor in policy.state_dict().items()},
        "storage": {name: tensor.data_ptr() for name, tensor in policy.state_dict().items()},
        "flags": {name: module.training for name, module in modules.items()},
        "requires_grad": {name: parameter.requires_grad for name, parameter in policy.named_parameters()},
        "graph": [parameter.grad is None for parameter in policy.parameters()],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules.values()],
        "torch": torch.get_rng_state(),
        "numpy": [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
        "python": list(random.getstate()[1]),
        "space": str(model.observation_space.np_random.bit_generator.state),
        "steps": model.num_timesteps,
    }


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("cls", [PPO, DQN, SAC, TD3])
def test_a_model_is_as_it_was(cls: type[BaseAlgorithm], training: bool, same: Callable[[Any, Any], bool]) -> None:
    model = stock(cls, {"features_extractor_class": Restless})
    model.policy.set_training_mode(training)
    extractor = networks(model.policy)[0].extractor
    extractor.net[1].train(not training)  # type: ignore[index,union-attr] - flags need not agree
    before = everything(model)
    assert len(diagnose(model, weights=net().state_dict())) > 3
    after = everything(model)
    for name, value in before.items():
        assert same(value, after[name]), name
    with torch.no_grad():  # the check can fail: a pass outside of diagnose moves all of this
        extractor(torch.zeros(1, 3, 16, 16))
    moved = everything(model)
    assert not any(same(before[name], moved[name]) for name in ("state", "torch", "numpy", "python"))


def test_the_count_of_images_of_an_encoder_stands_still(tiny: Tiny) -> None:
    config = tiny("ppo", in_policy=True)
    agent = make_agent(config.resolved(), build_encoder(config, pinned=True), n_envs=2)
    before, sha256 = agent.encoder.counter.images, agent.sha256()
    findings = diagnose(agent.model)
    assert (agent.encoder.counter.images, agent.sha256()) == (before, sha256)
    # Three frames in an observation, n_steps=16, n_epochs=2.
    assert "9.2 images" in the(findings, "frames-encoded-per-step").found


# Lost weights


@pytest.mark.parametrize("cls", [PPO, A2C])
def test_orthogonal_initialisation_is_seen_by_its_mark(cls: type[BaseAlgorithm]) -> None:
    model = stock(cls)
    finding = the(diagnose(model), "orthogonal-init")
    assert finding.severity == "wrong"
    assert finding.where == "policy.features_extractor.net"
    assert finding.found.startswith("2 of 2 convolutions")
    model.learn(16)
    assert the(diagnose(model), "orthogonal-init").severity == "wrong"


def test_orthogonal_initialisation_is_proved_by_the_weights(tmp_path: Path) -> None:
    model, original = stock(PPO), net().state_dict()
    changed = [name for name, t in networks(model.policy)[0].module.state_dict().items() if (t != original[name]).any()]
    assert changed == ["0.weight", "3.weight"]
    save_file(original, tmp_path / "net.safetensors")
    torch.save(original, tmp_path / "net.pth")
    prefixed = {f"model.backbone.{name}": tensor for name, tensor in original.items()}
    for weights in (original, prefixed, tmp_path / "net.safetensors", str(tmp_path / "net.pth")):
        finding = the(diagnose(model, weights=weights), "orthogonal-init")
        assert finding.severity == "wrong"
        assert "2 of 2 weight tensors are not those that were given" in finding.found


def test_unshared_extractors_are_both_named() -> None:
    finding = the(diagnose(stock(PPO, {"share_features_extractor": False})), "orthogonal-init")
    assert finding.where == "policy.features_extractor.net, policy.vf_features_extractor.net"


def test_a_network_that_learns_is_only_suspected_of_having_been_pretrained() -> None:
    class Library(Eyes):
        def __init__(self, space: spaces.Box) -> None:
            super().__init__(space, trained=True)
            self.net = torchvision.models.resnet.BasicBlock(3, 3)

        def forward(self, pixels: Tensor) -> Tensor:
            return self.net(pixels).mean((2, 3)).repeat(1, 4)  # type: ignore[no-any-return]

    trained = {"trained": True}
    assert of(diagnose(stock(PPO, **trained)), "orthogonal-init") is None
    assert the(diagnose(stock(PPO, **trained), weights=net().state_dict()), "orthogonal-init").severity == "wrong"
    library = stock(PPO, {"features_extractor_class": Library, "features_extractor_kwargs": {}})
    assert the(diagnose(library), "orthogonal-init").severity == "note", "three rows cannot tell"


def test_weights_loaded_afterwards_are_safe_until_the_next_policy_is_built(tmp_path: Path) -> None:
    model, original = stock(PPO), net().state_dict()
    networks(model.policy)[0].module.load_state_dict(original)
    for weights in (None, original):
        finding = the(diagnose(model, weights=weights), "orthogonal-init")
        assert finding.severity == "note"
        assert "reaches 2 convolutions and linear layers here, of which 0 are orthogonal now" in finding.found
    model.save(tmp_path / "model.zip")
    assert the(diagnose(PPO.load(tmp_path / "model.zip"), weights=original), "orthogonal-init").severity == "note"
    assert the(diagnose(stock(PPO), weights=original), "orthogonal-init").severity == "wrong"


def test_no_orthogonal_initialisation_no_finding() -> None:
    original = net().state_dict()
    for model in (stock(PPO, {"ortho_init": False}), stock(DQN), stock(SAC), stock(TD3)):
        assert of(diagnose(model, weights=original), "orthogonal-init") is None
        assert of(diagnose(model, weights=original), "weights-differ") is None


def test_weights_that_were_never_loaded() -> None:
    finding = the(diagnose(stock(DQN), weights=net(seed=6).state_dict()), "weights-differ")
    assert finding.severity == "wrong"
    assert finding.found == "2 of 2 weight tensors are not those that were given. The first is 0.weight."


def test_weights_that_have_learned_may_differ() -> None:
    model = stock(DQN, trained=True)
    model.learn(20)
    assert not torch.equal(networks(model.policy)[0].module.state_dict()["0.weight"], net().state_dict()["0.weight"])
    assert of(diagnose(model, weights=net().state_dict()), "weights-differ") is None


def test_maskable_and_recurrent_policies_initialise_too() -> None:
    contrib = pytest.importorskip("sb3_contrib")
    kwargs = {"features_extractor_class": Eyes, "net_arch": [8]}
    for cls, policy in ((contrib.MaskablePPO, "CnnPolicy"), (contrib.RecurrentPPO, "CnnLstmPolicy")):
        venv = make_vec("stillsight/Orchard-v0", 1, options=EnvOptions(size=16))
        model = cls(policy, venv, n_steps=8, batch_size=8, policy_kwargs=kwargs, device="cpu")
        assert the(diagnose(model), "orthogonal-init").severity == "wrong"


# BatchNorm and dropout


@pytest.mark.parametrize("cls", [PPO, A2C, DQN, SAC, TD3])
def test_batchnorm_that_wakes_with_every_update(cls: type[BaseAlgorithm]) -> None:
    original = net().state_dict()
    model = stock(cls)
    finding = the(diagnose(model, weights=original), "batchnorm-not-pinned")
    assert finding.severity == "wrong"
    assert finding.found.startswith("2 BatchNorm layers")
    assert "0 of 4 statistics have moved" in finding.found
    model.learn(16)
    assert "4 of 4 statistics have moved" in the(diagnose(model, weights=original), "batchnorm-not-pinned").found
    pinned = stock(cls, pinned=True)
    pinned.learn(16)
    assert of(diagnose(pinned, weights=original), "batchnorm-not-pinned") is None
    assert torch.equal(networks(pinned.policy)[0].module.state_dict()["1.running_mean"], original["1.running_mean"])


@pytest.mark.parametrize("frozen_by", ["requires_grad", "no_grad"])
def test_a_network_is_frozen_in_two_ways(frozen_by: str) -> None:
    model = stock(DQN, without_graph=frozen_by == "no_grad")
    assert severities(diagnose(model))["batchnorm-not-pinned"] == "wrong"
    assert severities(diagnose(model))["copies"] == "cost"


def test_batchnorm_of_a_network_that_learns_is_a_risk() -> None:
    assert severities(diagnose(stock(PPO, trained=True)))["batchnorm-not-pinned"] == "risk"


def test_layers_that_take_no_part_do_not_count() -> None:
    class Early(Eyes):
        def forward(self, pixels: Tensor) -> Tensor:
            return self.net[:3](pixels).mean((2, 3)).repeat(1, 2)[:, :12]  # type: ignore[index,no-any-return]

    model = stock(DQN, {"features_extractor_class": Early})
    assert the(diagnose(model), "batchnorm-not-pinned").found.startswith("1 BatchNorm layers")


def test_dropout_that_wakes_with_every_update() -> None:
    finding = the(diagnose(stock(PPO, drop=0.2)), "dropout-not-pinned")
    assert finding.severity == "wrong"
    assert "Layers that drop at random (1 Dropout) go" in finding.found
    assert of(diagnose(stock(PPO, drop=0.2, pinned=True)), "dropout-not-pinned") is None
    assert of(diagnose(stock(PPO)), "dropout-not-pinned") is None


# Pixels


class Camera(gymnasium.Env[Any, Any]):
    """Images of any dtype, range and shape; only the spaces matter."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.observation_space = space
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        return self.observation_space.sample(), {}


BYTES = spaces.Box(0, 255, (3, 16, 16), np.uint8)
UNIT = spaces.Box(0.0, 1.0, (3, 16, 16), np.float32)
WIDE = spaces.Box(0.0, 255.0, (3, 16, 16), np.float32)
STACK = spaces.Box(0, 255, (4, 3, 16, 16), np.uint8)
NORMALISED = {"mean": 0.45, "std": 0.225}
KEPT = {"normalize_images": False}


@pytest.mark.parametrize(
    ("space", "policy", "eyes", "expected"),
    [
        (BYTES, {}, NORMALISED, None),
        (BYTES, KEPT, {"scale": 1 / 255, **NORMALISED}, None),
        (UNIT, KEPT, NORMALISED, None),
        (STACK, KEPT, {"scale": 1 / 255, **NORMALISED}, None),
        (WIDE, KEPT, {"mean": 120.0}, None),  # as Caffe's weights want it
        (BYTES, {}, {"scale": 1 / 255}, ("normalised-twice", "wrong", "0 to 0.003922")),
        (BYTES, {}, {"scale": 1 / 255, **NORMALISED}, ("normalised-twice", "wrong", "-2 to -1.983")),
        (UNIT, KEPT, {"scale": 1 / 255, **NORMALISED}, ("normalised-twice", "wrong", "-2 to -1.983")),
        (
            BYTES,
            {},
            {"scale": 1 / 0.225, "mean": 2 + 0.45, "std": 0.225},
            ("normalised-twice", "wrong", "-10.89 to 8.864"),
        ),
        (BYTES, KEPT, {}, ("not-normalised", "wrong", "0 to 255")),
        (BYTES, KEPT, NORMALISED, ("not-normalised", "wrong", "-2 to 1131")),
        (STACK, {}, NORMALISED, ("not-normalised", "wrong", "-2 to 1131")),
        (WIDE, {}, {}, ("not-normalised", "wrong", "0 to 255")),
        (BYTES, {}, {}, ("not-normalised", "risk", "0 to 1")),
        (BYTES, KEPT, {"trained": True}, ("not-normalised", "risk", "0 to 255")),
        (BYTES, {}, {"trained": True}, None),
    ],
)
def test_what_reaches_the_first_convolution(
    space: spaces.Box, policy: dict[str, Any], eyes: dict[str, Any], expected: tuple[str, str, str] | None
) -> None:
    kwargs = {"features_extractor_class": Eyes, "features_extractor_kwargs": eyes, **policy}
    model = DQN("MlpPolicy", Camera(space), policy_kwargs=kwargs, buffer_size=10, device="cpu")
    found = [finding for finding in diagnose(model) if finding.code in ("normalised-twice", "not-normalised")]
    assert [(finding.code, finding.severity) for finding in found] == ([expected[:2]] if expected else [])
    if expected:
        assert f"From black to white, {expected[2]} reaches the first convolution" in found[0].found


def test_what_reaches_it_says_what_sb3_does() -> None:
    def says(space: spaces.Box, **policy: Any) -> str:
        kwargs = {"features_extractor_class": Eyes, "features_extractor_kwargs": {"scale": 1e-3}, **policy}
        model = DQN("MlpPolicy", Camera(space), policy_kwargs=kwargs, buffer_size=10, device="cpu")
        return the(diagnose(model), "normalised-twice").found

    assert "SB3 divides images by 255 here (normalize_images=True)" in says(BYTES)
    assert "SB3 does not divide images by 255 here (normalize_images=False)" in says(UNIT, normalize_images=False)
    assert "divides only uint8 images of three axes" in says(UNIT)


def test_a_dict_of_images_and_numbers() -> None:
    space = spaces.Dict({"camera": BYTES, "speed": spaces.Box(-np.inf, np.inf, (2,)), "gear": spaces.Discrete(3)})

    class Both(BaseFeaturesExtractor):
        def __init__(self, space: spaces.Dict) -> None:
            super().__init__(space, 17)
            camera = space["camera"]
            assert isinstance(camera, spaces.Box)
            self.eyes = Eyes(camera, scale=1 / 255)

        def forward(self, observation: dict[str, Tensor]) -> Tensor:
            return torch.cat([self.eyes(observation["camera"]), observation["speed"], observation["gear"]], 1)

    kwargs = {"features_extractor_class": Both}
    model = PPO("MultiInputPolicy", Camera(space), policy_kwargs=kwargs, n_steps=8, batch_size=8, device="cpu")
    finding = the(diagnose(model), "normalised-twice")
    assert finding.where == "policy.features_extractor.eyes.net"
    assert "0 to 0.003922 reaches" in finding.found


def test_an_extractor_that_cannot_be_run_is_still_looked_at() -> None:
    class Picky(Eyes):
        def forward(self, pixels: Tensor) -> Tensor:
            if len(pixels) == 1:
                raise ValueError("one image is not enough")
            return super().forward(pixels)

    found = diagnose(stock(DQN, {"features_extractor_class": Picky}))
    assert (
        "does not run on a black image of its observation space (one image is not enough)"
        in the(found, "not-run").found
    )
    assert severities(found)["batchnorm-not-pinned"] == "wrong"


# Learning rates


def test_rates_of_parameter_groups_are_overwritten() -> None:
    model: Any = stock(PPO, trained=True)
    assert of(diagnose(model), "learning-rate-overwritten") is None
    eyes = list(model.policy.features_extractor.parameters())
    rest = [p for p in model.policy.parameters() if not any(p is q for q in eyes)]
    model.policy.optimizer = torch.optim.Adam([{"params": eyes, "lr": 1e-5}, {"params": rest, "lr": 1e-3}])
    finding = the(diagnose(model), "learning-rate-overwritten")
    assert (finding.severity, finding.where) == ("wrong", "policy.optimizer")
    assert "2 parameter groups with the rates 1e-05, 0.001" in finding.found
    model.learn(8)
    assert {group["lr"] for group in model.policy.optimizer.param_groups} == {3e-4}, "what the finding foretold"


def test_rates_of_an_actor_and_a_scheduler() -> None:
    model: Any = stock(SAC, trained=True)
    parameters = list(model.actor.parameters())
    groups = [{"params": parameters[:2], "initial_lr": 1e-5}, {"params": parameters[2:], "initial_lr": 1e-3}]
    model.actor.optimizer = torch.optim.Adam(groups, lr=3e-4)
    finding = the(diagnose(model), "learning-rate-overwritten")
    assert finding.where == "policy.actor.optimizer"
    groups[0]["lr_factor"] = 0.1  # type: ignore[assignment]
    model.actor.optimizer = torch.optim.Adam(groups, lr=3e-4)
    assert severities(diagnose(model))["learning-rate-factor"] == "note"
    assert of(diagnose(model), "learning-rate-overwritten") is None


# Copies, averages, images


@pytest.mark.parametrize(("cls", "count"), [(PPO, 1), (A2C, 1), (DQN, 2), (SAC, 3), (TD3, 4)])
def test_copies_and_their_bytes(cls: type[BaseAlgorithm], count: int) -> None:
    class Wide(Eyes):
        def __init__(self, space: spaces.Box) -> None:
            super().__init__(space)
            self.net.append(nn.Conv2d(12, 12, 129, padding=64, bias=False))
            self.net.requires_grad_(False)

    found = diagnose(stock(cls, {"features_extractor_class": Wide, "features_extractor_kwargs": {}}))
    one = sum(tensor.nbytes for tensor in net().state_dict().values()) + 12 * 12 * 129 * 129 * 4
    text = f"holds {count} {'copy' if count == 1 else 'copies'} of Sequential, {count * one / 1e6:.1f} MB together"
    assert text in the(found, "copies").found
    assert ("targets" in the(found, "copies").found) == (cls in (DQN, SAC, TD3))


@pytest.mark.parametrize(("cls", "target"), [(DQN, "q_net_target"), (SAC, "critic_target"), (TD3, "critic_target")])
def test_averages_over_tensors_that_do_not_learn(cls: type[BaseAlgorithm], target: str) -> None:
    model = stock(cls)
    finding = next(f for f in diagnose(model) if f.code == "polyak" and f.where == f"policy.{target}")
    verb = "copies" if cls is DQN else "averages, and so rounds,"
    assert finding.found == (
        f"Every target update {verb} 6 tensors that do not learn; 0 of them differ from the online ones now."
    )
    assert "polyak" not in severities(diagnose(stock(cls, trained=True)))
    if cls is SAC:
        model.learn(100)
        finding = the(diagnose(model), "polyak")
        online, averaged = model.policy.get_submodule("critic"), model.policy.get_submodule(target)
        apart = [
            name
            for name, p in online.named_parameters()
            if "net.net" not in name and not p.requires_grad and not torch.equal(p, averaged.get_parameter(name))
        ]
        assert apart
        assert f"{len(apart)} of them differ" in finding.found


@pytest.mark.parametrize("cls", [DQN, SAC])
def test_a_backbone_shared_with_the_target_is_averaged_with_itself(cls: type[BaseAlgorithm]) -> None:
    # One instance for all extractors looks like the cure for the copies, and its weights melt away.
    one = net()
    model: Any = stock(cls, shared=one, pinned=True)
    finding = the(diagnose(model), "polyak-with-itself")
    assert finding.severity == "wrong"
    tau = 1.0 if cls is DQN else 0.005
    assert (
        "share 6 tensors, and SB3 averages in place: each target update multiplies them by 1 - tau^2" in finding.found
    )
    assert f"= {1 - tau**2:.6g}, and sets 4 shared BatchNorm statistics to 0" in finding.found
    before = net()[0].get_parameter("weight")
    if cls is DQN:
        model.target_update_interval = 10
    model.learn(10)
    updates = 1 if cls is DQN else model._n_updates
    torch.testing.assert_close(one[0].get_parameter("weight"), before * (1 - tau**2) ** updates)
    assert not one[1].get_buffer("running_var").any()


def test_frozen_tensors_in_an_optimizer() -> None:
    assert "holds 6 tensors that require no gradient" in the(diagnose(stock(PPO)), "frozen-but-optimised").found
    assert "holds 12 tensors" in the(diagnose(stock(SAC)), "frozen-but-optimised").found  # actor and critic
    assert of(diagnose(stock(PPO, trained=True)), "frozen-but-optimised") is None


def predicted(model: BaseAlgorithm) -> float:
    text = the(diagnose(model), "frames-encoded-per-step").found
    return float(text.removeprefix("About ").split(" images")[0].replace(",", ""))


def counted(model: BaseAlgorithm, steps: int) -> float:
    Eyes.passed = 0
    model.learn(steps)
    return Eyes.passed / model.num_timesteps


@pytest.mark.parametrize(
    ("cls", "arguments", "policy", "expected"),
    [
        (PPO, {"n_epochs": 4}, {}, 5 + 1 / 8),
        (PPO, {"n_epochs": 4}, {"share_features_extractor": False}, 10 + 1 / 8),
        (A2C, {}, {}, 2 + 1 / 8),
        (DQN, {"train_freq": 4, "exploration_fraction": 1e-9, "exploration_final_eps": 0.0}, {}, 1 + 2 * 4 / 4 / 2),
        (SAC, {}, {}, 1 + 5 * 4 / 2),
        (SAC, {"gradient_steps": -1}, {"share_features_extractor": True}, 1 + 5 * 4),
        (TD3, {"gradient_steps": 2}, {}, 1 + 4 * 4),
        (DDPG, {"train_freq": 2, "gradient_steps": 2}, {}, 1 + 5 * 4 / 2),
    ],
)
def test_the_images_that_are_foretold_are_those_that_pass(
    cls: type[BaseAlgorithm], arguments: dict[str, Any], policy: dict[str, Any], expected: float
) -> None:
    starts = {"learning_starts": 0} if "buffer_size" in SMALL[cls] else {}
    chosen = {**SMALL[cls], **starts, **arguments}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SMALL, cls, chosen)
        model = stock(cls, policy, n_envs=2)
    assert predicted(model) == pytest.approx(expected, abs=0.05)
    # The pass for the last observation of an episode that is cut off, and the first steps, are left out.
    assert counted(model, 96) == pytest.approx(expected, rel=0.06)


def test_frames_of_a_stack_that_go_through_one_by_one() -> None:
    kwargs = {"features_extractor_class": Eyes, "features_extractor_kwargs": {"scale": 1 / 255, **NORMALISED}, **KEPT}
    model = PPO("MlpPolicy", Camera(STACK), policy_kwargs=kwargs, n_steps=8, batch_size=8, n_epochs=4, device="cpu")
    finding = the(diagnose(model), "frames-encoded-per-step")
    assert finding.found.startswith("About 20.5 images")
    assert "times 4 frames in an observation" in finding.found


def test_images_of_sb3_contrib() -> None:
    contrib = pytest.importorskip("sb3_contrib")
    kwargs = {"features_extractor_class": Eyes, "net_arch": [8]}
    off = {**OFF, "learning_starts": 0}
    for cls, env, policy, arguments, expected in (
        (contrib.TQC, "OrchardContinuous", "CnnPolicy", off, 1 + 5 * 4),
        (contrib.QRDQN, "Orchard", "CnnPolicy", {**off, "exploration_fraction": 1e-9, "train_freq": 4}, 1 + 2 * 4 / 4),
        (contrib.MaskablePPO, "Orchard", "CnnPolicy", SMALL[PPO], 3 + 1 / 8),
    ):
        venv = make_vec(f"stillsight/{env}-v0", 1, options=EnvOptions(size=16))
        model = cls(policy, venv, policy_kwargs=dict(kwargs), seed=0, device="cpu", **arguments)
        assert predicted(model) == pytest.approx(expected, abs=0.05)
        if cls is not contrib.MaskablePPO:  # which asks the environment for masks
            assert counted(model, 64) == pytest.approx(expected, rel=0.06)
    venv = make_vec("stillsight/Orchard-v0", 1, options=EnvOptions(size=16))
    assert of(diagnose(contrib.TRPO("CnnPolicy", venv, policy_kwargs=kwargs)), "frames-encoded-per-step") is None


def test_a_network_that_is_built_to_learn_from_nothing_is_left_in_peace() -> None:
    venv = make_vec("stillsight/Orchard-v0", 1, options=EnvOptions(size=48))
    assert diagnose(PPO("CnnPolicy", venv, n_steps=8, batch_size=8, device="cpu")) == []
    assert diagnose(DQN("CnnPolicy", venv, buffer_size=10, device="cpu")) == []


# Ours


@pytest.mark.parametrize("mode", ["frozen", "finetune", "scratch", "random"])
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_our_own_agents_are_healthy(tiny: Tiny, algo: str, mode: str) -> None:
    config = tiny(algo, mode=mode)
    agent = make_agent(config.resolved(), build_encoder(config, pinned=True), n_envs=2)
    found = severities(diagnose(agent.model))
    assert not {"wrong", "risk"} & set(found.values()), found
    if mode in ("frozen", "random"):
        assert found == {}


@pytest.mark.parametrize(
    "changes", [{"mode": "finetune"}, {"mode": "finetune", "unfreeze": "layer2"}, {"in_policy": True}]
)
@pytest.mark.parametrize("algo", ["ppo", "sac"])
def test_our_own_resnet_holds_the_weights_of_its_file(
    tiny: Tiny, resnet_file: Path, algo: str, changes: dict[str, Any]
) -> None:
    config = tiny(algo, encoder="resnet18", tap="layer2", weights=resnet_file, size=32, **changes)
    agent = make_agent(config.resolved(), build_encoder(config, pinned=True), n_envs=2)
    found = diagnose(agent.model, weights=resnet_file)
    assert not {"wrong", "risk"} & set(severities(found).values()), found
    other = {name: tensor + 1 for name, tensor in torch.load(resnet_file).items()}
    assert severities(diagnose(agent.model, weights=other))["weights-differ"] == "wrong"


@pytest.mark.parametrize("cls", [PPO, DQN])
def test_stock_policies_on_encoded_environments_have_nothing_to_lose(
    cls: type[BaseAlgorithm], retina_file: Path
) -> None:
    venv = make_vec("stillsight/Orchard-v0", 2, options=EnvOptions(size=16))
    encoder = build("retina", weights=retina_file, tap="layer1", pooling="grid2", device="cpu")
    model = cls("MlpPolicy", EncodedVecEnv(venv, encoder, frame_stack=2), device="cpu", **SMALL[cls])
    assert diagnose(model) == []


# Messages


def test_findings_come_worst_first_and_read_well() -> None:
    found = diagnose(stock(PPO))
    order = ["wrong", "risk", "cost", "note"]
    assert [order.index(finding.severity) for finding in found] == sorted(order.index(f.severity) for f in found)
    finding = Finding("copies", "cost", "policy.net", "Two copies.", "Keep one.")
    assert str(finding) == "COST copies, in policy.net\n  Two copies.\n  Keep one."
    with pytest.raises(AttributeError):
        finding.code = "other"  # type: ignore[misc]


def test_mistakes_are_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"diagnose takes a Stable-Baselines3 model with a policy, and got Sequential\. Type"
    ):
        diagnose(net())
    venv = make_vec("stillsight/Orchard-v0", 1, options=EnvOptions(size=16))
    with pytest.raises(RunError, match=r"got PPO\. Type"):
        diagnose(PPO("CnnPolicy", venv, _init_setup_model=False))
    with pytest.raises(RunError, match=r"There is no file .*none\.pth to compare with\. Give diagnose a state_dict"):
        diagnose(stock(PPO), weights=tmp_path / "none.pth")
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    with pytest.raises(EncoderError, match="damaged"):
        diagnose(stock(PPO), weights=tmp_path / "bad.pth")
    with pytest.raises(
        RunError, match=r"hold 1 tensors, and only 0 of the 10 in policy\.features_extractor\.net are among"
    ):
        diagnose(stock(PPO), weights={"conv.weight": torch.zeros(3)})
    vectors = PPO("MlpPolicy", Camera(spaces.Box(-1, 1, (4,))), device="cpu")
    with pytest.raises(RunError, match=r"holds no network with convolutions.*Leave weights out"):
        diagnose(vectors, weights={"conv.weight": torch.zeros(3)})
