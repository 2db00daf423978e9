"""OwnRules: a road of highway-env whose other drivers keep to its own rules, whatever else was made in this process."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from stillsight.envs.options import EnvOptions
from stillsight.envs.wrappers.rules import Step, skip_frames

RULES = ("DISTANCE_WANTED", "COMFORT_ACC_MAX", "COMFORT_ACC_MIN")
"""What an intersection of highway-env (1.12) writes into the class of all drivers at each reset: distances in metres
and accelerations in m/s2."""

_FIRST: dict[type, dict[str, float]] = {}
"""Those of each class of drivers before anything was made here."""


class OwnRules(gym.Wrapper[Any, Any, Any, Any]):
    """Gives the class of drivers this road's rules before each of its resets and steps.

    Without it merge-v1 is another game, with other rewards for the same seed, once an intersection was made beside it.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        from highway_env.utils import class_from_path

        self._drivers: type = class_from_path(self.get_wrapper_attr("config")["other_vehicles_type"])
        self._own = _FIRST.setdefault(self._drivers, self._rules())

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A new road, which may set rules of its own."""
        self._give(_FIRST[self._drivers])
        result = self.env.reset(seed=seed, options=options)
        self._own = self._rules()
        return result

    def step(self, action: Any) -> Step:
        """The road's step."""
        self._give(self._own)
        return self.env.step(action)

    def _rules(self) -> dict[str, float]:
        return {rule: getattr(self._drivers, rule) for rule in RULES if hasattr(self._drivers, rule)}

    def _give(self, rules: dict[str, float]) -> None:
        for rule, value in rules.items():
            setattr(self._drivers, rule, value)


def drive_by_own_rules(env: gym.Env[Any, Any], options: EnvOptions) -> gym.Env[Any, Any]:
    """`env` as an `OwnRules`, its frames skipped."""
    return skip_frames(OwnRules(env) if "other_vehicles_type" in env.get_wrapper_attr("config") else env, options)
