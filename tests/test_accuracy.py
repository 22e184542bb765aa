"""The accuracy that the specification promises, number by number, in every regime of the CPU kernels."""

import os
import subprocess
import sys
import tracemalloc

import numba
import numpy as np
import pytest
from conftest import FLOAT_TYPES, arithmetic_type, assert_same, float_type

import fastce
from fastce.kernels.cpu import LIMITS, launch
from fastce.kernels.cpu.narrow import MAX_CLASSES as NARROW
from fastce.kernels.cpu.stats import CHUNK
from fastce.kernels.cpu.wide import PART
from fastce.problem import AUX

# Rows and classes: rows across the lanes; one row after the other, one chunk and several; chunks of few rows shared.
REGIMES = {
    "two classes": (1000, 2),
    "narrow": (517, 10),
    "widest narrow": (333, NARROW),
    "narrowest row": (200, NARROW + 1),
    "rows": (64, 1000),
    "rows of some chunks": (9, 2 * CHUNK + 77),
    "wide": (2, 3 * CHUNK + 5),
    "one wide row": (1, 10 * CHUNK + 1),
}
EVERY_REGIME = pytest.mark.parametrize("shape", REGIMES.values(), ids=REGIMES)


def random_rows(rng, shape):
    return rng.normal(size=shape) * 3, rng.integers(0, shape[1], shape[0])


def confident_rows(rng, shape):
    """Rows sure of their target, more and more, to losses of 1e-30."""
    logits, targets = random_rows(rng, shape)
    distance = np.linspace(0, 69, shape[0]) if shape[0] > 1 else np.array([40.0])
    top = logits.max(axis=1) + np.log(shape[1])
    logits[np.arange(shape[0]), targets] = top + distance
    return logits, targets


def confident_and_wrong_rows(rng, shape):
    logits, _ = confident_rows(rng, shape)
    return logits, rng.integers(0, shape[1], shape[0])


def far_from_0(rng, shape):
    logits, targets = confident_rows(rng, shape)
    return logits + 1e4, targets


def far_below_0(rng, shape):
    logits, targets = confident_rows(rng, shape)
    return logits - 1e4, targets


def farther_from_0(rng, shape):
    """Beyond where powers are shifted without subtracting."""
    logits, targets = random_rows(rng, shape)
    return logits + 1e6, targets


def huge(rng, shape):
    logits, targets = random_rows(rng, shape)
    return logits * 1e6, targets


KINDS = (
    random_rows,
    confident_rows,
    confident_and_wrong_rows,
    far_from_0,
    far_below_0,
    farther_from_0,
    huge,
)
EVERY_KIND = pytest.mark.parametrize("make", KINDS, ids=lambda f: f.__name__)


def in_float64(logits, targets):
    """Row losses, and gradients of their sum, of the same numbers: with the target left out, nothing cancels."""
    x = logits.astype(np.float64)
    rows = np.arange(len(targets))
    maximum = x.max(axis=1, keepdims=True)
    powers = np.exp(x - maximum)
    at_target = powers[rows, targets]
    total = powers.sum(axis=1)
    powers[rows, targets] = 0
    others = powers.sum(axis=1)
    with np.errstate(divide="ignore", over="ignore"):
        sure = np.log1p(others / at_target)
    loss = np.where(at_target > 0.5, sure, np.log(total) + (maximum[:, 0] - x[rows, targets]))
    grad = powers / total[:, np.newaxis]
    grad[rows, targets] = -others / total
    return loss, grad


def underflow(grad, targets):
    """What kernels may lose of each element: powers below the smallest normal number, which may be 0.

    The target's gradient is a sum over all others.
    """
    tiny = np.finfo(np.float32).tiny
    lost = np.where(np.abs(grad) < tiny, np.abs(grad), 0)
    lost[np.arange(len(targets)), targets] = grad.shape[1] * tiny
    return lost


def test_the_oracle_agrees_with_the_reference(rng):
    for make in KINDS:
        logits, targets = make(rng, (50, 20))
        loss, grad = in_float64(logits, targets)
        result = fastce.cross_entropy_with_grad(logits, targets, reduction="none", backend="reference")
        np.testing.assert_allclose(loss, result.loss, rtol=1e-12)
        np.testing.assert_allclose(grad, result.grad, rtol=1e-11, atol=1e-300)


@EVERY_KIND
@EVERY_REGIME
def test_row_losses_are_right_to_1e_6_however_small(rng, make, shape):
    logits, targets = make(rng, shape)
    logits = logits.astype(np.float32)
    expected = in_float64(logits, targets)[0]
    for with_grad in (False, True):
        if with_grad:
            loss = fastce.cross_entropy_with_grad(logits, targets, reduction="none").loss
        else:
            loss = fastce.cross_entropy(logits, targets, reduction="none")
        # (what is added up may be 0 below the smallest normal number)
        underflow = logits.shape[1] * np.finfo(np.float32).tiny
        np.testing.assert_allclose(loss, expected, rtol=1e-6, atol=underflow)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("make", [random_rows, confident_rows, confident_and_wrong_rows], ids=lambda f: f.__name__)
@EVERY_REGIME
def test_16_bit_gradients_are_rounded_once(rng, make, shape, name):
    """They differ from the rounded float64 gradient only where that is, to float32's precision, halfway."""
    dtype = float_type(name)
    logits, targets = make(rng, shape)
    logits = logits.astype(dtype)
    exact = in_float64(logits, targets)[1]
    grad = fastce.cross_entropy_with_grad(logits, targets, reduction="sum").grad
    assert grad.dtype == dtype
    tolerance = 3e-7 * np.abs(exact) + underflow(exact, targets)
    assert (grad >= rounded(exact - tolerance, dtype)).all()
    assert (grad <= rounded(exact + tolerance, dtype)).all()
    # At most one in ten thousand is so near to halfway; of numbers rounded to 16 bits twice, one in four would differ.
    certain = underflow(exact, targets) < 1e-7 * np.abs(exact)
    assert (grad != rounded(exact, dtype))[certain].sum() <= 1 + 1e-4 * grad.size
    single = fastce.cross_entropy_with_grad(logits.astype(np.float32), targets, reduction="sum").grad
    assert_same(grad, single.astype(dtype))


def rounded(exact, dtype):
    with np.errstate(under="ignore"):
        return exact.astype(np.float32).astype(dtype)


@pytest.mark.parametrize("name", FLOAT_TYPES)
@pytest.mark.parametrize("n_classes", [2, NARROW, NARROW + 1, 1000, 3 * CHUNK])
def test_20_against_0(name, n_classes):
    """In float32, the naive formula gives 0."""
    logits = np.full((1, n_classes), -np.inf, float_type(name))
    logits[0, [0, -1]] = 20, 0
    result = fastce.cross_entropy_with_grad(logits, [0])
    np.testing.assert_allclose(result.loss, 2.0611536e-09, rtol=1e-6)
    if name != "float16":  # whose smallest number is larger than that
        rtol = 2.0**-8 if name == "bfloat16" else 1e-6
        np.testing.assert_allclose(result.grad[0, [0, -1]].astype(float), [-2.0611536e-09, 2.0611536e-09], rtol=rtol)
    assert not result.grad[0, 1:-1].any()


# --- the same bits ---------------------------------------------------------------------------------------------------

OPTIONS = {
    "plain": {},
    "with lse": {"aux": ("lse",)},
    "every option": {
        "label_smoothing": 0.1,
        "z_loss": 1e-3,
        "softcap": 20.0,
        "logit_scale": 0.5,
        "ignore_index": 1,
        "aux": AUX,
    },
}
EVERY_OPTION = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
EVERY_TYPE = pytest.mark.parametrize("name", FLOAT_TYPES)


def assert_same_result(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        if b is not None:
            assert_same(a, b)


def case(rng, name, shape):
    logits, targets = random_rows(rng, shape)
    return logits.astype(float_type(name)), targets


@EVERY_REGIME
@EVERY_OPTION
@EVERY_TYPE
def test_the_same_bits_in_place_and_in_any_layout(rng, name, options, shape):
    logits, targets = case(rng, name, shape)
    expected = fastce.cross_entropy_with_grad(logits, targets, **options)
    assert_same_result(fastce.cross_entropy_with_grad(logits, targets, **options), expected)

    place = logits.copy()
    in_place = fastce.cross_entropy_with_grad(place, targets, grad_out=place, **options)
    assert in_place.grad is place
    assert_same_result(in_place, expected)

    n_rows, n_classes = shape
    padded = np.full((2 * n_rows, n_classes + 3), np.nan, logits.dtype)
    strided = padded[::2, 1:-2]
    strided[...] = logits
    around = padded.copy()
    around[::2, 1:-2] = expected.grad
    assert_same_result(fastce.cross_entropy_with_grad(strided, targets, **options), expected)
    assert_same_result(fastce.cross_entropy_with_grad(strided, targets, grad_out=strided, **options), expected)
    assert_same(padded.view(np.uint8), around.view(np.uint8))

    backwards = np.ascontiguousarray(logits[::-1])[::-1]
    assert_same_result(fastce.cross_entropy_with_grad(backwards, targets, **options), expected)
    columns = np.asfortranarray(logits)
    assert_same_result(fastce.cross_entropy_with_grad(columns, targets, **options), expected)
    frozen = logits.copy()
    frozen.flags.writeable = False
    assert_same_result(fastce.cross_entropy_with_grad(frozen, targets, **options), expected)


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="one thread only")
@EVERY_OPTION
@EVERY_TYPE
@EVERY_REGIME
def test_the_same_bits_for_one_thread_and_all(rng, name, options, shape):
    logits, targets = case(rng, name, (max(shape[0], LIMITS.serial // shape[1] + 1), shape[1]))
    assert logits.size >= LIMITS.serial
    n_threads = numba.get_num_threads()
    expected = fastce.cross_entropy_with_grad(logits, targets, **options)
    try:
        numba.set_num_threads(1)
        alone = fastce.cross_entropy_with_grad(logits, targets, **options)
    finally:
        numba.set_num_threads(n_threads)
    assert_same_result(alone, expected)


_DIGEST = """
import hashlib, numba, numpy as np
import fastce
rng = np.random.default_rng(5)
digest = hashlib.sha256()
for shape in ((5000, 7), (200, 1000), (1, 100_000), (2, 30_000), (5, 30_000), (7, 30_000), (12, 20_000)):
    logits, targets = (rng.normal(size=shape) * 4).astype(np.float32), rng.integers(0, shape[1], shape[0])
    for options in ({}, {"softcap": 9.0, "label_smoothing": 0.1, "z_loss": 0.01, "aux": ("lse", "entropy", "rank")}):
        for reduction in ("mean", "none"):
            result = fastce.cross_entropy_with_grad(logits, targets, reduction=reduction, **options)
            for array in result:
                digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
print(numba.get_num_threads(), digest.hexdigest())
"""


def run_python(program, **environment):
    path = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_same_bits_for_more_threads_than_cores_and_from_run_to_run():
    """Each number in a process of its own."""
    runs = [run_python(_DIGEST, NUMBA_NUM_THREADS=n) for n in ("1", "2", "2", "5")]
    assert [n for n, _ in runs] == ["1", "2", "2", "5"]
    assert len({digest for _, digest in runs}) == 1


# --- memory ----------------------------------------------------------------------------------------------------------


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
    # Logits, their gradient, and the next logits before these are let go.
    blocks = 3 * launch._COPIED_ELEMENTS * logits.itemsize
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
