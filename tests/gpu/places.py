"""Where the tests of the public functions compute: arrays of NumPy, of a stand-in for CuPy, or of CuPy on a GPU."""

import contextlib
from importlib.util import find_spec

import numpy as np
import pytest


class OnCpu:
    """NumPy's arrays as they are."""

    name = "numpy"

    def put(self, array):
        return np.asarray(array)

    def get(self, array):
        return np.asarray(array)


class OnGpu:
    """CuPy's arrays."""

    name = "cupy"

    def __init__(self, cupy):
        self.cupy = cupy

    def put(self, array):
        return self.cupy.asarray(array)

    def get(self, array):
        assert isinstance(array, self.cupy.ndarray)
        return array.get()


class OnStandIn(OnGpu):
    """Arrays of what stands in for CuPy, on kernels that are interpreted."""

    name = "stand-in"


@contextlib.contextmanager
def on_cpu():
    yield OnCpu()


@contextlib.contextmanager
def on_stand_in():
    if find_spec("numba_cuda") is None:
        pytest.skip("numba-cuda, which compiles for GPUs, is not installed")
    from . import standin

    with standin.installed(current=[standin.CAPABILITIES.index((9, 0))]):
        import cupy

        yield OnStandIn(cupy)


@contextlib.contextmanager
def on_gpu():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    if not cupy.cuda.is_available():
        pytest.skip("there is no GPU")
    yield OnGpu(cupy)


PLACES = [
    pytest.param(on_cpu, id="numpy", marks=pytest.mark.cpu),
    pytest.param(on_stand_in, id="stand-in"),
    pytest.param(on_gpu, id="cupy", marks=pytest.mark.gpu),
]
