"""Pins: the settings, weights and versions of code that must be equal in all cells that are pooled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from stillsight.agents.benchmark.grid.cell import PLACED, UNSAID
from stillsight.agents.benchmark.grid.code_version import code_version
from stillsight.agents.errors import RunError
from stillsight.agents.runs.records import plain
from stillsight.agents.training import algorithms
from stillsight.agents.training.config import RlConfig
from stillsight.encoders.supervised.cifar_config import CifarConfig
from stillsight.encoders.zoo.registry import spec as encoder_spec
from stillsight.envs import resolve
from stillsight.envs.registry import suite_of

UNPINNED = (
    *PLACED,
    *("device", "step_timeout", "threads", "data", "cache", "tensorboard", "keep"),
    *("weights", "weights_folder", "from_run", "from_checkpoint"),
)
"""Flags that do not change what a cell measures; weights and the policy that a run begins from are pinned by their hash
instead of their place."""

BEFORE = {**UNSAID, "standardise_features": True}
"""Settings as every cell had them whose record says nothing of them: the flags of `UNSAID`, and one that is no such
flag, because its default goes by the mode today, so that a key says so where it was given."""

COMPUTED = {"device": "device_kind", "computed_in": "computed_in"}
"""What summary.json says of how a run was computed -> its pin. The flags beside them say what was asked for, and "auto"
is one thing here and another there. The engine is recorded and no pin: engines agree but for rounding, and which is the
fastest is measured anew in each cell."""

KNOWN = ("stillsight", "torchvision", "timm", "stable_baselines3", "sb3_contrib")
"""Packages whose networks and algorithms are not brought by somebody else."""


def pins(
    config: RlConfig | CifarConfig, summary: Mapping[str, Any], code: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What must be equal in all cells of an arm: every setting that is not as `BEFORE` has it, the weights that were
    loaded, and what it came to where the run was computed: kind of device and precision.

    A run of before these were recorded has no such pins: its cells pool with their like, and not with newer ones, since
    nobody knows what "auto" was there.

    Args:
        config: of the run, with its defaults written out.
        summary: what the run ended with, see summary.json.
        code: what `code_pins` gave when it began; what it gives now by default.

    Raises:
        RunError: a frozen encoder is not the same after the run as before it.
    """
    values = {item.name: plain(getattr(config, item.name)) for item in fields(config) if item.name not in UNPINNED}
    settings = {name: value for name, value in values.items() if (name, value) not in BEFORE.items()}
    pinned = {"weights_sha256": summary["weights_sha256"] if config.mode.pretrained else None, **settings}
    pinned |= {pin: summary[name] for name, pin in COMPUTED.items() if name in summary}
    pinned |= code_pins(config) if code is None else code
    if summary.get("from") is not None:
        pinned["from_sha256"] = summary["from"]["sha256"]
    if config.mode.pretrained and not config.mode.trained:
        pinned["encoder_sha256"] = summary["encoder_sha256_before"]
        if summary["encoder_sha256_after"] != summary["encoder_sha256_before"]:
            raise RunError("The frozen encoder changed while its agent learned.")
    return pinned


def env_version(env: str) -> str:
    """The versions of the code that an environment is of: another one may be another game.

    They are those of the package that makes it, and of those that it steps and draws with: a suite of ours makes
    DeepMind Control's tasks, whose physics are dm_control's and MuJoCo's.
    """
    import gymnasium as gym

    row, suite = resolve(env), suite_of(env)
    entry = gym.registry[env.rpartition(":")[2]].entry_point
    module = (entry if isinstance(entry, str) else getattr(entry, "__module__", "")).partition(":")[0]
    registers = [env.rpartition(":")[0]] if ":" in env else []  # it may wrap a game of another package
    tops = dict.fromkeys(one.partition(".")[0] for one in (module, *suite.packages(row), *registers))
    return ", ".join(map(code_version, tops))


def code_pins(config: RlConfig | CifarConfig) -> dict[str, str]:
    """The versions of an environment, and of a network and an algorithm that somebody else brings, as they are now."""
    builders = {"encoder_version": encoder_spec(config.encoder).builder}
    if isinstance(config, RlConfig):
        builders["algo_version"] = algorithms.spec(config.algo).cls
    modules = {pin: builder.partition(":")[0] for pin, builder in builders.items()}
    found = {pin: code_version(module) for pin, module in modules.items() if module.partition(".")[0] not in KNOWN}
    return found | ({"env_version": env_version(config.env)} if isinstance(config, RlConfig) else {})
