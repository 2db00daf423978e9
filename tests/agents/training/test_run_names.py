"""Names of run folders: they say what differs from the defaults, and no two runs share one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from stillsight.agents import RlConfig, rl
from stillsight.agents.cli import main
from stillsight.agents.runs.folder import Run
from stillsight.encoders import Mode
from stillsight.encoders.config import NAME_LENGTH, UNNAMED
from stillsight.encoders.supervised.cifar_config import CifarConfig

Tiny = Callable[..., RlConfig]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_name_says_what_runs_and_what_differs() -> None:
    assert RlConfig().run_name == "orchard-v0-ppo-retina-frozen-seed0"
    finetuned = RlConfig(mode=Mode.FINETUNE, unfreeze="layer2", steps=20_000, encoder_lr=0.1, seed=3)
    assert finetuned.run_name == ("orchard-v0-ppo-retina-finetune-unfreeze_layer2-steps_20000-encoder_lr_0.1-seed3")
    assert RlConfig(set=("n_steps=3", "gamma=0.9")).run_name.endswith("-set_n_steps=3+gamma=0.9-seed0")
    assert RlConfig(weights=Path("/a b/mine.pth")).run_name.endswith("-weights_mine-seed0")
    assert CifarConfig(epochs=7).run_name == "cifar10-retina-frozen-epochs_7-seed0"


def _words(kind: object) -> tuple[str, ...]:
    return get_args(kind) if get_origin(kind) is Literal else ()


@pytest.mark.parametrize("cls", [RlConfig, CifarConfig])
def test_whatever_changes_a_run_changes_its_name(cls: type[RlConfig] | type[CifarConfig]) -> None:
    hints = get_type_hints(cls)
    for item in fields(cls):
        default = item.default
        other: Any = {bool: not default, int: 7, float: 0.123, str: "layer9", tuple: ("a=1",)}.get(type(default), "x")
        if item.name == "mode":
            other = Mode.SCRATCH
        if default is None:
            kinds = {"Path": Path("some/thing.pth"), "int": 9, "float": 0.5}
            other = next((value for kind, value in kinds.items() if kind in str(item.type)), "other")
        words = [word for kind in (hints[item.name], *get_args(hints[item.name])) for word in _words(kind)]
        if words:
            other = next(word for word in words if word != default)
        changed = replace(cls(), **{item.name: other})
        assert (changed.run_name == cls().run_name) == (item.name in UNNAMED), item.name


def test_a_long_name_is_cut_and_still_its_own() -> None:
    long = ("x=" + "y" * 300,)
    names = {RlConfig(set=long, env_set=(f"a={value}",)).run_name for value in range(3)}
    assert len(names) == 3
    assert all(len(name) <= NAME_LENGTH and name.endswith("-seed0") for name in names)
    assert RlConfig(env="my_games.rooms:Big/Room-v1", set=("a=/b c$d",)).run_name == (
        "room-v1-ppo-retina-frozen-set_a=.b.c.d-seed0"
    )


def test_runs_of_one_name_are_counted_and_nothing_is_overwritten(tiny: Tiny) -> None:
    config = tiny("ppo", steps=32)
    for _ in range(3):
        rl(config)
    first = Path("results/runs") / config.run_name
    found = sorted(path.parent.name for path in Path("results/runs").glob("*/done"))
    assert found == [first.name, f"{first.name}-2", f"{first.name}-3"]


def test_the_quick_start_runs_in_its_order(capsys: pytest.CaptureFixture[str]) -> None:
    few = "--size 16 --pooling grid2 --n-envs 2 --head 16 --eval-episodes 1 --device cpu --set n_steps=16 batch_size=16"
    for words in (
        "rl --mode finetune --unfreeze layer2 --tap layer2 --steps 32",
        "rl --mode finetune --unfreeze layer2 --tap layer2 --encoder-lr 0.1 --steps 32",
        "rl --mode finetune --tap layer2 --adapt norm --steps 32",
        "rl --mode finetune --tap layer2 --adapt lora --lora-rank 4 --steps 32",
        "rl --mode finetune --tap layer2 --adapt lora --lora-rank 4 --steps 32",
    ):
        assert main([*words.split(), *few.split()]) == 0, capsys.readouterr().err
    runs = list(Path("results/runs").glob("*/done"))
    assert len(runs) == 5


AT_ONCE = """
import sys
from pathlib import Path
from stillsight.agents.runs.folder import Run

sys.stdin.readline()
with Run(Path("results/runs/same"), "rl", {"number": int(sys.argv[1])}, counted=True) as run:
    run.card("title", {})
"""


def test_runs_that_begin_at_once_share_no_folder() -> None:
    ours = [
        subprocess.Popen([sys.executable, "-c", AT_ONCE, str(number)], stdin=subprocess.PIPE, text=True)
        for number in range(6)
    ]
    for process in ours:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.wait() for process in ours] == [0] * 6
    numbers = [json.loads(path.read_text())["number"] for path in Path("results/runs").glob("*/config.json")]
    assert sorted(numbers) == list(range(6))


def test_a_mistake_that_is_found_before_the_card_leaves_no_folder() -> None:
    with pytest.raises(ValueError, match="oh"), Run(Path("results/runs/a"), "rl", {}, counted=True):
        raise ValueError("oh")
    assert not Path("results").exists()
