"""`Shifted`: the wrapper that shows an environment through a shift."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from stillsight.envs.errors import EnvError
from stillsight.envs.shifts.pictures import Pictures
from stillsight.envs.shifts.rows import SHIFTS, Image, Look, find
from stillsight.envs.shifts.staged import Scene, anew, stage_of, staged
from stillsight.envs.shifts.terms import Term, terms
from stillsight.envs.wrappers.parts import name as env_name
from stillsight.envs.wrappers.rules import Step

_OWN = 0x5E1F7  # makes a seed's draws here others than the environment's own


class Shifted(gym.Wrapper[Any, Any, Any, Any]):
    """Shows an environment of uint8 `[3, H, W]`, or of several such images, and what it renders, through one shift or
    several; its game stays as it is.

    Observations and films are shifted alike, each at its own size: a film shows what the agent saw, and is what it saw
    where the environment draws no frames. An episode's draws come from a generator of their own, seeded by
    `reset(seed=...)`: one seed gives one look, and the game draws as it does without a shift. What the environment
    draws itself is drawn by the `Staged` in it, which is put around it where there is none.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        shift: str,
        strength: float | None = None,
        scenes: Mapping[str, str] | None = None,
    ) -> None:
        """Args: `shift` as `terms.terms` reads it; `strength` 0..1 of those without one of their own, 0 shows the
        picture as it is; `scenes` `Suite.shifts` of the environment. Raises `EnvError`; so does a reset or a step that
        shows an image which was not drawn through what the environment was to draw."""
        self._terms = terms(shift, strength)
        stage = stage_of(env)
        if stage is None:
            env = staged(env, self._terms, scenes or {})
            stage = stage_of(env)
        super().__init__(env)
        self._stage = stage
        # A scene has its own.
        of_looks = [scene is None for scene in self._scenes]
        self._pictures = [_pictures(term) if mine else None for term, mine in zip(self._terms, of_looks, strict=True)]
        self._films_what_is_seen = env.has_wrapper_attr("films_what_is_seen") and bool(
            env.get_wrapper_attr("films_what_is_seen")
        )
        self._last: list[Image] = []
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
        """The environment's frame through the same shift, uint8 `[H, W, 3]`, or the images last shown, side by side."""
        if self._films_what_is_seen and self._last:
            return np.concatenate(self._last, axis=2).transpose(1, 2, 0).copy()
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
        self._last = []
        self._show(int(values["step"]))

    @property
    def _scenes(self) -> list[Scene | None]:
        return [None] * len(self._terms) if self._stage is None else self._stage.scenes

    def _begin(self) -> None:
        random = self._random.spawn(1)[0]
        # One shift alone draws from the episode's generator itself, as it always has.
        self._draws = [random] if len(self._terms) == 1 else random.spawn(len(self._terms))
        if self._stage is not None:
            self._stage.begin(self._draws)
        self._looks: list[Look] = []
        for term, pictures, scene, draws in zip(self._terms, self._pictures, self._scenes, self._draws, strict=True):
            if scene is None and term.strength:
                self._looks.append(find(term.name).begin(draws, term.strength, pictures))
        self._show(0)

    def _show(self, step: int) -> None:
        self._step = step
        if self._stage is not None:
            self._stage.show(step)

    def _shown(self, observation: Any) -> Any:
        """An observation through the shift: each image of a dict alike, and its vectors as they are."""
        if not isinstance(observation, Mapping):
            self._check_drawn()
            self._last = [self._turned(observation)]
            return self._last[0]
        if any(part.ndim == 3 for part in observation.values()):
            self._check_drawn()
        shown = {key: self._turned(part) if part.ndim == 3 else part for key, part in observation.items()}
        self._last = [part for part in shown.values() if part.ndim == 3] or self._last
        return shown

    def _check_drawn(self) -> None:
        """See to it that the images which are shown were drawn through the scenes: what an environment observes may
        come from another renderer than the one that they change."""
        if self._stage is None:
            return
        missed = [i for i, scene in enumerate(self._stage.scenes) if scene is not None and not scene.drawn]
        for i in missed:
            term = self._terms[i]
            if term.name not in SHIFTS:
                raise EnvError(
                    f"The shift {term.name} would not be seen: the images that {env_name(self.env)} shows are not "
                    "drawn by the renderer that it changes (mujoco_renderer, or the render of physics). Have them "
                    f"drawn by that, or type a shift of any picture: {', '.join(SHIFTS)}."
                )
            self._drop(i)

    def _drop(self, number: int) -> None:
        """Show the shift of that number by the picture, from the same draws, and no longer by what is drawn."""
        assert self._stage is not None
        scene = self._stage.scenes[number]
        assert scene is not None
        scene.leave()
        self._stage.scenes[number] = None
        before = sum(
            each is None and bool(term.strength)
            for each, term in zip(self._stage.scenes[:number], self._terms, strict=False)
        )
        term = self._terms[number]
        self._pictures[number] = _pictures(term)
        look = find(term.name).begin(anew(self._draws[number]), term.strength, self._pictures[number])
        self._looks.insert(before, look)

    def _turned(self, pixels: Image) -> Image:
        return np.ascontiguousarray(self._through(pixels.transpose(1, 2, 0)).transpose(2, 0, 1))

    def _through(self, image: Image) -> Image:
        for look in self._looks:
            image = look(image, self._step)
        return image


def _pictures(term: Term) -> Pictures | None:
    return Pictures(term.path) if term.path else None
