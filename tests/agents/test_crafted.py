"""Checkpoints that are whole by their hash and say what no run of ours says: one sentence, and nothing is changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stillsight.agents import RlConfig, rl
from stillsight.agents.cli import main
from stillsight.agents.errors import CheckpointError
from stillsight.agents.runs import checkpoint
from stillsight.agents.training.build import make_agent
from stillsight.agents.training.state import model_state as state
from stillsight.encoders.building import build as build_encoder

Tiny = Callable[..., RlConfig]
Change = Callable[[dict[str, Any]], None]
EVALUATE = ("--episodes", "1", "--random-episodes", "0")
HUGE = b'{"a":{"dtype":"F32","shape":[1099511627776,1099511627776,0],"data_offsets":[0,0]}}'


def craft(run: Path, name: str, change: Change) -> None:
    """Rewrite a checkpoint and its hash."""
    path = run / "checkpoints" / f"{name}.safetensors"
    tree = checkpoint.load(path)
    change(tree)
    checkpoint.save(path, tree)


def told(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence with which a command refuses."""
    capsys.readouterr()
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("stillsight: "), error
    assert len(error.splitlines()) == 1, error
    return error


def counter(name: str, value: object) -> Change:
    def change(tree: dict[str, Any]) -> None:
        tree["counters"][name] = value

    return change


def step(value: int) -> Change:
    def change(tree: dict[str, Any]) -> None:
        tree["step"] = value
        if "counters" in tree:
            tree["counters"]["num_timesteps"] = value

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (counter("n_steps", 10**12), "n_steps is 1000000000000, and 16 by the run's configuration"),
        (counter("batch_size", 0), "batch_size is 0, and 16 by the run's configuration"),
        (counter("n_epochs", 10**9), "n_epochs is 1000000000, and 2 by the run's configuration"),
        (counter("gamma", 1e308), "gamma is 1e+308, and 0.95 by the run's configuration"),
        (counter("_stats_window_size", 10**9), "_stats_window_size is 1000000000, and 100 by"),
        (counter("num_timesteps", 10**18), "num_timesteps is 1000000000000000000, and must be a number from 0"),
        (counter("num_timesteps", 64), "num_timesteps is 64, and it says that it is of step 96"),
        (counter("_n_updates", -3), "_n_updates is -3, and must be a number from 0"),
        (counter("_current_progress_remaining", float("nan")), "nothing is counted so far"),
        (counter("_last_obs", 3), "_last_obs is no counter"),
        (counter("learn", 3), "learn is no counter"),
        (counter("gamma", "x"), "is damaged"),
        (step(-5), "is damaged"),
        (step(10**18), "is damaged"),
        (step(10**14), "says that it is of step 100,000,000,000,000, and by its config.json the run has"),
    ],
)
def test_counters_agree_with_the_configuration(
    change: Change, sentence: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    craft(trained, "last", change)
    config = (trained / "config.json").read_bytes()
    error = told(["rl", "--resume", str(trained), "--steps", "160"], capsys)
    assert sentence in error
    assert "Restore" in error
    assert (trained / "done").exists()
    assert (trained / "config.json").read_bytes() == config


@pytest.mark.parametrize("value", [-5, 10**12, 10**15])
def test_a_step_lies_within_its_run_where_it_is_played_and_begun_from(
    value: int, trained: Path, tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    craft(trained, "best", step(value))
    craft(trained, "last", step(value))
    sentence = "is damaged" if value < 0 else f"of step {value:,}, and by its config.json the run has 96 steps"
    assert sentence in told(["evaluate", str(trained), *EVALUATE], capsys)
    with pytest.raises(CheckpointError, match=sentence):
        rl(tiny("ppo", from_run=trained, out=tmp_path / "next"))


def test_a_damaged_best_checkpoint_gives_way_to_one_that_fits(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    craft(trained, "best", step(10**12))
    assert main(["evaluate", str(trained), *EVALUATE]) == 0
    assert "Taken in its place: last (step 96)" in capsys.readouterr().err


def test_a_shape_beyond_64_bits_is_a_sentence_and_gives_way(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best, last = (trained / "checkpoints" / f"{name}.safetensors" for name in ("best", "last"))
    best.write_bytes(len(HUGE).to_bytes(8, "little") + HUGE)
    assert main(["evaluate", str(trained), *EVALUATE]) == 0
    assert "is of a shape that no tensor has" in capsys.readouterr().err
    last.write_bytes(best.read_bytes())
    assert "is of a shape that no tensor has" in told(["evaluate", str(trained), *EVALUATE], capsys)
    assert "is of a shape that no tensor has" in told(["rl", "--resume", str(trained), "--steps", "160"], capsys)


def cast(kind: torch.dtype) -> Change:
    def change(tree: dict[str, Any]) -> None:
        policy = tree.get("policy") or tree["parameters"]["policy"]
        policy.update({name: one.to(kind) for name, one in policy.items() if one.is_floating_point()})

    return change


def filled(value: float) -> Change:
    def change(tree: dict[str, Any]) -> None:
        policy = tree.get("policy") or tree["parameters"]["policy"]
        policy.update({name: torch.full_like(one, value) for name, one in policy.items() if one.is_floating_point()})

    return change


def cut(tree: dict[str, Any]) -> None:
    policy = tree.get("policy") or tree["parameters"]["policy"]
    policy["action_net.bias"] = policy["action_net.bias"][:1].clone()


def lacking(tree: dict[str, Any]) -> None:
    policy = tree.get("policy") or tree["parameters"]["policy"]
    del policy["action_net.bias"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (cast(torch.float8_e4m3fn), "are float8_e4m3fn, which no policy has"),
        (cast(torch.float8_e5m2), "are float8_e5m2, which no policy has"),
        (cast(torch.complex64), "are complex64, which no policy has"),
        (cast(torch.bool), "is bool [16, 256], not float32 [16, 256]"),
        (cast(torch.int8), "is int8 [16, 256], not float32 [16, 256]"),
        (cast(torch.float64), "is float64 [16, 256], not float32 [16, 256]"),
        (filled(3e38), "holds numbers beyond 1e+12, with which nothing can act"),
        (cut, "policy.action_net.bias is float32 [1], not float32 [3]"),
        (lacking, "policy has no action_net.bias"),
    ],
)
def test_tensors_are_those_of_the_model_that_the_run_builds(
    change: Change, sentence: str, trained: Path, tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    craft(trained, "best", change)
    craft(trained, "last", change)
    shape = sentence.split(" [")[0] if " [16, 256]" in sentence else sentence  # of whichever tensor comes first
    assert shape in told(["evaluate", str(trained), *EVALUATE], capsys)
    assert shape in told(["rl", "--resume", str(trained), "--steps", "160"], capsys)
    with pytest.raises(CheckpointError) as refused:
        rl(tiny("ppo", from_run=trained, out=tmp_path / "next"))
    assert shape in str(refused.value)
    assert main(["doctor", str(trained)]) in (0, 1)


def group(name: str, value: object) -> Change:
    def change(tree: dict[str, Any]) -> None:
        tree["parameters"]["policy.optimizer"]["param_groups"][0][name] = value

    return change


def moment(name: str, value: object) -> Change:
    def change(tree: dict[str, Any]) -> None:
        moments = tree["parameters"]["policy.optimizer"]["state"][0]
        moments[name] = value
        if value is None:
            del moments[name]

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (group("weight_decay", 1e9), "policy.optimizer: weight_decay is 1000000000.0, and 0 by the run's"),
        (group("lr", -1.0), "policy.optimizer: its rate is -1.0, and must be a number from 0"),
        (group("wings", 2), "policy.optimizer has no setting wings"),
        (moment("step", torch.tensor(-1.0)), "policy.optimizer.0.step is -1.0, and must be a number from 0"),
        (moment("step", torch.zeros(3)), "policy.optimizer.0.step is [3], not a number"),
        (moment("exp_avg", torch.zeros(3)), "policy.optimizer.0.exp_avg is float32 [3], not float32"),
        (moment("exp_avg", None), "policy.optimizer keeps exp_avg_sq, step, not exp_avg, exp_avg_sq, step"),
    ],
)
def test_optimizers_have_the_settings_and_moments_of_the_run(
    change: Change, sentence: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    craft(trained, "last", change)
    assert sentence in told(["rl", "--resume", str(trained), "--steps", "160"], capsys)


@pytest.mark.parametrize("field", ["episodes", "successes", "values", "counts"])
def test_what_was_noted_is_of_its_types(field: str, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(tree: dict[str, Any]) -> None:
        tree["records"][field] = 3

    craft(trained, "last", change)
    assert f"at records.{field}" in told(["rl", "--resume", str(trained), "--steps", "160"], capsys)


def arrays(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    def changed(memory: dict[str, Any]) -> None:
        memory["arrays"][name] = change(memory["arrays"][name])

    return changed


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (arrays("actions", lambda one: one + 9), "holds actions beyond 0 to 2"),
        (arrays("heads", lambda one: one + 10**6), "holds heads beyond 0 to"),
        (arrays("ages", lambda one: one + 9), "holds ages beyond 0 to 2"),
        (arrays("rewards", lambda one: one.double()), "holds rewards of float64, not float32"),
        (arrays("valid", lambda one: one[:3]), "holds valid (3, 2), not"),
        (lambda memory: memory.update(pos=10**9), "says that 1000000000 of its"),
        (lambda memory: memory["arrays"].pop("newest"), "holds actions, after, ages"),
    ],
)
def test_replay_memory_looks_nothing_up_that_is_not_there(change: Change, sentence: str, tiny: Tiny) -> None:
    config = tiny("dqn").resolved()
    agent = make_agent(config, build_encoder(config, pinned=True), n_envs=2)
    agent.model.learn(32)
    memory = state.capture_replay(agent.model)
    assert memory is not None
    state.restore_replay(agent.model, memory)
    change(memory)
    with pytest.raises(CheckpointError) as refused:
        state.restore_replay(agent.model, memory)
    assert sentence in str(refused.value)


def test_a_generator_is_not_read_behind_its_end(tiny: Tiny) -> None:
    config = tiny("ppo").resolved()
    agent = make_agent(config, build_encoder(config, pinned=True), n_envs=2)
    tree = state.capture(agent.model)
    tree["random"]["numpy"]["rest"][0] = 10**6
    with pytest.raises(CheckpointError, match="the random generator stands at 1000000"):
        state.restore(agent.model, tree)


@pytest.mark.parametrize(("field", "value"), [("seed", [1]), ("env", ["a"]), ("mode", ["frozen"]), ("steps", [[1]])])
def test_a_list_is_no_scalar(field: str, value: object, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = trained / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    for words in (["evaluate", str(trained)], ["rl", "--resume", str(trained)], ["plot", str(trained)]):
        assert "is damaged" in told(words, capsys)
    assert main(["list", "runs", "--folder", str(trained.parent)]) == 0
    assert main(["doctor", str(trained)]) == 1


def test_what_versions_without_a_hash_wrote_of_infinity_is_read(trained: Path) -> None:
    path = trained / "checkpoints" / "last.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    facts = header["__metadata__"]
    structure = json.loads(facts["structure"])
    structure["pairs"].append(["worst", float("-inf")])
    header["__metadata__"] = {"structure": json.dumps(structure)}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    assert checkpoint.load(path)["worst"] == float("-inf")
