"""The Atari suite: the games of the Arcade Learning Environment (Bellemare et al. 2013), played by ale-py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stillsight.envs.errors import EnvError
from stillsight.envs.options import EnvOptions, Scalar
from stillsight.envs.spec import EnvSpec, Preset, Score
from stillsight.envs.suites.suite import Suite

if TYPE_CHECKING:
    import gymnasium as gym

OPTIONS = EnvOptions(size=84, frame_skip=4, clip_rewards=True, noop_max=30)
"""Defaults of every game. Size, skip and reward signs are Nature DQN's (Mnih et al. 2015), as are the 30 no-ops. Whole
games rather than lives, and the v5 ids' sticky actions (0.25), follow Machado et al. (2018)."""

CONSOLE_FPS = 60
"""Frames a second of the console (NTSC), which a film plays at; ale-py says 30."""

GAME = EnvSpec(id="", actions="discrete", extra="atari", needs=("ale_py",), options=OPTIONS)

SUMMARIES = {
    "Pong": "Atari tennis, returns -21 to 21",
    "Breakout": "Atari bricks and a ball",
    "SpaceInvaders": "Atari shooter, thin laser shots",
    "Qbert": "Atari pyramid hopping",
    "Seaquest": "Atari submarine",
    "BeamRider": "Atari space lanes",
    "Enduro": "Atari car race by day and night",
    "MsPacman": "Atari maze",
    "Freeway": "Atari chicken crossing",
    "Boxing": "Atari boxing seen from above",
}
RANDOM: dict[str, float] = {
    "Pong": -20.33,
    "Breakout": 1.19,
    "SpaceInvaders": 146.6,
    "Qbert": 164.8,
    "Seaquest": 80.2,
    "BeamRider": 394.8,
    "Enduro": 0.0,
    "MsPacman": 260.5,
    "Freeway": 0.01,
    "Boxing": -0.43,
}


DREAMER = "danijar/dreamerv3 at e3f0224, scores/"
ZOO = "rl-baselines3-zoo's benchmark.md, one run"
PUBLISHED = {
    "Pong": (("PPO, 1M", -6.8, DREAMER), ("PPO, 10M", 20.99, ZOO)),
    "Breakout": (("PPO, 1M", 23.5, DREAMER), ("PPO, 10M", 398.0, ZOO)),
    "SpaceInvaders": (("PPO, 1M", 349.0, DREAMER), ("PPO, 10M", 960.0, ZOO)),
    "Qbert": (("PPO, 1M", 678.0, DREAMER), ("PPO, 10M", 15_627.0, ZOO)),
    "Seaquest": (("PPO, 10M", 1_784.0, ZOO),),
    "Enduro": (("PPO, 1M", 549.0, DREAMER), ("PPO, 10M", 996.0, ZOO)),
    "Freeway": (("PPO, 1M", 22.8, DREAMER),),
    "Boxing": (("PPO, 1M", 9.5, DREAMER),),
    "BeamRider": (("PPO, 10M", 3_397.0, ZOO),),
}
"""Returns of whole games of agents that learned from scratch, in agent steps."""


def published(game: str) -> tuple[Score, ...]:
    """What others reached in a game."""
    return tuple(Score(value=value, who=who, source=source) for who, value, source in PUBLISHED.get(game, ()))


def register() -> None:
    """Registers every game that came with ale-py."""
    import ale_py
    import gymnasium as gym

    gym.register_envs(ale_py)
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner for each of a hundred games


FRAMES_LIMIT = "max_num_frames_per_episode"
"""Argument of a game: frames after which ale-py cuts it off, 108,000 as its ids are registered; None for never."""

FRACTION, SWITCH, COUNT = "a number from 0 to 1", "True or False", "a whole number from 1"
TAKEN: dict[str, tuple[str, Callable[[Scalar], bool]]] = {
    "repeat_action_probability": (FRACTION, lambda value: _number(value) and 0.0 <= float(value or 0.0) <= 1.0),
    "full_action_space": (SWITCH, lambda value: isinstance(value, bool)),
    FRAMES_LIMIT: (COUNT, lambda value: value is None or (type(value) is int and value >= 1)),
}
"""Arguments of a game whose values ale-py does not check, or checks with a sentence about C++: what each takes."""


def arguments(env_id: str, options: EnvOptions) -> dict[str, Any]:
    """One frame a step from ale-py itself: `preprocess` skips. No clock of its own where there is another.

    Raises `EnvError` for a user's argument of another type or range, and for a mode or difficulty that the game does
    not have.
    """
    for name, value in options.kwargs:
        if name in ("mode", "difficulty"):
            there = modes(env_id)[name]
            takes, fits = f"one of {', '.join(map(str, there))}", value in there
        elif name in TAKEN:
            takes, test = TAKEN[name]
            fits = test(value)
        else:
            continue
        if not fits:
            raise EnvError(f"{env_id} has no {name}={value!r}; it takes {takes}. Type --env-set {name}=VALUE.")
    return {"frameskip": 1, **({FRAMES_LIMIT: None} if options.max_episode_steps else {})}


def modes(env_id: str) -> dict[str, list[int]]:
    """The modes and difficulties of a game, under "mode" and "difficulty"."""
    import ale_py
    import gymnasium as gym

    ale = ale_py.ALEInterface()
    rom = ale_py.roms.get_rom_path(gym.registry[env_id.rpartition(":")[2]].kwargs["game"])
    assert rom is not None, "Gymnasium knows only games whose ROM came with ale_py"
    ale.loadROM(rom)
    return {"mode": list(ale.getAvailableModes()), "difficulty": list(ale.getAvailableDifficulties())}


def _number(value: Scalar) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def preprocess(env: gym.Env[Any, Any], options: EnvOptions) -> gym.Env[Any, Any]:
    """Gymnasium's `AtariPreprocessing`: no-ops at the start, frames skipped, the screen in colour at its own size."""
    import gymnasium as gym

    height, width, _ = env.observation_space.shape or (0, 0, 0)
    env.metadata = {**env.metadata, "render_fps": CONSOLE_FPS}
    return gym.wrappers.AtariPreprocessing(
        env,
        noop_max=options.noop_max,
        frame_skip=options.frame_skip,  # the brighter of the last two frames: sprites that flicker stay visible
        screen_size=(width, height),  # Pixels resizes: it takes nothing under 16 pixels for an image
        terminal_on_life_loss=False,  # Gymnasium's would restart the game at each life; see LifeLoss
        grayscale_obs=False,
    )


SUITE = Suite(
    name="Atari",
    noun="game",
    place=1,
    default=GAME,
    rows=tuple(
        replace(GAME, id=f"ALE/{game}-v5", summary=summary, random=RANDOM.get(game), published=published(game))
        for game, summary in SUMMARIES.items()
    ),
    presets={
        ("ALE/Pong-v5", "ppo"): Preset(
            # Rates several times that of the zoo, whose presets are made for ten million steps and more.
            settings={"learning_rate": "lin_7e-4", "n_epochs": 4, "clip_range": 0.2},
            source="tried here, for a million steps: results/published/pong/README.md",
        ),
    },
    prefix="ALE/",
    unprefixed=True,  # Pong-v4, PongNoFrameskip-v4 ...
    entry_point="ale_py",
    register=register,
    own_options=("noop_max", "terminal_on_life_loss"),
    reserved={
        "frameskip": "use the frame skip (--frame-skip)",
        "obs_type": "an agent sees rgb",
        "sound_obs": "an agent sees rgb and hears nothing",
        "continuous": "a game is played by its buttons",
        "continuous_action_threshold": "a game is played by its buttons",
        "game": "another game is another id, say --env ALE/Breakout-v5",
    },
    harmless={
        "mode": int,
        "difficulty": int,
        "repeat_action_probability": float,
        "full_action_space": bool,
        FRAMES_LIMIT: int,
    },
    arguments=arguments,
    wrapping="stillsight.envs.suites.atari:preprocess",
    state="stillsight.envs.adapters.atari_state:AtariState",
    natives={
        "ale": "stillsight.envs.adapters.atari_native:NativeAtariVecEnv",
        "envpool": "stillsight.envs.adapters.atari_envpool:EnvPoolAtariVecEnv",
    },
)
