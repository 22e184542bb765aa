"""Every kernel, as compiled for several kinds of GPU, run by the interpreter of PTX and compared with the reference.

Kernel, type, options, number of classes, layout, schedule, error of approximate instructions, device: every pair of
values of two of these is run, here or in test_coverage.py. `make slow` runs more. Of every 14 rows, each is of another
kind, see `running.rows_of_all_kinds`.
"""

import itertools

import pytest
from conftest import FLOAT_TYPES

pytest.importorskip("numba_cuda", reason="numba-cuda, which compiles for GPUs, is not installed")

from .cases import CLASSES, DEVICES, ERRORS, KERNELS, LAYOUTS, OPTIONS, TARGETS, Case, allowed, chosen, every_pair
from .ptx import SCHEDULES
from .running import check_case

SEEN = [case for of in itertools.product(KERNELS, FLOAT_TYPES, (True, False)) for case in chosen(*of)]
CASES = every_pair(SEEN)


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_every_pair(gpu, tasks, monkeypatch, rng, case):
    check_case(gpu, tasks, monkeypatch, rng, case)


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_size_and_layout(gpu, tasks, monkeypatch, rng, kernel, dtype, options):
    for (i, n_classes), (j, layout) in itertools.product(enumerate(CLASSES), enumerate(LAYOUTS)):
        schedule, error = tuple(SCHEDULES)[(i + j) % 4], ERRORS[(i + 2 * j) % 4]
        others = TARGETS[(i + j) % len(TARGETS)], DEVICES[(i + j) % len(DEVICES)]
        case = Case(kernel, dtype, options, n_classes, layout, schedule, error, *others)
        if allowed(case):
            check_case(gpu, tasks, monkeypatch, rng, case)
