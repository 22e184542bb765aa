"""The short way of small calls: plain arrays and no options, where Python would take longer than the kernel.

It only recognises what needs no second look, and leaves everything else, every error among it, to `problem.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .kernels.task import Array
from .reduction import Scalar

_FLOATS = {np.dtype(np.float32): np.float32, np.dtype(np.float64): np.float64}
_INT64 = np.dtype(np.int64)
_MAX_SIZE = 20_000  # logits: where threads begin to pay, see kernels/cpu/launch.py
_IGNORE_INDEX = -100


def mean_loss(logits: Any, targets: Any, grad_out: Any, with_grad: bool) -> tuple[Scalar, Array | None] | None:
    """Give mean loss and gradient of a plain small call, or None if this is not one."""
    if type(logits) is not np.ndarray or type(targets) is not np.ndarray:
        return None
    to_scalar = _FLOATS.get(logits.dtype)
    if to_scalar is None or logits.ndim != 2 or not 0 < logits.size <= _MAX_SIZE or not logits.flags.carray:
        return None
    if targets.dtype is not _INT64 or targets.shape != logits.shape[:1] or not targets.flags.carray:
        return None
    grad = None
    if with_grad:
        if grad_out is None:
            grad = np.empty_like(logits)
        elif grad_out is logits:
            grad = logits
        else:
            if type(grad_out) is not np.ndarray or grad_out.dtype != logits.dtype or grad_out.shape != logits.shape:
                return None
            if not grad_out.flags.carray or np.may_share_memory(grad_out, logits):
                return None
            if np.may_share_memory(grad_out, targets):
                return None
            grad = grad_out
    from .kernels.cpu.launch import plain

    bad, loss = plain(logits, targets, grad, _IGNORE_INDEX)
    return (to_scalar(loss), grad) if bad < 0 else None
