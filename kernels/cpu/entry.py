"""Plain calls: means over targets, and functions of the logits alone, from Python's objects to a kernel in one step.

Of a small call, everything but the kernel takes longer than the kernel. So machine code asks here what otherwise Python
asks: whether arrays are C-contiguous and of the types that are computed in, whether they fit together and lie apart (32
x 10 with gradient, on a Zen 4: 1.7 microseconds in place of 3.7). It only recognizes what needs no second look, and
leaves everything else, every error among it, to Python.

There is one of each function for logits that are computed in float32 and one for float64: ``dtype``, below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import carray, types

from ..task import DONE, GRADIENTS, MISSING, NOT_PLAIN, NOT_SMALL, SMALL, divided_by
from .call import (
    CLASS_STEPS,
    EVEN,
    FETCH,
    GRADIENT,
    GRADIENT_STEP,
    IGNORE_INDEX,
    INTEGERS,
    KIND,
    LOSS,
    LSE,
    N_CLASSES,
    N_ROWS,
    NUMBERS,
    PARTS,
    Q_STEP,
    SAMPLE_WEIGHT,
    SPREAD,
    STREAM,
    TARGETS,
    WEIGHT,
    X_STEP,
    Q,
    X,
    fill_numbers,
    needs,
    spread_of,
)
from .compile import from_objects, inline
from .kernels import blocks_of, share
from .objects import (
    CARRAY,
    CARRAY_RO,
    DATA,
    DTYPE,
    FLAGS,
    N_DIMS,
    TYPE,
    half_word,
    id_of,
    integer,
    item,
    length,
    number,
    py_object,
    release_gil,
    take_gil,
    word,
)
from .pointers import allocate, call_work, free, pointer_at, stack
from .regimes import REGIMES, regime_of, size_of_work
from .targets import scan, sum_rows

_divided_by = inline(divided_by)
_needs = inline(needs)
_spread_of = inline(spread_of)
_regime_of = inline(regime_of)
_size_of_work = inline(size_of_work)

# What is known of this process, at an address: those of Python's objects; and of each type of logits that of its dtype,
# the bytes of an element, and the addresses of the work on such logits, by regime; 0 where there is none.
NDARRAY, NO_OBJECT, FLOAT, INT64, ARITHMETIC, ARITHMETIC_BYTES, TYPES = range(7)
WORK = 2  # of a type, from where on there are works
OF_TYPE = WORK + max(REGIMES) + 1
N_TYPES = 3
KNOWN = TYPES + N_TYPES * OF_TYPE

# (What comes of a call is in ``task.py``: from MISSING on, what is not compiled is KNOWN at that less MISSING.)


@inline
def _is_plain(known, array, dtype, n_dims):
    """Whether an object is an array of that dtype and number of dimensions, as kernels take it; perhaps read-only."""
    return (
        word(array, TYPE) == known[NDARRAY]
        and word(array, DTYPE) == dtype
        and half_word(array, FLAGS) & CARRAY_RO == CARRAY_RO
        and half_word(array, N_DIMS) == n_dims
    )


@inline
def _is_vector(known, array, dtype, n):
    return _is_plain(known, array, dtype, 1) and length(array, 0) == n


@inline
def _is_like(known, array, logits, dtype):
    """Whether it is one of that dtype in the shape of the logits."""
    return (
        _is_plain(known, array, dtype, 2)
        and length(array, 0) == length(logits, 0)
        and length(array, 1) == length(logits, 1)
    )


@inline
def _is_written(array):
    """Whether an array that is plain may be written."""
    return half_word(array, FLAGS) & CARRAY == CARRAY


@inline
def _is_there(known, value):
    return id_of(value) != known[NO_OBJECT]


@inline
def _data(known, array):
    """Where an array begins; 0 if it is not there."""
    return word(array, DATA) if _is_there(known, array) else 0


@inline
def _type_of(known, logits):
    """Where the type of plain logits, of which there are some, is known; 0 of anything else."""
    if word(logits, TYPE) == known[NDARRAY]:
        for k in range(np.int64(TYPES), KNOWN, OF_TYPE):
            if _is_plain(known, logits, known[k], 2):
                return k if length(logits, 0) > 0 and length(logits, 1) > 0 else 0
    return 0


@inline
def _are_apart(a, a_bytes, b, b_bytes):
    """Whether so many bytes at two addresses are not partly the same."""
    return a + a_bytes <= b or b + b_bytes <= a


@inline
def _is_place(known, of, out, logits):
    """Whether what is computed of the logits may be written there: over them, or apart from them."""
    n_bytes = length(logits, 0) * length(logits, 1) * known[of + 1]
    return (
        _is_like(known, out, logits, known[of])
        and _is_written(out)
        and (id_of(out) == id_of(logits) or _are_apart(word(out, DATA), n_bytes, word(logits, DATA), n_bytes))
    )


class _Inputs(NamedTuple):
    """Of a mean, beside the logits: addresses, 0 if not there."""

    targets: int
    q: int
    weight: int
    sample_weight: int


_NO_INPUTS = _Inputs(0, 0, 0, 0)


@inline
def _inputs(known, logits, targets, weight, sample_weight):
    """These, and whether they are plain."""
    n_rows, dtype = length(logits, 0), known[ARITHMETIC]
    if not (
        (_is_vector(known, targets, known[INT64], n_rows) or _is_like(known, targets, logits, dtype))
        and (not _is_there(known, weight) or _is_vector(known, weight, dtype, length(logits, 1)))
        and (not _is_there(known, sample_weight) or _is_vector(known, sample_weight, dtype, n_rows))
    ):
        return _NO_INPUTS, False
    at, soft = word(targets, DATA), half_word(targets, N_DIMS) == 2
    return _Inputs(0 if soft else at, at if soft else 0, _data(known, weight), _data(known, sample_weight)), True


@inline
def _are_inputs_apart(known, of, inputs, logits, out):
    """Whether none of them lies where the gradient is written."""
    n_rows, n_classes, itemsize = length(logits, 0), length(logits, 1), known[ARITHMETIC_BYTES]
    n_bytes = n_rows * n_classes * known[of + 1]
    return (
        (inputs.targets == 0 or _are_apart(inputs.targets, 8 * n_rows, out, n_bytes))
        and (inputs.q == 0 or _are_apart(inputs.q, itemsize * n_rows * n_classes, out, n_bytes))
        and (inputs.weight == 0 or _are_apart(inputs.weight, itemsize * n_classes, out, n_bytes))
        and (inputs.sample_weight == 0 or _are_apart(inputs.sample_weight, itemsize * n_rows, out, n_bytes))
    )


USUAL = 1e30  # of every type, numbers below this are finite, and their inverse is not 0


class _Scalars(NamedTuple):
    """The options of a mean that are numbers."""

    smoothing: float
    z_loss: float
    softcap: float  # 0: none
    scale: float


@inline
def _scalars_of(known, smoothing, z_loss, softcap, scale):
    """These, and whether all are usual floats."""
    capped = _is_there(known, softcap)
    if not (
        _is_float(known, smoothing)
        and _is_float(known, z_loss)
        and _is_float(known, scale)
        and (not capped or _is_float(known, softcap))
    ):
        return _Scalars(0.0, 0.0, 0.0, 0.0), False
    e, z, cap, s = number(smoothing), number(z_loss), number(softcap) if capped else 0.0, number(scale)
    good = 0.0 <= e <= 1.0 and abs(z) < USUAL and abs(s) < USUAL and (not capped or 1.0 / USUAL < cap < USUAL)
    return _Scalars(e, z, cap, s), good


@inline
def _is_float(known, value):
    return word(value, TYPE) == known[FLOAT]


@inline
def _vector(address, n, dtype):
    """An array of ``n`` numbers at that address; of none if that is 0."""
    return carray(pointer_at(address, dtype), (n if address != 0 else 0,))


@inline
def _sums_of_weights(inputs, n_rows, n_classes, ignore_index, dtype):
    """Whether all targets are good; and of the rows not ignored, the sums of s * w_y and of s."""
    of_rows = _vector(inputs.sample_weight, n_rows, dtype)
    if inputs.q != 0:
        s = sum_rows(of_rows) if inputs.sample_weight != 0 else np.float64(n_rows)
        return True, s, s
    targets, of_classes = _vector(inputs.targets, n_rows, np.int64), _vector(inputs.weight, n_classes, dtype)
    bad, _, sum_sw, sum_s = scan(targets, n_classes, ignore_index, of_classes, of_rows)
    return bad < 0, sum_sw, sum_s


@inline
def _fill_rows(known, of, call, logits, fill, itemsize, tuning):
    """Write what a call says of the logits, and of an array of their shape to fill at that address."""
    n_rows, n_classes = length(logits, 0), length(logits, 1)
    for k in range(np.int64(N_ROWS), PARTS):
        call[k] = 0
    call[N_ROWS], call[N_CLASSES], call[X], call[GRADIENT] = n_rows, n_classes, word(logits, DATA), fill
    call[X_STEP] = call[GRADIENT_STEP] = n_classes * known[of + 1]
    call[CLASS_STEPS] = call[CLASS_STEPS + 1] = known[of + 1]
    call[Q_STEP] = n_classes * itemsize
    call[CLASS_STEPS + 2] = call[CLASS_STEPS + 3] = itemsize
    if tuning > 0:
        call[STREAM], call[FETCH] = tuning % 2, tuning // 2


@inline
def _begun(known, logits, targets, grad, options):
    """Where the type of the logits of a mean is known, 0 if something is not plain; and what else it takes."""
    of = _type_of(known, logits)
    scalars, good = _scalars_of(known, item(options, 2), item(options, 3), item(options, 4), item(options, 5))
    if of == 0 or not good:
        return 0, _NO_INPUTS, scalars
    inputs, good = _inputs(known, logits, targets, item(options, 0), item(options, 1))
    if good and _is_there(known, grad):
        good = _is_place(known, of, grad, logits) and _are_inputs_apart(known, of, inputs, logits, word(grad, DATA))
    return (of if good else 0), inputs, scalars


@inline
def _laid_out(known, of, logits, grad, inputs, scalars, options, call, numbers, tuning, dtype):
    """Lay out a mean in these blocks. Gives the address of its losses, 0 if a target is bad; what divides their sum.

    (Nor are there losses if there is no memory: whoever asks for it next may say so.)
    """
    n_rows, n_classes, itemsize = length(logits, 0), length(logits, 1), known[ARITHMETIC_BYTES]
    ignore_index, z_loss = integer(item(options, 6)), scalars.z_loss
    good, sum_sw, sum_s = _sums_of_weights(inputs, n_rows, n_classes, ignore_index, dtype)
    if not good:
        return 0, 0.0
    losses = allocate(n_rows * itemsize)
    _fill_rows(known, of, call, logits, _data(known, grad), itemsize, tuning)
    call[TARGETS], call[Q], call[WEIGHT], call[SAMPLE_WEIGHT] = inputs
    call[IGNORE_INDEX], call[LOSS] = ignore_index, losses
    call[SPREAD] = _spread_of(inputs.q != 0, scalars.smoothing)
    ce_scale, zl_scale, zl_ratio, divisor = _divided_by(sum_sw, sum_s if z_loss != 0.0 else sum_sw, 1.0)
    settings = scalars.smoothing, z_loss, scalars.softcap, scalars.scale, ce_scale, zl_scale, zl_ratio
    fill_numbers(call, numbers, pointer_at(0, dtype), settings)
    return losses, divisor


@inline
def _ended(losses, n_rows, divisor, dtype):
    """What comes of a mean whose losses are there: they are let go."""
    total = sum_rows(_vector(losses, n_rows, dtype))
    free(losses)
    return DONE, total / divisor if divisor != 0.0 else np.nan


_RESULT = types.Tuple((types.int64, types.float64))
_MEAN = (types.int64, *(py_object,) * 4, types.int64)
_OF_LOGITS = (types.int64, py_object, py_object, types.int64, types.int64)
_SHARES = (types.int64, types.int64)


def mean_in(dtype: Any) -> Callable[[], Any]:
    """Mean loss, and its gradient unless ``grad`` is None, on the calling thread.

    ``known`` is the address of what is KNOWN, ``options`` are MeanOptions, ``tuning`` is IF_SMALL or that of a
    ``launch.Way``. Gives what came of it, and the loss; nothing is written unless it is DONE.
    """

    @from_objects(_RESULT(*_MEAN))
    def mean(known, logits, targets, grad, options, tuning):
        known = pointer_at(known, np.int64)
        of, inputs, scalars = _begun(known, logits, targets, grad, options)
        if of == 0:
            return NOT_PLAIN, 0.0
        n_rows, n_classes = length(logits, 0), length(logits, 1)
        if tuning < 0 and _size_of_work(n_rows, n_classes) >= SMALL:
            return NOT_SMALL, 0.0
        spread = _spread_of(inputs.q != 0, scalars.smoothing)
        step = _regime_of(n_rows, n_classes, _needs(scalars.softcap, scalars.scale, spread, inputs.weight != 0))
        function = known[of + WORK + step]
        if function == 0:
            return MISSING + of + WORK + step, 0.0
        call, numbers = stack(np.int64, INTEGERS), stack(np.float64, NUMBERS)
        losses, divisor = _laid_out(known, of, logits, grad, inputs, scalars, options, call, numbers, tuning, dtype)
        if losses == 0:
            return NOT_PLAIN, 0.0
        state = release_gil()
        call_work(function, call, numbers, step, 0, n_rows)
        take_gil(state)
        return _ended(losses, n_rows, divisor, dtype)

    return mean


def mean_shared_in(dtype: Any) -> Callable[[], Any]:
    """The same by all threads, ``block`` rows (chunks, if ``step`` is LOOK) at a time."""

    @from_objects(_RESULT(*_MEAN, *_SHARES))
    def mean_shared(known, logits, targets, grad, options, tuning, step, block):
        known = pointer_at(known, np.int64)
        of, inputs, scalars = _begun(known, logits, targets, grad, options)
        if of == 0:
            return NOT_PLAIN, 0.0
        n_rows, n_classes, function = length(logits, 0), length(logits, 1), known[of + WORK + step]
        if function == 0:
            return MISSING + of + WORK + step, 0.0
        call, numbers = blocks_of(n_rows, n_classes, step)
        losses, divisor = _laid_out(known, of, logits, grad, inputs, scalars, options, call, numbers, tuning, dtype)
        if losses == 0:
            return NOT_PLAIN, 0.0
        state = release_gil()
        share(function, call, numbers, step, block)
        take_gil(state)
        return _ended(losses, n_rows, divisor, dtype)

    return mean_shared


@inline
def _begun_logits(known, logits, fill, one_each):
    """Where the type of the logits is known; 0 if they, or what is filled, are not plain."""
    of = _type_of(known, logits)
    if of == 0:
        return 0
    if not one_each:
        return of if _is_place(known, of, fill, logits) else 0
    n_rows, n_bytes = length(logits, 0), length(logits, 0) * length(logits, 1) * known[of + 1]
    good = (
        _is_vector(known, fill, known[ARITHMETIC], n_rows)
        and _is_written(fill)
        and _are_apart(word(fill, DATA), n_rows * known[ARITHMETIC_BYTES], word(logits, DATA), n_bytes)
    )
    return of if good else 0


@inline
def _lay_out_logits(known, of, logits, fill, kind, one_each, call, numbers, tuning, dtype):
    """Lay out a call of the logits alone in these blocks."""
    at = word(fill, DATA)
    _fill_rows(known, of, call, logits, 0 if one_each else at, known[ARITHMETIC_BYTES], tuning)
    call[LSE], call[KIND] = at if one_each else 0, kind
    fill_numbers(call, numbers, pointer_at(0, dtype), (0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0))


def of_logits_in(dtype: Any) -> Callable[[], Any]:
    """Fill an array with what ``kind`` says, or, if that is GRADIENTS, with the logsumexp of each row."""

    @from_objects(types.int64(*_OF_LOGITS))
    def of_logits(known, logits, fill, kind, tuning):
        known, one_each = pointer_at(known, np.int64), kind == GRADIENTS
        of = _begun_logits(known, logits, fill, one_each)
        if of == 0:
            return NOT_PLAIN
        n_rows, n_classes = length(logits, 0), length(logits, 1)
        if tuning < 0 and _size_of_work(n_rows, n_classes) >= SMALL:
            return NOT_SMALL
        step = _regime_of(n_rows, n_classes, EVEN)
        function = known[of + WORK + step]
        if function == 0:
            return MISSING + of + WORK + step
        call, numbers = stack(np.int64, INTEGERS), stack(np.float64, NUMBERS)
        _lay_out_logits(known, of, logits, fill, kind, one_each, call, numbers, tuning, dtype)
        state = release_gil()
        call_work(function, call, numbers, step, 0, n_rows)
        take_gil(state)
        return DONE

    return of_logits


def of_logits_shared_in(dtype: Any) -> Callable[[], Any]:
    """The same by all threads, ``block`` rows (chunks, if ``step`` is LOOK) at a time."""

    @from_objects(types.int64(*_OF_LOGITS, *_SHARES))
    def of_logits_shared(known, logits, fill, kind, tuning, step, block):
        known, one_each = pointer_at(known, np.int64), kind == GRADIENTS
        of = _begun_logits(known, logits, fill, one_each)
        if of == 0:
            return NOT_PLAIN
        n_rows, n_classes, function = length(logits, 0), length(logits, 1), known[of + WORK + step]
        if function == 0:
            return MISSING + of + WORK + step
        call, numbers = blocks_of(n_rows, n_classes, step)
        _lay_out_logits(known, of, logits, fill, kind, one_each, call, numbers, tuning, dtype)
        state = release_gil()
        share(function, call, numbers, step, block)
        take_gil(state)
        return DONE

    return of_logits_shared
