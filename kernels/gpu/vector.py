"""Vectors for Numba's CUDA target: 16 bytes of logits as one value, in the type they are computed in.

Numba loads and stores one element at a time, and only accesses of 16 bytes a thread keep enough of them in flight for
the memory of a GPU. A ``Vec`` is what such an access reads, and arithmetic on it is that of its lanes. Functions here
take vectors and scalars alike; where both meet, the scalar stands for a vector of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.cuda import cgutils, types
from numba.cuda.core.imputils import lower_builtin
from numba.cuda.extending import core_models, intrinsic, register_model
from numba.cuda.typing.templates import AbstractTemplate, infer_global, signature

from ..operators import Compiler, define

I1, I16, I32, I64 = (ir.IntType(n) for n in (1, 16, 32, 64))
_FLOATS = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}


class Vec(types.Type):
    """``lanes`` values of the Numba type ``element`` (boolean for the result of a comparison)."""

    def __init__(self, element: types.Type, lanes: int) -> None:
        self.element, self.lanes = element, lanes
        super().__init__(name=f"Vec({element}, {lanes})")

    @property
    def key(self) -> tuple[types.Type, int]:
        return self.element, self.lanes

    @property
    def ir(self) -> ir.Type:
        return ir.VectorType(ir_of(self.element), self.lanes)

    def of(self, element: types.Type) -> Vec:
        return Vec(element, self.lanes)


@register_model(Vec)
class _VecModel(core_models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vec) -> None:
        super().__init__(dmm, fe_type, fe_type.ir)


def ir_of(ty: types.Type) -> ir.Type:
    """LLVM's type of a value in a register."""
    if isinstance(ty, Vec):
        return ty.ir
    return _FLOATS.get(ty) or (I1 if ty == types.boolean else ir.IntType(ty.bitwidth))


def element_of(ty: types.Type) -> types.Type:
    return ty.element if isinstance(ty, Vec) else ty


def like(ty: types.Type, element: types.Type) -> types.Type:
    """The type with as many lanes as ``ty``, of ``element``."""
    return ty.of(element) if isinstance(ty, Vec) else element


def splat(builder: ir.IRBuilder, value: ir.Value, vec: ir.VectorType) -> ir.Value:
    one = builder.insert_element(ir.Constant(vec, ir.Undefined), value, I32(0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(I32, vec.count), [0] * vec.count))


def as_type(context: Any, builder: ir.IRBuilder, value: ir.Value, ty: types.Type, wanted: types.Type) -> ir.Value:
    """A value as one of another type: of another number, or as a vector of it."""
    if isinstance(ty, Vec):
        return value
    scalar = context.cast(builder, value, ty, element_of(wanted))
    return splat(builder, scalar, wanted.ir) if isinstance(wanted, Vec) else scalar


def call(builder: ir.IRBuilder, name: str, returns: ir.Type, args: list[ir.Value]) -> ir.Value:
    """Call a function of LLVM's."""
    declared = ir.FunctionType(returns, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, declared, name), args)


def suffix(ty: ir.Type) -> str:
    """How LLVM's names of intrinsics spell a type."""
    if isinstance(ty, ir.VectorType):
        return f"v{ty.count}{suffix(ty.element)}"
    return {"float": "f32", "double": "f64", "half": "f16"}.get(str(ty), str(ty))


# --- operators -------------------------------------------------------------------------------------------------------


define(Compiler(types, infer_global, AbstractTemplate, signature, lower_builtin), Vec, as_type)


# --- functions of one element ----------------------------------------------------------------------------------------


def _widest(args: tuple[types.Type, ...]) -> types.Type:
    """The vector among the arguments, or else the first float that is no literal's."""
    vecs = [a for a in args if isinstance(a, Vec)]
    return vecs[0] if vecs else min((a for a in args if isinstance(a, types.Float)), key=lambda a: a.bitwidth)


@intrinsic
def fma(typingctx: Any, a: types.Type, b: types.Type, c: types.Type) -> Any:
    """``a * b + c``, rounded once."""
    result = _widest((a, b, c))

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        values = [as_type(context, builder, v, t, result) for v, t in zip(args, sig.args, strict=True)]
        return call(builder, f"llvm.fma.{suffix(ir_of(result))}", ir_of(result), values)

    return result(a, b, c), codegen


@intrinsic
def polynomial(typingctx: Any, x: types.Type, coefficients: types.UniTuple) -> Any:
    """``c[0] + c[1] * x + c[2] * x**2 + ...`` by Horner's rule, a fused multiply-add each."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        terms = cgutils.unpack_tuple(builder, args[1])
        terms = [as_type(context, builder, term, sig.args[1].dtype, x) for term in terms]
        value = terms.pop()
        while terms:
            value = call(builder, f"llvm.fma.{suffix(ir_of(x))}", ir_of(x), [value, args[0], terms.pop()])
        return value

    return x(x, coefficients), codegen


@intrinsic
def larger(typingctx: Any, a: types.Type, b: types.Type) -> Any:
    """The larger of two; the other one where one is NaN."""
    result = _widest((a, b))

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        values = [as_type(context, builder, v, t, result) for v, t in zip(args, sig.args, strict=True)]
        return call(builder, f"llvm.maxnum.{suffix(ir_of(result))}", ir_of(result), values)

    return result(a, b), codegen


@intrinsic
def where(typingctx: Any, mask: types.Type, a: types.Type, b: types.Type) -> Any:
    """``a`` where ``mask`` holds, else ``b``."""
    vecs = [t for t in (a, b) if isinstance(t, Vec)]
    numbers = [t for t in (a, b) if not isinstance(t, Vec)]
    result = vecs[0] if vecs else like(mask, min(numbers, key=lambda t: t.bitwidth))

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        x, y = (as_type(context, builder, v, t, result) for v, t in zip(args[1:], sig.args[1:], strict=True))
        return builder.select(args[0], x, y)

    return result(mask, a, b), codegen


def _int_like(ty: types.Type) -> types.Type:
    return like(ty, types.int32 if element_of(ty).bitwidth == 32 else types.int64)


@intrinsic
def bits(typingctx: Any, a: types.Type) -> Any:
    """The bits of floats, as integers of the same width."""
    result = _int_like(a)
    return result(a), lambda context, builder, sig, args: builder.bitcast(args[0], ir_of(result))


@intrinsic
def from_bits(typingctx: Any, a: types.Type) -> Any:
    """The floats that have these bits."""
    result = like(a, types.float32 if element_of(a).bitwidth == 32 else types.float64)
    return result(a), lambda context, builder, sig, args: builder.bitcast(args[0], ir_of(result))


@intrinsic
def shifted_left(typingctx: Any, a: types.Type, by: types.Integer) -> Any:
    """Integers, their bits moved up; for scalars too, of which Numba would make 64-bit ones."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.shl(args[0], as_type(context, builder, args[1], sig.args[1], a))

    return a(a, by), codegen


def _by_lanes(builder: ir.IRBuilder, value: ir.Value, one: Callable[[ir.Value], ir.Value]) -> ir.Value:
    if not isinstance(value.type, ir.VectorType):
        return one(value)
    result = ir.Constant(value.type, ir.Undefined)
    for i in range(value.type.count):
        result = builder.insert_element(result, one(builder.extract_element(value, I32(i))), I32(i))
    return result


# The powers of maths.power_by_lookup, where the formula is explained: of v ($1) and scalars. In assembly because t is a
# number first and a whole number then, which LLVM would move to another register and back.
_POWER = """{
    .reg .b32 %t;
    .reg .f32 %f;
    fma.rn.sat.f32 %t, $1, $4, $5;
    fma.rn.f32 %f, %t, 0f4B800000, $6;
    fma.rn.f32 %f, $1, $2, %f;
    fma.rn.f32 %f, $1, $3, %f;
    ex2.approx.ftz.f32 %f, %f;
    mul.lo.s32 %t, %t, -8388608;
    mul.f32 $0, %f, %t;
}"""


@intrinsic
def power_of_two(typingctx: Any, v: Any, hi: Any, lo: Any, down: Any, most: Any, back: Any) -> Any:
    """The assembly above, of float32."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        of_six = ir.FunctionType(ir.FloatType(), [ir.FloatType()] * 6)

        def of_lane(lane: ir.Value) -> ir.Value:
            return builder.asm(of_six, _POWER, "=f" + ",f" * 6, [lane, *args[1:]], False)

        return _by_lanes(builder, args[0], of_lane)

    return v(v, hi, lo, down, most, back), codegen


@intrinsic
def approximate_exp2(typingctx: Any, v: Any) -> Any:
    """``2**v`` by the instruction that GPUs have for it, of float32: wrong by at most 2 units in the last place."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        def of_lane(lane: ir.Value) -> ir.Value:
            return call(builder, "llvm.nvvm.ex2.approx.ftz.f", ir.FloatType(), [lane])

        return _by_lanes(builder, args[0], of_lane)

    return v(v), codegen


def _exchange(distance_as: str) -> Any:
    @intrinsic
    def exchanged(typingctx: Any, value: types.Type, distance: types.Integer) -> Any:
        kind = "f" if isinstance(value, types.Float) else "r"

        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            distance = context.cast(builder, args[1], sig.args[1], types.int32)
            of_two = ir.FunctionType(ir_of(value), [ir_of(value), I32])
            constraint = f"={kind},{kind},{distance_as}"
            made = builder.asm(of_two, "shfl.sync.bfly.b32 $0, $1, $2, 31, -1;", constraint, [args[0], distance], True)
            made.attributes.add("convergent")
            return made

        return value(value, distance), codegen

    return exchanged


# (number of 32 bits, distance) -> that of the lane whose index in the warp differs by a power of two, which for the
# second is a constant. (Numba's is for whole numbers: LLVM would move floats to other registers, and back.)
exchanged_word, exchanged_near_word = _exchange("r"), _exchange("n")


@intrinsic
def once(typingctx: Any, value: types.Integer) -> Any:
    """A 64-bit whole number, which LLVM is not to compute again wherever it is needed."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.asm(ir.FunctionType(I64, [I64]), "mov.b64 $0, $1;", "=l,l", [args[0]], False)

    return types.int64(types.int64), codegen


@intrinsic
def moved(typingctx: Any, address: types.Integer, by: types.Integer) -> Any:
    """``address + by``, the next round of a loop, so that LLVM cannot foresee how many there are.

    It would repeat the round, which is long enough, and for that every thread would divide by ``by`` before the loop.
    """

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        of_two = ir.FunctionType(I64, [I64, I64])
        return builder.asm(of_two, "add.s64 $0, $1, $2;", "=l,l,ln", args, False)

    return types.int64(types.int64, types.int64), codegen


# --- lanes -----------------------------------------------------------------------------------------------------------


@intrinsic
def places(typingctx: Any, of: Vec, first: types.Integer) -> Any:
    """``first`` and the whole numbers after it, 32 bits each, a lane each."""
    result = of.of(types.int32)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        start = as_type(context, builder, args[1], sig.args[1], result)
        return builder.add(start, ir.Constant(result.ir, list(range(result.lanes))))

    return result(of, first), codegen


def _fold(builder: ir.IRBuilder, value: ir.Value, combine: Callable[[ir.Value, ir.Value], ir.Value]) -> ir.Value:
    parts = [builder.extract_element(value, I32(i)) for i in range(value.type.count)]
    while len(parts) > 1:
        half = len(parts) // 2
        parts = [combine(a, b) for a, b in zip(parts[:half], parts[half:], strict=True)]
    return parts[0]


@intrinsic
def total(typingctx: Any, a: Vec) -> Any:
    """Sum of the lanes, in halves."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return _fold(builder, args[0], builder.fadd if isinstance(a.element, types.Float) else builder.add)

    return a.element(a), codegen


@intrinsic
def largest(typingctx: Any, a: Vec) -> Any:
    """The largest lane that is not NaN."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        one = ir_of(a.element)
        return _fold(builder, args[0], lambda x, y: call(builder, f"llvm.maxnum.{suffix(one)}", one, [x, y]))

    return a.element(a), codegen


# Of one v ($2), adds its power ($3) to a sum, or 1 to another one if it is as large as the largest ($4).
_SORT_IN = """{
    .reg .pred %is_top;
    setp.eq.FLOAT %is_top, $2, $4;
    @!%is_top add.rn.FLOAT $0, $0, $3;
    @%is_top add.rn.FLOAT $1, $1, ONE;
}"""


@intrinsic
def total_beside(typingctx: Any, v: Vec, e: Vec, top: types.Float) -> Any:
    """Sum of the ``e`` of all v but those that are ``top``, and how many these are.

    Three instructions an element, where LLVM would make five of it.
    """
    sums = min(4, v.lanes)  # beside each other
    floats, one = (("f32", "0f3F800000"), ("f64", "0d3FF0000000000000"))[v.element == types.float64]
    assembly, kind = _SORT_IN.replace("FLOAT", floats).replace("ONE", one), "d" if floats == "f64" else "f"

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        vs, es, top = args
        number = top.type
        of_lane = ir.FunctionType(ir.LiteralStructType([number, number]), [number] * 5)
        found = [[ir.Constant(number, 0.0)] * 2 for _ in range(sums)]
        for i in range(v.lanes):
            lane = [builder.extract_element(value, I32(i)) for value in (vs, es)]
            constraint = f"={kind},={kind},{kind},{kind},{kind},0,1"
            both = builder.asm(of_lane, assembly, constraint, [*lane, top, *found[i % sums]], False)
            found[i % sums] = [builder.extract_value(both, k) for k in range(2)]
        while len(found) > 1:
            half = len(found) // 2
            found = [[builder.fadd(*two) for two in zip(*pair, strict=True)]
                     for pair in zip(found[:half], found[half:], strict=True)]  # fmt: skip
        return context.make_tuple(builder, sig.return_type, found[0])

    return types.UniTuple(v.element, 2)(v, e, top), codegen


@intrinsic
def smallest_place(typingctx: Any, a: Vec) -> Any:
    """The smallest of whole numbers."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return _fold(builder, args[0], lambda x, y: builder.select(builder.icmp_signed("<", x, y), x, y))

    return a.element(a), codegen
