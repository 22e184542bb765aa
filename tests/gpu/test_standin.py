"""The public functions from array to array, on a stand-in for CuPy whose launches are interpreted."""

import sys

import numpy as np
import pytest
from conftest import assert_grad, assert_loss, oracle

pytest.importorskip("numba_cuda", reason="numba-cuda, which compiles for GPUs, is not installed")

import fastce

from . import standin
from .test_public import GRAD, every_option


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
    assert_grad(result.grad.get(), expected.grad, largest, terms, tolerances=GRAD)


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
    assert_grad(grad.get(), expected.grad, 10.0, tolerances=GRAD)


def test_more_rows_than_one_block_adds_up(gpu, rng):
    logits, targets = some_rows(rng, (20_001, 3))
    targets[::5] = -100
    weight = rng.uniform(0.5, 2, 3).astype(np.float32)
    loss = fastce.cross_entropy(gpu.put(logits), gpu.put(targets), weight=gpu.put(weight), z_loss=0.125)
    kernels = "".join(launched.kernel for launched in gpu.launches)
    assert len(gpu.launches) == 5, kernels  # weights, their end; rows; losses, their end
    assert (gpu.waits, gpu.copies) == (0, 0)
    assert_loss(loss.get(), oracle(fastce.cross_entropy, logits, targets, weight=weight, z_loss=0.125))


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
    with pytest.raises(TypeError, match="targets must be on a GPU"):
        fastce.cross_entropy(x, targets)
    with pytest.raises(TypeError, match="on a GPU"):
        fastce.cross_entropy(x, gpu.put(targets), backend="cpu")
    assert gpu.launches == []


def test_bad_targets(gpu, rng):
    logits, targets = some_rows(rng)
    targets[[3, 5]] = 40, -1
    x, y = gpu.put(logits), gpu.put(targets)
    result = fastce.cross_entropy_with_grad(x, y, reduction="none")
    assert gpu.waits == 0
    bad = np.isin(np.arange(9), (3, 5))
    np.testing.assert_array_equal(np.isnan(result.loss.get()), bad)
    np.testing.assert_array_equal(np.isnan(result.grad.get()).all(axis=1), bad)
    with pytest.raises(IndexError, match=r"targets\[3\] is 40"):
        fastce.cross_entropy_with_grad(x, y, grad_out=x, check=True)
    np.testing.assert_array_equal(x.get(), logits)


class _Interface:
    """An array of somebody else."""

    def __init__(self, array):
        self.array = array

    @property
    def __cuda_array_interface__(self):
        array = self.array
        place = {"data": (array.data.ptr, False), "shape": array.shape, "strides": array.strides}
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
    assert_grad(grad.get(), oracle(fastce.cross_entropy_with_grad, logits, targets).grad, tolerances=GRAD)


def test_rows_that_no_single_step_leads_to(gpu, rng):
    logits, targets = some_rows(rng, (4, 6, 17))
    x, y = gpu.put(logits)[:, ::2], gpu.put(np.ascontiguousarray(targets[:, ::2]))
    result = fastce.cross_entropy_with_grad(x, y)
    expected = oracle(fastce.cross_entropy_with_grad, logits[:, ::2], targets[:, ::2])
    assert (gpu.waits, gpu.copies) == (0, 0)
    assert_loss(result.loss.get(), expected.loss)
    assert_grad(result.grad.get(), expected.grad, tolerances=GRAD)


def test_memory_goes_back_to_the_pool(gpu, rng):
    logits, targets = some_rows(rng)
    x, y = gpu.put(logits), gpu.put(targets)
    before = len(gpu.memory.buffers)
    result = fastce.cross_entropy_with_grad(x, y)
    assert len(gpu.memory.buffers) == before + 2  # loss and gradient
    del result
    assert len(gpu.memory.buffers) == before


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
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match=r"pip install 'fastce\[cuda13\]'"):
        fastce.logsumexp(x)
