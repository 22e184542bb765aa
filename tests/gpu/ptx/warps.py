"""Instructions that the lanes of a warp execute together: shuffles, votes, reductions, bar.warp.sync.

All have a mask of the lanes that take part. Each lane waits until every lane of its mask has come to the same
instruction; those that have left the kernel need not come.
"""

import numpy as np

from .decode import Modifiers
from .lanes import count, select, to_words, whole_warps
from .registers import reader, writer
from .syntax import Pair

ALL = np.uint32(0xFFFFFFFF)


def shfl(kernel, instruction):
    m = Modifiers(instruction)
    m.need("sync")
    mode = m.need("up", "down", "bfly", "idx")
    m.type("b32")
    m.done()
    to, a, b, c, mask = instruction.operands
    to, flag = (to.first, to.second) if isinstance(to, Pair) else (to, None)
    write = writer(kernel, to, "b32")
    write_flag = None if flag is None else writer(kernel, flag, "pred")
    read_a, read_b, read_c = (reader(kernel, x, "b32") for x in (a, b, c))

    def shuffle(batch, lanes, mask):
        value, b, c = read_a(batch, lanes), read_b(batch, lanes) & 31, read_c(batch, lanes)
        lane = batch.lane[lanes]
        source, inside = _source(mode, lane, b.astype(np.int64), c.astype(np.int64))
        everyone = np.zeros(batch.n_lanes, np.uint32)
        everyone[lanes] = value
        source = np.where(inside, source, lane)
        takes_part = (mask >> source.astype(np.uint32)) & np.uint32(1) != 0
        origin = batch.warp[lanes] * 32 + source
        here = np.zeros(batch.n_lanes, bool)
        here[lanes] = True
        lost = ~takes_part | ~here[origin]
        if lost.any():
            batch.fault("lane", f"from lane {source[lost][0]}, which does not take part", lanes, lost)
        write(batch, lanes, everyone[origin])
        if write_flag is not None:
            write_flag(batch, lanes, np.broadcast_to(inside, lane.shape))

    return together(kernel, mask, shuffle)


def _source(mode, lane, b, c):
    """The lane to take from, and whether it lies within the segment that c cuts the warp into."""
    cut, limit = c >> 8 & 31, c & 31
    most, least = (lane & cut) | (limit & ~cut), lane & cut
    if mode == "up":
        return lane - b, lane - b >= most
    if mode == "down":
        return lane + b, lane + b <= most
    source = lane ^ b if mode == "bfly" else least | (b & ~cut)
    return source, source <= most


def vote(kernel, instruction):
    m = Modifiers(instruction)
    m.need("sync")
    mode = m.need("all", "any", "uni", "ballot")
    kind = m.type("b32" if mode == "ballot" else "pred")
    m.done()
    to, a, mask = instruction.operands
    read, write = reader(kernel, a, "pred"), writer(kernel, to, kind)

    def votes(batch, lanes, mask):
        everyone = np.zeros(batch.n_lanes, bool)
        everyone[lanes] = read(batch, lanes)
        ballot = to_words(everyone)[batch.warp[lanes]] & mask
        everyone[:] = False
        everyone[lanes] = True
        voters = to_words(everyone)[batch.warp[lanes]] & mask
        results = {"all": ballot == voters, "any": ballot != 0, "uni": (ballot == voters) | (ballot == 0)}
        write(batch, lanes, ballot if mode == "ballot" else results[mode])

    return together(kernel, mask, votes)


def redux(kernel, instruction):
    """One result for all lanes of the mask: sum, minimum, maximum, or bits, of 32-bit integers."""
    m = Modifiers(instruction)
    m.need("sync")
    how = m.need("add", "min", "max", "and", "or", "xor")
    kind = m.type(*(("b32",) if how in ("and", "or", "xor") else ("u32", "s32")))
    m.done()
    to, a, mask = instruction.operands
    read, write = reader(kernel, a, kind), writer(kernel, to, kind)
    functions = {"add": np.add, "min": np.minimum, "max": np.maximum}
    functions |= {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}

    def reduce(batch, lanes, mask):
        value = np.broadcast_to(read(batch, lanes), count(lanes))
        warp, mask = batch.warp[lanes], np.broadcast_to(mask, count(lanes))
        result = np.empty_like(value)
        group = np.stack([warp.astype(np.uint64), mask.astype(np.uint64)])
        for key in np.unique(group, axis=1).T:
            members = (group == key[:, np.newaxis]).all(axis=0)
            result[members] = functions[how].reduce(value[members])
        write(batch, lanes, result)

    return together(kernel, mask, reduce)


def bar_warp_sync(kernel, instruction):
    """Orders memory among the lanes, which is noted for a whole warp only: see races.py."""
    m = Modifiers(instruction)
    m.need("warp")
    m.need("sync")
    m.done()
    (mask,) = instruction.operands

    def synchronise(batch, lanes, mask):
        absent = to_words(batch.pc != batch.EXITED)[batch.warp[lanes]] & ~mask
        batch.clock[lanes] += absent == 0

    return together(kernel, mask, synchronise)


def together(kernel, mask, execute):
    """Give a step that waits for the lanes of the mask, then executes."""
    read = reader(kernel, mask, "b32")

    def step(batch, lanes, at):
        masks = read(batch, lanes)
        if (masks == ALL).all() and whole_warps(lanes):
            batch.effective[at] += count(lanes)
            batch.blocked[lanes] = False
            execute(batch, lanes, masks)
            return at + 1
        masks = np.broadcast_to(masks, count(lanes))
        ready = _ready(batch, lanes, masks)
        now = select(lanes, ready)
        batch.issued[at] -= int((~ready).sum())  # these are counted when they do
        batch.pc[lanes] = at
        batch.blocked[lanes] = ~ready
        if ready.any():
            batch.effective[at] += count(now)
            execute(batch, now, masks[ready])
            batch.pc[now] = at + 1
        return None

    return step


def _ready(batch, lanes, masks):
    """Which lanes have all of their mask beside them."""
    lane, warp = batch.lane[lanes].astype(np.uint32), batch.warp[lanes]
    outside = (masks >> lane) & np.uint32(1) == 0
    if outside.any():
        batch.fault("mask", f"the mask {masks[outside][0]:#x} does not name the lane itself", lanes, outside)
    here = np.zeros(batch.n_lanes, bool)
    here[lanes] = True
    missing = masks & to_words(batch.pc != batch.EXITED)[warp] & ~to_words(here)[warp]
    ready = missing == 0
    # Lanes that name each other must agree on the mask.
    agreed = np.zeros(batch.n_lanes, np.uint32)
    agreed[lanes] = masks
    by_lane = agreed.reshape(-1, 32)
    for i in np.flatnonzero(ready):
        if not i or masks[i] != masks[i - 1] or warp[i] != warp[i - 1]:
            named = (masks[i] >> np.arange(32, dtype=np.uint32)) & np.uint32(1) != 0
            named &= here.reshape(-1, 32)[warp[i]]
            differs = named & (by_lane[warp[i]] != masks[i])
            if differs.any():
                which = np.arange(len(ready)) == i
                batch.fault("mask", f"{masks[i]:#x}, but lane {np.argmax(differs)} has another", lanes, which)
    return ready


TABLE = {"shfl": shfl, "vote": vote, "redux": redux}
