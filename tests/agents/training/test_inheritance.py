"""A new run begins with another one's policy, all of it, and is refused where the two are not alike."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stillsight.agents import RlConfig, rl
from stillsight.agents.benchmark.grid.parse import parse_spec
from stillsight.agents.cli import main
from stillsight.agents.errors import RunError
from stillsight.agents.runs import checkpoint
from stillsight.agents.training.build import Agent
from stillsight.agents.training.continuing import inheritance

Tiny = Callable[..., RlConfig]


def stored(folder: Path, name: str) -> dict[str, Any]:
    return checkpoint.load(folder / "checkpoints" / f"{name}.safetensors")


def begun(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """The policies of agents that inherited, as they were right after it."""
    seen: list[dict[str, torch.Tensor]] = []
    original = inheritance.inherit

    def inherit(agent: Agent) -> inheritance.Ancestor:
        found = original(agent)
        seen.append({name: tensor.clone() for name, tensor in agent.model.policy.state_dict().items()})
        assert agent.model.num_timesteps == 0
        assert not agent.model.policy.optimizer.state if hasattr(agent.model.policy, "optimizer") else True
        return found

    monkeypatch.setattr("stillsight.agents.training.learn.inherit", inherit)
    return seen


@pytest.mark.parametrize("algo", ["ppo", "dqn", "sac"])
def test_a_run_begins_with_all_that_another_learned(
    tiny: Tiny, tmp_path: Path, algo: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tmp_path / "first"
    rl(tiny(algo, mode="finetune", out=first))
    capsys.readouterr()
    policies = begun(monkeypatch)
    result = rl(tiny(algo, mode="finetune", seed=4, steps=64, out=tmp_path / "second", from_run=first))
    best = stored(first, "best")
    assert policies[0].keys() == best["policy"].keys()
    assert all(torch.equal(tensor, best["policy"][name]) for name, tensor in policies[0].items())
    card = capsys.readouterr().out
    assert f"begins with that of {first} (best, step {best['step']}," in card
    assert "and encoder. New are optimizer, counters, schedules, exploration and replay memory" in card
    digest = hashlib.sha256((first / "checkpoints" / "best.safetensors").read_bytes()).hexdigest()
    expected = {"run": str(first), "checkpoint": "best", "step": best["step"], "sha256": digest}
    assert result["from"] == expected
    assert result["env_steps"] == 64
    assert json.loads((tmp_path / "second" / "config.json").read_text())["from_run"] == str(first)


@pytest.mark.parametrize("taken", ["best", "last"])
@pytest.mark.parametrize("kept", [True, False])
def test_a_learned_temperature_goes_with_the_policy(
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    taken: str,
    kept: bool,
) -> None:
    """The failure it prevents: an actor that was sure of itself is driven to explore for ten thousand updates."""
    first = tmp_path / "first"
    rl(tiny("sac", out=first))
    path = first / "checkpoints" / f"{taken}.safetensors"
    content = stored(first, taken)
    if kept:
        content["variables"]["log_ent_coef"] = torch.full_like(content["variables"]["log_ent_coef"], -3.0)
        checkpoint.save(path, content)
    else:  # as best was of versions before this one
        checkpoint.save(path, {name: value for name, value in content.items() if name != "variables"})
    begins, original = [], inheritance.inherit

    def inherit(agent: Agent) -> inheritance.Ancestor:
        found = original(agent)
        begins.append(float(agent.model.log_ent_coef.detach()))  # type: ignore[attr-defined]
        return found

    monkeypatch.setattr("stillsight.agents.training.learn.inherit", inherit)
    capsys.readouterr()
    rl(tiny("sac", steps=32, out=tmp_path / "second", from_run=first, from_checkpoint=taken))
    assert begins == [-3.0 if kept else 0.0]
    assert ("does not hold log_ent_coef, which begins anew" in capsys.readouterr().err) is not kept


def test_the_last_agent_can_be_asked_for(
    tiny: Tiny, tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies = begun(monkeypatch)
    rl(tiny("ppo", steps=32, out=tmp_path / "run", from_run=trained, from_checkpoint="last"))
    assert all(
        torch.equal(tensor, policies[0][name])
        for name, tensor in stored(trained, "last")["parameters"]["policy"].items()
    )


def test_a_checkpoint_is_named_by_the_step_at_which_it_stands(
    tiny: Tiny, tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies = begun(monkeypatch)
    step = stored(trained, "last")["step"]
    result = rl(tiny("ppo", steps=32, out=tmp_path / "run", from_run=trained, from_checkpoint=str(step)))
    assert (result["from"]["checkpoint"], result["from"]["step"]) == ("last", step)
    assert all(
        torch.equal(tensor, policies[0][name])
        for name, tensor in stored(trained, "last")["parameters"]["policy"].items()
    )


def test_a_run_that_began_so_goes_on_without_its_ancestor(tiny: Tiny, tmp_path: Path, trained: Path) -> None:
    first = Path(shutil.copytree(trained, tmp_path / "first"))
    folder = tmp_path / "run"
    before = rl(tiny("ppo", steps=32, out=folder, from_run=first))
    shutil.rmtree(first)
    after = rl(RlConfig(resume=folder, steps=64))
    assert after["from"] == before["from"]
    assert after["from"]["run"] == str(first)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"head": 8}, r"it has --head 16 \(here 8\)\."),
        ({"head": 8, "compress": 0}, r"it has --head 16 \(here 8\), --compress 4 \(here 0\)\."),
        ({"tap": "layer2"}, r"it has --tap layer1 \(here layer2\)\."),
        ({"pooling": "global"}, r"--pooling grid2 \(here global\)"),
        ({"mode": "random", "weights": None}, r"it has --mode frozen \(here random\)"),
        ({"frame_stack": 2}, r"--frame-stack 3 \(here 2\)"),
        ({"algo": "a2c", "set": ()}, r"--algo ppo \(here a2c\)"),
        ({"activation": "tanh"}, r"--activation relu \(here tanh\)"),
        ({"set": ("net_arch=[8]",)}, r"--set net_arch \[\] \(here \[8\]\)"),
        ({"size": 32}, r"pixels \[3, 16, 16\] \(here \[3, 32, 32\]; --size\)"),
        ({"env": "stillsight/OrchardContinuous-v0"}, r"actions Discrete\(3\) \(here Box\("),
    ],
)
def test_what_a_policy_is_made_of_must_be_the_same(
    tiny: Tiny, tmp_path: Path, trained: Path, changes: dict[str, Any], told: str
) -> None:
    algo = changes.pop("algo", "ppo")
    with pytest.raises(RunError, match=told):
        rl(tiny(algo, out=tmp_path / "run", from_run=trained, **changes))
    assert not (tmp_path / "run").exists()


def test_other_frozen_weights_are_refused(tiny: Tiny, tmp_path: Path, trained: Path) -> None:
    tree = stored(trained, "best")
    copied = Path(shutil.copytree(trained, tmp_path / "copied"))
    checkpoint.save(copied / "checkpoints" / "best.safetensors", tree | {"frozen_sha256": "0" * 64})
    with pytest.raises(RunError, match="was trained on frozen retina weights with sha256 000000000000"):
        rl(tiny("ppo", out=tmp_path / "run", from_run=copied))


def test_random_eyes_are_those_of_a_seed_which_is_named(tiny: Tiny, tmp_path: Path) -> None:
    first = tmp_path / "first"
    rl(tiny("ppo", mode="random", seed=3, steps=32, out=first))
    with pytest.raises(RunError, match=r"are random and follow from the seed\. Type that run's: --seed 3\."):
        rl(tiny("ppo", mode="random", seed=4, steps=32, out=tmp_path / "second", from_run=first))
    rl(tiny("ppo", mode="random", seed=3, steps=32, out=tmp_path / "second", from_run=first))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--from gone", "gone is no run folder: it has no config.json"),
        ("--from {run} --from-checkpoint first", "'first' is no name of a checkpoint. Type best, last, or"),
        ("--from {run} --from-checkpoint ../checkpoints/last", "'../checkpoints/last' is no name of a checkpoint"),
        ("--from {run} --from-checkpoint 7", "has no checkpoint '7'; it holds best, last. Type, say:"),
        ("--from-checkpoint last", "--from-checkpoint has no effect without --from, which names the run"),
        ("--from {run} --standardise 8", "--standardise has no effect beside --from, whose run brings"),
        ("--from {run} --no-standardise-features", "features has no effect beside --from, whose run brings"),
        ("--standardise 0 --standardise-features", "features has no effect with --standardise 0, which looks at"),
    ],
)
def test_what_is_missing_is_a_sentence(
    trained: Path, retina_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, told: str
) -> None:
    typed = words.format(run=trained).split()
    out = ["--out", str(tmp_path / "run"), "--weights", str(retina_file)]
    assert main(["rl", *typed, *out]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_classifier_has_no_policy(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "copied"))
    record = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(record | {"command": "cifar"}))
    with pytest.raises(RunError, match=rf"names a cifar run, .*--mode finetune --weights {folder}"):
        inheritance.ancestor_file(folder, "best")


SPEC = """
seeds = 1
[rl]
steps = 64
[[task]]
env = "stillsight/Orchard-v0"
[[arm]]
name = "old"
role = "frozen"
encoder = "retina"
mode = "scratch"
[[arm]]
name = "inherits"
role = "scratch"
encoder = "retina"
mode = "scratch"
from = "{run}"
"""


def test_what_a_cell_begins_with_is_part_of_its_key(trained: Path, tmp_path: Path) -> None:
    def keys(folder: Path) -> list[str]:
        cells = parse_spec(SPEC.format(run=folder), check=False).cells()
        return [cell.key for name in ("old", "inherits") for cell in cells if cell.arm == name]

    moved = Path(shutil.copytree(trained, tmp_path / "moved"))
    cells = parse_spec(SPEC.format(run=trained), check=False).cells()
    begun_from = {cell.arm: cell.planned_work().config.from_run for cell in cells}  # type: ignore[union-attr]
    assert begun_from["old"] is None
    assert begun_from["inherits"] == trained
    assert keys(trained) == keys(moved)
    path = moved / "checkpoints" / "best.safetensors"
    checkpoint.save(path, checkpoint.load(path) | {"mean": 5.0})
    assert keys(trained)[0] == keys(moved)[0]
    assert keys(trained)[1] != keys(moved)[1]
    with pytest.raises(RunError, match="is no run folder"):
        keys(tmp_path / "gone")
