"""How every CPU kernel is compiled: the one home of Numba's options.

No ``fastmath``: the vectors of ``simd.py`` say what is reordered or fused, so that NaN and infinity keep their meaning
and the result keeps its bits from machine to machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit, types
from numba.core.ccallback import CFunc
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler

from .cache import keep_on_disk

F = TypeVar("F", bound=Callable[..., Any])

_COMMON: dict[str, Any] = {"error_model": "numpy", "nogil": True}


class _Linked(JITCodeLibrary):
    """A function that becomes part of the machine code of whoever calls it: it needs none of its own.

    Numba would make some all the same, of each function and all that it calls, again and again on the way up to the
    kernel (a Zen 3: 80 seconds for a type, in place of 73).
    """

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        return 0

    @property
    def codegen(self) -> Any:
        return self

    def set_env(self, name: str, env: object) -> None:
        """Where the function finds Python objects: it has none."""


class _Inner(Compiler):
    """Numba's compiler, of functions that are only called by compiled ones."""

    def __init__(self, typing_context: Any, target_context: Any, library: Any, *args: Any) -> None:
        super().__init__(typing_context, target_context, library, *args)
        self.state.library = _Linked(target_context.codegen(), "linked")


# Functions that are only called by compiled ones need no way in from Python (saves a fifth of the time to compile).
_INNER: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, **_COMMON}


def inline(function: F) -> F:
    """Part of a hot loop: becomes part of whoever calls it."""
    compiled: F = njit(forceinline=True, **_INNER)(function)
    return compiled


def device(function: F) -> F:
    """A step of a kernel, compiled once and called."""
    # (forceinline said outright, because a function first called from an inline one would inherit that)
    # (_Inner for these alone: for inline functions too, 60 seconds to compile, but rows of 10 classes take 6 % longer.
    # LLVM changes functions as it makes machine code of them, and callers are made of what it leaves.)
    compiled: F = njit(forceinline=False, pipeline_class=_Inner, **_INNER)(function)
    return compiled


def serial(function: F) -> F:
    """A kernel called from Python, kept on disk between processes."""
    compiled: F = njit(**_COMMON)(function)
    keep_on_disk(compiled, function)
    return compiled


def parallel(function: F) -> F:
    """As ``serial``, its ``prange`` loops shared by Numba's threads."""
    compiled: F = njit(parallel=True, **_COMMON)(function)
    keep_on_disk(compiled, function)
    return compiled


def work(function: Callable[..., None]) -> Any:
    """Machine code reached by address, kept on disk: of two addresses and three numbers, see ``kernels.py``."""
    compiled = CFunc(function, ([types.int64] * 5, types.void), {}, {"error_model": "numpy"})
    keep_on_disk(compiled, function)
    compiled.compile()
    return compiled
