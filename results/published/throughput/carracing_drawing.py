"""CarRacing's steps a second, ours beside Gymnasium's own, in turns in one process.

python results/published/throughput/carracing_drawing.py > results/published/throughput/carracing-drawing.json
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

import gymnasium as gym

from stillsight.agents.runs.machine import machine
from stillsight.envs import make_env, resolve
from stillsight.envs.wrappers.rules import FrameSkip

CAR, ROUNDS, STEPS, GAS = "CarRacing-v3", 5, 60, 3


def speed(env: gym.Env[Any, Any], seed: int) -> float:
    """Agent steps per CPU second of the first `STEPS` of an episode."""
    env.reset(seed=seed)
    began = time.process_time()
    for _ in range(STEPS):
        env.step(GAS)
    return STEPS / (time.process_time() - began)


rows = []
for skip in (1, 2, 4):
    options = resolve(CAR).options.merge(frame_skip=skip, kwargs={"continuous": False})
    ours, stock = make_env(CAR, options), FrameSkip(gym.make(CAR, continuous=False), skip)
    rounds = [(speed(ours, seed), speed(stock, seed)) for seed in range(ROUNDS)]
    ratios = [one / other for one, other in rounds]
    middle = statistics.median(ratios)
    rows.append({"frame_skip": skip, "rounds": rounds, "ratio": middle, "least": min(ratios), "most": max(ratios)})
told = {"unit": "agent steps per CPU second, [ours, gymnasium]", "rows": rows}
print(json.dumps({**told, "machine": {**machine(), "command": f"python {sys.argv[0]}"}}, indent=1))
