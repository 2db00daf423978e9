"""The DeepMind Control Suite (Tassa et al. 2018): dm_control's tasks from pixels, `dm_control/cartpole-swingup-v0`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stillsight.envs.errors import EnvError
from stillsight.envs.options import OFF, RENDERING, SMALLEST_IMAGE, EnvOptions
from stillsight.envs.shifts.rows import MUJOCO_SCENES
from stillsight.envs.spec import EnvSpec, Preset, Score
from stillsight.envs.suites.suite import EVERY, ROBOT_PPO, Suite

OPTIONS = EnvOptions(size=84, frame_skip=2)
"""84 x 84 pixels and two control steps an action, as CURL, DrQ-v2 and DreamerV3 have it: 500 actions an episode."""

PIXELS = "pixels"
"""Key of what an only camera shows, which nobody named."""

TASK = EnvSpec(id="", actions="continuous", extra="dmc", needs=("dm_control",), options=OPTIONS)

TASKS = {
    "acrobot": ("swingup", "swingup_sparse"),
    "ball_in_cup": ("catch",),
    "cartpole": ("balance", "balance_sparse", "swingup", "swingup_sparse", "two_poles", "three_poles"),
    "cheetah": ("run",),
    "dog": ("stand", "walk", "trot", "run", "fetch"),
    "finger": ("spin", "turn_easy", "turn_hard"),
    "fish": ("upright", "swim"),
    "hopper": ("stand", "hop"),
    "humanoid": ("stand", "walk", "run", "run_pure_state"),
    "humanoid_CMU": ("stand", "walk", "run"),
    "lqr": ("lqr_2_1", "lqr_6_2"),
    "manipulator": ("bring_ball", "bring_peg", "insert_ball", "insert_peg"),
    "pendulum": ("swingup",),
    "point_mass": ("easy", "hard"),
    "quadruped": ("walk", "run", "escape", "fetch"),
    "reacher": ("easy", "hard"),
    "stacker": ("stack_2", "stack_4"),
    "swimmer": ("swimmer6", "swimmer15"),
    "walker": ("stand", "walk", "run"),
}
"""Domains and tasks of dm_control 1.0.50, so that ids are known without its import, which takes seconds."""

SUMMARIES = {
    "cartpole-swingup": "swing a pole up and balance it",
    "cartpole-balance": "balance a pole",
    "reacher-easy": "reach a target with an arm of two joints",
    "finger-spin": "spin a body with a finger",
    "ball_in_cup-catch": "catch a ball on a string in a cup",
    "walker-walk": "walk on two legs",
    "cheetah-run": "run on two legs",
    "hopper-hop": "hop on one leg",
    "pendulum-swingup": "swing a pendulum up; rewards are sparse",
    "quadruped-walk": "walk on four legs",
}

DREAMER = "danijar/dreamerv3 at e3f0224, scores/, from pixels"
PUBLISHED = {
    # PPO (5 seeds), SAC (10), CURL (10), DrQ-v2 (8-10), DreamerV3 (10)
    "cartpole-swingup": (219, 695, 808, 838, 844),
    "walker-walk": (49, 43, 784, 714, 942),
    "reacher-easy": (371, 82, 581, 723, 850),
    "finger-spin": (15, 355, 882, 782, 573),
    "cheetah-run": (45, 71, 447, 597, 662),
    "cartpole-balance": (454, 987, 993, 989, 994),
}
RANDOM: dict[str, float] = {
    "cartpole-swingup": 46.29,
    "cartpole-balance": 322.2,
    "reacher-easy": 48.7,
    "finger-spin": 0.52,
    "ball_in_cup-catch": 31.25,
    "walker-walk": 39.83,
    "cheetah-run": 6.855,
    "hopper-hop": 0.03482,
    "quadruped-walk": 109.9,
    "pendulum-swingup": 0.0,
}


def published(task: str) -> tuple[Score, ...]:
    """What others reached from pixels in half a million steps."""
    learners = ("PPO", "SAC", "CURL", "DrQ-v2", "DreamerV3")
    values = PUBLISHED.get(task, ())
    return tuple(
        Score(value=value, who=f"{who}, 500k environment steps", source=DREAMER)
        for who, value in zip(learners, values, strict=False)
    )


def register() -> None:
    """Registers every task, without importing dm_control."""
    import gymnasium as gym

    for domain, tasks in TASKS.items():
        for task in tasks:
            if (env_id := f"dm_control/{domain}-{task}-v0") not in gym.registry:
                gym.register(
                    env_id,
                    "stillsight.envs.adapters.dm_control_env:DmControl",
                    kwargs={"domain": domain, "task": task},
                )


def arguments(env_id: str, options: EnvOptions) -> dict[str, Any]:
    """Pictures drawn at the size at which they are seen, and at least as large as counts as an image, of the frames
    that are seen, by the cameras that are named.

    Raises:
        EnvError: dm_control is beside a MuJoCo with which it cannot work.
    """
    from importlib.metadata import version

    found = version("mujoco")
    if int(found.partition(".")[0]) >= 4:
        raise EnvError(
            f'{env_id} is played by dm_control, which does not work with MuJoCo {found}. Type: pip install "mujoco<4"'
        )
    return {
        "frame_skip": options.frame_skip,
        "time_limit": not options.max_episode_steps,
        **({"size": max(options.size, SMALLEST_IMAGE)} if options.size else {}),
        **cameras(options),
    }


def cameras(options: EnvOptions) -> dict[str, Any]:
    """The cameras that --pixels names, unless --env-set camera does; no pictures where none is seen."""
    named = [key for key in options.pixels if key not in (OFF, RENDERING, PIXELS)]
    if options.pixels and not named and PIXELS not in options.pixels:
        return {"pictures": False}
    return {"camera": ",".join(named), "named": True} if named and "camera" not in dict(options.kwargs) else {}


DRQ = {
    "learning_rate": 1e-3,
    "batch_size": 128,
    "tau": 0.01,
    "ent_coef": "auto_0.1",
    "train_freq": 1,
    "learning_starts": 1_000,
}
"""SAC's settings in `config.yaml` of DrQ's code; SAC-AE and CURL have the rate and the first temperature too."""

DRQ_V2 = {
    "n_steps": 3,
    "learning_rate": 1e-4,
    "batch_size": 256,
    "tau": 0.01,
    "gamma": 0.99,
    "train_freq": 2,
    "learning_starts": 2_000,
    "action_noise": 0.2,
    "target_noise_clip": 0.3,
    "policy_delay": 1,
}
DRQ_V2_CHANGES: dict[str, tuple[dict[str, float], str]] = {
    "walker": ({"n_steps": 1, "batch_size": 512}, "; for walker n-step 1 and batches of 512, as it has them there"),
    "humanoid": ({"learning_rate": 8e-5}, "; for humanoid a rate of 8e-5, as it has it there"),
}
"""Domains in which DrQ-v2 learns otherwise: what it changes, and the words."""


def presets() -> dict[tuple[str, str], Preset]:
    """DrQ's settings of SAC and DrQ-v2's of TD3, whose domains may have others; PPO's of robots."""
    drq = Preset(
        settings=DRQ,
        frame_stack=3,
        source="DrQ's (Kostrikov et al. 2021) as its code has them: three frames, rate 1e-3, temperature from 0.1, tau "
        "0.01, batches of 128; actor and target learn in every update, and in its code in every second",
    )

    def drq_v2(changes: Mapping[str, float], words: str) -> Preset:
        return Preset(
            settings={**DRQ_V2, **changes},
            frame_stack=3,
            source="DrQ-v2's (Yarats et al. 2021): three frames, action repeat 2, n-step 3, updates every 2 steps, "
            f"2,000 at random{words}; noise of 0.2 throughout, where its own falls from 1 to 0.1, and 100,000 stored "
            "transitions",
        )

    known = {(EVERY, "ppo"): ROBOT_PPO, (EVERY, "td3"): drq_v2({}, ""), (EVERY, "sac"): drq, (EVERY, "tqc"): drq}
    for domain, (changes, words) in DRQ_V2_CHANGES.items():
        known |= {(f"dm_control/{domain}-{task}-v0", "td3"): drq_v2(changes, words) for task in TASKS[domain]}
    return known


SUITE = Suite(
    name="DeepMind Control",
    noun="task",
    place=6,
    default=TASK,
    rows=tuple(
        replace(
            TASK,
            id=f"dm_control/{task}-v0",
            summary=f"DeepMind Control: {summary}",
            random=RANDOM.get(task),
            published=published(task),
        )
        for task, summary in SUMMARIES.items()
    ),
    presets=presets(),
    prefix="dm_control/",
    entry_point="stillsight.envs.adapters.dm_control_env",
    register=register,
    draws="mujoco",
    shifts=MUJOCO_SCENES,
    reserved={
        "size": "use the size (--size)",
        "frame_skip": "use the frame skip (--frame-skip)",
        "time_limit": "use --max-episode-steps",
        "pictures": "use --pixels off",
        "named": "use --pixels and the names of cameras",
        "domain": "another task is another id, say --env dm_control/walker-walk-v0",
        "task": "another task is another id, say --env dm_control/walker-walk-v0",
    },
    harmless={"camera": r"[\w, -]{1,200}"},
    arguments=arguments,
    wrapping="stillsight.envs.wrappers.rules:as_it_is",
)
