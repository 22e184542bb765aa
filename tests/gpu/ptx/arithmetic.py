"""Instructions that compute with numbers: opcode -> how its modifiers become an operation.

Each function below takes the modifiers it knows; whatever is left over is refused.
"""

import numpy as np

from . import approximate, floats, integers
from .decode import FLOATS, INTEGERS, Operation, same, size


def float_operation(m, kind, count, function, results_flushed=True, canonical=True):
    """Wrap a function of float32 in what .ftz and .sat ask for, and give the GPU's NaN."""
    ftz, sat = m.flag("ftz"), m.flag("sat")
    if kind == "f64":
        if ftz or sat:
            m.refuse("of f64, with .ftz or .sat,")
        return Operation(function, kind, (kind,) * count)

    def wrapped(*operands):
        result = function(*map(floats.flush, operands)) if ftz else function(*operands)
        if sat:
            return floats.saturate(result)
        if ftz and results_flushed:
            result = floats.flush(result)
        return floats.canonical(result) if canonical else result

    return Operation(wrapped, kind, (kind,) * count)


# Sums and products


def add(m):
    kind = m.type(*INTEGERS, *FLOATS)
    if kind in FLOATS:
        mode = rounding(m, kind)
        return float_operation(m, kind, 2, lambda a, b: floats.add(a, b, mode))
    if m.flag("sat"):
        return same(integers.add_saturating, kind) if kind == "s32" else m.refuse("saturating")
    return same(np.add, kind)


def sub(m):
    kind = m.type(*INTEGERS, *FLOATS)
    if kind in FLOATS:
        mode = rounding(m, kind)
        return float_operation(m, kind, 2, lambda a, b: floats.add(a, -b, mode))
    if m.flag("sat"):
        wide = np.int64
        return (
            same(lambda a, b: integers.add_saturating(a.astype(wide), -b.astype(wide)), kind)
            if kind == "s32"
            else m.refuse("saturating")
        )
    return same(np.subtract, kind)


def mul(m):
    kind = m.type(*INTEGERS, *FLOATS)
    if kind in FLOATS:
        mode = rounding(m, kind)
        return float_operation(m, kind, 2, lambda a, b: floats.multiply(a, b, mode))
    return product(m, kind)


def product(m, kind):
    half = m.need("lo", "hi", "wide")
    if half == "wide":
        if size(kind) == 8:
            m.refuse("of 64 bits")
        return Operation(integers.multiply_wide, f"{kind[0]}{16 * size(kind)}", (kind, kind))
    return same(np.multiply if half == "lo" else integers.multiply_high, kind)


def mad(m):
    """Integers: product and sum. Floats: another name of fma."""
    kind = m.type(*INTEGERS, *FLOATS)
    if kind in FLOATS:
        return fused(m, kind)
    multiply = product(m, kind)
    return Operation(lambda a, b, c: multiply.function(a, b) + c, multiply.result, (*multiply.sources, multiply.result))


def fma(m):
    return fused(m, m.type(*FLOATS))


def fused(m, kind):
    mode = m.need(*floats.MODES) if kind == "f32" else m.need("rn")
    return float_operation(m, kind, 3, lambda a, b, c: floats.fma(a, b, c, mode))


def rounding(m, kind):
    """Sums and products of float64 are implemented to nearest only."""
    return m.take(*(floats.MODES if kind == "f32" else ("rn",))) or "rn"


def div(m):
    kind = m.type(*INTEGERS, *FLOATS)
    if kind not in FLOATS:
        return same(integers.divide, kind)
    return approximated(m, kind, "div", 2) or exactly(m, kind, 2, np.divide)


def rem(m):
    return same(integers.remainder, m.type(*INTEGERS))


def rcp(m):
    kind = m.type(*FLOATS)
    return approximated(m, kind, "rcp", 1) or exactly(m, kind, 1, lambda a: a.dtype.type(1) / a)


def sqrt(m):
    kind = m.type(*FLOATS)
    return approximated(m, kind, "sqrt", 1) or exactly(m, kind, 1, np.sqrt)


def exactly(m, kind, count, function):
    m.need("rn")
    return float_operation(m, kind, count, function)


def approximated(m, kind, opcode, count):
    """An approximate form, if that is what the modifiers ask for."""
    how = m.take("approx", "full")
    if how is None:
        return None
    name = f"{opcode}.{how}"
    if kind != "f32" or name not in approximate.EXACT:
        m.refuse("in this approximate form")
    function, ftz = approximate.approximation(name), m.flag("ftz")
    if opcode == "tanh":
        assert not ftz

    def wrapped(*operands, error=None):
        if ftz:
            return floats.canonical(floats.flush(function(*map(floats.flush, operands), error=error)))
        return floats.canonical(function(*operands, error=error))

    return Operation(wrapped, kind, (kind,) * count, approximate=True)


def function_of_one(opcode):
    return lambda m: approximated(m, m.type("f32"), opcode, 1) or m.refuse("exactly")


# Signs, minimum and maximum


def absolute(m):
    kind = m.type("s16", "s32", "s64", *FLOATS)
    return float_operation(m, kind, 1, np.abs) if kind in FLOATS else same(np.abs, kind, 1)


def neg(m):
    kind = m.type("s16", "s32", "s64", *FLOATS)
    # The sign of a NaN is a bit like any other here.
    return float_operation(m, kind, 1, np.negative, canonical=False) if kind in FLOATS else same(np.negative, kind, 1)


def extremum(of_floats, of_integers):
    def decode(m):
        kind = m.type(*INTEGERS, *FLOATS)
        if kind not in FLOATS:
            return same(of_integers, kind)
        nan_wins = kind == "f32" and m.flag("NaN")
        return float_operation(m, kind, 2, lambda a, b: of_floats(a, b, nan_wins))

    return decode


def copysign(m):
    kind = m.type(*FLOATS)
    return same(lambda a, b: np.copysign(b, a), kind)


TABLE = {
    "add": add,
    "sub": sub,
    "mul": mul,
    "mad": mad,
    "fma": fma,
    "div": div,
    "rem": rem,
    "rcp": rcp,
    "sqrt": sqrt,
    "rsqrt": function_of_one("rsqrt"),
    "ex2": function_of_one("ex2"),
    "lg2": function_of_one("lg2"),
    "tanh": function_of_one("tanh"),
    "abs": absolute,
    "neg": neg,
    "min": extremum(floats.minimum, np.minimum),
    "max": extremum(floats.maximum, np.maximum),
    "copysign": copysign,
}
