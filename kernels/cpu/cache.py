"""Compiled kernels on disk: where Numba keeps them, in files of our own.

Numba's own files have an index for all types of a function, which two processes that compile at once spoil for each
other: each writes its kernel under the name that the other's index gives out. They also notice a change of the file
that a kernel stands in, but not of the files it is made of. And a file cut short raises in every process after.

Here a kernel has a file to itself, whose name says all that it depends on, and which says whether it is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import signal
import threading
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.caching import FunctionCache, NullCache
from numba.core.serialize import dumps


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


@contextlib.contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """Within, Ctrl-C waits: where llvmlite takes over machine code, it would crash the process one time in twenty."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if came:
            raise KeyboardInterrupt


class KernelCache(FunctionCache):
    """As Numba's, but for the files."""

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        stamp = repr((self._impl.locator.get_source_stamp(), _sources(), numba.__version__, llvmlite.__version__))
        self._cache_file = Files(Path(self._cache_path), self._impl.filename_base, stamp)

    def load_overload(self, *args: Any) -> Any:
        with _ctrl_c_waits():
            found = super().load_overload(*args)
        if found is None and getattr(_asked, "only_from_disk", False):
            raise NotOnDisk
        return found

    def save_overload(self, *args: Any) -> None:
        # "no compiled object yet": the kernel is there, but a Ctrl-C kept llvmlite from handing over its bytes.
        with contextlib.suppress(RuntimeError):
            super().save_overload(*args)


class Files:
    """A file for each key, all of them made from the same source, which `stamp` stands for."""

    def __init__(self, folder: Path, base: str, stamp: str) -> None:
        self.folder, self.base, self.stamp = folder, base, stamp
        self.prefix = f"{base}.{_digest(stamp.encode()).hex()[:12]}."

    def load(self, key: Any) -> Any:
        """What was saved, or None where nothing was, or where the file is damaged."""
        try:
            content = self._path(key).read_bytes()
        except OSError:
            return None
        digest, data = content[:32], content[32:]
        return pickle.loads(data) if digest == _digest(data) else None

    def save(self, key: Any, value: Any) -> None:
        """Save, all or nothing; a full disk, or one that has become read-only, costs the next process a compilation."""
        data = dumps(value)
        path = self._path(key)
        with contextlib.suppress(OSError):
            made = path.with_suffix(f".{uuid.uuid4().hex[:12]}.tmp")
            try:
                made.write_bytes(_digest(data) + data)
                made.replace(path)
            finally:
                made.unlink(missing_ok=True)
            self._remove_old()

    def flush(self) -> None:
        """Forget everything: Numba's `recompile` asks for it."""
        for path in self.folder.glob(f"{self.base}.*.nbc"):
            with contextlib.suppress(OSError):
                path.unlink()

    def _path(self, key: Any) -> Path:
        return self.folder / f"{self.prefix}{_digest(repr(key).encode()).hex()[:24]}.nbc"

    def _remove_old(self) -> None:
        """Remove what was compiled from another source."""
        for path in self.folder.glob(f"{self.base}.*.nbc"):
            if not path.name.startswith(self.prefix):
                with contextlib.suppress(OSError):
                    path.unlink()


def keep_on_disk(dispatcher: Any, function: Any) -> None:
    """Let Numba keep what it compiles of a function, if there is a folder for it: `info` tells which, or none."""
    try:
        dispatcher._cache = KernelCache(function)
    except RuntimeError:  # neither the folder of this file nor one of the user's can be written
        dispatcher._cache = NullCache()


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@cache
def _sources() -> str:
    """Digest of all the files that kernels are made of (of none in a zip file, which has a stamp as a whole)."""
    here = Path(__file__).parent
    files = [*sorted(here.glob("*.py")), here.parent / "formats.py"]
    return _digest(b"".join(path.read_bytes() for path in files if path.exists())).hex()
