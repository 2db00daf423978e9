"""Decode picture files to uint8 RGB, and resize them to the images that a network was trained on."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from stillsight.encoders.device import available_memory
from stillsight.encoders.errors import EncoderError, last_line
from stillsight.encoders.system.plain_file import NotPlainError, open_plain

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from torch import Tensor

Interpolation = Literal["bilinear", "bicubic"]

VERSION = 3
"""Of the rules by which files become pixels: decoded images that are kept are named after it. Since 2 transparency lies
on white, and floats and 32 bits are scaled by their range; since 3 colours of 16 bits are rounded as greys are."""

FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "QOI", "TGA", "TIFF", "WEBP",
)  # fmt: skip
"""Pillow's names of what is decoded, as far as it was built with them, whatever a file is called. Others are not: for
EPS Pillow starts Ghostscript."""

TRAITS = {
    "transparent": "with transparency are shown on white",
    "blank": "with transparency are nothing but one colour on that white",
    "scaled": "of floats or 32 bits a pixel are scaled, each from its own lowest and highest value to 0..255",
    "dark": "of 16 bits use less than a sixteenth of their range, and are nearly black in 8 bits",
    "first": "have several frames or pages, of which the first is seen",
    "unturned": "have EXIF that cannot be read, and are taken as they lie",
}
"""What became of a picture on its way to 8 bits that its owner may not expect, and the words for it."""

_DEEP = re.compile(r"(RGBA?|RGBX|CMYK|LA);16[BLN]")
"""What Pillow calls samples of 16 bits that it cuts off to their upper 8, in a file's tiles. Those that were multiplied
with their alpha (RGBa) are no numbers of the picture, and stay cut off."""

_TURNED = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""EXIF orientation -> Pillow's name of what brings such a picture upright."""


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        pixels: uint8 `[3, H, W]` RGB.
        traits: keys of `TRAITS`.
    """

    pixels: np.ndarray
    traits: tuple[str, ...]


class NotGivenError(EncoderError):
    """A picture that memory has no room for, or the system does not give: another time it may be read."""


def decode(path: Path) -> Picture:
    """Decode a picture to uint8 RGB: turned as its EXIF says, 16 bits rounded to 8, transparency composited on white.

    Floats and 32-bit numbers have no range that all agree on, so each picture's own is taken. Pillow rounds nothing: of
    JPEG 2000, and of colours that were multiplied with their alpha, it cuts off what is beyond 8 bits. Image folders
    are decoded by this before training, and so are the files that `predict` is given: two decoders may differ by a
    grey level.

    Raises:
        NotGivenError: memory has no room for it, or the system does not give it.
        EncoderError: the file is no picture, or is cut off.
    """
    import numpy as np
    from PIL import Image

    traits: list[str] = []
    try:
        Image.init()
        with (
            open_plain(path) as opened,
            Image.open(opened, formats=[name for name in FORMATS if name in Image.OPEN]) as file,
        ):
            deep = _deep(file)
            _check_room(file)
            # A phone's MPO is a JPEG with a preview behind it, which nobody takes for another page.
            if file.format != "MPO" and getattr(file, "is_animated", False):
                traits.append("first")
            file.load()
            image = _upright(file, traits)
            if deep:
                lower = _upright(_lower(opened, file), [])
                image = _rounded(image, lower, deep, traits)
            elif image.mode == "F" or (image.mode == "I" and file.format == "TIFF"):
                traits.append("scaled")
                image = Image.fromarray(_scaled(np.asarray(image, np.float64)))
            elif image.mode.startswith("I"):  # sixteen bits of grey, which Pillow would cut off at 255
                grey = np.asarray(image).clip(0, 65535).astype(np.uint32)
                if 0 < grey.max() < 4096:
                    traits.append("dark")
                image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
            pixels = np.asarray(_opaque(image, traits))
    except NotPlainError as error:
        raise EncoderError(f"{path} cannot be read as a picture ({error.reason}).") from error
    except Exception as error:  # decoders of arbitrary bytes raise whatever they like
        # Without a number: Pillow says that it is cut off. One that is gone has another key when it is back.
        given = isinstance(error, OSError) and error.errno in (None, errno.ENOENT, errno.ELOOP)
        kind = NotGivenError if isinstance(error, OSError | MemoryError | NotGivenError) and not given else EncoderError
        raise kind(f"{path} cannot be read as a picture ({_reason(error, path)}).") from error
    return Picture(np.ascontiguousarray(pixels.transpose(2, 0, 1)), tuple(traits))


def _check_room(file: Image.Image) -> None:
    """Refuse a picture that memory does not hold, by what its header says; Pillow itself refuses 179 million pixels.

    Raises:
        NotGivenError: how large it would be.
    """
    width, height = file.size
    # Decoded, turned, as RGB and with its colours in front; numbers of 32 bits are scaled as float64 besides.
    needed = width * height * (32 if file.mode in ("F", "I") or _deep(file) else 13)
    free = available_memory() if needed > 2**27 else None  # which takes a while to ask for each picture
    if free is not None and needed > free:
        raise NotGivenError(f"{width:,} x {height:,} pixels take {needed:,} bytes of memory, and {free:,} are free")


def read(path: Path) -> np.ndarray:
    """The pixels of `decode`, uint8 `[3, H, W]`."""
    return decode(path).pixels


def resize(pixels: Tensor, size: tuple[int, int], interpolation: Interpolation = "bilinear") -> Tensor:
    """Bring uint8 pixels `[N, 3, H, W]` to `size` (height, width), the whole image kept; as they are if they fit.

    With antialiasing and in whole numbers, as the pictures of an image folder are before training.

    Args:
        pixels: uint8.
        size: height and width.
        interpolation: that of the recipe of the encoder's weights.
    """
    from torchvision.transforms.v2 import InterpolationMode, functional

    resized: Tensor = functional.resize(pixels, list(size), InterpolationMode(interpolation), antialias=True)
    return resized


def tell(counts: Mapping[str, int]) -> list[str]:
    """In words how many pictures have which of the `TRAITS`."""
    return [f"{counts[trait]:,} pictures {words}" for trait, words in TRAITS.items() if counts.get(trait)]


def _upright(image: Image.Image, traits: list[str]) -> Image.Image:
    """`image` turned as its EXIF says.

    Not by Pillow's exif_transpose, which writes all of the EXIF anew, and fails where any other tag of it is odd.
    """
    from PIL import Image

    try:
        method = _TURNED.get(image.getexif().get(0x0112, 1))
    except Exception:  # arbitrary bytes again, but the picture beside them is sound
        traits.append("unturned")
        return image
    return image.transpose(Image.Transpose[method]) if method else image


def _deep(file: Image.Image) -> str:
    """How Pillow reads the samples of 16 bits of a colour picture that is open and not decoded; "" of any other."""
    tiles = getattr(file, "tile", None)
    raw = _raw_mode(tiles[0]) if tiles else ""
    return raw if _DEEP.fullmatch(raw) else ""


def _raw_mode(tile: Any) -> str:
    arguments = tile[3]
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _lower(opened: BinaryIO, file: Image.Image) -> Image.Image:
    """The lower 8 bits of each sample, where Pillow's own `file` holds the upper ones.

    It has no colours of 16 bits. But it takes the other byte of each sample if it is told that they come the other way
    round, and both bytes of a grey and its alpha for four colours.
    """
    from PIL import Image

    opened.seek(0)
    again: Any = Image.open(opened, formats=[file.format or ""])
    other = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
    tiles = []
    for tile in again.tile:
        raw, arguments = _raw_mode(tile), tile[3]
        raw = "RGBA" if raw.startswith("LA") else raw[:-1] + other[raw[-1]]
        changed = (raw, *arguments[1:]) if isinstance(arguments, tuple) else raw
        tiles.append(tile._replace(args=changed) if hasattr(tile, "_replace") else (*tile[:3], changed))
    again.tile = tiles
    again.load()
    decoded: Image.Image = again
    return decoded


def _rounded(upper: Image.Image, lower: Image.Image, deep: str, traits: list[str]) -> Image.Image:
    """Colours of 16 bits as 8, rounded, from both halves of their samples; `deep` says which these are."""
    import numpy as np
    from PIL import Image

    high, low = np.asarray(upper), np.asarray(lower)
    if deep.startswith("LA"):  # grey, its lower half, alpha, its lower half
        high, low = low[..., [0, 0, 0, 2]], low[..., [1, 1, 1, 3]]
    clear = upper.info.pop("transparency", None) if upper.mode == "RGB" else None
    colours = slice(0, 3)
    if upper.mode != "CMYK" and high[..., colours].max() < 16 and (high[..., colours].any() or low[..., colours].any()):
        traits.append("dark")
    # 256 u + l is 257 u + (l - u), and a grey level is 257 steps.
    beyond = low.astype(np.int16) - high
    rounded = high + (beyond > 128).astype(np.uint8) - (beyond < -128).astype(np.uint8)
    if clear is not None:  # one colour is that of what shines through, to the last bit
        shines = (high == np.array(clear) // 256).all(-1) & (low == np.array(clear) % 256).all(-1)
        rounded = np.dstack([rounded, np.where(shines, 0, 255).astype(np.uint8)])
    mode = upper.mode if clear is None else "RGBA"
    return Image.frombytes(mode, upper.size, rounded.tobytes())


def _scaled(grey: np.ndarray) -> np.ndarray:
    """Numbers of any range `[H, W]` to uint8, from the lowest finite one to the highest; one that is none is black."""
    import numpy as np

    finite = grey[np.isfinite(grey)]
    if not finite.size:
        raise ValueError("none of its numbers is finite")
    low, high = finite.min(), finite.max()
    grey = np.nan_to_num(grey, nan=low, posinf=high, neginf=low)
    with np.errstate(over="ignore", invalid="ignore"):
        shares = (grey / 2 - low / 2) / (high / 2 - low / 2 or 1.0)  # halves, because a difference may overflow
    scaled: np.ndarray = np.rint(255 * shares).astype(np.uint8)
    return scaled


def _opaque(image: Image.Image, traits: list[str]) -> Image.Image:
    """`image` as RGB, with what shines through it on white."""
    import numpy as np
    from PIL import Image

    if image.mode not in ("RGBA", "LA", "PA") and "transparency" not in image.info:
        return image.convert("RGB")
    clear = image.convert("RGBA")
    alpha = np.asarray(clear.getchannel("A"))
    least, most = alpha.min(), alpha.max()
    if least == 255:
        return clear.convert("RGB")
    traits.append("transparent")
    shown = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    if least != most and (np.ptp(np.asarray(shown), (0, 1)) == 0).all():
        traits.append("blank")
    return shown


def _reason(error: Exception, path: Path) -> str:
    """Why, in a line that does not name the file again."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "damaged, cut off or of an unknown kind"
    return last_line(error).replace(f": {str(path)!r}", "").rstrip(".")
