"""The records of a benchmark's cells: in a folder, or at any address that fsspec knows."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from stillsight.agents.benchmark.grid.cell import Cell, CellError
from stillsight.agents.errors import RunError
from stillsight.agents.runs import schema
from stillsight.encoders.atomic import partial_suffix, sweep, writing
from stillsight.encoders.system.plain_file import below

WHAT = "benchmark folder"


class Results:
    """Small files of a benchmark: cells/<key>.json for each cell that ended, and a few beside them.

    Args:
        address: a folder, or an address such as s3://bucket/name, for which fsspec's driver must be installed.

    Raises:
        RunError: fsspec does not know the address.
    """

    def __init__(self, address: Path | str) -> None:
        self.address = str(address)
        if "://" not in self.address:
            self.files, self.root = LocalFileSystem(), str(Path(self.address).absolute())
            return
        try:
            self.files, self.root = fsspec.core.url_to_fs(self.address)
        except (ImportError, ValueError) as error:
            raise RunError(
                f"{self.address} cannot be reached: {error}. Give a folder, or install fsspec's driver for it."
            ) from error

    def sweep(self) -> None:
        """Remove what killed processes left half written, where the records lie in a folder."""
        if isinstance(self.files, LocalFileSystem):
            for place in ("", "cells"):
                sweep(Path(self.root) / place)

    def write(self, cell: Cell) -> None:
        """Keep a cell that ended, at once or not at all."""
        self.put(_place(cell.key), cell.text())

    def read(self, key: str) -> Cell | None:
        """The cell with this key; None if it did not end yet, or its record is damaged, so that it is run again."""
        content = self._content(_place(key))
        try:
            return None if content is None else Cell.parse(content, key)
        except CellError:
            return None

    def remove(self, key: str) -> None:
        """Forget a cell, if there is one."""
        try:
            self.files.rm(f"{self.root}/{_place(key)}")
        except FileNotFoundError:
            return

    def set_aside(self, key: str) -> str | None:
        """Keep the record of a cell under a name that is no cell's.

        Returns:
            The name, below the folder or the address; None if there is no record.

        Raises:
            DiskFault: it cannot be moved there.
            NotPlainError: it is a link, a pipe or a device.
        """
        place = _place(key)
        if not self.files.exists(f"{self.root}/{place}"):
            return None
        if isinstance(self.files, LocalFileSystem):
            below(Path(self.root), place, what=WHAT)
        names = (f"{place}.aside{number}" for number in itertools.count(1))
        free = next(name for name in names if not self.files.exists(f"{self.root}/{name}"))
        with writing(Path(f"{self.root}/{free}")):
            self.files.mv(f"{self.root}/{place}", f"{self.root}/{free}")
        return free

    def put(self, name: str, text: str) -> None:
        """Write a small file: a reader finds the old one or the new one, never half of one.

        It is written beside its place and moved there. On a local disk that is a rename; fsspec's own transactions
        write to the system's folder for temporary files, from where a move may be a copy that can be seen half done.

        Raises:
            DiskFault: it cannot be written there.
            NotPlainError: a link, a pipe or a device is in its place.
        """
        folder, _, last = f"{self.root}/{name}".rpartition("/")
        partial = f"{folder}/.{last}.{partial_suffix()}"
        if isinstance(self.files, LocalFileSystem):
            below(Path(self.root), name, what=WHAT)
        with writing(Path(f"{folder}/{last}")):
            self.files.makedirs(folder, exist_ok=True)
            try:
                self.files.pipe_file(partial, text.encode())
                self.files.mv(partial, f"{folder}/{last}")
            except BaseException:
                with contextlib.suppress(OSError):  # which would hide what went wrong before it
                    if self.files.exists(partial):
                        self.files.rm(partial)
                raise

    def get(self, name: str) -> str | None:
        """The text of a small file; None if there is none.

        Raises:
            RunError: it is no text, or no plain file.
        """
        content = self._content(name)
        try:
            return None if content is None else content.decode()
        except UnicodeDecodeError as error:
            raise RunError(
                f"{self.root}/{name} is damaged ({error}). Remove it, or run the benchmark again."
            ) from error

    def _content(self, name: str) -> bytes | None:
        if isinstance(self.files, LocalFileSystem):
            path = Path(self.root) / name
            return schema.read_bounded(path) if path.exists() else None
        try:
            content: bytes = self.files.cat_file(f"{self.root}/{name}")
        except FileNotFoundError:
            return None
        return content


def _place(key: str) -> str:
    """Where a cell's record lies."""
    return f"cells/{key}.json"
