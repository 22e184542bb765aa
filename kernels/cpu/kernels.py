"""The kernels, and how they are called with a task.

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

from .call import (
    GRADIENT,
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
from .narrow import run_groups
from .pointers import allocate, arithmetic_at, call_work, fence, free, pointer_at, wide
from .regimes import FEW, FINISH, LANES, LOOK, ROWS, WRITE
from .row import room_of, run_rows
from .sums import CHUNK
from .targets import sum_rows
from .wide import PART, PLAN, chunks_of_row, finish_rows, look, shared_room, write


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
