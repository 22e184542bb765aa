"""A row: where it lies, what its target is, and how its chunks are read and written."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba.cuda import types

from .call import Call
from .compile import inline
from .maths import Maths
from .memory import CHUNK_BYTES, Numbers, numbers_at
from .vector import places, where

load_long, store_long = numbers_at(types.int64)
_load_int8, _ = numbers_at(types.int8)
_load_int16, _ = numbers_at(types.int16)
_load_int32, _ = numbers_at(types.int32)

# In place of a target that is a class, 0 or more:
NO_TARGET, IGNORED, BAD = -1, -2, -3

CHUNK_BITS = 4


class Row(NamedTuple):
    """One row, as its threads see it.

    Its chunks are counted from the first that lies at a multiple of ``align`` bytes; the few before that come last.
    """

    n: int  # classes; 0 where there is no such row
    x: int  # address of its first logit
    origin: int  # address of its first chunk
    chunks: int
    whole: Any  # chunks up to this address can be read at once
    g: int  # address of the gradient's first element
    writable: Any  # likewise
    q: int
    number: int


class Rows(NamedTuple):
    """The functions below, for logits of one type."""

    open: Any  # (call, number, there, align) -> Row
    target_number: Any  # (call, row) -> what the targets say, of any integer type
    target: Any  # (call, row, that number) -> class, or one of those above
    first_class: Any  # (row, k) -> the class that chunk k begins with: less than 0 where it begins before the row
    chunk_of: Any  # (row, j) -> the chunk of a class
    chunk: Any  # (call, row, k, filler) -> chunk k, as loaded, what is outside of the row ``filler``
    put_chunk: Any  # (call, row, k, vector): what is inside of the row, into the gradient
    inside: Any  # (row, j) -> which of its lanes belong to the row
    spread: Any  # (call, row, j, inside) -> the spread weights of its classes
    number_at: Any  # (address, index, otherwise) -> the number there, or ``otherwise`` where the address is 0
    put_number: Any  # (address, index, value): where the address is not 0


@inline
def start_of(first, step, offsets, number):
    """Address of a row."""
    if offsets != 0:
        return first + load_long(offsets + 8 * number)
    return first + number * step


@inline
def target_at(targets, bytes_, ignore_index, number):
    """A target of any integer type; what is beyond 64 bits with a sign becomes a number that is never a class."""
    if bytes_ == -8 or bytes_ == 8:
        y = load_long(targets + 8 * number)
        if bytes_ == 8 and y < 0:
            return np.int64(-2) if ignore_index == -1 else np.int64(-1)
        return y
    if bytes_ == -4 or bytes_ == 4:
        y = np.int64(_load_int32(targets + 4 * number))
        return y & 0xFFFFFFFF if bytes_ > 0 else y
    if bytes_ == -2 or bytes_ == 2:
        y = np.int64(_load_int16(targets + 2 * number))
        return y & 0xFFFF if bytes_ > 0 else y
    y = np.int64(_load_int8(targets + number))
    return y & 0xFF if bytes_ > 0 else y


@cache
def rows(numbers: Numbers, maths: Maths) -> Rows:
    """The accesses to rows of one type."""
    item, lanes, item_bits = numbers.item, numbers.lanes, numbers.item.bit_length() - 1
    lane_bits = lanes.bit_length() - 1
    load, load_edge, widen, store, store_edge = (
        numbers.load, numbers.load_edge, numbers.widen, numbers.store, numbers.store_edge,
    )  # fmt: skip
    load_numbers, zeros, number_bytes = numbers.load_numbers, numbers.zeros, numbers.arithmetic.bitwidth // 8
    load_number, store_number = numbers_at(numbers.arithmetic)

    @inline
    def shift_of(x):
        """How many elements an address lies behind a multiple of 16 bytes."""
        return (x & (CHUNK_BYTES - 1)) >> item_bits

    @inline
    def open_row(call: Call, number, there, align):
        n = call.n_classes if there else 0
        number = number if there else 0
        x = start_of(call.x, call.x_step, call.x_offsets, number)
        g = start_of(call.g, call.g_step, call.g_offsets, number)
        q = start_of(call.q, call.q_step, call.q_offsets, number)
        origin = (x + (align - 1)) & -align
        # (no chunk where there is no row: it would be read)
        chunks = (n + shift_of(x) + (lanes - 1)) >> lane_bits if there else 0
        whole, writable = np.int64(0), np.int64(0)
        if call.x_stride == item:
            whole = (x + n * item) & -CHUNK_BYTES
        if call.g_stride == item and (x ^ g) & (CHUNK_BYTES - 1) == 0:
            writable = (g + n * item) & -CHUNK_BYTES
        return Row(n, x, origin, chunks, whole, g, writable, q, number)

    @inline
    def target_number(call: Call, row: Row):
        if call.targets != 0 and row.n != 0:
            return target_at(call.targets, call.target_bytes, call.ignore_index, row.number)
        return np.int64(0)

    @inline
    def target(call: Call, row: Row, number):
        if call.targets == 0 or row.n == 0:
            return np.int64(NO_TARGET)
        if number == call.ignore_index:
            return np.int64(IGNORED)
        return np.int64(number if number >= 0 and number < row.n else BAD)

    @inline
    def chunks_before_origin(row: Row):
        return min((row.origin - (row.x & -CHUNK_BYTES)) >> CHUNK_BITS, row.chunks)

    @inline
    def first_class(row: Row, k):
        behind = row.chunks - chunks_before_origin(row)
        if k < behind:
            return (k << lane_bits) + ((row.origin - row.x) >> item_bits)
        return ((k - behind) << lane_bits) - shift_of(row.x)

    @inline
    def chunk_of(row: Row, j):
        before = (row.origin - row.x) >> item_bits
        if j >= before:
            return (j - before) >> lane_bits
        return row.chunks - chunks_before_origin(row) + ((j + shift_of(row.x)) >> lane_bits)

    @inline
    def chunk(call: Call, row: Row, k, filler):
        at = row.origin + (k << CHUNK_BITS)
        if at < row.whole:
            return load(at)
        return load_edge(row.x, call.x_stride, first_class(row, k), row.n, filler)

    @inline
    def put_chunk(call: Call, row: Row, k, vector):
        at = row.g + (row.origin - row.x) + (k << CHUNK_BITS)
        if at < row.writable:
            store(at, 0, vector)
        else:
            store_edge(row.g, call.g_stride, first_class(row, k), row.n, vector)

    @inline
    def inside(row: Row, j):
        place = places(zeros(), j)
        return (place >= 0) & (place < row.n)

    @inline
    def spread(call: Call, row: Row, j, belongs):
        c = zeros() + call.share
        if call.q != 0:
            if call.q_wide != 0:
                c = load_numbers(row.q, call.q_stride, j, row.n) * call.keep + c
            else:
                c = widen(load_edge(row.q, call.q_stride, j, row.n, 0.0)) * call.keep + c
        if call.weight != 0:
            c = c * load_numbers(call.weight, number_bytes, j, row.n)
        return where(belongs, c, 0.0)

    @inline
    def number_at(address, index, otherwise):
        if address != 0:
            return load_number(address + number_bytes * index)
        return otherwise

    @inline
    def put_number(address, index, value):
        if address != 0:
            store_number(address + number_bytes * index, value)

    return Rows(open_row, target_number, target, first_class, chunk_of, chunk, put_chunk, inside, spread, number_at, put_number)
