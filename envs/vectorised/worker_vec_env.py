"""WorkerVecEnv: SB3's SubprocVecEnv, whose workers say what went wrong in them, and are named where they died."""

from __future__ import annotations

import os
import random
import signal
import socket
import stat
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import set_forkserver_preload
from multiprocessing.connection import Connection
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import SubprocVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from stillsight.envs.errors import EnvError, EnvFault
from stillsight.envs.parent_process import end_with_parent
from stillsight.envs.state import State, objection, restore_state, save_state
from stillsight.envs.vectorised.shared_observations import SharedObservations
from stillsight.envs.wrappers.rules import Step
from stillsight.envs.wrappers.watched import longer

FAULT = "stillsight.fault"
"""Key in an info under which a worker reports what was raised in it: a sentence, and the traceback of a bug."""

PRELOADED = "stillsight.envs.vectorised.preloaded"
"""The module that the server of processes imports before it forks a worker."""

GENERATORS = 0x6E6E_D015
"""Sets the seeds of a worker's shared generators apart from those of games and of action spaces."""

PATIENCE = 2.0
"""Seconds that a worker may take to end."""

Maker = Callable[[], gym.Env[Any, Any]]
Report = tuple[str, str]


class Hung(Exception):  # noqa: N818 - becomes an EnvFault
    """A worker that has not answered in time."""

    def __init__(self, number: int, seconds: float) -> None:
        super().__init__(
            f"it has not answered for {seconds:g} seconds. Mend the environment, or wait longer: {longer(seconds)}"
        )
        self.number = number


class Patient:
    """This side of a worker's pipe, which waits for an answer no longer than `seconds`.

    Where pipes are sockets the system keeps the time, which costs nothing; elsewhere each answer is waited for first.

    Raises `Hung` where none came.
    """

    def __init__(self, pipe: Connection, number: int, seconds: float) -> None:
        self._pipe, self._number, self._seconds = pipe, number, seconds
        self.send, self.close, self.fileno = pipe.send, pipe.close, pipe.fileno
        self._timed = stat.S_ISSOCK(os.fstat(pipe.fileno()).st_mode) if sys.platform != "win32" else False
        if self._timed:
            whole, rest = divmod(seconds, 1.0)
            with socket.socket(fileno=os.dup(pipe.fileno())) as end:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(whole), int(1e6 * rest)))

    def recv(self) -> Any:
        """The next answer."""
        if not self._timed and not self._pipe.poll(self._seconds):
            raise Hung(self._number, self._seconds)
        try:
            return self._pipe.recv()
        except BlockingIOError:
            raise Hung(self._number, self._seconds) from None


class Reporting(gym.Wrapper[Any, Any, Any, Any]):
    """An environment in a worker, whose exceptions travel to the other side in `info[FAULT]` and do not end it.

    Args:
        env: the environment.
        number: of the worker.
        shared: where its observations are put down, None in their place; without it they go through the pipe.
    """

    unmade = ""

    def __init__(self, env: gym.Env[Any, Any], number: int, shared: SharedObservations | None) -> None:
        super().__init__(env)
        self._number, self._shared = number, shared

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The environment's, or a blank observation and a report."""
        try:
            observation, info = self.env.reset(seed=seed, options=options)
            return self._sent(observation, last=False), info
        except Exception as error:
            return self._blank(), {FAULT: _report(error)}

    def step(self, action: Any) -> Step:
        """The environment's, or a blank observation and a report."""
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
            # That of an episode's end is followed by a reset before this side answers.
            return self._sent(observation, last=terminated or truncated), reward, terminated, truncated, info
        except Exception as error:
            return self._blank(), 0.0, False, False, {FAULT: _report(error)}

    def _sent(self, observation: Any, *, last: bool) -> Any:
        if self._shared is None:
            return observation
        self._shared.write(self._number, observation, last=last)
        return None

    def state_objection(self) -> str | None:
        """Why the environment's state cannot be saved, see `state.objection`."""
        return objection(self.env)

    def save_state(self) -> State:
        """The environment's state, see `state.save_state`."""
        return save_state(self.env)

    def restore_state(self, state: State) -> str | None:
        """Put a state back; what was wrong with it, in words, because an exception would end the worker."""
        try:
            restore_state(self.env, state)
        except EnvError as error:
            return str(error)
        return None

    def _blank(self) -> Any:
        if self._shared is not None:
            return None
        if isinstance(self.observation_space, spaces.Dict):
            return {key: np.zeros(part.shape or (), part.dtype) for key, part in self.observation_space.items()}
        return np.zeros(self.observation_space.shape or (), self.observation_space.dtype)


class Unmade(gym.Env[Any, Any]):
    """Stands where an environment could not be made, and says why in `unmade`."""

    observation_space = spaces.Discrete(1)
    action_space = spaces.Discrete(1)

    def __init__(self, unmade: str) -> None:
        self.unmade = unmade


def _report(error: Exception) -> Report:
    if isinstance(error, EnvFault):
        return str(error), ""
    return f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error))


def _make(
    maker: Maker, number: int, shared: SharedObservations | None, seed: int, variables: Mapping[str, str]
) -> gym.Env[Any, Any]:
    """Runs in the worker, which ends when this process does. Ctrl-C is for this side, which may have to save first.

    The variables of its environment are those that the server began with, and become those of this process.
    SIGTERM ends it through a handler, for SDL takes that signal where it finds none, and then nothing ends it.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
    end_with_parent()
    os.environ.clear()
    os.environ.update(variables)
    _seed_generators(seed)
    try:
        env = maker()
    except Exception as error:
        return Unmade(f"{type(error).__name__}: {error}")
    if shared is not None and env.observation_space != shared.space:
        return Unmade(f"in one it observes {env.observation_space}, in another process {shared.space}")
    return Reporting(env, number, shared)


def _seed_generators(seed: int) -> None:
    """Seed what whoever needs a random number may draw from: else all workers have the server's state, or chance."""
    of_numpy, of_python, of_torch = map(int, np.random.SeedSequence((seed, GENERATORS)).generate_state(3))
    np.random.seed(of_numpy)
    random.seed(of_python)
    torch: Any = sys.modules.get("torch")  # which Stable-Baselines3 brings
    if torch is not None:
        torch.manual_seed(of_torch)


class WorkerVecEnv(SubprocVecEnv):
    """`SubprocVecEnv` with sentences in place of broken pipes, and observations in shared memory in place of pickles.

    Raises `EnvError` on construction where a worker cannot make its environment; later `EnvFault` for what an
    environment raised in its worker, with a bug's traceback as a note, for a worker that died, with its exit code and
    the action that it was given last, and for one that does not answer, which is killed.
    """

    def __init__(
        self,
        env_id: str,
        makers: Sequence[Maker],
        timeout: float = 0.0,
        space: spaces.Space[Any] | None = None,
        seed: int = 0,
    ) -> None:
        """Args:
        env_id: for sentences.
        makers: are called in the workers, one each.
        timeout: in seconds, after which a worker that has not answered counts as hung, 0 for never.
        space: of one environment's observations; where it is a Box, or a Dict of Boxes, they lie in memory that all
            processes see (`SharedObservations`). Without it they go through pipes.
        seed: of the generators of numpy, Python and torch in the first worker, for what draws from them; the others
            follow.
        """
        self._id, self._actions, self._died = env_id, np.zeros(0), False
        shared: SharedObservations | None = None
        if space is not None and SharedObservations.fits(space):
            with suppress(OSError):  # where no memory of the kind is to be had, pipes are
                shared = SharedObservations(space, len(makers))
        self._shared = shared
        if sys.platform == "linux":  # what macOS has loaded is not safe to fork
            set_forkserver_preload([PRELOADED])
        try:
            variables = dict(os.environ)
            super().__init__([partial(_make, maker, i, shared, seed + i, variables) for i, maker in enumerate(makers)])
            if shared is not None:
                shared.handed_over()
            if timeout:
                self.remotes = tuple(Patient(remote, number, timeout) for number, remote in enumerate(self.remotes))
            reasons = [reason for reason in self.get_attr("unmade") if reason]
        except Hung as hung:
            self._kill()
            raise EnvFault(f"{self._id} hangs in a worker before it was played. {hung}") from None
        except (EOFError, OSError, EnvFault) as error:
            self._kill()
            raise EnvError(
                self._cannot("the process ended while it was started; a script needs its if __name__ == '__main__'")
            ) from error
        if reasons:
            self.close()
            raise EnvError(self._cannot(reasons[0]))

    def _cannot(self, why: str) -> str:
        return (
            f"Worker processes cannot make {self._id} ({why.removesuffix('.')}). They import what the main script "
            "imports, and not what stands under its main guard: register the environment in a module, --env "
            "module:Id, or type --workers off."
        )

    def step_async(self, actions: np.ndarray) -> None:
        """Send each worker its action."""
        self._actions = actions
        with self._alive():
            super().step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """What the workers answer."""
        with self._alive():
            answer = super().step_wait() if self._shared is None else self._step_wait(self._shared)
        _, _, dones, infos = answer
        for number, info in enumerate(infos):
            report = info.get(FAULT) or (self.reset_infos[number].get(FAULT) if dones[number] else None)
            self._raise(number, report)
        return answer

    def _step_wait(self, shared: SharedObservations) -> VecEnvStepReturn:
        results = [remote.recv() for remote in self.remotes]
        self.waiting = False
        _, rewards, dones, infos, self.reset_infos = zip(*results, strict=True)  # type: ignore[assignment]
        for number, done in enumerate(dones):
            if done:
                infos[number]["terminal_observation"] = shared.read_last(number)
        return shared.read(), np.stack(rewards), np.stack(dones), infos  # type: ignore[return-value]

    def reset(self) -> VecEnvObs:
        """Begin episodes everywhere."""
        with self._alive():
            observations = super().reset() if self._shared is None else self._reset(self._shared)
        for number, info in enumerate(self.reset_infos):
            self._raise(number, info.get(FAULT))
        return observations

    def _reset(self, shared: SharedObservations) -> VecEnvObs:
        for remote, seed, options in zip(self.remotes, self._seeds, self._options, strict=True):
            remote.send(("reset", (seed, options)))
        _, self.reset_infos = zip(*[remote.recv() for remote in self.remotes], strict=True)  # type: ignore[assignment]
        self._reset_seeds()
        self._reset_options()
        observations: VecEnvObs = shared.read()
        return observations

    def _raise(self, number: int, report: Report | None) -> None:
        if report is None:
            return
        sentence, trace = report
        if not trace:
            raise EnvFault(sentence)
        fault = EnvFault(f"{self._id} raised an error in worker {number} after {self._last(number)}: {sentence}")
        fault.add_note(trace)
        raise fault

    def _last(self, number: int) -> str:
        return f"the action {self._actions[number]}" if len(self._actions) else "no action yet"

    def get_images(self) -> Sequence[np.ndarray | None]:
        """A frame of each."""
        with self._alive():
            return super().get_images()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of each."""
        with self._alive():
            return super().get_attr(attr_name, indices)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> Any:
        """What a method of each returns."""
        with self._alive():
            return super().env_method(method_name, *method_args, indices=indices, **method_kwargs)

    def close(self) -> None:
        """End the workers, those that still live."""
        if self.closed:
            return
        try:
            if self._died:
                self._kill()
            else:
                super().close()
        except (EOFError, OSError, Hung):
            self._kill()
        if self._shared is not None:
            self._shared.close()

    @contextmanager
    def _alive(self) -> Iterator[None]:
        """Name the worker that died where talking to it failed."""
        try:
            yield
        except Hung as hung:
            self._died = True
            self.processes[hung.number].kill()  # which it cannot put off
            raise EnvFault(
                f"Worker {hung.number} of {len(self.processes)}, which plays {self._id}, hangs after "
                f"{self._last(hung.number)}, and was ended: {hung}"
            ) from None
        except (EOFError, OSError) as error:
            self._died = True
            raise EnvFault(self._obituary()) from error

    def _obituary(self) -> str:
        until = time.monotonic() + 2.0  # its pipe closes a moment before the process has ended
        while all(process.is_alive() for process in self.processes) and time.monotonic() < until:
            time.sleep(0.01)
        for number, process in enumerate(self.processes):
            if not process.is_alive():
                return (
                    f"Worker {number} of {len(self.processes)}, which plays {self._id}, died with exit code "
                    f"{process.exitcode}{_signal(process.exitcode)} after {self._last(number)}."
                )
        return f"A worker that plays {self._id} closed its pipe without a word and lives on."

    def _kill(self) -> None:
        processes = getattr(self, "processes", [])
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(PATIENCE)
            process.kill()  # where the environment swallowed the signal, or hangs
            process.join()
        for remote in getattr(self, "remotes", []):
            remote.close()
        if self._shared is not None:
            self._shared.close()
        self.closed = True


def _signal(code: int | None) -> str:
    """The name of the signal that ended a process, and what it mostly means."""
    if code is None or code >= 0:
        return ""
    known = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return (
        f" ({known}: the machine ran out of memory?)"
        if sys.platform != "win32" and known == "SIGKILL"
        else f" ({known})"
    )
