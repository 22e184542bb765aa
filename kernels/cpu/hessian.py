"""The second derivative of the loss with respect to every logit: ``p * (1 - p)``, and what the options make of it.

Written after rows are finished and before their gradients, which may take the place of the logits. With
``p = 2**(...) * INVERSE`` it is

    p * ((1 - p) * BEND + p * SQUARE)

but for classes at the top, where ``1 - p`` would cancel: they have a number of their own, which ``finish.py`` found
from the sum of all others. The softcap multiplies that by ``(1 - v * v)**2`` and takes away ``2 * inner * v`` times the
gradient.
"""

from __future__ import annotations

import numpy as np

from .call import HESS, HESS_STEP, NONE, Q_STEP, X_STEP, options_of, row_start, target_of
from .compile import device, inline
from .element import spread_weights, spread_weights_of_class, value
from .gradient import fill, kept_power, no_edge, scaled_power
from .maths import constants
from .pointers import advance, arithmetic_at, item_bytes, load, load_part, store, store_one, store_part
from .simd import apart, fma, lanes, where
from .table import (
    BASE,
    BEND,
    BEND_AT_TOP,
    FACTOR,
    INVERSE,
    INVERSE_LEFT,
    LEFT,
    SCALE,
    SQUARE,
    TOP,
    curve_of,
    plan_of,
)


@inline
def _bent(p, at_top, bend, square, top):
    """Second derivatives with respect to z: of the classes with probabilities ``p``, or those ``at_top``."""
    return where(at_top, top, p * fma(p, square, (1.0 - p) * bend))


@inline
def _capped(h, d, v, o):
    """The same with respect to x, below a softcap; ``d`` is the first derivative with respect to z."""
    slope = 1.0 - v * v
    return slope * (slope * h - (2.0 * o.inner) * v * d)


@device
def across_lanes(call, numbers, x, n_classes, weight, logits, q, scales, parts, table, out):
    """Of rows that have a lane each, as ``narrow.py`` has them, into a buffer; with a softcap not those of targets."""
    apart()
    o, width = options_of(call, numbers, x), lanes(x)
    base, inverse, left = load(table, BASE * width), load(table, INVERSE * width), load(table, INVERSE_LEFT * width)
    bend, square, top = load(table, BEND * width), load(table, SQUARE * width), load(table, BEND_AT_TOP * width)
    mark = load(table, TOP * width) * o.sign - base
    if not o.capped:
        for j in range(n_classes):
            p = kept_power(load(scales, j * width), load(parts, j * width), inverse, left)
            store(out, j * width, _bent(p, load(logits, j * width) - base == mark, bend, square, top))
        return
    factor, factor_left = load(table, FACTOR * width), load(table, LEFT * width)
    for j in range(n_classes):
        v, scale, r = load(logits, j * width), load(scales, j * width), load(parts, j * width)
        h = _bent(kept_power(scale, r, inverse, left), v - base == mark, bend, square, top)
        d = kept_power(scale, r, factor, factor_left)
        if o.spread != NONE:
            d = d - spread_weights_of_class(o, x, q, weight, j) * load(table, SCALE * width)
        store(out, j * width, _capped(h, d, v, o))


@inline
def _vector(x, j, n, whole, o, plan, curve, weight, q, capped):
    """Of ``n`` classes from ``j`` on; ``whole`` and ``capped``, constants, leave out what is not needed."""
    logits = load(x, j) if whole else load_part(x, j, n)
    magic = constants(logits).one - plan.power
    v = value(logits, o) if capped else logits
    at_top = v - plan.base == plan.top * o.sign - plan.base
    p = scaled_power(v - plan.base, o.powers, magic, curve.inverse, curve.left)
    h = _bent(p, at_top, curve.bend, curve.square, curve.top)
    if capped:
        d = scaled_power(v - plan.base, o.powers, magic, plan.factor, plan.left)
        if o.spread != NONE:
            d = d - spread_weights(x, weight, q, j, n, whole, o) * plan.scale
        h = _capped(h, d, v, o)
    return h


@inline
def _write(x, h, n, o, plan, curve, weight, q, capped):
    width = lanes(x)
    whole = n // width * width
    for j in range(0, whole, width):
        store(h, j, _vector(x, j, width, True, o, plan, curve, weight, q, capped))
    if whole < n:
        store_part(h, whole, n - whole, _vector(x, whole, n - whole, False, o, plan, curve, weight, q, capped))


@device
def write_hessians(call, numbers, x0, q0, weight, c, n, first, stop, table):
    """Write those of ``n`` classes, from ``c`` on, of rows ``first`` to ``first + stop``."""
    apart()
    o, h0 = options_of(call, numbers, x0), arithmetic_at(call[HESS], x0)
    x_c, h_c = advance(x0, c * item_bytes(x0)), advance(h0, c * item_bytes(h0))
    q_c, weight_c = advance(q0, c * item_bytes(q0)), advance(weight, c * item_bytes(weight))
    for r in range(stop):
        i = first + r
        x, q = row_start(call, x_c, 0, X_STEP, i), row_start(call, q_c, 2, Q_STEP, i)
        h, plan, curve = row_start(call, h_c, 3, HESS_STEP, i), plan_of(x, table, r), curve_of(x, table, r)
        y, ignored = target_of(call, i)
        if ignored or plan.factor != plan.factor:
            fill(h, n, 0.0 if ignored else np.nan, False, no_edge(x))
        elif o.capped:
            _write(x, h, n, o, plan, curve, weight_c, q, True)
            if 0 <= y - c < n:
                store_one(h, y - c, curve.target)
        else:
            _write(x, h, n, o, plan, curve, weight_c, q, False)
