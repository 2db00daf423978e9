"""Image folders: every layout, size and kind of file, broken ones among them, and classes with one image."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from stillsight.agents.command_line.flag import flags
from stillsight.encoders import EncoderError
from stillsight.encoders.errors import MemoryShortError
from stillsight.encoders.supervised.cifar_config import CifarConfig
from stillsight.encoders.supervised.data import dataset as datasets
from stillsight.encoders.supervised.data import decoded as decoded_files
from stillsight.encoders.supervised.data.image_folder import ImageFolder, read
from stillsight.encoders.supervised.data.split import Dataset
from stillsight.encoders.supervised.data.subset import Subset
from stillsight.encoders.weights import tensor_file


def picture(path: Path, colour: int, size: tuple[int, int] = (8, 8)) -> None:
    """A file of one colour (colour, 0, 100), size as (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, 0, 100)).save(path)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Ten cats of reds 0 to 9, and five dogs of reds 100 to 104."""
    folder = tmp_path / "pets"
    for number in range(10):
        picture(folder / "cat" / f"{number}.png", number)
    for number in range(5):
        picture(folder / "dog" / f"{number}.png", 100 + number)
    return folder


def reds(images: Tensor) -> list[int]:
    values: list[int] = images[:, 0, 0, 0].tolist()
    return values


def load(folder: Path, **options: Any) -> Dataset:
    return datasets.load(str(folder), Path(), **options)


def test_a_folder_is_read_class_by_class(pets: Path) -> None:
    (pets / ".git").mkdir()
    (pets / "README.txt").write_text("These are pets.")
    (pets / "cat" / "notes.txt").write_text("No image, and no broken one.")
    found = read(pets, None, 0.0, None)
    assert found.classes == ("cat", "dog")
    others = "2 files that are no pictures by their ending (.txt 2)"
    assert found.notes == (f"passed over: {others}, 1 hidden files, hidden folders and folders of the system",)
    assert found.test.labels.bincount().tolist() == [2, 1], "a fifth of each class"
    assert found.labelled.labels.bincount().tolist() == [8, 4]
    assert sorted(reds(found.labelled.images) + reds(found.test.images)) == [*range(10), *range(100, 105)]
    for split in (found.labelled, found.test):
        assert split.images.dtype == torch.uint8
        assert split.images.shape[1:] == (3, 8, 8)
        assert [red >= 100 for red in reds(split.images)] == split.labels.bool().tolist()
        assert split.images[:, 1].max() == 0
        assert (split.images[:, 2] == 100).all()


def test_the_whole_set_is_cut_in_three_and_the_test_images_are_the_same_under_every_seed(pets: Path) -> None:
    found = load(pets)
    assert found.name == "pets"
    counts = [getattr(found, part).labels.bincount().tolist() for part in ("train", "validation", "test")]
    assert counts == [[7, 3], [1, 1], [2, 1]]
    other = load(pets, subset=Subset(shots=3, seed=8))
    assert torch.equal(other.test.images, found.test.images)
    assert not set(reds(other.train.images)) & set(reds(other.test.images))
    assert found.sha256() == load(pets).sha256()


def test_named_test_images_are_kept_apart(pets: Path, tmp_path: Path) -> None:
    for name in ("test", "val"):
        folder = tmp_path / name
        shutil.copytree(pets, folder / "train")
        picture(folder / name / "cat" / "new.png", 50)
        picture(folder / name / "dog" / "new.png", 150)
        found = load(folder)
        assert reds(found.test.images) == [50, 150]
        assert len(found.train) + len(found.validation) == 15
        assert found.notes == (() if name == "test" else ("val/ is tested on, for there is no test/",))
    picture(folder / "test" / "cat" / "new.png", 51)  # beside val/
    picture(folder / "test" / "dog" / "new.png", 151)
    found = load(folder)
    assert reds(found.test.images) == [51, 151]
    assert reds(found.validation.images) == [50, 150]
    assert len(found.train) == 15, "and none of them is held out"
    assert found.notes == ()
    for options, flag in (({"validation": 3}, "--validation"), ({"subset": Subset(shots=5)}, "--shots")):
        found = load(folder, **options)
        assert set(reds(found.validation.images)) <= {*range(10), *range(100, 105)}
        assert found.notes == (f"the folder's own validation images are not used: {flag} holds training images out",)


def test_one_image_of_each_class_at_least_is_held_out_as_the_flag_says(pets: Path) -> None:
    assert load(pets, validation=1).validation.labels.tolist() == [0, 1]
    told = next(flag.help for flag in flags(CifarConfig) if flag.field == "validation")
    assert "drawn class by class, at least one of each that has two: a few more than were asked for" in told


def test_train_and_test_must_have_the_same_classes(pets: Path, tmp_path: Path) -> None:
    shutil.copytree(pets, tmp_path / "all" / "train")
    picture(tmp_path / "all" / "test" / "cat" / "0.png", 0)
    picture(tmp_path / "all" / "test" / "fox" / "0.png", 0)
    with pytest.raises(EncoderError, match=r"have different classes \(dog, fox\)\. Give both a sub-folder for each"):
        load(tmp_path / "all")


def test_a_class_with_one_image_keeps_it_for_learning_and_says_so(pets: Path) -> None:
    picture(pets / "fox" / "only.png", 200)
    found = load(pets)
    assert found.classes == ("cat", "dog", "fox")
    assert reds(found.train.images).count(200) == 1
    assert 200 not in reds(found.validation.images) + reds(found.test.images)
    assert found.notes == ("one image alone, kept for learning: fox",)


def test_images_are_resized_whole_and_stand_the_way_their_camera_says(tmp_path: Path) -> None:
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[:, 20:] = 255  # the right half is white
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        Image.fromarray(wide).save(tmp_path / name / "0.png")
        turned = Image.Exif()
        turned[0x0112] = 6  # taken with the camera on its side: turn clockwise
        Image.fromarray(wide).save(tmp_path / name / "1.png", exif=turned)
        Image.fromarray(wide[:, :, 0]).save(tmp_path / name / "2.png")
        Image.fromarray(wide).save(tmp_path / name / "3.jpg", quality=95)
    found = read(tmp_path, 8, 0.0, None)
    images = torch.cat([found.labelled.images, found.test.images])
    assert images.shape == (8, 3, 8, 8)
    halves = {
        (int(i[0, 4, 0]) < 20, int(i[0, 4, 7]) > 235, int(i[0, 0, 4]) < 20, int(i[0, 7, 4]) > 235) for i in images
    }
    # Upright: left dark, right bright. Turned: top dark, bottom bright.
    assert (True, True, False, True) in halves or (True, True, False, False) in halves
    assert any(top and bottom for _, _, top, bottom in halves)


def test_images_of_several_sizes_need_a_size(pets: Path, tmp_path: Path) -> None:
    picture(pets / "dog" / "large.png", 1, (9, 8))
    words = r"have different sizes\. Say which size they shall be resized to: --resolution 64\.$"
    with pytest.raises(EncoderError, match=words):
        load(pets)
    assert load(pets, side=6).train.images.shape[2:] == (6, 6)
    picture(tmp_path / "all" / "test" / "cat" / "0.png", 0, (4, 4))
    picture(tmp_path / "all" / "test" / "dog" / "0.png", 0, (4, 4))
    (pets / "dog" / "large.png").unlink()
    shutil.copytree(pets, tmp_path / "all" / "train")
    with pytest.raises(EncoderError, match=words):
        load(tmp_path / "all")


# Broken files ---------------------------------------------------------------------------------------------------------


def broken(path: Path, kind: str) -> None:
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "text": b"this is no image"}[kind])


@pytest.mark.parametrize("kind", ["empty", "cut", "text"])
def test_broken_images_are_left_out_and_named_up_to_a_share(pets: Path, kind: str) -> None:
    broken(pets / "cat" / "3.png", kind)
    with pytest.raises(EncoderError) as caught:
        load(pets)
    assert str(caught.value) == (
        f"1 of the 15 images in {pets} are broken ({Path('cat/3.png')}), and at most 1% may be. Repair or delete them, "
        "or type --skip-broken 0.07."
    )
    found = load(pets, skip_broken=0.07)
    assert found.notes == (f"1 broken images left out: {Path('cat/3.png')}",)
    everything = reds(found.train.images) + reds(found.validation.images) + reds(found.test.images)
    assert sorted(everything) == [0, 1, 2, *range(4, 10), *range(100, 105)], "and no label slips to another image"
    labels = torch.cat([found.train.labels, found.validation.labels, found.test.labels])
    assert [red >= 100 for red in everything] == labels.bool().tolist()


def test_a_class_of_broken_images_alone_is_refused(pets: Path) -> None:
    for number in range(5):
        broken(pets / "dog" / f"{number}.png", "text")
    with pytest.raises(EncoderError, match=r"All images of class dog in .* are broken\. Repair them, or delete it"):
        load(pets, skip_broken=0.9)


@pytest.mark.parametrize("size", [None, 8])
def test_a_folder_of_broken_images_alone_is_refused(tmp_path: Path, size: int | None) -> None:
    for name in ("cat", "dog"):
        picture(tmp_path / name / "0.png", 0)
        broken(tmp_path / name / "0.png", "cut")
    with pytest.raises(EncoderError, match=r"^2 of the 2 images in .* are broken .* --skip-broken"):
        load(tmp_path, side=size)


def test_many_broken_images_are_not_all_named(pets: Path) -> None:
    for number in range(7):
        broken(pets / "cat" / f"{number}.png", "cut")
    (note,) = load(pets, skip_broken=0.5).notes
    assert note == "7 broken images left out: cat/0.png, cat/1.png, cat/2.png, cat/3.png, cat/4.png and 2 more"


# What is no image folder ----------------------------------------------------------------------------------------------


def test_one_class_is_none(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"has 0 sub-folders, and telling classes apart takes two\. Give each class"):
        load(tmp_path)
    picture(tmp_path / "cat" / "0.png", 0)
    with pytest.raises(EncoderError, match=r"has 1 sub-folder, and telling classes apart takes two\. Give each class"):
        load(tmp_path)


def test_a_class_without_images_is_refused(pets: Path) -> None:
    (pets / "fox").mkdir()
    with pytest.raises(EncoderError, match=r"no valid file for the classes fox.*Put images there, or delete"):
        load(pets)


def test_more_images_than_memory_holds_are_refused(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded_files, "available_memory", lambda: 15 * 3 * 64 - 1)
    with pytest.raises(EncoderError, match=r"15 images of 8 x 8 pixels take 2,880 bytes of memory, and 2,879 are free"):
        load(pets)


# Decoded once ---------------------------------------------------------------------------------------------------------


def decoded(folder: Path, cache: Path, side: int | None = None) -> tuple[ImageFolder, int]:
    """What the folder holds, and how many images were decoded for it."""
    shown: list[tuple[str, int, int]] = []
    found = read(folder, side, 0.5, cache, lambda *fact: shown.append(fact))
    return found, sum(total for _, _, total in shown)


def test_images_are_decoded_once(pets: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    broken(pets / "cat" / "3.png", "cut")
    first, count = decoded(pets, cache)
    assert count == 15
    again, count = decoded(pets, cache)
    assert count == 0
    assert torch.equal(again.labelled.images, first.labelled.images)
    assert torch.equal(again.labelled.labels, first.labelled.labels)
    assert again.notes == first.notes == ("1 broken images left out: cat/3.png",)
    assert decoded(pets, cache, 6)[1] == 15, "another size"
    picture(pets / "cat" / "3.png", 3)
    assert decoded(pets, cache)[1] == 15, "an image was repaired"


@pytest.mark.parametrize("why", [PermissionError(13, "Permission denied"), MemoryError()])
def test_what_was_not_given_once_is_no_broken_image_for_ever(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: Exception
) -> None:
    """The failure it prevents: a disk or memory that failed for a moment leaves an image out of every later run."""
    opens = decoded_files.picture.open_plain

    def fails(path: Path) -> Any:
        if path.name == "3.png" and path.parent.name == "cat":
            raise why
        return opens(path)

    with monkeypatch.context() as patch:
        patch.setattr(decoded_files.picture, "open_plain", fails)
        first, _ = decoded(pets, tmp_path / "cache")
    assert "1 broken images left out: cat/3.png" in first.notes
    assert any("1 of them memory or the system did not give now" in note for note in first.notes)
    again, count = decoded(pets, tmp_path / "cache")
    assert (count, again.notes) == (15, ())


def test_another_decoder_decodes_again(pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert decoded(pets, tmp_path / "cache")[1] == 15
    monkeypatch.setattr("PIL.__version__", "99.0")
    assert decoded(pets, tmp_path / "cache")[1] == 15, "its pixels may differ by a grey level"
    assert decoded(pets, tmp_path / "cache")[1] == 0


@pytest.mark.parametrize("kind", ["cut", "bit", "header"])
def test_a_damaged_image_cache_is_decoded_again(pets: Path, tmp_path: Path, kind: str) -> None:
    cache = tmp_path / "cache"
    first, _ = decoded(pets, cache)
    (file,) = cache.iterdir()
    content = bytearray(file.read_bytes())
    # "broken" is said in the header: another number there would leave out another image.
    content[content.index(b'"broken":"[') + 11 if kind == "header" else -1] ^= 1
    file.write_bytes(content[:-9] if kind == "cut" else content)
    again, count = decoded(pets, cache)
    assert count == 15
    assert torch.equal(again.labelled.images, first.labelled.images)
    assert decoded(pets, cache)[1] == 0


def test_an_image_cache_that_memory_has_no_room_for_is_kept_and_the_way_out_is_told(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    decoded(pets, cache)
    (file,) = cache.iterdir()
    content = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(tensor_file, "available_memory", lambda: 2879)  # a moment later there would be more
        patch.setattr(decoded_files.picture, "decode", lambda _: pytest.fail("images were decoded again"))
        with pytest.raises(
            MemoryShortError,
            match=r"it holds 2,880 bytes, and 2,879 of memory are free\. Type a smaller --resolution\.",
        ) as told:
            decoded(pets, cache)
    assert str(file) in str(told.value)
    assert "damaged" not in str(told.value)
    assert file.read_bytes() == content
    assert decoded(pets, cache)[1] == 0
    assert decoded(pets, cache, 4)[0].labelled.images.shape[-2:] == (4, 4), "what is to be typed is another cache"


def test_no_room_for_decoded_images_is_told(pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, 2900))  # the pixels take 2,880, and no header
    with pytest.raises(EncoderError, match=r"needs 3,\d\d\d bytes more, and its disk has 2,900 free.*--cache FOLDER"):
        decoded(pets, tmp_path / "cache")
