"""Sentences of the specification as properties of any call, found false or not by hypothesis.

A call is drawn as a whole: shape, axis, type, memory layout, options, special values. The CPU kernels are compared with
the reference in float64.
"""

from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import FLOAT_TYPES, arithmetic_type, assert_grad, assert_loss, assert_same, float_type, oracle
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import fastce
from fastce.problem import AUX

INF, NAN = np.inf, np.nan


def examples(n):
    return settings(
        max_examples=n, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
    )


# --- what is drawn ---------------------------------------------------------------------------------------------------

ROWS = st.one_of(
    st.lists(st.integers(1, 5), max_size=3).map(tuple),
    st.tuples(st.integers(1, 70)),
)
CLASSES = st.one_of(
    st.integers(1, 20),
    st.integers(1, 140),
    st.sampled_from([15, 16, 17, 63, 64, 65, 255, 256, 257, 300, 1000, 8192, 8193, 16_400]),
)
LAYOUTS = ("C", "F", "reversed rows", "reversed classes", "every second row", "every second class", "read-only")


class Call(NamedTuple):
    """Arguments of a call, with the classes of the logits last; `axis` is where they are to be moved."""

    logits: Any
    targets: Any
    axis: int
    layout: str

    def arranged(self, array):
        """The same numbers with the classes on `axis` and memory laid out as drawn."""
        array = np.moveaxis(array, -1, self.axis)
        if self.layout == "F":
            return np.asfortranarray(array)
        axis = self.axis if "class" in self.layout else (-2 if self.axis in (-1, array.ndim - 1) else -1)
        if "row" in self.layout and array.ndim < 2:
            return array
        index = [slice(None)] * array.ndim
        if "reversed" in self.layout:
            index[axis] = slice(None, None, -1)
            return np.ascontiguousarray(array[tuple(index)])[tuple(index)]
        if "second" in self.layout:
            wide = np.full([n * 2 if a == axis % array.ndim else n for a, n in enumerate(array.shape)], np.nan)
            index[axis] = slice(None, None, 2)
            wide = wide.astype(array.dtype)
            wide[tuple(index)] = array
            return wide[tuple(index)]
        array = np.ascontiguousarray(array)
        array.flags.writeable = self.layout != "read-only"
        return array


@st.composite
def calls(draw, kinds=("classes", "probabilities"), types=FLOAT_TYPES, sizes=(0.1, 1.0, 10.0, 60.0), layouts=LAYOUTS):
    rows, n_classes = draw(ROWS), draw(CLASSES)
    rows = rows if n_classes < 300 else rows[:1]
    dtype = float_type(draw(st.sampled_from(types)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = rng.choice(sizes, (*rows, 1))
    logits = (rng.normal(size=(*rows, n_classes)) * size).astype(dtype)
    if draw(st.sampled_from(kinds)) == "classes":
        targets = rng.integers(0, n_classes, rows).astype(draw(st.sampled_from(["int64", "int32", "uint64", "int16"])))
    else:
        targets = rng.dirichlet(np.full(n_classes, 0.7), rows).astype(draw(st.sampled_from(["float32", "float64"])))
        targets[targets < 1e-4] = 0
    axis = draw(st.integers(-1, len(rows)))
    return Call(logits, targets, axis, draw(st.sampled_from(layouts)))


@st.composite
def with_options(draw, call):
    """Options that may go with a call, every one of them there or not."""
    rows, n_classes = call.logits.shape[:-1], call.logits.shape[-1]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    every = {
        "weight": rng.choice([0.0, 0.5, 1.0, 3.0], n_classes, p=[0.1, 0.3, 0.3, 0.3]),
        "sample_weight": rng.choice([0.0, 0.5, 1.0, 2.0], rows),
        "ignore_index": draw(st.integers(-1, n_classes - 1)),
        "label_smoothing": draw(st.sampled_from([0.05, 0.5, 1.0])),
        "z_loss": draw(st.sampled_from([1e-4, 0.1])),
        "softcap": draw(st.sampled_from([1.0, 5.0, 30.0])),
        "logit_scale": draw(st.sampled_from([0.1, 0.5, 2.0, -1.0])),
    }
    names = draw(st.sets(st.sampled_from(sorted(every))))
    return {name: value for name, value in every.items() if name in names}


def is_classes(call):
    return call.targets.dtype.kind in "iub"


def allowed(call, options, grad):
    """`largest_logit` of `assert_loss`, the largest logit, and `largest_logit` and `terms` of `assert_grad`."""
    z = np.abs(np.where(np.isfinite(call.logits.astype(float)), call.logits.astype(float), 0))
    z = z * abs(options.get("logit_scale", 1.0))
    cap = options.get("softcap")
    largest = min(z.max(), cap or np.inf)
    rounded = largest if {"softcap", "logit_scale"} & set(options) else 0.0
    terms: Any = 0.0
    if not is_classes(call) or {"label_smoothing", "z_loss", "weight"} & set(options) or cap:
        terms = np.nanmax(np.abs(grad), initial=0) + upper_bound(call, options)
    # (the kernels know z to more digits than its type has, but for the softcap's tanh)
    return rounded, largest, largest if cap else 0.0, terms


def upper_bound(call, options):
    """No term of any row's gradient is larger: what is subtracted from each other may be."""
    w = np.max(options.get("weight", 1.0)) * np.max(options.get("sample_weight", 1.0))
    return max(w, 1.0) * abs(options.get("logit_scale", 1.0)) * (1 if is_classes(call) else call.targets.sum(-1).max())


def run(call, backend="cpu", logits=None, targets=None, **options):
    """Call with the arrays as drawn; give loss, gradient (classes last) and aux."""
    logits = call.logits if logits is None else logits
    targets = call.targets if targets is None else targets
    if np.asarray(targets).dtype.kind == "f":
        targets = np.moveaxis(targets, -1, call.axis)
    result = fastce.cross_entropy_with_grad(
        call.arranged(logits), targets, axis=call.axis, backend=backend, **{"reduction": "none", **options}
    )
    return result._replace(grad=np.moveaxis(result.grad, call.axis, -1))


def expected(call, logits=None, targets=None, **options):
    return oracle(
        fastce.cross_entropy_with_grad,
        call.logits if logits is None else logits,
        call.targets if targets is None else targets,
        **{"reduction": "none", **options},
    )


# --- row loss and row gradient ---------------------------------------------------------------------------------------


@examples(150)
@given(st.data(), calls())
def test_row_losses_and_gradients_follow_the_formulas_with_any_options(data, call):
    options = data.draw(with_options(call))
    aux = AUX if is_classes(call) else ("lse", "argmax", "entropy")
    aux = data.draw(st.sampled_from([(), aux]))
    actual, exact = run(call, aux=aux, **options), expected(call, aux=aux, **options)
    rounded, largest, unsure, terms = allowed(call, options, exact.grad)
    w = upper_bound(call, options)
    size = max(largest, rounded) * w  # of the terms that are added up
    if "z_loss" in options:
        size += options["z_loss"] * (largest + 10) ** 2 * w
    plain = is_classes(call) and not set(options) - {"ignore_index", "sample_weight"}
    assert_loss(actual.loss, exact.loss, 0.0 if plain else size)
    assert_grad(actual.grad, exact.grad, unsure, terms)
    if aux:
        assert_loss(actual.lse, exact.lse, largest)
        assert_loss(actual.entropy, exact.entropy, largest)
        assert_same(actual.argmax, exact.argmax)
    if len(aux) == len(AUX):
        assert_loss(actual.target_prob, exact.target_prob, largest)
        assert_same(actual.correct, exact.correct)
        assert_same(actual.rank, exact.rank)


@examples(60)
@given(st.data(), calls())
def test_any_strides_and_axis_give_the_bits_of_a_contiguous_array(data, call):
    options = data.draw(with_options(call))
    assert_result_same(run(call, **options), run(call._replace(axis=-1, layout="C"), **options))


@examples(60)
@given(st.data(), calls(layouts=[n for n in LAYOUTS if n != "read-only"]))
def test_grad_out_logits_overwrites_the_logits_with_the_same_bits(data, call):
    options = data.draw(with_options(call))
    targets = call.targets if is_classes(call) else np.moveaxis(call.targets, -1, call.axis)
    separate = fastce.cross_entropy_with_grad(call.arranged(call.logits), targets, axis=call.axis, **options)
    logits = call.arranged(call.logits)
    result = fastce.cross_entropy_with_grad(logits, targets, axis=call.axis, grad_out=logits, **options)
    assert result.grad is logits
    assert_result_same(result, separate)


def assert_result_same(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            assert_same(a, b)


@examples(50)
@given(calls(kinds=["classes"]))
def test_without_options_the_loss_is_right_to_1e_6_and_the_gradient_sums_to_0(call):
    actual, exact = run(call), expected(call)
    assert_loss(actual.loss, exact.loss)
    if arithmetic_type(call.logits.dtype) == call.logits.dtype:
        grad = actual.grad.astype(float)
        assert (np.abs(grad.sum(-1)) <= 2.5e-7 * np.abs(grad).sum(-1)).all()


@examples(50)
@given(st.data(), calls(kinds=["classes"]))
def test_a_class_target_is_a_probability_target_with_everything_on_one_class(data, call):
    options = data.draw(with_options(call))
    options.pop("ignore_index", None)
    one_hot = np.eye(call.logits.shape[-1])[call.targets.astype(int)] if call.logits.shape[-1] <= 1000 else None
    assume(one_hot is not None)
    a, b = run(call, **options), run(call, targets=one_hot, **options)
    scale = (np.abs(call.logits.astype(float)).max() * abs(options.get("logit_scale", 1)) + 10) * upper_bound(
        call, options
    )
    if "z_loss" in options:
        scale *= 1 + options["z_loss"] * scale
    assert_loss(a.loss, b.loss, scale)
    _, _, unsure, terms = allowed(call, {**options, "label_smoothing": 0}, b.grad.astype(float))
    assert_grad(a.grad, b.grad.astype(float), 2 * unsure, 2 * terms)


@examples(40)
@given(calls(kinds=["classes"], types=["float32", "float64"]), st.sampled_from([-1000.0, -32.0, 8.0, 500.0]))
def test_a_number_added_to_all_logits_of_a_row_changes_nothing(call, number):
    logits = np.round(call.logits * 8) / 8  # so that the sum is exact
    a, b = run(call, logits=logits), run(call, logits=logits + call.logits.dtype.type(number))
    tiny = 10 * np.finfo(a.loss.dtype).tiny
    np.testing.assert_allclose(a.loss, b.loss, rtol=2e-6 if a.loss.dtype == np.float32 else 1e-11, atol=tiny)
    assert_grad(a.grad, b.grad.astype(float))


# --- ignored rows, special values ------------------------------------------------------------------------------------


@examples(60)
@given(st.data(), calls(kinds=["classes"]))
def test_an_ignored_row_is_0_whatever_it_holds_and_others_do_not_notice(data, call):
    options = data.draw(with_options(call))
    options["ignore_index"] = -1
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    ignored = rng.random(call.targets.shape) < 0.4
    targets = np.where(ignored, -1, call.targets.astype(np.int64))
    logits = call.logits.copy()
    logits[ignored] = rng.choice([NAN, INF, -INF, 1.0], logits[ignored].shape).astype(logits.dtype)
    result, clean = run(call, logits=logits, targets=targets, aux=AUX, **options), run(call, aux=AUX, **options)
    assert not np.asarray(result.loss)[ignored].any()
    assert not result.grad[ignored].any()
    for name, value in zip(AUX, [0, -1, False, 0, 0, 0], strict=True):
        assert (np.asarray(getattr(result, name))[ignored] == value).all()
    assert_same(np.asarray(result.loss)[~ignored], np.asarray(clean.loss)[~ignored])
    assert_same(result.grad[~ignored], clean.grad[~ignored])


@examples(60)
@given(st.data(), calls())
def test_nan_or_infinity_makes_its_row_nan_and_touches_no_other(data, call):
    options = data.draw(with_options(call))
    options.pop("ignore_index", None)
    options.pop("softcap", None)  # under which infinity is finite
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    bad = rng.random(call.logits.shape[:-1]) < 0.4
    logits = call.logits.copy()
    value = data.draw(st.sampled_from([NAN, INF * np.sign(options.get("logit_scale", 1.0))]))
    logits[bad, rng.integers(logits.shape[-1])] = value
    result, clean = run(call, logits=logits, **options), run(call, **options)
    assert np.isnan(np.asarray(result.loss)[bad]).all()
    assert np.isnan(result.grad[bad].astype(float)).all()
    assert_same(np.asarray(result.loss)[~bad], np.asarray(clean.loss)[~bad])
    assert_same(result.grad[~bad], clean.grad[~bad])


@examples(80)
@given(st.data(), calls())
def test_classes_at_minus_infinity_have_probability_and_gradient_0(data, call):
    """And `0 * (anything) = 0` in the loss, infinite if the target lies there: all as the reference has it."""
    n_classes = call.logits.shape[-1]
    assume(n_classes > 1)
    options = data.draw(with_options(call))
    options.pop("softcap", None)
    options.pop("ignore_index", None)
    sign = np.sign(options.get("logit_scale", 1.0))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    out = rng.random(call.logits.shape) < data.draw(st.sampled_from([0.02, 0.5, 0.95]))
    out[..., rng.integers(n_classes)] = False
    logits = np.where(out, np.array(-INF * sign, call.logits.dtype), call.logits)
    actual, exact = run(call, logits=logits, **options), expected(call, logits=logits, **options)
    np.testing.assert_array_equal(np.isfinite(actual.loss), np.isfinite(exact.loss))
    _, largest, unsure, terms = allowed(call._replace(logits=logits), options, exact.grad)
    size = (largest + 10) * upper_bound(call, options) * (1 + options.get("z_loss", 0) * (largest + 10))
    assert_loss(actual.loss, exact.loss, size)
    assert_grad(actual.grad, exact.grad, unsure, terms)
    if is_classes(call) and "label_smoothing" not in options:
        others = out & (np.arange(n_classes) != call.targets[..., np.newaxis].astype(int))
        assert not actual.grad[others].any()


@examples(40)
@given(calls(kinds=["classes"]))
def test_argmax_is_the_first_maximum_and_rank_counts_the_classes_above(call):
    logits = np.round(call.logits.astype(float)).astype(call.logits.dtype)  # many equals
    result = run(call, logits=logits, aux=("argmax", "correct", "rank"))
    x = logits.astype(float)
    at_target = np.take_along_axis(x, call.targets[..., np.newaxis].astype(int), -1)
    np.testing.assert_array_equal(result.argmax, x.argmax(-1))
    np.testing.assert_array_equal(result.correct, x.argmax(-1) == call.targets)
    np.testing.assert_array_equal(result.rank, (x > at_target).sum(-1))


# --- reductions ------------------------------------------------------------------------------------------------------


@examples(60)
@given(st.data(), calls(kinds=["classes"]))
def test_sum_mean_and_normalizer_are_those_of_the_row_losses(data, call):
    options = data.draw(with_options(call))
    options.pop("z_loss", None)
    rows, n_classes = call.targets.shape, call.logits.shape[-1]
    w = options.get("weight", np.ones(n_classes))[call.targets.astype(int)]
    s = options.get("sample_weight", np.ones(rows))
    valid = call.targets.astype(int) != options.get("ignore_index", -100)
    losses = np.asarray(run(call, **options).loss).astype(float)
    rtol = 1e-6 if arithmetic_type(call.logits.dtype) == np.float32 else 1e-13
    total = run(call, reduction="sum", **options)
    np.testing.assert_allclose(total.loss, losses.sum(), rtol=rtol)
    by_three = run(call, reduction="mean", normalizer=3.0, **options)
    np.testing.assert_allclose(by_three.loss, losses.sum() / 3, rtol=rtol)
    denominator = (s * w)[valid].sum()
    mean = run(call, reduction="mean", **options)
    if denominator == 0:
        assert np.isnan(mean.loss)
        assert not mean.grad.any()
        assert run(call, reduction="mean", empty="zero", **options).loss == 0
        return
    np.testing.assert_allclose(mean.loss, losses.sum() / denominator, rtol=rtol)
    for result, divisor in ((by_three, 3.0), (mean, denominator)):
        exact = expected(call, **options).grad / divisor
        _, _, unsure, terms = allowed(call, options, exact)
        assert_grad(result.grad, exact, unsure, np.abs(terms) / min(divisor, 1))


@examples(50)
@given(st.data(), calls(kinds=["classes"], types=["float32", "float64"]))
def test_mean_has_a_denominator_of_its_own_for_the_z_loss(data, call):
    """sum_V s*ce / sum_V s*w_y + sum_V s*zl / sum_V s."""
    options = {**data.draw(with_options(call)), "z_loss": 0.125}
    targets = call.targets.astype(int)
    w = options.get("weight", np.ones(call.logits.shape[-1]))[targets]
    s = options.get("sample_weight", np.ones(targets.shape))
    valid = targets != options.get("ignore_index", -100)
    assume((s * w)[valid].sum() > 0)
    without = expected(call, **{**options, "z_loss": 0.0}).loss
    zl = expected(call, **options).loss - without
    mean = np.sum(without) / (s * w)[valid].sum() + np.sum(zl) / s[valid].sum()
    single = arithmetic_type(call.logits.dtype) == np.float32
    size = np.abs(call.logits).max() + 10
    tolerance = 2e-6 if single else 1e-11
    actual = run(call, reduction="mean", **options).loss
    np.testing.assert_allclose(actual, mean, rtol=tolerance, atol=tolerance * size * size)


# --- functions -------------------------------------------------------------------------------------------------------


@examples(50)
@given(st.data(), calls(kinds=["classes"], types=["float32", "float64"]))
def test_cross_entropy_is_nll_loss_of_log_softmax(data, call):
    options = data.draw(with_options(call))
    options = {k: v for k, v in options.items() if k in ("weight", "sample_weight", "ignore_index")}
    logits = call.arranged(call.logits)
    more = {"axis": call.axis, "reduction": "none", **options}
    direct = fastce.cross_entropy(logits, call.targets, **more)
    textbook = fastce.nll_loss(fastce.log_softmax(logits, axis=call.axis), call.targets, **more)
    size = (np.abs(call.logits).max() + 10) * upper_bound(call, options)
    tolerance = 1e-6 if direct.dtype == np.float32 else 1e-13
    np.testing.assert_allclose(direct, textbook, rtol=tolerance, atol=tolerance * size)


@examples(50)
@given(calls(kinds=["classes"]))
def test_softmax_log_softmax_and_logsumexp_follow_their_formulas(call):
    logits, axis = call.arranged(call.logits), call.axis
    x = call.logits.astype(float)
    largest = np.abs(x).max()
    assert_loss(fastce.logsumexp(logits, axis=axis), oracle(fastce.logsumexp, call.logits), largest)
    p = np.moveaxis(fastce.softmax(logits, axis=axis), axis, -1)
    assert_grad(p, oracle(fastce.softmax, call.logits))
    log_p = np.moveaxis(fastce.log_softmax(logits, axis=axis), axis, -1)
    exact = oracle(fastce.log_softmax, call.logits)
    unit = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 3e-7, "float64": 5e-16}[call.logits.dtype.name]
    arithmetic = 1e-6 if arithmetic_type(call.logits.dtype) == np.float32 else 2e-15
    subnormal = 2.0**-24 if call.logits.dtype == np.float16 else 0.0
    np.testing.assert_allclose(log_p.astype(float), exact, rtol=unit, atol=arithmetic * largest + subnormal)


@examples(50)
@given(st.data(), calls(kinds=["classes"], sizes=(0.1, 1.0, 10.0)))
def test_backward_from_lse_gives_the_gradient_of_the_one_pass(data, call):
    options = data.draw(with_options(call))
    one_pass = run(call, aux=("lse",), **options)
    logits = call.arranged(call.logits)
    grad = fastce.cross_entropy_backward(
        logits, call.targets, one_pass.lse, axis=call.axis, **{"reduction": "none", **options}
    )
    exact = expected(call, **options).grad
    _, largest, _, terms = allowed(call, options, exact)
    # lse, rounded to its type, is what p = exp(z - lse) starts from: an absolute error of p's largest term
    assert_grad(np.moveaxis(grad, call.axis, -1), exact, largest + 10, terms + upper_bound(call, options))


# --- bad input -------------------------------------------------------------------------------------------------------


@examples(40)
@given(st.data(), calls(kinds=["classes"], layouts=["C", "F", "every second row"]))
def test_a_bad_target_is_found_before_anything_is_written(data, call):
    targets = call.targets.astype(np.int64)
    bad = data.draw(st.sampled_from([-1, -(2**63), call.logits.shape[-1], 2**63 - 1]))
    position = data.draw(st.integers(0, targets.size - 1))
    targets.flat[position] = bad
    logits = call.arranged(call.logits)
    kept, out = logits.copy(), np.full(targets.shape, 7, arithmetic_type(logits.dtype))
    with pytest.raises(IndexError, match=str(bad)) as error:
        fastce.cross_entropy_with_grad(
            logits, targets, axis=call.axis, reduction="none", out=out, grad_out=logits, label_smoothing=0.1
        )
    assert str(call.logits.shape[-1]) in str(error.value)
    assert_same(logits, kept)
    assert (out == 7).all()
