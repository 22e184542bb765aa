"""What the threads of a row do together: reductions of which each of them gets the result, in a fixed order."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import cuda
from numba.cuda import types

from .compile import inline
from .memory import Numbers, place_in_block
from .vector import larger

WARP, WARP_BITS = 32, 5
EVERY_LANE = 0xFFFFFFFF
MOST_WARPS, MOST_WARP_BITS = 16, 4  # of a block
FIELD_BYTES = 8 * MOST_WARPS  # a number of 8 bytes at most for each
SCRATCH_BYTES = 2 * FIELD_BYTES  # at the start of a block's memory


NOWHERE = np.int32(2**31 - 1)  # beyond every place


class Together(NamedTuple):
    """Reductions over the threads of a row: ``2**bits`` lanes of a warp (the last argument), or the block."""

    sums: Any  # (a, b, bits) -> the sums of two numbers
    largest: Any  # (a, bits)
    smallest_place: Any  # (a, bits), of 32-bit whole numbers
    sum_places: Any  # likewise
    wait: Any  # () until all are here, and see what the others wrote


@inline
def _plus(a, b):
    return a + b


@inline
def _plus_places(a, b):
    return np.int32(a + b)


@inline
def _smaller_place(a, b):
    return np.int32(min(a, b))


@cache
def together(numbers: Numbers, block: bool) -> Together:
    """The reductions within blocks, or within parts of a warp."""
    keep_one, kept_one, keep_place, kept_place = (
        numbers.keep_one, numbers.kept_one, numbers.keep_place, numbers.kept_place,
    )  # fmt: skip

    def among_lanes(combine: Any) -> Any:
        @inline
        def reduced(value, bits):
            distance = (1 << bits) >> 1
            while distance > 0:  # both of a pair compute the same
                value = combine(value, cuda.shfl_xor_sync(EVERY_LANE, value, distance))
                distance >>= 1
            return value

        return reduced

    if not block:
        lanes_sum = among_lanes(_plus)

        @inline
        def sums(a, b, bits):
            return lanes_sum(a, bits), lanes_sum(b, bits)

        @inline
        def wait():
            cuda.syncwarp()

        return Together(sums, among_lanes(larger), among_lanes(_smaller_place), among_lanes(_plus_places), wait)

    def of_block(combine: Any, neutral: Any, keep: Any, kept: Any) -> tuple[Any, Any]:
        """Within a warp, what its first lane leaves; and all warps' of that."""

        @inline
        def leave(value, field):
            for step in range(WARP_BITS):
                value = combine(value, cuda.shfl_xor_sync(EVERY_LANE, value, WARP >> (step + 1)))
            thread = cuda.threadIdx.x
            if thread & (WARP - 1) == 0:
                keep(place_in_block(field + 8 * (thread >> WARP_BITS)), value)

        @inline
        def collect(field):
            lane = cuda.threadIdx.x & (MOST_WARPS - 1)  # the upper half of a warp does the same as the lower
            value = neutral
            if lane < cuda.blockDim.x >> WARP_BITS:
                value = kept(place_in_block(field + 8 * lane))
            for step in range(MOST_WARP_BITS):
                value = combine(value, cuda.shfl_xor_sync(EVERY_LANE, value, MOST_WARPS >> (step + 1)))
            return value

        return leave, collect

    number = np.float64 if numbers.arithmetic == types.float64 else np.float32
    leave_sum, collect_sum = of_block(_plus, number(0.0), keep_one, kept_one)
    leave_largest, collect_largest = of_block(larger, number(-np.inf), keep_one, kept_one)

    @inline
    def block_sums(a, b, bits):
        cuda.syncthreads()  # what the last reduction left has been read
        leave_sum(a, 0)
        leave_sum(b, FIELD_BYTES)
        cuda.syncthreads()
        return collect_sum(0), collect_sum(FIELD_BYTES)

    @inline
    def block_largest(value, bits):
        cuda.syncthreads()
        leave_largest(value, 0)
        cuda.syncthreads()
        return collect_largest(0)

    def of_places(combine: Any, neutral: Any) -> Any:
        leave, collect = of_block(combine, neutral, keep_place, kept_place)

        @inline
        def block_places(value, bits):
            cuda.syncthreads()
            leave(value, 0)
            cuda.syncthreads()
            return collect(0)

        return block_places

    @inline
    def wait_for_block():
        cuda.syncthreads()

    smallest, sum_places = of_places(_smaller_place, NOWHERE), of_places(_plus_places, np.int32(0))
    return Together(block_sums, block_largest, smallest, sum_places, wait_for_block)
