"""The mathematics of one element, on chunks and single numbers: see ``kernels/cpu/maths.py``, whose formulas these are.

What differs: float32 looks ``2**f`` up, ``|f| <= 1/2``, with the instruction that GPUs have for it. It is wrong by at
most 2 units in the last place, where a polynomial takes five instructions more and is wrong by 1.3.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ..formats import FLOAT32, FLOAT64, LN2, LOG2E
from .compile import inline
from .vector import (
    bits,
    approximate_exp2,
    fma,
    from_bits,
    polynomial,
    power_of_two,
    shifted_left,
    where,
)

# |K| up to which a logit needs no shift before its power is taken: twice that, and a whole number next to it is not a
# number of the format next to 1.5 * 2**mantissa.
LIMIT32, LIMIT64 = 2.0**21, 2.0**40


class Maths(NamedTuple):
    """Functions and constants of one arithmetic type."""

    number: Any  # NumPy's type, for constants
    whole: Any  # of integers as wide
    zero: Any  # see formats.Format
    one: Any  # less K: ``magic``, see ``power``
    limit: Any
    unit: Any  # how far apart two numbers may be, relatively, that differ by rounding
    power: Any  # (v, hi, lo, magic) -> 2**(v * (hi + lo) - K), with K a whole number: odd, or less than 128
    quick_power: Any  # (v, hi, K) -> 2**(v * hi - K)
    quick: bool  # whether that is quicker
    log: Any
    log1p: Any
    tanh: Any


@cache
def maths(double: bool) -> Maths:
    """The functions for float64, or for float32."""
    c = FLOAT64 if double else FLOAT32
    number = np.float64 if double else np.float32
    mantissa, log2e_rest, exp2, log_terms = c.mantissa, c.log2e_rest, c.exp2, c.log
    first, zero, one, saturated = c.ln2, number(c.zero), number(c.one), number(c.saturated)
    half_one, two, nothing, ln2 = number(1.0), number(2.0), number(0.0), number(LN2)
    whole = np.int64 if double else np.int32
    root = whole(c.root)
    unit24, units24 = number(2.0**-24), number(2.0**24)

    @inline
    def power_by_polynomial(v, hi, lo, magic):
        t = fma(v, hi, magic)
        f = fma(v, lo, fma(v, hi, magic - t))
        scale = from_bits(shifted_left(bits(t), mantissa))
        r = fma(f, first, f * f * polynomial(f, exp2))
        return where(t <= zero, nothing, fma(scale, r, scale))

    @inline
    def power_by_lookup(v, hi, lo, magic):
        # n, the nearest whole number to v * hi - K, is found as t = 1 - (n + 127) * 2**-24, since that far are numbers
        # below 1 apart. A power too small for float32 has n < -126, and t would be 1 or more: an instruction that keeps
        # its result from 0 to 1 takes care of these at no cost. The bits of t are those of 1, whose last nine are 0,
        # less n + 127; times -2**23 they are those of 2**n, or for t = 1 of 0. The rest of the exponent, f, is exact
        # but for what adding v * lo rounds. (NaN stays in f; the power of -inf is 0, as 2**f is then, too.)
        return power_of_two(v, hi, lo, -hi * unit24, fma(magic, -unit24, half_one), magic - units24)

    @inline
    def quick_power_by_lookup(v, hi, k_of):
        # The exponent is rounded, as NumPy's is: of 2**-16 to 2**-8 that makes 3 units in the last place, where the power
        # above is wrong by 2 always. And ``hi`` is less than log2(e): of all powers of a row, that is one factor.
        return approximate_exp2(fma(v, hi, -k_of))

    @inline
    def quick_power_by_polynomial(v, hi, k_of):
        return power_by_polynomial(v, hi, nothing, one - k_of)

    power = power_by_polynomial if double else power_by_lookup
    quick_power = quick_power_by_polynomial if double else quick_power_by_lookup
    still = one if double else number(127.0)

    @inline
    def log(u):
        above = whole(bits(u) - root)
        exponent = whole(above >> mantissa)
        m = from_bits(whole(bits(u) - shifted_left(exponent, mantissa)))  # in [sqrt(1/2), sqrt(2))
        s = (m - half_one) / (m + half_one)
        z = s * s
        return fma(number(exponent), ln2, s * fma(z, polynomial(z, log_terms), two))

    @inline
    def log1p(x):
        u = half_one + x
        return log(u) + (x - (u - half_one)) / u

    @inline
    def tanh(v):
        v = where(v > saturated, saturated, v)  # this order keeps NaN
        v = where(v < -saturated, -saturated, v)
        t = fma(v, 2.0 * LOG2E, one)
        f = fma(v, 2.0 * log2e_rest, fma(v, 2.0 * LOG2E, one - t))
        scale = from_bits(shifted_left(bits(t), mantissa))
        r = fma(f, first, f * f * polynomial(f, exp2))
        e = fma(scale, r, scale - half_one)
        return e / (e + two)

    unit = number(c.unit)
    limit = number(LIMIT64 if double else LIMIT32)
    return Maths(number, whole, zero, still, limit, unit, power, quick_power, not double, log, log1p, tanh)
