"""Infinities, NaN, ignored rows, one class, no row: the table of special values, for every backend and type."""

import numpy as np
import pytest
from conftest import FLOAT_TYPES, arithmetic_type, assert_grad, assert_loss, assert_same, float_type, oracle
from rows import EVERY_REGIME

import fastce
from fastce.problem import AUX

INF, NAN = np.inf, np.nan


@pytest.fixture(params=FLOAT_TYPES)
def with_grad(request, backend):
    """Row losses and gradient of logits of each type, by each backend."""

    def call(logits, targets, **options):
        logits = np.array(logits, float_type(request.param))
        return fastce.cross_entropy_with_grad(logits, targets, reduction="none", backend=backend, **options)

    return call


@pytest.mark.parametrize("targets", [[0], [[0.25, 0.0, 0.75]]], ids=["classes", "probabilities"])
def test_minus_infinity_beside_the_target(with_grad, targets):
    cut = with_grad([[1.0, -INF, 2.0]], targets)
    without = np.delete(targets, 1, axis=1) if np.ndim(targets) == 2 else targets
    plain = fastce.cross_entropy_with_grad([[1.0, 2.0]], without, reduction="none", backend="reference")
    assert_loss(cut.loss, plain.loss)
    assert_grad(cut.grad[:, ::2], plain.grad, terms=0.75)
    assert cut.grad[0, 1] == 0


def test_minus_infinity_at_the_target(with_grad):
    result = with_grad([[1.0, -INF, 2.0]], [1])
    p = np.exp([1, 2]) / np.exp([1, 2]).sum()
    assert result.loss == INF
    assert_grad(result.grad, np.array([[p[0], -1, p[1]]]))


def test_minus_infinity_where_smoothing_meets_it(with_grad):
    result = with_grad([[1.0, -INF, 2.0]], [0], label_smoothing=0.3)
    p = np.exp([1, 2]) / np.exp([1, 2]).sum()
    assert result.loss == INF
    assert_grad(result.grad, np.array([[p[0] - 0.8, -0.1, p[1] - 0.1]]))


def test_minus_infinity_where_the_weight_is_0(with_grad):
    weight = [1.0, 0.0, 1.0]
    smooth = with_grad([[1.0, -INF, 2.0]], [0], weight=weight, label_smoothing=0.3)
    lse = np.log(np.exp([1, 2]).sum())
    assert_loss(smooth.loss, [0.8 * (lse - 1) + 0.1 * (lse - 2)])
    at_target = with_grad([[1.0, -INF, 2.0]], [1], weight=weight)
    assert at_target.loss == 0
    assert not at_target.grad.any()


@pytest.mark.parametrize("row", [[0, NAN, 1], [0, INF, 1], [INF, INF, 0], [-INF, -INF, -INF], [INF, -INF, NAN]])
@pytest.mark.parametrize("targets", [[2, 0], [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]], ids=["classes", "probabilities"])
@pytest.mark.parametrize("options", [{}, {"weight": [1.0, 1, 0]}, {"z_loss": 0.1}, {"label_smoothing": 0.1}], ids=str)
def test_a_bad_row_is_nan_and_no_other_row_is_touched(with_grad, row, targets, options):
    good = [1.0, 2.0, 3.0]
    result = with_grad([row, good], targets, **options)
    assert np.isnan(result.loss[0])
    assert np.isnan(result.grad[0]).all()
    whole = with_grad([good, good], targets, **options)
    assert_same(result.loss[1], whole.loss[1])
    assert_same(result.grad[1], whole.grad[1])


@pytest.mark.parametrize("row", [[0, NAN, 1], [0, INF, 1], [-INF, -INF, -INF], [1, 2, 3]])
def test_an_ignored_row_is_0_whatever_it_holds(with_grad, row):
    options = {"z_loss": 0.1, "label_smoothing": 0.1, "sample_weight": [NAN, 1], "grad_output": [INF, 1]}
    result = with_grad([row, [1, 2, 3]], [-100, 0], aux=AUX, **options)
    assert result.loss[0] == 0
    assert not result.grad[0].any()
    assert [getattr(result, name)[0] for name in AUX] == [0, -1, False, 0, 0, 0]
    assert result.loss[1] > 0


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"softcap": 2.0}], ids=str)
def test_one_class_has_loss_and_gradient_0(with_grad, options):
    result = with_grad([[3.0], [-3.0]], [0, 0], aux=AUX, **options)
    assert not result.loss.any()
    assert not result.grad.any()
    assert [getattr(result, name)[0] for name in AUX[1:]] == [0, True, 0, 1, 0]


def test_no_row(with_grad, backend):
    result = with_grad(np.empty((0, 3)), np.empty(0, int), aux=AUX)
    assert result.loss.shape == result.entropy.shape == result.correct.shape == (0,)
    assert result.grad.shape == (0, 3)
    logits, targets = np.empty((2, 0, 3), result.grad.dtype), np.empty((2, 0), int)
    assert fastce.cross_entropy(logits, targets, reduction="sum", backend=backend) == 0
    assert np.isnan(fastce.cross_entropy(logits, targets, backend=backend))
    assert fastce.cross_entropy(logits, targets, empty="zero", backend=backend) == 0
    assert fastce.cross_entropy(logits, targets, normalizer=3, backend=backend) == 0
    assert fastce.logsumexp(logits, backend=backend).shape == (2, 0)
    assert fastce.softmax(logits, backend=backend).shape == (2, 0, 3)
    assert fastce.log_softmax(logits, backend=backend).shape == (2, 0, 3)


@pytest.mark.parametrize("name", FLOAT_TYPES)
def test_softmax_and_logsumexp_of_infinities(backend, name):
    logits = np.array([[INF, 0], [-INF, -INF], [NAN, INF], [-INF, 2]], float_type(name))
    lse = fastce.logsumexp(logits, backend=backend)
    np.testing.assert_array_equal(lse, [INF, -INF, NAN, 2])
    aux = fastce.cross_entropy_with_grad(logits, [0, 0, 0, 0], aux=("lse",), backend=backend)
    assert_same(aux.lse, lse)
    softmax = fastce.softmax(logits, backend=backend).astype(float)
    np.testing.assert_array_equal(softmax, [[NAN] * 2, [NAN] * 2, [NAN] * 2, [0, 1]])
    log_softmax = fastce.log_softmax(logits, backend=backend).astype(float)
    np.testing.assert_array_equal(log_softmax, [[NAN] * 2, [NAN] * 2, [NAN] * 2, [-INF, 0]])


@pytest.mark.parametrize("n_classes", [10, 300, 1000, 5000])
@pytest.mark.parametrize("function", [fastce.softmax, fastce.log_softmax], ids=["softmax", "log_softmax"])
@pytest.mark.parametrize("name", FLOAT_TYPES)
def test_odd_rows_of_softmax_and_log_softmax_beside_others(rng, backend, name, function, n_classes):
    logits = rng.normal(size=(40, n_classes)).astype(float_type(name))
    logits[3, 7], logits[4, 2], logits[9], logits[11, 4:] = NAN, INF, -INF, -INF
    logits[17], logits[18, n_classes - 1] = 30000, -30000
    logits[20] *= 9000  # (beyond what one multiplication reduces exactly)
    expected = oracle(function, logits)
    rounding = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2e-7, "float64": 4e-15}[name]
    result = function(logits, backend=backend).astype(float)
    largest = np.abs(np.where(np.isfinite(expected), expected, 0)).max(axis=1, keepdims=True)
    unit = 2.0**-52 if name == "float64" else 2.0**-23  # of the logits, where exp starts
    allowed = (
        rounding + unit * np.abs(np.nan_to_num(logits.astype(float), posinf=0, neginf=0)).max(axis=1)[:, None]
    ) * largest
    equal = (result == expected) | (np.isnan(result) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        assert (equal | (np.abs(result - expected) <= allowed)).all()


@pytest.mark.parametrize("name", FLOAT_TYPES)
def test_backward_of_bad_rows_is_nan(backend, name):
    logits = np.array([[INF, 0], [-INF, -INF], [NAN, INF], [-INF, 2]], float_type(name))
    lse = fastce.logsumexp(logits, backend=backend)
    grad = fastce.cross_entropy_backward(logits, [0, 0, 0, 0], lse, reduction="sum", backend=backend)
    np.testing.assert_array_equal(grad.astype(float), [[NAN] * 2, [NAN] * 2, [NAN] * 2, [-1, 1]])


@pytest.mark.parametrize("name", FLOAT_TYPES)
def test_the_largest_logits_do_not_overflow(backend, name):
    largest = {"float16": 65504.0, "bfloat16": 3.3e38, "float32": 3.4e38, "float64": 1.7e308}[name]
    logits = np.array([[largest, -largest, 0]], float_type(name))
    result = fastce.cross_entropy_with_grad(logits, [0], backend=backend)
    assert result.loss == 0
    assert not result.grad.any()
    with_lse = fastce.cross_entropy_with_grad(logits, [0], aux=("lse", "entropy"), backend=backend)
    assert with_lse.lse[0] == logits[0, 0]
    assert with_lse.entropy[0] == 0


@pytest.mark.parametrize("name", FLOAT_TYPES)
@pytest.mark.parametrize("distance", [3.0, 20.0, 80.0])
def test_a_tiny_loss_is_not_rounded_away(backend, name, distance):
    logits = np.array([[distance, 0, 0]], float_type(name))
    result = fastce.cross_entropy_with_grad(logits, [0], backend=backend)
    other = np.exp(-distance)
    assert result.loss.dtype == arithmetic_type(logits.dtype)
    assert_loss(result.loss, np.log1p(2 * other))
    assert_grad(result.grad, np.array([[-2.0, 1, 1]]) * other / (1 + 2 * other))
    lse = fastce.logsumexp(logits, backend=backend)
    again = fastce.cross_entropy_backward(logits, [0], lse, backend=backend)
    assert_grad(again, np.array([[-2.0, 1, 1]]) * np.exp(logits[:, 1:2] - lse.astype(float)))


@pytest.mark.parametrize("name", FLOAT_TYPES)
def test_infinite_logits_are_finite_under_a_softcap(backend, name):
    logits = np.array([[INF, -INF, 0]], float_type(name))
    result = fastce.cross_entropy_with_grad(logits, [1], softcap=2.0, backend=backend)
    z = np.array([2.0, -2.0, 0.0])
    assert_loss(result.loss, np.log(np.exp(z).sum()) + 2)
    assert_grad(result.grad, np.array([[0, 0, 1 / np.exp(z).sum()]]))


@pytest.mark.parametrize("weights", [{"weight": [0.0, 1, 1]}, {"sample_weight": [1, -1]}, {"sample_weight": [0, 0]}])
def test_mean_with_denominator_0_is_empty(backend, with_grad, weights):
    logits = np.array([[1.0, 2, 3], [3, 2, 1]], with_grad([[0.0]], [0]).grad.dtype)
    options = {**weights, "z_loss": 0.1, "backend": backend}
    result = fastce.cross_entropy_with_grad(logits, [0, 0], **options)
    assert np.isnan(result.loss)
    assert not result.grad.any()
    assert fastce.cross_entropy(logits, [0, 0], empty="zero", **options) == 0


@EVERY_REGIME
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-30, 1e-36, 1e-40, -1e-40, 1e-310])
def test_a_class_at_minus_infinity_has_no_share_however_small_the_scale(rng, shape, dtype, scale):
    """Then the logits whose powers are 0 are beyond what their type holds, but for infinity."""
    x, y = rng.normal(size=shape).astype(dtype), np.zeros(shape[0], np.int64)
    x[::3, 1] = -np.inf * np.sign(scale)
    options = {"logit_scale": scale, "reduction": "none"}
    got = fastce.cross_entropy_with_grad(x, y, **options)
    wanted = fastce.cross_entropy_with_grad(x, y, backend="reference", **options)
    np.testing.assert_allclose(got.loss, wanted.loss, rtol=1e-6 if dtype == np.float32 else 1e-12)
    np.testing.assert_allclose(got.grad, wanted.grad, rtol=1e-5, atol=2 * np.finfo(dtype).tiny)
    assert (got.grad[::3, 1] == 0).all()
