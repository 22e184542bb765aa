"""Offsets beyond 2**31, and beyond 2**32: rows and classes far apart, numbers of rows, places of classes.

Nothing of that size is ever in memory. Rows lie in buffers of their own, as far apart as one likes; or an array begins
long before the only part of it that there is, and only the blocks of a launch run that are for this part.
"""

import types

import numpy as np
import pytest
from conftest import GRAD_ON_GPU, assert_grad, assert_loss, float_type

pytest.importorskip("numba_cuda", reason="numba-cuda, which compiles for GPUs, is not installed")

from fastce.kernels import reference
from fastce.kernels.gpu import kernels, launch, sums
from fastce.kernels.gpu.layout import THREADS as LAYOUT_THREADS
from fastce.kernels.gpu.layout import Layout
from fastce.kernels.gpu.memory import numbers
from fastce.kernels.gpu.together import NOWHERE
from fastce.kernels.task import Task

from . import standin
from .cases import KERNELS, choice

FAR = 2**35 + 64  # bytes
MANY_ROWS = 2**32 + 77


@pytest.fixture(scope="module")
def gpu():
    with standin.installed(capabilities=((9, 0),)) as gpu:
        yield gpu


@pytest.fixture(autouse=True)
def every_block(gpu):
    gpu.options = {}


class Far:
    """What kernels' launches need of an array, wherever its elements are."""

    def __init__(self, address, shape, strides, dtype, keep=None):
        self.keep = keep  # what is there of it
        self.data = types.SimpleNamespace(ptr=address)
        self.shape, self.strides, self.dtype = shape, strides, np.dtype(dtype)
        self.size = int(np.prod(shape))


def end_of(gpu, values, n):
    """Put the last elements, or rows, of an array of ``n``, of which there is no more: give them, and the array."""
    array = gpu.put(values)
    first = array.data.ptr - (n - len(values)) * array.strides[0]
    return array, Far(first, (n, *values.shape[1:]), array.strides, values.dtype, array)


def by_reference(x, y, **options):
    """Loss and gradient, in float64."""
    nothing = dict.fromkeys(Task._fields)
    exact = {"loss": np.empty(len(x)), "grad": np.empty(x.shape)}
    numbers = {"ignore_index": -100, "label_smoothing": 0.0, "z_loss": 0.0, "softcap": 0.0, "logit_scale": 1.0}
    scales = {"ce_scale": 1.0, "zl_scale": 1.0, "zl_ratio": 1.0}
    task = Task(**{**nothing, **numbers, **scales, **exact, "logits": x.astype(float), "targets": y, **options})
    reference.cross_entropy(task)
    return task.loss, task.grad


@pytest.mark.parametrize("step", [FAR, -FAR])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_rows_far_apart(gpu, rng, monkeypatch, kernel, dtype, step):
    from fastce.kernels.gpu import tasks

    dtype = float_type(dtype)
    x, y = rng.normal(size=(3, 700)).astype(dtype), rng.integers(0, 700, 3)
    towards = slice(None, None, 1 if step > 0 else -1)  # buffers lie in the order of their addresses
    logits = gpu.memory.rows(x[towards], FAR, name="logits", readonly=True)[towards]
    grad = gpu.memory.rows(np.zeros_like(x), FAR, name="grad")[towards]
    loss = gpu.empty(3, np.float32)
    far = [Far(rows[0].address, x.shape, (step, x.itemsize), dtype) for rows in (logits, grad)]
    monkeypatch.setattr(tasks, "choose", lambda device, *of: choice(kernel, *of))
    tasks.cross_entropy(Task.of_logits(far[0], grad=far[1])._replace(targets=gpu.put(y), loss=loss, ignore_index=-100))
    wanted_loss, wanted = by_reference(x, y)
    assert_loss(loss.get(), wanted_loss)
    assert_grad(np.stack([row.get() for row in grad]), wanted, tolerances=GRAD_ON_GPU)
    for buffer in (*logits, *grad):
        gpu.memory.free(buffer)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.25}], ids=["plain", "general"])
def test_classes_far_apart(gpu, rng, options):
    from fastce.kernels.gpu import tasks

    x, y = rng.normal(size=(2, 9)).astype(np.float32), np.array([8, 1])
    buffers = [gpu.memory.rows(values.reshape(-1, 1), FAR) for values in (x, np.zeros_like(x))]
    far = [Far(rows[0].address, x.shape, (9 * FAR, FAR), np.float32) for rows in buffers]
    loss = gpu.empty(2, np.float32)
    task = Task.of_logits(far[0], grad=far[1])._replace(targets=gpu.put(y), loss=loss, ignore_index=-100, **options)
    tasks.cross_entropy(task)
    wanted_loss, wanted = by_reference(x, y, **options)
    assert_loss(loss.get(), wanted_loss)
    grad = np.concatenate([one.get() for one in buffers[1]]).reshape(x.shape)
    assert_grad(grad, wanted, terms=np.abs(wanted).max(), tolerances=GRAD_ON_GPU)
    for buffer in (*buffers[0], *buffers[1]):
        gpu.memory.free(buffer)


@pytest.mark.parametrize(("kernel", "n_rows", "n_classes"), [("warp", 2**32 + 128, 10), ("block", 2**31 - 1, 1500)])
def test_the_last_of_many_rows(gpu, rng, monkeypatch, kernel, n_rows, n_classes):
    """As many as fill the last block: threads without a row may look at the first one's numbers, which are not there.

    Of a block-per-row kernel, a grid has at most 2**31 - 1.
    """
    from fastce.kernels.gpu import tasks

    chosen = choice(kernel, "float32", True, n_rows, n_classes, True)
    monkeypatch.setattr(tasks, "choose", lambda *of: chosen)
    (one,) = chosen.launches
    of_a_block = one.threads >> chosen.lane_bits if kernel == "warp" else 1
    last = one.grid[0] - 1
    assert (last + 1) * of_a_block == n_rows
    n = n_rows - last * of_a_block
    x, y, s = rng.normal(size=(n, n_classes)).astype(np.float32), rng.integers(0, n_classes, n), rng.uniform(1, 2, n)
    _, logits = end_of(gpu, x, n_rows)
    _, targets = end_of(gpu, y, n_rows)
    _, weights = end_of(gpu, s.astype(np.float32), n_rows)
    grad, grad_end = end_of(gpu, np.zeros_like(x), n_rows)
    loss, loss_end = end_of(gpu, np.zeros(n, np.float32), n_rows)
    gpu.options = {"blocks": [last]}
    ends = {"ignore_index": -100, "targets": targets, "sample_weight": weights, "loss": loss_end}
    tasks.cross_entropy(Task.of_logits(logits, grad=grad_end)._replace(**ends))
    wanted_loss, wanted = by_reference(x, y, sample_weight=s.astype(np.float32).astype(float))
    assert_loss(loss.get(), wanted_loss)
    assert_grad(grad.get(), wanted, tolerances=GRAD_ON_GPU)


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "general"])
def test_the_end_of_the_longest_row(gpu, rng, monkeypatch, plain):
    """2**31 - 64 classes: of all but the end there are only the findings that a first part would have left."""
    from fastce.device_arrays import MOST_CLASSES
    from fastce.kernels.gpu import tasks

    of_type, chunks = numbers("float32"), MOST_CLASSES // 4
    part = chunks // 256 * 256
    first, n = 4 * part, MOST_CLASSES - 4 * part
    x = rng.normal(size=n).astype(np.float32)
    logits, grad = gpu.put(x), gpu.put(np.zeros_like(x))
    ends = [Far(a.data.ptr - 4 * first, (1, MOST_CLASSES), (4 * MOST_CLASSES, 4), np.float32) for a in (logits, grad)]
    # One class that is not at -inf, and the target's logit; the first of each pair is the first part's.
    before, found = {kernels.FIRST: 0.5, kernels.TIES: 1, kernels.TARGET: x[-3]}, np.zeros((kernels.STATS_FIELDS, 2))
    found[list(before), 0] = list(before.values())
    found = found.astype(np.float32)
    found[kernels.NAN_AT, 0] = np.int32(NOWHERE).view(np.float32)
    stats = gpu.put(found[: kernels.PLAIN_FIELDS if plain else None].ravel())
    chosen = launch.split(of_type, plain, 1, chunks, True, 64, part, 256)
    monkeypatch.setattr(tasks, "choose", lambda *of: chosen)
    monkeypatch.setattr(tasks, "empty", lambda *of: stats)
    gpu.options = {"blocks": [1]}
    task = Task.of_logits(ends[0], grad=ends[1])
    task = task._replace(targets=gpu.put(np.array([MOST_CLASSES - 3])), ignore_index=-100)
    if not plain:
        task = task._replace(argmax=gpu.put(np.zeros(1, np.int64)))
    tasks.cross_entropy(task)
    powers = np.exp(x.astype(float))
    wanted = powers / (powers.sum() + np.exp(0.5))
    wanted[-3] -= 1
    assert_grad(grad.get()[np.newaxis], wanted[np.newaxis], tolerances=GRAD_ON_GPU)
    if not plain:
        top_at = stats.get()[2 * kernels.TOP_AT + 1].view(np.int32)
        assert top_at == first + x.argmax()


def test_sums_over_many_rows(gpu, rng):
    """The last of 256 blocks, whose rows begin beyond 2**32."""
    from fastce.kernels.gpu import totals

    share, n = 2**25, 100
    n_rows, y = 255 * share + n, rng.integers(0, 5, n)
    losses = rng.normal(size=n).astype(np.float32)
    _, targets = end_of(gpu, y, n_rows)
    _, losses_end = end_of(gpu, losses, n_rows)
    partials = gpu.put(np.zeros(sums.PARTIAL_FIELDS))
    call = sums.Sums(
        n_rows=n_rows, n_classes=4, targets=targets.data.ptr, target_bytes=-8, ignore_index=3, share=share,
        losses=losses_end.data.ptr, partials=partials.data.ptr - 255 * 8 * sums.PARTIAL_FIELDS, n_partials=256,
    )  # fmt: skip
    gpu.options = {"blocks": [255]}
    totals._launch("weigh", 256, call, np.float32)
    found = partials.get()
    assert (
        found[sums.WEIGHT_SUM] == found[sums.ROW_SUM] == (y != 3).sum()
    )  # (bad targets count: only ignored ones do not)
    assert found[sums.BAD_ROW].view(np.int64) == 255 * share + np.argmax(y == 4)
    totals._launch("add", 256, call, np.float32)
    np.testing.assert_allclose(partials.get()[0], losses.astype(float).sum(), rtol=1e-14)


def test_nll_of_many_rows(gpu, rng):
    from fastce.kernels.gpu import totals

    n = MANY_ROWS % sums.THREADS
    p, y = rng.normal(size=(n, 3)).astype(np.float32), rng.integers(0, 3, n)
    _, log_probs = end_of(gpu, p, MANY_ROWS)
    _, targets = end_of(gpu, y, MANY_ROWS)
    losses, losses_end = end_of(gpu, np.zeros(n, np.float32), MANY_ROWS)
    gpu.options = {"blocks": [MANY_ROWS // sums.THREADS]}
    totals.nll_loss(log_probs, targets, -100, None, None, 1.0, losses_end)
    np.testing.assert_array_equal(losses.get(), -p[np.arange(n), y])


def test_layout_of_many_rows(gpu):
    from fastce.kernels.gpu import layout, run

    n = MANY_ROWS % LAYOUT_THREADS
    offsets, end = end_of(gpu, np.zeros(n, np.int64), MANY_ROWS)
    call = Layout(end.data.ptr, MANY_ROWS, inner=3, length=2**31 + 11, stride=-(2**33), start=1)
    gpu.options = {"blocks": [MANY_ROWS // LAYOUT_THREADS]}
    run.launch(layout.kernel(), (MANY_ROWS // LAYOUT_THREADS + 1, 1), LAYOUT_THREADS, 0, call)
    i = np.arange(MANY_ROWS - n, MANY_ROWS)
    np.testing.assert_array_equal(offsets.get(), i // 3 % (2**31 + 11) * -(2**33))
