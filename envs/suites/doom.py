"""The ViZDoom suite (Kempka et al. 2016; Wydmuch et al. 2018): scenarios and levels of Doom."""

from __future__ import annotations

import inspect
import os
from dataclasses import replace
from typing import Any

from stillsight.envs.errors import EnvError
from stillsight.envs.options import EnvOptions
from stillsight.envs.spec import EnvSpec
from stillsight.envs.suites.suite import Suite

OPTIONS = EnvOptions(size=64, frame_skip=4, kwargs=(("screen_resolution", "RES_160X120"),))
"""Defaults of every scenario: 4 frames an action, the usual choice (Kempka et al. 2016 compare others), drawn at 160 x
120, its smallest screen, which takes a third of the time of the scenarios' own 320 x 240."""

SCENARIO = EnvSpec(id="", extra="vizdoom", needs=("vizdoom",), options=OPTIONS)

SUMMARIES = {
    "Basic": "ViZDoom: line up with a monster and shoot it",
    "HealthGathering": "ViZDoom: find medikits on a floor of acid, returns up to 2100",
    "HealthGatheringSupreme": "ViZDoom: the same in a maze with poison",
    "DefendCenter": "ViZDoom: turn about and shoot what closes in",
    "DefendLine": "ViZDoom: shoot what comes from the other side",
    "TakeCover": "ViZDoom: step out of the way of fireballs",
    "MyWayHome": "ViZDoom: find a vest in a maze of rooms",
    "PredictPosition": "ViZDoom: hit a moving monster with one slow rocket",
    "DeadlyCorridor": "ViZDoom: run past shooting monsters to a vest",
}
RANDOM: dict[str, float] = {
    "Basic": -192.1,
    "HealthGathering": 407.8,
    "HealthGatheringSupreme": 310.8,
    "DefendCenter": 0.19,
    "DefendLine": 7.54,
    "TakeCover": 279.7,
    "MyWayHome": -0.1314,
    "PredictPosition": 0.03806,
    "DeadlyCorridor": -86.03,
}


def register() -> None:
    """Registers every scenario and level that came with vizdoom."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # vizdoom imports pygame, which greets
    import vizdoom.gymnasium_wrapper  # noqa: F401


def arguments(env_id: str, options: EnvOptions) -> dict[str, Any]:
    """What `gymnasium.make` is given for a scenario beside `options.kwargs`.

    Raises `EnvError` for keys that vizdoom would pass over with a line in its log.
    """
    import vizdoom
    from vizdoom.gymnasium_wrapper.gymnasium_env_defns import VizdoomScenarioEnv

    for name, value in options.kwargs:
        taken = name in inspect.signature(VizdoomScenarioEnv.__init__).parameters
        if not (taken or hasattr(vizdoom.DoomGame, f"set_{name}")):
            raise EnvError(
                f"{env_id} has no setting {name!r}. Settings are the keys of vizdoom's configuration files, for "
                "example: --env-set screen_resolution=RES_320X240 or --env-set doom_skill=5"
            )
        if name == "screen_resolution" and not hasattr(vizdoom.ScreenResolution, str(value)):
            raise EnvError(
                f"{env_id} has no screen_resolution {value!r}; it is written RES_WIDTHXHEIGHT. "
                "Type --env-set screen_resolution=RES_160X120 or RES_320X240."
            )
    made: dict[str, Any] = {
        # vizdoom skips frames without drawing them, which takes a third of the time of stepping through them.
        "frame_skip": options.frame_skip,
        # It would read and write _vizdoom.ini in the current folder: settings from nowhere, and a race of workers.
        "doom_config_path": os.devnull,
    }
    if options.max_episode_steps:
        made["episode_timeout"] = 0  # ours takes the place of the scenario's own clock
    return made


SUITE = Suite(
    name="ViZDoom",
    noun="scenario",
    place=2,
    default=SCENARIO,  # its actions are unknown: ids without a row may take several buttons at once
    rows=tuple(
        replace(SCENARIO, id=f"Vizdoom{scenario}-v1", summary=summary, actions="discrete", random=RANDOM.get(scenario))
        for scenario, summary in SUMMARIES.items()
    ),
    prefix="Vizdoom",
    entry_point="vizdoom",
    register=register,
    reserved={"frame_skip": "use --frame-skip"},
    harmless={
        # Others of vizdoom's keys name files, or hand words to its program (doom_game_path, game_args ...).
        "screen_resolution": r"RES_\d+X\d+",
        "doom_skill": int,
        "max_buttons_pressed": int,
        "use_multi_binary_action_space": bool,
        "treat_episode_timeout_as_truncation": bool,
        "render_hud": bool,
        "render_crosshair": bool,
        "render_weapon": bool,
        "render_decals": bool,
        "render_particles": bool,
        "living_reward": float,
        "death_penalty": float,
        "episode_timeout": int,
    },
    arguments=arguments,
    wrapping="stillsight.envs.adapters.doom_wrapper:play_by_the_rules",
)
