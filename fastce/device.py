"""The public functions for arrays on a GPU: arguments to a task, its kernels, row losses to the result.

What is allowed is the same as for NumPy arrays, and said in `problem.py`. What differs: everything lies on one device,
where denominators and losses are found too, and nothing waits for it unless `check=True` asks whether targets are bad.
"""

from __future__ import annotations

import numbers
from collections.abc import Collection
from typing import Any, NamedTuple

import cupy
import numpy as np

from . import dispatch
from .kernels.gpu import backend as kernels
from .kernels.task import Task
from .problem import (
    AUX,
    AUX_TYPES,
    HESS,
    DType,
    Shape,
    are_classes,
    arithmetic_of,
    bad_target,
    check_aux,
    check_numeric,
    check_output,
    check_shape,
    check_softcap,
    check_upstream,
    classes_last,
    rows_of,
    shares_memory,
)
from .reduction import EMPTY, scales

MOST_CLASSES = 2**31 - 64  # which the kernels number by 32 bits


# Functions ------------------------------------------------------------------------------------------------------------


class Options(NamedTuple):
    """The options of the cross-entropy functions, checked each by itself; defaults as in `problem.py`."""

    weight: Any = None
    sample_weight: Any = None
    ignore_index: int = -100
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    softcap: float | None = None
    logit_scale: float = 1.0
    reduction: str = "mean"
    normalizer: float | None = None
    empty: str = "nan"
    axis: int = -1
    backend: str | None = None
    check: bool | None = None


class Result(NamedTuple):
    """What a call found; None stands for what was not asked for."""

    loss: Any
    grad: Any
    aux: dict[str, Any]


def cross_entropy(
    logits: Any,
    targets: Any,
    lse: Any,
    with_loss: bool,
    with_grad: bool,
    grad_output: Any,
    grad_out: Any,
    aux: Collection[str],
    out: Any,
    /,
    **options: Any,
) -> Result:
    """Compute what is asked for: the arguments are those of `problem.cross_entropy_problem`."""
    o = Options(**options)
    _check_backend(o.backend)
    x = _logits("logits", logits)
    with x.device:
        return _cross_entropy(x, logits, targets, lse, with_loss, with_grad, grad_output, grad_out, aux, out, o)


def _cross_entropy(
    array: Any,
    logits: Any,
    targets: Any,
    lse: Any,
    with_loss: bool,
    with_grad: bool,
    grad_output: Any,
    grad_out: Any,
    aux: Collection[str],
    out: Any,
    o: Options,
) -> Result:
    dtype = arithmetic_of("logits", array.dtype)
    x, rows, n_rows, n_classes = rows_of("logits", array, o.axis)
    _check_classes(n_classes)
    given = {"logits": array, "targets": _array("targets", targets, array)}
    classes, probabilities = _targets(given["targets"], array, rows, o.axis, dtype)

    def vector(name: str, values: Any, shape: Shape) -> Any:
        if values is None:
            return None
        given[name] = _array(name, values, array)
        return _vector(name, given[name], shape, dtype)

    w, s = vector("weight", o.weight, (n_classes,)), vector("sample_weight", o.sample_weight, rows)
    lse_in = None if with_loss else vector("lse", lse, rows)
    upstream, scale = None, 1.0
    if isinstance(grad_output, (numbers.Real, np.number)):
        scale = float(grad_output)
    elif grad_output is not None:
        given["grad_output"] = _array("grad_output", grad_output, array)
        shape = given["grad_output"].shape
        if shape != ():
            check_upstream(shape, o.reduction)
        upstream = _vector("grad_output", given["grad_output"], rows if shape else (), dtype)
    if o.softcap is not None:
        check_softcap(o.softcap, dtype)
    check_aux(aux, classes is not None)
    _check_hess(aux)

    shadows = {name: _shadow(a) for name, a in given.items()}
    loss_at = _output("out", out, array, rows if o.reduction == "none" else (), dtype, shadows)
    if out is not None:
        shadows["out"] = _shadow(loss_at)
    grad = _output("grad_out", grad_out, array, array.shape, array.dtype, shadows, in_place="logits")
    if grad is None and with_grad:
        grad = _empty_like(array)

    weighed, divisor = None, 1.0
    ce_scale, zl_scale, zl_ratio, divisor = scales(
        o.reduction if o.normalizer or o.reduction != "mean" else "sum", o.normalizer, o.z_loss, 1.0, 1.0, scale
    )
    by_mean = o.reduction == "mean" and o.normalizer is None
    if n_rows and (by_mean or (o.check and classes is not None)):
        both = bool(o.z_loss) or classes is None
        weighed = kernels.weigh(
            classes, n_rows, n_classes, o.ignore_index, w if classes is not None else None, s, both, scale, dtype
        )
    if weighed is not None and o.check and classes is not None:
        bad_row = int(weighed.bad_row.get()[0])  # waits for the device
        if bad_row != kernels.NO_BAD_ROW:
            raise bad_target(rows, bad_row, classes[bad_row : bad_row + 1].get()[0], n_classes, o.ignore_index)

    losses = None
    if with_loss:
        direct = loss_at is not None and o.reduction == "none" and loss_at.flags.c_contiguous
        losses = loss_at.reshape(-1) if direct else cupy.empty(n_rows, dtype)
    found = {name: cupy.empty(n_rows, AUX_TYPES.get(name, dtype)) for name in AUX if name in aux}
    task = Task(
        x, classes, probabilities, w, s, upstream, lse_in,
        o.ignore_index, o.label_smoothing, o.z_loss, o.softcap or 0.0, o.logit_scale, ce_scale, zl_scale, zl_ratio,
        None if grad is None else classes_last(grad, o.axis), losses,
        *(found.get(name) for name in AUX),
    )  # fmt: skip
    if n_rows:
        loss_scale = 1.0 / divisor if o.reduction == "none" else 1.0
        kernels.cross_entropy(task, scales=weighed.scales if by_mean and weighed else None, loss_scale=loss_scale)
    if by_mean:
        divisor = weighed.divisor if weighed else 0.0
    loss = _reduced(losses, rows, o.reduction, divisor, o.empty, loss_at) if with_loss else None
    return Result(
        loss if out is None else out,
        grad if grad_out is None else grad_out,
        {name: values.reshape(rows) for name, values in found.items()},
    )


def scale(grad: Any, factor: Any) -> None:
    """Multiply a C-contiguous gradient, in place, by the number in another array; it is not waited for."""
    array = _as_cupy(grad)
    with array.device:
        number = _vector("factor", _array("factor", factor, array), (), arithmetic_of("grad", array.dtype))
        if array.size:
            kernels.scale(array, number)


def nll_loss(log_probs: Any, targets: Any, out: Any, /, **options: Any) -> Any:
    """Compute what `api.nll_loss` gives."""
    o = Options(**options)
    array = _logits("log_probs", log_probs)
    with array.device:
        dtype = arithmetic_of("log_probs", array.dtype)
        x, rows, n_rows, n_classes = rows_of("log_probs", array, o.axis)
        _check_classes(n_classes)
        given = {"log_probs": array, "targets": _array("targets", targets, array)}
        classes, _ = _targets(given["targets"], array, rows, o.axis, dtype)
        if classes is None:
            raise TypeError("targets of nll_loss must be class indices, of an integer type")
        w = s = None
        if o.weight is not None:
            given["weight"] = _array("weight", o.weight, array)
            w = _vector("weight", given["weight"], (n_classes,), dtype)
        if o.sample_weight is not None:
            given["sample_weight"] = _array("sample_weight", o.sample_weight, array)
            s = _vector("sample_weight", given["sample_weight"], rows, dtype)
        shadows = {name: _shadow(a) for name, a in given.items()}
        loss_at = _output("out", out, array, rows if o.reduction == "none" else (), dtype, shadows)
        divisor: Any = o.normalizer or 1.0
        if o.reduction == "mean" and o.normalizer is None:
            divisor = 0.0
            if n_rows:
                divisor = kernels.weigh(classes, n_rows, n_classes, o.ignore_index, w, s, False, 1.0, dtype).divisor
        losses = cupy.empty(n_rows, dtype)
        if n_rows:
            scale = 1.0 / divisor if o.reduction == "none" else 1.0
            kernels.nll_loss(x, classes, o.ignore_index, w, s, scale, losses)
        loss = _reduced(losses, rows, o.reduction, divisor, o.empty, loss_at)
        return loss if out is None else out


def of_logits(function: str, logits: Any, axis: int, out: Any, backend: str | None) -> Any:
    """Compute what logsumexp, softmax or log_softmax gives."""
    _check_backend(backend)
    array = _logits("logits", logits)
    with array.device:
        dtype = arithmetic_of("logits", array.dtype)
        x, rows, n_rows, n_classes = rows_of("logits", array, axis)
        _check_classes(n_classes)
        shadows = {"logits": _shadow(array)}
        if function == "logsumexp":
            at = _output("out", out, array, rows, dtype, shadows)
            found = at.reshape(-1) if at is not None and at.flags.c_contiguous else cupy.empty(n_rows, dtype)
            if n_rows:
                kernels.logsumexp(x, found)
            if at is not None and not at.flags.c_contiguous:
                at[...] = found.reshape(rows)
            return found.reshape(rows) if out is None else out
        at = _output("out", out, array, array.shape, array.dtype, shadows, in_place="logits")
        if at is None:
            at = _empty_like(array)
        if n_rows:
            getattr(kernels, function)(x, classes_last(at, axis))
        return at if out is None else out


def _reduced(losses: Any, rows: Shape, reduction: str, divisor: Any, empty: str, at: Any) -> Any:
    """Give the loss: 0-d, or with "none" one for each row; in ``at`` where that is given."""
    if reduction == "none":
        if at is not None and not at.flags.c_contiguous:
            at[...] = losses.reshape(rows)
        return losses.reshape(rows)
    loss = cupy.empty((), losses.dtype) if at is None else at
    kernels.add(losses, divisor, EMPTY[empty], loss)
    return loss


# Arrays to read -------------------------------------------------------------------------------------------------------


def _check_backend(backend: str | None) -> None:
    if backend not in (None, "cuda"):
        raise TypeError(f"backend={backend!r} takes NumPy arrays, but the logits are on a GPU")


def _check_classes(n_classes: int) -> None:
    if n_classes > MOST_CLASSES:
        raise ValueError(f"on a GPU, there may be {MOST_CLASSES} classes at most, not {n_classes}")


def _check_hess(aux: Collection[str]) -> None:
    if HESS in aux:
        raise ValueError(f"aux {HESS!r} is there for NumPy arrays only, but the logits are on a GPU")


def _as_cupy(value: Any) -> Any:
    """View an array on a GPU as one of CuPy's, without a copy."""
    if isinstance(value, cupy.ndarray):
        return value
    if hasattr(type(value), "__dlpack__"):
        return cupy.from_dlpack(value)
    return cupy.asarray(value)


def _logits(name: str, value: Any) -> Any:
    array = _as_cupy(value)
    _check_aligned(name, array)
    return array


def _array(name: str, value: Any, logits: Any) -> Any:
    """View an argument as an array on the device of the logits."""
    if not dispatch.on_gpu(value):
        raise TypeError(
            f"{name} must be on a GPU, as the logits are, not {type(value).__name__}; cupy.asarray puts it there"
        )
    array = _as_cupy(value)
    if array.device.id != logits.device.id:
        raise TypeError(f"{name} is on GPU {array.device.id}, but the logits are on GPU {logits.device.id}")
    _check_aligned(name, array)
    return array


def _check_aligned(name: str, array: Any) -> None:
    if any(place % array.itemsize for place in (array.data.ptr, *array.strides)):
        raise ValueError(f"{name} must be aligned")


def _targets(array: Any, logits: Any, rows: Shape, axis: int, dtype: DType) -> tuple[Any, Any]:
    """Give class indices as a vector and None, or None and probabilities with the classes last."""
    if are_classes(array, logits, rows, axis):
        return _flat(array), None
    if array.dtype not in (logits.dtype, dtype):
        array = array.astype(dtype)
    return None, classes_last(array, axis)


def _vector(name: str, array: Any, shape: Shape, dtype: DType) -> Any:
    """Give the numbers as a contiguous vector of that type."""
    check_numeric(name, array.dtype)
    check_shape(name, array.shape, shape)
    return _flat(array if array.dtype == dtype else array.astype(dtype))


def _flat(array: Any) -> Any:
    return (array if array.flags.c_contiguous else array.copy()).reshape(-1)


# Arrays to write ------------------------------------------------------------------------------------------------------


class _Interface:
    """What NumPy takes for an array: see `_shadow`."""

    def __init__(self, array: Any) -> None:
        self.__array_interface__ = {
            "version": 3,
            "shape": array.shape,
            "strides": array.strides,
            "typestr": f"|V{array.itemsize}",
            "data": (array.data.ptr, False),
        }


def _shadow(array: Any) -> Any:
    """Give a NumPy array at the same addresses, by which to tell what overlaps. Its numbers must not be touched."""
    if array.size == 0:
        return np.empty(array.shape, array.dtype)
    return np.asarray(_Interface(array)).view(array.dtype)


def _output(
    name: str, out: Any, logits: Any, shape: Shape, dtype: DType, inputs: dict[str, Any], in_place: str = ""
) -> Any:
    """View an output as one of CuPy's arrays, if it is given and can take what is to be written."""
    if out is None:
        return None
    array = _array(name, out, logits)
    shadow = _shadow(array)
    check_output(name, shadow, shape, dtype)
    shares_memory(shadow, name, inputs, in_place)
    return array


def _empty_like(array: Any) -> Any:
    """Allocate an array with the axes in the same order in memory."""
    if array.flags.c_contiguous or 0 in array.strides:
        return cupy.empty(array.shape, array.dtype)
    return cupy.empty_like(array)
