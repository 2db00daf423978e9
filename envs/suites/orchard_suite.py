"""The Orchard suite: the project's own environment, which lives in envs/orchard/."""

from __future__ import annotations

from dataclasses import replace

from stillsight.envs.options import EnvOptions
from stillsight.envs.spec import EnvSpec, Preset
from stillsight.envs.suites.suite import Suite

ORCHARD = EnvSpec(id="", options=EnvOptions(size=0))  # 48 x 48 by birth
RANDOM: dict[str, float] = {
    "stillsight/Orchard-v0": 0.43,
    "stillsight/OrchardContinuous-v0": 0.54,
}

ROWS = (
    replace(
        ORCHARD,
        id="stillsight/Orchard-v0",
        summary="catch fruit, dodge stones and wasps; needs no extra, best return exactly 6",
        actions="discrete",
        random=RANDOM.get("stillsight/Orchard-v0"),
    ),
    replace(
        ORCHARD,
        id="stillsight/OrchardContinuous-v0",
        summary="the same orchard with a continuous velocity",
        actions="continuous",
        random=RANDOM.get("stillsight/OrchardContinuous-v0"),
    ),
)


SETTINGS = {
    "learning_rate": "lin_1e-3",
    "n_epochs": 6,
    "clip_range": 0.2,
    # An object falls within 9 steps: what comes later owes nothing to an action.
    "gamma": 0.95,
    "gae_lambda": 0.9,
    "ent_coef": 0.003,
}


def register() -> None:
    """Registers both ids with Gymnasium, once."""
    import gymnasium as gym

    for row in ROWS:
        if row.id not in gym.registry:
            gym.register(
                row.id,
                "stillsight.envs.orchard.orchard:Orchard",
                reward_threshold=5.0,
                kwargs={"continuous": row.actions == "continuous"},
            )


SUITE = Suite(
    name="Orchard",
    noun="game",
    place=0,
    default=ORCHARD,
    rows=ROWS,
    presets={
        ("stillsight/Orchard-v0", "ppo"): Preset(
            settings=SETTINGS,
            frame_stack=1,  # nothing in the scene has a velocity that one frame does not show
            source="tried here, for about 100,000 steps",
        ),
        ("stillsight/OrchardContinuous-v0", "ppo"): Preset(
            settings=SETTINGS, frame_stack=1, source="that of Orchard-v0"
        ),
    },
    prefix="stillsight/",
    entry_point="stillsight.envs.orchard",
    register=register,
    harmless={"continuous": bool},
)
