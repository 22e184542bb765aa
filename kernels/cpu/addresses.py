"""Where to read and write, so that no load is taken for one of what has just been stored.

A processor that is about to load tells whether an earlier store, still on its way, was to the same place by the last 12
bits of the two addresses alone. If these meet, the load waits: loops whose rows lie a multiple of 4,096 bytes apart,
or whose arrays do, as NumPy's usually do, take up to twice as long. (By how much they must differ: on a Zen 4 128 bytes
are enough, on an Emerald Rapids 512.)
"""

from __future__ import annotations

from .compile import inline
from .pointers import advance, bytes_from, item_bytes, until_aligned
from .simd import lanes

PAGE = 4096  # bytes: what lies so far apart is taken for the same place
GAP = 512  # bytes that are far enough
SPARE = PAGE + 4 * GAP  # bytes that ``at_a_distance`` may take of a room


@inline
def _is_near(x, g):
    """Whether stores to ``g`` are soon followed by loads from there, where those from ``x`` go on as they do."""
    return (bytes_from(x, g) + GAP // 4) & (PAGE - 1) < GAP


@inline
def in_order(x, g, begin, end):
    """Where to begin with the whole vectors from ``begin`` to ``end``, and how far each is from the one before.

    From the last to the first, where vectors of ``x`` are soon read from where one of ``g`` has just been written, that
    of the same classes. (4,096 classes, one thread of an Emerald Rapids, nanoseconds an element by how many bytes more
    than a multiple of 4,096 ``g`` lies behind ``x``: 16 to 80 1.25, 128 .83, 256 .63, from 512 on .53; in this order
    .55, after 16 .64. NumPy's arrays lie like that, 16 apart, where their memory was in use before.)
    """
    width, further = lanes(x), bytes_from(x, g) & (PAGE - 1)
    return (end - width, -width) if 0 < further < GAP else (begin, width)


@inline
def lead_of(x, ahead, g, least):
    """How many classes further the gradient ``g`` of a row is than the sums of another, ``x``, beside it.

    That is ``least``, or as many more as it takes to write at a distance from what the sums read, and what is scanned
    for them, ``ahead``. (Zen 4, two threads, milliseconds with and without: 32,000 x 1,024 10.8 and 7.5, 32,000 x 1,032
    13.2 and 9.0, 16,000 x 2,048 10.6 and 6.9, 64,000 x 512 11.3 and 8.2, 8,192 x 4,096 10.4 and 6.9.)
    """
    lead = least
    for _ in range(2):
        at = advance(g, lead * item_bytes(g))
        if _is_near(x, at) or _is_near(ahead, at):
            lead += GAP // item_bytes(g)
    return lead


@inline
def at_a_distance(room, x, g):
    """A place for whole vectors in ``room``, up to ``SPARE`` bytes further, whose stores and loads keep away from both.

    (What is kept there is read and written beside them. Where rows are a multiple of 4,096 bytes apart, so it remains:
    16,000 x 2,048 17.1 or 10.6 ms, from process to process, 7 everywhere else.)
    """
    room = advance(room, until_aligned(room) * item_bytes(room))
    room = advance(room, (bytes_from(room, x) + PAGE // 2) & (PAGE - 64))
    return advance(room, PAGE // 4) if _is_near(g, room) or _is_near(room, g) else room
