"""Recording: whole episodes as H.264 mp4 files that a browser plays. Needs no screen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from stillsight.agents.errors import RunError
from stillsight.agents.playing.play import play
from stillsight.agents.playing.play_config import RecordConfig, shifted
from stillsight.agents.playing.player import load
from stillsight.agents.runs.progress import ProgressDisplay
from stillsight.agents.runs.records import plain
from stillsight.encoders.atomic import replacing, to_json, write_atomically
from stillsight.envs import make_env

LEAST_SIDE = 256
"""Frames are enlarged by a whole number until their smaller side has so many pixels."""


class Film:
    """An mp4 file that frames are appended to.

    Args:
        path: the file.
        fps: frames a second.

    Raises:
        RunError: on leaving, if there was no frame, or ffmpeg failed.
    """

    def __init__(self, path: Path, fps: int) -> None:
        self.path, self.fps = path, fps
        self.frames = 0
        self._writer: Any = None

    def append(self, frame: np.ndarray) -> None:
        """Add one frame, uint8 `[H, W, 3]`; all frames of a film have the same size."""
        import imageio_ffmpeg

        scale = max(1, -(-LEAST_SIDE // min(frame.shape[:2])))
        large = frame.repeat(scale, axis=0).repeat(scale, axis=1)
        height, width = (side + side % 2 for side in large.shape[:2])  # yuv420p halves both sides
        large = np.pad(large, ((0, height - large.shape[0]), (0, width - large.shape[1]), (0, 0)), mode="edge")
        if self._writer is None:
            self._writer = imageio_ffmpeg.write_frames(
                str(self.path),
                (width, height),
                fps=self.fps,
                codec="libx264",
                pix_fmt_out="yuv420p",
                macro_block_size=2,
                output_params=["-crf", "20", "-preset", "slow", "-movflags", "+faststart"],
                ffmpeg_log_level="error",
            )
            self._writer.send(None)
        self._writer.send(np.ascontiguousarray(large))
        self.frames += 1

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


@contextmanager
def film(path: Path, fps: int) -> Iterator[Film]:
    """A film at `path`, which appears there only when it is whole.

    Raises:
        RunError: no frame was appended, or ffmpeg wrote nothing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        shot = Film(partial, fps)
        try:
            yield shot
        finally:
            shot.close()
        if not shot.frames or not partial.exists() or not partial.stat().st_size:
            raise RunError(
                f"No frame was recorded for {path.name}: the environment renders nothing. Videos need an environment "
                "whose render_mode rgb_array gives images."
            )


def record(folder: Path, config: RecordConfig) -> list[Path]:
    """Record episodes of the run in `folder` into its videos/, and return the mp4 files.

    Each has a .json beside it with the episode's return, length and seed.

    Raises:
        RunError, CheckpointError: no such run or checkpoint, it is damaged, or there is nothing to see.
    """
    config.check()
    player = load(folder, config.checkpoint, weights=config.weights, device=config.device)
    options = shifted(player.config.env_options(), config.shift, config.shift_strength)
    env = make_env(player.config.env, options, training=False, seed=config.seed)
    fps = config.fps or max(1, round(env.metadata.get("render_fps", 30) / options.frame_skip))
    display = ProgressDisplay()
    written = []
    for index in range(config.episodes):
        seen = "" if options.shift is None else f"{options.shift}-"
        path = folder / "videos" / f"{config.checkpoint}-{seen}episode-{index}.mp4"
        with film(path, fps) as shot:
            episode = play(player, env, config.seed + index, deterministic=not config.stochastic, watch=shot.append)
        facts = {
            **asdict(episode),
            "return": episode.total,
            "frames": shot.frames,
            "fps": fps,
            "seed": config.seed + index,
            "deterministic": not config.stochastic,
            "checkpoint": config.checkpoint,
            "env": player.config.env,
            "shift": options.shift,
            "shift_strength": options.shift_strength,
        }
        del facts["total"]
        write_atomically(path.with_suffix(".json"), to_json(plain(facts), indent=2) + "\n")
        told = f"{path}  return {episode.total:g}, {shot.frames} frames at {fps} frames/s"
        display.console.print(told, soft_wrap=True, markup=False)
        written.append(path)
    env.close()
    return written
