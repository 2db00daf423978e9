"""Checkpoint files: everything comes back as it went in, written at once or not at all, and nothing is executed."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from stillsight.agents.errors import CheckpointError, RunError
from stillsight.agents.runs import checkpoint
from stillsight.encoders.errors import DiskFault

Same = Callable[[Any, Any], bool]


def example() -> dict[str, Any]:
    shared = torch.arange(6, dtype=torch.float32).view(2, 3)
    return {
        "policy": {"weight": shared, "twin": shared, "bias": torch.tensor([1.5, -2.5])},
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2)}, 7: {}},
            "groups": [{"lr": 0.1}],
        },
        "nothing": None,
        "numbers": [1, 2.5, True, float("-inf"), 2**70, ""],
        "pair": (1, (2, 3)),
        "empty": {"list": [], "tensor": torch.zeros(0, 3)},
        "kinds": [torch.tensor([0, 1]).to(kind) for kind in (torch.bool, torch.uint8, torch.int64, torch.bfloat16)],
        "view": torch.arange(12).view(3, 4).T,
    }


def test_nested_state_comes_back(tmp_path: Path, same: Same) -> None:
    tree = example()
    checkpoint.save(tmp_path / "a.safetensors", tree)
    assert same(tree, checkpoint.load(tmp_path / "a.safetensors"))


plain_values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
tensors = st.builds(
    lambda values, kind: torch.tensor(values, dtype=torch.float32).to(kind),
    st.lists(st.floats(-100, 100), max_size=4),
    st.sampled_from([torch.float32, torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool]),
)
keys = st.integers(0, 9) | st.text("abc./", max_size=3)
trees = st.recursive(
    plain_values | tensors,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
)


@settings(deadline=None, max_examples=80)
@given(tree=st.dictionaries(keys, trees, max_size=4))
def test_any_nested_state_comes_back(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[Any, Any], same: Same
) -> None:
    path = tmp_path_factory.mktemp("tree") / "a.safetensors"
    checkpoint.save(path, tree)
    assert same(tree, checkpoint.load(path))


def test_keys_that_look_like_paths_do_not_collide(tmp_path: Path, same: Same) -> None:
    # Nested keys are joined with "/" to name tensors in the file.
    tree = {"a/b": torch.tensor([1.0]), "a": {"b": torch.tensor([2.0])}, "c": {1: torch.ones(1), "1": torch.zeros(1)}}
    checkpoint.save(tmp_path / "a.safetensors", tree)
    assert same(tree, checkpoint.load(tmp_path / "a.safetensors"))


def test_a_tensor_under_several_names_is_written_once(tmp_path: Path, same: Same) -> None:
    big = torch.randn(1000, 100)
    checkpoint.save(tmp_path / "a.safetensors", {"features": big, "pi": {"features": big}, "vf": [big]})
    assert (tmp_path / "a.safetensors").stat().st_size < 1.1 * big.nbytes
    loaded = checkpoint.load(tmp_path / "a.safetensors")
    assert same(loaded["pi"]["features"], big)
    assert same(loaded["vf"][0], big)


def test_a_part_of_a_tensor_is_not_taken_for_the_whole(tmp_path: Path, same: Same) -> None:
    whole = torch.arange(4.0)
    tree = {
        "whole": whole,
        "first": whole[:2],
        "row": whole.view(1, 4),
        "stride": whole[::2],
        "bits": whole.view(torch.int32),
    }
    checkpoint.save(tmp_path / "a.safetensors", tree)
    assert same(tree, checkpoint.load(tmp_path / "a.safetensors"))


def test_a_flat_dict_of_tensors_is_a_file_that_other_programs_read(tmp_path: Path, same: Same) -> None:
    state = {"layer.weight": torch.ones(2, 2), "layer.bias": torch.zeros(2)}
    checkpoint.save(tmp_path / "a.safetensors", state, {"license": "MIT"})
    assert same(dict(sorted(state.items())), dict(sorted(load_file(tmp_path / "a.safetensors").items())))
    with safe_open(str(tmp_path / "a.safetensors"), "pt") as file:
        assert file.metadata()["license"] == "MIT"


def test_what_is_no_plain_value_is_refused_and_named(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, {"old": 1})
    with pytest.raises(TypeError, match=r"deep/\[1\] holds a object"):
        checkpoint.save(path, {"deep": [1, object()]})
    assert checkpoint.load(path) == {"old": 1}


def test_a_failure_in_the_middle_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, example())
    before = path.read_bytes()

    def half(tensors: dict[str, Tensor], target: Path, header: dict[str, str]) -> None:
        del tensors, header
        Path(target).write_bytes(before[: len(before) // 2])
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", half)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, {"new": torch.ones(3)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path], "no part of a file is left behind"


def test_every_truncation_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, example())
    whole = path.read_bytes()
    for length in (0, 4, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"a\.safetensors is damaged or incomplete .*Nothing was changed"):
            checkpoint.load(path)


@pytest.mark.parametrize(
    "content",
    [b"not a checkpoint", os.urandom(500), pickle.dumps({"a": 1}), b"\xff" * 64],
    ids=["text", "noise", "pickle", "ones"],
)
def test_garbage_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged or incomplete"):
        checkpoint.load(tmp_path / "a.safetensors")


def test_a_safetensors_file_of_somebody_else_is_a_sentence(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.ones(2)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError):
        checkpoint.load(tmp_path / "a.safetensors")
    save_file({"weight": torch.ones(2)}, tmp_path / "b.safetensors", {"structure": json.dumps({"tensor": "gone"})})
    with pytest.raises(CheckpointError):
        checkpoint.load(tmp_path / "b.safetensors")


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"There is no checkpoint .*gone\.safetensors"):
        checkpoint.load(tmp_path / "gone.safetensors")
    assert issubclass(CheckpointError, RunError)


def test_nothing_in_the_file_is_pickled(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.safetensors", example())
    content = (tmp_path / "a.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    structure = json.loads(header.pop("__metadata__")["structure"])
    assert structure["pairs"][0][0] == "policy"
    # What is not JSON is the raw bytes of tensors, end to end.
    assert (
        sum(entry["data_offsets"][1] - entry["data_offsets"][0] for entry in header.values())
        == len(content) - 8 - length
    )
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads(content)


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run" / "checkpoints" / "last.safetensors"
    checkpoint.save(path, {"weight": torch.zeros(100)})
    usage = namedtuple("usage", "total used free")
    header = path.stat().st_size - 400
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, 400 + header // 2))  # the numbers, and no header
    with pytest.raises(
        DiskFault, match=rf"needs (\d+) bytes, and its disk has {400 + header // 2} free\. Make room"
    ) as told:
        checkpoint.save(path, {"weight": torch.ones(100)})
    assert told.value.errno == errno.ENOSPC
    assert str(told.value).startswith(f"{path} cannot be written: ")
    assert [file.name for file in path.parent.iterdir()] == ["last.safetensors"]
    assert torch.equal(checkpoint.load(path)["weight"], torch.zeros(100))
