"""CIFAR runs in a run folder, alone or under torchrun."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from stillsight.agents.errors import RunError
from stillsight.agents.measure.cifar_throughput import CifarThroughputConfig
from stillsight.agents.runs.folder import Run
from stillsight.agents.runs.machine import machine
from stillsight.agents.runs.reader import RUNS, read_config
from stillsight.agents.runs.records import plain, revive
from stillsight.encoders.supervised.learn import CifarConfig
from stillsight.encoders.supervised.training.distributed import Onlooker, joined

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def cifar(config: CifarConfig) -> dict[str, Any]:
    """Run the supervised track in a run folder. Under torchrun only the first process writes and talks.

    Raises:
        RunError: the folder is finished, not to be resumed, or in use.
        EncoderError: see `CifarConfig.check` and `learn`.
    """
    from stillsight.encoders.supervised.learn import learn

    resumed = config.resume is not None
    folder = config.resume or config.out or RUNS / config.run_name
    if resumed:
        config = revive(CifarConfig, read_config(folder))
        if (folder / "done").exists():
            raise RunError(f"{folder} is finished. Its results are in {folder / 'summary.json'}.")
    config.check()
    if config.tensorboard and find_spec("tensorboard") is None:
        raise RunError(
            'TensorBoard is not installed. Run: pip install "stillsight[tensorboard]", or drop --tensorboard.'
        )
    with joined(config.device) as world:
        if not world.first:
            return learn(config, Onlooker(folder), config.cache)
        kind = Charted if config.tensorboard else Run
        with kind(folder, "cifar", config, resumed=resumed) as run:
            result = learn(config, run, config.cache)
            run.display.close()
            scores = {name: value for name, value in result.items() if name.endswith("accuracy") and value is not None}
            rows = {name: f"{value:.2%}" for name, value in scores.items()}
            run.display.card("done", {**rows, "report": str(folder / "report" / "report.md"), "folder": str(folder)})
            return result


class Charted(Run):
    """A run folder that keeps its numbers as TensorBoard curves too, over the epochs."""

    writer: SummaryWriter | None = None

    def log(self, stream: str, row: Mapping[str, Any]) -> None:
        """Append `row`, and a point to the curve of each of its numbers."""
        from torch.utils.tensorboard import SummaryWriter

        super().log(stream, row)
        if self.writer is None:  # a resumed run draws again what it had not saved
            self.writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=row.get("epoch", 0))
        for name, value in row.items():
            if name != "epoch" and value is not None:
                self.writer.add_scalar(f"{stream}/{name}", value, row.get("epoch", 0))
        self.writer.flush()


def cifar_throughput(config: CifarThroughputConfig) -> dict[str, Any]:
    """Measure a cifar run beside the plain way, print the numbers and return them, see `throughput.compare`."""
    from rich.console import Console

    from stillsight.agents.measure.cifar_throughput import compare
    from stillsight.agents.runs.progress import ProgressDisplay

    config.check()
    display = ProgressDisplay(Console(highlight=False, stderr=config.json))

    def told(number: float) -> str:
        return f"{number:,.0f} images/s" if config.mode.trained else f"{number:,.2f} s"

    measured = compare(config, lambda arm, number: display.console.print(f"{arm}: {told(number)}", soft_wrap=True))
    if config.json:
        print(json.dumps({"config": plain(config), "machine": machine(), **measured}, indent=2))
        return measured
    rows = {
        name: f"{told(found['median'])}  ({told(found['least'])} .. {told(found['most'])})"
        for name, found in measured["arms"].items()
    }
    ratios = {
        name: f"{found['median']:.2f}x  ({found['least']:.2f} .. {found['most']:.2f})"
        for name, found in measured["ratios"].items()
    }
    facts = {key: str(measured[key]) for key in ("encoder", "resolution", "batch", "device", "threads", "workers")}
    if config.mode.trained:
        title = "cifar training, medians"
    else:
        title = f"{config.epochs} plain epochs and heads on features, medians"
        facts |= {f"engine {precision}": engine for precision, engine in measured["engines"].items()}
    display.card(title, {**facts, **rows, **ratios})
    return measured
