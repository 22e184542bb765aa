"""Results (JSON) -> tables, in the terminal and in README.md, and the picture beside the JSON.

`python -m bench.report bench/results/NAME.json --readme README.md` writes them again from what was saved.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

from .cases import FUNCTIONS, PROVIDERS
from .picture import heatmap
from .run import Record, Results

START, END = "<!-- benchmark:start -->", "<!-- benchmark:end -->"
OWN = ("fastce", "fastce-in-place", "copy")  # all others are peers, with a column of speed-ups
SHOWN = ("gradient", "float32")  # the table that the README shows unfolded, and the picture

Table = list[list[str]]  # the header, then the rows


def load(path: Path) -> Results:
    """Read what `save` wrote."""
    results: Results = json.loads(path.read_text(encoding="utf-8"))
    return results


def save(results: Results, path: Path) -> None:
    """Write JSON with one record a line, so that a difference of two runs can be read."""
    head = json.dumps({**results, "records": []}, indent=1)
    lines = ",\n".join("  " + json.dumps(record) for record in results["records"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(head.replace('"records": []', f'"records": [\n{lines}\n ]') + "\n", encoding="utf-8")


def ratio(record: Record, slow: str, fast: str) -> tuple[float, float, float]:
    """Give the ratio of the medians, and the least and the most that their quartiles allow."""
    a, b = record["times"][slow], record["times"][fast]
    return a["median"] / b["median"], a["q25"] / b["q75"], a["q75"] / b["q25"]


def groups(records: Sequence[Record]) -> dict[tuple[str, str], list[Record]]:
    """Sort the records by function and type; the ones shown first come first."""
    keys = {(r["function"], r["dtype"]) for r in records}
    order = sorted(keys, key=lambda key: (key != SHOWN, key[1] != SHOWN[1], key))
    return {key: [r for r in records if (r["function"], r["dtype"]) == key] for key in order}


def table(records: Sequence[Record]) -> Table:
    """Tabulate the times; speed-ups over the peers and share of copy speed, each with its spread; GB/s."""
    names = [name for name in PROVIDERS if all(name in r["times"] for r in records)]
    have_fastce = "fastce" in names
    peers = [name for name in names if name not in OWN] if have_fastce else []
    share = ["copy"] if have_fastce and "copy" in names else []
    header = ["rows x classes", *(PROVIDERS[name].title for name in names)]
    header += [f"over {PROVIDERS[name].title}" for name in peers]
    header += ["of copy speed"] * len(share) + ["GB/s"] * have_fastce
    rows = [header]
    for r in records:
        row = [f"{r['n_rows']:,} x {r['n_classes']:,}"]
        row += [duration(r["times"][name]["median"]) for name in names]
        row += [with_spread(*ratio(r, name, "fastce")) for name in (*peers, *share)]
        if have_fastce:
            row.append(f"{r['bytes_moved'] / r['times']['fastce']['median'] / 1e9:.2f}")
        rows.append(row)
    return rows


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


def losses(records: Sequence[Record]) -> list[str]:
    """Name the cells where a peer is faster than fastce."""
    return [
        f"{PROVIDERS[peer].title} at {r['n_rows']:,} x {r['n_classes']:,} ({title((r['function'], r['dtype']))})"
        for r in records
        for peer in r["times"]
        if peer not in OWN and "fastce" in r["times"] and ratio(r, peer, "fastce")[0] < 1
    ]


def title(key: tuple[str, str]) -> str:
    """Title of one table."""
    return f"{FUNCTIONS[key[0]].title[0].upper()}{FUNCTIONS[key[0]].title[1:]}, {key[1]}"


def facts(results: Results) -> list[str]:
    """Sentences on machine, versions, command, and how to read the tables."""
    machine = "; ".join(f"{name} {text}" for name, text in results["machine"].items())
    versions = ", ".join(f"{name} {text}" for name, text in results["versions"].items())
    slower = losses(results["records"])
    lines = [
        f"Machine: {machine}.",
        f"Versions: {versions}.",
        f"Command: `{results['command']}`, {results['date']}.",
        "Times are medians of at least nine interleaved rounds, Python included, gradient array preallocated; ratios "
        "are ratios of medians (in brackets the least and the most that their quartiles allow). Copy: as many bytes "
        "read and written by all threads and nothing computed; 1.00 of copy speed would be as fast as that.",
    ]
    lines += [f"Left out: {PROVIDERS[name].title} ({reason})." for name, reason in results["left_out"].items()]
    if any("fastce" in r["times"] for r in results["records"]):
        lines.append(f"Faster than fastce: {'; '.join(slower) if slower else 'none in this run'}.")
    return lines


def to_text(results: Results) -> str:
    """Lay the tables out for the terminal."""
    parts = []
    for key, records in groups(results["records"]).items():
        rows = table(records)
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        parts.append("\n".join([title(key), "", *lines]))
    return "\n\n".join([*parts, "\n".join(facts(results))])


def to_markdown(results: Results, picture: str | None = None) -> str:
    """Lay the tables out for the README: picture and first table in sight, the others folded."""
    parts = [f"![Speed-up of fastce over NumPy by shape]({picture})"] if picture else []
    for i, (key, records) in enumerate(groups(results["records"]).items()):
        header, *rows = table(records)
        ruler = ["---:"] * len(header)
        body = "\n".join("| " + " | ".join(row) + " |" for row in (header, ruler, *rows))
        if i == 0:
            parts.append(f"{title(key)}:\n\n{body}")
        else:
            parts.append(f"<details><summary>{title(key)}</summary>\n\n{body}\n\n</details>")
    return "\n\n".join([*parts, "\n".join(f"- {line}" for line in facts(results))])


def write_between_markers(path: Path, text: str) -> None:
    """Replace what stands between the two markers of a file; the rest stays as it is.

    Raises
    ------
    ValueError
        If the file does not hold each marker once, in order.
    """
    old = path.read_text(encoding="utf-8")
    if old.count(START) != 1 or old.count(END) != 1 or old.index(START) > old.index(END):
        raise ValueError(f"{path} needs the lines {START} and {END}, once each and in this order")
    before, after = old.split(START)[0], old.split(END)[1]
    path.write_text(f"{before}{START}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def write_readme(results: Results, readme: Path, json_path: Path) -> None:
    """Put the tables into the README, and the picture (an SVG beside the JSON) if NumPy and fastce were timed."""
    shown = groups(results["records"]).get(SHOWN, [])
    cells = [r for r in shown if {"fastce", "numpy"} <= r["times"].keys()]
    link = None
    if cells:
        picture = json_path.with_suffix(".svg")
        speedups = {(r["n_rows"], r["n_classes"]): ratio(r, "numpy", "fastce")[0] for r in cells}
        picture.write_text(heatmap(speedups, title(SHOWN)), encoding="utf-8")
        link = Path(os.path.relpath(picture, readme.parent)).as_posix()
    write_between_markers(readme, to_markdown(results, link))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print saved results; write them into the README."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=main.__doc__)
    parser.add_argument("json", type=Path, help="file written by python -m bench --json")
    parser.add_argument("--readme", type=Path, help="file with the markers")
    options = parser.parse_args(arguments)
    results = load(options.json)
    print(to_text(results))
    if options.readme:
        write_readme(results, options.readme, options.json)


if __name__ == "__main__":
    main()
