"""The classic control suite: environments of Gymnasium that observe a state vector, seen through rendered pixels."""

from __future__ import annotations

from dataclasses import replace

from stillsight.envs.options import EnvOptions
from stillsight.envs.spec import EnvSpec
from stillsight.envs.suites.suite import Suite

# The extra brings pygame, which draws them for people, at 400 x 600 and 500 x 500: a fifth of that shows all there is.
TASK = EnvSpec(id="", extra="box2d", needs=("pygame",), options=EnvOptions(size=84))

SUITE = Suite(
    name="classic control",
    noun="task",
    default=TASK,
    rows=(
        replace(TASK, id="CartPole-v1", summary="balance a pole, seen through rendered pixels", actions="discrete"),
        replace(TASK, id="Pendulum-v1", summary="swing a pole up, seen through rendered pixels", actions="continuous"),
    ),
    harmless={"sutton_barto_reward": bool, "g": float},
)
