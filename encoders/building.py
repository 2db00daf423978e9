"""build(): an encoder from its name. The one door through which both tracks and library users get their eyes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from stillsight.encoders import device as devices
from stillsight.encoders import weights as sources
from stillsight.encoders.adapt import Adaptation
from stillsight.encoders.encoder import Encoder, Provenance
from stillsight.encoders.mode import Mode
from stillsight.encoders.zoo.registry import make_backbone, spec


def build(
    name: str,
    mode: Mode | str = Mode.FROZEN,
    *,
    tap: str | None = None,
    pooling: str | None = None,
    resolution: int | None = None,
    unfreeze: str | None = None,
    adapt: Literal["all", "norm", "lora"] = "all",
    batchnorm: Literal["frozen", "train"] | None = None,
    lora_rank: int = 8,
    weights: Path | str | None = None,
    weights_folder: Path | str | None = None,
    seed: int = 0,
    pinned: bool = True,
    precision: devices.Precision = "auto",
    device: torch.device | str = "auto",
) -> Encoder:
    """Build an encoder.

    Args:
        name: a registered name (`stillsight list encoders`) or a third party's `module:function` that returns a
            `Backbone`.
        mode: frozen, random, finetune or scratch.
        tap: last stage that runs; by default the network's last.
        pooling: from maps to a vector: global, grid<k>, flatten, softmax, cls. By default the network's own.
        resolution: side in pixels that images are resized to; None takes them as they come.
        unfreeze: in the trained modes, the first stage that learns; None trains all.
        adapt, batchnorm, lora_rank: what learns in the trained modes, see `Adaptation`.
        weights: a file or a run folder to take the weights from instead of the registered ones.
        weights_folder: where to look for weights under their official names before torch's cache.
        seed: of random weights.
        pinned: keep dropout off in the part that learns, and BatchNorm statistics fixed unless `batchnorm` says so.
        precision: of the frozen part: auto (bf16 where the hardware has it), float32, bf16.
        device: auto, cpu, cuda, cuda:N, mps.

    Raises:
        EncoderError: unknown name, stage, pooling or device; weights missing, damaged or not fitting.
    """
    mode = Mode(mode)
    row = spec(name)
    with torch.random.fork_rng(devices=[]):  # random weights depend on `seed` alone, not on what ran before
        torch.manual_seed(seed)
        backbone = make_backbone(name)
    chosen = tap or (row.tap if row else backbone.tap)
    provenance = Provenance(kind="random", name=f"seed {seed}", licence="none needed")
    if mode.pretrained:
        found = sources.find(row, _path(weights), _path(weights_folder))
        sources.load_into(backbone, found, chosen, name)
        provenance = found.provenance
    encoder = Encoder(
        backbone,
        name=name,
        tap=chosen,
        pooling=pooling or (row.pooling if row else None),
        resolution=resolution,
        unfreeze=(unfreeze or "all") if mode.trained else None,
        pinned=pinned,
        shielded=mode.pretrained,
        adaptation=Adaptation(what=adapt, batchnorm=batchnorm, rank=lora_rank, seed=seed),
        precision=precision,
        provenance=provenance,
    )
    encoder.recipe = {
        "name": name,
        "mode": mode.value,
        "tap": tap,
        "pooling": pooling,
        "resolution": resolution,
        "unfreeze": unfreeze,
        "adapt": adapt,
        "batchnorm": batchnorm,
        "lora_rank": lora_rank,
        "weights": None if weights is None else str(weights),
        "weights_folder": None if weights_folder is None else str(weights_folder),
        "seed": seed,
        "pinned": pinned,
        "precision": precision,
        "device": str(device),
    }
    target = devices.pick_device(str(device))
    # The learned part keeps its layout: SB3's orthogonal initialisation cannot write into NHWC tensors.
    devices.channels_last(encoder.frozen, target)
    return encoder.to(target)


def _path(path: Path | str | None) -> Path | None:
    return None if path is None else Path(path)
