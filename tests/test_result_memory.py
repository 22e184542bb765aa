"""Memory of large results is used again, and never while somebody looks at it."""

import gc
import mmap
import os
import subprocess
import sys

import numpy as np
import pytest

import fastce
from fastce import memory

pytestmark = pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="the system has no huge pages to ask for")

SHAPE = (memory.LARGE // 4000, 1000)  # float32: just large enough, and a little more
LARGE_ENOUGH = (SHAPE[0] + 10, SHAPE[1])


def address(array):
    return array.__array_interface__["data"][0]


@pytest.fixture
def nothing_kept():
    gc.collect()
    memory._spare.clear()


@pytest.mark.usefixtures("nothing_kept")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_arrays_are_like_those_of_numpy(dtype):
    dtype = np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype)
    a = memory.empty((3, memory.LARGE // 8, 5), dtype)
    assert (a.shape, a.dtype, a.nbytes >= memory.LARGE) == ((3, memory.LARGE // 8, 5), dtype, True)
    assert a.flags.c_contiguous
    assert a.flags.writeable
    assert a.flags.aligned
    a[...] = 1
    assert (a[-1, -1] == 1).all()


@pytest.mark.usefixtures("nothing_kept")
def test_memory_is_used_again_when_nobody_has_it():
    a = memory.empty(LARGE_ENOUGH, np.dtype(np.float32))
    a.fill(1)
    before, view = address(a), a[5:7, 3]
    del a
    b = memory.empty(LARGE_ENOUGH, np.dtype(np.float32))
    b.fill(2)
    assert (view == 1).all(), "a view keeps its memory"
    assert address(b) != before
    del view
    c = memory.empty(LARGE_ENOUGH, np.dtype(np.float32))
    assert address(c) == before
    assert (b == 2).all()


@pytest.mark.usefixtures("nothing_kept")
def test_one_piece_is_kept_and_none_of_another_size_or_too_large(monkeypatch):
    float32 = np.dtype(np.float32)
    a, b = memory.empty(LARGE_ENOUGH, float32), memory.empty(LARGE_ENOUGH, float32)
    del a, b
    assert len(memory._spare) == 1
    c = memory.empty((2 * SHAPE[0], SHAPE[1]), float32)
    assert memory._spare == [], "what does not fit goes back to the system"
    del c
    assert len(memory._spare) == 1
    monkeypatch.setattr(memory._Memory.__del__, "__defaults__", (1,))
    memory._spare.clear()
    d = memory.empty(LARGE_ENOUGH, float32)
    del d
    assert memory._spare == []


@pytest.mark.usefixtures("nothing_kept")
def test_gradients_and_softmax_are_right_in_used_memory(rng):
    logits = rng.standard_normal(LARGE_ENOUGH, dtype=np.float32)
    targets = rng.integers(0, LARGE_ENOUGH[1], LARGE_ENOUGH[0])
    given = np.empty_like(logits)
    fastce.cross_entropy_with_grad(logits, targets, grad_out=given)
    addresses = set()
    for _ in range(3):
        result = fastce.cross_entropy_with_grad(logits, targets)
        np.testing.assert_array_equal(result.grad, given)
        addresses.add(address(result.grad))
        del result
        smoothed = fastce.cross_entropy_with_grad(logits, targets, label_smoothing=0.1).grad
        addresses.add(address(smoothed))
        del smoothed
        np.testing.assert_allclose(fastce.softmax(logits)[::1000].sum(axis=1), 1, rtol=1e-5)
    assert len(addresses) == 1


def test_second_derivatives_are_kept_beside_gradients(rng, monkeypatch):
    monkeypatch.setattr(memory, "_spare_pairs", [])
    logits = rng.standard_normal((memory.PAIRED // 40 + 1, 10), dtype=np.float32)
    for layout in (logits, np.asfortranarray(logits)):
        seen = set()
        for _ in range(3):
            one, other = (memory.empty_pair_of(layout, np.dtype(np.float64)) for _ in range(2))
            assert (one.shape, one.dtype, one.strides) == (
                layout.shape,
                np.float64,
                np.array(layout, float, order="K").strides,
            )
            one.fill(1)
            other.fill(2)
            assert (one == 1).all()
            seen |= {address(one), address(other)}
            del one, other
        assert len(seen) == 2
    used = [memory.empty_pair_of(logits, logits.dtype) for _ in range(memory._PIECES + 2)]
    del used
    assert len(memory._spare_pairs) == memory._PIECES
    small, strided = logits[:10], logits[:, ::2]
    assert memory.empty_pair_of(small, logits.dtype).base is None
    assert memory.empty_pair_of(strided, logits.dtype).shape == strided.shape


def test_the_environment_says_how_much_is_kept():
    code = (
        "import numpy as np; from fastce import memory as m; a = m.empty((m.LARGE,), np.dtype(np.float64)); del a; "
        "print(len(m._spare))"
    )
    for limit, kept in ((None, 1), ("0", 0), (str(1 << 20), 0), (str(1 << 30), 1)):
        environment = {k: v for k, v in os.environ.items() if k != "FASTCE_SPARE_BYTES"}
        if limit is not None:
            environment["FASTCE_SPARE_BYTES"] = limit
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert (done.stdout, done.stderr) == (f"{kept}\n", "")
