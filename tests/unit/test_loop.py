"""Loops: when a completion's end counts as one, and that every engine ends it at that token."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from factory.building.plan import make_plan
from factory.building.recipe import load_recipe
from factory.core.machine import Machine
from factory.core.records import Loop, Problem, SamplingConfig
from factory.grading import grade, grade_lenient
from factory.models.tiny import byte_tokenizer, save_tiny_model
from factory.sampling import Request, Sampler, open_sampler
from factory.sampling.loop import ends_in_loop
from factory.sampling.scripted import ScriptedSampler
from factory.stages.generate.config import GenerateConfig

RULE = Loop(times=3, shortest=2, longest=4)
SUM = Problem(id="a", prompt="1 + 1?", reference="2", kind="exact", source="sums")
SMOKE = Path(__file__).resolve().parents[2] / "recipes" / "smoke.yaml"


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("xababab", True),  # a piece of two, three times
        ("xababa", False),  # two and a half times
        ("abcabcabc", True),
        ("abcdabcdabcd", True),
        ("abcdeabcdeabcde", False),  # a piece of five is longer than `longest`
        ("aaaaaa", True),  # `aa` three times
        ("aaaaa", False),  # too short for three pieces of two
        ("abababx", False),  # the loop is over
        ("abcabcabd", False),
        ("", False),
    ],
)
def test_a_loop_is_one_piece_over_and_over_at_the_end(text: str, loops: bool) -> None:
    assert ends_in_loop([ord(c) for c in text], RULE) is loops


def test_the_rule_agrees_with_its_definition_on_every_short_text() -> None:
    def by_definition(ids: list[int]) -> bool:
        return any(
            ids[-length * RULE.times :] == ids[-length:] * RULE.times
            for length in range(RULE.shortest, RULE.longest + 1)
            if length * RULE.times <= len(ids)
        )

    texts = [[number >> bit & 1 for bit in range(12)] for number in range(2**12)]
    results = [ends_in_loop(text, RULE) for text in texts]
    assert results == [by_definition(text) for text in texts]
    assert 0 < sum(results) < len(texts)


def test_a_rule_that_cannot_be_meant_is_refused() -> None:
    with pytest.raises(ValidationError, match="shortest \\(9\\) is more than longest \\(4\\)"):
        Loop(shortest=9, longest=4)
    with pytest.raises(ValidationError):
        Loop(times=1)


def test_a_caught_completion_is_truncated_and_says_why() -> None:
    thinking = grade(SUM, "<think> 1 and 1 and 1 and", finish_reason="loop")
    assert (thinking.outcome, thinking.answer) == ("truncated", None)
    assert thinking.explanation == "repeated itself without end: unfinished thinking"
    answered = "<think> so </think> <answer> 2 </answer>\n\n\n\n"
    assert grade(SUM, answered, finish_reason="length").outcome == "correct"
    caught = grade(SUM, answered, finish_reason="loop")
    assert caught.outcome == "truncated"
    assert caught.explanation == "repeated itself without end: after the answer"
    assert grade_lenient(SUM, "and and and", finish_reason="loop").outcome == "truncated"


def test_without_the_setting_nothing_changes_in_fingerprints_or_files() -> None:
    assert "loop" not in SamplingConfig().model_dump_json()
    plain, given = (
        next(s for s in make_plan(load_recipe(SMOKE, overrides=more)) if s.name == "zero_traces")
        for more in ([], ["stages.zero_traces.sampling.loop={}"])
    )
    assert plain.fingerprint != given.fingerprint
    assert isinstance(given.config, GenerateConfig)
    assert given.config.sampling.loop == Loop()


def test_a_scripted_reply_is_cut_where_it_loops() -> None:
    sampler = ScriptedSampler(lambda request: "no: " + "ab" * 9, byte_tokenizer())
    request = Request((1,), 0)
    (caught,) = sampler.sample([request], SamplingConfig(max_new_tokens=99, loop=RULE))
    assert (caught.text, caught.finish_reason) == ("no: ababab", "loop")
    (free,) = sampler.sample([request], SamplingConfig(max_new_tokens=99))
    assert (free.text, free.finish_reason) == ("no: " + "ab" * 9, "stop")


def first_loop(ids: tuple[int, ...]) -> int:
    return next(n for n in range(1, len(ids)) if ends_in_loop(ids[:n], RULE))


def check_an_engine(sampler: Sampler) -> None:
    """Greedy texts of a random model soon go round in circles."""
    tokenizer = byte_tokenizer()
    texts = ("What is 2+2?", "Say it.", "Why?", "A longer question than the other three: why?")
    requests = [Request(tuple(tokenizer(text)["input_ids"]), 0) for text in texts]
    greedy = SamplingConfig(temperature=0.0, max_new_tokens=60)
    free = sampler.sample(requests, greedy)
    caught = sampler.sample(requests, greedy.model_copy(update={"loop": RULE}))
    looping = [i for i, single in enumerate(caught) if single.finish_reason == "loop"]
    assert looping
    for position in looping:
        end = first_loop(free[position].token_ids)
        assert caught[position].token_ids == free[position].token_ids[:end]
        assert len(caught[position].logprobs) == end
    for position in set(range(len(texts))) - set(looping):
        assert caught[position] == free[position]


def test_transformers_ends_a_loop_at_its_token(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", "llama", seed=3)
    machine = Machine(device="cpu", threads=1, engine="transformers")
    check_an_engine(open_sampler(folder, machine, max_length=256))


@pytest.mark.vllm
def test_vllm_ends_a_loop_at_its_token(tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    from factory.sampling.vllm import VllmSampler

    folder = save_tiny_model(tmp_path / "model", "llama", seed=3)
    # Fewer rows than requests: those that wait take the places of those that end.
    machine = Machine(
        device="cpu", threads=1, engine="vllm", engine_memory_gib=0.25, block=32, rows=2
    )
    sampler = open_sampler(folder, machine, max_length=256, training=True)  # with log-probs
    assert isinstance(sampler, VllmSampler)
    assert sampler._llm.llm_engine.vllm_config.scheduler_config.max_num_seqs == 2
    try:
        check_an_engine(sampler)
    finally:
        sampler.close()
