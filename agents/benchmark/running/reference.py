"""What random play and an environment's oracle earn, measured once for each environment of a benchmark."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from stillsight.agents.benchmark.grid.spec import Spec
from stillsight.agents.benchmark.running.results import Results
from stillsight.agents.benchmark.running.worker import PLAYED_FROM
from stillsight.agents.runs.records import plain
from stillsight.agents.training.config import RlConfig

if TYPE_CHECKING:
    from stillsight.agents.runs.progress import ProgressDisplay


EPISODES = 50
"""An agent is averaged over its seeds, a reference over these alone."""


def refer(spec: Spec, results: Results, display: ProgressDisplay) -> None:
    """Measure the references that references.json lacks."""
    from stillsight.agents.runs.records import revive
    from stillsight.envs import EnvError, reference_returns

    found = json.loads(results.get("references.json") or "{}")
    for task in spec.tasks:
        if task.track == "rl" and task.name not in found:
            display.console.print(f"{task.name}: random play, and the oracle where there is one", soft_wrap=True)
            config = revive(RlConfig, dict(task.flags))
            try:
                players = reference_returns(config.env, EPISODES, PLAYED_FROM, options=config.env_options())
            except EnvError:
                raise
            except Exception as error:  # of the game: its cells will meet it too, and be named
                display.console.print(f"  none: {type(error).__name__}: {error}", soft_wrap=True, markup=False)
                continue
            found[task.name] = {name: player for name, player in players.items() if math.isfinite(player["mean"])}
            results.put("references.json", json.dumps(plain(found), indent=1) + "\n")
