"""AtariState: a game of ale-py in the middle of an episode, its random numbers and the action that it holds.

ale-py's own state (`cloneState(include_rng=True)`) leaves out one thing: the action that is held. With sticky actions
(Machado et al. 2018) a frame repeats it with the probability `repeat_action_probability`, whatever the agent sends.
Seen in ale-py 0.12.1: of 146 games that were restored without it, 16 went on otherwise within 12 frames.

Which action is held can be asked for exactly where it matters. The state holds the random generator, so it is known
whether the next frames repeat the held action. If none does, it has no effect any more. If they do, the game itself
plays them, whatever is sent, and goes back; the action with which a second game plays the same is the one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillsight.envs.state import State

STICKIEST = 0.9
"""Repeat probability up to which an action can be made the held one by sending it often."""
MISSED = 1e-12
"""Probability with which sending an action so often does not make it the held one."""
WORDS = 624
"""Numbers in the state of the Mersenne Twister mt19937 (Matsumoto and Nishimura 1998)."""


class AtariState:
    """Saves `ale_py.env.AtariEnv`, see `stillsight.envs.state.StateOf`."""

    def objection(self, env: Any) -> str | None:
        """Too sticky, or a state in which this version of ale-py keeps its random numbers otherwise."""
        sticky = _sticky(env)
        if sticky > STICKIEST:
            return f"it repeats actions with probability {sticky:g}, above {STICKIEST:g}"
        if sticky and _generator(_blob(env)) is None:
            return "this version of ale-py keeps its random numbers in a form that is not known"
        return None

    def snapshot(self, env: Any) -> State:
        """The console's memory, the random numbers and the held action."""
        state = _blob(env)
        return {"console": np.frombuffer(state, np.uint8), "held": _held(env, state)}

    def restore_snapshot(self, env: Any, values: Mapping[str, Any]) -> None:
        """Go on from there."""
        import ale_py

        console = np.asarray(values["console"])
        if console.dtype != np.uint8:
            raise ValueError(f"the console's state is {console.dtype}, not bytes")
        held = ale_py.Action(int(values["held"]))
        _hold(env.ale, held, _sticky(env))
        env.ale.restoreState(ale_py.ALEState(console.tobytes()))


def _blob(env: Any) -> bytes:
    state: bytes = env.ale.cloneState(include_rng=True).serialize()
    return state


def _sticky(env: Any) -> float:
    return float(env.ale.getFloat("repeat_action_probability"))


def _generator(state: bytes) -> NDArray[np.uint32] | None:
    """The generator of the sticky actions, its words and its place: the last that is written in a state, as text."""
    written = re.findall(rb"(?:\d+ ){%d}\d+" % WORDS, state)
    # The console has one of its own, which stands before.
    return np.array(written[-1].split(), np.uint32) if len(written) == 2 else None


def _repeated(console: bytes, sticky: float) -> int:
    """How many of the next frames repeat the held action. Each draws one number for either player."""
    generator = _generator(console)
    assert generator is not None
    twister = np.random.MT19937()
    state: Any = {"key": generator[:WORDS], "pos": int(generator[WORDS])}
    twister.state = {"bit_generator": "MT19937", "state": state}
    frames = 0
    while twister.random_raw() < sticky * 2**32:
        twister.random_raw()
        frames += 1
    return frames


def _held(env: Any, state: bytes) -> int:
    """The action that a game holds, or any where it has no effect any more; the game is left as it is."""
    import ale_py

    sticky = _sticky(env)
    frames = _repeated(state, sticky) if sticky else 0
    noop = ale_py.Action.NOOP
    if not frames:
        return int(noop.value)
    wanted = _played(env.ale, state, frames)
    env.ale.restoreState(ale_py.ALEState(state))
    twin = _twin(env._game, env._game_mode, env._game_difficulty, sticky)
    twin.reset_game()
    for action in twin.getLegalActionSet():
        _hold(twin, action, sticky)
        if np.array_equal(_played(twin, state, frames), wanted):
            return int(action.value)
    return int(noop.value)


@lru_cache(maxsize=1)
def _twin(game: str, mode: int | None, difficulty: int | None, sticky: float) -> Any:
    """A second game of the same kind; it is kept, for to load one takes longer than to search with it."""
    import ale_py

    twin = ale_py.ALEInterface()
    twin.setFloat("repeat_action_probability", sticky)
    rom = ale_py.roms.get_rom_path(game)
    assert rom is not None, "the game is being played from it"
    twin.loadROM(rom)
    if mode is not None:
        twin.setMode(mode)
    if difficulty is not None:
        twin.setDifficulty(difficulty)
    return twin


def _played(ale: Any, state: bytes, frames: int) -> NDArray[np.uint8]:
    """Memory and picture after so many frames from `state` on, all of which repeat the held action."""
    import ale_py

    ale.restoreState(ale_py.ALEState(state))
    seen = []
    for _ in range(frames):
        ale.act(ale_py.Action.NOOP)
        seen += [ale.getRAM().reshape(-1), ale.getScreenRGB().reshape(-1)]
    return np.concatenate(seen)


def _hold(ale: Any, action: Any, sticky: float) -> None:
    """Make `action` the held one: each frame in which it is sent takes it with the probability 1 - `sticky`."""
    for _ in range(math.ceil(math.log(MISSED) / math.log(sticky)) if sticky else 1):
        ale.act(action)
