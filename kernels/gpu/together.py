"""What the threads of a row do together: reductions in a fixed order.

In a block, every thread leaves what it found in the block's memory, and the first warp reduces it while the others
wait: shuffles in every warp would be as many instructions for each. Nobody but the first warp knows the result.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import cuda
from numba.cuda import types

from .compile import inline
from .memory import Numbers, place_in_block
from .vector import exchanged_near_word, exchanged_word, larger, moved

WARP, WARP_BITS = 32, 5
EVERY_LANE = 0xFFFFFFFF
SHARED_FIELDS = 8  # numbers of 8 bytes at the start of a block's memory, from one thread to all

NOWHERE = np.int32(2**31 - 1)  # beyond every place


class AllThreads(NamedTuple):
    """Reductions whose result all threads of a row know: in a block, at the price of shuffles in every warp.

    Each has memory of its own, so that one may follow the other at once.
    """

    largest: Any  # (a, bits)
    sums: Any  # (a, b, bits)


class Together(NamedTuple):
    """Reductions over the threads of a row: ``2**bits`` lanes of a warp, or the block, for its first warp."""

    sums: Any  # (a, b, bits) -> the sums of two numbers; ``bits`` is of no meaning in a block
    largest: Any  # (a, bits)
    smallest_place: Any  # (a, bits), of 32-bit whole numbers
    sum_places: Any  # likewise
    wait: Any  # () until all are here and see what the others wrote; a block has to, from one reduction to the next
    all_threads: AllThreads


def scratch_bytes(threads: int, number_bytes: int) -> int:
    """Bytes at the start of a block's memory for what its threads tell each other."""
    return 8 * SHARED_FIELDS + max(2 * threads, 3 * WARP) * number_bytes


@inline
def _plus(a, b):
    return a + b


@inline
def _plus_two(a, b):
    return a[0] + b[0], a[1] + b[1]


@inline
def _plus_places(a, b):
    return np.int32(a + b)


@inline
def _smaller_place(a, b):
    return np.int32(min(a, b))


@cache
def exchange_of(element: Any, near: bool = False) -> Any:
    """The function that gives a lane another one's number: (number, distance); ``near``: the distance is a constant."""
    if element != types.float64:
        return exchanged_near_word if near else exchanged_word

    @inline
    def exchanged(value, distance):
        return cuda.shfl_xor_sync(EVERY_LANE, value, distance)

    return exchanged


@cache
def together(numbers: Numbers, block: bool) -> Together:
    """The reductions within blocks, or within parts of a warp."""

    def among_lanes(combine: Any, element: Any = numbers.arithmetic) -> Any:
        exchanged = exchange_of(element)

        @inline
        def reduced(value, bits):
            distance = np.int32(1 << bits) >> 1
            while distance > 0:  # both of a pair compute the same
                value = combine(value, exchanged(value, distance))
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

        smallest, sum_places = among_lanes(_smaller_place, types.int32), among_lanes(_plus_places, types.int32)
        lanes_largest = among_lanes(larger)
        return Together(sums, lanes_largest, smallest, sum_places, wait, AllThreads(lanes_largest, sums))

    def in_first_warp(bytes_: int, combine: Any, exchanged: Any, keep: Any, kept: Any) -> Any:
        @inline
        def reduced(value):
            thread = np.int64(cuda.threadIdx.x)
            at = place_in_block(8 * SHARED_FIELDS + bytes_ * thread)
            keep(at, value)
            cuda.syncthreads()
            if thread < WARP:
                at += WARP * bytes_
                end = place_in_block(8 * SHARED_FIELDS + bytes_ * np.int64(cuda.blockDim.x))
                while at < end:
                    value = combine(value, kept(at))
                    at = moved(at, WARP * bytes_)
                value = combine(value, exchanged(value, 16))
                value = combine(value, exchanged(value, 8))
                value = combine(value, exchanged(value, 4))
                value = combine(value, exchanged(value, 2))
                value = combine(value, exchanged(value, 1))
            return value

        return reduced

    item, number_exchanged = numbers.arithmetic.bitwidth // 8, exchange_of(numbers.arithmetic, near=True)

    @inline
    def two_exchanged(two, distance):
        return number_exchanged(two[0], distance), number_exchanged(two[1], distance)

    sum_of_two = in_first_warp(2 * item, _plus_two, two_exchanged, numbers.keep_two, numbers.kept_two)
    largest_of_block = in_first_warp(item, larger, number_exchanged, numbers.keep_one, numbers.kept_one)

    def in_every_warp(first: int, bytes_: int, combine: Any, exchanged: Any, keep: Any, kept: Any, nothing: Any) -> Any:
        @inline
        def in_warp(value):
            value = combine(value, exchanged(value, 16))
            value = combine(value, exchanged(value, 8))
            value = combine(value, exchanged(value, 4))
            value = combine(value, exchanged(value, 2))
            return combine(value, exchanged(value, 1))

        @inline
        def reduced(value):
            thread = np.int64(cuda.threadIdx.x)
            lane, at = thread & (WARP - 1), place_in_block(8 * SHARED_FIELDS + first)
            value = in_warp(value)
            if lane == 0:
                keep(at + bytes_ * (thread >> WARP_BITS), value)
            cuda.syncthreads()
            value = nothing
            if lane < np.int64(cuda.blockDim.x) >> WARP_BITS:
                value = kept(at + bytes_ * lane)
            return in_warp(value)

        return reduced

    number = np.float64 if item == 8 else np.float32
    zero = number(0.0)
    largest_of_all = in_every_warp(
        0, item, larger, number_exchanged, numbers.keep_one, numbers.kept_one, number(-np.inf)
    )
    sums_of_all = in_every_warp(
        WARP * item, 2 * item, _plus_two, two_exchanged, numbers.keep_two, numbers.kept_two, (zero, zero)
    )

    @inline
    def largest_known_to_all(a, bits):
        return largest_of_all(a)

    @inline
    def sums_known_to_all(a, b, bits):
        return sums_of_all((a, b))

    def of_places(combine: Any) -> Any:
        reduced = in_first_warp(4, combine, exchange_of(types.int32, near=True), numbers.keep_place, numbers.kept_place)

        @inline
        def places_of_block(value, bits):
            return reduced(value)

        return places_of_block

    @inline
    def block_sums(a, b, bits):
        return sum_of_two((a, b))

    @inline
    def block_largest(value, bits):
        return largest_of_block(value)

    @inline
    def wait_for_block():
        cuda.syncthreads()

    all_threads = AllThreads(largest_known_to_all, sums_known_to_all)
    return Together(
        block_sums, block_largest, of_places(_smaller_place), of_places(_plus_places), wait_for_block, all_threads
    )
