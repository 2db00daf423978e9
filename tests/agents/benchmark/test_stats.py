"""Statistics of a benchmark, against the published formulas written out as loops, and against known answers."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillsight.agents.benchmark.analysis import curves, stats
from stillsight.agents.errors import RunError

NUMBERS = st.floats(-1e3, 1e3, allow_nan=False).map(lambda number: round(number, 3))
SEEDS = st.lists(NUMBERS, min_size=2, max_size=12)
GRID = np.random.RandomState(7).gamma(2.0, 0.4, size=(6, 4))  # [seeds, tasks], normalised and skewed as scores are
FEW = {"resamples": 200}


def published_iqm(scores: np.ndarray) -> float:
    """rliable's aggregate_iqm: scipy's trim_mean(scores, 0.25, axis=None)."""
    runs = sorted(float(score) for score in np.ravel(scores))
    cut = int(0.25 * len(runs))
    kept = runs[cut : len(runs) - cut]
    return sum(kept) / len(kept)


def published_gap(scores: np.ndarray) -> float:
    """rliable's aggregate_optimality_gap with gamma 1."""
    return 1.0 - sum(min(float(score), 1.0) for score in np.ravel(scores)) / scores.size


def published_improvement(one: np.ndarray, other: np.ndarray) -> float:
    """rliable's probability_of_improvement: the mean over tasks of U / (seeds x seeds)."""
    tasks = []
    for task in range(one.shape[1]):
        wins = 0.0
        for mine, theirs in itertools.product(one[:, task], other[:, task]):
            wins += 1.0 if mine > theirs else 0.5 if mine == theirs else 0.0
        tasks.append(wins / (len(one) * len(other)))
    return sum(tasks) / len(tasks)


def published_profile(scores: np.ndarray, tau: float) -> float:
    """rliable's run_score_deviation: the share of runs above tau."""
    return sum(float(score) > tau for score in np.ravel(scores)) / scores.size


def test_aggregates_are_the_published_ones() -> None:
    assert stats.iqm(GRID) == pytest.approx(published_iqm(GRID), abs=1e-12)
    assert stats.aggregate(GRID, "optimality gap") == pytest.approx(published_gap(GRID), abs=1e-12)
    means = [sum(GRID[:, task]) / len(GRID) for task in range(4)]
    assert stats.aggregate(GRID, "mean") == pytest.approx(sum(means) / 4)
    assert stats.aggregate(GRID, "median") == pytest.approx(sum(sorted(means)[1:3]) / 2)


def test_profile_and_improvement_are_the_published_ones() -> None:
    marks = [0.0, 0.3, 0.8, float(GRID[2, 1]), 5.0]
    found = stats.performance_profile(GRID, marks)
    assert found.value == pytest.approx([published_profile(GRID, mark) for mark in marks])
    assert found.value[0] == 1.0
    assert found.value[-1] == 0.0
    other = np.round(GRID[::-1, ::-1], 1)
    one = np.round(GRID, 1)  # so that there are ties
    assert stats.probability_of_improvement(one, other).value == pytest.approx(published_improvement(one, other))


def test_known_answers_by_hand() -> None:
    assert stats.iqm([1, 2, 3, 4, 100]) == 3.0  # one seed of five goes on either side
    assert stats.iqm([0, 1, 2, 3, 4, 5, 6, 70]) == 3.5
    assert stats.iqm([5.0]) == 5.0
    assert stats.aggregate([0.5, 2.0], "optimality gap") == 0.25
    assert stats.probability_of_improvement([1, 2], [2, 3]).value == 0.125  # one tie among four pairs
    assert stats.difference([1, 2, 3, 4, 5], [0, 0, 0, 0, 9]).value == 3.0
    assert stats.normalise([1.0, 3.0, 6.0], low=1.0, high=5.0).tolist() == [0.0, 0.5, 1.25]


def test_a_bootstrap_is_the_published_one_draw_by_draw() -> None:
    """Seeds are drawn within each task, never across tasks, and the bounds are percentiles of the IQMs of the draws."""
    generator, draws = np.random.RandomState(3), []
    tasks = [sorted(GRID[:, task]) for task in range(4)]
    index = [generator.randint(6, size=(50, 6)) for _ in tasks]
    for draw in range(50):
        drawn = [[task[seed] for seed in rows[draw]] for task, rows in zip(tasks, index, strict=True)]
        draws.append(published_iqm(np.array(drawn)))
    found = stats.interval(GRID, resamples=50, seed=3, level=0.9)
    assert found.low == pytest.approx(np.percentile(draws, 5))
    assert found.high == pytest.approx(np.percentile(draws, 95))


def test_tasks_with_different_numbers_of_seeds_keep_them() -> None:
    ragged = {"a": [0.0, 0.0, 0.0], "b": [1.0] * 5}
    found = stats.interval(ragged)
    # Drawn within tasks every draw has three zeros and five ones; drawn across them, it would not.
    assert found == stats.Interval(0.5, 0.5, 0.5)
    assert stats.performance_profile(ragged, [0.5]).value.tolist() == [0.5]
    assert stats.aggregate(ragged, "optimality gap") == 0.5
    with pytest.raises(RunError, match=r"Tasks \['a', 'b'\] stand against \['a'\]: compare arms on the same tasks"):
        stats.probability_of_improvement(ragged, {"a": [1.0]})


def alike(tasks: dict[str, list[float]]) -> np.ndarray:
    """The table `[runs, tasks]` in which each run stands so often that all tasks have equally many."""
    runs = math.lcm(*map(len, tasks.values()))
    return np.array([np.repeat(scores, runs // len(scores)) for scores in tasks.values()]).T


def test_tasks_weigh_alike_however_many_seeds_they_have() -> None:
    """Two arms that are equal in either task, one with more seeds of the easy one and one of the hard one."""
    one, other = {"hard": [0.0] * 3, "easy": [1.0] * 11}, {"hard": [0.0] * 11, "easy": [1.0] * 3}
    assert stats.iqm(one) == stats.iqm(other) == 0.5
    assert stats.difference(one, other) == stats.Interval(0.0, 0.0, 0.0)
    for name in ("iqm", "mean", "median", "optimality gap"):
        assert stats.aggregate(one, name) == pytest.approx(stats.aggregate(other, name))  # type: ignore[arg-type]
    assert stats.performance_profile(one, [0.5]).value == stats.performance_profile(other, [0.5]).value


def test_a_pooled_iqm_is_that_of_a_table_with_equal_runs() -> None:
    """By hand: of 1, 2, 3 each twice and 4, 8 each three times, twelve runs, the outermost three go on either side."""
    ragged = {"a": [1.0, 2.0, 3.0], "b": [4.0, 8.0]}
    assert stats.iqm(ragged) == pytest.approx((2 + 3 + 3 + 4 + 4 + 4) / 6)
    assert stats.iqm(ragged) == pytest.approx(published_iqm(alike(ragged)))
    generator, draws = np.random.RandomState(0), []
    rows = [generator.randint(count, size=(50, count)) for count in (3, 2)]
    for draw in range(50):
        pairs = zip(ragged.items(), rows, strict=True)
        draws.append(
            published_iqm(alike({name: [scores[seed] for seed in row[draw]] for (name, scores), row in pairs}))
        )
    found = stats.interval(ragged, resamples=50, level=0.8)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(draws, [10, 90])))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(NUMBERS, min_size=1, max_size=9), min_size=1, max_size=4))
def test_with_equal_numbers_a_pooled_iqm_is_the_published_one(rows: list[list[float]]) -> None:
    tasks = {str(number): row for number, row in enumerate(rows)}
    assert stats.iqm(tasks) == pytest.approx(published_iqm(alike(tasks)), abs=1e-9)
    fewest = min(map(len, rows))
    equal = {name: row[:fewest] for name, row in tasks.items()}
    assert stats.iqm(equal) == pytest.approx(published_iqm(np.array(list(equal.values()))), abs=1e-9)


def test_numbers_of_seeds_without_a_common_divisor_fit() -> None:
    counts = (41, 43, 47, 53, 59, 61, 64, 67, 71, 73, 79)
    ragged = {str(count): [float(count % 2)] * count for count in counts}
    assert stats.iqm(ragged) == pytest.approx(1.0)  # one task of eleven is 0
    assert math.lcm(*counts) > 2**63


def test_the_bootstrap_of_an_improvement_is_that_of_its_draws() -> None:
    """The weights that draws give to pairs come to the same as the drawn seeds themselves."""
    one, other = [0.0, 1.0, 2.0, 2.0], [1.0, 1.5, 3.0]
    generator = np.random.RandomState(0)
    mine, theirs = generator.randint(4, size=(40, 4)), generator.randint(3, size=(40, 3))
    draws = [
        published_improvement(np.array(one)[a][:, None], np.array(other)[b][:, None])
        for a, b in zip(mine, theirs, strict=True)
    ]
    found = stats.probability_of_improvement(one, other, resamples=40, level=0.8)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(draws, [10, 90])))


def test_equal_seeds_give_equal_bytes_and_others_do_not() -> None:
    assert repr(stats.interval(GRID)) == repr(stats.interval(GRID))
    assert stats.interval(GRID, seed=1) != stats.interval(GRID, seed=2)
    # Fixed for good: what was published must come out again.
    assert stats.interval([3.0, 1.0, 4.0, 1.5, 9.0], resamples=100) == pytest.approx((17 / 6, 7 / 6, 6.5), abs=1e-12)


def test_a_single_seed_has_no_interval() -> None:
    for found in (
        stats.interval([4.0]),
        stats.difference([4.0], [0.0, 0.0]),
        stats.gap([4.0], [0.0]),
        stats.interval({"a": [1.0, 7.0], "b": [4.0]}),
    ):
        assert found.value == 4.0
        assert math.isnan(found.low)
        assert math.isnan(found.high)
    profile = stats.performance_profile([4.0], [1.0, 5.0])
    assert profile.value.tolist() == [1.0, 0.0]
    assert np.isnan([profile.low, profile.high]).all()
    assert np.isnan(curves.curve_interval([[1.0, 2.0]]).low).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused(bad: float) -> None:
    told = f"is {bad}, and statistics need finite numbers: run its cell again, or leave it out"
    calls: list[Any] = [
        lambda: stats.interval([1.0, bad]),
        lambda: stats.iqm({"a": [1.0], "b": [bad]}),
        lambda: stats.difference([1.0], [bad]),
        lambda: stats.gap([1.0], [bad]),
        lambda: stats.probability_of_improvement([bad], [1.0]),
        lambda: stats.performance_profile([1.0], [bad]),
        lambda: stats.normalise(bad, 0.0, 1.0),
        lambda: curves.area_under_curve([1.0, 2.0], [bad, 1.0]),
        lambda: curves.curve_interval([[1.0, bad]]),
        lambda: curves.reach([[[1.0, bad, 1.0]]], 1.0),
    ]
    for call in calls:
        with pytest.raises(RunError, match=told):
            call()


def test_nothing_is_refused_too() -> None:
    for call in (
        lambda: stats.iqm([]),
        lambda: stats.iqm({}),
        lambda: stats.iqm({"a": [1.0], "b": []}),
        lambda: curves.area_under_curve([], []),
        lambda: curves.reach([], 1.0),
        lambda: curves.reach([[]], 1.0),
    ):
        with pytest.raises(RunError, match="statistics need one from each seed: run the benchmark's cells first"):
            call()


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(RunError, match=r"Scores have 3 axes, and \[seeds\] or \[seeds, tasks\] is known: average"):
        stats.iqm(np.zeros((2, 2, 2)))
    with pytest.raises(RunError, match="3 clean scores stand against 2 shifted ones: give both of every seed"):
        stats.gap([1, 2, 3], [1, 2])
    with pytest.raises(RunError, match="2 steps stand against 1 evaluations: give one of each"):
        curves.area_under_curve([1, 2], [1])
    with pytest.raises(RunError, match="A scale from 5 to 5 orders nothing: give a higher score than 5 as its 1"):
        stats.normalise([1.0], 5.0, 5.0)
    for steps in ([10], [10, 10]):
        with pytest.raises(RunError, match="has no area: evaluate twice or more"):
            curves.area_under_curve(steps, [1.0] * len(steps))


def test_a_gap_is_taken_seed_by_seed() -> None:
    """The seeds differ by far more than the shift costs; unpaired, the interval would hold 0."""
    clean = np.array([10.0, 20.0, 30.0, 40.0, 50.0])
    found = stats.gap(clean, clean - 2.0)
    assert found == stats.Interval(2.0, 2.0, 2.0)
    assert stats.difference(clean, clean - 2.0).low < 0


@settings(deadline=None, max_examples=20)
@given(SEEDS, SEEDS, st.randoms(use_true_random=False))
def test_bounds_are_in_order_and_the_order_of_seeds_is_nothing(one: list[float], other: list[float], rng: Any) -> None:
    mixed, others = rng.sample(one, len(one)), rng.sample(other, len(other))
    for name in ("iqm", "mean", "median", "optimality gap"):
        found = stats.interval(one, name, **FEW)  # type: ignore[arg-type]
        assert found.low <= found.high
        assert found == stats.interval(mixed, name, **FEW)  # type: ignore[arg-type]
    assert min(one) - 1e-9 <= stats.interval(one, **FEW).low
    assert stats.interval(one, **FEW).high <= max(one) + 1e-9
    apart = stats.difference(one, other, **FEW)
    assert apart.low <= apart.high
    assert apart == stats.difference(mixed, others, **FEW)
    assert apart.value == pytest.approx(-stats.difference(other, one, **FEW).value)
    wider = stats.difference(one, other, level=0.99, **FEW)
    assert wider.low <= apart.low <= apart.high <= wider.high


@settings(deadline=None, max_examples=40)
@given(SEEDS, SEEDS)
def test_improvements_of_either_side_are_the_whole(one: list[float], other: list[float]) -> None:
    mine = stats.probability_of_improvement(one, other, **FEW)
    theirs = stats.probability_of_improvement(other, one, **FEW)
    assert mine.value + theirs.value == pytest.approx(1.0)
    assert -1e-9 <= mine.low <= mine.high <= 1 + 1e-9


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.lists(NUMBERS, min_size=2, max_size=8))
def test_a_profile_never_rises(scores: list[float], marks: list[float]) -> None:
    found = stats.performance_profile(scores, sorted(marks), **FEW)
    for line in found:
        assert (np.diff(line) <= 1e-12).all()
    assert (found.low <= found.high).all()


def test_intervals_cover_about_as_often_as_they_say() -> None:
    """Twenty seeds, where the percentile bootstrap is known to hold; the truth of a normal's IQM is its mean."""
    generator = np.random.RandomState(11)
    held = 0
    for _ in range(300):
        found = stats.interval(generator.randn(20), resamples=500)
        held += found.low <= 0.0 <= found.high
    assert 0.90 <= held / 300 <= 0.98


def test_a_draw_of_curves_takes_whole_curves() -> None:
    returns = np.array([[0.0, 10.0, 1.0], [1.0, 11.0, 1.0], [2.0, 15.0, 1.0], [3.0, 12.0, 1.0], [9.0, 13.0, 1.0]])
    found = curves.curve_interval(returns, resamples=300)
    assert found.value.tolist() == [2.0, 12.0, 1.0]
    assert (found.low <= found.value).all()
    assert (found.value <= found.high).all()
    assert (found.low[2], found.high[2]) == (1.0, 1.0)
    again = curves.curve_interval(returns[[3, 0, 4, 2, 1]], resamples=300)
    assert np.array_equal(found.low, again.low)
    # Two arms that move together along their steps differ by the same everywhere, draw by draw.
    apart = curves.curve_difference(returns[:, :1] + [0.0, 5.0], returns[:, :1] + [0.0, 5.0], resamples=300)
    assert apart.value.tolist() == [0.0, 0.0]
    assert apart.low[0] == pytest.approx(apart.low[1])


def test_an_area_is_a_mean_height() -> None:
    assert curves.area_under_curve([0, 10], [2.0, 4.0]) == 3.0
    assert curves.area_under_curve([0, 10, 40], [0.0, 4.0, 4.0]) == 3.5  # 20 + 120 over 40
    assert curves.area_under_curve([100, 200, 300], [5.0, 5.0, 5.0]) == 5.0


def test_a_threshold_is_reached_between_evaluations() -> None:
    assert curves.first_at([100, 200, 300], [0.0, 4.0, 2.0], 1.0) == 125.0
    assert curves.first_at([100, 200, 300], [0.0, 4.0, 2.0], 4.0) == 200.0
    assert curves.first_at([100, 200, 300], [0.0, 4.0, 2.0], 4.5) is None
    assert curves.first_at([100, 200], [7.0, 9.0], 1.0) == 100.0, "before the first evaluation nothing is known"


def test_reaching_counts_the_seeds_that_never_do() -> None:
    early, late, never = ([[0, 0.0, 0.0], [10, top, 1.0], [20, top, 3.0]] for top in (4.0, 2.0, 1.0))
    late[2] = [20, 4.0, 3.0]
    found = curves.reach([early, late, never], 3.0)
    assert found.steps == (7.5, 15.0, None)
    assert found.seconds == (0.75, 2.0, None)
    assert found.reached == 2
    assert found.median_steps == 15.0
    assert found.median_seconds == 2.0
    half = curves.reach([early, never], 3.0)
    assert half.median_steps is None, "half of the seeds is no majority"
    assert curves.reach([never], 3.0).reached == 0


def test_curves_meet_at_their_common_evaluations() -> None:
    steps, returns = curves.common([[[10, 1.0, 0.1], [20, 2.0, 0.2], [30, 3.0, 0.3]], [[20, 5.0, 0.1], [30, 6.0, 0.2]]])
    assert steps.tolist() == [20, 30]
    assert returns.tolist() == [[2.0, 3.0], [5.0, 6.0]]
    assert curves.common([])[0].tolist() == []
    assert curves.common([[[1, 1.0, 1.0]], [[2, 1.0, 1.0]]])[0].tolist() == []
