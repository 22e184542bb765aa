"""Types of PTX as NumPy types. A register only holds bits; each instruction says as what it reads and writes them."""

import numpy as np

from .faults import Refused

DTYPES = {
    "pred": np.dtype(bool),
    **{kind: np.dtype(name) for kind, name in (("b8", "u1"), ("u8", "u1"), ("s8", "i1"))},
    **{kind: np.dtype(name) for kind, name in (("b16", "u2"), ("u16", "u2"), ("s16", "i2"), ("f16", "f2"))},
    **{kind: np.dtype(name) for kind, name in (("b32", "u4"), ("u32", "u4"), ("s32", "i4"), ("f32", "f4"))},
    **{kind: np.dtype(name) for kind, name in (("b64", "u8"), ("u64", "u8"), ("s64", "i8"), ("f64", "f8"))},
    # NumPy has no such numbers: their bits.
    "bf16": np.dtype("u2"),
    "f16x2": np.dtype("u4"),
    "bf16x2": np.dtype("u4"),
    "f32x2": np.dtype("u8"),
}
UNSIGNED = {size: np.dtype(f"u{size}") for size in (1, 2, 4, 8)}


def is_type(name):
    return name in DTYPES


def bits_of(dtype):
    """The type of the register that holds such a value: bool, or the unsigned integer of its size."""
    return dtype if dtype.kind == "b" else UNSIGNED[max(dtype.itemsize, 2)]


def whole(dtype):
    """The mask of a register that is known wholly: a bit for every 16 bits."""
    return (1 << max(dtype.itemsize // 2, 1)) - 1


def immediate(text, dtype):
    """The value of a literal, as the type of the operand it stands for."""
    text = text.rstrip("U")
    if text[:2] in ("0f", "0F", "0d", "0D"):
        value = np.uint32(int(text[2:], 16)) if text[1] in "fF" else np.uint64(int(text[2:], 16))
        if dtype.itemsize == value.itemsize:
            return value.view(dtype)
    elif dtype.kind in "iu" and "." not in text:
        size = 8 * dtype.itemsize
        return UNSIGNED[dtype.itemsize].type(int(text, 0) % 2**size).view(dtype)
    elif dtype.kind == "b":
        return np.bool_(int(text, 0))
    raise Refused(f"the literal {text} as {dtype}")
