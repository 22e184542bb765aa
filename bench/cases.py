"""The one table of the benchmark: shapes, types, functions with the bytes they move, providers, and the quick choice.

A new library is a row of `PROVIDERS` (with its functions in `contenders.py`); a new function is a row of `FUNCTIONS`.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from . import contenders
from .check import COARSE, EXACT, NAIVE, Tolerance
from .contenders import Builder


class Function(NamedTuple):
    """What is computed, and the arrays as large as the logits that it must read and write at least."""

    title: str
    reads: int
    writes: int


class Provider(NamedTuple):
    """A contender by name: its title, the package it needs, its tolerances by type, its builders by function."""

    title: str
    needs: str
    tolerance: dict[str, Tolerance]
    builders: dict[str, Builder]


class Case(NamedTuple):
    """One cell of the table."""

    function: str
    dtype: str
    n_rows: int
    n_classes: int

    @property
    def bytes_moved(self) -> int:
        """Bytes that must move: each logit read, each gradient element written, an int64 target read per row.

        Cache lines that the processor reads only because they are about to be written are not counted.
        """
        function = FUNCTIONS[self.function]
        cells = self.n_rows * self.n_classes * TYPES[self.dtype].itemsize
        return (function.reads + function.writes) * cells + 8 * self.n_rows

    def __str__(self) -> str:
        return f"{FUNCTIONS[self.function].title}, {self.dtype}, {self.n_rows:,} x {self.n_classes:,}"


FUNCTIONS = {
    "forward": Function("forward", reads=1, writes=0),
    "gradient": Function("loss with gradient", reads=1, writes=1),
}
TYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
ROWS = {
    1: "one decision; also the split along classes",
    32: "a small minibatch",
    1024: "a minibatch",
    8192: "a step of a small language model",
    65536: "a batch of a tabular or boosting model",
}
CLASSES = {
    2: "binary",
    10: "digits",
    100: "narrow no more",
    1000: "ImageNet",
    32000: "vocabulary of Llama 2",
    50257: "of GPT-2; odd",
    128256: "of Llama 3",
    262144: "of Gemma 3",
}
MOST_BYTES = 1 << 30  # of logits in a cell
PROVIDERS = {
    "fastce": Provider(
        "fastce",
        "fastce",
        EXACT,
        {"forward": contenders.fastce_forward, "gradient": contenders.fastce_gradient},
    ),
    "fastce-in-place": Provider("fastce in place", "fastce", EXACT, {"gradient": contenders.fastce_in_place}),
    "numpy": Provider(
        "NumPy",
        "numpy",
        NAIVE,
        {"forward": contenders.numpy_forward, "gradient": contenders.numpy_gradient},
    ),
    "torch": Provider(
        "PyTorch",
        "torch",
        COARSE,
        {"forward": contenders.torch_forward, "gradient": contenders.torch_gradient},
    ),
    "copy": Provider(
        "copy",
        "numba",
        EXACT,
        {"forward": contenders.copy_forward, "gradient": contenders.copy_gradient},
    ),
}

# Every regime in seconds: a call that is all overhead, narrow in and out of cache, rows in and out of cache, wide.
QUICK = {
    ("gradient", "float32"): [
        (32, 10),
        (65536, 2),
        (65536, 10),
        (8192, 100),
        (1024, 1000),
        (8192, 1000),
        (32, 50257),
        (1024, 32000),
        (1, 262144),
    ],
    ("forward", "float32"): [(32, 10), (65536, 10), (8192, 1000), (1, 262144)],
    ("gradient", "bfloat16"): [(65536, 10), (8192, 1000), (32, 50257)],
    ("forward", "bfloat16"): [(8192, 1000)],
}


def select(
    *, quick: bool, functions: Iterable[str] = tuple(FUNCTIONS), dtypes: Iterable[str] = tuple(TYPES)
) -> list[Case]:
    """List the cells: shapes of the quick choice or all up to 1 GiB, for some functions and types.

    Cells that share their logits stand side by side.
    """
    functions, dtypes = set(functions), set(dtypes)
    return [
        Case(function, dtype, n_rows, n_classes)
        for dtype in TYPES
        for n_rows in ROWS
        for n_classes in CLASSES
        for function in FUNCTIONS
        if function in functions and dtype in dtypes
        if n_rows * n_classes * TYPES[dtype].itemsize <= MOST_BYTES
        if not quick or (n_rows, n_classes) in QUICK.get((function, dtype), [])
    ]


def installed(names: Iterable[str] = tuple(PROVIDERS)) -> tuple[list[str], dict[str, str]]:
    """Split providers into those that can run here and those left out, with the reason."""
    left_out = {
        name: f"{PROVIDERS[name].needs} is not installed" for name in names if not find_spec(PROVIDERS[name].needs)
    }
    return [name for name in names if name not in left_out], left_out
