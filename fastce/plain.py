"""The short way of plain calls: a mean over targets, of C-contiguous arrays of the types that kernels take.

Of a small call, Python takes longer than the kernel; of a large one, which leaves nothing in the caches of what Python
needs, a tenth of the time.

It only recognises what needs no second look, and leaves everything else, every error among it, to `problem.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from . import dispatch, memory
from .kernels.task import Array
from .reduction import Scalar, to_float32

_ndarray, _may_share_memory = np.ndarray, np.may_share_memory  # (to find an attribute of a module takes 19 ns)
_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
_INT64 = np.dtype(np.int64)
_INTEGERS = frozenset((np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32))  # that int64 can hold
_IGNORE_INDEX = -100
_USUAL, _2_63 = 1e30, 1 << 63  # numbers below this are finite in every type

# What makes a scalar of the loss, by the type of the logits; bfloat16, which is not NumPy's, comes with its first call.
_scalars: dict[Any, Any] = {_FLOAT32: to_float32, _FLOAT64: np.float64, np.dtype(np.float16): to_float32}

_new: Any = tuple.__new__  # a NamedTuple in half the time
_cpu: Any = None  # the kernels, imported by the first call: an import takes 2 µs even if done


def mean_loss(
    logits: Any, targets: Any, grad_out: Any, with_grad: bool, options: Mapping[str, Any]
) -> tuple[Scalar, Array | None] | None:
    """Give mean loss and gradient of a plain call, or None if this is not one."""
    if type(logits) is not _ndarray or type(targets) is not _ndarray:
        return None
    dtype, shape = logits.dtype, logits.shape
    scalar = _scalars.get(dtype) or _scalar_of(dtype)
    if scalar is None or len(shape) != 2 or not logits.size:
        return None
    if not logits.flags.carray:
        return None
    given, soft = targets, targets.ndim == 2
    if soft:
        if not _fits(targets, _FLOAT64 if dtype is _FLOAT64 else _FLOAT32, shape):
            return None
    elif targets.ndim != 1 or len(targets) != shape[0]:
        return None
    elif targets.dtype is not _INT64 or not targets.flags.carray:
        if targets.dtype.type not in _INTEGERS:
            return None
        given = targets.astype(_INT64)
    ignore_index, mean = _IGNORE_INDEX, None
    if options or soft:
        ignore_index, mean = options.get("ignore_index", _IGNORE_INDEX), _mean_of(options, logits)
        if mean is None or type(ignore_index) is not int or not -_2_63 <= ignore_index < _2_63:
            return None
    grad = None
    if grad_out is not None:
        if grad_out is not logits and not (_fits(grad_out, dtype, shape) and _are_apart(grad_out, logits)):
            return None
        if not _are_apart(grad_out, targets) or (mean is not None and not _are_apart_from_weights(grad_out, mean)):
            return None
        grad = grad_out
    elif with_grad:
        grad = np.empty_like(logits) if logits.nbytes < memory.LARGE else memory.empty(shape, dtype)
    bad, loss = (_cpu or _import_cpu()).plain(logits, given, grad, ignore_index, mean)
    if bad >= 0:
        return None
    return scalar(loss), grad


def _mean_of(options: Mapping[str, Any], logits: Array) -> Any:
    """Give the options as the kernels take them; None if one of them is nothing usual."""
    weight = sample_weight = softcap = None
    label_smoothing, z_loss, logit_scale = 0.0, 0.0, 1.0
    for name, value in options.items():  # (few: to ask for each in turn takes longer)
        if name == "label_smoothing":
            label_smoothing = value
        elif name == "z_loss":
            z_loss = value
        elif name == "softcap":
            softcap = value
        elif name == "logit_scale":
            logit_scale = value
        elif name == "weight":
            weight = value
        elif name == "sample_weight":
            sample_weight = value
        elif name != "ignore_index":
            return None
    of = _FLOAT64 if logits.dtype is _FLOAT64 else _FLOAT32
    if weight is not None and not _fits(weight, of, logits.shape[1:]):
        return None
    if sample_weight is not None and not _fits(sample_weight, of, logits.shape[:1]):
        return None
    return mean_with(weight, sample_weight, label_smoothing, z_loss, softcap, logit_scale)


def mean_with(
    weight: Array | None, sample_weight: Array | None, label_smoothing: Any, z_loss: Any, softcap: Any, logit_scale: Any
) -> Any:
    """Give these options as the kernels take them; None if a number is nothing usual."""
    cap = 0.0 if softcap is None else softcap
    usual = (
        type(label_smoothing) is type(z_loss) is type(cap) is type(logit_scale) is float
        and 0.0 <= label_smoothing <= 1.0
        and -_USUAL < z_loss < _USUAL
        and -_USUAL < logit_scale < _USUAL
        and (softcap is None or 1.0 / _USUAL < cap < _USUAL)
    )
    if not usual:
        return None
    return _new((_cpu or _import_cpu()).Mean, (weight, sample_weight, label_smoothing, z_loss, cap, logit_scale))


def of_logits(function: str, logits: Any, out: Any) -> Array | None:
    """Give what a plain call of softmax, log_softmax or logsumexp gives, or None if this is not one."""
    if type(logits) is not _ndarray or not logits.size:
        return None
    dtype, shape = logits.dtype, logits.shape
    if (dtype not in _scalars and not _scalar_of(dtype)) or len(shape) != 2 or not logits.flags.carray:
        return None
    one_each = function == "logsumexp"
    filled, of = (shape[:1], _FLOAT64 if dtype is _FLOAT64 else _FLOAT32) if one_each else (shape, dtype)
    if out is None:
        out = memory.empty(filled, of)
    elif not (_fits(out, of, filled) and ((out is logits and not one_each) or _are_apart(out, logits))):
        return None
    (_cpu or _import_cpu()).plain_of_logits(function, logits, out)
    result: Array = out
    return result


def _fits(out: Any, dtype: Any, shape: Any) -> bool:
    """Whether an array is of that type and shape, and can be written."""
    return type(out) is _ndarray and out.dtype is dtype and out.shape == shape and out.flags.carray


def _are_apart(a: Array, b: Array) -> bool:
    """Whether two arrays cannot overlap, as two that own their memory."""
    return a is not b and ((a.base is None and b.base is None) or not _may_share_memory(a, b))


def _are_apart_from_weights(a: Array, mean: Any) -> bool:
    """The same of an array and all weights."""
    return all(weight is None or _are_apart(a, weight) for weight in (mean.weight, mean.sample_weight))


def _scalar_of(dtype: Any) -> Any:
    """As `_scalars`, of any type; None if there are no such logits."""
    if dtype.name == "bfloat16" and dtype.isnative:
        _scalars[dtype] = to_float32
    return _scalars.get(dtype)


def _import_cpu() -> Any:
    global _cpu
    _cpu = dispatch.cpu()
    return _cpu
