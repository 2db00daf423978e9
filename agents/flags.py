"""Flags: the fields of configurations as a person types them, and the help that shows them.

A field `frame_stack: int | None = None` is the flag `--frame-stack N`; the text under it in the source is its help.
What is wrong in what was typed is one sentence.
"""

from __future__ import annotations

import ast
import difflib
import enum
import inspect
import shutil
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from stillsight.agents.errors import RunError
from stillsight.encoders.errors import unknown

YES, NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")

SYNONYMS: Mapping[str, Sequence[str]] = {
    "learning-rate": ("--lr {}", "--set learning_rate={}"),
    "lr": ("--set learning_rate={}",),
    "batch-size": ("--batch {}", "--set batch_size={}"),
    "total-timesteps": ("--steps {}",),
    "total-steps": ("--steps {}",),
    "timesteps": ("--steps {}",),
    "n-timesteps": ("--steps {}",),
    "num-timesteps": ("--steps {}",),
    "num-envs": ("--n-envs {}",),
    "env-id": ("--env {}",),
    "env-kwargs": ("--env-set {}",),
    "algorithm": ("--algo {}",),
    "hyperparams": ("--set {}",),
    "backbone": ("--encoder {}",),
    "model": ("--encoder {}",),
    "arch": ("--encoder {}",),
    "layer": ("--tap {}",),
    "pretrained": ("--mode finetune",),
    "freeze": ("--mode frozen",),
    "frozen": ("--mode frozen",),
    "num-epochs": ("--epochs {}",),
    "wd": ("--weight-decay {}",),
    "image-size": ("--size {}", "--resolution {}"),
    "img-size": ("--size {}", "--resolution {}"),
    "output": ("--out {}",),
    "output-dir": ("--out {}",),
    "out-dir": ("--out {}",),
    "log-dir": ("--out {}",),
    "save-dir": ("--out {}",),
    "gpu": ("--device cuda",),
    "cuda": ("--device cuda",),
    "cpu": ("--device cpu",),
    "n-eval-episodes": ("--eval-episodes {}", "--episodes {}"),
    "n-episodes": ("--episodes {}",),
    "eval-freq": ("--eval-every {}",),
    "save-freq": ("--checkpoint-every {}",),
}
"""What other tools call a flag -> what to type here, {} for its value: the first whose flag the command has."""


class Positional(NamedTuple):
    """What is typed without a flag.

    Attributes:
        name: in `Parsed.given`.
        kind: `str`, `Path`, a `Literal`, or a list of these, which takes all that follow.
        shown: in the usage.
        help: a sentence.
        optional: it may be left out, and is None then.
        example: what a sentence says to type.
        noun: what a word that is none of the choices would have named; by default the name.
    """

    name: str
    kind: Any
    shown: str
    help: str
    optional: bool = False
    example: str = ""
    noun: str = ""


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
            return _CONVERT[self.kind](text)
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


_CONVERT: Mapping[type, Callable[[str], Any]] = {int: _whole, float: float, str: str, Path: Path, bool: _truth}
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
        kind, choices, many, optional = _kind(hints[field.name])
        shown = f"{{{','.join(choices)}}}" if choices else (metavars or {}).get(field.name, _METAVARS[kind])
        help_text = told.get(field.name, "")
        typed = words.get(field.name, "")
        result.append(Flag(field.name, kind, choices, many, optional, default, help_text, heading, shown, typed))
    return result


def _kind(hint: Any) -> tuple[type, Mapping[str, Any], bool, bool]:
    """A field's type as (kind of a value, choices, whether it takes several, whether it may be None)."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        (rest,) = [option for option in inner if option is not type(None)]
        return *_kind(rest)[:3], True
    if origin in (tuple, list):
        return *_kind(inner[0])[:2], True, False
    if origin is Literal:
        return str, {str(choice): choice for choice in inner}, False, False
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return str, {str(member.value): member for member in hint}, False, False
    if hint not in _CONVERT:
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


class Parsed(NamedTuple):
    """What was typed.

    Attributes:
        positional: one value for each.
        configs: one for each class.
        given: names of all fields and positionals that were typed, with a value equal to their default too.
    """

    positional: list[Any]
    configs: list[Any]
    given: frozenset[str]


class CommandLine:
    """What a command takes.

    Args:
        prog: the command as it is typed, say `stillsight rl`.
        positional: what comes without flags; a list can only be the last.
        configs: dataclasses of its flags, no two with a field of the same name.
        left_out: fields that are no flags here.
        settings: arguments that go through `--set`, and are looked for as flags of their own.
        metavars: see `flags`.
    """

    def __init__(
        self,
        prog: str,
        positional: Sequence[Positional],
        configs: Sequence[type],
        *,
        left_out: Sequence[str] = (),
        settings: Sequence[str] = (),
        metavars: Mapping[str, str] | None = None,
    ) -> None:
        self.prog, self.positional, self.configs, self.settings = prog, tuple(positional), tuple(configs), settings
        self.name = prog.rpartition(" ")[2]
        self.flags = [flag for config in configs for flag in flags(config, metavars) if flag.field not in left_out]

    @cached_property
    def words(self) -> dict[str, tuple[Flag, bool]]:
        """What may be typed -> (its flag, the value that a switch gets by it)."""
        words = {flag.word: (flag, True) for flag in self.flags}
        switches = [flag for flag in self.flags if flag.kind is bool]
        return words | {f"--no-{flag.word[2:]}": (flag, False) for flag in switches}

    def parse(self, words: Sequence[str]) -> Parsed:
        """What `words` say.

        Raises:
            RunError: a flag that there is not, that was given twice or with a wrong value; too few or too many words
                without a flag.
        """
        values: dict[str, Any] = {}
        loose: list[str] = []
        rest = list(words)
        while rest:
            word = rest.pop(0)
            if word == "--":
                loose += rest
                break
            if not _is_flag(word):
                loose.append(word)
                continue
            name, equals, attached = word.partition("=")
            name = name.replace("_", "-")
            if name not in self.words:
                raise RunError(self._unknown_flag(name, attached or next(iter(rest), "")))
            flag, on = self.words[name]
            if flag.field in values and not flag.many:
                raise RunError(f"{flag.word} was given twice. Give it once: which of the two holds is yours to say.")
            typed = [attached] if equals else self._values(flag, on, rest)
            values[flag.field] = self._value(flag, on, typed, values.get(flag.field, ()))
        positional, given = self._positional(loose)
        configs = [
            config(**{field.name: values[field.name] for field in fields(config) if field.name in values})
            for config in self.configs
        ]
        return Parsed(positional, configs, frozenset(values) | given)

    @staticmethod
    def _values(flag: Flag, on: bool, rest: list[str]) -> list[str]:
        """Take from `rest` the words that are values of `flag`."""
        taken: list[str] = []
        if flag.kind is bool:
            # --clip-rewards False, besides --no-clip-rewards
            either = flag.optional and on and rest and rest[0].lower() in (*YES, *NO, "none")
            return [rest.pop(0).title()] if either else []
        while rest and not _is_flag(rest[0]) and (flag.many or not taken):
            taken.append(rest.pop(0))
        return taken

    @staticmethod
    def _value(flag: Flag, on: bool, typed: Sequence[str], before: Sequence[Any]) -> Any:
        """The value of `flag` from the words after it."""
        if flag.many:
            return (*before, *map(flag.value, typed))
        if typed:
            if flag.kind is bool and not (flag.optional and on):
                raise RunError(f"{flag.word} takes no value, and got {typed[0]!r}. Type {flag.shown}.")
            return flag.value(typed[0])
        if flag.kind is bool:
            return on
        raise RunError(f"{flag.word} needs a value. Type: {flag.shown}.")

    def _positional(self, loose: list[str]) -> tuple[list[Any], frozenset[str]]:
        values: list[Any] = []
        given = set()
        rest = list(loose)
        for name, hint, shown, _, optional, example, noun in self.positional:
            kind, choices, many, _ = _kind(hint)
            typed, rest = (rest, []) if many else (rest[:1], rest[1:])
            if typed:
                given.add(name)
            elif not optional:
                raise RunError(f"{self.name} needs {shown}. Type, say: {self.prog} {example or shown}")
            for text in typed:
                if choices and text not in choices:
                    raise RunError(unknown(noun or name, text, choices, f"{self.name} takes one of", self.prog))
            taken = [choices[text] if choices else _CONVERT[kind](text) for text in typed]
            values.append(taken if many else taken[0] if taken else None)
        if rest:
            takes = " ".join(shown for _, _, shown, *_ in self.positional)
            wants = f"{takes} and flags" if takes else "flags alone"
            raise RunError(f"{self.name} takes {wants}, and got {rest[0]!r} too. `{self.prog} --help` lists the flags.")
        return values, frozenset(given)

    def _unknown_flag(self, name: str, value: str) -> str:
        value = "VALUE" if not value or _is_flag(value) else value
        bare = name.lstrip("-")
        known = [pattern.format(value) for pattern in SYNONYMS.get(bare.lower(), ())]
        typed = next((text for text in known if text.split()[0] in self.words), None)
        if typed is None and "--set" in self.words and bare.replace("-", "_") in self.settings:
            typed = f"--set {bare.replace('-', '_')}={value}"
        if typed is None:
            shown = [word for flag in self.flags for word in flag.shown.split() if word.startswith("--")]
            known = [word.rstrip(",") for word in shown]
            alike = difflib.get_close_matches("--" + bare.lower(), known, 3, 0.7)
            near = [word for word in alike if self._takes(word, value)]
            if near:
                flag, _ = self.words[near[0]]
                typed = near[0] if flag.kind is bool else f"{near[0]} {value}"
        guess = f" Type, say: {typed}." if typed else ""
        return f"{self.name} has no flag {name}.{guess} `{self.prog} --help` lists the flags."

    def _takes(self, word: str, value: str) -> bool:
        """Whether a flag could have the value that was typed behind another word."""
        flag, _ = self.words[word]
        if flag.kind is bool or value == "VALUE":
            return True
        try:
            flag.value(value)
        except RunError:
            return False
        return True

    def help(self, summary: str, examples: Sequence[str] = (), width: int | None = None) -> str:
        """The text of `--help`.

        Args:
            summary: what the command does.
            examples: command lines, without what `prog` says.
            width: in characters; that of the terminal by default, up to 100.
        """
        width = min(width or shutil.get_terminal_size().columns, 100)
        takes = "".join(f" [{item.shown}]" if item.optional else f" {item.shown}" for item in self.positional)
        usage = f"usage: {self.prog}{takes}" + (" [FLAGS]" if self.flags else "")
        parts = [usage, textwrap.fill(summary, width)]
        if self.positional:
            parts.append("\n".join(line for item in self.positional for line in _row(item.shown, item.help, width)))
        if examples:
            lines = [line for text in examples for line in _example(f"{self.prog} {text}".rstrip(), width)]
            parts.append("\n".join(["examples:", *lines]))
        for heading in self._headings():
            rows = [
                line
                for flag in self.flags
                if flag.group == heading
                for line in _row(flag.shown, flag.help + flag.told_default, width)
            ]
            parts.append("\n".join([f"{heading}:", *rows]))
        return "\n\n".join(parts)

    def _headings(self) -> list[str]:
        """The groups in the order of `GROUPS`; what stands in none comes last."""
        named = [heading for config in self.configs for heading in getattr(config, "GROUPS", {}).values()]
        every = dict.fromkeys([*named, *(flag.group for flag in self.flags)])
        return [heading for heading in every if any(flag.group == heading for flag in self.flags)]


def _is_flag(word: str) -> bool:
    """Whether a word is a flag, and no value; -1e-3 is a number."""
    if not word.startswith("-") or word == "-":
        return False
    try:
        float(word)
    except ValueError:
        return True
    return False


COLUMN = 24
"""Where help begins, in characters."""


def _row(shown: str, told: str, width: int) -> Iterator[str]:
    """What is typed, and beside it what it does."""
    first, *more = textwrap.wrap(told, width - COLUMN, break_on_hyphens=False, break_long_words=False) or [""]
    if len(shown) + 4 > COLUMN:
        yield from textwrap.wrap(f"  {shown}", width, subsequent_indent=" " * 6, break_on_hyphens=False)
        more, first = [first, *more], ""
    else:
        yield f"  {shown:{COLUMN - 2}}{first}".rstrip()
    yield from (" " * COLUMN + line for line in more)


def _example(text: str, width: int) -> list[str]:
    """A command line that can be pasted, over several lines where it is long; a flag stays beside its first value."""
    words: list[str] = []
    for word in text.split():
        if words and words[-1].startswith("--") and " " not in words[-1] and not _is_flag(word):
            words[-1] += f" {word}"
        else:
            words.append(word)
    lines = ["  " + words[0]]
    for word in words[1:]:
        if len(lines[-1]) + 1 + len(word) <= width - 2:
            lines[-1] += f" {word}"
        else:
            lines.append("      " + word)
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]
