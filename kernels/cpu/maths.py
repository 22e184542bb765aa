"""The mathematics of one element, on vectors: powers of two, logarithm, tanh.

Everything is done in powers of two. With ``k`` the logit scale and ``K`` a whole number near the row's largest
``k * x * log2(e)``,

    exp(k * x) * 2**-K  =  2**n * 2**f,    n + f = k * x * log2(e) - K,    n whole,  |f| <= 1/2

costs no subtraction of the maximum and no rounding from it: ``n`` comes out of one fused multiply-add whose result is
forced to a whole number by its size, and ``f`` is what two more leave over, exact to the last bit that matters.
Shifting by a rounded maximum instead makes the loss of a confident row wrong by 1e-6 (``x - m`` of about -20 is only
known to 1e-6); this makes it wrong by 1e-7.

With AVX-512, an instruction looks numbers up in a register. There, powers begin not at powers of two alone but at
nodes, 16 an octave (8 in float64): numbers of 8 bits, from which a power is 2.5 % away (5 %) at most. So few terms do
that it takes 6 multiplications in place of 10 (float64: 10 in place of 15), and its error is that of the last rounding.
(A Zen 4, one thread, 1,000 classes: loss and gradient .93 to .96 of the time, loss alone .93; float64 .89 and .82. What
is looked up, and the additions that go with it, are four steps more: who has units to spare for multiplications gains
nothing.)
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba.core import types
from numba.extending import overload

from ..formats import FLOAT32, FLOAT32_NODES, FLOAT64, FLOAT64_NODES, LN2, LOG2E, Format
from .compile import inline
from .simd import (
    LOOKS_UP,
    above_or_nan,
    abreast,
    absolute,
    bits,
    fma,
    from_bits,
    held,
    looked_up,
    polynomial,
    to_float,
    where,
)

FORMAT32, FORMAT64 = (FLOAT32_NODES, FLOAT64_NODES) if LOOKS_UP else (FLOAT32, FLOAT64)  # this machine's


def constants(v: Any) -> Format:
    """The ``Format`` of a vector's elements, chosen while compiling."""
    raise NotImplementedError


@overload(constants)
def _constants(v):
    if v.element == types.float32:
        return lambda v: FORMAT32
    return lambda v: FORMAT64


class Powers(NamedTuple):
    """What a loop needs for powers ``2**((hi + lo) * v - K)``."""

    hi: float
    lo: float
    ln2: float  # of the polynomial, see ``Format``
    exp2: tuple[float, ...]
    expm1: tuple[float, ...]  # of another, for differences from 1


@inline
def _expm1(v, ln2, exp2):
    return (ln2, *exp2)


@inline
def _expm1_by_node(v, ln2, exp2):
    # (next to 1, what is little of a power is much of its difference from 1)
    return held(v, constants(v).expm1)


if LOOKS_UP:
    _expm1 = _expm1_by_node


@inline
def powers_of(v, hi, lo):
    """``Powers`` for vectors like ``v``."""
    c = constants(v)
    ln2, exp2 = held(v, (c.ln2,))[0], held(v, c.exp2)
    return Powers(hi, lo, ln2, exp2, _expm1(v, ln2, exp2))


@inline
def _scale(v, t):
    """The first part of the power that ``t`` is of, see ``power_parts``."""
    return from_bits(bits(t) << constants(v).shift)


@inline
def _fraction(v, p, magic, t):
    """``f``."""
    return abreast(fma(v, p.lo, fma(v, p.hi, magic - t)))


@inline
def _rest(f, p):
    """The second part."""
    # (the largest term last: 2**f within 0.9 units of 2**-24, of which Horner's rule to the end would make 1.1)
    return fma(f, p.ln2, f * f * polynomial(f, p.exp2))


@inline
def _rest_and(f, p, more):
    """The second part, and ``more``."""
    return fma(f, p.ln2, fma(f * f, polynomial(f, p.exp2), more))


@inline
def _scale_by_node(v, t):
    # (the lowest bits of t are j, whose place is that of the first bits behind the point)
    c = constants(v)
    return from_bits((bits(t) << c.shift) + looked_up(bits(t), bits(t), c.nodes))


@inline
def _fraction_by_node(v, p, magic, t):
    # (from the node, of which j / n is not quite the logarithm)
    return fma(v, p.hi, magic - t) + fma(v, p.lo, looked_up(v, bits(t), constants(v).less))


@inline
def _rest_by_node(f, p):
    return f * polynomial(f, (p.ln2, *p.exp2))


@inline
def _rest_and_by_node(f, p, more):
    return fma(f, polynomial(f, (p.ln2, *p.exp2)), more)


if LOOKS_UP:
    _scale, _fraction, _rest, _rest_and = _scale_by_node, _fraction_by_node, _rest_by_node, _rest_and_by_node


@inline
def power_parts(v, p, magic, more):
    """``2**((hi + lo) * v - K)`` as ``scale * (1 + r)``: ``t`` (for tests of range), ``scale`` and ``r + more``.

    ``magic`` is the format's ``one - K``. Where ``t < some`` the power is too small to be represented and scale and r
    mean nothing.
    """
    t = fma(v, p.hi, magic)
    return t, _scale(v, t), _rest_and(_fraction(v, p, magic, t), p, more)


@inline
def parts_above(v, sign, p, magic, least, even):
    """``scale`` and ``r`` of ``power_parts``; ``scale`` is 0 where ``sign * v`` is not above ``least``.

    ``even``, a constant: that is finite (``call.needs``). Then it needs no mask, where no instruction takes one: of
    ``least`` it is 0 anyway, see ``lowest`` in formats.py.
    """
    if not even or LOOKS_UP:
        there = above_or_nan(v * sign, least)
        t = where(there, fma(v, p.hi, magic), 0.0)
        return _scale(v, t), where(there, _rest(_fraction(v, p, magic, t), p), 0.0)
    v = where(v * sign < least, least * sign, v)  # one instruction, that keeps NaN
    t = abreast(fma(v, p.hi, magic))
    return _scale(v, t), _rest(_fraction(v, p, magic, t), p)


@inline
def scale_above(v, p, magic, least):
    """``scale`` of ``parts_above`` alone, of ``even`` rows."""
    if LOOKS_UP:
        return _scale(v, where(above_or_nan(v, least), fma(v, p.hi, magic), 0.0))
    return _scale(v, fma(where(v < least, least, v), p.hi, magic))


@inline
def least_with_power(v, k, hi):
    """The ``sign * v`` above which ``2**(hi * v - K)`` is not 0; ``k`` is K, a number or a vector of them."""
    return (k + constants(v).lowest) * (1.0 / abs(hi))


@inline
def power(v, p, magic):
    """``t`` as above, and ``2**((hi + lo) * v - K)``: within 1.3 ulp (with nodes .7), 0 below the smallest normal."""
    t, scale, r = power_parts(v, p, magic, 0.0)
    return t, where(t < constants(v).some, 0.0, fma(scale, r, scale))


@inline
def _coarse_by_node(v):
    return where(absolute(v) > constants(v).tiny, from_bits(bits(v) & -256), v)


@inline
def _as_it_is(v):
    return v


# So many bits of v that its product with a node is exact, where there are such.
coarse = _coarse_by_node if LOOKS_UP else _as_it_is


@inline
def log(u):
    """Natural logarithm of normal numbers above 0, within 2 ulp."""
    c = constants(u)
    above = bits(u) - c.root
    exponent = above >> c.mantissa
    m = from_bits(bits(u) - (exponent << c.mantissa))  # in [sqrt(1/2), sqrt(2))
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    return fma(to_float(exponent), LN2, s * fma(z, polynomial(z, c.log), 2.0))


@inline
def log1p(x):
    """``log(1 + x)`` of finite ``x >= 0``, to the last digits of the smallest x too."""
    u = 1.0 + x
    return log(u) + (x - (u - 1.0)) / u


@inline
def tanh_near(v):
    """Hyperbolic tangent where ``|v| <= near``, within 1.5 ulp, and NaN of NaN; and ``v * v``, to know whether it is.

    (Its steps are half those of ``_tanh_far``: 11 cycles a vector of 512 bits in place of 16, on a Zen 4.)
    """
    square = v * v
    return fma(v * square, polynomial(square, constants(v).tanh), v), square


@inline
def _tanh_far(v, p):
    """``e / (e + 2)`` with ``e = exp(2 * v) - 1``, in which nothing cancels: near 0 it is ``r`` alone."""
    c = constants(v)
    v = where(v > c.saturated, c.saturated, v)  # this order keeps NaN
    v = where(v < -c.saturated, -c.saturated, v)
    _, scale, r = power_parts(v, Powers(2.0 * LOG2E, 2.0 * c.log2e_rest, p.expm1[0], p.expm1[1:], p.expm1), c.one, 0.0)
    e = fma(scale, r, scale - 1.0)
    return e / (e + 2.0)


@inline
def tanh_beside(v, p, near):
    """Hyperbolic tangent of any number, within 3.5 ulp, from what ``tanh_near`` gives, right or not."""
    return where(absolute(v) > constants(v).near, _tanh_far(v, p), near)


@inline
def tanh(v, p):
    """Hyperbolic tangent, within 3.5 ulp; NaN of NaN. ``p``: ``Powers``, of which the polynomial is used.

    What it is depends on ``v`` alone, so that all who compute it give the same bits, a whole block of classes at once
    or one by one.
    """
    if constants(v).near == 0.0:
        return _tanh_far(v, p)
    return tanh_beside(v, p, tanh_near(v)[0])
