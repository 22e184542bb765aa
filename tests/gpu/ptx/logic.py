"""Instructions on bits and predicates: logic, shifts, bit fields, comparing, choosing."""

import numpy as np

from . import floats, integers
from .decode import BITS, FLOATS, INTEGERS, Operation, same
from .values import DTYPES, whole

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

    def known(values, masks):
        """As much as of the one that is chosen."""
        a, b = (np.uint8(whole(DTYPES[kind])) if mask is None else mask for mask in masks[:2])
        return np.where(values[2], a, b)

    return Operation(lambda a, b, p: np.where(p, a, b), kind, (kind, kind, "pred"), known=known)


TABLE = {
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
}
