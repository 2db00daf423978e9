"""CIFAR runs in a run folder, alone or under torchrun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from stillsight.agents.errors import RunError
from stillsight.agents.runs.folder import Run
from stillsight.agents.runs.reader import RUNS
from stillsight.agents.runs.tensorboard import TensorBoardSink
from stillsight.agents.training.continuing import resuming
from stillsight.encoders.errors import as_typed
from stillsight.encoders.supervised.cifar_config import CifarConfig
from stillsight.encoders.supervised.learn import learn
from stillsight.encoders.supervised.recorder import NullRecorder
from stillsight.encoders.supervised.training.distributed import joined
from stillsight.encoders.supervised.training.optimizer import course
from stillsight.encoders.system.stopping import Stop


def cifar(config: CifarConfig, features: Path | None = None) -> dict[str, Any]:
    """Run the supervised track in a run folder. Under torchrun only the main process writes and talks.

    Args:
        config: of the run.
        features: folder in which frozen features are kept; by default that of `config`, which keeps decoded pictures
            too.

    Raises:
        RunError: the folder is finished, not to be resumed, or in use.
        EncoderError: see `CifarConfig.check` and `learn`.
        Stop: Ctrl-C or SIGTERM asked for it; an encoder in training is saved.
    """
    resumed = config.resume is not None
    folder = config.resume or config.out or RUNS / config.run_name
    changed: dict[str, tuple[Any, Any]] = {}
    if config.resume is not None:
        going_on = resuming.resumed(config, config.resume, "cifar")
        config, changed = going_on.config, going_on.changed
        if going_on.word:
            print(going_on.word)
    config.check()
    with joined(config.device) as world:
        if not world.is_main:
            try:
                return learn(config, NullRecorder(folder), features or config.cache, world)
            except Stop as stop:  # of which the main process speaks
                raise SystemExit(stop.code) from None
        if config.tensorboard:
            TensorBoardSink(folder / "tensorboard")  # refuses where it is not installed, before anything is made
        counted = config.out is None

        def sinks(place: Path) -> list[TensorBoardSink]:
            return [TensorBoardSink(place / "tensorboard")] if config.tensorboard else []

        with Run(folder, "cifar", config, resumed=resumed, counted=counted, sinks=sinks, changed=changed) as run:
            if resumed and config.mode.trained:
                run.also |= _resumed(config, run)
            result = learn(config, run, features or config.cache, world)
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


def _resumed(config: CifarConfig, run: Run) -> dict[str, str]:
    """Where a training goes on and at which rate, for its card.

    Raises:
        RunError: it stopped early, and more epochs would not be made.
    """
    stored = run.load("last", torch.device("cpu"))
    if stored is None:
        return {"resumed": "from the beginning: no checkpoint was written yet"}
    done, best = int(stored["epoch"]), int(stored["best_epoch"])
    before = int(run.changed.get("epochs", (config.epochs, 0))[0])
    if "epochs" in run.changed and done >= config.epochs:
        raise RunError(
            f"{run.folder} stands after epoch {done}, and --epochs {config.epochs} does not lie beyond it. Type a "
            f"larger number, say: --epochs {2 * done}."
        )
    if "epochs" in run.changed and config.patience and done - best >= config.patience:
        raise RunError(
            f"{run.folder} stopped early after epoch {done}: none after epoch {best} was better, and --patience "
            f"{config.patience} waits no longer. More --epochs would not be made. Begin a new run, say with "
            f"--weights {as_typed(run.folder)}."
        )
    told = [f"{name} {old} before, {now} now" for name, (old, now) in run.changed.items()]
    rows = {"resumed": "; ".join([f"after epoch {done} of {config.epochs}", *told])}
    if "epochs" in run.changed and done:
        here, there = (_share(config, done, epochs) for epochs in (config.epochs, before))
        rows["schedule"] = (
            f"follows the new length: the rate goes on at {here:.1%} of its highest, where it stood at {there:.1%}"
        )
    return rows


def _share(config: CifarConfig, done: int, epochs: int) -> float:
    """Share of the highest rate that is reached after `done` of `epochs` epochs."""
    fine = 1_000  # parts of an epoch: how many updates it has is known only with the images
    return course(config, epochs * fine)(done * fine) if done < epochs else 0.0


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
