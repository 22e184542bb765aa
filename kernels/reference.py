"""The definition, in plain NumPy: what every other backend is tested against.

Meant to be read and checked, not to be fast: everything is computed in float64, in several arrays of the size of the
logits, and rounded once, into the outputs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .task import Array, Task


def cross_entropy(task: Task) -> float:
    """Fill the outputs of `task`, and give the sum of its row losses: 0 where they are not wanted."""
    with np.errstate(all="ignore"):
        _cross_entropy(task)
    return 0.0 if task.loss is None else sum_rows(task.loss)


def _cross_entropy(task: Task) -> None:
    x = _as_rows(task.logits)
    k, c = task.logit_scale, task.softcap
    z, dz_dx, d2z_dx2 = k * x, np.full_like(x, k), np.zeros_like(x)
    if c:
        tanh = np.tanh(z / c)
        z, dz_dx = c * tanh, k * (1 - tanh * tanh)
        d2z_dx2 = -2 * tanh * (k / c) * dz_dx
    order = np.sign(k) * x  # sorts the classes as z does, also where rounding makes two z equal
    soft = _softmax(z, order, task.lse_in)

    n_rows, n_classes = x.shape
    if task.probabilities is not None:
        valid = np.ones(n_rows, bool)
        q = _as_rows(task.probabilities)
    else:
        assert task.targets is not None
        valid = task.targets != task.ignore_index
        q = (task.targets[:, None] == np.arange(n_classes)).astype(np.float64)
    smooth = (1 - task.label_smoothing) * q + task.label_smoothing / n_classes
    share = smooth if task.weight is None else task.weight * smooth  # w_j * q'_j
    share_sum = share.sum(axis=1)[:, None]

    # Both parts of the loss and their gradients with respect to z. The largest class, where p can be 1 - 1e-9, takes
    # its own formula: `p - 1` would round away what is left.
    ce = np.where(share == 0, 0, share * soft.distance).sum(axis=1) + soft.bad
    zl = task.z_loss * soft.lse * soft.lse
    dce = soft.p * share_sum - share
    dce[soft.top] = soft.p[soft.top] * _sum_without(share, soft.top) - share[soft.top] * soft.others
    dzl = 2 * (task.z_loss * soft.lse)[:, None] * soft.p

    # Their second derivatives with respect to z, each by its own: 1 - p takes the formula of the largest class too.
    one_minus_p = 1 - soft.p
    one_minus_p[soft.top] = soft.others
    d2ce = share_sum * soft.p * one_minus_p
    d2zl = 2 * task.z_loss * (soft.p * soft.p + soft.lse[:, None] * soft.p * one_minus_p)

    s = np.ones(n_rows) if task.sample_weight is None else task.sample_weight.astype(np.float64)
    upstream = np.ones(n_rows) if task.upstream is None else task.upstream
    row = (s * upstream)[:, None]
    dz = row * (task.ce_scale * dce + task.zl_scale * dzl)
    d2z = row * (task.ce_scale * d2ce + task.zl_scale * d2zl)

    def write(out: Array | None, values: Array, ignored: float) -> None:
        if out is not None:
            out[...] = np.where(valid, values, ignored)

    if task.grad is not None:
        task.grad[...] = np.where(valid[:, None], dz * dz_dx, 0).reshape(task.grad.shape)
    if task.hess is not None:
        d2x = d2z * dz_dx * dz_dx + dz * d2z_dx2
        task.hess[...] = np.where(valid[:, None], d2x, 0).reshape(task.hess.shape)
    write(task.loss, s * (ce + task.zl_ratio * zl), 0)
    write(task.lse, soft.lse, 0)
    write(task.argmax, soft.top[1], -1)
    write(task.entropy, np.where(soft.p == 0, 0, soft.p * soft.distance).sum(axis=1), 0)
    if task.targets is not None:
        target = soft.top[0], np.where(valid, task.targets, 0)
        write(task.correct, soft.top[1] == target[1], False)
        write(task.rank, (order > order[target][:, None]).sum(axis=1), 0)
        write(task.target_prob, soft.p[target], 0)


_LSE_ULPS = 8  # how far a given lse may be from the row's own, by rounding: 1e-6 of float32, as is promised for it


class _Softmax(NamedTuple):
    p: Array  # (N, C) softmax of each row
    distance: Array  # (N, C) lse - z, without the cancellation
    lse: Array  # (N,) logsumexp
    others: Array  # (N,) 1 - p of the largest class, without the cancellation
    bad: Array  # (N,) NaN where the row holds NaN, +inf, or nothing but -inf; 0 elsewhere
    top: tuple[Array, Array]  # index of the largest class of each row, the first of equals


def _softmax(z: Array, order: Array, lse_in: Array | None = None) -> _Softmax:
    top = np.arange(len(z)), order.argmax(axis=1)
    maximum = z[top]
    bad = maximum - maximum
    z = z + bad[:, None]
    exps = np.exp(z - maximum[:, None])
    others = _sum_without(exps, top)
    log_total = np.log1p(others)
    lse = np.where(np.isfinite(maximum), maximum + log_total, maximum)
    p, others = exps / (1 + others)[:, None], others / (1 + others)
    if lse_in is not None:
        # May be that of more classes than these. Where it is not, 1 - p of the largest is what the others add up to: in
        # the difference to a rounded lse, nothing would be left of 1e-9.
        p = np.exp(z - lse_in[:, None])
        is_own = np.abs(lse_in - lse) <= _LSE_ULPS * np.finfo(lse_in.dtype).eps * np.maximum(np.abs(lse), 1)
        others = np.where(is_own, _sum_without(p, top), -np.expm1(maximum - lse_in))
        lse = lse_in
    return _Softmax(p, (maximum[:, None] - z) + log_total[:, None], lse, others, bad, top)


def _sum_without(values: Array, excluded: tuple[Array, Array]) -> Array:
    kept = values.copy()
    kept[excluded] = 0
    total: Array = kept.sum(axis=1)
    return total


def _as_rows(values: Array) -> Array:
    """Copy to shape (N, C), in float64."""
    return values.reshape(-1, values.shape[-1]).astype(np.float64)


def logsumexp(logits: Array, out: Array) -> None:
    """Fill `out` (N,) with the logarithm of the sum of exp of each row."""
    x = _as_rows(logits)
    with np.errstate(all="ignore"):
        out[...] = _softmax(x, x).lse


def softmax(logits: Array, out: Array) -> None:
    """Fill `out` (*rows, C) with `exp(x - logsumexp(x))`."""
    x = _as_rows(logits)
    with np.errstate(all="ignore"):
        out[...] = _softmax(x, x).p.reshape(out.shape)


def log_softmax(logits: Array, out: Array) -> None:
    """Fill `out` (*rows, C) with `x - logsumexp(x)`."""
    x = _as_rows(logits)
    with np.errstate(all="ignore"):
        out[...] = -_softmax(x, x).distance.reshape(out.shape)


def nll_loss(
    log_probs: Array, targets: Array, ignore_index: int, weight: Array | None, sample_weight: Array | None, loss: Array
) -> None:
    """Fill `loss` (N,) with `-sample_weight * weight[target] * log_probs[target]`, or 0 for an ignored row.

    As in cross_entropy, the probability 0 costs nothing where its class has weight 0.
    """
    valid = targets != ignore_index
    y = np.where(valid, targets, 0)
    with np.errstate(all="ignore"):
        nll = 0 - np.take_along_axis(log_probs, y.reshape(*log_probs.shape[:-1], 1), axis=-1).ravel().astype(np.float64)
        if weight is not None:
            nll = np.where((weight[y] == 0) & np.isinf(nll), 0, weight[y] * nll)
        if sample_weight is not None:
            nll = sample_weight * nll
        loss[...] = np.where(valid, nll, 0)


def scan_targets(
    targets: Array, n_classes: int, ignore_index: int, weight: Array | None, sample_weight: Array | None
) -> tuple[int, int, float, float]:
    """Check the targets, and sum the weights of the valid rows.

    Returns
    -------
    tuple
        Position of the first target that is neither a class nor `ignore_index`, or -1; the number of valid rows; over
        these, the sums of `sample_weight * weight[target]` and of `sample_weight`.
    """
    valid = targets != ignore_index
    bad = valid & ((targets < 0) | (targets >= n_classes))
    if bad.any():
        return int(bad.argmax()), 0, 0.0, 0.0
    kept = targets[valid]
    s = np.ones(len(kept)) if sample_weight is None else sample_weight[valid].astype(np.float64)
    w = 1.0 if weight is None else weight[kept].astype(np.float64)
    with np.errstate(all="ignore"):
        return -1, len(kept), sum_rows(s * w), sum_rows(s)


def sum_rows(values: Array) -> float:
    """Sum a vector (N,) in float64, in a fixed order."""
    with np.errstate(all="ignore"):
        return float(np.sum(values, dtype=np.float64))
