"""Kernels for few classes: as many rows at a time as a vector has lanes, row r in lane r.

A row of ten numbers cannot fill a vector, and sums across lanes cost more than the ten exponentials. So rows are
transposed on the way in and on the way out, in registers; in between, every step serves all rows of the group at once.
A group's logits stay in a buffer on the stack.
"""

from __future__ import annotations

import numpy as np

from .call import (
    ENTROPY,
    FETCH,
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
    STREAM,
    TARGETS,
    WEIGHT,
    X_STEP,
    options_of,
    target_of,
)
from .compile import device, inline
from .element import times, value
from .finish import asks_for_classes, finish, write_about_classes
from .gradient import fill, kept_power, no_edge
from .maths import constants
from .simd import (
    advance,
    apart,
    count_true,
    extract,
    fma,
    iota,
    item_bytes,
    lane_buffer,
    lane_offsets,
    lanes,
    load,
    load_lanes,
    load_one,
    load_rows,
    narrow,
    pick,
    place,
    pointer_at,
    prefetch,
    prefetch_write,
    shortened,
    store,
    store_lanes,
    store_one,
    store_rows,
    to_lanes,
    where,
    widen,
    zeros,
    zeros64,
)
from .stats import shift_of
from .sums import add
from .table import (
    AT_TARGET,
    BASE,
    DISTANCE,
    FACTOR,
    FIELDS,
    LEFT,
    LINEAR,
    POWER,
    REST,
    REST_LEFT,
    SCALE,
    SHARE_Y,
    SPREAD,
    TARGET,
    TIES,
    TOP,
    WEIGHT_Y,
    cleared,
)

MAX_CLASSES = 128  # what the buffers hold; where this regime ends: see launch.py
PARTIAL = 16  # terms summed before the sum is added to the sum of such sums


@inline
def _row_offsets(offsets, call, which, step, first, n, width):
    """Bytes from the first row to the row of each lane; lanes without a row of their own repeat the last one."""
    if call[OFFSETS] != 0:
        for r in range(width):
            offsets[r] = pointer_at(call[OFFSETS], np.int64)[which * call[N_ROWS] + first + min(r, n - 1)]
        return
    at = first * call[step]
    for r in range(width):
        offsets[r] = at
        at += call[step] if r + 1 < n else 0


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
def _one_behind_the_other(base, offsets, n, n_classes, width):
    """Whether a whole group of the shortest rows lies in memory without a gap: two rows to a shuffle, not one."""
    size = n_classes * item_bytes(base)
    return (
        n_classes <= 4
        and n == width
        and offsets[1] - offsets[0] == size
        and offsets[width - 1] == offsets[0] + (width - 1) * size
    )


@inline
def _load_group(x, base, offsets, n, n_classes, buffer):
    """A row a lane, transposed: class j of all rows is vector j of the buffer."""
    if _one_behind_the_other(base, offsets, n, n_classes, lanes(x)):
        if n_classes == 2:
            load_rows(base, offsets[0], 2, buffer)
        elif n_classes == 3:
            load_rows(base, offsets[0], 3, buffer)
        elif n_classes == 4:
            load_rows(base, offsets[0], 4, buffer)
        else:
            load_rows(base, offsets[0], 1, buffer)
        return
    for j in range(0, n_classes, lanes(x)):
        load_lanes(base, offsets, j, min(n_classes - j, lanes(x)), buffer)


@inline
def _store_group(x, base, offsets, n, n_classes, buffer):
    """The way back, of the first ``n`` rows."""
    width = lanes(x)
    if _one_behind_the_other(base, offsets, n, n_classes, width):
        if n_classes == 2:
            store_rows(base, offsets[0], 2, buffer)
        elif n_classes == 3:
            store_rows(base, offsets[0], 3, buffer)
        elif n_classes == 4:
            store_rows(base, offsets[0], 4, buffer)
        else:
            store_rows(base, offsets[0], 1, buffer)
    elif n == width:
        for j in range(0, n_classes, width):
            store_lanes(base, offsets, j, min(n_classes - j, width), buffer)
    else:
        for r in range(n):
            for j in range(n_classes):
                store_one(advance(base, offsets[r]), j, buffer[j * width + r])


@inline
def _fetch(call, rows, n_classes):
    """Ask for the memory of a group to come, which is as large as this one."""
    ahead = advance(rows, call[FETCH])
    for j in range(n_classes):
        prefetch(ahead, j * lanes(rows))


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
def _about_classes(call, numbers, x, n_classes, first, n, logits, column):
    """The outputs that are about classes; of ignored rows too."""
    order = options_of(call, numbers, x).order
    winner = _winners(x, logits, n_classes, order)
    above = _ranks(x, logits, n_classes, column, order) if call[RANK] != 0 else winner
    for r in range(n):
        write_about_classes(call, first + r, np.int64(extract(winner, r)), np.int64(extract(above, r)))


@device
def _even_sums(call, numbers, x, n_classes, logits, scales, parts, magic, least, mark):
    """What ``_sums`` gives, for rows that need no more than that."""
    apart()
    o, keep = options_of(call, numbers, x), call[GRADIENT] != 0
    width, zero = lanes(x), zeros(x)
    others, linear, rest, left, sums = zero, zero, zero, zero, zeros64(x)
    everywhere = zero == zero
    for start in range(0, n_classes, PARTIAL):
        a, b, below = zero, zero, zero
        for j in range(start, min(n_classes, start + PARTIAL)):
            v = load(logits, j * width)
            a, b, others, scale, r = add(v, everywhere, o, 1.0, magic, least, mark, a, b, others)
            if keep:
                store(scales, j * width, scale)
                store(parts, j * width, r)
            if o.spread != NONE:
                below = below + (v - mark)
        rest, left, sums, linear = a, b, sums + (widen(a) + widen(b)), linear + below
    return n_classes - others, rest, left, sums, times(zero + o.share, linear), zero + o.share * n_classes, zero


@inline
def _sums(call, x, n_classes, weight, logits, q, scales, parts, o, magic, least, base, mark):
    """Ties, ``rest`` (in two parts, and all of it), linear, spread and distance of the rows."""
    width, zero = lanes(x), zeros(x)
    others, linear, spread, distance, rest, left, sums = zero, zero, zero, zero, zero, zero, zeros64(x)
    everywhere = zero == zero
    for start in range(0, n_classes, PARTIAL):
        a, b, s_linear, s_spread, s_distance = zero, zero, zero, zero, zero
        for j in range(start, min(n_classes, start + PARTIAL)):
            v = load(logits, j * width) - base
            a, b, others, scale, r = add(v, everywhere, o, o.sign, magic, least, mark, a, b, others)
            store(scales, j * width, scale)
            store(parts, j * width, r)
            if o.spread != NONE:
                share = _share(o, x, q, weight, j)
                s_linear = s_linear + times(share, (v - mark) * o.sign)
                s_spread = s_spread + share
            if call[ENTROPY] != 0:
                e = fma(scale, r, scale)
                s_distance = s_distance + where(e == 0.0, 0.0, e * ((mark - v) * o.sign))
        rest, left, sums = a, b, sums + (widen(a) + widen(b))
        linear, spread, distance = linear + s_linear, spread + s_spread, distance + s_distance
    return n_classes - others, rest, left, sums, linear, spread, distance


@inline
def _look(call, numbers, x, n_classes, weight, logits, q, scales, parts, column, table):
    """What there is to be known of the rows, into the table; powers, as ``stats.add`` gives them, into two buffers."""
    o, width, zero = options_of(call, numbers, x), lanes(x), zeros(x)
    c = constants(zero)
    top = zero - np.inf
    for j in range(n_classes):
        v = load(logits, j * width)
        if o.capped:
            v = value(v, o)
            store(logits, j * width, v)
        if o.sign != 1.0:
            v = v * o.sign
        top = where(v > top, v, top)
    k, base = shift_of(top, o)
    mark, magic, least = top * o.sign - base, c.one - k, (k + c.lowest) * (1.0 / abs(o.hi))
    shifted = count_true(base != 0.0) > 0
    if call[LSE] != 0 and count_true(top == np.inf) > 0:
        top = where(top == np.inf, _infinite_or_nan(x, logits, n_classes, o.unit), top)

    if o.even and not shifted and call[ENTROPY] == 0:
        found = _even_sums(call, numbers, x, n_classes, logits, scales, parts, magic, least, mark)
    else:
        found = _sums(call, x, n_classes, weight, logits, q, scales, parts, o, magic, least, base, mark)
    ties, rest, left, sums, linear, spread, distance = found
    if n_classes > PARTIAL:
        rest = narrow(x, sums)
        left = narrow(x, sums - widen(rest))

    store(table, TOP * width, top)
    store(table, POWER * width, k)
    store(table, BASE * width, base)
    store(table, TIES * width, ties)
    store(table, REST * width, rest)
    store(table, REST_LEFT * width, left)
    store(table, LINEAR * width, linear)
    store(table, SPREAD * width, spread)
    store(table, DISTANCE * width, distance)
    store(table, TARGET * width, pick(logits, column, column >= 0))


@inline
def _weights_of_targets(call, numbers, x, first, n, weight, q, table):
    """Class weight and spread weight of the targets (of the one class, where there are no others), into the table."""
    o, width = options_of(call, numbers, x), lanes(x)
    for r in range(n):
        y, ignored = target_of(call, first + r)
        if ignored:
            continue
        y = max(y, 0)
        table[WEIGHT_Y * width + r] = load_one(weight, y) if o.weighted else 1.0
        if o.spread != NONE:
            share = o.share
            if o.spread == PROBABILITIES:
                share = fma(q[y * width + r], o.keep, share)
            table[SHARE_Y * width + r] = share * load_one(weight, y) if o.weighted else share


@inline
def _gradients(call, numbers, x, n_classes, weight, logits, q, scales, parts, table):
    """The gradients of the rows but those of the targets, in place of their logits."""
    o, width = options_of(call, numbers, x), lanes(x)
    factor, left = load(table, FACTOR * width), load(table, LEFT * width)
    scale = load(table, SCALE * width)
    if call[KIND] == LOG_SOFTMAX:
        top = load(table, TOP * width) * o.sign
        for j in range(n_classes):
            store(logits, j * width, (load(logits, j * width) - top) - factor)
    elif o.even:
        minus = (o.share if o.spread != NONE else 0.0) * scale
        for j in range(n_classes):
            d = kept_power(load(scales, j * width), load(parts, j * width), factor, left)
            store(logits, j * width, d - minus)
    else:
        for j in range(n_classes):
            d = kept_power(load(scales, j * width), load(parts, j * width), factor, left)
            if o.spread != NONE:
                d = d - _share(o, x, q, weight, j) * scale
            if o.capped:
                v = load(logits, j * width)
                d = d * (1.0 - v * v)
            store(logits, j * width, d)


@inline
def _place_targets(x, n_classes, gradients, column, at_target):
    """The gradients of the targets to where they belong."""
    if n_classes > 4:
        place(gradients, column, column >= 0, at_target)
    else:  # (a scattered write takes as long as that of 4 vectors)
        for j in range(n_classes):
            store(gradients, j * lanes(x), where(column == j, at_target, load(gradients, j * lanes(x))))


@inline
def _write_odd_rows(call, x, g, offsets, first, n, n_classes, table, width):
    """Rows that are ignored, or NaN."""
    for r in range(n):
        factor = np.float64(table[FACTOR * width + r])
        if target_of(call, first + r)[1]:
            fill(advance(g, offsets[r]), n_classes, 0.0, call[STREAM] != 0, no_edge(x))
        elif factor != factor:
            fill(advance(g, offsets[r]), n_classes, np.nan, call[STREAM] != 0, no_edge(x))


@device
def run_groups(call, numbers, x, g, q0, weight, begin, end):
    """Rows ``begin`` to ``end``, a group at a time."""
    apart()
    n_classes, width, zero = call[N_CLASSES], lanes(x), zeros(x)
    offsets, table = lane_offsets(), cleared(lane_buffer(x, FIELDS), x)
    logits, q = lane_buffer(x, MAX_CLASSES), lane_buffer(x, MAX_CLASSES)
    scales, parts = lane_buffer(x, MAX_CLASSES), lane_buffer(x, MAX_CLASSES)
    for first in range(begin, end, width):
        n = min(width, end - first)
        column = iota(zero) * 0 - 1
        ignored = column == 0
        if call[TARGETS] != 0:
            target = to_lanes(x, pointer_at(call[TARGETS], np.int64), first, n)
            ignored = target == call[IGNORE_INDEX]
            column = where(ignored, column, shortened(zero, target))
        elif n_classes == 1 and call[KIND] == GRADIENTS:
            column = column + 1  # so that its gradient is exactly 0, like that of a target
        if count_true(ignored & (iota(zero) < n)) < n:
            _row_offsets(offsets, call, 0, X_STEP, first, n, width)
            _load_group(x, x, offsets, n, n_classes, logits)
            _fetch(call, advance(x, offsets[0]), n_classes)
            if options_of(call, numbers, x).spread == PROBABILITIES:
                _row_offsets(offsets, call, 2, Q_STEP, first, n, width)
                _load_group(x, q0, offsets, n, n_classes, q)
            if asks_for_classes(call):
                _about_classes(call, numbers, x, n_classes, first, n, logits, column)
            _look(call, numbers, x, n_classes, weight, logits, q, scales, parts, column, table)
            if call[WEIGHT] != 0 or options_of(call, numbers, x).spread != NONE:
                _weights_of_targets(call, numbers, x, first, n, weight, q, table)
        else:
            for r in range(n):
                write_about_classes(call, first + r, 0, 0)
        finish(call, numbers, x, first, n, table)
        if call[GRADIENT] != 0:
            _row_offsets(offsets, call, 1, GRADIENT_STEP, first, n, width)
            for j in range(n_classes):  # as large as the group, and written soon
                prefetch_write(advance(g, offsets[0]), j * width)
            _gradients(call, numbers, x, n_classes, weight, logits, q, scales, parts, table)
            if call[KIND] != LOG_SOFTMAX:
                _place_targets(x, n_classes, logits, column, load(table, AT_TARGET * width))
            _store_group(x, g, offsets, n, n_classes, logits)
            factor = load(table, FACTOR * width)
            if count_true(ignored | (factor != factor)) > 0:
                _write_odd_rows(call, x, g, offsets, first, n, n_classes, table, width)
