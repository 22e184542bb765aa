"""Arithmetic of floating-point numbers, rounded once and as told, over arrays.

NumPy rounds to nearest; PTX also rounds down (rm), up (rp) and towards zero (rz), flushes subnormal numbers (ftz),
saturates to [0, 1] (sat) and multiplies and adds with a single rounding (fma). All of float32 is done in float64, where
a product of two float32 is exact, and a sum is rounded to odd: its last bit says that something was cut off, so that
rounding it once more, to float32, gives what rounding the exact sum would have given.
"""

from fractions import Fraction

import numpy as np

NAN32 = np.uint32(0x7FFFFFFF).view(np.float32)  # what every float32 instruction gives for NaN
NEAREST, ZERO, DOWN, UP = "rn", "rz", "rm", "rp"
MODES = (NEAREST, ZERO, DOWN, UP)


# Subnormal numbers, NaN, saturation


def flush(x):
    """Subnormal float32 become zeros of their sign."""
    bits = x.view(np.uint32)
    tiny = (bits & np.uint32(0x7F800000)) == 0
    return np.where(tiny, bits & np.uint32(0x80000000), bits).view(np.float32) if tiny.any() else x


def canonical(x):
    """Every float32 NaN becomes the one NaN that the GPU makes."""
    nan = np.isnan(x)
    return np.where(nan, NAN32, x) if nan.any() else x


def saturate(x):
    """Clamp to [0, 1]; NaN becomes 0."""
    return np.where(x > 0, np.minimum(x, x.dtype.type(1)), x.dtype.type(0))


# Rounding


def to_odd(a, b):
    """a + b in float64 (float32 operands, or products of two): if inexact, the neighbour whose last bit is set."""
    total = a + b
    other = total - a
    error = (a - (total - other)) + (b - other)  # exact (Knuth)
    bits = total.view(np.int64)
    even = np.isfinite(total) & (error != 0) & (bits & 1 == 0)
    return np.where(even, bits + np.where((error > 0) == (total > 0), 1, -1), bits).view(np.float64)


def to_float32(exact, mode=NEAREST):
    """Round float64 to float32."""
    near = exact.astype(np.float32)
    if mode == NEAREST:
        return near
    back = near.astype(np.float64)
    wrong = {
        ZERO: np.abs(back) > np.abs(exact),
        DOWN: back > exact,
        UP: back < exact,
    }[mode]
    outwards = np.signbit(near) == (mode == DOWN)  # one step that way makes the magnitude larger
    step = np.where(outwards & (mode != ZERO), 1, -1).astype(np.int32)
    return np.where(wrong, near.view(np.int32) + step, near.view(np.int32)).view(np.float32)


def sum32(a, b, mode):
    """Round a + b, given in float64, to float32."""
    if mode != NEAREST:
        odd = to_odd(a, b)
        if mode == DOWN:  # a sum that is exactly 0 is -0 then, unless both are +0
            odd = np.where((odd == 0) & (np.signbit(a) | np.signbit(b)), -0.0, odd)
        return to_float32(odd, mode)
    total = a + b
    # Rounding twice is wrong only where the first result lies just between two float32, which is rare.
    tie = (total.view(np.uint64) & np.uint64(0x1FFFFFFF)) == 0x10000000
    tie |= np.abs(total) < 2.0**-126
    return to_float32(to_odd(a, b)) if tie.any() else total.astype(np.float32)


def add(a, b, mode=NEAREST):
    if a.dtype == np.float64:
        return a + b
    return a + b if mode == NEAREST else sum32(np.float64(a), np.float64(b), mode)


def multiply(a, b, mode=NEAREST):
    if a.dtype == np.float64:
        return a * b
    return a * b if mode == NEAREST else to_float32(np.float64(a) * np.float64(b), mode)


def fma(a, b, c, mode=NEAREST):
    """a * b + c, rounded once."""
    if a.dtype == np.float64:
        return _fma64(*np.broadcast_arrays(a, b, c))
    return sum32(np.float64(a) * np.float64(b), np.float64(c), mode)


def _two_sum(a, b):
    total = a + b
    other = total - a
    return total, (a - (total - other)) + (b - other)


def _split(a):
    high = a * 134217729.0  # 2**27 + 1 (Veltkamp)
    high = high - (high - a)
    return high, a - high


def _fma64(a, b, c):
    """Boldo and Melquiond: the exact product is added to c in parts, of which the small ones are rounded to odd."""
    product = a * b
    plain = product + c
    (a_high, a_low), (b_high, b_low) = _split(a), _split(b)
    low = a_low * b_low - (((product - a_high * b_high) - a_low * b_high) - a_high * b_low)
    sum_high, sum_low = _two_sum(c, low)
    high, middle = _two_sum(product, sum_high)
    result = high + to_odd(sum_low, middle)
    # Parts of a product may lie outside the range of float64; NaN, infinities and zeros need no second thought.
    size = np.abs(product)
    safe = (size > 2.0**-900) & (size < 2.0**1000) & (np.abs(c) < 2.0**1000)
    safe &= (np.abs(a) < 2.0**990) & (np.abs(b) < 2.0**990)
    result = np.where(safe, result, plain)
    finite = np.isfinite(a) & np.isfinite(b)
    for i in np.argwhere(finite & ~safe & (a != 0) & (b != 0) & ~np.isnan(c)):
        result[tuple(i)] = _fma64_by_fractions(a[tuple(i)], b[tuple(i)], c[tuple(i)])
    return result


def _fma64_by_fractions(a, b, c):
    if np.isinf(c):
        return c
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    if exact == 0:
        return float(a) * float(b) + float(c)  # with the right sign
    try:
        return float(exact)
    except OverflowError:
        return np.inf if exact > 0 else -np.inf


# Minimum, maximum and comparisons


def minimum(a, b, nan_wins=False):
    """A NaN loses against a number, unless told otherwise, and -0 is less than +0."""
    result = np.minimum(a, b) if nan_wins else np.fmin(a, b)
    zeros = (a == 0) & (b == 0)
    return np.where(zeros & (np.signbit(a) | np.signbit(b)), -np.abs(a), result) if zeros.any() else result


def maximum(a, b, nan_wins=False):
    return -minimum(-a, -b, nan_wins)


COMPARISONS = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}


def compare(name):
    """Ordered comparisons are false with NaN; unordered ones, whose names end in u, are true with NaN."""
    if name == "num":
        return lambda a, b: ~(np.isnan(a) | np.isnan(b))
    if name == "nan":
        return lambda a, b: np.isnan(a) | np.isnan(b)
    if name.removesuffix("u") in COMPARISONS and name.endswith("u"):
        ordered = COMPARISONS[name[:-1]]
        return lambda a, b: ordered(a, b) | np.isnan(a) | np.isnan(b)
    if name == "ne":
        return lambda a, b: (a != b) & ~np.isnan(a) & ~np.isnan(b)
    return COMPARISONS.get(name)
