"""The shifts by name: what each does, and what draws it.

They follow the benchmarks that ask what an agent's eyes can bear: colours, things that move over the scene, backgrounds
and cameras are the distractions of DMControl-GB (Hansen & Wang 2021) and the Distracting Control Suite (Stone et al.
2021); noise, blur, brightness, contrast and compression are corruptions of ImageNet-C (Hendrycks & Dietterich 2019);
the box is Cutout (DeVries & Taylor 2017). No data set is needed.

Reading the rows costs no import beyond the standard library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, TypeAlias

from stillsight.envs.errors import EnvError, did_you_mean

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Image: TypeAlias = "NDArray[np.uint8]"
Look: TypeAlias = "Callable[[Image, int], Image]"
"""An episode's look: a picture uint8 `[H, W, 3]` of any size and the number of agent steps so far, to the picture that
is shown. It depends on nothing else."""


@dataclass(frozen=True)
class Shift:
    """A way to see otherwise."""

    summary: str
    """One line for lists."""
    entry_point: str = ""
    """`module:function` that draws it, loaded when it is first shown; see `begin`. Empty for what only a suite gives
    (`Suite.shifts`)."""
    strength: float = 0.5
    """Strength unless another is asked for. Half strength shows clearly and leaves the game playable; what a published
    protocol has is a number of that protocol."""
    pictures: bool = False
    """Whether a user's own images or films can take the place of what it draws."""

    def begin(self, random: np.random.Generator, strength: float, pictures: Any = None) -> Look:
        """The look of an episode, from its draws and the strength, 0..1, and from a user's own `pictures.Pictures`.

        The draws do not depend on the strength, so that one seed puts the same box in the same corner at every
        strength; at strength 0 the look is the identity.
        """
        if strength == 0.0:
            return lambda image, _: image
        extra = (pictures,) if self.pictures else ()
        look: Look = resolve_name(self.entry_point)(random, strength, *extra)
        return look


_ROOM = "stillsight.envs.shifts"

SHIFTS: dict[str, Shift] = {
    "hue": Shift("all colours turned and brighter or darker, drawn for each episode", f"{_ROOM}.colour:hue"),
    "noise": Shift("Gaussian noise, new in every step", f"{_ROOM}.corruption:noise"),
    "blur": Shift("Gaussian blur", f"{_ROOM}.corruption:blur"),
    "occluder": Shift(
        "a box of one colour over part of the picture, placed anew in each episode",
        f"{_ROOM}.covering:occluder",
    ),
    "overlay": Shift(
        "coloured waves that move over the picture, half transparent; or your own pictures",
        f"{_ROOM}.covering:overlay",
        pictures=True,
    ),
    "brightness": Shift("brighter or darker, drawn for each episode", f"{_ROOM}.colour:brightness"),
    "contrast": Shift("more or less contrast, drawn for each episode", f"{_ROOM}.colour:contrast"),
    "gamma": Shift("middle tones lighter or darker, drawn for each episode", f"{_ROOM}.colour:gamma"),
    "jpeg": Shift("JPEG compression", f"{_ROOM}.corruption:jpeg"),
    "jitter": Shift("a camera that shakes: moved and turned a little, anew in every step", f"{_ROOM}.viewpoint:jitter"),
    "zoom": Shift("nearer or further, drawn for each episode", f"{_ROOM}.viewpoint:zoom"),
    "background": Shift(
        "moving waves, or your own pictures, in place of what is background",
        f"{_ROOM}.covering:background",
        strength=1.0,
        pictures=True,
    ),
}
"""The shifts that any environment can be shown through. A new one is a row here and a function."""

SUITE_SHIFTS: dict[str, Shift] = {
    "domain": Shift("the colours and lights of the environment's own domain randomisation", strength=1.0),
    "colours": Shift("colours of all things drawn for each episode, up to the strength away", strength=0.2),
    "drifting-colours": Shift("the same, and they go on changing in every step", strength=0.2),
    "camera": Shift("another place for the camera in each episode, which looks at the same point", strength=0.2),
    "drifting-camera": Shift("the same, and it goes on flying in every step", strength=0.2),
    "sky": Shift("moving waves, or your own pictures, in place of the sky", strength=1.0, pictures=True),
    "plain": Shift(
        "without shadows, reflections and smoothed edges, which draws many times as fast without a GPU", strength=1.0
    ),
}
"""The shifts that only the suites which name them can give, since they change what is drawn and not its picture."""

MUJOCO_SCENES: dict[str, str] = {
    "background": f"{_ROOM}.mujoco.sky:Background",
    "colours": f"{_ROOM}.mujoco.colours:Colours",
    "drifting-colours": f"{_ROOM}.mujoco.colours:DriftingColours",
    "camera": f"{_ROOM}.mujoco.camera:Camera",
    "drifting-camera": f"{_ROOM}.mujoco.camera:FlyingCamera",
    "sky": f"{_ROOM}.mujoco.sky:Sky",
    "plain": f"{_ROOM}.mujoco.plain:Plain",
}
"""`Suite.shifts` of a suite whose environments draw a scene of MuJoCo's."""

DOMAIN_SCENES: dict[str, str] = {"domain": f"{_ROOM}.domain_scene:Domain"}
"""`Suite.shifts` of a suite whose environments have domain randomisation as CarRacing or MiniWorld have it."""

SCENES: dict[str, str] = {**MUJOCO_SCENES, **DOMAIN_SCENES}
"""`Suite.shifts` of what may draw anything."""


def find(name: str) -> Shift:
    """The shift of that name. Raises `EnvError`, with the nearest one, where there is none."""
    known = SHIFTS | SUITE_SHIFTS
    if name not in known:
        raise EnvError(
            f"No shift is called {name!r}.{did_you_mean(name, known)} Shifts: {', '.join(SHIFTS)}; of some suites "
            f"alone: {', '.join(SUITE_SHIFTS)}."
        )
    return known[name]
