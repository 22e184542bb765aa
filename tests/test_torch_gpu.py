"""What the loss for PyTorch hands to the path for GPUs, and takes back: with stand-ins for CuPy and for that path.

Tensors of the CPU play those of a GPU, but for the last test, which needs one. The kernels are tested in tests/gpu.
"""

import contextlib
import sys
import types

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

import torch

import fastce
import fastce.torch
from fastce import dispatch
from fastce.places import missing_gpu
from fastce.torch import fused, options, solve


@pytest.fixture
def gpu(monkeypatch):
    """Note what is called on which stream; computed on the CPU."""
    seen = types.SimpleNamespace(devices=[], streams=[], calls=[], scaled=[])

    @contextlib.contextmanager
    def on_device(number):
        seen.devices.append(number)
        yield
        seen.devices.pop()

    @contextlib.contextmanager
    def on_stream(stream):
        seen.streams.append((stream.cuda_stream, *seen.devices))
        yield
        seen.streams.append(None)

    def cross_entropy(logits, targets, lse, with_loss, with_grad, grad_output, grad_out, aux, out, **options):
        assert seen.streams[-1] is not None
        assert lse is None
        assert with_loss
        assert not any(getattr(a, "requires_grad", False) for a in (logits, grad_output, options["weight"]))
        seen.calls.append((with_grad, grad_output))
        given = {name: o.numpy() if isinstance(o, torch.Tensor) else o for name, o in options.items()}
        result = fastce.cross_entropy_with_grad(
            logits.numpy().copy(), targets.numpy(), grad_output=None if grad_output is None else grad_output.numpy(),
            aux=aux, **given,
        )  # fmt: skip
        out.copy_(torch.as_tensor(result.loss))
        if with_grad:
            grad_out.copy_(torch.from_numpy(result.grad))
        return types.SimpleNamespace(
            loss=out, grad=grad_out, aux={name: np.asarray(getattr(result, name)) for name in aux}
        )

    def scale(grad, factor):
        assert seen.streams[-1] is not None
        assert not factor.requires_grad
        seen.scaled.append(grad.data_ptr())
        grad.mul_(factor)

    path = types.SimpleNamespace(cross_entropy=cross_entropy, scale=scale)
    cupy = types.ModuleType("cupy")
    cupy.ndarray = type("ndarray", (), {})
    cupy.cuda = types.SimpleNamespace(Device=on_device, Stream=types.SimpleNamespace(from_external=on_stream))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(dispatch, "gpu", lambda: path)
    stream = types.SimpleNamespace(cuda_stream=1234, device_index=7)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(solve, "solve", lambda x, *a, **k: solve._solve_on_gpu(x, *a, *_in_order(**k)))
    monkeypatch.setattr(fused, "solve", solve.solve)
    return seen


def _in_order(with_grad, upstream=None, grad_out=None, aux=()):
    return with_grad, upstream, grad_out, aux


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(5,), (6, 5), (2, 5, 3)], ids=str)
def test_loss_and_gradient(gpu, reduction, shape):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64).requires_grad_()
    y = torch.randint(5, shape[:1] + shape[2:] if len(shape) > 1 else ())
    w = torch.rand(5, dtype=torch.float64)
    o = options.PLAIN._replace(reduction=reduction, aux=("lse", "correct"))
    loss, lse, correct = fused.apply(x, (y, w, None, o, torch.float64, False))
    wanted = torch.nn.functional.cross_entropy(x, y, w, reduction=reduction)
    torch.testing.assert_close(loss, wanted)
    axis = min(1, len(shape) - 1)
    torch.testing.assert_close(lse, x.detach().logsumexp(axis))
    assert torch.equal(correct, x.argmax(axis) == y)
    upstream = torch.rand_like(wanted)
    torch.testing.assert_close(*(torch.autograd.grad(a, x, upstream)[0] for a in (loss, wanted)))
    waits = reduction == "none"
    assert [with_grad for with_grad, _ in gpu.calls] == [not waits] + [True] * waits
    assert set(gpu.streams) == {(1234, 7), None}


def test_a_gradient_is_scaled_by_a_number_that_stays_on_the_gpu(gpu):
    grad, factor = torch.ones(3, 4), torch.tensor(0.5, requires_grad=True)
    solve.scale_on_gpu(grad, factor)
    assert gpu.scaled == [grad.data_ptr()]
    turned = torch.ones(4, 3).t()
    solve.scale_on_gpu(turned, factor.detach())  # by PyTorch, whose kernel takes any strides
    assert len(gpu.scaled) == 1
    assert (grad == 0.5).all()
    assert (turned == 0.5).all()


def test_arrays_of_a_gpu_are_the_tensors_themselves():
    assert solve.array_of(torch.empty(3, device="meta", requires_grad=True)).device.type == "meta"
    assert solve.array_of(None) is None


@pytest.fixture
def cuda():
    if reason := missing_gpu():
        pytest.skip(reason)
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no GPU")
    return torch.device("cuda")


def of_both(x, y, dtype, **options):
    """Loss and gradient by fastce and by PyTorch in float64, for an upstream gradient of numbers unlike 1."""
    ours = x.to(dtype, copy=True).requires_grad_()
    exact = ours.detach().to(torch.float64, copy=True).requires_grad_()
    loss = fastce.torch.cross_entropy(ours, y, **options)
    options = {name: o.double() if isinstance(o, torch.Tensor) else o for name, o in options.items()}
    wanted = torch.nn.functional.cross_entropy(exact, y, **options)
    upstream = torch.linspace(0.5, 2, wanted.numel(), device=x.device).view(wanted.shape)
    loss.backward(upstream.to(loss.dtype))
    wanted.backward(upstream.to(loss.dtype).double())
    return loss, ours.grad, wanted, exact.grad


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(7,), (64, 10), (33, 5000), (4, 12, 5, 3)], ids=str)
def test_on_a_gpu(cuda, dtype, reduction, shape):
    torch.manual_seed(0)
    n_classes = shape[min(1, len(shape) - 1)]
    x = torch.randn(shape, device=cuda) * 3
    y = torch.randint(n_classes, shape[:1] + shape[2:] if len(shape) > 1 else (), device=cuda)
    weight = torch.rand(n_classes, device=cuda).to(dtype)
    near = {torch.float16: 2e-3, torch.bfloat16: 1e-2, torch.float32: 2e-6, torch.float64: 1e-12}[dtype]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    for given in ({}, {"weight": weight, "label_smoothing": 0.1, "ignore_index": 1}):
        with torch.cuda.stream(stream):
            loss, grad, wanted, exact = of_both(x, y, dtype, reduction=reduction, **given)
        torch.cuda.synchronize()
        assert loss.dtype == grad.dtype == dtype
        assert loss.device == grad.device == x.device
        torch.testing.assert_close(loss.double(), wanted, rtol=near, atol=near)
        torch.testing.assert_close(grad.double(), exact, rtol=near, atol=near * exact.abs().max().item())
