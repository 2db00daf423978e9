"""Resuming: what a run goes on with, which is its own configuration and those of its flags that may change."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from stillsight.agents.errors import RunError
from stillsight.agents.runs.reader import check_resumable
from stillsight.agents.runs.records import plain
from stillsight.agents.runs.trust import USERS, Trust, open_run, read_run
from stillsight.agents.training.settings import overrides
from stillsight.encoders.errors import as_typed


class Resumable(Protocol):
    """A configuration of runs that can be resumed: `RlConfig` and `CifarConfig`."""

    RESUMABLE: ClassVar[tuple[str, ...]]
    LENGTH: ClassVar[str]
    WORDS: ClassVar[Mapping[str, str]]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def trust(self) -> tuple[str, ...]:
        """What the run may ask for, as it was typed."""

    @property
    def typed(self) -> frozenset[str] | None:
        """Names of the fields that were typed; None of a configuration that was made in Python."""

    def check(self) -> None:
        """Refuse what cannot work."""

    def check_given(self, given: Collection[str]) -> None:
        """Refuse what has no effect."""

    def completed(self) -> Self:
        """With what depends on other flags filled in."""


Config = TypeVar("Config", bound=Resumable)

ELSEWHERE = ("data", "cache", "weights", "weights_folder")
"""Fields of places: where the user types one, the run's own is not asked about."""


@dataclass(frozen=True)
class Resumed(Generic[Config]):
    """A run that goes on.

    Attributes:
        config: that holds from now on.
        changed: field -> (before, now), as JSON knows them, of the flags that are others now.
        word: what to tell a user of files elsewhere that are read; "" if there are none.
    """

    config: Config
    changed: dict[str, tuple[Any, Any]]
    word: str = ""


def resumed(asked: Config, folder: Path, command: str) -> Resumed[Config]:
    """The run in `folder` with the flags that were typed beside `--resume`.

    A flag that may change (`RESUMABLE`) is taken over, any other is refused by name where it differs from the run's.
    Of a configuration that was made in Python the fields that are not at their default count as typed.

    Args:
        asked: what was typed, and its `typed`.
        folder: of the run, stopped or finished.
        command: that the run must be of, "rl" or "cifar".

    Raises:
        RunError: there is no run of this command, it asks for what nobody allowed, it is finished and nothing is left
            to do, or a flag differs that may not change; whatever the changed configuration's own checks raise.
    """
    typed = asked.typed
    if typed is None:
        typed = frozenset(item.name for item in fields(asked) if getattr(asked, item.name) != item.default)
    typed -= {"resume", *USERS}
    places = {name: getattr(asked, name) for name in ELSEWHERE if name in typed and hasattr(asked, name)}
    opened = open_run(folder, Trust(asked.trust), writes=True, **places)
    if opened.command != command:
        other = opened.command
        raise RunError(f"The run in {folder} is one of {other}. Type: stillsight {other} --resume {as_typed(folder)}")
    check_resumable(folder)
    allowed = getattr(asked, "accept_license")  # noqa: B009 - what the user accepts, no run's folder does
    own: Config = replace(read_run(folder).config, out=None, resume=None, accept_license=allowed)
    differing = [
        name for name in _names(asked) if name in typed and not _alike(getattr(asked, name), getattr(own, name))
    ]
    refused = [name for name in differing if name not in asked.RESUMABLE]
    if refused:
        raise RunError(_refusal(asked, own, folder, command, refused))
    config = replace(own, **{name: getattr(asked, name) for name in differing})
    filled = config.completed()  # one that was put back to its default follows the others
    config = replace(config, **{name: getattr(filled, name) for name in differing})
    config.check()
    config.check_given(typed)
    if (folder / "done").exists():
        _check_longer(own, config, folder, command)
    changed = {
        name: (plain(getattr(own, name)), plain(getattr(config, name)))
        for name in _names(asked)
        if getattr(own, name) != getattr(config, name)
    }
    return Resumed(config, changed, opened.word)


def flag(config: Resumable | type[Resumable], name: str) -> str:
    """The flag of a field, as it is typed."""
    return "--" + config.WORDS.get(name, name).replace("_", "-")


def _names(config: Resumable) -> list[str]:
    return [item.name for item in fields(config)]


def _alike(asked: Any, own: Any) -> bool:
    """Whether what was typed is what the run has; of settings, whether those that were typed are among its own."""
    if isinstance(asked, tuple) and isinstance(own, tuple) and all("=" in one for one in asked):
        known = overrides(own, "--set")
        return all(name in known and known[name] == value for name, value in overrides(asked, "--set").items())
    return bool(asked == own)


def _refusal(asked: Resumable, own: Resumable, folder: Path, command: str, names: list[str]) -> str:
    def words(value: Any) -> str:
        told = plain(value)
        return " ".join(map(str, told)) if isinstance(told, list) else str(told)

    told = ", ".join(
        f"{flag(asked, name)} {words(getattr(asked, name))} (it has {words(getattr(own, name))})" for name in names
    )
    may = ", ".join(flag(asked, name) for name in asked.RESUMABLE)
    policy = f", or begin a new run with its policy: --from {as_typed(folder)}" if command == "rl" else ""
    flags = " and ".join(flag(asked, name) for name in names)
    return (
        f"The run in {folder} goes on as it began, and not with {told}. On --resume may change: {may}. Drop {flags}"
        f"{policy}, or begin a new run without --resume."
    )


def _check_longer(own: Resumable, config: Resumable, folder: Path, command: str) -> None:
    """Refuse to go on with a finished run that is not to become longer."""
    length = own.LENGTH
    before, now = getattr(own, length), getattr(config, length)
    if now > before:
        return
    result = (
        f"Record it with: stillsight record {as_typed(folder)}"
        if command == "rl"
        else f"Its results are in {folder / 'summary.json'}"
    )
    if not getattr(own, "mode").trained and command == "cifar":  # noqa: B009 - of the cifar command alone
        raise RunError(f"{folder} is finished. {result}.")
    word = flag(own, length)
    raise RunError(
        f"{folder} is finished. {result}. It has {word} {before:_}; to go on, type a larger number: --resume "
        f"{as_typed(folder)} {word} {2 * before:_}"
    )
