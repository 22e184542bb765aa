"""The reference, which all else is tested against: by known values, by loops over the formulas, by derivatives."""

import itertools
import math

import numpy as np
import pytest
from conftest import assert_grad, assert_loss

import fastce
from fastce.problem import AUX

REF = {"backend": "reference"}


# Known values --------------------------------------------------------------------------------------------------------

THREE = [
    [-0.7514, 1.2616, -0.4232, 1.3868, 1.2298],
    [1.5341, -0.4240, 0.0112, -0.5188, 0.1129],
    [-2.6143, 0.1532, 0.0868, -0.8231, 0.7698],
]
TEN = [
    [4.2177, -4.0934, 0.0668],
    [-0.7385, 2.6636, 3.4101],
    [-4.0501, 1.9145, 4.6214],
    [4.8040, 1.1541, -2.3394],
    [2.5674, -2.1252, 1.5663],
    [-2.0453, 3.3044, 0.0779],
    [4.1436, 5.1625, 4.5696],
    [4.2516, 3.3550, -0.4895],
    [-0.7235, -0.0780, 2.7425],
    [-4.7485, 0.8806, 5.0635],
]
KNOWN = [
    ([[-1.0, -3, 4], [-3, 3, -1]], [0, 1], 2.5141),
    ([[0.0, 0, 0, 1]], [3], 0.7437),
    (THREE, [3, 0, 1], 1.0314),
    (TEN, [0, 2, 2, 1, 0, 1, 1, 0, 1, 2], 0.8439),
]


@pytest.mark.parametrize(("logits", "targets", "loss"), KNOWN)
def test_known_mean(logits, targets, loss):
    four_decimals = 1e-4  # half a unit for the loss, half a unit for the logits
    assert fastce.cross_entropy(logits, targets, **REF) == pytest.approx(loss, abs=four_decimals)
    log_probs = fastce.log_softmax(logits, **REF)
    assert fastce.nll_loss(log_probs, targets) == pytest.approx(loss, abs=four_decimals)


def test_known_softmax():
    probabilities = fastce.softmax([[-9.0, 5, 10]], **REF)
    np.testing.assert_allclose(probabilities, [[5.5653e-09, 6.6929e-03, 9.9331e-01]], rtol=1e-5)


def test_known_weights_and_smoothing():
    options = {"weight": [0.5, 1, 2], "label_smoothing": 0.3, **REF}
    loss, grad, *_ = fastce.cross_entropy_with_grad([[1.0, 2, 3], [3, 1, 0]], [0, 2], **options)
    assert loss == pytest.approx(2.5930219, abs=5e-8)
    np.testing.assert_allclose(grad, [[-0.134791, 0.028524, 0.106267], [0.570656, 0.039937, -0.610593]], atol=5e-7)


def test_known_probabilities():
    loss = fastce.cross_entropy([1.0, 2, 3], [0.2, 0.3, 0.5], weight=[0.5, 1, 2], **REF)
    assert loss == pytest.approx(1.0706483, abs=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("distance", [1.0, 20.0, 40.0, 80.0])
def test_tiny_loss_is_not_rounded_away(dtype, distance):
    loss, grad, *_ = fastce.cross_entropy_with_grad(np.array([[distance, 0]], dtype), [0], **REF)
    other = math.exp(-distance)
    tolerance = 4 * float(np.finfo(dtype).eps)
    assert loss == pytest.approx(math.log1p(other), rel=tolerance)
    np.testing.assert_allclose(grad, [[-other / (1 + other), other / (1 + other)]], rtol=tolerance)


def test_tiny_loss_of_probabilities_is_not_rounded_away():
    logits = np.array([[40.0, 0, 3]])
    one_hot = fastce.cross_entropy_with_grad(logits, [[1.0, 0, 0]], **REF)
    index = fastce.cross_entropy_with_grad(logits, [0], **REF)
    assert one_hot.loss == index.loss == pytest.approx(math.log1p(math.exp(-40) + math.exp(-37)), rel=1e-15)
    np.testing.assert_array_equal(one_hot.grad, index.grad)


# Loops over the formulas ----------------------------------------------------------------------------------------------


def row_by_loops(x, target, *, w, s, e, a, c, k):
    """Give cross-entropy part, z-loss part and their gradients of one row, from the formulas, number by number."""
    classes = range(len(x))
    u = [k * x[j] for j in classes]
    z = [c * math.tanh(u[j] / c) if c else u[j] for j in classes]
    lse = math.log(math.fsum(math.exp(z[j]) for j in classes))
    p = [math.exp(z[j] - lse) for j in classes]
    if isinstance(target, int):
        y, even = target, e / len(x)
        ce = (1 - e) * w[y] * (lse - z[y]) + even * math.fsum(w[j] * (lse - z[j]) for j in classes)
        dce = [(1 - e) * w[y] * (p[j] - (j == y)) + even * (math.fsum(w) * p[j] - w[j]) for j in classes]
    else:
        q = [(1 - e) * target[j] + e / len(x) for j in classes]
        ce = math.fsum(w[j] * q[j] * (lse - z[j]) for j in classes)
        dce = [p[j] * math.fsum(w[i] * q[i] for i in classes) - w[j] * q[j] for j in classes]
    zl = a * lse**2
    slope = [s * k * (1 - (z[j] / c) ** 2 if c else 1) for j in classes]
    dce_dx = [slope[j] * dce[j] for j in classes]
    dzl_dx = [slope[j] * 2 * a * lse * p[j] for j in classes]
    return s * ce, s * zl, dce_dx, dzl_dx


def by_loops(x, targets, *, weight, sample_weight, ignore_index, e, a, c, k, reduction, normalizer, grad_output):
    """Give loss and gradient of all rows, from the table of reductions."""
    n_rows, n_classes = len(x), len(x[0])
    w = weight or [1.0] * n_classes
    s = sample_weight or [1.0] * n_rows
    valid = [i for i in range(n_rows) if targets[i] != ignore_index]
    if normalizer:
        d_ce = d_zl = normalizer
    elif reduction == "mean":
        d_zl = math.fsum(s[i] for i in valid)
        d_ce = math.fsum(s[i] * w[targets[i]] for i in valid) if isinstance(targets[0], int) else d_zl
    else:
        d_ce = d_zl = 1.0
    g = grad_output if isinstance(grad_output, list) else [grad_output] * n_rows
    losses = [0.0] * n_rows
    grad = [[0.0] * n_classes for _ in range(n_rows)]
    for i in valid:
        ce, zl, dce, dzl = row_by_loops(x[i], targets[i], w=w, s=s[i], e=e, a=a, c=c, k=k)
        losses[i] = ce / d_ce + zl / d_zl
        grad[i] = [g[i] * (dce[j] / d_ce + dzl[j] / d_zl) for j in range(n_classes)]
    return losses if reduction == "none" else math.fsum(losses), grad


@pytest.mark.parametrize("seed", range(200))
def test_loops_over_the_formulas_agree(seed):
    rng = np.random.default_rng(seed)

    def sometimes(value, otherwise=None):
        return value if rng.random() < 0.5 else otherwise

    n_rows, n_classes = int(rng.integers(1, 6)), int(rng.integers(1, 7))
    x = rng.normal(scale=4, size=(n_rows, n_classes))
    probabilities = rng.random() < 0.4
    if probabilities:
        targets = rng.dirichlet(np.ones(n_classes), n_rows).tolist()
    else:
        targets = [sometimes(int(rng.integers(n_classes)), int(rng.integers(n_classes))) for _ in range(n_rows)]
        targets[1:] = [sometimes(t, -100) for t in targets[1:]]  # the first stays: a mean over something
    reduction = str(rng.choice(["none", "mean", "sum"]))
    arrays = {
        "weight": sometimes(rng.uniform(0.5, 2, n_classes).tolist()),
        "sample_weight": sometimes(rng.uniform(0.5, 2, n_rows).tolist()),
    }
    grad_output = rng.normal(size=n_rows).tolist() if reduction == "none" else float(rng.normal())
    normalizer = sometimes(float(rng.uniform(0.5, 20)))
    numbers = {"e": sometimes(0.2, 0.0), "a": sometimes(0.3, 0.0), "c": sometimes(3.0), "k": sometimes(-0.7, 1.0)}
    loss, grad = by_loops(
        x.tolist(),
        targets,
        **arrays,
        **numbers,
        ignore_index=-100,
        reduction=reduction,
        normalizer=normalizer,
        grad_output=grad_output,
    )
    result = fastce.cross_entropy_with_grad(
        x,
        targets,
        **arrays,
        label_smoothing=numbers["e"],
        z_loss=numbers["a"],
        softcap=numbers["c"],
        logit_scale=numbers["k"],
        reduction=reduction,
        normalizer=normalizer,
        grad_output=grad_output,
        **REF,
    )
    np.testing.assert_allclose(result.loss, loss, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(result.grad, grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("k", "c"), [(1.0, None), (2.0, 3.0), (-0.5, None)])
def test_aux_by_loops(rng, k, c):
    x = rng.normal(scale=3, size=(7, 5))
    targets = [0, 1, 2, 3, 4, 0, -100]
    result = fastce.cross_entropy_with_grad(x, targets, logit_scale=k, softcap=c, aux=AUX, **REF)
    for i, y in enumerate(targets[:-1]):
        z = [c * math.tanh(k * xj / c) if c else k * xj for xj in x[i].tolist()]
        lse = math.log(math.fsum(map(math.exp, z)))
        assert result.lse[i] == pytest.approx(lse, rel=1e-14)
        assert result.argmax[i] == z.index(max(z))
        assert result.correct[i] == (z.index(max(z)) == y)
        assert result.rank[i] == sum(zj > z[y] for zj in z)
        assert result.target_prob[i] == pytest.approx(math.exp(z[y] - lse), rel=1e-13)
        assert result.entropy[i] == pytest.approx(math.fsum(math.exp(zj - lse) * (lse - zj) for zj in z), rel=1e-13)
    assert [getattr(result, name)[-1] for name in AUX] == [0, -1, False, 0, 0, 0]


# Derivatives ----------------------------------------------------------------------------------------------------------


def derivative(f, x, h=2e-3):
    """Fourth-order central differences of a number with respect to each element of x."""
    grad = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[at] = h
        grad[at] = (8 * (f(x + step) - f(x - step)) - (f(x + 2 * step) - f(x - 2 * step))) / (12 * h)
    return grad


N, C = 4, 5
OPTIONS = {
    "weight": [0.3, 2.0, 1.0, 0.0, 1.5],
    "sample_weight": [0.5, 2.0, 0.0, 1.3],
    "ignore_index": 2,
    "label_smoothing": 0.2,
    "z_loss": 0.3,
    "softcap": 2.5,
    "logit_scale": -1.7,
    "normalizer": 7.0,
}
TARGETS = {"classes": np.array([0, 2, 4, 1]), "probabilities": np.random.default_rng(0).dirichlet(np.ones(C), N)}
PAIRS = [dict(pair) for n in range(3) for pair in itertools.combinations(OPTIONS.items(), n)] + [OPTIONS]


@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("options", PAIRS, ids="+".join)
def test_gradient_is_the_derivative(rng, targets, options):
    x = rng.normal(size=(N, C))
    for reduction in ("none", "mean", "sum"):
        upstream = rng.normal(size=N) if reduction == "none" else 1.3
        options = {**options, "reduction": reduction, **REF}

        def loss(x, upstream=upstream, options=options):
            return np.sum(upstream * fastce.cross_entropy(x, targets, **options))

        expected = derivative(loss, x)
        result = fastce.cross_entropy_with_grad(x, targets, grad_output=upstream, aux=("lse",), **options)
        np.testing.assert_allclose(result.grad, expected, rtol=1e-8, atol=1e-10)
        again = fastce.cross_entropy_backward(x, targets, result.lse, grad_output=upstream, **options)
        np.testing.assert_allclose(again, result.grad, rtol=1e-13, atol=1e-15)


def test_derivative_of_lse_is_softmax(rng):
    x = rng.normal(size=(3, 4))
    expected = derivative(lambda x: fastce.logsumexp(x, **REF).sum(), x)
    np.testing.assert_allclose(fastce.softmax(x, **REF), expected, rtol=1e-9)


# Identities -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("options", [{}, {"weight": OPTIONS["weight"]}, {"label_smoothing": 0.2, "logit_scale": 3.0}])
def test_gradient_of_a_row_sums_to_zero(rng, targets, options):
    grad = fastce.cross_entropy_with_grad(rng.normal(size=(N, C)), targets, **options, **REF).grad
    np.testing.assert_allclose(grad.sum(axis=1), 0, atol=1e-15)


def test_cross_entropy_is_nll_of_log_softmax(rng):
    x = rng.normal(size=(N, C))
    for reduction in ("none", "mean", "sum"):
        options = {"weight": OPTIONS["weight"], "sample_weight": OPTIONS["sample_weight"], "reduction": reduction}
        options["ignore_index"] = 2
        log_probs = fastce.log_softmax(x, **REF)
        assert_loss(
            fastce.nll_loss(log_probs, TARGETS["classes"], **options),
            fastce.cross_entropy(x, TARGETS["classes"], **options, **REF),
        )


def test_label_smoothing_is_linear(rng):
    x, y = rng.normal(size=(N, C)), TARGETS["classes"]
    options = {"reduction": "none", "weight": OPTIONS["weight"], **REF}
    plain, even = (fastce.cross_entropy(x, y, label_smoothing=e, **options) for e in (0.0, 1.0))
    assert_loss(fastce.cross_entropy(x, y, label_smoothing=0.3, **options), 0.7 * plain + 0.3 * even)


def test_loss_is_linear_in_probabilities(rng):
    x, q = rng.normal(size=(N, C)), TARGETS["probabilities"]
    of_classes = [fastce.cross_entropy(x, np.full(N, j), reduction="none", **REF) for j in range(C)]
    assert_loss(fastce.cross_entropy(x, q, reduction="none", **REF), (q * np.transpose(of_classes)).sum(axis=1))


def test_one_hot_probabilities_are_classes(rng):
    x, y = rng.normal(size=(N, C)), TARGETS["classes"]
    options = {"reduction": "sum", "weight": OPTIONS["weight"], "label_smoothing": 0.1, "z_loss": 0.1, **REF}
    index = fastce.cross_entropy_with_grad(x, y, **options)
    one_hot = fastce.cross_entropy_with_grad(x, np.eye(C)[y], **options)
    assert index.loss == one_hot.loss
    np.testing.assert_array_equal(index.grad, one_hot.grad)


def test_adding_a_constant_to_a_row_changes_nothing(rng):
    x, y = rng.integers(-9, 9, size=(N, C)) * 0.25, TARGETS["classes"]  # exact in floating point
    a, b = (fastce.cross_entropy_with_grad(x + shift, y, reduction="none", **REF) for shift in (0, 1024))
    np.testing.assert_array_equal(a.loss, b.loss)
    np.testing.assert_array_equal(a.grad, b.grad)


def test_sample_weight_repeats_a_row(rng):
    x, y = rng.normal(size=(N, C)), TARGETS["classes"]
    times = np.array([1, 3, 0, 2])
    options = {"z_loss": 0.1, "weight": OPTIONS["weight"], "label_smoothing": 0.1, **REF}
    weighted = fastce.cross_entropy_with_grad(x, y, sample_weight=times, **options)
    repeated = fastce.cross_entropy_with_grad(x.repeat(times, axis=0), y.repeat(times), **options)
    assert_loss(weighted.loss, repeated.loss)
    starts = np.cumsum(times)[times > 0] - times[times > 0]
    assert_grad(weighted.grad[times > 0], np.add.reduceat(repeated.grad, starts))


def test_accumulation_with_normalizer_is_one_step(rng):
    x, y = rng.normal(size=(N, C)), np.array([0, -100, 3, 1])
    options = {"z_loss": 0.1, **REF}
    whole = fastce.cross_entropy_with_grad(x, y, **options)
    parts = [fastce.cross_entropy_with_grad(x[i], y[i], normalizer=3, **options) for i in (slice(3), slice(3, None))]
    assert_loss(sum(part.loss for part in parts), whole.loss)
    assert_grad(np.concatenate([part.grad for part in parts]), whole.grad)
