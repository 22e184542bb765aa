"""Which warps go on. Within a warp, the lanes with the lowest program counter do, so that they wait for the others.

A kernel must give the same under every schedule: nothing tells a program which of its warps comes first.
"""

import numpy as np


class Lockstep:
    """All warps go on together."""

    burst = None  # instructions until the choice is made anew; None: as long as nobody waits or branches

    def choose(self, runnable):
        """Give those to run, of a mask of warps x blocks."""
        return runnable

    def blocks(self, numbers):
        return numbers


class WarpSerial(Lockstep):
    """The first warp of a block runs until it must wait, then the second."""

    def choose(self, runnable):
        return self._first(runnable, np.arange(len(runnable)))

    def _first(self, runnable, order):
        first = np.argmax(runnable[order], axis=0)
        return runnable & (order[first] == np.arange(len(runnable))[:, np.newaxis])


class WarpReverse(WarpSerial):
    """The last warp runs first, and the last block."""

    def choose(self, runnable):
        return self._first(runnable, np.arange(len(runnable))[::-1])

    def blocks(self, numbers):
        return numbers[::-1]


class Random(WarpSerial):
    """Some warp runs for a while, then some other."""

    def __init__(self, seed=0):
        self.random = np.random.default_rng(seed)

    def choose(self, runnable):
        self.burst = int(self.random.geometric(1 / 16))
        return self._first(runnable, self.random.permutation(len(runnable)))

    def blocks(self, numbers):
        return self.random.permutation(numbers)


SCHEDULES = {"lockstep": Lockstep, "warp-serial": WarpSerial, "warp-reverse": WarpReverse, "random": Random}
