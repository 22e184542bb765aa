"""The same bits in any layout, for any number of threads, and from run to run."""

import numba
import numpy as np
import pytest
from conftest import FLOAT_TYPES, assert_same, float_type, run_python
from rows import EVERY_REGIME, random_rows

import fastce
from fastce.kernels.cpu import LIMITS
from fastce.problem import AUX

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


def test_the_same_bits_for_more_threads_than_cores_and_from_run_to_run():
    """Each number in a process of its own."""
    runs = [run_python(_DIGEST, NUMBA_NUM_THREADS=n) for n in ("1", "2", "2", "5")]
    assert [n for n, _ in runs] == ["1", "2", "2", "5"]
    assert len({digest for _, digest in runs}) == 1
