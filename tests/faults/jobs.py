"""Jobs: small runs of every kind, which are killed, refused files, and compared with one that nothing happened to."""

from __future__ import annotations

import random
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

AGENT = (
    "--encoder retina --mode frozen --tap layer1 --pooling grid2 --compress 4 --head 8 --frame-stack 2 --standardise 8 "
    "--n-envs 2 --steps 192 --max-episode-steps 20 --eval-every 64 --eval-episodes 1 --checkpoint-every 32 "
    "--engine folded --precision float32 --device cpu --threads 1"
)
OFF_POLICY = "learning_starts=24 batch_size=8 buffer_size=120 train_freq=4"
CLASSIFIER = (
    "--encoder retina --resolution 16 --device cpu --threads 1 --precision float32 --seed 3 --validation 9 "
    "--cache {cache}"
)
CLASSIFIER_AGAIN = "cifar --resume {run} --cache {cache}"
"""Where features are written is the user's to say, and not the run's."""
GRID = """
name = "faults"
seeds = 2
episodes = 1
videos = 0
controls = []

[rl]
steps = 64
n_envs = 2
eval_every = 32
eval_episodes = 1
max_episode_steps = 20
compress = 4
head = 8
frame_stack = 2
standardise = 8
engine = "folded"
device = "cpu"
threads = 1
workers = "off"
set = ["n_steps=16", "batch_size=16", "n_epochs=1"]

[[task]]
env = "stillsight/Orchard-v0"

[[encoder]]
encoder = "retina"
taps = ["layer1"]
"""


@dataclass(frozen=True)
class Job:
    """A run that can be stopped and gone on with.

    Attributes:
        name: of the job.
        words: its command; {run}, {cache}, {pictures} and {spec} stand for places.
        again: what goes on with it, where that is not `--resume {run}`.
        promised: it is promised to end as if nothing had happened, to the bit.
    """

    name: str
    words: str
    again: str = ""
    promised: bool = True

    def command(self, places: dict[str, Path]) -> list[str]:
        """The words to type."""
        return self.words.format(**places).split()

    def going_on(self, places: dict[str, Path]) -> list[str]:
        """The words that go on with it."""
        return (self.again or f"{self.words.split()[0]} --resume {{run}}").format(**places).split()


def _agent(
    name: str, algo: str, settings: str, env: str = "stillsight/Orchard-v0", more: str = "", workers: str = "off"
) -> Job:
    return Job(name, f"rl --env {env} --algo {algo} {AGENT} --workers {workers} --out {{run}} {more} --set {settings}")


CONTINUOUS = "stillsight/OrchardContinuous-v0"
BENCHMARK = "benchmark {spec} --out {run} --no-trial --jobs 1"

JOBS: dict[str, Job] = {
    job.name: job
    for job in (
        _agent("ppo", "ppo", "n_steps=16 batch_size=16 n_epochs=2"),
        _agent("ppo, workers", "ppo", "n_steps=16 batch_size=16 n_epochs=2", more="--tensorboard", workers="on"),
        _agent("dqn", "dqn", f"{OFF_POLICY} target_update_interval=16"),
        _agent("dqn, n-step", "dqn", f"{OFF_POLICY} target_update_interval=16 n_steps=3"),
        _agent("sac", "sac", OFF_POLICY, CONTINUOUS),
        _agent("sac, n-step", "sac", f"{OFF_POLICY} n_steps=3", CONTINUOUS),
        Job(
            "cifar, frozen",
            f"cifar --dataset {{pictures}} --mode frozen {CLASSIFIER} --out {{run}}",
            again=CLASSIFIER_AGAIN,
        ),
        Job(
            "cifar, finetuned",
            f"cifar --dataset {{pictures}} --mode finetune --epochs 3 --batch 8 {CLASSIFIER} --out {{run}}",
            again=CLASSIFIER_AGAIN,
        ),
        Job("benchmark", BENCHMARK, f"{BENCHMARK} --retry"),
    )
}


def furnish(place: Path) -> dict[str, Path]:
    """The places that jobs speak of, below `place`; pictures and SPEC.toml are made."""
    places = {name: place / name for name in ("run", "cache", "pictures")} | {"spec": place / "SPEC.toml"}
    place.mkdir(parents=True, exist_ok=True)
    if not places["spec"].exists():
        places["spec"].write_text(GRID)
    draw = random.Random(0)
    for number, colour in enumerate(((200, 40, 40), (40, 200, 40), (40, 40, 200))):
        folder = places["pictures"] / f"class{number}"
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(16):
            path = folder / f"{index}.png"
            if not path.exists():
                path.write_bytes(
                    png(16, [min(255, value + draw.randrange(56)) for _ in range(256) for value in colour])
                )
    return places


def png(side: int, values: list[int]) -> bytes:
    """A PNG file of `side` x `side` pixels, red, green and blue after one another."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + bytes(values[row * side * 3 : (row + 1) * side * 3]) for row in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
