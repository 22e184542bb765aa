"""cvt: between integers, between floats, and from one to the other.

    cvt{.rounding}{.ftz}{.sat}.<to>.<from>

Floats that become integers are rounded as told (rni, rzi, rmi, rpi) and clamped to the range; NaN becomes 0, but with
64 bits on either side the topmost bit alone. float16 and bfloat16 are made from float32 by rounding to nearest.
"""

import numpy as np

from . import floats
from .decode import INTEGERS, Operation
from .values import DTYPES, whole

TO_INTEGRAL = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
ALL_INTEGERS = ("u8", "s8", *INTEGERS)
NAN16 = np.uint16(0x7FFF)  # what the GPU gives, float16 and bfloat16


def convert(m):
    source = m.type(*ALL_INTEGERS, "f16", "bf16", "f32", "f64")
    result = m.type(*ALL_INTEGERS, "f16", "bf16", "f32", "f64", "f16x2", "bf16x2")
    if result in ALL_INTEGERS:
        return integer_to_integer(m, result, source) if source in ALL_INTEGERS else float_to_integer(m, result, source)
    if source in ALL_INTEGERS:
        return integer_to_float(m, result, source)
    if result in ("f16x2", "bf16x2"):
        return pair(m, result, source)
    if result in ("f16", "bf16"):
        m.need("rn")
        if source != "f32":
            m.refuse(f"from {source}")
        if result == "f16":
            m.flag("ftz")  # float16 has no numbers as small as the subnormal ones of float32
        return Operation(to_half if result == "f16" else to_bfloat16, result, (source,))
    return float_to_float(m, result, source)


# To integers


def integer_to_integer(m, result, source):
    low, high = limits(result)
    dtype = DTYPES[result]
    if not m.flag("sat"):
        narrower = dtype.itemsize < DTYPES[source].itemsize
        known = (lambda values, masks: masks[0] & whole(dtype)) if narrower else None
        return Operation(lambda a: a.astype(dtype), result, (source,), known=known)
    # Only limits that the source can exceed matter, and those are numbers that it can hold.
    lowest, highest = max(low, limits(source)[0]), min(high, limits(source)[1])
    return Operation(lambda a: np.clip(a, lowest, highest).astype(dtype), result, (source,))


def limits(name):
    return int(np.iinfo(DTYPES[name]).min), int(np.iinfo(DTYPES[name]).max)


def float_to_integer(m, result, source):
    rounded = TO_INTEGRAL[m.need(*TO_INTEGRAL)]
    m.flag("sat")  # is what happens anyway
    ftz = source == "f32" and m.flag("ftz")
    if source not in ("f32", "f64"):
        m.refuse(f"from {source}")
    low, high = limits(result)
    dtype = DTYPES[result]
    wide = source == "f64" or dtype.itemsize == 8
    for_nan = (
        (np.uint64(1) << np.uint64(8 * dtype.itemsize - 1)).astype(f"u{dtype.itemsize}").view(dtype) if wide else 0
    )

    def function(a):
        a = rounded((floats.flush(a) if ftz else a).astype(np.float64))
        # 2**63 - 1 is no float64: whatever is not below 2**63 is clamped.
        inside = (a > low) & (a < high)
        clamped = np.where(a >= high, dtype.type(high), dtype.type(low))
        value = np.where(inside, np.where(inside, a, 0).astype(dtype), clamped)
        return np.where(np.isnan(a), dtype.type(for_nan), value)

    return Operation(function, result, (source,))


# To floats


def integer_to_float(m, result, source):
    m.need("rn")
    if result not in ("f32", "f64"):
        m.refuse(f"to {result}")
    return Operation(lambda a: a.astype(DTYPES[result]), result, (source,))


def float_to_float(m, result, source):
    ftz = "f32" in (result, source) and m.flag("ftz")
    sat = m.flag("sat")
    before = floats.flush if ftz and source == "f32" else np.asarray
    if source == result:
        # Without a rounding to an integral number there is nothing to do but .ftz and .sat.
        rounded = TO_INTEGRAL.get(m.take(*TO_INTEGRAL), np.asarray)
    elif (source, result) == ("f64", "f32"):
        mode = m.need(*floats.MODES)
        rounded = lambda a: floats.to_float32(a, mode)  # noqa: E731
    elif source == "bf16":
        rounded = {"f32": from_bfloat16}.get(result)
    else:
        rounded = lambda a: a.astype(DTYPES[result])  # noqa: E731
    if rounded is None:
        m.refuse("between these types")

    def function(a):
        value = rounded(before(a))
        if sat:
            return floats.saturate(value)
        if result != "f32":
            return value
        return floats.canonical(floats.flush(value) if ftz else value)

    return Operation(function, result, (source,))


def to_half(a):
    return np.where(np.isnan(a), NAN16.view(np.float16), a.astype(np.float16))


def to_bfloat16(a):
    """The upper half of a float32, rounded to nearest, to even when in the middle."""
    bits = a.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(a), NAN16, rounded.astype(np.uint16))


def from_bfloat16(a):
    return (a.astype(np.uint32) << np.uint32(16)).view(np.float32)


def pair(m, result, source):
    """Two float32 to two halves: the first becomes the upper one."""
    m.need("rn")
    if source != "f32":
        m.refuse(f"from {source}")
    one = (lambda a: to_half(a).view(np.uint16)) if result == "f16x2" else to_bfloat16
    return Operation(
        lambda a, b: (one(a).astype(np.uint32) << np.uint32(16)) | one(b).astype(np.uint32), result, ("f32", "f32")
    )
