"""What LLVM's builder lacks, for whoever writes its code by hand: see ``simd.py`` and ``pointers.py``."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

I1, I8, I16, I32, I64 = (ir.IntType(width) for width in (1, 8, 16, 32, 64))


def call_llvm(builder: ir.IRBuilder, name: str, returns: ir.Type, args: list[ir.Value]) -> ir.Value:
    """Call an intrinsic of LLVM's (pointers without a type, so that one declaration serves every caller)."""
    args = [builder.bitcast(a, I8.as_pointer()) if isinstance(a.type, ir.PointerType) else a for a in args]
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(returns, [a.type for a in args]), name)
    return builder.call(function, args)


def suffix(ty: ir.Type) -> str:
    """How LLVM's names of intrinsics spell a type."""
    if isinstance(ty, ir.VectorType):
        return f"v{ty.count}{suffix(ty.element)}"
    return {"float": "f32", "double": "f64", "half": "f16"}.get(str(ty), str(ty))


def constant(ty: ir.VectorType, value: float) -> ir.Constant:
    """A vector of which every lane is ``value``."""
    return ir.Constant(ty, [value] * ty.count)


def lanes_from(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, lanes: list[int]) -> ir.Value:
    """The vector of those lanes of ``a`` and ``b``, one behind the other."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))


def parts_of(builder: ir.IRBuilder, value: ir.Value, n: int) -> list[ir.Value]:
    """The vector, cut into pieces of ``n`` lanes."""
    pieces = range(0, value.type.count, n)
    return [lanes_from(builder, value, value, list(range(k, k + n))) for k in pieces] if len(pieces) > 1 else [value]


def joined(builder: ir.IRBuilder, parts: list[ir.Value]) -> ir.Value:
    """The vector of these pieces, one behind the other; a power of two of them."""
    while len(parts) > 1:
        both = list(range(2 * parts[0].type.count))
        parts = [lanes_from(builder, a, b, both) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def machine_has(context: Any, *features: str) -> bool:
    """Whether the machine that is compiled for has these extensions, by LLVM's names."""
    there = context.codegen().magic_tuple()[2].split(",")
    return all(f"+{feature}" in there for feature in features)


def has_avx512(context: Any) -> bool:
    """Whether the machine has registers of 512 bits, and instructions that take masks."""
    return machine_has(context, "avx512f")
