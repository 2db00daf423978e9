"""Which checkpoint is taken: the one that was named and no other, and otherwise the newest good one, which is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stillsight.agents import RlConfig, load, rl
from stillsight.agents.cli import main
from stillsight.agents.errors import CheckpointError, RunError
from stillsight.agents.playing.play import evaluate
from stillsight.agents.playing.play_config import EvaluateConfig, RecordConfig
from stillsight.agents.playing.video import record
from stillsight.agents.runs import checkpoint, history
from stillsight.agents.runs.folder import Run
from stillsight.agents.runs.records import read_lines
from stillsight.agents.training import callbacks
from stillsight.agents.training.checkpointing import Savepoints
from stillsight.agents.training.continuing.ancestor import ancestor_file
from stillsight.agents.training.state.finite import check_finite
from stillsight.encoders.errors import DiskFault

Tiny = Callable[..., RlConfig]


def stop_at(config: RlConfig, step: int) -> Path:
    """Ctrl-C at `step`; the folder."""
    with pytest.MonkeyPatch.context() as patch:
        original = callbacks.Episodes._on_step

        def on_step(self: callbacks.Episodes) -> bool:
            if self.num_timesteps >= step:
                raise KeyboardInterrupt
            return original(self)

        patch.setattr(callbacks.Episodes, "_on_step", on_step)
        with pytest.raises(RunError, match=f"Stopped at step {step}"):
            rl(config)
    folder = config.out or config.resume
    assert folder is not None
    return folder


def files(folder: Path) -> list[str]:
    return sorted(path.stem for path in (folder / "checkpoints").iterdir())


def flip(path: Path) -> None:
    """Flip one bit of the last number, which without a hash would load as another number."""
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("typed", "name"),
    [("best", "best"), ("last", "last"), ("40000", "40000"), ("40_000", "40000"), ("step-40000", "40000"), ("0", "0")],
)
def test_names(typed: str, name: str) -> None:
    assert history.checkpoint_name(typed) == name


@pytest.mark.parametrize("typed", ["", "latest", "-1", "1e4", "../best", "step-", "9" * 30, "encoder", "replay-64"])
def test_what_is_no_name(typed: str) -> None:
    with pytest.raises(CheckpointError, match=r"is no name of a checkpoint\. Type best, last, or the steps of one"):
        history.checkpoint_name(typed)


def test_a_history_is_kept_without_writing_twice(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    rl(tiny("ppo", steps=192, checkpoint_every=32, eval_every=96, keep=3, out=folder))
    assert files(folder) == ["best", "last", "step-128", "step-160", "step-96"]
    assert history.names(folder) == ["best", "last", "160", "128", "96"]
    assert all(path.stat().st_nlink == 1 for path in (folder / "checkpoints").iterdir()), "nothing lies there twice"
    assert [load(folder, name).step for name in ("96", "128", "160", "last")] == [96, 128, 160, 192]
    assert load(folder, "192").checkpoint == "last"
    assert load(folder).checkpoint == "best"
    # `best` is the agent of the best evaluation, whatever was kept and removed since.
    rows = read_lines(folder / "eval.jsonl")
    best = max(rows, key=lambda row: row["mean"])
    assert load(folder, "best").step == best["step"]
    assert checkpoint.load(folder / "checkpoints" / "best.safetensors")["mean"] == best["mean"]


def test_without_keep_one_is_kept_until_the_run_ends(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny("ppo", steps=160, checkpoint_every=32, out=tmp_path / "run")
    folder = stop_at(config, 120)
    assert files(folder) == ["last", "step-64"]
    rl(RlConfig(resume=folder))
    assert files(folder) == ["best", "last"]


def test_a_kept_checkpoint_is_evaluated_and_recorded(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    rl(tiny("dqn", steps=128, checkpoint_every=32, keep=2, out=folder))
    assert files(folder) == ["best", "last", "replay-128", "step-64", "step-96"], "replay memory of the last one alone"
    result = evaluate(folder, EvaluateConfig(checkpoint="64", episodes=1, random_episodes=0, device="cpu"))
    assert (result["checkpoint"], result["step"]) == ("64", 64)
    (film,) = record(folder, RecordConfig(checkpoint="step-64", device="cpu"))
    assert film.name.startswith("step-64-seed-")
    stored = checkpoint.load(folder / "checkpoints" / "step-64.safetensors")["parameters"]["policy"]
    played = load(folder, "64").model.policy.state_dict()
    assert all(torch.equal(played[name], tensor) for name, tensor in stored.items())
    with pytest.raises(
        CheckpointError, match=r"no checkpoint 32 in .*It has: best \(step 128\), last \(step 128\), 96, 64\."
    ):
        load(folder, "32")


@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_a_damaged_last_checkpoint_is_passed_over_when_a_run_goes_on(
    tiny: Tiny, tmp_path: Path, algo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(algo, steps=160, checkpoint_every=32, eval_every=64, out=tmp_path / "run")
    folder = stop_at(config, 120)
    flip(folder / "checkpoints" / "last.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        began: list[int] = []
        original = callbacks.Episodes._on_training_start

        def start(self: callbacks.Episodes) -> None:
            began.append(self.num_timesteps)
            original(self)

        patch.setattr(callbacks.Episodes, "_on_training_start", start)
        rl(RlConfig(resume=folder))
    assert began == [64]
    said = capsys.readouterr().err
    assert "last.safetensors is damaged or incomplete (its content is not what was written" in said
    assert "Taken in its place: 64." in said
    steps = [row["step"] for row in read_lines(folder / "eval.jsonl")]
    assert steps == sorted(set(steps))
    assert load(folder, "last").step == 160
    for path in (folder / "checkpoints").iterdir():
        checkpoint.load(path)


def test_what_was_damaged_is_gone_when_the_next_checkpoint_is_written(tiny: Tiny, tmp_path: Path) -> None:
    folder = stop_at(tiny("ppo", steps=160, checkpoint_every=32, out=tmp_path / "run"), 120)
    flip(folder / "checkpoints" / "last.safetensors")
    stop_at(RlConfig(resume=folder), 120)
    assert files(folder) == ["last", "step-64"]
    # Were the damaged one kept under the step of the one before it, nothing good would lie there beside the last one.
    assert checkpoint.load(folder / "checkpoints" / "step-64.safetensors")["step"] == 64
    flip(folder / "checkpoints" / "last.safetensors")
    rl(RlConfig(resume=folder))
    assert load(folder, "last").step == 160


def test_a_damaged_replay_memory_is_passed_over_with_its_checkpoint(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stop_at(tiny("dqn", steps=160, checkpoint_every=32, out=tmp_path / "run"), 120)
    assert files(folder) == ["last", "replay-64", "replay-96", "step-64"]
    flip(folder / "checkpoints" / "replay-96.safetensors")
    rl(RlConfig(resume=folder))
    said = capsys.readouterr().err
    assert "replay-96.safetensors is damaged or incomplete" in said
    assert "Taken in its place: 64." in said
    assert files(folder) == ["best", "last", "replay-160"]


def test_where_nothing_good_is_left_a_run_does_not_go_on(tiny: Tiny, tmp_path: Path) -> None:
    folder = stop_at(tiny("dqn", steps=160, checkpoint_every=32, keep=2, out=tmp_path / "run"), 120)
    assert files(folder) == ["last", "replay-64", "replay-96", "step-32", "step-64"]
    flip(folder / "checkpoints" / "replay-96.safetensors")
    flip(folder / "checkpoints" / "step-64.safetensors")
    before = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(
        CheckpointError,
        match=r"replay-96\.safetensors is damaged .*No other checkpoint of the folder can take its place",
    ):
        rl(RlConfig(resume=folder))  # that of step 32 has no replay memory any more
    assert {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert load(folder, "32").step == 32, "which is there to be played"


def test_a_damaged_best_checkpoint_does_not_stop_a_run(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stop_at(tiny("ppo", steps=160, checkpoint_every=32, eval_every=32, out=tmp_path / "run"), 120)
    flip(folder / "checkpoints" / "best.safetensors")
    rl(RlConfig(resume=folder))
    assert "best.safetensors is damaged or incomplete" in capsys.readouterr().err
    assert load(folder, "best").step >= 128, "an evaluation after it"


def test_the_newest_good_one_plays_and_a_named_one_is_refused(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    rl(tiny("ppo", steps=160, checkpoint_every=32, keep=2, out=folder))
    for name in ("best", "last", "step-128"):
        flip(folder / "checkpoints" / f"{name}.safetensors")
    assert load(folder).checkpoint == "96"
    assert "Taken in its place: 96." in capsys.readouterr().err
    for name in ("best", "last", "128"):
        with pytest.raises(CheckpointError, match=r"the sha256 differs.*Good are 96: --checkpoint 96\."):
            load(folder, name)
    flip(folder / "checkpoints" / "step-96.safetensors")
    with pytest.raises(CheckpointError, match="No other checkpoint of the folder is good"):
        load(folder, "best")
    with pytest.raises(CheckpointError, match="No other checkpoint of the folder can take its place"):
        load(folder)


def test_nan_that_a_hash_vouches_for_is_refused_all_the_same(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stop_at(tiny("ppo", steps=160, checkpoint_every=32, eval_every=32, out=tmp_path / "run"), 120)
    for name, key in (("best", "policy"), ("last", "parameters")):
        path = folder / "checkpoints" / f"{name}.safetensors"
        tree = checkpoint.load(path)
        policy = tree[key] if name == "best" else tree[key]["policy"]
        policy["action_net.bias"][1] = float("nan")
        checkpoint.save(path, tree)
    sentence = (
        r"is of no use: 1 of the 3 numbers of \S*action_net\.bias are NaN or infinite, which training saves never"
    )
    with pytest.raises(CheckpointError, match=sentence):
        load(folder, "best")
    assert load(folder).checkpoint == "64"
    capsys.readouterr()
    rl(RlConfig(resume=folder))
    assert "Taken in its place: 64." in capsys.readouterr().err


def test_where_no_links_can_be_made_nothing_is_lost(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(history.os, "link", refuse)
    folder = tmp_path / "run"
    rl(tiny("ppo", steps=128, checkpoint_every=32, keep=2, out=folder))
    assert [load(folder, name).step for name in ("64", "96", "last")] == [64, 96, 128]


@pytest.mark.parametrize("links", [True, False])
def test_the_best_agent_is_there_whatever_happens_while_the_next_one_is_saved(
    trained: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    best, before = (trained / "checkpoints" / f"{name}.safetensors" for name in ("best", "best-before"))
    whole = best.read_bytes()
    before.write_bytes(b"of a crash before")
    with monkeypatch.context() as patch:
        if not links:
            patch.setattr(history.os, "link", refuse)
        history.keep_best(trained, history.BEST_BEFORE)
    assert (best.read_bytes(), before.read_bytes()) == (whole, whole)
    assert best.stat().st_nlink == (2 if links else 1)
    checkpoint.save(best, checkpoint.load(best) | {"mean": 9.0})
    assert before.read_bytes() == whole, "a new best one takes the name, and not the file"


def test_a_disk_that_fills_while_the_best_agent_is_saved_leaves_the_one_before(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, kept = tmp_path / "run", Savepoints.best
    means = iter((1.0, 2.0))

    def save(self: Run, name: str, *rest: Any) -> None:
        if name == "best" and (folder / "checkpoints" / "best.safetensors").exists():
            raise DiskFault(28, "No space left on device", folder)
        original(self, name, *rest)

    original = Run.save
    with monkeypatch.context() as patch:
        patch.setattr(Savepoints, "best", lambda self, _: kept(self, next(means)))
        patch.setattr(Run, "save", save)
        with pytest.raises(DiskFault):
            rl(tiny("ppo", steps=160, checkpoint_every=32, eval_every=48, out=folder))
    player = load(folder)
    assert (player.checkpoint, player.step) == ("best", 48)
    assert player.step < load(folder, "last").step


def test_what_a_crash_left_as_best_before_is_the_best_one(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best, before = (trained / "checkpoints" / f"{name}.safetensors" for name in ("best", "best-before"))
    step = load(trained).step
    assert step != load(trained, "last").step, "else it would show nothing"
    best.rename(before)
    for name in (None, "best", str(step)):
        player = load(trained, name)
        assert (player.checkpoint, player.step) == ("best", step)
    assert history.names(trained)[0] == "best"
    assert ancestor_file(trained, "best") == before
    assert capsys.readouterr().err == ""


def test_a_replay_memory_of_elsewhere_is_not_read(tiny: Tiny, tmp_path: Path) -> None:
    folder = stop_at(tiny("dqn", steps=160, checkpoint_every=64, out=tmp_path / "run"), 120)
    path = folder / "checkpoints" / "last.safetensors"
    tree = checkpoint.load(path)
    checkpoint.save(path, tree | {"replay": "../../secret"})
    with pytest.raises(CheckpointError, match=r"names a replay memory '\.\./\.\./secret' that cannot be its own"):
        rl(RlConfig(resume=folder))


def test_keep_is_a_number_from_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rl", "--keep", "-1"]) == 2
    assert "--keep -1 is too small. Type a number from 0." in capsys.readouterr().err
    assert RlConfig(keep=5).run_name == RlConfig().run_name


def test_no_policy_is_a_sentence(trained: Path) -> None:
    checkpoint.save(trained / "checkpoints" / "best.safetensors", {"step": 3})
    with pytest.raises(CheckpointError, match="holds no policy"):
        load(trained, "best")
    assert callable(check_finite)


def test_rows_reach_the_disk_before_the_checkpoint_that_stands_on_them(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stillsight.agents.runs import folder as run_folder

    synced: list[str] = []
    real = run_folder.sync

    def watched(path: Path) -> None:
        synced.append(path.name)
        real(path)

    saved = checkpoint.save

    def save(path: Path, *rest: object) -> None:
        synced.append(path.stem)
        saved(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(run_folder, "sync", watched)
    monkeypatch.setattr(checkpoint, "save", save)
    rl(tiny("ppo", steps=64, out=tmp_path / "run"))
    assert {"episodes.jsonl", "metrics.jsonl"} <= set(synced[: synced.index("last")])
