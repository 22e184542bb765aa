"""Denominators and losses of many rows, on arrays of a GPU: see ``sums.py``."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from . import sums
from .run import address, bytes_of_targets, empty, launch, name_of, rows_of


class Weighed(NamedTuple):
    """What `weigh` leaves on the device, in one array."""

    words: Any  # int64; the first of them is the first row whose target is no class, or sums.NO_BAD_ROW
    divisor_at: int  # float64: what the sum of the row losses is divided by
    scales_at: int  # ce_scale, zl_scale and zl_ratio, of the arithmetic type


def room_for_weighed() -> Weighed:
    """Allocate what `weigh` fills."""
    words = empty(5, np.int64)
    start = address(words)
    return Weighed(words, start + 8, start + 16)


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
    found = room_for_weighed()
    _in_one_block_or_more(
        "weigh",
        dtype,
        n_rows,
        n_classes=n_classes,
        targets=address(targets),
        target_bytes=bytes_of_targets(targets),
        ignore_index=ignore_index,
        weight=address(weight),
        sample_weight=address(sample_weight),
        scales=found.scales_at,
        divisor_at=found.divisor_at,
        bad_row=address(found.words),
        both=int(both),
        upstream=upstream,
    )
    return found


def add(losses: Any, divisor: float | Weighed, when_empty: float, out: Any) -> None:
    """Fill ``out``, of one element, with the sum of the losses by a divisor: a number, or one on the device."""
    at, number = (divisor.divisor_at, 0.0) if isinstance(divisor, Weighed) else (0, divisor)
    _in_one_block_or_more(
        "add",
        losses.dtype,
        losses.size,
        losses=address(losses),
        divisor_at=at,
        divisor=number,
        empty=when_empty,
        out=address(out),
    )


def nll_loss(
    log_probs: Any, targets: Any, ignore_index: int, weight: Any, sample_weight: Any, scale: float, losses: Any
) -> None:
    """Fill ``losses`` (N,) as ``reference.nll_loss`` does, times ``scale``."""
    keep: list[Any] = []
    first, step, stride, offsets = rows_of(log_probs, keep)
    call = sums.Sums(
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


def _in_one_block_or_more(name: str, dtype: Any, n_rows: int, **fields: Any) -> None:
    blocks = blocks_for(n_rows)
    partials = None if blocks == 1 else empty(blocks * sums.PARTIAL_FIELDS, np.float64)
    share = -(-n_rows // blocks)
    call = sums.Sums(n_rows, share=share, partials=address(partials), n_partials=blocks, **fields)
    _launch(name, blocks, call, dtype)
    if blocks > 1:
        _launch(name + "_finish", 1, call, dtype)


def blocks_for(n_rows: int) -> int:
    """How many blocks share the rows."""
    return min(max(-(-n_rows // sums.ROWS_A_BLOCK), 1), sums.MOST_BLOCKS)


def _launch(name: str, blocks: int, call: sums.Sums, dtype: Any) -> None:
    launch(sums.kernel(name, name_of(dtype)), (blocks, 1), sums.THREADS, sums.SHARED_BYTES, call)
