"""`Shifted`: the wrapper that shows an environment through a shift, and what a suite's own shift must have."""

from __future__ import annotations

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

from stillsight.envs.errors import EnvError
from stillsight.envs.shifts.pictures import Pictures
from stillsight.envs.shifts.rows import Image, Look, find
from stillsight.envs.shifts.terms import Term, terms
from stillsight.envs.wrappers.parts import name as env_name
from stillsight.envs.wrappers.rules import Step

_OWN = 0x5E1F7  # makes a seed's draws here others than the environment's own


class Scene(Protocol):
    """A shift that changes what an environment draws and not its picture; `Suite.shifts` names classes of these.

    A class takes the opened environment, the strength (above 0) and the user's pictures, and raises `EnvError` for an
    environment that it cannot change. The game draws its random numbers as it does without it.
    """

    def begin(self, random: np.random.Generator) -> None:
        """An episode's look, from its draws, which do not depend on the strength; called before the environment's
        `reset`."""

    def show(self, step: int) -> None:
        """So many agent steps of the episode are done: called before each of the environment's `step`."""


class Shifted(gym.Wrapper[Any, Any, Any, Any]):
    """Shows an environment of uint8 `[3, H, W]`, or of several such images, and what it renders, through one shift or
    several; its game stays as it is.

    Observations and films are shifted alike, each at its own size: a film shows what the agent saw. An episode's draws
    come from a generator of their own, seeded by `reset(seed=...)`: one seed gives one look, and the game draws as
    it does without a shift.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        shift: str,
        strength: float | None = None,
        scenes: Mapping[str, str] | None = None,
    ) -> None:
        """Args: `shift` as `terms.terms` reads it; `strength` 0..1 of those without one of their own, 0 shows the
        picture as it is; `scenes` `Suite.shifts` of the environment. Raises `EnvError`."""
        super().__init__(env)
        self._terms = terms(shift, strength)
        self._pictures = [Pictures(term.path) if term.path else None for term in self._terms]
        self._scenes = [
            self._scene(term, pictures, scenes or {})
            for term, pictures in zip(self._terms, self._pictures, strict=True)
        ]
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
        self._show(self._step + 1)
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._shown(observation), reward, terminated, truncated, info

    def render(self) -> Image | None:
        """The environment's frame through the same shift, uint8 `[H, W, 3]`."""
        frame: Any = self.env.render()
        return None if frame is None else self._through(frame)

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
        self._show(int(values["step"]))

    def _scene(self, term: Term, pictures: Pictures | None, scenes: Mapping[str, str]) -> Scene | None:
        """The suite's own way to give a shift; None where it has none, and where nothing is to change."""
        if term.name not in scenes:
            if not find(term.name).entry_point:
                raise EnvError(f"{env_name(self.env)} cannot give the shift {term.name}. See: stillsight look")
            return None
        if term.strength == 0.0:
            return None
        try:
            scene: Scene = resolve_name(scenes[term.name])(self.env, term.strength, pictures)
        except EnvError:
            if not find(term.name).entry_point:
                raise
            return None  # an environment of no suite: any picture has this shift
        return scene

    def _begin(self) -> None:
        random = self._random.spawn(1)[0]
        # One shift alone draws from the episode's generator itself, as it always has.
        several = [random] if len(self._terms) == 1 else random.spawn(len(self._terms))
        self._looks: list[Look] = []
        for term, pictures, scene, each in zip(self._terms, self._pictures, self._scenes, several, strict=True):
            if scene is not None:
                scene.begin(each)
            elif term.strength:
                self._looks.append(find(term.name).begin(each, term.strength, pictures))
        self._show(0)

    def _show(self, step: int) -> None:
        self._step = step
        for scene in self._scenes:
            if scene is not None:
                scene.show(step)

    def _shown(self, observation: Any) -> Any:
        """An observation through the shift: each image of a dict alike, and its vectors as they are."""
        if isinstance(observation, Mapping):
            return {key: self._turned(part) if part.ndim == 3 else part for key, part in observation.items()}
        return self._turned(observation)

    def _turned(self, pixels: Image) -> Image:
        return np.ascontiguousarray(self._through(pixels.transpose(1, 2, 0)).transpose(2, 0, 1))

    def _through(self, image: Image) -> Image:
        for look in self._looks:
            image = look(image, self._step)
        return image
