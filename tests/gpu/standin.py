"""A stand-in for CuPy on machines without a GPU: its arrays lie in the interpreter's memory, its launches are
interpreted.

    with standin.installed() as gpu:              # `import cupy` gives the stand-in, until the end
        x = gpu.put(np.ones((3, 5), np.float32))  # an array of the current device
        fastce.logsumexp(x).get()
        gpu.launches                              # what was launched: text, device, stream, counters
        gpu.waits, gpu.copies                     # how often something waited for the device, or was copied to it

        with stream:
            stream.begin_capture()                # from here on, nothing runs, and to wait is an error, or to copy
            fastce.logsumexp(x, out=lse)
            graph = stream.end_capture()
        graph.launch()                            # now it does, each time

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
from .standin_cuda import CPointer, Device, Module, Stream, set_attribute

CAPABILITIES = ((7, 5), (8, 0), (9, 0), (10, 0))  # of devices 0, 1, ...
MULTIPROCESSORS = 4  # few, so that rows are split over the grid where they are few, too
OF_CUPY = (
    "fastce.device",
    "fastce.device_arrays",
    *(f"fastce.kernels.gpu.{name}" for name in ("run", "scale", "tasks", "totals", "backend")),
)


@dataclass
class Launched:
    """One launch."""

    ptx: str
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
    multiprocessors: int = MULTIPROCESSORS
    captured: list | None = None  # what is to be done, while a stream is captured
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
        weakref.finalize(array.alive, self._free, buffer)
        return array

    def _free(self, buffer):
        """Give memory back to the pool; that of a graph's own arrays stays with the graph."""
        if self.captured is None:
            self.memory.free(buffer)

    def wait(self):
        """Something waits for the device."""
        assert self.captured is None, "waits while a stream is captured"
        self.waits += 1

    def do(self, what):
        """Put work on the stream."""
        what() if self.captured is None else self.captured.append(what)

    def run(self, ptx, grid, threads, arguments, shared_bytes):
        device, stream = self.current[-1], self.streams[-1]

        def now():
            counters = launch(
                ptx, grid, threads, list(arguments), memory=self.memory, shared_bytes=shared_bytes, **self.options
            )
            self.launches.append(Launched(ptx, device, stream, grid, threads[0], counters))

        self.do(now)


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
        self.gpu.do(lambda: self.buffer.put(value.buffer.get(value.view), self.view[index]))

    def astype(self, dtype):
        made = self.gpu.empty(self.shape, dtype)
        to, source, view = made.buffer, self.buffer, self.view
        self.gpu.do(lambda: to.put(source.get(view).astype(dtype)))
        return made

    def copy(self):
        return self.astype(self.dtype)

    def get(self):
        self.gpu.wait()
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


def cupy_of(gpu):
    """A module with the names of CuPy that fastce uses."""

    def asarray(value):
        if isinstance(value, Array):
            return value
        if hasattr(value, "__cuda_array_interface__"):
            return _foreign(gpu, value.__cuda_array_interface__)
        assert gpu.captured is None, "copies while a stream is captured"
        gpu.copies += 1
        return gpu.put(value)

    cupy = types.ModuleType("cupy")
    cupy.ndarray = Array
    cupy.asarray = asarray
    cupy.from_dlpack = lambda value: value.__dlpack__()  # those of the tests give no capsule, but the array
    cupy.empty = gpu.empty
    cupy.empty_like = lambda array: _empty_like(gpu, array)
    cupy.may_share_memory = lambda a, b: np.may_share_memory(a.view, b.view)
    cupy.cuda = types.SimpleNamespace(
        Device=lambda number=None: Device(gpu, number),
        Module=lambda: Module(gpu),
        Stream=lambda: Stream(gpu),
        driver=types.SimpleNamespace(funcSetAttribute=set_attribute),
        function=types.SimpleNamespace(CPointer=CPointer),
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


def _code_of(kernel, capability):
    """In place of machine code, kept on disk, the PTX."""
    from fastce.kernels.gpu import compile as compile_
    from fastce.kernels.gpu import saved

    from .compiled import ptx_of

    ptx = ptx_of(kernel, capability)
    return saved.Code(ptx.encode(), compile_.entry_of(ptx))


@contextlib.contextmanager
def installed(**options):
    """Be CuPy, for a while: what imported it before imports it anew."""
    from fastce.kernels.gpu import saved

    gpu = Gpu(**options)
    before = {name: sys.modules.pop(name, None) for name in ("cupy", *OF_CUPY)}
    code_of = saved.code_of
    _forget(OF_CUPY)
    sys.modules["cupy"] = cupy_of(gpu)
    saved.code_of = _code_of
    try:
        yield gpu
    finally:
        saved.code_of = code_of
        _forget(OF_CUPY)
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


def _forget(names):
    """Modules are attributes of their packages, too, where `from package import module` finds them."""
    from fastce import dispatch

    dispatch._gpu = None
    for name in names:
        package, _, module = name.rpartition(".")
        if package in sys.modules:
            vars(sys.modules[package]).pop(module, None)
