"""One sentence for every slip: the nearest name that exists."""

from __future__ import annotations

import pytest

from stillsight.envs.errors import EnvError, nearest

KNOWN = ["ALE/Pong-v5", "CarRacing-v3", "CartPole-v1", "stillsight/Orchard-v0", "ALE/Breakout-v5"]


@pytest.mark.parametrize(
    ("typed", "near"),
    [
        ("Pong-v5", "ALE/Pong-v5"),
        ("ale/pong-v5", "ALE/Pong-v5"),
        ("carracing", "CarRacing-v3"),
        ("orchad", "stillsight/Orchard-v0"),
        ("atari/Breakuot-v4", "ALE/Breakout-v5"),
    ],
)
def test_neither_case_nor_namespace_counts(typed: str, near: str) -> None:
    assert nearest(typed, KNOWN) == near
    assert nearest(typed, iter(KNOWN[::-1])) == near, "in any order, from anything that can be gone through once"


@pytest.mark.parametrize("typed", ["", "?", "/", "qqqqqqqqqqqqqqqqqqqqqqq", "CrafterReward-v1", "highway-fast-v0"])
def test_what_is_like_no_known_name_gets_no_guess(typed: str) -> None:
    assert nearest(typed, [*KNOWN, "ALE/Riverraid-v5", "ALE/Surround-v5", "ALE/Crossbow-v5"]) is None


def test_of_the_versions_of_a_name_the_latest_is_meant() -> None:
    assert nearest("CartPole", ["CartPole-v0", "phys2d/CartPole-v1", "CartPole-v1"]) == "CartPole-v1"
    assert nearest("Ant-v9", ["Ant-v2", "Ant-v5", "Ant-v4"]) == "Ant-v5"


def test_an_env_error_is_a_value_error() -> None:
    assert issubclass(EnvError, ValueError)
