"""The table: what is known of as many rows as a vector has lanes, row r in lane r of every vector.

A logarithm or a quotient takes as long for one row as for all of them. So whatever looks at the classes, be it the rows
one by one, across the lanes, or shared by threads, leaves what it found in a lane of the table, and the formulas of
rows (``finish.py``) are computed for all of them at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .compile import inline
from .pointers import float64_at, item_bytes, store
from .simd import NATIVE, lanes, zeros

# A vector each. What is found in a row first, as in ``Stats`` ...
(
    TOP, POWER, BASE, TIES, REST,
    REST_END,  # (two fields, as that is float64)
    LINEAR, SPREAD,
    TARGET,  # v of the target
    WEIGHT_Y,  # its class weight
    SHARE_Y,  # its spread weight
    MAGIC, LEAST, MARK,  # what ``stats.add`` takes: the shift of all powers, the least v with one, and v of the top
    AHEAD, KNOWN,  # the largest v of what is looked at next; 1 if that is known
    DISTANCE,  # sum of the powers, each times how far z lies below the top (for the entropy)
    # ... then the plan of the gradient, factor * 2**((z - base * unit) * log2(e) - K) - scale * c_j:
    FACTOR,  # rounded to the arithmetic type (for ``log_softmax``: what is subtracted from z after the top)
    LEFT,  # what that left out, relative to it
    SCALE,
    AT_TARGET,  # the gradient of the target class
    # ... and of the second derivative, p * ((1 - p) * BEND + p * SQUARE) of p = 2**(...) * INVERSE: see ``hessian.py``.
    INVERSE,  # rounded to the arithmetic type
    INVERSE_LEFT,  # what that left out, relative to it
    BEND, SQUARE,
    BEND_AT_TOP,  # the whole, of a class at the top
    BEND_AT_TARGET,  # and of the target, with the softcap's share
    FIELDS,
) = range(28)  # fmt: skip

# Vectors of which the powers can be kept for the gradient: logits, both parts and gradients are 32 KiB. Of 16-bit
# logits twice as many, 48 KiB (a Zen 4, one thread, bfloat16: 1,000 classes .95 of the time, 3,000 and 4,000 .64).
KEPT = 8192 // NATIVE


def most_kept(itemsize: int) -> int:
    """How many that is of logits of so many bytes."""
    return 2 * KEPT if itemsize == 2 else KEPT


_most_kept = inline(most_kept)


@inline
def most_kept_of(x):
    """``most_kept`` of logits ``x``."""
    return _most_kept(item_bytes(x))


@inline
def far(kept):
    """How many elements the second part of a power is kept from the first."""
    return 2 * KEPT * NATIVE // item_bytes(kept)


class Stats(NamedTuple):
    """What is known of some classes of a row. ``v`` and ``z``: see ``call.Options``."""

    top: float  # the largest sign * v
    power: float  # K, whole: powers are of 2**((z - unit * base) * log2(e) - K)
    base: float  # what is taken from v before anything else: 0 unless the logits are huge
    ties: float  # how many classes are at the top
    rest: float  # sum of the powers of the others
    linear: float  # sum of c_j * (sign * v_j - top), c_j the spread weights; with the next, only where there are any
    spread: float  # sum of c_j


class Plan(NamedTuple):
    """What the classes of a row need for their gradient: see ``finish.py``."""

    top: float
    power: float
    base: float
    factor: float
    left: float
    scale: float
    target: float


class Group(NamedTuple):
    """Rows that are looked at, finished and written together, each in its lane."""

    first: int
    n: int
    size: int  # how many rows further the next group begins
    together: int  # of so many, the classes are looked at before those of others; 0: nobody knows what comes next
    end: int  # of all the rows
    table: Any
    next_table: Any  # of the next group: another where gradients wait
    kept: Any  # room for their powers
    step: int  # how much of it a row takes; 0: powers are not kept
    waits: bool  # whether in that room part of the work for the gradient of one row does: see ``sums.waiting``
    rows: Any  # those written one after the other: see ``gradient.py``


class Curve(NamedTuple):
    """What the classes of a row need for their second derivative: see ``hessian.py``."""

    inverse: float
    left: float
    bend: float
    square: float
    top: float
    target: float


@inline
def cleared(table, x):
    """The table, which is ``lane_buffer(x, FIELDS)`` in the function that uses it, all 0, the weights 1."""
    for field in range(FIELDS):
        store(table, field * lanes(x), zeros(x))
    store(table, WEIGHT_Y * lanes(x), zeros(x) + 1.0)
    return table


@inline
def put_sums(x, table, r, rest, ties):
    """``rest`` and ``ties`` of ``Stats`` into lane ``r``."""
    table[TIES * lanes(x) + r] = ties
    float64_at(table, REST * lanes(x))[r] = rest


@inline
def put_stats(x, table, r, found):
    """``Stats`` into lane ``r``."""
    width = lanes(x)
    put_sums(x, table, r, found.rest, found.ties)
    table[TOP * width + r], table[POWER * width + r], table[BASE * width + r] = found.top, found.power, found.base
    table[LINEAR * width + r], table[SPREAD * width + r] = found.linear, found.spread


@inline
def stats_of(x, table, r):
    """The ``Stats`` in lane ``r``."""
    width = lanes(x)
    return Stats(
        np.float64(table[TOP * width + r]),
        np.float64(table[POWER * width + r]),
        np.float64(table[BASE * width + r]),
        np.float64(table[TIES * width + r]),
        float64_at(table, REST * width)[r],
        np.float64(table[LINEAR * width + r]),
        np.float64(table[SPREAD * width + r]),
    )


@inline
def put_plan(x, table, r, plan):
    """A ``Plan`` into lane ``r``."""
    width = lanes(x)
    table[TOP * width + r], table[POWER * width + r], table[BASE * width + r] = plan.top, plan.power, plan.base
    table[FACTOR * width + r], table[LEFT * width + r] = plan.factor, plan.left
    table[SCALE * width + r], table[AT_TARGET * width + r] = plan.scale, plan.target


@inline
def plan_of(x, table, r):
    """The ``Plan`` in lane ``r``."""
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
def put_curve(x, table, r, curve):
    """A ``Curve`` into lane ``r``."""
    width = lanes(x)
    table[INVERSE * width + r], table[INVERSE_LEFT * width + r] = curve.inverse, curve.left
    table[BEND * width + r], table[SQUARE * width + r] = curve.bend, curve.square
    table[BEND_AT_TOP * width + r], table[BEND_AT_TARGET * width + r] = curve.top, curve.target


@inline
def curve_of(x, table, r):
    """The ``Curve`` in lane ``r``."""
    width = lanes(x)
    return Curve(
        np.float64(table[INVERSE * width + r]),
        np.float64(table[INVERSE_LEFT * width + r]),
        np.float64(table[BEND * width + r]),
        np.float64(table[SQUARE * width + r]),
        np.float64(table[BEND_AT_TOP * width + r]),
        np.float64(table[BEND_AT_TARGET * width + r]),
    )
