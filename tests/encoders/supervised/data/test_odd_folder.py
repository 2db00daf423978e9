"""One folder with everything odd that people's folders hold: what is used, passed over and broken is counted."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import v2

from stillsight.encoders import EncoderError
from stillsight.encoders.supervised.data import dataset as datasets
from stillsight.encoders.supervised.data import picture
from stillsight.encoders.supervised.data.decoded import _key
from stillsight.encoders.supervised.data.image_folder import ImageFolder, read
from stillsight.encoders.supervised.data.search import ENDINGS, find

SIDE = 8
DOLLARS = "$100_to_$200"
LATIN = b"caf\xe9"
"""A name that is no UTF-8."""


def flat(path: Path, red: int, **options: object) -> Path:
    """A file of one colour (red, 0, 100)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIDE, SIDE), (red, 0, 100)).save(path, **options)  # type: ignore[arg-type]
    return path


def square(path: Path, inside: tuple[int, int, int, int]) -> None:
    """A square of colour and alpha `inside` on a transparent black ground."""
    pixels = np.zeros((SIDE, SIDE, 4), np.uint8)
    pixels[2:6, 2:6] = inside
    Image.fromarray(pixels).save(path)


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Three classes with 33 pictures that can be read, three that are broken, and much that is passed over."""
    folder = tmp_path / "odd"
    latin = Path(os.fsdecode(os.path.join(os.fsencode(folder), LATIN)))
    for number in range(10):  # 20 plain ones
        flat(folder / "cats" / f"{number}.png", number)
        flat(latin / f"{number}.png", 100 + number)
    prices = folder / DOLLARS
    for number, ending in enumerate(("jfif", "jpe", "gif", "avif", "JPG", "tga")):  # 6, of which training knew one
        kind = {"jfif": "JPEG", "jpe": "JPEG"}.get(ending)
        flat(prices / f"{number}.{ending}", 140 + 20 * number, **({"format": kind} if kind else {}))
    # Seven that are seen otherwise than they lie in their files.
    square(prices / "black.png", (0, 0, 0, 255))
    square(prices / "white.png", (255, 255, 255, 255))
    ramp = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    Image.fromarray((ramp / 64).astype(np.float32)).save(prices / "float.tif")
    Image.fromarray((9 - ramp * 1_000_000).astype(np.int32)).save(prices / "long.tif")
    Image.fromarray((ramp * 60).astype(np.uint16)).save(prices / "twelve.png")
    frames = [Image.new("RGB", (SIDE, SIDE), (0, green, 0)) for green in (90, 180)]
    frames[0].save(prices / "film.gif", save_all=True, append_images=frames[1:])
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    bright_above = np.zeros((SIDE, SIDE, 3), np.uint8)
    bright_above[: SIDE // 2] = 255
    Image.fromarray(bright_above).save(prices / "turned.jpg", exif=exif, quality=95)
    whole = (prices / "turned.jpg").read_bytes()
    (prices / "turned.jpg").write_bytes(whole.replace(b"\x01\x0f\x00\x02", b"\x01\x1a\x00\x02"))
    # Three that are broken.
    (prices / "gone.png").symlink_to(folder / "nowhere.png")
    (prices / "empty.webp").touch()
    (prices / "cut.bmp").write_bytes((flat(tmp_path / "whole.bmp", 9).read_bytes())[:60])
    # And what is passed over: 3 links, 6 hidden or junk, 1 pipe, 3 files of other kinds, 1 picture beside the classes.
    (folder / "cats" / "loop").symlink_to(folder / "cats")
    (folder / "cats" / "up").symlink_to(tmp_path)
    (folder / "cats" / "again.png").symlink_to(latin / "0.png")
    for name in (".ipynb_checkpoints", "__MACOSX", "deep/.thumbnails", "deep/@eaDir"):
        flat(folder / "cats" / name / "0-checkpoint.png", 0)
    (folder / "cats" / "._0.png").write_bytes(b"AppleDouble")
    (folder / ".git").mkdir()
    os.mkfifo(folder / "cats" / "pipe.png")
    (folder / "cats" / "labels.csv").touch()
    (folder / "cats" / "README").touch()
    (folder / "notes.txt").touch()
    flat(folder / "cover.png", 33)
    # Two equal to another picture: one in its own class, one in another.
    shutil.copy(folder / "cats" / "3.png", folder / "cats" / "3 (copy).png")
    shutil.copy(folder / "cats" / "4.png", prices / "4.png")
    return folder


USED, BROKEN = 35, 3


def everything(folder: Path) -> ImageFolder:
    return read(folder, SIDE, 0.1, None)


def test_used_broken_and_passed_over_pictures_are_counted_exactly(odd: Path) -> None:
    found = everything(odd)
    assert sorted(found.classes) == [DOLLARS, r"caf\xe9", "cats"]
    assert len(found.labelled) + len(found.test) == USED
    labels = torch.cat([found.labelled.labels, found.test.labels])
    counted = dict(zip(found.classes, labels.bincount().tolist(), strict=True))
    assert counted == {DOLLARS: 14, "cats": 11, r"caf\xe9": 10}
    prices = [f"{DOLLARS}/{name}" for name in ("cut.bmp", "empty.webp", "gone.png")]
    assert list(found.notes) == [
        f"{BROKEN} broken images left out: {', '.join(prices)}",
        "2 pictures with transparency are shown on white",
        "1 pictures with transparency are nothing but one colour on that white",
        "2 pictures of floats or 32 bits a pixel are scaled, each from its own lowest and highest value to 0..255",
        "1 pictures of 16 bits use less than a sixteenth of their range, and are nearly black in 8 bits",
        "1 pictures have several frames or pages, of which the first is seen",
        "2 pictures equal another and stay on its side of every split: cats/3.png = cats/3 (copy).png, "
        f"cats/4.png = {DOLLARS}/4.png",
        f"1 of them under another class, which contradicts itself: cats/4.png = {DOLLARS}/4.png",
        "passed over: 3 files that are no pictures by their ending (.csv 1, .txt 1, no ending 1), 6 hidden files, "
        "hidden folders and folders of the system, 3 links to what is read already, 1 pipes and devices, "
        "1 pictures beside the classes",
    ]


def test_predict_finds_the_same_pictures(odd: Path) -> None:
    paths, passed = find([odd])
    assert len(paths) == USED + BROKEN + 1, "and the one beside the classes"
    assert passed.endings == Counter({".csv": 1, ".txt": 1, "no ending": 1})
    assert (passed.hidden, passed.repeated, passed.special, passed.loose) == (6, 3, 1, 0)


def test_equal_pictures_are_on_one_side_of_every_split(odd: Path) -> None:
    found = datasets.load(str(odd), Path(), side=SIDE, skip_broken=0.1)
    sides = [
        {image.numpy().tobytes() for image in split.images} for split in (found.train, found.validation, found.test)
    ]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
    assert sum(map(len, sides)) == USED - 2


def test_a_third_of_equal_pictures_does_not_leak_under_any_seed(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(10):
            pixels = torch.randint(0, 256, (SIDE, SIDE, 3), dtype=torch.uint8, generator=generator).numpy()
            for copy in range(3):
                Image.fromarray(pixels).save(tmp_path / name / f"{number}-{copy}.png")
    for seed in range(5):
        subset = datasets.Subset(fraction=0.7, seed=seed)
        found = datasets.load(str(tmp_path), Path(), subset=subset)
        sides = [
            {image.numpy().tobytes() for image in split.images} for split in (found.train, found.validation, found.test)
        ]
        assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]
        assert len(found.test) == 12


# Parts ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "validated"),
    [
        (("train", "test"), False),
        (("Train", "Test"), False),
        (("train", "valid"), False),
        (("TRAIN", "Val"), False),
        (("training", "validation"), False),
        (("Training", "Testing"), False),
        (("train", "test", "valid"), True),
        (("Train", "TEST", "Validation"), True),
    ],
)
def test_parts_have_the_usual_names_in_any_case(tmp_path: Path, names: tuple[str, ...], validated: bool) -> None:
    for place, name in enumerate(names):
        for label, animal in enumerate(("cat", "dog")):
            for number in range(4):
                flat(tmp_path / name / animal / f"{number}.png", 50 * place + 10 * label + number)
    (tmp_path / "masks").mkdir()
    found = read(tmp_path, None, 0.0, None)
    assert found.classes == ("cat", "dog")
    assert found.labelled.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 10, 11, 12, 13]
    assert found.test.images[:, 0, 0, 0].tolist() == [50, 51, 52, 53, 60, 61, 62, 63]
    assert (found.validation is not None) is validated
    if found.validation is not None:
        assert found.validation.images[:, 0, 0, 0].tolist() == [100, 101, 102, 103, 110, 111, 112, 113]
    assert found.notes[-1] == "masks/ is not used"


def test_pictures_of_two_parts_are_learned_in_neither(tmp_path: Path) -> None:
    for place, name in enumerate(("train", "valid", "test")):
        for label, animal in enumerate(("cat", "dog")):
            for number in range(4):
                flat(tmp_path / name / animal / f"{number}.png", 50 * place + 10 * label + number)
    shutil.copy(tmp_path / "test" / "cat" / "0.png", tmp_path / "train" / "cat" / "leak.png")
    shutil.copy(tmp_path / "test" / "cat" / "1.png", tmp_path / "valid" / "cat" / "leak.png")
    (tmp_path / "train" / "dog" / "link.png").symlink_to(tmp_path / "valid" / "dog" / "2.png")
    found = read(tmp_path, None, 0.0, None)
    assert found.validation is not None
    assert [len(split) for split in (found.labelled, found.validation, found.test)] == [8, 8, 8]
    assert list(found.notes) == [
        "1 pictures of valid/ equal ones of test/ and are left out: valid/cat/leak.png",
        "1 pictures of train/ equal ones of test/ and are left out: train/cat/leak.png",
        "1 pictures of train/ equal ones of valid/ and are left out: train/dog/link.png",
    ]
    shutil.rmtree(tmp_path / "train" / "cat")
    shutil.copytree(tmp_path / "test" / "cat", tmp_path / "train" / "cat")
    with pytest.raises(EncoderError, match=r"All pictures of class cat in .*train lie in .*test too\. Give each part"):
        read(tmp_path, None, 0.0, None)


@pytest.mark.parametrize(
    "names", [("fold1", "fold2"), ("images_train", "images_held_out"), ("set a", "set b", "set c")]
)
def test_parts_of_other_names_are_no_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    for place, name in enumerate(names):
        for animal in ("cat", "Dog" if place else "dog"):
            flat(tmp_path / name / animal / "0.png", place)
    first, second, *_ = sorted(names)
    words = rf"{first}/ and {second}/ hold nothing but sub-folders of equal names \(cat, dog\).*--dataset"
    with pytest.raises(EncoderError, match=words):
        read(tmp_path, None, 0.0, None)


def test_classes_may_have_sub_folders_and_be_called_train(tmp_path: Path) -> None:
    for name in ("car/red/0", "car/red/1", "plane/jet/0", "plane/1", "train/0", "train/1"):
        flat(tmp_path / f"{name}.png", len(name))
    found = read(tmp_path, None, 0.0, None)
    assert found.classes == ("car", "plane", "train")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (("train/0", "test/0"), r"test has no sub-folders, and by its name it is a part|train has no sub-folders"),
        (
            ("train/cat/0", "train/dog/0", "test/0"),
            r"test has no sub-folders, and by its name it is a part of a data set",
        ),
        (
            ("train/cat/0", "Train/cat/0", "test/cat/0"),
            r"has Train/ and train/, and both mean train\. Rename one",
        ),
        (("val/cat/0", "valid/cat/0", "train/cat/0"), r"has val/ and valid/, and both mean validation"),
        (("train/cat/0", "train/dog/0"), r"has 1 sub-folder.*, or take the 2 in train/: --dataset .*train\.$"),
    ],
)
def test_parts_that_are_not_whole_are_one_sentence(tmp_path: Path, files: tuple[str, ...], words: str) -> None:
    for name in files:
        flat(tmp_path / f"{name}.png", 1)
    with pytest.raises(EncoderError, match=words):
        read(tmp_path, None, 0.0, None)


def test_a_class_that_is_a_link_to_nothing_is_not_left_out_in_silence(tmp_path: Path) -> None:
    for name in ("cat/0", "cat/1", "dog/0", "dog/1"):
        flat(tmp_path / f"{name}.png", ord(name[0]) + ord(name[-1]))
    (tmp_path / "fox").symlink_to(tmp_path / "unmounted")
    with pytest.raises(EncoderError, match=r"fox is a link that leads nowhere, and may have been a class"):
        read(tmp_path, None, 0.0, None)


def test_one_image_a_class_leaves_nothing_to_test_on(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for number in range(3):
            flat(tmp_path / name / f"{number}.png", ord(name[0]))  # three equal ones are one
    with pytest.raises(EncoderError, match=r"leaves no images to test on: no class has two that differ.* test/ beside"):
        datasets.load(str(tmp_path), Path())


# Pixels ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_shape_on_a_transparent_ground_is_seen_on_white(tmp_path: Path, mode: str) -> None:
    square(tmp_path / "a.png", (0, 0, 0, 255))
    image = Image.open(tmp_path / "a.png")
    if mode == "P":
        image = image.convert("RGBA").quantize(4)
    image.convert(mode).save(tmp_path / "b.png")
    found = picture.decode(tmp_path / "b.png")
    expected = np.full((3, SIDE, SIDE), 255)
    expected[:, 2:6, 2:6] = 0
    assert np.array_equal(found.pixels, expected)
    assert found.traits == ("transparent",)


def test_what_shines_through_halfway_is_mixed_and_what_is_opaque_is_no_transparency(tmp_path: Path) -> None:
    square(tmp_path / "half.png", (200, 0, 0, 128))
    assert picture.read(tmp_path / "half.png")[:, 3, 3].tolist() == pytest.approx([227, 127, 127], abs=1)
    Image.new("RGBA", (SIDE, SIDE), (1, 2, 3, 255)).save(tmp_path / "opaque.png")
    assert picture.decode(tmp_path / "opaque.png").traits == ()


@pytest.mark.parametrize(
    ("numbers", "kind"),
    [
        (np.linspace(0, 1, 64), np.float32),
        (np.linspace(-1000, 3000, 64), np.float32),  # Hounsfield units
        (np.linspace(1e-30, 1e-29, 64), np.float32),
        (np.linspace(-3e38, 3e38, 64), np.float32),
        (np.linspace(0, 200, 64), np.int32),
        (np.linspace(-(2**31), 2**31 - 1, 64), np.int32),
    ],
)
def test_floats_and_32_bits_keep_what_8_bits_can_hold(tmp_path: Path, numbers: np.ndarray, kind: type) -> None:
    grey = numbers.astype(kind).reshape(SIDE, SIDE)
    Image.fromarray(grey).save(tmp_path / "a.tif")
    found = picture.decode(tmp_path / "a.tif")
    exact = grey.astype(np.float64)
    expected = 255 * ((exact - exact.min()) / (exact.max() - exact.min()))
    assert np.abs(found.pixels[0] - expected).max() <= 0.5 + 1e-6
    assert found.traits == ("scaled",)


def test_numbers_that_are_none_do_not_spoil_the_others(tmp_path: Path) -> None:
    grey = np.linspace(0, 1, 64, dtype=np.float32).reshape(SIDE, SIDE)
    grey[0, 0], grey[0, 1], grey[7, 7] = np.nan, -np.inf, np.inf
    Image.fromarray(grey).save(tmp_path / "a.tif")
    found = picture.read(tmp_path / "a.tif")[0]
    assert [found[0, 0], found[0, 1], found[0, 2], found[7, 6], found[7, 7]] == [0, 0, 0, 255, 255]
    Image.fromarray(np.full((SIDE, SIDE), np.nan, np.float32)).save(tmp_path / "b.tif")
    with pytest.raises(EncoderError, match=r"b\.tif cannot be read as a picture \(none of its numbers is finite\)"):
        picture.read(tmp_path / "b.tif")
    Image.fromarray(np.full((SIDE, SIDE), 7.0, np.float32)).save(tmp_path / "c.tif")
    assert not picture.read(tmp_path / "c.tif").any()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_folder_is_resized_as_the_encoder_was_trained(tmp_path: Path, interpolation: picture.Interpolation) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        pixels = np.random.default_rng(ord(name[0])).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pets" / name / "0.png")
    folder = tmp_path / "pets"
    found = read(folder, 11, 0.0, tmp_path / "cache", interpolation=interpolation).labelled.images
    whole = read(folder, None, 0.0, None).labelled.images
    resize = v2.Resize((11, 11), v2.InterpolationMode(interpolation), antialias=True)
    assert torch.equal(found, resize(whole))
    other: picture.Interpolation = "bicubic" if interpolation == "bilinear" else "bilinear"
    assert not torch.equal(read(folder, 11, 0.0, tmp_path / "cache", interpolation=other).labelled.images, found)


# Caches ---------------------------------------------------------------------------------------------------------------


def test_decoded_images_are_named_after_the_rules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    paths = [flat(tmp_path / "a.png", 1)]
    now = _key(paths, 8, "bilinear")
    assert _key(paths, 8, "bicubic") != now
    assert _key(paths, None, "bicubic") == _key(paths, None, "bilinear"), "nothing is resized"
    monkeypatch.setattr(picture, "VERSION", 1)
    assert _key(paths, 8, "bilinear") != now
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    assert _key([tmp_path / "gone.png", Path(os.fsdecode(LATIN))], 8, "bilinear")


@pytest.mark.parametrize("kind", ["a file in its place", "another user's", "an input and output error"])
def test_decoded_images_that_cannot_be_kept_cost_no_run(
    odd: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    reason = "File exists"
    if kind == "a file in its place":
        cache.touch()
    else:
        reason = "Permission denied" if kind == "another user's" else "Input/output error"

        def refuse(*_: object) -> None:
            raise OSError(13 if kind == "another user's" else 5, reason)

        monkeypatch.setattr("stillsight.encoders.supervised.data.decoded._keep", refuse)
    found = read(odd, SIDE, 0.1, cache)
    assert torch.equal(found.labelled.images, everything(odd).labelled.images)
    assert (
        f"the decoded images could not be kept in {cache} ({reason}), and the next run decodes them again"
        in found.notes
    )


def test_what_is_said_of_the_pictures_is_said_again_from_the_cache(odd: Path, tmp_path: Path) -> None:
    decoded = [read(odd, SIDE, 0.1, tmp_path / "cache") for _ in range(2)]
    assert decoded[0].notes == decoded[1].notes
    assert torch.equal(decoded[0].labelled.images, decoded[1].labelled.images)


def test_one_list_of_endings_serves_training_and_predicting() -> None:
    known = set(Image.registered_extensions())
    assert set(IMG_EXTENSIONS) | {".jfif", ".jpe", ".gif", ".avif"} <= set(ENDINGS) <= known
