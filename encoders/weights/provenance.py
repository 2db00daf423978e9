"""Where an encoder's weights came from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where an encoder's weights came from.

    Attributes:
        kind: "shipped", "file", "run", "folder", "package", "cache", "download", "function" (a third party's own) or
            "random".
        name: file name, torchvision's weights entry, or the seed of random weights.
        sha256: of the file, or empty for random weights.
        licence: what may be done with them, as far as it is known.
    """

    kind: str
    name: str
    sha256: str = ""
    licence: str = ""
