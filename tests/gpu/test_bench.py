"""The benchmark for GPUs, as far as that goes without one: cases, data, statistics, tables, the model's arithmetic."""

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from fastce.bench import gpu, gpu_cases, gpu_contenders, gpu_timing, report, run, tables
from fastce.bench.cases import FUNCTIONS, TYPES, YARDSTICKS, Case
from fastce.bench.check import Oracle
from fastce.bench.contenders import Contender, Problem, dtype_of
from fastce.bench.gpu_cases import PEERS, PROVIDERS, QUACK_SHAPES
from fastce.places import missing_gpu

TABLES = Path(__file__).parent.parent.parent / "bench" / "RESULTS.md"


# --- the table of cases


def test_shapes_of_quack_and_of_the_cpu():
    cells = gpu_cases.select()
    assert len(set(cells)) == len(cells)
    assert {c.function for c in cells} == {"gradient", "forward"} <= set(FUNCTIONS)
    assert {c.dtype for c in cells} == set(TYPES) == {"float32", "bfloat16", "float16"}
    shapes = [(c.n_rows, c.n_classes) for c in cells if (c.function, c.dtype) == ("gradient", "bfloat16")]
    assert shapes[:11] == [
        (32768, 256), (32768, 512), (32768, 1024), (32768, 2048), (32768, 4096), (32768, 8192), (32768, 16384),
        (32768, 32768), (32768, 65536), (16384, 131072), (8192, 262144),
    ]  # fmt: skip
    assert list(QUACK_SHAPES) == shapes[:11]
    assert {(1, 262144), (32, 10), (1024, 50257), (8192, 32000), (65536, 1000)} < set(shapes)
    for function in gpu_cases.FUNCTIONS:
        assert sum((c.function, c.dtype) == (function, "float32") for c in cells) == len(shapes)


def test_own_shapes_are_every_pair():
    cells = gpu_cases.select(functions=["forward"], dtypes=["float16"], rows=[3, 5], classes=[7, 1 << 30])
    assert cells == [Case("forward", "float16", n, c) for n in (3, 5) for c in (7, 1 << 30)]


def test_what_does_not_fit_is_left_out_and_said():
    small, large = Case("gradient", "float32", 1024, 1000), Case("gradient", "float32", 32768, 65536)
    assert gpu_cases.that_fit([small, large], 10**12) == ([small, large], {})
    fit, left_out = gpu_cases.that_fit([small, large], 4 * 10**10)
    assert fit == [small]
    assert left_out == {"1 cells": "the largest need 69 GB, and 40 GB are free"}


def test_providers():
    assert set(PEERS) == {"numpy", "torch", "torch-compile", "liger", "quack", "quack-one-pass"}
    assert set(PROVIDERS) - set(PEERS) - set(YARDSTICKS) == {"fastce", "fastce-in-place"}
    for provider in PROVIDERS.values():
        assert set(provider.builders) <= set(gpu_cases.FUNCTIONS)
        assert set(provider.tolerance) == set(TYPES)


# --- data: the rows of a large problem are copies, so that float64 knows all of them


@pytest.mark.parametrize("shape", [*QUACK_SHAPES, (1, 262144), (1, 1 << 25), (6, 1 << 22), (7, 1 << 23), (65536, 2)])
def test_distinct_rows_divide_all(shape):
    made = gpu_contenders.distinct_rows(*shape)
    assert shape[0] % made == 0
    assert made >= 1
    assert made == 1 or made * shape[1] <= gpu_contenders.DISTINCT


def test_oracle_of_copied_rows_is_that_of_all():
    some = Problem(6, 50, np.dtype(np.float32))
    every = Problem(6, 50, np.dtype(np.float32))
    every.logits, every.targets = np.tile(some.logits, (4, 1)), np.tile(some.targets, 4)
    copied, plain = Oracle(some, 4), Oracle(every)
    assert copied.loss == pytest.approx(plain.loss, rel=1e-14)
    np.testing.assert_array_equal(copied.rows, np.arange(24))
    np.testing.assert_allclose(copied.array("gradient"), plain.array("gradient"), rtol=1e-14)
    tolerance = PROVIDERS["fastce"].tolerance["float32"]
    right = plain.loss, plain.array("gradient").astype(np.float32)
    copied.check("right", "gradient", Contender(lambda: right, lambda found: found), tolerance)
    wrong = right[1].copy()
    wrong[-1, 3] += 1e-5  # in the last copy alone
    with pytest.raises(AssertionError, match="gradient of row 23"):
        copied.check("wrong", "gradient", Contender(lambda: (right[0], wrong), lambda found: found), tolerance)


@pytest.fixture
def numpy_as_cupy(monkeypatch):
    """Let NumPy, which has the same names, stand for CuPy in what makes the arrays."""
    names = ("asarray", "from_dlpack", "empty", "zeros", "zeros_like", "tile", "arange", "subtract", "exp", "log")
    made = types.SimpleNamespace(**{name: getattr(np, name) for name in names})
    made.ndarray = type("ndarray", (), {})  # NumPy's arrays are none of CuPy's
    made.__spec__ = "as of a module that is there"
    monkeypatch.setitem(sys.modules, "cupy", made)
    monkeypatch.setattr(gpu_contenders.GpuOracle, "chosen", Oracle.chosen)


def a_millisecond(call):
    call()
    return 1e-3


@pytest.mark.cpu
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("function", gpu_cases.FUNCTIONS)
def test_contenders_are_checked_and_only_right_ones_timed(numpy_as_cupy, monkeypatch, dtype, function):
    monkeypatch.setattr(gpu_contenders, "DISTINCT", 4096)
    monkeypatch.setattr(gpu, "BUDGET", 0.0)
    wrong = PROVIDERS["torch"]._replace(builders={function: lambda p: Contender(lambda: 1.0, lambda x: (x, None))})

    def fails(problem):
        raise ImportError("no such thing\nat all")

    broken = PROVIDERS["liger"]._replace(builders={function: fails})
    right = ("fastce", "fastce-in-place", "numpy") if function == "gradient" else ("fastce", "numpy")
    left_out = {}
    case, problem = Case(function, dtype, 1024, 40), gpu_contenders.GpuProblem(1024, 40, dtype_of(dtype))
    oracle = gpu_contenders.GpuOracle(problem)
    providers = {**{name: PROVIDERS[name] for name in right}, "torch": wrong, "liger": broken}
    race = gpu.prepare(case, problem, oracle, providers, a_millisecond, left_out)
    race.run()
    assert race.names == list(right)
    assert race.seconds == {name: [1e-3] * 9 for name in race.names}
    assert left_out[f"Liger, {case}"] == "ImportError: no such thing"
    assert left_out[f"PyTorch, {case}"].startswith("loss 1.0, float64 gives")
    idle = PROVIDERS["fastce"]._replace(builders={function: lambda p: Contender(lambda: 1.0, lambda x: (x, p.out))})
    with pytest.raises(AssertionError, match="fastce, "):
        gpu.prepare(case, problem, oracle, {"fastce": idle}, a_millisecond, {})


@pytest.mark.parametrize("dtype", TYPES)
def test_contenders_by_pytorch(numpy_as_cupy, monkeypatch, dtype):
    """PyTorch's functions stand for those of Liger, which overwrites the logits, and of quack."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    F = torch.nn.functional

    class Liger(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, targets):
            loss = F.cross_entropy(x.float(), targets)
            x.copy_((x.float().softmax(1) - F.one_hot(targets, x.shape[1])) / len(x))
            ctx.save_for_backward(x)
            return loss

        @staticmethod
        def backward(ctx, of_loss):
            return ctx.saved_tensors[0] * of_loss, None

    def in_one_pass(x, targets, return_dx):
        assert return_dx
        grad = (x.float().softmax(1) - F.one_hot(targets, x.shape[1])).to(x.dtype)
        return F.cross_entropy(x.float(), targets, reduction="none"), grad

    modules = {
        "liger_kernel.transformers": types.SimpleNamespace(LigerCrossEntropyLoss=lambda: Liger.apply),
        "quack.cross_entropy": types.SimpleNamespace(cross_entropy=F.cross_entropy, cross_entropy_fwd=in_one_pass),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name.partition(".")[0], types.ModuleType(name.partition(".")[0]))
        monkeypatch.setitem(sys.modules, name, module)
    problem = gpu_contenders.GpuProblem(64, 50, dtype_of(dtype))
    oracle = gpu_contenders.GpuOracle(problem)
    for function, names in (
        ("gradient", ["torch", "liger", "quack", "quack-one-pass"]),
        ("forward", ["torch", "quack"]),
    ):
        left_out = {}
        case, providers = Case(function, dtype, 64, 50), {name: PROVIDERS[name] for name in names}
        race = gpu.prepare(case, problem, oracle, providers, a_millisecond, left_out)
        assert left_out == {}
        assert race.names == names


def test_nobody_passes_with_what_another_left(numpy_as_cupy):
    problem = gpu_contenders.GpuProblem(8, 5, np.dtype(np.float32))
    problem.out[...] = 1
    problem.scratch[...] = 1
    problem.make_ready()
    assert np.isnan(problem.out).all()
    np.testing.assert_array_equal(problem.scratch, problem.logits)


# --- timing


def test_every_call_is_timed_by_itself_and_in_turn():
    order = []

    def stopwatch(call):
        call()
        return 1e-6  # short calls would be repeated within a lap on the CPU

    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    race = gpu_timing.ColdRace(calls, stopwatch, budget=0)
    order.clear()
    race.run()
    rounds = ["".join(order[i : i + 3]) for i in range(0, len(order), 3)]
    assert rounds == ["abc", "bca", "cab"] * 3
    assert race.repeats == dict.fromkeys("abc", 1)


def test_stopwatch_writes_over_the_cache_before_each_call(monkeypatch):
    """A made-up CuPy writes down what happens."""
    order = []

    class Event:
        def record(self):
            order.append("event")

        def synchronize(self):
            order.append("wait")

    class Memory:
        def __init__(self, size, dtype):
            assert size == 4 << 28
            assert dtype == "u1"

        def fill(self, value):
            order.append("fill")

    cuda = types.SimpleNamespace(
        Device=lambda: types.SimpleNamespace(attributes={"L2CacheSize": 1 << 28}),
        Event=Event,
        get_elapsed_time=lambda start, end: 1.5 if start is not end else None,
    )
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(cuda=cuda, empty=Memory))
    stopwatch = gpu_timing.Stopwatch()  # which sees that to write once takes 1.5 ms, and Python has 2 ms
    order.clear()
    assert stopwatch(lambda: order.append("call")) == 1.5e-3
    assert order == ["fill", "fill", "event", "call", "event", "wait"]


# --- what is saved and printed


def a_record(shape, function="gradient", dtype="bfloat16", **seconds):
    case = Case(function, dtype, *shape)
    times = {name.replace("_", "-"): run.summary([s, 0.9 * s, 1.1 * s], 1) for name, s in seconds.items()}
    return run.Record(measurement="speed", function=function, dtype=dtype, n_rows=case.n_rows,
                      n_classes=case.n_classes, bytes_moved=case.bytes_moved, times=times, values={})  # fmt: skip


def some_results():
    records = [
        a_record((32768, 4096), fastce=2e-4, fastce_in_place=2e-4, numpy=2e-3, torch=8e-4, quack=1e-4, copy=1.8e-4),
        a_record((8192, 262144), fastce=4e-3, numpy=2e-2, torch=1.2e-2, copy=3e-3),
        a_record((32768, 256), function="forward", dtype="float32", fastce=1e-5, copy=1e-5),
    ]
    return run.Results(command=gpu.COMMAND, date="2026-01-02", machine={"GPU": "G"}, versions={"fastce": "1"},
                       left_out={"liger": "liger_kernel is not installed"}, records=records)  # fmt: skip


def test_statistics_and_tables():
    (_, gradient), (_, forward) = sorted(tables.groups(some_results()["records"]).items(), reverse=True)
    first = gradient[0]
    assert first["times"]["fastce"]["median"] == 2e-4
    assert first["times"]["fastce"]["q25"] == pytest.approx(1.9e-4)
    assert first["times"]["fastce"]["q75"] == pytest.approx(2.1e-4)
    header, row, _ = tables.speed_table(gradient, PROVIDERS)
    cells = dict(zip(header, row, strict=True))
    assert cells["rows x classes"] == "32,768 x 4,096"
    assert cells["NumPy by CuPy"] == "2 ms"
    assert cells["GB/s"] == f"{(2 * 2 * 32768 * 4096 + 8 * 32768) / 2e-4 / 1e9:.2f}" == "2685.67"
    assert cells["of copy speed"] == "0.90 (0.81 to 0.99)"
    assert cells["over the best peer"] == "0.50 (0.45 to 0.55) quack"
    assert gpu.short_table([*gradient, *forward])[1:] == [
        ["Forward, float32", "1", "1.00", "3382", "", "", "0"],
        ["Loss with gradient, bfloat16", "2", "0.82", "2686", "7.50", "1.75", "1"],
    ]


def test_the_short_table_comes_last():
    text = gpu.to_text(some_results())
    assert text.endswith(report.lay_out(gpu.short_table(some_results()["records"])))
    assert "Left out: Liger (liger_kernel is not installed)." in text
    assert "Faster than fastce: quack at 32,768 x 4,096 (Loss with gradient, bfloat16)." in " ".join(text.split())
    assert max(map(len, text.splitlines())) < 200


@pytest.mark.cpu
def test_all_of_it_with_made_up_timings(numpy_as_cupy, monkeypatch, tmp_path, capsys):
    """The command line, with NumPy in CuPy's place and clocks that are not."""
    path = tmp_path / "new" / "gpu.json"
    for name, value in (
        ("missing_gpu", lambda: ""),
        ("missing", lambda needs: {n: "not here" for n in needs if n not in ("fastce", "fastce-in-place", "numpy")}),
        ("Stopwatch", lambda: a_millisecond),
        ("free_bytes", lambda: 10**9),
        ("give_memory_back", lambda: None),
        ("machine", lambda: {"GPU": "made up"}),
        ("BUDGET", 0.0),
        ("PROVIDERS", {name: PROVIDERS[name] for name in ("fastce", "fastce-in-place", "numpy", "torch")}),
    ):
        monkeypatch.setattr(gpu, name, value)
    copied = PROVIDERS["copy"]._replace(builders=dict.fromkeys(FUNCTIONS, lambda p: Contender(lambda: 1, None)))
    monkeypatch.setitem(gpu.PROVIDERS, "copy", copied)
    arguments = ["--rows", "32", "--classes", "10", "50", "--dtype", "float32", "bfloat16", "--json", str(path)]
    assert gpu.main(arguments) == gpu.OK
    found = json.loads(path.read_text(encoding="utf-8"))
    assert len(found["records"]) == 2 * 2 * 2
    assert found["machine"] == {"GPU": "made up"}
    assert found["left_out"] == {"torch": "not here"}
    assert found["command"] == f"{gpu.COMMAND} {' '.join(arguments)}"
    assert {"cupy", "numpy", "fastce"} <= set(found["versions"])
    for record in found["records"]:
        assert record["times"]["fastce"]["count"] == 9
        assert {"numpy", "copy"} < set(record["times"])
    last = capsys.readouterr().out.splitlines()[-4:]
    assert sorted(" ".join(line.split()[:-5]) for line in last) == [
        "Forward, bfloat16 2", "Forward, float32 2", "Loss with gradient, bfloat16 2", "Loss with gradient, float32 2",
    ]  # fmt: skip


@pytest.mark.gpu
@pytest.mark.skipif(bool(missing_gpu()), reason=missing_gpu())
def test_on_a_gpu(tmp_path):
    path = tmp_path / "gpu.json"
    assert gpu.main(["--rows", "1", "64", "--classes", "100", "70000", "--json", str(path)]) == gpu.OK
    for record in report.load(path)["records"]:
        assert {"fastce", "numpy", "copy"} <= set(record["times"])
        assert all(times["min"] > 0 for times in record["times"].values())


@pytest.mark.skipif(not missing_gpu(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    assert gpu.main(["--json", "never-written.json"]) == gpu.NO_GPU == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"python -m fastce.bench.gpu: nothing was measured: {missing_gpu()}\n"
    assert not Path("never-written.json").exists()


def test_rows_need_classes():
    with pytest.raises(SystemExit) as exit_:
        gpu.main(["--rows", "3"])
    assert exit_.value.code == 2


def test_the_tables_are_those_of_the_saved_results(tmp_path, capsys):
    text = TABLES.read_text(encoding="utf-8")
    copy = tmp_path / "RESULTS.md"
    copy.write_text(text, encoding="utf-8")
    saved = [str(TABLES.parent / "results" / f"gpu-h200{part}.json") for part in ("", "-long", "-compile", "-forward")]
    assert gpu.main(["--saved", *saved, "--readme", str(copy)]) == gpu.OK
    assert copy.read_text(encoding="utf-8") == text
    assert capsys.readouterr().out.count("Machine: GPU NVIDIA H200") == len(saved)


@pytest.mark.parametrize("content", [None, "no JSON"])
def test_saved_results_that_cannot_be_read(tmp_path, capsys, content):
    path = tmp_path / "saved.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    for arguments in (["--saved", str(path)], ["--readme", "README.md"]):
        with pytest.raises(SystemExit) as exit_:
            gpu.main(arguments)
        assert exit_.value.code == 2
    assert "--readme needs --saved" in capsys.readouterr().err


# --- the model


@pytest.fixture(scope="module")
def model():
    pytest.importorskip("numba_cuda", reason="numba-cuda, which compiles for GPUs, is not installed")
    from fastce.bench import gpu_model

    return gpu_model


def test_data_sheets_agree_with_themselves(model):
    for name, sheet in model.GPUS.items():
        assert 2 * sheet.instructions == pytest.approx(sheet.tflops * 1e12, rel=0.01), name


def test_predictions_by_hand(model):
    h100 = model.GPUS["H100 SXM"]
    assert h100.instructions == pytest.approx(132 * 128 * 1.98e9)
    # A block of 128 threads a row, which is read once: 8 bytes an element.
    found = model.predict(model.GPUS["T4"], Case("gradient", "float32", 32768, 4096))
    assert found.kernel == "block"
    assert found.memory == pytest.approx((8 * 32768 * 4096 * 1.008 + 12 * 32768) / 0.32e12)
    assert found.instructions == pytest.approx(32768 * (12.4 * 4096 + 181 * 128) / (40 * 64 * 1.59e9))
    assert found.seconds == found.memory == pytest.approx(3.384e-3, rel=1e-3)
    # Read twice: 12 bytes an element.
    found = model.predict(h100, Case("gradient", "float32", 8192, 262144))
    assert found.kernel == "online"
    assert found.seconds == pytest.approx(12 * 2**31 * 1.008 / 3.35e12, rel=1e-4)
    # 4 lanes a row; with another memory, the instructions take longer.
    found = model.predict(h100, Case("gradient", "bfloat16", 32768, 256))
    assert found.kernel == "warp"
    assert found.instructions == pytest.approx(32768 * (14.5 * 256 + 535 * 4) / 3.3454e13, rel=1e-4)
    assert found.seconds == found.memory
    found = model.predict(h100._replace(gigabytes=10**6), Case("gradient", "bfloat16", 32768, 256))
    assert found.seconds == found.instructions


def test_what_the_model_does_not_cover_is_refused(model):
    sheet = model.GPUS["L4"]
    with pytest.raises(ValueError, match="only loss with gradient"):
        model.predict(sheet, Case("forward", "float32", 32768, 256))
    with pytest.raises(ValueError, match="1 rows are too few"):
        model.predict(sheet, Case("gradient", "float32", 1, 262144))


def test_the_model_in_the_tables_is_what_the_program_writes(model, tmp_path, capsys):
    text = TABLES.read_text(encoding="utf-8")
    copy = tmp_path / "RESULTS.md"
    copy.write_text(text, encoding="utf-8")
    model.main(["--readme", str(copy)])
    assert copy.read_text(encoding="utf-8") == text
    assert "A model's prediction, not a measurement" in text
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(model.GPUS)
