"""Films: frames one after another as an H.264 mp4 file that a browser plays. Needs no screen."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from stillsight.agents.errors import RunError
from stillsight.encoders.atomic import replacing, writing
from stillsight.encoders.errors import DiskFault
from stillsight.encoders.system import stopping

LEAST_SIDE = 256
"""Frames are enlarged by a whole number until their smaller side has so many pixels."""


class Film:
    """An mp4 file that frames are appended to.

    Args:
        path: the file.
        fps: frames a second.
        size: shorter side in pixels; None for that of the frames, enlarged by a whole number up to `LEAST_SIDE`.
    """

    def __init__(self, path: Path, fps: int, size: int | None = None) -> None:
        self.path, self.fps, self.size = path, fps, size
        self.frames = 0
        self._writer: Any = None
        self._shape: tuple[int, ...] = ()

    def append(self, frame: np.ndarray) -> None:
        """Add one frame: uint8 `[H, W, 3]`, or what `picture` makes that of. All frames of a film have one size.

        Raises:
            RunError: it is no picture, or has another size than those before it.
            DiskFault: ffmpeg ended, which it does where it cannot write.
            Stop: a signal asked for it while ffmpeg was started.
        """
        import imageio_ffmpeg

        image = picture(frame)
        if self._writer is not None and image.shape != self._shape:
            raise RunError(
                f"Frame {self.frames} of the film has {image.shape[1]} x {image.shape[0]} pixels, and those "
                f"before it {self._shape[1]} x {self._shape[0]}. A film has one size: mend the environment's render()."
            )
        self._shape = image.shape
        large = enlarged(image, self.size)
        height, width = (side + side % 2 for side in large.shape[:2])  # yuv420p halves both sides
        large = np.pad(large, ((0, height - large.shape[0]), (0, width - large.shape[1]), (0, 0)), mode="edge")
        if self._writer is None:
            with stopping.answering(deferred=True):  # a signal amid ffmpeg's start would leave it behind, to write on
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
                stopping.check()
        try:
            self._writer.send(np.ascontiguousarray(large))
        except OSError as error:  # with ffmpeg's whole command in it
            raise _unwritten(self.path, "ffmpeg ended before the film did") from error
        self.frames += 1

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def picture(frame: Any) -> np.ndarray:
    """A rendered frame as uint8 `[H, W, 3]`.

    Grey is repeated to three channels, what is transparent lies on black, channels may come first, and numbers may be
    of any kind that counts 0..255, truth values, or floats 0..1.

    Raises:
        RunError: it is none of these.
    """
    given = np.asarray(frame)
    wanted = (
        "A film takes uint8 [H, W, 3], [H, W, 4], [H, W] or [3, H, W], or floats 0..1. Mend the environment's render()."
    )
    image = given
    if given.ndim == 3 and given.shape[2] not in (1, 3, 4) and given.shape[0] in (1, 3, 4):
        image = given.transpose(1, 2, 0)
    image = image[..., None] if image.ndim == 2 else image
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or min(image.shape[:2]) < 1 or image.dtype.kind not in "uifb":
        raise RunError(f"A frame was rendered as {given.dtype} {list(given.shape)}. {wanted}")
    if image.dtype != np.uint8:
        scale = 255.0 if image.dtype.kind in "fb" else 1.0
        numbers = image.astype(np.float64) * scale
        if not (np.isfinite(numbers).all() and numbers.min() >= 0.0 and numbers.max() <= 255.0):
            low, high = given.min(), given.max()
            raise RunError(f"A frame was rendered as {given.dtype} between {low:g} and {high:g}. {wanted}")
        image = np.rint(numbers).astype(np.uint8)
    if image.shape[2] == 4:
        opacity = image[..., 3:].astype(np.uint16)
        image = ((image[..., :3] * opacity + 127) // 255).astype(np.uint8)
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


def enlarged(image: np.ndarray, size: int | None) -> np.ndarray:
    """`image` uint8 `[H, W, 3]` at the size of a film, see `Film`."""
    import cv2

    least = min(image.shape[:2])
    scale = max(1, -(-LEAST_SIDE // least)) if size is None else max(1, size // least)
    large = image.repeat(scale, axis=0).repeat(scale, axis=1)
    if size is None or min(large.shape[:2]) == size:
        return large
    height, width = (max(1, round(side * size / least)) for side in image.shape[:2])
    smaller = size < least
    resized = cv2.resize(
        image if smaller else large, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    )
    return resized.astype(np.uint8, copy=False)


@contextmanager
def film(path: Path, fps: int, size: int | None = None) -> Iterator[Film]:
    """A film at `path`, which appears there only when it is whole.

    Raises:
        RunError: no frame was appended.
        DiskFault: ffmpeg could not write the film, or not all of it.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        shot = Film(partial, fps, size)
        try:
            yield shot
        except DiskFault as fault:
            fault.filename = str(path)
            raise
        finally:
            shot.close()
        if shot.frames:
            _check_whole(shot, path)
        if not shot.frames or not partial.exists() or not partial.stat().st_size:
            raise RunError(
                f"No frame was recorded for {path.name}: the environment renders nothing. Videos need an environment "
                "whose render_mode rgb_array gives images."
            )


def _check_whole(shot: Film, path: Path) -> None:
    """Count the frames in the file: ffmpeg's exit code, which tells of a full disk, does not reach us."""
    import imageio_ffmpeg

    try:
        written, _ = imageio_ffmpeg.count_frames_and_secs(str(shot.path))
    except (OSError, RuntimeError):
        written = 0
    if written != shot.frames:
        raise _unwritten(path, f"ffmpeg put {written:,} of {shot.frames:,} frames into it")


def _unwritten(path: Path, reason: str) -> DiskFault:
    """What to say where ffmpeg failed; what it said itself stands on the standard error."""
    with writing(path):
        full = shutil.disk_usage(path.parent).free == 0
    return DiskFault(errno.ENOSPC, os.strerror(errno.ENOSPC), path) if full else DiskFault(errno.EIO, reason, path)
