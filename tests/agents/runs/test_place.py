"""What is written into a run folder stays in it: no link in there is followed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from stillsight.agents.cli import main
from stillsight.agents.errors import RunError
from stillsight.agents.playing import play as playing
from stillsight.agents.runs.folder import Run
from stillsight.agents.runs.place import place
from stillsight.agents.training import learn as training
from stillsight.agents.training.continuing.ancestor import ancestor_sha256


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


IN_THE_WAY = (
    *("summary.json", "done", "config.json", "machine.json", "spaces.json", "metrics.jsonl", "eval.jsonl"),
    *(f"checkpoints/{name}.safetensors" for name in ("best", "last", "encoder", "step-100", "replay-96")),
)


@pytest.mark.usefixtures("ends")
def test_what_is_in_the_way_is_found_before_training(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def learn(*_: object, **__: object) -> None:
        pytest.fail("training began")

    monkeypatch.setattr(training, "learn", learn)
    again = ["rl", "--resume", str(trained), "--steps", "200"]
    for name in IN_THE_WAY:
        path, kept = trained / name, trained / "kept"
        if path.exists():
            path.rename(kept)
        for lay in (os.mkfifo, os.mkdir):
            lay(path)
            assert main(again) == 2, name
            if name != "config.json":  # which is read first
                assert f"{path} is no place" in capsys.readouterr().err
            path.unlink() if lay is os.mkfifo else path.rmdir()
        if kept.exists():
            kept.rename(path)
    (trained / "tensorboard").write_text("a file")
    assert main(again) == 2
    assert "tensorboard is no place that can be written to: it is a file, and a run" in capsys.readouterr().err


@pytest.mark.usefixtures("ends")
def test_what_the_run_does_not_write_is_nobodys_concern(trained: Path) -> None:
    os.mkfifo(trained / "notes.jsonl")
    (trained / "notes").symlink_to(trained.parent)
    assert main(["rl", "--resume", str(trained), "--steps", "200"]) == 0
    assert (trained / "done").exists()


@pytest.mark.usefixtures("ends")
def test_results_are_played_only_where_they_can_be_kept(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(playing, "play_seeds", lambda *_, **__: pytest.fail("it was played"))
    os.mkfifo(trained / "evaluations.jsonl")
    assert main(["evaluate", str(trained), "--episodes", "1", "--device", "cpu"]) == 2
    assert "evaluations.jsonl is no place in" in capsys.readouterr().err


@pytest.mark.usefixtures("ends")
def test_a_policy_is_not_waited_for(trained: Path) -> None:
    best = trained / "checkpoints" / "best.safetensors"
    best.unlink(missing_ok=True)
    os.mkfifo(best)
    with pytest.raises(RunError, match=rf"--from {trained}: its checkpoint {best} cannot be read \(it is no file"):
        ancestor_sha256(trained, "best")


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
