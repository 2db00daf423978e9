"""MuJoCo's scenes seen otherwise: colours, cameras and backgrounds, for dm_control and Gymnasium's renderer alike.

The protocols of the Distracting Control Suite (Stone et al. 2021, google-research/distracting_control: colours and
cameras, static and dynamic, easy, medium and hard at 0.1, 0.2 and 0.3) and of DMControl-GB (Hansen & Wang 2021:
`video_easy` is the sky, `video_hard` the sky and the floor).

A model is changed while a picture of it is drawn, and put back at once: physics, rewards and states never see it.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from stillsight.envs.errors import EnvError
from stillsight.envs.shifts.covering import blended, drawn
from stillsight.envs.shifts.pictures import Pictures
from stillsight.envs.shifts.rows import Image
from stillsight.envs.wrappers.sight import name

Array = NDArray[np.float64]

_GEOM = 5
"""`mjtObj.mjOBJ_GEOM`."""
_PLANE = 0
"""`mjtGeom.mjGEOM_PLANE`."""
_DEFAULT = (0.5, 0.5, 0.5, 1.0)
"""A geom's colour in MuJoCo unless it has one of its own; then its material's is drawn."""


@dataclass(frozen=True)
class View:
    """A picture that is about to be drawn.

    Attributes:
        model, data: `mujoco.MjModel` and `MjData`.
        camera: its number in the model; -1 for one that is in none.
        free: `mujoco.MjvCamera` where it is in none and can be moved.
    """

    model: Any
    data: Any
    camera: int
    free: Any = None


class MujocoScene:
    """What all of these have in common: they hang on the canvas of an environment."""

    def __init__(self, env: gym.Env[Any, Any], strength: float, pictures: Pictures | None) -> None:
        self._strength, self._own_pictures = strength, pictures
        self._step = 0
        self.canvas = canvas(env)
        self.canvas.scenes.append(self)

    def begin(self, random: np.random.Generator) -> None:
        """An episode begins."""

    def show(self, step: int) -> None:
        """So many agent steps are done."""
        self._step = step

    def put(self, view: View) -> Callable[[], None]:
        """Change the model or the camera; what is returned puts it back."""
        del view
        return lambda: None

    def behind(self, model: Any, ids: NDArray[np.int32]) -> NDArray[np.bool_] | None:
        """Which pixels `[H, W]` are covered, of ids and types of what is seen, `[H, W, 2]`; None: no picture is."""
        del model, ids
        return None

    def cover(self, image: Image) -> Image:
        """What is seen in those pixels."""
        return image


class Colours(MujocoScene):
    """All colours of materials, and of geoms that have their own, drawn anew for each episode from those that are up to
    `strength` of full scale away in each channel and in range (Distracting Control Suite, `max_delta`)."""

    drift: ClassVar[float] = 0.0
    """Standard deviation of a step of the walk, as a part of the strength."""

    def __init__(self, env: gym.Env[Any, Any], strength: float, pictures: Pictures | None) -> None:
        super().__init__(env, strength, pictures)
        model = self.canvas.model
        own = (model.geom_rgba != np.array(_DEFAULT, np.float32)).any(1) | (model.geom_matid < 0)
        self._geoms = np.flatnonzero(own)
        plain = np.concatenate([model.mat_rgba[:, :3], model.geom_rgba[self._geoms, :3]]).astype(np.float64)
        self._low, self._high = np.clip(plain - strength, 0.0, 1.0), np.clip(plain + strength, 0.0, 1.0)

    def begin(self, random: np.random.Generator) -> None:
        """Draw them."""
        self._now = self._low + random.uniform(size=self._low.shape) * (self._high - self._low)
        self._random, self._walked = random, 0

    def colours(self) -> Array:
        """Of this step, `[materials + geoms of their own, 3]`, 0..1."""
        while self.drift and self._walked < self._step:
            step = self._random.standard_normal(self._now.shape) * self.drift * self._strength
            self._now = np.clip(self._now + step, self._low, self._high)
            self._walked += 1
        return self._now

    def put(self, view: View) -> Callable[[], None]:
        """Give them to the model."""
        model, colours = view.model, self.colours()
        before = model.mat_rgba.copy(), model.geom_rgba.copy()
        model.mat_rgba[:, :3] = colours[: model.nmat]
        model.geom_rgba[self._geoms, :3] = colours[model.nmat :]

        def back() -> None:
            model.mat_rgba[:], model.geom_rgba[:] = before

        return back


class DriftingColours(Colours):
    """The same, and each channel walks on by a normal step of 3 % of the strength (the dynamic setting)."""

    drift = 0.03


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
        data.cam_xmat[camera] = (looking(there, target, down=down) @ _about_z(sphere[3])).ravel()

        def back() -> None:
            data.cam_xpos[camera], data.cam_xmat[camera] = position, matrix

        return back


class Flight:
    """Where a camera stands in the steps of an episode: radius, angle about the vertical, angle from it, and roll.

    Args:
        random: what it is drawn from.
        strength: above 0.
        start: the first three as the model has them.
        down: whether it looks straight down there.
    """

    def __init__(self, random: np.random.Generator, strength: float, start: Array, *, down: bool) -> None:
        quarter, (radius, sideways, polar) = np.pi / 2 * strength, start
        self.low = np.array([radius * (1.0 - 0.5 * strength), sideways - quarter, polar - quarter, -quarter])
        self.high = np.array([radius * (1.0 + 1.5 * strength), sideways + quarter, polar + quarter, quarter])
        if not down:
            self.low[2], self.high[2] = max(self.low[2], 0.0), min(self.high[2], max(np.pi / 2, polar))
        self._random, self._strength, self._scale = random, strength, radius / 4.0
        self._sphere: Array = self.low + random.uniform(size=4) * (self.high - self.low)
        direction = random.standard_normal(3)
        self._velocity = direction / np.linalg.norm(direction) * random.uniform(0.0, 0.4 * strength)
        self._most_roll = np.pi / 50 * strength
        self._roll_velocity = random.uniform(-self._most_roll, self._most_roll)
        self._walked = -1  # the published walk moves before the first picture, too

    def place(self, step: int | None) -> Array:
        """Of a step, none earlier than that of the last call; None: where it begins."""
        while step is not None and self._walked < step:
            self._fly()
            self._walked += 1
        return self._sphere

    def _fly(self) -> None:
        """One step of the walk: a velocity that walks itself, and ends at the bounds."""
        most = 0.4 * self._strength * self._scale
        velocity = self._velocity + self._random.standard_normal(3) * 0.1 * self._strength * self._scale
        speed = float(np.linalg.norm(velocity))
        velocity = velocity * min(1.0, most / speed)
        roll = self._roll_velocity + self._random.standard_normal() * np.pi / 300 * self._strength
        roll = float(np.clip(roll, -self._most_roll, self._most_roll))
        before = cartesian(self._sphere[:3])
        there = np.append(spherical(before + velocity), self._sphere[3] + roll)
        there[1] = self._sphere[1] + _between(there[1] - self._sphere[1])  # the same angle, on this side of the seam
        moved = np.clip(there, self.low, self.high)
        self._velocity = cartesian(moved[:3]) - before
        self._roll_velocity = float(moved[3] - self._sphere[3])
        self._sphere = moved


class FlyingCamera(Camera):
    """The same, and it flies on in every step (the dynamic setting): a velocity of up to `strength` x 0.4 a step, for
    a camera 4 away, that walks itself by a normal step of `strength` x 0.1, and a roll by up to `strength` x 3.6
    degrees."""

    flying = True


class Sky(MujocoScene):
    """Waves, or a user's own pictures, in place of the sky, mixed in at `strength`; by MuJoCo's own segmentation."""

    floor: ClassVar[bool] = False

    def begin(self, random: np.random.Generator) -> None:
        """Draw them."""
        self._pattern = drawn(random, self._own_pictures)

    def behind(self, model: Any, ids: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Where nothing is, and for the background the planes, which are floors."""
        covered: NDArray[np.bool_] = ids[..., 0] < 0
        if self.floor:
            geoms = (ids[..., 1] == _GEOM) & ~covered
            covered = covered | (geoms & (model.geom_type[np.where(geoms, ids[..., 0], 0)] == _PLANE))
        return covered

    def cover(self, image: Image) -> Image:
        """The pattern of this step over all of it."""
        return blended(image, self._pattern(image.shape[0], image.shape[1], self._step), self._strength)


class Background(Sky):
    """The same in place of the sky and the floor."""

    floor = True


class Canvas:
    """Where an environment draws: it draws through the scenes that hang here, in order.

    What draws keeps its canvas, and the canvas only a weak reference back: a renderer in a circle would be freed late,
    and take away the OpenGL context that another one has made current.

    Attributes:
        model, data: of MuJoCo.
        scenes: that a picture is drawn with.
    """

    model: Any
    data: Any

    def __init__(self) -> None:
        self.scenes: list[MujocoScene] = []

    def drawn(self, view: View, draw: Callable[[], Any], ids: Callable[[], NDArray[np.int32]] | None) -> Any:
        """What `draw` gives with the scenes in place, covered where they cover it.

        Args:
            view: what is drawn.
            draw: gives uint8 `[H, W, 3]`, or what has no colours.
            ids: gives number and type `[H, W, 2]` of what is seen in each pixel, -1 for nothing; None where there are
                no colours.
        """
        with ExitStack() as put_back:
            for scene in self.scenes:
                put_back.callback(scene.put(view))
            image = draw()
            covering = [scene for scene in self.scenes if isinstance(scene, Sky)]
            if ids is None or not covering:
                return image
            seen = ids()
        for scene in covering:
            image = np.where(scene.behind(view.model, seen)[..., None], scene.cover(np.ascontiguousarray(image)), image)
        return image


class PhysicsCanvas(Canvas):
    """dm_control's `Physics`: its method `render`, which all that sees goes through."""

    def __init__(self, physics: Any) -> None:
        super().__init__()
        self._physics, self._render = weakref.ref(physics), type(physics).render
        self._signature = inspect.signature(self._render)
        self.model, self.data = physics.model.ptr, physics.data.ptr
        physics.render = self.render

    def render(self, *args: Any, **kwargs: Any) -> Any:
        """As dm_control's, through the scenes."""
        physics: Any = self._physics()
        asked = self._signature.bind(physics, *args, **kwargs)
        asked.apply_defaults()
        arguments = asked.arguments
        camera = arguments["camera_id"]
        if isinstance(camera, str):
            camera = physics.model.name2id(camera, "camera")
        colours = not (arguments["depth"] or arguments["segmentation"])

        def ids() -> NDArray[np.int32]:
            several = {key: arguments[key] for key in ("height", "width", "camera_id", "scene_option")}
            found: NDArray[np.int32] = self._render(physics, **several, segmentation=True)
            return found

        view = View(self.model, self.data, int(camera))
        return self.drawn(view, lambda: self._render(*asked.args, **asked.kwargs), ids if colours else None)


class RendererCanvas(Canvas):
    """Gymnasium's `MujocoRenderer`."""

    def __init__(self, renderer: Any) -> None:
        super().__init__()
        self._renderer, self._render = weakref.ref(renderer), type(renderer).render
        self.model, self.data = renderer.model, renderer.data
        renderer.render = self.render

    def render(self, render_mode: str | None) -> Any:
        """As Gymnasium's, through the scenes; a window shows all as it is."""
        renderer: Any = self._renderer()
        if render_mode == "human":
            return self._render(renderer, render_mode)
        viewer = renderer._get_viewer(render_mode)
        camera = renderer.camera_id
        view = View(self.model, self.data, -1 if camera is None else int(camera), viewer.cam)
        ids = (lambda: _ids(viewer)) if render_mode == "rgb_array" else None
        return self.drawn(view, lambda: self._render(renderer, render_mode), ids)


def _ids(viewer: Any) -> NDArray[np.int32]:
    """Number and type `[H, W, 2]` of what is seen in each pixel of the scene that a viewer has just drawn; its own code
    for it stumbles over numpy 2, whose bytes cannot be multiplied by 256."""
    import mujoco

    flags = (mujoco.mjtRndFlag.mjRND_SEGMENT, mujoco.mjtRndFlag.mjRND_IDCOLOR)
    for flag in flags:
        viewer.scn.flags[flag] = 1
    pixels = np.zeros((viewer.viewport.height, viewer.viewport.width, 3), np.uint8)
    try:
        mujoco.mjr_render(viewer.viewport, viewer.scn, viewer.con)
        mujoco.mjr_readPixels(pixels, None, viewer.viewport, viewer.con)
    finally:
        for flag in flags:
            viewer.scn.flags[flag] = 0
    numbers = pixels.astype(np.int64) @ np.array([1, 2**8, 2**16])
    table = np.full((viewer.scn.ngeom + 1, 2), -1, np.int32)
    for geom in viewer.scn.geoms[: viewer.scn.ngeom]:
        if geom.segid != -1:
            table[geom.segid + 1] = geom.objid, geom.objtype
    numbers[numbers > viewer.scn.ngeom] = 0
    seen: NDArray[np.int32] = table[numbers[::-1]]  # OpenGL's first row is the lowest
    return seen


def canvas(env: gym.Env[Any, Any]) -> Canvas:
    """The canvas of an environment, made at the first call.

    Raises:
        EnvError: it draws no scene of MuJoCo's, as far as can be seen.
    """
    bare: Any = env.unwrapped
    for holder in (bare, *vars(bare).values()):
        physics, renderer = getattr(holder, "physics", None), getattr(holder, "mujoco_renderer", None)
        for owner, kind in ((physics, PhysicsCanvas), (renderer, RendererCanvas)):
            render = getattr(owner, "render", None)
            if isinstance(there := getattr(render, "__self__", None), Canvas):
                return there
            if render is not None:
                made: Canvas = kind(owner)
                return made
    raise EnvError(
        f"{name(env)} draws no scene of MuJoCo's, whose colours, camera and sky could be changed. Type another shift: "
        "stillsight look shows those that it has."
    )


def spherical(place: Array) -> Array:
    """Radius, angle about the vertical, and angle from the vertical."""
    return np.array(
        [np.linalg.norm(place), np.arctan2(place[1], place[0]), np.arctan2(np.hypot(place[0], place[1]), place[2])]
    )


def cartesian(sphere: Array) -> Array:
    """The way back from `spherical`."""
    radius, sideways, polar = sphere
    direction = np.array([np.sin(polar) * np.cos(sideways), np.sin(polar) * np.sin(sideways), np.cos(polar)])
    return direction * float(radius)


def looking(place: Array, target: Array, *, down: bool) -> Array:
    """MuJoCo's camera matrix `[3, 3]` (to the right, up, backwards) at `place` towards `target`.

    Upright; where it looked straight down, the smallest turn from there, since upright has no meaning.
    """
    back = (place - target) / np.linalg.norm(place - target)
    vertical = np.array([0.0, 0.0, 1.0])
    axis = np.cross(vertical, back)
    sine = np.linalg.norm(axis)
    if not down and sine > 1e-9:
        right = axis / sine
        return np.column_stack([right, np.cross(back, right), back])
    if sine < 1e-9:
        return np.eye(3)
    x, y, z = axis / sine
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    turned: Array = np.eye(3) + sine * cross + (1.0 - back[2]) * cross @ cross
    return turned


def _about_z(angle: float) -> Array:
    sine, cosine = np.sin(angle), np.cos(angle)
    return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])


def _between(angle: float) -> float:
    """The same angle, -pi to pi."""
    return float((angle + np.pi) % (2 * np.pi) - np.pi)
