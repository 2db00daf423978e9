"""Opening a stranger's files: nothing that they name is imported, run or written to, and whatever they hold is read or
refused in one sentence."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import shlex
import shutil
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from stillsight.agents import RlConfig, load, rl
from stillsight.agents.benchmark.benchmark_config import ReportConfig
from stillsight.agents.benchmark.grid.parse import parse_spec, read_spec
from stillsight.agents.benchmark.report.report import report
from stillsight.agents.benchmark.running import local
from stillsight.agents.benchmark.running.results import Results
from stillsight.agents.benchmark.running.worker import run_cell
from stillsight.agents.cli import main
from stillsight.agents.errors import CheckpointError, RunError
from stillsight.agents.playing import classify
from stillsight.agents.runs import plots, reader, schema, trust
from stillsight.agents.runs.records import read_lines, revive
from stillsight.agents.runs.spaces import Spaces
from stillsight.agents.runs.trust import PLACES, RULES, Trust, open_run, read_run
from stillsight.agents.training import callbacks
from stillsight.agents.training.cifar import cifar
from stillsight.encoders import EncoderError
from stillsight.encoders.supervised.cifar_config import CifarConfig
from stillsight.envs import EnvError

pytestmark = pytest.mark.usefixtures("settings_restored")

OURS = (RunError, EncoderError, EnvError)
"""The errors that are printed as one sentence, with the exit code 2."""

EVIL = "evil_marker:go"
MODULE = """
import pathlib
pathlib.Path(__file__).with_name("MARKER").write_text("imported")
def go(*args, **kwargs):
    pathlib.Path(__file__).with_name("MARKER").write_text("called")
"""


def mutants(content: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Damaged copies of a file: bytes flipped, cut, doubled and put in, and, of JSON and TOML, values put in the place
    of others: of other types, out of every range, nested deep, of thousands of digits, no UTF-8."""
    chance = random.Random(seed)
    values = [
        *(b"-1", b"0", b"1e999", b"1e308", b"-1e308", b"NaN", b"null", b"true", b"[]", b"{}", b'""', b"99999999999999"),
        *(b"9" * 30, b"9" * 5_000, b"[" * 20_000, b'{"a":' * 5_000, b"[[[[1]]]]", b'{"a": {"b": [1]}}', b'"\xff\xfe"'),
        *(b'"../../../../tmp/x"', b'"evil_marker:go"', b'"\\u001b[31m"', b'"\\udcff"', b'"[/red]"', b"inf", b"nan"),
        *(b'"x=y"', b'"' + b"x" * 10_000 + b'"', b"1979-05-27", b"0x10", b'"grid99999"', b'"cuda:99"', b"[1, 'a']"),
    ]
    places = [index for index, byte in enumerate(content) if byte in b":=,[" and index + 1 < len(content)] or [0]
    for _ in range(count):
        damaged = bytearray(content)
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            kind, at = chance.randrange(7), chance.randrange(max(1, len(damaged)))
            if kind == 0 and damaged:
                damaged[at] ^= 1 << chance.randrange(8)
            elif kind == 1:
                del damaged[at:]
            elif kind == 2:
                del damaged[at : at + chance.randrange(1, 40)]
            elif kind == 3:
                damaged[at:at] = damaged[max(0, at - 30) : at]
            elif kind == 4:
                damaged[at:at] = bytes(chance.randrange(256) for _ in range(chance.randrange(1, 8)))
            else:  # a value, up to the comma or the end of the line
                start = min(chance.choice(places) + 1, len(damaged))
                ends = [found for mark in (b",", b"\n", b"}", b"]") if (found := damaged.find(mark, start)) >= 0]
                damaged[start : min(ends, default=len(damaged))] = b" " + chance.choice(values)
        yield bytes(damaged)


def leaves(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to every text and every null in JSON."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from leaves(value, (*path, index))
    elif node is None or isinstance(node, str):
        yield path


def planted(node: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of JSON with another value at `path`."""
    copy = json.loads(json.dumps(node))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return copy


@pytest.fixture(scope="module")
def _classifier(paint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cifar") / "run"
    config = CifarConfig(
        dataset=str(paint),
        cache=folder.parent / "cache",
        mode="random",
        tap="layer1",
        crop=0,
        threads=1,
        device="cpu",
        out=folder,
        shots=5,
    )
    cifar(config)
    return folder


@pytest.fixture
def classifier(_classifier: Path, tmp_path: Path) -> Path:
    """The folder of a finished cifar run; a copy, so that a test may break it."""
    return Path(shutil.copytree(_classifier, tmp_path / "classifier"))


@pytest.fixture(scope="module")
def _stopped(tiny: Callable[..., RlConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:

        def stop(self: callbacks.Episodes) -> bool:
            if self.num_timesteps > 70:
                raise KeyboardInterrupt
            return True

        patch.setattr(callbacks.Episodes, "_on_step", stop)
        with pytest.raises(BaseException):  # noqa: B017, PT011 - however a stop is told
            rl(tiny("ppo", checkpoint_every=32, out=folder, mode="random", weights=None))
    assert (folder / "checkpoints" / "last.safetensors").exists()
    return folder


@pytest.fixture
def stopped(_stopped: Path, tmp_path: Path) -> Path:
    """The folder of a run that was stopped after a checkpoint; a copy."""
    return Path(shutil.copytree(_stopped, tmp_path / "stopped"))


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module that leaves a file where it is imported, in the current folder and on Python's path: whatever imports
    it finds it. The test fails where the file is there at its end."""
    here = tmp_path / "here"
    here.mkdir()
    (here / "evil_marker.py").write_text(MODULE)
    (here / "conftest.py").write_text(MODULE)
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(str(here))
    yield here / "MARKER"
    assert not (here / "MARKER").exists(), "a file's word was imported"
    assert "evil_marker" not in sys.modules


def refused_or_done(capsys: pytest.CaptureFixture[str], *words: object) -> int:
    """Run a command that may refuse, in one sentence, and must not fall."""
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    assert code in (0, 2), captured.err
    return code


# What a file may ask for


def test_every_field_of_text_has_a_rule() -> None:
    for kind in (RlConfig, CifarConfig):
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            parts = {hints[field.name], *typing.get_args(hints[field.name])}
            if parts & {str, Path} and field.name not in PLACES:
                assert field.name in RULES, field.name


@pytest.mark.parametrize(
    ("values", "asked"),
    [
        ({"encoder": EVIL}, EVIL),
        ({"encoder": "http.server:test"}, "http.server:test"),
        ({"encoder": "results.runs.X.evil:go"}, "results.runs.X.evil:go"),
        ({"algo": "pytest:main"}, "pytest:main"),
        ({"algo": "stable_baselines3:PPO"}, "stable_baselines3:PPO"),
        ({"env": "evil:ALE/Pong-v5"}, "evil:ALE/Pong-v5"),
        ({"env": "FrozenLake-v1"}, "FrozenLake-v1"),
        ({"env": "ALE/Pong-v5", "env_set": ("game=pong",)}, "game=pong"),
        ({"env": "Ant-v4", "env_set": ("xml_file='/tmp/x.xml'",)}, "Ant-v4"),
        ({"env": "Ant-v5", "env_set": ("xml_file=/tmp/x.xml",)}, "xml_file=/tmp/x.xml"),
        ({"env": "dm_control/walker-walk-v0", "env_set": ("camera=/tmp/x",)}, "camera=/tmp/x"),
        ({"env": "retro/Airstriker-Genesis-v0", "env_set": ("state=../../x",)}, "state=../../x"),
        ({"env": "highway-v0", "env_set": ("config=x",)}, "config=x"),
        ({"env": "VizdoomBasic-v1", "env_set": ("doom_game_path=/tmp/x",)}, "doom_game_path=/tmp/x"),
        ({"env": "VizdoomBasic-v1", "env_set": ("screen_resolution=/tmp/x",)}, "screen_resolution=/tmp/x"),
        ({"env": "CarRacing-v3", "env_set": ("continuous='x'",)}, "continuous='x'"),
        ({"set": ("rollout_buffer_class=x",)}, "rollout_buffer_class=x"),
        ({"set": ("learning_rate=/etc/passwd",)}, "learning_rate=/etc/passwd"),
        ({"dataset": "cifar10", "data": Path("/nowhere/x")}, "/nowhere/x"),
        ({"cache": Path("/nowhere/x")}, "/nowhere/x"),
        ({"shift": "overlay:0.3@/nowhere/my films"}, "/nowhere/my films"),
        ({"eval_shift": "noise+background@x"}, "x"),
        ({"a_new_field": "/nowhere/x"}, "a_new_field=/nowhere/x"),
    ],
)
def test_what_is_on_no_list_is_refused_and_can_be_allowed(values: dict[str, Any], asked: str) -> None:
    with pytest.raises(RunError) as refused:
        Trust().check(values, "results/runs/x")
    assert str(refused.value).startswith("results/runs/x asks for ")
    assert " --trust " in str(refused.value)
    assert asked in str(refused.value)
    named = str(refused.value).rpartition(" --trust ")[2].removesuffix(".")
    names = tuple(shlex.split(named))
    assert asked in names
    Trust(names).check(values, "results/runs/x")
    with pytest.raises(RunError):
        Trust(tuple(f"{name}x" for name in names)).check(values, "results/runs/x")


@pytest.mark.parametrize(
    "values",
    [
        {"encoder": "retina", "algo": "ppo", "env": "stillsight/Orchard-v0", "env_set": ("continuous=True",)},
        {"env": "ALE/Pong-v5", "env_set": ("mode=0", "difficulty=1", "repeat_action_probability=0.0")},
        {"env": "ALE/Zaxxon-v5", "env_set": ("full_action_space=True",)},
        {"env": "CarRacing-v3", "env_set": ("continuous=False", "lap_complete_percent=0.9", "domain_randomize=True")},
        {"env": "VizdoomBasic-v1", "env_set": ("screen_resolution=RES_320X240", "doom_skill=5")},
        {"env": "Pendulum-v1", "env_set": ("g=9.81",)},
        {"env": "Ant-v5", "env_set": ("width=84", "height=84")},
        {"env": "dm_control/walker-walk-v0", "env_set": ("camera='side, 1'",)},
        {"env": "MiniGrid-Empty-5x5-v0", "env_set": ("view=full", "tile_size=12")},
        {"env": "highway-v0", "env_set": ("vehicles_count=20", "scaling=2.5")},
        {"set": ("learning_rate='lin_1e-3'", "train_freq=(1, 'episode')", "gamma=0.95", "n_steps=128")},
        {"dataset": "cifar10", "data": Path("data"), "cache": Path("data/features")},
        {"shift": "hue:0.5+noise:0.25", "eval_shift": "none"},
        {"engine": "folded", "workers": "off", "tap": "features.3", "device": "cuda:1"},
    ],
)
def test_what_the_registries_and_suites_know_is_taken(values: dict[str, Any]) -> None:
    assert Trust().check(values, "a file") == ()
    assert (
        trust.flags(
            RlConfig(
                mode="random",
                **{k: v for k, v in values.items() if k in RULES and k not in ("dataset", "data", "cache")},
            )
        )
        == ""
    )  # type: ignore[arg-type]


def test_a_refusal_names_all_that_is_asked_for_at_once() -> None:
    text = (
        SPEC.replace('"retina"', f'"{EVIL}"').replace('["ppo"]', '["ppo", "a:B"]').replace("stillsight/Orch", "x:Orch")
    )
    with pytest.raises(RunError) as refused:
        parse_spec(text)
    assert str(refused.value).endswith(f"--trust x:Orchard-v0 {EVIL} a:B.")


def test_a_folder_that_is_a_cache_already_is_written_to(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (cache / f"retina-{'0' * 24}").mkdir(parents=True)
    Trust().check({"cache": cache}, "a file")
    (cache / "letters").mkdir()
    with pytest.raises(RunError, match="to write features into"):
        Trust().check({"cache": cache}, "a file")
    Trust((os.path.relpath(cache),)).check({"cache": cache}, "a file")


def test_files_elsewhere_that_are_read_are_told(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = json.loads((trained / "config.json").read_text())["weights"]
    opened = open_run(trained)
    assert opened.word == f"{trained} names files elsewhere, which are read: weights {weights}."
    assert open_run(trained, weights=Path(weights)).word == "", "what was typed is known"
    words = ["evaluate", str(trained), "--episodes", "1", "--random-episodes", "0", "--device", "cpu"]
    assert main(words) == 0
    assert opened.word in capsys.readouterr().out
    assert opened.config.out is opened.config.resume is None


def test_a_file_does_not_vouch_for_itself(trained: Path, marker: Path) -> None:
    config = trained / "config.json"
    assert "trust" not in json.loads(config.read_text())
    config.write_text(json.dumps({**json.loads(config.read_text()), "encoder": EVIL, "trust": [EVIL]}))
    with pytest.raises(RunError, match=f"--trust {EVIL}"):
        load(trained)
    for words in ('trust = ["evil_marker:go"]\n', '[rl]\ntrust = ["evil_marker:go"]\n'):
        with pytest.raises(RunError, match="trust"):
            parse_spec(f'{words}[[task]]\nenv = "stillsight/Orchard-v0"\n[[encoder]]\nencoder = "{EVIL}"\n')
    assert not marker.exists()


# Markers behind every text of every file


COMMANDS = {
    "evaluate": ("--episodes", "1", "--random-episodes", "0", "--device", "cpu"),
    "record": ("--episodes", "1", "--device", "cpu", "--max-steps", "3"),
}


def test_no_text_of_an_agent_s_config_is_imported(
    trained: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.loads((trained / "config.json").read_text())
    for path in [*leaves(record), *(("env_set", 0), ("new_field",))]:
        for value in (EVIL, f"x={EVIL}"):
            changed = {**record, "env_set": ["x"]} if path == ("env_set", 0) else record
            (trained / "config.json").write_text(json.dumps(planted(changed, path, value)))
            (trained / "done").touch()
            codes = [refused_or_done(capsys, name, trained, *words) for name, words in COMMANDS.items()]
            for words in (["list", "runs", "--folder", trained.parent], ["plot", trained, "--out", trained / "c.png"]):
                refused_or_done(capsys, *words)
            (trained / "done").unlink()
            codes.append(refused_or_done(capsys, "rl", "--resume", trained))
            if path[0] in ("encoder", "env", "algo"):
                assert codes == [2, 2, 2], (path, value)
            assert not marker.exists(), (path, value)
            with contextlib.suppress(*OURS):
                load(trained, device="cpu")
            assert not marker.exists(), (path, value)


@pytest.mark.parametrize("name", ["spaces.json", "machine.json", "summary.json"])
def test_no_text_of_an_agent_s_other_files_is_imported(
    trained: Path, marker: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.loads((trained / name).read_text())
    paths = list(leaves(record))
    for path in paths if name == "spaces.json" else []:
        (trained / name).write_text(json.dumps(planted(record, path, EVIL)))
        assert refused_or_done(capsys, "evaluate", trained, *COMMANDS["evaluate"]) == 2
    everywhere = record
    for path in paths:
        everywhere = planted(everywhere, path, EVIL)
    (trained / name).write_text(json.dumps(everywhere))
    for command, words in COMMANDS.items():
        refused_or_done(capsys, command, trained, *words)
    refused_or_done(capsys, "list", "runs", "--folder", trained.parent)
    refused_or_done(capsys, "plot", trained, "--out", trained / "c.png")
    assert not marker.exists()


def test_no_text_of_rows_and_checkpoints_is_imported(
    trained: Path, stopped: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (trained, stopped):
        for path in folder.glob("*.jsonl"):
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            path.write_text("".join(json.dumps({**row, "env": EVIL, "encoder": EVIL}) + "\n" for row in rows))
        for path in (folder / "checkpoints").glob("*.safetensors"):
            with safe_open(str(path), "pt") as file:
                header = dict(file.metadata())
            structure = json.loads(header["structure"])
            for place in leaves(structure):
                if place and place[-1] != "tensor" and not (len(place) > 1 and place[-1] == 0):  # no key
                    structure = planted(structure, place, EVIL)
            save_file(load_file(path), path, {**header, "structure": json.dumps(structure), "encoder": EVIL})
    for command, words in COMMANDS.items():
        refused_or_done(capsys, command, trained, *words)
    refused_or_done(capsys, "rl", "--resume", stopped)
    refused_or_done(capsys, "plot", trained, stopped, "--out", trained / "c.png")
    refused_or_done(capsys, "list", "runs", "--folder", trained.parent)
    assert not marker.exists()


def test_a_checkpoint_that_names_a_file_elsewhere_is_refused(tmp_path: Path) -> None:
    for name in ("../x", "/tmp/x", "a/b", "", ".x", "x\0", "replay-1/../../y"):
        with pytest.raises(CheckpointError, match="names no checkpoint"):
            reader.checkpoint_path(tmp_path, name)
    assert reader.checkpoint_path(tmp_path, "replay-128") == tmp_path / "checkpoints" / "replay-128.safetensors"


def test_no_text_of_a_classifier_s_files_is_imported(
    classifier: Path, paint: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = paint / "red" / "0.png"
    for name in ("config.json", "summary.json"):
        text = (classifier / name).read_text()
        record = json.loads(text)
        for path in leaves(record):
            (classifier / name).write_text(json.dumps(planted(record, path, EVIL)))
            codes = [refused_or_done(capsys, "predict", classifier, picture)]
            codes.append(refused_or_done(capsys, "evaluate", classifier, "--device", "cpu"))
            refused_or_done(capsys, "list", "runs", "--folder", classifier.parent)
            if name == "config.json":
                (classifier / "done").unlink(missing_ok=True)
                codes.append(refused_or_done(capsys, "cifar", "--resume", classifier))
                (classifier / "done").touch()
            if path == ("encoder",) and name == "config.json":
                assert codes == [2, 2, 2]
            assert not marker.exists(), (name, path)
        (classifier / name).write_text(text)
    assert refused_or_done(capsys, "predict", classifier, picture) == 0
    (classifier / "config.json").write_text(
        json.dumps({**json.loads((classifier / "config.json").read_text()), "encoder": EVIL})
    )
    with pytest.raises(RunError, match=f"--trust {EVIL}"):
        classify.load(classifier)


SPEC = """
name = "b"
seeds = [0]
algos = ["ppo"]
controls = ["random"]
shifts = ["noise"]
[rl]
steps = 64
set = ["n_steps=16"]
[[task]]
env = "stillsight/Orchard-v0"
label = "orchard"
[[encoder]]
encoder = "retina"
label = "eyes"
taps = ["stem"]
[[arm]]
name = "random"
role = "random"
encoder = "retina"
mode = "random"
track = "rl"
"""


def test_no_text_of_a_spec_is_imported(tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strings = SPEC.split('"')[1::2]
    spec = tmp_path / "SPEC.toml"
    refused = 0
    for number in range(len(strings)):
        parts = SPEC.split('"')
        parts[2 * number + 1] = EVIL
        spec.write_text('"'.join(parts))
        code = refused_or_done(capsys, "benchmark", spec, "--plan", "--no-trial", "--out", tmp_path / "b")
        refused += code == 2
        if strings[number] in ("ppo", "retina", "stillsight/Orchard-v0"):
            with pytest.raises(RunError, match=f"--trust .*{EVIL}"):
                read_spec(spec, check=False)
            with pytest.raises(RunError, match=f"--trust .*{EVIL}"):
                report(tmp_path, ReportConfig())
        assert not marker.exists(), strings[number]
    assert refused >= 5
    for line in ('weights = "x"', 'weights_folder = "x"', f'env_set = ["x={EVIL}"]', f'set = ["x={EVIL}"]'):
        spec.write_text(SPEC.replace("steps = 64", f"steps = 64\n{line}").replace('set = ["n_steps=16"]', ""))
        refused_or_done(capsys, "benchmark", spec, "--plan", "--no-trial", "--out", tmp_path / "b")


def test_pictures_that_a_file_names_are_shown_only_when_a_person_names_them(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import cv2

    photo = tmp_path / "photo.png"
    cv2.imwrite(str(photo), np.zeros((20, 20, 3), np.uint8))
    opened: list[str] = []
    monkeypatch.setattr("stillsight.envs.shifts.pictures.Pictures._sources", lambda self: opened.append(str(self.path)))
    asked = f"asks for the pictures {photo} to show an environment through. A file does not decide that"
    config = trained / "config.json"
    for field in ("shift", "eval_shift"):
        config.write_text(json.dumps({**json.loads(config.read_text()), field: f"overlay@{photo}"}))
        assert main(["evaluate", str(trained), "--episodes", "1"]) == 2
        assert asked in " ".join(capsys.readouterr().err.split())
    for line in (f'shifts = ["overlay@{photo}"]', 'shifts = ["noise"]'):
        given = SPEC.replace('shifts = ["noise"]', line)
        if line == 'shifts = ["noise"]':
            given = given.replace("steps = 64", f'steps = 64\nshift = "overlay@{photo}"')
        with pytest.raises(RunError, match="asks for the pictures"):
            parse_spec(given)
        parse_spec(given, trust=Trust((str(photo),)))
    (cell, *_) = parse_spec(SPEC).all_cells()
    record = json.loads(json.dumps(cell.to_json()))
    changed = type(cell).from_json(planted(record, ("work", "shifts", 0), f"overlay@{photo}"))
    ended = run_cell(changed, tmp_path / "runs")
    assert (ended.state, "asks for the pictures" in str(ended.error)) == ("failed", True)
    assert opened == []


def test_no_text_of_a_cell_is_imported(tmp_path: Path, marker: Path) -> None:
    spec = parse_spec(SPEC)
    (cell, *_) = spec.all_cells()
    record = json.loads(json.dumps(cell.to_json()))
    for path in leaves(record["work"]["config"]):
        try:
            changed = type(cell).from_json(planted(record, ("work", "config", *path), EVIL))
        except RunError:
            continue
        if path[0] in ("encoder", "env", "algo"):
            done = local.request(changed, tmp_path, Results(tmp_path), Trust())
            assert EVIL in done
            ended = run_cell(changed, tmp_path / "runs")
            assert ended.state == "failed"
            assert f"--trust {EVIL}" in str(ended.error)
    assert not marker.exists()


# The known cases, from a clean folder, as they are typed


@pytest.mark.parametrize("name", ["pytest:main", "evil:go", "runs.stranger.evil:go", "http.server:test"])
@pytest.mark.parametrize("module", [True, False], ids=["-m", "command"])
def test_a_stranger_s_folder_runs_nothing_of_its_own(
    trained: Path, tmp_path: Path, root: Path, name: str, module: bool
) -> None:
    here = tmp_path / "clean"
    folder = here / "runs" / "stranger"
    shutil.copytree(trained, folder)
    for place in (here, folder, folder.parent):
        for file in ("conftest.py", "evil.py", "torch.py", "msgspec.py", "numpy.py", "sitecustomize.py"):
            (place / file).write_text(MODULE)
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "encoder": name}))
    # As `python -m stillsight` and as the console script start, from this checkout.
    as_module = f"import runpy; runpy.run_path({str(root / 'agents/stillsight/__main__.py')!r}, run_name='__main__')"
    as_script = "import sys; from stillsight.agents.cli import main; sys.exit(main())"
    started = [sys.executable, "-c", as_module] if module else [sys.executable, "-P", "-c", as_script]
    for words in (["evaluate", str(folder)], ["record", str(folder)]):
        done = subprocess.run([*started, *words], cwd=here, capture_output=True, text=True, timeout=120)
        assert done.returncode == 2, done.stderr
        assert f"{folder} asks for the encoder {name}, whose code would be imported." in done.stderr
        assert done.stderr.strip().endswith(f"--trust {name}.")
        assert len(done.stderr.splitlines()) == 1
    assert not list(here.rglob("MARKER"))


OWN = """
from torch import nn
from stillsight.encoders import Backbone, Preprocessing

def tiny():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.Conv2d(8, 16, 3, stride=2))
    return Backbone(model=model, stages={"low": model[0], "high": model[1]}, preprocessing=Preprocessing(), tap="high")
"""


def test_what_is_trusted_is_found_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trusted_encoders.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    name = "trusted_encoders:tiny"
    words = ["rl", "--encoder", name, "--mode", "scratch", "--out", "run", "--steps", "32", "--n-envs", "1", "--head"]
    words += ["16", "--standardise", "8", "--eval-every", "0", "--eval-episodes", "1", "--max-episode-steps", "10"]
    words += ["--set", "n_steps=16", "batch_size=16", "n_epochs=1", "--device", "cpu"]
    assert main(words) == 0
    capsys.readouterr()
    again = ["evaluate", "run", "--episodes", "1", "--random-episodes", "0", "--device", "cpu"]
    assert main(again) == 2
    assert f"--trust {name}" in capsys.readouterr().err
    assert main([*again, "--trust", name]) == 0
    assert load("run", device="cpu", trust=[name]).config.encoder == name
    assert trust.flags(read_run(Path("run")).config) == f" --trust {name}"


def test_a_folder_with_a_run_brings_itself_onto_no_path(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(trained))])
    config = trained / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "encoder": "evil:go"}))
    assert main(["evaluate", str(trained)]) == 2
    assert str(trained) not in sys.path
    capsys.readouterr()


# Whatever a file holds


def _agent_config() -> dict[str, Any]:
    return {
        "command": "rl",
        "encoder": "retina",
        "mode": "random",
        "env": "stillsight/Orchard-v0",
        "algo": "ppo",
        "seed": 0,
    }


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("steps", "many", "Expected int, got str - at steps"),
        ("steps", 1.5, "Expected int, got float - at steps"),
        ("steps", True, "Expected int, got bool - at steps"),
        ("mode", "frozzen", "Invalid enum value 'frozzen' - at mode"),
        ("workers", "maybe", "Invalid enum value 'maybe' - at workers"),
        ("set", ["a", 3], r"Expected str, got int - at set\[1\]"),
        ("set", [["a"]], "Expected"),
        ("weights", 3, "Expected"),
        ("encoder_lr", None, "Expected float, got null - at encoder_lr"),
        ("command", "rm", "its command is 'rm', and must be rl or cifar"),
        ("command", ["rl"], r"its command is \['rl'\], and must be rl or cifar"),
        ("env", "a\x1b[31m", r"its env is 'a\\x1b\[31m'"),
        ("tap", "x" * 5_000, "its tap is 'xxx"),
        ("steps", 2**64, "a number in it has more than 64 bits"),
        ("set", {"a": 1}, "Expected"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, name: str, value: Any, reason: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**_agent_config(), name: value}))
    with pytest.raises(RunError, match=rf"config\.json is damaged \(.*{reason}.*Restore it, or start a new run\.$"):
        open_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("steps", 0, "--steps 0 is too small. Type a number from 1."),
        ("steps", 10**18, "is too large. Type a number up to 1_000_000_000_000_000."),
        ("n_envs", 99_999_999_999, "asks for more games than one machine plays"),
        ("head", 10**12, "--head 1000000000000 is too large"),
        ("frame_stack", 10**9, "--frame-stack 1000000000 is too large"),
        ("resolution", 10**9, "--resolution 1000000000 is too large"),
        ("lora_rank", 10**9, "--lora-rank 1000000000 is too large"),
        ("threads", 10**9, "--threads 1000000000 is too large"),
        ("seed", -1, "--seed -1 is out of range"),
        ("pooling", "grid99999999", "There is no pooling named"),
    ],
)
def test_a_number_out_of_range_is_refused_before_memory_is_taken(
    tmp_path: Path, name: str, value: Any, sentence: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**_agent_config(), name: value}))
    with pytest.raises(OURS) as refused:
        open_run(tmp_path)
    assert sentence in str(refused.value)


@pytest.mark.parametrize("missing", ["command", "env", "algo", "encoder", "mode"])
def test_what_is_missing_is_named(tmp_path: Path, missing: str) -> None:
    record = _agent_config()
    del record[missing]
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match=missing):
        read_run(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b"[]",
        b"5",
        b'{"steps": NaN}',
        b'{"steps": ' + b"9" * 9_999,
    ],
    ids=["empty", "utf-16", "brackets", "braces", "list", "number", "nan", "digits"],
)
@pytest.mark.parametrize("name", ["config.json", "spaces.json", "machine.json", "summary.json"])
def test_a_file_that_is_none_is_one_sentence(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    read = {
        "config.json": lambda: read_run(tmp_path),
        "spaces.json": lambda: Spaces.read(tmp_path / name),
        "machine.json": lambda: reader.read_sessions(tmp_path),
        "summary.json": lambda: reader.read_summary(tmp_path),
    }[name]
    (tmp_path / "done").touch()
    advice = "Remove it, and the environment is asked for them" if name == "spaces.json" else "Restore it, or start a"
    with pytest.raises(RunError, match=rf"{name} is damaged \(.+\)\. {advice}"):
        read()


def test_a_file_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(schema.LARGEST_RECORD * 1_000)  # sparse: it takes no disk
    with pytest.raises(RunError, match=r"config\.json is damaged \(it has more than 16,777,216 bytes"):
        read_run(tmp_path)
    with (tmp_path / "SPEC.toml").open("wb") as file:
        file.truncate(2**33)
    with pytest.raises(RunError, match="has more than 1,048,576 bytes"):
        read_spec(tmp_path / "SPEC.toml")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("pixels",), [3, 10**9, 10**9]),
        (("pixels",), [4, 48, 48]),
        (("pixels",), [3, 48]),
        (("action", "n"), 10**12),
        (("action", "n"), 0),
        (("action", "kind"), "Text"),
        (("action",), {"kind": "Box", "low": [0], "high": [1], "shape": [10**9], "dtype": "float32"}),
        (("action",), {"kind": "Box", "low": [0], "high": [1], "shape": [1], "dtype": "O"}),
        (("action",), {"kind": "Box", "low": [None], "high": [1], "shape": [1], "dtype": "float32"}),
        (("action",), {"kind": "Box", "low": ["a"], "high": [1], "shape": [1], "dtype": "float32"}),
        (("action",), {"kind": "Box", "low": [2], "high": [1], "shape": [1], "dtype": "float32"}),
        (("action",), {"kind": "MultiDiscrete", "nvec": [10**9], "start": [0]}),
        (("action",), {"kind": "MultiDiscrete", "nvec": [[1], [2, 3]], "start": [0]}),
        (("action",), {"kind": "MultiBinary", "n": [10**4, 10**4]}),
        (("offset",), "one"),
    ],
)
def test_spaces_that_are_none_are_refused(place: tuple[str, ...], value: Any) -> None:
    record = {"pixels": [3, 48, 48], "action": {"kind": "Discrete", "n": 3, "start": 0}, "offset": 0}
    assert Spaces.from_json(record).pixels == (3, 48, 48)
    with pytest.raises(RunError, match=r"spaces\.json is damaged"):
        Spaces.from_json(planted(record, place, value))


def test_one_bad_run_breaks_the_list_and_the_plot_for_none(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad: dict[str, Callable[[Path], object]] = {
        "config": lambda folder: (folder / "config.json").write_text('{"command": "rl", "steps": [[[]]]}'),
        "binary": lambda folder: (folder / "config.json").write_bytes(b"\xff\x00"),
        "deep": lambda folder: (folder / "config.json").write_text("[" * 100_000),
        "summary": lambda folder: (folder / "summary.json").write_text('{"return_mean": "high"}'),
        "machine": lambda folder: (folder / "machine.json").write_text('{"sessions": 3}'),
        "dates": lambda folder: (folder / "machine.json").write_text('{"sessions": [3]}'),
        "rows": lambda folder: (folder / "episodes.jsonl").write_text('{"step": "one"}\n{"step": 2, "return": 1}\n'),
    }
    for name, damage in bad.items():
        folder = Path(shutil.copytree(trained, tmp_path / "all" / name))
        if name == "rows":
            (folder / "summary.json").unlink()
        damage(folder)
    good = Path(shutil.copytree(trained, tmp_path / "all" / "good"))
    assert main(["list", "runs", "--folder", str(tmp_path / "all")]) == 0
    shown = capsys.readouterr()
    lines = {Path(line.split()[0]).name: line for line in shown.out.splitlines()[1:]}
    assert " done " in lines["good"]
    for name in bad:
        assert " damaged" in lines[name], name
        assert any(f"/{name}/" in line for line in shown.err.splitlines()), name
    damaged = [str(tmp_path / "all" / name) for name in ("config", "binary", "deep", "rows")]
    assert main(["plot", *damaged, str(good), "--out", str(tmp_path / "c.png")]) == 0
    shown = capsys.readouterr()
    assert len([line for line in shown.err.splitlines() if line.startswith("stillsight: left out. ")]) == 4
    for folder in damaged:
        assert main(["plot", folder, "--out", str(tmp_path / "c.png")]) == 2
    assert main(["plot", str(tmp_path / "nowhere"), str(good), "--out", str(tmp_path / "c.png")]) == 2


def test_words_of_a_run_are_no_markup(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = trained / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "env": "[link=http://x]Orchard[/red]"}))
    assert main(["list", "runs", "--folder", str(trained.parent)]) == 0
    assert "[link=http://x]Orchard[/red]" in capsys.readouterr().out


@pytest.mark.parametrize("number", ["99999999999", "9" * 5_000, "-1", "0", "[0, 99999999999]", "1e3", "true", "[[1]]"])
def test_seeds_that_are_no_count_are_refused_before_memory_is_taken(number: str) -> None:
    with pytest.raises(RunError):
        parse_spec(SPEC.replace("[0]", number))


# Fuzz, in process: only our errors come out


def only_ours(read: Callable[[], object], what: object) -> bool:
    """Whether `read` refuses what it reads; any error but ours comes out."""
    try:
        read()
    except OURS as error:
        sentence = str(error)
    else:
        return False
    assert len(sentence.splitlines()) == 1, what
    return True


COUNT = 300
"""Mutants of each file; `make faults` makes thousands, in processes of their own."""


def test_mutants_of_configurations(trained: Path, classifier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (trained, classifier):
        path = folder / "config.json"

        def used(folder: Path = folder) -> None:
            config = open_run(folder, writes=True).config
            if isinstance(config, RlConfig):
                config.env_options()
            config.check()

        def drawn(folder: Path = folder) -> None:
            plots.plot([folder], plots.PlotConfig(out=folder / "c.png"))

        refused = 0
        for number, content in enumerate(mutants(path.read_bytes(), COUNT)):
            path.write_bytes(content)
            refused += only_ours(used, content)
            assert main(["list", "runs", "--folder", str(folder)]) == 0, content
            if number % 20 == 0:
                only_ours(drawn, content)
        assert refused > COUNT // 2
    capsys.readouterr()


def test_mutants_of_other_files(trained: Path, classifier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readers: dict[Path, Callable[[], object]] = {
        trained / "spaces.json": lambda: Spaces.read(trained / "spaces.json"),
        trained / "summary.json": lambda: main(["list", "runs", "--folder", str(trained)]),
        trained / "machine.json": lambda: main(["list", "runs", "--folder", str(trained)]),
        trained / "episodes.jsonl": lambda: plots.plot([trained], plots.PlotConfig(out=trained / "c.png")),
        trained / "eval.jsonl": lambda: plots.plot([trained], plots.PlotConfig(out=trained / "c.png")),
        trained / "metrics.jsonl": lambda: read_lines(trained / "metrics.jsonl"),
        classifier / "metrics.jsonl": lambda: plots.plot([classifier], plots.PlotConfig(out=trained / "c.png")),
        classifier / "summary.json": lambda: plots.plot([classifier], plots.PlotConfig(out=trained / "c.png")),
    }
    for path, read in readers.items():
        whole = path.read_bytes()
        drawn = "plot" in str(read.__code__.co_names)
        for content in mutants(whole, 25 if drawn else COUNT):
            path.write_bytes(content)
            only_ours(read, (path.name, content))
        path.write_bytes(whole)
    capsys.readouterr()


def test_mutants_of_specs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "SPEC.toml"
    refused = 0
    for content in mutants(SPEC.encode(), COUNT):
        path.write_bytes(content)
        refused += only_ours(lambda: read_spec(path), content)
        only_ours(lambda: read_spec(path, check=False).expected(), content)
    assert refused > COUNT // 2
    capsys.readouterr()


def test_revive_is_the_inverse_of_plain_still(trained: Path) -> None:
    record = json.loads((trained / "config.json").read_text())
    config = revive(RlConfig, record)
    assert isinstance(config.weights, Path)
    assert config.set == tuple(record["set"])
    with pytest.raises(RunError, match="fields that this version does not know: colour, tone"):
        revive(RlConfig, {**record, "tone": 1, "colour": 2})
