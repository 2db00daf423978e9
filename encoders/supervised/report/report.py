"""Report what a run learned, from the logits of its test images: numbers as JSON, a table, and pictures.

report.json     every number               report.md      headline, per-class table, frequent confusions
confusion.csv   counts, rows are true      confusion.png  reliability.png     where matplotlib is installed
mistakes.png    the most confident ones
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stillsight.encoders.atomic import to_json, write_atomically, writing
from stillsight.encoders.errors import EncoderError
from stillsight.encoders.supervised.report import calibration, mistakes, scores
from stillsight.encoders.supervised.report.charts import confusion_chart, reliability_chart

PICTURES = ("confusion.png", "reliability.png", "mistakes.png")

HEADLINE = {
    "accuracy": "accuracy",
    "top5_accuracy": "top-5 accuracy",
    "macro_f1": "macro F1",
    "expected_calibration_error": f"expected calibration error ({calibration.BINS} bins)",
    "negative_log_likelihood": "negative log likelihood (nats)",
}
"""Headline numbers and their names in the Markdown."""


def write(
    folder: Path, logits: Tensor, labels: Tensor, images: Tensor | np.ndarray, classes: Sequence[str]
) -> dict[str, float]:
    """Write the report into `folder` and return its headline: accuracy, top5_accuracy (where there are more than five
    classes), macro_f1 and expected_calibration_error, all 0..1, and negative_log_likelihood in nats.

    Each file is written at once or not at all, report.json last. What an older report left there is replaced. A picture
    that cannot be drawn is left out, and the note of report.json and report.md says why: it must not cost a run.

    Args:
        folder: made if it is not there.
        logits: `[N, classes]`, on any device; log-probabilities serve as well.
        labels: int64 `[N]`.
        images: uint8 `[N, 3, H, W]` RGB; only those in the picture of mistakes are read.
        classes: names, in the order of the labels.

    Raises:
        EncoderError: there are no images, or the logits are not finite: the training has diverged.
    """
    if not len(labels):
        raise EncoderError("There are no images to report on. Give the data set test images.")
    if not bool(logits.isfinite().all()):
        broken = int((~logits.isfinite()).any(1).sum())
        raise EncoderError(
            f"The network gives no finite numbers for {broken:,} of {len(logits):,} images: its training has diverged. "
            "Train again with a lower rate, say --lr 0.01."
        )
    facts, matrix, calibrated = measure(logits, labels, classes)
    confident = [mistakes.Mistake(**row) for row in facts["mistakes"]]
    pixels = [np.asarray(images[mistake.index]) for mistake in confident]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in PICTURES:
            (folder / name).unlink(missing_ok=True)
    write_atomically(folder / "confusion.csv", _csv(matrix, classes))
    notes = []
    drawn: dict[str, Callable[[], bytes]] = {
        "confusion.png": lambda: confusion_chart(matrix, classes),
        "reliability.png": lambda: reliability_chart(calibrated),
    }
    if confident:
        drawn["mistakes.png"] = lambda: _png(mistakes.picture(pixels, confident))
    for name, draw in drawn.items():
        try:
            content = draw()
        except ImportError:
            notes.append(f'{name} needs matplotlib: pip install "stillsight[plot]"')
        except Exception as error:  # the run is done, and only a picture of it is lacking
            notes.append(f"{name} could not be drawn ({type(error).__name__}: {error})")
        else:
            write_atomically(folder / name, content)
    if notes:
        facts["note"] = "; ".join(notes)
    write_atomically(folder / "report.md", _markdown(facts, classes))
    write_atomically(folder / "report.json", to_json(facts, indent=2) + "\n")
    return {name: facts[name] for name in HEADLINE if name in facts}


def measure(
    logits: Tensor, labels: Tensor, classes: Sequence[str]
) -> tuple[dict[str, Any], np.ndarray, calibration.Reliability]:
    """Every number of the report as JSON has it, the confusion matrix and the reliability; see `write`."""
    exact = logits.detach().double().cpu()
    log_probabilities = torch.log_softmax(exact, 1).numpy()
    scored, truth = exact.numpy(), labels.cpu().numpy()
    predicted = scored.argmax(1)
    confidence = np.exp(log_probabilities[np.arange(len(truth)), predicted])
    # Not scikit-learn's log_loss: it takes probabilities and cuts them off at 2e-16, where a sure mistake costs more.
    losses = F.cross_entropy(exact, labels.cpu(), reduction="none").numpy()
    matrix = scores.confusion(predicted, truth, len(classes))
    table = scores.per_class(predicted, truth, classes)
    calibrated = calibration.reliability(confidence, predicted == truth)
    facts = {
        "images": len(truth),
        "accuracy": float((predicted == truth).mean()),
        **({"top5_accuracy": scores.top_k_accuracy(scored, truth, 5)} if len(classes) > 5 else {}),
        "macro_f1": scores.macro_f1(predicted, truth, len(classes)),
        "expected_calibration_error": calibrated.error,
        "negative_log_likelihood": float(losses.mean()),
        "mean_confidence": float(confidence.mean()),
        "classes": [asdict(row) for row in table],
        "confused": [
            {"true": classes[row], "predicted": classes[column], "images": count}
            for row, column, count in scores.most_confused(matrix)
        ],
        "reliability": calibrated.rows(),
        "mistakes": [asdict(mistake) for mistake in mistakes.most_confident(confidence, predicted, truth, classes)],
        "confusion": matrix.tolist(),
    }
    return facts, matrix, calibrated


def _csv(matrix: np.ndarray, classes: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true \\ predicted", *classes])
    writer.writerows([name, *row] for name, row in zip(classes, matrix.tolist(), strict=True))
    return text.getvalue()


def _markdown(facts: dict[str, Any], classes: Sequence[str]) -> str:
    lines = [f"# {facts['images']:,} images, {len(classes)} classes", ""]
    lines += [f"- {title}: {facts[name]:.4f}" for name, title in HEADLINE.items() if name in facts]
    lines += ["", "| class | precision | recall | F1 | images |", "|---|---|---|---|---|"]
    for row in facts["classes"]:
        ratios = ("–" if row[key] is None else f"{row[key]:.3f}" for key in ("precision", "recall", "f1"))
        lines.append(f"| {_cell(row['name'])} | {' | '.join(ratios)} | {row['support']:,} |")
    if facts["confused"]:
        lines += ["", "| is | taken for | images |", "|---|---|---|"]
        lines += [
            f"| {_cell(row['true'])} | {_cell(row['predicted'])} | {row['images']:,} |" for row in facts["confused"]
        ]
    if "note" in facts:
        lines += ["", facts["note"]]
    return "\n".join(lines) + "\n"


def _cell(name: str) -> str:
    return name.replace("|", "\\|")


def _png(pixels: np.ndarray) -> bytes:
    done, encoded = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    assert done
    return encoded.tobytes()
