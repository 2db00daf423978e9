"""Classifier: an encoder with a linear head, its logits and its accuracy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stillsight.encoders.device import Precision, autocast
from stillsight.encoders.encoder import Encoder
from stillsight.encoders.supervised.data.split import Split
from stillsight.encoders.supervised.heads.head import accuracy


class Classifier(nn.Module):
    """An encoder with a linear head: pixels `[N, 3, H, W]` -> logits `[N, classes]`.

    Args:
        encoder: on any device.
        classes: number of classes.
        features: that one image becomes.
        dropout: share of the features that is dropped in train mode.
    """

    def __init__(self, encoder: Encoder, classes: int, features: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self.encoder(pixels)))
        return logits

    @property
    def pretrained(self) -> bool:
        """Whether the encoder came with weights that were trained before."""
        return self.encoder.provenance.kind != "random"


def feature_width(encoder: Encoder, images: Tensor) -> int:
    """Number of features that one of `images`, uint8 `[N, 3, H, W]`, becomes; encoding two of them is not counted."""
    with torch.no_grad(), encoder.counter.paused():
        encoder.eval()
        width: int = encoder(images[:2].to(encoder.device)).shape[1]
        return width


def evaluate(model: nn.Module, split: Split, precision: Precision, batch: int = 500, *, tta: bool = False) -> float:
    """Accuracy (0..1) on `split`, in eval mode, see `logits`."""
    return accuracy(logits(model, split.images, precision, batch, tta=tta), split.labels)


@torch.no_grad()
def logits(model: nn.Module, images: Tensor, precision: Precision, batch: int = 500, *, tta: bool = False) -> Tensor:
    """Float32 logits `[N, classes]` of `images`, in eval mode.

    Args:
        model: a `Classifier`.
        images: uint8 `[N, 3, H, W]` on the model's device.
        precision: of convolutions and matrix products.
        batch: images at a time.
        tta: take the mean of the logits of each image and of its mirror image.
    """
    model.eval()
    parts = []
    with autocast(images.device, precision):
        for part in images.split(batch):
            plain = model(part).float()
            parts.append((plain + model(part.flip(3)).float()) / 2 if tta else plain)
    return torch.cat(parts)
