"""Timing on a GPU: by its own events, with a cold cache, interleaved as on the CPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from importlib import import_module

from .timing import Race

Call = Callable[[], object]
LEAST_BYTES = 1 << 29  # written between calls
HEAD_START = 2e-3  # seconds of such writing, in which Python launches the kernels of a call: some take it 0.8 ms


class Stopwatch:
    """Seconds that a call takes the GPU, whose level-2 cache holds something else before."""

    def __init__(self) -> None:
        cupy = import_module("cupy")
        cuda = cupy.cuda
        cache = cuda.Device().attributes["L2CacheSize"]
        self._other = cupy.empty(max(LEAST_BYTES, 4 * cache), "u1")
        self._start, self._end = cuda.Event(), cuda.Event()
        self._elapsed = cuda.get_elapsed_time
        self._times = 1
        self._times = math.ceil(HEAD_START / min(self(self._write) for _ in range(3)))

    def _write(self) -> None:
        self._other.fill(0)

    def __call__(self, call: Call) -> float:
        """Time one call, from when the GPU begins with it."""
        for _ in range(self._times):
            self._write()
        self._start.record()
        call()
        self._end.record()
        self._end.synchronize()
        seconds: float = self._elapsed(self._start, self._end) / 1e3
        return seconds


class ColdRace(Race):
    """Laps of single calls, each timed by itself."""

    most_repeats = 1

    def __init__(self, calls: Mapping[str, Call], stopwatch: Callable[[Call], float], budget: float) -> None:
        self._stopwatch = stopwatch
        super().__init__(calls, budget)

    def settle(self, name: str) -> None:
        """Nothing: what was computed before is over, and the cache is to be cold."""

    def measure(self, call: Call, repeats: int) -> float:
        """Seconds of one call, the mean of some."""
        return sum(self._stopwatch(call) for _ in range(repeats)) / repeats
