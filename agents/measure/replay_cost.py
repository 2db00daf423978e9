"""What replay memory costs here: its memory filled to the last slot, and the time to sample from it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from rich.console import Console

from stillsight.agents.buffers.footprint import check_memory, needed_bytes
from stillsight.agents.buffers.replay import FrameReplayBuffer
from stillsight.agents.command_line.json_output import print_json
from stillsight.agents.measure.measure_config import ReplayConfig
from stillsight.agents.runs.machine import machine
from stillsight.agents.runs.progress import ProgressDisplay
from stillsight.agents.runs.records import plain
from stillsight.encoders.atomic import to_json
from stillsight.encoders.device import peak_memory, use_threads

ACTIONS = 6
"""Discrete actions, as most Atari games have them."""

EPISODE = 1_000
"""Steps of an episode; its last frame takes a slot of its own."""

POOL = 1_009
"""Different frames that the memory is filled with, again and again; a prime, so that episodes differ."""

PIXELS = (3, 84, 84)
"""The frame of pixels to compare with: that of Mnih et al. 2015, in colour."""


def replay_cost(config: ReplayConfig) -> dict[str, Any]:
    """Measure, print, and return the result.

    The memory is filled through its own `add`, step by step, so every page of it is touched as in a run.

    Raises:
        RunError: numbers that measure nothing, or the memory would not fit; nothing was taken.
        EncoderError: no such number of threads.
    """
    config.check()
    use_threads(config.threads)
    space = spaces.Box(-np.inf, np.inf, (config.frame_stack, config.features), np.float32)
    pixels = spaces.Box(0, 255, (config.frame_stack, *PIXELS), np.uint8)
    actions = spaces.Discrete(ACTIONS)
    needed = needed_bytes(space, config.transitions, config.dtype, actions, config.n_envs)
    check_memory(needed, config.transitions, flag="--transitions ", fewer="--features")

    display = ProgressDisplay(Console(highlight=False, stderr=config.json))
    frames = np.random.default_rng(0).standard_normal((POOL, config.features), np.float32)
    before = resident_bytes()
    buffer = FrameReplayBuffer(config.transitions, space, actions, "cpu", config.n_envs, dtype=config.dtype)
    began = time.perf_counter()
    steps = _fill(buffer, frames, display)
    seconds = time.perf_counter() - began
    taken = resident_bytes() - before
    times = np.array([_timed(buffer, config.batch) for _ in range(config.repeats)])

    result = {
        "transitions": config.transitions,
        "features": config.features,
        "frame_stack": config.frame_stack,
        "n_envs": config.n_envs,
        "batch": config.batch,
        "dtype": config.dtype,
        "repeats": config.repeats,
        "transitions_held": buffer.size(),
        "resident_bytes": taken,
        "needed_bytes": needed,
        "bytes_per_transition": taken / buffer.size(),
        "sb3_bytes": stock_bytes(space, config.transitions, config.n_envs),
        "sb3_pixel_bytes": stock_bytes(pixels, config.transitions, config.n_envs),
        "fill_seconds": seconds,
        "fill_us_per_step": seconds / steps * 1e6,
        "sample_ms_median": np.median(times) * 1e3,
        "sample_ms_p90": np.quantile(times, 0.9) * 1e3,
        "machine": machine(),
    }
    if config.json:
        print_json(to_json(plain(result)))
    else:
        _card(display, result, torch.get_num_threads())
    return result


def _fill(buffer: FrameReplayBuffer, frames: np.ndarray, display: ProgressDisplay) -> int:
    """Play with `frames` `[POOL, features]` until every slot is written; returns the number of steps."""
    action, reward = np.zeros(buffer.n_envs, np.int64), np.ones(buffer.n_envs, np.float32)
    infos: list[dict[str, Any]] = [{} for _ in range(buffer.n_envs)]
    first = np.arange(buffer.n_envs) * EPISODE
    stacks, step = np.repeat(frames[first % POOL][:, None], buffer.count, axis=1), 0
    while not buffer.full:
        step += 1
        newest = frames[(first + step) % POOL][:, None]
        following = np.concatenate([stacks[:, 1:], newest], axis=1)
        ended = np.full(buffer.n_envs, step % EPISODE == 0)
        buffer.add(stacks, following, action, reward, ended, infos)
        stacks = np.repeat(newest, buffer.count, axis=1) if ended.any() else following
        if step % 1_000 == 0 or buffer.full:
            display.update("slot", buffer.pos * buffer.n_envs, buffer.buffer_size * buffer.n_envs)
    display.close()
    return step


def _timed(buffer: FrameReplayBuffer, batch: int) -> float:
    """Seconds that one sample takes, with its float32 tensors."""
    began = time.perf_counter()
    buffer.sample(batch)
    return time.perf_counter() - began


def resident_bytes() -> int:
    """Memory of this process that lies in RAM now; where the system does not say it (macOS), the most so far."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return peak_memory(torch.device("cpu"))
    return pages * os.sysconf("SC_PAGE_SIZE")


def stock_bytes(space: spaces.Box, buffer_size: int, n_envs: int) -> int:
    """Memory that SB3's own ReplayBuffer takes for discrete actions: both observations whole, and five numbers.

    Reward, done and time limit are float32, the action is int64; see `stable_baselines3.common.buffers.ReplayBuffer`.
    """
    observation = int(np.prod(space.shape)) * np.dtype(space.dtype).itemsize
    return max(buffer_size // n_envs, 1) * n_envs * (2 * observation + 3 * 4 + 8)


def _card(display: ProgressDisplay, result: dict[str, Any], threads: int) -> None:
    facts = result["machine"]
    display.card(
        f"replay memory of {result['transitions']:,} transitions",
        {
            "frames": f"{result['features']} {result['dtype']} features, stacks of {result['frame_stack']}, "
            f"{result['n_envs']} environments",
            "memory": f"{result['resident_bytes'] / 1e9:.2f} GB resident, full; {result['needed_bytes'] / 1e9:.2f} GB "
            f"computed; {result['bytes_per_transition']:,.0f} bytes a transition",
            "stock SB3": f"{result['sb3_bytes'] / 1e9:.1f} GB for the same stacks in float32; "
            f"{result['sb3_pixel_bytes'] / 1e9:.1f} GB for pixels {PIXELS}",
            "fill": f"{result['fill_seconds']:.1f} s, through its own add, {result['fill_us_per_step']:.1f} µs a step",
            "sample": f"{result['batch']} transitions to float32 tensors: median {result['sample_ms_median']:.2f} ms, "
            f"p90 {result['sample_ms_p90']:.2f} ms over {result['repeats']:,}",
            "machine": f"{facts['cpu'] or facts['platform']}, {facts['cores']} cores, {threads} threads, "
            f"torch {facts['versions']['torch']}, numpy {facts['versions']['numpy']}",
        },
    )
