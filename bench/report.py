"""Results (JSON) -> what people read: tables in the terminal and in Markdown, the pictures beside the JSON, the page.

`python -m fastce.bench.report bench/results/NAME.json --readme README.md` writes pictures and the first table again
from what was saved, and with `--readme bench/RESULTS.md --section NAME` all tables.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import page, plots
from .run import Results
from .tables import Table, facts, tables

START, END = "<!-- benchmark:start -->", "<!-- benchmark:end -->"
_SPREAD = re.compile(r" \([\d.]+ to [\d.]+\)")


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


def to_text(results: Results) -> str:
    """Lay the tables out for the terminal."""
    parts = []
    for name, with_spreads in tables(results).items():
        rows = [[_SPREAD.sub("", cell) for cell in row] for row in with_spreads]  # lines are long enough without
        parts.append(f"{name}\n\n{lay_out(rows)}")
    return "\n\n".join([*parts, wrap(facts(results))])


def lay_out(rows: Table) -> str:
    """Write a table in columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def wrap(sentences: Sequence[str]) -> str:
    """Write sentences in lines that a terminal has room for."""
    return "\n".join(textwrap.fill(line, 118, subsequent_indent="  ", break_on_hyphens=False) for line in sentences)


def markdown_table(rows: Table) -> str:
    """Write a table for a README."""
    header, *body = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---:"] * len(header), *body))


def to_markdown(results: Results, pictures: Mapping[str, str]) -> str:
    """Lay the tables out: the first in sight, the others folded; with pictures, three and the first table alone."""
    parts = [f"![{name}]({path})" for name, path in pictures.items()]
    if len(parts) > 3:
        parts[3:] = [folded("More plots", "\n\n".join(parts[3:]))]
    (first, rows), *others = tables(results).items()
    parts.append(f"{first}:\n\n{markdown_table(rows)}")
    if not pictures:
        parts += [folded(name, markdown_table(rows)) for name, rows in others]
    return "\n\n".join([*parts, "\n".join(f"- {line}" for line in facts(results))])


def folded(summary: str, body: str) -> str:
    """Write what is shown when its summary is clicked."""
    return f"<details><summary>{summary}</summary>\n\n{body}\n\n</details>"


def write_between_markers(path: Path, text: str, start: str = START, end: str = END) -> None:
    """Replace what stands between the two markers of a file; the rest stays as it is.

    Raises
    ------
    ValueError
        If the file does not hold each marker once, in order.
    """
    old = path.read_text(encoding="utf-8")
    if old.count(start) != 1 or old.count(end) != 1 or old.index(start) > old.index(end):
        raise ValueError(f"{path} needs the lines {start} and {end}, once each and in this order")
    before, after = old.split(start)[0], old.split(end)[1]
    path.write_text(f"{before}{start}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def write_readme(results: Results, readme: Path, json_path: Path, section: str = "benchmark") -> None:
    """Put the first table into the README, and the pictures, SVG files beside the JSON.

    Of another section than the README's own, there are all tables, and no pictures.
    """
    if section != "benchmark":
        start, end = (marker.replace("benchmark", section) for marker in (START, END))
        write_between_markers(readme, to_markdown(results, {}), start, end)
        return
    links = {}
    for name, (text, svg) in plots.pictures(results).items():
        picture = json_path.with_name(f"{json_path.stem}-{name}.svg")
        picture.write_text(svg, encoding="utf-8")
        links[text] = Path(os.path.relpath(picture, readme.parent)).as_posix()
    write_between_markers(readme, to_markdown(results, links))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print saved results; write them into the README, or as a page of HTML."""
    parser = argparse.ArgumentParser(prog="python -m fastce.bench.report", description=main.__doc__)
    parser.add_argument("json", type=Path, help="file written by python -m fastce bench --json")
    parser.add_argument("--readme", type=Path, help="file with the markers")
    parser.add_argument("--section", default="benchmark", help="markers' name: another for all tables")
    parser.add_argument("--html", type=Path, help="page to write")
    options = parser.parse_args(arguments)
    results = load(options.json)
    print(to_text(results))
    if options.readme:
        write_readme(results, options.readme, options.json, options.section)
    if options.html:
        page.save(results, options.html)


if __name__ == "__main__":
    main()
