"""Approximate instructions: right without errors, at their bounds with them, and exact where the manual says so."""

import numpy as np
import pytest

from .asm import assert_same_bits, evaluate

INF, NAN = np.inf, np.nan
NAN32 = np.uint32(0x7FFFFFFF).view(np.float32)
SUB = 2.0**-149

# Special operands and results, as the manual lists them, and subnormal ones.
SPECIAL = [
    ("ex2.approx.f32", [-INF, -0.0, 0.0, INF, NAN, 128, -149, -200], [0.0, 1, 1, INF, NAN32, INF, SUB, 0.0]),
    ("ex2.approx.ftz.f32", [SUB, -127, -INF], [1, 0.0, 0.0]),
    ("lg2.approx.f32", [-INF, -1, -0.0, 0.0, INF, NAN, SUB], [NAN32, NAN32, -INF, -INF, INF, NAN32, -149]),
    ("lg2.approx.ftz.f32", [SUB], [-INF]),
    ("rcp.approx.f32", [-INF, -0.0, 0.0, INF, NAN], [-0.0, -INF, INF, 0.0, NAN32]),
    ("rcp.approx.ftz.f32", [SUB, 2.0**127], [INF, 0.0]),
    ("sqrt.approx.f32", [-INF, -1, -0.0, 0.0, INF, NAN], [NAN32, NAN32, -0.0, 0.0, INF, NAN32]),
    ("rsqrt.approx.f32", [-INF, -1, -0.0, 0.0, INF, NAN], [NAN32, NAN32, -INF, INF, 0.0, NAN32]),
    ("tanh.approx.f32", [-INF, -0.0, 0.0, INF, NAN], [-1, -0.0, 0.0, 1, NAN32]),
]


@pytest.mark.parametrize("error", [None, "high", "low", 3])
@pytest.mark.parametrize(("instruction", "operand", "expected"), SPECIAL, ids=[row[0] for row in SPECIAL])
def test_special_operands(instruction, operand, expected, error):
    actual = evaluate(instruction, "f32", ("f32", operand), error=error)
    finite = np.isfinite(expected) & (np.array(expected) != 0) & np.isfinite(operand) & (np.array(operand) != 0)
    keep = ~finite if error is not None else np.ones(len(operand), bool)  # ordinary numbers may be off
    assert_same_bits(actual[keep], np.array(expected, np.float32)[keep])


def test_division():
    a, b = [1, INF, 6, -1, 0, 1], [2.0**127, 2.0**127, 3, 0.0, 0, INF]
    # The reciprocal of a divisor beyond 2**126 counts as 0, but not for div.full.
    assert_same_bits(evaluate("div.approx.f32", "f32", ("f32", a), ("f32", b)), [0.0, NAN32, 2, -INF, NAN32, 0.0])
    assert_same_bits(evaluate("div.full.f32", "f32", ("f32", a), ("f32", b)), [2.0**-127, INF, 2, -INF, NAN32, 0.0])


# Functions, operands, and the bound of the error as the manual has it: units in the last place, or relative.
BOUNDS = [
    ("ex2.approx.ftz.f32", np.exp2, (-120, 120), lambda x, y: 2.5 * np.spacing(y)),
    ("rcp.approx.ftz.f32", lambda x: 1 / x, (0.01, 50), lambda x, y: 1.5 * np.spacing(y)),
    ("sqrt.approx.f32", np.sqrt, (0.01, 50), lambda x, y: 2.0**-23 * y),
    ("rsqrt.approx.f32", lambda x: x**-0.5, (0.01, 50), lambda x, y: 2.0**-22.9 * y),
    ("tanh.approx.f32", np.tanh, (-4, 4), lambda x, y: 2.0**-11 * abs(y)),
    ("lg2.approx.ftz.f32", np.log2, (0.1, 9), lambda x, y: 2.0**-22 * np.where((x > 0.5) & (x < 2), 1, abs(y))),
]


@pytest.mark.parametrize(("instruction", "exact", "span", "bound"), BOUNDS, ids=[row[0] for row in BOUNDS])
def test_errors_reach_the_bounds_and_never_exceed_them(rng, instruction, exact, span, bound):
    x = rng.uniform(*span, 1000).astype(np.float32)
    y = exact(x.astype(np.float64))
    allowed = bound(x.astype(np.float64), y.astype(np.float32)).astype(np.float64)
    right, high, low, drawn, again, other = (
        evaluate(instruction, "f32", ("f32", x), error=error) for error in (None, "high", "low", 1, 1, 2)
    )
    np.testing.assert_array_equal(right, y.astype(np.float32))
    unit = np.spacing(np.abs(y).astype(np.float32)).astype(np.float64)
    for value, sign in ((high, 1), (low, -1)):
        off = (value - y) * sign
        assert (off <= allowed).all()
        assert (off > allowed - 2 * unit).all()
    assert (np.isin(drawn - high, 0) | np.isin(drawn - low, 0)).all()
    assert 400 < (drawn == high).sum() < 600
    np.testing.assert_array_equal(drawn, again)  # a function of the operand, as on a GPU
    assert (drawn != other).sum() > 300


def test_errors_stay_within_the_finite_numbers():
    largest = np.finfo(np.float32).max
    assert evaluate("div.full.f32", "f32", ("f32", [largest]), ("f32", [1]), error="high") == [largest]
