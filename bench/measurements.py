"""The table of what can be measured, with the cells of each measurement in the quick choice and in the full one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from . import accuracy, memory, sweep, variants
from .cases import FUNCTIONS, PROVIDERS, YARDSTICKS, Case, contenders_of, select
from .run import Record, prepare, record


class Choice(NamedTuple):
    """What the command line asks for; with `rows` or `classes`, every pair of them in place of the built-in cells."""

    quick: bool
    providers: list[str]
    functions: list[str]
    dtypes: list[str]
    rows: list[int]
    classes: list[int]
    limit: int  # bytes of logits in a cell
    wrong: dict[str, str]  # filled on the way: peers whose result is wrong in a cell, and how

    @property
    def budget(self) -> float:
        """Seconds of rounds in a cell, beyond the least number of rounds."""
        return 0.3 if self.quick else 2.0


class Measurement(NamedTuple):
    """Title, what is done in a cell, the cells of both choices (None: the big table's), functions it can measure."""

    title: str
    run: Callable[[Case, Choice], list[Record]]
    quick: list[Case] | None
    full: list[Case] | None
    functions: tuple[str, ...] = tuple(FUNCTIONS)


class Step(NamedTuple):
    """A cell of a measurement: what the progress bar says of it, and the work."""

    label: str
    run: Callable[[], list[Record]]


def steps(name: str, choice: Choice) -> list[Step]:
    """List what is to be done for a measurement."""
    measurement = MEASUREMENTS[name]
    table = measurement.quick if choice.quick else measurement.full
    functions = [function for function in choice.functions if function in measurement.functions]
    if name == "sweep":  # its cells are rows of all sizes already
        cells = [c for c in table or [] if c.function in functions and c.dtype in choice.dtypes]
    elif table is None or choice.rows or choice.classes:
        cells = select(
            quick=choice.quick, functions=functions, dtypes=choice.dtypes, rows=choice.rows, classes=choice.classes
        )
    else:
        cells = [c for c in table if c.function in functions and c.dtype in choice.dtypes]
    cells = [case for case in cells if case.logits_bytes <= choice.limit]
    return [Step(f"{measurement.title}: {case}", partial(measurement.run, case, choice)) for case in cells]


def _speed(case: Case, choice: Choice) -> list[Record]:
    race = prepare(case, choice.providers, choice.budget, choice.wrong)
    race.run()
    return [record("speed", case, race)]


def _sweep(case: Case, choice: Choice) -> list[Record]:
    return sweep.run(case, choice.classes or (sweep.QUICK if choice.quick else sweep.CLASSES))


def _variants(name: str, build: Callable[[Case], variants.Calls], case: Case, choice: Choice) -> list[Record]:
    race = variants.race(build(case), choice.budget)
    return [record(name, case, race)]


def _each(name: str, measure: Callable[[Case, str], dict[str, float]], case: Case, choice: Choice) -> list[Record]:
    names = [provider for provider in contenders_of(case, choice.providers) if provider not in YARDSTICKS]
    return [record(name, case, values={provider: measure(case, provider) for provider in names})]


def _cells(function: str, dtype: str, *shapes: tuple[int, int]) -> list[Case]:
    return [Case(function, dtype, *shape) for shape in shapes]


# Narrow, rows and wide, in cache and out of it.
_REGIMES = ((65536, 10), (8192, 100), (1024, 1000), (1024, 32000), (1, 262144))
# The reference takes 16-bit logits where accuracy differs most between libraries; long rows show how a sum is added up.
_ACCURACY = ((8192, 1000), (32, 50257))
MEASUREMENTS = {
    "speed": Measurement("speed", _speed, None, None),
    "accuracy": Measurement(
        "accuracy",
        partial(_each, "accuracy", accuracy.errors),
        [
            *_cells("gradient", "float32", (1024, 1000)),
            *(
                case
                for name in ("logsumexp", "softmax", "log_softmax")
                for case in _cells(name, "float32", (1024, 1000))
            ),
            *_cells("gradient", "bfloat16", (1024, 1000)),
        ],
        [
            *_cells("gradient", "float32", (65536, 10), *_ACCURACY),
            *(case for name in ("logsumexp", "softmax", "log_softmax") for case in _cells(name, "float32", *_ACCURACY)),
            *_cells("gradient", "bfloat16", *_ACCURACY),
            *_cells("gradient", "float16", *_ACCURACY),
        ],
    ),
    "threads": Measurement(
        "thread scaling",
        partial(_variants, "threads", variants.threads),
        _cells("gradient", "float32", (65536, 10), (8192, 100), (1024, 1000)),
        [
            *_cells("gradient", "float32", *_REGIMES),
            *_cells("forward", "float32", *_REGIMES),
            *_cells("gradient", "bfloat16", *_REGIMES),
        ],
    ),
    "sweep": Measurement(
        "cost per element",
        _sweep,
        _cells("gradient", "float32", (sweep.ELEMENTS, 1)),
        [
            *_cells("gradient", "float32", (sweep.ELEMENTS, 1)),
            *_cells("forward", "float32", (sweep.ELEMENTS, 1)),
            *_cells("gradient", "bfloat16", (sweep.ELEMENTS, 1)),
        ],
    ),
    "allocation": Measurement(
        "cost of a new gradient",
        partial(_variants, "allocation", variants.allocation),
        _cells("gradient", "float32", (1024, 1000)),
        _cells("gradient", "float32", (32, 10), *_REGIMES, (8192, 32000)),
        ("gradient",),
    ),
    "options": Measurement(
        "cost of options",
        partial(_variants, "options", variants.options),
        _cells("gradient", "float32", (1024, 1000)),
        [*_cells("gradient", "float32", *_REGIMES), *_cells("gradient", "bfloat16", (1024, 32000))],
        ("gradient",),
    ),
    "memory": Measurement(
        "peak memory",
        partial(_each, "memory", memory.peak),
        [],  # a process for each contender
        [case for name in FUNCTIONS for case in _cells(name, "float32", (4096, 32000))]
        + _cells("gradient", "bfloat16", (4096, 32000)),
    ),
}
MEASURED_BY_PROVIDER = ("speed", "accuracy", "memory")  # the others time calls of fastce against each other


def title_of(contender: str, measurement: str) -> str:
    """Name a contender as it is shown."""
    return PROVIDERS[contender].title if measurement in MEASURED_BY_PROVIDER else contender
