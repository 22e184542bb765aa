"""First look at a row: what the loss, and the scale of the gradient, follow from.

A row is taken in chunks, and the chunks' findings are merged in order. A chunk's findings depend on nothing outside it,
so that threads may share the chunks of a row, and whoever computes them gives the same bits.

The largest class is left out of the sum: of a row that is sure of one class, what matters is all the others, and next
to 1 they would be rounded away. It is left out by its value, equals too, which are counted: no loop needs to know where
it is, nor where the target is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..formats import LN2
from .call import FETCH, N_CLASSES, NONE, options_of
from .compile import device, inline
from .element import spread_weights, times, value
from .maths import constants, power_parts
from .simd import (
    above_or_nan,
    absolute,
    advance,
    apart,
    extract,
    fma,
    iota,
    item_bytes,
    lanes,
    largest,
    load,
    load_part,
    power_of_two,
    prefetch,
    total,
    where,
    widen,
    zeros,
    zeros64,
)

CHUNK = 8192  # classes a chunk: 32 KiB of float32, so that what is read for the maximum is still in L1 for the sum
BLOCK = 256  # classes summed in the arithmetic type before the sums go to float64: at most 16 roundings a lane


class Stats(NamedTuple):
    """What is known of some classes of a row. ``v`` and ``z``: see ``call.Options``."""

    top: float  # the largest sign * v
    power: float  # K, whole: powers are of 2**((z - unit * base) * log2(e) - K)
    base: float  # what is taken from v before anything else: 0 unless the logits are huge
    ties: float  # how many classes are at the top
    rest: float  # sum of the powers of the others
    linear: float  # sum of c_j * (sign * v_j - top), c_j the spread weights; with the next, only where there are any
    spread: float  # sum of c_j


@inline
def largest_logit(x, n, order):
    """The largest ``order * x`` of ``n`` classes."""
    width = lanes(x)
    whole = n // width * width
    lowest = zeros(x) - np.inf
    top, b, c, d = lowest, lowest, lowest, lowest
    if order == 1.0:
        j = 0
        while j + 4 * width <= n:  # four at a time: each waits for its own last one alone
            v, v1, v2, v3 = load(x, j), load(x, j + width), load(x, j + 2 * width), load(x, j + 3 * width)
            top, b = where(v > top, v, top), where(v1 > b, v1, b)
            c, d = where(v2 > c, v2, c), where(v3 > d, v3, d)
            j += 4 * width
        for i in range(j, whole, width):
            v = load(x, i)
            top = where(v > top, v, top)
        top, c = where(b > top, b, top), where(d > c, d, c)
        top = where(c > top, c, top)
    else:
        for i in range(0, whole, width):
            v = load(x, i) * order
            top = where(v > top, v, top)
    v = load_part(x, whole, n - whole) * order
    top = where((iota(v) < n - whole) & (v > top), v, top)
    return largest(top)


@inline
def add(v, inside, o, magic, mark, a, b, ties):
    """Add the powers of a vector's classes to the sum ``a + b``, and those at the top to ``ties``.

    A power is ``scale + scale * r`` with ``scale`` a power of two. What is added up in ``a`` needs hardly any rounding,
    and in ``b``, where it is some, it is less than a third of that of the whole.
    """
    t, scale, r = power_parts(v, o.hi, o.lo, magic, 0.0)
    counts = above_or_nan(t, constants(v).zero) & (v != mark) & inside
    ties = where((v == mark) & inside, ties + 1.0, ties)
    return where(counts, a + scale, a), where(counts, fma(scale, r, b), b), ties


@inline
def _even(x, n, o, magic, mark, middle, fetch):
    """``rest``, ``ties`` and the sum of ``v - middle`` of ``n`` classes, for rows that need no more than that.

    Meanwhile memory is asked for what comes next: here, where there is most to compute, it waits for nobody.
    """
    width = lanes(x)
    whole = n // width * width
    s, linear, ties = zeros64(x), zeros64(x), zeros(x)
    everywhere = ties == ties
    if o.spread == NONE:
        for q in range(0, whole, BLOCK):
            a, b = zeros(x), zeros(x)
            for j in range(q, min(q + BLOCK, whole), width):
                prefetch(advance(x, fetch), j)
                a, b, ties = add(load(x, j), everywhere, o, magic, mark, a, b, ties)
            s = s + (widen(a) + widen(b))
    else:
        for q in range(0, whole, BLOCK):
            a, b, below = zeros(x), zeros(x), zeros(x)
            for j in range(q, min(q + BLOCK, whole), width):
                prefetch(advance(x, fetch), j)
                v = load(x, j)
                a, b, ties = add(v, everywhere, o, magic, mark, a, b, ties)
                below = below + (v - middle)
            s, linear = s + (widen(a) + widen(b)), linear + widen(below)
    v = load_part(x, whole, n - whole)
    inside = iota(v) < n - whole
    a, b, ties = add(v, inside, o, magic, mark, zeros(x), zeros(x), ties)
    linear = linear + widen(where(inside, v - middle, 0.0))
    below = total(linear) if o.spread != NONE else 0.0
    return total(s + (widen(a) + widen(b))), np.float64(total(ties)), below


@inline
def _general_block(x, first, last, whole, o, magic, base, mark, middle, weight, q, ties):
    """Sums over classes ``first`` to ``last``: of the powers, and over the spread weights. ``whole``: of vectors."""
    a, b, linear, spread = zeros(x), zeros(x), zeros(x), zeros(x)
    for j in range(first, last, lanes(x)):
        v = value(load(x, j) if whole else load_part(x, j, last - j), o) - base
        inside = iota(v) >= 0 if whole else iota(v) < last - j
        a, b, ties = add(v, inside, o, magic, mark, a, b, ties)
        if o.spread != NONE:
            c = where(inside, spread_weights(x, weight, q, j, last - j, whole, o), 0.0)
            linear = linear + times(c, (v - middle) * o.sign)
            spread = spread + c
    return widen(a) + widen(b), widen(linear), widen(spread), ties


@inline
def _general(x, n, o, magic, base, mark, middle, weight, q):
    """As ``_even`` for every option: ``rest``, ``ties`` and the sums over the spread weights."""
    s, linear, spread, ties = zeros64(x), zeros64(x), zeros64(x), zeros(x)
    whole = n // lanes(x) * lanes(x)
    for first in range(0, whole, BLOCK):
        last = min(whole, first + BLOCK)
        a, b, c, ties = _general_block(x, first, last, True, o, magic, base, mark, middle, weight, q, ties)
        s, linear, spread = s + a, linear + b, spread + c
    a, b, c, ties = _general_block(x, whole, n, False, o, magic, base, mark, middle, weight, q, ties)
    return total(s + a), np.float64(total(ties)), total(linear + b), total(spread + c)


@device
def chunk_top(call, numbers, x, n):
    """The largest ``sign * v`` of ``n`` classes from ``x`` on."""
    apart()
    o = options_of(call, numbers)
    # (the softcap grows with the logit: the largest of the one is that of the other)
    logit = largest_logit(x, n, o.order) * o.order
    return extract(value(zeros(x) + logit, o), 0) * o.sign


@inline
def shift_of(top, o):
    """The shift of rows, or chunks, with that largest ``sign * v``: see maths.py. Gives K and ``base``.

    Huge logits lose the exactness of maths.py: there, the largest is subtracted first, as everybody does.
    """
    c = constants(top)
    huge = absolute(top * o.hi) > c.limit
    k = fma(top, abs(o.hi), c.zero) - c.zero
    return where(huge | (k != k), 0.0, k), where(huge & (absolute(top) < np.inf), top * o.sign, 0.0)


@inline
def _times(c, a):
    """``c * a`` with ``0 * anything = 0``."""
    return c * a if c != 0.0 else 0.0


@device
def chunk_sums(call, numbers, x, q, weight, n, top):
    """``Stats`` of ``n`` classes from ``x`` on, of which ``top`` is the largest ``sign * v``."""
    apart()
    o, c = options_of(call, numbers), constants(zeros(x))
    powers, bases = shift_of(zeros(x) + top, o)
    k, base, mark = np.float64(extract(powers, 0)), np.float64(extract(bases, 0)), top * o.sign
    magic = c.one - k
    middle = mark if abs(mark) < np.inf else 0.0  # (-inf alone: every difference from that would be NaN)
    if o.even and base == 0.0:
        rest, ties, linear = _even(x, n, o, magic, mark, middle, call[FETCH])
        return Stats(top, k, base, ties, rest, _times(o.share, linear * o.sign), o.share * n)
    rest, ties, linear, spread = _general(x, n, o, magic, base, mark - base, middle - base, weight, q)
    return Stats(top, k, base, ties, rest, linear, spread)


@inline
def _sum_of(a, k, base, o, like):
    """All powers of ``a``, those at the top too, as powers with another K and ``base``."""
    if a.top == -np.inf:
        return a.rest  # 0, or NaN
    c = constants(like)
    _, scale, r = power_parts(like + (a.top * o.sign - a.base), o.hi, o.lo, c.one - a.power, 0.0)
    at_top = np.float64(extract(scale, 0)) * (1.0 + np.float64(extract(r, 0)))
    return (a.ties * at_top + a.rest) * relative(a.base, a.power, base, k, o.unit)


@inline
def relative(base, k, to_base, to_k, unit):
    """What a power with ``base`` and ``k`` is as a power with the other two (that is no smaller)."""
    if base == to_base:
        return power_of_two(k - to_k)
    return np.exp((base - to_base) * unit + (k - to_k) * LN2)


@inline
def _about(top, linear, spread, middle):
    """``linear``, a sum of ``c * (u - middle)``, as a sum of ``c * (u - top)``; -inf (an infinite loss) stays."""
    return linear + spread * (middle - top) if spread != 0.0 and middle > -np.inf and top > -np.inf else linear


@inline
def merged(a, b, o, like):
    """``Stats`` of two parts of a row together."""
    if b.top > a.top:
        a, b = b, a
    if a.top == b.top:
        ties, rest = a.ties + b.ties, a.rest + b.rest
    else:
        ties, rest = a.ties, a.rest + _sum_of(b, a.power, a.base, o, like)
    linear = a.linear + _about(a.top, b.linear, b.spread, b.top)
    return Stats(a.top, a.power, a.base, ties, rest, linear, a.spread + b.spread)


@inline
def chunk_at(call, numbers, x, q, weight, c):
    """``Stats`` of the row's chunk that starts at class ``c``."""
    n, x_c = min(call[N_CLASSES] - c, CHUNK), advance(x, c * item_bytes(x))
    q_c, weight_c = advance(q, c * item_bytes(q)), advance(weight, c * item_bytes(weight))
    return chunk_sums(call, numbers, x_c, q_c, weight_c, n, np.float64(chunk_top(call, numbers, x_c, n)))


@device
def row_stats(call, numbers, x, q, weight):
    """``Stats`` of a whole row of several chunks."""
    apart()
    o = options_of(call, numbers)
    found = chunk_at(call, numbers, x, q, weight, 0)
    for c in range(CHUNK, call[N_CLASSES], CHUNK):
        found = merged(found, chunk_at(call, numbers, x, q, weight, c), o, zeros(x))
    return found
