"""Vision backbones as encoders with a cut: frozen before it, learning after it. Needs torch and torchvision alone."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from stillsight.encoders.config import EncoderConfig
from stillsight.encoders.errors import EncoderError
from stillsight.encoders.mode import Mode
from stillsight.encoders.zoo.encoder_spec import EncoderSpec
from stillsight.encoders.zoo.registry import ENCODERS, names, spec

if TYPE_CHECKING:
    from stillsight.encoders.backbone import Backbone, Preprocessing
    from stillsight.encoders.building import build
    from stillsight.encoders.encoder import Encoder, fingerprint
    from stillsight.encoders.engines.cost import Cost, measure
    from stillsight.encoders.frozen import Frozen
    from stillsight.encoders.learned import Learned
    from stillsight.encoders.weights.provenance import Provenance

# The registry answers at once; torch is imported only when a network is wanted.
_LAZY = {
    "Backbone": "backbone",
    "Preprocessing": "backbone",
    "build": "building",
    "Encoder": "encoder",
    "Cost": "engines.cost",
    "measure": "engines.cost",
    "Frozen": "frozen",
    "Learned": "learned",
    "Provenance": "weights.provenance",
    "fingerprint": "encoder",
}

__all__ = [
    "ENCODERS",
    "Backbone",
    "Cost",
    "Encoder",
    "EncoderConfig",
    "EncoderError",
    "EncoderSpec",
    "Frozen",
    "Learned",
    "Mode",
    "Preprocessing",
    "Provenance",
    "build",
    "fingerprint",
    "measure",
    "names",
    "spec",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
