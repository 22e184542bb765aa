"""One small function for each function of the table, of fastce, NumPy and the yardsticks: a problem in, a call out.

All contenders of a problem read the same logits. Those that can write into the caller's array share `Problem.out`,
whose memory has been touched before; who cannot allocates its result anew in each call, as it does for its users.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from importlib import import_module
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

import fastce

from . import baseline
from .data import make_logits

Array = NDArray[Any]


class Problem:
    """The arrays of one cell: logits, targets, an output like the logits and the baseline's array to work in."""

    logits: Array
    targets: NDArray[np.int64]

    def __init__(self, n_rows: int, n_classes: int, dtype: np.dtype[Any], seed: int = 0) -> None:
        if n_classes == 1:  # nothing to be wrong about
            self.logits, self.targets = np.ones((n_rows, 1), dtype), np.zeros(n_rows, np.int64)
        else:
            self.logits, self.targets = make_logits(n_rows, n_classes, dtype=dtype, seed=seed)
        self.out = np.zeros_like(self.logits)
        self.row_out = np.zeros(n_rows, np.float64 if dtype == np.float64 else np.float32)

    @cached_property
    def work(self) -> Array:
        """The array the baseline computes in; the output itself if its type will do."""
        work = baseline.work_array(self.logits)
        return self.out if work.dtype == self.out.dtype else work


class Contender(NamedTuple):
    """What is timed, and how to get numbers from what it returns.

    `read` gives the loss (float; None of a function that has none) and the array: the gradient, what softmax or
    log_softmax gives, logsumexp as one column, or None for forward alone. `read=None` is a yardstick: nothing computed.
    """

    call: Callable[[], Any]
    read: Callable[[Any], tuple[float | None, Array | None]] | None


Builder = Callable[[Problem], Contender]


def dtype_of(name: str) -> np.dtype[Any]:
    """NumPy's dtype of a type of the table."""
    if name == "bfloat16":
        name = import_module("ml_dtypes").bfloat16
    dtype: np.dtype[Any] = np.dtype(name)
    return dtype


def of_rows(values: Any) -> tuple[None, Array]:
    """Read one number a row."""
    return None, np.asarray(values).reshape(-1, 1)


# --- fastce


def fastce_forward(p: Problem) -> Contender:
    """`fastce.cross_entropy`."""
    return Contender(lambda: fastce.cross_entropy(p.logits, p.targets), lambda loss: (float(loss), None))


def fastce_gradient(p: Problem) -> Contender:
    """`fastce.cross_entropy_with_grad` into another array."""
    return Contender(
        lambda: fastce.cross_entropy_with_grad(p.logits, p.targets, grad_out=p.out),
        lambda result: (float(result.loss), result.grad),
    )


def fastce_in_place(p: Problem) -> Contender:
    """`fastce.cross_entropy_with_grad` over the logits: from the second call on they are the last call's gradient."""
    logits = p.logits.copy()
    return Contender(
        lambda: fastce.cross_entropy_with_grad(logits, p.targets, grad_out=logits),
        lambda result: (float(result.loss), result.grad),
    )


def fastce_logsumexp(p: Problem) -> Contender:
    """`fastce.logsumexp`, its output given."""
    return Contender(lambda: fastce.logsumexp(p.logits, out=p.row_out), of_rows)


def fastce_softmax(p: Problem) -> Contender:
    """`fastce.softmax`, its output given."""
    return Contender(lambda: fastce.softmax(p.logits, out=p.out), lambda result: (None, result))


def fastce_log_softmax(p: Problem) -> Contender:
    """`fastce.log_softmax`, its output given."""
    return Contender(lambda: fastce.log_softmax(p.logits, out=p.out), lambda result: (None, result))


FASTCE: dict[str, Builder] = {
    "forward": fastce_forward,
    "gradient": fastce_gradient,
    "logsumexp": fastce_logsumexp,
    "softmax": fastce_softmax,
    "log_softmax": fastce_log_softmax,
}
FASTCE_IN_PLACE: dict[str, Builder] = {"gradient": fastce_in_place}


# --- the NumPy baseline


def numpy_forward(p: Problem) -> Contender:
    """The NumPy baseline, forward alone."""
    return Contender(lambda: baseline.loss(p.logits, p.targets, p.work), lambda loss: (float(loss), None))


def numpy_gradient(p: Problem) -> Contender:
    """The NumPy baseline, loss with gradient into another array."""
    return Contender(
        lambda: baseline.loss_and_grad(p.logits, p.targets, p.work, p.out), lambda result: (float(result[0]), result[1])
    )


NUMPY: dict[str, Builder] = {"forward": numpy_forward, "gradient": numpy_gradient}


# --- yardsticks: as many bytes, and nothing computed

ONE_THREAD = 1 << 13  # words of 64 bits: with fewer, one thread is done before another is awake


def copy(p: Problem, share: int) -> Contender:
    """`out[i] = in[i]` of one `share`-th of the logits, by all threads unless it is small."""
    source, out = (words(array)[: -(-array.nbytes // 8 // share)] for array in (p.logits, p.out))
    run = _copy if source.size >= ONE_THREAD else _copy_alone
    run(source, out)
    if not np.array_equal(source, out):
        raise AssertionError("the copy does not copy")
    return Contender(lambda: run(source, out), None)


def read(p: Problem) -> Contender:
    """Sum of the logits as integers, by all threads: every byte is read, the least is done with it, nothing written."""
    source = words(p.logits)
    n_blocks = max(1, min(source.size >> 9, 8 * numba.get_num_threads()))  # a block of 4 KiB or more
    sums = np.zeros(n_blocks, np.int64)
    run = _sum if source.size >= ONE_THREAD else _sum_alone
    run(source, sums)
    if sums.sum() != source.sum():
        raise AssertionError("the sum is wrong")
    return Contender(lambda: run(source, sums), None)


def _copy_loop(source: Array, out: Array) -> None:
    for i in numba.prange(source.size):
        out[i] = source[i]


def _sum_loop(source: Array, sums: Array) -> None:
    for block in numba.prange(sums.size):
        part = source[source.size * block // sums.size : source.size * (block + 1) // sums.size]
        total = np.int64(0)
        for i in range(part.size):
            total += part[i]
        sums[block] = total


_copy, _copy_alone = numba.njit(parallel=True)(_copy_loop), numba.njit(_copy_loop)
_sum, _sum_alone = numba.njit(parallel=True)(_sum_loop), numba.njit(_sum_loop)


def words(array: Array) -> NDArray[np.int64]:
    """View an array as integers of 64 bits, the bytes beyond the last whole one left out."""
    flat = array.reshape(-1).view(np.uint8)
    return flat[: flat.size // 8 * 8].view(np.int64)


# A copy reads and writes: for a function that only reads, half of the logits are as many bytes.
COPY: dict[str, Builder] = {
    "gradient": partial(copy, share=1),
    "softmax": partial(copy, share=1),
    "log_softmax": partial(copy, share=1),
    "forward": partial(copy, share=2),
    "logsumexp": partial(copy, share=2),
}
READ: dict[str, Builder] = {"forward": read, "logsumexp": read}
