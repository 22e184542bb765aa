"""Vectors of bfloat16, the upper halves of float32, from memory and back to it.

A loop over bfloat16 is bound by arithmetic, of which this is a third where it is done as everybody does it:
instructions for 16 numbers, of which a core takes two at a time, with AVX-512:

===========  ==========  ============  ==========================
from and to  everywhere  Cascade Lake  Ice Lake, Zen 4 and later
===========  ==========  ============  ==========================
float32      2           2             1
bfloat16     9           6             4
===========  ==========  ============  ==========================

(The instruction that AVX512-BF16 has for the way back is 3 of these, and takes what is below the smallest normal number
for 0; to do there as everywhere else is 3 more.)
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from .llvm import I8, I16, I32, call_llvm, constant, lanes_from, machine_has

LANES = 16
ROUNDS, MOVES = "avx512vnni", "avx512vbmi"  # what the two halves of the work take to be short
_BYTES, _HALVES = ir.VectorType(I8, 4 * LANES), ir.VectorType(I16, 2 * LANES)
_WORDS, _FLOATS = ir.VectorType(I32, LANES), ir.VectorType(ir.FloatType(), LANES)


def decode(context: Any, builder: ir.IRBuilder, raw: ir.Value) -> ir.Value:
    """float32 of 16-bit integers that are the bits of bfloat16."""
    if raw.type.count == LANES and machine_has(context, MOVES):
        both = lanes_from(builder, raw, ir.Constant(raw.type, None), list(range(2 * LANES)))  # takes no instruction
        return builder.bitcast(_halves(builder, both, [half for i in range(LANES) for half in (LANES, i)]), _FLOATS)
    word = builder.zext(raw, ir.VectorType(I32, raw.type.count))
    floats = ir.VectorType(ir.FloatType(), raw.type.count)
    return builder.bitcast(builder.shl(word, constant(word.type, 16)), floats)


def encode(context: Any, builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """The bits of float32 as bfloat16, rounded to nearest even. A NaN stays one, whatever its lower bits."""
    short = value.type.count == LANES
    rounded = (_rounded_by_vnni if short and machine_has(context, ROUNDS) else _rounded)(builder, value)
    if short and machine_has(context, MOVES):
        order = [2 * (i % LANES) + 1 for i in range(2 * LANES)]
        upper = _halves(builder, builder.bitcast(rounded, _HALVES), order)
        return lanes_from(builder, upper, upper, list(range(LANES)))
    return builder.trunc(builder.lshr(rounded, constant(rounded.type, 16)), ir.VectorType(I16, value.type.count))


def _rounded(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """Words whose upper halves are the result."""
    word = builder.bitcast(value, ir.VectorType(I32, value.type.count))
    odd = builder.and_(builder.lshr(word, constant(word.type, 16)), constant(word.type, 1))
    rounded = builder.add(word, builder.add(odd, constant(word.type, 0x7FFF)))
    quiet = builder.or_(word, constant(word.type, 0x400000))
    return builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded)


def _rounded_by_vnni(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """The same by three instructions."""
    word = builder.bitcast(value, _WORDS)
    # ``odd`` in the upper half, 0x7FFF in the lower one: products of halves with 1 are added up, and to the word.
    # (What does not saturate would do as well, but LLVM takes that apart again.)
    parts = builder.or_(builder.and_(word, constant(_WORDS, 0x10000)), constant(_WORDS, 0x7FFF))
    rounded = call_llvm(builder, "llvm.x86.avx512.vpdpwssds.512", _WORDS, [word, parts, constant(_WORDS, 0x10001)])
    # Of a NaN, quiet or not (the lowest two digits of the table), the value made quiet; else what is rounded.
    operands = [builder.bitcast(rounded, _FLOATS), value, constant(_WORDS, 0x22), I32(0), I16(-1), I32(4)]
    rounded = call_llvm(builder, "llvm.x86.avx512.mask.fixupimm.ps.512", _FLOATS, operands)
    return builder.bitcast(rounded, _WORDS)


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
