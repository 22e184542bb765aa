"""What the interpreter must notice, fault by fault, though the values happen to be right."""

import re
from pathlib import Path

import numpy as np
import pytest

from .asm import HEADER, compute, kernel
from .ptx import SCHEDULES, Fault, Memory, Refused, launch, operations, transfers, warps
from .ptx.races import Shadow

EVERY_SCHEDULE = pytest.mark.parametrize("schedule", list(SCHEDULES))
SHARED = ".shared .align 4 .b8 s[256];"
# Thread t stores its number, and after some instructions loads that of its neighbour.
EXCHANGE = """shl.b32 %r1, %r0, 2; mov.u32 %r2, s; add.u32 %r2, %r2, %r1; cvt.u64.u32 %rd5, %r2;
    st.shared.u32 [%rd5], %r0; {between} xor.b32 %r3, %r1, {bit}; mov.u32 %r4, s; add.u32 %r4, %r4, %r3;
    cvt.u64.u32 %rd6, %r4; ld.shared.u32 %out, [%rd6];"""


def copying(load="ld.global.f32 %f1, [%rd2+{a}];", store="st.global.f32 [%rd3+{b}], %f1;", a=0, b=0):
    """A kernel in which thread i copies element i of its first array to its second."""
    return kernel(f"mad.wide.u32 %rd2, %r0, 4, %rd0; mad.wide.u32 %rd3, %r0, 4, %rd1; {load.format(a=a)} "
                  f"{store.format(b=b)}", 2)  # fmt: skip


@pytest.fixture
def memory():
    return Memory()


def floats(memory, n=32, **options):
    return memory.array(np.arange(n, dtype=np.float32), **options)


# Bounds


def test_a_right_kernel_passes(memory):
    x, y = floats(memory, readonly=True), memory.empty(32, np.float32)
    launch(copying(), 1, 32, [x, y], memory=memory)
    np.testing.assert_array_equal(y.get(), np.arange(32))


@pytest.mark.parametrize(("a", "b"), [(4, 0), (0, 4), (-4, 0), (0, -4)])
def test_one_element_outside_a_buffer(memory, a, b):
    x, y = floats(memory, name="x"), memory.empty(32, np.float32, name="y")
    name, where = ("x" if a else "y"), ("after the last" if a + b > 0 else "before the first")
    with pytest.raises(Fault, match=f"bounds: a {'load' if a else 'store'} of 4 bytes .* {where} of {name}"):
        launch(copying(a=a, b=b), 1, 32, [x, y], memory=memory)


def test_an_access_across_the_end(memory):
    x, y = floats(memory, 31, name="x"), memory.empty(32, np.float32)
    ptx = kernel("ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd0+112];", 2)
    with pytest.raises(Fault, match=r"bounds: .* across the end of x"):
        launch(ptx, 1, 32, [x, y], memory=memory)


def test_padding_of_rows_is_no_part_of_them(memory):
    x = memory.array(np.ones((4, 7), np.float32), name="x", pad=1)
    assert x.strides == (32, 4)
    y = memory.empty(32, np.float32)
    with pytest.raises(Fault, match="bounds: 4 bytes of which some are padding of x"):
        launch(copying(), 1, 8, [x, y], memory=memory)
    launch(copying(), 1, 7, [x, y], memory=memory)


def test_pointers_of_32_bits_lead_nowhere(memory):
    ptx = kernel("cvt.u32.u64 %r1, %rd0; cvt.u64.u32 %rd0, %r1; ld.global.f32 %f1, [%rd0];")
    with pytest.raises(Fault, match=r"bounds: .* before the first of an array"):
        launch(ptx, 1, 1, [floats(memory)], memory=memory)


def test_memory_that_was_freed(memory):
    x, y = floats(memory), memory.empty(32, np.float32)
    memory.free(x)
    with pytest.raises(Fault, match="bounds"):
        launch(copying(), 1, 32, [x, y], memory=memory)


def test_shared_memory_ends_where_it_was_declared():
    body = "mov.u64 %rd1, s; ld.shared.u32 %out, [%rd1+256];"
    with pytest.raises(Fault, match=r"bounds: .* of shared memory"):
        compute(body, "u32", shared=SHARED)
    for size in (4, 128):
        two = f".shared .align 4 .b8 a[{size}]; .shared .align 4 .b8 b[{size}];"
        with pytest.raises(Fault, match="bounds: 4 bytes of which some are padding of shared memory"):
            compute(f"mov.u64 %rd1, a; ld.shared.u32 %out, [%rd1+{size}];", "u32", shared=two)


def test_dynamic_shared_memory_is_as_large_as_the_launch_says():
    shared = ".extern .shared .align 16 .b8 s[];"
    body = "cvt.u64.u32 %rd1, %r0; shl.b64 %rd1, %rd1, 2; st.shared.u32 [%rd1], %r0; ld.shared.u32 %out, [%rd1];"
    np.testing.assert_array_equal(compute(body, "u32", shared=shared, shared_bytes=128), np.arange(32))
    with pytest.raises(Fault, match="bounds"):
        compute(body, "u32", shared=shared, shared_bytes=124)


# Alignment, read-only memory, values


def test_misaligned(memory):
    x = floats(memory, shift=1)
    ptx = kernel("ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd0];")
    with pytest.raises(Fault, match="misaligned: a load of 16 bytes"):
        launch(ptx, 1, 1, [x], memory=memory)
    launch(ptx, 1, 1, [floats(memory)], memory=memory)


def test_read_only(memory):
    x, y = floats(memory), floats(memory, readonly=True, name="logits")
    with pytest.raises(Fault, match="read-only: a store to logits"):
        launch(copying(), 1, 32, [x, y], memory=memory)


def test_global_memory_that_nobody_wrote(memory):
    x, y = memory.empty(32, np.float32, name="x"), memory.empty(32, np.float32, name="y")
    with pytest.raises(Fault, match="uninitialised: 4 bytes of x that nobody wrote"):
        launch(copying(), 1, 32, [x, y], memory=memory)
    x.put(0, x.view[:31])
    launch(copying(), 1, 31, [x, y], memory=memory)
    with pytest.raises(Fault, match=r"uninitialised: 1 elements of y were not written, first \(31,\)"):
        y.get()
    np.testing.assert_array_equal(y.get(y.view[:31]), np.zeros(31))


def test_shared_memory_that_nobody_wrote():
    with pytest.raises(Fault, match="uninitialised: 4 bytes of shared memory"):
        compute("mov.u64 %rd1, s; ld.shared.u32 %out, [%rd1];", "u32", shared=SHARED)


def test_registers_that_nobody_wrote():
    with pytest.raises(Fault, match="uninitialised: %r5 was never written"):
        compute("add.u32 %out, %r5, 1;", "u32")
    some = "setp.lt.u32 %p1, %r0, 9; @%p1 mov.u32 %r5, 1; add.u32 %out, %r5, 1;"
    with pytest.raises(Fault, match=r"uninitialised: %r5 .* thread \(9, 0, 0\)"):
        compute(some, "u32")
    # A copy is no use, but what it holds may not be used either.
    compute("mov.u32 %r6, %r5; mov.u32 %out, 1;", "u32")
    with pytest.raises(Fault, match="uninitialised: %r6 was never written"):
        compute("mov.u32 %r6, %r5; add.u32 %out, %r6, 1;", "u32")
    with pytest.raises(Fault, match="uninitialised: %r6 was never written"):
        compute("mov.u32 %r6, 1; mov.u32 %r6, %r5; add.u32 %out, %r6, 1;", "u32")


def test_what_is_unknown_may_be_moved_but_not_used():
    """Compilers pack what they know with what nobody needs, choose between the two, and compute with both."""
    pack = "mov.u32 %r1, 7; mov.b64 %rd1, {%r1, %r2};"
    assert (compute(f"{pack} mov.b64 {{%out, _}}, %rd1;", "u32") == 7).all()
    assert (compute(f"{pack} cvt.u32.u64 %out, %rd1;", "u32") == 7).all()
    with pytest.raises(Fault, match="uninitialised: %r4 was never written"):
        compute(f"{pack} mov.b64 {{%r3, %r4}}, %rd1; add.u32 %out, %r3, %r4;", "u32")
    with pytest.raises(Fault, match="uninitialised: %rd1 was never written"):
        compute(f"{pack} add.u64 %out, %rd1, 1;", "u64")
    twice = f"{pack} add.f32x2 %rd2, %rd1, %rd1; mov.b64 {{%r3, %r4}}, %rd2;"
    assert (compute(f"{twice} mov.u32 %out, %r3;", "u32") > 0).all()
    with pytest.raises(Fault, match="uninitialised: %r4 was never written"):
        compute(f"{twice} add.u32 %out, %r4, 0;", "u32")
    chosen = "mov.u32 %r1, 7; setp.lt.u32 %p1, %r0, {n}; selp.b32 %r3, %r1, %r2, %p1; add.u32 %out, %r3, 0;"
    assert (compute(chosen.format(n=32), "u32") == 7).all()
    with pytest.raises(Fault, match=r"uninitialised: %r3 was never written .*thread \(20, 0, 0\)"):
        compute(chosen.format(n=20), "u32")


# Races


@EVERY_SCHEDULE
def test_a_barrier_orders_the_threads_of_a_block(schedule):
    body = EXCHANGE.format(between="bar.sync 0;", bit=128)
    out = compute(body, "u32", block=64, grid=3, shared=SHARED, schedule=schedule)
    np.testing.assert_array_equal(out, np.tile(np.arange(64) ^ 32, 3))


@EVERY_SCHEDULE
@pytest.mark.parametrize("between", ["", "membar.cta;", "fence.acq_rel.gpu;", "bar.warp.sync -1;"])
def test_a_missing_barrier(schedule, between):
    """Also where the schedule makes the values right; fences and warps' barriers do not do."""
    with pytest.raises(Fault, match=r"race|uninitialised"):
        compute(EXCHANGE.format(between=between, bit=128), "u32", block=64, shared=SHARED, schedule=schedule)


@EVERY_SCHEDULE
def test_a_warp_needs_a_barrier_too(schedule):
    out = compute(EXCHANGE.format(between="bar.warp.sync -1;", bit=4), "u32", shared=SHARED, schedule=schedule)
    np.testing.assert_array_equal(out, np.arange(32) ^ 1)
    for between in ("", "shfl.sync.bfly.b32 %r9, %r0, 1, 31, -1;"):
        with pytest.raises(Fault, match="race: a load of byte"):
            compute(EXCHANGE.format(between=between, bit=4), "u32", shared=SHARED, schedule=schedule)


@EVERY_SCHEDULE
@pytest.mark.parametrize("barrier", ["", "bar.sync 0;"])
def test_a_store_after_others_have_read(schedule, barrier):
    """All threads read what one writes next: a barrier is needed between, too."""
    body = f"""mov.u64 %rd1, s; setp.ne.u32 %p1, %r0, 0; @%p1 bra $a; st.shared.u32 [%rd1], %r0;
        $a: bar.sync 0; ld.shared.u32 %out, [%rd1]; {barrier} @%p1 bra $b; st.shared.u32 [%rd1], %r0; $b:"""
    if barrier:
        assert (compute(body, "u32", block=64, shared=SHARED, schedule=schedule) == 0).all()
    else:
        with pytest.raises(Fault, match="race: a store of byte 0 of shared memory"):
            compute(body, "u32", block=64, shared=SHARED, schedule=schedule)


def test_every_reader_counts():
    """The writer read last, and in between a lane of its own warp; the one of another warp is not forgotten."""
    body = """mov.u64 %rd1, s; setp.ne.u32 %p1, %r0, 0; @%p1 bra $a; st.shared.u32 [%rd1], %r0;
        $a: bar.sync 0; setp.eq.u32 %p2, %r0, 40; @%p2 ld.shared.u32 %r5, [%rd1];
        setp.eq.u32 %p3, %r0, 1; @%p3 ld.shared.u32 %r5, [%rd1]; bar.warp.sync -1;
        setp.eq.u32 %p4, %r0, 0; @%p4 ld.shared.u32 %r5, [%rd1]; @%p4 st.shared.u32 [%rd1], %r0; mov.u32 %out, 1;"""
    for schedule in ("warp-reverse", "lockstep"):
        with pytest.raises(Fault, match="race: a store"):
            compute(body, "u32", block=64, shared=SHARED, schedule=schedule)
    within = body.replace("%r0, 40", "%r0, 2")  # ordered by the warp's barrier
    compute(within, "u32", block=64, shared=SHARED)


def test_readers_of_one_load_in_any_order():
    """Threads 1 to 5 of a block read at once; then none of them may store without a barrier, after one each may."""
    unit, clock = np.zeros(1, int), np.zeros(1, int)
    for writer in (1, 2, 5):
        for later, races in ((clock, True), (clock + (1 << 32), False)):
            shadow = Shadow(1, threads_per_block=32)
            assert shadow.load(np.zeros(5, int), np.array([4, 1, 5, 3, 2]), np.zeros(5, int)) is None
            assert (shadow.first[0], shadow.last[0]) == (1, 5)
            assert (shadow.store(unit, np.array([writer]), later) is not None) == races


@EVERY_SCHEDULE
def test_a_barrier_of_half_a_warp_orders_nothing_of_the_other(schedule):
    halves = "shr.u32 %r9, %r0, 4; shl.b32 %r9, %r9, 4; shl.b32 %r9, 0xFFFF, %r9; bar.warp.sync %r9;"
    with pytest.raises(Fault, match=r"race|uninitialised"):
        compute(EXCHANGE.format(between=halves, bit=64), "u32", shared=SHARED, schedule=schedule)


def test_two_lanes_of_one_store():
    with pytest.raises(Fault, match="race: a store of byte 0 of shared memory"):
        compute("mov.u64 %rd1, s; st.shared.u32 [%rd1], %r0; mov.u32 %out, 1;", "u32", shared=SHARED)


def test_blocks_are_never_ordered(memory):
    x, y = floats(memory, 1, readonly=True), memory.empty(1, np.float32, name="y")
    with pytest.raises(Fault, match="race: a store of byte 0 of y"):
        launch(copying(), 2, 1, [x, y], memory=memory)
    launch(copying(), 1, 1, [x, y], memory=memory)
    launch(copying(), 1, 1, [x, y], memory=memory)  # launches are


def test_in_place(memory):
    """A thread may overwrite what it read itself, but not through the cache of constants, nor what others read."""
    x = floats(memory)
    launch(copying(), 1, 32, [x, x], memory=memory)
    with pytest.raises(Fault, match=r"race: .* read by ld.global.nc"):
        launch(copying(load="ld.global.nc.f32 %f1, [%rd2];"), 1, 32, [x, x], memory=memory)
    overlapping = copying("ld.global.f32 %f1, [%rd2];", "xor.b32 %r1, %r0, 1; mad.wide.u32 %rd3, %r1, 4, %rd1;"
                          "st.global.f32 [%rd3], %f1;")  # fmt: skip
    with pytest.raises(Fault, match="race"):
        launch(overlapping, 1, 32, [x, x], memory=memory)


def test_halves_beside_each_other_do_not_race():
    """Two threads write the halves of a word of shared memory."""
    body = """mov.u64 %rd1, s; mad.wide.u32 %rd1, %r0, 2, %rd1; cvt.u16.u32 %h1, %r0;
        st.shared.u16 [%rd1], %h1; ld.shared.u16 %h2, [%rd1]; cvt.u32.u16 %out, %h2;"""
    np.testing.assert_array_equal(compute(body, "u32", shared=SHARED), np.arange(32))


# Barriers, deadlock, endless loops


@EVERY_SCHEDULE
def test_a_barrier_that_not_all_reach(schedule):
    for few in (1, 16, 32, 48):
        body = f"setp.lt.u32 %p1, %r0, {few}; @%p1 bra $a; bar.sync 0; $a: mov.u32 %out, 1;"
        with pytest.raises(Fault, match="barrier: other threads of the block have left the kernel"):
            compute(body, "u32", block=64, schedule=schedule)


@EVERY_SCHEDULE
def test_lanes_that_went_another_way_before_a_barrier(schedule):
    """Those that come to it first wait, also where the others' way comes later in the text."""
    body = """mov.u32 %r1, 0; setp.lt.u32 %p1, %r0, 40; @%p1 bra $late;
        $wait: bar.sync 0; add.u32 %out, %r1, %r0; bra $end;
        $late: add.u32 %r1, %r1, 100; bra $wait;
        $end:"""
    expected = np.arange(64) + np.where(np.arange(64) < 40, 100, 0)
    np.testing.assert_array_equal(compute(body, "u32", block=64, schedule=schedule), expected)


@EVERY_SCHEDULE
def test_two_barriers_that_are_not_the_same(schedule):
    body = "setp.lt.u32 %p1, %r0, 32; @%p1 bra $a; bar.sync 0; bra $b; $a: bar.sync 0; $b: mov.u32 %out, 1;"
    with pytest.raises(Fault, match="barrier: other threads of the block wait in line"):
        compute(body, "u32", block=64, schedule=schedule)


@EVERY_SCHEDULE
def test_barriers_in_loops_of_different_length(schedule):
    body = """mov.u32 %r1, 0; shr.u32 %r2, %r0, 5; add.u32 %r2, %r2, {least};
        $loop: bar.sync 0; add.u32 %r1, %r1, 1; setp.lt.u32 %p1, %r1, %r2; @%p1 bra $loop; mov.u32 %out, %r1;"""
    with pytest.raises(Fault, match="barrier"):
        compute(body.format(least=1), "u32", block=64, schedule=schedule)
    same = body.format(least=1).replace("shr.u32 %r2, %r0, 5", "mov.u32 %r2, 4")
    assert (compute(same, "u32", block=64, grid=2, schedule=schedule) == 5).all()


@EVERY_SCHEDULE
def test_threads_that_wait_for_each_other(schedule):
    body = """setp.lt.u32 %p1, %r0, 32; @%p1 bra $a; setp.lt.u32 %p2, %r0, 40; @%p2 bra $b;
        bar.warp.sync -1; $b: bar.warp.sync -1; $a: bar.sync 0; mov.u32 %out, 1;"""
    with pytest.raises(Fault, match="deadlock: all wait"):
        compute(body, "u32", block=64, schedule=schedule)


@EVERY_SCHEDULE
def test_a_loop_without_end(schedule):
    with pytest.raises(Fault, match="endless: more than 1000 steps"):
        compute("$a: bra $a; mov.u32 %out, 1;", "u32", fuel=1000, schedule=schedule)
    apart = "$a: setp.lt.u32 %p1, %r0, 7; @%p1 bra $a; setp.lt.u32 %p2, %r0, 9; @%p2 bra $a; mov.u32 %out, 1;"
    with pytest.raises(Fault, match="endless: more than 1000 steps"):
        compute(apart, "u32", fuel=1000, schedule=schedule)


def test_a_block_that_leaves_as_a_whole_waits_for_nobody():
    body = "mov.u32 %r1, %ctaid.x; setp.eq.u32 %p1, %r1, 1; @%p1 bra $end; bar.sync 0; $end: mov.u32 %out, 1;"
    assert (compute(body, "u32", block=64, grid=3) == 1).all()


@EVERY_SCHEDULE
def test_barriers_that_count(schedule):
    condition = "and.b32 %r1, %r0, 3; setp.eq.u32 %p1, %r1, 0;"
    body = f"{condition} bar.red.popc.u32 %out, 0, %p1;"
    assert (compute(body, "u32", block=72, grid=2, schedule=schedule) == 18).all()
    for how, expected in (("and", 0), ("or", 1)):
        body = f"{condition} bar.red.{how}.pred %p2, 0, %p1; selp.b32 %out, 1, 0, %p2;"
        assert (compute(body, "u32", block=72, schedule=schedule) == expected).all()


# What is refused


@pytest.mark.parametrize("body", [
    "call foo;", "atom.global.add.u32 %r1, [%rd0], 1;", "ld.local.u32 %r1, [%rd0];", "bar.sync 1;", "bar.sync 0, 64;",
    "bar.arrive 0, 64;", "ld.global.relaxed.gpu.u32 %r1, [%rd0];", "cp.async.ca.shared.global [%r1], [%rd0], 16;",
    "mov.u32 %r1, nobody;", "bra.uni $nowhere;", "add.u32 %r1, %rd0, 1;", "add.u32 %r1, %r0;", "trap;",
    "@%p1 bar.sync 0;", ".local .align 4 .b8 depot[8];", "prmt.b32.f4e %r1, %r0, %r0, %r0;",
    "ld.global.v2.u32 %r1, [%rd0];", "setp.foo.u32 %p1, %r0, 1;", "ld.global.u32 %r1, [%rd0], %rd1;",
    "ld.global.b16 %f1, [%rd0];",
])  # fmt: skip
def test_refused_before_anything_runs(memory, body):
    with pytest.raises(Refused):
        launch(kernel(body), 1, 1, [floats(memory)], memory=memory)


@pytest.mark.parametrize("opcode", sorted({*operations.TABLE, *transfers.TABLE, *warps.TABLE}))
def test_every_opcode_is_tested(opcode):
    """There is no opcode of which no test knows the results."""
    tests = [path.read_text() for path in Path(__file__).parent.glob("test_ptx_*.py") if path != Path(__file__)]
    tests.append(Path(__file__).read_text().split("# What is refused")[0])
    assert any(re.search(rf"\b{opcode}\.", text) for text in tests)


def test_what_never_runs_is_refused_too(memory):
    with pytest.raises(Refused, match=r"line \d+: .*trap"):
        launch(kernel("bra $end; trap; $end:"), 1, 1, [floats(memory)], memory=memory)


def test_arguments_must_fit(memory):
    ptx = f"{HEADER}.visible .entry k(.param .u64 a, .param .f32 b, .param .u8 c)\n{{ ret; }}"
    x = floats(memory)
    launch(ptx, 1, 1, [x, 1.5, True], memory=memory)
    for arguments in ([x, 1.5], [x, np.int64(1), 1], [np.int32(1), 1.5, 1]):
        with pytest.raises(ValueError, match="parameter"):
            launch(ptx, 1, 1, arguments, memory=memory)
    with pytest.raises(ValueError, match="no such launch"):
        launch(ptx, 1, 1025, [x, 1.5, True], memory=memory)
