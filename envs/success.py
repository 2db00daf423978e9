"""Success: whether an episode reached its goal, where its environment says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

KEYS = ("is_success", "success")
"""Under which an environment says it: as Gymnasium-Robotics and Stable-Baselines3 do, and as Meta-World does."""


def success(info: Mapping[str, Any]) -> bool | None:
    """Whether an episode succeeded, by the `info` of its last step; None where that does not say, or says no 0 or 1."""
    for key in KEYS:
        value = info.get(key)
        if isinstance(value, bool | int | float | np.bool_ | np.number) and value in (0, 1):
            return bool(value)
    return None


def success_rate(outcomes: Sequence[bool | None]) -> float | None:
    """Share of episodes that succeeded, 0..1; None of none, and where not every one says."""
    told = [outcome for outcome in outcomes if outcome is not None]
    return sum(told) / len(told) if told and len(told) == len(outcomes) else None
