"""Three kinds of figure as SVG, written without any package: a grid of numbers, points and lines on two axes, bars.

Colours are classes of `assets/plot.css`, so that a figure fits a light page and a dark one. Each mark carries its full
numbers as a tooltip and, for the page's script, the index of its record (`data-record`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

STYLE = (Path(__file__).parent / "assets" / "plot.css").read_text(encoding="utf-8")
WIDTH = 760  # of a chart, in pixels of its own
CELL = 84, 38  # of a grid
FULL = 32.0  # the ratio of the darkest cell


class Mark(NamedTuple):
    """A number somewhere: where, its tooltip, the index of its record, and whether it is drawn hollow."""

    x: float
    y: float
    tip: str
    record: int
    hollow: bool = False


class Series(NamedTuple):
    """Marks of one name and colour (`css`), joined by a line or not."""

    name: str
    css: str
    marks: list[Mark]
    line: bool = False


class Bar(NamedTuple):
    """A bar: label at its left, length, text at its end."""

    label: str
    css: str
    value: float
    text: str
    record: int


def grid(cells: Mapping[tuple[int, int], Mark], corner: tuple[str, str]) -> str:
    """Draw ratios (`Mark.y`) by row and column; one that is not there stays empty, one below 1 has another colour."""
    rows, columns = (sorted({key[axis] for key in cells}) for axis in (0, 1))
    wide, high = CELL
    left, top = 78, 46
    parts = [
        text(left - 10, top - 10, corner[0], "muted end"),
        text(left + wide * len(columns) / 2, 14, corner[1], "muted middle"),
    ]
    for i, column in enumerate(columns):
        parts.append(text(left + wide * (i + 0.5), top - 10, f"{column:,}", "muted middle"))
    for j, row in enumerate(rows):
        y = top + high * j
        parts.append(text(left - 10, y + high / 2 + 5, f"{row:,}", "muted end"))
        for i, column in enumerate(columns):
            x, mark = left + wide * i, cells.get((row, column))
            box = f'x="{x + 1}" y="{y + 1}" width="{wide - 2}" height="{high - 2}" rx="3"'
            if mark is None:
                parts.append(f'<rect {box} class="empty"/>')
                continue
            css, share = ("slow", 0.75) if mark.y < 1 else ("fast", min(1.0, math.log(mark.y) / math.log(FULL)))
            label = text(x + wide / 2, y + high / 2 + 5, times(mark.y), "strong middle" + " on" * (share > 0.45))
            shade = f'<rect {box} class="{css}" fill-opacity="{0.1 + 0.9 * share:.2f}"/>'
            parts.append(_marked(shade + label, mark))
    return _figure(parts, max(WIDTH, left + wide * len(columns) + 4), top + high * len(rows) + 4)


def chart(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    log_y: bool = False,
    x_ticks: Mapping[float, str] | None = None,
) -> str:
    """Draw series over a logarithmic x axis, the legend above; the first lies on top."""
    marks = [mark for one in series for mark in one.marks]
    left, right, height, top = 56, 12, 330, 24 + 20 * _legend_lines(series)
    x_low, x_high = min(m.x for m in marks), max(m.x for m in marks)
    if x_high < 4 * x_low:
        x_low, x_high = x_low / 2, x_high * 2
    y_high = max(m.y for m in marks)
    y_low = min(m.y for m in marks) if log_y else 0.0
    if log_y:
        y_low, y_high = y_low / 1.25, y_high * 1.25
        y_ticks = [tick for tick in _log_ticks(y_low, y_high) if y_low <= tick <= y_high]
    else:
        y_ticks = _linear_ticks(y_high)
        y_high = y_ticks[-1]
    width, depth = WIDTH - left - right, height - 52

    def at_x(value: float) -> float:
        return left + 14 + (width - 28) * math.log(value / x_low) / math.log(x_high / x_low)

    def at_y(value: float) -> float:
        share = math.log(value / y_low) / math.log(y_high / y_low) if log_y else value / y_high
        return top + depth * (1 - share)

    parts = _legend(series, left)
    for tick in y_ticks:
        parts.append(f'<path d="M{left} {at_y(tick):.1f}H{WIDTH - right}" class="grid"/>')
        parts.append(text(left - 8, at_y(tick) + 4, f"{tick:g}", "muted end"))
    for tick, label in _apart(x_ticks or {v: f"{v:,g}" for v in _log_ticks(x_low, x_high)}, x_low, x_high, at_x):
        parts.append(f'<path d="M{at_x(tick):.1f} {top + depth}v5" class="axis"/>')
        parts.append(text(at_x(tick), top + depth + 19, label, "muted middle"))
    parts.append(f'<path d="M{left} {top + depth}H{WIDTH - right}" class="axis"/>')
    parts.append(text(left + width / 2, top + depth + 40, x_label, "muted middle"))
    parts.append(text(4, top - 10, y_label, "muted"))
    for one in reversed(series):
        points = [(at_x(m.x), at_y(m.y)) for m in one.marks]
        if one.line and len(points) > 1:
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
            parts.append(f'<path d="M{path}" class="line {one.css}"/>')
        for mark, (x, y) in zip(one.marks, points, strict=True):
            css = f"{one.css} {'hollow' if mark.hollow else 'dot'}"
            radius = 2.6 if one.line else 4.5
            parts.append(_marked(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" class="{css}"/>', mark))
    return _figure(parts, WIDTH, top + height - 6)


def bars(groups: Mapping[str, Sequence[Bar]], x_label: str, *, log: bool = False, line: float | None = None) -> str:
    """Draw groups of bars, each under its title; `line` is a value that a vertical line marks."""
    every = [bar for group in groups.values() for bar in group]
    left, right, high = 150, 24 + 7.4 * max(len(bar.text) for bar in every), 22
    most = max([bar.value for bar in every] + ([line] if line is not None else [])) or 1.0
    low = 0.1 if log else 0.0

    def length(value: float) -> float:
        share = math.log(max(value, low) / low) / math.log(max(most, 10 * low) / low) if log else value / most
        return share * (WIDTH - left - right)

    parts, y = [], 4.0
    for name, group in groups.items():
        if len(groups) > 1 or name:
            parts.append(text(0, y + 15, name, "strong"))
            y += 26
        start = y
        for bar in group:
            parts.append(text(left - 10, y + 15, bar.label, "end"))
            shape = (
                f'<rect x="{left}" y="{y + 3}" width="{max(length(bar.value), 1):.1f}" height="{high - 6}" rx="2" '
                f'class="bar {bar.css}"/>'
            )
            label = text(left + length(bar.value) + 8, y + 15, bar.text, "strong")
            parts.append(_marked(shape + label, Mark(0, bar.value, f"{bar.label}: {bar.text}", bar.record)))
            y += high
        if line is not None:
            parts.append(f'<path d="M{left + length(line):.1f} {start}V{y}" class="ideal"/>')
        y += 10
    parts.append(text(left, y + 10, x_label, "muted"))
    return _figure(parts, WIDTH, y + 18)


def standalone(figure: str, title: str) -> str:
    """Make a figure a file of its own: its style inside, a title above, paper below."""
    opening, _, rest = figure.partition(">")
    _, _, width, height = opening.split('viewBox="')[1].split('"')[0].split()
    wide, high, margin = float(width) + 32, float(height) + 58, 16
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:g} {high:g}" width="{wide:g}" height="{high:g}">'
        f'\n<style>\n{STYLE}</style>\n<rect width="{wide:g}" height="{high:g}" rx="8" class="paper"/>\n'
        f"{text(margin, 26, title, 'title')}\n"
        f'<g transform="translate({margin} 42)">{rest.removesuffix("</svg>")}</g>\n</svg>\n'
    )


def text(x: float, y: float, content: str, css: str = "") -> str:
    """Write a text."""
    return f'<text x="{x:.4g}" y="{y:.4g}" class="{css}">{escape(content)}</text>'


def times(ratio: float) -> str:
    """Write a ratio.

    >>> times(41.2), times(7.31), times(0.963)
    ('41×', '7.3×', '0.96×')
    """
    return f"{ratio:.{0 if ratio >= 9.95 else 1 if ratio >= 1.995 else 2}f}×"


def _figure(parts: Sequence[str], width: float, height: float) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" class="plot" role="img">\n'
        f"{body}\n</svg>"
    )


def _marked(shape: str, mark: Mark) -> str:
    return f'<g class="mark" data-record="{mark.record}"><title>{escape(mark.tip)}</title>{shape}</g>'


def _legend_lines(series: Sequence[Series]) -> int:
    return _legend_places(series, 0)[-1][1] + 1 if series else 0


def _legend_places(series: Sequence[Series], left: float) -> list[tuple[float, int]]:
    places, x, line = [], left, 0
    for one in series:
        width = 40 + 6.6 * len(one.name)
        if x + width > WIDTH and x > left:
            x, line = left, line + 1
        places.append((x, line))
        x += width
    return places


def _legend(series: Sequence[Series], left: float) -> list[str]:
    parts = []
    for one, (x, line) in zip(series, _legend_places(series, left), strict=True):
        y = 10 + 20 * line
        mark = (
            f'<path d="M{x} {y}h16" class="line {one.css}"/>'
            if one.line
            else f'<circle cx="{x + 8}" cy="{y}" r="5" class="{one.css} dot"/>'
        )
        parts += [mark, text(x + 22, y + 4, one.name)]
    return parts


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, with 2 and 5 times them where that gives few, from at most `low` on."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1.0,) if last - first > 4 else (1.0, 2.0, 5.0)
    ticks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    below, above = max(t for t in ticks if t <= low * 1.0001), min([t for t in ticks if t >= high] or [ticks[-1]])
    return [t for t in ticks if below <= t <= above]


def _linear_ticks(high: float) -> list[float]:
    """Four to eight round numbers from 0 to at least `high`."""
    unit = 10.0 ** math.floor(math.log10(high or 1.0))
    step = next(unit * s for s in (0.2, 0.5, 1, 2) if high / (unit * s) <= 7)
    return [round(i * step, 12) for i in range(math.ceil(high / step) + 1)]


def _apart(
    ticks: Mapping[float, str], low: float, high: float, at_x: Callable[[float], float]
) -> list[tuple[float, str]]:
    """Those within the range whose labels do not touch."""
    kept: list[tuple[float, str]] = []
    end = -math.inf
    for tick, label in ticks.items():
        half = 3.6 * len(label) + 4
        if low <= tick <= high and at_x(tick) - half >= end:
            kept.append((tick, label))
            end = at_x(tick) + half
    return kept
