"""The flags of `stillsight cifar-throughput`; they are checked before torch is imported."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from stillsight.encoders.config import EncoderConfig, refuse
from stillsight.encoders.errors import EncoderError
from stillsight.encoders.mode import Mode
from stillsight.encoders.supervised.cifar_config import HeadKind
from stillsight.encoders.supervised.data.cifar_facts import SIDE
from stillsight.encoders.supervised.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class CifarThroughputConfig(EncoderConfig, Recipe):
    """Measure what a cifar run costs, beside a plain loop with DataLoader workers and per-image transforms.

    In finetune and scratch: images/s of training. Network, resolution, device and recipe are those of `stillsight
    cifar`. Images are noise of CIFAR's shape: what they show does not change what they cost.

    In frozen and random: seconds of heads on features that are encoded once, beside --epochs epochs of the plain way,
    which encodes every image in every epoch. See `probe_cost.arms` for what is inside. On both sides the program has
    started, the images are in memory and the network is built; no image is augmented.
    """

    GROUPS: ClassVar[Mapping[str, str]] = {
        "side": "measurement",
        "updates": "in finetune and scratch",
        "images": "in frozen and random",
        "epochs": "in frozen and random",
        "rounds": "measurement",
        "encoder": "encoder",
        "batch": "recipe",
        "seed": "run",
        "precision": "run",
    }
    """Field -> heading of it and of those that follow, up to the next; see `stillsight.agents.command_line.flag`."""

    mode: Mode = Mode.SCRATCH
    """What is trained, as in cifar: see above for what is measured."""
    side: int = SIDE
    """Side in pixels of the noise images as they are stored."""
    classes: int = 10
    """Number of classes of the noise images."""
    updates: int = 10
    """In finetune and scratch: updates of one measurement."""
    images: int = 10_000
    """In frozen and random: how many images, a tenth of them to choose the head's setting with."""
    epochs: int = 10
    """In frozen and random: epochs of the plain way. One is measured in each round, and counted so often."""
    head: HeadKind = "linear"
    """In frozen and random: the head that is fitted when the features have just been encoded."""
    others: tuple[HeadKind, ...] = ("linear", "mlp", "knn", "ncm")
    """In frozen and random: heads that are fitted after it, each to the features that are there then; the same kind
    too, as with another seed or fewer labels."""
    dataset: Literal["cifar10", "cifar100"] = "cifar10"
    """In frozen and random: what lies in --data."""
    data: Path | None = None
    """In frozen and random: folder with real images, as in cifar. Without it they are noise with a tint for each class,
    on which a head takes about as long to fit."""
    rounds: int = 5
    """Measurements of each arm, in turns; one more before them is thrown away."""
    workers: int | None = None
    """DataLoader processes of the plain loop. By default one a core, up to the 16 of torchvision's scripts."""
    precisions: tuple[Literal["float32", "bf16"], ...] = ("float32", "bf16")
    """Precisions to measure both ways in."""
    json: bool = False
    """Print one JSON object instead of tables."""

    def check_given(self, given: Collection[str]) -> None:
        """Refuse flags that were typed and have no effect beside the others, see `EncoderConfig.check_given`."""
        super().check_given(given)
        if self.mode.trained:
            why = f"with --mode {self.mode.value}, which measures training. Type --mode frozen"
            refuse(given, ("epochs", "images", "head", "others", "dataset", "data"), why)
        else:
            why = f"with --mode {self.mode.value}, which measures heads on frozen features. Type --mode scratch"
            refuse(given, ("updates",), why)
        if self.data is None:
            refuse(given, ("dataset",), "where images are noise. Say where it lies: --data FOLDER")

    def check(self) -> None:
        """Refuse what measures nothing.

        Raises:
            EncoderError: see `check_encoder`, `check_recipe`.
        """
        if min(self.updates, self.rounds) < 1 or (self.workers or 0) < 0 or not self.precisions:
            raise EncoderError(
                "--updates and --rounds must be 1 or more, --workers 0 or more, and --precisions name one. Type, say: "
                "--updates 10 --rounds 5."
            )
        side = SIDE if self.data is not None else self.side
        self.check_encoder(side)
        self.check_recipe(side)
        fewest = max(2 * self.batch, 10)  # the plain loop's clock starts at its second batch
        if not self.mode.trained and self.images < fewest:
            raise EncoderError(
                f"--images {self.images} is too few to time. Type {fewest} or more, or a smaller --batch."
            )
        if self.mode.trained and self.data is not None:
            raise EncoderError(
                f"--mode {self.mode.value} is timed on noise, and --data is for heads on frozen features. Type --mode "
                "frozen, or drop --data."
            )
