"""Everything but the tensors, what the kernels take, and what comes back."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..problem import AUX, HESS, check_aux, checked


class CrossEntropyOutput(NamedTuple):
    """What `cross_entropy` gives with `aux`; None stands for what was not asked for. Only the loss has a gradient.

    Attributes
    ----------
    loss : Tensor
        As without `aux`.
    lse, argmax, correct, rank, target_prob, entropy : Tensor or None
        One number for each row, in the shape of class targets: `fastce.CrossEntropyResult` explains them.
    """

    loss: Tensor
    lse: Tensor | None = None
    argmax: Tensor | None = None
    correct: Tensor | None = None
    rank: Tensor | None = None
    target_prob: Tensor | None = None
    entropy: Tensor | None = None


class Options(NamedTuple):
    """What PyTorch has, as it was given; and the extras, checked."""

    ignore_index: int = -100
    reduction: str = "mean"
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    softcap: float | None = None
    logit_scale: float = 1.0
    normalizer: float | None = None
    aux: tuple[str, ...] = ()  # in the order of AUX


PLAIN = Options()


def with_extras(
    options: Options,
    target: Tensor,
    z_loss: float,
    softcap: float | None,
    logit_scale: float,
    normalizer: float | None,
    aux: Sequence[str],
) -> Options:
    """Add what PyTorch does not have, checked as in `fastce.cross_entropy`."""
    extras: Any = {"z_loss": z_loss, "softcap": softcap, "logit_scale": logit_scale, "normalizer": normalizer}
    if HESS in aux:  # (which comes with a gradient, and is of no use to autograd)
        raise ValueError(f"aux {HESS!r} is not to be had here: fastce.cross_entropy_with_grad has it, of NumPy arrays")
    check_aux(aux, not target.is_floating_point())
    return options._replace(**checked(extras), aux=tuple(name for name in AUX if name in aux))


def output(loss: Tensor, aux: Sequence[Tensor], options: Options) -> Any:
    """Give the loss or, with `aux`, the named tuple."""
    return CrossEntropyOutput(loss, **dict(zip(options.aux, aux, strict=True))) if options.aux else loss


ARITHMETIC = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}
_MIXED = frozenset(dtype for dtype in ARITHMETIC if dtype is not torch.float64)  # what autocast makes float32 of
_REAL = frozenset(ARITHMETIC) | {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
_PLAIN_TENSORS = frozenset({Tensor, torch.nn.Parameter})


def type_of_loss(
    input: Tensor, target: Tensor, weight: Tensor | None, sample_weight: Tensor | None, o: Options
) -> torch.dtype | None:
    """Give the type of the loss, or None where this is nothing for the kernels.

    In the order of what is cheap: a small call is mostly Python.
    """
    if not (_is_plain(input) and _is_plain(target)):
        return None
    dtype, shape = input.dtype, input.shape
    ndim = len(shape)
    if dtype not in ARITHMETIC or ndim == 0 or not input.numel() or input.layout is not torch.strided:
        return None
    on_cpu = input.is_cpu
    if not on_cpu and not input.is_cuda:
        return None
    mixed = torch.is_autocast_enabled("cpu" if on_cpu else "cuda") and dtype is not torch.float64
    types = _MIXED if mixed else (dtype,)
    if target.is_floating_point():
        if target.shape != shape or o.ignore_index >= 0 or not _goes_with(input, target, types):
            return None
    else:
        rows = shape[:1] + shape[2:] if ndim > 1 else ()
        if target.dtype not in (torch.int64, torch.uint8) or target.shape != rows or target.device != input.device:
            return None
    if weight is not None and not (_goes_with(input, weight, types) and weight.shape == shape[:2][-1:]):
        return None
    if sample_weight is not None and not _goes_with(input, sample_weight, _REAL):
        return None
    if o is not PLAIN and not (
        type(o.ignore_index) is int
        and -(2**63) <= o.ignore_index < 2**63
        and type(o.label_smoothing) in (float, int)
        and 0 <= o.label_smoothing <= 1
        and o.reduction in ("mean", "sum", "none")
    ):
        return None
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return None
    return torch.float32 if mixed else dtype


def _is_plain(tensor: Any) -> bool:
    """Whether this is a tensor of no subclass, unless a compiler traces with its own."""
    return type(tensor) in _PLAIN_TENSORS or (torch.compiler.is_compiling() and isinstance(tensor, Tensor))


def _goes_with(input: Tensor, other: Tensor, types: Collection[torch.dtype]) -> bool:
    """Whether another tensor is one that the kernels take beside the logits, and needs no gradient."""
    return (
        _is_plain(other)
        and other.dtype in types
        and other.device == input.device
        and other.layout is torch.strided
        and not (other.requires_grad and torch.is_grad_enabled())
    )
