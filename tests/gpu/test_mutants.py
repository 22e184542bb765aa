"""The kernels, broken in one place at a time: the comparison with the reference, or the interpreter, notices."""

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda, which compiles for GPUs, is not installed")

from fastce.kernels.gpu import kernels
from fastce.kernels.gpu.compile import to_ptx

from . import standin, test_run
from .ptx.mutants import mutants, survivors
from .test_run import Case

# For every kernel: whole chunks and their rest; a single class and few; the two halves of in-place; classes apart.
CASES = [
    ("plain", 513, "odd", "random"),
    ("plain", 200, "dense", "warp-reverse"),
    ("plain", 33, "apart", "warp-serial"),
]


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

        self.monkeypatch.setattr(self.run._compile, "to_ptx", compiled)
        self.run._loaded.pop((self.device, kernels.kernel(self.part, self.dtype, True, True)), None)
        counters = None
        for options, n_classes, layout, schedule in CASES:
            case = Case(self.kernel, self.dtype, options, n_classes, layout, schedule, None)
            rng = np.random.default_rng(5)
            made = test_run.make(self.gpu, rng, case)
            test_run.fill_exactly(made)
            found = test_run.run(self.gpu, self.tasks, self.monkeypatch, case, made)
            test_run.check(made)
            found = found[1] if self.part == "finish" else found[0]
            counters = found if counters is None else counters.__iadd__(found)
        return counters
