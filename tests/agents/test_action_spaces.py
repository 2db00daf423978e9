"""Every algorithm in every kind of action space: it trains, evaluates and plays by one rule, or is refused at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from stillsight.agents import RlConfig, load, rl
from stillsight.agents.errors import RunError
from stillsight.agents.playing.play import evaluate, play
from stillsight.agents.playing.play_config import EvaluateConfig
from stillsight.agents.runs.spaces import Spaces
from stillsight.agents.training import learn as learn_module
from stillsight.agents.training.algorithms import ALGORITHMS, spec
from stillsight.envs import EnvOptions, make_env, make_vec, reference_returns

Tiny = Callable[..., RlConfig]

SPACES: dict[str, gym.Space[Any]] = {
    "discrete": spaces.Discrete(3),
    "shifted": spaces.Discrete(3, start=-1),
    "multi-discrete": spaces.MultiDiscrete([3, 2]),
    "shifted-multi-discrete": spaces.MultiDiscrete([3, 2], start=[-1, 5]),
    "multi-binary": spaces.MultiBinary(2),
    "box": spaces.Box(-2.0, 1.0, (2,), np.float32),
    "infinite-box": spaces.Box(-np.inf, np.inf, (2,), np.float32),
    "half-infinite-box": spaces.Box(0.0, np.inf, (2,), np.float32),
    "whole-box": spaces.Box(-3, 3, (2,), np.int64),
    "table": spaces.MultiBinary([2, 2]),
    "tuple": spaces.Tuple((spaces.Discrete(2), spaces.Box(-1.0, 1.0, (1,)))),
    "dict": spaces.Dict(a=spaces.Discrete(2)),
}
KINDS = {
    "discrete": "discrete",
    "shifted": "discrete",
    "multi-discrete": "multi-discrete",
    "shifted-multi-discrete": "multi-discrete",
    "multi-binary": "multi-binary",
    "box": "continuous",
}
"""Of the spaces that some algorithm acts in; the others none does."""
ABLE = {
    "discrete": ("ppo", "a2c", "trpo", "recurrent_ppo", "dqn", "qrdqn"),
    "multi-discrete": ("ppo", "a2c", "trpo", "recurrent_ppo"),
    "multi-binary": ("ppo", "a2c", "trpo"),
    "continuous": ("ppo", "a2c", "trpo", "recurrent_ppo", "sac", "td3", "tqc"),
}


class Keeper(gym.Env[Any, Any]):
    """Keeps every action that it gets, and earns what the action adds up to."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}
    observation_space = spaces.Box(0, 255, (16, 16, 3), np.uint8)
    got: ClassVar[list[Any]] = []

    def __init__(self, name: str) -> None:
        self.action_space = SPACES[name]

    def _picture(self) -> np.ndarray:
        return self.np_random.integers(0, 256, (16, 16, 3), dtype=np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.count = 0
        return self._picture(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        self.got.append(np.array(action))
        if isinstance(self.action_space, spaces.Discrete):
            hash(action)  # a game may look it up in a dictionary
        assert self.action_space.contains(action), f"{action!r} of {type(action)} in {self.action_space}"
        return self._picture(), float(np.sum(action)), self.count >= 7, False, {}

    def oracle_action(self) -> Any:
        """The first choice of all, or nothing at all."""
        if not hasattr(self.action_space, "start"):
            return np.zeros(2, self.action_space.dtype)
        return self.action_space.start if np.ndim(self.action_space.start) else int(self.action_space.start)


def env_id(name: str) -> str:
    return f"StillsightKeeper-{name}-v0"


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    for name in SPACES:
        gym.register(env_id(name), Keeper, kwargs={"name": name}, disable_env_checker=True)
    Keeper.got.clear()
    yield
    for name in SPACES:
        gym.registry.pop(env_id(name))


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_an_algorithm_plays_a_space_by_one_rule_or_is_refused_before_anything_is_built(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algo: str, name: str
) -> None:
    config = tiny(algo, env=env_id(name), steps=48, out=tmp_path / "run")
    kind = KINDS.get(name)
    if kind is None or algo not in ABLE[kind]:
        monkeypatch.setattr(learn_module, "build", lambda *_, **__: pytest.fail("an encoder was built"))
        with pytest.raises(RunError) as caught:
            rl(config)
        assert not (tmp_path / "run").exists()
        if kind is None:
            assert "Agents act in Discrete, MultiDiscrete and MultiBinary spaces, and in a Box" in str(caught.value)
        else:
            assert f"{algo} needs " in str(caught.value)
            assert f"{env_id(name)} has {kind} ones. Allowed here: {', '.join(ABLE[kind][:1])}" in str(caught.value)
        return
    rl(config)  # the environment asserts that it gets what its own space holds, in training and in evaluation
    assert len(Keeper.got) > 48
    Keeper.got.clear()
    trusted: dict[str, Any] = {"device": "cpu", "trust": (env_id(name),)}
    result = evaluate(tmp_path / "run", EvaluateConfig(episodes=1, seed=9, random_episodes=2, **trusted))
    assert {"random", "oracle"} <= set(result)
    player = load(tmp_path / "run", **trusted)
    env = make_env(env_id(name), config.env_options(), training=False, seed=9)
    Keeper.got.clear()
    assert play(player, env, 9).total == pytest.approx(result["returns"][0], abs=1e-4)
    played = np.stack(Keeper.got)
    pixels, _ = env.reset(seed=9)
    player.reset()
    own = make_env(env_id(name), config.env_options(), training=False).unwrapped.action_space
    for action in played:  # a game of one's own takes what the player says, and the offset that it names
        said = player.predict(pixels)
        np.testing.assert_allclose(said + np.array(player.known.offset), action, atol=1e-5)
        assert own.contains((said + np.array(player.known.offset)).astype(own.dtype))
        pixels = env.step(said)[0]


@pytest.mark.parametrize("name", ["shifted", "shifted-multi-discrete"])
def test_random_play_and_the_oracle_reach_every_choice_of_a_space_that_starts_elsewhere(name: str) -> None:
    scores = reference_returns(env_id(name), 12, options=EnvOptions())
    start, random = SPACES[name].start, np.stack(Keeper.got)  # type: ignore[attr-defined]
    assert random.min(axis=0).tolist() == np.array(start).tolist()
    most = np.array(start) + np.array([3, 2] if np.ndim(start) else 3) - 1
    assert random.max(axis=0).tolist() == most.tolist()
    assert scores["oracle"]["mean"] == 7 * np.sum(start)


def test_what_the_agent_s_choices_are_counted_from_is_kept_in_the_run(tiny: Tiny, tmp_path: Path) -> None:
    for name, offset in (("shifted", -1), ("shifted-multi-discrete", (-1, 5)), ("discrete", 0)):
        rl(tiny("ppo", env=env_id(name), steps=32, out=tmp_path / name))
        known = load(tmp_path / name, trust=[env_id(name)]).known
        assert known.offset == offset
        assert Spaces.from_json(known.to_json()) == known
        assert known.action.contains(np.int64(0) if name != "shifted-multi-discrete" else np.zeros(2, np.int64))
        (tmp_path / name / "spaces.json").unlink()  # as runs of old have it
        assert load(tmp_path / name, trust=[env_id(name)]).known == known


def test_worker_processes_shift_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
import gymnasium as gym
import numpy as np


class Off(gym.Env):
    metadata = {"render_modes": []}
    observation_space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = gym.spaces.Discrete(3, start=-1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros((16, 16, 3), np.uint8), {}

    def step(self, action):
        return np.zeros((16, 16, 3), np.uint8), float(action), False, False, {"got": action}


gym.register("OffByOne-v0", Off, disable_env_checker=True)
"""
    (tmp_path / "my_off_by_one.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    for workers in (0, 3):
        venv = make_vec("my_off_by_one:OffByOne-v0", 3, workers=workers)
        assert venv.action_space == spaces.Discrete(3)
        venv.reset()
        _, rewards, _, infos = venv.step(np.array([0, 1, 2]))
        assert [info["got"] for info in infos] == [-1, 0, 1]
        assert rewards.tolist() == [-1.0, 0.0, 1.0]
        assert venv.get_attr("action_offset") == [-1] * 3
        venv.close()
    gym.registry.pop("OffByOne-v0")


def test_an_argument_of_the_environment_may_change_its_actions(tiny: Tiny, tmp_path: Path) -> None:
    pytest.importorskip("Box2D")
    changes: dict[str, Any] = {"env": "CarRacing-v3", "standardise": 0, "max_episode_steps": 4, "steps": 8}
    few = ("learning_starts=4", "batch_size=2", "buffer_size=16", "train_freq=4", "target_update_interval=4")
    rl(tiny("dqn", env_set=("continuous=False",), out=tmp_path / "dqn", **{**changes, "set": few}))
    assert load(tmp_path / "dqn").action_space == spaces.Discrete(5)
    with pytest.raises(RunError, match=r"sac needs continuous actions, and CarRacing-v3 has discrete ones\. Allowed"):
        rl(tiny("sac", env_set=("continuous=False",), out=tmp_path / "sac", **changes))
    with pytest.raises(RunError, match="dqn needs discrete actions, and CarRacing-v3 has continuous ones"):
        tiny("dqn", **changes).check()


def test_a_subclass_acts_where_its_base_does(tiny: Tiny, tmp_path: Path) -> None:
    assert spec("stable_baselines3.dqn.dqn:DQN").actions == ("discrete",)
    config = tiny("dqn", env=env_id("multi-discrete"), out=tmp_path / "run")
    own = RlConfig(**{**vars(config), "algo": "stable_baselines3.dqn.dqn:DQN"})
    with pytest.raises(RunError, match=r"DQN needs discrete actions, and .* has multi-discrete ones"):
        rl(own)
    assert not (tmp_path / "run").exists()
