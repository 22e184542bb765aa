"""none, mean and sum: what losses and gradients are divided by, and how row losses become the result."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .dispatch import Backend
from .kernels.task import Array

REDUCTIONS = ("mean", "sum", "none")
EMPTY = {"nan": math.nan, "zero": 0.0}  # the mean where its denominator is 0

Scalar = np.generic

_FLOAT32_MAX = float(np.finfo(np.float32).max)


def scales(
    reduction: str, normalizer: float | None, z_loss: float, weight_sum: float, row_sum: float, upstream: float
) -> tuple[float, float, float, float]:
    """Give the kernel's `ce_scale`, `zl_scale` and `zl_ratio`, and what the sum of its row losses is divided by.

    Over the valid rows, `weight_sum` adds up sample weight times class weight, and `row_sum` sample weights. With
    probability targets both are the latter. The gradient of a mean over nothing is 0.
    """
    if normalizer is not None:
        ce = zl = normalizer
    elif reduction == "mean":
        ce, zl = weight_sum, row_sum if z_loss else weight_sum
    else:
        ce = zl = 1.0
    if ce == 0 or zl == 0:
        return 0.0, 0.0, 1.0, 0.0
    return upstream / ce, upstream / zl, ce / zl, ce


def reduce_rows(kernels: Backend, losses: Array, reduction: str, divisor: float, empty: str) -> Any:
    """Give the loss: a scalar of the type of the row losses, or with "none" the row losses, divided in place."""
    if reduction == "none":
        if divisor != 1:
            with np.errstate(all="ignore"):
                losses /= divisor
        return losses
    total = kernels.sum_rows(losses) if losses.size else 0.0
    value = total / divisor if divisor else EMPTY[empty]
    to_scalar = losses.dtype.type
    if -_FLOAT32_MAX <= value <= _FLOAT32_MAX:
        return to_scalar(value)
    with np.errstate(over="ignore"):  # a float32 mean beyond float32 is inf, without a warning
        return to_scalar(value)
