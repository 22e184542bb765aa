"""fastce.jax: values, gradients and errors under JAX's transformations, beside the textbook, optax and fastce."""

import inspect
from functools import partial

import numpy as np
import pytest
from conftest import LOSS, assert_grad, assert_loss, assert_same, float_type

import fastce

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

import jax.numpy as jnp  # noqa: E402

import fastce.jax  # noqa: E402
from fastce import several  # noqa: E402

cross_entropy = fastce.jax.cross_entropy
value_and_grad = jax.value_and_grad(cross_entropy)
enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64

ROWS, CLASSES = 9, 37


def textbook(
    logits, targets, weight=1.0, sample_weight=1.0, ignore_index=-100, label_smoothing=0.0, z_loss=0.0, softcap=None,
    logit_scale=1.0, reduction="mean", normalizer=None, axis=-1,
):  # fmt: skip
    """Write down the formula, with the classes last and for JAX to differentiate."""
    u = logit_scale * jnp.moveaxis(logits, axis, -1)
    z = u if softcap is None else softcap * jnp.tanh(u / softcap)
    lse = jnp.log(jnp.exp(z - z.max(-1, keepdims=True)).sum(-1)) + z.max(-1)
    n_classes = z.shape[-1]
    w = jnp.broadcast_to(weight, n_classes)
    s = jnp.broadcast_to(sample_weight, lse.shape)
    if jnp.issubdtype(targets.dtype, jnp.floating):
        valid, q = jnp.ones(lse.shape, bool), jnp.moveaxis(targets, axis, -1)
        of_target = s
    else:
        valid = targets != ignore_index
        q = jnp.arange(n_classes) == targets[..., None]
        of_target = s * w[jnp.where(valid, targets, 0)]
    q = (1 - label_smoothing) * q + label_smoothing / n_classes
    ce = jnp.where(valid, s * (w * q * (lse[..., None] - z)).sum(-1), 0)
    zl = jnp.where(valid, s * z_loss * lse**2, 0)
    if normalizer is not None:
        return (ce + zl if reduction == "none" else (ce + zl).sum()) / normalizer
    if reduction == "none":
        return ce + zl
    if reduction == "sum":
        return (ce + zl).sum()
    return ce.sum() / jnp.where(valid, of_target, 0).sum() + zl.sum() / jnp.where(valid, s, 0).sum()


def logits_of(*shape, seed=0, dtype=np.float32):
    return (3 * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def classes_of(*shape, n_classes=CLASSES, seed=1):
    return np.random.default_rng(seed).integers(0, n_classes, shape).astype(np.int32)


def weights_of(*shape, seed=2):
    return np.random.default_rng(seed).uniform(0.5, 2, shape).astype(np.float32)


def probabilities_of(*shape, seed=3):
    q = np.random.default_rng(seed).exponential(size=shape)
    return (q / q.sum(-1, keepdims=True)).astype(np.float32)


X, Y, Q = logits_of(ROWS, CLASSES), classes_of(ROWS), probabilities_of(ROWS, CLASSES)
W, S = weights_of(CLASSES), weights_of(ROWS)
EVERYTHING = {
    "weight": W,
    "sample_weight": S,
    "label_smoothing": 0.1,
    "z_loss": 0.01,
    "softcap": 5.0,
    "logit_scale": 0.7,
}
# Options, and whether the targets are probabilities.
CASES = {
    "plain": ({}, False),
    "weight": ({"weight": W}, False),
    "sample weight": ({"sample_weight": S}, False),
    "ignored": ({"ignore_index": int(Y[0])}, False),
    "smoothed": ({"label_smoothing": 0.2}, False),
    "z-loss": ({"z_loss": 0.01}, False),
    "softcap": ({"softcap": 5.0}, False),
    "scaled": ({"logit_scale": -0.7}, False),
    "sum": ({"reduction": "sum"}, False),
    "none": ({"reduction": "none"}, False),
    "normalizer": ({"normalizer": 13.0}, False),
    "none, normalizer": ({"reduction": "none", "normalizer": 13.0, "sample_weight": S}, False),
    "everything": ({**EVERYTHING, "ignore_index": int(Y[1])}, False),
    "everything, none": ({**EVERYTHING, "reduction": "none"}, False),
    "probabilities": ({}, True),
    "probabilities, everything": (EVERYTHING, True),
}
EVERY_CASE = pytest.mark.parametrize(("options", "soft"), CASES.values(), ids=CASES)


def exact(logits, targets, options, upstream=1.0):
    """Give the textbook's loss and gradient in float64."""

    def double(a):
        return jnp.asarray(a, jnp.float64) if np.asarray(a).dtype.kind not in "iub" else jnp.asarray(a)

    def loss_and_grad(x, y, upstream, arrays):
        loss, pull = jax.vjp(lambda x: textbook(x, y, **{**options, **arrays}), x)
        return loss, pull(jnp.broadcast_to(upstream, loss.shape))[0]

    with enable_x64(True):
        arrays = {name: double(value) for name, value in options.items() if isinstance(value, np.ndarray)}
        found = jax.jit(loss_and_grad)(double(logits), double(targets), double(upstream), arrays)
        return tuple(map(np.asarray, found))


def largest(options, logits=X):
    """Where logits are scaled or capped, that is rounded: by this much of the tolerance."""
    return float(np.abs(logits).max()) if "softcap" in options or "logit_scale" in options else 0.0


# --- values and gradients


@EVERY_CASE
def test_loss_and_gradient_are_the_textbooks(options, soft):
    targets = Q if soft else Y
    upstream = 1.0
    if options.get("reduction") == "none":
        upstream = weights_of(ROWS, seed=7)
        loss, pull = jax.vjp(partial(cross_entropy, targets=targets, **options), X)
        (grad,) = pull(jnp.asarray(upstream))
    else:
        loss, grad = jax.jit(partial(value_and_grad, **options))(X, targets)
    want_loss, want_grad = exact(X, targets, options, upstream)
    assert_loss(np.asarray(loss), want_loss, largest(options))
    terms = 2 * np.abs(upstream)[:, None] if np.ndim(upstream) else 2 / ROWS
    assert_grad(np.asarray(grad), want_grad, largest(options), terms if soft or len(options) > 2 else 0.0)


@EVERY_CASE
def test_the_numbers_are_those_of_fastce_bit_for_bit(options, soft):
    targets = Q if soft else Y
    want = fastce.cross_entropy_with_grad(X, targets, **options)
    loss, pull = jax.vjp(jax.jit(partial(cross_entropy, targets=targets, **options)), X)
    assert_same(np.asarray(loss), np.asarray(want.loss))
    assert_same(np.asarray(pull(jnp.ones_like(loss))[0]), want.grad)
    assert_same(np.asarray(jax.jit(partial(cross_entropy, targets=targets, **options))(X)), np.asarray(want.loss))


@pytest.mark.parametrize("shape", [(32, 10), (64, 1000), (2, 5000)])
def test_as_optax(shape):
    x, y, q = logits_of(*shape), classes_of(shape[0], n_classes=shape[1]), probabilities_of(*shape)
    for targets, loss in ((y, optax.softmax_cross_entropy_with_integer_labels), (q, optax.softmax_cross_entropy)):
        ours = jax.jit(value_and_grad)(x, targets)
        theirs = jax.jit(jax.value_and_grad(lambda x, t, loss=loss: loss(x, t).mean()))(x, targets)
        np.testing.assert_allclose(ours[0], theirs[0], rtol=2e-6)
        np.testing.assert_allclose(ours[1], theirs[1], rtol=0, atol=2e-6 / shape[0])
        rows = jax.jit(partial(cross_entropy, reduction="none"))(x, targets)
        np.testing.assert_allclose(rows, loss(x, targets), rtol=2e-6)


@pytest.mark.parametrize("axis", [0, 1, -1, -3])
def test_the_classes_lie_on_an_axis(axis):
    x = logits_of(4, 5, 6)
    n_classes = x.shape[axis]
    y = classes_of(*np.delete(x.shape, axis), n_classes=n_classes)
    for reduction in ("mean", "none"):
        options = {"axis": axis, "reduction": reduction}
        upstream = weights_of(*y.shape) if reduction == "none" else np.float32(1)
        loss, pull = jax.vjp(partial(cross_entropy, targets=y, **options), x)
        (grad,) = pull(jnp.asarray(upstream))
        want_loss, want_grad = exact(x, y, options, upstream)
        assert_loss(np.asarray(loss), want_loss)
        assert_grad(np.asarray(grad), want_grad, axis=axis)
        found = jax.jit(jax.vmap(partial(cross_entropy, reduction="none", axis=axis)))(x[None], y[None])
        assert_same(np.asarray(found)[0], fastce.cross_entropy(x, y, reduction="none", axis=axis))


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32"])
def test_types(name):
    x = jnp.asarray(X.astype(float_type(name)))
    loss, grad = jax.jit(value_and_grad)(x, Y)
    want = fastce.cross_entropy_with_grad(np.asarray(x), Y)
    assert (loss.dtype, grad.dtype) == (np.float32, x.dtype)
    assert_same(np.asarray(loss), np.asarray(want.loss))
    assert_same(np.asarray(grad), want.grad)
    assert_same(np.asarray(cross_entropy(x, Y)), np.asarray(want.loss))


def test_float64_where_jax_has_it():
    x = logits_of(ROWS, CLASSES, dtype=np.float64)
    assert value_and_grad(x, Y.astype(np.int64))[1].dtype == np.float32
    with enable_x64(True):
        loss, grad = jax.jit(partial(value_and_grad, z_loss=0.01))(x, Y.astype(np.int64))
    want = fastce.cross_entropy_with_grad(x, Y, z_loss=0.01)
    assert_same(np.asarray(loss), np.asarray(want.loss))
    assert_same(np.asarray(grad), want.grad)


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.uint8, np.int16, np.uint16, np.uint32])
def test_targets_of_any_integer_type(dtype):
    y = np.array([1, 0, 1, 1], dtype)
    assert cross_entropy(X[:4], y) == fastce.cross_entropy(X[:4], y)


def test_what_jax_makes_arrays_of():
    want = fastce.cross_entropy(np.float32([[1, 2, 3]]), np.array([1]), weight=[1, 2, 3])
    assert cross_entropy([[1.0, 2.0, 3.0]], [1], weight=[1, 2, 3]) == want


@pytest.mark.parametrize("scale", [2.0**14, 1e-3, 0.0, -1.0])
@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32"])
def test_upstream_gradient(name, scale):
    x = jnp.asarray(X.astype(float_type(name)))
    grad = jax.jit(jax.grad(lambda x: scale * cross_entropy(x, Y)))(x)
    _, want = exact(np.asarray(x).astype(np.float32), Y, {})
    rounded_once_more = {
        np.dtype(t): v for t, v in ((np.float16, 0.0), (float_type("bfloat16"), 2.0**-8), (np.float32, 2.0**-24))
    }
    lost = rounded_once_more[x.dtype] * np.abs(scale * want)
    assert_grad(np.asarray(grad), scale * want, lost=lost)


def test_a_scaled_loss_saves_a_gradient_of_float16():
    x = np.zeros((4096, 64), np.float16)  # 1 / (4096 * 64) is 3.8e-6, where float16 has but six bits left
    grad = jax.grad(lambda x: 1024 * cross_entropy(x, np.zeros(4096, np.int32)))(x)
    np.testing.assert_allclose(np.asarray(grad)[:, 1:].astype(np.float64), 1024 / (4096 * 64), rtol=2.0**-11)


def test_no_rows_and_one_class():
    nothing, none = np.empty((0, 5), np.float32), np.empty(0, np.int32)
    assert np.isnan(cross_entropy(nothing, none))
    loss, grad = jax.jit(partial(value_and_grad, empty="zero"))(nothing, none)
    assert (loss, grad.shape) == (0, (0, 5))
    assert cross_entropy(nothing, none, reduction="none").shape == (0,)
    loss, grad = value_and_grad(np.ones((3, 1), np.float32), np.zeros(3, np.int32))
    assert loss == 0
    assert not grad.any()
    loss, grad = value_and_grad(X[0], Y[0])  # one row, without an axis for rows
    assert_same(np.asarray(grad), fastce.cross_entropy_with_grad(X[0], Y[0]).grad)


def test_rows_with_nan_leave_the_others_alone():
    x = X.copy()
    x[3, 5] = np.nan
    loss, pull = jax.vjp(partial(cross_entropy, targets=Y, reduction="none"), x)
    (grad,) = pull(jnp.ones(ROWS))
    assert np.flatnonzero(np.isnan(loss)).tolist() == [3]
    assert np.flatnonzero(np.isnan(grad).any(axis=1)).tolist() == [3]


# --- vmap

ITEMS = 3
BATCHES = {
    "logits": logits_of(ITEMS, ROWS, CLASSES, seed=11),
    "targets": classes_of(ITEMS, ROWS, seed=12),
    "weight": weights_of(ITEMS, CLASSES, seed=13),
    "sample_weight": weights_of(ITEMS, ROWS, seed=14),
    "z_loss": np.float32([0.0, 0.01, 0.1]),
    "normalizer": np.float32([3.0, 5.0, 7.0]),
}
BATCHES["targets"][1] = 5  # an item of rows that are all ignored, where that is asked for
# The arguments that differ from item to item, and the options that are the same.
VMAPS = {
    "logits": (("logits",), {}),
    "targets": (("targets",), {}),
    "both": (("logits", "targets"), {}),
    "sum": (("logits", "targets"), {"reduction": "sum", "weight": W}),
    "none": (("logits", "targets"), {"reduction": "none", "z_loss": 0.01}),
    "ignored": (("logits", "targets"), {"ignore_index": 5}),
    "ignored, empty": (("logits", "targets"), {"ignore_index": 5, "empty": "zero", "sample_weight": S}),
    "weighted": (("logits", "targets"), {"weight": W, "sample_weight": S, "label_smoothing": 0.1}),
    "z-loss": (("logits", "targets"), {"z_loss": 0.01, "sample_weight": S}),
    "weights": (("logits", "weight"), {}),
    "weight and z-loss": (("logits", "targets"), {"weight": W, "z_loss": 0.01}),
    "sample weights": (("logits", "sample_weight"), {}),
    "one logits, sample weights": (("sample_weight",), {"weight": W}),
    "z-losses": (("logits", "z_loss"), {}),
    "normalizers": (("logits", "normalizer"), {"reduction": "sum"}),
    "normalizer": (("logits", "targets"), {"normalizer": 4.0, "reduction": "mean"}),
}
EVERY_VMAP = pytest.mark.parametrize(("differing", "options"), VMAPS.values(), ids=VMAPS)


def loss_of(given, options):
    arguments = {"logits": X, "targets": Y, **options, **given}
    return cross_entropy(arguments.pop("logits"), **arguments)


def loss_and_grad_of(given, options):
    """Give the gradient with respect to an item's logits, which may be those of all items."""
    x = given.get("logits", jnp.asarray(X))
    loss, pull = jax.vjp(lambda x: loss_of({**given, "logits": x}, options), x)
    return loss, pull(jnp.ones_like(loss))[0]


@EVERY_VMAP
def test_vmap_is_a_loop(differing, options):
    given = {name: jnp.asarray(BATCHES[name]) for name in differing}
    losses = jax.jit(jax.vmap(partial(loss_of, options=options)))(given)
    losses_too, grads = jax.jit(jax.vmap(partial(loss_and_grad_of, options=options)))(given)
    assert_same(np.asarray(losses), np.asarray(losses_too))
    for i in range(ITEMS):
        arguments = {"logits": X, "targets": Y, **options, **{name: BATCHES[name][i] for name in differing}}
        want = fastce.cross_entropy_with_grad(**arguments)
        np.testing.assert_allclose(losses[i], want.loss, rtol=LOSS[np.dtype(np.float32)])
        assert_grad(np.asarray(grads[i]), want.grad)


def test_vmap_of_single_rows_is_one_call(monkeypatch):
    calls = []
    monkeypatch.setattr(several.api, "cross_entropy_with_grad", lambda *a, **o: calls.append(o) or one_call(*a, **o))
    one_call = fastce.cross_entropy_with_grad
    losses, grads = jax.vmap(value_and_grad)(X, Y)
    assert len(calls) == 1
    want = fastce.cross_entropy_with_grad(X, Y, reduction="none")
    assert_same(np.asarray(losses), want.loss)
    assert_same(np.asarray(grads), want.grad)


def test_vmap_in_vmap_over_any_axis():
    x, y = logits_of(2, 5, 3, 6), classes_of(3, 2, 5, n_classes=6)  # items: 2 x 3, rows: 5, classes: 6
    both = jax.vmap(jax.vmap(value_and_grad, in_axes=(1, 0)), in_axes=(0, 1))
    losses, grads = jax.jit(both)(x, y)
    for i in range(2):
        for j in range(3):
            want = fastce.cross_entropy_with_grad(x[i, :, j], y[j, i])
            assert_loss(np.asarray(losses)[i, j], want.loss)
            assert_grad(np.asarray(grads)[i, j], want.grad)


def test_vmap_of_bad_targets_and_of_nothing():
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"targets\[1, 2\] is 99, which is neither a class"):
        jax.vmap(partial(cross_entropy, weight=W))(
            BATCHES["logits"], np.where(np.arange(ROWS) == 2, [[0], [99], [0]], 0)
        )
    nothing = jax.vmap(value_and_grad)(np.empty((0, ROWS, CLASSES), np.float32), np.empty((0, ROWS), np.int32))
    assert nothing[1].shape == (0, ROWS, CLASSES)


def test_gradient_of_a_vmap():
    x, y = BATCHES["logits"], jnp.asarray(classes_of(ITEMS, ROWS, seed=12))
    upstream = np.float32([1, 2, 3])
    grad = jax.jit(jax.grad(lambda x: (jax.vmap(cross_entropy)(x, y) * upstream).sum()))(x)
    for i in range(ITEMS):
        assert_grad(np.asarray(grad[i]), upstream[i] * exact(x[i], y[i], {})[1])


# --- other transformations


def test_traced_numbers():
    numbers = {name: EVERYTHING[name] for name in ("label_smoothing", "z_loss", "softcap", "logit_scale")}
    numbers["normalizer"] = 13.0
    want = fastce.cross_entropy_with_grad(X, Y, **{n: float(np.float32(v)) for n, v in numbers.items()})
    loss, grad = jax.jit(lambda x, n: value_and_grad(x, Y, **n))(X, numbers)
    assert_same(np.asarray(loss), np.asarray(want.loss))
    assert_same(np.asarray(grad), want.grad)
    eager = cross_entropy(X, Y, **{n: jnp.float32(v) for n, v in numbers.items()})
    assert_same(np.asarray(eager), np.asarray(want.loss))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("z_loss", np.nan, "z_loss must be finite, not nan"),
        ("label_smoothing", 2.0, r"label_smoothing must lie in \[0, 1\], but is 2.0"),
        ("softcap", -1.0, "softcap must be greater than 0, not -1.0"),
        ("normalizer", 0.0, "normalizer must be greater than 0, not 0.0"),
    ],
)
def test_traced_numbers_out_of_range(name, value, message):
    with pytest.raises(jax.errors.JaxRuntimeError, match="INVALID_ARGUMENT: ValueError: " + message):
        jax.jit(lambda v: cross_entropy(X, Y, **{name: v}))(value)
    with pytest.raises(ValueError, match="^" + message):
        cross_entropy(X, Y, **{name: value})


def test_checkpoint_scan_and_loops():
    weights = logits_of(8, CLASSES, seed=5) / 10
    inputs = logits_of(4, ROWS, 8, seed=6)
    targets = classes_of(4, ROWS)

    def mean_loss(weights, loss, wrap):
        step = wrap(lambda total, batch: (total + loss(batch[0] @ weights, batch[1]), None))
        return jax.lax.scan(step, jnp.float32(0), (inputs, targets))[0]

    def plain(x, y):
        return optax.softmax_cross_entropy_with_integer_labels(x, y).mean()

    for wrap in (lambda f: f, jax.checkpoint):
        ours, theirs = (
            jax.jit(jax.value_and_grad(mean_loss), static_argnums=(1, 2))(weights, f, wrap)
            for f in (cross_entropy, plain)
        )
        np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-6)
        np.testing.assert_allclose(ours[1], theirs[1], rtol=0, atol=1e-6)


def test_gradient_accumulation_with_a_traced_number_of_tokens():
    y = np.where(np.arange(ROWS) < 4, Y, -100).astype(np.int32)

    @jax.jit
    def accumulated(x, y):
        tokens = (y != -100).sum()
        parts = [
            jax.value_and_grad(cross_entropy)(a, b, normalizer=tokens) for a, b in ((x[:2], y[:2]), (x[2:], y[2:]))
        ]
        return sum(p[0] for p in parts), jnp.concatenate([p[1] for p in parts])

    want = fastce.cross_entropy_with_grad(X, y)
    loss, grad = accumulated(X, y)
    assert_loss(np.asarray(loss), want.loss)
    assert_grad(np.asarray(grad), want.grad)


def test_donated_logits():
    f = jax.jit(value_and_grad, donate_argnums=0)
    want = fastce.cross_entropy_with_grad(X, Y)
    x = jnp.array(X)
    loss, grad = f(x, Y)
    assert x.is_deleted()
    assert_same(np.asarray(grad), want.grad)
    assert_same(np.asarray(loss), np.asarray(want.loss))


# --- one pass, and no copies


def custom_calls(function, *arguments):
    """Give the calls of fastce in a compiled program, and the other instructions that do something."""
    program = jax.jit(function).lower(*arguments).compile().as_text()
    lines = [line for line in program.splitlines() if " = " in line and "{" in line]
    nothing = ("parameter(", "get-tuple-element(", "tuple(", "constant(", "bitcast(")
    calls = [line for line in lines if "custom-call(" in line]
    return calls, [line for line in lines if line not in calls and not any(n in line for n in nothing)]


def test_a_gradient_takes_one_call_and_nothing_else():
    calls, others = custom_calls(value_and_grad, X, Y)
    assert len(calls) == 1
    assert not others
    assert calls[0].split(" custom-call")[0].count("f32[9,37]") == 1


def test_no_gradient_is_computed_where_none_is_wanted():
    calls, others = custom_calls(cross_entropy, X, Y)
    assert len(calls) == 1
    assert not others
    assert "f32[9,37]" not in calls[0].split(" custom-call")[0]


def test_nothing_is_copied(monkeypatch):
    seen = {}

    def spy(n_axes, loss, grad, arrays, options):
        seen.update({name: array.ctypes.data for name, array in arrays.items()}, loss=loss.ctypes.data)
        seen["grad"] = None if grad is None else grad.ctypes.data
        fill(n_axes, loss, grad, arrays, options)

    fill = several.fill
    monkeypatch.setattr(several, "fill", spy)
    given = {"logits": jnp.array(X), "targets": jnp.array(Q), "weight": jnp.array(W), "sample_weight": jnp.array(S)}
    f = jax.jit(lambda logits, **others: value_and_grad(logits, **others))
    loss, grad = f(**given)
    pointers = {name: array.unsafe_buffer_pointer() for name, array in {**given, "loss": loss, "grad": grad}.items()}
    assert seen == pointers


# --- errors


@pytest.mark.parametrize("name", ["targets", "weight", "sample_weight", "z_loss", "normalizer"])
def test_gradients_that_are_not_there(name):
    value = {"targets": Q, "weight": W, "sample_weight": S, "z_loss": 0.1, "normalizer": 3.0}[name]

    def loss(x, value):
        return cross_entropy(x, **{"targets": Y, name: value})

    message = rf"no gradient with respect to {name}, only to the logits: jax.lax.stop_gradient\({name}\)"
    for argnums in (1, (0, 1)):
        with pytest.raises(NotImplementedError, match=message):
            jax.jit(jax.grad(loss, argnums))(X, value)
    stopped = jax.grad(lambda x, v: loss(x, jax.lax.stop_gradient(v)), (0, 1))(X, value)
    assert not stopped[1].any()
    assert_same(np.asarray(stopped[0]), np.asarray(jax.grad(loss)(X, value)))


def test_derivatives_that_are_not_there():
    def total(x):
        return jax.grad(cross_entropy)(x, Y).sum()

    for derivative in (
        jax.grad(total),
        jax.jit(jax.grad(total)),
        jax.jacfwd(total),
        jax.hessian(partial(cross_entropy, targets=Y)),
    ):
        with pytest.raises(NotImplementedError, match="cross_entropy has no second derivative"):
            derivative(X)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(partial(cross_entropy, targets=Y), (X,), (X,))
    # A gradient that is but multiplied has a derivative.
    assert jax.grad(lambda a: a * jax.grad(cross_entropy)(X, Y)[0, 0])(2.0) == jax.grad(cross_entropy)(X, Y)[0, 0]


def test_bad_targets():
    f = jax.jit(value_and_grad)
    for _ in range(2):
        with pytest.raises(
            jax.errors.JaxRuntimeError, match=r"OUT_OF_RANGE: IndexError: targets\[2\] is 37, which is neither"
        ):
            jax.block_until_ready(f(X, np.where(np.arange(ROWS) == 2, CLASSES, Y)))
    assert_same(np.asarray(f(X, Y)[0]), np.asarray(fastce.cross_entropy(X, Y)))
    with pytest.raises((jax.errors.JaxRuntimeError, ValueError), match="OUT_OF_RANGE"):
        jax.block_until_ready(f(X, Y - 1000))


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, r"class targets must have shape \(9,\)", {"targets": Y[1:]}),
        (ValueError, "targets of type float32 are probabilities", {"targets": Q[1:]}),
        (TypeError, "targets must be class indices", {"targets": Y.astype(np.complex64)}),
        (TypeError, "logits must be float16, bfloat16", {"logits": X.astype(np.int32)}),
        (TypeError, "logits must be float16, bfloat16", {"logits": jnp.zeros((ROWS, CLASSES), jnp.float8_e5m2)}),
        (TypeError, "logits is a masked array", {"logits": np.ma.masked_array(X)}),
        (ValueError, "have no classes on axis -1", {"logits": X[:, :0]}),
        (ValueError, r"weight must have shape \(37,\), not \(36,\)", {"weight": W[1:]}),
        (ValueError, r"sample_weight must have shape \(9,\)", {"sample_weight": S[1:]}),
        (ValueError, r"z_loss must have shape \(\), not \(2,\)", {"z_loss": jnp.zeros(2)}),
        (TypeError, "z_loss must be of an integer or float type", {"z_loss": jnp.complex64(1)}),
        (TypeError, "z_loss must be a number", {"z_loss": "1"}),
        (ValueError, "axis 2 is out of range", {"axis": 2}),
        (ValueError, "reduction must be one of 'mean', 'sum', 'none', not 'avg'", {"reduction": "avg"}),
        (TypeError, "there is no option 'smoothing'", {"smoothing": 0.1}),
        (TypeError, "there is no option 'out'", {"out": np.zeros(())}),
        (TypeError, "backend='cuda' takes arrays on a GPU", {"backend": "cuda"}),
    ],
)
def test_mistakes_are_errors_while_jax_traces(error, message, arguments):
    given = {"logits": X, "targets": Y, **arguments}
    with pytest.raises(error, match=message):
        cross_entropy(**given)
    with pytest.raises(error, match=message):
        jax.eval_shape(lambda targets: cross_entropy(**{**given, "targets": targets}), given["targets"])


@pytest.mark.parametrize("name", ["ignore_index", "axis", "reduction", "empty"])
def test_options_that_cannot_be_traced(name):
    with pytest.raises((TypeError, ValueError), match=f"{name} must be"):
        jax.jit(lambda value: cross_entropy(X, Y, **{name: value}))(1)


def test_arrays_elsewhere():
    with pytest.raises(
        TypeError, match=r"logits must be on the CPU, where fastce.jax computes, not on gpu: jax.device_put"
    ):
        fastce.jax._check_platforms("logits", {"gpu"})


def test_the_reference_backend():
    loss, grad = jax.jit(partial(value_and_grad, backend="reference"))(X, Y)
    want = fastce.cross_entropy_with_grad(X, Y, backend="reference")
    assert_same(np.asarray(loss), np.asarray(want.loss))
    assert_same(np.asarray(grad), want.grad)


def test_the_signature_shows_the_options():
    assert inspect.signature(cross_entropy).parameters["label_smoothing"].default == 0.0
