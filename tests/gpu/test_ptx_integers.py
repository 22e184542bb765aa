"""Integer instructions, by tables from the PTX manual and against Python's integers."""

import numpy as np
import pytest

from .asm import compute, evaluate
from .ptx import Fault

LOW32, HIGH32, ALL32 = -(2**31), 2**31 - 1, 2**32 - 1
LOW64, HIGH64, ALL64 = -(2**63), 2**63 - 1, 2**64 - 1

# Instruction, type of the result, types of the operands, operands, results.
TABLE = [
    ("add.s32", "s32", ["s32", "s32"], [[HIGH32, -1], [1, 1]], [LOW32, 0]),
    ("add.sat.s32", "s32", ["s32", "s32"], [[HIGH32, LOW32, 5], [1, -1, -7]], [HIGH32, LOW32, -2]),
    ("add.s64", "s64", ["s64", "s64"], [[HIGH64], [1]], [LOW64]),
    ("add.u16", "u16", ["u16", "u16"], [[65535], [2]], [1]),
    ("sub.s32", "s32", ["s32", "s32"], [[LOW32, 0], [1, LOW32]], [HIGH32, LOW32]),
    ("sub.sat.s32", "s32", ["s32", "s32"], [[LOW32, 0], [1, LOW32]], [LOW32, HIGH32]),
    ("mul.lo.s32", "s32", ["s32", "s32"], [[2**20, -3], [2**20, 5]], [0, -15]),
    ("mul.hi.s32", "s32", ["s32", "s32"], [[2**20, -3, LOW32], [2**20, 5, LOW32]], [2**8, -1, 2**30]),
    ("mul.hi.u32", "u32", ["u32", "u32"], [[ALL32], [ALL32]], [ALL32 - 1]),
    ("mul.wide.s32", "s64", ["s32", "s32"], [[LOW32, -3], [LOW32, 5]], [2**62, -15]),
    ("mul.wide.u32", "u64", ["u32", "u32"], [[ALL32], [ALL32]], [ALL32**2]),
    ("mul.wide.u16", "u32", ["u16", "u16"], [[65535], [65535]], [65535**2]),
    ("mul.hi.u64", "u64", ["u64", "u64"], [[ALL64], [ALL64]], [ALL64 - 1]),
    ("mul.hi.s64", "s64", ["s64", "s64"], [[LOW64, -1, -1], [LOW64, 1, -1]], [2**62, -1, 0]),
    ("mad.lo.s32", "s32", ["s32"] * 3, [[3], [-4], [5]], [-7]),
    ("mad.hi.u32", "u32", ["u32"] * 3, [[2**31], [4], [5]], [7]),
    ("mad.wide.s32", "s64", ["s32", "s32", "s64"], [[LOW32], [2], [1]], [-(2**32) + 1]),
    ("div.s32", "s32", ["s32", "s32"], [[7, -7, 7, -7, LOW32], [2, 2, -2, -2, -1]], [3, -3, -3, 3, LOW32]),
    ("rem.s32", "s32", ["s32", "s32"], [[7, -7, 7, -7], [2, 2, -2, -2]], [1, -1, 1, -1]),
    ("div.u64", "u64", ["u64", "u64"], [[ALL64], [10]], [ALL64 // 10]),
    ("rem.u32", "u32", ["u32", "u32"], [[ALL32], [10]], [5]),
    ("abs.s32", "s32", ["s32"], [[-5, LOW32]], [5, LOW32]),
    ("neg.s64", "s64", ["s64"], [[-5, LOW64]], [5, LOW64]),
    ("min.s32", "s32", ["s32", "s32"], [[-1], [1]], [-1]),
    ("min.u32", "u32", ["u32", "u32"], [[ALL32], [1]], [1]),
    ("max.u64", "u64", ["u64", "u64"], [[ALL64], [1]], [ALL64]),
    ("and.b32", "b32", ["b32", "b32"], [[0b1100], [0b1010]], [0b1000]),
    ("or.b64", "b64", ["b64", "b64"], [[0b1100], [0b1010]], [0b1110]),
    ("xor.b16", "b16", ["b16", "b16"], [[0b1100], [0b1010]], [0b0110]),
    ("not.b32", "b32", ["b32"], [[0]], [ALL32]),
    ("cnot.b32", "b32", ["b32"], [[0, 7]], [1, 0]),
    # Amounts beyond the width count as the width: 0, or the sign all over.
    ("shl.b32", "b32", ["b32", "u32"], [[3, 3, 3, 3, 3], [0, 31, 32, 33, ALL32]], [3, 2**31, 0, 0, 0]),
    ("shl.b64", "b64", ["b64", "u32"], [[3, 3, 3], [1, 63, 64]], [6, 2**63, 0]),
    ("shl.b16", "b16", ["b16", "u32"], [[3, 3, 3], [1, 15, 16]], [6, 2**15, 0]),
    ("shr.u32", "u32", ["u32", "u32"], [[ALL32, ALL32, ALL32], [4, 32, 256]], [2**28 - 1, 0, 0]),
    ("shr.s32", "s32", ["s32", "u32"], [[-16, -16, 16, -16], [2, 32, 99, ALL32]], [-4, -1, 0, -1]),
    ("shr.s64", "s64", ["s64", "u32"], [[-16, -16], [2, 64]], [-4, -1]),
    ("shr.b64", "b64", ["b64", "u32"], [[2**63], [63]], [1]),
    ("shf.l.wrap.b32", "b32", ["b32", "b32", "u32"], [[0x80000000, 1], [1, 2], [1, 32]], [3, 2]),
    ("shf.r.wrap.b32", "b32", ["b32", "b32", "u32"], [[0x80000000, 1], [1, 2], [1, 32]], [0xC0000000, 1]),
    ("shf.r.clamp.b32", "b32", ["b32", "b32", "u32"], [[1, 1], [2, 2], [32, 99]], [2, 2]),
    ("shf.l.clamp.b32", "b32", ["b32", "b32", "u32"], [[1, 1], [2, 2], [32, 31]], [1, 0]),
    ("bfe.u32", "u32", ["u32", "u32", "u32"], [[0xABCD, 0xABCD, ALL32, ALL32], [4, 4, 28, 0], [8, 0, 8, 99]],
     [0xBC, 0, 0xF, ALL32]),
    ("bfe.s32", "s32", ["s32", "u32", "u32"], [[0x80, 0x40, LOW32, -1, -1], [4, 4, 28, 5, 40], [4, 4, 8, 0, 4]],
     [-8, 4, -8, 0, -1]),
    ("bfe.s64", "s64", ["s64", "u32", "u32"], [[LOW64], [60], [4]], [-8]),
    ("bfi.b32", "b32", ["b32", "b32", "u32", "u32"], [[0xFF, 1, 5], [0, ALL32, 7], [4, 31, 8], [4, 8, 0]],
     [0xF0, ALL32, 7]),
    ("bfi.b64", "b64", ["b64", "b64", "u32", "u32"], [[1, 5], [2, 0], [32, 64], [32, 3]], [2**32 + 2, 0]),
    ("prmt.b32", "b32", ["b32"] * 3, [[0x33221100] * 4, [0x77665544] * 4, [0x3210, 0x7654, 0x0426, 0x5040]],
     [0x33221100, 0x77665544, 0x00442266, 0x55004400]),
    ("prmt.b32", "b32", ["b32"] * 3, [[0x000080FF], [0], [0x8A98]], [0xFF00FFFF]),  # signs: of bytes 0, 2, 1 and 0
    ("popc.b32", "u32", ["b32"], [[0, ALL32, 5]], [0, 32, 2]),
    ("popc.b64", "u32", ["b64"], [[ALL64]], [64]),
    ("clz.b32", "u32", ["b32"], [[0, 1, 2**31]], [32, 31, 0]),
    ("clz.b64", "u32", ["b64"], [[1]], [63]),
    ("brev.b32", "b32", ["b32"], [[1, 6]], [2**31, 0x60000000]),
    ("selp.b64", "b64", ["b64", "b64", "pred"], [[1, 2], [3, 4], [True, False]], [1, 4]),
]  # fmt: skip


@pytest.mark.parametrize(("instruction", "result", "kinds", "operands", "expected"), TABLE, ids=[r[0] for r in TABLE])
def test_table(instruction, result, kinds, operands, expected):
    actual = evaluate(instruction, result, *zip(kinds, operands, strict=True))
    assert actual.tolist() == expected


@pytest.mark.parametrize("kind", ["s32", "u32", "s64", "u64"])
def test_products_against_python(rng, kind):
    width = int(kind[1:])
    low, high = (-(2 ** (width - 1)), 2 ** (width - 1)) if kind[0] == "s" else (0, 2**width)
    a, b = (
        rng.integers(low, high, 300, dtype=f"{'i' if kind[0] == 's' else 'u'}{width // 8}", endpoint=False)
        >> rng.integers(0, width, 300).astype(f"{'i' if kind[0] == 's' else 'u'}{width // 8}")
        for _ in range(2)
    )
    exact = [int(x) * int(y) for x, y in zip(a, b, strict=True)]
    sources = (kind, a), (kind, b)
    assert [x % 2**width for x in exact] == (evaluate(f"mul.lo.{kind}", f"u{width}", *sources)).tolist()
    assert [x >> width for x in exact] == evaluate(f"mul.hi.{kind}", kind, *sources).tolist()


def test_signs_of_comparisons():
    a, b = ("u32", [ALL32, 1, 2]), ("u32", [1, ALL32, 2])
    for names, unsigned, signed in (
        (("lt", "lo"), [0, 1, 0], [1, 0, 0]),
        (("le", "ls"), [0, 1, 1], [1, 0, 1]),
        (("gt", "hi"), [1, 0, 0], [0, 1, 0]),
        (("ge", "hs"), [1, 0, 1], [0, 1, 1]),
        (("eq", "eq"), [0, 0, 1], [0, 0, 1]),
        (("ne", "ne"), [1, 1, 0], [1, 1, 0]),
    ):
        for name in names:
            np.testing.assert_array_equal(evaluate(f"setp.{name}.u32", "pred", a, b), unsigned)
        np.testing.assert_array_equal(evaluate(f"setp.{names[0]}.s32", "pred", a, b), signed)
    assert evaluate("setp.ne.b64", "pred", ("b64", [1]), ("b64", [2]))[0]


def test_predicates_are_bits_too():
    a, b = ("pred", [False, False, True, True]), ("pred", [False, True, False, True])
    np.testing.assert_array_equal(evaluate("and.pred", "pred", a, b), [0, 0, 0, 1])
    np.testing.assert_array_equal(evaluate("or.pred", "pred", a, b), [0, 1, 1, 1])
    np.testing.assert_array_equal(evaluate("xor.pred", "pred", a, b), [0, 1, 1, 0])
    np.testing.assert_array_equal(evaluate("not.pred", "pred", b), [1, 0, 1, 0])


def test_division_by_zero_is_found():
    with pytest.raises(Fault, match="value: an integer division by zero"):
        evaluate("div.s32", "s32", ("s32", [1]), ("s32", [0]))


@pytest.mark.parametrize("table", [0x00, 0x96, 0xE8, 0xCA, 0xFF])
def test_lop3(table):
    """Bit by bit, 0xF0, 0xCC and 0xAA have the eight combinations of three bits: the result is the table."""
    out = compute(f"mov.u32 %r1, 0xF0; mov.u32 %r2, 0xCC; lop3.b32 %out, %r1, %r2, 0xAA, {table};", "u32", block=1)
    assert out[0] & 0xFF == table
