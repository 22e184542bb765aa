"""The kernel that multiplies by a factor that only the GPU knows."""

import numpy as np
import pytest
from conftest import FLOAT_TYPES, float_type

pytest.importorskip("numba_cuda", reason="numba-cuda, which compiles for GPUs, is not installed")

from . import standin
from .test_compile import CAPABILITIES, check_machine_code, check_ptx, compiled, instructions


@pytest.mark.parametrize("device", [0, 2])  # of compute capability 7.5 and 9.0
@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("n", [0, 1, 257, 10_000])  # none; one; one past a block; more than all threads at once
@pytest.mark.parametrize("factor", [1.0, 0.0, -0.75, np.nan])
def test_scale(gpu, rng, device, dtype, n, factor):
    from fastce.device import scale

    values = rng.normal(size=n).astype(float_type(dtype))
    gpu.launches.clear()
    with standin.Device(gpu, device):
        array, number = gpu.put(values), gpu.put(np.asarray(factor, np.float64 if dtype == "float64" else np.float32))
        waits = gpu.waits
        scale(array, number)
        assert gpu.waits == waits
        (launched,) = gpu.launches if n else (None,)
        found = array.get()
    wanted = (values.astype(number.dtype) * number.dtype.type(factor)).astype(values.dtype)
    np.testing.assert_array_equal(found.astype(np.float64), wanted.astype(np.float64))
    if n and factor == 1:
        assert launched.counters.traffic["global", "store"].bytes == 0


def test_a_factor_of_another_type(gpu):
    from fastce.device import scale

    array = gpu.put(np.ones(3, float_type("bfloat16")))
    scale(array, gpu.put(np.asarray(0.5, float_type("bfloat16"))))
    assert (array.get() == 0.5).all()


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
def test_it_compiles_for_every_device(dtype):
    from fastce.kernels.gpu import scale

    for capability in CAPABILITIES:
        kernel = scale.kernel(dtype, dtype in ("float32", "float64") or capability >= (8, 0))
        ptx, report = compiled(kernel, capability)
        check_machine_code(report, kernel, capability, 40)
        check_ptx(instructions(ptx))
