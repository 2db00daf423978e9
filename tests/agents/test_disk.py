"""A disk that refuses a file is one sentence and exit code 1; what was there before is kept, results are printed."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillsight.agents import RlConfig, cli, rl
from stillsight.agents.errors import RunError
from stillsight.agents.playing.film import film
from stillsight.agents.playing.play_config import EvaluateConfig
from stillsight.agents.runs import folder as run_folder
from stillsight.agents.runs import records
from stillsight.agents.runs.records import append_line
from stillsight.encoders.atomic import replacing, write_atomically, writing
from stillsight.encoders.engines import engine_cache
from stillsight.encoders.errors import CAUSES, DiskFault, refused, say_once

Tiny = Callable[..., RlConfig]


@pytest.fixture(autouse=True)
def _once() -> None:
    say_once.cache_clear()


def refuse(monkeypatch: pytest.MonkeyPatch, number: int, ending: str) -> None:
    """Let every file whose name ends so be refused when it is opened to be written."""
    opened, appended = Path.open, records.open_plain

    def check(path: Path, mode: str) -> None:
        if path.name.endswith(ending) and mode[0] in "wax":
            raise OSError(number, os.strerror(number), str(path))

    def open_(path: Path, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        check(path, mode)
        return opened(path, mode, *arguments, **named)

    def open_plain(path: Path, mode: Any = "rb") -> Any:
        check(path, mode)
        return appended(path, mode)

    monkeypatch.setattr(Path, "open", open_)
    monkeypatch.setattr(records, "open_plain", open_plain)


@pytest.mark.parametrize("number", sorted(CAUSES))
def test_each_cause_says_which_file_why_and_what_to_do(tmp_path: Path, number: int) -> None:
    path = tmp_path / "rows.jsonl"
    with pytest.raises(DiskFault) as caught, writing(path):
        raise OSError(number, os.strerror(number), "somewhere else")
    cause, remedy = CAUSES[number]
    assert str(caught.value) == f"{path} cannot be written: {cause}. {remedy}. What was written before is kept."
    assert caught.value.errno == number
    assert refused(caught.value) == str(caught.value)


def test_a_row_that_did_not_fit_leaves_no_half_of_it(tmp_path: Path) -> None:
    """A real limit: the largest size of a file, in a process of its own."""
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from stillsight.agents.runs.records import append_line\n"
        "path = Path(sys.argv[1])\n"
        "append_line(path, {'step': 1})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5,) * 2)\n"
        "try:\n    append_line(path, {'step': 2})\nexcept OSError as error:\n    print(error)\n"
    )
    path = tmp_path / "eval.jsonl"
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{path} cannot be written: it would be larger than a file may be here (ulimit -f).")
    assert path.read_text() == '{"step": 1}\n'
    append_line(path, {"step": 3})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 3]


def test_a_file_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary.json"
    write_atomically(path, "old")

    def refuse(*_: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(DiskFault, match="its disk reports an error"), replacing(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]


@pytest.mark.parametrize("name", ["metrics.jsonl", "episodes.jsonl", "eval.jsonl"])
def test_rows_that_are_refused_end_a_run_with_a_sentence_and_the_way_on(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    config = tiny("ppo", steps=96, checkpoint_every=32, eval_every=64, out=tmp_path / "run")
    kept = run_folder.append_line
    rows = []

    def append(path: Path, row: Any) -> None:
        rows.append(path.name)
        if rows.count(name) == 3 or (path.name == name == "eval.jsonl"):
            with writing(path):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        kept(path, row)

    monkeypatch.setattr(run_folder, "append_line", append)
    with pytest.raises(DiskFault) as caught:
        rl(config)
    last = tmp_path / "run" / "checkpoints" / "last.safetensors"
    assert last.exists()
    assert str(caught.value) == (
        f"{tmp_path / 'run' / name} cannot be written: its disk is full. Make room there. Its last checkpoint, {last}, "
        f"is kept: go on with: stillsight rl --resume {tmp_path / 'run'}"
    )
    assert not (tmp_path / "run" / "done").exists()
    monkeypatch.setattr(run_folder, "append_line", kept)
    rl(RlConfig(resume=tmp_path / "run"))
    assert (tmp_path / "run" / "done").exists()


def test_a_run_that_cannot_say_what_it_is_leaves_nothing_behind(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        refuse(patched, errno.EDQUOT, ".json")
        with pytest.raises(DiskFault, match=r"config\.json cannot be written: your quota.* No run was begun\.$"):
            rl(tiny("ppo", steps=32, out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    rl(tiny("ppo", steps=32, out=tmp_path / "run"))


def test_a_replay_memory_that_no_checkpoint_names_does_not_stay(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = run_folder.checkpoint.save

    def save(path: Path, *arguments: Any) -> None:
        if path.stem == "last":
            raise DiskFault(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        saved(path, *arguments)

    monkeypatch.setattr(run_folder.checkpoint, "save", save)
    with pytest.raises(DiskFault, match=r"No checkpoint was saved yet: begin again with: stillsight rl --resume "):
        rl(tiny("dqn", steps=64, out=tmp_path / "run"))
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_an_evaluation_that_cannot_be_kept_was_printed(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["evaluate", str(trained), "--episodes", "1", "--random-episodes", "0", "--json", "--device", "cpu"]
    with monkeypatch.context() as patched:
        refuse(patched, errno.EROFS, "evaluations.jsonl")
        assert cli.main(words) == 1
    captured = capsys.readouterr()
    assert len(json.loads(captured.out)["returns"]) == 1
    assert captured.err.splitlines()[-1] == (
        f"stillsight: {trained / 'evaluations.jsonl'} cannot be written: its disk can only be read. Take a folder on "
        "another disk. The result stands above; to keep it elsewhere, type --out FOLDER."
    )
    assert cli.main([*words, "--out", str(tmp_path / "mine" / "here")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "mine" / "here" / "evaluations.jsonl").read_text()) == printed
    assert not (trained / "evaluations.jsonl").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"--out .*file is a file\. Type a folder; evaluations\.jsonl is a file in it\."):
        EvaluateConfig(out=tmp_path / "file").check()


def test_films_that_cannot_be_kept_are_a_sentence(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse(monkeypatch, errno.EACCES, ".json")
    assert cli.main(["record", str(trained), "--device", "cpu"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"stillsight: {trained / 'videos'}/best-step-")
    assert said.endswith(
        ".json cannot be written: you may not do that there. Make the folder yours (chmod u+rwx), or take another. "
        "Films can go elsewhere: --out FOLDER."
    )


def test_a_film_that_does_not_fit_is_no_film(tmp_path: Path) -> None:
    """A real limit, which ffmpeg inherits; its exit code never reaches us."""
    program = (
        "import resource, sys; from pathlib import Path; import numpy as np\n"
        "from stillsight.agents.playing.film import film\n"
        "draw = np.random.default_rng(0)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "try:\n"
        "    with film(Path(sys.argv[1]), 30) as shot:\n"
        "        for _ in range(60): shot.append(draw.integers(0, 256, (256, 256, 3), dtype=np.uint8))\n"
        "except OSError as error:\n    print(error)\n"
    )
    path = tmp_path / "film.mp4"
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{path} cannot be written: ffmpeg "), done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_film_has_the_frames_that_it_was_given(tmp_path: Path) -> None:
    import imageio_ffmpeg
    import numpy as np

    with film(tmp_path / "film.mp4", 7) as shot:
        for grey in range(5):
            shot.append(np.full((16, 16, 3), 40 * grey, np.uint8))
    assert imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "film.mp4"))[0] == 5


def test_an_engine_cache_that_cannot_be_written_costs_time_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for name in ("folded", "compiled"):
        engine_cache.remember("key", {name: 0.01})
    (said,) = capsys.readouterr().err.splitlines()
    place = tmp_path / "file" / "stillsight" / "engines.json"
    assert said == (
        f"stillsight: timings of engines could not be kept in {place} (a part "
        "of its path is no folder): the next run measures again."
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("words", [["list", "algos"], ["--version"]], ids=["printed at once", "printed at the end"])
def test_output_on_a_full_disk_is_no_success(words: list[str]) -> None:
    program = f"import sys; from stillsight.agents.cli import main; sys.exit(main({words}))"
    with open("/dev/full", "w") as full:
        buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True, env=buffered
        )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "stillsight: A file, or the standard output, cannot be read or written: its disk is full. Make room there."
    ]


def test_whatever_the_system_refuses_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(tmp_path / "some.py"))

    monkeypatch.setattr(cli, "_run", broken)
    assert cli.main(["rl"]) == 1
    assert capsys.readouterr().err == (
        f"stillsight: {tmp_path / 'some.py'} cannot be read or written: this process has too many files open (ulimit "
        "-n). Type before the command: ulimit -n 4096.\n"
    )
