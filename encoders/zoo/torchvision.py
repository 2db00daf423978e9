"""torchvision's families as backbones: for each, how its network falls into stages."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from stillsight.encoders.backbone import Backbone, Preprocessing


def recipe(name: str) -> Preprocessing:
    """The preprocessing that torchvision publishes with the default weights of `name`."""
    transform = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    return Preprocessing(
        mean=tuple(transform.mean),
        std=tuple(transform.std),
        size=transform.crop_size[0],
        interpolation=transform.interpolation.value,
    )


def resnet(name: str) -> Backbone:
    """ResNet: stem, layer1 .. layer4."""
    model = torchvision.models.get_model(name, weights=None)
    stages = {"stem": nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool)}
    stages |= {layer: getattr(model, layer) for layer in ("layer1", "layer2", "layer3", "layer4")}
    return Backbone(model=model, stages=stages, preprocessing=recipe(name), tap="layer4")


def features(name: str) -> Backbone:
    """The families that torchvision writes as one `features` sequence: MobileNet, EfficientNet, ConvNeXt and others."""
    model = torchvision.models.get_model(name, weights=None)
    stages = {f"features.{index}": stage for index, stage in enumerate(model.features)}
    return Backbone(model=model, stages=stages, preprocessing=recipe(name), tap=list(stages)[-1])


class PatchEmbedding(nn.Module):
    """Image `[N, 3, H, W]` -> class token and patch tokens `[N, 1 + L, C]`, positions interpolated to the image."""

    def __init__(self, model: torchvision.models.VisionTransformer) -> None:
        super().__init__()
        self.conv_proj = model.conv_proj
        self.class_token = model.class_token
        self.pos_embedding = model.encoder.pos_embedding
        self.dropout = model.encoder.dropout

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv_proj(images)
        tokens = maps.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1)
        embedded: Tensor = self.dropout(tokens + self._positions(maps.shape[2], maps.shape[3]))
        return embedded

    def _positions(self, rows: int, columns: int) -> Tensor:
        positions: Tensor = self.pos_embedding
        side = int((positions.shape[1] - 1) ** 0.5)
        if (rows, columns) == (side, side):
            return positions
        grid = positions[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        grid = F.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=True)
        return torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


def vision_transformer(name: str) -> Backbone:
    """Vision transformer: embed, block0 .. block11, norm. Tokens come out; `--pooling cls` reads the class token."""
    model = torchvision.models.get_model(name, weights=None)
    stages: dict[str, nn.Module] = {"embed": PatchEmbedding(model)}
    stages |= {f"block{index}": block for index, block in enumerate(model.encoder.layers)}
    stages["norm"] = model.encoder.ln
    return Backbone(model=model, stages=stages, preprocessing=recipe(name), tap="norm", pooling="cls", class_tokens=1)
