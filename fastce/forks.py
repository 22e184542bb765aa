"""A fork waits until no other thread is in a first call: importing the kernels, compiling, starting threads.

A forked child has only the thread that forked. A lock that another thread held stays locked there for ever, and the
child's first call would wait for it: for the lock of a module being imported, or for Numba's, while it compiles.
"""

from __future__ import annotations

import logging  # noqa: F401 (see below)
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

importing = threading.RLock()  # held while the kernels, and Numba with them, are imported

# Locks of what is imported late: module, and the way to the lock from there. In the order in which they are taken:
# compiling a parallel loop starts the threads, and everything speaks to LLVM.
_LATE_LOCKS = (
    ("numba.core.compiler_lock", "global_compiler_lock"),
    ("numba.np.ufunc.parallel", "_backend_init_thread_lock"),
    ("llvmlite.binding.ffi", "lib._lock._lock"),
)

_held: list[Any] = []


def _locks() -> Iterator[Any]:
    yield importing
    for module, way in _LATE_LOCKS:  # looked up when nobody imports them
        lock: Any = sys.modules.get(module)
        for name in way.split("."):
            lock = getattr(lock, name, None)
        if lock is not None:
            yield lock


def _before_fork() -> None:
    for lock in _locks():
        lock.acquire()
        _held.append(lock)


def _after_fork() -> None:
    held = _held[::-1]
    _held.clear()  # before the first lock is released, and the next thread forks
    for lock in held:
        lock.release()


def _after_fork_in_child() -> None:
    _after_fork()
    # Numba starts threads under a lock that is shared by processes. How often this one holds it is a number in its
    # memory, now a copy of the parent's: with 1 in place of 0, it would never let go of it.
    pool: Any = sys.modules.get("numba.np.ufunc.parallel")
    semaphore = getattr(getattr(pool, "_backend_init_process_lock", None), "_semlock", None)
    if semaphore is not None:
        semaphore._after_fork()


# The last to register is the first to lock, so `logging` must have registered before: it locks as well, and whoever
# compiles logs. The other way round, that thread and this one would wait for each other.
if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
