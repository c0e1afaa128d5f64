"""Laws of the graders."""

# ruff: noqa: RUF001

import re
import time
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from factory.core.records import Problem
from factory.grading import grade, grade_lenient
from factory.grading.dress import undress
from factory.grading.entries import decode, encode
from factory.grading.grade import GradeItem, grade_plainly
from factory.grading.numbers import last_number, plain_number
from factory.grading.votes import canonical
from factory.text.chat import boxes, completion_text


def problem(reference: str, kind: str = "math") -> Problem:
    return Problem(id="p", prompt="q", reference=reference, kind=kind, source="test")


KINDS = st.sampled_from(["math", "exact", "choice", "procedural", "code", "open"])
MATHS = st.text(alphabet="0123456789xpi+-*/^=(){}[]\\,.%$ <>!_|", max_size=24)


@settings(deadline=None)
@given(st.text(), KINDS, st.sampled_from(["stop", "length"]))
def test_no_text_makes_a_grader_raise(text, kind, finish):
    requested = problem("B" if kind == "choice" else "7", kind)
    for full in (text, completion_text("a", text)):
        assert grade(requested, full, finish_reason=finish).outcome != "correct" or text.strip()
        grade_lenient(requested, full, finish_reason=finish)


@settings(deadline=None, max_examples=60)
@given(MATHS)
def test_no_mathematics_makes_the_expression_reader_raise(text):
    grade(problem(r"\sqrt{2}"), completion_text("a", text))


@given(st.fractions(max_denominator=1000), st.fractions(max_denominator=1000))
def test_numbers_are_equal_exactly_when_their_fractions_are(a, b):
    verdict = grade(problem(str(a)), completion_text("a", str(b)))
    assert verdict.is_correct == (a == b)


@given(st.integers(-(10**12), 10**12))
def test_every_way_to_write_an_integer_is_read_alike(number):
    forms = [f"{number}", f"{number:,}", f"{number}.00", f"${number}$", rf"\boxed{{{number}}}"]
    for form in forms:
        assert grade(problem(str(number)), completion_text("a", form)).is_correct


@given(st.integers(), st.text(alphabet="abc ,.\n", max_size=20))
def test_the_last_number_of_a_text_is_found(number, words):
    result = last_number(f"{words} 3 then {number} {words}")
    assert plain_number(result) == Fraction(number)


@settings(deadline=None)
@given(MATHS, st.sampled_from(["7", "1/2", "x+1", "1,2"]))
def test_what_is_decided_plainly_is_decided_alike_with_sympy(text, reference):
    item = GradeItem(problem(reference), completion_text("a", text))
    plain = grade_plainly(item)
    if plain is not None:
        assert grade(item.problem, item.text) == plain


@given(st.text(alphabet="{}\\boxed1 ", max_size=40))
def test_boxes_and_undress_accept_any_text(text):
    undress(text)
    for content in boxes(text) or []:
        assert content.count("{") == content.count("}")


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.fractions(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(JSONISH)
def test_entries_survive_json(value):
    assert decode(encode(value)) == value


ANSWERS = [
    ("1/2", "0.5"), (r"\frac{3}{7}", "6/14"), ("x+1", "1+x"), (r"2\sqrt{3}", r"\sqrt{12}"),
    ("(1, 2)", "(1,2)"), (r"\{1,2\}", "2, 1"), ("[0,1)", r"0 \le x < 1"), ("a=3, b=4", "b=4, a=3"),
    ("12", "13"), ("x+1", "x-1"), (r"(-\infty,2)", "x>2"), ("101_2", "101"), ("7%", "0.07"),
    (r"1\pm\sqrt{2}", r"1+\sqrt2, 1-\sqrt2"), ("18", "18 apples"), ("3 hours", "3 days"),
]  # fmt: skip
DRESSES = [
    "{}", "  {} ", "${}$", "$$ {} $$", r"\boxed{{{}}}", r"$\boxed{{{}}}$", "**{}**", "{}.",
    r"\( {} \)", "The answer is {}.", "Therefore, the final answer is: {}", "#### {}",
    "答案：{}", "{}。", r"\displaystyle {}", "Antwort: {}",
]  # fmt: skip


@settings(deadline=None)
@given(st.sampled_from(ANSWERS), st.sampled_from(DRESSES))
def test_box_dollars_spacing_and_sentences_change_no_verdict(pair, dress):
    requested = problem(pair[0])
    plain = grade(requested, completion_text("a", pair[1]))
    dressed = grade(requested, completion_text("a", dress.format(pair[1])))
    assert dressed.outcome == plain.outcome
    assert grade(problem(dress.format(pair[0])), completion_text("a", pair[1])).outcome == (
        plain.outcome
    )


FORMULAS = [("x+1", "1+x"), ("x^2-y^2", "(x-y)(x+y)"), ("2x", "x"), ("|x|", r"\sqrt{x^2}"),
            ("x>3", "3<x"), ("x=3", "3"), ("x/y", r"\frac{x}{y}"), ("xy", "x+y")]  # fmt: skip


@settings(deadline=None)
@given(st.sampled_from(FORMULAS), st.sampled_from("abkmnpqstuvwz"), st.sampled_from("ghjlr"))
def test_renaming_variables_on_both_sides_changes_no_verdict(pair, first, second):
    def renamed(text):
        return re.sub(
            r"\\[a-z]+|[xy]", lambda m: {"x": first, "y": second}.get(m.group(), m.group()), text
        )

    plain = grade(problem(pair[0]), completion_text("a", pair[1]))
    other = grade(problem(renamed(pair[0])), completion_text("a", renamed(pair[1])))
    assert other.outcome == plain.outcome


SPELLINGS = [
    ["1/2", "0.5", r"\frac12", "½", "$0.5$", "x = 0.5", "**0.5**", "答案：0.5"],
    ["x<-2", r"(-\infty,-2)", "-2>x", r"\{x \mid x < -2\}", r"x \in (-\infty, -2)"],
    ["x=4, y=-1", "(4,-1)", "y = -1, x = 4", r"\langle 4,-1\rangle"],
    [r"\{1,2\}", "2, 1", "1 and 2", "x=1 or x=2", r"n \in \{1, 2\}", r"A=\{2,1\}"],
    ["3000000", "3 million", "3,000,000", r"3 \times 10^6"],
    ["18", "18 cm", "18元", r"18\text{ m}^2", "$18"],
]


@given(st.sampled_from(SPELLINGS), st.data())
def test_equivalent_spellings_have_one_vote(spellings, data):
    first, second = data.draw(st.sampled_from(spellings)), data.draw(st.sampled_from(spellings))
    assert canonical(first) == canonical(second)


LONG = st.sampled_from(["9", "(", "{", "\\frac", "x ", "1,", "`", "$", "~", "\\pm", "x<1or", "cm "])


@settings(deadline=None, max_examples=30)
@given(LONG, st.sampled_from(["7", "1,2", "(1,2)", r"(-\infty,2)", "x+1", "yes"]))
def test_no_long_text_takes_long(piece, reference):
    requested = problem(reference)
    began = time.monotonic()
    grade(requested, completion_text("a", piece * (9000 // len(piece))))
    assert time.monotonic() - began < 2
