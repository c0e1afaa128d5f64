"""Lenient reading: the one candidate that a whole text offers, however it is written.

The last marked answer counts: a box, an answer block, or what follows "answer is" or ####,
whichever begins last. A text without marks offers its last whole expression, or its last number
where a number is asked for: never a digit of a fraction, of a power, of an index, of a unit or of a
longer number. What is read is graded as strict grading grades an answer block.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from factory.core.records import Problem
from factory.grading.dress import CURRENCIES, THOUSANDS, undress
from factory.grading.exact import fold_text
from factory.grading.leads import ANSWER_IS
from factory.grading.math import COMPARED_AS
from factory.grading.numbers import last_number, plain_number
from factory.grading.parts import elements, is_words, reading
from factory.grading.units import NO_UNITS, UPRIGHT, split_unit

Wanted = Literal["number", "expression", "text"]
"""What a problem's reference is, hence what is looked for."""

_TAG = re.compile(r"</?(?:think|answer)>")
_BLOCK = re.compile(r"<answer>(.*?)(?:</?answer>|</?think>|\Z)", re.DOTALL)
_BRACE = re.compile(r"\\boxed\s?\{|[{}]")
_SAID = re.compile(
    r"\banswers?[*_\s]{0,4}(?:(?:is|are|was|(?:should|must|would|will)\s+be)\b|[:=])"
    r"|\bantwort(?:\s+(?:ist|lautet)\b|\s?:)|\u7b54\u6848\s?(?:\u662f|\u4e3a|\u70ba|[:\uff1a])"
    rf"|(?<!#)####(?!#)|{ANSWER_IS}",
    re.IGNORECASE,
)
_OPENS = re.compile(r"(?:[\s:=*_$`\"\uff1a]|\\[\[(])*")
_SENTENCE = re.compile(r"[.!?](?=[\s*]|$)|[\u3002\uff01\uff1f]")
_LINES_TOGETHER = re.compile(r"\\\[|\\\]|\$\$|\\begin\{|\\end\{")
_OPTION = re.compile(r"([\[(]{0,2}[A-Za-z][\])]{0,2})[.:)]\s+(?=[A-Z])(.*)", re.DOTALL)
_NEXT = re.compile(r"(?<=[^\W\d_]{3})[.!]\s+(?=[A-Z])")
SINGLE = 200
"""Characters of a text that is read as one answer."""
_COMMAND = re.compile(
    r"\\[A-Za-z]+|(?<![A-Za-z])(?:sin|cos|tan|log|ln|exp|sqrt|pi|inf)(?![A-Za-z])"
)
_WORDS_OF = re.compile(r"[^\W\d_]{2,}")
_SETS = re.compile(
    r"[<>\u2264\u2265\u2208\u222a\u00b1]|\\(?:in|le|ge|lt|gt|leq|geq|leqslant|geqslant|cup|pm)(?![A-Za-z])"
    r"|\b(?:or|and)\b"
)
LINE, MARKS = 1000, 20
"""Characters that are read behind "answer is", and how many of those at the end of a text."""
TOGETHER = 2000
"""Characters of displayed mathematics over several lines that are read as one line."""
_MINUS = str.maketrans(
    {"\u2212": "-", "\ufe63": "-", "\uff0d": "-", "\uff08": "(", "\uff09": ")", "\uff0c": ","}
)

_FUNCTION = r"(?:sin|cos|tan|sec|csc|cot|log|ln|exp|sqrt)(?=\s?[\d({\\^_]|\s[a-z](?![a-z]))|pi"
# No letters: superscripts, subscripts, fractions and numerals in circles.
_SIGN = "\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u209c\u2150-\u218f"
_LETTER = rf"[^\W\d_{_SIGN}\u2460-\u24ff]"
_TOKEN = re.compile(
    rf"""
    (?P<space>\s+|\\[()\[\],;:!> ]|\\?\$|[~\u20ac\u00a3\u00a5\u20b9]|\\f?boxed(?=\s?\{{)
        |\\(?:left|right|displaystyle|quad|qquad|limits)(?![A-Za-z]))
    |(?P<label>(?:(?<=\s)|^)\(?[A-Za-z][).:](?=\s))
    |(?P<words>\\(?:text|mathrm|mbox|textbf|mathbf|operatorname|rm)\s?\{{[^{{}}]{{0,80}}\}}
        (?:\s?\^\s?\{{?[\d-]{{1,2}}\}}?)?)
    |(?P<break>\\(?:to|rightarrow|Rightarrow|Longrightarrow|implies|iff|therefore)(?![A-Za-z])
        |\\(?:checkmark|blacksquare|square|qed|Box|hline)(?![A-Za-z])
        |<<|>>|[-=]>|[\u2192\u21d2\u2234\u27f9;\u3002\uff01\uff1f\u201c\u201d"]|[.!?](?=[\s*)"']|$))
    |(?P<number>(?:\d{{1,3}}(?:,\d{{3}})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)
        (?:[eE][+-]?\d{{1,3}}(?![A-Za-z\d]))?)
    |(?P<join>(?:or|and)(?![A-Za-z])|,)
    |(?P<function>(?<![A-Za-z])(?:{_FUNCTION})(?![A-Za-z]))
    |(?P<times>x(?=\s?10\s?[\^{_SIGN}]))
    |(?P<word>{_LETTER}+'{_LETTER}+|{_LETTER}{{1,20}}-(?!{_FUNCTION}){_LETTER}{{3,}}
        |[A-Z][a-z]?\d{{1,3}}[A-Z][A-Za-z\d]{{0,20}}
        |{_LETTER}{{2,}}(?:[\^_]?\{{?-?\d+\}}?|[{_SIGN}])*(?:/[A-Za-z]{{1,5}}(?:\^\{{?-?\d\}}?)?)?)
    |(?P<letter>{_LETTER})
    |(?P<command>\\(?:begin|end)\s?\{{[a-z*]{{1,20}}\}}(?:\{{[clr|\s]{{1,20}}\}})?|\\[A-Za-z]+|\\[{{}}%\\|&])
    |(?P<open>[(\[{{])|(?P<close>[)\]}}])
    |(?P<sign>[-+*/^_=<>|!:'%&\u00b0\u00b7\u00d7\u00f7\u221a\u221e\u00b1\u2248\u2260\u2264\u2265
        \u222a\u2229\u2208\u2282{_SIGN}])
    |(?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_VALUE = re.compile(
    r"\\(?:[dtc]?frac|sqrt|pi|infty|binom|arc\w+|sinh?|cosh?|tanh?|sec|csc|cot|log|ln|exp|emptyset"
    r"|varnothing|mathbb|begin|vec|overline|sum|prod|int|alpha|beta|gamma|delta|epsilon|theta|lambda"
    r"|mu|rho|sigma|tau|phi|varphi|psi|omega|Delta|Omega)(?![A-Za-z])"
)
"""Commands that make an expression by themselves; others, such as a tick, may follow one."""
_REASON = re.compile(r"[\s,;.(]*(?:because|since|as|so|hence|which|where|when|for|from|after)\b")
_GLUE = frozenset("0123456789+-*/^_=<>|()[]{}\\$'\u00b2\u00b3\u00d7\u00b7\u2264\u2265\u2208")
_OPERATORS = frozenset("+-*/^=<>\u00d7\u00b7\u2264\u2265\u2208\u222a")
_PLAIN = re.compile(
    r"(?:[\d\s.,+\-*/=\u00d7\u00b7\u00f7()%$\u00b0\u20ac\u00a3\u00a5\u20b9]"
    r"|\\(?:times|cdot|div|quad|qquad|left|right|displaystyle)(?![A-Za-z])|\\[$%()\[\],;:!> ])+"
)
_LONGER = re.compile(
    r"\d\s+\d+\s?/\s?\d|(?<!\d)\d{1,3}(?:\s\d{3})+(?!\d)|\d\s?\*\*\s?\d"
    r"|[(\[][^()\[\]]{0,200},(?!\d{3}(?!\d))[^()\[\]]{0,200}[)\]]|\d\.\d+\.\d"
)
"""Numbers that belong together: mixed, grouped by spaces, raised, or of a tuple."""
_EQUALS = re.compile(r"(?<![<>!\\=:])=(?![=>])")
_CONNECTIVES = frozenset(
    re.split(
        " ",
        "or and to not minus plus times over by divided per is are was wrong mod choose either "
        "maybe negative zero too",
    )
)
_UNIT = re.compile(r"[\s$]{0,3}([^\s\d$]{1,20}(?: [^\s\d$]{1,20}){0,3})")
_CURRENCY = re.compile(r"(\$|[\u20ac\u00a3\u00a5\u20b9])\s?-?$")
_MONEY = {**CURRENCIES, "$": "dollars"}
_CHANGES = NO_UNITS - _CONNECTIVES | {"million", "below"}
"""Words behind a number that make another one of it."""


@dataclass(frozen=True)
class _Run:
    """A stretch of mathematics in a line: where it stands, and what it holds."""

    start: int
    end: int
    has_number: bool
    is_expression: bool
    words_before: int
    is_denied: bool
    """Whether "not" stands before it."""


def lenient_answer(problem: Problem, text: str) -> str | None:
    """The candidate of a text, or None where it offers nothing; linear in the text's length.

    For mathematics, exact and procedural answers, and multiple choice.
    """
    wanted = _wanted(problem)
    if wanted != "text":
        text = THOUSANDS.sub("", text.translate(_MINUS))
    flat = _TAG.sub(lambda tag: "\n" * len(tag.group()), _together(text))
    marks = [*_boxed(flat), *_blocks(text, wanted, problem), *_said(flat, wanted, problem)]
    if marks:
        return _polished(max(marks)[1], wanted, problem)
    if wanted != "text":
        single = _single(flat, wanted) if problem.kind == "math" else None
        if single is not None:
            return _polished(single, wanted, problem)
        for line in reversed(flat.splitlines()):
            candidate = _last_in(line, wanted, problem)
            if candidate is not None:
                return _polished(candidate, wanted, problem)
    if wanted == "number":
        return None
    lines = [line.strip() for line in flat.splitlines() if line.strip()]
    return lines[-1] if lines else None


def _single(flat: str, wanted: Wanted) -> str | None:
    """A text of one line that is nothing but a value, or a set, a list or both signs of one."""
    line = flat.strip()
    if not line or len(line) > SINGLE or "\n" in line or _PLAIN.fullmatch(line):
        return None
    if wanted == "number":
        is_written = any(c.isdigit() or c in "\\\u00bd" for c in line)
        return line if is_written and reading(undress(line)) is not None else None
    words = [w for w in _WORDS_OF.findall(_COMMAND.sub(" ", line)) if w not in ("or", "and", "in")]
    is_one = (_SETS.search(line) is not None and not words) or split_unit(undress(line))[1]
    return line if is_one else None


def _wanted(problem: Problem) -> Wanted:
    reference = problem.reference.strip()
    if problem.kind != "math":
        is_number = problem.kind in ("exact", "procedural") and plain_number(reference) is not None
        return "number" if is_number else "text"
    reference = undress(reference)
    if problem.data.get(COMPARED_AS) == "text" or is_words(reference):
        return "text"
    return "number" if reading(reference) is not None else "expression"


def _polished(candidate: str, wanted: Wanted, problem: Problem) -> str:
    """Scorers that compare text want a number without its dress."""
    if wanted == "number" and problem.kind != "math":
        number = last_number(candidate) if _PLAIN.fullmatch(candidate) else None
        return candidate if number is None else number.replace(",", "")
    return candidate


def _together(text: str) -> str:
    """The text with displayed mathematics and environments in one line each; as long as it was."""
    if not any(mark in text for mark in ("\\[", "$$", "\\begin{")):
        return text
    parts, done, begin = [], 0, -1
    for mark in _LINES_TOGETHER.finditer(text):
        is_closing = mark.group() in (r"\]", r"\end{") or (mark.group() == "$$" and begin >= 0)
        if not is_closing:
            begin = mark.start()
        elif begin >= 0:
            if mark.end() - begin <= TOGETHER:
                parts += [text[done:begin], text[begin : mark.end()].replace("\n", " ")]
                done = mark.end()
            begin = -1
    return "".join([*parts, text[done:]])


def _boxed(text: str) -> list[tuple[int, str]]:
    """(where it begins, content) of the last closed box that is in no other closed one."""
    if "\\boxed" not in text:
        return []
    opened: list[tuple[int, int, bool]] = []
    last: list[tuple[int, str]] = []
    for brace in _BRACE.finditer(text):
        if brace.group() != "}":
            opened.append((brace.start(), brace.end(), brace.group() != "{"))
        elif opened:
            start, inside, is_box = opened.pop()
            if is_box:
                last = [(start, text[inside : brace.start()].strip())]
    return last


def _blocks(text: str, wanted: Wanted, problem: Problem) -> list[tuple[int, str]]:
    """The last answer block that is not empty; one that is never closed goes to the end."""
    blocks = [(m.start(), m.group(1).strip()) for m in _BLOCK.finditer(text)]
    filled = [(start, content) for start, content in blocks if content]
    return [(s, _within(content, wanted, problem)) for s, content in filled[-1:]]


def _within(content: str, wanted: Wanted, problem: Problem) -> str:
    """A block's content, or what it says in more words than an answer has."""
    if wanted == "text":
        return content
    flat = " ".join(content.split())
    runs, behind = _runs(flat, joins=True)
    if not runs:
        return content
    if not runs[0].words_before:
        is_bare = len(runs) == 1 and behind <= 3
        is_reasoned = _REASON.match(flat, runs[0].end) is not None
        is_kept = is_bare or (len(runs) > 1 and not is_reasoned)
        return content if is_kept else _extended(flat, runs[0], problem)
    for line in reversed(content.splitlines()):
        candidate = _last_in(line, wanted, problem)
        if candidate is not None:
            return candidate
    return content


def _said(text: str, wanted: Wanted, problem: Problem) -> list[tuple[int, str]]:
    """The last "answer is" or #### that an answer follows."""
    for mark in reversed(list(_SAID.finditer(text))[-MARKS:]):
        is_heading = mark.group() == "####"
        if wanted == "text":
            line = text[mark.end() : _line_end(text, mark.end())].lstrip(" \t:\uff1a")
            # Headings are marked like answers: only at the end of a text it is one.
            is_heading = is_heading and text[_line_end(text, mark.end()) :].strip() != ""
            candidate = None if is_heading else _said_text(line, problem)
        else:
            opens = _OPENS.match(text, mark.end())
            begin = opens.end() if opens else mark.end()
            said = text[begin : _line_end(text, begin)]
            candidate = _said_mathematics(said, problem, is_heading=is_heading)
        if candidate:
            return [(mark.start(), candidate)]
    return []


def _line_end(text: str, begin: int) -> int:
    end = text.find("\n", begin, begin + LINE)
    return min(len(text), begin + LINE) if end < 0 else end


def _said_text(line: str, problem: Problem) -> str:
    """What a line says, without its emphasis, its stop and the sentences behind it."""
    line = line.strip()
    line = line.removeprefix("**").partition("**")[0].strip()
    option = _OPTION.match(line)
    choices = [fold_text(str(choice)) for choice in problem.data.get("choices", [])]
    if problem.kind == "choice" and option and fold_text(option.group(2)) not in choices:
        return option.group(1)
    return _NEXT.split(line)[0].strip().removesuffix(".").strip()


def _said_mathematics(line: str, problem: Problem, *, is_heading: bool) -> str | None:
    """The expression that a line begins with, or reaches before its sentence ends."""
    stop = next((s for s in _SENTENCE.finditer(line) if not _is_decimal(line, s.start())), None)
    said = line[: stop.start()] if stop else line
    runs, behind = _runs(said, joins=True)
    if not runs or runs[0].is_denied:
        return None
    if is_heading and (runs[0].words_before or behind > 3 or line[len(said) + 1 :].strip()):
        return None
    return _extended(said, runs[0], problem)


def _is_decimal(line: str, stop: int) -> bool:
    return line[stop] == "." and line[stop + 1 : stop + 2].isdigit()


def _last_in(line: str, wanted: Wanted, problem: Problem) -> str | None:
    """The last whole expression of a line, or the last number where one is wanted."""
    if wanted == "number" and not any(c.isdigit() or c in "\\\u00bd" for c in line):
        return None
    runs, _ = _runs(line, joins=wanted == "expression")
    fitting = [r for r in runs if r.has_number or (wanted == "expression" and r.is_expression)]
    if not fitting:
        return None
    run = fitting[-1]
    run_text = _trimmed(line[run.start : run.end])
    if wanted == "expression":
        reference = undress(problem.reference)
        is_kept = "=" in reference or elements(reference) is not None
        return _extended(line, run, problem) if is_kept else _trimmed(_EQUALS.split(run_text)[-1])
    side = _EQUALS.split(run_text)[-1]
    if not _PLAIN.fullmatch(side) or _LONGER.search(side):
        return _trimmed(side)
    number = last_number(line[: run.end])
    if number is None:
        return None
    before, _, tail = line[: run.end].rpartition(number)
    percent = "%" if tail.strip().lstrip("\\").startswith("%") else ""
    return number + percent + _change(tail + line[run.end :], problem, before)


def _extended(line: str, run: _Run, problem: Problem) -> str:
    """A run with the word behind it that makes another number of it."""
    return _trimmed(line[run.start : run.end]) + _change(line[run.end :], problem)


def _change(rest: str, problem: Problem, before: str = "") -> str:
    """What stands about a number and makes another one of it: "million", or, where the reference
    has a unit, a unit that is known."""
    if problem.kind == "math" and split_unit(undress(problem.reference))[1] is not None:
        currency = _CURRENCY.search(before)
        if currency is not None and before.count("$") % 2 == currency.group().count("$"):
            return f" {_MONEY[currency.group(1)]}"
        words = _UNIT.match(rest)
        parts = words.group(1).split(" ") if words else []
        for count in range(len(parts), 0, -1):
            unit = " ".join(parts[:count]).rstrip(".,;")
            unit = UPRIGHT.get(unit, unit)
            if split_unit(f"1 {unit}")[1] is not None:
                return f" {unit}"
    word = re.match(r"\s{0,2}([A-Za-z]{2,12})", rest)
    is_change = word is not None and word.group(1).casefold() in _CHANGES
    return f" {word.group(1)}" if word is not None and is_change else ""


def _trimmed(text: str) -> str:
    """Without operators that join nothing at its ends, emphasis, and brackets of the prose."""
    text = text.strip().strip("*`").strip()
    while text and len(text) <= LINE:
        inner = text
        if inner[-1] in "=,:/|+-*'&<" and not inner.endswith("\\|"):
            inner = inner[:-1]
        elif inner[0] in "=,:/|*')]}&" or _is_open(inner):
            inner = inner[1:]
        elif inner[-1] in ")]}" and _is_unmatched(inner):
            inner = inner[:-1]
        if inner == text:
            return text
        text = inner.strip()
    return text


def _is_open(text: str) -> bool:
    """Whether the bracket that the text begins with is never closed."""
    return text[0] in "([{" and _depth(text) > 0


def _is_unmatched(text: str) -> bool:
    return _depth(text) < 0


def _depth(text: str) -> int:
    return sum(text.count(c) for c in "([{") - sum(text.count(c) for c in ")]}")


def _runs(line: str, *, joins: bool) -> tuple[list[_Run], int]:
    """(the stretches of mathematics in a line, words behind the first of them).

    With `joins`, a comma, "or" and "and" between two expressions hold them together.
    """
    runs: list[_Run] = []
    state = _Stretch()
    before = behind = 0
    is_denied = False
    for kind, token in _tokens(line, joins=joins):
        if kind == "math":
            state.add(token)
        elif kind == "unit" and state.start is not None:
            state.end = token.end()
        elif kind != "join" or state.start is None:
            runs += state.closed(line, before, is_denied=is_denied)
            state = _Stretch()
            if kind == "word":
                before += 1
                behind += bool(runs)
                is_denied = is_denied or token.group().casefold() in ("not", "isn't")
    runs += state.closed(line, before, is_denied=is_denied)
    return runs, behind


class _Stretch:
    """What is being read as one run."""

    def __init__(self) -> None:
        self.start: int | None = None
        self.end = 0
        self.has_number = self.has_letter = self.has_value = False

    def add(self, token: re.Match[str]) -> None:
        kind, text = token.lastgroup, token.group()
        self.start = token.start() if self.start is None else self.start
        self.end = token.end()
        self.has_number |= kind == "number" or (
            kind == "sign" and unicodedata.category(text) == "No"
        )
        self.has_letter |= kind in ("letter", "function")
        self.has_value |= kind == "command" and _VALUE.match(text) is not None

    def closed(self, line: str, before: int, *, is_denied: bool) -> list[_Run]:
        if self.start is None:
            return []
        inside = _trimmed(line[self.start : self.end]) if self.has_letter else ""
        is_value = self.has_value or (self.has_letter and not _OPERATORS.isdisjoint(inside))
        if not (self.has_number or is_value):
            return []
        is_number = self.has_number or self.has_value
        return [_Run(self.start, self.end, is_number, is_value, before, is_denied)]


def _tokens(line: str, *, joins: bool) -> Iterator[tuple[str, re.Match[str]]]:
    """Tokens as math, join, word or break; what separates nothing is left out."""
    depth = 0
    is_behind_word = False
    for token in _TOKEN.finditer(line):
        kind, text = str(token.lastgroup), token.group()
        if kind == "space":
            is_behind_word &= not text.isspace()
            continue
        if kind == "words":
            inner = text[text.index("{") + 1 :].partition("}")[0].strip().casefold()
            kind = "join" if inner in ("or", "and") else "unit"
        if kind == "letter":
            kind = "math" if _is_variable(line, token) else "word"
        elif kind == "join" and (text == "," and depth > 0):
            kind = "math"
        elif kind == "sign" and is_behind_word and text in "^_/":
            kind = "break"
        elif kind in ("number", "function", "times", "command", "open", "close", "sign"):
            kind = "math"
        elif kind in ("label", "other"):
            kind = "break"
        depth = max(0, depth + (text == "(" or text == "[" or text == "{" or text == r"\{"))
        depth = max(0, depth - (text in (")", "]", "}", r"\}")))
        if kind in ("word", "break"):
            depth = 0
        is_behind_word = kind == "word"
        if kind == "join" and not joins:
            kind = "break"
        yield kind, token


def _is_variable(line: str, token: re.Match[str]) -> bool:
    """Whether a single letter is part of an expression: it touches one, or an operator is next."""
    letter = token.group()
    if not (letter.isascii() or "\u0370" <= letter <= "\u03ff"):
        return False
    before = line[max(0, token.start() - 3) : token.start()]
    behind = line[token.end() : token.end() + 3]
    touching = {before[-1:], behind[:1]} - {""}
    nearby = {before.rstrip()[-1:], behind.lstrip()[:1]} - {""}
    return not _GLUE.isdisjoint(touching) or not _OPERATORS.isdisjoint(nearby)
