"""The benchmark from SPEC.toml to report: stopped and started again, with cells that fail, told in the tables."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from stillsight.agents import cli
from stillsight.agents.benchmark.analysis.analysis import analyse
from stillsight.agents.benchmark.analysis.collect import Grid, collect
from stillsight.agents.benchmark.benchmark_config import BenchmarkConfig
from stillsight.agents.benchmark.command import _fetch, benchmark, failed, missing
from stillsight.agents.benchmark.grid.cell import Cell, Result
from stillsight.agents.benchmark.grid.parse import parse_spec
from stillsight.agents.benchmark.grid.spec import Spec
from stillsight.agents.benchmark.report import tables
from stillsight.agents.benchmark.running import worker
from stillsight.agents.benchmark.running.energy import meter
from stillsight.agents.benchmark.running.local import run_local
from stillsight.agents.benchmark.running.results import Results
from stillsight.agents.errors import RunError
from stillsight.agents.runs.progress import ProgressDisplay
from stillsight.agents.runs.trust import Trust
from stillsight.encoders import EncoderError
from stillsight.encoders.device import computed_in
from stillsight.encoders.supervised.cifar_config import CifarConfig

HEAD = """
seeds = 2
episodes = 2
shifts = ["noise"]
controls = []
[rl]
steps = 64
n_envs = 2
eval_every = 32
eval_episodes = 1
standardise = 8
head = 8
max_episode_steps = 20
set = ["n_steps=16", "batch_size=16", "n_epochs=1"]
"""
TASK = '[[task]]\nenv = "stillsight/Orchard-v0"\nthreshold = 1.0\n'
RETINA = '[[encoder]]\nencoder = "retina"\ntaps = ["stem"]\n'
RANDOM = (
    '[[arm]]\nname = "random"\nrole = "random"\nencoder = "retina"\nmode = "random"\ntap = "stem"\npooling = "grid2"\n'
)
GRID = HEAD + TASK + RETINA + RANDOM


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A benchmark that nothing interrupted."""
    folder = tmp_path_factory.mktemp("benchmark")
    (folder / "SPEC.toml").write_text(GRID)
    assert cli.main(["benchmark", str(folder / "SPEC.toml"), "--out", str(folder), "--no-trial"]) == 0
    return folder


def _records(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in (folder / "cells").glob("*.json")}


def test_every_cell_says_what_it_is(whole: Path) -> None:
    records = _records(whole)
    assert sorted(records) == sorted(parse_spec(GRID).expected())
    for record in records.values():
        assert (record["state"], record["budget"], record["cost"]["images_per_step"]) == ("done", 64, 68 / 64)
        # 68: of two environments the first frames, 64 steps, and the last frames of two episodes that end.
        assert {name: len(values) for name, values in record["scores"].items()} == {"clean": 2, "noise": 2}
        assert [step for step, *_ in record["curve"]] == [32, 64]
        assert record["pins"]["env_version"].startswith("stillsight ")
        assert (record["pins"]["device_kind"], record["pins"]["precision"]) == ("cpu", "auto")
        assert record["pins"]["computed_in"] == computed_in(torch.device("cpu"), "auto")
        assert record["machine"]["versions"]["torch"]
        assert (whole / record["run"] / "done").exists()
    frozen = [record["pins"] for record in records.values() if record["role"] == "frozen"]
    assert frozen[0] == frozen[1]
    assert len(frozen[0]["encoder_sha256"]) == len(frozen[0]["weights_sha256"]) == 64
    films = sorted(path.parts[-3] for path in whole.glob("runs/*/videos/*.mp4"))
    assert films == sorted(key for key, record in records.items() if record["seed"] == 0)
    references = json.loads((whole / "references.json").read_text())["stillsight/Orchard-v0"]
    assert references["oracle"]["mean"] > references["random"]["mean"]


def test_killed_and_started_again_it_gives_the_same_table(whole: Path, tmp_path: Path) -> None:
    """kill -9 in the middle of cells: the workers end too, and nothing is run twice or left out."""
    (tmp_path / "SPEC.toml").write_text(GRID)
    words = ["benchmark", str(tmp_path / "SPEC.toml"), "--out", str(tmp_path), "--no-trial"]
    program = f"import sys; from stillsight.agents.cli import main; sys.exit(main({words!r}))"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not _records(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    early = _records(tmp_path)
    assert 0 < len(early) < 4
    while _workers(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _workers(tmp_path)
    assert cli.main(words) == 0
    later = _records(tmp_path)
    assert {key: later[key] for key in early} == early  # finished cells were left alone
    assert (tmp_path / "scores.md").read_bytes() == (whole / "scores.md").read_bytes()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_asked_to_stop_it_ends_its_workers_and_says_how_to_go_on(tmp_path: Path, number: int, code: int) -> None:
    (tmp_path / "SPEC.toml").write_text(GRID.replace("steps = 64", "steps = 1_000_000"))
    words = ["benchmark", str(tmp_path / "SPEC.toml"), "--out", str(tmp_path), "--no-trial"]
    program = f"import sys; from stillsight.agents.cli import main; sys.exit(main({words!r}))"
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("runs/*/config.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, told = process.communicate(timeout=15)
    assert process.returncode == code, told
    assert "0 of 4 cells have ended and are kept. The same command goes on from here." in told
    assert "Traceback" not in told
    assert not _workers(tmp_path)
    assert not _records(tmp_path), "a cell that was cut short has not failed"
    assert not (tmp_path / ".lock").exists()


def test_a_worker_that_is_asked_to_stop_has_not_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a scheduler ends every process of a job."""
    script = tmp_path / "stopped"
    script.write_text("#!/bin/sh\nkill -TERM $$\n")
    script.chmod(0o755)
    (cell, *_) = missing(parse_spec(GRID), Results(tmp_path))
    monkeypatch.setattr(sys, "executable", str(script))
    (ended,) = run_local([cell], Results(tmp_path), tmp_path / "runs", 1)
    assert ended.error == "its process was stopped by SIGTERM"
    assert Results(tmp_path).read(cell.key) is None


@pytest.mark.parametrize(
    ("chosen", "gpus", "seen"),
    [
        (None, 2, ["0", "1", "0", "1"]),
        ("2,3", 2, ["2", "3", "2", "3"]),
        ("GPU-5d5ba0d6,1,-1,0", 2, ["GPU-5d5ba0d6", "1", "GPU-5d5ba0d6", "1"]),  # -1 and what follows it is not seen
        ("3", 0, ["3"] * 4),
    ],
)
def test_workers_share_the_cards_that_the_user_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str | None, gpus: int, seen: list[str]
) -> None:
    """They took those with the first numbers, which may be somebody else's."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    script = tmp_path / "worker"
    script.write_text('#!/bin/sh\necho "$CUDA_VISIBLE_DEVICES"\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    cells = parse_spec(GRID, check=False).cells()
    list(run_local(cells, Results(tmp_path), tmp_path / "runs", 4, gpus))
    assert [(tmp_path / "runs" / f"{cell.key}.log").read_text().strip() for cell in cells] == seen


@pytest.mark.usefixtures("ends")
def test_no_benchmark_writes_through_what_lies_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, diary = tmp_path / "benchmark", tmp_path / "diary.txt"
    (folder / "runs").mkdir(parents=True)
    (folder / "cells").mkdir()
    diary.write_text("kept")
    results = Results(folder)
    (cell, *_) = missing(parse_spec(GRID), results)
    script = tmp_path / "loud"
    script.write_text("#!/bin/sh\necho loud\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    log = folder / "runs" / f"{cell.key}.log"
    log.symlink_to(diary)
    list(run_local([cell], results, folder / "runs", 1))
    assert log.read_text() == "loud\n"
    record = folder / "cells" / f"{cell.key}.json"
    record.unlink()
    os.mkfifo(record)
    with pytest.raises(RunError, match="it is no file but a pipe"):
        results.read(cell.key)
    record.unlink()
    record.symlink_to(diary)
    with pytest.raises(EncoderError, match="no link inside a benchmark folder"):
        results.write(cell.failed("no luck"))
    (folder / "elsewhere").mkdir()
    (folder / "runs").rename(folder / "old")
    (folder / "runs").symlink_to(tmp_path)
    (folder / "SPEC.toml").write_text(GRID)
    with pytest.raises(EncoderError, match=f"{folder}/runs is a link to {tmp_path}"):
        benchmark(folder / "SPEC.toml", BenchmarkConfig(out=folder))
    assert diary.read_text() == "kept"


def test_what_a_killed_benchmark_left_half_written_is_swept(tmp_path: Path) -> None:
    (tmp_path / "SPEC.toml").write_text(GRID)
    (tmp_path / "cells").mkdir()
    left = [tmp_path / "cells" / ".a.json.4194999-5.part", tmp_path / ".references.json.4194999-5.part"]
    for path in left:
        path.write_text("{")
    benchmark(tmp_path / "SPEC.toml", BenchmarkConfig(out=tmp_path, trial=False, plan=True))
    assert not [path for path in left if path.exists()]
    assert not (tmp_path / ".lock").exists()


def _workers(folder: Path) -> list[str]:
    """Processes whose log lies in `folder`, as Linux tells them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            log = os.readlink(process / "fd" / "1")
        except OSError:
            continue
        if log.startswith(str(folder)):
            found.append(process.name)
    return found


def test_cells_that_cannot_count_are_named(tmp_path: Path) -> None:
    """An environment that crashes, a loss that is no number, and another encoder under the same name."""
    module = tmp_path / "planted.py"
    module.write_text(PLANTED)
    crash = '[[task]]\nenv = "planted:Crash-v0"\nlabel = "crash"\n'
    nan = '[[task]]\nenv = "planted:Nan-v0"\nlabel = "nan"\n'
    text = HEAD.replace("seeds = 2", "seeds = 1").replace('["noise"]', "[]") + crash + nan + RETINA
    (tmp_path / "SPEC.toml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        patch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
        words = ["benchmark", str(tmp_path / "SPEC.toml"), "--out", str(tmp_path), "--no-trial"]
        words += ["--trust", "planted:Crash-v0", "planted:Nan-v0"]
        assert cli.main(words) == 1
        errors = sorted(record["error"] for record in _records(tmp_path).values())
        assert errors[0].startswith("EnvFault: Nan-v0 broke its word in step 1 ")
        assert errors[1] == "RuntimeError: the planted game crashed"
        # Both stay failed until they are asked for again.
        spec = parse_spec(text, trust=Trust(("planted:Crash-v0", "planted:Nan-v0")))
        assert not missing(spec, Results(tmp_path))
        module.write_text(PLANTED.replace("CRASHES = True", "CRASHES = False"))
        assert cli.main([*words, "--retry"]) == 1
    states = {record["task"]: record["state"] for record in _records(tmp_path).values()}
    assert states == {"crash": "done", "nan": "failed"}
    told = (tmp_path / "report.md").read_text().replace("\\", "")
    (bad,) = [key for key, record in _records(tmp_path).items() if record["state"] == "failed"]
    assert bad in told
    assert errors[0].split(",")[0] in told


def test_a_cell_with_another_encoder_is_not_pooled(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    for name in ("SPEC.toml", "references.json"):
        (tmp_path / name).write_text((whole / name).read_text())
    for key, record in _records(whole).items():
        if record["role"] == "frozen" and record["seed"] == 1:
            record["pins"]["encoder_sha256"] = "0" * 64
        (tmp_path / "cells" / f"{key}.json").write_text(json.dumps(record))
    assert cli.main(["report", str(tmp_path)]) == 1
    told = (tmp_path / "report.md").read_text()
    assert "encoder" in told
    assert "0" * 20 in told
    assert cli.main(["report", str(whole), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "scores.md").read_bytes() == (whole / "scores.md").read_bytes()


PLANTED = """
import gymnasium as gym
import numpy as np

CRASHES = True


class Planted(gym.Env):
    metadata = {"render_modes": ["rgb_array"]}
    observation_space = gym.spaces.Box(0, 255, (48, 48, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, reward, render_mode=None):
        self.reward, self.render_mode, self.steps = reward, render_mode, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.render(), {}

    def step(self, action):
        self.steps += 1
        if self.reward == "crash" and CRASHES and self.steps > 20:
            raise RuntimeError("the planted game crashed")
        return self.render(), float("nan") if self.reward == "nan" else 1.0, self.steps % 5 == 0, False, {}

    def render(self):
        return np.full((48, 48, 3), self.steps % 256, np.uint8)


for name in ("Crash", "Nan"):
    gym.register(f"{name}-v0", entry_point=Planted, kwargs={"reward": name.lower()})
"""


def test_a_worker_that_dies_is_a_failed_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed for memory, say: no record is left by it, and the others go on."""
    (cell, *_) = missing(parse_spec(GRID), Results(tmp_path))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    (ended,) = run_local([cell], Results(tmp_path), tmp_path / "runs", 1)
    assert ended.state == "failed"
    assert ended.error == f"its process ended with exit code 1, see runs/{cell.key}.log"
    assert Results(tmp_path).read(cell.key) == ended


def test_two_benchmarks_do_not_work_in_one_folder(tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "SPEC.toml").write_text(GRID)
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="Another benchmark works in"):
            benchmark(tmp_path / "SPEC.toml", BenchmarkConfig(out=tmp_path))


def test_the_plan_is_told_and_nothing_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "SPEC.toml").write_text(GRID)
    words = [
        "benchmark",
        str(tmp_path / "SPEC.toml"),
        "--out",
        str(tmp_path / "grid"),
        "--no-trial",
        "--plan",
        "--jobs",
        "3",
    ]
    assert cli.main(words) == 0
    told = capsys.readouterr().out
    assert "4 to run now" in told
    assert "not known, 3 side by side; 4 of a kind that has not run yet" in told
    assert not (tmp_path / "grid" / "cells").exists()


@pytest.mark.parametrize(
    ("seeds", "told"), [(2, "verdict  none: 2 seeds, and it takes 5 or more. Type: seeds = 5"), (5, None)]
)
def test_the_plan_says_when_seeds_are_too_few(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seeds: int, told: str | None
) -> None:
    (tmp_path / "SPEC.toml").write_text(GRID.replace("seeds = 2", f"seeds = {seeds}"))
    words = ["benchmark", str(tmp_path / "SPEC.toml"), "--out", str(tmp_path / "grid"), "--no-trial", "--plan"]
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert (told in shown) if told else ("verdict" not in shown)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (
            ["--steps", "100"],
            "--steps 100 has no effect beside {path}, which says what is compared. Drop it, and type [rl] "
            "steps = ... there, or give no SPEC.toml.",
        ),
        (["--steps", "100_000"], "--steps 100000 has no effect beside"),  # what the default is, too
        (["--seeds", "5"], "--seeds 5 has no effect beside"),
        (["--env", "CartPole-v1"], "--env CartPole-v1 has no effect beside"),
        (["--encoder", "retina", "resnet18"], "--encoder retina resnet18 has no effect beside"),
        (["--tap", "stem"], "--tap stem has no effect beside"),
        (["--algo", "ppo"], "--algo ppo has no effect beside"),
        (["--shifts", "hue"], "--shifts hue has no effect beside"),
        (["--ray-address", "auto"], "--ray-address auto has no effect with --launcher local. Type --launcher ray"),
    ],
)
def test_flags_that_a_spec_replaces_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], told: str
) -> None:
    path = tmp_path / "SPEC.toml"
    path.write_text(GRID)
    assert cli.main(["benchmark", str(path), *flags, "--out", str(tmp_path / "grid"), "--plan", "--no-trial"]) == 2
    assert told.format(path=path) in capsys.readouterr().err
    assert not (tmp_path / "grid").exists()


def test_a_plan_leaves_what_has_run_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither is a failed cell forgotten, nor is another grid's SPEC.toml put in the place of the folder's."""
    (tmp_path / "SPEC.toml").write_text(GRID)
    folder = tmp_path / "grid"
    bad = missing(parse_spec(GRID), Results(folder))[0].failed("no luck")
    Results(folder).write(bad)
    (folder / "SPEC.toml").write_text("as it was")
    words = ["benchmark", str(tmp_path / "SPEC.toml"), "--out", str(folder), "--no-trial", "--plan"]
    assert cli.main([*words, "--retry"]) == 0
    assert "4 to run now" in capsys.readouterr().out
    assert cli.main(words) == 0
    told = capsys.readouterr().out
    assert "3 to run now" in told
    assert "1 before. Type --retry to run what failed again" in told
    assert Results(folder).read(bad.key) == bad
    assert (folder / "SPEC.toml").read_text() == "as it was"


def test_the_plan_knows_what_has_run(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "SPEC.toml").write_text(GRID.replace("seeds = 2", "seeds = 4"))
    words = ["benchmark", str(tmp_path / "SPEC.toml"), "--out", str(whole), "--plan", "--jobs", "1"]
    before = (whole / "SPEC.toml").read_text()
    assert cli.main(words) == 0
    (whole / "SPEC.toml").write_text(before)
    took = {record["arm"]: record["took"] for record in _records(whole).values()}
    told = capsys.readouterr().out
    assert "4 to run now" in told
    assert f"about {2 * sum(took.values()):.0f} s" in told or "min for 4" in told


@pytest.mark.parametrize(("before", "after", "joules"), [(1_000_000, 3_500_000, 2.5), (9_000_000, 500_000, 1.5)])
def test_joules_are_counted_over_the_counter_s_end(tmp_path: Path, before: int, after: int, joules: float) -> None:
    (tmp_path / "energy_uj").write_text(str(before))
    (tmp_path / "max_energy_range_uj").write_text("10000000")
    with meter(tmp_path) as spent:
        (tmp_path / "energy_uj").write_text(str(after))
        sum(range(100_000))
    assert spent["energy_joules"] == joules
    assert spent["cpu_seconds"] is not None
    assert spent["cpu_seconds"] > 0
    with meter(tmp_path / "none") as unknown:
        pass
    assert unknown["energy_joules"] is None


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"step": 64, "train/value_loss": float("nan")}, "train/value_loss is nan at step 64"),
        ({"epoch": 2, "loss": float("inf")}, "loss is inf at epoch 2"),
        ({"step": 64, "train/explained_variance": float("nan")}, None),
    ],
)
def test_a_loss_that_is_no_number_is_found(tmp_path: Path, row: dict[str, Any], told: str | None) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    if told is None:
        worker._refuse_not_finite(tmp_path)
        return
    with pytest.raises(RunError, match=told):
        worker._refuse_not_finite(tmp_path)


# Rates that are tuned over, with cells that are made up

TUNED = """
seeds = 2
tuning_seeds = 1
controls = []
[rl]
steps = 64
[[task]]
env = "stillsight/Orchard-v0"
[[arm]]
name = "tuned"
role = "finetune"
mode = "finetune"
encoder = "retina"
rates = [0.03, 0.3]
"""


def _finished(cell: Cell, score: float, **pins: object) -> Cell:
    pinned = {"encoder_lr": cell.planned_work().config.encoder_lr, **pins}
    return cell.done(Result(machine={}, pins=pinned, curve=(), scores={"clean": (score,)}, cost={}))


def _run_missing(spec: Spec, results: Results, scores: dict[float, float]) -> list[tuple[int, float]]:
    """Put down what is missing with the score of its rate, as `run` would; returns seeds and rates in their order."""
    told = []
    while cells := missing(spec, results):
        for cell in cells:
            rate = cell.planned_work().config.encoder_lr
            told.append((cell.seed, rate))
            results.write(_finished(cell, scores[rate]) if rate in scores else cell.failed("out of memory"))
    return told


@pytest.mark.parametrize(("tuned", "accuracy"), [(None, 0.25), (0.3, 0.75)])
def test_a_rate_of_a_classifier_is_chosen_by_the_validation_images(
    tuned: float | None, accuracy: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was chosen by the test images, on which the reported cells were then compared."""

    def trained(config: CifarConfig, _: Path | None) -> dict[str, Any]:
        assert config.out is not None
        config.out.mkdir(parents=True)
        (config.out / "metrics.jsonl").touch()
        return {
            **dict.fromkeys(("wall_seconds", "peak_memory_bytes", "trainable_parameters", "train_images"), 1),
            "validation_accuracy": 0.75,
            "test_accuracy": 0.25,
            "test_images": 4,
            "weights_sha256": "0",
        }

    monkeypatch.setattr(worker, "cifar", trained)
    asked = TUNED.replace("controls = []\n[rl]\nsteps = 64", "").replace("stillsight/Orchard-v0", "cifar10")
    spec = parse_spec(asked.replace("env =", "shots = 4\ndataset ="))
    planned = next(cell for cell in spec.all_cells() if cell.tuned == tuned)
    ended = worker.run_cell(planned, tmp_path)
    assert ended.result is not None, ended.error
    assert ended.result.scores == {"clean": (accuracy,)}
    assert ended.result.pins.get("scored_apart") == (None if tuned is None else True)


def _problems(grid: Grid) -> list[tuple[str, str]]:
    return [(problem.kind, problem.reason) for problem in grid.problems]


def test_cells_of_a_rate_that_is_no_longer_the_best_do_not_count_and_run_again(tmp_path: Path) -> None:
    """A key does not hold the rate: cells stayed at the one that won because the cell of the better one had failed."""
    spec, results = parse_spec(TUNED), Results(tmp_path)
    assert _run_missing(spec, results, {0.03: 1.0}) == [(1000, 0.03), (1000, 0.3), (0, 0.03), (1, 0.03)]
    assert _problems(collect(tmp_path, spec)) == [("failed", "out of memory")]
    (bad,) = failed(spec, results)
    results.write(_finished(bad, 5.0))
    grid = collect(tmp_path, spec)
    why = "encoder_lr is 0.03, and 0.3 scored best of those that were tried"
    assert _problems(grid) == [("at another rate", why)] * 2
    assert (grid.complete, grid.cells, grid.asked) == (False, (), 2)
    assert _run_missing(spec, results, {0.3: 5.0}) == [(0, 0.3), (1, 0.3)]
    grid = collect(tmp_path, spec)
    assert (grid.complete, grid.problems) == (True, ())
    assert [cell.result.pins["encoder_lr"] for cell in grid.cells if cell.result] == [0.3, 0.3]


def test_failed_seeds_of_an_arm_are_counted_beside_those_that_ended(tmp_path: Path) -> None:
    """Of those that choose a rate, or were run again and ended well, none counts."""
    spec, results = parse_spec(TUNED.replace("seeds = 2", "seeds = 3", 1)), Results(tmp_path)
    _run_missing(spec, results, {0.03: 1.0})
    reported = [cell for cell in spec.cells_after(results.read) if cell.tuned is None]
    results.write(reported[1].failed("RunError: train/loss is nan at step 32."))
    (arm,) = collect(tmp_path, spec).settings[0].arms
    assert ([cell.seed for cell in arm.cells], arm.failed) == ([0, 2], 1)
    (row,) = tables.scores(analyse(collect(tmp_path, spec), 10).settings[0][0]).rows
    assert row[2].text == "2, 1 failed"
    results.write(_finished(reported[1], 1.0))
    (arm,) = collect(tmp_path, spec).settings[0].arms
    assert (len(arm.cells), arm.failed) == (3, 0)


def test_more_tuning_seeds_may_choose_another_rate(tmp_path: Path) -> None:
    results = Results(tmp_path)
    _run_missing(parse_spec(TUNED), results, {0.03: 2.0, 0.3: 1.0})
    more = parse_spec(TUNED.replace("tuning_seeds = 1", "tuning_seeds = 2"))
    told = _run_missing(more, results, {0.03: 0.0, 0.3: 9.0})
    assert told == [(1001, 0.03), (1001, 0.3), (0, 0.3), (1, 0.3)]


def test_a_tuning_cell_that_learned_at_another_rate_chooses_none(tmp_path: Path) -> None:
    """Older versions let a shared encoder_lr stand in for the rate 1.0."""
    spec, results = parse_spec(TUNED), Results(tmp_path)
    _run_missing(spec, results, {0.03: 1.0, 0.3: 5.0})
    (_, other) = spec.tuning_cells()
    results.write(_finished(other, 0.0, encoder_lr=0.5))
    assert [cell.key for cell in missing(spec, results)] == [other.key]
    assert _problems(collect(tmp_path, spec)) == [
        ("at another rate", "encoder_lr is 0.5, and 0.3 is the one that it tries")
    ]


def test_tuning_cells_are_pooled_like_others(tmp_path: Path) -> None:
    """Those of an older SPEC.toml, or made otherwise, were averaged with the others in the table of rates."""
    spec, results = parse_spec(TUNED.replace("tuning_seeds = 1", "tuning_seeds = 2")), Results(tmp_path)
    _run_missing(spec, results, {0.03: 1.0, 0.3: 5.0})
    (old, *_) = parse_spec(TUNED.replace("steps = 64", "steps = 32")).tuning_cells()
    results.write(_finished(old, 1e6))
    results.write(_finished(spec.tuning_cells()[1], 2.0, head=64))
    grid = collect(tmp_path, spec)
    assert _problems(grid) == [
        ("mismatched", "head is 64, not None as in 3 of the 4 cells of tuned"),
        ("not asked for", "SPEC.toml does not ask for it"),
    ]
    assert [(tried.rate, tried.seeds, tried.mean) for tried in analyse(grid, 10).rates] == [
        (0.03, 1, 1.0),
        (0.3, 2, 5.0),
    ]


def test_what_a_spec_no_longer_asks_for_fails_no_benchmark(tmp_path: Path) -> None:
    """A failed cell of an older SPEC.toml ended every report with exit code 1, and --retry never ran it."""
    spec, results = parse_spec(TUNED), Results(tmp_path)
    _run_missing(spec, results, {0.03: 1.0, 0.3: 5.0})
    (old, *_) = parse_spec(TUNED.replace("steps = 64", "steps = 32")).tuning_cells()
    results.write(old.failed("out of memory"))
    grid = collect(tmp_path, spec)
    assert ([kind for kind, _ in _problems(grid)], grid.complete) == (["not asked for"], True)


def test_what_lies_at_an_address_is_what_a_report_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Failed tuning cells stayed behind there, and so did what no longer lay there stay in the report."""
    spec, results, here = parse_spec(TUNED), Results(f"memory://{tmp_path.name}"), Results(tmp_path)
    _run_missing(spec, here, {0.03: 1.0, 0.3: 5.0})
    _run_missing(spec, results, {0.03: 1.0})
    gone = spec.reported()[1]
    results.remove(gone)
    _fetch(results, spec, here, ProgressDisplay())
    grid = collect(tmp_path, spec)
    assert _problems(grid) == [("failed", "out of memory"), ("missing", "it was not run yet")]
    assert [(cell.seed, cell.score) for cell in grid.cells] == [(0, 1.0)]
    assert [cell.tuned for cell in grid.tuning] == [0.03]
    kept = tmp_path / "cells" / f"{gone}.json.aside1"
    assert json.loads(kept.read_text())["scores"] == {"clean": [5.0]}
    told = f"{gone} has no record at memory://{tmp_path.name}, so that of {tmp_path} does not count. It is kept as "
    assert capsys.readouterr().out == f"{told}cells/{kept.name}.\n"
