"""Rows of which all powers are kept, without options that ask for more: what most calls are made of.

``stats.look`` and ``gradient.write_rows`` do the same for any row, and call a function for each. Here the loop over the
rows is inside, with all its constants in registers, and nothing is asked that is the same for all of them (one thread,
nanoseconds a row in place of theirs: with 100 classes 55 for 84, with 256 100 for 129, with 1,000 375 for 410).
"""

from __future__ import annotations

import numpy as np

from .call import (
    FETCH,
    GRADIENT,
    GRADIENT_STEP,
    KIND,
    LOG_SOFTMAX,
    N_CLASSES,
    NONE,
    STREAM,
    X_STEP,
    options_of,
    row_start,
    target_of,
)
from .compile import device, inline
from .gradient import fill, kept_of, kept_power, no_edge
from .maths import constants
from .simd import (
    apart,
    count_true,
    iota,
    lanes,
    load,
    load_part,
    prefetch_write,
    store,
    store_one,
    store_part,
    total,
    where,
    widen,
    zeros,
    zeros64,
)
from .stats import shift_of
from .sums import BLOCK, add, even_vector, keep_power, largest_logit
from .table import AHEAD, AT_TARGET, FACTOR, KEPT, LEAST, LEFT, MAGIC, POWER, SCALE, TOP, Stats, put_stats

FEW = 16  # vectors of the longest rows taken this way where gradients go past the caches, or are not asked for


@inline
def are_short(call, numbers, x):
    """Whether the rows of a call can be taken this way."""
    vectors = (call[N_CLASSES] + lanes(x) - 1) // lanes(x)
    most = KEPT if call[GRADIENT] != 0 and call[STREAM] == 0 else FEW
    return vectors <= most and call[KIND] != LOG_SOFTMAX and options_of(call, numbers, x).even


@device
def largest_of_short(call, x0, first, n, table):
    """The largest logits of rows ``first`` to ``first + n``, to where ``look_short`` finds them.

    Between the ends of a group's rows and their gradients, which wait for these, the processor has little to do: then
    is the time to look for the next group's (100 and 1,000 classes, one thread: 5 %).
    """
    apart()
    for r in range(n):
        ignored = target_of(call, first + r)[1]
        x = row_start(call, x0, 0, X_STEP, first + r)
        table[AHEAD * lanes(x0) + r] = 0.0 if ignored else largest_logit(x, call[N_CLASSES], 1.0)


@device
def look_short(call, numbers, x0, g0, group, start, stop):
    """As ``stats.look``, at all classes of the group's rows ``start`` to ``stop``.

    Gives False, and has done nothing that matters, where logits are so large that more is asked for.
    """
    apart()
    o, width, n, table = options_of(call, numbers, x0), lanes(x0), call[N_CLASSES], group.table
    c, fetch, keep = constants(zeros(x0)), call[FETCH], call[GRADIENT] != 0
    whole = n // width * width
    inside = iota(zeros(x0)) < n - whole
    mine = (iota(zeros(x0)) >= start) & (iota(zeros(x0)) < stop)
    top = where(mine, load(table, AHEAD * width), load(table, TOP * width))
    store(table, TOP * width, top)
    k, base = shift_of(where(mine, top, 0.0), o)
    if count_true(base != 0.0) > 0:
        return False
    store(table, POWER * width, where(mine, k, load(table, POWER * width)))
    store(table, MAGIC * width, c.one - k)
    store(table, LEAST * width, (k + c.lowest) * (1.0 / o.hi))
    for r in range(start, stop):
        i = group.first + r
        if target_of(call, i)[1]:
            continue
        x, g, kept = row_start(call, x0, 0, X_STEP, i), row_start(call, g0, 1, GRADIENT_STEP, i), kept_of(group, r)
        magic, least = np.float64(table[MAGIC * width + r]), np.float64(table[LEAST * width + r])
        mark = np.float64(table[TOP * width + r])
        middle = mark if abs(mark) < np.inf else 0.0
        s, linear, others = zeros64(x), zeros64(x), zeros(x)
        for q in range(0, whole, BLOCK):
            a, b, below = zeros(x), zeros(x), zeros(x)
            for j in range(q, min(q + BLOCK, whole), width):
                v, a, b, others = even_vector(x, j, o, fetch, magic, least, mark, a, b, others, kept, keep)
                if keep:
                    prefetch_write(g, j)
                if o.spread != NONE:
                    below = below + (v - middle)
            s, linear = s + (widen(a) + widen(b)), linear + widen(below)
        if whole < n:  # (sums of their own, so that the bits are those of ``sums.even_end``)
            v = load_part(x, whole, n - whole)
            a, b, others, scale, rest = add(v, inside, o, 1.0, magic, least, mark, zeros(x), zeros(x), others)
            if keep:
                keep_power(x, kept, whole, scale, rest)
            s, linear = s + (widen(a) + widen(b)), linear + widen(where(inside, v - middle, 0.0))
        ties, below = n - np.float64(total(others)), total(linear) if o.spread != NONE else 0.0
        linear_sum = o.share * below if o.spread != NONE else 0.0
        power = np.float64(table[POWER * width + r])
        put_stats(x, table, r, Stats(mark, power, 0.0, ties, total(s), linear_sum, o.share * n))
    return True


@device
def write_short(call, numbers, x0, g0, group):
    """As ``gradient.write_rows``, of a whole group that ``look_short`` has looked at."""
    apart()
    o, width, n, table = options_of(call, numbers, x0), lanes(x0), call[N_CLASSES], group.table
    far, whole = KEPT * width, n // width * width
    for r in range(group.n):
        i = group.first + r
        g, kept, (y, ignored) = row_start(call, g0, 1, GRADIENT_STEP, i), kept_of(group, r), target_of(call, i)
        factor, left = np.float64(table[FACTOR * width + r]), np.float64(table[LEFT * width + r])
        if ignored or factor != factor:
            fill(g, n, 0.0 if ignored else np.nan, False, no_edge(x0))
            continue
        minus = o.share * np.float64(table[SCALE * width + r]) if o.spread != NONE else 0.0
        for j in range(0, whole, width):
            d = kept_power(load(kept, j), load(kept, far + j), factor, left)
            store(g, j, d - minus if o.spread != NONE else d)
        if whole < n:
            d = kept_power(load(kept, whole), load(kept, far + whole), factor, left) - minus
            store_part(g, whole, n - whole, d)
        if y >= 0:
            store_one(g, y, table[AT_TARGET * width + r])
