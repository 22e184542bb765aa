"""The same bits in any layout, for any number of threads, and from run to run."""

import ml_dtypes
import numba
import numpy as np
import pytest
from conftest import (
    FLOAT_TYPES,
    INTEGER_TYPES,
    arithmetic_type,
    assert_loss,
    assert_same,
    float_type,
    oracle,
    run_python,
)
from rows import CHUNK, EVERY_REGIME, FLOATS, KEPT, is_plain, random_rows

import fastce
from fastce.kernels.cpu import LIMITS, launch
from fastce.kernels.cpu.row import MOST_WAITING
from fastce.problem import AUX, HESS

OPTIONS = {
    "plain": {},
    "with lse": {"aux": ("lse",)},
    "with hess": {"aux": ("hess",)},
    "every option": {
        "label_smoothing": 0.1,
        "z_loss": 1e-3,
        "softcap": 20.0,
        "logit_scale": 0.5,
        "ignore_index": 1,
        "aux": (*AUX, HESS),
    },
}
EVERY_OPTION = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
EVERY_TYPE = pytest.mark.parametrize("name", FLOAT_TYPES)


def assert_same_result(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        if b is not None:
            if a.dtype == ml_dtypes.bfloat16:  # whose NaNs NumPy's comparison does not know
                a, b = a.astype(np.float32), b.astype(np.float32)
            assert_same(a, b)


def case(rng, name, shape):
    logits, targets = random_rows(rng, shape)
    return logits.astype(float_type(name)), targets


@EVERY_REGIME
@EVERY_OPTION
@EVERY_TYPE
def test_the_same_bits_in_place_and_in_any_layout(rng, name, options, shape):
    logits, targets = case(rng, name, shape)
    expected = fastce.cross_entropy_with_grad(logits, targets, **options)
    assert_same_result(fastce.cross_entropy_with_grad(logits, targets, **options), expected)

    place = logits.copy()
    in_place = fastce.cross_entropy_with_grad(place, targets, grad_out=place, **options)
    assert in_place.grad is place
    assert_same_result(in_place, expected)

    n_rows, n_classes = shape
    padded = np.full((2 * n_rows, n_classes + 3), np.nan, logits.dtype)
    strided = padded[::2, 1:-2]
    strided[...] = logits
    around = padded.copy()
    around[::2, 1:-2] = expected.grad
    assert_same_result(fastce.cross_entropy_with_grad(strided, targets, **options), expected)
    assert_same_result(fastce.cross_entropy_with_grad(strided, targets, grad_out=strided, **options), expected)
    assert_same(padded.view(np.uint8), around.view(np.uint8))

    backwards = np.ascontiguousarray(logits[::-1])[::-1]
    assert_same_result(fastce.cross_entropy_with_grad(backwards, targets, **options), expected)
    columns = np.asfortranarray(logits)
    assert_same_result(fastce.cross_entropy_with_grad(columns, targets, **options), expected)
    frozen = logits.copy()
    frozen.flags.writeable = False
    assert_same_result(fastce.cross_entropy_with_grad(frozen, targets, **options), expected)


# Layouts of arrays (N, C): classes apart from each other, rows side by side or not, and either in reverse.
LAYOUTS = {
    "columns": np.asfortranarray,
    "every third class": lambda a: np.repeat(a, 3, axis=1)[:, ::3],
    "classes in reverse": lambda a: a[:, ::-1].copy()[:, ::-1],
    "both in reverse, by columns": lambda a: np.asfortranarray(a[::-1, ::-1])[::-1, ::-1],
    "columns of a larger array": lambda a: np.asfortranarray(np.repeat(a, 2, axis=0))[: 2 * len(a) : 2],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("kind", ["classes", "probabilities"])
@EVERY_TYPE
@pytest.mark.parametrize("shape", [(16, 2), (37, 3), (64, 10), (21, 128), (5, 300)], ids=str)
def test_the_same_bits_wherever_classes_lie(rng, name, kind, layout, shape):
    """Few classes are read and written where they are, all but one of these layouts by single numbers."""
    logits, targets = case(rng, name, shape)
    targets[3], logits[2, 1] = -100, np.nan  # rows that are written in another way
    options = {"label_smoothing": 0.1, "softcap": 20.0, "aux": ("lse", "hess")}
    others = np.ascontiguousarray, layout
    for arrange in others:
        if kind == "probabilities":
            targets = arrange(fastce.softmax(rng.normal(size=shape)).astype(arithmetic_type(logits.dtype)))
        expected = fastce.cross_entropy_with_grad(logits, targets, **options)
        for arrange_grad in others:
            x, grad = layout(logits), arrange_grad(np.zeros_like(logits))
            result = fastce.cross_entropy_with_grad(x, targets, grad_out=grad, **options)
            assert result.grad is grad
            assert_same_result(result, expected)
        assert_same_result(fastce.cross_entropy_with_grad(x, targets, grad_out=x, **options), expected)
    assert_same_result([fastce.softmax(layout(logits))], [fastce.softmax(logits)])


@pytest.mark.parametrize("function", [fastce.softmax, fastce.log_softmax], ids=["softmax", "log_softmax"])
@EVERY_TYPE
@EVERY_REGIME
def test_the_same_bits_of_softmax_and_log_softmax(rng, name, function, shape):
    logits, _ = case(rng, name, (max(shape[0], LIMITS.serial // shape[1] + 1), shape[1]))
    expected = function(logits)
    place = logits.copy()
    assert_same_result([function(place, out=place)], [expected])
    assert_same_result([function(np.asfortranarray(logits))], [expected])
    assert_same_result([function(np.ascontiguousarray(logits[::-1])[::-1])], [expected])
    n_threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        assert_same_result([function(logits)], [expected])
    finally:
        numba.set_num_threads(n_threads)


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="one thread only")
@EVERY_OPTION
@EVERY_TYPE
@EVERY_REGIME
def test_the_same_bits_for_one_thread_and_all(rng, name, options, shape):
    logits, targets = case(rng, name, (max(shape[0], LIMITS.serial // shape[1] + 1), shape[1]))
    assert not launch.is_small(*logits.shape)
    n_threads = numba.get_num_threads()
    expected = fastce.cross_entropy_with_grad(logits, targets, **options)
    try:
        numba.set_num_threads(1)
        alone = fastce.cross_entropy_with_grad(logits, targets, **options)
    finally:
        numba.set_num_threads(n_threads)
    assert_same_result(alone, expected)


LENGTHS = (129, 500, 1000, FLOATS * KEPT, FLOATS * KEPT + 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5)


@EVERY_TYPE
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"softcap": 9.0}], ids=str)
def test_the_same_bits_past_the_caches_and_through_them(rng, monkeypatch, name, options):
    """Rows whose gradient is written beside the sums of the next, and rows of all kinds between them that are not."""
    dtype = float_type(name)
    for n_classes in LENGTHS:
        for n_rows in (1, 2, 3, 8, 25) if n_classes < CHUNK else (1, 4):
            logits, targets = case(rng, name, (n_rows, n_classes))
            for i, kind in enumerate(rng.choice(6, n_rows, p=[0.5, 0.1, 0.1, 0.1, 0.1, 0.1])):
                if kind == 1:
                    targets[i] = -100
                elif kind == 2:
                    logits[i, rng.integers(n_classes)] = np.nan
                elif kind == 3:
                    logits[i] *= dtype.type(3000)  # where the largest is subtracted first
                elif kind == 4:
                    logits[i, : n_classes // 2] = -np.inf
                elif kind == 5:
                    targets[i] = n_classes - 1
            memory = np.full(n_rows * n_classes + 64, 7, dtype)
            offset = int(rng.integers(0, 32))
            place = memory[offset : offset + logits.size].reshape(logits.shape)
            results = []
            for stream in (0, 1 << 60):
                monkeypatch.setattr(launch, "LIMITS", LIMITS._replace(stream=stream))
                result = fastce.cross_entropy_with_grad(
                    logits, targets, reduction="none", aux=("lse",), grad_out=place, **options
                )
                apart = np.full((n_rows, n_classes + 5), 7, dtype)
                mean = fastce.cross_entropy_with_grad(logits, targets, grad_out=apart[:, 2:-3], **options)
                results.append((result.loss, result.lse, memory.view(np.uint8).copy()))
                results[-1] += mean.loss, apart.view(np.uint8)
            assert_same_result(*results)
            assert (memory[:offset] == 7).all()
            assert (memory[offset + logits.size :] == 7).all()
            assert (apart[:, :2] == 7).all()
            assert (apart[:, -3:] == 7).all()


@EVERY_TYPE
@pytest.mark.parametrize("stream", [LIMITS.stream, 0])
@pytest.mark.parametrize("shape", [(7, FLOATS * KEPT + 77), (5, CHUNK), (4, 2 * CHUNK + 77), (1, 30 * CHUNK)], ids=str)
def test_the_same_bits_however_far_behind_the_logits_the_gradient_lies(rng, monkeypatch, name, shape, stream):
    """That decides whether it is written from the first class to the last or from the last to the first."""
    monkeypatch.setattr(launch, "LIMITS", LIMITS._replace(stream=stream))
    logits, targets = case(rng, name, shape)
    expected = fastce.cross_entropy_with_grad(logits, targets, reduction="none")
    n_bytes, page = logits.nbytes, 4096
    further = -(-n_bytes // page) * page
    memory = np.empty(n_bytes + further + 3 * page, np.uint8)
    start = -memory.ctypes.data % page
    for distance in (0, logits.itemsize, 16, 64, 384, 512, 2040, 2048, 2104, 3456, 4032, 4096 - logits.itemsize):
        memory.fill(7)
        x = memory[start:][:n_bytes].view(logits.dtype).reshape(shape)
        x[...] = logits
        around = memory.copy()
        at = start + further + distance
        grad = memory[at:][:n_bytes].view(logits.dtype).reshape(shape)
        found = fastce.cross_entropy_with_grad(x, targets, grad_out=grad, reduction="none")
        assert_same_result(found, expected)
        around[at:][:n_bytes] = memory[at:][:n_bytes]
        assert_same(memory, around)


@EVERY_TYPE
@pytest.mark.parametrize("options", [{}, {"softcap": 9.0}], ids=str)
def test_the_same_bits_of_rows_too_long_to_wait(rng, monkeypatch, name, options):
    n_classes = MOST_WAITING // arithmetic_type(float_type(name)).itemsize + 77
    logits, targets = case(rng, name, (3, n_classes))
    results = []
    for stream in (0, 1 << 60):  # on one thread: more would share the rows' chunks
        monkeypatch.setattr(launch, "LIMITS", LIMITS._replace(stream=stream, serial=1 << 60))
        results.append(fastce.cross_entropy_with_grad(logits, targets, **options))
    place = logits.copy()
    results.append(fastce.cross_entropy_with_grad(place, targets, grad_out=place, **options))
    for result in results[1:]:
        assert_same_result(result, results[0])
    shorter = logits[:, : n_classes - 100].copy()
    waited = fastce.cross_entropy_with_grad(shorter, targets, **options)  # of shorter rows, something does
    monkeypatch.setattr(launch, "LIMITS", LIMITS)
    for x, expected in ((shorter, waited), (logits, results[0])):
        assert_same_result(fastce.cross_entropy_with_grad(x, targets, **options), expected)
        place = x.copy()
        assert_same_result(fastce.cross_entropy_with_grad(place, targets, grad_out=place, **options), expected)


@pytest.mark.parametrize("name", ["float32", "float64"])
@pytest.mark.parametrize("softcap", [2.0, 34.0, 34.1, 60.0, 330.0, 400.0])
def test_the_same_bits_of_softcaps_that_are_all_but_reached(rng, monkeypatch, name, softcap):
    """Powers of all sizes, in chunks of one sign or both: what waits of them, in the gradient, loses none."""
    n_classes = MOST_WAITING // arithmetic_type(float_type(name)).itemsize + 77
    logits, targets = case(rng, name, (4, n_classes))
    logits *= 20 * softcap / 34
    logits[0, CHUNK:] = -np.abs(logits[0, CHUNK:])
    logits[1, :CHUNK] = -np.abs(logits[1, :CHUNK])
    logits[2, :-1000] = -1000 * softcap
    monkeypatch.setattr(launch, "LIMITS", LIMITS._replace(serial=1 << 60))
    waited = fastce.cross_entropy_with_grad(logits, targets, softcap=softcap, reduction="none")
    place = logits.copy()  # where nothing can wait of so long a row
    again = fastce.cross_entropy_with_grad(place, targets, softcap=softcap, reduction="none", grad_out=place)
    assert_same_result(again, waited)
    expected = oracle(fastce.cross_entropy_with_grad, logits, targets, softcap=softcap, reduction="none")
    assert_loss(waited.loss, expected.loss, softcap)
    eps, tiny = np.finfo(logits.dtype).eps, np.finfo(logits.dtype).tiny
    steep = np.abs(logits) < softcap  # where the slope is known as well as the power
    error = np.abs(waited.grad - expected.grad)[steep]
    assert (error <= 10 * (10 + softcap) * eps * np.abs(expected.grad[steep]) + 2 * tiny).all()


@EVERY_REGIME
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_gradients_of_16_bits_are_those_of_float32_rounded_once(rng, monkeypatch, name, shape):
    """Those that are below the smallest normal number too, all of a row or some."""
    logits, targets = random_rows(rng, shape)
    logits[::3] *= 10  # powers of all sizes, down to those that are 0
    logits[1::4, ::2], logits[2::7, -1] = -np.inf, np.nan
    logits = logits.astype(float_type(name))
    for stream in (LIMITS.stream, 0):
        monkeypatch.setattr(launch, "LIMITS", LIMITS._replace(stream=stream))
        for upstream in (1.0, 1e-4, 1e-38, 1e-40):
            options = {"grad_output": upstream, "reduction": "sum"}
            exact = fastce.cross_entropy_with_grad(logits.astype(np.float32), targets, **options).grad
            with np.errstate(under="ignore", over="ignore"):
                expected = exact.astype(logits.dtype)
            grad = fastce.cross_entropy_with_grad(logits, targets, **options).grad
            assert_same_result([grad], [expected])
            if name == "bfloat16" and upstream < 1e-37:
                assert (np.abs(expected[expected != 0].astype(np.float32)) < np.finfo(np.float32).tiny).any()


_DIGEST = """
import hashlib, numba, numpy as np
import fastce
rng = np.random.default_rng(5)
digest = hashlib.sha256()
for shape in ((5000, 7), (200, 1000), (1, 100_000), (2, 30_000), (5, 30_000), (7, 30_000), (12, 20_000)):
    logits, targets = (rng.normal(size=shape) * 4).astype(np.float32), rng.integers(0, shape[1], shape[0])
    for options in ({}, {"softcap": 9.0, "label_smoothing": 0.1, "z_loss": 0.01, "aux": ("lse", "entropy", "rank")}):
        for reduction in ("mean", "none"):
            result = fastce.cross_entropy_with_grad(logits, targets, reduction=reduction, **options)
            for array in result:
                digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
print(numba.get_num_threads(), digest.hexdigest())
"""


def test_the_same_bits_for_more_threads_than_cores_and_from_run_to_run():
    """Each number in a process of its own."""
    runs = [run_python(_DIGEST, NUMBA_NUM_THREADS=n) for n in ("1", "2", "2", "5")]
    assert [n for n, _ in runs] == ["1", "2", "2", "5"]
    assert len({digest for _, digest in runs}) == 1


@EVERY_TYPE
@pytest.mark.parametrize("stream", [LIMITS.stream, 0])
@pytest.mark.parametrize("n_classes", [100, 250, 1003, CHUNK + 77])
def test_the_same_bits_beside_rows_of_huge_logits(rng, monkeypatch, name, n_classes, stream):
    """Which are looked at another way, with their whole group: who else is in it depends on the threads."""
    monkeypatch.setattr(launch, "LIMITS", LIMITS._replace(stream=stream))
    logits, targets = case(rng, name, (300, n_classes))
    huge = rng.random(300) < 0.1
    into = np.full_like(logits, 7)
    options = {"reduction": "none", "label_smoothing": 0.1}
    expected = fastce.cross_entropy_with_grad(logits, targets, **options)
    logits[huge] *= logits.dtype.type(2e3 if name == "float16" else 1e7)
    mixed = fastce.cross_entropy_with_grad(logits, targets, grad_out=into, **options)
    assert_same_result((mixed.loss[~huge], mixed.grad[~huge]), (expected.loss[~huge], expected.grad[~huge]))
    alone = fastce.cross_entropy(logits, targets, **options)
    assert_same_result((alone,), (mixed.loss,))


@EVERY_TYPE
@pytest.mark.parametrize("stream", [LIMITS.stream, 0])
@pytest.mark.parametrize("n_classes", [100, 300, 1003, 2048, CHUNK + 77])
def test_the_same_bits_beside_ignored_rows(rng, monkeypatch, name, n_classes, stream):
    """In whose place nothing is looked for of the rows after them either."""
    monkeypatch.setattr(launch, "LIMITS", LIMITS._replace(stream=stream))
    logits, targets = case(rng, name, (61, n_classes))
    expected = fastce.cross_entropy_with_grad(logits, targets, reduction="none")
    ignored = rng.random(61) < 0.4
    logits[ignored], targets[ignored] = np.nan, -100
    found = fastce.cross_entropy_with_grad(logits, targets, grad_out=np.full_like(logits, 7), reduction="none")
    assert_same_result((found.loss[~ignored], found.grad[~ignored]), (expected.loss[~ignored], expected.grad[~ignored]))
    assert not found.loss[ignored].any()
    assert not found.grad[ignored].any()


SHORT = ("label_smoothing", "z_loss", "softcap", "logit_scale", "ignore_index", "weight", "sample_weight")


@EVERY_REGIME
@EVERY_TYPE
@pytest.mark.parametrize(
    "names", [(), *((name,) for name in SHORT), SHORT], ids=lambda names: " ".join(names) or "none"
)
def test_the_same_bits_the_short_way_of_plain_calls_and_the_long(rng, names, name, shape):
    logits, targets = case(rng, name, shape)
    each = {
        "label_smoothing": 0.1,
        "z_loss": 1e-3,
        "softcap": 20.0,
        "logit_scale": 0.5,
        "ignore_index": 1,
        "weight": rng.random(shape[1]).astype(arithmetic_type(logits.dtype)),
        "sample_weight": rng.random(shape[0]).astype(arithmetic_type(logits.dtype)),
    }
    options = {key: each[key] for key in names}
    assert is_plain(logits, targets, **options)
    short = fastce.cross_entropy_with_grad(logits, targets, **options)
    assert_same_result(short, fastce.cross_entropy_with_grad(logits, targets, reduction="mean", **options))
    loss = fastce.cross_entropy(logits, targets, **options)
    assert loss == fastce.cross_entropy(logits, targets, reduction="mean", **options) == short.loss


@pytest.mark.parametrize("name", INTEGER_TYPES)
def test_the_short_way_takes_targets_of_every_type_that_int64_can_hold(rng, name):
    logits, targets = random_rows(rng, (50, 2 if name == "bool" else 30))
    targets[7] = 1
    options = {"ignore_index": 1}
    expected = fastce.cross_entropy_with_grad(logits, targets, reduction="mean", **options)
    column = np.repeat(targets.astype(name)[:, None], 2, axis=1)[:, 1]
    frozen = targets.astype(name)
    frozen.flags.writeable = False
    for given in (targets.astype(name), column, frozen, targets.astype(np.dtype(name).newbyteorder())):
        assert is_plain(logits, given, **options) == (name not in ("bool", "uint64"))
        assert_same_result(fastce.cross_entropy_with_grad(logits, given, **options), expected)
    into = np.zeros_like(logits)
    with pytest.raises(ValueError, match="grad_out shares memory with targets"):
        fastce.cross_entropy_with_grad(logits, into.view(name)[:, 0], grad_out=into, **options)
    assert not into.any()
