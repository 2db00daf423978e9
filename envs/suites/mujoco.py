"""The MuJoCo suite: Gymnasium's own robots, which take any id's defaults and can be saved in mid-episode."""

from __future__ import annotations

from stillsight.envs.shifts.rows import MUJOCO_SCENES
from stillsight.envs.spec import EnvSpec
from stillsight.envs.suites.suite import Suite

SUITE = Suite(
    name="MuJoCo",
    noun="robot",
    default=EnvSpec(id=""),
    entry_point="gymnasium.envs.mujoco",
    state="stillsight.envs.suites.mujoco_state:MujocoState",
    shifts=MUJOCO_SCENES,
)
