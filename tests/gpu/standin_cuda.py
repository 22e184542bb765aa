"""cupy.cuda of the stand-in: devices, streams, graphs, and modules of kernels, whose code here is PTX."""

import ctypes

from .ptx.launch import load


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
        return {"MultiProcessorCount": self.gpu.multiprocessors, "MaxSharedMemoryPerBlockOptin": most}

    def synchronize(self):
        self.gpu.wait()

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
        self.gpu.wait()

    def __enter__(self):
        self.gpu.streams.append(self)
        return self

    def __exit__(self, *error):
        self.gpu.streams.pop()

    def begin_capture(self):
        assert self.gpu.captured is None
        self.gpu.captured = []

    def end_capture(self):
        steps, self.gpu.captured = self.gpu.captured, None
        return Graph(steps)


class Graph:
    """cupy.cuda.Graph: what was put on a stream, to be done again and again."""

    def __init__(self, steps):
        self.steps = steps

    def launch(self):
        for step in self.steps:
            step()


class CPointer:
    """cupy.cuda.function.CPointer: where a parameter of a kernel lies, in the memory of the process."""

    def __init__(self, address):
        self.address = address


class Function:
    """cupy.cuda.Function: launched on the current device and stream, with parameters as they are at that time."""

    WITHOUT_ASKING = 48 * 1024

    def __init__(self, gpu, ptx):
        self.gpu, self.ptx, self.ptr = gpu, ptx, self
        self.device, self.most = gpu.current[-1], self.WITHOUT_ASKING

    def __call__(self, grid, block, arguments, shared_mem=0):
        assert self.device == self.gpu.current[-1], "a kernel of another device"
        assert shared_mem <= self.most, "more shared memory than was asked for"
        parameters = load(self.ptx).kernel.params.values()
        arguments = [ctypes.string_at(a.address, p.size) for a, p in zip(arguments, parameters, strict=True)]
        self.gpu.run(self.ptx, grid, block, arguments, shared_mem)


class Module:
    """cupy.cuda.Module."""

    def __init__(self, gpu):
        self.gpu = gpu

    def load(self, code):
        assert self.gpu.captured is None, "loads a kernel while a stream is captured"
        self.code = code.decode()

    def get_function(self, name):
        assert f".entry {name}(" in self.code
        return Function(self.gpu, self.code)


def set_attribute(function, attribute, value):
    assert attribute == 8, "another than the most shared memory"
    function.most = value
