"""A task on arrays of a GPU: what its kernels are told, and their launch."""

from __future__ import annotations

from array import array
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from ..formats import LOG2E, LOG2E_REST
from ..task import Task
from .call import GRADIENTS, SOFTMAX, Call
from .kernels import kernel as kernel_of
from .launch import Choice
from .launch import choose as _choose
from .run import address, bytes_of_targets, current_device, empty, launch, name_of, rows_of

choose = lru_cache(maxsize=256)(_choose)  # (a model asks for the same again and again)


@lru_cache(maxsize=256)
def split_log2e(unit: float, double: bool) -> tuple[float, float]:
    """``log2(e) * unit`` in two parts, the first rounded towards 0: both have its sign, so that -inf stays -inf."""
    number = np.float64 if double else np.float32
    exact = Fraction(unit) * (Fraction(LOG2E) + Fraction(LOG2E_REST))
    hi = number(float(exact))
    if Fraction(float(hi)) > exact:
        hi = np.nextafter(hi, number(0))
    return float(hi), float(exact - Fraction(float(hi)))


def is_plain(task: Task, kind: int) -> bool:
    """Whether the plain kernels do: logits as they are, and nothing that needs another look at each class."""
    return (
        task.logit_scale > 0
        and not task.softcap
        and not (task.label_smoothing and task.targets is not None)
        and kind in (GRADIENTS, SOFTMAX)
        and task.argmax is task.correct is task.rank is task.entropy is task.probabilities is None
    )


def cross_entropy(task: Task, kind: int = GRADIENTS, scales_at: int = 0, loss_scale: float = 1.0) -> None:
    """Fill the outputs of a task; ``scales_at``: where the device finds its scales, in place of the task's."""
    dtype, n_classes, device = name_of(task.logits.dtype), task.logits.shape[-1], current_device()
    plain = is_plain(task, kind)
    choice = choose(device, dtype, plain, task.logits.size // n_classes, n_classes, task.grad is not None)
    keep: list[Any] = []
    stats = None
    if choice.stats_numbers:
        stats = empty(choice.stats_numbers, np.float64 if dtype == "float64" else np.float32)
    call = call_of(task, dtype == "float64", kind, choice, scales_at, loss_scale, address(stats), keep)
    pairs = dtype not in ("float16", "bfloat16") or device.capability >= (8, 0)
    for step in choice.launches:
        kernel = kernel_of(step.name, dtype, plain, pairs)
        launch(kernel, step.grid, step.threads, step.shared_bytes, call)


def call_of(
    task: Task, double: bool, kind: int, choice: Choice, scales_at: int, loss_scale: float, stats: int, keep: list[Any]
) -> tuple[Any, ...]:
    """Give the arguments of the kernels of a task; ``double``: the arithmetic type is float64."""
    n_classes = task.logits.shape[-1]
    q, softcap, scale = task.probabilities, task.softcap, task.logit_scale
    smoothing = 0.0 if task.targets is None and q is None else task.label_smoothing
    unit = softcap or abs(scale)
    hi, lo = split_log2e(unit, double)
    inner = abs(scale) / softcap if softcap else 0.0
    order = (scale > 0) - (scale < 0)
    integers = (
        *rows_of(task.logits, keep),
        *rows_of(task.grad, keep),
        *rows_of(q, keep),
        int(q is not None and name_of(q.dtype) == ("float64" if double else "float32")),
        task.logits.size // n_classes,
        n_classes,
        address(task.targets),
        bytes_of_targets(task.targets),
        task.ignore_index,
        address(task.weight),
        address(task.sample_weight),
        address(task.upstream),
        0 if task.upstream is None or task.upstream.size == 1 else 1,
        address(task.lse_in),
        address(task.loss),
        address(task.lse),
        address(task.argmax),
        address(task.correct),
        address(task.rank),
        address(task.target_prob),
        address(task.entropy),
        scales_at,
        stats,
        kind,
        choice.lane_bits,
        choice.tile,
        choice.parts,
        choice.part,
    )
    floats = (
        hi, lo, unit, inner, order, scale, 1.0 - smoothing, smoothing / n_classes, task.z_loss,
        task.ce_scale, task.zl_scale, task.zl_ratio, loss_scale,
    )  # fmt: skip
    # (in an array, a number too large for its type becomes inf)
    return Call._make((*integers, *array("d" if double else "f", floats)))
