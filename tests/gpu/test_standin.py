"""The public functions from array to array, on a stand-in for CuPy whose launches are interpreted."""

import sys

import numpy as np
import pytest
from conftest import (
    FLOAT_TYPES,
    GRAD_ON_GPU,
    INTEGER_TYPES,
    arithmetic_type,
    assert_grad,
    assert_loss,
    float_type,
    oracle,
)

pytest.importorskip("numba_cuda", reason="numba-cuda, which compiles for GPUs, is not installed")

import fastce
from fastce import dispatch
from fastce.problem import AUX

from . import standin, standin_cuda
from .test_public import every_option


@pytest.fixture(scope="module")
def module_gpu():
    with standin.installed() as gpu:
        yield gpu


@pytest.fixture
def gpu(module_gpu):
    """The GPUs, with nothing counted yet."""
    module_gpu.launches.clear()
    module_gpu.waits = module_gpu.copies = 0
    module_gpu.options = {}
    return module_gpu


def on_gpu(gpu, options):
    return {name: gpu.put(o) if isinstance(o, np.ndarray) else o for name, o in options.items()}


def some_rows(rng, shape=(9, 40), dtype=np.float32):
    return (rng.normal(size=shape) * 3).astype(dtype), rng.integers(0, shape[-1], shape[:-1])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("with_options", [False, True], ids=["plain", "every option"])
def test_loss_and_gradient_without_waiting(gpu, rng, reduction, with_options):
    logits, targets = some_rows(rng)
    options = every_option(rng, logits.shape, -1) if with_options else {}
    x, y, given = gpu.put(logits), gpu.put(targets), on_gpu(gpu, options)
    result = fastce.cross_entropy_with_grad(x, y, reduction=reduction, **given)
    alone = fastce.cross_entropy(x, y, reduction=reduction, **given)
    assert (gpu.waits, gpu.copies) == (0, 0)
    assert result.loss.shape == (targets.shape if reduction == "none" else ())
    expected = oracle(fastce.cross_entropy_with_grad, logits, targets, reduction=reduction, **options)
    largest = np.abs(logits).max() * with_options * 1.5
    assert_loss(result.loss.get(), expected.loss, largest)
    np.testing.assert_array_equal(alone.get(), result.loss.get())
    terms = np.abs(expected.grad).max()
    assert_grad(result.grad.get(), expected.grad, largest, terms, tolerances=GRAD_ON_GPU)


def test_other_functions_without_waiting(gpu, rng):
    logits, targets = some_rows(rng)
    x, y = gpu.put(logits), gpu.put(targets)
    lse, p, log_p = fastce.logsumexp(x), fastce.softmax(x), fastce.log_softmax(x)
    loss, grad = fastce.nll_loss(log_p, y), fastce.cross_entropy_backward(x, y, lse)
    assert (gpu.waits, gpu.copies) == (0, 0)
    np.testing.assert_allclose(lse.get(), oracle(fastce.logsumexp, logits), rtol=1e-6)
    np.testing.assert_allclose(p.get(), oracle(fastce.softmax, logits), rtol=2e-6)
    np.testing.assert_allclose(log_p.get(), oracle(fastce.log_softmax, logits), rtol=2e-6, atol=1e-6)
    expected = oracle(fastce.cross_entropy_with_grad, logits, targets)
    assert_loss(loss.get(), expected.loss)
    assert_grad(grad.get(), expected.grad, 10.0, tolerances=GRAD_ON_GPU)


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
def test_more_rows_than_one_block_adds_up(gpu, rng, dtype):
    logits, targets = some_rows(rng, (20_001, 3), float_type(dtype))
    targets[::5] = -100
    weight, sample_weight = rng.uniform(0.5, 2, 3), rng.uniform(0.5, 2, 20_001)
    options = {"weight": weight, "sample_weight": sample_weight}
    options = {name: o.astype(arithmetic_type(logits.dtype)) for name, o in options.items()} | {"z_loss": 0.125}
    x, y, given = gpu.put(logits), gpu.put(targets), on_gpu(gpu, options)
    result = fastce.cross_entropy_with_grad(x, y, **given)
    assert len(gpu.launches) == 5  # weights, their end; rows; losses, their end
    assert (gpu.waits, gpu.copies) == (0, 0)
    expected = oracle(fastce.cross_entropy_with_grad, logits, targets, **options)
    assert_loss(result.loss.get(), expected.loss)
    assert_grad(result.grad.get(), expected.grad, tolerances=GRAD_ON_GPU)


@pytest.mark.parametrize("targets_dtype", INTEGER_TYPES)
@pytest.mark.parametrize("dtype", FLOAT_TYPES)
def test_nll_loss_of_every_type(gpu, rng, dtype, targets_dtype):
    """Rows that no single step leads to, classes apart, weights, -inf where nothing weighs."""
    p = rng.normal(size=(2, 150, 2, 3)).astype(float_type(dtype))
    targets = rng.integers(0, 2, (2, 150, 3)).astype(targets_dtype)
    p[0, 0, 0], targets[0, 0] = -np.inf, 0
    weight = np.array([0.0, 2.0], arithmetic_type(p.dtype))
    options = {"weight": weight, "sample_weight": rng.uniform(0.5, 2, targets.shape).astype(weight.dtype), "axis": 2}
    x, y, given = gpu.put(p), gpu.put(targets), on_gpu(gpu, options)
    losses, mean = fastce.nll_loss(x, y, reduction="none", **given), fastce.nll_loss(x, y, **given)
    assert (gpu.waits, gpu.copies) == (0, 0)
    assert losses.dtype == mean.dtype == weight.dtype
    exact = p.astype(float)
    assert_loss(losses.get(), fastce.nll_loss(exact, targets, reduction="none", **options))
    assert_loss(mean.get(), fastce.nll_loss(exact, targets, **options))


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
def test_nll_loss_of_bad_targets(gpu, rng, dtype):
    p = rng.normal(size=(6, 3)).astype(float_type(dtype))
    targets = np.array([0, 3, 2, -1, -100, 1])
    loss = fastce.nll_loss(gpu.put(p), gpu.put(targets), reduction="none").get()
    np.testing.assert_array_equal(np.isnan(loss), [False, True, False, True, False, False])
    np.testing.assert_array_equal(loss[[0, 2, 4, 5]], [-p[0, 0], -p[2, 2], 0, -p[5, 1]])


def test_on_the_device_of_the_arrays_and_the_current_stream(gpu, rng):
    logits, targets = some_rows(rng)
    for number in range(len(gpu.capabilities)):
        with standin.Device(gpu, number):
            x, y = gpu.put(logits), gpu.put(targets)
        gpu.launches.clear()
        with standin.Stream(gpu) as stream:
            loss = fastce.cross_entropy(x, y)
        assert {(launched.device, launched.stream) for launched in gpu.launches} == {(number, stream)}
        assert loss.device.id == number
        assert_loss(loss.get(), oracle(fastce.cross_entropy, logits, targets))


def test_several_devices_are_an_error(gpu, rng):
    logits, targets = some_rows(rng)
    x = gpu.put(logits)
    with standin.Device(gpu, 1):
        y = gpu.put(targets)
    with pytest.raises(TypeError, match="targets is on GPU 1, but the logits are on GPU 0"):
        fastce.cross_entropy(x, y)
    with pytest.raises(TypeError, match="targets is on a GPU, but the first argument"):
        fastce.cross_entropy(logits, y)
    with pytest.raises(TypeError, match="on a GPU"):
        fastce.cross_entropy(x, gpu.put(targets), backend="cpu")
    assert gpu.launches == []


ON_THE_CPU = {
    "a NumPy array": np.ones(9),
    "list": [1.0] * 9,
    "float": 1.0,
}


@pytest.mark.parametrize("value", ON_THE_CPU.values(), ids=ON_THE_CPU)
@pytest.mark.parametrize("name", ["targets", "weight", "sample_weight", "grad_output", "out", "grad_out", "lse"])
def test_what_is_not_on_a_gpu_is_an_error(gpu, rng, name, value):
    """As for CuPy's own functions: nothing is copied to the device silently. Numbers may be Python's, arrays not."""
    logits, targets = some_rows(rng)
    arguments = {"logits": gpu.put(logits), "targets": gpu.put(targets), "reduction": "none", name: value}
    function = fastce.cross_entropy_with_grad
    if name == "lse":
        function = fastce.cross_entropy_backward
    if name == "grad_output" and isinstance(value, float):
        assert function(**arguments).grad.shape == logits.shape
        return
    what = next(what for what, other in ON_THE_CPU.items() if other is value)
    with pytest.raises(TypeError, match=rf"{name} must be an array on a GPU, .*not {what}: cupy.asarray\({name}\)"):
        function(**arguments)
    assert gpu.launches == []


@pytest.mark.parametrize("value", [2.5, np.float32(2.5), np.int64(3), True])
def test_an_upstream_gradient_may_be_a_number(gpu, rng, value):
    logits, targets = some_rows(rng)
    grad = fastce.cross_entropy_with_grad(gpu.put(logits), gpu.put(targets), grad_output=value).grad
    expected = oracle(fastce.cross_entropy_with_grad, logits, targets, grad_output=float(value)).grad
    assert_grad(grad.get(), expected, tolerances=GRAD_ON_GPU)


@pytest.mark.parametrize("value", ["2", 2j, np.complex64(2)])
def test_an_upstream_gradient_of_another_type_is_an_error(gpu, rng, value):
    logits, targets = some_rows(rng)
    with pytest.raises(TypeError, match="grad_output must be"):
        fastce.cross_entropy_with_grad(gpu.put(logits), gpu.put(targets), grad_output=value)


def test_options_are_checked_as_on_the_cpu(gpu, rng):
    x, y = map(gpu.put, some_rows(rng))
    with pytest.raises(ValueError, match="backend must be one of"):
        fastce.logsumexp(x, backend="gpu")
    with pytest.raises(TypeError, match="axis must be an integer"):
        fastce.softmax(x, axis=1.0)
    with pytest.raises(ValueError, match="label_smoothing must lie in"):
        fastce.cross_entropy(x, y, label_smoothing=2.0)
    with pytest.raises(TypeError, match="takes NumPy arrays"):
        fastce.log_softmax(x, backend="reference")


def test_bad_targets(gpu, rng):
    logits, targets = some_rows(rng)
    targets[[3, 5]] = 40, -1
    x, y = gpu.put(logits), gpu.put(targets)
    result = fastce.cross_entropy_with_grad(x, y, reduction="none", aux=AUX)
    assert gpu.waits == 0
    bad = np.isin(np.arange(9), (3, 5))
    np.testing.assert_array_equal(np.isnan(result.grad.get()).all(axis=1), bad)
    assert not np.isnan(result.grad.get()[~bad]).any()
    expected = oracle(fastce.cross_entropy_with_grad, logits, np.where(bad, 0, targets), reduction="none", aux=AUX)
    # What the target has a say in is NaN, False or 0; the rest is as it would be with any other target.
    nothing = {"loss": np.nan, "target_prob": np.nan, "correct": False, "rank": 0}
    for name in ("loss", *AUX):
        wanted = getattr(expected, name)
        wanted = np.where(bad, nothing[name], wanted) if name in nothing else wanted
        np.testing.assert_allclose(getattr(result, name).get(), wanted, rtol=1e-6, atol=0, err_msg=name)
    with pytest.raises(IndexError, match=r"targets\[3\] is 40"):
        fastce.cross_entropy_with_grad(x, y, grad_out=x, check=True)
    np.testing.assert_array_equal(x.get(), logits)


class _Interface:
    """An array of somebody else."""

    def __init__(self, array):
        self.array, self.strides = array, array.strides

    @property
    def __cuda_array_interface__(self):
        array = self.array
        place = {"data": (array.data.ptr, False), "shape": array.shape, "strides": self.strides}
        return {"version": 3, "typestr": array.dtype.str, **place}


class _DLPack:
    def __init__(self, array):
        self.array = array

    def __dlpack_device__(self):
        return 2, self.array.device.id

    def __dlpack__(self, **options):
        return self.array


@pytest.mark.parametrize("foreign", [_Interface, _DLPack])
def test_arrays_of_others_without_a_copy(gpu, rng, foreign):
    logits, targets = some_rows(rng)
    x, y = gpu.put(logits), gpu.put(targets)
    grad = gpu.empty(logits.shape, np.float32)
    out = foreign(grad)
    result = fastce.cross_entropy_with_grad(foreign(x), foreign(y), grad_out=out)
    assert result.grad is out
    assert (gpu.waits, gpu.copies) == (0, 0)
    assert_grad(grad.get(), oracle(fastce.cross_entropy_with_grad, logits, targets).grad, tolerances=GRAD_ON_GPU)


def test_outputs_beside_inputs(gpu, rng):
    """Columns in between, and rows behind, share no memory."""
    logits, targets = some_rows(rng)
    y, wide, high = gpu.put(targets), gpu.put(np.repeat(logits, 2, axis=1)), gpu.put(np.tile(logits, (2, 1)))
    expected = oracle(fastce.cross_entropy_with_grad, logits, targets).grad
    for x, grad in ((wide[:, ::2], wide[:, 1::2]), (high[:9], high[9:]), (high[:9], high[:9])):
        assert fastce.cross_entropy_with_grad(x, y, grad_out=grad).grad is grad
        assert_grad(grad.get(), expected, tolerances=GRAD_ON_GPU)


def test_outputs_that_cannot_be(gpu, rng):
    logits, targets = some_rows(rng, (10, 40))
    x, y, other = gpu.put(logits), gpu.put(targets), gpu.put(logits)
    same = _Interface(other[:9])
    same.strides = (0, 4)
    for outputs, message in (
        ({"grad_out": x[1:]}, "grad_out shares memory with logits"),
        ({"out": x[0, :9]}, "out shares memory with logits"),
        ({"out": other[0, :9], "grad_out": other[:9]}, "grad_out shares memory with out"),
        ({"sample_weight": other[0, :9], "grad_out": other[:9]}, "grad_out shares memory with sample_weight"),
        ({"grad_out": same}, "grad_out has elements that share memory"),
        ({"grad_out": x}, r"grad_out must have shape \(9, 40\)"),
        ({"grad_out": gpu.empty((9, 40), np.float16)}, "grad_out must be of type float32"),
    ):
        with pytest.raises(ValueError, match=message):
            fastce.cross_entropy_with_grad(x[:9], y[:9], reduction="none", **outputs)
    assert gpu.launches == []


def test_a_launch_during_a_launch(gpu, rng, monkeypatch):
    """As in another thread: each has its own arguments."""
    (a, _), (b, _) = some_rows(rng), some_rows(rng)
    x, other, own, found = gpu.put(a), gpu.put(b), standin_cuda.Function.__call__, []

    def interrupted(*launch, **options):
        monkeypatch.undo()
        found.append(fastce.logsumexp(other))
        own(*launch, **options)

    fastce.logsumexp(x)
    monkeypatch.setattr(standin_cuda.Function, "__call__", interrupted)
    found.append(fastce.logsumexp(x))
    for lse, logits in zip(found, (b, a), strict=True):
        np.testing.assert_allclose(lse.get(), oracle(fastce.logsumexp, logits), rtol=1e-6)


def test_rows_that_no_single_step_leads_to(gpu, rng):
    logits, targets = some_rows(rng, (4, 6, 17))
    x, y = gpu.put(logits)[:, ::2], gpu.put(np.ascontiguousarray(targets[:, ::2]))
    result = fastce.cross_entropy_with_grad(x, y)
    expected = oracle(fastce.cross_entropy_with_grad, logits[:, ::2], targets[:, ::2])
    assert (gpu.waits, gpu.copies) == (0, 0)
    assert_loss(result.loss.get(), expected.loss)
    assert_grad(result.grad.get(), expected.grad, tolerances=GRAD_ON_GPU)


def test_memory_goes_back_to_the_pool(gpu, rng):
    logits, targets = some_rows(rng)
    x, y = gpu.put(logits), gpu.put(targets)
    before = len(gpu.memory.buffers)
    result = fastce.cross_entropy_with_grad(x, y)
    assert len(gpu.memory.buffers) == before + 2  # loss and gradient
    del result
    assert len(gpu.memory.buffers) == before


def losses_and_gradients(x, y):
    result = fastce.cross_entropy_with_grad(x, y, aux=("lse",))
    return result.loss, result.grad, result.lse


CAPTURED = {  # shape of the logits, and a call that gives arrays
    "mean": ((9, 40), losses_and_gradients),
    "more than a block adds up": ((9000, 3), losses_and_gradients),
    "few long rows": ((2, 70_000), losses_and_gradients),
    "rows apart": ((4, 6, 17), lambda x, y: losses_and_gradients(x[:, ::2], y[:, ::2])),
    "classes first": ((5, 9), lambda x, y: [fastce.softmax(x, axis=0), fastce.logsumexp(x, axis=0)]),
    "in place": ((9, 40), lambda x, y: [fastce.log_softmax(x, out=x)]),
    "backward": ((9, 40), lambda x, y: [fastce.cross_entropy_backward(x, y, fastce.logsumexp(x), grad_output=2.0)]),
    "nll": ((9, 40), lambda x, y: [fastce.nll_loss(x, y, reduction="sum"), fastce.nll_loss(x, y)]),
}


@pytest.mark.parametrize(("shape", "call"), CAPTURED.values(), ids=CAPTURED)
def test_captured_in_a_graph(gpu, rng, shape, call):
    """Nothing waits for the device, is copied to it or allocated but from the pool; and what was captured is all."""
    logits, targets = some_rows(rng, shape)
    x, y = gpu.put(logits), gpu.put(targets)
    call(x, y)  # compiles and loads
    gpu.launches.clear()
    with standin.Stream(gpu) as stream:
        stream.begin_capture()
        results = call(x, y)
        graph = stream.end_capture()
    assert gpu.launches == []
    for _ in range(2):
        logits, targets = some_rows(rng, shape)
        x.buffer.put(logits)
        y.buffer.put(targets)
        graph.launch()
        expected = [result.get() for result in results]
        x.buffer.put(logits)
        for found, wanted in zip(expected, call(x, y), strict=True):
            np.testing.assert_array_equal(found, wanted.get())


def test_what_cannot_be_captured_is_noticed(gpu, rng):
    x, y = map(gpu.put, some_rows(rng))
    for wrong in (
        lambda: fastce.cross_entropy(x, y, check=True),
        lambda: float(x[0, 0]),
        lambda: x.device.synchronize(),
    ):
        with standin.Stream(gpu) as stream:
            stream.begin_capture()
            with pytest.raises(AssertionError, match="while a stream is captured"):
                wrong()
            stream.end_capture()


def test_same_bits_whatever_comes_first(gpu, rng):
    logits, targets = some_rows(rng, (40, 33))
    x, y = gpu.put(logits), gpu.put(targets)
    results = []
    for schedule in ("lockstep", "warp-reverse", "random"):
        gpu.options = {"schedule": schedule}
        result = fastce.cross_entropy_with_grad(x, y)
        results.append((result.loss.get(), result.grad.get()))
    for loss, grad in results[1:]:
        np.testing.assert_array_equal(loss, results[0][0])
        np.testing.assert_array_equal(grad, results[0][1])


def test_without_cupy_the_extra_is_named(gpu, rng, monkeypatch):
    x = _Interface(gpu.put(some_rows(rng)[0]))
    for name in standin.OF_CUPY:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(dispatch, "_gpu", None)
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match=r"pip install 'fastce\[cuda13\]'"):
        fastce.logsumexp(x)
