"""The NumPy baseline: cross-entropy as a good user of NumPy writes it: shifted by the maximum, in place where natural.

Both functions take arrays to work in, so that no call pays for fresh memory. A 16-bit type goes through
float32: NumPy has no fast arithmetic for it. `xp` is the module that the arrays are of: CuPy runs the same on a GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]


def work_array(logits: Floats, xp: Any = np) -> Floats:
    """Make the array that both functions work in: the shape of the logits, float64 for float64, else float32."""
    work: Floats = xp.zeros(logits.shape, np.float64 if logits.dtype == np.float64 else np.float32)
    return work


def loss(logits: Floats, targets: NDArray[np.int64], work: Floats, xp: Any = np) -> np.floating[Any]:
    """Mean of `logsumexp(logits) - logits[target]`, forward alone. `work` is overwritten."""
    return _exp_and_loss(logits, targets, work, xp)[1]


def loss_and_grad(
    logits: Floats, targets: NDArray[np.int64], work: Floats, out: Floats | None = None, xp: Any = np
) -> tuple[np.floating[Any], Floats]:
    """Mean loss, and its gradient `(softmax(logits) - onehot(targets)) / n_rows`.

    The gradient is computed in `work`, which may be `logits`, and given back in it, or in `out` (a 16-bit type).
    """
    sums, mean = _exp_and_loss(logits, targets, work, xp)
    n_rows = len(targets)
    work /= n_rows * sums
    work[xp.arange(n_rows), targets] -= 1 / n_rows
    if out is None or out is work:
        return mean, work
    out[...] = work
    return mean, out


def _exp_and_loss(logits: Floats, targets: NDArray[np.int64], work: Floats, xp: Any) -> tuple[Floats, np.floating[Any]]:
    """Fill `work` with `exp(logits - maximum)`; give the sums of its rows and the mean loss."""
    if logits.dtype != work.dtype:
        work[...] = logits
        logits = work
    at_target = logits[xp.arange(len(targets)), targets]
    maximum = logits.max(axis=1, keepdims=True)
    xp.subtract(logits, maximum, out=work)
    xp.exp(work, out=work)
    sums = work.sum(axis=1, keepdims=True)
    mean: np.floating[Any] = (xp.log(sums[:, 0]) + maximum[:, 0] - at_target).mean()
    return sums, mean
