"""Which kernels a call takes, with how many threads and how much memory: plain arithmetic, which needs no GPU.

============  ===========================  ========================================================================
kernel        rows                         because
============  ===========================  ========================================================================
warp          up to 4 KiB (in the block's  32 lanes have at most 8 chunks of 16 bytes each, and no barriers. A
              memory), or 512 bytes where  block of 128 threads takes 16 KiB, so that registers alone limit how
              there are few rows           many blocks there are.
part, finish  128 KiB and more, fewer      A multiprocessor reads 25 bytes/ns of H100's 3,350: 128 KiB take it 5
              than half as many rows as    microseconds, and another launch costs 3.
              multiprocessors
block         as much as a block may have  Read once and written once. Plain kernels keep powers, 4 bytes each for
              (7.5: 64 KiB; 8.6, 8.9,      16-bit logits too: 58,000 classes on 9.0, 41,000 on 8.0, 25,000 on 8.6.
              12.0: 99; 8.0: 163; 9.0,     The others keep what they read: 16-bit logits twice as many.
              10.0: 227)
online        all others                   Read twice: 12 bytes an element of float32 where 8 are ideal. Pieces
                                           leave room for two blocks on a multiprocessor, one of which computes
                                           while the other reads.
============  ===========================  ========================================================================
"""

from __future__ import annotations

from typing import NamedTuple

from .kernels import STATS_FIELDS, chunk_in_block, most_threads
from .memory import numbers
from .together import SCRATCH_BYTES

KIB = 1024

# KiB of shared memory by compute capability: of a multiprocessor, and what a block may have of it.
SHARED_KIB = {
    (7, 5): (64, 64),
    (8, 0): (164, 163),
    (8, 6): (100, 99),
    (8, 7): (164, 163),
    (8, 9): (100, 99),
    (9, 0): (228, 227),
    (10, 0): (228, 227),
    (10, 3): (228, 227),
    (12, 0): (100, 99),
}
OTHERS_KIB = (100, 99)  # what all since 8.0 have
OLDEST = (7, 5)

WARP_BYTES, WARP_BYTES_OF_FEW = 4 * KIB, 512
FEW_ROWS = 8  # for each multiprocessor
SPLIT_BYTES = 128 * KIB
MOST_PARTS = 128  # each is for a thread that merges them
CHUNKS_A_THREAD = 8  # that a block's threads have at least


class Device(NamedTuple):
    """What the choice depends on."""

    capability: tuple[int, int]
    multiprocessors: int


class Launch(NamedTuple):
    """One kernel."""

    name: str
    grid: tuple[int, int]
    threads: int
    shared_bytes: int


class Choice(NamedTuple):
    """The kernels of a call, and what they are told of it (see ``call.Call``)."""

    launches: tuple[Launch, ...]
    plain: bool
    lane_bits: int
    tile: int
    parts: int
    part: int
    stats_numbers: int  # that the parts of all rows leave


def shared_kib(capability: tuple[int, int]) -> tuple[int, int]:
    """Shared memory of a multiprocessor and of a block."""
    return SHARED_KIB.get(capability, OTHERS_KIB)


def choose(device: Device, dtype: str, plain: bool, n_rows: int, n_classes: int, with_grad: bool) -> Choice:
    """Give the kernels for rows of a type."""
    of_type = numbers(dtype)
    slot = chunk_in_block(of_type, plain)
    chunks = -(-(n_classes + of_type.lanes - 1) // of_type.lanes)  # wherever the row starts
    row_bytes, kept_bytes = n_classes * of_type.item, n_classes // of_type.lanes * slot
    few = n_rows < FEW_ROWS * device.multiprocessors
    if kept_bytes <= (WARP_BYTES_OF_FEW if few else WARP_BYTES):
        return _warp(plain, n_rows, chunks, slot)
    if row_bytes >= SPLIT_BYTES and 2 * n_rows <= device.multiprocessors:
        return _split(device, plain, n_rows, chunks, slot, with_grad)
    threads = _threads("block", plain, chunks)
    shared = SCRATCH_BYTES + chunks * slot
    if shared <= shared_kib(device.capability)[1] * KIB:
        return Choice((Launch("block", (n_rows, 1), threads, shared),), plain, 5, chunks, 1, chunks, 0)
    threads, tile = most_threads("online", plain), _tile(device, plain, slot)
    launch = Launch("online", (n_rows, 1), threads, SCRATCH_BYTES + tile * slot)
    return Choice((launch,), plain, 5, tile, 1, chunks, 0)


def _warp(plain: bool, n_rows: int, chunks: int, slot: int) -> Choice:
    """Lanes for a row: as many as leave each with two chunks."""
    lane_bits = min(5, (-(-chunks // 2) - 1).bit_length())
    threads = most_threads("warp", plain)
    rows = threads >> lane_bits
    launch = Launch("warp", (-(-n_rows // rows), 1), threads, SCRATCH_BYTES + rows * chunks * slot)
    return Choice((launch,), plain, lane_bits, chunks, 1, chunks, 0)


def _split(device: Device, plain: bool, n_rows: int, chunks: int, slot: int, with_grad: bool) -> Choice:
    """Two blocks for each multiprocessor."""
    threads = most_threads("part", plain)
    wanted = min(MOST_PARTS, -(-2 * device.multiprocessors // n_rows))
    part = max(-(-chunks // wanted), threads * CHUNKS_A_THREAD // 4)
    parts = -(-chunks // part)
    tile = min(part, _tile(device, plain, slot))
    look = Launch("part", (n_rows, parts), threads, SCRATCH_BYTES + tile * slot)
    finish_bytes = SCRATCH_BYTES + 8 * STATS_FIELDS * parts
    finish = Launch("finish", (n_rows, parts if with_grad else 1), most_threads("finish", plain), finish_bytes)
    return Choice((look, finish), plain, 5, tile, parts, part, n_rows * parts * STATS_FIELDS)


def _threads(name: str, plain: bool, chunks: int) -> int:
    """A power of two, of warps, that leaves each thread a few chunks."""
    wanted = max(1, chunks // CHUNKS_A_THREAD)
    return max(32, min(most_threads(name, plain), 1 << (wanted.bit_length() - 1)))


def _tile(device: Device, plain: bool, slot: int) -> int:
    """Chunks of a piece: as many for each thread as leave room for two blocks (of each 1 KiB is the system's)."""
    threads = most_threads("online", plain)
    room = shared_kib(device.capability)[0] * KIB // 2 - KIB - SCRATCH_BYTES
    return room // (slot * threads) * threads
