"""Units behind a value: what is one, what it is called, and which words are none."""

import re

from factory.grading.numbers import plain_number

NO_UNITS = frozenset(
    re.split(
        " ",
        "or and to not minus plus times over by divided per hundred thousand million billion "
        "trillion dozen half halves third thirds quarter quarters fifth fifths sixth sixths "
        "seventh sevenths eighth eighths ninth ninths tenth tenths hundredth hundredths "
        "thousandth thousandths millionth millionths squared cubed pi percent is are was wrong "
        "mod choose either maybe pair pairs couple score gross factorial negative below zero too "
        "double triple fold less more fewer but except sin cos tan csc cot log ln exp sqrt "
        "base infinity inf oo",
    )
)
"""Words after a number that change its value, so that they are no unit."""
_SPELLINGS = {
    "mm": "millimeter millimeters millimetre millimetres 毫米",
    "cm": "centimeter centimeters centimetre centimetres 厘米",
    "m": "meter meters metre metres 米",
    "km": "kilometer kilometers kilometre kilometres 千米 公里",
    "inch": "inches in",
    "foot": "feet ft",
    "yard": "yards yd yds",
    "mile": "miles mi",
    "mg": "milligram milligrams 毫克",
    "g": "gram grams gramme grammes 克",
    "kg": "kilogram kilograms kilo kilos 千克 公斤",
    "pound": "pounds lb lbs",
    "ounce": "ounces oz",
    "ton": "tons tonne tonnes 吨",
    "ms": "millisecond milliseconds 毫秒",
    "s": "second seconds sec secs 秒",
    "minute": "minutes min mins 分钟",
    "h": "hour hours hr hrs 小时 时",
    "day": "days 天 日",
    "week": "weeks 周 星期",
    "month": "months 月 个月",
    "year": "years yr yrs 年",
    "ml": "milliliter milliliters millilitre millilitres 毫升",
    "l": "L liter liters litre litres 升",
    "gallon": "gallons gal",
    "cent": "cents 分",
    "dollar": "dollars USD usd 美元",
    "euro": "euros EUR eur 欧元",
    "yen": "JPY jpy",
    "yuan": "RMB CNY 元 块",
    "gbp": "GBP",
    "rupee": "rupees INR",
    "won": "KRW",
    "ruble": "rubles roubles RUB",
    "lira": "liras TRY",
    "shekel": "shekels ILS",
    "dong": "VND",
    "hryvnia": "hryvnias UAH",
    "baht": "THB",
    "franc": "francs CHF",
    "degree": "degrees deg 度",
    "radian": "radians rad rads 弧度",
    "celsius": "Celsius",
    "fahrenheit": "Fahrenheit",
    "kelvin": "Kelvin K",
    "J": "joule joules",
    "kJ": "kilojoule kilojoules",
    "N": "newton newtons",
    "W": "watt watts",
    "kW": "kilowatt kilowatts",
    "Pa": "pascal pascals",
    "Hz": "hertz",
    "V": "volt volts",
    "A": "ampere amperes amp amps",
    "C": "coulomb coulombs",
    "F": "farad farads",
    "eV": "electronvolt electronvolts",
    "cal": "calorie calories",
    "kcal": "kilocalorie kilocalories",
    "angstrom": "angstroms \u00c5",
    "mph": "",
    "mol": "mole moles",
}
_NAMES = {name: name for name in _SPELLINGS} | {
    spelling: name for name, spellings in _SPELLINGS.items() for spelling in spellings.split()
}
UPRIGHT = {
    "m": "meter", "g": "gram", "s": "second", "l": "liter", "L": "liter", "h": "hour",
    "J": "joule", "W": "watt", "N": "newton", "V": "volt", "K": "kelvin", "A": "ampere",
    "C": "coulomb", "F": "farad",
}  # fmt: skip
"""What a single letter is that is set upright; any other letter is a variable."""
_SIMPLE = frozenset(("unit", "units", "square", "sq", "cubic", "cu"))
_COUNTS = frozenset("一二三四五六七八九十百千万亿半倍分之几多余成折第点负加减乘除或和")
"""Characters that make another number of it."""
_WORD = r"(?:[^\W\d_]+(?:-[^\W\d_]+)*|\$)"
_POWER = r"(?:\s?\^\s?\{?\s?(?P<power>-?[1-4])\s?\}?)?"
_JOIN = r"(?:\s*/\s*|\s*\\cdot\s*|\s*\*\s*|-|\s+)"
_PART = re.compile(rf"(?P<join>{_JOIN})?(?P<word>{_WORD})\.?{_POWER}")
_START = re.compile(rf"(?<![\\A-Za-z^_{{]){_WORD}")
_ENDS = re.compile(r"[\w)}\]!|]$")
MOST, WORDS = 200, 6
"""Characters of a text in which a unit is looked for, and the words of a unit."""

Unit = tuple[tuple[str, int], ...]
"""Names of units with their powers, in the order of the names."""


def split_unit(text: str) -> tuple[str, Unit | None]:
    """("18\\pi", (("cm", 2),)) of "18\\pi cm^2": a value and its unit.

    The unit is None where there is none, or one that no table here has ("pages per day"): that is
    dropped all the same. Words that change a value, and letters that may be variables, are no unit.
    """
    if len(text) > MOST:
        return text, None
    for start in _START.finditer(text):
        value, gap = text[: start.start()].rstrip(), text[: start.start()]
        parts = _parts(text[start.start() :])
        if parts and _ENDS.search(value) and _is_unit(value, value != gap, parts):
            return value, _unit(parts)
    return text, None


def _parts(text: str) -> list[re.Match[str]] | None:
    """The words of a unit with what joins them; None for any other text."""
    parts: list[re.Match[str]] = []
    position = 0
    while position < len(text):
        part = _PART.match(text, position)
        if part is None or len(parts) == WORDS or (part["join"] is None) != (position == 0):
            return None
        parts.append(part)
        position = part.end()
    return parts


def _is_unit(value: str, is_apart: bool, parts: list[re.Match[str]]) -> bool:
    words = [part["word"] for part in parts]
    if _is_cjk(words[0]):
        return all(word in _NAMES or _is_counted(word) for word in words)
    if not is_apart:
        is_symbol = words[0] in _NAMES and len(words[0]) > 1
        if not is_symbol or value[-1] not in "0123456789)}":
            return False
    changes = NO_UNITS.intersection(word.casefold() for word in words) - {"per"}
    if words[0] in _NAMES or words[0].casefold() in _SIMPLE:
        changes -= {"squared", "cubed"}
    if changes or "per" in (words[0], words[-1]):
        return False
    if not all(_is_word_of_unit(parts, number) for number in range(len(parts))):
        return False
    if plain_number(value) is not None:
        return True
    if all(word in _NAMES or word.casefold() in _SIMPLE | {"per", "squared"} for word in words):
        return True
    is_constant = not re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", value))
    return is_constant and all(len(word) > 2 for word in words)


def _is_word_of_unit(parts: list[re.Match[str]], number: int) -> bool:
    """Whether a word may stand in a unit: a single letter only in m^2, m/s, N m and "an hour"."""
    part = parts[number]
    word, power = part["word"], part["power"]
    if power and (
        (word not in _NAMES and word not in _SIMPLE)
        or power not in ("1", "2", "3", "-1", "-2", "-3")
    ):
        return False
    if len(word) > 1 or word == "$" or (word in _NAMES and not word.isascii()):
        return True
    if word == "a":
        return 0 < number < len(parts) - 1
    if len(parts) == 1:
        return word == "m" and power in ("2", "3")
    joins = [(other["join"] or "").strip() for other in parts[1:]]
    is_written_so = all(joins) or any((other["power"] or "").startswith("-") for other in parts)
    return is_written_so and all(other["word"] in _NAMES for other in parts)


def _is_cjk(word: str) -> bool:
    return "\u3400" <= word[0] <= "\u9fff"


def _is_counted(word: str) -> bool:
    return len(word) <= 6 and _COUNTS.isdisjoint(word)


def _unit(parts: list[re.Match[str]]) -> Unit | None:
    """The powers of all named units of a text; None where a word has no name here."""
    powers: dict[str, int] = {}
    sign, times, last = 1, 1, ""
    for part in parts:
        word = part["word"]
        if word in ("per", "a", "an"):
            sign = -1
        elif word in ("square", "sq", "cubic", "cu"):
            times = 3 if word.startswith("cu") else 2
        elif word in ("squared", "cubed"):
            powers[last] = powers.get(last, 0) * (2 if word == "squared" else 3)
        else:
            sign = -1 if "/" in (part["join"] or "") else sign
            last = _NAMES.get(word) or _NAMES.get(word.casefold()) or ""
            if not last:
                return None
            powers[last] = powers.get(last, 0) + sign * times * int(part["power"] or 1)
            times = 1
    return tuple(sorted(powers.items())) or None


_SYMBOL = re.compile(rf"(.*[\d)}}])\s?([{''.join(UPRIGHT)}])\.?", re.DOTALL)


def spelled_alike(text: str, other: str) -> str:
    """ "5 gram" of "5 g", beside a text with a unit that is known: a single letter is one too."""
    symbol = _SYMBOL.fullmatch(text) if len(text) <= MOST else None
    if symbol is None or split_unit(other)[1] is None:
        return text
    return f"{symbol[1]} {UPRIGHT[symbol[2]]}"


def contradict(unit: Unit | None, other: Unit | None) -> bool:
    """Whether two units name different quantities; a missing or unknown one contradicts nothing."""
    return unit is not None and other is not None and unit != other
