"""The loss as an operator of PyTorch's: what `torch.compile`, `torch.export` and dispatch modes see as one step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .fused import gradient_of_composed
from .options import ARITHMETIC, Options, output
from .solve import solve

_AUX_TYPES = {"argmax": torch.int64, "correct": torch.bool, "rank": torch.int64}


@torch.library.custom_op(
    "fastce::cross_entropy",
    mutates_args=(),
    schema=(
        "(Tensor input, Tensor target, Tensor? weight, Tensor? sample_weight, int ignore_index, str reduction, "
        "float label_smoothing, float z_loss, float? softcap, float logit_scale, float? normalizer, str aux, "
        "bool with_grad) -> (Tensor, Tensor, Tensor[])"
    ),
)
def _cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None, sample_weight: Tensor | None, ignore_index: int,
    reduction: str, label_smoothing: float, z_loss: float, softcap: float | None, logit_scale: float,
    normalizer: float | None, aux: str, with_grad: bool,
) -> tuple[Tensor, Tensor, list[Tensor]]:  # fmt: skip
    """Loss, gradient for an upstream gradient of 1, empty if not wanted, and aux, whose names are given in one."""
    o = Options(ignore_index, reduction, label_smoothing, z_loss, softcap, logit_scale, normalizer, tuple(aux.split()))
    grad = _like(input, with_grad)
    solved = solve(
        input, target, weight, sample_weight, o, with_grad=with_grad, grad_out=grad if with_grad else None, aux=o.aux
    )
    return solved.loss, grad, list(solved.aux)


@_cross_entropy.register_fake
def _(
    input: Tensor, target: Tensor, weight: Any, sample_weight: Any, ignore_index: int, reduction: str, *options: Any
) -> tuple[Tensor, Tensor, list[Tensor]]:
    *_, aux, with_grad = options
    rows = input.shape[:1] + input.shape[2:] if input.dim() > 1 else ()
    dtype = ARITHMETIC[input.dtype]
    return (
        input.new_empty(rows if reduction == "none" else (), dtype=dtype),
        _like(input, with_grad),
        [input.new_empty(rows, dtype=_AUX_TYPES.get(name, dtype)) for name in aux.split()],
    )


def _like(input: Tensor, with_grad: bool) -> Tensor:
    return torch.empty_like(input) if with_grad else input.new_empty(0)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    input, target, weight, sample_weight, *options, _, _ = inputs
    _, grad, aux = output
    ctx.save_for_backward(input, target, weight, sample_weight, grad)
    ctx.options = Options(*options)
    ctx.mark_non_differentiable(grad, *aux)


def _backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    input, target, weight, sample_weight, grad = ctx.saved_tensors
    if torch.is_grad_enabled():
        x = gradient_of_composed(input, target, weight, sample_weight, ctx.options, upstream.dtype, upstream)
    else:
        if upstream.dim():  # one for each row: beside every class
            upstream = upstream.unsqueeze(1)
        x = (grad * upstream).to(grad.dtype)
    return (x, *(None,) * 12)


_cross_entropy.register_autograd(_backward, setup_context=_setup_context)


def by_operator(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    o: Options,
    dtype: torch.dtype,
    with_grad: bool,
) -> Any:
    """Give what `cross_entropy` gives."""
    if (
        input.dtype in (torch.float16, torch.bfloat16)
        and with_grad
        and (input.dtype is torch.float16 or o.reduction == "none")
    ):
        input = input.float()  # the gradient is scaled later: to be rounded after that, not before
    loss, _, aux = _cross_entropy(
        input, target, weight, sample_weight, o.ignore_index, o.reduction, float(o.label_smoothing), o.z_loss,
        o.softcap, o.logit_scale, o.normalizer, " ".join(o.aux), with_grad,
    )  # fmt: skip
    return output(loss.to(dtype), aux, o)
