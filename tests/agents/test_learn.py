"""Whole runs, small: every algorithm in every mode, and what is left in the run folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stillsight.agents import RlConfig, rl
from stillsight.agents.errors import RunError
from stillsight.agents.features.extractor import canonical
from stillsight.agents.runs import checkpoint
from stillsight.agents.runs.folder import Run
from stillsight.agents.runs.reader import read_config
from stillsight.agents.runs.records import revive
from stillsight.agents.training.algorithms import ALGORITHMS
from stillsight.agents.training.build import make_agent
from stillsight.agents.training.learn import learn
from stillsight.agents.training.presets import preset
from stillsight.agents.training.summary import card
from stillsight.encoders import Mode
from stillsight.encoders.building import build as build_encoder

Tiny = Callable[..., RlConfig]

SUMMARY = [
    "env",
    "algo",
    "mode",
    "seed",
    "return_mean",
    "return_std",
    "return_episodes",
    "return_capped",
    "return_deterministic",
    "best_return_mean",
    "env_steps",
    "wall_seconds",
    "cpu_seconds",
    "env_steps_per_s",
    "images_encoded_per_env_step",
    "peak_memory_bytes",
    "buffer_bytes",
    "trainable_parameters",
    "encoder",
    "tap",
    "pooling",
    "fusion",
    "resolution",
    "unfreeze",
    "adapt",
    "batchnorm",
    "lora_rank",
    "encoder_lr",
    "encoder_loss",
    "in_policy",
    "vec_env",
    "device",
    "computed_in",
    "engine",
    "engine_seconds_per_batch",
    "weights_source",
    "weights_name",
    "weights_sha256",
    "weights_licence",
    "from",
    "encoder_sha256_before",
    "encoder_sha256_after",
]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def policy(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = checkpoint.load(folder / "checkpoints" / "last.safetensors")["parameters"][
        "policy"
    ]
    return found


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_algorithm_trains_in_every_mode(tiny: Tiny, tmp_path: Path, algo: str, mode: Mode) -> None:
    folder = tmp_path / "run"
    result = rl(tiny(algo, mode=mode, steps=64, frame_stack=2, out=folder))
    assert result["env_steps"] >= 64
    assert (result["encoder_sha256_before"] == result["encoder_sha256_after"]) == (not mode.trained)
    assert (result["weights_source"] == "file") == mode.pretrained
    assert np.isfinite(result["return_mean"])
    assert (folder / "done").exists()
    assert all(tensor.isfinite().all() for tensor in policy(folder).values())


def test_the_run_folder_is_complete(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    config = tiny("ppo", eval_every=32, eval_episodes=2, checkpoint_every=32, out=folder)
    result = rl(config)
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == {
        "config.json",
        "machine.json",
        "spaces.json",
        "metrics.jsonl",
        "episodes.jsonl",
        "eval.jsonl",
        "summary.json",
        "done",
        "checkpoints/best.safetensors",
        "checkpoints/last.safetensors",
    }
    assert list(result) == SUMMARY
    assert set(json.loads((folder / "summary.json").read_text())) == set(SUMMARY)
    assert json.loads((folder / "summary.json").read_text())["return_mean"] == result["return_mean"]

    record = read_config(folder)
    assert record.pop("command") == "rl"
    assert revive(RlConfig, record) == config.resolved()
    (session,) = json.loads((folder / "machine.json").read_text())["sessions"]
    assert {"date", "command", "commit", "python", "versions", "platform", "cpu", "cores", "threads", "gpus"} == set(
        session
    )
    assert session["versions"]["stable-baselines3"]

    # T17: SB3's own callbacks count calls; with two environments they would evaluate at 64, 128, ...
    evaluations = lines(folder / "eval.jsonl")
    # And the last step is played once, by the agent that has learned from it.
    assert [row["step"] for row in evaluations] == [32, 64, 96]
    assert all(len(row["returns"]) == len(row["lengths"]) == 2 for row in evaluations)
    assert evaluations[-1]["mean"] == result["return_mean"]
    assert result["best_return_mean"] == max(row["mean"] for row in evaluations)
    episodes = lines(folder / "episodes.jsonl")
    assert [(row["step"], row["length"]) for row in episodes] == [(s, 20) for s in (40, 40, 80, 80)]
    metrics = lines(folder / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [32, 64, 96]
    assert "train/learning_rate" in metrics[-1]


def test_config_json_holds_every_default_written_out(tiny: Tiny, tmp_path: Path) -> None:
    rl(tiny("dqn", n_envs=None, frame_stack=None, steps=40, out=tmp_path / "run"))
    record = read_config(tmp_path / "run")
    assert (record["n_envs"], record["frame_stack"], record["max_episode_steps"]) == (1, 4, 20)
    assert "exploration_final_eps=0.01" in record["set"], "of the preset"
    assert "batch_size=8" in record["set"], "chosen"
    assert not [setting for setting in record["set"] if setting == "batch_size=32"]


@pytest.mark.parametrize("algo", ["ppo", "dqn", "sac"])
def test_one_seed_gives_one_agent_and_another_seed_another(tiny: Tiny, tmp_path: Path, algo: str) -> None:
    torch.set_num_threads(1)
    for name, seed in (("first", 3), ("second", 3), ("other", 4)):
        torch.rand(7)  # what ran before in this process makes no difference
        rl(tiny(algo, seed=seed, steps=64, out=tmp_path / name))
    first, second, other = (policy(tmp_path / name) for name in ("first", "second", "other"))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert any((tensor != other[name]).any() for name, tensor in first.items())
    episodes = [(tmp_path / name / "episodes.jsonl").read_text() for name in ("first", "second")]
    assert episodes[0] == episodes[1]


def test_tensorboard_event_files_are_written(tiny: Tiny, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    rl(tiny("ppo", steps=32, tensorboard=True, out=tmp_path / "run"))
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert events.name.startswith("events.out.tfevents")
    assert b"rollout/ep_rew_mean" in events.read_bytes() or b"time/fps" in events.read_bytes()


def agent_of(config: RlConfig, n_envs: int = 2) -> Any:
    return make_agent(config.resolved(), build_encoder(config, pinned=True), n_envs=n_envs)


def test_settings_reach_the_algorithm_and_rates_fall_linearly(tiny: Tiny) -> None:
    chosen = ("n_steps=24", "batch_size=12", "learning_rate=lin_4e-4", "clip_range=lin_0.2", "gamma=0.9")
    model = agent_of(tiny("ppo", set=chosen, steps=480)).model
    assert (model.n_steps, model.batch_size, model.gamma) == (24, 12, 0.9)
    orchard = preset("stillsight/Orchard-v0", "ppo").settings
    assert model.ent_coef == orchard["ent_coef"], "the preset's where nothing was chosen"
    rates = [model.lr_schedule(left) for left in (1.0, 0.5, 0.1, 0.0)]
    assert rates == pytest.approx([4e-4, 2e-4, 4e-5, 4e-5]), "a rollout of 48 steps before the end it falls no more"
    assert [model.clip_range(left) for left in (1.0, 0.25, 0.0)] == pytest.approx([0.2, 0.05, 0.02])
    td3 = agent_of(tiny("td3")).model
    np.testing.assert_allclose(td3.action_noise._sigma, [0.1])
    assert agent_of(tiny("dqn", set=("train_freq=[2, 'episode']",)), n_envs=1).model.train_freq.frequency == 2


@pytest.mark.parametrize("algo", ["ppo", "dqn", "sac"])
def test_the_head_is_the_same_in_all_four_modes(tiny: Tiny, algo: str) -> None:
    # T12: SB3 takes no hidden layers behind its own network and two of 64 tanh units behind any other; a comparison
    # of encoders would silently be one of heads.
    shapes, layers = [], []
    for mode in Mode:
        model = agent_of(tiny(algo, mode=mode)).model
        shapes.append({name: tuple(tensor.shape) for name, tensor in canonical(model.policy).head.state_dict().items()})
        layers.append(
            {name: tuple(p.shape) for name, p in model.policy.named_parameters() if "features_extractor" not in name}
        )
    assert shapes[0]["linear.weight"] == (16, 3 * 4 * 2 * 2)
    assert all(shape == shapes[0] for shape in shapes)
    assert all(layer == layers[0] for layer in layers)
    if algo == "ppo":
        assert layers[0]["action_net.weight"] == (3, 16), "nothing between head and actions"


@pytest.mark.parametrize("algo", ["ppo", "recurrent_ppo", "a2c"])
@pytest.mark.parametrize("steps", [10, 32])
def test_a_run_of_one_rollout_trains(tiny: Tiny, tmp_path: Path, algo: str, steps: int) -> None:
    falling = ("learning_rate=lin_1e-2", "n_steps=16", *(["batch_size=16"] if algo != "a2c" else []))
    short = tiny(algo, set=falling, steps=steps, n_envs=2, out=tmp_path / "run")
    config = short.resolved()
    begun = {name: tensor.clone() for name, tensor in agent_of(short).model.policy.state_dict().items()}
    cards: list[dict[str, str]] = []
    with Run(tmp_path / "run", "rl", config) as run:
        run.card = lambda _, rows: cards.append(rows)  # type: ignore[method-assign]
        learn(config, run)
    ended = policy(tmp_path / "run")
    head = [name for name in begun if name.endswith("action_net.weight")]
    assert len(head) == 1
    assert not torch.equal(ended[head[0]], begun[head[0]])
    told = {
        10: "32, not 10: an update takes 2 x 16 (--n-envs, --set n_steps); the agent learns once, at their end",
        32: "32",
    }
    assert cards[0]["steps"] == told[steps]


def test_a_run_that_ends_before_learning_begins_says_so(tiny: Tiny) -> None:
    def said(starts: int) -> str:
        return card(agent_of(tiny("dqn", set=(f"learning_starts={starts}",), steps=50)))["steps"]

    assert said(50) == (
        "50: NOTHING WILL BE LEARNED, for DQN begins to learn after 50. Type more --steps, or --set learning_starts=5"
    )
    assert said(49) == "50"


def test_nothing_is_written_where_a_folder_exists(trained: Path, tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds a finished run\. Choose another folder with --out"):
        rl(tiny("ppo", out=trained))
    (trained / "done").unlink()
    with pytest.raises(RunError, match=r"already exists\. Continue it with --resume .*, or choose another"):
        rl(tiny("ppo", eval_every=32, keep=2, out=trained))
    with pytest.raises(RunError, match=r"another experiment \(steps 96 and not 64, head 16 and not 8\)\. Choose"):
        rl(tiny("ppo", steps=64, head=8, out=trained))  # eval_every is another too, and makes no other experiment
    (trained / "config.json").unlink()
    with pytest.raises(RunError, match=r"already exists, and holds no run\. Choose another folder with --out FOLDER"):
        rl(tiny("ppo", out=trained))
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be made"):
        rl(tiny("ppo", out=tmp_path / "file" / "run"))


def test_evaluations_play_the_true_game(tiny: Tiny, tmp_path: Path) -> None:
    # Rewards are clipped for learning alone; both records are unclipped, and evaluations play to the end.
    rl(tiny("ppo", steps=32, clip_rewards=True, max_episode_steps=None, eval_episodes=3, out=tmp_path / "run"))
    (row,) = lines(tmp_path / "run" / "eval.jsonl")
    assert all(60 <= length <= 110 for length in row["lengths"])


def test_no_warning_that_an_mlp_belongs_on_the_cpu_stops_a_run(tiny: Tiny) -> None:
    # T13: SB3 warns about MlpPolicy on a GPU, which is what features before the buffer look like to it.
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent_of(tiny("ppo"))


def test_an_agent_can_be_trained_under_a_shift() -> None:
    config = RlConfig(shift="hue", shift_strength=0.25).resolved()
    assert (config.shift, config.shift_strength) == ("hue", 0.25)
    options = config.env_options()
    assert (options.shift, options.shift_strength) == ("hue", 0.25)
    assert RlConfig(shift="noise").resolved().shift_strength == 0.5
