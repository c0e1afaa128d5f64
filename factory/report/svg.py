"""A few pure functions that write elements and SVG: escaped, deterministic, coloured by classes.

Text comes into a page through `tag` alone: it escapes, and writes out characters that hide. No
element carries a style: colours come from the page's variables, so one drawing serves light, dark
and print, and the page's content policy can refuse inline styles.
"""

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup, escape

from factory.core.readable import figure
from factory.text.visible import visible

Attribute = str | int | float | None


def number(value: float) -> str:
    """A coordinate with at most one decimal: `12`, `12.5`."""
    text = f"{value:.1f}"
    text = text.removesuffix(".0")
    return "0" if text == "-0" else text


def tag(name: str, *children: str, **attributes: Attribute) -> Markup:
    """An element; text children are escaped, None attributes left out, `_` becomes `-`."""
    parts = [f"<{name}"]
    for key, value in attributes.items():
        if value is None:
            continue
        text = number(value) if isinstance(value, int | float) else value
        parts.append(f' {key.rstrip("_").replace("_", "-")}="{escape(visible(text))}"')
    body = "".join(
        child if isinstance(child, Markup) else escape(visible(child)) for child in children
    )
    parts.append(f">{body}</{name}>" if children else "/>")
    return Markup("".join(parts))


def drawing(
    width: float, height: float, title: str, *children: str, **attributes: Attribute
) -> Markup:
    """An `svg` element that scales to its container and has a title for screen readers."""
    return tag(
        "svg",
        tag("title", title),
        *children,
        viewBox=f"0 0 {number(width)} {number(height)}",
        width=width,
        height=height,
        role="img",
        xmlns="http://www.w3.org/2000/svg",
        **attributes,
    )


def text(x: float, y: float, content: str, *, class_: str = "", anchor: str = "start") -> Markup:
    return tag(
        "text",
        content,
        x=x,
        y=y,
        class_=class_ or None,
        text_anchor=None if anchor == "start" else anchor,
    )


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def levels(
    ticks: Sequence[float], label: Callable[[float], str], *, left: float, right: float, top: float,
    bottom: float,
) -> tuple[list[Markup], float]:  # fmt: skip
    """Horizontal grid lines with their labels on the left, and pixels a unit."""
    unit = (bottom - top) / (ticks[-1] - ticks[0])
    marks: list[Markup] = []
    for tick in ticks:
        y = bottom - unit * (tick - ticks[0])
        marks.append(line(left, y, right, y, "grid"))
        marks.append(text(left - 6, y + 4, label(tick), class_="tick", anchor="end"))
    return marks, unit


def rounded(value: float) -> str:
    """A tick's label."""
    return figure(float(f"{value:.6g}"))


def path(points: Sequence[tuple[float, float] | None], class_: str) -> Markup:
    """A polyline; None lifts the pen."""
    commands, is_down = [], False
    for point in points:
        if point is None:
            is_down = False
            continue
        commands.append(f"{'L' if is_down else 'M'}{number(point[0])} {number(point[1])}")
        is_down = True
    return tag("path", d="".join(commands), class_=class_)


def nice_ticks(low: float, high: float, *, most: int = 4) -> list[float]:
    """Round numbers that cover [low, high], at most `most` + 1; a lone value is seen from 0."""
    if not high > low:
        low, high = min(low, 0.0), max(high, 0.0)
        high = high if high > low else 1.0
    raw = (high - low) / most
    magnitude = 10.0 ** math.floor(math.log10(raw))
    for multiple in (1.0, 2.0, 2.5, 5.0, 10.0, 20.0):
        width = multiple * magnitude
        # 1e-9: 2e-5 / 5e-6 is a little more than 4.
        first, last = math.floor(low / width + 1e-9), math.ceil(high / width - 1e-9)
        if last - first <= most:
            break
    return [position * width for position in range(first, last + 1)]
