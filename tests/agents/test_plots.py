"""Curves are drawn from what runs recorded: each line's points are asserted, and the picture is decoded."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import pytest

from stillsight.agents.errors import RunError
from stillsight.agents.runs.plots import WIDTH, PlotConfig, plot

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
    (run / "done").touch()
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
    assert cv2.imread(str(out)).shape == (459, 1210, 3)


def test_the_test_of_a_shorter_run_is_not_drawn_at_the_epochs_of_a_longer_one(tmp_path: Path, drawn: list[Any]) -> None:
    run = folder(tmp_path / "run", CIFAR, metrics=[epoch(1, 2.0, 0.3, 0.4), epoch(2, 1.5, 0.5, 0.45)])
    (run / "summary.json").write_text(json.dumps({"test_accuracy": 0.61}))  # and it is not done, so it goes on
    plot([run], PlotConfig(out=tmp_path / "curve.png"))
    assert not any("test" in label for label in points(drawn[0].axes[1]))


@pytest.mark.parametrize(
    ("record", "asides", "own"),
    [
        (
            RL,
            {"keep": 3, "step_timeout": 5.0, "eval_every": 7, "eval_episodes": 2, "engine": "eager", "workers": "on"},
            {"eval_max_steps": 500, "steps": 900, "weights": "x.pth", "head": 8},
        ),
        (CIFAR, {"save_every": 9, "data": "there", "threads": 2}, {"epochs": 9, "weights": "x.pth"}),
    ],
)
def test_how_a_run_was_run_makes_no_arm_and_what_counts_does(
    tmp_path: Path, drawn: list[Any], record: dict[str, Any], asides: dict[str, Any], own: dict[str, Any]
) -> None:
    streams = {"metrics": [epoch(1, 2.0, 0.3, 0.4)]} if record is CIFAR else {"episodes": returns(1, 3)}
    one = folder(tmp_path / "one", record, **streams)
    changes = [*(({name: value}, 1) for name, value in asides.items()), *(({k: v}, 2) for k, v in own.items())]
    for number, (change, arms) in enumerate(changes):
        other = folder(tmp_path / str(number), {**record, "seed": 2, **change}, **streams)
        plot([one, other], PlotConfig(out=tmp_path / "c.png"))
        colours = {line.get_color() for line in drawn[-1].axes[-1].get_lines()}
        assert len(colours) == arms, change


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


def returns(*values: float) -> list[dict[str, Any]]:
    """Episodes of ten steps."""
    return [{"step": 10 * index, "return": value} for index, value in enumerate(values, 1)]


def test_runs_of_several_seeds_have_a_mean(tmp_path: Path, drawn: list[Any]) -> None:
    one = folder(tmp_path / "a", RL, episodes=returns(1, 3), eval=[{"step": 20, "mean": 2.0, "std": 9.0}])
    both = [{"step": 20, "mean": 4.0, "std": 9.0}, {"step": 30, "mean": 7.0, "std": 9.0}]
    two = folder(tmp_path / "b", {**RL, "seed": 2}, episodes=returns(5, 5, 8), eval=both)
    plot([one, two], PlotConfig(out=tmp_path / "c.png", window=1))
    (axes,) = drawn[0].axes
    assert points(axes)["ppo retina scratch, mean of 2 seeds, training"] == [(10, 3.0), (20, 4.0)]
    assert [(10, 1.0), (20, 3.0)] in points(axes).values(), "each seed is there too"
    (bars,) = axes.containers
    assert bars.get_label() == "evaluations, ± std over seeds"
    assert list(zip(*map(list, bars.lines[0].get_data()), strict=True)) == [(20, 3.0)], "where every seed has one"
    ((low, high),) = bars.lines[2][0].get_segments()
    assert (low[1], high[1]) == (2.0, 4.0), "the spread of the seeds, and not of the episodes"
    assert len({line.get_color() for line in axes.get_lines()}) == 1


def test_a_mean_is_taken_where_every_seed_has_been(tmp_path: Path, drawn: list[Any]) -> None:
    early = folder(tmp_path / "a", RL, episodes=[{"step": 0, "return": 0}, {"step": 10, "return": 10}])
    late = folder(tmp_path / "b", {**RL, "seed": 2}, episodes=[{"step": 5, "return": 1}, {"step": 20, "return": 1}])
    plot([early, late], PlotConfig(out=tmp_path / "c.png", window=1))
    assert points(drawn[0].axes[0])["ppo retina scratch, mean of 2 seeds, training"] == [(5, 3.0), (10, 5.5)]


def test_two_runs_of_one_seed_are_called_runs(tmp_path: Path, drawn: list[Any]) -> None:
    plot([folder(tmp_path / name, RL, episodes=returns(1, 2)) for name in "ab"], PlotConfig(out=tmp_path / "c.png"))
    assert "ppo retina scratch, mean of 2 runs, training" in points(drawn[0].axes[0])


def test_runs_are_told_apart_by_what_differs(tmp_path: Path, drawn: list[Any]) -> None:
    taps = ("layer1", "layer2", None)
    runs = [
        folder(tmp_path / str(tap), {**RL, "tap": tap, "set": ["a=1", f"b={tap}"]}, episodes=returns(1, 2))
        for tap in taps
    ]
    plot(runs, PlotConfig(out=tmp_path / "c.png", window=1))
    (axes,) = drawn[0].axes
    assert set(points(axes)) == {
        "ppo retina scratch set b=layer1 tap layer1 seed 1, training",
        "ppo retina scratch set b=layer2 tap layer2 seed 1, training",
        "ppo retina scratch set b=None tap default seed 1, training",
    }
    assert len({line.get_color() for line in axes.get_lines()}) == 3


def test_what_a_preset_brings_is_not_told_of_another_algorithm_and_long_legends_stand_below(
    tmp_path: Path, drawn: list[Any]
) -> None:
    """The failure it prevents: labels of what nobody typed, drawn across the curves and out of the picture."""
    own = {
        "set": ["n_steps=128", "clip_range='lin_0.1'"],
        "pixels": ["a_camera_with_a_very_long_name", "another_camera"],
    }
    returns = {"episodes": [{"step": 1, "return": 1.0}, {"step": 2, "return": 2.0}]}
    ppo = folder(tmp_path / "ppo", {**RL, **own}, **returns)
    dqn = folder(tmp_path / "dqn", {**RL, "algo": "dqn", "set": ["learning_starts=5000"]}, **returns)
    typed = folder(tmp_path / "typed", {**RL, "algo": "dqn", "set": ["learning_starts=100"]}, **returns)
    plot([ppo, dqn, typed], PlotConfig(out=tmp_path / "curve.png"))
    (axes,) = drawn[0].axes
    legend = axes.get_legend()
    told = [" ".join(text.get_text().split()) for text in legend.get_texts()]
    assert not any("clip_range" in one or "n_steps" in one for one in told)
    assert {"learning_starts=5000", "learning_starts=100"} == {
        word for one in told for word in one.split() if word.startswith("learning_starts")
    }
    lines = [line for text in legend.get_texts() for line in text.get_text().splitlines()]
    assert len(lines) > len(told)
    assert max(map(len, lines)) <= WIDTH
    drawn[0].canvas.draw()
    assert legend.get_window_extent().y1 < axes.get_window_extent().y0
    assert legend.get_window_extent().y0 >= 0


def test_what_only_says_where_a_run_ran_makes_no_other_arm(tmp_path: Path, drawn: list[Any]) -> None:
    runs = [
        folder(tmp_path / device, {**RL, "seed": seed, "device": device, "out": device}, episodes=returns(1, 2))
        for seed, device in enumerate(("cpu", "cuda"))
    ]
    plot(runs, PlotConfig(out=tmp_path / "c.png"))
    assert "ppo retina scratch, mean of 2 seeds, training" in points(drawn[0].axes[0])


def test_each_environment_has_its_axis(tmp_path: Path, drawn: list[Any]) -> None:
    runs = [
        folder(tmp_path / f"{env}{seed}", {**RL, "env": env, "seed": seed}, episodes=returns(seed, seed))
        for env in ("Pong", "Orchard")
        for seed in (1, 2)
    ]
    plot(runs, PlotConfig(out=tmp_path / "c.png", window=1))
    assert [axes.get_title() for axes in drawn[0].axes] == ["Pong", "Orchard"]
    for axes in drawn[0].axes:
        assert points(axes)["ppo retina scratch, mean of 2 seeds, training"] == [(10, 1.5), (20, 1.5)]
    with pytest.raises(RunError, match=r"--reference is one line, and these runs are of Pong, Orchard"):
        plot(runs, PlotConfig(out=tmp_path / "d.png", reference=("random=1",)))


def test_one_evaluation_or_epoch_is_a_point(tmp_path: Path, drawn: list[Any]) -> None:
    evaluation = [{"step": 64, "mean": 2.0, "std": 1.0}]
    run = folder(tmp_path / "short", RL, eval=evaluation)  # which ended before an episode did
    plot([run], PlotConfig(out=tmp_path / "a.png"))
    (axes,) = drawn[0].axes
    (bars,) = axes.containers
    assert list(zip(*map(list, bars.lines[0].get_data()), strict=True)) == [(64, 2.0)]
    assert bars.lines[0].get_marker() == "o"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "ppo retina scratch seed 1, evaluations, ± std"
    ]
    plot([folder(tmp_path / "one", RL, episodes=returns(3))], PlotConfig(out=tmp_path / "b.png"))
    (line,) = drawn[1].axes[0].get_lines()
    assert (list(line.get_xdata()), line.get_marker()) == ([10], "o")
    plot([folder(tmp_path / "epoch", CIFAR, metrics=[epoch(1, 2.0, 0.3, 0.4)])], PlotConfig(out=tmp_path / "c.png"))
    assert {line.get_marker() for axes in drawn[2].axes for line in axes.get_lines()} == {"o"}
    plot([folder(tmp_path / "more", RL, episodes=returns(1, 2))], PlotConfig(out=tmp_path / "d.png", window=1))
    assert drawn[3].axes[0].get_lines()[0].get_marker() in ("", "None"), "a line is its own mark"


def test_each_data_set_has_its_axes_and_seeds_their_mean(tmp_path: Path, drawn: list[Any]) -> None:
    rows = [epoch(1, 2.0, 0.25, 0.25), epoch(2, 1.0, 0.5, 0.5)]
    better = [epoch(1, 1.0, 0.75, 0.75), epoch(2, 0.5, 1.0, 1.0)]
    runs = [
        folder(tmp_path / "a", CIFAR, metrics=rows),
        folder(tmp_path / "b", {**CIFAR, "seed": 2}, metrics=better),
        folder(tmp_path / "c", {**CIFAR, "dataset": "photos"}, metrics=rows),
    ]
    plot(runs, PlotConfig(out=tmp_path / "c.png"))
    losses, accuracies, _, photos = drawn[0].axes
    assert [accuracies.get_title(), photos.get_title()] == ["cifar10", "photos"]
    assert points(accuracies)["cifar10 retina scratch, mean of 2 seeds"] == [(1, 0.5), (2, 0.75)]
    assert [(1, 1.5), (2, 0.75)] in points(losses).values()
    assert points(photos)["photos retina scratch"] == [(1, 0.25), (2, 0.5)]


def test_a_run_with_nothing_to_draw_yet_does_not_stop_the_others(
    tmp_path: Path, drawn: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    ready = folder(tmp_path / "a", RL, episodes=returns(1, 2))
    empty, none = folder(tmp_path / "b", RL, episodes=[]), folder(tmp_path / "c", RL)
    out = plot([empty, ready, none], PlotConfig(out=tmp_path / "c.png", window=1))
    assert list(points(drawn[0].axes[0])) == ["ppo retina scratch seed 1, training"]
    captured = capsys.readouterr()
    assert captured.out.split() == [str(out)]
    assert captured.err.splitlines() == [
        f"{run} has no finished episodes to draw yet, and is left out." for run in (empty, none)
    ]
    with pytest.raises(RunError, match="None of these runs has any finished episodes to draw"):
        plot([empty, none], PlotConfig(out=tmp_path / "d.png"))


def test_a_row_that_is_half_written_is_left_out(tmp_path: Path, drawn: list[Any]) -> None:
    run = folder(tmp_path / "a", RL, episodes=returns(1, 2))
    with (run / "episodes.jsonl").open("a") as file:
        file.write('{"step": 30, "ret')
    plot([run], PlotConfig(out=tmp_path / "c.png", window=1))
    assert points(drawn[0].axes[0])["ppo retina scratch seed 1, training"] == [(10, 1.0), (20, 2.0)]
    (run / "episodes.jsonl").write_text('{"step": 10, "ret\n{"step": 20, "return": 1}\n')
    with pytest.raises(RunError, match=r"^Line 1 of .*episodes\.jsonl is damaged"):
        plot([run], PlotConfig(out=tmp_path / "c.png"))


def test_a_window_has_no_effect_on_epochs(tmp_path: Path) -> None:
    run = folder(tmp_path / "run", CIFAR, metrics=[epoch(1, 2.0, 0.3, 0.4)])
    with pytest.raises(RunError, match="--window smooths the returns of rl runs"):
        plot([run], PlotConfig(out=tmp_path / "a.png", window=5))


def test_a_picture_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    run = folder(tmp_path / "run", RL, episodes=returns(1, 2))
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot be written \(.*--out FILE\.$"):
        plot([run], PlotConfig(out=tmp_path / "file" / "a.png"))
    with pytest.raises(RunError, match="is a folder"):
        plot([run], PlotConfig(out=Path(folder(tmp_path / "a.png", RL))))
