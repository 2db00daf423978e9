"""A run goes on with other flags where they may change, is refused by name where they may not, and ignores nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillsight.agents import RlConfig, rl
from stillsight.agents.cli import main
from stillsight.agents.doctor.run_check import check_run
from stillsight.agents.errors import RunError
from stillsight.agents.runs import checkpoint
from stillsight.agents.runs.reader import read_summary
from stillsight.agents.runs.records import read_lines
from stillsight.agents.training import callbacks
from stillsight.agents.training.continuing.resuming import resumed
from stillsight.agents.training.episodes import Episode

Tiny = Callable[..., RlConfig]
Same = Callable[[Any, Any], bool]
CONSTANT = {
    "ppo": ("learning_rate=3e-4", "clip_range=0.2"),
    "dqn": ("exploration_initial_eps=0.1", "exploration_final_eps=0.1"),
    "sac": ("n_steps=3",),
    "recurrent_ppo": ("learning_rate=3e-4", "clip_range=0.2"),
}
HALF = 64
CLOCKS = ("train_seconds", "train_cpu_seconds")


@pytest.fixture
def finished(trained: Path, tmp_path: Path) -> Path:
    """A copy of a finished run of 96 steps."""
    return Path(shutil.copytree(trained, tmp_path / "finished"))


def last(folder: Path) -> dict[str, Any]:
    return checkpoint.load(folder / "checkpoints" / "last.safetensors")


def rows(folder: Path, stream: str) -> list[dict[str, Any]]:
    path = folder / f"{stream}.jsonl"
    found = read_lines(path) if path.exists() else []
    return [
        {name: value for name, value in row.items() if not name.startswith("time/") and name not in CLOCKS}
        for row in found
    ]


def config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


@pytest.mark.parametrize("algo", CONSTANT)
def test_half_and_half_is_the_whole_to_the_bit(tiny: Tiny, tmp_path: Path, same: Same, algo: str) -> None:
    if algo == "recurrent_ppo":
        pytest.importorskip("sb3_contrib")
    # Evaluations at 48 and 96: at the half itself the finished one plays another, after its last update.
    asked = {
        "set": (*tiny(algo).set, *CONSTANT[algo]),
        "checkpoint_every": 32,
        "eval_every": 48,
        "max_episode_steps": 25,
        "threads": 1,
        "device": "cpu",
    }
    whole, half = tmp_path / "whole", tmp_path / "half"
    rl(tiny(algo, steps=2 * HALF, out=whole, **asked))
    rl(tiny(algo, steps=HALF, out=half, **asked))
    assert last(half)["games"] is not None
    result = rl(RlConfig(resume=half, steps=2 * HALF))

    one, other = last(whole), last(half)
    for name in ("parameters", "variables", "random", "step", "replay", "games", "evaluation"):
        assert same(one[name], other[name]), name
    del one["counters"]["_num_timesteps_at_start"], other["counters"]["_num_timesteps_at_start"]
    assert one["counters"] == other["counters"]
    if one["replay"] is not None:
        memory = [checkpoint.load(run / "checkpoints" / f"{one['replay']}.safetensors") for run in (whole, half)]
        assert same(*memory)
    for stream in ("metrics", "episodes"):
        assert rows(whole, stream) == rows(half, stream)
    assert rows(whole, "episodes")
    evaluations = rows(half, "eval")
    assert [row["step"] for row in evaluations] == [48, HALF, 96, 2 * HALF]
    assert [row for row in evaluations if row["step"] != HALF] == rows(whole, "eval")
    assert result["env_steps"] == 2 * HALF
    assert (half / "done").exists()
    assert json.loads((half / "summary.json").read_text())["env_steps"] == 2 * HALF
    assert config(half)["steps"] == 2 * HALF
    sessions = json.loads((half / "machine.json").read_text())["sessions"]
    assert [session.get("changed") for session in sessions] == [None, {"steps": {"before": HALF, "now": 2 * HALF}}]


def test_a_finished_run_that_goes_on_has_no_summary_of_what_it_was(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: callbacks.Episodes) -> bool:
        if self.num_timesteps >= 150:
            raise KeyboardInterrupt
        return step(self)

    step = callbacks.Episodes._on_step
    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Episodes, "_on_step", interrupt)
        with pytest.raises(RunError, match="Stopped at step"):
            rl(RlConfig(resume=finished, steps=192, checkpoint_every=32))
    assert not (finished / "done").exists()
    assert not (finished / "summary.json").exists()
    assert {outcome.state for outcome in check_run(finished)} == {"ok", "note"}
    capsys.readouterr()
    assert main(["list", "runs", "--folder", str(tmp_path)]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith(str(finished)))
    assert " unfinished " in line
    assert "of 192" in line
    rl(RlConfig(resume=finished))
    assert json.loads((finished / "summary.json").read_text())["env_steps"] == 192


def test_one_that_is_killed_between_done_and_its_summary_tells_of_neither(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (finished / "done").unlink()
    assert read_summary(finished) is None
    assert main(["list", "runs", "--folder", str(tmp_path)]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith(str(finished)))
    assert "of 96" in line


def test_environments_in_workers_go_on_too(tiny: Tiny, tmp_path: Path, same: Same) -> None:
    asked = {"set": (*tiny("ppo").set, *CONSTANT["ppo"]), "checkpoint_every": 32, "eval_every": 0, "threads": 1}
    whole, half = tmp_path / "whole", tmp_path / "half"
    rl(tiny("ppo", steps=2 * HALF, out=whole, workers="off", **asked))
    rl(tiny("ppo", steps=HALF, out=half, workers="on", **asked))
    rl(RlConfig(resume=half, steps=2 * HALF, workers="on"))
    assert same(last(whole)["parameters"], last(half)["parameters"])
    games = [last(run)["games"] for run in (whole, half)]
    for each in games:
        del each["envs"][0]["actions"]  # in one process SB3 draws from the first copy's space itself, and seeds it anew
    assert same(*games)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--seed 9", "not with --seed 9 (it has 0)"),
        ("--algo a2c --seed 9", "not with --seed 9 (it has 0), --algo a2c (it has ppo)"),
        ("--mode scratch --steps 200", "not with --mode scratch (it has frozen)"),
        ("--set n_steps=32", "not with --set n_steps=32 (it has "),
        ("--n-envs 3", "not with --n-envs 3 (it has 2)"),
        ("--unfreeze layer2", "not with --unfreeze layer2 (it has None)"),
        ("--out elsewhere", "not with --out elsewhere (it has "),
        # The default is a wish as well: the run has another.
        ("--head 512", "not with --head 512 (it has 16)"),
        ("--from elsewhere", "not with --from elsewhere (it has None)"),
    ],
)
def test_what_may_not_change_is_refused_by_name(
    finished: Path, capsys: pytest.CaptureFixture[str], words: str, told: str
) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    assert main(["rl", "--resume", str(finished), *words.split()]) == 2
    sentence = capsys.readouterr().err
    assert told in sentence
    assert "On --resume may change: --steps, --workers, --engine" in sentence
    assert f"--from {finished}" in sentence
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_what_is_the_same_may_be_typed_again(finished: Path) -> None:
    same = ["--algo", "ppo", "--seed", "0", "--set", "n_steps=16"]
    assert main(["rl", "--resume", str(finished), "--steps", "128", *same]) == 0
    assert last(finished)["step"] == 128


def test_a_flag_at_its_default_is_a_change_where_the_run_has_another(finished: Path) -> None:
    asked = RlConfig(resume=finished)
    asked.check_given({"resume", "steps"})
    going_on = resumed(asked, finished, "rl")
    assert going_on.changed == {"steps": (96, 100_000)}
    # In Python nothing is typed: a default is none.
    with pytest.raises(RunError, match=r"is finished\."):
        resumed(RlConfig(resume=finished), finished, "rl")


def test_what_was_put_back_to_its_default_follows_the_new_length(finished: Path) -> None:
    asked = RlConfig(resume=finished, steps=500)
    asked.check_given({"resume", "steps", "eval_every"})
    going_on = resumed(asked, finished, "rl")
    assert going_on.config.eval_every == 50
    short = RlConfig(resume=finished, steps=200)
    short.check_given({"resume", "steps", "eval_every"})
    assert resumed(short, finished, "rl").config.eval_every == 32, "no less than a rollout"
    assert going_on.changed["steps"] == (96, 500)
    assert set(going_on.changed) == {"steps", "eval_every"}


@pytest.mark.parametrize("words", ["", "--steps 96", "--steps 40", "--device cpu"])
def test_a_finished_run_goes_on_with_more_steps_alone(
    finished: Path, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    assert main(["rl", "--resume", str(finished), *words.split()]) == 2
    assert f"type a larger number: --resume {finished} --steps 192" in capsys.readouterr().err
    assert (finished / "done").exists()


def test_a_stopped_run_cannot_end_before_it_stands(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (finished / "done").unlink()
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    assert main(["rl", "--resume", str(finished), "--steps", "90"]) == 2
    assert "stands at step 96, and --steps 90 does not lie beyond it" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_changed_flags_are_checked_as_new_ones(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rl", "--resume", str(finished), "--steps", "200", "--eval-episodes", "0"]) == 2
    assert "--eval-episodes 0 is too small" in capsys.readouterr().err


def test_a_run_of_another_command_is_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cifar", "--resume", str(finished)]) == 2
    assert f"is one of rl. Type: stillsight rl --resume {finished}" in capsys.readouterr().err


def test_the_card_says_how_schedules_go_on(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    rl(tiny("ppo", steps=64, out=folder, set=(*tiny("ppo").set, "learning_rate=lin_1e-3")))
    assert "episodes would go on where they stood" in capsys.readouterr().out
    rl(RlConfig(resume=folder, steps=128))
    card = capsys.readouterr().out
    assert "at step 64 of 128; steps 64 before, 128 now" in card
    assert "go on where they stood" in card
    rates = [row["train/learning_rate"] for row in rows(folder, "metrics") if "train/learning_rate" in row]
    assert rates[1:3] == pytest.approx([0.5e-3, 0.25e-3])
    assert f"128 steps: learning_rate goes on at {rates[2]:.3g}, where it stood at {rates[1]:.3g}." in card
    assert rates[0] == pytest.approx(0.5e-3)
    assert max(rates[2:]) == pytest.approx(1e-3 * (1 - 96 / 128))


def test_evaluations_play_on_after_the_one_that_ended_a_run(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: Same
) -> None:
    """The failure it prevents: the games of the last evaluation are shown again by the next one, to another agent."""
    ended: list[Any] = []
    evaluate, restore = callbacks.Evaluate.evaluate, callbacks.Evaluate.restore

    def evaluated(self: callbacks.Evaluate, **how: bool) -> list[Episode]:
        episodes = evaluate(self, **how)
        ended.append(self.state())
        return episodes

    def restored(self: callbacks.Evaluate, *given: Any) -> None:
        restore(self, *given)
        ended.append(self.state())

    monkeypatch.setattr(callbacks.Evaluate, "evaluate", evaluated)
    monkeypatch.setattr(callbacks.Evaluate, "restore", restored)
    config = tiny("ppo", steps=64, eval_every=32, eval_episodes=3, out=tmp_path / "run")
    rl(config)
    killed = tmp_path / "killed"
    shutil.copytree(tmp_path / "run", killed)
    rl(RlConfig(resume=tmp_path / "run", steps=128))
    assert not same(ended[0], ended[1])
    assert same(ended[1], ended[2])

    # Killed after the games were kept and before the evaluation was recorded: it is played again, with its own games.
    whole = rows(killed, "eval")
    (killed / "done").unlink()
    (killed / "eval.jsonl").write_text(json.dumps(whole[0]) + "\n")
    stood = last(killed)
    rl(RlConfig(resume=killed))
    assert rows(killed, "eval") == whole
    for part in ("evaluation", "evaluated", "games", "random"):
        assert same(last(killed)[part], stood[part]), part
    # And after it was recorded: it stays, and so do its games.
    (killed / "done").unlink()
    rl(RlConfig(resume=killed))
    assert same(last(killed)["evaluated"], stood["evaluated"])
    assert same(last(killed)["evaluation"], stood["evaluation"])


def best(folder: Path) -> tuple[int, float, dict[str, int] | None]:
    stored = checkpoint.load(folder / "checkpoints" / "best.safetensors")
    return stored["step"], stored["mean"], stored.get("evaluated")


def scored(monkeypatch: pytest.MonkeyPatch, *means: float) -> None:
    """Let the next evaluations have these means."""
    scores = iter(means)

    def play(*_: Any, **more: Any) -> list[Episode]:
        more["watch"](1, 20, None)
        return [Episode(next(scores), 20, False)]

    monkeypatch.setattr(callbacks, "play_episodes", play)


def interrupted(config: RlConfig, step: int) -> None:
    """Ctrl-C at once as `config`'s run comes to `step`."""

    def on_step(self: callbacks.Episodes) -> bool:
        if self.num_timesteps >= step:
            raise KeyboardInterrupt
        return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks.Episodes, "_on_step", on_step)
        with pytest.raises(RunError, match="Stopped at step"):
            rl(config)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"eval_episodes": 2}, "eval_episodes 1 before, 2 now"),
        ({"eval_max_steps": 5}, "eval_max_steps 10000 before, 5 now"),
        (
            {"eval_episodes": 2, "eval_max_steps": 5},
            "eval_episodes 1 before, 2 now; eval_max_steps 10000 before, 5 now",
        ),
    ],
)
@pytest.mark.parametrize("older", [False, True])
def test_the_best_of_other_evaluations_is_not_to_be_beaten(
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, int],
    told: str,
    older: bool,
) -> None:
    """The failure it prevents: an agent of easier evaluations stays the best one for ever."""
    folder = tmp_path / "run"
    scored(monkeypatch, 9.0, 8.0)
    interrupted(tiny("ppo", steps=2 * HALF, eval_every=32, checkpoint_every=32, out=folder), 80)
    held = {"eval_episodes": 1, "eval_max_steps": 10_000}
    assert best(folder) == (32, 9.0, held)
    path = folder / "checkpoints" / "best.safetensors"
    if older:  # which did not write down what its mean was of
        stored = checkpoint.load(path)
        checkpoint.save(path, {name: value for name, value in stored.items() if name != "evaluated"})
    before = path.read_bytes()
    capsys.readouterr()
    if not older:  # once more stopped before the first evaluation of the new kind
        interrupted(RlConfig(resume=folder, **changes), 80)
        assert path.read_bytes() == before
        assert "that of step 32 stays until the next evaluation" in " ".join(capsys.readouterr().out.split())
        changes = {}
    scored(monkeypatch, 1.0, 2.0)
    result = rl(RlConfig(resume=folder, **changes))
    said = " ".join(capsys.readouterr().out.split())
    assert f"that of step 32 stays until the next evaluation, which is of another kind: {told}" in said
    assert result["best_return_mean"] == 2.0
    assert best(folder) == (2 * HALF, 2.0, held | {name: config(folder)[name] for name in held})
    assert [row["mean"] for row in rows(folder, "eval")] == [9.0, 8.0, 1.0, 2.0]
    assert all(outcome.state != "wrong" for outcome in check_run(folder))


def test_the_first_of_other_evaluations_is_best_and_worse_ones_are_not(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    scored(monkeypatch, 9.0, 8.0)
    interrupted(tiny("ppo", steps=2 * HALF, eval_every=32, checkpoint_every=32, out=folder), 80)
    scored(monkeypatch, 1.0, 0.5)
    rl(RlConfig(resume=folder, eval_episodes=2))
    assert best(folder)[:2] == (96, 1.0)


def test_a_last_evaluation_that_has_its_row_is_of_the_kind_of_before(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed behind that row, with nothing left to evaluate: the row's agent is not best by another kind."""
    folder = tmp_path / "run"
    scored(monkeypatch, 9.0, 8.0)
    rl(tiny("ppo", steps=64, eval_every=32, checkpoint_every=32, out=folder))
    for name in ("done", "summary.json"):
        (folder / name).unlink()
    assert rl(RlConfig(resume=folder, eval_episodes=2))["best_return_mean"] == 9.0
    assert best(folder) == (32, 9.0, {"eval_episodes": 1, "eval_max_steps": 10_000})
    assert [row["mean"] for row in rows(folder, "eval")] == [9.0, 8.0]


@pytest.mark.parametrize("changes", [{}, {"eval_every": 16}, {"eval_envs": 1}, {"eval_episodes": 1}])
def test_the_best_of_the_same_evaluations_is_to_be_beaten(
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, int],
) -> None:
    folder = tmp_path / "run"
    scored(monkeypatch, 9.0, 8.0)
    interrupted(tiny("ppo", steps=2 * HALF, eval_every=32, checkpoint_every=32, out=folder), 80)
    capsys.readouterr()
    scored(monkeypatch, 1.0, 2.0, 3.0, 4.0)
    assert rl(RlConfig(resume=folder, **changes))["best_return_mean"] == 9.0
    assert best(folder)[:2] == (32, 9.0)
    assert "best agent" not in capsys.readouterr().out


def test_games_that_cannot_be_saved_begin_anew_and_the_card_says_so(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from stillsight.envs import state

    folder = tmp_path / "run"
    monkeypatch.delattr("stillsight.envs.orchard.orchard.Orchard.snapshot")
    rl(tiny("ppo", steps=64, out=folder))
    assert "episodes would begin anew: stillsight/Orchard-v0 cannot save its state" in capsys.readouterr().out
    assert last(folder)["games"] is None
    assert last(folder)["evaluation"] is None
    rl(RlConfig(resume=folder, steps=128))
    assert "begin anew: stillsight/Orchard-v0 cannot save its state" in capsys.readouterr().out
    assert state.KEPT


def test_a_checkpoint_without_games_begins_them_anew(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = finished / "checkpoints" / "last.safetensors"
    tree = checkpoint.load(path)
    del tree["games"], tree["evaluation"], tree["records"], tree["ancestor"]  # as versions before wrote it
    checkpoint.save(path, tree)
    rl(RlConfig(resume=finished, steps=128))
    assert "begin anew: the checkpoint holds no games" in capsys.readouterr().out


def test_games_that_do_not_fit_are_a_sentence(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = finished / "checkpoints" / "last.safetensors"
    tree = checkpoint.load(path)
    tree["games"]["envs"] = tree["games"]["envs"][:1]
    checkpoint.save(path, tree)
    assert main(["rl", "--resume", str(finished), "--steps", "128"]) == 2
    told = capsys.readouterr().err
    assert "The games in the checkpoint do not fit this run" in told
    assert "are of 1 environments, and 2 play here" in told
