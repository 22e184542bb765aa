"""The table for pytest-benchmark: `pytest bench`, with its options (`-k "gradient and float32"`, say).

pytest-benchmark times the laps of fastce; the laps of all others are run in between, and what each took stands in
`extra_info`, with the ratios. A lap of a short call is many calls: `extra_info` says how many.
"""

from __future__ import annotations

from collections.abc import Callable

from pytest_benchmark.fixture import BenchmarkFixture

from fastce.bench.cases import PROVIDERS, Case, installed
from fastce.bench.run import prepare, record
from fastce.bench.tables import ratio
from fastce.bench.timing import no_collection


def test_cell(benchmark: BenchmarkFixture, case: Case) -> None:
    """Check every provider against the oracle, then time fastce with the others' laps interleaved.

    A peer whose result is wrong is left out, and named in `extra_info`.
    """
    providers, left_out = installed()
    race = prepare(case, [name for name in providers if not PROVIDERS[name].slow_start], budget=0.3, wrong=left_out)

    def others() -> None:
        for name in race.names[1:]:
            race.settle(name)
            race.lap(name)
        race.settle("fastce")

    pedantic: Callable[..., object] = benchmark.pedantic
    benchmark.group = f"{case.function} {case.dtype}"
    with no_collection():
        pedantic(race.lap, args=("fastce",), setup=others, rounds=race.rounds)
    if benchmark.disabled:
        return
    timed = record("speed", case, race)
    benchmark.extra_info.update(timed, left_out=left_out)
    benchmark.extra_info["over"] = {name: ratio(timed, name, "fastce")[0] for name in race.names[1:]}
