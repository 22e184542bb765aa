"""Vectors for Numba: 512 bits of numbers as one value, so that a kernel says what its inner loop does.

A compiler's vectoriser gives up on running maxima, on two arguments that may overlap, on prefetches and on half
precision. With ``Vec`` there is nothing to give up: ``load(p, j)`` is sixteen floats (eight doubles), ``a * b`` is
sixteen products, and LLVM splits what the machine's registers cannot hold (2 x 256 bits on AVX2, 4 x 128 on NEON). The
arithmetic is the same everywhere, rounding included, so results do not depend on the machine's vector width.

Memory is reached through raw pointers. The type of the pointer says how numbers lie in memory, and thereby in which
type they are computed:

==========  ====================  ================
pointer to  numbers in memory     vector
==========  ====================  ================
float32     float32               16 x float32
float64     float64               8 x float64
uint16      float16, its bits     16 x float32
int16       bfloat16, its bits    16 x float32
==========  ====================  ================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from ..operators import Compiler, define
from . import bfloat16
from .llvm import I1, I8, I32, I64, call_llvm, constant, lanes_from, machine_has, suffix

VECTOR_BYTES = 64


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


_ARITHMETIC = {
    types.float32: types.float32,
    types.float64: types.float64,
    types.uint16: types.float32,
    types.int16: types.float32,
}


def _vec_of(pointer: types.CPointer) -> Vec:
    element = _ARITHMETIC[pointer.dtype]
    return Vec(element, VECTOR_BYTES * 8 // element.bitwidth)


def _splat(builder: ir.IRBuilder, value: ir.Value, vec: ir.VectorType) -> ir.Value:
    one = builder.insert_element(ir.Constant(vec, ir.Undefined), value, I32(0))
    return lanes_from(builder, one, one, [0] * vec.count)


def _as_vec(context: Any, builder: ir.IRBuilder, value: ir.Value, ty: types.Type, vec: types.Type) -> ir.Value:
    """A scalar beside a vector stands for a vector of that scalar."""
    if not isinstance(vec, Vec):
        return context.cast(builder, value, ty, vec)
    if isinstance(ty, Vec):
        return value
    return _splat(builder, context.cast(builder, value, ty, vec.element), vec.ir)


# --- operators -------------------------------------------------------------------------------------------------------


define(Compiler(types, infer_global, AbstractTemplate, signature, lower_builtin), Vec, _as_vec)


@intrinsic
def above_or_nan(typingctx: Any, a: Vec, b: types.Number) -> Any:
    """``a > b``, and true of NaN."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.fcmp_unordered(">", args[0], _as_vec(context, builder, args[1], sig.args[1], a))

    return a.of(types.boolean)(a, b), codegen


# --- values ----------------------------------------------------------------------------------------------------------


@intrinsic
def zeros(typingctx: Any, pointer: types.CPointer) -> Any:
    """A vector of zeros, of the type that ``load(pointer, ...)`` gives."""
    vec = _vec_of(pointer)
    return vec(pointer), lambda context, builder, sig, args: ir.Constant(vec.ir, None)


@intrinsic
def zeros64(typingctx: Any, pointer: types.CPointer) -> Any:
    """As ``zeros``, in float64: where sums of many float32 vectors are kept."""
    vec = _vec_of(pointer).of(types.float64)
    return vec(pointer), lambda context, builder, sig, args: ir.Constant(vec.ir, None)


@intrinsic
def iota(typingctx: Any, like: Vec) -> Any:
    """The lane numbers 0, 1, 2, ... as integers as wide as the lanes of ``like``."""
    vec = _int_vec(like)
    return vec(like), lambda context, builder, sig, args: ir.Constant(vec.ir, list(range(vec.lanes)))


def _int_vec(vec: Vec) -> Vec:
    return vec.of(types.int32 if vec.element.bitwidth == 32 else types.int64)


@intrinsic
def bits(typingctx: Any, a: Vec) -> Any:
    """The bits of the floats, as integers of the same width."""
    vec = _int_vec(a)
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
    """``2**k`` of a whole number ``k <= 0``; 0 where that is below the smallest normal number."""

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
        operands = [_as_vec(context, builder, v, t, vec) for v, t in zip(args, sig.args, strict=True)]
        return _fma(builder, *operands)

    return vec(a, b, c), codegen


def _fma(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
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
def polynomial(typingctx: Any, x: Vec, coefficients: types.UniTuple) -> Any:
    """``c[0] + c[1] * x + c[2] * x**2 + ...`` by Horner's rule, a fused multiply-add each."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        terms = cgutils.unpack_tuple(builder, args[1])
        terms = [_as_vec(context, builder, term, sig.args[1].dtype, x) for term in terms]
        value = terms.pop()
        while terms:
            value = _fma(builder, value, args[0], terms.pop())
        return value

    return x(x, coefficients), codegen


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
        x, y = (_as_vec(context, builder, v, t, vec) for v, t in zip(args[1:], sig.args[1:], strict=True))
        return builder.select(args[0], x, y)

    return vec(mask, a, b), codegen


@intrinsic
def narrow(typingctx: Any, like: types.CPointer, a: Vec) -> Any:
    """Float64 to the type that elements of ``like`` are computed in, rounded."""
    vec = a.of(_ARITHMETIC[like.dtype])

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return args[1] if a == vec else builder.fptrunc(args[1], vec.ir)

    return vec(like, a), codegen


@intrinsic
def lanes(typingctx: Any, base: types.CPointer) -> Any:
    """How many elements ``load(base, ...)`` gives."""
    n = _vec_of(base).lanes
    return types.int64(base), lambda context, builder, sig, args: I64(n)


@intrinsic
def lanes_of(typingctx: Any, a: Vec) -> Any:
    """How many lanes the vector has."""
    return types.int64(a), lambda context, builder, sig, args: I64(a.lanes)


@intrinsic
def item_bytes(typingctx: Any, base: types.CPointer) -> Any:
    """How far apart the elements lie."""
    n = _item_bytes(base)
    return types.int64(base), lambda context, builder, sig, args: I64(n)


@intrinsic
def rounded(typingctx: Any, base: types.CPointer, value: types.Float) -> Any:
    """``value`` in the type that elements of ``base`` are computed in."""
    result = _ARITHMETIC[base.dtype]

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


# --- memory ----------------------------------------------------------------------------------------------------------


@intrinsic
def pointer(typingctx: Any, array: types.Array) -> Any:
    """Pointer to the first element of an array. The array must be kept alive by the caller."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return context.make_array(sig.args[0])(context, builder, args[0]).data

    return types.CPointer(array.dtype)(array), codegen


@intrinsic
def pointer_at(typingctx: Any, address: types.Integer, element: types.NumberClass) -> Any:
    """Pointer to elements of a type, from an address."""
    ty = types.CPointer(element.dtype)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.inttoptr(args[0], context.get_value_type(ty))

    return ty(types.int64, element), codegen


@intrinsic
def arithmetic_at(typingctx: Any, address: types.Integer, like: types.CPointer) -> Any:
    """Pointer to elements of the type that elements of ``like`` are computed in, from an address."""
    ty = types.CPointer(_ARITHMETIC[like.dtype])

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.inttoptr(args[0], context.get_value_type(ty))

    return ty(types.int64, like), codegen


@intrinsic
def float64_at(typingctx: Any, base: types.CPointer, index: types.Integer) -> Any:
    """Pointer to the float64 that begin where ``base[index]`` does."""
    ty = types.CPointer(types.float64)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        start = _address(builder, args[0], _memory_type(base.dtype), args[1])
        return builder.bitcast(start, context.get_value_type(ty))

    return ty(base, types.int64), codegen


@intrinsic
def load_float64(typingctx: Any, like: types.CPointer, base: types.CPointer) -> Any:
    """As many float64 as ``load(like, ...)`` gives numbers."""
    vec = _vec_of(like).of(types.float64)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.load(builder.bitcast(args[1], vec.ir.as_pointer()), align=8, typ=vec.ir)

    return vec(like, base), codegen


@intrinsic
def distance(typingctx: Any, start: types.CPointer, end: types.CPointer) -> Any:
    """Bytes from ``start`` to ``end``."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.sub(builder.ptrtoint(args[1], I64), builder.ptrtoint(args[0], I64))

    return types.int64(start, end), codegen


@intrinsic
def call_work(
    typingctx: Any,
    function: types.Integer,
    call: types.Array,
    numbers: types.Array,
    step: types.Integer,
    begin: types.Integer,
    end: types.Integer,
) -> Any:
    """Call the machine code at address ``function`` with the addresses of the two arrays and three numbers.

    It takes the arrays, not their addresses, because Numba frees an array after the last statement that names it.
    """

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        arrays = [context.make_array(ty)(context, builder, a) for ty, a in zip(sig.args[1:3], args[1:3], strict=True)]
        operands = [builder.ptrtoint(array.data, I64) for array in arrays] + list(args[3:])
        callee = ir.FunctionType(ir.VoidType(), [I64] * 5).as_pointer()
        builder.call(builder.inttoptr(args[0], callee), operands)
        return context.get_dummy_value()

    return types.void(types.int64, call, numbers, types.int64, types.int64, types.int64), codegen


@intrinsic
def address_of(typingctx: Any, array: types.Array) -> Any:
    """Address of the first element of an array (``array.ctypes.data`` counts references up and down)."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.ptrtoint(context.make_array(sig.args[0])(context, builder, args[0]).data, I64)

    return types.int64(array), codegen


def _address(builder: ir.IRBuilder, base: ir.Value, element: ir.Type, index: ir.Value) -> ir.Value:
    typed = builder.bitcast(base, element.as_pointer())
    return builder.gep(typed, [index])


@intrinsic
def advance(typingctx: Any, base: types.CPointer, n_bytes: types.Integer) -> Any:
    """``base`` moved by a number of bytes (rows may lie at any distance, not only at multiples of an element)."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.bitcast(_address(builder, args[0], I8, args[1]), args[0].type)

    return base(base, types.int64), codegen


def _item_bytes(base: types.CPointer) -> int:
    """Bytes of an element: what it is aligned to, at least."""
    return int(base.dtype.bitwidth) // 8


def _memory_type(element: types.Type) -> ir.Type:
    kinds = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}
    return kinds.get(element) or ir.IntType(element.bitwidth)


def _decode(context: Any, builder: ir.IRBuilder, raw: ir.Value, element: types.Type, vec: Vec) -> ir.Value:
    """What lies in memory (``vec.lanes`` of it), as numbers of ``vec.element``."""

    def lanes_of(kind: ir.Type) -> ir.Type:
        return ir.VectorType(kind, vec.lanes)

    value = raw
    if element == types.uint16:  # float16
        value = builder.fpext(builder.bitcast(raw, lanes_of(ir.HalfType())), lanes_of(ir.FloatType()))
    elif element == types.int16:
        value = bfloat16.decode(context, builder, raw)
    bits_now = _ARITHMETIC[element].bitwidth
    if bits_now < vec.element.bitwidth:
        return builder.fpext(value, vec.ir)
    return builder.fptrunc(value, vec.ir) if bits_now > vec.element.bitwidth else value


def _encode(context: Any, builder: ir.IRBuilder, value: ir.Value, element: types.Type) -> ir.Value:
    """Numbers as they lie in memory, rounded to nearest even."""

    def lanes_of(kind: ir.Type) -> ir.Type:
        return ir.VectorType(kind, value.type.count)

    if element == types.uint16:
        return builder.bitcast(builder.fptrunc(value, lanes_of(ir.HalfType())), lanes_of(ir.IntType(16)))
    if element == types.int16:
        return bfloat16.encode(context, builder, value)
    return value


def _load(vec: Vec, base: types.CPointer, at: int) -> Any:
    """Code that loads ``vec.lanes`` elements from ``args[at]`` + ``args[at + 1]`` as numbers of ``vec.element``."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        raw_type = ir.VectorType(_memory_type(base.dtype), vec.lanes)
        start = _address(builder, args[at], raw_type.element, args[at + 1])
        raw = builder.load(builder.bitcast(start, raw_type.as_pointer()), align=_item_bytes(base), typ=raw_type)
        return _decode(context, builder, raw, base.dtype, vec)

    return codegen


def _load_part(vec: Vec, base: types.CPointer, at: int) -> Any:
    """As ``_load``, the first ``args[at + 2]`` lanes; the others are 0."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        raw_type = ir.VectorType(_memory_type(base.dtype), vec.lanes)
        start = builder.bitcast(_address(builder, args[at], raw_type.element, args[at + 1]), raw_type.as_pointer())
        mask = _first_lanes(builder, vec.lanes, args[at + 2])
        name = f"llvm.masked.load.{suffix(raw_type)}.p0"
        operands = [start, I32(_item_bytes(base)), mask, ir.Constant(raw_type, None)]
        return _decode(context, builder, call_llvm(builder, name, raw_type, operands), base.dtype, vec)

    return codegen


def _first_lanes(builder: ir.IRBuilder, lanes: int, n: ir.Value) -> ir.Value:
    """The mask of the first ``n`` lanes; in 32 bits, of which a comparison takes half the instructions."""
    n = builder.select(builder.icmp_signed("<", n, I64(lanes)), n, I64(lanes))
    numbers = ir.Constant(ir.VectorType(I32, lanes), list(range(lanes)))
    return builder.icmp_signed("<", numbers, _splat(builder, builder.trunc(n, I32), numbers.type))


@intrinsic
def load(typingctx: Any, base: types.CPointer, index: types.Integer) -> Any:
    """The vector of elements ``base[index], base[index + 1], ...``."""
    vec = _vec_of(base)
    return vec(base, types.int64), _load(vec, base, 0)


@intrinsic
def load_all(typingctx: Any, base: types.CPointer, index: types.Integer) -> Any:
    """The element ``base[index]`` in every lane: from memory that costs no arithmetic, from a register it does."""
    vec = _vec_of(base)
    one = _load(Vec(vec.element, 1), base, 0)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return _splat(builder, builder.extract_element(one(context, builder, sig, args), I32(0)), vec.ir)

    return vec(base, types.int64), codegen


@intrinsic
def load_like(typingctx: Any, like: types.CPointer, base: types.CPointer, index: types.Integer) -> Any:
    """As ``load(base, index)``, but as many elements, and computed in the same type, as ``load(like, ...)`` gives."""
    vec = _vec_of(like)
    return vec(like, base, types.int64), _load(vec, base, 1)


@intrinsic
def load_part(typingctx: Any, base: types.CPointer, index: types.Integer, n: types.Integer) -> Any:
    """As ``load``, the first ``n`` lanes only: memory beyond is not touched, those lanes are 0."""
    vec = _vec_of(base)
    return vec(base, types.int64, types.int64), _load_part(vec, base, 0)


@intrinsic
def load_part_like(
    typingctx: Any, like: types.CPointer, base: types.CPointer, index: types.Integer, n: types.Integer
) -> Any:
    """As ``load_like``, the first ``n`` lanes only."""
    vec = _vec_of(like)
    return vec(like, base, types.int64, types.int64), _load_part(vec, base, 1)


@intrinsic
def store(typingctx: Any, base: types.CPointer, index: types.Integer, value: Vec) -> Any:
    """Write the vector to ``base[index], base[index + 1], ...``."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        raw = _encode(context, builder, args[2], base.dtype)
        start = _address(builder, args[0], _memory_type(base.dtype), args[1])
        builder.store(raw, builder.bitcast(start, raw.type.as_pointer()), align=_item_bytes(base))
        return context.get_dummy_value()

    return types.void(base, types.int64, value), codegen


@intrinsic
def stream(typingctx: Any, base: types.CPointer, index: types.Integer, value: Vec) -> Any:
    """As ``store``, past the caches, to where a whole vector is aligned; ``fence`` makes it seen by other threads.

    Memory that is written whole need not be read before: in a copy of 128 MB that is a third of the traffic.
    """

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        raw = _encode(context, builder, args[2], base.dtype)
        if base.dtype == types.uint16 and machine_has(context, "f16c"):
            # LLVM would let the instruction that makes float16 write it, which only goes through the caches: assembly
            # that is empty keeps them apart (32,768 x 1,000 on two threads, nanoseconds: .23 in place of .27).
            raw = builder.asm(ir.FunctionType(raw.type, [raw.type]), "", "=v,0", [raw], False)
        start = builder.bitcast(_address(builder, args[0], raw.type.element, args[1]), raw.type.as_pointer())
        written = builder.store(raw, start, align=_item_bytes(base) * value.lanes)
        written.set_metadata("nontemporal", builder.module.add_metadata([I32(1)]))
        return context.get_dummy_value()

    return types.void(base, types.int64, value), codegen


@intrinsic
def fence(typingctx: Any) -> Any:
    """All that was written before is seen by whoever sees what is written after."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def until_aligned(typingctx: Any, base: types.CPointer) -> Any:
    """How many elements lie before the first place where ``stream`` may write."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        size = _item_bytes(base)
        ahead = builder.and_(builder.neg(builder.ptrtoint(args[0], I64)), I64(size * _vec_of(base).lanes - 1))
        return builder.udiv(ahead, I64(size))

    return types.int64(base), codegen


@intrinsic
def store_part(typingctx: Any, base: types.CPointer, index: types.Integer, n: types.Integer, value: Vec) -> Any:
    """As ``store``, the first ``n`` lanes only; memory beyond is not touched."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        raw = _encode(context, builder, args[3], base.dtype)
        start = builder.bitcast(_address(builder, args[0], raw.type.element, args[1]), raw.type.as_pointer())
        mask = _first_lanes(builder, value.lanes, args[2])
        name = f"llvm.masked.store.{suffix(raw.type)}.p0"
        call_llvm(builder, name, ir.VoidType(), [raw, start, I32(_item_bytes(base)), mask])
        return context.get_dummy_value()

    return types.void(base, types.int64, types.int64, value), codegen


@intrinsic
def load_one(typingctx: Any, base: types.CPointer, index: types.Integer) -> Any:
    """The single element ``base[index]``, in the type it is computed in."""
    result = _ARITHMETIC[base.dtype]
    one = _load(Vec(result, 1), base, 0)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.extract_element(one(context, builder, sig, args), I32(0))

    return result(base, types.int64), codegen


@intrinsic
def store_one(typingctx: Any, base: types.CPointer, index: types.Integer, value: types.Float) -> Any:
    """Write the single element ``base[index]``.

    Not by ``store_part`` with n = 1: of that, LLVM 22 makes a store of 32 bits where bfloat16 has 16.
    """
    result = _ARITHMETIC[base.dtype]

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        one = builder.insert_element(ir.Constant(Vec(result, 1).ir, ir.Undefined), args[2], I32(0))
        raw = builder.extract_element(_encode(context, builder, one, base.dtype), I32(0))
        builder.store(raw, _address(builder, args[0], raw.type, args[1]), align=_item_bytes(base))
        return context.get_dummy_value()

    return types.void(base, types.int64, result), codegen


def _prefetch(base: types.CPointer, write: int) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        start = builder.bitcast(_address(builder, args[0], _memory_type(base.dtype), args[1]), I8.as_pointer())
        call_llvm(builder, "llvm.prefetch.p0", ir.VoidType(), [start, I32(write), I32(3 if write else 2), I32(1)])
        return context.get_dummy_value()

    return types.void(base, types.int64), codegen


@intrinsic
def prefetch(typingctx: Any, base: types.CPointer, index: types.Integer) -> Any:
    """Ask for the cache line of ``base[index]``, to be read later; the address need not be valid.

    It comes as far as the second-level cache: the first is too small for what is only needed 32 KiB from here.
    """
    return _prefetch(base, write=0)


@intrinsic
def prefetch_write(typingctx: Any, base: types.CPointer, index: types.Integer) -> Any:
    """As ``prefetch``, for a line that is going to be written."""
    return _prefetch(base, write=1)


# --- several rows at once: row r in lane r ---------------------------------------------------------------------------


@intrinsic(prefer_literal=True)
def lane_buffer(typingctx: Any, like: types.CPointer, n_vectors: types.IntegerLiteral) -> Any:
    """Room on the stack for ``n_vectors`` (a constant) vectors of the type that ``load(like, ...)`` gives."""
    vec = _vec_of(like)
    room = ir.ArrayType(vec.ir, n_vectors.literal_value)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.bitcast(cgutils.alloca_once(builder, room), vec.ir.element.as_pointer())

    return types.CPointer(vec.element)(like, n_vectors), codegen


def _room(element: ir.Type, count: int) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.bitcast(cgutils.alloca_once(builder, ir.ArrayType(element, count)), element.as_pointer())

    return codegen


@intrinsic
def lane_offsets(typingctx: Any) -> Any:
    """Room on the stack for one int64 a lane."""
    return types.CPointer(types.int64)(), _room(I64, 16)


def _transposed(builder: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """The columns of a square of vectors: each stage interleaves rows that are half the square apart."""
    n = len(rows)
    low = [lane // 2 + (lane % 2) * n for lane in range(n)]
    high = [n // 2 + lane for lane in low]
    stages = n.bit_length() - 1
    for _ in range(stages):
        pairs = [(rows[r], rows[r + n // 2]) for r in range(n // 2)]
        rows = [lanes_from(builder, a, b, half) for a, b in pairs for half in (low, high)]
    return rows


def _row_starts(builder: ir.IRBuilder, base: types.CPointer, args: Any, vec: Vec) -> list[ir.Value]:
    """Addresses of element ``args[2]`` of the rows that lie ``args[1][lane]`` bytes from ``args[0]``."""
    starts = []
    for lane in range(vec.lanes):
        offset = builder.load(_address(builder, args[1], I64, I64(lane)), typ=I64)
        starts.append(_address(builder, _address(builder, args[0], I8, offset), _memory_type(base.dtype), args[2]))
    return starts


@intrinsic
def load_lanes(
    typingctx: Any,
    base: types.CPointer,
    offsets: types.CPointer,
    index: types.Integer,
    n: types.Integer,
    buffer: types.CPointer,
) -> Any:
    """Elements ``index`` ... ``index + n - 1`` of one row a lane, into ``n`` vectors at ``buffer[index * lanes]``.

    Row ``r`` starts ``offsets[r]`` bytes behind ``base``; ``n`` is at most the number of lanes. Rows are loaded whole
    and transposed in registers: for 16 x 16 numbers 64 shuffles, where single loads would take 256.
    """
    vec = Vec(buffer.dtype, VECTOR_BYTES * 8 // buffer.dtype.bitwidth)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        raw_type = ir.VectorType(_memory_type(base.dtype), vec.lanes)
        name = f"llvm.masked.load.{suffix(raw_type)}.p0"
        mask = _first_lanes(builder, vec.lanes, args[3])
        fixed = [I32(_item_bytes(base)), mask, ir.Constant(raw_type, None)]
        rows = [
            _decode(context, builder, call_llvm(builder, name, raw_type, [start, *fixed]), base.dtype, vec)
            for start in _row_starts(builder, base, args, vec)
        ]
        for j, column in enumerate(_transposed(builder, rows)):
            at = _address(builder, args[4], vec.ir, builder.add(args[2], I64(j)))
            builder.store(column, at, align=VECTOR_BYTES)
        return context.get_dummy_value()

    return types.void(base, offsets, types.int64, types.int64, buffer), codegen


@intrinsic
def store_lanes(
    typingctx: Any,
    base: types.CPointer,
    offsets: types.CPointer,
    index: types.Integer,
    n: types.Integer,
    buffer: types.CPointer,
) -> Any:
    """The way back: ``n`` vectors at ``buffer[index * lanes]`` to one row a lane, as in ``load_lanes``."""
    vec = Vec(buffer.dtype, VECTOR_BYTES * 8 // buffer.dtype.bitwidth)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        columns = []
        for j in range(vec.lanes):
            at = _address(builder, args[4], vec.ir, builder.add(args[2], I64(j)))
            columns.append(builder.load(at, align=VECTOR_BYTES, typ=vec.ir))
        mask = _first_lanes(builder, vec.lanes, args[3])
        rows = _transposed(builder, columns)
        for start, row in zip(_row_starts(builder, base, args, vec), rows, strict=True):
            raw = _encode(context, builder, row, base.dtype)
            name = f"llvm.masked.store.{suffix(raw.type)}.p0"
            call_llvm(builder, name, ir.VoidType(), [raw, start, I32(_item_bytes(base)), mask])
        return context.get_dummy_value()

    return types.void(base, offsets, types.int64, types.int64, buffer), codegen


MOST_IN_ROW = 8  # elements of the longest rows that these two take


def _for_each_length(builder: ir.IRBuilder, n: ir.Value, write: Callable[[int], None]) -> None:
    """``write(n)``, of which the code depends on n, for each n there is."""
    after = builder.append_basic_block()
    choice = builder.switch(n, after)
    for length in range(1, MOST_IN_ROW + 1):
        block = builder.append_basic_block()
        choice.add_case(I64(length), block)
        builder.position_at_end(block)
        write(length)
        builder.branch(after)
    builder.position_at_end(after)


@intrinsic
def load_rows(
    typingctx: Any, base: types.CPointer, start: types.Integer, n: types.Integer, buffer: types.CPointer
) -> Any:
    """``load_lanes`` of rows of ``n`` elements that lie one behind the other ``start`` bytes from base.

    Each vector is picked from all that were loaded. (Nanoseconds a row of 5 classes, with all that is computed: 7.6 in
    place of 9.5; of 8, 9.4 in place of 10.3.)
    """
    vec = Vec(buffer.dtype, VECTOR_BYTES * 8 // buffer.dtype.bitwidth)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        def load(n: int) -> None:
            whole = Vec(buffer.dtype, vec.lanes * n)
            raw_type = ir.VectorType(_memory_type(base.dtype), whole.lanes)
            at = builder.bitcast(_address(builder, args[0], I8, args[1]), raw_type.as_pointer())
            raw = builder.load(at, align=_item_bytes(base), typ=raw_type)
            rows = _decode(context, builder, raw, base.dtype, whole)
            for j in range(n):
                column = lanes_from(builder, rows, rows, [lane * n + j for lane in range(vec.lanes)])
                builder.store(column, _address(builder, args[3], vec.ir, I64(j)), align=VECTOR_BYTES)

        _for_each_length(builder, args[2], load)
        return context.get_dummy_value()

    return types.void(base, types.int64, types.int64, buffer), codegen


@intrinsic
def store_rows(
    typingctx: Any, base: types.CPointer, start: types.Integer, n: types.Integer, buffer: types.CPointer
) -> Any:
    """The way back, as ``store_lanes``."""
    vec = Vec(buffer.dtype, VECTOR_BYTES * 8 // buffer.dtype.bitwidth)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        def store(n: int) -> None:
            parts = [
                builder.load(_address(builder, args[3], vec.ir, I64(j)), align=VECTOR_BYTES, typ=vec.ir)
                for j in range(n)
            ]
            while len(parts) & (len(parts) - 1):  # what is joined pair by pair
                parts.append(parts[0])
            while len(parts) > 1:
                both = list(range(parts[0].type.count * 2))
                parts = [lanes_from(builder, a, b, both) for a, b in zip(parts[::2], parts[1::2], strict=True)]
            order = [j * vec.lanes + lane for lane in range(vec.lanes) for j in range(n)]
            rows = lanes_from(builder, parts[0], parts[0], order)
            raw = _encode(context, builder, rows, base.dtype)
            at = builder.bitcast(_address(builder, args[0], I8, args[1]), raw.type.as_pointer())
            builder.store(raw, at, align=_item_bytes(base))

        _for_each_length(builder, args[2], store)
        return context.get_dummy_value()

    return types.void(base, types.int64, types.int64, buffer), codegen


@intrinsic
def to_lanes(typingctx: Any, like: types.CPointer, base: types.CPointer, index: types.Integer, n: types.Integer) -> Any:
    """Integers ``base[index] ... base[index + n - 1]`` (int64), one a lane of ``load(like, ...)``; other lanes 0."""
    vec = _vec_of(like).of(types.int64)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        start = _address(builder, args[1], I64, args[2])
        operands = [start, I32(8), _first_lanes(builder, vec.lanes, args[3]), ir.Constant(vec.ir, None)]
        return call_llvm(builder, f"llvm.masked.load.{suffix(vec.ir)}.p0", vec.ir, operands)

    return vec(like, base, types.int64, types.int64), codegen


def _places(builder: ir.IRBuilder, start: ir.Value, column: ir.Value, vec: Vec) -> ir.Value:
    """Addresses, one a lane, of that lane in vector ``column[lane]`` of a buffer."""
    index_type = ir.VectorType(I64, vec.lanes)
    index = builder.sext(column, index_type) if column.type != index_type else column
    index = builder.shl(index, constant(index_type, VECTOR_BYTES.bit_length() - 1))
    size = vec.element.bitwidth // 8
    index = builder.add(index, ir.Constant(index_type, list(range(0, vec.lanes * size, size))))
    start = _splat(builder, builder.ptrtoint(start, I64), index_type)
    return builder.inttoptr(builder.add(start, index), ir.VectorType(I8.as_pointer(), vec.lanes))


@intrinsic
def pick(typingctx: Any, buffer: types.CPointer, column: Vec, mask: Vec) -> Any:
    """Of each lane, in which ``mask`` is true, that lane of vector ``column`` of a buffer; 0 in the others."""
    vec = Vec(buffer.dtype, column.lanes)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        name = f"llvm.masked.gather.{suffix(vec.ir)}.v{vec.lanes}p0"
        places = _places(builder, args[0], args[1], vec)
        operands = [places, I32(vec.element.bitwidth // 8), args[2], ir.Constant(vec.ir, None)]
        return call_llvm(builder, name, vec.ir, operands)

    return vec(buffer, column, mask), codegen


@intrinsic
def place(typingctx: Any, buffer: types.CPointer, column: Vec, mask: Vec, value: Vec) -> Any:
    """The way back: each lane of ``value``, where ``mask`` is true, to that lane of vector ``column`` of a buffer."""
    vec = Vec(buffer.dtype, column.lanes)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        name = f"llvm.masked.scatter.{suffix(vec.ir)}.v{vec.lanes}p0"
        operands = [args[3], _places(builder, args[0], args[1], vec), I32(vec.element.bitwidth // 8), args[2]]
        call_llvm(builder, name, ir.VoidType(), operands)
        return context.get_dummy_value()

    return types.void(buffer, column, mask, value), codegen


@intrinsic
def shortened(typingctx: Any, like: Vec, a: Vec) -> Any:
    """int64 lanes as integers as wide as the lanes of ``like`` (the lower bits)."""
    vec = _int_vec(like)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return args[1] if a == vec else builder.trunc(args[1], vec.ir)

    return vec(like, a), codegen
