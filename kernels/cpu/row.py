"""A row's loss and the plan of its gradient, from what ``stats.py`` found."""

from __future__ import annotations

import math

import numpy as np

from . import extras
from .call import (
    ARGMAX,
    CE_SCALE,
    CORRECT,
    ENTROPY,
    GRADIENT,
    GRADIENT_STEP,
    GRADIENTS,
    KEEP_POWERS,
    KIND,
    LOG_SOFTMAX,
    LOSS,
    LSE,
    LSE_IN,
    N_CLASSES,
    N_ROWS,
    NEXT_ROW,
    NO_TARGET,
    NONE,
    Q_STEP,
    RANK,
    SAMPLE_WEIGHT,
    TARGET_PROB,
    UPSTREAM,
    X_STEP,
    Z_LOSS,
    ZL_RATIO,
    ZL_SCALE,
    options_of,
    row_number,
    row_start,
    target_of,
)
from .compile import device, inline
from .element import spread_weights, value
from .gradient import Plan, fill, write_chunk
from .maths import LN2, constants, power
from .simd import apart, arithmetic_at, extract, load_one, pointer_at, rounded, shift_buffer, zeros
from .stats import CHUNK, EMPTY, row_stats

DOMINATED = 1.0 + 1e-3  # total / largest power: below this, log(total / largest) is taken from the sum of the others
LARGE_RATIO = 1e300  # others / target beyond this would overflow


@inline
def _write(call, field, x, i, number):
    """Number ``i`` of an output with one a row, if it is wanted."""
    if call[field] != 0:
        arithmetic_at(call[field], x)[i] = number


@inline
def write_classes(call, i, winner, correct, above):
    """The outputs that are about classes, of those that are wanted."""
    if call[ARGMAX] != 0:
        pointer_at(call[ARGMAX], np.int64)[i] = winner
    if call[CORRECT] != 0:
        pointer_at(call[CORRECT], np.uint8)[i] = np.uint8(correct)
    if call[RANK] != 0:
        pointer_at(call[RANK], np.int64)[i] = above


@inline
def skip_row(call, i, x):
    """An ignored row: everything is 0, and nothing of the row is looked at."""
    _write(call, LOSS, x, i, 0.0)
    _write(call, LSE, x, i, 0.0)
    _write(call, TARGET_PROB, x, i, 0.0)
    _write(call, ENTROPY, x, i, 0.0)
    write_classes(call, i, -1, False, 0)


@inline
def _power_at(v, o, k):
    """``2**(z * log2(e) - K)`` as the loops compute it, of one v (lane 0)."""
    return np.float64(extract(power(v, o.hi, o.lo, constants(v).one - k)[1], 0))


@device
def finish_row(call, numbers, i, x, g, q, weight, y, x_y, found):
    """Write everything of row ``i`` but its gradient, and plan that. ``x_y`` is the target's logit."""
    apart()
    o, n, base = options_of(call, numbers), call[N_CLASSES], found.base
    k = found.power if found.power > EMPTY else 0.0
    e_y, w_y, z_y = 0.0, 0.0, 0.0
    if y != NO_TARGET:
        v = value(zeros(x) + x_y, o, base)
        e_y, z_y = _power_at(v, o, k), o.unit * np.float64(extract(v, 0))
        w_y = np.float64(load_one(weight, y)) if o.weighted else 1.0
    total = found.others + e_y
    proper = total > 0.0  # neither NaN nor all -inf

    z_loss = numbers[Z_LOSS]
    near = e_y > 0.0 and found.others < LARGE_RATIO * e_y  # the loss follows from the ratio of the two
    log_total = np.nan  # L, less the base
    if proper and (call[LSE] != 0 or z_loss != 0.0 or not near):
        log_total = k * LN2 + math.log(total)
    lse = log_total + base * o.unit
    if call[LSE] != 0:
        limit = -np.inf if total == 0.0 else (np.nan if extras.has_nan(x, n, o.unit) else np.inf)
        _write(call, LSE, x, i, lse if proper else limit)

    log_top, top = np.nan, 0.0  # L less the largest z
    if (o.spread != NONE or call[ENTROPY] != 0 or call[KIND] == LOG_SOFTMAX) and proper:
        top = found.top - base * o.sign
        e_top = _power_at(zeros(x) + top * o.sign if o.sign != 0.0 else zeros(x), o, k)
        if total / e_top > DOMINATED:
            log_top = math.log(total / e_top)
        else:
            winner, unkept = extras.argmax(x, n, o.order), shift_buffer()
            unkept[0] = 0.0
            again = row_stats(call, numbers, x, g, q, weight, winner, unkept)
            log_top = math.log1p(again.others / e_top)

    on_target = o.keep * w_y
    if call[LOSS] != 0:
        loss = 0.0
        if on_target != 0.0:
            loss = on_target * (math.log1p(found.others / e_y) if near else log_total - z_y)
        if o.spread != NONE:
            loss += found.spread * log_top - abs(o.unit) * found.linear
        if z_loss != 0.0:
            loss += numbers[ZL_RATIO] * z_loss * lse * lse
        loss *= row_number(call, SAMPLE_WEIGHT, x, i, 1.0)
        _write(call, LOSS, x, i, loss if proper else np.nan)
    if call[ARGMAX] != 0 or call[CORRECT] != 0 or call[RANK] != 0:
        winner = extras.argmax(x, n, o.order)
        write_classes(call, i, winner, winner == y, extras.rank(x, n, y, o.order) if call[RANK] != 0 else 0)
    _write(call, TARGET_PROB, x, i, e_y / total if proper else np.nan)
    if call[ENTROPY] != 0:
        distance = extras.mean_distance(call, numbers, x, n, base, k, top) * abs(o.unit)
        _write(call, ENTROPY, x, i, log_top + distance / total if proper else np.nan)

    if call[KIND] == LOG_SOFTMAX:
        return Plan(0.0, base + top, log_top, 0.0, 0.0, 0.0)
    if call[LSE_IN] != 0:
        lse = row_number(call, LSE_IN, x, i, 0.0)
        total = math.exp(lse - base * o.unit - k * LN2)
    row = o.slope * row_number(call, SAMPLE_WEIGHT, x, i, 1.0) * row_number(call, UPSTREAM, x, i, 1.0)
    scale = row * numbers[CE_SCALE]
    even = scale * found.spread
    if z_loss != 0.0:
        even += row * numbers[ZL_SCALE] * 2.0 * z_loss * lse
    exact = (scale * on_target + even if call[KIND] == GRADIENTS else 1.0) / total if proper else np.nan
    factor = np.float64(rounded(x, exact))
    rest = (exact - factor) / factor if factor != 0.0 and abs(factor) < np.inf else 0.0
    at_target = 0.0
    if y != NO_TARGET:
        # p_y - 1 as -(sum of the others) / sum: exact for the most confident row
        at_target = even * (e_y / total) - scale * on_target * (found.others / total)
        if o.spread != NONE:
            at_target -= scale * np.float64(extract(spread_weights(x, weight, q, y, 1, o), 0))
        if o.softcap > 0:
            t = (z_y + base * o.unit) / o.softcap
            at_target *= 1.0 - t * t
    return Plan(k, base, factor, rest, scale, at_target)


@inline
def run_rows(call, numbers, x0, g0, q0, weight, begin, end):
    """Rows ``begin`` to ``end``: look, finish, look again and write the gradient."""
    shifts = shift_buffer()
    shifts[0] = float(call[KEEP_POWERS])
    for i in range(begin, end):
        x, g, q = (
            row_start(call, x0, 0, X_STEP, i),
            row_start(call, g0, 1, GRADIENT_STEP, i),
            row_start(call, q0, 2, Q_STEP, i),
        )
        y, ignored = target_of(call, i)
        if ignored:
            skip_row(call, i, x)
            if call[GRADIENT] != 0:
                fill(g, call[N_CLASSES], 0.0)
            continue
        x_y = load_one(x, max(y, 0))  # before powers may be written over it
        found = row_stats(call, numbers, x, g, q, weight, y, shifts)
        plan = finish_row(call, numbers, i, x, g, q, weight, y, x_y, found)
        if call[GRADIENT] != 0:
            ahead = call[NEXT_ROW] if i + 1 < call[N_ROWS] else 0
            for c in range(0, call[N_CLASSES], CHUNK):
                k = 1 + c // CHUNK * 2 if call[KEEP_POWERS] != 0 else 0
                write_chunk(call, numbers, x, g, q, weight, y, plan, c, ahead, shifts[k], shifts[k + 1])
