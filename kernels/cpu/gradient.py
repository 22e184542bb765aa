"""Second look at a row, still in the cache: every element of the gradient, computed and rounded once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .call import KEEP_POWERS, KIND, LOG_SOFTMAX, N_CLASSES, NO_TARGET, NONE, UNIT, options_of
from .compile import device, inline
from .element import spread_weights, value
from .maths import constants, power_parts
from .simd import (
    advance,
    apart,
    distance,
    fma,
    iota,
    item_bytes,
    lanes,
    load,
    load_part,
    prefetch,
    rounded,
    store,
    store_one,
    store_part,
    where,
    zeros,
)
from .stats import CHUNK, relative


class Plan(NamedTuple):
    """What the classes need: ``gradient = factor * 2**(z * log2(e) - K) - scale * c_j``, and ``target`` at y."""

    power: float  # K
    base: float  # taken from v before anything else; 0 unless the row's logits are huge
    factor: float  # rounded to the arithmetic type ...
    rest: float  # ... and what that left out, relative to it
    scale: float  # of the spread weights c_j
    target: float


@inline
def scaled_power(v, o, magic, plan):
    """``factor * 2**(...)``, rounded once: the product with the factor is part of the last fused multiply-add."""
    t, scale, r = power_parts(v, o.hi, o.lo, magic, plan.rest)
    scale = scale * plan.factor
    return where(t <= constants(v).zero, 0.0, fma(scale, r, scale))


@inline
def _plain(x, g, n, y, o, magic, plan, ahead):
    """Gradient of ``n`` classes from ``x`` on, for rows without softcap and spread target."""
    whole = n // lanes(x) * lanes(x)
    for j in range(0, whole, lanes(x)):
        if ahead != 0:
            prefetch(advance(x, ahead), j)
        store(g, j, scaled_power(load(x, j), o, magic, plan))
    if whole < n:
        store_part(g, whole, n - whole, scaled_power(load_part(x, whole, n - whole), o, magic, plan))
    if y != NO_TARGET:
        store_one(g, y, plan.target)


@inline
def _general(x, g, n, y, o, magic, plan, weight, q):
    """The same for every option."""
    for j in range(0, n, lanes(x)):
        v = value(load_part(x, j, n - j), o, 0.0)
        d = scaled_power(v - plan.base, o, magic, plan)
        if o.spread != NONE:
            d = d - spread_weights(x, weight, q, j, n - j, o) * plan.scale
        if o.softcap > 0:
            d = d * (1.0 - (v / o.softcap) * (v / o.softcap))
        store_part(g, j, n - j, where(iota(d) == y - j, plan.target, d))


@inline
def _log_softmax(x, g, n, plan):
    """``(x - the largest) - log(the sum of exp of that)``; the plan has them as ``base`` and ``factor``."""
    for j in range(0, n, lanes(x)):
        store_part(g, j, n - j, (load_part(x, j, n - j) - plan.base) - plan.factor)


@device
def chunk_gradient(call, numbers, x, g, q, weight, n, y, plan, ahead):
    """Write the gradient of ``n`` classes from ``x`` on; ``ahead``: bytes to what is read next (0: unknown)."""
    apart()
    o = options_of(call, numbers)
    y = y if 0 <= y < n else NO_TARGET
    magic = constants(zeros(x)).one - plan.power
    if call[KIND] == LOG_SOFTMAX:
        _log_softmax(x, g, n, plan)
    elif o.plain and plan.base == 0.0:
        _plain(x, g, n, y, o, magic, plan, ahead)
    else:
        _general(x, g, n, y, o, magic, plan, weight, q)


@device
def fill(g, n, number):
    """Every one of ``n`` elements of the gradient is ``number``."""
    apart()
    v = zeros(g) + number
    for j in range(0, n, lanes(g)):
        store_part(g, j, n - j, v)


@device
def _scale_chunk(call, numbers, g, n, y, plan, base, k, ahead):
    """The same where the powers, with ``base`` and ``k``, were kept in ``g``; ``ahead`` from there."""
    apart()
    exact = (plan.factor + plan.factor * plan.rest) * relative(base, k, plan.base, plan.power, numbers[UNIT])
    factor = np.float64(rounded(g, exact))
    rest = exact - factor if abs(factor) < np.inf else 0.0
    whole, width = n // lanes(g) * lanes(g), lanes(g)
    for j in range(0, whole, width):
        if ahead != 0:
            prefetch(advance(g, ahead), j)
        e = load(g, j)
        store(g, j, fma(e, factor, e * rest))
    e = load_part(g, whole, n - whole)
    store_part(g, whole, n - whole, fma(e, factor, e * rest))
    if 0 <= y < n:
        store_one(g, y, plan.target)


@inline
def write_chunk(call, numbers, x, g, q, weight, y, plan, c, ahead, base, k):
    """The gradient of the row's chunk that starts at class ``c``. ``base`` and ``k`` are those of kept powers."""
    n, x_c, g_c = min(call[N_CLASSES] - c, CHUNK), advance(x, c * item_bytes(x)), advance(g, c * item_bytes(g))
    if plan.factor != plan.factor:
        fill(g_c, n, np.nan)
    elif call[KEEP_POWERS] != 0:
        to_next = distance(g_c, x_c) + ahead if ahead != 0 else 0
        _scale_chunk(call, numbers, g_c, n, y - c, plan, base, k, to_next)
    else:
        q_c, weight_c = advance(q, c * item_bytes(q)), advance(weight, c * item_bytes(weight))
        chunk_gradient(call, numbers, x_c, g_c, q_c, weight_c, n, y - c, plan, ahead)
