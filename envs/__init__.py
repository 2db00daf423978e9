"""Pixel environments: every Gymnasium id as uint8 `[3, H, W]` observations, through one door.

Names are fetched on first use, so that `import stillsight.envs` and `--help` cost neither torch nor Gymnasium.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stillsight.envs.errors import EnvError, EnvFault
from stillsight.envs.options import EnvOptions
from stillsight.envs.registry import ROWS, resolve
from stillsight.envs.shifts import SHIFTS
from stillsight.envs.spec import EnvSpec

if TYPE_CHECKING:
    from stillsight.envs.adapters.atari_native import NativeAtariVecEnv as NativeAtariVecEnv
    from stillsight.envs.making import make_env as make_env
    from stillsight.envs.orchard.orchard import BEST_RETURN as BEST_RETURN
    from stillsight.envs.orchard.orchard import Orchard as Orchard
    from stillsight.envs.reference import reference_returns as reference_returns
    from stillsight.envs.shifts.shifted import Shifted as Shifted
    from stillsight.envs.vector import make_vec as make_vec
    from stillsight.envs.vectorised.gymnasium_vec_env import GymnasiumVecEnv as GymnasiumVecEnv
    from stillsight.envs.workers import workers_pay as workers_pay
    from stillsight.envs.wrappers.pixels import Pixels as Pixels

_LATER = {
    "BEST_RETURN": "orchard.orchard",
    "GymnasiumVecEnv": "vectorised.gymnasium_vec_env",
    "NativeAtariVecEnv": "adapters.atari_native",
    "Orchard": "orchard.orchard",
    "Pixels": "wrappers.pixels",
    "Shifted": "shifts.shifted",
    "make_env": "making",
    "make_vec": "vector",
    "reference_returns": "reference",
    "workers_pay": "workers",
}

__all__ = [
    "BEST_RETURN",
    "ROWS",
    "SHIFTS",
    "EnvError",
    "EnvFault",
    "EnvOptions",
    "EnvSpec",
    "GymnasiumVecEnv",
    "NativeAtariVecEnv",
    "Orchard",
    "Pixels",
    "Shifted",
    "make_env",
    "make_vec",
    "reference_returns",
    "resolve",
    "workers_pay",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LATER[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
