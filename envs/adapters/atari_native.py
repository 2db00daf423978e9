"""NativeAtariVecEnv: ale-py's vectorised environment, in which all games step side by side in C++ threads, as a VecEnv.

For 8 Pongs of 84 x 84 RGB on 2 busy cores it took 1.4 times as many steps a second as DummyVecEnv and 1.7 times as many
as SubprocVecEnv; it was ahead for a single game too.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from stillsight.envs.errors import EnvError
from stillsight.envs.options import EnvOptions, check_seed
from stillsight.envs.random_play import action_seed
from stillsight.envs.registry import resolve, suite_of
from stillsight.envs.suites.atari import FRAMES_LIMIT, SUITE
from stillsight.envs.wrappers.seen import Seen

OLDEST_ALE = (0, 12, 1)
"""The first ale-py that is known to start some games anew while the others wait (`reset_mask`)."""

_TAKEN = {"game", "repeat_action_probability", "full_action_space", FRAMES_LIMIT}
_ENDLESS = 2**30  # frames, more than half a year of play; 0 and None mean "no limit" to the plain environment only


@dataclass
class Game:
    """What `get_attr` and `set_attr` find of one copy, as they would on an environment of its own."""

    observation_space: spaces.Box
    action_space: spaces.Discrete
    spec: gym.envs.registration.EnvSpec
    seen: Seen
    render_mode: str = "rgb_array"


class NativeAtariVecEnv(VecEnv):
    """`ale_py.vector_env.AtariVectorEnv` as a Stable-Baselines3 VecEnv: uint8 `[n_envs, 3, H, W]`, RGB, 0..255.

    It plays by the rules of `make_env`, frame for frame and reward for reward, with these differences:

    - The two have generators of their own, so one seed starts other games here than there.
    - A game starts after 0..noop_max-1 no-ops, not 1..noop_max, and these frames do not count towards the id's own
      limit of frames (108 000 in every registered id).
    - `get_images()` and `render()` show the last observations at their own size: the native environment draws nothing.

    `reset()` comes first, as Stable-Baselines3 does it; before it there is nothing to step or see. `env_method` finds
    no methods: there is no Python object behind a copy.
    """

    KIND = "ale-py's vectorised environment"
    """What it is called in sentences."""

    def __init__(
        self, env_id: str, n_envs: int, options: EnvOptions | None = None, *, training: bool = True, seed: int = 0
    ) -> None:
        """Builds `n_envs` games; copy i is seeded with `seed + i`, and by `action_seed` its action space.

        Args:
            env_id: an Atari id.
            n_envs: how many copies, at least 1.
            options: default to those of the id's row.
            training: whether `options.clip_rewards` holds; `False` shows the true rewards.
            seed: of the first copy.

        Raises:
            EnvError: what `resolve` raises, and what `objection` says.
        """
        check_seed(seed, n_envs)
        row = resolve(env_id)
        options = options or row.options
        if reason := self.objection(env_id, options, training=training):
            raise EnvError(f"The native Atari environment was asked for, and {reason}. Give native=None or False.")
        from ale_py.vector_env import AtariVectorEnv

        SUITE.arguments(env_id, options)  # refuses values that ale-py would take for others
        spec, kwargs = registered(env_id, options)
        native = screen(kwargs["game"])
        height, width = (options.size, options.size) if options.size else native
        seen = Seen(source="observation", form=f"uint8 {[*native, 3]}", native=native, size=(height, width))
        self._native = AtariVectorEnv(
            kwargs["game"],
            n_envs,
            img_height=height,
            img_width=width,
            grayscale=False,
            stack_num=1,
            frameskip=options.frame_skip,
            noop_max=options.noop_max,
            repeat_action_probability=float(kwargs.get("repeat_action_probability", 0.25)),
            full_action_space=bool(kwargs.get("full_action_space", False)),
            max_num_frames_per_episode=kwargs.get(FRAMES_LIMIT) or _ENDLESS,
            # Its defaults would hide the true rewards and press FIRE.
            reward_clipping=False,
            use_fire_reset=False,
            # Finished games wait, and step_wait starts them anew. Its SAME_STEP would lose what `info` said at the end
            # and could not end an episode at max_episode_steps, which must be counted here: natively such an end is
            # shown by the frame of the step before, not by its own.
            autoreset_mode=gym.vector.AutoresetMode.NEXT_STEP,
        )
        actions = len(self._native.ale.get_action_set())
        picture = spaces.Box(0, 255, (3, height, width), np.uint8)
        self._games = [
            Game(picture, spaces.Discrete(actions, seed=action_seed(seed + i)), spec, seen) for i in range(n_envs)
        ]
        self._actions = np.zeros(n_envs, np.int64)
        self._returns = np.zeros(n_envs)
        self._lengths = np.zeros(n_envs, np.int64)
        self._limit = options.max_episode_steps or _ENDLESS
        self._clip = training and options.clip_rewards
        self._born = time.time()
        super().__init__(n_envs, picture, self._games[0].action_space)
        self.seed(seed)  # for the first reset: loading a game, which seeding takes, is the slowest part of all

    @staticmethod
    def objection(env_id: str, options: EnvOptions, *, training: bool = True) -> str | None:
        """Why it cannot show an id that `resolve` knows as these options ask, or `None` if it can."""
        if suite_of(env_id) is not SUITE:
            return f"{env_id} is no {SUITE.kind}"
        if options.shift is not None:
            return f"it shows the game as it is, without the shift {options.shift!r}"
        if options.pixels or options.state:
            return "it shows the screen alone, and parts of an observation were named"
        import ale_py

        if tuple(int(part) for part in ale_py.__version__.split(".")[:3] if part.isdigit()) < OLDEST_ALE:
            oldest = ".".join(map(str, OLDEST_ALE))
            return f"it needs ale-py {oldest} where this is {ale_py.__version__} (pip install -U ale-py)"
        if training and options.terminal_on_life_loss:
            return "it cannot play the no-op with which a game goes on after a lost life (terminal_on_life_loss)"
        spec, kwargs = registered(env_id, options)
        reserved = {name for name, _ in options.kwargs if name in SUITE.reserved}
        if strange := [f"{name}={kwargs[name]!r}" for name in sorted((set(kwargs) - _TAKEN) | reserved)]:
            return f"it does not take the environment arguments {', '.join(strange)}"
        if spec.additional_wrappers or (spec.max_episode_steps and not options.max_episode_steps):
            return f"{env_id} was registered with wrappers or a time limit of its own"
        return None

    def reset(self) -> NDArray[np.uint8]:
        """New games everywhere, from the seeds given since the last reset or from where the generators stand."""
        seeds = np.array([-1 if seed is None else game_seed(seed) for seed in self._seeds])
        self._frames, info = self._native.reset(seed=seeds)
        self.reset_infos = _split(info, range(self.num_envs))
        self._returns[:] = 0.0
        self._lengths[:] = 0
        self._reset_seeds()
        self._reset_options()  # an Atari game has none
        return _pixels(self._frames)

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Raises `ValueError` for an action that the game does not have: natively it would stall for ever."""
        actions = np.asarray(actions, np.int64)
        most = int(self._games[0].action_space.n) - 1
        if actions.min() < 0 or actions.max() > most:
            raise ValueError(f"The actions {actions.tolist()} were sent to {self._games[0].spec.id}; 0 to {most} exist")
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """One agent step of every game; those that ended have been started anew."""
        self._frames, rewards, terminated, truncated, info = self._native.step(self._actions)
        self._returns += rewards
        self._lengths += 1
        dones = terminated | truncated | (self._lengths >= self._limit)
        infos = _split(info, range(self.num_envs))
        for one, cut in zip(infos, dones & ~terminated, strict=True):
            one["TimeLimit.truncated"] = bool(cut)
        observations = _pixels(self._frames)
        if dones.any():
            self._end(dones, observations, infos)
        return observations, (np.sign(rewards) if self._clip else rewards).astype(np.float32), dones, infos

    def _end(self, dones: NDArray[np.bool_], observations: NDArray[np.uint8], infos: list[dict[str, Any]]) -> None:
        """Report the games that are over and put the first frames of new ones in the place of their last ones."""
        seconds = round(time.time() - self._born, 6)
        over = np.flatnonzero(dones)
        for i in over:
            # The form of SB3's Monitor.
            infos[i]["episode"] = {"r": round(float(self._returns[i]), 6), "l": int(self._lengths[i]), "t": seconds}
            infos[i]["terminal_observation"] = observations[i].copy()
        self._frames, begun = self._native.reset(options={"reset_mask": dones})  # the others stay as they are
        observations[over] = _pixels(self._frames[over])
        for i, one in zip(over, _split(begun, over), strict=True):
            self.reset_infos[i] = one
        self._returns[over] = 0.0
        self._lengths[over] = 0

    def close(self) -> None:
        """End the native threads; nothing can be stepped after it."""
        # They end when nothing holds the native object any more. Closing twice is no mistake.
        vars(self).pop("_native", None)

    def get_images(self) -> list[NDArray[np.uint8] | None]:
        """The last observations as frames, uint8 `[H, W, 3]`."""
        return [frame.copy() for frame in self._frames[:, 0]]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """What each copy's `Game` holds under this name; `AttributeError` where it holds nothing."""
        return [getattr(self._games[i], attr_name) for i in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Keep a value for each copy, for `get_attr`; it changes nothing in the game."""
        for i in self._get_indices(indices):
            setattr(self._games[i], attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """Raises `AttributeError`, as environments without that method do."""
        return [getattr(self._games[i], method_name)(*args, **kwargs) for i in self._get_indices(indices)]

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """True for SB3's `Monitor`, whose reports are made here, and for no other wrapper."""
        return [issubclass(Monitor, wrapper_class) for _ in self._get_indices(indices)]


def registered(env_id: str, options: EnvOptions) -> tuple[gym.envs.registration.EnvSpec, dict[str, Any]]:
    """How the id was registered, and the arguments that `gymnasium.make` would hand to the environment."""
    spec = gym.registry[env_id.rpartition(":")[2]]
    own = {name: value for name, value in spec.kwargs.items() if name != "frameskip"}  # options.frame_skip replaces it
    if options.max_episode_steps:
        own[FRAMES_LIMIT] = None
    return spec, {**own, **dict(options.kwargs)}


def screen(game: str) -> tuple[int, int]:
    """Height and width of a game's screen in pixels: mostly 210 x 160, a few are taller."""
    import ale_py

    rom = ale_py.roms.get_rom_path(game)
    assert rom is not None, "Gymnasium knows only games whose ROM came with ale_py"
    ale = ale_py.ALEInterface()
    ale.loadROM(rom)
    height, width = ale.getScreenDims()
    return height, width


def game_seed(seed: int) -> int:
    """The seed of a game from that of an environment."""
    # As ale_py's single environment spreads a seed (`AtariEnv.seed_game`), so that neighbours do not resemble each
    # other; the highest bit is dropped because natively a negative seed means none.
    return int(np.random.SeedSequence(seed).generate_state(2)[1]) & 0x7FFF_FFFF


def _pixels(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`[n, 1, H, W, 3]` as a new array `[n, 3, H, W]`."""
    return np.ascontiguousarray(frames[:, 0].transpose(0, 3, 1, 2))


def _split(info: dict[str, NDArray[np.int32]], games: Iterable[int]) -> list[dict[str, Any]]:
    """The infos of some games, with the keys that `AtariEnv` has."""
    return [{name: int(info[name][i]) for name in ("lives", "episode_frame_number", "frame_number")} for i in games]
