"""Files that are whole and on the disk or not there, whose leftovers are swept, and JSON that every program reads."""

from __future__ import annotations

import ast
import errno
import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from stillsight.encoders.atomic import is_partial, partial_suffix, replacing, sweep, to_json, write_atomically
from stillsight.encoders.errors import DiskFault
from stillsight.encoders.weights import tensor_file

NOT_WRITTEN = {
    "agents/benchmark/benchmark_config.py",  # strings of TOML
    "agents/benchmark/grid/keys.py",  # values of TOML
    "agents/benchmark/grid/spec.py",  # hashed
    "agents/benchmark/analysis/collect.py",  # compared
    "agents/runs/plots.py",  # compared
    "agents/doctor/run_check.py",  # compared
    "encoders/supervised/features/frozen_features.py",  # hashed
}
"""Files whose JSON text goes into no JSON file and to no program."""


def strictly(text: str) -> Any:
    """`text` as a program reads it that knows no NaN."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_numbers_that_are_none_become_null_at_every_depth() -> None:
    nested = {"a": math.nan, "b": [1.5, math.inf, {"c": (-math.inf, 2)}], "d": "NaN", "e": True, "f": None}
    assert strictly(to_json(nested)) == {
        "a": None,
        "b": [1.5, None, {"c": [None, 2]}],
        "d": "NaN",
        "e": True,
        "f": None,
    }
    assert to_json({"a": 1}, indent=2) == '{\n  "a": 1\n}'
    with pytest.raises(TypeError):
        to_json({"a": object()})


def writes(source: str) -> list[int]:
    """Lines of `source` that write JSON in which NaN may stand."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("dump", "dumps")
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "json"
        and not any(word.arg == "allow_nan" and ast.literal_eval(word.value) is False for word in node.keywords)
    ]


def test_nothing_writes_json_that_may_hold_nan() -> None:
    root = Path(__file__).parents[2]
    files = [path for folder in ("agents", "encoders", "envs") for path in (root / folder).rglob("*.py")]
    assert len(files) > 150
    odd = {str(path.relative_to(root)): lines for path in files if (lines := writes(path.read_text()))}
    assert set(odd) == NOT_WRITTEN, odd


def test_the_check_sees_json() -> None:
    assert writes("json.dumps(facts)\njson.dump(facts, file)\njson.dumps(facts, allow_nan=True)") == [1, 2, 3]
    assert writes("json.dumps(facts, allow_nan=False)\nto_json(facts)\njson.loads(text)") == []


class Watched:
    """Records what a fake `os` is asked for, and fails where it is told to.

    Args:
        fail: the call that fails, by its number; None for none.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fail: int | None = None, number: int = errno.EIO) -> None:
        self.calls: list[str] = []
        self.fail, self.number = fail, number
        real_open, real_fsync, real_replace, real_close = os.open, os.fsync, os.replace, os.close
        names: dict[int, str] = {}

        def opened(path: Path, flags: int, *rest: object, **named: object) -> int:
            handle = real_open(path, flags, *rest, **named)  # type: ignore[arg-type]
            names[handle] = "folder" if Path(path).is_dir() else "partial" if ".part" in str(path) else "file"
            return handle

        def fsync(handle: int) -> None:
            self.note(f"fsync {names[handle]}")
            real_fsync(handle)

        def replace(source: Path, target: Path) -> None:
            self.note("rename")
            real_replace(source, target)

        monkeypatch.setattr(os, "open", opened)
        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "replace", replace)
        monkeypatch.setattr(os, "close", real_close)

    def note(self, call: str) -> None:
        """Take down a call, and fail if it is the one."""
        self.calls.append(call)
        if len(self.calls) - 1 == self.fail:
            raise OSError(self.number, os.strerror(self.number))


ORDER = ["fsync partial", "rename", "fsync folder"]


def test_the_file_is_flushed_before_it_is_renamed_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(monkeypatch)
    write_atomically(tmp_path / "a.json", "new")
    assert watched.calls == ORDER
    assert (tmp_path / "a.json").read_text() == "new"
    watched.calls.clear()
    tensor_file.write(tmp_path / "a.safetensors", {"a": torch.ones(3)})
    assert watched.calls == ["fsync partial", *ORDER], "flushed, read back, and only then renamed"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("step", range(3), ids=ORDER)
def test_each_failing_step_is_an_error_and_leaves_a_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, number: int
) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    watched = Watched(monkeypatch, step, number)
    with pytest.raises(DiskFault) as told:
        write_atomically(path, "new")
    assert told.value.errno == number
    assert watched.calls == ORDER[: step + 1], "nothing goes on after it"
    assert path.read_text() == ("old" if step < 2 else "new")
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_flushed_is_no_error_where_its_file_system_never_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Watched(monkeypatch, 2, errno.EINVAL)
    write_atomically(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "new"


def test_an_error_at_close_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    tensor_file.write(path, {"a": torch.zeros(3)})
    before = path.read_bytes()
    real = Path.open

    class Failing:
        """A file of a network disk, which says at the end that it could not keep what it was given."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Any:
            return self.file.__enter__()

        def __exit__(self, *error: Any) -> None:
            self.file.__exit__(*error)
            raise OSError(errno.EDQUOT, "Disk quota exceeded")

    def opened(path: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        file = real(path, mode, *rest, **named)
        return Failing(file) if mode == "wb" else file

    monkeypatch.setattr(Path, "open", opened)
    for write in (lambda: tensor_file.write(path, {"a": torch.ones(3)}), lambda: write_atomically(path, "new")):
        with pytest.raises(DiskFault, match="your quota on its disk is used up"):
            write()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_nothing_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with replacing(tmp_path / "a"):
        pass
    assert (tmp_path / "a").read_text() == "old"


DYING = """
import os, sys
from pathlib import Path
from stillsight.encoders.atomic import replacing

with replacing(Path(sys.argv[1])) as partial:
    partial.write_text("half")
    os._exit(9)
"""


def test_what_a_killed_writer_left_is_gone_with_the_next_write(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    assert subprocess.run([sys.executable, "-c", DYING, str(path)]).returncode == 9
    (left,) = tmp_path.iterdir()
    assert is_partial(left)
    assert re.fullmatch(r"\.film\.[0-9a-f]{8}-\d+-\d+\.part\.mp4", left.name)
    write_atomically(tmp_path / "other.json", "{}")
    assert [each.name for each in tmp_path.iterdir()] == ["other.json"]


def test_what_somebody_writes_is_left_alone(tmp_path: Path) -> None:
    with replacing(tmp_path / "mine.json") as partial:
        partial.write_text("half")
        sweep(tmp_path)
        assert partial.exists()
        place = partial.name.split(".")[2].split("-")[0]
        names = {
            "theirs": f".a.{place}-{os.getppid()}-5.part.json",
            "elsewhere": ".a.00000000-1-5.part.json",
            "long ago": ".b.00000000-1-5.part.json",
            "no number": ".a.json",
            "a person's": "notes.part.txt",
            "of a version before": ".config.4194999-5.part.json",
            "of a process of our number": f".c.{place}-{os.getpid()}-5.part.json",
        }
        for name in names.values():
            (tmp_path / name).write_text("")
        os.utime(tmp_path / names["long ago"], (time.time() - 90_000,) * 2)
        os.utime(tmp_path / names["of a process of our number"], (time.time() - 90_000,) * 2)
        sweep(tmp_path)
        kept = {name for name, file in names.items() if (tmp_path / file).exists()}
        assert kept == {"theirs", "elsewhere", "no number", "a person's"}
        sweep(tmp_path, alone=True)
        kept = {name for name, file in names.items() if (tmp_path / file).exists()}
        assert kept == {"no number", "a person's"}
    sweep(tmp_path / "nowhere")
    assert is_partial(tmp_path / f".x.{partial_suffix()}")
