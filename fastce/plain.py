"""The short way of plain calls: a mean over targets, of C-contiguous arrays of the types that kernels take.

Of a small call, Python takes longer than the kernel; of a large one, which leaves nothing in the caches of what Python
needs, a tenth of the time.

What is plain, `kernels/cpu/entry.py` says, in machine code. Everything else, every error among it, is left to
`problem.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from . import dispatch, memory
from .kernels.task import (
    DONE,
    GRADIENTS,
    IF_SMALL,
    LOG_SOFTMAX,
    MISSING,
    NOT_PLAIN,
    NOT_SMALL,
    SMALL,
    SOFTMAX,
    Array,
    MeanOptions,
)
from .reduction import Scalar, to_float32

_ndarray = np.ndarray  # (to find an attribute of a module takes 19 ns)
_FLOAT32, _FLOAT64, _INT64 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64)
_INTEGERS = frozenset((np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32))  # that int64 can hold
_NAMES = frozenset(("float16", "bfloat16", "float32", "float64"))
_IGNORE_INDEX = -100
_2_63 = 1 << 63

NO_OPTIONS: MeanOptions = (None, None, 0.0, 0.0, None, 1.0, _IGNORE_INDEX)


def options_of(options: Mapping[str, Any]) -> MeanOptions | None:
    """Give the options as the kernels take them; None if there are others."""
    weight = sample_weight = softcap = None
    label_smoothing, z_loss, logit_scale, ignore_index = 0.0, 0.0, 1.0, _IGNORE_INDEX
    for name, value in options.items():  # (few: to ask for each in turn takes longer)
        if name == "label_smoothing":
            label_smoothing = value
        elif name == "ignore_index":
            if not is_index(value):
                return None
            ignore_index = value
        elif name == "weight":
            weight = value
        elif name == "sample_weight":
            sample_weight = value
        elif name == "softcap":
            softcap = value
        elif name == "z_loss":
            z_loss = value
        elif name == "logit_scale":
            logit_scale = value
        else:
            return None
    return weight, sample_weight, label_smoothing, z_loss, softcap, logit_scale, ignore_index


def is_index(value: Any) -> bool:
    """Whether it is an integer that int64 can hold."""
    return type(value) is int and -_2_63 <= value < _2_63


def mean_loss(
    logits: Any, targets: Any, grad_out: Any, with_grad: bool, options: MeanOptions
) -> tuple[Scalar, Array | None] | None:
    """Give mean loss and gradient of a plain call, or None if this is not one."""
    grad = grad_out
    if with_grad and grad_out is None and type(logits) is _ndarray and logits.size < SMALL:
        grad = np.empty(logits.shape, logits.dtype)  # (empty_like takes longer)
    status, loss = _small_mean(_known, logits, targets, grad, options, IF_SMALL)
    if status == DONE:
        return to_float32(loss), grad
    if type(logits) is _ndarray and logits.dtype is _FLOAT64:
        status, loss = _small_mean_64(_known_64, logits, targets, grad, options, IF_SMALL)
        if status == DONE:
            return np.float64(loss), grad
    if status == NOT_PLAIN or status >= MISSING:
        return _mean_otherwise(logits, targets, grad, with_grad, options, status)
    return _large_mean(logits, targets, grad, with_grad, options)


def _large_mean(
    logits: Array, targets: Array, grad: Any, with_grad: bool, options: MeanOptions
) -> tuple[Scalar, Array | None] | None:
    """The same of a plain call that is not small: each line here may take a microsecond after the last one."""
    doubles = logits.dtype is _FLOAT64
    if with_grad and grad is None:
        grad = memory.empty(logits.shape, logits.dtype)
    status, loss = _cpu.large_mean(_cpu.DOUBLES if doubles else _cpu.FLOATS, logits, targets, grad, options)
    if status != DONE:
        return None
    return np.float64(loss) if doubles else to_float32(loss), grad


def _mean_otherwise(
    logits: Any, targets: Any, grad: Any, with_grad: bool, options: MeanOptions, status: int
) -> tuple[Scalar, Array | None] | None:
    """The same of logits of other types, of which no work is compiled yet, or whose targets are not int64."""
    if not _may_be_plain(logits) or type(targets) is not _ndarray:
        return None
    cpu = _cpu or _import_cpu()
    if status == NOT_PLAIN:
        given = _as_int64(targets, grad)
        if given is None or (given is targets and logits.dtype.itemsize > 2) or not cpu.knows(logits.dtype):
            return None
        targets = given
    doubles = logits.dtype is _FLOAT64
    status, loss = cpu.small_mean(cpu.DOUBLES if doubles else cpu.FLOATS, logits, targets, grad, options)
    if status == NOT_SMALL:
        return _large_mean(logits, targets, grad, with_grad, options)
    if status != DONE:
        return None
    return np.float64(loss) if doubles else to_float32(loss), grad


def _may_be_plain(logits: Any) -> bool:
    """Whether it is worth finding out: importing Numba and compiling takes seconds."""
    return type(logits) is _ndarray and logits.ndim == 2 and logits.dtype.name in _NAMES


def _as_int64(targets: Array, grad: Any) -> Array | None:
    """Give targets that are classes as int64, and others as they are; None if that is not to be had."""
    if targets.ndim != 1 or (targets.dtype is _INT64 and targets.flags.c_contiguous and targets.flags.aligned):
        return targets
    if targets.dtype.type not in _INTEGERS or (type(grad) is _ndarray and np.may_share_memory(grad, targets)):
        return None
    return targets.astype(_INT64)


_KINDS = {"logsumexp": GRADIENTS, "softmax": SOFTMAX, "log_softmax": LOG_SOFTMAX}


def of_logits(function: str, logits: Any, out: Any) -> Array | None:
    """Give what a plain call of softmax, log_softmax or logsumexp gives, or None if this is not one."""
    kind, fill = _KINDS[function], out
    if fill is None:
        if type(logits) is not _ndarray or not logits.flags.c_contiguous or logits.ndim != 2:
            return None
        if kind == GRADIENTS:
            fill = np.empty(len(logits), _FLOAT64 if logits.dtype is _FLOAT64 else _FLOAT32)
        else:
            fill = np.empty_like(logits) if logits.size < SMALL else memory.empty(logits.shape, logits.dtype)
    status = _small_of_logits(_known, logits, fill, kind, IF_SMALL)
    if status == NOT_SMALL:
        status = _cpu.large_of_logits(_cpu.FLOATS, logits, fill, kind)
    return fill if status == DONE else _of_logits_otherwise(logits, fill, kind, status)


def _of_logits_otherwise(logits: Any, fill: Any, kind: int, status: int) -> Array | None:
    """The same of logits of other types, of many, or of which no work is compiled yet."""
    if not _may_be_plain(logits):
        return None
    cpu = _cpu or _import_cpu()
    if status == NOT_PLAIN and (logits.dtype is _FLOAT32 or not cpu.knows(logits.dtype)):
        return None
    of = cpu.DOUBLES if logits.dtype is _FLOAT64 else cpu.FLOATS
    status = cpu.small_of_logits(of, logits, fill, kind)
    if status == NOT_SMALL:
        status = cpu.large_of_logits(of, logits, fill, kind)
    result: Array = fill
    return result if status == DONE else None


# What `kernels/cpu/plain.py` gives: itself, imported by the first call (an import takes 2 µs even if done); addresses
# of what is known of logits that are computed in float32 and float64; and the functions of `kernels/cpu/entry.py` for
# them, in whose place there are others until they are first called with arrays that they may take.
_cpu: Any = None
_known = _known_64 = 0


def _first_mean(known: int, logits: Any, targets: Any, *args: Any) -> tuple[int, float]:
    global _small_mean
    if not _may_be_plain(logits) or type(targets) is not _ndarray or logits.dtype is _FLOAT64:
        return NOT_PLAIN, 0.0
    _small_mean = _import_cpu().FLOATS.mean()
    status, loss = _small_mean(_known, logits, targets, *args)
    return status, loss


def _first_mean_64(known: int, logits: Any, targets: Any, *args: Any) -> tuple[int, float]:
    global _small_mean_64
    if not _may_be_plain(logits) or type(targets) is not _ndarray:
        return NOT_PLAIN, 0.0
    _small_mean_64 = _import_cpu().DOUBLES.mean()
    status, loss = _small_mean_64(_known_64, logits, targets, *args)
    return status, loss


def _first_of_logits(known: int, logits: Any, *args: Any) -> int:
    global _small_of_logits
    if not _may_be_plain(logits) or logits.dtype is _FLOAT64:
        return NOT_PLAIN
    _small_of_logits = _import_cpu().FLOATS.of_logits()
    status: int = _small_of_logits(_known, logits, *args)
    return status


_small_mean: Any = _first_mean
_small_mean_64: Any = _first_mean_64
_small_of_logits: Any = _first_of_logits


def _import_cpu() -> Any:
    global _cpu, _known, _known_64
    _cpu = dispatch.cpu().plain
    _known, _known_64 = _cpu.FLOATS.address, _cpu.DOUBLES.address
    return _cpu
