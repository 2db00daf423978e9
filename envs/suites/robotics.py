"""The Gymnasium-Robotics suite (Plappert et al. 2018; de Lazcano et al. 2023): arms, hands, mazes and a kitchen."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from stillsight.envs.options import EnvOptions
from stillsight.envs.shifts.rows import MUJOCO_SCENES
from stillsight.envs.spec import EnvSpec, Preset
from stillsight.envs.suites.suite import EVERY, ROBOT_PPO, Suite

ROBOT = EnvSpec(
    id="",
    actions="continuous",
    extra="robotics",
    needs=("gymnasium_robotics",),
    options=EnvOptions(size=84),
)

SUMMARIES = {
    "FetchReach-v4": "an arm reaches a point; -1 a step until then",
    "FetchReachDense-v4": "the same, the distance being the reward",
    "FetchPush-v4": "an arm pushes a block to a point",
    "FetchPickAndPlace-v4": "an arm lifts a block to a point",
    "HandReachDense-v3": "a hand of 24 joints reaches with its fingers",
    "AdroitHandDoor-v1": "a hand opens a door",
    "PointMaze_UMaze-v3": "a ball finds through a maze",
    "FrankaKitchen-v1": "an arm does chores in a kitchen",
}
RANDOM: dict[str, float] = {
    "FetchReach-v4": -49.69,
    "FetchReachDense-v4": -10.56,
    "FetchPush-v4": -46.1,
    "FetchPickAndPlace-v4": -47.5,
    "HandReachDense-v3": -6.335,
    "AdroitHandDoor-v1": -45.68,
    "PointMaze_UMaze-v3": 10.5,
    "FrankaKitchen-v1": 0.03,
}


def register() -> None:
    """Registers every robot."""
    import contextlib
    import io

    import gymnasium as gym

    with contextlib.redirect_stderr(io.StringIO()):  # a warning about three ids at each import, whatever is asked for
        import gymnasium_robotics

    gym.register_envs(gymnasium_robotics)
    compare_as_numbers()


class Numbers:
    """A module whose `mjtJoint` has plain numbers, and which is otherwise as it is."""

    def __init__(self, module: Any) -> None:
        joints = ("mjJNT_FREE", "mjJNT_BALL", "mjJNT_SLIDE", "mjJNT_HINGE")
        self._module = module
        self.mjtJoint = SimpleNamespace(**{name: int(getattr(module.mjtJoint, name)) for name in joints})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def compare_as_numbers() -> None:
    """Let gymnasium_robotics (1.4) find the kinds of joints in newer MuJoCos.

    It asks whether a numpy number is in a tuple of MuJoCo's enumeration, which was so up to MuJoCo 3.3 and is not in
    3.17: arms, hands and the kitchen then stop at an assertion.
    """
    from gymnasium_robotics.utils import mujoco_utils

    if not isinstance(mujoco_utils.mujoco, Numbers):
        mujoco_utils.mujoco = Numbers(mujoco_utils.mujoco)


def arguments(_env_id: str, options: EnvOptions) -> dict[str, Any]:
    """Pictures drawn at the size at which they are seen."""
    return {"width": options.size, "height": options.size} if options.size else {}


SUITE = Suite(
    name="Gymnasium-Robotics",
    noun="robot",
    place=10,
    default=ROBOT,
    rows=tuple(
        replace(ROBOT, id=env_id, summary=f"Robotics: {summary}", random=RANDOM.get(env_id))
        for env_id, summary in SUMMARIES.items()
    ),
    presets={(EVERY, "ppo"): ROBOT_PPO}
    | {
        (env_id, "sac"): Preset(
            settings={"learning_rate": 1e-3, "batch_size": 256, "gamma": 0.95, "learning_starts": 1_000},
            frame_stack=1,
            source="rl-baselines3-zoo's preset of FetchReach-v1, tuned on the state with goals in hindsight (HER), "
            "which are not here",
        )
        for env_id in ("FetchReach-v4", "FetchReachDense-v4")
    },
    prefix=("Fetch", "HandReach", "HandManipulate", "AdroitHand", "PointMaze", "AntMaze", "FrankaKitchen"),
    entry_point="gymnasium_robotics",
    register=register,
    draws="mujoco",
    shifts=MUJOCO_SCENES,
    reserved={"width": "use the size (--size)", "height": "use the size (--size)"},
    harmless={
        "reward_type": "sparse|dense",
        "continuing_task": bool,
        "reset_target": bool,
        "camera_name": r"[\w-]{1,64}",
    },
    arguments=arguments,
)
