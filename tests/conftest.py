"""One home for what the tests share: kernel cache, backends, types, the oracle and the tolerances."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

# Before anything imports numba. Kept from run to run: kernels notice when any of their files changes.
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(__file__).parent.parent / ".numba_cache"))

# Whoever runs the tests in the background of a script has Ctrl-C ignored, and with it all processes of the tests.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Whoever compiles a kernel has its assembly: who looks at that comes first, or it is compiled once more."""
    items.sort(key=lambda item: "test_machine_code" not in item.nodeid)


BACKENDS = ("reference", "cpu")
FLOAT_TYPES = ("float16", "bfloat16", "float32", "float64")
INTEGER_TYPES = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


@pytest.fixture
def rng():
    return np.random.default_rng(20240229)


def float_type(name):
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def arithmetic_type(dtype):
    return np.dtype(np.float64) if dtype == np.float64 else np.dtype(np.float32)


def oracle(function, logits, *args, **options):
    """Give what `function` gives for the same numbers in float64, by the reference."""
    args = [a if np.asarray(a).dtype.kind in "iub" else np.asarray(a).astype(np.float64) for a in args]
    return function(np.asarray(logits).astype(np.float64), *args, **{**options, "backend": "reference"})


# Oracles of float64 need a wider type; Windows, and macOS on ARM, have none.
WIDER = {np.float32: np.float64, np.float64: np.longdouble}
wide_longdouble = pytest.mark.skipif(np.finfo(np.longdouble).nmant < 60, reason="np.longdouble is float64 here")
types_with_oracle = pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=wide_longdouble)])


# Tolerances, by the arithmetic type. A loss, or another number of a row, may be off by this much of itself; where it is
# the difference of logits that were rounded (softcap, logit_scale), also by this much of the largest of them.
LOSS = {np.dtype(np.float32): 1e-6, np.dtype(np.float64): 1e-13}

# An element of a gradient may be off by this much of the largest in its row (`exp`: 1.3 ulp; sums; in float64 half is
# the oracle's), where the logits themselves are rounded by one unit of the largest, where `exp` starts, and by the one
# rounding to its own type: half a unit in the last place, or half the smallest subnormal number.
GRAD = {np.dtype(np.float32): 2e-7, np.dtype(np.float64): 4e-15}
# On a GPU, `ex2.approx` in float32 is wrong by 2 units in the last place, the sum of powers by as much again.
GRAD_ON_GPU = {np.dtype(np.float32): 6e-7, np.dtype(np.float64): 4e-15}
UNIT = {np.dtype(np.float32): 2.0**-23, np.dtype(np.float64): 2.0**-52}
ROUNDING = {
    np.dtype(np.float16): (2.0**-11, 2.0**-25),
    np.dtype(ml_dtypes.bfloat16): (2.0**-8, 2.0**-134),
    np.dtype(np.float32): (2.0**-24, 2.0**-150),
    np.dtype(np.float64): (2.0**-53, 0.0),
}


# Without options, an element of the gradient of a sum may be further from the exact one than that of max-shifted NumPy
# of the same type is, by this much of the largest in its row: one unit in the last place (two classes: 1.18e-7 was seen
# in 180,000 rows), or in float64, where the factor is rounded too, two. The elements of a row add up to this much at
# most.
NEARNESS = {np.dtype(np.float32): 2.0**-23, np.dtype(np.float64): 2.0**-51}
SUM = {np.dtype(np.float32): 3e-7, np.dtype(np.float64): 1e-15}
# The same where target and one other class are next to all of the sum. The target's gradient is minus the sum of all
# but itself: of the other class, and up to 15 that are added to it in its lane, each time losing up to half a unit.
NEARNESS_BESIDE_A_RUNNER_UP = {np.dtype(np.float32): 4e-7, np.dtype(np.float64): 2e-15}
GRAD_BESIDE_A_RUNNER_UP = {np.dtype(np.float32): 6e-7}
SUM_BESIDE_A_RUNNER_UP = {np.dtype(np.float32): 1e-6, np.dtype(np.float64): 3e-15}


def assert_loss(actual, expected, largest_logit=0.0):
    """Compare row losses, a mean or a sum, or another number of each row, with the oracle's."""
    tolerance = LOSS[np.asarray(actual).dtype]
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * largest_logit)


def assert_grad(actual, expected, largest_logit=0.0, terms=0.0, axis=-1, lost=0.0, tolerances=GRAD):
    """Compare a gradient with the oracle's, row by row.

    `terms` is the size of what is subtracted in a row, where that is more than its largest element: with probabilities
    or label smoothing p - q may be much smaller than p and q, and with softcap 1 - tanh**2 smaller than 1.
    `lost` is what may be missing of each element because powers below the smallest normal number may be 0.
    """
    assert actual.shape == expected.shape
    relative, absolute = ROUNDING[actual.dtype]
    row_max = np.maximum(np.abs(expected).max(axis=axis, keepdims=True, initial=0), terms)
    arithmetic = arithmetic_type(actual.dtype)
    tolerance = (tolerances[arithmetic] + UNIT[arithmetic] * largest_logit) * row_max
    tolerance = tolerance + relative * np.abs(expected) + absolute + lost
    error = np.abs(actual.astype(np.float64) - expected)
    assert (error <= tolerance).all(), f"{(error / tolerance).max():.2f} times the tolerance"


def assert_same(actual, expected):
    """Compare bit for bit, but for the sign and payload of NaN."""
    np.testing.assert_array_equal(actual, expected, strict=True)


def run_python(program, **environment):
    """Run a program in a process of its own, every warning an error; give the words it prints."""
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
