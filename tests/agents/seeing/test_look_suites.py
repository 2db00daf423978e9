"""`stillsight look` at a row of each suite: what is seen, what is kept as text, and how long an episode is."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stillsight.agents.cli import main

ROBOT = (
    "Not seen: the observation 'achieved_goal' (float64 [3]), the observation 'desired_goal' (float64 [3]), the "
    "observation 'observation' (float64 [10])"
)
WORLDS = {
    "dm_control/cartpole-swingup-v0": (
        ("dm_control",),
        (
            "the observation 'pixels', uint8 [84, 84, 3]: 84 x 84 pixels, as they are. "
            "Not seen: position (float32 [3])",
            "layout images 3x84x84",
            "time limit 1,000 of the game's steps, 500 actions",
        ),
    ),
    "FetchReach-v4": (
        ("gymnasium_robotics",),
        (f"what render() draws, uint8 [84, 84, 3]: 84 x 84 pixels, as they are. {ROBOT}", "time limit 50 steps"),
    ),
    "MiniGrid-DoorKey-5x5-v0": (
        ("minigrid",),
        (
            "the observation 'image', uint8 [56, 56, 3]: 56 x 56 pixels, as they are. "
            "Not seen: direction (Discrete(4)), mission (text)",
            "layout images 3x56x56; text mission, not seen",
            "time limit 250 steps",
        ),
    ),
    "MiniWorld-OneRoom-v0": (
        ("miniworld",),
        (
            "the observation, uint8 [60, 80, 3]: 60 x 80 pixels, as they are",
            "layout images 3x60x80",
            "time limit 180 steps",
        ),
    ),
    "CrafterReward-v1": (
        ("crafter",),
        ("the observation, uint8 [64, 64, 3]: 64 x 64 pixels, as they are", "time limit 10,000 steps"),
    ),
    "highway-fast-v0": (
        ("highway_env",),
        ("what render() draws, uint8 [64, 128, 3]: 64 x 128 pixels, as they are", "layout images 3x64x128"),
    ),
    "retro/Airstriker-Genesis-v0": (
        ("stable_retro",),
        ("the observation, uint8 [224, 320, 3]: 224 x 320 pixels, resized to 84 x 84, which changes", "MultiBinary"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("env_id", WORLDS)
def test_a_row_of_each_suite_is_looked_at(env_id: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    packages, sentences = WORLDS[env_id]
    if missing := [package for package in packages if find_spec(package) is None]:
        pytest.skip(f"{', '.join(missing)} is not installed")
    assert main(["look", env_id, "--shift", "hue", "--steps", "0", "--out", str(tmp_path)]) == 0
    told = " ".join(capfd.readouterr().out.split())
    for sentence in sentences:
        assert sentence in told
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 30, "pictures, and no blank sheet"
