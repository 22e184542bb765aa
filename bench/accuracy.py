"""How far from float64 each contender is, in units in the last place of the type that it gives."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cases import PROVIDERS, Case
from .run import problem_of

# Bits of the significand, and the exponent of the smallest normal number.
PRECISION = {"float32": (24, -126), "bfloat16": (8, -126), "float16": (11, -14)}


def errors(case: Case, provider: str) -> dict[str, float]:
    """Error of the mean loss, and median, 99th percentile and maximum of the errors of the elements, in ulp.

    Losses and logsumexp are held to float32, whose arithmetic all of them use. Elements too small to be normal numbers
    are left out: fastce may give 0 for them.
    """
    problem, oracle = problem_of(case.dtype, case.n_rows, case.n_classes)
    problem.out.fill(np.nan)
    contender = PROVIDERS[provider].builders[case.function](problem)
    if contender.read is None:
        raise ValueError(f"{provider} computes nothing")
    loss, array = contender.read(contender.call())
    found = {}
    if loss is not None:
        found["loss"] = float(in_ulp(np.array([loss]), np.array([oracle.loss]), "float32")[0])
    if array is not None:
        dtype = "float32" if case.function == "logsumexp" else case.dtype
        each = in_ulp(array[oracle.rows].astype(np.float64), oracle.array(case.function), dtype)
        median, p99, most = np.quantile(each, [0.5, 0.99, 1.0])
        found.update(median=float(median), p99=float(p99), max=float(most))
    return found


def in_ulp(got: NDArray[Any], want: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Errors in units in the last place that `want` has in `dtype`, of the elements that are normal numbers there.

    >>> float(in_ulp(np.array([1 + 2.0**-22]), np.array([1.0]), "float32")[0])
    2.0
    """
    bits, smallest = PRECISION[dtype]
    _, exponent = np.frexp(want)  # want = m * 2**exponent, m from 1/2 to 1
    normal = (exponent - 1 >= smallest) & np.isfinite(want) & (want != 0)
    unit = np.ldexp(1.0, exponent[normal] - bits)
    each: NDArray[Any] = np.abs(got[normal] - want[normal]) / unit
    return each
