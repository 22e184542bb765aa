"""Rows one after the other: look at a few, finish them together, and write their gradients."""

from __future__ import annotations

import numpy as np

from ..task import LOG_SOFTMAX
from . import extras
from .addresses import SPARE, at_a_distance
from .call import (
    ENTROPY,
    FETCH,
    GRADIENT,
    GRADIENT_STEP,
    HESS,
    KIND,
    LSE,
    N_CLASSES,
    NO_TARGET,
    NONE,
    OFFSETS,
    Q_STEP,
    RANK,
    STREAMS,
    X_STEP,
    X,
    is_streamed,
    options_of,
    row_start,
    target_of,
)
from .compile import device, inline
from .element import spread_weights, value
from .finish import asks_for_classes, finish, write_about_classes
from .gradient import no_rows, write_rows
from .hessian import write_hessians
from .pointers import advance, arithmetic_at, item_bytes, lane_buffer, load, load_one, prefetch, store
from .short import are_short, largest_of_short, look_short, look_soft, looks_ahead, write_short, write_soft
from .simd import NATIVE, apart, extract, iota, lanes, where
from .stats import look, look_by_chunks
from .streamed import look_streamed
from .sums import CHUNK
from .table import (
    BASE,
    DISTANCE,
    FIELDS,
    KEPT,
    POWER,
    SHARE_Y,
    TARGET,
    TOP,
    WEIGHT_Y,
    Group,
    cleared,
    most_kept_of,
)

GROUP = 8192  # vectors of the rows that are finished together where that is all: half a second-level cache
# Vectors: of powers, and of v for the softcap; rows whose gradient is not aligned are read a little further.
ROOM = 6 * KEPT + 1 + SPARE // NATIVE

AHEAD = 12  # vectors to ask for while rows are finished
MOST_WAITING = 1 << 20  # bytes of the longest row of which a part waits: 262,144 classes


@device
def enter(call, numbers, x0, q0, weight, first, start, stop, table):
    """What else is to be known of rows ``first + start`` to ``first + stop``, into lanes ``start`` to ``stop``."""
    apart()
    o, n, width = options_of(call, numbers, x0), call[N_CLASSES], lanes(x0)
    for r in range(start, stop):
        i = first + r
        x, (y, ignored) = row_start(call, x0, 0, X_STEP, i), target_of(call, i)
        if ignored:
            write_about_classes(call, i, np.int64(0), np.int64(0))
            continue
        if call[LSE] != 0 and table[TOP * width + r] == np.inf and extras.has_nan(x, n, o.order):
            table[TOP * width + r] = np.nan
        if y != NO_TARGET:
            table[TARGET * width + r] = load_one(x, y)
            if o.weighted:
                table[WEIGHT_Y * width + r] = load_one(weight, y)
            if o.spread != NONE:
                q = row_start(call, q0, 2, Q_STEP, i)
                table[SHARE_Y * width + r] = extract(spread_weights(x, weight, q, y, 1, False, o), 0)
        if asks_for_classes(call):
            above = extras.rank(x, n, y, o.order) if call[RANK] != 0 else 0
            write_about_classes(call, i, extras.argmax(x, n, o.order), above)
        if call[ENTROPY] != 0:
            base, k = np.float64(table[BASE * width + r]), np.float64(table[POWER * width + r])
            top = np.float64(table[TOP * width + r]) - base * o.sign
            table[DISTANCE * width + r] = extras.mean_distance(call, numbers, x, n, base, k, top)
    if o.capped:
        logits = load(table, TARGET * width)
        mine = (iota(logits) >= start) & (iota(logits) < stop)
        store(table, TARGET * width, where(mine, value(logits, o), logits))


@inline
def room_for(call, itemsize):
    """Bytes of room for what waits of a row for its gradient, where it cannot wait in that (``sums.waiting``).

    That is if gradients go past the caches, have 16 bits, or are in place of logits.
    """
    n_bytes, writes = call[N_CLASSES] * max(itemsize, 4), call[GRADIENT] != 0 and call[KIND] != LOG_SOFTMAX
    elsewhere = is_streamed(call) or call[X] == call[GRADIENT] or itemsize == 2
    return n_bytes + SPARE if writes and elsewhere and n_bytes <= MOST_WAITING else 0


@inline
def room_of(call, x):
    """The same, of rows of which no powers are kept."""
    return 0 if call[N_CLASSES] <= most_kept_of(x) * lanes(x) else room_for(call, item_bytes(x))


@inline
def run_rows(call, numbers, x0, g0, q0, weight, room, begin, end):
    """Rows ``begin`` to ``end``, by groups that have a lane each.

    What is kept of a group for its gradients stays in the first-level cache. Gradients that go past the caches wait for
    the next group, to be written beside its sums.
    """
    n_classes, table = call[N_CLASSES], cleared(lane_buffer(x0, FIELDS), x0)
    kept, other_table = lane_buffer(x0, ROOM), cleared(lane_buffer(x0, FIELDS), x0)
    vectors = (n_classes + lanes(x0) - 1) // lanes(x0)
    # (where nothing is kept, twice as many: 1,000 classes, one thread, 3 % faster)
    most = most_kept_of(x0) if call[GRADIENT] != 0 else 2 * KEPT
    together = max(1, min(lanes(x0), most // vectors))
    size = together if call[GRADIENT] != 0 else max(1, min(lanes(x0), GROUP // vectors) // together) * together
    keep = call[GRADIENT] != 0 and call[KIND] != LOG_SOFTMAX and vectors <= most
    step = vectors * lanes(x0) if keep else np.int64(0)
    waits = room != 0
    kept = at_a_distance(arithmetic_at(room, x0) if waits else kept, x0, g0)

    rows, line = no_rows(x0), lane_buffer(x0, 1)
    without_a_gap = call[OFFSETS] == 0 and call[GRADIENT_STEP] == n_classes * item_bytes(g0)
    short, soft = are_short(call, numbers, x0), options_of(call, numbers, x0).soft
    if is_streamed(call) and not short and without_a_gap and n_classes >= 2 * lanes(x0):
        rows = line, begin, end

    wait = is_streamed(call) and not short and (keep or waits)
    streamed = wait and keep and options_of(call, numbers, x0).even
    before = Group(begin, np.int64(0), size, together, end, other_table, table, kept, step, waits, rows)
    if short or streamed:
        largest_of_short(call, x0, begin, min(size, end - begin), table)
    for first in range(begin, end, size):
        n = min(size, end - first)
        group = Group(first, n, size, together, end, table, other_table if wait else table, kept, step, waits, rows)
        done = False
        for start in range(0, n, together):
            stop = min(start + together, n)
            # (Before the sums, if it asks for nothing of theirs: a vector that ``finish`` reads, one lane of which has
            # just been written, has to wait until that is in the cache. With 1,000 classes, 2 %.)
            early = (short or streamed) and call[LSE] + call[ENTROPY] == 0
            if early:
                enter(call, numbers, x0, q0, weight, first, start, stop, table)
            if STREAMS and streamed:
                done = look_streamed(call, numbers, x0, g0, q0, weight, group, before)
            elif short:
                if soft:
                    done = look_soft(call, numbers, x0, g0, q0, group, start, stop)
                else:
                    done = look_short(call, numbers, x0, g0, group, start, stop)
            if not done and n_classes <= CHUNK:
                look(call, numbers, x0, g0, q0, weight, np.int64(0), n_classes, group, start, stop, before)
            elif not done:
                for r in range(start, stop):
                    look_by_chunks(call, numbers, x0, g0, q0, weight, group, r, before)
            if not early:
                enter(call, numbers, x0, q0, weight, first, start, stop, table)
        if wait:  # the memory is busy meanwhile (2 %)
            ahead = advance(row_start(call, x0, 0, X_STEP, first + n if first + n < end else first), call[FETCH])
            for j in range(0, AHEAD * lanes(x0), lanes(x0)):
                prefetch(ahead, j)
        finish(call, numbers, x0, first, n, table)
        if (short or streamed) and first + n < end and not (done and (streamed or looks_ahead(call, x0))):
            largest_of_short(call, x0, first + n, min(size, end - first - n), group.next_table)
        if call[HESS] != 0:
            write_hessians(call, numbers, x0, q0, weight, np.int64(0), n_classes, first, n, table)
        if call[GRADIENT] != 0:
            if STREAMS and wait:
                write_rows(call, numbers, x0, g0, q0, weight, np.int64(0), n_classes, before, n, before.n)
                table, other_table = other_table, table
                before = group
            elif done and soft:
                write_soft(call, numbers, x0, g0, q0, group)
            elif done:
                write_short(call, numbers, x0, g0, group)
            else:
                write_rows(call, numbers, x0, g0, q0, weight, np.int64(0), n_classes, group, np.int64(0), n)
    write_rows(call, numbers, x0, g0, q0, weight, np.int64(0), n_classes, before, np.int64(0), before.n)
