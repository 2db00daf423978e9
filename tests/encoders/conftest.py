"""Which encoders every change is tested with."""

from __future__ import annotations

import pytest

from stillsight.encoders import ENCODERS

LIGHT = frozenset(
    {
        *("retina", "resnet18", "resnet34", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"),
        *("squeezenet1_1", "efficientnet_b0", "convnext_tiny", "vit_b_16", "nature", "impala", "airbench", "drq"),
        *("regnet_y_400mf", "efficientnet_lite0", "mobilenet_v4_small", "vit_tiny", "eupe_ti16", "theia_tiny"),
    }
)
"""Rows whose tests take a moment and that between them have every kind of stage; tests of others are marked slow."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests of large networks as slow, wherever a test takes the name of an encoder."""
    for item in items:
        values = item.callspec.params.values() if hasattr(item, "callspec") else ()
        if any(isinstance(value, str) and value in ENCODERS and value not in LIGHT for value in values):
            item.add_marker(pytest.mark.slow)
