"""What only dresses an answer: spacing, markdown, sentences before it, spellings of a sign."""

import re
import unicodedata
from functools import lru_cache

from factory.grading.leads import ANSWER_IS
from factory.grading.numbers import plain_number
from factory.grading.numerals import in_digits
from factory.grading.units import UPRIGHT

_SIGNS = {
    "\u2212\ufe63": "-",
    "\u00a0\u2009\u202f\u2007\u200a": "\u2009",
    "\u3000": " ",
    "\u200b\ufeff\u2060": "",
    "\u00ba\u02da\u2218": "\u00b0",
    "\u2044\u2215": "/",
    "\u3002\uff61": ".",
    "\u3001": ",",
    "\u3010": "[",
    "\u3011": "]",
    "\u27e8\u2329\u3008": "(",
    "\u27e9\u232a\u3009": ")",
    "\u201c\u201d\u201e": '"',
    "\u2018\u2019": "'",
    "\u221e": r"\infty ",
    "\u222a": r"\cup ",
    "\u2229": r"\cap ",
    "\u2208": r"\in ",
    "\u2205": r"\emptyset ",
    "\u211d": r"\mathbb{R}",
    "\u2264\u2a7d\u2266": r"\le ",
    "\u2265\u2a7e\u2267": r"\ge ",
    "\u2260": r"\ne ",
    "\u2248\u2243\u2245": r"\approx ",
    "\u00b1": r"\pm ",
    "\u2213": r"\mp ",
    "\u00d7\u2715": r"\times ",
    "\u00b7\u22c5\u2219": r"\cdot ",
    "\u00f7": "/",
    "\u2216": r"\setminus ",
    "\u2228": r"\lor ",
    "\u2227": r"\land ",
    "\u2223": "|",
    "\u212b": "\u00c5",
}
_TABLE = {ord(sign): plain for signs, plain in _SIGNS.items() for sign in signs} | {
    code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)
}
_GREEK = {
    "\u03c2": "sigma", "\u03d5": "phi", "\u03d1": "theta", "\u03f5": "epsilon",
} | {
    letter: unicodedata.name(letter).rpartition(" ")[2].lower().replace("lamda", "lambda")
    for letter in "αβγδεζηθικλμνξπρστυφχψω"
} | {
    letter: unicodedata.name(letter).rpartition(" ")[2].capitalize().replace("Lamda", "Lambda")
    for letter in "ΓΔΘΛΞΠΣΦΨΩ"
}  # fmt: skip
_GREEK_LETTER = re.compile("(?<![\u0370-\u03ff])([\u0370-\u03ff]{1,2})(?![\u0370-\u03ff])")
_SUPER = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-", strict=True))
_SUPERSCRIPTS = re.compile(f"[{''.join(_SUPER)}]+")
_DASH = re.compile(r"(^|[=,(\[{<>:+*/^]|\\[a-z]+)(\s*)[\u2010-\u2015](?=\s*[\d.\\(A-Za-z])")
_VULGAR = {
    character: f"\\frac{{{top}}}{{{bottom}}}"
    for character in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
    for top, _, bottom in [unicodedata.normalize("NFKC", character).partition("\u2044")]
}
THOUSANDS = re.compile(
    r"(?<=\d)(?:\\,|\s?(?:,|\{,\})\s?\\!\s?|\{,\}|[\u2009\u202f\u00a0']|\\!|\\ )(?=\d{3}(?!\d))"
)
"""What MATH and others set between groups of three digits, besides the comma."""
_GROUPED = re.compile(r"-?\d{1,3}(?:(?: \d{3})+|(?:_\d{3})+|(?:\.\d{3}){2,})")
_WRAP = (
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|it|sf|tt|normal)|mbox|hbox|operatorname\*?"
    r"|boldsymbol|bm|rm|bf)"
)
_WRAPPED = re.compile(rf"{_WRAP}\s?\{{((?:[^{{}}]|\{{[^{{}}]*\}})*)\}}")
_UPRIGHT_UNIT = re.compile(
    rf"(?<=[\d)}}\]i\s~,/])\s{{0,3}}{_WRAP}\s?\{{\s*([{''.join(UPRIGHT)}])\s*\}}"
)
_ARRAY = re.compile(
    r"[(\[]\s*\\begin\{array\}\s?\{[clr| ]*\}(.*?)\\end\{array\}\s*[)\]]", re.DOTALL
)
_CASES = re.compile(r"\\begin\{cases\}([^&]*?)\\end\{cases\}", re.DOTALL)
_DIGITS = r"(?<![\d.])(\d{0,30})\.(\d{0,30})"
_REPEATING = (
    re.compile(_DIGITS + r"\s?\\(?:overline|bar)\s?\{?\s?(\d{1,30})\s?\}?"),
    re.compile(_DIGITS + r"\((\d{1,30})\)(?![\d(])"),
    re.compile(_DIGITS + r"\s?\\dot\s?\{?(\d(?:\d{0,28}\\dot\s?\{?\d)?)\}?"),
    re.compile(_DIGITS + r"?(\d{1,3}?)\3{2,9}\s?(?:\\l?dots|\.\.\.|\u2026)"),
)
_MAGNITUDES = {
    "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
    "\u4e07": 10**4, "\u842c": 10**4, "\u4ebf": 10**8, "\u5104": 10**8,
}  # fmt: skip
_AMOUNT_OF = r"\d{1,30}(?:,\d{3}){0,9}(?:\.\d{1,30})?"
_MAGNITUDE = re.compile(
    rf"(?<![\d./^_A-Za-z}}])({_AMOUNT_OF})\s?({'|'.join(_MAGNITUDES)})(?![A-Za-z])(?!\s?\d)"
)
_CODES = {
    "USD": "dollars", "EUR": "euros", "GBP": "gbp", "JPY": "yen", "INR": "rupees",
}  # fmt: skip
CURRENCIES = {
    "\u20ac": "euros", "\u00a3": "gbp", "\u00a5": "yen", "\u20b9": "rupees", "\u20a9": "won",
    "\u20bd": "rubles", "\u20ba": "lira", "\u20aa": "shekels", "\u20ab": "dong",
    "\u20b4": "hryvnia", "\u0e3f": "baht",
}  # fmt: skip
_AMOUNT = re.compile(
    rf"(\\\$|[{''.join(CURRENCIES)}])\s?(-?{_AMOUNT_OF}(?:\s?(?:{'|'.join(_MAGNITUDES)}))?)"
    r"(?=\s*(?:$|[,;)\]}]|\.$|/|per\b|and\b|or\b))"
)
_PREFIX = (
    (re.compile(r"^(?:US|CA?|AU?|NZ|HK|S)(\\?\$)(?=\s?\d)"), r"\1"),
    (re.compile(r"^Rs\.?\s?(?=\d)"), "\u20b9"),
)
_BEHIND = re.compile(rf"(?<![\w.$])(-?{_AMOUNT_OF})\s?(\\\$|[{''.join(CURRENCIES)}])(?=\s*\.?$)")
_NAMED_LINES = re.compile(
    r"(?:\s*\\?[A-Za-z](?:_\{?\w{1,4}\}?)?\s?=[^=\n,;]{1,60}[,;]?[ ]*(?:\n|$)){2,9}"
)
"""A name and its value on each line."""
_CODED = re.compile(rf"(?<![A-Za-z])({'|'.join(_CODES)})\s?(-?{_AMOUNT_OF})(?=\s*\.?$)")
_FUNCTION = re.compile(r"\\?(?:sin|cos|tan|sec|csc|cot)(?![a-z])")
_ANGLE = re.compile(
    r"((?<!\d)\d{1,20}(?:\.\d{1,20})?|\\[a-z]{1,20}|(?<![A-Za-z\\])[A-Za-z]|\([^()]{0,80}\)|\{[^{}]{0,80}\})\s?\u00b0"
)
_BASE_WORDS = {
    word: str(number)
    for number, word in enumerate(
        re.split(" ", "two three four five six seven eight nine ten eleven twelve"), start=2
    )
} | {"sixteen": "16"}
_BASE = re.compile(
    r"\(?\b([\dA-F]{1,100})\)?\s*(?:_\s?\{?\s?\(?(?:base\s)?(\d{1,2}|[a-z]{3,7})\)?\s?\}?"
    r"|,?\s?\(?(?:in )?base[ -](\d{1,2}|[a-z]{3,7})\)?)"
)
_ORDINAL = re.compile(r"(-?\d+)\s?\^?\s?\{?\s?(?:st|nd|rd|th)\s?\}?(?:\s[^\W\d_]+)?", re.IGNORECASE)
_LEAD = re.compile(
    r"(?:[*_#>`\s]*(?:#{1,6}(?=\s)|"
    r"####|(?:so|therefore|thus|hence|then|finally|also)\b,?|yes,(?=\s*(?:[a-z]\s?=\s?)?[\d$\\\\-])"
    r"|(?:the |my |your |our )?(?:final |correct )?(?:answer|result|solution|ans)"
    r"(?: is| are| equals|(?=\s*[:=*_]))"
    r"|(?:the )?(?:final |correct )?(?:answer|result)(?=\s+\S)"
    r"|(?:die |das )?(?:richtige |endg\u00fcltige )?(?:antwort|ergebnis|l\u00f6sung)"
    r"(?: ist| lautet| betr\u00e4gt|(?=\s*[:=*_]))"
    rf"|{ANSWER_IS}"
    r"|(?:\u4e00\u5171|\u603b\u5171|\u5171\u6709|\u6545\u9009|\u9009)(?=[\d$\\\\A-D])"
    r"|(?:\u6240\u4ee5|\u56e0\u6b64|\u6545)?,?(?:\u6700\u7ec8|\u6b63\u786e)?(?:\u7b54\u6848|\u7ed3\u679c|\u7b54)(?:\u662f|\u4e3a|(?=\s*[:=]))"
    r")[*_`]*\s*[:=]?[*_`\s]*)+",
    re.IGNORECASE,
)
_SENTENCE = re.compile(
    r"(?:[A-Z][a-z]{2,20}(?:\s[a-z]{2,20}){0,4}:\s+"
    r"|(?:[A-Za-z][A-Za-z',-]*\s+){1,12}(?:is|are|was|equals|will be|must be|lautet|ist)\s*:?\s+)"
    r"(?=[\d$\\(\[{+-])"
)
HEDGES = re.compile(
    r"\b(?:not|least|most|about|approximately|around|roughly|more|less|than|between|either|or|if|"
    r"nearly|almost|under|over|wrong|unless|except|nicht|kein)\b",
    re.IGNORECASE,
)
_MARKDOWN = re.compile(r"^(\*\*|__|`{1,3}|\*|_)(?=\S)(.*\S)\1$", re.DOTALL)
_FENCE = re.compile(r"^```[a-z]*\n(.*?)\n?```$", re.DOTALL)
_REWRITES = tuple(
    (re.compile(pattern), written)
    for pattern, written in (
        (r"\\(?:left|right|[bB]igg?[lrm]?)(?![A-Za-z])", " "),
        (r"\\(?:displaystyle|textstyle|limits|nolimits|hfill|null)(?![A-Za-z])", " "),
        (r"\\(?:leqslant|leqq|leq|le)(?![A-Za-z])|<=", r"\\le "),
        (r"\\(?:geqslant|geqq|geq|ge)(?![A-Za-z])|>=", r"\\ge "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\(?:neq|ne)(?![A-Za-z])|(?<=[A-Za-z\s])!=", r"\\ne "),
        (r"\\(?:varnothing|emptyset|O)(?![A-Za-z])|\\\{\s*\\\}", r"\\emptyset "),
        (r"\\(?:mathbb|mathbf|Bbb)\s?\{?\s?R\s?\}?(?![A-Za-z])", r"\\mathbb{R}"),
        (r"\\(?:R|Reals|reals)(?![A-Za-z])", r"\\mathbb{R}"),
        (r"\\(?:setminus|smallsetminus|backslash)(?![A-Za-z])", r"\\setminus "),
        (r"\\langle(?![A-Za-z])", "("),
        (r"\\rangle(?![A-Za-z])", ")"),
        (r"\\(?:mid)(?![A-Za-z])", "|"),
        (r"\\(?:simeq|thickapprox|approxeq)(?![A-Za-z])", r"\\approx "),
        (r"\\(?:vee)(?![A-Za-z])", r"\\lor "),
        (r"\\(?:wedge)(?![A-Za-z])", r"\\land "),
        (r"\\[dtc]frac", r"\\frac"),
        (r"\\%", "%"),
        (r"(?<=\d)\s?per ?cent(?![a-z])", "%"),
        (r"\^\s*([+-])\s*(\d{1,4})(?![\d.])", r"^{\1\2}"),
        (r"(?<=\d)\s?\*\s?(?=10\s?\^)", r" \\times "),
        (r"</?(?:b|strong|i|em|u|p|span)>", " "),
        (r"(?<![\w)}\]])\*\*(\S(?:[^*]*\S)?)\*\*(?![\w({\[])", r"\1"),
        (r"\\lbrace(?![a-z])", r"\\{"),
        (r"\\rbrace(?![a-z])", r"\\}"),
        (r"\{[bB]matrix\}", "{pmatrix}"),
    )
)  # fmt: skip


@lru_cache(maxsize=1024)
def undress(text: str, *, in_box: bool = False) -> str:
    """An answer without what only dresses it: dollars, delimiters, spacing, "the answer is".

    Every sign is spelled in one way. Between dollars and `in_box` a tilde is a space, in plain text
    before a number it says "about".
    """
    text = text.strip()
    if text.isascii() and text.removeprefix("-").isdecimal():
        return text  # most answers; the patterns below take a fifth of a millisecond
    text = _without_markdown(_signs(text))
    if "~" in text and not in_box and "$" not in text and "\\(" not in text:
        text = re.sub(r"^((?:.*[\s=:])?)~\s?(?=[\d.\\])", r"\1\\approx ", text)
    text = THOUSANDS.sub("", text)
    if _NAMED_LINES.fullmatch(text):
        text = ", ".join(line.strip(" ,;") for line in text.splitlines() if line.strip())
    for pattern, written in _PREFIX:
        text = pattern.sub(written, text)
    if text.count("$") == 1:  # no formula is opened and never closed: it is money
        text = re.sub(r"(?<!\\)\$", r"\\$", text)
    text = _BEHIND.sub(_behind, text)
    text = _AMOUNT.sub(_amount, _CODED.sub(lambda m: f"{m[2]} {_CODES[m[1]]} ", text))
    text = re.sub(r"\\[()\[\]]|\\?\$", " ", text)
    for pattern, written in _REWRITES:
        text = pattern.sub(written, text)
    text = THOUSANDS.sub("", text)
    text = re.sub(r"(?<!\\)\\[,;:!> ]|\\(?:quad|qquad)(?![A-Za-z])|~|\u2009", " ", text)
    text = _ARRAY.sub(r"\\begin{pmatrix}\1\\end{pmatrix}", text)
    text = _CASES.sub(lambda match: match.group(1).replace("\\\\", ","), text)
    text = re.sub(r"_\{(\w)\}", r"_\1", text)
    text = _numbers(text)
    text = re.sub(r"\\frac\s?(\d)\s?(\d)", r"\\frac{\1}{\2}", text)
    text = _degrees(text)
    text = _UPRIGHT_UNIT.sub(lambda match: f" {UPRIGHT[match.group(1)]} ", text)
    text = _WRAPPED.sub(r" \1 ", text)
    text = re.sub(r"(?<!\\)\\$", "", " ".join(text.split()))
    return in_digits(_spoken(_without_markdown(text)))


def _signs(text: str) -> str:
    text = text.translate(_TABLE)
    text = _SUPERSCRIPTS.sub(_raised, text)
    text = _DASH.sub(r"\1\2-", text)
    text = _GREEK_LETTER.sub(_named_letters, text)
    return "".join(_VULGAR.get(character, character) for character in text)


def _raised(match: re.Match[str]) -> str:
    exponent = "".join(_SUPER[character] for character in match.group())
    return f"^{exponent}" if len(exponent) == 1 else f"^{{{exponent}}}"


def _named_letters(match: re.Match[str]) -> str:
    names = [_GREEK.get(letter) for letter in match.group()]
    return match.group() if None in names else "".join(f"\\{name} " for name in names)


def _without_markdown(text: str) -> str:
    for _ in range(3):
        inner = _FENCE.sub(r"\1", text.strip())
        inner = _MARKDOWN.sub(lambda match: match[2], inner)
        if inner == text:
            break
        text = inner
    return text


def _behind(match: re.Match[str]) -> str:
    """8 dollars of 8$."""
    return f"{match.group(1)} {CURRENCIES.get(match.group(2), 'dollars')} "


def _amount(match: re.Match[str]) -> str:
    """8 dollars of \\$8."""
    return f"{match.group(2)} {CURRENCIES.get(match.group(1), 'dollars')} "


def _numbers(text: str) -> str:
    """Repeating digits, powers of ten and number words as numbers."""
    for pattern in _REPEATING:
        text = pattern.sub(_fraction_of_repeating, text)
    text = re.sub(r"(?<=\d)\s*[xX]\s*(?=10\s?\^)", r" \\times ", text)
    return _MAGNITUDE.sub(_multiplied, text)


def _fraction_of_repeating(match: re.Match[str]) -> str:
    """0.a(b) repeating b is (ab - a) / (99..9 00..0)."""
    before, once, again = match.groups()
    again = re.sub(r"\D", "", re.sub(r"\\dot", "", again))
    top = int((before or "") + (once or "") + again) - int(((before or "") + (once or "")) or "0")
    return f"\\frac{{{top}}}{{{(10 ** len(again) - 1) * 10 ** len(once or '')}}}"


def _multiplied(match: re.Match[str]) -> str:
    number = plain_number(match.group(1))
    if number is None:
        return match.group()
    value = number * _MAGNITUDES[match.group(2)]
    return str(value) if value.denominator == 1 else f"{float(value)}"


def _degrees(text: str) -> str:
    """In a function a degree is pi/180; at the end of a value it is a unit; else it is dropped."""
    text = re.sub(
        r"\^\s?\{?\s?\\circ\s?\}?|\\(?:degree|deg)(?![A-Za-z])|\^\s?\{?\u00b0\}?", "\u00b0", text
    )
    if "\u00b0" not in text:
        return text
    text = re.sub(r"\u00b0\s?(?:\\(?:text|mathrm)\s?\{\s?)?C(?![A-Za-z])\s?\}?", " celsius ", text)
    text = re.sub(
        r"\u00b0\s?(?:\\(?:text|mathrm)\s?\{\s?)?F(?![A-Za-z])\s?\}?", " fahrenheit ", text
    )
    if _FUNCTION.search(text):
        return _ANGLE.sub(r"\\frac{\1\\pi}{180}", text).replace("\u00b0", " ")
    text = re.sub(r"\u00b0(?=\s*\.?\s*(?:$|,|;|and\b|or\b))", " degrees ", text)
    return text.replace("\u00b0", " ")


def _spoken(text: str) -> str:
    """Without lead sentences, a final stop, and the words of bases and ordinals."""
    lead = _LEAD.match(text)
    if lead and text[lead.end() :].strip(" .*_`"):
        text = text[lead.end() :].rstrip("*`_ ")
    sentence = _SENTENCE.match(text)
    if sentence and not HEDGES.search(sentence.group()):
        text = text[sentence.end() :]
    text = re.sub(r"^=\s*(?!=)", "", text.strip())
    text = text.rstrip(".").strip() if not text.endswith("...") else text
    if len(text) > 2 and text[0] == text[-1] == '"' and '"' not in text[1:-1]:
        text = text[1:-1].strip()
    text = _outward(text)
    text = _without_markdown(text).removesuffix("\\\\").strip()
    if _GROUPED.fullmatch(text):
        return re.sub(r"(?<=\d)[ _.](?=\d{3})", "", text)
    text = _BASE.sub(_in_base, text)
    ordinal = _ORDINAL.fullmatch(text)
    return ordinal.group(1) if ordinal else _set_in_words(text)


_OUTWARD = re.compile(r"([\[\]])([^\[\](){},]{1,60},[^\[\](){},]{1,60})([\[\]])")


def _outward(text: str) -> str:
    """(a, b) of ]a, b[, as it is written in French."""
    if not (text.startswith("]") or text.endswith("[")):
        return text
    return _OUTWARD.sub(
        lambda m: f"{'(' if m[1] == ']' else '['}{m[2]}{')' if m[3] == '[' else ']'}", text
    )


def _in_base(match: re.Match[str]) -> str:
    digits, below, spoken = match.groups()
    base = _BASE_WORDS.get(below or spoken, below or spoken)
    return f"{digits}_{{{base}}}" if base.isdigit() else match.group()


_ALL_REALS = re.compile(
    r"(?:(?:x )?(?:is |can be )?(?:all|any|every) )?(?:the )?(?:set of )?(?:all )?"
    r"real(?: number)?s?(?: x)?"
    r"(?: (?:except|but|other than)(?: for)? (?:[a-z]\s?=\s?)?([^ ,][^,]{0,40}))?",
    re.IGNORECASE,
)
_NOTHING = re.compile(r"(?:there (?:is|are) )?no (?:real )?solutions?", re.IGNORECASE)


def _set_in_words(text: str) -> str:
    if _NOTHING.fullmatch(text):
        return r"\emptyset"
    match = _ALL_REALS.fullmatch(text) if "real" in text.casefold() else None
    if match is None or text.casefold() in ("real", "reals"):
        return text
    left_out = match.group(1)
    return rf"\mathbb{{R}} \setminus \{{{left_out}\}}" if left_out else r"\mathbb{R}"
