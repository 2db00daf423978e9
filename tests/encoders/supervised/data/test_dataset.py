"""CIFAR as it is read and split, and few labels: drawn class by class, and the same draws at every size."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stillsight.encoders import EncoderError
from stillsight.encoders.supervised.data import cifar as cifar_files
from stillsight.encoders.supervised.data import dataset as datasets
from stillsight.encoders.supervised.data.split import Dataset, Split
from stillsight.encoders.supervised.data.subset import Subset, hold_out, stratify
from stillsight.encoders.supervised.features.frozen_features import PARTS

Coloured = Callable[[int, int], Split]


def test_a_split_moves_and_is_taken_from_whole(coloured: Coloured) -> None:
    split = coloured(6, 0)
    moved = split.to(torch.device("cpu"))
    assert torch.equal(moved.images, split.images)
    assert moved.labels.tolist() == [0, 1, 2, 0, 1, 2]
    some = split.take(torch.tensor([4, 0]))
    assert some.labels.tolist() == [1, 0]
    assert torch.equal(some.images, split.images[[4, 0]])


def test_the_hash_changes_with_every_pixel_label_and_border(coloured: Coloured) -> None:
    images, labels = coloured(51, 1).images, coloured(51, 1).labels
    test = coloured(15, 3)
    cuts = [Dataset("c", Split(images[:n], labels[:n]), Split(images[n:], labels[n:]), test, ()) for n in (20, 30)]
    other = images.clone()
    other[3, 0, 0, 0] += 1
    cuts.append(Dataset("c", Split(other[:20], labels[:20]), Split(images[20:], labels[20:]), test, ()))
    cuts.append(Dataset("c", Split(images[:20], labels[:20].flip(0)), Split(images[20:], labels[20:]), test, ()))
    assert len({cut.sha256() for cut in cuts}) == 4


# Few labels -----------------------------------------------------------------------------------------------------------

labels_of = st.lists(st.integers(0, 3), min_size=1, max_size=60).map(torch.tensor)


@settings(deadline=None)
@given(labels=labels_of, seed=st.integers(0, 99), share=st.floats(0, 1))
def test_strata_are_drawn_class_by_class_and_nothing_is_lost(labels: Tensor, seed: int, share: float) -> None:
    taken, left = stratify(labels, seed, lambda count: round(share * count))
    assert sorted([*taken.tolist(), *left.tolist()]) == list(range(len(labels)))
    assert taken.tolist() == sorted(taken.tolist())
    for label in labels.unique():
        assert int((labels[taken] == label).sum()) == round(share * int((labels == label).sum()))
    again, _ = stratify(labels, seed, lambda count: round(share * count))
    assert torch.equal(taken, again)


@settings(deadline=None)
@given(labels=labels_of, seed=st.integers(0, 99), share=st.floats(0.01, 0.99))
def test_every_class_keeps_an_image_and_holds_one_out_if_it_has_two(labels: Tensor, seed: int, share: float) -> None:
    kept, held = hold_out(labels, share, seed)
    for label in labels.unique():
        count = int((labels == label).sum())
        assert int((labels[kept] == label).sum()) >= 1
        assert bool((labels[held] == label).any()) is (count > 1)


@settings(deadline=None)
@given(seed=st.integers(0, 99), small=st.integers(1, 9), large=st.integers(1, 9))
def test_fewer_shots_are_among_the_more(seed: int, small: int, large: int) -> None:
    small, large = sorted((small, large))
    labels = torch.arange(40) % 4
    split = Split(torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1).expand(40, 3, 1, 1), labels)
    few, more = (Subset(shots=n, seed=seed).draw(split, tuple("abcd")) for n in (small, large))
    assert few.labels.bincount().tolist() == [small] * 4
    assert set(few.images[:, 0, 0, 0].tolist()) <= set(more.images[:, 0, 0, 0].tolist())


def test_a_fraction_is_taken_of_each_class_and_another_seed_draws_others(coloured: Coloured) -> None:
    split = coloured(60, 1)
    found = Subset(fraction=0.25).draw(split, ("r", "g", "b"))
    assert found.labels.bincount().tolist() == [5, 5, 5]
    other = Subset(fraction=0.25, seed=1).draw(split, ("r", "g", "b"))
    assert not torch.equal(found.images, other.images)
    assert Subset(fraction=0.001).draw(split, ("r", "g", "b")).labels.bincount().tolist() == [1, 1, 1]
    assert Subset().draw(split, ("r", "g", "b")) is split


def test_more_shots_than_the_smallest_class_has_are_refused(coloured: Coloured) -> None:
    with pytest.raises(EncoderError, match=r"^--shots 4 is more than class blue has\. Type a number from 1 to 3\.$"):
        Subset(shots=4).draw(coloured(11, 1), ("red", "green", "blue"))


@pytest.mark.parametrize(
    ("subset", "train", "validation"),
    [
        (Subset(shots=5), 4, 1),
        (Subset(shots=10, seed=3), 8, 2),
        (Subset(shots=1), 1, 0),
        (Subset(fraction=0.5), 80, 20),
    ],
)
def test_shots_are_all_that_a_run_sees_a_fifth_of_them_to_choose_with(
    coloured: Coloured, monkeypatch: pytest.MonkeyPatch, subset: Subset, train: int, validation: int
) -> None:
    pool, test = coloured(600, 1), coloured(9, 2)
    monkeypatch.setattr(cifar_files, "read", lambda *_: (pool, test, ("red", "green", "blue")))
    found = datasets.load("cifar10", Path(), subset=subset)
    assert found.train.labels.bincount(minlength=3).tolist() == [train] * 3
    assert found.validation.labels.bincount(minlength=3).tolist() == [validation] * 3
    assert torch.equal(found.test.images, test.images)


def test_of_all_images_the_last_are_held_out(coloured: Coloured, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = coloured(100, 1)
    monkeypatch.setattr(cifar_files, "read", lambda *_: (pool, pool, ("red", "green", "blue")))
    for validation, count in ((None, 10), (33, 33)):
        found = datasets.load("cifar10", Path(), validation)
        assert torch.equal(found.train.images, pool.images[:-count])
        assert torch.equal(found.validation.images, pool.images[-count:])
    with pytest.raises(EncoderError, match=r"--validation 100 is out of range\. Allowed: 1 to 99 of the training"):
        datasets.load("cifar10", Path(), 100)


@pytest.mark.parametrize("validation", [0, -1, 50_000])
def test_a_validation_part_out_of_range_is_refused(tmp_path: Path, validation: int) -> None:
    with pytest.raises(EncoderError, match=rf"--validation {validation} is out of range\. Allowed: 1 to 49,999"):
        datasets.load("cifar10", tmp_path, validation)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_no_data_and_no_network_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    kind = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[name]
    monkeypatch.setattr(kind, "url", "http://127.0.0.1:9/cifar.tar.gz")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(EncoderError) as caught:
        datasets.load(name, tmp_path)
    message = str(caught.value)
    assert f"{name} is not in {tmp_path} and could not be downloaded (" in message
    assert f"Put {kind.base_folder}/ there, or give --data FOLDER" in message


@pytest.fixture(scope="session")
def cifar(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CIFAR-10 in torchvision's layout."""
    folder = tmp_path_factory.mktemp("cifar")
    command = [sys.executable, str(shared / "unpack-cifar"), str(folder), "cifar-10-batches-py"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.mark.real_data
def test_cifar10_is_read_and_split_as_promised(cifar: Path) -> None:
    data = datasets.load("cifar10", cifar, validation=5000)
    assert [tuple(getattr(data, part).images.shape) for part in PARTS] == [
        (45_000, 3, 32, 32),
        (5_000, 3, 32, 32),
        (10_000, 3, 32, 32),
    ]
    assert {getattr(data, part).images.dtype for part in PARTS} == {torch.uint8}
    assert (len(data.train), len(data.validation), len(data.test)) == (45_000, 5_000, 10_000)
    assert data.classes[:4] == ("airplane", "automobile", "bird", "cat")
    # Known facts of the official files: the first training image is a frog, the first test image a cat.
    assert data.classes[int(data.train.labels[0])] == "frog"
    assert data.classes[int(data.test.labels[0])] == "cat"
    assert data.train.images[0, :, 0, 0].tolist() == [59, 62, 63]
    whole = torchvision.datasets.CIFAR10(str(cifar), train=True)
    assert torch.equal(data.validation.images, torch.from_numpy(whole.data[-5000:]).permute(0, 3, 1, 2))
    assert data.validation.labels.tolist() == whole.targets[-5000:]
    assert data.train.labels.tolist() == whole.targets[:-5000]
    labels = torch.cat([data.train.labels, data.validation.labels])
    assert torch.equal(labels.bincount(), torch.full((10,), 5000))
    assert torch.equal(data.test.labels.bincount(), torch.full((10,), 1000))


@pytest.mark.real_data
def test_a_damaged_data_file_is_not_used(cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar.tar.gz")
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for file in (cifar / "cifar-10-batches-py").iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "test_batch").unlink()
    (folder / "test_batch").write_bytes((cifar / "cifar-10-batches-py" / "test_batch").read_bytes()[:-1] + b"!")
    with pytest.raises(EncoderError, match="could not be downloaded"):
        datasets.load("cifar10", tmp_path)
