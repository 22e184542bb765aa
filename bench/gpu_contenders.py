"""Contenders on arrays of a GPU: fastce, the NumPy baseline run by CuPy, and a copy; `gpu_peers.py`: the others.

fastce's own functions are those of `contenders.py`: they take the arrays of either place.
"""

from __future__ import annotations

from functools import cached_property, partial
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastce

from . import baseline, contenders
from .check import Oracle
from .contenders import Array, Builder, Contender, Problem

DISTINCT = 1 << 24  # logits that are made, and known in float64; the rows of a larger problem are copies of these rows


def distinct_rows(n_rows: int, n_classes: int) -> int:
    """How many rows are made: a divisor of all, so that their mean loss is that of all.

    >>> distinct_rows(32768, 65536), distinct_rows(1024, 10)
    (256, 1024)
    """
    most = max(1, min(n_rows, DISTINCT // n_classes))
    return next(n for n in range(most, 0, -1) if n_rows % n == 0)


def bits(array: Array) -> Array:
    """View an array of floats as whole numbers: bfloat16 is a type that not everything takes."""
    return array.view(np.dtype(f"i{array.itemsize}"))


class GpuProblem(Problem):
    """The arrays of one cell, CuPy's. `host` are the distinct rows, NumPy's; `scratch` is for who overwrites logits."""

    def __init__(self, n_rows: int, n_classes: int, dtype: np.dtype[Any], seed: int = 0) -> None:
        cupy = import_module("cupy")
        made = distinct_rows(n_rows, n_classes)
        self.host = Problem(made, n_classes, dtype, seed)
        self.copies = n_rows // made
        whole = bits(self.host.logits).dtype
        block = cupy.asarray(bits(self.host.logits))
        logits = cupy.empty((n_rows, n_classes), whole)
        for start in range(0, n_rows, made):
            logits[start : start + made] = block
        self.logits = logits.view(dtype)
        self.targets = cupy.tile(cupy.asarray(self.host.targets), self.copies)
        self.out = cupy.zeros_like(logits).view(dtype)
        self.scratch = cupy.zeros_like(logits).view(dtype)
        self.row_out = cupy.zeros(n_rows, np.float32)

    @cached_property
    def work(self) -> Array:
        """The array the baseline computes in; the output itself if its type will do."""
        return self.out if self.out.dtype == np.float32 else baseline.work_array(self.logits, import_module("cupy"))

    def make_ready(self) -> None:
        """Let `scratch` hold the logits again, and the output NaN: nobody passes by what the one before has left."""
        bits(self.scratch)[...] = bits(self.logits)
        bits(self.out).fill(-1)  # all bits set


class GpuOracle(Oracle):
    """Compares some of the rows, which are fetched from the GPU."""

    def __init__(self, problem: GpuProblem) -> None:
        super().__init__(problem.host, problem.copies)

    def chosen(self, array: Array) -> NDArray[Any]:
        """Rows of the sample."""
        cupy = import_module("cupy")
        rows: NDArray[Any] = bits(array)[cupy.asarray(self.rows)].get()
        return rows.view(array.dtype)


# --- fastce


def fastce_in_place(p: GpuProblem) -> Contender:
    """`fastce.cross_entropy_with_grad` over the logits: from the second call on they are the last call's gradient."""
    return Contender(
        lambda: fastce.cross_entropy_with_grad(p.scratch, p.targets, grad_out=p.scratch),
        lambda result: (float(result.loss), result.grad),
    )


FASTCE: dict[str, Builder] = {name: contenders.FASTCE[name] for name in ("gradient", "forward")}
FASTCE_IN_PLACE: dict[str, Any] = {"gradient": fastce_in_place}


# --- the NumPy baseline, by CuPy


def cupy_forward(p: GpuProblem) -> Contender:
    """The baseline, forward alone."""
    cupy = import_module("cupy")
    return Contender(lambda: baseline.loss(p.logits, p.targets, p.work, cupy), lambda loss: (float(loss), None))


def cupy_gradient(p: GpuProblem) -> Contender:
    """The baseline, loss with gradient into another array."""
    cupy = import_module("cupy")
    return Contender(
        lambda: baseline.loss_and_grad(p.logits, p.targets, p.work, p.out, cupy),
        lambda result: (float(result[0]), result[1]),
    )


CUPY: dict[str, Any] = {"forward": cupy_forward, "gradient": cupy_gradient}


# --- the yardstick


def copy(p: GpuProblem, share: int) -> Contender:
    """Copy of one `share`-th of the logits by the driver, from the device's memory to the device's memory."""
    cupy = import_module("cupy")
    source, out = p.logits.reshape(-1), p.out.reshape(-1)
    n = -(-source.size // share)
    size = n * source.itemsize

    def call() -> None:
        to, of, stream = out.data.ptr, source.data.ptr, cupy.cuda.get_current_stream()  # type: ignore[attr-defined]
        cupy.cuda.runtime.memcpyAsync(to, of, size, cupy.cuda.runtime.memcpyDeviceToDevice, stream.ptr)

    call()
    if not bool((bits(out)[:n] == bits(source)[:n]).all()):
        raise AssertionError("the copy does not copy")
    return Contender(call, None)


# A copy reads and writes: for a function that only reads, half of the logits are as many bytes.
COPY: dict[str, Any] = {"gradient": partial(copy, share=1), "forward": partial(copy, share=2)}
