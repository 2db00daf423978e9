"""Which environments there are: the rows of every suite, and the rule for every other Gymnasium id.

Reading the rows costs no import beyond the standard library; `resolve` imports Gymnasium.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from stillsight.envs.errors import EnvError, did_you_mean, nearest
from stillsight.envs.shifts.rows import SCENES, SHIFTS, SUITE_SHIFTS, Shift
from stillsight.envs.shifts.terms import check_order, check_path, terms
from stillsight.envs.spec import EnvSpec
from stillsight.envs.suites import SUITES
from stillsight.envs.suites.suite import Suite

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec as RegisteredSpec

ROWS: dict[str, EnvSpec] = {row.id: row for suite in SUITES for row in suite.rows}
"""The known environments by id. A new one is a new row in its suite; a third party needs none (`module:Id`)."""

OTHER = Suite(name="Gymnasium", noun="environment", default=EnvSpec(id=""), shifts=SCENES)
"""What holds for an id that is of no suite. What it draws is known once it is made: then shifts that it cannot give are
refused."""


def suite_of(env_id: str) -> Suite:
    """The suite of an id; `OTHER` for one that is of none.

    What is registered is of the suite whose package Gymnasium makes it from, whatever it is called; what is not, of the
    one that its name tells (`guessed_from_name`).
    """
    import gymnasium as gym

    name = env_id.rpartition(":")[2]
    registered = gym.registry.get(name)
    if registered is None:
        return guessed_from_name(name)
    entry_point = _made_from(registered)
    return next((suite for suite in SUITES if suite.makes(name, entry_point)), OTHER)


def guessed_from_name(env_id: str) -> Suite:
    """The suite that an id sounds like, without anything being imported; `OTHER` where its name tells nothing.

    Only for what is not registered yet, and for what must be the same before and after: anybody may register an id that
    begins as those of a suite do. Elsewhere `suite_of` knows.
    """
    name = env_id.rpartition(":")[2]
    return next((suite for suite in SUITES if suite.covers(name)), OTHER)


def _made_from(registered: RegisteredSpec) -> str:
    """What Gymnasium makes a registered id from, as `module:name`."""
    entry: Any = registered.entry_point
    if entry is None or isinstance(entry, str):
        return entry or ""
    return f"{getattr(entry, '__module__', '')}:{getattr(entry, '__qualname__', '')}"  # a class or a function


def built_on(env: object) -> Suite:
    """The suite upon whose base class (`Suite.base`) a bare environment is built that is of no suite, as one of a
    user's own may be; `OTHER` where there is none. Nothing is imported for it."""
    for suite, base in _bases():
        if isinstance(env, base):
            return suite
    return OTHER


def prepare_bases(subject: str) -> None:
    """Have the suites ready whose base classes are imported, before an environment is made that may be built on one.

    Raises `EnvError` for a package that is here and broken.
    """
    for suite, _ in _bases():
        _register(suite, subject)


def _bases() -> list[tuple[Suite, type]]:
    """The base classes of suites that somebody has imported."""
    found = []
    for suite in SUITES:
        module, _, name = (suite.base or "").partition(":")
        if isinstance(base := getattr(sys.modules.get(module), name, None), type):
            found.append((suite, base))
    return found


def named(word: str) -> Suite:
    """The suite that is called that, by its name, a part of it, its extra or how its ids begin.

    Raises `EnvError`, with the nearest one, where there is none.
    """
    asked = word.lower().rstrip("/-")
    by_word = {suite.word: suite for suite in SUITES}
    for suite in SUITES:
        prefixes = (suite.prefix,) if isinstance(suite.prefix, str) else suite.prefix or ()
        if asked in (suite.word, suite.default.extra, *(prefix.lower().rstrip("/-") for prefix in prefixes)):
            return suite
    parts = [suite for suite in SUITES if asked and asked in suite.word]
    if len(parts) == 1:
        return parts[0]
    raise EnvError(f"No suite is called {word!r}.{did_you_mean(asked, by_word)} Suites: {', '.join(by_word)}.")


def ids(suite: Suite) -> list[str]:
    """All ids that a suite makes, sorted, its package imported.

    Raises `EnvError` for a package that is here and cannot be imported.
    """
    import gymnasium as gym

    _register(suite, f"{suite.name}'s ids")
    return sorted(name for name, spec in gym.registry.items() if suite.makes(name, _made_from(spec)))


def resolve(env_id: str) -> EnvSpec:
    """What `env_id` stands for, with all that it needs imported and registered, but nothing built.

    A row's id gives the row, any other id of a suite the suite's default; `module:Id` imports the module first; what is
    of no suite is looked up in Gymnasium and gets `EnvOptions()`. The suite is that of `suite_of`: an environment of
    one's own gets no other's defaults, and needs no other's package, for sounding like it.

    Raises `EnvError` for an id that nobody registered (with the nearest one that somebody did), for a module that
    cannot be found, for a missing extra (with the command that installs it), and for a package that is here and broken.
    """
    import gymnasium as gym

    module, colon, name = env_id.rpartition(":")
    if colon:
        _import(module, env_id)
    if name not in gym.registry:
        guess = guessed_from_name(name)
        _require(env_id, guess.spec(name))
        _register(guess, env_id)
    for suite in SUITES:
        if name not in gym.registry and suite.unprefixed and suite.installed:
            with suppress(EnvError):  # a broken package says nothing about an id that may be another's
                _register(suite, env_id)
    if name not in gym.registry:
        if colon and not name:
            raise EnvError(f"{env_id!r} has no id behind its colon. Type module:Id, say: --env {module}:Arm-v0")
        unknown = f"The module {module!r} registers no {name!r}." if colon else f"No environment is called {name!r}."
        known = {*ROWS, *gym.registry}
        if (near := nearest(name, known)) is not None:
            raise EnvError(f"{unknown}{did_you_mean(name, known)} Type: --env {module}{colon}{near}")
        raise EnvError(
            f"{unknown} Any Gymnasium id works (stillsight list envs shows "
            f"some), and module:Id for one that another module registers: --env MODULE:{name}"
        )
    suite = suite_of(name)
    spec = suite.spec(name)
    _require(env_id, spec)
    _register(suite, env_id)  # which also prepares what it draws with, whoever imported its package
    return replace(spec, id=env_id)


def shifts_of(env_id: str) -> dict[str, Shift]:
    """The shifts that an environment can be shown through, by name: those of any picture, and those of its suite.

    Raises `EnvError`, see `resolve`.
    """
    resolve(env_id)  # registers what tells its suite
    given = suite_of(env_id).shifts
    return SHIFTS | {name: row for name, row in SUITE_SHIFTS.items() if name in given}


def check_shift(env_id: str, shift: str | None) -> None:
    """Raise `EnvError` for a shift, as `terms.terms` reads it, that an environment's suite cannot give, or draws and is
    asked for after one of the picture, or whose pictures are not there."""
    if shift is None:
        return
    known = shifts_of(env_id)
    asked, suite = terms(shift), suite_of(env_id)
    for term in asked:
        if term.path:
            check_path(term.path)
        if term.name not in known:
            raise EnvError(
                f"{env_id} cannot give the shift {term.name!r}: only suites that draw it can, and "
                f"{suite.name} does not. It has {', '.join(known)}. To see them: stillsight look {env_id}"
            )
    # Whether an environment of no suite draws what any picture can be shown through is known once it is made.
    if suite is not OTHER or not any(term.name in SHIFTS and term.name in suite.shifts for term in asked):
        check_order(asked, suite.shifts)


def _require(env_id: str, spec: EnvSpec) -> None:
    if missing := [module for module in spec.needs if find_spec(module) is None]:
        raise EnvError(
            f'{env_id} needs {" and ".join(missing)}, not found here. Run: pip install "stillsight[{spec.extra}]"'
        )


def _register(suite: Suite, subject: str) -> None:
    """Register the ids of a suite, for the sake of `subject`."""
    try:
        suite.register()
    except (ImportError, OSError, AttributeError) as error:
        reason = str(error).partition("\n")[0].removesuffix(".")
        raise EnvError(
            f"{subject} cannot be used: {' or '.join(suite.default.needs)} is here and does not load "
            f"({type(error).__name__}: {reason}). Bring what it lacks, or install it anew: "
            f'pip install --force-reinstall "stillsight[{suite.default.extra}]"'
        ) from error


def _import(module: str, env_id: str) -> None:
    if not module:
        raise EnvError(f"{env_id!r} has no module before its colon. Type module:Id, say: --env my_envs:Arm-v0")
    if module.endswith(".py") or "/" in module or module.startswith("."):
        named = f"{PurePath(module).name.removesuffix('.py').strip('.')}:{env_id.partition(':')[2]}"
        raise EnvError(f"{env_id!r} names a file, and module:Id names a module. From its folder, type: --env {named}")
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        # Only the module that was named is the user's slip; an import that fails inside it is a bug to be seen.
        if error.name is None or not (module == error.name or module.startswith(f"{error.name}.")):
            raise
        raise EnvError(
            f"The module {module!r} of {env_id!r} cannot be found. Write module:Id with a module of the current folder "
            "or an installed one. The current folder serves what is typed; a run folder or a SPEC.toml that names it "
            f"is opened with --trust {env_id}."
        ) from error
