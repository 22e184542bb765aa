"""The kernels called from Python.

All the work of a call is done by one function per type and regime, ``work_on``: compiled when it is first needed,
reached by its address. (All regimes in one would take as long to compile, but all of it in the first call. On a Zen 4
few classes take 8 seconds, many 30, chunks 22, or 4 after the others.) Around it, ``solve`` is a call on the calling
thread and ``solve_shared`` one by Numba's threads; both only lay the call out in memory and say which rows, or chunks
of rows, are whose.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange, types

from ..task import divided_by
from .call import (
    GRADIENT,
    GRADIENTS,
    INTEGERS,
    N_ROWS,
    NUMBERS,
    PARTS,
    PLANS,
    ROOM,
    WEIGHT,
    Q,
    X,
    fill_blocks,
    is_streamed,
)
from .compile import inline, parallel, serial, work
from .narrow import MOST_WIDE, run_groups
from .pointers import allocate, arithmetic_at, call_work, fence, free, pointer_at, wide
from .row import room_of, run_rows
from .sums import CHUNK
from .targets import scan, sum_rows
from .wide import PART, PLAN, chunks_of_row, finish_rows, look, shared_room, write

_divided_by = inline(divided_by)

# The regimes: rows one by one; a row a lane; chunks of rows, all of which are looked at before all rows are finished
# and the gradients of all chunks written; and, where that is another, a row a lane of wider vectors.
ROWS, LANES, LOOK, FEW, FINISH, WRITE = range(6)
REGIMES = (ROWS, LANES, LOOK, FEW) if MOST_WIDE > 0 else (ROWS, LANES, LOOK)


def work_on(element: types.Type, regime: int) -> Any:
    """The work of a regime on logits of a type, compiled: an object that has an ``address``."""

    def body(call_address, numbers_address, step, begin, end):
        call, numbers = pointer_at(call_address, np.int64), pointer_at(numbers_address, np.float64)
        x, g = pointer_at(call[X], element), pointer_at(call[GRADIENT], element)
        q, weight = arithmetic_at(call[Q], x), arithmetic_at(call[WEIGHT], x)
        if regime == ROWS:
            room = allocate(room_of(call, x))
            run_rows(call, numbers, x, g, q, weight, room, begin, end)
            free(room)
        elif regime == LANES:
            run_groups(call, numbers, x, g, q, weight, begin, end)
        elif regime == FEW:
            run_groups(call, numbers, wide(x), wide(g), wide(q), wide(weight), begin, end)
        elif step == LOOK:
            look(call, numbers, x, g, q, weight, begin, end)
        elif step == FINISH:
            finish_rows(call, numbers, x, q, weight, begin, end)
        else:
            write(call, numbers, x, g, q, weight, begin, end)
        if is_streamed(call):
            fence()

    return work(body)


@parallel
def share(function, call, numbers, step, block):
    """Give the threads blocks of rows; or, if ``step`` is LOOK, of the chunks of all rows."""
    n_items = call[N_ROWS]
    if step == LOOK:
        n_items *= chunks_of_row(call)
        call[ROOM] = allocate(shared_room(call))
    n_blocks = (n_items + block - 1) // block
    for b in prange(n_blocks):
        call_work(function, call, numbers, step, b * block, min(n_items, (b + 1) * block))
    if step == LOOK:
        call_work(function, call, numbers, FINISH, 0, call[N_ROWS])
        if call[GRADIENT] != 0:
            for b in prange(n_blocks):
                call_work(function, call, numbers, WRITE, b * block, min(n_items, (b + 1) * block))
        free(call[ROOM])


@inline
def blocks_of(n_rows, n_classes, step):
    """The two blocks of a call, empty (``call.py``), with room for what threads tell each other."""
    n_parts = n_rows * ((n_classes + CHUNK - 1) // CHUNK) * PART if step == LOOK else 0
    n_plans = n_rows * PLAN if step == LOOK else 0
    call, numbers = np.empty(INTEGERS, np.int64), np.empty(NUMBERS + n_parts + n_plans)
    call[PARTS], call[PLANS], call[ROOM] = NUMBERS, NUMBERS + n_parts, 0
    return call, numbers


@inline
def adjacent(x):
    """The class steps of arrays whose classes lie next to each other."""
    return x.itemsize, x.itemsize, x.itemsize, x.itemsize


@serial
def solve(
    function, step, block, x, g, q, h, steps, class_steps, offsets, targets, ignore_index, weight, rows_in, rows_out,
    classes_out, settings, kind, tuning
):  # fmt: skip
    """All rows on the calling thread; ``function`` is the address of the work on them. Arguments: see ``launch.py``.

    Gives the sum of the row losses.
    """
    call, numbers = blocks_of(steps[0], x.shape[1], step)
    fill_blocks(
        call, numbers, x, g, q, h, steps, class_steps, offsets, targets, ignore_index, weight, rows_in, rows_out,
        classes_out, settings, kind, tuning,
    )  # fmt: skip
    call_work(function, call, numbers, step, 0, steps[0])
    return sum_rows(rows_out[0])


@serial
def solve_shared(
    function, step, block, x, g, q, h, steps, class_steps, offsets, targets, ignore_index, weight, rows_in, rows_out,
    classes_out, settings, kind, tuning
):  # fmt: skip
    """The same, by all threads, ``block`` rows (chunks, if ``step`` is LOOK) at a time."""
    call, numbers = blocks_of(steps[0], x.shape[1], step)
    fill_blocks(
        call, numbers, x, g, q, h, steps, class_steps, offsets, targets, ignore_index, weight, rows_in, rows_out,
        classes_out, settings, kind, tuning,
    )  # fmt: skip
    share(function, call, numbers, step, block)
    return sum_rows(rows_out[0])


@inline
def fill_logits(call, numbers, x, g, lse, kind, tuning):
    """``fill_blocks`` of a call of the logits alone."""
    integers, nothing = np.empty(0, np.int64), lse[:0]
    fill_blocks(
        call, numbers, x, g, x[:0], x[:0], (len(x), x.strides[0], g.strides[0], 0, 0), adjacent(x), integers,
        integers, 0, nothing,
        (nothing, nothing, nothing), (nothing, lse, nothing, nothing), (integers, integers, integers),
        (0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0), kind, tuning,
    )  # fmt: skip


@serial
def solve_logits(function, step, block, x, g, lse, kind, tuning):
    """A call of the logits alone: ``kind`` says what ``g`` is to be; with an empty ``g``, ``lse`` is filled."""
    call, numbers = blocks_of(len(x), x.shape[1], step)
    fill_logits(call, numbers, x, g, lse, kind, tuning)
    call_work(function, call, numbers, step, 0, len(x))


@serial
def solve_logits_shared(function, step, block, x, g, lse, kind, tuning):
    """The same, by all threads."""
    call, numbers = blocks_of(len(x), x.shape[1], step)
    fill_logits(call, numbers, x, g, lse, kind, tuning)
    share(function, call, numbers, step, block)


@inline
def begin_mean(step, x, g, q, targets, ignore_index, weight, sample_weight, tuning, options):
    """The row losses, to fill, and the blocks of a mean: over class targets, if these are good, or over ``q``.

    Gives the position of the first bad one or -1, and what the sum of the losses is divided by.
    """
    n_rows, bad = len(x), -1
    losses, nothing, integers, matrix = np.empty(n_rows, weight.dtype), weight[:0], targets[:0], x[:0]
    if q.size > 0:
        weight_sum = row_sum = sum_rows(sample_weight) if sample_weight.size > 0 else np.float64(n_rows)
    else:
        bad, _, weight_sum, row_sum = scan(targets, x.shape[1], ignore_index, weight, sample_weight)
    call, numbers = blocks_of(n_rows, x.shape[1], step)
    smoothing, z_loss, softcap, logit_scale = options
    steps = x.itemsize, x.itemsize, q.itemsize, q.itemsize
    ce_scale, zl_scale, zl_ratio, divisor = _divided_by(weight_sum, row_sum if z_loss != 0.0 else weight_sum, 1.0)
    fill_blocks(
        call, numbers, x, g, q, matrix, (n_rows, x.strides[0], g.strides[0], q.strides[0], 0), steps, integers,
        targets, ignore_index, weight, (sample_weight, nothing, nothing), (losses, nothing, nothing, nothing),
        (integers, integers, integers), (smoothing, z_loss, softcap, logit_scale, ce_scale, zl_scale, zl_ratio),
        GRADIENTS, tuning,
    )  # fmt: skip
    return bad, divisor, losses, call, numbers


@inline
def end_mean(losses, divisor):
    """What the functions below give of good targets."""
    return -1, sum_rows(losses) / divisor if divisor != 0.0 else np.nan


PLAIN = (0.0, 0.0, 0.0, 1.0)  # no smoothing, no z-loss, no softcap, and the scale of the logits


@serial
def solve_plain(function, step, block, x, g, no_rows, targets, ignore_index, tuning):
    """Mean loss of a call without options, and its gradient unless ``g`` is empty: all of it in one call.

    ``no_rows`` is of the arithmetic type. Gives the position of the first bad target (nothing is written then) or -1,
    and the loss.
    """
    bad, divisor, losses, call, numbers = begin_mean(
        step, x, g, x[:0], targets, ignore_index, no_rows, no_rows, tuning, PLAIN
    )
    if bad >= 0:
        return bad, 0.0
    call_work(function, call, numbers, step, 0, len(targets))
    return end_mean(losses, divisor)


@serial
def solve_plain_shared(function, step, block, x, g, no_rows, targets, ignore_index, tuning):
    """The same, by all threads."""
    bad, divisor, losses, call, numbers = begin_mean(
        step, x, g, x[:0], targets, ignore_index, no_rows, no_rows, tuning, PLAIN
    )
    if bad >= 0:
        return bad, 0.0
    share(function, call, numbers, step, block)
    return end_mean(losses, divisor)


@serial
def solve_mean(function, step, block, x, g, q, targets, ignore_index, weight, sample_weight, tuning, options):
    """As ``solve_plain``, with weights and numbers: smoothing, z-loss, softcap (or 0) and scale of the logits.

    And, unless ``q`` is empty, with probability targets in place of ``targets``.
    """
    bad, divisor, losses, call, numbers = begin_mean(
        step, x, g, q, targets, ignore_index, weight, sample_weight, tuning, options
    )
    if bad >= 0:
        return bad, 0.0
    call_work(function, call, numbers, step, 0, len(x))
    return end_mean(losses, divisor)


@serial
def solve_mean_shared(function, step, block, x, g, q, targets, ignore_index, weight, sample_weight, tuning, options):
    """The same, by all threads."""
    bad, divisor, losses, call, numbers = begin_mean(
        step, x, g, q, targets, ignore_index, weight, sample_weight, tuning, options
    )
    if bad >= 0:
        return bad, 0.0
    share(function, call, numbers, step, block)
    return end_mean(losses, divisor)
