"""A vector environment in every autoreset mode is, step by step, the single environments it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from hypothesis import given, settings
from hypothesis import strategies as st
from robot_world import Robot
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from stillsight.envs import EnvError, EnvFault, EnvOptions, GymnasiumVecEnv, make_vec
from stillsight.envs.vec_state import vec_objection
from stillsight.envs.vectorised.gymnasium_vec_env import EntryPointVecEnv

ROBOT = "robot_world:Robot-v0"
MODES = list(AutoresetMode)
BOTH = EnvOptions(pixels=("image", "wrist"), state=("on",))


def robots(mode: AutoresetMode, n_envs: int, **kwargs: Any) -> VectorEnv[Any, Any, Any]:
    return SyncVectorEnv([Robot] * n_envs, autoreset_mode=mode, **kwargs)


def speechless() -> gym.Env[Any, Any]:
    """A robot without a mission: Gymnasium's shared memory takes no spaces in texts."""
    return gym.wrappers.FilterObservation(Robot(), ["image", "wrist", "joints"])


def equal(one: Any, other: Any) -> None:
    if isinstance(other, dict):
        assert set(one) == set(other)
        for key in other:
            equal(one[key], other[key])
        return
    one, other = np.asarray(one), np.asarray(other)
    assert (one.dtype, one.shape) == (other.dtype, other.shape)
    np.testing.assert_array_equal(one, other)


def together(ours: VecEnv, plain: VecEnv, steps: int, seed: int) -> list[dict[str, Any]]:
    """Step both alike, assert that all they say is equal, and return the infos in which episodes ended."""
    assert ours.observation_space == plain.observation_space
    assert ours.action_space == plain.action_space
    rng, ends = np.random.default_rng(seed), []
    for venv in (ours, plain):
        venv.seed(seed)
    equal(ours.reset(), plain.reset())
    for _ in range(steps):
        actions = rng.integers(0, plain.action_space.n, plain.num_envs)  # type: ignore[attr-defined]
        shown, rewards, dones, infos = ours.step(actions)
        expected = plain.step(actions)
        equal(shown, expected[0])
        equal(rewards, expected[1])
        equal(dones, expected[2])
        for info, other in zip(infos, expected[3], strict=True):
            assert set(info) == set(other)
            assert info["TimeLimit.truncated"] == other["TimeLimit.truncated"]
            if "episode" in other:
                equal(info["terminal_observation"], other["terminal_observation"])
                assert (info["episode"]["r"], info["episode"]["l"]) == (other["episode"]["r"], other["episode"]["l"])
                ends.append(info)
    return ends


@given(
    st.sampled_from(MODES),
    st.integers(1, 4),
    st.integers(0, 10_000),
    st.sampled_from([0, 0, 1, 4, 30]),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_it_is_the_single_environments(
    mode: AutoresetMode, n_envs: int, seed: int, limit: int, clip: bool, copy: bool
) -> None:
    """Two cameras and joints, episodes of uneven length, which end by the rules, their length or our limit."""
    options = BOTH.merge(max_episode_steps=limit, clip_rewards=clip)
    ours = GymnasiumVecEnv(robots(mode, n_envs, copy=copy), options)
    plain = make_vec(ROBOT, n_envs, options=options, native=False)
    ends = together(ours, plain, 30, seed)
    assert len(ends) >= n_envs
    if limit == 4:
        assert {end["episode"]["l"] for end in ends} == {4}
    if clip:
        assert any(abs(end["episode"]["r"]) not in range(40) for end in ends), "the true return, not that of signs"
    ours.close()
    ours.close()


def test_a_seed_of_0_that_only_one_copy_is_given_is_no_missing_one() -> None:
    """It was dropped with those that are not given, and the episode began by chance."""
    ours = GymnasiumVecEnv(robots(AutoresetMode.DISABLED, 2), BOTH, seed=5)
    for seeds, begun in (([None, 0], 1), ([0, None], 0)):
        ours._seeds = list(seeds)
        shown: Any = ours.reset()
        np.testing.assert_array_equal(shown["image"][begun], Robot().reset(seed=0)[0]["image"].transpose(2, 0, 1))


@pytest.mark.parametrize("mode", MODES)
def test_so_it_is_in_processes_of_gymnasium_s_own(mode: AutoresetMode) -> None:
    if mode is AutoresetMode.NEXT_STEP:
        with pytest.raises(EnvError, match="shared_memory=False begins an episode that was begun alone a second time"):
            GymnasiumVecEnv(AsyncVectorEnv([speechless], autoreset_mode=mode, shared_memory=False), BOTH)
    ours = GymnasiumVecEnv(AsyncVectorEnv([speechless] * 2, autoreset_mode=mode), BOTH)
    ends = together(ours, make_vec(ROBOT, 2, options=BOTH), 30, 3)
    assert {end["TimeLimit.truncated"] for end in ends} == {True, False}
    ours.close()


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_rendered_frames_are_those_of_single_environments(mode: AutoresetMode) -> None:
    makers = [partial(Robot, draws=True, render_mode="rgb_array")] * 2
    options = EnvOptions(pixels=("rendering",), size=24)
    ours = GymnasiumVecEnv(SyncVectorEnv(makers, autoreset_mode=mode), options)
    together(ours, make_vec("robot_world:RobotSeen-v0", 2, options=options), 25, 8)
    (frame, _) = ours.get_images()
    assert frame is not None
    assert frame.shape == (32, 32, 3)


def grey_stack(frames: int) -> gym.Env[Any, Any]:
    """The camera of a robot in grey, `frames` of them one on the other."""
    eye = gym.wrappers.TransformObservation(
        Robot(),
        lambda seen: seen["image"][..., 0],
        spaces.Box(0, 255, Robot().observation_space["image"].shape[:2], np.uint8),
    )
    return gym.wrappers.FrameStackObservation(eye, frames)


def test_three_grey_frames_of_its_copies_are_no_picture_in_colour() -> None:
    """From outside `[3, H, W]` is all that is known of a copy."""
    native = SyncVectorEnv([partial(grey_stack, 3)] * 2, autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(EnvError, match=r"SyncVectorEnv is made of environments that stack frames .*--frame-stack"):
        GymnasiumVecEnv(native)


def test_the_last_frame_that_is_drawn_too_late_is_a_sentence() -> None:
    makers = [partial(Robot, draws=True, render_mode="rgb_array")] * 2
    native = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
    with pytest.raises(EnvError, match=r"\(SAME_STEP\): its last frame cannot be drawn any more\. Make it with"):
        GymnasiumVecEnv(native, EnvOptions(pixels=("rendering",)))


def test_no_step_of_a_next_step_reset_reaches_a_replay_memory() -> None:
    """Gymnasium's step that begins an episode pays 0 and ignores the action: an agent would learn from it."""
    ours = GymnasiumVecEnv(robots(AutoresetMode.NEXT_STEP, 2), EnvOptions(pixels=("image",)))
    plain = make_vec(ROBOT, 2, options=EnvOptions(pixels=("image",)))
    memories = [_rollout(venv) for venv in (ours, plain)]
    for one, other in zip(*memories, strict=True):
        equal(one, other)
    assert not (memories[0][1] == 0.0).any()


def _rollout(venv: VecEnv) -> tuple[np.ndarray, ...]:
    """A replay buffer of SB3's, filled as its algorithms fill it."""
    buffer = ReplayBuffer(40, venv.observation_space, venv.action_space, n_envs=2)
    venv.seed(2)
    shown: Any = venv.reset()
    rng = np.random.default_rng(0)
    for _ in range(20):
        actions = rng.integers(0, 3, 2)
        following, rewards, dones, infos = venv.step(actions)
        last: Any = np.array(following)
        for i in np.flatnonzero(dones):
            last[i] = infos[i]["terminal_observation"]
        buffer.add(shown, last, actions, rewards, dones, infos)
        shown = following
    return buffer.observations, buffer.rewards, buffer.dones, buffer.timeouts, buffer.next_observations


class Lamps(VectorEnv[Any, Any, Any]):
    """Each lamp counts its steps, is as bright as it has counted, and is out after 3 + its number.

    Args:
        num_envs: how many.
        mode: how new episodes begin.
        masks: whether it takes reset_mask: "yes", "no", or "once", the first time alone.
        picture: whether it observes one; else a vector.
        drawn: whether it says that it renders, and gives nothing.
        said: whether metadata tell the mode.
    """

    def __init__(
        self,
        num_envs: int = 2,
        mode: AutoresetMode | None = AutoresetMode.SAME_STEP,
        masks: str = "yes",
        picture: bool = True,
        max_episode_steps: int = 0,
        drawn: bool = False,
    ) -> None:
        self.render_mode = "rgb_array" if drawn else None
        self.metadata = {} if mode is None else {"autoreset_mode": mode}
        self.mode, self.masks, self.num_envs, self.limit = mode, masks, num_envs, max_episode_steps
        self.single_observation_space = spaces.Box(0, 255, (16, 16, 3) if picture else (3,), np.uint8)
        self.single_action_space = spaces.Discrete(2, start=5)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.counts, self.shown = np.zeros(num_envs, np.int64), np.zeros(self.observation_space.shape, np.uint8)
        self.closed_times = 0

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:  # noqa: ARG002
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        self.counts[mask if self.masks != "no" else slice(None)] = 0
        if self.masks == "once" and options:
            self.masks = "no"
        return self._show(), {"begun": self.counts + 7}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        assert set(actions.tolist()) <= {5, 6}
        self.counts += 1
        over = self.counts >= 3 + np.arange(self.num_envs)
        rewards = (actions - 5) * 10.0 + self.counts
        infos: dict[str, Any] = {"count": self.counts.copy(), "shared": "same"}
        shown = self._show()
        if self.mode is AutoresetMode.SAME_STEP and over.any():
            ended = {**infos, "_count": over, "_shared": over}
            infos = {**infos, "_count": ~over, "_shared": ~over, "_begun": over}
            infos |= {"final_obs": shown.copy(), "final_info": ended, "_final_obs": over}  # a batch, and no objects
            self.counts[over] = 0
            infos["begun"] = self.counts + 7
            shown = self._show()
        return shown, rewards, over, np.zeros(self.num_envs, bool), infos

    def _show(self) -> np.ndarray:
        self.shown[:] = self.counts.reshape(-1, *[1] * len(self.single_observation_space.shape))
        return self.shown  # the same array each time, as libraries do it that share memory

    def render(self) -> Any:
        return None

    def close(self, **_: Any) -> None:
        self.closed_times += 1


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_one_s_own_vector_environment_counts_every_step_once(mode: AutoresetMode) -> None:
    native = Lamps(2, mode)
    venv = GymnasiumVecEnv(native)
    first = venv.reset()
    assert venv.action_space == spaces.Discrete(2)
    seen = []
    for step in range(12):
        shown, rewards, dones, infos = venv.step(np.array([step % 2, 0]))
        seen.append((int(shown[0].max()), float(rewards[0]), bool(dones[0])))  # type: ignore[index, call-overload]
        assert infos[0]["shared"] == "same"
        assert infos[0]["count"] == step % 3 + 1
        if dones[0]:
            assert infos[0]["terminal_observation"].max() == 3
            assert infos[0]["episode"]["l"] == 3
            assert venv.reset_infos[0]["begun"] == 7
        assert dones[1] == ((step + 1) % 4 == 0)
    assert seen == [((s + 1) % 3, s % 3 + 1 + 10.0 * (s % 2), s % 3 == 2) for s in range(12)]
    assert np.max(first) == 0, "what was given is the caller's"  # type: ignore[arg-type]
    assert vec_objection(venv) == (
        "a vector environment keeps its games to itself (--workers on plays them one by one, and can save them)"
    )
    venv.close()
    venv.close()
    assert native.closed_times == 1


@pytest.mark.parametrize(
    ("native", "options", "sentence"),
    [
        (
            Lamps(2, None),
            EnvOptions(),
            "Lamps does not say how it begins new episodes",
        ),
        (
            Lamps(2, AutoresetMode.NEXT_STEP, "no"),
            EnvOptions(),
            r"cannot begin some .*others anew.*NEXT_STEP.*no age",
        ),
        (Lamps(2, AutoresetMode.DISABLED, "no"), EnvOptions(), r"cannot begin some episodes alone.*anew.*DISABLED"),
        (Lamps(2, masks="no"), EnvOptions(max_episode_steps=2), "cannot begin some episodes alone"),
        (Lamps(2), EnvOptions(frame_skip=4), "none can skip frames"),
        (Lamps(2, picture=False), EnvOptions(), "Lamps observes uint8 .3., which is no image, and cannot render"),
        (
            Lamps(2, picture=False, drawn=True),
            EnvOptions(),
            r"Lamps observes uint8 .3., which is no image, and renders NoneType in place of uint8 \[H, W, 3\]",
        ),
    ],
)
def test_what_cannot_be_had_is_a_sentence(native: Lamps, options: EnvOptions, sentence: str) -> None:
    with pytest.raises(EnvError, match=sentence):
        GymnasiumVecEnv(native, options)


def test_cartpole_s_own_is_refused_because_it_begins_others_anew() -> None:
    native = gym.make_vec("CartPole-v1", 2, vectorization_mode="vector_entry_point", render_mode="rgb_array")
    with pytest.raises(EnvError, match=r"CartPole-v1 cannot begin some episodes alone.*it begins the others anew"):
        GymnasiumVecEnv(native)


def test_one_copy_needs_no_mask_and_a_mode_can_be_given() -> None:
    venv = GymnasiumVecEnv(Lamps(1, None, "no"), mode=AutoresetMode.DISABLED)
    venv.reset()
    assert [bool(venv.step(np.array([0]))[2][0]) for _ in range(6)] == [False, False, True] * 2


def test_one_that_breaks_its_word_later_is_a_fault() -> None:
    venv = GymnasiumVecEnv(Lamps(2, AutoresetMode.DISABLED, "once"))
    venv.reset()
    venv.native.masks = "no"  # type: ignore[attr-defined]
    for _ in range(2):
        venv.step(np.zeros(2, int))
    with pytest.raises(EnvFault, match=r"was told to begin copy 0 anew, alone \(reset_mask\), and has changed others"):
        venv.step(np.zeros(2, int))


class Lamp(gym.Env[Any, Any]):
    """One of `Lamps`, alone."""

    metadata = {"render_modes": []}  # noqa: RUF012
    observation_space = spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = spaces.Discrete(2, start=5)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.count = 0
        return np.zeros((16, 16, 3), np.uint8), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        shown, reward = np.full((16, 16, 3), self.count, np.uint8), (action - 5) * 10.0 + self.count
        return shown, reward, self.count >= 3, False, {"count": self.count, "shared": "same"}


class Notes(Lamps):
    """Lamps that begin by themselves in the step after an end, for which they keep a note of their own.

    Args:
        forgets: whether a copy that is begun alone forgets its note.
        pays: whether a step pays, and shows, anything but its end.
    """

    def __init__(self, forgets: bool, pays: bool = True, num_envs: int = 2) -> None:
        super().__init__(num_envs, AutoresetMode.NEXT_STEP)
        self.over, self.forgets, self.pays = np.zeros(num_envs, bool), forgets, pays

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        if self.forgets or options is None:
            self.over[(options or {}).get("reset_mask", slice(None))] = False
        return super().reset(seed=seed, options=options)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        begins = self.over
        self.counts = np.where(begins, 0, self.counts + 1)
        self.over = self.counts >= 3 + np.arange(self.num_envs)
        rewards = np.where(begins, 0.0, (actions - 5) * 10.0 + self.counts) * self.pays
        return self._show(), rewards, self.over.copy(), np.zeros(self.num_envs, bool), {}

    def _show(self) -> np.ndarray:
        super()._show()
        self.shown *= self.pays
        return self.shown


def test_a_copy_that_begins_once_more_after_it_was_begun_alone_is_refused() -> None:
    """Every second episode began with a step that ignored the action and paid nothing."""
    with pytest.raises(EnvError, match=r"Notes cannot begin some .*ended, the next step begins the new one once more"):
        GymnasiumVecEnv(Notes(forgets=False))
    venv = GymnasiumVecEnv(Notes(forgets=True))
    venv.reset()
    assert all(venv.step(np.zeros(2, int))[1].all() for _ in range(12))
    GymnasiumVecEnv(Notes(forgets=True, pays=False)).close()  # where nothing is ever seen, nothing is known


@pytest.fixture
def registered() -> Iterator[None]:
    gym.register("Lamp-v0", Lamp, vector_entry_point=Lamps, disable_env_checker=True)
    gym.register("LampStuck-v0", Lamp, vector_entry_point=partial(Lamps, mode=AutoresetMode.NEXT_STEP, masks="no"))
    gym.register("LampVector-v0", vector_entry_point=Lamps)
    gym.register("LampLimit-v0", Lamp, vector_entry_point=Lamps, max_episode_steps=9)
    yield
    for name in ("Lamp-v0", "LampStuck-v0", "LampVector-v0", "LampLimit-v0"):
        gym.registry.pop(name)


@pytest.mark.parametrize(
    ("env_id", "arguments", "kind"),
    [
        ("Lamp-v0", {}, EntryPointVecEnv),
        ("Lamp-v0", {"native": "gymnasium", "training": False}, EntryPointVecEnv),
        ("Lamp-v0", {"native": True}, EntryPointVecEnv),
        ("Lamp-v0", {"native": False}, DummyVecEnv),
        ("Lamp-v0", {"training": False}, DummyVecEnv),
        ("Lamp-v0", {"options": EnvOptions(frame_skip=2)}, DummyVecEnv),
        ("LampStuck-v0", {}, DummyVecEnv),
        ("CartPole-v1", {}, DummyVecEnv),
    ],
)
@pytest.mark.usefixtures("registered")
def test_an_id_s_own_vector_environment_is_chosen_where_it_shows_the_same(
    env_id: str, arguments: dict[str, Any], kind: type[VecEnv]
) -> None:
    venv = make_vec(env_id, 2, **arguments)
    assert type(venv) is kind
    venv.close()


@pytest.mark.usefixtures("registered")
def test_an_id_s_own_limit_is_replaced_and_its_first_copy_is_the_single_one() -> None:
    venv = make_vec("LampLimit-v0", 1, options=EnvOptions(max_episode_steps=2), native=True)
    assert isinstance(venv, EntryPointVecEnv)
    assert venv.native.limit == 2  # type: ignore[attr-defined]
    together(make_vec("Lamp-v0", 1, native=True), make_vec("Lamp-v0", 1, native=False), 9, 0)


@pytest.mark.parametrize(
    ("env_id", "native", "sentence"),
    [
        ("LampStuck-v0", True, "cannot begin some episodes alone"),
        ("Lamp-v0", "gymnasum", "'gymnasum' was asked for, and Lamp-v0 has gymnasium. Did you mean 'gymnasium'"),
        (ROBOT, "gymnasium", "'gymnasium' was asked for, and robot_world:Robot-v0 has none. Give native=None or False"),
        (
            "LampVector-v0",
            False,
            "LampVector-v0 was registered with a vector environment alone, and eval",
        ),
    ],
)
@pytest.mark.usefixtures("registered")
def test_what_an_id_does_not_have_is_a_sentence(env_id: str, native: bool | str, sentence: str) -> None:
    with pytest.raises(EnvError, match=sentence):
        make_vec(env_id, 2, native=native)
