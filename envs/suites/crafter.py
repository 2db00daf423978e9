"""The Crafter suite (Hafner 2022): a world to survive in, with 22 achievements."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stillsight.envs.options import SMALLEST_IMAGE, EnvOptions
from stillsight.envs.spec import EnvSpec, Preset
from stillsight.envs.suites.suite import EVERY, Suite

WORLD = EnvSpec(id="", actions="discrete", extra="crafter", needs=("crafter",), options=EnvOptions(size=64))
RANDOM: dict[str, float] = {
    "CrafterReward-v1": 1.31,
    "CrafterNoReward-v1": 0.0,
}


def register() -> None:
    """Registers both worlds, which crafter itself registers with the old gym alone."""
    import gymnasium as gym

    for env_id, reward in (("CrafterReward-v1", True), ("CrafterNoReward-v1", False)):
        if env_id not in gym.registry:
            gym.register(env_id, "stillsight.envs.adapters.crafter_env:Crafter", kwargs={"reward": reward})


def arguments(_env_id: str, options: EnvOptions) -> dict[str, Any]:
    """Pictures drawn at the size at which they are seen, and at least as large as counts as an image; crafter's own
    clock unless there is another."""
    return {
        **({"size": max(options.size, SMALLEST_IMAGE)} if options.size else {}),
        **({"length": 0} if options.max_episode_steps else {}),
    }


SUITE = Suite(
    name="Crafter",
    noun="world",
    place=9,
    default=WORLD,
    rows=(
        replace(
            WORLD,
            id="CrafterReward-v1",
            summary="Crafter: gather, build, eat, sleep and fight; a reward for each first time",
            random=RANDOM.get("CrafterReward-v1"),
        ),
        replace(
            WORLD,
            id="CrafterNoReward-v1",
            summary="Crafter: the same without rewards, to explore",
            random=RANDOM.get("CrafterNoReward-v1"),
        ),
    ),
    presets={
        (EVERY, "ppo"): Preset(frame_stack=1, source="one frame, as in Hafner 2022; the rest is ppo's own preset")
    },
    prefix="Crafter",
    entry_point="stillsight.envs.adapters.crafter_env",
    register=register,
    reserved={
        "size": "use the size (--size)",
        "reward": "CrafterNoReward-v1 is the world without",
        "length": "use --max-episode-steps",
    },
    arguments=arguments,
)
