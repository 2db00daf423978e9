"""Agents and classifiers on a GPU: what is frozen keeps every bit, and what was trained there plays elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stillsight.agents import EncodedVecEnv, RlConfig, load, rl
from stillsight.agents.cli import main
from stillsight.agents.doctor import accelerator
from stillsight.agents.features.extractor import EncoderExtractor
from stillsight.agents.measure import arm, stock
from stillsight.agents.measure.process import ARMS
from stillsight.agents.runs.machine import machine
from stillsight.agents.training.build import make_agent
from stillsight.encoders import device as devices
from stillsight.encoders.building import build
from stillsight.envs import EnvOptions, make_vec

Tiny = Callable[..., RlConfig]
pytestmark = pytest.mark.usefixtures("settings_restored")


@pytest.mark.gpu
def test_the_machine_names_its_gpu() -> None:
    assert machine()["gpus"][0] == torch.cuda.get_device_name(0)
    assert accelerator.gpu().state == "ok"


def engine(device: torch.device) -> str:
    return "graph" if device.type == "cuda" else "folded"


@pytest.mark.parametrize("algo", ["ppo", "dqn", "sac"])
def test_training_on_the_device_leaves_the_frozen_network_and_its_policy_plays_on_the_cpu(
    tiny: Tiny, algo: str, device: torch.device, tmp_path: Path
) -> None:
    config = tiny(algo, device=str(device), engine=engine(device), out=tmp_path / "run")
    summary = rl(config)
    untouched = build(config, device="cpu")
    assert summary["encoder_sha256_before"] == summary["encoder_sha256_after"] == untouched.sha256()
    frames = np.random.default_rng(0).integers(0, 256, (6, 3, 16, 16), np.uint8)
    players = {where: load(tmp_path / "run", "last", device=where) for where in ("cpu", str(device))}
    assert {player.sha256() for player in players.values()} == {untouched.sha256()}
    assert next(players[str(device)].model.policy.parameters()).device.type == device.type
    said = {}
    with devices.exact_math():
        for where, player in players.items():
            said[where] = player.module(torch.from_numpy(frames[:, None].repeat(3, 1)).to(where))
            assert said[where].device.type == torch.device(where).type
    torch.testing.assert_close(said[str(device)].cpu(), said["cpu"], atol=0.02, rtol=0.02)


def test_a_part_that_learns_on_the_device_learns_and_the_rest_keeps_every_bit(
    tiny: Tiny, device: torch.device, tmp_path: Path
) -> None:
    config = tiny("ppo", mode="finetune", tap="layer2", unfreeze="layer2", device=str(device), engine=engine(device))
    config = replace(config, out=tmp_path / "run")
    before = build(config, device="cpu").state()
    before = {name: tensor.detach().clone() for name, tensor in before.items()}
    summary = rl(config)
    assert summary["encoder_sha256_before"] != summary["encoder_sha256_after"]
    player = load(tmp_path / "run", "last", device=str(device))
    (eyes,) = {m for m in player.model.policy.modules() if isinstance(m, EncoderExtractor)}
    frozen, learned = player.encoder.frozen.state(), eyes.learned.state()
    assert learned
    assert all(torch.equal(tensor.cpu(), before[name]) for name, tensor in frozen.items())
    moved = [name for name, tensor in learned.items() if not torch.equal(tensor.detach().cpu(), before[name])]
    assert any(name.startswith("layer2") and name.endswith("weight") for name in moved)
    resumed = rl(RlConfig(resume=tmp_path / "run", steps=160, device=str(device)))
    assert resumed["encoder_sha256_before"] == summary["encoder_sha256_before"]
    assert resumed["encoder_sha256_after"] != summary["encoder_sha256_after"]


def test_a_part_without_buffers_learns_on_the_device(tiny: Tiny, device: torch.device) -> None:
    # A transformer's blocks have parameters alone: where they live is not to be read from their buffers.
    chosen: dict[str, Any] = {"encoder": "vit_b_16", "tap": "block0", "unfreeze": "block0", "mode": "scratch"}
    config = tiny("ppo", **chosen, pooling="cls", device=str(device), engine="eager", compress=0, standardise=0)
    agent = make_agent(config.resolved(), build(config), n_envs=2)
    assert not list(agent.model.policy.features_extractor.learned.buffers())
    agent.model.learn(32)
    assert agent.model._n_updates > 0
    agent.venv.close()


@pytest.mark.parametrize("algo", ["ppo", "sac"])
@pytest.mark.parametrize("name", ["stock", "cached", "floor"])
def test_a_run_is_measured_on_the_device(
    tiny: Tiny, name: str, algo: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arm, "PREFILL", 24)
    monkeypatch.setattr(stock, "STOCK_SLOTS", 100)
    measured = ARMS[name](tiny(algo, device=str(device), engine=engine(device)).resolved())
    row = measured.measure(0.01)
    assert row["env_steps_per_s"] > 0
    if name != "floor":
        assert next(measured.model.policy.parameters()).device.type == device.type
        assert measured.clock.device.type == device.type
        assert measured.facts()["peak_memory_bytes"] > 0


def test_frames_are_encoded_once_and_stacked_as_the_network_sees_them(device: torch.device) -> None:
    eyes = build("retina", "random", tap="layer2", pooling="grid2", precision="float32", device=str(device))
    with devices.exact_math():
        eyes.frozen.prepare((3, 16, 16), wanted=engine(device), batch=4)  # type: ignore[arg-type]
        venv = EncodedVecEnv(make_vec("stillsight/Orchard-v0", 4, options=EnvOptions(size=16)), eyes, frame_stack=2)
        reference = build("retina", "random", tap="layer2", pooling="grid2", precision="float32", device="cpu")
        twin = make_vec("stillsight/Orchard-v0", 4, options=EnvOptions(size=16))
        venv.seed(3), twin.seed(3)
        stacks, pixels = venv.reset(), [twin.reset()]
        for _ in range(3):
            actions = np.zeros(4, int)
            stacks, _, done, _ = venv.step(actions)
            pixels.append(twin.step(actions)[0])
            assert not done.any()
        expected = reference(torch.from_numpy(np.concatenate(pixels[-2:]))).unflatten(0, (2, 4)).transpose(0, 1)
    torch.testing.assert_close(torch.from_numpy(stacks), expected, atol=1e-3, rtol=1e-3)


def test_a_new_policy_values_what_it_sees_as_it_does_on_the_cpu(tiny: Tiny, device: torch.device) -> None:
    values = {}
    for where in ("cpu", str(device)):
        config = tiny("ppo", device=where)
        with devices.exact_math():
            agent = make_agent(config.resolved(), build(config, device=where), n_envs=2)
            policy: Any = agent.model.policy
            assert policy.device.type == torch.device(where).type
            values[where] = policy.predict_values(torch.from_numpy(agent.venv.reset()).to(where)).detach().cpu()
        agent.venv.close()
    torch.testing.assert_close(values[str(device)], values["cpu"], atol=1e-3, rtol=1e-3)


@pytest.fixture(scope="module")
def paint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder: thirty red and thirty green pictures."""
    folder = tmp_path_factory.mktemp("paint")
    generator = np.random.default_rng(0)
    for channel, name in enumerate(("red", "green")):
        (folder / name).mkdir()
        for number in range(30):
            pixels = generator.integers(0, 100, (16, 16, 3), np.uint8)
            pixels[:, :, channel] += 100
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("mode", ["frozen", "finetune"])
def test_a_classifier_learns_on_the_device(
    mode: str, precision: str, device: torch.device, paint: Path, tmp_path: Path
) -> None:
    flags: dict[str, Any] = {"dataset": paint, "cache": tmp_path / "cache", "out": tmp_path / "run", "tap": "layer1"}
    flags |= {"mode": mode, "precision": precision, "device": device, "threads": 1}
    flags |= {"epochs": 3, "batch": 16} if mode == "finetune" else {"head": "linear"}
    assert main(["cifar", *(word for name, value in flags.items() for word in (f"--{name}", str(value)))]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["test_accuracy"] >= 0.75
    assert (summary["encoder_sha256_before"] == summary["encoder_sha256_after"]) == (mode == "frozen")
    assert main(["evaluate", str(tmp_path / "run"), "--device", "cpu"]) == 0
