"""ViZDoom (Kempka et al. 2016; Wydmuch et al. 2018) by Gymnasium's rules: what its own door leaves open is closed here.

Seen in vizdoom 1.3.2. The game's seed needs nothing: `reset(seed=...)` sets it, and one seed gives one game.
"""

from __future__ import annotations

import inspect
import os
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from stillsight.envs.errors import EnvError
from stillsight.envs.options import EnvOptions
from stillsight.envs.rules import Step


class Doom(gym.Wrapper[Any, Any, Any, Any]):
    """A scenario whose ends are told apart and shown, and whose buttons are chosen by number.

    - The end of the clock is a truncation and no termination; vizdoom calls it both, and nobody would look beyond it.
    - The last observation of an episode, and its film, show the last frame of the game; vizdoom's is black.
    - Where a scenario also takes speeds (Deathmatch turns and looks by any number of degrees), these stay zero, and
      the action is the choice of buttons alone.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._speeds: spaces.Box | None = None
        if isinstance(env.action_space, spaces.Dict):
            self.action_space = env.action_space["binary"]
            speeds = env.action_space["continuous"]
            assert isinstance(speeds, spaces.Box)
            self._speeds = speeds
        self._last: dict[str, Any] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A new game."""
        self._last, info = self.env.reset(seed=seed, options=options)
        return self._last, info

    def step(self, action: Any) -> Step:
        """Press the buttons of `action` for as many frames as the scenario was made with."""
        # vizdoom takes a 0-d array for the buttons themselves, and would press all of them.
        chosen = int(action) if isinstance(self.action_space, spaces.Discrete) else action
        if self._speeds is not None:
            assert self._speeds.shape is not None
            chosen = {"binary": chosen, "continuous": np.zeros(self._speeds.shape, np.float32)}
        observation, reward, over, truncated, info = self.env.step(chosen)
        if over:
            truncated = truncated and not self.get_wrapper_attr("game").is_player_dead()
            return self._last, reward, not truncated, truncated, info
        self._last = observation
        return observation, reward, False, False, info

    def render(self) -> NDArray[np.uint8]:
        """The frame that was last seen, uint8 `[H, W, C]`, at the game's own resolution."""
        screen: NDArray[np.uint8] = self._last["screen"]
        return screen


def arguments(env_id: str, options: EnvOptions) -> dict[str, Any]:
    """What `gymnasium.make` is given for a scenario beside `options.kwargs`.

    Raises `EnvError` for keys that vizdoom would pass over with a line in its log.
    """
    import vizdoom
    from vizdoom.gymnasium_wrapper.gymnasium_env_defns import VizdoomScenarioEnv

    for name, value in options.kwargs:
        if name == "frame_skip":
            raise EnvError("The environment argument 'frame_skip' is set by stillsight: use --frame-skip.")
        taken = name in inspect.signature(VizdoomScenarioEnv.__init__).parameters
        if not (taken or hasattr(vizdoom.DoomGame, f"set_{name}")):
            raise EnvError(
                f"{env_id} has no setting {name!r}. Settings are the keys of vizdoom's configuration files, for "
                "example: --env-set screen_resolution=RES_320X240 or --env-set doom_skill=5"
            )
        if name == "screen_resolution" and not hasattr(vizdoom.ScreenResolution, str(value)):
            raise EnvError(
                f"{env_id} has no screen_resolution {value!r}; it is written RES_WIDTHXHEIGHT. "
                "Type --env-set screen_resolution=RES_160X120 or RES_320X240."
            )
    made: dict[str, Any] = {
        # vizdoom skips frames without drawing them, which takes a third of the time of stepping through them.
        "frame_skip": options.frame_skip,
        # It would read and write _vizdoom.ini in the current folder: settings from nowhere, and a race of workers.
        "doom_config_path": os.devnull,
    }
    if options.max_episode_steps:
        made["episode_timeout"] = 0  # ours takes the place of the scenario's own clock
    return made
