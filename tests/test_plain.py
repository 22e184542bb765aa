"""The short way of plain calls: what takes it, and that machine code which reads Python's objects survives them all."""

import gc
import inspect
import itertools
import subprocess
import sys
import threading
import time
import types
from types import MappingProxyType

import ml_dtypes
import numpy as np
import pytest
from rows import is_plain

import fastce
from fastce import CrossEntropyResult, api, plain
from fastce.kernels.cpu import objects
from fastce.kernels.cpu import plain as ways
from fastce.kernels.task import DONE, FIXED, GRADIENTS, LAST_AXIS, LOG_SOFTMAX, NOT_PLAIN, OPTIONS, SMALL, SOFTMAX, Task
from fastce.problem import AUX, cross_entropy_problem

N, C = 6, 5
DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]


class Subclass(np.ndarray):
    pass


def frozen(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def unaligned(array):
    memory = np.zeros(array.nbytes + 1, np.uint8)
    found = memory[1:].view(array.dtype).reshape(array.shape)
    found[...] = array
    return found


# Arrays of the same values that are not such as kernels take.
CHANGED = {
    "a list": lambda a: a.tolist(),
    "Fortran's order": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "unaligned": unaligned,
    "swapped bytes": lambda a: a.astype(a.dtype.newbyteorder()),
    "a subclass": lambda a: a.view(Subclass),
    "masked": lambda a: np.ma.array(a),
    "another type": lambda a: a.astype({"int64": "int32", "float64": "float32"}.get(a.dtype.name, "float64")),
    "objects": lambda a: a.astype(object),
    "a dtype of its own": lambda a: a.view(np.dtype(a.dtype, metadata={"of": "its own"})),
    "longer": lambda a: np.concatenate([a, a]),
    "shorter": lambda a: a[:-1].copy(),
    "one more axis": lambda a: a[None],
    "no axis": lambda a: np.array(a.flat[0]),
    "nothing": lambda a: a[:0].copy(),
    "a number of NumPy": lambda a: a.flat[0],
}

# What is no array at all; the types of all kinds of objects, small and large.
OBJECTS = [
    None, True, 0, 1 << 200, 0.5, 1j, "text", b"bytes", (), (1.0,), [], {}, set(), object(), object, type, len,
    lambda: 0, sys, types.SimpleNamespace(), memoryview(b"1234"), bytearray(8), range(3), Ellipsis, np, np.dtype("f4"),
    np.ndarray, np.float32(1), np.float64(1), np.int64(1), threading.Lock(), iter(()), ValueError("no"),
]  # fmt: skip


def problem(dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    arithmetic = np.float64 if dtype is np.float64 else np.float32
    logits, targets = rng.standard_normal((N, C)).astype(dtype), rng.integers(0, C, N)
    return logits, targets, rng.random(C).astype(arithmetic), rng.random(N).astype(arithmetic)


def of(dtype):
    assert ways.knows(np.dtype(dtype))
    return ways.DOUBLES if dtype is np.float64 else ways.FLOATS


def status_of(
    logits, targets, grad=None, options=MappingProxyType({}), known=ways.FLOATS, rows=None, upstream=None, lse=None
):
    return ways.small_of_targets(known, logits, targets, grad, rows, upstream, lse, dict(options))[0]


def test_objects_lie_in_memory_as_expected():
    assert objects.are_as_expected()


def test_where_they_do_not_nothing_is_plain_and_everything_works(monkeypatch):
    logits, targets, *_ = problem()
    expected = fastce.cross_entropy_with_grad(logits, targets), fastce.softmax(logits)
    assert is_plain(logits, targets)
    monkeypatch.setattr(ways, "are_as_expected", lambda: False)
    other = ways.Logits(np.float32, np.float32)
    assert status_of(logits, targets, known=other) == NOT_PLAIN
    monkeypatch.setattr(plain, "_known", other.address)
    assert not is_plain(logits, targets)
    found = fastce.cross_entropy_with_grad(logits, targets)
    assert found.loss == expected[0].loss
    assert (found.grad == expected[0].grad).all()
    assert (fastce.softmax(logits) == expected[1]).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_plain_calls(dtype):
    logits, targets, weight, sample_weight = problem(dtype)
    q = np.abs(problem(dtype, 1)[0]).astype(weight.dtype)
    known = of(dtype)
    for y in (targets, q):
        for grad in (None, np.empty_like(logits), logits.copy()):
            options = {"weight": weight, "sample_weight": sample_weight, "label_smoothing": 0.1, "z_loss": 0.01}
            options |= {"softcap": 30.0, "logit_scale": 0.5, "ignore_index": -100}
            for given in ({}, options, FIXED, FIXED | {"axis": LAST_AXIS}, {"reduction": "mean"}, {"reduction": "sum"}):
                assert status_of(logits, y, grad, given, known) == DONE
        place = logits.copy()
        assert status_of(place, y, place, {}, known) == DONE
    for kind in (SOFTMAX, LOG_SOFTMAX):
        assert ways.small_of_logits(known, logits, np.empty_like(logits), kind) == DONE
    assert ways.small_of_logits(known, logits, np.empty(N, weight.dtype), GRADIENTS) == DONE


@pytest.mark.parametrize("name", CHANGED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_other_arrays_are_not_plain(dtype, name):
    logits, targets, weight, sample_weight = problem(dtype)
    known, change = of(dtype), CHANGED[name]
    grad = np.full_like(logits, 7)
    options = {"weight": weight, "sample_weight": sample_weight}
    assert status_of(logits, targets, grad.copy(), options, known) == DONE
    wrong = change(logits)
    if not (name == "swapped bytes" and dtype is ml_dtypes.bfloat16):  # (of which there is none)
        assert status_of(wrong, targets, grad, options, known) == NOT_PLAIN
        for kind, fill in ((SOFTMAX, grad), (LOG_SOFTMAX, grad), (GRADIENTS, sample_weight.copy())):
            assert ways.small_of_logits(known, wrong, fill, kind) == NOT_PLAIN
        for kind in (SOFTMAX, LOG_SOFTMAX):
            assert ways.small_of_logits(known, logits, change(grad), kind) == NOT_PLAIN
        assert status_of(logits, targets, change(grad), options, known) == NOT_PLAIN
    assert status_of(logits, change(targets), grad, options, known) == NOT_PLAIN
    assert status_of(logits, change(np.ones((N, C), weight.dtype)), grad, options, known) == NOT_PLAIN  # probabilities
    assert status_of(logits, targets, grad, options | {"weight": change(weight)}, known) == NOT_PLAIN
    assert status_of(logits, targets, grad, options | {"sample_weight": change(sample_weight)}, known) == NOT_PLAIN
    assert ways.small_of_logits(known, logits, change(sample_weight), GRADIENTS) == NOT_PLAIN
    assert (grad == 7).all()


@pytest.mark.parametrize("thing", OBJECTS, ids=lambda thing: type(thing).__name__)
def test_no_object_is_taken_for_an_array_or_a_float(thing):
    logits, targets, *_ = problem()
    grad = np.full_like(logits, 7)
    for known in (ways.FLOATS, ways.DOUBLES):
        assert status_of(thing, targets, grad, known=known) == NOT_PLAIN
        assert status_of(logits, thing, grad, known=known) == NOT_PLAIN
        assert status_of(thing, thing, thing, dict.fromkeys([*OPTIONS, *FIXED], thing), known) == NOT_PLAIN
        for kind in (GRADIENTS, SOFTMAX, LOG_SOFTMAX):
            assert ways.small_of_logits(known, thing, grad, kind) == NOT_PLAIN
            assert ways.small_of_logits(known, logits, thing, kind) == NOT_PLAIN
    if thing is not None:
        assert status_of(logits, targets, thing) == NOT_PLAIN
    assert (status_of(logits, targets, grad.copy(), upstream=thing) == DONE) == (thing is None or type(thing) is float)
    is_float, is_index = type(thing) is float, type(thing) is int and abs(thing) < 2**63
    usual = dict.fromkeys(("label_smoothing", "z_loss", "logit_scale"), is_float)
    usual |= {"softcap": thing is None or is_float, "ignore_index": is_index}
    for name, default in (OPTIONS | FIXED).items():
        done = status_of(logits, targets, grad.copy(), {name: thing}) == DONE
        assert done == usual.get(name, thing is default), name
    assert status_of(logits, targets, grad, {"another": thing}) == NOT_PLAIN
    assert (grad == 7).all()


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("label_smoothing", (0.0, 0.5, 1.0), (-1e-9, 1.0000001, np.nan, np.inf, 1, np.float64(0.5), True, "0.5")),
        ("z_loss", (0.0, -2.0, 1e29), (1e30, -1e30, np.nan, np.inf, 1, np.float32(1), "1")),
        ("logit_scale", (1.0, -2.0, 0.0), (1e30, -1e30, np.nan, -np.inf, 1, np.float64(1), None)),
        ("softcap", (None, 1e-29, 30.0, 1e29), (0.0, -1.0, 1e-31, 1e30, np.nan, np.inf, 30, np.float64(30), "30")),
        ("ignore_index", (-100, 0, 2**63 - 1, -(2**63)), (2**63, -(2**63) - 1, 0.0, True, np.int64(3), None)),
    ],
)
def test_numbers_that_are_usual(name, good, bad):
    logits, targets, *_ = problem()
    assert all(is_plain(logits, targets, **{name: value}) for value in good)
    assert not any(is_plain(logits, targets, **{name: value}) for value in bad)


def test_options_are_those_of_python():
    options = inspect.signature(cross_entropy_problem).parameters.values()
    assert {o.name: o.default for o in options if o.kind is o.KEYWORD_ONLY} == OPTIONS | FIXED
    assert tuple(CrossEntropyResult._fields) == ("loss", "grad", *AUX, "hess")
    fields = Task._fields
    assert fields[fields.index("loss") :] == ("loss", *AUX, "hess")


@pytest.mark.parametrize("n_rows", [N, SMALL // C])  # of one thread, and of all
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_short_way_and_the_long_one_give_the_same(dtype, n_rows):
    x, y, weight, s = problem(dtype)
    x, y, s = (np.repeat(a, -(-n_rows // N), axis=0)[:n_rows] for a in (x, y, s))
    q = np.abs(x).astype(weight.dtype)
    weights = {"weight": weight, "sample_weight": s, "ignore_index": int(y[0]), "z_loss": 0.25}
    for options in ({}, {"label_smoothing": 0.25}, {"softcap": 3.0, "logit_scale": 0.5}, weights):
        for reduction, aux in itertools.product(("mean", "sum", "none"), ((), ("lse",), AUX[:5], ("entropy", "lse"))):
            for targets, upstream in ((y, None), (y, 3.0), (q, None)):
                if targets is q and len(aux) > 2:
                    continue
                given = {**options, "reduction": reduction, "aux": aux, "grad_output": upstream}
                assert is_plain(x, targets, **given)
                short = fastce.cross_entropy_with_grad(x, targets, **given)
                given["aux"] = list(aux)  # (not as it is by default)
                assert not is_plain(x, targets, **given)
                long = fastce.cross_entropy_with_grad(x, targets, **given)
                for a, b in zip(short, long, strict=True):
                    assert type(a) is type(b)
                    if a is not None:
                        assert (a.dtype, a.shape) == (b.dtype, b.shape)
                        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("n_rows", [N, SMALL // C])
@pytest.mark.parametrize("dtype", DTYPES)
def test_both_ways_back_give_the_same(dtype, n_rows):
    x, y, weight, s = problem(dtype)
    x, y, s = (np.repeat(a, -(-n_rows // N), axis=0)[:n_rows] for a in (x, y, s))
    q, known = np.abs(x).astype(weight.dtype), of(dtype)
    for options in ({}, {"label_smoothing": 0.25, "z_loss": 0.5}, {"softcap": 3.0}, {"weight": weight}):
        for reduction, upstream, targets in itertools.product(("mean", "sum", "none"), (None, 3.0), (y, q)):
            given = {**options, "reduction": reduction, "grad_output": upstream}
            lse = fastce.cross_entropy_with_grad(x, targets, aux=("lse",), **given).lse
            short = fastce.cross_entropy_backward(x, targets, lse, **given)
            long = fastce.cross_entropy_backward(x, targets, lse.tolist(), **given)
            assert short.tobytes() == long.tobytes()
            place = x.copy()
            assert fastce.cross_entropy_backward(place, targets, lse, grad_out=place, **given) is place
            assert place.tobytes() == long.tobytes()
    x, y, lse = x[:N], y[:N], lse[:N]
    given = {"known": known, "lse": lse}
    assert status_of(x, y, x.copy(), **given) == status_of(x, y, x.copy(), {"reduction": "none"}, **given) == DONE
    assert status_of(x, y, None, **given) == NOT_PLAIN  # nothing to fill
    with pytest.raises(TypeError, match="lse"):
        fastce.cross_entropy_backward(x, y, None)


def test_what_is_no_lse():
    logits, targets, weight, lse = problem()
    grad = np.full(N * C + N, 7, np.float32)
    of_logits, behind = grad[: N * C].reshape(N, C), grad[N * C :]
    for change in CHANGED.values():
        assert status_of(logits, targets, of_logits, lse=change(lse)) == NOT_PLAIN
    for thing in (weight, of_logits[0, :N], grad[N * C - 1 : -1], *OBJECTS[1:]):
        assert status_of(logits, targets, of_logits, lse=thing) == NOT_PLAIN
    assert (grad == 7).all()
    assert status_of(logits, targets, of_logits, lse=behind) == DONE


def test_the_last_of_two_axes_is_plain(monkeypatch):
    x, y, *_ = problem()
    functions = fastce.softmax, fastce.log_softmax, fastce.logsumexp
    expected = [function(x) for function in functions]
    assert is_plain(x, y, axis=1)
    assert not is_plain(x, y, axis=0)
    assert not is_plain(x.T.copy(), y, axis=0)
    assert fastce.cross_entropy(x, y, axis=1) == fastce.cross_entropy(x, y) == fastce.cross_entropy(x.T, y, axis=0)
    with pytest.raises(ValueError, match="axis"):
        fastce.cross_entropy(x[0], y[0], axis=1)
    for function, e in zip(functions, expected, strict=True):
        np.testing.assert_array_equal(function(x[None], axis=1), function(x.T.copy(), axis=1)[None].swapaxes(1, -1))
        with pytest.raises(ValueError, match="axis"):
            function(x[0], axis=1)
        with monkeypatch.context() as patch:
            patch.setattr(api, "rows_problem", None)  # (the long way)
            assert (function(x, axis=1) == e).all()


@pytest.mark.parametrize("aux", [("lse", "loss"), ("hess",), ("lse", None), ([],), (np.zeros(3),)])
def test_other_aux_is_not_plain(aux):
    logits, targets, *_ = problem()
    assert not is_plain(logits, targets, aux=aux)
    assert is_plain(logits, targets, aux=("lse",))


def test_a_sum_beyond_float32_is_infinite_without_a_warning():
    logits, targets = np.array([[0, 3e38]] * 2, np.float32), np.zeros(2, np.int64)
    assert is_plain(logits, targets, reduction="sum")
    assert fastce.cross_entropy(logits, targets, reduction="sum") == np.inf
    assert fastce.cross_entropy(logits, targets) == np.float32(3e38)


@pytest.mark.parametrize("shared", [1, 3, N * C - 1])
def test_what_is_written_lies_apart(shared):
    logits, targets, *_ = problem()
    memory = np.full(3 * N * C, 3, np.float32)
    n = N * C
    grad = memory[n : 2 * n].reshape(N, C)

    def beside(size, n_shared):
        """Arrays that have so many elements in common with the gradient: at its start, and at its end."""
        return memory[n + n_shared - size :][:size], memory[2 * n - n_shared :][:size]

    for a in beside(n, 0):
        assert status_of(a.reshape(N, C), targets, grad.copy()) == DONE
        assert status_of(logits, a.reshape(N, C), grad.copy()) == DONE
    for a in beside(n, shared):
        assert status_of(a.reshape(N, C), targets, grad) == NOT_PLAIN
        assert status_of(logits, a.reshape(N, C), grad) == NOT_PLAIN
        assert ways.small_of_logits(ways.FLOATS, a.reshape(N, C), grad, SOFTMAX) == NOT_PLAIN
        assert ways.small_of_logits(ways.FLOATS, a.reshape(N, C), grad, LOG_SOFTMAX) == NOT_PLAIN
    for name, size in (("weight", C), ("sample_weight", N)):
        for a in beside(size, min(shared, size)):
            assert status_of(logits, targets, grad, {name: a}) == NOT_PLAIN
    for a in beside(N, min(shared, N)):
        assert ways.small_of_logits(ways.FLOATS, grad, a, GRADIENTS) == NOT_PLAIN
    for a in beside(2 * N, 2 * min(shared // 2 + 1, N)):
        assert status_of(logits, a.view(np.int64), grad) == NOT_PLAIN
    assert (memory == 3).all()
    for a in beside(N, 0):
        assert status_of(logits, targets, grad, {"sample_weight": a}) == DONE
        assert ways.small_of_logits(ways.FLOATS, grad, a, GRADIENTS) == DONE


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_only_read_may_be_read_only(dtype):
    logits, targets, weight, sample_weight = problem(dtype)
    q, known = np.full((N, C), 1 / C, weight.dtype), of(dtype)
    weights = {"weight": frozen(weight), "sample_weight": frozen(sample_weight)}
    for n_rows in (N, SMALL // C):  # of one thread, and of all
        x, y, p = (np.repeat(a, -(-n_rows // N), axis=0)[:n_rows] for a in (logits, targets, q))
        s = np.repeat(sample_weight, -(-n_rows // N))[:n_rows]
        options = {"weight": weight, "sample_weight": s}
        for t in (y, p):
            expected = fastce.cross_entropy_with_grad(x, t, **options)
            found = fastce.cross_entropy_with_grad(frozen(x), frozen(t), **{k: frozen(v) for k, v in options.items()})
            assert found.loss == expected.loss
            assert found.grad.tobytes() == expected.grad.tobytes()
            assert is_plain(frozen(x), frozen(t), **{k: frozen(v) for k, v in options.items()})
        assert fastce.softmax(frozen(x)).tobytes() == fastce.softmax(x).tobytes()
        assert fastce.logsumexp(frozen(x)).tobytes() == fastce.logsumexp(x).tobytes()
    place = frozen(logits)
    for x in (logits, place):
        assert status_of(x, targets, place, weights, known) == NOT_PLAIN
        for kind in (SOFTMAX, LOG_SOFTMAX):
            assert ways.small_of_logits(known, x, place, kind) == NOT_PLAIN
    assert place.tobytes() == logits.tobytes()
    assert ways.small_of_logits(known, logits, frozen(sample_weight), GRADIENTS) == NOT_PLAIN


def test_a_bad_target_is_not_plain_and_nothing_is_written():
    logits, targets, weight, sample_weight = problem()
    grad = np.full_like(logits, 7)
    for bad in (C, -1, 2**62, -(2**63)):
        for options in ({}, {"weight": weight, "sample_weight": sample_weight}):
            targets[-1] = bad
            assert status_of(logits, targets, grad, options) == NOT_PLAIN
    assert (grad == 7).all()


def test_what_is_not_plain_compiles_no_way_for_plain_calls():
    code = """
import numpy as np, fastce
from fastce import plain
x, y = np.zeros((3, 4), np.float32), np.zeros(3, int)
fastce.cross_entropy(x.tolist(), y), fastce.cross_entropy(x, y.tolist())
fastce.cross_entropy(x[None], y[None]), fastce.softmax(x[0]), fastce.softmax(x.tolist())
fastce.cross_entropy(x, y, backend="reference"), fastce.cross_entropy(x, np.zeros(4, int), axis=0)
assert plain._small_of_targets_64 is plain._first_of_targets_64
fastce.cross_entropy(x.astype(float), y), fastce.softmax(x.astype(float))
assert plain._small_of_targets_64 is not plain._first_of_targets_64
assert plain._small_of_targets is plain._first_of_targets and plain._small_of_logits is plain._first_of_logits
fastce.cross_entropy(x.astype(np.float16), y), fastce.softmax(x)
assert plain._small_of_targets is not plain._first_of_targets and plain._small_of_logits is not plain._first_of_logits
"""
    subprocess.run([sys.executable, "-Werror", "-c", code], check=True)


def test_no_references_are_kept():
    logits, targets, weight, sample_weight = problem()
    options = {"weight": weight, "sample_weight": sample_weight, "label_smoothing": 0.123, "z_loss": 0.456}
    options |= {"softcap": 12.5, "logit_scale": 0.75, "ignore_index": -12345, "reduction": "none"}
    grad, lse, upstream = np.empty_like(logits), np.empty(N, np.float32), 0.625
    rows = (np.empty(N, np.float32), lse, None, None, None, None, None)
    kept = [logits, targets, grad, upstream, *rows[:2], rows, *options, *options.values(), options]
    gc.collect()
    before = [sys.getrefcount(thing) for thing in kept]
    for _ in range(100):
        assert ways.small_of_targets(ways.FLOATS, logits, targets, grad, rows, upstream, None, options)[0] == DONE
        assert ways.small_of_targets(ways.FLOATS, grad, None, grad, rows, upstream, None, options)[0] == NOT_PLAIN
        assert ways.small_of_logits(ways.FLOATS, logits, grad, SOFTMAX) == DONE
    assert [sys.getrefcount(thing) for thing in kept] == before


def test_other_threads_run_while_a_kernel_computes():
    stop = threading.Event()
    logits, grad = np.zeros((1, 90_000), np.float32), np.empty((1, 90_000), np.float32)
    count = 0

    def other():
        nonlocal count
        while not stop.is_set():
            count += 1
            time.sleep(0)  # lets go

    thread = threading.Thread(target=other)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # nobody has to let go, who does not do so by itself
    thread.start()
    try:
        seen = set()
        for _ in range(1000):
            fastce.softmax(logits, out=grad)
            seen.add(count)
            if len(seen) > 3:
                break
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        thread.join()
    assert len(seen) > 3
