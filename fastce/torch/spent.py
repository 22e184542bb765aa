"""Logits whose memory their gradient takes (`inplace=True`): who uses them later gets an error, not the gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class Spent(Tensor):
    """Logits that are no more: of their kind and place in the graph, anything is told, of their numbers nothing."""

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Raise RuntimeError for whatever might look at the numbers."""
        if func not in _HARMLESS:
            name = getattr(func, "__name__", str(func))
            raise RuntimeError(
                f"{name}: these logits are no more, their memory holds their gradient: cross_entropy was called with "
                "inplace=True. Use them before, or leave out inplace"
            )
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


_TOLD = ("shape", "dtype", "device", "ndim", "requires_grad", "is_leaf", "grad", "grad_fn", "is_cpu", "is_cuda")
_HARMLESS = {
    *(getattr(Tensor, name).__get__ for name in _TOLD),
    getattr(Tensor, "grad").__set__,  # noqa: B009 (which is no tensor here)
    Tensor.size,
    Tensor.dim,
    Tensor.numel,
}


def check_alone(logits: Tensor) -> None:
    """Raise RuntimeError if any other tensor, a view or one that a function has saved, sees the logits' memory.

    Tensors that share memory share a storage, which counts them: the logits themselves, the tensor that they are a view
    of, and what asks.
    """
    known = 1 + logits._is_view() + 1
    others = torch._C._storage_Use_Count(logits.untyped_storage()._cdata) - known
    if others or logits.is_neg():
        raise RuntimeError(
            f"inplace=True: the memory of the logits is also that of {others} other tensors, such as a view of it, its "
            "`detach()`, or what a function has saved for its backward pass. Let go of them first, as in "
            "`cross_entropy(model(x).view(-1, n_classes), ..., inplace=True)`, or leave out inplace"
        )


def spend(logits: Tensor) -> None:
    """Let nobody use the logits any more."""
    torch.autograd.graph.increment_version(logits)  # for functions that have saved the very tensor
    base = logits._base
    for tensor in (logits,) if base is None else (logits, base):
        tensor.__class__ = Spent
