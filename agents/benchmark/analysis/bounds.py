"""Bounds of differences by Student's t, which few seeds need beside the bootstrap's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from stillsight.agents.benchmark.analysis.episode_error import Error
from stillsight.agents.benchmark.analysis.stats import TRIM, Array, finite, middle


def t_bounds(
    one: Array, other: Array | None, level: float, images: int | None = None, episodes: Sequence[Error] = ()
) -> tuple[Array, Array]:
    """Bounds of an IQM, or of the difference of two, by Student's t with winsorised variances.

    The bootstrap's bounds end at the outermost seeds whatever its level, and of five seeds they hold less often than
    they say. These do not; they in turn know nothing of skewed scores. So a claim must pass both.
    Yuen 1974, "The two-sample trimmed t for unequal population variances"; one sample stands against a number without
    error; and neither is taken to be narrower than with the error of the mean.

    Args:
        one: `[seeds, ...]`, each further point for itself; three seeds or more.
        other: the same, or None for one sample.
        level: of the interval.
        images: of the test set, where scores are shares of it that were classified rightly; all seeds see the same
            ones, so their error is in every score, and no number of seeds makes it less, see `binomial_error`.
        episodes: errors of those that the scores are means over, which all seeds play alike, see `episode_error`.
    """
    samples = [sample for sample in (one, other) if sample is not None]
    shared = [*episodes]
    if images is not None:
        shared += [Error(binomial_error(middle(sample.T).T, images), images - 1) for sample in samples]
    reach = _reach([_squared_error(sample) for sample in samples], shared, level)
    value = middle(one.T).T - (0.0 if other is None else middle(other.T).T)
    return value - reach, value + reach


def binomial_error(accuracy: Array, images: int) -> Array:
    """Squared standard error that an accuracy has because the test images are a sample: p (1 - p) / images.

    Of two arms both errors are added, as of independent proportions. The images are the same for both, so that their
    errors go together, and the sum is too large rather than too small: which images each arm got right is not kept.
    Dietterich 1998, "Approximate statistical tests for comparing supervised classification learning algorithms";
    Bouthillier et al. 2021, arXiv 2103.03098.

    Args:
        accuracy: from 0 to 1, of any shape.
        images: of the test set, two or more.
    """
    share = np.clip(accuracy, 0.0, 1.0)
    return np.asarray(share * (1 - share) / images, np.float64)


def task_bounds(
    scores: Mapping[str, Array], against: Mapping[str, Array], level: float, episodes: Sequence[Error] = ()
) -> tuple[float, float]:
    """Bounds of the mean over the tasks of what the mean of `scores` is above that of `against`, by Student's t.

    Every task and arm keeps a variance of its own, and the degrees of freedom follow from them: a task whose
    seeds differ most may decide nearly alone how far the interval reaches. A permutation test would reach less far, but
    where one arm is steady and the other is not it finds differences too often (8 in 100 at a level of 5 %).

    Args:
        scores, against: task -> scores `[seeds]` of either arm.
        level: of the interval.
        episodes: errors of the episodes, as parts of the mean's, see `episode_error`.
    """
    samples = [finite(arm[name]) for name in sorted(scores) for arm in (scores, against)]
    parts = [
        Error(np.array(sample.var(ddof=1) / len(sample) / len(scores) ** 2), len(sample) - 1) for sample in samples
    ]
    value = float(np.mean([finite(scores[name]).mean() - finite(against[name]).mean() for name in scores]))
    reach = float(_reach(parts, episodes, level))
    return value - reach, value + reach


def _reach(seeds: Sequence[Error], shared: Sequence[Error], level: float) -> Array:
    """Half the width of an interval around a sum of estimates: of their errors over seeds, and what all seeds share."""
    reach = _half_width(seeds, level)
    # An error with many degrees of freedom adds to theirs too, and may make an interval narrower. It must not.
    return np.maximum(reach, _half_width([*seeds, *shared], level)) if shared else reach


def _half_width(parts: Sequence[Error], level: float) -> Array:
    """The same of one sum of errors, with degrees of freedom by Satterthwaite 1946."""
    from scipy.stats import t

    total = np.sum(np.broadcast_arrays(*(part.square for part in parts)), axis=0)
    # Seeds that all agree have no error, and no degrees of freedom either.
    with np.errstate(invalid="ignore"):
        freedom = total**2 / sum(part.square**2 / part.freedom for part in parts)
    widest = t.ppf((1 + level) / 2, np.nan_to_num(freedom, nan=1.0))
    return np.asarray(np.where(total > 0, widest, 0.0) * np.sqrt(total), np.float64)


def _squared_error(sample: Array) -> Error:
    """Squared standard error of the IQM over the first axis."""
    ordered, cut = np.sort(sample, axis=0), int(TRIM * len(sample))
    winsorised = np.clip(ordered, ordered[cut], ordered[len(ordered) - 1 - cut])
    left = len(ordered) - 2 * cut
    square = ((winsorised - winsorised.mean(0)) ** 2).sum(0) / (left * (left - 1))
    # Where a seed either learns or does not, winsorising hides the one of five that did not: the mean's error sees it.
    return Error(np.maximum(square, ordered.var(0, ddof=1) / len(ordered)), left - 1)
