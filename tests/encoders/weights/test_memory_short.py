"""A file that memory has no room for is told as that: it is called damaged nowhere, and nothing of it is removed."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from stillsight.encoders import ENCODERS, EncoderError, build
from stillsight.encoders.errors import DamagedFileError, MemoryShortError, out_of_memory
from stillsight.encoders.supervised.heads import kinds
from stillsight.encoders.weights import tensor_file, weights_file
from stillsight.encoders.weights.first_use import note
from stillsight.encoders.weights.published import torch_cache
from stillsight.encoders.weights.sources import find

TIMM = replace(ENCODERS["resnet18"], name="eyes", weights="timm:resnet18.a1_in1k", licence="apache-2.0")
ADDRESS = "/timm/resnet18.a1_in1k/resolve/main/model.safetensors"
REFUSED = (
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
)


def leave(patch: pytest.MonkeyPatch, free: int) -> None:
    """Let the machine have so many bytes of memory left."""
    for module in (tensor_file, weights_file):
        patch.setattr(module, "available_memory", lambda: free)


def short(path: Path, **how: Any) -> str:
    """What is said of a file that memory has no room for."""
    with pytest.raises(MemoryShortError) as told:
        weights_file.read(path, **how)
    assert not isinstance(told.value, DamagedFileError)
    assert str(told.value).startswith(f"{path} was not read, and is kept as it is: ")
    assert "damaged" not in str(told.value)
    return told.value.reason


@pytest.mark.parametrize("told", [True, False], ids=["hash by the server", "no hash"])
def test_a_download_that_memory_has_no_room_for_is_kept(
    server: Any, bare: Path, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    save_file({"which": torch.ones(1)}, bare / "served")
    content = (bare / "served").read_bytes()
    server.files[ADDRESS] = content
    sha256 = hashlib.sha256(content).hexdigest()
    if told:
        server.redirects[ADDRESS] = "/elsewhere", {"X-Linked-Etag": f'"{sha256}"'}
        server.files["/elsewhere"] = content
    file = torch_cache() / "resnet18.a1_in1k.safetensors"
    with monkeypatch.context() as patch:
        leave(patch, 3)
        for _ in range(2):  # once it has come, and once it lies there
            with pytest.raises(MemoryShortError, match="it holds 4 bytes, and 3 of memory are free") as refused:
                find(TIMM)
            assert "damaged" not in str(refused.value)
            assert "not kept" not in str(refused.value)
            assert file.read_bytes() == content
    asked = len(server.asked)
    assert note(file).read_text().startswith(sha256), "it is known again"
    found = find(TIMM)
    assert (found.provenance.kind, found.provenance.sha256) == ("cache", sha256)
    assert len(server.asked) == asked, "it was not asked for again"


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_a_users_file_that_memory_has_no_room_for_is_not_called_damaged(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"eyes.{ending}"
    state = {"which": torch.ones(100)}
    save_file(state, path) if ending == "safetensors" else torch.save(state, path)
    content = path.read_bytes()
    needed = 400 if ending == "safetensors" else len(content)
    leave(monkeypatch, needed - 1)
    assert f"{needed:,} bytes, and {needed - 1:,} of memory are free" in short(path)
    with pytest.raises(MemoryShortError, match="was not read, and is kept as it is"):
        build("resnet18", weights=path, device="cpu")
    assert path.read_bytes() == content
    leave(monkeypatch, needed)
    assert torch.equal(weights_file.read(path)["which"], torch.ones(100))


def test_memory_that_is_refused_while_a_tensor_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "eyes.safetensors"
    tensor_file.write(path, {"which": torch.ones(100)})

    def fails(error: Exception) -> Any:
        def instead(*_: object, **__: object) -> Tensor:
            raise error

        return instead

    for error in (RuntimeError(f"{REFUSED} 400 bytes."), MemoryError()):
        with monkeypatch.context() as patch:
            patch.setattr(torch, "empty", fails(error))
            assert short(path) == "it holds 400 bytes, and the memory of this machine has no room for them"
    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "to", fails(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 400 bytes.")))
        with pytest.raises(MemoryShortError, match="holds 400 bytes, and the memory of cuda:1 has no room for them"):
            tensor_file.read(path, "cuda:1")
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", fails(RuntimeError("another matter")))
        with pytest.raises(RuntimeError, match="another matter"):
            tensor_file.read(path)


def test_memory_that_is_refused_while_a_torch_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor of a sound file takes no more than the file has; a damaged one may name any number."""
    path = tmp_path / "eyes.pth"
    torch.save({"which": torch.ones(100)}, path)

    def refuse(error: Exception) -> None:
        def instead(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(torch, "load", instead)

    for error in (RuntimeError(f"{REFUSED} 400 bytes. Error code 12"), MemoryError()):
        refuse(error)
        assert short(path) == f"it has {path.stat().st_size:,} bytes, and memory has no room for them"
    refuse(RuntimeError(f"{REFUSED} 400000 bytes. Error code 12"))
    with pytest.raises(EncoderError, match="is damaged or incomplete"):
        weights_file.read(path)


def test_a_head_that_memory_has_no_room_for_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "head.safetensors"
    tensor_file.write(path, {"weight": torch.ones(2, 3), "bias": torch.ones(2)}, {"head": "linear"})
    leave(monkeypatch, 31)
    with pytest.raises(MemoryShortError, match="it holds 32 bytes, and 31 of memory are free") as told:
        kinds.read(path)
    assert "Train" not in str(told.value)
    leave(monkeypatch, 32)
    kinds.read(path)


def test_which_errors_say_that_memory_is_short() -> None:
    assert out_of_memory(MemoryError())
    assert out_of_memory(RuntimeError(f"{REFUSED} 8 bytes."))
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert out_of_memory(RuntimeError("MPS backend out of memory"))
    assert not out_of_memory(RuntimeError("shape mismatch"))
    assert not out_of_memory(ValueError("out of memory"))
