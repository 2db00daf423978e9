"""timm's networks: the package, its names, and a network by one of them."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn

from stillsight.encoders.errors import EncoderError

PREFIX = "timm/"
"""What names begin with here."""

ANY_SIZE: tuple[Mapping[str, Any], ...] = (
    {"dynamic_img_size": True},
    {"strict_img_size": False, "dynamic_mask": True, "always_partition": True},
    {"strict_img_size": False},
    {},
)
"""Arguments by which networks take images of any size; the first that one knows."""


def library() -> Any:
    """The package timm.

    Raises:
        EncoderError: it is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise EncoderError('Encoders of timm need timm. Type: pip install "stillsight[timm]".') from error
    return timm


def check_name(name: str) -> str:
    """Return `name`, with or without the tag of its weights, if timm has such a model.

    Raises:
        EncoderError: it has none, with the nearest name, or no such weights, with those that there are.
    """
    timm = library()
    base, _, tag = name.partition(".")
    known = timm.list_models()
    if base not in known:
        near = difflib.get_close_matches(base, known, n=3, cutoff=0.5)
        guess = f" Did you mean {near[0]!r}? Type: --encoder {PREFIX}{near[0]}." if near else ""
        more = f" Near it are {', '.join(near)}." if len(near) > 1 else ""
        raise EncoderError(
            f"timm {timm.__version__} has no model named {base!r}.{guess}{more} All of them: stillsight list encoders "
            f"{PREFIX}"
        )
    tags = [other.partition(".")[2] for other in timm.list_pretrained(f"{base}.*")] if tag else []
    if tag and tag not in tags:
        first = f" Type, say: --encoder {PREFIX}{base}.{tags[0]}." if tags else f" Type: --encoder {PREFIX}{base}"
        raise EncoderError(f"timm has no weights named {tag!r} of {base}. Allowed: {', '.join(tags) or 'none'}.{first}")
    return name


def network_of(name: str, heads: int | None = None) -> nn.Module:
    """The network of timm called `name`, with random weights and without a classifier, for images of any size where it
    can.

    Args:
        name: with or without the tag of its weights.
        heads: of each attention, where it is not timm's number.

    Raises:
        EncoderError: timm is missing, or cannot build it without weights.
    """
    timm = library()
    own = {} if heads is None else {"num_heads": heads}
    mistake: TypeError | None = None
    for arguments in ANY_SIZE:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of names that timm has changed
                network: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **own, **arguments)
        except TypeError as error:
            mistake = error
            continue
        return network
    raise EncoderError(f"timm cannot build {name} without its weights ({mistake}). Take another --encoder.")
