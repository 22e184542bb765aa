"""The public functions on arrays of NumPy, of a stand-in for CuPy and, on a GPU, of CuPy: the same tests for all."""

import ml_dtypes
import numpy as np
import pytest
from conftest import (
    FLOAT_TYPES,
    GRAD_ON_GPU,
    INTEGER_TYPES,
    arithmetic_type,
    assert_grad,
    assert_loss,
    float_type,
    oracle,
)

import fastce
from fastce.problem import AUX

from .places import PLACES

# Rows, classes and axis, each for a reason: lanes of a warp that share a row, or rows that share a warp; a block; rows
# that do not start at multiples of 16 bytes; more than a block keeps; few long rows, which the grid shares.
SHAPES = {
    "one class": ((5, 1), -1),
    "two classes": ((9, 2), -1),
    "one dimension": ((7,), -1),
    "narrow": ((70, 10), -1),
    "one past a warp": ((5, 33), -1),
    "odd": ((40, 201), -1),
    "block": ((3, 4100), -1),
    "grid": ((2, 70_001), -1),
    "axis in the middle": ((2, 3, 40, 5), 1),
    "classes first": ((6, 7), 0),
}


@pytest.fixture(scope="module", params=PLACES)
def place(request):
    with request.param() as place:
        yield place


def every_option(rng, shape, axis):
    rows = tuple(np.delete(shape, axis))
    return {
        "weight": rng.uniform(0.5, 2, shape[axis]).astype(np.float32),
        "sample_weight": rng.uniform(0.5, 2, rows).astype(np.float32),
        "ignore_index": 0,
        "label_smoothing": 0.25,
        "z_loss": 0.125,
        "softcap": 8.0,
        "logit_scale": 1.5,
    }


def check(place, logits, targets, axis=-1, **options):
    """Compare loss, gradient and all of aux with the oracle's."""
    aux = AUX if targets.dtype.kind in "iub" else ("lse", "argmax", "entropy")
    given = {name: place.put(o) if isinstance(o, np.ndarray) else o for name, o in options.items()}
    result = fastce.cross_entropy_with_grad(place.put(logits), place.put(targets), axis=axis, aux=aux, **given)
    expected = oracle(fastce.cross_entropy_with_grad, logits, targets, axis=axis, aux=aux, **options)
    largest = min(np.abs(logits.astype(float)).max() * options.get("logit_scale", 1), options.get("softcap") or np.inf)
    grad = place.get(result.grad)
    assert grad.dtype == logits.dtype
    assert_loss(place.get(result.loss), expected.loss, largest)
    terms = np.abs(expected.grad).max()
    assert_grad(grad, expected.grad, largest, terms, axis, tolerances=GRAD_ON_GPU)
    for name in aux:
        found, wanted = place.get(getattr(result, name)), np.asarray(getattr(expected, name))
        assert found.shape == wanted.shape
        if name in ("argmax", "correct", "rank"):
            np.testing.assert_array_equal(found, wanted)
        else:
            assert found.dtype == arithmetic_type(logits.dtype)
            assert_loss(found, wanted, largest)


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("kind", ["classes", "probabilities"])
@pytest.mark.parametrize(("shape", "axis"), SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("with_options", [False, True], ids=["plain", "every option"])
def test_shapes_types_and_options(rng, place, dtype, kind, shape, axis, with_options):
    rows = tuple(np.delete(shape, axis))
    logits = (rng.normal(size=shape) * 3).astype(float_type(dtype))
    targets = rng.integers(0, shape[axis], rows)
    if kind == "probabilities":
        targets = np.moveaxis(rng.dirichlet(np.full(shape[axis], 0.5), rows), -1, axis).astype(logits.dtype)
    options = every_option(rng, shape, axis) if with_options else {}
    check(place, logits, targets, axis, reduction="none", **options)
    check(place, logits, targets, axis, **options)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("normalizer", [None, 7.5])
@pytest.mark.parametrize("grad_output", [None, -2.5])
def test_reductions(rng, place, reduction, normalizer, grad_output):
    logits = (rng.normal(size=(6, 5)) * 3).astype(np.float32)
    options = every_option(rng, (6, 5), -1)
    options |= {"reduction": reduction, "normalizer": normalizer, "grad_output": grad_output}
    check(place, logits, rng.integers(0, 5, 6), **options)


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("n_classes", [40, 1001])
def test_rows_more_and_less_sure_of_a_class(rng, place, dtype, n_classes):
    """Of the target or of another class: kernels may take less care of powers where a row is not sure."""
    gaps = np.arange(0, 48) / 2
    logits = (rng.normal(size=(96, n_classes)) * 2).astype(float_type(dtype))
    targets = rng.integers(0, n_classes, 96)
    logits[np.arange(96), np.append(targets[:48], (targets[48:] + 1) % n_classes)] = np.tile(4 + gaps, 2)
    result = fastce.cross_entropy_with_grad(place.put(logits), place.put(targets), reduction="none")
    expected = oracle(fastce.cross_entropy_with_grad, logits, targets, reduction="none")
    assert_loss(place.get(result.loss), expected.loss)
    assert_grad(place.get(result.grad), expected.grad, tolerances=GRAD_ON_GPU)


@pytest.mark.parametrize("dtype", INTEGER_TYPES)
def test_target_types(rng, place, dtype):
    logits = rng.normal(size=(9, 2)).astype(np.float32)
    check(place, logits, rng.integers(0, 2, 9).astype(dtype))


def test_in_place_gives_the_same_bits(rng, place):
    logits = rng.normal(size=(7, 1001)).astype(ml_dtypes.bfloat16)
    targets = place.put(rng.integers(0, 1001, 7))
    want = place.get(fastce.cross_entropy_with_grad(place.put(logits), targets).grad)
    array = place.put(logits.copy())
    result = fastce.cross_entropy_with_grad(array, targets, grad_out=array)
    assert result.grad is array
    np.testing.assert_array_equal(place.get(array), want)


def test_special_values(place):
    logits = np.zeros((6, 40), np.float32)
    logits[0, 1], logits[1, 2], logits[2, 3], logits[3] = np.nan, np.inf, -np.inf, -np.inf
    logits[4, 0], logits[5] = -np.inf, np.nan
    targets = np.array([0, 0, 0, 0, 0, -100])
    result = fastce.cross_entropy_with_grad(place.put(logits), place.put(targets), reduction="none")
    loss, grad = place.get(result.loss), place.get(result.grad)
    np.testing.assert_allclose(loss, [np.nan, np.nan, np.log(39), np.nan, np.inf, 0], rtol=1e-6)
    assert np.isnan(grad[[0, 1, 3]]).all()
    assert grad[2, 3] == 0
    assert grad[4, 0] == -1
    assert (grad[5] == 0).all()


def test_no_row(place):
    logits, targets = place.put(np.empty((0, 5), np.float32)), place.put(np.empty(0, np.int64))
    assert place.get(fastce.cross_entropy(logits, targets, reduction="sum")) == 0
    assert np.isnan(place.get(fastce.cross_entropy(logits, targets)))
    assert place.get(fastce.cross_entropy(logits, targets, empty="zero")) == 0
    assert place.get(fastce.cross_entropy(logits, targets, reduction="none")).shape == (0,)


def test_functions_of_the_logits(rng, place):
    logits = (rng.normal(size=(5, 37)) * 3).astype(np.float32)
    targets = rng.integers(0, 37, 5)
    for function in (fastce.logsumexp, fastce.softmax, fastce.log_softmax):
        for axis in (0, 1):
            found = place.get(function(place.put(logits), axis=axis))
            np.testing.assert_allclose(found, oracle(function, logits, axis=axis), rtol=2e-6, atol=1e-6)
    log_probs = fastce.log_softmax(place.put(logits))
    loss = place.get(fastce.nll_loss(log_probs, place.put(targets)))
    assert_loss(loss, oracle(fastce.cross_entropy, logits, targets))
    lse = fastce.logsumexp(place.put(logits))
    grad = place.get(fastce.cross_entropy_backward(place.put(logits), place.put(targets), lse))
    assert_grad(grad, oracle(fastce.cross_entropy_with_grad, logits, targets).grad, 10.0, tolerances=GRAD_ON_GPU)


def test_bad_targets_are_an_error_before_anything_is_written(rng, place):
    logits = place.put(rng.normal(size=(4, 7)).astype(np.float32))
    before = place.get(logits).copy()
    with pytest.raises(IndexError, match=r"targets\[1\] is 9"):
        fastce.cross_entropy_with_grad(logits, place.put(np.array([0, 9, -3, 1])), grad_out=logits, check=True)
    np.testing.assert_array_equal(place.get(logits), before)


@pytest.mark.parametrize("place", [p for p in PLACES if p.id != "numpy"], indirect=True)
def test_bad_targets_on_a_gpu_make_their_rows_nan(rng, place):
    logits = rng.normal(size=(4, 7)).astype(np.float32)
    result = fastce.cross_entropy_with_grad(place.put(logits), place.put(np.array([0, 9, -3, 1])), reduction="none")
    np.testing.assert_array_equal(np.isnan(place.get(result.loss)), [False, True, True, False])
    np.testing.assert_array_equal(np.isnan(place.get(result.grad)).all(axis=1), [False, True, True, False])


@pytest.mark.parametrize("place", [p for p in PLACES if p.id != "numpy"], indirect=True)
def test_second_derivatives_are_not_there(rng, place):
    logits = place.put(rng.normal(size=(4, 7)).astype(np.float32))
    with pytest.raises(ValueError, match="aux 'hess' is there for NumPy arrays only"):
        fastce.cross_entropy_with_grad(logits, place.put(np.zeros(4, int)), aux=("hess",))
