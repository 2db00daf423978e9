"""Exclusive times: each moment belongs to one part, and all parts together are the whole."""

from __future__ import annotations

import pytest
import torch

from stillsight.agents.measure import clock as clocks
from stillsight.agents.measure.clock import Clock


class Work:
    """Three methods, one of which calls another; time passes where they say so."""

    def __init__(self) -> None:
        self.now = 0.0

    def outer(self, fails: bool = False) -> str:
        self.now += 1.0
        self.inner()
        if fails:
            raise ValueError("as asked")
        self.now += 2.0
        return "done"

    def inner(self) -> None:
        self.now += 10.0

    def unwatched(self) -> None:
        self.now += 100.0


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    found = Work()
    monkeypatch.setattr(clocks.time, "perf_counter", lambda: found.now)
    return found


def test_time_inside_a_watched_method_is_its_own_and_not_its_callers(work: Work) -> None:
    clock = Clock(torch.device("cpu"))
    clock.watch(work, "outer", "policy")
    clock.watch(work, "inner", "encoder")
    assert work.outer() == "done"
    work.unwatched()
    work.inner()
    assert clock.read(work.now) == {"policy": 3.0, "encoder": 20.0, "rest": 100.0}
    assert clock.read(0.0) == {"rest": 0.0}, "a reading starts anew"


def test_an_error_closes_what_was_open(work: Work) -> None:
    clock = Clock(torch.device("cpu"))
    clock.watch(work, "outer", "policy")
    clock.watch(work, "inner", "encoder")
    with pytest.raises(ValueError, match="as asked"):
        work.outer(fails=True)
    work.unwatched()
    work.inner()
    assert clock.read(work.now) == {"policy": 1.0, "encoder": 20.0, "rest": 100.0}
