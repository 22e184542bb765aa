"""The approximate instructions, as wrong as the PTX manual lets them be.

A real GPU gives some value within the stated bound of the exact one, always the same for the same input. Here it is the
correctly rounded value (error None), the highest or the lowest that is allowed ("high", "low"), or one of these two,
drawn for each input by a seed (an integer). Special inputs (zeros, infinities, NaN, negative numbers) give what the
manual lists, without error.
"""

import numpy as np

from . import floats

# Bounds for float32, by instruction: units in the last place of the correctly rounded result, or a relative error.
ULPS = {"ex2.approx": 2, "rcp.approx": 1, "div.approx": 2, "div.full": 2}
RELATIVE = {"sqrt.approx": 2.0**-23, "rsqrt.approx": 2.0**-22.9, "lg2.approx": 2.0**-22, "tanh.approx": 2.0**-11}
ABSOLUTE = {"lg2.approx": (0.5, 2.0, 2.0**-22)}  # for operands between the first two, in place of the relative error

EXACT = {
    "ex2.approx": np.exp2,
    "lg2.approx": np.log2,
    "rcp.approx": lambda x: 1.0 / x,
    "sqrt.approx": np.sqrt,
    "rsqrt.approx": lambda x: 1.0 / np.sqrt(x),
    "tanh.approx": np.tanh,
    "div.approx": np.divide,
    "div.full": np.divide,
}


def approximation(name):
    """Give the function of float32 operands and an error: None, "high", "low" or a seed."""

    def approximate(*operands, error=None):
        exact = EXACT[name](*(x.astype(np.float64) for x in operands))
        result = exact.astype(np.float32)
        if name == "div.approx":
            # The reciprocal of such a divisor is flushed to 0.
            lost = (np.abs(operands[1]) > 2.0**126) & np.isfinite(operands[1])
            result = np.where(lost, np.float32(0) * operands[0] * np.sign(operands[1]), result)
        if error is None:
            return result
        sign = _signs(operands, error)
        wrong = _steps(result, sign * ULPS[name]) if name in ULPS else _within(exact, sign, name, operands[0])
        ordinary = np.isfinite(result) & (result != 0)
        for x in operands:
            ordinary = ordinary & np.isfinite(x) & (x != 0)
        return np.where(ordinary, wrong, result)

    return approximate


def _signs(operands, error):
    if not isinstance(error, int):
        return {"high": 1, "low": -1}[error]
    mixed = np.uint32(error % 2**32)
    for x in operands:
        mixed = (mixed ^ x.view(np.uint32)) * np.uint32(0x85EBCA6B)  # as in MurmurHash3
        mixed = (mixed ^ (mixed >> np.uint32(13))) * np.uint32(0xC2B2AE35)
        mixed = mixed ^ (mixed >> np.uint32(16))
    return np.where(mixed & np.uint32(1), 1, -1)


def _steps(result, steps):
    """So many float32 up or down, without leaving the finite numbers of the sign."""
    magnitude = np.abs(result).view(np.int32)
    wrong = np.clip(magnitude + np.where(result > 0, steps, -steps), 0, 0x7F7FFFFF).astype(np.int32)
    return np.copysign(wrong.view(np.float32), result)


def _within(exact, sign, name, x):
    """The float32 that is farthest from `exact` on its side, within the bound."""
    bound = RELATIVE[name] * np.abs(exact)
    if name in ABSOLUTE:
        low, high, absolute = ABSOLUTE[name]
        bound = np.where((x > low) & (x < high), absolute, bound)
    limit = exact + sign * bound
    return np.where(sign > 0, floats.to_float32(limit, floats.DOWN), floats.to_float32(limit, floats.UP))
