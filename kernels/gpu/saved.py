"""Machine code of kernels, kept on disk as that for the CPU is: a process compiles only what none before it did.

Neither Numba's cache nor CuPy's would do: the one is part of Numba's own launches, which take Numba's arrays and the
driver's context, the other of CuPy's compiler of C.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import llvmlite
import numba_cuda
from cuda.bindings import nvjitlink, nvvm
from numba.core.caching import CompileResultCacheImpl

from .. import interrupts
from ..files import Files, digest_of_sources
from .compile import entry_of, to_machine_code, to_ptx
from .kernels import Kernel


class Code(NamedTuple):
    """What a module is loaded from, and the name of the kernel in it."""

    machine: bytes
    entry: str


def code_of(kernel: Kernel, capability: tuple[int, int]) -> Code:
    """Give a kernel for devices of a compute capability: from disk, or compiled and then saved."""
    files, key = _files(), (kernel.name, capability)
    found = files.load(key) if files else None
    if found is None:
        with interrupts.deferred():
            ptx = to_ptx(kernel.function, kernel.signature, capability, kernel.threads, kernel.blocks_on(capability))
        machine, _ = to_machine_code(ptx, capability)
        found = machine, entry_of(ptx)
        if files:
            files.save(key, found)
    return Code(*found)


@cache
def _files() -> Files | None:
    """Where Numba would keep them; None if there is no such folder: see `kernels/cpu/cache.py`."""
    try:
        place = CompileResultCacheImpl(code_of)
        place.locator.ensure_cache_path()
    except (RuntimeError, OSError):
        return None
    versions = numba_cuda.__version__, llvmlite.__version__, nvvm.version(), nvjitlink.version()
    stamp = repr((place.locator.get_source_stamp(), digest_of_sources(Path(__file__).parent), versions))
    return Files(Path(place.locator.get_cache_path()), place.filename_base, stamp)
