"""Heads on frozen features: what they have in common, and the doors through which one is fitted and read again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional as F

from stillsight.encoders.errors import EncoderError

Kind = Literal["linear", "mlp", "knn", "ncm"]
Labelled = tuple[Tensor, Tensor]
"""Features float32 `[N, D]` and labels int64 `[N]`, on one device."""

HEAD_FILE = "checkpoints/head.safetensors"
"""Where a run folder keeps its head."""


class Head(Protocol):
    """Features float32 `[N, D]` -> logits `[N, classes]`."""

    def __call__(self, features: Tensor) -> Tensor: ...

    def state(self) -> dict[str, Tensor]:
        """What `read` needs to make this head again."""
        ...


@dataclass(frozen=True)
class Fitted:
    """A head and how it came about.

    Attributes:
        head: fitted on the training images, and on the validation images as well where `refit` is true.
        validation_accuracy: 0..1, of the head before it was refitted; NaN without validation images.
        chosen: what the validation images decided, by name.
        refit: whether the validation images were learned in the end.
    """

    head: Head
    validation_accuracy: float
    chosen: dict[str, float]
    refit: bool


def fit(
    kind: Kind, train: Labelled, validation: Labelled, classes: int, *, refit: bool = True, seed: int = 0
) -> Fitted:
    """Fit a head. What cannot be learned is chosen by the validation images.

    By default the head is then fitted again, as it was chosen, to training and validation images together, as linear
    probes are evaluated (Kornblith et al. 2019; Radford et al. 2021): a tenth more labels for the price of one fit.
    Without validation images (one image a class) nothing is chosen, and the first setting of the sweep is taken: the
    strongest penalty, one neighbour.

    Args:
        kind: linear, mlp, knn or ncm.
        train, validation: features and labels.
        classes: number of classes.
        refit: see above.
        seed: of what is random in a head.
    """
    from stillsight.encoders.supervised.heads import knn as neighbours
    from stillsight.encoders.supervised.heads import linear, mlp
    from stillsight.encoders.supervised.heads import ncm as means

    fitters = {"linear": linear.fit, "mlp": mlp.fit, "knn": neighbours.fit, "ncm": means.fit}
    return fitters[kind](train, validation, classes, refit=refit and len(validation[1]) > 0, seed=seed)


def read(path: Path, device: torch.device | str = "cpu") -> Head:
    """The head of a run from its file, with what it needs.

    Raises:
        EncoderError: the file is missing, damaged, or of an unknown kind.
    """
    from stillsight.encoders.supervised.heads import knn as neighbours
    from stillsight.encoders.supervised.heads import linear, mlp
    from stillsight.encoders.supervised.heads import ncm as means

    revivers: dict[str, Callable[[dict[str, Tensor]], Head]] = {
        "linear": linear.revive,
        "mlp": lambda state: mlp.MlpHead(**state),
        "knn": lambda state: neighbours.NearestNeighbours(**state),
        "ncm": lambda state: means.NearestMean(**state),
    }
    try:
        with safe_open(str(path), "pt", device=str(device)) as file:
            kind = (file.metadata() or {}).get("head", "linear")
            return revivers[kind]({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 - not a dict
    except FileNotFoundError as error:
        raise EncoderError(f"There is no head {path}. Finish the run, or train it again.") from error
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise EncoderError(f"The head {path} is damaged ({error}). Train the run again.") from error


def parameters(kind: Kind, width: int, classes: int) -> int:
    """How many parameters a head on `width` features fits; k-NN and class means fit none."""
    from stillsight.encoders.supervised.heads.mlp import HIDDEN

    linear = (width + 1) * classes
    return {"linear": linear, "mlp": (width + 1) * HIDDEN + (HIDDEN + 1) * classes, "knn": 0, "ncm": 0}[kind]


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of rows whose largest logit is the label's; NaN of none."""
    return (logits.argmax(1) == labels).float().mean().item()


def score(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """What is chosen by: accuracy, and among equals, which are common where images are few, the mean log likelihood."""
    return accuracy(logits, labels), -F.cross_entropy(logits.float(), labels).item()


def together(train: Labelled, validation: Labelled) -> Labelled:
    """Both as one."""
    return torch.cat([train[0], validation[0]]), torch.cat([train[1], validation[1]])


def spread(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature, `[D]`, to standardise by.

    A feature that never changes, as many do not after a ReLU where images are few, has the deviation one: divided by
    almost nothing, the first image that it fires in would drown all others. What is almost nothing is said by the other
    features: those of a MobileNetV2 with random weights all lie near 1e-10, and are as good as any for that.
    """
    std = features.std(0, correction=0)
    return features.mean(0), torch.where(std > 1e-6 * std.max(), std, torch.ones_like(std))
