"""Picture files: found, decoded without loss where they were written so, refused where they are broken, and resized."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from stillsight.encoders import EncoderError
from stillsight.encoders.supervised.data import picture
from stillsight.encoders.supervised.data.decoded import decode_all


def noise(count: int = 4, side: int = 32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def write(path: Path, pixels: np.ndarray) -> Path:
    """`[3, H, W]` RGB as a file of the kind that its ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.transpose(1, 2, 0)).save(path)
    return path


@pytest.mark.parametrize("ending", ["png", "PNG", "bmp", "tiff", "ppm"])
def test_what_was_written_without_loss_is_read_without_loss(tmp_path: Path, ending: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 20, 30), dtype=np.uint8)
    path = write(tmp_path / f"Käfer 鳥.{ending}", pixels)
    found = picture.read(path)
    assert np.array_equal(found, pixels)
    assert found.flags.c_contiguous


@pytest.mark.parametrize(("ending", "most"), [("jpg", 3), ("webp", 8)])
def test_what_was_written_with_loss_is_read_nearly(tmp_path: Path, ending: str, most: int) -> None:
    pixels = np.full((3, 16, 24), 100, np.uint8)
    pixels[0] = 180
    found = picture.read(write(tmp_path / f"a.{ending}", pixels))
    assert found.shape == (3, 16, 24)
    assert np.abs(found.astype(int) - pixels).max() <= most


def test_a_picture_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    pixels = np.zeros((3, 16, 32), np.uint8)
    pixels[:, :8] = 255  # bright above
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by a quarter to see it upright
    Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / "a.jpg", exif=exif)
    found = picture.read(tmp_path / "a.jpg")
    assert found.shape == (3, 32, 16)
    assert (found[:, :, 10:] > 200).all(), "bright on the right"
    assert (found[:, :, :6] < 50).all()


def test_greys_transparency_and_sixteen_bits_become_colours_of_eight(tmp_path: Path) -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert np.array_equal(picture.read(tmp_path / "grey.png"), np.stack([grey] * 3))
    Image.fromarray(np.dstack([grey, grey, grey, 255 - grey])).save(tmp_path / "glass.png")
    clear = 255 - (255 - grey.astype(int)) ** 2 / 255  # what is left of white behind an alpha of 255 - grey
    assert np.abs(picture.read(tmp_path / "glass.png") - np.stack([clear] * 3)).max() <= 1
    cv2.imwrite(str(tmp_path / "deep.png"), grey.astype(np.uint16) * 257 + 128)
    assert np.array_equal(picture.read(tmp_path / "deep.png"), np.stack([grey] * 3)), "257 steps a grey level, rounded"


def rounded(deep: np.ndarray) -> np.ndarray:
    """uint16 to uint8: 257 steps a level."""
    return ((deep.astype(np.uint32) + 128) // 257).astype(np.uint8)


def sixteen_bit_png(path: Path, samples: np.ndarray, colour_type: int, transparent: bytes = b"") -> Path:
    """A PNG of uint16 samples `[H, W, channels]`, as nothing here writes it."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = samples.shape[:2]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in samples)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))
    clear = chunk(b"tRNS", transparent) if transparent else b""
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + clear + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize(("bits", "traits"), [(16, ()), (12, ("dark",))])
@pytest.mark.parametrize("file", ["deep.png", "plain.tiff", "packed.tiff"])
def test_colours_of_sixteen_bits_are_rounded_and_told_dark_as_greys_are(
    tmp_path: Path, file: str, bits: int, traits: tuple[str, ...]
) -> None:
    deep = np.random.default_rng(0).integers(0, 2**bits, (9, 7, 3)).astype(np.uint16)
    packing = [cv2.IMWRITE_TIFF_COMPRESSION, 1 if file.startswith("plain") else 5] if file.endswith("tiff") else []
    cv2.imwrite(str(tmp_path / file), deep[..., ::-1], packing)
    found = picture.decode(tmp_path / file)
    assert np.array_equal(found.pixels, rounded(deep).transpose(2, 0, 1))
    assert found.traits == traits


def test_sixteen_bits_are_rounded_at_every_step(tmp_path: Path) -> None:
    deep = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    path = sixteen_bit_png(tmp_path / "all.png", np.dstack([deep, deep, deep[::-1]]), 2)
    assert np.array_equal(picture.read(path), np.stack([rounded(deep), rounded(deep), rounded(deep)[::-1]]))


def test_what_shines_through_sixteen_bits_is_rounded_too(tmp_path: Path) -> None:
    deep = np.random.default_rng(1).integers(0, 2**16, (9, 7, 4)).astype(np.uint16)
    for colour_type, samples in ((6, deep), (4, deep[..., :2])):  # colours, or a grey, and alpha
        colours, alpha = rounded(samples[..., :-1]).astype(float), rounded(samples[..., -1:]) / 255
        found = picture.decode(sixteen_bit_png(tmp_path / f"{colour_type}.png", samples, colour_type))
        expected = np.broadcast_to(colours * alpha + 255 * (1 - alpha), (9, 7, 3))
        assert np.abs(found.pixels.transpose(1, 2, 0) - expected).max() <= 1
        assert found.traits == ("transparent",)
    deep[1, 1, :3], deep[2, 2, :3] = (513, 700, 900), (513, 700, 901)  # which are one colour of 8 bits
    clear = np.array([513, 700, 900], ">u2").tobytes()
    pixels = picture.read(sixteen_bit_png(tmp_path / "clear.png", deep[..., :3], 2, clear))
    assert [list(pixels[:, row, row]) for row in (1, 2)] == [[255, 255, 255], [2, 3, 4]]


@pytest.mark.parametrize("share", [0.3, 0.9])
@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "webp", "tiff"])
def test_a_picture_that_is_cut_off_is_broken(
    tmp_path: Path, ending: str, share: float, capfd: pytest.CaptureFixture[str]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    path = write(tmp_path / f"a.{ending}", pixels)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(EncoderError, match=r"a\.\w+ cannot be read as a picture \("):
        picture.read(path)
    assert "opencv" not in capfd.readouterr().err.lower()


@pytest.mark.parametrize(
    "damaged",
    [b"\x01\x00\x00\x02", b"\x01\x1a\x00\x02"],  # the tags of the width and of the resolution, which are no text
    ids=["width", "resolution"],
)
def test_a_sound_picture_with_odd_exif_is_read_and_turned(tmp_path: Path, damaged: bytes) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=exif)
    whole = (tmp_path / "a.jpg").read_bytes()
    assert picture.read(tmp_path / "a.jpg").shape == (3, 8, 4)
    changed = whole.replace(b"\x01\x0f\x00\x02", damaged)  # the tag of the maker's name
    assert changed != whole
    (tmp_path / "a.jpg").write_bytes(changed)
    assert picture.decode(tmp_path / "a.jpg").traits == ()
    assert picture.read(tmp_path / "a.jpg").shape == (3, 8, 4)


def test_why_a_picture_is_broken_is_said_without_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(EncoderError) as caught:
        picture.read(tmp_path / "a.png")
    words = "cannot be read as a picture (damaged, cut off or of an unknown kind)."
    assert str(caught.value) == f"{tmp_path / 'a.png'} {words}"
    with pytest.raises(
        EncoderError, match=r"b\.png cannot be read as a picture \(\[Errno 2\] No such file or directory\)\."
    ):
        picture.read(tmp_path / "b.png")


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_other_files_are_no_pictures(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(EncoderError, match=r"a\.png cannot be read as a picture \("):
        picture.read(tmp_path / "a.png")


def test_resizing_keeps_what_fits_and_averages_what_does_not() -> None:
    images = noise()
    assert torch.equal(picture.resize(images, (32, 32)), images)
    blocks = noise(side=16).repeat_interleave(4, 2).repeat_interleave(4, 3)
    found = picture.resize(blocks, (16, 16))
    assert found.dtype == torch.uint8
    expected = F.interpolate(blocks.float(), size=(16, 16), mode="bilinear", antialias=True)
    assert (found.float() - expected).abs().max() <= 1
    whole = picture.resize(noise(side=40)[:, :, :20], (32, 32))
    assert whole.shape[2:] == (32, 32), "the whole image, whatever its proportions"


def test_no_picture_starts_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    path = (tmp_path / "a.eps").rename(tmp_path / "a.png")  # Pillow goes by the content
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    with pytest.raises(
        EncoderError, match=r"a\.png cannot be read as a picture \(damaged, cut off or of an unknown kind"
    ):
        picture.decode(path)


def test_a_picture_that_memory_does_not_hold_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.png"
    Image.new("L", (6_000, 5_000)).save(path)
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(picture, "available_memory", lambda: 300_000_000)
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(
        EncoderError, match=r"\(6,000 x 5,000 pixels take 390,000,000 bytes of memory, and 300,000,000 are free\)"
    ):
        picture.decode(path)


def test_a_picture_of_more_pixels_than_any_camera_takes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pbm"
    path.write_bytes(b"P4 20000 20000\n")
    with pytest.raises(
        EncoderError, match=r"cannot be read as a picture \(Image size \(400000000 pixels\) exceeds limit"
    ):
        picture.decode(path)


@pytest.mark.usefixtures("ends")
def test_a_pipe_is_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "fifo.png"
    os.mkfifo(path)
    with pytest.raises(EncoderError, match=f"^{path} cannot be read as a picture .it is no file but a pipe.[.]$"):
        picture.decode(path)


@pytest.mark.usefixtures("ends")
def test_decoded_images_are_kept_behind_no_link(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    cache = tmp_path / "cache"

    def decoded() -> None:
        decode_all([tmp_path / "a.png"], tmp_path, None, "bilinear", cache, None)

    decoded()
    (kept,) = cache.iterdir()
    diary = tmp_path / "diary.txt"
    kept.rename(diary)
    before = diary.read_bytes()
    kept.symlink_to(diary)
    with pytest.raises(EncoderError, match=f"{kept} is a link to {diary}, and .* no link inside a cache"):
        decoded()
    kept.unlink()
    os.mkfifo(kept)
    with pytest.raises(EncoderError, match=f"{kept} is no place in {cache}"):
        decoded()
    assert diary.read_bytes() == before
