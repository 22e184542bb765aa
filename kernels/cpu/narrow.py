"""Kernels for few classes: as many rows at a time as a vector has lanes, row r in lane r.

A row of ten numbers cannot fill a vector, and sums across lanes cost more than the ten exponentials. So rows are
transposed on the way in and on the way out, in registers; in between, every step serves all rows of the group at once.
A group's logits stay in a buffer on the stack.
"""

from __future__ import annotations

import numpy as np

from .call import (
    ARGMAX,
    CORRECT,
    ENTROPY,
    GRADIENT,
    GRADIENT_STEP,
    GRADIENTS,
    IGNORE_INDEX,
    KIND,
    LOG_SOFTMAX,
    LSE,
    N_CLASSES,
    N_ROWS,
    NONE,
    OFFSETS,
    PROBABILITIES,
    Q_STEP,
    RANK,
    TARGETS,
    X_STEP,
    options_of,
)
from .compile import device, inline
from .element import times, value
from .finish import (
    ABOVE,
    AT_TARGET,
    BASE,
    DISTANCE,
    FACTOR,
    FIELDS,
    LEFT,
    LINEAR,
    POWER,
    REST,
    SCALE,
    SHARE_Y,
    SPREAD,
    TARGET,
    TIES,
    TOP,
    WEIGHT_Y,
    WINNER,
    cleared,
    finish,
)
from .gradient import scaled_power
from .maths import constants, power_parts
from .simd import (
    above_or_nan,
    advance,
    apart,
    count_true,
    fma,
    iota,
    lane_buffer,
    lane_offsets,
    lanes,
    load,
    load_lanes,
    load_one,
    pointer_at,
    shortened,
    store,
    store_lanes,
    store_one,
    to_lanes,
    where,
    zeros,
)
from .stats import shift_of

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
def _share(o, x, q, weight, j):
    """The spread weight of class ``j`` in every lane."""
    share = zeros(x) + o.share
    if o.spread == PROBABILITIES:
        share = fma(load(q, j * lanes(x)), o.keep, share)
    return share * load_one(weight, j) if o.weighted else share


@inline
def _infinite_or_nan(x, logits, n_classes, unit):
    """NaN in the lanes where a class is NaN, infinity in the others."""
    result = zeros(x) + np.inf
    for j in range(n_classes):
        v = load(logits, j * lanes(x)) * unit
        result = where(v == v, result, v)
    return result


@inline
def _look(call, numbers, x, n_classes, weight, logits, q, column, table):
    """What there is to be known of the rows, into the table."""
    o, width, zero = options_of(call, numbers), lanes(x), zeros(x)
    c = constants(zero)
    if call[ARGMAX] + call[CORRECT] + call[RANK] != 0:
        store(table, WINNER * width, _winners(x, logits, n_classes, o.order))
        if call[RANK] != 0:
            store(table, ABOVE * width, _ranks(x, logits, n_classes, column, o.order))

    top = zero - np.inf
    for j in range(n_classes):
        v = load(logits, j * width)
        if o.capped:
            v = value(v, o)
            store(logits, j * width, v)
        top = where(v * o.sign > top, v * o.sign, top)
    mark = top * o.sign
    k, base = shift_of(top, o)
    magic = c.one - k
    if call[LSE] != 0 and count_true(top == np.inf) > 0:
        top = where(top == np.inf, _infinite_or_nan(x, logits, n_classes, o.unit), top)
    mark = mark - base

    ties, rest, v_y, w_y, c_y = zero, zero, zero, zero + 1.0, zero
    linear, spread, distance = zero, zero, zero
    for start in range(0, n_classes, PARTIAL):
        s, s_linear, s_spread, s_distance = zero, zero, zero, zero
        for j in range(start, min(n_classes, start + PARTIAL)):
            logit = load(logits, j * width)
            v = logit - base
            t, scale, r = power_parts(v, o.hi, o.lo, magic, 0.0)
            at_top, mine = v == mark, column == j
            e = fma(scale, r, scale)
            s = where(above_or_nan(t, c.zero) & (v != mark), s + e, s)
            ties = where(at_top, ties + 1.0, ties)
            v_y = where(mine, logit, v_y)
            if o.weighted:
                w_y = where(mine, load_one(weight, j), w_y)
            if o.spread != NONE:
                share = _share(o, x, q, weight, j)
                s_linear = s_linear + times(share, (v - mark) * o.sign)
                s_spread = s_spread + share
                c_y = where(mine, share, c_y)
            if call[ENTROPY] != 0:
                s_distance = s_distance + where(t <= c.zero, 0.0, e * ((mark - v) * o.sign))
        rest, distance = rest + s, distance + s_distance
        linear, spread = linear + s_linear, spread + s_spread

    store(table, TOP * width, top)
    store(table, POWER * width, k)
    store(table, BASE * width, base)
    store(table, TIES * width, ties)
    store(table, REST * width, rest)
    store(table, LINEAR * width, linear)
    store(table, SPREAD * width, spread)
    store(table, TARGET * width, v_y)
    store(table, WEIGHT_Y * width, w_y)
    store(table, SHARE_Y * width, c_y)
    store(table, DISTANCE * width, distance)


@inline
def _gradients(call, numbers, x, n_classes, weight, logits, q, column, ignored, table):
    """The gradients of the rows, in place of their logits."""
    o, width = options_of(call, numbers), lanes(x)
    base, factor = load(table, BASE * width), load(table, FACTOR * width)
    if call[KIND] == LOG_SOFTMAX:
        top = load(table, TOP * width) * o.sign
        for j in range(n_classes):
            store(logits, j * width, (load(logits, j * width) - top) - factor)
        return
    magic = constants(base).one - load(table, POWER * width)
    left, scale, at_target = (
        load(table, LEFT * width),
        load(table, SCALE * width),
        load(table, AT_TARGET * width),
    )
    nan = where(factor == factor, 0.0, factor)
    for j in range(n_classes):
        v = load(logits, j * width)
        d = scaled_power(v - base, o, magic, factor, left)
        if o.spread != NONE:
            d = d - _share(o, x, q, weight, j) * scale
        if o.capped:
            d = d * (1.0 - v * v)
        d = where(column == j, at_target, d + nan)
        store(logits, j * width, where(ignored, 0.0, d))


@device
def run_groups(call, numbers, x, g, q0, weight, begin, end):
    """Rows ``begin`` to ``end``, a group at a time."""
    apart()
    n_classes, width, zero = call[N_CLASSES], lanes(x), zeros(x)
    offsets, table = lane_offsets(), cleared(lane_buffer(x, FIELDS), x)
    logits, q = lane_buffer(x, MAX_CLASSES), lane_buffer(x, MAX_CLASSES)
    for first in range(begin, end, width):
        n = min(width, end - first)
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
        if options_of(call, numbers).spread == PROBABILITIES:
            _row_offsets(offsets, call, 2, Q_STEP, first, n, width)
            _load_group(x, q0, offsets, n_classes, q)
        _look(call, numbers, x, n_classes, weight, logits, q, column, table)
        finish(call, numbers, x, first, n, table)
        if call[GRADIENT] != 0:
            _gradients(call, numbers, x, n_classes, weight, logits, q, column, ignored, table)
            _row_offsets(offsets, call, 1, GRADIENT_STEP, first, n, width)
            _store_group(x, g, offsets, n, n_classes, logits)
