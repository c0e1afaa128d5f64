"""IFEval's instructions: what follows them, strictly and loosely, and as lm-eval's task has it."""

import random
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
from ifeval_gold import CONTRADICTORY, following

from factory.core.records import EvalSample, FinishReason, Problem, SamplingConfig, Trace, Verdict
from factory.evaluation.scores import both_readings, own_scores
from factory.grading import GradeItem, GradingPool, grade, grade_item, grade_lenient
from factory.grading.instructions import _checkers
from factory.problems.bundled import BundledSource, supply
from factory.text.chat import OutputForm, PromptConfig, completion_text, form_text

ENGLISH = "this is a plain english sentence about the weather in the north of the country."
EXAMPLES: list[tuple[str, dict[str, object], str, str]] = [
    ("keywords:existence", {"keywords": ["oak"]}, "An oak.", "An elm."),
    ("keywords:frequency", {"keyword": "oak", "frequency": 2, "relation": "at least"},
     "oak, oak", "oak"),
    ("keywords:forbidden_words", {"forbidden_words": ["oak"]}, "An elm.", "An oak."),
    ("keywords:letter_frequency", {"letter": "z", "let_frequency": 3, "let_relation": "at least"},
     "zzz", "zz"),
    ("language:response_language", {"language": "de"},
     "Das ist ein ganz gewöhnlicher deutscher Satz über das Wetter.", ENGLISH),
    ("length_constraints:number_sentences", {"num_sentences": 3, "relation": "less than"},
     "Ask Dr. Lee. He knows.", "One. Two. Three."),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "One.\n***\nTwo.", "One."),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"},
     "one two three", "one two"),
    ("length_constraints:nth_paragraph_first_word",
     {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"}, "A.\n\nThen B.", "A.\n\nB."),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] [town]", "[name]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\nP.S. Write.", "Bye."),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n* b", "* a"),
    ("detectable_format:constrained_response", {}, "My answer is yes.", "Perhaps."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 1}, "*so*", "so"),
    ("detectable_format:multiple_sections", {"section_spliter": "PART", "num_sections": 2},
     "PART 1\na\nPART 2\nb", "PART 1\na"),
    ("detectable_format:json_format", {}, '{"a": 1}', "a: 1"),
    ("detectable_format:title", {}, "<<Title>>\ntext", "Title\ntext"),
    ("combination:two_responses", {}, "one\n******\ntwo", "one"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it."}, "Say it. It.", "It."),
    ("startend:end_checker", {"end_phrase": "The end."}, "So. The end.", "The end. So."),
    ("startend:quotation", {}, '"all of it"', 'some "of it"'),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"},
     "VERY GOOD indeed", "VERY good"),
    ("change_case:english_capital", {}, ENGLISH.upper(), ENGLISH),
    ("change_case:english_lowercase", {}, ENGLISH, ENGLISH.upper()),
    ("punctuation:no_comma", {}, "One and two", "One, two"),
]  # fmt: skip


def problem(*instructions: tuple[str, dict[str, object]]) -> Problem:
    data = {
        "instructions": [name for name, _ in instructions],
        "arguments": [arguments for _, arguments in instructions],
    }
    return Problem(
        id="p", prompt="Say it.", reference="-", kind="instructions", source="test", data=data
    )


def ifeval() -> list[Problem]:
    return list(supply(BundledSource(type="bundled", name="ifeval_541"), 0).problems)


NO_COMMA = problem(("punctuation:no_comma", {}))


@pytest.mark.parametrize(
    ("name", "arguments", "follows", "breaks"), EXAMPLES, ids=[name for name, *_ in EXAMPLES]
)
def test_an_instruction_tells_apart_what_follows_it(
    name: str, arguments: dict[str, object], follows: str, breaks: str
) -> None:
    requested = problem((name, arguments))
    assert (
        grade(requested, completion_text("hm", follows)).explanation
        == "follows 1 of 1 instructions"
    )
    assert grade_lenient(requested, follows).is_correct
    for verdict in (
        grade(requested, completion_text("hm", breaks)),
        grade_lenient(requested, breaks),
    ):
        assert verdict.outcome == "wrong"
        assert verdict.explanation == f"follows 0 of 1 instructions; not {name}"


def test_the_examples_are_of_all_instructions_of_the_benchmark() -> None:
    requests = {name for item in ifeval() for name in item.data["instructions"]}
    assert requests == {name for name, *_ in EXAMPLES}


def test_all_instructions_of_a_prompt_must_be_followed() -> None:
    two = problem(("punctuation:no_comma", {}), ("startend:quotation", {}))
    assert grade(two, '"one and two"').is_correct
    verdict = grade(two, '"one, two"')
    assert verdict.outcome == "wrong"
    assert verdict.explanation == "follows 1 of 2 instructions; not punctuation:no_comma"


def test_loose_reading_leaves_out_a_first_or_last_line_and_asterisks() -> None:
    title = problem(("startend:quotation", {}))
    for text in ('Sure, here:\n"so"', '"so"\nAnything else?', 'Sure:\n"so"\nMore?', '*"so"*'):
        assert (grade(title, text).is_correct, grade_lenient(title, text).is_correct) == (
            False, True,
        )  # fmt: skip


FORM = OutputForm(opening="<think>", closing="</think>")
TAGS, OPENED, R1 = (
    PromptConfig(style="reflect"),
    PromptConfig(style="chat", prefill="<think>\n"),
    PromptConfig(style="chat", prefill="<think>\n", form=FORM),
)


def readings(
    text: str, prompt: PromptConfig, reason: FinishReason = "stop"
) -> tuple[Verdict, Verdict]:
    strict, lenient = both_readings(NO_COMMA, text, reason, prompt)
    return grade_item(strict), grade_item(lenient)


@pytest.mark.parametrize(
    ("text", "prompt", "outcomes"),
    [
        # Thoughts may hold commas; the response may not.
        (completion_text("a, b", "so"), TAGS, ("correct", "correct")),
        (completion_text("a", "b, c"), TAGS, ("wrong", "wrong")),
        ("a, b\n</think> <answer> so </answer>", OPENED, ("correct", "correct")),
        (form_text("a, b", "so \\boxed{1}", FORM).removeprefix("<think>"), R1, ("correct",) * 2),
        # The whole summary is the response, not only what it boxes.
        (form_text("a", "so, \\boxed{1}", FORM).removeprefix("<think>"), R1, ("wrong", "wrong")),
        # A text without tags is all response; its loose reading too.
        ("so", TAGS, ("correct", "correct")),
        ("so, so", TAGS, ("wrong", "wrong")),
        # Answered outside of the tags: wrong form, and followed.
        ("<think> a, b </think> so", TAGS, ("no_answer", "correct")),
        # Thoughts that never end are no response.
        ("<think> so and so", TAGS, ("no_answer", "no_answer")),
        ("so and so", R1, ("no_answer", "no_answer")),
        ("", TAGS, ("wrong", "wrong")),
    ],
)
def test_the_response_is_what_stands_after_the_thoughts(
    text: str, prompt: PromptConfig, outcomes: tuple[str, str]
) -> None:
    assert tuple(verdict.outcome for verdict in readings(text, prompt)) == outcomes


def test_unfinished_thoughts_at_the_length_limit_are_truncated() -> None:
    strict, lenient = readings("so and so", R1, "length")
    assert (strict.outcome, lenient.outcome) == ("truncated", "truncated")
    # Without thoughts what was written counts, as in lm-eval.
    assert readings("so", TAGS, "length")[0].is_correct


def test_broken_instructions_are_the_problems_fault() -> None:
    broken = [
        problem(("no:such", {})),
        problem(("keywords:existence", {"no_such": 1})),
        NO_COMMA.model_copy(update={"data": {}}),
    ]
    for requested in broken:
        verdict = grade(requested, "text")
        assert verdict.outcome == "ungradable"
        assert verdict.explanation.startswith("problem p: its instructions cannot be checked")


def test_a_text_that_breaks_a_checker_is_wrong() -> None:
    requested = problem(("detectable_format:json_format", {}))
    verdict = grade(requested, "[" * 20_000 + "]" * 20_000)
    assert verdict.outcome == "wrong"


def test_the_language_is_guessed_alike_every_time() -> None:
    requested = problem(("language:response_language", {"language": "de"}))
    # langdetect draws at random: unseeded, its guess of so short a text changes.
    assert len({grade(requested, "Hotel Bar Taxi Radio").outcome for _ in range(20)}) == 1


def test_what_the_checkers_draw_at_random_is_the_same_every_time() -> None:
    """Two of 541 prompts count a sign that is no letter; lm-eval then counts a random letter."""
    registry = _checkers().instructions_registry.INSTRUCTION_DICT

    def settings(seed: int) -> list[object]:
        random.seed(seed)
        results = []
        for item in ifeval():
            for name, arguments in zip(
                item.data["instructions"], item.data["arguments"], strict=True
            ):
                checker = registry[name](name)
                checker.build_description(**arguments)
                results.append((item.id, name, checker.get_instruction_args()))
        return results

    state = random.getstate()
    try:
        samples = {a[0] for a, b in zip(settings(1), settings(2), strict=True) if a != b}
        assert samples == {"ifeval_541-1122", "ifeval_541-1129"}
        for item in ifeval():
            if item.id in samples:
                outcomes = set()
                for seed in range(10):
                    random.seed(seed)
                    outcomes.add(grade(item, "a tweet with abc # ! and more").explanation)
                assert len(outcomes) == 1
    finally:
        random.setstate(state)


def test_a_constant_answer_follows_what_it_follows_by_chance() -> None:
    texts = {"": 0, "Yes.": 61}
    for text, followed in texts.items():
        assert sum(grade(item, text).is_correct for item in ifeval()) == followed


RESPONSES = [
    ENGLISH, ENGLISH.upper(), '"One and two."\n\nP.S. three', "* one\n* two\n* three", '{"a": 1}',
    "<<Title>>\n\n*one* *two* *three*\n***\n[name] [town]\n******\nMy answer is yes.", "",
]  # fmt: skip


def test_the_same_texts_score_as_in_lm_evals_own_task() -> None:
    checkers = _checkers()
    counts = {True: 0, False: 0}
    for item in islice(ifeval(), 0, 541, 12):
        document = {
            "key": 0, "prompt": item.prompt,
            "instruction_id_list": item.data["instructions"], "kwargs": item.data["arguments"],
        }  # fmt: skip
        for text in [*RESPONSES, f"Sure:\n{item.prompt}\nmore"]:
            theirs = checkers.process_results(document, [text])
            ours = grade(item, text).is_correct, grade_lenient(item, text).is_correct
            assert ours == (theirs["prompt_level_strict_acc"], theirs["prompt_level_loose_acc"])
            counts[ours[0]] += 1
    assert min(counts.values()) > 20


def test_all_four_scores_are_those_of_lm_evals_own_task() -> None:
    checkers = _checkers()
    requested = ifeval()[::5]
    texts = [[*RESPONSES, following(item)][position % 8] for position, item in enumerate(requested)]
    theirs = [
        checkers.process_results(
            {"key": 0, "prompt": item.prompt,
             "instruction_id_list": item.data["instructions"],
             "kwargs": item.data["arguments"]}, [text],
        )
        for item, text in zip(requested, texts, strict=True)
    ]  # fmt: skip
    samples = [
        answered(item, grade(item, text), grade_lenient(item, text))
        for item, text in zip(requested, texts, strict=True)
    ]
    run: Any = SimpleNamespace(
        benchmark="b", version="1", mode="greedy", samples=1, problems=requested, stop_at=None
    )
    ours = {row.metric: row for row in own_scores(run, samples, prompt_style="chat")}
    names = {"greedy": "strict", "greedy_lenient": "loose"}
    for metric, reading in names.items():
        level = [item[f"prompt_level_{reading}_acc"] for item in theirs]
        assert ours[metric].value == pytest.approx(sum(level) / len(level), abs=1e-12)
        single = checkers.agg_inst_level_acc([item[f"inst_level_{reading}_acc"] for item in theirs])
        result = ours[metric.replace("greedy", "greedy_instructions")]
        assert result.value == pytest.approx(single, abs=1e-12)
        assert result.low < single < result.high and result.n == len(requested)
        # A prompt counts as often as it has instructions: not the mean over prompts.
        even = [sum(o := item[f"inst_level_{reading}_acc"]) / len(o) for item in theirs]
        assert abs(result.value - sum(even) / len(even)) > 1e-3
    assert len({row.value for row in ours.values()}) == 4
    # A text without a response follows none of its two instructions.
    two = problem(("punctuation:no_comma", {}), ("startend:quotation", {}))
    silent = Verdict(outcome="no_answer", answer=None, explanation="")
    run.problems = (two, NO_COMMA.model_copy(update={"id": "q"}))
    samples = [
        answered(two, silent, silent),
        answered(run.problems[1], *(grade(NO_COMMA, "a"),) * 2),
    ]
    rows = {row.metric: row.value for row in own_scores(run, samples, prompt_style="chat")}
    assert rows["greedy"] == 1 / 2 and rows["greedy_instructions"] == pytest.approx(1 / 3)


def answered(problem: Problem, strict: Verdict, lenient: Verdict) -> EvalSample:
    trace = Trace(
        problem_id=problem.id, sample=0, question="q", prompt="q", completion="c", reasoning=None,
        answer=None, finish_reason="stop", completion_tokens=1, seed=0, sampling=SamplingConfig(),
        style="chat", model="m", verdict=strict,
    )  # fmt: skip
    return EvalSample(benchmark="b", mode="greedy", trace=trace, lenient=lenient)


def test_what_is_built_to_follow_all_instructions_does_but_where_a_prompt_contradicts_itself() -> (
    None
):
    requested = ifeval()
    texts = [following(item) for item in requested]
    strict = [
        grade(item, completion_text("a, B", text))
        for item, text in zip(requested, texts, strict=True)
    ]
    broken = {
        item.id: verdict
        for item, verdict in zip(requested, strict, strict=True)
        if not verdict.is_correct
    }
    assert set(broken) == {f"ifeval_541-{number}" for number in CONTRADICTORY}
    assert all(
        grade_lenient(item, text).is_correct for item, text in zip(requested, texts, strict=True)
    )
    # What they must begin with holds what they must not: nothing that follows it helps.
    monotone = {"punctuation:no_comma", "keywords:forbidden_words", "keywords:frequency"}
    for item in requested:
        if item.id in broken:
            names, arguments = item.data["instructions"], item.data["arguments"]
            (repeated,) = (a["prompt_to_repeat"] for a in arguments if a.get("prompt_to_repeat"))
            for verdict in (broken[item.id], grade(item, completion_text("a", repeated))):
                assert verdict.followed is not None
                pairs = zip(names, verdict.followed, strict=True)
                assert monotone & {name for name, is_followed in pairs if not is_followed}


def test_what_follows_another_prompt_follows_a_seventh_by_chance() -> None:
    """Most are single bans (no comma, no such word), which nearly any text keeps."""
    requested = ifeval()
    texts = [following(item) for item in requested]
    counts = [0, 0]
    for position, item in enumerate(requested):
        other = next(
            texts[n % len(requested)]
            for n in range(position + 1, position + len(requested))
            if requested[n % len(requested)].data != item.data
        )
        counts[0] += grade(item, completion_text("a", other)).is_correct
        counts[1] += grade_lenient(item, other).is_correct
    assert counts == [73, 81]


def test_the_pool_grades_instructions_in_a_process_that_can_be_killed() -> None:
    items = [GradeItem(NO_COMMA, text, lenient=loose) for text in ("a", "a, b") for loose in (0, 1)]  # type: ignore[arg-type]
    with GradingPool(1) as pool:
        assert [v.outcome for v in pool.grade(items)] == ["correct"] * 2 + ["wrong"] * 2
