"""Which chunks of a row, or of a part of it, each of its threads takes.

Threads that take neighbouring chunks are ``apart`` many, and each takes TILE chunks that far apart, a tile, before the
next tile. In plain kernels they are a warp: then the distance is a number in the instructions, and no address needs
computing but that of a tile's first chunk. The few chunks behind the last whole tile go one by one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from .compile import inline
from .memory import CHUNK_BYTES, TILE, place_in_block
from .together import WARP
from .vector import once


class Lane(NamedTuple):
    """A thread among those of its row."""

    offset: Any  # of its first chunk, in bytes from the first of all
    apart: Any  # chunks
    step: Any  # chunks from tile to tile
    slots: Any  # where in the block's memory its first chunk is kept


class Share(NamedTuple):
    """What such a thread takes of a row's chunks, or of some of them."""

    offset: Any  # of its first chunk, in bytes from the row's first
    left: Any  # bytes from there to the end
    apart: Any  # these as in Lane
    step: Any
    slots: Any


@inline
def lane_in_warp(lane, lanes, memory):
    """A lane of those that share a row; ``memory``: where in the block's theirs begins."""
    return Lane(CHUNK_BYTES * lane, lanes, TILE * lanes, place_in_block(memory + CHUNK_BYTES * lane))


@inline
def lane_in_block(memory, slot_bytes, tiled):
    """A thread of the block; ``tiled``: neighbours are a warp, else all threads."""
    thread, width = np.int64(cuda.threadIdx.x), np.int64(cuda.blockDim.x)
    if not tiled:
        return Lane(CHUNK_BYTES * thread, width, TILE * width, place_in_block(memory + CHUNK_BYTES * thread))
    lane = thread & (WARP - 1)
    offset = once(CHUNK_BYTES * TILE * thread - CHUNK_BYTES * (TILE - 1) * lane)
    slots = once(place_in_block(memory + slot_bytes // CHUNK_BYTES * offset - (slot_bytes - CHUNK_BYTES) * lane))
    return Lane(offset, np.int64(WARP), TILE * width, slots)


@inline
def share_of(lane: Lane, first, last):
    """What a thread takes of chunks first to last."""
    offset = lane.offset + CHUNK_BYTES * first
    return Share(offset, once(CHUNK_BYTES * last - offset), lane.apart, lane.step, lane.slots)


@inline
def following(share: Share, n):
    """How many chunks after the ``n``-th of a thread, from the start of a tile on, its next one is."""
    return share.step - (TILE - 1) * share.apart if n & (TILE - 1) == TILE - 1 else share.apart
