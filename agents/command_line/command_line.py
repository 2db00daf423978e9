"""CommandLine: what a command takes, what was typed of it, and its help."""

from __future__ import annotations

import difflib
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from typing import Any, NamedTuple

from stillsight.agents.command_line.flag import CONVERT, NO, YES, Flag, flags, is_flag, kind_of
from stillsight.agents.command_line.help import pasted, row
from stillsight.agents.command_line.synonyms import SYNONYMS
from stillsight.agents.errors import RunError
from stillsight.encoders.errors import unknown


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
            if not is_flag(word):
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
        while rest and not is_flag(rest[0]) and (flag.many or not taken):
            taken.append(rest.pop(0))
        return taken

    @staticmethod
    def _value(flag: Flag, on: bool, typed: Sequence[str], before: Sequence[Any]) -> Any:
        """The value of `flag` from the words after it."""
        if flag.many and not typed:
            raise RunError(f"{flag.word} needs a value. Type: {flag.shown}.")
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
            kind, choices, many, _ = kind_of(hint)
            typed, rest = (rest, []) if many else (rest[:1], rest[1:])
            if typed:
                given.add(name)
            elif not optional:
                raise RunError(f"{self.name} needs {shown}. Type, say: {self.prog} {example or shown}")
            for text in typed:
                if choices and text not in choices:
                    raise RunError(unknown(noun or name, text, choices, f"{self.name} takes one of", self.prog))
            taken = [choices[text] if choices else CONVERT[kind](text) for text in typed]
            values.append(taken if many else taken[0] if taken else None)
        if rest:
            takes = " ".join(shown for _, _, shown, *_ in self.positional)
            wants = f"{takes} and flags" if takes else "flags alone"
            raise RunError(f"{self.name} takes {wants}, and got {rest[0]!r} too. `{self.prog} --help` lists the flags.")
        return values, frozenset(given)

    def _unknown_flag(self, name: str, value: str) -> str:
        value = "VALUE" if not value or is_flag(value) else value
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
            parts.append("\n".join(line for item in self.positional for line in row(item.shown, item.help, width)))
        if examples:
            lines = [line for text in examples for line in pasted(f"{self.prog} {text}".rstrip(), width)]
            parts.append("\n".join(["examples:", *lines]))
        for heading in self._headings():
            rows = [
                line
                for flag in self.flags
                if flag.group == heading
                for line in row(flag.shown, flag.help + flag.told_default, width)
            ]
            parts.append("\n".join([f"{heading}:", *rows]))
        return "\n\n".join(parts)

    def _headings(self) -> list[str]:
        """The groups in the order of `GROUPS`; what stands in none comes last."""
        named = [heading for config in self.configs for heading in getattr(config, "GROUPS", {}).values()]
        every = dict.fromkeys([*named, *(flag.group for flag in self.flags)])
        return [heading for heading in every if any(flag.group == heading for flag in self.flags)]
