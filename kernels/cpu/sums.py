"""The passes over a row's classes that its loss follows from: the largest logit, and the sum of all powers.

The largest class is left out of the sum: of a row that is sure of one class, what matters is all the others, and next
to 1 they would be rounded away. It is left out by its value, equals too, which are counted: no loop needs to know where
it is, nor where the target is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..task import LOG_SOFTMAX
from .call import FETCH, GRADIENT, KIND, NONE, PROBABILITIES, SMOOTHED, is_streamed, options_of
from .compile import device, inline
from .element import soft_weights, spread_weights, value
from .folds import counted, fold_add, fold_larger, fold_powers, fold_times
from .maths import constants, parts_above, tanh, tanh_beside, tanh_near
from .pointers import (
    advance,
    at_once,
    bytes_from,
    item_bytes,
    lane_buffer,
    load,
    load_like,
    load_part,
    prefetch,
    prefetch_write,
    store,
    store_part,
)
from .simd import (
    AT_ONCE,
    FLOATS,
    SEVERAL,
    abreast,
    apart,
    count_true,
    fma,
    iota,
    lanes,
    largest,
    power_of_two,
    rounded,
    total,
    where,
    widen,
    zeros,
    zeros64,
)
from .table import far

CHUNK = 4096  # classes a chunk: 16 KiB of float32, so that what is read for the maximum is still in L1 for the sum
BLOCK = 16 * FLOATS  # classes summed in the arithmetic type before the sums go to float64: at most 17 roundings a lane
# As many where four vectors at once are added up two and two first (a Zen 3: 1 to 4 % of 1,000 classes and more).
EVEN_BLOCK = 12 * AT_ONCE // 4 if SEVERAL else BLOCK
WRITE_AHEAD = 512  # elements between what is written and what is fetched to be written
VALUES = 2 * BLOCK // FLOATS  # vectors of a block's v, of the type that has the fewest lanes


# What the sums keep of the powers for the gradient: both parts, or ``r`` alone, where that is going to be written.
NOTHING, BOTH, REST = 0, 1, 2


class Shift(NamedTuple):
    """What the powers of a row take, each a number or a vector of it: see ``maths.py``."""

    magic: Any  # the format's ``one - K``
    least: Any  # of ``sign * v``, the least that has a power
    mark: Any  # v of the largest class


class Sums(NamedTuple):
    """What is gathered of a block of classes, a vector each."""

    a: Any  # with the next, the powers of all classes but those at the top: see ``add``
    b: Any
    below: Any  # v less a ``middle``, where every class has a share of the weight: of probabilities, times that
    weights: Any  # the shares, of probabilities
    others: Any  # how many classes are not at the top, of the blocks before too: see ``folds.counted``
    later: Any  # the largest logits of what is looked at next, likewise


@inline
def largest_logit(x, n, order):
    """The largest ``order * x`` of ``n`` classes."""
    width = lanes(x)
    whole = n // width * width
    lowest = zeros(x) - np.inf
    top, b, c, d = lowest, lowest, lowest, lowest
    if order == 1.0:
        j = np.int64(0)
        while j + 4 * width <= n:  # four at a time: each waits for its own last one alone
            v, v1, v2, v3 = load(x, j), load(x, j + width), load(x, j + 2 * width), load(x, j + 3 * width)
            top, b = where(v > top, v, top), where(v1 > b, v1, b)
            c, d = where(v2 > c, v2, c), where(v3 > d, v3, d)
            j += 4 * width
        for i in range(j, whole, width):
            v = load(x, i)
            top = where(v > top, v, top)
        top, c = where(b > top, b, top), where(d > c, d, c)
        top = where(c > top, c, top)
    else:
        for i in range(0, whole, width):
            v = load(x, i) * order
            top = where(v > top, v, top)
    v = load_part(x, whole, n - whole) * order
    top = where((iota(v) < n - whole) & (v > top), v, top)
    return largest(top)


@inline
def largest_from(x, done, n, top):
    """The largest logit of ``n`` classes, of which the first ``done`` are in ``top``."""
    whole = n // lanes(x) * lanes(x)
    for i in range(done, whole, lanes(x)):
        top = fold_larger(top, load(x, i))
    v = load_part(x, whole, n - whole)
    return largest(where((iota(v) < n - whole) & (v > top), v, top))


@inline
def add(v, inside, o, sign, shift, a, b, others, even):
    """Add the powers of a vector's classes, but those at the top, to the sum ``a + b``, and 1 each to ``others``.

    A power is ``scale + scale * r``, ``scale`` a number of one bit, or 8. What is added up in ``a`` needs hardly any
    rounding, and in ``b``, where it is some, it is less than a third of that of the whole. Gives ``scale`` and ``r``,
    too, for who keeps them; of ``least``, and whatever ``sign * v`` is below, the power is 0. (``even``: see maths.py.)
    """
    scale, r = parts_above(v, sign, o.powers, shift.magic, shift.least, even)
    a, b, others = fold_powers(a, b, others, inside, v, shift.mark, scale, r)
    return a, b, others, scale, r


@inline
def keep_power(kept, j, scale, r):
    """Put what ``add`` gave of the classes from ``j`` on where ``gradient.py`` finds it."""
    store(kept, j, scale)
    store(kept, far(kept) + j, r)


@inline
def values_kept(kept, j):
    """Where ``v`` of the classes from ``j`` on is kept, below a softcap."""
    return advance(kept, (2 * far(kept) + j) * item_bytes(kept))


@inline
def waiting(call, x, g, c, o, base, group):
    """Whether part of the work for the gradient ``g`` is done at the first look, and where it waits from class c on.

    That is of rows of which no powers are kept: ``v`` below a softcap, else ``r`` of the powers. It waits in the
    gradient, through the caches (loss and gradient, in place of all again: 4,096 to 50,257 classes .78 to .82 of the
    time on a Zen 3, .78 to .79 on a Zen 4, that of 1 x 262,144 on two threads .87 and .83; with a softcap, tanh is
    computed once and not twice). Where it cannot, in room of its own (``row.room_for``; a Zen 4: past the caches, 3,000
    to 262,144 classes on two threads .65 to .77; bfloat16 .71 to .75; in place, one thread, .76, with a softcap .76; 1
    and 2 x 262,144, shared by two threads, in place .90 and .85, with a softcap .77, bfloat16 .83).
    Where both could be, the gradient is better: 32,000 classes 1.1 of the time in the room.
    """
    simple = o.capped or ((o.even or o.soft) and base == 0.0)
    worth_it = call[GRADIENT] != 0 and call[KIND] != LOG_SOFTMAX and simple
    if group.waits:
        return worth_it, advance(group.kept, c * item_bytes(group.kept))
    there = not is_streamed(call) and bytes_from(x, g) != 0 and item_bytes(x) == item_bytes(group.kept)
    return worth_it and there and group.step == 0, advance(group.kept, bytes_from(group.kept, g))


@inline
def no_sums(x):
    """``Sums`` before the first block."""
    return Sums(zeros(x), zeros(x), zeros(x), zeros(x), zeros(x), zeros(x) - np.inf)


@inline
def no_totals(x):
    """What is added up of the blocks, in float64: powers, ``below`` and ``weights``."""
    return zeros64(x), zeros64(x), zeros64(x)


@inline
def after_block(x, soft, spread, totals, sums):
    """The totals with the sums of a block; and the sums before another."""
    s, linear, weights = totals
    s = s + (widen(sums.a) + widen(sums.b))
    if spread:
        linear = linear + widen(sums.below)
    if soft:
        weights = weights + widen(sums.weights)
    return (s, linear, weights), Sums(zeros(x), zeros(x), zeros(x), zeros(x), sums.others, sums.later)


@inline
def even_vector(x, j, o, fetch, shift, middle, spread, q, sums, kept, keep):
    """The sums with the classes of a whole vector; asks for memory ``fetch`` bytes ahead. ``spread`` is a constant."""
    prefetch(advance(x, fetch), j)
    v = abreast(load(x, j))
    a, b, others, scale, r = add(v, iota(v) >= 0, o, 1.0, shift, sums.a, sums.b, sums.others, True)
    if keep == BOTH:
        keep_power(kept, j, scale, r)
    elif keep == REST:
        store(kept, j, r)
    below, weights = sums.below, sums.weights
    if spread == PROBABILITIES:
        prefetch(advance(q, fetch * item_bytes(q) // item_bytes(x)), j)  # (out of cache, .78 to .83 of the time)
        c = soft_weights(x, q, j, lanes(x), True, o)
        below, weights = fold_times(below, c, v - middle), fold_add(weights, c)
    elif spread == SMOOTHED:
        below = fold_add(below, v - middle)
    return Sums(a, b, below, weights, others, sums.later)


@inline
def with_later(sums, ahead, j):
    """The sums, and the largest of those ``ahead`` of class ``j`` too."""
    return Sums(sums.a, sums.b, sums.below, sums.weights, sums.others, fold_larger(sums.later, load(ahead, j)))


@inline
def _vectors(keep, writes, scan, spread, x, g, ahead, first, last, shift, args, sums):
    """``even_block``, by as many classes as ``load(x, ...)`` gives."""
    o, fetch, middle, kept, q = args
    for j in range(first, last, lanes(x)):
        if writes:
            prefetch_write(g, j)
        sums = even_vector(x, j, o, fetch, shift, middle, spread, q, sums, kept, keep)
        if scan:
            sums = with_later(sums, ahead, j)
    return sums


@inline
def even_block(keep, writes, soft, scan, spread, x, g, ahead, first, last, shift, shift_at_once, args, sums):
    """The sums with classes ``first`` to ``last``, whole vectors, and if ``scan`` the largest of those ``ahead``.

    (Of probability targets, nobody looks ahead.) ``keep``, ``writes`` and ``soft`` are constants, ``scan`` and
    ``spread`` are made such: a loop must not ask for what is the same for all rows (LLVM does not take it out by
    itself).
    """
    x_, g_, ahead_, n = at_once(x), at_once(g), at_once(ahead), lanes(at_once(x))
    end = first + (last - first) // n * n
    if soft:
        sums = _vectors(keep, writes, False, PROBABILITIES, x_, g_, ahead_, first, end, shift_at_once, args, sums)
    elif scan and spread:
        sums = _vectors(keep, writes, True, SMOOTHED, x_, g_, ahead_, first, end, shift_at_once, args, sums)
    elif scan:
        sums = _vectors(keep, writes, True, NONE, x_, g_, ahead_, first, end, shift_at_once, args, sums)
    elif spread:
        sums = _vectors(keep, writes, False, SMOOTHED, x_, g_, ahead_, first, end, shift_at_once, args, sums)
    else:
        sums = _vectors(keep, writes, False, NONE, x_, g_, ahead_, first, end, shift_at_once, args, sums)
    if SEVERAL:
        kind = PROBABILITIES if soft else SMOOTHED if spread else NONE
        sums = _vectors(keep, writes, scan, kind, x, g, ahead, end, last, shift, args, sums)
    return sums


@inline
def even_end(x, n, whole, soft, shift, args, totals, sums, keep):
    """What ``even_sums`` or ``soft_sums`` gives, from what is known of the first ``whole`` classes and the others.

    That is the totals of all blocks but the last, and the sums of this. The rest is added to it: to widen sums of its
    own takes as long as its powers (100 classes: 4 %).
    """
    o, _, middle, kept, q = args
    (s, linear, weights), (a, b, below, shares, others, _) = totals, sums
    if whole < n:
        v = load_part(x, whole, n - whole)
        inside = iota(v) < n - whole
        a, b, others, scale, r = add(v, inside, o, 1.0, shift, a, b, others, True)
        if keep == BOTH:
            keep_power(kept, whole, scale, r)
        elif keep == REST:
            store_part(kept, whole, n - whole, r)
        if soft:
            c = where(inside, soft_weights(x, q, whole, n - whole, False, o), 0.0)
            below, shares = fold_times(below, c, v - middle), shares + c
        else:
            below = below + where(inside, v - middle, 0.0)
    linear_sum, spread_sum = 0.0, o.share * n
    if soft:
        linear_sum, spread_sum = total(linear + widen(below)), total(weights + widen(shares))
    elif o.spread != NONE:
        linear_sum = total(linear + widen(below))
        linear_sum = o.share * linear_sum if o.share != 0.0 else 0.0  # (0 times anything is 0)
    # (ties in the arithmetic type, in which small whole numbers are exact: to widen and round it is four steps)
    ties = np.float64(rounded(x, np.float64(n)) - total(counted(others)))
    return total(s + (widen(a) + widen(b))), ties, linear_sum, spread_sum


@device
def even_sums(call, numbers, x, n, shift, middle, kept, keep, scan, ahead, n_ahead):
    """``rest``, ``ties`` and the sums over the spread weights of ``n`` classes, for rows that need no more than that.

    And if ``scan``, the largest of ``n_ahead`` logits, no fewer, that are looked at next.

    Meanwhile memory is asked for what comes next: here, where there is most to compute, it waits for nobody. (A
    function of its own, so that all constants of the loop stay in registers: with 1,000 classes, 8 % of the time.)
    """
    apart()
    return _sums(False, call, numbers, x, x, n, shift, middle, kept, keep, scan, ahead, n_ahead)


@device
def soft_sums(call, numbers, x, q, n, shift, middle, kept, keep):
    """``even_sums`` of rows with probability targets ``q``."""
    apart()
    return _sums(True, call, numbers, x, q, n, shift, middle, kept, keep, False, x, np.int64(0))


@inline
def _sums(soft, call, numbers, x, q, n, shift, middle, kept, keep, scan, ahead, n_ahead):
    """Both; ``soft`` is a constant."""
    o, fetch = options_of(call, numbers, x), call[FETCH]
    width = lanes(x)
    whole = n // width * width
    totals, sums = no_totals(x), no_sums(x)
    args, spread, first = (o, fetch, middle, kept, q), o.spread != NONE, np.int64(0)
    while True:
        last = min(first + EVEN_BLOCK, whole)
        if keep == BOTH:  # (rows beside others with huge logits, few; soft ones that go past the caches)
            sums = even_block(BOTH, False, soft, False, True, x, x, ahead, first, last, shift, shift, args, sums)
        elif keep == REST:
            to = advance(kept, WRITE_AHEAD * item_bytes(kept))
            sums = even_block(REST, True, soft, False, spread, x, to, ahead, first, last, shift, shift, args, sums)
        else:
            sums = even_block(NOTHING, False, soft, scan, spread, x, x, ahead, first, last, shift, shift, args, sums)
        first += EVEN_BLOCK
        if first >= whole:
            break
        totals, sums = after_block(x, soft, spread, totals, sums)
    rest, ties, linear, weights = even_end(x, n, whole, soft, shift, args, totals, sums, keep)
    return rest, ties, linear, weights, largest_from(ahead, whole, n_ahead, sums.later)


@inline
def put_values(call, numbers, writes, x, g, first, last, o, fetch, room):
    """``v`` of whole vectors of classes, ``first`` to ``last``, below a softcap; asks for memory as above.

    And if ``writes``, a constant, for that of their gradient ``g`` (1,000 classes, loss and gradient: 8 %).

    Apart from what is done with them: with a tanh and a power behind each other in a loop, the processor cannot hold
    enough of its steps to be busy with one while it waits for another (1,000 classes: .58 in place of .76 nanoseconds).

    First as if all logits were within the softcap; of blocks in which one is not, once more (a Zen 4, one thread, 1,000
    classes: .87 of the time where all are, 1.19 where in every block one is not).
    """
    near, largest = constants(zeros(x)).near, zeros(x)
    done, largest = _put_values(writes, at_once(x), at_once(g), first, last, first, o, fetch, room, largest)
    if SEVERAL:
        _, largest = _put_values(writes, x, g, done, last, first, o, fetch, room, largest)
    if near > 0.0 and count_true(largest > near * near) > 0:
        _put_far_values(call, numbers, advance(x, first * item_bytes(x)), last - first, room)


@device
def _put_far_values(call, numbers, x, n, room):
    """``v`` of those of ``n`` classes that are not near, in place of what is there."""
    apart()
    o = options_of(call, numbers, x)
    for j in range(0, n, lanes(x)):
        store(room, j, tanh_beside(load(x, j) * o.inner, o.powers, load_like(x, room, j)))


@inline
def _put_values(writes, x, g, begin, last, first, o, fetch, room, largest):
    """``put_values`` of as many vectors as there are whole ones from ``begin`` on.

    Gives where they end, and the largest square of what tanh is taken of, if that is as if it were ``near``.
    """
    end = begin + (last - begin) // lanes(x) * lanes(x)
    for j in range(begin, end, lanes(x)):
        prefetch(advance(x, fetch), j)
        if writes:
            prefetch_write(g, j)
        v = abreast(load(x, j) * o.inner)
        if constants(v).near > 0.0:
            v, square = tanh_near(v)
            largest = fold_larger(largest, square)
        else:
            v = tanh(v, o.powers)
        store(room, j - first, v)
    return end, largest


@inline
def _general_vectors(x, begin, last, first, whole, o, fetch, base, args, sums):
    """``_general_block`` of the whole vectors from class ``begin`` on, or of a part of one. Gives where they end."""
    shift, middle, weight, q, kept, keep, room = args
    a, b, linear, spread, others = sums
    end = begin + (last - begin) // lanes(x) * lanes(x) if whole else last
    for j in range(begin, end, lanes(x)):
        if not whole:
            v = value(load_part(x, j, last - j), o)
            if keep and o.capped:
                store(room, j - first, v)
        elif o.capped:
            v = load_like(x, room, j - first)
        else:
            prefetch(advance(x, fetch), j)
            v = load(x, j)
        v = abreast(v - base)
        inside = iota(v) >= 0 if whole else iota(v) < last - j
        a, b, others, scale, r = add(v, inside, o, o.sign, shift, a, b, others, False)
        if keep:
            keep_power(kept, j, scale, r)
        if o.spread != NONE:
            c = where(inside, spread_weights(x, weight, q, j, last - j, whole, o), 0.0)
            linear, spread = fold_times(linear, c, (v - middle) * o.sign), fold_add(spread, c)
    return end, (a, b, linear, spread, others)


@inline
def is_only_capped(o, base):
    """Whether rows need, beside their softcap, no more than ``even_sums``: its values are finite, from -1 to 1."""
    return o.capped and o.spread == NONE and base == 0.0


@inline
def powers_wait(x, o):
    """Whether, of rows that are only capped, not ``v`` waits but what the gradient is proportional to.

    (Where no such number can be below the smallest normal one, and lose bits that it has with another K.)
    """
    return o.unit <= constants(zeros(x)).gentle


@inline
def capped_power(v, scale, r):
    """A power times the softcap's slope, rounded (``z`` itself is known to 1e-6)."""
    scale = scale * (1.0 - v * v)
    return fma(scale, r, scale)


@inline
def _general_block(x, first, last, whole, o, fetch, base, args, others):
    """Sums over classes ``first`` to ``last``: of the powers, and over the spread weights. ``whole``: of vectors."""
    done = first
    sums = zeros(x), zeros(x), zeros(x), zeros(x), others
    if whole:
        done, sums = _general_vectors(at_once(x), first, last, first, True, o, fetch, base, args, sums)
    if not whole or SEVERAL:
        _, sums = _general_vectors(x, done, last, first, whole, o, fetch, base, args, sums)
    a, b, linear, spread, others = sums
    return widen(a) + widen(b), widen(linear), widen(spread), others


@inline
def _vectors_of_values(keep, x, room, kept, begin, last, first, o, shift, up, sums):
    """``_vectors`` of ``v`` below a softcap, of as many vectors as there are whole ones. Gives where they end.

    The powers that are kept are those times the softcap's slope, so that the gradient is written as all others are.
    (Both, in place of ``_general_vectors``: 1,000 classes, loss and gradient, 16 %.) Where they wait, in place of
    ``v``, it is with K = 0, ``up`` times as large: all chunks of a row alike.
    """
    end = begin + (last - begin) // lanes(x) * lanes(x)
    for j in range(begin, end, lanes(x)):
        v = abreast(load_like(x, room, j - first))
        a, b, others, scale, r = add(v, iota(v) >= 0, o, 1.0, shift, sums.a, sums.b, sums.others, True)
        if keep == BOTH:
            keep_power(kept, j, scale * (1.0 - v * v), r)
        elif keep == REST:
            store(room, j - first, capped_power(v, scale, r) * up)
        sums = Sums(a, b, sums.below, sums.weights, others, sums.later)
    return end, sums


@inline
def _block_of_values(keep, x, room, kept, first, last, o, shift, up, others):
    """As ``_general_block``, of whole vectors of ``v`` below a softcap, with no options that ask for each class."""
    sums = no_sums(x)
    sums = Sums(sums.a, sums.b, sums.below, sums.weights, others, sums.later)
    done, sums = _vectors_of_values(keep, at_once(x), room, kept, first, last, first, o, shift, up, sums)
    if SEVERAL:
        _, sums = _vectors_of_values(keep, x, room, kept, done, last, first, o, shift, up, sums)
    return widen(sums.a) + widen(sums.b), sums.others


@device
def general_sums(call, numbers, x, g, q, weight, n, shift, base, middle, kept, keep, waits):
    """As ``even_sums`` for every option: ``rest``, ``ties`` and the sums over the spread weights.

    And if powers are to ``keep``, memory is asked for their gradient ``g``.
    """
    apart()
    o, fetch = options_of(call, numbers, x), call[FETCH]
    s, linear, spread, others = zeros64(x), zeros64(x), zeros64(x), zeros(x)
    whole, values = n // lanes(x) * lanes(x), lane_buffer(x, VALUES)
    room, only_capped = values, is_only_capped(o, base)
    powers = waits and only_capped and powers_wait(x, o)
    up = power_of_two(constants(zeros(x)).one - shift.magic)
    for first in range(0, whole, BLOCK):
        last = min(whole, first + BLOCK)
        if keep and not only_capped:
            room = values_kept(kept, first)
        elif waits:
            room = advance(kept, first * item_bytes(kept))
        if waits or (o.capped and keep):
            to = advance(g, WRITE_AHEAD * item_bytes(g)) if waits else g
            put_values(call, numbers, True, x, to, first, last, o, fetch, room)
        elif o.capped:
            put_values(call, numbers, False, x, g, first, last, o, fetch, room)
        if only_capped:
            if keep:
                a, others = _block_of_values(BOTH, x, room, kept, first, last, o, shift, up, others)
            elif powers:
                a, others = _block_of_values(REST, x, room, kept, first, last, o, shift, up, others)
            else:
                a, others = _block_of_values(NOTHING, x, room, kept, first, last, o, shift, up, others)
            s = s + a
        else:
            args = shift, middle, weight, q, kept, keep, room
            a, b, c, others = _general_block(x, first, last, True, o, fetch, base, args, others)
            s, linear, spread = s + a, linear + b, spread + c
    if keep and not only_capped:
        room = values_kept(kept, whole)
    elif waits:
        room = values
    args = shift, middle, weight, q, kept, keep, room
    a, b, c, others = _general_block(x, whole, n, False, o, fetch, base, args, others)
    if keep and only_capped and whole < n:
        v = load(values, 0)
        store(kept, whole, load(kept, whole) * (1.0 - v * v))
    return total(s + a), n - np.float64(total(counted(others))), total(linear + b), total(spread + c)
