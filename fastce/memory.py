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

_LIMIT = int(os.environ.get("FASTCE_SPARE_BYTES") or 1 << 30)  # bytes of a piece that may be kept
_spare: list[mmap.mmap] = []  # what is kept for gradients: one piece

# Gradients and second derivatives come in pairs, of which the C library gives smaller ones back, too. (Boosting 90,000
# rows of 20 classes, float32: 0.8 ms to compute into memory that has been used before, 7.9 ms into new memory.)
PAIRED = 1 << 18  # bytes: from here on
_PIECES = 4  # that are kept of them
_spare_pairs: list[mmap.mmap] = []


class _Memory:
    """The owner of an array's memory: alive as long as the array, or a view of it, is."""

    def __init__(self, mapping: mmap.mmap, spare: list[mmap.mmap], pieces: int) -> None:
        self.mapping, self.spare, self.pieces = mapping, spare, pieces
        self.__array_interface__ = np.frombuffer(mapping, np.uint8).__array_interface__

    def __del__(self, limit: int = _LIMIT) -> None:
        if len(self.mapping) <= limit:
            self.spare[:] = [self.mapping, *self.spare[: self.pieces - 1]]


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Give what `numpy.empty` gives, without the wait."""
    n_bytes = math.prod(shape) * dtype.itemsize
    return np.empty(shape, dtype) if n_bytes < LARGE else _empty(shape, dtype, n_bytes, _spare, 1)


def empty_pair_of(array: Array, dtype: np.dtype[Any]) -> Array:
    """Give what `numpy.empty_like` gives, for one of several arrays of that size that are used together."""
    n_bytes = array.size * dtype.itemsize
    if not array.flags.forc:  # (of a broadcast axis, empty_like would make the innermost)
        return np.empty(array.shape, dtype) if 0 in array.strides else np.empty_like(array, dtype)
    if n_bytes < PAIRED:
        return np.empty_like(array, dtype)
    if array.flags.c_contiguous:
        return _empty(array.shape, dtype, n_bytes, _spare_pairs, _PIECES)
    return _empty(array.shape[::-1], dtype, n_bytes, _spare_pairs, _PIECES).T


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any], n_bytes: int, spare: list[mmap.mmap], pieces: int) -> Array:
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.empty(shape, dtype)
    size = -(-n_bytes // _PAGE) * _PAGE
    mapping = _taken(spare, size)
    if mapping is None:
        if pieces == 1:
            spare.clear()  # (before the new memory is there)
        try:
            mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            mapping.madvise(mmap.MADV_HUGEPAGE, 0, n_bytes // _PAGE * _PAGE)  # (the rest of the last is not written)
        except OSError:
            return np.empty(shape, dtype)
    array: Array = np.asarray(_Memory(mapping, spare, pieces))[:n_bytes].view(dtype).reshape(shape)
    return array


def _taken(spare: list[mmap.mmap], size: int) -> mmap.mmap | None:
    """Take a piece of that size from what is kept, if there is one."""
    for mapping in spare[:]:
        if len(mapping) == size:
            try:
                spare.remove(mapping)
            except ValueError:  # another thread took it
                continue
            return mapping
    return None


def expect_writes(array: Array) -> None:
    """Ask the system for huge pages under an array that somebody else has just allocated, where it is large."""
    if array.nbytes < LARGE or not hasattr(mmap, "MADV_HUGEPAGE") or not array.flags.c_contiguous:
        return
    start = -(-array.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
    size = array.ctypes.data + array.nbytes - start
    ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), mmap.MADV_HUGEPAGE)  # (advice: may fail)
