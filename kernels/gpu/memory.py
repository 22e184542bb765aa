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
SECTOR_BYTES = 32  # that memory moves at least

WARP_BYTES = 32 * CHUNK_BYTES  # that a warp's threads access at once

_GLOBAL, _SHARED = 1, 3  # LLVM's numbers of the address spaces


class Numbers(NamedTuple):
    """How logits of one type are read, computed with, and written."""

    item: int  # bytes of one in memory
    lanes: int  # in a chunk
    tile: int  # chunks that a thread takes at once, so that several accesses are on their way at a time: a tile
    arithmetic: Any  # Numba's type of the arithmetic
    vector: Vec  # a chunk, widened
    none: Any  # () -> a vector of -inf
    zeros: Any  # () -> a vector of 0
    load: Any  # (address) -> the chunk as loaded
    load_tile: Any  # (address of the first chunk, distance to the next) -> likewise
    load_last: Any  # likewise, of what nobody needs again: it is the first that leaves the caches
    load_edge: Any  # (address of the row, stride, first class, number of classes, filler) -> likewise, the rest filler
    widen: Any  # (as loaded) -> vector
    load_one: Any  # (address) -> number
    store: Any  # (address, distance, vector): a chunk, or a tile
    store_past: Any  # likewise, to be the first that leaves the cache
    store_edge: Any  # (address of the row, stride, first class, number of classes, vector)
    store_one: Any  # (address, number)
    load_numbers: Any  # as load_edge for numbers of the arithmetic type, filler 0, as a vector
    keep_raw: Any  # (address, chunk as loaded): in the block's memory, see place_in_block
    kept_raw: Any  # (address) -> chunk as loaded
    keep: Any  # (address, distance, vector): 16 bytes here, and the next ones that far away, and so on
    kept: Any  # (address, distance) -> vector
    kept_tile: Any  # likewise
    keep_one: Any  # (address, number)
    kept_one: Any  # (address) -> number
    keep_two: Any  # (address, two numbers)
    kept_two: Any  # (address) -> two numbers
    keep_place: Any  # (address, 32-bit whole number)
    kept_place: Any  # (address) -> 32-bit whole number


def chunk_in_block(numbers: Numbers, plain: bool) -> int:
    """Bytes of the block's memory that a chunk takes: plain kernels keep powers, the others what was read."""
    return numbers.lanes * numbers.arithmetic.bitwidth // 8 if plain else CHUNK_BYTES


@cache
def numbers(dtype: str, pairs: bool = True) -> Numbers:
    """The accesses to logits of a type; ``pairs``: the hardware rounds two numbers to 16 bits at once (since 8.0)."""
    item = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}[dtype]
    arithmetic = types.float64 if dtype == "float64" else types.float32
    vector = Vec(arithmetic, CHUNK_BYTES // item)
    lay = _SixteenBits(dtype, pairs) if item == 2 else _AsTheyAre(ir_of(arithmetic))
    raw = Vec(types.int32, 4) if item == 2 else vector
    tile = 2 if item == 2 else 4  # 16 numbers of float32: with more of them, 64 registers would not do
    accesses = *_in_global(lay, arithmetic, raw, vector, tile), *_in_shared(arithmetic, raw, vector, tile)
    constants = _constant(vector, float("-inf")), _constant(vector, 0.0)
    return Numbers(item, vector.lanes, tile, arithmetic, vector, *constants, *accesses)


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


# --- numbers in memory -----------------------------------------------------------------------------------------------


class _AsTheyAre:
    """float32 and float64: in memory as in registers."""

    def __init__(self, element: ir.Type) -> None:
        self.element = element

    def widen(self, builder: ir.IRBuilder, chunk: ir.Value) -> ir.Value:
        return chunk

    narrow = widen

    def elements(self, builder: ir.IRBuilder, vector: ir.Value) -> list[ir.Value]:
        return _lanes(builder, vector)

    def chunk(self, builder: ir.IRBuilder, elements: list[ir.Value]) -> ir.Value:
        return _gather(builder, elements)


class _SixteenBits:
    """float16 and bfloat16: two to a word of 32 bits, the first in the lower half.

    A chunk stays four words until the numbers are taken out one by one: LLVM has no access of 16 bytes to eight halves.
    """

    element = I16

    def __init__(self, dtype: str, pairs: bool) -> None:
        self.widen_word = _WIDEN_WORD[dtype]
        self.narrow_two = _NARROW_TWO[dtype, pairs]

    def widen(self, builder: ir.IRBuilder, chunk: ir.Value) -> ir.Value:
        return _gather(builder, [n for word in _lanes(builder, chunk) for n in self.widen_word(builder, word)])

    def narrow(self, builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
        values = _lanes(builder, vector)
        pairs = zip(values[::2], values[1::2], strict=True)
        return _gather(builder, [self.narrow_two(builder, low, high) for low, high in pairs])

    def elements(self, builder: ir.IRBuilder, vector: ir.Value) -> list[ir.Value]:
        values = _lanes(builder, vector)
        words = [
            self.narrow_two(builder, low, high)
            for low, high in zip(values[::2], [*values[1::2], values[-1]], strict=False)
        ]
        halves = [builder.trunc(h, I16) for word in words for h in (word, builder.lshr(word, I32(16)))]
        return halves[: len(values)]

    def chunk(self, builder: ir.IRBuilder, elements: list[ir.Value]) -> ir.Value:
        return builder.bitcast(_gather(builder, elements), ir.VectorType(I32, len(elements) // 2))


def _two_of_word(builder: ir.IRBuilder, assembly: str, kind: str, ty: ir.Type, word: ir.Value) -> list[ir.Value]:
    """What an assembly makes of a word ($2): two values. (LLVM would move them to other registers first.)"""
    of_word = ir.FunctionType(ir.LiteralStructType([ty, ty]), [I32])
    both = builder.asm(of_word, assembly, f"={kind},={kind},r", [word], False)
    return [builder.extract_value(both, i) for i in range(2)]


def _widen_float16(builder: ir.IRBuilder, word: ir.Value) -> list[ir.Value]:
    """(Not LLVM's conversion, which it would rather do after comparing halves.)"""
    of_half = ir.FunctionType(ir.FloatType(), [I16])
    halves = _two_of_word(builder, "mov.b32 {$0, $1}, $2;", "h", I16, word)
    return [builder.asm(of_half, "cvt.f32.f16 $0, $1;", "=f,h", [half], False) for half in halves]


def _widen_bfloat16(builder: ir.IRBuilder, word: ir.Value) -> list[ir.Value]:
    """A bfloat16 is the upper half of a float32."""
    assembly = "shl.b32 $0, $2, 16; and.b32 $1, $2, 0xFFFF0000;"
    return _two_of_word(builder, assembly, "f", ir.FloatType(), word)


def _in_pairs(instruction: str) -> Callable[..., ir.Value]:
    """Round two numbers at once; the instruction takes that of the upper half first."""

    def narrow(builder: ir.IRBuilder, low: ir.Value, high: ir.Value) -> ir.Value:
        of_two = ir.FunctionType(I32, [ir.FloatType(), ir.FloatType()])
        return builder.asm(of_two, f"{instruction} $0, $1, $2;", "=r,f,f", [high, low], False)

    return narrow


def _float16_one_by_one(builder: ir.IRBuilder, low: ir.Value, high: ir.Value) -> ir.Value:
    of_two = ir.FunctionType(I32, [I16, I16])
    halves = [builder.bitcast(builder.fptrunc(value, ir.HalfType()), I16) for value in (low, high)]
    return builder.asm(of_two, "mov.b32 $0, {$1, $2};", "=r,h,h", halves, False)


def _bfloat16_by_integers(builder: ir.IRBuilder, low: ir.Value, high: ir.Value) -> ir.Value:
    """Half a unit more than to even, cut off: the exponent takes a carry as it should."""
    words = []
    for value in (low, high):
        bits = builder.bitcast(value, I32)
        odd = builder.and_(builder.lshr(bits, I32(16)), I32(1))
        rounded = builder.add(builder.add(bits, odd), I32(_JUST_LESS_THAN_HALF))
        words.append(builder.select(builder.fcmp_unordered("uno", value, value), I32(_QUIET_NAN), rounded))
    return builder.or_(builder.lshr(words[0], I32(16)), builder.and_(words[1], I32(0xFFFF0000)))


_JUST_LESS_THAN_HALF = 0x7FFF
_QUIET_NAN = 0x7FFF0000  # as the hardware rounds NaN to bfloat16

_WIDEN_WORD = {"float16": _widen_float16, "bfloat16": _widen_bfloat16}
_NARROW_TWO = {
    ("float16", True): _in_pairs("cvt.rn.f16x2.f32"),
    ("float16", False): _float16_one_by_one,
    ("bfloat16", True): _in_pairs("cvt.rn.bf16x2.f32"),
    ("bfloat16", False): _bfloat16_by_integers,
}


# --- global memory ---------------------------------------------------------------------------------------------------


def _at(builder: ir.IRBuilder, address: ir.Value, ty: ir.Type, space: int = _GLOBAL) -> ir.Value:
    return builder.inttoptr(address, ir.PointerType(ty, space))


def _load_pieces(
    builder: ir.IRBuilder, ty: ir.Type, pieces: int, space: int, address: ir.Value, step: ir.Value
) -> ir.Value:
    """Vectors of 16 bytes, ``step`` bytes from one to the next, as one vector."""
    lanes: list[ir.Value] = []
    for _ in range(pieces):
        lanes += _lanes(builder, builder.load(_at(builder, address, ty, space), align=CHUNK_BYTES))
        address = builder.add(address, step)
    return _gather(builder, lanes)


def _store_pieces(
    builder: ir.IRBuilder, lanes: int, space: int, address: ir.Value, step: ir.Value, vector: ir.Value
) -> None:
    """Likewise; ``lanes``: of 16 bytes."""
    values = _lanes(builder, vector)
    for i in range(0, len(values), lanes):
        piece = _gather(builder, values[i : i + lanes])
        builder.store(piece, _at(builder, address, piece.type, space), align=CHUNK_BYTES)
        address = builder.add(address, step)


def _in_global(lay: Any, arithmetic: types.Type, raw: Vec, vector: Vec, tile: int) -> tuple[Any, ...]:
    item, element = CHUNK_BYTES // vector.lanes, lay.element

    @intrinsic
    def load(typingctx: Any, address: types.Integer) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            return builder.load(_at(builder, args[0], raw.ir), align=CHUNK_BYTES)

        return raw(types.int64), codegen

    @intrinsic
    def load_tile(typingctx: Any, address: types.Integer, distance: types.Integer) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            return _load_pieces(builder, raw.ir, tile, _GLOBAL, *args)

        return Vec(raw.element, raw.lanes * tile)(types.int64, types.int64), codegen

    # The type of a register and its bits, and how many of them an access takes.
    kind, bits, n = ("d", 64, 2) if item == 8 else ("f" if item == 4 else "r", 32, 4)
    registers = ", ".join(f"${i}" for i in range(n))

    @intrinsic
    def load_last(typingctx: Any, address: types.Integer, distance: types.Integer) -> Any:
        assembly = f"ld.global.cs.v{n}.b{bits} {{{registers}}}, [${n}];"

        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            address, distance = args
            of_chunk = ir.FunctionType(ir.LiteralStructType([raw.ir.element] * n), [I64])
            lanes: list[ir.Value] = []
            for _ in range(tile):
                chunk = builder.asm(of_chunk, assembly, f"={kind}," * n + "l,~{memory}", [address], True)
                lanes += [builder.extract_value(chunk, i) for i in range(n)]
                address = builder.add(address, distance)
            return _gather(builder, lanes)

        return Vec(raw.element, raw.lanes * tile)(types.int64, types.int64), codegen

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
            (rest,) = lay.elements(builder, _gather(builder, [args[4]]))
            return lay.chunk(builder, [builder.select(i, v, rest) for v, i in zip(values, inside, strict=True)])

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
        wide = Vec(arithmetic, chunk.lanes * (vector.lanes // raw.lanes))
        return wide(chunk), lambda context, builder, sig, args: lay.widen(builder, args[0])

    @intrinsic
    def load_one(typingctx: Any, address: types.Integer) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            value = builder.load(_at(builder, args[0], element), align=item)
            if item > 2:
                return value
            return lay.widen_word(builder, builder.zext(value, I32))[0]

        return arithmetic(long), codegen

    @intrinsic
    def store(typingctx: Any, address: types.Integer, distance: types.Integer, value: Vec) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            address, distance, v = args
            _store_pieces(builder, raw.lanes, _GLOBAL, address, distance, lay.narrow(builder, v))
            return context.get_dummy_value()

        return types.void(long, long, value), codegen

    @intrinsic
    def store_past(typingctx: Any, address: types.Integer, distance: types.Integer, value: Vec) -> Any:
        assembly = f"st.global.cs.v{n}.b{bits} [${n}], {{{registers}}};"

        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            address, distance, v = args
            values = _lanes(builder, lay.narrow(builder, v))
            of_chunk = ir.FunctionType(ir.VoidType(), [values[0].type] * n + [I64])
            for i in range(0, len(values), n):
                builder.asm(of_chunk, assembly, f"{kind}," * n + "l,~{memory}", [*values[i : i + n], address], True)
                address = builder.add(address, distance)
            return context.get_dummy_value()

        return types.void(long, long, value), codegen

    @intrinsic
    def store_edge(typingctx: Any, row: Any, stride: Any, j: Any, n: Any, value: Vec) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            row, stride, j, n, vec = args
            for lane, one in enumerate(lay.elements(builder, vec)):
                place = builder.add(j, I64(lane))
                with builder.if_then(builder.icmp_unsigned("<", place, n)):
                    where = _at(builder, builder.add(row, builder.mul(place, stride)), one.type)
                    builder.store(one, where, align=item)
            return context.get_dummy_value()

        return types.void(long, long, long, long, vector), codegen

    @intrinsic
    def store_one(typingctx: Any, address: types.Integer, value: types.Float) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            (one,) = lay.elements(builder, _gather(builder, [args[1]]))
            builder.store(one, _at(builder, args[0], one.type), align=item)
            return context.get_dummy_value()

        return types.void(long, arithmetic), codegen

    return load, load_tile, load_last, load_edge, widened, load_one, store, store_past, store_edge, store_one, load_numbers


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


def _in_shared(arithmetic: types.Type, raw: Vec, vector: Vec, tile: int) -> tuple[Any, ...]:
    piece = ir.VectorType(ir_of(arithmetic), CHUNK_BYTES * 8 // arithmetic.bitwidth)

    @intrinsic
    def keep_raw(typingctx: Any, address: types.Integer, chunk: Vec) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            builder.store(args[1], _at(builder, args[0], raw.ir, _SHARED), align=CHUNK_BYTES)
            return context.get_dummy_value()

        return types.void(types.int64, raw), codegen

    @intrinsic
    def kept_raw(typingctx: Any, address: types.Integer) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            return builder.load(_at(builder, args[0], raw.ir, _SHARED), align=CHUNK_BYTES)

        return raw(types.int64), codegen

    @intrinsic
    def keep(typingctx: Any, address: types.Integer, distance: types.Integer, value: Vec) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            _store_pieces(builder, piece.count, _SHARED, *args)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, value), codegen

    def keeping(chunks: int) -> Any:
        value = Vec(arithmetic, vector.lanes * chunks)

        @intrinsic
        def kept(typingctx: Any, address: types.Integer, distance: types.Integer) -> Any:
            def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
                return _load_pieces(builder, piece, value.lanes // piece.count, _SHARED, *args)

            return value(types.int64, types.int64), codegen

        return kept

    return (
        keep_raw,
        kept_raw,
        keep,
        keeping(1),
        keeping(tile),
        *_one_in_shared(arithmetic),
        *_two_in_shared(arithmetic),
        *_one_in_shared(types.int32),
    )


def _one_in_shared(ty: types.Type) -> tuple[Any, Any]:
    @intrinsic
    def keep_one(typingctx: Any, address: types.Integer, value: types.Type) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            builder.store(args[1], _at(builder, args[0], ir_of(ty), _SHARED), align=ty.bitwidth // 8)
            return context.get_dummy_value()

        return types.void(types.int64, ty), codegen

    @intrinsic
    def kept_one(typingctx: Any, address: types.Integer) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            return builder.load(_at(builder, args[0], ir_of(ty), _SHARED), align=ty.bitwidth // 8)

        return ty(types.int64), codegen

    return keep_one, kept_one


def _two_in_shared(ty: types.Type) -> tuple[Any, Any]:
    vec, pair, bytes_ = ir.VectorType(ir_of(ty), 2), types.UniTuple(ty, 2), 2 * ty.bitwidth // 8

    @intrinsic
    def keep_two(typingctx: Any, address: types.Integer, two: types.UniTuple) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            both = _gather(builder, cgutils.unpack_tuple(builder, args[1]))
            builder.store(both, _at(builder, args[0], vec, _SHARED), align=bytes_)
            return context.get_dummy_value()

        return types.void(types.int64, pair), codegen

    @intrinsic
    def kept_two(typingctx: Any, address: types.Integer) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            both = builder.load(_at(builder, args[0], vec, _SHARED), align=bytes_)
            return cgutils.pack_array(builder, _lanes(builder, both))

        return pair(types.int64), codegen

    return keep_two, kept_two
