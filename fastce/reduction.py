"""none, mean and sum: what losses and gradients are divided by, and how row losses become the result."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .kernels.task import Array, divided_by

REDUCTIONS = ("mean", "sum", "none")
EMPTY = {"nan": math.nan, "zero": 0.0}  # the mean where its denominator is 0

Scalar = np.generic

# A number as a float32. After a large call, that leaves nothing in the caches, ``np.float32`` takes 8 µs to make one,
# and a product 3. (Before NumPy 2, that would be a float64.)
to_float32: Any = np.float32(1).__mul__ if type(np.float32(1) * 0.5) is np.float32 else np.float32

_FLOAT32_MAX = float(np.finfo(np.float32).max)


def scales(
    reduction: str, normalizer: float | None, z_loss: float, weight_sum: float, row_sum: float, upstream: float
) -> tuple[float, float, float, float]:
    """Give the kernel's `ce_scale`, `zl_scale` and `zl_ratio`, and what the sum of its row losses is divided by.

    Over the valid rows, `weight_sum` adds up sample weight times class weight, and `row_sum` sample weights. With
    probability targets both are the latter.
    """
    if normalizer is not None:
        ce = zl = normalizer
    elif reduction == "mean":
        ce, zl = weight_sum, row_sum if z_loss else weight_sum
    else:
        ce = zl = 1.0
    return divided_by(ce, zl, upstream)


def reduce_rows(total: float, losses: Array, reduction: str, divisor: float, empty: str) -> Any:
    """Give the loss: a scalar of the type of the row losses, or with "none" the row losses, divided in place.

    `total` is their sum.
    """
    if reduction == "none":
        if divisor != 1:
            with np.errstate(all="ignore"):
                losses /= divisor
        return losses
    value = total / divisor if divisor else EMPTY[empty]
    if losses.itemsize == 8:
        return np.float64(value)
    if -_FLOAT32_MAX <= value <= _FLOAT32_MAX:
        return to_float32(value)
    with np.errstate(over="ignore"):  # a float32 mean beyond float32 is inf, without a warning
        return to_float32(value)
