"""Flag: a field of a configuration as a person types it.

A field `frame_stack: int | None = None` is the flag `--frame-stack N`; the text under it in the source is its help.
What is wrong in what was typed is one sentence.
"""

from __future__ import annotations

import ast
import enum
import inspect
import textwrap
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from stillsight.agents.errors import RunError
from stillsight.encoders.errors import unknown

YES, NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True)
class Flag:
    """One field of a configuration.

    Attributes:
        field: its name.
        kind: bool, int, float, str or Path.
        choices: what may be typed -> its value; empty for any value of the kind.
        many: it takes several values, and may be repeated.
        optional: it may be None.
        default: of the field.
        help: what it does.
        group: heading under which help shows it.
        metavar: what usage shows in place of a value.
        typed: its name on the command line, where that is not the field's.
    """

    field: str
    kind: type
    choices: Mapping[str, Any]
    many: bool
    optional: bool
    default: Any
    help: str
    group: str
    metavar: str
    typed: str = ""

    @property
    def word(self) -> str:
        """As it is typed."""
        return "--" + (self.typed or self.field).replace("_", "-")

    @property
    def shown(self) -> str:
        """As help shows it, with its values."""
        if self.kind is bool:
            # One that is off takes a single word; the others can be put either way.
            return self.word if self.default is False else f"{self.word}, --no-{self.word[2:]}"
        return f"{self.word} {self.metavar}" + (f" [{self.metavar} ...]" if self.many else "")

    @property
    def told_default(self) -> str:
        """What holds where it is not typed, as far as its help does not say so itself."""
        if self.default is None or self.default is False or self.default == ():
            return ""
        if self.default is True:
            return f" (default: {self.word})"
        values = self.default if self.many else (self.default,)
        return f" (default: {' '.join(map(_written, values))})"

    def value(self, text: str) -> Any:
        """`text` as a value of the field.

        Raises:
            RunError: it is none.
        """
        if self.optional and text == "None":
            return None
        if self.choices:
            if text not in self.choices:
                raise RunError(unknown("value", text, self.choices, f"{self.word} takes one of", self.word))
            return self.choices[text]
        try:
            return CONVERT[self.kind](text)
        except ValueError:
            example = _written(self.default) if self.default not in (None, ()) else _EXAMPLES[self.kind]
            raise RunError(
                f"{self.word} takes {_NOUNS[self.kind]}, and got {text!r}. Type, say: {self.word} {example}."
            ) from None


def _whole(text: str) -> int:
    """20_000, and 2e4 as well."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer():
            raise
        return int(number)


def _truth(text: str) -> bool:
    if text.lower() not in (*YES, *NO):
        raise ValueError
    return text.lower() in YES


CONVERT: Mapping[type, Callable[[str], Any]] = {int: _whole, float: float, str: str, Path: Path, bool: _truth}
_NOUNS = {int: "a whole number", float: "a number", bool: "true or false"}
_EXAMPLES = {int: "8", float: "0.5", bool: "true"}
_METAVARS = {int: "N", float: "X", str: "NAME", Path: "PATH", bool: ""}


def _written(value: Any) -> str:
    """A value as one would type it."""
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:_}"
    return f"{value:g}" if isinstance(value, float) else str(value.value if isinstance(value, enum.Enum) else value)


def flags(config: type, metavars: Mapping[str, str] | None = None) -> list[Flag]:
    """The flags of a configuration, in the order of its fields.

    `config.WORDS`, where it has one, says how a flag is typed whose field cannot be called so: "from" is Python's.
    `config.GROUPS`, where it has one, names groups: field -> heading of that field and of those that follow it, up to
    the next that is named. Help shows the groups in the order of that mapping.

    Args:
        config: a dataclass, each field with a default.
        metavars: field -> what help shows in place of its value.
    """
    hints, told, groups = typing.get_type_hints(config), _docstrings(config), getattr(config, "GROUPS", {})
    words: Mapping[str, str] = getattr(config, "WORDS", {})
    heading, result = "flags", []
    for field in fields(config):
        heading = groups.get(field.name, heading)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        assert default is not MISSING, f"{config.__name__}.{field.name} has no default"
        kind, choices, many, optional = kind_of(hints[field.name])
        shown = f"{{{','.join(choices)}}}" if choices else (metavars or {}).get(field.name, _METAVARS[kind])
        help_text = told.get(field.name, "")
        typed = words.get(field.name, "")
        result.append(Flag(field.name, kind, choices, many, optional, default, help_text, heading, shown, typed))
    return result


def kind_of(hint: Any) -> tuple[type, Mapping[str, Any], bool, bool]:
    """A field's type as (kind of a value, choices, whether it takes several, whether it may be None)."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        (rest,) = [option for option in inner if option is not type(None)]
        return *kind_of(rest)[:3], True
    if origin in (tuple, list):
        return *kind_of(inner[0])[:2], True, False
    if origin is Literal:
        return str, {str(choice): choice for choice in inner}, False, False
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return str, {str(member.value): member for member in hint}, False, False
    if hint not in CONVERT:
        raise TypeError(f"A flag cannot be of type {hint}.")
    return hint, {}, False, False


def _docstrings(config: type) -> dict[str, str]:
    """Field -> the text under it in the source, in one line; that of a class replaces that of its bases."""
    told: dict[str, str] = {}
    for cls in reversed([cls for cls in config.__mro__ if cls is not object]):
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                continue
            told.pop(field.target.id, None)
            if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                told[field.target.id] = " ".join(str(text.value.value).split())
    return told


def is_flag(word: str) -> bool:
    """Whether a word is a flag, and no value; -1e-3 is a number."""
    if not word.startswith("-") or word == "-":
        return False
    try:
        float(word)
    except ValueError:
        return True
    return False
