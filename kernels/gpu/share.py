"""Which chunks of a row, or of a part of it, each of its threads takes.

Threads that take neighbouring chunks are ``apart`` many, and each takes a tile, some chunks that far apart, before the
next tile. In plain kernels they are a warp: then the distance is a number in the instructions, and no address needs
computing but that of a tile's first chunk. The few chunks behind the last whole tile go one by one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from .compile import inline
from .memory import CHUNK_BYTES, place_in_block
from .together import WARP, WARP_BITS
from .vector import once


class Lane(NamedTuple):
    """A thread among those of its row."""

    offset: Any  # of its first chunk, in bytes from the first of all
    apart: Any  # its chunks, counted in chunks; it is next to others
    step: Any  # likewise its tiles
    slots: Any  # where in the block's memory its first chunk is kept
    chunk_slots: Any  # from there to its next one, in bytes
    tile_slots: Any  # likewise, from tile to tile


class Share(NamedTuple):
    """What such a thread takes of a row's chunks, or of some of them."""

    offset: Any  # of its first chunk, in bytes from the row's first
    left: Any  # bytes from there to the end
    apart: Any  # these as in Lane
    step: Any
    slots: Any
    chunk_slots: Any
    tile_slots: Any


@inline
def lane_in_warp(bits, tile, each, slot_bytes):
    """Of ``2**bits`` lanes that share a row. Whatever rows they are of, a warp's lanes keep chunks side by side."""
    thread, lanes, row_of_slots = np.int64(cuda.threadIdx.x), np.int64(1) << bits, WARP * slot_bytes
    offset, warp, lane = CHUNK_BYTES * (thread & (lanes - 1)), thread >> WARP_BITS, thread & (WARP - 1)
    slots = place_in_block(warp * (row_of_slots * (each >> bits)) + CHUNK_BYTES * lane)
    return Lane(offset, lanes, tile * lanes, slots, row_of_slots, tile * row_of_slots)


@inline
def lane_in_block(memory, tile, slot_bytes, tiled):
    """A thread of the block; ``tiled``: neighbours are a warp, else all threads."""
    thread, width = np.int64(cuda.threadIdx.x), np.int64(cuda.blockDim.x)
    if not tiled:
        slots, row_of_slots = place_in_block(memory + CHUNK_BYTES * thread), CHUNK_BYTES * width
        return Lane(CHUNK_BYTES * thread, width, tile * width, slots, row_of_slots, tile * row_of_slots)
    lane = thread & (WARP - 1)
    offset = once(CHUNK_BYTES * tile * thread - CHUNK_BYTES * (tile - 1) * lane)
    slots = once(place_in_block(memory + slot_bytes // CHUNK_BYTES * offset - (slot_bytes - CHUNK_BYTES) * lane))
    return Lane(offset, np.int64(WARP), tile * width, slots, np.int64(WARP * slot_bytes), tile * width * slot_bytes)


@inline
def share_of(lane: Lane, first, last):
    """What a thread takes of chunks first to last."""
    offset = lane.offset + CHUNK_BYTES * first
    left = once(CHUNK_BYTES * last - offset)
    return Share(offset, left, lane.apart, lane.step, lane.slots, lane.chunk_slots, lane.tile_slots)


@inline
def following(share: Share, tile, n):
    """How far it is from a thread's chunk ``n`` from the start of a tile on to its next, in the row and as kept."""
    if n & (tile - 1) == tile - 1:
        chunks = share.step - (tile - 1) * share.apart
        return CHUNK_BYTES * chunks, share.tile_slots - (tile - 1) * share.chunk_slots
    return CHUNK_BYTES * share.apart, share.chunk_slots
