"""A user's own images and films, shown over or behind an environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from stillsight.envs import SHIFTS, EnvError, EnvOptions, make_env
from stillsight.envs.shifts import pictures
from stillsight.envs.shifts.pictures import Pictures, fitted, read, turning

ORCHARD = "stillsight/Orchard-v0"


def paint(path: Path, colour: tuple[int, int, int], height: int = 30, width: int = 40) -> Path:
    """An image file of one colour, RGB."""
    path.parent.mkdir(exist_ok=True, parents=True)
    assert cv2.imwrite(str(path), np.full((height, width, 3), colour[::-1], np.uint8))
    return path


def film(path: Path, values: list[int], side: int = 64) -> Path:
    """A film of grey frames."""
    import imageio_ffmpeg

    writer = imageio_ffmpeg.write_frames(str(path), (side, side), fps=10, codec="libx264", ffmpeg_log_level="error")
    writer.send(None)
    for value in values:
        writer.send(np.full((side, side, 3), value, np.uint8))
    writer.close()
    return path


def test_an_image_is_blended_over_every_frame(tmp_path: Path) -> None:
    red = paint(tmp_path / "red.png", (255, 0, 0))
    plain = make_env(ORCHARD, EnvOptions(size=0)).reset(seed=2)[0].astype(float)
    env = make_env(ORCHARD, EnvOptions(size=0, shift=f"overlay:0.5@{red}"))
    seen = [env.reset(seed=2)[0]]
    expected = 0.7 * plain + 0.3 * np.array([255.0, 0.0, 0.0])[:, None, None]
    assert np.abs(seen[0] - expected).max() <= 1.0
    for strength, share in ((1.0, 0.6), (0.0, 0.0)):
        other = make_env(ORCHARD, EnvOptions(size=0, shift=f"overlay:{strength}@{red}")).reset(seed=2)[0]
        assert np.abs(other - ((1 - share) * plain + share * np.array([255.0, 0, 0])[:, None, None])).max() <= 1.0


def test_a_background_lies_behind_what_moves(tmp_path: Path) -> None:
    green = paint(tmp_path / "green.png", (0, 255, 0))
    picture = np.full((20, 20, 3), 90, np.uint8)
    picture[5:9, 5:9] = 10
    shown = SHIFTS["background"].begin(np.random.default_rng(0), 1.0, Pictures(green))(picture, 3)
    assert (shown[5:9, 5:9] == 10).all()
    assert (shown[0] == (0, 255, 0)).all()


def test_a_film_goes_on_by_a_frame_in_every_step_and_turns_at_its_ends(tmp_path: Path) -> None:
    values = [40, 80, 120, 160, 200]
    shown = [Pictures(film(tmp_path / "grey.mp4", values)).begin(np.random.default_rng(seed)) for seed in range(12)]
    starts, ways = set(), set()
    for frame in shown:
        seen = [round((int(frame(step)[8, 8, 0]) - 40) / 40) for step in range(12)]
        starts.add(seen[0])
        steps = np.diff(seen)
        assert (np.abs(steps) == 1).all()
        inner = [steps[n] for n in range(1, 11) if 0 < seen[n] < 4 and steps[n - 1] != steps[n]]
        assert not inner, "it turns nowhere but at its ends"
        ways.add(int(steps[0]) if 0 < seen[0] < 4 else 0)
    assert len(starts) >= 4
    assert {1, -1} <= ways
    assert [turning(n, 3) for n in range(-3, 6)] == [1, 2, 1, 0, 1, 2, 1, 0, 1]
    assert [turning(n, 1) for n in (-4, 0, 9)] == [0, 0, 0]


def test_a_folder_holds_images_films_and_folders_of_frames(tmp_path: Path) -> None:
    paint(tmp_path / "still.png", (1, 2, 3))
    film(tmp_path / "film.mp4", [50, 60])
    for number in (2, 1, 10):
        paint(tmp_path / "bear" / f"{number:05}.png", (number, 0, 0))
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "empty").mkdir()
    own = Pictures(tmp_path)
    assert [source.name for source in own.sources] == ["bear", "film.mp4", "still.png"]
    assert [int(frame[0, 0, 0]) for frame in read(tmp_path / "bear")] == [1, 2, 10]
    assert len(read(tmp_path / "film.mp4")) == 2
    assert (read(tmp_path / "still.png")[0] == (1, 2, 3)).all()
    drawn = {int(own.begin(np.random.default_rng(seed))(0)[0, 0, 2]) for seed in range(20)}
    assert len(drawn) == 4, "all of them are drawn, and each of the film's two frames"


def test_long_films_and_large_frames_are_cut_and_reduced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MOST_FRAMES", 3)
    frames = read(film(tmp_path / "long.mp4", [10, 20, 30, 40, 50], side=320))
    assert [frame.shape for frame in frames] == [(128, 128, 3)] * 3
    assert read(paint(tmp_path / "wide.png", (9, 9, 9), 512, 1024))[0].shape == (256, 512, 3)


def test_a_picture_is_cut_to_the_proportions_that_are_wanted_in_its_middle() -> None:
    picture = np.zeros((60, 100, 3), np.uint8)
    picture[:, 20:80] = 200
    np.testing.assert_array_equal(fitted(picture, 30, 30), np.full((30, 30, 3), 200))
    np.testing.assert_array_equal(fitted(picture, 60, 100), picture)
    assert fitted(picture, 96, 96).min() == 200


def test_one_seed_shows_one_picture_in_every_process_and_another_episode_another(tmp_path: Path) -> None:
    for number in range(8):
        paint(tmp_path / f"{number}.png", (30 * number, 0, 0))
    options = EnvOptions(size=0, shift=f"overlay:1@{tmp_path}")

    def episodes() -> list[Any]:
        env = make_env(ORCHARD, options)
        return [env.reset(seed=seed)[0] for seed in (3, None, None, None, 3)]

    one, other = episodes(), episodes()
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(one[0], one[4])
    assert len({int(frame[0].mean()) for frame in one[:4]}) > 1


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("gone.png", None, "There is no .*gone.png"),
        ("notes.txt", b"hello", r"holds no pictures\. They are images \(\.png, .*films \(\.mp4"),
        ("broken.png", b"hello", r"broken\.png cannot be read as an image"),
        ("empty.png", b"", r"empty\.png cannot be read as an image"),
        ("broken.mp4", b"hello", r"broken\.mp4 cannot be read as a film"),
    ],
)
def test_what_is_no_picture_is_a_sentence(tmp_path: Path, name: str, content: bytes | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(EnvError, match=sentence):
        make_env(ORCHARD, EnvOptions(size=0, shift=f"overlay@{tmp_path / name}"))


def test_an_empty_folder_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(EnvError, match="holds no pictures"):
        make_env(ORCHARD, EnvOptions(size=0, shift=f"background@{tmp_path}"))
