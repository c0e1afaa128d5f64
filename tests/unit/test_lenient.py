"""What lenient reading takes for the answer of a text: the last mark, else the last whole value."""

import time
from dataclasses import replace

import pytest

from factory.core.records import GRADERS, Problem, ProblemKind, Verdict
from factory.grading import GradeItem, grade, grade_lenient
from factory.grading.grade import _decide
from factory.grading.lenient import lenient_answer
from factory.text.chat import completion_text


def problem(reference: str, kind: ProblemKind = "math", **data: object) -> Problem:
    return Problem(id="p", prompt="q", reference=reference, kind=kind, source="s", data=data)


MATRIX = r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"
RIGHT = [
    # Marked answers: the last one, whatever follows it.
    (r"\frac{3}{7}", r"<think> a </think> <answer> \boxed{\frac{3}{7}} </answer>"),
    (r"\frac{3}{7}", r"So the answer is $\boxed{\dfrac{3}{7}}$."),
    (r"\sqrt{2}", "So it is $\\boxed{\\sqrt{2}}$.\n\nDone."),
    ("12", r"The answer is \boxed{12}. I checked it in 2 ways."),
    ("8", r"\boxed{7}, no: \boxed{8}. Checked 2 times."),
    ("18", "**Answer:** 18"),
    ("18", "**The final answer is: $18$.**\nI used 3 steps."),
    ("18", "The answer is 18 dollars because 9 + 9 = 18 and not 19."),
    ("18", "The answer is 18 for all the people in the house."),
    ("18", "The answer is\n\n$$\n18\n$$\nQED 1."),
    ("12", "The answer is (B) 12."),
    ("7", "答案是 7。第 2 题"),
    ("7", "Die Antwort ist 7."),
    ("72", "She sold 48 + 24 = 72 clips.\n#### 72"),
    ("72", "It took <<48/2=24>>24 and 48.\n#### 72\n\nIn 2 steps."),
    ("18", "<answer> It is 18 </answer>"),
    ("18", "<answer> 18 dollars for each person in the house </answer> 3"),
    ("19", "The answer is not 18 but 19"),
    ("2, 3", "The answer is $x = 2$ or $x = 3$, after 4 steps."),
    ("15", "<answer>15"),
    ("42", "Hence \\boxed{42"),
    # Without a mark: whole numbers.
    ("-3", "The temperature is \u22123."),
    ("300000", r"That makes $3\times10^5$."),
    ("16", "The area is 16 cm^2."),
    ("16", r"The area is 16 \text{ cm}^2."),
    ("16", "The area is 16 m²."),
    ("1234567", r"In total 1\,234\,567."),
    ("5/2", "It is 2 1/2"),
    ("3/7", "It is 3 / 7"),
    ("1/2", "so ½"),
    ("0.5", "so 50%"),
    ("1e5", "about 1e5"),
    ("7", "f(2) = 7"),
    ("3", r"so \log_2 8 = 3"),
    ("3", "CO2 has 3 atoms, H2O too"),
    ("7", r"so $7$ $\blacksquare$"),
    ("12.5", "It costs £12.50."),
    ("5", "I have a 5"),
    ("5", "It's 5 km/h^2"),
    # Integers without LaTeX as ever.
    ("7", "3 + 4 makes 7."), ("7", "14/2 = 7"), ("7", "10-7"), ("4", "Both 3,4"), ("18", "18 ..."),
    # Whole expressions.
    ("x+1", "so x+1 is the y-intercept."),
    ("x^2 + 1", "We get $f(x) = x^2 + 1$ and are done."),
    ("y = 2x + 1", "Hence $y = 2x + 1$."),
    ("2, 3", "The solutions are 2 and 3."),
    ("(1,2)", "So the point is (1, 2)."),
    ("[0,1)", "So x lies in [0, 1)."),
    (r"\sqrt{2}", r"It is $\sqrt{2} \approx 1.41$."),
    (MATRIX, "So\n\\[\n\\begin{pmatrix}\n1 \\\\\n2\n\\end{pmatrix}\n\\]\nDone."),
]  # fmt: skip
WRONG = [
    ("7", r"So the answer is $\boxed{\frac{3}{7}}$."),
    ("7", r"Hence $\frac{3}{7}$."),
    ("3", r"so $\frac13$"),
    ("2", "So the answer is $x^2$."),
    ("2", "So it is x^2"),
    ("5", r"That makes $3\times10^5$."),
    ("100000", "That makes 3 x 10^5"),
    ("10", "That is 10⁵"),
    ("2", "The area is 16 cm^2."),
    ("2", "The area is 16 cm²."),
    ("567", r"In total 1\,234\,567."),
    ("567", "In total 1 234 567."),
    ("24", "She sold 48 + 24 = 72 clips.\n#### 72"),
    ("7", r"It is $2\sqrt{7}$"),
    ("4", r"Hence \frac{\pi}{4}."),
    ("3", r"$5 + 2\sqrt{3}$"),
    ("8", r"\log_2 8"),
    ("1", "so x_1"),
    ("7", "the point (3, 7)"),
    ("7", "so x + 7"),
    ("1/2", "It is 2 1/2"),
    ("7", "It is 3 / 7"),
    ("2", "so ½"),
    ("5", "about 1e5"),
    ("3", "3 million"),
    ("6", "6 dozen"),
    ("45", "at 3:45"),
    ("2", "It is 7, and water is H2O"),
    ("6", "$5!$ and not 6, so $3!!$"),
    ("18", "The answer is not 18 but 19"),
    ("19", "<answer> 18 or 19 </answer>"),
    ("3", "<answer> 5 apples and 3 pears </answer>"),
    ("2", r"\boxed{12} in 2 ways"),
    ("1.41", r"It is $\sqrt{2} \approx 1.41$."),
    ("x", "so x+1"),
]


@pytest.mark.parametrize(("reference", "text"), RIGHT)
def test_the_answer_of_a_text_is_read_whole(reference: str, text: str) -> None:
    requested = problem(reference)
    assert grade_lenient(requested, text).is_correct, lenient_answer(requested, text)


@pytest.mark.parametrize(("reference", "text"), WRONG)
def test_no_piece_of_an_answer_is_an_answer(reference: str, text: str) -> None:
    requested = problem(reference)
    assert grade_lenient(requested, text).outcome == "wrong", lenient_answer(requested, text)


@pytest.mark.parametrize(
    ("kind", "reference", "text", "is_right"),
    [
        ("choice", "B", "The answer is B.\nI am sure.", True),
        ("choice", "B", "The answer is B. I am sure.", True),
        ("choice", "B", "The answer is (B) blue", True),
        ("choice", "B", "The answer is B. Red", False),
        ("choice", "B", "A is wrong.\nB", True),
        ("choice", "B", "so \\boxed{B}, not A", True),
        ("exact", "Paris", "The answer is Paris. It always was.\nDone", True),
        ("exact", "Paris", "Well.\nparis\n", True),
        ("exact", "St. Louis", "**Answer: St. Louis**", True),
        ("exact", "1234", "The answer is 1,234.", True),
        ("math", "Monday", "So the answer is Monday.\nQED", True),
        ("math", "甲", "<think> 乙? </think> 答案\uff1a甲", True),
        ("math", "甲", "甲\n乙", False),
    ],
)
def test_words_and_letters_are_read_behind_their_mark_or_in_the_last_line(
    kind: ProblemKind, reference: str, text: str, is_right: bool
) -> None:
    choices = {"choices": ["red", "blue"]} if kind == "choice" else {}
    assert grade_lenient(problem(reference, kind, **choices), text).is_correct == is_right


def test_a_program_that_is_right_in_its_block_is_leniently_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[str] = []

    def run(_: Problem, answer: str) -> Verdict:
        ran.append(answer.strip())
        outcome = "correct" if answer.strip() == "print(1)" else "wrong"
        return Verdict(outcome=outcome, answer=answer, explanation="")

    row = GRADERS.row("code")
    scripted = replace(row, value=replace(row.value, decide=run))
    monkeypatch.setitem(GRADERS.table, "code", scripted)
    text = completion_text("```\nprint(2)\n```", "print(1)")
    item = GradeItem(problem("", "code", tests=[]), text, lenient=True)
    verdict = _decide(item, plainly=False)
    assert verdict is not None and verdict.is_correct
    # Where both readings see one program, it runs once.
    ran.clear()
    fenced = completion_text("so", "```\nprint(3)\n```")
    item = GradeItem(problem("", "code", tests=[]), fenced, lenient=True)
    verdict = _decide(item, plainly=False)
    assert verdict is not None and (verdict.outcome, len(ran)) == ("wrong", 1)


def test_a_form_and_a_prefill_count_for_what_is_strictly_right() -> None:
    opened = "a </think> <answer> 12 apples </answer> and 3"
    requested = problem("12")
    assert not grade(requested, opened, prefill="<think>").is_correct
    assert grade_lenient(requested, opened).is_correct


PIECES = (
    "\\[", "answer is ", "\\boxed{", "$", "a^", "<answer>", "\\begin{", "x ", "1,", "(", "{", "-",
    "\\text{", "####", "answer is 5 ", "1 ", "\\frac{1", "=", "**", "a-", "\n", "ab'", "\\boxed{5}",
)  # fmt: skip


@pytest.mark.parametrize("reference", ["7", r"\sqrt{2}", "Monday"])
def test_reading_takes_linear_time(reference: str) -> None:
    """Of thirty thousand characters each, with much room for a busy machine."""
    requested = problem(reference)
    for piece in PIECES:
        began = time.process_time()
        lenient_answer(requested, piece * (30_000 // len(piece)))
        assert time.process_time() - began < 2, piece
