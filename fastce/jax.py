"""Cross-entropy for JAX: one pass over the logits gives the loss and, where JAX will want it, the gradient.

XLA calls fastce on its own memory, so that nothing is copied (`xla.py`). The gradient that JAX asks for after the loss
is that of the same pass, kept until then and multiplied by the upstream gradient, which is no work where that is 1.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from . import api, memory, problem, several, xla
from .kernels.task import Array
from .problem import Options
from .warmup import DTYPES, warmup

if TYPE_CHECKING:
    from typing_extensions import Unpack

_TARGET = "fastce.cross_entropy, which is for the CPU"  # XLA names it where it is asked for it on a GPU
_ROWS = ("logits", "targets")
_ARRAYS = ("weight", "sample_weight")
_NUMBERS = ("label_smoothing", "z_loss", "softcap", "logit_scale", "normalizer")  # may be arrays of JAX


class _Call(NamedTuple):
    """What is known of a call while JAX traces it; all of it hashable."""

    names: tuple[str, ...]  # of the options that are arrays
    text: str  # the other options, and what else `_compute` must know
    axis: int  # of the classes, from the end
    dtype: np.dtype[Any]  # of the logits
    loss_shape: tuple[int, ...]
    loss_dtype: np.dtype[Any]


@api._with_options_of(problem.cross_entropy_problem)
def cross_entropy(logits: jax.typing.ArrayLike, targets: jax.typing.ArrayLike, **options: Unpack[Options]) -> jax.Array:
    """Cross-entropy loss, as `fastce.cross_entropy` defines it, for arrays of JAX on the CPU.

    Works under `jax.jit`, `jax.grad`, `jax.value_and_grad` and `jax.vmap`. Where a gradient with respect to the logits
    is wanted, it is found in the same pass.

    Parameters
    ----------
    logits : array of float16, bfloat16, float32 or float64
        Any number of dimensions; the classes lie on `axis`.
    targets : array of integers, or of floats
        Classes, in the shape of the logits without `axis`; or probabilities, in the shape of the logits.
    **options
        As in `fastce.cross_entropy`. `weight`, `sample_weight` and the numbers `label_smoothing`, `z_loss`, `softcap`,
        `logit_scale` and `normalizer` may be traced by JAX; the others must be known while it traces. `check` changes
        nothing.

    Returns
    -------
    array
        The loss, float64 for float64 logits, else float32: a scalar or, with `reduction="none"`, an array in the shape
        of the logits without `axis`.

    Raises
    ------
    TypeError, ValueError
        As in `fastce.cross_entropy`, while JAX traces; and TypeError for arrays that are not on the CPU.
    NotImplementedError
        A gradient with respect to another argument than the logits, or a second derivative.
    jax.errors.JaxRuntimeError
        A target is neither a class nor `ignore_index`, or a traced number is out of its range; the message is that of
        `fastce.cross_entropy`. JAX may raise it only where the result is used, and ValueError in its place from a
        compiled function that has been called before.

    Notes
    -----
    Under `jax.shard_map`, a gradient needs `check_vma=False`, as for every foreign function. Under `jax.jit`, logits
    that are divided among devices are gathered on each.

    Arrays of NumPy become arrays of JAX by its own rules: without `jax_enable_x64`, those of 64 bits become such of 32.
    The gradient has the type of the logits. It is rounded to it before it is multiplied by an upstream gradient other
    than 1, but for that of float16 logits, which is kept in float32: a scaled loss loses nothing.

    Examples
    --------
    >>> import jax
    >>> from fastce.jax import cross_entropy
    >>> logits = jax.numpy.array([[1.0, 2.0, 3.0], [3.0, 1.0, 0.0]])
    >>> loss, grad = jax.jit(jax.value_and_grad(cross_entropy))(logits, jax.numpy.array([0, 2]))
    >>> print(f"{loss:.4f}")
    2.7887
    >>> [round(g, 4) for g in grad[0].tolist()]
    [-0.455, 0.1224, 0.3326]
    """
    given: Any = options
    x, y = _array("logits", logits), _array("targets", targets)
    arrays = {name: _array(name, value) for name, value in given.items() if _is_array(name, value)}
    call = _checked(x, y, arrays, {name: value for name, value in given.items() if name not in arrays})
    loss: jax.Array = _loss(call, x, y, tuple(arrays.values()))
    return loss


# While JAX traces -----------------------------------------------------------------------------------------------------


def _is_array(name: str, value: object) -> bool:
    return (name in _ARRAYS and value is not None) or (name in _NUMBERS and isinstance(value, jax.Array))


def _array(name: str, value: Any) -> Any:
    """Give an array of JAX, or what JAX traces in place of one."""
    if not isinstance(value, jax.Array):
        return jnp.asarray(problem._array(name, value))
    if not isinstance(value, jax.core.Tracer):
        _check_platforms(name, {device.platform for device in value.devices()})
    return value


def _check_platforms(name: str, platforms: set[str]) -> None:
    if platforms != {"cpu"}:
        raise TypeError(
            f"{name} must be on the CPU, where fastce.jax computes, not on {', '.join(sorted(platforms))}: "
            "jax.device_put(..., jax.devices('cpu')[0]) moves it there"
        )


def _checked(logits: Any, targets: Any, arrays: dict[str, Any], constants: Any) -> _Call:
    """Raise on mistakes in the arguments as `fastce.cross_entropy` does, by arrays of the same shapes and types."""
    options = problem.checked(constants)
    for name in _NUMBERS:
        if name in arrays:
            problem.check_shape(name, arrays[name].shape, ())
            problem.check_numeric(name, arrays[name].dtype)
    stand_ins = {name: _stand_in(array) for name, array in arrays.items() if name in _ARRAYS}
    if options.get("backend") != "reference":
        _compile(logits.dtype.name)
    _, _, rows, losses, *_ = problem.cross_entropy_problem(
        _stand_in(logits), _stand_in(targets), None, True, False, None, None, (), None, **{**options, **stand_ins}
    )
    axis = options.pop("axis", -1)
    axis = axis - logits.ndim if axis >= 0 else axis
    if axis != -1:
        options["axis"] = axis
    text = json.dumps({"names": [*_ROWS, *arrays], "ndim": logits.ndim, "options": options}, sort_keys=True)
    shape = rows if options.get("reduction") == "none" else ()
    return _Call(tuple(arrays), text, axis, np.dtype(logits.dtype), shape, losses.dtype)


def _stand_in(array: Any) -> Array:
    """Give zeros of the same shape and type, that take no memory."""
    return np.broadcast_to(np.zeros((), array.dtype), array.shape)


@cache
def _compile(dtype: str) -> None:
    """Compile the kernels here, rather than in a thread of XLA's: it takes many seconds, and a deep stack."""
    if dtype in DTYPES:
        warmup(dtype, functions=("cross_entropy", "cross_entropy_with_grad"))


# To XLA ---------------------------------------------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loss(call: _Call, logits: Any, targets: Any, arrays: tuple[Any, ...]) -> Any:
    """Give the loss, without a gradient."""
    return _xla(call, logits, targets, arrays, with_grad=False)[0]


def _forward(call: _Call, logits: Any, targets: Any, arrays: tuple[Any, ...]) -> tuple[Any, Any]:
    """Give the loss, and the gradient to keep until its upstream gradient is known."""
    for name, array in zip(("targets", *call.names), (targets, *arrays), strict=True):
        if array.perturbed and jnp.issubdtype(array.value.dtype, jnp.floating):
            raise NotImplementedError(
                f"fastce.jax.cross_entropy has no gradient with respect to {name}, only to the logits: "
                f"jax.lax.stop_gradient({name}) says that none is wanted"
            )
    x = jnp.asarray(logits.value)  # (JAX before 0.7 may hand on a float64 array of NumPy as it is)
    if call.dtype == jnp.float16:
        x = x.astype(jnp.float32)
    return _loss_and_grad(call, x, targets.value, tuple(array.value for array in arrays))  # type: ignore[no-any-return]


def _backward(call: _Call, grad: Any, upstream: Any) -> tuple[Any, None, None]:
    if isinstance(upstream, SymbolicZero):
        return None, None, None
    if upstream.ndim:
        upstream = jnp.expand_dims(upstream, call.axis)
    return (grad.astype(upstream.dtype) * upstream).astype(call.dtype), None, None


_loss.defvjp(_forward, _backward, symbolic_zeros=True)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _loss_and_grad(call: _Call, logits: Any, targets: Any, arrays: tuple[Any, ...]) -> Any:
    return _xla(call, logits, targets, arrays, with_grad=True)


@_loss_and_grad.defjvp
def _no_second_derivative(*_: object) -> Any:
    raise NotImplementedError("fastce.jax.cross_entropy has no second derivative")


def _xla(call: _Call, logits: Any, targets: Any, arrays: tuple[Any, ...], with_grad: bool) -> Any:
    struct: Any = jax.ShapeDtypeStruct  # (without types)
    results = [struct(call.loss_shape, call.loss_dtype)]
    if with_grad:
        results.append(struct(logits.shape, logits.dtype))
    compute = xla.ffi.ffi_call(_TARGET, tuple(results), vmap_method="expand_dims")
    return compute(logits, targets, *arrays, options=call.text)


# From XLA -------------------------------------------------------------------------------------------------------------


def _compute(given: Sequence[Array], fills: Sequence[Array], text: str) -> None:
    names, ndim, options = _decoded(text)
    arrays = dict(zip(names, given, strict=True))
    if arrays["targets"].dtype == np.int32:  # JAX's own integers; fastce's are int64, and its short way takes no others
        arrays["targets"] = arrays["targets"].astype(np.int64)
    grad = fills[1] if len(fills) > 1 else None
    if grad is not None:
        memory.expect_writes(grad)
    several.fill(given[0].ndim - ndim, fills[0], grad, arrays, options)


@lru_cache(maxsize=256)
def _decoded(text: str) -> tuple[list[str], int, dict[str, Any]]:
    content = json.loads(text)
    return content["names"], content["ndim"], content["options"]


xla.register(_TARGET, _compute)
