"""From a task to the kernels: arrays as the kernels take them, the regime, and serial or parallel.

The kernels take every array in one form, so that there is one compiled kernel per type: C-contiguous and writeable as
far as Numba sees; the first row of the logits stands for all, whose distances go along as numbers. Few classes may lie
anywhere; of many that do not lie next to each other, a block of rows at a time is copied.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache, lru_cache, partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from numba.np.numpy_support import from_dtype

from ..task import GRADIENTS, LOG_SOFTMAX, SMALL, Array, Task
from . import kernels, threads
from .call import GENERAL, STREAMS, needs, spread_of
from .regimes import LOOK, ROWS, regime_of, size_of_work
from .sums import CHUNK
from .targets import sum_rows


class Limits(NamedTuple):
    """What a call is cut into, and how it uses the caches."""

    serial: int  # ``size_of_work`` of a call: below, one thread computes it
    block: int  # elements: what a thread takes at a time
    fetch: int  # bytes: how far ahead of what is read memory is asked for
    stream: int  # bytes of logits: from here on, gradients go past the caches (``go_past``)
    even: int  # rows a thread: below, rows of several chunks are shared chunk by chunk
    rows: int  # a thread takes at least this many at a time, where there are so many


# Microseconds a call of 1,000 classes on one thread and two, whose pool is awake (calls in a row) or asleep (a pause of
# 5 ms before each, as in a training loop). What waking costs is had back later than the awake pool would say:
#
# elements           32,000    64,000   100,000   150,000
# awake             22    22   44   31   59   41   87   54
# asleep            30   158   74  210   81  143  199  178
#
# Nanoseconds an element on two threads, gradients by ordinary stores and past the caches:
#
#                    2,048 x 1,000   4,096 x 1,000   32,768 x 1,000   2,048 x 4,000   512 x 32,000
# through the caches      .35             .33              .35             .33            .38
# past them               .31             .28              .32             .28            .27
#
# Where less of the last cache is one's own, less is enough. A Zen 4, eight cores of which share 32 MiB; "cold": other
# work between the calls leaves nothing of theirs in the caches; least times of the last two columns, else medians.
#
#                     2,048 x 1,000  3,000 x 1,000  4,000 x 1,000  4,000 x 500  8,192 x 256  80 x 32,000  700 x 4,096
# through the caches       .25            .31            .33           .27          .29          .23          .23
# past them                .24            .22            .22           .27          .35          .20          .20
# through them, cold       .46            .44                          .49          .52          .38          .35
# past them, cold          .38            .35                          .40          .50          .26          .24
#
# That is with AVX-512. With AVX2 there is twice as much to compute, and the memory waits (a Zen 3, with 8,192 x 1,000,
# 32,768 x 1,000 and 1,024 x 32,000): through the caches .51, .47 and .51, past them, by whole lines, .59, .51 and .54.
STREAM = 8_000_000 if STREAMS else 1 << 62
LIMITS = Limits(serial=SMALL, block=1 << 16, fetch=1 << 15, stream=STREAM, even=4, rows=16)


class Memory(NamedTuple):
    """How logits of a type lie in memory (see ``pointers.py``), and what stands for arrays that are not there."""

    view: Any  # the NumPy type of the same bits that Numba has arrays of
    arithmetic: Any
    no_gradient: Array
    no_q: Array
    no_rows: Array
    adjacent: tuple[int, ...]  # bytes from class to class of logits, gradient, probabilities and Hessian


@cache
def memory_of(dtype: np.dtype[Any]) -> Memory:
    """The memory of logits of a type."""
    views: dict[str, Any] = {"float16": np.uint16, "bfloat16": np.int16, "float32": np.float32, "float64": np.float64}
    view = views[dtype.name]
    arithmetic: Any = np.float64 if dtype == np.float64 else np.float32
    return Memory(
        view,
        arithmetic,
        np.empty((0, 0), view),
        np.empty((0, 0), arithmetic),
        np.empty(0, arithmetic),
        (dtype.itemsize,) * 2 + (np.dtype(arithmetic).itemsize,) * 2,
    )


@cache
def work(view: np.dtype[Any], regime: int) -> int:
    """Address of the compiled work of a regime on logits that Numba sees as of this type."""
    return int(kernels.work_on(from_dtype(view), regime).address)


_NO_INTEGERS = np.empty(0, np.int64)
_NO_FLAGS = np.empty(0, np.uint8)
_COPIED_ELEMENTS = 1 << 18  # of a block of rows that is copied: 1 MiB of float32


def run(task: Task, kind: int = GRADIENTS) -> float:
    """Fill the outputs of a task; ``kind`` says what its ``grad`` is to be. Gives the sum of the row losses."""
    x, grad, q, hess = task.logits, task.grad, task.probabilities, task.hess
    memory = memory_of(x.dtype)
    adjacent = _adjacent(x) and _adjacent(grad) and _adjacent(q) and _adjacent(hess)
    # (of the whole task: blocks of it must not differ in their regime, and in their last bits)
    regime = regime_of(x.size // x.shape[-1], x.shape[-1], _needs_of(task))
    if q is not None and q.dtype.type is not memory.arithmetic:
        return _run_copied(task, kind, regime)
    if adjacent:
        return _run(task, kind, regime, memory.adjacent)
    if regime != ROWS and all(array is None or array.flags.aligned for array in (x, grad, q, hess)):
        return _run(
            task, kind, regime, tuple(_class_step(x if array is None else array) for array in (x, grad, q, hess))
        )
    return _run_copied(task, kind, regime)


def go_past(n_bytes: int, kind: int = GRADIENTS, capped: bool = False) -> bool:
    """Whether the gradient of logits of ``n_bytes``, or what ``kind`` asks for, goes past the caches.

    Below a softcap there is so much to compute that the memory has time to write what the caches leave to it, and past
    them, all of it would have to be written between the sums (a Zen 4, 1,024 x 32,000: 14.0 ms past the caches, 11.2
    through them; 4,500 to 50,257 classes .80 to .87, up to 2,000 .9 to 1.05).

    log_softmax, which is not written beside the sums of later rows, from twice as many on (a Zen 4, 3,000 x 1,000: 585
    us through the caches, 703 past them).
    """
    return not capped and n_bytes >= (2 * LIMITS.stream if kind == LOG_SOFTMAX else LIMITS.stream)


class Way(NamedTuple):
    """How a plain call is computed, as ``entry.py`` takes it."""

    tuning: int  # ``fetch`` and ``stream`` (``call.py``): twice the one plus the other
    step: int  # the regime
    block: int  # rows, or chunks, that a thread takes at a time; 0 if one takes all


def plain_way(logits: Array, need: int, kind: int, writes: bool, softcap: float = 0.0) -> Way:
    """That of contiguous logits; ``writes``: to another place."""
    n_rows, n_classes = logits.shape
    return _way(
        LIMITS, n_rows, n_classes, logits.itemsize, _n_threads(n_rows, n_classes), need, kind, writes, softcap != 0.0
    )


@lru_cache(maxsize=1024)
def _way(
    limits: Limits, n_rows: int, n_classes: int, itemsize: int, n_threads: int, need: int, kind: int, writes: bool,
    capped: bool,
) -> Way:  # fmt: skip
    regime, row_bytes = regime_of(n_rows, n_classes, need), n_classes * itemsize
    step, block, fetch = _shares(limits, n_rows, n_classes, regime, n_threads, row_bytes, itemsize)
    return Way(2 * fetch + int(writes and go_past(n_rows * row_bytes, kind, capped)), step, block)


def _n_threads(n_rows: int, n_classes: int) -> int:
    """How many there are for a call. (To ask for more than one starts them.)"""
    return 1 if is_small(n_rows, n_classes) else threads.available()


def is_small(n_rows: int, n_classes: int) -> bool:
    """Whether one thread computes a call."""
    return size_of_work(n_rows, n_classes) < LIMITS.serial


def take_more(argmax: Any, correct: Any, rank: Any, entropy: Any) -> bool:
    """Whether something is asked that takes more looks at a row: those that are not None."""
    return not argmax is correct is rank is entropy is None


def _needs_of(task: Task) -> int:
    """What the rows of a task need."""
    if task.hess is not None or take_more(task.argmax, task.correct, task.rank, task.entropy):
        return GENERAL
    spread = spread_of(task.probabilities is not None, task.label_smoothing)
    return needs(task.softcap, task.logit_scale, spread, task.weight is not None)


@lru_cache(maxsize=1024)
def _shares(
    limits: Limits, n_rows: int, n_classes: int, regime: int, n_threads: int, x_step: int, item_bytes: int
) -> tuple[int, int, int]:
    """Give the regime, how many rows, or chunks, a thread takes at a time, and ``_fetched``.

    The regime is the one given, of whole rows, or that of chunks. 0 rows: one thread. Remembered, because kernels leave
    nothing in the caches of what Python looks at: every line of it that runs takes half a microsecond, or two.
    """
    fetch, one_by_one = _fetched(x_step, n_classes, item_bytes), regime == ROWS
    if n_threads == 1:
        return regime, 0, fetch
    if one_by_one and n_classes > CHUNK and n_rows < limits.even * n_threads:
        return LOOK, 1, fetch
    blocks = -(-n_rows // max(1, min(max(limits.block // n_classes, limits.rows), -(-n_rows // (2 * n_threads)))))
    block = -(-n_rows // (-(-blocks // n_threads) * n_threads))  # (as many for each: Numba shares them out beforehand)
    return regime, block if one_by_one else -(-block // 16) * 16, fetch  # (whole groups)


def _adjacent(array: Array | None) -> bool:
    """Whether the classes of a row, if there are any, lie next to each other, each at a multiple of its size."""
    return array is None or (array.flags.aligned and (array.strides[-1] == array.itemsize or array.shape[-1] == 1))


def _run(task: Task, kind: int, regime: int, class_steps: tuple[int, ...]) -> float:
    (
        logits, targets, q, weight, sample_weight, upstream, lse_in, ignore_index, label_smoothing, z_loss, softcap,
        logit_scale, ce_scale, zl_scale, zl_ratio, grad, loss, lse, argmax, correct, rank, target_prob, entropy,
        hess,
    ) = task  # fmt: skip
    dtype = logits.dtype
    view, arithmetic, no_gradient, no_q, no_rows, _ = memory_of(dtype)
    n_classes = logits.shape[-1]
    n_rows = logits.size // n_classes
    x_step = _step(logits)
    g_step = x_step if grad is None or grad is logits else _step(grad)
    q_step = x_step if q is None else _step(q)
    h_step = x_step if hess is None else _step(hess)
    offsets = _NO_INTEGERS
    if x_step is None or g_step is None or q_step is None or h_step is None:
        offsets = np.concatenate([_offsets(logits if a is None else a) for a in (logits, grad, q, hess)])
        x_step = g_step = q_step = h_step = 0
    past = go_past(logits.nbytes, kind, softcap != 0.0)
    streamed = past and grad is not None and grad is not logits
    n_threads = _n_threads(n_rows, n_classes)
    step, block, fetch = _shares(LIMITS, n_rows, n_classes, regime, n_threads, x_step, dtype.itemsize)
    x = _first_row(logits, view)
    args = (
        x,
        no_gradient if grad is None else x if grad is logits else _first_row(grad, view),
        no_q if q is None else _first_row(q, arithmetic),
        no_q if hess is None else _first_row(hess, arithmetic),
        (n_rows, x_step, g_step, q_step, h_step),
        class_steps,
        offsets,
        _NO_INTEGERS if targets is None else targets,
        ignore_index,
        no_rows if weight is None else weight,
        (
            no_rows if sample_weight is None else sample_weight,
            no_rows if upstream is None else upstream,
            no_rows if lse_in is None else lse_in,
        ),
        (
            no_rows if loss is None else loss,
            no_rows if lse is None else lse,
            no_rows if target_prob is None else target_prob,
            no_rows if entropy is None else entropy,
        ),
        (
            _NO_INTEGERS if argmax is None else argmax,
            _NO_INTEGERS if rank is None else rank,
            _NO_FLAGS if correct is None else correct.view(np.uint8),
        ),
        (label_smoothing, z_loss, softcap, logit_scale, ce_scale, zl_scale, zl_ratio),
        kind,
        (int(streamed), fetch),
    )
    alone, shared = partial(_solve, kernels.solve, regime, 0), partial(_solve, kernels.solve_shared, step, block)
    total: float = alone(args) if block == 0 else threads.run(shared, alone, args)
    return total


def _solve(kernel: Any, step: int, block: int, args: tuple[Any, ...]) -> Any:
    return kernel(work(args[0].dtype, step), step, block, *args)


def _fetched(step: int, n_classes: int, item_bytes: int) -> int:
    """Bytes from what is read to what is asked for: in the row itself, or the same place of a later row."""
    if step == item_bytes and n_classes > 1:  # (rows side by side: one such place for every class)
        return max(64, LIMITS.fetch // n_classes)
    if n_classes * item_bytes >= LIMITS.fetch or step == 0:
        return LIMITS.fetch
    return step * -(-LIMITS.fetch // abs(step))


def _step(array: Array) -> int | None:
    """Bytes from row to row; None where no single number says it."""
    strides = array.strides
    if len(strides) == 2:
        return int(strides[0])
    step, n = 0, 1
    for size, stride in zip(array.shape[-2::-1], strides[-2::-1], strict=True):
        if size == 1:
            continue
        if n == 1:
            step = stride
        elif stride != step * n:
            return None
        n *= size
    return step


def _class_step(array: Array) -> int:
    """Bytes from class to class."""
    return int(array.strides[-1]) if array.shape[-1] > 1 else array.itemsize


def _offsets(array: Array) -> Array:
    """Bytes from the first row to every row."""
    rows = array.shape[:-1]
    offsets = np.zeros(rows, np.int64)
    for axis, stride in enumerate(array.strides[:-1]):
        offsets += (np.arange(rows[axis]) * stride).reshape([-1 if a == axis else 1 for a in range(len(rows))])
    return offsets.reshape(-1)


def _first_row(array: Array, view: Any) -> Array:
    """An array with the address and the classes of this one, contiguous and writeable as Numba sees it."""
    flags = array.flags
    if array.ndim == 2 and flags.c_contiguous and flags.writeable and array.dtype.type is view:
        return array
    row = array[(0,) * (array.ndim - 1)]
    if not flags.writeable or _class_step(array) != array.itemsize:
        # The same memory, without what would make Numba compile everything again. Read-only memory is never written.
        row = row.view(view)
        address = row.__array_interface__["data"][0]
        interface = {"version": 3, "data": (address, False), "shape": row.shape, "typestr": row.dtype.str}
        row = np.asarray(SimpleNamespace(__array_interface__=interface))
    first: Array = row.view(view)[np.newaxis]
    return first


def _run_copied(task: Task, kind: int, regime: int) -> float:
    """The same, by blocks of rows copied to where classes lie next to each other, and probabilities are of the type
    that is computed in; and back.
    """
    shape, first = task.logits.shape, 0
    for block in _row_blocks(shape[:-1], max(1, _COPIED_ELEMENTS // shape[-1])):
        first += _run_block(task, kind, regime, block, first)
    return 0.0 if task.loss is None else float(sum_rows(task.loss))


def _run_block(task: Task, kind: int, regime: int, block: tuple[int | slice, ...], first: int) -> int:
    """One of these blocks, whose rows begin at ``first``; gives how many there are. Its copies are let go here."""
    memory = memory_of(task.logits.dtype)
    x = np.require(task.logits[block], requirements=["C", "A"])
    n = x.size // x.shape[-1]
    of_rows = {name: values[first : first + n] for name in _OF_ROWS if (values := getattr(task, name)) is not None}
    grad = None if task.grad is None else np.empty_like(x)
    q = None if task.probabilities is None else np.require(task.probabilities[block], memory.arithmetic, ["C", "A"])
    hess = None if task.hess is None else np.empty(x.shape, memory.arithmetic)
    block_task = task._replace(logits=x, grad=grad, probabilities=q, hess=hess, **of_rows)
    _run(block_task, kind, regime, memory.adjacent)
    if task.grad is not None:
        task.grad[block] = grad
    if task.hess is not None:
        task.hess[block] = hess
    return int(n)


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
