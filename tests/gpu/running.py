"""A case made, run by the interpreter, and compared with the reference in float64."""

from typing import NamedTuple

import numpy as np
from conftest import GRAD_ON_GPU, LOSS, ROUNDING, assert_grad, assert_loss, float_type, oracle

from fastce.kernels import reference
from fastce.kernels.gpu.call import GRADIENTS, LOG_SOFTMAX, SOFTMAX
from fastce.kernels.task import Task

from . import standin
from .cases import LAYOUTS, OPTIONS, choice, number_of
from .ptx.memory import UNWRITTEN

BAD = (8, 9)  # rows whose target is no class
SPECIAL = (4, 5, 6)  # with NaN, with +inf, and of -inf alone
HUGE = (12, 13)  # rows so large that a whole number next to them is lost
N_ROWS = 14
LARGE = {"float16": 5e4, "bfloat16": 1e8, "float32": 1e8, "float64": 1e14}


class Targets(NamedTuple):
    """Classes, some of which are none, and what stands for an ignored row; of some integer type."""

    values: np.ndarray
    ignore_index: int


def rows_of_all_kinds(rng, n_classes, dtype):
    """Logits, and their targets; -1: the row is ignored, -2 and n_classes: the target is no class."""
    x = rng.normal(size=(N_ROWS, n_classes)) * 3
    y = rng.integers(0, n_classes, N_ROWS)
    other = (y + 1) % n_classes  # (the target itself, where there is no other)
    x[1] = np.sort(x[1] * 20)  # whose largest so far is soon left far behind
    x[2, other[2]] = -np.inf
    x[3, y[3]] = -np.inf
    x[4, other[4]] = np.nan
    x[5, other[5]] = np.inf
    x[6] = -np.inf
    x[7], y[7] = np.nan, -1
    y[8], y[9] = n_classes, -2
    x[10, y[10]] = x[10].max() + 20
    x[11] = np.round(x[11])
    x[11, 11 % n_classes] = x[11].max()  # equals
    large = np.array(LARGE[np.dtype(dtype).name], dtype)
    x[12] = float(large) + float(np.spacing(large)) * rng.integers(0, 4, n_classes)
    x[13] = -x[12]
    return x.astype(dtype), y


def targets_of(y, n_classes, dtype):
    """As the type can say it: unsigned ones have no numbers below 0, and at 64 bits some beyond those with a sign."""
    signed, most = np.dtype(dtype).kind == "i", np.iinfo(dtype).max
    ignored = -7 if signed else n_classes + 1
    values = [ignored if v == -1 else (-5 if signed else most) if v == -2 else int(v) for v in y]
    return Targets(np.array(values, dtype), ignored)


class Made(NamedTuple):
    """A task on the stand-in's arrays, and the same on NumPy's in float64."""

    task: Task
    exact: Task
    kind: int
    scales: object  # the stand-in's, where the device finds them
    arrays: dict  # the stand-in's, by name
    largest: np.ndarray  # logit of each row


def make(gpu, rng, case, rows=rows_of_all_kinds):
    options = {"targets": "classes", "loss": True, "grad": True, "aux": (), "kind": GRADIENTS, **OPTIONS[case.options]}
    dtype = float_type(case.dtype)
    arithmetic = np.dtype(np.float64) if case.dtype == "float64" else np.dtype(np.float32)
    x, y = rows(rng, case.n_classes, dtype)
    if "lse_in" in options and len(x) == N_ROWS:
        x[list(HUGE)] = x[0]  # whose lse is wrong by whole numbers once it is rounded
    n_rows, n_classes = x.shape
    only_logits = options["kind"] != GRADIENTS or options["targets"] is None
    targets = targets_of(y, n_classes, case.targets)
    vectors = {
        "weight": rng.uniform(0.5, 2, n_classes),
        "sample_weight": rng.uniform(0.5, 2, n_rows),
        "upstream": rng.uniform(0.5, 2, n_rows),
    }
    given = {name: v.astype(arithmetic) for name, v in vectors.items() if options.get(name)}
    if options["targets"] == "classes" and not only_logits:
        given["targets"] = targets.values
    elif options["targets"] in ("narrow", "wide"):
        q = rng.dirichlet(np.full(n_classes, 0.5), n_rows)
        q[2] = 0  # (nothing at -inf)
        q[:, 0] = 0 if n_classes > 1 else 1
        given["probabilities"] = q.astype(dtype if options["targets"] == "narrow" else arithmetic)
    if "lse_in" in options:
        with np.errstate(invalid="ignore"):
            given["lse_in"] = (oracle(_lse, x) + options["lse_in"]).astype(arithmetic)
    numbers = {
        "ignore_index": targets.ignore_index, "label_smoothing": 0.0, "z_loss": 0.0, "softcap": 0.0, "logit_scale": 1.0,
        "ce_scale": 1.0, "zl_scale": 1.0, "zl_ratio": 1.0,
    }  # fmt: skip
    numbers |= {name: value for name, value in options.items() if name in numbers}
    outputs = dict.fromkeys(options["aux"], arithmetic) | {
        name: t for name, t in {"argmax": np.int64, "rank": np.int64, "correct": bool}.items() if name in options["aux"]
    }
    if options["loss"] and not only_logits:
        outputs["loss"] = arithmetic

    layout = LAYOUTS[case.layout]
    in_place = layout.grad is None and options["grad"]
    matrices = {name: values for name, values in given.items() if name == "probabilities"}
    arrays = {name: gpu.put(v, name=name, readonly=True) for name, v in given.items() if name not in matrices}
    for name, values in {"logits": x, **matrices}.items():
        arrays[name] = _laid_out(gpu, values, layout.logits, name=name, readonly=not (in_place and name == "logits"))
    arrays |= {name: gpu.empty(n_rows, t, name=name) for name, t in outputs.items()}
    if options["grad"]:
        arrays["grad"] = arrays["logits"] if in_place else _room(gpu, x, layout.grad or (0, 0), name="grad")
    scales, wrong = None, {}
    if options.get("scales"):
        wrong = dict.fromkeys(("ce_scale", "zl_scale", "zl_ratio"), 1e9)
        scales = gpu.put(np.array([numbers[name] for name in wrong], arithmetic), readonly=True)

    nothing = dict.fromkeys(Task._fields)
    task = Task(**{**nothing, **numbers, **wrong, **arrays})
    exact = {name: np.empty(n_rows, np.float64 if t == arithmetic else t) for name, t in outputs.items()}
    if options["grad"]:
        exact["grad"] = np.empty(x.shape)
    if "targets" in given:
        given["targets"] = np.where(np.isin(np.arange(n_rows), BAD), 0, np.where(y == -1, targets.ignore_index, y))
    exact = Task(**{**nothing, **numbers, **given, **exact, "logits": x})
    largest = np.abs(np.where(np.isfinite(x), x, 0).astype(np.float64)).max(axis=1) * abs(numbers["logit_scale"])
    return Made(task, exact, options["kind"], scales, arrays, np.minimum(largest, numbers["softcap"] or np.inf))


def _laid_out(gpu, values, place, **how):
    n_rows, n_classes = values.shape
    if place == "every second":
        wide = np.zeros((n_rows, 2 * n_classes), values.dtype)
        wide[:, ::2] = values
        return gpu.put(wide, **how)[:, ::2]
    if place == "in two steps":  # from one half of the rows to the other it is further than from row to row
        apart = np.zeros((2, n_rows // 2 + 1, n_classes), values.dtype)
        apart[:, :-1] = values.reshape(2, -1, n_classes)
        return gpu.put(apart, **how)[:, :-1]
    pad, shift = place
    return gpu.put(values, pad=pad, shift=shift, **how)


def _room(gpu, values, place, **how):
    """Where a gradient goes; what lies between its rows is not to be touched."""
    if place == "in two steps":
        array = _laid_out(gpu, values, place, **how)
        array.buffer.states(array.view)[...] = UNWRITTEN
        return array
    pad, shift = place
    return gpu.empty(values.shape, values.dtype, pad=pad, shift=shift, **how)


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
    """Launch the kernels of a case; give the launches."""
    monkeypatch.setattr(
        tasks,
        "choose",
        lambda device, dtype, plain, n, c, with_grad: choice(case.kernel, dtype, plain, n, c, with_grad),
    )
    before = len(gpu.launches)
    gpu.options = {"schedule": case.schedule, "error": case.error}
    with standin.Device(gpu, number_of(case.device)):
        tasks.cross_entropy(made.task, made.kind, 0 if made.scales is None else made.scales.data.ptr)
    return gpu.launches[before:]


def check(made):
    """Compare all outputs with the exact ones; what a target has a say in is NaN, False or 0 where it is bad."""
    exact = made.exact
    number = np.arange(len(exact.logits))
    bad, special = np.isin(number, BAD) & (exact.targets is not None), np.isin(number, SPECIAL)
    largest = made.largest
    for name, array in made.arrays.items():
        expected = getattr(exact, name)
        if name in ("loss", "lse", "argmax", "correct", "rank", "target_prob", "entropy"):
            found = array.get()
            scaled = largest * (exact.softcap != 0 or exact.logit_scale != 1)
            if name in ("loss", "target_prob"):
                assert np.isnan(found[bad]).all(), name
                found, expected, scaled = found[~bad], expected[~bad], scaled[~bad]
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
                for which in (scaled > 1e3, scaled <= 1e3):
                    assert_loss(found[which], expected[which], scaled[which].max(initial=0))
        elif name == "grad":
            found = array.get().reshape(expected.shape)
            assert np.isnan(found[bad]).all()
            found, expected, largest, number = found[~bad], expected[~bad], largest[~bad], number[~bad]
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
                found, expected, largest, huge = found[rows], expected[rows], largest[rows], np.isin(number[rows], HUGE)
                terms = np.abs(expected[~huge]).max(initial=0) * ~huge[:, np.newaxis]
                assert_grad(found, expected, largest[:, np.newaxis], terms, tolerances=GRAD_ON_GPU)


def check_case(gpu, tasks, monkeypatch, rng, case):
    made = make(gpu, rng, case)
    fill_exactly(made)
    launches = run(gpu, tasks, monkeypatch, case, made)
    check(made)
    gpu.launches.clear()
    return launches
