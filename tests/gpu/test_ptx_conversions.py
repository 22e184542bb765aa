"""cvt and mov, by tables from the PTX manual and, for halves, against every value there is."""

import ml_dtypes
import numpy as np
import pytest

from .asm import assert_same_bits, compute, evaluate
from .ptx import Refused

INF, NAN = np.inf, np.nan
NAN32 = np.uint32(0x7FFFFFFF).view(np.float32)
SUB = 2.0**-149

# Instruction, type of the result, type of the operand, operand, result.
TABLE = [
    ("cvt.u32.u64", "u32", "u64", [2**32 + 5], [5]),
    ("cvt.s64.s32", "s64", "s32", [-5], [-5]),
    ("cvt.u64.u32", "u64", "u32", [2**32 - 5], [2**32 - 5]),
    ("cvt.u64.s32", "u64", "s32", [-1], [2**64 - 1]),
    ("cvt.s32.s8", "s32", "s16", [0x1FF, 0x7F], [-1, 127]),  # the lowest byte of a 16-bit register
    ("cvt.u32.u8", "u32", "u16", [0x1FF], [255]),
    ("cvt.sat.u8.s32", "u16", "s32", [-5, 300, 7], [0, 255, 7]),
    ("cvt.sat.s32.u32", "s32", "u32", [2**32 - 1], [2**31 - 1]),
    ("cvt.rni.s32.f32", "s32", "f32", [0.5, 1.5, 2.5, -0.5, 3e9, -3e9, NAN, INF],
     [0, 2, 2, 0, 2**31 - 1, -(2**31), 0, 2**31 - 1]),
    ("cvt.rzi.s32.f32", "s32", "f32", [1.9, -1.9], [1, -1]),
    ("cvt.rmi.s32.f32", "s32", "f32", [1.9, -1.1], [1, -2]),
    ("cvt.rpi.s32.f32", "s32", "f32", [1.1, -1.9], [2, -1]),
    ("cvt.rzi.u32.f32", "u32", "f32", [-1, 5e9, 2**31, NAN], [0, 2**32 - 1, 2**31, 0]),
    ("cvt.rzi.s64.f32", "s64", "f32", [2.0**40, 1e30, NAN], [2**40, 2**63 - 1, -(2**63)]),
    ("cvt.rzi.u64.f64", "u64", "f64", [2.0**63, -1, 1e30, NAN], [2**63, 0, 2**64 - 1, 2**63]),
    ("cvt.rzi.s32.f64", "s32", "f64", [1e10, NAN], [2**31 - 1, -(2**31)]),
    ("cvt.rpi.ftz.s32.f32", "s32", "f32", [SUB, 2.0**-126], [0, 1]),
    ("cvt.rn.f32.s32", "f32", "s32", [2**24 + 1, 2**24 + 3], [2**24, 2**24 + 4]),
    ("cvt.rn.f32.u64", "f32", "u64", [2**64 - 1], [2.0**64]),
    ("cvt.rn.f64.s64", "f64", "s64", [-(2**53) - 1], [-(2.0**53)]),
    ("cvt.f64.f32", "f64", "f32", [1.5, SUB], [1.5, SUB]),
    ("cvt.ftz.f64.f32", "f64", "f32", [1.5, SUB], [1.5, 0]),
    ("cvt.rn.f32.f64", "f32", "f64", [1 + 2.0**-24, 1 + 3 * 2.0**-24, 1e300, NAN, 2.0**-150],
     [1, 1 + 2.0**-22, INF, NAN32, 0]),
    ("cvt.rz.f32.f64", "f32", "f64", [1 + 2.0**-23.5, -1e300], [1, -np.finfo(np.float32).max]),
    ("cvt.rm.f32.f64", "f32", "f64", [-1 - 2.0**-30, 1e-300], [-1 - 2.0**-23, 0]),
    ("cvt.rp.f32.f64", "f32", "f64", [-1 - 2.0**-30, 1e-300], [-1, SUB]),
    ("cvt.rn.ftz.f32.f64", "f32", "f64", [-(2.0**-130)], [-0.0]),
    ("cvt.sat.f32.f32", "f32", "f32", [-1, 0.5, 2, NAN, -0.0], [0, 0.5, 1, 0, 0]),
    ("cvt.rni.f32.f32", "f32", "f32", [0.5, 1.5, -0.5, INF], [0, 2, -0.0, INF]),
    ("cvt.rmi.f32.f32", "f32", "f32", [-0.5], [-1]),
    ("cvt.rn.f16.f32", "f16", "f32", [1 + 2.0**-11, 65519, 65520, 2.0**-25, -(2.0**-24)],
     [1, 65504, INF, 0, -(2.0**-24)]),
    ("cvt.rn.bf16.f32", "bf16", "f32", [1 + 2.0**-8, 1 + 3 * 2.0**-8, -INF, NAN, 3.4e38],
     [0x3F80, 0x3F82, 0xFF80, 0x7FFF, 0x7F80]),
]  # fmt: skip


@pytest.mark.parametrize(("instruction", "result", "source", "operand", "expected"), TABLE, ids=[r[0] for r in TABLE])
def test_table(instruction, result, source, operand, expected):
    assert_same_bits(evaluate(instruction, result, (source, operand)), expected)


@pytest.mark.parametrize(("kind", "dtype"), [("f16", np.float16), ("bf16", ml_dtypes.bfloat16)])
def test_every_half(kind, dtype):
    bits = np.arange(2**16, dtype=np.uint16)
    for part in np.split(bits, 64):
        values = part.view(dtype)
        operand = values if kind == "f16" else part
        wide = evaluate(f"cvt.f32.{kind}", "f32", (kind, operand))
        np.testing.assert_array_equal(wide, values.astype(np.float32))
        number = ~np.isnan(wide)
        back = evaluate(f"cvt.rn.{kind}.f32", kind, ("f32", wide))
        np.testing.assert_array_equal(back.view(np.uint16)[number], part[number])
        assert (back.view(np.uint16)[~number] == 0x7FFF).all()


@pytest.mark.parametrize(("kind", "dtype"), [("f16", np.float16), ("bf16", ml_dtypes.bfloat16)])
def test_halves_are_rounded_to_nearest(rng, kind, dtype):
    x = (rng.normal(size=1000) * 2.0 ** rng.integers(-30, 13, 1000)).astype(np.float32)
    expected = x.astype(dtype).view(np.uint16)
    np.testing.assert_array_equal(evaluate(f"cvt.rn.{kind}.f32", kind, ("f32", x)).view(np.uint16), expected)
    pairs = evaluate(f"cvt.rn.{kind}x2.f32", f"{kind}x2", ("f32", x[:500]), ("f32", x[500:]))
    np.testing.assert_array_equal(pairs >> 16, expected[:500])  # the first operand is the upper half
    np.testing.assert_array_equal(pairs & 0xFFFF, expected[500:])


def test_other_forms_are_refused():
    for instruction, result, source in (
        ("cvt.rz.f16.f32", "f16", "f32"),
        ("cvt.rn.satfinite.bf16.f32", "bf16", "f32"),
        ("cvt.f32.f64", "f32", "f64"),
        ("cvt.s32.f32", "s32", "f32"),
        ("cvt.rz.f32.s32", "f32", "s32"),
    ):
        with pytest.raises(Refused, match="not implemented"):
            evaluate(instruction, result, (source, [1]))


# mov


def test_the_lowest_bits_of_a_register_come_first():
    halves = "mov.u32 %r1, 0x11112222; mov.u32 %r2, 0x33334444;"
    assert compute(f"{halves} mov.b64 %out, {{%r1, %r2}};", "b64", block=1) == [0x3333444411112222]
    assert compute("mov.u64 %rd1, 0x3333444411112222; mov.b64 {_, %out}, %rd1;", "b32", block=1) == [0x33334444]
    assert compute("mov.u32 %r1, 0x11112222; mov.b32 {%out, _}, %r1;", "b16", block=1) == [0x2222]
    quarters = "mov.u16 %h1, 1; mov.u16 %h2, 2; mov.u16 %h3, 3; mov.u16 %h4, 4;"
    assert compute(f"{quarters} mov.b64 %out, {{%h1, %h2, %h3, %h4}};", "b64", block=1) == [0x0004000300020001]


def test_literals():
    assert compute("mov.f32 %out, 0f3FC00000;", "f32", block=1) == [1.5]
    assert compute("mov.b32 %out, 0fFF800000;", "b32", block=1) == [0xFF800000]
    assert compute("mov.f64 %out, 0d3FF8000000000000;", "f64", block=1) == [1.5]
    assert compute("mov.s32 %out, -7;", "s32", block=1) == [-7]
    assert compute("mov.u64 %out, 0xFFFFFFFFFFU;", "u64", block=1) == [2**40 - 1]
    with pytest.raises(Refused, match="the literal"):
        compute("mov.f32 %out, 0d3FF8000000000000;", "f32")


def test_registers_of_inner_braces_are_their_own():
    body = "mov.u32 %r1, 1; { .reg .b32 %r1; mov.u32 %r1, 2; { .reg .b32 %r1; mov.u32 %r1, 3; } } mov.u32 %out, %r1;"
    assert compute(body, "u32", block=1) == [1]


def test_special_registers():
    block, n = (4, 3, 5), 60
    x, y, z = (np.arange(n) % 4, np.arange(n) // 4 % 3, np.arange(n) // 12)
    for axis, expected in zip("xyz", (x, y, z), strict=True):
        body = f"mov.u32 %out, %tid.{axis}; mov.u32 %r1, %tid.y; mov.u32 %r2, %tid.z; mad.lo.u32 %r0, %r1, 4, %r0;"
        out = compute(f"{body} mad.lo.u32 %r0, %r2, 12, %r0;", "u32", block=block)
        np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(compute("mov.u32 %out, %ctaid.x;", "u32", block=2, grid=3), [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(compute("mov.u32 %out, %nctaid.x;", "u32", block=2, grid=3), [3] * 6)
    np.testing.assert_array_equal(compute("mov.u32 %out, %ntid.x;", "u32", block=2, grid=3), [2] * 6)
    np.testing.assert_array_equal(compute("mov.u32 %out, %laneid;", "u32", block=40), [*range(32), *range(8)])
    lanes = compute("mov.u32 %out, %lanemask_lt;", "u32")
    np.testing.assert_array_equal(lanes, [2**i - 1 for i in range(32)])
    np.testing.assert_array_equal(compute("mov.u32 %out, %lanemask_ge;", "u32"), ~lanes)
    for name in ("%clock", "%smid", "%warpid"):
        with pytest.raises(Refused, match=name):
            compute(f"mov.u32 %out, {name};", "u32")
