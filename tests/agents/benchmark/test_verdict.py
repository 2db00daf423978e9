"""Verdicts: what the seeds support is said, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy import stats as scipy_stats

from stillsight.agents.benchmark.analysis import bounds, claims
from stillsight.agents.benchmark.analysis.aggregate import Aggregate, aggregate
from stillsight.agents.benchmark.analysis.claims import Comparison
from stillsight.agents.benchmark.analysis.collect import Grid
from stillsight.agents.benchmark.analysis.contrasts import Question, apart, contrasts
from stillsight.agents.benchmark.analysis.estimates import estimate
from stillsight.agents.benchmark.analysis.overall import overall_verdict
from stillsight.agents.benchmark.analysis.setting import Arm, Setting
from stillsight.agents.benchmark.analysis.stats import difference
from stillsight.agents.benchmark.analysis.verdict import Family, Stretch, Verdict, verdicts
from stillsight.agents.benchmark.grid.cell import Cell, Result, Track
from stillsight.agents.benchmark.report import tables
from stillsight.agents.benchmark.report.answers import Answer
from stillsight.agents.benchmark.report.sentences import of_all
from stillsight.agents.benchmark.report.statement import state

LABELS = {
    "eye low frozen": "frozen",
    "eye high frozen": "frozen",
    "eye low random": "random",
    "nature scratch": "scratch",
    "eye low finetuned": "finetune",
}
STEPS = (1_000, 2_000, 3_000, 4_000)
FEW = 300


def arm(
    label: str,
    scores: Sequence[float],
    *,
    role: str | None = None,
    curve: Sequence[float] = (),
    noise: Sequence[float] = (),
    seconds: float = 10.0,
    pins: Mapping[str, Any] | None = None,
    cpu: str = "one",
    failed: int = 0,
) -> Arm:
    """Cells with one score a seed, and a curve for each that is `curve` plus the seed's score.

    Without `pins` the first word of the label is the encoder, and the second, of an arm that is not scratch, its tap.
    """
    role = role or LABELS[label]
    words = dict(zip(("encoder",) if role == "scratch" else ("encoder", "tap"), label.split(), strict=False))
    cells = []
    for seed, score in enumerate(scores):
        shifted = {"noise": (noise[seed] - 1.0, noise[seed] + 1.0)} if noise else {}
        result = Result(
            machine={"cpu": cpu},
            pins=dict(words if pins is None else pins),
            curve=tuple((STEPS[at], height + score, seconds * (at + 1)) for at, height in enumerate(curve)),
            scores={"clean": (score - 1.0, score + 1.0), **shifted},
            cost={},
        )
        place: Any = {"task": "Task-v0", "algo": "ppo", "arm": label, "role": role, "budget": STEPS[-1]}
        cells.append(Cell(key=f"{label}-{seed}", track="rl", seed=seed, result=result, **place))
    return Arm(label, role, tuple(cells), failed)


class Judged(NamedTuple):
    """What may be claimed of some arms: the numbers and the words."""

    title: str
    verdict: Verdict
    comparisons: tuple[Comparison, ...]
    sentences: tuple[str, ...]
    answers: tuple[Answer, ...]
    cost: tuple[str, ...]


def judged_all(*settings: Setting) -> list[Judged]:
    found = verdicts([estimate(setting, FEW) for setting in settings], resamples=FEW)
    statements = [state(setting, verdict) for setting, verdict in zip(settings, found, strict=True)]
    return [
        Judged(statement.title, verdict, verdict.comparisons, statement.sentences, statement.answers, statement.cost)
        for verdict, statement in zip(found, statements, strict=True)
    ]


def judged(*arms: Arm, track: Track = "rl") -> Judged:
    (found,) = judged_all(Setting(track, "Task-v0", "ppo", arms, {}))
    return found


def test_pairs_are_those_that_answer_something() -> None:
    arms = [arm(label, [0.0] * 5) for label in LABELS]
    arms.append(arm("other low frozen", [0.0] * 5, role="frozen"))
    assert [(one.label, other.label) for one, other, *_ in contrasts(arms)] == [
        ("eye low frozen", "nature scratch"),
        ("eye high frozen", "nature scratch"),
        ("other low frozen", "nature scratch"),
        ("eye low frozen", "eye low random"),  # and no other: no random arm has their tap, or their encoder
        ("eye low frozen", "eye high frozen"),
        ("eye low frozen", "other low frozen"),
        ("eye high frozen", "other low frozen"),
        ("eye low finetuned", "eye low frozen"),
        ("eye low finetuned", "eye high frozen"),
    ]


def test_what_cells_are_pinned_to_names_their_encoder() -> None:
    """Labels are free text: here two of one encoder share no word, and two of different ones do."""
    low, high = {"encoder": "eye", "tap": "low"}, {"encoder": "eye", "tap": "high"}
    arms = [
        arm("ours", [0.0], role="frozen", pins=high),
        arm("control", [0.0], role="random", pins=low),
        arm("matched", [0.0], role="random", pins=high),
        arm("ours too", [0.0], role="random", pins={"encoder": "nose", "tap": "high"}),
    ]
    assert [(one.label, other.label) for one, other, *_ in contrasts(arms)] == [("ours", "matched")]


def test_an_arm_of_before_a_flag_is_compared_with_one_that_has_it_as_all_had_it_then() -> None:
    old = arm("ours", [0.0], role="frozen", pins={"encoder": "eye", "tap": "low"})
    today = {"encoder": "nature", "pixels": [], "state": [], "eval_shift": None, "eval_max_steps": 10_000}
    scratch = arm("scratch", [0.0], role="scratch", pins={**today, "standardise_features": False})
    (found,) = contrasts([old, scratch])
    assert found.apart == {
        "encoder": ("eye", "nature"),
        "tap": ("low", None),
        "standardise_features": (True, False),
    }
    for name, other in (("pixels", ["left"]), ("state", ["on"]), ("eval_shift", "hue"), ("eval_max_steps", 50)):
        another = arm("scratch", [0.0], role="scratch", pins={**today, name: other})
        assert not contrasts([old, another]), "what is seen, played or scored is another thing"


def test_a_clear_difference_is_claimed_with_its_numbers() -> None:
    found = judged(arm("eye low frozen", [5.0, 5.2, 5.1, 4.9, 4.8]), arm("nature scratch", [1.0, 1.1, 0.9, 1.2, 0.8]))
    (comparison,) = found.comparisons
    assert comparison.winner == "eye low frozen"
    assert comparison.seeds == 5
    assert comparison.difference == pytest.approx(4.0)
    assert 0 < comparison.adjusted_low <= comparison.low <= 4.0 <= comparison.high <= comparison.adjusted_high
    assert (comparison.improvement, comparison.improvement_low, comparison.improvement_high) == (1.0, 1.0, 1.0)
    assert found.sentences == (
        "eye low frozen is ahead of nature scratch in the end by 4.00 "
        f"({comparison.low:.2f} to {comparison.high:.2f}), better in 100% (100% to 100%) of all "
        "pairs of seeds (5 seeds).",
        "Claims of each kind have a chance of about 5% to hold a false one, adjusted (Bonferroni) for the number of "
        "comparisons in this task: 1 in the end. Those of the last evaluation count the error of its 2 episodes too, "
        "the same for all agents. Intervals in brackets are the bootstrap's, nominally of 95% each; those of few seeds "
        "are too narrow, and no claim rests on them alone. They are over the seeds alone.",
    )


STEADY, BETTER = [1.0, 1.1, 0.9, 1.2, 0.8], [5.0, 5.2, 5.1, 4.9, 4.8]


def test_an_arm_of_which_seeds_failed_is_not_called_ahead() -> None:
    """It was judged by the seeds that did not diverge, and named the winner."""
    whole = judged(arm("eye low frozen", BETTER), arm("nature scratch", STEADY))
    assert whole.comparisons[0].winner == "eye low frozen"
    found = judged(arm("eye low frozen", BETTER, failed=2), arm("nature scratch", STEADY))
    (comparison,) = found.comparisons
    assert (comparison.winner, comparison.withheld) == (None, "eye low frozen")
    assert found.sentences[:2] == (
        "eye low frozen is not called ahead of nature scratch, although those of its seeds that ended are by 4.00 "
        f"({comparison.low:.2f} to {comparison.high:.2f}) (5 seeds): others failed.",
        "2 seeds of eye low frozen failed and are in no number: nothing is claimed in its favour.",
    )
    (answer,) = found.answers
    assert answer.told == (
        "Ahead by the seeds that ended, and not claimed, because others failed: eye low frozen against nature scratch."
    )


def test_the_other_arm_is_named_first_where_it_is_the_one_that_is_not_called_ahead() -> None:
    found = judged(arm("eye low frozen", STEADY), arm("nature scratch", BETTER, failed=1))
    (comparison,) = found.comparisons
    assert found.sentences[:2] == (
        "nature scratch is not called ahead of eye low frozen, although those of its seeds that ended are by 4.00 "
        f"({-comparison.high:.2f} to {-comparison.low:.2f}) (5 seeds): others failed.",
        "1 seed of nature scratch failed and is in no number: nothing is claimed in its favour.",
    )
    assert found.answers[0].told.endswith(": nature scratch against eye low frozen.")


def test_an_arm_of_which_seeds_failed_may_be_called_behind() -> None:
    found = judged(arm("eye low frozen", STEADY, failed=1), arm("nature scratch", BETTER))
    assert (found.comparisons[0].winner, found.comparisons[0].withheld) == ("nature scratch", None)


def test_where_seeds_failed_nothing_is_said_of_the_way_and_they_never_got_there() -> None:
    rising = (0.0, 1.0, 2.0, 3.0)
    arms = [arm("eye low frozen", [9.0] * 5, curve=rising), arm("nature scratch", [0.0] * 5, curve=rising)]
    assert judged(*arms).verdict.courses
    arms[0] = arm("eye low frozen", [9.0] * 5, curve=rising, failed=6)
    found = judged(*arms)
    assert (found.verdict.courses, found.verdict.family.points) == ({}, 0)
    assert found.verdict.race is not None
    reach = found.verdict.race.reaches["eye low frozen"]
    assert (reach.reached, len(reach.steps), reach.median_steps) == (5, 11, None)
    assert found.verdict.race.cheapest != "eye low frozen"


def test_failed_seeds_count_over_all_environments() -> None:
    settings = [
        Setting(
            "rl",
            f"Task{number}-v0",
            "ppo",
            (arm("eye low frozen", [0.9] * 5, failed=number), arm("nature scratch", [0.1] * 5)),
            {"random": {"mean": 0.0}, "oracle": {"mean": 1.0}},
        )
        for number in (0, 1)
    ]
    grid = Grid(tuple(settings))
    verdict = overall_verdict(grid, aggregate(grid, FEW), FEW)
    assert verdict is not None
    assert verdict.failed == {"eye low frozen": 1}
    assert (verdict.comparisons[0].winner, verdict.comparisons[0].withheld) == (None, "eye low frozen")
    told = "1 seed of eye low frozen failed and is in no number: nothing is claimed in its favour."
    assert told in of_all(verdict, 2)


def test_how_often_an_arm_beats_scratch_is_told_only_where_both_play_the_same() -> None:
    """An arm that learned eight times as long had a share of pairs that it wins."""
    pins = {"encoder": "eye", "tap": "low", "steps": 100_000}
    base = arm("nature scratch", STEADY, pins=pins | {"encoder": "nature"})
    alike, longer = (arm("eye low frozen", BETTER, pins=pins | {"steps": steps}) for steps in (100_000, 800_000))
    for frozen, told in ((alike, True), (longer, False)):
        (found, _) = estimate(Setting("rl", "Task-v0", "ppo", (frozen, base), {}), FEW).arms
        assert (found.improvement is not None) == told


def test_one_evaluation_in_common_is_no_stretch() -> None:
    found = judged(arm("eye low frozen", BETTER, curve=(4.0,)), arm("nature scratch", STEADY, curve=(0.0,)))
    assert "ahead at the only evaluation in common, at 1,000 steps (5 seeds)." in found.sentences[1]


def test_the_winner_comes_first_with_its_own_signs() -> None:
    found = judged(arm("eye low frozen", [1.0, 1.1, 0.9, 1.2, 0.8]), arm("nature scratch", [5.0, 5.2, 5.1, 4.9, 4.8]))
    (comparison,) = found.comparisons
    assert comparison.winner == "nature scratch"
    assert comparison.difference == pytest.approx(-4.0)
    assert comparison.improvement == 0.0
    assert found.sentences[0] == (
        "nature scratch is ahead of eye low frozen in the end by 4.00 "
        f"({-comparison.high:.2f} to {-comparison.low:.2f}), better in 100% (100% to 100%) of all "
        "pairs of seeds (5 seeds)."
    )


def test_ties_everywhere_are_not_separable() -> None:
    found = judged(*(arm(label, [3.0] * 5, curve=(0.0,) * 4, noise=[3.0] * 5) for label in LABELS))
    assert {comparison.winner for comparison in found.comparisons} == {None}
    assert all(comparison.improvement == 0.5 for comparison in found.comparisons)
    for sentence in found.sentences[:-1]:
        assert any(word in sentence for word in ("not separable", "No loss", "Not compared with random")), sentence
    assert (
        "eye low frozen and nature scratch are not separable at 5 seeds in the end: the first less the second is "
        "0.00 (0.00 to 0.00), better in 50% (50% to 50%) of all pairs of seeds."
    ) in found.sentences


def test_seeds_that_all_agree_are_claimed() -> None:
    """No spread is no error: a frozen arm that always solves the task against one that never does."""
    assert claims.compare("a", "b", [1.0] * 5, [0.0] * 5, resamples=FEW).winner == "a"


def test_accuracies_have_the_error_of_their_test_images() -> None:
    """A head that is fitted to frozen features is the same for every seed: five of them are one number, and one image
    of 10,000 would be claimed."""
    near = claims.compare("a", "b", [0.8] * 5, [0.8001] * 5, images=10_000, resamples=FEW)
    assert near.winner is None
    # 1.96 standard errors of a difference of two proportions, sqrt(2 * 0.8 * 0.2 / 10,000) = 0.00566.
    assert (near.adjusted_low, near.adjusted_high) == pytest.approx((-0.01119, 0.01099), abs=2e-5)
    assert claims.compare("a", "b", [0.8] * 5, [0.8001] * 5, resamples=FEW).winner == "b", "as returns they would be"
    assert claims.compare("a", "b", [0.8] * 5, [0.82] * 5, images=10_000, resamples=FEW).winner == "b"
    assert claims.compare("a", "b", [0.8] * 5, [0.82] * 5, images=1_000, resamples=FEW).winner is None


def test_more_seeds_see_no_more_test_images() -> None:
    few, many = (bounds.t_bounds(np.full(count, 0.5), np.full(count, 0.5), 0.95, images=400)[1] for count in (5, 500))
    assert few == many == pytest.approx(1.96 * (2 * 0.25 / 400) ** 0.5, rel=0.01)
    spread = np.array([0.4, 0.45, 0.5, 0.55, 0.6])
    without, of_few, of_many = (bounds.t_bounds(spread, None, 0.95, images)[1] for images in (None, 20, 10**9))
    assert without == pytest.approx(of_many)
    assert of_few > without
    assert bounds.t_bounds(spread, None, 0.95, 100)[1] >= without, "an error more, and no narrower interval"


def test_a_data_set_of_seeds_that_agree_is_not_decided_by_one_image() -> None:
    pins = {"encoder": "eye", "tap": "low", "test_images": 10_000}
    arms = [
        arm("A", [0.8] * 5, role="frozen", pins=pins),
        arm("B", [0.8001] * 5, role="frozen", pins=pins | {"tap": "high"}),
    ]
    found = judged(*arms, track="cifar")
    assert found.answers == (("Does it matter where the encoder is tapped?", "Not separable in the end: A against B."),)
    assert found.sentences[-1].endswith(
        ": 1 in the end. Those in the end count the error of 10,000 test images too. Intervals in brackets are the "
        "bootstrap's, nominally of 95% each; those of few seeds are too narrow, and no claim rests on them alone. They "
        "are over the seeds alone."
    )


@pytest.mark.parametrize(("scores", "told"), [([9.0] * 4, "only 4 seeds"), ([9.0], "only 1 seed,")])
def test_few_seeds_have_no_verdict(scores: list[float], told: str) -> None:
    """However far apart, and even if the other side has many."""
    found = judged(
        arm("eye low frozen", scores, curve=(5.0,) * 4, noise=[0.0] * len(scores)),
        arm("nature scratch", [0.0] * 10, curve=(0.0,) * 4),
    )
    (comparison,) = found.comparisons
    assert comparison.winner is None
    assert np.isnan([comparison.adjusted_low, comparison.adjusted_high]).all()
    assert told in found.sentences[0]
    assert found.sentences[0].endswith("no verdict.")
    assert not any(word in " ".join(found.sentences) for word in ("ahead", "behind", " loses "))
    assert found.sentences[-1] == "Nothing is claimed with fewer than 5 seeds."


def test_one_outlying_seed_makes_no_claim() -> None:
    base = [1.0, 2.0, 3.0, 4.0, 5.0]
    for outlying in ([1.0, 2.0, 3.0, 4.0, 1e6], [0.0, 0.0, 0.0, 0.0, 1e6]):
        against = base if outlying[0] else [0.0] * 5
        assert claims.compare("a", "b", outlying, against, resamples=FEW).winner is None
        assert not claims.ahead(np.array(outlying)[:, None], np.array(against)[:, None], resamples=FEW).any()
        assert not claims.lost(outlying, against, resamples=FEW)[1]


def test_a_seed_that_did_not_learn_counts_against_a_claim() -> None:
    """Winsorising hides the one of five that failed: without the mean's error this would be claimed."""
    learnt, failed = np.array([10.0, 10.1, 10.2, 9.9, 9.8]), np.array([0.0, 0.1, -0.1, 0.2, 9.7])
    assert claims.compare("a", "b", learnt, failed, claims=7).winner is None
    yuen = scipy_stats.ttest_ind(learnt, failed, equal_var=False, trim=0.25)
    assert yuen.pvalue < 0.05 / 7
    assert claims.compare("a", "b", np.tile(learnt, 3), np.tile(failed, 3), claims=7).winner == "a"


def test_bounds_are_those_of_scipy() -> None:
    generator = np.random.RandomState(0)
    # Two heaps, where the trimmed error is the larger one.
    one, other = (np.resize([-1.0, 1.0], count)[:, None] + generator.randn(count, 3) / 100 for count in (10, 8))
    found = bounds.t_bounds(one, other, 0.9)
    expected = scipy_stats.ttest_ind(one, other, equal_var=False, trim=0.25).confidence_interval(0.9)
    assert np.allclose(found, [expected.low, expected.high])
    against = scipy_stats.ttest_ind(one, np.zeros((10, 3)), equal_var=False, trim=0.25).confidence_interval(0.9)
    assert np.allclose(bounds.t_bounds(one, None, 0.9), [against.low, against.high])


def equal(generator: np.random.RandomState, learns: bool) -> np.ndarray:
    """Three arms of five seeds from one distribution: a normal one, or one in which a seed learns or does not."""
    noise = generator.randn(3, 5)
    return noise + 10.0 * (generator.rand(3, 5) < 0.5) if learns else noise


@pytest.mark.parametrize("learns", [False, True])
def test_equal_arms_are_told_apart_in_five_of_a_hundred_tasks_at_most(learns: bool) -> None:
    """The unadjusted intervals, which are shown, find a winner in far more of them."""
    generator, wrong, naive = np.random.RandomState(5), 0, 0
    for _ in range(200):
        arms = combinations(equal(generator, learns), 2)
        found = [claims.compare("a", "b", one, other, claims=3, resamples=FEW) for one, other in arms]
        wrong += any(comparison.winner for comparison in found)
        naive += any(comparison.low > 0 or comparison.high < 0 for comparison in found)
    assert wrong <= 10
    assert naive >= 20, "this is what the adjustment is for"


def test_one_pair_of_equal_arms_is_told_apart_in_five_of_a_hundred_trials_at_most() -> None:
    generator = np.random.RandomState(6)
    wins = [claims.compare("a", "b", generator.randn(5), generator.randn(5), resamples=FEW).winner for _ in range(200)]
    assert sum(win is not None for win in wins) <= 10


def test_curves_of_equal_arms_are_told_apart_in_five_of_a_hundred_tasks_at_most() -> None:
    generator, wrong = np.random.RandomState(8), 0
    for _ in range(200):
        one, other = np.cumsum(generator.randn(2, 6, 10), axis=-1)
        wrong += claims.ahead(one, other, claims=10, resamples=FEW).any()
    assert wrong <= 10


def test_different_arms_are_told_apart() -> None:
    generator = np.random.RandomState(9)
    wins = [
        claims.compare("a", "b", generator.randn(10) + 4.0, generator.randn(10), claims=7, resamples=FEW).winner
        for _ in range(50)
    ]
    assert wins.count("a") >= 48
    assert "b" not in wins


def test_more_comparisons_make_a_claim_harder() -> None:
    one, other = [3.0, 3.5, 2.5, 4.0, 3.2, 2.8], [1.0, 1.6, 0.4, 2.0, 1.2, 0.9]
    few, many = (claims.compare("a", "b", one, other, claims=count, resamples=FEW) for count in (1, 1_000))
    assert many.adjusted_low < few.adjusted_low < few.adjusted_high < many.adjusted_high
    assert (few.low, few.high) == (many.low, many.high), "what is shown stays at 95 %"
    assert few.winner == "a"
    assert many.winner is None


SPREAD = [-0.10, -0.05, 0.0, 0.05, 0.10, -0.08, 0.08, 0.02, -0.02, 0.06]


@pytest.mark.parametrize(
    ("curve", "told"),
    [
        ((9.0, 0.0, 0.0, -9.0), "ahead until 1,000 steps and behind from 4,000 steps; not separable at the other"),
        ((9.0, 9.0, 9.0, 9.0), "ahead at every evaluation from 1,000 to 4,000 steps (10 seeds)."),
        (
            (0.0, -9.0, -9.0, 0.0),
            "behind from 2,000 to 3,000 steps; not separable at the other evaluations (10 seeds).",
        ),
        (
            (9.0, -9.0, 9.0, 9.0),
            "ahead until 1,000 steps, behind at 2,000 steps and ahead from 3,000 steps (10 seeds).",
        ),
    ],
)
def test_a_course_says_where_and_only_there(curve: tuple[float, ...], told: str) -> None:
    found = judged(arm("eye low frozen", SPREAD, curve=curve), arm("nature scratch", SPREAD, curve=(0.0,) * 4))
    assert f"Against nature scratch, eye low frozen is {told}" in found.sentences[1]
    assert "in this task: 1 in the end, 4 on the way. " in found.sentences[-1]


def test_a_course_is_stretches_of_signs() -> None:
    """The numbers behind the words: every evaluation is in one stretch, and neighbours differ in what is claimed."""
    one = arm("eye low frozen", SPREAD, curve=(9.0, 0.0, 0.0, -9.0), noise=[score - 2.0 for score in SPREAD])
    verdict = judged(one, arm("nature scratch", SPREAD, curve=(0.0,) * 4)).verdict
    course = verdict.courses["eye low frozen", "nature scratch"]
    assert course.stretches == (Stretch(1, 1_000, 1_000), Stretch(0, 2_000, 3_000), Stretch(-1, 4_000, 4_000))
    assert (course.points, course.seeds) == (4, 10)
    assert verdict.family == Family(finals=1, points=4, shifts=1)
    (robust,) = verdict.robustness
    assert (robust.arm, robust.clean, robust.seeds) == ("eye low frozen", pytest.approx(0.01), 10)
    assert [(loss.shift, loss.loss.value, loss.claimed) for loss in robust.losses] == [
        ("noise", pytest.approx(2.0), True)
    ]
    assert verdict.race is not None
    assert (verdict.race.threshold.baseline, verdict.race.untimed, verdict.race.comparable) == (
        "nature scratch",
        (),
        True,
    )


def test_courses_are_compared_at_common_evaluations_alone() -> None:
    one, other = arm("eye low frozen", SPREAD, curve=(9.0,) * 4), arm("nature scratch", SPREAD, curve=(0.0,) * 3)
    assert "at every evaluation from 1,000 to 3,000 steps" in judged(one, other).sentences[1]
    bare = judged(one, arm("nature scratch", SPREAD))
    assert len(bare.sentences) == 2, "without a curve nothing is said of it"


def test_a_data_set_has_epochs() -> None:
    found = judged(
        arm("eye low frozen", SPREAD, curve=(9.0,) * 4), arm("eye scratch", SPREAD, role="scratch", curve=(0.0,) * 4),
        track="cifar",
    )  # fmt: skip
    assert "from 1,000 to 4,000 epochs" in found.sentences[1]


def test_shifts_are_told_seed_by_seed() -> None:
    scores = [4.0, 6.0, 8.0, 10.0, 12.0, 14.0]
    found = judged(
        arm("eye low frozen", scores, noise=[score - 2.0 for score in scores]),
        arm("eye high frozen", scores, noise=[5.0, 5.0, 9.0, 9.0, 13.0, 13.0]),
        arm("nature scratch", scores, noise=[score + 1.0 for score in scores]),
    )
    assert "Of its 9.0 eye low frozen loses 2.0 (2.0 to 2.0) under noise." in found.sentences
    assert "Of its 9.0 nature scratch gains 1.0 (1.0 to 1.0) under noise." in found.sentences
    assert any(
        text.startswith("No loss of eye high frozen may be claimed at 6 seeds under noise 0.0 (")
        for text in found.sentences
    )
    assert ", 3 under shifts." in found.sentences[-1]
    assert found.answers[-1] == (
        "Do visual shifts that it never saw cost an agent anything?",
        "Yes: eye low frozen under noise.",  # and nature scratch gains
    )
    unhurt = judged(arm("eye low frozen", scores, noise=scores), arm("nature scratch", scores))
    assert unhurt.answers[-1].told == "No loss may be claimed."


def threshold(*arms: Arm) -> tuple[str, ...]:
    return judged(*arms).cost


def test_the_cheapest_is_named_if_seeds_agree() -> None:
    quick = arm("eye low frozen", SPREAD, curve=(0.0, 9.0, 9.0, 9.0), seconds=10.0)
    slow = arm("nature scratch", [5.0 + score for score in SPREAD], curve=(-5.0, -5.0, -5.0, 5.0), seconds=40.0)
    assert threshold(quick, slow) == (
        "Median seconds of training to 5.01, what nature scratch scores in the end (IQM): "
        "eye low frozen 16 s (10 of 10 seeds); nature scratch 140 s (10 of 10 seeds).",
        "eye low frozen is the cheapest.",
    )


def test_none_is_the_cheapest_that_began_with_what_another_run_had_learned() -> None:
    """The failure it prevents: who goes on from a trained run is there at once, and its seconds leave that run out."""
    slow, heirs = (-9.0, -9.0, -9.0, 0.0), {"from_sha256": "0a"}
    own = arm("nature scratch", [9.0] * 5, curve=slow, seconds=40.0)
    eye, found = {"encoder": "eye", "tap": "low"}, []
    for more in ({}, heirs):
        other = arm("eye low frozen", [9.0] * 5, curve=(0.0,) * 4, pins={**eye, **more})
        found.append(threshold(other, own))
    assert found[0][-1] == "eye low frozen is the cheapest."
    assert found[1][-1] == "None is called the cheapest, because they differ in from_sha256."
    heir = arm("nature scratch", [9.0] * 5, curve=slow, pins={"encoder": "nature", **heirs})
    assert estimate(Setting("rl", "Task-v0", "ppo", (heir,), {}), FEW).baseline is None


def test_of_a_data_set_what_is_to_be_reached_is_what_its_curves_show() -> None:
    """The failure it prevents: curves of accuracies on ten validation images race to an accuracy on the test images."""
    quick = arm("eye low frozen", SPREAD, curve=(0.0, 9.0, 9.0, 9.0), seconds=10.0)
    slow = arm("nature scratch", [5.0 + score for score in SPREAD], curve=(-5.0, -5.0, -5.0, -3.0), seconds=40.0)
    (estimates,) = (estimate(Setting("cifar", "Task-v0", "ppo", (quick, slow), {}), FEW),)
    assert estimates.threshold is not None
    assert estimates.threshold.score == pytest.approx(2.0, abs=0.1), "5.0 on the test images"
    told = judged(quick, slow, track="cifar").cost[0]
    assert "what nature scratch scores on its validation images in the end (IQM): eye low frozen" in told
    bare = judged(quick, arm("nature scratch", SPREAD), track="cifar")
    assert bare.cost == (), "without a curve it reaches nothing"


def test_no_cheapest_is_named_without_grounds() -> None:
    base = arm("nature scratch", [5.0 + score for score in SPREAD], curve=(-5.0, -5.0, -5.0, 5.0))
    equal = arm("eye low frozen", [5.0 + score for score in SPREAD], curve=(-5.0, -5.0, -5.0, 5.0))
    assert threshold(equal, base)[1] == "None is separably the cheapest."
    quick = {"curve": (0.0, 9.0, 9.0, 9.0), "seconds": 1.0}
    assert threshold(arm("eye low frozen", SPREAD[:4], **quick), base)[1] == "None is separably the cheapest."  # type: ignore[arg-type]
    assert threshold(arm("eye low frozen", SPREAD, cpu="two", **quick), base)[1] == (  # type: ignore[arg-type]
        "None is called the cheapest, because they were timed on different machines."
    )
    assert threshold(arm("eye low frozen", SPREAD), base)[1] == (
        "None is called the cheapest, because not every seed of eye low frozen has a curve."
    )
    never = arm("nature scratch", [5.0] * 5, curve=(-9.0,) * 4)
    assert threshold(never) == ("No seed reached 5.00, what nature scratch scores in the end (IQM).",)
    assert threshold(arm("eye low frozen", SPREAD)) == (), "there is nothing to reach"


def test_a_seed_that_never_gets_there_is_the_latest() -> None:
    assert claims.cheapest({"a": [1.0] * 5, "b": [None] * 5}) == "a"
    assert claims.cheapest({"a": [1.0, None, None, None, None], "b": [None] * 5}) is None
    half = {"a": [1.0] * 5 + [None] * 5, "b": [None] * 10}
    assert claims.cheapest(half) is None, "what half of the seeds never reach has no price"
    assert claims.cheapest({"a": [1.0] * 5}) is None, "of one arm nothing is cheaper"


def test_algorithms_of_one_task_are_judged_together_and_tasks_are_not() -> None:
    arms = (arm("eye low frozen", [5.0, 5.2, 5.1, 4.9, 4.8]), arm("nature scratch", [1.0, 1.1, 0.9, 1.2, 0.8]))
    same = [Setting("rl", "Task-v0", algo, arms, {}) for algo in ("ppo", "dqn")]
    apart = Setting("rl", "Other-v0", "ppo", arms, {})
    first, second, third = judged_all(*same, apart)
    assert [found.title for found in (first, second, third)] == ["Task-v0, ppo", "Task-v0, dqn", "Other-v0, ppo"]
    assert [found.verdict.family for found in (first, second, third)] == [Family(2), Family(2), Family(1)]
    assert ": 2 in the end." in first.sentences[-1]
    assert ": 1 in the end." in third.sentences[-1]
    assert first.comparisons[0].adjusted_low < third.comparisons[0].adjusted_low


def test_the_questions_are_answered_by_what_may_be_claimed_and_by_nothing_else() -> None:
    low, high = [5.0, 5.2, 5.1, 4.9, 4.8], [9.0, 9.2, 9.1, 8.9, 8.8]
    found = judged(
        arm("eye low frozen", low),
        arm("eye high frozen", high),
        arm("eye low random", low),
        arm("nature scratch", [7.0, 7.2, 7.1, 6.9, 6.8]),
        arm("eye low finetuned", high[:4]),
    )
    assert found.answers == (
        (
            "Do frozen pretrained features beat training from scratch?",
            "Yes: eye high frozen against nature scratch. No, behind: eye low frozen against nature scratch.",
        ),
        (
            "Is it the pretraining, and not the network alone?",
            "Not separable in the end: eye low frozen against eye low random. No answer for eye high frozen (no random "
            "arm is made like it: eye low random has tap low, not high).",
        ),
        ("Does it matter where the encoder is tapped?", "Yes: eye high frozen against eye low frozen."),
        (
            "Is training the encoder on worth it?",
            "No verdict with fewer than 5 seeds: eye low finetuned against eye low frozen; "
            "eye low finetuned against eye high frozen.",
        ),
    )


def test_which_encoder_is_answered_by_those_that_are_frozen() -> None:
    high, low = [9.0, 9.1, 9.2, 9.3, 9.4], [1.0, 1.1, 1.2, 1.3, 1.4]
    found = judged(
        arm("nose low frozen", low, role="frozen"),
        arm("eye high frozen", high),
        arm("eye high random", low, role="random"),
    )
    assert dict(found.answers) == {
        "Is it the pretraining, and not the network alone?": "Yes: eye high frozen against eye high random. No answer "
        "for nose low frozen (there is no random arm of its encoder).",
        "Does it matter which encoder is frozen?": "Yes: eye high frozen against nose low frozen.",
    }


def test_a_lead_on_the_way_is_part_of_the_answer() -> None:
    one = arm("eye low frozen", SPREAD, curve=(9.0, 0.0, 0.0, -9.0))
    found = judged(one, arm("nature scratch", SPREAD, curve=(0.0,) * 4))
    assert [told for _, told in found.answers] == [
        "Not separable in the end: eye low frozen against nature scratch. On the way eye low frozen against nature "
        "scratch is ahead until 1,000 steps and behind from 4,000 steps; not separable at the other evaluations."
    ]


def test_a_control_that_differs_in_anything_else_answers_nothing() -> None:
    """Of one encoder and one tap, but at another resolution: what differs may be that."""
    same = {"encoder": "eye", "tap": "low", "resolution": 64, "set": ["gamma=0.9"], "mode": "frozen"}
    bare = same | {"mode": "random", "batchnorm": "frozen", "weights_sha256": None}
    fine, coarse = arm("64 px", SPREAD, role="frozen", pins=same), same | {"resolution": 224}
    large = arm("224 px", SPREAD, role="frozen", pins=coarse)
    nose = arm("nose", SPREAD, role="frozen", pins=same | {"encoder": "nose"})
    found = judged(fine, large, nose, arm("control", SPREAD, role="random", pins=bare))
    assert [(pair.one, pair.other) for pair in found.comparisons] == [
        ("64 px", "control"),
        ("64 px", "224 px"),
        ("64 px", "nose"),
        ("224 px", "nose"),
    ]
    told = (
        "224 px (no random arm is made like it: control has resolution 64, not 224)",
        "nose (there is no random arm of its encoder)",
    )
    assert found.answers == (
        (
            "Is it the pretraining, and not the network alone?",
            f"Not separable in the end: 64 px against control. No answer for {told[0]}. No answer for {told[1]}.",
        ),
        (
            "Does it matter which encoder is frozen?",
            "Not separable in the end: 64 px against nose.",
        ),
        # Not "where it is tapped": both are tapped at one place. Nor "which encoder": that is not all of it.
        (
            "Do a frozen encoder's other settings matter?",
            "Not separable in the end: 64 px against 224 px; 224 px against nose.",
        ),
    )
    assert [text for text in found.sentences if "random weights" in text] == [
        f"Not compared with random weights: {one}." for one in told
    ]
    other = judged(fine, arm("control", SPREAD, role="random", pins=bare | {"set": ["gamma=0.5"]}))
    assert other.comparisons == ()
    assert "control has set gamma=0.5, not gamma=0.9" in other.answers[0].told
    newer = judged(fine, arm("control", SPREAD, role="random", pins=bare | {"a new flag": 3}))
    assert newer.comparisons == (), "what the other version would have taken is not known"
    assert "control has a new flag 3, not unset)" in newer.answers[0].told


RETINA: dict[str, Any] = {
    "encoder": "retina",
    "tap": "layer2",
    "pooling": "grid6",
    "mode": "frozen",
    "head": 512,
    "set": [],
    "steps": 50,
    "weights_sha256": "a" * 64,
    "encoder_sha256": "b" * 64,
    "max_episode_steps": 900,
}
RESNET = {"encoder": "resnet18", "weights_sha256": "c" * 64, "encoder_sha256": "d" * 64}


def question(one: Arm, other: Arm) -> Question | None:
    """What two arms answer, None if they are not compared."""
    return next((pair.question for pair in contrasts((one, other))), None)


@pytest.mark.parametrize(
    ("changes", "asked"),
    [
        ({"tap": "layer3"}, "tap"),
        ({"tap": "layer3", "encoder_sha256": "e" * 64}, "tap"),
        ({"tap": "layer3", "weights_sha256": "e" * 64}, "settings"),
        ({"tap": "layer3", "pooling": "global"}, "settings"),
        (RESNET, "encoder"),
        (RESNET | {"tap": "layer3"}, "encoder"),
        (RESNET | {"head": 64}, "settings"),
        (RESNET | {"set": ["learning_rate=1e-9"]}, "settings"),
        (RESNET | {"steps": 1}, "settings"),
        ({"from_sha256": "f" * 64}, "settings"),
        ({"max_episode_steps": 20}, "settings"),
    ],
)
def test_two_frozen_arms_answer_what_they_are_apart_in_and_nothing_else(changes: dict[str, Any], asked: str) -> None:
    """Otherwise other weights, another rate or a shorter run are told as what a tap, or an encoder, does."""
    one, other = arm("one", [0.0], role="frozen", pins=RETINA), arm("two", [0.0], role="frozen", pins=RETINA | changes)
    assert question(one, other) == question(other, one) == asked


@pytest.mark.parametrize(
    ("role", "changes", "asked"),
    [
        ("random", {"mode": "random", "weights_sha256": None, "encoder_sha256": "e" * 64}, "pretraining"),
        ("random", {"mode": "random", "from_sha256": "f" * 64}, None),
        ("random", {"mode": "random", "tap": "layer3"}, None),
        ("scratch", {"encoder": "nature", "mode": "scratch", "tap": "conv3", "pooling": "flatten"}, "scratch"),
        ("scratch", {"encoder": "nature", "mode": "scratch", "set": ["gamma=0.9"], "head": 64}, "scratch"),
        ("scratch", {"encoder": "nature", "mode": "scratch", "steps": 5_000}, None),
        ("scratch", {"encoder": "nature", "mode": "scratch", "max_episode_steps": 20}, None),
        ("scratch", {"encoder": "nature", "mode": "scratch", "state": ["on"]}, None),
        ("scratch", {"encoder": "nature", "mode": "scratch", "refit": False}, None),
        ("finetune", {"mode": "finetune", "refit": False}, None),
        ("finetune", {"mode": "finetune", "encoder_lr": 0.1, "batchnorm": "frozen"}, "training"),
        ("finetune", {"mode": "finetune", "tap": "layer3"}, "training"),
        ("finetune", {"mode": "finetune", "epochs": 9, "crop": 0}, "training"),
        ("finetune", {"mode": "finetune", "weights_sha256": "e" * 64}, None),
        ("finetune", {"mode": "finetune", "from_sha256": "f" * 64}, None),
        ("finetune", {"mode": "finetune", "encoder": "resnet18"}, None),
    ],
)
def test_a_control_may_differ_in_what_its_question_is_about(
    role: str, changes: dict[str, Any], asked: str | None
) -> None:
    frozen, other = arm("one", [0.0], role="frozen", pins=RETINA), arm("two", [0.0], role=role, pins=RETINA | changes)
    assert question(frozen, other) == asked
    gone_on = RETINA | {"from_sha256": "f" * 64}
    if asked is not None:
        assert question(arm("one", [0.0], role="frozen", pins=gone_on), other) is None, "a pin that only one has"


def test_what_neither_arm_was_pinned_to_is_not_apart() -> None:
    """Cells of an older version lack newer pins, all alike."""
    one, other = arm("one", [0.0], role="frozen", pins={"a": 1, "b": None}), arm("two", [0.0], role="frozen", pins={})
    assert apart(one, other) == {"a": (1, None)}
    assert apart(other, one) == {"a": (None, 1)}


def test_what_sets_two_settings_apart_is_told_where_one_is_ahead() -> None:
    high, low = [9.0, 9.1, 9.2, 9.3, 9.4], [1.0, 1.1, 1.2, 1.3, 1.4]
    found = judged(
        arm("A", low, role="frozen", pins=RETINA), arm("B", high, role="frozen", pins=RETINA | RESNET | {"head": 64})
    )
    assert found.answers == (
        (
            "Do a frozen encoder's other settings matter?",
            "Yes: B against A (encoder resnet18, not retina; head 64, not 512).",
        ),
    )
    weights = RETINA | {"weights_sha256": "e" * 64, "encoder_sha256": "f" * 64}
    found = judged(arm("A", low, role="frozen", pins=RETINA), arm("B", high, role="frozen", pins=weights))
    assert found.answers[0].told == "Yes: B against A (weights_sha256 eeeeeeeeeeee…, not aaaaaaaaaaaa…)."


def test_an_arm_without_a_control_is_named_whatever_the_question() -> None:
    longer = {"encoder": "nature", "mode": "scratch", "steps": 5_000}
    found = judged(
        arm("frozen", SPREAD, role="frozen", pins=RETINA),
        arm("nature", SPREAD, role="scratch", pins=RETINA | longer),
        arm("resnet trained on", SPREAD, role="finetune", pins=RETINA | RESNET | {"mode": "finetune"}),
    )
    assert found.comparisons == ()
    missing = (
        "frozen (no scratch arm is made like it: nature has steps 5000, not 50)",
        "resnet trained on (there is no frozen arm of its encoder)",
    )
    assert found.answers == (
        ("Do frozen pretrained features beat training from scratch?", f"No answer for {missing[0]}."),
        ("Is training the encoder on worth it?", f"No answer for {missing[1]}."),
    )
    assert found.sentences[:2] == (
        f"Not compared with training from scratch: {missing[0]}.",
        f"Not compared with the same encoder frozen: {missing[1]}.",
    )


def test_over_all_tasks_two_arms_answer_what_they_do_in_each() -> None:
    """Of one pooling in one task and of two in the other: what is ahead over both may be either."""
    one = arm("A", SPREAD, role="frozen", pins=RETINA)
    alike, unlike = (
        arm("B", SPREAD, role="frozen", pins=RETINA | RESNET | {"pooling": name}) for name in ("grid6", "cls")
    )
    references = {"random": {"mean": -1.0}, "oracle": {"mean": 1.0}}
    grid = Grid(
        tuple(Setting("rl", name, "ppo", (one, other), references) for name, other in (("a", alike), ("b", unlike)))
    )
    whole = overall_verdict(grid, aggregate(grid, FEW), FEW)
    assert whole is not None
    assert whole.asked["A", "B"].question == "settings"
    assert [*whole.asked["A", "B"].apart] == ["encoder", "pooling"]


def test_without_any_random_arm_the_question_is_not_asked() -> None:
    found = judged(arm("eye low frozen", SPREAD), arm("nature scratch", SPREAD))
    assert [question for question, _ in found.answers] == ["Do frozen pretrained features beat training from scratch?"]


def test_over_all_tasks_too_a_control_must_match() -> None:
    arms = (arm("eye high frozen", SPREAD), arm("eye low random", SPREAD), arm("nature scratch", SPREAD))
    references = {"random": {"mean": -1.0}, "oracle": {"mean": 1.0}}
    grid = Grid(tuple(Setting("rl", name, "ppo", arms, references) for name in ("One-v0", "Other-v0")))
    whole = overall_verdict(grid, aggregate(grid, FEW), FEW)
    assert whole is not None
    assert [(pair.one, pair.other) for pair in whole.comparisons] == [("eye high frozen", "nature scratch")]
    assert [*whole.uncontrolled] == ["pretraining"]
    assert [(one.arm, one.nearest, one.differs) for one in whole.uncontrolled["pretraining"]] == [
        ("eye high frozen", "eye low random", {"tap": ("low", "high")})
    ]


def over_all(*places: tuple[str, str]) -> tuple[Aggregate, Verdict | None, tuple[str, ...]]:
    """What is said of two arms over tasks and algorithms together."""
    arms = (arm("eye high frozen", [5.0, 5.2, 5.1, 4.9, 4.8]), arm("nature scratch", [1.0, 1.1, 0.9, 1.2, 0.8]))
    references = {"random": {"mean": 0.0}, "oracle": {"mean": 6.0}}
    grid = Grid(tuple(Setting("rl", task, algo, arms, references) for task, algo in places))
    together = aggregate(grid, FEW)
    whole = overall_verdict(grid, together, FEW)
    told = () if whole is None else of_all(whole, len(together.tasks), len(together.algos))
    return together, whole, told


def test_two_algorithms_of_one_environment_are_no_two_environments() -> None:
    """Otherwise what holds in one game is claimed of games in general."""
    together, whole, _ = over_all(("Task-v0", "a2c"), ("Task-v0", "ppo"))
    assert whole is None
    assert (together.tasks, together.algos) == (("Task-v0",), ("a2c", "ppo"))
    _, whole, told = over_all(("One-v0", "ppo"), ("Two-v0", "ppo"))
    assert whole is not None
    assert told[-1].startswith("Over 2 environments, with so many seeds in each.")
    _, whole, told = over_all(("One-v0", "a2c"), ("One-v0", "ppo"), ("Two-v0", "a2c"), ("Two-v0", "ppo"))
    assert whole is not None
    assert told[-1].startswith("Over 2 environments with 2 algorithms each, with so many seeds in each.")


def test_an_environment_with_more_algorithms_weighs_no_more() -> None:
    together, whole, told = over_all(("One-v0", "a2c"), ("One-v0", "ppo"), ("Two-v0", "ppo"))
    assert together.settings == ("One-v0, ppo", "Two-v0, ppo")
    assert together.uneven == ("One-v0, a2c",)
    assert whole is not None
    assert told[-1].startswith("Over 2 environments, ")
    assert tables.together(together).notes[1] == (
        "Not in it, because not every environment has the algorithm, and each weighs alike: One-v0, a2c."
    )


def tasks(generator: np.random.RandomState, more: float = 0.0) -> dict[str, np.ndarray]:
    """Five seeds of four tasks that spread differently, and each `more` standard deviations up."""
    return {
        name: spread * (generator.randn(5) + more) for name, spread in zip("abcd", (0.02, 0.1, 0.1, 0.4), strict=True)
    }


def test_tasks_together_decide_what_none_decides_alone() -> None:
    one, other = tasks(np.random.RandomState(0), 1.8), tasks(np.random.RandomState(1))
    assert {claims.compare("a", "b", one[name], other[name], claims=7, resamples=FEW).winner for name in one} == {None}
    found = claims.compare_all("a", "b", one, other, claims=7)
    assert found.winner == "a"
    assert 0 < found.adjusted_low < found.low < found.difference < found.high < found.adjusted_high
    assert found.seeds == 5
    turned = claims.compare_all("b", "a", other, one, claims=7)
    assert turned.winner == "a"
    few = {**one, "d": one["d"][:4]}
    assert claims.compare_all("a", "b", few, other, claims=7, resamples=FEW).winner is None
    same = {name: np.ones(5) for name in one}
    assert claims.compare_all("a", "b", same, same, resamples=FEW).winner is None


@pytest.mark.parametrize("steady", [1.0, 0.1])
def test_arms_that_are_alike_in_all_tasks_are_rarely_told_apart(steady: float) -> None:
    generator = np.random.RandomState(2)
    claimed = alone = 0
    for _ in range(200):
        one, other = tasks(generator), {name: steady * scores for name, scores in tasks(generator).items()}
        claimed += claims.compare_all("a", "b", one, other, resamples=FEW).winner is not None
        bootstrap = difference(one, other, resamples=FEW)
        alone += bootstrap.low > 0 or bootstrap.high < 0
    assert claimed <= 12 < alone, "of 200 at a level of 5 %: the bootstrap alone claims too much"


def test_the_mean_over_tasks_has_welchs_interval_where_there_is_one_task() -> None:
    one, other = np.array([1.0, 2.0, 4.0, 5.0, 9.0]), np.array([0.0, 0.5, 0.5, 1.0, 2.0])
    known = scipy_stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    assert bounds.task_bounds({"a": one}, {"a": other}, 0.95) == pytest.approx((known.low, known.high))
    twice = bounds.task_bounds({"a": one, "b": one}, {"a": other, "b": other}, 0.95)
    assert np.mean(twice) == pytest.approx((one - other).mean())
    assert twice[1] - twice[0] < (known.high - known.low) / 2**0.5


def test_what_cannot_be_compared_says_nothing() -> None:
    assert judged(arm("eye low frozen", SPREAD)).answers == ()
    assert judged(arm("eye low frozen", SPREAD)).sentences == ()
    assert judged(arm("eye low frozen", SPREAD)).comparisons == ()


def test_the_same_cells_give_the_same_words() -> None:
    arms = [arm(label, SPREAD, curve=(1.0, 2.0, 3.0, 4.0), noise=SPREAD) for label in LABELS]
    mixed = [Arm(one.label, one.role, tuple(reversed(one.cells))) for one in arms]
    assert judged(*arms) == judged(*mixed)


def test_an_interval_that_is_clear_of_zero_only_by_itself_is_called_that() -> None:
    found = judged(arm("eye low frozen", [1.0, 2.0, 3.0, 4.0, 5.0]), arm("nature scratch", [0.0, 0.4, 1.0, 1.2, 2.0]))
    (comparison,) = found.comparisons
    assert comparison.low > 0 > comparison.adjusted_low
    assert ", clear of 0 only by itself, better in " in found.sentences[0]
    assert "not separable at 5 seeds" in found.sentences[0]
