"""What a kernel is asked to do."""

from __future__ import annotations

from typing import Any, NamedTuple

from numpy.typing import NDArray

Array = NDArray[Any]

# What the rows of a "gradient" are to be.
GRADIENTS, SOFTMAX, LOG_SOFTMAX = range(3)

# Plain calls on the CPU (see ``cpu/entry.py``). The options of a cross-entropy, by default: those that they may have
# otherwise, and those that they may only have like this (or LAST_AXIS, of their two).
OPTIONS: dict[str, Any] = {
    "weight": None,
    "sample_weight": None,
    "label_smoothing": 0.0,
    "z_loss": 0.0,
    "softcap": None,
    "logit_scale": 1.0,
    "ignore_index": -100,
    "reduction": "mean",
}
FIXED: dict[str, Any] = {"normalizer": None, "empty": "nan", "axis": -1, "backend": None, "check": None}
LAST_AXIS = 1

# What is filled with a number of each row, in the order of a Task, from `loss` to `entropy`: None in place of what is
# not asked for, or of all.
Rows = tuple[Array | None, ...] | None

IF_SMALL = -1  # in place of a tuning: computed if it is ...
SMALL = 100_000  # ... less than so many elements of work

# What comes of such a call: something of it is not plain, or a target is bad; it is not small; all is done. From
# MISSING on, work is not compiled that it takes.
NOT_PLAIN, NOT_SMALL, DONE, MISSING = range(4)


class Task(NamedTuple):
    """Arrays in, options, arrays to fill: one cross-entropy over N > 0 rows of C > 0 classes.

    Everything is checked: kernels only compute. Arrays of shape (*rows, C) are views with any strides, the classes on
    the last axis; N is the product of `rows`. Arrays of shape (N,) or (C,) are C-contiguous. The arithmetic type is
    float64 for float64 logits and float32 for the others.

    With `w`, `s`, `u` for class weight, sample weight and upstream gradient (1 where None), `ce` and `zl` for the parts
    of a row's loss, and `z` for the scaled and capped logits, a kernel writes

    - `loss = s * (ce + zl_ratio * zl)`
    - `grad_j = s * u * (ce_scale * dce/dz_j + zl_scale * dzl/dz_j) * dz_j/dx_j`
    - `hess_j = dgrad_j/dx_j`
    """

    logits: Array  # (*rows, C), any of the four types
    targets: Array | None  # (N,) int64, each in [0, C) or ignore_index; None with probabilities
    probabilities: Array | None  # (*rows, C), any of the four types
    weight: Array | None  # (C,) arithmetic type
    sample_weight: Array | None  # (N,) arithmetic type
    upstream: Array | None  # (N,) arithmetic type
    lse_in: Array | None  # (N,) arithmetic type: logsumexp of each row, known already. Fill `grad` only
    ignore_index: int
    label_smoothing: float
    z_loss: float
    softcap: float  # 0.0: none
    logit_scale: float
    ce_scale: float
    zl_scale: float
    zl_ratio: float
    grad: Array | None  # (*rows, C) of the logits' type, or the very memory of the logits (in place)
    loss: Array | None  # (N,) arithmetic type, as the rest where nothing else is said
    lse: Array | None
    argmax: Array | None  # int64
    correct: Array | None  # bool
    rank: Array | None  # int64
    target_prob: Array | None
    entropy: Array | None
    hess: Array | None = None  # (*rows, C). Comes with `grad` and `loss`, never with `lse_in`, and only on the CPU

    @classmethod
    def of_logits(cls, logits: Array, *, grad: Array | None = None, lse: Array | None = None) -> Task:
        """Give the task of a function of the logits alone."""
        nothing = (None,) * 6
        return cls(logits, *nothing, 0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, grad, None, lse, *nothing)


def divided_by(ce: float, zl: float, upstream: float) -> tuple[float, float, float, float]:
    """Give `ce_scale`, `zl_scale` and `zl_ratio` of a loss whose parts are divided by `ce` and `zl`; and the divisor.

    The sum of the row losses is divided by that, which is 0 for a mean over nothing, whose gradient is 0.
    """
    if ce == 0 or zl == 0:
        return 0.0, 0.0, 1.0, 0.0
    return upstream / ce, upstream / zl, ce / zl, ce
