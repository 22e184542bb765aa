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
    finish: Any  # (call, row, target, stats, exact, leader) -> Plan; the leader writes what a row has one of


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
    def outputs(call: Call, row: Row, t: Target, s: Stats, nll_top, lse, total, p_y, loss, bad):
        """Write what the row has one of; 0, -1 or False where it is ignored."""
        i, ignored = row.number, t.y == IGNORED
        put_number(call.loss, i, zero if ignored else loss)
        if call.lse != 0:
            if total == zero or s.top == inf:
                lse = s.top + s.rest  # (NaN beside them stays)
            elif not total > zero:
                lse = nan
            put_number(call.lse, i, zero if ignored else lse)
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
    def finish(call: Call, row: Row, t: Target, s: Stats, exact, leader):
        has_target, ignored = t.y >= 0, t.y == IGNORED
        magic = one_bits - s.power
        e_top = power(s.top - s.base, call.hi, call.lo, magic) if exact else quick_power(s.top, call.hi, s.power)
        total = fma(s.ties, e_top, s.rest)
        others_at_top = fma(s.ties - one, e_top, s.rest)  # all but one of the largest
        e_y, others = zero, total
        if has_target:
            e_y = power(t.v - s.base, call.hi, call.lo, magic) if exact else quick_power(t.v, call.hi, s.power)
            others = others_at_top if t.v == s.top else total - e_y
        bad = zero if total > zero and t.y != BAD else nan  # neither NaN, nor all -inf
        # log(total) less the largest z: of a row that is sure of it, to the last digits
        nll_top = log1p((s.ties - one) + s.rest / e_top)
        lse = fma(s.top, call.unit, nll_top)

        ce_scale, zl_scale, zl_ratio = call.ce_scale, call.zl_scale, call.zl_ratio
        if call.scales != 0:
            ce_scale = number_at(call.scales, 0, one)
            zl_scale = number_at(call.scales, 1, one)
            zl_ratio = number_at(call.scales, 2, one)
        sample = number_at(call.sample_weight, row.number, one)
        on_target = t.weight * call.keep if has_target else zero
        p_y = e_y / total if has_target else zero
        if leader:
            loss = zero
            if on_target != zero:
                loss = on_target * fma(s.top - t.v, call.unit, nll_top)
            if s.spread != zero:
                loss = loss + fma(-s.linear, call.unit, s.spread * nll_top)
            if call.z_loss != zero:
                loss = loss + lse * lse * (call.z_loss * zl_ratio)
            outputs(call, row, t, s, nll_top, lse, total, p_y, loss * sample * call.loss_scale + bad, bad)

        filler = zero if ignored else one + bad
        if call.kind == LOG_SOFTMAX:
            return Plan(s.power, s.base, s.top, nll_top, zero, filler, zero, np.int64(0))
        inverse = one / total
        p_others = others * inverse
        alone = row.n == 1
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
        sample = sample * number_at(call.upstream, row.number * call.upstream_step, one) * call.slope
        # The gradient of one class is 0, not what rounding leaves of p * q - q.
        scale = zero if alone else sample * ce_scale
        if row.n == 1 and call.lse_in == 0:
            scale = zero  # one class has the probability 1, whatever rounding makes of it
        even = scale * s.spread
        if call.z_loss != zero:
            even = fma(sample * (zl_scale * call.z_loss), lse + lse, even)
        hit = scale * on_target
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

    return Finish(target, finish)
