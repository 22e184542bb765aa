"""Compile kernels ahead of time."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import api
from .kernels.task import Array

DTYPES = ("float16", "bfloat16", "float32", "float64")
FUNCTIONS: dict[str, Callable[[Array, Array], object]] = {
    "cross_entropy": api.cross_entropy,
    "cross_entropy_with_grad": api.cross_entropy_with_grad,
    "cross_entropy_backward": lambda x, y: api.cross_entropy_backward(x, y, np.zeros(len(x))),
    "logsumexp": lambda x, y: api.logsumexp(x),
    "softmax": lambda x, y: api.softmax(x),
    "log_softmax": lambda x, y: api.log_softmax(x),
    "nll_loss": api.nll_loss,
}
# Rows and classes: a call for one thread, and one for all of them.
SHAPES = {"one thread": (2, 2), "all threads": (1024, 128)}


def warmup(
    dtypes: str | Sequence[str] = ("float32",),
    *,
    functions: str | Sequence[str] | None = None,
    progress: Callable[[int, int, str], object] | None = None,
) -> float:
    """Compile the kernels for logits of these types, and keep them on disk for later processes.

    Without it, the first call with logits of a type takes the seconds that compiling takes.

    Parameters
    ----------
    dtypes : str or sequence of str
        Any of "float16", "bfloat16" (needs the package ml_dtypes), "float32" and "float64".
    functions : str or sequence of str, optional
        Names of the functions that will be called; all of them if not given. They share most of what is compiled.
    progress : callable, optional
        Called as `progress(done, total, label)` before each step, and once at the end.

    Returns
    -------
    float
        The seconds it took.

    Raises
    ------
    ImportError
        "bfloat16" without ml_dtypes.
    ValueError
        A type or function that is not there.

    Notes
    -----
    Numba keeps compiled kernels in a folder beside the package or, where that cannot be written, in one of the user's;
    the environment variable NUMBA_CACHE_DIR names another. `python -m fastce info` tells which it is.

    Examples
    --------
    >>> import fastce
    >>> seconds = fastce.warmup("float64", functions="logsumexp")
    >>> seconds < 600
    True
    """
    types = _names("dtypes", dtypes, DTYPES)
    names = _names("functions", tuple(FUNCTIONS) if functions is None else functions, tuple(FUNCTIONS))
    arrays = {name: _dtype(name) for name in types}
    steps = [(dtype, name, threads) for dtype in types for name in names for threads in SHAPES]
    start = time.perf_counter()
    for done, (dtype, name, threads) in enumerate(steps):
        if progress is not None:
            progress(done, len(steps), f"{name} of {dtype}, {threads}")
        n_rows, n_classes = SHAPES[threads]
        FUNCTIONS[name](np.zeros((n_rows, n_classes), arrays[dtype]), np.zeros(n_rows, np.int64))
    if progress is not None:
        progress(len(steps), len(steps), "done")
    return time.perf_counter() - start


def _names(argument: str, given: str | Sequence[str], known: tuple[str, ...]) -> tuple[str, ...]:
    names = (given,) if isinstance(given, str) else tuple(given)
    for name in names:
        if name not in known:
            raise ValueError(f"{argument} must be among {', '.join(known)}; not {name!r}")
    return names


def _dtype(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        name = importlib.import_module("ml_dtypes").bfloat16
    dtype: np.dtype[Any] = np.dtype(name)
    return dtype
