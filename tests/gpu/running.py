"""A case made, run by the interpreter, and compared with the reference in float64."""

from typing import NamedTuple

import numpy as np
from conftest import GRAD_ON_GPU, LOSS, ROUNDING, assert_grad, assert_loss, float_type, oracle

from fastce.kernels import reference
from fastce.kernels.gpu.call import GRADIENTS, LOG_SOFTMAX, SOFTMAX
from fastce.kernels.task import Task

from . import standin
from .cases import LAYOUTS, OPTIONS, choice, number_of

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


def make(gpu, rng, case, rows=rows_of_all_kinds):
    options = {"targets": "classes", "loss": True, "grad": True, "aux": (), "kind": GRADIENTS, **OPTIONS[case.options]}
    dtype = float_type(case.dtype)
    arithmetic = np.dtype(np.float64) if case.dtype == "float64" else np.dtype(np.float32)
    x, y = rows(rng, case.n_classes, dtype)
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
    """Launch the kernels of a case; give their counters."""
    monkeypatch.setattr(
        tasks,
        "choose",
        lambda device, dtype, plain, n, c, with_grad: choice(case.kernel, dtype, plain, n, c, with_grad),
    )
    before = len(gpu.launches)
    gpu.options = {"schedule": case.schedule, "error": case.error}
    with standin.Device(gpu, number_of(case.device)):
        tasks.cross_entropy(made.task, made.kind)
    return [launched.counters for launched in gpu.launches[before:]]


def check(made):
    """Compare all outputs with the exact ones; what a target has a say in is NaN, False or 0 where it is bad."""
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
            if name in ("correct", "rank"):
                assert not found[bad].any(), name
                np.testing.assert_array_equal(found[~bad & ~special], expected[~bad & ~special], name)
            elif name == "argmax":
                np.testing.assert_array_equal(found, expected, name)
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
                assert_grad(found[rows], expected[rows], made.largest, terms, tolerances=GRAD_ON_GPU)


def check_case(gpu, tasks, monkeypatch, rng, case):
    made = make(gpu, rng, case)
    fill_exactly(made)
    counters = run(gpu, tasks, monkeypatch, case, made)
    check(made)
    gpu.launches.clear()
    return counters
