"""From the caller's arguments to a task for a kernel: the one file that raises on user input.

Nothing is written before everything is checked. What is common, plain arrays of the right type, is tested for first,
as a small call is mostly Python: 32 x 10 logits with `grad_out` take 4.7 µs here, where NumPy takes 37 µs for the loss
and gradient (Python 3.11, 2.5 GHz).
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Callable, Collection
from typing import Any, NamedTuple, TypedDict, TypeVar

import numpy as np
from numpy import ma, ndarray  # (ma now, which NumPy imports late: a fork meanwhile would leave its lock locked)
from numpy.typing import ArrayLike

from . import dispatch, memory
from .dispatch import Backend
from .kernels import reference
from .kernels.task import Array, Task
from .reduction import EMPTY, REDUCTIONS, scales

Shape = tuple[int, ...]
DType = np.dtype[Any]

AUX = ("lse", "argmax", "correct", "rank", "target_prob", "entropy")  # of which a row has one number each
HESS = "hess"  # in aux too: of which it has one for each class

_BOOL, _INT64, _FLOAT32, _FLOAT64 = np.dtype(bool), np.dtype(np.int64), np.dtype(np.float32), np.dtype(np.float64)
_ARITHMETIC: dict[DType, DType] = {
    np.dtype(np.float16): _FLOAT32,
    _FLOAT32: _FLOAT32,
    _FLOAT64: _FLOAT64,
}  # and bfloat16, by its name
_FLOATS = "float16, bfloat16, float32 or float64, in native byte order"
AUX_TYPES = {"argmax": _INT64, "correct": _BOOL, "rank": _INT64}  # of the others: the arithmetic type
_AUX_OF_CLASS_TARGETS = ("correct", "rank", "target_prob")
_NO_AUX = (None,) * (len(AUX) + 1)
_INT64_RANGE = np.iinfo(np.int64)

_OVERLAP_WORK: Any = 10_000  # a millisecond at most; to tell whether any two arrays overlap can take for ever

# A NamedTuple in half the time: `Task(...)` takes 0.6 µs, `_new(Task, (...))` 0.3 µs.
_new: Any = tuple.__new__


class NllOptions(TypedDict, total=False):
    """What nll_loss and the cross-entropy functions share. Defaults: `nll_problem`; checks: `_CHECKS`."""

    weight: ArrayLike | None
    sample_weight: ArrayLike | None
    ignore_index: int
    reduction: str
    normalizer: float | None
    empty: str
    axis: int


class Options(NllOptions, total=False):
    """What the cross-entropy functions share. Defaults: `cross_entropy_problem`; checks: `_CHECKS`."""

    label_smoothing: float
    z_loss: float
    softcap: float | None
    logit_scale: float
    backend: str | None
    check: bool | None


# A checked cross-entropy: the task, who computes it, shape of the targets, row losses (None if not wanted), gradient as
# the caller gets it (the task has it with the classes last), and reduction, divisor and `empty` for `reduce_rows`.
# Plain, as a NamedTuple takes 0.3 µs more.
Problem = tuple[Task, Backend, Shape, Any, Any, str, float, str]


class NllProblem(NamedTuple):
    """A checked nll_loss."""

    log_probs: Array  # classes last
    targets: Array  # (N,) int64
    ignore_index: int
    weight: Array | None
    sample_weight: Array | None
    losses: Array  # (N,) to fill
    rows: Shape
    reduction: str
    divisor: float
    empty: str


class RowsProblem(NamedTuple):
    """A checked logsumexp, softmax or log_softmax."""

    logits: Array  # classes last
    fill: Array  # for the kernel: (N,) numbers, or rows like those of the logits
    kernels: Backend
    rows: Shape
    result: Array  # of softmax and log_softmax, what the caller gets


def cross_entropy_problem(
    logits: ArrayLike,
    targets: ArrayLike,
    lse: ArrayLike | None,
    with_loss: bool,
    with_grad: bool,
    grad_output: ArrayLike | None,
    grad_out: Array | None,
    aux: Collection[str],
    out: Array | None,
    /,
    *,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    reduction: str = "mean",
    normalizer: float | None = None,
    empty: str = "nan",
    axis: int = -1,
    backend: str | None = None,
    check: bool | None = None,
) -> Problem:
    """Check the arguments and allocate the outputs. The options have been through `checked` already."""
    array, dtype = _floats("logits", logits)
    x, rows, n_rows, n_classes = rows_of("logits", array, axis)
    classes, probabilities = _targets(targets, array, rows, axis, ignore_index)

    inputs: dict[str, object] = {"logits": logits, "targets": targets}
    w = s = lse_in = upstream = None
    scale = 1.0
    if weight is not None:
        inputs["weight"] = weight
        w = _vector("weight", weight, (n_classes,), dtype)
    if sample_weight is not None:
        inputs["sample_weight"] = sample_weight
        s = _vector("sample_weight", sample_weight, rows, dtype)
    if not with_loss:
        inputs["lse"] = lse
        lse_in = _vector("lse", lse, rows, dtype)
    if type(grad_output) is float:
        scale = grad_output
    elif grad_output is not None:
        inputs["grad_output"] = grad_output
        upstream, scale = _upstream(grad_output, rows, dtype, reduction)
    if softcap is not None:
        check_softcap(softcap, dtype)
    if type(aux) is not tuple or aux:
        check_aux(aux, classes is not None)

    if out is not None:
        shares_memory(check_output("out", out, rows if reduction == "none" else (), dtype), "out", inputs)
        inputs["out"] = out
    grad = grad_view = None
    if grad_out is not None:
        grad = check_output("grad_out", grad_out, array.shape, array.dtype)
        grad_view = grad if axis == -1 else classes_last(grad, axis)
        if shares_memory(grad, "grad_out", inputs, in_place="logits"):
            x = grad_view  # one object, so that a kernel sees that it works in place
    elif with_grad:
        grad = _empty_like(array)
        grad_view = grad if axis == -1 else classes_last(grad, axis)

    kernels = dispatch.backend(backend, array)
    if classes is None or n_rows == 0:
        weight_sum = row_sum = kernels.sum_rows(s) if s is not None and n_rows else float(n_rows)
    else:
        bad_row, _, weight_sum, row_sum = kernels.scan_targets(classes, n_classes, ignore_index, w, s)
        if bad_row >= 0:
            raise _bad_target(targets, bad_row, n_classes, ignore_index)
    ce_scale, zl_scale, zl_ratio, divisor = scales(reduction, normalizer, z_loss, weight_sum, row_sum, scale)

    losses = np.empty(n_rows, dtype) if with_loss else None
    task: Task = _new(
        Task,
        (
            x,
            classes,
            probabilities,
            w,
            s,
            upstream,
            lse_in,
            ignore_index,
            label_smoothing,
            z_loss,
            softcap or 0.0,
            logit_scale,
            ce_scale,
            zl_scale,
            zl_ratio,
            grad_view,
            losses,
        )
        + (_empty_aux(aux, array, axis, n_rows, dtype) if aux else _NO_AUX),
    )
    return task, kernels, rows, losses, grad if grad_out is None else grad_out, reduction, divisor, empty


def _empty_aux(aux: Collection[str], logits: Array, axis: int, n_rows: int, dtype: DType) -> tuple[Any, ...]:
    """Allocate what else is asked for, in the order of the task."""
    of_rows = (np.empty(n_rows, AUX_TYPES.get(name, dtype)) if name in aux else None for name in AUX)
    return *of_rows, classes_last(memory.empty_pair_of(logits, dtype), axis) if HESS in aux else None


def nll_problem(
    log_probs: ArrayLike,
    targets: ArrayLike,
    out: Array | None,
    /,
    *,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    normalizer: float | None = None,
    empty: str = "nan",
    axis: int = -1,
) -> NllProblem:
    """Check the arguments of nll_loss. The options have been through `checked` already."""
    array, dtype = _floats("log_probs", log_probs)
    x, rows, n_rows, n_classes = rows_of("log_probs", array, axis)
    classes, _ = _targets(targets, array, rows, axis, ignore_index)
    if classes is None:
        raise TypeError("targets of nll_loss must be class indices, of an integer type")
    w = None if weight is None else _vector("weight", weight, (n_classes,), dtype)
    s = None if sample_weight is None else _vector("sample_weight", sample_weight, rows, dtype)
    if out is not None:
        inputs = {"log_probs": log_probs, "targets": targets, "weight": weight, "sample_weight": sample_weight}
        shares_memory(check_output("out", out, rows if reduction == "none" else (), dtype), "out", inputs)
    weight_sum = row_sum = 0.0
    if n_rows:
        bad_row, _, weight_sum, row_sum = reference.scan_targets(classes, n_classes, ignore_index, w, s)
        if bad_row >= 0:
            raise _bad_target(targets, bad_row, n_classes, ignore_index)
    _, _, _, divisor = scales(reduction, normalizer, 0.0, weight_sum, row_sum, 1.0)
    losses = np.empty(n_rows, dtype)
    return NllProblem(x, classes, ignore_index, w, s, losses, rows, reduction, divisor, empty)


def rows_problem(logits: ArrayLike, axis: int, out: Array | None, backend: str | None, one_each: bool) -> RowsProblem:
    """Check the arguments of what gives one number (`one_each`), or as many as there are classes, for each row."""
    axis = _integer("axis", axis)
    backend = _CHECKS["backend"]("backend", backend)
    array, dtype = _floats("logits", logits)
    x, rows, n_rows, _ = rows_of("logits", array, axis)
    kernels = dispatch.backend(backend, array)
    if one_each:
        if out is not None:
            shares_memory(check_output("out", out, rows, dtype), "out", {"logits": logits})
        fill = np.empty(n_rows, dtype)
        return RowsProblem(x, fill, kernels, rows, fill)
    result = _empty_like(array) if out is None else check_output("out", out, array.shape, array.dtype)
    fill = classes_last(result, axis)
    if out is not None and shares_memory(result, "out", {"logits": logits}, in_place="logits"):
        x = fill
    return RowsProblem(x, fill, kernels, rows, result if out is None else out)


# Arrays to read -------------------------------------------------------------------------------------------------------


def _array(name: str, value: object) -> Array:
    if isinstance(value, ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, and masks are not looked at: pass a plain array")
    _check_on_cpu(name, value)
    try:
        return np.asarray(value)
    except Exception as error:
        raise TypeError(f"{name} cannot be read as an array: {error}") from error


def _check_on_cpu(name: str, value: object) -> None:
    if dispatch.on_gpu(value):
        raise TypeError(f"{name} is on a GPU, but the first argument, which says where to compute, is not")


def _floats(name: str, value: object) -> tuple[Array, DType]:
    """Give the array and the type of the arithmetic on it."""
    array: Array = value if type(value) is ndarray else _array(name, value)
    return array, _ARITHMETIC.get(array.dtype) or arithmetic_of(name, array.dtype)


def arithmetic_of(name: str, dtype: DType) -> DType:
    """Give the type of the arithmetic on numbers of a type."""
    arithmetic = _ARITHMETIC.get(dtype)
    if arithmetic is None:
        if dtype.name != "bfloat16" or not dtype.isnative:
            raise TypeError(f"{name} must be {_FLOATS}, not {dtype}")
        arithmetic = _FLOAT32
    return arithmetic


def rows_of(name: str, array: Array, axis: int) -> tuple[Array, Shape, int, int]:
    """Give the array with the classes last, the shape of its rows, their number and the number of classes."""
    ndim = array.ndim
    if not -ndim <= axis < ndim:
        raise ValueError(f"axis {axis} is out of range for {name} of shape {array.shape}")
    x = classes_last(array, axis)
    shape = x.shape
    n_classes = shape[-1]
    if n_classes == 0:
        raise ValueError(f"{name} of shape {array.shape} have no classes on axis {axis}; there must be at least one")
    return x, shape[:-1], x.size // n_classes, n_classes


def classes_last(array: Array, axis: int) -> Array:
    """Give a view with the axis of the classes last."""
    ndim = array.ndim
    if axis in (-1, ndim - 1):
        return array
    axis %= ndim
    return array.transpose(*range(axis), *range(axis + 1, ndim), axis)


def are_classes(targets: Array, logits: Array, rows: Shape, axis: int) -> bool:
    """Say whether targets are class indices, or else probabilities, of the right shape."""
    dtype = targets.dtype
    if dtype is _INT64 or dtype.kind in "iub":
        if targets.shape != rows:
            raise ValueError(
                f"class targets must have shape {rows}, that of the logits, {logits.shape}, without axis {axis}, "
                f"not {targets.shape}"
            )
        return True
    try:
        arithmetic_of("targets", dtype)
    except TypeError:
        raise TypeError(
            f"targets must be class indices, of an integer type, or probabilities, {_FLOATS}; not {dtype}"
        ) from None
    if targets.shape != logits.shape:
        raise ValueError(
            f"targets of type {dtype} are probabilities and must have the shape of the logits, {logits.shape}, "
            f"not {targets.shape}; class indices must be of an integer type"
        )
    return False


def _targets(
    targets: object, logits: Array, rows: Shape, axis: int, ignore_index: int
) -> tuple[Array | None, Array | None]:
    """Give class indices as an int64 vector and None, or None and probabilities with the classes last."""
    array = targets if type(targets) is ndarray else _array("targets", targets)
    if not are_classes(array, logits, rows, axis):
        return None, classes_last(array, axis)
    flags = array.flags
    if array.dtype is not _INT64 or not flags.c_contiguous or not flags.aligned:
        array = _to_int64(array, ignore_index)
    return (array if len(rows) == 1 else array.reshape(-1)), None


def _to_int64(targets: Array, ignore_index: int) -> Array:
    classes = np.require(targets, _INT64, ["C", "A"])
    if targets.dtype.kind == "u" and targets.dtype.itemsize == 8:  # beyond int64, the numbers wrap around
        return np.where(targets > _INT64_RANGE.max, -1 if ignore_index != -1 else -2, classes)
    return classes


def _bad_target(targets: object, row: int, n_classes: int, ignore_index: int) -> IndexError:
    given = np.asarray(targets)
    return bad_target(given.shape, row, given.flat[row], n_classes, ignore_index)


def bad_target(shape: Shape, row: int, value: object, n_classes: int, ignore_index: int) -> IndexError:
    """Give the error of a target that is no class."""
    where = ", ".join(str(i) for i in np.unravel_index(row, shape))
    return IndexError(
        f"targets[{where or '()'}] is {value}, which is neither a class, in [0, {n_classes}), "
        f"nor ignore_index, {ignore_index}"
    )


def _numeric(name: str, values: object) -> Array:
    array = _array(name, values)
    check_numeric(name, array.dtype)
    return array


def check_numeric(name: str, dtype: DType) -> None:
    """Raise if numbers of a type are not real ones."""
    if dtype.kind not in "iubf" and dtype.name != "bfloat16":
        raise TypeError(f"{name} must be of an integer or float type, not {dtype}")


def check_shape(name: str, found: Shape, wanted: Shape) -> None:
    """Raise if shapes differ."""
    if found != wanted:
        raise ValueError(f"{name} must have shape {wanted}, not {found}")


def _vector(name: str, values: object, shape: Shape, dtype: DType) -> Array:
    """Give the numbers as a contiguous vector of that type."""
    if type(values) is ndarray and values.dtype is dtype and values.shape == shape and values.flags.carray:
        return values if len(shape) == 1 else values.reshape(-1)  # 6 µs less than what follows
    array = _numeric(name, values)
    check_shape(name, array.shape, shape)
    with np.errstate(all="ignore"):  # a number too large for the type becomes inf
        return np.require(array, dtype, ["C", "A"]).reshape(-1)


def _upstream(grad_output: object, rows: Shape, dtype: DType, reduction: str) -> tuple[Array | None, float]:
    """Give the upstream gradient as a number for each row and 1, or as None and a number for all."""
    array = _numeric("grad_output", grad_output)
    if array.shape == ():
        return None, float(array)
    check_upstream(array.shape, reduction)
    return _vector("grad_output", array, rows, dtype), 1.0


def check_upstream(shape: Shape, reduction: str) -> None:
    """Raise if a gradient for each row is given for a loss that is one number."""
    if reduction != "none":
        raise ValueError(f"grad_output must be a scalar with reduction={reduction!r}; its shape is {shape}")


# Arrays to write ------------------------------------------------------------------------------------------------------


def check_output(name: str, out: Array, shape: Shape, dtype: DType) -> Array:
    """Raise if an output cannot take what is to be written."""
    plain = type(out) is ndarray
    if not plain:
        _check_on_cpu(name, out)
    if not plain and (not isinstance(out, np.ndarray) or isinstance(out, ma.MaskedArray)):
        raise TypeError(f"{name} must be a NumPy array, without a mask, not {type(out).__name__}")
    flags = out.flags
    if not flags.carray:
        if not flags.writeable:
            raise ValueError(f"{name} must be writeable")
        if not flags.aligned:
            raise ValueError(f"{name} must be aligned")
    check_place(name, out, shape, dtype)
    return out if plain else np.asarray(out)


def check_place(name: str, out: Array, shape: Shape, dtype: DType) -> None:
    """Raise if an output, on whatever device, is not of that shape and type, or if its elements share memory."""
    check_shape(name, out.shape, shape)
    if out.dtype is not dtype and out.dtype != dtype:
        raise ValueError(f"{name} must be of type {dtype}, not {out.dtype}")
    if not out.flags.c_contiguous and _overlaps_itself(out):
        raise ValueError(f"{name} has elements that share memory: its strides are {out.strides}")


def _empty_like(array: Array) -> Array:
    """Allocate an array with the axes in the same order in memory."""
    if not array.flags.forc and 0 in array.strides:  # a broadcast axis, which empty_like would take for the innermost
        return np.empty(array.shape, array.dtype)
    return memory.empty(array.shape, array.dtype) if array.flags.c_contiguous else np.empty_like(array)


def _overlaps_itself(array: Array) -> bool:
    """Say whether elements share memory, or might: interlaced strides, which slices and transposes never have."""
    reach = array.itemsize
    for stride, length in sorted(zip(map(abs, array.strides), array.shape, strict=True)):
        if length > 1:
            if stride < reach:
                return True
            reach += stride * (length - 1)
    return False


def shares_memory(out: Array, name: str, inputs: dict[str, Any], in_place: str = "") -> bool:
    """Raise if an output shares memory with an input; but True if it is, whole, the memory of the input `in_place`."""
    if out.base is None:  # arrays that are nobody's views share no memory: 0.3 µs, where may_share_memory takes 0.8
        for other in inputs.values():
            if type(other) is not ndarray or other.base is not None or other is out:
                break
        else:
            return False
    shares = False
    for other_name, other in inputs.items():
        if other is not None:
            array = _array(other_name, other)
            if other_name == in_place and np.may_share_memory(out, array) and _same_memory(out, array):
                shares = True
            elif _overlap(out, array):
                raise ValueError(f"{name} shares memory with {other_name}")
    return shares


def _same_memory(a: Array, b: Array) -> bool:
    return a is b or (
        a.shape == b.shape
        and a.strides == b.strides
        and a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
    )


def _overlap(a: Array, b: Array) -> bool:
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=_OVERLAP_WORK)
    except RuntimeError:  # too hard to tell
        return True


# Options --------------------------------------------------------------------------------------------------------------


def _integer(name: str, value: object) -> int:
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}") from None
    if not _INT64_RANGE.min <= number <= _INT64_RANGE.max:
        raise ValueError(f"{name} must fit into 64 bits")
    return number


def _finite(name: str, value: object) -> float:
    number = value if type(value) is float else _to_float(name, value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, not {number}")
    return number


def _to_float(name: str, value: object) -> float:
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:  # an integer or fraction
        return math.inf


def _from_0_to_1(name: str, value: object) -> float:
    number = _finite(name, value)
    if not 0 <= number <= 1:
        raise ValueError(f"{name} must lie in [0, 1], but is {number}")
    return number


def _positive_or_none(name: str, value: object) -> float | None:
    if value is None:
        return None
    number = _finite(name, value)
    if number <= 0:
        raise ValueError(f"{name} must be greater than 0, not {number}")
    return number


def _one_of(*allowed: object) -> Callable[[str, object], Any]:
    names = ", ".join(map(repr, allowed))

    def check(name: str, value: object) -> object:
        if not (value is None or isinstance(value, (str, bool))) or value not in allowed:
            raise ValueError(f"{name} must be one of {names}, not {value!r}")
        return value

    return check


def check_softcap(softcap: float, dtype: DType) -> None:
    """Raise if the softcap is no number of the arithmetic type."""
    limits = np.finfo(dtype)
    if not float(limits.tiny) <= softcap <= float(limits.max):
        raise ValueError(f"softcap must lie in the range of {dtype}, the type of the arithmetic, but is {softcap}")


def check_aux(aux: object, class_targets: bool) -> None:
    """Raise if what else is asked for is not there to be had."""
    if not isinstance(aux, (tuple, list, set, frozenset)):
        raise TypeError(f"aux must be a tuple of names, such as ('lse',), not {type(aux).__name__}")
    for name in aux:
        _one_of(*AUX, HESS)("each name in aux", name)
        if not class_targets and name in _AUX_OF_CLASS_TARGETS:
            raise ValueError(f"aux {name!r} needs class targets, but the targets are probabilities")


def _unchecked(name: str, value: object) -> object:
    return value


_CHECKS: dict[str, Callable[[str, object], Any]] = {
    "weight": _unchecked,  # these two are checked later, beside the logits
    "sample_weight": _unchecked,
    "ignore_index": _integer,
    "label_smoothing": _from_0_to_1,
    "z_loss": _finite,
    "softcap": _positive_or_none,
    "logit_scale": _finite,
    "reduction": _one_of(*REDUCTIONS),
    "normalizer": _positive_or_none,
    "empty": _one_of(*EMPTY),
    "axis": _integer,
    "backend": _one_of(None, *dispatch.BACKENDS),
    "check": _one_of(None, True, False),
}

_AnyOptions = TypeVar("_AnyOptions", bound=NllOptions)


def checked(options: _AnyOptions) -> _AnyOptions:
    """Check the options that were given, each by itself, and make Python numbers of the numbers."""
    if options:
        given: Any = options
        for name, value in given.items():
            check = _CHECKS.get(name)
            if check is None:
                raise TypeError(f"there is no option {name!r}; the options are {', '.join(_CHECKS)}")
            given[name] = check(name, value)
    return options
