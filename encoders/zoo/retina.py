"""retina: the small residual network that ships with the project, sized for two CPU cores."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from stillsight.encoders.backbone import Backbone, Preprocessing

# Mean and standard deviation of the CIFAR-100 training images, per channel, pixels scaled to 0..1.
CIFAR100 = Preprocessing(mean=(0.5071, 0.4866, 0.4409), std=(0.2673, 0.2564, 0.2762), size=32)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with BatchNorm beside a 1 x 1 shortcut (He et al. 2016, figure 2, option B)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, maps: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(maps)))))
        return F.relu(residual + self.shortcut(maps))


def retina() -> Backbone:
    """1.2 million parameters; at 32 px each layer costs about 15 million multiply-adds.

    The stem halves the image at once: an agent encodes every frame of its life on this network, and the early, large
    maps are where the time goes.
    """
    model = nn.Sequential()
    model.add_module(
        "stem", nn.Sequential(nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
    )
    model.add_module("layer1", ResidualBlock(32, 64, stride=1))
    model.add_module("layer2", ResidualBlock(64, 128, stride=2))
    model.add_module("layer3", ResidualBlock(128, 256, stride=2))
    return Backbone(model=model, stages=dict(model.named_children()), preprocessing=CIFAR100, tap="layer3")
