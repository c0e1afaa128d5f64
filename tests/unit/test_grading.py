"""Graders against what models really write, and against what they write to be paid for nothing."""

import os
import signal
import time

import pytest
from namespaces import needs_namespaces

from factory.core.errors import EngineError
from factory.core.records import Problem, Verdict
from factory.grading import GradeItem, GradingPool, check_ungradable, grade, grade_lenient
from factory.grading.numbers import last_number, plain_number
from factory.text.chat import completion_text


def problem(reference: str, kind: str = "math", **data) -> Problem:
    return Problem(id="p", prompt="q", reference=reference, kind=kind, source="test", data=data)


def outcome(reference: str, answer: str, kind: str = "math", **data) -> str:
    return grade(problem(reference, kind, **data), completion_text("so", answer)).outcome


RIGHT = [
    ("18", r"\$18.00"),
    ("18", "$18"),
    ("18", "18 dollars"),
    ("-3", "\u22123"),
    ("1234567", "1,234,567"),
    ("10000", "10\u202f000"),
    (r"\frac{\pi}{2}", "\u03c0/2"),
    (r"\sqrt{2}", "\u221a2"),
    ("42", "The answer is 42."),
    ("42", "$42$"),
    ("42", "**42**"),
    ("42", r"\boxed{42} and again \boxed{42}"),
    ("42", "x = 42"),
    ("42", "40 + 2 = 42"),
    ("1/2", "0.50"),
    ("0.5", r"\frac{1}{2}"),
    ("1/3", r"\dfrac13"),
    ("50", "50%"),
    ("50%", "0.5"),
    ("3 1/2", r"3\frac{1}{2}"),
    ("1500", r"1.5 \times 10^3"),
    ("1024", "2^10"),
    ("x^2+2x+1", "(x+1)^2"),
    (r"2\sqrt{3}", "\u221a12"),
    (r"4\sqrt{2}", r"4\sqrt(2)"),
    (r"\sqrt{2}/2", r"\frac{1}{\sqrt{2}}"),
    (r"\sqrt{2}+\sqrt{3}", r"\sqrt{5+2\sqrt{6}}"),
    (r"2\pi", "2*pi"),
    ("3", "log_2(8)"),
    ("6", "3!"),
    ("(1, 2)", "(1,2)"),
    ("1,2", "2 and 1"),
    (r"\{1,2\}", r"\{2,1\}"),
    ("[0,1)", "[0, 1)"),
    ("x=5", "5"),
    ("y=2x+1", "y = 1 + 2x"),
    ("y=2x+1", "2x - y = -1"),
    ("x>3", "3 < x"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
    (r"90^\circ", "90"),
    ("5", r"5\text{ m}"),
    (r"\text{Monday}", "monday"),
    ("Yes", "yes"),
    ("infinity", r"\infty"),
    ("12:00", "12:00"),
    (r"\infty", "\u221e"),
]


@pytest.mark.parametrize(("reference", "answer"), RIGHT)
def test_a_right_answer_in_another_notation_is_correct(reference, answer):
    assert outcome(reference, answer) == "correct"


WRONG = [
    ("42", r"\boxed{41} \boxed{42}"),
    ("42", r"\boxed{42"),
    ("42", "41 or 42"),
    ("42", "42 or 41"),
    ("42", "41, 42"),
    ("42", r"\{41, 42\}"),
    ("42", "42\n41"),
    ("42", "[40, 44]"),
    ("42", "\u00b142"),
    ("42", "1=2=42"),
    ("42", "not 42"),
    ("42", "42 is wrong"),
    ("42", "42 million"),
    ("42", "4 2"),
    ("7", "3 4"),
    ("42", "(lambda: 42)()"),
    ("42", "__import__('os').getpid()"),
    ("42", "42.0000001"),
    ("0", "10^{-10}"),
    ("1/3", "0.333333"),
    (r"\pi", "3.141592653589793"),
    ("1/2006!", "1/2004!"),
    ("2^{-98}", "2^{-99}"),
    ("42", "42+e^{-200}"),
    ("0", "0/0"),
    ("42", "nan"),
    ("1:00", "12:00"),
    ("2021", r"\pm 2021"),
    ("4", r"4\sqrt(2)"),
    ("(1,2)", "(2,1)"),
    ("1,2", "1,2,3"),
    ("1,2", "1,1"),
    ("x=5", "y=5"),
    ("y=2x+1", "y=2x+2"),
    ("x>3", "x<3"),
    ("x", "X+0"),
    ("Monday", "Tuesday"),
    ("no", "yes"),
    ("42", "42\ud800"),
]


@pytest.mark.parametrize(("reference", "answer"), WRONG)
def test_a_wrong_or_hedged_answer_is_wrong(reference, answer):
    assert outcome(reference, answer) == "wrong"


COSTLY = [
    "9^9^9^9",
    "9**9**9**9",
    "9^{9^{9^9}}",
    "999999!",
    "9999!!!",
    r"\sum_{i=1}^{10^9} i",
    r"\int_0^{100} x^x dx",
    "(" * 300 + "42" + ")" * 300,
    "{" * 3000,
    "9" * 5000,
    r"\sqrt{" * 100 + "2" + "}" * 100,
    r"\boxed{" * 1000,
    "," * 5000,
    "=" * 5000,
    "1" * 20_000,
    r"(9999^{9999})^{9999}",
    r"((2^{999})^{999})^{999}",
    "2^{9999!}",
    r"2^{9999 \cdot 9999}",
    r"\binom{100000}{50000}",
    r"\sqrt[9999]{9999!}",
]


@pytest.mark.parametrize(
    "answer", ["(x+1)^{9999}", r"(x+1)^{999}(x-1)^{999}", r"\frac{(x+1)^{300}-1}{x}"]
)
def test_costly_algebra_is_wrong_within_a_second(answer):
    outcome("x^2+1", "x^2")
    began = time.process_time()
    assert outcome("x^2+1", answer) == "wrong"
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize("answer", COSTLY)
def test_costly_text_is_wrong_within_a_second(answer):
    outcome("42", r"\sqrt{2}")
    began = time.process_time()
    assert outcome("42", answer) == "wrong"
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize(
    ("reference", "answer", "is_right"),
    [
        ("52_8", "52", True),
        ("4210_{5}", r"\boxed{4210}", True),
        ("A1F_{16}", "a1f", True),
        ("2_8, 3_8", "3, 2_8", True),
        ("52_8", "42", False),
        ("52_8", "52_9", False),
        ("52_8", "-52", False),
        ("52", "52_8", False),
        ("101_2", "1012", False),
        ("x_1", "x", False),
    ],
)
def test_a_base_may_be_left_out_and_nothing_else(reference, answer, is_right):
    assert (outcome(reference, answer) == "correct") == is_right


@pytest.mark.parametrize(
    ("reference", "answer", "is_right"),
    [
        (r"10,\!080", "10080", True),
        ("10080", r"\$10,\! 080", True),
        (r"22,\! 222,\! 200", "22,222,200", True),
        (r"(1,\!000, 5)", "(1000,5)", True),
        (r"1,\!000, 2,\!500", "2500, 1000", True),
        (r"(1,\!2)", "(1,2)", True),
        (r"10,\!080", "10, 080", False),
        (r"10,\!080", "80, 10", False),
        ("10,080", "80, 10", False),
        ("2, 500", "2500", False),
    ],
)
def test_separated_groups_of_digits_are_one_number(reference, answer, is_right):
    assert (outcome(reference, answer) == "correct") == is_right


@pytest.mark.parametrize("reference", ["", "  "])
def test_an_empty_reference_is_ungradable_and_never_wrong(reference):
    assert outcome(reference, "42") == "ungradable"


@pytest.mark.parametrize("reference", [r"\frac{1", "f(x"])
def test_a_reference_that_cannot_be_read_is_compared_as_text(reference):
    assert outcome(reference, "42") == "wrong"
    assert outcome(reference, reference) == "correct"


def test_exact_answers_fold_width_case_and_space_but_not_scripts():
    assert outcome("Paris  France", "\uff50aris france", "exact") == "correct"
    assert outcome("cat", "c\u0430t", "exact") == "wrong"  # Cyrillic a
    assert outcome("Paris", "Paris or Rome", "exact") == "wrong"
    assert outcome(" ", "x", "exact") == "ungradable"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("B", "correct"),
        ("(b)", "correct"),
        (r"\boxed{B}", "correct"),
        ("**B.** blue whale", "correct"),
        ("The answer is B", "correct"),
        ("blue whale", "correct"),
        ("A", "wrong"),
        ("B: red fox", "wrong"),
        ("A or B", "wrong"),
        ("A, B", "wrong"),
        ("ABCD", "wrong"),
    ],
)
def test_a_choice_names_one_option(answer, expected):
    assert outcome("B", answer, "choice", choices=["red fox", "Blue whale"]) == expected


def test_a_choice_without_a_letter_as_reference_is_ungradable():
    assert outcome("blue", "B", "choice") == "ungradable"


def test_an_open_problem_says_that_no_rule_grades_it():
    verdict = grade(problem("x", "open"), completion_text("a", "x"))
    assert (verdict.outcome, "no rule" in verdict.explanation) == ("ungradable", True)


def test_malformed_text_is_no_answer_with_its_reason_even_if_the_number_is_there():
    verdict = grade(problem("7"), "<think> a <answer> 7 </answer> </think>")
    assert (verdict.outcome, verdict.answer) == ("no_answer", None)
    assert verdict.explanation.startswith("tags out of order")


def test_text_cut_off_before_its_answer_is_truncated():
    assert grade(problem("7"), "<think> 3 +", finish_reason="length").outcome == "truncated"
    assert grade(problem("7"), "<think> 3 +", finish_reason="stop").outcome == "no_answer"
    full = completion_text("a", "7")
    assert grade(problem("7"), full, finish_reason="length").outcome == "correct"
    assert grade(problem("7"), full + " and", finish_reason="length").outcome == "no_answer"


def test_an_answer_after_prefilled_thoughts_is_graded():
    text = "a </think> <answer> 7 </answer>"
    assert grade(problem("7"), text, prefill="<think>\n").outcome == "correct"
    assert grade(problem("7"), text).outcome == "no_answer"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3 + 4 makes 7.", "correct"),
        ("<answer>7</answer> ", "correct"),
        ("7 it is, not 8", "wrong"),
        ("seven", "no_answer"),
        ("14/2 = 7", "correct"),
        ("10-7", "correct"),
    ],
)
def test_lenient_grading_takes_the_last_number(text, expected):
    assert grade_lenient(problem("7"), text).outcome == expected


def test_lenient_grading_takes_the_last_line_of_other_references():
    assert grade_lenient(problem("Paris", "exact"), "Well.\nparis\n").outcome == "correct"
    assert grade_lenient(problem("Paris", "exact"), " \n", finish_reason="length").outcome == (
        "truncated"
    )


def test_lenient_grading_strips_separators_for_scorers_that_compare_text():
    requested = gym("chain_sum", min_digits=4, max_digits=4)
    number = int(requested.reference)
    assert abs(number) >= 1000
    assert grade_lenient(requested, f"so it is {number:,}.").outcome == "correct"


def test_last_number_reads_signs_fractions_and_separators():
    # A minus after a digit or a bracket subtracts; after a space or at the start it is a sign.
    results = [last_number(t) for t in ("7-3", "is -3", "(2)-3", "3/4", "1,234.5.", "none")]
    assert results == ["3", "-3", "3", "3/4", "1,234.5", None]


def test_plain_numbers_are_exact():
    # 1e3 = 1000; 1 3/4 = 7/4; 0.1 is one tenth, not the nearest double.
    assert plain_number("1e3") == 1000
    assert plain_number("1 3/4") * 4 == 7
    assert plain_number("0.1") * 10 == 1
    assert plain_number("1/0") is None
    assert plain_number("1,23") is None


def gym(family: str, **settings) -> Problem:
    from factory.problems.reasoning_gym import ReasoningGymSource, supply

    source = ReasoningGymSource(
        type="reasoning_gym", family=family, settings=settings, held_out=1, seed=3
    )
    return next(supply(source, 0).problems)


def test_a_partial_score_is_wrong():
    requested = gym("countdown")
    for answer in ("0", "1 + 1", requested.reference + " + 0", "hello"):
        assert grade(requested, completion_text("a", answer)).outcome == "wrong"
    assert grade(requested, completion_text("a", requested.reference)).outcome == "correct"


def test_scorers_that_evaluate_python_never_see_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    canary = tmp_path / "canary"
    attack = f"__import__('pathlib').Path({str(canary)!r}).touch()"
    for family in ("spiral_matrix", "n_queens", "string_insertion", "binary_matrix", "puzzle24"):
        assert grade(gym(family), completion_text("a", attack)).outcome == "wrong"
    for family in ("simple_integration", "polynomial_multiplication", "countdown"):
        assert grade(gym(family), completion_text("a", attack)).outcome == "wrong"
    assert not canary.exists()


def test_puzzle24_takes_only_the_given_numbers_and_the_exact_value():
    requested = gym("puzzle24")
    # Four numbers of the range that make 24, but not the puzzle's own (4, 8, 6, 2 at this seed).
    assert grade(requested, completion_text("a", "10 + 10 + 2 + 2")).outcome == "wrong"


def test_number_sorting_takes_no_neighbouring_numbers():
    requested = gym("number_sorting", min_decimals=0, max_decimals=0)
    right = [float(n) for n in requested.reference.strip("[]").replace("'", "").split(",")]
    near = str([str(number + 0.5) for number in right])
    assert grade(requested, completion_text("a", near)).outcome == "wrong"
    assert grade(requested, completion_text("a", requested.reference)).outcome == "correct"


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"family": "chain_sum"},
        {"family": "no_such", "config": {}, "entry": {"answer": "7", "metadata": {}}},
        {"family": "chain_sum", "config": {"x": 1}, "entry": {"answer": "7", "metadata": {}}},
        {"family": "chain_sum", "config": {}, "entry": {"answer": {"$odd": 1}, "metadata": {}}},
    ],
)
def test_a_broken_entry_is_ungradable(data):
    assert outcome("7", "7", "procedural", **data) == "ungradable"


HANGS = "(x+1)**999*(x+2)**999*(x+3)**999*exp(x**3)"


def test_the_pool_kills_what_hangs_or_dies_and_keeps_the_order():
    integral = gym("simple_integration")
    right = GradeItem(integral, completion_text("a", integral.reference))
    hangs = GradeItem(integral, completion_text("a", HANGS))
    root = GradeItem(problem(r"\sqrt{2}"), completion_text("a", "2^{1/2}"))
    with GradingPool(deadline_seconds=120) as pool:  # a busy machine is no hanging answer
        assert [v.outcome for v in pool.grade([root, right])] == ["correct", "correct"]
        os.kill(pool._workers[0]._process.pid, signal.SIGKILL)
        verdicts = pool.grade([right, GradeItem(root.problem, "no tags"), root])
    assert [v.outcome for v in verdicts] == ["correct", "no_answer", "correct"]
    with GradingPool(deadline_seconds=0.8) as pool:
        hanging, malformed = pool.grade([hangs, GradeItem(root.problem, "no tags")])
    assert (hanging.outcome, malformed.outcome) == ("ungradable", "no_answer")
    assert "longer than 0.8 s" in hanging.explanation


def test_the_pool_starts_no_process_for_what_our_own_code_decides():
    items = [
        GradeItem(problem("7"), completion_text("a", "7")),
        GradeItem(problem("7"), "no tags"),
        GradeItem(problem("7"), "it is 7", lenient=True),
        GradeItem(problem("B", "choice"), completion_text("a", "B")),
    ]
    with GradingPool() as pool:
        outcomes = [verdict.outcome for verdict in pool.grade(items)]
        assert outcomes == ["correct", "no_answer", "correct", "correct"]
        assert pool._workers == []


def test_more_than_one_percent_ungradable_is_an_engine_error():
    right = Verdict(outcome="correct", answer="7", explanation="")
    broken = Verdict(outcome="ungradable", answer=None, explanation="the scorer broke")
    check_ungradable([right] * 99 + [broken])
    check_ungradable([])
    with pytest.raises(EngineError, match=r"2 of 100 .* the scorer broke"):
        check_ungradable([right] * 98 + [broken] * 2)


def test_a_pool_asks_no_worker_twice_about_the_same_item():
    item = GradeItem(problem("\\sqrt{2}"), completion_text("so", "\\sqrt{8}/2"))
    with GradingPool() as pool:
        first = pool.grade([item])
        pool.close()
        assert pool.grade([item]) == first
        assert pool._workers == []


@needs_namespaces
def test_a_pool_of_programs_takes_mathematics_afterwards():
    problem = Problem(
        id="p", prompt="", reference="", kind="code", source="s",
        data={"tests": [{"stdin": "", "expected_stdout": "1"}], "timeout_seconds": 60.0},
    )  # fmt: skip
    root = Problem(id="m", prompt="", reference=r"\sqrt{2}", kind="math", source="s")
    with GradingPool() as pool:
        [program] = pool.grade([GradeItem(problem, completion_text("so", "print(1)"))])
        [answer] = pool.grade([GradeItem(root, completion_text("so", "2^{1/2}"))])
    assert program.is_correct
    assert answer.is_correct
    assert 0.0 < program.seconds < 60.0, "measured from the moment it was sent"


def test_the_seconds_of_a_verdict_are_measured_but_neither_written_nor_compared():
    verdict = grade(problem("7"), completion_text("so", "7"))
    assert verdict.seconds > 0.0
    assert verdict == verdict.model_copy(update={"seconds": 9.0})
    assert "seconds" not in verdict.model_dump_json()
