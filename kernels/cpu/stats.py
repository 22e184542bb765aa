"""First look at a row: what the loss, and the scale of the gradient, follow from.

A row is taken in chunks, and the chunks' findings are merged in order. A chunk's findings depend on nothing outside it,
so that threads may share the chunks of a row, and whoever computes them gives the same bits.
"""

from __future__ import annotations

import numpy as np

from ..formats import LN2
from .beside import may_wait, sums_beside
from .call import GRADIENT, GRADIENT_STEP, N_CLASSES, Q_STEP, STREAMS, X_STEP, options_of, row_start, target_of
from .compile import device, inline
from .element import value
from .gradient import fill, kept_of, no_edge, write_rows
from .maths import constants, least_with_power, power_parts
from .pointers import advance, item_bytes, load, store
from .simd import LOOKS_UP, absolute, apart, extract, fma, iota, lanes, power_of_two, where, zeros
from .sums import (
    BOTH,
    CHUNK,
    NOTHING,
    REST,
    Shift,
    even_sums,
    general_sums,
    largest_logit,
    soft_sums,
    waiting,
)
from .table import AHEAD, BASE, KNOWN, LEAST, MAGIC, MARK, POWER, TOP, Stats, put_stats, stats_of


@inline
def shift_of(top, o):
    """The shift of rows, or chunks, with that largest ``sign * v``: see maths.py. Gives K and ``base``.

    K is even: then what lies halfway between two exponents is rounded to the same one, whatever K. (Of a row of several
    chunks, part of a power may be of the chunk's K, and the other part of the row's.) If the nearest is not, it is the
    one below: no power is lost for it. (With nodes K is never above the largest. Without, it may be: there, down to
    ``2**-0.5`` of the least scale there still is a power.)

    Huge logits lose the exactness of maths.py: there, the largest is subtracted first, as everybody does.
    """
    c = constants(top)
    huge = absolute(top * o.hi) > c.limit
    k = fma(top, abs(o.hi), c.zero) - c.zero
    if LOOKS_UP:
        k = where(fma(top, abs(o.hi), 0.0 - k) < 0.0, k - 1.0, k)
    k = (((k * 0.5 - 0.25) + c.zero) - c.zero) * 2.0
    return where(huge | (k != k), 0.0, k), where(huge & (absolute(top) < np.inf), top * o.sign, 0.0)


@inline
def _looked_at_next(call, x0, x, c, n, group, r):
    """What is going to be looked at after ``n`` classes of row ``r``, from ``c`` on, which are at ``x``.

    A pointer, how many classes, and whether there is anything, of as many classes or more; else these again.
    """
    n_classes, i = call[N_CLASSES], group.first + r + group.together
    if group.together == 0:
        return x, n, False
    if c + n < n_classes:
        return advance(x, n * item_bytes(x)) if c + 2 * n <= n_classes else x, n, c + 2 * n <= n_classes
    there = i < group.end and not target_of(call, i)[1]
    return row_start(call, x0, 0, X_STEP, i) if there else x, min(n_classes, CHUNK) if there else n, there


@inline
def _keep_for_later(call, x0, c, n, group, r, top):
    """Put the largest logit of what is looked at next where that will find it."""
    table, lane = group.table, r
    if c + n == call[N_CLASSES]:
        lane = (r + group.together) % group.size
        if lane <= r:
            table = group.next_table
    table[AHEAD * lanes(x0) + lane], table[KNOWN * lanes(x0) + lane] = top, 1.0


@device
def look(call, numbers, x0, g0, q0, weight, c, n, group, start, stop, before):
    """Look at ``n`` classes from ``c`` on of the group's rows ``start`` to ``stop``.

    What is found goes into lanes ``start`` to ``stop`` of the table. Meanwhile, the gradients of those rows of the
    group ``before`` are written.
    """
    apart()
    o, constant, width, table = options_of(call, numbers, x0), constants(zeros(x0)), lanes(x0), group.table
    x_c, q_c = advance(x0, c * item_bytes(x0)), advance(q0, c * item_bytes(q0))
    weight_c, g_c = advance(weight, c * item_bytes(weight)), advance(g0, c * item_bytes(g0))
    # All maxima first: the sum of a row has to wait for its maximum, but not for that of the row before.
    for r in range(start, stop):
        if table[KNOWN * width + r] != 0.0:
            table[TOP * width + r], table[KNOWN * width + r] = table[AHEAD * width + r], 0.0
        elif not target_of(call, group.first + r)[1]:
            x = row_start(call, x_c, 0, X_STEP, group.first + r)
            table[TOP * width + r] = largest_logit(x, n, o.order)
    found = load(table, TOP * width)
    mine = (iota(found) >= start) & (iota(found) < stop)
    # (the softcap grows with the logit: the largest of the one is that of the other)
    top = where(mine, value(found * o.order, o) * o.sign, found)
    k, base = shift_of(top, o)
    store(table, TOP * width, top)
    store(table, POWER * width, where(mine, k, load(table, POWER * width)))
    store(table, BASE * width, where(mine, base, load(table, BASE * width)))
    store(table, MAGIC * width, constant.one - k)
    store(table, LEAST * width, least_with_power(k, k, o.hi))
    store(table, MARK * width, top * o.sign - base)
    for r in range(start, stop):
        i = group.first + r
        ignored = target_of(call, i)[1]
        waits = not ignored and before.waits and may_wait(call, numbers, x0, before, r)
        if r < before.n and c == 0 and not waits:
            write_rows(call, numbers, x0, g0, q0, weight, np.int64(0), call[N_CLASSES], before, r, r + 1)
        if ignored:
            continue
        x, q = row_start(call, x_c, 0, X_STEP, i), row_start(call, q_c, 2, Q_STEP, i)
        g = row_start(call, g_c, 1, GRADIENT_STEP, i)
        base_r, mark = np.float64(table[BASE * width + r]), np.float64(table[MARK * width + r])
        shift = Shift(np.float64(table[MAGIC * width + r]), np.float64(table[LEAST * width + r]), mark)
        middle = mark if abs(mark) < np.inf else 0.0  # (-inf alone: every difference from that would be NaN)
        short, keep = (o.even or o.soft) and base_r == 0.0, BOTH if group.step > 0 else NOTHING
        kept = kept_of(group, r)
        part_waits, place = waiting(call, x, g, c, o, 0.0, group)
        if part_waits:
            kept, keep = place, REST
        rest, ties, linear, spread, later = 0.0, 0.0, 0.0, o.share * n, 0.0
        ahead, n_ahead, there = _looked_at_next(call, x0, x, c, n, group, r)
        # (beside what is kept of the rows for gradients, there is no room for others in the first-level cache: 8 %)
        there = there and (waits or call[GRADIENT] == 0) and not o.soft
        if STREAMS and waits:
            rest, ties, linear, spread, later = sums_beside(
                call, numbers, x, n, shift, middle, short, x0, g0, c, before, r, ahead, n_ahead, kept
            )
        elif short and o.soft:
            rest, ties, linear, spread, later = soft_sums(call, numbers, x, q, n, shift, middle, kept, keep)
        elif short:
            rest, ties, linear, spread, later = even_sums(
                call, numbers, x, n, shift, middle, kept, keep, there, ahead, n_ahead
            )
        if short:
            if there:
                _keep_for_later(call, x0, c, n, group, r, later)
        else:
            keeps, capped = group.step > 0, part_waits and o.capped
            rest, ties, linear, spread = general_sums(
                call, numbers, x, g, q, weight_c, n, shift, base_r, middle, kept, keeps, capped
            )
            if part_waits and not o.capped:  # (a chunk of huge logits, beside others: powers of 0)
                fill(kept, n, 0.0, False, no_edge(kept))
        top_r, power = np.float64(table[TOP * width + r]), np.float64(table[POWER * width + r])
        put_stats(x, table, r, Stats(top_r, power, base_r, ties, rest, linear, spread))


@inline
def _sum_of(a, k, base, o, like):
    """All powers of ``a``, those at the top too, as powers with another K and ``base``."""
    if a.top == -np.inf:
        return a.rest  # 0, or NaN
    c = constants(like)
    _, scale, r = power_parts(like + (a.top * o.sign - a.base), o.powers, c.one - a.power, 0.0)
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
def chunk_at(call, numbers, x0, g0, q0, weight, c, group, r, before):
    """``Stats`` of the chunk of the group's row ``r`` that starts at class ``c``, by way of its lane of the table."""
    n = min(call[N_CLASSES] - c, CHUNK)
    look(call, numbers, x0, g0, q0, weight, c, n, group, r, r + 1, before)
    return stats_of(x0, group.table, r)


@device
def look_by_chunks(call, numbers, x0, g0, q0, weight, group, r, before):
    """``look`` at the whole of row ``r`` of a group, of several chunks."""
    apart()
    if target_of(call, group.first + r)[1]:
        if STREAMS:  # the gradient of the group before
            look(call, numbers, x0, g0, q0, weight, np.int64(0), np.int64(0), group, r, r + 1, before)
        return
    o = options_of(call, numbers, x0)
    found = chunk_at(call, numbers, x0, g0, q0, weight, np.int64(0), group, r, before)
    for c in range(CHUNK, call[N_CLASSES], CHUNK):
        found = merged(found, chunk_at(call, numbers, x0, g0, q0, weight, c, group, r, before), o, zeros(x0))
    put_stats(x0, group.table, r, found)
