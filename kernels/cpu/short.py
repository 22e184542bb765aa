"""Rows of which all powers are kept, without options that ask for more: what most calls are made of.

``stats.look`` and ``gradient.write_rows`` do the same for any row, and call a function for each. Here the loop over the
rows is inside, with all its constants in registers, and nothing is asked that is the same for all of them (one thread,
nanoseconds a row in place of theirs: with 100 classes 55 for 84, with 256 100 for 129, with 1,000 375 for 410).
"""

from __future__ import annotations

import numpy as np

from ..task import LOG_SOFTMAX
from .call import (
    FETCH,
    GRADIENT,
    GRADIENT_STEP,
    KIND,
    N_CLASSES,
    NONE,
    Q_STEP,
    X_STEP,
    Q,
    is_streamed,
    options_of,
    row_start,
    target_of,
)
from .compile import device, inline
from .element import soft_weights
from .gradient import fill, kept_of, kept_power, no_edge
from .maths import constants, least_with_power
from .pointers import at_once, item_bytes, load, load_all, load_part, store, store_one, store_part
from .simd import NATIVE, WIDE, apart, count_true, iota, lanes, where, zeros
from .stats import shift_of
from .sums import (
    BOTH,
    EVEN_BLOCK,
    NOTHING,
    Shift,
    after_block,
    even_block,
    even_end,
    largest_from,
    largest_logit,
    no_sums,
    no_totals,
)
from .table import (
    AHEAD,
    AT_TARGET,
    BASE,
    FACTOR,
    LEAST,
    LEFT,
    LINEAR,
    MAGIC,
    POWER,
    SCALE,
    SPREAD,
    TOP,
    far,
    most_kept_of,
    put_sums,
)

FEW = 16  # vectors of the longest rows taken this way where gradients are not asked for
# ... and where gradients are large, but go through the caches all the same. Nanoseconds an element out of cache, on two
# threads, this way and past the caches (``streamed.py``):
#
# classes                  100        160        200        256        300        500      1,000      2,000
# float32               .39 .43    .34 .35    .34 .32    .36 .31    .35 .29    .31 .26    .32 .27
# bfloat16                                    .25 .33    .24 .33    .24 .31    .23 .31    .22 .26    .23 .27
THROUGH, THROUGH64 = 11 * WIDE // NATIVE, 16 * WIDE // NATIVE  # of float64


@inline
def are_short(call, numbers, x):
    """Whether the rows of a call can be taken this way."""
    vectors = (call[N_CLASSES] + lanes(x) - 1) // lanes(x)
    most = FEW
    if call[GRADIENT] != 0:
        most = most_kept_of(x)  # (of 16-bit types too: half as many bytes leave the memory waiting in either case)
        if is_streamed(call) and item_bytes(x) >= 4:
            most = THROUGH if item_bytes(x) == 4 else THROUGH64
    o = options_of(call, numbers, x)
    return vectors <= most and (o.even or o.soft)


@inline
def looks_ahead(call, x):
    """Whether ``look_short`` looks for the largest logits of the next group, beside its sums.

    (With 1,000 and 2,000 classes, 4 % faster than at the time of ``largest_of_short``; with 200, 6 % slower.)
    """
    return call[N_CLASSES] > FEW * lanes(x) and call[Q] == 0


@inline
def put_largest(call, x0, i, r, table):
    """The largest logit of row ``i``, to where ``look_short`` finds it."""
    ignored, x = target_of(call, i)[1], row_start(call, x0, 0, X_STEP, i)
    table[AHEAD * lanes(x0) + r] = 0.0 if ignored else largest_logit(x, call[N_CLASSES], 1.0)


@device
def largest_of_short(call, x0, first, n, table):
    """The largest logits of rows ``first`` to ``first + n``, to where ``look_short`` finds them.

    Between the ends of a group's rows and their gradients, which wait for these, the processor has little to do: then
    is the time to look for the next group's (100 classes, one thread: 5 %).
    """
    apart()
    for r in range(n):
        put_largest(call, x0, first + r, r, table)


@inline
def begin_short(call, numbers, x0, table, start, stop):
    """Put what the sums of rows ``start`` to ``stop`` take into the table; False if logits are huge."""
    o, c, width = options_of(call, numbers, x0), constants(zeros(x0)), lanes(x0)
    mine = (iota(zeros(x0)) >= start) & (iota(zeros(x0)) < stop)
    top = where(mine, load(table, AHEAD * width), load(table, TOP * width))
    store(table, TOP * width, top)
    k, base = shift_of(where(mine, top, 0.0), o)
    if count_true(base != 0.0) > 0:
        return False
    store(table, POWER * width, where(mine, k, load(table, POWER * width)))
    store(table, BASE * width, where(mine, 0.0, load(table, BASE * width)))
    store(table, MAGIC * width, c.one - k)
    store(table, LEAST * width, least_with_power(k, k, o.hi))
    return True


@inline
def shift_of_lane(like, table, width, r):
    """``Shift`` of the row in lane ``r``, as vectors of as many lanes as what is loaded from ``like``."""
    magic, least = load_all(like, MAGIC * width + r), load_all(like, LEAST * width + r)
    return Shift(magic, least, load_all(table, TOP * width + r))


@device
def look_short(call, numbers, x0, g0, group, start, stop):
    """As ``stats.look``, at all classes of the group's rows ``start`` to ``stop``.

    Gives False, and has done nothing that matters, where logits are so large that more is asked for.
    """
    apart()
    return _look(False, call, numbers, x0, g0, x0, group, start, stop)


@device
def look_soft(call, numbers, x0, g0, q0, group, start, stop):
    """``look_short`` at rows with probability targets.

    (In place of ``stats.look``, a Zen 4, one thread: .68 of the time of 1,000 classes. Apart: both in one function, and
    rows of 100 classes without them take 6 % longer.)
    """
    apart()
    return _look(True, call, numbers, x0, g0, q0, group, start, stop)


@inline
def _look(soft, call, numbers, x0, g0, q0, group, start, stop):
    """Both; ``soft`` is a constant."""
    o, width, n, table = options_of(call, numbers, x0), lanes(x0), call[N_CLASSES], group.table
    fetch, writes = call[FETCH], call[GRADIENT] != 0
    keep = BOTH if writes and call[KIND] != LOG_SOFTMAX else NOTHING
    whole, spread = n // width * width, o.spread != NONE
    if not begin_short(call, numbers, x0, table, start, stop):
        return False
    for r in range(start, stop):
        i = group.first + r
        i_next = i + group.size
        scan, ahead = looks_ahead(call, x0) and i_next < group.end, row_start(call, x0, 0, X_STEP, i)
        if target_of(call, i)[1]:
            if scan:
                put_largest(call, x0, i_next, r, table)
            continue
        if scan:
            ahead = row_start(call, x0, 0, X_STEP, i_next)
        x, g, kept = row_start(call, x0, 0, X_STEP, i), row_start(call, g0, 1, GRADIENT_STEP, i), kept_of(group, r)
        shift, middle = shift_of_lane(table, table, width, r), 0.0
        shift_at_once = shift_of_lane(at_once(table), table, width, r)
        if spread:
            top_r = np.float64(table[TOP * width + r])
            middle = top_r if abs(top_r) < np.inf else 0.0
        totals, sums, c = no_totals(x), no_sums(x), np.int64(0)
        args = o, fetch, middle, kept, row_start(call, q0, 2, Q_STEP, i) if soft else q0
        while True:
            last = min(c + EVEN_BLOCK, whole)
            if keep == BOTH:
                sums = even_block(
                    BOTH, True, soft, scan, spread, x, g, ahead, c, last, shift, shift_at_once, args, sums
                )
            else:
                sums = even_block(
                    NOTHING, writes, soft, scan, spread, x, g, ahead, c, last, shift, shift_at_once, args, sums
                )
            c += EVEN_BLOCK
            if c >= whole:
                break
            totals, sums = after_block(x, soft, spread, totals, sums)
        rest, ties, linear, weights = even_end(x, n, whole, soft, shift, args, totals, sums, keep)
        if scan:
            ignored = target_of(call, i_next)[1]
            table[AHEAD * width + r] = 0.0 if ignored else largest_from(ahead, whole, n, sums.later)
        put_sums(x, table, r, rest, ties)
        if spread:
            table[LINEAR * width + r], table[SPREAD * width + r] = linear, weights
    return True


@inline
def _write_log_softmax(call, x0, g0, group):
    """As ``gradient._log_softmax``, of the rows of a group."""
    width, n, table = lanes(x0), call[N_CLASSES], group.table
    whole = n // width * width
    for r in range(group.n):
        x, g = row_start(call, x0, 0, X_STEP, group.first + r), row_start(call, g0, 1, GRADIENT_STEP, group.first + r)
        top, log_top = load_all(table, TOP * width + r), load_all(table, FACTOR * width + r)
        for j in range(0, whole, width):
            store(g, j, (load(x, j) - top) - log_top)
        if whole < n:
            store_part(g, whole, n - whole, (load_part(x, whole, n - whole) - top) - log_top)


@device
def write_short(call, numbers, x0, g0, group):
    """As ``gradient.write_rows``, of a whole group that ``look_short`` has looked at."""
    apart()
    _write(False, call, numbers, x0, g0, x0, group)


@device
def write_soft(call, numbers, x0, g0, q0, group):
    """``write_short``, of one that ``look_soft`` has looked at."""
    apart()
    _write(True, call, numbers, x0, g0, q0, group)


@inline
def _write(soft, call, numbers, x0, g0, q0, group):
    """Both; ``soft`` is a constant."""
    if call[KIND] == LOG_SOFTMAX:
        _write_log_softmax(call, x0, g0, group)
        return
    o, width, n, table = options_of(call, numbers, x0), lanes(x0), call[N_CLASSES], group.table
    whole = n // width * width
    for r in range(group.n):
        i = group.first + r
        g, kept, (y, ignored) = row_start(call, g0, 1, GRADIENT_STEP, i), kept_of(group, r), target_of(call, i)
        factor, left = load_all(table, FACTOR * width + r), load_all(table, LEFT * width + r)
        if ignored or table[FACTOR * width + r] != table[FACTOR * width + r]:
            fill(g, n, 0.0 if ignored else np.nan, False, no_edge(x0))
            continue
        if soft:
            scale, q = load_all(table, SCALE * width + r), row_start(call, q0, 2, Q_STEP, i)
            for j in range(0, whole, width):
                d = kept_power(load(kept, j), load(kept, far(kept) + j), factor, left)
                store(g, j, d - soft_weights(x0, q, j, width, True, o) * scale)
            if whole < n:
                d = kept_power(load(kept, whole), load(kept, far(kept) + whole), factor, left)
                store_part(g, whole, n - whole, d - soft_weights(x0, q, whole, n - whole, False, o) * scale)
            continue
        minus = o.share * np.float64(table[SCALE * width + r]) if o.spread != NONE else 0.0
        for j in range(0, whole, width):
            d = kept_power(load(kept, j), load(kept, far(kept) + j), factor, left)
            store(g, j, d - minus if o.spread != NONE else d)
        if whole < n:
            d = kept_power(load(kept, whole), load(kept, far(kept) + whole), factor, left) - minus
            store_part(g, whole, n - whole, d)
        if y >= 0:
            store_one(g, y, table[AT_TARGET * width + r])
