"""What plain kernels do for each element, counted by the interpreter: gates, not a measure of speed."""

import numpy as np
import pytest
from conftest import FLOAT_TYPES, float_type

pytest.importorskip("numba_cuda", reason="numba-cuda, which compiles for GPUs, is not installed")

from fastce.kernels.task import Task

from . import standin
from .cases import choice_of_table

# Rows and classes such as the launch table gives to each kernel, by bytes of an element; how often it reads them.
SHAPES = {
    "warp": ({2: (64, 1024), 4: (64, 512), 8: (64, 256)}, 2),
    "block": ({2: (3, 32000), 4: (3, 32000), 8: (3, 16000)}, 1),
    "block, short rows": ({2: (49, 4096), 4: (49, 4096), 8: (49, 2048)}, 1),
    "block, odd rows": ({2: (3, 50257), 4: (3, 50257), 8: (3, 25001)}, 1),
    "online": ({2: (3, 61440), 4: (3, 61440), 8: (3, 30720)}, 2),
    "split": ({2: (1, 524288), 4: (1, 262144), 8: (1, 131072)}, 2),
}
DEVICE = standin.CAPABILITIES.index((9, 0))

# Thread-instructions of PTX for each element at most, moves between registers among them: a little more than now.
INSTRUCTIONS = {  # of FLOAT_TYPES
    "warp": (25, 24, 30, 104),
    "block": (17, 16, 16, 36),
    "block, short rows": (16, 16, 16, 39),
    "block, odd rows": (16, 16, 16, 34),
    "online": (21, 20, 18, 71),
    "split": (31, 30, 30, 73),
}


@pytest.fixture(scope="module")
def gpu():
    with standin.installed() as gpu:
        yield gpu


def count(gpu, monkeypatch, kernel, dtype):
    """The counters of loss and gradient by a kernel; rows, classes and bytes of an element."""
    from fastce.kernels.gpu import tasks

    dtype = float_type(dtype)
    n_rows, n_classes = SHAPES[kernel][0][dtype.itemsize]
    rng = np.random.default_rng(1)
    arithmetic = np.float64 if dtype == np.float64 else np.float32
    arrays = {
        "logits": gpu.put((rng.normal(size=(n_rows, n_classes)) * 3).astype(dtype), readonly=True),
        "targets": gpu.put(rng.integers(0, n_classes, n_rows), readonly=True),
        "grad": gpu.empty((n_rows, n_classes), dtype),
        "loss": gpu.empty(n_rows, arithmetic),
    }
    task = Task.of_logits(arrays["logits"])._replace(**arrays)
    name, _, _ = kernel.partition(",")
    monkeypatch.setattr(
        tasks, "choose", lambda device, *_: choice_of_table(name, device, dtype.name, n_rows, n_classes)
    )
    gpu.launches.clear()
    with standin.Device(gpu, DEVICE):
        tasks.cross_entropy(task)
    return [launched.counters for launched in gpu.launches], n_rows, n_classes, dtype.itemsize


def measured(gpu, monkeypatch, kernel, dtype):
    counters, n_rows, n_classes, item = count(gpu, monkeypatch, kernel, dtype)
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


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("kernel", SHAPES)
def test_counts(gpu, monkeypatch, kernel, dtype):
    found, reads = measured(gpu, monkeypatch, kernel, dtype), SHAPES[kernel][1]
    assert found["conflicts"] == 0
    # All that is read, by all that must be: the logits once or twice, the gradient once.
    assert found["read"] + found["written"] <= 1.05 * (reads + 1)
    assert found["instructions"] <= INSTRUCTIONS[kernel][FLOAT_TYPES.index(dtype)]
