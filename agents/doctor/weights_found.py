"""Where the encoders' weights lie. A program: `python -m stillsight.agents.doctor.weights_found`."""

from __future__ import annotations

import os
from pathlib import Path

from stillsight.agents.doctor.child import tell
from stillsight.agents.doctor.outcome import Outcome, remove
from stillsight.encoders.errors import EncoderError
from stillsight.encoders.weights.sources import FOLDER_VARIABLE, check_hash, file_hash, locate, official_file
from stillsight.encoders.zoo.registry import ENCODERS


def weights() -> list[Outcome]:
    """For every encoder with pretrained weights: where they are, and whether they are the official ones."""
    outcomes, missing = [], []
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder and not Path(folder).is_dir():
        found = f"{FOLDER_VARIABLE} is {folder}, and there is no such folder"
        advice = f"export {FOLDER_VARIABLE}=FOLDER, or unset {FOLDER_VARIABLE}"
        outcomes.append(Outcome("weights", "wrong", found, advice))
    for row in ENCODERS.values():
        if row.weights is None:
            continue
        place = locate(row)
        if place is None:
            missing.append(row.name)
            continue
        kind, path, prefix = place
        try:
            check_hash(path, file_hash(path), prefix)
        except (EncoderError, OSError) as error:
            outcomes.append(Outcome(f"weights of {row.name}", "wrong", str(error), remove(path)))
        else:
            outcomes.append(Outcome(f"weights of {row.name}", "ok", f"{kind}, {path}"))
    if missing:
        named = ", ".join(f"{name} ({official_file(ENCODERS[name])[0]})" for name in missing)
        outcomes.append(
            Outcome(
                "other weights",
                "note",
                f"not on this machine, and downloaded when they are first used: {named}. Without a network, put the "
                "files into a folder",
                f"export {FOLDER_VARIABLE}=FOLDER",
            )
        )
    return outcomes


if __name__ == "__main__":
    tell(weights())
