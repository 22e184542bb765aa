"""Second look at a row, still in the cache: every element of the gradient, rounded once.

Of rows that are short enough, the first look kept the powers, in the two parts that a sum takes them in: what is
rounded twice is not exact. Of longer ones, one part waits (``sums.waiting``); of the longest, whose part would need
too much room, both are computed again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..task import LOG_SOFTMAX
from .addresses import in_order
from .call import (
    EVEN,
    GENERAL,
    GRADIENT_STEP,
    KIND,
    N_CLASSES,
    NONE,
    Q_STEP,
    SOFT,
    X_STEP,
    is_streamed,
    options_of,
    row_start,
    target_of,
)
from .compile import device, inline
from .element import soft_weights, spread_weights, value
from .maths import constants, least_with_power, parts_above, power_parts, scale_above
from .pointers import (
    advance,
    arithmetic_at,
    at_once,
    item_bytes,
    lane_buffer,
    load,
    load_like,
    load_part,
    prefetch_write,
    store,
    store_one,
    store_part,
    stream,
    until_aligned,
)
from .simd import SEVERAL, apart, fma, iota, lanes, lanes_of, power_of_two, where, zeros
from .sums import BLOCK, VALUES, WRITE_AHEAD, capped_power, is_only_capped, powers_wait, put_values, waiting
from .table import far, plan_of


class Edge(NamedTuple):
    """Where a row that goes past the caches meets its neighbours, inside a line of memory.

    Half a line cannot be written past the caches: it is fetched from memory while all stores behind it wait (with
    1,000 classes, a fifth of the time). So the end of a row waits, in ``line``, for the beginning of the next.
    """

    line: Any  # room for a vector
    before: bool  # the end of the row before is in it
    after: bool  # the next row is going to be written


@inline
def no_rows(x):
    """``rows`` for ``write_rows``: none that are written one after the other."""
    return arithmetic_at(0, x), np.int64(0), np.int64(0)


@inline
def no_edge(x):
    """Nothing lies before or after."""
    return Edge(arithmetic_at(0, x), False, False)


@inline
def scaled_power(v, p, magic, factor, left):
    """``factor * 2**(...)``, rounded once: the product with the factor is part of the last fused multiply-add.

    (And the first with the scale is exact: see ``maths.coarse``. 0 of what is not a number, too: ``-inf`` times a scale
    that is 0 in this type. Rows with NaN do not come here.)
    """
    t, scale, r = power_parts(v, p, magic, left)
    scale, r = scale * factor, fma(left, r, r)  # (1 + r) * (1 + left)
    return where(t >= constants(v).some, fma(scale, r, scale), 0.0)


@inline
def kept_power(scale, r, factor, left):
    """The same from what ``stats.add`` gave, as exact: 4 instructions in place of 16."""
    scale = scale * factor
    return fma(scale, r + fma(left, r, left), scale)  # (1 + r) * (1 + left)


@inline
def again(x, j, n, whole, o, plan, kept, kind):
    """The scaled powers of ``n`` classes from ``j`` on, and ``v`` for the softcap. ``kind``: what is needed."""
    logits = load(x, j) if whole else load_part(x, j, n)
    magic = constants(logits).one - plan.power
    if kind != GENERAL:
        scale, r = parts_above(logits, 1.0, o.powers, magic, least_with_power(logits, plan.power, o.hi), True)
        return kept_power(scale, r, plan.factor, plan.left), logits
    v = value(logits, o)
    return scaled_power(v - plan.base, o.powers, magic, plan.factor, plan.left), v


@inline
def from_kept(x, j, n, whole, o, plan, kept, kind):
    """The same from what was kept of the first look."""
    d = kept_power(load(kept, j), load(kept, far(kept) + j), plan.factor, plan.left)
    return d, d if kind != GENERAL else load(kept, 2 * far(kept) + j)


@inline
def from_waiting(x, j, n, whole, o, plan, kept, kind):
    """The same from ``r``, which waits: see ``sums.waiting``."""
    if not whole:
        return again(x, j, n, whole, o, plan, kept, kind)
    v = load(x, j)
    scale = scale_above(v, o.powers, constants(v).one - plan.power, least_with_power(v, plan.power, o.hi))
    d = kept_power(scale, load(kept, j), plan.factor, plan.left)
    return d, d


@inline
def kept_of(group, r):
    """What was kept of the group's row ``r``."""
    return advance(group.kept, r * group.step * item_bytes(group.kept))


@inline
def vector(powers, x, j, n, whole, o, plan, weight, q, kept, kind):
    """Gradient of ``n`` classes from ``j`` on; ``whole`` and ``kind``, constants, leave out what is not needed."""
    d, v = powers(x, j, n, whole, o, plan, kept, kind)
    if kind == SOFT:
        return d - soft_weights(x, q, j, n, whole, o) * plan.scale
    if kind == EVEN:
        return d if o.spread == NONE else d - o.share * plan.scale
    return with_options(d, v, j, n, whole, o, plan, weight, q, x)


@inline
def with_options(d, v, j, n, whole, o, plan, weight, q, x):
    """The gradient of ``n`` classes from ``j`` on, from their scaled powers and ``v``: see ``vector``."""
    if o.spread != NONE:
        d = d - spread_weights(x, weight, q, j, n, whole, o) * plan.scale
    if o.capped:
        d = d * (1.0 - v * v)
    return d


@inline
def with_target(d, at, plan):
    """The vector with the gradient of the target in lane ``at``, if there is such a lane."""
    return where(iota(d) == (at if 0 <= at < lanes_of(d) else -1), plan.target, d)


@inline
def _put_first(g, m, d, edge):
    """Write the first ``m`` elements of a row: with the last ones of the row before, where those wait for them."""
    if edge.before:
        store_part(edge.line, lanes(g) - m, m, d)
        stream(g, m - lanes(g), load(edge.line, 0))
    else:
        store_part(g, 0, m, d)


@inline
def _put_last(g, j, m, d, edge):
    """Write the last ``m`` elements of a row, from ``j`` on, or let them wait for the next row."""
    if edge.after:
        store(edge.line, 0, d)
    else:
        store_part(g, j, m, d)


@inline
def whole_vectors(g, n, streamed):
    """From where to where ``n`` elements of the gradient are written by whole vectors."""
    begin = min(n, until_aligned(g)) if streamed else 0
    return begin, begin + (n - begin) // lanes(g) * lanes(g)


@inline
def _write_first(powers, x, g, begin, y, o, plan, weight, q, kept, kind, edge):
    """Gradient of the first ``begin`` classes."""
    if begin > 0:
        d = vector(powers, x, np.int64(0), begin, False, o, plan, weight, q, kept, kind)
        _put_first(g, begin, with_target(d, y, plan), edge)


@inline
def _write_last(powers, x, g, whole, n, y, o, plan, weight, q, kept, kind, edge):
    """Gradient of the classes from ``whole`` on."""
    if whole < n:
        d = vector(powers, x, whole, n - whole, False, o, plan, weight, q, kept, kind)
        _put_last(g, whole, n - whole, with_target(d, y - whole, plan), edge)


@inline
def _through(powers, x, g, begin, stop, o, plan, weight, q, kept, kind):
    """Gradient of the whole vectors of ``load(x, ...)`` from class ``begin`` on, by ordinary stores; where they end."""
    width = lanes(x)
    end = begin + (stop - begin) // width * width
    j, step = in_order(x, g, begin, end)
    further = WRITE_AHEAD if step > 0 else -WRITE_AHEAD
    for _ in range(begin, end, width):
        prefetch_write(g, j + further)
        store(g, j, vector(powers, x, j, width, True, o, plan, weight, q, kept, kind))
        j += step
    return end


@inline
def _write(powers, x, g, n, y, o, plan, weight, q, kept, kind, streamed, edge):
    """Gradient of ``n`` classes from ``x`` on, of which ``y`` is the target if it is among them.

    ``powers`` is ``again``, ``from_kept`` or ``from_waiting``, a constant as is ``kind``.
    """
    width = lanes(x)
    begin, whole = whole_vectors(g, n, streamed)
    _write_first(powers, x, g, begin, y, o, plan, weight, q, kept, kind, edge)
    if streamed:
        # The target is written with the vector that it is in: a line that has just left for memory would be fetched
        # back for it, while all stores wait (with 1,000 classes, a quarter of the time).
        if whole < n and not edge.after:
            prefetch_write(g, whole)
        j, step = in_order(x, g, begin, whole)
        for _ in range(begin, whole, width):
            d = vector(powers, x, j, width, True, o, plan, weight, q, kept, kind)
            stream(g, j, with_target(d, y - j, plan))
            j += step
    else:
        done = begin
        if SEVERAL and kind != GENERAL:
            done = _through(powers, at_once(x), at_once(g), begin, whole, o, plan, weight, q, at_once(kept), kind)
        _through(powers, x, g, done, whole, o, plan, weight, q, kept, kind)
        if 0 <= y < whole:
            store_one(g, y, plan.target)
    _write_last(powers, x, g, whole, n, y, o, plan, weight, q, kept, kind, edge)


@inline
def _capped_again(v, o, plan):
    """``capped_power`` of ``v``, with the row's K; 0 where that is too small."""
    t, scale, r = power_parts(v, o.powers, constants(v).one - plan.power, 0.0)
    return where(t >= constants(v).some, capped_power(v, scale, r), 0.0)


@inline
def _times_factor(d, plan):
    """The gradient, from what it is proportional to."""
    d = d * plan.factor
    return fma(d, plan.left, d)


@inline
def again_capped(x, j, n, whole, o, plan, kept, kind):
    """As ``again``, of a part of a vector of rows that are only capped: their gradient, as ``_from_values`` has it."""
    d = _times_factor(_capped_again(value(load_part(x, j, n), o), o, plan), plan)
    return d, d


@inline
def _from_values(powers, x, g, room, first, last, begin, o, plan, down):
    """Gradient of the whole vectors of ``load(x, ...)`` of a block, from ``begin`` on; gives where they end.

    In ``room`` are ``v`` or, if ``powers``, a constant, what has waited (4,500 to 50,257 classes: .80 to .87 of the
    time), to be multiplied by ``down`` for the row.

    (Several at once, and no questions in the loop. With the sums' loop, 17 % of the time of 4,096 classes.)
    """
    end = begin + (last - begin) // lanes(x) * lanes(x)
    for j in range(begin, end, lanes(x)):
        v = load_like(x, room, j - first)
        prefetch_write(g, j + WRITE_AHEAD)
        store(g, j, _times_factor(v * down if powers else _capped_again(v, o, plan), plan))
    return end


@inline
def _write_only_capped(powers, waits, call, numbers, x, g, n, y, o, plan, q, kept):
    """``_write_capped`` of rows without other options; ``powers``, a constant: what waits are these."""
    values, down, whole = lane_buffer(x, VALUES), power_of_two(-plan.power), whole_vectors(g, n, False)[1]
    room = values
    for first in range(0, whole, BLOCK):
        last = min(whole, first + BLOCK)
        if waits:
            room = advance(kept, first * item_bytes(kept))
        else:
            put_values(call, numbers, False, x, g, first, last, o, np.int64(0), room)
        done = _from_values(powers, at_once(x), at_once(g), room, first, last, first, o, plan, down)
        if SEVERAL:
            _from_values(powers, x, g, room, first, last, done, o, plan, down)
    if 0 <= y < whole:
        store_one(g, y, plan.target)
    _write_last(again_capped, x, g, whole, n, y, o, plan, q, q, q, EVEN, no_edge(x))


@inline
def _write_capped(call, numbers, x, g, n, y, o, plan, weight, q, kept, waits):
    """``_write`` below a softcap, ``again``: of a block of classes, first all ``v``, unless these wait.

    Such a gradient goes through the caches, see ``launch.go_past``.
    """
    values, whole = lane_buffer(x, VALUES), whole_vectors(g, n, False)[1]
    room = values
    for first in range(0, whole, BLOCK):
        last = min(whole, first + BLOCK)
        if waits:
            room = advance(kept, first * item_bytes(kept))
        else:
            put_values(call, numbers, False, x, g, first, last, o, np.int64(0), room)
        for j in range(first, last, lanes(x)):
            v = load(room, j - first)
            d = scaled_power(v - plan.base, o.powers, constants(v).one - plan.power, plan.factor, plan.left)
            prefetch_write(g, j + WRITE_AHEAD)
            store(g, j, with_options(d, v, j, lanes(x), True, o, plan, weight, q, x))
    if 0 <= y < whole:
        store_one(g, y, plan.target)
    _write_last(again, x, g, whole, n, y, o, plan, weight, q, q, GENERAL, no_edge(x))


@inline
def _log_softmax(x, g, n, o, plan, streamed, edge):
    """``(x - the largest) - log(the sum of exp of that)``."""
    top, width = plan.top * o.sign, lanes(x)
    begin, whole = whole_vectors(g, n, streamed)
    if begin > 0:
        _put_first(g, begin, (load_part(x, 0, begin) - top) - plan.factor, edge)
    if streamed:
        for j in range(begin, whole, width):
            stream(g, j, (load(x, j) - top) - plan.factor)
    else:
        for j in range(begin, whole, width):
            prefetch_write(g, j + WRITE_AHEAD)
            store(g, j, (load(x, j) - top) - plan.factor)
    if whole < n:
        _put_last(g, whole, n - whole, (load_part(x, whole, n - whole) - top) - plan.factor, edge)


@device
def fill(g, n, number, streamed, edge):
    """Every one of ``n`` elements of the gradient is ``number``."""
    apart()
    v, width = zeros(g) + number, lanes(g)
    begin, whole = whole_vectors(g, n, streamed)
    if begin > 0:
        _put_first(g, begin, v, edge)
    if streamed:
        for j in range(begin, whole, width):
            stream(g, j, v)
    else:
        for j in range(begin, whole, width):
            prefetch_write(g, j + WRITE_AHEAD)
            store(g, j, v)
    if whole < n:
        _put_last(g, whole, n - whole, v, edge)


@inline
def edge_of(rows, i):
    """The edge of row ``i``, where ``rows``, (line, begin, end), says which are written one after the other."""
    line, begin, end = rows
    return Edge(line, begin < i < end, begin <= i < end - 1)


@device
def write_rows(call, numbers, x0, g0, q0, weight, c, n, group, start, stop):
    """Write the gradient of ``n`` classes, from ``c`` on, of the group's rows ``start`` to ``stop``."""
    apart()
    o, streamed = options_of(call, numbers, x0), is_streamed(call)
    x_c, g_c = advance(x0, c * item_bytes(x0)), advance(g0, c * item_bytes(g0))
    q_c, weight_c = advance(q0, c * item_bytes(q0)), advance(weight, c * item_bytes(weight))
    for r in range(start, stop):
        i = group.first + r
        x, q = row_start(call, x_c, 0, X_STEP, i), row_start(call, q_c, 2, Q_STEP, i)
        g, plan = row_start(call, g_c, 1, GRADIENT_STEP, i), plan_of(x, group.table, r)
        (y, ignored), edge = target_of(call, i), edge_of(group.rows, i)
        waits, place = waiting(call, x, g, c, o, plan.base, group)
        if ignored or plan.factor != plan.factor:
            fill(g, n, 0.0 if ignored else np.nan, streamed, edge)
        elif call[KIND] == LOG_SOFTMAX:
            _log_softmax(x, g, n, o, plan, streamed, edge)
        elif group.step > 0:
            kept = kept_of(group, r)
            if o.even or is_only_capped(o, plan.base):
                _write(from_kept, x, g, n, y - c, o, plan, weight_c, q, kept, EVEN, streamed, edge)
            else:
                _write(from_kept, x, g, n, y - c, o, plan, weight_c, q, kept, GENERAL, streamed, edge)
        elif waits and o.even:
            _write(from_waiting, x, g, n, y - c, o, plan, weight_c, q, place, EVEN, streamed, edge)
        elif waits and o.soft:
            _write(from_waiting, x, g, n, y - c, o, plan, weight_c, q, place, SOFT, streamed, edge)
        elif o.even and plan.base == 0.0:
            _write(again, x, g, n, y - c, o, plan, weight_c, q, q, EVEN, streamed, edge)
        elif o.soft and plan.base == 0.0:
            _write(again, x, g, n, y - c, o, plan, weight_c, q, q, SOFT, streamed, edge)
        elif is_only_capped(o, plan.base):
            args = call, numbers, x, g, n, y - c, o, plan, q, place
            if waits and powers_wait(x, o):
                _write_only_capped(True, True, *args)
            else:
                _write_only_capped(False, waits, *args)
        elif o.capped:
            _write_capped(call, numbers, x, g, n, y - c, o, plan, weight_c, q, place, waits)
        else:
            _write(again, x, g, n, y - c, o, plan, weight_c, q, q, GENERAL, streamed, edge)


@device
def write_ends(call, numbers, x0, g0, group, r):
    """Write what lies before the first whole vector of the gradient of row ``r``, and behind the last one."""
    apart()
    o, i, n = options_of(call, numbers, x0), group.first + r, call[N_CLASSES]
    x, g = row_start(call, x0, 0, X_STEP, i), row_start(call, g0, 1, GRADIENT_STEP, i)
    plan, (y, _), edge, kept = plan_of(x, group.table, r), target_of(call, i), edge_of(group.rows, i), kept_of(group, r)
    begin, whole = whole_vectors(g, n, True)
    if group.step > 0:
        _write_first(from_kept, x, g, begin, y, o, plan, kept, kept, kept, EVEN, edge)
        _write_last(from_kept, x, g, whole, n, y, o, plan, kept, kept, kept, EVEN, edge)
    else:
        _write_first(again, x, g, begin, y, o, plan, kept, kept, kept, EVEN, edge)
        _write_last(again, x, g, whole, n, y, o, plan, kept, kept, kept, EVEN, edge)
