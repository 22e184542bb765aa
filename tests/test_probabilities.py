"""Probability targets, which have loops of their own: right in every regime, and the same bits in all of them."""

import numba
import numpy as np
import pytest
from conftest import FLOAT_TYPES, arithmetic_type, assert_grad, assert_loss, assert_same, float_type, oracle
from rows import CHUNK, EVERY_REGIME, FLOATS, KEPT, is_plain

import fastce
from fastce.kernels.cpu import LIMITS, launch
from fastce.kernels.cpu.row import MOST_WAITING

EVERY_TYPE = pytest.mark.parametrize("name", FLOAT_TYPES)
OPTIONS = pytest.mark.parametrize(
    "options", [{}, {"label_smoothing": 0.1}, {"z_loss": 1e-3}, {"logit_scale": 0.7}, {"softcap": 20.0}], ids=str
)


def case(rng, name, shape):
    """Logits, and probabilities of which a third is 0; where one is, a logit may be -inf."""
    n_rows, n_classes = shape
    logits = rng.normal(size=shape) * rng.choice([0.3, 3, 10], (n_rows, 1))
    q = fastce.softmax(rng.normal(size=shape) * rng.choice([0.3, 3], (n_rows, 1)))
    if n_classes > 1:
        q[:, rng.integers(3) :: 3] = 0
        logits[(q == 0) & (rng.random(shape) < 0.2) & (np.arange(n_rows) % 3 == 1)[:, np.newaxis]] = -np.inf
    dtype = float_type(name)
    return logits.astype(dtype), q.astype(arithmetic_type(dtype))


def assert_right(found, logits, q, **options):
    expected = oracle(fastce.cross_entropy_with_grad, logits, q, reduction="none", **options)
    z = options.get("logit_scale", 1.0) * logits.astype(np.float64)
    z = options["softcap"] * np.tanh(z / options["softcap"]) if "softcap" in options else z
    e = options.get("label_smoothing", 0.0)
    smooth = (1 - e) * q.astype(np.float64) + e / q.shape[1]
    p = fastce.softmax(z, backend="reference") * smooth.sum(axis=1, keepdims=True)
    terms = np.maximum(smooth, p).max(axis=1, keepdims=True)  # (what is subtracted from each other)
    largest = np.abs(z[np.isfinite(z)]).max(initial=0) if {"logit_scale", "softcap"} & set(options) else 0.0
    # (a power below the smallest normal number may be 0)
    lost = 2 * np.finfo(arithmetic_type(logits.dtype)).tiny
    assert_loss(found.loss, expected.loss, largest)
    assert_grad(found.grad, expected.grad, largest, terms, lost=lost)


def assert_same_result(found, expected):
    assert_same(found.loss, expected.loss)
    assert_same(found.grad.view(np.uint8), expected.grad.view(np.uint8))


BORDERS = (256, 1000, FLOATS * KEPT // 2, FLOATS * KEPT, CHUNK, 2 * CHUNK)


@EVERY_TYPE
@pytest.mark.parametrize("n_rows", [1, 9, 33])
def test_any_number_of_classes(rng, name, n_rows):
    for n_classes in [*range(1, 140), *(n + d for n in BORDERS for d in (-1, 0, 1))]:
        logits, q = case(rng, name, (n_rows, n_classes))
        found = fastce.cross_entropy_with_grad(logits, q, reduction="none")
        assert_right(found, logits, q)
        assert_same(fastce.cross_entropy(logits, q, reduction="none"), found.loss)


@EVERY_REGIME
@OPTIONS
@EVERY_TYPE
def test_every_regime_by_every_way(rng, monkeypatch, name, options, shape):
    logits, q = case(rng, name, shape)
    expected = fastce.cross_entropy_with_grad(logits, q, reduction="none", **options)
    assert_right(expected, logits, q, **options)
    into = np.full_like(logits, 7)
    place, apart = logits.copy(), np.full((2 * shape[0], shape[1] + 3), np.nan, logits.dtype)[::2, 1:-2]
    apart[...] = logits
    of_float64, by_columns = q.astype(np.float64), np.asfortranarray(q)
    for x, targets, to in (
        (logits, q, into), (place, q, place), (apart, q, None), (logits, of_float64, None), (logits, by_columns, None),
    ):  # fmt: skip
        found = fastce.cross_entropy_with_grad(x, targets, reduction="none", grad_out=to, **options)
        assert_same_result(found, expected)
    monkeypatch.setattr(launch, "LIMITS", LIMITS._replace(stream=0))
    assert_same_result(fastce.cross_entropy_with_grad(logits, q, reduction="none", **options), expected)


@EVERY_REGIME
@EVERY_TYPE
@pytest.mark.parametrize(
    "names",
    [(), ("label_smoothing",), ("sample_weight",), ("weight",), ("softcap", "z_loss", "logit_scale", "sample_weight")],
    ids=lambda names: " ".join(names) or "none",
)
def test_the_same_bits_the_short_way_of_plain_calls_and_the_long(rng, names, name, shape):
    logits, q = case(rng, name, shape)
    each = {
        "label_smoothing": 0.1,
        "z_loss": 1e-3,
        "softcap": 20.0,
        "logit_scale": 0.5,
        "weight": rng.random(shape[1]).astype(q.dtype),
        "sample_weight": rng.random(shape[0]).astype(q.dtype),
    }
    options = {key: each[key] for key in names}
    assert is_plain(logits, q, **options)
    expected = fastce.cross_entropy_with_grad(logits, q, reduction="mean", **options)
    assert_same_result(fastce.cross_entropy_with_grad(logits, q, **options), expected)
    place = logits.copy()
    assert_same_result(fastce.cross_entropy_with_grad(place, q, grad_out=place, **options), expected)
    assert fastce.cross_entropy(logits, q, **options) == expected.loss


def test_the_short_way_leaves_what_is_not_plain_to_the_long(rng):
    logits, q = case(rng, "float32", (6, 5))
    expected = fastce.cross_entropy_with_grad(logits, q)
    for targets in (q.astype(np.float64), q.astype(np.float16), np.asfortranarray(q), q.tolist()):
        assert not is_plain(logits, targets)
        rtol = 1e-3 if isinstance(targets, np.ndarray) and targets.itemsize == 2 else 1e-6
        np.testing.assert_allclose(fastce.cross_entropy(logits, targets), expected.loss, rtol=rtol)
    for bad in (q[:, :4], q[:5], q[np.newaxis]):
        with pytest.raises(ValueError, match="must have the shape of the logits"):
            fastce.cross_entropy(logits, bad)
    with pytest.raises(ValueError, match="grad_out shares memory with targets"):
        fastce.cross_entropy_with_grad(logits, q, grad_out=q)
    assert np.isnan(fastce.cross_entropy(logits, q, sample_weight=np.zeros(6, np.float32)))


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="one thread only")
@EVERY_REGIME
@EVERY_TYPE
def test_the_same_bits_for_one_thread_and_all(rng, name, shape):
    logits, q = case(rng, name, (max(shape[0], LIMITS.serial // shape[1] + 1), shape[1]))
    assert not launch.is_small(*logits.shape)
    n_threads = numba.get_num_threads()
    expected = fastce.cross_entropy_with_grad(logits, q)
    try:
        numba.set_num_threads(1)
        alone = fastce.cross_entropy_with_grad(logits, q)
    finally:
        numba.set_num_threads(n_threads)
    assert_same_result(alone, expected)


@EVERY_TYPE
@pytest.mark.parametrize("stream", [LIMITS.stream, 0])
@pytest.mark.parametrize("n_classes", [10, 40, 57, 250, 1003, FLOATS * KEPT, CHUNK + 77])
def test_the_same_bits_beside_rows_of_huge_logits_and_of_nan(rng, monkeypatch, name, n_classes, stream):
    monkeypatch.setattr(launch, "LIMITS", LIMITS._replace(stream=stream))
    logits, q = case(rng, name, (120, n_classes))
    expected = fastce.cross_entropy_with_grad(logits, q, reduction="none")
    kind = rng.choice(3, 120, p=[0.8, 0.1, 0.1])
    logits[kind == 1] *= logits.dtype.type(1e3 if name == "float16" else 1e7)
    logits[kind == 2, rng.integers(n_classes)] = np.nan
    into = np.full_like(logits, 7)
    mixed = fastce.cross_entropy_with_grad(logits, q, grad_out=into, reduction="none")
    assert_same(mixed.loss[kind == 0], expected.loss[kind == 0])
    assert_same(mixed.grad[kind == 0].view(np.uint8), expected.grad[kind == 0].view(np.uint8))
    assert np.isnan(mixed.loss[kind == 2]).all()
    assert np.isnan(mixed.grad[kind == 2].astype(np.float32)).all()
    of_huge = oracle(fastce.cross_entropy_with_grad, logits[kind == 1], q[kind == 1], reduction="none")
    np.testing.assert_allclose(mixed.loss[kind == 1], of_huge.loss, rtol=1e-6)
    assert_grad(mixed.grad[kind == 1], of_huge.grad, terms=1.0)
    assert_same(fastce.cross_entropy(logits, q, reduction="none"), mixed.loss)


@EVERY_TYPE
def test_the_same_bits_of_rows_too_long_to_wait(rng, monkeypatch, name):
    n_classes = MOST_WAITING // arithmetic_type(float_type(name)).itemsize + 77
    logits, q = case(rng, name, (3, n_classes))
    expected = fastce.cross_entropy_with_grad(logits, q)
    for stream in (0, 1 << 60):  # on one thread: more share the rows' chunks
        monkeypatch.setattr(launch, "LIMITS", LIMITS._replace(stream=stream, serial=1 << 60))
        assert_same_result(fastce.cross_entropy_with_grad(logits, q), expected)
        place = logits.copy()
        assert_same_result(fastce.cross_entropy_with_grad(place, q, grad_out=place), expected)


def test_probabilities_that_do_not_add_up_to_1(rng):
    """Of gradients that are given and taken back, or of weights on the classes of each row."""
    logits, q = case(rng, "float32", (20, 100))
    for scale in (0.0, 3.0, 1e-3):
        found = fastce.cross_entropy_with_grad(logits, q * np.float32(scale), reduction="none")
        assert_right(found, logits, q * np.float32(scale))
        one = fastce.cross_entropy_with_grad(logits, q, reduction="none")
        np.testing.assert_allclose(found.loss, one.loss * scale, rtol=1e-6)
