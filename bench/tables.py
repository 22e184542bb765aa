"""Results -> tables: rows of text, the first the header; and the sentences that say how to read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from .cases import FUNCTIONS, OURS, PROVIDERS, YARDSTICKS, Provider
from .measurements import MEASUREMENTS
from .run import Record, Results

SHOWN = ("gradient", "float32")  # the table that the README shows, and its pictures

Table = list[list[str]]  # the header, then the rows


def ratio(record: Record, slow: str, fast: str) -> tuple[float, float, float]:
    """Give the ratio of the medians, and the least and the most that their quartiles allow."""
    a, b = record["times"][slow], record["times"][fast]
    return a["median"] / b["median"], a["q25"] / b["q75"], a["q75"] / b["q25"]


def groups(records: Sequence[Record]) -> dict[tuple[str, str], list[Record]]:
    """Sort the records by function and type; the ones shown first come first."""
    keys = {(r["function"], r["dtype"]) for r in records}
    order = sorted(keys, key=lambda key: (key != SHOWN, key[1] != SHOWN[1], key))
    return {key: [r for r in records if (r["function"], r["dtype"]) == key] for key in order}


def tables(results: Results) -> dict[str, Table]:
    """Lay out everything that was measured, by title; the speed first, the table that is shown unfolded at its head."""
    found = {}
    for name, measurement in MEASUREMENTS.items():
        for key, records in groups(select(results, name)).items():
            heading = title(key) if name == "speed" else f"{capital(measurement.title)}: {title(key)}"
            found[heading] = TABLES[name](records)
    return found


def select(results: Results, measurement: str) -> list[Record]:
    """Records of one measurement."""
    return [r for r in results["records"] if r["measurement"] == measurement]


def speed_table(records: Sequence[Record], providers: Mapping[str, Provider] = PROVIDERS) -> Table:
    """Tabulate times; speed-ups over NumPy and the best peer, share of copy and read speed, with spreads; GB/s."""
    names = [name for name in providers if any(name in r["times"] for r in records)]
    ours = "fastce" in names
    shares = {name: text for name, text in YARDSTICKS.items() if ours and name in names}
    over_numpy, over_best = ours and "numpy" in names, ours and any(peers(r) for r in records)
    header = ["rows x classes", *(providers[name].title for name in names)]
    header += ["over NumPy"] * over_numpy + ["over the best peer"] * over_best
    header += [f"of {text}" for text in shares.values()] + ["GB/s"] * ours
    rows = [header]
    for r in records:
        row = [shape(r)]
        row += [duration(r["times"][name]["median"]) if name in r["times"] else "" for name in names]
        if over_numpy:
            row.append(with_spread(*ratio(r, "numpy", "fastce")) if "numpy" in r["times"] else "")
        if over_best:
            best = best_peer(r)
            row.append(f"{with_spread(*ratio(r, best, 'fastce'))} {providers[best].title}" if best else "")
        row += [with_spread(*ratio(r, name, "fastce")) for name in shares]
        if ours:
            row.append(f"{gigabytes_per_second(r, 'fastce'):.2f}")
        rows.append(row)
    return rows


def peers(r: Record) -> list[str]:
    """Who competes with fastce in a record."""
    return [name for name in r["times"] if name not in OURS and name not in YARDSTICKS]


def best_peer(r: Record) -> str | None:
    """Name the fastest of them."""
    return min(peers(r), key=lambda name: r["times"][name]["median"], default=None)


def gigabytes_per_second(r: Record, name: str) -> float:
    """Bytes that must move, by the time."""
    return r["bytes_moved"] / r["times"][name]["median"] / 1e9


def shape(r: Record) -> str:
    """Write rows and classes."""
    return f"{r['n_rows']:,} x {r['n_classes']:,}"


def relative_table(records: Sequence[Record]) -> Table:
    """Tabulate the time of the first contender, and the others' in its units."""
    first, *others = records[0]["times"]
    rows = [["rows x classes", first, *others]]
    for r in records:
        ratios = [with_spread(*ratio(r, name, first)) for name in others]
        rows.append([shape(r), duration(r["times"][first]["median"]), *ratios])
    return rows


def threads_table(records: Sequence[Record]) -> Table:
    """Tabulate the time on one thread, and how many times faster more threads are."""
    first, *others = records[0]["times"]
    rows = [["rows x classes", first, *(f"speed-up on {name}" for name in others)]]
    for r in records:
        ratios = [with_spread(*ratio(r, first, name)) for name in others]
        rows.append([shape(r), duration(r["times"][first]["median"]), *ratios])
    return rows


def sweep_table(records: Sequence[Record]) -> Table:
    """Tabulate nanoseconds an element, and how many times the cheaper of its neighbours that is."""
    costs = [cost(r) for r in records]
    rows = [["rows x classes", "ns an element", "of its neighbours'"]]
    for i, r in enumerate(records):
        beside = costs[max(0, i - 1) : i] + costs[i + 1 : i + 2]
        rows.append([shape(r), f"{costs[i]:.3f}", f"{costs[i] / min(beside):.2f}" if beside else ""])
    return rows


def cost(r: Record) -> float:
    """Nanoseconds an element that fastce takes."""
    return r["times"]["fastce"]["median"] / (r["n_rows"] * r["n_classes"]) * 1e9


def accuracy_table(records: Sequence[Record]) -> Table:
    """Tabulate errors, a contender in each row."""
    keys = {key: text for key, text in ERRORS.items() if any(key in v for r in records for v in r["values"].values())}
    rows = [["rows x classes", "", *keys.values()]]
    for r in records:
        for name, values in r["values"].items():
            rows.append([shape(r), PROVIDERS[name].title, *(number(values[k]) if k in values else "" for k in keys)])
    return rows


def memory_table(records: Sequence[Record]) -> Table:
    """Tabulate peaks, a contender in each row."""
    rows = [["rows x classes", "", "MB", "times the logits"]]
    for r in records:
        for name, values in r["values"].items():
            rows.append([shape(r), PROVIDERS[name].title, f"{values['bytes'] / 1e6:.1f}", f"{values['logits']:.2f}"])
    return rows


ERRORS = {"loss": "loss, ulp", "median": "median element", "p99": "99 of 100 below", "max": "worst element"}
TABLES: dict[str, Callable[[Sequence[Record]], Table]] = {
    "speed": speed_table,
    "accuracy": accuracy_table,
    "threads": threads_table,
    "sweep": sweep_table,
    "allocation": relative_table,
    "options": relative_table,
    "memory": memory_table,
}


def number(value: float) -> str:
    """Write a number with three digits.

    >>> number(123456.0), number(0.5), number(0.0)
    ('123,000', '0.5', '0')
    """
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Write a time with three digits and its unit.

    >>> duration(0.0123456)
    '12.3 ms'
    """
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= 0.9995 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def with_spread(value: float, low: float, high: float) -> str:
    """Write a ratio with its spread.

    >>> with_spread(7.31, 6.9, 7.625)
    '7.3 (6.9 to 7.6)'
    """
    digits = 2 if value < 2 else 1
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def losses(records: Sequence[Record], providers: Mapping[str, Provider] = PROVIDERS) -> list[str]:
    """Name the cells where a peer is faster than fastce."""
    return [
        f"{providers[peer].title} at {shape(r)} ({title((r['function'], r['dtype']))})"
        for r in records
        for peer in peers(r)
        if "fastce" in r["times"] and ratio(r, peer, "fastce")[0] < 1
    ]


def title(key: tuple[str, str]) -> str:
    """Title of one table."""
    return f"{capital(FUNCTIONS[key[0]].title)}, {key[1]}"


def capital(text: str) -> str:
    """Begin with a capital, unless it is the name of a function."""
    return text if text in FUNCTIONS and text != "forward" else text[0].upper() + text[1:]


def origin(results: Results) -> list[str]:
    """Sentences on machine, versions and command."""
    machine = "; ".join(f"{name} {text}" for name, text in results["machine"].items())
    versions = ", ".join(f"{name} {text}" for name, text in results["versions"].items())
    return [
        f"Machine: {machine}.",
        f"Versions: {versions}.",
        f"Command: `{results['command']}`, {results['date']}.",
    ]


def left_out(results: Results) -> list[str]:
    """Sentences on who was not timed, and why."""
    titles = {name: provider.title for name, provider in PROVIDERS.items()}
    return [f"Left out: {titles.get(name, name)} ({reason})." for name, reason in results["left_out"].items()]


def facts(results: Results) -> list[str]:
    """Sentences on machine, versions, command, and how to read the tables."""
    speed = select(results, "speed")
    lines = [
        *origin(results),
        "Times are medians of at least nine interleaved rounds, Python included, gradient array preallocated; ratios "
        "are ratios of medians (in brackets, where they stand, the least and the most that their quartiles allow). "
        "Copy: as many bytes read and written by all threads and nothing computed; 1.00 of copy speed would be as fast "
        "as that. Read: the logits summed up as integers by all threads, beside functions that write no array.",
    ]
    lines += left_out(results)
    if any("fastce" in r["times"] for r in speed):
        lines.append(f"Faster than fastce: {'; '.join(losses(speed)) or 'none in this run'}.")
    return lines
