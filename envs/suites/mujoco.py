"""The MuJoCo suite: Gymnasium's own robots (Todorov et al. 2012), seen through rendered pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stillsight.envs.options import EnvOptions
from stillsight.envs.shifts.rows import MUJOCO_SCENES
from stillsight.envs.spec import EnvSpec, Preset
from stillsight.envs.suites.suite import EVERY, ROBOT_PPO, Suite

ROBOT = EnvSpec(id="", actions="continuous", extra="mujoco", needs=("mujoco",), options=EnvOptions(size=84))
"""Drawn at the size at which it is seen: a thirtieth of the pixels of Gymnasium's 480 x 480."""

SUMMARIES = {
    "InvertedPendulum-v5": "balance a pole on a cart",
    "Reacher-v5": "reach a target with an arm of two joints",
    "Swimmer-v5": "swim",
    "Hopper-v5": "hop on one leg",
    "Walker2d-v5": "walk on two legs",
    "HalfCheetah-v5": "run on two legs",
    "Ant-v5": "walk on four legs",
    "Pusher-v5": "push a cylinder with an arm",
    "Humanoid-v5": "walk like a man",
}
RANDOM: dict[str, float] = {
    "InvertedPendulum-v5": 5.35,
    "Reacher-v5": -42.9,
    "Swimmer-v5": 0.5317,
    "Hopper-v5": 18.43,
    "Walker2d-v5": 1.763,
    "HalfCheetah-v5": -285.0,
    "Ant-v5": -46.01,
    "Pusher-v5": -149.2,
    "Humanoid-v5": 110.5,
}


def arguments(_env_id: str, options: EnvOptions) -> dict[str, Any]:
    """Pictures drawn at the size at which they are seen, by the model's camera that follows the robot, unless the user
    names others.

    Where none is named Gymnasium 1.4 draws by a free camera that stays where it is (its pull request 1618): a robot
    that walks has left the picture after a dozen steps. A model without such a camera (a pendulum, an arm) is drawn by
    the free one all the same.
    """
    named = {name for name, _ in options.kwargs}
    camera = {} if named & {"camera_name", "camera_id"} else {"camera_name": "track"}
    return camera | ({"width": options.size, "height": options.size} if options.size else {})


SUITE = Suite(
    name="MuJoCo",
    noun="robot",
    place=5,
    default=replace(ROBOT, options=EnvOptions()),
    rows=tuple(
        replace(ROBOT, id=env_id, summary=f"MuJoCo: {summary}", random=RANDOM.get(env_id))
        for env_id, summary in SUMMARIES.items()
    ),
    presets={
        (EVERY, "ppo"): ROBOT_PPO,
        ("Swimmer-v5", "ppo"): Preset(
            settings={
                "n_steps": 1024,
                "batch_size": 256,
                "n_epochs": 10,
                "learning_rate": 6e-4,
                "clip_range": 0.2,
                "ent_coef": 0.0,
                "gamma": 0.9999,
                "gae_lambda": 0.98,
            },
            n_envs=4,
            source="rl-baselines3-zoo's preset of Swimmer-v4, tuned on the state; without its normalised rewards",
        ),
        (EVERY, "sac"): Preset(
            settings={"learning_starts": 10_000}, source="rl-baselines3-zoo's preset, made for a million steps"
        ),
        ("Swimmer-v5", "sac"): Preset(
            settings={"learning_starts": 10_000, "gamma": 0.9999},
            source="rl-baselines3-zoo's preset of Swimmer-v3, made for a million steps",
        ),
    },
    entry_point="gymnasium.envs.mujoco",
    draws="mujoco",
    arguments=arguments,
    harmless={"width": int, "height": int, "camera_name": r"[\w-]{1,64}"},
    state="stillsight.envs.adapters.mujoco_state:MujocoState",
    shifts=MUJOCO_SCENES,
)
