"""Bar charts as SVG, drawn by hand: nothing to install, and readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

_WIDTH, _LEFT, _RIGHT, _BAR, _GAP, _TOP = 800, 250, 90, 14, 12, 52
_COLOURS = ("#2f6fd0", "#9db8dd")


def bars(title: str, series: Sequence[str], values: Mapping[str, Sequence[float]], unit: str) -> str:
    """One group of bars for each entry of `values`, one bar for each of `series`."""
    step = len(series) * _BAR + _GAP
    height = _TOP + step * len(values) + _GAP
    room = _WIDTH - _LEFT - _RIGHT
    longest = max(max(group) for group in values.values())
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" '
        f'font-size="12" fill="#667" role="img" aria-label="{escape(title)}">',
        f'<text x="8" y="18" font-size="14" font-weight="bold">{escape(title)}</text>',
        *_legend(series),
    ]
    for row, (name, group) in enumerate(values.items()):
        top = _TOP + row * step
        middle = top + len(series) * _BAR / 2 + 4
        parts.append(f'<text x="{_LEFT - 8}" y="{middle}" text-anchor="end">{escape(name)}</text>')
        for index, value in enumerate(group):
            y = top + index * _BAR
            width = max(value / longest * room, 1)
            colour = _COLOURS[index % len(_COLOURS)]
            parts.append(f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR - 2}" fill="{colour}"/>')
            parts.append(f'<text x="{_LEFT + width + 6:.1f}" y="{y + _BAR - 4}">{value:,.0f} {escape(unit)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _legend(series: Sequence[str]) -> list[str]:
    parts: list[str] = []
    for index, name in enumerate(series):
        x = _LEFT + index * 200
        parts.append(f'<rect x="{x}" y="30" width="10" height="10" fill="{_COLOURS[index % len(_COLOURS)]}"/>')
        parts.append(f'<text x="{x + 16}" y="39">{escape(name)}</text>')
    return parts


def write(path: Path, svg: str) -> None:
    """Save a chart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(svg)
