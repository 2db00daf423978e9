"""The flags that choose an encoder, the same on both tracks; they are checked before torch is imported."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self, get_args, get_origin, get_type_hints

from stillsight.encoders.errors import EncoderError, unknown
from stillsight.encoders.mode import Mode
from stillsight.encoders.taps.tap import check_order, check_poolings, stages_of, taps
from stillsight.encoders.weights import licences
from stillsight.encoders.zoo.registry import spec

UNNAMED = frozenset(
    {
        *("out", "resume", "device", "threads", "tensorboard", "workers", "step_timeout", "data", "cache"),
        *("weights_folder", "accept_license", "keep", "trust"),
    }
)
"""Fields that say where and on what a run is done, and not what it does: no part of its name, see `incidental`."""

NAME_LENGTH = 150
"""Characters that a run's name has at most; file systems take 255, and a film's or a report's name is added."""
LARGEST_SEED = 2_000_000_000
"""Evaluations and the environments beside the first take seeds that lie above a run's own; some games take 31 bits."""


LARGEST_RESOLUTION, LARGEST_RANK, MOST_THREADS = 4_096, 4_096, 1_024
"""What may be asked for; more is a slip of the finger, or a file that means to fill memory."""


def check_seed(seed: int) -> None:
    """Raise `EncoderError` for a seed that some random generator would not take."""
    if not 0 <= seed <= LARGEST_SEED:
        raise EncoderError(f"--seed {seed} is out of range. Type a number from 0 to {LARGEST_SEED:_}, say --seed 1.")


def refuse(given: Collection[str], flags: Collection[str], why: str) -> None:
    """Raise `EncoderError` if any of `flags` are among those that were typed, and name them all.

    Args:
        given: names of the fields whose flags were typed.
        flags: names of those that have no effect.
        why: what makes it so, and what to type instead: the end of a sentence that begins with "has no effect".
    """
    idle = ["--" + name.replace("_", "-") for name in flags if name in given]
    if len(idle) == 1:
        raise EncoderError(f"{idle[0]} has no effect {why}, or drop {idle[0]}.")
    if idle:
        raise EncoderError(f"{', '.join(idle[:-1])} and {idle[-1]} have no effect {why}, or drop them.")


class Idle(NamedTuple):
    """Flags that have no effect beside the others of a configuration.

    Attributes:
        flags: names of their fields.
        why: what makes it so: the end of a sentence that begins with "has no effect".
        instead: what to type.
    """

    flags: Collection[str]
    why: str
    instead: str


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Which encoder, where it is tapped, what is done with it, and on what it runs."""

    RESUMABLE: ClassVar[tuple[str, ...]] = ("device", "threads", "weights", "weights_folder")
    """Flags that may change when a run is resumed; a configuration of a run adds its own. Weights may lie elsewhere
    by then; that they are the same is checked."""
    LENGTH: ClassVar[str] = ""
    """The flag among them that says how long a run is."""
    COUNTS: ClassVar[tuple[str, ...]] = ("weights",)
    """Those among them that change what comes out, beside `LENGTH`."""
    WORDS: ClassVar[Mapping[str, str]] = {}
    """Field -> how its flag is typed, without "--", where that is not the field's name."""
    typed: ClassVar[frozenset[str] | None] = None
    """Names of the fields that were typed, which `check_given` notes on an instance; None of one made in Python."""
    LEARNING: ClassVar[tuple[str, ...]] = ("unfreeze", "adapt", "batchnorm", "lora_rank", "encoder_lr")
    """Flags of an encoder that learns; they have no effect on one that does not."""

    encoder: str = "retina"
    """A name of `stillsight list encoders`, or your own module:function."""
    mode: Mode = Mode.FROZEN
    """frozen: pretrained, not trained. random: random weights, not trained. finetune: pretrained, trained on. scratch:
    trained from random weights."""
    tap: str | None = None
    """Stage of the encoder that is read, the last one that runs; or several, say layer2,layer4, whose features are put
    one after the other. By default its last one in cifar, and an earlier one in rl, see `stillsight list encoders`."""
    pooling: str | None = None
    """From a map to a vector: global, grid<k>, flatten, softmax, cls or cls+global; attention<k> (k learned queries)
    and conv<c> (a 3 x 3 convolution to c channels) learn with the policy. One for every tap, or a list as long as that
    of --tap. By default the encoder's own, and in rl a grid, which keeps places apart."""
    resolution: int | None = None
    """Side in pixels that images are resized to before they are encoded; by default they stay as they are."""
    unfreeze: str | None = None
    """In finetune and scratch: train from this stage on, all stages by default."""
    adapt: Literal["all", "norm", "lora"] = "all"
    """What learns in finetune and scratch. all: every weight. norm: the scales and shifts of normalisation layers.
    lora: low-rank additions to the weights of convolutions, linear layers and attention (Hu et al. 2021)."""
    batchnorm: Literal["frozen", "train"] | None = None
    """Statistics of BatchNorm in the part that learns. frozen: they stay, in training as in use. train: each batch is
    normalised by its own and moves them. By default frozen, and in cifar with --adapt all train."""
    lora_rank: int = 8
    """Rank of the additions of --adapt lora."""
    weights: Path | None = None
    """Weights to start from: a safetensors or .pth file, or the folder of a run that trained its encoder."""
    weights_folder: Path | None = None
    """Folder with weights under their official names, searched before installed packages and the caches."""
    accept_license: bool = False
    """Accept the licence of the encoder's weights, where that must be done once; it is remembered for you on this
    machine."""
    seed: int = 0
    """Seed of everything random."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Of the encoder's convolutions and matrix products; auto takes bf16 where the hardware has it."""
    threads: int | None = None
    """CPU threads; torch's choice (all cores) by default. One is best where other work runs beside this."""

    def __post_init__(self) -> None:
        """Take names where a library user writes them, and no others than the command line does.

        Raises:
            EncoderError: there is no such mode, or no such value of a field that takes one of several words.
        """
        modes = [mode.value for mode in Mode]
        if self.mode not in modes:
            raise EncoderError(unknown("mode", str(self.mode), modes, "Modes are", "--mode"))
        object.__setattr__(self, "mode", Mode(self.mode))
        for name, words in _words(type(self)).items():  # type: ignore[arg-type] # mypy takes the class for an instance
            if (value := getattr(self, name)) not in words:
                flag = "--" + self.WORDS.get(name, name).replace("_", "-")
                known = [word for word in words if word is not None]
                raise EncoderError(unknown("value", str(value), known, f"{flag} takes one of", flag))
        for name in ("weights", "weights_folder"):
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, Path(getattr(self, name)))

    @classmethod
    def incidental(cls) -> frozenset[str]:
        """Fields that make no other experiment of a run: where, on what and how it is done, as `UNNAMED` says, and what
        may change while it goes on, as `RESUMABLE` does, but for what changes what comes out."""
        return UNNAMED | set(cls.RESUMABLE) - {cls.LENGTH, *cls.COUNTS}

    def name_with(self, parts: Iterable[str], said: Iterable[str]) -> str:
        """A name for a run: `parts`, every further field that is not at its default, and the seed.

        Args:
            parts: what the name begins with.
            said: the fields that `parts` speak of.
        """
        said = {*said, "seed", *UNNAMED}
        differing = [
            f"{item.name}_{_word(value)}"
            for item in fields(self)
            if item.name not in said and (value := getattr(self, item.name)) != item.default
        ]
        name = "-".join(_safe(part) for part in (*parts, *differing))
        seed = f"-seed{self.seed}"
        if len(name) + len(seed) > NAME_LENGTH:  # what is cut off still tells two runs apart
            digest = hashlib.sha256(name.encode()).hexdigest()[:8]
            name = f"{name[: NAME_LENGTH - len(seed) - 9]}-{digest}"
        return name + seed

    def for_control(self) -> Self:
        """With tap and pooling filled in, each where it was not chosen, by what the encoder's row says for agents."""
        tap, pooling = spec(self.encoder).control
        return replace(self, tap=self.tap or tap, pooling=self.pooling or pooling)

    def check_ranges(self) -> None:
        """Refuse numbers that no encoder can have; of names nothing is looked up.

        Raises:
            EncoderError: which number, what is allowed, what to type.
        """
        check_seed(self.seed)
        if self.lora_rank < 1:
            raise EncoderError(f"--lora-rank {self.lora_rank} adds nothing. Type a number from 1, say --lora-rank 8.")
        if self.lora_rank > LARGEST_RANK:
            raise EncoderError(f"--lora-rank {self.lora_rank} is too large. Type a number up to {LARGEST_RANK:_}.")
        if self.resolution is not None and self.resolution < 1:
            raise EncoderError(f"--resolution {self.resolution} is no size. Type a number of pixels, say 64.")
        if self.resolution is not None and self.resolution > LARGEST_RESOLUTION:
            raise EncoderError(
                f"--resolution {self.resolution} is too large. Type a number up to {LARGEST_RESOLUTION:_}, say 224."
            )
        if self.threads is not None and self.threads > MOST_THREADS:
            raise EncoderError(f"--threads {self.threads} is too large. Type a number up to {MOST_THREADS:_}.")
        if self.pooling is not None:
            check_poolings(self.pooling)

    def check_settings(self) -> None:
        """Refuse numbers that no encoder can have, and what the mode makes no use of; of names nothing is looked up.

        Raises:
            EncoderError: which, why, and what to type.
        """
        self.check_ranges()
        if self.unfreeze is not None and not self.mode.trained:
            raise EncoderError(
                f"--unfreeze {self.unfreeze} trains a part of the encoder, and --mode {self.mode.value} trains none. "
                "Type --mode finetune, or drop --unfreeze."
            )
        self._check_adaptation()
        if self.weights is not None and not self.mode.pretrained:
            raise EncoderError(
                f"--mode {self.mode.value} starts from random weights, so --weights has no use. Drop one of them."
            )

    def check_encoder(self, side: int | None = None) -> None:
        """Refuse names and combinations that cannot work.

        Args:
            side: smaller side, in pixels, of the images that will come; None if it is not known yet.

        Raises:
            EncoderError: no such encoder or stage, no weights for this mode, images too small.
        """
        self.check_settings()
        row = spec(self.encoder)
        named = self.tap or row.tap
        for stage in stages_of(named):
            row.check_tap(stage)
        check_order(named, tuple(row.stages))
        tap = taps(named, self.pooling or row.pooling)[-1].stage
        if self.mode.pretrained and row.weights is None and self.weights is None:
            raise EncoderError(row.without_weights)
        if self.mode.pretrained and self.weights is None:
            licences.check(row, self.accept_license)
        reached = [*list(row.stages)[: list(row.stages).index(tap) + 1], "all"]
        if self.unfreeze is not None and self.unfreeze not in reached:
            allowed = f"Up to the tap {tap}, {row.name} can be unfrozen from"
            raise EncoderError(unknown("stage", self.unfreeze, reached, allowed, "--unfreeze"))
        side = self.resolution or side
        if side is not None:
            row.check_size(side, tap, "--resolution")

    def check_given(self, given: Collection[str]) -> None:
        """Refuse flags that were typed and have no effect beside the others.

        Args:
            given: names of the fields whose flags were typed, with their default too.

        Raises:
            EncoderError: which flag, why, and what to type.
        """
        self.note_typed(given)
        for flags, why, instead in self.idle():
            refuse(given, flags, f"{why}. {instead}")

    def idle(self) -> Iterator[Idle]:
        """What has no effect beside the other flags, whether it was given or not."""
        mode, official = f"with --mode {self.mode.value}", ("weights_folder", "accept_license")
        if not self.mode.trained:
            yield Idle(self.LEARNING, f"{mode}, in which the encoder does not learn", "Type --mode finetune")
        if not self.mode.pretrained:
            yield Idle(official, f"{mode}, which starts from random weights", "Type --mode frozen or finetune")
        elif self.weights is not None:
            yield Idle(official, "beside --weights, which says where they are", "Drop --weights")
        elif not spec(self.encoder).accept:
            why = f"with --encoder {self.encoder}, whose licence nobody must accept first"
            yield Idle(("accept_license",), why, "Type another --encoder")

    def why_idle(self, name: str) -> str | None:
        """Why the flag of a field has no effect beside the others, see `Idle`; None where it has one."""
        return next((idle.why for idle in self.idle() if name in idle.flags), None)

    def note_typed(self, given: Collection[str]) -> None:
        """Keep which flags were typed: a value that is the default counts then, too."""
        object.__setattr__(self, "typed", frozenset(given))

    def completed(self) -> Self:
        """With what depends on other flags filled in, where a flag of a resumed run was put back to its default."""
        return self

    def _check_adaptation(self) -> None:
        chosen = f"--adapt {self.adapt}" if self.adapt != "all" else f"--batchnorm {self.batchnorm}"
        if (self.adapt != "all" or self.batchnorm == "train") and not self.mode.trained:
            raise EncoderError(
                f"{chosen} says how the encoder learns, and with --mode {self.mode.value} it does not. "
                f"Type --mode finetune, or drop {chosen}."
            )
        if self.lora_rank != EncoderConfig.lora_rank and self.adapt != "lora":
            raise EncoderError(
                f"--lora-rank {self.lora_rank} has no use with --adapt {self.adapt}. Type --adapt lora, or drop it."
            )


@functools.cache
def _words(config: type[Any]) -> Mapping[str, tuple[str | None, ...]]:
    """The fields of a configuration that take one of several words -> these, and None where they may be left out."""
    words: dict[str, tuple[str | None, ...]] = {}
    hints = get_type_hints(config)
    for field in fields(config):
        options = get_args(hints[field.name]) if type(None) in get_args(hints[field.name]) else (hints[field.name],)
        for option in options:
            if get_origin(option) is Literal:
                words[field.name] = (*get_args(option), *((None,) if len(options) > 1 else ()))
    return words


def _word(value: object) -> str:
    """A field's value in a name: a file by its stem, settings one after the other."""
    if isinstance(value, Path):
        return value.stem
    return "+".join(map(_word, value)) if isinstance(value, tuple) else str(value)


def _safe(text: str) -> str:
    """`text` as a part of a file's name, on every system."""
    return re.sub(r"[^\w.=+-]+", ".", text, flags=re.ASCII).strip(".")
