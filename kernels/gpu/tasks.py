"""A task on arrays of a GPU: what its kernels are told, and their launch."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from ..formats import LOG2E, LOG2E_REST
from ..task import Task
from .call import GRADIENTS, SOFTMAX, Call
from .kernels import kernel as kernel_of
from .launch import Choice, choose
from .run import address, bytes_of_targets, current_device, empty, launch, rows_of


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
    smoothing = task.label_smoothing if task.targets is not None else 0.0
    each_class = task.argmax, task.correct, task.rank, task.entropy, task.probabilities
    return (
        task.logit_scale > 0
        and not task.softcap
        and not smoothing
        and kind in (GRADIENTS, SOFTMAX)
        and all(a is None for a in each_class)
    )


def cross_entropy(task: Task, kind: int = GRADIENTS, scales: Any = None, loss_scale: float = 1.0) -> None:
    """Fill the outputs of a task; ``scales``: where the device finds its scales, in place of the task's."""
    dtype, shape = task.logits.dtype.name, task.logits.shape
    n_classes = shape[-1]
    n_rows = task.logits.size // n_classes
    plain = is_plain(task, kind)
    choice = choose(current_device(), dtype, plain, n_rows, n_classes, task.grad is not None)
    keep: list[Any] = []
    stats = None
    if choice.stats_numbers:
        stats = empty(choice.stats_numbers, np.float64 if dtype == "float64" else np.float32)
    call = call_of(task, kind, choice, address(scales), loss_scale, address(stats), keep)
    pairs = dtype not in ("float16", "bfloat16") or current_device().capability >= (8, 0)
    for step in choice.launches:
        kernel = kernel_of(step.name, dtype, plain, pairs)
        launch(kernel, step.grid, step.threads, step.shared_bytes, call)


def call_of(
    task: Task, kind: int, choice: Choice, scales: int, loss_scale: float, stats: int, keep: list[Any]
) -> tuple[Any, ...]:
    """Give the arguments of the kernels of a task."""
    n_classes, double = task.logits.shape[-1], task.logits.dtype.name == "float64"
    number = np.float64 if double else np.float32
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
        int(q is not None and q.dtype.name == np.dtype(number).name),
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
        scales,
        stats,
        kind,
        choice.lane_bits,
        choice.tile,
        choice.parts,
        choice.part,
    )
    floats: tuple[float, ...] = (
        hi, lo, unit, inner, order, scale, 1.0 - smoothing, smoothing / n_classes, task.z_loss,
        task.ce_scale, task.zl_scale, task.zl_ratio, loss_scale,
    )  # fmt: skip
    with np.errstate(over="ignore"):  # a number too large for the type becomes inf
        numbers: list[Any] = [number(value) for value in floats]
    return Call(*integers, *numbers)
