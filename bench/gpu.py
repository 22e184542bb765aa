"""fastce on a GPU beside its peers: `python -m fastce.bench.gpu --json gpu.json`, on a machine that has one.

Every contender is checked against float64 before it is timed; all of a cell are timed in turn, with CUDA events and a
cold level-2 cache. The results are saved after each cell. `--saved gpu.json --readme bench/RESULTS.md` writes the
tables of results that were saved into that file, on any machine.
"""

from __future__ import annotations

import argparse
import itertools
import shlex
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastce import sysinfo
from fastce.places import missing_gpu

from .cases import OURS, TYPES, Case, Provider, installed_types, missing
from .contenders import dtype_of
from .gpu_cases import FUNCTIONS, PEERS, PROVIDERS, select, that_fit
from .gpu_contenders import GpuOracle, GpuProblem
from .gpu_timing import ColdRace, Stopwatch
from .report import lay_out, load, markdown_table, save, wrap, write_between_markers
from .run import SEED, Record, Results, record, results
from .tables import (
    Table,
    best_peer,
    duration,
    gigabytes_per_second,
    groups,
    losses,
    ratio,
    shape,
    speed_table,
    title,
)

OK, WRONG, NO_GPU = 0, 1, 2
BUDGET = 0.5  # seconds of rounds in a cell, beyond the least number of rounds
COMMAND = "python -m fastce.bench.gpu"
START, END = "<!-- gpu:start -->", "<!-- gpu:end -->"


def parser() -> argparse.ArgumentParser:
    """Options of the command line."""
    made = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").partition("\n\n")[2])
    for option, known, text in (
        ("--function", FUNCTIONS, "what is computed"),
        ("--dtype", tuple(TYPES), "types of the logits"),
        ("--peers", PEERS, "who competes"),
    ):
        made.add_argument(
            option, nargs="+", choices=known, metavar="NAME", default=known, help=f"{text}: {', '.join(known)}"
        )
    for option in ("--rows", "--classes"):
        made.add_argument(
            option, nargs="+", type=int, metavar="N", default=[], help="every pair, not the built-in cells"
        )
    made.add_argument("--json", type=Path, metavar="PATH", help="save the results")
    made.add_argument("--saved", nargs="+", type=Path, metavar="PATH", help="measure nothing: print saved results")
    made.add_argument("--readme", type=Path, metavar="PATH", help="write their tables between the markers of this file")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Do all of it; give the exit status: 1 where fastce's result is wrong, 2 where there is no GPU."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(arguments)
    if bool(options.rows) != bool(options.classes):
        parser().error("--rows and --classes go together")
    if options.readme and not options.saved:
        parser().error("--readme needs --saved")
    if options.saved:
        try:
            saved = [load(path) for path in options.saved]
        except (OSError, ValueError) as error:
            parser().error(f"--saved: {error}")
        if options.readme:
            write_between_markers(options.readme, to_markdown(saved), START, END)
        print(*map(to_text, saved), sep="\n\n")
        return OK
    if reason := missing_gpu():
        print(f"{COMMAND}: nothing was measured: {reason}", file=sys.stderr)
        return NO_GPU
    try:
        found = measure(options, shlex.join([*COMMAND.split(), *arguments]))
    except AssertionError as error:
        print(f"{COMMAND}: wrong result: {error}", file=sys.stderr)
        return WRONG
    print(to_text(found))
    return OK


def measure(options: argparse.Namespace, command: str) -> Results:
    """Run every cell there is room for, and save after each."""
    left_out = missing({name: PROVIDERS[name].needs for name in PROVIDERS if name in options.peers})
    providers = [name for name in PROVIDERS if name not in left_out and (name in options.peers or name not in PEERS)]
    dtypes, no_types = installed_types(options.dtype)
    cells = select(functions=options.function, dtypes=dtypes, rows=options.rows, classes=options.classes)
    stopwatch = Stopwatch()
    cells, too_large = that_fit(cells, free_bytes())
    left_out |= no_types | too_large
    packages = {package for name in providers for package in PROVIDERS[name].needs}
    where = machine()
    records: list[Record] = []
    found = results(records, packages, left_out, command, where)
    for (dtype, n_rows, n_classes), of_shape in itertools.groupby(cells, key=lambda case: case[1:]):
        problem = GpuProblem(n_rows, n_classes, dtype_of(dtype), SEED)
        oracle = GpuOracle(problem)
        for case in of_shape:
            print(f"{len(records) + 1} of {len(cells)}: {case}", file=sys.stderr, flush=True)
            contenders = {name: PROVIDERS[name] for name in providers if case.function in PROVIDERS[name].builders}
            race = prepare(case, problem, oracle, contenders, stopwatch, left_out)
            race.run()
            records.append(record("speed", case, race))
            if options.json:
                save(found, options.json)
            del race  # and with it what the contenders hold
            give_memory_back()
        del problem, oracle
        give_memory_back()
    return found


def prepare(
    case: Case,
    problem: GpuProblem,
    oracle: GpuOracle,
    providers: dict[str, Provider],
    stopwatch: Callable[[Any], float],
    left_out: dict[str, str],
) -> ColdRace:
    """Build the contenders of a cell, check each against the oracle, and set up their race.

    A peer that fails or whose result is wrong is not timed; what happened goes into `left_out`.

    Raises
    ------
    AssertionError
        If fastce's result is wrong: nothing of the cell is timed then.
    """
    calls = {}
    for name, provider in providers.items():
        label = f"{provider.title}, {case}"
        try:
            problem.make_ready()
            contender = provider.builders[case.function](problem)
            oracle.check(label, case.function, contender, provider.tolerance[case.dtype])
        except Exception as error:
            if name in OURS:
                raise
            text = str(error).removeprefix(f"{label}: ").partition("\n")[0][:200]
            left_out[label] = text if isinstance(error, AssertionError) else f"{type(error).__name__}: {text}"
            continue
        calls[name] = contender.call
    return ColdRace(calls, stopwatch, BUDGET)


# The machine ----------------------------------------------------------------------------------------------------------


def machine() -> dict[str, str]:
    """GPU, its memory and clocks, driver, and the processor that launches the kernels."""
    import cupy

    runtime = cupy.cuda.runtime
    device = cupy.cuda.Device()
    p = runtime.getDeviceProperties(device.id)
    return {
        "GPU": f"{p['name'].decode()} (compute capability {p['major']}.{p['minor']})",
        "memory": f"{p['totalGlobalMem'] / 1e9:.0f} GB",
        "level-2 cache": f"{p['l2CacheSize'] / 2**20:.0f} MiB",
        "multiprocessors": str(p["multiProcessorCount"]),
        "CUDA": f"{runtime.runtimeGetVersion()}, driver {runtime.driverGetVersion()}",
        "processor": str(sysinfo.cpu()["name"]),
    }


def free_bytes() -> int:
    """Memory of the GPU that is free."""
    import cupy

    free: int = cupy.cuda.runtime.memGetInfo()[0]
    return free


def give_memory_back() -> None:
    """Let go of what CuPy and PyTorch keep for later: neither can use what the other keeps."""
    import cupy

    cupy.get_default_memory_pool().free_all_blocks()
    if "torch" in sys.modules:
        sys.modules["torch"].cuda.empty_cache()


# What is printed ------------------------------------------------------------------------------------------------------


def to_text(found: Results) -> str:
    """All tables, how to read them, and the short table last."""
    by_key = groups(found["records"])
    parts = [f"{title(key)}\n\n{lay_out(speed_table(records, PROVIDERS))}" for key, records in by_key.items()]
    return "\n\n".join([*parts, wrap(facts(found)), lay_out(short_table(found["records"]))])


def to_markdown(saved: Sequence[Results]) -> str:
    """What stands in RESULTS.md."""
    (gpu,) = {found["machine"]["GPU"] for found in saved}
    parts = [
        f"Measured on one {gpu}: medians of the GPU's own time with cold caches, Python's launches hidden behind other "
        "work; losses are means, gradients go into a given array. A copy is the driver's, of as many bytes; quack in "
        "one pass gives losses of rows and a gradient that is not divided by their number."
    ]
    for found in saved:
        for key, records in groups(found["records"]).items():
            parts.append(f"{title(key)}:\n\n{markdown_table(readme_table(records))}")
        parts.append(f"<sub>`{found['command']}`, {found['date']}</sub>")
    return "\n\n".join(parts)


def readme_table(records: Sequence[Record]) -> Table:
    """Tabulate times, and two ratios of them, without spreads."""
    names = [name for name in PROVIDERS if name != "copy" and any(name in r["times"] for r in records)]
    rows = [["rows x classes", *(PROVIDERS[name].title for name in names), "of copy speed", "over the best peer"]]
    for r in records:
        best = best_peer(r)
        rows.append(
            [
                shape(r),
                *(duration(r["times"][name]["median"]) if name in r["times"] else "" for name in names),
                f"{ratio(r, 'copy', 'fastce')[0]:.2f}",
                f"{ratio(r, best, 'fastce')[0]:.2f}" if best else "",
            ]
        )
    return rows


def short_table(records: Sequence[Record]) -> Table:
    """Tabulate medians over the cells of each function and type, and how many of them a peer wins."""
    rows = [
        ["", "cells", "of copy speed", "GB/s at best", "over NumPy by CuPy", "over the best peer", "slower than it"]
    ]
    for key, of_key in groups(records).items():
        copies = [ratio(r, "copy", "fastce")[0] for r in of_key]
        rates = [gigabytes_per_second(r, "fastce") for r in of_key]
        numpy = [ratio(r, "numpy", "fastce")[0] for r in of_key if "numpy" in r["times"]]
        best = [ratio(r, name, "fastce")[0] for r in of_key if (name := best_peer(r))]
        rows.append(
            [
                title(key),
                str(len(of_key)),
                f"{statistics.median(copies):.2f}",
                f"{max(rates):.0f}",
                f"{statistics.median(numpy):.2f}" if numpy else "",
                f"{statistics.median(best):.2f}" if best else "",
                str(sum(value < 1 for value in best)),
            ]
        )
    return rows


def facts(found: Results) -> list[str]:
    """Sentences on machine, versions, command, and how to read the tables."""
    lines = [
        f"Machine: {'; '.join(f'{name} {text}' for name, text in found['machine'].items())}.",
        f"Versions: {', '.join(f'{name} {text}' for name, text in found['versions'].items())}.",
        f"Command: `{found['command']}`, {found['date']}.",
        "Times are medians of at least nine interleaved rounds, by CUDA events, with other data in the level-2 cache, "
        "the gradient array of fastce and NumPy preallocated. While that data is written, for 2 ms, Python launches "
        "the kernels; who needs more time than that is timed with it. Ratios are of medians, in brackets the least and "
        "the most that their quartiles allow. Copy: as many bytes copied on the device by the driver; 1.00 of its "
        "speed would be as fast as that. GB/s: each logit read once and each element of the gradient written once, by "
        "the time.",
        *(f"Left out: {PROVIDERS[n].title if n in PROVIDERS else n} ({why})." for n, why in found["left_out"].items()),
    ]
    return [*lines, f"Faster than fastce: {'; '.join(losses(found['records'], PROVIDERS)) or 'none in this run'}."]


if __name__ == "__main__":
    sys.exit(main())
