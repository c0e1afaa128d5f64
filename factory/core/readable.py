"""Numbers and texts made readable: what reports, cards and the terminal write of a value."""

MINUS = "\u2212"


def clip(text: str, limit: int) -> tuple[str, int]:
    """The first `limit` characters and how many were left out."""
    return (text, 0) if len(text) <= limit else (text[:limit], len(text) - limit)


def abridged(text: str, limit: int) -> str:
    """`text`, or about `limit` characters of it: three quarters of them from its start."""
    if len(text) <= limit:
        return text
    head, tail = limit - limit // 4, limit // 4
    left_out = count(len(text) - head - tail)
    return f"{text[:head]}\n[{left_out} characters are left out here]\n{text[-tail:]}"


def percent(value: float, digits: int = 1) -> str:
    """0.312 -> `31.2 %`."""
    return f"{100 * value:.{digits}f} %"


def tied(text: str) -> str:
    """`text` with its per cent signs kept on the line of their numbers."""
    return text.replace(" %", "\u00a0%")


def span(low: float, high: float) -> str:
    """An interval of shares, in percent: `[24.0, 38.9]`."""
    return f"[{100 * low:.1f}, {100 * high:.1f}]"


def points(value: float) -> str:
    """A difference of shares in percentage points, always signed: `+30.9`."""
    text = f"{100 * value:+.1f}"
    return "0.0" if text in {"+0.0", "-0.0"} else text.replace("-", MINUS)


def whole_points(value: float) -> str:
    """A round difference of shares: `+20`."""
    text = f"{100 * value:+.3g}"
    return "0" if text in {"+0", "-0"} else text.replace("-", MINUS)


def point_span(low: float, high: float) -> str:
    """An interval of a difference: `[+22.0, +39.8]`."""
    return f"[{points(low)}, {points(high)}]"


def count(value: float) -> str:
    """12345 -> `12,345`."""
    return f"{value:,.0f}"


def multiples_near(number: int, unit: int) -> str:
    """`6 or 9`: the multiples of 3 around 8; 0 is left out."""
    low = number - number % unit
    return " or ".join(str(each) for each in (low, low + unit) if each)


def duration(seconds: float) -> str:
    """`48 s`, `12 min 05 s`, `3 h 20 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    minutes, rest = divmod(rounded, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


def size(number: float) -> str:
    """Bytes: `512.4 MiB`."""
    value = float(number)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def figure(value: float | None) -> str:
    """A number of any scale with at most four significant digits: `0.753`, `1.2e-6`, `4,096`."""
    if value is None:
        return "not finite"
    if value == int(value) and abs(value) < 1e15:
        return f"{value:,.0f}".replace("-", MINUS)
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace("-", MINUS)
    if abs(value) >= 1e-3:
        return f"{value:.4g}".replace("-", MINUS)
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def plural(number: int, noun: str) -> str:
    """`1 problem`, `120 problems`."""
    return f"{count(number)} {noun}" if number == 1 else f"{count(number)} {noun}s"


def listing(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
