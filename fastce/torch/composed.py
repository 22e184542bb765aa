"""The loss by PyTorch's own operations: slower, and differentiable in every way that PyTorch knows.

For what the kernels do not take. Every error of `torch.nn.functional.cross_entropy` is raised here, by itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import _reduction
from torch.nn import functional as F

from .options import ARITHMETIC, PLAIN, Options, output

_REDUCTIONS = ("none", "mean", "sum")  # as PyTorch numbers them


def composed(input: Tensor, target: Tensor, weight: Tensor | None, sample_weight: Tensor | None, o: Options) -> Any:
    """Give what `cross_entropy` gives."""
    if (sample_weight is None and o[3:] == PLAIN[3:]) or input.dtype not in ARITHMETIC:  # PyTorch has it, or an error
        return F.cross_entropy(
            input,
            target,
            weight,
            ignore_index=o.ignore_index,
            reduction=o.reduction,
            label_smoothing=o.label_smoothing,
        )
    axis = min(1, input.dim() - 1)
    has_classes = not target.is_floating_point()
    arithmetic = ARITHMETIC[input.dtype]
    z = input.to(arithmetic) * o.logit_scale
    if o.softcap is not None:
        z = o.softcap * torch.tanh(z / o.softcap)
    if not has_classes:
        target = target.to(arithmetic)
    w = None if weight is None else weight.to(arithmetic)
    ce = F.cross_entropy(z, target, w, ignore_index=o.ignore_index, reduction="none", label_smoothing=o.label_smoothing)
    valid = target != o.ignore_index if has_classes else torch.ones_like(ce, dtype=torch.bool)
    s = torch.ones_like(ce) if sample_weight is None else _checked(sample_weight, ce).to(arithmetic)
    s = s.masked_fill(~valid, 0)
    ce = s * ce
    zl = s * (o.z_loss * z.logsumexp(axis) ** 2).masked_fill(~valid, 0) if o.z_loss else torch.zeros_like(ce)
    loss = _reduced(ce, zl, s, target if has_classes else None, valid, w, o)
    with torch.no_grad():
        aux = tuple(_AUX[name](z, target, axis).masked_fill(~valid, _IGNORED.get(name, 0)) for name in o.aux)
    mixed = torch.is_autocast_enabled(input.device.type)
    return output(loss if mixed else loss.to(input.dtype), aux, o)


def _checked(sample_weight: Any, ce: Tensor) -> Tensor:
    if not isinstance(sample_weight, Tensor) or sample_weight.is_complex():
        found = sample_weight.dtype if isinstance(sample_weight, Tensor) else type(sample_weight).__name__
        raise TypeError(f"sample_weight must be a tensor of floats, integers or bool, not {found}")
    if sample_weight.device != ce.device:
        raise RuntimeError(f"sample_weight is on {sample_weight.device}, but the logits are on {ce.device}")
    if sample_weight.shape != ce.shape:
        raise ValueError(f"sample_weight must have shape {tuple(ce.shape)}, not {tuple(sample_weight.shape)}")
    return sample_weight


def _reduced(
    ce: Tensor, zl: Tensor, s: Tensor, classes: Tensor | None, valid: Tensor, weight: Tensor | None, o: Options
) -> Tensor:
    reduction = _REDUCTIONS[_reduction.get_enum(o.reduction)]
    if reduction == "none":
        return (ce + zl) / (o.normalizer or 1.0)
    if reduction == "sum" or o.normalizer is not None:
        return (ce + zl).sum() / (o.normalizer or 1.0)
    if classes is None or weight is None:
        return (ce + zl).sum() / s.sum()
    return ce.sum() / (s * weight[classes.long().masked_fill(~valid, 0)]).sum() + zl.sum() / s.sum()


def _at_target(values: Tensor, target: Tensor, axis: int) -> Tensor:
    return values.gather(axis, target.long().clamp(0).unsqueeze(axis))


def _entropy(z: Tensor, _: Tensor, axis: int) -> Tensor:
    log_p = z.log_softmax(axis)
    return -(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0)).sum(axis)


_AUX: dict[str, Any] = {
    "lse": lambda z, target, axis: z.logsumexp(axis),
    "argmax": lambda z, target, axis: z.argmax(axis),
    "correct": lambda z, target, axis: z.argmax(axis) == target,
    "rank": lambda z, target, axis: (z > _at_target(z, target, axis)).sum(axis),
    "target_prob": lambda z, target, axis: _at_target(z.softmax(axis), target, axis).squeeze(axis),
    "entropy": _entropy,
}
_IGNORED = {"argmax": -1}
