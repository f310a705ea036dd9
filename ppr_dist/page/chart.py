"""Curves and bars as inline SVG. Colours and patterns are classes; the page's style has a light and a dark form."""

from __future__ import annotations

import math

from markupsafe import Markup, escape

from ppr_dist.page.series import Series

WIDTH, HEIGHT = 380, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 34
"""Room for the axes, in the units of the view box."""
COLOURS, DASHES = 8, 4
FEW = 24
"""Points that are marked; of more, the line says enough."""


def number(value: float) -> str:
    """Three digits that count."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g} M"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-3 else f"{value:.1e}"


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that cover [low, high]."""
    span = high - low
    if not span:
        span = abs(high) or 1.0
        low, high = low - span / 2, high + span / 2
    rough = span / about
    power = 10 ** math.floor(math.log10(rough))
    step = power * next(m for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * n for n in range(first, last + 1)]


def tick_labels(values: list[float]) -> list[str]:
    """As many decimals as tell neighbours apart."""
    if max(map(abs, values)) >= 1000:
        return [number(value) for value in values]
    step = values[1] - values[0]
    decimals = next(n for n in range(12) if abs(round(step, n) - step) < step * 1e-6)
    return [f"{value:.{decimals}f}" for value in values]


def line_chart(series: list[Series], title: str, *, from_zero: bool) -> Markup:
    """Curves over steps; ``title`` is what a screen reader is told."""
    steps = [step for each in series for step, _ in each.points]
    values = [value for each in series for _, value in each.points]
    ys = ticks(min([*values, 0.0]) if from_zero else min(values), max(values))
    low, high = min(steps), max(steps)
    xs = [x for x in ticks(low, high, 4) if low <= x <= high and x == int(x)]

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * ((step - low) / (high - low) if high > low else 0.5)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - ys[0]) / (ys[-1] - ys[0]))

    drawn = [f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 3}" text-anchor="end">step</text>']
    for value, label in zip(ys, tick_labels(ys), strict=True):
        drawn.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        drawn.append(f'<text x="{LEFT - 5}" y="{y(value) + 4:.1f}" text-anchor="end">{label}</text>')
    below = HEIGHT - BOTTOM + 16
    drawn += [f'<text x="{x(step):.1f}" y="{below}" text-anchor="middle">{number(step)}</text>' for step in xs]
    for each in series:
        places = [(f"{x(step):.1f}", f"{y(value):.1f}") for step, value in each.points]
        colour, path = f"s{each.colour % COLOURS}", " ".join(",".join(place) for place in places)
        drawn.append(f'<g data-run="{each.run}"><polyline class="{colour} d{each.dash % DASHES}" points="{path}"/>')
        if len(places) <= FEW:
            drawn += [f'<circle class="{colour}" cx="{cx}" cy="{cy}" r="2.2"/>' for cx, cy in places]
        drawn.append("</g>")
    drawn.append(f'<line class="cursor" x1="0" x2="0" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    body = "".join(drawn)
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}" tabindex="0">{body}</svg>'
    )


def place(step: float, steps: list[float]) -> float:
    """Where a step lies across the view box, for the cursor."""
    low, high = min(steps), max(steps)
    return round(LEFT + (WIDTH - LEFT - RIGHT) * ((step - low) / (high - low) if high > low else 0.5), 1)


def bar(parts: list[tuple[str, float]], longest: float, title: str) -> Markup:
    """Parts of a whole one after another, ``longest`` filling the width."""
    drawn, left = [], 0.0
    for colour, (name, value) in enumerate(parts):
        width = 1000 * max(value, 0.0) / longest
        drawn.append(
            f'<rect class="p{colour}" x="{left:.1f}" y="0" width="{width:.1f}" height="26">'
            f"<title>{escape(name)}: {number(value)} ms</title></rect>"
        )
        left += width
    body = "".join(drawn)
    return Markup(
        f'<svg class="bar" viewBox="0 0 1000 26" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(title)}">{body}</svg>'
    )
