"""What a launch did: instructions, bytes, sectors of global memory, turns of shared memory, coverage."""

from dataclasses import dataclass, field

import numpy as np

BANKS = 32  # of 4 bytes each


@dataclass
class Traffic:
    requests: int = 0  # accesses by a warp
    bytes: int = 0
    sectors: int = 0  # of global memory: distinct blocks of 32 bytes, for each request
    turns: int = 0  # of shared memory: a bank gives one word a turn
    conflicts: int = 0  # turns beyond those that any access of that many bytes needs

    def __iadd__(self, other):
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self


@dataclass
class Counters:
    kernel: object
    issued: np.ndarray = field(init=False)  # for each instruction of the kernel: by how many threads
    effective: np.ndarray = field(
        init=False
    )  # the same without those whose guard was false; for a branch, those that took it
    true: np.ndarray = field(init=False)  # for each comparison: for how many threads it held
    traffic: dict = field(init=False)  # ("global" or "shared", "load" or "store") -> Traffic

    def __post_init__(self):
        self.issued, self.effective, self.true = np.zeros((3, len(self.kernel.instructions)), np.int64)
        self.traffic = {(space, way): Traffic() for space in ("global", "shared") for way in ("load", "store")}

    @property
    def instructions(self):
        """Thread-instructions in all."""
        return int(self.issued.sum())

    def by_opcode(self):
        counts = {}
        for instruction, n in zip(self.kernel.instructions, self.issued, strict=True):
            counts[instruction.name] = counts.get(instruction.name, 0) + int(n)
        return dict(sorted(counts.items(), key=lambda item: -item[1]))

    def uncovered(self):
        """The instructions that no thread executed, as line and text."""
        kernel = self.kernel
        return [
            (instruction.line, kernel.text(instruction))
            for instruction in kernel.instructions
            if not (self.issued if instruction.opcode == "bra" else self.effective)[instruction.index]
        ]

    def __iadd__(self, other):
        """Add another launch of the same kernel."""
        assert self.kernel.lines == other.kernel.lines
        self.issued += other.issued
        self.effective += other.effective
        self.true += other.true
        for key, traffic in other.traffic.items():
            self.traffic[key] += traffic
        return self

    def count_access(self, space, way, warp, lane, addresses, size):
        """Count an access by threads in ascending order."""
        traffic = self.traffic[space, way]
        traffic.requests += 1 + int(np.count_nonzero(warp[1:] != warp[:-1]))
        traffic.bytes += len(warp) * size
        if space == "global":
            traffic.sectors += count_distinct(warp, addresses >> addresses.dtype.type(5))
        else:
            turns, fewest = count_turns(warp, lane, addresses.astype(np.int64), size)
            traffic.turns += turns
            traffic.conflicts += turns - fewest


def count_distinct(group, key):
    """How many distinct keys there are in each group, added up; groups are in ascending order."""
    same_group = group[1:] == group[:-1]
    if (same_group & (key[1:] < key[:-1])).any():
        order = np.lexsort((key, group))
        group, key = group[order], key[order]
        same_group = group[1:] == group[:-1]
    return 1 + int(np.count_nonzero(~same_group | (key[1:] != key[:-1])))


def count_turns(warp, lane, addresses, size):
    """Turns of shared memory, and the fewest there could be.

    8-byte accesses are served by half-warps, 16-byte accesses by quarter-warps. In a turn each bank gives one word to
    however many lanes want it.
    """
    parts = max(1, size // 4)
    group = warp * parts + lane * parts // 32
    starts = np.flatnonzero(np.concatenate(([True], group[1:] != group[:-1])))
    word = addresses // 4
    span = np.maximum.reduceat(word, starts) + parts - np.minimum.reduceat(word, starts)
    if (span <= BANKS).all():
        return len(starts), len(starts)
    words = (word[:, np.newaxis] + np.arange(parts)).ravel()
    keys = np.unique(np.stack([np.repeat(group, parts), words]), axis=1)
    banks = keys[0] * BANKS + keys[1] % BANKS
    banks, counts = np.unique(banks, return_counts=True)
    group = banks // BANKS
    starts = np.flatnonzero(np.concatenate(([True], group[1:] != group[:-1])))
    return int(np.maximum.reduceat(counts, starts).sum()), len(starts)
