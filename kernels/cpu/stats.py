"""First look at a row: what the loss, and the scale of the gradient, follow from.

A row is taken in chunks, and the chunks' findings are merged in order. A chunk's findings depend on nothing outside it:
so that threads may share the chunks of a row, and whoever computes them gives the same bits.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .call import FETCH_AHEAD, FETCH_GRADIENT, N_CLASSES, NO_TARGET, NONE, options_of
from .compile import device, inline
from .maths import LN2, constants, power
from .element import spread_weights, times, value
from .simd import (
    advance,
    apart,
    iota,
    item_bytes,
    lanes,
    largest,
    load,
    load_part,
    prefetch,
    prefetch_write,
    total,
    where,
    widen,
    zeros,
    zeros64,
)

CHUNK = 8192  # classes a chunk
BLOCK = 256  # classes summed in the arithmetic type before the sums go to float64: at most 16 roundings a lane
SAMPLE = 64  # classes from which the shift is guessed
REACH = 64.0  # how far the largest power may be from 2**0: far from overflow, and small terms far from underflow
EMPTY = -1e300  # the power of two of a chunk in which every power is 0


class Stats(NamedTuple):
    """What is known of some classes of a row; z, v: see ``options.py``, v less the row's ``base``."""

    power: float  # K, whole: sums are of 2**(z * log2(e) - K)
    others: float  # sum over the classes, the target's left out
    top: float  # the largest sign * v, the last three only where ``plain`` is not set
    linear: float  # sum of c_j * (sign * v_j - top), c_j the spread weights
    spread: float  # sum of c_j


@inline
def _plain_block(x, g, n, y, o, magic, fetch, ahead, top):  # type: ignore[no-untyped-def]
    """Sum of the powers of ``n`` classes from ``x`` on, and the largest ``t``. ``y`` None: whole vectors, no target."""
    s = zeros(x)
    for j in range(0, n, lanes(x)):
        if fetch:
            prefetch_write(g, j)
        if ahead != 0:
            prefetch(x, j + ahead)
        if y is None:
            t, e = power(load(x, j), o.hi, o.lo, magic)
        else:
            t, e = power(load_part(x, j, n - j), o.hi, o.lo, magic)
            column = iota(e)
            inside = column < n - j
            t = where(inside, t, -np.inf)
            e = where(inside & (column != y - j), e, 0.0)
        top = where(t > top, t, top)
        s = s + e
    return s, top


@inline
def _plain_sum(x, g, n, y, o, magic, fetch, ahead):  # type: ignore[no-untyped-def]
    """``others`` and the largest ``t`` of a chunk, for rows without softcap and spread target."""
    s, top = zeros64(x), zeros(x) - np.inf
    size = item_bytes(x)
    for q in range(0, n, BLOCK):
        block, block_g, rest = advance(x, q * size), advance(g, q * size), n - q
        if rest < BLOCK or q <= y < q + BLOCK:
            part, top = _plain_block(block, block_g, min(rest, BLOCK), y - q, o, magic, fetch, ahead, top)
        else:
            part, top = _plain_block(block, block_g, BLOCK, None, o, magic, fetch, ahead, top)
        s = s + widen(part)
    return total(s), np.float64(largest(top))


@inline
def _general_sum(x, n, y, o, magic, base, middle, weight, q):  # type: ignore[no-untyped-def]
    """As ``_plain_sum`` for every option; also the largest v, and the sums over the spread weights (v less ``middle``)."""
    s, linear, spread = zeros64(x), zeros64(x), zeros64(x)
    top_t, top_v = zeros(x) - np.inf, zeros(x) - np.inf
    for first in range(0, n, BLOCK):
        s_block, linear_block, spread_block = zeros(x), zeros(x), zeros(x)
        for j in range(first, min(n, first + BLOCK), lanes(x)):
            v = value(load_part(x, j, n - j), o, base)
            t, e = power(v, o.hi, o.lo, magic)
            column = iota(e)
            inside = column < n - j
            s_block = s_block + where(inside & (column != y - j), e, 0.0)
            top_t = where(inside & (t > top_t), t, top_t)
            u = v * o.sign
            top_v = where(inside & (u > top_v), u, top_v)
            if o.spread != NONE:
                c = where(inside, spread_weights(x, weight, q, j, n - j, o), 0.0)
                linear_block = linear_block + times(c, u - middle)
                spread_block = spread_block + c
        s, linear, spread = s + widen(s_block), linear + widen(linear_block), spread + widen(spread_block)
    return total(s), np.float64(largest(top_t)), np.float64(largest(top_v)), total(linear), total(spread)


@inline
def _largest_power(x, n, o, base):  # type: ignore[no-untyped-def]
    """The largest ``unit * v * log2(e)`` of ``n`` classes, roughly; 0 where that is not finite."""
    top = zeros(x) - np.inf
    for j in range(0, n, lanes(x)):
        u = value(load_part(x, j, n - j), o, base) * o.hi
        top = where((iota(u) < n - j) & (u > top), u, top)
    k = np.rint(np.float64(largest(top)))
    return k if abs(k) < np.inf else 0.0


@device
def chunk_stats(call, numbers, x, g, q, weight, n, y, base):  # type: ignore[no-untyped-def]
    """``Stats`` of ``n`` classes from ``x`` on, with the target at ``y`` (or outside).

    The shift is guessed from the first few logits: the logits of a row resemble each other, so that looking for the maximum
    first would cost a fifth of the time and hardly ever change anything. Where the guess is off by more than ``REACH``,
    the maximum is looked for and the chunk done again.
    """
    apart()
    o = options_of(call, numbers)
    y = y if 0 <= y < n else NO_TARGET
    k = _largest_power(x, min(n, SAMPLE), o, base)
    top, linear, spread = 0.0, 0.0, 0.0
    for attempt in range(2):
        magic = constants(zeros(x)).one - k
        if o.plain and base == 0.0:
            others, t = _plain_sum(x, g, n, y, o, magic, call[FETCH_GRADIENT] != 0, call[FETCH_AHEAD])
        else:
            middle = k * LN2 / abs(o.unit) if o.unit != 0.0 else 0.0
            others, t, top, linear, spread = _general_sum(x, n, y, o, magic, base, middle, weight, q)
            linear = _about(top, linear, spread, middle)
        off = t - constants(zeros(x)).one
        if attempt == 1 or abs(off) <= REACH or off == np.inf:
            break
        if off == -np.inf:  # nothing but -inf (and NaN, which the sum knows of)
            k = EMPTY if others == 0.0 else 0.0
            break
        k = _largest_power(x, n, o, base)
    return Stats(k, others, top, linear, spread)


@inline
def _about(top, linear, spread, middle):  # type: ignore[no-untyped-def]
    """``linear``, a sum of ``c * (u - middle)``, as a sum of ``c * (u - top)``; -inf (an infinite loss) stays."""
    return linear + spread * (middle - top) if spread != 0.0 and middle > -np.inf and top > -np.inf else linear


@inline
def _scaled(s, shift):  # type: ignore[no-untyped-def]
    """``s * 2**shift`` for a whole ``shift <= 0``, however far below 0."""
    return math.ldexp(s, int(max(shift, -2000.0)))


@inline
def merged(a, b):  # type: ignore[no-untyped-def]
    """``Stats`` of two parts of a row together."""
    k, top = max(a.power, b.power), max(a.top, b.top)
    return Stats(
        k,
        _scaled(a.others, a.power - k) + _scaled(b.others, b.power - k),
        top,
        _about(top, a.linear, a.spread, a.top) + _about(top, b.linear, b.spread, b.top),
        a.spread + b.spread,
    )


@inline
def chunk_at(call, numbers, x, g, q, weight, c, y, base):  # type: ignore[no-untyped-def]
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
        base,
    )


@device
def row_stats(call, numbers, x, g, q, weight, y, base):  # type: ignore[no-untyped-def]
    """``Stats`` of a whole row."""
    apart()
    n = call[N_CLASSES]
    found = chunk_stats(call, numbers, x, g, q, weight, min(n, CHUNK), y, base)
    for c in range(CHUNK, n, CHUNK):
        found = merged(found, chunk_at(call, numbers, x, g, q, weight, c, y, base))
    return found
