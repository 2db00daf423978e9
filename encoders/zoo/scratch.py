"""Networks that are trained from scratch: the three that pixel agents usually are, and one for small pictures."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

from stillsight.encoders.backbone import Backbone, Preprocessing

# Mean and standard deviation of the CIFAR-10 training images, per channel, pixels scaled to 0..1.
CIFAR10 = Preprocessing(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616), size=32)


def nature() -> Backbone:
    """The three convolutions of Mnih et al. 2015 (Nature 518), for images of 36 px and more (84 px in the paper)."""
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 32, 8, stride=4), nn.ReLU()),
        nn.Sequential(nn.Conv2d(32, 64, 4, stride=2), nn.ReLU()),
        nn.Sequential(nn.Conv2d(64, 64, 3, stride=1), nn.ReLU()),
    )
    stages = {f"conv{index + 1}": stage for index, stage in enumerate(model)}
    return Backbone(model=model, stages=stages, preprocessing=Preprocessing(), tap="conv3", pooling="flatten")


class _Residual(nn.Module):
    """Two 3 x 3 convolutions before which, not after which, the activation stands."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, maps: Tensor) -> Tensor:
        residual: Tensor = self.layers(maps)
        return maps + residual


def impala() -> Backbone:
    """The residual network of Espeholt et al. 2018 (IMPALA, figure 3): 16, 32 and 32 channels, each half the size."""
    widths = (3, 16, 32, 32)
    blocks: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        last = nn.ReLU() if len(blocks) == 2 else nn.Identity()
        blocks.append(
            nn.Sequential(
                nn.Conv2d(before, after, 3, padding=1),
                nn.MaxPool2d(3, stride=2, padding=1),
                _Residual(after),
                _Residual(after),
                last,
            )
        )
    model = nn.Sequential(*blocks)
    stages = {f"block{index + 1}": stage for index, stage in enumerate(model)}
    return Backbone(model=model, stages=stages, preprocessing=Preprocessing(), tap="block3", pooling="flatten")


def airbench() -> Backbone:
    """The network of airbench94 (Jordan 2024, arXiv 2404.00498, section 3.1), for pictures of about 32 px; 2.0 million
    parameters.

    Made to reach 94 % on CIFAR-10 with little arithmetic: no layer but the first sees the image at full size, and each
    block halves it before its BatchNorm. The paper fits the first layer to the patches of the data set and keeps it;
    here it learns like the others, from random weights.
    """
    blocks = [nn.Sequential(nn.Conv2d(3, 24, 2), nn.GELU())]
    for before, after in itertools.pairwise((24, 64, 256, 256)):
        blocks.append(
            nn.Sequential(
                nn.Conv2d(before, after, 3, padding=1, bias=False),
                nn.MaxPool2d(2),
                nn.BatchNorm2d(after),
                nn.GELU(),
                nn.Conv2d(after, after, 3, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.GELU(),
            )
        )
    model = nn.Sequential(*blocks)
    stages = dict(zip(("stem", "block1", "block2", "block3"), model, strict=True))
    return Backbone(model=model, stages=stages, preprocessing=CIFAR10, tap="block3")


def drq() -> Backbone:
    """The encoder of DrQ-v2 (Yarats et al. 2021, "Mastering visual continuous control", and its code): four
    convolutions of 32 channels, all but the first of stride 1, on pixels from -0.5 to 0.5."""
    model = nn.Sequential(
        *(
            nn.Sequential(nn.Conv2d(3 if number == 0 else 32, 32, 3, stride=2 if number == 0 else 1), nn.ReLU())
            for number in range(4)
        )
    )
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.orthogonal_(module.weight, 2**0.5)
            nn.init.zeros_(module.bias)
    stages = {f"conv{index + 1}": stage for index, stage in enumerate(model)}
    recipe = Preprocessing(mean=(0.5, 0.5, 0.5))
    return Backbone(model=model, stages=stages, preprocessing=recipe, tap="conv4", pooling="flatten")
