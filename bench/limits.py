"""How far the CPU kernels are from what this machine can do at all, and which limit is the nearest.

Three limits of loss with gradient, timed in turn with the call itself: a copy of as many bytes; the arithmetic of the
kernels' loops, counted in their machine code, at the best rate at which this machine was seen to do what does not wait
for each other: independent fused multiply-adds for what multiplies, and, for everything, as many of these as other
steps; and the kernels where all rows lie in the same memory, that of one row, so that they wait for their own
instructions alone. Of forward, in place of the copy, a sum over the logits. Peers run beside them: they can be beaten
by as much as they take longer than these. And what a small call's time is made of.

`python -m fastce.bench.limits --json bench/results/limits.json --readme bench/RESULTS.md` measures, saves, and writes
the tables into that file. Compiling the kernels anew, to read their assembly, takes most of the time.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.lib.stride_tricks import as_strided

import fastce
from fastce import plain
from fastce.kernels import cpu
from fastce.kernels.cpu import launch
from fastce.kernels.cpu.pointers import load, pointer, store
from fastce.kernels.cpu.regimes import ROWS, regime_of
from fastce.kernels.cpu.short import THROUGH
from fastce.kernels.cpu.simd import FLOATS, NATIVE, bits, fma, from_bits
from fastce.kernels.cpu.table import most_kept
from fastce.kernels.task import IF_SMALL, Array, Task

from . import assembly, limits_tables, report
from .cases import PROVIDERS, Case, installed
from .contenders import Problem, dtype_of
from .data import make_logits
from .run import Record, Results, checked, machine, record, results
from .timing import Race
from .variants import Calls, on_threads

BUDGET = 0.6  # seconds of rounds in a cell, beyond the least number of rounds


class Cell(NamedTuple):
    """What is timed, and on how many threads (0: all)."""

    case: Case
    threads: int = 0


CELLS = [
    Cell(Case("gradient", "float32", 128, 1000), threads=1),  # logits and gradient in a second-level cache
    Cell(Case("gradient", "float32", 1024, 1000)),
    Cell(Case("gradient", "float32", 2048, 1000)),
    Cell(Case("gradient", "float32", 32768, 1000)),  # past the caches
    Cell(Case("gradient", "float32", 1024, 32000)),
    Cell(Case("gradient", "float32", 8192, 100)),
    Cell(Case("gradient", "float32", 65536, 10)),  # a row a lane
    Cell(Case("gradient", "float32", 65536, 2)),
    Cell(Case("gradient", "float32", 32, 50257)),
    Cell(Case("gradient", "float32", 1, 262144)),  # whose chunks are shared
    Cell(Case("gradient", "float32", 2, 262144)),
    Cell(Case("forward", "float32", 32768, 1000)),
    Cell(Case("gradient", "bfloat16", 1024, 1000)),
    Cell(Case("gradient", "bfloat16", 32768, 1000)),
]
DTYPES = ("float32", "bfloat16")
PEERS = installed(limits_tables.PEERS)[0]
MEMORY = {"gradient": "copy", "forward": "read"}
BESIDE_SMALL = installed(["sklearn"])[0]
SMALL = Case("gradient", "float32", 32, 10)


def passes_of(case: Case) -> tuple[str, ...]:
    """Name the passes that the kernels make over the rows of a case (`assembly.PASSES`).

    A part of long rows waits in all cells; it would not in rows of more than 262,144 classes, nor in a few of 16 bits.
    """
    if regime_of(case.n_rows, case.n_classes) != ROWS:
        return "rows to lanes", "largest logits of lanes", "sums of lanes", "gradients of lanes", "lanes to rows"
    if case.function == "forward":
        return "largest logit", "sums"
    most = FLOATS * most_kept(dtype_of(case.dtype).itemsize)
    what = "powers kept" if case.n_classes <= most else "rest kept"
    through = FLOATS * THROUGH if case.dtype == "float32" else most
    if launch.go_past(case.logits_bytes) and case.n_classes > through:
        return (f"gradient beside sums, {what}",)  # which looks for the largest logit of later rows too
    return "largest logit", f"sums, {what}", f"gradient, {what}"


# --- what is timed


def fused(numbers: Array, n: int) -> None:
    """`n` times twelve fused multiply-adds of vectors that do not wait for each other."""
    p = pointer(numbers)
    x, y = load(p, 0), load(p, 16)
    a, b, c, d = load(p, 32), load(p, 48), load(p, 64), load(p, 80)
    e, f, g, h = load(p, 96), load(p, 112), load(p, 128), load(p, 144)
    i, j, k, m = load(p, 160), load(p, 176), load(p, 192), load(p, 208)
    for _ in range(n):
        a, b, c, d = fma(a, x, y), fma(b, x, y), fma(c, x, y), fma(d, x, y)
        e, f, g, h = fma(e, x, y), fma(f, x, y), fma(g, x, y), fma(h, x, y)
        i, j, k, m = fma(i, x, y), fma(j, x, y), fma(k, x, y), fma(m, x, y)
    store(p, 32, ((a + b) + (c + d)) + ((e + f) + (g + h)) + ((i + j) + (k + m)))


def mixed(numbers: Array, n: int) -> None:
    """`n` times eight fused multiply-adds of vectors, and eight steps with whole numbers, that wait for nothing.

    (Nearly: each two of the whole numbers' for each other, which takes a step of one cycle.)
    """
    p = pointer(numbers)
    x, y = load(p, 0), load(p, 16)
    a, b, c, d = load(p, 32), load(p, 48), load(p, 64), load(p, 80)
    e, f, g, h = load(p, 96), load(p, 112), load(p, 128), load(p, 144)
    i, j, k, m = bits(load(p, 160)), bits(load(p, 176)), bits(load(p, 192)), bits(load(p, 208))
    more, mask = bits(x), bits(y)
    for _ in range(n):
        a, b, c, d = fma(a, x, y), fma(b, x, y), fma(c, x, y), fma(d, x, y)
        e, f, g, h = fma(e, x, y), fma(f, x, y), fma(g, x, y), fma(h, x, y)
        i, j, k, m = (i + more) & mask, (j + more) & mask, (k + more) & mask, (m + more) & mask
    store(p, 32, ((a + b) + (c + d)) + ((e + f) + (g + h)) + from_bits((i + j) + (k + m)))


class Rate(NamedTuple):
    """One of the two, compiled: by itself and on as many threads as there are rows of numbers; steps of each turn."""

    alone: Any
    on_threads: Callable[[Array, int], None]
    steps: int


def _rate(turns: Callable[[Array, int], None], steps: int) -> Rate:
    alone = numba.njit(error_model="numpy")(turns)

    @numba.njit(parallel=True)
    def on_threads(numbers: Array, n: int) -> None:
        for thread in numba.prange(len(numbers)):
            alone(numbers[thread], n)

    return Rate(alone, on_threads, steps)


RATES = {"fused": _rate(fused, 12), "mixed": _rate(mixed, 16)}
ROOM = 14 * 16
TURNS = 1_000_000  # 2 milliseconds: of 40 microseconds, a tenth is the way to the threads and back


ONE_ROW = 1 << 20  # elements of the rows in the memory of one: the time of a call is far above that of its Python


class OneRow(NamedTuple):
    """A call of the kernels, and of how many elements."""

    call: Callable[[], object]
    elements: int


def one_row(case: Case) -> OneRow:
    """Give the call on rows that all lie in the memory of one, which takes the passes that the case does."""
    n_classes = min(case.n_classes, 4096)
    n_rows, dtype = ONE_ROW // n_classes, dtype_of(case.dtype)
    if passes_of(case._replace(n_rows=n_rows, n_classes=n_classes)) != passes_of(case):
        raise AssertionError(f"{n_rows} x {n_classes} is not computed as {case} is")

    def rows() -> Array:
        memory = np.zeros(1 << 16, dtype)  # (what is asked for ahead of a row is there)
        memory[:n_classes] = make_logits(2, n_classes, dtype=dtype)[0][0]
        return as_strided(memory, (n_rows, n_classes), (0, dtype.itemsize))

    task = Task.of_logits(rows(), grad=rows() if case.function == "gradient" else None)
    task = task._replace(targets=np.zeros(n_rows, np.int64), ignore_index=-100, loss=np.empty(n_rows, np.float32))
    return OneRow(partial(cpu.cross_entropy, task), n_rows * n_classes)


def measure(cell: Cell, counts: dict[str, assembly.Counts], wrong: dict[str, str]) -> Record:
    """Time a cell beside its limits, of which, without counts, arithmetic is none, and beside peers on as many threads.

    Peers whose result is wrong are put into `wrong` instead.
    """
    case, n_threads = cell.case, cell.threads or numba.get_num_threads()
    passes, elements = passes_of(case), case.n_rows * case.n_classes
    names = ["fastce", MEMORY[case.function], *([] if cell.threads else PEERS)]
    calls: Calls = {name: on_threads(call, n_threads) for name, call in checked(case, names, wrong).items()}
    values = {"threads": float(n_threads)}
    if all(name in counts for name in passes):
        numbers = np.ones((n_threads, ROOM), np.float32) / np.arange(1, ROOM + 1, dtype=np.float32)
        for name, rate in RATES.items():
            calls[name] = on_threads(partial(rate.on_threads, numbers, TURNS), n_threads)
            calls[name]()  # (compiled, there is machine code to look at)
            values[name] = float(n_threads * TURNS * rate.steps * NATIVE // assembly.register_bytes(steps_of(rate)[0]))
        values["products"] = sum(counts[name].products for name in passes) / 16 * elements
        values["arithmetic"] = sum(counts[name].arithmetic for name in passes) / 16 * elements
    if len(passes) > 1:  # (a gradient beside sums goes past the caches, whichever memory it is)
        alone = one_row(case)
        calls["one row"] = on_threads(alone.call, 1)
        values["one row"] = alone.elements * n_threads / elements
    return record("limits", case, run_race(calls), values={"limits": values})


def steps_of(rate: Rate) -> list[str]:
    """The instructions of the loop that is timed, as far as they compute: in the machine code."""
    (code,) = rate.alone.inspect_asm().values()
    loops = [loop.code for found in assembly.hot_loops(code).values() for loop in found]
    return [i for loop in loops for i in loop if i.startswith("v")]


def python_function(logits: Array, targets: Array, grad: Array) -> None:
    """A call of Python's, for scale."""


def run_race(calls: Calls) -> Race:
    """Time calls in turn, after one of each: the first compiles, or loads what is compiled."""
    for call in calls.values():
        call()
    race = Race(calls, BUDGET)
    race.run()
    return race


def small() -> Record:
    """Time a small call, the steps that it is made of, and scikit-learn's where that is installed."""
    problem = Problem(SMALL.n_rows, SMALL.n_classes, dtype_of(SMALL.dtype))
    x, y, g = problem.logits, problem.targets, problem.out
    kernel, options = cpu.plain.FLOATS.of_targets(), dict[str, Any]()
    args = (y, g, None, None, None, options, IF_SMALL)
    calls: Calls = {
        "python": lambda: python_function(x, y, g),
        "nothing": lambda: kernel(cpu.plain.FLOATS.address, None, *args),  # (which is not plain)
        "kernel": lambda: kernel(cpu.plain.FLOATS.address, x, *args),
        "launch": lambda: plain.of_targets(x, y, g, True, (), None, options),
        "fastce": lambda: fastce.cross_entropy_with_grad(x, y, grad_out=g),
    }
    fastce.cross_entropy_with_grad(x, y, grad_out=g)  # (what the kernel needs is there from now on)
    calls |= {name: PROVIDERS[name].builders["gradient"](problem).call for name in BESIDE_SMALL}
    return record("small call", SMALL, run_race(calls))


def run(dtypes: Sequence[str], command: str) -> Results:
    """Count and measure everything about logits of these types."""
    counted = dtypes if assembly.syntax_here() == "x86-64" else []
    counts = {dtype: assembly.instructions(dtype) for dtype in counted}
    records = [
        record("instructions", Case("gradient", dtype, 0, 0), values={name: c._asdict() for name, c in found.items()})
        for dtype, found in counts.items()
    ]
    wrong: dict[str, str] = {}
    records += [measure(cell, counts.get(cell.case.dtype, {}), wrong) for cell in CELLS if cell.case.dtype in dtypes]
    records += [small()] if SMALL.dtype in dtypes else []
    timed = ["fastce", *PEERS]
    packages = {package for name in timed for package in PROVIDERS[name].needs}
    return results(records, packages, wrong, command, machine())


def main(arguments: Sequence[str] | None = None) -> None:
    """Print how far the CPU kernels are from the limits of this machine."""
    parser = argparse.ArgumentParser(prog="python -m fastce.bench.limits", description=main.__doc__)
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=DTYPES[:1], help="types of the logits")
    parser.add_argument("--json", type=Path, metavar="PATH", help="save the results")
    parser.add_argument("--saved", type=Path, metavar="PATH", help="saved results, in place of measuring")
    parser.add_argument("--readme", type=Path, metavar="PATH", help="file with the markers, to write the tables into")
    parser.add_argument("--section", default="limits", help="markers' name: another for another machine's results")
    options = parser.parse_args(arguments)
    words = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "-m", "fastce.bench.limits", *words])
    found = report.load(options.saved) if options.saved else run(options.dtype, command)
    print(limits_tables.to_text(found))
    if options.json:
        report.save(found, options.json)
    if options.readme:
        markers = limits_tables.markers(options.section)
        report.write_between_markers(options.readme, limits_tables.to_markdown(found), *markers)


if __name__ == "__main__":
    main()
