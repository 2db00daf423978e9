"""Licences that must be accepted once, of gated and non-commercial weights; noted in the user's config folder."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from stillsight.encoders.atomic import to_json, write_atomically, writing
from stillsight.encoders.errors import DiskFault, EncoderError, say_once
from stillsight.encoders.zoo.encoder_spec import EncoderSpec


def accepted_file() -> Path:
    """Where acceptances are noted, on this machine and for this user: encoder, licence and date."""
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(config) / "stillsight" / "accepted-licences.json"


def accepted(row: EncoderSpec) -> str | None:
    """The date (UTC) on which the licence of an encoder's weights was accepted here; None where it was not."""
    for entry in _read():
        if entry.get("encoder") == row.name and entry.get("licence") == row.licence:
            return str(entry.get("date"))
    return None


def check(row: EncoderSpec, accept: bool = False) -> None:
    """Refuse weights whose licence must be accepted first, and was not.

    Args:
        row: the encoder's record.
        accept: the user accepts it now.

    Raises:
        EncoderError: the licence, and what to type to accept it.
    """
    if row.accept and not accept and accepted(row) is None:
        raise EncoderError(
            f"The weights of {row.name} are under {row.licence or 'a licence of their own'}, which must be accepted "
            "once before they are used: read it, and add --accept-license, or type stillsight list encoders "
            f"{row.name} --accept-license. It is remembered for you on this machine."
        )


def accept(row: EncoderSpec) -> None:
    """Note that the user has accepted the licence of an encoder's weights, with the date; once. Where the note cannot
    be written, that is said, and it holds for this process alone."""
    if not row.accept or accepted(row) is not None:
        return
    date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    path = accepted_file()
    entries = [*_read(), {"encoder": row.name, "licence": row.licence, "date": date}]
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, to_json(entries, indent=2) + "\n")
    except DiskFault as fault:
        say_once(f"that you accepted the licence of {row.name} could not be noted in {path} ({fault.cause}).")
        return
    print(f"stillsight: you accepted {row.licence} for the weights of {row.name}, noted in {path}.", file=sys.stderr)


def _read() -> list[dict[str, Any]]:
    """The entries; of a file that is damaged none, so that nobody has accepted anything by it."""
    try:
        entries = json.loads(accepted_file().read_text())
    except (OSError, ValueError, RecursionError):
        return []
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
