"""Find picture files, decode them, and resize them to the images that a network was trained on."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from stillsight.encoders.errors import EncoderError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""What a folder is searched for; a file that is named itself may be called anything."""


def find(places: Iterable[Path]) -> list[Path]:
    """The picture files in `places`: files as they are named, folders searched through and through, by name.

    Raises:
        EncoderError: a place does not exist, or a folder has no pictures.
    """
    pictures: list[Path] = []
    for place in places:
        if not place.is_dir():
            if not place.exists():
                raise EncoderError(
                    f"There is no file or folder {place}. Give picture files, or folders that hold them."
                )
            pictures.append(place)
            continue
        inside = sorted(path for path in place.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
        if not inside:
            raise EncoderError(
                f"The folder {place} holds no pictures. Looked for: {', '.join(ENDINGS)}. Give a folder that has some, "
                "or name the files."
            )
        pictures += inside
    return pictures


def read(path: Path) -> np.ndarray:
    """Decode a picture to uint8 `[3, H, W]` RGB: turned as its EXIF says, 16 bits rounded to 8, without transparency.

    Image folders are decoded by this before training, and so are the files that `predict` is given: two decoders may
    differ by a grey level.

    Raises:
        EncoderError: the file cannot be opened, is no picture, or is cut off.
    """
    import numpy as np
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):  # sixteen bits of grey, which Pillow would cut off at 255
                grey = np.asarray(image).clip(0, 65535).astype(np.uint32)
                image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:  # arbitrary bytes
        raise EncoderError(f"{path} cannot be read as a picture ({_reason(error, path)}).") from error
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring uint8 pixels `[N, 3, H, W]` to `size` (height, width), the whole image kept; as they are if they fit.

    Bilinear with antialiasing in whole numbers, as the pictures of an image folder are before training.
    """
    from torchvision.transforms.v2 import functional

    resized: Tensor = functional.resize(pixels, list(size), antialias=True)
    return resized


def _reason(error: Exception, path: Path) -> str:
    """Why, in a line that does not name the file again."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "damaged, cut off or of an unknown kind"
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].replace(f": {str(path)!r}", "").rstrip(".")
