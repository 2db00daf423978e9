"""A shift changes what is seen, as its formula says, and nothing else."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stillsight.envs import SHIFTS, EnvError, EnvOptions, NativeAtariVecEnv, Shifted, make_env, make_vec

ORCHARD = "stillsight/Orchard-v0"
Image = NDArray[np.uint8]
Play = tuple[Image, NDArray[np.float64], NDArray[np.bool_]]


def look(name: str, seed: int = 0, strength: float = 0.5) -> Any:
    return SHIFTS[name].begin(np.random.default_rng(seed), strength)


def played(shift: str | None, strength: float | None = None, *, seed: int = 3, steps: int = 90) -> Play:
    """Pixels, rewards and ends of fixed actions in Orchard, across the end of an episode."""
    env = make_env(ORCHARD, EnvOptions(size=0, shift=shift, shift_strength=strength), training=False, seed=seed)
    frames, rewards, ends = [env.reset(seed=seed)[0]], [], []
    for step in range(steps):
        frame, reward, terminated, truncated, _ = env.step((step // 7) % 3)
        frames.append(frame)
        rewards.append(float(reward))
        ends.append(terminated or truncated)
        if ends[-1]:
            frames.append(env.reset()[0])
    return np.stack(frames), np.array(rewards), np.array(ends)


def scene(height: int = 24, width: int = 32, seed: int = 9) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def clean() -> Play:
    return played(None)


@pytest.mark.parametrize("name", SHIFTS)
def test_only_the_picture_changes_and_by_the_seed_alone(name: str, clean: Play) -> None:
    frames, rewards, ends = played(name)
    assert frames.dtype == np.uint8
    assert frames.shape == clean[0].shape
    assert (frames != clean[0]).any(axis=(1, 2, 3)).all(), "every frame is shown otherwise"
    np.testing.assert_array_equal(rewards, clean[1])
    np.testing.assert_array_equal(ends, clean[2])
    assert ends.any(), "the play should cross the end of an episode"
    np.testing.assert_array_equal(frames, played(name)[0])


@pytest.mark.parametrize("name", SHIFTS)
def test_strength_zero_is_the_identity_to_the_bit(name: str, clean: Play) -> None:
    np.testing.assert_array_equal(played(name, 0.0)[0], clean[0])


@pytest.mark.parametrize("name", SHIFTS)
def test_a_stronger_shift_changes_more(name: str, clean: Play) -> None:
    changes = [
        np.abs(played(name, strength, steps=20)[0].astype(int) - clean[0][:21]).mean() for strength in (0.2, 0.5, 1.0)
    ]
    assert 0.0 < changes[0] < changes[1] < changes[2]


@pytest.mark.parametrize("name", ["hue", "noise", "occluder", "overlay"])
def test_another_seed_and_another_episode_look_different(name: str) -> None:
    env = make_env(ORCHARD, EnvOptions(size=0, shift=name), training=False)
    picture = scene(48, 48).transpose(2, 0, 1)
    seen = []
    for seed in (1, None, 2, 1, None):
        env.reset(seed=seed)
        seen.append(env.get_wrapper_attr("_shown")(picture))  # one picture, so that only the look can differ
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (seen[one] != seen[other]).any()
    np.testing.assert_array_equal(seen[3], seen[0])
    np.testing.assert_array_equal(seen[4], seen[1])


@pytest.mark.parametrize(("name", "moves"), [("hue", False), ("noise", True), ("blur", False), ("occluder", False)])
def test_within_an_episode_only_what_is_meant_to_move_moves(name: str, moves: bool) -> None:
    shown = look(name)
    assert (shown(scene(), 0) != shown(scene(), 1)).any() == moves


@pytest.mark.parametrize("seed", range(4))
def test_hue_is_a_turn_about_the_grey_axis_and_a_factor(seed: int) -> None:
    random = np.random.default_rng(seed)
    sides, sizes = random.choice((-1.0, 1.0), 2), random.uniform(0.5, 1.0, 2)
    turn, light = sides * sizes * 0.5
    assert 0.25 <= abs(turn) <= 0.5
    axis = np.full(3, 1 / math.sqrt(3))
    expected = np.zeros((24, 32, 3))
    picture = scene()
    for row, column in np.ndindex(24, 32):
        v = picture[row, column].astype(float)
        c, s = math.cos(math.pi * turn), math.sin(math.pi * turn)
        turned = v * c + np.cross(axis, v) * s + axis * (axis @ v) * (1 - c)
        expected[row, column] = np.clip(turned * (1 + 0.6 * light), 0, 255)
    assert np.abs(look("hue", seed)(picture, 0) - expected).max() <= 1.0
    grey = np.full((4, 4, 3), 100, np.uint8)
    assert np.abs(look("hue", seed)(grey, 0) - 100 * (1 + 0.6 * light)).max() <= 1.0, "grey keeps its hue"


def test_noise_has_the_spread_that_its_strength_says_and_no_memory() -> None:
    shown = look("noise")
    grey = np.full((200, 200, 3), 128, np.uint8)
    noise = shown(grey, 5).astype(float) - 128
    assert abs(noise.mean()) < 0.5
    assert noise.std() == pytest.approx(0.5 * 0.2 * 255, rel=0.02)
    other = shown(grey, 6).astype(float) - 128
    channels = [noise[..., 0], noise[..., 1], noise[:, ::-1, 0], other[..., 0]]
    correlation = np.corrcoef([channel.ravel() for channel in channels]) - np.eye(4)
    assert np.abs(correlation).max() < 0.03
    np.testing.assert_array_equal(shown(grey, 5).astype(float) - 128, noise)  # whatever was shown in between
    assert shown(np.full((50, 50, 3), 250, np.uint8), 0).min() > 100, "no wrapping round at 255"


def test_blur_is_the_mean_of_the_neighbours_under_a_bell_curve() -> None:
    picture = scene(20, 30)
    sigma = 0.03 * 0.5 * 20
    reach = 4
    bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    bell /= bell.sum()
    padded = np.pad(picture.astype(float), ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    expected = np.zeros(picture.shape)
    for row, column in np.ndindex(20, 30):
        window = padded[row : row + 2 * reach + 1, column : column + 2 * reach + 1]
        expected[row, column] = np.einsum("ijc,i,j->c", window, bell, bell)
    assert np.abs(look("blur")(picture, 3) - expected).max() <= 2.0


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_the_occluder_is_one_box_at_the_same_place_at_every_size(seed: int, strength: float) -> None:
    random = np.random.default_rng(seed)
    down, right = random.uniform(0, 1, 2)
    colour = random.integers(0, 256, 3, np.uint8)
    for height, width in ((48, 48), (192, 192), (210, 160)):
        picture = scene(height, width)
        tall, wide = round(strength * height / 2), round(strength * width / 2)
        top, left = round(down * (height - tall)), round(right * (width - wide))
        expected = picture.copy()
        for row in range(top, top + tall):
            for column in range(left, left + wide):
                expected[row, column] = colour
        np.testing.assert_array_equal(look("occluder", seed, strength)(picture, 7), expected)


@pytest.mark.parametrize("step", [0, 11])
def test_the_overlay_is_three_waves_that_move(step: int) -> None:
    random = np.random.default_rng(0)
    rows, columns = random.choice((-1, 1), (2, 3)) * random.uniform(1, 4, (2, 3))
    speed = random.choice((-1, 1), 3) * random.uniform(1 / 50, 1 / 15, 3)
    phase = random.uniform(0, 1, (3, 3))
    picture = scene()
    expected = np.zeros(picture.shape)
    for row, column, channel in np.ndindex(24, 32, 3):
        waves = sum(
            math.sin(
                2 * math.pi * (rows[k] * row / 24 + columns[k] * column / 32 + phase[channel, k] + speed[k] * step)
            )
            for k in range(3)
        )
        pattern = min(max(127.5 + 85 * waves, 0), 255)
        expected[row, column, channel] = 0.7 * picture[row, column, channel] + 0.3 * pattern
    assert np.abs(look("overlay")(picture, step) - expected).max() <= 1.0
    assert (look("overlay")(picture, step) != look("overlay")(picture, step + 1)).any()


@pytest.mark.parametrize("seed", range(4))
def test_brightness_contrast_and_gamma_follow_their_formulas(seed: int) -> None:
    picture = scene()
    random = np.random.default_rng(seed)
    drawn = random.choice((-1.0, 1.0)) * random.uniform(0.5, 1.0)
    expected = {
        "brightness": picture + 0.5 * drawn * 127.5,
        "contrast": picture.mean((0, 1)) + (picture - picture.mean((0, 1))) * 4 ** (0.5 * drawn),
        "gamma": 255 * (picture / 255) ** (4 ** (0.5 * drawn)),
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(look(name, seed)(picture, 3), np.rint(np.clip(values, 0, 255)), name)
    ends = np.array([[[0, 255, 0], [255, 0, 255]]], np.uint8)
    np.testing.assert_array_equal(look("gamma", seed)(ends, 0), ends, "black and white stay")


def test_both_signs_are_drawn_and_none_is_near_zero() -> None:
    grey = np.full((4, 4, 3), 100, np.uint8)
    changes = [int(look("brightness", seed)(grey, 0)[0, 0, 0]) - 100 for seed in range(40)]
    assert min(changes) < 0 < max(changes)
    assert all(31 <= abs(change) <= 64 for change in changes), "an eighth to a quarter of full scale, at half strength"


@pytest.mark.parametrize(("strength", "quality"), [(0.1, 74), (0.5, 22), (1.0, 5)])
def test_jpeg_is_that_of_its_quality_as_pillow_reads_it(strength: float, quality: int) -> None:
    import io

    import cv2
    from PIL import Image as Pillow

    picture = cv2.resize(scene(6, 8), (64, 48), interpolation=cv2.INTER_CUBIC)
    coded = io.BytesIO()
    Pillow.fromarray(picture).save(coded, "JPEG", quality=quality, subsampling="4:2:0")
    expected = np.asarray(Pillow.open(coded)).astype(int)
    shown = look("jpeg", strength=strength)(picture, 0)
    assert np.abs(shown - expected).mean() < 1.0
    assert np.abs(shown - picture.astype(int)).mean() > 2.0


def test_jitter_is_a_move_and_a_turn_of_each_step() -> None:
    picture = np.zeros((101, 201, 3), np.uint8)
    picture[50, 100] = 255  # a point in the middle turns about itself
    shown = look("jitter", strength=1.0)
    key = int(np.random.default_rng(0).integers(2**62))
    for step in (0, 1, 77):
        down, right, turn = np.random.default_rng((key, step)).uniform(-1.0, 1.0, 3)
        moved = shown(picture, step)[..., 0].astype(float)
        rows, columns = (np.arange(side) for side in moved.shape)
        assert (moved.sum(1) @ rows) / moved.sum() == pytest.approx(50 + 0.1 * down * 101, abs=0.1)
        assert (moved.sum(0) @ columns) / moved.sum() == pytest.approx(100 + 0.1 * right * 201, abs=0.1)
        line = np.zeros((101, 201, 3), np.uint8)
        line[50] = 255
        bent = shown(line, step)[..., 0].astype(float)
        heights = (bent[:, 80:121] * rows[:, None]).sum(0) / bent[:, 80:121].sum(0)
        slope = -np.polyfit(np.arange(41), heights, 1)[0]  # rows count downwards
        assert math.degrees(math.atan(slope)) == pytest.approx(10.0 * turn, abs=0.2)
    assert (shown(scene(), 0) != shown(scene(), 1)).any()


@pytest.mark.parametrize("seed", range(4))
def test_zoom_enlarges_about_the_centre_and_repeats_the_edge(seed: int) -> None:
    random = np.random.default_rng(seed)
    scale = 1.5 ** (random.choice((-1.0, 1.0)) * random.uniform(0.5, 1.0))
    picture = np.full((120, 160, 3), 20, np.uint8)
    picture[40:80, 60:100] = 220
    shown = look("zoom", seed, 1.0)(picture, 5)[..., 0]
    assert (shown > 120).any(1).sum() == pytest.approx(40 * scale, abs=1.5)
    assert (shown > 120).any(0).sum() == pytest.approx(40 * scale, abs=1.5)
    np.testing.assert_array_equal(shown, shown[::-1, ::-1])
    assert shown[0, 0] == 20


def test_background_is_what_has_the_commonest_colour_and_nothing_else_changes() -> None:
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:] = (60, 120, 200)
    picture[::7, ::5] += 6  # nearly the same colour
    picture[10:20, 10:30] = (200, 60, 20)
    shown = look("background", strength=1.0)(picture, 4)
    thing = np.zeros((40, 60), bool)
    thing[10:20, 10:30] = True
    np.testing.assert_array_equal(shown[thing], picture[thing])
    waves = look("overlay", strength=1.0)(np.zeros_like(picture), 4)  # the same draws, at 60 % over black
    assert np.abs(shown[~thing] * 0.6 - waves[~thing]).max() <= 1.0
    half = look("background", strength=0.5)(picture, 4)
    assert np.abs(half[~thing] - (shown[~thing] / 2 + picture[~thing] / 2)).max() <= 1.0


def test_several_shifts_are_seen_through_in_their_order_and_draw_each_their_own() -> None:
    picture = scene(40, 50)
    env = make_env(ORCHARD, EnvOptions(size=0, shift="occluder:1+blur+noise:0"), training=False)
    env.reset(seed=4)
    each = np.random.default_rng((4, 0x5E1F7)).spawn(1)[0].spawn(3)
    covered = SHIFTS["occluder"].begin(each[0], 1.0)(picture, 0)
    expected = SHIFTS["blur"].begin(each[1], 0.5)(covered, 0)
    shown = env.get_wrapper_attr("_shown")(picture.transpose(2, 0, 1))
    np.testing.assert_array_equal(shown.transpose(1, 2, 0), expected)


def test_all_images_of_a_dict_are_shifted_alike_and_its_numbers_are_left_alone() -> None:
    shown = make_env(ORCHARD, EnvOptions(size=0, shift="occluder")).get_wrapper_attr("_shown")
    eye = scene(20, 20).transpose(2, 0, 1)
    both = shown({"left": eye, "right": eye, "joints": np.ones(7, np.float32)})
    np.testing.assert_array_equal(both["left"], both["right"])
    np.testing.assert_array_equal(both["left"], shown(eye))
    np.testing.assert_array_equal(both["joints"], np.ones(7))


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(SHIFTS)),
    strength=st.floats(0.0, 1.0),
    height=st.integers(8, 40),
    width=st.integers(8, 40),
    step=st.integers(0, 10_000),
    seed=st.integers(0, 2**31),
)
def test_any_picture_stays_a_picture_and_the_given_one_is_left_alone(
    name: str, strength: float, height: int, width: int, step: int, seed: int
) -> None:
    picture = scene(height, width)
    shown = look(name, seed, strength)(picture, step)
    assert (shown.dtype, shown.shape) == (np.uint8, picture.shape)
    np.testing.assert_array_equal(picture, scene(height, width))
    np.testing.assert_array_equal(look(name, seed, 0.0)(picture, step), picture)
    # The [3, H, W] that an agent sees is a transposed view of it.
    view = np.ascontiguousarray(picture.transpose(2, 0, 1)).transpose(1, 2, 0)
    np.testing.assert_array_equal(look(name, seed, strength)(view, step), shown)


@pytest.mark.parametrize("name", SHIFTS)
def test_a_film_shows_what_the_agent_saw_and_filming_changes_nothing(name: str) -> None:
    env = make_env(ORCHARD, EnvOptions(size=0, shift=name), training=False, seed=3)
    raw = make_env(ORCHARD, EnvOptions(size=0), training=False, seed=3)
    quiet = played(name, steps=5)[0]
    env.reset(seed=3)
    raw.reset(seed=3)
    for step in range(5):
        film: Any = env.render()
        native: Any = raw.render()
        assert film.shape == (192, 192, 3)
        assert (film != native).any()
        np.testing.assert_array_equal(env.render(), film)
        np.testing.assert_array_equal(env.step((step // 7) % 3)[0], quiet[step + 1])
        raw.step((step // 7) % 3)


def test_an_environment_that_cannot_render_is_shifted_once() -> None:
    import gymnasium as gym

    class Unfilmed(gym.Env[Any, Any]):
        metadata: dict[str, Any] = {}  # noqa: RUF012
        observation_space, action_space = spaces.Box(0, 255, (20, 30, 3), np.uint8), spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
            super().reset(seed=seed, options=options)
            return scene(20, 30), {}

    gym.register("StillsightTestShifted-v0", lambda **_: Unfilmed(), disable_env_checker=True)
    env = make_env("StillsightTestShifted-v0", EnvOptions(size=0, shift="hue"))
    gym.registry.pop("StillsightTestShifted-v0")
    pixels, _ = env.reset(seed=1)
    np.testing.assert_array_equal(env.render(), pixels.transpose(1, 2, 0))


class Cameras(gym.Env[Any, Any]):
    """Two cameras, and no frames to film."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012
    observation_space = spaces.Dict({key: spaces.Box(0, 255, (24, 24, 3), np.uint8) for key in ("front", "wrist")})
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        return {"front": scene(24, 24, 1), "wrist": scene(24, 24, 2)}, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return {"front": scene(24, 24, 3), "wrist": scene(24, 24, 4)}, float(action), False, False, {}


@pytest.mark.parametrize("shift", ["occluder:1", "noise:0.5+zoom", "overlay"])
def test_a_film_of_several_cameras_is_what_was_seen_side_by_side(shift: str) -> None:
    """One box lay over both, and the noise of each was another than in what the agent saw."""
    gym.register("StillsightTestCameras-v0", Cameras, disable_env_checker=True)
    try:
        env = make_env("StillsightTestCameras-v0", EnvOptions(pixels=("front", "wrist"), shift=shift))
        for move in (lambda: env.reset(seed=3), lambda: env.step(0)):
            seen = move()[0]
            film: Any = env.render()
            np.testing.assert_array_equal(film, np.concatenate([seen["front"], seen["wrist"]], 2).transpose(1, 2, 0))
            film[:] = 0  # is nobody else's
            assert env.render().any()  # type: ignore[union-attr]
    finally:
        gym.registry.pop("StillsightTestCameras-v0")


def test_the_shift_sees_resized_pixels_and_stands_inside_the_monitor() -> None:
    options = EnvOptions(size=32, shift="occluder", shift_strength=1.0, max_episode_steps=5)
    env = make_env(ORCHARD, options, seed=0)
    pixels, _ = env.reset(seed=0)
    plain, _ = make_env(ORCHARD, EnvOptions(size=32), seed=0).reset(seed=0)
    assert (pixels != plain).any(axis=0).sum() == pytest.approx(16 * 16, abs=20), "a box of 16 pixels with sharp edges"
    for _ in range(5):
        info = env.step(0)[4]
    assert info["episode"]["l"] == 5


def test_copy_i_sees_through_the_look_of_seed_plus_i() -> None:
    options = EnvOptions(size=0, shift="occluder")
    both, one = make_vec(ORCHARD, 2, seed=7, options=options), make_vec(ORCHARD, 1, seed=8, options=options)
    frames, single = np.asarray(both.reset()), np.asarray(one.reset())
    assert (frames[0] != frames[1]).any()
    for step in range(130):  # across an end, where SB3 resets without a seed
        np.testing.assert_array_equal(frames[1], single[0])
        frames = np.asarray(both.step(np.full(2, step % 3))[0])
        single = np.asarray(one.step(np.full(1, step % 3))[0])


def test_native_atari_steps_aside_for_a_shift_and_refuses_it_where_insisted() -> None:
    pytest.importorskip("ale_py")
    shifted = EnvOptions(size=84, frame_skip=4, shift="hue")
    venv = make_vec("ALE/Pong-v5", 1, options=shifted)
    assert not isinstance(venv, NativeAtariVecEnv)
    assert venv.env_is_wrapped(Shifted) == [True]
    plain = make_vec("ALE/Pong-v5", 1, options=EnvOptions(size=84, frame_skip=4), native=False)
    assert plain.env_is_wrapped(Shifted) == [False]
    assert (np.asarray(venv.reset()) != np.asarray(plain.reset())).any()
    with pytest.raises(EnvError, match="it shows the game as it is, without the shift 'hue'"):
        make_vec("ALE/Pong-v5", 1, options=shifted, native=True)


def test_options_name_a_shift_with_a_concrete_strength() -> None:
    assert EnvOptions(shift="hue").shift_strength == 0.5
    assert EnvOptions(shift="hue") == EnvOptions(shift="hue", shift_strength=0.5)
    assert EnvOptions().to_json()["shift_strength"] is None
    options = EnvOptions(size=0).merge(shift="blur", shift_strength=0.25)
    assert options == EnvOptions(size=0, shift="blur", shift_strength=0.25)
    assert options.merge(shift="noise").shift_strength == 0.25


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"shift": "Hues"}, r"No shift is called 'Hues'\. Did you mean 'hue'\? Shifts: hue, noise, blur, occluder, ov"),
        ({"shift": "hue", "shift_strength": 1.5}, r"strength of 1\.5 was asked for; it is 0 \(nothing changes\) to 1"),
        ({"shift": "hue", "shift_strength": float("nan")}, "strength of nan was asked for"),
        ({"shift_strength": 0.3}, r"strength of 0\.3 was given without a shift.*--shift hue --shift-strength 0\.3"),
    ],
)
def test_slips_are_sentences(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(EnvError, match=sentence):
        EnvOptions(**wrong)


def test_every_shift_has_one_line() -> None:
    for shift in SHIFTS.values():
        assert shift.summary
        assert "\n" not in shift.summary
