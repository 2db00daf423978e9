"""The classic control suite: environments of Gymnasium that observe a state vector, seen through rendered pixels."""

from __future__ import annotations

from dataclasses import replace

from stillsight.envs.spec import EnvSpec
from stillsight.envs.suites.suite import Suite

TASK = EnvSpec(id="", extra="box2d", needs=("pygame",))  # the extra brings pygame, which draws them

SUITE = Suite(
    name="classic control",
    noun="task",
    default=TASK,
    rows=(
        replace(TASK, id="CartPole-v1", summary="balance a pole, seen through rendered pixels", actions="discrete"),
        replace(TASK, id="Pendulum-v1", summary="swing a pole up, seen through rendered pixels", actions="continuous"),
    ),
)
