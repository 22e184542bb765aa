"""Logits in memory: chunks of 16 bytes, whatever the alignment of the rows; the memory that threads share.

A row is cut into chunks that start at multiples of 16 bytes. All but its first and last lie wholly inside it and are
read and written at once; of these two, and of rows whose classes lie apart, element by element what belongs to the row.

==========  =========  ==================  =============
logits      in memory  a chunk, as loaded  widened
==========  =========  ==================  =============
float16     16 bits    4 x 32 bits         8 x float32
bfloat16    16 bits    4 x 32 bits         8 x float32
float32     32 bits    4 x float32         4 x float32
float64     64 bits    2 x float64         2 x float64
==========  =========  ==================  =============
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from llvmlite import ir
from numba.cuda import cgutils, types
from numba.cuda.extending import intrinsic

from .vector import I16, I32, I64, Vec, ir_of

CHUNK_BYTES = 16

_GLOBAL, _SHARED = 1, 3  # LLVM's numbers of the address spaces
_NEAREST_EVEN = 0x7FFF
_QUIET_NAN = 0x7FFF  # as the hardware rounds NaN to bfloat16


class Numbers(NamedTuple):
    """How logits of one type are read, computed with, and written."""

    item: int  # bytes of one in memory
    lanes: int  # in a chunk
    arithmetic: Any  # Numba's type of the arithmetic
    vector: Vec  # a chunk, widened
    none: Any  # () -> a vector of -inf
    zeros: Any  # () -> a vector of 0
    load: Any  # (address) -> the chunk as loaded
    load_edge: Any  # (address of the row, stride, first class, number of classes, filler) -> likewise, the rest filler
    widen: Any  # (chunk as loaded) -> vector
    load_one: Any  # (address) -> number
    store: Any  # (address, vector)
    store_edge: Any  # (address of the row, stride, first class, number of classes, vector)
    store_one: Any  # (address, number)
    load_numbers: Any  # as load_edge for numbers of the arithmetic type, filler 0, as a vector
    keep_raw: Any  # (address, chunk as loaded): in the block's memory, see place_in_block
    kept_raw: Any  # (address) -> chunk as loaded
    keep: Any  # (address, distance of the second half, vector)
    kept: Any  # (address, distance of the second half) -> vector
    keep_one: Any  # (address, number)
    kept_one: Any  # (address) -> number
    keep_place: Any  # (address, 32-bit whole number)
    kept_place: Any  # (address) -> 32-bit whole number


@cache
def numbers(dtype: str, native_bfloat16: bool = True) -> Numbers:
    """The accesses to logits of a type; ``native_bfloat16``: the hardware rounds to it (8.0 and later)."""
    item = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}[dtype]
    arithmetic = types.float64 if dtype == "float64" else types.float32
    lanes = CHUNK_BYTES // item
    vector = Vec(arithmetic, lanes)
    raw = Vec(types.int32, 4) if item == 2 else vector
    element = ir.IntType(16) if item == 2 else ir_of(arithmetic)
    narrow = _NARROW[dtype, native_bfloat16 or dtype != "bfloat16"]

    def widen(builder: ir.IRBuilder, chunk: ir.Value) -> ir.Value:
        return _WIDEN[dtype](builder, chunk)

    def of_bits(builder: ir.IRBuilder, elements: list[ir.Value]) -> ir.Value:
        return builder.bitcast(_gather(builder, elements), raw.ir)

    accesses = (
        *_in_global(element, arithmetic, raw, vector, widen, narrow, of_bits),
        *_in_shared(arithmetic, raw, vector),
    )
    return Numbers(item, lanes, arithmetic, vector, _constant(vector, float("-inf")), _constant(vector, 0.0), *accesses)


def _constant(vector: Vec, value: float) -> Any:
    @intrinsic
    def constant(typingctx: Any) -> Any:
        return vector(), lambda context, builder, sig, args: ir.Constant(vector.ir, [value] * vector.lanes)

    return constant


def _gather(builder: ir.IRBuilder, elements: list[ir.Value]) -> ir.Value:
    vec = ir.Constant(ir.VectorType(elements[0].type, len(elements)), ir.Undefined)
    for i, element in enumerate(elements):
        vec = builder.insert_element(vec, element, I32(i))
    return vec


def _lanes(builder: ir.IRBuilder, vec: ir.Value) -> list[ir.Value]:
    return [builder.extract_element(vec, I32(i)) for i in range(vec.type.count)]


# --- 16-bit types ----------------------------------------------------------------------------------------------------

_HALF = ir.HalfType()


def _same(builder: ir.IRBuilder, chunk: ir.Value) -> ir.Value:
    return chunk


def _widen_float16(builder: ir.IRBuilder, chunk: ir.Value) -> ir.Value:
    halves = builder.bitcast(chunk, ir.VectorType(_HALF, 8))
    return builder.fpext(halves, ir.VectorType(ir.FloatType(), 8))


def _widen_bfloat16(builder: ir.IRBuilder, chunk: ir.Value) -> ir.Value:
    """A bfloat16 is the upper half of a float32. (In assembly, this would keep LLVM from unrolling loops.)"""
    halves = []
    for word in _lanes(builder, chunk):
        halves += [builder.shl(word, I32(16)), builder.and_(word, I32(0xFFFF0000))]
    return builder.bitcast(_gather(builder, halves), ir.VectorType(ir.FloatType(), 8))


def _narrow_float16(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    halves = builder.fptrunc(vector, ir.VectorType(_HALF, vector.type.count))
    return builder.bitcast(halves, ir.VectorType(I16, vector.type.count))


def _narrow_bfloat16(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """Two at once, which is how the instruction has it."""
    of_two = ir.FunctionType(I32, [ir.FloatType(), ir.FloatType()])
    values = _lanes(builder, vector)
    values += [ir.Constant(ir.FloatType(), 0.0)] * (len(values) % 2)
    words = [
        builder.asm(of_two, "cvt.rn.bf16x2.f32 $0, $1, $2;", "=r,f,f", [high, low], False)
        for low, high in zip(values[::2], values[1::2], strict=True)
    ]
    halves = builder.bitcast(_gather(builder, words), ir.VectorType(I16, len(values)))
    return halves if vector.type.count > 1 else _gather(builder, _lanes(builder, halves)[:1])


def _narrow_bfloat16_by_integers(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """Half a unit more than to even, cut off: the exponent takes a carry as it should."""
    halves = []
    for value in _lanes(builder, vector):
        bits = builder.bitcast(value, I32)
        odd = builder.and_(builder.lshr(bits, I32(16)), I32(1))
        rounded = builder.lshr(builder.add(builder.add(bits, odd), I32(_NEAREST_EVEN)), I32(16))
        is_nan = builder.fcmp_unordered("uno", value, value)
        halves.append(builder.trunc(builder.select(is_nan, I32(_QUIET_NAN), rounded), I16))
    return _gather(builder, halves)


_WIDEN: dict[str, Callable[..., ir.Value]] = {
    "float16": _widen_float16,
    "bfloat16": _widen_bfloat16,
    "float32": _same,
    "float64": _same,
}
_NARROW: dict[tuple[str, bool], Callable[..., ir.Value]] = {
    ("float16", True): _narrow_float16,
    ("bfloat16", True): _narrow_bfloat16,
    ("bfloat16", False): _narrow_bfloat16_by_integers,
    ("float32", True): _same,
    ("float64", True): _same,
}


# --- global memory ---------------------------------------------------------------------------------------------------


def _at(builder: ir.IRBuilder, address: ir.Value, ty: ir.Type) -> ir.Value:
    return builder.inttoptr(address, ir.PointerType(ty, _GLOBAL))


def _in_global(
    element: ir.Type,
    arithmetic: types.Type,
    raw: Vec,
    vector: Vec,
    widen: Callable[..., ir.Value],
    narrow: Callable[..., ir.Value],
    of_bits: Callable[..., ir.Value],
) -> tuple[Any, ...]:
    item = CHUNK_BYTES // vector.lanes

    @intrinsic
    def load(typingctx: Any, address: types.Integer) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            return builder.load(_at(builder, args[0], raw.ir), align=CHUNK_BYTES)

        return raw(types.int64), codegen

    def elements(
        builder: ir.IRBuilder, ty: ir.Type, bytes_: int, row: ir.Value, stride: ir.Value, j: ir.Value, n: ir.Value
    ) -> tuple[list[ir.Value], list[ir.Value]]:
        """The elements from ``j`` on, and whether each is inside; in place of one that is not, its nearest that is."""
        values, inside, last = [], [], builder.sub(n, I64(1))
        for lane in range(vector.lanes):
            place = builder.add(j, I64(lane))
            inside.append(builder.icmp_unsigned("<", place, n))
            place = builder.select(builder.icmp_signed("<", place, I64(0)), I64(0), place)
            place = builder.select(builder.icmp_signed("<", place, last), place, last)
            values.append(builder.load(_at(builder, builder.add(row, builder.mul(place, stride)), ty), align=bytes_))
        return values, inside

    long = types.int64

    @intrinsic
    def load_edge(typingctx: Any, row: Any, stride: Any, j: Any, n: Any, filler: types.Float) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            values, inside = elements(builder, element, item, *args[:4])
            narrowed = narrow(builder, _gather(builder, [args[4]]))
            rest = builder.extract_element(narrowed, I32(0))
            return of_bits(builder, [builder.select(i, v, rest) for v, i in zip(values, inside, strict=True)])

        return raw(long, long, long, long, arithmetic), codegen

    @intrinsic
    def load_numbers(typingctx: Any, row: Any, stride: Any, j: Any, n: Any) -> Any:
        bytes_ = arithmetic.bitwidth // 8
        zero = ir.Constant(ir_of(arithmetic), 0.0)

        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            values, inside = elements(builder, ir_of(arithmetic), bytes_, *args)
            return _gather(builder, [builder.select(i, v, zero) for v, i in zip(values, inside, strict=True)])

        return vector(long, long, long, long), codegen

    @intrinsic
    def widened(typingctx: Any, chunk: Vec) -> Any:
        return vector(chunk), lambda context, builder, sig, args: widen(builder, args[0])

    @intrinsic
    def load_one(typingctx: Any, address: types.Integer) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            value = builder.load(_at(builder, args[0], element), align=item)
            if item > 2:
                return value
            chunk = builder.bitcast(_gather(builder, [value] + [I16(0)] * 7), raw.ir)
            return builder.extract_element(widen(builder, chunk), I32(0))

        return arithmetic(long), codegen

    @intrinsic
    def store(typingctx: Any, address: types.Integer, value: Vec) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            chunk = builder.bitcast(narrow(builder, args[1]), raw.ir)
            builder.store(chunk, _at(builder, args[0], raw.ir), align=CHUNK_BYTES)
            return context.get_dummy_value()

        return types.void(long, vector), codegen

    @intrinsic
    def store_edge(typingctx: Any, row: Any, stride: Any, j: Any, n: Any, value: Vec) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            row, stride, j, n, vec = args
            for lane, one in enumerate(_lanes(builder, narrow(builder, vec))):
                place = builder.add(j, I64(lane))
                with builder.if_then(builder.icmp_unsigned("<", place, n)):
                    where = _at(builder, builder.add(row, builder.mul(place, stride)), one.type)
                    builder.store(one, where, align=item)
            return context.get_dummy_value()

        return types.void(long, long, long, long, vector), codegen

    @intrinsic
    def store_one(typingctx: Any, address: types.Integer, value: types.Float) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            one = builder.extract_element(narrow(builder, _gather(builder, [args[1]])), I32(0))
            builder.store(one, _at(builder, args[0], one.type), align=item)
            return context.get_dummy_value()

        return types.void(long, arithmetic), codegen

    return load, load_edge, widened, load_one, store, store_edge, store_one, load_numbers


@cache
def numbers_at(ty: types.Type) -> tuple[Any, Any]:
    """Load and store of one number of a type at an address."""
    bytes_ = max(1, (1 if ty == types.boolean else ty.bitwidth) // 8)
    in_memory = ir.IntType(8) if ty == types.boolean else ir_of(ty)

    @intrinsic
    def load(typingctx: Any, address: types.Integer) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            return builder.load(_at(builder, args[0], in_memory), align=bytes_)

        return ty(types.int64), codegen

    @intrinsic
    def store(typingctx: Any, address: types.Integer, value: types.Type) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            one = builder.zext(args[1], in_memory) if ty == types.boolean else args[1]
            builder.store(one, _at(builder, args[0], in_memory), align=bytes_)
            return context.get_dummy_value()

        return types.void(types.int64, ty), codegen

    return load, store


# --- shared memory ---------------------------------------------------------------------------------------------------


def _shared_memory(builder: ir.IRBuilder) -> ir.Value:
    """The memory that the launch gives each block."""
    name = "shared_memory"
    memory = builder.module.globals.get(name)
    if memory is None:
        memory = cgutils.add_global_variable(builder.module, ir.ArrayType(ir.IntType(8), 0), name, _SHARED)
        memory.align = CHUNK_BYTES
        memory.linkage = "external"
    return memory


@intrinsic
def place_in_block(typingctx: Any, offset: types.Integer) -> Any:
    """Address of a byte of the block's memory, to be used with the functions of ``Numbers`` that keep something."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.add(builder.ptrtoint(_shared_memory(builder), I64), args[0])

    return types.int64(types.int64), codegen


def _kept_at(builder: ir.IRBuilder, address: ir.Value, ty: ir.Type) -> ir.Value:
    return builder.inttoptr(address, ir.PointerType(ty, _SHARED))


def _in_shared(arithmetic: types.Type, raw: Vec, vector: Vec) -> tuple[Any, ...]:
    half = ir.VectorType(ir_of(arithmetic), 4) if vector.lanes == 8 else vector.ir
    n_halves = vector.lanes // half.count
    arithmetic.bitwidth // 8

    @intrinsic
    def keep_raw(typingctx: Any, address: types.Integer, chunk: Vec) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            builder.store(args[1], _kept_at(builder, args[0], raw.ir), align=CHUNK_BYTES)
            return context.get_dummy_value()

        return types.void(types.int64, raw), codegen

    @intrinsic
    def kept_raw(typingctx: Any, address: types.Integer) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            return builder.load(_kept_at(builder, args[0], raw.ir), align=CHUNK_BYTES)

        return raw(types.int64), codegen

    @intrinsic
    def keep(typingctx: Any, address: types.Integer, distance: types.Integer, value: Vec) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            lanes, place = _lanes(builder, args[2]), args[0]
            for i in range(n_halves):
                part = _gather(builder, lanes[i * half.count : (i + 1) * half.count])
                builder.store(part, _kept_at(builder, place, half), align=CHUNK_BYTES)
                place = builder.add(place, args[1])
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, vector), codegen

    @intrinsic
    def kept(typingctx: Any, address: types.Integer, distance: types.Integer) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            lanes, place = [], args[0]
            for _ in range(n_halves):
                lanes += _lanes(builder, builder.load(_kept_at(builder, place, half), align=CHUNK_BYTES))
                place = builder.add(place, args[1])
            return _gather(builder, lanes)

        return vector(types.int64, types.int64), codegen

    return keep_raw, kept_raw, keep, kept, *_one_in_shared(arithmetic), *_one_in_shared(types.int32)


def _one_in_shared(ty: types.Type) -> tuple[Any, Any]:
    @intrinsic
    def keep_one(typingctx: Any, address: types.Integer, value: types.Type) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            builder.store(args[1], _kept_at(builder, args[0], ir_of(ty)), align=ty.bitwidth // 8)
            return context.get_dummy_value()

        return types.void(types.int64, ty), codegen

    @intrinsic
    def kept_one(typingctx: Any, address: types.Integer) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            return builder.load(_kept_at(builder, args[0], ir_of(ty)), align=ty.bitwidth // 8)

        return ty(types.int64), codegen

    return keep_one, kept_one
