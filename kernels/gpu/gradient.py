"""Second look at a row: every element of the gradient, rounded once to its type."""

from __future__ import annotations

from functools import cache
from typing import Any

from .call import LOG_SOFTMAX, Call
from .compile import inline
from .finish import Plan
from .maths import Maths
from .memory import CHUNK_BYTES, WARP_BYTES, Numbers
from .rows import CHUNK_BITS, Row, Rows
from .share import Share, following
from .stats import Looks
from .vector import moved


@cache
def writing(numbers: Numbers, maths: Maths, rows: Rows, looks: Looks, plain: bool, in_block: bool) -> Any:
    """The functions that write a thread's share of a row: (call, row, plan, share), and the same backwards.

    ``in_block``: the row lies in the block's memory, with ``plain`` as powers; else it is read again.
    """
    number, power, quick_power, one_bits = maths.number, maths.power, maths.quick_power, maths.one
    zero, one = number(0.0), number(1.0)
    widen, zeros, load_tile, load_last, store, store_past, of_tile = (
        numbers.widen, numbers.zeros, numbers.load_tile, numbers.load_last, numbers.store, numbers.store_past,
        numbers.tile,
    )  # fmt: skip
    kept, kept_tile, kept_raw = numbers.kept, numbers.kept_tile, numbers.kept_raw
    chunk_at, put_chunk, first_class = rows.chunk, rows.put_chunk, rows.first_class
    inside_of, spread_of, value = rows.inside, rows.spread, looks.value

    @inline
    def gradient(call: Call, row: Row, plan: Plan, k, o, spreads, exact):
        """Of a chunk, or in plain kernels a tile; ``o``: its logits."""
        if plain:
            if not exact:
                return quick_power(o, call.hi, plan.power) * plan.factor
            return power(o - plan.base, call.hi, call.lo, one_bits - plan.power) * plan.factor
        v = value(call, o * call.order)
        if call.kind == LOG_SOFTMAX:
            return (v - plan.top) - plan.factor
        d = power(v - plan.base, call.hi, call.lo, one_bits - plan.power) * plan.factor
        if spreads:
            j = first_class(row, k)
            d = d - spread_of(call, row, j, inside_of(row, j)) * plan.scale
        if call.inner != zero:
            d = d * (one - v * v)
        return d

    @inline
    def of_chunk(call: Call, row: Row, plan: Plan, k, slot, spreads, exact):
        if plain and in_block:
            return kept(slot, WARP_BYTES) * plan.factor
        raw = kept_raw(slot) if in_block else chunk_at(call, row, k, zero)
        return gradient(call, row, plan, k, widen(raw), spreads, exact)

    @inline
    def write_chunks(call: Call, row: Row, plan: Plan, at, stop, origin, slot, share: Share, fills, spreads, exact):
        """One by one: see stats.keep_all."""
        filler, n = zeros() + plan.filler, 0
        while at < stop:
            k = (at - origin) >> CHUNK_BITS
            put_chunk(call, row, k, filler if fills else of_chunk(call, row, plan, k, slot, spreads, exact))
            further, more_slots = following(share, of_tile, n)
            at, slot, n = at + further, slot + more_slots, n + 1

    @inline
    def write(call: Call, row: Row, plan: Plan, share: Share, exact):
        fills, spreads = plan.filler != one, False
        if not plain:
            spreads = call.q != 0 or call.share != zero
        distance, slot = row.x - row.g, share.slots
        origin = row.origin - distance
        at = origin + share.offset
        stop, apart, tile = at + share.left, CHUNK_BYTES * share.apart, CHUNK_BYTES * share.step
        if plain and not fills:
            end = min(stop, row.writable) if in_block else min(stop, row.writable, row.whole - distance)
            end -= (of_tile - 1) * apart
            while at < end:
                if in_block:
                    d = kept_tile(slot, WARP_BYTES) * plan.factor
                else:
                    d = gradient(call, row, plan, 0, widen(load_tile(at + distance, apart)), False, exact)
                store(at, apart, d)
                at, slot = moved(at, tile), slot + share.tile_slots
        write_chunks(call, row, plan, at, stop, origin, slot, share, fills, spreads, exact)

    @inline
    def write_tiles_back(call: Call, row: Row, plan: Plan, share: Share, at, first, exact):
        apart, distance = CHUNK_BYTES * share.apart, row.x - row.g
        while at >= first:
            store_past(at, apart, gradient(call, row, plan, 0, widen(load_last(at + distance, apart)), False, exact))
            at = moved(at, -CHUNK_BYTES * share.step)

    @inline
    def write_back(call: Call, row: Row, plan: Plan, share: Share, tiles_end, exact):
        """From the end, where the caches still hold what was read last, to the start; plain rows only."""
        distance, tile = row.x - row.g, CHUNK_BYTES * share.step
        origin = row.origin - distance
        first, fills = origin + share.offset, plan.filler != one
        at = first if fills or row.writable == 0 else tiles_end - distance
        write_chunks(call, row, plan, at, first + share.left, origin, share.slots, share, fills, False, exact)
        at -= tile
        if exact:
            write_tiles_back(call, row, plan, share, at, first, True)
        else:
            write_tiles_back(call, row, plan, share, at, first, False)

    return write, write_back
