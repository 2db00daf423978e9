"""The rules of the house, read from the source: what may import what, where, and how rooms and files are named.

train.py -> agents -> {envs, encoders}; envs and encoders never see each other, and nobody imports train.py. Inside
agents `ROOMS` is the order, and inside its benchmark that of `agents/benchmark/test_rooms.py`. Every rule is a function
on source text, and has a test in which it sees a violation.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest

ALLOWED = {"encoders": {"encoders"}, "envs": {"envs"}, "agents": {"agents", "envs", "encoders"}}

ROOMS: Sequence[set[str]] = (
    {"errors"},
    {"runs", "command_line", "columns"},
    {"features", "buffers", "diagnosis"},
    {"training"},
    {"playing", "seeing", "measure", "benchmark"},
    {"listing", "encoder_table", "exchange", "doctor"},
    {"cli"},
    {"stillsight"},
)
"""Rooms of agents, each of which imports nothing from a later set. `__init__` only names what there is."""

CROWDED = 14
"""Files that a room may hold: about a dozen."""

ONE_EACH = {"envs/suites"}
"""Rooms of one short file for each thing of a kind, of which there may be many."""

SAY_NOTHING = {"utils", "util", "common", "helpers", "helper", "manager", "managers", "misc"}

Sources = Mapping[str, str]
"""Source text by path, such as "agents/runs/folder.py"."""


class Import(NamedTuple):
    """A module of ours that is imported.

    Attributes:
        module: the module, as far as the statement names it: for `from stillsight.envs import making` that is
            `stillsight.envs.making` where there is such a file, and `stillsight.envs` otherwise.
        late: it happens when a function is called.
        line: of the statement.
    """

    module: str
    late: bool
    line: int


def module_of(path: str) -> str:
    """`agents/runs/folder.py` -> `stillsight.agents.runs.folder`; an `__init__.py` is its package."""
    return "stillsight." + path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


parsed = cache(ast.parse)

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def by_name(call: ast.Call, package: str) -> str:
    """The module of ours that `call` imports if it is one of import_module, as far as the source tells; "" if not."""
    function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if function not in ("import_module", "__import__"):
        return ""
    argument = call.args[0]
    if isinstance(argument, ast.Constant):
        name = str(argument.value)
        return package + name if name.startswith(".") else name
    of_ours = {"__name__", "__package__"} & {inner.id for inner in ast.walk(argument) if isinstance(inner, ast.Name)}
    return package if of_ours or "stillsight" in ast.unparse(argument) else ""


def imports(path: str, source: str, known: Iterable[str]) -> Iterator[Import]:
    """Everything of ours that `source` imports: at the top, for types, in functions, and by name with import_module.

    Args:
        path: of the file, from which relative imports start.
        known: names of all modules of ours, which tell a module from what stands in one.
    """
    tree = parsed(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)]
    in_functions = {id(inner) for function in functions for inner in ast.walk(function)}
    known = set(known)
    package = module_of(path) if path.endswith("__init__.py") else module_of(path).rpartition(".")[0]
    for node in ast.walk(tree):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            inner = (f"{base}.{alias.name}" for alias in node.names)
            modules = [name if name in known else base for name in inner]
        elif isinstance(node, ast.Call) and node.args:
            modules = [by_name(node, package)]
        for module in modules:
            if module.partition(".")[0] in ("stillsight", "train"):
                yield Import(module, id(node) in in_functions, node.lineno)


def graph(sources: Sources) -> dict[str, list[Import]]:
    """What each module of ours imports of ours."""
    known = {module_of(path) for path in sources}
    return {module_of(path): list(imports(path, text, known)) for path, text in sources.items()}


def circles(edges: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Groups of two or more nodes, each of which reaches every other (Tarjan's strongly connected components)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    open_nodes: list[str] = []
    groups: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = lowest[node] = len(order)
        open_nodes.append(node)
        for after in edges.get(node, ()):
            if after not in order:
                visit(after)
            if after in open_nodes:
                lowest[node] = min(lowest[node], lowest[after])
        if lowest[node] == order[node]:
            place = open_nodes.index(node)
            group = sorted(open_nodes[place:])
            del open_nodes[place:]
            if len(group) > 1:
                groups.append(group)

    for node in edges:
        if node not in order:
            visit(node)
    return sorted(groups)


def circles_of_files(sources: Sources) -> list[list[str]]:
    """Files that import each other, function-level and typing imports counted."""
    return circles({name: {i.module for i in found} - {name} for name, found in graph(sources).items()})


def late_imports(sources: Sources) -> list[str]:
    """Imports of ours inside functions, but for the command line and packages, whose names come when they are used.

    The `module:function` of a registry's row is data, ours as a third party's, and not counted.
    """
    return [
        f"{path}:{one.line} imports {one.module} late"
        for path, text in sources.items()
        if path != "agents/cli.py" and not path.endswith("__init__.py")
        for one in imports(path, text, map(module_of, sources))
        if one.late
    ]


def forbidden_imports(sources: Sources) -> list[str]:
    """Imports from one top-level folder to another that it must not see, or of train.py."""
    return [
        f"{module} imports {one.module}"
        for module, found in graph(sources).items()
        for one in found
        if one.module != "stillsight" and top(one.module) not in ALLOWED[top(module)]
    ]


def top(module: str) -> str:
    """The top-level folder of `module`, or train."""
    return module.removeprefix("stillsight.").partition(".")[0]


def room(module: str) -> str | None:
    """The room of agents in which `module` stands, None for the package itself and for what is not of agents."""
    parts = module.split(".")
    return parts[2] if parts[:2] == ["stillsight", "agents"] and len(parts) > 2 else None


def room_faults(sources: Sources) -> list[str]:
    """Imports of agents that go from a room to a later one, rooms without a place, and circles of rooms."""
    place = {name: number for number, names in enumerate(ROOMS) for name in names}
    faults: list[str] = []
    between: dict[str, set[str]] = {}
    for module, found in graph(sources).items():
        here = room(module)
        if here is None:
            continue
        if here not in place:
            faults.append(f"{module} stands in a room that has no place in ROOMS")
            continue
        for one in found:
            there = room(one.module)
            if there in place and there != here:
                between.setdefault(here, set()).add(there)
                if place[there] > place[here]:
                    faults.append(f"{module} imports {one.module}, which lies above it")
    return faults + [f"rooms in a circle: {', '.join(group)}" for group in circles(between)]


def run_folders_read(path: str, source: str) -> list[str]:
    """Where `source` names a file of a run folder other than to write it."""
    tree = parsed(source)
    written = {
        id(argument)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr.startswith("write")
        for argument in node.args
    }
    return [
        f"{path}:{node.lineno} names {name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in written
        for name in re.findall(r"(?:config|summary|machine)\.json\b", node.value)
    ]


def twice(paths: Iterable[str]) -> list[str]:
    """File names that occur more than once within one top-level folder."""
    named = sorted((p.parts[0], p.name, str(p)) for p in map(PurePosixPath, paths) if p.name != "__init__.py")
    groups = (list(group) for _, group in groupby(named, key=lambda one: one[:2]))
    return [" and ".join(path for _, _, path in group) for group in groups if len(group) > 1]


def names_that_say_nothing(paths: Iterable[str]) -> list[str]:
    """Paths with a file or a folder whose name would fit anything."""
    return [path for path in paths if SAY_NOTHING & set(PurePosixPath(path).with_suffix("").parts)]


def crowded(paths: Iterable[str]) -> list[str]:
    """Folders that hold more files than one can take in."""
    rooms = sorted(str(p.parent) for p in map(PurePosixPath, paths) if p.name != "__init__.py")
    counted = [(name, len(list(group))) for name, group in groupby(rooms)]
    return [f"{name} holds {count} files" for name, count in counted if count > CROWDED and name not in ONE_EACH]


@pytest.fixture(scope="module")
def sources(root: Path) -> Sources:
    """All of our source text."""
    files = [file for package in ALLOWED for file in sorted((root / package).rglob("*.py"))]
    found = {file.relative_to(root).as_posix(): file.read_text() for file in files}
    assert all(any(path.startswith(f"{package}/") for path in found) for package in ALLOWED)
    return found


def assert_none(faults: Sequence[object]) -> None:
    assert not faults, "\n".join(map(str, faults))


def test_a_folder_imports_only_what_lies_below_it(sources: Sources) -> None:
    assert_none(forbidden_imports(sources))


def test_no_files_import_each_other_in_a_circle(sources: Sources) -> None:
    assert_none(circles_of_files(sources))


def test_our_own_modules_are_imported_at_the_top(sources: Sources) -> None:
    """But for the command line, which answers before torch is imported; optional packages come where they are used."""
    assert_none(late_imports(sources))


def test_rooms_of_agents_import_nothing_from_above(sources: Sources) -> None:
    assert_none(room_faults(sources))


def test_the_supervised_track_reads_no_run_folder(sources: Sources) -> None:
    track = {path: text for path, text in sources.items() if path.startswith("encoders/supervised/")}
    assert track
    assert_none([fault for path, text in track.items() for fault in run_folders_read(path, text)])


def test_no_file_name_stands_twice_in_a_package(sources: Sources) -> None:
    assert_none(twice(sources))


def test_names_say_something(sources: Sources) -> None:
    assert_none(names_that_say_nothing(sources))


def test_a_room_holds_about_a_dozen_files(sources: Sources) -> None:
    assert_none(crowded(sources))


FOLDER = "from stillsight.encoders.atomic import replacing\n"


def test_the_check_sees_a_forbidden_import() -> None:
    late = {"envs/vector.py": "def f():\n    from stillsight.agents.runs.folder import Run"}
    assert forbidden_imports(late) == ["stillsight.envs.vector imports stillsight.agents.runs.folder"]
    assert forbidden_imports({"agents/cli.py": "import train"}) == ["stillsight.agents.cli imports train"]
    relative = {"encoders/zoo/registry.py": "from ...envs import make_vec"}
    assert forbidden_imports(relative) == ["stillsight.encoders.zoo.registry imports stillsight.envs"]
    assert not forbidden_imports({"agents/runs/folder.py": FOLDER, "envs/wrappers/pixels.py": "import numpy"})


@pytest.mark.parametrize(
    "back",
    [
        "from stillsight.agents.runs.folder import Run",
        "from stillsight.agents.runs import folder",
        "from .folder import Run",
        "from . import folder",
        "import stillsight.agents.runs.folder",
        "def f():\n    from stillsight.agents.runs.folder import Run",
        "class A:\n    async def f(self):\n        from stillsight.agents.runs.folder import Run",
        "if TYPE_CHECKING:\n    from stillsight.agents.runs.folder import Run",
        "import importlib\nimportlib.import_module('stillsight.agents.runs.folder')",
    ],
)
def test_the_check_sees_a_circle(back: str) -> None:
    planted = {
        "agents/runs/folder.py": "from stillsight.agents.runs import machine\n",
        "agents/runs/machine.py": "import stillsight.agents.runs.plots\n",
        "agents/runs/plots.py": f"from typing import TYPE_CHECKING\n{back}\n",
    }
    names = [f"stillsight.agents.runs.{name}" for name in ("folder", "machine", "plots")]
    assert circles_of_files(planted) == [names]
    assert not circles_of_files({**planted, "agents/runs/plots.py": FOLDER})


def test_two_circles_are_two() -> None:
    edges = {"a": "b", "b": "ac", "c": "d", "d": "e", "e": "c", "f": "abcde"}
    assert circles(edges) == [["a", "b"], ["c", "d", "e"]]
    assert not circles({"a": "bc", "b": "c", "c": ""})


def test_the_check_sees_a_late_import() -> None:
    late = "def f():\n    from stillsight.agents.runs import folder\n"
    named = (
        "from importlib import import_module\nclass A:\n    def f(self):\n        import_module('stillsight.envs')\n"
    )
    planted = {"agents/training/learn.py": late, "agents/listing.py": named}
    assert late_imports(planted) == [
        "agents/training/learn.py:2 imports stillsight.agents.runs late",
        "agents/listing.py:4 imports stillsight.envs late",
    ]
    assert not late_imports({"agents/cli.py": late, "envs/__init__.py": named})
    for argument in ("f'{__name__}.rules'", "'.rules', __name__", "'stillsight.' + name"):
        source = f"import importlib\nmade = lambda name: importlib.import_module({argument})\n"
        assert len(late_imports({"envs/making.py": source})) == 1, argument
    third_party = (
        "import typing\nif typing.TYPE_CHECKING:\n    from stillsight.envs import rules\ndef f():\n    import torch\n"
    )
    assert not late_imports({"agents/listing.py": third_party})


@pytest.mark.parametrize(
    ("path", "imported"),
    [
        ("agents/features/head.py", "training.config"),
        ("agents/buffers/replay.py", "training.config"),
        ("agents/runs/folder.py", "training.config"),
        ("agents/runs/folder.py", "features.head"),
        ("agents/training/learn.py", "playing.play"),
        ("agents/diagnosis/probe.py", "measure.clock"),
        ("agents/playing/play.py", "listing"),
        ("agents/listing.py", "cli"),
    ],
)
def test_the_check_sees_an_import_from_above(path: str, imported: str) -> None:
    planted = {path: f"def f():\n    import stillsight.agents.{imported}\n"}
    assert room_faults(planted) == [f"{module_of(path)} imports stillsight.agents.{imported}, which lies above it"]


def test_the_check_sees_rooms_in_a_circle_and_a_new_room() -> None:
    planted = {
        "agents/features/critic.py": "import stillsight.agents.buffers.footprint\n",
        "agents/buffers/replay.py": "import stillsight.agents.features.head\n",
    }
    assert not circles_of_files(planted)
    assert room_faults(planted) == ["rooms in a circle: buffers, features"]
    assert room_faults({"agents/attic/old.py": ""}) == [
        "stillsight.agents.attic.old stands in a room that has no place in ROOMS"
    ]
    below = "from stillsight.agents.training.learn import rl\nfrom stillsight.agents.errors import RunError\n"
    assert not room_faults({"agents/playing/play.py": below, "agents/__init__.py": below})


def test_the_check_sees_a_run_folder_that_is_read() -> None:
    read = "def f(folder):\n    return json.loads((folder / 'config.json').read_text())"
    assert run_folders_read("a.py", read) == ["a.py:2 names config.json"]
    assert run_folders_read("a.py", "NAME = f'{run}/summary.json'") == ["a.py:1 names summary.json"]
    assert not run_folders_read("a.py", "run.write_json('summary.json', {})")


def test_the_checks_see_names_and_crowds() -> None:
    assert twice(["agents/runs/plots.py", "agents/measure/plots.py", "envs/plots.py", "agents/__init__.py"]) == [
        "agents/measure/plots.py and agents/runs/plots.py"
    ]
    assert not twice(["agents/__init__.py", "agents/runs/__init__.py"])
    assert names_that_say_nothing(["agents/utils.py", "envs/common/reset.py", "envs/rules.py"]) == [
        "agents/utils.py",
        "envs/common/reset.py",
    ]
    full = [f"envs/orchard/tree{number}.py" for number in range(CROWDED)]
    assert not crowded([*full, "envs/orchard/__init__.py", "envs/wrappers/rules.py"])
    assert not crowded([f"envs/suites/suite{number}.py" for number in range(CROWDED + 1)])
    assert crowded([*full, "envs/orchard/one_more.py"]) == [f"envs/orchard holds {CROWDED + 1} files"]
