"""What an element costs, against the number of classes: every size around powers of two and borders of the kernels.

The sizes have as many elements each, and run as one race: neighbours are compared in the same rounds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .cases import PROVIDERS, Case
from .check import EXACT, Oracle
from .contenders import Problem, dtype_of
from .run import SEED, Record, record
from .timing import Race

ELEMENTS = 1 << 20  # in a cell: 4 MiB of float32, the time of a call far above that of its Python
LARGEST = 4100
# Every size of the kernels for few classes and a few beyond; then one below, at and one above each power of two and
# three halves of it, where vectors, unrolled loops and chunks begin and end; and halfway to the next.
_BORDERS = [size for power in range(5, 13) for size in (1 << power, 3 << (power - 1)) if size <= LARGEST]
_AROUND = [around for border in _BORDERS for around in (border - 1, border, border + 1, 5 * border // 4)]
CLASSES = tuple(sorted({*range(1, 35), *(size for size in _AROUND if size < LARGEST), LARGEST}))
QUICK = (1, 2, 3, 5, 10, 16, 17, 32, 33, 64, 128, 256, 512, 1024, 1025, 4096)


def run(case: Case, classes: Sequence[int]) -> list[Record]:
    """Check and time the function and type of a case at all these sizes."""
    cells = {
        n_classes: case._replace(n_rows=max(1, ELEMENTS // n_classes), n_classes=n_classes) for n_classes in classes
    }
    calls = {}
    for n_classes, cell in cells.items():
        problem = Problem(cell.n_rows, n_classes, dtype_of(cell.dtype), SEED)
        contender = PROVIDERS["fastce"].builders[cell.function](problem)
        problem.out.fill(np.nan)
        Oracle(problem).check(f"fastce, {cell}", cell.function, contender, EXACT[cell.dtype])
        calls[str(n_classes)] = contender.call
    race = Race(calls, budget=0)
    race.run()
    records = []
    for n_classes, cell in cells.items():
        found = record("sweep", cell, race, [str(n_classes)])
        found["times"] = {"fastce": found["times"][str(n_classes)]}
        records.append(found)
    return records
