"""A call as the kernels see it: two blocks of memory, one of integers (pointers, strides, flags) and one of numbers.

A block costs one pointer to hand on. As arguments, or as a tuple, its fields would be copied at every step from row to
row, and compiled again in every function they pass through (that tripled the time to compile).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..formats import LOG2E, LOG2E_REST
from .compile import inline
from .maths import Powers, powers_of
from .pointers import address_of, advance, arithmetic_at, load_one, pointer, pointer_at, store_one
from .simd import NATIVE, WIDE, fma, rounded, zeros

# Integers. Pointers are 0 where something is not there. Steps are bytes from row to row; where no single step describes
# the rows, OFFSETS points to their distances from the first one: all of x, of the gradient, of q, and of the Hessian.
# In the same order, CLASS_STEPS are bytes from class to class: the size of an element for all but ``narrow.py``.
# KIND is one of those of ``task.py``.
(
    N_ROWS, N_CLASSES, X, X_STEP, GRADIENT, GRADIENT_STEP, Q, Q_STEP, HESS, HESS_STEP, OFFSETS,
    TARGETS, IGNORE_INDEX, WEIGHT, SAMPLE_WEIGHT, UPSTREAM, LSE_IN,
    LOSS, LSE, ARGMAX, CORRECT, RANK, TARGET_PROB, ENTROPY,
    KIND, SPREAD, STREAM, FETCH, PARTS, PLANS, ROOM, HI_LO, CLASS_STEPS, _, _, _,
    INTEGERS,
) = range(37)  # fmt: skip

# Numbers. HI_LO points to the first two, in the arithmetic type, one behind the other: what all loops start from (for a
# group of rows of two classes, a conversion or a constant that takes a turn between registers is felt).
(
    _, _, UNIT, SIGN, ORDER, SOFTCAP, INNER, SLOPE, KEEP, SHARE, Z_LOSS, CE_SCALE, ZL_SCALE, ZL_RATIO,
    NUMBERS,
) = range(15)  # fmt: skip

# SPREAD: how much of the target lies on every class, apart from the target class itself.
NONE, SMOOTHED, PROBABILITIES = 0, 1, 2

# What the classes of a row need beside their powers: anything; nothing, but for a number that is the same for all; or
# their probability targets. The short loops do for the last two.
GENERAL, EVEN, SOFT = 0, 1, 2

# Whether there is machine code for gradients that go past the caches. With AVX2 it gains nothing (see ``launch.py``),
# and takes a sixth of the time to compile.
STREAMS = NATIVE == WIDE

NO_TARGET = -1  # the position of the target in a row that has none, or a probability target


class Options(NamedTuple):
    """What a loop needs of the options. ``v`` is a logit as loaded, or ``tanh(inner * logit)`` with a softcap."""

    hi: float  # log2(e) * unit in two parts: the nearest number of the arithmetic type, and what that leaves over
    lo: float
    unit: float  # z = unit * v: the logit scale, or the softcap
    sign: float  # of unit: sign * v orders the classes
    order: float  # of the logit scale: order * x does, exactly
    capped: bool
    inner: float  # logit scale / softcap
    slope: float  # dz/dx, apart from the softcap's share
    spread: int  # NONE, SMOOTHED or PROBABILITIES
    weighted: bool
    keep: float  # 1 - label smoothing
    share: float  # label smoothing / classes
    powers: Powers  # hi and lo again, with what else powers of v take
    even: bool  # what the classes of the rows need is EVEN
    soft: bool  # or SOFT


def needs(softcap: float, scale: float, spread: int, weighted: bool) -> int:
    """GENERAL, EVEN or SOFT: more than GENERAL is no softcap, a scale above 0, and no weights of what is spread.

    (A scale above 1e-33, in fact: then the logits whose powers are 0, but for -inf, are numbers of any type.)
    """
    if softcap != 0.0 or scale <= 1e-33 or (weighted and spread != NONE):
        return GENERAL
    return SOFT if spread == PROBABILITIES else EVEN


def spread_of(soft: bool, smoothing: float) -> int:
    """SPREAD of targets that are probabilities, if ``soft``, or classes."""
    return PROBABILITIES if soft else SMOOTHED if smoothing > 0.0 else NONE


_needs, _spread_of = inline(needs), inline(spread_of)


@inline
def options_of(call, numbers, x):
    """Read the options of a call on logits ``x``. What a function does not use is not read."""
    weighted, spread = call[WEIGHT] != 0, call[SPREAD]
    kind = _needs(numbers[SOFTCAP], numbers[UNIT], spread, weighted)
    hi, lo = (
        np.float64(load_one(arithmetic_at(call[HI_LO], x), 0)),
        np.float64(load_one(arithmetic_at(call[HI_LO], x), 1)),
    )
    return Options(
        hi,
        lo,
        numbers[UNIT],
        numbers[SIGN],
        numbers[ORDER],
        numbers[SOFTCAP] > 0.0,
        numbers[INNER],
        numbers[SLOPE],
        spread,
        weighted,
        numbers[KEEP],
        numbers[SHARE],
        powers_of(zeros(x), hi, lo),
        kind == EVEN,
        kind == SOFT,
    )


@inline
def _address(array):
    return address_of(array) if array.size > 0 else 0


@inline
def fill_blocks(
    call, numbers, x, g, q, h, steps, class_steps, offsets, targets, ignore_index, weight, rows_in, rows_out,
    classes_out, settings, kind, tuning
):  # fmt: skip
    """Write the blocks from the arrays and numbers of ``launch.py``; an array without elements is not there."""
    n_rows, n_classes = steps[0], x.shape[1]
    call[N_ROWS], call[N_CLASSES] = n_rows, n_classes
    call[X], call[GRADIENT], call[Q] = address_of(x), _address(g), _address(q)
    call[HESS] = _address(h)
    call[X_STEP], call[GRADIENT_STEP], call[Q_STEP], call[HESS_STEP] = steps[1], steps[2], steps[3], steps[4]
    for which in range(4):
        call[CLASS_STEPS + which] = class_steps[which]
    call[OFFSETS], call[TARGETS], call[WEIGHT] = _address(offsets), _address(targets), _address(weight)
    call[IGNORE_INDEX] = ignore_index
    call[SAMPLE_WEIGHT], call[UPSTREAM], call[LSE_IN] = _address(rows_in[0]), _address(rows_in[1]), _address(rows_in[2])
    call[LOSS], call[LSE] = _address(rows_out[0]), _address(rows_out[1])
    call[TARGET_PROB], call[ENTROPY] = _address(rows_out[2]), _address(rows_out[3])
    call[ARGMAX], call[RANK] = _address(classes_out[0]), _address(classes_out[1])
    call[CORRECT] = _address(classes_out[2])
    call[KIND], call[STREAM], call[FETCH] = kind, tuning[0], tuning[1]
    call[SPREAD] = _spread_of(q.size > 0, settings[0])
    fill_numbers(call, numbers, pointer(x), settings)


@inline
def fill_numbers(call, numbers, x, settings):
    """Write the numbers of a call, whose integers are written; pointer ``x`` says in which type is computed."""
    smoothing, z_loss, softcap, logit_scale, ce_scale, zl_scale, zl_ratio = settings
    unit = softcap if softcap > 0.0 else logit_scale
    hi = rounded(x, unit * LOG2E)
    call[HI_LO] = address_of(numbers)
    hi_lo = arithmetic_at(call[HI_LO], x)
    store_one(hi_lo, 0, hi)
    store_one(hi_lo, 1, rounded(x, fma(unit, LOG2E, -np.float64(hi)) + unit * LOG2E_REST))
    numbers[UNIT], numbers[SIGN] = unit, np.sign(unit)
    numbers[SLOPE], numbers[ORDER] = logit_scale, np.sign(logit_scale)
    numbers[SOFTCAP], numbers[INNER] = softcap, logit_scale / softcap if softcap > 0.0 else 0.0
    numbers[KEEP], numbers[SHARE] = 1.0 - smoothing, smoothing / call[N_CLASSES]
    numbers[Z_LOSS], numbers[CE_SCALE], numbers[ZL_SCALE] = z_loss, ce_scale, zl_scale
    numbers[ZL_RATIO] = zl_ratio


@inline
def is_streamed(call):
    """Whether the gradient goes past the caches."""
    return STREAMS and call[STREAM] != 0


@inline
def row_start(call, base, which, step, i):
    """Pointer to row ``i`` of x (``which`` 0), the gradient (1), q (2) or the Hessian (3), if that is there."""
    if call[OFFSETS] != 0:
        return advance(base, pointer_at(call[OFFSETS], np.int64)[which * call[N_ROWS] + i])
    return advance(base, i * call[step])


@inline
def target_of(call, i):
    """The row's target, or ``NO_TARGET``; and whether the row is ignored."""
    if call[TARGETS] == 0:
        return NO_TARGET, False
    y = pointer_at(call[TARGETS], np.int64)[i]
    return y, y == call[IGNORE_INDEX]
