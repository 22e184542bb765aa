"""Cells of the table -> results: make the data, check every contender, time them interleaved, note the machine."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import statistics
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TypedDict

import numpy as np

from fastce import sysinfo

from .cases import PROVIDERS, TYPES, Case
from .check import Oracle
from .contenders import Problem
from .timing import Race

SEED = 0


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
    """One cell and what it took each provider."""

    function: str
    dtype: str
    n_rows: int
    n_classes: int
    bytes_moved: int
    times: dict[str, Times]


class Results(TypedDict):
    """What is saved: the records, and all that is needed to judge and repeat them."""

    command: str
    date: str
    machine: dict[str, str]
    versions: dict[str, str]
    left_out: dict[str, str]
    records: list[Record]


@lru_cache(maxsize=1)
def _problem(dtype: str, n_rows: int, n_classes: int) -> tuple[Problem, Oracle]:
    """Data and right answers; neighbours in the table that differ in the function alone share them."""
    problem = Problem(n_rows, n_classes, TYPES[dtype], SEED)
    return problem, Oracle(problem)


def prepare(case: Case, providers: Iterable[str], budget: float) -> Race:
    """Build the contenders of a cell, check each against the oracle, and set up their race.

    Raises
    ------
    AssertionError
        If a contender's result is wrong: nothing of the cell is timed then.
    """
    problem, oracle = _problem(case.dtype, case.n_rows, case.n_classes)
    calls = {}
    for name in providers:
        provider = PROVIDERS[name]
        if case.function in provider.builders:
            contender = provider.builders[case.function](problem)
            problem.out.fill(np.nan)  # nobody passes by what the one before has left there
            oracle.check(f"{provider.title}, {case}", contender, provider.tolerance[case.dtype])
            calls[name] = contender.call
    return Race(calls, budget)


def record(case: Case, race: Race) -> Record:
    """Sum up a race that has been run."""
    times = {name: summary(race.seconds[name], race.repeats[name]) for name in race.names}
    return Record(
        function=case.function,
        dtype=case.dtype,
        n_rows=case.n_rows,
        n_classes=case.n_classes,
        bytes_moved=case.bytes_moved,
        times=times,
    )


def summary(seconds: list[float], repeats: int) -> Times:
    """Median, quartiles, minimum and count of the rounds."""
    q25, median, q75 = statistics.quantiles(seconds, n=4, method="inclusive")
    return Times(
        median=median, q25=q25, q75=q75, min=min(seconds), count=len(seconds), repeats=repeats, rounds=list(seconds)
    )


def results(records: list[Record], providers: Iterable[str], left_out: dict[str, str], command: str) -> Results:
    """Put the records together with machine, versions, command and date."""
    versions = {name: text for name, text in sysinfo.versions().items() if name != "platform"}
    for package in sorted({PROVIDERS[name].needs for name in providers}):
        if package not in versions:
            versions[package] = importlib.metadata.version(package)
    return Results(
        command=command,
        date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        machine=machine(),
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
