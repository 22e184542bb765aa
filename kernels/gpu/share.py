"""Which chunks of a row, or of a part of it, each of its threads takes.

The threads that read neighbouring chunks at a time are ``apart`` many, and each of them takes TILE chunks that far apart
before the next tile. In plain kernels these are a warp, so that the distance is the same in every kernel: a number in
the instructions, not an address to be computed. The few chunks behind the last whole tile go one by one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from .compile import inline
from .memory import CHUNK_BYTES, TILE, place_in_block
from .together import WARP
from .vector import once


class Share(NamedTuple):
    """What is a thread's of chunks ``k`` to ``last``."""

    offset: Any  # from the row's first chunk to the thread's, in bytes
    left: Any  # from there to the end of all chunks, in bytes
    apart: Any  # chunks of a tile
    step: Any  # from tile to tile
    slots: Any  # where in the block's memory its first chunk is kept


class Lane(NamedTuple):
    """A thread among those of its row."""

    offset: Any
    apart: Any
    step: Any
    slots: Any


@inline
def lane_in_warp(lane, lanes, memory):
    """Of those that share a row."""
    return Lane(CHUNK_BYTES * lane, lanes, TILE * lanes, place_in_block(memory + CHUNK_BYTES * lane))


@inline
def lane_in_block(memory, slot_bytes, tiled):
    """Of all."""
    thread, width = np.int64(cuda.threadIdx.x), np.int64(cuda.blockDim.x)
    if not tiled:
        return Lane(CHUNK_BYTES * thread, width, TILE * width, place_in_block(memory + CHUNK_BYTES * thread))
    lane = thread & (WARP - 1)
    offset = once(CHUNK_BYTES * TILE * thread - CHUNK_BYTES * (TILE - 1) * lane)
    slots = once(place_in_block(memory + slot_bytes // CHUNK_BYTES * offset - (slot_bytes - CHUNK_BYTES) * lane))
    return Lane(offset, np.int64(WARP), TILE * width, slots)


@inline
def share_of(lane: Lane, first, last):
    """What is a thread's of chunks first to last."""
    offset = lane.offset + CHUNK_BYTES * first
    return Share(offset, once(CHUNK_BYTES * last - offset), lane.apart, lane.step, lane.slots)


@inline
def following(share: Share, n):
    """How many chunks after the thread's chunk ``n`` its next one is, one by one, tile after tile."""
    return share.step - (TILE - 1) * share.apart if n & (TILE - 1) == TILE - 1 else share.apart
