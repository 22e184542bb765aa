"""Numbers in place by a factor that only the GPU knows; where it is 1, nothing is read and nothing written."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import cuda
from numba.cuda import types

from .kernels import Kernel
from .memory import numbers as numbers_of
from .memory import numbers_at

THREADS = 256
BLOCKS_A_MULTIPROCESSOR = 8  # all the threads it takes


class Scale(NamedTuple):
    """The first of ``n`` numbers that lie next to each other, and the factor, of the arithmetic type."""

    values: int
    n: int
    factor: int


SIGNATURE = types.void(types.NamedTuple([types.int64] * len(Scale._fields), Scale))


def _scale(dtype: str, pairs: bool) -> Callable[[Scale], None]:
    numbers = numbers_of(dtype, pairs)
    item, load_one, store_one = numbers.item, numbers.load_one, numbers.store_one
    load_factor, _ = numbers_at(numbers.arithmetic)

    def kernel(call: Scale) -> None:
        factor = load_factor(call.factor)
        if factor == 1:
            return
        i = np.int64(cuda.blockIdx.x) * THREADS + np.int64(cuda.threadIdx.x)
        step = np.int64(cuda.gridDim.x) * THREADS
        while i < call.n:
            at = call.values + item * i
            store_one(at, load_one(at) * factor)
            i += step

    return kernel


@cache
def kernel(dtype: str, pairs: bool = True) -> Kernel:
    """Give the kernel for numbers of a type; ``pairs``: as in ``kernels.kernel``."""
    return Kernel(f"scale {dtype} {'pairs' if pairs else 'singles'}", _scale(dtype, pairs), SIGNATURE, THREADS)


def scale(values: Any, factor: Any) -> None:
    """Multiply a C-contiguous array by the one number of another, of the arithmetic type."""
    from .run import address, current_device, launch  # which import CuPy; the kernel compiles without

    device = current_device()
    blocks = min(-(-values.size // THREADS), BLOCKS_A_MULTIPROCESSOR * device.multiprocessors)
    call = Scale(address(values), values.size, address(factor))
    pairs = values.itemsize > 2 or device.capability >= (8, 0)
    launch(kernel(values.dtype.name, pairs), (blocks, 1), THREADS, 0, call)
