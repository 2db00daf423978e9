"""Agents that see several images and a state, as zips of stock Stable-Baselines3: a Dict there, played alike."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stillsight.agents import RlConfig, load, rl
from stillsight.agents.cli import main
from stillsight.agents.runs import checkpoint
from stillsight.envs import make_env

STOCK = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "stillsight":
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Absent())

import gymnasium as gym
import numpy as np
import PACKAGE
from stable_baselines3.common.vec_env import DummyVecEnv

model = PACKAGE.CLASS.load("agent.zip")
played = dict(np.load("shown.npz"))
shape = next(iter(model.observation_space.values())).shape


class Film(gym.Env):
    def __init__(self):
        box = lambda part: gym.spaces.Box(0, 255, part.shape[1:], part.dtype) if part.dtype == np.uint8 else (
            gym.spaces.Box(-np.inf, np.inf, part.shape[1:], part.dtype)
        )
        self.observation_space = gym.spaces.Dict({key: box(part) for key, part in played.items()})
        self.action_space, self.at = model.action_space, 0

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return {key: part[0] for key, part in played.items()}, {}

    def step(self, action):
        self.at += 1
        return {key: part[self.at] for key, part in played.items()}, 0.0, self.at == 29, False, {}


def made():
    return gym.wrappers.FrameStackObservation(Film(), FRAMES) if FRAMES > 1 else Film()


env = made()
observation, _ = env.reset()
actions, state, began = [], None, [True]
for _ in range(29):
    action, state = model.predict(observation, state, episode_start=began, deterministic=True)
    actions.append(action)
    observation, _, ended, _, _ = env.step(action)
    began = [False]
np.save("actions.npy", np.array(actions))
room = dict(buffer_size=300) if hasattr(model, "buffer_size") else {}
model = PACKAGE.CLASS.load("agent.zip", env=DummyVecEnv([made]), **room)
model.learn(LEARN)
model.save("later.zip")
"""
LAST = ("action_net.", "q_net.q_net.", "actor.mu.")


def decided(run: Path, seed: int = 0) -> Path:
    """The run with a last layer that tells frames apart, as that of an agent that has hardly learned does not."""
    for path in (run / "checkpoints").glob("best.safetensors"):
        tree = checkpoint.load(path)
        for name, tensor in tree["policy"].items():
            if name.startswith(LAST):
                spread = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed))
                tree["policy"][name] = spread if name.endswith("weight") else torch.zeros_like(tensor)
        checkpoint.save(path, tree)
    return run


@pytest.mark.parametrize(
    ("algo", "changes"),
    [
        ("ppo", {"pixels": ("image", "wrist"), "state": ("on",)}),
        ("ppo", {"pixels": ("image",), "state": ("on",), "frame_stack": 1}),
        ("dqn", {"pixels": ("image", "wrist"), "mode": "finetune", "unfreeze": "layer1"}),
        ("sac", {"pixels": ("off",), "state": ("on",)}),
        ("recurrent_ppo", {"pixels": ("image", "wrist"), "state": ("on",)}),
    ],
    ids=["two cameras and a state", "single frames", "two cameras", "a state alone", "recurrent"],
)
def test_stock_sb3_plays_learns_on_and_comes_back(
    algo: str, changes: dict[str, Any], tiny: Callable[..., RlConfig], tmp_path: Path
) -> None:
    name = "robot_world:RobotArm-v0" if algo == "sac" else "robot_world:Robot-v0"
    run, agent = tmp_path / "run", tmp_path / "agent.zip"
    rl(tiny(algo, out=run, env=name, steps=64, **changes))
    taught = decided(run, 2 if algo == "recurrent_ppo" else 0)
    assert main(["export", str(taught), "--sb3", str(agent), "--trust", name]) == 0
    player = load(run, device="cpu", trust=[name])
    env = make_env(name, player.config.env_options(), training=False)
    env.action_space.seed(1)
    shown, frames, expected = env.reset(seed=2)[0], [], []
    for _ in range(30):
        frames.append(shown)
        expected.append(player.predict(shown))
        shown, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            shown = env.reset()[0]
    assert isinstance(shown, dict)
    np.savez(tmp_path / "shown.npz", **{key: np.stack([one[key] for one in frames]) for key in shown})
    package, _, cls = {
        "ppo": "stable_baselines3.PPO",
        "dqn": "stable_baselines3.DQN",
        "sac": "stable_baselines3.SAC",
        "recurrent_ppo": "sb3_contrib.RecurrentPPO",
    }[algo].partition(".")
    count = str(player.config.frame_stack)
    text = STOCK.replace("PACKAGE", package).replace("CLASS", cls).replace("FRAMES", count).replace("LEARN", "48")
    (tmp_path / "stock.py").write_text(text)
    done = subprocess.run([sys.executable, "-I", "stock.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    given = np.load(tmp_path / "actions.npy")
    assert len(np.unique(np.array(expected).round(5), axis=0)) > 1, "one action always would show nothing"
    np.testing.assert_allclose(given, np.array(expected[:29]), atol=1e-4)
    for zipped, trust in ((agent, ["--trust"]), (tmp_path / "later.zip", ["--trust"])):
        again = tmp_path / f"again-{zipped.stem}"
        assert main(["import", str(zipped), "--out", str(again), *trust]) == 0
        assert load(again, device="cpu", trust=[name]).known == player.known
