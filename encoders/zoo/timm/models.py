"""timm's models as backbones, as `timm/NAME`: what timm says of each, and each in its stages."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from stillsight.encoders.backbone import Backbone, Preprocessing
from stillsight.encoders.errors import EncoderError
from stillsight.encoders.zoo.encoder_spec import EncoderSpec
from stillsight.encoders.zoo.function import control
from stillsight.encoders.zoo.smallest import USUAL, sizes, without_content
from stillsight.encoders.zoo.timm.cut import is_plain, stages_of, way_of
from stillsight.encoders.zoo.timm.embedding import PlainEmbedding
from stillsight.encoders.zoo.timm.network import PREFIX, check_name, library, network_of

NON_COMMERCIAL = (
    *("-nc", "dinov3", "apple", "noncommercial", "non-commercial", "fair-research", "seer-license", "sapiens"),
    *("gemma", "nvidia-open-model", "mobileone-license", "cvnets-license", "qwen-community"),
)
"""Parts of licences that must be accepted, because they are non-commercial or their owners ask for an agreement."""


LICENCES: Mapping[str, str] = {"GlobalContextVit": "cc-by-nc-sa-4.0"}
"""Class of timm -> the licence of its weights, where timm's record names another one than its source does (of GCViT:
adapted from NVIDIA's)."""

CLASS_TOKENS: Mapping[str, int] = {"VOLO": 1, "CoaT": 1}
"""Class of timm -> class tokens that its features begin with, where it does not say so by `num_prefix_tokens`."""


def matching(words: str) -> list[str]:
    """The names of timm, as they are typed here, that `words` are a part of."""
    part = words.removeprefix(PREFIX)
    return [f"{PREFIX}{name}" for name in library().list_models() if part in name]


@functools.cache
def describe(name: str) -> EncoderSpec:
    """The record of `timm/NAME`, measured on its network without its weights.

    Raises:
        EncoderError: no such model, timm is missing, or its weights are of a network with another activation.
    """
    own = check_name(name.removeprefix(PREFIX))
    config = _published(own)
    _check_activation(own, config)
    way_of(own)
    backbone = without_content(lambda: model(own))
    measured = sizes(backbone, backbone.preprocessing.size or USUAL)
    licence = LICENCES.get(type(backbone.model).__name__) or str(config.get("license") or "")
    return EncoderSpec(
        name=name,
        family=type(backbone.model).__name__,
        builder=f"{__name__}:model",
        arguments={"name": own},
        stages=measured.least,
        tap=backbone.tap,
        pooling=backbone.pooling,
        control=control(backbone) or (backbone.tap, backbone.pooling),
        weights=_address(str(config.get("hf_hub_id") or ""), str(config.get("hf_hub_filename") or "")),
        licence=licence,
        accept=must_accept(licence),
        summary=f"timm's {own}, {config.get('tag') or 'no published weights'}",
        multiple=measured.multiple,
        fixed=measured.fixed,
    )


def _check_activation(name: str, config: Mapping[str, Any]) -> None:
    """Raise `EncoderError` if weights were trained with QuickGELU and this network computes GELU: they load as well,
    and the features are others. timm says it in its notes alone."""
    trained = any("quickgelu" in str(note).lower() for note in config.get("notes") or ())
    if trained and "quickgelu" not in name:
        right = name.replace("_clip_", "_clip_quickgelu_")
        raise EncoderError(
            f"{PREFIX}{name} computes GELU, and its weights {config.get('tag')} were trained with QuickGELU: its "
            f"features would be others than published. Type: --encoder {PREFIX}{right}."
        )


def must_accept(licence: str) -> bool:
    """Whether a licence, as timm names it, must be accepted before weights under it are used."""
    return any(part in licence.lower() for part in NON_COMMERCIAL)


def _address(hub: str, file: str) -> str | None:
    """Where weights are, as `EncoderSpec.weights` says it: in a repository on Hugging Face, timm's own or another's."""
    if not hub:
        return None
    if file:
        return f"hf:{hub}/{file}"
    return f"timm:{hub.removeprefix(PREFIX)}" if hub.startswith(PREFIX) else f"hf:{hub}"


def _published(name: str) -> dict[str, Any]:
    """timm's record of the weights of a model: recipe, licence, address."""
    config = library().get_pretrained_cfg(name)
    return {} if config is None else dict(config.to_dict())


def recipe(config: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing of timm's record `pretrained_cfg`."""
    size = config.get("input_size") or (3, USUAL, USUAL)
    mean, std = config.get("mean") or (0.485, 0.456, 0.406), config.get("std") or (0.229, 0.224, 0.225)
    return Preprocessing(
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
        size=int(size[-1]),
        interpolation="bilinear" if config.get("interpolation") == "bilinear" else "bicubic",
    )


def model(name: str, pooling: str | None = None, positions: str | None = None, heads: int | None = None) -> Backbone:
    """The model of timm called `name`, with random weights and without a classifier, in its stages.

    Args:
        name: timm's own, with the tag of its weights or without.
        pooling: of the last stage; by default as timm's own classifiers have it.
        positions: how those of a plain vision transformer are laid out on another grid, a key of `positions.ADDED`;
            None for timm's way.
        heads: of each attention, where others have published weights of this network with another number of them.

    Raises:
        EncoderError: no such model, timm is missing, or it takes other images than those of three colours.
    """
    network = network_of(check_name(name), heads)
    stages = stages_of(network, way_of(name))
    if positions is not None:
        stages["embed"] = PlainEmbedding(network, positions)
    untold = CLASS_TOKENS.get(type(network).__name__, 0)
    tokens = int(getattr(network, "num_prefix_tokens", 0) or untold)
    has_class = untold > 0 or (tokens > 0 and getattr(network, "cls_token", None) is not None)
    embedding = getattr(network, "patch_embed", None)
    patch: Any = getattr(embedding, "patch_size", None) if is_plain(network) else None
    return Backbone(
        model=network,
        stages=stages,
        preprocessing=recipe(getattr(network, "pretrained_cfg", {}) or {}),
        tap=list(stages)[-1],
        pooling=pooling or ("cls" if has_class and getattr(network, "global_pool", "token") == "token" else "global"),
        class_tokens=tokens,
        class_first=has_class,
        multiple=1 if patch is None else int(patch[0] if isinstance(patch, tuple | list) else patch),
    )
