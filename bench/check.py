"""The check before the clock: every contender's result against fastce's reference in float64, block by block.

The loss is compared over all rows, the gradient on all rows of a small problem and on a sample of a large one.
"""

from __future__ import annotations

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
        Error of the mean loss, relative.
    grad : float
        Error of a gradient element, as a share of 1/n_rows, the gradient of a row that is all wrong.
    row : float
        Error of a gradient element, as a share of the largest of its row.
    """

    loss: float
    grad: float
    row: float


# fastce rounds once to the type of the logits. The naive formula, `p - 1`, has an error as large in a row that is all
# right as in any other: no bound by row. PyTorch sums a row of float32 plainly (one row of 262,144 classes: 5e-4 off)
# and keeps bfloat16 log-probabilities.
EXACT = {"float32": Tolerance(1e-6, 2e-6, 1e-5), "bfloat16": Tolerance(1e-6, 4e-3, 4e-3)}
NAIVE = {"float32": Tolerance(1e-5, 4e-6, np.inf), "bfloat16": Tolerance(1e-5, 4e-3, np.inf)}
COARSE = {"float32": Tolerance(1e-3, 1e-3, np.inf), "bfloat16": Tolerance(2e-2, 1e-2, np.inf)}


class Oracle:
    """Mean loss of a problem and the gradient of a sample of its rows, in float64."""

    def __init__(self, problem: Problem) -> None:
        logits, targets = problem.logits, problem.targets
        n_rows, n_classes = logits.shape
        step = max(1, BLOCK // n_classes)
        total = 0.0
        for start in range(0, n_rows, step):
            rows = slice(start, start + step)
            block = logits[rows].astype(np.float64)
            total += float(fastce.cross_entropy(block, targets[rows], reduction="sum", backend="reference"))
        self.loss = total / n_rows
        self.rows = sample(n_rows, max(1, SAMPLE // n_classes))
        chosen = logits[self.rows].astype(np.float64)
        result = fastce.cross_entropy_with_grad(
            chosen, targets[self.rows], reduction="sum", normalizer=n_rows, grad_out=chosen, backend="reference"
        )
        self.grad: NDArray[Any] = result.grad

    def check(self, name: str, contender: Contender, tolerance: Tolerance) -> None:
        """Call the contender once; raise AssertionError where its result is further off than allowed."""
        returned = contender.call()
        if contender.read is None:
            return
        loss, grad = contender.read(returned)
        if not abs(loss - self.loss) <= tolerance.loss * self.loss:
            raise AssertionError(f"{name}: loss {loss!r}, float64 gives {self.loss!r}")
        if grad is None:
            return
        error = np.abs(grad[self.rows].astype(np.float64) - self.grad).max(axis=1)
        largest = np.abs(self.grad).max(axis=1)
        bad = ~(error <= np.minimum(tolerance.grad / len(grad), tolerance.row * largest))
        if bad.any():
            i = int(np.argmax(bad))
            raise AssertionError(f"{name}: gradient of row {self.rows[i]} off by {error[i]:.2e} of {largest[i]:.2e}")


def sample(n_rows: int, most: int) -> NDArray[np.int64]:
    """All rows, or `most` of them: the first, the last, and random ones between."""
    if n_rows <= most:
        return np.arange(n_rows)
    rows = np.random.default_rng(0).choice(n_rows, most, replace=False)
    rows[0] = n_rows - 1
    rows[-1] = 0
    return np.unique(rows)
