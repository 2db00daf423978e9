"""Looks: how each visual shift changes a picture, and the wrapper that shows an environment through one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import cv2
import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from stillsight.envs.shifts import find
from stillsight.envs.wrappers.rules import Step

Image: TypeAlias = NDArray[np.uint8]
Look: TypeAlias = Callable[[Image, int], Image]
"""An episode's look: a picture uint8 `[H, W, 3]` of any size and the number of agent steps so far, to the picture that
is shown. It depends on nothing else."""

_OWN = 0x5E1F7  # makes a seed's draws here others than the environment's own


def hue(random: np.random.Generator, strength: float) -> Look:
    """Turn all colours about the grey axis, by half to all of `strength` x 180 degrees either way, and make them
    brighter or darker, by half to all of `strength` x 60 %."""
    turn, light = random.choice((-1.0, 1.0), 2) * random.uniform(0.5, 1.0, 2) * strength
    angle = np.pi * turn
    # Rodrigues' formula for the axis (1, 1, 1): r + g + b stays what it is.
    cross = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / np.sqrt(3.0)
    rotation = np.cos(angle) * np.eye(3) + (1.0 - np.cos(angle)) / 3.0 + np.sin(angle) * cross
    matrix = rotation * (1.0 + 0.6 * light)
    return lambda image, _: cv2.transform(image, matrix).astype(np.uint8, copy=False)


def noise(random: np.random.Generator, strength: float) -> Look:
    """Add Gaussian noise of standard deviation `strength` x 0.2 of full scale, other in each step, pixel and channel.

    At half strength 0.1, which is between ImageNet-C's first and second severity, and CIFAR-10-C's fifth.
    """
    key = int(random.integers(2**62))

    def look(image: Image, step: int) -> Image:
        # From the step and not from a running stream: a frame filmed in between changes nothing.
        grain = np.random.default_rng((key, step)).standard_normal(image.shape, np.float32)
        grain *= 0.2 * 255.0 * strength
        return cv2.add(image, grain, dtype=cv2.CV_8U).astype(np.uint8, copy=False)

    return look


def blur(_random: np.random.Generator, strength: float) -> Look:
    """Gaussian blur of standard deviation `strength` x 3 % of the shorter side: 1.3 pixels of 84 at half strength."""

    def look(image: Image, _: int) -> Image:
        sigma = 0.03 * strength * min(image.shape[:2])
        return cv2.GaussianBlur(image, (0, 0), sigma).astype(np.uint8, copy=False) if sigma else image

    return look


def occluder(random: np.random.Generator, strength: float) -> Look:
    """Cover a box of `strength` x half of either side with one colour; place and colour are drawn for each episode."""
    down, right = random.uniform(0.0, 1.0, 2)
    colour = random.integers(0, 256, 3, np.uint8)

    def look(image: Image, _: int) -> Image:
        height, width = (round(0.5 * strength * side) for side in image.shape[:2])
        top, left = round(down * (image.shape[0] - height)), round(right * (image.shape[1] - width))
        covered = image.copy()
        covered[top : top + height, left : left + width] = colour
        return covered

    return look


def overlay(random: np.random.Generator, strength: float) -> Look:
    """Mix in, at `strength` x 60 %, three coloured waves that cross each other and move on with every step.

    Waves are 1 to 4 to a side and move by 1/50 to 1/15 of their length in a step; each channel has its own phases.
    """
    rows, columns = random.choice((-1.0, 1.0), (2, 3)) * random.uniform(1.0, 4.0, (2, 3))
    speed = random.choice((-1.0, 1.0), 3) * random.uniform(1 / 50, 1 / 15, 3)
    phase = random.uniform(0.0, 1.0, (3, 3))  # [channel, wave]

    def look(image: Image, step: int) -> Image:
        y, x = (np.arange(side) / side for side in image.shape[:2])
        # sin(a + b) = sin a cos b + cos a sin b makes a wave an outer product: no sine for each pixel.
        a = 2 * np.pi * np.outer(y, rows)
        b = 2 * np.pi * (np.outer(columns, x)[None] + (phase + speed * step)[..., None])  # [channel, wave, column]
        waves = np.sin(a) @ np.cos(b) + np.cos(a) @ np.sin(b)  # [channel, row, column], -3..3
        pattern = np.rint(np.clip(127.5 + 85.0 * waves, 0.0, 255.0)).astype(np.uint8).transpose(1, 2, 0)
        return cv2.addWeighted(image, 1.0 - 0.6 * strength, pattern, 0.6 * strength, 0.0).astype(np.uint8, copy=False)

    return look


class Shifted(gym.Wrapper[Any, Any, Any, Any]):
    """Shows an environment of uint8 `[3, H, W]`, or of several, and what it renders, through a shift; its game stays as
    it is.

    Observations and films are shifted alike, each at its own size: a film shows what the agent saw. An episode's draws
    come from a generator of their own, seeded by `reset(seed=...)`: one seed gives one look, and the game draws as
    it does without a shift.
    """

    def __init__(self, env: gym.Env[Any, Any], name: str, strength: float) -> None:
        """Args: `name` of a row in `SHIFTS`; `strength` 0..1, 0 shows the picture as it is. Raises `EnvError`."""
        super().__init__(env)
        self._shift, self._strength = find(name), strength
        self._random = np.random.default_rng()
        self._begin()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A new episode, and a new look."""
        if seed is not None:
            self._random = np.random.default_rng((seed, _OWN))
        self._begin()
        observation, info = self.env.reset(seed=seed, options=options)
        return self._shown(observation), info

    def step(self, action: Any) -> Step:
        """As the environment; rewards and ends are untouched."""
        self._step += 1
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._shown(observation), reward, terminated, truncated, info

    def render(self) -> Image | None:
        """The environment's frame through the same shift, uint8 `[H, W, 3]`."""
        frame: Any = self.env.render()
        return None if frame is None else self._look(frame, self._step)

    def snapshot(self) -> dict[str, Any]:
        """Which look it is, by the seed that looks are drawn from and their number, and the step."""
        seeds: Any = self._random.bit_generator.seed_seq
        entropy = seeds.entropy if isinstance(seeds.entropy, list | tuple) else [seeds.entropy]
        return {"seed": [str(part) for part in entropy], "looks": seeds.n_children_spawned, "step": self._step}

    def restore_snapshot(self, values: Mapping[str, Any]) -> None:
        """Draw the same look again."""
        entropy = [int(part) for part in values["seed"]]
        seeds = np.random.SeedSequence(
            entropy if len(entropy) > 1 else entropy[0], n_children_spawned=int(values["looks"]) - 1
        )
        self._random = np.random.default_rng(seeds)
        self._begin()
        self._step = int(values["step"])

    def _begin(self) -> None:
        self._look = self._shift.begin(self._random.spawn(1)[0], self._strength)
        self._step = 0

    def _shown(self, observation: Any) -> Any:
        """An observation through the shift: each image of a dict alike, and its vectors as they are."""
        if isinstance(observation, Mapping):
            return {key: self._through(part) if part.ndim == 3 else part for key, part in observation.items()}
        return self._through(observation)

    def _through(self, pixels: Image) -> Image:
        return np.ascontiguousarray(self._look(pixels.transpose(1, 2, 0), self._step).transpose(2, 0, 1))
