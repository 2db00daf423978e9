"""Curves are drawn from what runs recorded: each line's points are asserted, and the picture is decoded."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import pytest

from stillsight.agents.errors import RunError
from stillsight.agents.runs.plots import PlotConfig, plot

pytest.importorskip("matplotlib")


def folder(path: Path, record: dict[str, Any], **streams: Iterable[dict[str, Any]]) -> Path:
    """A run folder with these records."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"encoder": "retina", "mode": "scratch", "seed": 1, **record}))
    for stream, rows in streams.items():
        (path / f"{stream}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


CIFAR = {"command": "cifar", "dataset": "cifar10"}
RL = {"command": "rl", "algo": "ppo", "env": "Orchard"}


def epoch(number: int, loss: float, train: float, validation: float) -> dict[str, Any]:
    return {"epoch": number, "loss": loss, "train_accuracy": train, "validation_accuracy": validation}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that were drawn, kept open."""
    from matplotlib import pyplot

    figures: list[Any] = []
    monkeypatch.setattr(pyplot, "close", figures.append)
    return figures


def points(axes: Any) -> dict[str, list[tuple[float, float]]]:
    """Label -> points of each line."""
    return {line.get_label(): list(zip(*map(list, line.get_data()), strict=True)) for line in axes.get_lines()}


def test_epochs_of_a_cifar_run_are_drawn_with_its_test(tmp_path: Path, drawn: list[Any]) -> None:
    rows = [epoch(1, 2.0, 0.3, 0.4), epoch(2, 1.5, 0.5, 0.45), epoch(2, 1.25, 0.5, 0.5), epoch(3, 1.0, 0.75, 0.625)]
    run = folder(tmp_path / "run", CIFAR, metrics=rows)
    (run / "summary.json").write_text(json.dumps({"test_accuracy": 0.61}))
    out = plot([run], PlotConfig(out=tmp_path / "new" / "curve.png", reference=("plain=0.5",)))
    losses, accuracies = drawn[0].axes
    (loss,) = points(losses).values()
    assert loss == [(1, 2.0), (2, 1.25), (3, 1.0)], "of an epoch that was trained again, the later row"
    found = points(accuracies)
    assert found["cifar10 retina scratch seed 1"] == [(1, 0.4), (2, 0.5), (3, 0.625)]
    assert found["test 61.0%"] == [(3, 0.61)]
    assert [(1, 0.3), (2, 0.5), (3, 0.75)] in found.values(), "accuracy on the training images"
    assert any([y for _, y in line] == [0.5, 0.5] for line in found.values()), "the reference"
    assert accuracies.get_title() == "cifar10"
    assert cv2.imread(str(out)).shape == (440, 1210, 3)


def test_a_frozen_run_is_a_level_line(tmp_path: Path, drawn: list[Any]) -> None:
    row = {"train_accuracy": 0.9, "validation_accuracy": 0.8, "penalty": 0.01}
    frozen = folder(tmp_path / "frozen", {**CIFAR, "mode": "frozen"}, metrics=[row])
    plot([frozen], PlotConfig(out=tmp_path / "alone.png"))
    losses, accuracies = drawn[0].axes
    assert not losses.get_visible(), "there is none"
    assert [y for _, y in points(accuracies)["cifar10 retina frozen seed 1"]] == [0.8, 0.8]
    trained = folder(tmp_path / "trained", CIFAR, metrics=[epoch(1, 2.0, 0.3, 0.4)])
    plot([frozen, trained], PlotConfig(out=tmp_path / "both.png"))
    losses, accuracies = drawn[1].axes
    assert losses.get_visible()
    colours = {line.get_color() for line in accuracies.get_lines()}
    assert colours == {"C0", "C1"}, "one for each run"


def test_episodes_of_an_agent_are_drawn_as_before(tmp_path: Path, drawn: list[Any]) -> None:
    episodes = [{"step": 10 * index, "return": float(index)} for index in range(1, 5)]
    evaluations = [{"step": 20, "mean": 2.5, "std": 0.5}]
    plot(
        [folder(tmp_path / "run", RL, episodes=episodes, eval=evaluations)],
        PlotConfig(out=tmp_path / "a.png", window=2),
    )
    (axes,) = drawn[0].axes
    assert points(axes)["ppo retina scratch seed 1, training"] == [(20, 1.5), (30, 2.5), (40, 3.5)]
    assert axes.get_ylabel() == "return of an episode, unclipped"


def test_runs_of_both_kinds_do_not_share_a_picture(tmp_path: Path) -> None:
    runs = [folder(tmp_path / "a", CIFAR), folder(tmp_path / "b", RL)]
    with pytest.raises(
        RunError, match=r"a is a run of cifar and .*b is a run of rl, whose curves have no axis in common"
    ):
        plot(runs, PlotConfig(out=tmp_path / "c.png"))
    assert not (tmp_path / "c.png").exists()


@pytest.mark.parametrize(("record", "what"), [(CIFAR, "epochs"), (RL, "episodes")])
def test_nothing_to_draw_yet_is_one_sentence(tmp_path: Path, record: dict[str, Any], what: str) -> None:
    kind = record["command"]
    with pytest.raises(
        RunError, match=rf"has no finished {what} to draw\. Give {kind} runs that went on for a while\.$"
    ):
        plot([folder(tmp_path / "run", record)], PlotConfig(out=tmp_path / "a.png"))


def test_a_reference_that_is_no_number_is_one_sentence(tmp_path: Path) -> None:
    run = folder(tmp_path / "run", CIFAR, metrics=[epoch(1, 2.0, 0.3, 0.4)])
    with pytest.raises(RunError, match=r"^--reference takes name=return, and got 'best'\. Type, say:"):
        plot([run], PlotConfig(out=tmp_path / "a.png", reference=("best",)))
