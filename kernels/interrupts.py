"""Ctrl-C while kernels are compiled.

Neither Numba nor llvmlite stands an exception between any two of its steps: of a hundred interrupts of a process that
compiled, one or two ended it (LLVM freed a module twice) or left a function that could not be compiled any more. So
Ctrl-C waits for the next function to be compiled, where an exception is to Numba one more reason why that fails.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

_handler: Callable[..., Any] | None = None  # what waits to be called, within `deferred`
_came = False


def _note(number: int, frame: Any) -> None:
    global _came
    _came = True


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Within, what the main thread does at Ctrl-C waits for `deliver`, or for the end."""
    global _handler, _came
    handler = signal.getsignal(signal.SIGINT)
    # (what is not Python's does not interrupt it)
    if not _in_main_thread() or _handler is not None or not callable(handler):
        yield
        return
    _handler, _came = handler, False
    signal.signal(signal.SIGINT, _note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        _handler = None
        if _came:
            handler(signal.SIGINT, None)


def deliver() -> None:
    """Do now what waits for that, if anything does."""
    global _came
    if _came and _handler is not None and _in_main_thread():
        _came = False
        _handler(signal.SIGINT, None)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
