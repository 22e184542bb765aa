"""The loss as a node of autograd's graph, whose gradient is found in the forward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .composed import composed
from .options import Options
from .solve import scale_on_gpu, solve

# All but the logits: target, weight, sample weight, options, the type of the loss, and whether in place. As one
# argument, since the engine counts each, and 32 x 10 logits are soon done.
Call = tuple[Tensor, Tensor | None, Tensor | None, Options, torch.dtype, bool]


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, call: Call) -> Any:
        target, weight, sample_weight, o, dtype, inplace = call
        ctx.how = o, dtype, inplace
        waits = _gradient_waits(input, o, inplace)
        if inplace:
            input = input.detach()
            ctx.save_for_backward(target, weight, sample_weight)
        else:
            ctx.save_for_backward(input, target, weight, sample_weight)
        grad_out = input if inplace and not waits else None
        loss, grad, aux = solve(
            input, target, weight, sample_weight, o, with_grad=not waits, grad_out=grad_out, aux=o.aux
        )
        if not waits:
            ctx.grad = grad
        elif inplace:
            ctx.logits = input
        if loss.dtype is not dtype:
            loss = loss.to(dtype)
        if not aux:
            return loss
        ctx.mark_non_differentiable(*aux)
        ctx.set_materialize_grads(False)
        return (loss, *aux)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Tensor | None, None]:
        if upstream is None:  # somebody asks for the gradient of an aux
            return None, None
        # create_graph: the gradient is to be differentiated itself; is_grads_batched: it has many upstream gradients
        if torch.is_grad_enabled() or torch._C._functorch.is_legacy_batchedtensor(upstream):
            return _by_composed(ctx, upstream), None
        # The gradient is given away: it may become `logits.grad`, which anybody may write to. Who comes again, with
        # retain_graph, has it computed again.
        grad = ctx.__dict__.pop("grad", None)
        if grad is None:
            return _gradient(ctx, upstream), None
        if not grad.is_cpu:
            scale_on_gpu(grad, upstream)
        elif (factor := upstream.item()) != 1.0:
            if grad.dtype is torch.float16:  # a loss scale keeps it from underflow, but not after it was rounded
                return _gradient(ctx, upstream, grad), None
            grad.mul_(factor)
        return grad, None


# `_Fused.apply` without the steps that it takes for functorch, which is not active where this is called: 2 µs of 6.
apply: Any = super(torch.autograd.Function, _Fused).apply


def _gradient_waits(input: Tensor, o: Options, inplace: bool) -> bool:
    """Whether the gradient is left to the backward pass, where the upstream gradient is known."""
    return (
        o.reduction == "none"
        # Checkpoints and offloading decide what is kept from the forward pass; of `ctx.grad` they know nothing.
        or torch._C._autograd._top_saved_tensors_default_hooks(False) is not None
        # Scaled after it was rounded to float16, a gradient could be 0 that the loss scale is there to keep. On the CPU
        # it is computed again where need be; whether need be, a GPU would have to be waited for to find out.
        or (input.dtype is torch.float16 and (inplace or not input.is_cpu))
    )


def _gradient(ctx: Any, upstream: Tensor, grad_out: Tensor | None = None) -> Tensor:
    """Compute the gradient in the backward pass."""
    o, _, inplace = ctx.how
    if inplace:
        input = grad_out = ctx.__dict__.pop("logits", None)
        if input is None:
            raise RuntimeError("with inplace=True, the gradient took the memory of the logits: backward can run once")
        target, weight, sample_weight = ctx.saved_tensors
    else:
        input, target, weight, sample_weight = ctx.saved_tensors
    solved = solve(
        input, target, weight, sample_weight, o, with_grad=True, upstream=upstream.detach(), grad_out=grad_out
    )
    grad: Tensor = solved.grad
    return grad


def _by_composed(ctx: Any, upstream: Tensor) -> Tensor:
    """Give the gradient as a function of the logits and the upstream gradient, by PyTorch's own operations."""
    o, dtype, inplace = ctx.how
    if inplace:
        raise RuntimeError("with inplace=True, the gradient cannot be differentiated: its logits are gone")
    input, target, weight, sample_weight = ctx.saved_tensors
    return gradient_of_composed(input, target, weight, sample_weight, o, dtype, upstream)


def gradient_of_composed(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    o: Options,
    dtype: torch.dtype,
    upstream: Tensor,
) -> Tensor:
    """Differentiate the loss by the logits, and let the result be differentiated."""
    with torch.enable_grad():
        x = input
        if x.dtype is not dtype:  # autocast, which is over
            x, weight = x.to(dtype), None if weight is None else weight.to(dtype)
            target = target.to(dtype) if target.is_floating_point() else target
        loss = composed(x, target, weight, sample_weight, o._replace(aux=()))
        return torch.autograd.grad(loss, input, upstream, create_graph=True)[0]
