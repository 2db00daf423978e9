"""The command line: a mistake is one sentence, exit code 2, and nothing written; and it is found before torch loads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from stillsight.agents import RlConfig
from stillsight.agents.cli import COMMANDS, main
from stillsight.agents.errors import RunError
from stillsight.agents.training.algorithms import ALGORITHMS
from stillsight.encoders import ENCODERS, Mode
from stillsight.envs import ROWS

SMALL = ["--size", "16", "--tap", "layer1", "--pooling", "grid2", "--steps", "32", "--n-envs", "2", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs go to results/runs of the working directory: here, one of its own for each test."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def refused(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail, check how, and return its sentence."""
    before = sorted(map(str, Path().rglob("*")))
    capsys.readouterr()
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    assert len(captured.err.splitlines()) == 1, captured.err
    assert captured.err.startswith("stillsight: ")
    assert sorted(map(str, Path().rglob("*"))) == before, "nothing is written"
    return captured.err


def nearest(found: str, near: str) -> str:
    return f"{found!r}. Did you mean {near!r}?"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("trian", "There is no command named 'trian'"),
        ("evalute x", nearest("evalute", "evaluate")),
        ("rl --env ALE/Pon-v5", nearest("ALE/Pon-v5", "ALE/Pong-v5")),
        ("rl --env stillsight/Orchad-v0", nearest("stillsight/Orchad-v0", "stillsight/Orchard-v0")),
        ("rl --env nowhere:My-v0", "The module 'nowhere' of 'nowhere:My-v0' cannot be found"),
        ("rl --encoder resnet81", nearest("resnet81", "resnet18")),
        ("rl --algo pppo", nearest("pppo", "ppo")),
        ("rl --algo nowhere:Class", "comes from nowhere, which cannot be imported"),
        ("rl --algo stable_baselines3:PPP", "has no class 'PPP'"),
        ("rl --algo pathlib:Path", "is no Stable-Baselines3 algorithm"),
        ("rl --tap layer9", "There is no stage named 'layer9'"),
        ("rl --pooling grod4", "There is no pooling named 'grod4'"),
        ("rl --pooling grid99", "There is no pooling named 'grid99'"),
        ("rl --mode finetune --unfreeze layer9", "There is no stage named 'layer9'"),
        ("rl --mode finetune --tap layer1 --unfreeze layer2", "There is no stage named 'layer2'"),
        ("rl --unfreeze layer2", "--mode frozen trains none"),
        ("rl --mode random --weights x.pth", "--weights has no use"),
        ("rl --encoder nature", "nature has no pretrained weights. Type --mode scratch"),
        ("rl --algo sac", "sac needs continuous actions, and stillsight/Orchard-v0 has discrete ones. Allowed here:"),
        ("rl --algo dqn --env stillsight/OrchardContinuous-v0", "dqn needs discrete actions"),
        ("rl --encoder nature --mode scratch --size 16", "nature needs images of at least 36 px to reach conv3"),
        ("rl --encoder vit_b_16 --mode random --size 20 --pooling cls", "20 px is not a multiple of that"),
        ("rl --size 5", "An observation of size 5 was asked for"),
        ("rl --frame-skip 0", "A frame skip of 0"),
        ("rl --set n_step=5", nearest("n_step", "n_steps")),
        ("rl --set policy=CnnPolicy", "There is no setting named 'policy'"),
        ("rl --set n_steps", "--set takes name=value, and got 'n_steps'"),
        ("rl --set =5", "--set takes name=value"),
        ("rl --env-set continuous", "--env-set takes name=value"),
        ("rl --steps 0", "--steps 0 is too small. Type a number from 1"),
        ("rl --n-envs 0", "--n-envs 0 is too small"),
        ("rl --frame-stack 0", "--frame-stack 0 is too small"),
        ("rl --eval-episodes 0", "--eval-episodes 0 is too small"),
        ("rl --resume gone", "gone is no run folder: it has no config.json"),
        ("rl --mode scratch --device tpu", "There is no device 'tpu'"),
        ("rl --mode scratch --threads 0", "--threads 0 computes nothing"),
        ("rl --encoder resnet18 --weights gone.pth", "There is no file gone.pth"),
        ("rl --encoder resnet18 --weights-folder gone", "There is no folder gone"),
        ("rl --encoder retina --mode scratch --size 16 --tap layer3 --pooling grid4", "coarser than --pooling grid4"),
        ("rl --mode random --pooling cls", "has no class token"),
        ("rl --mode scratch --env-set colour=red", "does not take the arguments colour='red'"),
        ("evaluate gone", "gone is no run folder"),
        ("record gone", "gone is no run folder"),
        ("evaluate gone --episodes 0", "--episodes 0 plays nothing"),
        ("record gone --fps 0", "--fps 0 shows nothing"),
        ("plot gone", "gone is no run folder"),
        ("cifar --encoder resnet81", nearest("resnet81", "resnet18")),
    ],
)
def test_a_mistake_is_one_sentence(arguments: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sentence in refused(arguments.split(), capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        "rl --mode scratch --set learning_rate=lin_fast",
        "rl --mode scratch --set learning_rate=fast",
        "rl --mode scratch --set n_steps=many",
        "rl --mode scratch --set n_steps=0",
        "rl --mode scratch --algo dqn --set optimize_memory_usage=True",
        "rl --mode scratch --algo dqn --set buffer_size=lots",
    ],
)
def test_a_value_that_cannot_be_is_one_sentence_too(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    # T15 among them: optimize_memory_usage.
    refused([*arguments.split(), *SMALL], capsys)


@pytest.mark.parametrize("name", ["eval_every", "checkpoint_every"])
def test_a_negative_distance_is_refused(name: str) -> None:
    # It would not fail but evaluate after every single step.
    changes: dict[str, Any] = {name: -1}
    with pytest.raises(RunError, match="too small"):
        RlConfig(mode=Mode.RANDOM, **changes).check()


def test_rows_that_act_in_both_kinds_of_environment_are_not_refused(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "rl",
        "--env",
        "stillsight/OrchardContinuous-v0",
        "--mode",
        "random",
        "--set",
        "n_steps=16",
        "batch_size=16",
    ]
    assert main([*arguments, *SMALL, "--eval-episodes", "1", "--max-episode-steps", "10"]) == 0
    (folder,) = Path("results/runs").glob("orchardcontinuous-v0-ppo-retina-random-*-seed0")
    assert (folder / "done").exists()
    shown = " ".join(capsys.readouterr().out.split())
    assert f"stillsight record {folder}" in shown


def test_a_folder_that_exists_is_not_overwritten(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = trained / "config.json"
    before = config.read_bytes()
    arguments = ["rl", "--mode", "random", "--out", str(trained)]
    assert "holds a finished run" in refused(arguments, capsys)
    assert "Choose another folder with --out" in refused(arguments, capsys)
    (trained / "done").unlink()
    sentence = refused(arguments, capsys)
    # --resume would go on with what lies there, and this is something else.
    assert "already exists, and holds another experiment (" in sentence
    assert "mode 'frozen' and not 'random'" in sentence
    assert "--resume" not in sentence
    assert config.read_bytes() == before


def test_a_finished_run_cannot_be_resumed(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"is finished. Record it with: stillsight record {trained}" in refused(
        ["rl", "--resume", str(trained)], capsys
    )


@pytest.mark.parametrize("algo", [row.name for row in ALGORITHMS.values() if row.extra])
def test_a_missing_extra_is_named(
    algo: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    continuous = "continuous" in ALGORITHMS[algo].actions and "discrete" not in ALGORITHMS[algo].actions
    env = "stillsight/OrchardContinuous-v0" if continuous else "stillsight/Orchard-v0"
    sentence = refused(["rl", "--env", env, "--algo", algo, "--mode", "random"], capsys)
    assert 'Run: pip install "stillsight[contrib]"' in sentence


def test_missing_tensorboard_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    sentence = refused(["rl", "--tensorboard", "--mode", "random", *SMALL], capsys)
    assert 'pip install "stillsight[tensorboard]"' in sentence


def test_damaged_weights_are_a_sentence(resnet_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = Path("broken.pth")
    whole = resnet_file.read_bytes()
    command = ["rl", "--encoder", "resnet18", "--weights", str(broken)]
    broken.write_bytes(whole[: len(whole) // 2])
    assert "broken.pth is damaged" in refused(command, capsys)
    broken.write_bytes(b"no weights at all")
    assert "broken.pth is no weights file, or damaged from its first byte on." in refused(command, capsys)
    state = torch.load(resnet_file, weights_only=True)
    save_file({**state, "conv1.weight": torch.full((64, 3, 7, 7), float("nan"))}, "nan.safetensors")
    assert "holds values that are not finite" in refused([*command[:-1], "nan.safetensors"], capsys)
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7)}, "part.safetensors")
    assert "lack bn1.weight" in refused([*command[:-1], "part.safetensors"], capsys)


@pytest.mark.parametrize("command", ["evaluate", "record"])
def test_a_damaged_checkpoint_is_a_sentence(trained: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    best = trained / "checkpoints" / "best.safetensors"
    best.write_bytes(best.read_bytes()[:-10])
    before = sorted(trained.rglob("*"))
    rest = ["--episodes", "1", "--device", "cpu"]
    sentence = refused([command, str(trained), "--checkpoint", "best", *rest], capsys)
    assert "best.safetensors is damaged or incomplete" in sentence
    assert "Good are last (step 96): --checkpoint last." in sentence
    assert sorted(trained.rglob("*")) == before
    assert main([command, str(trained), "--checkpoint", "last", *rest]) == 0
    capsys.readouterr()
    assert main([command, str(trained), *rest]) == 0
    said = capsys.readouterr().err
    assert "best.safetensors is damaged or incomplete" in said
    assert "Taken in its place: last (step 96)." in said


@pytest.mark.parametrize("command", ["evaluate", "record"])
def test_a_name_of_no_checkpoint_is_a_sentence(trained: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = refused([command, str(trained), "--checkpoint", "latest"], capsys)
    assert "'latest' is no name of a checkpoint. Type best, last, or the steps of one that --keep kept" in sentence
    sentence = refused([command, str(trained), "--checkpoint", "40_000", "--device", "cpu"], capsys)
    assert f"There is no checkpoint 40000 in {trained}. It has: best (step " in sentence
    assert sentence.rstrip().endswith("last (step 96).")


def test_flags_and_values_that_do_not_exist_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ("rl --stepz 5", "rl --steps many", "rl --mode frosen", "list encodrs", "record"):
        assert main(arguments.split()) == 2
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        assert captured.err
    assert not list(Path().iterdir())


def test_usage_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in COMMANDS)
    assert main([]) == 2
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("stillsight 0.")


@pytest.mark.parametrize(("what", "rows"), [("encoders", ENCODERS), ("envs", ROWS), ("algos", ALGORITHMS)])
def test_lists_show_every_row(what: str, rows: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", what]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert all(any(line.startswith(f"{name} ") for line in shown) for name in rows)


def test_the_list_of_environments_shows_the_size_that_each_is_seen_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "envs"]) == 0
    sizes = {line.split()[0]: line.split()[2] for line in capsys.readouterr().out.splitlines()[1:-1]}
    assert sizes == {name: str(row.options.size or "native") for name, row in ROWS.items()}
    assert (sizes["ALE/Pong-v5"], sizes["stillsight/Orchard-v0"]) == ("84", "native")


def test_the_list_of_runs_shows_each_with_its_state(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "runs"]) == 0
    assert "No runs in results/runs" in capsys.readouterr().out
    stopped, broken, other = (trained.parent / name for name in ("stopped", "broken", "other"))
    for folder, text in ((stopped, (trained / "config.json").read_text()), (broken, "{"), (other, "{}")):
        folder.mkdir()
        (folder / "config.json").write_text(text)
    (stopped / "episodes.jsonl").write_text('{"step": 40, "return": 1}\n{"step": 64, "return": 1}\n{"step": 7')
    probe, tuned = trained.parent / "probe", trained.parent / "tuned"
    for folder, mode in ((probe, "frozen"), (tuned, "scratch")):
        folder.mkdir()
        record = {"command": "cifar", "dataset": "cifar10", "encoder": "retina", "mode": mode, "seed": 3, "epochs": 30}
        (folder / "config.json").write_text(json.dumps({**record, "head": "knn", "optimizer": "sgd"}))
        (folder / "machine.json").write_text('{"sessions": [{"date": "2025-02-03T04:05:06Z"}, {"date": "2026"}]}')
    (tuned / "metrics.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n')
    assert main(["list", "runs", "--folder", str(trained.parent)]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert " done " in lines[str(trained)]
    assert "retina frozen" in lines[str(trained)]
    assert " unfinished " in lines[str(stopped)]
    assert " damaged" in lines[str(broken)]
    assert " damaged" in lines[str(other)]
    words = {name: line.split()[1:] for name, line in lines.items()}
    began = json.loads((trained / "machine.json").read_text())["sessions"][0]["date"][:10]
    assert words[str(trained)][:8] == [
        *("done", "stillsight/Orchard-v0", "ppo", "retina", "frozen", "0", "96", began),
    ]
    assert words[str(stopped)][2:] == ["ppo", "retina", "frozen", "0", "64", "of", "96"]
    assert words[str(probe)][1:] == ["cifar10", "knn", "head", "retina", "frozen", "3", "2025-02-03"]
    assert words[str(tuned)][1:] == [
        *("cifar10", "sgd", "retina", "scratch", "3", "2", "of", "30", "epochs", "2025-02-03"),
    ]


def test_evaluate_prints_one_json_object(trained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", str(trained), "--episodes", "2", "--random-episodes", "1", "--device", "cpu", "--json"]
    capfd.readouterr()
    assert main(words) == 0
    captured = capfd.readouterr()
    result = json.loads(captured.out)
    assert len(result["returns"]) == 2
    assert result["mean"] == sum(result["returns"]) / 2
    assert set(result) >= {"checkpoint", "std", "seed", "random"}
    assert json.loads((trained / "evaluations.jsonl").read_text().splitlines()[-1]) == result
    assert f"best of {trained}" in " ".join(captured.err.split()), "a person reads along on the other stream"


SHOWING = """
import subprocess, sys
from stillsight.agents.cli import main

code = main()
print("child:", flush=True)
subprocess.run([sys.executable, "-c", "print('1 \\u00b1 2 \\u7ed3')"], check=True)
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("encoding", "name", "child"),
    [("ascii", "?t? ??", "1 ? 2 ?"), ("cp1252", "été ??", "1 ± 2 ?"), ("utf-8", "été 结果", "1 ± 2 结")],
)
def test_what_a_terminal_cannot_show_ends_nothing(
    trained: Path, tmp_path: Path, encoding: str, name: str, child: str
) -> None:
    """A folder's name, the sign between a mean and its spread, and the same in a process that was started."""
    folder = shutil.copytree(trained, tmp_path / "été 结果")
    words = ["evaluate", str(folder), "--episodes", "1", "--random-episodes", "0", "--device", "cpu"]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", SHOWING, *words], capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr.decode(encoding)
    shown = " ".join(done.stdout.decode(encoding).split())
    assert f"best of {tmp_path}/{name} " in shown
    assert f" {child[2]} 0.00 over 1 episode" in shown
    assert shown.endswith(f" child: {child}")


LIGHT = """
import contextlib, io, sys
from stillsight.agents.cli import COMMANDS, main

def heavy():
    return [name for name in ("torch", "torchvision", "stable_baselines3", "cv2") if name in sys.modules]

cases = [["--help"], ["rl", "--env", "ALE/Pon-v5"], ["rl", "--stepz", "5"], ["rl", "--encoder", "resnet81"],
         ["rl", "--algo", "pppo"], ["rl", "--algo", "sac"], ["rl", "--pooling", "grod4"], ["rl", "--tap", "layer9"],
         ["rl", "--size", "5"], ["rl", "--steps", "0"], ["rl", "--resume", "gone"], ["rl", "--set", "n_steps"],
         ["evaluate", "gone"], ["record", "gone"], ["cifar", "--encoder", "resnet81"], ["list", "encoders"],
         ["list", "envs"], ["list", "algos"], ["list", "runs"], *([name, "--help"] for name in COMMANDS)]
assert not heavy(), heavy()
for case in cases:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            code = main(case)
        except SystemExit as stop:
            code = stop.code or 0
    shown = out.getvalue() + err.getvalue()
    assert code == (0 if "--help" in case or case[0] == "list" else 2), (case, code, shown)
    assert shown and "Traceback" not in shown, (case, shown)
    assert not heavy(), (case, heavy())
print("light")
"""


def test_nothing_heavy_is_imported_before_arguments_are_checked() -> None:
    result = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("light\n", "")


def test_an_agent_s_commands_wait_for_no_statistics() -> None:
    """scikit-learn and scipy.stats, seconds of each process: they are a classifier's, and a report's."""
    late = ("sklearn", "scipy.stats", "matplotlib", "pandas")
    code = f"""
import sys, stillsight.agents.benchmark.running.worker, stillsight.agents.playing.video
print([name for name in {late} if name in sys.modules])
import stillsight.encoders.supervised.report.scores as scores, numpy as np
scores.confusion(np.zeros(1, int), np.zeros(1, int), 2)
print("sklearn" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\nTrue\n"


def test_the_installed_command_exits_with_2_and_one_line() -> None:
    script = Path(sys.executable).with_name("stillsight")
    if not script.exists():
        pytest.skip("stillsight is not installed as a command here")
    result = subprocess.run([script, "rl", "--env", "ALE/Pon-v5"], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("stillsight: No environment is called 'ALE/Pon-v5'. Did you mean 'ALE/Pong-v5'?")
    assert len(result.stderr.splitlines()) == 1
    assert not list(Path().iterdir())
