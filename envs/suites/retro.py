"""The stable-retro suite (Nichol et al. 2018; Poliquin 2024): games of consoles, `retro/Airstriker-Genesis-v0`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stillsight.envs.errors import EnvError
from stillsight.envs.options import EnvOptions
from stillsight.envs.spec import EnvSpec
from stillsight.envs.suites.suite import Suite

OPTIONS = EnvOptions(size=84, frame_skip=4)

GAME = EnvSpec(id="", extra="retro", needs=("stable_retro",), options=OPTIONS)

ACTIONS = ("filtered", "discrete", "multi-discrete", "all")

RANDOM: dict[str, float] = {
    "retro/Airstriker-Genesis-v0": 84.2,
}


def register() -> None:
    """Registers every game that stable-retro knows, with or without its ROM."""
    import gymnasium as gym
    import stable_retro

    for game in stable_retro.data.list_games():
        if (env_id := f"retro/{game}") not in gym.registry:
            gym.register(env_id, "stillsight.envs.adapters.retro_env:Retro", kwargs={"game": game})


def arguments(env_id: str, options: EnvOptions) -> dict[str, Any]:
    """Nothing of its own.

    Raises `EnvError` for a game whose ROM is not here, and for actions of a kind that there is not.
    """
    import gymnasium as gym
    import stable_retro

    game = gym.registry[env_id.rpartition(":")[2]].kwargs["game"]
    try:
        stable_retro.data.get_romfile_path(game)
    except FileNotFoundError as error:
        raise EnvError(
            f"{env_id} needs the ROM of {game}, which does not come with stable-retro. Where you own it, type: "
            "python -m stable_retro.import FOLDER. Here without that: --env retro/Airstriker-Genesis-v0"
        ) from error
    if (asked := dict(options.kwargs).get("actions", ACTIONS[0])) not in ACTIONS:
        raise EnvError(
            f"{env_id} has no actions={asked!r}; it takes {', '.join(ACTIONS)}. Type --env-set actions=discrete."
        )
    return {}


SUITE = Suite(
    name="stable-retro",
    noun="game",
    place=12,
    default=GAME,
    rows=(
        replace(
            GAME,
            id="retro/Airstriker-Genesis-v0",
            summary="stable-retro: a shooter whose ROM is free; other games need yours",
            actions="multi-binary",
            random=RANDOM.get("retro/Airstriker-Genesis-v0"),
        ),
    ),
    prefix="retro/",
    entry_point="stillsight.envs.adapters.retro_env",
    register=register,
    one_a_process=True,
    reserved={"game": "another game is another id, see stillsight list envs stable-retro"},
    harmless={"actions": "filtered|discrete|multi-discrete|all", "state": r"\w[\w.-]{0,63}"},
    arguments=arguments,
)
