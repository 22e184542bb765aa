"""Memory for large results: to get it from the system takes longer than to compute what is written there.

The system fills a new page with zeros when it is first written. A gradient of 131 MB takes 10 ms to compute into memory
that has been used before, and 32 ms into new memory (two cores, Linux; up to 32 MiB, the C library keeps what is
given back to it). So the memory of the last large result is kept, when nobody uses it any more, for the next one of
that size: as in a training loop.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
from typing import Any

import numpy as np

from .kernels.task import Array

LARGE = 32 << 20  # bytes: from here on, the C library gives memory back to the system at once
_PAGE = 2 << 20  # bytes of a huge page, of which the system has to find and clear fewer

# What may be kept: one piece, of at most so many bytes.
_LIMIT = int(os.environ.get("FASTCE_SPARE_BYTES") or 1 << 30)
_spare: list[mmap.mmap] = []


class _Memory:
    """The owner of an array's memory: alive as long as the array, or a view of it, is."""

    def __init__(self, mapping: mmap.mmap) -> None:
        self.mapping = mapping
        self.__array_interface__ = np.frombuffer(mapping, np.uint8).__array_interface__

    def __del__(self, spare: list[mmap.mmap] = _spare, limit: int = _LIMIT) -> None:
        if len(self.mapping) <= limit:
            spare[:] = [self.mapping]


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Give what `numpy.empty` gives, without the wait."""
    n_bytes = math.prod(shape) * dtype.itemsize
    if n_bytes < LARGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.empty(shape, dtype)
    size = -(-n_bytes // _PAGE) * _PAGE
    try:
        mapping = _spare.pop()
    except IndexError:
        mapping = None
    if mapping is None or len(mapping) != size:
        del mapping  # (before the new memory is there)
        try:
            mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            mapping.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            return np.empty(shape, dtype)
    array: Array = np.asarray(_Memory(mapping))[:n_bytes].view(dtype).reshape(shape)
    return array


def expect_writes(array: Array) -> None:
    """Ask the system for huge pages under an array that somebody else has just allocated, where it is large."""
    if array.nbytes < LARGE or not hasattr(mmap, "MADV_HUGEPAGE") or not array.flags.c_contiguous:
        return
    start = -(-array.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
    size = array.ctypes.data + array.nbytes - start
    ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), mmap.MADV_HUGEPAGE)  # (advice: may fail)
