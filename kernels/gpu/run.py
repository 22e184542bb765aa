"""Arrays on a GPU, and launches: what the kernels know of CuPy.

Everything happens on the current device, which is to be that of the arrays, and on CuPy's current stream. Memory is
taken from CuPy's pool alone and nothing waits for the device, so that calls can be captured in a graph.
"""

from __future__ import annotations

import ctypes
import threading
from functools import cache, lru_cache
from itertools import accumulate
from struct import Struct, calcsize
from typing import Any

import cupy
import numpy as np
from numba.cuda import types

from . import layout, saved
from .kernels import Kernel
from .launch import Device

_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_WITHOUT_ASKING = 48 * 1024  # bytes of shared memory that every block may have

_LETTERS = {types.int64: "q", types.float32: "f", types.float64: "d"}  # of the struct module

_loaded: dict[tuple[int, str], _Function] = {}  # by device and name, as a signature takes long to hash
_loading = threading.Lock()


class _Function:
    """A kernel on a device.

    CuPy would make an object of each number that a kernel is given, 50 of them, anew for each launch. So the numbers
    are packed here, and CuPy is told where each of them lies. When a launch returns, the driver has a copy.
    """

    def __init__(self, kernel: Kernel, capability: tuple[int, int]) -> None:
        self._launch = _load(kernel, capability)
        letters = [_LETTERS[kind] for kind in kernel.signature.args[0].types]
        self._struct = Struct("=" + "".join(letters))
        self._offsets = [0, *accumulate(calcsize("=" + letter) for letter in letters[:-1])]
        self._rooms: list[tuple[Any, list[Any]]] = []  # that no launch is using: memory, and pointers to each number

    def __call__(self, grid: tuple[int, int], threads: int, shared_bytes: int, arguments: tuple[Any, ...]) -> None:
        try:
            room = self._rooms.pop()  # (of several threads, nobody else has it now)
        except IndexError:
            room = self._new_room()
        memory, pointers = room
        self._struct.pack_into(memory, 0, *arguments)
        self._launch(grid, (threads,), pointers, shared_mem=shared_bytes)
        self._rooms.append(room)

    def _new_room(self) -> tuple[Any, list[Any]]:
        memory = ctypes.create_string_buffer(self._struct.size)
        start = ctypes.addressof(memory)
        return memory, [cupy.cuda.function.CPointer(start + offset) for offset in self._offsets]


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
    function = _loaded.get((number, kernel.name))
    if function is None:
        with _loading:
            function = _loaded[number, kernel.name] = _Function(kernel, device_of(number).capability)
    function(grid, threads, shared_bytes, arguments)


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


@cache
def name_of(dtype: Any) -> str:
    """The name of a type, which NumPy takes long to spell."""
    name: str = np.dtype(dtype).name
    return name


def address(array: Any) -> int:
    """Where an array begins, 0 for none."""
    if array is None:
        return 0
    at: int = array.data.ptr
    return at


def rows_of(array: Any, keep: list[Any]) -> tuple[int, int, int, int]:
    """Address, step from row to row, stride from class to class, and address of the rows' offsets if they need them.

    What must live until the kernels are launched goes into ``keep``.
    """
    if array is None:
        return 0, 0, 0, 0
    if len(array.shape) == 2:
        return address(array), *array.strides, 0
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
    size: int = targets.dtype.itemsize
    return -size if targets.dtype.kind == "i" else size
