"""Every kernel, as compiled for several kinds of GPU, run by the interpreter of PTX and compared with the reference.

Kernel, type, options, number of classes, layout, schedule, error of approximate instructions, device: every pair of
values of two of these is run. `make slow` runs more. Of every 12 rows, each is of another kind, see
`running.rows_of_all_kinds`.
"""

import itertools

import pytest
from conftest import FLOAT_TYPES

pytest.importorskip("numba_cuda", reason="numba-cuda, which compiles for GPUs, is not installed")

from .cases import CLASSES, DEVICES, ERRORS, KERNELS, LAYOUTS, OPTIONS, Case, allowed, every_pair
from .ptx import SCHEDULES
from .running import check_case

CASES = every_pair()


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_every_pair(gpu, tasks, monkeypatch, rng, case):
    check_case(gpu, tasks, monkeypatch, rng, case)


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_size_and_layout(gpu, tasks, monkeypatch, rng, kernel, dtype, options):
    for i, (n_classes, layout) in enumerate(itertools.product(CLASSES, LAYOUTS)):
        case = Case(
            kernel,
            dtype,
            options,
            n_classes,
            layout,
            tuple(SCHEDULES)[i % 4],
            ERRORS[i // 4 % 4],
            DEVICES[i % len(DEVICES)],
        )
        if allowed(case):
            check_case(gpu, tasks, monkeypatch, rng, case)
