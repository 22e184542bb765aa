"""Few rows of many classes: the threads share the chunks of the rows, in three steps.

Look at every chunk; finish every row from what was found; write the gradient of every chunk. The steps are those of
``row.py``, in the same order within a row: the result has the same bits.
"""

from __future__ import annotations

import numpy as np

from .addresses import at_a_distance
from .call import (
    CLASS_STEPS,
    GRADIENT,
    GRADIENT_STEP,
    HESS,
    N_CLASSES,
    N_ROWS,
    PARTS,
    PLANS,
    ROOM,
    X_STEP,
    options_of,
    row_start,
    target_of,
)
from .compile import inline
from .finish import finish
from .gradient import no_rows, write_rows
from .hessian import write_hessians
from .pointers import advance, arithmetic_at, item_bytes, lane_buffer
from .row import MOST_WAITING, enter, room_for
from .simd import lanes, zeros
from .stats import chunk_at, merged
from .sums import CHUNK
from .table import FIELDS, Curve, Group, Plan, Stats, cleared, curve_of, plan_of, put_curve, put_plan, put_stats

PART = len(Stats._fields)  # numbers that are kept of each chunk
CURVE = len(Plan._fields)  # where in those of a row a ``Curve`` comes after the ``Plan``
PLAN = CURVE + len(Curve._fields)
MOST_ROOM = 8 * MOST_WAITING  # bytes: with many threads, there may be many rows


@inline
def chunks_of_row(call):
    return (call[N_CLASSES] + CHUNK - 1) // CHUNK


@inline
def shared_room(call):
    """Bytes of room for what waits of all rows for their gradients: see ``row.room_for``; 0 if it were too many."""
    n_bytes = call[N_ROWS] * room_for(call, call[CLASS_STEPS])
    return n_bytes if n_bytes <= MOST_ROOM else 0


@inline
def _chunk(call, item):
    """Row, first class and end of a chunk: chunks are counted row by row."""
    n_chunks = chunks_of_row(call)
    i = item // n_chunks
    first = (item - i * n_chunks) * CHUNK
    return i, first, min(first + CHUNK, call[N_CLASSES])


@inline
def _alone(call, x, g, i, table, n):
    """The group of row ``i`` alone; or, if ``n`` is 0, of none."""
    one, zero, waits = np.int64(1), np.int64(0), call[ROOM] != 0 and n > 0
    kept = arithmetic_at(call[ROOM], x)
    if waits:
        kept = advance(kept, i * room_for(call, item_bytes(x)))
        kept = at_a_distance(kept, row_start(call, x, 0, X_STEP, i), row_start(call, g, 1, GRADIENT_STEP, i))
    return Group(i, n, one, zero, i + 1, table, table, kept, zero, waits, no_rows(x))


@inline
def look(call, numbers, x, g, q, weight, begin, end):
    """``Stats`` of chunks ``begin`` to ``end``, kept in PARTS."""
    table = cleared(lane_buffer(x, FIELDS), x)
    for item in range(begin, end):
        i, first, _ = _chunk(call, item)
        if not target_of(call, i)[1]:
            row, nothing = _alone(call, x, g, i, table, np.int64(1)), _alone(call, x, g, i, table, np.int64(0))
            found = chunk_at(call, numbers, x, g, q, weight, first, row, np.int64(0), nothing)
            for f in range(PART):
                numbers[call[PARTS] + item * PART + f] = found[f]


@inline
def _part(call, numbers, item):
    """The ``Stats`` that ``look`` kept of a chunk."""
    at = call[PARTS] + item * PART
    a, b, c, d = numbers[at], numbers[at + 1], numbers[at + 2], numbers[at + 3]
    return Stats(a, b, c, d, numbers[at + 4], numbers[at + 5], numbers[at + 6])


@inline
def finish_rows(call, numbers, x, q, weight, begin, end):
    """All of rows ``begin`` to ``end`` but their gradients, whose plans are kept in PLANS."""
    n_chunks, o = chunks_of_row(call), options_of(call, numbers, x)
    table = cleared(lane_buffer(x, FIELDS), x)
    for first in range(begin, end, lanes(x)):
        n = min(lanes(x), end - first)
        for r in range(n):
            i = first + r
            if not target_of(call, i)[1]:
                found = _part(call, numbers, i * n_chunks)
                for c in range(1, n_chunks):
                    found = merged(found, _part(call, numbers, i * n_chunks + c), o, zeros(x))
                put_stats(x, table, r, found)
        enter(call, numbers, x, q, weight, first, np.int64(0), n, table)
        finish(call, numbers, x, first, n, table)
        if call[GRADIENT] != 0:
            for r in range(n):
                plan = plan_of(x, table, r)
                for f in range(CURVE):
                    numbers[call[PLANS] + (first + r) * PLAN + f] = plan[f]
                if call[HESS] != 0:
                    curve = curve_of(x, table, r)
                    for f in range(PLAN - CURVE):
                        numbers[call[PLANS] + (first + r) * PLAN + CURVE + f] = curve[f]


@inline
def write(call, numbers, x, g, q, weight, begin, end):
    """The gradient of chunks ``begin`` to ``end``."""
    table = cleared(lane_buffer(x, FIELDS), x)
    for item in range(begin, end):
        i, first, last = _chunk(call, item)
        at = call[PLANS] + i * PLAN
        a, b, c, d = numbers[at], numbers[at + 1], numbers[at + 2], numbers[at + 3]
        put_plan(x, table, 0, Plan(a, b, c, d, numbers[at + 4], numbers[at + 5], numbers[at + 6]))
        row, last_lane = _alone(call, x, g, i, table, np.int64(1)), np.int64(1)
        if call[HESS] != 0:
            at += CURVE
            a, b, c, d = numbers[at], numbers[at + 1], numbers[at + 2], numbers[at + 3]
            put_curve(x, table, 0, Curve(a, b, c, d, numbers[at + 4], numbers[at + 5]))
            write_hessians(call, numbers, x, q, weight, first, last - first, i, last_lane, table)
        write_rows(call, numbers, x, g, q, weight, first, last - first, row, np.int64(0), last_lane)
