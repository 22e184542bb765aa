"""Memory for the vectors of ``simd.py``: whole ones and parts of them, read, written, and asked for in advance.

It is reached through raw pointers. The type of a pointer says how numbers lie in memory, and thereby in which type they
are computed:

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

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from . import bfloat16
from .llvm import I8, I32, I64, call_llvm, has_avx512, lanes_from, machine_has, suffix
from .simd import (
    ARITHMETIC,
    AT_ONCE,
    WIDE,
    Vec,
    pointer_like,
    pointer_type,
    splat,
    vec_of,
)

LINE = 64  # bytes that memory is fetched by


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
def wide(typingctx: Any, base: types.CPointer) -> Any:
    """The pointer, of which ``load`` gives ``WIDE`` bytes."""
    return pointer_type(base.dtype, WIDE)(base), lambda context, builder, sig, args: args[0]


@intrinsic
def at_once(typingctx: Any, base: types.CPointer) -> Any:
    """The pointer, of which ``load`` gives ``AT_ONCE`` bytes."""
    return pointer_type(base.dtype, AT_ONCE)(base), lambda context, builder, sig, args: args[0]


@intrinsic
def arithmetic_at(typingctx: Any, address: types.Integer, like: types.CPointer) -> Any:
    """Pointer to elements of the type that elements of ``like`` are computed in, from an address."""
    ty = pointer_like(like, ARITHMETIC[like.dtype])

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.inttoptr(args[0], context.get_value_type(ty))

    return ty(types.int64, like), codegen


@intrinsic
def float64_at(typingctx: Any, base: types.CPointer, index: types.Integer) -> Any:
    """Pointer to the float64 that begin where ``base[index]`` does."""
    ty = pointer_like(base, types.float64)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        start = element_at(builder, args[0], memory_type(base.dtype), args[1])
        return builder.bitcast(start, context.get_value_type(ty))

    return ty(base, types.int64), codegen


@intrinsic
def load_float64(typingctx: Any, like: types.CPointer, base: types.CPointer) -> Any:
    """As many float64 as ``load(like, ...)`` gives numbers."""
    vec = vec_of(like).of(types.float64)

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
def allocate(typingctx: Any, n_bytes: types.Integer) -> Any:
    """Address of so many bytes of memory, until ``free`` gets it; 0 if there are none to be had, or none are asked for.

    (Not an array: who cannot have one raises, and a kernel has nobody to tell.)
    """

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        address = cgutils.alloca_once_value(builder, I64(0))
        with builder.if_then(builder.icmp_signed(">", args[0], I64(0))):
            builder.store(builder.ptrtoint(context.nrt.allocate_unchecked(builder, args[0]), I64), address)
        return builder.load(address)

    return types.int64(types.int64), codegen


@intrinsic
def free(typingctx: Any, address: types.Integer) -> Any:
    """Give back what ``allocate`` gave, which may be nothing."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        with builder.if_then(builder.icmp_signed("!=", args[0], I64(0))):
            context.nrt.free(builder, builder.inttoptr(args[0], I8.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def call_work(
    typingctx: Any,
    function: types.Integer,
    call: types.Type,
    numbers: types.Type,
    step: types.Integer,
    begin: types.Integer,
    end: types.Integer,
) -> Any:
    """Call the machine code at address ``function`` with the addresses of the two blocks and three numbers.

    It takes arrays, if they are, not their addresses, because Numba frees one after the last statement that names it.
    """

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        blocks = [_start(context, builder, ty, a) for ty, a in zip(sig.args[1:3], args[1:3], strict=True)]
        operands = [builder.ptrtoint(block, I64) for block in blocks] + list(args[3:])
        callee = ir.FunctionType(ir.VoidType(), [I64] * 5).as_pointer()
        builder.call(builder.inttoptr(args[0], callee), operands)
        return context.get_dummy_value()

    return types.void(types.int64, call, numbers, types.int64, types.int64, types.int64), codegen


def _start(context: Any, builder: ir.IRBuilder, ty: types.Type, value: ir.Value) -> ir.Value:
    """Pointer to the first element of an array, or that which a pointer points to."""
    return context.make_array(ty)(context, builder, value).data if isinstance(ty, types.Array) else value


@intrinsic
def address_of(typingctx: Any, array: types.Type) -> Any:
    """Address of the first element of an array or at a pointer (``.ctypes.data`` counts references up and down)."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.ptrtoint(_start(context, builder, sig.args[0], args[0]), I64)

    return types.int64(array), codegen


def element_at(builder: ir.IRBuilder, base: ir.Value, element: ir.Type, index: ir.Value) -> ir.Value:
    """Where the ``index``-th of elements of a type lies, of which ``base`` is the first."""
    typed = builder.bitcast(base, element.as_pointer())
    return builder.gep(typed, [index])


@intrinsic
def advance(typingctx: Any, base: types.CPointer, n_bytes: types.Integer) -> Any:
    """``base`` moved by a number of bytes (rows may lie at any distance, not only at multiples of an element)."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.bitcast(element_at(builder, args[0], I8, args[1]), args[0].type)

    return base(base, types.int64), codegen


@intrinsic
def bytes_from(typingctx: Any, a: types.CPointer, b: types.CPointer) -> Any:
    """How many bytes ``b`` lies after ``a``."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.sub(builder.ptrtoint(args[1], I64), builder.ptrtoint(args[0], I64))

    return types.int64(a, b), codegen


def size_of(base: types.CPointer) -> int:
    """Bytes of an element: what it is aligned to, at least."""
    return int(base.dtype.bitwidth) // 8


@intrinsic
def item_bytes(typingctx: Any, base: types.CPointer) -> Any:
    """How far apart the elements lie."""
    n = size_of(base)
    return types.int64(base), lambda context, builder, sig, args: I64(n)


def memory_type(element: types.Type) -> ir.Type:
    kinds = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}
    return kinds.get(element) or ir.IntType(element.bitwidth)


def decode(context: Any, builder: ir.IRBuilder, raw: ir.Value, element: types.Type, vec: Vec) -> ir.Value:
    """What lies in memory (``vec.lanes`` of it), as numbers of ``vec.element``."""

    def lanes_of(kind: ir.Type) -> ir.Type:
        return ir.VectorType(kind, vec.lanes)

    value = raw
    if element == types.uint16:  # float16
        value = builder.fpext(builder.bitcast(raw, lanes_of(ir.HalfType())), lanes_of(ir.FloatType()))
    elif element == types.int16:
        value = bfloat16.decode(context, builder, raw)
    bits_now = ARITHMETIC[element].bitwidth
    if bits_now < vec.element.bitwidth:
        return builder.fpext(value, vec.ir)
    return builder.fptrunc(value, vec.ir) if bits_now > vec.element.bitwidth else value


def encode(context: Any, builder: ir.IRBuilder, value: ir.Value, element: types.Type) -> ir.Value:
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
        raw_type = ir.VectorType(memory_type(base.dtype), vec.lanes)
        start = element_at(builder, args[at], raw_type.element, args[at + 1])
        raw = builder.load(builder.bitcast(start, raw_type.as_pointer()), align=size_of(base), typ=raw_type)
        return decode(context, builder, raw, base.dtype, vec)

    return codegen


def _load_part(vec: Vec, base: types.CPointer, at: int) -> Any:
    """As ``_load``, the first ``args[at + 2]`` lanes; the others are 0."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        raw_type = ir.VectorType(memory_type(base.dtype), vec.lanes)
        start = element_at(builder, args[at], raw_type.element, args[at + 1])
        if size_of(base) == 2 and not has_avx512(context):
            return decode(context, builder, _load_by_halves(builder, raw_type, start, args[at + 2]), base.dtype, vec)
        start, mask = builder.bitcast(start, raw_type.as_pointer()), first_lanes(builder, vec.lanes, args[at + 2])
        name = f"llvm.masked.load.{suffix(raw_type)}.p0"
        operands = [start, I32(size_of(base)), mask, ir.Constant(raw_type, None)]
        return decode(context, builder, call_llvm(builder, name, raw_type, operands), base.dtype, vec)

    return codegen


def _load_by_halves(builder: ir.IRBuilder, vec: ir.VectorType, start: ir.Value, n: ir.Value) -> ir.Value:
    """A masked load by whole ones: half of the vector, a quarter, ... as the binary digits of ``n`` say.

    (Of 16 bits, AVX2 has no masked load: LLVM would ask of every lane.)
    """

    def load(lanes: int, there: ir.Value, at: ir.Value) -> ir.Value:
        part = ir.VectorType(vec.element, lanes)
        before = builder.block
        with builder.if_then(there):
            address = builder.bitcast(element_at(builder, start, vec.element, at), part.as_pointer())
            value, inside = builder.load(address, align=vec.element.width // 8, typ=part), builder.block
        found = builder.phi(part)
        found.add_incoming(ir.Constant(part, None), before)
        found.add_incoming(value, inside)
        return found

    n = builder.select(builder.icmp_signed("<", n, I64(0)), I64(0), n)
    loaded = ir.Constant(ir.VectorType(vec.element, 1), None)  # what lies behind the parts so far
    size = 1
    while size < vec.count:
        there = builder.icmp_unsigned("!=", builder.and_(n, I64(size)), I64(0))
        part = load(size, there, builder.and_(n, I64(-2 * size)))
        both, nothing = list(range(2 * size)), ir.Constant(part.type, None)
        with_part, without = lanes_from(builder, part, loaded, both), lanes_from(builder, loaded, nothing, both)
        loaded = builder.select(there, with_part, without)
        size *= 2
    whole = builder.icmp_signed(">=", n, I64(vec.count))
    return builder.select(whole, load(vec.count, whole, I64(0)), loaded)


def _store_by_halves(builder: ir.IRBuilder, raw: ir.Value, start: ir.Value, n: ir.Value, align: int) -> None:
    """A masked store by whole ones, as ``_load_by_halves``.

    (On a Zen 3, a masked store of 8 float32 takes as long as 18 whole ones.)
    """

    def store(value: ir.Value, there: ir.Value, at: ir.Value) -> None:
        with builder.if_then(there):
            address = element_at(builder, start, value.type.element, at)
            builder.store(value, builder.bitcast(address, value.type.as_pointer()), align=align)

    whole = builder.icmp_signed(">=", n, I64(raw.type.count))
    store(raw, whole, I64(0))
    n = builder.select(builder.or_(whole, builder.icmp_signed("<", n, I64(0))), I64(0), n)
    while raw.type.count > 1:
        size = raw.type.count // 2
        there = builder.icmp_unsigned("!=", builder.and_(n, I64(size)), I64(0))
        low = lanes_from(builder, raw, raw, list(range(size)))
        store(low, there, builder.and_(n, I64(-2 * size)))
        raw = builder.select(there, lanes_from(builder, raw, raw, list(range(size, 2 * size))), low)


def first_lanes(builder: ir.IRBuilder, lanes: int, n: ir.Value) -> ir.Value:
    """The mask of the first ``n`` lanes; in 32 bits, of which a comparison takes half the instructions."""
    n = builder.select(builder.icmp_signed("<", n, I64(lanes)), n, I64(lanes))
    numbers = ir.Constant(ir.VectorType(I32, lanes), list(range(lanes)))
    return builder.icmp_signed("<", numbers, splat(builder, builder.trunc(n, I32), numbers.type))


@intrinsic
def load(typingctx: Any, base: types.CPointer, index: types.Integer) -> Any:
    """The vector of elements ``base[index], base[index + 1], ...``."""
    vec = vec_of(base)
    return vec(base, types.int64), _load(vec, base, 0)


@intrinsic
def load_all(typingctx: Any, base: types.CPointer, index: types.Integer) -> Any:
    """The element ``base[index]`` in every lane: from memory that costs no arithmetic, from a register it does."""
    vec = vec_of(base)
    one = _load(Vec(vec.element, 1), base, 0)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return splat(builder, builder.extract_element(one(context, builder, sig, args), I32(0)), vec.ir)

    return vec(base, types.int64), codegen


@intrinsic
def load_like(typingctx: Any, like: types.CPointer, base: types.CPointer, index: types.Integer) -> Any:
    """As ``load(base, index)``, but as many elements, and computed in the same type, as ``load(like, ...)`` gives."""
    vec = vec_of(like)
    return vec(like, base, types.int64), _load(vec, base, 1)


@intrinsic
def load_part(typingctx: Any, base: types.CPointer, index: types.Integer, n: types.Integer) -> Any:
    """As ``load``, the first ``n`` lanes only: memory beyond is not touched, those lanes are 0."""
    vec = vec_of(base)
    return vec(base, types.int64, types.int64), _load_part(vec, base, 0)


@intrinsic
def load_part_like(
    typingctx: Any, like: types.CPointer, base: types.CPointer, index: types.Integer, n: types.Integer
) -> Any:
    """As ``load_like``, the first ``n`` lanes only."""
    vec = vec_of(like)
    return vec(like, base, types.int64, types.int64), _load_part(vec, base, 1)


@intrinsic
def store(typingctx: Any, base: types.CPointer, index: types.Integer, value: Vec) -> Any:
    """Write the vector to ``base[index], base[index + 1], ...``."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        raw = encode(context, builder, args[2], base.dtype)
        start = element_at(builder, args[0], memory_type(base.dtype), args[1])
        builder.store(raw, builder.bitcast(start, raw.type.as_pointer()), align=size_of(base))
        return context.get_dummy_value()

    return types.void(base, types.int64, value), codegen


@intrinsic
def stream(typingctx: Any, base: types.CPointer, index: types.Integer, value: Vec) -> Any:
    """As ``store``, past the caches, to where a whole vector is aligned; ``fence`` makes it seen by other threads.

    Memory that is written whole need not be read before: in a copy of 128 MB that is a third of the traffic.
    """

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        raw = encode(context, builder, args[2], base.dtype)
        if base.dtype == types.uint16 and machine_has(context, "f16c"):
            # LLVM would let the instruction that makes float16 write it, which only goes through the caches: assembly
            # that is empty keeps them apart (32,768 x 1,000 on two threads, nanoseconds: .23 in place of .27).
            raw = builder.asm(ir.FunctionType(raw.type, [raw.type]), "", "=v,0", [raw], False)
        start = builder.bitcast(element_at(builder, args[0], raw.type.element, args[1]), raw.type.as_pointer())
        written = builder.store(raw, start, align=size_of(base) * value.lanes)
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
        size = size_of(base)
        ahead = builder.and_(builder.neg(builder.ptrtoint(args[0], I64)), I64(size * vec_of(base).lanes - 1))
        return builder.udiv(ahead, I64(size))

    return types.int64(base), codegen


@intrinsic
def store_part(typingctx: Any, base: types.CPointer, index: types.Integer, n: types.Integer, value: Vec) -> Any:
    """As ``store``, the first ``n`` lanes only; memory beyond is not touched."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        raw = encode(context, builder, args[3], base.dtype)
        start = element_at(builder, args[0], raw.type.element, args[1])
        if not has_avx512(context):
            _store_by_halves(builder, raw, start, args[2], size_of(base))
            return context.get_dummy_value()
        start, mask = builder.bitcast(start, raw.type.as_pointer()), first_lanes(builder, value.lanes, args[2])
        name = f"llvm.masked.store.{suffix(raw.type)}.p0"
        call_llvm(builder, name, ir.VoidType(), [raw, start, I32(size_of(base)), mask])
        return context.get_dummy_value()

    return types.void(base, types.int64, types.int64, value), codegen


@intrinsic
def load_one(typingctx: Any, base: types.CPointer, index: types.Integer) -> Any:
    """The single element ``base[index]``, in the type it is computed in."""
    result = ARITHMETIC[base.dtype]
    one = _load(Vec(result, 1), base, 0)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.extract_element(one(context, builder, sig, args), I32(0))

    return result(base, types.int64), codegen


@intrinsic
def store_one(typingctx: Any, base: types.CPointer, index: types.Integer, value: types.Float) -> Any:
    """Write the single element ``base[index]``.

    Not by ``store_part`` with n = 1: of that, LLVM 22 makes a store of 32 bits where bfloat16 has 16.
    """
    result = ARITHMETIC[base.dtype]

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        one = builder.insert_element(ir.Constant(Vec(result, 1).ir, ir.Undefined), args[2], I32(0))
        raw = builder.extract_element(encode(context, builder, one, base.dtype), I32(0))
        builder.store(raw, element_at(builder, args[0], raw.type, args[1]), align=size_of(base))
        return context.get_dummy_value()

    return types.void(base, types.int64, result), codegen


def _prefetch(base: types.CPointer, write: int) -> Any:
    n_bytes = vec_of(base).lanes * size_of(base)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        start = builder.bitcast(element_at(builder, args[0], memory_type(base.dtype), args[1]), I8.as_pointer())
        for byte in range(0, n_bytes, LINE):
            at = builder.gep(start, [I64(byte)])
            call_llvm(builder, "llvm.prefetch.p0", ir.VoidType(), [at, I32(write), I32(3 if write else 2), I32(1)])
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


@intrinsic(prefer_literal=True)
def stack(typingctx: Any, element: types.NumberClass, n: types.IntegerLiteral) -> Any:
    """Room on the stack for ``n`` (a constant) elements of a type, with nothing in it (see ``lane_buffer``).

    It is that of the function which calls this, and ends with it, even where it is part of another.
    """
    ty = types.CPointer(element.dtype)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        with builder.goto_entry_block():
            start = builder.alloca(ir.ArrayType(context.get_value_type(element.dtype), n.literal_value))
        return builder.bitcast(start, context.get_value_type(ty))

    return ty(element, n), codegen


@intrinsic(prefer_literal=True)
def lane_buffer(typingctx: Any, like: types.CPointer, n_vectors: types.IntegerLiteral) -> Any:
    """Room on the stack for ``n_vectors`` (a constant) vectors of the type that ``load(like, ...)`` gives.

    Nothing is in it. (Numba's ``alloca_once`` fills what it gives with zeros: 55 KB in each call of the work on rows,
    and 33 KB in that on few classes, 9 % of the time of 32 x 10.)
    """
    vec = vec_of(like)
    room = ir.ArrayType(vec.ir, n_vectors.literal_value)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        with builder.goto_entry_block():
            start = builder.alloca(room)
        return builder.bitcast(start, vec.ir.element.as_pointer())

    return pointer_like(like, vec.element)(like, n_vectors), codegen
