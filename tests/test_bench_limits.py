"""How far the CPU kernels are from the machine's limits: what is timed for that, and the tables."""

import re
from pathlib import Path

import numba
import numpy as np
import pytest

import fastce
from fastce.bench import assembly, limits, limits_tables, report
from fastce.bench.assembly import Counts, syntax_here
from fastce.bench.cases import Case
from fastce.bench.limits import Cell
from fastce.kernels.cpu import launch
from fastce.kernels.cpu.simd import FLOATS, NATIVE

TABLES = Path(__file__).parent.parent / "bench" / "RESULTS.md"
RESULTS = TABLES.parent / "results"


def past_the_caches(monkeypatch):
    """Large gradients go past the caches, on any machine."""
    monkeypatch.setattr(launch, "LIMITS", launch.LIMITS._replace(stream=1 << 24))


@pytest.mark.parametrize(
    ("function", "shape", "passes"),
    [
        ("gradient", (65536, 10), 5),
        ("gradient", (262144, 200), ["gradient beside sums, powers kept"]),
        ("gradient", (262144, 100), ["largest logit", "sums, powers kept", "gradient, powers kept"]),
        ("gradient", (1024, 1000), ["largest logit", "sums, powers kept", "gradient, powers kept"]),
        ("gradient", (1, 262144), ["largest logit", "sums, rest kept", "gradient, rest kept"]),
        ("gradient", (32768, 1000), ["gradient beside sums, powers kept"]),
        ("gradient", (1024, 32000), ["gradient beside sums, rest kept"]),
        ("forward", (32768, 1000), ["largest logit", "sums"]),
    ],
)
def test_the_passes_of_a_case(monkeypatch, function, shape, passes):
    past_the_caches(monkeypatch)
    found = limits.passes_of(Case(function, "float32", *shape))
    assert set(found) <= set(assembly.PASSES)
    assert len(found) == passes if isinstance(passes, int) else list(found) == passes


def test_gradients_of_16_bits_go_through_the_caches_where_powers_are_kept(monkeypatch):
    past_the_caches(monkeypatch)
    cases = [Case("gradient", "bfloat16", 32768, n) for n in (4000, 5000)]
    assert [len(limits.passes_of(case)) for case in cases] == [3, 1]


def steps_with_ones(turns):
    """The number that is left of ones in each step of ``limits.mixed`` with whole numbers, as it lies in memory."""
    one = number = np.ones(1, np.float32).view(np.int32)
    for _ in range(turns):
        number = (number + one) & one
    return number


@pytest.mark.parametrize("name", limits.RATES)
def test_what_is_timed_does_all_of_its_steps(name):
    numbers = np.ones((2, limits.ROOM), np.float32)
    limits.RATES[name].on_threads(numbers, 3)
    fused = 1.0 + 3.0  # 1 * 1 + 1, and so on
    wanted = {"fused": 12 * fused, "mixed": 8 * fused + (4 * steps_with_ones(3)).view(np.float32)[0]}
    assert (numbers[:, 32 : 32 + FLOATS] == wanted[name]).all()


@pytest.mark.skipif(syntax_here() != "x86-64", reason="reads the machine code of x86-64")
@pytest.mark.parametrize("name", limits.RATES)
def test_what_is_timed_does_not_wait(name):
    rate = limits.RATES[name]
    rate.on_threads(np.ones((1, limits.ROOM), np.float32), 1)
    code = limits.steps_of(rate)
    per_turn = rate.steps * NATIVE // assembly.register_bytes(code[0])
    assert len(code) % per_turn == 0
    targets = [re.findall(r"%[yz]mm\d+", i)[-1] for i in code[:per_turn]]
    assert len(set(targets)) == {"fused": per_turn, "mixed": per_turn * 3 // 4}[name]  # each has a register of its own
    fused = assembly.count(assembly.SYNTAX["x86-64"]["fused"], code)
    assert fused == {"fused": len(code), "mixed": len(code) // 2}[name]
    assert not [i for i in code if "(" in i]


@pytest.mark.parametrize(
    ("function", "dtype", "shape"),
    [
        ("gradient", "float32", (65536, 10)),
        ("gradient", "float32", (8192, 100)),
        ("gradient", "float32", (1024, 1000)),
        ("gradient", "bfloat16", (1024, 1000)),
        ("gradient", "float32", (1, 262144)),
        ("forward", "float32", (32768, 1000)),
    ],
)
def test_rows_in_one_place_are_computed_as_ever(function, dtype, shape):
    alone = limits.one_row(Case(function, dtype, *shape))
    alone.call()
    (task,) = alone.call.args
    assert task.logits.shape[0] * task.logits.shape[1] == alone.elements
    row, target = task.logits[:1].copy(), task.targets[:1]
    wanted = fastce.cross_entropy_with_grad(row, target, reduction="none")
    assert (task.loss == task.loss[0]).all()
    np.testing.assert_allclose(task.loss[0], wanted.loss[0], rtol=1e-6)
    if function == "gradient":
        step = {"float32": 1e-6, "bfloat16": 2.0**-7}[dtype]
        got, grad = task.grad[0].astype(np.float64), wanted.grad[0].astype(np.float64)
        np.testing.assert_allclose(got, grad, rtol=step, atol=1e-7)


def test_a_run_is_saved_and_shown_again(tmp_path, monkeypatch, capsys):
    counts = {name: Counts(20, 10, 6, 2, 1) for name in assembly.PASSES}
    monkeypatch.setattr(assembly, "instructions", lambda dtype: counts)
    cells = [Cell(Case("gradient", "float32", 64, 1000), 1), Cell(Case("forward", "bfloat16", 64, 1000))]
    monkeypatch.setattr(limits, "CELLS", cells)
    path = tmp_path / "limits.json"
    limits.main(["--dtype", "float32", "bfloat16", "--json", str(path)])
    first = capsys.readouterr().out
    limits.main(["--saved", str(path)])
    assert capsys.readouterr().out == first
    results = report.load(path)
    gradient, forward = report_cells(results)
    assert (gradient[1], forward[1]) == ("1", str(numba.get_num_threads()))
    assert (gradient[0], forward[0]) == ("64 x 1,000", "forward, bfloat16, 64 x 1,000")
    (small,) = [r for r in results["records"] if r["measurement"] == "small call"]
    assert {*limits_tables.STEPS, "python"} <= set(small["times"])
    assert limits_tables.small_table(small)[0] == ["a small call consists of", "time"]


def report_cells(results):
    return limits_tables.cells_table([r for r in results["records"] if r["measurement"] == "limits"])[1:]


def record(times, values, function="gradient"):
    return {
        "measurement": "limits", "function": function, "dtype": "float32", "n_rows": 10, "n_classes": 1000,
        "times": {name: {"median": seconds, "min": 0.5 * seconds} for name, seconds in times.items()},
        "values": {"limits": values},
    }  # fmt: skip


def test_the_limits_of_a_cell():
    times = {"fastce": 8e-6, "copy": 4e-6, "fused": 2e-3, "one row": 2e-4}
    values = {"threads": 2.0, "fused": 1e6, "arithmetic": 5000.0, "one row": 20.0}
    (row,) = limits_tables.cells_table([record(times, values)])[1:]
    assert row == ["10 x 1,000", "2", "4 us", "5 us", "5 us", "8 us", "at most 0.80", "at most 0.80", "0.50"]
    (row,) = limits_tables.cells_table([record(times | {"one row": 4e-4}, values)])[1:]  # not as fast as fastce
    assert (row[4], row[6:]) == ("10 us", ["at most 0.80", "", "0.50"])
    mixed = {"products": 3000.0, "mixed": 3e6}  # arithmetic at three times that rate: 1.7 us, and products 3 us
    (row,) = limits_tables.cells_table([record(times | {"mixed": 2e-3}, values | mixed)])[1:]
    assert row[3] == "3 us"
    (row,) = limits_tables.cells_table([record(times | {"mixed": 2e-3}, values | mixed | {"products": 1000.0})])[1:]
    assert row[3] == "1.67 us"
    values["arithmetic"] = 100.0  # less than the copy takes
    assert limits_tables.cells_table([record(times, values)])[1][6] == "at most 1.00"
    del times["copy"], times["fused"], times["one row"]
    (row,) = limits_tables.cells_table([record(times | {"read": 2e-6}, {"threads": 2.0}, "forward")])[1:]
    assert row == ["forward, 10 x 1,000", "2", "2 us", "", "", "8 us", "", "", "0.25"]


def test_arithmetic_is_as_fast_as_it_ever_was():
    """In a slow moment of a cell too, and on however many threads that was."""
    values = {"threads": 2.0, "fused": 1e6, "arithmetic": 5000.0}
    slow = record({"fastce": 8e-6, "copy": 4e-6, "fused": 6e-3}, values)
    fast = record({"fastce": 8e-6, "copy": 4e-6, "fused": 2e-3}, values | {"threads": 1.0, "fused": 0.5e6})
    assert [row[3] for row in limits_tables.cells_table([slow, fast])[1:]] == ["5 us", "10 us"]


@pytest.mark.parametrize(("seconds", "said"), [(1e-4, True), (4e-3, False)])
def test_multiply_adds_timed_in_short_calls_are_told(seconds, said):
    values = {"threads": 2.0, "fused": 1e6, "arithmetic": 5000.0}
    found = limits_tables.sentences(
        {
            "command": "python", "date": "2026-01-02", "machine": {"processor": "one"}, "versions": {}, "left_out": {},
            "records": [record({"fastce": 8e-6, "copy": 4e-6, "fused": seconds}, values)],
        }
    )  # fmt: skip
    assert any("timed in calls of 50 us" in line for line in found) == said
    assert any("the way to the threads" in line for line in found) == said


def test_how_many_times_as_fast_as_its_peers_it_could_be():
    times = {"fastce": 8e-6, "copy": 6e-6, "numpy": 8e-5, "jax": 4e-5, "fused": 2e-3, "one row": 2e-4}
    values = {"threads": 2.0, "fused": 1e6, "arithmetic": 2000.0, "one row": 20.0}  # 2 us (the copy: 3), and 5 us
    assert limits_tables.peers_table([record(times, values)])[1] == [
        "10 x 1,000", "at most 26.7", "at most 16.0", "10.0", "at most 13.3", "at most 8.0", "5.0 JAX",
    ]  # fmt: skip
    del times["jax"], times["one row"], values["one row"]
    assert limits_tables.peers_table([record(times, values)])[1] == [
        "10 x 1,000", "at most 26.7", "", "10.0", "at most 26.7", "", "10.0 NumPy",
    ]  # fmt: skip


@pytest.mark.parametrize("section", ["limits", "limits-emeraldrapids", "limits-zen4", "limits-avx2"])
def test_the_tables_are_those_of_the_saved_results(tmp_path, capsys, section):
    text, copy = TABLES.read_text(encoding="utf-8"), tmp_path / "RESULTS.md"
    start, end = limits_tables.markers(section)
    copy.write_text(text[: text.index(start) + len(start)] + text[text.index(end) :], encoding="utf-8")
    limits.main(["--saved", str(RESULTS / f"{section}.json"), "--readme", str(copy), "--section", section])
    assert copy.read_text(encoding="utf-8") == text
    assert "at most" in capsys.readouterr().out
