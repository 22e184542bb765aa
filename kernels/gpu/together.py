"""What the threads of a row do together: reductions in a fixed order.

In a block, every thread leaves what it found in the block's memory, and the first warp reduces that while the others
wait: they have next to nothing to do, where shuffles in every warp would take each thread as long as it takes the first
warp's. Of sums and places, nobody but the first warp gets the result, as nobody else needs it.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from .compile import inline
from .memory import Numbers, place_in_block
from .vector import larger

WARP, WARP_BITS = 32, 5
EVERY_LANE = 0xFFFFFFFF
SHARED_FIELDS = 8  # numbers of 8 bytes at the start of a block's memory, from one thread to all

NOWHERE = np.int32(2**31 - 1)  # beyond every place


class Together(NamedTuple):
    """Reductions over the threads of a row: ``2**bits`` lanes of a warp (the last argument), or the block."""

    sums: Any  # (a, b, bits) -> the sums of two numbers
    largest: Any  # (a, bits); for all threads
    smallest_place: Any  # (a, bits), of 32-bit whole numbers
    sum_places: Any  # likewise
    wait: Any  # () until all are here, and see what the others wrote; in a block, between one reduction and the next


def scratch_bytes(threads: int, number_bytes: int) -> int:
    """Bytes at the start of a block's memory for what its threads tell each other."""
    return 8 * SHARED_FIELDS + 2 * threads * number_bytes


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

    number_bytes = numbers.arithmetic.bitwidth // 8

    @inline
    def place(second):
        """Where the thread leaves the first number, or the second."""
        thread = np.int64(cuda.threadIdx.x) + (np.int64(cuda.blockDim.x) if second else 0)
        return place_in_block(8 * SHARED_FIELDS + number_bytes * thread)

    def in_first_warp(combine: Any, kept: Any) -> Any:
        @inline
        def collected(value, second):
            """The reduction of what all threads left; the first warp's own is ``value``."""
            at = place(second)
            for _ in range(1, cuda.blockDim.x >> WARP_BITS):
                at += WARP * number_bytes
                value = combine(value, kept(at))
            for step in range(WARP_BITS):
                value = combine(value, cuda.shfl_xor_sync(EVERY_LANE, value, WARP >> (step + 1)))
            return value

        return collected

    keep, kept, keep_place, kept_place = numbers.keep_one, numbers.kept_one, numbers.keep_place, numbers.kept_place
    collected_sum, collected_largest = in_first_warp(_plus, kept), in_first_warp(larger, kept)

    @inline
    def block_sums(a, b, bits):
        keep(place(False), a)
        keep(place(True), b)
        cuda.syncthreads()
        if cuda.threadIdx.x < WARP:
            a, b = collected_sum(a, False), collected_sum(b, True)
        return a, b

    @inline
    def block_largest(value, bits):
        keep(place(False), value)
        cuda.syncthreads()
        if cuda.threadIdx.x < WARP:
            value = collected_largest(value, False)
            if cuda.threadIdx.x == 0:
                keep(place_in_block(0), value)
        cuda.syncthreads()
        return kept(place_in_block(0))

    def of_places(combine: Any) -> Any:
        collected = in_first_warp(combine, kept_place)

        @inline
        def block_places(value, bits):
            keep_place(place(False), value)
            cuda.syncthreads()
            if cuda.threadIdx.x < WARP:
                value = collected(value, False)
            return value

        return block_places

    @inline
    def wait_for_block():
        cuda.syncthreads()

    return Together(block_sums, block_largest, of_places(_smaller_place), of_places(_plus_places), wait_for_block)
