"""A gradient written beside the sums of the row after it.

Alone, the sums of a row leave the memory waiting while they compute, and its gradient leaves the arithmetic waiting
while it goes to memory. A vector of each in turn, and both are busy all the time (rows out of cache, nanoseconds an
element on two threads: with 1,000 classes .27 in place of .30, with 32,000 .26 in place of .28; all gradients of a row
at once past the caches, .42). So is what the sums of later rows wait for, their largest logit, looked for here. Through
the caches nothing is gained (.25 and .24): there a gradient does not wait.

Here is what all such rows have in common, and those of which a part of the powers waits. Of which they are kept:
``streamed.py``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..task import LOG_SOFTMAX
from .addresses import in_order, lead_of
from .call import (
    EVEN,
    FETCH,
    GRADIENT_STEP,
    KIND,
    N_CLASSES,
    NONE,
    SMOOTHED,
    X_STEP,
    is_streamed,
    options_of,
    row_start,
    target_of,
)
from .compile import device, inline
from .gradient import from_waiting, vector, whole_vectors, with_target, write_ends
from .pointers import advance, item_bytes, stream, until_aligned
from .simd import apart, lanes
from .sums import BLOCK, BOTH, REST, after_block, even_end, even_vector, largest_from, no_sums, no_totals, with_later
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
    if r >= group.n or not is_streamed(call) or call[KIND] == LOG_SOFTMAX or not options_of(call, numbers, x).even:
        return False
    factor = group.table[FACTOR * lanes(x) + r]
    return (
        not target_of(call, group.first + r)[1]
        and factor == factor
        and (group.step > 0 or (group.waits and group.table[BASE * lanes(x) + r] == 0.0))
    )


@inline
def start_of(call, g0, group, r):
    """Where the whole vectors of the gradient of the group's row ``r`` begin."""
    g = row_start(call, g0, 1, GRADIENT_STEP, group.first + r)
    return advance(g, until_aligned(g) * item_bytes(g))


@inline
def _part_of(call, x0, g0, c, n, group, r):
    """Of the whole vectors of the gradient of the group's row ``r``, those of ``n`` classes, from the ``c``-th on."""
    i = group.first + r
    x, g = row_start(call, x0, 0, X_STEP, i), row_start(call, g0, 1, GRADIENT_STEP, i)
    begin, whole = whole_vectors(g, call[N_CLASSES], True)
    first = begin + c
    return Part(
        advance(x, first * item_bytes(x)),
        advance(g, first * item_bytes(g)),
        advance(group.kept, first * item_bytes(group.kept)),
        max(0, min(first + n, whole) - first),
        target_of(call, i)[0] - first,
        plan_of(x0, group.table, r),
    )


@inline
def write_part(powers, x, first, end, o, part):
    """The vectors of ``part`` from class ``first`` to ``end``, with nothing beside them."""
    for j in range(first, end, lanes(x)):
        d = vector(powers, part.x, j, lanes(x), True, o, part.plan, part.kept, part.kept, part.kept, EVEN)
        stream(part.g, j, with_target(d, part.y - j, part.plan))


@inline
def _both(powers, keep, blend, spread, x, first, last, shift, args, part, ahead, sums):
    """``block``, of classes of which there are as many in ``part``.

    Constants: whence the ``powers`` of ``part`` are, what to ``keep`` of those of the sums, ``blend``, the target is
    among the classes of ``part`` (to ask that of every vector: 5 %), and ``spread``.
    """
    o, fetch, middle, kept, q = args
    i, step = (first, lanes(x)) if keep == BOTH else in_order(part.x, part.g, first, last)
    for j in range(first, last, lanes(x)):
        d = vector(powers, part.x, i, lanes(x), True, o, part.plan, part.kept, part.kept, part.kept, EVEN)
        stream(part.g, i, with_target(d, part.y - i, part.plan) if blend else d)
        i += step
        sums = with_later(even_vector(x, j, o, fetch, shift, middle, spread, q, sums, kept, keep), ahead, j)
    return sums


@inline
def block(powers, keep, x, first, last, shift, args, part, ahead, sums):
    """The sums with classes ``first`` to ``last``, as many of ``part``, and the largest of ``ahead``."""
    o, fetch, middle, kept, q = args
    both, spread = max(first, min(last, part.n)), o.spread != NONE
    blend = first <= part.y < both
    if blend and spread:
        sums = _both(powers, keep, True, SMOOTHED, x, first, both, shift, args, part, ahead, sums)
    elif blend:
        sums = _both(powers, keep, True, NONE, x, first, both, shift, args, part, ahead, sums)
    elif spread:
        sums = _both(powers, keep, False, SMOOTHED, x, first, both, shift, args, part, ahead, sums)
    else:
        sums = _both(powers, keep, False, NONE, x, first, both, shift, args, part, ahead, sums)
    for j in range(both, last, lanes(x)):
        sums = with_later(even_vector(x, j, o, fetch, shift, middle, SMOOTHED, q, sums, kept, keep), ahead, j)
    return sums


@device
def sums_beside(call, numbers, x, n, shift, middle, short, x0, g0, c, before, r, ahead, n_ahead, kept):
    """``even_sums`` if ``short``, of row ``r`` of a group, where the same row of the group ``before`` waits.

    Of that, the gradient of as many classes is written, from ``c`` on and ahead of the sums by a block or more: what
    waits of it is where that of these sums is going to be.
    """
    apart()
    o, width, start = options_of(call, numbers, x), lanes(x), advance(x, -c * item_bytes(x))
    lead = lead_of(start, advance(start, call[X_STEP]), start_of(call, g0, before, r), BLOCK)
    if c == 0:
        write_ends(call, numbers, x0, g0, before, r)
        first = _part_of(call, x0, g0, np.int64(0), lead, before, r)
        write_part(from_waiting, x, np.int64(0), first.n, o, first)
    part, n_sums, n_ahead = _part_of(call, x0, g0, c + lead, n, before, r), n if short else 0, n_ahead if short else 0
    whole, args = n_sums // width * width, (o, call[FETCH], middle, kept, kept)
    totals, sums, q = no_totals(x), no_sums(x), np.int64(0)
    while True:
        sums = block(from_waiting, REST, x, q, min(q + BLOCK, whole), shift, args, part, ahead, sums)
        q += BLOCK
        if q >= whole:
            break
        totals, sums = after_block(x, False, o.spread != NONE, totals, sums)
    write_part(from_waiting, x, min(part.n, whole), part.n, o, part)
    rest, ties, linear, spread = even_end(x, n_sums, whole, False, shift, args, totals, sums, REST)
    return rest, ties, linear, spread, largest_from(ahead, whole, n_ahead, sums.later)
