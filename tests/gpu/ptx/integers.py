"""Integer instructions over arrays, where NumPy lacks them or does something else."""

import numpy as np


def multiply_high(a, b):
    """The upper half of the product, which has twice the width."""
    if a.dtype.itemsize < 8:
        return ((_wide(a) * _wide(b)) >> (8 * a.dtype.itemsize)).astype(a.dtype)
    ua, ub = a.view(np.uint64), b.view(np.uint64)
    half, low = np.uint64(32), np.uint64(0xFFFFFFFF)
    a_high, a_low, b_high, b_low = ua >> half, ua & low, ub >> half, ub & low
    middle = a_high * b_low + (a_low * b_low >> half)
    carry = (middle & low) + a_low * b_high
    high = a_high * b_high + (middle >> half) + (carry >> half)
    if a.dtype.kind == "i":  # the unsigned product of a negative a is 2**64 * b too large
        high = high - np.where(a < 0, ub, np.uint64(0)) - np.where(b < 0, ua, np.uint64(0))
    return high.view(a.dtype)


def _wide(a):
    return a.astype(np.int64 if a.dtype.kind == "i" else np.uint64)


def multiply_wide(a, b):
    dtype = np.dtype(f"{a.dtype.kind}{2 * a.dtype.itemsize}")
    return a.astype(dtype) * b.astype(dtype)


def divide(a, b):
    """Towards zero, where NumPy's integer division rounds down."""
    quotient = a // b
    return quotient + ((quotient < 0) & (quotient * b != a)).astype(a.dtype) if a.dtype.kind == "i" else quotient


def remainder(a, b):
    return a - divide(a, b) * b


def add_saturating(a, b):
    """Signed 32-bit sums, clamped instead of wrapped around."""
    return np.clip(a.astype(np.int64) + b.astype(np.int64), -(2**31), 2**31 - 1).astype(np.int32)


# Shifts: amounts beyond the width count as the width


def shift_left(a, amount):
    width = 8 * a.dtype.itemsize
    inside = a << np.minimum(amount, width - 1).astype(a.dtype)
    return np.where(amount < width, inside, a.dtype.type(0))


def shift_right(a, amount):
    width = 8 * a.dtype.itemsize
    inside = a >> np.minimum(amount, width - 1).astype(a.dtype)
    return inside if a.dtype.kind == "i" else np.where(amount < width, inside, a.dtype.type(0))


def funnel(a, b, amount, left, wrap):
    """shf: shift the 64 bits b:a, give the upper word (left) or the lower one (right)."""
    both = (b.astype(np.uint64) << np.uint64(32)) | a.astype(np.uint64)
    amount = (amount & 31 if wrap else np.minimum(amount, 32)).astype(np.uint64)
    return ((both << amount) >> np.uint64(32) if left else both >> amount).astype(np.uint32)


# Bit fields: position and length are single bytes


def extract(a, position, length):
    """bfe: `length` bits from `position` on; a signed field repeats its topmost bit, or that of a beyond its end."""
    width = 8 * a.dtype.itemsize
    position, length = position & 0xFF, length & 0xFF
    bits = a.view(f"u{a.dtype.itemsize}")
    field = shift_right(a, position).view(bits.dtype) & _mask(length, width, bits.dtype)
    if a.dtype.kind == "u":
        return field
    top = np.minimum(position + length - np.uint32(1), np.uint32(width - 1))
    negative = (shift_right(bits, top) & bits.dtype.type(1)).astype(bool) & (length > 0)
    return np.where(negative, field | ~_mask(length, width, bits.dtype), field).view(a.dtype)


def insert(a, b, position, length):
    """bfi: the lowest `length` bits of a replace those of b from `position` on."""
    width = 8 * a.dtype.itemsize
    position, length = position & 0xFF, length & 0xFF
    mask = shift_left(_mask(length, width, a.dtype), position)
    return (b & ~mask) | (shift_left(a, position) & mask)


def _mask(length, width, dtype):
    """The lowest `length` bits set."""
    return ~shift_left(np.full(np.shape(length), ~dtype.type(0), dtype), length)


def permute(a, b, selector):
    """prmt: each byte of the result is one of the eight of b:a, or that byte's sign all over it."""
    both = (b.astype(np.uint64) << np.uint64(32)) | a.astype(np.uint64)
    result = np.zeros(np.broadcast(a, b, selector).shape, np.uint32)
    for i in range(4):
        choice = selector >> np.uint32(4 * i)
        byte = (both >> ((choice & np.uint32(7)) * np.uint32(8)).astype(np.uint64)).astype(np.uint32) & np.uint32(0xFF)
        sign = np.where(byte >= 128, np.uint32(0xFF), np.uint32(0))
        result |= np.where(choice & np.uint32(8), sign, byte) << np.uint32(8 * i)
    return result


def logic3(a, b, c, table):
    """lop3: `table` has the result for each of the eight combinations of three bits."""
    result = np.zeros_like(a)
    for i in range(8):
        if table >> i & 1:
            result = result | ((a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c))
    return result


# Counting bits


def count_ones(a):
    octets = np.ascontiguousarray(a).reshape((*np.shape(a), 1)).view(np.uint8)
    return np.unpackbits(octets, axis=-1).sum(axis=-1, dtype=np.uint32)


def leading_zeros(a):
    """clz."""
    octets = np.ascontiguousarray(a.astype(a.dtype.newbyteorder(">"))).reshape((*np.shape(a), 1)).view(np.uint8)
    bits = np.unpackbits(octets, axis=-1)
    return np.where(bits.any(axis=-1), bits.argmax(axis=-1), 8 * a.dtype.itemsize).astype(np.uint32)


def reverse_bits(a):
    """brev."""
    octets = np.ascontiguousarray(a).reshape((*np.shape(a), 1)).view(np.uint8)
    bits = np.unpackbits(octets, axis=-1, bitorder="little")[..., ::-1]
    return np.packbits(bits, axis=-1, bitorder="little").view(a.dtype)[..., 0]
