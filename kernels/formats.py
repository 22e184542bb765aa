"""Constants of the formulas, for each floating-point type: the same for every kernel, on whatever device."""

from __future__ import annotations

from decimal import Context, Decimal
from typing import NamedTuple

import numpy as np

LN2 = 0.6931471805599453
LOG2E = 1.4426950408889634
LOG2E_REST = 2.0355273740931033e-17  # log2(e) - LOG2E


class Format(NamedTuple):
    """What the formulas need to know of a floating-point type.

    The polynomials interpolate at Chebyshev nodes (in brackets, the relative error in float32 and float64): ``exp2`` is
    ``(2**f - 1) / f`` on [-1/2, 1/2] (9e-9, 2e-17), ``log`` is ``(log((1 + s) / (1 - s)) / s - 2) / s**2`` over
    ``s**2`` (3e-9, 5e-18), ``tanh`` is ``(tanh(v) / v - 1) / v**2`` over ``v**2`` (2e-8).
    """

    mantissa: int  # bits behind the point
    zero: float  # 1.5 * 2**mantissa: adding it leaves a whole number in the lowest bits
    shift: int  # by which the bits of ``one + n`` come to be those of 2**n
    one: float  # adding it leaves a multiple of 2**(shift - mantissa) in the lowest bits; with the exponent's bias
    some: float  # one + n of the least n of which 2**n is a normal number
    lowest: float  # what rounds to an exponent just too small for a normal number (with nodes, to the least of those)
    limit: float  # |K| up to which one fused multiply-add leaves f exact
    tiny: float  # a sum of powers divided by more than this does not overflow
    saturated: float  # tanh(v) == 1 from here on
    gentle: float  # the softcap up to which no power times its slope is too small, whatever the logits of a row
    near: float  # |v| up to which tanh is a polynomial; 0: nowhere (that of float64 would take longer than a power)
    unit: float  # relative rounding of a number, and a little more
    root: int  # the bits of sqrt(1/2)
    log2e_rest: float  # log2(e) less its nearest number of this type
    ln2: float  # the first coefficient of exp2
    exp2: tuple[float, ...]  # the others
    log: tuple[float, ...]
    tanh: tuple[float, ...]
    expm1: tuple[float, ...]  # ln2 and exp2 for a difference from 1, of which the relative error counts
    nodes: tuple[int, ...]  # what the bits of ``one + n + j / len(nodes)`` lack, shifted, to those of 2**n times a node
    less: tuple[float, ...]  # j / len(nodes) less the logarithm of that node, to base 2


FLOAT32 = Format(
    mantissa=23,
    zero=1.5 * 2.0**23,
    shift=23,
    one=1.5 * 2.0**23 + 127,
    some=1.5 * 2.0**23 + 1,
    lowest=-126.75,
    limit=2.0**16,
    tiny=2.0**-100,
    saturated=10.0,
    gentle=34.0,
    near=1.0,
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
    tanh=(
        -0.3333333134651184,
        0.1333312839269638,
        -0.053934790194034576,
        0.02166011556982994,
        -0.008218921720981598,
        0.0025104593951255083,
        -0.00042069549090228975,
    ),
    expm1=(),
    nodes=(),
    less=(),
)
FLOAT64 = Format(
    mantissa=52,
    zero=1.5 * 2.0**52,
    shift=52,
    one=1.5 * 2.0**52 + 1023,
    some=1.5 * 2.0**52 + 1,
    lowest=-1022.75,
    limit=2.0**40,
    tiny=2.0**-900,
    saturated=20.0,
    gentle=330.0,
    near=0.0,
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
    tanh=(0.0,),
    expm1=(),
    nodes=(),
    less=(),
)


def with_nodes(c: Format, bits: int, exp2: tuple[float, ...], expm1: tuple[float, ...]) -> Format:
    """The format whose powers are those of two, times the nearest of ``2**bits`` nodes, times ``2**f`` of a small f.

    A node is a number of 8 bits next to ``2**(j / n)``: sums of these are exact, or nearly.
    """
    n, shift, exact = 2**bits, c.mantissa - bits, Context(prec=40)
    ln2 = exact.ln(Decimal(2))
    nodes = [round(2 ** (j / n + 7)) - 2**7 for j in range(n)]
    return c._replace(
        shift=shift,
        one=c.zero / n + (c.one - c.zero),
        some=c.zero / n + 1,
        lowest=c.lowest + 0.74,
        exp2=exp2,
        expm1=expm1,
        nodes=tuple((node << (c.mantissa - 7)) - (j << shift) for j, node in enumerate(nodes)),
        less=tuple(
            float(exact.subtract(Decimal(j / n), exact.divide(exact.ln(Decimal(1 + node / 2**7)), ln2)))
            for j, node in enumerate(nodes)
        ),
    )


# Where a register of 512 bits can be looked up in: f is in [-0.0356, 0.0356], and [-0.0668, 0.0668] (4e-9, 1e-17; of
# expm1, relative to the difference, 4e-9 and 4e-17).
FLOAT32_NODES = with_nodes(
    FLOAT32,
    4,
    (0.2402356117963791, 0.05550537258386612),
    (0.6931471824645996, 0.24022650718688965, 0.055505793541669846, 0.009618323296308517),
)
FLOAT64_NODES = with_nodes(
    FLOAT64,
    3,
    (
        0.24022650695911354,
        0.05550410866482257,
        0.00961812908462613,
        0.0013333558128712998,
        0.00015404561886198293,
        1.5253528217914087e-05,
    ),
    (
        0.6931471805599453,
        0.24022650695910072,
        0.05550410866482384,
        0.009618129107628633,
        0.001333355812112058,
        0.00015403530375839638,
        1.5253641707818305e-05,
        1.3216116098265348e-06,
    ),
)
