"""Floating-point instructions, by tables from the PTX manual and against exact fractions."""

from fractions import Fraction

import numpy as np
import pytest

from .asm import assert_same_bits, evaluate
from .ptx import Refused

INF, NAN = np.inf, np.nan
NAN32 = np.uint32(0x7FFFFFFF).view(np.float32)  # the only NaN that float32 instructions give
TINY, HUGE = np.float32(2.0**-126), np.finfo(np.float32).max  # smallest normal number; largest
SUB = np.float32(2.0**-149)  # smallest subnormal number

# Instruction, type of result and operands, operands, results.
TABLE = [
    ("add.f32", "f32", [[1, INF, -INF, NAN, -0.0, -0.0, HUGE], [2, -INF, 1, 1, 0.0, -0.0, HUGE]],
     [3, NAN32, -INF, NAN32, 0.0, -0.0, INF]),
    ("add.f32", "f32", [[SUB], [SUB]], [2 * SUB]),
    ("add.ftz.f32", "f32", [[SUB, -SUB, TINY, 1], [SUB, -0.0, -1.5 * TINY, SUB]], [0.0, -0.0, -0.0, 1]),
    ("add.sat.f32", "f32", [[1, -1, NAN, 0.25, -INF], [1, 0.5, 0, 0.5, 0]], [1, 0.0, 0.0, 0.75, 0.0]),
    ("add.rm.f32", "f32", [[1, 1, -1, 1, 0.0], [2.0**-30, -(2.0**-30), -(2.0**-30), -1, 0.0]],
     [1, 1 - 2.0**-24, -1 - 2.0**-23, -0.0, 0.0]),
    ("add.rp.f32", "f32", [[1, 1, -1, 1], [2.0**-30, -(2.0**-30), -(2.0**-30), -1]], [1 + 2.0**-23, 1, -1, 0.0]),
    ("add.rz.f32", "f32", [[1, 1, -1, HUGE], [2.0**-30, -(2.0**-30), -(2.0**-30), HUGE]], [1, 1 - 2.0**-24, -1, HUGE]),
    ("sub.f32", "f32", [[1, INF, 0.0, -0.0], [3, INF, 0.0, 0.0]], [-2, NAN32, 0.0, -0.0]),
    ("mul.f32", "f32", [[3, INF, -0.0, TINY, HUGE], [-2, 0, 5, 0.5, -2]], [-6, NAN32, -0.0, TINY / 2, -INF]),
    ("mul.ftz.f32", "f32", [[-TINY, SUB], [0.5, HUGE]], [-0.0, 0.0]),
    ("mul.rm.f32", "f32", [[1 + 2.0**-23, -SUB], [1 + 2.0**-23, 0.5]], [1 + 2.0**-22, -SUB]),
    ("mul.rp.f32", "f32", [[1 + 2.0**-23, SUB], [1 + 2.0**-23, 0.5]], [1 + 3 * 2.0**-23, SUB]),
    ("fma.rn.f32", "f32", [[INF, INF, 1, 0.0], [0, 1, NAN, -1.0], [1, -INF, 1, 0.0]], [NAN32, NAN32, NAN32, 0.0]),
    # The exact sum lies above the middle of two float32 by less than float64 can show: rounding twice would go down.
    ("fma.rn.f32", "f32", [[1 + 2.0**-12], [1 + 2.0**-12], [2.0**-60]], [1 + 2.0**-11 + 2.0**-23]),
    ("fma.rn.f32", "f32", [[1 + 2.0**-12], [1 + 2.0**-12], [-(2.0**-60)]], [1 + 2.0**-11]),
    # The same among subnormal numbers: an odd one, and a little less than half a unit.
    ("fma.rn.f32", "f32", [[(1 + 2.0**-23) * 2.0**-75], [(1 - 2.0**-23) * 2.0**-75], [(2**22 + 1) * SUB]],
     [(2**22 + 1) * SUB]),
    ("fma.rm.f32", "f32", [[1], [1], [2.0**-60]], [1]),
    ("fma.rp.f32", "f32", [[1], [1], [2.0**-60]], [1 + 2.0**-23]),
    ("fma.rm.f32", "f32", [[2.0**-100], [2.0**-100], [-0.0]], [0.0]),
    ("fma.rn.sat.f32", "f32", [[2, NAN], [2, 1], [-3.5, 0]], [0.5, 0]),
    ("mad.rn.f32", "f32", [[2], [3], [4]], [10]),
    ("div.rn.f32", "f32", [[1, 1, -1, 0, INF], [3, 0, 0, 0, INF]], [np.float32(1 / 3), INF, -INF, NAN32, NAN32]),
    ("rcp.rn.f32", "f32", [[4, 0.0, -0.0, -INF]], [0.25, INF, -INF, -0.0]),
    ("sqrt.rn.f32", "f32", [[2, -0.0, -1, INF]], [np.sqrt(np.float32(2)), -0.0, NAN32, INF]),
    ("abs.f32", "f32", [[-3, -0.0, -INF]], [3, 0.0, INF]),
    ("abs.ftz.f32", "f32", [[-SUB]], [0.0]),
    ("neg.f32", "f32", [[-3, 0.0, INF]], [3, -0.0, -INF]),
    ("copysign.f32", "f32", [[-1, 1, -0.0], [3, -3, INF]], [-3, 3, -INF]),  # the sign of the first operand
    ("min.f32", "f32", [[1, NAN, 2, NAN, 0.0, -0.0], [2, 3, NAN, NAN, -0.0, 0.0]], [1, 3, 2, NAN32, -0.0, -0.0]),
    ("max.f32", "f32", [[1, NAN, 2, NAN, 0.0, -0.0], [2, 3, NAN, NAN, -0.0, 0.0]], [2, 3, 2, NAN32, 0.0, 0.0]),
    ("max.NaN.f32", "f32", [[1, NAN, 2], [2, 3, NAN]], [2, NAN32, NAN32]),
    ("max.ftz.f32", "f32", [[SUB], [-1]], [0.0]),
    ("add.f64", "f64", [[1, INF], [2.0**-60, 1]], [1, INF]),
    ("add.rn.f64", "f64", [[1], [2]], [3]),
    ("mul.f64", "f64", [[1e200], [1e200]], [INF]),
    ("max.f64", "f64", [[NAN, -0.0], [1, 0.0]], [1, 0.0]),
    ("div.rn.f64", "f64", [[1], [3]], [1 / 3]),
    ("sqrt.rn.f64", "f64", [[2]], [2**0.5]),
    ("fma.rn.f64", "f64", [[0.0, 1e200], [-1.0, 1e200], [0.0, -INF]], [0.0, -INF]),
    ("neg.f64", "f64", [[0.0]], [-0.0]),
]  # fmt: skip


@pytest.mark.parametrize(("instruction", "kind", "operands", "expected"), TABLE, ids=[row[0] for row in TABLE])
def test_table(instruction, kind, operands, expected):
    with np.errstate(over="ignore"):
        assert_same_bits(evaluate(instruction, kind, *((kind, x) for x in operands)), expected)


def test_pairs_of_float32():
    """Blackwell does the same to both halves of a 64-bit register."""
    a, b, c = (np.array(x, np.float32) for x in ([1, 2, SUB, NAN], [10, 20, SUB, 1], [0.5, 0.25, 1, 1]))
    pairs = [("f32x2", x.view(np.uint64)) for x in (a, b, c)]
    for instruction, expected in (
        ("add.rn.f32x2", [11, 22, 2 * SUB, NAN32]),
        ("sub.rn.ftz.f32x2", [-9, -18, 0, NAN32]),
        ("mul.f32x2", [10, 40, 0, NAN32]),
    ):
        assert_same_bits(evaluate(instruction, "f32x2", *pairs[:2]).view(np.float32), expected)
    fused = evaluate("fma.rn.f32x2", "f32x2", *pairs).view(np.float32)
    assert_same_bits(fused, [10.5, 40.25, 1, NAN32])
    with pytest.raises(Refused):
        evaluate("max.f32x2", "f32x2", *pairs[:2])


# Against fractions: whatever is exact in them is rounded once


def rounded(exact, dtype, mode):
    """Round a fraction to a finite number of a type, by its definition."""
    digits, smallest = {np.float32: (24, -149), np.float64: (53, -1074)}[dtype]
    if exact == 0:
        return dtype(0)
    exponent = max(_log2(abs(exact)) - digits + 1, smallest)
    scaled = exact / Fraction(2) ** exponent
    down = scaled.numerator // scaled.denominator
    rest = scaled - down
    up = {
        "rm": False,
        "rp": rest > 0,
        "rz": rest > 0 and scaled < 0,
        "rn": rest > Fraction(1, 2) or (rest == Fraction(1, 2) and down % 2 == 1),
    }[mode]
    return dtype(float((down + up) * Fraction(2) ** exponent))


def _log2(x):
    n = x.numerator.bit_length() - x.denominator.bit_length()
    return n if Fraction(2) ** n <= x else n - 1


def awkward(rng, dtype, n):
    """Numbers with few bits, whose sums and products often lie just beside the middle of two others."""
    digits, low, high = {np.float32: (24, -60, 40), np.float64: (53, -300, 300)}[dtype]
    bits = rng.integers(1, digits + 1, n)
    fraction = 1 + np.floor(rng.random(n) * 2.0**bits) / 2.0**bits
    scale = np.where(rng.random(n) < 0.7, rng.integers(-4, 4, n) * 8, rng.integers(low, high, n))
    return (fraction * rng.choice([-1, 1], n) * 2.0**scale).astype(dtype)


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
@pytest.mark.parametrize("opcode", ["add", "sub", "mul", "fma"])
def test_rounding_of_float32(rng, opcode, mode):
    a, b, c = (awkward(rng, np.float32, 1000) for _ in range(3))
    a[:20], b[:20], c[:20] = SUB * 5, 0.3, SUB * np.arange(20)  # into the subnormal numbers
    operands = (a, b, c) if opcode == "fma" else (a, b)
    actual = evaluate(f"{opcode}.{mode}.f32", "f32", *(("f32", x) for x in operands))
    for i in range(len(a)):
        x, y, z = (Fraction(float(v[i])) for v in (a, b, c))
        exact = {"add": x + y, "sub": x - y, "mul": x * y, "fma": x * y + z}[opcode]
        if exact:
            assert actual[i] == rounded(exact, np.float32, mode), (a[i], b[i], c[i])


def test_fma_of_float64_is_rounded_once(rng):
    a, b, c = (awkward(rng, np.float64, 1000) for _ in range(3))
    # Sums that nearly cancel; products below and above the range of float64 whose sums lie in it.
    c[:200] = -(a * b)[:200] * (1 + 2.0**-52 * rng.integers(-2, 3, 200))
    a[200:220], b[200:220], c[200:220] = 2.0**-600, 3 * 2.0**-500, 2.0**-1074 * np.arange(20)
    a[220:240], b[220:240], c[220:240] = 2.0**600, 1.25 * 2.0**424, -(2.0**1023)
    a[240:260] = (1 + rng.random(20)) * 2.0**1000
    b[240:260] = (1 + rng.random(20)) * 2.0**-60
    actual = evaluate("fma.rn.f64", "f64", ("f64", a), ("f64", b), ("f64", c))
    for i in range(len(a)):
        exact = Fraction(float(a[i])) * Fraction(float(b[i])) + Fraction(float(c[i]))
        assert actual[i] == rounded(exact, np.float64, "rn"), (a[i], b[i], c[i])


# Comparisons


@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_comparisons_with_nan(kind):
    a, b = [1, 2, 2, NAN, 1, NAN, 0.0], [2, 1, 2, 1, NAN, NAN, -0.0]
    less, greater, equal = [1, 0, 0], [0, 1, 0], [0, 0, 1]
    either = {
        "eq": equal, "ne": [1, 1, 0], "lt": less, "le": [1, 0, 1], "gt": greater, "ge": [0, 1, 1]
    }  # fmt: skip
    for name, ordered in either.items():
        zero = int(name in ("eq", "le", "ge"))
        for unordered, last in (("", 0), ("u", 1)):
            actual = evaluate(f"setp.{name}{unordered}.{kind}", "pred", (kind, a), (kind, b))
            np.testing.assert_array_equal(actual, [*ordered, last, last, last, zero], name + unordered)
    nan = [0, 0, 0, 1, 1, 1, 0]
    np.testing.assert_array_equal(evaluate(f"setp.nan.{kind}", "pred", (kind, a), (kind, b)), nan)
    np.testing.assert_array_equal(~evaluate(f"setp.num.{kind}", "pred", (kind, a), (kind, b)), nan)


def test_comparison_flushes_and_joins():
    assert not evaluate("setp.gt.ftz.f32", "pred", ("f32", [SUB]), ("f32", [0]))[0]
    assert evaluate("setp.gt.f32", "pred", ("f32", [SUB]), ("f32", [0]))[0]
    a, p = [1, 1, 3, 3], [False, True, False, True]
    for join, expected in (("and", [0, 1, 0, 0]), ("or", [1, 1, 0, 1]), ("xor", [1, 0, 0, 1])):
        actual = evaluate(f"setp.lt.{join}.f32", "pred", ("f32", a), ("f32", [2] * 4), ("pred", p))
        np.testing.assert_array_equal(actual, expected, join)


def test_selp_keeps_bits():
    odd = np.array([0xFFC12345, 0x7F812345], np.uint32).view(np.float32)  # NaN with a payload
    assert_same_bits(evaluate("selp.f32", "f32", ("f32", odd), ("f32", [1, 1]), ("pred", [True, True])), odd)
    assert_same_bits(evaluate("selp.f32", "f32", ("f32", [1, 2]), ("f32", [3, 4]), ("pred", [True, False])), [1, 4])


@pytest.mark.parametrize("instruction", [
    "add.rn.relu.f32", "fma.f32", "fma.rm.f64", "add.rz.f64", "add.ftz.f64", "div.rz.f32", "min.xorsign.abs.f32",
    "ex2.f32", "sin.approx.f32", "add.f16", "sqrt.approx.f64", "max.NaN.f64",
])  # fmt: skip
def test_other_forms_are_refused(instruction):
    kind = instruction.split(".")[-1]
    count = {"fma": 3, "ex2": 1, "sin": 1, "sqrt": 1}.get(instruction.split(".")[0], 2)
    with pytest.raises(Refused, match=r"line .*not implemented"):
        evaluate(instruction, kind, *[(kind, [1])] * count)
