"""Peak memory of a contender beside its inputs, in a process of its own; Linux tells it.

`python -m fastce.bench.memory fastce gradient float32 4096 32000` prints the bytes.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .cases import PROVIDERS, Case
from .contenders import Problem, dtype_of

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")

# What is freed is given back to the system at once. Left alone, glibc keeps up to 64 MiB of it for some time, and a
# call that finds it there, or during which it goes, seems to take less.
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}


def available() -> bool:
    """Whether the system counts the peak anew on request."""
    return RESET.exists()


def peak(case: Case, provider: str) -> dict[str, float]:
    """Give the bytes, and how many times the logits they are."""
    size = printed_by(["fastce.bench.memory", provider, *map(str, case)])
    return {"bytes": float(size), "logits": size / case.logits_bytes}


def printed_by(module: Sequence[str]) -> int:
    """Run a module, with its arguments, in a process of its own; give the bytes that it prints last."""
    command = [sys.executable, "-m", *module]
    done = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(module)}: {done.stderr}")
    return int(done.stdout.split()[-1])


def growth(case: Case, provider: str) -> int:
    """Bytes by which this process grows in one call, its result included, after a first call that warms it up."""
    problem = Problem(case.n_rows, case.n_classes, dtype_of(case.dtype))
    build = PROVIDERS[provider].builders[case.function]
    build(problem).call()
    # Arrays anew, whose pages count when they are first written: an output counts, whoever allocates it.
    problem.out = np.empty_like(problem.logits)
    problem.__dict__.pop("work", None)
    contender = build(problem)
    gc.collect()
    before = kilobytes("VmRSS")
    RESET.write_text("5", encoding="ascii")  # the peak is what is there now
    result = contender.call()
    after = kilobytes("VmHWM")
    del result
    return 1024 * (after - before)


def kilobytes(name: str) -> int:
    """Read a line of the process's status."""
    lines = STATUS.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


def main() -> None:
    """Print the growth of the contender and cell on the command line."""
    provider, function, dtype, n_rows, n_classes = sys.argv[1:]
    print(growth(Case(function, dtype, int(n_rows), int(n_classes)), provider))


if __name__ == "__main__":
    main()
