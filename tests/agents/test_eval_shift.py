"""What an agent is trained through and what it is tested through are two things, and a card says both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillsight.agents import RlConfig, load, rl
from stillsight.agents.playing.play import returns
from stillsight.agents.runs.records import read_lines
from stillsight.agents.training import summary
from stillsight.agents.training.seeds import EVALUATION, env_seed
from stillsight.envs import EnvError


@pytest.mark.parametrize(
    ("shift", "eval_shift", "trains", "tested", "told"),
    [
        (None, None, None, None, None),
        ("hue", None, "hue", "hue", "trains through hue of strength 0.5; is evaluated through hue of strength 0.5"),
        ("hue", "none", "hue", None, "trains through hue of strength 0.5; is evaluated through the game as it is"),
        (None, "jpeg:1", None, "jpeg", "trains through the game as it is; is evaluated through jpeg of strength 1"),
        ("hue:1", "blur", "hue", "blur", "trains through hue of strength 1; is evaluated through blur of strength 0.5"),
    ],
)
def test_training_and_testing_are_seen_through_shifts_of_their_own(
    shift: str | None, eval_shift: str | None, trains: str | None, tested: str | None, told: str | None
) -> None:
    config = RlConfig(shift=shift, eval_shift=eval_shift)
    config.check()
    for each in (config, config.resolved()):
        assert each.env_options().shift == trains
        assert each.eval_options().shift == tested
        assert summary._shifts(each) == ({} if told is None else {"shift": told})
    assert config.resolved().eval_shift in (None, "none", "jpeg:1", "blur:0.5"), "strengths are written out"
    assert config.resolved().resolved() == config.resolved()


def test_a_run_that_trains_through_a_shift_is_evaluated_and_played_without(
    tiny: Callable[..., RlConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny("ppo", shift="hue:1", eval_shift="none", eval_episodes=1, out=tmp_path / "run")
    rl(config)
    told = " ".join(capsys.readouterr().out.split())
    assert "shift trains through hue of strength 1; is evaluated through the game as it is" in told
    agent = load(tmp_path / "run", "last", device="cpu")
    row = read_lines(tmp_path / "run" / "eval.jsonl")[-1]
    plain = returns(agent, "none", episodes=1, seed=env_seed(config.seed + EVALUATION))
    assert [row["mean"]] == plain == returns(agent, episodes=1, seed=env_seed(config.seed + EVALUATION))


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"eval_shift": "nois"}, "No shift is called 'nois'"),
        ({"eval_shift": "camera"}, "stillsight/Orchard-v0 cannot give the shift 'camera'"),
        ({"shift": "sky"}, "stillsight/Orchard-v0 cannot give the shift 'sky'"),
        ({"shift": "overlay@gone"}, "There is no gone"),
        ({"eval_shift": "overlay@gone"}, "There is no gone"),
    ],
)
def test_shifts_that_cannot_be_given_are_refused_at_once(flags: dict[str, Any], sentence: str) -> None:
    with pytest.raises(EnvError, match=sentence):
        RlConfig(**flags).check()
