"""A small training as a process of its own, for tests that kill it, and for tests that run it under torchrun.

python train_once.py FILE KILL WHEN: FILE is the checkpoint. After update KILL (0: never) it kills itself, at once or,
if WHEN is "save", in the middle of the next save.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stillsight.agents.runs import checkpoint
from stillsight.encoders import Backbone, Encoder, Preprocessing, fingerprint
from stillsight.encoders.adapt import Adaptation
from stillsight.encoders.supervised.classifier import Classifier
from stillsight.encoders.supervised.data.split import Split
from stillsight.encoders.supervised.training import distributed, finetune
from stillsight.encoders.supervised.training.distributed import World
from stillsight.encoders.supervised.training.recipe import Recipe
from stillsight.encoders.supervised.training.training_state import Progress

UPDATES = 12
"""Of one training: 3 epochs over 48 images, 12 at a time."""

EVERYTHING = Recipe(
    epochs=3, batch=12, optimizer="adamw", lr=0.01, encoder_lr=0.5, layer_decay=0.7, dropout=0.3, ema=0.9, patience=9,
    accumulate=2, rotation=10.0, randaugment=5, erasing=0.5, mixup=0.4, cutmix=1.0, tta=True, channels_last=True,
    save_every=3, precision="float32",
)  # fmt: skip
"""Every flag that chance or state hangs on."""

SHARED = Recipe(
    epochs=3, batch=12, lr=0.1, ema=0.9, accumulate=2, rotation=10.0, randaugment=5, erasing=0.5, save_every=3,
    precision="float32",
)  # fmt: skip
"""What several processes compute as one does: nothing in it looks at a neighbour within the batch."""


def images(count: int, seed: int) -> Split:
    """Noise that is mostly red, green or blue."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    pixels = torch.randint(0, 120, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    pixels[torch.arange(count), labels] += 100
    return Split(pixels, labels)


def classifier(batchnorm: Any, dropout: float, seed: int = 0) -> Classifier:
    """Two small stages and a head, with random weights."""
    torch.manual_seed(seed)
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU())
    body = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU())
    scale = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    parts = {"stem": stem, "body": body}
    backbone = Backbone(model=nn.Sequential(stem, body), stages=parts, preprocessing=scale, tap="body")
    adaptation = Adaptation(batchnorm=batchnorm)
    encoder = Encoder(backbone, unfreeze="all", pinned=False, adaptation=adaptation, precision="float32")
    return Classifier(encoder, 3, 16, dropout)


def train(
    plan: Recipe,
    batchnorm: str,
    save: Callable[[dict[str, Any]], None] = lambda _: None,
    stored: dict[str, Any] | None = None,
    watch: Callable[[Progress], None] = lambda _: None,
    world: World | None = None,
) -> tuple[Classifier, list[dict[str, Any]]]:
    """Train, from `stored` on if there is something; the model and the reported rows."""
    model = classifier(batchnorm, plan.dropout)
    progress = finetune.start(model, plan, 0)
    if stored is not None:
        progress.restore(model, stored, world)
    watch(progress)
    rows: list[dict[str, Any]] = []
    for _ in finetune.train(model, images(48, 1), images(15, 2), plan, progress, rows.append, world=world):
        save(progress.state(model))
    return model, rows


def killed(file: Path, kill: int, when: str) -> None:
    """Train with all flags, and perhaps die."""
    made = 0

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def watch(progress: Progress) -> None:
        def count(*_: object) -> None:
            nonlocal made
            made += 1
            if made == kill and when == "update":
                die()

        progress.optimizer.register_step_post_hook(count)

    def save(state: dict[str, Any]) -> None:
        if kill and made >= kill:
            os.replace = die  # type: ignore[assignment] # the file is written, and not yet in its place
        checkpoint.save(file, state)

    stored = checkpoint.load(file) if file.exists() else None
    model, _ = train(EVERYTHING, "train", save, stored, watch)
    file.with_suffix(".txt").write_text(fingerprint(model.state_dict()))


def together(folder: Path) -> None:
    """Train as one of several processes; each writes what it ended with, and the first its weights."""
    with distributed.joined("cpu") as world:
        saves: list[dict[str, Any]] = []

        def save(state: dict[str, Any]) -> None:
            if world.is_main:
                checkpoint.save(folder / f"save{len(saves)}.safetensors", state)
            saves.append({"epoch": state["epoch"], "update": state["update"]})

        def saved(number: int) -> Any:
            return world.broadcast(checkpoint.load(folder / f"save{number}.safetensors") if world.is_main else None)

        model, rows = train(SHARED, "frozen", save)
        resumed, resumed_rows = train(SHARED, "frozen", stored=saved(2))
        moving, _ = train(SHARED, "train", save)
        moved, _ = train(SHARED, "train", stored=saved(8))  # like number 2 of the training before
        alone, alone_rows = train(SHARED, "train", world=World()) if world.is_main else (None, [])
        group = World(world.rank, world.size, torch.distributed.new_group([0, 1]))
        grouped, _ = train(SHARED, "frozen", world=group)
        facts = {
            "size": world.size,
            "alone": alone and fingerprint(alone.state_dict()),
            "alone_rows": alone_rows,
            "grouped": fingerprint(grouped.state_dict()),
            "group_shared": group.broadcast(f"from {group.rank}"),
            "saves": saves,
            "rows": rows,
            "resumed_rows": resumed_rows,
            "end": fingerprint(model.state_dict()),
            "resumed": fingerprint(resumed.state_dict()),
            "moving": fingerprint(moving.state_dict()),
            "moved": fingerprint(moved.state_dict()),
            "total": world.sum(torch.tensor(world.rank + 1)).item(),
            "shared": world.broadcast(f"from {world.rank}"),
        }
        (folder / f"{world.rank}.json").write_text(json.dumps(facts))
        if world.is_main:
            checkpoint.save(folder / "end.safetensors", {"model": model.state_dict()})


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "together":
        together(Path(sys.argv[2]))
    else:
        killed(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
