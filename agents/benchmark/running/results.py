"""Where the cells' records lie: a folder, or any address that fsspec knows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillsight.agents.errors import RunError
from stillsight.agents.runs.records import plain
from stillsight.encoders.atomic import write_atomically

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


class Results:
    """The records of a benchmark, one small JSON file a cell.

    Args:
        address: a folder, or an address such as s3://bucket/name, for which fsspec and its driver must be installed.

    Raises:
        RunError: fsspec does not know the address.
    """

    def __init__(self, address: Path | str) -> None:
        self.address = str(address)
        self.files: AbstractFileSystem | None = None
        self.root = self.address
        if "://" in self.address:
            try:
                import fsspec

                self.files, self.root = fsspec.core.url_to_fs(self.address)
            except (ImportError, ValueError) as error:
                raise RunError(
                    f"{self.address} cannot be reached: {error}. Give a folder, or install fsspec's driver for it."
                ) from error

    def write(self, record: Mapping[str, Any]) -> None:
        """Keep a cell's record, at once or not at all."""
        self.put(f"cells/{record['key']}.json", json.dumps(plain(record), indent=1) + "\n")

    def read(self, key: str) -> dict[str, Any] | None:
        """The record of a cell; None if there is none, or half of one."""
        text = self.get(f"cells/{key}.json")
        try:
            return None if text is None else dict(json.loads(text))
        except ValueError:
            return None

    def remove(self, key: str) -> None:
        """Forget a cell."""
        path = f"{self.root}/cells/{key}.json"
        if self.files is not None:
            self.files.rm(path)
        else:
            Path(path).unlink(missing_ok=True)

    def put(self, name: str, text: str) -> None:
        """Write a small file; a reader finds the old one or the new one."""
        path = f"{self.root}/{name}"
        if self.files is not None:
            self.files.makedirs(path.rpartition("/")[0], exist_ok=True)
            self.files.pipe_file(path, text.encode())  # object stores show a file when it is whole
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(path), text)

    def get(self, name: str) -> str | None:
        """The text of a small file; None if there is none."""
        path = f"{self.root}/{name}"
        try:
            return Path(path).read_text() if self.files is None else self.files.cat_file(path).decode()
        except FileNotFoundError:
            return None
