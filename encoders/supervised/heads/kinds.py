"""The kinds of heads: fit one, read one from its file, count what one fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from stillsight.encoders.errors import DamagedFileError, EncoderError
from stillsight.encoders.supervised.cifar_config import HeadKind
from stillsight.encoders.supervised.heads import knn, linear, mlp, ncm
from stillsight.encoders.supervised.heads.head import Fitted, Head, Labelled
from stillsight.encoders.weights import tensor_file


class FitHead(Protocol):
    """See `fit`."""

    def __call__(
        self, train: Labelled, validation: Labelled, classes: int, *, refit: bool, seed: int = 0
    ) -> Fitted: ...


@dataclass(frozen=True)
class HeadSpec:
    """One kind of head.

    Attributes:
        fit: see `fit`.
        from_state: the head from its tensors, see `Head.state`.
        parameters: (features, classes) -> numbers that are fitted.
    """

    fit: FitHead
    from_state: Callable[[dict[str, Tensor]], Head]
    parameters: Callable[[int, int], int]


KINDS: dict[HeadKind, HeadSpec] = {
    "linear": HeadSpec(linear.fit, linear.from_state, lambda width, classes: (width + 1) * classes),
    "mlp": HeadSpec(
        mlp.fit,
        lambda state: mlp.MlpHead(**state),
        lambda width, classes: (width + 1) * mlp.HIDDEN + (mlp.HIDDEN + 1) * classes,
    ),
    "knn": HeadSpec(knn.fit, lambda state: knn.NearestNeighbours(**state), lambda *_: 0),
    "ncm": HeadSpec(ncm.fit, lambda state: ncm.NearestMean(**state), lambda *_: 0),
}


def fit(
    kind: HeadKind, train: Labelled, validation: Labelled, classes: int, *, refit: bool = True, seed: int = 0
) -> Fitted:
    """Fit a head. What cannot be learned is chosen by the validation images.

    By default the head is then fitted again, as it was chosen, to training and validation images together, as linear
    probes are evaluated (Kornblith et al. 2019; Radford et al. 2021): for the price of one fit a ninth more labels
    where a tenth was held out, a quarter more where a fifth was. What is compared with a network that learned from the
    training images alone is not fitted again.

    Without validation images (one image a class) nothing is chosen, and the first setting of the sweep is taken: the
    strongest penalty, one neighbour.

    Args:
        kind: linear, mlp, knn or ncm.
        train, validation: features and labels.
        classes: number of classes.
        refit: see above.
        seed: of what is random in a head.
    """
    return KINDS[kind].fit(train, validation, classes, refit=refit and len(validation[1]) > 0, seed=seed)


def read(path: Path, device: torch.device | str = "cpu") -> Head:
    """Read a head from its safetensors file, onto `device`.

    Raises:
        EncoderError: the file is missing, damaged, or of an unknown kind.
    """
    try:
        file = tensor_file.read(path, device, own=True)
        return KINDS[file.metadata.get("head", "linear")].from_state(file.tensors)  # type: ignore[index]
    except FileNotFoundError as error:
        raise EncoderError(f"There is no head {path}. Finish the run, or train it again.") from error
    except (DamagedFileError, OSError, KeyError, TypeError) as error:
        raise EncoderError(f"The head {path} is damaged ({error}). Train the run again.") from error


def parameters(kind: HeadKind, width: int, classes: int) -> int:
    """How many parameters a head on `width` features fits; k-NN and class means fit none."""
    return KINDS[kind].parameters(width, classes)
