"""Which backend computes a call. The one file that knows which of them are there."""

from __future__ import annotations

import importlib
import sys
from typing import Any, Protocol

from . import forks
from .kernels import reference
from .kernels.task import Array, Task

BACKENDS = ("cpu", "cuda", "reference")


# ruff: noqa: D102
class Backend(Protocol):
    """What a backend offers; `kernels/reference.py` says what each function fills and gives."""

    def cross_entropy(self, task: Task, /) -> float: ...
    def logsumexp(self, logits: Array, out: Array, /) -> None: ...
    def softmax(self, logits: Array, out: Array, /) -> None: ...
    def log_softmax(self, logits: Array, out: Array, /) -> None: ...
    def sum_rows(self, values: Array, /) -> float: ...
    def scan_targets(
        self, targets: Array, n_classes: int, ignore_index: int, weight: Array | None, sample_weight: Array | None, /
    ) -> tuple[int, int, float, float]: ...


_cpu: Any = None


def backend(name: str | None, array: Array) -> Backend:
    """Give the backend of that name, or the best one for `array` where `name` is None; for NumPy arrays."""
    if name == "reference":
        return reference
    if name == "cuda":
        raise TypeError("backend='cuda' takes arrays on a GPU, such as CuPy's, but the logits are a NumPy array")
    chosen: Backend = _cpu or cpu()
    return chosen


def cpu() -> Any:
    """Import the kernels for the CPU: late, because numba is heavy."""
    global _cpu
    with forks.importing:
        from .kernels import cpu

    _cpu = cpu
    return cpu


_CUDA = (2, 13)  # DLPack's numbers of devices: CUDA, and CUDA with managed memory


def on_gpu(value: Any) -> bool:
    """Whether a value is an array on a GPU, of CuPy or of whoever says so; nothing is imported to find out."""
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(value, cupy.ndarray):
        return True
    # (asked of the type, as PyTorch's tensors raise where they are asked for what they cannot give)
    if hasattr(type(value), "__dlpack_device__"):
        return value.__dlpack_device__()[0] in _CUDA
    return hasattr(type(value), "__cuda_array_interface__")


_gpu: Any = None


def gpu() -> Any:
    """Import what computes on a GPU: late, because it is optional."""
    global _gpu
    if _gpu is not None:
        return _gpu
    try:
        with forks.importing:
            _gpu = importlib.import_module(".device", __package__)
    except ImportError as error:
        raise ImportError(
            "arrays on a GPU need CuPy and numba-cuda, which the extra cuda12 or cuda13 brings, for CUDA 12 or 13: "
            f"pip install 'fastce[cuda13]' ({error})"
        ) from error
    return _gpu
