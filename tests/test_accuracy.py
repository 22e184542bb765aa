"""The accuracy that the specification promises, number by number, in every regime of the CPU kernels."""

import numpy as np
import pytest
from conftest import (
    FLOAT_TYPES,
    GRAD,
    GRAD_BESIDE_A_RUNNER_UP,
    NEARNESS,
    NEARNESS_BESIDE_A_RUNNER_UP,
    SUM,
    SUM_BESIDE_A_RUNNER_UP,
    WIDER,
    assert_grad,
    assert_same,
    float_type,
    oracle,
    types_with_oracle,
)
from rows import (
    CHUNK,
    EVERY_KIND,
    EVERY_REGIME,
    FLOATS,
    KEPT,
    KINDS,
    NARROW,
    REGIMES,
    by_numpy,
    confident_and_wrong_rows,
    confident_rows,
    exactly,
    random_rows,
    rows_with_a_runner_up,
    underflow,
)

import fastce
from fastce.problem import AUX


def test_the_oracle_agrees_with_the_reference(rng):
    for make in KINDS:
        logits, targets = make(rng, (50, 20))
        loss, grad = exactly(logits, targets)
        result = fastce.cross_entropy_with_grad(logits, targets, reduction="none", backend="reference")
        np.testing.assert_allclose(loss, result.loss, rtol=1e-12)
        np.testing.assert_allclose(grad, result.grad, rtol=1e-11, atol=1e-300)


@EVERY_KIND
@EVERY_REGIME
def test_row_losses_are_right_to_1e_6_however_small(rng, make, shape):
    logits, targets = make(rng, shape)
    logits = logits.astype(np.float32)
    expected = exactly(logits, targets)[0]
    for with_grad in (False, True):
        if with_grad:
            loss = fastce.cross_entropy_with_grad(logits, targets, reduction="none").loss
        else:
            loss = fastce.cross_entropy(logits, targets, reduction="none")
        # (what is added up may be 0 below the smallest normal number)
        underflow = logits.shape[1] * np.finfo(np.float32).tiny
        np.testing.assert_allclose(loss, expected, rtol=1e-6, atol=underflow)


@types_with_oracle
@EVERY_KIND
@EVERY_REGIME
def test_gradients_are_as_near_as_those_of_numpy_and_sum_to_0(rng, make, shape, dtype):
    beside = make is rows_with_a_runner_up
    nearness = (NEARNESS_BESIDE_A_RUNNER_UP if beside else NEARNESS)[np.dtype(dtype)]
    of_sum = (SUM_BESIDE_A_RUNNER_UP if beside else SUM)[np.dtype(dtype)]
    for _ in range(3):
        logits, targets = make(rng, shape)
        logits = logits.astype(dtype)
        exact = exactly(logits, targets, WIDER[dtype])[1]
        grad = fastce.cross_entropy_with_grad(logits, targets, reduction="sum").grad
        lost = underflow(exact, targets, dtype)
        largest = np.abs(exact).max(axis=1, keepdims=True)
        numpy_is_off = np.abs(by_numpy(logits, targets) - exact)
        assert (np.abs(grad - exact) <= numpy_is_off + nearness * largest + lost).all()
        total = np.abs(grad.astype(WIDER[dtype]).sum(axis=1))
        assert (total <= of_sum * largest[:, 0] + lost.sum(axis=1)).all()


@pytest.mark.parametrize(
    ("regime", "limit"), [("widest narrow", 5e-8), ("rows", 5e-8), ("rows of some chunks", 2e-8), ("wide", 2e-8)]
)
def test_elements_of_a_row_have_next_to_no_error_in_common(rng, regime, limit):
    """A rounded factor would be one of 6e-8; what is left is that of the sum of the powers, 16 at a time."""
    for _ in range(3):
        logits, targets = random_rows(rng, REGIMES[regime])
        logits = logits.astype(np.float32)
        exact = exactly(logits, targets)[1]
        grad = fastce.cross_entropy_with_grad(logits, targets, reduction="sum").grad
        off = grad / exact - 1
        off[np.arange(len(targets)), targets] = 0
        assert np.abs(off.mean(axis=1)).max() <= limit


def test_the_usual_gradient_does_not_sum_to_0(rng):
    """Of confident rows it is lost altogether: what the test above asks for is not easily had."""
    logits, targets = confident_rows(rng, (517, 10))
    logits = logits.astype(np.float32)
    grad = by_numpy(logits, targets).astype(np.float64)
    assert (np.abs(grad.sum(axis=1)) > 0.02 * np.abs(grad).max(axis=1)).sum() > 200


OPTIONS = {
    "aux": lambda rng, shape: {"aux": AUX},
    "weight": lambda rng, shape: {"weight": rng.uniform(0.5, 2, shape[1]).astype(np.float32)},
    "sample_weight": lambda rng, shape: {"sample_weight": rng.uniform(0.5, 2, shape[0]).astype(np.float32)},
    "z_loss": lambda rng, shape: {"z_loss": 1e-3},
    "logit_scale": lambda rng, shape: {"logit_scale": 0.7},
    "label_smoothing": lambda rng, shape: {"label_smoothing": 0.1},
    "label_smoothing and weight": lambda rng, shape: {
        "label_smoothing": 0.1,
        "weight": rng.uniform(0.5, 2, shape[1]).astype(np.float32),
    },
    "softcap": lambda rng, shape: {"softcap": 8.0},
}


@pytest.mark.parametrize("options_of", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize(
    "make", [random_rows, confident_rows, confident_and_wrong_rows, rows_with_a_runner_up], ids=lambda f: f.__name__
)
@EVERY_REGIME
def test_gradients_with_options_are_off_by_a_few_roundings(rng, make, shape, options_of):
    logits, targets = make(rng, shape)
    logits, options = logits.astype(np.float32), options_of(rng, shape)
    grad = fastce.cross_entropy_with_grad(logits, targets, reduction="sum", **options).grad
    exact = oracle(fastce.cross_entropy_with_grad, logits, targets, reduction="sum", **options).grad
    subtracted = {"label_smoothing", "softcap"} & set(options)
    assert_grad(
        grad,
        exact,
        largest_logit=options.get("softcap", 0.0),
        terms=largest_terms(logits, targets, **options) if subtracted else 0.0,
        lost=2 * underflow(exact / 2, targets),  # (no weight is larger)
        tolerances=GRAD_BESIDE_A_RUNNER_UP if make is rows_with_a_runner_up else GRAD,
    )


def largest_terms(logits, targets, weight=1.0, label_smoothing=0.0, softcap=None):
    """The largest of what is subtracted from each other in each row: p and q with their weights."""
    z = logits.astype(np.float64)
    z = z if softcap is None else softcap * np.tanh(z / softcap)
    p = fastce.softmax(z, backend="reference")
    q = np.full(z.shape, label_smoothing / z.shape[1])
    q[np.arange(len(targets)), targets] += 1 - label_smoothing
    q *= weight
    return np.maximum(p * q.sum(axis=1, keepdims=True), q).max(axis=1, keepdims=True)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("make", [random_rows, confident_rows, confident_and_wrong_rows], ids=lambda f: f.__name__)
@EVERY_REGIME
def test_16_bit_gradients_are_rounded_once(rng, make, shape, name):
    """They differ from the rounded float64 gradient only where that is, to float32's precision, halfway."""
    dtype = float_type(name)
    logits, targets = make(rng, shape)
    logits = logits.astype(dtype)
    exact = exactly(logits, targets)[1]
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


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_parts_of_powers_that_are_found_apart(rng, name):
    """Halfway between two exponents, both parts of a power are of the same; of a chunk of huge logits, no part is."""
    logits = (np.round(rng.normal(size=(6, 3 * CHUNK + 5)) * 6) / 2).astype(name)  # z * log2(e) ends in .0 or .5
    logits[:, [7, CHUNK + 9, 2 * CHUNK + 1, 3 * CHUNK]] = 20.5, 21.0, 22.0, 23.5  # the largest of each chunk
    logits[2, :CHUNK] -= 1e6
    targets, place = rng.integers(0, logits.shape[1], 6), np.full_like(logits, np.nan)
    options = {"logit_scale": np.log(2), "reduction": "none"}
    found = fastce.cross_entropy_with_grad(logits, targets, grad_out=place, **options)
    wanted = fastce.cross_entropy_with_grad(logits.astype(np.float64), targets, backend="reference", **options)
    bound = (4e-7 if name == "float32" else 1e-14) * np.abs(wanted.grad)
    assert (np.abs(found.grad - wanted.grad) <= bound + 1e-37).all()


@pytest.mark.parametrize("name", ["float32", "float64"])
@pytest.mark.parametrize("n_classes", [128, 256, 1000, FLOATS * KEPT // 2, FLOATS * KEPT, CHUNK, CHUNK + 3])
def test_softcap_of_rows_that_fill_their_vectors_and_of_others(rng, name, n_classes):
    """Powers are kept times the softcap's slope, the last part of a row's apart, next to those of the row after it.

    Of rows that are too long for that, what the softcap gives waits in the gradient's memory, unless the logits do.
    """
    logits, targets = (rng.normal(size=(7, n_classes)) * 3).astype(name), rng.integers(0, n_classes, 7)
    found = fastce.cross_entropy_with_grad(logits, targets, softcap=30.0, reduction="none").grad
    exact = logits.astype(np.float64)
    place = logits.copy()  # where nothing can wait for its gradient's turn
    fastce.cross_entropy_with_grad(place, targets, softcap=30.0, reduction="none", grad_out=place)
    np.testing.assert_array_equal(place, found)
    wanted = fastce.cross_entropy_with_grad(exact, targets, softcap=30.0, reduction="none", backend="reference").grad
    largest = np.abs(wanted).max(axis=1, keepdims=True)
    assert (np.abs(found - wanted) <= (1e-5 if name == "float32" else 1e-13) * largest).all()
