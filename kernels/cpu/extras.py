"""What else may be asked of a row: the winning class, the target's rank, the entropy."""

from __future__ import annotations

from .call import options_of
from .compile import device
from .element import value
from .maths import constants, power
from .pointers import load_one, load_part
from .simd import apart, count_true, first_true, iota, lanes, total, where, widen, zeros, zeros64
from .sums import BLOCK, largest_logit


@device
def has_nan(x, n, unit):
    """Whether ``unit * x`` is NaN for any of ``n`` logits."""
    apart()
    for j in range(0, n, lanes(x)):
        v = load_part(x, j, n - j) * unit
        if count_true(v != v) > 0:
            return True
    return False


@device
def argmax(x, n, order):
    """First position of the largest ``order * x``; as in NumPy, NaN counts as largest."""
    apart()
    wanted = largest_logit(x, n, order)
    place = n
    for j in range(0, n, lanes(x)):
        v = load_part(x, j, n - j) * order
        inside = iota(v) < min(n - j, lanes(x))
        if count_true((v != v) & inside) > 0:
            return j + first_true((v != v) & inside)
        found = (v == wanted) & inside
        if place == n and count_true(found) > 0:
            place = j + first_true(found)
    return place if place < n else 0


@device
def rank(x, n, y, order):
    """How many classes have a larger ``order * x`` than class ``y``."""
    apart()
    at_target = load_one(x, y) * order
    above = 0
    for j in range(0, n, lanes(x)):
        v = load_part(x, j, n - j) * order
        above += count_true((iota(v) < min(n - j, lanes(x))) & (v > at_target))
    return above


@device
def mean_distance(call, numbers, x, n, base, k, top):
    """Sum of the powers, each times ``top - sign * v``: how far below the top (less the base) the class lies."""
    apart()
    o = options_of(call, numbers, x)
    s = zeros64(x)
    magic = constants(zeros(x)).one - k
    for first in range(0, n, BLOCK):
        block = zeros(x)
        for j in range(first, min(n, first + BLOCK), lanes(x)):
            v = value(load_part(x, j, n - j), o) - base
            _, e = power(v, o.powers, magic)
            e = where(iota(v) < min(n - j, lanes(x)), e, 0.0)
            block = block + where(e == 0.0, 0.0, e * (top - v * o.sign))
        s = s + widen(block)
    return total(s)
