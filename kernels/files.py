"""Files on disk for what was compiled: one for each key, whose name says all that it depends on.

A file says whether it is whole, is written all or nothing, and is never in the way of another process.
"""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import uuid
from functools import cache
from pathlib import Path
from typing import Any

from numba.core.serialize import dumps


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


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@cache
def digest_of_sources(folder: Path) -> str:
    """Digest of all that a folder's kernels are made of (of nothing in a zip file, which has a stamp as a whole)."""
    shared = [folder.parent / name for name in ("formats.py", "operators.py", "task.py")]
    files = [*sorted(folder.glob("*.py")), *shared]
    return _digest(b"".join(path.read_bytes() for path in files if path.exists())).hex()
