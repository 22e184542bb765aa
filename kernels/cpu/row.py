"""Rows one after the other: look at a few, finish them together, look again and write their gradients."""

from __future__ import annotations

import numpy as np

from . import extras
from .call import (
    ENTROPY,
    GRADIENT,
    GRADIENT_STEP,
    KIND,
    LOG_SOFTMAX,
    LSE,
    N_CLASSES,
    NO_TARGET,
    NONE,
    OFFSETS,
    Q_STEP,
    RANK,
    STREAM,
    X_STEP,
    options_of,
    row_start,
    target_of,
)
from .compile import device, inline
from .element import spread_weights, value
from .finish import (
    BASE,
    DISTANCE,
    FIELDS,
    LINEAR,
    POWER,
    REST,
    REST_LEFT,
    SHARE_Y,
    SPREAD,
    TARGET,
    TIES,
    TOP,
    WEIGHT_Y,
    asks_for_classes,
    cleared,
    finish,
    write_about_classes,
)
from .gradient import Edge, fill, plan_of, write_classes, write_kept
from .simd import advance, apart, extract, item_bytes, lane_buffer, lanes, load_one, rounded, zeros
from .stats import CHUNK, KEPT, chunk_sums, chunk_top, row_stats

GROUP = 8192  # vectors of the rows that are finished together, and then read again: half a second-level cache
ROOM = 3 * KEPT + 1  # of powers, and of v for the softcap; rows whose gradient is not aligned are read a little further


@device
def enter(call, numbers, i, x, q, weight, y, found, table, r):
    """Put what was found in row ``i``, and what else is to be known of it, into lane ``r`` of the table."""
    apart()
    o, n, width = options_of(call, numbers), call[N_CLASSES], lanes(x)
    top = found.top
    if call[LSE] != 0 and top == np.inf and extras.has_nan(x, n, o.order):
        top = np.nan
    table[TOP * width + r], table[POWER * width + r], table[BASE * width + r] = top, found.power, found.base
    rest = np.float64(rounded(x, found.rest))
    table[TIES * width + r], table[REST * width + r], table[REST_LEFT * width + r] = found.ties, rest, found.rest - rest
    table[LINEAR * width + r], table[SPREAD * width + r] = found.linear, found.spread
    if y != NO_TARGET:
        table[TARGET * width + r] = extract(value(zeros(x) + load_one(x, y), o), 0)
        table[WEIGHT_Y * width + r] = load_one(weight, y) if o.weighted else 1.0
        if o.spread != NONE:
            table[SHARE_Y * width + r] = extract(spread_weights(x, weight, q, y, 1, False, o), 0)
    if asks_for_classes(call):
        above = extras.rank(x, n, y, o.order) if call[RANK] != 0 else 0
        write_about_classes(call, i, extras.argmax(x, n, o.order), above)
    if call[ENTROPY] != 0:
        top = found.top - found.base * o.sign
        table[DISTANCE * width + r] = extras.mean_distance(call, numbers, x, n, found.base, found.power, top)


@inline
def _look(call, numbers, x0, q0, weight, first, start, stop, table, kept, step):
    """What there is to be known of rows ``first + start`` to ``first + stop``, into lanes ``start`` to ``stop`` of the
    table; powers, ``step`` a row, are kept if that is not 0.
    """
    n_classes = call[N_CLASSES]
    if n_classes <= CHUNK:
        # All maxima first: the sum of a row has to wait for its maximum, but not for that of the row before.
        for r in range(start, stop):
            x = row_start(call, x0, 0, X_STEP, first + r)
            if not target_of(call, first + r)[1]:
                table[TOP * lanes(x) + r] = chunk_top(call, numbers, x, n_classes)
    for r in range(start, stop):
        x, q = row_start(call, x0, 0, X_STEP, first + r), row_start(call, q0, 2, Q_STEP, first + r)
        y, ignored = target_of(call, first + r)
        if ignored:
            write_about_classes(call, first + r, 0, 0)
            continue
        if n_classes <= CHUNK:
            top = np.float64(table[TOP * lanes(x) + r])
            kept_r = advance(kept, r * step * item_bytes(kept))
            found = chunk_sums(call, numbers, x, q, weight, n_classes, top, kept_r, step > 0)
        else:
            found = row_stats(call, numbers, x, q, weight)
        enter(call, numbers, first + r, x, q, weight, y, found, table, r)


@inline
def run_rows(call, numbers, x0, g0, q0, weight, begin, end):
    """Rows ``begin`` to ``end``, by groups that stay in the first-level cache (and have a lane each)."""
    table = cleared(lane_buffer(x0, FIELDS), x0)
    kept = lane_buffer(x0, ROOM)
    vectors = (call[N_CLASSES] + lanes(x0) - 1) // lanes(x0)
    keep = call[GRADIENT] != 0 and call[KIND] != LOG_SOFTMAX and vectors <= KEPT
    together = max(1, min(lanes(x0), KEPT // vectors))
    group = together if call[GRADIENT] != 0 else max(together, min(lanes(x0), GROUP // vectors))
    step = vectors * lanes(x0) if keep else 0
    line = lane_buffer(x0, 1)
    one_behind_the_other = call[OFFSETS] == 0 and call[GRADIENT_STEP] == call[N_CLASSES] * item_bytes(g0)
    joined = call[STREAM] != 0 and one_behind_the_other and call[N_CLASSES] >= 2 * lanes(x0)
    for first in range(begin, end, group):
        n = min(group, end - first)
        for start in range(0, n, together):
            _look(call, numbers, x0, q0, weight, first, start, min(start + together, n), table, kept, step)
        finish(call, numbers, x0, first, n, table)
        if call[GRADIENT] == 0:
            continue
        for r in range(n):
            x, q = row_start(call, x0, 0, X_STEP, first + r), row_start(call, q0, 2, Q_STEP, first + r)
            g = row_start(call, g0, 1, GRADIENT_STEP, first + r)
            y, ignored = target_of(call, first + r)
            edge = Edge(line, joined and first + r > begin, joined and first + r + 1 < end)
            if ignored:
                fill(g, call[N_CLASSES], 0.0, call[STREAM] != 0, edge)
            elif keep:
                kept_r = advance(kept, r * step * item_bytes(kept))
                write_kept(call, numbers, x, g, q, weight, y, plan_of(x, table, r), kept_r, edge)
            else:
                plan = plan_of(x, table, r)
                write_classes(call, numbers, x, g, q, weight, np.int64(0), call[N_CLASSES], y, plan, edge)
