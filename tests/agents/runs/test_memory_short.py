"""A checkpoint that memory has no room for: no other takes its place, nothing is removed, and it is called damaged
nowhere."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stillsight.agents import RlConfig, load, rl
from stillsight.agents.benchmark.grid.parse import parse_spec
from stillsight.agents.benchmark.grid.pins import code_pins
from stillsight.agents.benchmark.running import interrupted, worker
from stillsight.agents.cli import main
from stillsight.agents.doctor.run_check import check_run
from stillsight.agents.errors import CheckpointError, RunError
from stillsight.agents.exchange import sb3_zip
from stillsight.agents.playing import classify
from stillsight.agents.runs import checkpoint
from stillsight.agents.training import callbacks
from stillsight.agents.training.continuing.best_agent import restore_best
from stillsight.encoders import build
from stillsight.encoders.atomic import to_json
from stillsight.encoders.errors import MemoryShortError
from stillsight.encoders.weights import tensor_file

Tiny = Callable[..., RlConfig]


def leave(patch: pytest.MonkeyPatch, free: int) -> None:
    """Let the machine have so many bytes of memory left for a tensor file, unless it is one of pretrained weights."""
    opened: list[Path] = []
    original = tensor_file._opened

    def watched(path: Path) -> io.BufferedReader:
        opened.append(path)
        return original(path)

    patch.setattr(tensor_file, "_opened", watched)
    patch.setattr(tensor_file, "available_memory", lambda: None if opened[-1].name == "retina.safetensors" else free)


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but the records of who looked into it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def needs(path: Path) -> int:
    """Bytes of the tensors in a file."""
    return tensor_file.header(path).size


def stopped(config: RlConfig) -> Path:
    """A run that Ctrl-C stopped at step 120; its folder."""
    with pytest.MonkeyPatch.context() as patch:
        original = callbacks.Episodes._on_step

        def on_step(self: callbacks.Episodes) -> bool:
            if self.num_timesteps >= 120:
                raise KeyboardInterrupt
            return original(self)

        patch.setattr(callbacks.Episodes, "_on_step", on_step)
        with pytest.raises(RunError, match="Stopped at step 120"):
            rl(config)
    assert config.out is not None
    return config.out


def test_a_checkpoint_is_told_from_a_damaged_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.safetensors"
    checkpoint.save(path, {"policy": {"a": torch.ones(100)}, "step": 3})
    leave(monkeypatch, 399)
    with pytest.raises(MemoryShortError) as told:
        checkpoint.load(path)
    assert not isinstance(told.value, CheckpointError)
    assert str(told.value) == (
        f"{path} was not read, and is kept as it is: it holds 400 bytes, and 399 of memory are free. End what else "
        "takes memory here, or take a machine with more, and type the same again."
    )
    leave(monkeypatch, 400)
    assert checkpoint.load(path)["step"] == 3

    def none_left(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(checkpoint, "_unflatten", none_left)
    with pytest.raises(MemoryShortError, match="memory has no room for what is in it"):
        checkpoint.load(path)


def test_a_run_whose_replay_memory_has_no_room_does_not_go_on_from_an_older_one(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Taken for damaged, it would be removed with its checkpoint, and 32 steps with it."""
    folder = stopped(tiny("dqn", steps=160, checkpoint_every=32, out=tmp_path / "run"))
    young, old = (folder / "checkpoints" / f"replay-{step}.safetensors" for step in (96, 64))
    assert needs(young) > max(needs(path) for path in (folder / "checkpoints").iterdir() if path != young)
    before = content(folder)
    with monkeypatch.context() as patch:
        leave(patch, needs(young) - 1)
        assert main(["rl", "--resume", str(folder)]) == 2
    told = capsys.readouterr().err
    assert f"{young} was not read, and is kept as it is: it holds {needs(young):,} bytes" in told
    assert "damaged" not in told
    after = content(folder)
    assert {name: after[name] for name in before if name.startswith("checkpoints/")} == {
        name: text for name, text in before.items() if name.startswith("checkpoints/")
    }
    assert old.exists()
    rl(RlConfig(resume=folder))
    assert load(folder, "last").step == 160


def test_the_best_agent_is_not_passed_over(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(trained)
    leave(monkeypatch, 10)
    with pytest.raises(MemoryShortError, match=r"best\.safetensors was not read"):
        restore_best(trained, 10**6)
    with pytest.raises(MemoryShortError, match=r"best\.safetensors was not read"):
        load(trained)
    assert content(trained) == before


def test_what_is_good_in_the_place_of_a_damaged_one_is_told_without_being_read(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best, last = (trained / "checkpoints" / f"{name}.safetensors" for name in ("best", "last"))
    best.write_bytes(b"damaged")
    leave(monkeypatch, needs(last) - 1)
    with pytest.raises(CheckpointError, match=r"best\.safetensors is damaged .* last \(too large for memory now\)"):
        load(trained, "best")


def test_an_interrupted_cell_is_left_as_it_is(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder is removed, and it begins anew, where it holds no checkpoint to go on from."""
    config = tiny("ppo", steps=160, checkpoint_every=32, out=tmp_path / "run")
    folder = stopped(config)
    before, code = content(folder), code_pins(config)
    interrupted.code_file(folder).write_text(to_json(code))
    assert interrupted.goes_on(folder, config, code)
    leave(monkeypatch, 10)
    with pytest.raises(MemoryShortError, match="was not read, and is kept as it is"):
        interrupted.goes_on(folder, config, code)
    (cell,) = parse_spec(
        'seeds = 1\ncontrols = []\n[[task]]\nenv = "stillsight/Orchard-v0"\n[[encoder]]\nencoder = "retina"'
    ).cells()
    monkeypatch.setattr(worker, "goes_on", lambda *_: interrupted.goes_on(folder, config, code))
    monkeypatch.setattr(worker, "_remove", lambda _: pytest.fail("the run was removed"))
    failed = worker.run_cell(cell, tmp_path)
    assert failed.error is not None
    assert failed.error.startswith("MemoryShortError: ")
    assert content(folder) == before


def test_an_export_that_memory_has_no_room_for_is_named_and_not_called_damaged(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    agent, out = tmp_path / "agent.zip", tmp_path / "out"
    assert main(["export", str(trained), "--sb3", str(agent)]) == 0
    capsys.readouterr()
    leave(monkeypatch, 10)
    assert main(["import", str(agent), "--out", str(out)]) == 2
    told = capsys.readouterr().err
    assert f"{sb3_zip.POLICY_FILE} in {agent} was not read, and is kept as it is" in told
    assert "damaged" not in told
    assert not out.exists()


def test_files_of_a_classifier_are_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pooling.safetensors"
    tensor_file.write(path, {"weight": torch.ones(100)})
    encoder = build("retina", "random", tap="stem", device="cpu")
    leave(monkeypatch, 399)
    with pytest.raises(MemoryShortError, match="holds 400 bytes") as told:
        classify._tensors(path, encoder)
    assert "Train" not in str(told.value)


def test_the_doctor_looks_at_what_memory_does_not_hold_block_by_block(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint that was not read may name the replay memory that nobody else names."""
    folder = tmp_path / "run"
    rl(tiny("dqn", out=folder))
    (replay,) = (folder / "checkpoints").glob("replay-*")
    leave(monkeypatch, 10)
    found = {outcome.check: outcome for outcome in check_run(folder) if outcome.check.startswith("checkpoints")}
    assert set(found) == {f"checkpoints/{name}.safetensors" for name in ("best", "last", replay.stem)}
    for outcome in found.values():
        assert (outcome.state, outcome.advice) == ("note", "")
        assert outcome.found.startswith("whole by its hash, and its numbers were not looked at: it holds ")
    capsys.readouterr()
    assert main(["doctor", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"]
    spoilt = bytearray(replay.read_bytes())
    spoilt[-2] ^= 1
    replay.write_bytes(spoilt)
    (wrong,) = (outcome for outcome in check_run(folder) if outcome.state == "wrong")
    assert wrong.check == f"checkpoints/{replay.name}"
    assert "is damaged or incomplete (its content is not what was written" in wrong.found
