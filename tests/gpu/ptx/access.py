"""Loads and stores by many threads at once, with every check: alignment, bounds, values, races; and counted.

An access moves `size` bytes, all of a vector at once, so memory is looked at as items of that size.
"""

import numpy as np

from .lanes import select
from .memory import FORBIDDEN, UNWRITTEN, WRITTEN
from .races import Shadow
from .values import UNSIGNED

SHARED_WINDOW = 1 << 60  # where shared memory lies among generic addresses


def load(batch, lanes, space, addresses, size, constant=False):
    """Give items of `size` bytes, one for each thread of `lanes`."""
    items = None
    for segment, offsets, part, which in _pieces(batch, lanes, space, addresses, size, "load"):
        data, state = segment.as_items(size)
        index = offsets // size
        if not segment.all_written:
            _check_state(batch, part, segment, state[index], size, must_be_written=True)
        if segment.writable:
            _check_race(batch, part, segment, offsets, size, "load", constant)
        if which is None:
            return data[index]
        items = np.empty(len(addresses), data.dtype) if items is None else items
        items[which] = data[index]
    return items


def store(batch, lanes, space, addresses, size, items):
    """Store items of `size` bytes, one for each thread of `lanes`."""
    for segment, offsets, part, which in _pieces(batch, lanes, space, addresses, size, "store"):
        if not segment.writable:
            batch.fault("read-only", f"a store to {segment.name}", part)
        data, state = segment.as_items(size)
        index = offsets // size
        _check_state(batch, part, segment, state[index], size, must_be_written=False)
        _check_race(batch, part, segment, offsets, size, "store")
        data[index] = items if which is None else items[which]
        if not segment.all_written:
            state[index] = np.full(size, WRITTEN, np.uint8).view(state.dtype)[0]


def _pieces(batch, lanes, space, addresses, size, way):
    """Give segment, offsets in it, lanes, and which of the lanes these are (None: all), for each segment hit."""
    misaligned = addresses & np.uint64(size - 1) != 0
    if misaligned.any():
        at = int(addresses[misaligned][0])
        batch.fault("misaligned", f"a {way} of {size} bytes at {at:#x}", lanes, misaligned)
    if space == "generic":
        shared = addresses >= SHARED_WINDOW
        for space, which in (("shared", shared), ("global", ~shared)):
            if which.any():
                window = np.uint64(SHARED_WINDOW if space == "shared" else 0)
                part = select(lanes, which)
                for segment, offsets, inner, deeper in _pieces(
                    batch, part, space, addresses[which] - window, size, way
                ):
                    assert deeper is None
                    yield segment, offsets, inner, which
        return
    batch.counters.count_access(space, way, batch.warp[lanes], batch.lane[lanes], addresses, size)
    if space == "shared":
        outside = addresses + np.uint64(size) > batch.shared_bytes
        if outside.any():
            at = int(addresses[outside][0])
            batch.fault("bounds", f"a {way} of {size} bytes at {at:#x} of shared memory", lanes, outside)
        yield batch.shared, addresses.astype(np.int64) + batch.shared_base[lanes], lanes, None
        return
    low, high = int(addresses.min()), int(addresses.max())
    buffer = batch.memory.at(low)
    if buffer is not None and low >= buffer.address and high + size <= buffer.end:
        yield buffer, (addresses - np.uint64(buffer.base)).astype(np.int64), lanes, None
        return
    yield from _several(batch, lanes, addresses, size, way)


def _several(batch, lanes, addresses, size, way):
    bases = np.array(batch.memory.bases, np.uint64)
    number = np.searchsorted(bases, addresses, "right") - 1
    for i in np.unique(number):
        which = number == i
        part = select(lanes, which)
        buffer = batch.memory.buffers[i] if i >= 0 else None
        inside = np.zeros(which.sum(), bool)
        if buffer is not None:
            inside = (addresses[which] >= buffer.address) & (addresses[which] + np.uint64(size) <= buffer.end)
        if not inside.all():
            at = int(addresses[which][~inside][0])
            batch.fault("bounds", f"a {way} of {batch.memory.describe(at, size)}", part, ~inside)
        yield buffer, (addresses[which] - np.uint64(buffer.base)).astype(np.int64), part, which


def _check_state(batch, lanes, segment, state, size, must_be_written):
    wanted = np.full(size, WRITTEN if must_be_written else UNWRITTEN, np.uint8)
    word = UNSIGNED[min(size, 8)]
    words, wanted = state.view(word).reshape(len(state), -1), wanted.view(word)
    wrong = (words & wanted) != wanted
    if not wrong.any():
        return
    wrong = wrong.any(axis=1)
    octets = state.view(np.uint8).reshape(len(state), -1)[wrong][0]
    if (octets == FORBIDDEN).any():
        batch.fault("bounds", f"{size} bytes of which some are padding of {segment.name}", lanes, wrong)
    batch.fault("uninitialised", f"{size} bytes of {segment.name} that nobody wrote", lanes, wrong)


def _check_race(batch, lanes, segment, offsets, size, way, constant=False):
    segment.stored |= way == "store"
    segment.read_as_constant |= constant
    if segment.stored and segment.read_as_constant:
        batch.fault("race", f"{segment.name} is stored to, but also read by ld.global.nc", lanes)
    granule = segment.granule
    if segment.shadow is None:
        segment.shadow = Shadow(-(-len(segment.data) // granule), batch.threads_per_block)
    units, thread, clock = offsets // granule, batch.thread[lanes], batch.clock[lanes]
    if size > granule:
        units = units[:, np.newaxis] + np.arange(size // granule)
        thread, clock = thread[:, np.newaxis], clock[:, np.newaxis]
    race = getattr(segment.shadow, way)(units, thread, clock)
    if race is not None:
        if race.ndim == 2:
            race = race.any(axis=1)
        at = int(offsets[race][0])
        batch.fault("race", f"a {way} of byte {at} of {segment.name}, which another thread uses", lanes, race)
