"""A stand-in for CuPy on machines without a GPU: its arrays lie in the interpreter's memory, its launches are
interpreted.

    with standin.installed() as gpu:              # `import cupy` gives the stand-in, until the end
        x = gpu.put(np.ones((3, 5), np.float32))  # an array of the current device
        fastce.logsumexp(x).get()
        gpu.launches                              # what was launched: kernel, device, stream, counters
        gpu.waits, gpu.copies                     # how often something waited for the device, or was copied to it

It has the names of CuPy that fastce uses, and no other: whatever else is touched is an AttributeError. Devices are of
several compute capabilities. What a kernel's code is here is its PTX; nothing is assembled.
"""

import contextlib
import sys
import types
import weakref
from dataclasses import dataclass, field

import numpy as np

from .ptx import Memory, launch

CAPABILITIES = ((7, 5), (8, 0), (9, 0), (10, 0))  # of devices 0, 1, ...
MULTIPROCESSORS = 4  # few, so that rows are split over the grid where they are few, too
OF_CUPY = ("fastce.device", *(f"fastce.kernels.gpu.{name}" for name in ("run", "scale", "tasks", "totals", "backend")))


@dataclass
class Launched:
    """One launch."""

    kernel: str
    device: int
    stream: object
    grid: tuple
    threads: int
    counters: object


@dataclass
class Gpu:
    """All devices, with one memory."""

    capabilities: tuple = CAPABILITIES
    memory: Memory = field(default_factory=Memory)
    current: list = field(default_factory=lambda: [0])  # devices, the last is the current one
    streams: list = field(default_factory=lambda: [None])
    launches: list = field(default_factory=list)
    waits: int = 0
    copies: int = 0
    options: dict = field(default_factory=dict)  # of ptx.launch: schedule, error, seed

    def put(self, values, **place):
        """Copy to the current device; `place`: of Memory.array, where in memory."""
        values = np.asarray(values)
        array = self.empty(values.shape, values.dtype, **place)
        array.buffer.put(values)
        return array

    def empty(self, shape, dtype, **place):
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        buffer = self.memory.empty(shape, dtype, **place)
        array = Array(self, buffer, buffer.view, self.current[-1])
        weakref.finalize(array.alive, self.memory.free, buffer)
        return array

    def run(self, kernel, ptx, grid, threads, arguments, shared_bytes):
        counters = launch(
            ptx, grid, threads, list(arguments), memory=self.memory, shared_bytes=shared_bytes, **self.options
        )
        self.launches.append(Launched(kernel, self.current[-1], self.streams[-1], grid, threads[0], counters))


class _Alive:
    """Lives as long as any view of a buffer."""


class Array:
    """What fastce needs of cupy.ndarray."""

    def __init__(self, gpu, buffer, view, device, alive=None):
        self.gpu, self.buffer, self.view = gpu, buffer, view
        self.alive = _Alive() if alive is None else alive
        self.device = Device(gpu, device)
        self.dtype, self.shape, self.strides = view.dtype, view.shape, view.strides
        self.ndim, self.size, self.itemsize, self.flags = view.ndim, view.size, view.itemsize, view.flags
        self.data = types.SimpleNamespace(ptr=buffer.address_of(view))

    def _view(self, view):
        return Array(self.gpu, self.buffer, view, self.device.id, self.alive)

    def reshape(self, *shape):
        view = self.view.reshape(*shape)
        assert view.size == 0 or np.shares_memory(view, self.view), "a copy"
        return self._view(view)

    def transpose(self, *axes):
        return self._view(self.view.transpose(*axes))

    def __getitem__(self, index):
        return self._view(self.view[index])

    def __setitem__(self, index, value):
        self.buffer.put(value.buffer.get(value.view), self.view[index])

    def astype(self, dtype):
        made = self.gpu.empty(self.shape, dtype)
        made.buffer.put(self.buffer.get(self.view).astype(dtype))
        return made

    def copy(self):
        return self.astype(self.dtype)

    def get(self):
        self.gpu.waits += 1
        return self.buffer.get(self.view)

    def __array__(self, *args, **options):
        raise TypeError("CuPy refuses to copy silently")

    def _number(self):
        return self.get()[()]

    def __bool__(self):
        return bool(self._number())

    def __float__(self):
        return float(self._number())

    def __int__(self):
        return int(self._number())


class Device:
    """cupy.cuda.Device: a GPU, and a context in which it is the current one."""

    def __init__(self, gpu, number=None):
        self.gpu, self.id = gpu, gpu.current[-1] if number is None else number

    @property
    def compute_capability(self):
        return "{}{}".format(*self.gpu.capabilities[self.id])

    @property
    def attributes(self):
        from fastce.kernels.gpu.launch import shared_kib

        most = shared_kib(self.gpu.capabilities[self.id])[1] * 1024
        return {"MultiProcessorCount": MULTIPROCESSORS, "MaxSharedMemoryPerBlockOptin": most}

    def synchronize(self):
        self.gpu.waits += 1

    def __enter__(self):
        self.gpu.current.append(self.id)
        return self

    def __exit__(self, *error):
        self.gpu.current.pop()


class Stream:
    """cupy.cuda.Stream: a context in which it is the current one."""

    def __init__(self, gpu):
        self.gpu = gpu

    def synchronize(self):
        self.gpu.waits += 1

    def __enter__(self):
        self.gpu.streams.append(self)
        return self

    def __exit__(self, *error):
        self.gpu.streams.pop()


class Function:
    """cupy.cuda.Function: launched on the current device and stream."""

    WITHOUT_ASKING = 48 * 1024

    def __init__(self, gpu, name, ptx):
        self.gpu, self.name, self.ptx, self.ptr = gpu, name, ptx, self
        self.device, self.most = gpu.current[-1], self.WITHOUT_ASKING

    def __call__(self, grid, block, arguments, shared_mem=0):
        assert self.device == self.gpu.current[-1], "a kernel of another device"
        assert shared_mem <= self.most, "more shared memory than was asked for"
        self.gpu.run(self.name, self.ptx, grid, block, arguments, shared_mem)


class Module:
    """cupy.cuda.Module."""

    def __init__(self, gpu):
        self.gpu = gpu

    def load(self, code):
        self.code = code.decode()

    def get_function(self, name):
        return Function(self.gpu, name, self.code)


def _set_attribute(function, attribute, value):
    assert attribute == 8, "another than the most shared memory"
    function.most = value


def cupy_of(gpu):
    """A module with the names of CuPy that fastce uses."""

    def asarray(value):
        if isinstance(value, Array):
            return value
        if hasattr(value, "__cuda_array_interface__"):
            return _foreign(gpu, value.__cuda_array_interface__)
        gpu.copies += 1
        return gpu.put(value)

    cupy = types.ModuleType("cupy")
    cupy.ndarray = Array
    cupy.asarray = asarray
    cupy.from_dlpack = lambda value: value.__dlpack__()  # those of the tests give no capsule, but the array
    cupy.empty = gpu.empty
    cupy.empty_like = lambda array: _empty_like(gpu, array)
    cupy.cuda = types.SimpleNamespace(
        Device=lambda number=None: Device(gpu, number),
        Module=lambda: Module(gpu),
        Stream=lambda: Stream(gpu),
        driver=types.SimpleNamespace(funcSetAttribute=_set_attribute),
        is_available=lambda: True,
    )
    return cupy


def _empty_like(gpu, array):
    """Axes in the same order in memory, without gaps."""
    order = sorted(range(array.ndim), key=lambda i: -abs(array.strides[i]))
    made = gpu.empty([array.shape[i] for i in order], array.dtype)
    return made.transpose(*np.argsort(order).tolist())


def _foreign(gpu, interface):
    address = interface["data"][0]
    buffer = gpu.memory.at(address)
    dtype = np.dtype(interface["typestr"])
    view = np.ndarray(interface["shape"], dtype, buffer.data, address - buffer.base, interface["strides"])
    return Array(gpu, buffer, view, gpu.current[-1])


@contextlib.contextmanager
def installed(**options):
    """Be CuPy, for a while: what imported it before imports it anew."""
    from fastce.kernels.gpu import compile as compile_

    gpu = Gpu(**options)
    before = {name: sys.modules.pop(name, None) for name in ("cupy", *OF_CUPY)}
    assemble = compile_.to_machine_code
    _forget(OF_CUPY)
    sys.modules["cupy"] = cupy_of(gpu)
    compile_.to_machine_code = lambda ptx, capability: (ptx.encode(), "")
    try:
        yield gpu
    finally:
        compile_.to_machine_code = assemble
        _forget(OF_CUPY)
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


def _forget(names):
    """Modules are attributes of their packages, too, where `from package import module` finds them."""
    for name in names:
        package, _, module = name.rpartition(".")
        if package in sys.modules:
            vars(sys.modules[package]).pop(module, None)
