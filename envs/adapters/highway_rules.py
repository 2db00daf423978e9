"""OwnRules: a road of highway-env whose other drivers keep to its own rules, whatever else was made in this process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gymnasium as gym

from stillsight.envs.options import EnvOptions
from stillsight.envs.suites.highway import FIRST_RULES, remember_rules, rules_of
from stillsight.envs.wrappers.rules import Step, skip_frames


class OwnRules(gym.Wrapper[Any, Any, Any, Any]):
    """Gives the class of drivers this road's rules for each of its resets and steps, and then takes them back.

    Without it merge-v1 is another game, with other rewards for the same seed, once an intersection was made in the same
    process, before it or after. A road is built before this stands around it, and may have written its rules by then;
    what held before is in `FIRST_RULES`.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        from highway_env.utils import class_from_path

        self._drivers: type = class_from_path(self.get_wrapper_attr("config")["other_vehicles_type"])
        remember_rules(self._drivers)
        self._own: dict[str, float] = {}
        self._take_back()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A new road, which may set rules of its own."""
        with self._given(FIRST_RULES[self._drivers]):
            return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> Step:
        """The road's step."""
        with self._given(self._own):
            return self.env.step(action)

    def snapshot(self) -> dict[str, Any]:
        """The rules that it has set."""
        return {"rules": dict(self._own)}

    def restore_snapshot(self, values: Mapping[str, Any]) -> None:
        """Keep to those."""
        self._own = {rule: float(values["rules"][rule]) for rule in self._own}

    @contextmanager
    def _given(self, rules: dict[str, float]) -> Iterator[None]:
        """The class of drivers with these rules, while it lasts."""
        self._write(rules)
        try:
            yield
        finally:
            self._take_back()

    def _take_back(self) -> None:
        """Keep the rules that this road has set, and leave the class as it was before any road."""
        self._own = rules_of(self._drivers)
        self._write(FIRST_RULES[self._drivers])

    def _write(self, rules: dict[str, float]) -> None:
        for rule, value in rules.items():
            setattr(self._drivers, rule, value)


def drive_by_own_rules(env: gym.Env[Any, Any], options: EnvOptions) -> gym.Env[Any, Any]:
    """`env` as an `OwnRules`, its frames skipped."""
    return skip_frames(OwnRules(env) if "other_vehicles_type" in env.get_wrapper_attr("config") else env, options)
