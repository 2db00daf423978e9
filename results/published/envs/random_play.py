"""Returns of random play: 100 whole games of each row whose package is here, with the row's own options and seed 0.

python results/published/envs/random_play.py [ID ...] >> results/published/envs/random.jsonl

Where what is drawn is no observation, nothing is drawn: the games are the same, and many times faster.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec

from stillsight.agents.command_line.json_output import only_json, print_json
from stillsight.envs import ROWS, reference_returns
from stillsight.envs.registry import guessed_from_name

EPISODES, SEED = 100, 0
UNDRAWN = ("MuJoCo", "DeepMind Control", "Gymnasium-Robotics", "Meta-World", "classic control")
BRINGS = packages_distributions()


def play(env_id: str) -> None:
    """Print the line of one row, or why there is none."""
    row, suite = ROWS[env_id], guessed_from_name(env_id)
    if not all(map(find_spec, row.needs)):
        print(f"{env_id} is left out: it needs {' and '.join(row.needs)}", file=sys.stderr)
        return
    drawn = suite.name not in UNDRAWN
    options = row.options if drawn else row.options.merge(pixels=("off",), state=("on",))
    with only_json():
        score = reference_returns(env_id, EPISODES, SEED, options=options)["random"]
    modules = dict.fromkeys(("gymnasium", *suite.packages(row)))
    line = {
        "env": env_id,
        **score,
        "seed": SEED,
        "drawn": drawn,
        "date": datetime.now(UTC).date().isoformat(),
        "packages": {module: version(BRINGS[module][0]) for module in modules},
    }
    print_json(json.dumps(line))


# The emulators of stable-retro are played in processes of their own, which import this file.
if __name__ == "__main__":
    for asked in sys.argv[1:] or ROWS:
        play(asked)
