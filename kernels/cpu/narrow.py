"""Kernels for few classes: as many rows at a time as a vector has lanes, row r in lane r.

A row of ten numbers cannot fill a vector, and sums across lanes cost more than the ten exponentials. So rows are
transposed on the way in and on the way out, in registers; in between, every step serves all rows of the group at once.
A group's logits stay in a buffer on the stack.
"""

from __future__ import annotations

import numpy as np

from ..task import GRADIENTS, LOG_SOFTMAX
from .call import (
    CLASS_STEPS,
    ENTROPY,
    FETCH,
    GRADIENT,
    GRADIENT_STEP,
    HESS,
    HESS_STEP,
    IGNORE_INDEX,
    KIND,
    LSE,
    N_CLASSES,
    N_ROWS,
    NONE,
    OFFSETS,
    PROBABILITIES,
    Q_STEP,
    RANK,
    TARGETS,
    WEIGHT,
    X_STEP,
    options_of,
    row_start,
    target_of,
)
from .compile import device, inline
from .element import spread_weights_of_class, times, value
from .finish import asks_for_classes, finish, write_about_classes
from .folds import counted
from .gradient import kept_power
from .hessian import across_lanes
from .maths import constants, least_with_power, tanh, tanh_beside, tanh_near
from .pointers import (
    advance,
    arithmetic_at,
    float64_at,
    item_bytes,
    lane_buffer,
    load,
    load_one,
    pointer_at,
    prefetch,
    prefetch_write,
    store,
    store_one,
)
from .simd import NATIVE, WIDE, apart, count_true, extract, fma, has_masks, iota, lanes, where, widen, zeros, zeros64
from .stats import shift_of
from .sums import Shift, add
from .table import (
    AT_TARGET,
    BASE,
    BEND_AT_TARGET,
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
    cleared,
)
from .transposed import (
    MOST_IN_ROW,
    lane_offsets,
    load_lanes,
    load_rows,
    pick,
    place,
    shortened,
    store_lanes,
    store_rows,
    to_lanes,
)

MAX_CLASSES = 128  # what the buffers hold
# Classes of which there are ``WIDE`` bytes of rows together, on machines whose registers are smaller.
MOST_WIDE = 8 if NATIVE < WIDE else 0
ONE_SUM = 16  # terms of the longest rows that are summed in the arithmetic type alone
# Classes: what belongs to a target is picked beside what is computed of all. (By its address, it would have to wait
# until what lies there is written: with 2 to 10 classes 5 to 8 % longer. With more, there is more to compare.)
SELECTED = 16
PARTIAL = 8  # of longer ones: before the sum is added to the sum of such sums, in float64


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
def _side_by_side(base, offsets, n, width):
    """Whether a whole group of rows lies side by side: every class of theirs is a vector in memory."""
    size = item_bytes(base)
    return n == width and offsets[1] - offsets[0] == size and offsets[width - 1] == offsets[0] + (width - 1) * size


@inline
def _one_behind_the_other(call, base, which, step, n):
    """Whether a whole group of the shortest rows lies in memory without a gap: several rows to a shuffle, not one.

    (That is told from the call: to write the rows' offsets and to read them takes a tenth of the time of two classes.)
    """
    n_classes, size = call[N_CLASSES], item_bytes(base)
    together = call[CLASS_STEPS + which] == size and call[step] == n_classes * size and call[OFFSETS] == 0
    return together and n_classes <= MOST_IN_ROW and n == lanes(base)


@inline
def _by_whole_vectors(x, n_classes):
    """Whether the last classes are taken with some before them, a second time, rather than by a part of a vector.

    (Where masks are instructions of their own: with 10 classes .63 of the time, with 64 .4.)
    """
    return not has_masks(zeros(x)) and n_classes >= lanes(x)


@inline
def _in_squares(n_classes, width):
    """How many classes are transposed by squares: not one or two left over, for which that takes as long as for all.

    (Microseconds for 4,000 rows, a Zen 4, one thread: 17 classes 75 in place of 83, 18 79 in place of 85, 33 109 in
    place of 118; of bfloat16, 17 classes 76 in place of 89.)
    """
    rest = n_classes % width
    return n_classes - rest if rest <= 2 else n_classes


@inline
def _load_class(base, offsets, width, j, buffer):
    """Class j of all rows, one by one, to its vector of the buffer."""
    for r in range(width):
        buffer[j * width + r] = load_one(advance(base, offsets[r]), j)


@inline
def _store_class(base, offsets, width, j, buffer):
    """The way back."""
    for r in range(width):
        store_one(advance(base, offsets[r]), j, buffer[j * width + r])


@inline
def _load_group(call, x, base, which, step, first, n, offsets, buffer):
    """A row a lane, transposed: class j of all rows is vector j of the buffer."""
    width, n_classes, class_step = lanes(x), call[N_CLASSES], call[CLASS_STEPS + which]
    if _one_behind_the_other(call, base, which, step, n):
        load_rows(base, first * call[step], n_classes, buffer)
        return
    _row_offsets(offsets, call, which, step, first, n, width)
    if class_step == item_bytes(base):
        if _by_whole_vectors(x, n_classes):
            for j in range(0, n_classes, width):
                load_lanes(base, offsets, min(j, n_classes - width), width, buffer)
        else:
            squares = _in_squares(n_classes, width)
            for j in range(0, squares, width):
                load_lanes(base, offsets, j, min(n_classes - j, width), buffer)
            if squares < n_classes:  # (no loop: LLVM makes more of it so)
                _load_class(base, offsets, width, squares, buffer)
            if squares + 1 < n_classes:
                _load_class(base, offsets, width, squares + 1, buffer)
    elif _side_by_side(base, offsets, n, width):
        for j in range(n_classes):
            store(buffer, j * width, load(advance(base, offsets[0] + j * class_step), 0))
    else:
        for j in range(n_classes):
            for r in range(width):
                buffer[j * width + r] = load_one(advance(base, offsets[r] + j * class_step), 0)


@inline
def _store_group(call, x, base, which, step, first, n, offsets, buffer):
    """The way back, of the first ``n`` rows."""
    width, n_classes, class_step = lanes(x), call[N_CLASSES], call[CLASS_STEPS + which]
    if _one_behind_the_other(call, base, which, step, n):
        store_rows(base, first * call[step], n_classes, buffer)
        return
    _row_offsets(offsets, call, which, step, first, n, width)
    if class_step == item_bytes(base):
        if n == width and _by_whole_vectors(x, n_classes):
            for j in range(0, n_classes, width):
                store_lanes(base, offsets, min(j, n_classes - width), width, buffer)
        elif n == width:
            squares = _in_squares(n_classes, width)
            for j in range(0, squares, width):
                store_lanes(base, offsets, j, min(n_classes - j, width), buffer)
            if squares < n_classes:
                _store_class(base, offsets, width, squares, buffer)
            if squares + 1 < n_classes:
                _store_class(base, offsets, width, squares + 1, buffer)
        else:
            for r in range(n):
                for j in range(n_classes):
                    store_one(advance(base, offsets[r]), j, buffer[j * width + r])
    elif _side_by_side(base, offsets, n, width):
        for j in range(n_classes):
            store(advance(base, offsets[0] + j * class_step), 0, load(buffer, j * width))
    else:
        for j in range(n_classes):
            for r in range(n):
                store_one(advance(base, offsets[r] + j * class_step), 0, buffer[j * width + r])


@inline
def _line(base, step, j):
    """Where to ask for memory so that, for every class j, it is all of a group's: as many vectors as classes.

    (One for each class, beside what is computed for it: asked for all at once, they have to wait for each other. With
    100 classes, out of cache, 1.3 times as fast.)
    """
    return advance(base, j * (lanes(base) * item_bytes(base) if step == item_bytes(base) else step))


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
def _even_sums(call, numbers, x, g, n_classes, logits, scales, parts, shift):
    """What ``_sums`` gives, for rows that need no more than that."""
    apart()
    return _short_sums(False, call, numbers, x, x, g, n_classes, logits, logits, scales, parts, shift)


@device
def _soft_sums(call, numbers, x, q_ahead, g, n_classes, logits, q, scales, parts, shift):
    """``_even_sums`` of rows with probability targets (by ``_sums``, in the cache, 24 classes took 1.4 times as long).

    Memory is asked for those of rows to come (out of cache 10 classes .90 of the time, 32 .76).
    """
    apart()
    return _short_sums(True, call, numbers, x, q_ahead, g, n_classes, logits, q, scales, parts, shift)


@inline
def _short_sums(soft, call, numbers, x, q_ahead, g, n_classes, logits, q, scales, parts, shift):
    """Both; ``soft`` is a constant."""
    o, keep = options_of(call, numbers, x), call[GRADIENT] != 0 and call[KIND] != LOG_SOFTMAX
    width, zero = lanes(x), zeros(x)
    others, linear, spread, rest = zero, zero, zero, zeros64(x)
    everywhere = zero == zero
    block = PARTIAL if n_classes > ONE_SUM else ONE_SUM
    for start in range(0, n_classes, block):
        a, b, below, shares = zero, zero, zero, zero
        for j in range(start, min(n_classes, start + block)):
            v = load(logits, j * width)
            a, b, others, scale, r = add(v, everywhere, o, 1.0, shift, a, b, others, True)
            if keep:
                prefetch_write(_line(g, call[CLASS_STEPS + 1], j), 0)
                store(scales, j * width, scale)
                store(parts, j * width, r)
            if soft:
                prefetch(_line(q_ahead, call[CLASS_STEPS + 2], j), 0)
                share = fma(load(q, j * width), o.keep, zero + o.share)
                below, shares = below + times(share, v - shift.mark), shares + share
            elif o.spread != NONE:
                below = below + (v - shift.mark)
        rest, linear, spread = rest + (widen(a) + widen(b)), linear + below, spread + shares
    if not soft:
        linear, spread = times(zero + o.share, linear), zero + o.share * n_classes
    return n_classes - counted(others), rest, linear, spread, zero


@inline
def _sums(call, x, g, n_classes, weight, logits, q, scales, parts, o, shift, base):
    """Ties, ``rest``, linear, spread and distance of the rows."""
    width, zero = lanes(x), zeros(x)
    others, linear, spread, distance, rest = zero, zero, zero, zero, zeros64(x)
    everywhere = zero == zero
    block = PARTIAL if n_classes > ONE_SUM else ONE_SUM
    for start in range(0, n_classes, block):
        a, b, s_linear, s_spread, s_distance = zero, zero, zero, zero, zero
        for j in range(start, min(n_classes, start + block)):
            prefetch_write(_line(g, call[CLASS_STEPS + 1], j), 0)
            v = load(logits, j * width) - base
            a, b, others, scale, r = add(v, everywhere, o, o.sign, shift, a, b, others, False)
            store(scales, j * width, scale)
            store(parts, j * width, r)
            if o.spread != NONE:
                share = spread_weights_of_class(o, x, q, weight, j)
                s_linear = s_linear + times(share, (v - shift.mark) * o.sign)
                s_spread = s_spread + share
            if call[ENTROPY] != 0:
                e = fma(scale, r, scale)
                s_distance = s_distance + where(e == 0.0, 0.0, e * ((shift.mark - v) * o.sign))
        rest = rest + (widen(a) + widen(b))
        linear, spread, distance = linear + s_linear, spread + s_spread, distance + s_distance
    return n_classes - counted(others), rest, linear, spread, distance


@inline
def _of_targets(x, n_classes, buffer, column):
    """Of each lane, that lane of the vector of its target, 0 where there is none."""
    if n_classes > SELECTED:
        return pick(buffer, column, column >= 0)
    result = zeros(x)
    for j in range(n_classes):
        result = where(column == j, load(buffer, j * lanes(x)), result)
    return result


@inline
def _cap(x, n_classes, logits, inner, o):
    """The ``v`` of logits below a softcap, in place of them, as in ``sums.put_values``; ``inner`` is a buffer."""
    near, largest, width = constants(zeros(x)).near, zeros(x), lanes(x)
    for j in range(n_classes):
        v = load(logits, j * width) * o.inner
        if near > 0.0:
            store(inner, j * width, v)
            v, square = tanh_near(v)
            largest = where(square > largest, square, largest)
        else:
            v = tanh(v, o.powers)
        store(logits, j * width, v)
    if near > 0.0 and count_true(largest > near * near) > 0:
        for j in range(n_classes):
            store(logits, j * width, tanh_beside(load(inner, j * width), o.powers, load(logits, j * width)))


@inline
def _look(call, numbers, x, rows, q_rows, g, n_classes, weight, logits, q, scales, parts, column, table):
    """What there is to be known of the rows, into the table; powers, as ``stats.add`` gives them, into two buffers.

    Meanwhile memory is asked for that of rows to come, and for where the gradients, from ``g`` on, will be written.
    """
    ahead = advance(rows, call[FETCH])
    o, width, zero = options_of(call, numbers, x), lanes(x), zeros(x)
    c = constants(zero)
    top = zero - np.inf
    for j in range(n_classes):
        prefetch(_line(ahead, call[CLASS_STEPS], j), 0)
        v = load(logits, j * width)
        if o.order != 1.0:
            v = v * o.order
        top = where(v > top, v, top)
    if o.capped:
        _cap(x, n_classes, logits, scales, o)
        top = value(top * o.order, o)  # (that of the largest logit is the largest)
    k, base = shift_of(top, o)
    shift = Shift(c.one - k, least_with_power(k, k, o.hi), top * o.sign - base)
    shifted = count_true(base != 0.0) > 0
    if call[LSE] != 0 and count_true(top == np.inf) > 0:
        top = where(top == np.inf, _infinite_or_nan(x, logits, n_classes, o.unit), top)

    if o.even and not shifted and call[ENTROPY] == 0:
        found = _even_sums(call, numbers, x, g, n_classes, logits, scales, parts, shift)
    elif o.soft and not shifted and call[ENTROPY] == 0:
        q_ahead = advance(q_rows, call[FETCH] // item_bytes(x) * item_bytes(q_rows))
        found = _soft_sums(call, numbers, x, q_ahead, g, n_classes, logits, q, scales, parts, shift)
    else:
        found = _sums(call, x, g, n_classes, weight, logits, q, scales, parts, o, shift, base)
    ties, rest, linear, spread, distance = found
    store(table, TOP * width, top)
    store(table, POWER * width, k)
    store(table, BASE * width, base)
    store(table, TIES * width, ties)
    store(float64_at(table, REST * width), 0, rest)
    store(table, LINEAR * width, linear)
    store(table, SPREAD * width, spread)
    store(table, DISTANCE * width, distance)
    store(table, TARGET * width, _of_targets(x, n_classes, logits, column))


@inline
def _weights_of_targets(call, numbers, x, first, n, weight, q, table):
    """Class weight and spread weight of the targets (of the one class, where there are no others), into the table."""
    o, width = options_of(call, numbers, x), lanes(x)
    if o.even and not o.weighted:  # (the same of all: one by one, 65,536 rows of 2 classes took 7 % longer)
        store(table, WEIGHT_Y * width, zeros(x) + 1.0)
        store(table, SHARE_Y * width, zeros(x) + o.share)
        return
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
def _gradients(call, numbers, x, n_classes, weight, logits, q, scales, parts, column, table):
    """The gradients of the rows but those of the targets, in place of their logits."""
    o, width = options_of(call, numbers, x), lanes(x)
    factor, left = load(table, FACTOR * width), load(table, LEFT * width)
    scale, at_target = load(table, SCALE * width), load(table, AT_TARGET * width)
    if call[KIND] == LOG_SOFTMAX:
        top = load(table, TOP * width) * o.sign
        for j in range(n_classes):
            store(logits, j * width, (load(logits, j * width) - top) - factor)
    elif o.even:
        minus = (o.share if o.spread != NONE else 0.0) * scale
        for j in range(n_classes):
            d = kept_power(load(scales, j * width), load(parts, j * width), factor, left) - minus
            store(logits, j * width, where(column == j, at_target, d) if n_classes <= SELECTED else d)
        if n_classes > SELECTED:
            place(logits, column, column >= 0, at_target)
    elif o.soft:
        for j in range(n_classes):
            d = kept_power(load(scales, j * width), load(parts, j * width), factor, left)
            store(logits, j * width, d - fma(load(q, j * width), o.keep, zeros(x) + o.share) * scale)
    else:
        for j in range(n_classes):
            d = kept_power(load(scales, j * width), load(parts, j * width), factor, left)
            if o.spread != NONE:
                d = d - spread_weights_of_class(o, x, q, weight, j) * scale
            if o.capped:
                v = load(logits, j * width)
                d = d * (1.0 - v * v)
            store(logits, j * width, d)


@inline
def _place_targets(x, n_classes, gradients, column, at_target):
    """The gradients of the targets to where they belong."""
    if n_classes > SELECTED:
        place(gradients, column, column >= 0, at_target)
    else:
        for j in range(n_classes):
            store(gradients, j * lanes(x), where(column == j, at_target, load(gradients, j * lanes(x))))


@inline
def _put_odd_rows(x, n_classes, buffer, ignored, factor):
    """0 for rows that are ignored, NaN for those without a gradient, in place of what is in the buffer."""
    odd = ignored | (factor != factor)
    if count_true(odd) > 0:
        number = where(ignored, zeros(x), np.nan)
        for j in range(n_classes):
            store(buffer, j * lanes(x), where(odd, number, load(buffer, j * lanes(x))))


@device
def _write_hessians(call, numbers, x, first, n, weight, logits, q, scales, parts, column, ignored, offsets, table):
    """Second derivatives of a group: before the gradients, which take the place of the logits."""
    apart()
    n_classes, width = call[N_CLASSES], lanes(x)
    h, buffer = arithmetic_at(call[HESS], x), lane_buffer(x, MAX_CLASSES)
    across_lanes(call, numbers, x, n_classes, weight, logits, q, scales, parts, table, buffer)
    if options_of(call, numbers, x).capped:
        _place_targets(x, n_classes, buffer, column, load(table, BEND_AT_TARGET * width))
    _put_odd_rows(x, n_classes, buffer, ignored, load(table, FACTOR * width))
    _store_group(call, x, h, 3, HESS_STEP, first, n, offsets, buffer)


@device
def run_groups(call, numbers, x, g, q0, weight, begin, end):
    """Rows ``begin`` to ``end``, a group at a time."""
    apart()
    n_classes, width, zero = call[N_CLASSES], lanes(x), zeros(x)
    some_target = call[TARGETS] != 0 or n_classes == 1
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
        some = count_true(ignored & (iota(zero) < n)) < n
        if some:
            _load_group(call, x, x, 0, X_STEP, first, n, offsets, logits)
            if options_of(call, numbers, x).spread == PROBABILITIES:
                _load_group(call, x, q0, 2, Q_STEP, first, n, offsets, q)
            if asks_for_classes(call):
                _about_classes(call, numbers, x, n_classes, first, n, logits, column)
            rows, q_rows = row_start(call, x, 0, X_STEP, first), row_start(call, q0, 2, Q_STEP, first)
            to_write = row_start(call, g, 1, GRADIENT_STEP, first) if call[GRADIENT] != 0 else rows
            _look(call, numbers, x, rows, q_rows, to_write, n_classes, weight, logits, q, scales, parts, column, table)
            if some_target and (call[WEIGHT] != 0 or options_of(call, numbers, x).spread != NONE):
                _weights_of_targets(call, numbers, x, first, n, weight, q, table)
        else:
            for r in range(n):
                write_about_classes(call, first + r, np.int64(0), np.int64(0))
        finish(call, numbers, x, first, n, table)
        if call[GRADIENT] != 0:
            if call[HESS] != 0:
                _write_hessians(
                    call, numbers, x, first, n, weight, logits, q, scales, parts, column, ignored, offsets, table
                )
            if some:
                _gradients(call, numbers, x, n_classes, weight, logits, q, scales, parts, column, table)
            if call[KIND] != LOG_SOFTMAX and some_target and not options_of(call, numbers, x).even:
                _place_targets(x, n_classes, logits, column, load(table, AT_TARGET * width))
            _put_odd_rows(x, n_classes, logits, ignored, load(table, FACTOR * width))
            _store_group(call, x, g, 1, GRADIENT_STEP, first, n, offsets, logits)
