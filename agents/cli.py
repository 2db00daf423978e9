"""The command line. Names and flags are checked before anything heavy is imported: the one place that imports late."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stillsight.agents.command_line.command_line import CommandLine, Parsed, Positional
from stillsight.agents.command_line.json_output import only_json
from stillsight.agents.errors import RunError, TrainingFault
from stillsight.agents.measure.measure_config import SPIN
from stillsight.agents.runs.reader import read_config
from stillsight.agents.runs.trust import Trust, import_from_here, names_typed, open_run
from stillsight.agents.training.algorithms import ALGORITHMS
from stillsight.encoders.errors import EncoderError, printable_lines, refused, unknown
from stillsight.encoders.system.stopping import Stop, answering
from stillsight.envs.errors import EnvError, EnvFault

_AGENTS = "stillsight.agents"
_SUPERVISED = "stillsight.encoders.supervised"


@dataclass(frozen=True)
class Command:
    """One command: what it takes, what runs it, and what it does in a line.

    Attributes:
        config: "module:Class" of its flags; light to import. Before the function, `check()` is called where the class
            has it, and `check_given(given)` with the names of what was typed, which refuses flags without effect.
        function: "module:function", imported when the flags are right; called with the positional arguments, then the
            run that is described where `run` says so, then the flags. It returns an exit code where it returns an int.
        summary: one line.
        positional: what is typed without a flag.
        run: "module:Class" of further flags, which describe a run.
        left_out: fields of these that have no use here, and are no flags of this command.
        examples: what to type after the command's name.
    """

    config: str
    function: str
    summary: str
    positional: tuple[Positional, ...] = ()
    run: str | None = None
    left_out: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()


LISTS = ("encoders", "envs", "algos", "runs")
RUN = "RUN"
FIRST = "results/runs/first"
ENV = "stillsight/Orchard-v0"


def _a_run(name: str) -> Positional:
    return Positional(name, Path, RUN, "A run folder.", example=FIRST)


COMMANDS: dict[str, Command] = {
    "rl": Command(
        f"{_AGENTS}.training.config:RlConfig",
        f"{_AGENTS}.training.learn:rl",
        "train an agent whose policy looks through a pretrained encoder",
        examples=(
            "--steps 20_000",
            "--env ALE/Pong-v5 --encoder mobilenet_v2 --tap features.3 --pooling grid12 --steps 1_000_000",
            "--mode finetune --unfreeze layer2 --encoder-lr 0.1 --set n_steps=256 learning_rate=lin_3e-4",
        ),
    ),
    "cifar": Command(
        f"{_SUPERVISED}.cifar_config:CifarConfig",
        f"{_AGENTS}.training.cifar:cifar",
        "train a classifier on CIFAR or an image folder with the same encoders",
        examples=(
            "--dataset cifar10 --mode frozen",
            "--dataset photos --mode frozen --resolution 64 --head knn",
            "--dataset cifar10 --mode scratch --epochs 30 --ema 0.999 --cutmix 1",
        ),
    ),
    "evaluate": Command(
        f"{_AGENTS}.playing.play_config:EvaluateConfig",
        f"{_AGENTS}.playing.play:evaluate",
        "play whole episodes with an agent, or test a classifier once more",
        (_a_run("folder"),),
        examples=(f"{FIRST} --episodes 10", f"{FIRST} --shift noise --shift-strength 0.8", f"{FIRST} --json"),
    ),
    "predict": Command(
        f"{_AGENTS}.playing.predict_config:PredictConfig",
        f"{_AGENTS}.playing.predict:predict",
        "say what is on pictures, with the classifier of a cifar run",
        (
            _a_run("run"),
            Positional("places", list[Path], "IMAGE [IMAGE ...]", "Picture files or folders.", example="photo.png"),
        ),
        examples=("results/runs/cifar10-retina-frozen-seed0 photo.png --top 3",),
    ),
    "encode": Command(
        f"{_AGENTS}.seeing.encode_config:EncodeConfig",
        f"{_AGENTS}.seeing.encode:encode",
        "write an encoder's features of pictures or films, and a sheet of what it sees",
        (
            Positional(
                "places",
                list[Path],
                "IMAGE|VIDEO [IMAGE|VIDEO ...]",
                "Picture files, films, or folders of pictures.",
                example="photo.png --sheet sheet.png",
            ),
        ),
        left_out=("unfreeze", "adapt", "batchnorm", "lora_rank"),
        examples=(
            "photos --out features.npy --sheet sheet.png",
            "film.mp4 --every 10 --encoder resnet18 --tap layer2 --resolution 96 --sheet sheet.png",
        ),
    ),
    "look": Command(
        f"{_AGENTS}.seeing.look_config:LookConfig",
        f"{_AGENTS}.seeing.look:look",
        "show an environment as an agent sees it, every shift, and random play; or play it yourself",
        (Positional("env", str, "ENV", "A name of `list envs`, any Gymnasium id, or module:Id.", example=ENV),),
        examples=(ENV, f"{ENV} --shift noise:0.8 hue+blur", f"{ENV} --play"),
    ),
    "record": Command(
        f"{_AGENTS}.playing.play_config:RecordConfig",
        f"{_AGENTS}.playing.video:record",
        "record whole episodes of a trained agent as mp4",
        (_a_run("folder"),),
        examples=(FIRST, f"{FIRST} --episodes 3 --checkpoint last"),
    ),
    "export": Command(
        f"{_AGENTS}.exchange.exchange_config:ExportConfig",
        f"{_AGENTS}.exchange.sb3_export:export",
        "write a trained agent as a zip that stock Stable-Baselines3 loads",
        (_a_run("folder"),),
        examples=(f"{FIRST} --sb3 agent.zip", f"{FIRST} --sb3 agent.zip --checkpoint last --overwrite"),
    ),
    "import": Command(
        f"{_AGENTS}.exchange.exchange_config:ImportConfig",
        f"{_AGENTS}.exchange.sb3_import:import_",
        "make a run folder of a zip of Stable-Baselines3",
        (Positional("path", Path, "FILE.zip", "What `export`, or SB3 after it, has saved.", example="agent.zip"),),
        examples=("agent.zip --out results/runs/again", "agent-trained-on.zip --trust"),
    ),
    "throughput": Command(
        f"{_AGENTS}.measure.measure_config:ThroughputConfig",
        f"{_AGENTS}.measure.throughput:throughput",
        "measure how fast a run goes, beside stock SB3 and beside the floor, or encoders or environments alone",
        run=f"{_AGENTS}.training.config:RlConfig",
        left_out=(
            *("in_policy", "checkpoint_every", "tensorboard", "out", "resume", "from_run", "from_checkpoint", "keep"),
            "trust",
        ),
        examples=(
            "--encoder resnet18 --mode random --tap layer4 --pooling global --rounds 3",
            "--encoders retina mobilenet_v2 resnet18:layer4 --resolutions 84 224 --engines eager folded compiled",
            "--envs ALE/Pong-v5 CarRacing-v3 --n-envs 8",
        ),
    ),
    "cifar-throughput": Command(
        f"{_AGENTS}.measure.cifar_throughput_config:CifarThroughputConfig",
        f"{_AGENTS}.measure.cifar_throughput:cifar_throughput",
        "measure how fast a cifar run trains, beside a plain loop",
        examples=("--encoder retina --mode scratch", "--encoder retina --mode frozen --head linear"),
    ),
    "gpu": Command(
        f"{_AGENTS}.measure.gpu.gpu_config:GpuConfig",
        f"{_AGENTS}.measure.gpu.session:gpu",
        "test and measure what only a CUDA GPU can show, within minutes and into one folder",
        examples=("--out results/runs/gpu", "--small --parts encoders"),
    ),
    "benchmark": Command(
        f"{_AGENTS}.benchmark.benchmark_config:BenchmarkConfig",
        f"{_AGENTS}.benchmark.command:benchmark",
        "compare encoders, modes and algorithms over seeds, with controls and statistics",
        (Positional("path", Path, "SPEC.toml", "What to compare; or say it by flags.", optional=True),),
        examples=("SPEC.toml --plan", "--env stillsight/Orchard-v0 --encoder retina --seeds 5 --steps 50_000"),
    ),
    "report": Command(
        f"{_AGENTS}.benchmark.benchmark_config:ReportConfig",
        f"{_AGENTS}.benchmark.report.report:report",
        "write tables, plots and a page from a benchmark's folder",
        (Positional("folder", Path, "FOLDER", "A benchmark's folder.", example="results/benchmarks/orchard"),),
    ),
    "replay": Command(
        f"{_AGENTS}.measure.measure_config:ReplayConfig",
        f"{_AGENTS}.measure.replay_cost:replay_cost",
        "measure what replay memory takes, and how fast it is sampled",
        examples=("--transitions 100_000 --features 512",),
    ),
    "plot": Command(
        f"{_AGENTS}.runs.plots:PlotConfig",
        f"{_AGENTS}.runs.plots:plot",
        "draw the learning curves of runs",
        (Positional("folders", list[Path], "RUN [RUN ...]", "Run folders.", example=FIRST),),
        examples=(f"{FIRST} --out curve.png", f"{FIRST} {FIRST.replace('first', 'second')} --reference random=0.8"),
    ),
    "doctor": Command(
        f"{_AGENTS}.doctor.doctor_config:DoctorConfig",
        f"{_AGENTS}.doctor.checkup:doctor",
        "check this machine, or a run folder, and say what to type",
        (Positional("folder", Path, "FOLDER", "A run folder; by default this machine.", optional=True, example=FIRST),),
        examples=("", FIRST, "--json"),
    ),
    "list": Command(
        f"{_AGENTS}.listing:ListConfig",
        f"{_AGENTS}.listing:show",
        "show the encoders, environments, algorithms or runs",
        (
            Positional(
                "what",
                Literal["encoders", "envs", "algos", "runs"],
                "|".join(LISTS),
                "Which list.",
                example="encoders",
                noun="list",
            ),
            Positional(
                "words",
                list[str],
                "FILTER ...",
                "Of encoders: one by name, or those that have every word in name, family, summary or licence; the word "
                "here stands for weights on this machine. Of envs: a suite.",
                optional=True,
            ),
        ),
        examples=(
            "encoders",
            "encoders resnet18 --resolution 96",
            "encoders vit mit here",
            "envs atari",
            "runs --folder results/runs",
        ),
    ),
}
"""Every command by name. A new one is a new row."""

METAVARS = {
    "env_set": "NAME=VALUE",
    "set": "NAME=VALUE",
    "reference": "NAME=NUMBER",
    "device": "DEVICE",
    "trust": "NAME",
}
"""Field -> what help shows in place of its value, where its type does not say enough."""


ASKED = frozenset({"-h", "--help", "help"})
"""Words that ask for help."""


def usage(width: int | None = None) -> str:
    """The text of `stillsight --help`.

    Args:
        width: in characters; that of the terminal by default, up to 100.
    """
    width = min(width or shutil.get_terminal_size().columns, 100)
    rows = []
    for name, command in COMMANDS.items():
        rows += textwrap.wrap(command.summary, width, initial_indent=f"  {name:17}", subsequent_indent=" " * 19)
    start = "the project's own environment and encoder; no download"
    return "\n".join(
        [
            "usage: stillsight COMMAND [--help] ...\n",
            "Reinforcement-learning agents with pretrained eyes.\n",
            "commands:",
            *rows,
            f"\nStart with: stillsight rl --steps 20_000\n({start})",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0; 2 for a user's mistake, 1 for an environment that broke, training that left the numbers, or a disk or system
        that refused a file, and 130 or 143 after Ctrl-C or SIGTERM, each printed as one sentence. Bugs keep their
        traceback.
    """
    # OpenMP's threads wait for their next piece of work by spinning, for milliseconds, which takes the cores from
    # whatever runs beside. Told to sleep at once they lose as much to waking up: a forward pass of ResNet-18 on two
    # threads takes 14 ms and not 9. So they spin for about 20 microseconds, longer than the gaps inside a network.
    # The variable must stand before torch is imported.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault(SPIN, "5000")
    if arguments is None:
        # Python's own way of starting workers looks for the standard library in the current folder first, where a
        # stranger's pickle.py may lie. What was typed is found all the same: they get this process' path.
        os.environ.setdefault("PYTHONSAFEPATH", "1")
        _print_anything()
    words = list(sys.argv[1:] if arguments is None else arguments)
    code = 0
    try:
        code = _main(words)
        sys.stdout.flush()  # while somebody can still say that it failed
    except BrokenPipeError:  # the reader has seen enough: `stillsight rl --help | head`
        _drop_output()
        if not ASKED.isdisjoint(words) or words[:1] == ["list"]:
            return 0
        print("stillsight: stopped, since nobody reads what it prints any more.", file=sys.stderr)
        return 1
    except OSError as error:
        if not code:  # what failed has been told already
            print(f"stillsight: {refused(error)}", file=sys.stderr)
        _drop_output()
        return 1
    return code


def _print_anything() -> None:
    """Show a question mark for what a terminal's encoding lacks, the sign in "3 ± 1" or a letter of a folder's name:
    Python would end the run for it. Processes that are started do the same."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")
        encoding = os.environ.get("PYTHONIOENCODING", "").partition(":")[0]
        os.environ["PYTHONIOENCODING"] = f"{encoding}:replace"


def _drop_output() -> None:
    """Send what is still to be printed nowhere, so that Python does not stumble over it when it ends."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: a test's output has no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _main(given: list[str]) -> int:
    if not given or given[0] in ASKED:
        print(usage())
        return 0 if given else 2
    if given[0] == "--version":
        from importlib.metadata import version

        print(f"stillsight {version('stillsight')}")
        return 0
    try:
        with answering():
            return _run(given[0], given[1:])
    except (EncoderError, EnvError, RunError) as error:
        _tell(error)
        return 2
    except (EnvFault, TrainingFault) as fault:
        _tell(fault, *getattr(fault, "__notes__", ()))
        return 1
    except Stop as stop:
        print(f"stillsight: {stop}", file=sys.stderr)
        return stop.code
    except BrokenPipeError:
        raise
    except OSError as error:
        _tell(refused(error), *getattr(error, "__notes__", ()))
        return 1
    except KeyboardInterrupt:
        print("stillsight: stopped.", file=sys.stderr)
        return 130


def _tell(sentence: object, *notes: str) -> None:
    """Print a sentence on the standard error, after what is noted beside it; names of strangers are not obeyed."""
    print(printable_lines("\n".join([*notes, f"stillsight: {sentence}"])), file=sys.stderr)


def _run(name: str, words: list[str]) -> int:
    if name not in COMMANDS:
        if name in LISTS:
            raise RunError(f"There is no command named {name!r}. Type: stillsight list {name}")
        raise RunError(unknown("command", name, COMMANDS, "Commands", "stillsight"))
    command = COMMANDS[name]
    line = command_line(name)
    if not {"-h", "--help"}.isdisjoint(words):
        print(line.help(f"{command.summary[0].upper()}{command.summary[1:]}.", command.examples))
        return 0
    parsed = line.parse(words)
    with only_json() if getattr(parsed.configs[-1], "json", False) else contextlib.nullcontext():
        return _start(command, parsed)


def _start(command: Command, parsed: Parsed) -> int:
    """Check what was typed, and run the command's function with it."""
    positional, configs, given = parsed
    _import_from_here(configs)
    if hasattr(configs[-1], "concerning"):
        configs = [*map(configs[-1].concerning, configs[:-1]), configs[-1]]
    for config in configs:
        if hasattr(config, "check"):
            config.check()
        if hasattr(config, "check_given"):
            config.check_given(given)
        if getattr(config, "from_run", None) is not None:
            read_config(config.from_run)  # there is such a run; the rest is looked at once the agent is built
    for value, argument in zip(positional, command.positional, strict=True):
        if argument.shown == RUN:
            _refuse_early(value, configs)
    result = _load(command.function)(*positional, *configs)
    return result if isinstance(result, int) else 0


def _refuse_early(folder: Path, configs: Sequence[Any]) -> None:
    """Refuse a run that is damaged, or asks for what nobody allowed, before anything heavy is imported for it."""
    config = configs[-1]
    open_run(folder, Trust(getattr(config, "trust", ())), weights=getattr(config, "weights", None))


def _import_from_here(parts: Sequence[Any]) -> None:
    """Let a `module:name` that was typed, after --trust too, lie in the current folder, where a console script does not
    look. What a run folder or a SPEC.toml names never brings the folder onto the path."""
    import_from_here([name for part in parts for name in names_typed(part)])


def command_line(name: str) -> CommandLine:
    """What the command called `name` takes."""
    command = COMMANDS[name]
    return CommandLine(
        f"stillsight {name}",
        command.positional,
        [_load(path) for path in (command.run, command.config) if path],
        left_out=command.left_out,
        settings=sorted({setting for row in ALGORITHMS.values() for setting in row.preset} | {"gamma", "gae_lambda"}),
        metavars=METAVARS,
    )


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
