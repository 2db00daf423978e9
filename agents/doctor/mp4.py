"""Films: writes a tiny one and reads it back. A program: `python -m stillsight.agents.doctor.mp4`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np

from stillsight.agents.doctor.child import tell
from stillsight.agents.doctor.outcome import Outcome
from stillsight.agents.playing.film import film
from stillsight.encoders.errors import last_line

FRAMES, SIDE = 8, 64
COLOUR = (200, 100, 40)


def video() -> Outcome:
    """Whether ffmpeg writes H.264 as `record` does, and reads the same pictures back."""
    import imageio_ffmpeg

    advice = "pip install --force-reinstall imageio-ffmpeg"
    if program := os.environ.get("IMAGEIO_FFMPEG_EXE"):
        advice = f"unset IMAGEIO_FFMPEG_EXE, which is {program}"
    try:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "tiny.mp4"
            with film(path, fps=8, size=SIDE) as shot:
                for _ in range(FRAMES):
                    shot.append(np.full((SIDE, SIDE, 3), COLOUR, np.uint8))
            reader = imageio_ffmpeg.read_frames(str(path))
            facts = next(reader)
            frames = [np.frombuffer(frame, np.uint8).reshape(SIDE, SIDE, 3) for frame in reader]
    except Exception as error:  # ffmpeg missing, killed, without libx264, a full disk
        return Outcome("video", "wrong", f"no film could be written and read back ({last_line(error)})", advice)
    apart = max((np.abs(frame.mean((0, 1)) - COLOUR).max() for frame in frames), default=255.0)
    if len(frames) != FRAMES or apart > 16:
        found = f"of {FRAMES} frames {len(frames)} came back, {apart:.0f} of 255 from their colour"
        return Outcome("video", "wrong", found, advice)
    return Outcome("video", "ok", f"{facts['codec']} is written and read back, {len(frames)} frames")


if __name__ == "__main__":
    tell([video()])
