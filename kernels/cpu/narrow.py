"""Kernels for few classes: as many rows at a time as a vector has lanes, row r in lane r.

A row of ten numbers cannot fill a vector, and sums across lanes cost more than the ten exponentials. So rows are
transposed on the way in and on the way out, in registers; in between, every step (the logarithm too) serves all rows
of the group at once. A group's logits and powers stay in buffers on the stack, so that exp is computed once.
"""

from __future__ import annotations

import numpy as np

from .call import (
    ARGMAX,
    CE_SCALE,
    CORRECT,
    ENTROPY,
    GRADIENT,
    GRADIENT_STEP,
    GRADIENTS,
    IGNORE_INDEX,
    KIND,
    LOG_SOFTMAX,
    LOSS,
    LSE,
    LSE_IN,
    N_CLASSES,
    N_ROWS,
    NONE,
    OFFSETS,
    PROBABILITIES,
    Q_STEP,
    RANK,
    SAMPLE_WEIGHT,
    TARGET_PROB,
    TARGETS,
    UPSTREAM,
    X_STEP,
    Z_LOSS,
    ZL_RATIO,
    ZL_SCALE,
    options_of,
)
from .compile import device, inline
from .element import times, value
from .maths import LN2, LOG2E, LOG2E_REST, constants, log, log1p, power, power_parts
from .row import write_classes
from .simd import (
    absolute,
    advance,
    apart,
    arithmetic_at,
    extract,
    fma,
    iota,
    lane_buffer,
    lane_offsets,
    lanes,
    load,
    load_lanes,
    load_one,
    load_part,
    narrow,
    pointer_at,
    shortened,
    store,
    store_lanes,
    store_one,
    store_part,
    to_lanes,
    where,
    widen,
    zeros,
)

MAX_CLASSES = 256  # what the buffers hold; where this regime ends: see kernels.py
PARTIAL = 16  # terms summed before the sum is added to the sum of such sums


@inline
def _row_offsets(offsets, call, which, step, first, n, width):
    """Bytes from the first row to the row of each lane; lanes without a row of their own repeat the last one."""
    for r in range(width):
        i = first + min(r, n - 1)
        if call[OFFSETS] != 0:
            offsets[r] = pointer_at(call[OFFSETS], np.int64)[which * call[N_ROWS] + i]
        else:
            offsets[r] = i * call[step]


@inline
def _winners(x, logits, n_classes, sign):
    """Of each lane the first class with the largest ``sign * x`` (of NaN the first), as floats."""
    best = load(logits, 0) * sign
    winner = zeros(x)
    for j in range(1, n_classes):
        v = load(logits, j * lanes(x)) * sign
        better = (best == best) & ((v > best) | (v != v))
        best, winner = where(better, v, best), where(better, np.float64(j), winner)
    return winner


@inline
def _ranks(x, logits, n_classes, column, sign):
    """How many classes of each lane have a larger ``sign * x`` than class ``column``, as floats."""
    at_target = zeros(x)
    for j in range(n_classes):
        at_target = where(column == j, load(logits, j * lanes(x)) * sign, at_target)
    above = zeros(x)
    for j in range(n_classes):
        above = where(load(logits, j * lanes(x)) * sign > at_target, above + 1.0, above)
    return above


@inline
def _classes_of_rows(call, first, n, x, logits, n_classes, column, ignored, sign):
    """The outputs that are about classes."""
    winner = _winners(x, logits, n_classes, sign)
    above = _ranks(x, logits, n_classes, column, sign) if call[RANK] != 0 else winner
    for r in range(n):
        if extract(ignored, r):
            write_classes(call, first + r, -1, False, 0)
        else:
            j = np.int64(extract(winner, r))
            write_classes(call, first + r, j, j == extract(column, r), np.int64(extract(above, r)))


@inline
def _load_group(x, base, offsets, n_classes, buffer):
    """A row a lane, transposed: class j of all rows is vector j of the buffer."""
    for j in range(0, n_classes, lanes(x)):
        load_lanes(base, offsets, j, min(n_classes - j, lanes(x)), buffer)


@inline
def _store_group(x, base, offsets, n, n_classes, buffer):
    """The way back, of the first ``n`` rows."""
    width = lanes(x)
    if n == width:
        for j in range(0, n_classes, width):
            store_lanes(base, offsets, j, min(n_classes - j, width), buffer)
        return
    for r in range(n):
        for j in range(n_classes):
            store_one(advance(base, offsets[r]), j, buffer[j * width + r])


@inline
def _of_rows(call, field, x, first, n):
    """An optional number a row, in the lanes; 1 where there is none."""
    return load_part(arithmetic_at(call[field], x), first, n) if call[field] != 0 else zeros(x) + 1.0


@inline
def _write_rows(call, field, x, first, n, ignored, v):
    """An output with one number a row, if it is wanted."""
    if call[field] != 0:
        store_part(arithmetic_at(call[field], x), first, n, where(ignored, 0.0, v))


@inline
def _share(o, x, q, weight, j):
    """The spread weight of class ``j`` in every lane."""
    share = zeros(x) + o.share
    if o.spread == PROBABILITIES:
        share = fma(load(q, j * lanes(x)), o.keep, share)
    return share * load_one(weight, j) if o.weighted else share


@inline
def _nll(others, e_y, v_y, k, total, o):
    """``L - z_y``. Where the target's power is 0, from the exponents, whose difference is exact."""
    c = constants(v_y)
    minus_n = c.zero - fma(v_y, o.hi, c.zero)
    f = fma(v_y, o.lo, fma(v_y, o.hi, minus_n))
    far = fma((k + minus_n) - f, LN2, log(total))
    # Beyond what the exponents can hold, -inf too, the target's own logit is all that counts.
    far = where(absolute(v_y) > c.limit, k * LN2 - v_y * o.unit, far)
    return where(e_y > c.tiny, log1p(others / e_y), far)


@inline
def _infinite_or_nan(x, logits, n_classes, unit):
    """NaN in the lanes where a class is NaN, infinity in the others."""
    result = zeros(x) + np.inf
    for j in range(n_classes):
        v = load(logits, j * lanes(x)) * unit
        result = where(v == v, result, v)
    return result


@device
def run_groups(call, numbers, x, g, q0, weight, begin, end):
    """Rows ``begin`` to ``end``, a group at a time."""
    apart()
    o, n_classes, width = options_of(call, numbers), call[N_CLASSES], lanes(x)
    z_loss, ce_scale = numbers[Z_LOSS], numbers[CE_SCALE]
    wants_top = o.spread != NONE or call[ENTROPY] != 0 or call[KIND] == LOG_SOFTMAX
    offsets = lane_offsets()
    logits, scales, rests, q = lane_buffer(x, 256), lane_buffer(x, 256), lane_buffer(x, 256), lane_buffer(x, 256)
    c, zero = constants(zeros(x)), zeros(x)
    for first in range(begin, end, width):
        n = min(width, end - first)

        # The logits, and what is asked of them as they are.
        _row_offsets(offsets, call, 0, X_STEP, first, n, width)
        _load_group(x, x, offsets, n_classes, logits)
        column = iota(zero) * 0 - 1
        ignored = column == 0
        if call[TARGETS] != 0:
            target = to_lanes(x, pointer_at(call[TARGETS], np.int64), first, n)
            ignored = target == call[IGNORE_INDEX]
            column = where(ignored, column, shortened(zero, target))
        elif n_classes == 1 and call[KIND] == GRADIENTS:
            column = column + 1  # so that its gradient is exactly 0, like that of a target
        if call[ARGMAX] != 0 or call[CORRECT] != 0 or call[RANK] != 0:
            _classes_of_rows(call, first, n, x, logits, n_classes, column, ignored, o.order)
        if o.spread == PROBABILITIES:
            _row_offsets(offsets, call, 2, Q_STEP, first, n, width)
            _load_group(x, q0, offsets, n_classes, q)

        # The shift: see maths.py. Lanes with huge logits take their largest away first.
        top = zero - np.inf
        for j in range(n_classes):
            v = value(load(logits, j * width), o, 0.0)
            if o.softcap > 0:
                store(logits, j * width, v)
            top = where(v * o.sign > top, v * o.sign, top)
        k = fma(top, abs(o.hi), c.zero) - c.zero
        huge = absolute(k) > c.limit
        base = where(huge & (absolute(top) < np.inf), top * o.sign, 0.0)
        k = where(huge | (k != k), 0.0, k)
        magic = c.one - k
        top = top - base * o.sign

        # Powers and sums.
        others, e_y, v_y, w_y, c_y = zero, zero, zero, zero, zero
        others_top, e_top, linear, spread, distance = zero, zero, zero, zero, zero
        untaken = zero == 0.0
        for start in range(0, n_classes, PARTIAL):
            s, s_top, s_linear, s_spread, s_distance = zero, zero, zero, zero, zero
            for j in range(start, min(n_classes, start + PARTIAL)):
                v = load(logits, j * width) - base
                t, scale, r = power_parts(v, o.hi, o.lo, magic, 0.0)
                gone = t <= c.zero
                scale, r = where(gone, 0.0, scale), where(gone, 0.0, r)
                store(scales, j * width, scale)
                store(rests, j * width, r)
                e = fma(scale, r, scale)
                mine = column == j
                s = s + where(mine, 0.0, e)
                e_y, v_y = where(mine, e, e_y), where(mine, v, v_y)
                if o.weighted:
                    w_y = where(mine, load_one(weight, j), w_y)
                if wants_top:
                    first_top = untaken & (v * o.sign == top)
                    untaken = untaken & (v * o.sign != top)
                    s_top = s_top + where(first_top, 0.0, e)
                    e_top = where(first_top, e, e_top)
                    s_distance = s_distance + times(e, top - v * o.sign)
                if o.spread != NONE:
                    share = _share(o, x, q, weight, j)
                    s_linear = s_linear + times(share, v * o.sign - top)
                    s_spread = s_spread + share
                    c_y = where(mine, share, c_y)
            others, others_top, distance = others + s, others_top + s_top, distance + s_distance
            linear, spread = linear + s_linear, spread + s_spread

        # Logarithms, losses and what else a row has one of.
        total = others + e_y
        proper = total > 0.0  # neither NaN nor all -inf
        nan = where(proper, zero, np.nan)
        if call[TARGETS] == 0:
            w_y = zero
        elif not o.weighted:
            w_y = where(column < 0, zero, 1.0)
        on_target = w_y * o.keep
        lse = widen(zero)
        if call[LSE] != 0 or z_loss != 0.0:
            lse = fma(widen(k), LN2, log(widen(total))) + widen(base) * o.unit
        log_top = zero
        if wants_top:
            log_top = log1p(others_top / e_top)
        sample = _of_rows(call, SAMPLE_WEIGHT, x, first, n)
        if call[LOSS] != 0:
            loss = times(on_target, _nll(others, e_y, v_y, k, total, o))
            if o.spread != NONE:
                loss = loss + times(spread, log_top) - linear * abs(o.unit)
            if z_loss != 0.0:
                loss = loss + narrow(x, lse * lse * (z_loss * numbers[ZL_RATIO]))
            _write_rows(call, LOSS, x, first, n, ignored, loss * sample + nan)
        if call[LSE] != 0:
            limit = where(total == 0.0, zero - np.inf, _infinite_or_nan(x, logits, n_classes, o.unit))
            _write_rows(call, LSE, x, first, n, ignored, where(proper, narrow(x, lse), limit))
        _write_rows(call, TARGET_PROB, x, first, n, ignored, e_y / total + nan)
        if call[ENTROPY] != 0:
            _write_rows(call, ENTROPY, x, first, n, ignored, log_top + distance * abs(o.unit) / total + nan)
        if call[GRADIENT] == 0:
            continue

        if call[KIND] == LOG_SOFTMAX:
            for j in range(n_classes):
                v = load(logits, j * width) - base
                store(logits, j * width, (v - top) - log_top + nan)
            _row_offsets(offsets, call, 1, GRADIENT_STEP, first, n, width)
            _store_group(x, g, offsets, n, n_classes, logits)
            continue

        # The gradient's factors, in float64: one rounding each.
        total64 = widen(total)
        if call[LSE_IN] != 0:
            lse = widen(load_part(arithmetic_at(call[LSE_IN], x), first, n))
            magic64 = constants(lse).one - widen(k)
            total64 = power(lse - widen(base) * o.unit, LOG2E, LOG2E_REST, magic64)[1]
        row = widen(sample * _of_rows(call, UPSTREAM, x, first, n)) * o.slope
        scale64 = row * ce_scale
        even = scale64 * widen(spread)
        if z_loss != 0.0:
            even = even + row * (numbers[ZL_SCALE] * 2.0 * z_loss) * lse
        hit = scale64 * widen(on_target)
        exact = (hit + even if call[KIND] == GRADIENTS else widen(zero) + 1.0) / total64 + widen(nan)
        factor = narrow(x, exact)
        left = narrow(x, exact - widen(factor)) / factor
        left = where(left == left, left, 0.0)
        at_target = even * (widen(e_y) / total64) - hit * (widen(others) / total64) - scale64 * widen(c_y)
        at_target = narrow(x, at_target) + nan
        c_scale = narrow(x, scale64)
        for j in range(n_classes):
            s = load(scales, j * width) * factor
            d = fma(s, load(rests, j * width) + left, s)
            if o.spread != NONE:
                d = d - _share(o, x, q, weight, j) * c_scale
            d = where(column == j, at_target, d)
            if o.softcap > 0:
                v = load(logits, j * width) / o.softcap
                d = d * (1.0 - v * v)
            store(logits, j * width, where(ignored, 0.0, d))
        _row_offsets(offsets, call, 1, GRADIENT_STEP, first, n, width)
        _store_group(x, g, offsets, n, n_classes, logits)
