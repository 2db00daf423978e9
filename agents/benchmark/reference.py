"""What random play and an environment's oracle earn, measured once for each environment of a benchmark."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from stillsight.agents.benchmark.results import Results
from stillsight.agents.benchmark.spec import Spec
from stillsight.agents.benchmark.worker import PLAYED_FROM
from stillsight.agents.learn import RlConfig
from stillsight.agents.runs import plain

if TYPE_CHECKING:
    from stillsight.agents.progress import ProgressDisplay


def refer(spec: Spec, results: Results, display: ProgressDisplay) -> None:
    """Measure the references that references.json lacks, over as many episodes as agents are evaluated over."""
    from stillsight.agents.runs import revive
    from stillsight.envs import reference_returns

    found = json.loads(results.get("references.json") or "{}")
    for task in spec.tasks:
        if task.track == "rl" and task.name not in found:
            display.console.print(f"{task.name}: random play, and the oracle where there is one", soft_wrap=True)
            config = revive(RlConfig, dict(task.flags))
            found[task.name] = reference_returns(config.env, spec.episodes, PLAYED_FROM, options=config.env_options())
            results.put("references.json", json.dumps(plain(found), indent=1) + "\n")
