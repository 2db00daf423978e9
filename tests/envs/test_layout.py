"""Several images and vectors: what is observed is what the environment gave, and what is seen is said and described."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from robot_world import Robot

from stillsight.envs import EnvError, EnvFault, EnvOptions, Pixels, make_env, make_vec
from stillsight.envs.vector import layout_of
from stillsight.envs.wrappers.layout import Image, Layout, Vector, batch

ID = "robot_world:Robot-v0"
BOTH = ("image", "wrist")


def test_images_and_vectors_are_those_of_the_environment_step_by_step() -> None:
    env, bare = make_env(ID, EnvOptions(pixels=BOTH, state=("on",)), seed=5), gym.make("Robot-v0")
    shown, given = env.reset(seed=3)[0], bare.reset(seed=3)[0]
    for step in range(9):
        assert list(shown) == ["image", "wrist", "joints"], "a text is no part of an observation"
        np.testing.assert_array_equal(shown["image"], given["image"].transpose(2, 0, 1))
        np.testing.assert_array_equal(shown["wrist"], given["wrist"])
        np.testing.assert_array_equal(shown["joints"], given["joints"].astype(np.float32))
        assert shown["joints"].dtype == np.float32
        assert env.observation_space.contains(shown)
        shown, given = env.step(step % 3)[0], bare.step(step % 3)[0]


def test_gymnasium_s_checker_has_no_objection() -> None:
    check_env(make_env(ID, EnvOptions(pixels=BOTH, state=("on",))), skip_render_check=True, skip_close_check=True)


def test_what_is_seen_is_described_and_said() -> None:
    env = make_env(ID, EnvOptions(pixels=("wrist", "image"), state=("joints",)))
    layout = env.get_wrapper_attr("layout")
    assert layout == Layout(
        images=(Image("image", (3, 16, 16)), Image("wrist", (3, 16, 16))),
        vectors=(Vector("joints", 3),),
        texts=("mission",),
    )
    assert str(layout) == "images image 3x16x16, wrist 3x16x16; vectors joints [3]"
    assert layout.space == env.observation_space
    assert str(env.get_wrapper_attr("seen")) == (
        "the observation 'image', uint8 [16, 16, 3]: 16 x 16 pixels, as they are + the observation 'wrist', uint8 "
        "[3, 16, 16]: 16 x 16 pixels, as they are + the numbers of joints (float64 [3]). Not seen: mission (text)"
    )


def test_one_named_image_is_observed_as_it_always_was() -> None:
    env = make_env(ID, EnvOptions(pixels=("wrist",)))
    assert env.observation_space == spaces.Box(0, 255, (3, 16, 16), np.uint8)
    assert env.get_wrapper_attr("layout") == Layout(images=(Image("", (3, 16, 16)),), texts=("mission",))
    seen = env.get_wrapper_attr("seen")
    assert (seen.key, seen.dropped) == (
        "wrist",
        ("image (uint8 [16, 16, 3])", "joints (float64 [3])", "mission (text)"),
    )


def test_the_order_in_which_keys_are_named_changes_nothing() -> None:
    one, other = (make_env(ID, EnvOptions(pixels=keys)) for keys in (BOTH, BOTH[::-1]))
    assert one.get_wrapper_attr("layout") == other.get_wrapper_attr("layout")
    assert list(one.reset(seed=1)[0]) == list(other.reset(seed=1)[0])


def test_vectors_stand_beside_what_is_rendered() -> None:
    env, bare = make_env("CartPole-v1", EnvOptions(size=32, state=("on",))), gym.make("CartPole-v1")
    shown, given = env.reset(seed=2)[0], bare.reset(seed=2)[0]
    for _ in range(3):
        np.testing.assert_array_equal(shown["observation"], given)
        np.testing.assert_array_equal(shown["rendering"], make_rendering(env))
        shown, given = env.step(1)[0], bare.step(1)[0]
    assert str(env.get_wrapper_attr("seen")) == (
        "what render() draws, uint8 [400, 600, 3]: 400 x 600 pixels, resized to 32 x 32, which changes their "
        "proportions + the numbers of observation (float32 [4])"
    )


def make_rendering(env: gym.Env[Any, Any]) -> np.ndarray:
    import cv2

    frame: Any = env.render()
    return np.asarray(cv2.resize(frame, (32, 32), interpolation=cv2.INTER_AREA)).transpose(2, 0, 1)


def test_the_rendering_is_seen_where_it_is_named_beside_an_image_of_the_observation() -> None:
    env = make_env("robot_world:RobotSeen-v0", EnvOptions(pixels=("rendering", "image"), size=16))
    shown, _ = env.reset(seed=4)
    assert list(shown) == ["image", "rendering"]
    assert (shown["image"] != shown["rendering"]).any()
    alone = make_env("robot_world:RobotSeen-v0", EnvOptions(pixels=("rendering",)))
    np.testing.assert_array_equal(alone.reset(seed=4)[0], alone.render().transpose(2, 0, 1))  # type: ignore[union-attr]


def test_vectors_alone_are_seen_where_images_are_off() -> None:
    env = make_env(ID, EnvOptions(pixels=("off",), state=("on",)))
    assert env.get_wrapper_attr("layout") == Layout(images=(), vectors=(Vector("joints", 3),), texts=("mission",))
    assert list(env.reset(seed=1)[0]) == ["joints"]
    assert str(env.get_wrapper_attr("seen")).startswith("the numbers of joints (float64 [3]). Not seen: image (uint8")


def test_a_part_without_numbers_is_dropped_and_named() -> None:
    """`low.min()` of nothing is a ValueError."""
    nothing = spaces.Box(-1.0, 1.0, (0,), np.float32)
    env = Pixels(robot(nothing=nothing, blank=spaces.Box(0, 255, (0, 32, 3), np.uint8)), pixels=BOTH, state=("on",))
    assert env.layout.vectors == (Vector("joints", 3),)
    assert "Not seen: mission (text), nothing (float32 [0]), blank (uint8 [0, 32, 3])" in str(env.seen)
    with pytest.raises(EnvError, match=r"observes no numbers 'nothing' beside its images.* It has joints"):
        Pixels(robot(nothing=nothing), pixels=BOTH, state=("nothing",))


class Named(Robot):
    """Observes two vectors, of which one is called as what `render()` draws."""

    def __init__(self) -> None:
        super().__init__(draws=True, render_mode="rgb_array")
        vector = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = spaces.Dict(rendering=vector, speed=vector)

    def _observed(self) -> dict[str, Any]:
        return {"rendering": np.zeros(2, np.float32), "speed": np.ones(2, np.float32)}


def test_a_vector_may_be_called_rendering_beside_what_is_rendered() -> None:
    """Gymnasium refused the key with a ValueError."""
    env = Pixels(Named(), state=("speed",))
    shown: Any = env.reset(seed=0)[0]
    np.testing.assert_array_equal(shown["rendering"], env.render().transpose(2, 0, 1))  # type: ignore[union-attr]
    assert shown["speed"].tolist() == [1.0, 1.0]
    with pytest.raises(
        EnvError, match=r"has two parts of one key among rendering, rendering, speed\. Rename one of them"
    ):
        Pixels(Named(), state=("on",))


def robot(**extra: gym.Space[Any]) -> Robot:
    return Robot(extra=extra)


def test_choices_switches_and_tables_become_numbers() -> None:
    kinds: dict[str, gym.Space[Any]] = {
        "way": spaces.Discrete(3, start=-1),
        "lamps": spaces.MultiBinary(2),
        "table": spaces.Box(0, 9, (2, 2), np.int64),
    }
    bare = robot(**kinds)
    env = Pixels(bare, pixels=("image",), state=tuple(kinds))
    env.reset(seed=0)
    given = {**bare._observed(), "way": np.int64(1), "lamps": np.array([0, 1]), "table": np.array([[1, 2], [3, 4]])}
    shown: Any = env.observation(given)
    assert {name: shown[name].tolist() for name in kinds} == {
        "way": [0, 0, 1],
        "lamps": [0, 1],
        "table": [1, 2, 3, 4],
    }
    assert "way (Discrete(3, start=-1), a number for each choice, 0 or 1)" in str(env.seen)


DEPTH = spaces.Box(0.5, 4.5, (16, 16, 1), np.float32)
ENDLESS = spaces.Box(0.0, np.inf, (16, 16, 1), np.float32)


def test_one_channel_of_other_ends_is_an_image_of_its_own_kind() -> None:
    whole = robot(depth=DEPTH)
    env = Pixels(whole, pixels=("depth", "image"))
    env.reset(seed=1)
    bare = np.full((16, 16, 1), 0.5, np.float32)
    bare[0, 0], bare[0, 1], bare[0, 2] = 4.5, 2.5, 99.0
    shown: Any = env.observation({**whole._observed(), "depth": bare})
    assert shown["depth"][:, 0, :4].tolist() == [[255, 128, 255, 0]] * 3
    assert "'depth', float32 [16, 16, 1]: 16 x 16 pixels, as they are; one channel, 0.5..4.5 scaled to 0..255" in str(
        env.seen
    )


def test_one_channel_alone_is_seen_without_being_named() -> None:
    class Blind(Robot):
        def __init__(self) -> None:
            super().__init__()
            self.observation_space = spaces.Dict(depth=DEPTH)

        def _observed(self) -> dict[str, Any]:
            return {"depth": np.full((16, 16, 1), 4.5, np.float32)}

    env = Pixels(Blind())
    assert (env.reset(seed=1)[0] == 255).all()
    assert "one channel, 0.5..4.5 scaled to 0..255, repeated to three" in str(env.seen)


def test_one_channel_is_a_vector_where_it_is_named_so() -> None:
    env = Pixels(robot(depth=ENDLESS), pixels=("image",), state=("depth",))
    shown, _ = env.reset(seed=1)
    assert shown["depth"].shape == (256,)
    assert "the numbers of depth (float32 [16, 16, 1])" in str(env.seen)


WRONG: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (
        {},
        {},
        r"observes 2 images \(image, wrist\), and which .* Type --pixels image wrist for all of them, or name one",
    ),
    (
        {"large": spaces.Box(0, 255, (32, 32, 3), np.uint8)},
        {},
        r"observes 3 images .* Type --pixels image wrist large --size 16 for all of them, or name one: --pixels image",
    ),
    ({}, {"pixels": ("wrst",)}, r"no image 'wrst'\. Did you mean 'wrist'\? It has image, wrist, rendering .*--pixels"),
    ({}, {"pixels": ("joints",)}, r"'joints' of Robot cannot be seen as an image: it is float64 \[3\]\. It has image"),
    ({"depth": ENDLESS}, {"pixels": ("depth",)}, r"0\.\.inf, have no ends .* or see it as numbers: --state depth\."),
    ({}, {"pixels": ("rendering",)}, r"Robot was asked for its rendering, and cannot render rgb_array"),
    ({}, {"pixels": ("image",), "state": ("speed",)}, r"no numbers 'speed' .*It has .*joints.* Type, say: --state"),
    ({}, {"pixels": ("image",), "state": ("wrist",)}, r"'wrist' of Robot is an image, .*Type: --pixels wrist"),
    ({}, {"pixels": ("image",), "state": ("joint",)}, r"Did you mean 'joints'\?.* Type, say: --state joints"),
    ({}, {"pixels": ("image",), "state": ("mission",)}, r"no numbers 'mission' beside its images"),
    (
        {"depth": spaces.Box(0.0, np.inf, (300, 300, 1), np.float32)},
        {"pixels": ("image",), "state": ("depth",)},
        r"'depth' of Robot has 90,000 numbers, and a vector has 1 to 65,536",
    ),
    (
        {"large": spaces.Box(0, 255, (32, 32, 3), np.uint8)},
        {"pixels": ("image", "large")},
        r"image 3x16x16, large 3x32x32 differ in size, .* Show them alike: --size 16",
    ),
]


@pytest.mark.parametrize(("extra", "asked", "sentence"), WRONG, ids=[str(asked) for _, asked, _ in WRONG])
def test_parts_that_cannot_be_seen_so_are_sentences(
    extra: dict[str, Any], asked: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(EnvError, match=sentence):
        Pixels(robot(**extra), **asked)


def test_a_state_is_asked_of_what_has_none() -> None:
    with pytest.raises(
        EnvError, match=r"Orchard-v0 observes uint8 \[48, 48, 3\], in which --state on finds no numbers"
    ):
        make_env("stillsight/Orchard-v0", EnvOptions(state=("on",)))


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"state": ("on", "joints")}, r"--state on joints says on and names keys too"),
        ({"pixels": ("off", "image")}, r"--pixels off image says off and names keys too"),
        ({"pixels": ("image", "image")}, r"--pixels image image names a key twice"),
        ({"pixels": ("image",), "state": ("image",)}, r"'image' was named as an image and as numbers"),
        ({"pixels": ("on",)}, r"--pixels on says not which images\. Name them"),
        ({"pixels": ("off",)}, r"--pixels off leaves nothing to see\. Add the vectors: --state on"),
    ],
    ids=str,
)
def test_options_that_contradict_themselves_are_sentences(asked: dict[str, Any], sentence: str) -> None:
    with pytest.raises(EnvError, match=sentence):
        EnvOptions(**asked)


def test_options_of_parts_survive_json_and_off_is_the_default() -> None:
    options = EnvOptions(pixels=BOTH, state=("on",))
    assert EnvOptions(**{**options.to_json(), "kwargs": (), "pixels": list(BOTH)}) == options  # type: ignore[arg-type]
    assert EnvOptions(state=("off",)) == EnvOptions()


BROKEN: list[tuple[str, Any, str]] = [
    ("joints", np.array([0.0, np.nan, 0.0]), r"its 'joints' holds numbers that are not finite"),
    ("joints", np.array([0.0, 1e300, 0.0]), r"its 'joints' holds numbers that are not finite, or too large"),
    ("joints", np.zeros(4), r"its 'joints' is float64 \[4\], and its space says float64 \[3\]"),
    ("joints", None, r"its observation has no 'joints' where its space has it \(KeyError"),
    ("wrist", np.zeros((16, 16, 3), np.uint8), r"observes uint8 \[16, 16, 3\], and its space says uint8 \[3, 16, 16\]"),
    ("wrist", None, r"has no image 'wrist' where its space has one \(KeyError"),
    ("way", 9, r"its 'way' is 9, and its space says Discrete\(3\)"),
]


@pytest.mark.parametrize(
    ("key", "value", "sentence"), BROKEN, ids=[f"{key} {sentence[:20]}" for key, _, sentence in BROKEN]
)
def test_a_part_that_breaks_its_word_stops_the_step(key: str, value: Any, sentence: str) -> None:
    bare = robot(way=spaces.Discrete(3))
    env = Pixels(bare, pixels=BOTH, state=("joints", "way"))
    env.reset(seed=0)
    honest = bare._observed
    bare._observed = lambda: {name: part for name, part in {**honest(), key: value}.items() if part is not None}  # type: ignore[method-assign]
    with pytest.raises(EnvFault, match=sentence):
        env.step(0)


def test_copies_in_workers_show_what_copies_in_this_process_show() -> None:
    options = EnvOptions(pixels=BOTH, state=("on",), step_timeout=60.0)
    here, there = (make_vec(ID, 2, seed=3, options=options, workers=count) for count in (0, 2))
    try:
        assert layout_of(here) == layout_of(there) == make_env(ID, options).get_wrapper_attr("layout")
        one, other = here.reset(), there.reset()
        for step in range(24):
            assert isinstance(one, dict)
            assert isinstance(other, dict)
            for key, part in one.items():
                np.testing.assert_array_equal(part, other[key])
            actions = np.array([step % 3, (step + 1) % 3])
            one, _, dones, infos = here.step(actions)
            other, _, _, others = there.step(actions)
            for index in np.flatnonzero(dones):
                last, twin = infos[index]["terminal_observation"], others[index]["terminal_observation"]
                assert all(np.array_equal(last[key], twin[key]) for key in last)
    finally:
        there.close()


def test_a_shift_changes_every_image_and_no_vector() -> None:
    plain, shifted = (
        make_env(ID, EnvOptions(pixels=BOTH, state=("on",), shift=shift)).reset(seed=3)[0] for shift in (None, "hue")
    )
    assert all((plain[key] != shifted[key]).any() for key in BOTH)
    np.testing.assert_array_equal(plain["joints"], shifted["joints"])


def test_an_environment_that_draws_nothing_is_filmed_by_its_cameras_side_by_side() -> None:
    env = make_env(ID, EnvOptions(pixels=BOTH, state=("on",)))
    shown, _ = env.reset(seed=3)
    film: Any = env.render()
    np.testing.assert_array_equal(film[:, :16], shown["image"].transpose(1, 2, 0))
    np.testing.assert_array_equal(film[:, 16:], shown["wrist"].transpose(1, 2, 0))
    assert make_env(ID, EnvOptions(pixels=("off",), state=("on",))).render() is None


def shown_by(layout: Layout, seed: int) -> Any:
    layout.space.seed(seed)
    return layout.space.sample()


LAYOUTS: dict[str, Callable[[], Layout]] = {
    "one image": lambda: Layout(images=(Image("", (3, 8, 9)),)),
    "two images": lambda: Layout(images=(Image("a", (3, 8, 9)), Image("b", (3, 8, 9)))),
    "both": lambda: Layout(images=(Image("a", (3, 8, 9)),), vectors=(Vector("v", 2), Vector("w", 1))),
    "vectors": lambda: Layout(images=(), vectors=(Vector("v", 2),)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_batch_is_taken_apart_as_it_was_put_together(name: str) -> None:
    layout = LAYOUTS[name]()
    several = [shown_by(layout, seed) for seed in range(3)]
    together = batch(several)
    assert (layout.batched(several[0]), layout.batched(together)) == (False, True)
    assert layout.objection(several[0]) is layout.objection(together) is None
    images, state = layout.images_of(together), layout.state_of(together)
    assert images.shape == (3, len(layout.images), *layout.pixels)
    assert state.shape == (3, layout.state)
    for row, one in enumerate(several):
        for place, image in enumerate(layout.images):
            np.testing.assert_array_equal(images[row, place], one[image.key] if image.key else one)
        vectors = [one[vector.key] for vector in layout.vectors]
        np.testing.assert_array_equal(state[row], np.concatenate(vectors) if vectors else np.zeros(0))
    assert Layout.of(layout.space) == layout


@pytest.mark.parametrize(
    ("observation", "why"),
    [
        (np.zeros((3, 8, 9), np.uint8), "is uint8, and no dict"),
        ({"a": np.zeros((3, 8, 9), np.uint8), "v": np.zeros(2, np.float32)}, "has no w"),
        (
            {"a": np.zeros((3, 8, 8), np.uint8), "v": np.zeros(2, np.float32), "w": np.zeros(1, np.float32)},
            r"has a 'a' that is uint8 \[3, 8, 8\], where uint8 \[3, 8, 9\] is expected",
        ),
        (
            {"a": np.zeros((3, 8, 9), np.uint8), "v": np.zeros((2, 2), np.float32), "w": np.zeros(1, np.float32)},
            "has parts of several numbers of environments",
        ),
    ],
    ids=["no dict", "a part is missing", "another shape", "two batches"],
)
def test_an_observation_of_another_layout_is_told(observation: Any, why: str) -> None:
    import re

    assert re.search(why, LAYOUTS["both"]().objection(observation) or "")


@pytest.mark.parametrize("space", [spaces.Box(0, 1, (3,)), spaces.Discrete(3), spaces.Box(0, 255, (4, 9, 9), np.uint8)])
def test_a_space_without_images_has_no_layout(space: gym.Space[Any]) -> None:
    assert Layout.of(space) is None
