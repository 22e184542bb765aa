"""From a task to the kernels: arrays as the kernels take them, the regime, and serial or parallel.

The kernels take every array in one form, so that there is one compiled kernel per type: C-contiguous and writeable as
far as Numba sees; the first row of the logits stands for all, whose distances go along as numbers. Logits whose classes
do not lie next to each other are copied, a block of rows at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from numba import types

from ..task import Array, Task
from . import kernels, threads
from .call import GRADIENTS
from .stats import CHUNK


class Limits(NamedTuple):
    """Where the regimes begin and end."""

    narrow: int  # classes: up to here, rows lie across the lanes
    serial: int  # elements: below, waking the threads costs more than they save
    block: int  # elements: what a thread takes at a time
    resident: int  # bytes of a row: up to here, the next row is fetched while this one's gradient is written
    ahead: int  # elements: beyond that, how far ahead in the same row
    even: int  # rows a thread: below, rows of several chunks are shared chunk by chunk


LIMITS = Limits(narrow=64, serial=20_000, block=1 << 16, resident=1 << 18, ahead=1024, even=4)

# How numbers lie in memory: simd.py.
_MEMORY: dict[str, tuple[Any, types.Type]] = {
    "float16": (np.uint16, types.uint16),
    "bfloat16": (np.int16, types.int16),
    "float32": (np.float32, types.float32),
    "float64": (np.float64, types.float64),
}

_NO_INTEGERS = np.empty(0, np.int64)
_NO_FLAGS = np.empty(0, np.uint8)
_NOTHING: dict[Any, Array] = {kind: np.empty(0, kind) for kind in (np.float32, np.float64)}
_NO_MATRIX: dict[Any, Array] = {kind: np.empty((0, 0), kind) for kind, _ in _MEMORY.values()}

_COPIED_ELEMENTS = 1 << 18  # of a block of rows that is copied: 1 MiB of float32


def run(task: Task, kind: int = GRADIENTS) -> None:
    """Fill the outputs of a task; ``kind`` says what its ``grad`` is to be."""
    x, grad, q = task.logits, task.grad, task.probabilities
    if _adjacent(x) and (grad is None or _adjacent(grad)) and (q is None or _adjacent(q)):
        _run(task, kind)
    else:
        _run_copied(task, kind)


def _adjacent(array: Array) -> bool:
    """Whether the classes of a row lie next to each other."""
    return array.strides[-1] == array.itemsize or array.shape[-1] == 1


def _run(task: Task, kind: int) -> None:
    logits, grad, q = task.logits, task.grad, task.probabilities
    n_classes = logits.shape[-1]
    n_rows = logits.size // n_classes
    memory, element = _MEMORY[logits.dtype.name]
    q_memory, q_element = (memory, element) if q is None else _MEMORY[q.dtype.name]
    steps = (n_rows, _step(logits), 0 if grad is None else _step(grad), 0 if q is None else _step(q))
    offsets = _NO_INTEGERS
    if _UNEVEN in steps:
        offsets = np.concatenate([_offsets(a, logits.shape[:-1]) for a in (logits, grad, q)])
    if n_classes <= LIMITS.narrow:
        narrow, tuning = True, (0, 0, 0, True)
    else:
        row_bytes = n_classes * logits.itemsize
        resident = row_bytes <= LIMITS.resident
        narrow = False
        tuning = (int(grad is not None), 0 if resident else LIMITS.ahead, steps[1] if resident else 0, False)

    nothing = _NOTHING[np.float64 if memory is np.float64 else np.float32]
    args = (
        kernels.work_on(element, q_element).address,
        _first_row(logits, memory),
        _NO_MATRIX[memory] if grad is None else _first_row(grad, memory),
        _NO_MATRIX[q_memory] if q is None else _first_row(q, q_memory),
        steps,
        offsets,
        _NO_INTEGERS if task.targets is None else task.targets,
        task.ignore_index,
        nothing if task.weight is None else task.weight,
        (
            nothing if task.sample_weight is None else task.sample_weight,
            nothing if task.upstream is None else task.upstream,
            nothing if task.lse_in is None else task.lse_in,
        ),
        (
            nothing if task.loss is None else task.loss,
            nothing if task.lse is None else task.lse,
            nothing if task.target_prob is None else task.target_prob,
            nothing if task.entropy is None else task.entropy,
        ),
        (
            _NO_INTEGERS if task.argmax is None else task.argmax,
            _NO_INTEGERS if task.rank is None else task.rank,
            _NO_FLAGS if task.correct is None else task.correct.view(np.uint8),
        ),
        (
            task.label_smoothing,
            task.z_loss,
            task.softcap,
            task.logit_scale,
            task.ce_scale,
            task.zl_scale,
            task.zl_ratio,
        ),
        kind,
        tuning,
    )
    n_threads = 1 if logits.size < LIMITS.serial else threads.available()
    if n_threads == 1:
        kernels.solve(*args)
        return
    block = max(1, LIMITS.block // n_classes)
    wide = not narrow and n_classes > CHUNK and n_rows < LIMITS.even * n_threads
    if narrow:
        block = -(-block // 16) * 16  # whole groups
    elif not wide:
        block = min(block, -(-n_rows // (2 * n_threads)))
    threads.run(kernels.solve_parallel, kernels.solve, *args, extra=(1 if wide else block, wide))


_UNEVEN = None  # the step of rows that no single step describes


def _step(array: Array) -> int | None:
    """Bytes from row to row."""
    step, n = 0, 1
    for size, stride in zip(array.shape[-2::-1], array.strides[-2::-1], strict=True):
        if size == 1:
            continue
        if n == 1:
            step = stride
        elif stride != step * n:
            return _UNEVEN
        n *= size
    return step


def _offsets(array: Array | None, rows: tuple[int, ...]) -> Array:
    """Bytes from the first row to every row."""
    offsets = np.zeros(rows, np.int64)
    if array is not None:
        for axis, stride in enumerate(array.strides[:-1]):
            along = [1] * len(rows)
            along[axis] = rows[axis]
            offsets += (np.arange(rows[axis]) * stride).reshape(along)
    return offsets.reshape(-1)


def _first_row(array: Array, memory: Any) -> Array:
    """The array as (1, C) numbers in memory, contiguous and writeable for Numba; only its address matters."""
    row = array[(0,) * (array.ndim - 1)]
    if row.dtype != memory:
        row = row.view(memory)
    if not row.flags.writeable:
        # The same memory, without the flag that would make Numba compile everything again. It is never written.
        pointer = row.__array_interface__["data"][0]
        interface = {"version": 3, "data": (pointer, False), "shape": row.shape, "typestr": row.dtype.str}
        row = np.asarray(SimpleNamespace(__array_interface__=interface))
    return row[np.newaxis]


def _run_copied(task: Task, kind: int) -> None:
    """The same, by blocks of rows copied to where their classes lie next to each other, and back."""
    logits, n_classes = task.logits, task.logits.shape[-1]
    first = 0
    for block in _row_blocks(logits.shape[:-1], max(1, _COPIED_ELEMENTS // n_classes)):
        x = np.ascontiguousarray(logits[block])
        n = x.size // n_classes
        of_rows = {
            name: values[first : first + n]
            for name in _OF_ROWS
            if (values := getattr(task, name)) is not None
        }
        grad = None if task.grad is None else np.empty_like(x)
        q = None if task.probabilities is None else np.ascontiguousarray(task.probabilities[block])
        _run(task._replace(logits=x, grad=grad, probabilities=q, **of_rows), kind)
        if task.grad is not None:
            task.grad[block] = grad
        first += n


_OF_ROWS = (
    "targets",
    "sample_weight",
    "upstream",
    "lse_in",
    "loss",
    "lse",
    "argmax",
    "correct",
    "rank",
    "target_prob",
    "entropy",
)


def _row_blocks(rows: tuple[int, ...], limit: int) -> Iterator[tuple[int | slice, ...]]:
    """Indices of at most ``limit`` rows each that together are all rows, in order."""
    if not rows:
        yield ()
        return
    inner = math.prod(rows[1:])
    if inner > limit:
        for i in range(rows[0]):
            for rest in _row_blocks(rows[1:], limit):
                yield (i, *rest)
    else:
        step = max(1, limit // max(1, inner))
        for i in range(0, rows[0], step):
            yield (slice(i, i + step),)
