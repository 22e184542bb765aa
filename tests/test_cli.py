"""`python -m fastce`: what it prints, its exit statuses, and that `check` can fail."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

import fastce
from fastce import __main__ as cli
from fastce import api, selfcheck, sysinfo
from fastce.kernels import cpu

ROOT = Path(__file__).parent.parent


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fastce", *arguments],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


# -- info --------------------------------------------------------------------------------------------------------------


def test_info_names_versions_cpu_threads_cache_and_parts() -> None:
    done = run("info", NUMBA_NUM_THREADS="1")
    assert (done.returncode, done.stderr) == (0, "")
    for name, value in [
        ("fastce", fastce.__version__),
        ("numpy", np.__version__),
        ("numba", numba.__version__),
        ("vector_bits", r"(\d+|-)"),
        ("number", "1"),
        ("layer", "(tbb|omp|workqueue)"),
        ("folder", r"\S.*"),
        ("ml_dtypes", r"(\d.*|-)"),
        ("torch", r"(\d.*|-)"),
    ]:
        pattern = value if name in ("vector_bits", "layer", "folder", "ml_dtypes", "torch") else re.escape(value)
        assert re.search(rf"^  {name} +{pattern}$", done.stdout, re.MULTILINE), name


def test_info_as_json_holds_the_same() -> None:
    done = run("info", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    sections = json.loads(done.stdout)
    assert set(sections) == {"versions", "cpu", "threads", "cache", "optional"}
    assert sections["versions"]["fastce"] == fastce.__version__
    assert set(sections["optional"]) == set(sysinfo.OPTIONAL_PARTS)


def test_info_where_the_threading_layer_cannot_start() -> None:
    done = run("info", "--json", NUMBA_THREADING_LAYER="nonsense")
    assert (done.returncode, done.stderr) == (0, "")
    threads = json.loads(done.stdout)["threads"]
    assert threads["layer"] is None
    assert "nonsense" in threads["error"]


def test_info_imports_no_optional_package() -> None:
    code = """
import sys
import numba
before = set(sys.modules)
from fastce import sysinfo
sysinfo.collect()
optional = {"torch", "jax", "cupy", "dask", "sklearn", "xgboost", "lightgbm", "ml_dtypes", "numba_cuda"}
print(sorted(optional & (set(sys.modules) - before)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


def test_cache_folder_is_where_numba_puts_the_kernels(tmp_path: Path) -> None:
    folder = json.loads(run("info", "--json", NUMBA_CACHE_DIR=str(tmp_path)).stdout)["cache"]["folder"]
    assert Path(folder).is_relative_to(tmp_path)


@pytest.mark.parametrize(
    ("features", "bits"),
    [("+sse2,+avx,+avx512f", 512), ("+sse2,+avx,+avx2,-avx512f", 256), ("+sse2", 128), ("+neon", 128), ("", None)],
)
def test_vector_width(monkeypatch: pytest.MonkeyPatch, features: str, bits: int | None) -> None:
    monkeypatch.setattr(numba.config, "CPU_FEATURES", features)
    assert sysinfo.cpu()["vector_bits"] == bits


def test_optional_part_that_is_not_there() -> None:
    assert sysinfo.optional_part("no_such_module", ["no-such-distribution"]) is None
    assert sysinfo.optional_part("json", ["no-such-distribution"]) == "unknown version"
    assert sysinfo.optional_part("numpy", ["no-such-distribution", "numpy"]) == np.__version__


# -- warmup ------------------------------------------------------------------------------------------------------------


def test_warmup_passes_on_what_it_was_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def warmup(dtypes: Any, *, functions: Any, progress: Callable[[int, int, str], None], processes: int) -> float:
        assert processes > 0
        progress(0, 2, "rows float32")
        progress(1, 2, f"{dtypes} {functions}")
        return 12.34

    monkeypatch.setattr(sys.modules["fastce.warmup"], "warmup", warmup)
    assert cli.main(["warmup", "--dtype", "float32", "bfloat16", "--what", "softmax"]) == 0
    out, err = capsys.readouterr()
    assert out == "compiled in 12.3 s\n"
    assert err == "[0/2] rows float32\n[1/2] ['float32', 'bfloat16'] ['softmax']\n"


def test_warmup_compiles_kernels_that_are_kept_on_disk() -> None:
    code = """
from fastce import __main__, sysinfo
signatures = lambda: sum(len(kernel.signatures) for kernel in sysinfo.cached_kernels())
assert signatures() == 0
assert __main__.main(["warmup", "--what", "logsumexp"]) == 0
assert signatures() > 0
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"compiled in \d+\.\d s\n", done.stdout)
    assert re.search(r"^\[0/\d+\] logsumexp of float32", done.stderr)
    folder = json.loads(run("info", "--json").stdout)["cache"]["folder"]
    assert list(Path(folder).glob("*.nbc"))


def test_warmup_of_an_unknown_function() -> None:
    done = run("warmup", "--what", "softmaxx")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(r"^python -m fastce warmup: error: .*softmaxx", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr


class Terminal:
    """What a terminal of 40 columns shows."""

    def __init__(self) -> None:
        self.written: list[str] = []

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> None:
        self.written.append(text)

    def flush(self) -> None:
        pass


def test_progress_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "50")
    bar = cli._ProgressBar()
    bar(0, 4, "a label that is much longer than the terminal is wide")
    bar(2, 4, "short")
    bar.close()
    first, second, last = "".join(terminal.written).split("\r")[1:4]
    assert len(first) == 49
    assert first.startswith("[" + "." * 30 + "] 0/4 a label")
    assert second == ("[" + "#" * 15 + "." * 15 + "] 2/4 short").ljust(49)
    assert last.strip() == ""


# -- check -------------------------------------------------------------------------------------------------------------


def test_check_is_right_here() -> None:
    done = run("check", "--quick")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    for name, line in zip(selfcheck.GROUPS, lines[2:-1], strict=True):
        assert re.match(rf"{name} +ok +largest error \d\.\de[-+]\d+, allowed \d\.\de[-+]\d+  \(.+\)$", line)
    assert lines[-1].startswith("RIGHT")


def test_check_of_every_type_is_right_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check"]) == 0, capsys.readouterr().out
    first = capsys.readouterr().out.splitlines()[0]
    assert all(name in first for name in ("float16", "bfloat16", "float32", "float64"))


def test_check_says_what_it_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    types, missing = selfcheck._types(quick=False)
    assert "bfloat16" not in types
    assert "ml_dtypes is not installed" in missing


def off_in_one_element(name: str, factor: float) -> Callable[..., None]:
    """Wrap a kernel so that the last element of one output is off."""

    def kernel(task: Any, *rest: Any) -> None:
        function(task, *rest)
        out = getattr(task, name) if name else rest[0]
        if out is not None:
            place = (-1,) * out.ndim
            out[place] = out[place] * out.dtype.type(factor) if out.dtype.kind == "f" else ~out[place]

    function = cpu.cross_entropy if name else cpu.softmax
    return kernel


@pytest.mark.parametrize(
    ("kernel", "output", "factor", "group"),
    [
        ("cross_entropy", "loss", 1 + 1e-5, "narrow"),
        ("cross_entropy", "loss", 1 + 1e-5, "rows"),
        ("cross_entropy", "loss", 1 + 1e-5, "wide"),
        ("cross_entropy", "loss", 1 + 1e-3, "options"),
        ("cross_entropy", "grad", 1 + 1e-3, "narrow"),
        ("cross_entropy", "grad", 0.0, "layouts"),
        ("cross_entropy", "argmax", 0.0, "targets"),
        ("cross_entropy", "lse", 1 + 1e-4, "rows"),
        ("softmax", "", 1 + 1e-4, "softmax"),
    ],
)
def test_check_notices_a_kernel_that_is_wrong_in_one_element(
    monkeypatch: pytest.MonkeyPatch, kernel: str, output: str, factor: float, group: str
) -> None:
    lines: list[str] = []
    assert selfcheck.run(quick=True, groups=(group,), show=lines.append), lines
    monkeypatch.setattr(cpu, kernel, off_in_one_element(output, factor))
    lines.clear()
    assert not selfcheck.run(quick=True, groups=(group,), show=lines.append)
    assert lines[-2].startswith(f"{group:<14} WRONG")
    assert lines[-1].startswith(f"WRONG: {group} ")


def test_check_notices_results_that_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = [1]
    function = cpu.cross_entropy

    def kernel(task: Any) -> None:
        function(task)
        if numbers[-1] > 1 and task.loss is not None:
            task.loss[0] = np.nextafter(task.loss[0], np.float32(np.inf))

    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 2)
    monkeypatch.setattr(numba, "set_num_threads", numbers.append)
    assert selfcheck.run(quick=True, groups=("threads",), show=lambda line: None)
    monkeypatch.setattr(cpu, "cross_entropy", kernel)
    assert not selfcheck.run(quick=True, groups=("threads",), show=lambda line: None)


def test_check_notices_targets_that_are_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "scan_targets", lambda targets, *rest: (-1, targets.size, 1.0, 1.0))
    lines: list[str] = []
    assert not selfcheck.run(quick=True, groups=("bad input",), show=lines.append)


def test_check_notices_the_short_way_of_plain_calls_being_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    assert selfcheck.run(quick=True, groups=("plain calls",), show=lambda line: None)
    monkeypatch.setattr(api, "of_targets", lambda x, y, *_: None if _[-1] else (np.float32(1), x, *[None] * 7))
    assert not selfcheck.run(quick=True, groups=("plain calls",), show=lambda line: None)


def test_check_that_is_wrong_or_crashes_exits_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def kernel(task: Any) -> None:
        raise FloatingPointError("made to fail")

    monkeypatch.setattr(cpu, "cross_entropy", kernel)
    assert cli.main(["check", "--quick"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"^rows +WRONG  FloatingPointError: made to fail$", out, re.MULTILINE)
    assert "\nWRONG: " in out
    assert "RIGHT" not in out


@pytest.mark.parametrize(
    ("got", "want", "allowed", "wrong"),
    [
        ([1.0, np.nan], [1.0, np.nan], 0.0, False),
        ([np.inf, -np.inf], [np.inf, -np.inf], 0.0, False),
        ([1.0, np.nan], [1.0, 2.0], 1.0, True),
        ([1.0, 2.0], [1.0, np.nan], 1.0, True),
        ([np.inf], [-np.inf], np.inf, True),
        ([1.0], [np.inf], np.inf, True),
        ([1.0], [1.0 + 1e-6], 1e-7, True),
        ([1.0], [1.0 + 1e-6], 1e-5, False),
        ([1.0, 1.0], [1.0], 1.0, True),
        ([], [], 0.0, False),
        ([1], [2], 0.0, True),
    ],
)
def test_comparison(got: list[float], want: list[float], allowed: float, wrong: bool) -> None:
    assert selfcheck._compare("", got, want, allowed).wrong is wrong


# -- command lines that are wrong, and interruptions -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required"),
        (["chek"], "chek"),
        (["warmup", "--dtype", "int8"], "int8"),
        (["warmup", "--dtype"], "--dtype"),
        (["check", "--device", "tpu"], "tpu"),
        (["info", "--yaml"], "--yaml"),
    ],
)
def test_wrong_command_lines(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_check_on_a_gpu_that_is_not_there(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert cli.main(["check", "--device", "cuda"]) == 2
    assert "pip install 'fastce[cuda13]'" in capsys.readouterr().err
    no_gpu = types.SimpleNamespace(cuda=types.SimpleNamespace(is_available=lambda: False))
    monkeypatch.setitem(sys.modules, "cupy", no_gpu)
    assert cli.main(["check", "--device", "cuda"]) == 2
    assert "no GPU" in capsys.readouterr().err


def test_interrupt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(**options: Any) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(selfcheck, "run", interrupted)
    assert cli.main(["check"]) == 130
    assert capsys.readouterr().err == "\nfastce: interrupted\n"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGPIPE")
def test_closed_pipe_is_silent() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "fastce", "info"], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(writer)
    assert done.stderr == b""
    assert done.returncode == 141


_INTERRUPTED_IN_A_STRING = """
import sys
from fastce import __main__

def command(args):
    exec("raise KeyboardInterrupt")

__main__._info = command
sys.exit(__main__.main(["info"]))
"""


def test_ctrl_c_while_python_runs_a_string_has_the_same_status(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(_INTERRUPTED_IN_A_STRING)
    done = subprocess.run(
        [sys.executable, "-m", "program"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, "\nfastce: interrupted\n")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
@pytest.mark.parametrize("compiled", [True, False])
def test_ctrl_c_ends_a_running_check_without_traceback(tmp_path: Path, compiled: bool) -> None:
    env = os.environ if compiled else {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "fastce", "check"],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it has begun
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130, err
    assert err == "\nfastce: interrupted\n"
