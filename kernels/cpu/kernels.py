"""The kernels called from Python.

All the work of a call is done by one function per type, ``work``: compiled once, reached by its address. Around it,
``solve`` is a call on the calling thread and ``solve_parallel`` one shared by Numba's threads; both only lay the call
out in memory and say which rows, or chunks of rows, are whose.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import prange, types

from .call import GRADIENT, INTEGERS, NUMBERS, PARTS, PLANS, Q, WEIGHT, X, fill_blocks
from .compile import parallel, serial, work
from .narrow import run_groups
from .row import run_rows
from .simd import arithmetic_at, call_work, pointer_at
from .stats import CHUNK
from .wide import PART, PLAN, finish, look, write

# What ``work`` is to do with the rows, or chunks of rows, from ``begin`` to ``end``.
ROWS, GROUPS, LOOK, FINISH, WRITE = range(5)


@cache
def work_on(element: types.Type, q_element: types.Type) -> Any:
    """The work on logits of one type and probabilities of another, compiled: an object that has an ``address``."""

    def body(call_address, numbers_address, step, begin, end):  # type: ignore[no-untyped-def]
        call, numbers = pointer_at(call_address, np.int64), pointer_at(numbers_address, np.float64)
        x, g, q = pointer_at(call[X], element), pointer_at(call[GRADIENT], element), pointer_at(call[Q], q_element)
        weight = arithmetic_at(call[WEIGHT], x)
        if step == GROUPS:
            run_groups(call, numbers, x, g, q, weight, begin, end)
        elif step == ROWS:
            run_rows(call, numbers, x, g, q, weight, begin, end)
        elif step == LOOK:
            look(call, numbers, x, g, q, weight, begin, end)
        elif step == FINISH:
            finish(call, numbers, x, g, q, weight, begin, end)
        else:
            write(call, numbers, x, g, q, weight, begin, end)

    return work(body)


@serial
def solve(  # type: ignore[no-untyped-def]
    function, x, g, q, steps, offsets, targets, ignore_index, weight, rows_in, rows_out, classes_out, settings, kind, tuning
):  # fmt: skip
    """All rows on the calling thread; ``function`` is the address of the work. Arguments: see ``launch.py``."""
    call, numbers = np.empty(INTEGERS, np.int64), np.empty(NUMBERS)
    fill_blocks(
        call, numbers, x, g, q, steps, offsets, targets, ignore_index, weight, rows_in, rows_out, classes_out,
        settings, kind, tuning,
    )  # fmt: skip
    call_work(function, call, numbers, GROUPS if tuning[3] else ROWS, 0, steps[0])


@parallel
def solve_parallel(  # type: ignore[no-untyped-def]
    function, x, g, q, steps, offsets, targets, ignore_index, weight, rows_in, rows_out, classes_out, settings, kind, tuning,
    block, wide
):  # fmt: skip
    """Blocks of rows shared by the threads; or, if ``wide``, the chunks of all rows."""
    n_rows = steps[0]
    step, n_items, n_parts, n_plans = GROUPS if tuning[3] else ROWS, n_rows, 0, 0
    if wide:
        step, n_items = LOOK, n_rows * ((x.shape[1] + CHUNK - 1) // CHUNK)
        n_parts, n_plans = PART * n_items, PLAN * n_rows
    call, numbers = np.empty(INTEGERS, np.int64), np.empty(NUMBERS + n_parts + n_plans)
    fill_blocks(
        call, numbers, x, g, q, steps, offsets, targets, ignore_index, weight, rows_in, rows_out, classes_out,
        settings, kind, tuning,
    )  # fmt: skip
    call[PARTS], call[PLANS] = NUMBERS, NUMBERS + n_parts
    n_blocks = (n_items + block - 1) // block
    for b in prange(n_blocks):
        call_work(function, call, numbers, step, b * block, min(n_items, (b + 1) * block))
    if wide:
        call_work(function, call, numbers, FINISH, 0, n_rows)
        if call[GRADIENT] != 0:
            for b in prange(n_blocks):
                call_work(function, call, numbers, WRITE, b * block, min(n_items, (b + 1) * block))
