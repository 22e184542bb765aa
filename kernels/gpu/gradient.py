"""Second look at a row: every element of the gradient, rounded once to its type."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from .call import GRADIENTS, LOG_SOFTMAX, Call
from .compile import inline
from .finish import Plan
from .maths import Maths
from .memory import CHUNK_BYTES, Numbers
from .rows import NO_TARGET, Row, Rows
from .stats import Looks


@cache
def writing(numbers: Numbers, maths: Maths, rows: Rows, looks: Looks, plain: bool, kept: bool) -> Any:
    """The function that writes chunks first to last of a row: (call, row, plan, first, last, lane, width, slots).

    ``kept``: the row lies in the block's memory, with ``plain`` as powers; else it is read again.
    """
    number, power, one_bits = maths.number, maths.power, maths.one
    zero, one = number(0.0), number(1.0)
    widen, zeros, store_one = numbers.widen, numbers.zeros, numbers.store_one
    kept_powers, kept_raw = numbers.kept, numbers.kept_raw
    chunk_at, edge_at, put_chunk, put_edge = rows.chunk, rows.edge, rows.put_chunk, rows.put_edge
    inside_of, spread_of, value = rows.inside, rows.spread, looks.value
    lane_bits = numbers.lanes.bit_length() - 1
    SLOT = CHUNK_BYTES

    @inline
    def gradient(call: Call, row: Row, plan: Plan, k, o, spreads):
        """Of a chunk; ``o``: its logits, which kept plain rows do without."""
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
    def whole(call: Call, row: Row, plan: Plan, k, slot, spreads):
        if plain and kept:
            return kept_powers(slot, SLOT * call.tile) * plan.factor
        return gradient(call, row, plan, k, widen(kept_raw(slot) if kept else chunk_at(row, k)), spreads)

    @inline
    def edge(call: Call, row: Row, plan: Plan, k, slot, spreads):
        if plain and kept:
            return kept_powers(slot, SLOT * call.tile) * plan.factor
        return gradient(call, row, plan, k, widen(kept_raw(slot) if kept else edge_at(call, row, k, zero)), spreads)

    @inline
    def write(call: Call, row: Row, plan: Plan, first, last, lane, width, slots):
        fills = row.ignored or plan.factor != plan.factor
        filler = zeros() + (zero if row.ignored else number(np.nan))
        spreads = False
        if not plain:
            spreads = call.q != 0 or call.share != zero
        k, slot, step = first + lane, slots, SLOT * width
        before = k < row.first_whole
        if before:
            k, slot = k + width, slot + step
        end = min(last, row.writable if kept else min(row.whole, row.writable))
        if fills:
            while k < end:
                put_chunk(row, k, filler)
                k, slot = k + width, slot + step
        else:
            while k < end:
                put_chunk(row, k, whole(call, row, plan, k, slot, spreads))
                k, slot = k + width, slot + step
        while before or k < last:  # what is not whole: the first chunk and the last
            at, from_ = (first + lane, slots) if before else (k, slot)
            put_edge(call, row, at, filler if fills else edge(call, row, plan, at, from_, spreads))
            if not before:
                k, slot = k + width, slot + step
            before = False
        if row.y != NO_TARGET and call.kind == GRADIENTS and not fills:
            at = ((row.y + row.shift) >> lane_bits) - first
            if at >= 0 and at < last - first and at & (width - 1) == lane:  # the thread that wrote it with its chunk
                store_one(row.g + row.y * call.g_stride, plan.at_target)

    return write
