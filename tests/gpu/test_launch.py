"""What the host decides without a GPU: kernels, grids, memory, constants; and what it says where it cannot."""

import itertools
import subprocess
import sys
import types
from fractions import Fraction

import numpy as np
import pytest

import fastce
from fastce import dispatch

pytest.importorskip("numba_cuda", reason="numba-cuda, which compiles for GPUs, is not installed")

from fastce.kernels.gpu.kernels import most_threads
from fastce.kernels.gpu.launch import SHARED_KIB, Device, choose
from fastce.kernels.gpu.layout import merged_axes
from fastce.kernels.gpu.memory import numbers

# One row, fewer than multiprocessors, many; one class, odd ones, a vocabulary, more than any block keeps.
ROWS = (1, 5, 64, 10_007, 3_000_000)
CLASSES = (1, 2, 10, 33, 513, 1001, 4100, 50_257, 262_144)


@pytest.mark.parametrize("capability", SHARED_KIB)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("plain", [True, False])
def test_every_launch_is_possible_and_covers_all_rows(capability, dtype, plain):
    for multiprocessors, n_rows, n_classes, grad in itertools.product((16, 132), ROWS, CLASSES, (True, False)):
        choice = choose(Device(capability, multiprocessors), dtype, plain, n_rows, n_classes, grad)
        lanes = numbers(dtype).lanes
        chunks = (n_classes + 2 * (lanes - 1)) // lanes  # of a row that starts as badly as it can
        for launch in choice.launches:
            assert 0 < launch.threads <= most_threads(launch.name, plain, dtype == "float64")
            assert launch.threads % 32 == 0
            assert launch.shared_bytes <= SHARED_KIB[capability][1] * 1024
            assert max(launch.grid) < 2**31
            assert launch.grid[1] < 2**16
            if launch.name == "warp":
                assert launch.grid[0] * (launch.threads >> choice.lane_bits) >= n_rows
            else:
                assert launch.grid[0] == n_rows
        names = [launch.name for launch in choice.launches]
        if names in (["warp"], ["block"]):
            assert choice.tile >= chunks
        if names == ["part", "finish"]:
            assert choice.part * choice.parts >= chunks
            assert choice.parts <= choice.launches[1].threads  # a thread merges each


def test_the_choice():
    """Far from where the table changes from one kernel to another."""

    def names(n_rows, n_classes, plain=True, capability=(9, 0)):
        chosen = choose(Device(capability, 132), "float32", plain, n_rows, n_classes, True)
        return [launch.name for launch in chosen.launches]

    assert names(65536, 10) == names(65536, 200) == names(65536, 200, plain=False) == ["warp"]
    assert names(1024, 50_257) == names(1024, 131_072) == names(1024, 131_072, plain=False) == ["online"]
    assert names(1024, 8192, capability=(8, 6)) == names(1024, 8192, plain=False) == ["block"]
    assert names(1, 262_144) == ["part", "finish"]


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("unit", [1.0, 0.1, 1.5, 30.0, 1e-20, 7e20])
def test_log2e_in_two_parts_of_one_sign(tasks, unit, double):
    hi, lo = tasks.split_log2e(unit, double)
    assert hi > 0
    assert lo >= 0
    log2e = Fraction("1.44269504088896340735992468100189214")
    error = abs(Fraction(hi) + Fraction(lo) - log2e * Fraction(unit))
    assert error <= log2e * Fraction(unit) * Fraction(2) ** -75
    assert hi == (hi if double else float(np.float32(hi)))


def test_merged_axes():
    x = np.empty((4, 5, 6))
    assert merged_axes(x.shape, x.strides) == [(120, 8)]
    assert merged_axes(x[:, ::2].shape, x[:, ::2].strides) == [(4, 240), (3, 96), (6, 8)]
    assert merged_axes((3, 1, 2), (16, 5, 8)) == [(6, 8)]
    assert merged_axes((), ()) == []


class OfCuda:
    def __dlpack_device__(self):
        return 2, 0


class OfInterface:
    __cuda_array_interface__ = {}  # noqa: RUF012


class OfCpu:
    def __dlpack_device__(self):
        return 1, 0

    @property
    def __cuda_array_interface__(self):
        raise AttributeError("as PyTorch's tensors on the CPU")


def test_arrays_on_a_gpu_are_recognised(monkeypatch):
    assert dispatch.on_gpu(OfCuda())
    assert dispatch.on_gpu(OfInterface())
    for other in (OfCpu(), np.zeros(3), [1.0], 2.0, None):
        assert not dispatch.on_gpu(other)
    cupy = types.SimpleNamespace(ndarray=type("ndarray", (), {}))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    assert dispatch.on_gpu(cupy.ndarray())


def test_what_is_missing_is_named():
    """In a process of its own, in which CuPy cannot be imported."""
    program = """
import sys
sys.modules["cupy"] = None
import fastce
class Array:
    def __dlpack_device__(self):
        return 2, 0
try:
    fastce.softmax(Array())
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert "cuda12 or cuda13" in done.stdout
    assert "pip install 'fastce[cuda13]'" in done.stdout


def test_other_devices_are_named():
    x, y = np.zeros((2, 3)), np.zeros(2, int)
    with pytest.raises(TypeError, match="targets is on a GPU"):
        fastce.cross_entropy(x, OfCuda())
    with pytest.raises(TypeError, match="grad_out is on a GPU"):
        fastce.cross_entropy_with_grad(x, y, grad_out=OfCuda())
    with pytest.raises(TypeError, match="backend='cuda'"):
        fastce.cross_entropy(x, y, backend="cuda")
