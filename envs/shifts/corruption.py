"""Looks that corrupt a picture: noise, blur and compression."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from stillsight.envs.shifts.rows import Image, Look


def noise(random: np.random.Generator, strength: float) -> Look:
    """Add Gaussian noise of standard deviation `strength` x 0.2 of full scale, other in each step, pixel and channel.

    At half strength 0.1, which is between ImageNet-C's first and second severity, and CIFAR-10-C's fifth.
    """
    key = int(random.integers(2**62))

    def look(image: Image, step: int) -> Image:
        # From the step and not from a running stream: a frame filmed in between changes nothing.
        grain = np.random.default_rng((key, step)).standard_normal(image.shape, np.float32)
        grain *= 0.2 * 255.0 * strength
        return cv2.add(image, grain, dtype=cv2.CV_8U).astype(np.uint8, copy=False)

    return look


def blur(_random: np.random.Generator, strength: float) -> Look:
    """Gaussian blur of standard deviation `strength` x 3 % of the shorter side: 1.3 pixels of 84 at half strength."""

    def look(image: Image, _: int) -> Image:
        sigma = 0.03 * strength * min(image.shape[:2])
        return cv2.GaussianBlur(image, (0, 0), sigma).astype(np.uint8, copy=False) if sigma else image

    return look


def jpeg(_random: np.random.Generator, strength: float) -> Look:
    """Compress as JPEG of quality 100 x 0.05 to the power of `strength`: 22 at half strength, between ImageNet-C's
    first and second severity (25 and 18), and 5 at full strength, below its fifth (7)."""
    quality = round(100.0 * 0.05**strength)

    def look(image: Image, _: int) -> Image:
        # To OpenCV's order of channels and back, since JPEG keeps brightness better than colour.
        _, coded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, quality))
        decoded: Any = cv2.imdecode(coded, cv2.IMREAD_COLOR)
        shown: Image = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
        return shown

    return look
