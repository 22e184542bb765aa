"""Second look at a row, still in the cache: every element of the gradient, computed again and rounded once.

Powers are not kept from the first look: to compute them again costs less than to write them, read them and write them
once more, and what is rounded twice is not exact.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .call import KIND, LOG_SOFTMAX, NONE, STREAM, options_of
from .compile import device, inline
from .element import spread_weights, value
from .finish import AT_TARGET, BASE, FACTOR, LEFT, POWER, SCALE, TOP
from .maths import constants, power_parts
from .simd import (
    advance,
    apart,
    fma,
    iota,
    item_bytes,
    lanes,
    load,
    load_part,
    prefetch_write,
    store,
    store_one,
    store_part,
    stream,
    until_aligned,
    where,
    zeros,
)

WRITE_AHEAD = 512  # elements between what is written and what is fetched to be written


class Plan(NamedTuple):
    """What the classes of a row need: see ``finish.py``."""

    top: float
    power: float
    base: float
    factor: float
    left: float
    scale: float
    target: float


@inline
def plan_of(x, table, r):
    """Lane ``r`` of the table."""
    width = lanes(x)
    return Plan(
        np.float64(table[TOP * width + r]),
        np.float64(table[POWER * width + r]),
        np.float64(table[BASE * width + r]),
        np.float64(table[FACTOR * width + r]),
        np.float64(table[LEFT * width + r]),
        np.float64(table[SCALE * width + r]),
        np.float64(table[AT_TARGET * width + r]),
    )


@inline
def scaled_power(v, o, magic, factor, left):
    """``factor * 2**(...)``, rounded once: the product with the factor is part of the last fused multiply-add."""
    t, scale, r = power_parts(v, o.hi, o.lo, magic, left)
    scale, r = scale * factor, fma(left, r, r)  # (1 + r) * (1 + left)
    return where(t <= constants(v).zero, 0.0, fma(scale, r, scale))


@inline
def kept_power(scale, r, factor, left):
    """The same from what ``stats.add`` gave, as exact: 4 instructions in place of 16."""
    scale = scale * factor
    return fma(scale, r + fma(left, r, left), scale)  # (1 + r) * (1 + left)


@inline
def _vector(x, j, n, whole, o, magic, plan, weight, q, even):
    """Gradient of ``n`` classes from ``j`` on; ``whole`` and ``even``, constants, leave out what is not needed."""
    logits = load(x, j) if whole else load_part(x, j, n)
    if even:
        d = scaled_power(logits, o, magic, plan.factor, plan.left)
        return d if o.spread == NONE else d - o.share * plan.scale
    v = value(logits, o)
    d = scaled_power(v - plan.base, o, magic, plan.factor, plan.left)
    if o.spread != NONE:
        d = d - spread_weights(x, weight, q, j, n, whole, o) * plan.scale
    if o.capped:
        d = d * (1.0 - v * v)
    return d


@inline
def _write(x, g, n, y, o, magic, plan, weight, q, even, streamed):
    """Gradient of ``n`` classes from ``x`` on, of which ``y`` is the target if it is among them."""
    width = lanes(x)
    begin = min(n, until_aligned(g)) if streamed else 0
    whole = begin + (n - begin) // width * width
    if streamed:
        # The target is written with the vector that it is in: a line that has just left for memory would be fetched
        # back for it, while all stores wait (with 1,000 classes, a quarter of the time).
        at = begin + (y - begin) // width * width if begin <= y < whole else whole
        prefetch_write(g, n - 1)  # the end of the last line, which is not written whole
        first, last = begin, at
        for _ in range(2):
            for j in range(first, last, width):
                stream(g, j, _vector(x, j, width, True, o, magic, plan, weight, q, even))
            first, last = at + width, whole
        if at < whole:
            d = _vector(x, at, width, True, o, magic, plan, weight, q, even)
            stream(g, at, where(iota(d) == y - at, plan.target, d))
    elif not even:
        for j in range(begin, whole, width):
            prefetch_write(g, j + WRITE_AHEAD)
            store(g, j, _vector(x, j, width, True, o, magic, plan, weight, q, even))
    elif o.spread == NONE:
        for j in range(begin, whole, width):
            prefetch_write(g, j + WRITE_AHEAD)
            store(g, j, scaled_power(load(x, j), o, magic, plan.factor, plan.left))
    else:
        for j in range(begin, whole, width):
            prefetch_write(g, j + WRITE_AHEAD)
            store(g, j, _vector(x, j, width, True, o, magic, plan, weight, q, even))
    j, m = 0, begin
    for _ in range(2):  # what lies before the first and behind the last whole vector
        if m > 0:
            store_part(g, j, m, _vector(x, j, m, False, o, magic, plan, weight, q, even))
        j, m = whole, n - whole
    if 0 <= y < n and not (streamed and begin <= y < whole):
        store_one(g, y, plan.target)


@inline
def _log_softmax(x, g, n, o, plan, streamed):
    """``(x - the largest) - log(the sum of exp of that)``."""
    top, width = plan.top * o.sign, lanes(x)
    begin = min(n, until_aligned(g)) if streamed else 0
    whole = begin + (n - begin) // width * width
    if streamed:
        for j in range(begin, whole, width):
            stream(g, j, (load(x, j) - top) - plan.factor)
    else:
        for j in range(begin, whole, width):
            prefetch_write(g, j + WRITE_AHEAD)
            store(g, j, (load(x, j) - top) - plan.factor)
    store_part(g, 0, begin, (load_part(x, 0, begin) - top) - plan.factor)
    store_part(g, whole, n - whole, (load_part(x, whole, n - whole) - top) - plan.factor)


@device
def fill(g, n, number, streamed):
    """Every one of ``n`` elements of the gradient is ``number``."""
    apart()
    v, width = zeros(g) + number, lanes(g)
    begin = min(n, until_aligned(g)) if streamed else 0
    whole = begin + (n - begin) // width * width
    if streamed:
        for j in range(begin, whole, width):
            stream(g, j, v)
    else:
        for j in range(begin, whole, width):
            store(g, j, v)
    store_part(g, 0, begin, v)
    store_part(g, whole, n - whole, v)


@device
def write_classes(call, numbers, x0, g0, q0, weight0, begin, end, y, plan):
    """Write the gradient of classes ``begin`` to ``end`` of a row."""
    apart()
    n, o = end - begin, options_of(call, numbers)
    x, g = advance(x0, begin * item_bytes(x0)), advance(g0, begin * item_bytes(g0))
    magic = constants(zeros(x)).one - plan.power
    if plan.factor != plan.factor:
        fill(g, n, np.nan, call[STREAM] != 0)
        return
    if call[KIND] == LOG_SOFTMAX:
        _log_softmax(x, g, n, o, plan, call[STREAM] != 0)
    else:
        q, weight = advance(q0, begin * item_bytes(q0)), advance(weight0, begin * item_bytes(weight0))
        if o.even and plan.base == 0.0:
            _write(x, g, n, y - begin, o, magic, plan, weight, q, True, call[STREAM] != 0)
        else:
            _write(x, g, n, y - begin, o, magic, plan, weight, q, False, call[STREAM] != 0)
