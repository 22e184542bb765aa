"""Which kernels a call takes, with how many threads and how much memory: plain arithmetic, which needs no GPU.

============  ===========================  ========================================================================
kernel        rows                         because
============  ===========================  ========================================================================
warp          up to 2 KiB (plain) or 4;    No barriers, and lanes of a warp that share rows. In plain kernels a lane
              512 bytes where there are    has 8 chunks: its set-up is 480 instructions, an element takes 15.
              few rows
part, finish  128 KiB and more, fewer      A multiprocessor reads 25 bytes/ns of H100's 3,350: 128 KiB take it 5
              than half as many rows as    microseconds, and another launch costs 3.
              multiprocessors
block         as much as a block may have  Read once and written once. Plain kernels keep powers, 4 bytes each for
              (7.5: 64 KiB; 8.6, 8.9,      16-bit logits too: 57,000 classes on 9.0, 40,000 on 8.0, 24,000 on 8.6.
              12.0: 99; 8.0: 163; 9.0,     The others keep what they read: 16-bit logits twice as many. Plain rows
              10.0: 227); plain ones only  are kept only where caches are small: on an H200, 4,096 to 32,768 classes
              on 7.5, 8.6 and 8.7          of float32 reach .86 to .60 of copy speed, and .59 to .40 of bfloat16;
                                           online, .90 to .84 and .74 to .69.
online        all others                   Plain rows are read twice, the second time backwards from the caches: 8
                                           chunks for each of 1,024 threads on a multiprocessor are 128 KiB, and
                                           17 MB on an H100, whose second-level cache has 50; twice as much for 256
                                           threads and more. Rows beyond 256 KiB come from memory again, in part:
                                           12 bytes an element of float32 where 8 are ideal. The others go through
                                           the block's memory in pieces that leave room for two blocks on a
                                           multiprocessor.
============  ===========================  ========================================================================
"""

from __future__ import annotations

from typing import NamedTuple

from .kernels import BUSY, PLAIN_FIELDS, STATS_FIELDS, most_threads
from .memory import CHUNK_BYTES, SECTOR_BYTES, Numbers, chunk_in_block, numbers
from .together import SHARED_FIELDS, WARP, WARP_BITS, scratch_bytes

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

WARP_BYTES, WARP_BYTES_OF_FEW = 2 * KIB, 512
CHUNKS_A_LANE = 8
SMALL_CACHE = (7, 5), (8, 6), (8, 7)  # 4 to 6 MiB at the second level, where others have 40 and more
FEW_ROWS = 8  # for each multiprocessor
SPLIT_BYTES = 128 * KIB
MOST_PARTS = 128  # each is for a thread that merges them
CHUNKS_A_THREAD = 16  # that a block's threads have at least, unless these are too few for the memory:
THREADS_A_MULTIPROCESSOR = 384  # each with a tile of 64 bytes on its way
CHUNKS_A_PART = 4  # of each thread, at least


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
    chunks = chunks_of(of_type, n_classes, SECTOR_BYTES)
    row_bytes = n_classes * of_type.item
    few = n_rows < FEW_ROWS * device.multiprocessors
    if row_bytes <= (WARP_BYTES_OF_FEW if few else WARP_BYTES if plain else 2 * WARP_BYTES):
        return warp(of_type, plain, n_rows, n_classes)
    if row_bytes >= SPLIT_BYTES and 2 * n_rows <= device.multiprocessors:
        return _split(device, of_type, plain, n_rows, chunks, with_grad)
    if not plain or device.capability in SMALL_CACHE:
        choice = block(device, of_type, plain, n_rows, chunks)
        if choice.launches[0].shared_bytes <= shared_kib(device.capability)[1] * KIB:
            return choice
    if not plain:
        threads = most_threads("online", plain, _double(of_type))
        return online(of_type, plain, n_rows, chunks, threads, _tile(device, of_type, plain))
    return online(of_type, plain, n_rows, chunks, online_threads(device, of_type, n_rows, chunks), 0)


def chunks_of(of_type: Numbers, n_classes: int, align: int) -> int:
    """Chunks of a row, wherever it starts: the first lies at a multiple of ``align`` bytes."""
    return -(-(n_classes + align // of_type.item - 1) // of_type.lanes)


def warp(of_type: Numbers, plain: bool, n_rows: int, n_classes: int) -> Choice:
    """Lanes for a row: in plain kernels, whose set-up is long, few."""
    filled, apart = divmod(n_classes, of_type.lanes)
    each = (CHUNKS_A_LANE << (apart > 0)) if plain else of_type.tile  # chunks that rows share are read by element
    lane_bits = min(WARP_BITS, max(int(filled > 4), (-(-filled // each) - 1).bit_length()))
    chunks = chunks_of(of_type, n_classes, SECTOR_BYTES if lane_bits == WARP_BITS else CHUNK_BYTES)
    threads = most_threads("warp", plain, _double(of_type))
    rows, tile = threads >> lane_bits, _rounded_up(chunks, 1 << lane_bits)
    shared_bytes = 0 if plain else rows * tile * chunk_in_block(of_type, plain)
    launch = Launch("warp", (-(-n_rows // rows), 1), threads, shared_bytes)
    return Choice((launch,), plain, lane_bits, tile, 1, chunks, 0)


def block(device: Device, of_type: Numbers, plain: bool, n_rows: int, chunks: int) -> Choice:
    """Few threads, as long as the memory has enough to do."""
    tile = _rounded_up(chunks, WARP)
    room = shared_kib(device.capability)[0] * KIB // (_shared_bytes(of_type, plain, 0, tile) + KIB)
    blocks = max(1, min(room, -(-n_rows // device.multiprocessors)))  # on a multiprocessor at a time
    busy, needed = chunks // CHUNKS_A_THREAD, min(-(-THREADS_A_MULTIPROCESSOR // blocks), chunks // of_type.tile)
    threads = max(WARP, busy // WARP * WARP, _rounded_up(needed, WARP))
    threads = min(most_threads("block", plain, _double(of_type)), threads)
    launch = Launch("block", (n_rows, 1), threads, _shared_bytes(of_type, plain, threads, tile))
    return Choice((launch,), plain, 5, tile, 1, chunks, 0)


def online(of_type: Numbers, plain: bool, n_rows: int, chunks: int, threads: int, tile: int) -> Choice:
    """Pieces of ``tile`` chunks; 0 for plain rows, which are not kept."""
    launch = Launch("online", (n_rows, 1), threads, _shared_bytes(of_type, plain, threads, tile))
    return Choice((launch,), plain, 5, tile, 1, chunks, 0)


def split(
    of_type: Numbers, plain: bool, n_rows: int, chunks: int, with_grad: bool, threads: int, part: int, tile: int
) -> Choice:
    """Parts of ``part`` chunks, in pieces of ``tile``: see `online`."""
    parts, fields = -(-chunks // part), PLAIN_FIELDS if plain else STATS_FIELDS
    look = Launch("part", (n_rows, parts), threads, _shared_bytes(of_type, plain, threads, tile))
    finish_bytes = 8 * (SHARED_FIELDS + STATS_FIELDS * parts)
    finish = Launch("finish", (n_rows, parts if with_grad else 1), threads, finish_bytes)
    return Choice((look, finish), plain, 5, tile, parts, part, n_rows * parts * fields)


def _split(device: Device, of_type: Numbers, plain: bool, n_rows: int, chunks: int, with_grad: bool) -> Choice:
    """Two blocks for each multiprocessor."""
    threads = most_threads("part", plain, _double(of_type))
    wanted = min(MOST_PARTS, -(-2 * device.multiprocessors // n_rows))
    part = _rounded_up(max(-(-chunks // wanted), threads * CHUNKS_A_PART), WARP * of_type.tile)
    tile = 0 if plain else min(part, _tile(device, of_type, plain))
    return split(of_type, plain, n_rows, chunks, with_grad, threads, part, tile)


def online_threads(device: Device, of_type: Numbers, n_rows: int, chunks: int) -> int:
    """As few as have enough to do: what rows a multiprocessor has then are no more than the caches hold, see above."""
    needed = BUSY * device.multiprocessors // n_rows  # where there are few rows
    threads = max(min(chunks // CHUNKS_A_LANE, 256), chunks // (2 * CHUNKS_A_LANE), min(chunks, needed))
    return min(most_threads("online", True, _double(of_type)), _rounded_up(threads, WARP))


def _double(of_type: Numbers) -> bool:
    return of_type.item == 8


def _shared_bytes(of_type: Numbers, plain: bool, threads: int, tile: int) -> int:
    return scratch_bytes(threads, of_type.arithmetic.bitwidth // 8) + tile * chunk_in_block(of_type, plain)


def _rounded_up(n: int, step: int) -> int:
    return -(-n // step) * step


def _tile(device: Device, of_type: Numbers, plain: bool) -> int:
    """Chunks of a piece: as many for each thread as leave room for two blocks (of each, 1 KiB is the system's)."""
    threads = most_threads("online", plain, _double(of_type))
    room = shared_kib(device.capability)[0] * KIB // 2 - KIB - _shared_bytes(of_type, plain, threads, 0)
    step = threads * (of_type.tile if plain else 1)
    return max(1, room // (chunk_in_block(of_type, plain) * step)) * step
