"""Second look at a row: every element of the gradient, rounded once to its type."""

from __future__ import annotations

from functools import cache
from typing import Any

from .call import LOG_SOFTMAX, Call
from .compile import inline
from .finish import Plan
from .maths import Maths
from .memory import CHUNK_BYTES, TILE, Numbers, chunk_in_block
from .rows import CHUNK_BITS, Row, Rows
from .share import Share
from .stats import Looks
from .together import WARP
from .vector import not_unrolled


@cache
def writing(numbers: Numbers, maths: Maths, rows: Rows, looks: Looks, plain: bool, in_block: bool) -> Any:
    """The function that writes chunks first to last of a row: (call, row, plan, first, last, share).

    ``in_block``: the row lies in the block's memory, with ``plain`` as powers; else it is read again.
    """
    number, power, one_bits = maths.number, maths.power, maths.one
    zero, one = number(0.0), number(1.0)
    widen, zeros, load_tile, store = numbers.widen, numbers.zeros, numbers.load_tile, numbers.store
    kept, kept_tile, kept_raw = numbers.kept, numbers.kept_tile, numbers.kept_raw
    chunk_at, edge_at, put_chunk, put_edge = rows.chunk, rows.edge, rows.put_chunk, rows.put_edge
    inside_of, spread_of, value, place, place_of_grad = (
        rows.inside, rows.spread, looks.value, rows.place, rows.place_of_grad,
    )  # fmt: skip
    SLOT = chunk_in_block(numbers, plain)
    BEYOND = (TILE - 1) * WARP

    @inline
    def gradient(call: Call, row: Row, plan: Plan, k, o, spreads):
        """Of a chunk, or in plain kernels a tile; ``o``: its logits."""
        if plain:
            return power(o - plan.base, call.hi, call.lo, one_bits - plan.power) * plan.factor
        v = value(call, o * call.order)
        if call.kind == LOG_SOFTMAX:
            return (v - plan.top) - plan.factor
        d = power(v - plan.base, call.hi, call.lo, one_bits - plan.power) * plan.factor
        if spreads:
            d = d - spread_of(call, row, k, inside_of(row, k)) * plan.scale
        if call.inner != zero:
            d = d * (one - v * v)
        return d

    @inline
    def of_chunk(call: Call, row: Row, plan: Plan, share: Share, k, slot, spreads):
        if plain and in_block:
            return kept(slot, CHUNK_BYTES * share.apart) * plan.factor
        if in_block:
            raw = kept_raw(slot)
        else:
            raw = chunk_at(row, k) if k >= row.first_whole and k < row.whole else edge_at(call, row, k, zero)
        return gradient(call, row, plan, k, widen(raw), spreads)

    @inline
    def write(call: Call, row: Row, plan: Plan, first, last, share: Share):
        fills, filler = plan.filler != one, zeros() + plan.filler
        spreads = False
        if not plain:
            spreads = call.q != 0 or call.share != zero
        start = first + share.first
        k, before = start, False
        if plain and share.apart == WARP and not fills:
            before = start < row.first_whole
            if before:
                k += share.step
            end = min(last, row.writable if in_block else min(row.whole, row.writable)) - BEYOND
            to, stop, slot = place_of_grad(row, k), place_of_grad(row, end), share.slots + SLOT * (k - start)
            from_ = place(row, k)
            while to < stop:
                if in_block:
                    d = kept_tile(slot, CHUNK_BYTES * WARP) * plan.factor
                else:
                    d = gradient(call, row, plan, k, widen(load_tile(from_)), False)
                store(to, d)
                to, slot, from_ = to + CHUNK_BYTES * share.step, slot + SLOT * share.step, from_ + CHUNK_BYTES * share.step
                not_unrolled()
            k = (to - place_of_grad(row, 0)) >> CHUNK_BITS
        upcoming, n = k + share.step, 0  # as in stats.keep
        if before:
            k, upcoming = start, k
        while k < last:
            d = filler if fills else of_chunk(call, row, plan, share, k, share.slots + SLOT * (k - start), spreads)
            if k >= row.first_whole and k < row.writable:
                put_chunk(row, k, d)
            else:
                put_edge(call, row, k, d)
            k, n = k + share.apart, n + 1
            if n == TILE:
                k, upcoming, n = upcoming, upcoming + share.step, 0

    return write
