"""The racing suite: Gymnasium's CarRacing, drawn by adapters/car_racing.py."""

from __future__ import annotations

from dataclasses import replace

from stillsight.envs.options import EnvOptions
from stillsight.envs.shifts.rows import DOMAIN_SCENES
from stillsight.envs.spec import EnvSpec, Preset, Score
from stillsight.envs.suites.suite import Suite

RACE = EnvSpec(id="", actions="continuous", extra="box2d", needs=("Box2D", "pygame"))
RANDOM: dict[str, float] = {
    "CarRacing-v3": -26.86,
}

SUITE = Suite(
    name="CarRacing",
    noun="race",
    place=3,
    # An id of somebody's own may set `continuous=False`, and whoever registered it chose no size.
    default=replace(RACE, actions="unknown"),
    rows=(
        replace(
            RACE,
            id="CarRacing-v3",
            summary="drive a random track seen from above; steering, gas, brake",
            # Native 96 x 96; a skip of 2 is rl-baselines3-zoo's recipe for PPO and SAC on this environment.
            options=EnvOptions(size=0, frame_skip=2),
            random=RANDOM.get("CarRacing-v3"),
            published=(
                Score(value=429, who="PPO, 4M, greedy", source="Gymnasium's pull request 1646, rl-zoo's recipe"),
                Score(value=157, who="PPO, 200k", source="the same"),
                Score(value=862.5, who="RecurrentPPO on CarRacing-v0, 4M", source="rl-baselines3-zoo's benchmark.md"),
            ),
        ),
    ),
    presets={
        ("CarRacing-v3", "ppo"): Preset(
            settings={
                "n_steps": 512,
                "batch_size": 128,
                "n_epochs": 10,
                "learning_rate": "lin_1e-4",
                "clip_range": 0.2,
                "ent_coef": 0.0,
            },
            frame_stack=2,
            n_envs=8,
            source="rl-baselines3-zoo's preset, made for 4 million steps; without its gSDE and normalised rewards",
        ),
        ("CarRacing-v3", "sac"): Preset(
            settings={
                "learning_rate": 7.3e-4,
                "batch_size": 256,
                "tau": 0.02,
                "train_freq": 8,
                "gradient_steps": 10,
                "learning_starts": 1_000,
            },
            frame_stack=2,
            n_envs=2,
            source="rl-baselines3-zoo's preset, made for a million steps and an autoencoder's features; without its "
            "gSDE and normalisation, and with 100,000 stored transitions where it has 300,000",
        ),
    },
    harmless={"continuous": bool, "lap_complete_percent": float, "domain_randomize": bool},
    entry_point="gymnasium.envs.box2d.car_racing:CarRacing",
    replacement="stillsight.envs.adapters.car_racing:Racing",
    wrapping="stillsight.envs.adapters.car_racing:draw_what_is_seen",
    shifts=DOMAIN_SCENES,
)
