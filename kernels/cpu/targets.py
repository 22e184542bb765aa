"""What is asked of the targets before anything is computed, and of the row losses after: one pass each."""

from __future__ import annotations

import numpy as np

from .compile import serial
from .pointers import load, load_part, pointer
from .simd import lanes, total, widen, zeros64


@serial
def scan(targets, n_classes, ignore_index, weight, sample_weight):
    """Position of the first bad target (or -1), number of valid rows, sum of s * w_y and sum of s over these."""
    n_valid, n_bad = 0, 0
    for i in range(targets.size):  # sums without a branch, of which LLVM makes vectors
        valid = np.int64(targets[i] != ignore_index)
        n_valid += valid
        n_bad += valid & np.int64(np.uint64(targets[i]) >= np.uint64(n_classes))
    if n_bad > 0:
        for i, y in enumerate(targets):
            if y != ignore_index and not 0 <= y < n_classes:
                return i, 0, 0.0, 0.0
    if weight.size == 0 and sample_weight.size == 0:
        return -1, n_valid, float(n_valid), float(n_valid)
    sum_sw, sum_s = 0.0, 0.0
    for i, y in enumerate(targets):
        if y != ignore_index:
            s = float(sample_weight[i]) if sample_weight.size > 0 else 1.0
            sum_s += s
            sum_sw += s * float(weight[y]) if weight.size > 0 else s
    return -1, n_valid, sum_sw, sum_s


@serial
def sum_rows(values):
    """Sum in float64, in a fixed order: lane by lane, then the lanes."""
    p = pointer(values)
    s = zeros64(p)
    whole = values.size // lanes(p) * lanes(p)
    for i in range(0, whole, lanes(p)):
        s = s + widen(load(p, i))
    return total(s + widen(load_part(p, whole, values.size - whole)))
