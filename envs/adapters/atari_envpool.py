"""EnvPoolAtariVecEnv: Atari games in EnvPool's C++ threads (Weng et al. 2022), as a VecEnv."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from stillsight.envs.adapters.atari_native import game_seed, registered, screen
from stillsight.envs.errors import EnvError
from stillsight.envs.options import EnvOptions
from stillsight.envs.registry import resolve, suite_of
from stillsight.envs.suites.atari import FRAMES_LIMIT, SUITE
from stillsight.envs.vectorised.gymnasium_vec_env import GymnasiumVecEnv
from stillsight.envs.wrappers.pixels import Pixels
from stillsight.envs.wrappers.seen import Seen

FRAMES = 108_000
"""Of a game, after which an id cuts it off unless it was registered with another number: half an hour of play."""

_TAKEN = {"game", "repeat_action_probability", "full_action_space", "mode", "difficulty", FRAMES_LIMIT}


class Pool(VectorEnv[Any, Any, Any]):
    """A pool of games behind Gymnasium's interface as its own vector environments have it.

    EnvPool's differs from that: its spaces are of one game, a reset of some games answers with these alone, and its
    generators are seeded when a pool is made, so that seeding makes another.

    Args:
        make: a pool for the seeds of its games.
        num_envs: games in it.
        spec: as Gymnasium knows one of them.
        shape: of its images, (3, H, W).
        actions: that it has.
    """

    def __init__(
        self,
        make: Callable[[list[int]], Any],
        num_envs: int,
        spec: gym.envs.registration.EnvSpec,
        shape: tuple[int, int, int],
        actions: int,
    ) -> None:
        self._make, self.num_envs, self.spec = make, num_envs, spec
        self._pool: Any = None
        self._seeds: list[int] = []
        self._untouched = False
        self.metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}
        self._actions = actions
        self.single_observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.single_action_space = spaces.Discrete(actions)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """New games, only those of `options["reset_mask"]` where it is given; a seed, or a list, makes a new pool."""
        if seed is not None or self._pool is None:
            self._reseed(seed)
            return self._shown.copy(), self._told
        if options is None or "reset_mask" not in options:
            self._take(*self._pool.reset())
            return self._shown.copy(), self._told
        some, info = self._pool.reset(options={"reset_mask": options["reset_mask"]})
        begun = info["env_id"]
        self._shown[begun] = some
        lives = np.zeros(self.num_envs, np.int32)
        lives[begun] = info["lives"]
        return self._shown.copy(), {"lives": lives}

    def step(self, actions: NDArray[np.int64]) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """A step of every game. Raises `ValueError` for an action that it does not have, which EnvPool would take."""
        most = self._actions - 1
        if actions.min() < 0 or actions.max() > most:
            raise ValueError(f"The actions {actions.tolist()} were sent to {self._name()}; 0 to {most} exist")
        shown, rewards, terminated, truncated, info = self._pool.step(actions)
        order = self._take(shown, info)
        self._untouched = False
        return self._shown.copy(), rewards[order], terminated[order], truncated[order], self._told

    def close(self, **_: Any) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _reseed(self, seed: Any) -> None:
        first = np.random.SeedSequence().generate_state(1)[0] if seed is None else seed
        numbers = first if isinstance(first, list) else [int(first) + i for i in range(self.num_envs)]
        seeds = [game_seed(int(np.random.SeedSequence().generate_state(1)[0] if n is None else n)) for n in numbers]
        if self._untouched and seeds == self._seeds:
            return
        self.close()
        self._pool, self._seeds, self._untouched = self._make(seeds), seeds, True
        self._take(*self._pool.reset())

    def _take(self, shown: Any, info: dict[str, Any]) -> NDArray[np.intp]:
        """Keep what was observed, game by game; in which order it came."""
        order = np.argsort(info["env_id"])
        self._shown = np.array(shown[order])
        self._told = {"lives": np.array(info["lives"][order])}
        return order

    def _name(self) -> str:
        assert self.spec is not None
        return self.spec.id


class EnvPoolAtariVecEnv(GymnasiumVecEnv):
    """Atari games in EnvPool as a Stable-Baselines3 VecEnv: uint8 `[n_envs, 3, H, W]`, RGB, 0..255.

    It plays by the rules of `make_env`, frame for frame and reward for reward, with these differences:

    - The two have generators of their own, so one seed starts other games here than there.
    - A game begins after 1..noop_max no-ops as there, and cannot begin at once (`noop_max=0`).
    - An id's own limit of frames is counted in steps of an agent, without the no-ops.
    - `infos` have `lives`, and no numbers of frames.

    A game that is over is begun anew at once, see `GymnasiumVecEnv`; EnvPool by itself begins it in a further step.
    """

    KIND = "EnvPool"

    def __init__(
        self, env_id: str, n_envs: int, options: EnvOptions | None = None, *, training: bool = True, seed: int = 0
    ) -> None:
        """As `NativeAtariVecEnv`.

        Raises:
            EnvError: what `resolve` raises, and what `objection` says.
        """
        options = options or resolve(env_id).options
        if reason := self.objection(env_id, options, training=training):
            raise EnvError(f"EnvPool was asked for, and {reason}. Give native=None or False.")
        import envpool

        SUITE.arguments(env_id, options)  # refuses values of another type or range
        spec, kwargs = registered(env_id, options)
        native = screen(kwargs["game"])
        height, width = (options.size, options.size) if options.size else native

        def make(seeds: list[int]) -> Any:
            return envpool.make_gymnasium(
                _task(kwargs["game"]),
                num_envs=n_envs,
                env_seed=seeds,
                img_height=height,
                img_width=width,
                gray_scale=False,
                stack_num=1,
                frame_skip=options.frame_skip,
                noop_max=options.noop_max,
                mode=int(kwargs.get("mode", -1)),
                difficulty=int(kwargs.get("difficulty", -1)),
                repeat_action_probability=float(kwargs.get("repeat_action_probability", 0.25)),
                full_action_space=bool(kwargs.get("full_action_space", False)),
                # Ours ends an episode before EnvPool's own can.
                max_episode_steps=max(
                    -(-int(kwargs.get(FRAMES_LIMIT) or FRAMES) // options.frame_skip), options.max_episode_steps + 1
                ),
                # Its defaults would press FIRE; what clips rewards stands outside what counts true returns.
                use_fire_reset=False,
                reward_clip=False,
                episodic_life=False,
            )

        super().__init__(
            Pool(make, n_envs, spec, (3, height, width), _actions(kwargs)),
            # EnvPool repeats and resizes.
            replace(options, frame_skip=1, noop_max=0, terminal_on_life_loss=False),
            training=training,
            seed=seed,
            alone=True,
        )
        for env in self.envs:  # what is seen is the screen, which EnvPool has resized already
            layer: Any = env
            while not isinstance(layer, Pixels):
                layer = layer.env
            layer.seen = Seen(source="observation", form=f"uint8 {[*native, 3]}", native=native, size=(height, width))

    @staticmethod
    def objection(env_id: str, options: EnvOptions, *, training: bool = True) -> str | None:
        """Why it cannot show an id that `resolve` knows as these options ask, or `None` if it can."""
        if suite_of(env_id) is not SUITE:
            return (
                f"{env_id} is no {SUITE.kind}: of its other tasks nobody has shown that they look as the originals do"
            )
        if find_spec("envpool") is None:
            return 'it is not found here (pip install "stillsight[envpool]")'
        if training and options.terminal_on_life_loss:
            return "it cannot play the no-op with which a game goes on after a lost life (terminal_on_life_loss)"
        if options.noop_max < 1:
            return "it begins each game with a no-op at least (noop_max=0)"
        spec, kwargs = registered(env_id, options)
        reserved = {name for name, _ in options.kwargs if name in SUITE.reserved or name == FRAMES_LIMIT}
        if strange := [f"{name}={kwargs[name]!r}" for name in sorted((set(kwargs) - _TAKEN) | reserved)]:
            return f"it does not take the environment arguments {', '.join(strange)}"
        if spec.additional_wrappers or (spec.max_episode_steps and not options.max_episode_steps):
            return f"{env_id} was registered with wrappers or a time limit of its own"
        try:
            import envpool
        except (ImportError, FileNotFoundError) as error:  # of what it needs, or of its data
            return f"it cannot be imported ({error})"
        if _task(kwargs["game"]) not in envpool.list_all_envs():
            return f"it has no game {kwargs['game']}"
        return None


def _task(game: str) -> str:
    """What EnvPool calls a game: "SpaceInvaders-v5" for "space_invaders"."""
    return "".join(part.capitalize() for part in game.split("_")) + "-v5"


def _actions(kwargs: dict[str, Any]) -> int:
    """How many actions a game has."""
    import ale_py

    ale = ale_py.ALEInterface()
    rom = ale_py.roms.get_rom_path(kwargs["game"])
    assert rom is not None, "Gymnasium knows only games whose ROM came with ale_py"
    ale.loadROM(rom)
    return len(ale.getLegalActionSet() if kwargs.get("full_action_space") else ale.getMinimalActionSet())
