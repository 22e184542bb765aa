"""The kernels called from Python.

All the work of a call is done by one function per type, ``work``: compiled once, reached by its address. Around it,
``solve`` is a call on the calling thread and ``solve_parallel`` one shared by Numba's threads; both only lay the call
out in memory and say which rows, or chunks of rows, are whose.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange, types
from numba.extending import register_jitable

from .call import GRADIENT, GRADIENTS, INTEGERS, NUMBERS, PARTS, PLANS, STREAM, WEIGHT, Q, X, fill_blocks
from .compile import parallel, serial, work
from .narrow import MAX_CLASSES, run_groups
from .row import run_rows
from .simd import arithmetic_at, call_work, fence, pointer_at
from .stats import CHUNK
from .targets import scan, sum_rows
from .wide import PART, PLAN, finish_rows, look, write

# What ``work`` is to do with the rows, or chunks of rows, from ``begin`` to ``end``.
ROWS, GROUPS, LOOK, FINISH, WRITE = range(5)


@register_jitable
def is_narrow(n_rows: int, n_classes: int) -> bool:
    """Whether rows lie across the lanes. Nanoseconds a row, one thread, loss and gradient, in the cache:

    classes       100   128   192   256   512
    a lane each   134   168   256   347
    one by one    409   398   434   467   643

    With fewer rows than lanes, most lanes do nothing.
    """
    return n_classes <= 16 or (n_classes <= MAX_CLASSES and n_rows >= 8)


def work_on(element: types.Type) -> Any:
    """The work on logits of a type, compiled: an object that has an ``address``."""

    def body(call_address, numbers_address, step, begin, end):
        call, numbers = pointer_at(call_address, np.int64), pointer_at(numbers_address, np.float64)
        x, g = pointer_at(call[X], element), pointer_at(call[GRADIENT], element)
        q, weight = arithmetic_at(call[Q], x), arithmetic_at(call[WEIGHT], x)
        if step == GROUPS:
            run_groups(call, numbers, x, g, q, weight, begin, end)
        elif step == ROWS:
            run_rows(call, numbers, x, g, q, weight, begin, end)
        elif step == LOOK:
            look(call, numbers, x, q, weight, begin, end)
        elif step == FINISH:
            finish_rows(call, numbers, x, q, weight, begin, end)
        else:
            write(call, numbers, x, g, q, weight, begin, end)
        if call[STREAM] != 0:
            fence()

    return work(body)


@serial
def solve(
    function, x, g, q, steps, offsets, targets, ignore_index, weight, rows_in, rows_out, classes_out, settings,
    kind, tuning
):  # fmt: skip
    """All rows on the calling thread; ``function`` is the address of the work. Arguments: see ``launch.py``."""
    call, numbers = np.empty(INTEGERS, np.int64), np.empty(NUMBERS)
    fill_blocks(
        call, numbers, x, g, q, steps, offsets, targets, ignore_index, weight, rows_in, rows_out, classes_out,
        settings, kind, tuning,
    )  # fmt: skip
    call_work(function, call, numbers, GROUPS if tuning[2] else ROWS, 0, steps[0])


@serial
def solve_plain(function, x, g, targets, losses, ignore_index):
    """Mean loss of a small call without options, and its gradient unless ``g`` is empty: all of it in one call.

    Gives the position of the first bad target (nothing is written then) or -1, and the loss.
    """
    nothing = losses[:0]
    bad, n_valid, _, _ = scan(targets, x.shape[1], ignore_index, nothing, nothing)
    if bad >= 0:
        return bad, 0.0
    scale = 1.0 / n_valid if n_valid > 0 else 0.0
    integers, matrix = targets[:0], x[:0]
    call, numbers = np.empty(INTEGERS, np.int64), np.empty(NUMBERS)
    narrow = is_narrow(len(targets), x.shape[1])
    fill_blocks(
        call, numbers, x, g, matrix, (len(targets), x.strides[0], g.strides[0], 0), integers, targets, ignore_index,
        nothing, (nothing, nothing, nothing), (losses, nothing, nothing, nothing), (integers, integers, integers),
        (0.0, 0.0, 0.0, 1.0, scale, 0.0, 1.0), GRADIENTS, (0, 0, narrow),
    )  # fmt: skip
    call_work(function, call, numbers, GROUPS if narrow else ROWS, 0, len(targets))
    return -1, sum_rows(losses) / n_valid if n_valid > 0 else np.nan


@parallel
def solve_parallel(
    function, x, g, q, steps, offsets, targets, ignore_index, weight, rows_in, rows_out, classes_out, settings,
    kind, tuning, block, wide
):  # fmt: skip
    """Blocks of rows shared by the threads; or, if ``wide``, the chunks of all rows."""
    n_rows = steps[0]
    step, n_items, n_parts, n_plans = GROUPS if tuning[2] else ROWS, n_rows, 0, 0
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
