"""The flags of `throughput` and `replay`; they are checked before torch is imported."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from stillsight.agents.errors import RunError
from stillsight.encoders.config import LARGEST_RESOLUTION, refuse
from stillsight.encoders.errors import EncoderError
from stillsight.encoders.zoo.registry import spec

if TYPE_CHECKING:
    from stillsight.agents.training.config import RlConfig

Name = Literal["stock", "in-policy", "cached", "floor"]
NAMES: tuple[Name, ...] = ("stock", "in-policy", "cached", "floor")
SPIN = "GOMP_SPINCOUNT"
"""The environment variable that says how long OpenMP's threads (GNU's, in torch for Linux) spin."""
MOST_IMAGES = 1_000_000
"""Images at once that may be asked for; more is a slip of the finger."""


class Tapped(NamedTuple):
    """An encoder and the stage that is read of it, None for the one that agents read."""

    name: str
    tap: str | None

    @classmethod
    def parse(cls, text: str) -> Tapped:
        """NAME, NAME:TAP, module:function or module:function:TAP.

        Of a colon in `name:word`, the registry decides what it parts; a third party's module is not imported for that.
        """
        head, _, tail = text.rpartition(":")
        if not head:
            return cls(text, None)
        if ":" in head:
            return cls(head, tail)
        try:
            spec(head)
        except EncoderError:
            return cls(text, None)
        return cls(head, tail)


@dataclass(frozen=True, kw_only=True)
class ThroughputConfig:
    """How to measure; all other flags are those of `stillsight rl`, and describe the run that is measured.

    With --encoders no run is measured but encoders alone: each at every resolution, in every precision, under every
    engine and with every number of images at once, as far as that can be had here. With --envs it is environments
    alone: each under every backend that it has.
    """

    GROUPS: ClassVar[Mapping[str, str]] = {
        "arms": "measurement",
        "envs": "environments alone, in place of a run",
        "encoders": "encoders alone, in place of a run",
    }
    BESIDE: ClassVar[frozenset[str]] = frozenset(
        {
            *("rounds", "seconds", "json", "encoders", "resolutions", "precisions", "engines", "batch"),
            *("pooling", "resolution", "precision", "engine", "seed", "device", "threads"),
        }
    )
    """Flags, those of a run included, that mean something beside --encoders."""
    BESIDE_ENVS: ClassVar[frozenset[str]] = frozenset(
        {
            *("rounds", "seconds", "json", "envs", "n_envs", "seed"),
            *("size", "frame_skip", "pixels", "state", "shift", "shift_strength"),
        }
    )
    """The same beside --envs."""

    arms: tuple[Name, ...] = NAMES
    """What to measure. stock: the backbone as a features extractor in plain SB3. in-policy: ours, encoding in the
    policy. cached: ours. floor: stepping, encoding each new frame once and updating the head, each alone."""
    rounds: int = 3
    """Measurements of each arm, in turns."""
    seconds: float | None = None
    """Length of one measurement, 20 by default, 1 of an encoder alone and 2 of environments; an arm whose single update
    or batch takes longer takes as long as it takes."""
    json: bool = False
    """Print one JSON object instead of tables."""
    envs: tuple[str, ...] = ()
    """Measure these alone, in env steps/s of random play: one environment in a plain Gymnasium loop, --n-envs (8) of
    them in one process, in a process each, and under whatever steps them by itself. What cannot be had is a row that
    says why."""
    encoders: tuple[str, ...] = ()
    """Measure these alone, in images/s: NAME or NAME:TAP, without a tap the one that agents read. Weights are random,
    which costs the same; images are bytes that lie in the device's memory."""
    resolutions: tuple[int, ...] = ()
    """Sides of the images in pixels; --resolution where one is enough, 84, 128 and 224 by default."""
    precisions: tuple[Literal["float32", "bf16"], ...] = ()
    """Precisions; --precision where one is enough, by default float32, and bf16 where the hardware has it."""
    engines: tuple[Literal["auto", "eager", "folded", "compiled", "onnx", "graph"], ...] = ()
    """Engines; --engine where one is enough, by default those that are ready within a second: eager, folded, and graph
    on a GPU."""
    batch: tuple[int, ...] = ()
    """Images at once, 256 by default. Agents encode as many as there are environments."""

    @property
    def tapped(self) -> list[Tapped]:
        """What --encoders names."""
        return [Tapped.parse(text) for text in self.encoders]

    @property
    def length(self) -> float:
        """Seconds of one measurement."""
        return (1.0 if self.encoders else 2.0 if self.envs else 20.0) if self.seconds is None else self.seconds

    def check(self) -> None:
        """Refuse what measures nothing.

        Raises:
            RunError: counts below one.
            EncoderError: no such encoder or stage.
        """
        if self.rounds < 1 or not self.length > 0:
            raise RunError("--rounds and --seconds must be above 0. Type, say: --rounds 3 --seconds 20.")
        for name, tap in self.tapped:
            row = spec(name)
            row.check_tap(row.control[0] if tap is None else tap)
        if not all(1 <= side <= LARGEST_RESOLUTION for side in self.resolutions):
            raise RunError(f"--resolutions are sides in pixels, from 1 to {LARGEST_RESOLUTION:_}. Type, say: 84 224.")
        if not all(1 <= images <= MOST_IMAGES for images in self.batch):
            raise RunError(f"--batch is a number of images, from 1 to {MOST_IMAGES:_}. Type, say: --batch 8 256.")

    def concerning(self, run: RlConfig) -> RlConfig:
        """The run that is looked at: in one of the environments that --envs names."""
        return replace(run, env=self.envs[0]) if self.envs else run

    def check_given(self, given: Collection[str]) -> None:
        """Refuse flags that were typed and have no effect beside the others.

        Raises:
            EncoderError: which flag, why, and what to type.
        """
        if self.envs:
            alone = "beside --envs, which measures environments alone. Drop --envs"
            refuse(given, sorted(set(given) - self.BESIDE_ENVS), alone)
            return
        if not self.encoders:
            refuse(given, ("batch",), "on a run, whose own is --set batch_size=N. Type --encoders NAME")
            why = "without --encoders. Type --encoders NAME"
            refuse(given, ("resolutions", "precisions", "engines"), why)
            return
        why = "beside --encoders, which reads one wherever it is told to. Type --encoders NAME:TAP"
        refuse(given, ("tap",), why)
        alone = "beside --encoders, which measures encoders alone, with random weights. Drop --encoders"
        refuse(given, sorted(set(given) - self.BESIDE), alone)
        for one, many in (("resolution", "resolutions"), ("precision", "precisions"), ("engine", "engines")):
            if many in given:
                refuse(given, (one,), f"beside --{many}. Type it there")


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """Fill a replay memory to its last slot, sample from it, and say what both cost."""

    transitions: int = 1_000_000
    """Slots of the memory, in all environments together."""
    features: int = 512
    """Features of one frame."""
    frame_stack: int = 4
    """Frames in an observation."""
    n_envs: int = 1
    """Environments side by side."""
    batch: int = 256
    """Transitions in one sample."""
    dtype: Literal["float16", "float32"] = "float16"
    """How features are kept; they are sampled as float32."""
    repeats: int = 1_000
    """Samples to time."""
    threads: int | None = 1
    """CPU threads that torch may use; one, so that machines compare."""
    json: bool = False
    """Print one JSON object and nothing else on the standard output."""

    def check(self) -> None:
        """Raise `RunError` for numbers that measure nothing."""
        for name in ("transitions", "features", "frame_stack", "n_envs", "batch", "repeats"):
            value = getattr(self, name)
            if value < 1:
                raise RunError(f"--{name.replace('_', '-')} {value} measures nothing. Type a number from 1.")
