"""The benchmark itself: its data, baseline, oracle check, table, timing, report and trainings."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import ml_dtypes
import numpy as np
import pytest

from bench import __main__ as command_line
from bench import baseline, cases, report, run, timing, train_digits, train_words
from bench.cases import PROVIDERS, Case
from bench.check import EXACT, NAIVE, Oracle, sample
from bench.contenders import Contender, Problem
from bench.data import make_logits
from bench.picture import heatmap

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
    for build in PROVIDERS["numpy"].builders.values():
        oracle.check("NumPy", build(problem), NAIVE[dtype.name])


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
    np.testing.assert_allclose(oracle.grad, p / 30, rtol=1e-9, atol=1e-17)


@pytest.mark.parametrize("mistake", ["loss", "grad", "row", "nan", "none"])
def test_check_refuses_wrong_results(mistake):
    problem = Problem(30, 7, np.dtype(np.float32))
    oracle = Oracle(problem)
    loss, grad = oracle.loss, oracle.grad.astype(np.float32)
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
        oracle.check("fastce", contender, EXACT["float32"])
    else:
        with pytest.raises(AssertionError, match="fastce: "):
            oracle.check("fastce", contender, EXACT["float32"])


def test_large_gradients_are_sampled_with_both_ends():
    rows = sample(10_000, 50)
    assert {0, 9_999} <= set(rows.tolist())
    assert 40 <= len(rows) <= 50
    assert np.array_equal(sample(5, 50), np.arange(5))


@pytest.mark.parametrize("name", cases.installed()[0])
@pytest.mark.parametrize("dtype", cases.TYPES)
def test_every_provider_that_is_installed_passes_the_check(name, dtype):
    provider = PROVIDERS[name]
    problem = Problem(64, 100, cases.TYPES[dtype])
    oracle = Oracle(problem)
    for build in provider.builders.values():
        oracle.check(name, build(problem), provider.tolerance[dtype])


# --- the table


def test_bytes_moved():
    assert Case("forward", "float32", 32, 10).bytes_moved == 32 * 10 * 4 + 32 * 8
    assert Case("gradient", "float32", 32, 10).bytes_moved == 32 * 10 * 4 * 2 + 32 * 8
    assert Case("gradient", "bfloat16", 32, 10).bytes_moved == 32 * 10 * 2 * 2 + 32 * 8


def test_full_table_goes_up_to_one_gibibyte():
    table = cases.select(quick=False)
    assert len(set(table)) == len(table)
    sizes = [c.n_rows * c.n_classes * cases.TYPES[c.dtype].itemsize for c in table]
    assert max(sizes) == 2**30
    assert Case("gradient", "float32", 8192, 32000) in table
    assert Case("gradient", "float32", 8192, 50257) not in table
    assert Case("gradient", "bfloat16", 8192, 50257) in table
    assert {(c.function, c.dtype) for c in table} == {(f, d) for f in cases.FUNCTIONS for d in cases.TYPES}
    assert {c.n_rows for c in table} == {1, 32, 1024, 8192, 65536}
    assert {c.n_classes for c in table} == {2, 10, 100, 1000, 32000, 50257, 128256, 262144}


def test_quick_choice_covers_every_regime():
    quick = cases.select(quick=True)
    assert set(quick) <= set(cases.select(quick=False))
    assert len(quick) == sum(len(shapes) for shapes in cases.QUICK.values())  # each is a cell of the table
    assert {(c.function, c.dtype) for c in quick} == {(f, d) for f in cases.FUNCTIONS for d in cases.TYPES}
    shapes = [(c.n_rows, c.n_classes) for c in quick if (c.function, c.dtype) == ("gradient", "float32")]
    assert (32, 10) in shapes
    assert (65536, 10) in shapes  # narrow
    assert any(n == 1 and c >= 100_000 for n, c in shapes)  # wide
    assert any(c >= 1000 and 10**6 <= n * c < 3 * 10**7 for n, c in shapes)
    assert any(c >= 1000 and n * c >= 3 * 10**7 for n, c in shapes)  # out of cache


def test_selection_by_function_and_type():
    chosen = cases.select(quick=True, functions=["forward"], dtypes=["float32"])
    assert {(c.function, c.dtype) for c in chosen} == {("forward", "float32")}


def test_missing_packages_are_left_out_and_named(monkeypatch):
    monkeypatch.setattr(cases, "find_spec", lambda name: None if name == "torch" else object())
    names, left_out = cases.installed()
    assert "torch" not in names
    assert left_out == {"torch": "torch is not installed"}
    assert {"fastce", "numpy", "copy"} <= set(names)


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


# --- results and report


def some_results(left_out=None):
    times = {
        name: run.summary([seconds * factor for factor in (1, 1.1, 0.9)], 1)
        for name, seconds in {
            "fastce": 1e-3,
            "fastce-in-place": 9e-4,
            "numpy": 8e-3,
            "torch": 5e-4,
            "copy": 6e-4,
        }.items()
    }
    forward = {name: times[name] for name in ("fastce", "numpy", "torch", "copy")}
    records = [
        run.Record(
            function="forward", dtype="float32", n_rows=8192, n_classes=1000, bytes_moved=33 * 10**6, times=forward
        ),
        run.Record(function="gradient", dtype="float32", n_rows=8192, n_classes=1000, bytes_moved=10**6, times=times),
    ]
    return run.Results(
        command="python -m bench",
        date="2026-01-02",
        machine={"processor": "P"},
        versions={"fastce": "1"},
        left_out=left_out or {},
        records=records,
    )


def test_summary():
    times = run.summary([3.0, 1.0, 2.0, 5.0, 4.0], 7)
    assert (times["median"], times["q25"], times["q75"], times["min"]) == (3, 2, 4, 1)
    assert (times["count"], times["repeats"]) == (5, 7)


def test_table_has_times_ratios_and_share_of_copy():
    (key, records), (other, _) = report.groups(some_results()["records"]).items()
    assert key == ("gradient", "float32")
    assert other == ("forward", "float32")
    header, row = report.table(records)
    cell = dict(zip(header, row, strict=True))
    assert cell["rows x classes"] == "8,192 x 1,000"
    assert cell["fastce"] == "1 ms"
    assert cell["fastce in place"] == "900 us"
    assert cell["over NumPy"].startswith("8.0 (")
    assert cell["over PyTorch"].startswith("0.50 (")
    assert cell["of copy speed"].startswith("0.60 (")
    assert cell["GB/s"] == "1.00"


def test_report_says_where_it_loses_and_what_was_left_out():
    text = report.to_text(some_results({"torch": "torch is not installed"}))
    assert "Left out: PyTorch (torch is not installed)." in text
    assert "Faster than fastce: PyTorch at 8,192 x 1,000" in text
    assert "NumPy at" not in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.5e-6, "2.5 us"), (999.6e-6, "1 ms"), (0.0123456, "12.3 ms"), (0.99951, "1 s"), (12.345, "12.3 s")],
)
def test_durations(seconds, text):
    assert report.duration(seconds) == text


def test_table_without_fastce_has_times_alone():
    records = some_results()["records"]
    for record in records:
        del record["times"]["fastce"]
    assert report.table(records[:1])[0] == ["rows x classes", "NumPy", "PyTorch", "copy"]


def test_results_survive_json(tmp_path):
    path = tmp_path / "new folder" / "some.json"
    report.save(some_results(), path)
    assert report.load(path) == some_results()


def test_readme_is_rewritten_between_the_markers_only(tmp_path):
    readme, json_path = tmp_path / "README.md", tmp_path / "results" / "some.json"
    readme.write_text(f"before\n{report.START}\nold\n{report.END}\nafter × \n", encoding="utf-8")
    report.save(some_results(), json_path)
    report.main([str(json_path), "--readme", str(readme)])
    once = readme.read_text(encoding="utf-8")
    assert once.startswith("before\n" + report.START)
    assert once.endswith(report.END + "\nafter × \n")
    assert "old" not in once
    assert "(results/some.svg)" in once
    assert "| 8,192 x 1,000 |" in once
    ElementTree.parse(tmp_path / "results" / "some.svg")
    report.main([str(json_path), "--readme", str(readme)])
    assert readme.read_text(encoding="utf-8") == once


@pytest.mark.parametrize("text", ["", report.START, report.END + report.START, report.START * 2 + report.END])
def test_readme_without_markers_is_refused(tmp_path, text):
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(ValueError, match="needs the lines"):
        report.write_between_markers(path, "new")
    assert path.read_text() == text


def test_picture_shows_every_speedup():
    svg = ElementTree.fromstring(heatmap({(1, 10): 0.5, (32, 10): 7.31, (32, 1000): 41.2}, "a < b"))
    texts = [element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert {"0.5×", "7.3×", "41×", "a < b", "1,000", "32"} <= set(texts)
    assert len(list(svg.iter("{http://www.w3.org/2000/svg}rect"))) == 1 + 4  # background, 2 x 2 cells


# --- command line


def test_command_line_checks_times_prints_and_saves(hurry, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cases, "QUICK", {("gradient", "float32"): [(32, 10)], ("forward", "float32"): [(32, 10)]})
    readme, path = tmp_path / "README.md", tmp_path / "some.json"
    readme.write_text(f"{report.START}\n{report.END}\n")
    command_line.main(["--providers", "fastce", "numpy", "--json", str(path), "--readme", str(readme)])
    results = report.load(path)
    assert [r["function"] for r in results["records"]] == ["forward", "gradient"]
    assert all(set(r["times"]) == {"fastce", "numpy"} for r in results["records"])
    assert all(t["count"] >= 9 and t["min"] > 0 for r in results["records"] for t in r["times"].values())
    assert {"fastce", "numpy", "numba", "python"} <= results["versions"].keys()
    assert "over NumPy" in capsys.readouterr().out
    assert "some.svg" in readme.read_text(encoding="utf-8")


def test_a_wrong_result_is_never_timed(hurry, monkeypatch):
    wrong = PROVIDERS["numpy"]._replace(
        builders={"forward": lambda problem: Contender(lambda: 1.0, lambda x: (x, None))}
    )
    monkeypatch.setitem(PROVIDERS, "numpy", wrong)
    with pytest.raises(AssertionError, match=r"NumPy, forward, float32, 32 x 10: loss 1\.0"):
        run.prepare(Case("forward", "float32", 32, 10), ["numpy"], budget=0)


def test_readme_needs_json(capsys):
    with pytest.raises(SystemExit):
        command_line.main(["--readme"])
    assert "--readme needs --json" in capsys.readouterr().err


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
