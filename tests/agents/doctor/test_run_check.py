"""The doctor on run folders: whole ones are ok, and each kind of damage is named with what to type."""

from __future__ import annotations

import fcntl
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stillsight.agents import RlConfig, rl
from stillsight.agents.cli import main
from stillsight.agents.doctor.outcome import Outcome
from stillsight.agents.doctor.run_check import check_run
from stillsight.agents.runs import checkpoint


def not_ok(run: Path) -> list[Outcome]:
    return [outcome for outcome in check_run(run) if outcome.state != "ok"]


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_whole_run_is_ok(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not not_ok(trained)
    assert main(["doctor", str(trained)]) == 0
    told = capsys.readouterr().out
    assert told.endswith(f"{trained} is whole.\n")
    for check in ("config.json", "machine.json", "spaces.json", "metrics.jsonl", "eval.jsonl", "summary.json"):
        assert f"ok     {check}: " in told
    assert "ok     checkpoints/best.safetensors: whole" in told


def test_a_replay_memory_is_checked_with_the_rest(tiny: Callable[..., RlConfig], tmp_path: Path) -> None:
    run = tmp_path / "dqn"
    rl(tiny("dqn", out=run))
    assert not not_ok(run)
    (replay,) = (run / "checkpoints").glob("replay-*")
    replay.rename(replay.with_name("replay-1.safetensors"))
    missing, left = not_ok(run)
    assert (missing.check, missing.state) == (f"checkpoints/{replay.name}", "wrong")
    assert "a checkpoint names it" in missing.found
    assert (left.check, left.state) == ("checkpoints/replay-1.safetensors", "note")


def no_such_field(run: Path) -> None:
    edit(run / "config.json", wings=2)


def no_config(run: Path) -> None:
    (run / "config.json").write_text("{")


def code(run: Path) -> None:
    edit(run / "config.json", encoder="os:getcwd")


def no_machine(run: Path) -> None:
    (run / "machine.json").unlink()


def odd_spaces(run: Path) -> None:
    edit(run / "spaces.json", pixels=[3, 4])


def torn(run: Path) -> None:
    path = run / "metrics.jsonl"
    path.write_text(path.read_text()[:-20])


def glued(run: Path) -> None:
    path = run / "metrics.jsonl"
    path.write_text(path.read_text()[:-1])


def damaged_row(run: Path) -> None:
    path = run / "metrics.jsonl"
    path.write_text("{\n" + path.read_text())


def doubled(run: Path) -> None:
    path = run / "eval.jsonl"
    path.write_text(path.read_text() + path.read_text())


def doubled_last(run: Path) -> None:
    path = run / "eval.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines(keepends=True)[-1])


def doubled_metrics(run: Path) -> None:
    path = run / "metrics.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines(keepends=True)[-1])


def doubled_episodes(run: Path) -> None:
    path = run / "episodes.jsonl"
    path.write_text(3 * path.read_text().splitlines(keepends=True)[0])


def flat(run: Path) -> None:
    path = run / "checkpoints" / "last.safetensors"
    path.write_bytes(path.read_bytes()[:5_000])


def not_finite(run: Path) -> None:
    path = run / "checkpoints" / "best.safetensors"
    tree = checkpoint.load(path)
    name, tensor = next(iter(tree["policy"].items()))
    tree["policy"][name] = torch.full_like(tensor, torch.nan)
    checkpoint.save(path, tree)


def other_steps(run: Path) -> None:
    edit(run / "summary.json", env_steps=5)


def other_return(run: Path) -> None:
    edit(run / "summary.json", return_mean=77.0)


def other_best(run: Path) -> None:
    edit(run / "summary.json", best_return_mean=77.0)


def moved_encoder(run: Path) -> None:
    edit(run / "summary.json", encoder_sha256_after="0")


def odd_summary(run: Path) -> None:
    edit(run / "summary.json", env_steps="many")


def no_summary(run: Path) -> None:
    (run / "summary.json").unlink()


def not_done(run: Path) -> None:
    (run / "done").unlink()


def goes_on(run: Path) -> None:
    other_return(run)
    not_done(run)


def unfinished(run: Path) -> None:
    (run / "done").unlink()
    (run / "summary.json").unlink()


def left_over(run: Path) -> None:
    (run / "checkpoints" / ".last.17-4.part.safetensors").write_text("")


def link(run: Path) -> None:
    (run / "videos").symlink_to("/tmp")


@pytest.mark.parametrize(
    ("damage", "check", "state", "found", "advice"),
    [
        (no_config, "config.json", "wrong", "is damaged", ""),
        (no_such_field, "config.json", "wrong", "fields that this version does not know: wings", ""),
        (code, "config.json", "note", "asks for the encoder os:getcwd, whose code would be imported", ""),
        (no_machine, "machine.json", "wrong", "is missing", "--resume"),
        (odd_spaces, "spaces.json", "wrong", "spaces.json is damaged", "rm "),
        (torn, "metrics.jsonl", "wrong", "its last row is half written", "--resume"),
        (glued, "metrics.jsonl", "wrong", "its last row has no end", "--resume"),
        (damaged_row, "metrics.jsonl", "wrong", "line 1 is damaged", "sed -i 1d "),
        (doubled, "eval.jsonl", "wrong", "goes back to step 32", "start a new run"),
        (doubled_last, "eval.jsonl", "wrong", "step 96 is recorded 2 times", "start a new run"),
        (doubled_metrics, "metrics.jsonl", "wrong", "is recorded 2 times", "start a new run"),
        (doubled_episodes, "episodes.jsonl", "wrong", "is recorded 3 times", "start a new run"),
        (flat, "checkpoints/last.safetensors", "wrong", "is damaged or incomplete", "--checkpoint best"),
        (not_finite, "checkpoints/best.safetensors", "wrong", "of its numbers are NaN", "learning_rate"),
        (other_steps, "summary.json", "wrong", "it counts 5 steps, and last.safetensors is of step 96", "logs"),
        (other_return, "summary.json", "wrong", "its return is 77.0, and the last of eval.jsonl", "logs"),
        (other_best, "summary.json", "wrong", "its best return is 77.0, and that of best.safetensors", "logs"),
        (moved_encoder, "summary.json", "wrong", "its frozen encoder was not the same", "logs"),
        (odd_summary, "summary.json", "wrong", "is damaged", "restore it"),
        (no_summary, "summary.json", "wrong", "is missing, and the run says that it is finished", "rm "),
        (not_done, "summary.json", "note", "stopped before it said that it is finished", "stillsight rl --resume"),
        (goes_on, "summary.json", "note", "stopped before it said that it is finished", "stillsight rl --resume"),
        (unfinished, "summary.json", "note", "the run is not finished", "stillsight rl --resume"),
        (left_over, "checkpoints/.last.17-4.part.safetensors", "note", "is left over", "rm "),
        (link, "videos", "wrong", "leads out of the folder, to /tmp", "rm "),
    ],
)
def test_damage_is_named_with_what_to_type(
    damage: Callable[[Path], None], check: str, state: str, found: str, advice: str, trained: Path
) -> None:
    damage(trained)
    before = {path: path.lstat().st_mtime_ns for path in trained.rglob("*")}
    (outcome,) = not_ok(trained)
    assert (outcome.check, outcome.state) == (check, state)
    assert found in outcome.found
    assert advice in outcome.advice
    assert {path: path.lstat().st_mtime_ns for path in trained.rglob("*")} == before, "it only reads"


def test_what_is_to_be_typed_does_what_it_says_whatever_files_are_called(trained: Path, tmp_path: Path) -> None:
    """Names in a stranger's folder are no commands, neither of the shell in which one pastes nor of the terminal."""
    names = [".a; touch HACKED ;.1-1.part", ".$(touch HACKED).1-1.part", ".'b.1-1.part", ".\x1b]0;owned\a.1-1.part"]
    for name in names:
        (trained / name).touch()
    (trained / "-rf x; touch HACKED").symlink_to("/etc")
    outcomes = not_ok(trained)
    assert len(outcomes) == 5
    for outcome in outcomes:
        assert str(outcome).isprintable()
        subprocess.run(outcome.advice, shell=True, check=True, cwd=tmp_path)
    assert not list(tmp_path.rglob("HACKED"))
    assert not not_ok(trained)


def test_a_run_that_is_written_to_is_said(trained: Path) -> None:
    with (trained / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        (outcome,) = not_ok(trained)
        assert (outcome.check, outcome.state) == ("lock", "note")
        assert outcome.found.startswith("another process writes here")
    assert not not_ok(trained), "a lock that nobody holds is none"


def test_the_exit_code_tells_whole_from_wrong(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torn(trained)
    assert main(["doctor", str(trained), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert not told["ok"]
    assert [row["check"] for row in told["checks"] if row["state"] == "wrong"] == ["metrics.jsonl"]
    assert main(["doctor", str(trained / "nowhere")]) == 2
    assert "There is no folder" in capsys.readouterr().err


def test_nothing_of_a_run_is_executed(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stranger.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\ndef go(): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for field in ("encoder", "algo", "env"):
        edit(trained / "config.json", **{field: "stranger:go"})
    assert main(["doctor", str(trained)]) == 0
    assert not (tmp_path / "marker").exists()
