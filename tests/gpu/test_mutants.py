"""The kernels, broken in one place at a time: the comparison with the reference, or the interpreter, notices."""

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda, which compiles for GPUs, is not installed")

from fastce.kernels.gpu import kernels
from fastce.kernels.gpu.compile import to_ptx

from . import standin, test_run
from .ptx.mutants import mutants, noticed
from .test_run import Case

# For every kernel: a first chunk, whole ones and their rest; whole ones alone; gradients apart; rows that are sure of a
# class each, as reductions that miss some threads' largest are wrong there only.
CASES = [
    ("plain", 513, "odd, in place", "random"),
    ("plain", 200, "dense", "warp-reverse"),
    ("plain", 33, "apart", "warp-serial"),
    ("plain", 513, "padded", "lockstep"),
]
SURE = "padded"


def sure_rows(rng, n_classes, dtype):
    n_rows = -(-n_classes // 4)
    x = rng.normal(size=(n_rows, n_classes))
    y = np.arange(n_rows) * 4
    x[np.arange(n_rows), y] += 30
    y[list(test_run.BAD)] = n_classes, -5
    return x.astype(dtype), y


class Checked:
    """What `survivors` calls with a PTX text in place of a kernel's own."""

    def __init__(self, gpu, monkeypatch, kernel, part, dtype):
        from fastce.kernels.gpu import run, tasks

        self.gpu, self.monkeypatch, self.run, self.tasks = gpu, monkeypatch, run, tasks
        self.kernel, self.part, self.dtype = kernel, part, dtype
        of_kernel = kernels.kernel(part, dtype, True, True)
        self.entry = of_kernel.function
        self.device = test_run.device_of(Case(kernel, dtype, "", 0, "", "", None))
        capability = standin.CAPABILITIES[self.device]
        self.ptx = to_ptx(of_kernel.function, of_kernel.signature, capability, of_kernel.threads)

    def __call__(self, text):
        def compiled(function, *rest):
            return text if function is self.entry else to_ptx(function, *rest)

        loaded = self.device, kernels.kernel(self.part, self.dtype, True, True)
        self.monkeypatch.setattr(self.run._compile, "to_ptx", compiled)
        self.run._loaded.pop(loaded, None)
        try:
            return self._run_cases()
        finally:
            self.run._loaded.pop(loaded, None)

    def _run_cases(self):
        counters = None
        for options, n_classes, layout, schedule in CASES:
            case = Case(self.kernel, self.dtype, options, n_classes, layout, schedule, None)
            with pytest.MonkeyPatch.context() as patch:
                if layout == SURE:
                    patch.setattr(test_run, "rows_of_all_kinds", sure_rows)
                made = test_run.make(self.gpu, np.random.default_rng(5), case)
            test_run.fill_exactly(made)
            found = test_run.run(self.gpu, self.tasks, self.monkeypatch, case, made)
            test_run.check(made)
            found = found[1] if self.part == "finish" else found[0]
            if counters is None:
                counters = found
            else:
                counters += found
        return counters


PARTS = [("warp", "warp"), ("block", "block"), ("online", "online"), ("split", "part"), ("split", "finish")]

# How many may survive, and why no test could notice them:
# a barrier in all but `warp`: before the first reduction there is none whose results are still to be read, and what
#   `finish` merged lies elsewhere than what it agrees on;
# an access: to what plain kernels keep but do not use, the scale of a plan, and in `finish` what general ones find.
# Bounds are left out: loops that the compiler unrolled run their last rounds in either form.
SURVIVORS = {"warp": 0, "block": 2, "online": 2, "part": 1, "finish": 16}


@pytest.fixture(scope="module")
def gpu():
    with standin.installed() as gpu:
        yield gpu


def surviving(gpu, monkeypatch, kernel, part, dtype, kinds, every=1):
    check = Checked(gpu, monkeypatch, kernel, part, dtype)
    counters = check(check.ptx)
    found = list(mutants(check.ptx, counters, kinds=kinds))[::every]
    assert len(found) >= 5
    return [mutant for mutant in found if not noticed(mutant, check, counters)]


@pytest.mark.parametrize(("kernel", "part"), PARTS, ids=lambda name: name)
def test_broken_kernels_are_noticed(gpu, monkeypatch, kernel, part):
    left = surviving(gpu, monkeypatch, kernel, part, "float32", ("barrier", "mask", "distance", "access"), every=5)
    assert len(left) <= SURVIVORS[part], "; ".join(map(str, left))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("kernel", "part"), PARTS, ids=lambda name: name)
def test_every_broken_kernel_is_noticed(gpu, monkeypatch, kernel, part, dtype):
    left = surviving(gpu, monkeypatch, kernel, part, dtype, ("barrier", "mask", "distance", "access"))
    assert len(left) <= SURVIVORS[part], "; ".join(map(str, left))
