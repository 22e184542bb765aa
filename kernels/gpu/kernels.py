"""The kernels: warp per row, block per row, block per row that is not kept, and rows split over the grid.

=========  =============================  ==========================================  =======================
kernel     a row is for                   where it lies meanwhile                     how often it is read
=========  =============================  ==========================================  =======================
warp       2**lane_bits lanes of a warp   plain: in the caches; else in the block's   plain: twice; else once
                                          memory
block      a block                        in the block's memory                       once
online     a block                        plain: in the caches, if they hold it;      twice
                                          else a piece at a time in the block's
                                          memory
part       ``parts`` blocks               likewise; findings go to ``Call.stats``     once
finish     ``parts`` blocks, after that   nowhere                                     once (a second time)
=========  =============================  ==========================================  =======================

A kernel that only finds losses does not read a second time. That plain rows are read again from the caches, and not
kept, was faster on an H200: see `launch.py`.
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
from .memory import CHUNK_BYTES, SECTOR_BYTES, chunk_in_block, place_in_block
from .memory import numbers as numbers_of
from .rows import NO_TARGET, Row
from .rows import rows as rows_of
from .share import Lane, lane_in_block, lane_in_warp, share_of
from .stats import Stats
from .stats import looks as looks_of
from .together import NOWHERE, SHARED_FIELDS, WARP_BITS, scratch_bytes
from .together import together as together_of
from .vector import bits, from_bits

scratch = inline(scratch_bytes)

NAMES = ("warp", "block", "online", "part", "finish")


class Kernel(NamedTuple):
    """What a compiler needs."""

    name: str  # that no other has
    function: Callable[[Any], None]
    signature: types.Type
    threads: int  # that its blocks have at most
    blocks: int = 1  # that a multiprocessor has registers for at least,
    blocks_before_9: int = 1  # and one before compute capability 9.0

    def blocks_on(self, capability: tuple[int, int]) -> int:
        """Of the two, that on a device."""
        return self.blocks if capability >= (9, 0) else self.blocks_before_9


def most_threads(name: str, plain: bool, double: bool = False) -> int:
    """A block's: of all but the longest rows, a multiprocessor has registers for two blocks or more."""
    if plain and name in ("block", "online"):
        return 512 if double or name == "block" else 1024
    return 128 if name == "warp" else 256


# Threads that a multiprocessor is to have registers for, 64 to 80 each: twice as many as the compiler left of itself.
# Before 9.0 the assembler would not do with these, nor with 80, without some of them in memory.
BUSY, BUSY_BEFORE_9 = 1024, 640
LESS_BUSY = {"warp": 896, "finish": 768}


@cache
def kernel(name: str, dtype: str, plain: bool, pairs: bool = True) -> Kernel:
    """Give a kernel for logits of a type; ``plain`` ones are faster, and do without what ``needs_general`` names."""
    parts = Parts(name, dtype, plain, pairs)
    whole_name = " ".join((name, dtype, "plain" if plain else "general", "pairs" if pairs else "singles"))
    threads = most_threads(name, plain, dtype == "float64")
    busy = LESS_BUSY.get(name, BUSY), BUSY_BEFORE_9
    blocks = [max(1, most // threads) if plain and dtype != "float64" else 1 for most in busy]
    return Kernel(whole_name, _MAKE[name](parts), signature(parts.numbers.arithmetic), threads, *blocks)


class Parts:
    """What kernels are put together from."""

    def __init__(self, name: str, dtype: str, plain: bool, pairs: bool) -> None:
        self.plain = plain
        self.numbers = numbers_of(dtype, pairs)
        self.maths = maths_of(dtype == "float64")
        self.rows = rows_of(self.numbers, self.maths)
        self.together = together_of(self.numbers, block=name != "warp")
        self.looks = looks_of(self.numbers, self.maths, self.rows, self.together, plain, block=name != "warp")
        self.ends = finishing(self.maths, self.rows, self.looks, plain)
        in_block = name == "block" or (name == "warp" and not plain)
        self.write, self.write_back = writing(self.numbers, self.maths, self.rows, self.looks, plain, in_block)
        self.slot, self.tile = chunk_in_block(self.numbers, plain), self.numbers.tile
        self.number_bytes = self.numbers.arithmetic.bitwidth // 8
        self.targets = self._targets()

    def _targets(self) -> tuple[Any, Any]:
        """Functions that give a row's target: (call, row, leader) -> number; (call, row, leader, number) -> Target.

        The number is to be on its way while the row is looked at; the logit is then in a cache. In plain kernels,
        nobody but the leader needs either: each read is one more of the row.
        """
        load_one, zero, plain = self.numbers.load_one, self.maths.number(0.0), self.plain
        number_of, find, target_of = self.rows.target_number, self.rows.target, self.ends.target

        @inline
        def number(call: Call, row: Row, leader):
            return np.int64(0) if plain and not leader else number_of(call, row)

        @inline
        def target(call: Call, row: Row, leader, number):
            if plain and not leader:
                return Target(np.int64(NO_TARGET), zero, zero, zero)
            y = find(call, row, number)
            return target_of(call, y, load_one(row.x + y * call.x_stride) * call.order if y >= 0 else zero)

        return number, target


def _warp(parts: Parts) -> Callable[[Call], None]:
    open_row, wait, slot = parts.rows.open, parts.together.wait, parts.slot
    keep, look, look_once = parts.looks.keep, parts.looks.look, parts.looks.look_once
    plan_of, leave, write, plain = parts.ends.plan, parts.ends.leave, parts.write, parts.plain
    number_of, target_of = parts.targets
    store_one, of_tile = parts.numbers.store_one, parts.tile

    def warp(call: Call) -> None:
        thread, bits = np.int64(cuda.threadIdx.x), call.lane_bits
        number = np.int64(cuda.blockIdx.x) * (cuda.blockDim.x >> bits) + (thread >> bits)
        there = number < call.n_rows
        row = open_row(call, number, there, SECTOR_BYTES if bits == WARP_BITS else CHUNK_BYTES)
        share = share_of(lane_in_warp(bits, of_tile, call.tile, slot), np.int64(0), row.chunks)
        number = number_of(call, row, True)
        if plain:
            stats, _, exact = look_once(call, row, share)
            target = target_of(call, row, True, number)
        else:
            exact, target = True, target_of(call, row, True, number)
            stats = look(call, row, share, keep(call, row, share), target.o)
        leader = there and thread & ((1 << bits) - 1) == 0
        plan = plan_of(call, row, target, stats, exact)
        if leader:
            leave(call, row, target, stats, exact)
        wait()  # every lane has read the target's logit before anything is overwritten
        if call.g != 0:
            write(call, row, plan, share, exact)
            wait()
            if leader and plan.target != 0:
                store_one(plan.target, plan.at_target)

    return warp


def _agreed(parts: Parts) -> Any:
    """The plan of a row, which one thread makes and its block follows; after that, the thread writes the row's loss."""
    plan_of, leave, wait = parts.ends.plan, parts.ends.leave, parts.together.wait
    keep_one, kept_one, zero = parts.numbers.keep_one, parts.numbers.kept_one, parts.maths.number(0.0)

    @inline
    def agreed(call: Call, row: Row, target: Target, stats: Stats, exact, leader):
        at, at_target, place = place_in_block(0), zero, np.int64(0)
        if cuda.threadIdx.x == 0:
            plan = plan_of(call, row, target, stats, exact)
            at_target, place = plan.at_target, plan.target
            keep_one(at + 8, plan.power)
            keep_one(at + 16, plan.base)
            keep_one(at + 24, plan.top)
            keep_one(at + 32, plan.factor)
            keep_one(at + 40, plan.scale)
            keep_one(at + 48, plan.filler)
        wait()
        if leader and cuda.threadIdx.x == 0:
            leave(call, row, target, stats, exact)
        return Plan(
            kept_one(at + 8), kept_one(at + 16), kept_one(at + 24), kept_one(at + 32), kept_one(at + 40),
            kept_one(at + 48), at_target, place,
        )  # fmt: skip

    return agreed


def _block(parts: Parts) -> Callable[[Call], None]:
    open_row, agreed, wait = parts.rows.open, _agreed(parts), parts.together.wait
    keep, look, write = parts.looks.keep, parts.looks.look, parts.write
    number_of, target_of = parts.targets
    store_one = parts.numbers.store_one
    slot, number_bytes, plain, of_tile = parts.slot, parts.number_bytes, parts.plain, parts.tile

    def block(call: Call) -> None:
        leader = cuda.threadIdx.x == 0
        row = open_row(call, np.int64(cuda.blockIdx.x), True, SECTOR_BYTES)
        lane = lane_in_block(scratch(cuda.blockDim.x, number_bytes), of_tile, slot, plain)
        share = share_of(lane, np.int64(0), row.chunks)
        number = number_of(call, row, leader)
        highest = keep(call, row, share)
        target = target_of(call, row, leader, number)
        cuda.syncwarp()  # the leader goes on with the others of its warp
        stats = look(call, row, share, highest, target.o)
        plan = agreed(call, row, target, stats, True, True)
        if call.g != 0:
            write(call, row, plan, share, True)
            wait()
            if plan.target != 0:
                store_one(plan.target, plan.at_target)

    return block


def _pieces(parts: Parts) -> Any:
    """First look at chunks first to last of a row, piece by piece."""
    keep, look, merged, nothing = parts.looks.keep, parts.looks.look, parts.looks.merged, parts.looks.nothing
    wait = parts.together.wait

    @inline
    def pieces(call: Call, row: Row, first, last, lane: Lane, o_target):
        stats = nothing()
        while first < last:
            end = min(first + call.tile, last)
            share = share_of(lane, first, end)
            found = look(call, row, share, keep(call, row, share), o_target)
            if cuda.threadIdx.x == 0:
                stats = merged(call, stats, found)
            wait()  # the first warp has seen what the others left
            first = end
        return stats

    return pieces


def _online(parts: Parts) -> Callable[[Call], None]:
    open_row, agreed, wait = parts.rows.open, _agreed(parts), parts.together.wait
    pieces, look_once = _pieces(parts), parts.looks.look_once
    write, write_back, store_one = parts.write, parts.write_back, parts.numbers.store_one
    number_of, target_of = parts.targets
    slot, number_bytes, plain, of_tile = parts.slot, parts.number_bytes, parts.plain, parts.tile

    def online(call: Call) -> None:
        leader = cuda.threadIdx.x == 0
        row = open_row(call, np.int64(cuda.blockIdx.x), True, SECTOR_BYTES)
        lane = lane_in_block(scratch(cuda.blockDim.x, number_bytes), of_tile, slot, plain)
        number = number_of(call, row, leader)
        if plain:
            stats, tiles_end, exact = look_once(call, row, share_of(lane, np.int64(0), row.chunks))
            target = target_of(call, row, leader, number)
        else:
            target = target_of(call, row, leader, number)
            stats = pieces(call, row, np.int64(0), row.chunks, lane, target.o)
            tiles_end, exact = np.int64(0), True
        plan = agreed(call, row, target, stats, exact, True)
        if call.g != 0:
            share = share_of(lane, np.int64(0), row.chunks)
            if plain:
                write_back(call, row, plan, share, tiles_end, exact)
            else:
                write(call, row, plan, share, True)
            wait()
            if plan.target != 0:
                store_one(plan.target, plan.at_target)

    return online


# What a part of a row leaves for the blocks that finish it: numbers, the whole ones by their bits; of each, all parts'
# together, so that few sectors of memory hold what threads read at a time. Of plain rows it is the first four.
FIRST, TIES, REST, TARGET, LINEAR, SPREAD, DISTANCE, ABOVE, NAN_AT, TOP_AT, STATS_FIELDS = range(11)
PLAIN_FIELDS = LINEAR


def _part(parts: Parts) -> Callable[[Call], None]:
    open_row, pieces, look_exactly = parts.rows.open, _pieces(parts), parts.looks.look_exactly
    number_of, target_of = parts.targets
    put, whole, number_bytes, slot, plain, of_tile = (
        parts.rows.put_number, parts.maths.whole, parts.number_bytes, parts.slot, parts.plain, parts.tile,
    )  # fmt: skip
    n_fields = PLAIN_FIELDS if plain else STATS_FIELDS

    def part(call: Call) -> None:
        leader = cuda.threadIdx.x == 0
        row = open_row(call, np.int64(cuda.blockIdx.x), True, SECTOR_BYTES)
        mine = np.int64(cuda.blockIdx.y)
        first = mine * call.part
        last = min(first + call.part, row.chunks)
        lane = lane_in_block(scratch(cuda.blockDim.x, number_bytes), of_tile, slot, plain)
        number = number_of(call, row, leader)
        if plain:
            stats, _, _ = look_exactly(call, row, share_of(lane, first, last))
            o = target_of(call, row, leader, number).o
        else:
            o = target_of(call, row, leader, number).o
            stats = pieces(call, row, first, last, lane, o)
        if leader:
            at, n = call.stats + row.number * call.parts * (n_fields * number_bytes), call.parts
            put(at, FIRST * n + mine, stats.first)
            put(at, TIES * n + mine, stats.ties)
            put(at, REST * n + mine, stats.rest)
            put(at, TARGET * n + mine, o)  # read now, as it may be overwritten while another part still needs it
            if not plain:
                put(at, LINEAR * n + mine, stats.linear)
                put(at, SPREAD * n + mine, stats.spread)
                put(at, DISTANCE * n + mine, stats.distance)
                put(at, ABOVE * n + mine, from_bits(whole(stats.above)))
                put(at, NAN_AT * n + mine, from_bits(whole(stats.nan_at)))
                put(at, TOP_AT * n + mine, from_bits(whole(stats.top_at)))

    return part


def _finish(parts: Parts) -> Callable[[Call], None]:
    open_row, agreed, write, store_one = parts.rows.open, _agreed(parts), parts.write, parts.numbers.store_one
    value, shift, merged = parts.looks.value, parts.looks.shift, parts.looks.merged
    number_of, find, target_of = parts.rows.target_number, parts.rows.target, parts.ends.target
    plain, slot, of_tile = parts.plain, parts.slot, parts.tile
    keep, kept, load, wait = parts.numbers.keep_one, parts.numbers.kept_one, parts.rows.number_at, parts.together.wait
    number_bytes, zero, whole = parts.number_bytes, parts.maths.number(0.0), parts.maths.whole
    chunk_of, n_fields = parts.rows.chunk_of, PLAIN_FIELDS if plain else STATS_FIELDS

    @inline
    def place_of(i, field):
        return place_in_block(8 * (SHARED_FIELDS + i * STATS_FIELDS + field))

    @inline
    def kept_stats(call: Call, i):
        first = kept(place_of(i, FIRST))
        top = value(call, first)
        power, base = shift(call, top)
        ties, rest = kept(place_of(i, TIES)), kept(place_of(i, REST))
        if plain:
            return Stats(first, top, power, base, ties, rest, zero, zero, zero, np.int32(0), NOWHERE, NOWHERE)
        return Stats(
            first, top, power, base, ties, rest, kept(place_of(i, LINEAR)), kept(place_of(i, SPREAD)),
            kept(place_of(i, DISTANCE)), np.int32(bits(kept(place_of(i, ABOVE)))),
            np.int32(bits(kept(place_of(i, NAN_AT)))), np.int32(bits(kept(place_of(i, TOP_AT)))),
        )  # fmt: skip

    @inline
    def keep_stats(i, stats: Stats):
        keep(place_of(i, FIRST), stats.first)
        keep(place_of(i, TIES), stats.ties)
        keep(place_of(i, REST), stats.rest)
        if not plain:
            keep(place_of(i, LINEAR), stats.linear)
            keep(place_of(i, SPREAD), stats.spread)
            keep(place_of(i, DISTANCE), stats.distance)
            keep(place_of(i, ABOVE), from_bits(whole(stats.above)))
            keep(place_of(i, NAN_AT), from_bits(whole(stats.nan_at)))
            keep(place_of(i, TOP_AT), from_bits(whole(stats.top_at)))

    @inline
    def all_parts(call: Call, at, thread):
        """Every part's findings, merged in pairs: the first with the first of the second half, and so on."""
        n = call.parts
        if thread < n:
            for field in range(n_fields):
                keep(place_of(thread, field), load(at, field * n + thread, zero))
        wait()
        while n > 1:
            half = (n + 1) >> 1
            if thread < n - half:
                keep_stats(thread, merged(call, kept_stats(call, thread), kept_stats(call, thread + half)))
            wait()
            n = half
        return kept_stats(call, 0)

    def finish(call: Call) -> None:
        row = open_row(call, np.int64(cuda.blockIdx.x), True, SECTOR_BYTES)
        mine = np.int64(cuda.blockIdx.y)
        first = mine * call.part
        last = min(first + call.part, row.chunks)
        share = share_of(lane_in_block(0, of_tile, slot, plain), first, last)
        at = call.stats + row.number * call.parts * (n_fields * number_bytes)
        stats = all_parts(call, at, np.int64(cuda.threadIdx.x))
        y = find(call, row, number_of(call, row))
        target = target_of(call, y, load(at, TARGET * call.parts, zero))
        plan = agreed(call, row, target, stats, True, mine == 0)
        if call.g != 0:
            write(call, row, plan, share, True)
            wait()
            k = chunk_of(row, target.y)
            if plan.target != 0 and k >= first and k < last:
                store_one(plan.target, plan.at_target)

    return finish


_MAKE: dict[str, Callable[[Parts], Callable[[Call], None]]] = {
    "warp": _warp,
    "block": _block,
    "online": _online,
    "part": _part,
    "finish": _finish,
}
