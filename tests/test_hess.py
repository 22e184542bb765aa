"""The diagonal of the Hessian, `aux=("hess",)`: against derivatives of the written-out gradient, exact to float64."""

import numpy as np
import pytest
from conftest import (
    FLOAT_TYPES,
    UNIT,
    WIDER,
    arithmetic_type,
    assert_grad,
    assert_same,
    float_type,
    oracle,
    types_with_oracle,
)
from rows import EVERY_KIND, EVERY_REGIME, REGIMES, random_rows

import fastce

HESS = ("hess",)
N, C = 6, 5


def hess(logits, targets, **options):
    return fastce.cross_entropy_with_grad(logits, targets, aux=HESS, **options).hess


# The formulas ---------------------------------------------------------------------------------------------------------


def gradient(x, q, w, a, k, c):
    """Gradient of one row's loss for every row of `x`, by the formulas of the specification; complex numbers too."""
    z = c * np.tanh(k * x / c) if c else k * x
    shift = z.real.max(axis=1, keepdims=True)
    powers = np.exp(z - shift)
    total = powers.sum(axis=1, keepdims=True)
    p, lse = powers / total, np.log(total) + shift
    dz = p * (w * q).sum() - w * q + 2 * a * lse * p
    return dz * k * (1 - (z / c) ** 2 if c else 1)


def by_complex_step(x, q, w, a, k, c):
    """Derivative of each element of the gradient by its own logit: without a difference, exact to the last digits."""
    step = 1e-40
    moved = gradient(x + 1j * step * np.eye(len(x)), q, w, a, k, c)
    return np.diag(moved).imag / step


EVERY = {"weight": True, "label_smoothing": 0.25, "z_loss": 0.125, "softcap": 3.0, "logit_scale": -1.5}
OPTIONS = {
    "plain": {},
    **{name: {name: value} for name, value in EVERY.items()},
    "weights, smoothed": {"weight": True, "label_smoothing": 0.25},
    "negative z_loss": {"z_loss": -0.5},
    "z_loss without cross-entropy": {"z_loss": 0.5, "weight": 0.0},
    "softcap and scale": {"softcap": 3.0, "logit_scale": 0.5},
    "every option": EVERY,
}


@pytest.mark.parametrize("kind", ["classes", "probabilities"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_it_is_the_derivative_of_the_gradient(rng, backend, options, kind):
    options = dict(options)
    x, y, s, upstream = rng.normal(size=(N, C)) * 2, rng.integers(0, C, N), rng.uniform(0, 2, N), rng.normal(size=N)
    weighted = options.pop("weight", None)
    w = np.ones(C) if weighted is None else rng.uniform(0.5, 2, C) * weighted
    q = rng.dirichlet(np.full(C, 0.5), N) if kind == "probabilities" else np.eye(C)[y]
    e = options.get("label_smoothing", 0.0)
    smooth = (1 - e) * q + e / C
    rest = w, options.get("z_loss", 0.0), options.get("logit_scale", 1.0), options.get("softcap")
    expected = [g * b * by_complex_step(a, t, *rest) for a, t, g, b in zip(x, smooth, upstream, s, strict=True)]
    actual = hess(
        x, y if kind == "classes" else q, weight=w, sample_weight=s, grad_output=upstream, reduction="none",
        backend=backend, **options,
    )  # fmt: skip
    assert actual.dtype == np.float64
    scale = np.abs(expected).max(axis=1, keepdims=True)
    assert (np.abs(actual - expected) <= 1e-13 * scale).all()


@pytest.mark.parametrize("options", [{}, {"z_loss": 0.25, "weight": [0.5, 1, 2, 3, 4]}], ids=["plain", "z_loss"])
@pytest.mark.parametrize(("reduction", "normalizer"), [("mean", None), ("sum", None), ("none", 3.0), ("mean", 3.0)])
def test_it_is_scaled_as_the_gradient_is(rng, backend, reduction, normalizer, options):
    """The parts of a mean have denominators of their own; here, by differences of gradients."""
    x, y = rng.normal(size=(N, C)), np.array([0, 1, 2, 3, 4, -100])
    options = {
        **options, "reduction": reduction, "normalizer": normalizer, "sample_weight": rng.uniform(0.5, 2, N),
        "grad_output": -2.5, "backend": backend,
    }  # fmt: skip
    expected = np.empty_like(x)
    for j in range(C):
        step = np.zeros(C)
        step[j] = 1e-5
        up, down = (fastce.cross_entropy_with_grad(x + d, y, **options).grad[:, j] for d in (step, -step))
        expected[:, j] = (up - down) / 2e-5
    np.testing.assert_allclose(hess(x, y, **options), expected, rtol=1e-7, atol=1e-9)


def test_softcap_can_make_it_negative(backend):
    """Beyond half the cap, a wrong class is on the far side of the bend."""
    x = np.array([[4.0, 0.0]])
    expected = by_complex_step(x[0], np.array([0.0, 1.0]), np.ones(2), 0.0, 1.0, 2.0)
    assert expected[0] < -0.01
    np.testing.assert_allclose(hess(x, [1], softcap=2.0, backend=backend)[0], expected, rtol=1e-13)


# The kernels ----------------------------------------------------------------------------------------------------------


@types_with_oracle
@EVERY_KIND
@EVERY_REGIME
def test_it_is_as_exact_as_the_gradient(rng, make, shape, dtype):
    """`p * (1 - p)` element by element, with `1 - p` the sum of all others: of rows sure of a class, too."""
    logits, targets = make(rng, shape)
    logits = logits.astype(dtype)
    x = logits.astype(WIDER[dtype])
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    top = np.arange(len(x)), x.argmax(axis=1)
    others = np.where(np.arange(shape[1]) == top[1][:, np.newaxis], 0, powers).sum(axis=1)
    total = (1 + others)[:, np.newaxis]
    expected = powers / total * (1 - powers / total)
    expected[top] = others / total[:, 0] ** 2
    actual = hess(logits, targets, reduction="sum")
    # (a few roundings, and what powers below the smallest normal number may lose)
    unit, tiny = UNIT[np.dtype(dtype)], np.finfo(dtype).tiny
    lost = np.where(np.abs(powers) < 2 * tiny, np.abs(expected), 0)
    lost[top] = shape[1] * tiny
    assert (np.abs(actual - expected) <= 6 * unit * expected + lost).all()


CASES = {
    "plain": {},
    "weights, smoothed": {"weight": True, "label_smoothing": 0.1},
    "scale, z_loss": {"logit_scale": -0.7, "z_loss": 1e-3},
    "softcap": {"softcap": 12.0},
    "every option": {"weight": True, "label_smoothing": 0.1, "z_loss": 1e-3, "softcap": 12.0, "logit_scale": 0.5},
}


@pytest.mark.parametrize("kind", ["classes", "probabilities"])
@pytest.mark.parametrize("name", FLOAT_TYPES)
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
@EVERY_REGIME
def test_kernels_against_the_reference(rng, shape, options, name, kind):
    logits, targets = random_rows(rng, shape)
    logits, options = logits.astype(float_type(name)), dict(options)
    if kind == "probabilities":
        targets = fastce.softmax(rng.normal(size=shape) * 3).astype(float_type(name))
    if options.pop("weight", False):
        options["weight"] = rng.uniform(0.5, 2, shape[1]).astype(np.float32)
    options |= {"sample_weight": rng.uniform(0.5, 2, shape[0]).astype(np.float32), "reduction": "none"}
    result = fastce.cross_entropy_with_grad(logits, targets, aux=HESS, **options)
    expected = oracle(fastce.cross_entropy_with_grad, logits, targets, aux=HESS, **options)
    assert result.hess.dtype == arithmetic_type(logits.dtype)
    softcap = options.get("softcap", 0.0)
    largest = softcap or np.abs(logits).max() * (name != "float64")
    assert_grad(result.hess, expected.hess, largest, largest_terms(logits, targets, **options) if softcap else 0.0)


def largest_terms(logits, targets, sample_weight, softcap, weight=1.0, label_smoothing=0.0, logit_scale=1.0, **_):
    """The largest of what is subtracted from each other in each row: p and q with their weights, twice."""
    z = softcap * np.tanh(logits.astype(np.float64) * logit_scale / softcap)
    p = fastce.softmax(z, backend="reference")
    q = targets.astype(np.float64)
    if targets.ndim == 1:
        q = (targets[:, np.newaxis] == np.arange(z.shape[1])).astype(np.float64)
    q = weight * ((1 - label_smoothing) * q + label_smoothing / z.shape[1])
    return 2 * sample_weight[:, np.newaxis] * np.maximum(p * q.sum(axis=1, keepdims=True), q).max(axis=1, keepdims=True)


@pytest.mark.parametrize("name", FLOAT_TYPES)
@pytest.mark.parametrize("n_classes", [2, 128, 129, 1000, 30_000])
def test_20_against_0(backend, name, n_classes):
    """`p - p * p` in float32 gives 0; the largest class has as much as its rival, also in a row of 16 bits."""
    logits = np.full((1, n_classes), -np.inf, float_type(name))
    logits[0, [0, -1]] = 20, 0
    actual = hess(logits, [0], backend=backend)
    np.testing.assert_allclose(actual[0, [0, -1]], 2.0611536e-09, rtol=1e-6)
    assert not actual[0, 1:-1].any()


@pytest.mark.parametrize("shape", REGIMES.values(), ids=REGIMES)
@pytest.mark.parametrize("softcap", [None, 4.0])
def test_special_rows(rng, shape, softcap):
    logits, targets = random_rows(rng, (6, shape[1]))
    targets[0] = -100
    logits[0] = np.nan  # ignored, whatever it holds
    logits[1, -1] = np.nan
    logits[2, 0] = np.inf if softcap is None else np.nan  # (which a softcap bounds)
    logits[3] = -np.inf if softcap is None else np.nan
    targets[4], logits[4, 0] = shape[1] - 1, -np.inf
    expected = oracle(hess, logits, targets, softcap=softcap)
    for where in (logits, np.asfortranarray(logits)):
        actual = hess(where, targets, softcap=softcap)
        assert_same(actual[0], np.zeros(shape[1]))
        assert np.isnan(actual[1:4]).all()
        np.testing.assert_allclose(actual[4:], expected[4:], rtol=1e-12, atol=1e-14)
        assert actual[4, 0] == 0


def test_a_single_class_and_no_row(backend):
    assert_same(hess([[3.0], [-2.0]], [0, -100], backend=backend), np.zeros((2, 1)))
    z_loss = hess([[3.0]], [0], z_loss=0.5, backend=backend)
    assert_same(z_loss, np.ones((1, 1)))  # the second derivative of 0.5 * x**2
    empty = hess(np.empty((0, 3), np.float32), np.empty(0, int), backend=backend)
    assert (empty.shape, empty.dtype) == ((0, 3), np.float32)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("order", ["C", "F"])
def test_shape_axis_and_order_are_those_of_the_logits(rng, backend, axis, order):
    logits = np.asarray(rng.normal(size=(4, 5, 6)), order=order)
    targets = rng.integers(0, 4, np.delete(logits.shape, axis))
    actual = hess(logits, targets, axis=axis, backend=backend)
    assert actual.shape == logits.shape
    assert actual.strides == logits.strides
    rows = np.moveaxis(logits, axis, -1).reshape(targets.size, -1)
    expected = hess(rows, targets.ravel(), backend="reference").reshape(np.moveaxis(logits, axis, -1).shape)
    np.testing.assert_allclose(np.moveaxis(actual, axis, -1), expected, rtol=1e-13)
    assert hess(logits[:, 0, 0], 1, backend=backend).shape == (4,)
