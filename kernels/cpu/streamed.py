"""Rows of which all powers are kept, as in ``short.py``, whose gradients go past the caches.

What ``stats.look`` does by way of ``beside.py``, without a call for each row (1,000 classes, one thread, in the cache:
434 nanoseconds a row in place of 509).
"""

from __future__ import annotations

import numpy as np

from .addresses import lead_of
from .beside import Part, block, may_wait, start_of, write_part
from .call import FETCH, GRADIENT_STEP, N_CLASSES, NONE, X_STEP, options_of, row_start, target_of
from .compile import device, inline
from .gradient import from_kept, kept_of, whole_vectors, write_ends, write_rows
from .pointers import advance, item_bytes, load_all
from .short import begin_short, put_largest, shift_of_lane
from .simd import apart, lanes
from .sums import BLOCK, BOTH, after_block, even_end, largest_from, no_sums, no_totals
from .table import (
    AHEAD,
    AT_TARGET,
    FACTOR,
    LEFT,
    LINEAR,
    SCALE,
    SPREAD,
    TOP,
    Plan,
    put_sums,
)


@inline
def _kept_part(call, g0, group, r, waits, lead):
    """The gradient of the group's row ``r``, whole vectors but for ``lead`` classes; nothing, if it does not wait."""
    n, width, table, i = call[N_CLASSES], lanes(g0), group.table, group.first + r
    g, kept = row_start(call, g0, 1, GRADIENT_STEP, i), kept_of(group, r)
    begin, whole = whole_vectors(g, n, True)
    begin = min(begin + lead, whole)
    return Part(
        g,
        advance(g, begin * item_bytes(g)),
        advance(kept, begin * item_bytes(kept)),
        whole - begin if waits else 0,
        target_of(call, i)[0] - begin if waits else -1,
        Plan(
            0.0,
            0.0,
            0.0,
            load_all(table, FACTOR * width + r),
            load_all(table, LEFT * width + r),
            np.float64(table[SCALE * width + r]),
            load_all(table, AT_TARGET * width + r),
        ),
    )


@device
def look_streamed(call, numbers, x0, g0, q0, weight, group, before):
    """As ``short.look_short``, at a whole group; meanwhile the gradients of the group ``before`` are written.

    The powers of a row of that are where those of the sums are going to be: they are read first.
    """
    apart()
    o, width, n, table = options_of(call, numbers, x0), lanes(x0), call[N_CLASSES], group.table
    whole, spread = n // width * width, o.spread != NONE
    if not begin_short(call, numbers, x0, table, np.int64(0), group.n):
        return False
    for r in range(group.n):
        i = group.first + r
        i_next, ignored = i + group.size, target_of(call, i)[1]
        waits = not ignored and may_wait(call, numbers, x0, before, r)
        if r < before.n and not waits:
            write_rows(call, numbers, x0, g0, q0, weight, np.int64(0), n, before, r, r + 1)
        if ignored:
            if i_next < group.end:
                put_largest(call, x0, i_next, r, group.next_table)
            continue
        x, kept = row_start(call, x0, 0, X_STEP, i), kept_of(group, r)
        ahead = row_start(call, x0, 0, X_STEP, i_next if i_next < group.end else i)
        shift, middle = shift_of_lane(table, table, width, r), 0.0
        if spread:
            top = np.float64(table[TOP * width + r])
            middle = top if abs(top) < np.inf else 0.0
        lead = lead_of(x, ahead, start_of(call, g0, before, r), np.int64(0))
        part = _kept_part(call, g0, before, r, waits, lead)
        if waits:
            write_ends(call, numbers, x0, g0, before, r)
            first = _kept_part(call, g0, before, r, waits, np.int64(0))
            write_part(from_kept, x, np.int64(0), min(first.n, lead), o, first)
        totals, sums, q = no_totals(x), no_sums(x), np.int64(0)
        args = o, call[FETCH], middle, kept, kept
        while True:
            sums = block(from_kept, BOTH, x, q, min(q + BLOCK, whole), shift, args, part, ahead, sums)
            q += BLOCK
            if q >= whole:
                break
            totals, sums = after_block(x, False, spread, totals, sums)
        rest, ties, linear, weights = even_end(x, n, whole, False, shift, args, totals, sums, BOTH)
        if i_next < group.end:
            top_next = largest_from(ahead, whole, n, sums.later)
            group.next_table[AHEAD * width + r] = 0.0 if target_of(call, i_next)[1] else top_next
        put_sums(x, table, r, rest, ties)
        if spread:
            table[LINEAR * width + r], table[SPREAD * width + r] = linear, weights
    return True
