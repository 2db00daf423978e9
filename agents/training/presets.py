"""Settings of an environment and an algorithm; they stand with its suite, and go on top of the algorithm's own."""

from __future__ import annotations

from stillsight.envs.registry import presumed_suite
from stillsight.envs.spec import Preset


def preset(env: str, algo: str) -> Preset:
    """The preset of `env` and `algo`; an empty one where nothing was published or tried."""
    name = env.rpartition(":")[2]
    return presumed_suite(name).preset(name, algo) or Preset()
