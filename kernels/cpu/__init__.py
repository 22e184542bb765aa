"""Kernels for NumPy arrays, by Numba."""

from __future__ import annotations

import numpy as np

from ..task import LOG_SOFTMAX, SOFTMAX, Array, Task
from . import plain
from . import targets as _targets
from .cache import NotOnDisk, only_from_disk
from .launch import LIMITS, run

__all__ = [
    "LIMITS",
    "NotOnDisk",
    "cross_entropy",
    "log_softmax",
    "logsumexp",
    "only_from_disk",
    "plain",
    "scan_targets",
    "softmax",
    "sum_rows",
]

_NOTHING = np.empty(0, np.float32)


def cross_entropy(task: Task) -> float:
    """Fill the outputs of a task, and give the sum of its row losses: 0 where they are not wanted."""
    return run(task)


def logsumexp(logits: Array, out: Array) -> None:
    """Fill ``out`` (N,) with the logarithm of the sum of exp of each row."""
    run(Task.of_logits(logits, lse=out))


def softmax(logits: Array, out: Array) -> None:
    """Fill ``out`` (*rows, C) with ``exp(x - logsumexp(x))``."""
    run(Task.of_logits(logits, grad=out), SOFTMAX)


def log_softmax(logits: Array, out: Array) -> None:
    """Fill ``out`` (*rows, C) with ``x - logsumexp(x)``."""
    run(Task.of_logits(logits, grad=out), LOG_SOFTMAX)


def scan_targets(
    targets: Array, n_classes: int, ignore_index: int, weight: Array | None, sample_weight: Array | None
) -> tuple[int, int, float, float]:
    """Check the targets and sum their weights, as ``reference.scan_targets`` does."""
    given = weight if sample_weight is None else sample_weight
    nothing = _NOTHING if given is None else given[:0]  # of one type with what is given: another is another kernel
    w = nothing if weight is None else weight
    s = nothing if sample_weight is None else sample_weight
    result: tuple[int, int, float, float] = _targets.scan(targets, n_classes, ignore_index, w, s)
    return result


def sum_rows(values: Array) -> float:
    """Sum a vector (N,) in float64, in a fixed order."""
    return float(_targets.sum_rows(values))
