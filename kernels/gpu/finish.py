"""The end of a row's first look: its loss, what else it has one of, and the plan of its gradient."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba.cuda import types

from ..formats import LOG2E, LOG2E_REST
from .call import GRADIENTS, LOG_SOFTMAX, Call
from .compile import inline
from .maths import Maths
from .memory import numbers_at
from .rows import BAD, IGNORED, Row, Rows
from .stats import Looks, Stats
from .together import NOWHERE
from .vector import fma

_, _store_long = numbers_at(types.int64)
_, _store_bool = numbers_at(types.boolean)


class Target(NamedTuple):
    """What a row's target looks like; the rest is of no meaning where there is none."""

    y: Any  # the class, or see rows.NO_TARGET
    o: float  # see call.Call
    v: float
    weight: float


class Plan(NamedTuple):
    """The gradient of a class: ``factor * power - scale * c_j``; ``log_softmax``: ``v - top - factor``."""

    power: float  # K
    base: float
    top: float
    factor: float
    scale: float
    filler: float  # what all of the gradient is, 0 or NaN; else 1
    at_target: float  # the gradient of the target,
    target: Any  # and its address; 0: nothing is to be written there


class Finish(NamedTuple):
    """The functions below."""

    target: Any  # (call, y, o) -> Target
    plan: Any  # (call, row, target, stats, exact) -> Plan
    leave: Any  # (call, row, target, stats, exact): writes what a row has one of, later, as nobody waits for it


@cache
def finishing(maths: Maths, rows: Rows, looks: Looks, plain: bool) -> Finish:
    """The ends of rows, for one type."""
    number, power, log1p, one_bits, unit = maths.number, maths.power, maths.log1p, maths.one, maths.unit
    zero, one, inf, nan, most = number(0.0), number(1.0), number(np.inf), number(np.nan), number(87.0)
    log2e = number(LOG2E)
    log2e_rest = number(LOG2E - float(log2e) + LOG2E_REST)
    quick_power = maths.quick_power
    number_at, put_number, value = rows.number_at, rows.put_number, looks.value

    @inline
    def target(call: Call, y, o):
        return Target(y, o, value(call, o), number_at(call.weight, y, one) if y >= 0 else zero)

    @inline
    def sums_of(call: Call, t: Target, s: Stats, exact):
        """Powers of the largest class, of all, of all but the target, of the target; 0, or NaN for a bad row."""
        magic = one_bits - s.power
        e_top = power(s.top - s.base, call.hi, call.lo, magic) if exact else quick_power(s.top, call.hi, s.power)
        total = fma(s.ties, e_top, s.rest)
        e_y, others = zero, total
        if t.y >= 0:
            e_y = power(t.v - s.base, call.hi, call.lo, magic) if exact else quick_power(t.v, call.hi, s.power)
            others_at_top = fma(s.ties - one, e_top, s.rest)  # all but one of the largest
            others = others_at_top if t.v == s.top else total - e_y
        bad = zero if total > zero and t.y != BAD else nan  # neither NaN, nor all -inf
        return e_top, total, others, e_y, bad

    @inline
    def nll_at_top(s: Stats, e_top):
        """log(total) less the largest z: of a row that is sure of it, to the last digits."""
        return log1p((s.ties - one) + s.rest / e_top)

    @inline
    def scale_of(call: Call, i, otherwise):
        return number_at(call.scales, i, one) if call.scales != 0 else otherwise

    @inline
    def leave(call: Call, row: Row, t: Target, s: Stats, exact):
        """Write what the row has one of; 0, -1 or False where it is ignored."""
        e_top, total, _, e_y, bad = sums_of(call, t, s, exact)
        i, ignored, nll_top = row.number, t.y == IGNORED, nll_at_top(s, e_top)
        lse = fma(s.top, call.unit, nll_top)
        on_target, loss = t.weight * call.keep if t.y >= 0 else zero, zero
        if on_target != zero:
            loss = on_target * fma(s.top - t.v, call.unit, nll_top)
        if s.spread != zero:
            loss = loss + fma(-s.linear, call.unit, s.spread * nll_top)
        if call.z_loss != zero:
            loss = loss + lse * lse * (call.z_loss * scale_of(call, 2, call.zl_ratio))
        loss = loss * number_at(call.sample_weight, i, one) * call.loss_scale + bad
        put_number(call.loss, i, zero if ignored else loss)
        if call.lse != 0:
            if total == zero or s.top == inf:
                lse = s.top + s.rest  # (NaN beside them stays)
            elif not total > zero:
                lse = nan
            put_number(call.lse, i, zero if ignored else lse)
        if call.target_prob != 0:
            p_y = e_y / total if t.y >= 0 else zero
            put_number(call.target_prob, i, zero if ignored else p_y + bad)
        if not plain:
            if call.entropy != 0:
                entropy = fma(s.distance / total, call.unit, nll_top)
                put_number(call.entropy, i, zero if ignored else entropy)
            winner = s.nan_at if s.nan_at != NOWHERE else s.top_at
            if winner == NOWHERE:
                winner = np.int32(0)
            if call.argmax != 0:
                _store_long(call.argmax + 8 * i, np.int64(-1) if ignored else np.int64(winner))
            if call.correct != 0:
                _store_bool(call.correct + i, not ignored and winner == t.y)
            if call.rank != 0:
                _store_long(call.rank + 8 * i, np.int64(0) if t.y < 0 else np.int64(s.above))

    @inline
    def plan(call: Call, row: Row, t: Target, s: Stats, exact):
        has_target, ignored = t.y >= 0, t.y == IGNORED
        e_top, total, others, e_y, bad = sums_of(call, t, s, exact)
        filler = zero if ignored else one + bad
        if call.kind == LOG_SOFTMAX:
            return Plan(s.power, s.base, s.top, nll_at_top(s, e_top), zero, filler, zero, np.int64(0))
        inverse = one / total
        p_y, p_others, lse = e_y / total if has_target else zero, others * inverse, zero
        alone = row.n == 1
        if call.z_loss != zero or call.lse_in != 0:
            lse = fma(s.top, call.unit, nll_at_top(s, e_top))
        if call.lse_in != 0:
            # An lse of more classes than these (a part of a vocabulary) makes their probabilities smaller. One that is
            # the row's own, up to its rounding, is not as exact as what was found here.
            given = number_at(call.lse_in, row.number, zero)
            if not abs(given - lse) <= (abs(lse) + one) * unit:
                difference = lse - given
                if difference > most:
                    difference = most  # whose power is all but infinite
                alone = False
                inverse = inverse * power(difference, log2e, log2e_rest, one_bits)
                p_y = e_y * inverse
                p_others = one - p_y
                lse = given
        sample = number_at(call.sample_weight, row.number, one)
        sample = sample * number_at(call.upstream, row.number * call.upstream_step, one) * call.slope
        # The gradient of one class is 0, not what rounding leaves of p * q - q.
        scale = zero if alone else sample * scale_of(call, 0, call.ce_scale)
        if row.n == 1 and call.lse_in == 0:
            scale = zero  # one class has the probability 1, whatever rounding makes of it
        even = scale * s.spread
        if call.z_loss != zero:
            even = fma(sample * (scale_of(call, 1, call.zl_scale) * call.z_loss), lse + lse, even)
        hit = scale * (t.weight * call.keep if has_target else zero)
        factor = inverse
        if call.kind == GRADIENTS:
            factor = (hit + even) * inverse
        at_target = fma(even, p_y, -(hit * p_others))
        if not plain:
            if call.share != zero and has_target:
                at_target = at_target - scale * (call.share * t.weight)
            if call.inner != zero:
                at_target = at_target * fma(-t.v, t.v, one)
        if factor != factor and not ignored:
            filler = nan
        place = np.int64(0)
        if has_target and call.kind == GRADIENTS and filler == one:
            place = np.int64(row.g + t.y * call.g_stride)
        return Plan(s.power, s.base, s.top, factor, scale, filler, at_target, place)

    return Finish(target, plan, leave)
