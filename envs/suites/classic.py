"""The classic control suite: environments of Gymnasium that observe a state vector, seen through rendered pixels."""

from __future__ import annotations

from dataclasses import replace

from stillsight.envs.options import EnvOptions
from stillsight.envs.spec import EnvSpec, Preset, Score
from stillsight.envs.suites.suite import Suite

# The extra brings pygame, which draws them for people, at 400 x 600 and 500 x 500: a fifth of that shows all there is.
TASK = EnvSpec(id="", extra="box2d", needs=("pygame",), options=EnvOptions(size=84))
RANDOM: dict[str, float] = {
    "CartPole-v1": 21.61,
    "Pendulum-v1": -1234.0,
}

SUITE = Suite(
    name="classic control",
    noun="task",
    place=4,
    default=TASK,
    rows=(
        replace(
            TASK,
            id="CartPole-v1",
            summary="balance a pole, seen through rendered pixels",
            actions="discrete",
            random=RANDOM.get("CartPole-v1"),
            published=(Score(value=500, who="PPO on the state, 100k", source="rl-baselines3-zoo's benchmark.md"),),
        ),
        replace(
            TASK,
            id="Pendulum-v1",
            summary="swing a pole up, seen through rendered pixels",
            actions="continuous",
            random=RANDOM.get("Pendulum-v1"),
        ),
    ),
    presets={
        ("CartPole-v1", "ppo"): Preset(
            settings={
                "n_steps": 32,
                "batch_size": 256,
                "n_epochs": 20,
                "learning_rate": "lin_1e-3",
                "clip_range": "lin_0.2",
                "gamma": 0.98,
                "gae_lambda": 0.8,
                "ent_coef": 0.0,
            },
            n_envs=8,
            source="rl-baselines3-zoo's preset, tuned on the state",
        ),
        ("CartPole-v1", "dqn"): Preset(
            settings={
                "learning_rate": 2.3e-3,
                "batch_size": 64,
                "buffer_size": 100_000,
                "learning_starts": 1_000,
                "target_update_interval": 10,
                "train_freq": 256,
                "gradient_steps": 128,
                "exploration_fraction": 0.16,
                "exploration_final_eps": 0.04,
            },
            source="rl-baselines3-zoo's preset, tuned on the state, for 50,000 steps",
        ),
        ("Pendulum-v1", "ppo"): Preset(
            settings={
                "n_steps": 1024,
                "batch_size": 64,
                "n_epochs": 10,
                "learning_rate": 1e-3,
                "clip_range": 0.2,
                "gamma": 0.9,
                "gae_lambda": 0.95,
                "ent_coef": 0.0,
            },
            n_envs=4,
            source="rl-baselines3-zoo's preset, tuned on the state; without its gSDE",
        ),
        ("Pendulum-v1", "sac"): Preset(
            settings={"learning_rate": 1e-3}, source="rl-baselines3-zoo's preset, tuned on the state"
        ),
    },
    harmless={"sutton_barto_reward": bool, "g": float},
)
