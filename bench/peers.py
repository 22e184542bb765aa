"""The other libraries: the call that their users write, on the arrays that they have, with as many threads as Numba.

Each is imported when it is asked for. JAX takes its number of threads from the cores the process may use.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache, partial
from importlib import import_module
from typing import Any

import numba
import numpy as np

from .contenders import Array, Builder, Contender, Problem, of_rows

# --- PyTorch, eager and compiled


def _torch() -> Any:
    torch = import_module("torch")
    if torch.get_num_threads() != numba.get_num_threads():
        torch.set_num_threads(numba.get_num_threads())
    return torch


@lru_cache(maxsize=1)
def _compiled(name: str, shape: tuple[int, ...], dtype: str, threads: int) -> Any:
    """Compile `torch.NAME` for one shape. What was compiled for others goes: after eight it would give up."""
    import_module("torch._dynamo").reset()
    return _torch().compile(_eager(name), dynamic=False)


def _eager(name: str) -> Any:
    return _torch().nn.functional.cross_entropy if name in ("forward", "gradient") else getattr(_torch(), name)


def _function(p: Problem, name: str, compiled: bool) -> Any:
    return _compiled(name, p.logits.shape, p.logits.dtype.name, numba.get_num_threads()) if compiled else _eager(name)


def _bits(array: Array) -> Array:
    """View 16-bit types, which PyTorch does not take from NumPy, as integers."""
    return array.view(np.int16) if array.itemsize == 2 else array


def _to_torch(torch: Any, array: Array) -> Any:
    tensor = torch.from_numpy(_bits(array))
    return tensor.view(getattr(torch, array.dtype.name)) if array.itemsize == 2 else tensor


def _from_torch(torch: Any, tensor: Any, dtype: np.dtype[Any]) -> Array:
    array: Array = (tensor.view(torch.int16) if dtype.itemsize == 2 else tensor).numpy().view(dtype)
    return array


def torch_forward(p: Problem, name: str, compiled: bool) -> Contender:
    """`F.cross_entropy` without gradient."""
    torch, function = _torch(), _function(p, name, compiled)
    logits, targets = _to_torch(torch, p.logits), torch.from_numpy(p.targets)

    def call() -> Any:
        with torch.no_grad():
            return function(logits, targets)

    return Contender(call, lambda loss: (loss.item(), None))


def torch_gradient(p: Problem, name: str, compiled: bool) -> Contender:
    """`F.cross_entropy` and `backward()`, the gradient unset before as `zero_grad()` leaves it."""
    torch, function = _torch(), _function(p, name, compiled)
    logits, targets = _to_torch(torch, p.logits).requires_grad_(), torch.from_numpy(p.targets)

    def call() -> Any:
        logits.grad = None
        loss = function(logits, targets)
        loss.backward()
        return loss

    return Contender(call, lambda loss: (loss.item(), _from_torch(torch, logits.grad, p.logits.dtype)))


def torch_rows(p: Problem, name: str, compiled: bool) -> Contender:
    """`torch.logsumexp`, `torch.softmax` and `torch.log_softmax`."""
    torch, function = _torch(), _function(p, name, compiled)
    logits = _to_torch(torch, p.logits)

    def call() -> Any:
        with torch.no_grad():
            return function(logits, 1)

    if name == "logsumexp":
        return Contender(call, lambda result: of_rows(result.float().numpy()))
    return Contender(call, lambda result: (None, _from_torch(torch, result, p.logits.dtype)))


def _torch_table(compiled: bool) -> dict[str, Builder]:
    rows = dict.fromkeys(("logsumexp", "softmax", "log_softmax"), torch_rows)
    builders = {"forward": torch_forward, "gradient": torch_gradient, **rows}
    return {name: partial(build, name=name, compiled=compiled) for name, build in builders.items()}


TORCH = _torch_table(compiled=False)
TORCH_COMPILE = _torch_table(compiled=True)


# --- JAX


@cache
def _jitted(name: str) -> Any:
    """The compiled function; one for all shapes and problems, so that a shape is compiled once."""
    jax = import_module("jax")
    if name in ("forward", "gradient"):
        optax = import_module("optax")

        def loss(logits: Any, targets: Any) -> Any:
            return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

        return jax.jit(jax.value_and_grad(loss) if name == "gradient" else loss)
    return jax.jit(partial(getattr(jax.nn, name), axis=1))


def jax_call(p: Problem, name: str) -> Contender:
    """`jit` of optax's integer-label loss, of its `value_and_grad`, or of a function of `jax.nn`."""
    jax = import_module("jax")
    function = _jitted(name)
    arguments = [jax.numpy.asarray(p.logits)]
    if name in ("forward", "gradient"):
        arguments.append(jax.numpy.asarray(p.targets.astype(np.int32)))
    reads: dict[str, Callable[[Any], tuple[float | None, Array | None]]] = {
        "forward": lambda loss: (float(loss), None),
        "gradient": lambda result: (float(result[0]), np.asarray(result[1])),
        "logsumexp": lambda result: of_rows(np.asarray(result)),
    }
    return Contender(
        lambda: jax.block_until_ready(function(*arguments)),
        reads.get(name, lambda result: (None, np.asarray(result))),
    )


JAX: dict[str, Builder] = {
    name: partial(jax_call, name=name) for name in ("forward", "gradient", "logsumexp", "softmax", "log_softmax")
}


# --- scikit-learn


def sklearn_gradient(p: Problem) -> Contender:
    """`HalfMultinomialLoss.loss_gradient`, which gives the loss and gradient of each row, not of their mean."""
    n_rows, n_classes = p.logits.shape
    function = import_module("sklearn._loss").HalfMultinomialLoss(n_classes=n_classes).loss_gradient
    arguments = {
        "y_true": p.targets.astype(p.logits.dtype),
        "raw_prediction": p.logits,
        "loss_out": np.zeros(n_rows, p.logits.dtype),
        "gradient_out": p.out,
        "n_threads": numba.get_num_threads(),
    }
    return Contender(
        lambda: function(**arguments),
        lambda result: (float(result[0].mean(dtype=np.float64)), result[1] / np.float32(n_rows)),
    )


SKLEARN: dict[str, Builder] = {"gradient": sklearn_gradient}


# --- SciPy


def scipy_rows(p: Problem, name: str) -> Contender:
    """`scipy.special.logsumexp`, `softmax` and `log_softmax`."""
    function = getattr(import_module("scipy.special"), name)
    return Contender(
        lambda: function(p.logits, axis=1), of_rows if name == "logsumexp" else lambda result: (None, result)
    )


SCIPY: dict[str, Builder] = {name: partial(scipy_rows, name=name) for name in ("logsumexp", "softmax", "log_softmax")}
