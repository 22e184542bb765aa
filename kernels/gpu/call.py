"""A call as the kernels see it: whole numbers first, then numbers of the arithmetic type, all of them scalars.

Arrays come as addresses and distances in bytes, 64 bits each: Numba's own arrays would cost a kernel argument for each
of their dimensions, and know nothing of bfloat16.
"""

from __future__ import annotations

from typing import NamedTuple

from numba.cuda import types

# What the rows of the "gradient" are to be.
GRADIENTS, SOFTMAX, LOG_SOFTMAX = 0, 1, 2


class Call(NamedTuple):
    """Everything a kernel is given. An address is 0 where something is not there."""

    x: int  # logits: address of the first row, distances from row to row and from class to class
    x_step: int
    x_stride: int
    x_offsets: int  # address of the distance of each row from the first, where no single step describes them
    g: int  # the gradient, likewise
    g_step: int
    g_stride: int
    g_offsets: int
    q: int  # probability targets, likewise
    q_step: int
    q_stride: int
    q_offsets: int
    q_wide: int  # 1: they are of the arithmetic type, 0: of the type of the logits
    n_rows: int
    n_classes: int
    targets: int
    target_bytes: int  # of one of them; negative: signed
    ignore_index: int
    weight: int
    sample_weight: int
    upstream: int
    upstream_step: int  # 0: one number for all rows
    lse_in: int
    loss: int
    lse: int
    argmax: int
    correct: int
    rank: int
    target_prob: int
    entropy: int
    scales: int  # address of ce_scale, zl_scale, zl_ratio, where a kernel before this one finds them; else 0
    stats: int  # what the parts of a row leave for those who finish it
    kind: int  # GRADIENTS, SOFTMAX or LOG_SOFTMAX
    lane_bits: int  # warp per row: 2**lane_bits lanes share a row
    tile: int  # chunks that the block's memory has room for, of each row
    parts: int  # that a row is split into, of this many chunks:
    part: int

    hi: float  # log2(e) * unit in two parts, of one sign: the nearest numbers of the arithmetic type
    lo: float
    unit: float  # z = unit * v: |logit scale|, or the softcap
    inner: float  # v = tanh(inner * o) with a softcap; 0: v = o
    order: float  # sign of the logit scale: o = order * x has the order of z
    slope: float  # dz/dx, apart from the softcap's share
    keep: float  # 1 - label smoothing
    share: float  # label smoothing / classes
    z_loss: float
    ce_scale: float
    zl_scale: float
    zl_ratio: float
    loss_scale: float


N_INTEGERS = Call._fields.index("hi")


def signature(arithmetic: types.Type) -> types.Type:
    """Numba's type of a kernel of a ``Call``."""
    kinds = [types.int64] * N_INTEGERS + [arithmetic] * (len(Call._fields) - N_INTEGERS)
    return types.void(types.NamedTuple(kinds, Call))
