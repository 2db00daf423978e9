"""Settings of an algorithm as a person types them, `name=value`, and as its class takes them."""

from __future__ import annotations

import ast
import contextlib
import inspect
import re
import sys
from collections.abc import Mapping
from math import inf
from typing import TYPE_CHECKING, Any

from stillsight.agents.errors import RunError
from stillsight.agents.training.algorithms import AlgorithmSpec
from stillsight.agents.training.presets import preset
from stillsight.encoders.errors import unknown

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv


EXAMPLES = {"--set": "n_steps=256", "--env-set": "continuous=False"}
"""What a sentence says to type of each flag."""


FALLING = "lin_"
"""How a setting begins that falls linearly to zero, from the number behind it."""

_WORDS: dict[str, bool | None] = {"true": True, "false": False, "none": None}
"""How people write what Python writes True, False and None: as text, "false" would be true."""


def overrides(settings: tuple[str, ...], flag: str) -> dict[str, Any]:
    """`("n_steps=256", "learning_rate=lin_1e-4")`, as `flag` got them, as keyword arguments.

    Raises:
        RunError: a setting is not of the form name=value.
    """
    found: dict[str, Any] = {}
    for setting in settings:
        name, separator, text = setting.partition("=")
        if not separator or not name.isidentifier():
            raise RunError(f"{flag} takes name=value, and got {setting!r}. Type, say: {flag} {EXAMPLES[flag]}.")
        if text.lower() in _WORDS:
            found[name] = _WORDS[text.lower()]
            continue
        try:
            found[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last two: brackets in brackets
            found[name] = text
    return found


OURS = (
    *("policy", "env", "policy_kwargs", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model"),
    *("replay_buffer_class", "replay_buffer_kwargs", "rollout_buffer_class", "rollout_buffer_kwargs"),
)
"""Arguments of SB3's classes that are not `--set`'s, because flags or the agent itself decide them."""

_FITS: dict[str, tuple[type, ...]] = {
    "None": (type(None),),
    "Optional": (type(None),),
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "tuple": (tuple, list),
    "ActionNoise": (int, float),
}
"""Words of a class's annotations -> the values that they allow. A number makes an `ActionNoise`, see `arguments`."""
_SCHEDULES = ("Schedule", "Callable")
"""Words of annotations that allow "lin_x"."""
_TOLD = {
    "bool": "True or False",
    "int": "a whole number",
    "float": "a number",
    "str": "a word",
    "tuple": "a list",
    "ActionNoise": "a number",
    "Schedule": f"{FALLING}NUMBER",
    "Callable": f"{FALLING}NUMBER",
    "Optional": "None",
}
"""Those words as a sentence says them."""
_PASSED_OVER = (
    "Union",
    "typing",
    "collections",
    "abc",
    "stable_baselines3",
    "common",
    "noise",
    "class",
    "type_aliases",
)


HIDDEN = "net_arch"
"""The setting of the hidden layers, which SB3 has among its `policy_kwargs`."""

WIDEST = 65_536
"""Units of a hidden layer beyond which a number is taken for a slip."""


SMALLEST = sys.float_info.min
"""The least number above zero."""

_RANGES: dict[str, tuple[float, float]] = {
    name: (least, most)
    for (least, most), names in {
        (0, 1): "gamma gae_lambda tau exploration_fraction exploration_initial_eps exploration_final_eps",
        (1, inf): "n_epochs n_steps batch_size buffer_size train_freq target_update_interval policy_delay "
        "stats_window_size cg_max_steps line_search_max_iter n_critic_updates sub_sampling_factor",
        (0, inf): "learning_starts top_quantiles_to_drop_per_net ent_coef vf_coef action_noise target_policy_noise "
        "target_noise_clip cg_damping line_search_shrinking_factor",
        (-1, inf): "gradient_steps sde_sample_freq",
        (SMALLEST, inf): "learning_rate clip_range clip_range_vf max_grad_norm target_kl rms_prop_eps",
    }.items()
    for name in names.split()
}
"""Least and greatest value of SB3's arguments that have one. SB3 itself takes most others, and learns away from what
is rewarded, or from nothing."""


def settings(row: AlgorithmSpec, env: str, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The preset of `row`, on top of it that of `env`, on top of both what was `chosen`.

    Raises:
        RunError: the class takes no argument of such a name, or none of such a kind.
    """
    parameters = inspect.signature(row.load_class()).parameters
    known = [name for name in parameters if name not in OURS] + [HIDDEN]
    for name, value in chosen.items():
        if name not in known:
            raise RunError(unknown("setting", name, known, f"{row.name} takes", "--set"))
        if name != HIDDEN:
            _check_kind(row, parameters[name], value)
            _check_range(name, value)
    return {**row.preset, **preset(env, row.name).settings, **chosen}


def _check_kind(row: AlgorithmSpec, parameter: inspect.Parameter, value: object) -> None:
    """Refuse a value of another kind than the class annotates. SB3 would fail with it in its first update, or go on.

    Annotations with words that are not known here allow everything.
    """
    annotation = parameter.annotation
    if annotation is parameter.empty:
        return
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    while text != (outer := re.sub(r"(?<!Optional)(?<!Union)\[[^\[\]]*\]", "", text)):  # of tuple[int, str] the tuple
        text = outer
    words = [word for word in re.findall(r"\w+", text) if word not in _PASSED_OVER]
    if not all(word in _FITS or word in _SCHEDULES for word in words):
        return
    falls = isinstance(value, str) and value.startswith(FALLING) and any(word in _SCHEDULES for word in words)
    if falls or type(value) in {kind for word in words for kind in _FITS.get(word, ())}:
        return
    allowed = " or ".join(dict.fromkeys(_TOLD.get(word, word) for word in words))
    default = parameter.default
    example = "" if default is parameter.empty else f" Type, say: --set {parameter.name}={default}."
    raise RunError(f"--set {parameter.name}={value} is nothing that {row.name} takes there: {allowed}.{example}")


def _check_range(name: str, value: object) -> None:
    """Refuse a number, that of a schedule, or that of a list (`train_freq`) which is out of range."""
    given = value[0] if isinstance(value, list | tuple) and value else value
    if isinstance(given, str) and given.startswith(FALLING):
        with contextlib.suppress(ValueError):  # what is no number behind it SB3 is not given either
            given = float(given.removeprefix(FALLING))
    least, most = _RANGES.get(name, (-inf, inf))
    if isinstance(given, bool) or not isinstance(given, int | float) or least <= given <= most:
        return
    above = "above 0" if least == SMALLEST else f"from {least:g}"
    raise RunError(
        f"--set {name}={value} is out of range. Type a number {above}{'' if most == inf else f' to {most:g}'}."
    )


def arguments(chosen: Mapping[str, Any], venv: VecEnv, least: float = 0.0) -> dict[str, Any]:
    """Settings as the algorithm's class takes them: schedules, noise and frequencies as SB3's own objects.

    Args:
        chosen: from `settings`.
        venv: what the algorithm will act in.
        least: share (0..1) of the whole run that one rollout takes, below which what falls linearly does not fall. SB3
            counts a rollout as done before it learns from it: the last update, which may be the only one, would be
            made at the rate zero.
    """
    return {name: _value(name, value, venv, least) for name, value in chosen.items() if name != HIDDEN}


def net_arch(row: AlgorithmSpec, chosen: Mapping[str, Any]) -> list[int] | dict[str, list[int]] | None:
    """Widths of the policy's hidden layers behind the head, as SB3's `net_arch`; None for those of the class.

    Raises:
        RunError: what was chosen are no widths.
    """
    widths = chosen.get(HIDDEN, row.net_arch)
    if widths is None or _are_widths(widths):
        return None if widths is None else list(widths)
    if isinstance(widths, dict) and all(map(_are_widths, widths.values())):
        return {name: list(layers) for name, layers in widths.items()}
    raise RunError(
        f"--set {HIDDEN} takes the widths of the hidden layers behind the head, and got {widths!r}. Type, say: --set "
        f"{HIDDEN}=[256,256], or \"{HIDDEN}={{'pi':[64],'qf':[256,256]}}\"."
    )


def _are_widths(value: object) -> bool:
    return isinstance(value, list | tuple) and all(type(width) is int and 0 < width <= WIDEST for width in value)


def _value(name: str, value: Any, venv: VecEnv, least: float) -> Any:
    if name == "action_noise" and isinstance(value, int | float):
        import numpy as np
        from stable_baselines3.common.noise import NormalActionNoise

        shape = venv.action_space.shape
        assert shape is not None
        return NormalActionNoise(np.zeros(shape), np.full(shape, float(value)))
    if isinstance(value, str) and value.startswith(FALLING):
        from stable_baselines3.common.utils import LinearSchedule

        falling = LinearSchedule(float(value.removeprefix(FALLING)), 0.0, 1.0)
        return falling if least <= 0 else lambda remaining: falling(max(remaining, least))
    if name == "train_freq" and isinstance(value, list):
        return tuple(value)
    return value
