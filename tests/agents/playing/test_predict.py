"""A finished cifar run predicts: what it says of pixels and of picture files, and what it says when it cannot."""

from __future__ import annotations

import json
import os
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from stillsight.agents.errors import RunError
from stillsight.agents.playing.classify import load
from stillsight.agents.playing.predict import _batches, predict
from stillsight.agents.playing.predict_config import PredictConfig
from stillsight.encoders import Encoder, EncoderError, Mode, build
from stillsight.encoders.building import build as build_encoder
from stillsight.encoders.config import EncoderConfig
from stillsight.encoders.reference_features import reference_features
from stillsight.encoders.supervised.cifar_config import HeadKind
from stillsight.encoders.supervised.data import image_folder as folders
from stillsight.encoders.supervised.data import picture, search
from stillsight.encoders.supervised.heads import kinds
from stillsight.encoders.weights import tensor_file
from stillsight.encoders.zoo.registry import make_backbone

AGENT = {"command": "rl", "env": "stillsight/Orchard-v0", "algo": "ppo", "encoder": "retina", "mode": "frozen"}
ANIMALS = ["cat", "dog", "eel"]
WIDTH = 128  # of retina's features at layer2


def noise(count: int = 4, side: int = 32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def linear(seed: int = 0, classes: int = 3, width: int = WIDTH) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(classes, width, generator=generator),
        "bias": torch.randn(classes, generator=generator),
    }


def finish(
    folder: Path, encoder: Encoder, choice: dict[str, Any], head: dict[str, Tensor], kind: str = "linear", **facts: Any
) -> Path:
    """A run folder as `learn` leaves it."""
    record = {"command": "cifar", "dataset": "cifar10", "epochs": 3, "encoder": "retina", "tap": "layer2", **choice}
    summary = {"classes": ANIMALS, "image_size": [32, 32], "encoder_sha256_after": encoder.sha256()}
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"precision": "float32", **record}))
    (folder / "summary.json").write_text(json.dumps(summary | facts))
    (folder / "done").touch()
    tensor_file.write(folder / "checkpoints" / "head.safetensors", head, {"head": kind})
    if Mode(choice["mode"]).trained:
        store(encoder.state(), folder / "checkpoints" / "encoder.safetensors")
    return folder


def store(state: dict[str, Tensor], path: Path) -> Path:
    tensor_file.write(path, state)
    return path


def eyes(seed: int = 0, **changes: Any) -> Encoder:
    return build("retina", "random", tap="layer2", seed=seed, precision="float32", device="cpu", **changes)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A run that trained its encoder from scratch."""
    return finish(tmp_path / "run", eyes(seed=5), {"mode": "scratch", "unfreeze": "layer1"}, linear())


# Predicting -----------------------------------------------------------------------------------------------------------


def test_a_trained_run_predicts_with_what_it_ended_with(trained: Path) -> None:
    images, head = noise(), linear()
    predictor = load(trained, device="cpu")
    expected = F.softmax(F.linear(eyes(seed=5)(images), **head), 1)
    found = predictor.predict(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert torch.equal(predictor.predict(images.numpy()), found), "numpy is as good"
    assert predictor.classes == ("cat", "dog", "eel")
    assert not torch.allclose(found, F.softmax(F.linear(eyes(seed=0)(images), **head), 1), atol=1e-3)


def test_a_network_whose_code_changed_is_refused(trained: Path) -> None:
    encoder = eyes(seed=5)
    kept = reference_features(encoder.frozen, (32, 32), encoder.learned)
    path = store({"features": kept}, trained / "checkpoints" / "reference_features.safetensors")
    load(trained, device="cpu")
    store({"features": kept * 1.01}, path)
    with pytest.raises(EncoderError, match=r"retina that computed other features .* differ by 0\.0099 of the largest"):
        load(trained, device="cpu")
    store({"others": kept}, path)
    with pytest.raises(EncoderError, match=r"two fixed images that .* keeps are none"):
        load(trained, device="cpu")


def test_a_pooling_that_learned_predicts_with_what_it_learned(tmp_path: Path) -> None:
    choice = {"tap": "layer1,layer2", "pooling": "attention1,global"}
    encoder = build("retina", "scratch", seed=5, precision="float32", device="cpu", **choice)
    for tensor in encoder.learned.pooling_state().values():
        tensor.data.add_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)))
    head = linear(width=66 + 128)
    run = finish(tmp_path / "run", encoder, {"mode": "scratch", **choice}, head)
    file = store(encoder.learned.pooling_state(), run / "checkpoints" / "pooling.safetensors")
    found = load(run, device="cpu").predict(noise())
    torch.testing.assert_close(found, F.softmax(F.linear(encoder.eval()(noise()), **head), 1).detach())
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(EncoderError, match=r"pooling\.safetensors cannot be read"):
        load(run, device="cpu")
    file.unlink()
    with pytest.raises(EncoderError, match=r"pooling\.safetensors cannot be read"):
        load(run, device="cpu")


@pytest.mark.parametrize("mode", ["random", "frozen"])
def test_a_run_that_trained_a_head_predicts_with_it(mode: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    scaling = {"mean": torch.randn(WIDTH, generator=generator), "std": torch.rand(WIDTH, generator=generator) + 0.5}
    head, weights = linear(), None
    if mode == "frozen":
        weights = store(make_backbone("retina").model.state_dict(), tmp_path / "eyes.safetensors")
        encoder = build("retina", "frozen", tap="layer2", weights=weights, precision="float32", device="cpu")
    else:
        encoder = eyes(seed=7)
    choice = {"mode": mode, "seed": 7, "weights": None if weights is None else str(weights)}
    run = finish(tmp_path / "run", encoder, choice, head | scaling)
    images = noise()
    features = (encoder(images) - scaling["mean"]) / scaling["std"]
    torch.testing.assert_close(load(run, device="cpu").predict(images), F.softmax(F.linear(features, **head), 1))


@pytest.mark.parametrize("kind", ["linear", "mlp", "knn", "ncm"])
def test_every_kind_of_head_is_read(kind: HeadKind, tmp_path: Path) -> None:
    encoder, images, labels = eyes(seed=2), noise(30), torch.arange(30) % 3
    images[torch.arange(30), labels] //= 8
    features = encoder(images)
    fitted = kinds.fit(kind, (features[:24], labels[:24]), (features[24:], labels[24:]), 3)
    run = finish(tmp_path / "run", encoder, {"mode": "random", "seed": 2}, fitted.head.state(), kind)
    torch.testing.assert_close(load(run, device="cpu").logits(images), fitted.head(features), atol=1e-4, rtol=1e-4)


def test_a_run_that_was_tested_on_mirror_images_too_predicts_so(tmp_path: Path) -> None:
    run = finish(tmp_path / "run", eyes(seed=5), {"mode": "scratch", "tta": True}, linear())
    images, encoder = noise(), eyes(seed=5)
    both = (F.linear(encoder(images), **linear()) + F.linear(encoder(images.flip(3)), **linear())) / 2
    torch.testing.assert_close(load(run, device="cpu").logits(images), both)
    assert torch.allclose(load(run, device="cpu").logits(images.flip(3)), both, atol=1e-5)


def test_other_sizes_are_brought_to_the_size_of_the_run(trained: Path) -> None:
    predictor, large = load(trained, device="cpu"), noise(2, side=100)
    assert torch.equal(predictor.predict(large), predictor.predict(picture.resize(large, (32, 32))))


@pytest.mark.parametrize(
    "pixels",
    [noise().float(), noise()[0], noise()[:, :1], np.zeros((2, 32, 32, 3), np.uint8)],
    ids=lambda p: str(p.shape),
)
def test_other_things_than_pixels_are_one_sentence(trained: Path, pixels: Any) -> None:
    with pytest.raises(EncoderError, match=r"^predict takes pixels 0\.\.255 as uint8 \[N, 3, H, W\], and got .* Give"):
        load(trained, device="cpu").predict(pixels)


# What cannot predict --------------------------------------------------------------------------------------------------


def test_a_folder_without_a_run_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"is no run folder: it has no config\.json\. `stillsight list runs` shows the runs"
    ):
        load(tmp_path / "gone")


def test_an_agent_is_no_classifier(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(AGENT))
    with pytest.raises(RunError, match="is a run of 'rl', and only cifar runs hold a classifier"):
        load(tmp_path)


@pytest.mark.parametrize("missing", ["summary.json", "done"])
def test_a_run_that_is_not_finished_is_one_sentence(trained: Path, missing: str) -> None:
    (trained / missing).unlink()  # without done, summary.json is that of a shorter run, which goes on
    with pytest.raises(RunError, match=r"is not finished: type stillsight cifar --resume .*run\.$"):
        load(trained)


def test_a_summary_that_lacks_something_is_one_sentence(trained: Path) -> None:
    (trained / "summary.json").write_text("{}")
    with pytest.raises(RunError, match="lacks classes, image_size, encoder_sha256_after, which predicting needs"):
        load(trained)


@pytest.mark.parametrize("name", ["config.json", "summary.json"])
def test_damaged_json_is_one_sentence(trained: Path, name: str) -> None:
    (trained / name).write_text("{")
    with pytest.raises(RunError, match=rf"{name} is damaged \(Expecting property name"):
        load(trained)


@pytest.mark.parametrize(
    "head",
    [linear(classes=4), linear(width=64)],
    ids=["another number of classes", "another number of features"],
)
def test_a_head_of_another_run_is_refused(trained: Path, head: dict[str, Tensor]) -> None:
    save_file(head, trained / "checkpoints" / "head.safetensors")
    with pytest.raises(EncoderError, match=r"does not fit the encoder and the 3 classes of .* not of one run"):
        load(trained)


def test_an_encoder_of_another_run_is_refused(trained: Path) -> None:
    store(eyes(seed=6).state(), trained / "checkpoints" / "encoder.safetensors")
    with pytest.raises(EncoderError, match=r"ended with retina weights with sha256 .* Its files are not of one run"):
        load(trained)


def test_frozen_weights_that_changed_are_refused_and_the_right_ones_can_be_named(tmp_path: Path) -> None:
    for name, seed in (("right", 1), ("wrong", 2)):
        torch.manual_seed(seed)
        store(make_backbone("retina").model.state_dict(), tmp_path / f"{name}.safetensors")
    right, wrong = tmp_path / "right.safetensors", tmp_path / "wrong.safetensors"
    encoder = build("retina", "frozen", tap="layer2", weights=right, precision="float32", device="cpu")
    run = finish(tmp_path / "run", encoder, {"mode": "frozen", "weights": str(wrong)}, linear())
    with pytest.raises(
        EncoderError, match=r"and wrong\.safetensors gives .* Say where the right ones are: --weights FI"
    ):
        load(run)
    assert load(run, weights=right, device="cpu").encoder.sha256() == encoder.sha256()


def test_weights_for_a_run_that_has_its_own_are_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"\(scratch\) needs no weights from elsewhere\. Drop --weights\.$"):
        load(trained, weights=tmp_path / "other.pth")


class Trap:
    """Runs code where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", ["head", "encoder"])
def test_nothing_in_the_folder_is_executed(trained: Path, tmp_path: Path, name: str) -> None:
    trap = pickle.dumps(Trap(tmp_path / "sprung"))
    (trained / "checkpoints" / f"{name}.safetensors").write_bytes(trap)
    with pytest.raises(EncoderError, match="damaged"):
        load(trained)
    assert not (tmp_path / "sprung").exists()
    pickle.loads(trap)
    assert (tmp_path / "sprung").exists(), "the trap works"


# The command ----------------------------------------------------------------------------------------------------------

CPU = PredictConfig(device="cpu")


def write(path: Path, pixels: np.ndarray) -> Path:
    """`[3, H, W]` RGB as a file of the kind that its ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.transpose(1, 2, 0)).save(path)
    return path


@pytest.mark.parametrize("side", [None, 20])
@pytest.mark.parametrize("kind", ["png", "jpg", "grey", "palette", "glass", "turned", "deep", "cmyk"])
def test_predict_sees_a_training_file_as_training_saw_it(
    tmp_path: Path, kind: str, side: int | None, trained: Path
) -> None:
    generator = np.random.default_rng(3)
    folder = tmp_path / "pets"
    for name in ("cat", "dog"):
        image = Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        (folder / name).mkdir(parents=True)
        exif = Image.Exif()
        if kind == "turned":
            exif[0x0112] = 6
        elif kind == "deep":
            image = Image.fromarray(generator.integers(0, 65536, (32, 32), dtype=np.uint16))
        elif kind == "palette":
            image = image.quantize(16)
        elif kind in ("grey", "glass", "cmyk"):
            image = image.convert({"grey": "L", "glass": "RGBA", "cmyk": "CMYK"}[kind])
        image.save(folder / name / ("0.jpg" if kind in ("jpg", "turned", "cmyk") else "0.png"), exif=exif)
    seen = folders.read(folder, side, 0.0, None).labelled.images
    size = (side or 32, side or 32)
    found = next(_batches(search.find([folder])[0], replace(load(trained), size=size), False, Counter()))[1]
    assert torch.equal(found, seen)
    assert (found[0] != found[1]).any(), "two pictures"


def test_predict_says_what_is_on_files_and_in_folders(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = noise(3)
    paths = [
        write(tmp_path / name, image.numpy())
        for name, image in zip(("z.png", "f/a.png", "f/b.bmp"), images, strict=True)
    ]
    told = predict(trained, [tmp_path / "z.png", tmp_path / "f"], PredictConfig(device="cpu", top=2))
    lines = capsys.readouterr().out.splitlines()
    expected = load(trained, device="cpu").predict(images)
    for path, row, one, line in zip(paths, expected, told, lines, strict=True):
        values, best = row.sort(descending=True)
        assert one["image"] == str(path)
        assert [part["class"] for part in one["predictions"]] == [ANIMALS[index] for index in best[:2].tolist()]
        assert [part["probability"] for part in one["predictions"]] == pytest.approx(values[:2].tolist(), abs=1e-6)
        assert line == f"{path}: {ANIMALS[int(best[0])]} {values[0]:.1%}, {ANIMALS[int(best[1])]} {values[1]:.1%}"


def test_predict_speaks_json_one_picture_a_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.png", noise(1, side=90)[0].numpy())
    told = predict(trained, [path, path], PredictConfig(device="cpu", json=True))
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == told
    assert len(told[0]["predictions"]) == 3, "no more than there are classes"
    assert sum(part["probability"] for part in told[0]["predictions"]) == pytest.approx(1, abs=1e-6)


def test_batches_do_not_mix_pictures_up(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillsight.agents.playing.predict.BATCH", 2)
    images = noise(5)
    for index, image in enumerate(images):
        write(tmp_path / "f" / f"{index}.png", image.numpy())
    (tmp_path / "f" / "4b.png").write_bytes(b"broken")
    told = predict(trained, [tmp_path / "f"], PredictConfig(device="cpu", top=1, skip_broken=True))
    assert [Path(one["image"]).name for one in told] == [f"{index}.png" for index in range(5)]
    best = load(trained, device="cpu").predict(images).max(1).values
    assert [one["predictions"][0]["probability"] for one in told] == pytest.approx(best.tolist(), abs=1e-6)


def test_a_broken_picture_ends_the_command_or_is_skipped_and_named(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = write(tmp_path / "good.png", noise(1)[0].numpy()), tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    with pytest.raises(EncoderError, match=r"bad\.jpg cannot be read .* Leave it out, or type --skip-broken\.$"):
        predict(trained, [bad, good], CPU)
    capsys.readouterr()
    skipping = PredictConfig(device="cpu", skip_broken=True)
    assert [one["image"] for one in predict(trained, [bad, good], skipping)] == [str(good)]
    shown = capsys.readouterr()
    assert shown.err.startswith(f"stillsight: skipped. {bad} cannot be read as a picture (")
    assert "bad" not in shown.out
    with pytest.raises(EncoderError, match=r"^None of the 1 files can be read as a picture\. Give others\.$"):
        predict(trained, [bad], skipping)


def test_asking_for_nothing_is_one_sentence(trained: Path) -> None:
    with pytest.raises(EncoderError, match=r"^--top 0 names nothing\. Type a number from 1\.$"):
        predict(trained, [trained], PredictConfig(top=0))
    with pytest.raises(EncoderError, match=r"^There is no picture to look at\. Type: stillsight predict RUN IMAGE"):
        predict(trained, [], CPU)


def test_what_training_reads_predict_reads_and_says_how(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    for ending, kind in {"jfif": "JPEG", "jpe": "JPEG", "gif": "GIF", "avif": "AVIF", "tga": "TGA"}.items():
        Image.new("RGB", (32, 32), (9, 99, 199)).save(folder / f"a.{ending}", kind)
    Image.new("RGBA", (32, 32), (0, 0, 0, 90)).save(folder / "glass.png")
    Image.fromarray(np.ones((32, 32), np.float32)).save(folder / "float.tif")
    (folder / "loop").symlink_to(folder)
    (folder / ".hidden.png").touch()
    (folder / "notes.txt").touch()
    odd = Path(os.fsdecode(os.path.join(os.fsencode(folder), b"caf\xe9.png")))
    Image.new("RGB", (32, 32)).save(odd)
    told = predict(trained, [folder], PredictConfig(device="cpu", top=1))
    shown = capsys.readouterr()
    assert len(told) == 8
    assert {one["image"] for one in told} >= {str(odd), str(folder / "a.avif")}, "the path itself, for programs"
    assert rf"{folder}/caf\xe9.png: " in shown.out
    assert shown.err.splitlines() == [
        "stillsight: 1 pictures with transparency are shown on white",
        "stillsight: 1 pictures of floats or 32 bits a pixel are scaled, each from its own lowest and highest value to "
        "0..255",
        "stillsight: passed over: 1 files that are no pictures by their ending (.txt 1), 1 hidden files, hidden "
        "folders and folders of the system, 1 links to what is read already",
    ]


def test_a_dangling_link_is_a_broken_picture(trained: Path, tmp_path: Path) -> None:
    write(tmp_path / "f" / "a.png", noise(1)[0].numpy())
    (tmp_path / "f" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(EncoderError, match=r"gone\.png cannot be read as a picture \(.*No such file"):
        predict(trained, [tmp_path / "f"], CPU)
    assert len(predict(trained, [tmp_path / "f"], PredictConfig(device="cpu", skip_broken=True))) == 1


@pytest.mark.parametrize("interpolation", [None, "bilinear", "bicubic"])
def test_pictures_are_resized_as_the_runs_own_were(tmp_path: Path, interpolation: str | None) -> None:
    facts = {} if interpolation is None else {"interpolation": interpolation}
    run = finish(tmp_path / "run", eyes(seed=5), {"mode": "scratch"}, linear(), **facts)
    predictor, large = load(run, device="cpu"), noise(2, side=100)
    mode = v2.InterpolationMode(interpolation or "bilinear")  # runs of before were resized so
    expected = v2.functional.resize(large, [32, 32], mode, antialias=True)
    assert torch.equal(predictor.predict(large), predictor.predict(expected))
    path = write(tmp_path / "a.png", large[0].numpy())
    seen = next(_batches([path], predictor, False, Counter()))[1]
    assert torch.equal(seen, expected[:1])


# A run as weights -----------------------------------------------------------------------------------------------------


def test_a_frozen_run_as_weights_is_one_sentence(tmp_path: Path) -> None:
    run = finish(tmp_path / "run", eyes(), {"mode": "random"}, linear())
    choice = EncoderConfig(weights=run, device="cpu")
    choice.check_encoder(32)
    with pytest.raises(EncoderError, match=r"holds no trained encoder .*\(--mode finetune or scratch\)\.$"):
        build_encoder(choice, pinned=True)
