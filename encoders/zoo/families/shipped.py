"""retina, which ships with the project."""

from __future__ import annotations

from stillsight.encoders.zoo.encoder_spec import EncoderSpec

ORDER = 0
"""What needs no download comes first."""

ROWS = (
    EncoderSpec(
        name="retina",
        family="retina",
        builder="stillsight.encoders.zoo.retina:retina",
        stages={"stem": 2, "layer1": 2, "layer2": 4, "layer3": 8},
        tap="layer3",
        control=("layer2", "grid6"),
        weights="shipped",
        licence="MIT",
        summary="the small residual network that ships with stillsight, pretrained on CIFAR-100; no download",
    ),
)
