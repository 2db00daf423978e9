"""Freed memory is used again, where the C library can be told so."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from stillsight.encoders.system.allocator import reuse_freed_memory
if sys.argv[1] == "reuse":
    assert reuse_freed_memory()
def fill():
    return float(torch.full((25_000_000,), 2.0)[-1])  # 100 MB
for _ in range(3):
    fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
assert [fill() for _ in range(4)] == [2.0] * 4
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_a_freed_tensor_s_pages_are_not_asked_for_again() -> None:
    """The failure that this prevents: each of 400 MB is mapped and zeroed once more."""
    pages = 400_000_000 // (2 * 2**20)  # of the largest size that Linux gives unasked
    assert faults("leave") >= pages
    assert faults("reuse") < pages


def faults(how: str) -> int:
    """Pages that a process asked for while it filled four tensors one after the other."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], check=True, capture_output=True, text=True)
    return int(done.stdout)
