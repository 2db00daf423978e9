"""Domain randomisation of environments' own: its colours, by a generator of ours, and the same game."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from stillsight.envs import EnvError, EnvOptions, make_env, resolve
from stillsight.envs.shifts.domain_scene import SEEN, Domain

CAR = "CarRacing-v3"
COLOURS = ("road_color", "bg_color", "grass_color")


def test_carracing_has_the_colours_that_its_own_code_draws_and_the_track_that_it_has_without() -> None:
    pytest.importorskip("Box2D")
    from gymnasium.envs.box2d.car_racing import CarRacing

    plain, env = (make_env(CAR, resolve(CAR).options.merge(shift=shift), training=False) for shift in (None, "domain"))
    half = make_env(CAR, resolve(CAR).options.merge(shift="domain:0.5"), training=False)
    own: Any = CarRacing(domain_randomize=True)
    games: list[Any] = [made.unwrapped for made in (plain, env, half)]
    for seed in (1, 2):
        seen = [made.reset(seed=seed)[0] for made in (plain, env, half)]
        own._np_random = np.random.default_rng((seed, 0x5E1F7)).spawn(1)[0]
        own._init_colors()
        for colour in COLOURS:
            default, drawn, between = (getattr(game, colour) for game in games)
            np.testing.assert_array_equal(drawn, getattr(own, colour))
            np.testing.assert_allclose(between, (default + drawn) / 2)
        assert games[0].track == games[1].track
        assert not games[1].domain_randomize
        assert (seen[0] != seen[1]).any()
        states = [made.env.unwrapped.np_random.bit_generator.state for made in (plain, env)]
        assert states[0] == states[1], "the game has drawn the same numbers"
    for made in (plain, env, half):
        made.close()


def test_carracing_that_draws_its_own_colours_is_refused() -> None:
    pytest.importorskip("Box2D")
    options = resolve(CAR).options.merge(shift="domain", kwargs={"domain_randomize": True})
    with pytest.raises(EnvError, match=r"was made with domain_randomize, and the shift domain draws in its place"):
        make_env(CAR, options)


class World(gym.Env[Any, Any]):
    """As much of MiniWorld as is drawn: its own parameters, sampled as its `reset` and its `step` do."""

    observation_space, action_space = gym.spaces.Box(0, 255, (20, 20, 3), np.uint8), gym.spaces.Discrete(2)

    def __init__(self) -> None:
        found = importlib.util.find_spec("miniworld")
        if found is None or not found.submodule_search_locations:
            pytest.skip("MiniWorld is not installed")
        file = Path(found.submodule_search_locations[0], "params.py")  # the package itself needs a screen to import
        spec = importlib.util.spec_from_file_location("miniworld_params", file)
        assert spec is not None
        assert spec.loader is not None
        params = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(params)
        self.params, self.domain_rand = params.DEFAULT_PARAMS, False

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        rand = self.np_random if self.domain_rand else None
        self.drawn = {name: self.params.sample(rand, name) for name in self.params.params}
        return np.zeros((20, 20, 3), np.uint8), {}


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_miniworld_samples_what_is_seen_from_its_own_ranges_and_moves_as_without(strength: float) -> None:
    world = World()
    plain = world.params
    scene = Domain(world, strength, None)
    drawn = []
    for seed in range(40):
        scene.begin(np.random.default_rng(seed))
        world.reset(seed=seed)
        drawn.append(world.drawn)
    for name, parameter in plain.params.items():
        values = np.array([each[name] for each in drawn])
        if name not in SEEN:
            assert (values == parameter.default).all(), name
            continue
        low, high = (parameter.default + strength * (end - parameter.default) for end in (parameter.min, parameter.max))
        assert (values >= low - 1e-9).all()
        assert (values <= high + 1e-9).all()
        spread = (values - low) / np.where(high > low, high - low, 1)
        assert spread.max() > 0.9
        assert spread.min() < 0.1
    assert world.params is not plain, "the defaults that all worlds share are left alone"
    scene.begin(np.random.default_rng(3))
    world.reset(seed=99)
    np.testing.assert_array_equal(world.drawn["sky_color"], drawn[3]["sky_color"])


def test_an_environment_without_randomisation_is_a_sentence() -> None:
    gym.register("StillsightTestPlain-v0", "flat_world:Flat", disable_env_checker=True)
    try:
        with pytest.raises(EnvError, match=r"has no domain randomisation of its own\. CarRacing and MiniWorld have"):
            make_env("StillsightTestPlain-v0", EnvOptions(shift="domain"))
    finally:
        gym.registry.pop("StillsightTestPlain-v0")
