"""The benchmark itself: its data, baseline, oracle check, table, timing, measurements and trainings."""

from __future__ import annotations

import itertools

import ml_dtypes
import numba
import numpy as np
import pytest

import fastce
from fastce.bench import (
    accuracy,
    baseline,
    cases,
    contenders,
    measurements,
    memory,
    run,
    sweep,
    timing,
    train_digits,
    train_words,
    variants,
)
from fastce.bench.cases import OURS, PROVIDERS, YARDSTICKS, Case
from fastce.bench.check import EXACT, NAIVE, Oracle, sample
from fastce.bench.contenders import Contender, Problem, dtype_of
from fastce.bench.data import make_logits

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
# Two classes: one other class only; 1000 x 1000: several blocks; 3 x 300000: a row longer than a block.
SHAPES = [(0, 2), (1, 2), (5000, 2), (1000, 1000), (3, 300_000)]


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


# --- data


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, BFLOAT16], ids=str)
def test_share_of_rows_predicted_right_is_as_asked(shape, dtype):
    logits, targets = make_logits(*shape, right=0.6, dtype=dtype)
    assert logits.shape == shape
    assert logits.dtype == dtype
    assert targets.dtype == np.int64
    assert np.isfinite(logits.astype(np.float64)).all()
    assert ((targets >= 0) & (targets < shape[1])).all()
    assert (logits.astype(np.float64).argmax(axis=1) == targets).sum() == round(0.6 * shape[0])


def test_same_seed_same_data():
    one, again, other = (make_logits(50, 20, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one[0], again[0])
    assert np.array_equal(one[1], again[1])
    assert not np.array_equal(one[0], other[0])


@pytest.mark.parametrize("n_classes", [2, 10, 1000])
@pytest.mark.parametrize("confidence", [0.6, 0.9, 0.99])
def test_sure_rows_are_as_confident_as_asked(n_classes, confidence):
    logits, _ = make_logits(4000, n_classes, confidence=confidence, sure=1.0, dtype=np.float64)
    assert np.median(softmax(logits).max(axis=1)) == pytest.approx(confidence, rel=0.06)


def test_rows_are_a_mix():
    logits, targets = make_logits(4000, 100)
    p = softmax(logits.astype(np.float64))
    best, right = p.max(axis=1), logits.argmax(axis=1) == targets
    for kind in (right & (best > 0.9), ~right & (best > 0.9), right & (best < 0.5), ~right & (best < 0.5)):
        assert kind.mean() > 0.03
    loss = -np.log(p[np.arange(4000), targets])
    assert loss.min() < 0.01
    assert loss.max() > 5


def test_background_has_heavy_tails():
    logits, _ = make_logits(2000, 1000, dtype=np.float64)
    centred = logits - logits.mean(axis=0)
    centred /= centred.std(axis=1, keepdims=True)
    assert (centred**4).mean() > 4.5  # 3 for a normal distribution


@pytest.mark.parametrize(
    ("shape", "options"),
    [((-1, 2), {}), ((1, 1), {}), ((1, 2), {"right": 1.1}), ((1, 2), {"sure": -0.1}), ((1, 2), {"confidence": 0.5})],
)
def test_data_refuses_what_it_cannot_make(shape, options):
    with pytest.raises(ValueError, match="need "):
        make_logits(*shape, **options)


# --- baseline


@pytest.mark.parametrize(
    ("logits", "targets", "loss"),
    [
        ([[-1, -3, 4], [-3, 3, -1]], [0, 1], 2.5141),
        ([[0, 0, 0, 1]], [3], 0.7437),
        ([[9984, 0]], [1], 9984),  # shifted by the maximum: no overflow
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, BFLOAT16], ids=str)
def test_baseline_gives_worked_values(logits, targets, loss, dtype):
    logits, targets = np.array(logits, dtype), np.array(targets)
    work = baseline.work_array(logits)
    assert float(baseline.loss(logits, targets, work)) == pytest.approx(loss, rel=1e-3 if dtype == BFLOAT16 else 5e-5)
    got, grad = baseline.loss_and_grad(logits, targets, work)
    assert float(got) == float(baseline.loss(logits, targets, np.empty_like(work)))
    onehot = np.eye(logits.shape[1])[targets]
    right = (softmax(logits.astype(np.float64)) - onehot) / len(targets)
    np.testing.assert_allclose(grad, right, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), BFLOAT16], ids=str)
@pytest.mark.parametrize("shape", [(1, 2), (40, 10), (3, 5000)])
def test_baseline_agrees_with_the_oracle(shape, dtype):
    problem = Problem(*shape, dtype)
    oracle = Oracle(problem)
    for function, build in PROVIDERS["numpy"].builders.items():
        oracle.check("NumPy", function, build(problem), NAIVE[dtype.name])


def test_baseline_works_in_place():
    logits, targets = make_logits(20, 10)
    loss, grad = baseline.loss_and_grad(logits.copy(), targets, baseline.work_array(logits))
    over, same = baseline.loss_and_grad(logits, targets, logits)
    assert same is logits
    assert over == loss
    assert np.array_equal(same, grad)


# --- the check before the clock


def test_oracle_is_the_mean_loss_and_its_gradient():
    problem = Problem(30, 7, np.dtype(np.float32))
    oracle = Oracle(problem)
    p = softmax(problem.logits.astype(np.float64))
    at = np.arange(30), problem.targets
    assert oracle.loss == pytest.approx(-np.log(p[at]).mean(), rel=1e-12)
    p[at] -= 1
    np.testing.assert_allclose(oracle.array("gradient"), p / 30, rtol=1e-9, atol=1e-17)


@pytest.mark.parametrize("mistake", ["loss", "grad", "row", "nan", "none"])
def test_check_refuses_wrong_results(mistake):
    problem = Problem(30, 7, np.dtype(np.float32))
    oracle = Oracle(problem)
    loss, grad = oracle.loss, oracle.array("gradient").astype(np.float32)
    sure = np.abs(grad).max(axis=1).argmin()  # the row with the smallest gradient
    if mistake == "loss":
        loss *= 1 + 1e-5
    elif mistake == "grad":
        grad[17, 3] += 1e-6
    elif mistake == "row":
        grad[sure] *= 1.001
    elif mistake == "nan":
        grad[29, 6] = np.nan
    contender = Contender(lambda: None, lambda _: (loss, grad))
    if mistake == "none":
        oracle.check("fastce", "gradient", contender, EXACT["float32"])
    else:
        with pytest.raises(AssertionError, match="fastce: "):
            oracle.check("fastce", "gradient", contender, EXACT["float32"])


@pytest.mark.parametrize("function", ["logsumexp", "softmax", "log_softmax"])
@pytest.mark.parametrize("wrong", [False, True])
def test_check_of_the_other_functions(function, wrong):
    problem = Problem(30, 7, np.dtype(np.float32))
    oracle = Oracle(problem)
    x = problem.logits.astype(np.float64)
    right = {"softmax": softmax(x), "log_softmax": np.log(softmax(x)), "logsumexp": np.log(np.exp(x).sum(1))[:, None]}
    result = right[function].astype(np.float32)
    if wrong:
        result[13, -1] += 1e-4
    contender = Contender(lambda: None, lambda _: (None, result))
    if wrong:
        with pytest.raises(AssertionError, match=f"{function} of row 13 off by"):
            oracle.check("fastce", function, contender, EXACT["float32"])
    else:
        oracle.check("fastce", function, contender, EXACT["float32"])


def test_large_gradients_are_sampled_with_both_ends():
    rows = sample(10_000, 50)
    assert {0, 9_999} <= set(rows.tolist())
    assert 40 <= len(rows) <= 50
    assert np.array_equal(sample(5, 50), np.arange(5))


@pytest.mark.parametrize("name", ["fastce", "numpy"])
def test_one_class_is_checked_like_any_number(name):
    problem = Problem(5, 1, np.dtype(np.float32))
    Oracle(problem).check(
        name, "gradient", PROVIDERS[name].builders["gradient"](problem), PROVIDERS[name].tolerance["float32"]
    )
    broken = Contender(lambda: None, lambda _: (0.0, np.full((5, 1), 1e-5)))
    with pytest.raises(AssertionError, match="gradient of row 0 off by"):
        Oracle(problem).check(name, "gradient", broken, PROVIDERS[name].tolerance["float32"])


# They take minutes, and torch.compile warns of what torch itself does.
SLOW_START = (pytest.mark.slow, pytest.mark.filterwarnings("ignore"))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=SLOW_START * PROVIDERS[name].slow_start) for name in cases.installed()[0]],
)
@pytest.mark.parametrize("dtype", cases.TYPES)
def test_every_provider_that_is_installed_passes_the_check(name, dtype):
    provider = PROVIDERS[name]
    problem = Problem(64, 100, dtype_of(dtype))
    oracle = Oracle(problem)
    functions = [f for f in cases.FUNCTIONS if name in cases.contenders_of(Case(f, dtype, 64, 100), PROVIDERS)]
    for function in functions:
        problem.out.fill(np.nan)
        problem.row_out.fill(np.nan)
        oracle.check(name, function, provider.builders[function](problem), provider.tolerance[dtype])
    # What a provider does not take is what its library does not offer: no 16-bit types, the loss with gradient alone.
    assert functions or (name in ("sklearn", "scipy") and dtype != "float32")


@pytest.mark.parametrize("shape", [(1, 2), (3, 1000), (64, 4097)])  # less than a word, odd, several blocks
@pytest.mark.parametrize("dtype", [np.dtype(np.float32), BFLOAT16], ids=str)
def test_yardsticks_move_the_bytes_they_say(shape, dtype):
    problem = Problem(*shape, dtype)
    words = contenders.words(problem.logits)
    assert 0 <= problem.logits.nbytes - words.nbytes < 8
    problem.out.fill(0)
    contenders.copy(problem, 1).call()
    assert np.array_equal(contenders.words(problem.out), words)
    problem.out.fill(0)
    contenders.copy(problem, 2).call()  # half is read, half is written
    copied = np.count_nonzero(contenders.words(problem.out) == words)
    assert copied >= words.size // 2
    contenders.read(problem).call()


# --- the table


def test_bytes_moved():
    assert Case("forward", "float32", 32, 10).bytes_moved == 32 * 10 * 4 + 32 * 8
    assert Case("gradient", "float32", 32, 10).bytes_moved == 32 * 10 * 4 * 2 + 32 * 8
    assert Case("gradient", "bfloat16", 32, 10).bytes_moved == 32 * 10 * 2 * 2 + 32 * 8
    assert Case("logsumexp", "float16", 32, 10).bytes_moved == 32 * 10 * 2 + 32 * 8
    assert Case("softmax", "float32", 32, 10).bytes_moved == 32 * 10 * 4 * 2 + 32 * 8


def test_full_table_goes_up_to_one_gibibyte_of_float32():
    table = cases.select(quick=False)
    assert len(set(table)) == len(table)
    sizes = [c.logits_bytes for c in table]
    assert max(sizes) == 2**30
    assert Case("gradient", "float32", 8192, 32000) in table
    assert Case("gradient", "float32", 8192, 50257) not in table
    assert Case("gradient", "bfloat16", 8192, 32000) in table
    assert Case("gradient", "bfloat16", 8192, 50257) not in table
    assert {(c.function, c.dtype) for c in table} == {(f, d) for f in cases.FUNCTIONS for d in cases.TYPES}
    assert {c.n_rows for c in table} == {1, 32, 1024, 8192, 65536}
    assert {c.n_classes for c in table} == {2, 10, 100, 1000, 32000, 50257, 128256, 262144}


def test_quick_choice_covers_every_regime():
    quick = cases.select(quick=True)
    assert set(quick) <= set(cases.select(quick=False))
    assert len(quick) == sum(len(shapes) for shapes in cases.QUICK.values())  # each is a cell of the table
    assert {c.function for c in quick} == set(cases.FUNCTIONS)
    assert {c.dtype for c in quick} == set(cases.TYPES)
    shapes = [(c.n_rows, c.n_classes) for c in quick if (c.function, c.dtype) == ("gradient", "float32")]
    assert (32, 10) in shapes
    assert (65536, 10) in shapes  # narrow
    assert any(n == 1 and c >= 100_000 for n, c in shapes)  # wide
    assert any(c >= 1000 and 10**6 <= n * c < 3 * 10**7 for n, c in shapes)
    assert any(c >= 1000 and n * c >= 3 * 10**7 for n, c in shapes)  # out of cache


def test_selection_by_function_and_type():
    chosen = cases.select(quick=True, functions=["forward"], dtypes=["float32"])
    assert {(c.function, c.dtype) for c in chosen} == {("forward", "float32")}


def test_shapes_of_ones_own_are_every_pair():
    chosen = cases.select(quick=True, functions=["softmax"], dtypes=["float16"], rows=[3, 5], classes=[7, 11])
    assert chosen == [Case("softmax", "float16", n, c) for n in (3, 5) for c in (7, 11)]
    chosen = cases.select(quick=True, functions=["softmax"], dtypes=["float32"], rows=[8192])
    assert [c.n_classes for c in chosen] == [2, 10, 100, 1000, 32000]  # the others are more than 1 GiB


def test_missing_packages_are_left_out_and_named(monkeypatch):
    missing = {"torch", "jax", "optax", "ml_dtypes"}
    monkeypatch.setattr(cases, "find_spec", lambda name: None if name in missing else object())
    names, left_out = cases.installed()
    assert left_out == {
        "torch": "torch is not installed",
        "torch-compile": "torch is not installed",
        "jax": "jax and optax are not installed",
    }
    assert names == [name for name in PROVIDERS if name not in left_out]
    assert cases.installed_types() == (["float32", "float16"], {"bfloat16": "ml_dtypes is not installed"})


def test_yardsticks_and_ours_are_providers():
    assert set(OURS) | set(YARDSTICKS) < set(PROVIDERS)
    for provider in PROVIDERS.values():
        assert set(provider.builders) <= set(cases.FUNCTIONS)
        assert set(provider.tolerance) <= set(cases.TYPES)


# --- timing


@pytest.fixture
def hurry(monkeypatch):
    """Make laps of single calls, without pauses."""
    monkeypatch.setattr(timing, "PAUSE", 0.0)
    monkeypatch.setattr(timing, "LAP", 0.0)


def test_rounds_are_interleaved_and_rotate(hurry, monkeypatch):
    monkeypatch.setattr(timing, "SHORT", 0.0)  # no untimed calls
    order = []
    race = timing.Race({name: lambda name=name: order.append(name) for name in "abc"}, budget=0)
    order.clear()
    race.run()
    assert race.rounds == timing.MIN_ROUNDS >= 9
    rounds = ["".join(order[i : i + 3]) for i in range(0, len(order), 3)]
    assert rounds == ["abc", "bca", "cab"] * 3
    assert {len(seconds) for seconds in race.seconds.values()} == {9}


def test_short_calls_are_repeated_within_a_lap(hurry, monkeypatch):
    calls = []
    monkeypatch.setattr(timing, "LAP", 0.001)
    race = timing.Race({"a": lambda: calls.append(1)}, budget=0)
    assert race.repeats["a"] > 10
    calls.clear()
    race.lap("a")
    assert len(calls) == race.repeats["a"]
    assert race.seconds["a"][0] < 0.001  # of one call, not of the lap


def test_a_wrong_result_is_never_timed(hurry, monkeypatch):
    wrong = PROVIDERS["numpy"]._replace(
        builders={"forward": lambda problem: Contender(lambda: 1.0, lambda x: (x, None))}
    )
    monkeypatch.setitem(PROVIDERS, "numpy", wrong)
    with pytest.raises(AssertionError, match=r"NumPy, forward, float32, 32 x 10: loss 1\.0"):
        run.prepare(Case("forward", "float32", 32, 10), ["numpy"], budget=0)
    found: dict[str, str] = {}
    race = run.prepare(Case("forward", "float32", 32, 10), ["fastce", "numpy"], budget=0, wrong=found)
    assert race.names == ["fastce"]
    assert list(found) == ["NumPy, forward, float32, 32 x 10"]
    assert found["NumPy, forward, float32, 32 x 10"].startswith("loss 1.0, float64 gives")


def test_a_wrong_result_of_fastce_ends_the_run(hurry, monkeypatch):
    wrong = PROVIDERS["fastce"]._replace(
        builders={"forward": lambda problem: Contender(lambda: 1.0, lambda x: (x, None))}
    )
    monkeypatch.setitem(PROVIDERS, "fastce", wrong)
    with pytest.raises(AssertionError, match=r"fastce, forward, float32, 32 x 10: loss 1\.0"):
        run.prepare(Case("forward", "float32", 32, 10), ["fastce"], budget=0, wrong={})


def test_nobody_passes_with_what_another_left_in_the_output(hurry, monkeypatch):
    idle = PROVIDERS["fastce"]._replace(
        builders={"softmax": lambda problem: Contender(lambda: problem.out, lambda result: (None, result))}
    )
    run.prepare(Case("softmax", "float32", 32, 10), ["fastce"], budget=0)
    monkeypatch.setitem(PROVIDERS, "fastce", idle)
    with pytest.raises(AssertionError, match="softmax of row 0 off by nan"):
        run.prepare(Case("softmax", "float32", 32, 10), ["fastce"], budget=0)


def test_summary():
    times = run.summary([3.0, 1.0, 2.0, 5.0, 4.0], 7)
    assert (times["median"], times["q25"], times["q75"], times["min"]) == (3, 2, 4, 1)
    assert (times["count"], times["repeats"]) == (5, 7)


# --- the other measurements

CHOICE = measurements.Choice(
    quick=True,
    providers=["fastce", "numpy", "copy"],
    functions=list(cases.FUNCTIONS),
    dtypes=["float32"],
    rows=[32],
    classes=[10, 40],
    limit=10**9,
    wrong={},
)


@pytest.mark.parametrize("name", [name for name in measurements.MEASUREMENTS if name != "memory"])
def test_measurements_give_records(name, hurry, monkeypatch):
    monkeypatch.setattr(sweep, "ELEMENTS", 400)
    steps = measurements.steps(name, CHOICE)
    assert steps
    records = [record for step in steps for record in step.run()]
    assert {(r["n_rows"], r["n_classes"]) for r in records} == {
        (400 // c if name == "sweep" else 32, c) for c in (10, 40)
    }
    for r in records:
        assert r["measurement"] == name
        assert r["bytes_moved"] == Case(r["function"], "float32", r["n_rows"], r["n_classes"]).bytes_moved
        for times in r["times"].values():
            assert times["count"] >= 9
            assert times["min"] > 0
    contenders_of = {
        "speed": {"fastce", "numpy", "copy"},
        "sweep": {"fastce"},
        "threads": {f"{n} thread{'s' * (n > 1)}" for n in variants.thread_counts()},
        "allocation": {"given", "new", "in place"},
        "options": set(variants.OPTIONS),
        "accuracy": {"fastce", "numpy"},
    }
    found = [set(r["values"] if name == "accuracy" else r["times"]) for r in records if r["function"] == "gradient"]
    assert found == [contenders_of[name]] * 2


def test_limit_leaves_out_larger_cells():
    choice = CHOICE._replace(quick=False, rows=[], classes=[])
    for name in ("speed", "accuracy", "threads", "allocation", "options"):
        few, all_of_them = (measurements.steps(name, choice._replace(limit=limit)) for limit in (10**7, 1 << 30))
        assert 0 < len(few) < len(all_of_them)
    assert measurements.steps("memory", choice._replace(limit=10**7)) == []


@pytest.mark.parametrize("quick", [True, False])
def test_measurements_have_cells_of_the_table(quick):
    for name, measurement in measurements.MEASUREMENTS.items():
        cells = (measurement.quick if quick else measurement.full) or []
        assert len(set(cells)) == len(cells)
        for case in cells:
            assert case.function in measurement.functions
            assert case.dtype in cases.TYPES
            assert case.n_rows * case.n_classes <= cases.MOST_ELEMENTS
        assert cells or name == "speed" or (quick and name == "memory")


def test_sweep_has_every_size_where_something_may_begin():
    sizes = sweep.CLASSES
    assert list(sizes) == sorted(set(sizes))
    assert (sizes[0], sizes[-1]) == (1, 4100)
    assert {size + d for size in (32, 64, 128, 256, 512, 1024, 2048, 4096) for d in (-1, 0, 1)} <= set(sizes)
    assert max(later / size for size, later in itertools.pairwise(sizes) if size > 34) < 1.3


def test_threads_are_what_they_say_and_are_put_back(hurry):
    counts = []
    before = numba.get_num_threads()
    contender = Contender(lambda: counts.append(numba.get_num_threads()), None)
    provider = PROVIDERS["fastce"]._replace(builders={"forward": lambda problem: contender})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROVIDERS, "fastce", provider)
        calls = variants.threads(Case("forward", "float32", 32, 10))
    counts.clear()
    for call in calls.values():
        call()
        assert numba.get_num_threads() == before
    assert counts == variants.thread_counts()
    assert counts[0] == 1
    assert counts[-1] == before


def test_options_that_compute_something_else_are_not_timed(monkeypatch):
    real = fastce.cross_entropy_with_grad

    def without_softcap(logits, targets, *, softcap=None, **options):
        return real(logits, targets, **options)

    monkeypatch.setattr(fastce, "cross_entropy_with_grad", without_softcap)
    with pytest.raises(AssertionError, match="softcap, loss with gradient, float32, 32 x 10: loss"):
        variants.options(Case("gradient", "float32", 32, 10))


def test_errors_in_units_in_the_last_place():
    assert accuracy.in_ulp(1 + np.array([0, 2.0**-23, -(2.0**-24)]), np.ones(3), "float32").tolist() == [
        0,
        1,
        0.5,
    ]
    assert accuracy.in_ulp(np.array([4 + 2.0**-5]), np.array([4.0]), "bfloat16").tolist() == [1]
    assert accuracy.in_ulp(np.array([3 + 2.0**-9]), np.array([3.0]), "float16").tolist() == [1]
    small = np.array([2.0**-14, 2.0**-15, 0.0])  # the smallest normal number, one below, and none
    assert accuracy.in_ulp(np.zeros(3), small, "float16").tolist() == [2.0**10]


@pytest.mark.parametrize("function", cases.FUNCTIONS)
def test_errors_of_a_contender(function):
    case = Case(function, "float32", 64, 100)
    found = accuracy.errors(case, "fastce")
    assert set(found) == {"forward": {"loss"}, "gradient": {"loss", "median", "p99", "max"}}.get(
        function, {"median", "p99", "max"}
    )
    assert all(0 <= error < 100 for error in found.values())
    if "median" in found:
        assert found["median"] <= found["p99"] <= found["max"]


@pytest.mark.skipif(not memory.available(), reason="only Linux tells the peak of a process")
@pytest.mark.parametrize(("provider", "logits"), [("fastce", 1), ("fastce-in-place", 0), ("numpy", 1)])
def test_peak_memory_counts_the_result(provider, logits):
    found = memory.peak(Case("gradient", "float32", 4096, 4096), provider)  # 64 MiB
    assert found["bytes"] == pytest.approx(found["logits"] * 2**26)
    assert found["logits"] == pytest.approx(logits, abs=0.1)


def test_peak_memory_of_what_fails_is_an_error():
    with pytest.raises(RuntimeError, match="no-such"):
        memory.peak(Case("gradient", "float32", 2, 2), "no-such")


# --- trainings


def test_digits_minibatches_agree_with_the_baseline():
    digits = train_digits.load(np.float32)
    fast, plain = (train_digits.train(digits, step, 6) for step in (train_digits.fastce_step, train_digits.numpy_step))
    np.testing.assert_allclose(fast.losses, plain.losses, rtol=train_digits.LOSS_TOLERANCE)
    assert fast.losses[-1] < fast.losses[0] / 2
    assert fast.accuracy == plain.accuracy > 0.9


def test_digits_minimum_is_that_of_logistic_regression():
    digits = train_digits.load(np.float64)
    run, sklearn = train_digits.minimise(digits, train_digits.fastce_step), train_digits.scikit_learn(digits)
    assert run.losses[-1] == pytest.approx(sklearn.losses[0], rel=train_digits.OBJECTIVE_TOLERANCE)
    assert run.accuracy == pytest.approx(sklearn.accuracy, abs=train_digits.ACCURACY_TOLERANCE)


def test_words_agree_with_the_baseline(monkeypatch):
    monkeypatch.setattr(train_words, "BATCH", 256)
    text = train_words.load()
    text = text._replace(held_out=(text.held_out[0][:500], text.held_out[1][:500]))
    assert text.train[0].shape == (len(text.train[1]), train_words.WORDS_BEFORE)
    assert np.array_equal(text.train[0][1, :-1], text.train[0][0, 1:])  # windows slide by one word
    fast = train_words.train(text, train_words.fastce_step, train_words.fastce_loss, steps=20)
    plain = train_words.train(text, train_words.numpy_step, train_words.numpy_loss, steps=20)
    np.testing.assert_allclose(fast.perplexities, plain.perplexities, rtol=1e-3)
    assert fast.perplexities[-1] < fast.perplexities[0] / 2
