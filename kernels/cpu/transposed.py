"""Several rows at once: row r in lane r of every vector.

Rows are loaded whole and transposed in registers, on the way in and on the way out; what belongs to the target of each
row is picked from its own vector.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .llvm import I8, I32, I64, call_llvm, constant, lanes_from, suffix
from .pointers import decode, element_at, encode, first_lanes, memory_type, size_of
from .simd import Vec, int_vec, splat, vec_of, vector_bytes


@intrinsic
def lane_offsets(typingctx: Any) -> Any:
    """Room on the stack for one int64 a lane."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.bitcast(cgutils.alloca_once(builder, ir.ArrayType(I64, 16)), I64.as_pointer())

    return types.CPointer(types.int64)(), codegen


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
        offset = builder.load(element_at(builder, args[1], I64, I64(lane)), typ=I64)
        starts.append(element_at(builder, element_at(builder, args[0], I8, offset), memory_type(base.dtype), args[2]))
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
    vec = vec_of(buffer)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        raw_type = ir.VectorType(memory_type(base.dtype), vec.lanes)
        name = f"llvm.masked.load.{suffix(raw_type)}.p0"
        mask = first_lanes(builder, vec.lanes, args[3])
        fixed = [I32(size_of(base)), mask, ir.Constant(raw_type, None)]
        rows = [
            decode(context, builder, call_llvm(builder, name, raw_type, [start, *fixed]), base.dtype, vec)
            for start in _row_starts(builder, base, args, vec)
        ]
        for j, column in enumerate(_transposed(builder, rows)):
            at = element_at(builder, args[4], vec.ir, builder.add(args[2], I64(j)))
            builder.store(column, at, align=vector_bytes(buffer))
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
    vec = vec_of(buffer)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        columns = []
        for j in range(vec.lanes):
            at = element_at(builder, args[4], vec.ir, builder.add(args[2], I64(j)))
            columns.append(builder.load(at, align=vector_bytes(buffer), typ=vec.ir))
        mask = first_lanes(builder, vec.lanes, args[3])
        rows = _transposed(builder, columns)
        for start, row in zip(_row_starts(builder, base, args, vec), rows, strict=True):
            raw = encode(context, builder, row, base.dtype)
            name = f"llvm.masked.store.{suffix(raw.type)}.p0"
            call_llvm(builder, name, ir.VoidType(), [raw, start, I32(size_of(base)), mask])
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
    vec = vec_of(buffer)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        def load(n: int) -> None:
            whole = Vec(buffer.dtype, vec.lanes * n)
            raw_type = ir.VectorType(memory_type(base.dtype), whole.lanes)
            at = builder.bitcast(element_at(builder, args[0], I8, args[1]), raw_type.as_pointer())
            raw = builder.load(at, align=size_of(base), typ=raw_type)
            rows = decode(context, builder, raw, base.dtype, whole)
            for j in range(n):
                column = lanes_from(builder, rows, rows, [lane * n + j for lane in range(vec.lanes)])
                builder.store(column, element_at(builder, args[3], vec.ir, I64(j)), align=vector_bytes(buffer))

        _for_each_length(builder, args[2], load)
        return context.get_dummy_value()

    return types.void(base, types.int64, types.int64, buffer), codegen


@intrinsic
def store_rows(
    typingctx: Any, base: types.CPointer, start: types.Integer, n: types.Integer, buffer: types.CPointer
) -> Any:
    """The way back, as ``store_lanes``."""
    vec = vec_of(buffer)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        def store(n: int) -> None:
            parts = [
                builder.load(element_at(builder, args[3], vec.ir, I64(j)), align=vector_bytes(buffer), typ=vec.ir)
                for j in range(n)
            ]
            while len(parts) & (len(parts) - 1):  # what is joined pair by pair
                parts.append(parts[0])
            while len(parts) > 1:
                both = list(range(parts[0].type.count * 2))
                parts = [lanes_from(builder, a, b, both) for a, b in zip(parts[::2], parts[1::2], strict=True)]
            order = [j * vec.lanes + lane for lane in range(vec.lanes) for j in range(n)]
            rows = lanes_from(builder, parts[0], parts[0], order)
            raw = encode(context, builder, rows, base.dtype)
            at = builder.bitcast(element_at(builder, args[0], I8, args[1]), raw.type.as_pointer())
            builder.store(raw, at, align=size_of(base))

        _for_each_length(builder, args[2], store)
        return context.get_dummy_value()

    return types.void(base, types.int64, types.int64, buffer), codegen


@intrinsic
def to_lanes(typingctx: Any, like: types.CPointer, base: types.CPointer, index: types.Integer, n: types.Integer) -> Any:
    """Integers ``base[index] ... base[index + n - 1]`` (int64), one a lane of ``load(like, ...)``; other lanes 0."""
    vec = vec_of(like).of(types.int64)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        start = element_at(builder, args[1], I64, args[2])
        operands = [start, I32(8), first_lanes(builder, vec.lanes, args[3]), ir.Constant(vec.ir, None)]
        return call_llvm(builder, f"llvm.masked.load.{suffix(vec.ir)}.p0", vec.ir, operands)

    return vec(like, base, types.int64, types.int64), codegen


def _places(builder: ir.IRBuilder, start: ir.Value, column: ir.Value, buffer: types.CPointer) -> ir.Value:
    """Addresses, one a lane, of that lane in vector ``column[lane]`` of a buffer."""
    vec, size = vec_of(buffer), size_of(buffer)
    index_type = ir.VectorType(I64, vec.lanes)
    index = builder.sext(column, index_type) if column.type != index_type else column
    index = builder.shl(index, constant(index_type, vector_bytes(buffer).bit_length() - 1))
    index = builder.add(index, ir.Constant(index_type, list(range(0, vec.lanes * size, size))))
    start = splat(builder, builder.ptrtoint(start, I64), index_type)
    return builder.inttoptr(builder.add(start, index), ir.VectorType(I8.as_pointer(), vec.lanes))


@intrinsic
def pick(typingctx: Any, buffer: types.CPointer, column: Vec, mask: Vec) -> Any:
    """Of each lane, in which ``mask`` is true, that lane of vector ``column`` of a buffer; 0 in the others."""
    vec = Vec(buffer.dtype, column.lanes)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        name = f"llvm.masked.gather.{suffix(vec.ir)}.v{vec.lanes}p0"
        places = _places(builder, args[0], args[1], buffer)
        operands = [places, I32(vec.element.bitwidth // 8), args[2], ir.Constant(vec.ir, None)]
        return call_llvm(builder, name, vec.ir, operands)

    return vec(buffer, column, mask), codegen


@intrinsic
def place(typingctx: Any, buffer: types.CPointer, column: Vec, mask: Vec, value: Vec) -> Any:
    """The way back: each lane of ``value``, where ``mask`` is true, to that lane of vector ``column`` of a buffer."""
    vec = Vec(buffer.dtype, column.lanes)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        name = f"llvm.masked.scatter.{suffix(vec.ir)}.v{vec.lanes}p0"
        operands = [
            args[3],
            _places(builder, args[0], args[1], buffer),
            I32(vec.element.bitwidth // 8),
            args[2],
        ]
        call_llvm(builder, name, ir.VoidType(), operands)
        return context.get_dummy_value()

    return types.void(buffer, column, mask, value), codegen


@intrinsic
def shortened(typingctx: Any, like: Vec, a: Vec) -> Any:
    """int64 lanes as integers as wide as the lanes of ``like`` (the lower bits)."""
    vec = int_vec(like)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return args[1] if a == vec else builder.trunc(args[1], vec.ir)

    return vec(like, a), codegen
