"""A first look at the game: random play, by which the head standardises features before anything is learned."""

from __future__ import annotations

import numpy as np
import torch

from stillsight.agents.features.head import Statistics
from stillsight.agents.training.learn import RlConfig
from stillsight.encoders.encoder import Encoder
from stillsight.envs import make_vec

SEED = 30_000
"""The first look plays episodes that neither training (small seeds) nor evaluation (10,000 and up) plays."""

BATCH = 64
"""Images encoded at once."""


def first_look(config: RlConfig, encoder: Encoder, n_envs: int) -> Statistics | None:
    """Mean and standard deviation of each feature over `config.standardise` frames of random play; None for 0.

    Its images are left out of the encoder's count: they are a constant, and no part of what a step costs.

    Args:
        config: resolved.
        encoder: as training will begin with it, the trained part included.
        n_envs: environments side by side.
    """
    if not config.standardise:
        return None
    venv = make_vec(config.env, n_envs, seed=config.seed + SEED, options=config.env_options())
    frames = [np.asarray(venv.reset())]
    while len(frames) * n_envs < config.standardise:
        actions = np.array([venv.action_space.sample() for _ in range(n_envs)])
        frames.append(np.asarray(venv.step(actions)[0]))
    venv.close()
    pixels = torch.from_numpy(np.concatenate(frames)[: config.standardise])
    was_training = encoder.training
    encoder.eval()  # where BatchNorm learns, the look must not move its statistics
    with torch.no_grad(), encoder.counter.paused():
        features = torch.cat([encoder(part.to(encoder.device)).cpu() for part in pixels.split(BATCH)])
    encoder.train(was_training)
    return Statistics(features.mean(0), features.std(0, correction=0))
