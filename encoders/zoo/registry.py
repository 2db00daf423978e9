"""The encoders by name: rows that can be read, listed and checked without importing torch, and the doors to the names
that are no rows."""

from __future__ import annotations

import functools
import importlib.util
import pkgutil
import re
import sys
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple

from stillsight.encoders.backbone import Backbone
from stillsight.encoders.errors import EncoderError, say_once, unknown
from stillsight.encoders.zoo import families, function
from stillsight.encoders.zoo.encoder_spec import EncoderSpec

GROUP = "stillsight.encoders"
"""Entry points of this group are encoders that installed packages bring: name -> `module:function`."""
TIMM = "timm/"
"""What the names of timm's models begin with here."""

_TORCHVISION = "stillsight.encoders.zoo.torchvision"
_TIMM = "stillsight.encoders.zoo.timm.models"
_LAST = 100


def discover() -> dict[str, EncoderSpec]:
    """The rows of all files in families/, by name: the files by their ORDER, then by their names.

    Raises:
        ValueError: two rows have the same name.
    """
    found = [
        importlib.import_module(f"{families.__name__}.{file.name}") for file in pkgutil.iter_modules(families.__path__)
    ]
    rows: dict[str, EncoderSpec] = {}
    for module in sorted(found, key=lambda module: (getattr(module, "ORDER", _LAST), module.__name__)):
        for row in module.ROWS:
            if row.name in rows:
                raise ValueError(f"{module.__name__} has a second row named {row.name}")
            rows[row.name] = row
    return rows


ENCODERS: dict[str, EncoderSpec] = discover()


class Brought(NamedTuple):
    """An encoder that an installed package brings.

    Attributes:
        package: name of the distribution.
        path: `module:function`.
    """

    package: str
    path: str


def claims() -> dict[str, list[Brought]]:
    """What installed packages call encoders of theirs: name -> who brings one of that name. Nothing of theirs is
    imported."""
    return _claims(tuple(sys.path))


@functools.lru_cache(maxsize=1)
def _claims(path: tuple[str, ...]) -> dict[str, list[Brought]]:
    """See `claims`; read once as long as Python looks in the same places."""
    del path
    claimed: dict[str, list[Brought]] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        package = point.dist.name if point.dist is not None else "a package"
        one = Brought(package, point.value.replace(" ", ""))
        others = claimed.setdefault(point.name, [])
        if one.path not in [other.path for other in others]:
            others.append(one)
    return claimed


def installed() -> dict[str, str]:
    """Encoders that installed packages bring by names that are theirs alone: name -> `module:function`.

    A row of ours, a name of torchvision's, and one with a colon or of timm's, is not theirs to take; nor is one that
    two packages bring. `passed_over` says of those.
    """
    return {name: brought[0].path for name, brought in claims().items() if not objection(name)}


def objection(name: str) -> str:
    """Why the name that installed packages give an encoder does not stand for theirs, and what to type; "" where it
    does, or where none gives it."""
    brought = claims().get(name, [])
    if not brought:
        return ""
    owner = _owner(name)
    listed = " or ".join(f"--encoder {one.path} ({one.package})" for one in brought)
    packages = " and ".join(one.package for one in brought)
    if owner:
        bring = "bring encoders" if len(brought) > 1 else "brings an encoder"
        return f"{packages} {bring} named {name!r} too, and that name stays {owner}. For theirs type: {listed}."
    if len(brought) > 1:
        return (
            f"{packages}, which are installed, each bring an encoder named {name!r}. Type the one you mean: {listed}."
        )
    return ""


def _owner(name: str) -> str:
    """Whose a name is that no package may take; "" of any other."""
    if name in ENCODERS:
        return "stillsight's own"
    if name.startswith(TIMM):
        return "timm's"
    if ":" in name:
        return "that of a module's function"
    return "torchvision's" if name in torchvision_models() else ""


def passed_over() -> list[str]:
    """The `objection` to each name of installed packages that does not stand for theirs."""
    return [told for name in sorted(claims()) if (told := objection(name))]


@functools.cache
def torchvision_models() -> tuple[str, ...]:
    """torchvision's names of its classification models, read from its source: importing it would take seconds, before
    any slip of the finger is answered."""
    package = importlib.util.find_spec("torchvision")
    folders = package.submodule_search_locations if package is not None else None
    files = sorted((Path(folders[0]) / "models").glob("*.py")) if folders else []
    found = (re.findall(r"^@register_model\(\)\n(?:@.*\n)*def (\w+)\(", file.read_text(), re.M) for file in files)
    return tuple(sorted(name for names in found for name in names))


def names() -> list[str]:
    """Every registered encoder, in the order in which `stillsight list encoders` shows them: the rows, then what
    installed packages bring."""
    return [*ENCODERS, *installed()]


def matching(words: str) -> list[str]:
    """The encoders that `words` may mean: the one of that name, or those that have them in their name, family or
    summary; torchvision's and timm's too, where no row does."""
    if words in ENCODERS:
        return [words]
    wanted = words.lower()
    rows = [name for name, row in ENCODERS.items() if wanted in f"{name} {row.family} {row.summary}".lower()]
    rows += [name for name in installed() if wanted in name.lower()]
    if rows or ":" in words:
        return rows
    if wanted.startswith(TIMM):
        return list(function.load(f"{_TIMM}:matching")(wanted))
    return [name for name in torchvision_models() if wanted in name]


def spec(name: str) -> EncoderSpec:
    """The record of the encoder called `name`: its row, or what is measured of its network: of a model of torchvision
    by its own name, of timm as `timm/NAME`, of what an installed package brings, of a third party's `module:function`.

    A third party's function is called once for that, which may take as long as importing its packages.

    Raises:
        EncoderError: no such encoder, with the nearest name; one that two installed packages bring; a function that
            cannot be imported or returns no `Backbone`; a package is missing.
    """
    if told := objection(name):
        if not _owner(name):
            raise EncoderError(told)
        say_once(told)
    if name in ENCODERS:
        return ENCODERS[name]
    if name.startswith(TIMM):
        return _described(_TIMM, name)
    if ":" in name:
        return function.describe(name)
    if name in (theirs := installed()):
        return replace(function.describe(theirs[name]), name=name)
    if name in torchvision_models():
        return _described(_TORCHVISION, name)
    allowed = (
        "Your own goes in as --encoder module:function, timm's as --encoder timm/NAME, torchvision's by its own name. "
        "Known"
    )
    raise EncoderError(unknown("encoder", name, names(), allowed, "--encoder"))


def _described(door: str, name: str) -> EncoderSpec:
    record = function.load(f"{door}:describe")(name)
    assert isinstance(record, EncoderSpec)
    return record


def make_backbone(name: str, *, pretrained: bool = False) -> Backbone:
    """Build the network called `name`, with random weights unless a third party's function brings its own.

    Args:
        name: see `spec`.
        pretrained: handed on to a third party's function that takes it.

    Raises:
        EncoderError: unknown name, failed import, or a third party's function that returns something else.
    """
    row = spec(name)
    if row.own:
        backbone = function.call(row.builder, {}, pretrained=pretrained)
    else:
        backbone = function.call(row.builder, row.arguments)
    # What was measured of it stands in its row, and goes with the network to where images come in.
    return replace(backbone, multiple=row.multiple, fixed=row.fixed)
