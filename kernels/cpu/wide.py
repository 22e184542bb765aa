"""Few rows of many classes: the threads share the chunks of the rows, in three steps.

Look at every chunk; finish every row from what was found; write the gradient of every chunk. The steps are those of
``row.py``, in the same order within a row: the result has the same bits.
"""

from __future__ import annotations

from .call import (
    GRADIENT_STEP,
    KEEP_POWERS,
    N_CLASSES,
    PARTS,
    PLANS,
    Q_STEP,
    UNIT,
    X_STEP,
    row_start,
    target_of,
)
from .compile import inline
from .gradient import Plan, fill, write_chunk
from .row import finish_row, skip_row
from .simd import advance, item_bytes, load_one
from .stats import CHUNK, Stats, chunk_at, merged

PART, PLAN = len(Stats._fields), len(Plan._fields)  # numbers that are kept of each


@inline
def _chunk(call, item):
    """Row, first class and end of a chunk: chunks are counted row by row."""
    n_classes = call[N_CLASSES]
    n_chunks = (n_classes + CHUNK - 1) // CHUNK
    i = item // n_chunks
    first = (item - i * n_chunks) * CHUNK
    return i, first, min(first + CHUNK, n_classes)


@inline
def look(call, numbers, x, g, q, weight, begin, end):
    """``Stats`` of chunks ``begin`` to ``end``, kept in PARTS."""
    for item in range(begin, end):
        i, first, _ = _chunk(call, item)
        y, ignored = target_of(call, i)
        if not ignored:
            x_y = load_one(row_start(call, x, 0, X_STEP, i), max(y, 0))  # before powers may be written over it
            found = chunk_at(
                call,
                numbers,
                row_start(call, x, 0, X_STEP, i),
                row_start(call, g, 1, GRADIENT_STEP, i),
                row_start(call, q, 2, Q_STEP, i),
                weight,
                first,
                y,
                call[KEEP_POWERS] != 0,
            )
            if first <= y < first + CHUNK:
                numbers[call[PLANS] + i * PLAN] = x_y
            for f in range(PART):
                numbers[call[PARTS] + item * PART + f] = found[f]


@inline
def _part(call, numbers, item):
    """The ``Stats`` that ``look`` kept of a chunk."""
    at = call[PARTS] + item * PART
    a, b, c, d, e, f = numbers[at], numbers[at + 1], numbers[at + 2], numbers[at + 3], numbers[at + 4], numbers[at + 5]
    return Stats(a, b, c, d, e, f)


@inline
def finish(call, numbers, x, g, q, weight, begin, end):
    """Everything of rows ``begin`` to ``end`` but their gradients, whose plans are kept in PLANS."""
    n_chunks = (call[N_CLASSES] + CHUNK - 1) // CHUNK
    for i in range(begin, end):
        y, ignored = target_of(call, i)
        if ignored:
            skip_row(call, i, x)
            continue
        found = _part(call, numbers, i * n_chunks)
        for c in range(1, n_chunks):
            found = merged(found, _part(call, numbers, i * n_chunks + c), numbers[UNIT])
        plan = finish_row(
            call,
            numbers,
            i,
            row_start(call, x, 0, X_STEP, i),
            row_start(call, g, 1, GRADIENT_STEP, i),
            row_start(call, q, 2, Q_STEP, i),
            weight,
            y,
            numbers[call[PLANS] + i * PLAN],  # the target's logit, from ``look``
            found,
        )
        for f in range(PLAN):
            numbers[call[PLANS] + i * PLAN + f] = plan[f]


@inline
def write(call, numbers, x, g, q, weight, begin, end):
    """The gradient of chunks ``begin`` to ``end``."""
    for item in range(begin, end):
        i, first, last = _chunk(call, item)
        y, ignored = target_of(call, i)
        gradient = row_start(call, g, 1, GRADIENT_STEP, i)
        if ignored:
            fill(advance(gradient, first * item_bytes(g)), last - first, 0.0)
            continue
        at = call[PLANS] + i * PLAN
        p, b, f, r, s, t = (
            numbers[at],
            numbers[at + 1],
            numbers[at + 2],
            numbers[at + 3],
            numbers[at + 4],
            numbers[at + 5],
        )
        plan = Plan(p, b, f, r, s, t)
        part = _part(call, numbers, item)
        x_i, q_i = row_start(call, x, 0, X_STEP, i), row_start(call, q, 2, Q_STEP, i)
        write_chunk(call, numbers, x_i, gradient, q_i, weight, y, plan, first, 0, part.base, part.power)
