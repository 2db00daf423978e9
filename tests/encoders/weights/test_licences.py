"""Licences that must be accepted: once, by a person, on this machine, and by no file."""

from __future__ import annotations

import json
import pickle
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stillsight.agents.benchmark.grid.parse import parse_spec
from stillsight.agents.cli import main
from stillsight.agents.errors import RunError
from stillsight.agents.runs.folder import Run
from stillsight.agents.runs.trust import PLACES, open_run
from stillsight.agents.training.config import RlConfig
from stillsight.agents.training.continuing.resuming import resumed
from stillsight.encoders import ENCODERS, EncoderError, build
from stillsight.encoders.config import UNNAMED, EncoderConfig
from stillsight.encoders.supervised.cifar_config import CifarConfig
from stillsight.encoders.weights import licences
from stillsight.encoders.weights.licences import accepted, accepted_file
from stillsight.encoders.zoo import registry

SENTENCE = (
    "The weights of retina are under CC-BY-NC-4.0, which must be accepted once before they are used: read it, and add "
    "--accept-license, or type stillsight list encoders retina --accept-license. It is remembered for you on this "
    "machine."
)


@pytest.fixture
def gated(bare: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """retina, as if its weights were not for commercial use."""
    row = replace(ENCODERS["retina"], licence="CC-BY-NC-4.0", accept=True)
    monkeypatch.setitem(registry.ENCODERS, "retina", row)
    return bare


@pytest.mark.usefixtures("gated")
@pytest.mark.parametrize("command", [["rl", "--steps", "8"], ["cifar"]])
def test_a_command_says_so_before_anything_else(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 2
    assert capsys.readouterr().err == f"stillsight: {SENTENCE}\n"


@pytest.mark.usefixtures("gated")
@pytest.mark.parametrize("mode", ["random", "scratch"])
def test_random_weights_are_under_no_licence(mode: str) -> None:
    assert build("retina", mode, device="cpu").provenance.kind == "random"


def test_it_is_accepted_once_and_remembered_with_its_date(gated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EncoderError, match=re.escape(SENTENCE)):
        build("retina", device="cpu")
    build("retina", device="cpu", accept_license=True)
    file = gated / "config" / "stillsight" / "accepted-licences.json"
    assert accepted_file() == file
    (entry,) = json.loads(file.read_text())
    assert (entry["encoder"], entry["licence"]) == ("retina", "CC-BY-NC-4.0")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", entry["date"])
    assert f"you accepted CC-BY-NC-4.0 for the weights of retina, noted in {file}" in capsys.readouterr().err
    assert build("retina", device="cpu").provenance.licence == "CC-BY-NC-4.0"
    build("retina", device="cpu", accept_license=True)
    assert len(json.loads(file.read_text())) == 1


@pytest.mark.usefixtures("gated")
def test_another_licence_or_encoder_is_not_accepted_by_it() -> None:
    build("retina", device="cpu", accept_license=True)
    row = ENCODERS["retina"]
    assert accepted(row) is not None
    assert accepted(replace(row, licence="CC-BY-NC-5.0")) is None
    assert accepted(replace(row, name="vc1_vitb")) is None


@pytest.mark.parametrize("content", ["", "{", "[1, null]", '{"retina": true}', "[" * 5000])
def test_a_damaged_note_accepts_nothing(gated: Path, content: str) -> None:
    accepted_file().parent.mkdir(parents=True)
    accepted_file().write_text(content)
    assert str(gated) in str(accepted_file())
    with pytest.raises(EncoderError, match="must be accepted once"):
        build("retina", device="cpu")


def test_where_it_cannot_be_noted_that_is_said(gated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (gated / "config").write_text("a file")
    assert build("retina", device="cpu", accept_license=True).provenance.kind == "shipped"
    assert "that you accepted the licence of retina could not be noted" in capsys.readouterr().err


@pytest.mark.usefixtures("gated")
def test_a_pickled_encoder_accepts_for_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    encoder = build("retina", tap="stem", device="cpu", accept_license=True)
    pickled = pickle.dumps(encoder)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "somebody else"))
    with pytest.raises(EncoderError, match="must be accepted once"):
        pickle.loads(pickled)


@pytest.mark.parametrize("config", [EncoderConfig, RlConfig, CifarConfig])
def test_the_flag_names_no_run_and_is_taken_from_no_file(config: type[Any]) -> None:
    assert "accept_license" in {item.name for item in fields(config)}
    assert "accept_license" in UNNAMED
    assert "accept_license" in PLACES


def test_a_run_folder_cannot_accept(gated: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    record = {"command": "rl", "env": "stillsight/Orchard-v0", "algo": "ppo", "encoder": "retina", "mode": "frozen"}
    (folder / "config.json").write_text(json.dumps({**record, "accept_license": True}))
    opened = open_run(folder)
    assert opened.config.accept_license is False
    assert str(gated)


def test_no_run_folder_says_that_its_user_accepted(tmp_path: Path) -> None:
    with Run(tmp_path / "run", "rl", RlConfig(accept_license=True)) as run:
        run.card("rl", {})
    assert "accept_license" not in json.loads((tmp_path / "run" / "config.json").read_text())


@pytest.mark.usefixtures("gated")
def test_who_goes_on_with_somebodys_run_accepts_for_themselves(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    record = {"command": "rl", "env": "stillsight/Orchard-v0", "algo": "ppo", "encoder": "retina", "mode": "frozen"}
    (folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(EncoderError, match="must be accepted once"):
        resumed(RlConfig(resume=folder), folder, "rl")
    going_on = resumed(RlConfig(resume=folder, accept_license=True), folder, "rl")
    assert going_on.config.accept_license
    assert going_on.changed == {}


def test_a_spec_cannot_accept() -> None:
    text = (
        'name = "x"\n[[task]]\nenv = "stillsight/Orchard-v0"\n[[encoder]]\nencoder = "retina"\naccept_license = true\n'
    )
    with pytest.raises(RunError, match="has accept_license, and a file accepts for nobody"):
        parse_spec(text)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--accept-license"], "with --encoder retina, whose licence nobody must accept first"),
        (["--accept-license", "--mode", "scratch"], "which starts from random weights"),
        (["--accept-license", "--weights", "x.pth"], "beside --weights, which says where they are"),
    ],
)
def test_the_flag_without_effect_is_refused(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cifar", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("stillsight: --accept-license has no effect ")
    assert told in error


@pytest.mark.usefixtures("gated")
def test_a_file_of_ones_own_needs_no_acceptance(tmp_path: Path) -> None:
    state = build("retina", "random", device="cpu").state()
    torch.save(state, tmp_path / "mine.pth")
    assert build("retina", weights=tmp_path / "mine.pth", device="cpu").provenance.kind == "file"
    licences.accept(replace(ENCODERS["retina"], accept=False))
    assert not accepted_file().exists()
