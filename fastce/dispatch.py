"""Which backend computes a call. The one file that knows which of them are there."""

from __future__ import annotations

from typing import Any, Protocol

from . import forks
from .kernels import reference
from .kernels.task import Array, Task

BACKENDS = ("cpu", "reference")


# ruff: noqa: D102
class Backend(Protocol):
    """What a backend offers; `kernels/reference.py` says what each function fills."""

    def cross_entropy(self, task: Task, /) -> None: ...
    def logsumexp(self, logits: Array, out: Array, /) -> None: ...
    def softmax(self, logits: Array, out: Array, /) -> None: ...
    def log_softmax(self, logits: Array, out: Array, /) -> None: ...
    def sum_rows(self, values: Array, /) -> float: ...
    def scan_targets(
        self, targets: Array, n_classes: int, ignore_index: int, weight: Array | None, sample_weight: Array | None, /
    ) -> tuple[int, int, float, float]: ...


_cpu: Any = None


def backend(name: str | None, array: Array) -> Backend:
    """Give the backend of that name, or the best one for `array` where `name` is None."""
    if name == "reference":
        return reference
    chosen: Backend = _cpu or cpu()
    return chosen


def cpu() -> Any:
    """Import the kernels for the CPU: late, because numba is heavy."""
    global _cpu
    with forks.importing:
        from .kernels import cpu

    _cpu = cpu
    return cpu
