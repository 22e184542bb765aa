"""Constants of the formulas, for each floating-point type: the same for every kernel, on whatever device."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

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
    lowest: float  # what rounds to an exponent just too small for a normal number
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
    lowest=-126.75,
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
    lowest=-1022.75,
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
