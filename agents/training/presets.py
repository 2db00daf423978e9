"""Settings of an environment and an algorithm; they stand with its suite, and go on top of the algorithm's own."""

from __future__ import annotations

from stillsight.envs.registry import suite_of
from stillsight.envs.spec import Preset


def preset(env: str, algo: str) -> Preset:
    """The preset of `env` and `algo`; an empty one where nothing was published or tried.

    The suite is that which makes the environment, once that is registered (`resolve`); before, its name has to do.
    """
    return suite_of(env).preset(env.rpartition(":")[2], algo) or Preset()
