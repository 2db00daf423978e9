"""What is written into a run folder stays in it: no link in there is followed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from stillsight.agents.cli import main
from stillsight.agents.errors import RunError
from stillsight.agents.runs.folder import Run
from stillsight.agents.runs.place import place
from stillsight.agents.runs.records import append_line, read_lines


def test_a_place_is_below_the_folder_and_no_link(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    assert place(folder, "checkpoints", "last.safetensors") == folder / "checkpoints" / "last.safetensors"
    assert place(folder, "done") == folder / "done"
    (tmp_path / "elsewhere").symlink_to(folder)  # the folder itself may lie on another disk
    assert place(tmp_path / "elsewhere", "done") == tmp_path / "elsewhere" / "done"
    (folder / "videos").symlink_to(tmp_path)
    (folder / "dangling").symlink_to(tmp_path / "new")
    for parts in (("videos",), ("videos", "a.mp4"), ("dangling",)):
        with pytest.raises(RunError, match=r"is a link to .*, and stillsight writes through no link .* Remove it\."):
            place(folder, *parts)
    os.mkfifo(folder / "metrics.jsonl")
    for parts in (("..", "a"), ("/etc/passwd",), ("metrics.jsonl",)):
        with pytest.raises(RunError, match="is no place in"):
            place(folder, *parts)


def test_no_write_of_a_run_follows_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "bashrc").write_text("kept\n")
    folder = tmp_path / "run"
    run = Run(folder, "rl", {"seed": 0})
    with run:
        run.card("a run", {})
        for name in ("metrics.jsonl", "summary.json", "eval.jsonl", "tensorboard"):
            (folder / name).symlink_to(outside / "bashrc")
        (folder / "checkpoints").rmdir()
        (folder / "checkpoints").symlink_to(outside)
        for write in (
            lambda: run.log("metrics", {"step": 1}),
            lambda: run.write_json("summary.json", {}),
            lambda: run.rewind(0),
            lambda: run.save("last", {"step": 1}),
        ):
            with pytest.raises(RunError, match="writes through no link inside a run folder"):
                write()
        (folder / "done").symlink_to(outside / "made")
        with pytest.raises(RunError, match=f"{folder}/done is a link to {outside}/made"):
            run.__exit__(None, None, None)
        (folder / "done").unlink()
    assert (outside / "bashrc").read_text() == "kept\n"
    assert [path.name for path in outside.iterdir()] == ["bashrc"]


@pytest.mark.parametrize("name", ["summary.json", "eval.jsonl", "checkpoints/best.safetensors", "done"])
def test_a_pipe_is_said_before_anything_is_learned(
    trained: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (trained / name).unlink()
    os.mkfifo(trained / name)
    assert main(["rl", "--resume", str(trained), "--steps", "200"]) == 2
    said = capsys.readouterr()
    assert f"{trained / name} is no place in {trained} that can be written to" in said.err
    assert "step" not in said.out
    assert not (trained / ".lock").exists()


def test_files_of_others_in_the_folder_are_not_opened(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with Run(folder, "rl", {"seed": 0}) as run:
        run.card("a run", {})
        run.log("metrics", {"step": 1})
        os.mkfifo(folder / "notes.jsonl")
        run.save("last", {"step": 1})  # it would wait for whoever writes into the pipe
    assert (folder / "done").exists()


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_a_lock_that_is_no_file_is_said(trained: Path, kind: str) -> None:
    lock = trained / ".lock"
    os.mkfifo(lock) if kind == "pipe" else lock.symlink_to("/dev/zero")
    told = rf"\.lock is a {kind}, .*and no file\. Remove it"
    with pytest.raises(RunError, match=told), Run(trained, "rl", {}, resumed=True):
        pass


def test_a_row_is_not_written_into_another_name_of_the_file(tmp_path: Path) -> None:
    """`cp -al` makes copies of a folder that are hard links: a run that goes on in one leaves the other as it is."""
    path, copy = tmp_path / "notes.jsonl", tmp_path / "copy.jsonl"
    append_line(path, {"step": 1})
    os.link(path, copy)
    append_line(path, {"step": 2})
    append_line(path, {"step": 3})
    assert [row["step"] for row in read_lines(path)] == [1, 2, 3]
    assert [row["step"] for row in read_lines(copy)] == [1]


@pytest.mark.parametrize(
    ("command", "linked"),
    [("evaluate", "evaluations.jsonl"), ("record", "videos"), ("rl --resume", "checkpoints"), ("rl --resume", "done")],
)
def test_no_command_follows_a_link(
    trained: Path, command: str, linked: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    place = trained / linked
    if linked == "checkpoints":
        place.rename(outside / "checkpoints")
        place.symlink_to(outside / "checkpoints")
    else:
        place.unlink(missing_ok=True)
        place.symlink_to(outside / linked)
    if command.startswith("rl"):
        (trained / "done").unlink(missing_ok=linked != "done")
        if linked == "done":
            place.symlink_to(outside / linked)
        config = json.loads((trained / "config.json").read_text())
        (trained / "config.json").write_text(json.dumps(config | {"steps": 200}))
    before = sorted((path, path.stat().st_mtime_ns) for path in outside.rglob("*"))
    words = [] if command.startswith("rl") else ["--episodes", "1", "--device", "cpu"]
    assert main([*command.split(), str(trained), *words]) == 2
    assert "writes through no link inside a run folder" in capsys.readouterr().err
    assert sorted((path, path.stat().st_mtime_ns) for path in outside.rglob("*")) == before
