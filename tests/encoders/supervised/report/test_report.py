"""What a run reports about itself: every number against one worked out by hand or the slow way, pictures decoded."""

from __future__ import annotations

import csv
import itertools
import json
import math
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor
from torch.nn import functional as F

from stillsight.encoders import EncoderError
from stillsight.encoders.supervised.report import calibration, mistakes, report, scores

ANIMALS = ("cat", "dog", "eel")
# Rows are true classes: of 4 cats one is called a dog; of 3 dogs two are called cats; the one eel is called a dog.
TRUE = [0, 0, 0, 0, 1, 1, 1, 2]
CALLED = [0, 0, 0, 1, 1, 0, 0, 1]
MATRIX = [[3, 1, 0], [2, 1, 0], [0, 1, 0]]


def by_hand() -> tuple[Tensor, Tensor, Tensor]:
    """Logits that say CALLED, each with a confidence of its own, labels, and images of one colour each."""
    confidence = torch.tensor([0.5, 0.58, 0.7, 0.78, 0.55, 0.65, 0.9, 0.95], dtype=torch.float64)
    probabilities = ((1 - confidence) / 2)[:, None].repeat(1, 3)
    probabilities[torch.arange(8), torch.tensor(CALLED)] = confidence
    images = torch.arange(8 * 3, dtype=torch.uint8).view(8, 3, 1, 1).expand(8, 3, 16, 16) * 10
    return probabilities.log().float(), torch.tensor(TRUE), images


# Scores ---------------------------------------------------------------------------------------------------------------


def test_the_confusion_matrix_and_the_table_are_those_worked_out_by_hand() -> None:
    matrix = scores.confusion(np.array(CALLED), np.array(TRUE), 3)
    assert matrix.tolist() == MATRIX
    cat, dog, eel = scores.per_class(np.array(CALLED), np.array(TRUE), ANIMALS)
    assert cat == scores.ClassScore("cat", precision=3 / 5, recall=3 / 4, f1=6 / 9, support=4)
    assert dog == scores.ClassScore("dog", precision=1 / 3, recall=1 / 3, f1=2 / 6, support=3)
    assert eel == scores.ClassScore("eel", precision=None, recall=0.0, f1=0.0, support=1), "never said, so no precision"
    assert scores.macro_f1(np.array(CALLED), np.array(TRUE), 3) == pytest.approx((6 / 9 + 2 / 6 + 0) / 3)
    assert scores.most_confused(matrix) == [(1, 0, 2), (0, 1, 1), (2, 1, 1)]
    assert scores.most_confused(matrix, most=1) == [(1, 0, 2)]


def test_a_class_that_does_not_occur_has_no_scores_and_does_not_count() -> None:
    both = np.array([0, 1])
    table = scores.per_class(both, both, ANIMALS)
    assert table[2] == scores.ClassScore("eel", None, None, None, 0)
    assert scores.macro_f1(both, both, 3) == 1.0


pairs = st.integers(2, 7).flatmap(
    lambda classes: st.tuples(
        st.just(classes), st.lists(st.tuples(*[st.integers(0, classes - 1)] * 2), min_size=1, max_size=60)
    )
)


@settings(deadline=None, max_examples=60)
@given(pairs)
def test_the_table_is_that_of_a_naive_count(drawn: tuple[int, list[tuple[int, int]]]) -> None:
    classes, both = drawn
    called, true = (np.array(column) for column in zip(*both, strict=True))
    matrix = scores.confusion(called, true, classes)
    assert matrix.sum() == len(both)
    for index, row in enumerate(scores.per_class(called, true, [str(index) for index in range(classes)])):
        hits = sum(c == t == index for c, t in both)
        said, support = sum(c == index for c, _ in both), sum(t == index for _, t in both)
        assert row.support == support
        assert row.precision == (hits / said if said else None)
        assert row.recall == (hits / support if support else None)
        if row.precision and row.recall:
            assert row.f1 == pytest.approx(2 / (1 / row.precision + 1 / row.recall)), "the harmonic mean"


@settings(deadline=None, max_examples=60)
@given(
    arrays.arrays(
        np.float64, st.tuples(st.integers(1, 9), st.integers(3, 8)), elements=st.sampled_from([0.0, 1, 2, 3])
    ),
    st.integers(0, 99),
)
def test_top_k_is_a_stable_sort(logits: np.ndarray, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(logits.shape[1], size=len(logits))
    for k in range(1, logits.shape[1]):
        hits = [
            label in sorted(range(len(row)), key=lambda c: -row[c])[:k]
            for row, label in zip(logits, labels, strict=True)
        ]
        assert scores.top_k_accuracy(logits, labels, k) == pytest.approx(np.mean(hits))
    assert scores.top_k_accuracy(logits, labels, 1) == (logits.argmax(1) == labels).mean()


# Calibration ----------------------------------------------------------------------------------------------------------


def test_the_calibration_error_is_the_one_worked_out_by_hand() -> None:
    # Bins of a fifth. (0.4, 0.6]: one of two right at 0.5 on average; (0.6, 0.8]: none of one; (0.8, 1]: all of two.
    found = calibration.reliability(np.array([0.42, 0.58, 0.7, 0.9, 1.0]), np.array([1, 0, 0, 1, 1], bool), bins=5)
    assert found.counts.tolist() == [0, 0, 2, 1, 2]
    assert found.error == pytest.approx((2 * abs(0.5 - 0.5) + 1 * 0.7 + 2 * (1 - 0.95)) / 5)
    assert found.rows()[2] == {
        "above": 0.4, "up_to": pytest.approx(0.6), "images": 2, "confidence": pytest.approx(0.5), "accuracy": 0.5,
    }  # fmt: skip
    assert found.rows()[0] == {"above": 0.0, "up_to": 0.2, "images": 0, "confidence": None, "accuracy": None}


def test_a_bin_holds_its_upper_end_and_the_first_holds_zero() -> None:
    ends = np.arange(0, 6) / 5
    found = calibration.reliability(ends, np.zeros(6, bool), bins=5)
    assert found.counts.tolist() == [2, 1, 1, 1, 1]
    assert calibration.reliability(np.array([1 + 1e-16, np.nextafter(1, 2)]), np.ones(2, bool)).counts[-1] == 2


def test_a_calibrated_guesser_has_no_error_and_a_boaster_has_it_all() -> None:
    confidence = np.repeat([0.25, 0.75], 400)
    honest = np.concatenate([np.arange(400) < 100, np.arange(400) < 300])
    assert calibration.reliability(confidence, honest).error == pytest.approx(0, abs=1e-12)
    assert calibration.reliability(np.ones(10), np.zeros(10, bool)).error == 1.0


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.floats(0.01, 1), st.booleans()), min_size=1, max_size=50), st.integers(1, 20))
def test_the_calibration_error_is_that_of_a_naive_loop(drawn: list[tuple[float, bool]], bins: int) -> None:
    expected = 0.0
    edges = np.linspace(0, 1, bins + 1)
    for low, high in itertools.pairwise(edges):
        inside = [(sure, right) for sure, right in drawn if low < sure <= high]
        if inside:
            gap = np.mean([right for _, right in inside]) - np.mean([sure for sure, _ in inside])
            expected += len(inside) / len(drawn) * abs(gap)
    confidence, correct = np.array([sure for sure, _ in drawn]), np.array([right for _, right in drawn])
    found = calibration.reliability(confidence, correct, bins)
    assert found.error == pytest.approx(expected)
    assert 0 <= found.error <= 1
    assert found.counts.sum() == len(drawn)


def test_the_likelihood_is_torchs_cross_entropy_and_that_of_guessing_is_the_log_of_the_classes() -> None:
    logits, labels = torch.randn(50, 7, generator=torch.Generator().manual_seed(1)), torch.arange(50) % 7
    assert likelihood(logits, labels) == pytest.approx(F.cross_entropy(logits.double(), labels).item(), abs=1e-12)
    assert likelihood(torch.full((5, 7), -math.log(7)), torch.arange(5)) == pytest.approx(math.log(7))


def test_a_sure_mistake_costs_what_it_costs() -> None:
    """Probabilities are not cut off at the smallest that a float can tell from one, as scikit-learn's log_loss does."""
    logits = torch.tensor([[0.0, 1000.0], [0.0, 1000.0]])
    assert likelihood(logits, torch.tensor([0, 1])) == 500.0


def likelihood(logits: Tensor, labels: Tensor) -> float:
    """Negative log likelihood of a report."""
    facts, _, _ = report.measure(logits, labels, [str(label) for label in range(logits.shape[1])])
    found: float = facts["negative_log_likelihood"]
    return found


# The picture of mistakes ----------------------------------------------------------------------------------------------


def test_the_most_confident_mistakes_come_first() -> None:
    confidence = np.array([0.5, 0.9, 0.7, 0.9, 0.6])
    called, true = np.array([0, 1, 2, 2, 1]), np.array([0, 0, 0, 1, 0])
    found = mistakes.most_confident(confidence, called, true, ANIMALS, most=3)
    assert found == [
        mistakes.Mistake(1, "cat", "dog", 0.9),
        mistakes.Mistake(3, "dog", "eel", 0.9),
        mistakes.Mistake(2, "cat", "eel", 0.7),
    ]
    assert mistakes.most_confident(confidence, true, true, ANIMALS) == []


def test_small_images_are_enlarged_pixel_by_pixel_in_a_grid() -> None:
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (3, 32, 32), dtype=np.uint8) for _ in range(7)]
    made = [mistakes.Mistake(index, "cat", "dog", 0.9) for index in range(7)]
    grid = mistakes.picture(images, made)
    side, step, row = mistakes.SIDE, mistakes.SIDE + mistakes.GAP, mistakes.SIDE + mistakes.CAPTION + mistakes.GAP
    assert grid.shape == (mistakes.HEAD + mistakes.GAP + 2 * row, mistakes.GAP + 5 * step, 3)
    assert grid[: mistakes.HEAD, : 3 * step].min() < 100, "a heading in black"
    grid = grid[mistakes.HEAD :]
    for place, image in enumerate(images):
        top, left = mistakes.GAP + place // 5 * row, mistakes.GAP + place % 5 * step
        tile = grid[top : top + side, left : left + side]
        assert np.array_equal(tile, image.transpose(1, 2, 0).repeat(4, 0).repeat(4, 1))
        caption = grid[top + side : top + side + mistakes.CAPTION, left : left + step]
        assert caption.min() < 100, "text in black"
    empty = grid[mistakes.GAP + row :, mistakes.GAP + 2 * step :]
    assert (empty == 255).all(), "nothing where there is no mistake"


@pytest.mark.parametrize(("height", "width"), [(200, 100), (300, 600), (16, 48)])
def test_other_sizes_keep_their_proportions(height: int, width: int) -> None:
    image = np.full((3, height, width), 40, np.uint8)
    tile = mistakes.picture([image], [mistakes.Mistake(0, "cat", "dog", 1.0)])
    assert tile[: mistakes.HEAD].min() < 100, "a heading of one column too"
    tile = tile[mistakes.HEAD :]
    inner = tile[mistakes.GAP : mistakes.GAP + mistakes.SIDE, mistakes.GAP : mistakes.GAP + mistakes.SIDE]
    rows, columns = np.nonzero((inner == 40).all(2))
    shown = (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1)
    assert max(shown) == mistakes.SIDE
    assert shown[0] / shown[1] == pytest.approx(height / width, rel=0.03)


def test_names_that_are_too_long_or_foreign_stay_in_their_tile() -> None:
    names = ["x" * 200, "Käfer", "鳥"]
    made = [mistakes.Mistake(0, name, name, 1.0) for name in names]
    grid = mistakes.picture([np.zeros((3, 8, 8), np.uint8)] * 3, made)[mistakes.HEAD :]
    borders = [mistakes.GAP + column * (mistakes.SIDE + mistakes.GAP) for column in range(1, 4)]
    for border in borders:
        assert (grid[:, border - mistakes.GAP + 2 : border] == 255).all()


# The whole report -----------------------------------------------------------------------------------------------------


def test_the_report_holds_every_number(tmp_path: Path) -> None:
    headline = report.write(tmp_path / "report", *by_hand(), ANIMALS)
    stored = json.loads((tmp_path / "report" / "report.json").read_text())
    assert headline == {name: stored[name] for name in headline}
    assert list(headline) == ["accuracy", "macro_f1", "expected_calibration_error", "negative_log_likelihood"]
    assert headline["accuracy"] == 4 / 8
    assert headline["macro_f1"] == pytest.approx(1 / 3)
    # Each confidence lies in another bin of a fifteenth, but for 0.55 and 0.58 (0.533 to 0.6).
    assert [row["images"] for row in stored["reliability"]] == [0] * 7 + [1, 2, 1, 1, 1, 0, 1, 1]
    # 0.5 right, (0.58 and 0.55, both right), 0.65 wrong, 0.7 right, 0.78 wrong, 0.9 wrong, 0.95 wrong.
    error = (0.5 + 2 * (1 - 0.565) + 0.65 + 0.3 + 0.78 + 0.9 + 0.95) / 8
    assert headline["expected_calibration_error"] == pytest.approx(error, abs=1e-6)
    own = [0.5, 0.58, 0.7, 0.11, 0.55, 0.175, 0.05, 0.025]
    assert headline["negative_log_likelihood"] == pytest.approx(-np.log(own).mean(), abs=1e-6)
    assert stored["confusion"] == MATRIX
    assert stored["images"] == 8
    assert stored["mean_confidence"] == pytest.approx(np.mean([0.5, 0.58, 0.7, 0.78, 0.55, 0.65, 0.9, 0.95]), abs=1e-6)
    assert stored["classes"][0] == {"name": "cat", "precision": 0.6, "recall": 0.75, "f1": 6 / 9, "support": 4}
    assert stored["confused"][0] == {"true": "dog", "predicted": "cat", "images": 2}
    assert [(row["index"], row["true"], row["predicted"]) for row in stored["mistakes"]] == [
        (7, "eel", "dog"), (6, "dog", "cat"), (3, "cat", "dog"), (5, "dog", "cat"),
    ]  # fmt: skip
    with (tmp_path / "report" / "confusion.csv").open() as file:
        assert list(csv.reader(file)) == [
            ["true \\ predicted", "cat", "dog", "eel"], ["cat", "3", "1", "0"], ["dog", "2", "1", "0"],
            ["eel", "0", "1", "0"],
        ]  # fmt: skip
    table = (tmp_path / "report" / "report.md").read_text()
    assert "- accuracy: 0.5000\n" in table
    assert "| cat | 0.600 | 0.750 | 0.667 | 4 |\n" in table
    assert "| eel | – | 0.000 | 0.000 | 1 |\n" in table
    assert "| dog | cat | 2 |\n" in table


def test_the_picture_shows_the_images_of_the_mistakes(tmp_path: Path) -> None:
    logits, labels, images = by_hand()
    report.write(tmp_path, logits, labels, images, ANIMALS)
    picture = cv2.cvtColor(cv2.imread(str(tmp_path / "mistakes.png")), cv2.COLOR_BGR2RGB)
    step = mistakes.SIDE + mistakes.GAP
    height = mistakes.HEAD + mistakes.GAP * 2 + mistakes.SIDE + mistakes.CAPTION
    assert picture.shape == (height, mistakes.GAP + 4 * step, 3)
    picture = picture[mistakes.HEAD :]
    middles = picture[mistakes.GAP + 64, [mistakes.GAP + 64 + step * place for place in range(4)]]
    assert middles.tolist() == [images[index, :, 0, 0].tolist() for index in (7, 6, 3, 5)]


def test_top_five_is_told_where_it_means_something(tmp_path: Path) -> None:
    logits, labels = torch.eye(6)[[0, 1, 2]], torch.tensor([5, 1, 3])
    headline = report.write(tmp_path, logits, labels, torch.zeros(3, 3, 4, 4, dtype=torch.uint8), [*"abcdef"])
    assert headline["top5_accuracy"] == pytest.approx(2 / 3), (
        "the sixth of six among equals is not among the first five"
    )
    assert headline["accuracy"] == pytest.approx(1 / 3)


def test_charts_are_drawn_where_matplotlib_is(tmp_path: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    report.write(tmp_path, *by_hand(), ANIMALS)
    chart = cv2.cvtColor(cv2.imread(str(tmp_path / "confusion.png")), cv2.COLOR_BGR2RGB)
    areas = {}
    for share in (0.0, 0.25, 1 / 3, 2 / 3, 0.75, 1.0):
        colour = np.array(matplotlib.colormaps["Blues"](share, bytes=True)[:3])
        areas[share] = int((np.abs(chart.astype(int) - colour) <= 3).all(2).sum())
    # Shares of each true class: cat 3/4 1/4 0, dog 2/3 1/3 0, eel 0 1 0. A number covers a little of its cell.
    cell = areas[0.0] / 4
    assert cell > 5000
    for share in (0.25, 1 / 3, 2 / 3, 0.75, 1.0):
        assert 0.9 * cell < areas[share] < 1.05 * cell
    assert cv2.imread(str(tmp_path / "reliability.png")).shape == (495, 550, 3)


def test_a_hundred_classes_are_drawn_too(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    labels = torch.arange(200) % 100
    names = [f"class {index}" for index in range(100)]
    images = np.zeros((200, 3, 32, 32), np.uint8)
    headline = report.write(tmp_path, 9 * F.one_hot(labels).float(), labels, images, names)
    assert headline["accuracy"] == headline["top5_accuracy"] == headline["macro_f1"] == 1.0
    assert cv2.imread(str(tmp_path / "confusion.png")) is not None
    assert not (tmp_path / "mistakes.png").exists(), "there are none"


def test_without_matplotlib_the_numbers_are_there_and_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    headline = report.write(tmp_path, *by_hand(), ANIMALS)
    assert headline["accuracy"] == 0.5
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "report.md", "confusion.csv", "mistakes.png"}
    assert 'pip install "stillsight[plot]"' in (tmp_path / "report.md").read_text()


def test_a_second_report_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    logits, labels, images = by_hand()
    report.write(tmp_path, logits, labels, images, ANIMALS)
    assert (tmp_path / "mistakes.png").exists()
    report.write(tmp_path, F.one_hot(labels).float(), labels, images, ANIMALS)
    assert not (tmp_path / "mistakes.png").exists()
    assert json.loads((tmp_path / "report.json").read_text())["accuracy"] == 1.0
    assert not list(tmp_path.glob(".*")), "no half files"


def test_the_names_of_classes_cannot_break_the_table(tmp_path: Path) -> None:
    report.write(tmp_path, *by_hand(), ["a|b", 'with "quotes", and commas', "eel"])
    assert "| a\\|b | 0.600 |" in (tmp_path / "report.md").read_text()
    with (tmp_path / "confusion.csv").open() as file:
        assert next(csv.reader(file))[2] == 'with "quotes", and commas'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_training_that_diverged_is_one_sentence(tmp_path: Path, value: float) -> None:
    logits, labels, images = by_hand()
    logits[2, 1] = value
    with pytest.raises(EncoderError, match=r"^The network gives no finite numbers for 1 of 8 images: its training has"):
        report.write(tmp_path / "report", logits, labels, images, ANIMALS)
    assert not (tmp_path / "report").exists()


# What must not cost a run ---------------------------------------------------------------------------------------------


def test_names_that_look_like_formulas_are_drawn_as_they_stand(tmp_path: Path) -> None:
    logits, labels, images = by_hand()
    names = ("$100_to_$200", "$\\frac$", "a_b^c")
    report.write(tmp_path, logits, labels, images, names)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == sorted(report.PICTURES)
    assert "note" not in json.loads((tmp_path / "report.json").read_text())


def test_a_picture_that_cannot_be_drawn_costs_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels, images = by_hand()

    def fail(*_: object) -> bytes:
        raise RuntimeError("no such font")

    monkeypatch.setattr(report, "confusion_chart", fail)
    monkeypatch.setattr(mistakes, "picture", fail)
    assert report.write(tmp_path, logits, labels, images, ANIMALS)["accuracy"] == 0.5
    assert [path.name for path in tmp_path.glob("*.png")] == ["reliability.png"]
    note = "confusion.png could not be drawn (RuntimeError: no such font); mistakes.png could not be drawn (Runtime"
    assert json.loads((tmp_path / "report.json").read_text())["note"].startswith(note)
    assert note in (tmp_path / "report.md").read_text()


def test_no_images_are_no_report(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"^There are no images to report on\. Give the data set test images\.$"):
        report.write(tmp_path / "report", torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), torch.zeros(0), ANIMALS)
    assert not (tmp_path / "report").exists()
