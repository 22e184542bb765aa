"""Results -> one page of HTML that needs nothing else: figures, tables, the data, and a script of its own."""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from pathlib import Path

from . import plots, tables
from .cases import FUNCTIONS, PROVIDERS, TYPES
from .measurements import title_of
from .run import Results

ASSETS = Path(__file__).parent / "assets"


def save(results: Results, path: Path) -> None:
    """Write the page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_html(results), encoding="utf-8")


def to_html(results: Results) -> str:
    """Fill the template."""
    figures = list(plots.figures(results))
    parts = {
        "style": _asset("plot.css") + _asset("page.css"),
        "controls": _controls(results, figures),
        "subtitle": escape(f"{results['machine'].get('processor', '')}, {results['date']}"),
        "sections": "\n".join(_section(name, text, figures) for name, text in plots.SECTIONS.items()),
        "tables": "\n".join(_table(name, rows) for name, rows in tables.tables(results).items()),
        "facts": "\n".join(f"<li>{_with_code(line)}</li>" for line in tables.facts(results)),
        "data": _json(_embedded(results)),
        "script": _asset("page.js"),
    }
    page = _asset("page.html")
    for name, text in parts.items():
        page = page.replace(f"<!--{name}-->", text)
    return page


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _embedded(results: Results) -> dict[str, object]:
    """Give the results without the single rounds, and the names to show."""
    records = []
    for r in results["records"]:
        times = {name: {key: t[key] for key in ("median", "q25", "q75", "count")} for name, t in r["times"].items()}
        titles = {name: title_of(name, r["measurement"]) for name in (*r["times"], *r["values"])}
        if r["measurement"] == "sweep":
            titles = {"fastce": "fastce"}
        records.append({**r, "times": times, "titles": titles})
    return {**results, "records": records}


def _json(data: object) -> str:
    """JSON that may stand in a script element."""
    return json.dumps(data).replace("<", "\\u003c")


def _controls(results: Results, figures: Iterable[plots.Figure]) -> str:
    """Make a choice of function, type and peer, of what there is."""
    functions = [name for name in FUNCTIONS if any(f.function == name for f in figures)]
    dtypes = [name for name in TYPES if any(f.dtype == name for f in figures)]
    peers = [name for name in (plots.BEST, *PROVIDERS) if any(f.peer == name for f in figures)]
    return "\n".join(
        f'<label>{label} <select id="{name}">'
        + "".join(f'<option value="{value}">{escape(text)}</option>' for value, text in options.items())
        + "</select></label>"
        for name, label, options in (
            ("function", "Function", {name: FUNCTIONS[name].title for name in functions}),
            ("dtype", "Type", {name: name for name in dtypes}),
            ("peer", "Compared with", {name: plots.peer_title(name) for name in peers}),
        )
        if options
    )


def _section(name: str, heading: str, figures: Iterable[plots.Figure]) -> str:
    """Put the figures of a section together, the script shows one; nothing where nothing was measured."""
    found = [f for f in figures if f.section == name]
    if not found:
        return ""
    body = "\n".join(
        f'<figure data-function="{f.function}" data-dtype="{f.dtype}" data-peer="{f.peer}">\n'
        f"<h3>{escape(_subtitle(f))}</h3>\n{f.svg}\n<figcaption>{_with_code(f.caption)}</figcaption></figure>"
        for f in found
    )
    return f'<section id="{name}" class="figures"><h2>{escape(heading)}</h2>\n{body}</section>'


def _subtitle(figure: plots.Figure) -> str:
    """Say what a figure shows of its section."""
    shown = tables.title((figure.function, figure.dtype))
    return f"{shown}, beside {plots.peer_title(figure.peer)}" if figure.peer else shown


def _table(name: str, rows: tables.Table) -> str:
    header, *body = rows
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    lines = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in body)
    return (
        f"<details><summary>{escape(name)}</summary><div class='scroll'><table>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>{lines}</tbody></table></div></details>"
    )


def _with_code(line: str) -> str:
    """Escape a sentence; what stands between backticks is code."""
    pieces = escape(line).split("`")
    return "".join(f"<code>{piece}</code>" if i % 2 else piece for i, piece in enumerate(pieces))
