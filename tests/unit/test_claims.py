"""Claims: measures by problem, intervals over problems and seeds, and what counts as shown."""

import numpy as np
import pytest
from pydantic import ValidationError

from factory.core.records import EvalSample, SamplingConfig, Trace, Verdict
from factory.evaluation.claim import Claim
from factory.evaluation.claims import crossed_difference, decide, measured

RIGHT = Verdict(outcome="correct", answer="1", explanation="")
WRONG = Verdict(outcome="wrong", answer="2", explanation="")


def sample(problem: str, completion: str, *, verdict: Verdict = RIGHT, mode: str = "sampled"):
    trace = Trace(
        problem_id=problem, sample=0, question="q", prompt="p", completion=completion,
        reasoning=None, answer=None, finish_reason="stop", completion_tokens=7, seed=0,
        sampling=SamplingConfig(), style="chat", model="", verdict=verdict,
    )  # fmt: skip
    return EvalSample(benchmark="b", mode=mode, trace=trace, lenient=WRONG)  # type: ignore[arg-type]


def claim(**changes) -> Claim:
    fields = {"text": "better", "of": ("a",), "against": ("b",), "benchmark": "world", **changes}
    return Claim.model_validate(fields)


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        ("accuracy", 0.5),
        ("solved", 1.0),  # one of two
        ("lenient", 0.0),
        ("format", 0.5),
        ("length", 7.0),
        ("reflection", 2.0),  # wait and check twice over two completions
        ("retries", 1.5),  # wait, wait and its word in the second script
        ("second_script", 0.25),  # 0 of 3 marked words, and 1 of 2
    ],
)
def test_a_measure_is_a_mean_over_the_samples_of_a_problem(measure, expected) -> None:
    samples = [
        sample("p", "<think> wait check wait </think> <answer> x </answer>"),
        sample("p", "check 等等", verdict=WRONG),
        sample("p", "greedy is left out", mode="greedy"),
    ]
    assert measured(samples, measure) == {"p": pytest.approx(expected)}


def test_mixing_is_the_share_of_thoughts_in_another_language_than_the_questions() -> None:
    def thought(problem: str, question: str, reasoning: str | None) -> EvalSample:
        single = sample(problem, "")
        message = single.trace.model_copy(update={"question": question, "reasoning": reasoning})
        return single.model_copy(update={"trace": message})

    english, german = "What is the sum of two and three?", "Was ist die Summe von zwei und drei?"
    result = measured(
        [
            thought("pure", english, "the sum of two and three is five"),
            # Four English words, and four Chinese signs, each a word.
            thought("mixed", english, "the sum is five \u4e94\u662f\u7b54\u6848"),
            thought("german", german, "die Summe von zwei und drei ist die Zahl"),
            thought("none", english, None),
            thought("untold", "2 + 3 = ?", "the sum is five"),
        ],
        "mixing",
    )
    assert result == {"pure": 0.0, "mixed": pytest.approx(0.5), "german": 0.0, "none": 0.0}


def test_a_completion_without_marked_words_has_no_share_of_a_script() -> None:
    assert measured([sample("p", "idk")], "second_script") == {}


def test_an_interval_worked_by_hand() -> None:
    # Two seeds, two problems: means over seeds 0.2 and 0.6, over problems 0.3 and 0.5, mean 0.4.
    values = np.array([[0.1, 0.5], [0.3, 0.7]])
    # s_p^2 / P = (0.08 + 1/4) / 1 / 2 = 0.165; s_s^2 / S = 0.02 / 2 = 0.01; sum 0.175
    # degrees = 0.030625 / (0.027225 + 0.0001) = 1.12, so t with 1: 12.7062 * sqrt(0.175) = 5.3154
    interval, p_value = crossed_difference(values, samples=4)
    assert interval.value == pytest.approx(0.4)
    assert interval.high - interval.value == pytest.approx(5.3154, rel=1e-4)
    assert interval.n == 2
    # t with 1 degree is Cauchy's: p = 1 - 2/pi atan(0.4 / sqrt(0.175))
    assert p_value == pytest.approx(0.51426, rel=1e-4)


def test_the_interval_covers_the_truth_over_seeds_and_problems() -> None:
    stream = np.random.default_rng(0)
    covered = 0
    for _ in range(600):
        problems, seeds = stream.normal(0, 0.3, 100), stream.normal(0, 0.05, (3, 1))
        noise = stream.normal(0, 0.2, (3, 100))
        interval, p_value = crossed_difference(problems + seeds + noise + 0.1, samples=8)
        covered += interval.low <= 0.1 <= interval.high
        holds = interval.low <= 0 <= interval.high
        assert holds == (p_value > 0.05) or abs(p_value - 0.05) < 0.002
    assert 0.93 <= covered / 600 <= 1.0


def test_one_seed_says_less_about_seeds_than_three_that_differ() -> None:
    single = np.linspace(0, 1, 50)[None]
    apart = np.concatenate([single - 0.3, single, single + 0.3])
    (narrow, _), (wide, _) = crossed_difference(single), crossed_difference(apart)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


@pytest.mark.parametrize(
    ("expect", "margin", "shift", "verdict"),
    [
        ("higher", 0.0, 0.3, "shown"),
        ("higher", 0.0, 0.0, "not shown"),
        ("higher", 0.0, -0.3, "contradicted"),
        ("lower", 0.0, -0.3, "shown"),
        ("lower", 0.0, 0.3, "contradicted"),
        ("not lower", 0.1, 0.0, "shown"),
        ("not lower", 0.1, -0.1, "not shown"),
        ("not lower", 0.1, -0.3, "contradicted"),
    ],
)
def test_what_counts_as_shown(expect, margin, shift, verdict) -> None:
    theirs = {f"p{i}": 0.4 + 0.1 * (i % 3) for i in range(60)}
    ours = {
        problem: value + shift + 0.02 * (i % 2) - 0.01
        for i, (problem, value) in enumerate(theirs.items())
    }
    finding = decide(claim(expect=expect, margin=margin), [(ours, theirs)], samples=8)
    assert finding.verdict == verdict
    assert finding.difference.value == pytest.approx(shift)
    assert finding.mean_against == pytest.approx(0.5)


def test_a_claim_may_be_about_some_of_the_problems() -> None:
    theirs = {"ops-1": 0.0, "ops-2": 0.2, "add-1": 0.9, "add-2": 0.9}
    ours = {problem: 1.0 for problem in theirs}
    finding = decide(claim(sources=("ops",)), [(ours, theirs)], samples=8)
    assert (finding.difference.n, finding.mean_against) == (2, pytest.approx(0.1))


def test_one_common_problem_gives_no_interval_and_so_no_finding() -> None:
    assert decide(claim(), [({"p": 1.0, "q": 1.0}, {"q": 0.0})], samples=1) is None
    assert decide(claim(), [({"p": 1.0, "q": 1.0}, {"p": 0.0, "q": 0.0})], samples=1) is not None


def test_groups_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValidationError, match="2 evaluations do not pair with 3"):
        claim(of=("a", "b", "c"), against=("d", "e"))
