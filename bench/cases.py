"""The one table of the benchmark: shapes, types, functions with the bytes they move, providers, and the quick choice.

A new library is a row of `PROVIDERS` (with its functions in `peers.py`); a new function is a row of `FUNCTIONS`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from importlib.util import find_spec
from typing import NamedTuple

from . import contenders, peers
from .check import COARSE, EXACT, NAIVE, Tolerance
from .contenders import Builder


class Function(NamedTuple):
    """What is computed, and the arrays as large as the logits that it must read and write at least."""

    title: str
    reads: int
    writes: int


class Type(NamedTuple):
    """A type of the logits: bytes of an element, and the package that brings it to NumPy."""

    itemsize: int
    needs: str


class Provider(NamedTuple):
    """A contender by name: its title, the packages it needs, its tolerances by type, its builders by function.

    A type without tolerance is one that it does not take. `slow_start`: compiles for many seconds at each new shape.
    """

    title: str
    needs: tuple[str, ...]
    tolerance: dict[str, Tolerance]
    builders: dict[str, Builder]
    slow_start: bool = False


class Case(NamedTuple):
    """One cell of the table."""

    function: str
    dtype: str
    n_rows: int
    n_classes: int

    @property
    def logits_bytes(self) -> int:
        """Bytes of the logits."""
        return self.n_rows * self.n_classes * TYPES[self.dtype].itemsize

    @property
    def bytes_moved(self) -> int:
        """Bytes that must move: each logit read, each element of a result written, an int64 target read per row.

        Cache lines that the processor reads only because they are about to be written are not counted.
        """
        function = FUNCTIONS[self.function]
        return (function.reads + function.writes) * self.logits_bytes + 8 * self.n_rows

    def __str__(self) -> str:
        return f"{FUNCTIONS[self.function].title}, {self.dtype}, {self.n_rows:,} x {self.n_classes:,}"


FUNCTIONS = {
    "gradient": Function("loss with gradient", reads=1, writes=1),
    "forward": Function("forward", reads=1, writes=0),
    "logsumexp": Function("logsumexp", reads=1, writes=0),
    "softmax": Function("softmax", reads=1, writes=1),
    "log_softmax": Function("log_softmax", reads=1, writes=1),
}
TYPES = {"float32": Type(4, "numpy"), "bfloat16": Type(2, "ml_dtypes"), "float16": Type(2, "numpy")}
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
MOST_ELEMENTS = 1 << 28  # of logits in a cell: 1 GiB of float32
PROVIDERS = {
    "fastce": Provider("fastce", ("fastce",), EXACT, contenders.FASTCE),
    "fastce-in-place": Provider("fastce in place", ("fastce",), EXACT, contenders.FASTCE_IN_PLACE),
    "numpy": Provider("NumPy", ("numpy",), NAIVE, contenders.NUMPY),
    "scipy": Provider("SciPy", ("scipy",), {"float32": NAIVE["float32"]}, peers.SCIPY),
    "sklearn": Provider("scikit-learn", ("sklearn",), {"float32": NAIVE["float32"]}, peers.SKLEARN),
    "torch": Provider("PyTorch", ("torch",), COARSE, peers.TORCH),
    "torch-compile": Provider("torch.compile", ("torch",), COARSE, peers.TORCH_COMPILE, slow_start=True),
    "jax": Provider("JAX", ("jax", "optax"), COARSE, peers.JAX),
    "copy": Provider("copy", ("numba",), EXACT, contenders.COPY),
    "read": Provider("read", ("numba",), EXACT, contenders.READ),
}
OURS = ("fastce", "fastce-in-place")
YARDSTICKS = {"copy": "copy speed", "read": "read speed"}  # they compute nothing; all others are peers

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
    ("logsumexp", "float32"): [(1024, 1000)],
    ("softmax", "float32"): [(1024, 1000)],
    ("log_softmax", "float32"): [(1024, 1000)],
    ("gradient", "bfloat16"): [(65536, 10), (1024, 1000), (32, 50257)],
    ("forward", "bfloat16"): [(1024, 1000)],
    ("gradient", "float16"): [(1024, 1000)],
}


def select(
    *,
    quick: bool,
    functions: Collection[str] = tuple(FUNCTIONS),
    dtypes: Collection[str] = tuple(TYPES),
    rows: Collection[int] = (),
    classes: Collection[int] = (),
) -> list[Case]:
    """List the cells: shapes of the quick choice or all up to `MOST_ELEMENTS`, for some functions and types.

    With `rows` or `classes`, every pair of them, whatever the choice; those not given are all of the table. Cells
    that share their logits stand side by side.
    """
    own = bool(rows or classes)
    return [
        case
        for dtype in TYPES
        for n_rows in rows or ROWS
        for n_classes in classes or CLASSES
        for case in (Case(function, dtype, n_rows, n_classes) for function in FUNCTIONS)
        if case.function in functions and dtype in dtypes and n_rows * n_classes <= MOST_ELEMENTS
        if own or not quick or (n_rows, n_classes) in QUICK.get((case.function, dtype), [])
    ]


def contenders_of(case: Case, providers: Iterable[str]) -> list[str]:
    """Those among the providers that compute this function for this type."""
    return [
        name
        for name in providers
        if case.function in PROVIDERS[name].builders and case.dtype in PROVIDERS[name].tolerance
    ]


def installed(names: Iterable[str] = tuple(PROVIDERS)) -> tuple[list[str], dict[str, str]]:
    """Split providers into those that can run here and those left out, with the reason."""
    return _split(names, {name: PROVIDERS[name].needs for name in PROVIDERS})


def installed_types(names: Iterable[str] = tuple(TYPES)) -> tuple[list[str], dict[str, str]]:
    """Split types likewise."""
    return _split(names, {name: (TYPES[name].needs,) for name in TYPES})


def _split(names: Iterable[str], needs: dict[str, tuple[str, ...]]) -> tuple[list[str], dict[str, str]]:
    left_out = missing({name: needs[name] for name in names})
    return [name for name in names if name not in left_out], left_out


def missing(needs: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """Say of who needs packages that are not installed which they are."""
    left_out = {}
    for name, packages in needs.items():
        absent = [package for package in packages if not find_spec(package)]
        if absent:
            left_out[name] = f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed"
    return left_out
