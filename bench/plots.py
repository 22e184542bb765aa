"""Results -> figures: what each plot shows, drawn by `svg.py`. The page and the README have the same."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .cases import PROVIDERS, TYPES, YARDSTICKS
from .run import Record, Results
from .svg import Bar, Mark, Series, bars, chart, grid, standalone, times
from .tables import (
    SHOWN,
    best_peer,
    cost,
    duration,
    gigabytes_per_second,
    groups,
    number,
    peers,
    ratio,
    select,
    shape,
    title,
)

BEST = "best"  # in place of a peer's name: the fastest of each cell
NARROW = 64  # classes; fewer are drawn hollow: one row is shorter than a few vectors

Numbered = list[tuple[int, Record]]  # records with their index in the results


class Figure(NamedTuple):
    """A figure, what it belongs to (`peer`: the speed-ups alone), and a sentence on it."""

    section: str
    function: str
    dtype: str
    peer: str
    caption: str
    svg: str


SECTIONS = {
    "speedup": "How many times faster",
    "roofline": "Against the speed of memory",
    "sweep": "Cost of an element",
    "threads": "Threads",
    "accuracy": "Accuracy",
    "memory": "Peak memory",
    "options": "Options",
    "allocation": "A new gradient, or a given one",
}


def figures(results: Results) -> Iterator[Figure]:
    """Draw every figure that the results have data for."""
    index = {id(r): i for i, r in enumerate(results["records"])}
    for section, draw in (("speed", _speed), *_OF_MEASUREMENT.items()):
        for (function, dtype), records in groups(select(results, section)).items():
            numbered = [(index[id(r)], r) for r in records]
            for name, peer, caption, svg in draw(numbered):
                yield Figure(name, function, dtype, peer, caption, svg)


def pictures(results: Results) -> dict[str, tuple[str, str]]:
    """Give the figures of the README as files: name, title and SVG. Speed-ups are over NumPy and over the best peer."""
    found = {}
    for figure in figures(results):
        if (figure.function, figure.dtype) == SHOWN and figure.peer in ("", "numpy", BEST):
            name = "-".join(filter(None, (figure.section, figure.peer)))
            heading = f"{headline(figure)}, {title(SHOWN).lower()}"
            found[name] = (heading, standalone(figure.svg, heading))
    return found


def headline(figure: Figure) -> str:
    """Title of one figure."""
    if figure.section == "speedup":
        return f"Times faster than {peer_title(figure.peer)}"
    return SECTIONS[figure.section]


def peer_title(peer: str) -> str:
    """Name a peer as it is shown."""
    return "the best peer" if peer == BEST else PROVIDERS[peer].title


Drawn = Iterator[tuple[str, str, str, str]]  # section, peer, caption, SVG


def _speed(records: Numbered) -> Drawn:
    ours = [(i, r) for i, r in records if "fastce" in r["times"]]
    for peer in (BEST, *(name for name in PROVIDERS if any(name in peers(r) for _, r in ours))):
        cells = {}
        for i, r in ours:
            against = best_peer(r) if peer == BEST else peer if peer in r["times"] else None
            if against:
                value, low, high = ratio(r, against, "fastce")
                tip = f"{shape(r)}: {value:.2f} ({low:.2f} to {high:.2f}) times {PROVIDERS[against].title}"
                cells[r["n_rows"], r["n_classes"]] = Mark(0, value, tip, i)
        if cells:
            yield "speedup", peer, _summary(list(cells.values())), grid(cells, ("rows", "classes"))
    if records:
        caption = (
            "Bytes that must move, by the time. The dashed line is a plain copy of as many bytes: nothing that reads "
            "and writes can be faster. Dotted, where nothing is written: a plain sum. "
            f"Hollow: fewer than {NARROW} classes."
        )
        yield "roofline", "", caption, _roofline(records)


def _summary(marks: Sequence[Mark]) -> str:
    mean = math.exp(statistics.fmean(math.log(mark.y) for mark in marks))
    low, high = min(marks, key=lambda m: m.y), max(marks, key=lambda m: m.y)
    text = f"Geometric mean {times(mean)}, from {times(low.y)} at {_place(low)} to {times(high.y)} at {_place(high)}."
    slower = sum(mark.y < 1 for mark in marks)
    return text + (f" fastce is slower in {slower} of {len(marks)} cells." if slower else "")


def _place(mark: Mark) -> str:
    return mark.tip.partition(":")[0]


def _roofline(records: Numbered) -> str:
    series = []
    for name in PROVIDERS:
        marks = [
            Mark(
                r["n_rows"] * r["n_classes"] * TYPES[r["dtype"]].itemsize,
                gigabytes_per_second(r, name),
                f"{PROVIDERS[name].title}, {shape(r)}: {gigabytes_per_second(r, name):.2f} GB/s, "
                f"{duration(r['times'][name]['median'])}",
                i,
                hollow=r["n_classes"] < NARROW,
            )
            for i, r in records
            if name in r["times"]
        ]
        if name in YARDSTICKS:
            marks = _median_by_size(marks)
        if marks:
            series.append(Series(PROVIDERS[name].title, name, marks, line=name in YARDSTICKS))
    sizes = {float(1 << i): _size(1 << i) for i in range(0, 40, 2)}
    return chart(series, "bytes of logits", "GB/s", log_y=True, x_ticks=sizes)


def _median_by_size(marks: Sequence[Mark]) -> list[Mark]:
    by_size: dict[float, list[Mark]] = {}
    for mark in marks:
        by_size.setdefault(mark.x, []).append(mark)
    return [
        same[0]._replace(y=statistics.median(mark.y for mark in same), hollow=False)
        for _, same in sorted(by_size.items())
    ]


def _size(n_bytes: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if n_bytes >= size:
            return f"{n_bytes // size} {unit}"
    return f"{n_bytes} B"


def _sweep(records: Numbered) -> Drawn:
    marks = [
        Mark(r["n_classes"], cost(r), f"{shape(r)}: {cost(r):.3f} ns an element", i)
        for i, r in sorted(records, key=lambda pair: pair[1]["n_classes"])
    ]
    ticks = {float(1 << i): f"{1 << i:,}" for i in range(20)}
    caption = "Time of one call by its elements, which are as many at every number of classes: in a cache all the time."
    yield (
        "sweep",
        "",
        caption,
        chart([Series("fastce", "fastce", marks, True)], "classes", "ns an element", log_y=True, x_ticks=ticks),
    )


def _threads(records: Numbered) -> Drawn:
    found: dict[str, list[Bar]] = {}
    most = 1
    for i, r in records:
        first, *others = r["times"]
        most = max([most, *(int(name.split()[0]) for name in others)])
        for name in others:
            value = ratio(r, first, name)[0]
            found.setdefault(name, []).append(Bar(shape(r), "fastce", value, times(value), i))
    if most > 1:
        text = f"Over one thread; the line is {most} times, which memory does not allow where it is the limit."
        yield "threads", "", text, bars(found, "times faster", line=float(most))


def _accuracy(records: Numbered) -> Drawn:
    found = {}
    for i, r in records:
        key = "max" if any("max" in v for v in r["values"].values()) else "loss"
        found[shape(r)] = [
            Bar(PROVIDERS[name].title, name, v[key], number(v[key]), i) for name, v in r["values"].items() if key in v
        ]
    caption = "Worst element against float64; half a unit would be the nearest number there is. Logarithmic."
    yield "accuracy", "", caption, bars(found, "units in the last place", log=True, line=0.5)


def _memory(records: Numbered) -> Drawn:
    found = {
        shape(r): [
            Bar(
                PROVIDERS[name].title,
                name,
                max(v["bytes"], 0) / 1e6,
                f"{max(v['bytes'], 0) / 1e6:,.0f} MB, {max(v['logits'], 0):.2f} of the logits",
                i,
            )
            for name, v in r["values"].items()
        ]
        for i, r in records
    }
    caption = "What one call adds to its inputs at its peak, the result included; each in a process of its own."
    yield "memory", "", caption, bars(found, "MB")


def _relative(section: str, caption: str, records: Numbered) -> Drawn:
    found = {}
    for i, r in records:
        first, *others = r["times"]
        found[shape(r)] = [
            Bar(name, "other", ratio(r, name, first)[0], f"{ratio(r, name, first)[0]:.2f}", i) for name in others
        ]
    yield section, "", caption, bars(found, "times the plain call", line=1.0)


def _options(records: Numbered) -> Drawn:
    return _relative("options", "Loss and gradient with an option, by the time of the plain call.", records)


def _allocation(records: Numbered) -> Drawn:
    return _relative("allocation", "By the time of the call with `grad_out` given, its memory touched before.", records)


_OF_MEASUREMENT = {
    "sweep": _sweep,
    "threads": _threads,
    "accuracy": _accuracy,
    "memory": _memory,
    "options": _options,
    "allocation": _allocation,
}
