"""Re-evaluate the classifier of a cifar run, from its files alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from stillsight.agents.command_line.json_output import print_json
from stillsight.agents.errors import RunError
from stillsight.agents.playing.classify import load
from stillsight.agents.playing.evaluations import ELSEWHERE, EVALUATIONS, keep
from stillsight.agents.runs.place import place
from stillsight.agents.runs.progress import ProgressDisplay
from stillsight.agents.runs.records import plain
from stillsight.agents.runs.trust import NOTHING, Trust, open_run, read_run
from stillsight.encoders.atomic import to_json
from stillsight.encoders.errors import DiskFault
from stillsight.encoders.supervised.cifar_config import CifarConfig
from stillsight.encoders.supervised.data.cifar_facts import CIFAR
from stillsight.encoders.supervised.heads.head import accuracy
from stillsight.encoders.supervised.learn import load_dataset
from stillsight.encoders.supervised.report import report

ROUNDING = 0.005
"""Largest difference from the recorded accuracy that is put down to another device or precision: half a point, or
two images where there are few."""


def reevaluate(
    folder: Path,
    split: Literal["test", "validation"],
    *,
    data: Path | None = None,
    weights: Path | None = None,
    device: str = "auto",
    display: ProgressDisplay | None = None,
    trust: Trust = NOTHING,
    out: Path | None = None,
    printed: bool = False,
) -> dict[str, Any]:
    """Classify the images of `split` again, compare with summary.json, write the report, print and return the result.

    The report goes into report-test/ or report-validation/ of the run folder, beside the run's own, and a line of its
    headline numbers is appended to evaluations.jsonl.

    Args:
        folder: of the run.
        split: which images.
        data: where its CIFAR files, or its image folder, lie now, if they have moved.
        weights: where the weights of a frozen encoder lie now, if they have moved.
        device: to compute on.
        display: where progress and result are shown; the standard output by default.
        trust: what the run may ask for.
        out: folder of report and evaluations.jsonl; that of the run by default.
        printed: print the result as JSON, too, on the standard output.

    Raises:
        EncoderError: see `classify.load` and `load_dataset`.
        RunError: the data are not those of the run, the accuracy is not the one that it recorded, or what is to be
            written is a link, a pipe or a device.
        DiskFault: the result was printed, and could not be kept.
    """
    kept = out or folder
    target = place(kept, f"report-{split}")
    place(kept, EVALUATIONS)
    moved: dict[str, Any] = {}
    if data is not None:
        named = str(read_run(folder).record.get("dataset"))
        moved = {"data": data} if named in CIFAR else {"dataset": str(data)}
    config = open_run(folder, trust, writes=True, **moved).expect(CifarConfig)
    if config.dataset not in CIFAR and not Path(config.dataset).is_dir():
        raise RunError(f"The images of {folder} are not in {config.dataset}. Say where they are: --data FOLDER.")
    predictor = load(folder, weights=weights, device=device, trust=trust.names)
    if split == "validation" and predictor.summary.get("refit"):
        raise RunError(
            f"The head of {folder} was fitted again to training and validation images together, and says nothing about "
            "the latter any more. Type --split test."
        )
    display = display or ProgressDisplay()
    dataset = load_dataset(config, predictor.interpolation, lambda what, done, total: display.update(what, done, total))
    lacking = [name for name in ("dataset_sha256", f"{split}_accuracy") if predictor.summary.get(name) is None]
    if lacking and len(getattr(dataset, split)):
        raise RunError(
            f"The summary of {folder} lacks {', '.join(lacking)}, with which testing again compares. Run it again with "
            "this version: stillsight cifar --out FOLDER."
        )
    if dataset.sha256() != predictor.summary["dataset_sha256"]:
        raise RunError(
            f"{folder} was run on {dataset.name} images with sha256 {predictor.summary['dataset_sha256'][:12]}, and "
            f"these have {dataset.sha256()[:12]}. Say where the right ones are: --data FOLDER."
        )
    images = getattr(dataset, split)
    if not len(images):
        raise RunError(f"{folder} held no images out for validation. Type --split test.")
    logits = predictor.logits(images.images, lambda done: display.update("image", done, len(images)))
    display.close()
    recorded = predictor.summary[f"{split}_accuracy"]
    reached = accuracy(logits, images.labels)
    if abs(reached - recorded) > max(ROUNDING, 2.5 / len(images)):
        raise RunError(
            f"{folder} has an accuracy of {reached:.2%} on its {split} images, and its summary.json says "
            f"{recorded:.2%}: the files are not of one run. Restore them, or start a new run."
        )
    unwritten: DiskFault | None = None
    try:
        headline = report.write(target, logits, images.labels, images.images, dataset.classes)
    except DiskFault as fault:  # the result is not lost with its report
        unwritten = fault
        facts, _, _ = report.measure(logits, images.labels, dataset.classes)
        headline = {name: facts[name] for name in report.HEADLINE if name in facts}
    result = {"split": split, "images": len(images), **headline, "recorded_accuracy": recorded}
    rows = {report.HEADLINE[name]: f"{value:.4f}" for name, value in headline.items()}
    display.card(
        f"{len(images):,} {split} images of {dataset.name}, {folder}",
        {**rows, "recorded accuracy": f"{recorded:.4f}", **({} if unwritten else {"report": str(target)})},
    )
    if printed:
        print_json(to_json(plain(result)))
    if unwritten is not None:
        unwritten.advice = ELSEWHERE
        raise unwritten
    keep(kept, result)
    return result
