"""TensorBoard as a sink of a run: each number is one point, whatever stream, step and resumption it comes from."""

from __future__ import annotations

import errno
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.summary.writer import record_writer

from stillsight.agents.errors import RunError
from stillsight.agents.runs import tensorboard
from stillsight.agents.runs.folder import Run
from stillsight.agents.runs.tensorboard import TensorBoardSink

Curves = dict[str, list[tuple[int, float]]]


def curves(folder: Path) -> Curves:
    """Tag -> (step, value), as TensorBoard draws them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_a_key_with_a_slash_is_the_tag_and_any_other_stands_under_its_stream(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path)
    sink.log("metrics", {"step": 64, "train/loss": 0.5, "time/fps": 100})
    sink.log("eval", {"step": 64, "mean": 2, "std": np.float32(0.25)})
    sink.log("metrics", {"epoch": 2, "loss": 0.125})
    sink.close()
    assert curves(tmp_path) == {
        "train/loss": [(64, 0.5)], "time/fps": [(64, 100.0)], "eval/mean": [(64, 2.0)], "eval/std": [(64, 0.25)],
        "metrics/loss": [(2, 0.125)],
    }  # fmt: skip


def test_the_step_comes_before_the_epoch_and_a_row_without_either_stands_at_zero(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path)
    sink.log("metrics", {"validation_accuracy": 0.5})
    sink.log("metrics", {"epoch": 3, "step": 7, "loss": 1.0})
    sink.close()
    assert curves(tmp_path) == {"metrics/validation_accuracy": [(0, 0.5)], "metrics/loss": [(7, 1.0)]}


def test_what_is_no_number_is_left_out(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path)
    odd: dict[str, Any] = {"a": None, "b": float("nan"), "c": "text", "d": [1.0], "e": True, "f": {"g": 1.0}}
    sink.log("eval", {"step": 1, **odd, "mean": 1.5})
    sink.close()
    assert curves(tmp_path) == {"eval/mean": [(1, 1.5)]}


def test_nothing_is_written_before_the_first_row(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path / "tensorboard")
    sink.close()
    assert not list(tmp_path.iterdir())


def test_a_resumed_run_draws_no_point_twice(tmp_path: Path) -> None:
    first = TensorBoardSink(tmp_path)
    for epoch in (1, 2, 3):
        first.log("metrics", {"epoch": epoch, "loss": float(epoch)})
    # The process is killed here: the sink is not closed, and what it has drawn is on disk all the same.
    assert curves(tmp_path) == {"metrics/loss": [(1, 1.0), (2, 2.0), (3, 3.0)]}
    second = TensorBoardSink(tmp_path)
    for epoch in (2, 3, 4):
        second.log("metrics", {"epoch": epoch, "loss": 10.0 * epoch})
    second.close()
    assert curves(tmp_path) == {"metrics/loss": [(1, 1.0), (2, 20.0), (3, 30.0), (4, 40.0)]}


def test_what_was_drawn_after_the_checkpoint_is_drawn_once(tmp_path: Path) -> None:
    # The session that goes on may write its first row later than the first one that was cut: at 120, not at 110.
    def session(rows: dict[int, float], resumed: bool) -> None:
        with Run(tmp_path / "run", "rl", {}, resumed=resumed, sinks=[TensorBoardSink(tmp_path / "events")]) as run:
            if resumed:
                run.rewind(100)
            for step, value in rows.items():
                run.log("episodes", {"step": step, "return": value})
                run.log("eval", {"step": step, "mean": value, "std": 0.0, "returns": [value]})

    session({90: 1.0, 100: 2.0, 110: 3.0, 130: 4.0}, resumed=False)
    session({120: 5.0, 140: 6.0}, resumed=True)
    expected = [(90, 1.0), (100, 2.0), (120, 5.0), (140, 6.0)]
    found = curves(tmp_path / "events")
    assert found["episodes/return"] == expected
    assert found["eval/mean"] == expected, "evaluations are there too"
    rows = [json.loads(line) for line in (tmp_path / "run" / "eval.jsonl").read_text().splitlines()]
    assert [(row["step"], row["mean"]) for row in rows] == expected, "as in the files"


def test_a_run_that_begins_anew_purges_everything(tmp_path: Path) -> None:
    first = TensorBoardSink(tmp_path)
    first.log("metrics", {"validation_accuracy": 0.5})
    first.log("metrics", {"epoch": 1, "loss": 1.0})
    first.close()  # which waits for the thread that writes
    (written,) = tmp_path.iterdir()
    # tensorboard's counter is a process's, and 9 sorts behind 10: within one second, names say nothing of the order.
    written.rename(written.with_name(written.name.rpartition(".")[0] + ".99"))
    second = TensorBoardSink(tmp_path)
    second.rewind(0)
    second.log("metrics", {"epoch": 2, "loss": 2.0})
    second.close()
    assert curves(tmp_path) == {"metrics/validation_accuracy": [], "metrics/loss": [(2, 2.0)]}


def test_without_tensorboard_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard, "find_spec", lambda _: None)
    with pytest.raises(RunError) as caught:
        TensorBoardSink(tmp_path)
    assert str(caught.value) == (
        'TensorBoard is not installed. Run: pip install "stillsight[tensorboard]", or drop --tensorboard.'
    )


class Listener:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, Any]] = []
        self.closed = 0

    def log(self, stream: str, row: Any) -> None:
        assert not self.closed
        self.rows.append((stream, row))

    def rewind(self, last: int) -> None:
        self.rows.append(("rewind", last))

    def close(self) -> None:
        self.closed += 1


def test_a_run_hands_each_row_to_every_sink_as_it_stands_in_the_file(tmp_path: Path) -> None:
    sinks = [Listener(), Listener()]
    with Run(tmp_path / "run", "rl", {"steps": 3}, sinks=sinks) as run:
        run.card("title", {})
        run.log("metrics", {"step": 1, "loss": np.float32(0.5), "path": Path("a")})
        run.log("eval", {"step": 2, "mean": None})
    expected = [("metrics", {"step": 1, "loss": 0.5, "path": "a"}), ("eval", {"step": 2, "mean": None})]
    for sink in sinks:
        assert sink.rows == expected
        assert sink.closed == 1
    for stream, row in expected:
        assert json.loads((tmp_path / "run" / f"{stream}.jsonl").read_text()) == row


def test_the_sinks_of_a_run_that_fails_are_closed(tmp_path: Path) -> None:
    sink = Listener()
    with pytest.raises(KeyboardInterrupt), Run(tmp_path / "run", "rl", {}, sinks=[sink]):
        raise KeyboardInterrupt
    assert sink.closed == 1
    assert not sink.rows


def test_a_disk_that_fails_is_told_once_and_not_by_the_thread_that_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tensorboard writes in a thread of its own, whose traceback would come before our sentence."""
    shown: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda broken: shown.append(type(broken.thread).__name__))
    sink = TensorBoardSink(tmp_path / "tensorboard")
    sink.log("train", {"step": 1, "loss": 0.5})

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(record_writer.RecordWriter, "write", refuse)
    with pytest.raises(OSError, match="No space left"):
        sink.log("train", {"step": 2, "loss": 0.25})
    other = threading.Thread(target=lambda: 1 / 0)
    other.start()
    other.join()
    assert shown == ["Thread"], "any other thread's error is shown as ever"
