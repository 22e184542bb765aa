"""Proof that this installation computes right: `python -m fastce check`.

Compiled kernels depend on the processor, the compiler and the threads of the machine they run on, so they are checked
where they run: against the NumPy reference in float64 on the same inputs, and both against values worked out by hand.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from . import (
    __version__,
    cross_entropy,
    cross_entropy_with_grad,
    log_softmax,
    logsumexp,
    nll_loss,
    places,
    softmax,
)
from .warmup import most_processes, warmup

Array = NDArray[Any]

# Allowed relative error by arithmetic type. float32: as promised for row losses. float64: far below what any float32
# step or short polynomial would leave, above the rounding of the float64 reference itself.
ALLOWED = {"float32": 1e-6, "float64": 1e-13}
# Rounding once to the type of the logits: half a unit in the last place, relative, and half the smallest step.
EXACT = (0.0, 0.0)
ROUNDING = {"float16": (2.0**-11, 2.0**-25), "bfloat16": (2.0**-8, 0.0), "float32": EXACT, "float64": EXACT}

AUX = ("lse", "argmax", "correct", "rank", "target_prob", "entropy")

# Rows x classes. Each group has odd sizes: rows not divisible by threads or lanes, classes one past a vector.
NARROW = ((1000, 1), (4001, 2), (257, 3), (1025, 10), (131, 17), (67, 33))
ROWS = ((37, 65), (129, 100), (65, 1000), (19, 4099), (3, 50257))
WIDE = ((1, 1), (1, 3), (1, 1025), (1, 50257), (2, 131075))


class Comparison(NamedTuple):
    """The worst element of one comparison."""

    case: str
    error: float
    allowed: float

    @property
    def wrong(self) -> bool:
        """Whether the error is larger than allowed, or NaN."""
        return not self.error <= self.allowed


_compute: places.Function = places.on_cpu  # where `run` says


def run(
    *,
    quick: bool = False,
    device: str = "cpu",
    groups: tuple[str, ...] | None = None,
    show: Callable[[str], object] = print,
    progress: Callable[[int, int, str], object] | None = None,
) -> bool:
    """
    Compare every group of cases and tell the outcome line by line.

    Parameters
    ----------
    quick : bool
        float32 alone.
    device : {"cpu", "cuda"}
        Where to compute.
    groups : tuple of str, optional
        Names from `GROUPS`; all by default.
    show : callable
        Gets each line.
    progress : callable, optional
        Told how far compiling is, as in `warmup`.

    Returns
    -------
    bool
        Whether everything was within the allowed error.
    """
    global _compute
    before = _compute
    _compute = places.on_gpu if device == "cuda" else places.on_cpu
    try:
        return _run(quick, device, groups, show, progress)
    finally:
        _compute = before


def _run(
    quick: bool,
    device: str,
    groups: tuple[str, ...] | None,
    show: Callable[[str], object],
    progress: Callable[[int, int, str], object] | None,
) -> bool:
    start = time.perf_counter()
    types, missing = _types(quick)
    names = tuple(n for n in GROUPS if device == "cpu" or n not in OF_THE_CPU) if groups is None else groups
    show(f"fastce {__version__}: {device} kernels against the NumPy reference in float64, logits of {', '.join(types)}")
    show("errors are beyond those of rounding once to the type of the result; the first run on a machine also compiles")
    if missing:
        show(f"not checked: {missing}")
    with contextlib.suppress(Exception):  # which the groups meet again, and report
        if device == "cpu":
            warmup(tuple(types), progress=progress, processes=most_processes())
    n_comparisons, wrong = 0, []
    for name in names:
        try:
            outcomes = list(GROUPS[name](types))
        except Exception as error:
            wrong.append(name)
            show(f"{name:<14} WRONG  {type(error).__name__}: {str(error).split(chr(10))[0]}")
            continue
        n_comparisons += len(outcomes)
        worst = max(outcomes, key=_share)
        if worst.wrong:
            wrong.append(name)
        show(
            f"{name:<14} {'WRONG' if worst.wrong else 'ok':<5}  largest error {worst.error:.1e}, "
            f"allowed {worst.allowed:.1e}  ({worst.case})"
        )
    took = f"{n_comparisons} comparisons, {time.perf_counter() - start:.1f} s"
    if wrong:
        show(f"WRONG: {', '.join(wrong)} ({took}). Please report this, with the output of `python -m fastce info`.")
    else:
        show(f"RIGHT: fastce computes right on this machine ({took}).")
    return not wrong


def _types(quick: bool) -> tuple[dict[str, np.dtype[Any]], str]:
    """Types of the logits to check, and what is left out."""
    if quick:
        return {"float32": np.dtype(np.float32)}, ""
    types = {name: np.dtype(name) for name in ("float16", "float32", "float64")}
    if importlib.util.find_spec("ml_dtypes") is None:
        return types, "bfloat16, because ml_dtypes is not installed"
    types["bfloat16"] = np.dtype(importlib.import_module("ml_dtypes").bfloat16)
    return types, ""


def _share(outcome: Comparison) -> float:
    """Error as a share of the allowed one; NaN counts as the worst."""
    if outcome.error <= outcome.allowed:
        return outcome.error / outcome.allowed if outcome.allowed else 0.0
    return math.inf


def _compare(case: str, got: Any, want: Any, allowed: Any = 0.0, rounding: tuple[float, float] = EXACT) -> Comparison:
    """
    Worst element of |got - want|, beyond what `rounding` explains.

    Equal infinities and two NaNs agree, a shape that differs never does.
    """
    got, want = np.asarray(got).astype(np.float64), np.asarray(want).astype(np.float64)
    if got.shape != want.shape:
        return Comparison(f"{case}: shape {got.shape} instead of {want.shape}", math.inf, 0.0)
    if not got.size:
        return Comparison(case, 0.0, 0.0)
    agree = (got == want) | (np.isnan(got) & np.isnan(want))
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.abs(got - want) - (rounding[0] * np.abs(want) + rounding[1])
        error = np.where(agree, 0.0, np.maximum(np.nan_to_num(error, nan=math.inf), 0.0))
        allowed = np.broadcast_to(np.asarray(allowed, np.float64), error.shape)
        allowed = np.nan_to_num(allowed, nan=0.0, posinf=0.0)
        share = np.where(error == 0, 0.0, error / allowed)
    worst = np.unravel_index(int(np.argmax(share)), share.shape)
    return Comparison(case, float(error[worst]), float(allowed[worst]))


def _logits(shape: tuple[int, ...], dtype: np.dtype[Any], seed: int = 7) -> Array:
    """
    Logits with the classes last: rows of chance among rows that are sure of one class.

    They are multiples of 1/64, so that the difference of two of them is exact in float32: a loss of 1e-9 is then known
    to the precision of its own size, and the allowed error holds for any of them, not for most.
    """
    rng = np.random.default_rng([*shape, seed])
    x = rng.normal(0.0, 3.0, shape)
    np.put_along_axis(x, rng.integers(shape[-1], size=(*shape[:-1], 1)), rng.choice([0.0, 8.0, 20.0]), axis=-1)
    return np.asarray((np.round(x * 64) / 64).astype(dtype))


def _targets(logits: Array) -> Array:
    """Class indices: every third row is right, so that tiny losses occur, the others are chance."""
    targets = np.random.default_rng(11).integers(logits.shape[-1], size=logits.shape[:-1])
    right = logits.astype(np.float64).argmax(axis=-1)
    return np.where(np.arange(targets.size).reshape(targets.shape) % 3 == 0, right, targets)


def _probabilities(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Probability targets, other classes likely than in the logits; one is 0."""
    q = np.asarray(softmax(_logits(shape, dtype, seed=8), backend="reference"))
    q[0, 0] = 0.0
    return q


def _against_reference(case: str, logits: Array, targets: Array, **options: Any) -> Iterator[Comparison]:
    """Row losses, gradient and aux of the kernels against the reference in float64."""
    aux = AUX if targets.shape != logits.shape else ("lse", "argmax", "entropy")
    options = {"reduction": "none", "aux": aux, **options}
    got = _compute(cross_entropy_with_grad, logits, targets, backend="cpu", **options)
    exact = logits.astype(np.float64)
    want = cross_entropy_with_grad(exact, targets, backend="reference", **options)
    relative = ALLOWED["float64" if logits.dtype == np.float64 else "float32"]
    # softcap and logit_scale round every logit once more: an error relative to the logits, not to the loss.
    rounded = relative * float(np.max(np.abs(exact))) if {"softcap", "logit_scale"} & set(options) else 0.0
    yield _compare(f"{case} loss", got.loss, want.loss, relative * np.abs(want.loss) + rounded)
    # Index targets: every row to its own precision. Probabilities: p - q cancels in a row that is nearly right.
    axis = options.get("axis", -1) if targets.shape != logits.shape else None
    largest = np.max(np.abs(want.grad), axis=axis, keepdims=True)
    allowed = (2 * relative + rounded) * largest
    yield _compare(f"{case} grad", got.grad, want.grad, allowed, ROUNDING[logits.dtype.name])
    for name in aux:
        value = getattr(want, name)
        exactly = name in ("argmax", "correct", "rank")
        bound = 0.0 if exactly else relative * np.maximum(np.abs(value), 1.0) + rounded
        yield _compare(f"{case} {name}", getattr(got, name), value, bound)


def _shapes(shapes: tuple[tuple[int, int], ...]) -> Callable[[dict[str, np.dtype[Any]]], Iterator[Comparison]]:
    def group(types: dict[str, np.dtype[Any]]) -> Iterator[Comparison]:
        for shape, (name, dtype) in itertools.product(shapes, types.items()):
            logits = _logits(shape, dtype)
            yield from _against_reference(f"{shape[0]} x {shape[1]} {name}", logits, _targets(logits))

    return group


def _worked(types: dict[str, np.dtype[Any]]) -> Iterator[Comparison]:
    """Values known without the reference, which is checked as well."""
    x = np.array([[1.0, 2.0, 3.0], [3.0, 1.0, 0.0]])
    weight = np.array([0.5, 1.0, 2.0])
    mixed_grad = [[-0.134791, 0.028524, 0.106267], [0.570656, 0.039937, -0.610593]]
    for backend in ("cpu", "reference"):
        compute = _compute if backend == "cpu" else places.on_cpu
        for name, dtype in types.items():
            relative = ALLOWED["float64" if name == "float64" else "float32"]
            sure = compute(cross_entropy_with_grad, np.array([20.0, 0.0], dtype), np.array(0), backend=backend)
            loss, grad = math.log1p(math.exp(-20.0)), 1 / (1 + math.exp(20.0))
            yield _compare(f"[20, 0] {name} {backend} loss", sure.loss, loss, relative * loss)
            yield _compare(
                f"[20, 0] {name} {backend} grad", sure.grad, [-grad, grad], 2 * relative * grad, ROUNDING[name]
            )
            even = compute(cross_entropy, np.zeros((5, 7), dtype), np.arange(5), backend=backend)
            yield _compare(f"zeros(5, 7) {name} {backend}", even, math.log(7.0), relative * math.log(7.0))
        options: dict[str, Any] = {"weight": weight, "backend": backend}
        result = compute(cross_entropy_with_grad, x, np.array([0, 2]), label_smoothing=0.3, **options)
        yield _compare(f"weights, smoothing {backend} loss", result.loss, 2.5930219, 6e-8)
        yield _compare(f"weights, smoothing {backend} grad", result.grad, mixed_grad, 6e-7)
        lse = 3 + math.log(1 + math.exp(-1) + math.exp(-2))
        by_hand = 0.2 * 0.5 * (lse - 1) + 0.3 * 1.0 * (lse - 2) + 0.5 * 2.0 * (lse - 3)
        soft = compute(cross_entropy, x[0], np.array([0.2, 0.3, 0.5]), **options)
        yield _compare(f"probabilities {backend}", soft, by_hand, ALLOWED["float64"] * by_hand)


def _layouts(types: dict[str, np.dtype[Any]]) -> Iterator[Comparison]:
    """Class axis anywhere, strides of any kind, one row, no row."""
    for name, dtype in types.items():
        x = _logits((6, 5, 40), dtype)
        y = _targets(x)
        yield from _against_reference(f"6 x 5 x 40 {name}", x, y)
        yield from _against_reference(f"classes on axis 1 {name}", np.moveaxis(x, -1, 1), y, axis=1)
        yield from _against_reference(
            f"classes on axis 0 {name}", np.ascontiguousarray(np.moveaxis(x, -1, 0)), y, axis=0
        )
        yield from _against_reference(f"every second class, reversed {name}", x[..., ::-2], y // 2)
        yield from _against_reference(f"every second row {name}", x[::2], y[::2])
        yield from _against_reference(f"one row {name}", x[0, 0], y[0, 0])
        empty = _compute(cross_entropy_with_grad, x[:0], y[:0], reduction="sum", backend="cpu")
        yield _compare(f"no row {name}", empty.loss, 0.0)


def _target_types(types: dict[str, np.dtype[Any]]) -> Iterator[Comparison]:
    """Every integer type, bool, and probabilities of the type of the logits: another would be compiled anew."""
    for name, dtype in types.items():
        for shape in ((65, 2), (65, 100), (2, 20001)):
            x = _logits(shape, dtype)
            for kind in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"):
                y = _targets(x[:, :2]).astype(kind)
                yield from _against_reference(f"{shape[0]} x {shape[1]} {name}, {kind} targets", x, y)
            q = _probabilities(shape, dtype)
            yield from _against_reference(f"{shape[0]} x {shape[1]} {name}, probabilities", x, q)


def _options(types: dict[str, np.dtype[Any]]) -> Iterator[Comparison]:
    """Options alone and together, in every regime."""
    for (name, dtype), shape in itertools.product(types.items(), ((67, 10), (33, 300), (1, 20001))):
        x = _logits(shape, dtype)
        y = _targets(x)
        q = _probabilities(shape, dtype)
        rng = np.random.default_rng(5)
        each: dict[str, Any] = {
            "weight": rng.integers(1, 8, shape[1]) / 4,
            "sample_weight": rng.integers(0, 8, shape[0]) / 4,
            "ignore_index": int(y[0]) if shape[0] > 1 else -100,
            "label_smoothing": 0.1,
            "z_loss": 1e-3,
            "softcap": 15.0,
            "logit_scale": 0.5,
        }
        choices: list[dict[str, Any]] = [{key: value} for key, value in each.items()]
        choices += [{"grad_output": rng.integers(1, 8, shape[0]) / 4, **each}, each]
        choices += [{key: value for key, value in each.items() if key != left_out} for left_out in each]
        for options in choices:
            case = f"{shape[0]} x {shape[1]} {name}, {' '.join(options) if len(options) < 3 else 'many options'}"
            yield from _against_reference(case, x, y, **options)
            yield from _against_reference(case + ", probabilities", x, q, **options)
        for reduction, normalizer in (("sum", None), ("mean", None), ("mean", 3.0), ("none", 3.0)):
            case = f"{shape[0]} x {shape[1]} {name}, {reduction} normalizer={normalizer}"
            more = {**each, "reduction": reduction, "normalizer": normalizer}
            yield from _against_reference(case, x, y, **more)
            yield from _against_reference(case + ", probabilities", x, q, **more)


def _plain_calls(types: dict[str, np.dtype[Any]]) -> Iterator[Comparison]:
    """Means over class targets, which take a shorter way."""
    options: tuple[dict[str, Any], ...] = ({}, {"label_smoothing": 0.1, "z_loss": 1e-3, "logit_scale": 0.5})
    for (name, dtype), shape, more in itertools.product(
        types.items(), ((1, 3), (32, 10), (5, 129), (32, 1000)), options
    ):
        x = _logits(shape, dtype)
        y = _targets(x)
        relative = ALLOWED["float64" if name == "float64" else "float32"]
        want = cross_entropy_with_grad(x.astype(np.float64), y, backend="reference", **more)
        largest = np.max(np.abs(want.grad), axis=-1, keepdims=True)
        case = f"{shape[0]} x {shape[1]} {name}{' options' if more else ''}"
        yield _compare(f"{case} loss", cross_entropy(x, y, **more), want.loss, relative * np.abs(want.loss))
        for where, grad_out in (("", None), (" grad_out", np.empty_like(x)), (" in place", x)):
            got = cross_entropy_with_grad(x, y, grad_out=grad_out, **more)
            yield _compare(f"{case}{where} loss", got.loss, want.loss, relative * np.abs(want.loss))
            yield _compare(f"{case}{where} grad", got.grad, want.grad, 2 * relative * largest, ROUNDING[name])


def _special_values(types: dict[str, np.dtype[Any]]) -> Iterator[Comparison]:
    """NaN, infinities and ignored rows, in every regime; rows beside them stay as they are."""
    for (name, dtype), shape in itertools.product(types.items(), ((7, 5), (7, 300), (7, 20001))):
        x = _logits(shape, dtype)
        y = _targets(x)
        x[0, 1], x[1, 2], x[2, 0], x[3] = np.nan, np.inf, -np.inf, -np.inf
        y[2] = 1  # -inf at another class
        x[4, 3], y[4] = -np.inf, 3  # -inf at the target
        x[5], y[5] = np.nan, -100  # ignored, whatever it holds
        case = f"{shape[0]} x {shape[1]} {name}"
        yield from _against_reference(case, x, y)
        loss = np.asarray(_compute(cross_entropy, x, y, reduction="none", backend="cpu"))
        known = [math.nan, math.nan, loss[2], math.nan, math.inf, 0.0, loss[6]]
        yield _compare(case + " by the table", loss, known)


def _in_place(types: dict[str, np.dtype[Any]]) -> Iterator[Comparison]:
    """Gradient into the caller's array, and over the logits: the same bits."""
    for (name, dtype), shape in itertools.product(types.items(), (*NARROW[-3:], *ROWS[-3:], *WIDE[-3:])):
        x = _logits(shape, dtype)
        y = _targets(x)
        case = f"{shape[0]} x {shape[1]} {name}"
        want = _compute(cross_entropy_with_grad, x, y, backend="cpu")
        given = np.empty_like(x)
        loss = _compute(cross_entropy_with_grad, x, y, grad_out=given, backend="cpu").loss
        yield _compare(case + " grad_out", given, want.grad)
        yield _compare(case + " grad_out loss", loss, want.loss)
        loss = _compute(cross_entropy_with_grad, x, y, grad_out=x, backend="cpu").loss
        yield _compare(case + " in place", x, want.grad)
        yield _compare(case + " in place loss", loss, want.loss)


def _threads(types: dict[str, np.dtype[Any]]) -> Iterator[Comparison]:
    """Any number of threads: the same bits."""
    before, most = numba.get_num_threads(), numba.config.NUMBA_NUM_THREADS
    counts = sorted({n for n in (1, 2, 3, 5) if n < most} | {most})
    try:
        for (name, dtype), shape in itertools.product(
            types.items(), ((10_007, 10), *NARROW[1:4], *ROWS[2:], *WIDE[-2:])
        ):
            x = _logits(shape, dtype)
            y = _targets(x)
            results = []
            for n_threads in counts:
                numba.set_num_threads(n_threads)
                results.append(cross_entropy_with_grad(x, y, aux=("lse",), backend="cpu"))
            for n_threads, result in zip(counts, results, strict=True):
                case = f"{shape[0]} x {shape[1]} {name}, 1 thread and {n_threads}"
                for part in ("loss", "grad", "lse"):
                    yield _compare(f"{case}, {part}", getattr(result, part), getattr(results[0], part))
    finally:
        numba.set_num_threads(before)


def _softmax(types: dict[str, np.dtype[Any]]) -> Iterator[Comparison]:
    """The other functions, and the textbook identity between them."""
    for (name, dtype), shape in itertools.product(types.items(), ((1025, 10), (65, 1000), (1, 50257))):
        x = _logits(shape, dtype)
        exact = x.astype(np.float64)
        relative = ALLOWED["float64" if name == "float64" else "float32"]
        case = f"{shape[0]} x {shape[1]} {name}"
        for function in (logsumexp, softmax, log_softmax):
            want = function(exact, backend="reference")
            rounding = EXACT if function is logsumexp else ROUNDING[name]
            got = _compute(function, x, backend="cpu")
            yield _compare(f"{case} {function.__name__}", got, want, 2 * relative * np.abs(want), rounding)
        if name in ("float32", "float64"):
            y = _targets(x)
            identity = _compute(nll_loss, _compute(log_softmax, x, backend="cpu"), y)
            want = cross_entropy(exact, y, backend="reference")
            yield _compare(f"{case} nll_loss(log_softmax)", identity, want, 2 * relative * np.abs(want))


def _bad_input(types: dict[str, np.dtype[Any]]) -> Iterator[Comparison]:
    """A bad target is an error, raised before anything is written."""
    for (name, dtype), shape in itertools.product(types.items(), ((67, 10), (33, 300), (1, 20001))):
        x = _logits(shape, dtype)
        before = x.copy()
        y = _targets(x)
        for bad in (shape[1], -1):
            y[-1] = bad
            case = f"{shape[0]} x {shape[1]} {name}, target {bad}"
            try:
                _compute(cross_entropy_with_grad, x, y, grad_out=x, backend="cpu")
                yield Comparison(case + ": no error", math.inf, 0.0)
            except IndexError:
                yield _compare(case, x, before)


GROUPS: dict[str, Callable[[dict[str, np.dtype[Any]]], Iterator[Comparison]]] = {
    "worked values": _worked,
    "narrow": _shapes(NARROW),
    "rows": _shapes(ROWS),
    "wide": _shapes(WIDE),
    "layouts": _layouts,
    "targets": _target_types,
    "options": _options,
    "plain calls": _plain_calls,
    "special values": _special_values,
    "in place": _in_place,
    "threads": _threads,
    "softmax": _softmax,
    "bad input": _bad_input,
}

# What only the CPU has: threads, and a short way for plain calls.
OF_THE_CPU = ("plain calls", "threads")
