"""Killed or asked to stop at any moment, a run goes on to its end, each row stands once, and nothing is left."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stillsight.agents.runs import checkpoint

_spec = importlib.util.spec_from_file_location("killing", Path(__file__).with_name("killing.py"))
assert _spec is not None
assert _spec.loader is not None
killing = importlib.util.module_from_spec(_spec)
sys.modules["killing"] = killing
_spec.loader.exec_module(killing)

SMALL = (
    "--device cpu --threads 1 --size 16 --tap layer1 --pooling grid2 --n-envs 2 --head 16 --compress 4 --standardise 8 "
    "--frame-stack 2 --max-episode-steps 20 --eval-episodes 1 --precision float32 --engine folded --mode random"
)
RL = f"rl {SMALL} --steps 96 --eval-every 32 --checkpoint-every 32"
DQN = "--algo dqn --set learning_starts=24 batch_size=8 buffer_size=300 train_freq=4 target_update_interval=16"
PPO = "--set n_steps=16 batch_size=16 n_epochs=1"
CIFAR = "cifar --dataset paint --cache cache --tap layer1 --crop 0 --threads 1 --device cpu --precision float32"
JOBS = {
    "ppo": f"{RL} {PPO} --tensorboard",
    "dqn": f"{RL} {DQN}",
    "frozen": f"{CIFAR} --mode random --shots 6",
    "scratch": f"{CIFAR} --mode scratch --epochs 3 --batch 16 --save-every 1",
}
RUN = Path("run")


@pytest.fixture(scope="module", name="killer")
def _killer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with killing.Killer(tmp_path_factory.mktemp("output")) as killer:
        yield killer


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for channel, name in enumerate(("red", "green")):
        (tmp_path / "paint" / name).mkdir(parents=True)
        for number in range(16):
            pixels = generator.integers(0, 100, (16, 16, 3), np.uint8)
            pixels[:, :, channel] += 100
            Image.fromarray(pixels).save(tmp_path / "paint" / name / f"{number}.png")


def words(job: str) -> list[str]:
    return [*JOBS[job].split(), "--out", str(RUN)]


def resumed(command: str) -> list[str]:
    """What continues a run; the folder to write features into is the user's to say, and not the run's."""
    return [command, "--resume", str(RUN), *(["--cache", "cache"] if command == "cifar" else [])]


def go_on(killer: Any, job: str) -> Any:
    """As a person does who sees what is there: go on with a run, begin one that is none yet, leave what is done."""
    if (RUN / "done").exists():
        (RUN / ".lock").unlink(missing_ok=True)  # of a process that was killed after it had said that it was done
        return None
    command = resumed(JOBS[job].split()[0]) if (RUN / "config.json").exists() else words(job)
    ended = killer.run(command, [RUN, Path("cache")])
    assert ended.code == 0, ended.output
    return ended


def interrupted(killer: Any, words: list[str], folders: list[Path], there: str) -> None:
    """Stop by Ctrl-C what says `there` when it has come so far: sooner or later, as busy as the machine is."""
    for patience in (2.0, 4.0, 8.0, 16.0, 32.0):
        ended = killer.run(words, folders, after=patience, number=signal.SIGINT)
        assert ended.code == 130, ended.output
        if there in ended.output:
            return
    raise AssertionError(f"{there!r} is not in: {ended.output}")


def points(count: int, wanted: int) -> list[int]:
    """`wanted` of the numbers from 1 to `count`, evenly spread."""
    return sorted({round(number) for number in np.linspace(1, count, wanted)})


def check(killer: Any, job: str, whole: dict[str, Any]) -> None:
    """What a run that was killed and gone on with must be, beside one that was not."""
    assert killing.complaints(RUN) == []
    assert [str(path) for path in Path("cache").rglob("*.part*")] == []
    assert not killer.orphans()
    assert sorted(summary()) == sorted(whole)
    if job == "ppo":
        events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        curves = events.EventAccumulator(str(RUN / "tensorboard")).Reload()
        for stream, key in (("episodes", "return"), ("eval", "mean")):
            rows = [json.loads(line) for line in (RUN / f"{stream}.jsonl").read_text().splitlines()]
            drawn = [(event.step, pytest.approx(event.value)) for event in curves.Scalars(f"{stream}/{key}")]
            assert [(row["step"], row[key]) for row in rows] == drawn
    if job in ("ppo", "dqn"):
        assert summary()["env_steps"] == 96
        (final,) = [json.loads(line) for line in (RUN / "eval.jsonl").read_text().splitlines() if '"final"' in line]
        assert (final["step"], summary()["return_mean"]) == (96, final["mean"])
    else:
        for name, value in whole.items():
            if name.endswith("accuracy") or name in ("epochs", "test_ece", "train_images"):
                assert summary()[name] == value, name


def summary() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RUN / "summary.json").read_text())
    return found


def whole_run(killer: Any, job: str) -> tuple[int, dict[str, Any]]:
    """The operations and the summary of a run that nothing happens to; its folder is moved to `whole`."""
    ended = killer.run(words(job), [RUN, Path("cache")])
    assert ended.code == 0, ended.output
    assert killing.complaints(RUN) == []
    found = summary()
    shutil.move(RUN, "whole")
    shutil.rmtree("cache", ignore_errors=True)
    return ended.operations, found


def sweep(killer: Any, job: str, wanted: int | None) -> None:
    count, whole = whole_run(killer, job)
    assert count > 15
    for point in points(count, wanted or count):
        killed = killer.run(words(job), [RUN, Path("cache")], at=point)
        assert killed.code == -signal.SIGKILL, killed.output
        before = checkpoint_step()
        go_on(killer, job)
        try:
            check(killer, job, whole)
            if job in ("ppo", "dqn") and before in (None, 96):  # begun anew, or learned all
                assert same_policy(RUN, Path("whole"))
        except AssertionError as error:
            error.add_note(f"{job} killed at operation {point} of {count}")
            raise
        shutil.rmtree(RUN)
        shutil.rmtree("cache", ignore_errors=True)


def checkpoint_step() -> int | None:
    path = RUN / "checkpoints" / "last.safetensors"
    return checkpoint.load(path).get("step") if path.exists() else None


def same_policy(one: Path, other: Path) -> bool:
    first, second = (
        checkpoint.load(run / "checkpoints" / "last.safetensors")["parameters"]["policy"] for run in (one, other)
    )
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "job", [pytest.param("ppo", marks=pytest.mark.slow), pytest.param("dqn", marks=pytest.mark.slow), "frozen"]
)
def test_killed_at_a_few_file_operations_a_run_goes_on(killer: Any, job: str) -> None:
    sweep(killer, job, 5)


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_killed_at_any_file_operation_a_run_goes_on(killer: Any, job: str) -> None:
    sweep(killer, job, None)


@pytest.mark.slow
def test_killed_again_and_again_a_run_comes_to_its_end(killer: Any) -> None:
    count, whole = whole_run(killer, "ppo")
    for point in range(1, count, 3):
        killer.run(resumed("rl") if (RUN / "config.json").exists() else words("ppo"), [RUN], at=min(point, 60))
        if (RUN / "done").exists():
            break
    go_on(killer, "ppo")
    check(killer, "ppo", whole)


def test_killed_between_the_end_and_done_the_last_evaluation_is_not_played_again(killer: Any) -> None:
    whole_run(killer, "ppo")
    shutil.copytree("whole", RUN)
    (RUN / "done").unlink()
    before = (RUN / "eval.jsonl").read_bytes()
    drawn = summary()
    ended = go_on(killer, "ppo")
    assert "evaluation episode" not in ended.output
    assert (RUN / "eval.jsonl").read_bytes() == before
    returns = ("return_mean", "return_std", "return_episodes", "return_capped", "best_return_mean")
    assert {name: summary()[name] for name in returns} == {name: drawn[name] for name in returns}
    assert same_policy(RUN, Path("whole"))


def test_a_supervised_run_that_ended_before_done_sums_up_alike(killer: Any) -> None:
    _, whole = whole_run(killer, "scratch")
    shutil.copytree("whole", RUN)
    (RUN / "done").unlink()
    (RUN / "summary.json").unlink()
    go_on(killer, "scratch")
    check(killer, "scratch", whole)
    assert summary()["train_accuracy"] == whole["train_accuracy"]
    assert summary()["wall_seconds"] > whole["wall_seconds"] / 2, "of both sessions"


@pytest.mark.parametrize("missing", ["machine.json", "spaces.json"])
def test_a_file_that_was_not_written_yet_stops_nobody(killer: Any, missing: str) -> None:
    killer.run(words("ppo"), [RUN], at=30)
    (RUN / missing).unlink(missing_ok=True)
    go_on(killer, "ppo")
    assert killing.complaints(RUN) == []
    assert json.loads((RUN / "machine.json").read_text())["sessions"]


LONG = f"rl {SMALL} --steps 1_000_000 --eval-every 0 --checkpoint-every 0"


@pytest.mark.parametrize(
    ("job", "number", "code"),
    [
        (f"{LONG} {PPO}", signal.SIGINT, 130),
        (f"{LONG} {DQN}", signal.SIGTERM, 143),
        (f"{LONG} {PPO} --workers on", signal.SIGINT, 130),
        (f"{CIFAR} --mode scratch --epochs 10_000 --batch 16", signal.SIGTERM, 143),
    ],
)
def test_a_training_that_is_asked_to_stop_is_saved(killer: Any, job: str, number: int, code: int) -> None:
    log = RUN / ("metrics.jsonl" if "cifar" in job else "episodes.jsonl")
    ended = killer.run([*job.split(), "--out", str(RUN)], [RUN], after=0.3, number=number, when=log)
    assert ended.code == code, ended.output
    name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    assert f"stillsight: Stopped by {name}" in ended.output
    assert "Traceback" not in ended.output
    command = job.split()[0]
    last = RUN / "checkpoints" / "last.safetensors"
    assert f"Its last checkpoint, {last}, is kept: go on with: stillsight {command} --resume {RUN}" in ended.output
    assert not killer.orphans()
    assert not list(RUN.rglob(".*"))
    assert not (RUN / "done").exists()
    stored = checkpoint.load(RUN / "checkpoints" / "last.safetensors")
    if command == "rl":
        (step,) = re.findall(r"at step ([\d,]+) of 1,000,000; it is saved as it stood there", ended.output)
        assert stored["step"] == int(step.replace(",", "")) > 0
        assert stored["step"] % 4 == 0
    again = killer.run(resumed(command), [RUN], after=0.3, number=number, when=log)
    assert again.code == code, again.output
    later = checkpoint.load(RUN / "checkpoints" / "last.safetensors")
    if command == "rl":
        assert later["step"] >= stored["step"]
    else:
        assert (later["epoch"], later["update"]) >= (stored["epoch"], stored["update"])


PLAYING = f"{LONG} --eval-episodes 100000 --eval-every 256".replace("--eval-episodes 1 ", "").replace(
    "--eval-every 0 ", ""
)


@pytest.mark.parametrize(
    ("job", "when", "reached", "kept"),
    [
        # In the middle of an evaluation, which is in the middle of a rollout.
        (f"{PLAYING} --set n_steps=64 batch_size=64 n_epochs=1", "metrics.jsonl", 256, 128),
        (f"{PLAYING} {DQN}", "episodes.jsonl", 256, 248),
        # In the first rollout, which takes longer than anybody waits; and in an update that does.
        (f"{LONG} --set n_steps=100_000 batch_size=1_000", "episodes.jsonl", "rollout", None),
        (f"{LONG} --set n_steps=64 batch_size=4 n_epochs=1_000_000", "metrics.jsonl", "update", None),
    ],
)
def test_where_nothing_ends_within_seconds_it_stops_in_the_middle(
    killer: Any, job: str, when: str, reached: int | str, kept: int | None
) -> None:
    ended = killer.run([*job.split(), "--out", str(RUN)], [RUN], after=1.5, number=signal.SIGINT, when=RUN / when)
    assert ended.code == 130, ended.output
    if isinstance(reached, str):
        assert (
            f"in its first {reached}. No checkpoint was saved yet: begin again with: stillsight rl --resume {RUN}"
            in ended.output
        )
        assert not list((RUN / "checkpoints").iterdir())
        return
    there = "there" if reached == kept else f"at step {kept}"
    assert f"Stopped by Ctrl-C at step {reached} of 1,000,000; it is saved as it stood {there}." in ended.output
    stored = checkpoint.load(RUN / "checkpoints" / "last.safetensors")
    assert stored["step"] == stored["counters"]["num_timesteps"] == kept
    if stored["replay"] is not None:
        memory = checkpoint.load(RUN / "checkpoints" / f"{stored['replay']}.safetensors")
        assert int(memory["arrays"]["valid"].sum()) == kept, "all that was counted is there"
    # The evaluation that was cut short is played again, at the same step.
    there = f"Stopped by Ctrl-C at step {reached if 'eval-every 256' in job else 256} of"
    interrupted(killer, ["rl", "--resume", str(RUN)], [RUN], there)


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["on", "off"])
def test_sdl_does_not_swallow_sigterm(killer: Any, workers: str) -> None:
    pytest.importorskip("Box2D")
    job = f"{LONG} --env CarRacing-v3 --workers {workers} --set n_steps=32 batch_size=32 n_epochs=1".replace(
        "--max-episode-steps 20", ""
    ).replace("--size 16", "--size 32")
    log = RUN / "metrics.jsonl"
    ended = killer.run([*job.split(), "--out", str(RUN)], [RUN], after=1.0, number=signal.SIGTERM, when=log)
    assert ended.code == 143, ended.output
    assert "it is saved as it stood there" in ended.output
    assert not killer.orphans()


def test_before_training_and_beside_it_there_is_nothing_to_save(killer: Any) -> None:
    asked = [*LONG.split(), *PPO.split(), "--out", str(RUN)]
    ended = killer.run(asked, [RUN], after=0.0, number=signal.SIGTERM, when=Path("paint"))
    assert ended.code in (143, -signal.SIGTERM), ended.output  # the latter before Python was there to hear it
    assert "Traceback" not in ended.output


def test_an_evaluation_and_a_film_stop_at_once(killer: Any) -> None:
    whole_run(killer, "ppo")
    played = ["evaluate", "whole", "--episodes", "100000", "--max-steps", "0"]
    interrupted(killer, played, [Path("whole")], "before all 100000 episodes were played; nothing was recorded")
    assert not (Path("whole") / "evaluations.jsonl").exists()
    film = ["record", "whole", "--episodes", "100000"]
    first = Path("whole") / "videos"
    ended = killer.run(film, [Path("whole")], after=2.5, number=signal.SIGTERM, when=first)
    assert ended.code == 143, ended.output
    (count,) = re.findall(r"Stopped by SIGTERM: (\d+) of 100000 films are whole and kept", ended.output)
    assert len(list(first.glob("*.mp4"))) == int(count)
    assert not list(first.glob(".*"))
    assert not killer.orphans()
