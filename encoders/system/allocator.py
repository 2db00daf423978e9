"""The C library's allocator: memory that is freed stays at hand for the next tensor."""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h
LARGEST = 2**30
"""Bytes up to which a piece of memory is used again; what is larger, say a replay memory, is asked of the system, and
takes room only where it is written."""


def reuse_freed_memory() -> bool:
    """Let freed memory be used again by this process instead of giving it back to the system, where glibc is.

    By itself glibc gives back every piece above 32 MB as it is freed, and each page that is asked for anew is zeroed
    and mapped at its first touch (mallopt(3)). An update through a network on a CPU frees and asks for many such
    pieces, which is why PyTorch's tuning guide advises another allocator there. Results are the same to the bit.

    Returns:
        Whether the C library took it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    return bool(mallopt(MMAP_THRESHOLD, LARGEST)) and bool(mallopt(TRIM_THRESHOLD, 2**31 - 1))
