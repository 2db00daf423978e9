"""The flags of `stillsight predict`; they are read before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Say what is on pictures, with the classifier that a cifar run trained. Folders are searched at every depth,
    hidden ones excepted; what was passed over is counted on the error stream."""

    top: int = 5
    """How many classes to name for each picture, the most probable first."""
    json: bool = False
    """Print one JSON object a picture and a line, for programs."""
    skip_broken: bool = False
    """Go on after files that are no picture, and name them; without this they end the command."""
    weights: Path | None = None
    """The weights of a frozen encoder, if they are not any more where the run found them."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    trust: tuple[str, ...] = ()
    """What the run asks for and stillsight does not know of itself, as the refusal names it: code (module:name), a
    Gymnasium id, a NAME=VALUE, or a folder to write into."""
