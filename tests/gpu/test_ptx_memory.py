"""Buffers: where they lie, what may be touched, copies to and fro; generic addresses; rows beyond 32 bits."""

import ml_dtypes
import numpy as np
import pytest

from .asm import compute, kernel
from .ptx import Fault, Memory, launch


@pytest.fixture
def memory():
    return Memory()


def test_layout(memory):
    x = memory.array(np.arange(24).reshape(2, 3, 4), pad=2, shift=1)
    assert x.strides == (144, 48, 8)
    assert x.address % 256 == 8
    assert x.end - x.address == 5 * 48 + 4 * 8  # the last row has no padding after it
    np.testing.assert_array_equal(x.get(), np.arange(24).reshape(2, 3, 4))
    y = memory.empty(7, ml_dtypes.bfloat16)
    assert y.address > x.end + 2**16
    assert y.address > 2**32
    assert memory.empty((3, 0), np.float32).get().shape == (3, 0)
    assert memory.array(np.float32(3)).get() == 3


def test_views_have_addresses(memory):
    x = memory.array(np.arange(24.0).reshape(4, 6))
    view = x.view[1:, 2::2]
    assert x.address_of(view) == x.address + 8 * 8
    np.testing.assert_array_equal(x.get(view), np.arange(24.0).reshape(4, 6)[1:, 2::2])
    assert not np.shares_memory(x.get(view), view)


def test_what_is_not_written_cannot_be_copied(memory):
    x = memory.empty((4, 6), np.float64, name="x")
    x.put(1, x.view[1:, ::2])
    np.testing.assert_array_equal(x.get(x.view[1:, ::2]), np.ones((3, 3)))
    with pytest.raises(Fault, match=r"uninitialised: 15 elements of x were not written, first \(0, 0\)"):
        x.get()


def test_freed_memory_is_gone_and_its_addresses_too(memory):
    x, y = memory.array(np.ones(4)), memory.array(np.ones(4))
    memory.free(x)
    z = memory.array(np.ones(4))
    assert z.address > y.address
    assert memory.at(x.address) is None
    assert memory.at(y.address) is y
    assert memory.at(z.address + 1) is z


def test_rows_beyond_32_bits(memory):
    """Two rows 2**31 + 6 float32 apart: whoever computes in 32 bits hits nothing."""
    step = 4 * (2**31 + 6)
    first, second = memory.rows(np.repeat([[1], [2]], 32, axis=1).astype(np.float32), step, readonly=True, shift=3)
    assert second.address - first.address == step
    to = memory.empty(64, np.float32)
    body = """mad.wide.u32 %rd3, %r0, 4, %rd0; add.u64 %rd3, %rd3, %rd5; ld.global.f32 %f1, [%rd3];
        mad.wide.u32 %rd4, %r1, 128, %rd1; mad.wide.u32 %rd4, %r0, 4, %rd4; st.global.f32 [%rd4], %f1;"""
    wide = "mov.u32 %r1, %ctaid.x; cvt.u64.u32 %rd5, %r1; mul.lo.u64 %rd5, %rd5, %rd2;"
    launch(kernel(wide + body, 3), 2, 32, [first, to, step], memory=memory)
    np.testing.assert_array_equal(to.get(), np.repeat([1, 2], 32))
    narrow = "mov.u32 %r1, %ctaid.x; cvt.u32.u64 %r2, %rd2; mul.lo.u32 %r2, %r2, %r1; cvt.u64.u32 %rd5, %r2;"
    with pytest.raises(Fault, match="bounds"):
        launch(kernel(narrow + body, 3), 2, 32, [first, to, step], memory=memory)


def test_accesses_to_several_buffers_at_once(memory):
    """The lanes of one load, and of one store, go to different arrays."""
    a, b = memory.array(np.arange(32.0)), memory.array(np.arange(100, 132.0))
    c, d = memory.empty(32, np.float64), memory.empty(32, np.float64)
    body = """and.b32 %r1, %r0, 1; setp.eq.u32 %p1, %r1, 0; selp.b64 %rd4, %rd0, %rd1, %p1;
        selp.b64 %rd5, %rd2, %rd3, %p1; mad.wide.u32 %rd4, %r0, 8, %rd4; mad.wide.u32 %rd5, %r0, 8, %rd5;
        ld.global.f64 %fd1, [%rd4]; st.global.f64 [%rd5], %fd1;"""
    launch(kernel(body, 4), 1, 32, [a, b, c, d], memory=memory)
    np.testing.assert_array_equal(c.get(c.view[::2]), np.arange(0, 32, 2))
    np.testing.assert_array_equal(d.get(d.view[1::2]), np.arange(101, 132, 2))
    with pytest.raises(Fault, match="uninitialised: 16 elements"):
        d.get()
    memory.free(b)
    with pytest.raises(Fault, match=r"bounds: a load of 8 bytes .* thread \(1, 0, 0\)"):
        launch(kernel(body, 4), 1, 32, [a, b, c, d], memory=memory)


def test_generic_addresses(memory):
    """Half of the lanes load from shared memory, half from global memory, by one instruction."""
    x = memory.array(np.arange(100, 132, dtype=np.uint32), readonly=True)
    to = memory.empty(32, np.uint32)
    body = """mov.u64 %rd2, s; cvta.shared.u64 %rd3, %rd2; mul.wide.u32 %rd4, %r0, 4; add.u64 %rd5, %rd2, %rd4;
        st.shared.u32 [%rd5], %r0; and.b32 %r1, %r0, 1; setp.eq.u32 %p1, %r1, 0; selp.b64 %rd6, %rd3, %rd0, %p1;
        add.u64 %rd6, %rd6, %rd4; ld.u32 %r2, [%rd6]; add.u64 %rd7, %rd1, %rd4; st.u32 [%rd7], %r2;"""
    ptx = kernel(body, 2, ".shared .align 4 .b8 s[128];")
    launch(ptx, 1, 32, [x, to], memory=memory)
    lanes = np.arange(32)
    np.testing.assert_array_equal(to.get(), np.where(lanes % 2 == 0, lanes, lanes + 100))


@pytest.mark.parametrize(("kind", "count"), [("u8", 4), ("u16", 2), ("b32", 4), ("f32", 2), ("b64", 2), ("u64", 4)])
def test_vectors(memory, kind, count):
    """An element lies where its place in the braces says."""
    size = int(kind[1:]) // 8
    x = memory.array(np.arange(1, 1 + 2 * count, dtype=f"u{size}"))
    to = memory.empty(2 * count, f"u{size}")
    register = {1: "%h", 2: "%h", 4: "%f" if kind == "f32" else "%r", 8: "%rd1"}[size]
    first = ", ".join(f"{register}{i + 3}" for i in range(count))
    last = ", ".join(f"{register}{i + 3}" for i in reversed(range(count)))
    body = f"""mad.wide.u32 %rd2, %r0, {size * count}, %rd0; mad.wide.u32 %rd3, %r0, {size * count}, %rd1;
        ld.global.v{count}.{kind} {{{first}}}, [%rd2]; st.global.v{count}.{kind} [%rd3], {{{last}}};"""
    launch(kernel(body, 2), 1, 2, [x, to], memory=memory)
    np.testing.assert_array_equal(to.get().reshape(2, -1)[:, ::-1].ravel(), x.get())


def test_narrow_loads_fill_the_register(memory):
    x = memory.array(np.array([200], np.uint8))
    for kind, expected in (("u8", 200), ("s8", 2**32 - 56), ("b8", 200)):
        to = memory.empty(1, np.uint32)
        launch(kernel(f"ld.global.{kind} %r1, [%rd0]; st.global.u32 [%rd1], %r1;", 2), 1, 1, [x, to], memory=memory)
        assert to.get() == [expected]
    to = memory.empty(1, np.uint8)
    launch(kernel("ld.global.u8 %h1, [%rd0]; st.global.u8 [%rd1], %h1;", 2), 1, 1, [x, to], memory=memory)
    assert to.get() == [200]


def test_cache_hints_change_nothing(memory):
    x, to = memory.array(np.array([5], np.uint32), readonly=True), memory.empty(1, np.uint32)
    for load in ("nc", "cs", "ca", "cg", "nc.L1::no_allocate", "L1::evict_last.L2::128B", "volatile"):
        body = f"ld.global.{load}.u32 %r1, [%rd0]; st.global.wb.u32 [%rd1], %r1;".replace(
            "volatile.global", "global.volatile"
        )
        launch(kernel(body, 2), 1, 1, [x, to], memory=memory)
        assert to.get() == [5]


def test_shared_memory_is_each_blocks_own():
    body = """mov.u64 %rd1, s; mov.u32 %r1, %ctaid.x; setp.ne.u32 %p1, %r0, 0; @%p1 bra $a; st.shared.u32 [%rd1], %r1;
        $a: bar.sync 0; ld.shared.u32 %out, [s];"""
    out = compute(body, "u32", block=48, grid=5, shared=".shared .align 4 .b8 s[4];")
    np.testing.assert_array_equal(out, np.repeat(np.arange(5), 48))
