"""Which chunks of a row each of its threads takes.

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


class Share(NamedTuple):
    """What is a thread's; of a whole row, or of a part, whose first chunk counts as 0."""

    first: Any  # chunk
    apart: Any  # chunks of a tile
    step: Any  # from tile to tile
    slots: Any  # where in the block's memory its first chunk is kept


@inline
def share_in_warp(lane, lanes, memory):
    """Of a lane's, among those that share a row."""
    return Share(lane, lanes, TILE * lanes, place_in_block(memory + CHUNK_BYTES * lane))


@inline
def share_in_block(memory, slot_bytes, tiled):
    """Of a thread's in its block."""
    thread, width = np.int64(cuda.threadIdx.x), np.int64(cuda.blockDim.x)
    if not tiled:
        return Share(thread, width, TILE * width, place_in_block(memory + CHUNK_BYTES * thread))
    lane = thread & (WARP - 1)
    before = (thread - lane) * TILE  # chunks of the warps before this one
    return Share(
        before + lane, np.int64(WARP), width * TILE, place_in_block(memory + slot_bytes * before + CHUNK_BYTES * lane)
    )
