"""Where the tests of the public functions compute: arrays of NumPy, or of CuPy on a machine with a GPU."""

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

    def __init__(self):
        self.cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
        if not self.cupy.cuda.is_available():
            pytest.skip("there is no GPU")

    def put(self, array):
        return self.cupy.asarray(array)

    def get(self, array):
        assert isinstance(array, self.cupy.ndarray)
        return array.get()


PLACES = [pytest.param(OnCpu, id="numpy"), pytest.param(OnGpu, id="cupy", marks=pytest.mark.gpu)]
