"""Networks that are trained from scratch."""

from __future__ import annotations

from stillsight.encoders.zoo.encoder_spec import EncoderSpec

ORDER = 90

ROWS = (
    EncoderSpec(
        name="nature",
        family="Nature",
        builder="stillsight.encoders.zoo.scratch:nature",
        stages={"conv1": 8, "conv2": 20, "conv3": 36},
        tap="conv3",
        pooling="flatten",
        control=("conv3", "flatten"),
        summary="the Nature DQN network (Mnih et al. 2015), from scratch only",
    ),
    EncoderSpec(
        name="impala",
        family="IMPALA",
        builder="stillsight.encoders.zoo.scratch:impala",
        stages={"block1": 2, "block2": 4, "block3": 8},
        tap="block3",
        pooling="flatten",
        control=("block3", "flatten"),
        summary="the IMPALA residual network (Espeholt et al. 2018), from scratch only",
    ),
    EncoderSpec(
        name="airbench",
        family="airbench",
        builder="stillsight.encoders.zoo.scratch:airbench",
        stages={"stem": 2, "block1": 3, "block2": 5, "block3": 9},
        tap="block3",
        control=("block2", "grid6"),
        summary="the network of airbench94 (Jordan 2024) for pictures of about 32 px, from scratch only",
    ),
    EncoderSpec(
        name="drq",
        family="DrQ",
        builder="stillsight.encoders.zoo.scratch:drq",
        stages={"conv1": 3, "conv2": 7, "conv3": 11, "conv4": 15},
        tap="conv4",
        pooling="flatten",
        control=("conv4", "flatten"),
        summary="the encoder of DrQ-v2 (Yarats et al. 2021), from scratch only",
    ),
)
