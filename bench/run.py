"""Cells of the table -> results: make the data, check every contender, time them interleaved, note the machine."""

from __future__ import annotations

import datetime
import platform
import statistics
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import TypedDict

import numpy as np

from fastce import sysinfo

from .cases import OURS, PROVIDERS, Case, contenders_of
from .check import Oracle
from .contenders import Problem, dtype_of
from .timing import Race

SEED = 0
DISTRIBUTIONS = {  # that are not named as the module they bring, and others that bring it
    "sklearn": ["scikit-learn"],
    "cupy": sysinfo.OPTIONAL_PARTS["cupy"][1],
    "quack": ["quack-kernels"],
}


class Times(TypedDict):
    """Seconds of one call: of each round, and summed up. `repeats`: calls within the lap of one round."""

    median: float
    q25: float
    q75: float
    min: float
    count: int
    repeats: int
    rounds: list[float]


class Record(TypedDict):
    """One cell and what it took each contender; what a measurement found that is not a time stands in `values`."""

    measurement: str
    function: str
    dtype: str
    n_rows: int
    n_classes: int
    bytes_moved: int
    times: dict[str, Times]
    values: dict[str, dict[str, float]]


class Results(TypedDict):
    """What is saved: the records, and all that is needed to judge and repeat them."""

    command: str
    date: str
    machine: dict[str, str]
    versions: dict[str, str]
    left_out: dict[str, str]
    records: list[Record]


@lru_cache(maxsize=1)
def problem_of(dtype: str, n_rows: int, n_classes: int) -> tuple[Problem, Oracle]:
    """Data and right answers; neighbours in the table that differ in the function alone share them."""
    problem = Problem(n_rows, n_classes, dtype_of(dtype), SEED)
    return problem, Oracle(problem)


def prepare(case: Case, providers: Iterable[str], budget: float, wrong: dict[str, str] | None = None) -> Race:
    """Set up the race of the contenders of a cell, each of which has been `checked`."""
    return Race(checked(case, providers, wrong), budget)


def checked(
    case: Case, providers: Iterable[str], wrong: dict[str, str] | None = None
) -> dict[str, Callable[[], object]]:
    """Build the contenders of a cell, check each against the oracle, and give their calls.

    A peer whose result is wrong is not timed; what is wrong goes into `wrong`, where that is given.

    Raises
    ------
    AssertionError
        If fastce's result is wrong, or a peer's without `wrong`: nothing of the cell is timed then.
    """
    problem, oracle = problem_of(case.dtype, case.n_rows, case.n_classes)
    calls = {}
    for name in contenders_of(case, providers):
        provider = PROVIDERS[name]
        contender = provider.builders[case.function](problem)
        problem.out.fill(np.nan)  # nobody passes by what the one before has left there
        problem.row_out.fill(np.nan)
        label = f"{provider.title}, {case}"
        try:
            oracle.check(label, case.function, contender, provider.tolerance[case.dtype])
        except AssertionError as error:
            if wrong is None or name in OURS:
                raise
            wrong[label] = str(error).removeprefix(f"{label}: ")
            continue
        calls[name] = contender.call
    return calls


def record(
    measurement: str,
    case: Case,
    race: Race | None = None,
    names: Iterable[str] | None = None,
    values: dict[str, dict[str, float]] | None = None,
) -> Record:
    """Sum up a race that has been run, or some of its contenders, and other numbers that were found."""
    names = (race.names if race else ()) if names is None else names
    return Record(
        measurement=measurement,
        function=case.function,
        dtype=case.dtype,
        n_rows=case.n_rows,
        n_classes=case.n_classes,
        bytes_moved=case.bytes_moved,
        times={name: summary(race.seconds[name], race.repeats[name]) for name in names} if race else {},
        values=values or {},
    )


def summary(seconds: list[float], repeats: int) -> Times:
    """Median, quartiles, minimum and count of the rounds."""
    q25, median, q75 = statistics.quantiles(seconds, n=4, method="inclusive")
    return Times(
        median=median, q25=q25, q75=q75, min=min(seconds), count=len(seconds), repeats=repeats, rounds=list(seconds)
    )


def results(
    records: list[Record], packages: Iterable[str], left_out: dict[str, str], command: str, where: dict[str, str]
) -> Results:
    """Put the records together with the machine, versions of packages, command and date."""
    versions = {name: text for name, text in sysinfo.versions().items() if name != "platform"}
    for package in sorted(set(packages)):
        names = DISTRIBUTIONS.get(package, [package])
        if names[0] not in versions:
            versions[names[0]] = sysinfo.optional_part(package, names) or "unknown version"
    return Results(
        command=command,
        date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        machine=where,
        versions=versions,
        left_out=left_out,
        records=records,
    )


def machine() -> dict[str, str]:
    """Processor, cores, vector width, threads and system, as they stand in the report."""
    cpu, threads = sysinfo.cpu(), sysinfo.threads()
    return {
        "processor": f"{_model()} ({cpu['name']})",
        "cores": str(cpu["cores"]),
        "vectors": f"{cpu['vector_bits']} bits",
        "threads": f"{threads['number']} ({threads['layer']})",
        "system": platform.platform(aliased=True),
    }


def _model() -> str:
    """Name the processor as the system does."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return " ".join((names or [platform.processor() or platform.machine()])[0].split())
