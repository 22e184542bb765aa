"""The short way of plain calls: on C-contiguous arrays of the types that kernels take.

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
    FIXED,
    GRADIENTS,
    IF_SMALL,
    LAST_AXIS,
    LOG_SOFTMAX,
    MISSING,
    NOT_PLAIN,
    NOT_SMALL,
    OPTIONS,
    SMALL,
    SOFTMAX,
    Array,
    Rows,
)
from .problem import AUX, AUX_TYPES
from .reduction import to_float32

_ndarray = np.ndarray  # (to find an attribute of a module takes 19 ns)
_FLOAT32, _FLOAT64, _INT64 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64)
_INTEGERS = frozenset((np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32))  # that int64 can hold
_NAMES = frozenset(("float16", "bfloat16", "float32", "float64"))
_EACH = "none"  # (of a word that a program names, Python has but one)
_NO_OPTIONS: Mapping[str, Any] = {}
_NO_ROWS = (None,) * (1 + len(AUX))


def of_targets(
    logits: Any,
    targets: Any,
    grad_out: Any,
    with_grad: bool,
    aux: tuple[Any, ...],
    upstream: float | None,
    options: Mapping[str, Any],
    lse: Any = None,
) -> tuple[Any, ...] | None:
    """Give what a CrossEntropyResult of a plain call holds, or None if this is not one.

    With `lse`, that of each row, if it is known already, the gradient is right alone.
    """
    grad, rows = grad_out, None
    if with_grad and grad_out is None and type(logits) is _ndarray and logits.size < SMALL:
        grad = np.empty(logits.shape, logits.dtype)  # (empty_like takes longer)
    if aux or ("reduction" in options and options["reduction"] is _EACH and lse is None):
        rows = _rows_of(logits, aux, options)
        if rows is None:
            return None
    status, loss = _small_of_targets(_known, logits, targets, grad, rows, upstream, lse, options, IF_SMALL)
    if status == DONE:
        if rows is None:
            return to_float32(loss), grad, None, None, None, None, None, None, None
        return _result(False, loss, grad, rows)
    if type(logits) is _ndarray and logits.dtype is _FLOAT64:
        status, loss = _small_of_targets_64(_known_64, logits, targets, grad, rows, upstream, lse, options, IF_SMALL)
        if status == DONE:
            if rows is None:
                return np.float64(loss), grad, None, None, None, None, None, None, None
            return _result(True, loss, grad, rows)
    if status == NOT_PLAIN or status >= MISSING:
        return _of_targets_otherwise(logits, targets, grad, with_grad, rows, upstream, lse, options, status)
    return _large_of_targets(logits, targets, grad, with_grad, rows, upstream, lse, options)


def _rows_of(logits: Any, aux: tuple[Any, ...], options: Mapping[str, Any]) -> Rows:
    """What is to be filled with a number of each row; None if the call is not plain."""
    if type(logits) is not _ndarray or logits.ndim != 2:
        return None
    n, dtype = len(logits), _FLOAT64 if logits.dtype is _FLOAT64 else _FLOAT32
    empty: Any = np.empty if logits.size < SMALL else memory.empty
    losses = empty((n,), dtype) if options.get("reduction") is _EACH else None
    if not aux:
        return losses, *_NO_ROWS[1:]
    for name in aux:
        if type(name) is not str or name not in AUX:
            return None
    return losses, *[empty((n,), AUX_TYPES.get(name, dtype)) if name in aux else None for name in AUX]


def _result(doubles: bool, loss: float, grad: Any, rows: Rows) -> tuple[Any, ...]:
    result: Any
    result, lse, argmax, correct, rank, target_prob, entropy = rows or _NO_ROWS
    if result is None:
        result = np.float64(loss) if doubles else to_float32(loss)
    return result, grad, lse, argmax, correct, rank, target_prob, entropy, None


def _large_of_targets(
    logits: Array,
    targets: Array,
    grad: Any,
    with_grad: bool,
    rows: Rows,
    upstream: Any,
    lse: Any,
    options: Mapping[str, Any],
) -> tuple[Any, ...] | None:
    """The same of a plain call that is not small: each line here may take a microsecond after the last one."""
    doubles = logits.dtype is _FLOAT64
    if with_grad and grad is None:
        grad = memory.empty(logits.shape, logits.dtype)
    of = _cpu.DOUBLES if doubles else _cpu.FLOATS
    status, loss = _cpu.large_of_targets(of, logits, targets, grad, rows, upstream, lse, options)
    if status != DONE:
        return None
    if rows is None:
        mean = np.float64(loss) if doubles else to_float32(loss)
        return mean, grad, None, None, None, None, None, None, None
    return _result(doubles, loss, grad, rows)


def _of_targets_otherwise(
    logits: Any,
    targets: Any,
    grad: Any,
    with_grad: bool,
    rows: Rows,
    upstream: Any,
    lse: Any,
    options: Mapping[str, Any],
    status: int,
) -> tuple[Any, ...] | None:
    """The same of logits of other types, of which no work is compiled yet, or whose targets are not int64."""
    if not _may_be_plain(logits, options) or type(targets) is not _ndarray:
        return None
    cpu = _cpu or _import_cpu()
    if status == NOT_PLAIN:
        given = _as_int64(targets, grad)
        if given is None or (given is targets and logits.dtype.itemsize > 2) or not cpu.knows(logits.dtype):
            return None
        targets = given
    doubles = logits.dtype is _FLOAT64
    of = cpu.DOUBLES if doubles else cpu.FLOATS
    status, loss = cpu.small_of_targets(of, logits, targets, grad, rows, upstream, lse, options)
    if status == NOT_SMALL:
        return _large_of_targets(logits, targets, grad, with_grad, rows, upstream, lse, options)
    return _result(doubles, loss, grad, rows) if status == DONE else None


def _may_be_plain(logits: Any, options: Mapping[str, Any] = _NO_OPTIONS) -> bool:
    """Whether it is worth finding out: importing Numba and compiling takes seconds."""
    return (
        type(logits) is _ndarray
        and logits.ndim == 2
        and logits.dtype.name in _NAMES
        and all(
            name in OPTIONS or FIXED.get(name, _NAMES) is value or (name == "axis" and value is LAST_AXIS)
            for name, value in options.items()
        )
    )


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


def _first_of_targets(known: int, logits: Any, targets: Any, *args: Any) -> tuple[int, float]:
    global _small_of_targets
    *_, options, _ = args
    if not _may_be_plain(logits, options) or type(targets) is not _ndarray or logits.dtype is _FLOAT64:
        return NOT_PLAIN, 0.0
    _small_of_targets = _import_cpu().FLOATS.of_targets()
    status, loss = _small_of_targets(_known, logits, targets, *args)
    return status, loss


def _first_of_targets_64(known: int, logits: Any, targets: Any, *args: Any) -> tuple[int, float]:
    global _small_of_targets_64
    *_, options, _ = args
    if not _may_be_plain(logits, options) or type(targets) is not _ndarray:
        return NOT_PLAIN, 0.0
    _small_of_targets_64 = _import_cpu().DOUBLES.of_targets()
    status, loss = _small_of_targets_64(_known_64, logits, targets, *args)
    return status, loss


def _first_of_logits(known: int, logits: Any, *args: Any) -> int:
    global _small_of_logits
    if not _may_be_plain(logits) or logits.dtype is _FLOAT64:
        return NOT_PLAIN
    _small_of_logits = _import_cpu().FLOATS.of_logits()
    status: int = _small_of_logits(_known, logits, *args)
    return status


_small_of_targets: Any = _first_of_targets
_small_of_targets_64: Any = _first_of_targets_64
_small_of_logits: Any = _first_of_logits


def _import_cpu() -> Any:
    global _cpu, _known, _known_64
    _cpu = dispatch.cpu().plain
    _known, _known_64 = _cpu.FLOATS.address, _cpu.DOUBLES.address
    return _cpu
