"""The harness at small counts: each part runs, goes on where it was stopped, and sees faults that are there."""

from __future__ import annotations

import errno
import json
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not shutil.which("cc"), reason="needs Linux and a C compiler"
)


def rows(folder: Path, part: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{part}.jsonl").read_text().splitlines()]


def harness(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    words = (*words, "--out", str(folder))
    return subprocess.run([sys.executable, str(HERE / "run.py"), *words], capture_output=True, text=True)


@pytest.fixture(scope="module")
def tools() -> Any:
    """The harness's modules, imported as its own processes import them."""
    sys.path.insert(0, str(HERE))
    try:
        import children
        import compare
        import jobs
        import mutate
        import soak
        import writes

        yield {"children": children, "compare": compare, "jobs": jobs, "mutate": mutate, "soak": soak, "writes": writes}
    finally:
        sys.path.remove(str(HERE))


def test_every_write_fails_once_before_any_fails_twice(tools: Any) -> None:
    trial, errors = tools["writes"].Trial, ((28, False), (5, False), (13, False), (24, False), (28, True))
    places = [[trial("ppo", at, "write run/a", how, lasting) for how, lasting in errors] for at in range(200)]
    trials = tools["writes"].drawn(places, random.Random(0))
    assert sorted(trials) == sorted(one for ways in places for one in ways)
    for first in range(0, 1000, 200):
        each = trials[first : first + 200]
        assert {one.at for one in each} == set(range(200))
        assert Counter((one.how, one.lasting) for one in each) == dict.fromkeys(errors, 40)
    assert [one.at for one in trials[:200]] != list(range(200))


@pytest.mark.slow
def test_an_operation_is_refused_once_in_whatever_writes(tools: Any, tmp_path: Path) -> None:
    """Python, and Rust below it, meet the same refusal; the operation after it goes through."""
    children = tools["children"]
    watched = tmp_path / "watched"
    watched.mkdir()
    program = (
        "import os, pathlib, torch; from safetensors.torch import save_file\n"
        f"place = pathlib.Path({str(watched)!r})\n"
        "writes = {'a': lambda path: path.write_text('x'), 'b': lambda path: save_file({'w': torch.ones(9)}, path)}\n"
        "for name, write in writes.items():\n"
        "    try: write(place / name)\n"
        "    except Exception as error: print(name, type(error).__name__, getattr(error, 'errno', None), flush=True)\n"
    )
    with children.Server(tmp_path / "server") as server:
        words = ["-c", program]
        whole = server.run(words, folder=tmp_path, under=[watched], noted=True)
        assert (whole.code, whole.out) == (0, "")
        assert [what for what, _ in whole.operations][:3] == ["open", "write", "close"]
        assert whole.count > 5
        for at, said in ((1, "a OSError 28\n"), (2, "a OSError 28\n"), (4, "b SafetensorError None\n")):
            refused = server.run(words, folder=tmp_path, under=[watched], refusal=children.Refusal(at, errno.ENOSPC))
            assert refused.out == said, at
        lasting = children.Refusal(1, errno.ENOSPC, lasting=True)
        assert server.run(words, folder=tmp_path, under=[watched], refusal=lasting).out.count("Error") == 2
        killed = server.run(words, folder=tmp_path, under=[watched], refusal=children.Refusal(2, children.KILL))
        assert killed.code == -9
        assert killed.count == 2


@pytest.mark.slow
def test_what_a_child_leaves_behind_is_seen(tools: Any, tmp_path: Path) -> None:
    program = (
        "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], "
        "start_new_session=True)"
    )
    children = tools["children"]
    with children.Server(tmp_path / "server", refusing=False) as server:
        began = server.run(["-c", program], folder=tmp_path)
        assert len(began.orphans) == 1
        assert "time.sleep(60)" in began.orphans[0]
        limited = server.run(["-c", "x = bytearray(1 << 33)"], folder=tmp_path, memory=1 << 30)
        assert limited.traceback
        assert "MemoryError" in limited.error
        assert server.run(["-c", "while True: pass"], folder=tmp_path, seconds=1).code == -24


def test_every_mutation_changes_the_file(tools: Any) -> None:
    import random

    text = json.dumps({"command": "rl", "steps": 3, "set": ["a=1"], "nested": {"env": "x/Y-v0"}}).encode()
    toml = b'name = "x"\nseeds = 2\n[rl]\nsteps = 3\n[[task]]\nenv = "x/Y-v0"\n'
    seen = set()
    for kind, content in (("json", text), ("lines", text + b"\n" + text + b"\n"), ("toml", toml), ("bytes", text)):
        for number in range(300):
            what, changed = tools["mutate"].mutant(content, kind, random.Random(number))
            again = tools["mutate"].mutant(content, kind, random.Random(number))
            assert changed != content
            assert (what, changed) == again, "one seed, one mutant"
            seen.add(what.split(" at ")[0])
    assert {"planted", "odd", "removed", "added", "nested", "bits flipped", "cut", "a bomb of brackets"} <= seen


def test_faults_of_a_run_folder_are_seen(tools: Any, tmp_path: Path) -> None:
    compare = tools["compare"]
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / "eval.jsonl").write_text('{"step": 1, "mean": 2}\n{"step": 2, "mean": 3}\n')
        (folder / "summary.json").write_text('{"mean": 2, "wall_seconds": 3}')
    assert compare.rows_once(one) == compare.left_over(one, other) == compare.differences(one, other) == []
    (one / "summary.json").write_text('{"mean": 2, "wall_seconds": 4}')
    assert compare.differences(one, other) == []
    (one / "summary.json").write_text('{"mean": 3, "wall_seconds": 4}')
    assert compare.differences(one, other) == ["differs: summary.json"]
    (one / ".eval.part.jsonl").touch()
    (other / "done").touch()
    assert compare.left_over(one, other) == ["left over: .eval.part.jsonl", "missing: done"]
    (one / "eval.jsonl").write_text('{"step": 2}\n{"step": 1}\n{"step": 1}\n{"st')
    assert compare.rows_once(one) == [
        "eval.jsonl: a row is no JSON",
        "eval.jsonl: steps go back",
        "eval.jsonl: a step stands there twice",
    ]


def test_growth_is_told_from_noise(tools: Any) -> None:
    import random

    soak = tools["soak"]
    draw = random.Random(0)
    times = [6.0 * number for number in range(480)]  # 48 minutes
    noise = [draw.gauss(5e8, 1e6) for _ in times]
    hours = times[-1] / 3600
    assert soak.slope(times, noise).verdict(16e6, 4e6, hours) == "flat"
    leaking = [value + 1e8 * time / 3600 for value, time in zip(noise, times, strict=True)]
    line = soak.slope(times, leaking)
    assert line.verdict(16e6, 4e6, hours) == "growing"
    assert abs(line.per_hour - 1e8) < 3 * line.spread < 1e7
    assert soak.slope(times[:30], noise[:30]).verdict(16e6, 4e6, times[29] / 3600) == "not known"


@pytest.mark.slow
def test_each_part_runs_and_goes_on_where_it_was(tmp_path: Path) -> None:
    """What is found depends on the product; that each trial is done once, and told, does not."""
    for part, words in (
        ("kills", ("--count", "2", "--only", "ppo", "cifar, frozen")),
        ("writes", ("--count", "4", "--only", "ppo", "evaluate")),
        ("mutations", ("--count", "12", "--jobs", "1")),
        ("beside", ("--count", "1")),
        ("soak", ("--minutes", "0.4", "--only", "ppo")),
    ):
        first = harness(tmp_path, part, *words)
        assert first.returncode in (0, 1), first.stderr
        done = rows(tmp_path, part)
        assert done
        assert all(isinstance(row["faults"], list) for row in done)
        again = harness(tmp_path, part, *words)
        assert rows(tmp_path, part) == done
        assert again.returncode == first.returncode
    page = (tmp_path / "reliability.md").read_text()
    for title in ("Killed, and gone on with", "Writes that are refused", "Damaged and hostile files", "Two at once"):
        assert f"## {title}" in page
    told = json.loads((tmp_path / "reliability.json").read_text())["parts"]
    assert told["kills"]["jobs"]["ppo"]["runs"] == 1
    assert sum(kind["mutants"] for kind in told["mutations"]["kinds"].values()) == 12
    for name, wanted in (("code run", 0), ("hang", 0), ("killed", 0)):
        assert sum(kind.get(name, 0) for kind in told["mutations"]["kinds"].values()) == wanted


def test_what_was_mistyped_is_said(tmp_path: Path) -> None:
    wrong = harness(tmp_path, "kill")
    assert wrong.returncode == 2
    assert "there is no part named 'kill'; parts are kills, writes, mutations, beside, soak" in wrong.stderr
    wrong = harness(tmp_path, "kills", "--only", "pppo")
    assert "there is no job named 'pppo'; jobs are " in wrong.stderr
