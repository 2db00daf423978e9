"""Live units: how much of what a policy's head says changes with what the policy is shown."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn

from stillsight.agents.features.extractor import EncoderExtractor, extractors
from stillsight.agents.features.standardise import LARGEST, Standardise

SAMPLE = 64
"""Observations that units are told by, at most."""
MOVES = 1e-3
"""Standard deviation of a unit over different observations, in units of the root mean square of its layer, from which
it is live."""
SAME = 1e-3
"""Difference of two actions, in the units of their space, up to which they are the same."""
ENOUGH = 20
"""Actions from which it says something that all of them were the same."""
FEW = 0.02
"""Share of live units below which a policy is warned of: of 512 that are ten."""
MANY = 0.2
"""Share of clipped features above which it is. Of frozen encoders they are few, for random play has met most that an
agent meets; those of an encoder that learns leave the numbers of the first look behind."""


class Sample:
    """Keeps up to `SAMPLE` observations, evenly spread over all that pass, and whether they were answered differently.

    Attributes:
        rows: the observations; beyond `SAMPLE` every other one is dropped.
        acted: actions that were taken.
        varied: whether one of them was another than the first.
    """

    def __init__(self) -> None:
        self.rows: list[np.ndarray] = []
        self.acted, self.varied = 0, False
        self._stride, self._passed = 1, 0
        self._action: np.ndarray | None = None

    def add(self, observations: np.ndarray, actions: np.ndarray) -> None:
        """Note one row of `[N, ...]`, each time another one's, on the way every `stride`-th time; and all actions
        `[N, ...]`."""
        if self._passed % self._stride == 0:
            self.rows.append(observations[self._passed // self._stride % len(observations)].copy())
            if len(self.rows) > SAMPLE:
                self.rows, self._stride = self.rows[::2], 2 * self._stride
        self._passed += 1
        self.acted += len(actions)
        if self._action is None:
            self._action = np.array(actions[0])
        self.varied = self.varied or not np.allclose(actions, self._action, rtol=0, atol=SAME)


class LiveUnits(NamedTuple):
    """What a head says of different observations, and a policy does.

    Attributes:
        live: share of its units that change from one observation to another, 0..1.
        clipped: share of its standardised features that lie beyond the clip, 0..1; 0 where they are left as they are.
        one_action: whether the policy did the same whatever it was shown.
    """

    live: float
    clipped: float
    one_action: bool = False

    @property
    def facts(self) -> dict[str, float | bool]:
        """As the record of an evaluation holds them."""
        return {"live_units": self.live, "clipped_features": self.clipped, "one_action": self.one_action}

    def warning(self, shift: str = "") -> str | None:
        """What is to be said of a policy that much of what is shown does not reach; None of another.

        Args:
            shift: name of the shift that it was shown its game through, "" where it was shown it as in training. How
                it acts through a shift says how it bears that, and not what to train otherwise.
        """
        if self.live < FEW:
            found = f"{self.live:.1%} of the units of this policy's head change with what it is shown: it acts blindly"
        elif self.clipped > MANY:
            found = (
                f"{self.clipped:.0%} of this policy's standardised features lie beyond the clip, and look the same "
                "whatever is shown"
            )
        elif self.one_action:
            found = "this policy took one and the same action in every step of its evaluation, whatever it was shown"
        else:
            return None
        if shift:
            return f"{found}. It was shown the game through {shift}."
        return (
            f"{found}. Its returns say little of its encoder. Try another rate (--set learning_rate=1e-4), more steps "
            "or, where the encoder learns, --no-standardise-features."
        )


def live_units(policy: BasePolicy, sample: Sample) -> LiveUnits | None:
    """Count the live units of a policy's heads, of that with the fewest where there are several (actor, critics).

    Dormant neurons (Sokar et al. 2023) are told by their mean activation; a unit that is large and always the same says
    as little, so these are told by their spread.

    Args:
        policy: of SB3; it is left in evaluation mode, as after `predict`. What it encodes is counted as what it plays.
        sample: of what it was shown.

    Returns:
        None of a policy that sees no image, and where the sample holds nothing but one observation.
    """
    rows = sample.rows
    if not rows or all(np.array_equal(row, rows[0]) for row in rows[1:]):
        return None
    policy.set_training_mode(False)
    shown = torch.as_tensor(np.stack(rows), device=policy.device)
    found = [of for of in (_of(extractor, shown) for extractor in extractors(policy)) if of is not None]
    return min(found)._replace(one_action=sample.acted >= ENOUGH and not sample.varied) if found else None


@torch.no_grad()
def _of(extractor: EncoderExtractor, shown: Tensor) -> LiveUnits | None:
    head, seen = extractor.head, {}
    if head is None:
        return None

    def note(module: nn.Module, _: object, output: Tensor) -> None:
        seen[type(module)] = output.float()

    hooks = [module.register_forward_hook(note) for module in (head, head.standardise)]
    try:
        extractor(shown.float())
    finally:
        for hook in hooks:
            hook.remove()
    units, features = seen[type(head)], seen[Standardise]
    size = units.square().mean().sqrt().clamp_min(torch.finfo(units.dtype).tiny)
    live = (units.std(0, correction=0) > MOVES * size).float().mean()
    clipped = 0.0 if head.standardise.leaves else (features.abs() >= LARGEST).float().mean()
    return LiveUnits(round(float(live), 4), round(float(clipped), 4))
