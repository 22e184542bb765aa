"""Rows for every regime of the CPU kernels, of every kind; their exact losses and gradients, and those of NumPy."""

import numpy as np
import pytest

from fastce import plain
from fastce.kernels.cpu.call import EVEN, GENERAL, SOFT
from fastce.kernels.cpu.regimes import MOST_LANES
from fastce.kernels.cpu.short import FEW
from fastce.kernels.cpu.simd import FLOATS
from fastce.kernels.cpu.sums import CHUNK
from fastce.kernels.cpu.table import KEPT

NARROW = MOST_LANES[GENERAL]

# Rows and classes: rows across the lanes; one row after the other, one chunk and several; chunks of few rows shared.
REGIMES = {
    "two classes": (1000, 2),
    "three classes": (1000, 3),
    "narrow": (517, 10),
    "widest narrow with probabilities": (99, MOST_LANES[SOFT]),
    "narrowest row with probabilities": (99, MOST_LANES[SOFT] + 1),
    "widest narrow": (333, MOST_LANES[EVEN]),
    "narrowest row": (200, MOST_LANES[EVEN] + 1),
    "widest narrow with options": (99, NARROW),
    "narrowest row with options": (99, NARROW + 1),
    "few vectors": (99, FLOATS * FEW + 1),
    "rows": (64, 1000),
    "rows that fill what is kept": (33, 256),
    "longest rows kept": (9, FLOATS * KEPT),
    "rows of some chunks": (9, 2 * CHUNK + 77),
    "wide": (2, 3 * CHUNK + 5),
    "one wide row": (1, 10 * CHUNK + 1),
}
EVERY_REGIME = pytest.mark.parametrize("shape", REGIMES.values(), ids=REGIMES)


def is_plain(logits, targets, aux=(), grad_output=None, **options):
    """Whether a loss takes the short way."""
    return type(aux) is tuple and plain.of_targets(logits, targets, None, False, aux, grad_output, options) is not None


def random_rows(rng, shape):
    return rng.normal(size=shape) * 3, rng.integers(0, shape[1], shape[0])


def _up_to(distance, n_rows):
    """From 0 to a distance, row by row."""
    return np.linspace(0, distance, n_rows) if n_rows > 1 else np.array([distance / 2])


def confident_rows(rng, shape):
    """Rows sure of their target, more and more, to losses of 1e-30."""
    logits, targets = random_rows(rng, shape)
    top = logits.max(axis=1) + np.log(shape[1])
    logits[np.arange(shape[0]), targets] = top + _up_to(69, shape[0])
    return logits, targets


def confident_and_wrong_rows(rng, shape):
    logits, _ = confident_rows(rng, shape)
    return logits, rng.integers(0, shape[1], shape[0])


def rows_with_a_runner_up(rng, shape):
    """Target and one other class, at most a few powers of e apart, are next to all of the sum."""
    logits, targets = random_rows(rng, shape)
    logits *= rng.choice([0.2, 1.0], (shape[0], 1))
    rows = np.arange(shape[0])
    runner_up = (targets + rng.integers(1, shape[1], shape[0])) % shape[1]
    logits[rows, runner_up] = logits.max(axis=1) + np.log(shape[1]) + _up_to(12, shape[0])
    logits[rows, targets] = logits[rows, runner_up] + rng.uniform(-3, 10, shape[0])
    return logits, targets


def far_from_0(rng, shape):
    logits, targets = confident_rows(rng, shape)
    return logits + 1e4, targets


def far_below_0(rng, shape):
    logits, targets = confident_rows(rng, shape)
    return logits - 1e4, targets


def farther_from_0(rng, shape):
    """Beyond where powers are shifted without subtracting."""
    logits, targets = random_rows(rng, shape)
    return logits + 1e6, targets


def huge(rng, shape):
    logits, targets = random_rows(rng, shape)
    return logits * 1e6, targets


KINDS = (
    random_rows,
    confident_rows,
    confident_and_wrong_rows,
    rows_with_a_runner_up,
    far_from_0,
    far_below_0,
    farther_from_0,
    huge,
)
EVERY_KIND = pytest.mark.parametrize("make", KINDS, ids=lambda f: f.__name__)


def exactly(logits, targets, wider=np.float64):
    """Row losses, and gradients of their sum, of the same numbers: with the target left out, nothing cancels."""
    x = logits.astype(wider)
    rows = np.arange(len(targets))
    maximum = x.max(axis=1, keepdims=True)
    powers = np.exp(x - maximum)
    at_target = powers[rows, targets]
    total = powers.sum(axis=1)
    powers[rows, targets] = 0
    others = powers.sum(axis=1)
    with np.errstate(divide="ignore", over="ignore"):
        sure = np.log1p(others / at_target)
    loss = np.where(at_target > 0.5, sure, np.log(total) + (maximum[:, 0] - x[rows, targets]))
    grad = powers / total[:, np.newaxis]
    grad[rows, targets] = -others / total
    return loss, grad


def by_numpy(logits, targets):
    """Gradients of the sum of the row losses as they are usually written, in the type of the logits."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    grad = powers / powers.sum(axis=1, keepdims=True)
    grad[np.arange(len(targets)), targets] -= 1
    return grad


def underflow(grad, targets, dtype=np.float32):
    """What kernels may lose of each element: powers below the smallest normal number, which may be 0.

    The target's gradient is a sum over all others.
    """
    tiny = np.finfo(dtype).tiny
    lost = np.where(np.abs(grad) < tiny, np.abs(grad), 0)
    lost[np.arange(len(targets)), targets] = grad.shape[1] * tiny
    return lost
