"""A run folder gives a player that needs no environment, acts on batches, and is one differentiable module."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.spaces import Space

from stillsight.agents import Player, RlConfig, load, rl
from stillsight.agents.cli import main
from stillsight.agents.errors import RunError
from stillsight.agents.runs.spaces import SPACES_FILE, Spaces
from stillsight.agents.training.settings import overrides
from stillsight.envs import make_env
from stillsight.envs.wrappers.layout import Image, Layout

Tiny = Callable[..., RlConfig]

WITHOUT_A_GAME = """
import sys
import gymnasium
import numpy as np

def no(*_, **__):
    raise AssertionError("the environment was asked for")

gymnasium.make = no
gymnasium.registry.clear()
from stillsight.agents import load

player = load(sys.argv[1], "last", device="cpu")
pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16), np.uint8)
print(*(int(player.predict(pixels)) for _ in range(3)))
assert "ale_py" not in sys.modules and not any(name.startswith("stillsight.envs.orchard") for name in sys.modules)
"""


def frames(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 16, 16), np.uint8)


def test_a_player_needs_neither_its_environment_nor_its_package(trained: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_A_GAME, str(trained)]
    shown = subprocess.run(command, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    player = load(trained, "last", device="cpu")
    (pixels,) = frames(1)
    assert shown.stdout.split() == [str(int(player.predict(pixels))) for _ in range(3)]


def test_a_folder_of_an_older_version_is_read_through_its_environment(trained: Path) -> None:
    expected = load(trained, device="cpu")
    (trained / SPACES_FILE).unlink()
    older = load(trained, device="cpu")
    assert older.known == expected.known
    for pixels in frames(4):
        assert older.predict(pixels) == expected.predict(pixels)


def test_damaged_spaces_are_a_sentence(trained: Path) -> None:
    for content in (
        "{",
        "[]",
        '{"pixels": [3, 16], "action": {}}',
        '{"pixels": [3, 16, 16], "action": {"kind": "Graph"}}',
    ):
        (trained / SPACES_FILE).write_text(content)
        with pytest.raises(RunError, match=r"spaces\.json is damaged .* Remove it, and the environment is asked"):
            load(trained, device="cpu")


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(4),
        spaces.Discrete(3, start=-1),
        spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, np.inf], np.float32)),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(3),
    ],
)
def test_spaces_come_back_from_json_as_they_were(space: Space[Any]) -> None:
    known = Spaces(Layout(images=(Image("", (3, 84, 64)),)), space)
    assert Spaces.from_json(known.to_json()) == known


@pytest.mark.parametrize("algo", ["ppo", "dqn", "sac", "recurrent_ppo"])
def test_a_batch_of_environments_acts_as_each_alone(tiny: Tiny, tmp_path: Path, algo: str) -> None:
    rl(tiny(algo, steps=32, out=tmp_path / "run"))
    together = load(tmp_path / "run", "last", device="cpu")
    alone = [load(tmp_path / "run", "last", device="cpu") for _ in range(3)]
    for step in range(6):
        batch = frames(3, seed=step)
        began = np.array([step == 3, False, step == 4])
        for index, player in enumerate(alone):
            if began[index]:
                player.reset()
        actions = together.predict(batch, began=began)
        expected = np.stack([player.predict(pixels) for player, pixels in zip(alone, batch, strict=True)])
        assert actions.shape == expected.shape
        np.testing.assert_allclose(actions, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("algo", "changes", "without", "beside"),
    [
        ("ppo", {"n_envs": 8, "set": ("n_steps=1", "batch_size=8")}, "", ()),
        ("ppo", {}, "n_steps", ("n_steps=1_000_000_000",)),
        ("recurrent_ppo", {}, "n_steps", ("n_steps=1_000_000_000",)),
        ("dqn", {}, "batch_size", ("batch_size=1_000_000_000",)),
        *((name, {}, "buffer_size", ()) for name in ("stable_baselines3:DDPG", "sb3_contrib:CrossQ")),
    ],
)
def test_what_only_learning_needs_keeps_no_agent_from_playing(
    tiny: Tiny, tmp_path: Path, algo: str, changes: dict[str, Any], without: str, beside: tuple[str, ...]
) -> None:
    run, agent, trust = tmp_path / "run", tmp_path / "agent.zip", [algo] if ":" in algo else []
    own = ":" in algo
    config = tiny("sac" if own else algo, steps=32, out=run, **changes)
    settings = ("learning_starts=24", "batch_size=8", "buffer_size=300", "train_freq=4") if own else config.set
    rl(replace(config, algo=algo, set=settings))
    record = json.loads((run / "config.json").read_text())
    record["set"] = [*(one for one in record["set"] if one.partition("=")[0] != without), *beside]  # as elsewhere
    (run / "config.json").write_text(json.dumps(record))
    player = load(run, "last", device="cpu", trust=trust)
    (pixels,) = frames(1)
    assert player.action_space.contains(player.predict(pixels))
    memory: Any = getattr(player.model, "replay_buffer", None) or player.model.rollout_buffer  # type: ignore[attr-defined]
    assert memory.buffer_size <= 5, "the least that it takes"
    allowed = ["--trust", *trust] if trust else []
    assert main(["evaluate", str(run), "--episodes", "1", "--random-episodes", "0", *allowed]) == 0
    assert main(["export", str(run), "--sb3", str(agent), *allowed]) == 0
    with zipfile.ZipFile(agent) as archive:
        kept = json.loads(archive.read("data"))
    if "ppo" in algo:
        settings_now = overrides(tuple(record["set"]), "--set")
        assert kept["n_steps"] == settings_now["n_steps"], "who trains the exported agent on does it as the run did"
    else:
        assert kept["buffer_size"] == 1


def test_pixels_that_the_agent_does_not_see_are_refused(trained: Path) -> None:
    player = load(trained, device="cpu")
    for wrong in (np.zeros((3, 32, 32), np.uint8), np.zeros((16, 16, 3), np.uint8), np.zeros((3, 16, 16), np.float32)):
        with pytest.raises(RunError, match=r"This agent sees uint8 pixels \[3, 16, 16\], and got"):
            player.predict(wrong)
    player.predict(frames(2))
    with pytest.raises(RunError, match=r"was playing 2 environments, and got frames of 3\. Call reset"):
        player.predict(frames(3))
    player.reset()
    player.predict(frames(3))


def probe(player: Player, stacks: np.ndarray) -> torch.Tensor:
    """What the SB3 policy itself says of stacks of pixels `[N, frames, 3, H, W]`, in the terms of `PixelPolicy`."""
    policy: Any = player.model.policy
    count, depth = stacks.shape[:2]
    encoded = player.encode(stacks.reshape(-1, *stacks.shape[2:]))
    observations = torch.from_numpy(encoded.reshape(count, depth, *encoded.shape[1:]))
    with torch.no_grad():
        if hasattr(policy, "get_distribution"):
            distribution = policy.get_distribution(observations).distribution
            if hasattr(distribution, "logits"):
                return torch.as_tensor(distribution.logits)
            return torch.as_tensor(distribution.mean)
        if hasattr(policy, "q_net"):
            return torch.as_tensor(policy.q_net(observations))
        if hasattr(policy, "quantile_net"):
            return torch.as_tensor(policy.quantile_net(observations)).mean(1)
        actions, _ = policy.predict(observations.numpy(), deterministic=True)
        return torch.from_numpy(actions)


@pytest.mark.parametrize("changes", [{}, {"mode": "finetune", "unfreeze": "layer1"}, {"mode": "scratch"}])
@pytest.mark.parametrize("algo", ["ppo", "a2c", "trpo", "dqn", "qrdqn", "sac", "td3", "tqc"])
def test_the_module_says_what_the_policy_says_and_is_differentiable_to_the_pixels(
    tiny: Tiny, tmp_path: Path, algo: str, changes: dict[str, Any]
) -> None:
    rl(tiny(algo, steps=32, out=tmp_path / "run", engine="eager", **changes))
    player = load(tmp_path / "run", "last", device="cpu")
    module = player.module
    stacks = np.random.default_rng(1).integers(0, 256, (2, 3, 3, 16, 16), np.uint8)
    expected = probe(player, stacks)
    pixels = torch.from_numpy(stacks).float().requires_grad_()
    said = module(pixels)
    if module.says == "logits":  # as the distribution has them: normalised
        said = said.log_softmax(1)
    torch.testing.assert_close(said, expected, atol=1e-4, rtol=1e-4)
    module(pixels)[0, 0].backward()
    assert pixels.grad is not None
    assert pixels.grad[0].abs().sum() > 0, "of the stack that was asked about"
    assert pixels.grad[1].abs().sum() == 0
    assert not module.train(True).training


def test_a_recurrent_policy_has_no_module(tiny: Tiny, tmp_path: Path) -> None:
    rl(tiny("recurrent_ppo", steps=32, out=tmp_path / "run"))
    with pytest.raises(RunError, match=r"A recurrent policy remembers.* Use player\.predict"):
        load(tmp_path / "run", "last", device="cpu").module  # noqa: B018


def test_a_player_plays_whole_episodes_of_its_game(trained: Path) -> None:
    player = load(trained, device="cpu")
    env = make_env(player.config.env, player.config.env_options(), training=False)
    pixels, _ = env.reset(seed=0)
    over, steps = False, 0
    while not over:
        pixels, _, terminated, truncated, _ = env.step(player.predict(pixels))
        over, steps = terminated or truncated, steps + 1
    assert steps == 20
    with pytest.raises(RunError, match="A player has no environment"):
        player.model.get_env().reset()  # type: ignore[union-attr]
