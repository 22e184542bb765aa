"""The public functions: every option, type, shape and memory layout, for every backend, against the oracle."""

import inspect
import itertools

import numpy as np
import pytest
from conftest import (
    BACKENDS,
    FLOAT_TYPES,
    INTEGER_TYPES,
    arithmetic_type,
    assert_grad,
    assert_loss,
    assert_same,
    float_type,
    oracle,
)

import fastce
from fastce.problem import AUX, NllOptions, Options

# Shape of the logits and axis of the classes, each for a reason.
SHAPES = {
    "plain": ((6, 5), -1),
    "one row": ((1, 7), -1),
    "one dimension": ((5,), -1),
    "one class": ((4, 1), -1),
    "two classes": ((9, 2), -1),
    "axis in the middle": ((2, 3, 4, 5), 1),
    "classes first": ((6, 7), 0),
    "past a vector of 16": ((3, 67), -1),
    "past a chunk of 4,096": ((3, 5001), -1),
    "past a block of 1,024 rows": ((1030, 3), -1),
}
KINDS = ("classes", "probabilities")


def make(rng, shape=(6, 5), axis=-1, dtype="float32", kind="classes"):
    """Give logits, some rows sure of a class and some not, and targets."""
    dtype = float_type(dtype)
    rows = tuple(np.delete(shape, axis))
    sureness = rng.choice([0.1, 1, 10], rows)
    logits = rng.normal(size=shape) * np.expand_dims(sureness, axis)
    if kind == "classes":
        return logits.astype(dtype), rng.integers(0, shape[axis], rows)
    q = rng.dirichlet(np.full(shape[axis], 0.5), rows)
    return logits.astype(dtype), np.moveaxis(q, -1, axis).astype(dtype)


def every_option(rng, shape=(6, 5), axis=-1):
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


def check(logits, targets, backend, axis=-1, **options):
    """Compare loss, gradient and everything in aux with the oracle; give the result."""
    of_classes = np.asarray(targets).dtype.kind in "iub"
    aux = AUX if of_classes else ("lse", "argmax", "entropy")
    result = fastce.cross_entropy_with_grad(logits, targets, axis=axis, aux=aux, backend=backend, **options)
    expected = oracle(fastce.cross_entropy_with_grad, logits, targets, axis=axis, aux=aux, **options)

    z = np.abs(np.asarray(logits).astype(float)) * abs(options.get("logit_scale", 1))
    largest = min(z.max(), options.get("softcap") or np.inf)
    rounded = largest if {"softcap", "logit_scale"} & set(options) else 0.0
    # (the kernels know z to more digits than its type has, but for the softcap's tanh)
    unsure = largest if backend == "reference" or options.get("softcap") else 0.0
    terms = 0.0 if of_classes and not options.get("label_smoothing") else np.abs(expected.grad).max(initial=0)
    if options.get("softcap"):
        slope = np.maximum(1 - np.tanh(z / options["softcap"]) ** 2, 1e-3)
        terms = np.maximum(terms, np.abs(expected.grad / slope).max(axis=axis, keepdims=True))
    assert result.grad.dtype == np.asarray(logits).dtype
    assert np.asarray(result.loss).dtype == result.lse.dtype == arithmetic_type(result.grad.dtype)
    assert_loss(result.loss, expected.loss, rounded)
    assert_grad(result.grad, expected.grad, unsure, terms, axis)
    assert_loss(result.lse, expected.lse, largest)
    assert_loss(result.entropy, expected.entropy, largest)
    assert_same(result.argmax, expected.argmax)
    if of_classes:
        assert_loss(result.target_prob, expected.target_prob, largest)
        assert_same(result.correct, expected.correct)
        assert_same(result.rank, expected.rank)
    return result


# What is computed -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "axis"), SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("with_options", [False, True], ids=["plain", "every option"])
def test_shapes_and_types(rng, backend, dtype, kind, shape, axis, with_options):
    options = every_option(rng, shape, axis) if with_options else {}
    logits, targets = make(rng, shape, axis, dtype, kind)
    check(logits, targets, backend, axis, reduction="none", **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "names", [n for k in (1, 2) for n in itertools.combinations(every_option(np.random), k)], ids="+".join
)
def test_options_alone_and_in_pairs(rng, backend, kind, names):
    options = {name: value for name, value in every_option(rng).items() if name in names}
    check(*make(rng, kind=kind), backend, reduction="none", **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("normalizer", [None, 7.5])
@pytest.mark.parametrize("with_options", [False, True], ids=["plain", "every option"])
def test_reductions(rng, backend, kind, reduction, normalizer, with_options):
    options = every_option(rng) if with_options else {}
    logits, targets = make(rng, kind=kind)
    for grad_output in (None, -2.5, np.float32(0.5)):
        options |= {"reduction": reduction, "normalizer": normalizer, "grad_output": grad_output}
        result = check(logits, targets, backend, **options)
        assert isinstance(result.loss, np.ndarray if reduction == "none" else np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_grad_output_of_each_row(rng, backend, kind):
    logits, targets = make(rng, (2, 6, 3), 1, kind=kind)
    check(logits, targets, backend, axis=1, reduction="none", grad_output=rng.normal(size=(2, 3)))


def test_normalizer_and_weights_of_many_rows_are_summed_in_float64(backend):
    n = 300_000  # a running float32 sum of these would be off by 1e-3
    logits = np.zeros((n, 2), np.float32)
    sample_weight = np.full(n, 0.1, np.float32)
    loss = fastce.cross_entropy(logits, np.zeros(n, int), sample_weight=sample_weight, backend=backend)
    assert loss == np.float32(np.log(2))
    total = fastce.cross_entropy(logits, np.zeros(n, int), reduction="sum", backend=backend)
    assert total == pytest.approx(n * float(np.float32(np.log(2))), rel=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("with_options", [False, True], ids=["plain", "every option"])
def test_forward_alone_and_backward_alone_agree_with_both_at_once(rng, backend, kind, dtype, with_options):
    options = {**(every_option(rng) if with_options else {}), "reduction": "none", "backend": backend}
    logits, targets = make(rng, dtype=dtype, kind=kind)
    both = fastce.cross_entropy_with_grad(logits, targets, aux=("lse",), grad_output=2.0, **options)
    assert_loss(fastce.cross_entropy(logits, targets, **options), both.loss.astype(float))
    grad = fastce.cross_entropy_backward(logits, targets, both.lse, grad_output=2.0, **options)
    expected = oracle(fastce.cross_entropy_with_grad, logits, targets, grad_output=2.0, **options).grad
    assert_grad(grad, expected, largest_logit=np.abs(both.lse).max(), terms=2.0)


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("options", [{}, {"z_loss": 0.125, "softcap": 8.0, "weight": [0.5] * 67 + [2.0] * 33}])
@pytest.mark.parametrize("sure", [0.0, 5.0, 30.0])
def test_backward_of_some_of_the_classes_from_the_lse_of_all(rng, backend, dtype, options, sure):
    logits, targets = make(rng, (9, 100), -1, dtype)
    targets %= 67  # the part that holds the targets
    logits[np.arange(9), targets] += float_type(dtype).type(sure)
    expected = oracle(fastce.cross_entropy_with_grad, logits, targets, aux=("lse",), reduction="sum", **options)
    part = {**options, "reduction": "sum", "backend": backend}
    if "weight" in part:
        part["weight"] = part["weight"][:67]
    grad = fastce.cross_entropy_backward(logits[:, :67], targets, expected.lse, **part)
    # lse, rounded to its type, is what p starts from: an error relative to what it is multiplied by, 1 or the weight
    largest = np.abs(np.asarray(logits, float)).max()
    assert_grad(grad, expected.grad[:, :67], largest, terms=2.0 + np.abs(expected.grad).max())


@pytest.mark.parametrize("dtype", INTEGER_TYPES)
def test_types_of_class_targets(rng, backend, dtype):
    logits, targets = make(rng, (5, 2))
    expected = check(logits, targets, backend)
    given = check(logits, targets.astype(dtype), backend)
    assert_same(given.loss, expected.loss)
    assert_same(given.grad, expected.grad)


@pytest.mark.parametrize("ignore_index", [-100, -1, 255, 2, 2**62])
def test_ignore_index(rng, backend, ignore_index):
    logits, targets = make(rng)
    targets[[1, 4]] = ignore_index
    result = check(logits, targets, backend, ignore_index=ignore_index)
    assert not result.grad[[1, 4]].any()
    ignored_by_type = targets.astype(np.uint8) if ignore_index == 255 else targets
    assert_same(check(logits, ignored_by_type, backend, ignore_index=ignore_index).grad, result.grad)


@pytest.mark.parametrize("targets_dtype", FLOAT_TYPES)
@pytest.mark.parametrize("logits_dtype", FLOAT_TYPES)
def test_types_of_probabilities(rng, backend, logits_dtype, targets_dtype):
    logits, _ = make(rng, dtype=logits_dtype)
    _, targets = make(rng, kind="probabilities", dtype=targets_dtype)
    if (logits_dtype, targets_dtype) != ("float64", "float64"):  # else the oracle has more digits than the arithmetic
        targets = targets.astype(np.float32).astype(float_type(targets_dtype))
    check(logits, targets, backend)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "longdouble", "int8", "uint64", "bool"])
def test_types_of_weights(rng, backend, dtype):
    logits, targets = make(rng)
    weight = np.array([1, 0, 1, 1, 1]).astype(dtype)
    sample_weight = np.array([1, 1, 0, 1, 1, 1]).astype(dtype)
    result = check(logits, targets, backend, weight=weight, sample_weight=sample_weight)
    lists = check(logits, targets, backend, weight=weight.tolist(), sample_weight=sample_weight.tolist())
    assert_same(lists.loss, result.loss)


def test_numbers_of_any_real_type_are_options(rng, backend):
    logits, targets = make(rng)
    floats = {"label_smoothing": 1.0, "z_loss": 2.0, "softcap": 3.0, "logit_scale": 2.0, "normalizer": 4.0}
    expected = fastce.cross_entropy(logits, targets, **floats, axis=1, ignore_index=3, backend=backend)
    for number in (int, np.float32, np.float16, np.int8):
        given = {name: number(value) for name, value in floats.items()}
        loss = fastce.cross_entropy(
            logits, targets, **given, axis=np.int8(1), ignore_index=np.uint8(3), backend=backend
        )
        assert loss == expected


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize(("shape", "axis"), SHAPES.values(), ids=SHAPES)
def test_calls_without_options(rng, dtype, shape, axis):
    """Such calls have a way of their own."""
    logits, targets = (a.swapaxes(axis, -1) if a.ndim == len(shape) else a for a in make(rng, shape, axis, dtype))
    logits, targets = np.ascontiguousarray(logits), targets.reshape(logits.shape[:-1])
    targets.reshape(-1)[1::3] = -100
    expected = oracle(fastce.cross_entropy_with_grad, logits, targets)
    assert_loss(fastce.cross_entropy(logits, targets), expected.loss)
    for grad_out in (None, np.full_like(logits, 7), logits):
        result = fastce.cross_entropy_with_grad(logits, targets, grad_out=grad_out)
        assert grad_out is None or result.grad is grad_out
        assert type(result.loss) is arithmetic_type(logits.dtype).type
        assert_loss(result.loss, expected.loss)
        assert_grad(result.grad, expected.grad)


def test_special_values_without_options():
    logits = np.array([[1, -np.inf, 2], [np.nan, 0, 0], [0, np.inf, 0]], np.float32)
    for targets in ([0, -100, -100], [1, -100, -100], [0, 1, -100], [0, 1, 2], [-100, -100, -100]):
        expected = oracle(fastce.cross_entropy_with_grad, logits, targets)
        result = fastce.cross_entropy_with_grad(logits, np.array(targets))
        np.testing.assert_allclose(result.loss, expected.loss, rtol=1e-6)
        np.testing.assert_allclose(result.grad, expected.grad, rtol=1e-6)
        np.testing.assert_allclose(fastce.cross_entropy(logits, np.array(targets)), expected.loss, rtol=1e-6)
    huge = np.array([[3e38, -3e38], [3e38, -3e38]], np.float32)
    assert fastce.cross_entropy_with_grad(huge, np.array([1, 1])).loss == np.inf
    assert fastce.cross_entropy_with_grad(huge / 2, np.array([1, 1])).loss == np.float32(3e38)


# Results --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AUX)
def test_aux_gives_what_it_is_asked_for(rng, backend, name):
    logits, targets = make(rng, (2, 5, 3), 1)
    everything = fastce.cross_entropy_with_grad(logits, targets, axis=1, aux=AUX, backend=backend)
    result = fastce.cross_entropy_with_grad(logits, targets, axis=1, aux=(name,), backend=backend)
    assert_same(getattr(result, name), getattr(everything, name))
    assert getattr(result, name).shape == targets.shape
    assert [other for other in AUX if getattr(result, other) is not None] == [name]
    assert_same(result.grad, everything.grad)
    assert_same(result.loss, everything.loss)


@pytest.mark.parametrize("aux", [["lse", "rank"], {"lse", "rank"}, ("rank", "lse", "rank")], ids=str)
def test_aux_may_be_any_collection(rng, backend, aux):
    result = fastce.cross_entropy_with_grad(*make(rng), aux=aux, backend=backend)
    assert [name for name in AUX if getattr(result, name) is not None] == ["lse", "rank"]


def test_first_of_equal_maxima_wins(backend):
    logits = np.zeros((3, 70), np.float32)
    logits[1, [20, 40]] = 1
    logits[2, 69] = 1
    result = fastce.cross_entropy_with_grad(logits, [0, 40, 0], aux=("argmax", "correct", "rank"), backend=backend)
    assert result.argmax.tolist() == [0, 20, 69]
    assert result.correct.tolist() == [True, False, False]
    assert result.rank.tolist() == [0, 0, 1]


def test_one_dimension_gives_scalars(backend):
    for targets in (2, np.uint8(2), np.array(2)):
        result = fastce.cross_entropy_with_grad([1.0, 2.0, 3.0], targets, reduction="none", aux=AUX, backend=backend)
        assert all(isinstance(value, np.generic) for value in (result.loss, *result[2:-1]))
        assert result.grad.shape == (3,)
    assert isinstance(fastce.logsumexp([1.0, 2.0], backend=backend), np.float64)


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
def test_out_takes_the_loss(rng, backend, dtype):
    logits, targets = make(rng, (4, 3, 2), 1, dtype)
    for reduction, shape in (("mean", ()), ("sum", ()), ("none", (4, 2))):
        options = {"axis": 1, "reduction": reduction, "backend": backend}
        expected = fastce.cross_entropy(logits, targets, **options)
        for order in "CF":
            out = np.full(shape, 7, arithmetic_type(logits.dtype), order=order)
            assert fastce.cross_entropy(logits, targets, out=out, **options) is out
            assert_same(out, np.asarray(expected))
            out[...] = 7
            assert fastce.cross_entropy_with_grad(logits, targets, out=out, **options).loss is out
            assert_same(out, np.asarray(expected))
    strided = np.full((4, 4), 7, out.dtype)
    fastce.cross_entropy(logits, targets, out=strided[:, ::2], **options)
    assert_same(strided[:, ::2], expected)
    assert (strided[:, 1::2] == 7).all()


def test_the_logits_are_not_written(rng, backend):
    logits, targets = make(rng, (5, 40))
    before = logits.copy()
    check(logits, targets, backend, **every_option(rng, (5, 40)))
    fastce.softmax(logits, backend=backend)
    fastce.log_softmax(logits, backend=backend)
    assert_same(logits, before)


def test_a_large_float32_mean_is_inf_without_a_warning(backend):
    logits = np.array([[3e38, -3e38], [0, 0]], np.float32)
    assert fastce.cross_entropy(logits, [1, 1], backend=backend) == np.inf
    logits = np.array([[1e38, -1e38]] * 4, np.float32)
    assert fastce.cross_entropy(logits, [1] * 4, reduction="sum", backend=backend) == np.inf
    assert fastce.cross_entropy(logits, [1] * 4, backend=backend) == np.float32(2e38)
    options = {"reduction": "none", "normalizer": 1e-9, "backend": backend}
    np.testing.assert_array_equal(fastce.cross_entropy(logits, [1] * 4, **options), [np.inf] * 4)


# Memory layouts -------------------------------------------------------------------------------------------------------


def in_layouts(values):
    """Give arrays of the same numbers in many memory layouts."""
    rows = np.concatenate([values, values[:2]])
    wide = np.concatenate([values, values[:, :3]], axis=1)
    unaligned = np.empty(values.nbytes + 1, np.uint8)[1:].view(values.dtype).reshape(values.shape)
    unaligned[...] = values
    read_only = values.copy()
    read_only.flags.writeable = False
    return {
        "C": values.copy(),
        "F": np.asfortranarray(values),
        "rows of a larger array": rows[: len(values)],
        "every second row": values.repeat(2, axis=0)[::2],
        "rows backwards": values[::-1].copy()[::-1],
        "part of wider rows": wide[:, : values.shape[1]],
        "classes backwards": values[:, ::-1].copy()[:, ::-1],
        "every second class": values.repeat(2, axis=1)[:, ::2],
        "unaligned": unaligned,
        "read-only": read_only,
    }


LAYOUTS = tuple(in_layouts(np.zeros((3, 4))))


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_inputs(rng, backend, dtype, layout):
    shape = (37, 70)
    options = {**every_option(rng, shape), "reduction": "none", "backend": backend}
    for kind in KINDS:
        logits, targets = make(rng, shape, -1, dtype, kind)
        expected = fastce.cross_entropy_with_grad(logits, targets, **options)
        targets = in_layouts(targets[:, None])[layout][:, 0] if kind == "classes" else in_layouts(targets)[layout]
        result = fastce.cross_entropy_with_grad(in_layouts(logits)[layout], targets, **options)
        assert_loss(result.loss, expected.loss.astype(float))
        assert_grad(result.grad, expected.grad.astype(float), terms=2.0)


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name not in ("unaligned", "read-only")])
def test_layouts_of_the_gradient(rng, backend, dtype, layout):
    for shape in ((37, 3), (5, 300)):
        logits, targets = make(rng, shape, -1, dtype)
        expected = fastce.cross_entropy_with_grad(logits, targets, backend=backend)
        grad_out = in_layouts(np.zeros_like(logits))[layout]
        around = grad_out if grad_out.base is None else grad_out.base
        around[...] = 7
        result = fastce.cross_entropy_with_grad(logits, targets, grad_out=grad_out, backend=backend)
        assert result.grad is grad_out
        assert_same(result.loss, expected.loss)
        assert_grad(grad_out, expected.grad.astype(float))
        assert np.count_nonzero(around == 7) == around.size - grad_out.size

        in_place = in_layouts(logits)[layout]
        result = fastce.cross_entropy_with_grad(in_place, targets, grad_out=in_place, backend=backend)
        assert result.grad is in_place
        assert_grad(in_place, expected.grad.astype(float))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize(("shape", "axis"), SHAPES.values(), ids=SHAPES)
def test_in_place_with_every_option(rng, backend, kind, dtype, shape, axis):
    options = {**every_option(rng, shape, axis), "axis": axis, "reduction": "none", "backend": backend}
    logits, targets = make(rng, shape, axis, dtype, kind)
    aux = ("lse", "argmax", "entropy")
    expected = fastce.cross_entropy_with_grad(logits, targets, aux=aux, **options)
    backward = logits.copy()
    result = fastce.cross_entropy_with_grad(logits, targets, grad_out=logits, aux=aux, **options)
    for name in ("loss", "grad", *aux):
        assert_same(getattr(result, name), getattr(expected, name))
    expected = fastce.cross_entropy_backward(backward, targets, result.lse, **options)
    fastce.cross_entropy_backward(backward, targets, result.lse, grad_out=backward, **options)
    assert_same(backward, expected)


def test_in_place_through_another_view(rng, backend):
    logits, targets = make(rng)
    expected = fastce.cross_entropy_with_grad(logits, targets, backend=backend).grad
    read_only = logits.view()
    read_only.flags.writeable = False
    fastce.cross_entropy_with_grad(read_only, targets, grad_out=logits.view(), backend=backend)
    assert_same(logits, expected)


def test_outputs_beside_inputs_in_one_buffer(rng, backend):
    logits, targets = make(rng, (6, 4))
    expected = fastce.cross_entropy_with_grad(logits, targets, reduction="none", backend=backend)
    buffer = np.zeros((6, 9), np.float32)
    buffer[:, 0:8:2] = logits
    options = {"grad_out": buffer[:, 1:9:2], "out": buffer[:, 8].copy(), "reduction": "none", "backend": backend}
    result = fastce.cross_entropy_with_grad(buffer[:, 0:8:2], targets, **options)
    assert_grad(result.grad, expected.grad.astype(float))
    assert_same(buffer[:, 0:8:2], logits)


def test_broadcast_logits(rng, backend):
    row, targets = make(rng, (5,))[0], rng.integers(0, 5, 7)
    logits = np.broadcast_to(row, (7, 5))
    result = check(logits, targets, backend)
    assert result.grad.strides == (20, 4)


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_memory_mapped_logits(rng, backend, mode, tmp_path):
    logits, targets = make(rng, (50, 30))
    expected = fastce.cross_entropy_with_grad(logits, targets, backend=backend)
    path = tmp_path / "logits.npy"
    np.save(path, logits)
    written = path.read_bytes()
    mapped = np.load(path, mmap_mode=mode)
    result = fastce.cross_entropy_with_grad(mapped, targets, backend=backend)
    assert type(result.grad) is np.ndarray
    assert_same(result.grad, expected.grad)
    assert_same(result.loss, expected.loss)
    assert path.read_bytes() == written
    if mode != "r":
        result = fastce.cross_entropy_with_grad(mapped, targets, grad_out=mapped, backend=backend)
        assert result.grad is mapped
        assert_same(np.asarray(mapped), expected.grad)


def test_the_gradient_keeps_the_order_of_the_logits(rng, backend):
    logits, targets = make(rng, (6, 5))
    for order in "CF":
        result = fastce.cross_entropy_with_grad(np.array(logits, order=order), targets, backend=backend)
        assert result.grad.flags[f"{order}_CONTIGUOUS"]


# The other functions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize(("shape", "axis"), SHAPES.values(), ids=SHAPES)
def test_logsumexp_softmax_log_softmax(rng, backend, dtype, shape, axis):
    logits, _ = make(rng, shape, axis, dtype)
    options = {"axis": axis, "backend": backend}
    lse = fastce.logsumexp(logits, **options)
    assert lse.dtype == arithmetic_type(logits.dtype)
    assert_loss(lse, oracle(fastce.logsumexp, logits, axis=axis), largest_logit=np.abs(logits).max().astype(float))
    out = np.full(lse.shape, 7, lse.dtype)
    assert fastce.logsumexp(logits, out=out, **options) is out
    assert_same(out, np.asarray(lse))

    softmax = fastce.softmax(logits, **options)
    assert_grad(softmax, oracle(fastce.softmax, logits, axis=axis), axis=axis)
    log_softmax = fastce.log_softmax(logits, **options)
    assert_grad(log_softmax, oracle(fastce.log_softmax, logits, axis=axis), axis=axis)
    for function, expected in ((fastce.softmax, softmax), (fastce.log_softmax, log_softmax)):
        assert expected.dtype == logits.dtype
        out = np.full_like(logits, 7)
        assert function(logits, out=out, **options) is out
        assert_same(out, expected)
        out[...] = logits
        assert function(out, out=out, **options) is out
        assert_same(out, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_logsumexp_softmax_log_softmax(rng, backend, layout):
    logits, _ = make(rng, (5, 70))
    for function in (fastce.logsumexp, fastce.softmax, fastce.log_softmax):
        expected = function(logits, backend=backend).astype(float)
        given = in_layouts(logits)[layout]
        np.testing.assert_allclose(function(given, backend=backend), expected, rtol=1e-6)
        if function is not fastce.logsumexp and layout not in ("unaligned", "read-only"):
            np.testing.assert_allclose(function(given, out=given, backend=backend), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_nll_loss_of_log_softmax_is_cross_entropy(rng, backend, dtype, reduction):
    logits, targets = make(rng, (2, 4, 3), 1, dtype)
    options = {name: every_option(rng, (2, 4, 3), 1)[name] for name in ("weight", "sample_weight", "ignore_index")}
    for more in ({}, options, {"normalizer": 3.0}):
        more = {**more, "reduction": reduction, "axis": 1}
        log_probs = fastce.log_softmax(logits.astype(arithmetic_type(logits.dtype)), axis=1, backend=backend)
        nll = fastce.nll_loss(log_probs, targets, **more)
        assert_loss(nll, oracle(fastce.cross_entropy, logits, targets, **more))
        out = np.zeros_like(np.asarray(nll))
        assert fastce.nll_loss(log_probs, targets, out=out, **more) is out
        assert_same(out, np.asarray(nll))


def test_nll_loss_of_no_row_and_of_special_values():
    assert np.isnan(fastce.nll_loss(np.zeros((0, 3)), np.zeros(0, int)))
    assert fastce.nll_loss(np.zeros((1, 3)), [-100], empty="zero") == 0
    log_probs = np.array([[0, -np.inf], [np.nan, -np.inf]])
    np.testing.assert_array_equal(fastce.nll_loss(log_probs, [1, 0], reduction="none"), [np.inf, np.nan])
    np.testing.assert_array_equal(fastce.nll_loss(log_probs, [1, 1], weight=[1, 0], reduction="none"), [0, 0])


# Signatures -----------------------------------------------------------------------------------------------------------


def test_options_have_one_order_and_their_types_are_declared():
    def options(function):
        return [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]

    own = {"out", "grad_output", "grad_out", "aux"}
    for function in (fastce.cross_entropy, fastce.cross_entropy_with_grad, fastce.cross_entropy_backward):
        assert {p.name for p in options(function)} - own == set(Options.__annotations__)
    assert {p.name for p in options(fastce.nll_loss)} - own == set(NllOptions.__annotations__)
    defaults = {p.name: p.default for p in options(fastce.cross_entropy)}
    assert all(p.default == defaults[p.name] for p in options(fastce.nll_loss))


def test_backends_are_all_tested():
    assert {*BACKENDS, "cuda"} == set(fastce.dispatch.BACKENDS)  # ("cuda": tests/gpu)
