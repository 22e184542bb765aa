"""What a launch is said to have done: instructions, bytes, sectors, turns of shared memory, coverage."""

import numpy as np
import pytest

from .asm import compute, kernel
from .ptx import SCHEDULES, Fault, Memory, launch
from .ptx.counters import count_distinct, count_turns

LANES = np.arange(32)


def copy(stride, n=32, block=32, size=4, **options):
    """Thread i copies element i * stride to element i; give the counters."""
    memory = Memory()
    x = memory.array(np.zeros((n - 1) * stride + 1, f"u{size}"), readonly=True)
    y = memory.empty(n, f"u{size}")
    register = {4: "%r1", 8: "%rd9"}[size]
    body = f"""mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mad.lo.u32 %r0, %r2, %r3, %r0;
        mad.wide.u32 %rd2, %r0, {size * stride}, %rd0; mad.wide.u32 %rd3, %r0, {size}, %rd1;
        ld.global.u{8 * size} {register}, [%rd2]; st.global.u{8 * size} [%rd3], {register};"""
    return launch(kernel(body, 2), n // block, block, [x, y], memory=memory, **options)


@pytest.mark.parametrize(("stride", "sectors"), [(1, 4), (2, 8), (8, 32), (100, 32)])
def test_sectors(stride, sectors):
    counters = copy(stride)
    load, store = counters.traffic["global", "load"], counters.traffic["global", "store"]
    assert (load.requests, load.bytes, load.sectors) == (1, 128, sectors)
    assert (store.requests, store.bytes, store.sectors) == (1, 128, 4)


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_counts_do_not_depend_on_the_schedule(schedule):
    counters = copy(1, n=512, block=128, size=8, schedule=schedule)
    assert counters.traffic["global", "load"].requests == 16
    assert counters.traffic["global", "load"].sectors == 128
    assert counters.instructions == 512 * len(counters.kernel.instructions)
    assert counters.by_opcode()["ld.global.u64"] == 512


def test_sectors_in_any_order():
    warp = np.repeat([0, 1], 32)
    sector = np.concatenate([LANES[::-1] // 8, LANES % 3])
    assert count_distinct(warp, sector) == 4 + 3


# Pattern of 4-byte words that the lanes access, size of an access, turns it takes, turns that so many bytes need.
BANKS = [
    ("one after the other", LANES, 4, 1, 1),
    ("all the same", 0 * LANES, 4, 1, 1),
    ("every second", 2 * LANES, 4, 2, 1),
    ("every 32nd", 32 * LANES, 4, 32, 1),
    ("every 33rd", 33 * LANES, 4, 1, 1),
    ("pairs in a row", 2 * LANES, 8, 2, 2),
    ("pairs, every second", 4 * LANES, 8, 4, 2),
    ("fours in a row", 4 * LANES, 16, 4, 4),
    ("fours, every second", 8 * LANES, 16, 8, 4),
    ("two words of a bank", (LANES % 2) * 32, 4, 2, 1),
]


@pytest.mark.parametrize(
    ("words", "size", "turns", "fewest"), [row[1:] for row in BANKS], ids=[row[0] for row in BANKS]
)
def test_banks(words, size, turns, fewest):
    assert count_turns(0 * LANES, LANES, 4 * words, size) == (turns, fewest)
    two_warps = np.repeat([0, 1], 32), np.tile(LANES, 2), np.tile(4 * words, 2)
    assert count_turns(*two_warps, size) == (2 * turns, 2 * fewest)


def test_conflicts_of_a_kernel():
    memory = Memory()
    body = "mul.lo.u32 %r1, %r0, 8; cvt.u64.u32 %rd1, %r1; st.shared.u32 [%rd1], %r0; mov.u32 %out, 1;"
    to = memory.empty(32, np.uint32)
    lines = f".reg .b32 %out; {body} mad.wide.u32 %rd2, %r0, 4, %rd0; st.global.u32 [%rd2], %out;"
    ptx = kernel(lines, shared=".shared .align 4 .b8 s[256];")
    store = launch(ptx, 1, 32, [to], memory=memory).traffic["shared", "store"]
    assert (store.requests, store.bytes, store.turns, store.conflicts) == (1, 128, 2, 1)


def test_coverage():
    """Guarded instructions that no thread executed are not covered, nor is code that is jumped over."""
    memory = Memory()
    ptx = kernel("""
        setp.lt.u32 %p1, %r0, 10;
        @%p1 mov.u32 %r1, 1;
        setp.lt.u32 %p2, %r0, 0;
        @%p2 mov.u32 %r2, 1;
        @%p1 bra $end;
        bra $end;
        mov.u32 %r3, 1;
        $end:""")
    counters = launch(ptx, 1, 32, [memory.array(np.zeros(1))], memory=memory)
    assert [text for _, text in counters.uncovered()] == ["@%p2 mov.u32 %r2, 1;", "mov.u32 %r3, 1;"]
    by_text = {ptx.splitlines()[i.line - 1].strip(): i.index for i in counters.kernel.instructions}
    assert counters.effective[by_text["@%p1 mov.u32 %r1, 1;"]] == 10
    assert counters.issued[by_text["@%p1 mov.u32 %r1, 1;"]] == 32
    assert counters.effective[by_text["@%p1 bra $end;"]] == 10
    assert counters.issued[by_text["bra $end;"]] == 22
    assert counters.true[by_text["setp.lt.u32 %p1, %r0, 10;"]] == 10
    assert counters.true[by_text["setp.lt.u32 %p2, %r0, 0;"]] == 0


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_who_waits_counts_once(schedule):
    """Ten lanes come to the shuffle later than the others, 32 threads later than the others to the barrier."""
    memory = Memory()
    ptx = kernel("""
        setp.lt.u32 %p1, %r0, 10;
        @%p1 bra $late;
        $shuffle:
        shfl.sync.bfly.b32 %r2, %r0, 1, 31, -1;
        bar.sync 0;
        bra $end;
        $late: mov.u32 %r1, 1;
        bra $shuffle;
        $end:""")
    counters = launch(ptx, 3, 64, [memory.array(np.zeros(1))], memory=memory, schedule=schedule)
    counts = counters.by_opcode()
    assert counts["shfl.sync.bfly.b32"] == counts["bar.sync"] == counts["mov.u32"] - 30 == 192
    assert counters.uncovered() == []


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_lanes_meet_again(schedule):
    """After a branch that some take, the warp's store is one request."""
    memory = Memory()
    to = memory.empty(64, np.uint32)
    body = """setp.lt.u32 %p1, %r0, 50; mov.u32 %r1, 1; @%p1 bra $join; mov.u32 %r1, 2;
        $join: mad.wide.u32 %rd1, %r0, 4, %rd0; st.global.u32 [%rd1], %r1;"""
    counters = launch(kernel(body), 1, 64, [to], memory=memory, schedule=schedule)
    assert counters.traffic["global", "store"].requests == 2
    np.testing.assert_array_equal(to.get(), np.where(np.arange(64) < 50, 1, 2))


def test_launches_add_up():
    counters = copy(1)
    before = counters.instructions
    counters += copy(1)
    assert counters.instructions == 2 * before
    assert counters.traffic["global", "store"].sectors == 8


def test_faults_say_where():
    body = """mov.u32 %r1, %tid.y; mov.u32 %r2, %ctaid.x; mad.lo.u32 %r3, %r1, 4, %r0; mad.lo.u32 %r3, %r2, 8, %r3;
        setp.ne.u32 %p1, %r3, 23; @%p1 mov.u32 %r9, 1;
        add.u32 %out, %r9, 1;"""
    where = r"uninitialised: %r9 .*line 13: add.u32 %out, %r9, 1;; thread \(3, 1, 0\) of block \(2, 0, 0\); 1 threads"
    with pytest.raises(Fault, match=where):
        compute(body, "u32", block=(4, 2), grid=3)
