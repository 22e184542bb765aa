"""Synthetic logits as a classifier in training gives them, block by block, straight into the type wanted."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

BLOCK = 1 << 18  # elements made at a time: 1 MiB of float32 and as much scratch, whatever the shape
GAP = 0.25  # the winner of a row leads by at least this, more than bfloat16 rounds away at the size of these logits


def make_logits(
    n_rows: int,
    n_classes: int,
    *,
    right: float = 0.7,
    confidence: float = 0.9,
    sure: float = 0.7,
    dtype: DTypeLike = np.float32,
    seed: int = 0,
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Make logits `(n_rows, n_classes)` and targets `(n_rows,)`.

    Every row has one winner, the class with the largest logit, drawn with frequent and rare classes as words have.
    Exactly `round(right * n_rows)` rows have it as their target; the target of the others is another class.
    A share `sure` of the rows, right and wrong alike, gives its winner a probability around `confidence` (from half
    to nearly one); in the unsure rows the winner leads the best of the others by little. The other classes have a
    heavy-tailed background (Student's t with two degrees of freedom, tails cut at ten) whose width differs from row
    to row, and fall off with the class index as frequencies of words do.

    Parameters
    ----------
    n_rows, n_classes : int
        Shape; at least two classes.
    right : float
        Share of the rows predicted right, 0 to 1.
    confidence : float
        Median probability of the winner in sure rows, between 0.5 and 1.
    sure : float
        Share of the rows that are sure, 0 to 1.
    dtype : dtype
        Type of the logits.
    seed : int
        The same seed gives the same arrays.

    Raises
    ------
    ValueError
        For a size or share out of its range.
    """
    if n_rows < 0 or n_classes < 2:
        raise ValueError(f"need n_rows >= 0 and n_classes >= 2, got {n_rows} and {n_classes}")
    if not (0 <= right <= 1 and 0 <= sure <= 1 and 0.5 < confidence < 1):
        raise ValueError(f"need right and sure in [0, 1], confidence in (0.5, 1), got {right=}, {sure=}, {confidence=}")
    rng = np.random.default_rng(seed)
    is_right = rng.permutation(n_rows) < round(right * n_rows)
    winner = (n_classes * rng.random(n_rows) ** 3).astype(np.int64)
    other = (winner + rng.integers(1, n_classes, n_rows)) % n_classes
    targets = np.where(is_right, winner, other)

    # The winner's lead: over the log-sum-exp of all others for a sure row, over their maximum for an unsure one.
    is_sure = rng.random(n_rows) < sure
    log_odds = np.log(confidence / (1 - confidence)) + 1.5 * rng.standard_normal(n_rows)
    log_odds = np.maximum(log_odds, 0).astype(np.float32)
    gap = (GAP + rng.exponential(0.5, n_rows)).astype(np.float32)
    width = np.exp(rng.normal(0, 0.3, n_rows)).clip(0.5, 2).astype(np.float32)
    frequency = (-0.5 * np.log1p(np.arange(n_classes) / 10)).astype(np.float32)

    logits = np.empty((n_rows, n_classes), dtype)
    step = max(1, BLOCK // n_classes)
    for start in range(0, n_rows, step):
        rows = slice(start, min(start + step, n_rows))
        at = np.arange(rows.stop - start), winner[rows]
        block = _heavy_tailed(rng, (rows.stop - start, n_classes))
        block *= width[rows, None]
        block += frequency
        block[at] = -np.inf
        best = block.max(axis=1)
        total = np.exp(block - best[:, None]).sum(axis=1)
        block[at] = np.where(
            is_sure[rows], np.maximum(best + np.log(total) + log_odds[rows], best + GAP), best + gap[rows]
        )
        logits[rows] = block
    return logits, targets


def _heavy_tailed(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Give `u * sqrt(2 / (1.02 - u**2))` of uniform `u` in [-1, 1): the t distribution (0.02 cuts its tails at 10)."""
    u = rng.random(shape, dtype=np.float32)
    u *= 2
    u -= 1
    t = u * u
    np.subtract(np.float32(1.02), t, out=t)
    np.divide(np.float32(2), t, out=t)
    np.sqrt(t, out=t)
    t *= u
    return t
