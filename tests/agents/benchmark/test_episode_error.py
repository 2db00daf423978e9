"""Episodes that all agents play alike: their error is in every score, and no spread of seeds shows it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stillsight.agents.benchmark.analysis import bounds, claims
from stillsight.agents.benchmark.analysis.aggregate import aggregate
from stillsight.agents.benchmark.analysis.collect import Grid
from stillsight.agents.benchmark.analysis.episode_error import Term, episode_error
from stillsight.agents.benchmark.analysis.estimates import estimate
from stillsight.agents.benchmark.analysis.overall import overall_verdict
from stillsight.agents.benchmark.analysis.setting import Arm, Setting
from stillsight.agents.benchmark.analysis.verdict import Verdict, verdicts
from stillsight.agents.benchmark.grid.cell import Cell, Result
from stillsight.agents.benchmark.report.sentences import of_all
from stillsight.agents.benchmark.report.statement import state

FEW = 300
SEEDS = np.array([-0.2, -0.1, 0.0, 0.1, 0.2])[:, None]
HARD = np.array([-3.0, 1.0, 2.0, -2.0, 4.0, -1.0, -1.0, 0.0])
"""What each of eight episodes adds; 0 on average."""


def arm(label: str, role: str, returns: np.ndarray, shifted: np.ndarray | None = None, **pins: str) -> Arm:
    """A cell for each seed, which earned `returns` `[seeds, episodes]` in the end."""
    cells = []
    for seed, row in enumerate(returns):
        scores = {"clean": tuple(row)} if shifted is None else {"clean": tuple(row), "noise": tuple(shifted[seed])}
        pinned = {"encoder": "nature" if role == "scratch" else "eye", **pins}
        result = Result(machine={"cpu": "one"}, pins=pinned, curve=(), scores=scores, cost={})
        place: Any = {"task": "Task-v0", "algo": "ppo", "arm": label, "role": role, "budget": 1_000}
        cells.append(Cell(key=f"{label}-{seed}", track="rl", seed=seed, result=result, **place))
    return Arm(label, role, tuple(cells))


def setting(*arms: Arm, task: str = "Task-v0", algo: str = "ppo") -> Setting:
    return Setting("rl", task, algo, arms, {"random": {"mean": 0.0}, "oracle": {"mean": 10.0}})


def judged(*arms: Arm) -> tuple[Verdict, tuple[str, ...]]:
    shown = setting(*arms)
    (verdict,) = verdicts([estimate(shown, FEW)], resamples=FEW)
    return verdict, state(shown, verdict).sentences


def test_what_episodes_add_to_one_arm_alone_is_an_error_of_the_difference() -> None:
    found = episode_error([Term(1.0, 5.0 + SEEDS + HARD), Term(-1.0, np.zeros((6, 8)))])
    assert found is not None
    assert found.square == pytest.approx(HARD.var(ddof=1) / 8)
    assert found.freedom == 7


def test_episodes_that_are_as_hard_for_both_arms_are_none() -> None:
    found = episode_error([Term(1.0, 5.0 + SEEDS + HARD), Term(-1.0, -SEEDS + HARD)])
    assert found is not None
    assert found.square == 0.0
    with_it, without = (bounds.t_bounds(SEEDS[:, 0], SEEDS[:, 0], 0.95, episodes=errors) for errors in ([found], []))
    assert with_it == without


def test_it_is_never_found_too_small_on_average() -> None:
    """What both arms' episodes add differs with a variance of 1 + 4; what each of five seeds finds adds 4 / 5 twice."""
    generator = np.random.RandomState(0)
    found = []
    for _ in range(2_000):
        one, other = (
            generator.randn(5, 1) + width * generator.randn(1, 10) + 2.0 * generator.randn(5, 10)
            for width in (1.0, 2.0)
        )
        error = episode_error([Term(1.0, one), Term(-2.0, 0.5 * other)])
        assert error is not None
        found.append(float(error.square))
    assert np.mean(found) == pytest.approx((1 + 4 + 2 * 4 / 5) / 10, rel=0.05)


def test_arms_that_episodes_alone_set_apart_are_rarely_called_ahead() -> None:
    """In truth no arm is better; each finds other episodes easy, and all of its seeds find the same ones so."""
    generator = np.random.RandomState(1)
    claimed = {True: 0, False: 0}
    for _ in range(200):
        tables = [0.1 * generator.randn(5, 1) + generator.randn(10) + 0.3 * generator.randn(5, 10) for _ in range(2)]
        for known in claimed:
            returns = (tables[0], tables[1]) if known else None
            scores = [table.mean(1) for table in tables]
            found = claims.compare("a", "b", *scores, resamples=FEW, returns=returns)
            claimed[known] += found.winner is not None
    assert claimed[True] <= 12, "of 200 at a level of 5 %"
    assert claimed[False] >= 60, "their seeds alone say that one is better"


def test_seeds_that_all_agree_are_not_claimed_by_their_episodes() -> None:
    """Five times the same agent: its episodes are one sample of eight."""
    table, nothing = np.tile(HARD + 1.0, (5, 1)), np.zeros((5, 8))
    scores = table.mean(1), nothing.mean(1)
    assert claims.compare("a", "b", *scores, resamples=FEW).winner == "a"
    found = claims.compare("a", "b", *scores, resamples=FEW, returns=(table, nothing))
    assert found.winner is None
    # Student's interval of a mean over eight episodes: 2.365 standard errors.
    assert found.adjusted_high == pytest.approx(1.0 + 2.3646 * HARD.std(ddof=1) / 8**0.5, abs=1e-3)
    assert claims.compare("a", "b", *scores, resamples=FEW, returns=(table * 0 + 1.0, nothing)).winner == "a"


def test_an_interval_never_gets_narrower_by_it() -> None:
    generator = np.random.RandomState(2)
    for _ in range(50):
        one, other = generator.randn(5, 1) + 0.1 * generator.randn(5, 40), generator.randn(5, 1) + np.zeros((5, 40))
        error = episode_error([Term(1.0, one), Term(-1.0, other)])
        assert error is not None
        low, high = bounds.t_bounds(one.mean(1), other.mean(1), 0.95)
        lower, higher = bounds.t_bounds(one.mean(1), other.mean(1), 0.95, episodes=[error])
        assert lower <= low < high <= higher


def test_episodes_that_all_have_count() -> None:
    long = np.concatenate([5.0 + SEEDS + HARD, np.full((5, 3), 99.0)], axis=1)
    found = episode_error([Term(1.0, long), Term(-1.0, np.zeros((5, 8)))])
    assert found is not None
    assert found.square == pytest.approx(HARD.var(ddof=1) / 8)


def test_verdicts_count_it() -> None:
    steady = judged(arm("frozen", "frozen", 2.0 + SEEDS + HARD), arm("scratch", "scratch", SEEDS + HARD))
    assert [pair.winner for pair in steady[0].comparisons] == ["frozen"]
    uneven = judged(arm("frozen", "frozen", 2.0 + SEEDS + HARD), arm("scratch", "scratch", SEEDS - HARD))
    assert [pair.winner for pair in uneven[0].comparisons] == [None]
    assert (
        "Those of the last evaluation count the error of its 8 episodes too, the same for all agents." in uneven[1][-1]
    )


def test_losses_under_shifts_count_it() -> None:
    clean = 9.0 + SEEDS + HARD
    for shifted, claimed in ((clean - 1.0, True), (clean - 1.0 - HARD, False)):
        (robust,) = judged(arm("frozen", "frozen", clean, shifted))[0].robustness
        assert robust.losses[0].loss.value == pytest.approx(1.0)
        assert robust.losses[0].claimed is claimed, "where some episodes lose and some gain, whatever the seed"


def test_one_episode_claims_nothing() -> None:
    one, other = 9.0 + SEEDS, SEEDS
    assert episode_error([Term(1.0, one), Term(-1.0, other)]) is None
    verdict, told = judged(arm("frozen", "frozen", one, other), arm("scratch", "scratch", other))
    assert [pair.winner for pair in verdict.comparisons] == [None]
    assert np.isnan(verdict.comparisons[0].adjusted_low)
    assert not verdict.robustness[0].losses[0].claimed
    assert "None is made of the last evaluation: its one episode does not say how much others would differ." in told[-1]


def overall(*settings: Setting) -> tuple[Verdict, tuple[str, ...]]:
    grid = Grid(settings)
    together = aggregate(grid, FEW)
    verdict = overall_verdict(grid, together, FEW)
    assert verdict is not None
    return verdict, of_all(verdict, len(together.tasks), len(together.algos))


def test_claims_over_environments_count_it() -> None:
    def arms(sign: float) -> list[Arm]:
        return [
            arm("frozen", "frozen", 2.0 + SEEDS + HARD),
            arm("scratch", "scratch", SEEDS + sign * HARD),
        ]

    same, told = overall(setting(*arms(1.0)), setting(*arms(1.0), task="Other-v0"))
    assert [pair.winner for pair in same.comparisons] == ["frozen"]
    assert "Those of the last evaluation count the error of its 8 episodes too" in told[-1]
    apart, _ = overall(setting(*arms(-1.0)), setting(*arms(-1.0), task="Other-v0"))
    assert [pair.winner for pair in apart.comparisons] == [None]
    single, _ = overall(
        setting(*(arm(one, one, returns[:, :1]) for one, returns in (("frozen", 9.0 + SEEDS), ("scratch", SEEDS)))),
        setting(*arms(1.0), task="Other-v0"),
    )
    assert [pair.winner for pair in single.comparisons] == [None], "one episode in one of them"


def test_algorithms_and_tasks_of_one_environment_play_the_same_episodes() -> None:
    """Two environments halve the squared error of one; two algorithms in one do not, nor do two tasks."""
    table, nothing = 2.0 + SEEDS + HARD, np.zeros((5, 8))

    def width(*settings: Setting) -> float:
        (pair,) = overall(*settings)[0].comparisons
        return pair.adjusted_high - pair.adjusted_low

    def one(task: str, algo: str = "ppo", **pins: str) -> Setting:
        arms = (arm("frozen", "frozen", table, **pins), arm("scratch", "scratch", nothing, **pins))
        return setting(*arms, task=task, algo=algo)

    two = width(one("A-v0"), one("B-v0"))
    four = width(one("A-v0"), one("B-v0"), one("A-v0", "a2c"), one("B-v0", "a2c"))
    assert four == pytest.approx(two, rel=0.05)
    assert width(*(one(f"{name}-v0") for name in "ABCD")) < 0.8 * two
    small, large = (one(f"A-v0 at {size} px", env="A-v0") for size in (64, 84))
    assert width(small, large) > 1.2 * two
