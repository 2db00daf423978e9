"""Recordings: every frame of a whole episode, in a form that browsers play."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio_ffmpeg
import numpy as np
import pytest
from gymnasium import spaces

from stillsight.agents import RlConfig, load, rl
from stillsight.agents.errors import RunError
from stillsight.agents.playing.film import enlarged, film, picture
from stillsight.agents.playing.play import play
from stillsight.agents.playing.play_config import RecordConfig
from stillsight.agents.playing.video import record
from stillsight.encoders.system import stopping
from stillsight.envs import EnvError, make_env

Tiny = Callable[..., RlConfig]


def decode(path: Path) -> tuple[dict[str, Any], np.ndarray]:
    """What the file says of itself, and its frames `[N, H, W, 3]`."""
    reader = imageio_ffmpeg.read_frames(str(path))
    meta: dict[str, Any] = next(reader)
    width, height = meta["size"]
    frames = [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]
    return meta, np.stack(frames)


def probe(path: Path) -> str:
    """ffmpeg's own words on the file's stream."""
    result = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path)], capture_output=True, text=True)
    (stream,) = [line for line in result.stderr.splitlines() if "Video:" in line]
    return stream


def test_a_recording_holds_every_frame_of_the_episode_and_its_return(trained: Path) -> None:
    paths = record(trained, RecordConfig(episodes=2, seed=50, device="cpu"))
    agent = load(trained, device="cpu")
    assert [path.name for path in paths] == [f"best-step-{agent.step}-seed-{seed}.mp4" for seed in (50, 51)]
    env = make_env(agent.config.env, agent.config.env_options(), training=False, seed=50)
    for index, path in enumerate(paths):
        facts = json.loads(path.with_suffix(".json").read_text())
        shown: list[np.ndarray] = []
        episode = play(agent, env, 50 + index, watch=shown.append)
        assert (facts["return"], facts["length"], facts["terminated"]) == (
            episode.total,
            episode.length,
            episode.terminated,
        )
        assert facts["seed"] == 50 + index
        meta, frames = decode(path)
        assert len(frames) == len(shown) == facts["frames"] == episode.length + 1
        assert meta["fps"] == facts["fps"] == 15
        # H.264 loses a little; the right frames in the right order are still the nearest ones.
        sides = np.stack(shown).shape[1:3]
        assert frames.shape[1:3] == tuple(side * max(1, -(-256 // min(sides))) for side in sides)
        scale = frames.shape[1] // sides[0]
        small = frames[:, ::scale, ::scale].astype(float)
        error = np.abs(small - np.stack(shown)).mean(axis=(1, 2, 3))
        assert error.max() < 20
        stream = probe(path)
        assert "h264" in stream
        assert "yuv420p" in stream
        assert all(side % 2 == 0 for side in meta["size"])
    assert sorted(path.name for path in (trained / "videos").iterdir()) == sorted(
        f"{path.stem}.{ending}" for path in paths for ending in ("json", "mp4")
    )


def test_recording_the_last_agent_leaves_the_best_ones_film(trained: Path) -> None:
    (best,) = record(trained, RecordConfig(device="cpu"))
    (path,) = record(trained, RecordConfig(checkpoint="last", fps=7, device="cpu"))
    assert path.name == "last-step-96-seed-20000-fps-7.mp4"
    assert decode(path)[0]["fps"] == 7
    assert best.exists()
    assert best != path


@pytest.mark.parametrize("shape", [(257, 301), (33, 35), (256, 256), (301, 257)])
def test_frames_of_any_size_become_even_ones(tmp_path: Path, shape: tuple[int, int]) -> None:
    # yuv420p halves both sides; libx264 refuses odd ones.
    ramp = np.linspace(0, 255, shape[1]).astype(np.uint8)
    frames = [np.broadcast_to(ramp[:, None] // (1 + n), (*shape, 3)) for n in range(5)]
    with film(tmp_path / "odd.mp4", 10) as shot:
        for frame in frames:
            shot.append(frame)
    meta, decoded = decode(tmp_path / "odd.mp4")
    width, height = meta["size"]
    assert width % 2 == height % 2 == 0
    assert min(width, height) >= 256
    assert len(decoded) == 5
    scale = -(-256 // min(shape))
    for found, frame in zip(decoded, frames, strict=True):
        small = found[: shape[0] * scale : scale, : shape[1] * scale : scale].astype(float)
        assert np.abs(small - frame).mean() < 6
    assert "yuv420p" in probe(tmp_path / "odd.mp4")


def test_a_film_without_a_frame_is_a_sentence_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"No frame was recorded for empty\.mp4"), film(tmp_path / "empty.mp4", 10):
        pass
    assert not list(tmp_path.iterdir())


def test_a_recording_that_breaks_off_leaves_the_old_film(tmp_path: Path) -> None:
    frame = np.zeros((256, 256, 3), np.uint8)
    with film(tmp_path / "a.mp4", 10) as shot:
        shot.append(frame)
    before = (tmp_path / "a.mp4").read_bytes()

    def break_off() -> None:
        with film(tmp_path / "a.mp4", 10) as shot:
            shot.append(frame)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == before


@pytest.mark.parametrize("place", ["replacing the film", "writing its facts"])
def test_a_stop_between_a_film_and_its_facts_keeps_both_and_counts_them(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    films, renamed = tmp_path / "films", os.replace

    def interrupted(source: Any, target: Any) -> None:
        if Path(target).suffix == {"replacing the film": ".mp4", "writing its facts": ".json"}[place]:
            os.kill(os.getpid(), signal.SIGTERM)
        renamed(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with stopping.answering(), pytest.raises(stopping.Stop) as stopped:
        record(trained, RecordConfig(episodes=3, out=films))
    assert str(stopped.value) == "Stopped by SIGTERM: 1 of 3 films are whole and kept."
    (shot,) = films.glob("*.mp4")
    assert sorted(path.name for path in films.iterdir()) == [f"{shot.stem}.json", shot.name]
    assert json.loads(shot.with_suffix(".json").read_text())["frames"] == len(decode(shot)[1])


def test_a_stop_while_ffmpeg_starts_leaves_no_ffmpeg_that_writes_on(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, command: list[str], **more: Any) -> None:
            super().__init__(command, **more)
            if "libx264" in command:
                started.append(self)
                signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    films = tmp_path / "films"
    with stopping.answering(), pytest.raises(stopping.Stop) as stopped:
        record(trained, RecordConfig(episodes=3, out=films))
    assert str(stopped.value) == "Stopped by SIGTERM: 0 of 3 films are whole and kept."
    (ffmpeg,) = started
    assert ffmpeg.poll() is not None, "it was ended, and waited for, before its file was removed"
    assert list(films.iterdir()) == []


class Unseen(gym.Env[np.ndarray, Any]):
    """Observes images, promises to render, and renders nothing."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - Gymnasium's own way

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space, self.action_space = spaces.Box(0, 255, (16, 16, 3), np.uint8), spaces.Discrete(2)

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,  # noqa: ARG002 - Gymnasium's
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.now = 0
        return np.zeros((16, 16, 3), np.uint8), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:  # noqa: ARG002
        self.now += 1
        return np.full((16, 16, 3), 10 * self.now, np.uint8), 1.0, self.now == 8, False, {}

    def render(self) -> None:
        return None


class Modest(Unseen):
    """Observes images and offers no rendering."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own way


def register(cls: type[Unseen]) -> str:
    name = f"stillsight_tests/{cls.__name__}-v0"
    if name not in gym.registry:
        gym.register(name, cls)  # type: ignore[arg-type]
    return name


def test_an_environment_that_renders_nothing_is_a_sentence_and_leaves_no_file(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    rl(tiny("ppo", env=register(Unseen), steps=32, max_episode_steps=None, out=folder))
    with pytest.raises(RunError, match=r"No frame was recorded .* renders nothing"):
        record(folder, RecordConfig(trust=(register(Unseen),)))
    assert not [path for path in folder.rglob("*") if path.suffix in (".mp4", ".part") or path.parent.name == "videos"]


def test_an_environment_without_rendering_shows_what_the_agent_sees(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    rl(tiny("ppo", env=register(Modest), steps=32, max_episode_steps=None, out=folder))
    (path,) = record(folder, RecordConfig(device="cpu", trust=(register(Modest),)))
    meta, frames = decode(path)
    assert len(frames) == 9
    assert meta["size"] == (256, 256)
    assert [round(float(frame.mean()) / 10) for frame in frames] == list(range(9))


@pytest.mark.parametrize("config", [RecordConfig(episodes=0), RecordConfig(fps=0)])
def test_counts_that_record_nothing_are_sentences(trained: Path, config: RecordConfig) -> None:
    with pytest.raises(RunError, match="Type a number from 1"):
        record(trained, config)
    assert not (trained / "videos").exists()


def test_a_film_shows_the_game_as_a_shifted_agent_sees_it(trained: Path) -> None:
    (plain_path,) = record(trained, RecordConfig(seed=50, device="cpu"))
    (path,) = record(trained, RecordConfig(seed=50, device="cpu", shift="hue", shift_strength=1.0))
    assert path.name == f"{plain_path.stem}-hue-1.mp4"
    facts = json.loads(path.with_suffix(".json").read_text())
    assert (facts["shift"], facts["shift_strength"]) == ("hue", 1.0)
    first, plain_first = decode(path)[1][0], decode(plain_path)[1][0]
    assert np.abs(first.astype(int) - plain_first.astype(int)).mean() > 20


def ramp(height: int = 20, width: int = 30) -> np.ndarray:
    return np.linspace(0, 255, height * width * 3).reshape(height, width, 3).astype(np.uint8)


def shoot(path: Path, *frames: Any) -> None:
    with film(path, 10) as shot:
        for frame in frames:
            shot.append(frame)


def test_frames_of_every_known_form_become_the_same_picture() -> None:
    colour = ramp()
    grey = colour[..., 0]
    opaque = np.concatenate([colour, np.full((20, 30, 1), 255, np.uint8)], axis=2)
    for frame, expected in (
        (colour, colour),
        (opaque, colour),
        (colour.transpose(2, 0, 1), colour),
        (colour.astype(np.int64), colour),
        (colour / 255.0, colour),
        ((colour / 255.0).astype(np.float32), colour),
        (grey, np.stack([grey] * 3, axis=2)),
        (grey[..., None], np.stack([grey] * 3, axis=2)),
        (grey[None], np.stack([grey] * 3, axis=2)),
        (grey > 100, np.stack([(grey > 100) * np.uint8(255)] * 3, axis=2)),
    ):
        found = picture(frame)
        assert (found.dtype, found.shape) == (np.uint8, (20, 30, 3))
        np.testing.assert_array_equal(found, expected)
    half = np.concatenate([colour, np.full((20, 30, 1), 128, np.uint8)], axis=2)
    np.testing.assert_allclose(picture(half), colour * (128 / 255), atol=0.51)


@pytest.mark.parametrize(
    ("frame", "sentence"),
    [
        (np.zeros((20, 30, 2), np.uint8), r"rendered as uint8 \[20, 30, 2\]"),
        (np.zeros((2, 20, 30, 3), np.uint8), r"rendered as uint8 \[2, 20, 30, 3\]"),
        (np.full((20, 30, 3), 300), "rendered as int64 between 300 and 300"),
        (np.full((20, 30, 3), 17.0), "rendered as float64 between 17 and 17"),
        (np.full((20, 30, 3), -0.5), "rendered as float64 between -0.5 and -0.5"),
        (np.full((20, 30, 3), np.nan), "rendered as float64 between nan and nan"),
        (["a", "b"], r"rendered as <U1 \[2\]"),
    ],
)
def test_frames_that_are_no_picture_are_sentences(tmp_path: Path, frame: Any, sentence: str) -> None:
    with pytest.raises(RunError, match=f"{sentence}.*A film takes uint8"):
        shoot(tmp_path / "a.mp4", ramp(), frame)
    assert not list(tmp_path.iterdir())


def test_every_frame_of_a_film_is_of_one_size(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="Frame 1 of the film has 31 x 20 pixels, and those before it 30 x 20"):
        shoot(tmp_path / "a.mp4", ramp(), ramp(20, 31))
    assert not list(tmp_path.iterdir())


def test_a_grey_film_is_what_was_shown(tmp_path: Path) -> None:
    # Of SB3's or Gymnasium's own film, a grey frame made a mosaic of 3 x 3 and a third of the frames.
    rows = np.linspace(0, 255, 256).astype(np.uint8)
    frames = [np.broadcast_to(rows[:, None] // (1 + number), (256, 320)) for number in range(9)]
    with film(tmp_path / "grey.mp4", 10) as shot:
        for frame in frames:
            shot.append(frame)
    decoded = decode(tmp_path / "grey.mp4")[1]
    assert decoded.shape == (9, 256, 320, 3)
    for found, frame in zip(decoded, frames, strict=True):
        assert np.abs(found.astype(float) - frame[..., None]).mean() < 4


@pytest.mark.parametrize(("size", "shape"), [(None, (256, 320)), (64, (64, 80)), (100, (100, 125)), (512, (512, 640))])
def test_a_film_has_the_size_that_was_asked_for(size: int | None, shape: tuple[int, int]) -> None:
    image = np.full((128, 160, 3), 77, np.uint8)
    found = enlarged(image, size)
    assert found.shape[:2] == shape
    assert (found == 77).all()


def test_films_of_other_seeds_checkpoints_and_sizes_stand_beside_each_other(trained: Path, tmp_path: Path) -> None:
    paths = [
        path
        for config in (
            RecordConfig(device="cpu"),
            RecordConfig(device="cpu", seed=31_000, episodes=2),
            RecordConfig(device="cpu", checkpoint="last"),
            RecordConfig(device="cpu", stochastic=True),
            RecordConfig(device="cpu", size=128),
            RecordConfig(device="cpu", shift="blur", shift_strength=0.25),
        )
        for path in record(trained, config)
    ]
    assert len(set(paths)) == 7
    assert all(path.exists() for path in paths)
    assert {path.parent for path in paths} == {trained / "videos"}
    assert decode(paths[5])[0]["size"] == (128, 128)
    (elsewhere,) = record(trained, RecordConfig(device="cpu", out=tmp_path / "films"))
    assert elsewhere == tmp_path / "films" / paths[0].name
    assert elsewhere.with_suffix(".json").exists()


def test_an_environment_is_filmed_and_played_with_other_arguments(trained: Path) -> None:
    from stillsight.agents.playing.play import evaluate
    from stillsight.agents.playing.play_config import EvaluateConfig

    with pytest.raises(EnvError, match=r"does not take the arguments wind=3"):
        record(trained, RecordConfig(env_set=("wind=3",), device="cpu"))
    with pytest.raises(EnvError, match=r"does not take the arguments wind=3"):
        evaluate(trained, EvaluateConfig(env_set=("wind=3",), device="cpu", random_episodes=0))
    with pytest.raises(RunError, match="--env-set takes name=value"):
        record(trained, RecordConfig(env_set=("wind",), device="cpu"))


@pytest.mark.parametrize("config", [RecordConfig(size=3), RecordConfig(size=100_000), RecordConfig(max_steps=-1)])
def test_sizes_and_limits_of_no_film_are_sentences(trained: Path, config: RecordConfig) -> None:
    with pytest.raises(RunError, match="Type a number"):
        record(trained, config)


def test_a_film_folder_that_is_a_file_is_a_sentence(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("")
    with pytest.raises(RunError, match=r"a\.mp4 is a file\. Type a folder"):
        record(trained, RecordConfig(out=tmp_path / "a.mp4"))


def test_atari_films_play_at_the_speed_of_the_console() -> None:
    pytest.importorskip("ale_py")
    env = make_env("ALE/Breakout-v5", training=False)
    assert env.metadata["render_fps"] == 60, "and not 30: a frame skip of 4 makes 15 frames a second"
