"""A gradient written beside the sums of the row after it.

Alone, the sums of a row leave the memory waiting while they compute, and its gradient leaves the arithmetic waiting
while it goes to memory. One vector of each in turn, both are busy all the time: of rows out of cache, the whole call
runs at the speed of a copy past the caches (1,000 classes, nanoseconds an element on two threads: .22 one after the
other, .20 by turns of 256 classes, .17 by turns of a vector; 32,000 classes: .22, .21, .20).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .call import (
    FETCH,
    GRADIENT_STEP,
    KIND,
    LOG_SOFTMAX,
    N_CLASSES,
    NONE,
    STREAM,
    X_STEP,
    options_of,
    row_start,
    target_of,
)
from .compile import device, inline
from .gradient import again, from_kept, kept_of, vector, whole_vectors, with_target, write_ends
from .simd import advance, apart, item_bytes, lanes, stream, widen, zeros, zeros64
from .sums import BLOCK, even_end, even_vector
from .table import BASE, FACTOR, Plan, plan_of


class Part(NamedTuple):
    """Whole vectors of a gradient, to be written past the caches."""

    x: Any  # the logits, from the first of these classes on
    g: Any
    kept: Any
    n: int  # how many classes
    y: int  # the target, counted from there
    plan: Plan


@inline
def may_wait(call, numbers, x, group, r):
    """Whether the gradient of the group's row ``r`` can be written beside the sums of a later one."""
    if r >= group.n or call[STREAM] == 0 or call[KIND] == LOG_SOFTMAX or not options_of(call, numbers, x).even:
        return False
    factor = group.table[FACTOR * lanes(x) + r]
    return (
        not target_of(call, group.first + r)[1]
        and factor == factor
        and (group.step > 0 or group.table[BASE * lanes(x) + r] == 0.0)
    )


@inline
def _part_of(call, x0, g0, c, n, group, r):
    """Of the gradient of the group's row ``r``, the whole vectors written beside classes ``c`` to ``c + n``."""
    i, kept = group.first + r, kept_of(group, r)
    x, g = row_start(call, x0, 0, X_STEP, i), row_start(call, g0, 1, GRADIENT_STEP, i)
    begin, whole = whole_vectors(g, call[N_CLASSES], True)
    first = begin + c
    return Part(
        advance(x, first * item_bytes(x)),
        advance(g, first * item_bytes(g)),
        advance(kept, first * item_bytes(kept)),
        max(0, min(first + n, whole) - first),
        target_of(call, i)[0] - first,
        plan_of(x0, group.table, r),
    )


@inline
def _stream_vector(powers, part, j, o):
    """Write one vector of the gradient."""
    d = vector(powers, part.x, j, lanes(part.x), True, o, part.plan, part.kept, part.kept, part.kept, True)
    stream(part.g, j, with_target(d, part.y - j, part.plan))


@inline
def _beside(powers, keep, call, numbers, x, n, magic, least, mark, middle, kept, part):
    """``even_sums`` of ``n`` classes, and the vectors of ``part``. ``keep``, a constant: of the powers."""
    o, fetch, width = options_of(call, numbers, x), call[FETCH], lanes(x)
    whole = n // width * width
    s, linear, others = zeros64(x), zeros64(x), zeros(x)
    for q in range(0, whole, BLOCK):
        a, b, below = zeros(x), zeros(x), zeros(x)
        last = min(q + BLOCK, whole)
        both = min(last, part.n)
        if o.spread == NONE:
            for j in range(q, both, width):
                _stream_vector(powers, part, j, o)
                _, a, b, others = even_vector(x, j, o, fetch, magic, least, mark, a, b, others, kept, keep)
        else:
            for j in range(q, both, width):
                _stream_vector(powers, part, j, o)
                v, a, b, others = even_vector(x, j, o, fetch, magic, least, mark, a, b, others, kept, keep)
                below = below + (v - middle)
        for j in range(max(q, both), last, width):
            v, a, b, others = even_vector(x, j, o, fetch, magic, least, mark, a, b, others, kept, keep)
            below = below + (v - middle)
        s, linear = s + (widen(a) + widen(b)), linear + widen(below)
    for j in range(min(part.n, whole), part.n, width):
        _stream_vector(powers, part, j, o)
    return even_end(x, n, whole, o, magic, least, mark, middle, s, linear, others, kept, keep)


@device
def _beside_kept(call, numbers, x, n, magic, least, mark, middle, kept, part):
    apart()
    return _beside(from_kept, True, call, numbers, x, n, magic, least, mark, middle, kept, part)


@device
def _beside_again(call, numbers, x, n, magic, least, mark, middle, kept, part):
    apart()
    return _beside(again, False, call, numbers, x, n, magic, least, mark, middle, kept, part)


@device
def sums_beside(call, numbers, x, n, magic, least, mark, middle, kept, short, x0, g0, c, group, r):
    """``even_sums`` if ``short``; and the gradient of as many classes, from ``c`` on, of row ``r`` of ``group``.

    That row is one that waits. Its powers are kept where those of the sums are going to be: they are read first.
    """
    apart()
    part, n_sums = _part_of(call, x0, g0, c, n, group, r), n if short else np.int64(0)
    if c == 0:
        write_ends(call, numbers, x0, g0, group, r)
    if group.step > 0:
        return _beside_kept(call, numbers, x, n_sums, magic, least, mark, middle, kept, part)
    return _beside_again(call, numbers, x, n_sums, magic, least, mark, middle, kept, part)
