"""Every kernel, as compiled for several kinds of GPU, run by the interpreter of PTX and compared with the reference.

Kernel, type, options, number of classes, layout, schedule, error of approximate instructions: every pair of values of
two of these is run. `make slow` runs more. Of every 12 rows, each is of another kind, see `rows_of_all_kinds`.
"""

import itertools
from typing import NamedTuple

import numpy as np
import pytest
from conftest import FLOAT_TYPES, LOSS, ROUNDING, assert_grad, assert_loss, float_type, oracle

pytest.importorskip("numba_cuda", reason="numba-cuda, which compiles for GPUs, is not installed")

from fastce.kernels import reference
from fastce.kernels.gpu import launch
from fastce.kernels.gpu.call import GRADIENTS, LOG_SOFTMAX, SOFTMAX
from fastce.kernels.gpu.memory import SECTOR_BYTES, numbers
from fastce.kernels.task import Task

from . import standin
from .ptx import SCHEDULES

KERNELS = ("warp", "block", "online", "split")
# One class; fewer than lanes of a warp; one more; several chunks for each lane; one more than chunks of any type;
# rounds of threads and a rest; several pieces and parts.
CLASSES = (1, 7, 33, 200, 513, 1001, 4100)
MOST_OF_A_WARP = 1001  # beyond, no device has the memory

PLAIN = {
    "plain": {},
    "weights": {"weight": True, "sample_weight": True},
    "z-loss, upstream": {"z_loss": 0.125, "upstream": True, "ce_scale": 0.5, "zl_scale": 2.0, "zl_ratio": 0.25},
    "scale": {"logit_scale": 0.5, "aux": ("lse", "target_prob")},
    "loss alone": {"grad": False},
    "lse given": {"lse_in": 0.0, "loss": False},
    "lse of more classes": {"lse_in": 1.5, "loss": False, "z_loss": 0.125},
    "softmax": {"kind": SOFTMAX},
    "logsumexp": {"targets": None, "loss": False, "grad": False, "aux": ("lse",)},
}
EVERY = {
    "weight": True, "sample_weight": True, "upstream": True, "label_smoothing": 0.25, "z_loss": 0.125, "softcap": 8.0,
    "logit_scale": 1.5,
}  # fmt: skip
ALL_AUX = ("lse", "argmax", "correct", "rank", "target_prob", "entropy")
GENERAL = {
    "smoothing": {"label_smoothing": 0.25},
    "smoothing, weights": {"label_smoothing": 0.25, "weight": True, "sample_weight": True},
    "probabilities": {"targets": "narrow"},
    "wide probabilities": {"targets": "wide", "weight": True, "z_loss": 0.125, "aux": ("lse", "argmax", "entropy")},
    "softcap": {"softcap": 8.0},
    "negative scale": {"logit_scale": -0.5, "aux": ALL_AUX},
    "aux": {"aux": ALL_AUX},
    "everything": {**EVERY, "aux": ALL_AUX},
    "everything, probabilities": {**EVERY, "targets": "narrow", "aux": ("lse", "argmax", "entropy")},
    "log_softmax": {"kind": LOG_SOFTMAX},
}
OPTIONS = {**PLAIN, **GENERAL}

# Where rows lie: elements after each row, and before the first; the same of the gradient; None: over the logits.
LAYOUTS = {
    "dense": ((0, 0), (0, 0)),
    "in place": ((0, 0), None),
    "padded": ((16, 16), (16, 16)),
    "odd": ((3, 1), (3, 1)),
    "odd, in place": ((5, 3), None),
    "apart": ((3, 1), (1, 0)),  # shifted otherwise than the gradient
    "strided": ("every second", (0, 0)),
}
ERRORS = (None, "high", "low", 7)

# A gradient's element may be off by this much of the largest in its row: `ex2.approx` in float32 is wrong by 2 units in
# the last place, the sum of powers by as much again.
GRAD = {np.dtype(np.float32): 6e-7, np.dtype(np.float64): 4e-15}


class Case(NamedTuple):
    kernel: str
    dtype: str
    options: str
    n_classes: int
    layout: str
    schedule: str
    error: object


FACTORS = (KERNELS, FLOAT_TYPES, tuple(OPTIONS), CLASSES, tuple(LAYOUTS), tuple(SCHEDULES), ERRORS)


def allowed(case):
    return case.kernel != "warp" or case.n_classes <= MOST_OF_A_WARP


def pairs_of(case):
    return set(itertools.combinations(enumerate(case), 2))


def every_pair():
    """Few cases in which every pair of two factors' values occurs: each the best of some of chance."""
    rng = np.random.default_rng(3)
    left = {
        pair
        for (i, a), (j, b) in itertools.combinations(enumerate(FACTORS), 2)
        for pair in itertools.product([(i, v) for v in a], [(j, v) for v in b])
    } - {((0, "warp"), (3, n)) for n in CLASSES if n > MOST_OF_A_WARP}
    cases = []
    while left:
        wanted = dict(sorted(left, key=str)[0])
        tries = [
            Case(*(wanted.get(i, values[rng.integers(len(values))]) for i, values in enumerate(FACTORS)))
            for _ in range(30)
        ]
        tries = [case for case in tries if allowed(case)]
        best = max(tries, key=lambda case: len(pairs_of(case) & left), default=None)
        if best is not None:
            cases.append(best)
            left -= pairs_of(best)
    return cases


def device_of(case):
    """Every kernel and every type on every kind of device, but not the product."""
    return (KERNELS.index(case.kernel) + FLOAT_TYPES.index(case.dtype)) % len(standin.CAPABILITIES)


def choice(name, dtype, plain, n_rows, n_classes, with_grad):
    """The launches of a kernel, with few threads and little memory, so that small rows are several pieces."""
    of_type = numbers(dtype)
    if name == "warp":
        return launch.warp(of_type, plain, n_rows, n_classes)
    chunks = launch.chunks_of(of_type, n_classes, SECTOR_BYTES)
    if name == "block":
        return launch.block(launch.Device((9, 0), 132), of_type, plain, n_rows, chunks)
    threads, tile = 64, 256
    if name == "online":
        return launch.online(of_type, plain, n_rows, chunks, threads, tile)
    part = -(-chunks // 3)
    return launch.split(of_type, plain, n_rows, chunks, with_grad, threads, part, tile)


IGNORED = -7
BAD = (8, 9)  # rows whose target is no class


def rows_of_all_kinds(rng, n_classes, dtype):
    x = rng.normal(size=(12, n_classes)) * 3
    y = rng.integers(0, n_classes, 12)
    other = (y + 1) % n_classes  # (the target itself, where there is no other)
    rows = np.arange(12)
    x[1] *= 20
    x[2, other[2]] = -np.inf
    x[3, y[3]] = -np.inf
    x[4, other[4]] = np.nan
    x[5, other[5]] = np.inf
    x[6] = -np.inf
    x[7], y[7] = np.nan, IGNORED
    y[8], y[9] = n_classes, -5
    x[10, y[10]] = x[10].max() + 20
    x[11] = np.round(x[11])
    x[11, rows[11] % n_classes] = x[11].max()  # equals
    return x.astype(dtype), y


class Made(NamedTuple):
    """A task on the stand-in's arrays, and the same on NumPy's in float64."""

    task: Task
    exact: Task
    kind: int
    arrays: dict  # the stand-in's, by name
    largest: float


def make(gpu, rng, case):
    options = {"targets": "classes", "loss": True, "grad": True, "aux": (), "kind": GRADIENTS, **OPTIONS[case.options]}
    dtype = float_type(case.dtype)
    arithmetic = np.dtype(np.float64) if case.dtype == "float64" else np.dtype(np.float32)
    x, y = rows_of_all_kinds(rng, case.n_classes, dtype)
    n_rows, n_classes = x.shape
    kind, aux = options["kind"], options["aux"]
    only_logits = kind != GRADIENTS or options["targets"] is None
    vectors = {
        "weight": rng.uniform(0.5, 2, n_classes),
        "sample_weight": rng.uniform(0.5, 2, n_rows),
        "upstream": rng.uniform(0.5, 2, n_rows),
    }
    given = {name: v.astype(arithmetic) for name, v in vectors.items() if options.get(name)}
    if options["targets"] == "classes" and not only_logits:
        given["targets"] = y
    elif options["targets"] in ("narrow", "wide"):
        q = rng.dirichlet(np.full(n_classes, 0.5), n_rows)
        q[2] = 0  # (nothing at -inf)
        q[:, 0] = 0 if n_classes > 1 else 1
        given["probabilities"] = q.astype(dtype if options["targets"] == "narrow" else arithmetic)
    if "lse_in" in options:
        with np.errstate(invalid="ignore"):
            given["lse_in"] = (oracle(_lse, x) + options["lse_in"]).astype(arithmetic)
    numbers_ = {
        "ignore_index": IGNORED, "label_smoothing": 0.0, "z_loss": 0.0, "softcap": 0.0, "logit_scale": 1.0,
        "ce_scale": 1.0, "zl_scale": 1.0, "zl_ratio": 1.0,
    }  # fmt: skip
    numbers_ |= {name: value for name, value in options.items() if name in numbers_}
    outputs = {
        name: ((n_rows,), {"argmax": np.int64, "rank": np.int64, "correct": bool}.get(name, arithmetic)) for name in aux
    }
    if options["loss"] and not only_logits:
        outputs["loss"] = (n_rows,), arithmetic

    nothing = dict.fromkeys(Task._fields)
    (place, grad_place) = LAYOUTS[case.layout]
    arrays = {name: gpu.put(values, name=name, readonly=True) for name, values in given.items()}
    in_place = grad_place is None and options["grad"]
    if place == "every second":
        wide = np.zeros((n_rows, 2 * n_classes), dtype)
        wide[:, ::2] = x
        arrays["logits"] = gpu.put(wide, name="logits", readonly=True)[:, ::2]
    else:
        pad, shift = place
        arrays["logits"] = gpu.put(x, name="logits", readonly=not in_place, pad=pad, shift=shift)
    arrays |= {name: gpu.empty(shape, t, name=name) for name, (shape, t) in outputs.items()}
    if options["grad"]:
        arrays["grad"] = arrays["logits"]
        if not in_place:
            pad, shift = grad_place or (0, 0)
            arrays["grad"] = gpu.empty(x.shape, dtype, name="grad", pad=pad, shift=shift)
    task = Task(**{**nothing, **numbers_, **arrays})

    exact = {name: np.empty(shape, np.float64 if t == arithmetic else t) for name, (shape, t) in outputs.items()}
    if options["grad"]:
        exact["grad"] = np.empty(x.shape)
    if "targets" in given:
        given["targets"] = np.where(np.isin(np.arange(n_rows), BAD), 0, y)
    exact = Task(**{**nothing, **numbers_, **given, **exact, "logits": x})
    finite = np.abs(np.where(np.isfinite(x), x, 0).astype(np.float64)).max() * abs(numbers_["logit_scale"])
    return Made(task, exact, kind, arrays, min(finite, numbers_["softcap"] or np.inf))


def _lse(x, backend):
    found = np.empty(len(x))
    reference.logsumexp(x, found)
    return found


def fill_exactly(made):
    task = made.exact
    if made.kind != GRADIENTS:
        (reference.softmax if made.kind == SOFTMAX else reference.log_softmax)(task.logits, task.grad)
    elif task.targets is None and task.probabilities is None:
        reference.logsumexp(task.logits, task.lse)
    else:
        reference.cross_entropy(task)


def run(gpu, tasks, monkeypatch, case, made):
    """Launch the kernels of a case; give the counters."""
    monkeypatch.setattr(
        tasks,
        "choose",
        lambda device, dtype, plain, n, c, with_grad: choice(case.kernel, dtype, plain, n, c, with_grad),
    )
    gpu.launches.clear()
    gpu.options = {"schedule": case.schedule, "error": case.error}
    with standin.Device(gpu, device_of(case)):
        tasks.cross_entropy(made.task, made.kind)
    return [launched.counters for launched in gpu.launches]


def check(made):
    """Compare all outputs with the exact ones; bad targets make loss and gradient NaN."""
    exact = made.exact
    bad = np.isin(np.arange(len(exact.logits)), BAD) & (exact.targets is not None)
    special = np.isin(np.arange(len(exact.logits)), (4, 5, 6))  # NaN, +inf, -inf alone
    for name, array in made.arrays.items():
        expected = getattr(exact, name)
        if name in ("loss", "lse", "argmax", "correct", "rank", "target_prob", "entropy"):
            found = array.get()
            if name in ("loss", "target_prob"):
                assert np.isnan(found[bad]).all(), name
            found, expected = found[~bad], expected[~bad]
            if name in ("argmax", "correct", "rank"):
                keep = ~special[~bad] if name != "argmax" else slice(None)
                np.testing.assert_array_equal(found[keep], expected[keep], name)
            else:
                # Powers below the smallest normal number may be 0, and a loss is a sum of them, times weights that
                # here add up to less than 64.
                gone = 64 * exact.logits.shape[-1] * np.finfo(found.dtype).tiny
                with np.errstate(invalid="ignore"):  # inf - inf
                    expected = np.where(np.abs(found - expected) < gone, found, expected)
                scaled = made.largest * (exact.softcap != 0 or exact.logit_scale != 1)
                assert_loss(found, expected, scaled)
        elif name == "grad":
            found = array.get()
            assert np.isnan(found[bad]).all()
            found, expected = found[~bad], expected[~bad]
            nan = np.isnan(expected)
            np.testing.assert_array_equal(np.isnan(found), nan)
            rows = ~nan.any(axis=1)
            if expected.shape[1] == 1 and made.kind == GRADIENTS and not exact.z_loss and exact.lse_in is None:
                assert (found[rows] == 0).all()
            if made.kind == LOG_SOFTMAX:
                with np.errstate(invalid="ignore"):
                    relative, absolute = ROUNDING[found.dtype]
                    relative += LOSS[np.dtype(np.float64 if found.dtype == np.float64 else np.float32)]
                    np.testing.assert_allclose(found[rows].astype(float), expected[rows], relative, absolute)
            else:
                terms = np.abs(expected[rows]).max(initial=0)
                assert_grad(found[rows], expected[rows], made.largest, terms, tolerances=GRAD)


@pytest.fixture(scope="module")
def gpu():
    with standin.installed() as gpu:
        yield gpu


@pytest.fixture(scope="module")
def tasks(gpu):
    from fastce.kernels.gpu import tasks

    return tasks


def check_case(gpu, tasks, monkeypatch, rng, case):
    made = make(gpu, rng, case)
    fill_exactly(made)
    run(gpu, tasks, monkeypatch, case, made)
    check(made)


CASES = every_pair()


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_every_pair(gpu, tasks, monkeypatch, rng, case):
    check_case(gpu, tasks, monkeypatch, rng, case)


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_size_and_layout(gpu, tasks, monkeypatch, rng, kernel, dtype, options):
    for i, (n_classes, layout) in enumerate(itertools.product(CLASSES, LAYOUTS)):
        case = Case(kernel, dtype, options, n_classes, layout, FACTORS[5][i % 4], ERRORS[i // 4 % 4])
        if allowed(case):
            check_case(gpu, tasks, monkeypatch, rng, case)
