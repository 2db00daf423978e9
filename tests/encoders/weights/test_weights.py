"""Weights come from where they should, and nothing that is wrong with them gets past the door."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import pickle
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import ResNet18_Weights, WeightsEnum

from stillsight.encoders import ENCODERS, EncoderError, Provenance, build, fingerprint
from stillsight.encoders.weights import published, sources, tensor_file
from stillsight.encoders.weights.file_hash import file_hash
from stillsight.encoders.weights.fitting import load_into
from stillsight.encoders.weights.sources import find
from stillsight.encoders.weights.weights_file import metadata, read, read_state_dict, state_dicts
from stillsight.encoders.zoo.registry import make_backbone

ROW = ENCODERS["resnet18"]
ADDRESS = published.torchvision_address


@functools.cache
def resnet_state() -> dict[str, Tensor]:
    """A whole resnet18 state_dict of random weights (45 MB, so made once)."""
    torch.manual_seed(11)
    return {name: tensor.detach() for name, tensor in make_backbone("resnet18").model.state_dict().items()}


@functools.cache
def retina_state() -> dict[str, Tensor]:
    """A small one (5 MB)."""
    torch.manual_seed(12)
    return {name: tensor.detach() for name, tensor in make_backbone("retina").model.state_dict().items()}


def until(layer: str) -> dict[str, Tensor]:
    """The first part of a resnet18 state_dict, as far as and with `layer`: small, and enough for an early tap."""
    kept = ("conv1", "bn1", *(f"layer{index}" for index in range(1, int(layer[-1]) + 1)))
    return {name: tensor for name, tensor in resnet_state().items() if name.split(".")[0] in kept}


def built_from(path: Path, tap: str = "layer1") -> str:
    return build("resnet18", tap=tap, weights=path, device="cpu").sha256()


# Reading files --------------------------------------------------------------------------------------------------------

WRAPPERS: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "optimizer": {"lr": 0.1}},
    "module.": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "both": lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_a_torch_file_is_read_however_its_author_wrapped_it(tmp_path: Path, wrapper: str, suffix: str) -> None:
    path = tmp_path / f"eyes{suffix}"
    state = until("layer1")
    torch.save(WRAPPERS[wrapper](state), path)
    assert fingerprint(read_state_dict(path)) == fingerprint(state)
    assert built_from(path) == fingerprint(state)


def test_a_safetensors_file_is_read_with_what_it_says_about_itself(tmp_path: Path) -> None:
    path = tmp_path / "eyes.safetensors"
    save_file(until("layer1"), path, {"license": "CC0-1.0", "by": "somebody"})
    assert fingerprint(read(path)) == fingerprint(until("layer1"))
    assert metadata(path) == {"license": "CC0-1.0", "by": "somebody"}
    provenance = find(ROW, path).provenance
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert provenance == Provenance(kind="file", name="eyes.safetensors", sha256=sha256, licence="CC0-1.0")
    assert file_hash(path) == sha256


def test_a_file_that_states_no_licence_says_so(tmp_path: Path) -> None:
    torch.save(until("layer1"), tmp_path / "eyes.pth")
    assert metadata(tmp_path / "eyes.pth") == {}
    assert find(ROW, tmp_path / "eyes.pth").provenance.licence == "not stated in the file: yours to check"


def test_half_precision_files_are_loaded_into_float32(tmp_path: Path) -> None:
    path = tmp_path / "eyes.safetensors"
    halves = {name: t.half() if t.is_floating_point() else t for name, t in retina_state().items()}
    save_file(halves, path)
    encoder = build("retina", weights=path, device="cpu")
    assert {t.dtype for t in encoder.state().values()} == {torch.float32, torch.int64}
    assert all(torch.equal(t, halves[name].to(t.dtype)) for name, t in encoder.state().items())


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(permille=st.integers(1, 999))
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, suffix: str, permille: int) -> None:
    whole, path = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    if not whole.exists():
        state = {name: t for name, t in until("layer1").items() if name.startswith("layer1.0")}
        if suffix == ".pth":
            torch.save(state, whole)
        else:
            save_file(state, whole)
    content = whole.read_bytes()
    path.write_bytes(content[: permille * len(content) // 1000])
    with pytest.raises(EncoderError) as caught:
        find(ROW, path)
    assert str(path) in str(caught.value)
    assert "damaged" in str(caught.value)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_an_empty_file_is_refused(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"empty{suffix}").touch()
    with pytest.raises(EncoderError, match=r"empty\S+ is damaged"):
        find(ROW, tmp_path / f"empty{suffix}")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(min_size=1, max_size=60))
def test_a_file_of_any_other_bytes_is_refused_with_a_sentence(tmp_path: Path, content: bytes) -> None:
    for suffix in (".pth", ".safetensors"):
        path = tmp_path / f"noise{suffix}"
        path.write_bytes(content)
        with pytest.raises(EncoderError) as caught:
            find(ROW, path)
        assert str(path) in str(caught.value)


class Trap:
    """Unpickled, this would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_weights_file_is_refused_and_does_not_run(tmp_path: Path, legacy: bool) -> None:
    proof = tmp_path / "the code ran"
    path = tmp_path / "trap.pth"
    if legacy:
        path.write_bytes(pickle.dumps({"conv1.weight": Trap(proof)}, protocol=2))
    else:
        torch.save({"conv1.weight": Trap(proof)}, path)
    with pytest.raises(EncoderError, match="stillsight runs no code from a weights file") as caught:
        find(ROW, path)
    assert "torch.save(model.state_dict(), FILE)" in str(caught.value)
    assert not proof.exists()
    if not legacy:
        torch.load(path, weights_only=False)  # what the refusal prevents
        assert proof.exists()


@pytest.mark.parametrize(("content", "kind"), [([1, 2], "list"), (torch.ones(3), "Tensor"), ({"a": 1}, "dict")])
def test_a_file_that_holds_something_else_is_told_what_to_hold(tmp_path: Path, content: object, kind: str) -> None:
    torch.save(content, tmp_path / "eyes.pth")
    with pytest.raises(EncoderError, match=rf"holds {kind}, not a state_dict of tensors\. Save model\.state_dict\(\)"):
        read(tmp_path / "eyes.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_by_name(tmp_path: Path, value: float) -> None:
    state = {name: tensor.clone() for name, tensor in until("layer1").items()}
    state["layer1.0.conv2.weight"][3, 2, 1, 0] = value
    save_file(state, tmp_path / "eyes.safetensors")
    with pytest.raises(EncoderError, match=r"is damaged: layer1\.0\.conv2\.weight holds values that are not finite"):
        built_from(tmp_path / "eyes.safetensors")


def test_values_that_are_none_in_float32_are_refused(tmp_path: Path) -> None:
    state = {
        name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in until("layer1").items()
    }
    state["bn1.bias"] = torch.full((64,), 1e300, dtype=torch.float64)
    save_file(state, tmp_path / "eyes.safetensors")
    with pytest.raises(EncoderError, match=r"is damaged: bn1\.bias holds values that are not finite"):
        built_from(tmp_path / "eyes.safetensors")


def test_a_variance_below_0_is_refused(tmp_path: Path) -> None:
    """Its root is none: every feature would be NaN."""
    state = until("layer1") | {"bn1.running_var": torch.full((64,), -0.5)}
    save_file(state, tmp_path / "eyes.safetensors")
    with pytest.raises(EncoderError, match=r"is damaged: bn1\.running_var holds variances below 0"):
        built_from(tmp_path / "eyes.safetensors")


def test_tensors_without_values_are_refused(tmp_path: Path) -> None:
    torch.save(until("layer1") | {"conv1.weight": torch.empty(64, 3, 7, 7, device="meta")}, tmp_path / "eyes.pth")
    with pytest.raises(
        EncoderError, match=r"conv1\.weight in eyes\.pth has no values\. Save weights that lie on a device"
    ):
        built_from(tmp_path / "eyes.pth")


def test_a_changed_bit_in_a_torch_file_is_seen_by_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "eyes.pth"
    torch.save(until("layer1"), path)
    with zipfile.ZipFile(path) as archive:
        entry = max(archive.infolist(), key=lambda one: one.file_size)
    content = bytearray(path.read_bytes())
    content[entry.header_offset + len(entry.filename) + entry.file_size // 2] ^= 4
    assert torch.load(_written(path, bytes(content)), weights_only=True), "torch does not notice"
    with pytest.raises(EncoderError, match=r"is damaged or incomplete \(the checksum of \S+ in it is another\)"):
        built_from(path)


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_tar_file_is_told_to_be_unpacked(tmp_path: Path) -> None:
    """torch's own words for it advise to load it with weights_only=False."""
    torch.save(until("layer1"), tmp_path / "eyes.pth")
    with tarfile.open(tmp_path / "eyes.tar", "w") as archive:
        archive.add(tmp_path / "eyes.pth", "eyes.pth")
    with pytest.raises(EncoderError, match=r"is an archive \(tar\); .* Unpack it: tar -xf FILE"):
        built_from(tmp_path / "eyes.tar")


def test_a_path_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(EncoderError) as caught:
        find(ROW, tmp_path / "nowhere.pth")
    assert str(caught.value) == (
        f"There is no file {tmp_path / 'nowhere.pth'}. Give --weights a safetensors or .pth file, or a run folder."
    )


# Run folders ----------------------------------------------------------------------------------------------------------


def test_the_folder_of_a_run_is_weights(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    file = tmp_path / "checkpoints" / "encoder.safetensors"
    save_file(retina_state(), file, {"license": "yours"})
    encoder = build("retina", "finetune", weights=tmp_path, device="cpu")
    assert encoder.sha256() == fingerprint(retina_state())
    assert encoder.provenance == Provenance(kind="run", name=str(tmp_path), sha256=file_hash(file), licence="yours")


def test_the_folder_of_a_run_that_trained_no_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"holds no trained encoder \(checkpoints/encoder\.safetensors is missing\)"):
        find(ROW, tmp_path)


# Fitting the network --------------------------------------------------------------------------------------------------


def test_weights_that_stop_before_the_tap_are_refused_with_the_last_complete_stage(tmp_path: Path) -> None:
    path = tmp_path / "short.safetensors"
    state = {name: t for name, t in until("layer3").items() if name != "layer3.1.conv2.weight"}
    save_file(state, path)
    with pytest.raises(EncoderError) as caught:
        built_from(path, "layer3")
    assert str(caught.value) == (
        "The weights in short.safetensors lack layer3.1.conv2.weight, which resnet18 needs to reach layer3. "
        "They are complete up to layer2: type --tap layer2."
    )
    built_from(path, "layer2")
    with pytest.raises(EncoderError, match=r"lack layer3\.1\.conv2\.weight, layer4\.0\.conv1\.weight and \d+ more"):
        built_from(path, "layer4")


@pytest.mark.parametrize("prefix", ["", "module.convnet."])
def test_the_first_layers_are_not_looked_for_inside_later_ones(tmp_path: Path, prefix: str) -> None:
    """conv1 and bn1 of a ResNet's stem are names of layers in each of its blocks, too."""
    torch.save({f"{prefix}{name}": tensor for name, tensor in resnet_state().items()}, tmp_path / "eyes.pth")
    encoder = build("resnet18", tap="stem", weights=tmp_path / "eyes.pth", device="cpu")
    assert torch.equal(encoder.state()["conv1.weight"], resnet_state()["conv1.weight"])


def test_two_networks_in_one_file_are_still_two_places(tmp_path: Path) -> None:
    student = {f"student.{name}": tensor for name, tensor in resnet_state().items()}
    teacher = {f"teacher.{name}": tensor + 1 for name, tensor in resnet_state().items()}
    torch.save(student | teacher, tmp_path / "eyes.pth")
    with pytest.raises(
        EncoderError, match=r"in 2 places \(without the prefix student\.; without the prefix teacher\.\)"
    ):
        build("resnet18", tap="stem", weights=tmp_path / "eyes.pth", device="cpu")


@pytest.mark.parametrize("tap", ["block2", "norm"])
def test_weights_of_a_deeper_transformer_are_refused(tmp_path: Path, tap: str) -> None:
    """Its first blocks have the names and shapes of this one's."""
    state = {name: tensor.detach() for name, tensor in make_backbone("vit_tiny").model.state_dict().items()}
    deeper = {name.replace("blocks.3.", "blocks.12."): t for name, t in state.items() if name.startswith("blocks.3.")}
    build("vit_tiny", tap=tap, weights=_saved(state, tmp_path / "right.pth"), device="cpu")
    with pytest.raises(EncoderError, match=r"of another network than vit_tiny, which has no blocks\.12\."):
        build("vit_tiny", tap=tap, weights=_saved(state | deeper, tmp_path / "deep.pth"), device="cpu")


def _saved(state: dict[str, Tensor], path: Path) -> Path:
    torch.save(state, path)
    return path


def test_a_hole_in_the_middle_is_not_hidden_by_what_follows(tmp_path: Path) -> None:
    path = tmp_path / "hole.safetensors"
    save_file({name: t for name, t in until("layer3").items() if name != "layer2.0.bn1.running_var"}, path)
    with pytest.raises(EncoderError, match="complete up to layer1: type --tap layer1"):
        built_from(path, "layer3")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "retina.safetensors"
    save_file(retina_state(), path)
    with pytest.raises(EncoderError, match=r"lack conv1\.weight, .* Are they weights of resnet18\?"):
        built_from(path)


def test_weights_that_lack_only_what_lies_behind_the_tap_are_fine(tmp_path: Path) -> None:
    save_file(until("layer2"), tmp_path / "early.safetensors")
    assert built_from(tmp_path / "early.safetensors", "layer2") == fingerprint(until("layer2"))


def test_files_from_before_batch_counters_are_fine(tmp_path: Path) -> None:
    state = {name: t for name, t in until("layer1").items() if not name.endswith("num_batches_tracked")}
    save_file(state, tmp_path / "old.safetensors")
    encoder = build("resnet18", tap="layer1", weights=tmp_path / "old.safetensors", device="cpu")
    assert torch.equal(encoder.state()["layer1.0.conv1.weight"], state["layer1.0.conv1.weight"])
    assert encoder.state()["bn1.num_batches_tracked"].item() == 0


def test_wrong_shapes_are_refused_by_name_and_leave_the_network_as_it_was(tmp_path: Path) -> None:
    state = dict(until("layer1"))
    state["layer1.1.conv2.weight"] = torch.zeros(64, 64, 1, 1)  # copy_ would spread this over 3 x 3 without a word
    save_file(state, tmp_path / "odd.safetensors")
    backbone = make_backbone("resnet18")
    before = fingerprint(backbone.model.state_dict(keep_vars=True))
    with pytest.raises(EncoderError) as caught:
        load_into(backbone, read(tmp_path / "odd.safetensors"), "odd.safetensors", "layer1", "resnet18")
    message = str(caught.value)
    assert "layer1.1.conv2.weight has shape (64, 64, 1, 1), and resnet18 needs (64, 64, 3, 3)" in message
    assert "odd.safetensors do not fit resnet18" in message
    assert "--weights FILE, or another --encoder." in message
    assert fingerprint(backbone.model.state_dict(keep_vars=True)) == before


def test_what_is_loaded_is_a_copy() -> None:
    content = dict(retina_state())
    backbone = make_backbone("retina")
    load_into(backbone, content, "x", "layer3", "retina")
    next(backbone.model.parameters()).data.zero_()
    assert fingerprint(retina_state()) == fingerprint(content)
    assert float(content["stem.0.weight"].abs().sum()) > 0


# Official weights: folder, variable, cache, download ------------------------------------------------------------------


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small file under an official name with the right eight digits, whose URL leads to it over loopback http."""
    served = tmp_path / "served"
    served.mkdir()
    draft = served / "draft"
    torch.save(until("layer1"), draft)
    file = draft.rename(served / f"resnet18-{file_hash(draft)[:8]}.pth")
    handler = functools.partial(Quiet, directory=str(served))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(published, "torchvision_address", lambda name: address_of(name, server.server_port, file.name))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv(sources.FOLDER_VARIABLE, raising=False)
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path / "hub"))
    yield file
    torch.hub.set_dir(before)
    server.shutdown()
    server.server_close()
    thread.join()


def address_of(name: str, port: int, file: str) -> str:
    """In place of that of resnet18's file, which is 45 MB away; of other networks the file's own."""
    return f"http://127.0.0.1:{port}/{file}" if name == "ResNet18_Weights.IMAGENET1K_V1" else ADDRESS(name)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves without a line for each request."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def found_kind(folder: Path | None = None) -> str:
    encoder = build("resnet18", tap="layer1", weights_folder=folder, device="cpu")
    assert encoder.sha256() == fingerprint(until("layer1"))
    assert "torchvision, BSD-3-Clause" in encoder.provenance.licence
    assert encoder.provenance.name.startswith("resnet18-")
    assert encoder.provenance.sha256.startswith(encoder.provenance.name[9:17])
    return encoder.provenance.kind


def test_official_weights_are_downloaded_once_and_then_cached(official: Path, tmp_path: Path) -> None:
    assert found_kind() == "download"
    assert (tmp_path / "hub" / "checkpoints" / official.name).read_bytes() == official.read_bytes()
    official.unlink()
    assert found_kind() == "cache"


def test_a_folder_comes_before_the_variable_and_the_variable_before_the_cache(
    official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found_kind()  # fills the cache
    good, bad = tmp_path / "good", tmp_path / "bad"
    for folder in (good, bad):
        folder.mkdir()
    (good / official.name).write_bytes(official.read_bytes())
    (bad / official.name).write_bytes(b"not this one")
    monkeypatch.setenv(sources.FOLDER_VARIABLE, str(good))
    assert found_kind() == "folder"
    monkeypatch.setenv(sources.FOLDER_VARIABLE, str(bad))
    assert found_kind(good) == "folder"
    with pytest.raises(EncoderError, match="damaged or not the official file"):
        found_kind()
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv(sources.FOLDER_VARIABLE, str(tmp_path / "empty"))
    assert found_kind(tmp_path) == "cache", "a folder without the file is passed over"


def test_a_folder_that_is_not_there_is_refused_with_the_name_of_the_file(official: Path, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=rf"There is no folder .*Give --weights-folder .* holds {official.name}"):
        found_kind(tmp_path / "nowhere")


def test_a_file_of_official_name_with_another_hash_is_refused(official: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    torch.save(until("layer1") | {"more": torch.ones(1)}, folder / official.name)
    with pytest.raises(EncoderError) as caught:
        found_kind(folder)
    wanted, found = official.name[9:17], file_hash(folder / official.name)[:8]
    assert f"its sha256 begins with {found}, and it should be {wanted}. Delete it" in str(caught.value)


def test_a_download_with_another_hash_is_refused_and_not_kept(official: Path, tmp_path: Path) -> None:
    official.write_bytes(official.read_bytes() + b"!")
    with pytest.raises(EncoderError, match="could not be downloaded") as caught:
        found_kind()
    assert "invalid hash value" in str(caught.value)
    assert not list((tmp_path / "hub").rglob("*.pth"))


def test_no_network_is_one_sentence_that_names_three_ways_out(official: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = f"http://127.0.0.1:9/{official.name}"
    monkeypatch.setattr(published, "torchvision_address", lambda name: closed if name == ROW.weights else ADDRESS(name))
    with pytest.raises(EncoderError) as caught:
        found_kind()
    message = str(caught.value)
    assert f"The weights {official.name} are not on this machine and could not be downloaded" in message
    for way in ("--weights-folder FOLDER", "STILLSIGHT_WEIGHTS", "--weights FILE", "--encoder retina"):
        assert way in message
    assert "\n" not in message


def test_a_file_that_is_gone_from_the_server_is_one_sentence(official: Path) -> None:
    official.unlink()
    with pytest.raises(EncoderError, match=r"could not be downloaded .*404"):
        found_kind()


@pytest.mark.usefixtures("official")
def test_a_cache_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("")
    torch.hub.set_dir(str(tmp_path / "a file" / "hub"))
    with pytest.raises(EncoderError, match="--weights-folder"):
        found_kind()


@pytest.mark.parametrize("name", [n for n, row in ENCODERS.items() if row.weights and "_Weights." in row.weights])
def test_every_rows_entry_exists_and_its_file_name_carries_its_hash(name: str) -> None:
    from torchvision.models import get_weight

    weights = ENCODERS[name].weights
    assert weights is not None
    entry: WeightsEnum = get_weight(weights)
    digits = entry.url.rsplit("/", 1)[-1].rsplit("-", 1)[-1].removesuffix(".pth")
    assert len(digits) >= 8
    assert int(digits, 16) >= 0


def test_the_real_entry_is_what_the_stand_in_stands_for() -> None:
    assert ResNet18_Weights.IMAGENET1K_V1.url.endswith("/resnet18-f37072fd.pth")


# Without weights ------------------------------------------------------------------------------------------------------


def test_encoders_without_weights_say_so() -> None:
    with pytest.raises(EncoderError, match=r"nature has no pretrained weights\. Type --mode scratch or --mode random"):
        build("nature", "frozen", device="cpu")


def test_random_weights_say_where_they_come_from() -> None:
    assert build("retina", "scratch", seed=5, device="cpu").provenance == Provenance(
        kind="random", name="seed 5", sha256="", licence="none needed"
    )


# The real files -------------------------------------------------------------------------------------------------------


@pytest.mark.real_data
def test_the_real_resnet18_is_refused_where_it_stops_and_loads_where_it_reaches(shared: Path) -> None:
    file = shared / "weights" / "resnet18-imagenet1k_v1-to-layer3.safetensors"
    with pytest.raises(EncoderError, match="complete up to layer3: type --tap layer3"):
        build("resnet18", weights=file, device="cpu")
    encoder = build("resnet18", tap="layer3", weights=file, device="cpu", precision="float32")
    assert encoder.provenance.sha256 == "1311c315502c3dfb44c888ff6fe83abfeae41f72a700116bdd655ea29705f823"
    state = read(file)
    assert all(torch.equal(tensor, state[name]) for name, tensor in encoder.state().items() if name in state)
    features = encoder(torch.full((1, 3, 64, 64), 128, dtype=torch.uint8))
    assert features.shape == (1, 256)
    assert 0 < float(features.mean()) < 10


@pytest.mark.real_data
def test_the_real_mobilenet_loads_to_its_last_stage(shared: Path) -> None:
    file = shared / "weights" / "mobilenet_v2-imagenet1k-dequantized.safetensors"
    encoder = build("mobilenet_v2", weights=file, device="cpu", precision="float32")
    assert encoder.provenance.sha256 == "9770f7af8750ba4afd90e9354bedc2ba5ce062251439a8680b5d1ccedb6ed95a"
    assert (encoder.provenance.kind, encoder.tap) == ("file", "features.18")
    features = encoder(torch.full((1, 3, 64, 64), 128, dtype=torch.uint8))
    assert features.shape == (1, 1280)
    assert float(features.max()) <= 6, "MobileNetV2 ends in ReLU6"


# What ships -----------------------------------------------------------------------------------------------------------


def test_the_shipped_encoder_is_there_small_and_what_its_card_says(root: Path) -> None:
    file = root / "encoders" / "zoo" / "pretrained" / "retina.safetensors"
    assert file.is_file()
    assert file.stat().st_size < 4_000_000
    encoder = build("retina", device="cpu")
    assert encoder.provenance.kind == "shipped"
    assert encoder.provenance.sha256 == file_hash(file)
    assert encoder.provenance.licence != "not stated in the file: yours to check"
    cards = "".join(card.read_text() for card in file.parent.glob("*.md"))
    assert file_hash(file) in cards


# What would expand ----------------------------------------------------------------------------------------------------


def test_a_zip_that_would_expand_is_refused_before_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"weight": torch.zeros(2**22)}, tmp_path / "plain.pth")
    assert set(read(tmp_path / "plain.pth")) == {"weight"}
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(tmp_path / "bomb.pth", "w") as bomb:
        for entry in plain.infolist():
            bomb.writestr(entry.filename, plain.read(entry), zipfile.ZIP_DEFLATED)
    size = (tmp_path / "bomb.pth").stat().st_size
    assert size < 2**20
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was expanded"))
    sentence = rf"bomb\.pth has {size:,} bytes and would expand to 16,7[\d,]+, and torch compresses nothing"
    with pytest.raises(EncoderError, match=sentence):
        read(tmp_path / "bomb.pth")


def test_dicts_that_stand_in_a_thousand_places_are_looked_at_once(tmp_path: Path) -> None:
    inner: dict[str, object] = {"weight": torch.zeros(1)}
    for _ in range(3):
        inner = {str(number): inner for number in range(1_000)}
    torch.save(inner, tmp_path / "many.pth")
    assert (tmp_path / "many.pth").stat().st_size < 100_000
    # A billion looks would take an hour.
    assert [place for place, _ in state_dicts(read(tmp_path / "many.pth"))] == ["0/0/0"]


def test_an_encoder_that_a_run_left_is_checked_by_its_hash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run" / "checkpoints" / "encoder.safetensors"
    path.parent.mkdir(parents=True)
    tensor_file.write(path, retina_state(), {"encoder": "retina"})
    found = find(ENCODERS["retina"], tmp_path / "run")
    assert found.encoder == "retina"
    assert fingerprint(found.content) == fingerprint(retina_state())
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    for place in (tmp_path / "run", path):
        with pytest.raises(
            EncoderError, match=r"encoder\.safetensors is damaged or incomplete \(its content is not what"
        ):
            find(ENCODERS["retina"], place)
    assert not capsys.readouterr().err
    save_file(retina_state(), path)
    find(ENCODERS["retina"], path)
    assert not capsys.readouterr().err, "of somebody's weights nobody expects a hash"
    find(ENCODERS["retina"], tmp_path / "run")
    assert "encoder.safetensors was written by a version before and has no hash" in capsys.readouterr().err
