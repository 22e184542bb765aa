"""Distances of rows from the first one, for arrays in which no single step leads from row to row."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import cuda
from numba.cuda import types

from .kernels import Kernel
from .memory import numbers_at

THREADS = 256

_load, _store = numbers_at(types.int64)


class Layout(NamedTuple):
    """Add, or with ``start`` write, what one axis contributes to the offsets of ``n_rows`` rows."""

    offsets: int  # address of 64-bit whole numbers
    n_rows: int
    inner: int  # rows that follow each other before the index on this axis grows
    length: int
    stride: int
    start: int


SIGNATURE = types.void(types.NamedTuple([types.int64] * len(Layout._fields), Layout))


def _lay_out(call: Layout) -> None:
    i = np.int64(cuda.blockIdx.x) * THREADS + np.int64(cuda.threadIdx.x)
    if i < call.n_rows:
        at = call.offsets + 8 * i
        before = np.int64(0) if call.start != 0 else _load(at)
        _store(at, before + i // call.inner % call.length * call.stride)


def kernel() -> Kernel:
    """Give the kernel."""
    return Kernel("layout", _lay_out, SIGNATURE, THREADS)


def merged_axes(shape: tuple[int, ...], strides: tuple[int, ...]) -> list[tuple[int, int]]:
    """(length, stride) of the fewest axes that lead through the same places in the same order."""
    axes: list[tuple[int, int]] = []
    for length, stride in zip(shape, strides, strict=True):
        if length == 1:
            continue
        if axes and axes[-1][1] == length * stride:
            axes[-1] = axes[-1][0] * length, stride
        else:
            axes.append((length, stride))
    return axes
