"""Sets of lanes: a slice, or an array of numbers in ascending order."""

import numpy as np


def count(lanes):
    return lanes.stop - lanes.start if isinstance(lanes, slice) else len(lanes)


def compact(numbers):
    """A slice, if the lanes are next to each other: NumPy then copies nothing."""
    if len(numbers) and numbers[-1] - numbers[0] + 1 == len(numbers):
        return slice(int(numbers[0]), int(numbers[-1]) + 1)
    return numbers


def select(lanes, mask):
    """Those of the lanes for which the mask is true."""
    mask = np.broadcast_to(mask, count(lanes))
    if mask.all():
        return lanes
    return np.flatnonzero(mask) + lanes.start if isinstance(lanes, slice) else lanes[mask]


def whole_warps(lanes):
    """Whether the set has all 32 lanes of each of its warps."""
    if isinstance(lanes, slice):
        return lanes.start % 32 == 0 and lanes.stop % 32 == 0
    return len(lanes) % 32 == 0 and bool((lanes.reshape(-1, 32) % 32 == np.arange(32)).all())


def to_words(mask):
    """A mask of all lanes as one word for each warp."""
    return np.packbits(mask.reshape(-1, 32), axis=1, bitorder="little").view(np.uint32)[:, 0]
