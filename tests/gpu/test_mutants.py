"""The kernels, broken in one place at a time: the comparison with the reference, or the interpreter, notices."""

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda, which compiles for GPUs, is not installed")

from fastce.kernels.gpu import kernels, saved, sums
from fastce.kernels.gpu import layout as layout_of_rows

from . import running, standin
from .cases import Case, number_of
from .compiled import ptx_of
from .ptx.mutants import Outcome, mutants, survives

# For every kernel: a first chunk, whole ones and their rest; whole ones alone; gradients apart; rows that are sure of a
# class each, as reductions that miss some threads' largest are wrong there only.
CASES = [
    (513, "odd, in place", "random"),
    (200, "dense", "warp-reverse"),
    (33, "apart", "warp-serial"),
    (513, "padded", "lockstep"),
]
SURE = "padded"


def sure_rows(rng, n_classes, dtype):
    n_rows = -(-n_classes // 4)
    x = rng.normal(size=(n_rows, n_classes))
    y = np.arange(n_rows) * 4
    x[np.arange(n_rows), y] += 30
    y[list(running.BAD)] = n_classes, -5
    return x.astype(dtype), y


class Checked:
    """What `survives` calls with a PTX text in place of a kernel's own."""

    device = "9.0"

    def __init__(self, gpu, monkeypatch, kernel):
        from fastce.kernels.gpu import run

        self.gpu, self.monkeypatch, self.launches, self.kernel = gpu, monkeypatch, run, kernel
        self.number = number_of(self.device)
        self.ptx = ptx_of(kernel, standin.CAPABILITIES[self.number])

    def __call__(self, text):
        """Give the outcome of all calls; they are to raise if something is wrong."""
        own = saved.code_of

        def code_of(kernel, capability):
            return (
                saved.Code(text.encode(), own(kernel, capability).entry)
                if kernel is self.kernel
                else own(kernel, capability)
            )

        self.monkeypatch.setattr(saved, "code_of", code_of)
        self.launches._loaded.pop((self.number, self.kernel), None)
        self.gpu.launches.clear()
        try:
            with standin.Device(self.gpu, self.number):
                results = self.calls()
        finally:
            self.monkeypatch.setattr(saved, "code_of", own)
            self.launches._loaded.pop((self.number, self.kernel), None)
        name = saved.entry_of(text)
        counters = [launched.counters for launched in self.gpu.launches if launched.kernel == name]
        for more in counters[1:]:
            counters[0] += more
        return Outcome(counters[0], b"".join(array.get().tobytes() for array in results))


class CheckedRows(Checked):
    """A kernel of rows."""

    def __init__(self, gpu, monkeypatch, name, part, dtype, plain):
        from fastce.kernels.gpu import tasks

        super().__init__(gpu, monkeypatch, kernels.kernel(part, dtype, plain, True))
        self.tasks, self.name, self.dtype, self.options = tasks, name, dtype, PLAIN if plain else GENERAL

    def calls(self):
        results = []
        for options in self.options:
            for n_classes, layout, schedule in CASES:
                case = Case(self.name, self.dtype, options, n_classes, layout, schedule, None, self.device)
                rows = sure_rows if layout == SURE else running.rows_of_all_kinds
                made = running.make(self.gpu, np.random.default_rng(5), case, rows)
                running.fill_exactly(made)
                running.run(self.gpu, self.tasks, self.monkeypatch, case, made)
                running.check(made)
                results += [made.arrays[name] for name in OUTPUTS if name in made.arrays]
        return results


class CheckedSums(Checked):
    """A kernel of sums over rows, or that of their layout."""

    def __init__(self, gpu, monkeypatch, name, dtype):
        from fastce.kernels.gpu import totals

        super().__init__(gpu, monkeypatch, layout_of_rows.kernel() if name == "layout" else sums.kernel(name, dtype))
        self.totals, self.dtype, self.check = totals, np.dtype(dtype), getattr(self, name.split("_")[0])

    def calls(self):
        """For one block, some of whose threads have a row more than others, and for several."""
        self.gpu.options = {"schedule": "random"}
        return [array for n in (700, sums.ROWS_A_BLOCK + 300) for array in self.check(np.random.default_rng(n), n)]

    def weigh(self, rng, n):
        y, s, w = rng.integers(-1, 4, n), rng.uniform(0.5, 2, n).astype(self.dtype), rng.uniform(1, 2, 4)
        y[n // 2 + 1], y[n - 2] = 4, -5
        put = self.gpu.put
        found = self.totals.weigh(put(y), n, 4, -1, put(w.astype(self.dtype)), put(s), True, 2.0, self.dtype)
        counts, bad = y != -1, (y != -1) & ((y < 0) | (y >= 4))
        weights = s.astype(float) * np.where(bad, 1.0, w.astype(self.dtype)[np.clip(y, 0, 3)])
        ce, zl = weights[counts].sum(), s.astype(float)[counts].sum()
        np.testing.assert_allclose(found.scales.get(), [2 / ce, 2 / zl, ce / zl], rtol=1e-7)
        np.testing.assert_allclose(found.divisor.get(), ce, rtol=1e-14)
        assert found.bad_row.get() == n // 2 + 1
        return found

    def add(self, rng, n):
        losses, out = rng.normal(size=n).astype(self.dtype), self.gpu.empty((), self.dtype)
        divisor = self.gpu.put(np.array([3.0]))
        self.totals.add(self.gpu.put(losses), divisor, np.nan, out)
        np.testing.assert_allclose(out.get(), losses.astype(float).sum() / 3, rtol=1e-7)
        return [out]

    def nll(self, rng, n):
        p, y = rng.normal(size=(n, 4)).astype(self.dtype), rng.integers(0, 4, n)
        y[3], y[5], y[7] = -1, 4, -5
        put, losses = self.gpu.put, self.gpu.empty(n, self.dtype)
        w = rng.uniform(1, 2, 4).astype(self.dtype)
        self.totals.nll_loss(put(p), put(y), -1, put(w), None, 1.0, losses)
        wanted = np.where(y == -1, 0, -w[np.clip(y, 0, 3)] * p[np.arange(n), np.clip(y, 0, 3)])
        wanted[[5, 7]] = np.nan
        np.testing.assert_allclose(losses.get(), wanted, rtol=2e-7)
        return [losses]

    def layout(self, rng, n):
        x = self.gpu.empty((3, n // 6, 5, 2), self.dtype)[:, ::2, 1:4]
        keep = []
        self.launches.rows_of(x, keep)
        (offsets,) = keep
        i, j, k = np.indices(x.shape[:-1]).reshape(3, -1)
        np.testing.assert_array_equal(offsets.get(), i * x.strides[0] + j * x.strides[1] + k * x.strides[2])
        return keep


PLAIN, GENERAL = ("plain",), ("everything", "everything, probabilities", "log_softmax")
OUTPUTS = ("grad", "loss", "lse", "argmax", "correct", "rank", "target_prob", "entropy")
KINDS = ("barrier", "bound", "mask", "distance", "access")
PARTS = {"warp": "warp", "block": "block", "online": "online", "part": "split", "finish": "split"}

# How many barriers nobody would miss. Before a block's first reduction, there is none whose results are still to be
# read; and what `finish` merges lies elsewhere than what it agrees on.
NEEDLESS_BARRIERS = {"block": 2, "online": 2, "part": 1, "finish": 1}


def left_of(check, kinds, every=1):
    """The mutants that survive, of one in `every`."""
    before = check(check.ptx)
    found = list(mutants(check.ptx, before.counters, kinds=kinds))[::every]
    return [mutant for mutant in found if survives(mutant, check, before)]


def assert_all_noticed(left, needless):
    barriers = [mutant for mutant in left if mutant.kind == "barrier"]
    assert len(barriers) <= needless, "; ".join(map(str, barriers))
    others = [mutant for mutant in left if mutant.kind != "barrier"]
    assert others == [], "; ".join(map(str, others))


@pytest.mark.parametrize("part", PARTS)
def test_broken_kernels_are_noticed(gpu, monkeypatch, part):
    check = CheckedRows(gpu, monkeypatch, PARTS[part], part, "float32", True)
    assert_all_noticed(left_of(check, KINDS, every=6), NEEDLESS_BARRIERS.get(part, 0))


@pytest.mark.parametrize("name", [*sums.NAMES, "layout"])
def test_broken_sums_are_noticed(gpu, monkeypatch, name):
    check = CheckedSums(gpu, monkeypatch, name, "float32")
    assert_all_noticed(left_of(check, KINDS, every=2), 0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "general"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("part", PARTS)
def test_every_broken_kernel_is_noticed(gpu, monkeypatch, part, dtype, plain, kind):
    check = CheckedRows(gpu, monkeypatch, PARTS[part], part, dtype, plain)
    assert_all_noticed(left_of(check, [kind]), NEEDLESS_BARRIERS.get(part, 0))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [*sums.NAMES, "layout"])
def test_every_broken_sum_is_noticed(gpu, monkeypatch, name, dtype):
    check = CheckedSums(gpu, monkeypatch, name, dtype)
    assert_all_noticed(left_of(check, KINDS), 0)
