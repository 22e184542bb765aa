"""Every instruction of every kernel is executed by some test, with results that are right; what is not is explained."""

import re

import numpy as np
import pytest
from conftest import FLOAT_TYPES, arithmetic_type, assert_loss, float_type, oracle

import fastce

pytest.importorskip("numba_cuda", reason="numba-cuda, which compiles for GPUs, is not installed")

from fastce.kernels.gpu import kernels, layout, sums

from . import standin
from .cases import KERNELS, TARGETS, chosen, number_of
from .compiled import ptx_of
from .running import check_case, targets_of

# Instructions in a row that nothing executes, by a regular expression of their opcodes, and why.
_COMPUTES = r"(add|and|cvt|ld\.param|max|min|mov|mul|neg|not|or|selp|setp|shl|shr|sub)[\w.]*; "
UNCOVERED = {
    r"bra\.uni": "a target of another number of bytes than there are: where a table of numbers ends",
    rf"({_COMPUTES}){{,16}}(div|rem)\.[su]64; ({_COMPUTES}){{,2}}bra\.uni": "a quotient of more than 32 bits",
    r"(sub\.f(32|64); )+bra\.uni": "log_softmax of capped logits, which no function asks for",
    r"add\.f(32|64); div\.rn\.f(32|64); .*fma.*; mov\.u64; (mov\.f(32|64); )*bra\.uni": "log_softmax, in plain kernels",
    r"mov\.u(32|64)(; st\.shared\.u(32|64))+": "what parts of a row left, where they left nothing, which is nowhere",
    r"setp\.eq\.s64; bra; neg\.s64; add\.s64; setp\.ne\.s64; bra": "what `add` adds up where there are no losses",
    r"setp\.lt\.u64; max\.s64; .*fma\.rn\.f64": "probabilities in another type than float64, for logits of float64",
}


def stretches(counters):
    """Uncovered instructions that follow each other: opcodes, and the text of the first and the last."""
    found, lines = [], dict(counters.uncovered())
    for instruction in counters.kernel.instructions:
        if instruction.line not in lines:
            found.append([])
        elif not found:
            found.append([instruction])
        else:
            found[-1].append(instruction)
    for stretch in filter(None, found):
        text = [re.sub(r"\s+", " ", lines[i.line]) for i in stretch]
        yield (
            "; ".join(re.sub(r"^@\S+ ", "", t).split(" ")[0] for t in text),
            f"line {stretch[0].line}: {text[0]} ... {text[-1]}",
        )


def by_kernel(launches):
    """The counters of all launches of each kernel, by its text."""
    total = {}
    for launched in launches:
        if launched.ptx in total:
            total[launched.ptx] += launched.counters
        else:
            total[launched.ptx] = launched.counters
    return total


def assert_covered(counters):
    left = [where for opcodes, where in stretches(counters) if not any(re.fullmatch(e, opcodes) for e in UNCOVERED)]
    assert left == [], "\n".join(left)


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "general"])
@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_instruction_is_executed(gpu, tasks, monkeypatch, kernel, dtype, plain):
    launches = []
    for case in chosen(kernel, dtype, plain):
        launches += check_case(gpu, tasks, monkeypatch, np.random.default_rng(5), case)
    found = by_kernel(launches)
    for name in PARTS.get(kernel, (kernel,)):
        assert_covered(found[ptx_of(kernels.kernel(name, dtype, plain, True), (9, 0))])


PARTS = {"split": ("part", "finish")}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_instruction_of_sums_is_executed(gpu, monkeypatch, rng, dtype):
    """Few rows, which one block adds up, and many, which several do; all types of targets, some of them bad."""
    monkeypatch.setattr(sums, "ROWS_A_BLOCK", 5 * sums.THREADS)  # loops are unrolled to four rows of each thread
    gpu.launches.clear()
    with standin.Device(gpu, number_of("9.0")):
        for n_rows in (40, 9 * sums.THREADS):
            x, y = rng.normal(size=(n_rows, 2)).astype(dtype), rng.integers(-2, 3, n_rows)
            w, s = rng.uniform(1, 2, 2).astype(dtype), rng.uniform(1, 2, n_rows).astype(dtype)
            good, counts = (y >= 0) & (y < 2), y != -1
            of_class = np.where(good, w[y % 2], 1).astype(float)  # of a bad target, nobody knows the class's weight
            logits, of_classes, of_rows = gpu.put(x), {"weight": gpu.put(w)}, {"sample_weight": gpu.put(s)}
            for options, weights, types in (
                ({}, np.ones(n_rows), TARGETS),
                (of_classes, of_class, TARGETS[:1]),
                (of_rows, s.astype(float), TARGETS[:1]),
                ({**of_classes, **of_rows}, s * of_class, TARGETS),
            ):
                wanted, denominator = None, weights[counts].sum()
                for targets_dtype in types:
                    targets = targets_of(y, 2, targets_dtype)
                    classes, options["ignore_index"] = gpu.put(targets.values), targets.ignore_index
                    if wanted is None:
                        wanted = losses_and_gradients(logits, classes, reduction="sum", **options)[1] / denominator
                    loss, grad = losses_and_gradients(logits, classes, **options)
                    assert np.isnan(loss)
                    np.testing.assert_allclose(grad[good], wanted[good], rtol=8 * np.finfo(dtype).eps)
            assert np.isnan(fastce.cross_entropy(logits, classes, z_loss=0.5, **options).get())
            ignored = gpu.put(np.full(n_rows, targets.ignore_index, targets_dtype))
            assert fastce.cross_entropy(logits, ignored, empty="zero", **options).get() == 0
            q = rng.dirichlet(np.ones(2), n_rows).astype(dtype)
            loss, _ = losses_and_gradients(logits, gpu.put(q), **of_rows)
            assert_loss(loss, oracle(fastce.cross_entropy, x, q, sample_weight=s))
    found = by_kernel(gpu.launches)
    for name in sums.NAMES:
        if name != "nll":
            assert_covered(found[ptx_of(sums.kernel(name, np.dtype(dtype).name), (9, 0))])


def losses_and_gradients(logits, targets, **options):
    result = fastce.cross_entropy_with_grad(logits, targets, **options)
    return result.loss.get(), result.grad.get()


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
def test_every_instruction_of_losses_and_factors_is_executed(gpu, rng, dtype):
    """Also of the layout of rows that no single step leads to."""
    from fastce.device import scale
    from fastce.kernels.gpu.scale import kernel as scale_kernel

    gpu.launches.clear()
    dtype = float_type(dtype)
    arithmetic = arithmetic_type(dtype)
    with standin.Device(gpu, number_of("9.0")):
        for targets_dtype in TARGETS:
            x, y = rng.normal(size=(2, 21, 4)).astype(dtype), rng.integers(0, 4, (2, 20))
            y[0, 1], y[1, 2], y[1, 3], y[0, 4] = 4, -2, -1, 0
            x[0, 4, 0] = -np.inf
            targets = targets_of(y.ravel(), 4, targets_dtype)
            classes = gpu.put(targets.values.reshape(y.shape))
            vectors = {"weight": np.array([0, 1, 2, 3]), "sample_weight": rng.uniform(1, 2, y.shape)}
            vectors = {name: gpu.put(v.astype(arithmetic)) for name, v in vectors.items()}
            for log_probs, options in ((gpu.put(x)[:, :-1], vectors), (gpu.put(x[:, :-1]), {})):
                options = {"ignore_index": targets.ignore_index, "reduction": "none", **options}
                losses = fastce.nll_loss(log_probs, classes, **options).get()
                np.testing.assert_array_equal(np.argwhere(np.isnan(losses)), [[0, 1], [1, 2]])
                assert losses[1, 3] == 0
                assert losses[0, 4] == (0 if "weight" in options else np.inf)
        for factor in (1.0, 0.5):
            values = gpu.put(np.ones(40_000, dtype))  # five for each thread
            scale(values, gpu.put(np.array(factor, arithmetic)))
            assert (values.get() == factor).all()
    found = by_kernel(gpu.launches)
    for kernel in (sums.kernel("nll", dtype.name), layout.kernel(), scale_kernel(dtype.name, True)):
        assert_covered(found[ptx_of(kernel, (9, 0))])
