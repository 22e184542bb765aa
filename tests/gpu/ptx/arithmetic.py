"""The table of the instructions that only compute: opcode -> how its modifiers become an operation.

Each function below takes the modifiers it knows; what is left over is refused by `operation`.
"""

import numpy as np

from . import approximate, floats, integers
from .convert import convert
from .decode import BITS, FLOATS, INTEGERS, Operation, size
from .faults import Refused
from .values import DTYPES


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


def same(function, kind, count=2):
    return Operation(function, kind, (kind,) * count)


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


# Bits


def bitwise(function):
    return lambda m: same(function, m.type("pred", *BITS))


def invert(m):
    return same(np.invert, m.type("pred", *BITS), 1)


def cnot(m):
    return same(lambda a: (a == 0).astype(a.dtype), m.type(*BITS), 1)


def lop3(m):
    kind = m.type("b32")
    return Operation(lambda a, b, c, table: integers.logic3(a, b, c, int(table[0])), kind, (kind, kind, kind, "u32"))


def shl(m):
    kind = m.type(*BITS)
    return Operation(integers.shift_left, kind, (kind, "u32"))


def shr(m):
    kind = m.type(*BITS, *INTEGERS)
    return Operation(integers.shift_right, kind, (kind, "u32"))


def shf(m):
    left, wrap = m.need("l", "r") == "l", m.need("wrap", "clamp") == "wrap"
    kind = m.type("b32")
    return Operation(lambda a, b, amount: integers.funnel(a, b, amount, left, wrap), kind, (kind, kind, "u32"))


def bfe(m):
    kind = m.type("u32", "s32", "u64", "s64")
    return Operation(integers.extract, kind, (kind, "u32", "u32"))


def bfi(m):
    kind = m.type("b32", "b64")
    return Operation(integers.insert, kind, (kind, kind, "u32", "u32"))


def prmt(m):
    kind = m.type("b32")
    return same(integers.permute, kind, 3)


def counting(function):
    def decode(m):
        kind = m.type("b32", "b64")
        return Operation(function, "u32", (kind,))

    return decode


def brev(m):
    return same(integers.reverse_bits, m.type("b32", "b64"), 1)


# Comparing and choosing


def setp(m):
    """A comparison, perhaps joined with a third operand, to a predicate."""
    kind = m.type(*INTEGERS, *BITS, *FLOATS)
    ftz = kind == "f32" and m.flag("ftz")
    name = m.left.pop(0)
    unsigned = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
    if kind in FLOATS:
        compare = floats.compare(name)
    elif kind in BITS:
        compare = floats.COMPARISONS[name] if name in ("eq", "ne") else None
    else:
        compare = floats.COMPARISONS.get(unsigned.get(name, name) if kind[0] == "u" else name)
    if compare is None:
        m.refuse(f"comparing by {name}")

    def result(a, b):
        return compare(floats.flush(a), floats.flush(b)) if ftz else compare(a, b)

    joined = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}
    join = m.take(*joined)
    if join is None:
        return Operation(result, "pred", (kind, kind))
    return Operation(lambda a, b, c: joined[join](result(a, b), c), "pred", (kind, kind, "pred"))


def selp(m):
    kind = m.type(*BITS, *INTEGERS, *FLOATS)
    return Operation(lambda a, b, p: np.where(p, a, b), kind, (kind, kind, "pred"))


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
    "and": bitwise(np.bitwise_and),
    "or": bitwise(np.bitwise_or),
    "xor": bitwise(np.bitwise_xor),
    "not": invert,
    "cnot": cnot,
    "lop3": lop3,
    "shl": shl,
    "shr": shr,
    "shf": shf,
    "bfe": bfe,
    "bfi": bfi,
    "prmt": prmt,
    "popc": counting(integers.count_ones),
    "clz": counting(integers.leading_zeros),
    "brev": brev,
    "setp": setp,
    "selp": selp,
    "cvt": convert,
}


IN_PAIRS = ("add", "sub", "mul", "fma")  # these may do the same to both float32 of a 64-bit register


def operation(modifiers, opcode):
    if opcode not in TABLE:
        raise Refused(f"{modifiers.name}: the opcode is not implemented")
    pairs = opcode in IN_PAIRS and modifiers.left[-1:] == ["f32x2"]
    if pairs:
        modifiers.left[-1] = "f32"
        if "sat" in modifiers.left:
            modifiers.refuse("saturating")
    found = TABLE[opcode](modifiers)
    modifiers.done()
    assert found.result in DTYPES
    return in_pairs(found) if pairs else found


def in_pairs(one):
    def both(*operands):
        operands = [np.reshape(x, (-1, 1)).view(np.float32) for x in operands]
        return np.ascontiguousarray(one.function(*operands)).view(np.uint64)[:, 0]

    return Operation(both, "f32x2", ("f32x2",) * len(one.sources))
