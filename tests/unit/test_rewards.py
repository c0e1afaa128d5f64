"""Reward components and the measures behind them."""

import pytest

from factory.core.records import Problem, Verdict
from factory.rewards import (
    GradedCompletion,
    RewardConfig,
    holds_code,
    redone_steps,
    reflective_words,
    repetition,
    rule_components,
    totals,
)
from factory.rewards.rules import overlong_penalty
from factory.text.chat import completion_text, parse

CORRECT = Verdict(outcome="correct", answer="7", explanation="")
WRONG = Verdict(outcome="wrong", answer="8", explanation="")


def components(verdict: Verdict, text: str, *, tokens: int = 10) -> dict[str, float]:
    problem = Problem(id="p", prompt="3 + 4", reference="7", kind="math", source="s")
    return rule_components(
        GradedCompletion.of(problem, verdict, parse(text), text, tokens=tokens, limit=100)
    )


NO_PENALTY = {"overlong": 0, "repetition": 0}


def test_a_correct_well_formed_response_earns_every_component():
    result = components(CORRECT, completion_text("three and four are seven", "7"))
    assert result == {"accuracy": 1, "format": 1, "language": 1, **NO_PENALTY}


def test_a_wrong_answer_in_form_earns_format_only():
    result = components(WRONG, completion_text("3 + 4", "8"))
    assert result == {"accuracy": 0, "format": 1, "language": 1, **NO_PENALTY}


def test_a_lenient_correct_verdict_earns_no_accuracy_without_the_form():
    result = components(CORRECT, "it is 7")
    assert result == {"accuracy": 0, "format": 0, "language": 0, **NO_PENALTY}


def test_single_tags_earn_nothing():
    for text in ("<think> a", "<answer> 7 </answer>", "<think> a </think> <answer> 7"):
        assert components(WRONG, text)["format"] == 0


def test_a_loop_is_penalised_by_its_share_of_repeated_fours():
    # "a b" ten times: 20 words, 17 four-grams, 2 different ones: 1 - 2/17
    text = "a b " * 10
    assert components(WRONG, text)["repetition"] == pytest.approx(-15 / 17)


@pytest.mark.parametrize(
    ("tokens", "penalty"),
    [(0, 0.0), (80, 0.0), (81, -0.05), (90, -0.5), (99, -0.95), (100, -1.0), (120, -1.0)],
)
def test_the_overlong_penalty_falls_over_the_last_fifth(tokens: int, penalty: float):
    assert overlong_penalty(tokens, 100) == pytest.approx(penalty)
    assert components(CORRECT, "x", tokens=tokens)["overlong"] == pytest.approx(penalty)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [2, 2, 2, 2, 2, 2]),
        ({"start_step": 3}, [0, 0, 2, 2, 2, 2]),
        ({"end_step": 2}, [2, 2, 0, 0, 0, 0]),
        ({"start_step": 2, "end_step": 3}, [0, 2, 2, 0, 0, 0]),
        # two rising steps: 2 * 1/3, 2 * 2/3, then whole
        ({"start_step": 2, "ramp_steps": 2}, [0, 2 / 3, 4 / 3, 2, 2, 2]),
    ],
)
def test_a_weight_counts_at_exactly_its_steps(settings: dict, expected: list[float]):
    reward = RewardConfig(name="accuracy", weight=2.0, **settings)
    assert [reward.weight_at(step) for step in range(1, 7)] == pytest.approx(expected)


def test_a_reward_that_ends_before_it_starts_is_refused():
    with pytest.raises(ValueError, match="end_step 2 is before start_step 3"):
        RewardConfig(name="format", start_step=3, end_step=2)


def test_the_total_is_the_weighted_sum():
    # 2 * 1 + 0.5 * 0 + 0.25 * 0.5 = 2.125
    results = {"accuracy": 1.0, "format": 0.0, "language": 0.5}
    weights = {"accuracy": 2.0, "format": 0.5, "language": 0.25}
    assert totals([results], weights) == [2.125]
    # What does not apply adds nothing, a weight of 0 counts as applied, and nothing at all is None.
    rows = [{"accuracy": 1.0}, {"format": -2.0, "other": 9.0}, {"other": 9.0}, {}]
    assert totals(rows, weights) == [2.0, -1.0, None, None]
    assert totals(rows, {"other": 0.0}) == [None, 0.0, 0.0, None]
    assert totals([results], {}) == [None]
    assert totals([], weights) == []


def test_totals_round_as_trl_does():
    """0.1 and 0.7 in float32 are 0.100000001 and 0.699999988: their sum is rounded once more."""
    (total,) = totals([{"language": 0.1, "format": 1.0}], {"language": 1.0, "format": 0.7})
    assert total == 0.800000011920929


def test_reflective_words_are_whole_words_in_any_case():
    counts = reflective_words("Wait, WAIT. Awaiting a check-up; checked. But butter")
    assert counts == {
        "wait": 2, "mistake": 0, "however": 0, "but": 1, "retry": 0, "error": 0, "verify": 0,
        "wrong": 0, "evaluate": 0, "check": 1,
    }  # fmt: skip


def test_repetition_is_the_share_of_repeated_word_groups():
    # "a b a b a b": pairs ab ba ab ba ab, 2 distinct of 5, so 1 - 2/5.
    assert repetition("a b a b a b", words=2) == pytest.approx(0.6)
    assert repetition("one two three four five") == 0.0
    assert repetition("too short") == 0.0
    # 400 words, 397 groups of four, 1 distinct.
    assert repetition("so " * 400) == pytest.approx(1 - 1 / 397)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("3 + 4 = 8. Wait, let me check: 3 + 4 = 7.", 1),
        ("So x = 2. Hold on, that's wrong. x = 3. Actually, 3 is too large; x = 1.", 2),
        ("5 * 5 = 25. There is a mistake. Let me recompute: 5 * 6 = 30.", 1),
        ("2 + 2 = 5. 等等 2 + 2 = 4。", 1),
        ("4 + 4 = 9 ; so 9 ; wait check 4 + 4 = 8 ; 等等 检查 四 加 四 等于 八 。", 2),
        ("First 3 + 4 = 7, then 7 * 2 = 14.", 0),
        ("3 + 4 = 7. Wait, wait, wait.", 0),
        ("The waiter checks 3 rights.", 0),
        ("", 0),
    ],
)
def test_a_step_is_done_again_where_figures_follow_a_doubt(text: str, count: int) -> None:
    assert redone_steps(text) == count


def test_a_program_is_told_from_talk_about_one() -> None:
    assert holds_code("Thus:\n```python\nprint(3)\n```")
    assert holds_code("from math import sqrt\nsqrt(2)")
    assert holds_code("def f(x):\n  return x")
    assert not holds_code("We define f and import nothing; the import of the result is clear.")
