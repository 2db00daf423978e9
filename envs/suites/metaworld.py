"""The Meta-World suite (Yu et al. 2019; McLean et al. 2025): an arm and fifty things to do, `metaworld/reach-v3`."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from stillsight.envs.options import EnvOptions
from stillsight.envs.shifts.rows import MUJOCO_SCENES
from stillsight.envs.spec import EnvSpec
from stillsight.envs.suites.suite import EVERY, ROBOT_PPO, Suite

TASK = EnvSpec(
    id="", actions="continuous", extra="metaworld", needs=("metaworld",), options=EnvOptions(size=84, frame_skip=2)
)
"""An extra of its own: metaworld 3 asks for a MuJoCo that dm_control does not take."""

SUMMARIES = {
    "reach-v3": "reach a point",
    "push-v3": "push a puck to a point",
    "drawer-open-v3": "open a drawer",
    "button-press-topdown-v3": "press a button from above",
    "window-open-v3": "open a window",
}
RANDOM: dict[str, float] = {
    "reach-v3": 813.0,
    "push-v3": 23.05,
    "drawer-open-v3": 594.1,
    "button-press-topdown-v3": 222.7,
    "window-open-v3": 226.6,
}


def register() -> None:
    """Registers every task under an id of its own."""
    import gymnasium as gym
    import metaworld

    for task in metaworld.ALL_V3_ENVIRONMENTS:
        if (env_id := f"metaworld/{task}") not in gym.registry:
            gym.register(
                env_id,
                "stillsight.envs.suites.metaworld:make_task",
                kwargs={"task": task},
                disable_env_checker=True,  # it warns in every step: numbers leave the bounds that the space gives
            )


def make_task(
    task: str, *, seed: int = 0, camera: str = "corner2", size: int = 84, render_mode: str = "rgb_array"
) -> Any:
    """Meta-World's own environment of one task (MT1), seen by one of its cameras.

    `seed` decides which fifty places of things it draws from, as in Meta-World; `reset` draws among them.
    """
    import gymnasium as gym
    import metaworld  # noqa: F401 - it registers what is made

    return gym.make(
        "Meta-World/MT1",
        env_name=task,
        seed=seed,
        camera_name=camera,
        width=size,
        height=size,
        render_mode=render_mode,
        disable_env_checker=True,
    )


def arguments(_env_id: str, options: EnvOptions) -> dict[str, Any]:
    """Pictures drawn at the size at which they are seen."""
    return {"size": options.size} if options.size else {}


def play_on(_env_id: str, arm: Any, _steps: int) -> None:
    """Stop the clock of an arm, on which nothing else depends."""
    arm.max_path_length = math.inf


SUITE = Suite(
    name="Meta-World",
    noun="task",
    place=13,
    default=TASK,
    rows=tuple(
        replace(TASK, id=f"metaworld/{task}", summary=f"Meta-World: {summary}", random=RANDOM.get(task))
        for task, summary in SUMMARIES.items()
    ),
    presets={(EVERY, "ppo"): ROBOT_PPO},
    prefix="metaworld/",
    entry_point="stillsight.envs.suites.metaworld",
    register=register,
    draws="mujoco",
    shifts=MUJOCO_SCENES,
    wrapping="stillsight.envs.adapters.metaworld_task:draw_seeded",
    reserved={"size": "use the size (--size)", "task": "another task is another id, say --env metaworld/push-v3"},
    harmless={"camera": r"[\w-]{1,64}", "seed": int},
    arguments=arguments,
    clock=play_on,
)
