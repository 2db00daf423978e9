"""Cached features: each image and view is encoded once, and no kill, damage or change of anything serves wrong ones."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from stillsight.encoders import Backbone, Encoder, EncoderError, Preprocessing, build
from stillsight.encoders.supervised.data.split import Dataset, Split, digests
from stillsight.encoders.supervised.features import frozen_features as cached
from stillsight.encoders.supervised.features import store as store_file
from stillsight.encoders.supervised.features.frozen_features import PARTS, View, features, key
from stillsight.encoders.supervised.features.store import ENTRY, Store
from stillsight.encoders.supervised.training.augment import augment, draw
from stillsight.encoders.supervised.training.recipe import Recipe
from stillsight.encoders.system.plain_file import open_plain

Coloured = Callable[[int, int], Split]


def silent(part: str, done: int, total: int) -> None:
    """A progress that shows nothing."""


def eyes(**options: Any) -> Encoder:
    defaults: dict[str, Any] = {"device": "cpu", "precision": "float32", "tap": "layer1"}
    return build("retina", "random", **(defaults | options))


def encoded(encoder: Encoder) -> int:
    """Images encoded since this was last asked."""
    count, encoder.counter.images = encoder.counter.images, 0
    return count


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[part], other[part]) for part in PARTS)


# The store ------------------------------------------------------------------------------------------------------------


def rows(count: int, seed: int = 0) -> tuple[list[bytes], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, 4, 4), dtype=torch.uint8, generator=generator)
    return digests(images), torch.randn(count, 5, generator=generator)


def test_a_digest_is_that_of_one_image_wherever_it_lies() -> None:
    images = torch.randint(0, 256, (6, 3, 4, 4), dtype=torch.uint8)
    every = digests(images)
    assert len(set(every)) == 6
    assert digests(images[2:3]) == every[2:3]
    assert digests(images.flip(0)) == every[::-1]
    changed = images.clone()
    changed[1, 2, 3, 3] ^= 1
    assert [a == b for a, b in zip(digests(changed), every, strict=True)] == [True, False, True, True, True, True]


def test_rows_come_back_by_their_images_in_any_order(tmp_path: Path) -> None:
    images, values = rows(9)
    with Store(tmp_path / "store", 5) as store:
        store.add(images[:4], values[:4])
        store.add(images[4:], values[4:])
    with Store(tmp_path / "store", 5) as store:
        assert torch.equal(store.get(images), values)
        assert torch.equal(store.get([images[7], images[0], images[7]]), values[[7, 0, 7]])
        assert rows(1, seed=1)[0][0] not in store


@pytest.mark.usefixtures("ends")
@pytest.mark.parametrize("name", ["index", "rows.f32", "reference"])
@pytest.mark.parametrize("writable", [True, False])
def test_nothing_in_a_cache_is_followed_or_waited_for(
    tmp_path: Path, name: str, writable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not writable:  # as another user's, where rows are read alone
        monkeypatch.setattr(Path, "mkdir", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "no")))
    folder, diary = tmp_path / "store", tmp_path / "diary.txt"
    os.mkdir(folder)
    diary.write_text("kept")
    path = folder / name
    for target in (diary, tmp_path / "new", Path("/dev/zero")):
        path.symlink_to(target)
        with pytest.raises(EncoderError, match=f"{path} is a link to {target}, and .* no link inside a cache"):
            Store(folder, 5)
        path.unlink()
    os.mkfifo(path)
    with pytest.raises(EncoderError, match=f"{path} is no place in .*: it is no file but a pipe. Remove it"):
        Store(folder, 5)
    assert diary.read_text() == "kept"
    assert sorted(os.listdir(tmp_path)) == ["diary.txt", "store"]


def test_a_store_is_no_link_and_its_cache_may_be_one(tmp_path: Path) -> None:
    images, values = rows(3)
    (tmp_path / "disk" / "elsewhere").mkdir(parents=True)
    (tmp_path / "cache").symlink_to(tmp_path / "disk")
    with Store(tmp_path / "cache" / "store", 5) as store:
        store.add(images, values)
        assert torch.equal(store.get(images), values)
    (tmp_path / "cache" / "other").symlink_to(tmp_path / "disk" / "elsewhere")
    with pytest.raises(EncoderError, match="no link inside a cache"):
        Store(tmp_path / "cache" / "other", 5)
    assert not list((tmp_path / "disk" / "elsewhere").iterdir())


@pytest.mark.parametrize("name", ["index", "rows.f32"])
def test_a_store_of_hard_links_is_read_and_not_written(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    images, values = rows(6)
    folder = tmp_path / name / "store"
    with Store(folder, 5) as store:
        store.add(images[:4], values[:4])
    os.link(folder / name, tmp_path / "other name")
    before = (tmp_path / "other name").read_bytes()
    with Store(folder, 5) as store:
        store.add(images[4:], values[4:])
        assert torch.equal(store.get(images), values)
    assert (tmp_path / "other name").read_bytes() == before
    assert f"its file {name} is a hard link" in capsys.readouterr().err


@settings(deadline=None, max_examples=15)
@given(cut=st.sampled_from(["index", "rows.f32"]), share=st.floats(0, 1), more=st.integers(1, 4))
def test_whatever_a_kill_leaves_is_used_as_far_as_it_is_whole(
    tmp_path_factory: pytest.TempPathFactory, cut: str, share: float, more: int
) -> None:
    folder = tmp_path_factory.mktemp("store")
    images, values = rows(6)
    with Store(folder, 5) as store:
        store.add(images, values)
    path = folder / cut
    size = int(share * path.stat().st_size)
    os.truncate(path, size)
    whole = size // {"index": ENTRY, "rows.f32": 20}[cut]
    new, fresh = rows(more, seed=1)
    for _ in range(2):  # the second time it is read from disk
        with Store(folder, 5) as store:
            assert [image in store for image in images] == [place < whole for place in range(6)]
            assert torch.equal(store.get(images[:whole]), values[:whole]) if whole else True
            if new[0] not in store:
                store.add(new, fresh)
            assert torch.equal(store.get(new), fresh)


@settings(deadline=None, max_examples=15)
@given(file=st.sampled_from(["index", "rows.f32"]), share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_single_wrong_bit_costs_its_row_and_no_other_and_is_said_once(
    tmp_path_factory: pytest.TempPathFactory, file: str, share: float, bit: int
) -> None:
    folder = tmp_path_factory.mktemp("store")
    images, values = rows(6)
    with Store(folder, 5) as store:
        store.add(images, values)
    content = bytearray((folder / file).read_bytes())
    place = int(share * len(content))
    content[place] ^= 1 << bit
    (folder / file).write_bytes(content)
    damaged = place // {"index": ENTRY, "rows.f32": 20}[file]
    with contextlib.redirect_stderr(io.StringIO()) as said, Store(folder, 5) as store:
        assert [image in store for image in images] == [row != damaged for row in range(6)]
        store.add([images[damaged]], values[damaged:][:1])
        assert torch.equal(store.get(images), values)
    assert said.getvalue() == (
        f"stillsight: 1 row of the cache {folder} damaged or incomplete: its image is encoded again.\n"
    )
    with contextlib.redirect_stderr(io.StringIO()) as said, Store(folder, 5) as store:
        assert torch.equal(store.get(images), values)
    assert said.getvalue() == ""


def test_entries_that_name_their_row_alone_are_still_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, values = rows(3)
    with Store(tmp_path, 5) as store:
        store.add(images, values)
    plain = [hashlib.blake2b(row.numpy().tobytes(), digest_size=ENTRY - 16).digest() for row in values]
    (tmp_path / "index").write_bytes(b"".join(image + digest for image, digest in zip(images, plain, strict=True)))
    with Store(tmp_path, 5) as store:
        assert torch.equal(store.get(images), values)
    assert capsys.readouterr().err == ""


class Weighed(bytes):
    """Bytes that count what is copied out of them."""

    copied = 0

    def __getitem__(self, place: Any) -> Any:
        part = super().__getitem__(place)
        Weighed.copied += len(part) if isinstance(part, bytes) else 1
        return Weighed(part) if isinstance(part, bytes) else part

    def __hash__(self) -> int:
        return super().__hash__()


class Weighing(io.BufferedRandom):
    """A file whose content is `Weighed`."""

    def read(self, size: int | None = -1) -> bytes:
        return Weighed(super().read(size))


def test_opening_a_store_reads_each_entry_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 1_000
    images, values = rows(count)
    with Store(tmp_path, 5) as store:
        store.add(images, values)
    monkeypatch.setattr(store_file, "open_plain", lambda path, mode: Weighing(open_plain(path, mode).detach()))
    monkeypatch.setattr(Weighed, "copied", 0)
    with Store(tmp_path, 5) as store:
        assert torch.equal(store.get(images), values)
    assert Weighed.copied == count * ENTRY


def test_a_second_process_waits_until_the_first_is_done(tmp_path: Path) -> None:
    images, values = rows(3)
    code = (
        "from pathlib import Path\nfrom stillsight.encoders.supervised.features.store import Store\n"
        f"with Store(Path({str(tmp_path)!r}), 5) as store: print(len(store.places))"
    )
    with Store(tmp_path, 5) as store:
        other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(3)
        store.add(images, values)
    assert other.communicate(timeout=60)[0] == "3\n", "it sees what the first one wrote"


# Features -------------------------------------------------------------------------------------------------------------


def test_features_are_computed_once_and_then_read(colours: Dataset, tmp_path: Path) -> None:
    encoder = eyes()
    reported: list[tuple[str, int, int]] = []
    first = features(encoder, colours, tmp_path / "cache", lambda *fact: reported.append(fact))
    assert encoded(encoder) == 66
    assert reported == [("train", 36, 36), ("validation", 15, 15), ("test", 15, 15)]
    for part in PARTS:
        assert torch.equal(first[part], encoder.frozen(getattr(colours, part).images))
    encoded(encoder)
    assert same(features(encoder, colours, tmp_path / "cache", reported.append), first)  # type: ignore[arg-type]
    assert encoded(encoder) == 0, "an image was encoded a second time"
    assert len(reported) == 3, "nothing was done, so nothing is shown"
    (folder,) = (tmp_path / "cache").iterdir()
    assert folder.name == f"retina-{key(encoder, (32, 32))}"


def test_they_are_those_of_the_network_as_its_author_wrote_it(colours: Dataset, tmp_path: Path) -> None:
    plain = eyes()
    found = features(eyes(), colours, tmp_path, silent)
    expected = plain.frozen.sequence(colours.train.images)
    assert torch.allclose(found["train"], expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("options", "behind"),
    [
        ({"pooling": "attention2"}, "pooling would"),
        ({"tap": "stem,layer1", "pooling": "global, conv3"}, "handover, pooling would"),
        ({"mode": "scratch", "tap": "layer2", "unfreeze": "layer2"}, "layer2, pooling would"),
    ],
)
def test_an_encoder_of_which_something_stands_behind_the_cut_is_refused(
    options: dict[str, Any], behind: str, colours: Dataset, tmp_path: Path
) -> None:
    encoder = build("retina", **{"mode": "random", "device": "cpu", "tap": "layer1"} | options)
    with pytest.raises(
        EncoderError, match=f"^Features are kept as they come out of the frozen part.* {behind} be left"
    ):
        features(encoder, colours, tmp_path / "cache", silent)
    assert not (tmp_path / "cache").exists()


def test_other_splits_and_fewer_labels_encode_nothing_new(colours: Dataset, tmp_path: Path) -> None:
    encoder = eyes()
    features(encoder, colours, tmp_path, silent)
    encoded(encoder)
    few = Dataset("few", colours.train.take(torch.tensor([7, 3])), colours.train, colours.test, colours.classes)
    found = features(encoder, few, tmp_path, silent)
    assert encoded(encoder) == 0
    assert torch.equal(found["train"], found["validation"][[7, 3]])


def test_an_image_that_occurs_twice_is_encoded_once(coloured: Coloured, tmp_path: Path) -> None:
    encoder = eyes()
    split = coloured(6, 1)
    twice = split.take(torch.tensor([0, 1, 2, 0, 1, 2]))
    found = features(encoder, Dataset("twice", twice, split, twice, ("r", "g", "b")), tmp_path, silent)
    assert encoded(encoder) == 6
    assert torch.equal(found["train"][:3], found["train"][3:])


@pytest.mark.parametrize(("name", "keep"), [("index", 0), ("index", 300), ("rows.f32", 0), ("rows.f32", -1)])
def test_a_truncated_cache_is_computed_again_as_far_as_it_is_lost(
    colours: Dataset, tmp_path: Path, keep: int, name: str
) -> None:
    encoder = eyes()
    first = features(encoder, colours, tmp_path, silent)
    (folder,) = tmp_path.iterdir()
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:keep])
    row = len(whole) // 66
    encoded(encoder)
    again = features(encoder, colours, tmp_path, silent)
    assert encoded(encoder) == 66 - len(whole[:keep]) // row
    for part in PARTS:
        assert torch.allclose(again[part], first[part], rtol=1e-5, atol=1e-5)


def test_a_damaged_cache_is_repaired(colours: Dataset, tmp_path: Path) -> None:
    encoder = eyes()
    first = features(encoder, colours, tmp_path, silent)
    (folder,) = tmp_path.iterdir()
    content = np.fromfile(folder / "rows.f32", "<f4").reshape(66, -1)
    content[11] = 1e9
    content.tofile(folder / "rows.f32")
    encoded(encoder)
    again = features(encoder, colours, tmp_path, silent)
    assert encoded(encoder) == 1
    assert torch.allclose(again["train"], first["train"], rtol=1e-5, atol=1e-5)


def test_the_key_changes_with_everything_but_pixels_that_features_depend_on() -> None:
    moved = eyes()
    moved.state()["layer1.bn1.running_mean"].data[0] += 1e-3
    keys = [
        key(eyes(), (32, 32)),
        key(eyes(seed=1), (32, 32)),
        key(moved, (32, 32)),
        key(eyes(tap="layer2"), (32, 32)),
        key(eyes(pooling="grid2"), (32, 32)),
        key(eyes(resolution=16), (32, 32)),
        key(eyes(precision="bf16"), (32, 32)),
        key(eyes(), (32, 48)),
    ]
    assert len(set(keys)) == len(keys)
    assert key(eyes(), (32, 32)) == keys[0]


def test_a_changed_encoder_is_never_served_old_features(colours: Dataset, tmp_path: Path) -> None:
    encoder = eyes()
    first = features(encoder, colours, tmp_path, silent)
    changed = eyes()
    changed.state()["layer1.bn1.running_mean"].data += 1.0
    second = features(changed, colours, tmp_path, silent)
    assert encoded(changed) == 66
    assert not same(first, second)


class Sums(nn.Module):
    """Colours, times a factor that is code and no weight."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels * self.scale * self.factor


def third_party(factor: float) -> Encoder:
    module = Sums(factor)
    backbone = Backbone(model=module, stages={"sums": module}, preprocessing=Preprocessing(), tap="sums")
    return Encoder(backbone, name="my.module:sums", pooling="grid2", precision="float32")


def test_a_network_whose_code_changed_is_not_served_old_features(colours: Dataset, tmp_path: Path) -> None:
    old, new = third_party(1.0), third_party(2.0)
    assert key(old, (32, 32)) == key(new, (32, 32)), "by its weights it is the same"
    first = features(old, colours, tmp_path, silent)
    second = features(new, colours, tmp_path, silent)
    assert encoded(new) == 66
    assert torch.allclose(second["train"], 2 * first["train"])
    features(new, colours, tmp_path, silent)
    assert encoded(new) == 0


class Resized(nn.Module):
    """Colours of an image that the network itself makes half as large."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, pixels: Tensor) -> Tensor:
        return F.interpolate(pixels * self.scale, scale_factor=0.5, mode=self.mode, antialias=True)


def resizing(mode: str, precision: Any) -> Encoder:
    module = Resized(mode)
    backbone = Backbone(model=module, stages={"small": module}, preprocessing=Preprocessing(), tap="small")
    return Encoder(backbone, name="my.module:small", pooling="grid2", precision=precision)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_change_of_a_few_per_cent_is_a_change_in_every_precision(
    colours: Dataset, tmp_path: Path, precision: Any
) -> None:
    old, new = resizing("bilinear", precision), resizing("bicubic", precision)
    assert key(old, (32, 32)) == key(new, (32, 32))
    first = features(old, colours, tmp_path, silent)
    second = features(new, colours, tmp_path, silent)
    difference = (first["train"] - second["train"]).abs().max() / second["train"].abs().max()
    assert 0 < difference < 0.05, "less than two engines may differ by"
    assert encoded(new) == 66
    features(new, colours, tmp_path, silent)
    assert encoded(new) == 0


def test_a_kill_after_a_change_was_seen_serves_no_old_features(
    colours: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features(third_party(1.0), colours, tmp_path, silent)
    with monkeypatch.context() as patch:
        patch.setattr(cached, "_fill", None)
        with pytest.raises(TypeError):
            features(third_party(2.0), colours, tmp_path, silent)
    new = third_party(2.0)
    features(new, colours, tmp_path, silent)
    assert encoded(new) == 66


def test_a_store_that_says_nothing_of_its_network_is_not_believed(colours: Dataset, tmp_path: Path) -> None:
    encoder = eyes()
    features(encoder, colours, tmp_path, silent)
    (folder,) = tmp_path.iterdir()
    for content in (None, b"", b"123456789"):
        (folder / "reference").unlink() if content is None else (folder / "reference").write_bytes(content)
        encoded(encoder)
        features(encoder, colours, tmp_path, silent)
        assert encoded(encoder) == 66


# Views ----------------------------------------------------------------------------------------------------------------


def test_each_view_is_encoded_once_and_follows_the_images(colours: Dataset, tmp_path: Path) -> None:
    encoder = eyes()
    plain = features(encoder, colours, tmp_path, silent)
    encoded(encoder)
    found = features(encoder, colours, tmp_path, silent, views=2, seed=5)
    pixels = [View(colours.train.images, Recipe(), 5, view)[0] for view in (1, 2)]
    new = {image for view in pixels for image in digests(view)} - set(digests(colours.train.images))
    assert encoded(encoder) == len(new) > 2 * 36 - 8, "a view that is neither shifted nor flipped is known already"
    assert found["train"].shape == (108, plain["train"].shape[1])
    assert torch.equal(found["train"][:36], plain["train"])
    assert same({**found, "train": plain["train"]}, plain), "validation and test images are not augmented"
    for place, view in zip((36, 72), pixels, strict=True):
        assert torch.allclose(found["train"][place : place + 36], encoder.frozen(view), rtol=1e-5, atol=1e-5)
    encoded(encoder)
    assert torch.equal(features(encoder, colours, tmp_path, silent, views=1, seed=5)["train"], found["train"][:72])
    assert encoded(encoder) == 0
    features(encoder, colours, tmp_path, silent, views=1, seed=6)
    assert encoded(encoder) > 20, "another seed has other views"


def test_a_view_is_the_same_at_each_reading_and_each_batch_is_drawn_apart(
    coloured: Coloured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cached, "BATCH", 4)
    images = coloured(10, 1).images
    view = View(images, Recipe(rotation=10), 0, 1)
    batches = list(view)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert all(torch.equal(batch, view[number]) for number, batch in enumerate(batches))
    same_images = View(images[[0, 1, 2, 3] * 2], Recipe(), 0, 1)
    assert not torch.equal(same_images[0], same_images[1])


def test_views_follow_the_recipe(coloured: Coloured) -> None:
    images = coloured(8, 1).images
    assert torch.equal(View(images, Recipe(crop=0, flip=False), 0, 1)[0], images)
    recipe = Recipe(crop=0, flip=True)
    found = View(images, recipe, 0, 1)[0]
    for one, image in zip(found, images, strict=True):
        assert torch.equal(one, image) or torch.equal(one, image.flip(2))
    expected = augment(images, draw(recipe, 8, (32, 32), torch.Generator().manual_seed(1)), recipe)
    assert expected.shape == found.shape


# A kill, a full disk --------------------------------------------------------------------------------------------------

RUN = """
import os, signal, sys, torch
from pathlib import Path
from stillsight.encoders import build
from stillsight.encoders.supervised.features import frozen_features as cached
from stillsight.encoders.supervised.data.split import Dataset, Split
torch.set_num_threads(1)
cached.BATCH = 4
generator = torch.Generator().manual_seed(0)
def split(count):
    return Split(torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator), torch.zeros(count))
data = Dataset("noise", split(20), split(6), split(6), ("a", "b"))
encoder = build("retina", "random", tap="layer1", device="cpu", precision="float32")
def progress(part, done, total):
    if (part, done) == KILL:
        os.kill(os.getpid(), signal.SIGKILL)
found = cached.features(encoder, data, Path(sys.argv[1]), progress, views=1)
"""


def test_a_killed_run_goes_on_where_it_was_and_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", f"KILL = 'view 1', 8\n{RUN}", str(tmp_path / "killed")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    monkeypatch.setattr(cached, "BATCH", 4)  # as in RUN, which sets it for good

    def run(cache: str) -> tuple[dict[str, Tensor], int]:
        monkeypatch.setattr(sys, "argv", ["", str(tmp_path / cache)])
        names: dict[str, Any] = {"KILL": None}
        exec(RUN, names)
        return names["found"], names["encoder"].counter.images

    (straight, all_images), (killed, rest) = run("straight"), run("killed")
    assert same(straight, killed)
    assert all_images > 45
    assert all_images - rest == 40, "twenty and two sixes, and two batches of a view, were encoded before the kill"


Usage = namedtuple("Usage", "total used free")


def test_a_full_disk_is_told_before_anything_is_encoded(
    colours: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = eyes()
    width = encoder.frozen.frame_shape((3, 32, 32))[0]
    needed = 66 * (4 * width + ENTRY)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1, 1, needed - 1))
    words = rf"needs {needed:,} bytes more, and its disk has {needed - 1:,} free.*--cache FOLDER"
    with pytest.raises(EncoderError, match=words):
        features(encoder, colours, tmp_path, silent)
    assert encoded(encoder) == 0
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1, 1, needed))
    features(encoder, colours, tmp_path, silent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1, 1, 0))
    features(encoder, colours, tmp_path, silent)  # reading needs no room


def test_a_disk_that_fills_up_on_the_way_keeps_what_was_computed(
    colours: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cached, "BATCH", 12)
    encoder = eyes()
    write = Store._write

    def full(file: Any, offset: int, content: bytes) -> None:
        if file.name.endswith("rows.f32") and offset:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, offset, content)

    monkeypatch.setattr(Store, "_write", staticmethod(full))
    first = features(encoder, colours, tmp_path, silent)
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("stillsight: features could not be kept in ")
    assert "(No space left on device): the next run computes them again. To keep them, choose another: --cache" in said
    assert encoded(encoder) == 66
    monkeypatch.setattr(Store, "_write", staticmethod(write))
    again = features(encoder, colours, tmp_path, silent)
    assert encoded(encoder) == 66 - 12
    assert all(torch.equal(first[part], again[part]) for part in again)


def test_a_cache_that_cannot_be_made_is_one_sentence(colours: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EncoderError, match=r"cannot be made .* --cache FOLDER"):
        features(eyes(), colours, tmp_path / "file", silent)


@pytest.mark.parametrize("name", ["index", "rows.f32"])
def test_a_cache_that_cannot_be_written_costs_time_and_says_so(
    colours: Dataset, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    right = features(eyes(), colours, tmp_path, silent)
    (store,) = tmp_path.iterdir()
    (store / name).unlink()
    (store / name).mkdir()  # the superuser may write another user's file, but no folder
    encoder = eyes()
    computed = features(encoder, colours, tmp_path, silent)
    assert encoded(encoder) == 66
    assert all(torch.equal(right[part], computed[part]) for part in right)
    (said,) = capsys.readouterr().err.splitlines()
    assert said == (
        f"stillsight: features could not be kept in {store} (Is a directory): the next run computes them again. To "
        "keep them, choose another: --cache FOLDER."
    )


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_whatever_a_disk_answers_costs_time_and_is_said_once(
    colours: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    right = features(eyes(), colours, tmp_path / "good", silent)

    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Store, "_write", staticmethod(refuse))
    computed = features(eyes(), colours, tmp_path, silent)
    assert all(torch.equal(right[part], computed[part]) for part in right)
    assert capsys.readouterr().err.count(f"could not be kept in {tmp_path}") == 1


def test_a_cache_on_a_disk_that_can_only_be_read_is_read(
    colours: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = features(eyes(), colours, tmp_path, silent)

    def refuse(path: Path, mode: Any = "rb") -> Any:
        if mode != "rb":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return open_plain(path)

    monkeypatch.setattr(store_file, "open_plain", refuse)
    encoder = eyes()
    read = features(encoder, colours, tmp_path, silent)
    assert encoded(encoder) == 0, "all of them are there"
    assert all(torch.equal(right[part], read[part]) for part in right)
    assert "(Read-only file system)" in capsys.readouterr().err


def test_a_second_process_that_waits_for_a_cache_says_so(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from stillsight.encoders.supervised.features.store import Store\n"
        "with Store(Path(sys.argv[1]), 4): print('open', flush=True); sys.stdin.readline()"
    )
    words = [sys.executable, "-c", program, str(tmp_path)]
    pipes: dict[str, Any] = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    with subprocess.Popen(words, **pipes) as first:
        assert first.stdout is not None
        assert first.stdin is not None
        assert first.stdout.readline() == "open\n"
        with subprocess.Popen(words, **pipes) as second:
            assert second.stderr is not None
            said = second.stderr.readline()
            assert said == f"stillsight: waiting for another process, which fills the cache {tmp_path}.\n"
            first.stdin.write("\n")
            first.stdin.flush()
            assert second.stdout is not None
            assert second.stdout.readline() == "open\n"
            second.communicate("\n")


def test_features_from_before_bicubic_was_clamped_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[dict[str, Any]] = []
    whole = json.dumps
    monkeypatch.setattr(json, "dumps", lambda facts, **options: hashed.append(facts) or whole(facts, **options))
    encoder = eyes()
    cached.key(encoder, (32, 32))
    encoder.preprocessing = replace(encoder.preprocessing, interpolation="bicubic")
    cached.key(encoder, (32, 32))
    assert [facts.get("clamped") for facts in hashed] == [None, True], "and those of other encoders still hold"


# Engines --------------------------------------------------------------------------------------------------------------


def test_engines_are_timed_only_for_work_that_repays_it(
    colours: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int | None, int]] = []
    encoder = eyes()
    monkeypatch.setattr(
        encoder.frozen,
        "prepare",
        lambda _, batch, forwards, kept: asked.append((batch, forwards)[: 2 * kept]),
        raising=False,
    )
    monkeypatch.setattr(cached, "BATCH", 11)
    features(encoder, colours, tmp_path / "few", silent)
    monkeypatch.setattr(cached, "TIMED", 6)
    features(encoder, colours, tmp_path / "many", silent)
    features(encoder, colours, tmp_path / "many", silent)
    assert asked == [(None, 0), (11, 6)], "and nothing is prepared where nothing is encoded"
