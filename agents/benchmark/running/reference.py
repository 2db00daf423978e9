"""Reference scores: what random play and an environment's oracle earn, measured once for each environment."""

from __future__ import annotations

import math
from typing import Any

from stillsight.agents.benchmark.grid.pins import env_version
from stillsight.agents.benchmark.grid.spec import Spec
from stillsight.agents.benchmark.running.results import Results
from stillsight.agents.runs import schema
from stillsight.agents.runs.progress import ProgressDisplay
from stillsight.agents.runs.records import plain, revive
from stillsight.agents.training.config import RlConfig
from stillsight.agents.training.seeds import PLAY
from stillsight.encoders.atomic import to_json
from stillsight.envs import EnvError, reference_returns

EPISODES = 50
"""An agent is averaged over its seeds, a reference over these alone."""


def measure_references(spec: Spec, results: Results, display: ProgressDisplay) -> None:
    """Measure the references that references.json lacks: mean, std and number of the returns of each player.

    An episode counts until the step at which those of agents do (`eval_max_steps`). References of a task whose
    environment is of other code now or has other options (length of an episode, frame skip ...) are measured anew:
    scores are normalised by them.

    Raises:
        EnvError: there is no such environment, or its package is missing.
    """
    references: dict[str, Any] = schema.parse((results.get("references.json") or "{}").encode(), "references.json")
    schema.convert(references, schema.References, "references.json")
    for task in spec.tasks:
        if task.track != "rl":
            continue
        config = revive(RlConfig, dict(task.flags))
        limit = config.eval_max_steps
        options = plain({"env": config.env, "env_version": env_version(config.env), "eval_max_steps": limit})
        options |= plain(vars(config.env_options()))
        for changes_no_game in ("step_timeout", "pixels", "state"):
            del options[changes_no_game]
        known = references.get(task.name)
        # A record of an older version does not say its options, and stays.
        if known is not None and all(player.get("options", options) == options for player in known.values()):
            continue
        display.console.print(f"{task.name}: random play, and the oracle where there is one", soft_wrap=True)
        players = {}
        try:
            players = reference_returns(config.env, EPISODES, PLAY, options=config.env_options(), max_steps=limit)
        except EnvError:
            raise
        except Exception as error:  # of the game: its cells will meet it too, and be named
            display.console.print(f"  none: {type(error).__name__}: {error}", soft_wrap=True, markup=False)
        finite = {
            name: {**player, "options": options} for name, player in players.items() if math.isfinite(player["mean"])
        }
        references.pop(task.name, None)
        if players:
            references[task.name] = finite
        results.put("references.json", to_json(plain(references), indent=1) + "\n")
