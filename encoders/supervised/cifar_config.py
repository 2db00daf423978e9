"""The flags of a CIFAR run; they are checked before torch is imported."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, Self

from stillsight.encoders.config import EncoderConfig, Idle
from stillsight.encoders.errors import EncoderError
from stillsight.encoders.mode import Mode
from stillsight.encoders.supervised.data.cifar_facts import CIFAR, SIDE
from stillsight.encoders.supervised.training.recipe import Recipe
from stillsight.encoders.taps.tap import taps
from stillsight.encoders.zoo.registry import spec

HeadKind = Literal["linear", "mlp", "knn", "ncm"]
"""The kinds of heads on frozen features, see `heads.kinds`."""

AUGMENTATION = ("crop", "flip", "rotation", "randaugment", "erasing")
"""Flags that change images in training, and in the views of frozen features."""

MOST_VIEWS = 1_000
"""Views of each image that may be asked for."""

TRAINING = (
    *("epochs", "batch", "accumulate", "optimizer", "lr", "layer_decay", "weight_decay", "warmup", "clip"),
    *("label_smoothing", "dropout", "ema", "patience", "mixup", "cutmix"),
    *("tta", "channels_last", "compile", "save_every", "save_dtype"),
)
"""Flags without effect on a head that is fitted to frozen features."""


@dataclass(frozen=True, kw_only=True)
class CifarConfig(EncoderConfig, Recipe):
    """Train a classifier on CIFAR or an image folder: a head on frozen features, or the encoder as well."""

    GROUPS: ClassVar[Mapping[str, str]] = {
        "dataset": "data",
        "encoder": "encoder",
        "head": "head on frozen features",
        "warm_start": "training, where the encoder learns",
        "epochs": "training, where the encoder learns",
        "crop": "augmentation",
        "tta": "training, where the encoder learns",
        "precision": "run",
        "seed": "run",
        "save_dtype": "run",
    }
    """Field -> heading of it and of those that follow, up to the next; see `stillsight.agents.command_line.flag`."""

    RESUMABLE: ClassVar[tuple[str, ...]] = (
        *("epochs", "save_every", "tensorboard", "data", "cache"),
        *EncoderConfig.RESUMABLE,
    )
    """Flags that may change when a run is resumed: where and how it is done, and for how long."""
    LENGTH: ClassVar[str] = "epochs"

    dataset: str = "cifar10"
    """cifar10, cifar100, or an image folder with one sub-folder a class, or with these in train/, test/ and valid/
    (training, testing, val and validation mean the same, in any case)."""
    data: Path = Path("data")
    """Folder with cifar-10-batches-py or cifar-100-python; downloaded there if missing."""
    cache: Path = Path("data/features")
    """Folder for frozen features, each computed once for all runs, and for decoded images; yours to write."""
    validation: int | None = None
    """Training images held out to choose with; the test images are used once, at the end. By default a tenth, of
    CIFAR 5,000; a fifth with --shots and --fraction; none where a folder has valid/ beside test/, which serves. But
    for all of CIFAR they are drawn class by class, at least one of each that has two: a few more than were asked for,
    or fewer."""
    shots: int | None = None
    """Labelled images a class, drawn by --seed, those for validation among them; by default all there are."""
    fraction: float | None = None
    """The same as a share of each class, 0 to 1."""
    skip_broken: float = 0.01
    """Share of an image folder's files that may be broken: they are left out and named. More is an error."""
    head: HeadKind = "linear"
    """On frozen features. linear: logistic regression. mlp: one hidden layer. knn: votes of the nearest training
    images. ncm: nearest class mean. What is chosen in them is chosen on the validation images."""
    refit: bool = True
    """Once that is chosen, fit the head again to training and validation images together, as linear probes are
    evaluated: to a quarter more labels where a fifth is held out. --no-refit leaves it fitted to the training images,
    which are all that an encoder in training learns from, and --warm-start's where it ends with its start."""
    views: int = 0
    """Augmented views of each training image that are encoded too, once, where the encoder is frozen; --crop, --flip,
    --rotation, --randaugment and --erasing say how."""
    warm_start: bool = False
    """In finetune: fit the linear head to frozen features first, and train on from it (LP-FT, Kumar et al. 2022).
    BatchNorm statistics, which the features come from, then stay as they are unless --batchnorm train is given. The run
    ends with its best epoch on the validation images, or where none beats the start by two of its standard errors,
    with what --mode frozen gives."""
    save_dtype: Literal["float32", "float16"] = "float32"
    """Rounding of the saved encoder. The test accuracy is measured after it. Tensors that float16 cannot hold stay
    float32 and are named."""
    tensorboard: bool = False
    """Write TensorBoard curves too, into the run folder."""
    out: Path | None = None
    """The run folder; results/runs/<name> by default."""
    resume: Path | None = None
    """Continue the run in this folder; a finished one that trained its encoder with more --epochs. Beside it, --epochs,
    --save-every, --data, --cache, --device, --threads, --weights, --weights-folder and --tensorboard may change; all
    else is read from the folder. The schedule of the rate follows the new length."""
    trust: tuple[str, ...] = ()
    """With --resume: what the run asks for and stillsight does not know of itself, as the refusal names it: code
    (module:name), or a folder to write into."""

    @property
    def run_name(self) -> str:
        """Default name of the run folder: what runs, and what differs from the defaults."""
        data = self.dataset if self.dataset in CIFAR else Path(self.dataset).resolve().name
        subset = f"-{self.shots}shots" if self.shots else f"-{self.fraction:g}" if self.fraction else ""
        head = f"-{self.head}" if self.head != "linear" else ""
        warm = "-warm" if self.warm_start else ""
        said = ("dataset", "shots", "fraction", "encoder", "mode", "head", "warm_start")
        return self.name_with((f"{data}{subset}", self.encoder, f"{self.mode.value}{head}{warm}"), said)

    def check(self) -> None:
        """Refuse names and combinations that cannot work, before torch is imported."""
        if self.resume is not None:  # every other flag is read from there, and checked then
            return
        side = SIDE if self.dataset in CIFAR else None
        self.check_encoder(side)
        self.check_recipe(side)
        if side is None and not Path(self.dataset).is_dir():
            raise EncoderError(
                f"--dataset {self.dataset} is neither cifar10, cifar100 nor a folder. Type one of these names, or a "
                "folder with one sub-folder a class."
            )
        self.check_ranges()
        self._check_head()

    def check_ranges(self) -> None:
        """Refuse numbers that no run can have; of names nothing is looked up.

        Raises:
            EncoderError: which number, what is allowed, what to type.
        """
        super().check_ranges()
        self.check_recipe()
        for flag in ("validation", "shots"):
            value = getattr(self, flag)
            if value is not None and value < 1:
                raise EncoderError(f"--{flag} {value} makes no run. Type a number from 1.")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise EncoderError(f"--fraction {self.fraction:g} is no share. Type a number above 0, up to 1, say 0.1.")
        if self.shots is not None and self.fraction is not None:
            raise EncoderError("--shots and --fraction both say how many images are used. Drop one of them.")
        if not 0 <= self.skip_broken < 1:
            raise EncoderError(f"--skip-broken {self.skip_broken:g} is no share. Type a number from 0 to below 1.")
        if self.views < 0:
            raise EncoderError(f"--views {self.views} is no number of views. Type a number from 0.")
        if self.views > MOST_VIEWS:
            raise EncoderError(f"--views {self.views} is too large. Type a number up to {MOST_VIEWS:_}, say 4.")

    def check_given(self, given: Collection[str]) -> None:
        """Refuse flags that were typed and have no effect beside the others, see `EncoderConfig.check_given`."""
        if self.resume is not None:  # what may stand beside it is known once the run's own flags are read
            self.note_typed(given)
            return
        super().check_given(given)

    def idle(self) -> Iterator[Idle]:
        """What has no effect beside the other flags, see `EncoderConfig.idle`."""
        if self.resume is None:
            yield Idle(("trust",), "without --resume: what you type yourself is trusted", "Type --resume RUN")
        yield from super().idle()
        mode, data = f"with --mode {self.mode.value}", f"with --dataset {self.dataset}"
        if not self.mode.trained:
            on = [name for name in (*TRAINING, *AUGMENTATION) if getattr(self, name)]  # --crop 0 says what is so
            once = f"{mode}, in which a head is fitted to features that are encoded once"
            yield Idle([name for name in TRAINING if name in on], once, "Type --mode finetune or --mode scratch")
            if not self.views:
                augmenting = [name for name in AUGMENTATION if name in on]
                yield Idle(augmenting, once, "Type --views 4 to encode augmented views")
        elif not self.warm_start:
            why = f"{mode}, which learns from the training images alone"
            yield Idle(("refit",), why, "Type --mode frozen, or --warm-start")
        if self.dataset in CIFAR:
            yield Idle(("skip_broken",), f"{data}, which has no broken files", "Name a folder")
        else:
            yield Idle(("data",), f"{data}, which is a folder itself", "Type --dataset cifar10")

    def _check_head(self) -> None:
        if self.warm_start and self.mode is not Mode.FINETUNE:
            raise EncoderError(
                f"--warm-start trains on from a head on pretrained features, and --mode {self.mode.value} does not. "
                "Type --mode finetune, or drop --warm-start."
            )
        if self.head != "linear" and self.mode.trained:
            raise EncoderError(
                f"--head {self.head} is fitted to frozen features, and --mode {self.mode.value} trains a linear one "
                "with the encoder. Type --mode frozen, or drop --head."
            )
        row = spec(self.encoder)
        read = taps(self.tap or row.tap, self.pooling or row.pooling)
        if any(tap.learns for tap in read) and (self.warm_start or not self.mode.trained):
            pooling = self.pooling or f"{row.pooling}, which is {self.encoder}'s own,"
            typed = "--warm-start" if self.warm_start else f"--mode {self.mode.value}"
            advice = "drop --warm-start" if self.warm_start else "type --mode finetune"
            raise EncoderError(
                f"--pooling {pooling} learns, and {typed} fits a head to features that are encoded once, before "
                f"anything learns. Type --pooling grid4, or {advice}."
            )
        if self.views and self.mode.trained and not self.warm_start:
            raise EncoderError(
                f"--views {self.views} are encoded once for a frozen encoder; --mode {self.mode.value} augments every "
                "batch anew. Type --mode frozen, or drop --views."
            )

    def check_images(self, train: int, validation: int, side: int) -> None:
        """Refuse images that are too few or too small for this run, once they are known.

        Args:
            train, validation: number of images.
            side: smaller side of the images, in pixels.

        Raises:
            EncoderError: also if they are too small for the encoder or the augmentation.
        """
        self.check_encoder(side)
        self.check_recipe(side)
        if self.mode.trained and not validation:
            raise EncoderError(
                f"The {train:,} labelled images leave none to choose with: each class has one. Type --shots 2 or more, "
                "or --mode frozen."
            )

    def fitting(self, train: int, processes: int = 1) -> Self:
        """With a batch that the training images fill, and that falls into equal parts.

        Args:
            train: number of training images.
            processes: that share each batch.

        Raises:
            EncoderError: there is not one image for each part.
        """
        if not self.mode.trained or self.batch <= train:
            return self
        parts = processes * self.accumulate
        if train < parts:
            among = f"{processes} processes with " if processes > 1 else ""
            raise EncoderError(
                f"The {train:,} training images do not fall into {among}--accumulate {self.accumulate}. Type "
                "--accumulate 1, or hold fewer out (--validation)."
            )
        return replace(self, batch=train // parts * parts)

    def resolve_batchnorm(self) -> Self:
        """With BatchNorm's statistics frozen where a warm start implies it and nothing else was asked for."""
        implied = self.warm_start and self.batchnorm is None
        return replace(self, batchnorm="frozen") if implied else self

    def frozen(self) -> Self:
        """The same encoder as it is before any training, all of it before the cut."""
        return replace(
            self,
            mode=Mode.FROZEN,
            unfreeze=None,
            adapt=EncoderConfig.adapt,
            batchnorm=EncoderConfig.batchnorm,
            lora_rank=EncoderConfig.lora_rank,
        )
