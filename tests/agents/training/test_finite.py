"""Training stops where a loss or a parameter is no finite number, and keeps the last good checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback

from stillsight.agents import RlConfig, load, rl
from stillsight.agents.cli import main
from stillsight.agents.errors import TrainingFault
from stillsight.agents.runs import checkpoint
from stillsight.agents.training import callbacks
from stillsight.agents.training.algorithms import ALGORITHMS
from stillsight.agents.training.build import make_agent
from stillsight.agents.training.state.finite import not_finite
from stillsight.encoders.building import build

Tiny = Callable[..., RlConfig]


def poison_from(step: int, monkeypatch: pytest.MonkeyPatch, reward: float = float("nan")) -> None:
    """Hand the algorithm rewards of no number from a step on, as an environment of before would have."""
    original = callbacks.Episodes._on_step

    def on_step(self: callbacks.Episodes) -> bool:
        if self.num_timesteps >= step:
            self.locals["rewards"][:] = reward
        return original(self)

    monkeypatch.setattr(callbacks.Episodes, "_on_step", on_step)


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_training_stops_at_the_first_loss_that_is_no_number(
    tiny: Tiny, tmp_path: Path, algo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison_from(80, monkeypatch)
    config = tiny(algo, steps=4_000, checkpoint_every=32, out=tmp_path / "run")
    with pytest.raises(TrainingFault, match=r"Training left the numbers at step \d+: ") as stopped:
        rl(config)
    last = tmp_path / "run" / "checkpoints" / "last.safetensors"
    sentence = str(stopped.value)
    assert f"Nothing was saved over {last}, which is good" in sentence
    assert f"--resume {tmp_path / 'run'}" in sentence
    assert int(sentence.split("step ")[1].split(":")[0].replace(",", "")) <= 200
    stored = checkpoint.load(last)
    assert stored["step"] >= 32
    assert all(tensor.isfinite().all() for tensor in stored["parameters"]["policy"].values())
    assert load(tmp_path / "run", "last", device="cpu").step == stored["step"]
    assert not (tmp_path / "run" / "done").exists()
    assert not (tmp_path / "run" / "summary.json").exists()


def test_the_command_says_so_in_a_sentence_and_exits_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    poison_from(1, monkeypatch)
    words = "rl --mode random --steps 64 --size 16 --pooling grid2 --head 16 --n-envs 2 --eval-episodes 1 --device cpu"
    code = main([*words.split(), "--set", "n_steps=16", "batch_size=16", "--out", str(tmp_path / "run")])
    captured = capsys.readouterr()
    assert code == 1
    (line,) = captured.err.splitlines()
    assert line.startswith("stillsight: Training left the numbers at step ")
    assert "Nothing was saved yet" in line
    assert "Traceback" not in captured.out + captured.err


def test_a_rate_that_is_too_high_stops_training_at_its_parameters(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny("dqn", steps=4_000, out=tmp_path / "run", set=(*tiny("dqn").set, "learning_rate=1e30"))
    with pytest.raises(TrainingFault, match="lower rate"):
        rl(config)


class Breaks(BaseCallback):
    """Puts an infinite number into a parameter at a step, where no loss shows it yet."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def _on_step(self) -> bool:
        if self.num_timesteps == self.step:
            with torch.no_grad():
                next(iter(self.model.policy.parameters())).view(-1)[0] = float("inf")
        return True


def test_nothing_is_saved_over_a_good_checkpoint(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original: Any = callbacks.Episodes

    class Episodes(original):  # type: ignore[misc]
        def _on_step(self) -> bool:
            Breaks._on_step(self)  # type: ignore[arg-type]
            return bool(super()._on_step())

        step = 66

    monkeypatch.setattr(callbacks, "Episodes", Episodes)
    # Nothing is learned, so that no loss tells: the save itself must look.
    settings = ("learning_starts=10_000", "batch_size=8", "buffer_size=300", "train_freq=4")
    config = tiny("dqn", steps=100, checkpoint_every=32, out=tmp_path / "run", set=settings)
    with pytest.raises(TrainingFault, match=r"1 of the \d[\d,]* numbers of the parameter .* are NaN or infinite"):
        rl(config)
    stored = checkpoint.load(tmp_path / "run" / "checkpoints" / "last.safetensors")
    assert stored["step"] == 64
    assert all(tensor.isfinite().all() for tensor in stored["parameters"]["policy"].values())


def test_an_unexplained_variance_is_no_fault(tiny: Tiny, tmp_path: Path) -> None:
    # SB3 gives NaN where all returns of a rollout are equal, as at the beginning of many games.
    assert rl(tiny("ppo", steps=32, max_episode_steps=5, out=tmp_path / "run"))["env_steps"] == 32


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_each_number_of_each_parameter_is_looked_at(tiny: Tiny, bad: float) -> None:
    config = tiny("ppo").resolved()
    model = make_agent(config, build(config, pinned=True), n_envs=2).model
    assert not_finite(model) is None
    for name, parameter in model.policy.named_parameters():
        with torch.no_grad():
            kept = parameter.view(-1)[-1].clone()
            parameter.view(-1)[-1] = bad
            assert name in str(not_finite(model))
            parameter.view(-1)[-1] = kept
    assert not_finite(model) is None
