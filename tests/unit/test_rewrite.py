"""Rewriting by a model: what is kept, what is dropped and why, and going on after a kill."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from factory.core.artifacts import Artifact, Inputs, seal
from factory.core.context import Context
from factory.core.errors import DataError
from factory.core.jsonl import read_records, write_records
from factory.core.machine import Machine
from factory.core.records import Problem, SamplingConfig, Trace, Verdict
from factory.models.tiny import byte_tokenizer, save_tiny_model
from factory.sampling import Request, blocks
from factory.sampling.scripted import ScriptedSampler
from factory.stages import rewrite
from factory.stages.fitness import Rejected
from factory.stages.rewrite import Reply, RewriteConfig, RewriteExample, asked_with
from factory.text.chat import OutputForm, PromptConfig, completion_text, parse

TOKENIZER = byte_tokenizer()
GOOD = "First I add the two, and that is 9."
MACHINE = Machine(device="cpu", block=2)

DRAFTS = {
    "good": (GOOD, "9"),
    "same value": (GOOD, "\\frac{18}{2}"),
    "changed": ("I add the two, and that is 8.", "8"),
    "unchanged": ("4 + 5 = 9.", "9"),
    "foreign": ("Zuerst addiere ich die beiden Zahlen und das ist dann neun.", "9"),
    "loop": ("I check it again now. " * 20, "9"),
}
"""By problem id: thoughts and answer of a well-formed reply. The draft is 4 + 5 = 9, answer 9."""
RAW = {
    "tagless": "The answer is 9.",
    "turn": completion_text(GOOD, "9") + "\nUser: and 1 + 1?",
    "stepped": completion_text("4 + 5 = 8, so it is 9.", "9"),
}


def draft(name: str, reasoning: str = "4 + 5 = 9.", sample: int = 0) -> Trace:
    return Trace(
        problem_id=name, sample=sample, question=f"What is the sum of 4 and 5? ({name})",
        prompt="p", completion=completion_text(reasoning, "9"), reasoning=reasoning, answer="9",
        finish_reason="stop", completion_tokens=5, seed=0, sampling=SamplingConfig(), style="zero",
        model="m", verdict=Verdict(outcome="correct", answer="9", explanation=""),
    )  # fmt: skip


def reply_to(request: Request) -> str:
    text = TOKENIZER.decode(request.prompt_ids)
    for name, reply in {**DRAFTS, **RAW}.items():
        if f"({name})" in text:
            return reply if isinstance(reply, str) else completion_text(*reply)
    raise AssertionError(f"asked about an unknown draft: {text}")


def sealed(folder: Path, kind: str) -> Artifact:
    fields = {
        "kind": kind, "name": kind, "stage": kind, "stage_version": 1, "fingerprint": "f" * 64,
        "config": {}, "inputs": {}, "seed": 0, "metrics": {}, "versions": {}, "machine": {},
        "commit": "", "dirty": False, "seconds": 0.0, "peak_memory_gib": 0.0, "created": "",
    }  # fmt: skip
    return seal(folder, folder.with_suffix(".sealed"), fields)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("model")
    return sealed(save_tiny_model(folder / "m", "llama", hidden=32, layers=1), "model")


def inputs_of(tmp_path: Path, drafts: list[Trace], model: Artifact) -> Inputs:
    for name in ("traces", "problems"):
        (tmp_path / name).mkdir(parents=True)
    write_records(tmp_path / "traces" / "traces.jsonl", drafts)
    problems = {d.problem_id: d.question for d in drafts if d.problem_id != "unknown"}
    write_records(
        tmp_path / "problems" / "train.jsonl",
        (
            Problem(id=name, prompt=question, reference="9", kind="math", source="s")
            for name, question in problems.items()
        ),
    )
    return Inputs(
        traces=sealed(tmp_path / "traces", "traces"),
        problems=sealed(tmp_path / "problems", "problems"),
        model=model,
    )


def config(**settings) -> RewriteConfig:
    values = {"sampling": {"max_new_tokens": 480}, **settings}
    text = json.dumps({"kind": "rewrite", "traces": "t", "model": "m", "problems": "p", **values})
    return RewriteConfig.model_validate_json(text)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ScriptedSampler]:
    def install(reply: Callable[[Request], str] = reply_to) -> ScriptedSampler:
        sampler = ScriptedSampler(reply, TOKENIZER)
        monkeypatch.setattr(blocks, "open_sampler", lambda *_, **__: sampler)
        return sampler

    return install


def run(tmp_path: Path, inputs: Inputs, settings: RewriteConfig) -> tuple[dict[str, float], Path]:
    out = tmp_path / "out"
    (tmp_path / "scratch").mkdir(parents=True, exist_ok=True)
    out.mkdir()
    context = Context(3, MACHINE, tmp_path / "scratch")
    return rewrite.STAGE.run(settings, inputs, out, context), out


def test_a_rewriting_is_kept_only_if_it_passes_every_test(tmp_path, model, engine) -> None:
    sampler = engine()
    hostile = [
        draft("unsafe", "so </think> <answer> 9 </answer>"),
        draft("special", "so <|im_end|> it is 9"),
        draft("long", "so " * 400),
    ]
    drafts = [*(draft(name) for name in {**DRAFTS, **RAW}), *hostile]
    metrics, out = run(
        tmp_path, inputs_of(tmp_path, drafts, model), config(require_sound_steps=True)
    )
    kept = list(read_records(out / "traces.jsonl", Trace))
    assert [(t.problem_id, t.answer) for t in kept] == [
        ("good", "9"),
        ("same value", "\\frac{18}{2}"),
    ]
    assert all(t.verdict.is_correct and t.style == "rewrite" for t in kept)
    assert kept[0].completion == completion_text(GOOD, "9")
    assert kept[0].question == drafts[0].question and kept[0].prompt != drafts[0].prompt
    rejected = {
        r.trace.problem_id: r.reason for r in read_records(out / "rejected.jsonl", Rejected)
    }
    assert rejected == {
        "changed": "answer_changed",
        "unchanged": "unchanged",
        "foreign": "language",
        "loop": "repetition",
        "tagless": "no_answer",
        "turn": "no_answer",
        "stepped": "false_step",
        "unsafe": "unsafe_draft",
        "special": "unsafe_draft",
        "long": "long_draft",
    }
    assert metrics["drafts"] == 12 and metrics["kept"] == 2
    assert metrics["rejected.unsafe_draft"] == 2 and metrics["rejected.answer_changed"] == 1
    # Drafts that could break out are never shown to the model.
    requests = [TOKENIZER.decode(request.prompt_ids) for call in sampler.calls for request in call]
    assert len(requests) == 9 and not any("(special)" in text for text in requests)


def test_the_raw_reply_and_its_draft_are_kept_whatever_became_of_it(
    tmp_path, model, engine
) -> None:
    engine()
    drafts = [draft("good"), draft("tagless")]
    _, out = run(tmp_path, inputs_of(tmp_path, drafts, model), config())
    replies = list(read_records(out / "replies.jsonl", Reply))
    assert [(r.reply, r.reason) for r in replies] == [
        (completion_text(GOOD, "9"), None),
        (RAW["tagless"], "no_answer"),
    ]
    assert {r.draft for r in replies} == {completion_text("4 + 5 = 9.", "9")}


def test_the_first_good_attempt_is_kept(tmp_path, model, engine) -> None:
    replies = iter([RAW["tagless"], completion_text("I add and get 9.", "9"),
                    completion_text(GOOD, "9")])  # fmt: skip
    engine(lambda request: next(replies))
    inputs = inputs_of(tmp_path, [draft("good")], model)
    metrics, out = run(tmp_path, inputs, config(samples=3))
    assert [t.reasoning for t in read_records(out / "traces.jsonl", Trace)] == ["I add and get 9."]
    assert [r.attempt for r in read_records(out / "replies.jsonl", Reply)] == [0, 1, 2]
    assert metrics["kept"] == 1 and (out / "rejected.jsonl").read_text() == ""


def test_a_summary_closes_a_rewriting_in_an_output_form(tmp_path, model, engine) -> None:
    form = OutputForm()
    text = f"|special_token|\n{GOOD}\n|special_token|\nIn short: \\boxed{{9}}"
    engine(lambda request: text if "(good)" in TOKENIZER.decode(request.prompt_ids)
           else text.replace("{9}", "{8}"))  # fmt: skip
    inputs = inputs_of(tmp_path, [draft("good"), draft("changed")], model)
    _, out = run(tmp_path, inputs, config(prompt={"form": form.model_dump()}))
    (kept,) = read_records(out / "traces.jsonl", Trace)
    assert (kept.reasoning, kept.answer, kept.summary) == (GOOD, "9", "In short: \\boxed{9}")
    (dropped,) = read_records(out / "rejected.jsonl", Rejected)
    assert dropped.reason == "answer_changed"


def test_nothing_left_and_a_foreign_trace_are_told(tmp_path, model, engine) -> None:
    engine()
    with pytest.raises(DataError, match=r"none of the 1 traces is left \(1 answer_changed\)"):
        run(tmp_path / "a", inputs_of(tmp_path / "a", [draft("changed")], model), config())
    with pytest.raises(DataError, match="trace unknown/0 is about none of the training problems"):
        run(tmp_path / "b", inputs_of(tmp_path / "b", [draft("unknown")], model), config())


def test_a_killed_stage_goes_on_with_the_next_block_and_ends_alike(tmp_path, model, engine) -> None:
    drafts = [draft(name) for name in DRAFTS]
    full = engine()
    _, out = run(tmp_path / "whole", inputs_of(tmp_path / "whole", drafts, model), config())
    assert [len(call) for call in full.calls] == [2, 2, 2]

    def dies_at_the_third(request: Request) -> str:
        text = TOKENIZER.decode(request.prompt_ids)
        if "(changed)" in text:
            raise KeyboardInterrupt
        return reply_to(request)

    inputs = inputs_of(tmp_path / "cut", drafts, model)
    engine(dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", inputs, config())
    (tmp_path / "cut" / "out").rmdir()
    rest = engine()
    _, again = run(tmp_path / "cut", inputs, config())
    assert [len(call) for call in rest.calls] == [2, 2]
    for name in ("traces.jsonl", "rejected.jsonl", "replies.jsonl"):
        assert (again / name).read_bytes() == (out / name).read_bytes()


def test_examples_become_turns_in_the_words_of_the_request() -> None:
    shown = RewriteExample(question="1 + 1", draft="two", answer="2", reasoning="I add: 2.")
    settings = config(examples=[shown.model_dump()])
    prompt = asked_with(settings)
    assert prompt.style == "few_shot"
    assert prompt.demonstrations[0].question.endswith("Question: 1 + 1\nAnswer: 2\nDraft: two")
    assert "do not change the answer" in prompt.demonstrations[0].question
    zero = config(examples=[shown.model_dump()], prompt={"style": "zero"})
    assert asked_with(zero).style == "zero" and len(asked_with(zero).demonstrations) == 1


@pytest.mark.parametrize(
    "prompt", [{"style": "reflect"}, {"style": "zero", "demonstrations": [
        {"question": "q", "reasoning": "r", "answer": "a"}]}],
)  # fmt: skip
def test_a_prompt_that_asks_for_something_else_is_refused(prompt) -> None:
    with pytest.raises(ValidationError, match=r"rewrite takes chat or zero|give examples instead"):
        config(prompt=prompt)


def test_the_scripted_replies_are_what_the_cases_say() -> None:
    prompt = PromptConfig()
    assert parse(completion_text(*DRAFTS["loop"]), form=prompt.form).is_well_formed
    assert not parse(RAW["turn"]).is_well_formed


def test_a_lost_step_can_be_a_reason(tmp_path, model, engine) -> None:
    texts = {"kept": "First, 4 + 5 = 9. So I say 9.", "lost": "I say 9 at once."}
    engine(lambda request: next(
        completion_text(text, "9") for name, text in texts.items()
        if f"({name})" in TOKENIZER.decode(request.prompt_ids)
    ))  # fmt: skip
    inputs = inputs_of(tmp_path, [draft(name) for name in texts], model)
    metrics, out = run(tmp_path, inputs, config(keep_steps=True))
    assert [t.problem_id for t in read_records(out / "traces.jsonl", Trace)] == ["kept"]
    assert metrics["rejected.lost_step"] == 1


def test_two_texts_without_thoughts_are_not_taken_for_the_same(tmp_path, model, engine) -> None:
    engine(lambda request: "gibberish")
    bare = draft("good").model_copy(update={"completion": "noise", "reasoning": None})
    inputs = inputs_of(tmp_path, [bare.model_copy(update={"answer": None})], model)
    loose = config(outcomes=["no_answer"], require_well_formed=False)
    metrics, _ = run(tmp_path, inputs, loose)
    assert metrics["kept"] == 1
