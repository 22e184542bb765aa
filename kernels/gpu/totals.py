"""Denominators and losses of many rows, on arrays of a GPU: see ``sums.py``."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from . import sums
from .run import address, bytes_of_targets, empty, launch, rows_of

_WORD = 8


class Weighed(NamedTuple):
    """What `weigh` leaves on the device."""

    scales: Any  # ce_scale, zl_scale and zl_ratio, of the arithmetic type
    divisor: Any  # float64: what the sum of the row losses is divided by
    bad_row: Any  # int64: the first row whose target is no class, or sums.NO_BAD_ROW


def weigh(
    targets: Any,
    n_rows: int,
    n_classes: int,
    ignore_index: int,
    weight: Any,
    sample_weight: Any,
    both: bool,
    upstream: float,
    dtype: Any,
) -> Weighed:
    """Find what a mean is divided by, and bad targets; ``both``: the z-loss has a denominator of its own."""
    found = Weighed(empty(3, dtype), empty(1, np.float64), empty(1, np.int64))
    call = _nothing._replace(
        n_rows=n_rows,
        n_classes=n_classes,
        targets=address(targets),
        target_bytes=bytes_of_targets(targets),
        ignore_index=ignore_index,
        weight=address(weight),
        sample_weight=address(sample_weight),
        scales=address(found.scales),
        divisor_at=address(found.divisor),
        bad_row=address(found.bad_row),
        both=int(both),
        upstream=upstream,
    )
    _in_one_block_or_more("weigh", call, dtype)
    return found


def add(losses: Any, divisor: float | Any, when_empty: float, out: Any) -> None:
    """Fill ``out``, of one element, with the sum of the losses by a divisor: a number, or one on the device."""
    on_device = not isinstance(divisor, float)
    call = _nothing._replace(
        n_rows=losses.size,
        losses=address(losses),
        divisor_at=address(divisor) if on_device else 0,
        divisor=0.0 if on_device else divisor,
        empty=when_empty,
        out=address(out),
    )
    _in_one_block_or_more("add", call, losses.dtype)


def nll_loss(
    log_probs: Any, targets: Any, ignore_index: int, weight: Any, sample_weight: Any, scale: float, losses: Any
) -> None:
    """Fill ``losses`` (N,) as ``reference.nll_loss`` does, times ``scale``."""
    keep: list[Any] = []
    first, step, stride, offsets = rows_of(log_probs, keep)
    call = _nothing._replace(
        n_rows=losses.size,
        n_classes=log_probs.shape[-1],
        targets=address(targets),
        target_bytes=bytes_of_targets(targets),
        ignore_index=ignore_index,
        weight=address(weight),
        sample_weight=address(sample_weight),
        losses=address(losses),
        log_probs=first,
        step=step,
        stride=stride,
        offsets=offsets,
        upstream=scale,
    )
    _launch("nll", -(-losses.size // sums.THREADS), call, log_probs.dtype)


_nothing = sums.Sums(*[0] * sums.N_INTEGERS, *[0.0] * (len(sums.Sums._fields) - sums.N_INTEGERS))


def _in_one_block_or_more(name: str, call: sums.Sums, dtype: Any) -> None:
    blocks = blocks_for(call.n_rows)
    call = call._replace(share=-(-call.n_rows // blocks), n_partials=blocks)
    if blocks == 1:
        _launch(name, 1, call, dtype)
        return
    partials = empty(blocks * sums.PARTIAL_FIELDS, np.float64)
    call = call._replace(partials=address(partials))
    _launch(name, blocks, call, dtype)
    _launch(name + "_finish", 1, call, dtype)


def blocks_for(n_rows: int) -> int:
    """How many blocks share the rows."""
    return min(max(-(-n_rows // sums.ROWS_A_BLOCK), 1), sums.MOST_BLOCKS)


def _launch(name: str, blocks: int, call: sums.Sums, dtype: Any) -> None:
    kernel = sums.kernel(name, np.dtype(dtype).name)
    launch(kernel, (blocks, 1), sums.THREADS, sums.SHARED_BYTES, call)
