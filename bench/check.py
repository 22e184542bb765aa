"""The check before the clock: every contender's result against fastce's reference in float64, block by block.

The loss is compared over all rows, the gradient on all rows of a small problem and on a sample of a large one.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fastce

from .contenders import Contender, Problem

BLOCK = 1 << 20  # elements turned to float64 at a time
SAMPLE = 1 << 22  # elements of the gradient that are compared


class Tolerance(NamedTuple):
    """How far from float64 a result may be.

    Attributes
    ----------
    loss : float
        Error of the mean loss, relative, and of a logsumexp, relative where it is more than 1.
    grad : float
        Error of a gradient element, as a share of 1/n_rows, the gradient of a row that is all wrong.
    row : float
        Error of a gradient element, as a share of the largest of its row.
    value : float
        Error of an element of softmax and log_softmax, as a share of the largest of its row.
    """

    loss: float
    grad: float
    row: float
    value: float


# fastce rounds once to the type of the logits. The naive formula, `p - 1`, has an error as large in a row that is all
# right as in any other: no bound by row. PyTorch sums a row of float32 plainly (one row of 262,144 classes: 5e-4 off)
# and keeps bfloat16 log-probabilities, as JAX does.
_NONE = np.inf
EXACT = {
    "float32": Tolerance(1e-6, 2e-6, 1e-5, 2e-6),
    "bfloat16": Tolerance(1e-6, 4e-3, 4e-3, 4e-3),
    "float16": Tolerance(1e-6, 5e-4, 5e-4, 5e-4),
}
NAIVE = {
    "float32": Tolerance(1e-5, 4e-6, _NONE, 1e-5),
    "bfloat16": Tolerance(1e-5, 4e-3, _NONE, 4e-3),
    "float16": Tolerance(1e-5, 5e-4, _NONE, 5e-4),
}
COARSE = {
    "float32": Tolerance(1e-3, 1e-3, _NONE, 1e-3),
    "bfloat16": Tolerance(2e-2, 1e-2, _NONE, 2e-2),
    "float16": Tolerance(2e-3, 2e-3, _NONE, 2e-3),
}


class Oracle:
    """What each function of the table gives for a problem, in float64: losses of all rows, arrays of a sample.

    With `times`, of the problem's rows so many times, one copy after the other.
    """

    def __init__(self, problem: Problem, times: int = 1) -> None:
        self._logits, self._targets = problem.logits, problem.targets
        n_rows, n_classes = problem.logits.shape
        self.n_rows = n_rows * times
        self.rows = sample(self.n_rows, max(1, SAMPLE // n_classes))
        self._arrays: dict[str, NDArray[Any]] = {}
        # A 16-bit result may lie between 0 and the smallest number above it.
        self.floor = 2.0**-25 if problem.logits.dtype == np.float16 else 0.0

    @cached_property
    def loss(self) -> float:
        """Mean loss of all rows."""
        n_rows, n_classes = self._logits.shape
        step = max(1, BLOCK // n_classes)
        total = 0.0
        for start in range(0, n_rows, step):
            rows = slice(start, start + step)
            block = self._logits[rows].astype(np.float64)
            total += float(fastce.cross_entropy(block, self._targets[rows], reduction="sum", backend="reference"))
        mean: float = total / n_rows
        return mean

    def array(self, function: str) -> NDArray[Any]:
        """Gradient, or result of logsumexp (a column), softmax or log_softmax, of the rows `self.rows`."""
        if function not in self._arrays:
            self._arrays[function] = self._array(function)
        return self._arrays[function]

    def _array(self, function: str) -> NDArray[Any]:
        rows = self.rows % len(self._logits)
        chosen = self._logits[rows].astype(np.float64)
        if function == "gradient":
            result = fastce.cross_entropy_with_grad(
                chosen,
                self._targets[rows],
                reduction="sum",
                normalizer=self.n_rows,
                grad_out=chosen,
                backend="reference",
            )
            return result.grad
        of_rows: NDArray[Any] = np.asarray(getattr(fastce, function)(chosen, backend="reference"))
        return of_rows.reshape(len(chosen), -1)

    def chosen(self, array: NDArray[Any]) -> NDArray[Any]:
        """Rows of the sample, of an array of all rows."""
        return array[self.rows]

    def check(self, name: str, function: str, contender: Contender, tolerance: Tolerance) -> None:
        """Call the contender once; raise AssertionError where its result is further off than allowed."""
        returned = contender.call()
        if contender.read is None:
            return
        loss, array = contender.read(returned)
        if loss is not None and not abs(loss - self.loss) <= tolerance.loss * self.loss:
            raise AssertionError(f"{name}: loss {loss!r}, float64 gives {self.loss!r}")
        if array is None:
            return
        want = self.array(function)
        error = np.abs(self.chosen(array).astype(np.float64) - want).max(axis=1)
        largest = np.abs(want).max(axis=1)
        if function == "gradient":
            of_row = tolerance.row * largest if tolerance.row < _NONE else _NONE  # 0 * inf is no bound
            allowed = np.minimum(tolerance.grad / self.n_rows, of_row)
        elif function == "logsumexp":
            allowed = tolerance.loss * np.maximum(largest, 1)
        else:
            allowed = tolerance.value * largest
        bad = ~(error <= allowed + self.floor)
        if bad.any():
            i = int(np.argmax(bad))
            raise AssertionError(f"{name}: {function} of row {self.rows[i]} off by {error[i]:.2e} of {largest[i]:.2e}")


def sample(n_rows: int, most: int) -> NDArray[np.int64]:
    """All rows, or `most` of them: the first, the last, and random ones between."""
    if n_rows <= most:
        return np.arange(n_rows)
    rows = np.random.default_rng(0).choice(n_rows, most, replace=False)
    rows[0] = n_rows - 1
    rows[-1] = 0
    return np.unique(rows)
