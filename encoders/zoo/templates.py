"""Rows that several families share: what torchvision's and timm's networks of one kind have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stillsight.encoders.zoo.encoder_spec import EncoderSpec

TORCHVISION = "stillsight.encoders.zoo.torchvision:model"
TIMM = "stillsight.encoders.zoo.timm.models:model"


def torchvision(
    name: str,
    family: str,
    stages: Mapping[str, int],
    control: str,
    weights: str,
    summary: str,
    *,
    patch: int = 1,
) -> EncoderSpec:
    """A convolutional network of torchvision.

    Args:
        name: torchvision's own.
        family: as its authors call it.
        stages: stage -> smallest side in pixels.
        control: the stage that agents read, on a 6 x 6 grid.
        weights: torchvision's entry.
        summary: one line.
        patch: side in pixels of the patches that it begins with, where its first convolution does not overlap.
    """
    return EncoderSpec(
        name=name,
        family=family,
        builder=TORCHVISION,
        arguments={"name": name},
        stages=stages,
        tap=list(stages)[-1],
        control=(control, "grid6"),
        weights=weights,
        multiple=patch,
        summary=summary,
    )


def features(
    name: str, family: str, weights: str, least: Sequence[int], control: int, summary: str, *, patch: int = 1
) -> EncoderSpec:
    """A network that torchvision writes as one `features` sequence.

    Args:
        name, family, weights, summary, patch: see `torchvision`.
        least: smallest side in pixels of each of its items.
        control: number of the item that agents read.
    """
    stages = {f"features.{index}": side for index, side in enumerate(least)}
    return torchvision(name, family, stages, f"features.{control}", weights, summary, patch=patch)


def timm(
    name: str,
    model: str,
    family: str,
    stages: Mapping[str, int],
    control: str,
    summary: str,
    *,
    licence: str,
    accept: bool = False,
    patch: int = 1,
) -> EncoderSpec:
    """A convolutional network of timm.

    Args:
        name: ours.
        model: timm's own, with the tag of its weights.
        family, stages, control, summary, patch: see `torchvision`.
        licence: of its weights.
        accept: whether that must be accepted once.
    """
    return EncoderSpec(
        name=name,
        family=family,
        builder=TIMM,
        arguments={"name": model},
        stages=stages,
        tap=list(stages)[-1],
        control=(control, "grid6"),
        weights=f"timm:{model}",
        licence=licence,
        accept=accept,
        multiple=patch,
        summary=summary,
    )


def vit(
    name: str,
    model: str,
    family: str,
    summary: str,
    *,
    patch: int = 16,
    depth: int = 12,
    pooling: str = "cls",
    normed: bool = True,
    weights: str | None = "",
    withdrawn: str = "",
    licence: str = "",
    accept: bool = False,
    builder: str = TIMM,
    arguments: Mapping[str, object] | None = None,
) -> EncoderSpec:
    """A plain vision transformer: embed, its blocks, norm. Agents read its middle block, on a grid of places: as a
    convolutional network's, a transformer's late tokens mix what stood where.

    Args:
        name, model, family, summary, licence, accept: see `timm`.
        patch: side of a patch in pixels.
        depth: number of blocks.
        pooling: of the last stage.
        normed: whether a norm follows the blocks, token by token.
        weights: where they are from; "" for timm's.
        withdrawn: see `EncoderSpec`.
        builder, arguments: where it is no network of timm's.
    """
    stages = {"embed": patch} | {f"block{index}": patch for index in range(depth)}
    if normed:
        stages["norm"] = patch
    return EncoderSpec(
        name=name,
        family=family,
        builder=builder,
        arguments=arguments if arguments is not None else {"name": model},
        stages=stages,
        tap=list(stages)[-1],
        pooling=pooling,
        control=(f"block{(depth - 1) // 2}", "grid2" if patch > 16 else "grid4"),
        weights=f"timm:{model}" if weights == "" else weights,
        withdrawn=withdrawn,
        licence=licence,
        accept=accept,
        multiple=patch,
        summary=summary,
    )
