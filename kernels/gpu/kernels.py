"""The kernels: warp per row, block per row, block per row in pieces, and rows split over the grid.

=========  =============================  ===========================================  ==================
kernel     a row is for                   where it lies meanwhile                      how often it is read
=========  =============================  ===========================================  ==================
warp       2**lane_bits lanes of a warp   in the block's memory                        once
block      a block                        in the block's memory                        once
online     a block                        a piece at a time in the block's memory      twice
part       ``parts`` blocks               likewise; findings go to ``Call.stats``      once
finish     ``parts`` blocks, after that   nowhere                                      once (a second time)
=========  =============================  ===========================================  ==================

A kernel that only finds losses does not read a second time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import cuda
from numba.cuda import types

from .call import Call, signature
from .compile import inline
from .finish import Plan, finishing
from .gradient import writing
from .maths import maths as maths_of
from .memory import CHUNK_BYTES, numbers as numbers_of, numbers_at
from .rows import NO_TARGET, Row, rows as rows_of
from .stats import NOWHERE, Stats, looks as looks_of
from .together import FIELD_BYTES, SCRATCH_BYTES, together as together_of
from .vector import bits, from_bits

NAMES = ("warp", "block", "online", "part", "finish")
STATS_FIELDS = 10  # numbers that a part of a row leaves in `Call.stats`
PLAN_FIELDS = 6


class Kernel(NamedTuple):
    """What a compiler needs."""

    function: Callable[[Call], None]
    signature: types.Type
    threads: int  # that its blocks have at most


# General kernels need more registers than 1,024 threads can have.
THREADS = {"warp": 128, "block": 1024, "online": 512, "part": 512, "finish": 512}
GENERAL_THREADS = {**THREADS, "block": 512}


@cache
def kernel(name: str, dtype: str, plain: bool, native_bfloat16: bool = True) -> Kernel:
    """Give a kernel for logits of a type; ``plain`` ones are faster, and do without what `needs_general` names."""
    block = name != "warp"
    numbers = numbers_of(dtype, native_bfloat16)
    maths = maths_of(dtype == "float64")
    rows, together = rows_of(numbers, maths), together_of(numbers, block)
    looks = looks_of(numbers, maths, rows, together, plain, block)
    ends = finishing(maths, rows, looks, plain)
    write = writing(numbers, maths, rows, looks, plain, kept=name in ("warp", "block"))

    make = _MAKE[name]
    function = make(numbers, maths, rows, together, looks, ends, write, plain)
    threads = (THREADS if plain else GENERAL_THREADS)[name]
    return Kernel(function, signature(numbers.arithmetic), threads)


def _warp(numbers: Any, maths: Any, rows: Any, together: Any, looks: Any, ends: Any, write: Any, plain: bool) -> Any:
    open_row, n_chunks, load_one, zero = rows.open, rows.n_chunks, numbers.load_one, maths.number(0.0)
    look, target_of, finish, wait = looks.look, ends.target, ends.finish, together.wait
    slots = slots_of(numbers, plain)

    def kernel(call: Call) -> None:
        bits_ = call.lane_bits
        thread = np.int64(cuda.threadIdx.x)
        lane, width = thread & ((1 << bits_) - 1), 1 << bits_
        group = thread >> bits_
        number = np.int64(cuda.blockIdx.x) * (cuda.blockDim.x >> bits_) + group
        there = number < call.n_rows
        row = open_row(call, number, there)
        cache = SCRATCH_BYTES + group * (slots * CHUNK_BYTES) * call.tile
        o = zero
        if row.y != NO_TARGET:
            o = load_one(row.x + row.y * call.x_stride) * call.order
        target = target_of(call, row, o)
        last = n_chunks(row)
        stats = look(call, row, 0, last, lane, width, cache, target.o)
        plan = finish(call, row, target, stats, there and lane == 0)
        wait()  # every lane has read the target before anything is overwritten
        if call.g != 0:
            write(call, row, plan, 0, last, lane, width, cache)

    return kernel


def slots_of(numbers: Any, plain: bool) -> int:
    """How many times 16 bytes of the block's memory a chunk takes: plain kernels keep powers, others what was read."""
    kept: int = numbers.lanes * numbers.arithmetic.bitwidth // 8 // CHUNK_BYTES
    return kept if plain else 1


_MAKE: dict[str, Any] = {"warp": _warp}
