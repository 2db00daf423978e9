"""The two switches that make four modes, on both tracks."""

from __future__ import annotations

from enum import StrEnum


class Mode(StrEnum):
    """What is done with an encoder: where its weights come from, and whether they go on learning.

    |                    | not trained | trained    |
    |--------------------|-------------|------------|
    | pretrained weights | `frozen`    | `finetune` |
    | random weights     | `random`    | `scratch`  |
    """

    FROZEN = "frozen"
    RANDOM = "random"
    FINETUNE = "finetune"
    SCRATCH = "scratch"

    @property
    def pretrained(self) -> bool:
        """Whether the run starts from pretrained weights."""
        return self in (Mode.FROZEN, Mode.FINETUNE)

    @property
    def trained(self) -> bool:
        """Whether any part of the encoder learns."""
        return self in (Mode.FINETUNE, Mode.SCRATCH)
