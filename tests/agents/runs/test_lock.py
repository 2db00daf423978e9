"""One writer in a folder: the second is told who the first is, and a dead one keeps nobody out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stillsight.agents import RlConfig, rl
from stillsight.agents.cli import main
from stillsight.agents.errors import RunError
from stillsight.agents.runs.folder import Run
from stillsight.agents.runs.lock import LOCK_FILE, Lock, LockedError
from stillsight.agents.runs.reader import is_unbegun, read_config

Tiny = Callable[..., RlConfig]

HOLDER = """
import sys, time
from pathlib import Path
from stillsight.agents.runs.folder import Run

with Run(Path(sys.argv[1]), "rl", {"number": 1}) as run:
    run.card("title", {})
    print("there", flush=True)
    time.sleep(120)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has begun a run in tmp_path/run and does not end it."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while "there" not in process.stdout.readline():
        assert process.poll() is None
    yield process
    process.kill()
    process.wait()


def test_the_second_writer_is_told_who_the_first_is(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    folder = tmp_path / "run"
    sentence = rf"Another run works in {folder}: process {holder.pid} on .*, since .*Stop it with: kill {holder.pid}\."
    with pytest.raises(RunError, match=sentence), Run(folder, "rl", {"number": 1}, resumed=True):
        pytest.fail("two writers")
    with pytest.raises(RunError, match=sentence):
        Run(folder, "rl", {"number": 1})
    with Run(folder, "rl", {"number": 1}, counted=True) as run:
        run.card("title", {})
        assert run.folder == tmp_path / "run-2"
    assert json.loads((folder / LOCK_FILE).read_text())["pid"] == holder.pid, "who asked has changed nothing"


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    folder = tmp_path / "run"
    assert (folder / LOCK_FILE).exists()
    with Run(folder, "rl", {"number": 1}, resumed=True) as run:
        run.card("title", {})
        assert json.loads((folder / LOCK_FILE).read_text())["pid"] == os.getpid()
    assert (folder / "done").exists()
    assert not (folder / LOCK_FILE).exists()


def test_resume_beside_a_running_training_is_one_sentence(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (trained / "done").unlink()
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()}
    lock = Lock(trained)
    lock.take()
    assert main(["rl", "--resume", str(trained)]) == 2
    assert f"Another run works in {trained}: process {os.getpid()} on" in capsys.readouterr().err
    # Who reads goes in and out.
    assert main(["evaluate", str(trained), "--episodes", "1"]) == 0
    assert main(["list", "runs", "--folder", str(trained.parent)]) == 0
    lock.give_back()
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_two_that_resume_at_once_are_one(trained: Path) -> None:
    (trained / "done").unlink()
    refused, ended = [], []

    def go_on() -> None:
        try:
            with Run(trained, "rl", {}, resumed=True):
                started.wait(5)
                ended.append(1)
        except LockedError as error:
            refused.append(error)
            started.set()

    started = threading.Event()
    both = [threading.Thread(target=go_on) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert (len(refused), len(ended)) == (1, 1)


def test_nothing_is_leaked_by_locks(tmp_path: Path) -> None:
    def handles() -> int:
        return len(os.listdir("/proc/self/fd"))

    Lock(tmp_path).take()  # and collected
    before, threads = handles(), threading.active_count()
    for _ in range(50):
        lock = Lock(tmp_path)
        lock.take()
        lock.take()
        with pytest.raises(LockedError):
            Lock(tmp_path).take()
        with pytest.raises(LockedError):
            Lock(tmp_path).check()
        lock.give_back()
        lock.give_back()
        Lock(tmp_path).check()
    assert handles() <= before
    assert threading.active_count() == threads
    assert not (tmp_path / LOCK_FILE).exists()


def test_a_lock_file_that_is_no_ours_is_not_believed(tmp_path: Path) -> None:
    import fcntl

    for text in ("", "[1]", '{"pid": 1}', "\x00\x01"):
        (tmp_path / LOCK_FILE).write_text(text)
        with (tmp_path / LOCK_FILE).open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with pytest.raises(LockedError, match=rf"another process\. Wait.*remove {tmp_path}/\.lock\."):
                Lock(tmp_path).take()


def test_a_folder_that_may_not_be_written_is_one_sentence(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Lock) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Lock, "take", refuse)
    with (
        pytest.raises(RunError, match=r"cannot be written \(.*Permission denied\)"),
        Run(trained, "rl", {}, resumed=True),
    ):
        pytest.fail("no")


def test_a_run_that_was_stopped_before_its_config_is_begun_anew(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / LOCK_FILE).write_text("{}")
    (folder / ".config.12345678-1-1.part.json").write_text("{")
    assert is_unbegun(folder)
    with pytest.raises(RunError, match=rf"has no config\.json\. If a run was stopped.*--out {folder}, without"):
        rl(RlConfig(resume=folder))
    rl(tiny("ppo", steps=32, out=folder))
    assert (folder / "done").exists()
    assert not list(folder.glob(".*"))
    assert read_config(folder)["steps"] == 32


def test_whatever_else_lies_in_a_folder_makes_it_somebodys(tmp_path: Path) -> None:
    for name in ("notes.txt", ".hidden", "checkpoints/last.safetensors"):
        folder = tmp_path / name.replace("/", "-")
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("mine")
        assert not is_unbegun(folder)
        with pytest.raises(RunError, match="already exists, and holds no run"):
            Run(folder, "rl", {})
    assert not is_unbegun(tmp_path / "nowhere")


@pytest.mark.usefixtures("ends")
def test_a_lock_that_is_no_plain_file_is_one_sentence(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (trained / "done").unlink()
    os.mkfifo(trained / LOCK_FILE)
    assert main(["rl", "--resume", str(trained), "--steps", "200"]) == 2
    assert f"{trained}/.lock is no place in {trained}" in capsys.readouterr().err
    (trained / LOCK_FILE).unlink()
    (trained / LOCK_FILE).symlink_to("/dev/zero")
    assert main(["rl", "--resume", str(trained), "--steps", "200"]) == 2
    assert f"{trained}/.lock is a link to /dev/zero" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no link inside a benchmark folder"):
        Lock(trained, "benchmark").check()


def test_no_more_of_a_lock_is_read_than_ours_can_have(tmp_path: Path) -> None:
    import fcntl

    holder = {"pid": 1, "host": "x" * 10_000, "since": "ever"}
    (tmp_path / LOCK_FILE).write_text(json.dumps(holder))
    with (tmp_path / LOCK_FILE).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(LockedError, match="another process"):
            Lock(tmp_path).take()
