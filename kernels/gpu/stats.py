"""First look at a row, or a part of it that the block's memory has room for: what its loss and gradient follow from.

As on the CPU, the largest class is left out of the sum of powers, by its value, equals too, which are counted: next to
1, all the others of a row that is sure of one class would be rounded away. What each thread finds depends on nothing
but its own chunks, and what threads, parts of a row and parts of a grid find is merged in a fixed order.

A thread only ever looks at its own chunks, so that what it keeps in the block's memory needs no waiting for others.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from .call import Call
from .compile import inline
from .maths import Maths
from .memory import CHUNK_BYTES, Numbers
from .rows import Row, Rows
from .together import NOWHERE, Together
from .vector import fma, larger, largest, places, smallest_place, total, where


class Stats(NamedTuple):
    """What is known of some classes of a row. ``o`` and ``v``: see ``call.Call``."""

    first: float  # the largest o
    top: float  # the largest v
    power: float  # K, whole: powers are of 2**((v - base) * (hi + lo) - K)
    base: float  # what is taken from v before anything else: 0 unless the logits are huge
    ties: float  # how many classes have the largest v
    rest: float  # sum of the powers of the others
    # Only where they are asked for:
    linear: float  # sum of c_j * (v_j - top), c_j the spread weights
    spread: float  # sum of c_j
    distance: float  # sum of the powers, each times top - v
    above: np.int32  # classes above the target
    nan_at: np.int32  # the first NaN, and the first of the largest o; NOWHERE
    top_at: np.int32


class Looks(NamedTuple):
    """The functions below."""

    value: Any  # (call, o) -> v
    shift: Any  # (call, v) -> K and base of rows with that largest v
    look: Any  # (call, row, first, last, lane, width, slots, o_target) -> Stats of chunks first to last; ``slots``:
    # where the thread keeps the first of its own
    merged: Any  # (call, a, b) -> Stats of two parts together
    nothing: Any  # () -> Stats of no class


@cache
def looks(numbers: Numbers, maths: Maths, rows: Rows, together: Together, plain: bool, block: bool) -> Looks:
    """The first look, for one type; ``plain``: logits as they are, and nothing asked for that needs each class."""
    c, number = maths, maths.number
    power, zero_bits, one, limit, tanh = c.power, c.zero, c.one, c.limit, c.tanh
    zero, inf, unity = number(0.0), number(np.inf), number(1.0)
    widen, none, zeros, keep_raw, kept_raw, keep, kept = (
        numbers.widen, numbers.none, numbers.zeros, numbers.keep_raw, numbers.kept_raw, numbers.keep, numbers.kept,
    )  # fmt: skip
    chunk_at, edge_at, inside_of, spread_of = rows.chunk, rows.edge, rows.inside, rows.spread
    all_sums, all_places = together.sums, together.sum_places
    all_largest, smallest_of_all = together.largest, together.smallest_place
    lane_bits = numbers.lanes.bit_length() - 1
    filler = number(-np.inf) if plain else zero
    SLOT = CHUNK_BYTES

    @inline
    def value(call: Call, o):
        if plain:
            return o
        return tanh(o * call.inner) if call.inner != zero else o

    @inline
    def shift(call: Call, v):
        scaled = v * call.hi
        if abs(scaled) <= limit:
            return fma(v, call.hi, zero_bits) - zero_bits, zero
        if v == inf:
            return inf, zero  # next to +inf, every other power is 0
        if v == -inf:
            return zero, zero
        return zero, v

    @inline
    def rescaled(call: Call, k, base, to_k, to_base):
        """What a power with ``k`` and ``base`` is as a power with the other two, which are no smaller."""
        exponent = larger(fma(base - to_base, call.hi, k - to_k), number(-2000.0))
        return power(exponent, unity, zero, one)

    @inline
    def total_of(call: Call, a: Stats, k, base):
        if a.top == -inf:
            return a.rest  # 0, or NaN
        at_top = power(a.top - a.base, call.hi, call.lo, one - a.power)
        return fma(a.ties, at_top, a.rest) * rescaled(call, a.power, a.base, k, base)

    @inline
    def nothing():
        return Stats(-inf, -inf, zero, zero, zero, zero, zero, zero, zero, np.int32(0), NOWHERE, NOWHERE)

    @inline
    def about(a: Stats, top):
        """``linear`` with another top; what is infinite stays."""
        if a.spread != zero and a.top > -inf and top > -inf:
            return fma(a.spread, a.top - top, a.linear)
        return a.linear

    @inline
    def merged(call: Call, a: Stats, b: Stats):
        if b.first > a.first or b.top > a.top:  # (the latter: of no class, and of classes at -inf with a softcap)
            a, b = b, a
        ties, others = a.ties, total_of(call, b, a.power, a.base)
        if a.top == b.top:
            ties, others = a.ties + b.ties, b.rest
        top_at = a.top_at
        if a.first == b.first:
            top_at = np.int32(min(a.top_at, b.top_at))
        distance = a.distance
        if b.top > -inf:
            scale = rescaled(call, b.power, b.base, a.power, a.base)
            below = others * (a.top - b.top) if others != zero else zero
            distance = distance + b.distance * scale + below
        return Stats(
            a.first, a.top, a.power, a.base, ties, a.rest + others, a.linear + about(b, a.top), a.spread + b.spread,
            distance, np.int32(a.above + b.above), np.int32(min(a.nan_at, b.nan_at)), top_at,
        )  # fmt: skip

    @inline
    def take(call: Call, row: Row, k, raw, slot, plane, highest):
        """Keep a chunk; ``highest``: the largest ``o`` so far, of each lane."""
        if plain:
            keep(slot, plane, widen(raw))
            return larger(highest, widen(raw))
        keep_raw(slot, raw)
        return larger(highest, where(inside_of(row, k), widen(raw) * call.order, -inf))

    @inline
    def find_largest(call: Call, row: Row, first, last, lane, width, slots, plane):
        """Keep the thread's chunks, and give the largest ``o`` among them."""
        highest = none()
        k, slot, step = first + lane, slots, SLOT * width
        before = k < row.first_whole
        if before:
            k, slot = k + width, slot + step
        end = min(last, row.whole)
        while k < end:
            highest = take(call, row, k, chunk_at(row, k), slot, plane, highest)
            k, slot = k + width, slot + step
        while before or k < last:  # what is not whole: the first chunk and the last
            at, to = (first + lane, slots) if before else (k, slot)
            highest = take(call, row, at, edge_at(call, row, at, filler), to, plane, highest)
            if not before:
                k, slot = k + width, slot + step
            before = False
        return largest(highest)

    @inline
    def look_plain(call: Call, row: Row, first, last, lane, width, slots, o_target):
        plane, step, end = SLOT * call.tile, SLOT * width, slots + SLOT * (last - first - lane)
        own = find_largest(call, row, first, last, lane, width, slots, plane)
        top = all_largest(own, call.lane_bits)
        k_of, base = shift(call, top)
        if base != zero:
            slot = slots
            while slot < end:
                keep(slot, plane, kept(slot, plane) - base)
                slot += step
        magic, mark = one - k_of, top - base
        rest, ties = zeros(), zeros()
        slot = slots
        if block and own < top:  # all threads of a block but a few
            while slot < end:
                e = power(kept(slot, plane), call.hi, call.lo, magic)
                keep(slot, plane, e)
                rest = rest + e
                slot += step
        else:
            while slot < end:
                v = kept(slot, plane)
                e = power(v, call.hi, call.lo, magic)
                keep(slot, plane, e)
                rest, ties = rest + where(v == mark, zero, e), ties + where(v == mark, unity, zero)
                slot += step
        all_rest, all_ties = all_sums(total(rest), total(ties), call.lane_bits)
        return Stats(top, top, k_of, base, all_ties, all_rest, zero, zero, zero, np.int32(0), NOWHERE, NOWHERE)

    @inline
    def look_general(call: Call, row: Row, first, last, lane, width, slots, o_target):
        o_own = find_largest(call, row, first, last, lane, width, slots, 0)
        o_top = all_largest(o_own, call.lane_bits)
        top = value(call, o_top)
        k_of, base = shift(call, top)
        magic = one - k_of
        middle = top if abs(top) < inf else zero  # (-inf alone: every difference from that would be NaN)
        rest, ties, linear, spread, distance = zeros(), zeros(), zeros(), zeros(), zeros()
        above, nan_at, top_at = np.int32(0), NOWHERE, NOWHERE
        spreads = call.q != 0 or call.share != zero
        wants_classes = call.argmax != 0 or call.correct != 0
        k, slot = first + lane, slots
        while k < last:
            o = widen(kept_raw(slot)) * call.order
            belongs = inside_of(row, k)
            v = value(call, o)
            at_top = (v == top) & belongs
            e = where(belongs, power(v - base, call.hi, call.lo, magic), zero)
            rest, ties = rest + where(at_top, zero, e), ties + where(at_top, unity, zero)
            if spreads:
                weights = spread_of(call, row, k, belongs)
                linear = linear + where(weights == zero, zero, weights * (v - middle))
                spread = spread + weights
            if call.entropy != 0:
                distance = distance + where(e == zero, zero, e * (top - v))
            if wants_classes:
                place = places(o, (k << lane_bits) - row.shift)
                nan_at = np.int32(min(nan_at, smallest_place(where((o != o) & belongs, place, NOWHERE))))
                top_at = np.int32(min(top_at, smallest_place(where((o == o_top) & belongs, place, NOWHERE))))
            if call.rank != 0:
                above = np.int32(above + total(where((o > o_target) & belongs, np.int32(1), np.int32(0))))
            k, slot = k + width, slot + SLOT * width
        bits = call.lane_bits
        all_rest, all_ties = all_sums(total(rest), total(ties), bits)
        all_linear, all_spread, all_distance = zero, zero, zero
        if spreads:
            all_linear, all_spread = all_sums(total(linear), total(spread), bits)
        if call.entropy != 0:
            all_distance, _ = all_sums(total(distance), zero, bits)
        if wants_classes:
            nan_at, top_at = smallest_of_all(nan_at, bits), smallest_of_all(top_at, bits)
        if call.rank != 0:
            above = all_places(above, bits)
        return Stats(
            o_top, top, k_of, base, all_ties, all_rest, all_linear, all_spread, all_distance, above, nan_at, top_at
        )  # fmt: skip

    return Looks(value, shift, look_plain if plain else look_general, merged, nothing)
