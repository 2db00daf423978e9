"""DmControl: a task of the DeepMind Control Suite as a Gymnasium environment, seen through its cameras."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from stillsight.envs.errors import EnvError, did_you_mean
from stillsight.envs.wrappers.rules import Step

FILM = 256
"""Side in pixels of a frame to film."""


class DmControl(gym.Env[dict[str, Any], NDArray[np.float32]]):
    """A task as dm_control plays it, step by step, with the pictures of cameras beside what it observes.

    It observes a dict: `pixels`, uint8 `[size, size, 3]`, or a picture for each of several cameras under its name;
    and float32 vectors `[D]` under dm_control's own names (`position`, `velocity` ...). Actions are its own, between
    the bounds of its own. An action is repeated `frame_skip` times and its rewards added up; only the last frame is
    drawn. The end of the clock is a truncation; what a task ends itself (discount 0) a termination.

    Args:
        domain: "cartpole".
        task: "swingup".
        frame_skip: control steps for each action.
        camera: name or number of a camera, several joined by commas; "" for number 0, and 2 in the domain quadruped,
            whose others look past it (as DrQ-v2 has it).
        named: whether the picture of an only camera is under its name, too.
        pictures: whether there are any; drawing takes most of a step's time.
        size: side of a picture in pixels.
        time_limit: whether dm_control's own clock, 1,000 control steps for most, ends an episode.
        render_mode: "rgb_array".

    Raises:
        EnvError: a camera that the task does not have.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(
        self,
        domain: str,
        task: str,
        *,
        frame_skip: int = 1,
        camera: str | int = "",
        named: bool = False,
        pictures: bool = True,
        size: int = 84,
        time_limit: bool = True,
        render_mode: str = "rgb_array",
    ) -> None:
        from dm_control import suite

        self.render_mode = render_mode
        self._frame_skip, self._size = frame_skip, size
        settings: dict[str, Any] = {} if time_limit else {"time_limit": float("inf")}
        # The seed decides what is drawn while a model is built (lqr's masses); `reset` decides all that comes after.
        self._dm = suite.load(domain, task, task_kwargs={"random": 0, **settings})
        self._name = f"dm_control/{domain}-{task}-v0"
        self._flag = "--pixels " if named else "--env-set camera="
        self._cameras = self._asked(str(camera) or ("2" if domain == "quadruped" else "0"), named=named)
        self._drawn_cameras = self._cameras if pictures else {}
        self.metadata = {**self.metadata, "render_fps": max(1, round(1 / self._dm.control_timestep()))}

        action = self._dm.action_spec()
        low, high = (
            np.broadcast_to(bound, action.shape).astype(np.float32) for bound in (action.minimum, action.maximum)
        )
        self.action_space = spaces.Box(low, high, dtype=np.float32)
        picture = spaces.Box(0, 255, (size, size, 3), np.uint8)
        vectors = {
            key: spaces.Box(-np.inf, np.inf, (int(np.prod(spec.shape)),), np.float32)
            for key, spec in self._dm.observation_spec().items()
        }
        self.observation_space = spaces.Dict({**dict.fromkeys(self._drawn_cameras, picture), **vectors})

    @property
    def physics(self) -> Any:
        """dm_control's, with MuJoCo's `model` and `data`."""
        return self._dm.physics

    @property
    def max_steps(self) -> int | None:
        """Control steps after which dm_control ends an episode; None where it does not."""
        limit = self._dm._step_limit
        return int(limit) if np.isfinite(limit) else None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """A new episode; with a seed, the one that dm_control begins with that as `task_kwargs["random"]`."""
        super().reset(seed=seed, options=options)
        if seed is not None:
            self._dm.task._random = np.random.RandomState(seed)
        return self._shown(self._dm.reset()), {}

    def step(self, action: NDArray[np.float32]) -> Step:
        """Repeat an action, and draw what came of it."""
        total = 0.0
        for _ in range(self._frame_skip):
            moment = self._dm.step(np.array(action, np.float64))
            total += float(moment.reward)
            if moment.last():
                break
        terminated = bool(moment.last() and moment.discount == 0.0)
        return (
            self._shown(moment),
            total,
            terminated,
            bool(moment.last()) and not terminated,
            {"discount": moment.discount},
        )

    def render(self) -> NDArray[np.uint8]:
        """A frame to film by the first camera, uint8 `[FILM, FILM, 3]`."""
        return self._drawn(next(iter(self._cameras.values())), FILM)

    def close(self) -> None:
        """Free the model and what it is drawn with."""
        self._dm.close()

    def _shown(self, moment: Any) -> dict[str, Any]:
        pictures = {key: self._drawn(camera, self._size) for key, camera in self._drawn_cameras.items()}
        vectors = {key: np.asarray(value, np.float32).reshape(-1) for key, value in moment.observation.items()}
        return {**pictures, **vectors}

    def _drawn(self, camera: int, side: int) -> NDArray[np.uint8]:
        gl = self._dm.physics.contexts.gl
        with gl.make_current() as thread:
            # dm_control takes its context for the current one until another of its own is. Pyglet or Gymnasium's
            # renderer may have drawn in this process since: the picture would be drawn in theirs.
            thread.call(gl._platform_make_current)
        picture: NDArray[np.uint8] = self._dm.physics.render(side, side, camera_id=camera)
        return picture

    def _asked(self, cameras: str, *, named: bool) -> dict[str, int]:
        """The cameras by the key of their picture."""
        model = self._dm.physics.model
        there = [model.id2name(number, "camera") or str(number) for number in range(model.ncam)]
        asked: dict[str, int] = {}
        for each in (part.strip() for part in cameras.split(",")):
            if each in there:
                number = there.index(each)
            elif each.isdecimal() and int(each) < len(there):
                number = int(each)
            else:
                raise EnvError(
                    f"{self._name} has no camera {each!r}.{did_you_mean(each, there)} Its cameras: "
                    f"{', '.join(f'{number} {name}' for number, name in enumerate(there))}. Type, say: "
                    f"{self._flag}{there[0]}"
                )
            asked[there[number]] = number
        return asked if named or len(asked) > 1 else {"pixels": next(iter(asked.values()))}
