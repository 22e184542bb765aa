"""The kernels, broken in one place at a time: the comparison with the reference, or the interpreter, notices."""

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda, which compiles for GPUs, is not installed")

from fastce.kernels.gpu import kernels, saved, sums
from fastce.kernels.gpu import layout as layout_of_rows

from . import cases, running, standin
from .cases import Case, number_of
from .compiled import ptx_of
from .ptx.mutants import Outcome, mutants, survives

# For every kernel: a first chunk, whole ones and their rest; whole ones alone; gradients apart.
CASES = [(0, "odd, in place", "random"), (200, "dense", "warp-reverse"), (33, "apart", "warp-serial")]


def many_classes(name):
    """What 0 stands for above: more chunks than one round of threads takes; `block` has three warps then."""
    return 1281 if name == "block" else 513


def sure_rows(rng, n_classes, dtype):
    """Each is sure of a class: reductions that miss some threads' largest are wrong there only.

    All are below 0, which is what general kernels take for a class outside of a row.
    """
    n_rows = -(-n_classes // 4)
    x = rng.normal(size=(n_rows, n_classes)) - 40
    y = np.arange(n_rows) * 4
    x[np.arange(n_rows), y] += 30
    y[list(running.BAD)] = n_classes, -2
    return x.astype(dtype), y


def rows_with_nan(rng, n_classes, dtype):
    """Each has a NaN elsewhere: reductions that miss some threads' places would not tell where."""
    x = rng.normal(size=(-(-n_classes // 4), n_classes))
    y = np.arange(len(x)) * 4
    x[np.arange(len(x)), y] = np.nan
    return x.astype(dtype), y


def unsure_rows(rng, n_classes, dtype):
    """A plain warp looks at them once."""
    x, y = rng.normal(size=(running.N_ROWS, n_classes)), rng.integers(0, n_classes, running.N_ROWS)
    y[list(running.BAD)] = n_classes, -2
    return x.astype(dtype), y


def one_huge_row(rng, n_classes, dtype):
    """Of a warp's rows, one for each lane: all look again because that one has to."""
    x, y = rng.normal(size=(32, n_classes)), rng.integers(0, n_classes, 32)
    kinds, _ = running.rows_of_all_kinds(rng, n_classes, dtype)
    x[running.HUGE[0]] = kinds[running.HUGE[0]]
    y[list(running.BAD)] = n_classes, -2
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
                if kernel == self.kernel
                else own(kernel, capability)
            )

        self.monkeypatch.setattr(saved, "code_of", code_of)
        self.launches._loaded.pop((self.number, self.kernel.name), None)
        self.gpu.launches.clear()
        try:
            with standin.Device(self.gpu, self.number):
                results = self.calls()
        finally:
            self.monkeypatch.setattr(saved, "code_of", own)
            self.launches._loaded.pop((self.number, self.kernel.name), None)
        counters = [launched.counters for launched in self.gpu.launches if launched.ptx == text]
        for more in counters[1:]:
            counters[0] += more
        return Outcome(counters[0], b"".join(array.get().tobytes() for array in results))


class CheckedRows(Checked):
    """A kernel of rows."""

    def __init__(self, gpu, monkeypatch, name, part, dtype, plain):
        from fastce.kernels.gpu import tasks

        super().__init__(gpu, monkeypatch, kernels.kernel(part, dtype, plain, True))
        self.tasks, self.name, self.dtype = tasks, name, dtype
        options = PLAIN if plain else GENERAL
        self.asked = [(running.rows_of_all_kinds, name, *case) for name in options for case in CASES]
        # (a softcap would make most gradients of sure rows 0)
        self.asked.append((sure_rows, options[-1], 0, "padded", "lockstep"))
        if not plain:
            # Three warps: of two, what the second keeps for one reduction does not reach what the one before it reads.
            monkeypatch.setattr(cases, "THREADS", 96)
            self.asked.append((rows_with_nan, "everything, probabilities", 0, "padded", "lockstep"))
        if part in ("online", "part") and not plain:
            pieces = 3333 if dtype == "float32" else 6666  # of which even a third is several
            self.asked.append((running.rows_of_all_kinds, "everything", pieces, "dense", "lockstep"))
        if name == "warp" and plain:
            self.asked.append((unsure_rows, "plain", 200, "odd", "lockstep"))
            self.asked.append((one_huge_row, "plain", 9, "dense", "lockstep"))
        elif name == "warp":
            # Nothing asked for but the gradient, written over the logits: one barrier is all that lanes wait at. Two
            # warps, and rows that fill all that there is for a warp to keep them in.
            self.asked.append((one_huge_row, "softcap", 34, "odd, in place", "lockstep"))

    def calls(self):
        results = []
        for rows, options, n, layout, schedule in self.asked:
            n_classes = n or many_classes(self.name)
            case = Case(self.name, self.dtype, options, n_classes, layout, schedule, None, device=self.device)
            made = running.make(self.gpu, np.random.default_rng(5), case, rows)
            running.fill_exactly(made)
            running.run(self.gpu, self.tasks, self.monkeypatch, case, made)
            running.check(made)
            results += [made.arrays[name] for name in OUTPUTS if name in made.arrays]
        return results


# Rows of one block, some threads of which have two, and of three blocks.
FEW, SEVERAL = sums.THREADS + 44, 4 * sums.THREADS + 76


class CheckedSums(Checked):
    """A kernel of sums over rows, that of their layout, or that of a factor."""

    def __init__(self, gpu, monkeypatch, name, dtype):
        from fastce.kernels.gpu import scale, totals

        others = {"layout": layout_of_rows.kernel, "scale": lambda: scale.kernel(dtype, True)}
        super().__init__(gpu, monkeypatch, others[name]() if name in others else sums.kernel(name, dtype))
        monkeypatch.setattr(sums, "ROWS_A_BLOCK", 2 * sums.THREADS)
        self.totals, self.dtype, self.check = totals, np.dtype(dtype), getattr(self, name)

    def calls(self):
        self.gpu.options = {"schedule": "random"}
        return list(self.check(np.random.default_rng(5)))

    def weigh(self, rng):
        """For one block, the last lane of each of whose warps finds the first bad target in turn; and for several."""
        for n, bad_row in [(SEVERAL, SEVERAL - 200), *((FEW, lane) for lane in range(31, sums.THREADS, 32))]:
            y, s, w = rng.integers(-1, 4, n), self._some(rng, n), self._some(rng, 4)
            y[bad_row], y[-1] = 4, -5
            counts, bad = y != -1, np.isin(np.arange(n), (bad_row, n - 1))
            weights = s.astype(float) * np.where(bad, 1.0, w[np.clip(y, 0, 3)])
            put = self.gpu.put
            found = self.totals.weigh(put(y), n, 4, -1, put(w), put(s), True, 2.0, self.dtype)
            self._check_weighed(found, weights[counts].sum(), s.astype(float)[counts].sum(), bad_row)
            yield found.words
            self.gpu.options = {"schedule": "lockstep"}  # which takes a fraction of the time

    def weigh_finish(self, rng):
        """As many partials as threads, of whose warps the last lane of each has the first bad target in turn."""
        for lane in range(31, sums.THREADS, 32):
            partials = rng.uniform(1, 2, (sums.THREADS, sums.PARTIAL_FIELDS))
            bad_rows = (rng.permutation(sums.THREADS) + 10) * (2**33 + 7)  # of which both halves are looked at
            bad_rows[lane] = bad_row = 3 * 2**33 + 5
            partials[:, sums.BAD_ROW] = bad_rows.view(float)
            made = self.totals.room_for_weighed()
            places = {"scales": made.scales_at, "divisor_at": made.divisor_at, "bad_row": made.words}
            self._finish("weigh_finish", partials, both=1, upstream=2.0, **places)
            self._check_weighed(made, *partials[:, :2].sum(axis=0), bad_row)
            yield made.words
            self.gpu.options = {"schedule": "lockstep"}

    def add(self, rng):
        for n in (FEW, SEVERAL):
            losses, out = self._some(rng, n), self.gpu.empty((), self.dtype)
            divisor = self.gpu.put(np.array([3.0]))
            self.totals.add(self.gpu.put(losses), self.totals.Weighed(None, divisor.data.ptr, 0), np.nan, out)
            np.testing.assert_allclose(out.get(), losses.astype(float).sum() / 3, rtol=1e-14)
            yield out

    def add_finish(self, rng):
        partials, out = rng.uniform(1, 2, (sums.THREADS - 20, sums.PARTIAL_FIELDS)), self.gpu.empty((), self.dtype)
        self._finish("add_finish", partials, divisor=3.0, out=out)
        np.testing.assert_allclose(out.get(), partials[:, 0].sum() / 3, rtol=1e-14)
        return [out]

    def _finish(self, name, partials, **fields):
        array = self.gpu.put(partials)
        fields = {name: f.data.ptr if isinstance(f, standin.Array) else f for name, f in fields.items()}
        call = sums.Sums(0, partials=array.data.ptr, n_partials=len(partials), **fields)
        self.totals._launch(name, 1, call, self.dtype)

    def _check_weighed(self, found, ce, zl, bad_row):
        words = found.words.get()
        np.testing.assert_allclose(words[2:].view(self.dtype)[:3], [2 / ce, 2 / zl, ce / zl], rtol=1e-14)
        np.testing.assert_allclose(words[1].view(float), ce, rtol=1e-14)
        assert words[0] == bad_row

    def _some(self, rng, n):
        return rng.uniform(1, 2, n).astype(self.dtype)

    def nll(self, rng):
        p, y, w = self._some(rng, (700, 4)), rng.integers(0, 4, 700), self._some(rng, 4)
        y[3], y[5], y[7] = -1, 4, -5
        put, losses = self.gpu.put, self.gpu.empty(700, self.dtype)
        self.totals.nll_loss(put(p), put(y), -1, put(w), None, 1.0, losses)
        clipped = np.clip(y, 0, 3)
        wanted = np.where(y == -1, 0, -w[clipped] * p[np.arange(700), clipped])
        wanted[[5, 7]] = np.nan
        np.testing.assert_allclose(losses.get(), wanted, rtol=1e-15)
        return [losses]

    def layout(self, rng):
        x = self.gpu.empty((3, 100, 5, 2), self.dtype)[:, ::2, 1:4]
        keep = []
        self.launches.rows_of(x, keep)
        (offsets,) = keep
        i, j, k = np.indices(x.shape[:-1]).reshape(3, -1)
        np.testing.assert_array_equal(offsets.get(), i * x.strides[0] + j * x.strides[1] + k * x.strides[2])
        return keep

    def scale(self, rng):
        from fastce.device import scale

        for n in (700, 10_000):
            values = self._some(rng, n)
            array = self.gpu.put(values)
            scale(array, self.gpu.put(np.array(-0.75, self.dtype)))
            np.testing.assert_array_equal(array.get(), values * -0.75)
            yield array


# Options; rows that are sure of a class have the last of them, as a softcap would make most of their gradients 0.
PLAIN, GENERAL = ("plain",), ("everything", "everything, probabilities", "log_softmax", "smoothing")
OUTPUTS = ("grad", "loss", "lse", "argmax", "correct", "rank", "target_prob", "entropy")
KINDS = ("barrier", "bound", "mask", "distance", "access")
PARTS = {"warp": "warp", "block": "block", "online": "online", "part": "split", "finish": "split"}

# How many mutants nobody notices, and why nobody could; of kernels of plain rows (True), and of others.
# Barriers: before plain rows are looked at again, as a block's two reductions have memory of their own and take turns,
# so that a barrier of one comes between any two uses of the other's; between reductions of a warp, which are shuffles;
# where lanes of a warp meet again before their block's barrier, up to which they read nothing of others.
# Bounds: a thread looks at the row's first chunk once more, which changes no maximum; it has room to keep that, and
# nobody reads it.
# Distances: beside the entropy, nothing but zeros is added, and nobody reads their sum.
# Accesses: every part of a row, and there are several, leaves the target's logit; any of these will do.
UNNOTICED = {
    ("warp", True): {"barrier": 1},
    ("warp", False): {"barrier": 5, "distance": 1},
    ("block", True): {"barrier": 1, "bound": 2},
    ("block", False): {"barrier": 1, "distance": 5},
    ("online", True): {"barrier": 1},
    ("online", False): {"distance": 5},
    ("part", False): {"distance": 5},
    ("finish", True): {"access": 1},
}


def left_of(check, kinds, every=1):
    """The mutants that survive, of one in `every`."""
    before = check(check.ptx)
    found = list(mutants(check.ptx, before.counters, kinds=kinds))[::every]
    return [mutant for mutant in found if survives(mutant, check, before)]


def assert_all_noticed(left, unnoticed=None):
    for kind in KINDS:
        of_kind = [mutant for mutant in left if mutant.kind == kind]
        assert len(of_kind) <= (unnoticed or {}).get(kind, 0), "\n".join(map(str, of_kind))


@pytest.mark.parametrize("part", PARTS)
def test_broken_kernels_are_noticed(gpu, monkeypatch, part):
    check = CheckedRows(gpu, monkeypatch, PARTS[part], part, "float32", True)
    assert_all_noticed(left_of(check, KINDS, every=18), UNNOTICED.get((part, True)))


@pytest.mark.parametrize("name", [*sums.NAMES, "layout", "scale"])
def test_broken_sums_are_noticed(gpu, monkeypatch, name):
    """In float64: half of a number from another lane would be lost in what float32 rounds."""
    assert_all_noticed(left_of(CheckedSums(gpu, monkeypatch, name, "float64"), KINDS, every=12))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "general"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("part", PARTS)
def test_every_broken_kernel_is_noticed(gpu, monkeypatch, part, dtype, plain, kind):
    check = CheckedRows(gpu, monkeypatch, PARTS[part], part, dtype, plain)
    assert_all_noticed(left_of(check, [kind]), UNNOTICED.get((part, plain)))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*sums.NAMES, "layout", "scale"])
def test_every_broken_sum_is_noticed(gpu, monkeypatch, name):
    assert_all_noticed(left_of(CheckedSums(gpu, monkeypatch, name, "float64"), KINDS))
