"""The short way of plain calls: C-contiguous arrays and no options. Of small ones, Python takes longer than the kernel.

It only recognises what needs no second look, and leaves everything else, every error among it, to `problem.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import dispatch
from .kernels.task import Array
from .reduction import Scalar

_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
_INT64 = np.dtype(np.int64)
_IGNORE_INDEX = -100

_plain: Any = None  # `plain` of kernels/cpu/launch.py, looked up by the first call: an import takes 2 µs even if done


def mean_loss(logits: Any, targets: Any, grad_out: Any, with_grad: bool) -> tuple[Scalar, Array | None] | None:
    """Give mean loss and gradient of a plain call, or None if this is not one."""
    if type(logits) is not np.ndarray or type(targets) is not np.ndarray:
        return None
    dtype, shape = logits.dtype, logits.shape
    if (dtype is not _FLOAT32 and dtype is not _FLOAT64) or len(shape) != 2 or not logits.size:
        return None
    if not logits.flags.carray:
        return None
    if targets.dtype is not _INT64 or targets.shape != shape[:1] or not targets.flags.carray:
        return None
    grad = None
    if with_grad:
        if grad_out is None:
            grad = np.empty_like(logits)
        elif grad_out is logits and not _overlaps(logits, targets):
            grad = logits
        elif _can_take(grad_out, logits, targets):
            grad = grad_out
        else:
            return None
    bad, loss = (_plain or _import_plain())(logits, targets, grad, _IGNORE_INDEX)
    return (dtype.type(loss), grad) if bad < 0 else None


def _can_take(out: Any, logits: Array, targets: Array) -> bool:
    """Whether the gradient can be written there without a second thought."""
    if type(out) is not np.ndarray or out.dtype is not logits.dtype or out.shape != logits.shape:
        return False
    return bool(out.flags.carray) and not _overlaps(out, logits) and not _overlaps(out, targets)


def _overlaps(a: Array, b: Array) -> bool:
    """Whether two arrays may overlap; those that own their memory cannot."""
    return (a.base is not None or b.base is not None) and np.may_share_memory(a, b)


def _import_plain() -> Any:
    global _plain
    _plain = dispatch.cpu().plain
    return _plain
