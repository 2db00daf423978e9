"""Trust: the closed list of what a file may ask for, and `open_run`, the one door to a run folder that is used.

A flag may import what it names, because the user typed it. A file may not: what config.json, a SPEC.toml or a cell's
record asks for is a row of a registry, or a person named it after `--trust`. Each field of a configuration has a rule
in `RULES`; text in one that has none is taken from no file.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple, TypeVar

from stillsight.agents.errors import RunError
from stillsight.agents.runs import schema
from stillsight.agents.runs.reader import read_config
from stillsight.agents.runs.records import revive
from stillsight.encoders.errors import as_typed
from stillsight.encoders.supervised.data.cifar_facts import CIFAR
from stillsight.encoders.zoo.registry import ENCODERS, installed
from stillsight.envs.registry import OTHER, guessed_from_name

CONFIGS = {
    "rl": "stillsight.agents.training.config:RlConfig",
    "cifar": "stillsight.encoders.supervised.cifar_config:CifarConfig",
}
"""Command of a run -> `module:Class` of its configuration, which lies in a room above this one."""
ALGORITHMS = "stillsight.agents.training.algorithms:ALGORITHMS"
"""Where the rows of the algorithms are."""

SETTING = re.compile(r"[A-Za-z_]\w*=[\w.+\-'\", ()\[\]]{0,200}", re.ASCII)
"""What an algorithm's setting from a file looks like: numbers, words, lists of these; no path and no code."""
CACHED = re.compile(r"[\w.+-]+-[0-9a-f]{24}|images-[0-9a-f]{24}\.safetensors")
"""Names in a folder of features and decoded images that we made."""
CIFAR_FOLDERS = ("cifar-10-batches-py", "cifar-100-python")
"""What lies in a folder of CIFAR."""


class Request(NamedTuple):
    """Something that a file asks for and that a person must allow.

    Attributes:
        wanted: what to type after --trust.
        what: the same in a sentence, after "asks for".
    """

    wanted: str
    what: str


class Place(NamedTuple):
    """Something outside the run folder that is read because the run says so."""

    field: str
    path: str


Config = TypeVar("Config")
Values = Mapping[str, Any]
"""Fields of a configuration, or of a part of one, by name."""
Rule = Callable[[Values, Any], Iterator["Request | Place"]]
"""What the value of a field asks for, beside the other fields."""


def _encoder(_: Values, value: Any) -> Iterator[Request | Place]:
    name = str(value)
    if name in ENCODERS:
        return
    if ":" in name:
        yield Request(name, f"the encoder {name}, whose code would be imported")
    elif name in installed():  # a name of torchvision or timm builds what they have, and any other is no encoder
        yield Request(name, f"the encoder {name}, whose code an installed package brings and would be imported")


def _algo(_: Values, value: Any) -> Iterator[Request | Place]:
    if str(value) not in resolve_name(ALGORITHMS) and ":" in str(value):
        yield Request(str(value), f"the algorithm {value}, whose code would be imported")


def _env(_: Values, value: Any) -> Iterator[Request | Place]:
    name = str(value)
    if ":" in name:
        yield Request(name, f"the environment {name}, whose code would be imported")
    elif guessed_from_name(name) is OTHER:
        yield Request(name, f"the environment {name}, which no suite of `stillsight list envs` knows")


def _env_set(values: Values, settings: Any) -> Iterator[Request | Place]:
    env = str(values.get("env", ""))
    suite = OTHER if ":" in env else guessed_from_name(env)
    for setting in map(str, settings or ()):
        name, _, text = setting.partition("=")
        if not (SETTING.fullmatch(setting) and suite.takes_unasked(name, _literal(text))):
            yield Request(setting, f"the environment argument {setting}, which may name a file or code")


def _set(_: Values, settings: Any) -> Iterator[Request | Place]:
    for setting in map(str, settings or ()):
        name, _separator, value = setting.partition("=")
        if name == "net_arch" and isinstance(_literal(value), dict):  # widths by network, which are checked as numbers
            continue
        if not SETTING.fullmatch(setting) or name.endswith(("_class", "_kwargs")):
            yield Request(setting, f"the setting {setting}, which is no number, word or list of these")


def _read(field: str) -> Rule:
    def rule(_: Values, value: Any) -> Iterator[Request | Place]:
        if value is not None:
            yield Place(field, str(value))

    return rule


def _dataset(_: Values, value: Any) -> Iterator[Request | Place]:
    if str(value) not in CIFAR:
        yield Place("dataset", str(value))


def _data(values: Values, value: Any) -> Iterator[Request | Place]:
    if values.get("dataset", "cifar10") not in CIFAR or value is None or Path(value) == Path("data"):
        return
    if any((Path(value) / name).is_dir() for name in CIFAR_FOLDERS):
        yield Place("data", str(value))
    else:
        yield Request(str(value), f"the folder {value} to download CIFAR into")


def _cache(_: Values, value: Any) -> Iterator[Request | Place]:
    if value is None or Path(value) == Path("data/features") or _is_cache(Path(value)):
        return
    yield Request(str(value), f"the folder {value} to write features into")


def _shift(_: Values, value: Any) -> Iterator[Request | Place]:
    path = "" if value is None else str(value).partition("@")[2]
    if path:
        yield Request(path, f"the pictures {path} to show an environment through")


def _nothing(_: Values, __: Any) -> Iterator[Request | Place]:
    """Of names that a row of a registry decides, of keys by which an observation is looked into, and of switches."""
    return iter(())


RULES: dict[str, Rule] = {
    "encoder": _encoder,
    "env": _env,
    "algo": _algo,
    "env_set": _env_set,
    "set": _set,
    "shift": _shift,
    "eval_shift": _shift,
    "weights": _read("weights"),
    "weights_folder": _read("weights_folder"),
    "from_run": _read("from_run"),
    "dataset": _dataset,
    "data": _data,
    "cache": _cache,
    **dict.fromkeys(("mode", "tap", "pooling", "fusion", "unfreeze", "device", "from_checkpoint"), _nothing),
    **dict.fromkeys(("pixels", "state", "native"), _nothing),
}
"""Field of a configuration whose values are text -> what it may ask for. Numbers, truth values and choices of a few
words need none."""
NAMES = ("encoder", "env", "algo")
"""Fields by which code is found."""
WRITTEN = ("data", "cache")
"""Fields that say where a run writes beside its folder, while it trains or is tested again."""
PLACES = ("out", "resume", "trust", "accept_license")
"""Fields that are a user's alone: what a file says in them is forgotten."""
USERS = ("trust", "accept_license")
"""Those of them by which a user allows something: they are written to no file and read from none."""


@dataclass(frozen=True)
class Trust:
    """What a user allows files to ask for.

    Attributes:
        names: what was typed after --trust, each exactly what a file asks for: `module:name`, a Gymnasium id,
            NAME=VALUE of --env-set or --set, a folder, or pictures.
        all: whatever it asks for: --trust was typed where it is a switch, as `import` has it. False where it was not,
            and None where --trust takes names.
    """

    names: tuple[str, ...] = ()
    all: bool | None = None

    def allows(self, wanted: str) -> bool:
        """Whether a user named this; a folder may be named by another path to it."""
        return self.all is True or wanted in self.names or os.path.abspath(wanted) in map(os.path.abspath, self.names)

    def check(self, values: Values, source: object) -> tuple[Place, ...]:
        """See `check_all`, of one configuration."""
        return self.check_all([values], source)

    def check_all(
        self, several: Iterable[Values], source: object, only: Iterable[str] | None = None
    ) -> tuple[Place, ...]:
        """Refuse what is asked for and nobody allowed, before anything is imported.

        Args:
            several: fields by name, of configurations or of parts of them.
            source: the file that says so, for the message.
            only: the fields that are looked at; all by default.

        Returns:
            What lies elsewhere and is read, for the user to be told.

        Raises:
            RunError: all that the file asks for, and what to type to allow it.
        """
        asked = [
            one
            for values in several
            for name in values
            if (only is None or name in only) and name not in PLACES
            for one in _asked(name, values)
        ]
        refused = {one.wanted: one.what for one in asked if isinstance(one, Request) and not self.allows(one.wanted)}
        if refused:
            raise RunError(
                f"{source} asks for {'; for '.join(refused.values())}. A file does not decide that: look at what it "
                f"is, and to allow it type --trust{'' if self.all is False else f' {shlex.join(refused)}'}."
            )
        return tuple(one for one in asked if isinstance(one, Place))


NOTHING = Trust()
"""What is trusted without a word."""


def _asked(name: str, values: Values) -> list[Request | Place]:
    value = values[name]
    if name in RULES:
        return list(RULES[name](values, value))
    texts = value if isinstance(value, list | tuple) else [value]
    strange = [text for text in texts if isinstance(text, Path) or (isinstance(text, str) and not _is_word(text))]
    return [Request(f"{name}={text}", f"{name} {text}, of which nothing is known") for text in strange]


def _is_word(text: str) -> bool:
    """Whether a value is one of a few words that a configuration allows, which its type has checked."""
    return re.fullmatch(r"[a-z][a-z0-9_]*", text) is not None


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text


def _is_cache(folder: Path) -> bool:
    """Whether a folder holds features or decoded images of ours and nothing else: more of them do no harm there."""
    try:
        names = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError:
        return False
    return bool(names) and all(map(CACHED.fullmatch, names))


def import_from_here(names: Iterable[str]) -> None:
    """Let modules of the current folder be imported, if one of `names`, which a user typed, is a `module:name`."""
    here = os.getcwd()
    if here not in sys.path and any(":" in name and "=" not in name for name in names):
        sys.path.append(here)  # last: nothing here takes the place of what is installed


def names_typed(config: object) -> tuple[str, ...]:
    """The names in a command's configuration by which code is found, those after --envs, --encoders and --trust too.

    Where --trust is a switch, as that of `import` is, it names nothing.
    """
    given = [getattr(config, field, None) for field in (*NAMES, "envs", "trust")]
    several = [value if isinstance(value, list | tuple) else [value] for value in given]
    tapped = [name for name, _ in getattr(config, "tapped", ())]  # of NAME:TAP the name
    return (*(name for values in several for name in values if isinstance(name, str)), *tapped)


def values_of(config: Any) -> dict[str, Any]:
    """The fields of a configuration by name, as `Trust.check` takes them."""
    return {item.name: getattr(config, item.name) for item in fields(config) if item.name not in PLACES}


def flags(config: Any) -> str:
    """What to type behind `--resume RUN`, `evaluate RUN` and so on so that a run of this configuration is opened again,
    with a blank before it; "" for most."""
    values = values_of(config)
    asked = [one.wanted for name in values for one in _asked(name, values) if isinstance(one, Request)]
    return f" --trust {shlex.join(asked)}" if asked else ""


@dataclass(frozen=True)
class OpenedRun:
    """A run folder whose configuration was checked.

    Attributes:
        folder: the run's.
        command: rl or cifar.
        config: its configuration, an `RlConfig` or a `CifarConfig`; where it was written to, and what it trusted, is
            left out.
        record: config.json as it stands, whose fields an older version may have written.
        elsewhere: what lies outside the folder and is read, as config.json says.
    """

    folder: Path
    command: str
    config: Any
    record: Mapping[str, Any]
    elsewhere: tuple[Place, ...] = ()

    def expect(self, kind: type[Config]) -> Config:
        """The configuration, as that of a command.

        Raises:
            RunError: it is a run of another one.
        """
        if not isinstance(self.config, kind):
            raise RunError(
                f"{self.folder} is a run of {self.command}. Go on with it by: stillsight {self.command} --resume "
                f"{as_typed(self.folder)}"
            )
        return self.config

    @property
    def word(self) -> str:
        """What to tell a user of files elsewhere that are read; "" if there are none."""
        told = ", ".join(f"{field} {path}" for field, path in self.elsewhere)
        return f"{self.folder} names files elsewhere, which are read: {told}." if told else ""


def read_run(folder: Path) -> OpenedRun:
    """The configuration of a run folder, its types checked; what it names is not looked at, so it may only be shown.

    Raises:
        RunError: there is no run in `folder`, or its config.json is damaged.
    """
    record = read_config(folder)
    command, config = read_record(record, folder / "config.json")
    return OpenedRun(folder, command, config, record)


def incidental(command: str) -> frozenset[str]:
    """Fields that make no other experiment of a run of `command`, see `EncoderConfig.incidental`."""
    names: frozenset[str] = resolve_name(CONFIGS[command]).incidental()
    return names


def read_record(record: Mapping[str, Any], source: object, advice: str = schema.RESTORE) -> tuple[str, Any]:
    """The command and the configuration in what config.json says, its types checked; see `read_run`.

    Args:
        record: as JSON gave it.
        source: the file, for messages.
        advice: what to do about one that is damaged.

    Raises:
        RunError: it is no such record.
    """
    command = record.get("command")
    if not isinstance(command, str) or command not in CONFIGS:
        schema.refuse(source, f"its command is {_shown(command)}, and must be {' or '.join(CONFIGS)}", advice)
    needed = ("env", "algo", "encoder", "mode") if command == "rl" else ("dataset", "encoder", "mode")
    if lacking := [name for name in needed if name not in record]:
        schema.refuse(source, f"it lacks {', '.join(lacking)}", advice)
    config = revive(resolve_name(CONFIGS[command]), {k: v for k, v in record.items() if k not in USERS}, source)
    for name in fields(config):
        value = getattr(config, name.name)
        for text in map(str, value if isinstance(value, tuple) else (value,)):
            free = name.name == "dataset" or isinstance(value, Path)  # files may be called anything
            if len(text) > schema.LONGEST_TEXT or not (free or text.isprintable()):
                schema.refuse(source, f"its {name.name} is {_shown(text)}", advice)
    return command, config


def open_run(folder: Path, trust: Trust = NOTHING, *, writes: bool = False, **typed: Any) -> OpenedRun:
    """Open a run folder to use it: the one door through which evaluate, record, predict, --resume and `load` go.

    Nothing is imported for it, and nothing written.

    Args:
        folder: the run's.
        trust: what the user allows it to ask for.
        writes: the run is gone on with, or its data are read again: it writes features, and downloads, where it says.
        typed: fields that the user typed, which take the place of the file's and are not asked about; None is none.

    Raises:
        RunError: there is no run, its config.json is damaged, or it asks for what nobody allowed.
        EncoderError: a number in it is out of range.
    """
    run = read_run(folder)
    given = {name: value for name, value in typed.items() if value is not None}
    asked = {
        name: value
        for name, value in values_of(run.config).items()
        if name not in given and (writes or name not in WRITTEN)
    }
    elsewhere = trust.check(asked, folder)
    config = replace(run.config, out=None, resume=None, **given)
    config.check_ranges()
    inside = folder.resolve()
    outside = tuple(place for place in elsewhere if not Path(place.path).resolve().is_relative_to(inside))
    return replace(run, config=config, elsewhere=outside)


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
