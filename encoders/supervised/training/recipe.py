"""The flags that say how an encoder and its head are trained; they are checked before torch is imported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from stillsight.encoders.errors import EncoderError

RATES = {
    ("sgd", False): 0.2,
    ("sgd", True): 0.02,
    ("adamw", False): 2e-3,
    ("adamw", True): 2e-4,
}
"""(optimizer, from pretrained weights) -> highest learning rate at 256 images an update. Pretrained weights take a
tenth, as in Kornblith et al. 2019, whose fine-tuning sweep finds its best rates about there."""

WARM = 0.5
"""Factor on the rate for pretrained weights where the head fits them already (LP-FT, Kumar et al. 2022). Such a head
has large weights, and what comes through it large gradients: at the full rate, not clipped, a training on 20 images a
class of CIFAR-10 ran away."""

DECAYS = {"sgd": 5e-4, "adamw": 0.05}
"""Optimizer -> weight decay. 5e-4 is what most CIFAR recipes use, 0.05 what ConvNeXt (Liu et al. 2022) and the ViT
recipes do, where the decay is multiplied by the much smaller rate of AdamW."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train: a linear warm-up, a cosine to zero, augmentation and averaging on the device."""

    epochs: int = 30
    """Passes over the training images, where the encoder learns."""
    batch: int = 256
    """Images an update, over all processes and parts together; all training images where there are fewer."""
    accumulate: int = 1
    """Parts that each batch is computed in, one after the other, to fit into memory. BatchNorm sees one part at a
    time."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd has Nesterov momentum 0.9; adamw decouples the weight decay (Loshchilov & Hutter 2019)."""
    lr: float | None = None
    """Highest learning rate. By default 0.2 from scratch, 0.02 from pretrained weights and 0.01 from a head that fits
    (--warm-start) with sgd, a hundredth of each with adamw."""
    clip: float | None = None
    """Largest norm of an update's gradient, which is scaled down to it (Pascanu et al. 2013); 0 for any. By default 1
    where training begins from a head that fits (--warm-start), whose gradients may be large, and 0 elsewhere."""
    encoder_lr: float = 1.0
    """Learning rate of the encoder, as a multiple of the head's."""
    layer_decay: float = 1.0
    """Factor on the learning rate from each stage of the encoder to the one before it (ULMFiT, BEiT): at 0.7 the last
    stage learns at the full rate, the one before it at 0.7 of it, then 0.49."""
    weight_decay: float | None = None
    """Of convolutions and matrices; biases and norms have none. By default 5e-4 with sgd and 0.05 with adamw."""
    warmup: float = 0.15
    """Share of all updates during which the rate rises in a line. The first update is made at a rate above zero."""
    label_smoothing: float = 0.1
    """Share of each label spread over all classes (Szegedy et al. 2016)."""
    dropout: float = 0.0
    """Share of the features that is dropped before the head, while training."""
    ema: float = 0.0
    """Decay an update of a running average of the weights, say 0.999; 0 keeps none. The average is what the run ends
    with, unless the plain weights do better on the validation images."""
    patience: int = 0
    """Stop after so many epochs without a better validation accuracy, and go back to the best; 0 never stops early."""
    crop: int = 4
    """Largest random shift of an image each way, in pixels, reflecting at the border; 0 for none."""
    flip: bool = True
    """Mirror half of the images."""
    rotation: float = 0.0
    """Largest random rotation each way, in degrees."""
    randaugment: int = 0
    """Magnitude, 1 to 30, of two random operations an image (Cubuk et al. 2020; 9 is usual); 0 for none."""
    erasing: float = 0.0
    """Share of the images in which a random box becomes the image's mean colour (Zhong et al. 2020: 0.25 to 0.5)."""
    mixup: float = 0.0
    """Alpha of mixup (Zhang et al. 2018), say 0.2; 0 for none. With --cutmix too, each batch takes one of the two."""
    cutmix: float = 0.0
    """Alpha of CutMix (Yun et al. 2019), usually 1; 0 for none."""
    tta: bool = False
    """Evaluate on each image and its mirror image, and average the logits."""
    channels_last: bool | None = None
    """Lay images and weights out as NHWC. By default on GPUs, in bf16, and for narrow or depthwise convolutions."""
    compile: bool = False
    """Compile the network with torch.compile for training. The first updates take minutes."""
    save_every: int = 0
    """Updates between saves within an epoch; 0 saves after each epoch alone."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Of convolutions and matrix products; auto takes bf16 where the hardware has it. Weights stay float32."""

    def check_recipe(self, side: int | None = None) -> None:
        """Refuse numbers that cannot work.

        Args:
            side: smaller side, in pixels, of the training images; None if it is not known yet.

        Raises:
            EncoderError: a number is out of its range, or the batch cannot be cut.
        """
        for name, (allowed, words, example) in _ALLOWED.items():
            value = getattr(self, name)
            if value is not None and not allowed(value):
                flag = name.replace("_", "-")
                raise EncoderError(
                    f"--{flag} {value:g} is out of range. Allowed: {words}. Type, say: --{flag} {example}."
                )
        if side is not None and self.crop >= side:
            raise EncoderError(
                f"--crop {self.crop} shifts images of {side} px by more than they can be reflected. "
                f"Type a number below {side}, say --crop {side // 8}."
            )
        self.check_shares(1)

    def check_shares(self, processes: int) -> None:
        """Refuse a batch that `processes` processes with `accumulate` parts each cannot share evenly.

        Raises:
            EncoderError: there would be a remainder.
        """
        parts = processes * self.accumulate
        if self.batch % parts:
            nearest = max(1, round(self.batch / parts)) * parts
            among = f"{processes} processes with " if processes > 1 else ""
            raise EncoderError(
                f"--batch {self.batch} does not fall into equal parts for {among}--accumulate {self.accumulate}. "
                f"Type --batch {nearest}."
            )

    def resolved(self, pretrained: bool, warm: bool = False) -> Self:
        """With learning rate, weight decay and clipping filled in where they were left open.

        Args:
            pretrained: whether training starts from pretrained weights.
            warm: whether it starts from a head that was fitted to them, too.
        """
        lr = RATES[self.optimizer, pretrained] * (WARM if warm else 1) if self.lr is None else self.lr
        decay = DECAYS[self.optimizer] if self.weight_decay is None else self.weight_decay
        clip = float(warm) if self.clip is None else self.clip
        return replace(self, lr=lr, weight_decay=decay, clip=clip)


def _between(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: bool(low <= value < high)


def _above(low: float) -> Callable[[Any], bool]:
    return lambda value: bool(low < value < float("inf"))


_COUNT = (_between(1, float("inf")), "whole numbers from 1")
_NUMBER = (_between(0, float("inf")), "numbers from 0")
_SHARE = (_between(0, 1), "0 to less than 1")

_ALLOWED: dict[str, tuple[Callable[[Any], bool], str, str]] = {
    "epochs": (*_COUNT, "30"),
    "batch": (*_COUNT, "256"),
    "accumulate": (*_COUNT, "1"),
    "lr": (_above(0), "numbers above 0", "0.02"),
    "clip": (*_NUMBER, "1"),
    "encoder_lr": (_above(0), "multiples above 0", "0.1"),
    "layer_decay": (lambda value: bool(0 < value <= 1), "factors above 0, up to 1", "0.7"),
    "weight_decay": (*_NUMBER, "0.0005"),
    "warmup": (*_SHARE, "0.15"),
    "label_smoothing": (*_SHARE, "0.1"),
    "dropout": (*_SHARE, "0.2"),
    "ema": (*_SHARE, "0.999"),
    "patience": (*_NUMBER, "5"),
    "crop": (*_NUMBER, "4"),
    "rotation": (lambda value: bool(0 <= value <= 180), "0 to 180 degrees", "15"),
    "randaugment": (lambda value: bool(0 <= value <= 30), "0 to 30", "9"),
    "erasing": (lambda value: bool(0 <= value <= 1), "0 to 1", "0.25"),
    "mixup": (*_NUMBER, "0.2"),
    "cutmix": (*_NUMBER, "1"),
    "save_every": (*_NUMBER, "100"),
}
"""Flag -> (whether a value is allowed, the allowed ones in words, an example)."""
