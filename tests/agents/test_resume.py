"""A run that was stopped goes on where its last checkpoint stands, and nothing that it had is lost."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.optim.optimizer import register_optimizer_step_pre_hook

from stillsight.agents import RlConfig, rl
from stillsight.agents.doctor.run_check import check_run
from stillsight.agents.errors import CheckpointError, RunError
from stillsight.agents.runs import checkpoint
from stillsight.agents.runs.records import read_lines
from stillsight.agents.training import callbacks
from stillsight.agents.training.checkpointing import Savepoints
from stillsight.agents.training.continuing import games, rollback
from stillsight.agents.training.episodes import Episode, play_episodes
from stillsight.agents.training.state import model_state as state
from stillsight.agents.training.state.rollout_length import learns_at
from stillsight.encoders.system.stopping import Stop
from stillsight.encoders.zoo.retina import retina

Tiny = Callable[..., RlConfig]
ALGOS = ["ppo", "dqn", "sac", "td3"]
STEPS = 128


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ctrl-C once `step` is reached, until it is undone."""
    original = callbacks.Episodes._on_step

    def on_step(self: callbacks.Episodes) -> bool:
        if self.num_timesteps >= step:
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(callbacks.Episodes, "_on_step", on_step)


def interrupt(config: RlConfig, step: int) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(RunError, match=rf"Stopped at step {step}"):
            rl(config)
    assert config.out is not None
    return config.out


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def last(folder: Path) -> dict[str, Any]:
    return checkpoint.load(folder / "checkpoints" / "last.safetensors")


def policy(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = last(folder)["parameters"]["policy"]
    return found


def equal(first: Path, second: Path) -> bool:
    one, other = policy(first), policy(second)
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_run_stopped_before_its_first_checkpoint_records_each_step_once(tiny: Tiny, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    folder = interrupt(RlConfig(**{**vars(tiny("ppo")), "out": tmp_path / "run", "tensorboard": True}), 80)
    assert not (folder / "checkpoints" / "last.safetensors").exists()
    assert read_lines(folder / "episodes.jsonl")
    rl(RlConfig(resume=folder))
    steps = [row["step"] for row in read_lines(folder / "episodes.jsonl")]
    assert steps == sorted(steps)
    assert max(Counter(steps).values()) <= 2, "two environments may end an episode at the same step"
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("episodes/return")] == steps
    evaluations = read_lines(folder / "eval.jsonl")
    drawn = [(event.step, event.value) for event in events.Scalars("eval/mean")]
    assert drawn == [(row["step"], pytest.approx(row["mean"])) for row in evaluations]
    assert drawn


@pytest.mark.parametrize("algo", ALGOS)
def test_a_stopped_run_goes_on_from_its_last_checkpoint(
    tiny: Tiny, tmp_path: Path, algo: str, monkeypatch: pytest.MonkeyPatch, same: Callable[[Any, Any], bool]
) -> None:
    rate = ("learning_rate=lin_1e-3",)
    config = tiny(algo, steps=STEPS, checkpoint_every=32, set=(*tiny(algo).set, *rate))
    config = RlConfig(**{**vars(config), "out": tmp_path / "run"})
    folder = interrupt(config, 80)
    assert not (folder / "done").exists()
    assert not (folder / "summary.json").exists()
    stored = last(folder)
    assert stored["step"] == 64
    replay = stored["replay"]
    assert (replay is None) == (algo == "ppo")
    memory = checkpoint.load(folder / "checkpoints" / f"{replay}.safetensors") if replay else None

    seen: dict[str, Any] = {}
    original = Savepoints.restore

    def restore(self: Savepoints) -> None:
        original(self)
        assert self.evaluation is not None
        again = {
            **state.capture(self.agent.model),
            "sde_noise": None,
            "records": state.records(self.agent.model),
            "games": games.capture(self.agent.model, self.agent.venv),
            "evaluation": self.evaluation.state(),
            **self._facts(),
            "ledger": asdict(self.ledger),
            "ancestor": None,
            "replay": replay,
        }
        seen["last"] = same(again, stored)
        seen["memory"] = same(state.capture_replay(self.agent.model), memory)

    monkeypatch.setattr(Savepoints, "restore", restore)
    result = rl(RlConfig(resume=folder))
    # Weights, moments of Adam, counters, generators, replay memory, ledger: every bit of what was saved is back.
    assert seen == {"last": True, "memory": True}

    assert (folder / "done").exists()
    assert result["env_steps"] == STEPS == last(folder)["step"]
    assert result["wall_seconds"] > stored["ledger"]["seconds"] > 0
    assert result["encoder_sha256_before"] == result["encoder_sha256_after"] == stored["ledger"]["encoder_sha256"]
    # The environments begin anew once, and each of the 128 steps is counted once.
    assert STEPS <= round(result["images_encoded_per_env_step"] * STEPS) <= 1.2 * STEPS
    assert len(json.loads((folder / "machine.json").read_text())["sessions"]) == 2
    assert len(list((folder / "checkpoints").glob("replay-*"))) == (0 if algo == "ppo" else 1)

    whole = RlConfig(**{**vars(config), "out": tmp_path / "whole"})
    rl(whole)
    one, other = last(folder)["counters"], last(tmp_path / "whole")["counters"]
    for name in ("num_timesteps", "_n_updates", "exploration_rate", "_n_calls", "_current_progress_remaining"):
        assert (name in one) == (name in other)
        assert one.get(name) == pytest.approx(other.get(name)), name
    assert one["_current_progress_remaining"] == pytest.approx(0.0)
    rates = [[group["lr"] for group in optimizer(run)] for run in (folder, tmp_path / "whole")]
    assert rates[0] == pytest.approx(rates[1])
    assert rates[0][0] < 1e-3 / 2


def optimizer(folder: Path) -> list[dict[str, Any]]:
    parameters = last(folder)["parameters"]
    return [group for name in sorted(parameters) if "optimizer" in name for group in parameters[name]["param_groups"]]


def stop_within(config: RlConfig, step: int, long: float) -> Path:
    """SIGTERM that finds no end of a rollout and stops `config`'s run at `step`, in the middle of one.

    Args:
        config: of the run.
        step: where it is stopped.
        long: seconds beyond which a rollout counts as long.
    """

    def on_step(self: callbacks.Stoppable) -> bool:
        if self.num_timesteps >= step:
            raise Stop(signal.SIGTERM)
        return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks.Stoppable, "_on_step", on_step)
        patch.setattr(rollback, "LONG", long)
        with pytest.raises(Stop, match=rf"SIGTERM at step {step} of .* as it stood at step "):
            rl(config)
    assert config.out is not None
    return config.out


@pytest.mark.parametrize("algo", ["ppo", "a2c", "recurrent_ppo"])
@pytest.mark.parametrize("every", [0, 32])
def test_a_run_that_is_stopped_in_a_rollout_is_the_same_as_one_that_was_not(
    tiny: Tiny, tmp_path: Path, algo: str, every: int, same: Callable[[Any, Any], bool]
) -> None:
    """The failure it prevents: what is saved holds the games of no moment and the random numbers of a later one, over
    a checkpoint that held those of its own."""
    if algo == "recurrent_ppo":
        pytest.importorskip("sb3_contrib")
    config = tiny(algo, steps=STEPS, checkpoint_every=every, eval_every=20)
    rollout = config.resolved().rollout
    assert rollout is not None
    reached = 64 + rollout // 4 * 2  # both environments step at once
    whole, stopped = (replace(config, out=tmp_path / name) for name in ("whole", "stopped"))
    rl(whole)
    folder = stop_within(stopped, reached, long=0.0)
    stored = last(folder)
    assert stored["step"] == reached // rollout * rollout
    assert stored["games"] is not None
    rl(RlConfig(resume=folder))
    one, other = last(folder), last(tmp_path / "whole")
    for part in ("parameters", "random", "games", "evaluation"):
        assert same(one[part], other[part]), part
    for file in ("episodes.jsonl", "eval.jsonl"):
        assert [_untimed(row) for row in read_lines(folder / file)] == [
            _untimed(row) for row in read_lines(tmp_path / "whole" / file)
        ]


def stop_evaluating(config: RlConfig, step: int, plays: int = 3) -> Path:
    """SIGTERM in the middle of the first evaluation of `config`'s run from `step` on, after so many of its steps."""

    def play(actor: Any, *given: Any, **more: Any) -> list[Episode]:
        watch = more["watch"]

        def stopping(done: int, steps: int, last: Episode | None) -> None:
            watch(done, steps, last)
            if actor.model.num_timesteps >= step and steps >= plays:
                raise Stop(signal.SIGTERM)

        return play_episodes(actor, *given, **more | {"watch": stopping})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks, "play_episodes", play)
        patch.setattr(rollback, "LONG", float("inf"))  # on a busy machine any rollout may be
        with pytest.raises(Stop, match=r"SIGTERM at step .* as it stood at step "):
            rl(config)
    assert config.out is not None
    return config.out


@pytest.mark.parametrize(
    ("algo", "changes"),
    [
        ("ppo", {}),
        ("ppo", {"stochastic_eval": True}),
        ("dqn", {"stochastic_eval": True}),
        ("dqn", {"set": ("buffer_size=60", "tau=0.5", "target_update_interval=2")}),
        ("dqn", {"n_envs": 1, "set": ("train_freq=[1, 'episode']", "n_steps=3")}),
        ("sac", {"set": ("use_sde=True", "sde_sample_freq=2")}),
    ],
)
def test_a_run_that_is_stopped_in_an_evaluation_is_the_same_as_one_that_was_not(
    tiny: Tiny, tmp_path: Path, algo: str, changes: dict[str, Any], same: Callable[[Any, Any], bool]
) -> None:
    """The failure it prevents: episodes begin anew and the games of evaluations skip some, although the card has said
    that they would go on where they stood."""
    changes = {**changes, "set": (*tiny(algo).set, *changes.get("set", ()))}
    config = tiny(algo, steps=STEPS, eval_every=21, eval_episodes=3, **changes)
    whole, stopped = (replace(config, out=tmp_path / name) for name in ("whole", "stopped"))
    rl(whole)
    folder = stop_evaluating(stopped, 84)
    assert [row["step"] // 21 for row in read_lines(folder / "eval.jsonl")] == [1, 2, 3]
    assert last(folder)["games"] is not None
    assert last(folder)["step"] <= 84
    rl(RlConfig(resume=folder))
    one, other = last(folder), last(tmp_path / "whole")
    for part in ("parameters", "variables", "random", "games", "evaluation"):
        assert same(one[part], other[part]), part
    assert one["replay"] == other["replay"]
    if one["replay"]:
        memories = [
            checkpoint.load(run / "checkpoints" / f"{one['replay']}.safetensors") for run in (folder, whole.out)
        ]
        assert same(*memories)
    for file in ("episodes.jsonl", "eval.jsonl"):
        assert [_untimed(row) for row in read_lines(folder / file)] == [
            _untimed(row) for row in read_lines(tmp_path / "whole" / file)
        ]


def stop_learning(config: RlConfig, update: int, step: int, long: float) -> Path:
    """SIGTERM as the optimizers of `config`'s run make step `step` of its update `update`, for which nobody has the
    patience to wait.

    Args:
        config: of the run.
        update, step: counted from 1.
        long: seconds beyond which an update counts as long.
    """
    began, made = [0], Counter[int]()

    def on_rollout_end(self: callbacks.Stoppable) -> None:
        self.savepoints.rollout_ended()
        began[0] += learns_at(self.model, self.num_timesteps)

    def count(*_: object) -> None:
        made[began[0]] += 1
        if began[0] == update and made[update] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    hook = register_optimizer_step_pre_hook(count)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(callbacks.Stoppable, "_on_rollout_end", on_rollout_end)
            patch.setattr(callbacks.Stoppable.__init__, "__defaults__", (-1.0,))
            patch.setattr(rollback, "LONG", long)
            with pytest.raises(Stop, match=r"SIGTERM at step "):
                rl(config)
    finally:
        hook.remove()
    assert max(made) == update
    assert config.out is not None
    return config.out


def metrics(folder: Path) -> list[dict[str, Any]]:
    rows = read_lines(folder / "metrics.jsonl") if (folder / "metrics.jsonl").exists() else []
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


@pytest.mark.parametrize(
    ("algo", "update", "step", "changes"),
    [
        ("ppo", 1, 3, {}),
        ("ppo", 3, 3, {"eval_every": 20}),
        ("ppo", 3, 1, {"mode": "finetune", "checkpoint_every": 64}),
        ("recurrent_ppo", 2, 3, {}),
        ("dqn", 1, 1, {}),
        ("dqn", 9, 2, {"set": ("buffer_size=60", "tau=0.5", "target_update_interval=2", "gradient_steps=3")}),
        ("dqn", 2, 7, {"n_envs": 1, "set": ("train_freq=[1, 'episode']", "gradient_steps=-1", "n_steps=3")}),
        ("sac", 5, 1, {"set": ("use_sde=True",), "eval_every": 20}),
        ("td3", 6, 2, {}),
    ],
)
def test_a_run_that_is_stopped_in_an_update_is_the_same_as_one_that_was_not(
    tiny: Tiny,
    tmp_path: Path,
    algo: str,
    update: int,
    step: int,
    changes: dict[str, Any],
    same: Callable[[Any, Any], bool],
) -> None:
    """The failure it prevents: weights and moments of half an update, saved beside the games of all of its rollout."""
    if algo == "recurrent_ppo":
        pytest.importorskip("sb3_contrib")
    changes = {**changes, "set": (*tiny(algo).set, *changes.get("set", ()))}
    config = tiny(algo, steps=STEPS, **changes)
    whole, stopped = (replace(config, out=tmp_path / name) for name in ("whole", "stopped"))
    rl(whole)
    folder = stop_learning(stopped, update, step, long=-1.0)
    if (folder / "checkpoints" / "last.safetensors").exists():
        assert last(folder)["games"] is not None
    else:
        assert (algo, update) == ("ppo", 1), "nothing was learned before it"
    rl(RlConfig(resume=folder))
    assert_the_same(folder, tmp_path / "whole", same)


@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_an_update_that_was_not_expected_to_be_long_is_waited_for(
    tiny: Tiny, tmp_path: Path, algo: str, same: Callable[[Any, Any], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(algo, steps=STEPS)
    whole, stopped = (replace(config, out=tmp_path / name) for name in ("whole", "stopped"))
    rl(whole)
    with monkeypatch.context() as patch:
        patch.setattr(state, "copied", lambda _: pytest.fail("what takes no time is not to be paid for"))
        folder = stop_learning(stopped, 2, 1, long=float("inf"))
    stored = last(folder)
    assert stored["games"] is not None
    assert stored["counters"]["_n_updates"] == 2 * (2 if algo == "ppo" else 1), "both updates are whole"
    rl(RlConfig(resume=folder))
    assert_the_same(folder, tmp_path / "whole", same)


def test_networks_are_copied_before_the_first_update_and_no_more_where_it_was_short(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copies: list[dict[str, Any]] = []
    original = state.copied

    def copied(given: dict[str, Any]) -> dict[str, Any]:
        copies.append(original(given))
        return copies[-1]

    monkeypatch.setattr(state, "copied", copied)
    monkeypatch.setattr(rollback, "LONG", 600.0)
    rl(tiny("ppo", steps=STEPS, out=tmp_path / "run"))
    assert [one["counters"]["num_timesteps"] for one in copies] == [0]
    held = copies[0]["parameters"]["policy"]
    shared = [name for name in held if name.startswith(("pi_features_extractor.", "vf_features_extractor."))]
    assert shared
    for name in shared:
        assert held[name].data_ptr() == held[name.partition("_")[2]].data_ptr(), "it is one network under three names"


def assert_the_same(folder: Path, whole: Path, same: Callable[[Any, Any], bool]) -> None:
    """Two finished runs are the same to the bit, but for what counts time."""
    one, other = last(folder), last(whole)
    for part in ("parameters", "variables", "random", "games", "evaluation", "replay"):
        assert same(one[part], other[part]), part
    if one["replay"]:
        assert same(*(checkpoint.load(run / "checkpoints" / f"{one['replay']}.safetensors") for run in (folder, whole)))
    for file in ("episodes.jsonl", "eval.jsonl"):
        assert [_untimed(row) for row in read_lines(folder / file)] == [
            _untimed(row) for row in read_lines(whole / file)
        ]
    assert metrics(folder) == metrics(whole)
    assert metrics(folder)


def _untimed(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if "seconds" not in name and name != "time"}


def test_of_a_rollout_that_was_not_expected_to_be_long_the_games_are_lost_and_a_good_checkpoint_is_not(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny("ppo", steps=STEPS, checkpoint_every=0, out=tmp_path / "none")
    folder = stop_within(config, 80, long=float("inf"))
    assert (last(folder)["step"], last(folder)["games"]) == (64, None)
    capsys.readouterr()
    rl(RlConfig(resume=folder))
    assert "the checkpoint holds no games: it was written in the middle of a rollout" in capsys.readouterr().out
    kept = stop_within(replace(config, checkpoint_every=32, out=tmp_path / "kept"), 80, long=float("inf"))
    assert last(kept)["step"] == 64
    assert last(kept)["games"] is not None, "it was written before that rollout, and stays"


def test_going_on_twice_from_one_checkpoint_gives_one_result(tiny: Tiny, tmp_path: Path) -> None:
    import shutil

    folder = interrupt(tiny("ppo", steps=STEPS, checkpoint_every=32, out=tmp_path / "run"), 80)
    shutil.copytree(folder, tmp_path / "copy")
    before = policy(folder)
    rl(RlConfig(resume=folder))
    rl(RlConfig(resume=tmp_path / "copy"))
    assert equal(folder, tmp_path / "copy")
    assert any((tensor != before[name]).any() for name, tensor in policy(folder).items())


def test_a_run_that_was_stopped_before_its_first_checkpoint_starts_from_the_beginning(
    tiny: Tiny, tmp_path: Path
) -> None:
    folder = interrupt(tiny("ppo", out=tmp_path / "run"), 16)
    assert not (folder / "checkpoints" / "last.safetensors").exists()
    result = rl(RlConfig(resume=folder))
    assert (folder / "done").exists()
    assert result["env_steps"] == 96
    rl(tiny("ppo", out=tmp_path / "whole"))
    assert equal(folder, tmp_path / "whole")


def test_a_resumed_run_plays_other_episodes_than_those_that_it_began_with(tiny: Tiny, tmp_path: Path) -> None:
    folder = interrupt(tiny("ppo", steps=STEPS, checkpoint_every=32, out=tmp_path / "run"), 80)
    frames = []
    original = Savepoints.restore

    def restore(self: Savepoints) -> None:
        frames.append(self.agent.venv.reset())
        original(self)
        frames.append(self.agent.venv.reset())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Savepoints, "restore", restore)
        rl(RlConfig(resume=folder))
    assert (frames[0] != frames[1]).any()


def test_a_finished_run_is_not_resumed(trained: Path) -> None:
    before = files(trained)
    with pytest.raises(RunError, match=r"is finished\. Record it with: stillsight record"):
        rl(RlConfig(resume=trained))
    assert files(trained) == before


def test_other_encoder_weights_are_refused(tiny: Tiny, tmp_path: Path, retina_file: Path) -> None:
    weights = tmp_path / "mine.safetensors"
    weights.write_bytes(retina_file.read_bytes())
    folder = interrupt(tiny("ppo", weights=weights, checkpoint_every=32, out=tmp_path / "run"), 80)
    save_file(retina().model.state_dict(), weights)
    before = files(folder)
    with pytest.raises(RunError, match=r"was trained on frozen retina weights with sha256 .*mine\.safetensors gives"):
        rl(RlConfig(resume=folder))
    assert files(folder) == before


@pytest.mark.parametrize("which", ["last", "replay"])
def test_a_truncated_checkpoint_is_a_sentence_and_nothing_is_lost(tiny: Tiny, tmp_path: Path, which: str) -> None:
    folder = interrupt(tiny("dqn", steps=STEPS, checkpoint_every=32, out=tmp_path / "run"), 40)  # one checkpoint
    (path,) = (folder / "checkpoints").glob(f"{which}*.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    before = files(folder)
    with pytest.raises(CheckpointError, match="is damaged or incomplete"):
        rl(RlConfig(resume=folder))
    assert files(folder) == before


def test_a_folder_without_a_run_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is no run folder: it has no config\.json"):
        rl(RlConfig(resume=tmp_path))
    (tmp_path / "config.json").write_text('{"command": "rl", "env": ')
    with pytest.raises(RunError, match=r"config\.json is damaged"):
        rl(RlConfig(resume=tmp_path))


def test_an_encoder_that_learns_goes_on_too(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny("ppo", mode="finetune", steps=STEPS, checkpoint_every=32, out=tmp_path / "run")
    folder = interrupt(config, 80)
    result = rl(RlConfig(resume=folder))
    assert result["encoder_sha256_before"] == last(folder)["ledger"]["encoder_sha256"]
    assert result["encoder_sha256_before"] != result["encoder_sha256_after"]


@pytest.mark.parametrize("known", [True, False])
def test_a_best_agent_that_a_crash_took_back_gives_way_to_the_best_of_what_is_kept(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], known: bool
) -> None:
    """The failure it prevents: a summary and a best agent of an evaluation that no log has, because what came after the
    checkpoint was played again and ended otherwise."""
    scores = iter([2.0, 1.0, 5.0, 1.5, 1.0] if known else [5.0, 1.5, 1.0])
    monkeypatch.setattr(callbacks, "play_episodes", lambda *_, **__: [Episode(next(scores), 20, False)])
    asked = {"checkpoint_every": 64, "eval_every": 32 if known else 96, "out": tmp_path / "run"}
    folder = interrupt(tiny("ppo", steps=STEPS, **asked), 98)
    assert (last(folder)["step"], best(folder)) == (64, (96, 5.0))
    before = checkpoint.load(folder / "checkpoints" / "best-before.safetensors") if known else {}
    result = rl(RlConfig(resume=folder))
    told = capsys.readouterr().err
    assert "The best agent was one of step 96, which lies after the checkpoint and is taken back" in told
    assert ("that of step 32 is." in told) is known
    assert [row["mean"] for row in read_lines(folder / "eval.jsonl")] == ([2.0, 1.0, 1.5, 1.0] if known else [1.5, 1.0])
    assert result["best_return_mean"] == (2.0 if known else 1.5)
    assert best(folder) == ((32, 2.0) if known else (96, 1.5))
    if known:
        now = checkpoint.load(folder / "checkpoints" / "best.safetensors")
        assert all(torch.equal(tensor, now["policy"][name]) for name, tensor in before["policy"].items())
    assert not (folder / "checkpoints" / "best-before.safetensors").exists()
    outcomes = {one.check: one for one in check_run(folder)}
    assert outcomes["summary.json"].state == "ok"
    summary = json.loads((folder / "summary.json").read_text()) | {"best_return_mean": 5.0}
    (folder / "summary.json").write_text(json.dumps(summary))
    outcomes = {one.check: one for one in check_run(folder)}
    assert "its best return is 5.0, and no row of eval.jsonl has that" in outcomes["summary.json"].found


@pytest.mark.parametrize("where", ["rollout", "update"])
def test_a_best_agent_that_a_stop_took_back_gives_way_to_the_best_of_what_is_kept(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The failure it prevents: the best agent is gone that came after the last checkpoint and before the rollout."""
    scores = iter([2.0, 1.0, 5.0, 4.0] if where == "update" else [2.0, 1.0, 5.0])
    monkeypatch.setattr(callbacks, "play_episodes", lambda *_, **__: [Episode(next(scores), 20, False)])
    config = tiny("ppo", steps=96, checkpoint_every=0, eval_every=16, out=tmp_path / "run")
    folder = stop_learning(config, 2, 1, long=-1.0) if where == "update" else stop_within(config, 50, long=-1.0)
    assert next(scores, None) is None, "the third one was best"
    assert (last(folder)["step"], best(folder)) == (32, (16, 2.0))
    scores = iter([1.5, 1.0, 1.0, 1.0])
    assert rl(RlConfig(resume=folder))["best_return_mean"] == 2.0
    assert best(folder) == (16, 2.0)
    assert not list((folder / "checkpoints").glob("best-*"))


def best(folder: Path) -> tuple[int, float]:
    stored = checkpoint.load(folder / "checkpoints" / "best.safetensors")
    return stored["step"], stored["mean"]
