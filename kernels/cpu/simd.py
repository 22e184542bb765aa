"""Vectors for Numba: a register full of numbers as one value, so that a kernel says what its inner loop does.

A compiler's vectoriser gives up on running maxima, on two arguments that may overlap, on prefetches and on half
precision. With ``Vec`` there is nothing to give up: ``load(p, j)`` is sixteen floats with AVX-512 and eight with AVX2,
``a * b`` is as many products, and LLVM splits what the machine's registers cannot hold (4 x 128 bits with NEON). What
is computed of an element is the same everywhere, to a rounding; the order of a row's sum is that of the lanes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.registry import cpu_target
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from ..operators import Compiler, define
from .llvm import I1, I32, I64, call_llvm, has_avx512, joined, lanes_from, machine_has, parts_of, suffix

# As long as a register, where registers are few: if the sums of a row were twice as long, they would lie in memory with
# AVX2's 16 (a Zen 3, 1,000 classes: .77 nanoseconds an element in place of .84; with 64, 1.7 in place of 3). Of few
# classes there is little to compute, and most of the time it is waited for: the more rows at once, the better. There it
# is always ``WIDE`` (2 classes: 5.9 in place of 7.9).
WIDE = 64
_HERE = cpu_target.target_context
NATIVE = 32 if machine_has(_HERE, "avx2") and not has_avx512(_HERE) else WIDE
FLOATS = NATIVE // 4  # float32 of a vector
# In the loops over a row, four registers' worth side by side, step for step (``abreast``): what is computed of a vector
# is one long chain, and the processor cannot look far enough ahead to be busy with the next ones while it waits (a Zen
# 3, 1,000 classes: .64 nanoseconds an element in place of .68; in LLVM's own order, .75). With AVX-512 it can.
AT_ONCE = 4 * NATIVE if NATIVE < WIDE else NATIVE
SEVERAL = AT_ONCE > NATIVE
LOOKS_UP = has_avx512(_HERE)  # whether an instruction looks up in a register what ``looked_up`` says


class WidePointer(types.CPointer):
    """A pointer to numbers of which ``load`` gives ``n_bytes``, whatever the machine's registers."""

    def __init__(self, dtype: types.Type, n_bytes: int) -> None:
        super().__init__(dtype)
        self.n_bytes = n_bytes
        self.name = f"Wide({dtype}, {n_bytes})"

    @property
    def key(self) -> tuple[types.Type, int]:
        return self.dtype, self.n_bytes


register_model(WidePointer)(models.PointerModel)


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
        kinds = {types.float32: ir.FloatType(), types.float64: ir.DoubleType(), types.boolean: I1}
        return ir.VectorType(kinds.get(self.element) or ir.IntType(self.element.bitwidth), self.lanes)

    def of(self, element: types.Type) -> Vec:
        return Vec(element, self.lanes)


@register_model(Vec)
class _VecModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vec) -> None:
        super().__init__(dmm, fe_type, fe_type.ir)


ARITHMETIC = {
    types.float32: types.float32,
    types.float64: types.float64,
    types.uint16: types.float32,
    types.int16: types.float32,
}


def vec_of(pointer: types.CPointer) -> Vec:
    element = ARITHMETIC[pointer.dtype]
    return Vec(element, vector_bytes(pointer) * 8 // element.bitwidth)


def vector_bytes(pointer: types.CPointer) -> int:
    """Bytes of the vectors, as they are computed, that are loaded from there."""
    return pointer.n_bytes if isinstance(pointer, WidePointer) else NATIVE


def pointer_like(pointer: types.CPointer, element: types.Type) -> types.CPointer:
    """The type of pointers to other elements, of which as many bytes are loaded."""
    return pointer_type(element, vector_bytes(pointer))


def pointer_type(element: types.Type, n_bytes: int) -> types.CPointer:
    return types.CPointer(element) if n_bytes == NATIVE else WidePointer(element, n_bytes)


def splat(builder: ir.IRBuilder, value: ir.Value, vec: ir.VectorType) -> ir.Value:
    one = builder.insert_element(ir.Constant(vec, ir.Undefined), value, I32(0))
    return lanes_from(builder, one, one, [0] * vec.count)


def as_vec(context: Any, builder: ir.IRBuilder, value: ir.Value, ty: types.Type, vec: types.Type) -> ir.Value:
    """A scalar beside a vector stands for a vector of that scalar."""
    if not isinstance(vec, Vec):
        return context.cast(builder, value, ty, vec)
    if isinstance(ty, Vec):
        return value
    return splat(builder, context.cast(builder, value, ty, vec.element), vec.ir)


# --- operators -------------------------------------------------------------------------------------------------------


define(Compiler(types, infer_global, AbstractTemplate, signature, lower_builtin), Vec, as_vec)


@intrinsic
def above_or_nan(typingctx: Any, a: Vec, b: types.Number) -> Any:
    """``a > b``, and true of NaN."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.fcmp_unordered(">", args[0], as_vec(context, builder, args[1], sig.args[1], a))

    return a.of(types.boolean)(a, b), codegen


@intrinsic
def has_masks(typingctx: Any, like: Vec) -> Any:
    """Whether this machine's instructions take a mask, so that ``where`` is part of what makes its argument."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return I1(has_avx512(context))

    return types.boolean(like), codegen


# --- values ----------------------------------------------------------------------------------------------------------


@intrinsic
def zeros(typingctx: Any, pointer: types.CPointer) -> Any:
    """A vector of zeros, of the type that ``load(pointer, ...)`` gives."""
    vec = vec_of(pointer)
    return vec(pointer), lambda context, builder, sig, args: ir.Constant(vec.ir, None)


@intrinsic
def zeros64(typingctx: Any, pointer: types.CPointer) -> Any:
    """As ``zeros``, in float64: where sums of many float32 vectors are kept."""
    vec = vec_of(pointer).of(types.float64)
    return vec(pointer), lambda context, builder, sig, args: ir.Constant(vec.ir, None)


@intrinsic
def iota(typingctx: Any, like: Vec) -> Any:
    """The lane numbers 0, 1, 2, ... as integers as wide as the lanes of ``like``."""
    vec = int_vec(like)
    return vec(like), lambda context, builder, sig, args: ir.Constant(vec.ir, list(range(vec.lanes)))


def int_vec(vec: Vec) -> Vec:
    return vec.of(types.int32 if vec.element.bitwidth == 32 else types.int64)


@intrinsic
def bits(typingctx: Any, a: Vec) -> Any:
    """The bits of the floats, as integers of the same width."""
    vec = int_vec(a)
    return vec(a), lambda context, builder, sig, args: builder.bitcast(args[0], vec.ir)


@intrinsic
def from_bits(typingctx: Any, a: Vec) -> Any:
    """The floats that have these bits."""
    vec = a.of(types.float32 if a.element.bitwidth == 32 else types.float64)
    return vec(a), lambda context, builder, sig, args: builder.bitcast(args[0], vec.ir)


@intrinsic
def to_float(typingctx: Any, a: Vec) -> Any:
    """Integers to the nearest floats of the same width."""
    vec = a.of(types.float32 if a.element.bitwidth == 32 else types.float64)
    return vec(a), lambda context, builder, sig, args: builder.sitofp(args[0], vec.ir)


@intrinsic
def widen(typingctx: Any, a: Vec) -> Any:
    """To float64, exactly."""
    vec = a.of(types.float64)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return args[0] if a == vec else builder.fpext(args[0], vec.ir)

    return vec(a), codegen


@intrinsic
def power_of_two(typingctx: Any, k: types.Float) -> Any:
    """``2**k`` of a whole number ``k < 1024``; 0 where that is below the smallest normal number."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        small = builder.fcmp_ordered("<", args[0], ir.DoubleType()(-1022.0))
        exponent = builder.fptosi(builder.select(small, ir.DoubleType()(-1023.0), args[0]), I64)
        return builder.bitcast(builder.shl(builder.add(exponent, I64(1023)), I64(52)), ir.DoubleType())

    return types.float64(types.float64), codegen


@intrinsic
def fma(typingctx: Any, a: types.Type, b: types.Type, c: types.Type) -> Any:
    """``a * b + c``, rounded once: of vectors, or of three float64."""
    vec = next((v for v in (a, b, c) if isinstance(v, Vec)), types.float64)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        operands = [as_vec(context, builder, v, t, vec) for v, t in zip(args, sig.args, strict=True)]
        return fused(builder, *operands)

    return vec(a, b, c), codegen


def fused(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    """``a * b + c``, rounded once."""
    return call_llvm(builder, f"llvm.fma.{suffix(a.type)}", a.type, [a, b, c])


@intrinsic
def held(typingctx: Any, like: Vec, numbers: types.UniTuple) -> Any:
    """Numbers for vectors like ``like``, of which the compiler does not see that they are constants.

    So it keeps them in registers. Constants lie in memory wherever a function is large. Reading them there takes a
    vector of a gradient beside one of sums from 12 cycles to 30.
    """
    element = ir.FloatType() if like.element == types.float32 else ir.DoubleType()
    whole = ir.IntType(like.element.bitwidth)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        given = [context.cast(builder, n, types.float64, like.element) for n in cgutils.unpack_tuple(builder, args[1])]
        hide = ir.FunctionType(whole, [whole])
        same = [builder.asm(hide, "", "=r,0", [builder.bitcast(n, whole)], False) for n in given]  # no instruction
        numbers = [context.cast(builder, builder.bitcast(n, element), like.element, types.float64) for n in same]
        return context.make_tuple(builder, sig.return_type, numbers)

    return numbers(like, numbers), codegen


@intrinsic
def abreast(typingctx: Any, a: Vec) -> Any:
    """The vector, all registers' worth of which is there before any of it is used.

    Left to itself, LLVM computes one register's worth after the other, each step of which waits for the one before it.
    Nor does it unroll a loop that this stands in.
    """

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return _abreast(builder, args[0])

    return a(a), codegen


def _abreast(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    if NATIVE == WIDE:
        return value
    parts = parts_of(builder, value, NATIVE * 8 // (32 if isinstance(value.type.element, ir.FloatType) else 64))
    kinds, n = [part.type for part in parts], len(parts)
    result = ir.LiteralStructType(kinds) if n > 1 else kinds[0]
    constraints = ",".join(["=x"] * n + [str(k) for k in range(n)])
    same = builder.asm(ir.FunctionType(result, kinds), "", constraints, parts, False)  # no instruction
    same.attributes.add("nounwind")
    same.attributes.add("readnone")
    if n == 1:
        return same
    return joined(builder, [builder.extract_value(same, k) for k in range(n)])


@intrinsic
def polynomial(typingctx: Any, x: Vec, coefficients: types.UniTuple) -> Any:
    """``c[0] + c[1] * x + c[2] * x**2 + ...`` by Horner's rule, a fused multiply-add each."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        terms = cgutils.unpack_tuple(builder, args[1])
        terms = [as_vec(context, builder, term, sig.args[1].dtype, x) for term in terms]
        value = terms.pop()
        while terms:
            value = fused(builder, value, args[0], terms.pop())
            if x.lanes * x.element.bitwidth > NATIVE * 8:
                value = _abreast(builder, value)
        return value

    return x(x, coefficients), codegen


@intrinsic
def looked_up(typingctx: Any, like: Vec, index: Vec, table: types.UniTuple) -> Any:
    """Of numbers that fill a register, those with the lowest bits of ``index``: of the type of ``like``."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        numbers = cgutils.unpack_tuple(builder, args[2])
        numbers = [context.cast(builder, number, table.dtype, like.element) for number in numbers]
        register: ir.Value = ir.Constant(ir.VectorType(numbers[0].type, len(numbers)), ir.Undefined)
        for k, number in enumerate(numbers):
            register = builder.insert_element(register, number, I32(k))
        kind = {"float": "sf", "double": "df", "i32": "si", "i64": "di"}[str(numbers[0].type)]
        indices, name = parts_of(builder, args[1], len(numbers)), f"llvm.x86.avx512.permvar.{kind}.512"
        return joined(builder, [call_llvm(builder, name, register.type, [register, part]) for part in indices])

    return like(like, index, table), codegen


@intrinsic
def absolute(typingctx: Any, a: Vec) -> Any:
    """``|a|``."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return call_llvm(builder, f"llvm.fabs.{suffix(a.ir)}", a.ir, [args[0]])

    return a(a), codegen


@intrinsic
def where(typingctx: Any, mask: Vec, a: types.Type, b: types.Type) -> Any:
    """Lane by lane: ``a`` where ``mask``, else ``b``."""
    vec = a if isinstance(a, Vec) else b

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        x, y = (as_vec(context, builder, v, t, vec) for v, t in zip(args[1:], sig.args[1:], strict=True))
        return builder.select(args[0], x, y)

    return vec(mask, a, b), codegen


@intrinsic
def narrow(typingctx: Any, like: types.CPointer, a: Vec) -> Any:
    """Float64 to the type that elements of ``like`` are computed in, rounded."""
    vec = a.of(ARITHMETIC[like.dtype])

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return args[1] if a == vec else builder.fptrunc(args[1], vec.ir)

    return vec(like, a), codegen


@intrinsic
def lanes(typingctx: Any, base: types.CPointer) -> Any:
    """How many elements ``load(base, ...)`` gives."""
    n = vec_of(base).lanes
    return types.int64(base), lambda context, builder, sig, args: I64(n)


@intrinsic
def lanes_of(typingctx: Any, a: Vec) -> Any:
    """How many lanes the vector has."""
    return types.int64(a), lambda context, builder, sig, args: I64(a.lanes)


@intrinsic
def rounded(typingctx: Any, base: types.CPointer, value: types.Float) -> Any:
    """``value`` in the type that elements of ``base`` are computed in."""
    result = ARITHMETIC[base.dtype]

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return context.cast(builder, args[1], sig.args[1], result)

    return result(base, value), codegen


@intrinsic
def extract(typingctx: Any, a: Vec, lane: types.Integer) -> Any:
    """Lane ``lane`` as a scalar."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.extract_element(args[0], args[1])

    return a.element(a, types.int64), codegen


def _halves(builder: ir.IRBuilder, value: ir.Value, combine: Callable[[ir.Value, ir.Value], ir.Value]) -> ir.Value:
    """Fold a vector in half until one lane is left: a fixed order, the same on every machine."""
    count = value.type.count
    while count > 1:
        count //= 2
        low = lanes_from(builder, value, value, list(range(count)))
        high = lanes_from(builder, value, value, list(range(count, 2 * count)))
        value = combine(low, high)
    return builder.extract_element(value, I32(0))


@intrinsic
def total(typingctx: Any, a: Vec) -> Any:
    """The sum of the lanes."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return _halves(builder, args[0], builder.fadd if isinstance(a.element, types.Float) else builder.add)

    return a.element(a), codegen


@intrinsic
def largest(typingctx: Any, a: Vec) -> Any:
    """The largest lane that is not NaN (the first lane if all are)."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        def larger(x: ir.Value, y: ir.Value) -> ir.Value:
            return builder.select(builder.fcmp_ordered(">", y, x), y, x)

        return _halves(builder, args[0], larger)

    return a.element(a), codegen


@intrinsic
def count_true(typingctx: Any, mask: Vec) -> Any:
    """How many lanes of a comparison are true."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        word = ir.IntType(mask.lanes)
        return builder.zext(
            call_llvm(builder, f"llvm.ctpop.i{mask.lanes}", word, [builder.bitcast(args[0], word)]), I64
        )

    return types.int64(mask), codegen


@intrinsic
def first_true(typingctx: Any, mask: Vec) -> Any:
    """The first lane in which a comparison is true; the number of lanes if it is in none."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        word = builder.zext(builder.bitcast(args[0], ir.IntType(mask.lanes)), I64)
        return call_llvm(builder, "llvm.cttz.i64", I64, [builder.or_(word, I64(1 << mask.lanes)), I1(1)])

    return types.int64(mask), codegen


@intrinsic
def apart(typingctx: Any) -> Any:
    """Keeps the function it stands in a function: never copied into its callers."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), codegen
