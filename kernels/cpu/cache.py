"""Compiled kernels on disk: where Numba keeps them, in files of our own.

Numba's own files have an index for all types of a function, which two processes that compile at once spoil for each
other: each writes its kernel under the name that the other's index gives out. They also notice a change of the file
that a kernel stands in, but not of the files it is made of. And a file cut short raises in every process after.

Here a kernel has a file to itself, whose name says all that it depends on, and which says whether it is whole.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.caching import FunctionCache, NullCache

from ..files import Files, digest_of_sources

_HERE = Path(__file__).parent


class NotOnDisk(Exception):
    """A kernel would have to be compiled, see `only_from_disk`."""


_asked = threading.local()


@contextlib.contextmanager
def only_from_disk() -> Iterator[None]:
    """Within, what would have this thread compile a kernel raises NotOnDisk."""
    _asked.only_from_disk = True
    try:
        yield
    finally:
        _asked.only_from_disk = False


class KernelCache(FunctionCache):
    """As Numba's, but for the files."""

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        stamp = repr(
            (self._impl.locator.get_source_stamp(), digest_of_sources(_HERE), numba.__version__, llvmlite.__version__)
        )
        self._cache_file = Files(Path(self._cache_path), self._impl.filename_base, stamp)

    def load_overload(self, *args: Any) -> Any:
        found = super().load_overload(*args)
        if found is None and getattr(_asked, "only_from_disk", False):
            raise NotOnDisk
        return found


def keep_on_disk(dispatcher: Any, function: Any) -> None:
    """Let Numba keep what it compiles of a function, if there is a folder for it: `info` tells which, or none."""
    try:
        dispatcher._cache = KernelCache(function)
    except RuntimeError:  # neither the folder of this file nor one of the user's can be written
        dispatcher._cache = NullCache()
