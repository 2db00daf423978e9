"""torchvision's classification models as backbones, by their own names: for each, how its network falls into stages."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models as networks

from stillsight.encoders.backbone import Backbone, Preprocessing
from stillsight.encoders.zoo.encoder_spec import EncoderSpec
from stillsight.encoders.zoo.function import control
from stillsight.encoders.zoo.layouts import ChannelsFirst
from stillsight.encoders.zoo.smallest import USUAL, sizes, without_content

HEAD = ("avgpool", "fc", "classifier", "dropout", "head", "heads", "AuxLogits", "aux1", "aux2")
"""Where a network's features end."""


@functools.cache
def describe(name: str) -> EncoderSpec:
    """The record of a model of torchvision, measured on its network without its weights."""
    backbone = without_content(lambda: model(name))
    measured = sizes(backbone, backbone.preprocessing.size or USUAL)
    entry = networks.get_model_weights(name).DEFAULT
    own = entry.meta.get("license", "")  # torchvision names one where the weights are not its own: SWAG's
    return EncoderSpec(
        name=name,
        family=type(backbone.model).__name__,
        builder=f"{__name__}:model",
        arguments={"name": name},
        stages=measured.least,
        tap=backbone.tap,
        pooling=backbone.pooling,
        control=control(backbone) or (backbone.tap, backbone.pooling),
        weights=f"{type(entry).__name__}.{entry.name}",
        licence="CC-BY-NC-4.0" if "SWAG" in own else own,
        accept=bool(own),
        multiple=measured.multiple,
        fixed=measured.fixed,
        summary=f"torchvision's {name}, ImageNet-1k",
    )


def recipe(name: str) -> Preprocessing:
    """The preprocessing that torchvision publishes with the default weights of `name`."""
    transform = networks.get_model_weights(name).DEFAULT.transforms()
    return Preprocessing(
        mean=tuple(transform.mean),
        std=tuple(transform.std),
        size=transform.crop_size[0],
        interpolation=transform.interpolation.value,
    )


def model(name: str) -> Backbone:
    """The model of torchvision called `name`, with random weights, in its stages."""
    if isinstance(
        network := networks.get_model(name, weights=None, **_arguments(name)),
        networks.VisionTransformer,
    ):
        return vision_transformer(network, recipe(name))
    stages = _stages(network)
    fixed = USUAL if isinstance(network, networks.MaxVit) else None  # its windows are laid out when it is built
    return Backbone(model=network, stages=stages, preprocessing=recipe(name), tap=list(stages)[-1], fixed=fixed)


def _arguments(name: str) -> dict[str, object]:
    """What a builder must be told so that its network is the one that the published weights were trained in."""
    if name.startswith("vit_"):  # one of them was trained on larger images, and has as many positions
        return {"image_size": networks.get_model_weights(name).DEFAULT.meta["min_size"][0]}
    if name in ("googlenet", "inception_v3"):
        return {"transform_input": True, "aux_logits": False, "init_weights": torch.get_default_device().type != "meta"}
    return {}


def _stages(network: nn.Module) -> dict[str, nn.Module]:
    if isinstance(network, networks.ResNet):
        before = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
        return {"stem": before} | {f"layer{number}": getattr(network, f"layer{number}") for number in (1, 2, 3, 4)}
    if isinstance(network, networks.RegNet):
        return {"stem": network.stem} | dict(network.trunk_output.named_children())
    if isinstance(network, networks.MaxVit):
        return {"stem": network.stem} | {f"block{number}": block for number, block in enumerate(network.blocks)}
    if isinstance(network, networks.SwinTransformer):
        stages = {f"features.{index}": stage for index, stage in enumerate(network.features)} | {"norm": network.norm}
        return {name: ChannelsFirst(stage, first=name == "features.0") for name, stage in stages.items()}
    if isinstance(network, networks.DenseNet):
        children = dict(network.features.named_children())
        stem = [children.pop(name) for name in ("conv0", "norm0", "relu0", "pool0")]
        last = children.pop("norm5")
        return {"stem": nn.Sequential(*stem), **children, "norm5": nn.Sequential(last, nn.ReLU())}
    if isinstance(network, networks.ShuffleNetV2 | networks.GoogLeNet | networks.Inception3):
        grouped = dict(_with_pools(network.named_children()))
        if getattr(network, "transform_input", False):
            first = next(iter(grouped))
            grouped[first] = nn.Sequential(_TransformInput(), grouped[first])
        return grouped
    named = "layers" if hasattr(network, "layers") else "features"  # MNASNet's are called so
    layers = list(getattr(network, named).children())
    if named == "layers":
        return {f"layers.{index}": stage for index, stage in enumerate(layers)}
    return {f"features.{index}": stage for index, stage in enumerate(layers)}


def _with_pools(children: Iterable[tuple[str, nn.Module]]) -> Iterator[tuple[str, nn.Module]]:
    """The children of a network up to its head, each with the pools that stand before it."""
    waiting: list[nn.Module] = []
    for name, child in children:
        if name in HEAD:
            return
        waiting.append(child)
        if any(True for _ in child.parameters()):
            yield name, child if len(waiting) == 1 else nn.Sequential(*waiting)
            waiting = []


class _TransformInput(nn.Module):
    """What GoogLeNet and Inception do to images that were normalised by ImageNet's statistics: back to -1..1."""

    def forward(self, images: Tensor) -> Tensor:
        scale = torch.tensor((0.229, 0.224, 0.225), device=images.device, dtype=images.dtype).view(1, 3, 1, 1) / 0.5
        shift = torch.tensor((0.485, 0.456, 0.406), device=images.device, dtype=images.dtype).view(1, 3, 1, 1) - 0.5
        return images * scale + shift / 0.5


class PatchEmbedding(nn.Module):
    """Image `[N, 3, H, W]` -> class token and patch tokens `[N, 1 + L, C]`, positions interpolated to the image."""

    def __init__(self, model: networks.VisionTransformer) -> None:
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


def vision_transformer(network: networks.VisionTransformer, preprocessing: Preprocessing) -> Backbone:
    """Vision transformer: embed, its blocks, norm. Tokens come out; `--pooling cls` reads the class token."""
    stages: dict[str, nn.Module] = {"embed": PatchEmbedding(network)}
    stages |= {f"block{index}": block for index, block in enumerate(network.encoder.layers)}
    stages["norm"] = network.encoder.ln
    return Backbone(
        model=network,
        stages=stages,
        preprocessing=preprocessing,
        tap="norm",
        pooling="cls",
        class_tokens=1,
        multiple=network.patch_size,
    )
