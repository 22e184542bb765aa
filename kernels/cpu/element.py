"""What the options mean for one vector of classes."""

from __future__ import annotations

from .call import PROBABILITIES
from .compile import inline
from .maths import tanh
from .pointers import load, load_like, load_one, load_part_like
from .simd import fma, lanes, where, zeros


@inline
def value(logits, o):
    """``v`` of a vector of logits: see ``call.Options``."""
    v = logits
    if o.capped:
        v = tanh(v * o.inner, o.powers)
    return v


@inline
def soft_weights(x, q, j, n, whole, o):
    """``spread_weights`` of probability targets, apart from the classes' weights."""
    return fma(load_like(x, q, j) if whole else load_part_like(x, q, j, n), o.keep, zeros(x) + o.share)


@inline
def spread_weights(x, weight, q, j, n, whole, o):
    """The coefficients of ``L - z_j`` in the loss, apart from the target class: of ``n`` classes from ``j`` on.

    ``whole``, a constant: there are as many as a vector has lanes, or more.
    """
    c = zeros(x) + o.share
    if o.spread == PROBABILITIES:
        c = soft_weights(x, q, j, n, whole, o)
    if o.weighted:
        c = c * (load_like(x, weight, j) if whole else load_part_like(x, weight, j, n))
    return c


@inline
def spread_weights_of_class(o, x, q, weight, j):
    """The same of class ``j`` of rows that have a lane each; ``q`` is a buffer of vectors."""
    share = zeros(x) + o.share
    if o.spread == PROBABILITIES:
        share = fma(load(q, j * lanes(x)), o.keep, share)
    return share * load_one(weight, j) if o.weighted else share


@inline
def times(c, a):
    """``c * a`` with ``0 * anything = 0``."""
    return where(c == 0.0, 0.0, c * a)
