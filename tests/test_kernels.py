"""What the CPU kernels are made of: the mathematics, vectors in memory, 16-bit types."""

import os
import subprocess
import sys
from decimal import Decimal, localcontext

import ml_dtypes
import numpy as np
import pytest
from conftest import types_with_oracle
from numba import njit

from fastce.kernels.cpu import addresses, bfloat16, gradient, llvm, maths, row
from fastce.kernels.cpu.call import GRADIENT, INTEGERS, N_CLASSES, STREAM, STREAMS, X
from fastce.kernels.cpu.compile import inline
from fastce.kernels.cpu.maths import constants
from fastce.kernels.cpu.pointers import (
    allocate,
    bytes_from,
    float64_at,
    free,
    lane_buffer,
    load,
    load_all,
    load_float64,
    load_part,
    pointer,
    pointer_at,
    store,
    store_part,
)
from fastce.kernels.cpu.simd import FLOATS, LOOKS_UP, NATIVE, lanes
from fastce.kernels.cpu.table import most_kept
from fastce.kernels.cpu.transposed import load_lanes, store_lanes
from fastce.kernels.formats import LOG2E

TYPES = (np.float32, np.float64)
FORMATS = {np.float32: maths.FORMAT32, np.float64: maths.FORMAT64}
GUARD = 0x5A  # every byte around what may be written


# --- mathematics -----------------------------------------------------------------------------------------------------


def elementwise(function):
    """Make a function of vectors one of arrays."""

    @njit(error_model="numpy")
    def loop(x, out):
        p, q = pointer(x), pointer(out)
        for i in range(0, x.size, lanes(p)):
            n = min(x.size - i, lanes(p))
            store_part(q, i, n, function(load_part(p, i, n)))

    def run(x):
        out = np.full_like(x, -12345.0)
        loop(x, out)
        return out

    return run


@elementwise
@inline
def exp(v):
    c = constants(v)
    return maths.power(v, maths.powers_of(v, LOG2E, c.log2e_rest), c.one)[1]


@elementwise
@inline
def coarse(v):
    return maths.coarse(v)


@inline
def _log(v):
    return maths.log(v)


@inline
def _log1p(v):
    return maths.log1p(v)


@inline
def _tanh(v):
    return maths.tanh(v, maths.powers_of(v, LOG2E, 0.0))


log, log1p, tanh = elementwise(_log), elementwise(_log1p), elementwise(_tanh)


def ulps(actual, expected):
    """Distance from what NumPy gives in a wider type, in units in the last place."""
    unit = np.spacing(np.abs(expected.astype(actual.dtype))).astype(np.longdouble)
    return np.abs(actual.astype(np.longdouble) - expected) / unit


@njit(error_model="numpy")
def power_parts(x, scale, r):
    p, q, s = pointer(x), pointer(scale), pointer(r)
    for i in range(0, x.size, lanes(p)):
        n, v = min(x.size - i, lanes(p)), load_part(p, i, x.size - i)
        c = constants(v)
        _, scale_v, r_v = maths.power_parts(v, maths.powers_of(v, LOG2E, c.log2e_rest), c.one, 0.0)
        store_part(q, i, n, scale_v)
        store_part(s, i, n, r_v)


@njit(error_model="numpy")
def scaled_power(x, out, less, factor, left):
    p, q = pointer(x), pointer(out)
    for i in range(0, x.size, lanes(p)):
        n, v = min(x.size - i, lanes(p)), load_part(p, i, x.size - i)
        c = constants(v)
        powers = maths.powers_of(v, LOG2E, c.log2e_rest)
        store_part(q, i, n, gradient.scaled_power(v, powers, c.one - less, factor, left))


def whole_range(dtype, rng):
    """What has powers of e from the smallest normal number to next to the largest."""
    smallest = np.log(np.finfo(dtype).tiny)
    largest = np.log(np.finfo(dtype).max) - 0.4  # 2**127.4, where the next power of two is not yet needed
    return np.concatenate(
        [
            np.linspace(np.nextafter(dtype(smallest), dtype(0)), largest, 1_000_003),
            rng.uniform(-1, 1, 500_000),
            rng.uniform(-2, 2, 100_000) * 2.0 ** rng.integers(-140, 0, 100_000),
            np.arange(-120, 120) * np.log(2) / 2,  # where the whole part of the power changes
        ]
    ).astype(dtype)


# Of a power, units in the last place: next to nothing but the last rounding, where powers begin at nodes.
MOST_ULPS = 0.7 if LOOKS_UP else 1.3


@types_with_oracle
def test_exp_over_its_whole_range(dtype, rng):
    """The specification allows 2."""
    x = whole_range(dtype, rng)
    assert ulps(exp(x), np.exp(x.astype(np.longdouble))).max() <= MOST_ULPS


@types_with_oracle
def test_scale_and_remainder_are_exp_within_half_a_unit(dtype, rng):
    """Whoever adds the two up elsewhere has less to lose than by rounding the sum. (With nodes, a tenth.)"""
    x = whole_range(dtype, rng)
    scale, r = np.empty_like(x), np.empty_like(x)
    power_parts(x, scale, r)
    bits = 8 if LOOKS_UP else 1
    np.testing.assert_array_equal(np.frexp(scale)[0] * 2**bits % 1, 0)
    farthest = 0.5 / len(FORMATS[dtype].nodes) + np.abs(FORMATS[dtype].less).max() if LOOKS_UP else 0.5
    assert np.abs(r).max() <= 2**farthest - 1 + 1e-6
    power = np.exp(x.astype(np.longdouble))
    off = np.abs(scale.astype(np.longdouble) * (1 + r.astype(np.longdouble)) - power) / power
    assert off.max() <= (0.1 if LOOKS_UP else 0.5) * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", TYPES)
def test_nodes_are_next_to_equal_steps_and_their_logarithms_exact(dtype):
    """What is looked up for a node; the tables are of as many as fill a register."""
    c = FORMATS[dtype]
    n = len(c.nodes)
    assert n == len(c.less) == (64 // np.dtype(dtype).itemsize if LOOKS_UP else 0)
    one, whole = dtype(1), f"i{np.dtype(dtype).itemsize}"
    for j, (lacks, less) in enumerate(zip(c.nodes, c.less, strict=True)):
        node = np.array(int(one.view(whole)) + (j << c.shift) + lacks, whole).view(dtype)
        with localcontext() as context:
            context.prec = 40
            exact = Decimal(j) / n - Decimal(float(node)).ln() / Decimal(2).ln()
            assert abs(Decimal(less) - exact) <= Decimal(2) ** -62
        assert abs(less) < 0.0045


@types_with_oracle
def test_a_scaled_power_is_rounded_once(dtype, rng):
    """Elements of a gradient: a power shifted, times a factor known to more digits than its type has."""
    x = whole_range(dtype, rng)
    out = np.empty_like(x)
    for less, factor, left in ((0, 1.0, 0), (3, 1 / 3, 0.4), (-7, 0.7, -0.4), (40, 1.99e-3, 0.49), (1, 3e-5, 0.1)):
        # (where powers begin at nodes, of so few digits that both together have no more than the type)
        factor, left = float(coarse(np.full(1, factor, dtype))[0]), left * float(np.finfo(dtype).eps)
        scaled_power(x, out, float(less), factor, left)
        shifted = np.exp(x.astype(np.longdouble)) * np.longdouble(2) ** -less
        exact = shifted * factor * (1 + np.longdouble(left))
        tiny, largest = np.finfo(dtype).tiny, np.finfo(dtype).max
        inside = (np.minimum(shifted, exact) > tiny) & (np.maximum(shifted, exact) < largest * 0.7)
        assert inside.sum() > 1_000_000
        # (As above; and what the factor left is added to r, not multiplied by 1 + r: 0.4 of it may not be there.)
        assert ulps(out[inside], exact[inside]).max() <= MOST_ULPS + (0.0 if left == 0 or LOOKS_UP else 0.4)
        assert (out[shifted < tiny] <= tiny).all()


@pytest.mark.parametrize("dtype", TYPES)
def test_exp_below_the_smallest_normal_number_is_that_or_0(dtype):
    tiny = np.finfo(dtype).tiny
    x = np.linspace(np.log(tiny) - 60, np.log(tiny), 10_001).astype(dtype)
    got = exp(x)
    assert (got >= 0).all()
    assert (got <= tiny * 1.0001).all()
    assert (got[x < np.log(tiny) - 1] == 0).all()


@pytest.mark.parametrize("dtype", TYPES)
def test_exp_of_special_values(dtype):
    x = np.array([0, -0.0, -np.inf, np.nan, -np.nan, -1e4, -3e38, -np.finfo(dtype).max], dtype)
    np.testing.assert_array_equal(exp(x), [1, 1, 0, np.nan, np.nan, 0, 0, 0])
    np.testing.assert_array_equal(exp(np.full(16, -np.inf, dtype)), np.zeros(16, dtype))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("share", [-1.0, -0.37, 1e-3, 0.5, 0.99])
def test_powers_less_a_large_K_are_within_2_ulp(dtype, share, rng):
    """As far from 0 as `limit` allows, where subtracting a rounded maximum would cost most digits."""
    c = FORMATS[dtype]
    k = float(np.rint(c.limit * share))
    one_less_k = c.one - k

    @elementwise
    @inline
    def shifted(v):
        c = constants(v)
        return maths.power(v, maths.powers_of(v, LOG2E, c.log2e_rest), one_less_k)[1]

    v = (k * np.log(2) - np.concatenate([[0], rng.uniform(0, 60, 300)])).astype(dtype)
    got = shifted(v)
    with localcontext() as context:
        context.prec = 60
        ln2 = Decimal(2).ln()
        for value, power in zip(v, got, strict=True):
            expected = (Decimal(float(value)) - Decimal(k) * ln2).exp()
            unit = Decimal(float(np.spacing(dtype(float(expected)))))
            assert abs(Decimal(float(power)) - expected) <= 2 * unit, (value, power)


@types_with_oracle
def test_log_is_within_4_ulp(dtype, rng):
    info = np.finfo(dtype)
    x = np.concatenate(
        [
            rng.uniform(0.1, 3, 500_000),
            np.exp(np.linspace(np.log(info.tiny), np.log(info.max), 500_001)[1:-1]),
            1 + np.linspace(-1, 1, 100_001) * 2.0**-10,
            [info.tiny, info.max, 1, 0.5, 2, 0.5**0.5, np.nextafter(0.5**0.5, 0)],
        ]
    ).astype(dtype)
    assert ulps(log(x), np.log(x.astype(np.longdouble))).max() <= 4
    assert log(np.ones(1, dtype))[0] == 0


@types_with_oracle
def test_log1p_is_within_4_ulp(dtype, rng):
    info = np.finfo(dtype)
    x = np.concatenate(
        [
            rng.uniform(0, 3, 500_000),
            np.exp(np.linspace(np.log(info.tiny), np.log(info.max), 500_001)[1:-1]),
            [info.tiny, info.eps, 1],
        ]
    ).astype(dtype)
    assert ulps(log1p(x), np.log1p(x.astype(np.longdouble))).max() <= 4
    assert log1p(np.zeros(1, dtype))[0] == 0


@types_with_oracle
def test_tanh_is_within_4_ulp(dtype, rng):
    x = np.concatenate(
        [
            np.linspace(-25, 25, 500_001),
            rng.uniform(-2, 2, 500_000) * 2.0 ** rng.integers(-60, 2, 500_000),
            1.0 + np.linspace(-1, 1, 1001) * 2.0**-15,  # where one formula takes over from the other
        ]
    ).astype(dtype)
    x = x[x != 0]
    assert ulps(tanh(x), np.tanh(x.astype(np.longdouble))).max() <= 4


@pytest.mark.parametrize("dtype", TYPES)
def test_tanh_of_special_values(dtype):
    largest = np.finfo(dtype).max
    x = np.array([0, -0.0, np.inf, -np.inf, np.nan, largest, -largest], dtype)
    got = tanh(x)
    np.testing.assert_array_equal(got, np.array([0, 0, 1, -1, np.nan, 1, -1], dtype))
    assert (np.abs(tanh(np.linspace(-50, 50, 10_001).astype(dtype))) <= 1).all()


# --- memory ----------------------------------------------------------------------------------------------------------


@njit
def copy_part(x, out, i, n):
    store_part(pointer(out), i, n, load_part(pointer(x), i, n))


@njit
def copy_whole(x, out, i):
    store(pointer(out), i, load(pointer(x), i))


@njit
def load_only(x, out, i, n):
    store(pointer(out), 0, load_part(pointer(x), i, n))


def guarded(dtype, size):
    array = np.empty(size, dtype)
    array.view(np.uint8)[...] = GUARD
    return array


# The type in memory says how numbers lie there: uint16 are the bits of float16, int16 those of bfloat16.
MEMORY = pytest.mark.parametrize(
    ("memory", "dtype"),
    [
        (np.float32, np.float32),
        (np.float64, np.float64),
        (np.uint16, np.float16),
        (np.int16, ml_dtypes.bfloat16),
    ],
)


def lanes_of(memory):
    return FLOATS // 2 if memory == np.float64 else FLOATS


@MEMORY
def test_loads_and_stores_touch_their_lanes_only(memory, dtype):
    width = lanes_of(memory)
    values = np.arange(1, 4 * width + 1).astype(dtype).view(memory)
    for start in (0, 1, 3, width, width + 5):  # aligned and not
        for n in range(-1, width + 3):
            lanes_written = min(max(n, 0), width)
            out = guarded(memory, values.size)
            expected = out.copy()
            expected[start : start + lanes_written] = values[start : start + lanes_written]
            copy_part(values, out, start, n)
            np.testing.assert_array_equal(out, expected)
        out = guarded(memory, values.size)
        expected = out.copy()
        expected[start : start + width] = values[start : start + width]
        copy_whole(values, out, start)
        np.testing.assert_array_equal(out, expected)


@MEMORY
def test_lanes_that_are_not_loaded_are_0(memory, dtype):
    width = lanes_of(memory)
    nan = np.full(3 * width, np.nan, dtype).view(memory)
    for n in range(width + 1):
        x = nan.copy()
        x[2 : 2 + n] = np.arange(1, n + 1).astype(dtype).view(memory)
        out = guarded(np.float64 if memory == np.float64 else np.float32, width)
        load_only(x, out, 2, n)
        np.testing.assert_array_equal(out, [*range(1, n + 1), *[0] * (width - n)])


@njit
def spread_and_widen(x, out, out64, i):
    store(pointer(out), 0, load_all(pointer(x), i))
    wide = float64_at(pointer(out64), 2)
    for j in range(2):
        wide[j] = 1 / (j + 3)
    store(wide, 0, load_float64(pointer(out), wide) + 1.0)


@MEMORY
def test_one_element_in_all_lanes_and_float64_among_others(memory, dtype):
    width = lanes_of(memory)
    arithmetic = np.float64 if memory == np.float64 else np.float32
    x = np.arange(1, 4 * width + 1).astype(dtype).view(memory)
    out, out64 = np.zeros(width, arithmetic), np.zeros(2 * width + 2, arithmetic)
    spread_and_widen(x, out, out64, 5)
    np.testing.assert_array_equal(out, 6)
    np.testing.assert_array_equal(out64[:2], 0)
    np.testing.assert_array_equal(
        out64[2:][: width * 8 // out.itemsize].view(np.float64), [4 / 3, 5 / 4, *[1] * (width - 2)]
    )


SIXTEEN_BITS = pytest.mark.parametrize(("memory", "dtype"), [(np.uint16, np.float16), (np.int16, ml_dtypes.bfloat16)])


@njit
def convert(x, out):
    p, q = pointer(x), pointer(out)
    for i in range(0, x.size, lanes(p)):
        n = min(x.size - i, lanes(p))
        if n == lanes(p):
            store(q, i, load(p, i))
        else:
            store_part(q, i, n, load_part(p, i, n))


def converted(x, memory):
    out = np.empty(x.shape, memory)
    convert(x, out)
    return out


def patterns(memory):
    return np.arange(1 << 16, dtype=np.uint32).astype(np.uint16).view(memory)


@SIXTEEN_BITS
def test_all_16_bit_patterns_are_decoded(memory, dtype):
    bits = patterns(memory)
    assert_bits_equal(converted(bits, np.float32), bits.view(dtype).astype(np.float32))


@SIXTEEN_BITS
def test_all_16_bit_patterns_survive_the_way_through_float32(memory, dtype):
    bits = patterns(memory)
    again = converted(converted(bits, np.float32), memory)
    number = ~np.isnan(bits.view(dtype).astype(np.float32))
    np.testing.assert_array_equal(again[number], bits[number])
    assert np.isnan(again[~number].view(dtype).astype(np.float32)).all()


@SIXTEEN_BITS
def test_encoding_rounds_to_nearest_even(memory, dtype, rng):
    """Between all neighbours, the halfway points and their two neighbours in float32; and float32 of any bits."""
    exact = patterns(memory).view(dtype).astype(np.float32)
    exact = np.sort(exact[np.isfinite(exact)])
    middle = ((exact[:-1].astype(np.float64) + exact[1:]) / 2).astype(np.float32)
    beyond = exact[-1] + (exact[-1] - exact[-2]) / 2  # from here on, infinity
    x = np.concatenate(
        [
            middle,
            np.nextafter(middle, np.float32(np.inf)),
            np.nextafter(middle, np.float32(-np.inf)),
            np.array([beyond, -beyond, np.nextafter(beyond, np.float32(0)), np.inf, -np.inf], np.float32),
            rng.integers(0, 1 << 32, 1_000_000, dtype=np.uint32).view(np.float32),
        ]
    )
    assert x.dtype == np.float32
    with np.errstate(over="ignore", invalid="ignore"):
        expected = x.astype(dtype)
    number = ~np.isnan(x)
    got = converted(x, memory)
    np.testing.assert_array_equal(got[number], expected.view(memory)[number])
    assert np.isnan(got[~number].view(dtype).astype(np.float32)).all()


@SIXTEEN_BITS
def test_no_nan_becomes_a_number(memory, dtype):
    """Also those whose only set bits are among the ones that are cut off, or that rounding up would carry out of."""
    low_bits = [1, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x3FFFFF, 0x400000, 0x7FFFFF]
    words = np.array([sign | 0x7F800000 | low for sign in (0, 1 << 31) for low in low_bits], np.uint32)
    got = converted(words.view(np.float32), memory).view(dtype)
    assert np.isnan(got.astype(np.float32)).all()
    np.testing.assert_array_equal(np.signbit(got.astype(np.float32)), words >> 31 == 1)


@pytest.mark.parametrize("without", [(), (bfloat16.MOVES,), (bfloat16.ROUNDS,), (bfloat16.MOVES, bfloat16.ROUNDS)])
def test_bfloat16_has_the_same_bits_on_any_machine(monkeypatch, without):
    """Every upper half, with the lower halves that decide how it is rounded; NaNs keep their upper one."""
    monkeypatch.setattr(
        bfloat16,
        "machine_has",
        lambda context, feature: feature not in without and llvm.machine_has(context, feature),
    )
    compiled = njit(convert.py_func)  # as it is compiled for that machine
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    for lower in (0, 1, 0x3FFF, 0x7FFF, 0x8000, 0x8001, 0xBFFF, 0xFFFF):
        words = upper | np.uint32(lower)
        rounded = words + (words >> 16 & 1) + np.uint32(0x7FFF)
        nan = (words & 0x7FFFFFFF) > 0x7F800000
        expected = (np.where(nan, words | 0x400000, rounded) >> 16).astype(np.uint16)
        got = np.empty(words.shape, np.int16)
        compiled(words.view(np.float32), got)
        np.testing.assert_array_equal(got.view(np.uint16), expected)
    back = np.empty(upper.shape, np.float32)
    compiled(patterns(np.int16), back)
    np.testing.assert_array_equal(back.view(np.uint32), upper)


def assert_bits_equal(actual, expected):
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(actual[number].view(np.uint32), expected[number].view(np.uint32))
    np.testing.assert_array_equal(np.isnan(actual), ~number)


@njit
def _allocated(n_bytes):
    """Whether there is so much memory; written from end to end."""
    address = allocate(n_bytes)
    if address != 0:
        room = pointer_at(address, np.float64)
        for i in range(n_bytes // 8):
            room[i] = 7.0
    free(address)
    return address != 0


def test_memory_that_cannot_be_had_is_not_there():
    assert _allocated(1 << 20)
    assert not _allocated(0)
    assert not _allocated(1 << 62)


@njit
def _room_of(call, dtype_at):
    return row.room_of(call, pointer(dtype_at))


@pytest.mark.parametrize("view", [np.float32, np.float64, np.uint16, np.int16])
@pytest.mark.parametrize("stream", [0, 1])
def test_a_thread_has_a_megabyte_of_room_at_most_and_none_without_need(view, stream):
    """Where the gradient is written over the logits; elsewhere, through the caches, it is room enough itself."""
    size, call = np.dtype(view).itemsize, np.zeros(INTEGERS, np.int64)
    call[STREAM], call[X], call[GRADIENT] = stream, 1 << 20, 1 << 20
    arithmetic = max(size, 4)
    longest = row.MOST_WAITING // arithmetic
    kept = most_kept(size) * NATIVE // arithmetic
    rooms = {}
    for n_classes in (1, kept, kept + 1, 50257, longest, longest + 1, 1 << 40):
        call[N_CLASSES] = n_classes
        rooms[n_classes] = _room_of(call, np.empty(1, view))
    assert rooms[1] == rooms[kept] == rooms[longest + 1] == rooms[1 << 40] == 0
    for n_classes in (kept + 1, 50257, longest):
        assert rooms[n_classes] == n_classes * arithmetic + addresses.SPARE
    assert max(rooms.values()) == (1 << 20) + addresses.SPARE

    call[N_CLASSES], call[GRADIENT] = 50257, 1 << 30
    assert (_room_of(call, np.empty(1, view)) > 0) == (size == 2 or (STREAMS and stream == 1))
    call[GRADIENT] = 0
    assert _room_of(call, np.empty(1, view)) == 0


@njit
def _places(x_at, ahead_at, g_at, least):
    """Of addresses, the lead of a gradient, and where in a room from 1 << 20 on something is kept."""
    x, ahead = pointer_at(x_at, np.float32), pointer_at(ahead_at, np.float32)
    g, nowhere = pointer_at(g_at, np.float32), pointer_at(0, np.float32)
    room = addresses.at_a_distance(pointer_at(1 << 20, np.float32), x, g)
    return addresses.lead_of(x, ahead, g, least), bytes_from(nowhere, room)


def test_stores_keep_at_a_distance_from_loads():
    """By the last 12 bits of their addresses: from 128 bytes behind to 384 ahead."""

    def meet(load_at, store_at):
        return (store_at - load_at + 128) % 4096 < 512

    leads = set()
    for least in (0, 256):
        for x in range(1 << 24, (1 << 24) + 4096, 368):
            for ahead in (x, x + 16, x + 400, x + 1000, x + 4000):
                for g in range(1 << 25, (1 << 25) + 4096, 64):
                    lead, room = _places(x, ahead, g, least)
                    leads.add(lead - least)
                    assert not meet(x, g + 4 * lead)
                    assert not meet(ahead, g + 4 * lead)
                    assert room % 64 == 0
                    assert 0 <= room - (1 << 20) <= addresses.SPARE
                    assert not meet(x, room)
                    assert not meet(g, room)
                    assert not meet(room, g)
    assert leads == {0, 128, 256}


# --- rows across the lanes -------------------------------------------------------------------------------------------


@njit
def to_columns(x, offsets, index, n, columns):
    """Rows into columns: `columns` gets the vectors `index` to `index + lanes` of the buffer."""
    base = pointer(x)
    buffer = lane_buffer(base, 32)
    load_lanes(base, pointer(offsets), index, n, buffer)
    for j in range(lanes(base)):
        store(pointer(columns), j * lanes(base), load(buffer, (index + j) * lanes(base)))


@njit
def to_rows(columns, out, offsets, index, n):
    base = pointer(out)
    buffer = lane_buffer(base, 32)
    for j in range(lanes(base)):
        store(buffer, (index + j) * lanes(base), load(pointer(columns), j * lanes(base)))
    store_lanes(base, pointer(offsets), index, n, buffer)


@MEMORY
@pytest.mark.parametrize("index", [0, 5, 16])
def test_rows_are_transposed_into_lanes_and_back(memory, dtype, index, rng):
    width = lanes_of(memory)
    n_columns = 48
    rows = rng.permutation(width)  # in any order, as far apart as they like
    x = rng.normal(size=(width, n_columns)).astype(dtype)
    bits = x.view(memory)
    offsets = rows * bits.strides[0]
    for n in range(width + 1):
        columns = guarded(np.float64 if memory == np.float64 else np.float32, (width, width))
        to_columns(bits, offsets, index, n, columns)
        expected = np.zeros_like(columns)
        expected[:n] = x[rows, index : index + n].T.astype(columns.dtype)
        np.testing.assert_array_equal(columns, expected)

        out = guarded(memory, bits.shape)
        expected = out.copy()
        expected[:, index : index + n] = bits[:, index : index + n]
        to_rows(columns, out, offsets, index, n)
        np.testing.assert_array_equal(out, expected)


# --- whole calls -----------------------------------------------------------------------------------------------------

_BESIDE_FORBIDDEN_PAGES = """
import ctypes, mmap, sys
import ml_dtypes, numpy as np
import fastce

libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
PAGE = mmap.PAGESIZE
keep = []

def beside(values, at_end):
    "A copy of an array that ends where a page begins that may not be touched, or begins where such a page ends."
    room = -(-values.nbytes // PAGE) * PAGE
    memory = mmap.mmap(-1, room + 2 * PAGE)
    keep.append(memory)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for page in (address, address + PAGE + room):
        assert libc.mprotect(page, PAGE, 0) == 0
    start = PAGE + (room - values.nbytes if at_end else 0)
    array = np.frombuffer(memory, np.uint8, values.nbytes, start).view(values.dtype).reshape(values.shape)
    array[...] = values
    return array

rng = np.random.default_rng(0)
for dtype in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16):
    for shape in ((1, 1), (1, 7), (3, 2), (17, 5), (16, 16), (33, 17), (5, 64), (3, 65), (9, 67), (2, 999), (1, 20001)):
        x = rng.normal(size=shape).astype(dtype)
        y = rng.integers(0, shape[1], shape[0])
        w = rng.uniform(1, 2, shape[1]).astype(np.float64 if dtype is np.float64 else np.float32)
        for options in ({}, {"softcap": 3.0, "label_smoothing": 0.1, "weight": w, "aux": ("entropy", "rank", "hess")}):
            plain = fastce.cross_entropy_with_grad(x, y, **options)
            for at_end in (False, True):
                logits, targets, grad = (beside(a, at_end) for a in (x, y, x))
                more = {**options, "weight": beside(w, at_end)} if options else {}
                result = fastce.cross_entropy_with_grad(logits, targets, grad_out=grad, **more)
                assert result.loss == plain.loss, (dtype, shape)
                assert (grad == plain.grad).all(), (dtype, shape)
print("whole")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs mprotect")
def test_nothing_outside_the_arrays_is_touched():
    """In a process of its own, for that would end it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _BESIDE_FORBIDDEN_PAGES],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stderr}"
    assert done.stdout == "whole\n"
