"""The ends of rows: losses, what else a row has one of, and the plan of its gradient; row r in lane r of the table."""

from __future__ import annotations

import numpy as np

from ..formats import LN2, LOG2E, LOG2E_REST
from ..task import GRADIENTS, LOG_SOFTMAX
from .call import (
    ARGMAX,
    CE_SCALE,
    CORRECT,
    ENTROPY,
    GRADIENT,
    HESS,
    IGNORE_INDEX,
    KIND,
    LOSS,
    LSE,
    LSE_IN,
    NONE,
    RANK,
    SAMPLE_WEIGHT,
    TARGET_PROB,
    TARGETS,
    UPSTREAM,
    Z_LOSS,
    ZL_RATIO,
    ZL_SCALE,
    options_of,
    target_of,
)
from .compile import device, inline
from .element import times
from .maths import Powers, coarse, constants, log, log1p, power, power_parts, powers_of
from .pointers import arithmetic_at, float64_at, load, load_float64, load_part, pointer_at, store, store_part
from .simd import absolute, apart, count_true, fma, iota, lanes, lanes_of, narrow, where, widen, zeros
from .table import (
    AT_TARGET,
    BASE,
    BEND,
    BEND_AT_TARGET,
    BEND_AT_TOP,
    DISTANCE,
    FACTOR,
    INVERSE,
    INVERSE_LEFT,
    LEFT,
    LINEAR,
    POWER,
    REST,
    SCALE,
    SHARE_Y,
    SPREAD,
    SQUARE,
    TARGET,
    TIES,
    TOP,
    WEIGHT_Y,
)
from .transposed import to_lanes


@inline
def _of_rows(call, field, x, first, n):
    """An optional number a row, in the lanes; 1 where there is none."""
    return load_part(arithmetic_at(call[field], x), first, n) if call[field] != 0 else zeros(x) + 1.0


@inline
def _write(call, field, x, first, n, ignored, v):
    """An output with one number a row, if it is wanted."""
    if call[field] != 0:
        store_part(arithmetic_at(call[field], x), first, n, where(ignored, 0.0, v))


@inline
def asks_for_classes(call):
    """Whether an output is about classes."""
    return call[ARGMAX] + call[CORRECT] + call[RANK] != 0


@inline
def write_about_classes(call, i, winner, above):
    """The outputs of row ``i`` that are about classes: whole numbers, which may be larger than a lane holds."""
    y, ignored = target_of(call, i)
    if call[ARGMAX] != 0:
        pointer_at(call[ARGMAX], np.int64)[i] = np.int64(-1) if ignored else np.int64(winner)
    if call[CORRECT] != 0:
        pointer_at(call[CORRECT], np.uint8)[i] = np.uint8(not ignored and winner == y)
    if call[RANK] != 0:
        pointer_at(call[RANK], np.int64)[i] = np.int64(0) if ignored else np.int64(above)


@inline
def _power64(v, o, magic):
    """``2**(...)`` of one v a lane, in float64: not rounded to the arithmetic type yet."""
    c = constants(v)  # (its constants as they are: held in registers, for two powers, they would cost more than these)
    t, scale, r = power_parts(v, Powers(o.hi, o.lo, c.ln2, c.exp2, c.exp2), magic, 0.0)
    gone = t < c.some
    scale, r = widen(where(gone, 0.0, scale)), widen(where(gone, 0.0, r))
    return fma(scale, r, scale)


@inline
def _nll(others, e_y, v_y, k, total, o):
    """``L - z_y``."""
    c = constants(v_y)
    if count_true(others != 0.0) == 0:
        return others  # (one class, among others, which would otherwise cost twice as much an element as two)
    near = e_y > c.tiny
    nll = log1p(others / e_y)
    if count_true(near) == lanes_of(v_y):
        return nll
    # Where the target's power is 0, from the exponents, whose difference is exact.
    minus_n = c.zero - fma(v_y, o.hi, c.zero)
    f = fma(v_y, o.lo, fma(v_y, o.hi, minus_n))
    far = fma((k + minus_n) - f, LN2, log(total))
    # Beyond what the exponents can hold, -inf too, the target's own logit is all that counts.
    far = where(absolute(v_y) * abs(o.hi) > c.limit, k * LN2 - v_y * o.unit, far)
    return where(near, nll, far)


@inline
def _put_factor(x, table, field, left_field, exact):
    """What powers are multiplied by, in two parts: times the first, the scale of a power is a number of its type."""
    factor = coarse(narrow(x, exact))
    left = narrow(x, exact - widen(factor)) / factor
    store(table, field * lanes(x), factor)
    store(table, left_field * lanes(x), where(left == left, left, 0.0))


@device
def finish(call, numbers, x, first, n, table):
    """Write all of rows ``first`` to ``first + n`` but their gradients, and plan these."""
    apart()
    o, width, zero = options_of(call, numbers, x), lanes(x), zeros(x)
    ignored = zero != zero
    if call[TARGETS] != 0:
        ignored = to_lanes(x, pointer_at(call[TARGETS], np.int64), first, n) == call[IGNORE_INDEX]
    if count_true(ignored & (iota(zero) < n)) == n:  # (65,536 rows of 10 classes, all of them ignored: .6 of the time)
        for field in (LOSS, LSE, TARGET_PROB, ENTROPY):
            _write(call, field, x, first, n, ignored, zero)
        return

    c, z_loss = constants(zero), numbers[Z_LOSS]
    top, k, base = load(table, TOP * width), load(table, POWER * width), load(table, BASE * width)
    ties, rest = load(table, TIES * width), load_float64(x, float64_at(table, REST * width))
    v_y, spread = load(table, TARGET * width), load(table, SPREAD * width)
    magic = c.one - k

    # Sums of powers, in float64: of all, and of all but the target, in which nothing is rounded away.
    e_top = _power64(top * o.sign - base, o, magic)
    total = widen(ties) * e_top + rest
    e_y, e_y64, others, w_y = zero, e_top, total, zero
    if call[TARGETS] != 0:
        e_y64 = _power64(v_y - base, o, magic)
        others = where(v_y == top * o.sign, (widen(ties) - 1.0) * e_top + rest, total - e_y64)
        w_y = load(table, WEIGHT_Y * width)
        e_y = narrow(x, e_y64)
    proper = total > 0.0  # neither NaN nor all -inf
    nan = where(proper, zero, np.nan)
    on_target = w_y * o.keep

    lse = widen(zero)
    if call[LSE] + call[LSE_IN] != 0 or z_loss != 0.0:
        lse = fma(widen(k), LN2, log(total)) + widen(base) * o.unit
    log_top = zero  # L less the largest z
    if o.spread != NONE or call[ENTROPY] != 0 or call[KIND] == LOG_SOFTMAX:
        log_top = log1p((ties - 1.0) + narrow(x, rest / e_top))
    sample = _of_rows(call, SAMPLE_WEIGHT, x, first, n)
    if call[LOSS] != 0:
        loss = times(on_target, _nll(narrow(x, others), e_y, v_y - base, k, narrow(x, total), o))
        if o.spread != NONE:
            loss = loss + times(spread, log_top) - load(table, LINEAR * width) * abs(o.unit)
        if z_loss != 0.0:
            loss = loss + narrow(x, lse * lse * (z_loss * numbers[ZL_RATIO]))
        _write(call, LOSS, x, first, n, ignored, loss * sample + nan)
    if call[LSE] != 0:
        improper = where(total == 0.0, zero - np.inf, where(top == np.inf, top, np.nan))
        _write(call, LSE, x, first, n, ignored, where(proper, narrow(x, lse), improper))
    _write(call, TARGET_PROB, x, first, n, ignored, narrow(x, e_y64 / total) + nan)
    if call[ENTROPY] != 0:
        distance = load(table, DISTANCE * width) / narrow(x, total)
        _write(call, ENTROPY, x, first, n, ignored, log_top + distance * abs(o.unit) + nan)
    if call[GRADIENT] == 0:
        return

    if call[KIND] == LOG_SOFTMAX:
        store(table, FACTOR * width, log_top + nan)
        return
    inverse = 1.0 / total
    p_y, p_others = where(e_y64 == total, 1.0, e_y64 * inverse), others * inverse  # (one class: exactly 1)
    if call[LSE_IN] != 0:
        # An lse of more classes than these (a part of a vocabulary) makes their probabilities smaller. One that is the
        # row's own, up to its rounding, is not as exact as what was found here.
        given = widen(load_part(arithmetic_at(call[LSE_IN], x), first, n))
        one = constants(given).one
        apart_from_base = given - widen(base) * o.unit - widen(k) * LN2
        apart_from_base = where(apart_from_base > 600.0, 600.0, apart_from_base)  # whose power is all but infinite
        own = absolute(given - lse) <= (absolute(lse) + 1.0) * c.unit
        inverse = where(own, inverse, 1.0 / power(apart_from_base, powers_of(given, LOG2E, LOG2E_REST), one)[1])
        p_y = e_y64 * inverse
        p_others = where(own, p_others, 1.0 - p_y)
        lse = where(own, lse, given)
    options = call[SAMPLE_WEIGHT] + call[UPSTREAM] + call[HESS] != 0 or o.weighted or o.spread != NONE or z_loss != 0.0
    row, even, hit = widen(zero), widen(zero), widen(zero)
    if not options and call[KIND] == GRADIENTS and call[TARGETS] != 0:
        gain = o.slope * numbers[CE_SCALE]
        exact, at_target = gain * inverse, 0.0 - gain * p_others
    else:
        row = widen(sample * _of_rows(call, UPSTREAM, x, first, n)) * o.slope
        scale = row * numbers[CE_SCALE]
        even = scale * widen(spread)
        if z_loss != 0.0:
            even = even + row * (numbers[ZL_SCALE] * 2.0 * z_loss) * lse
        hit = scale * widen(on_target)
        exact = (hit + even if call[KIND] == GRADIENTS else widen(zero) + 1.0) * inverse
        # p_y - 1 as -(sum of the others) / sum: exact for the most confident row
        at_target = even * p_y - hit * p_others - scale * widen(load(table, SHARE_Y * width))
        store(table, SCALE * width, narrow(x, scale))
    exact = exact + widen(nan)
    _put_factor(x, table, FACTOR, LEFT, exact)
    if o.capped:
        at_target = at_target * (1.0 - widen(v_y) * widen(v_y))
    store(table, AT_TARGET * width, narrow(x, at_target) + nan)
    if call[HESS] == 0:
        return

    bend, square = (hit + even) * o.slope, row * (numbers[ZL_SCALE] * 2.0 * z_loss * o.slope)
    # (as above: 1 - p of the largest and of the target as what the others add up to)
    p_top, beside_top = where(e_top == total, 1.0, e_top * inverse), ((widen(ties) - 1.0) * e_top + rest) * inverse
    at_top = p_top * (beside_top * bend + p_top * square)
    bend_y = p_y * (p_others * bend + p_y * square)
    if o.capped:
        v = widen(v_y)
        capped = 1.0 - v * v
        bend_y = bend_y * (capped * capped) - 2.0 * o.inner * v * at_target
    _put_factor(x, table, INVERSE, INVERSE_LEFT, inverse)
    store(table, BEND * width, narrow(x, bend))
    store(table, SQUARE * width, narrow(x, square))
    store(table, BEND_AT_TOP * width, narrow(x, at_top))
    store(table, BEND_AT_TARGET * width, narrow(x, bend_y))
