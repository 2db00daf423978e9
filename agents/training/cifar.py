"""CIFAR runs in a run folder, alone or under torchrun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stillsight.agents.errors import RunError
from stillsight.agents.runs.folder import Run
from stillsight.agents.runs.reader import RUNS, read_config
from stillsight.agents.runs.records import revive
from stillsight.agents.runs.tensorboard import TensorBoardSink
from stillsight.encoders.supervised.cifar_config import CifarConfig
from stillsight.encoders.supervised.learn import learn
from stillsight.encoders.supervised.recorder import NullRecorder
from stillsight.encoders.supervised.training.distributed import joined
from stillsight.encoders.system.stopping import Stop


def cifar(config: CifarConfig) -> dict[str, Any]:
    """Run the supervised track in a run folder. Under torchrun only the main process writes and talks.

    Raises:
        RunError: the folder is finished, not to be resumed, or in use.
        EncoderError: see `CifarConfig.check` and `learn`.
        Stop: Ctrl-C or SIGTERM asked for it; an encoder in training is saved.
    """
    resumed = config.resume is not None
    folder = config.resume or config.out or RUNS / config.run_name
    if resumed:
        config = revive(CifarConfig, read_config(folder))
        if (folder / "done").exists():
            raise RunError(f"{folder} is finished. Its results are in {folder / 'summary.json'}.")
    config.check()
    with joined(config.device) as world:
        if not world.is_main:
            try:
                return learn(config, NullRecorder(folder), config.cache, world)
            except Stop as stop:  # of which the main process speaks
                raise SystemExit(stop.code) from None
        if config.tensorboard:
            TensorBoardSink(folder / "tensorboard")  # refuses where it is not installed, before anything is made
        counted = config.out is None

        def sinks(place: Path) -> list[TensorBoardSink]:
            return [TensorBoardSink(place / "tensorboard")] if config.tensorboard else []

        with Run(folder, "cifar", config, resumed=resumed, counted=counted, sinks=sinks) as run:
            result = learn(config, run, config.cache, world)
            run.display.close()
            scores = {name: value for name, value in result.items() if name.endswith("accuracy") and value is not None}
            rows = {name: f"{value:.2%}" for name, value in scores.items()}
            rows |= {
                **_said(result),
                "report": str(run.folder / "report" / "report.md"),
                "folder": str(run.folder),
            }
            run.display.card("done", rows)
            return result


def _said(result: dict[str, Any]) -> dict[str, str]:
    """What came out otherwise than somebody may think, in words."""
    said = {}
    if "best_epoch" in result:
        best = result["best_epoch"]
        said["kept"] = f"epoch {best}" if best else "the start, which no epoch improved on the validation images"
    if "saved_in_float32" in result:
        names = result["saved_in_float32"]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        said["saved in float32"] = f"{', '.join(names[:3])}{more}: float16 cannot hold them"
    return said
