"""Arrays on a GPU: what a caller gives as CuPy arrays, all on one device, and where the result is to be written."""

from __future__ import annotations

import math
from typing import Any

import cupy
import numpy as np

from . import dispatch
from .problem import (
    DType,
    Shape,
    are_classes,
    arithmetic_of,
    check_numeric,
    check_place,
    check_shape,
    classes_last,
    rows_of,
    shares_memory,
)

MOST_CLASSES = 2**31 - 64  # which the kernels number by 32 bits


class Arguments:
    """The arrays of one call: the first, by whose rows and device the others must go, and these, as they come."""

    def __init__(self, name: str, value: Any, axis: int) -> None:
        self.array = as_cupy(value)
        _check_aligned(name, self.array)
        self.axis = axis
        self.dtype = arithmetic_of(name, self.array.dtype)
        self.x, self.rows, self.n_rows, self.n_classes = rows_of(name, self.array, axis)
        if self.n_classes > MOST_CLASSES:
            raise ValueError(f"on a GPU, there may be {MOST_CLASSES} classes at most, not {self.n_classes}")
        self._first = name
        self._given = {name: self.array}

    def read(self, name: str, value: Any) -> Any:
        """View an argument as an array on the device of the first."""
        array = self._given[name] = beside(self._first, self.array, name, value)
        return array

    def vector(self, name: str, value: Any, shape: Shape) -> Any:
        """Give numbers as a contiguous vector of the arithmetic type, or None for none."""
        if value is None:
            return None
        return to_vector(name, self.read(name, value), shape, self.dtype)

    def targets(self, value: Any) -> tuple[Any, Any]:
        """Give class indices as a vector and None, or None and probabilities with the classes last."""
        array = self.read("targets", value)
        if are_classes(array, self.array, self.rows, self.axis):
            return _flat(array), None
        if array.dtype not in (self.array.dtype, self.dtype):
            array = array.astype(self.dtype)
        return None, classes_last(array, self.axis)

    def output(self, name: str, out: Any, shape: Shape, dtype: DType, in_place: str = "") -> Any:
        """View an output as one of CuPy's arrays, if it is given and can take what is to be written."""
        if out is None:
            return None
        array = beside(self._first, self.array, name, out)
        check_place(name, array, shape, dtype)
        for other, a in self._given.items():
            if cupy.may_share_memory(array, a) and not (a is array and other == in_place):
                shares_memory(_shadow(array), name, {other: _shadow(a)}, in_place)
        self._given[name] = array
        return array

    def output_like_it(self, name: str, out: Any) -> Any:
        """The same for one of the shape and type of the first, which it may overwrite; allocated if it is not given."""
        array = self.output(name, out, self.array.shape, self.array.dtype, in_place=self._first)
        return _empty_like(self.array) if array is None else array


def beside(first_name: str, first: Any, name: str, value: Any) -> Any:
    """View an argument as an array on the device of the first."""
    if not dispatch.on_gpu(value):
        raise TypeError(
            f"{name} must be an array on a GPU, as the {first_name} are, not {_what(value)}: "
            f"cupy.asarray({name}) puts it there"
        )
    array = as_cupy(value)
    if array.device.id != first.device.id:
        raise TypeError(f"{name} is on GPU {array.device.id}, but the {first_name} are on GPU {first.device.id}")
    _check_aligned(name, array)
    return array


def to_vector(name: str, array: Any, shape: Shape, dtype: DType) -> Any:
    """Give the numbers of an array as a contiguous vector of that type."""
    check_numeric(name, array.dtype)
    check_shape(name, array.shape, shape)
    return _flat(array if array.dtype == dtype else array.astype(dtype))


def _what(value: Any) -> str:
    return "a NumPy array" if isinstance(value, np.ndarray) else type(value).__name__


def as_cupy(value: Any) -> Any:
    """View an array on a GPU as one of CuPy's, without a copy."""
    if isinstance(value, cupy.ndarray):
        return value
    if hasattr(type(value), "__dlpack__"):
        return cupy.from_dlpack(value)
    return cupy.asarray(value)


def _check_aligned(name: str, array: Any) -> None:
    if math.gcd(array.data.ptr, *array.strides) % array.itemsize:
        raise ValueError(f"{name} must be aligned")


def _flat(array: Any) -> Any:
    if not array.flags.c_contiguous:
        array = array.copy()
    return array if array.ndim == 1 else array.reshape(-1)


def _empty_like(array: Any) -> Any:
    """Allocate an array with the axes in the same order in memory."""
    if array.flags.c_contiguous or 0 in array.strides:
        return cupy.empty(array.shape, array.dtype)
    return cupy.empty_like(array)


class _Interface:
    """What NumPy takes for an array: see `_shadow`."""

    def __init__(self, array: Any) -> None:
        self.__array_interface__ = {
            "version": 3,
            "shape": array.shape,
            "strides": array.strides,
            "typestr": f"|V{array.itemsize}",
            "data": (array.data.ptr, False),
        }


def _shadow(array: Any) -> Any:
    """Give a NumPy array at the same addresses, by which to tell what overlaps. Its numbers must not be touched."""
    if array.size == 0:
        return np.empty(array.shape, array.dtype)
    return np.asarray(_Interface(array)).view(array.dtype)
