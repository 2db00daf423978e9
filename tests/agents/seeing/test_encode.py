"""`stillsight encode`: features are the encoder's own, a sheet shows what is there, and mistakes are one sentence."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from safetensors import safe_open

from stillsight.agents.cli import main
from stillsight.agents.playing.film import film
from stillsight.agents.seeing import encode as module
from stillsight.agents.seeing import sheet
from stillsight.agents.seeing.encode import encode, tapped_map
from stillsight.agents.seeing.encode_config import EncodeConfig
from stillsight.agents.seeing.images import Images
from stillsight.agents.seeing.pca import colours, components
from stillsight.agents.seeing.sheet import chosen, neighbours
from stillsight.encoders import build
from stillsight.encoders.weights import tensor_file

EXACT: dict[str, Any] = {"device": "cpu", "precision": "float32"}


def put(path: Path, size: tuple[int, int] = (40, 32), seed: int = 0) -> np.ndarray:
    """A picture of `size` (height, width) that is decoded to exactly what is returned, uint8 [3, H, W]."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Pillow.fromarray(pixels).save(path)
    return pixels.transpose(2, 0, 1)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate(("c.png", "a.png", "b.png")):
        put(folder / name, seed=number)
    return folder


def own(pixels: list[np.ndarray], name: str = "retina", **options: Any) -> np.ndarray:
    with torch.inference_mode():
        features: torch.Tensor = build(name, **EXACT, **options)(torch.from_numpy(np.stack(pixels)))
    return features.numpy()


# Features --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"tap": "layer1", "pooling": "grid4"}, {"resolution": 24}, {"mode": "random", "seed": 3}]
)
def test_features_are_the_encoders_own_in_the_order_of_the_files(
    photos: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    out = tmp_path / "out" / "features.npy"
    encoded = encode([photos], EncodeConfig(out=out, **EXACT, **options))
    pixels = [np.asarray(Pillow.open(photos / name)).transpose(2, 0, 1) for name in ("a.png", "b.png", "c.png")]
    written = np.load(out, allow_pickle=False)
    assert (written.dtype, written.shape[0]) == (np.float32, 3)
    np.testing.assert_allclose(written, own(pixels, **options), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(written, encoded.features)
    facts = json.loads(out.with_suffix(".json").read_text())
    assert facts["names"] == encoded.names == [str(photos / name) for name in ("a.png", "b.png", "c.png")]
    assert facts["encoder_sha256"] == build("retina", **EXACT, **options).sha256()
    assert (facts["encoder"], facts["tap"]) == ("retina", options.get("tap", "layer3"))


def test_a_safetensors_file_holds_names_and_a_hash(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "features.safetensors"
    encoded = encode([photos / "c.png", photos / "a.png"], EncodeConfig(out=out, **EXACT))
    with safe_open(out, "np") as file:
        np.testing.assert_array_equal(file.get_tensor("features"), encoded.features)
        metadata = file.metadata()
    assert json.loads(metadata["names"]) == [str(photos / "c.png"), str(photos / "a.png")]
    assert (metadata["encoder"], metadata["tap"], metadata["pooling"]) == ("retina", "layer3", "global")
    assert tensor_file.verify(out).sha256 is not None


def test_images_of_several_sizes_are_encoded_each_as_it_comes(tmp_path: Path) -> None:
    sizes = [(32, 32), (32, 48), (32, 48), (64, 32)]
    pixels = [put(tmp_path / f"{number}.png", size, number) for number, size in enumerate(sizes)]
    places = [tmp_path / f"{number}.png" for number in range(4)]
    encoded = encode(places, EncodeConfig(out=tmp_path / "f.npy", **EXACT))
    for number, image in enumerate(pixels):
        np.testing.assert_allclose(encoded.features[number], own([image])[0], rtol=1e-5, atol=1e-5)


def test_batches_are_of_one_size_and_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    sizes = [(32, 32)] * 5 + [(32, 48)] + [(32, 32)]
    for number, size in enumerate(sizes):
        put(tmp_path / f"{number}.png", size)
    images = Images([tmp_path / f"{number}.png" for number in range(7)])
    assert [len(batch) for batch in module._batches(images.decode())] == [2, 2, 1, 1, 1]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A film of 12 frames, each of one grey, lighter and lighter."""
    path = tmp_path / "clip.mp4"
    with film(path, 10, 64) as shot:
        for number in range(12):
            shot.append(np.full((64, 64, 3), 20 * number, np.uint8))
    return path


def test_frames_of_a_film_are_images(clip: Path, tmp_path: Path) -> None:
    encoded = encode([clip], EncodeConfig(out=tmp_path / "f.npy", every=5, **EXACT))
    assert encoded.names == [f"{clip}#0", f"{clip}#5", f"{clip}#10"]
    decoded = list(Images([clip], every=5).decode())
    assert [round(float(image.pixels.mean()) / 20) for image in decoded] == [0, 5, 10]
    np.testing.assert_allclose(encoded.features, own([image.pixels for image in decoded]), rtol=1e-5, atol=1e-5)
    (one,) = Images([clip]).decode({f"{clip}#7"})
    assert round(float(one.pixels.mean()) / 20) == 7


def test_a_film_that_is_cut_off_is_told(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    list(Images([clip]).decode())
    assert capsys.readouterr().err == ""
    path, generator = tmp_path / "long.mp4", np.random.RandomState(0)
    with film(path, 10, 64) as shot:
        for _ in range(100):
            shot.append(generator.randint(0, 256, (64, 64, 3), np.uint8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    read = len(list(Images([path]).decode()))
    assert 10 < read < 90
    assert f"{path} says that it has 100 frames, and {read} could be read" in capsys.readouterr().err


def test_colours_of_a_film_are_red_green_and_blue(tmp_path: Path) -> None:
    path = tmp_path / "red.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (32, 32))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no MJPG")
    writer.write(np.full((32, 32, 3), (0, 0, 250), np.uint8))  # OpenCV's order
    writer.release()
    (image,) = Images([path]).decode()
    assert image.pixels[0].mean() > 200
    assert image.pixels[2].mean() < 40


def test_a_picture_that_patches_do_not_fill_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "wide.png", (64, 90))
    words = ["encode", str(tmp_path / "wide.png"), "--encoder", "vit_tiny", "--mode", "random", "--device", "cpu"]
    words += ["--tap", "block0", "--pooling", "global", "--out", str(tmp_path / "f.npy")]
    assert main(words) != 0
    told = capsys.readouterr().err
    assert "wide.png: vit_tiny cuts images into patches of 16 px, and 90 px of the images of 64 x 90 px" in told
    assert main([*words, "--resolution", "64"]) == 0


# The sheet -------------------------------------------------------------------------------------------------------


def test_components_are_those_of_a_singular_value_decomposition() -> None:
    generator = np.random.default_rng(5)
    vectors = generator.normal(size=(300, 12)) @ generator.normal(size=(12, 12))
    mean, directions = components(vectors.astype(np.float32))
    _, _, right = np.linalg.svd(vectors.astype(np.float32) - vectors.astype(np.float32).mean(0), full_matrices=False)
    signs = np.sign(right[np.arange(3), np.abs(right[:3]).argmax(1)])
    np.testing.assert_allclose(directions, right[:3] * signs[:, None], atol=1e-5)
    np.testing.assert_allclose(mean, vectors.mean(0), atol=1e-5)
    np.testing.assert_allclose(directions @ directions.T, np.eye(3), atol=1e-12)


def test_colours_are_components_over_all_maps_together() -> None:
    generator = np.random.default_rng(6)
    maps = [
        generator.normal(size=(5, 4, 6)).astype(np.float32),
        generator.normal(size=(5, 3, 3)).astype(np.float32) + 2,
    ]
    painted = colours(maps)
    assert [(image.shape, image.dtype.name) for image in painted] == [((4, 6, 3), "uint8"), ((3, 3, 3), "uint8")]
    places = np.concatenate([one.reshape(5, -1).T for one in maps]).astype(np.float64)
    _, _, right = np.linalg.svd(places - places.mean(0), full_matrices=False)
    right = right[:3] * np.sign(right[np.arange(3), np.abs(right[:3]).argmax(1)])[:, None]
    values = (places - places.mean(0)) @ right.T
    low, high = np.quantile(values, (0.01, 0.99), axis=0)
    wanted = np.rint(255 * ((values - low) / (high - low)).clip(0, 1))
    shown = np.concatenate([image.reshape(-1, 3) for image in painted])
    assert np.abs(shown - wanted).max() <= 1
    assert shown.max() == 255


@pytest.mark.parametrize("channels", [1, 2])
def test_maps_of_few_channels_and_of_one_value_have_colours_too(channels: int) -> None:
    (image,) = colours([np.arange(channels * 4, dtype=np.float32).reshape(channels, 2, 2)])
    assert (image[..., channels:] == 0).all()
    (flat,) = colours([np.ones((4, 2, 2), np.float32)])
    assert (flat == flat[0, 0]).all()


def test_neighbours_are_the_nearest_by_their_angle() -> None:
    angles = np.deg2rad([0, 10, 50, 12, 180])
    features = np.stack([np.cos(angles), np.sin(angles)], 1) * np.array([[1], [5], [1], [0.1], [1]])
    nearest, cosines = neighbours(features.astype(np.float32), [0, 2])
    assert nearest.tolist() == [[1, 3, 2], [3, 1, 0]]
    np.testing.assert_allclose(cosines[0], np.cos(np.deg2rad([10, 12, 50])), atol=1e-6)
    alone, _ = neighbours(np.ones((1, 3), np.float32), [0])
    assert alone.shape == (1, 0)
    zero, cosine = neighbours(np.zeros((2, 3), np.float32), [1])
    assert (zero.tolist(), cosine.tolist()) == ([[0]], [[0.0]])


def test_a_sheet_shows_sixteen_spread_over_all() -> None:
    assert chosen(16) == list(range(16))
    assert chosen(2) == [0, 1]
    many = chosen(1000)
    assert (len(set(many)), many[0], many[-1]) == (16, 0, 999)


def test_the_sheet_shows_picture_map_and_neighbours(tmp_path: Path) -> None:
    """Two reds and two blues: the nearest of each is the other of its colour."""
    for name, colour in (("red", (250, 0, 0)), ("blue", (0, 0, 250)), ("red2", (245, 8, 0)), ("blue2", (8, 0, 245))):
        Pillow.new("RGB", (32, 32), colour).save(tmp_path / f"{name}.png")
    places = [tmp_path / f"{name}.png" for name in ("red", "blue", "red2", "blue2")]
    path = tmp_path / "sheet.png"
    encoded = encode(places, EncodeConfig(sheet=path, tap="layer1", **EXACT))
    assert encoded.features.shape == (4, 64)
    image = np.asarray(Pillow.open(path).convert("RGB"))
    step, row = sheet.SIDE + sheet.GAP, sheet.SIDE + sheet.CAPTION + sheet.GAP
    assert image.shape == (sheet.HEAD + 4 * row + sheet.GAP, sheet.LABEL + 5 * step + sheet.GAP, 3)
    for column in range(5):
        left = sheet.LABEL + sheet.GAP + column * step
        head = image[sheet.GAP + sheet.CAPTION : sheet.HEAD, left : left + sheet.SIDE]
        assert head.min() < 100, "each column has a head"
    assert image[: sheet.GAP + sheet.CAPTION].min() < 100, "and the sheet a title"
    for line in range(4):
        top = sheet.HEAD + sheet.GAP + line * row
        assert image[top : top + sheet.SIDE, : sheet.LABEL].min() < 100, "and each row its number"
    assert (image[: sheet.HEAD, : sheet.GAP] == 255).all()
    image = image[sheet.HEAD :, sheet.LABEL :]

    def middle(line: int, column: int) -> list[int]:
        values = image[sheet.GAP + line * row + sheet.SIDE // 2, sheet.GAP + column * step + sheet.SIDE // 2]
        return [int(value) for value in values]

    assert middle(0, 0) == [250, 0, 0]
    assert middle(0, 2) == [245, 8, 0]
    assert middle(1, 2) == [8, 0, 245]
    assert middle(3, 2) == [0, 0, 250]
    assert np.abs(np.subtract(middle(0, 1), middle(2, 1))).sum() < np.abs(np.subtract(middle(0, 1), middle(1, 1))).sum()


def test_the_map_is_what_the_tap_hands_on(tmp_path: Path) -> None:
    pixels = put(tmp_path / "a.png", (32, 48))
    encoder = build("retina", tap="layer2", pooling="flatten", **EXACT)
    handed = tapped_map(encoder, pixels)
    assert handed.shape == (128, 8, 12)
    np.testing.assert_allclose(handed.reshape(1, -1), own([pixels], tap="layer2", pooling="flatten"), atol=1e-6)


def test_the_map_of_a_picture_that_is_not_square_lies_in_its_proportions(tmp_path: Path) -> None:
    pixels = put(tmp_path / "a.png", (64, 96))
    options: dict[str, Any] = {"mode": "random", "tap": "block0", "pooling": "flatten"}
    handed = tapped_map(build("vit_tiny", **options, **EXACT), pixels)
    assert handed.shape == (192, 4, 6)
    np.testing.assert_allclose(handed.reshape(1, -1), own([pixels], "vit_tiny", **options), atol=1e-5)
    path = tmp_path / "sheet.png"
    encode([tmp_path / "a.png"], EncodeConfig(encoder="vit_tiny", sheet=path, **options, **EXACT))
    assert path.is_file()


def test_the_map_of_a_transformer_is_its_patches(tmp_path: Path) -> None:
    pixels = put(tmp_path / "a.png", (48, 48))
    encoder = build("vit_b_16", "random", tap="block0", pooling="flatten", **EXACT)
    with torch.inference_mode():
        flat = encoder(torch.from_numpy(pixels)[None]).numpy()
    handed = tapped_map(encoder, pixels)
    assert handed.shape == (768, 3, 3)
    np.testing.assert_allclose(handed.reshape(1, -1), flat, atol=1e-5)


def test_the_sheet_of_a_film_is_of_its_frames(clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    encode([clip], EncodeConfig(sheet=path, out=tmp_path / "f.safetensors", every=4, **EXACT))
    image = np.asarray(Pillow.open(path).convert("L"))[sheet.HEAD :, sheet.LABEL :]
    row = sheet.SIDE + sheet.CAPTION + sheet.GAP
    greys = [int(image[sheet.GAP + line * row + 9, sheet.GAP + 9]) for line in range(3)]
    assert [round(grey / 20) for grey in greys] == [0, 4, 8]


# The command -----------------------------------------------------------------------------------------------------


def test_the_command_says_what_it_did(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "notes.txt").write_text("x")
    out, drawn = tmp_path / "features.npy", tmp_path / "sheet.png"
    words = ["encode", str(photos), "--out", str(out), "--sheet", str(drawn), "--device", "cpu"]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert "retina to layer3, pooling global" in captured.out
    assert "3 images x 256 numbers" in captured.out
    assert "passed over: 1 files that are no pictures by their ending (.txt 1)" in captured.err
    assert main(words) == 2
    assert f"{out} is there already. Type --overwrite, or another name." in capsys.readouterr().err
    out.unlink()
    assert main(words) == 2
    assert f"{out.with_suffix('.json')} is there already." in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0


def test_broken_pictures_are_skipped_where_that_is_asked_for(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "b.png").write_text("no picture")
    words = ["encode", str(photos), "--out", str(tmp_path / "f.npy"), "--sheet", str(tmp_path / "s.png")]
    assert main(words) == 2
    assert "b.png cannot be read as a picture" in capsys.readouterr().err
    assert main([*words, "--skip-broken"]) == 0
    assert capsys.readouterr().err.count("skipped. ") == 1
    assert np.load(tmp_path / "f.npy").shape == (2, 256)


def test_a_broken_film_is_skipped_too(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cut.mp4").write_bytes(b"no film")
    words = ["encode", str(tmp_path / "cut.mp4"), str(photos), "--out", str(tmp_path / "f.npy")]
    assert main(words) == 2
    assert "--skip-broken" in capsys.readouterr().err
    assert main([*words, "--skip-broken"]) == 0
    assert "skipped. " in capsys.readouterr().err


def test_every_place_of_pictures_that_lie_otherwise_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The failure it prevents: a picture and the same one turned have as many places, and columns of two meanings."""
    for name, size in (("a", (48, 32)), ("b", (32, 48))):
        Pillow.new("RGB", size).save(tmp_path / f"{name}.png")
    words = ["encode", str(tmp_path), "--pooling", "flatten", "--out", str(tmp_path / "f.npy")]
    assert main(words) == 2
    assert "keeps each place of an image" in capsys.readouterr().err
    assert main([*words, "--resolution", "32"]) == 0
    assert json.loads((tmp_path / "f.json").read_text())["computed_in"] in ("bf16", "float32")


def test_a_third_partys_encoder_is_used_by_its_name(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_seeing.py").write_text(
        "from torch import nn\nfrom stillsight.encoders import Backbone, Preprocessing\n\n\ndef tiny():\n"
        "    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4))\n"
        "    return Backbone(model=model, stages={'low': model[0]}, preprocessing=Preprocessing(), tap='low')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    words = ["encode", str(photos), "--encoder", "their_seeing:tiny", "--mode", "random", "--out", "f.npy"]
    assert main([*words, "--sheet", "s.png"]) == 0
    assert np.load(tmp_path / "f.npy").shape == (3, 8)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "encode",
            "encode needs IMAGE|VIDEO [IMAGE|VIDEO ...]. Type, say: stillsight encode photo.png --sheet",
        ),
        ("encode photos", "encode would write nothing. Type --out features.npy, or --sheet sheet.png."),
        ("encode gone.png --out f.npy", "There is no file or folder gone.png"),
        ("encode empty --out f.npy", "The folder empty holds no pictures"),
        ("encode notes.txt --out f.npy", "notes.txt cannot be read as a picture"),
        ("encode notes.txt --out f.npy --skip-broken", "None of the files can be read as a picture"),
        ("encode notes.mp4 --out f.npy", "notes.mp4 cannot be read as a film"),
        (
            "encode photos --out f.csv",
            "f.csv ends in .csv, which is no format of features here. Type .npy",
        ),
        (
            "encode photos --out f",
            "f ends in nothing, which is no format of features here. Type .npy",
        ),
        ("encode photos --sheet s.jpg", "--sheet s.jpg ends in .jpg, and a sheet is a .png. Type, say: --sheet s.png"),
        ("encode photos --out there.npy", "there.npy is there already. Type --overwrite, or another name."),
        ("encode tiny.png --out f.npy", "tiny.png: retina needs images of at least 8 px to reach layer3"),
        ("encode photos --out f.npy --resolution 4", "retina needs images of at least 8 px to reach layer3"),
        ("encode photos --out f.npy --every 3", "--every 3 is for films, and has no effect on pictures. Drop --every."),
        (
            "encode photos --out f.npy --weights tiny.png",
            "tiny.png is no weights file, or damaged from its first byte on. Name a safetensors file, or a .pth",
        ),
        ("encode photos --out f.npy --pooling attention4", "--pooling attention4 learns, and encode does not"),
        ("encode photos --out f.npy --tap stem,layer1 --pooling global,conv8", "--pooling conv8 learns, and encode"),
        ("encode photos --out f.npy --every 0", "--every 0 takes no frame. Type a number from 1."),
        ("encode photos --out f.npy --mode finetune", "--mode finetune trains, and encode does not."),
        ("encode photos --out f.npy --seed 3", "--seed has no effect with --mode frozen"),
        ("encode photos --out f.npy --unfreeze layer2", "encode has no flag --unfreeze"),
        (
            "encode photos tiny.png --out f.npy --tap stem --pooling flatten",
            "because they differ in size. Add",
        ),
        (
            "encode photos --sheet s.png --tap layer1,layer2 --pooling grid2",
            "A sheet shows the map of one tap, and --tap layer1,layer2 names several. Type one, or drop --sheet.",
        ),
        ("encode photos --out f.npy --encoder reznet18", "There is no encoder named 'reznet18'"),
    ],
)
def test_mistakes_are_one_sentence(
    words: str,
    sentence: str,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert photos.is_dir()
    (tmp_path / "empty").mkdir()
    for name in ("notes.txt", "notes.mp4"):
        (tmp_path / name).write_text("no picture")
    (tmp_path / "there.npy").touch()
    put(tmp_path / "tiny.png", (6, 40))
    before = {path.name for path in tmp_path.iterdir()}
    assert main(words.split()) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if "skipped. " not in line]
    assert len(error) == 1
    assert sentence in error[0]
    assert {path.name for path in tmp_path.iterdir()} == before
