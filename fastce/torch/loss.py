"""The function and the module, with PyTorch's signatures: which of the ways a call takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import _reduction
from torch.overrides import handle_torch_function, has_torch_function_variadic

from . import fused
from .composed import composed
from .operator import by_operator
from .options import PLAIN, Options, output, type_of_loss, with_extras
from .solve import solve
from .spent import check_alone, spend


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    z_loss: float = 0.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    sample_weight: Tensor | None = None,
    normalizer: float | None = None,
    inplace: bool = False,
    aux: Sequence[str] = (),
) -> Any:
    """Cross-entropy loss, as `torch.nn.functional.cross_entropy` computes it, in one pass over the logits.

    Parameters
    ----------
    input : Tensor of shape (C,), (N, C) or (N, C, d1, ..., dK)
        Logits: float16, bfloat16, float32 or float64, on the CPU or a GPU, of any strides.
    target : Tensor
        Classes, int64 or uint8, in the shape of the logits without C; or probabilities, in the shape of the logits.
    weight, size_average, ignore_index, reduce, reduction, label_smoothing
        As PyTorch has them.
    z_loss : float
        Factor of the penalty `logsumexp**2`. Class weights do not apply to it, and it has a mean of its own.
    softcap : float, optional
        Bound of the logits, greater than 0: `softcap * tanh(logit_scale * input / softcap)`.
    logit_scale : float
        Factor of the logits.
    sample_weight : Tensor, optional
        Weight of each row, in the shape of class targets. The mean divides by their sum, too.
    normalizer : float, optional
        Divides losses and gradients in place of what `reduction` divides by. Greater than 0.
    inplace : bool
        Whether the gradient may take the memory of the logits. Any later use of the logits is a RuntimeError, and so is
        the call, if another tensor that is alive shares this memory. Where no gradient is wanted, and in what
        `torch.compile` compiles, it does nothing.
    aux : tuple of str
        What else to find in the same pass: any of "lse", "argmax", "correct", "rank", "target_prob" and "entropy".

    Returns
    -------
    Tensor or CrossEntropyOutput
        The loss, of the type that PyTorch gives it: that of the logits, or float32 under autocast. With `aux`, a named
        tuple of the loss and what was asked for.

    Raises
    ------
    IndexError
        A target is neither a class nor `ignore_index`. On a GPU, its loss and gradient are NaN.
    RuntimeError, TypeError, ValueError
        As PyTorch raises them, and for the other options as `fastce.cross_entropy` does.

    Notes
    -----
    With a scalar loss, the gradient is found in the forward pass. The backward pass multiplies it by the upstream
    gradient, if that is not 1.

    Three cases in which PyTorch makes NaN of numbers are not followed: rows that are ignored have a gradient of 0 also
    if they hold NaN, a class of probability 0 adds 0 also if its logit is -inf, and the gradient of a mean over class
    weights that add up to 0 is 0.

    Examples
    --------
    >>> import torch
    >>> from fastce.torch import cross_entropy
    >>> logits = torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 0.0]], requires_grad=True)
    >>> loss = cross_entropy(logits, torch.tensor([0, 2]))
    >>> loss.backward()
    >>> print(round(loss.item(), 4), logits.grad[0].numpy().round(4))
    2.7887 [-0.455   0.1224  0.3326]
    """
    if has_torch_function_variadic(input, target, weight, sample_weight):  # a subclass or a mode, which sees to it
        return handle_torch_function(
            cross_entropy, (input, target, weight, sample_weight), input, target, weight=weight,
            size_average=size_average, ignore_index=ignore_index, reduce=reduce, reduction=reduction,
            label_smoothing=label_smoothing, z_loss=z_loss, softcap=softcap, logit_scale=logit_scale,
            sample_weight=sample_weight, normalizer=normalizer, inplace=inplace, aux=aux,
        )  # fmt: skip
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    options = PLAIN
    if ignore_index != -100 or reduction != "mean" or label_smoothing != 0.0:
        options = Options(ignore_index, reduction, label_smoothing)
    if z_loss != 0.0 or softcap is not None or logit_scale != 1.0 or normalizer is not None or aux:
        options = with_extras(options, target, z_loss, softcap, logit_scale, normalizer, aux)

    dtype = type_of_loss(input, target, weight, sample_weight, options)
    if dtype is None:
        return composed(input, target, weight, sample_weight, options)
    wants_grad = input.requires_grad and torch.is_grad_enabled()
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return by_operator(input, target, weight, sample_weight, options, dtype, wants_grad)
    if not wants_grad:
        loss, _, found = solve(input, target, weight, sample_weight, options, with_grad=False, aux=options.aux)
        return output(loss if loss.dtype is dtype else loss.to(dtype), found, options)
    if inplace:
        check_alone(input)
    result = fused.apply(input, (target, weight, sample_weight, options, dtype, inplace))
    if inplace:
        spend(input)
    return output(result[0], result[1:], options) if options.aux else result


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """`torch.nn.CrossEntropyLoss` by `fastce.torch.cross_entropy`.

    Parameters
    ----------
    weight, size_average, ignore_index, reduce, reduction, label_smoothing
        As in `torch.nn.CrossEntropyLoss`.
    z_loss, softcap, logit_scale, sample_weight, normalizer, inplace, aux
        As in `fastce.torch.cross_entropy`. What changes from batch to batch, `sample_weight` and `normalizer`, can be
        given to each call instead.

    Examples
    --------
    >>> import torch
    >>> from fastce.torch import CrossEntropyLoss
    >>> criterion = CrossEntropyLoss(label_smoothing=0.1)
    >>> print(round(criterion(torch.eye(3), torch.arange(3)).item(), 4))
    0.6181
    """

    sample_weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        z_loss: float = 0.0,
        softcap: float | None = None,
        logit_scale: float = 1.0,
        sample_weight: Tensor | None = None,
        normalizer: float | None = None,
        inplace: bool = False,
        aux: Sequence[str] = (),
    ) -> None:
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self.register_buffer("sample_weight", sample_weight, persistent=False)
        self.z_loss, self.softcap, self.logit_scale, self.normalizer = z_loss, softcap, logit_scale, normalizer
        self.inplace, self.aux = inplace, tuple(aux)

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        *,
        sample_weight: Tensor | None = None,
        normalizer: float | None = None,
    ) -> Any:
        """Give the loss of a batch, as `cross_entropy` does."""
        return cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
            softcap=self.softcap,
            logit_scale=self.logit_scale,
            sample_weight=self.sample_weight if sample_weight is None else sample_weight,
            normalizer=self.normalizer if normalizer is None else normalizer,
            inplace=self.inplace,
            aux=self.aux,
        )
