"""What the threads of a row do together: reductions of which each of them gets the result, in a fixed order."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from .compile import inline
from .memory import Numbers
from .vector import larger

WARP, WARP_BITS = 32, 5
EVERY_LANE = 0xFFFFFFFF
FIELD_BYTES = 8 * WARP  # a number of 8 bytes at most for each of the 32 warps that a block may have
SCRATCH_BYTES = 2 * FIELD_BYTES  # at the start of a block's memory


class Together(NamedTuple):
    """Reductions over the threads of a row. The last argument: ``2**bits`` lanes of a warp share it (not for blocks)."""

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

    lanes_sum, lanes_largest, lanes_smallest = among_lanes(_plus), among_lanes(larger), among_lanes(_smaller_place)
    lanes_sum_places = among_lanes(_plus_places)
    if not block:

        @inline
        def sums(a, b, bits):
            return lanes_sum(a, bits), lanes_sum(b, bits)

        @inline
        def wait():
            cuda.syncwarp()

        return Together(sums, lanes_largest, lanes_smallest, lanes_sum_places, wait)

    @inline
    def of_warps(thread):
        """Which warp's number a lane reads: there are a power of two of them, and lanes beyond read them again."""
        return 8 * (thread & ((cuda.blockDim.x >> WARP_BITS) - 1))

    @inline
    def block_sums(a, b, bits):
        a, b = lanes_sum(a, WARP_BITS), lanes_sum(b, WARP_BITS)
        thread = cuda.threadIdx.x
        cuda.syncthreads()  # what the last reduction left has been read
        if thread & (WARP - 1) == 0:
            keep_one(8 * (thread >> WARP_BITS), a)
            keep_one(FIELD_BYTES + 8 * (thread >> WARP_BITS), b)
        cuda.syncthreads()
        a, b = kept_one(of_warps(thread)), kept_one(FIELD_BYTES + of_warps(thread))
        return lanes_sum(a, warp_bits()), lanes_sum(b, warp_bits())

    @inline
    def warp_bits():
        return 31 - cuda.clz(np.int32(cuda.blockDim.x >> WARP_BITS))

    @inline
    def block_largest(value, bits):
        value = lanes_largest(value, WARP_BITS)
        thread = cuda.threadIdx.x
        cuda.syncthreads()
        if thread & (WARP - 1) == 0:
            keep_one(8 * (thread >> WARP_BITS), value)
        cuda.syncthreads()
        return lanes_largest(kept_one(of_warps(thread)), warp_bits())

    def of_places(in_warp: Any) -> Any:
        @inline
        def block_places(value, bits):
            value = in_warp(value, WARP_BITS)
            thread = cuda.threadIdx.x
            cuda.syncthreads()
            if thread & (WARP - 1) == 0:
                keep_place(8 * (thread >> WARP_BITS), value)
            cuda.syncthreads()
            return in_warp(kept_place(of_warps(thread)), warp_bits())

        return block_places

    @inline
    def wait_for_block():
        cuda.syncthreads()

    return Together(
        block_sums, block_largest, of_places(lanes_smallest), of_places(lanes_sum_places), wait_for_block
    )
