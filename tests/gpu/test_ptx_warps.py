"""Shuffles, votes, reductions: what each lane gets, and what it must not ask for."""

import numpy as np
import pytest

from .asm import compute, kernel
from .ptx import SCHEDULES, Fault, Memory, Refused, launch

LANES = np.arange(32)
FULL = -1


def shuffle(mode, b, c, mask=FULL, block=32, schedule="lockstep"):
    """Each lane offers ten times its number; give what it got, and whether it is from within its segment."""
    body = f"""mul.lo.u32 %r1, %r0, 10; shfl.sync.{mode}.b32 %r2|%p1, %r1, {b}, {c}, {mask};
        selp.b32 %r3, 1000, 0, %p1; add.u32 %out, %r2, %r3;"""
    out = compute(body, "u32", block=block, schedule=schedule)
    return out % 1000 // 10, out >= 1000


def segment(width):
    """The operand c: the number of the last lane of a segment, and which bits of the lane's number say the segment."""
    return (32 - width) << 8


@pytest.mark.parametrize("width", [32, 16, 8, 4, 2, 1])
@pytest.mark.parametrize("b", [0, 1, 3, 8, 31])
def test_shuffles(width, b):
    first = LANES // width * width
    for mode, source, c in (
        ("bfly", LANES ^ b, segment(width) | 31),
        ("down", LANES + b, segment(width) | 31),
        ("up", LANES - b, segment(width)),
        ("idx", first + b % width, segment(width) | 31),
    ):
        inside = (source >= first) & (source < first + width)
        if mode == "bfly":
            inside = source < first + width  # lanes of earlier segments may be read
        got, flag = shuffle(mode, b, c)
        np.testing.assert_array_equal(flag, inside, mode)
        np.testing.assert_array_equal(got, np.where(inside, source, LANES), mode)


def test_a_lane_that_does_not_take_part_has_nothing_to_give():
    with pytest.raises(Fault, match="lane: from lane 16, which does not take part"):
        shuffle("bfly", 16, 31, block=16)  # half a warp
    with pytest.raises(Fault, match="lane: from lane 24, which"):
        shuffle("down", 8, 31, block=24)
    got, _ = shuffle("bfly", 8, 31, mask=0xFFFF, block=16)
    np.testing.assert_array_equal(got, LANES[:16] ^ 8)


def test_a_lane_outside_of_the_mask_has_nothing_to_give():
    halves = "shr.u32 %r1, %r0, 4; shl.b32 %r1, %r1, 4; shl.b32 %r2, 0xFFFF, %r1;"
    with pytest.raises(Fault, match="lane: from lane 16, which does not take part"):
        compute(f"{halves} shfl.sync.bfly.b32 %out, %r0, 16, 31, %r2;", "u32")


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_nobody_waits_for_lanes_that_leave(schedule):
    memory = Memory()
    to = memory.array(np.zeros(32, np.uint32))
    body = """setp.ge.u32 %p1, %r0, 10; @%p1 bra $gone; bar.warp.sync -1; mad.wide.u32 %rd1, %r0, 4, %rd0;
        st.global.u32 [%rd1], 1; ret;
        $gone:"""
    launch(kernel(body), 1, 32, [to], memory=memory, schedule=schedule)
    np.testing.assert_array_equal(to.get(), LANES < 10)


def test_a_mask_must_name_its_own_lane():
    with pytest.raises(Fault, match="mask: the mask 0xffff does not name the lane itself"):
        shuffle("bfly", 1, 31, mask=0xFFFF)


def test_lanes_must_agree_on_their_mask():
    body = """setp.lt.u32 %p1, %r0, 4; selp.b32 %r1, 0xFF, -1, %p1; shfl.sync.bfly.b32 %out, %r0, 1, 31, %r1;"""
    with pytest.raises(Fault, match=r"mask: .*has another"):
        compute(body, "u32")


def test_masks_of_parts_of_a_warp():
    body = """shr.u32 %r1, %r0, 3; shl.b32 %r1, %r1, 3; shl.b32 %r2, 0xFF, %r1;
        shfl.sync.bfly.b32 %out, %r0, 7, 31, %r2;"""
    np.testing.assert_array_equal(compute(body, "u32"), LANES ^ 7)


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_lanes_wait_for_the_others_of_their_mask(schedule):
    """Lanes that went another way come to the same shuffle later."""
    body = """setp.lt.u32 %p1, %r0, 10; mov.u32 %r1, %r0; @%p1 bra $late; bra $shuffle;
        $late: add.u32 %r1, %r1, 100;
        $shuffle: shfl.sync.bfly.b32 %out, %r1, 1, 31, -1;"""
    np.testing.assert_array_equal(compute(body, "u32", schedule=schedule)[:12], [101, 100, 103, 102, 105, 104, 107, 106,
                                                                               109, 108, 11, 10])  # fmt: skip
    later = """setp.lt.u32 %p1, %r0, 10; mov.u32 %r1, %r0; @%p1 bra $late;
        $shuffle: shfl.sync.bfly.b32 %r5, %r1, 1, 31, -1; bra $next;
        $late: add.u32 %r1, %r1, 100; bra $shuffle;
        $next: setp.ge.u32 %p2, %r0, 10; @%p2 bra $more;
        $last: shfl.sync.bfly.b32 %out, %r5, 1, 31, -1; bra $end;
        $more: add.u32 %r5, %r5, 1000; bra $last;
        $end:"""
    expected = np.where(LANES < 10, LANES + 100, LANES + 1000)
    np.testing.assert_array_equal(compute(later, "u32", schedule=schedule), expected)


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_two_shuffles_are_not_the_same(schedule):
    apart = """setp.lt.u32 %p1, %r0, 10; @%p1 bra $one; shfl.sync.bfly.b32 %out, %r0, 1, 31, -1; bra $end;
        $one: shfl.sync.bfly.b32 %out, %r0, 1, 31, -1;
        $end:"""
    with pytest.raises(Fault, match=r"deadlock: all wait, in lines \d+, \d+, and others of the warp never come"):
        compute(apart, "u32", schedule=schedule)


def test_votes():
    odd = "and.b32 %r1, %r0, 1; setp.eq.u32 %p1, %r1, 1;"
    one = "setp.eq.u32 %p1, %r0, 5;"
    assert (compute(f"{odd} vote.sync.ballot.b32 %out, %p1, -1;", "u32") == 0xAAAAAAAA).all()
    assert (compute(f"{odd} vote.sync.ballot.b32 %out, !%p1, -1;", "u32") == 0x55555555).all()
    assert (compute(f"{odd} vote.sync.ballot.b32 %out, %p1, 0xFF;", "u32", block=8) == 0xAA).all()
    for mode, condition, expected in (
        ("any", one, 1), ("all", one, 0), ("uni", one, 0), ("all", "setp.lt.u32 %p1, %r0, 99;", 1),
        ("any", "setp.gt.u32 %p1, %r0, 99;", 0), ("uni", "setp.gt.u32 %p1, %r0, 99;", 1),
    ):  # fmt: skip
        body = f"{condition} vote.sync.{mode}.pred %p2, %p1, -1; selp.b32 %out, 1, 0, %p2;"
        assert (compute(body, "u32") == expected).all(), mode


def test_reductions():
    for how, kind, expected in (
        ("add", "s32", LANES.sum() - 32 * 5), ("min", "s32", -5), ("max", "s32", 26), ("min", "u32", 0),
        ("max", "u32", 2**32 - 1), ("and", "b32", 0), ("xor", "b32", np.bitwise_xor.reduce(LANES - 5)),
    ):  # fmt: skip
        out = compute(f"sub.u32 %r1, %r0, 5; redux.sync.{how}.{kind} %out, %r1, -1;", "s32")
        assert (out == np.int64(expected).astype(np.int32)).all(), how
    halves = "shr.u32 %r1, %r0, 4; shl.b32 %r1, %r1, 4; shl.b32 %r2, 0xFFFF, %r1; redux.sync.add.u32 %out, %r0, %r2;"
    np.testing.assert_array_equal(compute(halves, "u32"), [120] * 16 + [376] * 16)


@pytest.mark.parametrize(
    "instruction", ["activemask.b32 %out;", "match.sync.any.b32 %out, %r0, -1;", "shfl.bfly.b32 %out, %r0, 1, 31;",
                    "vote.ballot.b32 %out, %p1;"]
)  # fmt: skip
def test_others_are_refused(instruction):
    with pytest.raises(Refused):
        compute(instruction, "u32")
