"""The kernels: warp per row, block per row, block per row in pieces, and rows split over the grid.

=========  =============================  ===========================================  ==================
kernel     a row is for                   where it lies meanwhile                      how often it is read
=========  =============================  ===========================================  ==================
warp       2**lane_bits lanes of a warp   in the block's memory                        once
block      a block                        in the block's memory                        once
online     a block                        a piece at a time in the block's memory      twice
part       ``parts`` blocks               likewise; findings go to ``Call.stats``      once
finish     ``parts`` blocks, after that   nowhere                                      once (a second time)
=========  =============================  ===========================================  ==================

A kernel that only finds losses does not read a second time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import cuda
from numba.cuda import types

from .call import Call, signature
from .compile import inline
from .finish import Plan, Target, finishing
from .gradient import writing
from .maths import maths as maths_of
from .memory import CHUNK_BYTES, Numbers, place_in_block
from .memory import numbers as numbers_of
from .rows import NO_TARGET, Row
from .rows import rows as rows_of
from .stats import Stats
from .stats import looks as looks_of
from .together import SCRATCH_BYTES
from .together import together as together_of
from .vector import bits, from_bits

NAMES = ("warp", "block", "online", "part", "finish")


class Kernel(NamedTuple):
    """What a compiler needs."""

    name: str  # that no other has
    function: Callable[[Any], None]
    signature: types.Type
    threads: int  # that its blocks have at most


def most_threads(name: str, plain: bool) -> int:
    """A block's: 64 registers each are enough for plain kernels, the others need twice as many."""
    return 128 if name == "warp" else 512 if plain else 256


@cache
def kernel(name: str, dtype: str, plain: bool, pairs: bool = True) -> Kernel:
    """Give a kernel for logits of a type; ``plain`` ones are faster, and do without what ``needs_general`` names."""
    parts = Parts(name, dtype, plain, pairs)
    whole_name = " ".join((name, dtype, "plain" if plain else "general", "pairs" if pairs else "singles"))
    return Kernel(whole_name, _MAKE[name](parts), signature(parts.numbers.arithmetic), most_threads(name, plain))


class Parts:
    """What kernels are put together from."""

    def __init__(self, name: str, dtype: str, plain: bool, pairs: bool) -> None:
        self.numbers = numbers_of(dtype, pairs)
        self.maths = maths_of(dtype == "float64")
        self.rows = rows_of(self.numbers, self.maths)
        self.together = together_of(self.numbers, block=name != "warp")
        self.looks = looks_of(self.numbers, self.maths, self.rows, self.together, plain, block=name != "warp")
        self.ends = finishing(self.maths, self.rows, self.looks, plain)
        kept = name in ("warp", "block")
        self.write = writing(self.numbers, self.maths, self.rows, self.looks, plain, kept)
        self.slot = chunk_in_block(self.numbers, plain)
        self.target_logit = self._target_logit()

    def _target_logit(self) -> Any:
        load_one, zero = self.numbers.load_one, self.maths.number(0.0)

        @inline
        def target_logit(call: Call, row: Row):
            if row.y != NO_TARGET:
                return load_one(row.x + row.y * call.x_stride) * call.order
            return zero

        return target_logit


def chunk_in_block(numbers: Numbers, plain: bool) -> int:
    """Bytes of the block's memory that a chunk takes: plain kernels keep powers, the others what was read."""
    return numbers.lanes * numbers.arithmetic.bitwidth // 8 if plain else CHUNK_BYTES


def _warp(parts: Parts) -> Callable[[Call], None]:
    open_row, wait, slot = parts.rows.open, parts.together.wait, parts.slot
    look, target_of, finish, write = parts.looks.look, parts.ends.target, parts.ends.finish, parts.write
    target_logit = parts.target_logit

    def warp(call: Call) -> None:
        thread, bits = np.int64(cuda.threadIdx.x), call.lane_bits
        lane, width, group = thread & ((1 << bits) - 1), 1 << bits, thread >> bits
        number = np.int64(cuda.blockIdx.x) * (cuda.blockDim.x >> bits) + group
        there = number < call.n_rows
        row = open_row(call, number, there)
        slots = place_in_block(SCRATCH_BYTES + group * slot * call.tile + CHUNK_BYTES * lane)
        target = target_of(call, row, target_logit(call, row))
        stats = look(call, row, 0, row.chunks, lane, width, slots, target.o)
        plan = finish(call, row, target, stats, there and lane == 0)
        wait()  # every lane has read the target's logit before anything is overwritten
        if call.g != 0:
            write(call, row, plan, 0, row.chunks, lane, width, slots)

    return warp


def _agreed(parts: Parts) -> Any:
    """The plan of a row, which one thread makes and its block follows."""
    _target_of, finish, wait = parts.ends.target, parts.ends.finish, parts.together.wait
    keep_one, kept_one, _zero = parts.numbers.keep_one, parts.numbers.kept_one, parts.maths.number(0.0)

    @inline
    def agreed(call: Call, row: Row, target: Target, stats: Stats, leader):
        wait()  # the last reduction's results have been read
        if cuda.threadIdx.x == 0:
            plan = finish(call, row, target, stats, leader)
            keep_one(place_in_block(0), plan.factor)
            keep_one(place_in_block(8), plan.scale)
            keep_one(place_in_block(16), plan.at_target)
        wait()
        at = place_in_block(0)
        return Plan(stats.power, stats.base, stats.top, kept_one(at), kept_one(at + 8), kept_one(at + 16))

    return agreed


def _block(parts: Parts) -> Callable[[Call], None]:
    open_row, agreed = parts.rows.open, _agreed(parts)
    look, write, target_of, target_logit = parts.looks.look, parts.write, parts.ends.target, parts.target_logit

    def block(call: Call) -> None:
        lane, width = np.int64(cuda.threadIdx.x), np.int64(cuda.blockDim.x)
        row = open_row(call, np.int64(cuda.blockIdx.x), True)
        slots = place_in_block(SCRATCH_BYTES + CHUNK_BYTES * lane)
        target = target_of(call, row, target_logit(call, row))
        stats = look(call, row, 0, row.chunks, lane, width, slots, target.o)
        plan = agreed(call, row, target, stats, True)
        if call.g != 0:
            write(call, row, plan, 0, row.chunks, lane, width, slots)

    return block


def _pieces(parts: Parts) -> Any:
    """First look at chunks first to last of a row, piece by piece."""
    look, merged, nothing = parts.looks.look, parts.looks.merged, parts.looks.nothing

    @inline
    def pieces(call: Call, row: Row, first, last, lane, width, o_target):
        stats, slots = nothing(), place_in_block(SCRATCH_BYTES + CHUNK_BYTES * lane)
        while first < last:
            end = min(first + call.tile, last)
            found = look(call, row, first, end, lane, width, slots, o_target)
            stats = merged(call, stats, found)
            first = end
        return stats

    return pieces


def _online(parts: Parts) -> Callable[[Call], None]:
    open_row, agreed, pieces = parts.rows.open, _agreed(parts), _pieces(parts)
    write, target_of, target_logit = parts.write, parts.ends.target, parts.target_logit

    def online(call: Call) -> None:
        lane, width = np.int64(cuda.threadIdx.x), np.int64(cuda.blockDim.x)
        row = open_row(call, np.int64(cuda.blockIdx.x), True)
        target = target_of(call, row, target_logit(call, row))
        stats = pieces(call, row, np.int64(0), row.chunks, lane, width, target.o)
        plan = agreed(call, row, target, stats, True)
        if call.g != 0:
            write(call, row, plan, 0, row.chunks, lane, width, 0)

    return online


# What a part of a row leaves for the blocks that finish it: numbers, the whole ones by their bits.
FIRST, TIES, REST, LINEAR, SPREAD, DISTANCE, ABOVE, NAN_AT, TOP_AT, TARGET, STATS_FIELDS = range(11)


def _part(parts: Parts) -> Callable[[Call], None]:
    open_row, pieces, target_logit = parts.rows.open, _pieces(parts), parts.target_logit
    put, whole, number_bytes = parts.rows.put_number, parts.maths.whole, parts.numbers.arithmetic.bitwidth // 8

    def part(call: Call) -> None:
        lane, width = np.int64(cuda.threadIdx.x), np.int64(cuda.blockDim.x)
        row = open_row(call, np.int64(cuda.blockIdx.x), True)
        mine = np.int64(cuda.blockIdx.y)
        first = mine * call.part
        last = min(first + call.part, row.chunks)
        o = target_logit(call, row)
        stats = pieces(call, row, first, last, lane, width, o)
        if lane == 0:
            at = call.stats + (row.number * call.parts + mine) * (STATS_FIELDS * number_bytes)
            put(at, FIRST, stats.first)
            put(at, TIES, stats.ties)
            put(at, REST, stats.rest)
            put(at, LINEAR, stats.linear)
            put(at, SPREAD, stats.spread)
            put(at, DISTANCE, stats.distance)
            put(at, ABOVE, from_bits(whole(stats.above)))
            put(at, NAN_AT, from_bits(whole(stats.nan_at)))
            put(at, TOP_AT, from_bits(whole(stats.top_at)))
            put(at, TARGET, o)  # read now, as it may be overwritten while another part still needs it

    return part


def _finish(parts: Parts) -> Callable[[Call], None]:
    open_row, agreed, write = parts.rows.open, _agreed(parts), parts.write
    value, shift, merged, target_of = parts.looks.value, parts.looks.shift, parts.looks.merged, parts.ends.target
    keep, kept, load, wait = parts.numbers.keep_one, parts.numbers.kept_one, parts.rows.number_at, parts.together.wait
    number_bytes, zero = parts.numbers.arithmetic.bitwidth // 8, parts.maths.number(0.0)

    @inline
    def kept_stats(call: Call, i):
        at = place_in_block(SCRATCH_BYTES + i * (8 * STATS_FIELDS))
        first = kept(at + 8 * FIRST)
        top = value(call, first)
        power, base = shift(call, top)
        return Stats(
            first, top, power, base, kept(at + 8 * TIES), kept(at + 8 * REST), kept(at + 8 * LINEAR),
            kept(at + 8 * SPREAD), kept(at + 8 * DISTANCE), np.int32(bits(kept(at + 8 * ABOVE))),
            np.int32(bits(kept(at + 8 * NAN_AT))), np.int32(bits(kept(at + 8 * TOP_AT))),
        )  # fmt: skip

    @inline
    def keep_stats(i, stats: Stats):
        at = place_in_block(SCRATCH_BYTES + i * (8 * STATS_FIELDS))
        keep(at + 8 * FIRST, stats.first)
        keep(at + 8 * TIES, stats.ties)
        keep(at + 8 * REST, stats.rest)
        keep(at + 8 * LINEAR, stats.linear)
        keep(at + 8 * SPREAD, stats.spread)
        keep(at + 8 * DISTANCE, stats.distance)
        keep(at + 8 * ABOVE, from_bits(whole(stats.above)))
        keep(at + 8 * NAN_AT, from_bits(whole(stats.nan_at)))
        keep(at + 8 * TOP_AT, from_bits(whole(stats.top_at)))

    whole = parts.maths.whole

    @inline
    def all_parts(call: Call, row: Row, lane):
        """Every part's findings, merged in pairs: the first with the first of the second half, and so on."""
        n = call.parts
        if lane < n:
            at = call.stats + (row.number * n + lane) * (STATS_FIELDS * number_bytes)
            for field in range(TARGET):
                keep(place_in_block(SCRATCH_BYTES + (lane * STATS_FIELDS + field) * 8), load(at, field, zero))
        wait()
        while n > 1:
            half = (n + 1) >> 1
            if lane < n - half:
                keep_stats(lane, merged(call, kept_stats(call, lane), kept_stats(call, lane + half)))
            wait()
            n = half
        return kept_stats(call, 0)

    def finish(call: Call) -> None:
        lane, width = np.int64(cuda.threadIdx.x), np.int64(cuda.blockDim.x)
        row = open_row(call, np.int64(cuda.blockIdx.x), True)
        mine = np.int64(cuda.blockIdx.y)
        first = mine * call.part
        last = min(first + call.part, row.chunks)
        stats = all_parts(call, row, lane)
        o = load(call.stats + row.number * call.parts * (STATS_FIELDS * number_bytes), TARGET, zero)
        plan = agreed(call, row, target_of(call, row, o), stats, mine == 0)
        if call.g != 0:
            write(call, row, plan, first, last, lane, width, 0)

    return finish


_MAKE: dict[str, Callable[[Parts], Callable[[Call], None]]] = {
    "warp": _warp,
    "block": _block,
    "online": _online,
    "part": _part,
    "finish": _finish,
}
