"""First look at a row, or a part of it that the block's memory has room for: what its loss and gradient follow from.

As on the CPU, the largest class is left out of the sum of powers, by its value, equals too, which are counted: next to
1, all the others of a row that is sure of one class would be rounded away. What each thread finds depends on nothing
but its own chunks, and what threads, parts of a row and parts of a grid find is merged in a fixed order.

A thread only ever looks at its own chunks, so that what it keeps in the block's memory needs no waiting for others. In
a block, all threads know the largest class, and only the first warp all the rest. Plain rows that are not kept are
looked at once: each thread has the largest so far, and sums that suit it; then all threads know everything.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from .call import Call
from .compile import inline
from .maths import Maths
from .memory import CHUNK_BYTES, WARP_BYTES, Numbers, chunk_in_block, place_in_block
from .rows import CHUNK_BITS, Row, Rows
from .share import Share, following
from .together import NOWHERE, WARP_BITS, Together
from .vector import fma, larger, largest, moved, places, smallest_place, total, total_beside, where


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


LAG = np.float32(32.0)  # added to that of a sum of 2**31 powers, still far from what float32 holds

# A row is quickly seen where it is not sure of its largest class: where all others are 2**-8 of it, the largest element
# of the gradient is, too, and no power that matters beside it has an exponent below -16. Powers less than 2**-32 must
# not matter either, however many they are.
SURE, MOST_QUICK = np.float32(2.0**8), 2**22


class Looks(NamedTuple):
    """The functions below."""

    value: Any  # (call, o) -> v
    shift: Any  # (call, v) -> K and base of rows with that largest v
    keep: Any  # (call, row, share) -> the largest o among the thread's chunks, all of which are kept
    look: Any  # (call, row, share, largest o, o_target) -> Stats of all threads' chunks
    look_once: Any  # (call, row, share) -> likewise, of a plain row that is not kept; where whole tiles end; ``exact``
    look_exactly: Any  # (call, row, share) -> likewise, always exact
    merged: Any  # (call, a, b) -> Stats of two parts together
    nothing: Any  # () -> Stats of no class


@cache
def looks(numbers: Numbers, maths: Maths, rows: Rows, together: Together, plain: bool, block: bool) -> Looks:
    """The first look, for one type; ``plain``: logits as they are, and nothing asked for that needs each class."""
    c, number = maths, maths.number
    quick_power, has_quick = c.quick_power, c.quick
    power, zero_bits, one, limit, tanh = c.power, number(2.0) * c.zero, c.one, c.limit, c.tanh
    zero, inf, unity = number(0.0), number(np.inf), number(1.0)
    widen, zeros, keep_raw, kept_raw, keep, kept, kept_tile, load_tile = (
        numbers.widen, numbers.zeros, numbers.keep_raw, numbers.kept_raw, numbers.keep, numbers.kept, numbers.kept_tile,
        numbers.load_tile,
    )  # fmt: skip
    chunk_at, inside_of, spread_of, first_class = rows.chunk, rows.inside, rows.spread, rows.first_class
    keep_one, kept_one = numbers.keep_one, numbers.kept_one
    all_sums, all_places, wait = together.sums, together.sum_places, together.wait
    all_largest, smallest_of_all = together.largest, together.smallest_place
    largest_known_to_all, sums_known_to_all = together.all_threads
    filler = number(-np.inf) if plain else zero
    HALVES, of_tile = chunk_in_block(numbers, plain) // CHUNK_BYTES, numbers.tile

    @inline
    def value(call: Call, o):
        if plain:
            return o
        return tanh(o * call.inner) if call.inner != zero else o

    @inline
    def shift(call: Call, v):
        scaled = v * call.hi
        if abs(scaled) <= limit:
            # (an odd number, see maths.Maths: the sum leaves an even one)
            return fma(v, call.hi, zero_bits) - zero_bits - unity, zero
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
    def take(call: Call, row: Row, k, slot):
        """Keep a chunk, and give the largest ``o`` in it."""
        raw = chunk_at(call, row, k, filler)
        if plain:
            keep(slot, WARP_BYTES, widen(raw))
            return largest(widen(raw))
        keep_raw(slot, raw)
        return largest(where(inside_of(row, first_class(row, k)), widen(raw) * call.order, -inf))

    @inline
    def keep_all(call: Call, row: Row, share: Share):
        """Keep the thread's chunks, and give the largest ``o`` among them."""
        at, slot, highest = row.origin + share.offset, share.slots, -inf
        stop, apart, tile = at + share.left, CHUNK_BYTES * share.apart, CHUNK_BYTES * share.step
        if plain:
            end = min(stop, row.whole) - (of_tile - 1) * apart
            while at < end:
                v = widen(load_tile(at, apart))
                keep(slot, WARP_BYTES, v)
                highest = larger(highest, largest(v))
                at, slot = moved(at, tile), slot + share.tile_slots
        n = 0
        while at < stop:  # one by one: what is left, as a rule of a last tile that is not whole
            highest = larger(highest, take(call, row, (at - row.origin) >> CHUNK_BITS, slot))
            further, more_slots = following(share, of_tile, n)
            at, slot, n = at + further, slot + more_slots, n + 1
        return highest

    @inline
    def largest_of_row(call: Call, own):
        """The largest ``o`` and ``v``, and K and base."""
        o_top = all_largest(own, call.lane_bits)
        at = place_in_block(0)
        if not block or cuda.threadIdx.x == 0:
            top = value(call, o_top)
            power, base = shift(call, top)
            if not block:
                return o_top, top, power, base
            keep_one(at, o_top)
            keep_one(at + 8, top)
            keep_one(at + 16, power)
            keep_one(at + 24, base)
        wait()
        return kept_one(at), kept_one(at + 8), kept_one(at + 16), kept_one(at + 24)

    def changing(change: Any) -> Any:
        """Make what a thread of a block keeps something else: (call, share, magic, mark) -> two sums over it."""

        @inline
        def changed(call: Call, share: Share, magic, mark):
            slot, a, b = share.slots, zero, zero
            end = slot + HALVES * share.left
            while slot < end - HALVES * (of_tile - 1) * WARP_BYTES:
                v, more_a, more_b = change(kept_tile(slot, WARP_BYTES), call, magic, mark)
                keep(slot, WARP_BYTES, v)
                slot, a, b = moved(slot, share.tile_slots), a + more_a, b + more_b
            while slot < end:
                v, more_a, more_b = change(kept(slot, WARP_BYTES), call, magic, mark)
                keep(slot, WARP_BYTES, v)
                slot, a, b = moved(slot, share.chunk_slots), a + more_a, b + more_b
            return a, b

        return changed

    @inline
    def lowered(v, call: Call, magic, mark):
        return v - mark, zero, zero

    @inline
    def raised(v, call: Call, magic, mark):
        e = power(v, call.hi, call.lo, magic)
        return e, total(e), zero

    @inline
    def raised_but_largest(v, call: Call, magic, mark):
        e = power(v, call.hi, call.lo, magic)
        return e, total(where(v == mark, zero, e)), total(where(v == mark, unity, zero))

    lower, raise_all, raise_but_largest = changing(lowered), changing(raised), changing(raised_but_largest)

    @inline
    def look_plain(call: Call, row: Row, share: Share, own, o_target):
        _, top, k_of, base = largest_of_row(call, own)
        if base != zero:
            lower(call, share, zero, base)
        if own < top:  # all threads of a block but a few
            rest, ties = raise_all(call, share, one - k_of, zero)
        else:
            rest, ties = raise_but_largest(call, share, one - k_of, top - base)
        all_rest, all_ties = all_sums(rest, ties, call.lane_bits)
        return Stats(top, top, k_of, base, all_ties, all_rest, zero, zero, zero, np.int32(0), NOWHERE, NOWHERE)

    @inline
    def look_general(call: Call, row: Row, share: Share, own, o_target):
        o_top, top, k_of, base = largest_of_row(call, own)
        magic = one - k_of
        middle = top if abs(top) < inf else zero  # (-inf alone: every difference from that would be NaN)
        rest, ties, linear, spread, distance = zeros(), zeros(), zeros(), zeros(), zeros()
        above, nan_at, top_at = np.int32(0), NOWHERE, NOWHERE
        spreads = call.q != 0 or call.share != zero
        wants_classes = call.argmax != 0 or call.correct != 0
        k, last, slot = share.offset >> CHUNK_BITS, (share.offset + share.left) >> CHUNK_BITS, share.slots
        while k < last:
            o = widen(kept_raw(slot)) * call.order
            j = first_class(row, k)
            belongs = inside_of(row, j)
            v = value(call, o)
            at_top = (v == top) & belongs
            e = where(belongs, power(v - base, call.hi, call.lo, magic), zero)
            rest, ties = rest + where(at_top, zero, e), ties + where(at_top, unity, zero)
            if spreads:
                weights = spread_of(call, row, j, belongs)
                linear = linear + where(weights == zero, zero, weights * (v - middle))
                spread = spread + weights
            if call.entropy != 0:
                distance = distance + where(e == zero, zero, e * (top - v))
            if wants_classes:
                place = places(o, j)
                nan_at = np.int32(min(nan_at, smallest_place(where((o != o) & belongs, place, NOWHERE))))
                top_at = np.int32(min(top_at, smallest_place(where((o == o_top) & belongs, place, NOWHERE))))
            if call.rank != 0:
                above = np.int32(above + total(where((o > o_target) & belongs, np.int32(1), np.int32(0))))
            k, slot = k + share.apart, slot + share.chunk_slots
        bits = call.lane_bits
        all_rest, all_ties = all_sums(total(rest), total(ties), bits)
        all_linear, all_spread, all_distance = zero, zero, zero
        if spreads:
            wait()
            all_linear, all_spread = all_sums(total(linear), total(spread), bits)
        if call.entropy != 0:
            wait()
            all_distance, _ = all_sums(total(distance), zero, bits)
        if wants_classes:
            wait()
            nan_at = smallest_of_all(nan_at, bits)
            wait()
            top_at = smallest_of_all(top_at, bits)
        if call.rank != 0:
            wait()
            above = all_places(above, bits)
        return Stats(
            o_top, top, k_of, base, all_ties, all_rest, all_linear, all_spread, all_distance, above, nan_at, top_at
        )  # fmt: skip

    def looking_once(quick: bool) -> Any:
        """Make the look at a plain row that is not kept."""

        @inline
        def power_of(call: Call, v, k_of):
            return quick_power(v, call.hi, k_of) if quick else power(v, call.hi, call.lo, one - k_of)

        @inline
        def take_in(call: Call, seen, v):
            """What a thread has seen, with some more: the largest logit, its ties, the sum of the others' powers.

            K is what suits the largest of some while ago, as powers may be as large as 2**LAG: a new one, by which all
            that there is must be multiplied, is rare.
            """
            top, ties, rest, k_of, base = seen
            highest = largest(v)
            if highest > top:
                rest = fma(ties, power_of(call, top - base, k_of), rest)
                to_k, to_base = shift(call, highest)
                if top == -inf:
                    k_of, base = to_k, to_base
                elif to_base != base or to_k - k_of > LAG:
                    rest = rest * rescaled(call, k_of, base, to_k, to_base)
                    k_of, base = to_k, to_base
                top, ties = highest, zero
            if not quick and base != zero:
                v = v - base
            more, more_ties = total_beside(v, power_of(call, v, k_of), top - base)
            return top, ties + more_ties, rest + more, k_of, base

        @inline
        def look(call: Call, row: Row, share: Share):
            seen = -inf, zero, zero, zero, zero
            at = row.origin + share.offset
            stop, apart, tile = at + share.left, CHUNK_BYTES * share.apart, CHUNK_BYTES * share.step
            end = min(stop, row.whole) - (of_tile - 1) * apart
            while at < end:
                seen = take_in(call, seen, widen(load_tile(at, apart)))
                at = moved(at, tile)
            tiles_end, n = at, 0
            while at < stop:  # one by one, as in keep_all
                seen = take_in(call, seen, widen(chunk_at(call, row, (at - row.origin) >> CHUNK_BITS, filler)))
                further, _ = following(share, of_tile, n)
                at, n = at + further, n + 1
            own_top, ties, rest, own_k, own_base = seen
            top = largest_known_to_all(own_top, call.lane_bits)
            k_of, base = shift(call, top)
            if own_top < top:
                rest, ties = fma(ties, power_of(call, own_top - own_base, own_k), rest), zero
            if own_top > -inf:
                rest = rest * rescaled(call, own_k, own_base, k_of, base)
            all_rest, all_ties = sums_known_to_all(rest, ties, call.lane_bits)
            found = Stats(top, top, k_of, base, all_ties, all_rest, zero, zero, zero, np.int32(0), NOWHERE, NOWHERE)
            return found, tiles_end, not quick

        return look

    look_exactly = looking_once(False)
    look_quickly = looking_once(True)

    @inline
    def look_once(call: Call, row: Row, share: Share):
        if not has_quick:
            return look_exactly(call, row, share)
        s, tiles_end, exact = look_quickly(call, row, share)
        at_top = s.ties * quick_power(s.top, call.hi, s.power)
        exact = not (s.rest * SURE >= at_top) or s.base != zero or row.n > MOST_QUICK
        if not block:  # lanes of other rows go along, all needed to reduce: a row's last bits hang on those of its warp
            exact = all_places(np.int32(exact), np.int32(WARP_BITS)) > 0
        if exact:
            wait()  # all know what the others left, which the next look overwrites
            s, tiles_end, exact = look_exactly(call, row, share)
        return s, tiles_end, exact

    look = look_plain if plain else look_general
    return Looks(value, shift, keep_all, look, look_once, look_exactly, merged, nothing)
