"""EnvOptions: how an environment is shown to an agent, as a frozen record that travels into the run folder as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TypeAlias

from stillsight.envs.errors import EnvError
from stillsight.envs.shifts.terms import number, terms, written

Scalar: TypeAlias = str | int | float | bool | None

ON, OFF = "on", "off"
"""What `state` takes beside keys, and `pixels` (off alone)."""

RENDERING = "rendering"
"""Key of what `render()` draws, among images."""

LONGEST_WAIT = 1_000_000.0
"""Seconds that a step may be waited for: eleven days, which systems can still count in milliseconds."""

SMALLEST_IMAGE = 16
"""Shortest side in pixels of what counts as an image. MiniGrid's 7 x 7 x 3 uint8 table of symbols looks like one."""

LARGEST_SIZE = 1024
"""Longest side in pixels that `size` may ask for; larger is nearly always a slip of the finger, and fills memory."""


LARGEST_SEED = 2**32 - 1
"""What numpy's older generators take, with which dm_control draws."""


def check_seed(seed: int, copies: int = 1) -> None:
    """Raise `EnvError` for a seed, that of the first of some copies, which some random generator would not take."""
    largest = LARGEST_SEED - (copies - 1)
    if not 0 <= seed <= largest:
        raise EnvError(f"The seed {seed} is out of range. Give a number from 0 to {largest:_}, say seed=1.")


@dataclass(frozen=True, kw_only=True)
class EnvOptions:
    """What happens between a Gymnasium environment and the pixels an agent sees.

    Every field is concrete, so a recorded run needs no later default to be understood. `0` means "as the
    environment has it" for `size` and `max_episode_steps`.

    Raises `EnvError` for a value out of range.
    """

    size: int = 0
    """Side of the square observation in pixels, 8..1024; 0 keeps the native size. Rows of suites may have another."""
    frame_skip: int = 1
    """Environment steps per agent step, at least 1: the action is repeated and the rewards are added up."""
    clip_rewards: bool = False
    """Learn from the sign of the reward. Training only; `info["episode"]["r"]` keeps the true return."""
    max_episode_steps: int = 0
    """Truncate after this many agent steps, in place of the environment's own limit; 0 keeps its own limit. Where
    rewards depend on a clock of its own (MiniGrid, MiniWorld), no more steps than that has."""
    noop_max: int = 0
    """Atari only: each game starts after up to this many random no-ops; 0 starts at once."""
    terminal_on_life_loss: bool = False
    """Atari only, training only: the loss of a life ends the episode, but the game goes on and is scored as a whole."""
    shift: str | None = None
    """What the agent sees through, in training as in evaluation, as `shifts.terms.terms` reads it: a row of
    `shifts.SHIFTS`, "NAME:STRENGTH", "NAME@PATH", or several joined by "+"; None shows all as it is."""
    shift_strength: float | None = None
    """0..1, where 0 changes no pixel. With one shift it is a number, the row's unless given; None with several, which
    say their own, and without any."""
    step_timeout: float = 0.0
    """Seconds that a step or a reset may take, after which the environment hangs, see `Watched`; 0 waits for ever."""
    pixels: tuple[str, ...] = ()
    """Keys of the images of an observation that are seen, "rendering" for what `render()` draws; empty for its only
    one, "off" alone for none."""
    state: tuple[str, ...] = ()
    """Keys of the vectors of an observation that are seen beside the images, "on" alone for all; empty for none."""
    kwargs: tuple[tuple[str, Scalar], ...] = ()
    """Keyword arguments for `gymnasium.make`, as (name, value) pairs so that the record is hashable."""

    def __post_init__(self) -> None:
        if self.size != 0 and not 8 <= self.size <= LARGEST_SIZE:
            raise EnvError(
                f"An observation of size {self.size} was asked for; the size is 8 to {LARGEST_SIZE} pixels, or 0 for "
                "the environment's own. Try 64, 84 or 224."
            )
        if self.frame_skip < 1:
            raise EnvError(f"A frame skip of {self.frame_skip} was asked for; it is 1 (no skip) or more. Try 1 or 4.")
        for name in ("max_episode_steps", "noop_max"):
            if getattr(self, name) < 0:
                raise EnvError(f"{name} is {getattr(self, name)}; it is a count of 0 (off) or more. Try 0.")
        if not 0.0 <= self.step_timeout <= LONGEST_WAIT:
            raise EnvError(
                f"A step timeout of {self.step_timeout:g} seconds was asked for; it is 0 (wait for ever) to "
                f"{LONGEST_WAIT:,.0f}. Try --step-timeout 600."
            )
        self._check_parts()
        self._check_shift()

    def _check_parts(self) -> None:
        for name in ("pixels", "state"):  # frozen, and JSON has lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.state == (OFF,):
            object.__setattr__(self, "state", ())
        if ON in self.pixels:
            raise EnvError("--pixels on says not which images. Name them, or drop --pixels for the only one.")
        for flag, keys, words in (("--pixels", self.pixels, (OFF,)), ("--state", self.state, (ON, OFF))):
            said = next((word for word in words if word in keys), None)
            if said is not None and len(keys) > 1:
                raise EnvError(
                    f"{flag} {' '.join(keys)} says {said} and names keys too. Type {flag} {said}, or keys alone."
                )
            if len(set(keys)) < len(keys):
                raise EnvError(f"{flag} {' '.join(keys)} names a key twice. Name each once.")
        if both := [key for key in self.pixels if key in self.state]:
            raise EnvError(f"{both[0]!r} was named as an image and as numbers. Name it in --pixels or in --state.")
        if self.pixels == (OFF,) and not self.state:
            raise EnvError("--pixels off leaves nothing to see. Add the vectors: --state on.")

    def _check_shift(self) -> None:
        if self.shift is None:
            if self.shift_strength is not None:
                raise EnvError(
                    f"A shift strength of {self.shift_strength:g} was given without a shift. Name one, for example: "
                    f"--shift hue --shift-strength {self.shift_strength:g}, or in --eval-shift with its own: "
                    f"--eval-shift hue:{self.shift_strength:g}"
                )
            return
        shift, strength = written(terms(self.shift, self.shift_strength))
        object.__setattr__(self, "shift", shift)  # frozen, and concrete
        object.__setattr__(self, "shift_strength", strength)

    def through(self, shift: str | None, strength: float | None = None) -> EnvOptions:
        """These options with another shift: None leaves them as they are, "none" takes a shift away.

        Raises `EnvError` for no such shift, a strength out of range, or a strength without a shift.
        """
        if shift is None and strength is None:
            return self
        return replace(self, shift=None if shift == "none" else shift, shift_strength=strength)

    @property
    def look(self) -> str:
        """What is seen through, in words: "noise of strength 0.5"; "" for the game as it is."""
        if self.shift is None:
            return ""
        return " and ".join(
            f"{term.label} of strength {number(term.strength)}" for term in terms(self.shift, self.shift_strength)
        )

    def merge(
        self,
        *,
        size: int | None = None,
        frame_skip: int | None = None,
        clip_rewards: bool | None = None,
        max_episode_steps: int | None = None,
        noop_max: int | None = None,
        terminal_on_life_loss: bool | None = None,
        shift: str | None = None,
        shift_strength: float | None = None,
        step_timeout: float | None = None,
        pixels: tuple[str, ...] | None = None,
        state: tuple[str, ...] | None = None,
        kwargs: Mapping[str, Scalar] | None = None,
    ) -> EnvOptions:
        """These options with a user's wishes on top: `None` keeps what is here, `kwargs` are added name by name."""
        wishes = {
            "size": size,
            "frame_skip": frame_skip,
            "clip_rewards": clip_rewards,
            "max_episode_steps": max_episode_steps,
            "noop_max": noop_max,
            "terminal_on_life_loss": terminal_on_life_loss,
            "shift": shift,
            "shift_strength": shift_strength,
            "step_timeout": step_timeout,
            "pixels": pixels,
            "state": state,
            "kwargs": None if kwargs is None else tuple({**dict(self.kwargs), **kwargs}.items()),
        }
        own = self
        if shift is not None and ":" in shift.partition("@")[0]:  # it says its strength, which takes this one's place
            own = replace(self, shift=None, shift_strength=None)
        return replace(own, **{name: value for name, value in wishes.items() if value is not None})  # type: ignore[arg-type]

    def to_json(self) -> dict[str, object]:
        """A plain dict for `json.dump`, `kwargs` as a dict too."""
        record: dict[str, object] = {field.name: getattr(self, field.name) for field in fields(self)}
        return record | {"kwargs": dict(self.kwargs)}
