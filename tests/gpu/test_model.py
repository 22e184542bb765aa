"""The counts that the model of GPUs' speed is built on are those of the kernels as they are."""

import numpy as np
import pytest
from conftest import float_type

pytest.importorskip("numba_cuda", reason="numba-cuda, which compiles for GPUs, is not installed")

from fastce.bench import gpu_model
from fastce.kernels.task import Task

from . import standin
from .cases import choice_of_table

# Two sizes of a row each, which give instructions for each element and for each thread; and how many rows.
SIZES = {"warp": (144, 256), "block": (16_384, 32_000), "online": (65_536, 131_072)}
ROWS = {"warp": 64, "block": 1, "online": 1}
# What the model may be off at these sizes, relatively: rows that share a warp are no straight line of their length.
NEAR = {"warp": 0.3, "block": 0.02, "online": 0.02}
OF_A_ROW = 6  # sectors that a row takes beside its logits and its gradient, at most
TYPES = {"float32": ("float32",), "16 bits": ("float16", "bfloat16")}


@pytest.fixture(scope="module")
def gpu():
    with standin.installed(capabilities=((9, 0),), multiprocessors=1) as gpu:
        yield gpu


def counted(gpu, tasks, monkeypatch, kernel, dtype, n_classes):
    """Instructions and threads of a row, and sectors read and written by those that must be."""
    n_rows, dtype = ROWS[kernel], float_type(dtype)
    rng = np.random.default_rng(1)
    x = gpu.put((rng.normal(size=(n_rows, n_classes)) * 3).astype(dtype), readonly=True)
    y = gpu.put(rng.integers(0, n_classes, n_rows), readonly=True)
    task = Task.of_logits(x, grad=gpu.empty(x.shape, dtype))
    choice = choice_of_table(kernel, tasks.current_device(), dtype.name, n_rows, n_classes)
    monkeypatch.setattr(tasks, "choose", lambda *of: choice)
    gpu.launches.clear()
    tasks.cross_entropy(task._replace(targets=y, ignore_index=-100, loss=gpu.empty(n_rows, np.float32)))
    (launch,), (launched,) = choice.launches, gpu.launches
    ideal = x.size * x.itemsize / 32
    found = [launched.counters.traffic["global", way].sectors for way in ("load", "store")]
    sectors = [(n - OF_A_ROW / 2 * n_rows) / ideal for n in found]
    return launched.counters.instructions / n_rows, gpu_model._threads_of_row(launch, choice.lane_bits), sectors


@pytest.mark.parametrize("bits", TYPES)
@pytest.mark.parametrize("kernel", SIZES)
def test_counts_of_the_model(gpu, tasks, monkeypatch, kernel, bits):
    """Of the two types of 16 bits, the model has the mean."""
    expected = gpu_model.COUNTS[kernel, bits]
    of_rows, threads = [], []
    for n_classes in SIZES[kernel]:
        found = [counted(gpu, tasks, monkeypatch, kernel, dtype, n_classes) for dtype in TYPES[bits]]
        of_rows.append(np.mean([instructions for instructions, _, _ in found]))
        threads.append(found[0][1])
        for _, _, (read, written) in found:
            assert round(read) == expected.reads
            assert round(written) == gpu_model.WRITES
            if kernel != "warp":  # whose short rows begin and end inside sectors: see test_counts.py
                assert read + written <= gpu_model.SECTORS * (expected.reads + gpu_model.WRITES)
    predicted = expected.element * np.array(SIZES[kernel]) + expected.thread * np.array(threads)
    np.testing.assert_allclose(predicted, of_rows, rtol=NEAR[kernel], err_msg=f"instructions of rows, {kernel}, {bits}")
