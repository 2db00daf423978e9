"""The sha256 of a file of weights, and whether it is the official one."""

from __future__ import annotations

import hashlib
from pathlib import Path

from stillsight.encoders.errors import EncoderError
from stillsight.encoders.system.plain_file import open_plain


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes."""
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_hash(path: Path, sha256: str, prefix: str) -> None:
    """Raise `EncoderError` unless `sha256` begins with the official `prefix`."""
    if not sha256.startswith(prefix):
        raise EncoderError(
            f"{path} is damaged or not the official file: its sha256 begins with {sha256[: len(prefix)]}, and it "
            f"should be {prefix}. Delete it, or give your own weights with --weights FILE."
        )
