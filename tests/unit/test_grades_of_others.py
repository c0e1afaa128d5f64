"""Answers as other people's models write them, by kind; the policy is in docs/grading.md."""

# ruff: noqa: RUF001

import pytest

from factory.core.records import Problem
from factory.grading import grade, grade_lenient
from factory.text.chat import completion_text

RIGHT = {
    "thousands": [
        (r"1,\!000,\!000", "1000000"),
        ("12000", r"12,\!000"),
        ("12000", "12 000"),
        ("12000", "12'000"),
        ("1234567", "1.234.567"),
        ("12000", "12{,}000"),
    ],
    "degrees": [
        (r"\frac{\sqrt3}{2}", r"\cos 30°"),
        ("1", r"\tan(45^\circ)"),
        ("30", "30˚"),
        ("30", r"30\degree"),
        (r"\cos(60^\circ)", "1/2"),
    ],
    "units": [
        ("18", "18 square meters"),
        (r"\frac{3}{4}", r"\frac{3}{4}\text{ cup}"),
        (r"2\sqrt{3}", r"2\sqrt{3}\,\mathrm{cm}"),
        ("40", "40km/h"),
        ("12", "12 公里"),
        ("3.5", "3.5 m/s²"),
        ("12", "12 kg·m/s"),
        (r"16\text{ m}^2", "16"),
        ("36", r"36\text{ units}^2"),
        ("15000", r"15,000 \text{ kcal m}^{-2} \text{ yr}^{-1}"),
        ("1.69", "1.69 Å"),
        ("60 seconds", "60 sec"),
        (r"\$5", "5 dollars"),
    ],
    "sets": [
        (r"[3,\infty)", "x >= 3"),
        (r"[3,\infty)", "x⩾3"),
        (r"(-\infty,1)\cup(2,\infty)", "x<1 or x>2"),
        ("(-1,1)", r"\{x : -1 < x < 1\}"),
        (r"x\neq 2", "all real numbers except 2"),
        (r"(-\sqrt{2},\sqrt{2})", r"-\sqrt2 < x < \frac{2}{\sqrt2}"),
        (r"[0,1)\cup(1,2]", r"[0,2]\setminus\{1\}"),
        (r"\emptyset", "no solution"),
        (r"\mathbb{R}", "all real numbers"),
        ("2<x<3", "T = (2,3)"),
        ("(2,3) \\cup (3,4)", "2 < x < 4 and x != 3"),
    ],
    "plus and minus": [
        (r"2\pm\sqrt{3}", r"2+\sqrt3, 2-\sqrt3"),
        (r"2+\sqrt3, 2-\sqrt3", r"x = 2 \pm \sqrt{3}"),
        (r"\frac{1\pm\sqrt5}{2}", r"\frac{1+\sqrt5}{2}, \frac{1-\sqrt5}{2}"),
        (r"0, \pm 2", "-2,0,2"),
        ("2 ± 3i", "2+3i, 2-3i"),
    ],
    "names": [
        ("(1,2,3)", "x=1,y=2,z=3"),
        ("(1,2)", "y=2, x=1"),
        ("x=1, y=2", "(1,2)"),
        (r"B=\{1,2\}", r"\{2,1\}"),
        ("5, 7", "x=5 or x=7"),
        ("19", "BC^2 = 19"),
        (r"\frac{2}{3}C", r"MRS_{S,C} = \frac{4}{6} C = \frac{2}{3} C"),
    ],
    "languages": [
        ("36", "36个"),
        ("36", "答案是36。"),
        ("36", "所以答案为：36"),
        ("36", "Die Antwort ist 36."),
        ("0.5", "50％"),
        ("36", "３６"),
        ("30000", "3万"),
    ],
    "signs": [
        ("0.005", "5×10⁻³"),
        ("x^2", "x²"),
        ("-4", "—4"),
        (r"2\beta", "2β"),
        ("50000", "5 x 10^4"),
        (r"\frac12", "1⁄2"),
    ],
    "numbers": [
        ("2500000", "2.5 million"),
        ("1000000000", "1 billion dollars"),
        ("1/3", r"0.\dot{3}"),
        ("1/6", r"0.1\bar{6}"),
        ("1/3", "0.333..."),
        ("2.5", "≈ 2.5"),
        ("10", r"\boxed{~10}"),
    ],
    "dress": [
        ("7", "```\n7\n```"),
        ("7", "So, the final answer is: **7**"),
        ("7", "(C) 7"),
        ("7", "The total is 7 apples."),
        ("7", r"\boxed{7} = \boxed{7.0}"),
        ("1,2", r"\boxed{1} and \boxed{2}"),
        ("4", r"\text{Yes, } n=4"),
    ],
    "angle brackets": [
        ("(1,2)", r"\langle 1,2\rangle"),
        (r"\langle 1,2\rangle", r"\left\langle 1, 2\right\rangle"),
        ("(1,2)", "⟨1, 2⟩"),
    ],
    "bases": [
        ("101_2", r"101_{\text{two}}"),
        ("101_2", "101 (base 2)"),
        ("2A_{16}", "2A"),
        ("101_2", "101 in base 2"),
    ],
    "ordinals": [("5", "5th"), ("3", r"3^{\text{rd}}"), ("21", "21st place")],
    "absolute values": [
        ("|x-2|", r"\sqrt{x^2-4x+4}"),
        ("2|x|", r"\sqrt{4x^2}"),
        ("|x+y|", r"\sqrt{x^2+2xy+y^2}"),
    ],
    "constants": [
        ("cx+1", "Cx+1"),
        (r"c_1 e^t + c_2", r"C_{1}e^{t} + C_{2}"),
        (r"\frac{K-1}{L}", r"\frac{k-1}{l}"),
    ],
    "yes": [("yes", "Yes, since 7 is prime"), ("no", "**No**"), ("no", "No.")],
}
WRONG = {
    "thousands": [("1.234", "1234"), (r"1,\!234", "1, 234"), ("12", "12,000")],
    "degrees": [(r"\tan 10^\circ", r"\tan 10"), ("30°", "30 radians"), ("60", "61°")],
    "units": [
        ("9", "9xy"),
        ("12", "12 dozen"),
        ("3 hours", "3 minutes"),
        ("5 kg", "5 g"),
        ("5 dollars", "5 euros"),
        ("9", "9m^2x"),
    ],
    "sets": [
        (r"(3,\infty)", "x≥3"),
        ("x>3", "y>3"),
        (r"(-\infty,1)\cup(2,\infty)", "x<1, x>2"),
        (r"(-\sqrt{2},\sqrt{2})", r"-\sqrt2 < x < \sqrt3"),
        (r"[0,1)\cup(1,2]", "[0,2]"),
        ("2, 6", r"x \in [2,6]"),
        ("[2,5]", r"\{2,5\}"),
        ("(0,4)", "0<=x<4"),
        ("(2,3)", "2, 3"),
    ],
    "plus and minus": [(r"2\pm\sqrt{3}", r"2+\sqrt3"), ("42", r"42 \pm 1"), (r"\pm 3", "3")],
    "names": [
        ("(1,2)", "x=2, y=1"),
        ("a=1,b=2", "a=1, c=2"),
        ("0", "x - 2 = 0"),
        ("6", "2x = 6 + 1"),
        ("4, 5", "5, 4, 5"),
    ],
    "languages": [("36", "36倍"), ("正确", "错误"), ("3", "3万")],
    "signs": [("4", "—4"), ("x^2", "x³"), (r"\beta", "α")],
    "numbers": [("0.16", r"0.1\bar{6}"), (r"\pi", r"\approx 3.14"), ("10", "~ 10"), ("10", "≈10")],
    "dress": [
        ("7", r"\boxed{7} or \boxed{8}"),
        ("7", "The answer is not 7"),
        ("7", "The answer is about 7"),
        ("7", "It is more than 7"),
    ],
    "angle brackets": [
        ("(1,2)", r"\langle 2,1\rangle"),
        (r"\langle 1,2\rangle", "1"),
        ("1", "<1,2>"),
    ],
    "bases": [("101_2", "5"), ("101_2", "101_3"), ("101", "101_2")],
    "ordinals": [("12", "13th"), ("1/2", "12th"), ("5", "5th root of 2")],
    "absolute values": [("x-2", r"\sqrt{x^2-4x+4}"), ("|x|", "x"), ("|x-2|", "|x+2|")],
    "constants": [("x", "X"), ("cC+1", "c^2+1"), ("ab", "AB")],
    "yes": [("yes", "yes and no"), ("yes", "Yes, or no"), ("no", "Yes.")],
}


def problem_of(reference, kind="math", **data):
    prompt = "Find it in terms of K and L." if kind == "math" else ""
    if reference == "ab":
        prompt = "Here a and b are sides, A and B are angles."
    return Problem(id="p", prompt=prompt, reference=reference, kind=kind, source="test", data=data)


def pairs(table):
    return [pytest.param(*pair, id=f"{kind}: {pair}") for kind in table for pair in table[kind]]


@pytest.mark.parametrize(("reference", "answer"), pairs(RIGHT))
def test_a_right_answer_is_right_however_it_is_written(reference, answer):
    problem = problem_of(reference)
    text = completion_text("so", answer)
    assert grade(problem, text).is_correct
    assert grade_lenient(problem, text).is_correct


@pytest.mark.parametrize(("reference", "answer"), pairs(WRONG))
def test_another_answer_is_wrong_however_near_it_looks(reference, answer):
    assert grade(problem_of(reference), completion_text("so", answer)).outcome == "wrong"


COLOURS = ["red", "green", "blue", "white"]
NAMES_B = [
    "B", "(B)", "b.", "**B**", "`B`", "Answer: B", "**Answer:** B", "The correct answer is B.",
    "Option B", "option B is correct", "B is correct", "B) green", "(B) green", "B: green", "green",
    "Green.", "**green**", "答案：B", "答案是B。", "选B", "（B）", "Antwort: B",
    "Die richtige Antwort ist B.", r"\boxed{\text{B}}", r"\textbf{(B)}", '"B"',
    "So the final answer is B", r"$\boxed{(B)}$",
]  # fmt: skip
NOT_B = [
    "A", "A or B", "B and C", "B. red", "not B", "AB", "(B) red", "B, C", "green or blue",
    "The answer is not B",
]  # fmt: skip


@pytest.mark.parametrize("answer", NAMES_B)
@pytest.mark.parametrize("reference", ["B", "(B)", "B) green", "green"])
def test_an_option_is_named_in_many_ways_by_answers_and_references(reference, answer):
    verdict = grade(problem_of(reference, "choice", choices=COLOURS), completion_text("so", answer))
    assert verdict.is_correct


@pytest.mark.parametrize("answer", NOT_B)
def test_two_options_or_another_text_name_no_option(answer):
    verdict = grade(problem_of("B", "choice", choices=COLOURS), completion_text("so", answer))
    assert verdict.outcome == "wrong"


@pytest.mark.parametrize(
    ("answer", "is_right"),
    [
        ("(A) Vienna", True),
        ("A. Vienna", True),
        ("(A) Vienna or (B) Rome", False),
        ("A) Vienna, B) Rome", False),
        ("(B) Rome", False),
    ],
)
def test_without_options_the_letter_counts_where_it_is_the_only_one(answer, is_right):
    assert grade(problem_of("A", "choice"), completion_text("so", answer)).is_correct is is_right


@pytest.mark.parametrize(
    ("reference", "answer", "is_right"),
    [
        ("Paris", "Paris.", True),
        ("Paris", "**Paris**", True),
        ("No", r"\boxed{No}", True),
        ("No", "No, it is not prime.", True),
        ("No", "No and yes", False),
        ("Yes", "Yes, but no", False),
        ("a.b", "a.b.", False),
        ("x+1", "x+1.", False),
        ("Paris", r"\boxed{Paris} and \boxed{Rome}", False),
        ("是", "是，因为", True),
    ],
)
def test_exact_answers_may_be_boxed_and_end_in_a_stop(reference, answer, is_right):
    assert (
        grade(problem_of(reference, "exact"), completion_text("so", answer)).is_correct is is_right
    )


@pytest.mark.parametrize("end", ["<|im_end|>", "</s>", "<|eot_id|>", "<|endoftext|>\n"])
def test_an_end_token_at_the_very_end_of_a_stored_text_is_no_text(end):
    text = completion_text("so", "81")
    assert grade(problem_of("81"), text + end).is_correct
    assert grade(problem_of("81"), text + end + " more").outcome == "no_answer"
    assert grade(problem_of("81"), text + end + end).outcome == "no_answer"


@pytest.mark.parametrize(
    ("quotation", "outcome"),
    [("<answer> </answer>", "correct"), ("<answer></answer>", "correct"),
     ("<answer>...</answer>", "correct"), ("<answer> 91 </answer>", "no_answer"),
     ("<answer>", "no_answer")],
)  # fmt: skip
def test_thoughts_may_quote_a_blank_answer_block_and_no_filled_one(quotation, outcome):
    text = f"<think>\nThey want {quotation} tags.\n</think>\n<answer> 91 </answer>"
    assert grade(problem_of("91"), text).outcome == outcome
