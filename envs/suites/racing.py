"""The racing suite: Gymnasium's CarRacing, drawn by car_racing.py."""

from __future__ import annotations

from dataclasses import replace

from stillsight.envs.options import EnvOptions
from stillsight.envs.shifts.rows import DOMAIN_SCENES
from stillsight.envs.spec import EnvSpec
from stillsight.envs.suites.suite import Suite

RACE = EnvSpec(id="", actions="continuous", extra="box2d", needs=("Box2D", "pygame"))

SUITE = Suite(
    name="CarRacing",
    noun="race",
    # An id of somebody's own may set `continuous=False`, and whoever registered it chose no size.
    default=replace(RACE, actions="unknown"),
    rows=(
        replace(
            RACE,
            id="CarRacing-v3",
            summary="drive a random track seen from above; steering, gas, brake",
            # Native 96 x 96; a skip of 2 is rl-baselines3-zoo's recipe for PPO and SAC on this environment.
            options=EnvOptions(size=0, frame_skip=2),
        ),
    ),
    harmless={"continuous": bool, "lap_complete_percent": float, "domain_randomize": bool},
    entry_point="gymnasium.envs.box2d.car_racing:CarRacing",
    replacement="stillsight.envs.suites.car_racing:Racing",
    wrapping="stillsight.envs.suites.car_racing:draw_what_is_seen",
    shifts=DOMAIN_SCENES,
)
