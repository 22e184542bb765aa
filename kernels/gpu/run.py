"""From arrays on a GPU to launches: the one file of the kernels that knows CuPy.

Everything happens on the device that is current, which is to be that of the arrays, and on CuPy's current stream. Memory
is taken from CuPy's pool alone and nothing waits for the device, so that calls can be captured in a graph.
"""

from __future__ import annotations

import threading
from fractions import Fraction
from functools import lru_cache
from typing import Any

import cupy
import numpy as np

from ..formats import LOG2E, LOG2E_REST
from ..task import Task
from . import compile as _compile
from . import kernels, layout
from .call import GRADIENTS, SOFTMAX, Call
from .compile import entry_of
from .kernels import Kernel
from .launch import Choice, Device, choose

_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_WITHOUT_ASKING = 48 * 1024  # bytes of shared memory that every block may have

_loaded: dict[Any, Any] = {}
_loading = threading.Lock()


@lru_cache(maxsize=64)
def device_of(number: int) -> Device:
    """What the choice of kernels depends on."""
    device = cupy.cuda.Device(number)
    capability = device.compute_capability  # "90", "120"
    return Device((int(capability[:-1]), int(capability[-1])), device.attributes["MultiProcessorCount"])


def current_device() -> Device:
    """The current device."""
    return device_of(cupy.cuda.Device().id)


def launch(kernel: Kernel, grid: tuple[int, int], threads: int, shared_bytes: int, arguments: tuple[Any, ...]) -> None:
    """Launch a kernel on the current device and stream, compiled when first needed there."""
    number = cupy.cuda.Device().id
    function = _loaded.get((number, kernel))
    if function is None:
        with _loading:
            function = _loaded[number, kernel] = _load(kernel, device_of(number).capability)
    function(grid, (threads,), arguments, shared_mem=shared_bytes)


def _load(kernel: Kernel, capability: tuple[int, int]) -> Any:
    ptx = _compile.to_ptx(kernel.function, kernel.signature, capability, kernel.threads)
    code, _ = _compile.to_machine_code(ptx, capability)
    module = cupy.cuda.Module()
    module.load(code)
    function = module.get_function(entry_of(ptx))
    most = cupy.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"]
    if most > _WITHOUT_ASKING:
        cupy.cuda.driver.funcSetAttribute(function.ptr, _MAX_DYNAMIC_SHARED, most)
    return function


# --- arrays to addresses ---------------------------------------------------------------------------------------------


def address(array: Any) -> int:
    """Where an array begins, 0 for none."""
    return 0 if array is None else int(array.data.ptr)


def rows_of(array: Any, keep: list[Any]) -> tuple[int, int, int, int]:
    """Address, step from row to row, stride from class to class, and address of the rows' offsets if they need them.

    What must live until the kernels are launched goes into ``keep``.
    """
    if array is None:
        return 0, 0, 0, 0
    stride = array.strides[-1]
    axes = layout.merged_axes(array.shape[:-1], array.strides[:-1])
    if len(axes) < 2:
        return address(array), axes[0][1] if axes else 0, stride, 0
    n_rows = array.size // array.shape[-1]
    offsets = cupy.empty(n_rows, np.int64)
    keep.append(offsets)
    inner = n_rows
    for i, (length, step) in enumerate(axes):
        inner //= length
        arguments = layout.Layout(address(offsets), n_rows, inner, length, step, int(i == 0))
        grid = (-(-n_rows // layout.THREADS), 1)
        launch(layout.kernel(), grid, layout.THREADS, 0, arguments)
    return address(array), 0, stride, address(offsets)


def bytes_of_targets(targets: Any) -> int:
    """How the kernels are told of the type of class targets."""
    if targets is None:
        return 0
    kind, size = targets.dtype.kind, int(targets.dtype.itemsize)
    return -size if kind == "i" else size


# --- calls -----------------------------------------------------------------------------------------------------------


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
        stats = cupy.empty(choice.stats_numbers, np.float64 if dtype == "float64" else np.float32)
    call = call_of(task, kind, choice, address(scales), loss_scale, address(stats), keep)
    native = current_device().capability >= (8, 0)
    for step in choice.launches:
        kernel = kernels.kernel(step.name, dtype, plain, native or dtype != "bfloat16")
        launch(kernel, step.grid, step.threads, step.shared_bytes, call)


def call_of(
    task: Task, kind: int, choice: Choice, scales: int, loss_scale: float, stats: int, keep: list[Any]
) -> tuple[Any, ...]:
    """Give the arguments of the kernels of a task."""
    dtype, n_classes = task.logits.dtype.name, task.logits.shape[-1]
    double = dtype == "float64"
    number = np.float64 if double else np.float32
    q = task.probabilities
    smoothing = task.label_smoothing if task.targets is not None or q is not None else 0.0
    unit = task.softcap or abs(task.logit_scale)
    hi, lo = split_log2e(unit, double)
    return Call(
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
        *map(
            number,
            (
                hi,
                lo,
                unit,
                abs(task.logit_scale) / task.softcap if task.softcap else 0.0,
                (task.logit_scale > 0) - (task.logit_scale < 0),
                task.logit_scale,
                1.0 - smoothing,
                smoothing / n_classes,
                task.z_loss,
                task.ce_scale,
                task.zl_scale,
                task.zl_ratio,
                loss_scale,
            ),
        ),
    )
