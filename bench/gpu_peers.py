"""The other libraries on a GPU: the call that their users write, on tensors that share CuPy's memory.

Each is imported when it is asked for. Gradients are given back and not kept, so that all of a cell fit on the GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from .contenders import Array, Contender
from .gpu_contenders import GpuProblem, bits

Loss = Callable[[Any, Any], Any]


def to_torch(array: Array) -> Any:
    """View as a tensor of PyTorch, on the GPU."""
    torch = import_module("torch")
    if array.dtype.kind in "iu":
        return torch.from_dlpack(array)
    return torch.from_dlpack(bits(array)).view(getattr(torch, array.dtype.name))


def from_torch(tensor: Any, like: Array) -> Array:
    """View a tensor as one of CuPy's arrays."""
    torch, cupy = import_module("torch"), import_module("cupy")
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[like.itemsize]
    array: Array = cupy.from_dlpack(tensor.detach().contiguous().view(whole)).view(like.dtype)
    return array


def eager() -> Loss:
    """`F.cross_entropy`."""
    loss: Loss = import_module("torch").nn.functional.cross_entropy
    return loss


def compiled() -> Loss:
    """`torch.compile` of it, for one shape; what was compiled for others goes: after eight it would give up."""
    import_module("torch._dynamo").reset()
    loss: Loss = import_module("torch").compile(eager(), dynamic=False)
    return loss


def liger() -> Loss:
    """`LigerCrossEntropyLoss`, which leaves the gradient in the logits' place."""
    loss: Loss = import_module("liger_kernel.transformers").LigerCrossEntropyLoss()
    return loss


def quack() -> Loss:
    """`quack.cross_entropy`, the mean."""
    return partial(import_module("quack.cross_entropy").cross_entropy, reduction="mean")


def forward(p: GpuProblem, make: Callable[[], Loss], overwrites: bool = False) -> Contender:
    """Loss without gradient."""
    torch, loss_of = import_module("torch"), make()
    logits, targets = to_torch(p.scratch if overwrites else p.logits), to_torch(p.targets)

    def call() -> Any:
        with torch.no_grad():
            return loss_of(logits, targets)

    return Contender(call, lambda loss: (loss.item(), None))


def gradient(p: GpuProblem, make: Callable[[], Loss], overwrites: bool = False) -> Contender:
    """Loss and `backward()`, the gradient unset before as `zero_grad()` leaves it."""
    loss_of = make()
    logits = to_torch(p.scratch if overwrites else p.logits).requires_grad_()
    targets = to_torch(p.targets)

    def call() -> Any:
        loss = loss_of(logits, targets)
        loss.backward()
        grad, logits.grad = logits.grad, None
        return loss, grad

    return Contender(call, lambda found: (found[0].item(), from_torch(found[1], p.logits)))


def quack_one_pass(p: GpuProblem) -> Contender:
    """quack's forward that gives the gradient too: losses of rows and their gradients, not those of the mean."""
    function = import_module("quack.cross_entropy").cross_entropy_fwd
    logits, targets = to_torch(p.logits), to_torch(p.targets)
    n_rows = len(p.logits)

    def read(found: Any) -> tuple[float, Array]:
        losses, grad = found
        return losses.double().mean().item(), from_torch(grad.float() / n_rows, p.row_out)

    return Contender(lambda: function(logits, targets, return_dx=True), read)


def _both(make: Callable[[], Loss], overwrites: bool = False) -> dict[str, Any]:
    builders = {"forward": forward, "gradient": gradient}
    return {name: partial(build, make=make, overwrites=overwrites) for name, build in builders.items()}


TORCH = _both(eager)
TORCH_COMPILE = _both(compiled)
LIGER = _both(liger, overwrites=True)
QUACK = _both(quack)
QUACK_ONE_PASS: dict[str, Any] = {"gradient": quack_one_pass}
