"""Arrays on a GPU, and launches: what the kernels know of CuPy.

Everything happens on the current device, which is to be that of the arrays, and on CuPy's current stream. Memory is
taken from CuPy's pool alone and nothing waits for the device, so that calls can be captured in a graph.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any

import cupy
import numpy as np

from . import layout, saved
from .kernels import Kernel
from .launch import Device

_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_WITHOUT_ASKING = 48 * 1024  # bytes of shared memory that every block may have

_loaded: dict[Any, Any] = {}
_loading = threading.Lock()


@lru_cache(maxsize=64)
def device_of(number: int) -> Device:
    """What the choice of kernels depends on."""
    device = cupy.cuda.Device(number)
    capability = device.compute_capability  # "90", "120"
    return Device((int(capability[:-1]), int(capability[-1])), device.attributes["MultiProcessorCount"])


def current_device() -> Device:
    """The current device."""
    return device_of(cupy.cuda.Device().id)


def launch(kernel: Kernel, grid: tuple[int, int], threads: int, shared_bytes: int, arguments: tuple[Any, ...]) -> None:
    """Launch a kernel on the current device and stream, compiled when first needed there."""
    number = cupy.cuda.Device().id
    function = _loaded.get((number, kernel))
    if function is None:
        with _loading:
            function = _loaded[number, kernel] = _load(kernel, device_of(number).capability)
    function(grid, (threads,), arguments, shared_mem=shared_bytes)


def _load(kernel: Kernel, capability: tuple[int, int]) -> Any:
    code = saved.code_of(kernel, capability)
    module = cupy.cuda.Module()
    module.load(code.machine)
    function = module.get_function(code.entry)
    most = cupy.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"]
    if most > _WITHOUT_ASKING:
        cupy.cuda.driver.funcSetAttribute(function.ptr, _MAX_DYNAMIC_SHARED, most)
    return function


# --- arrays to addresses ---------------------------------------------------------------------------------------------


def empty(shape: Any, dtype: Any) -> Any:
    """An array whose numbers are yet to be written."""
    return cupy.empty(shape, dtype)


def address(array: Any) -> int:
    """Where an array begins, 0 for none."""
    return 0 if array is None else int(array.data.ptr)


def rows_of(array: Any, keep: list[Any]) -> tuple[int, int, int, int]:
    """Address, step from row to row, stride from class to class, and address of the rows' offsets if they need them.

    What must live until the kernels are launched goes into ``keep``.
    """
    if array is None:
        return 0, 0, 0, 0
    stride = array.strides[-1]
    axes = layout.merged_axes(array.shape[:-1], array.strides[:-1])
    if len(axes) < 2:
        return address(array), axes[0][1] if axes else 0, stride, 0
    n_rows = array.size // array.shape[-1]
    offsets = empty(n_rows, np.int64)
    keep.append(offsets)
    inner = n_rows
    for i, (length, step) in enumerate(axes):
        inner //= length
        arguments = layout.Layout(address(offsets), n_rows, inner, length, step, int(i == 0))
        grid = (-(-n_rows // layout.THREADS), 1)
        launch(layout.kernel(), grid, layout.THREADS, 0, arguments)
    return address(array), 0, stride, address(offsets)


def bytes_of_targets(targets: Any) -> int:
    """How the kernels are told of the type of class targets."""
    if targets is None:
        return 0
    kind, size = targets.dtype.kind, int(targets.dtype.itemsize)
    return -size if kind == "i" else size
