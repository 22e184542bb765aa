"""How every CPU kernel is compiled: the one home of Numba's options.

No ``fastmath``: the vectors of ``simd.py`` say what is reordered or fused, so that NaN and infinity keep their meaning
and no result depends on what a compiler makes of a loop.

A whole number that a loop starts with is said to be one, ``np.int64(0)``: a ``0`` is of a type of its own, for which
Numba compiles all that the loop calls, until it finds at its end that the variable is of another (rows one by one, on a
Zen 4: 46 seconds in place of 63).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from numba import njit, types
from numba.core.ccallback import CFunc

from .. import interrupts
from .cache import keep_on_disk
from .parts import DeviceCompiler, InlineCompiler

F = TypeVar("F", bound=Callable[..., Any])

# Functions that are only called by compiled ones need no way in from Python (saves a fifth of the time to compile).
_INNER: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "error_model": "numpy"}


def inline(function: F) -> F:
    """Part of a hot loop: becomes part of whoever calls it."""
    compiled: F = njit(forceinline=True, pipeline_class=InlineCompiler, **_INNER)(function)
    return compiled


def device(function: F) -> F:
    """A step of a kernel, compiled once and called."""
    # (said outright, because a function first called from an inline one would inherit that)
    compiled: F = njit(forceinline=False, pipeline_class=DeviceCompiler, **_INNER)(function)
    return compiled


kept: list[Any] = []  # what Numba's dispatchers keep on disk


def _keep(compiled: Any, function: Callable[..., Any]) -> None:
    """Let Numba keep on disk what it compiles of a function, where Ctrl-C does no harm."""
    keep_on_disk(compiled, function)
    compiled.compile = interrupts.deferred()(compiled.compile)


def _kept(function: Callable[..., Any], **options: Any) -> Any:
    """A dispatcher that keeps what it compiles on disk between processes."""
    compiled = njit(error_model="numpy", **options)(function)
    _keep(compiled, function)
    kept.append(compiled)
    return compiled


def serial(function: F) -> F:
    """A kernel called from Python, kept on disk between processes."""
    compiled: F = _kept(function, nogil=True)
    return compiled


def parallel(function: F) -> F:
    """As ``serial``, its ``prange`` loops shared by Numba's threads."""
    compiled: F = _kept(function, nogil=True, parallel=True)
    return compiled


def from_objects(signature: Any) -> Callable[[Callable[..., Any]], Callable[[], Any]]:
    """A kernel called from Python with objects that it reads itself (``objects.py``), kept on disk.

    Gives what gives the function to call, as compiled for that signature: Numba's own way in would look at what the
    arguments are, in order to choose.
    """

    def decorate(function: Callable[..., Any]) -> Callable[[], Any]:
        compiled = _kept(function)

        @cache
        def ready() -> Any:
            compiled.compile(signature)
            (overload,) = compiled.overloads.values()
            return overload.entry_point

        return ready

    return decorate


def work(function: Callable[..., None]) -> Any:
    """Machine code reached by address, kept on disk: of two addresses and three numbers, see ``kernels.py``."""
    compiled = CFunc(function, ([types.int64] * 5, types.void), {}, {"error_model": "numpy"})
    _keep(compiled, function)
    compiled.compile()
    return compiled
