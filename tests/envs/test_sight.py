"""What an agent sees, said in words: from where, at which size, and what is dropped; nothing is taken silently."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import (
    AddRenderObservation,
    DtypeObservation,
    FrameStackObservation,
    RecordEpisodeStatistics,
    RescaleObservation,
    TransformObservation,
)
from numpy.typing import NDArray

from stillsight.envs import EnvError, EnvOptions, Pixels, make_env, make_vec
from stillsight.envs.errors import EnvFault
from stillsight.envs.spec import OwnImage
from stillsight.envs.wrappers.pixels import film_frame

FRAME = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


class Eye(gym.Env[Any, Any]):
    """Observes random elements of `space`, and renders `FRAME`."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    action_space = spaces.Discrete(2)

    def __init__(self, space: gym.Space[Any], render_mode: str | None = "rgb_array", frame: Any = FRAME) -> None:
        self.observation_space, self.render_mode, self.frame = space, render_mode, frame

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.observation_space.seed(seed)
        self.last = self.observation_space.sample()
        return self.last, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:  # noqa: ARG002
        self.last = self.observation_space.sample()
        return self.last, 0.0, False, False, {}

    def render(self) -> Any:
        return self.frame


def box(*shape: int, low: float = 0, high: float = 255, dtype: Any = np.uint8) -> spaces.Box:
    return spaces.Box(low, high, shape, dtype)


def short(value: object) -> str:
    """What a case is called: the bounds of an uneven space would be written in full."""
    return value if isinstance(value, str) else " ".join(str(value).split())[:40]


def uneven(height: int, width: int, *, high: list[float], dtype: Any = np.float32) -> spaces.Box:
    """From 0 to a number of its own in each channel."""
    top = np.broadcast_to(np.array(high, dtype), (height, width, len(high))).copy()
    return spaces.Box(np.zeros_like(top), top, dtype=dtype)


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        (box(20, 30, 3), "the observation, uint8 [20, 30, 3]: 20 x 30 pixels, as they are"),
        (
            box(20, 30),
            "the observation, uint8 [20, 30]: 20 x 30 pixels, as they are; grey, repeated to three channels",
        ),
        (
            box(20, 30, 3, low=-1, high=1, dtype=np.float32),
            "the observation, float32 [20, 30, 3]: 20 x 30 pixels, as they are; -1..1 scaled to 0..255",
        ),
        (
            spaces.Dict(eye=box(20, 30, 3), speed=box(4, dtype=np.float32), word=spaces.Text(5)),
            "the observation 'eye', uint8 [20, 30, 3]: 20 x 30 pixels, as they are. "
            "Not seen: speed (float32 [4]), word (text)",
        ),
        (
            spaces.Tuple((spaces.Discrete(3), spaces.Dict(eye=box(3, 20, 30)))),
            "the observation '1/eye', uint8 [3, 20, 30]: 20 x 30 pixels, as they are. Not seen: 0 (Discrete(3))",
        ),
        (
            box(200, 300, 3),
            "the observation, uint8 [200, 300, 3]: 200 x 300 pixels, as they are (--size 84 makes fewer of them)",
        ),
        (
            box(4, dtype=np.float32),
            "what render() draws, uint8 [40, 50, 3]: 40 x 50 pixels, as they are. Not seen: the observation "
            "(float32 [4])",
        ),
        (
            spaces.Dict(direction=spaces.Discrete(4), image=box(7, 7, 3), mission=spaces.Text(9)),  # MiniGrid
            "what render() draws, uint8 [40, 50, 3]: 40 x 50 pixels, as they are. Not seen: the observation "
            "'direction' (Discrete(4)), the observation 'image' (uint8 [7, 7, 3], a table of symbols and no picture), "
            "the observation 'mission' (text)",
        ),
    ],
    ids=str,
)
def test_what_is_seen_is_said(space: gym.Space[Any], sentence: str) -> None:
    assert str(Pixels(Eye(space)).seen) == sentence


def test_an_image_that_is_not_named_is_called_one() -> None:
    cameras = spaces.Dict(front=box(20, 30, 3), wrist=box(16, 16, 3), table=box(7, 7, 3))
    assert str(Pixels(Eye(cameras), pixels=("rendering",)).seen).endswith(
        "Not seen: the observation 'front' (uint8 [20, 30, 3], an image that --pixels does not name), the observation "
        "'wrist' (uint8 [16, 16, 3], an image that --pixels does not name), the observation 'table' (uint8 [7, 7, 3], "
        "a table of symbols and no picture)"
    )


def test_another_size_and_other_proportions_are_said() -> None:
    assert str(Pixels(Eye(box(20, 30, 3)), 16).seen) == (
        "the observation, uint8 [20, 30, 3]: 20 x 30 pixels, resized to 16 x 16, which changes their proportions"
    )
    assert str(Pixels(Eye(box(32, 32, 3)), 16).seen) == (
        "the observation, uint8 [32, 32, 3]: 32 x 32 pixels, resized to 16 x 16"
    )


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (box(20, 30, 3, low=-1, high=1, dtype=np.float32), lambda o: np.rint((o.astype(np.float64) + 1) * 127.5)),
        (box(20, 30, 3, low=-0.5, high=0.5, dtype=np.float64), lambda o: np.rint((o + 0.5) * 255)),
        (box(20, 30, 3, dtype=np.int64), lambda o: o),
        (spaces.Tuple((spaces.Discrete(2), box(20, 30, 3))), lambda o: o[1]),
    ],
    ids=["-1..1", "-0.5..0.5", "int64", "tuple"],
)
def test_image_like_observations_of_a_clear_form_are_taken(space: gym.Space[Any], expected: Any) -> None:
    eye = Eye(space)
    pixels, _ = Pixels(eye).reset(seed=3)
    difference = pixels.astype(np.int64) - expected(eye.last).transpose(2, 0, 1).astype(np.int64)
    assert np.abs(difference).max() <= (1 if space.dtype == np.float32 else 0), "float32 rounds at the halves"
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("space", [box(20, 30, 3), box(20, 30), spaces.Dict(eye=box(20, 30, 3), at=box(2))], ids=str)
def test_of_gymnasium_s_frame_stack_the_newest_frame_is_seen(space: gym.Space[Any]) -> None:
    eye = Eye(space)
    for count in (3, 4):  # three grey frames have the form of one picture in colour
        env = Pixels(RecordEpisodeStatistics(FrameStackObservation(eye, count)))
        assert f"the newest of {count} frames, and --frame-stack stacks them" in str(env.seen)
        pixels, _ = env.reset(seed=1)
        for _ in range(3):
            last = eye.last["eye"] if isinstance(space, spaces.Dict) else eye.last
            last = np.stack([last] * 3) if last.ndim == 2 else last.transpose(2, 0, 1)
            np.testing.assert_array_equal(pixels, last)
            pixels = env.step(0)[0]


def halved(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    box_of = env.observation_space
    assert isinstance(box_of, spaces.Box)
    half = spaces.Box(0, 255, (*box_of.shape[:-2], 16, 16), np.uint8)
    return TransformObservation(env, lambda frames: frames[..., ::2, ::2], half)


HIDDEN: dict[str, Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]] = {
    "as floats": lambda eye: RescaleObservation(DtypeObservation(FrameStackObservation(eye, 3), np.float32), 0, 1),
    "resized": lambda eye: halved(FrameStackObservation(eye, 3)),
    "turned about": lambda eye: TransformObservation(
        FrameStackObservation(eye, 3), lambda frames: frames[::-1], box(3, 32, 32)
    ),
    "stacked twice": lambda eye: FrameStackObservation(FrameStackObservation(eye, 3), 3),
}


@pytest.mark.parametrize("how", HIDDEN)
def test_three_grey_frames_are_no_picture_in_colour(how: str) -> None:
    """A wrapper around the stack hid it, and frames of three moments were seen as red, green and blue of one."""
    with pytest.raises(EnvError) as caught:
        Pixels(RecordEpisodeStatistics(HIDDEN[how](Eye(box(32, 32)))))
    assert str(caught.value) == (
        "Eye stacks 3 frames by FrameStackObservation, and what wrappers make of them does not say which are frames "
        "and which are colours. Put FrameStackObservation around all wrappers that change what is observed, or leave "
        "it out and stack frames by --frame-stack."
    )
    seen = Pixels(HIDDEN[how](Eye(box(32, 32))), pixels=("rendering",)).seen
    assert "what render() draws, uint8 [40, 50, 3]" in str(seen), "which has nothing to do with it"


def test_wrappers_within_a_frame_stack_hide_nothing() -> None:
    eye = Eye(box(32, 32))
    env = Pixels(FrameStackObservation(halved(eye), 3))
    pixels, _ = env.reset(seed=1)
    np.testing.assert_array_equal(pixels, np.stack([eye.last[::2, ::2]] * 3))
    drawn = Pixels(AddRenderObservation(FrameStackObservation(Eye(box(32, 32)), 3), render_only=True))
    np.testing.assert_array_equal(drawn.reset()[0], FRAME.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("space", "why"),
    [
        (box(20, 30, 4), "4 channels may be colours and their opacity or 4 grey frames"),
        (box(4, 84, 84), "4 channels may be colours and their opacity or 4 grey frames"),
        (box(84, 84, 12), "12 channels are neither grey nor colour"),
        (box(4, 20, 30, 3), "4 images may be frames, of which the newest is wanted, or cameras"),
        (box(20, 30, 3, low=-np.inf, high=np.inf, dtype=np.float32), "its values, -inf..inf, do not say what is black"),
        (box(20, 30, 3, high=65535, dtype=np.uint16), r"its values, 0..65535, do not say"),
        (spaces.Dict(eye=box(84, 84, 4), at=box(2)), "under 'eye' and is not clear: 4 channels"),
        # By the widest bounds, 0..255, what is white in the first two channels was seen as black.
        (uneven(20, 30, high=[1, 1, 255]), "its values have other bounds in some places than in others"),
        (uneven(20, 30, high=[1, 1, 255], dtype=np.float64), "its values have other bounds in some places than in"),
        (uneven(20, 30, high=[10, 5, 255], dtype=np.uint8), "its values have other bounds in some places than in"),
    ],
    ids=short,
)
def test_what_looks_like_an_image_and_is_not_clear_is_refused_and_not_rendered(space: gym.Space[Any], why: str) -> None:
    with pytest.raises(EnvError) as caught:
        Pixels(Eye(space))
    assert "looks like an image" in str(caught.value)
    assert why in str(caught.value)
    assert "An agent sees one image: uint8 0..255 or float 0..1, 0..255 or -1..1, [H, W, 3]" in str(caught.value)
    assert "AddRenderObservation" in str(caught.value)


def test_one_channel_is_not_read_by_bounds_that_are_not_everywhere() -> None:
    depth = box(20, 30, high=10, dtype=np.float32)
    depth.high[3, 4] = 20.0
    with pytest.raises(EnvError, match=r"'depth' of Eye cannot be seen as an image: its values have other bounds in"):
        Pixels(Eye(spaces.Dict(rgb=box(20, 30, 3), depth=depth)), pixels=("depth",))


def test_a_clear_image_beside_one_that_is_not_is_the_one_that_is_seen() -> None:
    env = Pixels(Eye(spaces.Dict(rgb=box(20, 30, 3), rgba=box(20, 30, 4))))
    assert "the observation 'rgb'" in str(env.seen)
    assert "Not seen: rgba (uint8 [20, 30, 4])" in str(env.seen)


@pytest.mark.parametrize(
    ("space", "own", "told"),
    [
        (box(60, 12, 3), OwnImage("", larger="--env-set obs_width=80"), "an image of uint8 [60, 12, 3], and an image"),
        (
            spaces.Dict(eye=box(8, 8, 3), at=box(2)),
            OwnImage("eye", larger="--env-set obs_width=80"),
            "an image of uint8 [8, 8, 3] under 'eye', and an image",
        ),
    ],
    ids=str,
)
def test_an_image_that_a_suite_observes_is_refused_where_it_is_small_and_not_rendered(
    space: gym.Space[Any], own: OwnImage, told: str
) -> None:
    assert "what render() draws" in str(Pixels(Eye(space)).seen)
    with pytest.raises(EnvError) as caught:
        Pixels(Eye(space), own=own)
    assert told in str(caught.value)
    assert str(caught.value).endswith("has at least 16 pixels a side. Have it drawn larger: --env-set obs_width=80")
    assert "the observation, uint8" in str(Pixels(Eye(box(16, 16, 3)), own=own._replace(key="")).seen)


@pytest.fixture
def wide() -> Iterator[str]:
    gym.register("StillsightWide-v0", Eye, kwargs={"space": box(24, 36, 3)}, disable_env_checker=True)
    yield "StillsightWide-v0"
    gym.registry.pop("StillsightWide-v0")


def test_an_id_without_a_row_keeps_its_native_size_unless_asked(wide: str) -> None:
    assert EnvOptions().size == 0
    assert make_env(wide).observation_space.shape == (3, 24, 36)
    assert make_env(wide, EnvOptions(size=20)).observation_space.shape == (3, 20, 20)


def test_every_kind_of_vec_env_says_what_is_seen(wide: str) -> None:
    venv = make_vec(wide, 2, options=EnvOptions(size=20))
    seen = venv.get_attr("seen")
    assert seen[0] == seen[1] == pickle.loads(pickle.dumps(seen[0]))
    assert (seen[0].native, seen[0].size) == ((24, 36), (20, 20))
    workers = make_vec("stillsight/Orchard-v0", 2, workers=2)
    assert [str(each) for each in workers.get_attr("seen")] == [
        "the observation, uint8 [48, 48, 3]: 48 x 48 pixels, as they are"
    ] * 2
    workers.close()


def test_native_atari_says_what_its_wrapped_twin_says() -> None:
    pytest.importorskip("ale_py")
    native, wrapped = (make_vec("ALE/Pong-v5", 1, native=native) for native in (None, False))
    assert type(native) is not type(wrapped)
    assert native.get_attr("seen") == wrapped.get_attr("seen")
    assert str(native.get_attr("seen")[0]).startswith("the observation, uint8 [210, 160, 3]: 210 x 160 pixels, resized")


def test_doom_names_what_of_its_dict_is_dropped(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vizdoom")
    monkeypatch.chdir(tmp_path)
    seen = str(make_env("VizdoomBasic-v1").get_wrapper_attr("seen"))
    assert seen.startswith("the observation 'screen', uint8 [120, 160, 3]: 120 x 160 pixels, resized to 64 x 64")
    assert seen.endswith("Not seen: gamevariables (float32 [1])")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("The DISPLAY environment variable is missing"),
        type("GLFWError", (Exception,), {})("(65550) b'X11: Failed to open'"),
        AttributeError("'NoneType' object has no attribute 'eglQueryString'"),
        ImportError("Cannot use OSMesa rendering platform."),
    ],
    ids=str,
)
def test_a_missing_screen_is_a_sentence(error: Exception) -> None:
    class Blind(Eye):
        def render(self) -> Any:
            raise error

    with pytest.raises(EnvError, match=r"Blind cannot draw here .* type MUJOCO_GL=egl before the command"):
        Pixels(Blind(box(4)))

    def make(**_: Any) -> gym.Env[Any, Any]:
        raise error

    gym.register("StillsightScreenless-v0", make)
    try:
        with pytest.raises(EnvError, match=r"StillsightScreenless-v0 cannot draw here .*MUJOCO_GL=egl"):
            make_env("StillsightScreenless-v0")
    finally:
        gym.registry.pop("StillsightScreenless-v0")


def test_another_error_while_drawing_keeps_its_traceback() -> None:
    class Broken(Eye):
        def render(self) -> Any:
            raise ZeroDivisionError("negligible")

    with pytest.raises(ZeroDivisionError):
        Pixels(Broken(box(4)))


def gradient(*shape: int) -> NDArray[np.uint8]:
    return np.arange(int(np.prod(shape))).reshape(shape).astype(np.uint8)


def test_films_take_grey_and_transparent_frames_and_refuse_others() -> None:
    assert film_frame(gradient(8, 9, 3), "X") is not None
    np.testing.assert_array_equal(film_frame(gradient(8, 9), "X"), np.stack([gradient(8, 9)] * 3, axis=2))
    np.testing.assert_array_equal(film_frame(gradient(8, 9, 1), "X"), np.repeat(gradient(8, 9, 1), 3, axis=2))
    opaque = np.concatenate([gradient(8, 9, 3), np.full((8, 9, 1), 255, np.uint8)], axis=2)
    np.testing.assert_array_equal(film_frame(opaque, "X"), gradient(8, 9, 3))
    opaque[..., 3] = 0
    assert not film_frame(opaque, "X").any()
    for frame in (np.zeros((8, 9, 3), np.float32), gradient(3, 8, 9), gradient(8)):
        with pytest.raises(EnvFault, match=r"X renders .*a film takes uint8 \[H, W, 3\]"):
            film_frame(frame, "X")
