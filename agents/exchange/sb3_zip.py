"""A zip of Stable-Baselines3: opened only within bounds, and read without unpickling anything."""

from __future__ import annotations

import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, NoReturn

from stillsight.agents.errors import RunError
from stillsight.agents.runs import schema
from stillsight.encoders.device import available_memory
from stillsight.encoders.errors import first_line
from stillsight.encoders.system.plain_file import open_plain

RUN_FILE, POLICY_FILE, TEXT_FILE = "stillsight/run.json", "stillsight/policy.safetensors", "README.txt"
"""What `export` adds to what SB3 writes, and SB3 passes over: the run's records, what it learned, how to use it."""

FORMAT = 1
"""Of `RUN_FILE`."""

ENTRIES = 1_000
"""Files that a zip may hold; SB3 writes about ten."""
RATIO, LEAST = 20, 64 * 2**20
"""How many times its size on disk a zip may expand to, and the bytes that are allowed to any. SB3 compresses nothing,
and what networks have learned hardly compresses."""
AGAIN = "Get it again, or export the run again."
"""What to do about a record that is damaged."""
RECORD = 2**20
"""Bytes that the run's records may have."""
BLOCK = 2**20
_UNREADABLE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, RuntimeError, ValueError)
"""What a damaged zip raises, by how it is compressed; OSError is what bz2 does, and RuntimeError zipfile."""


@contextmanager
def bounded(path: Path) -> Iterator[zipfile.ZipFile]:
    """The zip at `path`, whose contents fit in here by what it says of them; more than that is never expanded.

    Raises:
        RunError: there is no such file, it is no zip or a damaged one, or it would expand to more than it may.
    """
    if not path.is_file():
        raise RunError(f"There is no file {path}. Give the zip that SB3 saved, or `stillsight export` wrote.")
    with ExitStack() as opened:
        try:
            archive = opened.enter_context(zipfile.ZipFile(opened.enter_context(open_plain(path))))
        except _UNREADABLE as error:
            _refuse_damaged(path, error)
        _check_size(path, archive.infolist())
        yield archive


def _refuse_damaged(path: Path, error: Exception) -> NoReturn:
    reason = first_line(error)
    raise RunError(f"{path} is no zip, or a damaged one ({reason}). Nothing was written. Get it again.") from error


def extract(archive: zipfile.ZipFile, name: str, path: Path, target: IO[bytes]) -> None:
    """Expand the file `name` of the zip at `path`, which `bounded` opened, into `target`.

    Raises:
        RunError: it is damaged.
        OSError: `target` cannot be written.
    """
    try:
        packed = archive.open(name)
    except (KeyError, *_UNREADABLE) as error:
        _refuse_damaged(path, error)
    with packed:
        while True:
            try:
                block = packed.read(BLOCK)
            except _UNREADABLE as error:
                _refuse_damaged(path, error)
            if not block:
                return
            target.write(block)


def content(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    """What the file `name` of the zip at `path` holds.

    Raises:
        RunError: it is damaged.
    """
    expanded = io.BytesIO()
    extract(archive, name, path, expanded)
    return expanded.getvalue()


def _check_size(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    whole, packed = sum(entry.file_size for entry in entries), path.stat().st_size
    allowed = max(LEAST, RATIO * packed)
    free = available_memory()
    if len(entries) > ENTRIES or whole > allowed:
        raise RunError(
            f"{path} has {packed:,} bytes and would expand to {whole:,} in {len(entries):,} files; allowed are "
            f"{allowed:,} in {ENTRIES:,}, and SB3 stays far below. Nothing was expanded. Check where it is from."
        )
    if free is not None and whole > free:
        raise RunError(f"{path} would expand to {whole:,} bytes, and {free:,} of memory are free. Free some.")
    if any(entry.flag_bits & 1 for entry in entries):
        raise RunError(f"{path} is encrypted. Decrypt it first: SB3 does not read it either.")


def read_run(archive: zipfile.ZipFile, path: Path) -> schema.ExportRecord | None:
    """What `export` wrote of the run into the zip; None for a zip that it did not write.

    Raises:
        RunError: it is damaged, or of another version.
    """
    if not {RUN_FILE, POLICY_FILE} <= set(archive.namelist()):
        return None
    if archive.getinfo(RUN_FILE).file_size > RECORD:
        raise RunError(f"{RUN_FILE} in {path} has more than {RECORD:,} bytes, and is no record of a run. Get it again.")
    return parsed(content(archive, RUN_FILE, path), f"{RUN_FILE} in {path}")


def parsed(text: bytes, where: str) -> schema.ExportRecord:
    """The record of a run in a zip.

    Raises:
        RunError: it is none, or one of another version.
    """
    record = schema.parse(text, where, advice=AGAIN)
    version = schema.convert(record, schema.Versioned, where, AGAIN)["format"]
    if version != FORMAT:
        raise RunError(
            f"{where} was exported by another version (format {version}, and this one reads {FORMAT}). Install that "
            "version, or export the run again."
        )
    schema.convert(record, schema.ExportRecord, where, AGAIN)
    known: schema.ExportRecord = record
    return known
