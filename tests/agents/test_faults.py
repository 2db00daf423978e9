"""An environment that breaks ends a run with exit code 1, a sentence, and the way on; the card says what is seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from stillsight.agents import RlConfig, cli, rl
from stillsight.agents.features.standardise import warn_of_blank
from stillsight.envs.errors import EnvFault

Tiny = Callable[..., RlConfig]
ID = "StillsightBreaking-v0"


class Breaking(gym.Env[Any, Any]):
    """Rewards 0, and from step `when` of all copies together on `reward`; observes what `shown` says."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}
    observation_space = spaces.Dict(
        eye=spaces.Box(0, 255, (16, 16, 3), np.uint8), speed=spaces.Box(-1.0, 1.0, (2,), np.float32)
    )
    action_space = spaces.Discrete(2)
    steps: ClassVar[list[int]] = []

    def __init__(self, when: int = 10**9, reward: str = "nan", grey: int = -1) -> None:
        self.when, self.reward, self.grey = when, float(reward), grey

    def _observed(self) -> dict[str, np.ndarray]:
        eye = self.np_random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        return {"eye": eye if self.grey < 0 else np.full_like(eye, self.grey), "speed": np.zeros(2, np.float32)}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        return self._observed(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:  # noqa: ARG002
        self.steps.append(1)
        return self._observed(), self.reward if len(self.steps) >= self.when else 0.0, False, False, {}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gym.register(ID, Breaking, disable_env_checker=True)
    Breaking.steps.clear()
    yield
    gym.registry.pop(ID)


def flags(config: RlConfig, folder: Path) -> list[str]:
    """What a user would type for a tiny run."""
    words = ["rl", "--env", ID, "--algo", config.algo, "--encoder", "retina", "--mode", "random", "--steps", "96"]
    words += [
        "--n-envs",
        "2",
        "--frame-stack",
        "2",
        "--tap",
        "layer1",
        "--pooling",
        "grid2",
        "--head",
        "8",
        "--standardise",
        "8",
        "--max-episode-steps",
        "20",
    ]
    words += ["--eval-every", "0", "--eval-episodes", "1", "--checkpoint-every", "32", "--engine", "folded"]
    return [*words, "--device", "cpu", "--threads", "1", "--workers", "off", "--out", str(folder)]


@pytest.mark.parametrize("algo", ["ppo", "dqn", "sac"])
def test_a_reward_that_is_no_number_ends_a_run_with_exit_code_1_and_names_the_last_checkpoint(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], algo: str
) -> None:
    if algo == "sac":
        Breaking.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)  # type: ignore[assignment]
    config = tiny(algo)
    try:
        words = [*flags(config, tmp_path / "run"), "--env-set", "when=90", "--set", *config.set]
        assert cli.main(words) == 1
    finally:
        Breaking.action_space = spaces.Discrete(2)
    error = capsys.readouterr().err
    assert "Traceback" not in error
    said = error.strip().splitlines()[-1]
    assert said.startswith(f"stillsight: {ID} broke its word in step ")
    assert "its reward is nan, and rewards are finite numbers" in said
    last = tmp_path / "run" / "checkpoints" / "last.safetensors"
    assert last.exists()
    assert f"continue from its last checkpoint, {last}, with: stillsight rl --resume {tmp_path / 'run'}" in said
    assert not (tmp_path / "run" / "done").exists()
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_run_that_broke_before_its_first_checkpoint_says_so(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny("ppo", env=ID, env_set=("when=40", "reward=inf"), out=tmp_path / "run")
    with pytest.raises(EnvFault, match=r"its reward is inf.* The run stopped at step \d+; nothing was saved yet"):
        rl(config)


def test_the_card_says_what_the_agent_sees_and_what_is_dropped(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rl(tiny("ppo", env=ID, size=24, steps=32, out=tmp_path / "run"))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  sees ")]
    assert line.split(maxsplit=1)[1] == (
        "the observation 'eye', uint8 [16, 16, 3]: 16 x 16 pixels, resized to 24 x 24. Not seen: speed (float32 [2])"
    )


@pytest.mark.parametrize(
    ("grey", "words"), [(70, "frames of the first look are all alike"), (0, "frames of the first look are all alike")]
)
def test_frames_that_are_all_alike_are_a_warning(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], grey: int, words: str
) -> None:
    rl(tiny("ppo", env=ID, env_set=(f"grey={grey}",), steps=32, out=tmp_path / "run"))
    assert f"stillsight: warning: the 8 {words}" in capsys.readouterr().err


def test_frames_that_are_all_but_black_are_a_warning_and_others_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    frames = np.random.default_rng(0).integers(0, 2, (8, 3, 16, 16)).astype(np.uint8)
    warn_of_blank(frames)
    assert "are all but black (0 and 1 of 255)" in capsys.readouterr().err
    frames[3] *= 9
    warn_of_blank(frames)
    warn_of_blank(frames[3:4])
    assert capsys.readouterr().err == ""
