"""The flags of `stillsight encode`; they are checked before torch is imported."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from stillsight.agents.errors import RunError
from stillsight.encoders.config import EncoderConfig, refuse
from stillsight.encoders.errors import as_typed
from stillsight.encoders.taps.tap import taps
from stillsight.encoders.zoo.registry import spec

ENDINGS = (".npy", ".safetensors")
"""Of files of features."""


@dataclass(frozen=True, kw_only=True)
class EncodeConfig(EncoderConfig):
    """Encode pictures and films: a file of features, and a sheet that shows what the encoder makes of them. Folders are
    searched at every depth, hidden ones excepted; of a film each frame is an image."""

    out: Path | None = None
    """File of features, float32 [N, D] in the order of the images: .npy, with the images' names in a .json beside it,
    or .safetensors, with the names in its header."""
    sheet: Path | None = None
    """File of a sheet (.png): for up to 16 of the images the picture, the map at the tap as colours (its first three
    principal components), and the images whose features are the nearest."""
    every: int = 1
    """Of a film: take every so many frames."""
    skip_broken: bool = False
    """Go on after files that are no picture or film, and name them; without this they end the command."""
    overwrite: bool = False
    """Write over files that are there."""

    def check(self) -> None:
        """Refuse what cannot work, before torch is imported.

        Raises:
            RunError, EncoderError: what was found, what is allowed, what to type.
        """
        if self.out is None and self.sheet is None:
            raise RunError("encode would write nothing. Type --out features.npy, or --sheet sheet.png.")
        if self.mode.trained:
            raise RunError(f"--mode {self.mode.value} trains, and encode does not. Type --mode frozen or random.")
        if self.every < 1:
            raise RunError(f"--every {self.every} takes no frame. Type a number from 1.")
        if self.out is not None and self.out.suffix not in ENDINGS:
            raise RunError(
                f"--out {self.out} ends in {self.out.suffix or 'nothing'}, which is no format of features here. Type "
                f".npy or .safetensors, say: --out {as_typed(self.out.with_suffix('.npy'))}"
            )
        if self.sheet is not None and self.sheet.suffix != ".png":
            ending = self.sheet.suffix or "nothing"
            typed = as_typed(self.sheet.with_suffix(".png"))
            raise RunError(f"--sheet {self.sheet} ends in {ending}, and a sheet is a .png. Type, say: --sheet {typed}")
        for path in self.written:
            if path.exists() and not self.overwrite:
                raise RunError(f"{path} is there already. Type --overwrite, or another name.")
        self.check_encoder()
        row = spec(self.encoder)
        if learned := [one.pooling for one in taps(self.tap or row.tap, self.pooling or row.pooling) if one.learns]:
            raise RunError(
                f"--pooling {learned[0]} learns, and encode does not: its features would be random numbers' work. Type "
                "--pooling global, grid<k>, flatten, softmax, cls or cls+global."
            )

    @property
    def written(self) -> list[Path]:
        """The files that are written."""
        names = [self.out.with_suffix(".json")] if self.out is not None and self.out.suffix == ".npy" else []
        return [path for path in (self.out, *names, self.sheet) if path is not None]

    def check_given(self, given: Collection[str]) -> None:
        """Refuse flags without effect, see `EncoderConfig.check_given`."""
        super().check_given(given)
        if self.mode.pretrained and self.mode.value == "frozen":
            refuse(given, ("seed",), "with --mode frozen, in which nothing is random. Type --mode random")
