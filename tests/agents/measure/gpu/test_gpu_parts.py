"""The parts of `stillsight gpu`: what is asked for can be had, and what goes wrong is kept with its reason."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stillsight.agents.errors import RunError
from stillsight.agents.measure import throughput
from stillsight.agents.measure.gpu import parts as module
from stillsight.agents.measure.gpu.parts import FULL, NETWORKS, PARTS, SMALL, Keep, Left, Size, run_part, speed
from stillsight.encoders.zoo.registry import ENCODERS, spec

pytestmark = pytest.mark.usefixtures("settings_restored")


@pytest.mark.parametrize("size", [FULL, SMALL])
def test_everything_that_is_asked_for_can_be_had(size: Size) -> None:
    for algo, run in size.runs.items():
        run.check()
        assert run.resolved().algo == algo
        size.throughput[algo].check()
    size.finetune.check()
    size.frozen.check()
    for weight, arms in size.speed():
        assert weight > 0
        for arm in arms:
            spec(arm.encoder).check_tap(arm.tap)
    assert size.finetune.mode.trained
    assert not size.frozen.mode.trained


def test_the_full_size_is_that_of_the_published_runs() -> None:
    for algo, run in FULL.runs.items():
        assert (run.encoder, run.tap, run.pooling, run.frame_stack, run.steps) == (
            *("resnet18", "layer4", "global", 4),
            1_000_000,
        )
        assert FULL.throughput[algo].arms == ("cached", "stock", "floor")
    assert FULL.runs["ppo"].n_envs == 8


def test_the_speed_table_has_the_most_important_first_and_nothing_twice() -> None:
    *blocks, compiled = [block for _, block in speed()]
    assert {(arm.engine, arm.resolution) for arm in compiled} == {("graph", 224), ("compiled", 224)}
    arms = [arm for block in blocks for arm in block]
    assert len(set(arms)) == len(arms)
    assert {arm.encoder for arm in arms} == {*NETWORKS} & {*ENCODERS}
    assert {arm.resolution for arm in arms} == {84, 128, 224}
    assert {arm.precision for arm in arms} == {"float32", "bf16"}
    assert {arm.engine for arm in arms} == {"eager", "folded", "graph"}
    assert (arms[0].resolution, arms[0].batch) == (224, 256)
    few = next(arm for arm in arms if arm.batch == 8)
    assert (few.tap, few.pooling) == spec(few.encoder).control


def test_a_block_of_the_speed_table_leaves_the_others_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[dict[str, Any]] = []
    told: list[float] = []
    now = [0.0]

    def measure(_: Any, __: Any, arms: list[str], keep: Keep, left: Left) -> dict[str, Any]:
        told.append(left())
        now[0] += {"a": 10.0, "b": 40.0, "c": 0.0}[arms[0]]
        keep({"arms": [{"encoder": arms[0]}]})
        return {"device": "cuda", "arms": [{"encoder": name} for name in arms]}

    monkeypatch.setattr(module.encoder_speed, "measure", measure)
    blocks = [(2.0, ["a", "A"]), (1.0, ["b"]), (1.0, ["c"])]
    size = replace(SMALL, speed=lambda: blocks)  # type: ignore[arg-type,return-value]
    result = PARTS["encoders"](size, kept.append, lambda: 100.0 - now[0])
    assert told == [50.0, 45.0, 50.0], "half; then half of what is left; then all of it"
    rows = [(row["encoder"], row["block"]) for row in result["arms"]]
    assert rows == [("a", 1), ("A", 1), ("b", 2), ("c", 3)]
    assert [len(one["arms"]) for one in kept] == [1, 2, 3, 3, 4, 4], "what is done stays, whatever becomes of the next"


class Here:
    """An arm in this process, in place of one in its own."""

    broken: frozenset[str] = frozenset()

    def __init__(self, name: str, run: Any) -> None:
        self.name, self.run = name, run

    def answer(self) -> dict[str, Any]:
        if self.name in self.broken:
            raise RunError("there is no such arm here.")
        return {}

    def ask(self, seconds: float | None) -> dict[str, Any]:
        if seconds is None:
            return {"engine": "graph"}
        return {"env_steps_per_s": 100.0 if self.name == "cached" else 20.0, "shares": {"rest": 1.0}}

    def stop(self) -> None:
        pass


def test_an_arm_that_breaks_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "ArmProcess", Here)
    monkeypatch.setattr(Here, "broken", frozenset({"floor"}))
    state = run_part("ppo", SMALL, tmp_path / "ppo.json", 60.0)
    assert state["whole"]
    result = json.loads((tmp_path / "ppo.json").read_text())["result"]
    assert result["broken"] == {"floor": "there is no such arm here."}
    assert set(result["arms"]) == {"cached", "stock"}
    assert result["arms"]["cached"]["engine"] == "graph"
    assert result["ratios"]["cached / stock"]["median"] == 5.0


@pytest.mark.parametrize("name", ["encoders", "cifar-finetune", "cifar-frozen"])
def test_a_part_measures_and_keeps_what_it_has_on_the_way(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[dict[str, Any]] = []
    original = module.write_atomically

    def watch(path: Path, text: str) -> None:
        written.append(json.loads(text))
        original(path, text)

    monkeypatch.setattr(module, "write_atomically", watch)
    state = run_part(name, SMALL, tmp_path / "part.json", 60.0)
    assert state["whole"], state
    assert json.loads((tmp_path / "part.json").read_text()) == written[-1]
    assert not any(one["whole"] for one in written[:-1])
    arms = written[-1]["result"]["arms"]
    if name == "encoders":
        assert [len(one["result"]["arms"][0]["rounds"]) for one in written[1:3]] == [1, 2]
    else:
        assert written[-1]["result"]["images"] == "noise of CIFAR's shape"
        assert set(written[1]["result"]["measured"]) == {next(iter(arms))}


def test_a_part_that_raises_keeps_its_sentence_its_traceback_and_its_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []

    def part(_: Size, keep: Keep, left: Left) -> dict[str, Any]:
        seen.append(left())
        keep({"half": 1})
        raise RuntimeError("CUDA out of memory\nand much more")

    def ours(*_: object) -> dict[str, Any]:
        raise RunError("what to type.")

    monkeypatch.setattr(module, "PARTS", {**PARTS, "sac": part, "dqn": ours})
    state = run_part("sac", SMALL, tmp_path / "sac.json", 100.0)
    assert state == json.loads((tmp_path / "sac.json").read_text())
    assert (state["whole"], state["result"]) == (False, {"half": 1})
    assert state["sentence"] == "RuntimeError: CUDA out of memory"
    assert 'raise RuntimeError("CUDA out of memory' in state["traceback"]
    assert 90.0 < seen[0] <= 94.0, "it is done before its process is ended"
    assert run_part("dqn", SMALL, tmp_path / "dqn.json", 100.0)["sentence"] == "what to type."
