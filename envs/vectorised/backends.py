"""Ways to step an environment, by name: one after the other, in workers, natively, and the plain loop beside them."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection
from statistics import fmean, median
from typing import Any

from stillsight.envs.errors import EnvError
from stillsight.envs.making import bare
from stillsight.envs.options import EnvOptions
from stillsight.envs.parent_process import end_with_parent
from stillsight.envs.random_play import action_seed
from stillsight.envs.registry import resolve, suite_of
from stillsight.envs.vector import make_vec, natives
from stillsight.envs.vectorised.step_times import Steps, step_times
from stillsight.envs.wrappers.sight import sight

LOOP, PROCESS, WORKERS = "loop", "process", "workers"
"""The plain Gymnasium loop; all in one process; a process for each. Native ones are "native:" and their name."""

NATIVE = "native:"

STARTING = 300.0
"""Seconds that a backend may take to be built."""


class GymnasiumLoop:
    """One environment stepped as Gymnasium's own documentation does it, without a VecEnv and without our wrappers.

    Where an agent sees rendered images they are rendered, by Gymnasium's `AddRenderObservation`; sizes and shifts are
    not changed. Its suite's own wrapping is there: Atari's `AtariPreprocessing`, say, which skips frames.
    """

    num_envs = 1

    def __init__(self, env_id: str, options: EnvOptions, seed: int) -> None:
        self.env = sight(bare(env_id, options), options.pixels, options.state).env
        self.action_space = self.env.action_space
        self.action_space.seed(action_seed(seed))
        self._seed: int | None = seed

    def reset(self) -> Any:
        """Begin an episode; the first one with the seed."""
        seed, self._seed = self._seed, None
        return self.env.reset(seed=seed)

    def step(self, actions: Sequence[Any]) -> Any:
        """A step, and a reset where it ends an episode."""
        answer = self.env.step(actions[0])
        if answer[2] or answer[3]:
            self.env.reset()
        return answer

    def has_attr(self, attr_name: str) -> bool:
        """Whether the environment has it."""
        return self.env.has_wrapper_attr(attr_name)

    def env_method(self, method_name: str) -> list[Any]:
        """What a method of it returns."""
        return [self.env.get_wrapper_attr(method_name)()]

    def close(self) -> None:
        """Close the environment."""
        self.env.close()


def backends(env_id: str) -> list[str]:
    """The names of all ways to step an id; whether each can is found out when it is opened.

    Raises:
        EnvError: see `resolve`.
    """
    resolve(env_id)
    return [LOOP, PROCESS, WORKERS, *(f"{NATIVE}{name}" for name in natives(env_id))]


def opened(env_id: str, backend: str, n_envs: int, options: EnvOptions, seed: int = 0) -> Any:
    """`n_envs` environments that learn, stepped in one way; the loop has one environment.

    Raises:
        EnvError: see `make_vec`, and for one process where the package can have one environment in a process.
    """
    if backend == LOOP:
        return GymnasiumLoop(env_id, options, seed)
    if backend == PROCESS and suite_of(env_id).one_a_process and n_envs > 1:
        raise EnvError(f"{suite_of(env_id).name} can have one {suite_of(env_id).noun} in a process.")
    workers = n_envs if backend == WORKERS else 0
    native = backend.removeprefix(NATIVE) if backend.startswith(NATIVE) else False
    return make_vec(env_id, n_envs, seed=seed, options=options, workers=workers, native=native)


def speed(venv: Steps, seconds: float) -> dict[str, float]:
    """Environment steps a second, resets among them, as `workers_pay` compares them; and those of the median step,
    which do not compare: on a busy machine short steps are seldom interrupted, and long ones always."""
    times = step_times(venv, seconds)
    return {"env_steps_per_s": venv.num_envs / fmean(times), "of_median_step": venv.num_envs / median(times)}


class BackendProcess:
    """A backend in a process of its own: one that hangs or ends its process is a sentence, and costs no other."""

    def __init__(self, env_id: str, backend: str, n_envs: int, options: EnvOptions, seed: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        # It has children where the backend is worker processes, and a daemon may not.
        self._process = context.Process(target=_serve, args=(theirs, env_id, backend, n_envs, options, seed))
        self._process.start()
        theirs.close()
        self.facts: dict[str, Any] = {}

    def built(self) -> None:
        """Wait until it can step. Raises `EnvError` with the reason if it cannot."""
        self.facts = self._answer(STARTING)

    def measure(self, seconds: float) -> dict[str, float]:
        """See `speed`. Raises `EnvError` for what went wrong."""
        self._ours.send(seconds)
        return self._answer(STARTING + 10.0 * seconds)

    def _answer(self, patience: float) -> dict[str, Any]:
        if not self._ours.poll(patience):
            raise EnvError(f"It has not answered for {patience:g} seconds.")
        try:
            answer = self._ours.recv()
        except (EOFError, OSError):
            self._process.join(5.0)
            code = self._process.exitcode
            name = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
            raise EnvError(f"Its process died ({name}).") from None
        if isinstance(answer, str):
            raise EnvError(answer)
        found: dict[str, Any] = answer
        return found

    def stop(self) -> None:
        """End the process, and its workers with it."""
        with contextlib.suppress(OSError):
            self._ours.send(None)
        self._process.join(10.0)
        self._process.kill()
        self._process.join()
        self._ours.close()


def _serve(connection: Connection, *asked: Any) -> None:
    """The life of a measuring process: open a backend, answer each number of seconds with its speed, end at None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    venv: Any = None
    try:
        venv = opened(*asked)
        step_times(venv, 0.0)  # the first steps load and allocate
        space = getattr(venv, "observation_space", None)
        connection.send({"envs": venv.num_envs, "observation": None if space is None else str(_shapes(space))})
        while (seconds := connection.recv()) is not None:
            connection.send(speed(venv, seconds))
    except Exception as error:
        sentence = " ".join(str(error).split())
        connection.send(sentence if isinstance(error, EnvError) else f"{type(error).__name__}: {sentence}")
    finally:
        if venv is not None:
            venv.close()


def _shapes(space: Any) -> Any:
    parts = getattr(space, "spaces", None)
    if isinstance(parts, dict):
        return {key: _shapes(part) for key, part in parts.items()}
    return [int(side) for side in space.shape or ()]
