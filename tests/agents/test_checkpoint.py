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
from stillsight.encoders.errors import DiskFault, MemoryShortError
from stillsight.encoders.weights import tensor_file

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

    def half(tensor: Tensor) -> memoryview:
        del tensor
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tensor_file, "_bytes", half)
    with pytest.raises(DiskFault, match=r"cannot be written: its disk is full\. .* What was written before is kept"):
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
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, 399))
    whole = path.stat().st_size
    assert whole > 400, "the header needs room as well"
    with pytest.raises(DiskFault, match=rf"needs {whole} bytes, and its disk has 399 free\. Make room") as told:
        checkpoint.save(path, {"weight": torch.ones(100)})
    assert told.value.errno == errno.ENOSPC
    assert str(told.value).startswith(f"{path} cannot be written: ")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, whole - 1))
    with pytest.raises(DiskFault, match=rf"needs {whole} bytes"):
        checkpoint.save(path, {"weight": torch.ones(100)})
    assert [file.name for file in path.parent.iterdir()] == ["last.safetensors"]
    assert torch.equal(checkpoint.load(path)["weight"], torch.zeros(100))


def parts(content: bytes) -> dict[str, range]:
    """Where the regions of a tensor file lie."""
    length = int.from_bytes(content[:8], "little")
    metadata = content.index(b'"structure"')
    tensors = content.index(b'"data_offsets"')
    return {
        "length": range(8),
        "hash": range(8 + len(tensor_file.BEGINNING) - 20, 8 + len(tensor_file.BEGINNING) + tensor_file.DIGITS),
        "structure": range(metadata, metadata + 400),
        "header": range(tensors - 60, 8 + length),
        "tensors": range(8 + length, len(content)),
    }


def refused(path: Path) -> bool:
    """Whether a checkpoint is refused by a sentence."""
    try:
        checkpoint.load(path)
    except CheckpointError as error:
        return "is damaged or incomplete" in str(error)
    return False


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tree = example()
    checkpoint.save(path, tree)
    whole = path.read_bytes()
    for region, places in parts(whole).items():
        for place in places:
            for bit in range(8) if region != "tensors" else (0, 7):
                damaged = bytearray(whole)
                damaged[place] ^= 1 << bit
                path.write_bytes(damaged)
                assert refused(path), f"bit {bit} of byte {place} of the {region} was flipped, and it was loaded"


def test_zeros_for_a_tail_and_swapped_tensors_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, {"a": torch.arange(100.0), "b": -torch.arange(100.0)})
    whole = path.read_bytes()
    length = 8 + int.from_bytes(whole[:8], "little")
    # A single flipped bit of a float loads as another number, and zeros as zeros: nothing but the hash can tell.
    zeros = whole[:-100] + bytes(100)
    swapped = whole[:length].replace(b'"a":{"dtype"', b'"?":{"dtype"').replace(b'"b":{"dtype"', b'"a":{"dtype"')
    swapped = swapped.replace(b'"?":{"dtype"', b'"b":{"dtype"') + whole[length:]
    other_values = whole[:length] + whole[length + 400 :] + whole[length : length + 400]
    for damaged in (zeros, swapped, other_values):
        assert len(damaged) == len(whole)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="the sha256 differs"):
            checkpoint.load(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(CheckpointError, match="bytes behind its header"):
        checkpoint.load(path)


def test_a_header_that_lost_its_hash_is_no_file_without_one(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, example())
    whole = path.read_bytes()
    for key in (tensor_file.HASH, tensor_file.CHECKED):
        path.write_bytes(whole.replace(key.encode(), key[:-1].encode() + b"x"))
        with pytest.raises(CheckpointError, match="its header was changed after it was written"):
            checkpoint.load(path)


def test_checkpoints_without_a_hash_load_and_say_so_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import save_file

    checkpoint.save(tmp_path / "new.safetensors", {"weight": torch.arange(3.0)})
    metadata = {"structure": json.dumps({"pairs": [["weight", {"tensor": "weight"}]]})}
    for name in ("best", "last"):
        save_file({"weight": torch.arange(3.0)}, tmp_path / f"{name}.safetensors", metadata)
        assert torch.equal(checkpoint.load(tmp_path / f"{name}.safetensors")["weight"], torch.arange(3.0))
    checkpoint.load(tmp_path / "new.safetensors")
    said = capsys.readouterr().err
    assert said.count("has no hash: what is in it cannot be checked") == 1
    assert f"{tmp_path}/best.safetensors" in said


def header(entries: object, data: bytes = b"") -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


BOMBS = {
    "nested": header({"__metadata__": {"structure": '{"list":[' * 200_000}}),
    "nested structure": header({"__metadata__": {"structure": '{"list":[' * 900 + "]}" * 900}}),
    "nested header": header(b'{"a":' * 200_000),
    "a number in the place of a list": header({"__metadata__": {"structure": '{"pairs": 5}'}}),
    "an unknown kind": header({"__metadata__": {"structure": '{"module": "os"}'}}),
    "two kinds": header({"__metadata__": {"structure": '{"pairs": [], "list": []}'}}),
    "no state": header({"__metadata__": {"structure": '"text"'}}),
    "NaN": header({"__metadata__": {"structure": '{"pairs": [["a", NaN]]}'}}),
    "an unhashable key": header({"__metadata__": {"structure": '{"pairs": [[[1], 2]]}'}}),
    "another type": header({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}, b"0"),
    "a type that is none": header({"a": {"dtype": 7, "shape": [2], "data_offsets": [0, 1]}}, b"0"),
    "a larger shape": header({"a": {"dtype": "U8", "shape": [10**12], "data_offsets": [0, 1]}}, b"0"),
    "a negative shape": header({"a": {"dtype": "U8", "shape": [-1, -1], "data_offsets": [0, 1]}}, b"0"),
    "an empty tensor without end": header({"a": {"dtype": "U8", "shape": [0, 2**62], "data_offsets": [0, 0]}}),
    "overlapping tensors": header(
        {name: {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]} for name in "abc"}, b"00"
    ),
    "a hole": header({"a": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]}}, b"00"),
    "metadata of numbers": header({"__metadata__": {"structure": 5}}),
    "a list": header([1, 2]),
    "no text": header(b"\xff\xfe"),
}


@pytest.mark.parametrize("content", BOMBS.values(), ids=list(BOMBS))
def test_what_no_writer_writes_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged or incomplete"):
        checkpoint.load(tmp_path / "a.safetensors")


def test_one_tensor_named_a_million_times_is_one_tensor(tmp_path: Path) -> None:
    structure = '{"list":[' + ",".join(['{"tensor":"a"}'] * 1_000_000) + "]}"
    entry = {"dtype": "U8", "shape": [2**20], "data_offsets": [0, 2**20]}
    metadata = {"structure": f'{{"pairs":[["all",{structure}]]}}'}
    path = tmp_path / "a.safetensors"
    path.write_bytes(header({"__metadata__": metadata, "a": entry}, bytes(2**20)))
    with pytest.raises(CheckpointError, match=r"its header has .* bytes, and .* are the most"):
        checkpoint.load(path)
    metadata = {"structure": metadata["structure"].replace(',{"tensor":"a"}' * 900_000, "")}
    path.write_bytes(header({"__metadata__": metadata, "a": entry}, bytes(2**20)))
    everywhere = checkpoint.load(path)["all"]
    assert len(everywhere) == 100_000
    assert len({tensor.data_ptr() for tensor in everywhere}) == 1


def test_a_file_of_holes_is_refused_before_memory_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 2**42  # four terabytes, which take no room on the disk
    content = header({"a": {"dtype": "U8", "shape": [2**21, 2**21], "data_offsets": [0, size]}})
    path = tmp_path / "a.safetensors"
    with path.open("wb") as file:
        file.write(content)
        file.truncate(len(content) + size)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: pytest.fail("memory was taken"))
    with pytest.raises(MemoryShortError, match=r"it holds 4,398,046,511,104 bytes, and [\d,]+ of memory are free"):
        checkpoint.load(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="it is no file"):
        checkpoint.load(tmp_path / "a.safetensors")


def bits(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Type, shape and bytes of each tensor."""
    return {
        name: (tensor.dtype, tensor.shape, tensor.reshape(-1).view(torch.uint8).tolist() if tensor.numel() else [])
        for name, tensor in tensors.items()
    }


def test_other_programs_read_what_is_written_and_it_reads_theirs(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    kinds = [kind for kind in tensor_file.KINDS.values() if kind is not torch.complex64]
    tensors = {str(kind): torch.arange(12).view(3, 4).to(kind) for kind in kinds}
    tensors |= {"view": torch.arange(12.0).view(3, 4).T, "one": torch.tensor(2.5), "none": torch.zeros(0, 3)}
    tensor_file.write(tmp_path / "a.safetensors", tensors, {"licence": "MIT"})
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata()["licence"] == "MIT"
        assert bits({name: file.get_tensor(name) for name in tensors}) == bits(tensors)
    found = tensor_file.read(tmp_path / "a.safetensors")
    assert bits(found.tensors) == bits(tensors)
    assert found.metadata == {"licence": "MIT"}
    assert found.sha256 is not None
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "b.safetensors", {"a": "b"})
    stock = tensor_file.read(tmp_path / "b.safetensors")
    assert bits(stock.tensors) == bits(tensors)
    assert (stock.metadata, stock.sha256) == ({"a": "b"}, None)


def test_what_the_disk_does_not_give_back_never_takes_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run" / "checkpoints" / "last.safetensors"
    checkpoint.save(path, {"weight": torch.zeros(100)})
    before = path.read_bytes()
    real = tensor_file.sync

    def failing(written: Path) -> None:
        real(written)
        with written.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"x")

    monkeypatch.setattr(tensor_file, "sync", failing)
    with pytest.raises(DiskFault, match=r"does not lie on its disk as it was written .*the sha256 differs"):
        checkpoint.save(path, {"weight": torch.ones(100)})
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["last.safetensors"]
