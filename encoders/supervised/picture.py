"""Picture files: found, decoded, and brought to the size of the images that a network was trained on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from stillsight.encoders.registry import EncoderError

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
    found: list[Path] = []
    for place in places:
        if not place.is_dir():
            if not place.exists():
                raise EncoderError(
                    f"There is no file or folder {place}. Give picture files, or folders that hold them."
                )
            found.append(place)
            continue
        inside = sorted(path for path in place.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
        if not inside:
            raise EncoderError(
                f"The folder {place} holds no pictures. Looked for: {', '.join(ENDINGS)}. Give a folder that has some, "
                "or name the files."
            )
        found += inside
    return found


def read(path: Path) -> np.ndarray:
    """Decode a picture to uint8 `[3, H, W]` RGB: turned as its EXIF says, 16 bits rounded to 8, without transparency.

    Raises:
        EncoderError: the file cannot be opened, is no picture, or is cut off.
    """
    import cv2
    import numpy as np

    before = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # its own complaints would bury the sentence
    try:
        # Not imread, which takes a JPEG that is cut off and fills the rest with grey.
        pixels = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error) as error:  # cv2.error: an empty file
        raise _broken(path, str(error).strip().splitlines()[-1]) from error
    finally:
        cv2.utils.logging.setLogLevel(before)
    if pixels is None:
        raise _broken(path, "damaged, cut off or of an unknown kind")
    return np.ascontiguousarray(pixels[:, :, ::-1].transpose(2, 0, 1))


def resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring uint8 pixels `[N, 3, H, W]` to `size` (height, width), the whole image kept; as they are if they fit.

    Bilinear with antialiasing in whole numbers, as the pictures of an image folder are resized before training.
    """
    from torchvision.transforms.v2 import functional

    resized: Tensor = functional.resize(pixels, list(size), antialias=True)
    return resized


def _broken(path: Path, reason: str) -> EncoderError:
    return EncoderError(f"{path} cannot be read as a picture ({reason}).")
