"""What a person sees: a bar in a terminal, a line now and then in a log."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from stillsight.agents.runs import progress
from stillsight.agents.runs.progress import QUIET_SECONDS, ProgressDisplay


class Clock:
    """A clock that stands until it is put forward."""

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def display(terminal: bool = False) -> tuple[ProgressDisplay, io.StringIO]:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=200, highlight=False, soft_wrap=True, color_system=None)
    return ProgressDisplay(console), text


def test_a_log_gets_a_line_now_and_then_and_the_last_one(clock: Clock) -> None:
    shown, text = display()
    for step in range(101):
        shown.update("step", step, 100)
        clock.now += QUIET_SECONDS / 20
    lines = text.getvalue().splitlines()
    assert lines[-1].startswith("step 100/100")
    assert 5 <= len(lines) <= 7, "50 seconds, a line each ten, and the end"
    assert lines == sorted(set(lines), key=lines.index), "none twice"


def test_the_end_is_told_even_right_after_another_line(clock: Clock) -> None:
    shown, text = display()
    shown.update("step", 1, 10)
    clock.now += 0.001
    shown.update("step", 10, 10)
    assert [line.split()[1] for line in text.getvalue().splitlines()] == ["1/10", "10/10"]


def test_the_end_is_told_once(clock: Clock) -> None:
    shown, text = display()
    for _ in range(5):  # a rollout that runs past the end reports it again and again
        shown.update("step", 100, 100)
        clock.now += 1
    assert len(text.getvalue().splitlines()) == 1


def test_rate_and_time_left_are_those_since_this_session_began(clock: Clock) -> None:
    shown, text = display()
    shown.update("step", 5_000, 10_000)  # resumed: the first 5,000 were done by another session
    clock.now += 20
    shown.update("step", 6_000, 10_000, **{"return": 1.23456})
    last = text.getvalue().splitlines()[-1]
    assert last.startswith("step 6,000/10,000")
    assert "steps/s 50" in last
    assert "return 1.235" in last
    assert last.endswith("80 s left")


def test_slow_work_has_a_rate_too(clock: Clock) -> None:
    shown, text = display()
    shown.update("episode", 0, 10)
    clock.now += 20
    shown.update("episode", 5, 10)
    assert "episodes/s 0.25" in text.getvalue().splitlines()[-1]


def test_two_kinds_of_work_are_timed_apart(clock: Clock) -> None:
    shown, text = display()
    shown.update("step", 0, 100)
    clock.now += 50
    shown.update("episode", 0, 10)
    clock.now += 50
    shown.update("episode", 5, 10)
    assert "episodes/s 0.1" in text.getvalue().splitlines()[-1]


def test_a_terminal_gets_one_bar_and_is_left_as_it_was(clock: Clock) -> None:
    shown, text = display(terminal=True)
    shown.update("step", 1, 10)
    clock.now += 2
    shown.update("step", 10, 10)
    shown.close()
    shown.close()
    assert "10/10" in text.getvalue()
    assert "\x1b[?25h" in text.getvalue(), "the cursor is shown again"


def test_a_card_in_a_log_breaks_no_command_over_two_lines() -> None:
    # A pipe has no width, and a command that falls into two lines cannot be copied out of a log.
    text = io.StringIO()
    shown = ProgressDisplay(Console(file=text, width=80, highlight=False, soft_wrap=True))
    command = "stillsight record results/runs/orchardcontinuous-v0-recurrent_ppo-mobilenet_v3_small-finetune-seed0"
    shown.card("done", {"video": command})
    assert command in text.getvalue()


def test_a_card_shows_every_fact() -> None:
    shown, text = display()
    shown.card("stillsight rl", {"env": "Orchard", "learns": "1,234 parameters"})
    lines = text.getvalue().splitlines()
    assert lines[0] == "stillsight rl"
    assert [line.split()[0] for line in lines[1:]] == ["env", "learns"]
    assert lines[2].rstrip().endswith("1,234 parameters")
