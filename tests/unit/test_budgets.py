"""Thoughts closed at budgets: what is asked, counted and kept, with a scripted model of bytes."""

import io
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from factory.core.blocks import Section
from factory.core.context import stderr_context
from factory.core.errors import RecipeError
from factory.core.machine import Machine
from factory.core.records import Problem, SamplingConfig
from factory.evaluation.asking import EvaluatedModel
from factory.evaluation.budgets import (
    Spent,
    closing_text,
    thinking_tokens,
    thoughts_end,
    whole_tokens,
)
from factory.evaluation.frontier import curves
from factory.evaluation.run import evaluate_own
from factory.evaluation.runs import OwnRun, Results
from factory.models.tiny import byte_tokenizer
from factory.report.against import thinking_blocks
from factory.report.html import section_of_page
from factory.sampling.scripted import ScriptedSampler
from factory.stages.evaluate import EvaluateConfig, small
from factory.text.chat import OutputForm, PromptConfig, parse
from factory.ui.console import Console
from factory.ui.scores import show_thinking

TOKENIZER = byte_tokenizer()
PROMPT = PromptConfig(style="zero")
PROBLEMS = tuple(
    Problem(id=name, prompt=f"Ask {name}", reference="7", kind="exact", source="s")
    for name in ("a", "b")
)
FORM = OutputForm()
TAGS = " </think> <answer>"
"""18 bytes, so 18 tokens."""
WHOLE = {"a": f"<think> 123{TAGS} 7 </answer>", "b": f"<think> 12345678{TAGS} 8 </answer>"}
"""Thoughts of 20 and 25 tokens, the mark `</think>` with them; 11 more and the end of text."""


def reply(request) -> str:
    """Its thoughts as in WHOLE; once they are closed, the right answer in 12 tokens."""
    text = str(TOKENIZER.decode(request.prompt_ids))
    if text.endswith(TAGS):
        return " 7 </answer>"
    return WHOLE["a" if "Ask a" in text else "b"]


def evaluated(
    scratch: Path, budgets: tuple[int, ...], *, samples: int = 2, answer=reply, limit: int = 80
) -> tuple[Results, ScriptedSampler]:
    scratch.mkdir(exist_ok=True)
    sampler = ScriptedSampler(answer, TOKENIZER)
    context = stderr_context(7, scratch, Machine(block=3, threads=1))
    model = EvaluatedModel("f", TOKENIZER, PROMPT, lambda longest, mean: sampler, context)
    sampling = SamplingConfig(max_new_tokens=limit)
    run = OwnRun(
        benchmark="s", mode="sampled", version="1", samples=samples, problems=PROBLEMS,
        sampling=sampling,
    )  # fmt: skip
    return evaluate_own([run], model, budgets=budgets), sampler


def test_a_spent_budget_closes_the_thoughts_and_the_answer_is_drawn(tmp_path):
    results, sampler = evaluated(tmp_path, (10, 22), samples=1)
    rows = [
        (row.problem_id, row.budget, row.thinking_tokens, row.tokens, row.is_correct)
        for row in results.spent
    ]
    # `<think> 123 </think>` has 20 tokens, all of a 42 with the end of text; b 25 and 47. An
    # answer to closed thoughts has 12 tokens and the end. 22 of b end in `</th`, which goes.
    assert rows == [
        ("a", 10, 10, 23, True), ("a", 22, 20, 42, True), ("a", None, 20, 42, True),
        ("b", 10, 10, 23, True), ("b", 22, 17, 30, True), ("b", None, 25, 47, False),
    ]  # fmt: skip
    texts = {(row.problem_id, row.budget): row.closed.trace for row in results.spent if row.closed}
    assert set(texts) == {("a", 10), ("b", 10), ("b", 22)}
    assert texts["b", 10].completion == "<think> 12 </think> <answer> 7 </answer>"
    assert texts["b", 10].answer == "7" and texts["b", 10].reasoning == "12"
    limited = [request for call in sampler.calls for request in call if request.limit is not None]
    # 80 tokens, 10 or 17 of thought and 18 for the mark: the rest is for the answer.
    assert [request.limit for request in limited] == [52, 52, 45]
    assert len({request.seed for call in sampler.calls for request in call}) == 5


def test_a_torn_mark_at_the_end_of_a_budget_is_not_left_in_the_thoughts(tmp_path):
    # 15 tokens of a's text are `<think> 123 </t`: the piece of the mark is dropped.
    results, _ = evaluated(tmp_path, (15,), samples=1)
    row = next(row for row in results.spent if row.closed and row.problem_id == "a")
    assert row.closed.trace.completion == "<think> 123  </think> <answer> 7 </answer>"
    assert row.thinking_tokens == 12 and row.is_correct
    ids = TOKENIZER("a < <", add_special_tokens=False)["input_ids"]
    assert TOKENIZER.decode([*whole_tokens(ids, TOKENIZER, PROMPT)]) == "a < "
    torn = TOKENIZER("né", add_special_tokens=False)["input_ids"][:-1]
    assert TOKENIZER.decode([*whole_tokens(torn, TOKENIZER, PROMPT)]) == "n"


def test_the_answers_as_drawn_are_those_without_budgets(tmp_path):
    with_budgets, _ = evaluated(tmp_path / "with", (10, 22))
    without, _ = evaluated(tmp_path / "without", ())
    assert with_budgets.by_run == without.by_run and with_budgets.record == without.record
    assert with_budgets.completion_tokens == without.completion_tokens and not without.spent
    # A budget that nobody spends is the answer as it was drawn.
    roomy, sampler = evaluated(tmp_path / "roomy", (60,))
    assert {(row.tokens, row.is_correct) for row in roomy.spent if row.budget} == {
        (row.tokens, row.is_correct) for row in roomy.spent if not row.budget
    }
    assert all(row.closed is None for row in roomy.spent)
    assert all(request.limit is None for call in sampler.calls for request in call)


def test_an_evaluation_that_was_cut_goes_on_to_the_same_end(tmp_path):
    uncut, _ = evaluated(tmp_path / "uncut", (10, 22))
    left = 6

    def dies(request) -> str:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return reply(request)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            evaluated(tmp_path / "cut", (10, 22), answer=dies)
        left = 4
    again, sampler = evaluated(tmp_path / "cut", (10, 22))
    assert again == uncut
    assert sum(map(len, sampler.calls)) < 4 + 6


def test_a_budget_that_leaves_no_answer_is_refused_before_anything_is_asked(tmp_path):
    # 18 of the 40 tokens are for the mark, one at least for the answer.
    with pytest.raises(RecipeError, match=r"benchmark s allows leave none .* at most 21"):
        evaluated(tmp_path, (22,), limit=40)
    assert evaluated(tmp_path, (21,), limit=40)[0].spent


@pytest.mark.parametrize(
    ("form", "prefill", "text", "end"),
    [
        (None, "", "<think> a </think> b", 18),
        (None, "<think>\n", "a </think> b", 10),
        (None, "", "<think> a", None),
        (None, "<think> </think>", "b", 0),
        (FORM, "", "|special_token| a |special_token| b", 33),
        (FORM, "|special_token|", " a |special_token| b", 18),
        (FORM, "", "|special_token| a", None),
        (OutputForm(opening="<think>", closing="</think>"), "<think>", "a</think>b", 9),
    ],
)
def test_thoughts_are_over_behind_their_mark(form, prefill, text, end):
    prompt = PromptConfig(form=form, prefill=prefill)
    assert thoughts_end(text, prompt) == end
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert thinking_tokens(ids, TOKENIZER, prompt) == end


@pytest.mark.parametrize("form", [None, FORM, OutputForm(opening="<think>", closing="</think>")])
def test_the_closing_text_makes_any_thoughts_well_formed(form):
    opening = "<think>" if form is None else form.opening
    ending = " 7 </answer>" if form is None else "\nThe answer is \\boxed{7}."
    response = parse(f"{opening} hm, 3 <{closing_text(form)}{ending}", form=form)
    assert (response.answer, response.reasoning) == ("7", "hm, 3 <")


def config(**fields: object) -> EvaluateConfig:
    document = {
        "kind": "evaluate", "model": "m", "benchmarks": [{"name": "s", "problems": "p"}], **fields
    }  # fmt: skip
    return EvaluateConfig.model_validate_json(json.dumps(document))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"budgets": [8, 4]}, "each once, in rising order"),
        ({"budgets": [4, 4]}, "each once, in rising order"),
        ({"budgets": [0]}, "greater than or equal to 1"),
        ({"budgets": [4, 2048]}, r"2048 leaves no token of benchmark s \(max_new_tokens: 2048\)"),
        (
            {"budgets": [4], "benchmarks": [{"name": "t", "task": "not_ours"}]},
            "benchmark t is a task of lm-eval's registry",
        ),
        ({"budgets": [4], "prompt": {"prefill": "<think>\n</think>"}}, "there are none"),
        ({"budgets": [4], "judge": {"model": "j"}}, "a judge decides when all answers are drawn"),
    ],
)
def test_budgets_that_cannot_work_are_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        config(**fields)


def spent(problem: str, budget: int | None, thinking: int, *, right: bool, sample: int = 0):
    return Spent(
        benchmark="s", mode="sampled", problem_id=problem, sample=sample, budget=budget,
        thinking_tokens=thinking, tokens=thinking + 5, is_correct=right,
    )  # fmt: skip


KEY = ("s", "sampled")


def test_points_have_means_over_problems_and_tokens_for_each_right_answer():
    rows = [
        spent("a", 8, 8, right=True), spent("a", 8, 6, right=False, sample=1),
        spent("b", 8, 8, right=False), spent("b", 8, 8, right=False, sample=1),
        spent("a", None, 20, right=True), spent("a", None, 22, right=True, sample=1),
        spent("b", None, 30, right=False), spent("b", None, 30, right=True, sample=1),
    ]  # fmt: skip
    short, long = curves({"m": {KEY: rows}})
    assert (short.budget, long.budget) == (8, None)
    assert (short.accuracy.value, long.accuracy.value) == (1 / 4, 3 / 4)
    assert (short.thinking.value, long.thinking.value) == (7.5, 25.5)
    # 50 tokens for 1 right answer, 122 for 3.
    assert short.tokens_per_right == 50 and long.tokens_per_right == pytest.approx(122 / 3)
    assert short.tokens_per_right_high is None  # b alone may be drawn, which has none right
    assert (short.n, short.k, short.standing, long.standing) == (2, 2, "front", "front")


def test_who_is_behind_for_certain_is_said_only_where_both_differences_hold():
    names = [f"p{number}" for number in range(40)]

    def side(right: int, tokens: int) -> dict:
        rows = [
            spent(name, None, tokens + number % 3, right=number < right)
            for number, name in enumerate(names)
        ]
        return {KEY: rows}

    points = curves({"good": side(36, 10), "bad": side(8, 30), "close": side(35, 12)})
    assert {point.model: point.standing for point in points} == {
        "good": "front", "bad": "behind for certain", "close": "behind",
    }  # fmt: skip
    # Right more often for more tokens: nobody is ahead on both.
    points = curves({"good": side(36, 30), "bad": side(8, 10)})
    assert [point.standing for point in points] == ["front", "front"]


def test_models_on_other_problems_are_never_behind_for_certain():
    good = [spent(f"p{number}", None, 5, right=True) for number in range(30)]
    bad = [spent(f"q{number}", None, 50, right=False) for number in range(30)]
    points = curves({"good": {KEY: good}, "bad": {KEY: bad}})
    assert [point.standing for point in points] == ["front", "behind"]


def test_the_page_and_the_terminal_show_every_point_and_run_no_text():
    name = "<img src=x onerror=alert(1)>"
    rows = [
        spent(f"p{at}", budget, 4 * (budget or 9) + at, right=at % 3 > 0 and budget != 2)
        for at in range(12)
        for budget in (2, 4, None)
    ]
    points = curves({name: {KEY: rows}, "b": {KEY: rows[:]}})
    page = str(section_of_page("thinking", Section("x", tuple(thinking_blocks(points)))))
    assert page.count("<circle") == 6 and "<img" not in page and "none is right" in page
    assert "Accuracy against thinking tokens, s" in page and "logarithmic" in page
    screen = io.StringIO()
    show_thinking(points, Console(width=200, file=screen))
    lines = screen.getvalue().splitlines()
    assert len(lines) == 7 and "tokens a right answer" in lines[0]


def test_a_rehearsal_leaves_budgets_out_since_its_answers_are_shorter_than_they():
    fields = config(budgets=[64, 512]).model_dump(mode="json")
    assert EvaluateConfig.model_validate_json(json.dumps(small(fields))).budgets == ()
