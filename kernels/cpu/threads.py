"""When Numba's threads may be used, and what to do where they may not.

Two things end a process, and both happen to people who did nothing wrong: two Python threads that enter parallel
kernels at once under the threading layer "workqueue", and a forked child that enters one after its parent did under GNU
OpenMP. The serial kernel gives the same bits, so that is what runs then.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import numba
from numba.np.ufunc import parallel as numba_pool

_CONCURRENT_LAYERS = ("tbb", "omp")  # several Python threads may enter parallel kernels at once

_entry = threading.Lock()
concurrent = False  # whether the layer is known to be one of these
_forked = False  # whether the threads were started in a parent of this process


def available() -> int:
    """How many threads a parallel kernel would have; 1 where it must not be entered."""
    if _forked:
        return 1
    if numba_pool._is_initialized:  # get_num_threads takes a lock shared with all forked children, to start threads
        return int(numba_pool._get_num_threads())
    return int(numba.get_num_threads())


def run(shared: Callable[..., Any], alone: Callable[..., Any], *args: Any) -> Any:
    """Give ``shared(*args)``; or ``alone(*args)`` where another thread is in a kernel and must be the only one."""
    global concurrent
    if concurrent:
        return shared(*args)
    if not _entry.acquire(blocking=False):
        return alone(*args)
    try:
        result = shared(*args)
        concurrent = numba.threading_layer() in _CONCURRENT_LAYERS
        return result
    finally:
        _entry.release()


def _after_fork() -> None:
    global _entry, _forked, concurrent
    _entry = threading.Lock()
    concurrent = False
    _forked = _forked or bool(numba_pool._is_initialized)


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_after_fork)
