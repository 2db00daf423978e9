"""The flags of `export` and `import`; they are checked before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stillsight.agents.errors import RunError
from stillsight.agents.runs.history import checkpoint_name
from stillsight.encoders.errors import as_typed


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write the agent of a run for programs that do not have stillsight."""

    sb3: Path | None = None
    """The zip to write, which stock Stable-Baselines3 loads: PPO.load("agent.zip"). It needs no stillsight."""
    checkpoint: str | None = None
    """best: of the evaluations during training. last: at the end of training, or where it stopped. Or the steps of one
    that --keep kept. By default best, or the newest good one."""
    weights: Path | None = None
    """The encoder's weights, if they are not any more where the run found them."""
    trust: tuple[str, ...] = ()
    """What the run asks for and stillsight does not know of itself, as the refusal names it: code (module:name), a
    Gymnasium id, a NAME=VALUE."""
    overwrite: bool = False
    """Replace the file if it is there."""

    def check(self) -> None:
        """Raise `RunError` where there is no place to write to, or one that is taken; `CheckpointError` for what is no
        name of a checkpoint."""
        if self.checkpoint is not None:
            checkpoint_name(self.checkpoint)
        if self.sb3 is None:
            raise RunError("export needs the file to write. Type, say: --sb3 agent.zip")
        if self.sb3.suffix != ".zip":
            raise RunError(
                f"--sb3 {self.sb3} is no zip by its name, and SB3 looks for one. Type "
                f"--sb3 {as_typed(Path(f'{self.sb3}.zip'))}"
            )
        if self.sb3.is_dir():
            raise RunError(f"--sb3 {self.sb3} is a folder. Type a file: --sb3 {as_typed(self.sb3 / 'agent.zip')}")
        if self.sb3.exists() and not self.overwrite:
            raise RunError(f"{self.sb3} is already there. Type another file, or --overwrite to replace it.")


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Make a run folder of a zip of Stable-Baselines3."""

    trust: bool = False
    """Unpickle what stock SB3 wrote into the zip, which runs whatever code its author put there: for files of your
    own. A zip as `stillsight export` wrote it needs no trust: it also holds plain records, and these alone are read.
    Only where these ask for code that stillsight does not know of itself, say an encoder module:name, does it, too."""
    out: Path | None = None
    """The run folder; results/runs/<name of the zip> by default."""
