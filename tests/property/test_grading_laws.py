"""Laws of the graders."""

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from factory.chat import boxes, completion_text
from factory.grading import grade, grade_lenient
from factory.grading.entries import decode, encode
from factory.grading.grade import GradeItem, grade_plainly
from factory.grading.math import undress
from factory.grading.numbers import last_number, plain_number
from factory.records import Problem


def problem(reference: str, kind: str = "math") -> Problem:
    return Problem(id="p", prompt="q", reference=reference, kind=kind, source="test")


KINDS = st.sampled_from(["math", "exact", "choice", "procedural", "code", "open"])
MATHS = st.text(alphabet="0123456789xpi+-*/^=(){}[]\\,.%$ <>!_|", max_size=24)


@settings(deadline=None)
@given(st.text(), KINDS, st.sampled_from(["stop", "length"]))
def test_no_text_makes_a_grader_raise(text, kind, finish):
    asked = problem("B" if kind == "choice" else "7", kind)
    for whole in (text, completion_text("a", text)):
        assert grade(asked, whole, finish_reason=finish).outcome != "correct" or text.strip()
        grade_lenient(asked, whole, finish_reason=finish)


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
    found = last_number(f"{words} 3 then {number} {words}")
    assert plain_number(found) == Fraction(number)


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
