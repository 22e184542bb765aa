"""Kernels take next to no memory."""

import sys
import tracemalloc

import numpy as np
import pytest
from conftest import FLOAT_TYPES, arithmetic_type, float_type, run_python
from rows import CHUNK

import fastce
from fastce.kernels.cpu import launch
from fastce.kernels.cpu.wide import PART

EVERY_TYPE = pytest.mark.parametrize("name", FLOAT_TYPES)
CALL_BYTES = 5000  # a call's two blocks, views, argument tuples: about 1,000 in NumPy 2, whatever the shape


@EVERY_TYPE
@pytest.mark.parametrize("shape", [(200_000, 3), (3000, 300), (2, 1_500_000)])
@pytest.mark.parametrize("layout", ["rows", "strided rows", "read-only"])
def test_a_few_bytes_a_row_is_all_the_memory(rng, name, shape, layout):
    """A row's loss; and what threads that share a row tell each other of its chunks, a byte for 146 classes."""
    n_rows, n_classes = shape
    logits = np.zeros((2 * n_rows if layout == "strided rows" else n_rows, n_classes), float_type(name))
    logits = logits[::2] if layout == "strided rows" else logits
    logits.flags.writeable = layout != "read-only"
    grad, targets = np.zeros(shape, logits.dtype), rng.integers(0, n_classes, n_rows)
    fastce.cross_entropy_with_grad(logits, targets, grad_out=grad)  # what is compiled and imported is not counted
    fastce.cross_entropy(logits, targets)
    of_chunks = PART * 8 * n_rows * -(-n_classes // CHUNK) if n_classes > CHUNK else 0
    allowed = arithmetic_type(logits.dtype).itemsize * n_rows + of_chunks + CALL_BYTES
    assert traced_peak(lambda: fastce.cross_entropy(logits, targets)) <= allowed
    assert traced_peak(lambda: fastce.cross_entropy_with_grad(logits, targets, grad_out=grad)) <= allowed


@EVERY_TYPE
def test_classes_apart_cost_a_block_of_rows(name):
    logits = np.zeros((100, 100_000), float_type(name)).T  # 100,000 rows of 100 classes that are not adjacent
    grad, targets = np.zeros_like(logits), np.zeros(len(logits), np.int64)
    fastce.cross_entropy_with_grad(logits, targets, grad_out=grad)
    peak = traced_peak(lambda: fastce.cross_entropy_with_grad(logits, targets, grad_out=grad))
    # Logits and their gradient.
    blocks = 2 * launch._COPIED_ELEMENTS * logits.itemsize
    assert peak <= blocks + arithmetic_type(logits.dtype).itemsize * len(logits) + CALL_BYTES
    assert blocks < logits.nbytes / 10


def traced_peak(function):
    """Most bytes that NumPy and Python held at once meanwhile."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        function()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


_PEAK = """
import resource, sys
import numpy as np
import fastce
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
for shape in ((1, 50_000), (1000, 50)):
    fastce.cross_entropy_with_grad(np.ones(shape, np.float32), np.zeros(shape[0], np.int64))
logits, grad = np.ones((2, 15_000_000), np.float32), np.ones((2, 15_000_000), np.float32)
targets = np.zeros(2, np.int64)
before = peak()
fastce.cross_entropy_with_grad(logits, targets, grad_out=grad)
fastce.cross_entropy(logits, targets)
fastce.cross_entropy_with_grad(logits, targets, grad_out=logits)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no module resource")
def test_kernels_take_next_to_no_memory_for_many_classes():
    """Also counted: what the compiled code takes, for 120 MB of logits."""
    (growth,) = run_python(_PEAK)
    assert int(growth) <= 12_000_000
