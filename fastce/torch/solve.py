"""From tensors to the kernels and back: the same memory, seen as arrays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import ml_dtypes
import numba
import numpy as np
import torch
import torch.utils.dlpack
from torch import Tensor

from .. import dispatch, plain
from ..problem import cross_entropy_problem
from ..reduction import reduce_rows
from .options import ARITHMETIC, PLAIN, Options

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_FEW = 1 << 16  # elements: with fewer, one thread computes whatever may be


class Solved(NamedTuple):
    """The loss, of the arithmetic type, the gradient if wanted, and what `aux` names."""

    loss: Tensor
    grad: Any
    aux: tuple[Tensor, ...]


def solve(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    o: Options,
    *,
    with_grad: bool,
    upstream: Tensor | None = None,
    grad_out: Tensor | None = None,
    aux: tuple[str, ...] = (),
) -> Solved:
    """Compute what is asked for, in one pass over the logits."""
    if upstream is grad_out is None and input.numel() < _FEW:
        solved = _solve_small(input, target, weight, sample_weight, o, with_grad)
        if solved is not None:
            return solved
    if input.is_cuda:
        return _solve_on_gpu(input, target, weight, sample_weight, o, with_grad, upstream, grad_out, aux)
    if input.numel() < _FEW:
        return _solve_on_cpu(input, target, weight, sample_weight, o, with_grad, upstream, grad_out, aux)
    # As many threads as PyTorch may use here, which is one in a worker of a DataLoader, and no more than Numba may.
    before = numba.get_num_threads()
    allowed = min(torch.get_num_threads(), before)
    if allowed != before:
        numba.set_num_threads(allowed)
    try:
        return _solve_on_cpu(input, target, weight, sample_weight, o, with_grad, upstream, grad_out, aux)
    finally:
        if allowed != before:
            numba.set_num_threads(before)


def _solve_small(
    input: Tensor, target: Tensor, weight: Tensor | None, sample_weight: Tensor | None, o: Options, with_grad: bool
) -> Solved | None:
    """The same for a small plain call, which is mostly Python, in as little of it as will do; None if this is not one.

    What is not there to be found in the cache costs more here than in a loop: a call of 32 x 10 through the functions
    below takes 16 µs more than through this one.
    """
    dtype = input.dtype
    if (
        (dtype is not torch.float32 and dtype is not torch.float64)
        or input.dim() != 2
        or target.dtype is not torch.int64
        or not (input.is_cpu and input.is_contiguous() and target.is_contiguous())
    ):
        return None
    options: dict[str, Any] = {}
    if o is not PLAIN or weight is not None or sample_weight is not None:
        if o.normalizer is not None or o.aux:
            return None
        options = {
            "weight": array_of(weight),
            "sample_weight": array_of(sample_weight),
            "label_smoothing": o.label_smoothing,
            "z_loss": o.z_loss,
            "softcap": o.softcap,
            "logit_scale": o.logit_scale,
            "ignore_index": o.ignore_index,
            "reduction": o.reduction,
        }
    grad = torch.empty_like(input) if with_grad else None
    solved = plain.of_targets(
        input.numpy(force=True), target.numpy(), None if grad is None else grad.numpy(), False, (), None, options
    )
    if solved is None:
        return None
    loss = solved[0]
    return Solved(tensor_of(loss) if loss.ndim else torch.scalar_tensor(float(loss), dtype=dtype), grad, ())


def _solve_on_cpu(
    input: Tensor, target: Tensor, weight: Tensor | None, sample_weight: Tensor | None, o: Options, with_grad: bool,
    upstream: Tensor | None, grad_out: Tensor | None, aux: tuple[str, ...],
) -> Solved:  # fmt: skip
    # A large gradient is memory of NumPy's, that of an earlier one if it can be (see `memory.py`). Milliseconds to get
    # 131 MB and fill them, on one thread: by `torch.empty` 69, by `numpy.empty` 25 (huge pages), used again 17.
    grad: Any = None
    by_row: Any = None  # the upstream gradient
    if upstream is not None:
        by_row = upstream.item() if upstream.dim() == 0 else array_of(upstream)
    task, kernels, rows, losses, grad, reduction, divisor, empty = cross_entropy_problem(
        array_of(input), array_of(target), None, True, with_grad, by_row, array_of(grad_out), aux, None,
        **_options(input, weight, sample_weight, o),
    )  # fmt: skip
    loss = reduce_rows(kernels.cross_entropy(task), losses, reduction, divisor, empty)
    if o.reduction == "none":
        loss = loss.reshape(rows)
    if with_grad:
        grad = tensor_of(grad) if grad_out is None else grad_out
    return Solved(tensor_of(loss), grad, tuple(tensor_of(getattr(task, name).reshape(rows)) for name in aux))


def _solve_on_gpu(
    input: Tensor, target: Tensor, weight: Tensor | None, sample_weight: Tensor | None, o: Options, with_grad: bool,
    upstream: Tensor | None, grad_out: Tensor | None, aux: tuple[str, ...],
) -> Solved:  # fmt: skip
    """The same on PyTorch's current stream; what is returned is memory of PyTorch's, but for the aux."""
    rows = input.shape[:1] + input.shape[2:] if input.dim() > 1 else ()
    loss = input.new_empty(rows if o.reduction == "none" else (), dtype=ARITHMETIC[input.dtype])
    if with_grad and grad_out is None:
        grad_out = torch.empty_like(input)
    with on_stream_of(input):
        found = dispatch.gpu().cross_entropy(
            input.detach(), target, None, True, with_grad, None if upstream is None else upstream.detach(), grad_out,
            aux, loss, **_options(input, weight, sample_weight, o),
        )  # fmt: skip
        return Solved(loss, grad_out, tuple(torch.utils.dlpack.from_dlpack(found.aux[name]) for name in aux))


def scale_on_gpu(grad: Tensor, factor: Tensor) -> None:
    """Multiply a gradient, in place, by a number on the GPU, and not at all where that is 1; nothing waits for it."""
    if grad.is_contiguous():
        with on_stream_of(grad):
            dispatch.gpu().scale(grad, factor.detach())
    else:
        grad.mul_(factor)


@contextmanager
def on_stream_of(input: Tensor) -> Iterator[None]:
    """Make PyTorch's current stream, on the device of a tensor, that of CuPy."""
    import cupy

    stream = torch.cuda.current_stream(input.device)
    # (CuPy has a current stream for each device: without the first, it would be that of the device current now.)
    with cupy.cuda.Device(stream.device_index), cupy.cuda.Stream.from_external(stream):
        yield


def _options(input: Tensor, weight: Tensor | None, sample_weight: Tensor | None, o: Options) -> dict[str, Any]:
    return {
        "weight": array_of(weight),
        "sample_weight": array_of(sample_weight),
        "ignore_index": o.ignore_index,
        "label_smoothing": float(o.label_smoothing),
        "z_loss": o.z_loss,
        "softcap": o.softcap,
        "logit_scale": o.logit_scale,
        "reduction": o.reduction,
        "normalizer": o.normalizer,
        "axis": -1 if input.dim() <= 2 else 1,
    }


def array_of(tensor: Tensor | None) -> Any:
    """View a tensor as a NumPy array, or on a GPU as something that CuPy takes as it is."""
    if tensor is None:
        return None
    if not tensor.is_cpu:
        return tensor.detach()
    if tensor.dtype is torch.bfloat16:  # which NumPy has not: its bits, and the type that ml_dtypes gives NumPy
        return tensor.detach().view(torch.uint16).numpy().view(_BFLOAT16)
    return tensor.numpy(force=True)  # (0.3 µs less than `detach().numpy()`, and the same memory)


def tensor_of(array: Any) -> Tensor:
    """View a NumPy array, or scalar, as a tensor."""
    array = np.asarray(array)
    if array.dtype == _BFLOAT16:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)
