"""--native: who steps the environments that learn; those that are evaluated are stepped one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stillsight.agents import RlConfig
from stillsight.agents.training import build as module
from stillsight.encoders.building import build


@pytest.mark.parametrize(
    ("native", "workers", "training", "asked", "tried"),
    [
        ("auto", "auto", True, (None, 0), [None]),
        ("off", "auto", True, (False, 0), [False]),
        ("gymnasium", "auto", True, ("gymnasium", 0), []),
        ("auto", "on", True, (None, 3), []),
        ("gymnasium", "auto", False, (None, 0), []),
    ],
)
def test_what_is_typed_reaches_the_environments_that_learn(
    tiny: Callable[..., RlConfig],
    monkeypatch: pytest.MonkeyPatch,
    native: str,
    workers: Any,
    training: bool,
    asked: tuple[Any, int],
    tried: list[Any],
) -> None:
    class Made(Exception):  # noqa: N818 - ends the making where the environments were asked for
        pass

    trials: list[Any] = []

    def make_vec(*_: Any, **arguments: Any) -> None:
        raise Made(arguments["native"], arguments["workers"])

    def workers_pay(*_: Any, **arguments: Any) -> bool:
        trials.append(arguments["native"])
        return False

    monkeypatch.setattr(module, "make_vec", make_vec)
    monkeypatch.setattr(module, "workers_pay", workers_pay)
    config = tiny(native=native, workers=workers).resolved()
    with pytest.raises(Made) as made:
        module.make_venv(config, build(config), n_envs=3, training=training, seed=0)
    assert made.value.args == asked
    assert trials == tried
