"""The table of the benchmark on a GPU: shapes, functions and contenders, beside those of `cases.py`."""

from __future__ import annotations

import itertools
from collections.abc import Collection

from . import gpu_contenders, gpu_peers
from .cases import TYPES, Case, Provider
from .cases import select as on_cpu
from .check import COARSE, EXACT, NAIVE

FUNCTIONS = ("gradient", "forward")

# The batch sizes and class counts that quack, the fastest library known, shows its own speed at.
QUACK_SHAPES = (
    *((32768, 1 << bits) for bits in range(8, 17)),  # 256 to 65,536 classes
    (16384, 131072),
    (8192, 262144),
)
PROVIDERS = {
    "fastce": Provider("fastce", ("cupy", "numba_cuda"), EXACT, gpu_contenders.FASTCE),
    "fastce-in-place": Provider("fastce in place", ("cupy", "numba_cuda"), EXACT, gpu_contenders.FASTCE_IN_PLACE),
    "numpy": Provider("NumPy by CuPy", ("cupy",), NAIVE, gpu_contenders.CUPY),
    "torch": Provider("PyTorch", ("torch",), COARSE, gpu_peers.TORCH),
    "torch-compile": Provider("torch.compile", ("torch",), COARSE, gpu_peers.TORCH_COMPILE, slow_start=True),
    "liger": Provider("Liger", ("torch", "liger_kernel"), COARSE, gpu_peers.LIGER),
    "quack": Provider("quack", ("torch", "quack"), COARSE, gpu_peers.QUACK),
    "quack-one-pass": Provider("quack in one pass", ("torch", "quack"), COARSE, gpu_peers.QUACK_ONE_PASS),
    "copy": Provider("copy", ("cupy",), EXACT, gpu_contenders.COPY),
}
PEERS = [name for name in PROVIDERS if not name.startswith("fastce") and name != "copy"]

# Logits, the output, logits to overwrite, the baseline's float32 of 16-bit ones or PyTorch's gradient with what it
# keeps for it.
ARRAYS = 8  # as large as the logits, that the contenders of a cell need together


def select(
    *,
    functions: Collection[str] = FUNCTIONS,
    dtypes: Collection[str] = tuple(TYPES),
    rows: Collection[int] = (),
    classes: Collection[int] = (),
) -> list[Case]:
    """List the cells: quack's shapes and the CPU's, or every pair of `rows` and `classes`, largest batches first."""
    own = list(itertools.product(rows, classes))
    found = []
    for dtype in TYPES:
        if dtype in dtypes:
            grid = on_cpu(quick=False, functions=functions, dtypes=[dtype])
            shapes = own or dict.fromkeys([*QUACK_SHAPES, *((case.n_rows, case.n_classes) for case in grid)])
            found += [Case(name, dtype, *shape) for shape in shapes for name in FUNCTIONS if name in functions]
    return found


def that_fit(cells: list[Case], free_bytes: int) -> tuple[list[Case], dict[str, str]]:
    """Split cells into those that there is room for and, as what is left out, the others."""
    fit = [case for case in cells if ARRAYS * case.logits_bytes <= free_bytes]
    if len(fit) == len(cells):
        return fit, {}
    most = max(case.logits_bytes for case in cells)
    reason = f"the largest need {ARRAYS * most / 1e9:.0f} GB, and {free_bytes / 1e9:.0f} GB are free"
    return fit, {f"{len(cells) - len(fit)} cells": reason}
