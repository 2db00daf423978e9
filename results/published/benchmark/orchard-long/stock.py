"""The same PPO without anything of ours but the game: Stable-Baselines3's own CnnPolicy from scratch, in float32.

cd results/published/benchmark/orchard-long && python stock.py SEED RATE >> stock.jsonl

Settings are those of the grid's arm from scratch, and the rate falls to 0 as there. Every 8,192 steps 16 episodes are
played, the same each time, taking the most likely action; `actions` counts which were taken. One line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from typing import Any

import numpy as np
import stable_baselines3
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy

from stillsight.agents.training.config import RlConfig
from stillsight.agents.training.settings import arguments, overrides
from stillsight.envs import make_vec

STEPS, EVERY, EPISODES, EVALUATION = 65_536, 8_192, 16, 10_000_000

seed, rate = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
chosen = ("n_epochs=4", f"learning_rate=lin_{rate}")
config = RlConfig(env="stillsight/Orchard-v0", encoder="nature", mode="scratch", steps=STEPS, set=chosen).resolved()
options = config.env_options()
venv = make_vec(config.env, 8, seed=1_000 * seed, options=options)
curve: list[dict[str, Any]] = []


class Curve(BaseCallback):
    """Plays every `EVERY` steps."""

    def _on_step(self) -> bool:
        if self.num_timesteps % EVERY == 0:
            games = make_vec(config.env, 8, seed=EVALUATION, options=options)
            taken: list[np.ndarray] = []
            returns, _ = evaluate_policy(
                self.model,
                games,
                EPISODES,
                return_episode_rewards=True,
                callback=lambda its, _: taken.append(its["actions"].copy()),
                warn=False,
            )
            games.close()
            actions = np.bincount(np.concatenate(taken), minlength=int(games.action_space.n)).tolist()
            curve.append({"step": self.num_timesteps, "returns": returns, "actions": actions})
        return True


began = time.process_time()
model = PPO("CnnPolicy", venv, seed=seed, device="cpu", **arguments(overrides(config.set, "--set"), venv))
model.learn(STEPS, callback=Curve())
about = {
    "date": datetime.now(UTC).date().isoformat(),
    "seed": seed,
    "set": list(config.set),
    "stable-baselines3": stable_baselines3.__version__,
    "torch": torch.__version__,
    "cpu_seconds": round(time.process_time() - began, 1),
}
print(json.dumps(about | {"curve": curve}))
