"""Recordings: every frame of a whole episode, in a form that browsers play."""

from __future__ import annotations

import json
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
from stillsight.agents.playing.play import play
from stillsight.agents.playing.play_config import RecordConfig
from stillsight.agents.playing.video import film, record
from stillsight.envs import make_env

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
        record(folder, RecordConfig())
    assert not [path for path in folder.rglob("*") if path.suffix in (".mp4", ".part") or path.parent.name == "videos"]


def test_an_environment_without_rendering_shows_what_the_agent_sees(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    rl(tiny("ppo", env=register(Modest), steps=32, max_episode_steps=None, out=folder))
    (path,) = record(folder, RecordConfig(device="cpu"))
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
