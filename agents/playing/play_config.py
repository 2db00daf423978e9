"""The flags of `evaluate` and `record`; they are checked before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from stillsight.agents.errors import RunError
from stillsight.agents.training.seeds import PLAY
from stillsight.encoders.config import check_seed
from stillsight.envs.options import EnvOptions


@dataclass(frozen=True, kw_only=True)
class PlayChoice:
    """Which agent plays, and how."""

    checkpoint: Literal["best", "last"] = "best"
    """best: of the evaluations during training. last: at the end of training, or where it stopped."""
    episodes: int = 20
    """Whole episodes to play."""
    seed: int = PLAY
    """Seed of the first episode; the others follow. Training uses small seeds and its evaluations 10,000 and up."""
    stochastic: bool = False
    """Sample actions instead of taking the most likely one."""
    weights: Path | None = None
    """The encoder's weights, if they are not any more where the run found them."""
    shift: str | None = None
    """Show the game otherwise: hue, noise, blur, occluder or overlay; none for the game as it is. As in the run by
    default."""
    shift_strength: float | None = None
    """Strength of --shift, 0 (nothing changes) to 1; 0.5 by default."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def check(self) -> None:
        """Raise `RunError` for counts that play nothing, `EnvError` for a shift that there is not, `EncoderError` for a
        seed out of range."""
        check_seed(self.seed)
        if self.episodes < 1:
            raise RunError(f"--episodes {self.episodes} plays nothing. Type a number from 1.")
        shifted(EnvOptions(), self.shift, self.shift_strength)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(PlayChoice):
    """Play whole episodes with a trained agent and print their returns, beside those of random play; or classify the
    images of a cifar run again and compare with what it recorded."""

    random_episodes: int = 20
    """Episodes of random play to compare with; 0 for none."""
    split: Literal["test", "validation"] = "test"
    """Of a cifar run: which images."""
    data: Path | None = None
    """Of a cifar run: the folder of its data set, if it has moved."""
    json: bool = False
    """Print one JSON object and nothing else on the standard output; progress goes to the standard error."""

    def check_command(self, folder: Path, command: str) -> None:
        """Refuse flags that a run of `command` has no use for, instead of passing over them."""
        for item in fields(self):
            fits = item.name in ("weights", "device", "json") or (item.name in ("split", "data")) == (
                command == "cifar"
            )
            if not fits and getattr(self, item.name) != item.default:
                flag = item.name.replace("_", "-")
                other = "rl" if command == "cifar" else "cifar"
                raise RunError(f"--{flag} is for {other} runs, and {folder} is a run of {command}. Drop it.")


@dataclass(frozen=True, kw_only=True)
class RecordConfig(PlayChoice):
    """Record whole episodes of a trained agent as mp4 files, with their returns beside them."""

    episodes: int = 1
    """Whole episodes to record, a file each."""
    fps: int | None = None
    """Frames a second; the environment's own by default, divided by its frame skip."""

    def check(self) -> None:
        """Raise `RunError` for numbers that record nothing."""
        super().check()
        if self.fps is not None and self.fps < 1:
            raise RunError(f"--fps {self.fps} shows nothing. Type a number from 1.")


def shifted(options: EnvOptions, shift: str | None, strength: float | None = None) -> EnvOptions:
    """`options` with another shift: None leaves them as they are, "none" takes a shift away.

    Raises:
        EnvError: no such shift, a strength out of range, or a strength without a shift.
    """
    if shift is None and strength is None:
        return options
    return replace(options, shift=None if shift == "none" else shift, shift_strength=strength)
