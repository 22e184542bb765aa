"""What ``entry.py`` needs of Python: to know what lies where, to compile what is missing, to start threads."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..task import FIXED, GRADIENTS, IF_SMALL, LAST_AXIS, MISSING, OPTIONS, Array, Rows
from . import entry, launch, threads
from .call import EVEN, GENERAL, SOFT, needs, spread_of
from .entry import OF_TYPE, TYPES, WORK
from .objects import are_as_expected


class Logits:
    """All logits that are computed in one type."""

    def __init__(self, arithmetic: Any, *dtypes: Any) -> None:
        self._dtypes: list[np.dtype[Any] | None] = [None] * entry.N_TYPES
        self._known = np.zeros(entry.KNOWN, np.int64)
        self.address = self._known.ctypes.data
        dtype = np.dtype(arithmetic)
        if are_as_expected():  # (if not, nothing is an array, and nothing plain)
            things = [np.ndarray, None, float, int, _INT64, dtype]
            words = [sys.intern(word) for word in ("mean", "sum", "none", *OPTIONS, *FIXED)]
            self._kept = words, *FIXED.values()  # (what an id tells must live)
            numbers = dtype.itemsize, id(LAST_AXIS)
            self._known[:TYPES] = [*map(id, things), *numbers, *map(id, words), *map(id, FIXED.values())]
        for which, other in enumerate(dtypes):
            self.learn(which, np.dtype(other))
        self.of_targets = entry.of_targets_in(arithmetic)
        self.of_targets_shared = entry.of_targets_shared_in(arithmetic)
        self.of_logits = entry.of_logits_in(arithmetic)
        self.of_logits_shared = entry.of_logits_shared_in(arithmetic)

    def learn(self, which: int, dtype: np.dtype[Any]) -> None:
        """Take logits of this type, by a number of its own, for such from now on. (Two threads may do so at once.)"""
        at = TYPES + OF_TYPE * which
        self._dtypes[which] = dtype
        self._known[at + 1] = dtype.itemsize
        self._known[at] = id(dtype)

    def knows(self, dtype: np.dtype[Any]) -> bool:
        """Whether it has learned that."""
        return any(dtype is known for known in self._dtypes)

    def run(self, ready: Callable[[], Any], *args: Any) -> Any:
        """Give what a function of ``entry.py`` gives, that ``ready`` gives, once the work is compiled that it calls."""
        while True:
            found = ready()(self.address, *args)
            status = found[0] if type(found) is tuple else found
            if status < MISSING:
                return found
            which, regime = divmod(status - MISSING - TYPES - WORK, OF_TYPE)
            dtype = self._dtypes[which]
            assert dtype is not None
            self._known[status - MISSING] = launch.work(launch.memory_of(dtype).view, regime)

    def share(self, alone: Callable[[], Any], shared: Callable[[], Any], way: launch.Way, *args: Any) -> Any:
        """The same by as many threads as ``way`` says."""
        if way.block == 0:
            return self.run(alone, *args, way.tuning)
        if threads.concurrent:  # (with less of Python: after a large call, every line takes half a microsecond, or two)
            return self.run(shared, *args, *way)
        return threads.run(lambda: self.run(shared, *args, *way), lambda: self.run(alone, *args, way.tuning))


_INT64 = np.dtype(np.int64)
_BFLOAT16 = 2  # among the types computed in float32
FLOATS, DOUBLES = Logits(np.float32, np.float32, np.float16), Logits(np.float64, np.float64)


def knows(dtype: np.dtype[Any]) -> bool:
    """Whether logits of a type may be plain: bfloat16 from the first time on that it is asked for."""
    if not (FLOATS.knows(dtype) or DOUBLES.knows(dtype)):
        if dtype.name != "bfloat16" or not dtype.isnative:
            return False
        FLOATS.learn(_BFLOAT16, dtype)
    return True


def small_of_targets(of: Logits, logits: Any, targets: Any, *args: Any) -> tuple[int, float]:
    """Status of a loss, and what it is, as ``entry.of_targets_in`` says."""
    found: tuple[int, float] = of.run(of.of_targets, logits, targets, *args, IF_SMALL)
    return found


def _needs_of(targets: Array, rows: Rows, softcap: float, options: Mapping[str, Any]) -> int:
    if rows is not None:
        _, _, argmax, correct, rank, _, entropy = rows
        if launch.take_more(argmax, correct, rank, entropy):
            return GENERAL
    spread = spread_of(targets.ndim == 2, options.get("label_smoothing", 0.0))
    return needs(softcap, options.get("logit_scale", 1.0), spread, options.get("weight") is not None)


_NEEDS_OF_PLAIN = (GENERAL, EVEN, SOFT)  # by the targets' dimensions, of which there are one or two


def large_of_targets(
    of: Logits,
    logits: Array,
    targets: Array,
    grad: Array | None,
    rows: Rows,
    upstream: Any,
    lse: Any,
    options: Mapping[str, Any],
) -> tuple[int, float]:
    """The same of plain arrays that are not small."""
    softcap, need = 0.0, _NEEDS_OF_PLAIN[targets.ndim]
    if options or rows is not None:  # (after a large call, every line of Python takes half a microsecond, or two)
        softcap = options.get("softcap") or 0.0
        need = _needs_of(targets, rows, softcap, options)
    way = launch.plain_way(logits, need, GRADIENTS, grad is not None and grad is not logits, softcap)
    args = logits, targets, grad, rows, upstream, lse, options
    found: tuple[int, float] = of.share(of.of_targets, of.of_targets_shared, way, *args)
    return found


def small_of_logits(of: Logits, logits: Any, fill: Any, kind: int) -> int:
    """Status of a call of the logits alone, as ``entry.of_logits_in`` says."""
    found: int = of.run(of.of_logits, logits, fill, kind, IF_SMALL)
    return found


def large_of_logits(of: Logits, logits: Array, fill: Array, kind: int) -> int:
    """The same of plain arrays that are not small."""
    writes = kind != GRADIENTS and fill is not logits
    found: int = of.share(
        of.of_logits, of.of_logits_shared, launch.plain_way(logits, EVEN, kind, writes), logits, fill, kind
    )
    return found
