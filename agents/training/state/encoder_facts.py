"""Encoder facts: by which weights and which code an agent saw, and whether those of now are the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from stillsight.agents.errors import RunError
from stillsight.agents.features.extractor import canonical
from stillsight.encoders.encoder import Encoder, fingerprint
from stillsight.encoders.reference_features import REFERENCE, check_reference, reference_features
from stillsight.envs.wrappers.layout import Layout

NAMED = ("encoder", "tap", "unfreeze", "frozen_sha256")
"""Those that are text, which a run's record in a zip says too."""
MOST = 4096
"""Numbers that are kept of two reference images: where there are more, evenly spaced ones. A stride, a way to resize, a
layer or its order changes them all."""


def encoder_facts(encoder: Encoder, policy: nn.Module, layout: Layout) -> dict[str, Any]:
    """What a checkpoint says of the encoder, for `check_encoder`: its name, the hash of its frozen weights, and what it
    makes of two fixed images with what `policy` has learned of it.

    Args:
        encoder: the frozen part.
        policy: with the learned part.
        layout: of what the agent sees; of state alone there are no features.
    """
    facts: dict[str, Any] = {
        "encoder": encoder.name,
        "tap": encoder.tap,
        "unfreeze": encoder.unfreeze,
        "frozen_sha256": fingerprint(encoder.frozen.state()),
    }
    return facts | ({REFERENCE: _features(encoder, policy, layout)} if layout.images else {})


def check_encoder(
    encoder: Encoder,
    policy: nn.Module,
    layout: Layout,
    stored: Mapping[str, Any],
    folder: Path,
    seed: int | None = None,
) -> None:
    """Refuse an encoder that is not the one that an agent was saved with, by its weights or by its code.

    Args:
        encoder, policy, layout: as in `encoder_facts`; the policy has taken over what it learned.
        stored: the checkpoint. Those of versions before hold no features, and their code is not looked at.
        folder: of the run.
        seed: of that run, where it is another one than that which the encoder was built for.

    Raises:
        RunError: its frozen weights are others to the bit.
        EncoderError: it computes other features.
    """
    present = fingerprint(encoder.frozen.state())
    if stored["frozen_sha256"] != present:
        raise RunError(
            f"{folder} was trained on frozen {encoder.name} weights with sha256 "
            f"{stored['frozen_sha256'][:12]}, and {encoder.provenance.name} gives {present[:12]}. "
            f"{_advice(encoder, seed)}"
        )
    if layout.images and REFERENCE in stored:
        check_reference(encoder.name, _features(encoder, policy, layout), stored[REFERENCE], folder)


def _advice(encoder: Encoder, seed: int | None) -> str:
    """What to type where frozen weights are others. Random ones lie in no file: they follow from the seed of a run."""
    if encoder.provenance.kind != "random":
        return "Say where the right ones are: --weights FILE."
    if seed is not None:
        return f"Its weights are random and follow from the seed. Type that run's: --seed {seed}."
    return (
        "They are random and follow from the seed and from the versions of PyTorch and of the encoder's code, which "
        "machine.json names: go on with those."
    )


def _features(encoder: Encoder, policy: nn.Module, layout: Layout) -> Tensor:
    _, height, width = layout.pixels
    features = reference_features(encoder.frozen, (height, width), canonical(policy).learned)
    return features[:: -(-len(features) // MOST)].clone()
