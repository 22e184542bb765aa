"""What the kernels for GPUs offer: of CuPy arrays they fill CuPy arrays, without waiting for the GPU."""

from __future__ import annotations

from typing import Any

from ..task import Task
from .call import LOG_SOFTMAX, SOFTMAX
from .scale import scale
from .sums import NO_BAD_ROW
from .tasks import cross_entropy
from .totals import add, nll_loss, weigh

__all__ = ["NO_BAD_ROW", "add", "cross_entropy", "log_softmax", "logsumexp", "nll_loss", "scale", "softmax", "weigh"]


def logsumexp(logits: Any, out: Any) -> None:
    """Fill ``out`` (N,) with the logarithm of the sum of exp of each row."""
    cross_entropy(Task.of_logits(logits, lse=out))


def softmax(logits: Any, out: Any) -> None:
    """Fill ``out`` (*rows, C) with ``exp(x - logsumexp(x))``."""
    cross_entropy(Task.of_logits(logits, grad=out), SOFTMAX)


def log_softmax(logits: Any, out: Any) -> None:
    """Fill ``out`` (*rows, C) with ``x - logsumexp(x)``."""
    cross_entropy(Task.of_logits(logits, grad=out), LOG_SOFTMAX)
