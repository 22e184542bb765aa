"""Interleaved timing: each round has one lap of each contender, so that a slow moment of the machine meets all."""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

LAP = 0.005  # seconds that one lap should last at least: calls shorter than that are repeated within the lap
MIN_ROUNDS = 9
MAX_ROUNDS = 31
PAUSE = 0.005  # seconds before a lap: OpenMP threads of the contender before keep spinning for some milliseconds
SHORT = 0.05  # seconds; a contender faster than this is called once, untimed, before its lap, to fill the caches again


class Race:
    """Laps of several callables.

    A lap is one call, or as many calls as take `LAP` seconds; its time is that of one call, Python included. There
    are at least nine rounds, and up to 31 as far as `budget` seconds allow.

    Attributes
    ----------
    names : list of str
        The contenders.
    repeats : dict
        Calls within one lap, by contender.
    rounds : int
        How many rounds the race has.
    seconds : dict
        Seconds of one call in each round so far, by contender.
    """

    most_repeats = sys.maxsize

    def __init__(self, calls: Mapping[str, Callable[[], object]], budget: float = 1.0) -> None:
        self._calls = dict(calls)
        self.names = list(self._calls)
        guess = {name: self.measure(call, 1) for name, call in self._calls.items()}
        for name, call in self._calls.items():
            if guess[name] < LAP:  # one call of a few microseconds says little: measure a few
                guess[name] = min(self.measure(call, 5) for _ in range(3))
        wanted = {name: max(1, math.ceil(LAP / max(guess[name], 1e-9))) for name in self.names}
        self.repeats = {name: min(n, self.most_repeats) for name, n in wanted.items()}
        one_round = sum(guess[name] * self.repeats[name] + PAUSE for name in self.names)
        self.rounds = min(MAX_ROUNDS, max(MIN_ROUNDS, int(budget / one_round)))
        self._short = {name for name in self.names if guess[name] < SHORT}
        self.seconds: dict[str, list[float]] = {name: [] for name in self.names}

    def settle(self, name: str) -> None:
        """Let the threads of the contender before come to rest, and warm the caches for a short call."""
        time.sleep(PAUSE)
        if name in self._short:
            self._calls[name]()

    def lap(self, name: str) -> None:
        """Time one lap of one contender."""
        self.seconds[name].append(self.measure(self._calls[name], self.repeats[name]))

    def measure(self, call: Callable[[], object], repeats: int) -> float:
        """Seconds of one call, from `repeats` calls in a row."""
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        return (time.perf_counter() - start) / repeats

    def run(self) -> None:
        """Run all rounds; each begins with another contender, so that nobody always follows the same one."""
        with no_collection():
            for i in range(self.rounds):
                first = i % len(self.names)
                for name in self.names[first:] + self.names[:first]:
                    self.settle(name)
                    self.lap(name)


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep Python's garbage collector out of the laps."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
