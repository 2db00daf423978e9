"""Flags: nothing that was typed is dropped silently, what is wrong is one sentence, and help is for a person."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import pytest

from stillsight.agents.cli import COMMANDS, command_line, main
from stillsight.agents.command_line.command_line import CommandLine, Positional
from stillsight.agents.command_line.flag import flags
from stillsight.agents.errors import RunError
from stillsight.agents.training.config import RlConfig
from stillsight.encoders.errors import EncoderError
from stillsight.encoders.mode import Mode
from stillsight.encoders.supervised.cifar_config import AUGMENTATION, TRAINING, CifarConfig
from stillsight.encoders.supervised.training.recipe import Recipe


def rl(words: str) -> Any:
    return command_line("rl").parse(shlex.split(words)).configs[0]


@pytest.mark.parametrize(
    "words",
    [
        "--set n_steps=64 batch_size=32",
        "--set n_steps=64 --set batch_size=32",
        "--set=n_steps=64 --set=batch_size=32",
        "--set n_steps=64 --steps 5 --set batch_size=32",
    ],
)
def test_values_of_a_repeated_flag_are_added(words: str) -> None:
    assert rl(words).set == ("n_steps=64", "batch_size=32")


def test_a_repeated_flag_reaches_the_algorithm() -> None:
    # It trained with 128 steps: the last --set was all that held.
    config = rl("--set n_steps=64 --set batch_size=32").resolved()
    assert {"n_steps=64", "batch_size=32"} <= set(config.set)
    assert not any(setting.startswith("n_steps=128") for setting in config.set)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--steps 5 --steps 6", "--steps was given twice"),
        ("--steps 5 --steps 5", "--steps was given twice"),
        ("--clip-rewards --no-clip-rewards", "--clip-rewards was given twice"),
        ("--steps", "--steps needs a value. Type: --steps N."),
        ("--steps --seed 1", "--steps needs a value"),
        ("--state --seed 1", "--state needs a value. Type: --state NAME [NAME ...]."),
        ("--steps many", "--steps takes a whole number, and got 'many'. Type, say: --steps 100_000."),
        ("--steps 1.5", "--steps takes a whole number, and got '1.5'"),
        ("--steps inf", "--steps takes a whole number, and got 'inf'"),
        ("--encoder-lr big", "--encoder-lr takes a number, and got 'big'"),
        ("--mode frosen", "Did you mean 'frozen'? Type: --mode frozen. --mode takes one of: frozen, random, finetune"),
        ("--tensorboard=yes", "--tensorboard takes no value, and got 'yes'"),
        ("--lr 3e-4", "rl has no flag --lr. Type, say: --set learning_rate=3e-4."),
        ("--learning-rate 3e-4", "Type, say: --set learning_rate=3e-4."),
        ("--learning_rate=3e-4", "Type, say: --set learning_rate=3e-4."),
        ("--total-timesteps 1e5", "rl has no flag --total-timesteps. Type, say: --steps 1e5."),
        ("--gamma 0.9", "Type, say: --set gamma=0.9."),
        ("--batch-size 32", "Type, say: --set batch_size=32."),
        ("--num-envs 4", "Type, say: --n-envs 4."),
        ("--stepz 5", "Type, say: --steps 5."),
        ("--tensorbord", "Type, say: --tensorboard."),
        ("--xyzzy", "rl has no flag --xyzzy. `stillsight rl --help` lists the flags."),
        ("-n 5", "rl has no flag -n."),
        ("ppo", "rl takes flags alone, and got 'ppo' too."),
    ],
)
def test_what_is_wrong_is_one_sentence(words: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rl", *shlex.split(words)]) == 2
    captured = capsys.readouterr()
    assert (captured.out, len(captured.err.splitlines())) == ("", 1)
    assert sentence in captured.err
    with pytest.raises(RunError):
        rl(words)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("cifar --learning-rate 0.1", "cifar has no flag --learning-rate. Type, say: --lr 0.1."),
        ("cifar --batch-size 32", "Type, say: --batch 32."),
        ("cifar --gamma 0.9", "cifar has no flag --gamma. `stillsight cifar --help`"),
        ("rl --algo PPO", "Did you mean 'ppo'? Type: --algo ppo."),
        ("rl --encoder ResNet18", "Did you mean 'resnet18'? Type: --encoder resnet18."),
        ("rl --seed -1", "--seed -1 is out of range. Type a number from 0 to 2_000_000_000"),
        ("rl --seed 4294967296", "--seed 4294967296 is out of range"),
        ("cifar --seed -1", "--seed -1 is out of range"),
        ("evaluate x --seed -1", "--seed -1 is out of range"),
        ("record x --seed 2000000001", "--seed 2000000001 is out of range"),
        (
            "plot x --out x.txt",
            "x.txt ends in .txt, which is no format of pictures here. Allowed: png, svg, pdf and jpg",
        ),
        ("plot x --out x", "Type, say: --out x.png."),
        ("plot x --window 0", "--window 0 averages nothing"),
        ("plot", "plot needs RUN [RUN ...]. Type, say: stillsight plot results/runs/first"),
        ("predict x", "predict needs IMAGE [IMAGE ...]"),
        ("list", "list needs encoders|envs|algos|runs. Type, say: stillsight list encoders"),
        ("list encodrs", "Did you mean 'encoders'? Type: stillsight list encoders."),
        ("list envs algos", "No suite is called 'algos'. Suites: orchard, atari, vizdoom"),
        ("list envs miniwold", "No suite is called 'miniwold'. Did you mean 'miniworld'? Suites: orchard"),
        ("list runs algos", "list takes encoders|envs|algos|runs and flags, and got 'algos' too"),
        ("list envs --folder x", "--folder is where runs are, and has no effect on the list of envs"),
        ("throughput --out x", "throughput has no flag --out"),
        (
            "rl --native ale --workers on",
            "--native ale steps all environments by itself, and --workers on asks for a process for each.",
        ),
    ],
)
def test_commands_refuse_in_one_sentence(words: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(words)) == 2
    captured = capsys.readouterr()
    assert (captured.out, len(captured.err.splitlines())) == ("", 1)
    assert sentence in captured.err


@pytest.mark.parametrize(
    ("words", "value"),
    [("--steps 1e5", 100_000), ("--steps 20_000", 20_000), ("--steps=7", 7), ("--seed -1", -1)],
)
def test_numbers_are_taken_as_people_write_them(words: str, value: int) -> None:
    assert value in (rl(words).steps, rl(words).seed)


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("", None),
        ("--clip-rewards", True),
        ("--no-clip-rewards", False),
        ("--clip-rewards False", False),
        ("--clip-rewards=true", True),
        ("--clip-rewards None", None),
    ],
)
def test_a_switch_that_is_open_can_be_put_either_way(words: str, value: bool | None) -> None:
    assert rl(words).clip_rewards is value


def test_values_are_of_the_types_of_the_fields() -> None:
    config = rl(
        "--mode finetune --tap layer2 --weights a.pth --encoder_lr 1e-1 --n-envs 3 --env-set a=-1 b=x --tensorboard"
    )
    assert config == RlConfig(
        mode=Mode.FINETUNE,
        tap="layer2",
        weights=Path("a.pth"),
        encoder_lr=0.1,
        n_envs=3,
        env_set=("a=-1", "b=x"),
        tensorboard=True,
    )
    assert rl("--tap None").tap is None


def test_positionals_and_flags_may_be_mixed() -> None:
    parsed = command_line("predict").parse(["--top", "3", "run", "a.png", "--json", "b.png"])
    assert parsed.positional == [Path("run"), [Path("a.png"), Path("b.png")]]
    assert (parsed.configs[0].top, parsed.configs[0].json) == (3, True)
    assert parsed.given == {"run", "places", "top", "json"}
    assert command_line("predict").parse(["run", "--", "--odd.png"]).positional[1] == [Path("--odd.png")]
    assert command_line("benchmark").parse([]).positional == [None]


def test_a_default_that_was_typed_counts_as_given() -> None:
    assert command_line("cifar").parse(["--epochs", "30"]).given == {"epochs"}


# What has no effect is refused, whatever its value.


def effect(command: str, words: str) -> None:
    parsed = command_line(command).parse(shlex.split(words))
    for config in parsed.configs:
        config.check()
        config.check_given(parsed.given)


TYPED = {"optimizer": "adamw", "save_dtype": "float16", "warmup": "0.1"}
SWITCHES = {"tta", "channels_last", "compile", "flip"}


def typed(name: str) -> str:
    flag = "--" + name.replace("_", "-")
    return flag if name in SWITCHES else f"{flag} {TYPED.get(name, '1')}"


@pytest.mark.parametrize("mode", ["frozen", "random"])
@pytest.mark.parametrize("name", [*TRAINING, *AUGMENTATION])
def test_flags_of_training_are_refused_where_a_head_is_fitted(name: str, mode: str) -> None:
    flag = "--" + name.replace("_", "-")
    words = typed(name).replace(" 1", " 0.5") if name in ("label_smoothing", "dropout", "ema") else typed(name)
    with pytest.raises(EncoderError, match=rf"^{flag} has no effect with --mode {mode}.* or drop {flag}\.$"):
        effect("cifar", f"--mode {mode} {words}")
    effect("cifar", f"--mode scratch {words}")


@pytest.mark.parametrize("name", AUGMENTATION)
def test_augmentation_has_an_effect_on_views_of_frozen_features(name: str) -> None:
    effect("cifar", f"--mode frozen --views 2 {typed(name)}")


def test_every_flag_of_the_recipe_is_either_training_augmentation_or_both_tracks() -> None:
    assert {item.name for item in fields(Recipe)} <= {*TRAINING, *AUGMENTATION, "encoder_lr", "precision"}


@pytest.mark.parametrize(
    ("command", "words", "sentence"),
    [
        ("cifar", "--mode frozen --encoder-lr 1.0", "--encoder-lr has no effect with --mode frozen"),
        ("cifar", "--mode frozen --adapt all", "--adapt has no effect with --mode frozen"),
        ("cifar", "--mode random --weights-folder x", "--weights-folder has no effect with --mode random"),
        ("cifar", "--weights a --weights-folder x", "--weights-folder has no effect beside --weights"),
        ("cifar", "--skip-broken 0.1", "--skip-broken has no effect with --dataset cifar10"),
        ("cifar", "--mode scratch --no-refit", "--refit has no effect with --mode scratch, which learns from the"),
        ("cifar", "--mode finetune --refit", "--refit has no effect with --mode finetune, which learns from the"),
        ("cifar", "--dataset . --data x", "--data has no effect with --dataset ."),
        ("cifar-throughput", "--mode frozen --updates 5", "--updates has no effect with --mode frozen"),
        ("cifar-throughput", "--mode scratch --epochs 5", "--epochs has no effect with --mode scratch"),
        ("cifar-throughput", "--mode scratch --head knn", "--head has no effect with --mode scratch"),
        ("cifar-throughput", "--mode frozen --dataset cifar100", "--dataset has no effect where images are noise"),
        ("rl", "--replay-dtype float16", "--replay-dtype has no effect with --algo ppo, which has no replay memory"),
        ("rl", "--replay-dtype float32 --algo a2c", "--replay-dtype has no effect with --algo a2c"),
        ("rl", "--replay-dtype float32 --algo dqn --mode scratch", "--replay-dtype has no effect where all of the"),
        ("rl", "--replay-dtype float32 --algo dqn --in-policy", "--replay-dtype has no effect with --in-policy"),
        ("rl", "--keep 3 --checkpoint-every 0", "--keep has no effect with --checkpoint-every 0, which writes none"),
        ("rl", "--mode scratch --in-policy", "--in-policy has no effect where all of the encoder learns"),
        ("rl", "--mode finetune --engine eager", "--engine has no effect where all of the encoder learns"),
        ("rl", "--mode random --batchnorm frozen", "--batchnorm has no effect with --mode random"),
        ("rl", "--pooling flatten --compress 8", "--compress has no effect with --pooling flatten"),
        ("rl", "--set n_steps=64 --set n_steps=32", "--set was given n_steps 2 times"),
        ("rl", "--pixels off --state on --shift noise", "--shift has no effect with --pixels off"),
        ("rl", "--pixels off --state on --eval-shift noise", "--eval-shift has no effect with --pixels off"),
        ("rl", "--pixels off --state on --encoder retina", "--encoder has no effect with --pixels off"),
        (
            "rl",
            "--pixels off --state on --head 32 --shift noise --compress 8",
            "--compress, --head and --shift have no effect with --pixels off, where no image is seen. Drop --pixels "
            "off, or drop them.",
        ),
        ("rl", "--env-set a=1 a=2", "--env-set was given a 2 times"),
    ],
)
def test_a_flag_without_effect_is_refused(command: str, words: str, sentence: str) -> None:
    with pytest.raises((EncoderError, RunError)) as caught:
        effect(command, words)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("rl", "--replay-dtype float32 --algo dqn"),
        ("rl", "--replay-dtype float32 --algo dqn --mode finetune --unfreeze layer2"),
        ("rl", "--mode finetune --unfreeze layer2 --engine eager --in-policy --encoder-lr 0.5 --adapt norm"),
        ("rl", "--mode frozen --in-policy --compress 8 --weights-folder x"),
        ("cifar", "--mode frozen --data x --head knn"),
        ("cifar", "--mode frozen --crop 0 --no-flip --mixup 0"),
        ("cifar-throughput", "--mode frozen --epochs 3 --images 1000 --others knn"),
        ("cifar-throughput", "--updates 3 --batch 8 --crop 2"),
        ("cifar", "--dataset . --skip-broken 0.1"),
    ],
)
def test_a_flag_with_effect_is_taken(command: str, words: str) -> None:
    effect(command, words)


def test_a_run_that_goes_on_takes_no_other_flags(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rl", "--resume", str(trained), "--seed", "1"]) == 2
    sentence = f"stillsight: The run in {trained} goes on as it began, and not with --seed 1 (it has 0)."
    assert capsys.readouterr().err.startswith(sentence)


# Help.


def test_the_list_of_commands_fits_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["--help"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_a_reader_that_has_seen_enough_is_no_traceback(root: Path) -> None:
    program = "import sys; from stillsight.agents.cli import main; sys.exit(main(['rl', '--help']))"
    shell = f"{shlex.quote(sys.executable)} -c {shlex.quote(program)} | true"
    result = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, cwd=root)
    assert result.stderr == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_narrow_terminal_and_shows_every_flag(name: str) -> None:
    line = command_line(name)
    shown = line.help("What it does.", COMMANDS[name].examples, width=80)
    assert max(map(len, shown.splitlines())) <= 80
    assert "None" not in shown
    for flag in line.flags:
        assert f"\n  {flag.word}" in shown
        assert flag.help, f"{flag.word} says nothing"


@pytest.mark.parametrize(
    ("name", "headings"),
    [
        (
            "rl",
            ["encoder", "environment", "algorithm", "head, and how the encoder learns and runs", "evaluation", "run"],
        ),
        (
            "cifar",
            [
                *("data", "encoder", "head on frozen features", "training, where the encoder learns", "augmentation"),
                "run",
            ],
        ),
    ],
)
def test_help_is_grouped(name: str, headings: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    shown = [line[:-1] for line in capsys.readouterr().out.splitlines() if line.endswith(":") and line[0] != " "]
    assert shown == ["examples", *headings]
    group = {flag.field: flag.group for flag in command_line(name).flags}
    assert group["seed"] == group["device"] == group["out"] == group["precision"] == "run"
    assert group["tap"] == "encoder"
    assert len(COMMANDS[name].examples) == 3


@pytest.mark.parametrize(("name", "example"), [(name, text) for name in COMMANDS for text in COMMANDS[name].examples])
def test_examples_are_right(name: str, example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    parsed = command_line(name).parse(shlex.split(example))
    for config in parsed.configs:
        if hasattr(config, "check"):
            config.check()
        if hasattr(config, "check_given"):
            config.check_given(parsed.given)


def test_what_every_readme_shows_has_an_effect(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("photos", "results/runs/second"):
        (tmp_path / folder).mkdir(parents=True)
    readmes = [
        root / "README.md",
        *(path for room in ("agents", "encoders") for path in (root / room).rglob("README.md")),
    ]
    blocks = [block for path in readmes for block in re.findall(r"```sh\n(.*?)```", path.read_text(), flags=re.DOTALL)]
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("stillsight ")]
    assert len(lines) > 30
    for line in lines:
        _, name, *words = shlex.split(line, comments=True)
        if "--help" not in words:
            parsed = command_line(name).parse(words)
            for config in parsed.configs:
                if hasattr(config, "check_given") and "my_encoders" not in line:
                    config.check_given(parsed.given)


def test_an_example_that_is_broken_over_lines_can_be_pasted() -> None:
    shown = command_line("rl").help("", COMMANDS["rl"].examples, width=60)
    block = shown.split("examples:\n")[1].split("\n\n")[0].replace("\\\n", " ")
    assert [shlex.split(line)[2:] for line in block.splitlines()] == [shlex.split(t) for t in COMMANDS["rl"].examples]


@dataclass(frozen=True, kw_only=True)
class Base:
    count: int = 20_000
    """How many."""
    flip: bool = True
    """Mirror half of the images."""


@dataclass(frozen=True, kw_only=True)
class Odd(Base):
    kinds: tuple[Literal["a", "b"], ...] = ("a",)
    """Which
    kinds."""
    quick: bool = False
    """Be quick."""
    count: int = 3
    """How many more."""


def test_help_says_what_a_switch_does_and_what_holds_without_it() -> None:
    shown = CommandLine("x", [Positional("run", Path, "RUN", "A run.")], [Odd]).help("Do it.", width=80)
    assert shown == (
        "usage: x RUN [FLAGS]\n\nDo it.\n\n  RUN                   A run.\n\nflags:\n"
        "  --count N             How many more. (default: 3)\n"
        "  --flip, --no-flip     Mirror half of the images. (default: --flip)\n"
        "  --kinds {a,b} [{a,b} ...]\n"
        "                        Which kinds. (default: a)\n"
        "  --quick               Be quick."
    )


def test_a_type_that_no_flag_can_be_of_is_found_at_once() -> None:
    @dataclass(frozen=True)
    class Wrong:
        table: dict[str, int] | None = None

    Wrong.__annotations__["table"] = dict[str, int]
    with pytest.raises(TypeError, match="A flag cannot be of type"):
        flags(Wrong)


def test_every_group_begins_with_a_field() -> None:
    for config in (RlConfig, CifarConfig):
        assert set(config.GROUPS) <= {item.name for item in fields(config)}
