"""Races: two threads use the same memory, one of them writes, and nothing orders the two.

Threads are ordered by what they wait for together. bar.sync orders all threads of a block: each block counts its
barriers. bar.warp.sync over all lanes of a warp orders these: each warp counts those. A thread's clock is both counts
(one number, the block's in the upper half), and an access is ordered before a later one of another thread if

- both are of one warp, and the clock has advanced, or
- both are of one block, and the block's count has advanced.

Blocks are never ordered among each other, nor are shuffles and votes taken to order memory: the manual does not say so.
For each unit of memory we keep the last writer and, of the readers that nothing orders before the last of them, the
lowest and the highest thread: one thread, one warp, one block, or several, which is all that a later write must know.
"""

import numpy as np

NOBODY = -1
ABOVE_ALL = np.int64(2**62)


class Shadow:
    """Who used each unit of a segment since the launch began."""

    def __init__(self, n_units, threads_per_block):
        self.writer = np.full(n_units, NOBODY, np.int64)
        self.written = np.zeros(n_units, np.int64)  # the writer's clock
        self.first = np.full(n_units, NOBODY, np.int64)
        self.last = np.full(n_units, NOBODY, np.int64)
        self.read = np.zeros(n_units, np.int64)  # a reader's clock
        self.threads_per_block = threads_per_block  # with those that fill up the last warp

    def load(self, units, thread, clock):
        """Note reads; give a mask of those that race, or None."""
        writer = self.writer[units]
        race = self._unordered(writer, writer, self.written[units], thread, clock)
        first, last = self.first[units], self.last[units]
        fresh = first == NOBODY
        if not fresh.all():
            fresh |= self._ordered(first, last, self.read[units], thread, clock)
            first = np.where(fresh, thread, np.minimum(first, thread))
            last = np.where(fresh, thread, np.maximum(last, thread))
        else:
            first = last = thread
        self.first[units] = thread
        if (self.first[units] == thread).all():
            self.first[units], self.last[units] = first, last
        else:  # several threads read the same unit at once
            self.first[units], self.last[units] = ABOVE_ALL, NOBODY
            np.minimum.at(self.first, units, first)
            np.maximum.at(self.last, units, last)
        self.read[units] = clock
        return race

    def store(self, units, thread, clock):
        """Note writes; give a mask of those that race, or None."""
        writer = self.writer[units]
        race = self._unordered(writer, writer, self.written[units], thread, clock)
        readers = self._unordered(self.first[units], self.last[units], self.read[units], thread, clock)
        self.writer[units] = thread
        together = self.writer[units] != thread  # another lane of the same instruction wrote after this one
        self.written[units] = clock
        for more in (readers, together if together.any() else None):
            if more is not None:
                race = more if race is None else race | more
        return race

    def _unordered(self, first, last, then, thread, now):
        others = (first != NOBODY) & ((first != thread) | (last != thread))
        if not others.any():
            return None
        race = others & ~self._ordered(first, last, then, thread, now)
        return race if race.any() else None

    def _ordered(self, first, last, then, thread, now):
        n = self.threads_per_block
        one_block = (first // n == thread // n) & (last // n == thread // n)
        one_warp = (first >> 5 == thread >> 5) & (last >> 5 == thread >> 5)
        one_thread = (first == thread) & (last == thread)
        return one_thread | (one_warp & (then < now)) | (one_block & (then >> 32 < now >> 32))
