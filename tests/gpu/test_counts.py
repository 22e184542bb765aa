"""What plain kernels do for each element, counted by the interpreter: gates, not a measure of speed."""

import numpy as np
import pytest
from conftest import FLOAT_TYPES, float_type

pytest.importorskip("numba_cuda", reason="numba-cuda, which compiles for GPUs, is not installed")

from fastce.kernels.gpu import launch
from fastce.kernels.task import Task

from . import standin

# Rows as the launch table gives them to each kernel; device; how often each is read.
SHAPES = {
    "warp": ({2: (64, 1024), 4: (64, 1024), 8: (64, 512)}, 1, 1),
    "block": ({2: (2, 16384), 4: (2, 16384), 8: (2, 8192)}, 1, 1),
    "online": ({2: (3, 24576), 4: (3, 24576), 8: (3, 12288)}, 0, 2),
    "split": ({2: (1, 65536), 4: (1, 40960), 8: (1, 20480)}, 1, 2),
}
NAMES = {"split": {"part", "finish"}}

# Thread-instructions for each element at most.
INSTRUCTIONS = {
}


@pytest.fixture(scope="module")
def gpu():
    with standin.installed() as gpu:
        yield gpu


def count(gpu, kernel, dtype):
    """The counters of loss and gradient by a kernel; rows, classes and bytes of an element."""
    from fastce.kernels.gpu import tasks

    dtype = float_type(dtype)
    (n_rows, n_classes), device, _ = SHAPES[kernel][0][dtype.itemsize], *SHAPES[kernel][1:]
    rng = np.random.default_rng(1)
    arithmetic = np.float64 if dtype == np.float64 else np.float32
    arrays = {
        "logits": gpu.put((rng.normal(size=(n_rows, n_classes)) * 3).astype(dtype), readonly=True),
        "targets": gpu.put(rng.integers(0, n_classes, n_rows), readonly=True),
        "grad": gpu.empty((n_rows, n_classes), dtype),
        "loss": gpu.empty(n_rows, arithmetic),
    }
    task = Task.of_logits(arrays["logits"])._replace(**arrays)
    gpu.launches.clear()
    with standin.Device(gpu, device):
        tasks.cross_entropy(task)
        chosen = launch.choose(
            tasks.current_device(), dtype.name, True, n_rows, n_classes, True
        )
    assert {step.name for step in chosen.launches} == NAMES.get(kernel, {kernel})
    return [launched.counters for launched in gpu.launches], n_rows, n_classes, dtype.itemsize


def measured(gpu, kernel, dtype):
    counters, n_rows, n_classes, item = count(gpu, kernel, dtype)
    ideal = n_rows * n_classes * item / 32
    total = {
        (space, way, what): sum(getattr(c.traffic[space, way], what) for c in counters)
        for space in ("global", "shared")
        for way in ("load", "store")
        for what in ("sectors", "conflicts")
    }
    return {
        "read": total["global", "load", "sectors"] / ideal,
        "written": total["global", "store", "sectors"] / ideal,
        "conflicts": total["shared", "load", "conflicts"] + total["shared", "store", "conflicts"],
        "instructions": sum(c.instructions for c in counters) / (n_rows * n_classes),
    }
