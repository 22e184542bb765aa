"""Plain calls: losses over targets, and functions of the logits alone, from Python's objects to a kernel in one step.

Of a small call, everything but the kernel takes longer than the kernel. So machine code asks here what otherwise Python
asks: which options there are, whether arrays are C-contiguous and of the types that are computed in, whether they fit
together and lie apart (32 x 10 with gradient, on a Zen 4: 1.7 microseconds in place of 3.7). It only recognizes what
needs no second look, and leaves everything else, every error among it, to Python.

There is one of each function for logits that are computed in float32 and one for float64: ``dtype``, below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import carray, types

from ..task import DONE, FIXED, GRADIENTS, MISSING, NOT_PLAIN, NOT_SMALL, OPTIONS, SMALL, divided_by
from .call import (
    ARGMAX,
    CLASS_STEPS,
    CORRECT,
    ENTROPY,
    EVEN,
    FETCH,
    GENERAL,
    GRADIENT,
    GRADIENT_STEP,
    IGNORE_INDEX,
    INTEGERS,
    KIND,
    LOSS,
    LSE,
    LSE_IN,
    N_CLASSES,
    N_ROWS,
    NUMBERS,
    PARTS,
    Q_STEP,
    RANK,
    SAMPLE_WEIGHT,
    SPREAD,
    STREAM,
    TARGET_PROB,
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
    next_item,
    number,
    object_at,
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

# What is known of this process, at an address: those of Python's objects, of the names of OPTIONS and FIXED, and of
# what FIXED are; and of each type of logits that of its dtype, the bytes of an element, and the addresses of the work
# on such logits, by regime; 0 where there is none.
NDARRAY, NO_OBJECT, FLOAT, INT, INT64, ARITHMETIC, ARITHMETIC_BYTES, THE_AXIS, THE_MEAN, THE_SUM, THE_ROWS, NAMES = (
    range(12)
)
N_OPTIONS, N_NAMES = len(OPTIONS), len(OPTIONS) + len(FIXED)
THINGS = NAMES + N_NAMES
TYPES = THINGS + len(FIXED)
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
    """Of a loss, beside the logits: addresses, 0 if not there."""

    targets: int
    q: int
    weight: int
    sample_weight: int
    lse: int


_NO_INPUTS = _Inputs(0, 0, 0, 0, 0)


@inline
def _inputs(known, logits, targets, lse, options):
    """What is beside the logits, and whether it is plain."""
    weight, sample_weight = options.weight, options.sample_weight
    n_rows, dtype = length(logits, 0), known[ARITHMETIC]
    if not (
        (_is_vector(known, targets, known[INT64], n_rows) or _is_like(known, targets, logits, dtype))
        and (not _is_there(known, weight) or _is_vector(known, weight, dtype, length(logits, 1)))
        and (not _is_there(known, sample_weight) or _is_vector(known, sample_weight, dtype, n_rows))
        and (not _is_there(known, lse) or _is_vector(known, lse, dtype, n_rows))
    ):
        return _NO_INPUTS, False
    at, soft = word(targets, DATA), half_word(targets, N_DIMS) == 2
    weight, sample_weight, lse = _data(known, weight), _data(known, sample_weight), _data(known, lse)
    return _Inputs(0 if soft else at, at if soft else 0, weight, sample_weight, lse), True


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
        and (inputs.lse == 0 or _are_apart(inputs.lse, itemsize * n_rows, out, n_bytes))
    )


_IGNORE_INDEX, _AXIS = OPTIONS["ignore_index"], len(OPTIONS) + list(FIXED).index("axis")
USUAL = 1e30  # of every type, numbers below this are finite, and their inverse is not 0


class _Options(NamedTuple):
    """The options of a cross-entropy, in the order of OPTIONS."""

    weight: Any
    sample_weight: Any
    smoothing: float
    z_loss: float
    softcap: float  # 0: none
    scale: float
    ignore_index: int
    reduction: int  # THE_MEAN, THE_SUM or THE_ROWS


@inline
def _options_of(known, options):
    """What a dict of options says, and whether all are usual. (Python takes a fifth of a microsecond to find one.)"""
    weight = sample_weight = object_at(known[NO_OBJECT])
    smoothing, z_loss, softcap, scale = 0.0, 0.0, 0.0, 1.0
    ignore_index, reduction = np.int64(_IGNORE_INDEX), np.int64(THE_MEAN)
    good = True
    position, name, value = next_item(options, np.int64(0))
    while good and position >= 0:
        k = np.int64(0)  # which of OPTIONS, or of FIXED
        while k < N_NAMES and known[NAMES + k] != id_of(name):
            k += 1
        if k == 0:
            weight = value
        elif k == 1:
            sample_weight = value
        elif k == 2:
            good, smoothing = _float_of(known, value)
            good = good and 0.0 <= smoothing <= 1.0
        elif k == 3:
            good, z_loss = _float_of(known, value)
            good = good and abs(z_loss) < USUAL
        elif k == 4:
            if _is_there(known, value):
                good, softcap = _float_of(known, value)
                good = good and 1.0 / USUAL < softcap < USUAL
        elif k == 5:
            good, scale = _float_of(known, value)
            good = good and abs(scale) < USUAL
        elif k == 6:
            good = word(value, TYPE) == known[INT]
            if good:
                good, ignore_index = integer(value)
        elif k == 7:
            reduction = np.int64(THE_MEAN)
            while reduction <= THE_ROWS and known[reduction] != id_of(value):
                reduction += 1
            good = reduction <= THE_ROWS
        else:
            good = k < N_NAMES and known[THINGS + k - N_OPTIONS] == id_of(value)
            good = good or (k == _AXIS and id_of(value) == known[THE_AXIS])
        position, name, value = next_item(options, position)
    return _Options(weight, sample_weight, smoothing, z_loss, softcap, scale, ignore_index, reduction), good


@inline
def _float_of(known, value):
    """Whether that is a float, and its number."""
    good = word(value, TYPE) == known[FLOAT]
    return good, number(value) if good else 0.0


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
def _is_asked(known, rows, which):
    """Whether rows have a number like that: LOSS, or one that comes after it."""
    return _is_there(known, rows) and _is_there(known, item(rows, np.int64(which - LOSS)))


@inline
def _upstream_of(known, upstream):
    """The upstream gradient, and whether it is usual."""
    if not _is_there(known, upstream):
        return 1.0, True
    good, u = _float_of(known, upstream)
    return u, good and abs(u) < USUAL


@inline
def _begun(known, logits, targets, grad, rows, upstream, lse, options):
    """Where the type of the logits is known, 0 if something is not plain; and what else a loss takes."""
    of, (o, usual), (u, good) = _type_of(known, logits), _options_of(known, options), _upstream_of(known, upstream)
    given = _is_there(known, lse)
    if of == 0 or not usual or not good or (o.reduction == THE_ROWS and not given) != _is_asked(known, rows, LOSS):
        return 0, _NO_INPUTS, o, u
    inputs, good = _inputs(known, logits, targets, lse, o)
    good = good and (not given or _is_there(known, grad))
    if inputs.q != 0:
        for which in (CORRECT, RANK, TARGET_PROB):  # (which probabilities have not)
            good = good and not _is_asked(known, rows, which)
    if good and _is_there(known, grad):
        good = _is_place(known, of, grad, logits) and _are_inputs_apart(known, of, inputs, logits, word(grad, DATA))
    return (of if good else 0), inputs, o, u


@inline
def _needs_of(known, inputs, rows, options):
    """As ``launch.py`` says it of a task."""
    for which in (ARGMAX, CORRECT, RANK, ENTROPY):
        if _is_asked(known, rows, which):
            return GENERAL
    spread = _spread_of(inputs.q != 0, options.smoothing)
    return _needs(options.softcap, options.scale, spread, inputs.weight != 0)


@inline
def _lay_out(known, of, logits, grad, rows, inputs, options, u, call, numbers, tuning, dtype):
    """Lay out a loss in these blocks. Gives whether all targets are good, and what divides the sum of the losses.

    (Where there is no memory for these, none is good: whoever asks for it next may say so.)
    """
    n_rows, n_classes, itemsize = length(logits, 0), length(logits, 1), known[ARITHMETIC_BYTES]
    o = options
    good, sum_sw, sum_s = _sums_of_weights(inputs, n_rows, n_classes, o.ignore_index, dtype)
    if not good:
        return False, 0.0
    _fill_rows(known, of, call, logits, _data(known, grad), itemsize, tuning)
    if _is_there(known, rows):
        for which in range(np.int64(LOSS), ENTROPY + 1):
            call[which] = _data(known, item(rows, which - LOSS))
    if o.reduction != THE_ROWS and inputs.lse == 0:
        call[LOSS] = allocate(n_rows * itemsize)
        good = call[LOSS] != 0
    call[TARGETS], call[Q], call[WEIGHT], call[SAMPLE_WEIGHT], call[LSE_IN] = inputs
    call[IGNORE_INDEX] = o.ignore_index
    call[SPREAD] = _spread_of(inputs.q != 0, o.smoothing)
    if o.reduction != THE_MEAN:
        sum_sw = sum_s = 1.0
    ce_scale, zl_scale, zl_ratio, divisor = _divided_by(sum_sw, sum_s if o.z_loss != 0.0 else sum_sw, u)
    settings = o.smoothing, o.z_loss, o.softcap, o.scale, ce_scale, zl_scale, zl_ratio
    fill_numbers(call, numbers, pointer_at(0, dtype), settings)
    return good, divisor


@inline
def _ended(call, divisor, reduction, dtype):
    """What comes of a loss, all of whose rows are done."""
    losses = call[LOSS]
    if reduction == THE_ROWS or losses == 0:
        return DONE, 0.0
    total = sum_rows(_vector(losses, call[N_ROWS], dtype))
    free(losses)
    # (rounded here, where that says nothing of a number that is too large for the type)
    return DONE, np.float64(dtype(total / divisor)) if divisor != 0.0 else np.nan


_RESULT = types.Tuple((types.int64, types.float64))
_OF_TARGETS = (types.int64, *(py_object,) * 7, types.int64)
_OF_LOGITS = (types.int64, py_object, py_object, types.int64, types.int64)
_SHARES = (types.int64, types.int64)


def of_targets_in(dtype: Any) -> Callable[[], Any]:
    """Loss, and its gradient unless ``grad`` is None, on the calling thread.

    ``known`` is the address of what is KNOWN. ``rows`` are new arrays for what rows have a number of each, in the order
    of a Task, None in place of what is not asked for, or None for all; their losses if ``reduction`` is "none".
    ``upstream`` is a number or None, ``lse`` None or that of each row, if it is known and only the gradient wanted,
    ``options`` a dict, ``tuning`` IF_SMALL or that of a ``launch.Way``. Gives what came of it, and the loss that is one
    number; nothing is written unless it is DONE.
    """

    @from_objects(_RESULT(*_OF_TARGETS))
    def of_targets(known, logits, targets, grad, rows, upstream, lse, options, tuning):
        known = pointer_at(known, np.int64)
        of, inputs, o, u = _begun(known, logits, targets, grad, rows, upstream, lse, options)
        if of == 0:
            return NOT_PLAIN, 0.0
        n_rows, n_classes = length(logits, 0), length(logits, 1)
        if tuning < 0 and _size_of_work(n_rows, n_classes) >= SMALL:
            return NOT_SMALL, 0.0
        step = _regime_of(n_rows, n_classes, _needs_of(known, inputs, rows, o))
        function = known[of + WORK + step]
        if function == 0:
            return MISSING + of + WORK + step, 0.0
        call, numbers = stack(np.int64, INTEGERS), stack(np.float64, NUMBERS)
        good, divisor = _lay_out(known, of, logits, grad, rows, inputs, o, u, call, numbers, tuning, dtype)
        if not good:
            return NOT_PLAIN, 0.0
        state = release_gil()
        call_work(function, call, numbers, step, 0, n_rows)
        take_gil(state)
        return _ended(call, divisor, o.reduction, dtype)

    return of_targets


def of_targets_shared_in(dtype: Any) -> Callable[[], Any]:
    """The same by all threads, ``block`` rows (chunks, if ``step`` is LOOK) at a time."""

    @from_objects(_RESULT(*_OF_TARGETS, *_SHARES))
    def of_targets_shared(known, logits, targets, grad, rows, upstream, lse, options, tuning, step, block):
        known = pointer_at(known, np.int64)
        of, inputs, o, u = _begun(known, logits, targets, grad, rows, upstream, lse, options)
        if of == 0:
            return NOT_PLAIN, 0.0
        n_rows, n_classes, function = length(logits, 0), length(logits, 1), known[of + WORK + step]
        if function == 0:
            return MISSING + of + WORK + step, 0.0
        call, numbers = blocks_of(n_rows, n_classes, step)
        good, divisor = _lay_out(known, of, logits, grad, rows, inputs, o, u, call, numbers, tuning, dtype)
        if not good:
            return NOT_PLAIN, 0.0
        state = release_gil()
        share(function, call, numbers, step, block)
        take_gil(state)
        return _ended(call, divisor, o.reduction, dtype)

    return of_targets_shared


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
