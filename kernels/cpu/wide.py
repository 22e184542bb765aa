"""Few rows of many classes: the threads share the chunks of the rows, in three steps.

Look at every chunk; finish every row from what was found; write the gradient of every chunk. The steps are those of
``row.py``, in the same order within a row: the result has the same bits.
"""

from __future__ import annotations

from .call import (
    GRADIENT,
    GRADIENT_STEP,
    N_CLASSES,
    PARTS,
    PLANS,
    Q_STEP,
    STREAM,
    X_STEP,
    options_of,
    row_start,
    target_of,
)
from .compile import inline
from .finish import FIELDS, cleared, finish, write_about_classes
from .gradient import Plan, fill, no_edge, plan_of, write_classes
from .row import enter
from .simd import advance, item_bytes, lane_buffer, lanes, zeros
from .stats import CHUNK, Stats, chunk_at, merged

PART, PLAN = len(Stats._fields), len(Plan._fields)  # numbers that are kept of each


@inline
def chunks_of_row(call):
    return (call[N_CLASSES] + CHUNK - 1) // CHUNK


@inline
def _chunk(call, item):
    """Row, first class and end of a chunk: chunks are counted row by row."""
    n_chunks = chunks_of_row(call)
    i = item // n_chunks
    first = (item - i * n_chunks) * CHUNK
    return i, first, min(first + CHUNK, call[N_CLASSES])


@inline
def look(call, numbers, x, q, weight, begin, end):
    """``Stats`` of chunks ``begin`` to ``end``, kept in PARTS."""
    for item in range(begin, end):
        i, first, _ = _chunk(call, item)
        if not target_of(call, i)[1]:
            x_i, q_i = row_start(call, x, 0, X_STEP, i), row_start(call, q, 2, Q_STEP, i)
            found = chunk_at(call, numbers, x_i, q_i, weight, first)
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
    n_chunks, o = chunks_of_row(call), options_of(call, numbers)
    table = cleared(lane_buffer(x, FIELDS), x)
    for first in range(begin, end, lanes(x)):
        n = min(lanes(x), end - first)
        for r in range(n):
            i = first + r
            y, ignored = target_of(call, i)
            if ignored:
                write_about_classes(call, i, 0, 0)
            else:
                found = _part(call, numbers, i * n_chunks)
                for c in range(1, n_chunks):
                    found = merged(found, _part(call, numbers, i * n_chunks + c), o, zeros(x))
                x_i, q_i = row_start(call, x, 0, X_STEP, i), row_start(call, q, 2, Q_STEP, i)
                enter(call, numbers, i, x_i, q_i, weight, y, found, table, r)
        finish(call, numbers, x, first, n, table)
        if call[GRADIENT] != 0:
            for r in range(n):
                plan = plan_of(x, table, r)
                for f in range(PLAN):
                    numbers[call[PLANS] + (first + r) * PLAN + f] = plan[f]


@inline
def write(call, numbers, x, g, q, weight, begin, end):
    """The gradient of chunks ``begin`` to ``end``."""
    for item in range(begin, end):
        i, first, last = _chunk(call, item)
        y, ignored = target_of(call, i)
        g_i = row_start(call, g, 1, GRADIENT_STEP, i)
        if ignored:
            fill(advance(g_i, first * item_bytes(g)), last - first, 0.0, call[STREAM] != 0, no_edge(x))
            continue
        at = call[PLANS] + i * PLAN
        a, b, c, d = numbers[at], numbers[at + 1], numbers[at + 2], numbers[at + 3]
        plan = Plan(a, b, c, d, numbers[at + 4], numbers[at + 5], numbers[at + 6])
        x_i, q_i = row_start(call, x, 0, X_STEP, i), row_start(call, q, 2, Q_STEP, i)
        write_classes(call, numbers, x_i, g_i, q_i, weight, first, last, y, plan, no_edge(x))
