"""MujocoState: Gymnasium's MuJoCo robots in the middle of an episode, to the bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillsight.envs.state import State


class MujocoState:
    """Saves `gymnasium.envs.mujoco.MujocoEnv`, see `stillsight.envs.state.StateOf`.

    MuJoCo's own integration state (positions, velocities, time, the warm start of its solver ...) decides how the
    physics go on; rewards and observations read what was derived from the state before, which is kept beside.
    """

    def objection(self, env: Any) -> str | None:
        """None: all of them can."""
        del env
        return None

    def snapshot(self, env: Any) -> State:
        """Integration state, and every array of fixed size that was derived."""
        import mujoco

        spec = mujoco.mjtState.mjSTATE_INTEGRATION
        physics = np.empty(mujoco.mj_stateSize(env.model, spec))
        mujoco.mj_getState(env.model, env.data, physics, spec)
        return {"physics": physics, "derived": dict(_derived(env.data))}

    def restore_snapshot(self, env: Any, values: Mapping[str, Any]) -> None:
        """Go on from there."""
        import mujoco

        spec = mujoco.mjtState.mjSTATE_INTEGRATION
        physics = np.asarray(values["physics"], np.float64)
        if len(physics) != mujoco.mj_stateSize(env.model, spec):
            raise ValueError(f"a state of {len(physics)} numbers is of another robot")
        mujoco.mj_setState(env.model, env.data, physics, spec)
        mujoco.mj_forward(env.model, env.data)  # contacts and constraints, whose number changes
        for field, array in _derived(env.data):
            saved = np.asarray(values["derived"][field])
            if saved.shape == array.shape:
                array[...] = saved
        mujoco.mj_setState(env.model, env.data, physics, spec)  # the forward pass moves the solver's warm start


def _derived(data: Any) -> Iterator[tuple[str, NDArray[Any]]]:
    """The arrays of numbers in MuJoCo's data whose size the model decides."""
    for field in sorted(dir(data)):
        if field.startswith(("_", "efc_", "contact", "iefc_", "island", "dof_island", "map_")):
            continue
        value = getattr(data, field)
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiu" and value.size:
            yield field, value
