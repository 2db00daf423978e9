"""`Staged`: an environment that draws through the scenes of a shift, and what such a scene must have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pkgutil import resolve_name
from typing import Any

import gymnasium as gym
import numpy as np

from stillsight.envs.errors import EnvError
from stillsight.envs.shifts.pictures import Pictures
from stillsight.envs.shifts.rows import find
from stillsight.envs.shifts.terms import Term, check_order
from stillsight.envs.wrappers.parts import name as env_name
from stillsight.envs.wrappers.rules import Step


class Scene(ABC):
    """A shift that changes what an environment draws and not its picture; `Suite.shifts` names classes of these.

    A class takes the opened environment, the strength (above 0) and the user's pictures, and raises `EnvError` for an
    environment that it cannot change. The game draws its random numbers as it does without it.
    """

    @abstractmethod
    def begin(self, random: np.random.Generator) -> None:
        """An episode's look, from its draws, which do not depend on the strength; called before the environment's
        `reset`."""

    @abstractmethod
    def show(self, step: int) -> None:
        """So many agent steps of the episode are done: called before each of the environment's `step`."""

    @property
    def drawn(self) -> bool:
        """Whether anything was drawn through it; True where that cannot be told."""
        return True

    def follow(self) -> bool:
        """Look again for what draws, which an environment may make anew; True where it was another one, through which
        the episode's look is to be begun again."""
        return False

    def leave(self) -> None:  # noqa: B027 - most change nothing that stays
        """Draw through it no more."""


class Staged(gym.Wrapper[Any, Any, Any, Any]):
    """Has an environment draw through the scenes of a shift, from its first picture on: it stands around the game, and
    what looks at pictures around it. `Shifted`, further out, tells it the draws of an episode, and its steps.

    Attributes:
        scenes: of each shift that is asked for; None where it changes the picture, and where nothing is to change.
    """

    def __init__(self, env: gym.Env[Any, Any], scenes: Sequence[Scene | None]) -> None:
        super().__init__(env)
        self.scenes = list(scenes)
        self._step = 0
        self.begin([np.random.default_rng() for _ in scenes])

    def begin(self, draws: Sequence[np.random.Generator]) -> None:
        """The look of an episode, from the draws of each shift."""
        self._draws = draws
        for scene, random in zip(self.scenes, draws, strict=True):
            if scene is not None:
                scene.begin(random)
        self.show(0)

    def show(self, step: int) -> None:
        """So many agent steps are done."""
        self._step = step
        for scene in self.scenes:
            if scene is not None:
                scene.show(step)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A new episode, which some begin with something else to draw by."""
        begun = self.env.reset(seed=seed, options=options)
        self._follow()
        return begun

    def step(self, action: Any) -> Step:
        """The environment's step."""
        return self.env.step(action)

    def render(self) -> Any:
        """The environment's frame, through the scenes."""
        self._follow()
        return self.env.render()

    def _follow(self) -> None:
        for scene, random in zip(self.scenes, self._draws, strict=True):
            if scene is not None and scene.follow():
                scene.begin(anew(random))
                scene.show(self._step)


def staged(env: gym.Env[Any, Any], asked: Sequence[Term], given: Mapping[str, str]) -> gym.Env[Any, Any]:
    """`env` as a `Staged` where it draws one of the shifts that are asked for itself, and as it is elsewhere.

    Args:
        env: the game.
        asked: shifts, in the order in which they are seen through.
        given: `Suite.shifts` of it.

    Raises:
        EnvError: it cannot give one of them, or would draw one that is to be seen after one of the picture.
    """
    scenes = [_scene(env, term, given) for term in asked]
    check_order(asked, [term.name for term, scene in zip(asked, scenes, strict=True) if scene is not None])
    return Staged(env, scenes) if any(scene is not None for scene in scenes) else env


def stage_of(env: gym.Env[Any, Any]) -> Staged | None:
    """The `Staged` that stands in an environment."""
    layer: Any = env
    while isinstance(layer, gym.Wrapper):
        if isinstance(layer, Staged):
            return layer
        layer = layer.env
    return None


def anew(random: np.random.Generator) -> np.random.Generator:
    """A generator that draws again what this one, whose seed is its own, has drawn since it was made."""
    seeds: Any = random.bit_generator.seed_seq
    return np.random.default_rng(seeds)


def _scene(env: gym.Env[Any, Any], term: Term, given: Mapping[str, str]) -> Scene | None:
    """The suite's own way to give a shift; None where it has none, and where nothing is to change."""
    of_any_picture = bool(find(term.name).entry_point)
    if term.name not in given:
        if not of_any_picture:
            raise EnvError(f"{env_name(env)} cannot give the shift {term.name}. See: stillsight look")
        return None
    if term.strength == 0.0:
        return None
    pictures = Pictures(term.path) if term.path else None
    try:
        scene: Scene = resolve_name(given[term.name])(env, term.strength, pictures)
    except EnvError:
        if not of_any_picture:
            raise
        return None  # an environment of no suite: any picture has this shift
    return scene
