"""Losses of several items of one shape, each reduced by itself: what `jax.vmap` asks for.

The items are the leading axes of all arrays; of an array that is the same for every item, these have length 1. An item
may be as little as one row, so the rows of all items are computed in one call where that can be.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import api
from .kernels.task import Array
from .reduction import EMPTY

Arrays = dict[str, Any]  # the arguments of cross_entropy that are arrays, by name
Options = dict[str, Any]  # the others

_ROWS = ("logits", "targets", "sample_weight")  # what rows of different items may have each their own of


def fill(n_axes: int, loss: Array, grad: Array | None, arrays: Arrays, options: Options) -> None:
    """Fill loss and gradient of each item on the first `n_axes` axes."""
    items = loss.shape[:n_axes]
    if n_axes == 0:
        _fill(loss, grad, arrays, options)
    elif _one_call(n_axes, arrays, options):
        given = {
            name: np.broadcast_to(array, items + array.shape[n_axes:]) if name in _ROWS else _of(array, (0,) * n_axes)
            for name, array in arrays.items()
        }
        together = _fill if options.get("reduction") == "none" else _fill_reduced
        together(loss, grad, given, options)
    else:
        for item in np.ndindex(items):
            own = {name: _of(array, item) for name, array in arrays.items()}
            _fill(loss[(*item, ...)], None if grad is None else grad[item], own, options)


def _one_call(n_axes: int, arrays: Arrays, options: Options) -> bool:
    """Whether all rows have the same options, but for a factor."""
    two_denominators = _is_mean(arrays, options) and "weight" in arrays and "z_loss" in {**arrays, **options}
    return not two_denominators and all(
        math.prod(array.shape[:n_axes]) == 1 for name, array in arrays.items() if name not in _ROWS
    )


def _is_mean(arrays: Arrays, options: Options) -> bool:
    return options.get("reduction", "mean") == "mean" and "normalizer" not in {**arrays, **options}


def _of(array: Array, item: tuple[int, ...]) -> Array:
    index: Any = tuple(i if length > 1 else 0 for i, length in zip(item, array.shape, strict=False))
    own: Array = array[(*index, ...)]
    return own


def _fill(loss: Array, grad: Array | None, arrays: Arrays, options: Options) -> None:
    given = {name: array.item() if array.ndim == 0 else array for name, array in arrays.items()}
    if grad is None:
        loss[...] = api.cross_entropy(**given, **options)
    else:
        loss[...] = api.cross_entropy_with_grad(**given, **options, grad_out=grad).loss


def _fill_reduced(loss: Array, grad: Array | None, arrays: Arrays, options: Options) -> None:
    """Compute the rows of all items, each with its item's factor, and add up the losses of each item."""
    targets = arrays["targets"]
    shape = targets.shape
    if targets.dtype.kind not in "iub":
        shape = np.delete(shape, options.get("axis", -1))
    rows = np.empty(shape, loss.dtype)
    axes = tuple(range(loss.ndim, rows.ndim))
    divisor = np.ones(loss.shape)
    rows_options = {**options, "reduction": "none"}
    if _is_mean(arrays, options):
        divisor = np.broadcast_to(_shares(arrays, options), rows.shape).sum(axes)
        if grad is not None:
            upstream = np.divide(1.0, divisor, out=np.zeros(loss.shape), where=divisor != 0)
            rows_options["grad_output"] = np.broadcast_to(np.expand_dims(upstream, axes), rows.shape)
    _fill(rows, grad, arrays, rows_options)
    with np.errstate(all="ignore"):
        means = rows.sum(axes, np.float64) / divisor
        loss[...] = np.where(divisor == 0, EMPTY[options.get("empty", "nan")], means)


def _shares(arrays: Arrays, options: Options) -> Array:
    """Give what each row adds to the denominator of its mean, as `reduction.scales` has it."""
    targets: Array = arrays["targets"]
    share: Array = arrays.get("sample_weight", np.ones(()))
    if targets.dtype.kind not in "iub":
        return share
    if "weight" in arrays:  # (a target that is no class is found later)
        share = share * arrays["weight"].take(targets.astype(np.intp), mode="clip").astype(np.float64)
    return np.where(targets == options.get("ignore_index", -100), 0.0, share)
