"""Several registers' worth of vectors, added up into one, lane by lane.

How what is under a mask is added best depends on the machine. With AVX-512, a mask is part of the instruction that
adds; elsewhere what is not to be added is made 0 first, and to count where a mask is true, the mask is subtracted.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from .llvm import constant, has_avx512, parts_of
from .simd import Vec, as_vec, fused, int_vec


def _minus(builder: ir.IRBuilder, count: ir.Value, mask: ir.Value) -> ir.Value:
    """Whole numbers in the guise of floats, less what a mask is as such: -1 where it is true."""
    whole = ir.VectorType(ir.IntType(64 if isinstance(count.type.element, ir.DoubleType) else 32), count.type.count)
    return builder.bitcast(builder.sub(builder.bitcast(count, whole), builder.sext(mask, whole)), count.type)


def _tree(builder: ir.IRBuilder, terms: list[ir.Value]) -> ir.Value:
    """The sum of a power of two of terms, two and two."""
    while len(terms) > 1:
        terms = [builder.fadd(a, b) for a, b in zip(terms[::2], terms[1::2], strict=True)]
    return terms[0]


@intrinsic
def fold_powers(
    typingctx: Any, a: Vec, b: Vec, others: Vec, inside: Vec, v: Vec, mark: types.Type, scale: Vec, r: Vec
) -> Any:
    """Add ``scale`` to ``a``, ``scale * r`` to ``b`` and 1 to ``others``, where ``inside`` and ``v`` is not ``mark``.

    All parts of the vectors that are as long as those three; several of them two and two first, so that more can be
    added up to the same rounding. ``counted`` tells what ``others`` is.
    """

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        a, b, others, inside, v, mark, scale, r = args
        # (each part is compared by itself: a mask of several registers would have to be packed, and unpacked again)
        mark = as_vec(context, builder, mark, sig.args[5], sig.args[0])
        parts = [parts_of(builder, whole, a.type.count) for whole in (inside, v, scale, r)]
        powers, products = [], []
        for there, logits, power, rest in zip(*parts, strict=True):
            other = builder.and_(there, builder.fcmp_unordered("!=", logits, mark))
            if has_avx512(context):
                a = builder.select(other, builder.fadd(a, power), a)
                b = builder.select(other, fused(builder, power, rest, b), b)
                others = builder.select(other, builder.fadd(others, constant(others.type, 1.0)), others)
                continue
            some = builder.select(other, power, constant(power.type, 0.0))
            others = _minus(builder, others, other)
            if len(parts[0]) == 1:
                a, b = builder.fadd(a, some), fused(builder, some, rest, b)
                continue
            powers.append(some)
            if len(powers) % 2 == 1:
                products.append(builder.fmul(some, rest))
            else:
                products[-1] = fused(builder, some, rest, products[-1])
        if powers:
            a, b = builder.fadd(a, _tree(builder, powers)), builder.fadd(b, _tree(builder, products))
        return context.make_tuple(builder, sig.return_type, (a, b, others))

    return types.UniTuple(a, 3)(a, b, others, inside, v, mark, scale, r), codegen


@intrinsic
def counted(typingctx: Any, others: Vec) -> Any:
    """What ``fold_powers`` counted, from 0 on."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        if has_avx512(context):
            return args[0]
        return builder.sitofp(builder.bitcast(args[0], int_vec(others).ir), others.ir)

    return others(others), codegen


@intrinsic
def fold_add(typingctx: Any, a: Vec, v: Vec) -> Any:
    """``a``, plus all parts of ``v`` that are as long."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        a, v = args
        for part in parts_of(builder, v, a.type.count):
            a = builder.fadd(a, part)
        return a

    return a(a, v), codegen


@intrinsic
def fold_times(typingctx: Any, a: Vec, c: Vec, v: Vec) -> Any:
    """``a``, plus all parts of ``c * v`` that are as long, with ``0 * anything = 0``."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        a, c, v = args
        for weight, part in zip(*(parts_of(builder, whole, a.type.count) for whole in (c, v)), strict=True):
            there = builder.fcmp_unordered("!=", weight, constant(weight.type, 0.0))
            if has_avx512(context):
                a = builder.select(there, fused(builder, weight, part, a), a)
            else:
                a = fused(builder, weight, builder.select(there, part, constant(part.type, 0.0)), a)
        return a

    return a(a, c, v), codegen


@intrinsic
def fold_larger(typingctx: Any, a: Vec, v: Vec) -> Any:
    """The largest of ``a`` and of all parts of ``v`` that are as long, lane by lane; no NaN of ``v``."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        a, v = args
        for part in parts_of(builder, v, a.type.count):
            a = builder.select(builder.fcmp_ordered(">", part, a), part, a)
        return a

    return a(a, v), codegen
