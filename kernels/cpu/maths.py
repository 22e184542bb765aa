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

import numpy as np
from numba.core import types
from numba.extending import overload

from .compile import inline
from .simd import bits, fma, from_bits, polynomial, to_float, where

LN2 = 0.6931471805599453
LOG2E = 1.4426950408889634
LOG2E_REST = 2.0355273740931033e-17  # log2(e) - LOG2E


class Format(NamedTuple):
    """What the formulas need to know of a floating-point type.

    The polynomials interpolate at Chebyshev nodes (in brackets, the relative error in float32 and float64): ``exp2`` is
    ``(2**f - 1) / f`` on [-1/2, 1/2] (9e-9, 2e-17), ``log`` is ``(log((1 + s) / (1 - s)) / s - 2) / s**2`` over
    ``s**2`` (3e-9, 5e-18).
    """

    mantissa: int  # bits behind the point
    zero: float  # 1.5 * 2**mantissa: adding it leaves a whole number in the lowest bits
    one: float  # zero + exponent bias: shifted into the exponent, these bits are 2**0
    lowest: float  # what rounds to the exponent of the smallest normal number
    limit: float  # |K| up to which one fused multiply-add leaves f exact
    tiny: float  # a sum of powers divided by more than this does not overflow
    saturated: float  # tanh(v) == 1 from here on
    unit: float  # relative rounding of a number, and a little more
    root: int  # the bits of sqrt(1/2)
    log2e_rest: float  # log2(e) less its nearest number of this type
    ln2: float  # the first coefficient of exp2
    exp2: tuple[float, ...]  # the others
    log: tuple[float, ...]


FLOAT32 = Format(
    mantissa=23,
    zero=1.5 * 2.0**23,
    one=1.5 * 2.0**23 + 127,
    lowest=-126.5,
    limit=2.0**16,
    tiny=2.0**-100,
    saturated=10.0,
    unit=2.0**-22,
    root=int(np.float32(0.5**0.5).view(np.int32)),
    log2e_rest=LOG2E - float(np.float32(LOG2E)),
    ln2=0.6931471824645996,
    exp2=(
        0.24022650718688965,
        0.055503569543361664,
        0.009618083015084267,
        0.0013390863314270973,
        0.00015453163359779865,
    ),
    log=(0.6666668653488159, 0.3998878002166748, 0.29579949378967285),
)
FLOAT64 = Format(
    mantissa=52,
    zero=1.5 * 2.0**52,
    one=1.5 * 2.0**52 + 1023,
    lowest=-1022.5,
    limit=2.0**40,
    tiny=2.0**-900,
    saturated=20.0,
    unit=2.0**-50,
    root=int(np.float64(0.5**0.5).view(np.int64)),
    log2e_rest=LOG2E_REST,
    ln2=0.6931471805599453,
    exp2=(
        0.24022650695910097,
        0.0555041086648216,
        0.009618129107606888,
        0.0013333558146416936,
        0.0001540353044173605,
        1.525273382983612e-05,
        1.321544258792169e-06,
        1.0178062445845774e-07,
        7.072585949269223e-09,
        4.4549605981865186e-10,
    ),
    log=(
        0.666666666666667,
        0.39999999999899505,
        0.28571428625975487,
        0.2222221113479508,
        0.18182889125261723,
        0.15331721600556042,
        0.14616449685043406,
    ),
)


def constants(v: Any) -> Format:
    """The ``Format`` of a vector's elements, chosen while compiling."""
    raise NotImplementedError


@overload(constants)
def _constants(v):
    if v.element == types.float32:
        return lambda v: FLOAT32
    return lambda v: FLOAT64


@inline
def power_parts(v, hi, lo, magic, rest):
    """``2**((hi + lo) * v - K)`` as ``scale * (1 + r)``: ``t`` (for tests of range), ``scale`` and ``r + rest``.

    ``magic`` is the format's ``one - K``. Where ``t <= zero`` the power is too small to be represented and scale and r
    mean nothing.
    """
    c = constants(v)
    t = fma(v, hi, magic)
    f = fma(v, lo, fma(v, hi, magic - t))
    # (the largest term last: 2**f within 0.9 units of 2**-24, of which Horner's rule to the end would make 1.1)
    return t, from_bits(bits(t) << c.mantissa), fma(f, c.ln2, fma(f * f, polynomial(f, c.exp2), rest))


@inline
def parts_above(v, hi, lo, magic, there):
    """``scale`` and ``r`` of ``power_parts``, both 0 where not ``there`` (``least_power``).

    The mask costs nothing: it is part of the first and of the last fused multiply-add. (0 shifted is 0.)
    """
    c = constants(v)
    t = where(there, fma(v, hi, magic), 0.0)
    f = fma(v, lo, fma(v, hi, magic - t))
    return from_bits(bits(t) << c.mantissa), where(there, fma(f, c.ln2, f * f * polynomial(f, c.exp2)), 0.0)


@inline
def power(v, hi, lo, magic):
    """``t`` as above, and ``2**((hi + lo) * v - K)``: within 1.3 ulp, 0 below the smallest normal number."""
    t, scale, r = power_parts(v, hi, lo, magic, 0.0)
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
def tanh(v):
    """Hyperbolic tangent, within 3 ulp; NaN of NaN.

    ``e / (e + 2)`` with ``e = exp(2 * v) - 1``, in which nothing cancels: near 0 it is ``r`` alone.
    """
    c = constants(v)
    v = where(v > c.saturated, c.saturated, v)  # this order keeps NaN
    v = where(v < -c.saturated, -c.saturated, v)
    _, scale, r = power_parts(v, 2.0 * LOG2E, 2.0 * c.log2e_rest, c.one, 0.0)
    e = fma(scale, r, scale - 1.0)
    return e / (e + 2.0)
