"""The interpreter on kernels that Numba compiles, for every generation of GPUs; and mutants of them."""

import ml_dtypes
import numpy as np
import pytest

from .ptx import SCHEDULES, Fault, Memory, launch, numba_array
from .ptx.mutants import Outcome, mutants, survivors

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
from . import numba_kernels as kernels

CAPABILITIES = [(7, 5), (8, 0), (9, 0), (10, 0), (12, 0)]
EVERY_CAPABILITY = pytest.mark.parametrize("capability", CAPABILITIES, ids=lambda cc: f"{cc[0]}.{cc[1]}")
# One row; fewer columns than a warp; one more than a warp; several rounds and a rest.
SHAPES = [(1, 1), (3, 7), (5, 33), (4, 1001)]


def softmax(x):
    e = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def run_blocks(ptx, x, **options):
    memory = Memory()
    source = memory.array(x, name="x", readonly=True)
    to = memory.empty(x.shape, np.float32, name="y")
    arguments = [*numba_array(source), *numba_array(to)]
    counters = launch(ptx, len(x), 32 * kernels.WARPS, arguments, memory=memory, **options)
    np.testing.assert_allclose(to.get(), softmax(x), rtol=2e-5, atol=2.0**-126)
    return counters


def run_warps(ptx, x, **options):
    memory = Memory()
    source = memory.array(x, name="x", readonly=True)
    to = memory.empty(x.shape, np.float32, name="y")
    positive = memory.empty(len(x), np.int32, name="positive")
    arguments = [*numba_array(source), *numba_array(to), *numba_array(positive)]
    counters = launch(ptx, -(-len(x) // kernels.WARPS), 32 * kernels.WARPS, arguments, memory=memory, **options)
    np.testing.assert_allclose(to.get(), softmax(x), rtol=2e-5, atol=2.0**-126)
    lanes = [(row[lane::32] > 0).any() for row in x for lane in range(32)]
    np.testing.assert_array_equal(positive.get(), np.reshape(lanes, (-1, 32)).sum(axis=1))
    return counters


def compiled(name, capability=(8, 0), fastmath=True):
    return kernels.compile_to_ptx(getattr(kernels, name), capability, fastmath)


@EVERY_CAPABILITY
@pytest.mark.parametrize("fastmath", [True, False], ids=["fast", "exact"])
@pytest.mark.parametrize(("run", "name"), [(run_blocks, "softmax_by_blocks"), (run_warps, "softmax_by_warps")])
def test_softmax(rng, run, name, capability, fastmath):
    ptx = compiled(name, capability, fastmath)
    for shape in SHAPES:
        x = (rng.normal(size=shape) * 3).astype(np.float32)
        run(ptx, x, error=1)
    for schedule in SCHEDULES:  # of the last, whose warps have most to do
        run(ptx, x, schedule=schedule, error=1)
    run(ptx, x, error="high")
    run(ptx, x, error="low")


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("capability", CAPABILITIES[1:])  # cvt.rn.bf16.f32 needs 8.0
def test_vectors_of_16_bytes(rng, name, capability):
    dtype = np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
    ptx = kernels.compile_to_ptx(kernels.scale_by_vectors(name), capability)
    n = 50
    x = (rng.normal(size=16 // dtype.itemsize * n) * 100).astype(dtype)
    memory = Memory()
    source, to = memory.array(x, readonly=True, name="x"), memory.empty(x.shape, dtype, name="y")
    counters = launch(ptx, 2, 32, [source, to, n, 1.7], memory=memory, schedule="random")
    expected = (x.astype(np.float32) * np.float32(1.7)).astype(dtype)
    np.testing.assert_array_equal(to.get(), expected)
    # A warp's 16-byte accesses, one after the other: 16 sectors, of which each is wanted once.
    for way in ("load", "store"):
        traffic = counters.traffic["global", way]
        assert (traffic.requests, traffic.bytes, traffic.sectors) == (2, 16 * n, n // 2)
    assert counters.uncovered() == []
    shifted = memory.array(x, readonly=True, shift=1)
    with pytest.raises(Fault, match="misaligned: a load of 16 bytes"):
        launch(ptx, 2, 32, [shifted, to, n, 1.7], memory=memory)
    with pytest.raises(Fault, match="bounds"):
        launch(ptx, 2, 32, [source, to, n + 1, 1.7], memory=memory)


def test_every_schedule_gives_the_same_bits(rng):
    x = (rng.normal(size=(5, 1001)) * 3).astype(np.float32)
    ptx, results = compiled("softmax_by_blocks"), []
    for schedule in SCHEDULES:
        memory = Memory()
        source, to = memory.array(x), memory.empty(x.shape, np.float32)
        launch(ptx, 5, 128, [*numba_array(source), *numba_array(to)], memory=memory, schedule=schedule, error=5)
        results.append(to.get())
    assert all((result == results[0]).all() for result in results)


@pytest.mark.parametrize(("run", "name"), [(run_blocks, "softmax_by_blocks"), (run_warps, "softmax_by_warps")])
@pytest.mark.parametrize("capability", [(8, 0), (10, 0)], ids=["8.0", "10.0"])
def test_mutants_are_caught(rng, run, name, capability):
    ptx = compiled(name, capability)
    # In some row each element is so large that whoever misses it overflows; the others tell what belongs to a sum.
    n = 195 if run is run_blocks else 67  # some rounds of all its threads, and a rest
    x = np.concatenate([np.diag(np.full(n, 200)), rng.normal(size=(9, n))]).astype(np.float32)

    def check(text):
        counters = run(text, x, fuel=20_000)
        for schedule in ("warp-serial", "warp-reverse"):
            counters += run(text, x, schedule=schedule, fuel=20_000)
        return Outcome(counters)

    kinds = {mutant.kind for mutant in mutants(ptx, check(ptx).counters)}
    assert kinds == {"barrier", "bound", "mask", "distance", "access"} - ({"barrier"} if run is run_warps else set())
    left = survivors(ptx, check)
    assert left == [], "\n".join(map(str, left))
