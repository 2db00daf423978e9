"""MuJoCo's scenes: the published protocols, by numbers; and that physics never sees them."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from stillsight.envs import EnvError, EnvOptions, make_env
from stillsight.envs.shifts.mujoco.camera import Camera
from stillsight.envs.shifts.mujoco.flight import Flight
from stillsight.envs.shifts.mujoco.scene import canvas
from stillsight.envs.shifts.mujoco.sphere import cartesian, looking, spherical
from stillsight.envs.shifts.rows import MUJOCO_SCENES
from stillsight.envs.shifts.shifted import Shifted

pytest.importorskip("mujoco")

SPINNER = """
<mujoco>
  <asset><texture name="sky" type="skybox" builtin="flat" rgb1="0 0 1" width="32" height="32"/>
    <material name="body" rgba="0.7 0.5 0.3 1"/><material name="floor" rgba="0.1 0.9 0.1 1" reflectance="0.4"/></asset>
  <worldbody>
    <light pos="0 -2 3"/>
    <camera name="fixed" pos="0 -4 1" xyaxes="1 0 0 0 0 1"/>
    <camera name="follow" mode="trackcom" pos="0 -3 1.5" xyaxes="1 0 0 0 0.4 1"/>
    <camera name="above" pos="0 0 4"/>
    <camera name="hanging" pos="0 -4 1" xyaxes="-0.985 0 0.174 -0.174 0 -0.985"/>
    <geom name="ground" type="plane" size="4 4 .1" material="floor"/>
    <body pos="0 0 1"><joint name="spin" axis="0 1 0"/>
      <geom name="arm" type="capsule" size=".1" fromto="0 0 0 .6 0 0" material="body"/>
      <geom name="tip" type="sphere" size=".2" pos=".6 0 0" rgba="1 0 0 1"/></body>
  </worldbody>
  <actuator><motor joint="spin"/></actuator>
</mujoco>
"""


class Physics:
    """As much of dm_control's `Physics` as is drawn with: `render` with its arguments, and models by `ptr`."""

    def __init__(self) -> None:
        import mujoco

        self.mujoco = mujoco
        self.plain = mujoco.MjModel.from_xml_string(SPINNER)
        self.held = mujoco.MjData(self.plain)
        self.model = type("Model", (), {"ptr": self.plain, "name2id": self.number})()
        self.data = type("Data", (), {"ptr": self.held})()
        self.drawn: list[dict[str, Any]] = []
        mujoco.mj_forward(self.plain, self.held)

    def number(self, name: str, _kind: str) -> int:
        return int(self.mujoco.mj_name2id(self.plain, self.mujoco.mjtObj.mjOBJ_CAMERA, name))

    def render(
        self,
        height: int = 24,
        width: int = 32,
        camera_id: Any = -1,  # noqa: ARG002 - dm_control's arguments
        overlays: tuple[()] = (),  # noqa: ARG002
        depth: bool = False,  # noqa: ARG002
        segmentation: bool = False,
        scene_option: Any = None,  # noqa: ARG002
    ) -> Any:
        """A picture without OpenGL: the sky above, ground below, a thing in the middle; or what is what of it."""
        things = np.full((height, width, 2), -1, np.int32)
        things[height // 2 :] = (0, 5)
        things[4:8, 4:8] = (2, 5)
        if segmentation:
            return things
        model, data = self.plain, self.held
        self.drawn.append(
            {
                "colours": np.concatenate([model.mat_rgba, model.geom_rgba]).copy(),
                "place": data.cam_xpos.copy(),
                "matrix": data.cam_xmat.copy().reshape(-1, 3, 3),
                "samples": int(model.vis.quality.offsamples),
            }
        )
        image = np.full((height, width, 3), 10, np.uint8)
        image[things[..., 0] == 0], image[things[..., 0] == 2] = 100, 200
        return image


class Robot(gym.Env[Any, Any]):
    """A robot that observes what its physics draws through a camera."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space, action_space = gym.spaces.Box(0, 255, (24, 32, 3), np.uint8), gym.spaces.Discrete(2)
    render_mode = "rgb_array"

    def __init__(self, camera_id: int = 0, **_: Any) -> None:
        self.physics, self.camera_id = Physics(), camera_id

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        physics = self.physics
        physics.mujoco.mj_resetData(physics.plain, physics.held)
        physics.held.qpos[:] = self.np_random.uniform(-1, 1)
        physics.mujoco.mj_forward(physics.plain, physics.held)
        return physics.render(camera_id=self.camera_id), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        physics = self.physics
        physics.held.ctrl[:] = action
        physics.mujoco.mj_step(physics.plain, physics.held, nstep=5)
        return physics.render(camera_id=self.camera_id), float(physics.held.qpos[0]), False, False, {}

    def render(self) -> Any:
        return self.physics.render(48, 64, self.camera_id)


class Numb(Robot):
    """Observes numbers, and begins each episode with physics of its own."""

    observation_space = gym.spaces.Box(-1, 1, (3,))  # type: ignore[assignment]
    anew = True

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        if self.anew:
            self.physics = Physics()
        gym.Env.reset(self, seed=seed, options=options)
        return np.zeros(3, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.physics.mujoco.mj_step(self.physics.plain, self.physics.held)
        return np.zeros(3, np.float32), float(action), False, False, {}


class Still(Numb):
    """The same, whose physics stay."""

    anew = False


class Eyed(Still):
    """Observes through an eye of its own, and films by its physics."""

    observation_space = Robot.observation_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return Physics().render(), super().reset(seed=seed, options=options)[1]

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return Physics().render(), *super().step(action)[1:]  # type: ignore[return-value]


class Late(Robot):
    """Observes what the physics draw with which it has just begun an episode."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.physics = Physics()
        return super().reset(seed=seed, options=options)


ROBOTS = {f"StillsightTest{kind.__name__}-v0": kind for kind in (Robot, Eyed, Numb, Still, Late)}


@pytest.fixture(autouse=True, scope="module")
def _registered() -> Iterator[None]:
    for env_id, kind in ROBOTS.items():
        gym.register(env_id, kind, disable_env_checker=True, max_episode_steps=50)
    yield
    for env_id in ROBOTS:
        gym.registry.pop(env_id)


Made = Callable[..., tuple[Any, Physics]]


@pytest.fixture
def robot() -> Made:
    def make(shift: str | None = None, camera: int = 0) -> tuple[Any, Physics]:
        options = EnvOptions(shift=shift, kwargs=(("camera_id", camera),))
        env = make_env("StillsightTestRobot-v0", options)
        return env, env.unwrapped.physics  # type: ignore[attr-defined]

    return make


def colours(physics: Physics) -> Any:
    return np.array([drawn["colours"] for drawn in physics.drawn])


@pytest.mark.parametrize("strength", [0.1, 0.3, 1.0])
def test_colours_are_as_far_as_the_strength_from_their_own_in_range_and_stay_for_an_episode(
    robot: Made, strength: float
) -> None:
    env, physics = robot(f"colours:{strength}")
    own = np.concatenate([physics.plain.mat_rgba, physics.plain.geom_rgba]).astype(float)
    physics.drawn.clear()
    for seed in range(30):
        env.reset(seed=seed)
        env.step(1)
    seen = colours(physics)
    np.testing.assert_array_equal(seen[::2], seen[1::2], "for an episode")
    assert (seen[..., 3] == own[:, 3]).all(), "opacity is left alone"
    changed = [0, 1, 4]  # both materials, and the tip, which has a colour of its own
    np.testing.assert_array_equal(seen[:, [2, 3]], np.broadcast_to(own[[2, 3]], seen[:, [2, 3]].shape))
    low, high = np.clip(own - strength, 0, 1)[changed, :3], np.clip(own + strength, 0, 1)[changed, :3]
    drawn = seen[::2][:, changed, :3]
    assert (drawn >= low - 1e-6).all()
    assert (drawn <= high + 1e-6).all()
    spread = (drawn - low) / (high - low)
    assert spread.min() < 0.1 < 0.9 < spread.max(), "uniform between the bounds"
    random = np.random.default_rng((29, 0x5E1F7)).spawn(1)[0]
    np.testing.assert_allclose(drawn[-1], low + random.uniform(size=low.shape) * (high - low), atol=1e-6)
    np.testing.assert_array_equal(np.concatenate([physics.plain.mat_rgba, physics.plain.geom_rgba]), own.astype("f4"))


def test_drifting_colours_walk_by_three_per_cent_of_the_strength_and_stay_in_bounds(robot: Made) -> None:
    env, physics = robot("drifting-colours:0.3")
    own = physics.plain.mat_rgba[0, :3].astype(float)
    physics.drawn.clear()
    env.reset(seed=1)
    for _ in range(49):
        env.step(0)
    walk = colours(physics)[:, 0, :3].astype(float)
    steps = np.diff(walk, axis=0)
    assert steps.std() == pytest.approx(0.03 * 0.3, rel=0.25)
    assert (np.abs(walk - own) <= 0.3 + 1e-6).all()
    env.render()
    np.testing.assert_array_equal(colours(physics)[-1], colours(physics)[-2], "a film changes nothing")


def test_physics_and_rewards_never_see_a_scene(robot: Made) -> None:
    played = {}
    for shift in (None, "drifting-colours:1+drifting-camera:1+background:1"):
        env, physics = robot(shift, 1)
        rewards = []
        for seed in (5, 6):
            env.reset(seed=seed)
            rewards += [env.step(action % 2)[1] for action in range(20)]
        played[shift] = (rewards, physics.held.qpos.copy(), physics.held.cam_xpos.copy(), physics.held.cam_xmat.copy())
    for one, other in zip(*played.values(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("camera", [0, 1, 2, 3])
def test_a_camera_that_hardly_moves_stands_where_the_model_has_it(robot: Made, camera: int) -> None:
    env, physics = robot("camera:0.000001", camera)
    physics.drawn.clear()
    env.reset(seed=3)
    place, matrix = physics.held.cam_xpos[camera], physics.held.cam_xmat[camera].reshape(3, 3)
    np.testing.assert_allclose(physics.drawn[0]["place"][camera], place, atol=1e-4)
    np.testing.assert_allclose(physics.drawn[0]["matrix"][camera], matrix, atol=1e-4)


@pytest.mark.parametrize("strength", [0.1, 0.3, 1.0])
@pytest.mark.parametrize("camera", [0, 1, 2])
def test_cameras_stay_within_the_published_bounds_and_look_at_the_same_point(
    robot: Made, camera: int, strength: float
) -> None:
    env, physics = robot(f"camera:{strength}", camera)
    quarter = np.pi / 2 * strength
    moved = []
    for seed in range(25):
        physics.drawn.clear()
        env.reset(seed=seed)
        data, drawn = physics.held, physics.drawn[0]
        mass = data.subtree_com[1]
        pivot = mass if camera == 1 else np.zeros(3)
        own, ahead = spherical(data.cam_xpos[camera] - pivot), -data.cam_xmat[camera].reshape(3, 3)[:, 2]
        target = data.cam_xpos[camera] + ahead * np.linalg.norm(data.cam_xpos[camera] - mass)
        place, matrix = drawn["place"][camera], drawn["matrix"][camera]
        radius, sideways, polar = spherical(place - pivot)
        moved.append(radius / own[0])
        assert 1 - 0.5 * strength - 1e-9 <= radius / own[0] <= 1 + 1.5 * strength + 1e-9
        if camera != 2:
            assert abs((sideways - own[1] + np.pi) % (2 * np.pi) - np.pi) <= quarter + 1e-9
            assert polar <= max(np.pi / 2, own[2]) + 1e-9, "never below the ground"
        assert abs(polar - own[2]) <= quarter + 1e-9
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-9)
        assert np.linalg.det(matrix) == pytest.approx(1)
        np.testing.assert_allclose(-matrix[:, 2], (target - place) / np.linalg.norm(target - place), atol=1e-9)
        upright = looking(place, target, down=camera == 2)
        roll = np.arctan2(*(upright.T @ matrix)[[1, 0], 0])
        assert abs(roll) <= quarter + 1e-9
    assert min(moved) < 1 < max(moved)


def published_look(agent: Any, camera: Any) -> Any:
    """An upright camera's matrix by yaw and pitch, as the Distracting Control Suite has it."""
    towards = (agent - camera) / np.linalg.norm(agent - camera)
    yaw, pitch = np.arctan2(towards[0], towards[1]), np.arctan2(towards[2], np.hypot(*towards[:2])) + np.pi / 2
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    about_z = np.array([[np.cos(yaw), np.sin(yaw), 0], [-np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    return about_z @ about_x


@pytest.mark.parametrize("seed", range(8))
def test_where_a_camera_looks_is_what_yaw_and_pitch_give(seed: int) -> None:
    agent, camera = np.random.default_rng(seed).normal(size=(2, 3))
    np.testing.assert_allclose(looking(camera, agent, down=False), published_look(agent, camera), atol=1e-9)
    np.testing.assert_allclose(cartesian(spherical(camera)), camera, atol=1e-12)


def test_a_flight_is_the_published_walk_within_its_bounds() -> None:
    strength, start = 0.3, np.array([4.0, -np.pi / 2, 1.3])
    for seed in range(5):
        flight = Flight(np.random.default_rng(seed), strength, start, down=False)
        walk = np.array([flight.place(step) for step in range(300)])
        assert (walk >= flight.low - 1e-12).all()
        assert (walk <= flight.high + 1e-12).all()
        speeds = np.linalg.norm(np.diff([cartesian(sphere[:3]) for sphere in walk], axis=0), axis=1)
        assert speeds.max() <= 0.4 * strength + 1e-9, "for a camera 4 away"
        assert speeds.max() > 0.2 * strength
        assert np.abs(np.diff(walk[:, 3])).max() <= np.pi / 50 * strength + 1e-12
        again = Flight(np.random.default_rng(seed), strength, start, down=False)
        np.testing.assert_array_equal(again.place(299), walk[-1], "whatever was drawn in between")


def test_the_sky_and_the_floor_are_covered_and_no_thing_is(robot: Made) -> None:
    plain = robot()[0].reset(seed=2)[0].transpose(1, 2, 0)
    for shift, floor in (("sky", False), ("background", True)):
        env, _ = robot(f"{shift}:1")
        shown = env.reset(seed=2)[0].transpose(1, 2, 0)
        thing = (plain == 200).all(-1)
        np.testing.assert_array_equal(shown[thing], 200)
        changed = (shown != plain).any(-1)
        assert changed[(plain == 10).all(-1)].mean() > 0.95
        assert changed[(plain == 100).all(-1)].mean() == (pytest.approx(1, abs=0.05) if floor else 0)
        half = robot(f"{shift}:0.5")[0].reset(seed=2)[0].transpose(1, 2, 0).astype(float)
        assert np.abs(half - (shown.astype(float) + plain) / 2).max() <= 1
        moved = env.step(0)[0].transpose(1, 2, 0)
        assert (moved != shown)[~thing].any()


def test_a_users_own_film_is_behind_the_robot(robot: Made, tmp_path: Path) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "red.png"), np.full((20, 20, 3), (0, 0, 255), np.uint8))
    env, _ = robot(f"background@{tmp_path / 'red.png'}")
    shown = env.reset(seed=0)[0].transpose(1, 2, 0)
    assert {tuple(pixel) for pixel in shown.reshape(-1, 3).tolist()} == {(255, 0, 0), (200, 200, 200)}


def test_one_seed_gives_one_scene_and_the_next_episode_another(robot: Made) -> None:
    runs = []
    for _ in range(2):
        env, physics = robot("colours+drifting-camera")
        physics.drawn.clear()
        for seed in (7, None, 7):
            env.reset(seed=seed)
            env.step(1)
        runs.append(physics.drawn)
    for key in ("colours", "place", "matrix"):
        one, other = (np.array([drawn[key] for drawn in run]) for run in runs)
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one[:2], one[4:])
        assert (one[0] != one[2]).any()


def test_a_look_is_restored_in_the_middle_of_an_episode(robot: Made) -> None:
    env, physics = robot("drifting-colours+drifting-camera:0.4", 0)
    env.reset(seed=7)
    for _ in range(6):
        env.step(0)
    layer: Any = env
    while not isinstance(layer, Shifted):
        layer = layer.env
    saved, drawn = layer.snapshot(), physics.drawn[-1]
    other, its = robot("drifting-colours+drifting-camera:0.4", 0)
    other.reset(seed=99)
    layer = other
    while not isinstance(layer, Shifted):
        layer = layer.env
    layer.restore_snapshot(saved)
    other.render()
    np.testing.assert_array_equal(its.drawn[-1]["colours"], drawn["colours"])
    for key in ("place", "matrix"):
        np.testing.assert_array_equal(its.drawn[-1][key][0], drawn[key][0])


def test_depth_and_segmentation_stay_what_they_are_and_cameras_have_names(robot: Made) -> None:
    _, physics = robot("background+colours:1")
    np.testing.assert_array_equal(physics.render(segmentation=True), Physics().render(segmentation=True))
    np.testing.assert_array_equal(physics.render(24, 32, depth=True), Physics().render(24, 32, depth=True))
    _, physics = robot("camera:1")
    physics.drawn.clear()
    physics.render(camera_id="follow")
    assert (physics.drawn[0]["place"][1] != physics.held.cam_xpos[1]).any()
    np.testing.assert_array_equal(physics.drawn[0]["place"][0], physics.held.cam_xpos[0])


def test_a_camera_that_is_none_of_the_model_is_refused_where_it_cannot_be_moved(robot: Made) -> None:
    with pytest.raises(EnvError, match=r"moves a camera of the model.*--env-set camera_id=0"):
        robot("camera", -1)


def test_an_environment_without_a_scene_is_refused_and_has_the_background_of_any_picture() -> None:
    gym.register("StillsightTestFlat-v0", "flat_world:Flat", disable_env_checker=True)
    try:
        with pytest.raises(EnvError, match=r"StillsightTestFlat-v0 draws no scene of MuJoCo's"):
            make_env("StillsightTestFlat-v0", EnvOptions(shift="colours"))
        shown = make_env("StillsightTestFlat-v0", EnvOptions(shift="background")).reset(seed=0)[0]
        assert (shown != 50).any(0).mean() > 0.9
    finally:
        gym.registry.pop("StillsightTestFlat-v0")


@pytest.mark.parametrize("env_id", ["StillsightTestEyed-v0", "StillsightTestLate-v0"])
def test_a_scene_that_no_image_is_drawn_through_is_refused(env_id: str) -> None:
    """An agent was measured under a shift that it never saw: its film alone showed it."""
    for shift in ("camera:0.3", "colours", "sky", "plain", "colours+noise"):
        with pytest.raises(
            EnvError, match=rf"^The shift \w+ would not be seen: the images that {env_id} shows are not"
        ):
            make_env(env_id, EnvOptions(shift=shift))
    assert make_env(env_id, EnvOptions(shift="camera:0+noise")).reset(seed=0)[0].any()


def test_an_eye_of_one_s_own_has_the_background_of_any_picture() -> None:
    env, other = (make_env("StillsightTestEyed-v0", EnvOptions(shift="background+blur:0.1")) for _ in range(2))
    shown, own = env.reset(seed=4)[0], Physics().render().transpose(2, 0, 1)
    assert (shown[:, 14:] != own[:, 14:]).any(0).mean() > 0.9, "the ground has the commonest colour"
    np.testing.assert_array_equal(shown, env.reset(seed=4)[0], "by one seed as at the first time")
    np.testing.assert_array_equal(shown, other.reset(seed=4)[0])
    assert (env.step(0)[0] != shown).any()
    frame = env.unwrapped.render()
    assert {tuple(pixel) for pixel in frame.reshape(-1, 3).tolist()} == {(10,) * 3, (100,) * 3, (200,) * 3}  # type: ignore[union-attr]


def test_a_renderer_that_is_made_anew_is_drawn_through_the_same_scene() -> None:
    """Each episode but the first was shown as if there were no shift."""
    drawn: dict[str, list[Any]] = {}
    for env_id in ("StillsightTestNumb-v0", "StillsightTestStill-v0"):
        env: Any = make_env(env_id, EnvOptions(shift="drifting-colours:0.5+background", kwargs=(("camera_id", 0),)))
        drawn[env_id], own = [], np.concatenate([Physics().plain.mat_rgba, Physics().plain.geom_rgba])
        for seed in (3, 4):
            image = env.reset(seed=seed)[0]
            assert not (image == 10).all(0).any(), "nothing is left of the sky"
            for _ in range(2):
                assert (env.unwrapped.physics.drawn[-1]["colours"] != own).any()
                drawn[env_id].append(env.unwrapped.physics.drawn[-1]["colours"])
                env.step(0)
        assert len(canvas(env).scenes) == 2
    np.testing.assert_array_equal(*drawn.values(), "as where it stays")


@pytest.mark.parametrize("env_id", ["StillsightTestRobot-v0", "StillsightTestNumb-v0", "StillsightTestStill-v0"])
def test_plain_is_there_before_the_first_picture_whose_samples_stay(env_id: str) -> None:
    """What an agent sees of a rendering is drawn once before anything stands around it."""
    env: Any = make_env(env_id, EnvOptions(shift="plain", kwargs=(("camera_id", 0),)))
    env.reset(seed=0)
    assert [drawn["samples"] for drawn in env.unwrapped.physics.drawn] == [0] * len(env.unwrapped.physics.drawn)
    assert env.unwrapped.physics.drawn


def test_what_is_drawn_comes_first_since_it_is_seen_first(robot: Made, tmp_path: Path) -> None:
    """The hue of hue+background turned the background too, and that of any picture does not."""
    with pytest.raises(EnvError, match=r"background was .*after hue, .* Type it first: background:1\+hue:0\.5$"):
        robot("hue+background")
    with pytest.raises(
        EnvError, match=r"camera was asked for after hue.*first: colours:0\.2\+camera:0\.2\+hue:1\+blur"
    ):
        robot("colours+hue:1+blur+camera")
    (tmp_path / "there").mkdir()
    with pytest.raises(EnvError, match=r"Nothing can be typed after the path of sky@.*there, which reaches to the end"):
        robot(f"hue+sky@{tmp_path}/there")
    for allowed in ("background+hue", "hue+camera:0", "hue:0+camera"):
        robot(allowed)[0].reset(seed=0)
    gym.register("StillsightTestFlat-v0", "flat_world:Flat", disable_env_checker=True)
    try:
        make_env("StillsightTestFlat-v0", EnvOptions(shift="hue+background")).reset(seed=0)
    finally:
        gym.registry.pop("StillsightTestFlat-v0")


def test_two_scenes_of_an_environment_hang_on_one_canvas(robot: Made) -> None:
    env, physics = robot("colours+camera+sky")
    assert len(canvas(env).scenes) == 3
    assert isinstance(canvas(env).scenes[1], Camera)
    assert canvas(env).scenes == physics.render.__self__.scenes  # type: ignore[attr-defined]


DRAWS = importlib.util.find_spec("dm_control") is not None and bool(os.environ.get("MUJOCO_GL"))


@pytest.mark.parametrize(("strength", "reflects"), [("", 0.0), (":0.5", 0.2), (":0", 0.4)])
def test_plain_draws_no_shadows_no_samples_and_weaker_reflections(robot: Made, strength: str, reflects: float) -> None:
    env, physics = robot(f"plain{strength}")
    model, drawn_less = physics.plain, strength != ":0"
    env.reset(seed=1)
    assert model.light_castshadow.tolist() == [not drawn_less]
    assert model.mat_reflectance.tolist() == pytest.approx([0.0, reflects])
    assert (model.vis.quality.offsamples == 0) == drawn_less


@pytest.mark.slow
@pytest.mark.skipif(not DRAWS, reason="needs dm_control, and MUJOCO_GL=egl or osmesa")
@pytest.mark.parametrize("domain", ["cartpole", "reacher", "walker"])
def test_dm_control_itself_is_drawn_otherwise_and_plays_on_as_without(domain: str) -> None:
    pytest.importorskip("triton")  # before Mesa is loaded: see the README of suites
    from dm_control import suite

    task = {"cartpole": "swingup", "reacher": "easy", "walker": "walk"}[domain]

    class Control(gym.Env[Any, Any]):
        metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012
        render_mode = "rgb_array"
        observation_space, action_space = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8), gym.spaces.Discrete(2)

        def __init__(self) -> None:
            self.control = suite.load(domain, task, task_kwargs={"random": 0})

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
            super().reset(seed=seed, options=options)
            self.control.task._random = np.random.RandomState(seed)
            self.control.reset()
            return self.render(), {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            step = self.control.step(np.full(self.control.action_spec().shape, float(action)))
            return self.render(), float(step.reward), False, False, {}

        def render(self) -> Any:
            return self.control.physics.render(64, 64, camera_id=0)

    played = {}
    for shift in (None, *MUJOCO_SCENES):
        env: Any = Control() if shift is None else Shifted(Turned(Control()), shift, None, MUJOCO_SCENES)
        env.reset(seed=4)
        frames, rewards = [], []
        for action in (1, 0, 1, 1):
            env.step(action)
            frames.append(env.render())
            rewards.append(env.unwrapped.control.physics.get_state().copy())
        played[shift] = (np.stack(frames), np.stack(rewards))
    for shift in MUJOCO_SCENES:
        np.testing.assert_array_equal(played[shift][1], played[None][1])
        hidden = domain == "reacher" and shift == "sky"  # from above no sky is seen
        assert (played[shift][0] != played[None][0]).any() != hidden


class Turned(gym.ObservationWrapper[Any, Any, Any]):
    """Channels first."""

    def observation(self, observation: Any) -> Any:
        return observation.transpose(2, 0, 1)


@pytest.mark.slow
@pytest.mark.skipif(not DRAWS, reason="needs MUJOCO_GL=egl or osmesa")
def test_gymnasiums_renderer_draws_through_the_same_scenes() -> None:
    pytest.importorskip("triton")
    pytest.importorskip("imageio")  # which Gymnasium's renderer imports
    plain = make_env("InvertedPendulum-v5", EnvOptions(size=64))
    own = plain.reset(seed=1)[0]
    for shift in ("colours:0.3", "camera", "drifting-camera", "sky", "background", "plain"):
        env = make_env("InvertedPendulum-v5", EnvOptions(size=64, shift=shift))
        shown = env.reset(seed=1)[0]
        assert (shown != own).any(), shift
        np.testing.assert_array_equal(env.unwrapped.data.qpos, plain.unwrapped.data.qpos)  # type: ignore[attr-defined]
        viewer = env.unwrapped.mujoco_renderer._get_viewer("rgb_array")  # type: ignore[attr-defined]
        assert viewer.con.offSamples == (0 if shift == "plain" else 4)
        env.close()
    plain.close()
