"""Second look at a row: every element of the gradient, rounded once to its type."""

from __future__ import annotations

from typing import Any

import numpy as np

from .call import GRADIENTS, LOG_SOFTMAX, Call
from .compile import inline
from .finish import Plan
from .maths import Maths
from .memory import CHUNK_BYTES, Numbers
from .rows import NO_TARGET, Row, Rows
from .stats import Looks
from .vector import places, where


def writing(numbers: Numbers, maths: Maths, rows: Rows, looks: Looks, plain: bool, kept: bool) -> Any:
    """The function that writes chunks first to last of a row: (call, row, plan, first, last, lane, width, cache).

    ``kept``: the row lies in the block's memory, with ``plain`` as powers; else it is read again.
    """
    number, power, one_bits = maths.number, maths.power, maths.one
    zero, one = number(0.0), number(1.0)
    widen, zeros, kept_powers, kept_raw = numbers.widen, numbers.zeros, numbers.kept, numbers.kept_raw
    chunk_at, inside_of, spread_of, put, value = rows.chunk, rows.inside, rows.spread, rows.put, looks.value
    lane_bits = numbers.lanes.bit_length() - 1
    SLOT = CHUNK_BYTES

    @inline
    def fill(call: Call, row: Row, number_, first, last, lane, width):
        k = first + lane
        while k < last:
            put(call, row, k, zeros() + number_)
            k = k + width

    @inline
    def gradient(call: Call, row: Row, plan: Plan, k, slot, spreads):
        if plain and kept:
            return kept_powers(slot, SLOT * call.tile) * plan.factor
        o = widen(kept_raw(slot) if kept else chunk_at(call, row, k, zero))
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
    def write(call: Call, row: Row, plan: Plan, first, last, lane, width, cache):
        if row.ignored or plan.factor != plan.factor:
            fill(call, row, zero if row.ignored else number(np.nan), first, last, lane, width)
            return
        spreads = False
        if not plain:
            spreads = call.q != 0 or call.share != zero
        k_target = np.int64(-1)
        if row.y != NO_TARGET and call.kind == GRADIENTS:
            k_target = (row.y + row.shift) >> lane_bits
        k, slot = first + lane, cache + SLOT * lane
        while k < last:
            d = gradient(call, row, plan, k, slot, spreads)
            if k == k_target:
                place = places(d, (k << lane_bits) - row.shift)
                d = where(place == row.y, plan.at_target, d)
            put(call, row, k, d)
            k, slot = k + width, slot + SLOT * width

    return write
