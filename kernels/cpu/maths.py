"""The mathematics of one element, on vectors: powers of two, logarithm, tanh.

Everything is done in powers of two. With ``k`` the logit scale and ``K`` a whole number near the row's largest
``k * x * log2(e)``,

    exp(k * x) * 2**-K  =  2**n * 2**f,    n + f = k * x * log2(e) - K,    n whole,  |f| <= 1/2

costs no subtraction of the maximum and no rounding from it: ``n`` comes out of one fused multiply-add whose result is
forced to a whole number by its size, and ``f`` is what two more leave over, exact to the last bit that matters.
Shifting by a rounded maximum instead makes the loss of a confident row wrong by 1e-6 (``x - m`` of about -20 is only
known to 1e-6); this makes it wrong by 1e-7.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba.core import types
from numba.extending import overload

from ..formats import FLOAT32, FLOAT64, LN2, LOG2E, Format
from .compile import inline
from .simd import above_or_nan, abreast, bits, fma, from_bits, held, polynomial, to_float, where


def constants(v: Any) -> Format:
    """The ``Format`` of a vector's elements, chosen while compiling."""
    raise NotImplementedError


@overload(constants)
def _constants(v):
    if v.element == types.float32:
        return lambda v: FLOAT32
    return lambda v: FLOAT64


class Powers(NamedTuple):
    """What a loop needs for powers ``2**((hi + lo) * v - K)``."""

    hi: float
    lo: float
    ln2: float  # of the polynomial, see ``Format``
    exp2: tuple[float, ...]


@inline
def powers_of(v, hi, lo):
    """``Powers`` for vectors like ``v``."""
    c = constants(v)
    return Powers(hi, lo, held(v, (c.ln2,))[0], held(v, c.exp2))


@inline
def power_parts(v, p, magic, rest):
    """``2**((hi + lo) * v - K)`` as ``scale * (1 + r)``: ``t`` (for tests of range), ``scale`` and ``r + rest``.

    ``magic`` is the format's ``one - K``. Where ``t <= zero`` the power is too small to be represented and scale and r
    mean nothing.
    """
    c = constants(v)
    t = fma(v, p.hi, magic)
    f = abreast(fma(v, p.lo, fma(v, p.hi, magic - t)))
    # (the largest term last: 2**f within 0.9 units of 2**-24, of which Horner's rule to the end would make 1.1)
    return t, from_bits(bits(t) << c.mantissa), fma(f, p.ln2, fma(f * f, polynomial(f, p.exp2), rest))


@inline
def parts_above(v, sign, p, magic, least, even):
    """``scale`` and ``r`` of ``power_parts``; ``scale`` is 0 where ``sign * v`` is not above ``least``.

    Of ``least`` it is 0 anyway: see ``lowest`` in formats.py. ``even``, a constant: that is finite (``call.are_even``).
    Then it needs no mask: a Zen 4 makes these where it multiplies, and is busy (1,000 and 4,096 classes: 1 to 6 %).
    """
    c = constants(v)
    if not even:
        there = above_or_nan(v * sign, least)
        t = where(there, fma(v, p.hi, magic), 0.0)
        f = fma(v, p.lo, fma(v, p.hi, magic - t))
        return from_bits(bits(t) << c.mantissa), where(there, fma(f, p.ln2, f * f * polynomial(f, p.exp2)), 0.0)
    v = where(v * sign < least, least * sign, v)  # one instruction, that keeps NaN
    t = abreast(fma(v, p.hi, magic))
    f = abreast(fma(v, p.lo, fma(v, p.hi, magic - t)))
    return from_bits(bits(t) << c.mantissa), fma(f, p.ln2, f * f * polynomial(f, p.exp2))


@inline
def scale_above(v, p, magic, least):
    """``scale`` of ``parts_above`` alone, of ``even`` rows."""
    return from_bits(bits(fma(where(v < least, least, v), p.hi, magic)) << constants(v).mantissa)


@inline
def least_with_power(v, k, hi):
    """The ``sign * v`` above which ``2**(hi * v - K)`` is not 0; ``k`` is K, a number or a vector of them."""
    return (k + constants(v).lowest) * (1.0 / abs(hi))


@inline
def power(v, p, magic):
    """``t`` as above, and ``2**((hi + lo) * v - K)``: within 1.3 ulp, 0 below the smallest normal number."""
    t, scale, r = power_parts(v, p, magic, 0.0)
    return t, where(t <= constants(v).zero, 0.0, fma(scale, r, scale))


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
def tanh(v, p):
    """Hyperbolic tangent, within 3 ulp; NaN of NaN. ``p``: ``Powers``, of which the polynomial is used.

    ``e / (e + 2)`` with ``e = exp(2 * v) - 1``, in which nothing cancels: near 0 it is ``r`` alone.
    """
    c = constants(v)
    v = where(v > c.saturated, c.saturated, v)  # this order keeps NaN
    v = where(v < -c.saturated, -c.saturated, v)
    _, scale, r = power_parts(v, Powers(2.0 * LOG2E, 2.0 * c.log2e_rest, p.ln2, p.exp2), c.one, 0.0)
    e = fma(scale, r, scale - 1.0)
    return e / (e + 2.0)
