"""Every instruction of every kernel is executed by some test, with results that are right; what is not is explained."""

import re

import numpy as np
import pytest
from conftest import FLOAT_TYPES, arithmetic_type, float_type

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
    rf"({_COMPUTES}){{,16}}(div|rem)\.[su]64; bra\.uni": "a quotient of numbers of more than 32 bits",
    r"(sub\.f(32|64); )+bra\.uni": "log_softmax of capped logits, which no function asks for",
    r"mov\.u(32|64)(; st\.shared\.u(32|64))+": "what parts of a row left, where they left nothing, which is nowhere",
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


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
def test_every_instruction_of_sums_is_executed(gpu, monkeypatch, rng, dtype):
    """Denominators and losses of some rows, and of so many that several blocks add up; all types of targets."""
    from fastce.device import scale
    from fastce.kernels.gpu.scale import kernel as scale_kernel

    monkeypatch.setattr(sums, "ROWS_A_BLOCK", 5 * sums.THREADS)  # which loops are unrolled for
    gpu.launches.clear()
    dtype = float_type(dtype)
    arithmetic = arithmetic_type(dtype)
    with standin.Device(gpu, number_of("9.0")):
        for n_rows, targets_dtype in [*((40, name) for name in TARGETS), (3000, "int64")]:
            x = rng.normal(size=(2, n_rows // 2 + 1, 4)).astype(dtype)
            y = rng.integers(0, 4, (2, n_rows // 2))
            y[0, 1], y[1, 2], y[1, 3] = 4, -2, -1
            targets = targets_of(y.ravel(), 4, targets_dtype)
            logits, y = gpu.put(x)[:, :-1], gpu.put(targets.values.reshape(y.shape))
            vectors = {"weight": rng.uniform(1, 2, 4), "sample_weight": rng.uniform(1, 2, y.shape)}
            vectors = {name: gpu.put(v.astype(arithmetic)) for name, v in vectors.items()}
            for options in (vectors, {}):
                options = {"ignore_index": targets.ignore_index, **options}
                assert np.isnan(fastce.cross_entropy(logits, y, z_loss=0.5, **options).get())
                losses = fastce.nll_loss(logits, y, reduction="none", **options).get()
                np.testing.assert_array_equal(np.argwhere(np.isnan(losses)), [[0, 1], [1, 2]])
            ignored = gpu.put(np.full(y.shape, targets.ignore_index, y.dtype))
            mean = fastce.cross_entropy(logits, ignored, ignore_index=targets.ignore_index, empty="zero")
            assert mean.get() == 0
        for factor in (1.0, 0.5):
            scale(gpu.put(np.ones(40_000, dtype)), gpu.put(np.array(factor, arithmetic)))  # five for each thread
    found = by_kernel(gpu.launches)
    of_sums = [sums.kernel(name, (dtype if name == "nll" else arithmetic).name) for name in sums.NAMES]
    for kernel in (scale_kernel(dtype.name, True), layout.kernel(), *of_sums):
        assert_covered(found[ptx_of(kernel, (9, 0))])
