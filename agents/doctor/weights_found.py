"""Where the encoders' weights lie. A program: `python -m stillsight.agents.doctor.weights_found`."""

from __future__ import annotations

import os

from stillsight.agents.doctor.child import tell
from stillsight.agents.doctor.outcome import Outcome, remove
from stillsight.encoders.errors import EncoderError
from stillsight.encoders.weights.file_hash import check_hash, file_hash
from stillsight.encoders.weights.published import FOLDER_VARIABLE, Source, locate, missing_folder, source_of
from stillsight.encoders.zoo.registry import ENCODERS


def weights() -> list[Outcome]:
    """For every encoder with pretrained weights: where they are, and whether they are the official ones."""
    outcomes: list[Outcome] = []
    missing: list[tuple[str, Source]] = []
    if missing_folder():
        found = f"{FOLDER_VARIABLE} is {os.environ[FOLDER_VARIABLE]}, and there is no such folder"
        advice = f"export {FOLDER_VARIABLE}=FOLDER, or unset {FOLDER_VARIABLE}"
        outcomes.append(Outcome("weights", "wrong", found, advice))
    for row in ENCODERS.values():
        source = source_of(row)
        if source is None:
            continue
        place = None
        try:
            place = locate(row)
            if place is None:
                missing.append((row.name, source))
                continue
            check_hash(place.path, file_hash(place.path), place.digits)
        except (EncoderError, OSError) as error:
            advice = source.remedy or (remove(place.path) if place is not None else "")
            outcomes.append(Outcome(f"weights of {row.name}", "wrong", str(error), advice))
        else:
            told = f"; {place.note}" if place.note else ""
            found = f"{place.kind}, {place.path}{told}"
            outcomes.append(Outcome(f"weights of {row.name}", "note" if told else "ok", found))
    downloads = [(name, source) for name, source in missing if source.address]
    if downloads:
        named = ", ".join(f"{name} ({source.file})" for name, source in downloads)
        outcomes.append(
            Outcome(
                "other weights",
                "note",
                f"not on this machine, and downloaded when they are first used: {named}. Without a network, put the "
                "files into a folder",
                f"export {FOLDER_VARIABLE}=FOLDER",
            )
        )
    for name, source in missing:
        if source.remedy:
            outcomes.append(
                Outcome(f"weights of {name}", "note", f"{source.file} is not on this machine", source.remedy)
            )
    return outcomes


if __name__ == "__main__":
    tell(weights())
