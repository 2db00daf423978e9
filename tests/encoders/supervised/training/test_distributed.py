"""Several processes under torchrun make the training that one makes, and only the first of them writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stillsight.agents.runs import checkpoint
from stillsight.encoders import EncoderError, build, fingerprint
from stillsight.encoders.supervised.classifier import Classifier
from stillsight.encoders.supervised.recorder import NullRecorder, Recorder
from stillsight.encoders.supervised.training import distributed, finetune
from stillsight.encoders.supervised.training.distributed import World
from stillsight.encoders.supervised.training.training_state import Progress

PROGRAM = Path(__file__).with_name("train_once.py")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes under torchrun left in a folder."""
    folder = tmp_path_factory.mktemp("two")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ended = subprocess.run(
        [*torchrun, str(PROGRAM), "together", str(folder)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "FutureWarning" not in ended.stderr
    return folder


def facts(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    first, second = (json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1))
    return first, second


def test_two_processes_with_half_of_each_batch_make_the_training_of_one(two: Path, program: Any) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone, rows = program.train(program.SHARED, "frozen")
    torch.set_num_threads(threads)
    found = checkpoint.load(two / "end.safetensors")["model"]
    for name, tensor in alone.state_dict().items():
        assert torch.allclose(tensor, found[name], atol=1e-5), name
    untrained = program.classifier("frozen", 0.0).state_dict()
    assert max(float((untrained[n] - t).abs().max()) for n, t in found.items()) > 0.05, "it has learned something"
    first, _ = facts(two)
    assert first["size"] == 2
    for mine, theirs in zip(rows, first["rows"], strict=True):
        for key in ("loss", "train_accuracy", "validation_accuracy", "averaged_validation_accuracy"):
            assert mine[key] == pytest.approx(theirs[key], abs=1e-5), key


def test_all_processes_end_with_one_model_and_the_first_alone_reports(two: Path) -> None:
    first, second = facts(two)
    assert first["end"] == second["end"]
    assert first["moving"] == second["moving"], "BatchNorm's statistics, which each share moves, are brought together"
    assert first["moving"] != first["end"]
    assert (len(first["rows"]), len(second["rows"])) == (3, 0)


def test_a_save_within_an_epoch_is_enough_for_all_processes(two: Path) -> None:
    first, second = facts(two)
    places = [(0, 3), (1, 0), (1, 3), (2, 0), (2, 3), (3, 0)]
    assert [(save["epoch"], save["update"]) for save in first["saves"]] == 2 * places
    assert first["resumed"] == second["resumed"] == first["end"]
    assert first["moved"] == second["moved"] == first["moving"], "with BatchNorm's statistics of all shares"
    for row, again in zip(first["rows"][1:], first["resumed_rows"], strict=True):
        assert row["loss"] == pytest.approx(again["loss"], abs=1e-6)
        assert row["train_accuracy"] == again["train_accuracy"]


class Third(World):
    """One of three processes that hold the same."""

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor + tensor + tensor


def test_only_statistics_are_averaged() -> None:
    """A third of a sum of three equal numbers is another number for some, and frozen weights are buffers, too."""
    eyes = build("retina", "scratch", adapt="norm", batchnorm="train", precision="float32", device="cpu")
    for name, buffer in eyes.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.0)
    before = {name: tensor.clone() for name, tensor in eyes.state().items()}
    Third(0, 3).average_buffers(eyes)
    changed = {name for name, tensor in eyes.state().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert {name.rpartition(".")[2] for name in changed} <= {"running_mean", "running_var"}


@pytest.mark.parametrize(("batchnorm", "moves"), [("frozen", False), ("train", True)])
def test_statistics_that_do_not_move_are_not_averaged(batchnorm: str, moves: bool) -> None:
    eyes = build("retina", "scratch", batchnorm=batchnorm, pinned=False, precision="float32", device="cpu")
    model = Classifier(eyes, 3, 256)
    for name, buffer in eyes.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.0)
    before = fingerprint(eyes.state())
    finetune._average_buffers(model, Progress(0, torch.optim.SGD(model.parameters()), torch.Generator()), Third(0, 3))
    assert (fingerprint(eyes.state()) != before) == moves


def test_sums_and_values_travel(two: Path) -> None:
    first, second = facts(two)
    assert (first["total"], second["total"]) == (3, 3)
    assert (first["shared"], second["shared"]) == ("from 0", "from 0")


def test_a_process_of_a_group_can_train_alone_while_the_other_does_something_else(two: Path, program: Any) -> None:
    """What a federated client does: the world is its own, whatever process group torch was given."""
    first, second = facts(two)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model, rows = program.train(program.SHARED, "train")
    torch.set_num_threads(threads)
    assert first["alone"] == fingerprint(model.state_dict())
    assert second["alone"] is None
    assert first["alone"] != first["moving"], "shared, the batches' statistics would be those of halves"
    assert [row["loss"] for row in first["alone_rows"]] == [row["loss"] for row in rows]


def test_a_world_may_be_a_group_of_its_own(two: Path) -> None:
    first, second = facts(two)
    assert first["grouped"] == second["grouped"] == first["end"]
    assert (first["group_shared"], second["group_shared"]) == ("from 0", "from 0")


def test_alone_nothing_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with distributed.joined("cpu") as world:
        assert world == World(0, 1) == distributed.current() == distributed.launched()
        assert world.is_main
        model, value, number = nn.Linear(2, 2), object(), torch.tensor(4)
        assert world.data_parallel(model, torch.device("cpu")) is model
        assert world.broadcast(value) is value
        assert world.sum(number) is number
        with world.main_process_first():
            pass
    assert not torch.distributed.is_initialized()


def test_torchruns_variables_say_who_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert distributed.launched() == World(3, 4)
    assert not distributed.launched().is_main


def test_there_must_be_a_gpu_for_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(EncoderError, match=r"^--device cuda:0 is one GPU for 2 processes\. Type --device cuda\.$"):
        distributed.joined("cuda:0").__enter__()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        EncoderError, match=r"than this machine has GPUs \(1\)\. Type --nproc-per-node 1, or --device cpu"
    ):
        distributed.joined("auto").__enter__()


def test_synchronised_batchnorm_keeps_names_and_values() -> None:
    encoder = build("retina", "scratch", pinned=False, device="cpu")
    before, names = encoder.sha256(), list(encoder.state())
    nn.SyncBatchNorm.convert_sync_batchnorm(encoder)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in encoder.learned.modules())
    assert (encoder.sha256(), list(encoder.state())) == (before, names), "what is saved is what it was"
    assert fingerprint(encoder.learned.state()) == before


def test_a_null_recorder_is_a_recorder_that_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorder: Recorder = NullRecorder(tmp_path / "run")
    recorder.card("title", {"a": "b"})
    recorder.log("metrics", {"epoch": 1})
    recorder.progress("epoch", 1, 2)
    recorder.write_json("summary.json", {})
    recorder.save("last", {"a": torch.zeros(1)})
    assert recorder.load("last", torch.device("cpu")) is None
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr() == ("", "")
