"""One small function for each provider and function of the table: a problem in, a call to time out.

All contenders of a problem read the same logits. Those that can write into the caller's array share `Problem.out`,
whose memory has been touched before; PyTorch allocates its gradient anew in each step, as it does in training.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
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

    def __init__(self, n_rows: int, n_classes: int, dtype: np.dtype[Any], seed: int = 0) -> None:
        self.logits, self.targets = make_logits(n_rows, n_classes, dtype=dtype, seed=seed)
        self.out = np.zeros_like(self.logits)

    @cached_property
    def work(self) -> Array:
        """The array the baseline computes in; the output itself if its type will do."""
        work = baseline.work_array(self.logits)
        return self.out if work.dtype == self.out.dtype else work


class Contender(NamedTuple):
    """What is timed, and how to get the loss (float) and the gradient (None for forward alone) from what it returns.

    `read=None`: nothing is computed (the copy).
    """

    call: Callable[[], Any]
    read: Callable[[Any], tuple[float, Array | None]] | None


Builder = Callable[[Problem], Contender]


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


def numpy_forward(p: Problem) -> Contender:
    """The NumPy baseline, forward alone."""
    return Contender(lambda: baseline.loss(p.logits, p.targets, p.work), lambda loss: (float(loss), None))


def numpy_gradient(p: Problem) -> Contender:
    """The NumPy baseline, loss with gradient into another array."""
    return Contender(
        lambda: baseline.loss_and_grad(p.logits, p.targets, p.work, p.out), lambda result: (float(result[0]), result[1])
    )


def torch_forward(p: Problem) -> Contender:
    """PyTorch eager, `F.cross_entropy` without gradient."""
    torch = import_module("torch")
    logits, targets = _to_torch(p.logits), torch.from_numpy(p.targets)

    def call() -> Any:
        with torch.no_grad():
            return torch.nn.functional.cross_entropy(logits, targets)

    return Contender(call, lambda loss: (loss.item(), None))


def torch_gradient(p: Problem) -> Contender:
    """PyTorch eager, `F.cross_entropy` and `backward()`, the gradient unset before as `zero_grad()` leaves it."""
    torch = import_module("torch")
    logits, targets = _to_torch(p.logits).requires_grad_(), torch.from_numpy(p.targets)

    def call() -> Any:
        logits.grad = None
        loss = torch.nn.functional.cross_entropy(logits, targets)
        loss.backward()
        return loss

    return Contender(call, lambda loss: (loss.item(), _from_torch(logits.grad, p.logits.dtype)))


def copy_forward(p: Problem) -> Contender:
    """Read half of the logits and write them elsewhere: as many bytes as reading them all."""
    return _copy(p, (p.logits.size + 1) // 2)


def copy_gradient(p: Problem) -> Contender:
    """Read the logits and write them elsewhere: the bytes of reading them once and writing a gradient once."""
    return _copy(p, p.logits.size)


def _copy(p: Problem, size: int) -> Contender:
    """`out[i] = in[i]` of the first `size` elements, by all threads."""
    source, out = (_bits(array).reshape(-1)[:size] for array in (p.logits, p.out))
    _copy_elements(source, out)
    if not np.array_equal(source, out):
        raise AssertionError("the copy does not copy")
    return Contender(lambda: _copy_elements(source, out), None)


@numba.njit(parallel=True)
def _copy_elements(source: Array, out: Array) -> None:
    for i in numba.prange(source.size):
        out[i] = source[i]


def _bits(array: Array) -> Array:
    """View 16-bit types, which Numba and PyTorch do not take from NumPy, as integers."""
    return array.view(np.int16) if array.itemsize == 2 else array


def _to_torch(array: Array) -> Any:
    torch = import_module("torch")
    tensor = torch.from_numpy(_bits(array))
    return tensor.view(getattr(torch, array.dtype.name)) if array.itemsize == 2 else tensor


def _from_torch(tensor: Any, dtype: np.dtype[Any]) -> Array:
    torch = import_module("torch")
    array: Array = (tensor.view(torch.int16) if dtype.itemsize == 2 else tensor).numpy().view(dtype)
    return array
