"""The flags of `stillsight look`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from stillsight.agents.errors import RunError
from stillsight.agents.training.settings import overrides
from stillsight.encoders.config import check_seed, refuse
from stillsight.envs.options import EnvOptions
from stillsight.envs.registry import resolve
from stillsight.envs.shifts.terms import terms

MOST_STEPS = 10_000
"""Agent steps of random play that may be asked for."""


@dataclass(frozen=True, kw_only=True)
class LookConfig:
    """Look at an environment as an agent sees it: a sheet of its first frames and of every shift that it can be shown
    through, what it observes in words, and a short film of random play. Or play it yourself."""

    shift: tuple[str, ...] = ()
    """Shifts to show, each as `rl --shift` takes it: NAME, NAME:STRENGTH, NAME@PATH for pictures of your own, or
    several joined by +. All that the environment has, by default. Each one that is named here is filmed, too."""
    size: int | None = None
    """Side of the images in pixels, 0 for the native size; that of the environment's row by default."""
    pixels: tuple[str, ...] = ()
    """Images of a Dict observation to look at, as `rl --pixels` takes them. Its only image by default."""
    state: tuple[str, ...] = ()
    """Numbers beside the images, as `rl --state` takes them: on for all, or their keys; off by default."""
    frame_skip: int | None = None
    """Repeat each action this often; the environment's default otherwise."""
    env_set: tuple[str, ...] = ()
    """Arguments of the environment itself, as name=value."""
    seed: int = 0
    """Seed of the episode."""
    steps: int = 120
    """Agent steps of random play in the film, at most those of one episode; 0 for no film."""
    out: Path | None = None
    """Folder of sheet.png and random.mp4; results/look/<environment> by default. Those of an earlier look are
    replaced."""
    play: bool = False
    """Play it yourself, by keyboard in a window, through the one --shift that may be given; nothing is written."""

    def check(self) -> None:
        """Refuse what cannot work, before an environment is made.

        Raises:
            RunError, EnvError, EncoderError: what was found, what is allowed, what to type.
        """
        check_seed(self.seed)
        if not 0 <= self.steps <= MOST_STEPS:
            raise RunError(f"--steps {self.steps} is no length of a film. Type a number from 0 to {MOST_STEPS:_}.")
        if self.out is not None and self.out.exists() and not self.out.is_dir():
            raise RunError(f"--out {self.out} is a file. Type a folder; sheet.png and random.mp4 are files in it.")
        for shift in self.shift:
            terms(shift)
        if len(set(self.shift)) < len(self.shift):
            raise RunError("--shift names a shift twice. Name each once.")
        if self.play and len(self.shift) > 1:
            raise RunError("--play shows one game, and several shifts were named. Join them: --shift A+B.")
        overrides(self.env_set, "--env-set")

    def check_given(self, given: Collection[str]) -> None:
        """Refuse flags that were typed and have no effect beside --play.

        Raises:
            RunError: which flag, why, and what to type.
        """
        if self.play:
            refuse(given, ("steps", "out"), "with --play, which writes nothing. Drop --play")

    def options(self, env: str) -> EnvOptions:
        """How an environment is shown, without a shift.

        Raises:
            EnvError: there is no such environment, or it cannot be shown so.
        """
        return resolve(env).options.merge(
            size=self.size,
            pixels=self.pixels or None,
            state=self.state or None,
            frame_skip=self.frame_skip,
            kwargs=overrides(self.env_set, "--env-set") or None,
        )
