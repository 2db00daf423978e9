"""DeepMind Control behind the one door is dm_control itself, step by step."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from stillsight.envs import EnvError, EnvOptions, make_env, make_vec, resolve
from stillsight.envs.adapters.rendering import prepare
from stillsight.envs.suites.deepmind import SUITE, TASKS, arguments

pytest.importorskip("dm_control")
CARTPOLE = "dm_control/cartpole-swingup-v0"
SMALL = {"size": 32}


@pytest.fixture(autouse=True, scope="module")
def chosen() -> None:
    """What draws, before dm_control is imported."""
    prepare("mujoco", "the tests")


def bare(env_id: str, **settings: Any) -> Any:
    """The environment as it is registered, made like any of Gymnasium's."""
    resolve(env_id)
    return gym.make(env_id, disable_env_checker=True, **SMALL, **settings).unwrapped


def test_ids_are_those_of_dm_control() -> None:
    from dm_control import suite

    assert {(domain, task) for domain, tasks in TASKS.items() for task in tasks} == set(suite.ALL_TASKS)


@pytest.mark.parametrize("task", ["cartpole-swingup", pytest.param("reacher-easy", marks=pytest.mark.slow)])
def test_steps_are_those_of_dm_control(task: str) -> None:
    """Frames, vectors, rewards and ends, with each action repeated twice; the clock runs out in the fifth step."""
    env = bare(f"dm_control/{task}-v0", frame_skip=2)
    from dm_control import suite

    own = suite.load(*task.split("-"), task_kwargs={"random": 7})
    env._dm._step_limit = own._step_limit = 9
    observation, _ = env.reset(seed=7)
    moment = own.reset()
    random = np.random.default_rng(0)
    seen = set()
    for step in range(5):
        assert observation["pixels"].std() > 1.0
        seen.add(observation["pixels"].tobytes())
        np.testing.assert_array_equal(observation["pixels"], own.physics.render(32, 32, camera_id=0))
        assert {*observation} == {"pixels", *moment.observation}
        for key, value in moment.observation.items():
            np.testing.assert_array_equal(observation[key], np.asarray(value, np.float32).reshape(-1))
        action = random.uniform(-1.0, 1.0, env.action_space.shape).astype(np.float32)
        observation, reward, terminated, truncated, info = env.step(action)
        expected = 0.0
        for _ in range(2):
            moment = own.step(action.astype(np.float64))
            expected += moment.reward
            if moment.last():
                break
        assert reward == expected
        assert (terminated, truncated) == (False, step == 4)
        assert info["discount"] == moment.discount == 1.0
        assert env.observation_space.contains(observation)
    np.testing.assert_array_equal(observation["pixels"], own.physics.render(32, 32, camera_id=0))
    assert len(seen) > 1
    env.close()
    own.close()


def test_what_a_task_ends_itself_is_a_termination(monkeypatch: pytest.MonkeyPatch) -> None:
    env = bare(CARTPOLE, frame_skip=2)
    env.reset(seed=0)
    monkeypatch.setattr(env._dm.task, "get_termination", lambda _physics: 0.0)
    _, _, terminated, truncated, info = env.step(np.zeros(1, np.float32))
    assert (terminated, truncated, info["discount"]) == (True, False, 0.0)
    env.close()


def test_a_size_below_that_of_an_image_shows_the_camera_and_no_film_frame() -> None:
    """The picture of 8 x 8 counted as numbers beside the film frame of 256 x 256, which was seen in its place."""
    env = make_env(CARTPOLE, resolve(CARTPOLE).options.merge(size=8, state=("on",)))
    assert str(env.get_wrapper_attr("seen")).startswith(
        "the observation 'pixels', uint8 [16, 16, 3]: 16 x 16 pixels, resized to 8 x 8"
    )
    assert {key: part.shape for key, part in env.reset()[0].items()} == {
        "pixels": (3, 8, 8),
        "position": (3,),
        "velocity": (2,),
    }


def test_an_agent_sees_pixels_at_the_size_that_is_drawn_and_may_have_a_clock_of_its_own() -> None:
    env = make_env(CARTPOLE, resolve(CARTPOLE).options.merge(size=32, max_episode_steps=3), seed=2)
    assert str(env.get_wrapper_attr("seen")) == (
        "the observation 'pixels', uint8 [32, 32, 3]: 32 x 32 pixels, as they are. "
        "Not seen: position (float32 [3]), velocity (float32 [2])"
    )
    frame, _ = env.reset(seed=2)
    raw = bare(CARTPOLE)
    np.testing.assert_array_equal(frame, raw.reset(seed=2)[0]["pixels"].transpose(2, 0, 1))
    ends = [env.step(np.zeros(1, np.float32))[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]
    assert env.get_wrapper_attr("physics").time() == pytest.approx(3 * 2 * 0.01), "two control steps an action"
    film = env.render()
    assert isinstance(film, np.ndarray)
    assert film.shape == (256, 256, 3)
    env.close()
    raw.close()


def test_cameras_are_named_and_several_are_several_images() -> None:
    env = bare("dm_control/cheetah-run-v0", camera="back,0")
    assert {key for key, space in env.observation_space.items() if len(space.shape) == 3} == {"back", "side"}
    observation, _ = env.reset(seed=0)
    for number, key in enumerate(("side", "back")):
        np.testing.assert_array_equal(observation[key], env.physics.render(32, 32, camera_id=number))
    assert (observation["side"] != observation["back"]).any()
    env.close()
    with pytest.raises(EnvError) as caught:
        make_env("dm_control/cheetah-run-v0", EnvOptions(size=32, kwargs=(("camera", "bak"),)))
    assert str(caught.value) == (
        "dm_control/cheetah-run-v0 has no camera 'bak'. Did you mean 'back'? Its cameras: 0 side, 1 back. "
        "Type, say: --env-set camera=side"
    )


def test_pixels_name_cameras_and_state_stands_beside_them() -> None:
    cheetah = "dm_control/cheetah-run-v0"
    shown = resolve(cheetah).options.merge(size=32, pixels=("side", "back"), state=("on",))
    env = make_env(cheetah, shown, seed=4)
    observation, _ = env.reset(seed=4)
    assert str(env.get_wrapper_attr("layout")) == (
        "images back 3x32x32, side 3x32x32; vectors position [8], velocity [9]"
    )
    raw = bare(cheetah, camera="side,back")
    expected, _ = raw.reset(seed=4)
    for key in ("side", "back"):
        np.testing.assert_array_equal(observation[key], expected[key].transpose(2, 0, 1))
    for key in ("position", "velocity"):
        np.testing.assert_array_equal(observation[key], expected[key])
    one, named = (
        make_env(cheetah, EnvOptions(size=32, **how), seed=4).reset(seed=4)[0]  # type: ignore[arg-type]
        for how in ({"pixels": ("back",)}, {"kwargs": (("camera", "back"),)})
    )
    np.testing.assert_array_equal(one, expected["back"].transpose(2, 0, 1))
    np.testing.assert_array_equal(named, one)
    env.close()
    raw.close()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"pixels": ("side", "bak")},
            "has no camera 'bak'. Did you mean 'back'? Its cameras: 0 side, 1 back. Type, say: --pixels side",
        ),
        (
            {"kwargs": (("camera", "side,back"),)},
            "which of them an agent is to see is not said. Type --pixels back side for all of them, or name one",
        ),
        (
            {"kwargs": (("camera", "side,back"),), "pixels": ("bak",)},
            "observes no image 'bak'. Did you mean 'back'? It has back, side, rendering",
        ),
        ({"kwargs": (("pictures", False),)}, "'pictures' is set by stillsight: use --pixels off."),
    ],
)
def test_cameras_that_there_are_not_and_several_unnamed_ones_are_sentences(options: Any, sentence: str) -> None:
    with pytest.raises(EnvError) as caught:
        make_env("dm_control/cheetah-run-v0", EnvOptions(size=32, **options))
    assert sentence in str(caught.value)


def test_nothing_is_drawn_where_no_image_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_env(CARTPOLE, resolve(CARTPOLE).options.merge(pixels=("off",), state=("on",)), seed=2)
    monkeypatch.setattr(env.get_wrapper_attr("physics"), "render", None)  # called, it would stop the test
    blind, _ = env.reset(seed=2)
    after = env.step(np.ones(1, np.float32))
    seen = make_env(CARTPOLE, resolve(CARTPOLE).options.merge(size=32, state=("on",)), seed=2)
    shown, _ = seen.reset(seed=2)
    assert {*shown} - {*blind} == {"pixels"}
    for key in ("position", "velocity"):
        np.testing.assert_array_equal(blind[key], shown[key])
    assert after[1] == seen.step(np.ones(1, np.float32))[1]


def test_a_mujoco_with_which_dm_control_breaks_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "4.0.0")
    with pytest.raises(EnvError, match=r'does not work with MuJoCo 4\.0\.0\. Type: pip install "mujoco<4"'):
        arguments(CARTPOLE, SUITE.default.options)


CRASHES = """
import numpy as np
from stillsight.envs import make_env, resolve
env = make_env("dm_control/cartpole-swingup-v0", resolve("dm_control/cartpole-swingup-v0").options.merge(size=32))
print(env.reset(seed=1)[0].std() > 5)
import triton.language, torch._dynamo
print("alive")
"""


@pytest.mark.slow
def test_what_draws_is_chosen_said_and_does_not_crash_torch_later() -> None:
    """Mesa before triton is a segmentation fault, in plain SB3 as well."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", "STILLSIGHT_DRAWS_BY")
    }
    result = subprocess.run([sys.executable, "-c", CRASHES], env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stdout.split()) == (0, ["True", "alive"]), result.stderr
    if not os.environ.get("DISPLAY"):
        assert "stillsight: MuJoCo draws by " in result.stderr


@pytest.mark.slow
def test_copies_in_workers_show_what_they_show_here() -> None:
    options = resolve(CARTPOLE).options.merge(size=32)
    here, there = (make_vec(CARTPOLE, 2, seed=3, options=options, workers=count) for count in (0, 2))
    np.testing.assert_array_equal(here.reset(), there.reset())
    for _ in range(3):
        actions = np.full((2, 1), 0.5, np.float32)
        shown, rewards, dones, _ = here.step(actions)
        others, rewards_there, dones_there, _ = there.step(actions)
        np.testing.assert_array_equal(shown, others)
        np.testing.assert_array_equal(rewards, rewards_there.astype(np.float32))  # to which SB3's DummyVecEnv rounds
        np.testing.assert_array_equal(dones, dones_there)
    here.close()
    there.close()
