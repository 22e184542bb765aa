"""Sums over rows: denominators before the gradient, and the loss after. In float64, in a fixed order.

Every block adds up a share of the rows; where there is one block, it finishes, and else another launch does, with one
block. So nothing waits for the host, and nothing depends on which block comes first.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import cuda
from numba.cuda import types

from .compile import inline
from .kernels import Kernel
from .memory import numbers as numbers_of
from .memory import numbers_at, place_in_block
from .rows import start_of, target_at
from .together import EVERY_LANE, WARP, WARP_BITS
from .vector import bits, from_bits

THREADS = 1024
FIELD_BYTES = 8 * THREADS // WARP  # what each warp of a block leaves
SHARED_BYTES = 3 * FIELD_BYTES
ROWS_A_BLOCK = 8192  # 8 for each thread
MOST_BLOCKS = 256  # which the block that finishes reads, a thread each

# What a block leaves in `Sums.partials`, 8 bytes each.
WEIGHT_SUM, ROW_SUM, BAD_ROW, PARTIAL_FIELDS = range(4)
LOSS_SUM = 0  # of `add`
NO_BAD_ROW = 2**63 - 1

_load_double, _store_double = numbers_at(types.float64)
_load_long, _store_long = numbers_at(types.int64)
_doubles = numbers_of("float64")
_keep, _kept = _doubles.keep_one, _doubles.kept_one


class Sums(NamedTuple):
    """Everything these kernels are given. An address is 0 where something is not there."""

    n_rows: int
    n_classes: int = 0
    targets: int = 0
    target_bytes: int = 0  # as in call.Call
    ignore_index: int = 0
    weight: int = 0
    sample_weight: int = 0
    losses: int = 0  # of the rows; also what `nll` fills
    log_probs: int = 0  # for `nll`: as x of call.Call
    step: int = 0
    stride: int = 0
    offsets: int = 0
    share: int = 0  # rows for each block
    partials: int = 0
    n_partials: int = 0
    scales: int = 0  # out: ce_scale, zl_scale and zl_ratio, of the arithmetic type
    bad_row: int = 0  # out: the first row with a bad target, or NO_BAD_ROW
    divisor_at: int = 0  # float64: what the sum of the losses is divided by, left by `weigh` for `add`; 0: ``divisor``
    out: int = 0  # out: the loss, of the arithmetic type
    both: int = 0  # 1: the z-loss has a denominator of its own

    divisor: float = 0.0
    upstream: float = 0.0
    empty: float = 0.0  # the mean over nothing


N_INTEGERS = Sums._fields.index("divisor")
SIGNATURE = types.void(
    types.NamedTuple([types.int64] * N_INTEGERS + [types.float64] * (len(Sums._fields) - N_INTEGERS), Sums)
)
NAMES = ("weigh", "weigh_finish", "add", "add_finish", "nll")


@cache
def kernel(name: str, dtype: str) -> Kernel:
    """Give a kernel for rows of a type."""
    return Kernel(f"{name} {dtype}", _MAKE[name](dtype), SIGNATURE, THREADS)


@inline
def _leave_sum(a, field):
    """A warp's sum, left by its first lane."""
    for step in range(WARP_BITS):
        a += cuda.shfl_xor_sync(EVERY_LANE, a, WARP >> (step + 1))
    if cuda.threadIdx.x & (WARP - 1) == 0:
        _keep(place_in_block(field + 8 * (cuda.threadIdx.x >> WARP_BITS)), a)


@inline
def _leave_smallest(first, field):
    for step in range(WARP_BITS):
        first = min(first, cuda.shfl_xor_sync(EVERY_LANE, first, WARP >> (step + 1)))
    if cuda.threadIdx.x & (WARP - 1) == 0:
        _keep(place_in_block(field + 8 * (cuda.threadIdx.x >> WARP_BITS)), from_bits(first))


@inline
def _sum_left(field):
    a = 0.0
    for warp in range(THREADS >> WARP_BITS):
        a += _kept(place_in_block(field + 8 * warp))
    return a


@inline
def _smallest_left(field):
    first = np.int64(NO_BAD_ROW)
    for warp in range(THREADS >> WARP_BITS):
        first = min(first, bits(_kept(place_in_block(field + 8 * warp))))
    return first


@inline
def _sum_in_block(a):
    """The sum over the block; for thread 0."""
    _leave_sum(a, 0)
    cuda.syncthreads()
    return _sum_left(0) if cuda.threadIdx.x == 0 else 0.0


@inline
def _all_in_block(a, b, first):
    """Sums of two numbers over the block, and the smallest of a whole one; for thread 0."""
    _leave_sum(a, 0)
    _leave_sum(b, FIELD_BYTES)
    _leave_smallest(first, 2 * FIELD_BYTES)
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        return _sum_left(0), _sum_left(FIELD_BYTES), _smallest_left(2 * FIELD_BYTES)
    return 0.0, 0.0, np.int64(NO_BAD_ROW)


@inline
def _share_of(call: Sums):
    """The rows of this block: the first, and the one after the last."""
    first = np.int64(cuda.blockIdx.x) * call.share
    return first, min(first + call.share, call.n_rows)


@inline
def _partial(call: Sums, field):
    return call.partials + 8 * (PARTIAL_FIELDS * np.int64(cuda.blockIdx.x) + field)


@inline
def _partial_of_thread(call: Sums):
    """Where the partials are that a thread of the only block is for; 0 where there are none."""
    i = np.int64(cuda.threadIdx.x)
    return call.partials + 8 * PARTIAL_FIELDS * i if i < call.n_partials else 0


class _Numbers:
    """Access to numbers of the arithmetic type, as float64."""

    def __init__(self, dtype: str) -> None:
        numbers = numbers_of(dtype)
        load, store = numbers_at(numbers.arithmetic)
        bytes_ = numbers.arithmetic.bitwidth // 8
        narrow = np.float64 if dtype == "float64" else np.float32

        @inline
        def number_at(address, index, otherwise):
            if address != 0:
                return np.float64(load(address + bytes_ * index))
            return otherwise

        @inline
        def put(address, index, value):
            store(address + bytes_ * index, narrow(value))

        self.at, self.put, self.narrow = number_at, put, narrow


@cache
def _weighing(dtype: str) -> tuple[Any, Any]:
    """How a block weighs its rows, and how the last one leaves what the others need."""
    number_at, put = _Numbers(dtype).at, _Numbers(dtype).put

    @inline
    def weigh(call: Sums):
        weight_sum, row_sum, bad_row = 0.0, 0.0, np.int64(NO_BAD_ROW)
        first, last = _share_of(call)
        i = first + np.int64(cuda.threadIdx.x)
        while i < last:
            y, s = np.int64(0), number_at(call.sample_weight, i, 1.0)
            w, counts = 1.0, True
            if call.targets != 0:
                y = target_at(call.targets, call.target_bytes, call.ignore_index, i)
                counts = y != call.ignore_index
                if counts and (y < 0 or y >= call.n_classes):
                    bad_row = min(bad_row, i)
                elif counts:
                    w = number_at(call.weight, y, 1.0)
            if counts:
                weight_sum, row_sum = weight_sum + s * w, row_sum + s
            i += THREADS
        return _all_in_block(weight_sum, row_sum, bad_row)

    @inline
    def leave(call: Sums, weight_sum, row_sum, bad_row):
        """For thread 0: what the losses and gradients of a mean are divided by, as in `reduction.scales`."""
        if call.bad_row != 0:
            _store_long(call.bad_row, bad_row)
        if call.scales != 0:
            ce, zl = weight_sum, row_sum if call.both != 0 else weight_sum
            if ce == 0.0 or zl == 0.0:
                put(call.scales, 0, 0.0)
                put(call.scales, 1, 0.0)
                put(call.scales, 2, 1.0)
                ce = 0.0
            else:
                put(call.scales, 0, call.upstream / ce)
                put(call.scales, 1, call.upstream / zl)
                put(call.scales, 2, ce / zl)
            _store_double(call.divisor_at, ce)

    return weigh, leave


def _weigh(dtype: str) -> Callable[[Sums], None]:
    weigh, leave = _weighing(dtype)

    def kernel(call: Sums) -> None:
        weight_sum, row_sum, bad_row = weigh(call)
        if cuda.threadIdx.x == 0:
            if cuda.gridDim.x == 1:
                leave(call, weight_sum, row_sum, bad_row)
            else:
                _store_double(_partial(call, WEIGHT_SUM), weight_sum)
                _store_double(_partial(call, ROW_SUM), row_sum)
                _store_long(_partial(call, BAD_ROW), bad_row)

    return kernel


def _weigh_finish(dtype: str) -> Callable[[Sums], None]:
    _, leave = _weighing(dtype)

    def kernel(call: Sums) -> None:
        weight_sum, row_sum, bad_row, at = 0.0, 0.0, np.int64(NO_BAD_ROW), _partial_of_thread(call)
        if at != 0:
            weight_sum, row_sum = _load_double(at + 8 * WEIGHT_SUM), _load_double(at + 8 * ROW_SUM)
            bad_row = _load_long(at + 8 * BAD_ROW)
        weight_sum, row_sum, bad_row = _all_in_block(weight_sum, row_sum, bad_row)
        if cuda.threadIdx.x == 0:
            leave(call, weight_sum, row_sum, bad_row)

    return kernel


def _leaving_loss(dtype: str) -> Any:
    put = _Numbers(dtype).put

    @inline
    def leave(call: Sums, total):
        """For thread 0: the loss."""
        divisor = _load_double(call.divisor_at) if call.divisor_at != 0 else call.divisor
        put(call.out, 0, total / divisor if divisor != 0.0 else call.empty)

    return leave


def _add(dtype: str) -> Callable[[Sums], None]:
    number_at, leave = _Numbers(dtype).at, _leaving_loss(dtype)

    def kernel(call: Sums) -> None:
        total = 0.0
        first, last = _share_of(call)
        i = first + np.int64(cuda.threadIdx.x)
        while i < last:
            total += number_at(call.losses, i, 0.0)
            i += THREADS
        total = _sum_in_block(total)
        if cuda.threadIdx.x == 0:
            if cuda.gridDim.x == 1:
                leave(call, total)
            else:
                _store_double(_partial(call, LOSS_SUM), total)

    return kernel


def _add_finish(dtype: str) -> Callable[[Sums], None]:
    leave = _leaving_loss(dtype)

    def kernel(call: Sums) -> None:
        at = _partial_of_thread(call)
        total = _sum_in_block(_load_double(at + 8 * LOSS_SUM) if at != 0 else 0.0)
        if cuda.threadIdx.x == 0:
            leave(call, total)

    return kernel


def _nll(dtype: str) -> Callable[[Sums], None]:
    number_at, put = _Numbers(dtype).at, _Numbers(dtype).put
    load_one = numbers_of(dtype).load_one

    def kernel(call: Sums) -> None:
        """A thread for each row: the loss of `reference.nll_loss`, times ``upstream``."""
        i = np.int64(cuda.blockIdx.x) * THREADS + np.int64(cuda.threadIdx.x)
        if i >= call.n_rows:
            return
        y, loss = target_at(call.targets, call.target_bytes, call.ignore_index, i), 0.0
        if y != call.ignore_index:
            if y >= 0 and y < call.n_classes:
                at = start_of(call.log_probs, call.step, call.offsets, i) + y * call.stride
                w, p = number_at(call.weight, y, 1.0), np.float64(load_one(at))
                if not (w == 0.0 and abs(p) == np.inf):
                    loss = 0.0 - w * p * (number_at(call.sample_weight, i, 1.0) * call.upstream)
            else:
                loss = np.nan
        put(call.losses, i, loss)

    return kernel


_MAKE: dict[str, Callable[[str], Callable[[Sums], None]]] = {
    "weigh": _weigh,
    "weigh_finish": _weigh_finish,
    "add": _add,
    "add_finish": _add_finish,
    "nll": _nll,
}
