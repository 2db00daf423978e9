"""Inheritance: a new run that begins with the policy of another one, `--from RUN`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym

from stillsight.agents.errors import RunError
from stillsight.agents.runs import checkpoint, schema
from stillsight.agents.runs.reader import IMPORTED, read_json
from stillsight.agents.runs.records import plain
from stillsight.agents.runs.spaces import SPACES_FILE, Spaces
from stillsight.agents.runs.trust import Trust, open_run
from stillsight.agents.training.build import Agent, check_step
from stillsight.agents.training.config import RlConfig
from stillsight.agents.training.continuing.ancestor import Ancestor, ancestor_file, ancestor_sha256
from stillsight.agents.training.state import model_state
from stillsight.agents.training.state.encoder_facts import check_encoder
from stillsight.agents.training.state.finite import check_finite

SAME: Mapping[str, str] = {
    "algo": "--algo",
    "encoder": "--encoder",
    "mode": "--mode",
    "tap": "--tap",
    "pooling": "--pooling",
    "resolution": "--resolution",
    "unfreeze": "--unfreeze",
    "adapt": "--adapt",
    "lora_rank": "--lora-rank",
    "frame_stack": "--frame-stack",
    "pixels": "--pixels",
    "state": "--state",
    "fusion": "--fusion",
    "head": "--head",
    "head_activation": "--activation",
    "net_arch": "--set net_arch",
    "compress": "--compress",
    "in_policy": "--in-policy",
}
"""Fields in which both runs must agree, because the policy is made by them -> their flags."""


def inherit(agent: Agent) -> Ancestor:
    """Give `agent` the policy of the run that its configuration begins from: all of its parameters and buffers.

    Those are the head, its standardisation, policy and value networks, the part of the encoder that learns, and the
    temperature of SAC and its kin, where both runs learn one. The optimizer, counters, schedules, exploration and
    replay memory stay those of a new run.

    Raises:
        RunError: encoder, head, spaces or algorithm differ, each named; its frozen weights are others.
        CheckpointError: the checkpoint is damaged, or its policy does not fit.
    """
    config = agent.config
    assert config.from_run is not None
    folder = config.from_run
    path = ancestor_file(folder, config.from_checkpoint)
    source = open_run(folder, Trust(config.trust)).expect(RlConfig)
    _check_alike(source, agent, folder)
    stored = checkpoint.load(path, agent.model.device)
    checkpoint.facts(stored, schema.AgentFacts, path)
    check_finite(stored, path)
    if not (folder / IMPORTED).exists():  # which SB3 may have trained on for any time
        check_step(source, stored, path)
    model_state.restore_learned(agent.model, stored)
    if lacking := model_state.restore_beside(agent.model, stored):  # of versions before this one
        print(f"stillsight: {path} does not hold {', '.join(lacking)}, which begins anew.", file=sys.stderr)
    check_encoder(agent.encoder, agent.model.policy, agent.venv.layout, stored, folder, seed=source.seed)
    return Ancestor(folder, path.stem, int(stored["step"]), ancestor_sha256(folder, path.stem))


def _check_alike(source: RlConfig, agent: Agent, folder: Path) -> None:
    """Refuse a policy that was made otherwise, naming every difference."""
    config, venv = agent.config, agent.venv
    differing = [
        f"{flag} {plain(getattr(source, field))} (here {plain(getattr(config, field))})"
        for field, flag in SAME.items()
        if getattr(source, field) != getattr(config, field)
    ]
    known = Spaces.from_json(
        read_json(folder / SPACES_FILE, f"{folder} has no {SPACES_FILE}, which says what its agent sees.")
    )
    if known.layout.form != venv.layout.form:
        plain_ones = known.layout.plain and venv.layout.plain
        there, here = (list(layout.pixels) if plain_ones else str(layout) for layout in (known.layout, venv.layout))
        differing.append(f"pixels {there} (here {here}; --size)" if plain_ones else f"{there} (here {here})")
    if not _alike(known.action, venv.action_space):
        differing.append(f"actions {known.action} (here {venv.action_space})")
    if differing:
        raise RunError(
            f"--from {folder} has another policy than this run: it has {', '.join(differing)}. What a policy is made "
            "of must be the same. Type what it has, or drop --from."
        )


def _alike(one: gym.Space[Any], other: gym.Space[Any]) -> bool:
    return type(one) is type(other) and bool(one == other)
