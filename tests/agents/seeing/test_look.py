"""`stillsight look`: the sheet shows what an agent sees, and what there is to know is said."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image

from stillsight.agents.cli import main
from stillsight.agents.errors import RunError
from stillsight.agents.seeing import keyboard, look
from stillsight.agents.seeing.contact_sheet import Row, sheet
from stillsight.agents.seeing.keyboard import keys_of
from stillsight.agents.seeing.look import Replay, _rows, images, random_play
from stillsight.envs import SHIFTS, EnvOptions, make_env, resolve
from stillsight.envs.shifts.shifted import Shifted

ORCHARD = "stillsight/Orchard-v0"


def test_the_sheet_the_films_and_the_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["look", ORCHARD, "--shift", "hue:0.4", "noise+blur", "--steps", "20", "--out", str(tmp_path)]
    assert main(arguments) == 0
    told = " ".join(capsys.readouterr().out.split())
    for line in (
        "sees the observation, uint8 [48, 48, 3]: 48 x 48 pixels, as they are",
        "observation uint8 [3, 48, 48]",
        "actions Discrete(3)",
        "random play went on after 24 steps, with a return of",
        "shifts hue:0.4, noise+blur",
    ):
        assert line in told
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"sheet.png", "random.mp4", "random-hue_0.4.mp4", "random-noise+blur.mp4"}
    drawn = np.asarray(Image.open(tmp_path / "sheet.png"))
    played = random_play(make_env(ORCHARD, training=False), 0, 24)
    shown = EnvOptions(size=0, shift="hue:0.4")
    env = make_env(ORCHARD, shown, training=False)
    frames = [env.reset(seed=0)[0]] + [env.step(action)[0] for action in played.actions[:16]]
    for picture in (played.seen[0], played.seen[16], frames[16]):
        assert holds(drawn, picture.transpose(1, 2, 0).repeat(3, 0).repeat(3, 1)), "three times as large"
    assert not holds(drawn, frames[15].transpose(1, 2, 0).repeat(3, 0).repeat(3, 1))
    import imageio_ffmpeg

    for name in ("random.mp4", "random-hue_0.4.mp4"):
        assert imageio_ffmpeg.count_frames_and_secs(str(tmp_path / name))[0] == 21


class Coin(gym.Env[Any, Any]):
    """A coin is tossed after the guess; a right one earns 1."""

    observation_space, action_space = spaces.Box(0, 255, (32, 32, 3), np.uint8), spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        return np.zeros((32, 32, 3), np.uint8), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros((32, 32, 3), np.uint8), float(action == self.np_random.integers(2)), False, False, {}

    def render(self) -> None:
        """Nothing."""


def test_random_play_knows_nothing_of_what_a_game_draws() -> None:
    assert 70 < sum(random_play(Coin(), 0, 200).rewards) < 130


def holds(large: np.ndarray, small: np.ndarray) -> bool:
    """Whether a picture stands somewhere in another."""
    corners = np.argwhere((large == small[0, 0]).all(-1))
    height, width = small.shape[:2]
    return any(np.array_equal(large[y : y + height, x : x + width], small) for y, x in corners)


def test_every_shift_has_a_row_that_shows_what_an_agent_sees_through_it() -> None:
    options = resolve(ORCHARD).options
    played = random_play(make_env(ORCHARD, training=False), 3, 24)
    for shift in SHIFTS:
        (row,) = _rows(ORCHARD, options, shift, 3, played, {})
        assert (row.title, len(row.tiles)) == (shift, 6)
        env = make_env(ORCHARD, options.merge(shift=shift), training=False)
        seen = [env.reset(seed=3)[0]] + [env.step(action)[0] for action in played.actions]
        shown = dict(row.tiles)
        asked = SHIFTS[shift].strength
        np.testing.assert_array_equal(shown[f"strength {asked:g}"], images(seen[16])[""])
        np.testing.assert_array_equal(shown["8 steps later"], images(seen[24])[""])
        assert f"strength {asked / 2:g}" in shown
        if asked == 1.0:
            np.testing.assert_array_equal(shown["strength 1, first frame"], images(seen[0])[""])


def test_each_of_several_cameras_has_its_rows_and_numbers_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    robot, seen = "robot_world:Robot-v0", ["--pixels", "image", "wrist", "--state", "on"]
    assert main(["look", robot, *seen, "--shift", "hue", "--steps", "0", "--out", str(tmp_path)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "layout images image 3x16x16, wrist 3x16x16; vectors joints [3]; text mission, not seen" in told
    options = resolve(robot).options.merge(pixels=("image", "wrist"), state=("on",))
    env = make_env(robot, options, training=False)
    played = random_play(env, 0, 24)
    rows = _rows(robot, options, "hue", 0, played, {})
    assert [row.title for row in rows] == ["hue, image", "hue, wrist"]
    shifted = make_env(robot, options.merge(shift="hue"), training=False)
    frames = [shifted.reset(seed=0)[0]] + [shifted.step(action)[0] for action in played.actions]
    at = min(16, len(frames) - 1)
    drawn = np.asarray(Image.open(tmp_path / "sheet.png"))
    for row, key in zip(rows, ("image", "wrist"), strict=True):
        picture = frames[at][key].transpose(1, 2, 0)
        np.testing.assert_array_equal(dict(row.tiles)["strength 0.5"], picture)
        scale = next(scale for scale in range(1, 20) if holds(drawn, picture.repeat(scale, 0).repeat(scale, 1)))
        assert scale > 1
    assert main(["look", robot, "--pixels", "off", "--state", "on", "--out", str(tmp_path)]) == 2
    assert "shows numbers and no image. Drop --pixels off." in " ".join(capsys.readouterr().err.split())


def test_a_replay_is_what_was_played() -> None:
    played = random_play(make_env(ORCHARD, training=False), 0, 5)
    env = Shifted(Replay(played.seen), "noise:0")
    assert np.array_equal(env.reset(seed=9)[0], played.seen[0])
    for frame in played.seen[1:]:
        np.testing.assert_array_equal(env.step(0)[0], frame)


class Sleeper(gym.Env[Any, Any]):
    """An episode of three steps, two images and numbers."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    render_mode = "rgb_array"
    observation_space, action_space = spaces.Box(0, 255, (20, 30, 3), np.uint8), spaces.MultiDiscrete([2, 3])

    def __init__(self, **_: Any) -> None:
        self.count = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.count = 0
        return np.full((20, 30, 3), 60, np.uint8), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        del action
        self.count += 1
        return np.full((20, 30, 3), 60 + self.count, np.uint8), 1.0, self.count == 3, False, {}

    def render(self) -> Any:
        return np.full((40, 60, 3), 60 + self.count, np.uint8)


@pytest.fixture
def sleeper() -> Iterator[str]:
    gym.register("StillsightTestSleeper-v0", Sleeper, disable_env_checker=True)
    yield "StillsightTestSleeper-v0"
    gym.registry.pop("StillsightTestSleeper-v0")


def test_short_episodes_and_shifts_that_an_environment_does_not_have(
    sleeper: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["look", sleeper, "--out", str(tmp_path), "--steps", "0"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "ended after 3 steps, with a return of 3" in told
    assert f"shifts {', '.join(SHIFTS)}" in told
    assert "not here domain, colours, drifting-colours, camera, drifting-camera, sky, plain, which need a scene" in told
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
    assert main(["look", sleeper, "--shift", "camera", "--out", str(tmp_path)]) == 2
    assert "draws no scene of MuJoCo's" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["stillsight/Orchid-v0"], "No environment is called 'stillsight/Orchid-v0'"),
        ([ORCHARD, "--shift", "nois"], "No shift is called 'nois'. Did you mean 'noise'?"),
        ([ORCHARD, "--shift", "camera"], "cannot give the shift 'camera'"),
        ([ORCHARD, "--shift", "overlay@gone.png"], "There is no gone.png"),
        ([ORCHARD, "--shift", "hue", "hue"], "--shift names a shift twice"),
        ([ORCHARD, "--steps", "-1"], "--steps -1 is no length of a film"),
        ([ORCHARD, "--play", "--shift", "hue", "blur"], "several shifts were named. Join them: --shift A+B"),
        (
            [ORCHARD, "--play", "--out", "x"],
            "--out has no effect with --play, which writes nothing. Drop --play, or",
        ),
        ([], "look"),
    ],
)
def test_slips_are_sentences(
    arguments: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["look", *arguments]) == 2
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_out_that_is_a_file_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["look", ORCHARD, "--out", str(tmp_path / "file")]) == 2
    assert "is a file. Type a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({}, "neither DISPLAY nor WAYLAND_DISPLAY is set"),
        ({"DISPLAY": ":0", "SDL_VIDEODRIVER": "dummy"}, "SDL_VIDEODRIVER=dummy draws none"),
    ],
)
def test_without_a_screen_play_says_that_there_is_no_window(
    variables: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.platform", "linux")
    assert main(["look", ORCHARD, "--play"]) == 2
    told = capsys.readouterr().err
    assert "There is no window to play in: " in told
    assert reason in told
    assert "Drop --play for a sheet and a film" in told


def test_without_pygame_play_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyboard, "find_spec", lambda _: None)
    with pytest.raises(RunError, match=r'pygame is not installed \(pip install "stillsight\[box2d\]"\)'):
        keyboard.play_by_keyboard(ORCHARD, EnvOptions(), 0)


def test_a_person_plays_through_a_shift_until_the_window_is_closed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pygame = pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setattr(keyboard, "no_window", lambda: None)
    shown: list[Any] = []

    def flip() -> None:
        shown.append(pygame.surfarray.array3d(pygame.display.get_surface()).transpose(1, 0, 2))
        if len(shown) == 2:
            pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_3))
        if len(shown) == 6:
            pygame.event.post(pygame.event.Event(pygame.QUIT))

    monkeypatch.setattr(pygame.display, "flip", flip)
    assert look.look(ORCHARD, look.LookConfig(play=True, shift=("hue:1",))) == {}
    told = " ".join(capsys.readouterr().out.split())
    assert "1 action 0 2 action 1 3 action 2 no key action 0" in told
    env = make_env(ORCHARD, resolve(ORCHARD).options.merge(shift="hue:1"), training=False)
    for _ in range(2):  # as Gymnasium's play does
        env.reset()
    frames: list[Any] = [env.render()]
    for action in (0, 0, 2):  # no key, then the one that was pressed
        env.step(action)
        frames.append(env.render())
    for seen, frame in zip(shown, frames, strict=False):
        assert seen.shape[0] == 3 * frame.shape[0]
        np.testing.assert_array_equal(seen[1::3, 1::3], frame)


def test_keys_of_choices_and_of_numbers(sleeper: str) -> None:
    pygame = pytest.importorskip("pygame")
    env: Any = gym.Env()
    env.action_space = spaces.Box(np.array([-1, 0, 0], np.float32), 1.0)
    keys, rest, words = keys_of(env)
    np.testing.assert_array_equal(rest, [0, 0, 0])
    np.testing.assert_array_equal(keys[(pygame.K_LEFT,)], [-1, 0, 0])
    np.testing.assert_array_equal(keys[tuple(sorted((pygame.K_RIGHT, pygame.K_UP)))], [1, 1, 0])
    np.testing.assert_array_equal(keys[(pygame.K_d,)], [0, 0, 1])
    assert (pygame.K_DOWN,) not in keys, "gas has no other end than 0"
    assert len(keys) == 3 * 2 * 2 - 1
    assert words == {
        "left": "number 0 is -1",
        "right": "number 0 is 1",
        "up": "number 1 is 1",
        "d": "number 2 is 1",
        "no key": "all are 0, 0, 0",
    }
    with pytest.raises(RunError, match=r"MultiDiscrete\(\[2 3\]\) has no keys here"):
        keys_of(make_env(sleeper))


def test_a_sheet_has_each_picture_at_a_whole_multiple_in_its_place() -> None:
    small, wide = np.full((40, 40, 3), (255, 0, 0), np.uint8), np.full((100, 400, 3), (0, 0, 255), np.uint8)
    drawn = np.asarray(
        sheet("title", ["a line"], [Row("one", "words", [("a", small), ("b", small)]), Row("two", "", [("c", wide)])])
    )
    red, blue = (drawn == (255, 0, 0)).all(-1), (drawn == (0, 0, 255)).all(-1)
    assert red.sum() == 2 * 160 * 160
    assert blue.sum() == 150 * 38
    assert np.argwhere(red)[0][0] < np.argwhere(blue)[0][0]
    assert (drawn[np.argwhere(red)[0][0] - 20 : np.argwhere(red)[0][0]] < 60).all(-1).any(), "a heading above"


def test_a_module_of_the_current_folder_can_be_looked_at(tmp_path: Path) -> None:
    (tmp_path / "my_eye.py").write_text(
        "import gymnasium as gym, numpy as np\n"
        "class Eye(gym.Env):\n"
        "    observation_space = gym.spaces.Box(0, 255, (20, 20, 3), np.uint8)\n"
        "    action_space = gym.spaces.Discrete(2)\n"
        "    def reset(self, *, seed=None, options=None):\n"
        "        return np.zeros((20, 20, 3), np.uint8), {}\n"
        "    def step(self, action):\n"
        "        return np.zeros((20, 20, 3), np.uint8), 0.0, False, False, {}\n"
        "gym.register('Eye-v0', Eye)\n"
    )
    import sys

    words = [sys.executable, "-c", "from stillsight.agents.cli import main; raise SystemExit(main())"]
    done = subprocess.run(
        [*words, "look", "my_eye:Eye-v0", "--shift", "blur", "--steps", "0"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stderr.startswith("stillsight: warning: the 25 frames of the first look are all alike"), "as they are"
    assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "results" / "look" / "eye-v0" / "sheet.png").exists()


def test_frames_that_are_all_but_black_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The failure it prevents: a sheet of black pictures, "as they are", of an environment whose space says 0..255 of
    floats 0..1."""
    name = "TestDark-v0"
    if name not in gym.registry:
        gym.register(name, entry_point=Dark)
    assert main(["look", name, "--steps", "8", "--shift", "noise", "--out", str(tmp_path)]) == 0
    assert "frames of the first look are all but black (0 and 1 of 255)" in capsys.readouterr().err


class Dark(gym.Env[np.ndarray, Any]):
    """Floats 0..1 behind a space of 0..255."""

    observation_space = gym.spaces.Box(0, 255, (24, 24, 3), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,  # noqa: ARG002 - Gymnasium's
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self._picture(), {}

    def step(self, _: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self._picture(), 0.0, False, False, {}

    def _picture(self) -> np.ndarray:
        return self.np_random.random((24, 24, 3)).astype(np.float32)
