"""Vectors of bfloat16, the upper halves of float32, from memory and back to it.

A loop over bfloat16 is bound by arithmetic, of which this is a third where it is done as everybody does it:
instructions for 16 numbers, of which a core takes two at a time, with AVX-512:

===========  ==========  ==========================
from and to  everywhere  Ice Lake, Zen 4 and later
===========  ==========  ==========================
float32      2           1
bfloat16     9           4
===========  ==========  ==========================

(The instruction that those have for the way back, of AVX512-BF16, is 3 of these, and 3 more to do as everywhere with
what is below the smallest normal number, which it takes for 0.)
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from .llvm import I8, I16, I32, call_llvm, constant, lanes_from, machine_has

LANES = 16
FEATURES = "avx512bw", "avx512vbmi", "avx512vnni"  # of Ice Lake, Zen 4 and later
_BYTES, _HALVES = ir.VectorType(I8, 4 * LANES), ir.VectorType(I16, 2 * LANES)
_WORDS, _FLOATS = ir.VectorType(I32, LANES), ir.VectorType(ir.FloatType(), LANES)


def decode(context: Any, builder: ir.IRBuilder, raw: ir.Value) -> ir.Value:
    """float32 of 16-bit integers that are the bits of bfloat16."""
    if _by_avx512(context, raw):
        return _decode_avx512(builder, raw)
    word = builder.zext(raw, ir.VectorType(I32, raw.type.count))
    floats = ir.VectorType(ir.FloatType(), raw.type.count)
    return builder.bitcast(builder.shl(word, constant(word.type, 16)), floats)


def encode(context: Any, builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """The bits of float32 as bfloat16, rounded to nearest even. A NaN stays one, whatever its lower bits."""
    if _by_avx512(context, value):
        return _encode_avx512(builder, value)
    word = builder.bitcast(value, ir.VectorType(I32, value.type.count))
    odd = builder.and_(builder.lshr(word, constant(word.type, 16)), constant(word.type, 1))
    rounded = builder.add(word, builder.add(odd, constant(word.type, 0x7FFF)))
    quiet = builder.or_(word, constant(word.type, 0x400000))
    word = builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded)
    return builder.trunc(builder.lshr(word, constant(word.type, 16)), ir.VectorType(I16, value.type.count))


def _by_avx512(context: Any, value: ir.Value) -> bool:
    return value.type.count == LANES and machine_has(context, *FEATURES)


def _decode_avx512(builder: ir.IRBuilder, raw: ir.Value) -> ir.Value:
    both = lanes_from(builder, raw, ir.Constant(raw.type, None), list(range(2 * LANES)))  # no instruction of its own
    return builder.bitcast(_halves(builder, both, [half for i in range(LANES) for half in (LANES, i)]), _FLOATS)


def _encode_avx512(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    word = builder.bitcast(value, _WORDS)
    # The last bit that stays in one half, 0x7FFF in the other: their sum, of 16-bit products with 1, is added to word.
    parts = builder.or_(builder.and_(word, constant(_WORDS, 0x10000)), constant(_WORDS, 0x7FFF))
    rounded = call_llvm(builder, "llvm.x86.avx512.vpdpwssds.512", _WORDS, [word, parts, constant(_WORDS, 0x10001)])
    # Of a NaN, quiet or not (the lowest two digits of the table), value made quiet; else what is rounded.
    operands = [builder.bitcast(rounded, _FLOATS), value, constant(_WORDS, 0x22), I32(0), I16(-1), I32(4)]
    rounded = call_llvm(builder, "llvm.x86.avx512.mask.fixupimm.ps.512", _FLOATS, operands)
    upper = _halves(builder, builder.bitcast(rounded, _HALVES), [2 * (i % LANES) + 1 for i in range(2 * LANES)])
    return lanes_from(builder, upper, upper, list(range(LANES)))


def _halves(builder: ir.IRBuilder, value: ir.Value, order: list[int]) -> ir.Value:
    """16-bit lanes in another order, by one instruction.

    By bytes: what moves lanes of 16 bits takes two. LLVM would choose that, or others, if it saw that ``order`` is
    constant: assembly that is empty hides it, outside of all loops.
    """
    index = ir.Constant(_BYTES, [byte for half in order for byte in (2 * half, 2 * half + 1)])
    hidden = builder.asm(ir.FunctionType(_BYTES, [_BYTES]), "", "=v,0", [index], False)
    hidden.attributes.add("nounwind")
    hidden.attributes.add("readnone")
    moved = call_llvm(builder, "llvm.x86.avx512.permvar.qi.512", _BYTES, [builder.bitcast(value, _BYTES), hidden])
    return builder.bitcast(moved, _HALVES)
