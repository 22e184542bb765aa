"""The short way of plain calls: C-contiguous arrays, no options. Of small ones, Python takes longer than the kernel.

It only recognises what needs no second look, and leaves everything else, every error among it, to `problem.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import dispatch, memory
from .kernels.task import Array
from .reduction import Scalar, to_float32

_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
_INT64 = np.dtype(np.int64)
_IGNORE_INDEX = -100

# What makes a scalar of the loss, by the type of the logits; bfloat16, which is not NumPy's, comes with its first call.
_scalars: dict[Any, Any] = {np.float32: to_float32, np.float64: np.float64, np.float16: to_float32}

_cpu: Any = None  # the kernels, imported by the first call: an import takes 2 µs even if done


def mean_loss(logits: Any, targets: Any, grad_out: Any, with_grad: bool) -> tuple[Scalar, Array | None] | None:
    """Give mean loss and gradient of a plain call, or None if this is not one."""
    if type(logits) is not np.ndarray or type(targets) is not np.ndarray:
        return None
    dtype, shape = logits.dtype, logits.shape
    scalar = to_float32 if dtype is _FLOAT32 else _scalar_of(dtype)
    if scalar is None or len(shape) != 2 or not logits.size:
        return None
    if not logits.flags.carray:
        return None
    if targets.dtype is not _INT64 or targets.shape != shape[:1] or not targets.flags.carray:
        return None
    grad = None
    if with_grad:
        if grad_out is None:
            grad = np.empty_like(logits) if logits.nbytes < memory.LARGE else memory.empty(shape, dtype)
        elif grad_out is logits and not _overlaps(logits, targets):
            grad = logits
        elif _can_take(grad_out, logits, targets):
            grad = grad_out
        else:
            return None
    bad, loss = (_cpu or _import_cpu()).plain(logits, targets, grad, _IGNORE_INDEX)
    if bad >= 0:
        return None
    return scalar(loss), grad


def of_logits(function: str, logits: Any, out: Any) -> Array | None:
    """Give what a plain call of softmax, log_softmax or logsumexp gives, or None if this is not one."""
    if type(logits) is not np.ndarray or logits.size == 0:
        return None
    dtype, shape = logits.dtype, logits.shape
    scalar = to_float32 if dtype is _FLOAT32 else _scalar_of(dtype)
    if scalar is None or len(shape) != 2 or not logits.flags.carray:
        return None
    one_each = function == "logsumexp"
    filled, of = (shape[:1], _FLOAT64 if dtype is _FLOAT64 else _FLOAT32) if one_each else (shape, dtype)
    if out is None:
        out = memory.empty(filled, of)
    elif not (_fits(out, of, filled) and ((out is logits and not one_each) or not _overlaps(out, logits))):
        return None
    (_cpu or _import_cpu()).plain_of_logits(function, logits, out)
    result: Array = out
    return result


def _can_take(out: Any, logits: Array, targets: Array) -> bool:
    """Whether the gradient can be written there without a second thought."""
    return _fits(out, logits.dtype, logits.shape) and not _overlaps(out, logits) and not _overlaps(out, targets)


def _fits(out: Any, dtype: Any, shape: Any) -> bool:
    """Whether an array is of that type and shape, and can be written."""
    return type(out) is np.ndarray and out.dtype is dtype and out.shape == shape and bool(out.flags.carray)


def _overlaps(a: Array, b: Array) -> bool:
    """Whether two arrays may overlap; those that own their memory cannot."""
    return (a.base is not None or b.base is not None) and np.may_share_memory(a, b)


def _scalar_of(dtype: Any) -> Any:
    """What makes a scalar of the loss of logits of a type; None if there are no such logits."""
    if not dtype.isnative:
        return None
    if dtype.type not in _scalars and dtype.name == "bfloat16":
        _scalars[dtype.type] = to_float32
    return _scalars.get(dtype.type)


def _import_cpu() -> Any:
    global _cpu
    _cpu = dispatch.cpu()
    return _cpu
