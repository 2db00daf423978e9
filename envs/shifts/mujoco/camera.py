"""Camera: a scene seen from somewhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from stillsight.envs.errors import EnvError
from stillsight.envs.shifts.mujoco.canvas import View
from stillsight.envs.shifts.mujoco.flight import Flight
from stillsight.envs.shifts.mujoco.scene import MujocoScene
from stillsight.envs.shifts.mujoco.sphere import Array, about_z, cartesian, looking, spherical


class Camera(MujocoScene):
    """The camera somewhere else in each episode, looking at the same point (Distracting Control Suite).

    Around the point that it turns about (the origin for a camera that is fixed, the centre of mass of the first body
    for one that follows) it is moved by up to `strength` x 90 degrees each way, sideways, up and down, and never below
    the ground; it is turned about its own axis by up to as much; and it stands nearer by up to `strength` x 50 %, or
    further by up to `strength` x 150 %. A camera that looks straight down may go to all sides. What is no
    camera of the model, Gymnasium's default, cannot be turned about its axis.
    """

    flying: ClassVar[bool] = False

    def begin(self, random: np.random.Generator) -> None:
        """Draw what all flights of the episode, one for each camera, are drawn from."""
        self._key = int(random.integers(2**62))
        self._flights: dict[int, Flight] = {}

    def place(self, camera: int, start: Array, *, down: bool) -> Array:
        """Radius, angle about the vertical, angle from the vertical, and roll of this step.

        Args:
            camera: its number.
            start: the first three as the model has them.
            down: whether it looks straight down there.
        """
        if camera not in self._flights:
            self._flights[camera] = Flight(np.random.default_rng(self._key), self._strength, start, down=down)
        return self._flights[camera].place(self._step if self.flying else None)

    def put(self, view: View) -> Callable[[], None]:
        """Move it."""
        if view.camera >= 0:
            return self._put_fixed(view)
        if view.free is None:
            raise EnvError(
                "The shift camera moves a camera of the model, and here none is asked for. Name one, say: "
                "--env-set camera_id=0"
            )
        camera = view.free
        before = camera.azimuth, camera.elevation, camera.distance
        start = np.array([camera.distance, np.radians(camera.azimuth + 180.0), np.radians(90.0 + camera.elevation)])
        radius, sideways, polar, _ = self.place(-1, start, down=bool(camera.elevation < -85.0))
        camera.distance = radius
        camera.azimuth, camera.elevation = np.degrees(sideways) - 180.0, np.degrees(polar) - 90.0

        def back() -> None:
            camera.azimuth, camera.elevation, camera.distance = before

        return back

    def _put_fixed(self, view: View) -> Callable[[], None]:
        data, camera = view.data, view.camera
        position, matrix = data.cam_xpos[camera].copy(), data.cam_xmat[camera].copy()
        ahead = -matrix.reshape(3, 3)[:, 2]
        mass = data.subtree_com[min(1, view.model.nbody - 1)]
        target = position + ahead * np.linalg.norm(position - mass)
        pivot = np.zeros(3) if view.model.cam_mode[camera] == 0 else mass.copy()
        down = bool(ahead[2] < -0.99)
        sphere = self.place(camera, spherical(position - pivot), down=down)
        data.cam_xpos[camera] = there = pivot + cartesian(sphere[:3])
        own = looking(position, target, down=down).T @ matrix.reshape(3, 3)  # how it lies about its own axis already
        roll = float(np.arctan2(own[1, 0], own[0, 0]))
        data.cam_xmat[camera] = (looking(there, target, down=down) @ about_z(roll + sphere[3])).ravel()

        def back() -> None:
            data.cam_xpos[camera], data.cam_xmat[camera] = position, matrix

        return back


class FlyingCamera(Camera):
    """The same, and it flies on in every step (the dynamic setting): a velocity of up to `strength` x 0.4 a step, for
    a camera 4 away, that walks itself by a normal step of `strength` x 0.1, and a roll by up to `strength` x 3.6
    degrees."""

    flying = True
