"""First look at a row: what the loss, and the scale of the gradient, follow from.

A row is taken in chunks, and the chunks' findings are merged in order. A chunk's findings depend on nothing outside it:
so that threads may share the chunks of a row, and whoever computes them gives the same bits.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .call import FETCH_AHEAD, FETCH_GRADIENT, N_CLASSES, NO_TARGET, NONE, UNIT, options_of
from .compile import device, inline
from .element import spread_weights, times, value
from .maths import LN2, constants, power
from .simd import (
    advance,
    apart,
    iota,
    item_bytes,
    lanes,
    largest,
    load,
    load_part,
    power_of_two,
    prefetch,
    prefetch_write,
    store,
    store_part,
    total,
    where,
    widen,
    zeros,
    zeros64,
)

CHUNK = 8192  # classes a chunk: 32 KiB of float32, so that what is read for the maximum is still in L1 for the sum
BLOCK = 256  # classes summed in the arithmetic type before the sums go to float64: at most 16 roundings a lane
WRITE_AHEAD = 512  # elements between what is written and what is fetched to be written
EMPTY = -1e300  # the power of two of a chunk in which every power is 0


class Stats(NamedTuple):
    """What is known of some classes of a row. ``v`` and ``z``: see ``call.Options``; here ``v`` is less ``base``."""

    base: float  # what is taken from v before anything else: 0 unless the logits are huge
    power: float  # K, whole: sums are of 2**(z * log2(e) - K)
    others: float  # sum over the classes, the target's left out
    top: float  # the largest sign * v, the last three only where ``plain`` is not set
    linear: float  # sum of c_j * (sign * v_j - top), c_j the spread weights
    spread: float  # sum of c_j


@inline
def _whole_vectors(x, g, begin, end, o, magic, keep, fetch, ahead):
    """Sum of the powers of classes ``begin`` to ``end``, a whole number of vectors without the target among them.

    Meanwhile memory is asked for what comes next: here, where there is most to compute, it waits for nobody. (In the
    search for the maximum, 32,000 classes reached 0.63 of the copy's speed instead of 0.73.)
    """
    s = zeros64(x)
    for q in range(begin, end, BLOCK):
        block = zeros(x)
        for j in range(q, min(q + BLOCK, end), lanes(x)):
            if fetch:
                prefetch_write(g, j + WRITE_AHEAD)
            if ahead != 0:
                prefetch(x, j + ahead)
            _, e = power(load(x, j), o.hi, o.lo, magic)
            if keep:
                store(g, j, e)
            block = block + e
        s = s + widen(block)
    return s


@inline
def _edge_vector(x, g, j, n, y, o, magic, keep):
    """Powers of the classes from ``j`` on, ``n`` at most, 0 for the target."""
    _, e = power(load_part(x, j, n - j), o.hi, o.lo, magic)
    if keep:
        store_part(g, j, n - j, e)
    column = iota(e)
    return widen(where((column < n - j) & (column != y - j), e, 0.0))


@inline
def _plain_sum(x, g, n, y, o, magic, keep, fetch, ahead):
    """``others`` of a chunk, for rows without softcap and spread target."""
    width = lanes(x)
    whole = n // width * width
    at_target = y // width * width if y != NO_TARGET else whole
    s = zeros64(x)
    begin, end = 0, min(at_target, whole)
    for _ in range(2):  # before and behind the vector with the target
        s = s + _whole_vectors(x, g, begin, end, o, magic, keep, fetch, ahead)
        begin, end = at_target + width, whole
    if at_target < n:
        s = s + _edge_vector(x, g, at_target, min(n, at_target + width), y, o, magic, keep)
    if at_target < whole < n:
        s = s + _edge_vector(x, g, whole, n, y, o, magic, keep)
    return total(s)


@inline
def _general_sum(x, g, n, y, o, magic, base, top, keep, weight, q):
    """As ``_plain_sum`` for every option; also the sums over the spread weights."""
    s, linear, spread = zeros64(x), zeros64(x), zeros64(x)
    for first in range(0, n, BLOCK):
        s_block, linear_block, spread_block = zeros(x), zeros(x), zeros(x)
        for j in range(first, min(n, first + BLOCK), lanes(x)):
            v = value(load_part(x, j, n - j), o, base)
            _, e = power(v, o.hi, o.lo, magic)
            if keep:
                store_part(g, j, n - j, e)
            column = iota(e)
            inside = column < n - j
            s_block = s_block + where(inside & (column != y - j), e, 0.0)
            if o.spread != NONE:
                c = where(inside, spread_weights(x, weight, q, j, n - j, o), 0.0)
                linear_block = linear_block + times(c, v * o.sign - top)
                spread_block = spread_block + c
        s, linear, spread = s + widen(s_block), linear + widen(linear_block), spread + widen(spread_block)
    return total(s), total(linear), total(spread)


@inline
def _top(x, n, o):
    """The largest ``sign * v`` of ``n`` classes."""
    whole = n // lanes(x) * lanes(x)
    top = zeros(x) - np.inf
    if o.softcap == 0.0:
        for j in range(0, whole, lanes(x)):
            u = load(x, j) * o.sign
            top = where(u > top, u, top)
    else:
        for j in range(0, whole, lanes(x)):
            u = value(load(x, j), o, 0.0) * o.sign
            top = where(u > top, u, top)
    u = value(load_part(x, whole, n - whole), o, 0.0) * o.sign
    top = where((iota(u) < n - whole) & (u > top), u, top)
    return np.float64(largest(top))


@device
def chunk_stats(call, numbers, x, g, q, weight, n, y, keep):
    """``Stats`` of ``n`` classes from ``x`` on, with the target at ``y`` (or outside); ``keep`` the powers in ``g``."""
    apart()
    o, c = options_of(call, numbers), constants(zeros(x))
    y = y if 0 <= y < n else NO_TARGET
    top = _top(x, n, o)
    k, base = np.rint(top * abs(o.hi)), 0.0
    if abs(k) > c.limit:
        # Huge logits lose the exactness of maths.py: there, the largest is subtracted first, as everybody does.
        k, base = 0.0, top * o.sign if abs(top) < np.inf else 0.0
    if k != k:
        k = 0.0
    linear, spread = 0.0, 0.0
    if o.plain and base == 0.0:
        others = _plain_sum(x, g, n, y, o, c.one - k, keep, call[FETCH_GRADIENT] != 0, call[FETCH_AHEAD])
    else:
        shifted = top - base * o.sign if top > -np.inf else 0.0
        others, linear, spread = _general_sum(x, g, n, y, o, c.one - k, base, shifted, keep, weight, q)
    if top == -np.inf and others == 0.0:
        k = EMPTY
    return Stats(base, k, others, top, linear, spread)


@inline
def relative(base, k, to_base, to_k, unit):
    """What sums of powers with one base and K are multiplied with to have another base and K."""
    if base == to_base:
        return power_of_two(k - to_k)
    return math.exp(unit * (base - to_base) + (k - to_k) * LN2)


@inline
def _about(top, linear, spread, middle):
    """``linear``, a sum of ``c * (u - middle)``, as a sum of ``c * (u - top)``; -inf (an infinite loss) stays."""
    return linear + spread * (middle - top) if spread != 0.0 and middle > -np.inf and top > -np.inf else linear


@inline
def merged(a, b, unit):
    """``Stats`` of two parts of a row together."""
    top, base, k = max(a.top, b.top), a.base, a.power
    if b.power + b.base * unit / LN2 > a.power + a.base * unit / LN2:
        base, k = b.base, b.power
    others = a.others * relative(a.base, a.power, base, k, unit) + b.others * relative(b.base, b.power, base, k, unit)
    linear = _about(top, a.linear, a.spread, a.top) + _about(top, b.linear, b.spread, b.top)
    return Stats(base, k, others, top, linear, a.spread + b.spread)


@inline
def chunk_at(call, numbers, x, g, q, weight, c, y, keep):
    """``Stats`` of the row's chunk that starts at class ``c``."""
    return chunk_stats(
        call,
        numbers,
        advance(x, c * item_bytes(x)),
        advance(g, c * item_bytes(g)),
        advance(q, c * item_bytes(q)),
        advance(weight, c * item_bytes(weight)),
        min(call[N_CLASSES] - c, CHUNK),
        y - c,
        keep,
    )


@device
def row_stats(call, numbers, x, g, q, weight, y, shifts):
    """``Stats`` of a whole row. Unless ``shifts[0]`` is 0, powers are kept in ``g``, and their shifts behind it."""
    apart()
    keep = shifts[0] != 0.0
    found = chunk_at(call, numbers, x, g, q, weight, 0, y, keep)
    if keep:
        shifts[1], shifts[2] = found.base, found.power
    for c in range(CHUNK, call[N_CLASSES], CHUNK):
        part = chunk_at(call, numbers, x, g, q, weight, c, y, keep)
        if keep:
            shifts[1 + c // CHUNK * 2], shifts[2 + c // CHUNK * 2] = part.base, part.power
        found = merged(found, part, numbers[UNIT])
    return found
