"""Which kernel computes what: asked by Python and by machine code alike."""

from __future__ import annotations

from .call import EVEN, GENERAL, SOFT
from .narrow import MAX_CLASSES, MOST_WIDE

# The regimes: rows one by one; a row a lane; chunks of rows, all of which are looked at before all rows are finished
# and the gradients of all chunks written; and, where that is another, a row a lane of wider vectors.
ROWS, LANES, LOOK, FEW, FINISH, WRITE = range(6)
REGIMES = (ROWS, LANES, LOOK, FEW) if MOST_WIDE > 0 else (ROWS, LANES, LOOK)

# The most classes of rows that have a lane each, by what they need.
MOST_LANES = tuple({GENERAL: MAX_CLASSES, EVEN: 96, SOFT: 56}[need] for need in (GENERAL, EVEN, SOFT))


def regime_of(n_rows: int, n_classes: int, need: int = EVEN) -> int:
    """That of whole rows: one by one, or a lane each. Nanoseconds a row, one thread, loss and gradient, in the cache:

    classes                       64   100   128
    a lane each                   36    59    73
    one by one, by short.py       36    52    57
    one by one, with options      70    84    95

    And with probability targets (a Zen 4, past its second-level cache):

    classes                       17    32    48    64    80
    a lane each                   24    32    42    52    65
    one by one, by short.py       39    39    44    51    60

    (Out of the cache, 100 classes on two threads, 47 and 39.) With fewer rows than lanes, most lanes do nothing. A lane
    each takes any layout, of which the others need a copy: 96 classes that lie first, on two threads, 81 and 265. The
    same bits in any layout mean the same way, so that short.py begins a little late.
    """
    if n_classes <= MOST_WIDE:
        return FEW
    if n_classes <= 16 or (n_classes <= MOST_LANES[need] and n_rows >= 8):
        return LANES
    return ROWS


def size_of_work(n_rows: int, n_classes: int) -> int:
    """In elements: a row costs as many as ten, whatever its classes.

    (Of one class or two, a row takes 5 to 6 nanoseconds, of 1,000 classes an element .4.)
    """
    return n_rows * (n_classes + 10)
