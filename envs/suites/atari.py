"""The Atari suite: the games of the Arcade Learning Environment (Bellemare et al. 2013), played by ale-py."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stillsight.envs.options import EnvOptions
from stillsight.envs.spec import EnvSpec
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


def register() -> None:
    """Registers every game that came with ale-py."""
    import ale_py
    import gymnasium as gym

    gym.register_envs(ale_py)
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner for each of a hundred games


def arguments(_env_id: str, _options: EnvOptions) -> dict[str, Any]:
    """One frame a step from ale-py itself: `preprocess` skips."""
    return {"frameskip": 1}


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
    default=GAME,
    rows=tuple(replace(GAME, id=f"ALE/{game}-v5", summary=summary) for game, summary in SUMMARIES.items()),
    prefix="ALE/",
    unprefixed=True,  # Pong-v4, PongNoFrameskip-v4 ...
    entry_point="ale_py",
    register=register,
    own_options=("noop_max", "terminal_on_life_loss"),
    reserved={"frameskip": "use the frame skip (--frame-skip)", "obs_type": "an agent sees rgb"},
    arguments=arguments,
    wrapping="stillsight.envs.suites.atari:preprocess",
    native="stillsight.envs.suites.atari_native:NativeAtariVecEnv",
)
