"""One picture of how fast: an SVG grid of rows by classes, coloured by the speed-up, written without any package."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

WIDTH, HEIGHT, LEFT, TOP = 92, 44, 100, 74  # of a cell; of the labels at its left and top, in pixels
SLOWER, FASTER = (250, 223, 196), ((232, 243, 236), (8, 88, 68))  # colours below 1; at 1 and at FULL
FULL = 32.0  # the speed-up of the darkest colour


def heatmap(speedups: Mapping[tuple[int, int], float], subtitle: str) -> str:
    """Draw the speed-ups by `(n_rows, n_classes)`; a shape that was not timed stays empty."""
    rows = sorted({n_rows for n_rows, _ in speedups})
    columns = sorted({n_classes for _, n_classes in speedups})
    width, height = LEFT + WIDTH * len(columns) + 16, TOP + HEIGHT * len(rows) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" rx="6" fill="#ffffff"/>',
        _text(16, 26, "Times faster than NumPy", 'font-size="17" font-weight="600"'),
        _text(16, 46, subtitle, 'fill="#57606a"'),
    ]
    for i, n_classes in enumerate(columns):
        parts.append(_text(LEFT + WIDTH * (i + 0.5), TOP - 8, f"{n_classes:,}", 'text-anchor="middle" fill="#57606a"'))
    for j, n_rows in enumerate(rows):
        y = TOP + HEIGHT * j
        parts.append(_text(LEFT - 10, y + HEIGHT / 2 + 5, f"{n_rows:,}", 'text-anchor="end" fill="#57606a"'))
        for i, n_classes in enumerate(columns):
            x, speedup = LEFT + WIDTH * i, speedups.get((n_rows, n_classes))
            fill, ink = _colours(speedup)
            parts.append(
                f'<rect x="{x + 1}" y="{y + 1}" width="{WIDTH - 2}" height="{HEIGHT - 2}" rx="3" fill="{fill}"/>'
            )
            if speedup is not None:
                style = f'text-anchor="middle" font-size="16" font-weight="600" fill="{ink}"'
                parts.append(_text(x + WIDTH / 2, y + HEIGHT / 2 + 6, f"{_digits(speedup)}×", style))
    bottom = TOP + HEIGHT * len(rows) + 24
    parts.append(_text(LEFT + WIDTH * len(columns) / 2, bottom, "classes", 'text-anchor="middle" fill="#57606a"'))
    parts.append(_text(LEFT - 10, TOP - 8, "rows", 'text-anchor="end" fill="#57606a"'))
    return "\n".join([*parts, "</svg>\n"])


def _colours(speedup: float | None) -> tuple[str, str]:
    """Colour of a cell and of the number in it."""
    if speedup is None:
        return "#f6f8fa", "#000000"
    if speedup < 1:
        return _hex(SLOWER), "#7a2e00"
    share = min(1.0, math.log(speedup) / math.log(FULL))
    mixed = tuple(round(a + share * (b - a)) for a, b in zip(*FASTER, strict=True))
    return _hex(mixed), "#ffffff" if share > 0.5 else "#0b3d2e"


def _hex(colour: tuple[int, ...]) -> str:
    return "#" + "".join(f"{part:02x}" for part in colour)


def _digits(speedup: float) -> str:
    return f"{speedup:.0f}" if speedup >= 9.95 else f"{speedup:.1f}"


def _text(x: float, y: float, text: str, style: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" {style}>{escape(text)}</text>'
