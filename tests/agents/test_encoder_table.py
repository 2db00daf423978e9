"""`stillsight list encoders`: narrow, quick without a name, and true with one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from stillsight.agents import encoder_table
from stillsight.agents.cli import main
from stillsight.agents.encoder_table import WIDTH
from stillsight.encoders import EncoderConfig, EncoderError, build
from stillsight.encoders.errors import say_once
from stillsight.encoders.weights.published import FOLDER_VARIABLE
from stillsight.encoders.zoo import registry
from stillsight.encoders.zoo.registry import ENCODERS


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No caches, no folder of weights, no accepted licences."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "torch" / "hub"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    return tmp_path


def told(words: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main(["list", "encoders", *words.split()]) == 0
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def cells(lines: list[str], name: str) -> list[str]:
    (line,) = [line for line in lines if line.split()[:1] == [name]]
    return line.split()


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("words", ["", "lite", "resnet18", "vit_b_16 --resolution 64"])
def test_no_line_is_wider_than_a_terminal(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    unbroken = ("https://", os.sep)  # an address or a path that were broken could not be copied
    long = [line for line in told(words, capsys) if len(line) > WIDTH and not any(one in line for one in unbroken)]
    assert not long


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("words", ["", "lite", "mobilenet"])
def test_no_word_is_broken_in_a_terminal(
    words: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    whole = {word for line in told(words, capsys) for word in line.split()}
    monkeypatch.setenv("COLUMNS", str(width))
    lines = told(words, capsys)
    assert max(map(len, lines)) <= width
    told_beside = [line for line in lines if line.startswith("Without room here")]
    strange = {word for line in lines if line not in told_beside for word in line.split()} - whole
    assert not strange


def test_the_whole_list_is_told_without_torch(bare: Path) -> None:
    code = (
        "import sys; from stillsight.agents.cli import main; main(['list', 'encoders']); "
        "print(sorted({'torch', 'torchvision', 'timm'} & set(sys.modules)), file=sys.stderr)"
    )
    environment = {**os.environ, "TORCH_HOME": str(bare)}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert ran.stderr == "[]\n"
    assert all(any(line.startswith(f"{name} ") for line in ran.stdout.splitlines()) for name in ENCODERS)


def test_where_weights_are_is_told(
    bare: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(encoder_table, "ENCODERS", dict(ENCODERS))
    lite = replace(ENCODERS["retina"], name="lite", weights="package:no-such-package-of-eyes")
    encoder_table.ENCODERS["lite"] = lite
    lines = told("", capsys)
    assert cells(lines, "retina")[-1] == "shipped"
    assert cells(lines, "resnet18")[-1] == "download"
    assert cells(lines, "nature")[-2:] == ["from", "scratch"]
    assert cells(lines, "lite")[-2:] == ["pip", "install"]
    folder = bare / "mine"
    folder.mkdir()
    (folder / "resnet18-f37072fd.pth").write_bytes(b"x")
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    cache = bare / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / "resnet34-b627a593.pth").write_bytes(b"x")
    lines = told("", capsys)
    assert cells(lines, "resnet18")[-1] == "folder"
    assert cells(lines, "resnet34")[-1] == "cache"


@pytest.mark.usefixtures("bare")
def test_some_are_shown_with_what_they_cost(capsys: pytest.CaptureFixture[str]) -> None:
    lines = told("resnet", capsys)
    assert lines[0].split() == [
        "encoder",
        "family",
        "tap",
        "dims",
        "stages",
        "px",
        "M",
        "params",
        "MFLOPs",
        "licence",
        "weights",
    ]
    assert cells(lines, "resnet18")[-8:] == ["layer4", "512", "5", "224", "11.18", "1,814", "BSD-3-Clause", "download"]
    assert cells(lines, "resnet50")[-7:-2] == ["2048", "5", "224", "23.51", "4,087"]
    assert not [line for line in lines if line.startswith("retina")]
    assert "a multiplication and its addition count once" in " ".join(lines)


def named(lines: list[str]) -> set[str]:
    return {line.split()[0] for line in lines if line.split()[:1] and line.split()[0] in ENCODERS}


def test_words_are_looked_for_in_licences_and_here_is_this_machine(
    bare: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_nc = {name for name, row in ENCODERS.items() if row.licence == "CC-BY-NC-4.0"}
    assert named(told("cc-by-nc", capsys)) == by_nc
    assert named(told("vit bsd", capsys)) == {"vit_b_16"}
    here = named(told("here", capsys))
    assert "resnet18" not in here
    assert named(told("efficientnet here", capsys)) == {name for name in here if "lite" in name}
    assert told("retina here", capsys)[0].startswith("retina (retina) the small residual network")
    cache = bare / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / "resnet18-f37072fd.pth").write_bytes(b"x")
    assert named(told("here", capsys)) == here | {"resnet18"}
    assert told("resnet here", capsys)[0].startswith("resnet18 ResNet-18")


def test_one_licence_of_the_shipped_weights(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del bare
    licence = ENCODERS["retina"].licence
    card = Path(registry.__file__).parent / "pretrained" / "retina.md"
    assert f"| licence | {licence} |" in card.read_text()
    text = " ".join(" ".join(told("retina", capsys)).split())
    assert f"licence {licence} weights" in text
    assert build("retina", tap="stem", device="cpu").provenance.licence == licence == "MIT"


@pytest.mark.usefixtures("bare")
def test_weights_that_are_nowhere_to_be_had_are_not_said_to_be_trained_from_scratch(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["list", "encoders", "mvp_s"])
    told = capsys.readouterr().out
    assert "the addresses of its published weights are gone: --weights FILE" in told
    assert "not stated" in told
    assert "from scratch" not in told
    main(["list", "encoders", "nature"])
    assert "none: it is trained from scratch" in capsys.readouterr().out
    with pytest.raises(EncoderError, match=r"mvp_s: the addresses .* are gone\. Give --weights FILE, or type --mode"):
        EncoderConfig(encoder="mvp_s").check_encoder(224)


def test_a_readme_lists_the_licences_that_must_be_accepted() -> None:
    readme = (Path(registry.__file__).parent / "README.md").read_text()
    cells = [line.strip("| ").split(" | ") for line in readme.split("| licence |")[1].splitlines() if " | " in line]
    listed = {licence: set(families.split(", ")) for licence, families in cells if licence != "licence"}
    rows = [row for row in ENCODERS.values() if row.accept]
    assert listed == {row.licence: {one.family for one in rows if one.licence == row.licence} for row in rows}
    free = {row.licence for row in ENCODERS.values() if not row.accept and not row.withdrawn}
    assert free <= {"", "MIT", "Apache-2.0", "BSD-3-Clause"}


@pytest.mark.usefixtures("bare")
def test_parameters_behind_the_stages_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(" ".join(told("resnet18", capsys)).split())
    assert "parameters 11.69 M, those behind the last stage included, 0.51 M" in text, "its classifier"
    text = " ".join(" ".join(told("retina", capsys)).split())
    assert "parameters 1.21 M, all of them in its stages" in text


def test_a_folder_of_weights_that_is_not_there_is_said(
    bare: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say_once.cache_clear()
    monkeypatch.setenv(FOLDER_VARIABLE, str(bare / "gone"))
    assert main(["list", "encoders", "resnet18"]) == 0
    assert f"{FOLDER_VARIABLE} is {bare / 'gone'}, and there is no such folder." in capsys.readouterr().err
    say_once.cache_clear()


@pytest.mark.usefixtures("bare")
def test_the_size_is_the_one_that_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    lines = told("resnet --resolution 112", capsys)
    counted = cells(lines, "resnet18")
    assert counted[-5] == "112"
    assert int(counted[-3].replace(",", "")) == pytest.approx(1814 / 4, rel=0.15)
    small = told("scratch --resolution 4", capsys)
    assert cells(small, "nature")[1:4] == ["Nature", "conv3", "3"], "too small for nature: its costs are left out"


@pytest.mark.usefixtures("bare")
def test_all_about_one(capsys: pytest.CaptureFixture[str]) -> None:
    lines = told("resnet18", capsys)
    text = " ".join(" ".join(lines).split())
    assert lines[0] == "resnet18 ResNet-18 (He et al. 2016), ImageNet-1k"
    assert "in rl layer2, grid6: 4,608 numbers a frame at 224 px" in text
    assert "in cifar layer4, global: 512 numbers a frame at 224 px" in text
    assert "resnet18-f37072fd.pth is not on this machine" in text
    assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in text
    assert "parameters 11.69 M, those behind the last stage included" in text
    assert "mean 0.485 0.456 0.406, std 0.229 0.224 0.225, bilinear, made for 224 px" in text
    assert "cls" not in text
    assert cells(lines, "layer3") == ["layer3", "256", "256", "x", "14", "x", "14", "16", "16", "2.78", "1,403"]


LEARNS = """
from torch import nn
from stillsight.encoders import Backbone, Preprocessing


def learning():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1))
    return Backbone(
        model=model,
        stages={"low": model[0], "high": model[1]},
        preprocessing=Preprocessing(size=64),
        tap="high",
        pooling="attention64",
        control=("low", "conv64"),
    )
"""


@pytest.mark.usefixtures("bare")
def test_poolings_that_learn_are_counted_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "eyes_that_learn.py").write_text(LEARNS)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = " ".join(" ".join(told("eyes_that_learn:learning", capsys)).split())
    assert f"in rl low, conv64: {64 * 16 * 16:,} numbers a frame at 64 px" in text
    assert f"in cifar high, attention64: {(16 + 2) * 64:,} numbers a frame at 64 px" in text
    small = " ".join(" ".join(told("eyes_that_learn:learning --resolution 8", capsys)).split())
    assert f"in rl low, conv64: {64 * 2 * 2} numbers a frame at 8 px" in small
    assert f"in cifar high, attention64: {(16 + 2) * 64:,} numbers a frame at 8 px" in small


@pytest.mark.usefixtures("bare")
def test_one_that_reads_patches(capsys: pytest.CaptureFixture[str]) -> None:
    lines = told("vit_b_16 --resolution 32", capsys)
    text = " ".join(" ".join(lines).split())
    assert "cls (class token)" in text
    assert "sides are multiples of 16 px" in text
    assert "in rl block5, grid4: needs larger images than 32 px" in text
    assert cells(lines, "block0")[:6] == ["block0", "768", "5", "x", "768", "tokens"]


@pytest.mark.usefixtures("bare")
def test_one_from_scratch_and_too_small_images(capsys: pytest.CaptureFixture[str]) -> None:
    lines = told("nature --resolution 20", capsys)
    text = " ".join(" ".join(lines).split())
    assert "weights none: it is trained from scratch" in text
    assert cells(lines, "conv3") == ["conv3", "needs", "larger", "images", "36"]


@pytest.mark.usefixtures("bare")
def test_a_third_partys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "their_table.py").write_text(
        "from torch import nn\nfrom stillsight.encoders import Backbone, Preprocessing\n\n\ndef tiny():\n"
        "    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4))\n"
        "    return Backbone(model=model, stages={'low': model[0]}, preprocessing=Preprocessing(), tap='low')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    lines = told("their_table:tiny --resolution 33", capsys)
    assert cells(lines, "low")[:6] == ["low", "8", "8", "x", "8", "x"]


@pytest.mark.usefixtures("bare")
def test_of_many_that_are_no_rows_only_the_names_are_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """To tell more of each model of timm it would have to be built: minutes."""
    names = [f"timm/model{number}" for number in range(encoder_table.MOST_MEASURED + 1)]
    monkeypatch.setattr(encoder_table, "matching", lambda _: names)
    lines = told("timm/", capsys)
    assert [line.strip() for line in lines[1 : len(names) + 1]] == names
    assert lines[-1].startswith("41 match 'timm/'.")


@pytest.mark.usefixtures("bare")
def test_what_installed_packages_bring_is_named_under_the_list(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(encoder_table, "installed", lambda: {"hawk": "hawk_eyes:hawk", "bee": "bees:eye"})
    assert "Brought by installed packages: bee, hawk." in told("", capsys)
    monkeypatch.setattr(encoder_table, "passed_over", lambda: ["a says so.", "b says so."])
    lines = told("", capsys)
    first = lines.index("Brought by installed packages: bee, hawk.")
    assert lines[first + 1 : first + 3] == ["a says so.", "b says so."]


@pytest.mark.usefixtures("bare")
def test_many_are_shown_without_what_they_cost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(encoder_table, "MOST_MEASURED", 2)
    lines = told("resnet", capsys)
    assert "MFLOPs" not in lines[0]
    assert lines[-1].startswith("3 match 'resnet'. What they cost is shown of up to 2: type more of the name.")


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("encoder", "There is no list named 'encoder'. Did you mean 'encoders'? Type: stillsight list encoders. "),
        ("encoder", "stillsight list encoders. list takes one of: encoders, envs, algos, runs."),
        ("run", "There is no list named 'run'. Did you mean 'runs'? Type: stillsight list runs."),
        ("encoders vit nowhere", "No encoder of the list matches all of 'vit nowhere'. Words are parts of names,"),
        ("encoders reznet18", "There is no encoder named 'reznet18'. Did you mean 'resnet18'?"),
        ("encoders --resolution 64", "--resolution 64 is for encoders that are named. Type, say: stillsight list"),
        ("encoders --accept-license", "--accept-license is for encoders that are named."),
        ("encoders resnet --accept-license", "--accept-license is for one encoder, and 3 match 'resnet'."),
        ("encoders resnet18 --accept-license", "nobody must accept a licence for resnet18"),
        ("encoders resnet18 --resolution 0", "--resolution 0 is no size"),
        ("encoders nature --resolution 4", "nature needs images of at least 8 px to reach conv1"),
        ("encoders vit_b_16 --resolution 33", "33 px is not a multiple of that"),
        ("envs --resolution 64", "--resolution is for encoders, and has no effect on the list of envs"),
        ("algos --accept-license", "--accept-license is for encoders, and has no effect on the list of algos"),
        ("algos ppo", "list takes encoders|envs|algos|runs and flags, and got 'ppo' too"),
    ],
)
def test_mistakes_are_one_sentence(words: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", *words.split()]) == 2
    captured = capsys.readouterr()
    assert (captured.out, len(captured.err.splitlines())) == ("", 1)
    assert sentence in captured.err


def test_a_licence_is_accepted_here(
    bare: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = replace(ENCODERS["retina"], licence="CC-BY-NC-4.0", accept=True)
    monkeypatch.setitem(registry.ENCODERS, "retina", row)
    assert "CC-BY-NC-4.0," in cells(told("", capsys), "retina")
    text = " ".join(" ".join(told("retina", capsys)).split())
    assert "CC-BY-NC-4.0; to be accepted once: stillsight list encoders retina --accept-license" in text
    text = " ".join(" ".join(told("retina --accept-license", capsys)).split())
    assert "CC-BY-NC-4.0; you accepted it on 2" in text
    (entry,) = json.loads((bare / "config" / "stillsight" / "accepted-licences.json").read_text())
    assert entry["encoder"] == "retina"
