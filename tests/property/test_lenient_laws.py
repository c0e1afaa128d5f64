"""What is strictly right is leniently right, on any text; and a lenient reading always ends."""

from hypothesis import given, settings
from hypothesis import strategies as st

from factory.core.records import Problem, ProblemKind
from factory.evaluation.scores import both_readings
from factory.grading import grade, grade_item, grade_lenient
from factory.grading.grade import GradeItem, grade_plainly
from factory.grading.lenient import lenient_answer
from factory.text.chat import OutputForm, PromptConfig, completion_text

REFERENCES: list[tuple[ProblemKind, str]] = [
    ("math", "7"), ("math", r"\frac{3}{7}"), ("math", "x+1"), ("math", "1, 2"), ("math", "[0,1)"),
    ("math", "no"), ("math", "甲"), ("math", r"A \cup B"), ("math", "50%"), ("exact", "Paris"),
    ("exact", "-7"), ("choice", "B"),
]  # fmt: skip
PIECES = st.sampled_from(
    [
        "7", "-7", "3/7", r"\frac{3}{7}", r"\dfrac37", "x+1", "1, 2", "2 and 1", "[0,1)", "甲",
        "no", r"A \cup B", "50%", "Paris", "B", "(b)", "8", " or ", "$", r"\boxed{", "}",
        r"\boxed{7}",
        "<think>", "</think>", "<answer>", "</answer>", "The answer is ", "#### ", ".", "\n", " ",
        "so", "=", "^2", " cm", "**", "|special_token|", "not ", ",", "x", "1 000",
    ]
)  # fmt: skip
TEXTS = st.lists(PIECES | st.text(max_size=4), max_size=14).map("".join)
FORMS = st.sampled_from(
    [
        PromptConfig(), PromptConfig(prefill="<think>\n"), PromptConfig(form=OutputForm()),
        PromptConfig(prefill="<think>", form=OutputForm(opening="<think>", closing="</think>")),
    ]
)  # fmt: skip


def problem(kind: ProblemKind, reference: str) -> Problem:
    return Problem(id="p", prompt="q", reference=reference, kind=kind, source="s")


@settings(deadline=None, max_examples=150)
@given(TEXTS, TEXTS, st.sampled_from(REFERENCES), st.sampled_from(["stop", "length"]), FORMS)
def test_what_is_strictly_right_is_leniently_right(thoughts, answer, pair, reason, prompt):
    single = problem(*pair)
    for text in (answer, completion_text(thoughts, answer), f"{thoughts}</think>{answer}"):
        strict, lenient = map(grade_item, both_readings(single, text, reason, prompt))
        assert lenient.is_correct >= strict.is_correct
        assert lenient.outcome != "ungradable"


@settings(deadline=None, max_examples=100)
@given(TEXTS, TEXTS, st.sampled_from(REFERENCES))
def test_the_reference_itself_in_its_place_is_right_in_both_readings(before, after, pair):
    kind, reference = pair
    text = completion_text("", reference)
    assert grade(problem(kind, reference), text).is_correct
    assert grade_lenient(problem(kind, reference), text).is_correct


@settings(deadline=None, max_examples=150)
@given(TEXTS, st.sampled_from(REFERENCES))
def test_what_is_decided_plainly_is_decided_alike_with_sympy(text, pair):
    item = GradeItem(problem(*pair), text, lenient=True)
    plain = grade_plainly(item)
    assert plain is None or grade_item(item) == plain


@given(st.integers(-(10**12), 10**12), st.text(alphabet="abc ,.\n", max_size=20))
def test_a_marked_number_counts_whatever_numbers_stand_around_it(number, words):
    requested = problem("math", str(number))
    for mark in ("\\boxed{%d}", "The answer is %d.", "#### %d\n", "<answer> %d </answer>"):
        text = f"First 5 then {words} 3.\n{mark % number}\nThat took 12 steps."
        assert grade_lenient(requested, text).is_correct, lenient_answer(requested, text)


@given(st.fractions(max_denominator=1000), st.sampled_from(["${}$.", "it is {}", "so {}, QED"]))
def test_a_fraction_is_read_whole_or_not_at_all(value, frame):
    tex = f"\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"
    text = frame.format("-" * (value < 0) + tex)
    assert grade_lenient(problem("math", str(value)), text).is_correct
    for piece in (value.denominator, abs(value.numerator)):
        assert grade_lenient(problem("math", str(piece)), text).is_correct == (piece == value)


@settings(deadline=None)
@given(st.text() | TEXTS, st.sampled_from(REFERENCES))
def test_no_text_makes_the_reading_raise(text, pair):
    candidate = lenient_answer(problem(*pair), text)
    assert candidate is None or candidate.strip() or not text.strip()
