"""Mutations of every file that is read, each read in a child with limits of memory and time."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from children import HERE, Outcome, Server
from compare import tensors, timeless
from jobs import JOBS, furnish
from mutate import mutant
from record import Record

MEMORY = 3_000_000_000
"""Bytes that a reader may take."""
SECONDS = 30
"""Of processor time that a reader may take."""

PLAYER = """
import hashlib, sys
from pathlib import Path
from stillsight.agents import load
player = load(Path(sys.argv[1]), sys.argv[2], device="cpu")
digest = hashlib.sha256()
for name, tensor in sorted(player.actor.model.policy.state_dict().items()):
    digest.update(name.encode() + tensor.numpy().tobytes())
print(digest.hexdigest())
"""
ENCODER = """
import sys, torch
from pathlib import Path
from stillsight.encoders import build
built = build("retina", "frozen", weights=Path(sys.argv[1]), device="cpu", tap="layer1", pooling="grid2")
print(built.sha256())
"""
ENGINE = """
import json, os
from pathlib import Path
os.environ["XDG_CACHE_HOME"] = "."
from stillsight.encoders.engines import engine_cache
print(ascii([engine_cache.recall("one"), engine_cache.recall("two")]))
engine_cache.remember("three", {"folded": 0.01})
"""


@dataclass(frozen=True)
class Kind:
    """A kind of file, and what reads it.

    Attributes:
        name: of the kind.
        files: pattern of its files in the home of a specimen.
        specimen: the job that made them, or a name in `specimens`.
        structure: see `mutate.mutant`.
        readers: words of commands; "-c NAME ..." runs one of the programs above.
        hashed: the file carries a hash of what it holds, so that damage must be seen; a reader must give the answer
            that it gives of the undamaged file, or say something.
        whole: the readers write where they read, so that each needs a copy of its own.
        weight: how many of the mutants, in proportion.
    """

    name: str
    files: str
    specimen: str
    structure: str
    readers: tuple[str, ...]
    hashed: bool = False
    whole: bool = False
    weight: int = 4


PLAY = "evaluate {run} --episodes 1 --random-episodes 0 --max-steps 3 --device cpu --json --out {out}"
PREDICT = "predict {run} {pictures}/class0/0.png {pictures}/class1/1.png --json --device cpu"
AGAIN = "rl --resume {run}"
CLASSIFY = (
    "cifar --dataset {source}/pictures --mode frozen --encoder retina --resolution 16 --device cpu --threads 1 "
    "--precision float32 --seed 3 --validation 9 --cache {cache} --out {out}"
)

KINDS = (
    Kind(
        "config.json of an agent",
        "run/config.json",
        "ppo",
        "json",
        (PLAY, "plot {run} --out {out}.png", "list runs --folder {run}"),
        weight=8,
    ),
    Kind(
        "config.json of a classifier",
        "run/config.json",
        "cifar, frozen",
        "json",
        (PREDICT, "list runs --folder {run}"),
        weight=6,
    ),
    Kind("config.json of a stopped run", "run/config.json", "stopped", "json", (AGAIN,), whole=True, weight=3),
    Kind("spaces.json", "run/spaces.json", "ppo", "json", (PLAY,), weight=5),
    Kind("machine.json", "run/machine.json", "stopped", "json", (AGAIN,), whole=True, weight=2),
    Kind(
        "summary.json",
        "run/summary.json",
        "cifar, frozen",
        "json",
        (PREDICT, "list runs --folder {run}", "evaluate {run} --device cpu --json --out {out}"),
        weight=5,
    ),
    Kind(
        "rows of a run",
        "run/*.jsonl",
        "ppo",
        "lines",
        ("plot {run} --out {out}.png", "list runs --folder {run}"),
        weight=4,
    ),
    Kind("rows of a stopped run", "run/*.jsonl", "stopped", "lines", (AGAIN,), whole=True, weight=2),
    Kind(
        "best checkpoint",
        "run/checkpoints/best.safetensors",
        "ppo",
        "safetensors",
        ("-c PLAYER {run} best",),
        hashed=True,
        weight=10,
    ),
    Kind(
        "last checkpoint",
        "run/checkpoints/last.safetensors",
        "ppo",
        "safetensors",
        ("-c PLAYER {run} last",),
        hashed=True,
        weight=10,
    ),
    Kind(
        "last checkpoint of a stopped run",
        "run/checkpoints/last.safetensors",
        "stopped",
        "safetensors",
        (AGAIN,),
        hashed=True,
        whole=True,
        weight=3,
    ),
    Kind(
        "replay memory",
        "run/checkpoints/replay-*.safetensors",
        "stopped",
        "safetensors",
        (AGAIN,),
        hashed=True,
        whole=True,
        weight=3,
    ),
    Kind(
        "head.safetensors",
        "run/checkpoints/head.safetensors",
        "cifar, frozen",
        "safetensors",
        (PREDICT,),
        hashed=True,
        weight=6,
    ),
    Kind(
        "encoder.safetensors",
        "run/checkpoints/encoder.safetensors",
        "cifar, finetuned",
        "safetensors",
        (PREDICT, "-c ENCODER {run}"),
        hashed=True,
        weight=8,
    ),
    Kind("SPEC.toml", "SPEC.toml", "benchmark", "toml", ("benchmark {spec} --plan --no-trial --out {out}",), weight=8),
    Kind(
        "cell record",
        "run/cells/*.json",
        "benchmark",
        "json",
        ("benchmark {run}/SPEC.toml --plan --no-trial --out {run}",),
        whole=True,
        weight=6,
    ),
    Kind("cell record, reported", "run/cells/*.json", "benchmark", "json", ("report {run} --out {out}",), weight=1),
    Kind("references.json", "run/references.json", "benchmark", "json", ("report {run} --out {out}",), weight=1),
    Kind("feature store", "cache/retina-*/*", "cifar, frozen", "bytes", (CLASSIFY,), hashed=True, whole=True, weight=4),
    Kind(
        "decoded pictures",
        "cache/**/images-*.safetensors",
        "cifar, frozen",
        "safetensors",
        (CLASSIFY,),
        hashed=True,
        whole=True,
        weight=3,
    ),
    Kind("engine cache", "stillsight/engines.json", "weights", "json", ("-c ENGINE",), whole=True, weight=4),
    Kind("weights of torch", "weights.pth", "weights", "torch", ("-c ENCODER {home}/weights.pth",), weight=8),
    Kind(
        "weights of safetensors",
        "weights.safetensors",
        "weights",
        "safetensors",
        ("-c ENCODER {home}/weights.safetensors",),
        weight=5,
    ),
    Kind(
        "pictures",
        "pictures/class0/0.*",
        "cifar, frozen",
        "bytes",
        ("predict {run} {file} --json --device cpu",),
        weight=8,
    ),
)


def mutations(record: Record, place: Path, count: int, seed: int, jobs: int) -> None:
    """Read `count` mutants, and write what came of each.

    Args:
        record: where; what is there already is not done again.
        place: for the files.
        count: mutants, dealt out over `KINDS` by weight.
        seed: of everything random.
        jobs: children side by side.
    """
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))}
    order = [kind for kind in KINDS for _ in range(kind.weight)]
    random.Random(seed).shuffle(order)
    waiting = [number for number in range(count) if not record.has(str(number))]
    with Server(place / "makers", environment=environment, refusing=False) as server:
        homes = specimens(server, place)
        right = {
            (kind.name, reader): _right(server, place, homes, kind, reader) for kind in KINDS for reader in kind.readers
        }
    lock = threading.Lock()

    def work(name: str) -> None:
        with Server(place / name, environment=environment, refusing=False) as server:
            while True:
                with lock:
                    if not waiting:
                        return
                    number = waiting.pop(0)
                kind = order[number % len(order)]
                row = _one(server, place / f"{name}-copy", homes, kind, right, random.Random(f"{seed} {number}"))
                with lock:
                    record.add(str(number), row)

    threads = [threading.Thread(target=work, args=(f"reader{index}",)) for index in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def specimens(server: Server, place: Path) -> dict[str, Path]:
    """The homes of undamaged files, by the name of what made them; made once."""
    homes = {}
    for name in ("ppo", "cifar, frozen", "cifar, finetuned", "benchmark", "stopped", "weights"):
        home = place / "specimens" / name.replace(", ", "-")
        homes[name] = home
        if (home / "made").exists():
            continue
        shutil.rmtree(home, ignore_errors=True)
        places = furnish(home)
        if name == "weights":
            _weights(server, home)
        else:
            words = JOBS["dqn" if name == "stopped" else name].command(places)
            if name == "stopped":
                words[words.index("192")] = "100000"
            _make(server, words, home, stopped=name == "stopped")
        if name == "cifar, frozen":
            _pictures(server, home)
        (home / "made").touch()
    return homes


def _make(server: Server, words: list[str], home: Path, *, stopped: bool) -> None:
    last = home / "run" / "checkpoints" / "last.safetensors"
    for patience in (3.0, 6.0, 12.0, 24.0):
        outcome = server.run(words, folder=home, kill_after=patience if stopped else None)
        if not stopped and outcome.code:
            raise SystemExit(f"faults: a specimen cannot be made: {outcome.error}")
        if not stopped or last.exists():
            break
        shutil.rmtree(home / "run", ignore_errors=True)
    if stopped:  # near its end, so that going on takes a moment
        config = home / "run" / "config.json"
        record = json.loads(config.read_text())
        step = json.loads((home / "run" / "episodes.jsonl").read_text().splitlines()[-1])["step"]
        config.write_text(json.dumps({**record, "steps": step + 16}, indent=2) + "\n")


def _program(server: Server, home: Path, text: str) -> None:
    outcome = server.run(["-c", text], folder=home)
    if outcome.code:
        raise SystemExit(f"faults: a specimen cannot be made: {outcome.error}")


def _weights(server: Server, home: Path) -> None:
    """Weights in both formats, and an engine cache."""
    text = """
import json, torch
from pathlib import Path
from safetensors.torch import save_file
from stillsight.encoders.zoo.retina import retina
torch.manual_seed(1)
state = retina().model.state_dict()
torch.save(state, "weights.pth")
save_file(state, "weights.safetensors")
Path("stillsight").mkdir()
timings = {"one": {"folded": 0.01, "onnx": None}, "two": {"folded": 0.02}}
Path("stillsight/engines.json").write_text(json.dumps(timings, indent=1))
"""
    _program(server, home, text)


def _pictures(server: Server, home: Path) -> None:
    """One picture in every format."""
    text = """
from PIL import Image
image = Image.open("pictures/class0/0.png").convert("RGB")
for ending in ("jpg", "bmp", "gif", "webp", "tiff"):
    image.save(f"pictures/class0/0.{ending}")
"""
    _program(server, home, text)
    extra = home / "formats"
    extra.mkdir()
    for path in (home / "pictures" / "class0").glob("0.*"):
        shutil.copy(path, extra / path.name)
        if path.suffix != ".png":
            path.unlink()


def _words(reader: str, home: Path, source: Path, out: Path, file: Path) -> list[str]:
    """What reads a copy of a specimen."""
    places = {name: home / name for name in ("run", "cache", "pictures")}
    words = reader.format(home=home, source=source, out=out, spec=home / "SPEC.toml", file=file, **places).split()
    if words[0] == "-c":
        return ["-c", globals()[words[1]], *words[2:]]
    return words


def _copy(source: Path, home: Path, *, whole: bool) -> None:
    shutil.rmtree(home, ignore_errors=True)
    shutil.rmtree(home.with_name(home.name + "-out"), ignore_errors=True)
    shutil.copytree(source, home, symlinks=True, copy_function=shutil.copy2 if whole else os.link)
    shutil.copy(HERE / "planted.py", home / "planted.py")
    if (home / "run").exists():
        shutil.copy(HERE / "planted.py", home / "run" / "planted.py")


def _read(server: Server, reader: str, home: Path, source: Path, file: Path) -> tuple[Outcome, bool]:
    marker = home.with_name(home.name + "-marker")
    marker.unlink(missing_ok=True)
    out = home.with_name(home.name + "-out")
    words = _words(reader, home, source, out, file)
    outcome = server.run(
        words,
        folder=home,
        timeout=90.0,
        memory=MEMORY,
        seconds=SECONDS,
        hasty=True,
        variables={"STILLSIGHT_FAULTS_MARKER": str(marker)},
    )
    return outcome, marker.exists()


def _files(kind: Kind, home: Path) -> list[Path]:
    pattern = kind.files.replace("pictures/class0/0.*", "formats/0.*")
    return sorted(path for path in home.glob(pattern) if path.is_file())


def _right(server: Server, place: Path, homes: dict[str, Path], kind: Kind, reader: str) -> dict[str, str]:
    """What a reader answers of each undamaged file."""
    answers = {}
    for path in _files(kind, homes[kind.specimen]):
        name = path.relative_to(homes[kind.specimen])
        home = place / "undamaged"
        _copy(homes[kind.specimen], home, whole=True)
        outcome, ran = _read(server, reader, home, homes[kind.specimen], home / name)
        if outcome.code or ran:
            raise SystemExit(f"faults: {kind.name} is not read even undamaged: {outcome.code} {outcome.error}")
        answers[str(name)] = answer(outcome, home, reader)
        if "{file}" not in reader:
            break
    return answers


def answer(outcome: Outcome, home: Path, reader: str) -> str:
    """What a reader made of a file: of one that trains what it learned, of others what they printed, times left out."""
    trained = {"cifar": home.with_name(home.name + "-out"), "rl": home / "run"}.get(reader.split()[0])
    if trained is not None:
        digest = hashlib.sha256()
        for name in ("best", "last", "head"):
            path = trained / "checkpoints" / f"{name}.safetensors"
            if path.exists() and outcome.code == 0:
                digest.update(repr(tensors(path)[1]).encode())
        return digest.hexdigest()
    text = outcome.out.replace(str(home), "HOME").replace(str(home.parent), "PLACE")
    try:
        return json.dumps(timeless(json.loads(text)))
    except ValueError:
        text = "\n".join(line for line in text.splitlines() if not re.search(r"second|/s\b|left|%|s\)|memory", line))
        return re.sub(r"\d+(\.\d+)? (s|ms|min|MB|GB)\b", "", text)


def _one(
    server: Server,
    home: Path,
    homes: dict[str, Path],
    kind: Kind,
    right: dict[tuple[str, str], dict[str, str]],
    draw: random.Random,
) -> dict[str, Any]:
    source = homes[kind.specimen]
    path = draw.choice(_files(kind, source))
    reader = draw.choice(kind.readers)
    what, content = mutant(path.read_bytes(), kind.structure, draw)
    _copy(source, home, whole=kind.whole)
    name = path.relative_to(source)
    (home / name).unlink()
    (home / name).write_bytes(content)
    outcome, ran = _read(server, reader, home, source, home / name)
    expected = right[kind.name, reader]
    same = answer(outcome, home, reader) == expected.get(str(name), next(iter(expected.values())))
    how = judge(outcome, ran, same)
    bad = how in ("code run", "traceback", "hang", "killed") or (kind.hashed and how == "taken")
    row = {"kind": kind.name, "file": str(name), "mutation": what, "reader": reader.split()[0], "outcome": how}
    if reader.startswith("-c"):
        row["reader"] = reader.split()[1].lower()
    said = next((line for line in reversed(outcome.error.splitlines()) if line.strip()), "")
    return {
        **row,
        "code": outcome.code,
        "said": said[-300:],
        "faults": [how if how != "taken" else "accepted damage"] * bad,
    }


def judge(outcome: Outcome, ran: bool, same: bool) -> str:
    """What became of a mutant: in the order of how bad it is."""
    if ran:
        return "code run"
    if outcome.hung or outcome.code in (-24, -9):
        return "hang"
    if outcome.traceback:
        return "traceback"
    if outcome.code < 0 or outcome.code not in (0, 1, 2):
        return "killed"
    if outcome.code:
        return "refused"
    if same:
        return "same answer"
    return "said, and gone on" if "stillsight:" in outcome.error else "taken"


def counts(record: Record) -> dict[str, Counter[str]]:
    """Outcomes by kind."""
    table: dict[str, Counter[str]] = {}
    for row in record.rows.values():
        table.setdefault(row["kind"], Counter())[row["outcome"]] += 1
    return table
