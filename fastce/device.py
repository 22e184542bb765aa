"""The public functions for arrays on a GPU: arguments to a task, its kernels, row losses to the result.

What is allowed is the same as for NumPy arrays, and said in `problem.py`. What differs: all arrays lie on one device,
where denominators and losses are found too, and nothing waits for it unless `check=True` asks whether targets are bad.
"""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any, NamedTuple

import cupy
import numpy as np

from .device_arrays import Arguments, as_cupy, beside, to_vector
from .kernels.gpu import backend as kernels
from .kernels.task import Task
from .problem import (
    AUX,
    AUX_TYPES,
    HESS,
    Options,
    Shape,
    arithmetic_of,
    bad_target,
    check_aux,
    check_numeric,
    check_softcap,
    check_upstream,
    checked,
    classes_last,
    cross_entropy_problem,
)
from .reduction import EMPTY, scales

_DEFAULTS = {
    p.name: p.default for p in inspect.signature(cross_entropy_problem).parameters.values() if p.kind is p.KEYWORD_ONLY
}


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
    o = SimpleNamespace(**{**_DEFAULTS, **options})
    _check_backend(o.backend)
    given = Arguments("logits", logits, o.axis)
    rows, n_rows, n_classes, dtype = given.rows, given.n_rows, given.n_classes, given.dtype
    with given.array.device:
        classes, probabilities = given.targets(targets)
        w, s = given.vector("weight", o.weight, (n_classes,)), given.vector("sample_weight", o.sample_weight, rows)
        lse_in = None if with_loss else given.vector("lse", lse, rows)
        upstream, scale = _upstream(given, grad_output, o.reduction)
        if o.softcap is not None:
            check_softcap(o.softcap, dtype)
        if type(aux) is not tuple or aux:
            check_aux(aux, classes is not None)
            _check_hess(aux)
        loss_at = given.output("out", out, rows if o.reduction == "none" else (), dtype)
        grad = given.output_like_it("grad_out", grad_out) if with_grad else None

        by_mean = o.reduction == "mean" and o.normalizer is None
        weighed = None
        if n_rows and (by_mean or (o.check and classes is not None)):
            of_classes = w if classes is not None else None
            both = bool(o.z_loss) or classes is None
            weighed = kernels.weigh(classes, n_rows, n_classes, o.ignore_index, of_classes, s, both, scale, dtype)
            if o.check and classes is not None:
                _check_targets(weighed, classes, rows, n_classes, o.ignore_index)
        # (of a mean, the device finds scales and divisor: those of a sum take their place)
        reduction = "sum" if by_mean else o.reduction
        ce_scale, zl_scale, zl_ratio, divisor = scales(reduction, o.normalizer, o.z_loss, 1.0, 1.0, scale)

        losses = _losses(loss_at, n_rows, o.reduction, dtype) if with_loss else None
        found = {name: cupy.empty(n_rows, AUX_TYPES.get(name, dtype)) for name in AUX if name in aux} if aux else {}
        task = Task(
            given.x, classes, probabilities, w, s, upstream, lse_in,
            o.ignore_index, o.label_smoothing, o.z_loss, o.softcap or 0.0, o.logit_scale, ce_scale, zl_scale, zl_ratio,
            None if grad is None else classes_last(grad, o.axis), losses,
            *map(found.get, AUX),
        )  # fmt: skip
        if n_rows:
            scales_at = weighed.scales_at if by_mean and weighed else 0
            loss_scale = 1.0 / divisor if o.reduction == "none" else 1.0
            kernels.cross_entropy(task, scales_at=scales_at, loss_scale=loss_scale)
        loss = None
        if with_loss:
            loss = _reduced(losses, rows, o.reduction, (weighed or 0.0) if by_mean else divisor, o.empty, loss_at)
        return Result(
            loss if out is None else out,
            grad if grad_out is None else grad_out,
            {name: values.reshape(rows) for name, values in found.items()},
        )


def scale(grad: Any, factor: Any) -> None:
    """Multiply a C-contiguous gradient, in place, by the number in another array; it is not waited for."""
    array = as_cupy(grad)
    with array.device:
        number = to_vector("factor", beside("grad", array, "factor", factor), (), arithmetic_of("grad", array.dtype))
        if array.size:
            kernels.scale(array, number)


def nll_loss(log_probs: Any, targets: Any, out: Any, /, **options: Any) -> Any:
    """Compute what `api.nll_loss` gives."""
    o = SimpleNamespace(**{**_DEFAULTS, **options})
    given = Arguments("log_probs", log_probs, o.axis)
    rows, n_rows, n_classes, dtype = given.rows, given.n_rows, given.n_classes, given.dtype
    with given.array.device:
        classes, _ = given.targets(targets)
        if classes is None:
            raise TypeError("targets of nll_loss must be class indices, of an integer type")
        w, s = given.vector("weight", o.weight, (n_classes,)), given.vector("sample_weight", o.sample_weight, rows)
        loss_at = given.output("out", out, rows if o.reduction == "none" else (), dtype)

        divisor: Any = o.normalizer or 1.0
        if o.reduction == "mean" and o.normalizer is None:
            divisor = 0.0
            if n_rows:
                divisor = kernels.weigh(classes, n_rows, n_classes, o.ignore_index, w, s, False, 1.0, dtype)
        losses = _losses(loss_at, n_rows, o.reduction, dtype)
        if n_rows:
            scale = 1.0 / divisor if o.reduction == "none" else 1.0
            kernels.nll_loss(given.x, classes, o.ignore_index, w, s, scale, losses)
        loss = _reduced(losses, rows, o.reduction, divisor, o.empty, loss_at)
        return loss if out is None else out


def of_logits(function: str, logits: Any, axis: int, out: Any, backend: str | None) -> Any:
    """Compute what logsumexp, softmax or log_softmax gives."""
    o = SimpleNamespace(**checked(Options(axis=axis, backend=backend)))
    _check_backend(o.backend)
    given = Arguments("logits", logits, o.axis)
    with given.array.device:
        if function == "logsumexp":
            at = given.output("out", out, given.rows, given.dtype)
            found = _losses(at, given.n_rows, "none", given.dtype)
            if given.n_rows:
                kernels.logsumexp(given.x, found)
            found = _reduced(found, given.rows, "none", 1.0, "nan", at)
        else:
            found = given.output_like_it("out", out)
            if given.n_rows:
                getattr(kernels, function)(given.x, classes_last(found, o.axis))
        return found if out is None else out


def _check_backend(backend: str | None) -> None:
    if backend not in (None, "cuda"):
        raise TypeError(f"backend={backend!r} takes NumPy arrays, but the logits are on a GPU")


def _check_hess(aux: Collection[str]) -> None:
    if HESS in aux:
        raise ValueError(f"aux {HESS!r} is there for NumPy arrays only, but the logits are on a GPU")


def _upstream(given: Arguments, grad_output: Any, reduction: str) -> tuple[Any, float]:
    """Give the upstream gradient as an array on the device and 1, or as None and a number for all rows."""
    if grad_output is None:
        return None, 1.0
    if isinstance(grad_output, (numbers.Real, np.generic)):
        check_numeric("grad_output", np.asarray(grad_output).dtype)
        return None, float(grad_output)
    array = given.read("grad_output", grad_output)
    if array.shape != ():
        check_upstream(array.shape, reduction)
    return given.vector("grad_output", array, given.rows if array.shape else ()), 1.0


def _check_targets(weighed: Any, classes: Any, rows: Shape, n_classes: int, ignore_index: int) -> None:
    """Wait for the device, and raise if a target is no class."""
    bad_row = int(weighed.words[:1].get()[0])
    if bad_row != kernels.NO_BAD_ROW:
        raise bad_target(rows, bad_row, classes[bad_row : bad_row + 1].get()[0], n_classes, ignore_index)


def _losses(at: Any, n_rows: int, reduction: str, dtype: Any) -> Any:
    """Give where kernels write one number for each row: where the caller wants them, if they can."""
    if reduction == "none" and at is not None and at.flags.c_contiguous:
        return at.reshape(-1)
    return cupy.empty(n_rows, dtype)


def _reduced(losses: Any, rows: Shape, reduction: str, divisor: Any, empty: str, at: Any) -> Any:
    """Give the loss: 0-d, or with "none" one for each row; in ``at`` where that is given."""
    if reduction == "none":
        if at is not None and not at.flags.c_contiguous:
            at[...] = losses.reshape(rows)
        return losses.reshape(rows)
    loss = cupy.empty((), losses.dtype) if at is None else at
    kernels.add(losses, divisor, EMPTY[empty], loss)
    return loss
