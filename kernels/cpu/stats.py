"""First look at a row: what the loss, and the scale of the gradient, follow from.

A row is taken in chunks, and the chunks' findings are merged in order. A chunk's findings depend on nothing outside it,
so that threads may share the chunks of a row, and whoever computes them gives the same bits.

The largest class is left out of the sum: of a row that is sure of one class, what matters is all the others, and next
to 1 they would be rounded away. It is left out by its value, equals too, which are counted: no loop needs to know where
it is, nor where the target is.
"""

from __future__ import annotations

import numpy as np

from ..formats import LN2
from .call import (
    FETCH,
    GRADIENT,
    GRADIENT_STEP,
    N_CLASSES,
    NONE,
    Q_STEP,
    STREAM,
    X_STEP,
    options_of,
    row_start,
    target_of,
)
from .compile import device, inline
from .element import spread_weights, times, value
from .maths import constants, parts_above, power_parts
from .simd import (
    above_or_nan,
    absolute,
    advance,
    apart,
    arithmetic_at,
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
    prefetch_write,
    store,
    total,
    where,
    widen,
    zeros,
    zeros64,
)
from .table import BASE, LEAST, MAGIC, MARK, POWER, TOP, Stats, put_stats, stats_of

KEPT = 128  # vectors of which the powers can be kept for the gradient: logits, both parts and gradients are 32 KiB
CHUNK = 8192  # classes a chunk: 32 KiB of float32, so that what is read for the maximum is still in L1 for the sum
BLOCK = 256  # classes summed in the arithmetic type before the sums go to float64: at most 16 roundings a lane


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
def add(v, inside, o, sign, magic, least, mark, a, b, others):
    """Add the powers of a vector's classes, but those at the top, to the sum ``a + b``, and 1 each to ``others``.

    A power is ``scale + scale * r`` with ``scale`` a power of two. What is added up in ``a`` needs hardly any rounding,
    and in ``b``, where it is some, it is less than a third of that of the whole. Gives ``scale`` and ``r`` too, for who
    keeps them; ``least`` is the ``sign * v`` of which the power is the smallest normal number.
    """
    scale, r = parts_above(v, o.hi, o.lo, magic, above_or_nan(v * sign, least))
    other = (v != mark) & inside
    a, b = where(other, a + scale, a), where(other, fma(scale, r, b), b)
    return a, b, where(other, others + 1.0, others), scale, r


@inline
def keep_power(x, kept, j, scale, r):
    """Put what ``add`` gave of the classes from ``j`` on where ``gradient.py`` finds it."""
    store(kept, j, scale)
    store(kept, KEPT * lanes(x) + j, r)


@device
def even_sums(call, numbers, x, n, magic, least, mark, middle, kept, keep, g, touch):
    """``rest``, ``ties`` and the sum of ``v - middle`` of ``n`` classes, for rows that need no more than that.

    Meanwhile memory is asked for what comes next, and if ``touch`` for where the gradient will be written: here, where
    there is most to compute, it waits for nobody. (A function of its own, so that all constants of the loop stay in
    registers: with 1,000 classes, 8 % of the time.)
    """
    apart()
    o, fetch = options_of(call, numbers), call[FETCH]
    width = lanes(x)
    whole = n // width * width
    s, linear, others = zeros64(x), zeros64(x), zeros(x)
    everywhere = others == others
    if o.spread == NONE:
        for q in range(0, whole, BLOCK):
            a, b = zeros(x), zeros(x)
            for j in range(q, min(q + BLOCK, whole), width):
                prefetch(advance(x, fetch), j)
                a, b, others, scale, r = add(load(x, j), everywhere, o, 1.0, magic, least, mark, a, b, others)
                if touch:
                    prefetch_write(g, j)
                if keep:
                    keep_power(x, kept, j, scale, r)
            s = s + (widen(a) + widen(b))
    else:
        for q in range(0, whole, BLOCK):
            a, b, below = zeros(x), zeros(x), zeros(x)
            for j in range(q, min(q + BLOCK, whole), width):
                prefetch(advance(x, fetch), j)
                v = load(x, j)
                a, b, others, scale, r = add(v, everywhere, o, 1.0, magic, least, mark, a, b, others)
                if touch:
                    prefetch_write(g, j)
                if keep:
                    keep_power(x, kept, j, scale, r)
                below = below + (v - middle)
            s, linear = s + (widen(a) + widen(b)), linear + widen(below)
    v = load_part(x, whole, n - whole)
    inside = iota(v) < n - whole
    a, b, others, scale, r = add(v, inside, o, 1.0, magic, least, mark, zeros(x), zeros(x), others)
    if keep and whole < n:
        keep_power(x, kept, whole, scale, r)
    linear = linear + widen(where(inside, v - middle, 0.0))
    below = total(linear) if o.spread != NONE else 0.0
    return total(s + (widen(a) + widen(b))), n - np.float64(total(others)), below


@inline
def _general_block(x, first, last, whole, o, magic, least, base, mark, middle, weight, q, others, kept, keep):
    """Sums over classes ``first`` to ``last``: of the powers, and over the spread weights. ``whole``: of vectors."""
    a, b, linear, spread = zeros(x), zeros(x), zeros(x), zeros(x)
    for j in range(first, last, lanes(x)):
        v = value(load(x, j) if whole else load_part(x, j, last - j), o) - base
        inside = iota(v) >= 0 if whole else iota(v) < last - j
        a, b, others, scale, r = add(v, inside, o, o.sign, magic, least, mark, a, b, others)
        if keep:
            keep_power(x, kept, j, scale, r)
            if o.capped:
                store(kept, 2 * KEPT * lanes(x) + j, v)
        if o.spread != NONE:
            c = where(inside, spread_weights(x, weight, q, j, last - j, whole, o), 0.0)
            linear = linear + times(c, (v - middle) * o.sign)
            spread = spread + c
    return widen(a) + widen(b), widen(linear), widen(spread), others


@device
def general_sums(call, numbers, x, q, weight, n, magic, least, base, mark, middle, kept, keep):
    """As ``even_sums`` for every option: ``rest``, ``ties`` and the sums over the spread weights."""
    apart()
    o = options_of(call, numbers)
    s, linear, spread, others = zeros64(x), zeros64(x), zeros64(x), zeros(x)
    whole = n // lanes(x) * lanes(x)
    for first in range(0, whole, BLOCK):
        last = min(whole, first + BLOCK)
        a, b, c, others = _general_block(
            x, first, last, True, o, magic, least, base, mark, middle, weight, q, others, kept, keep
        )
        s, linear, spread = s + a, linear + b, spread + c
    a, b, c, others = _general_block(
        x, whole, n, False, o, magic, least, base, mark, middle, weight, q, others, kept, keep
    )
    return total(s + a), n - np.float64(total(others)), total(linear + b), total(spread + c)


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
def look(call, numbers, x0, g0, q0, weight, n, first, start, stop, table, kept, step):
    """Look at ``n`` classes of rows ``first + start`` to ``first + stop``, of which ``x0`` has the first one's first.

    What is found goes into lanes ``start`` to ``stop`` of the table; powers, ``step`` a row, into ``kept``, if that is
    not 0. The memory of gradients, which is ``g0``'s, is asked for where rows are short.
    """
    apart()
    o, c, width = options_of(call, numbers), constants(zeros(x0)), lanes(x0)
    touch = call[GRADIENT] != 0 and call[STREAM] == 0 and n == call[N_CLASSES] and n <= KEPT * width
    # All maxima first: the sum of a row has to wait for its maximum, but not for that of the row before.
    for r in range(start, stop):
        if not target_of(call, first + r)[1]:
            table[TOP * width + r] = largest_logit(row_start(call, x0, 0, X_STEP, first + r), n, o.order)
    found = load(table, TOP * width)
    mine = (iota(found) >= start) & (iota(found) < stop)
    # (the softcap grows with the logit: the largest of the one is that of the other)
    top = where(mine, value(found * o.order, o) * o.sign, found)
    k, base = shift_of(top, o)
    store(table, TOP * width, top)
    store(table, POWER * width, where(mine, k, load(table, POWER * width)))
    store(table, BASE * width, where(mine, base, load(table, BASE * width)))
    store(table, MAGIC * width, c.one - k)
    store(table, LEAST * width, (k + c.lowest) * (1.0 / abs(o.hi)))
    store(table, MARK * width, top * o.sign - base)
    for r in range(start, stop):
        if target_of(call, first + r)[1]:
            continue
        x, q = row_start(call, x0, 0, X_STEP, first + r), row_start(call, q0, 2, Q_STEP, first + r)
        shift = np.float64(table[BASE * width + r])
        magic, least = np.float64(table[MAGIC * width + r]), np.float64(table[LEAST * width + r])
        mark = np.float64(table[MARK * width + r])
        middle = mark if abs(mark) < np.inf else 0.0  # (-inf alone: every difference from that would be NaN)
        kept_r, g = advance(kept, r * step * item_bytes(kept)), row_start(call, g0, 1, GRADIENT_STEP, first + r)
        if o.even and shift == 0.0:
            rest, ties, linear = even_sums(call, numbers, x, n, magic, least, mark, middle, kept_r, step > 0, g, touch)
            linear, spread = _times(o.share, linear), o.share * n
        else:
            rest, ties, linear, spread = general_sums(
                call, numbers, x, q, weight, n, magic, least, shift, mark, middle, kept_r, step > 0
            )
        top_r, power = np.float64(table[TOP * width + r]), np.float64(table[POWER * width + r])
        put_stats(x, table, r, Stats(top_r, power, shift, ties, rest, linear, spread))


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
def chunk_at(call, numbers, x0, q0, weight, c, i, table, r):
    """``Stats`` of the chunk of row ``i`` that starts at class ``c``, by way of lane ``r`` of the table."""
    n, x_c = min(call[N_CLASSES] - c, CHUNK), advance(x0, c * item_bytes(x0))
    q_c, weight_c = advance(q0, c * item_bytes(q0)), advance(weight, c * item_bytes(weight))
    look(call, numbers, x_c, x_c, q_c, weight_c, n, i - r, r, r + 1, table, arithmetic_at(0, x0), np.int64(0))
    return stats_of(x0, table, r)


@device
def look_by_chunks(call, numbers, x0, q0, weight, i, table, r):
    """Look at the whole of row ``i``, of several chunks: what is found goes into lane ``r`` of the table."""
    apart()
    o = options_of(call, numbers)
    found = chunk_at(call, numbers, x0, q0, weight, np.int64(0), i, table, r)
    for c in range(CHUNK, call[N_CLASSES], CHUNK):
        found = merged(found, chunk_at(call, numbers, x0, q0, weight, c, i, table, r), o, zeros(x0))
    put_stats(x0, table, r, found)
