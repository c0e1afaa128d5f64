"""R1's cold-start form: its parser, its linter, and tokens that train as they serve."""

import time
from pathlib import Path

import pytest
import torch
from doubles import CLOSE
from pydantic import ValidationError
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from factory.core.errors import DataError, RecipeError
from factory.core.records import Problem, SamplingConfig, Trace, Verdict
from factory.grading import GradeItem, GradingPool, grade
from factory.grading.grade import grade_item
from factory.models.tiny import CHAT_TEMPLATE, byte_tokenizer, tiny_model
from factory.stages.turns import LLAMA3_TEMPLATE
from factory.text.chat import (
    Demonstration,
    OutputForm,
    PromptConfig,
    Style,
    canonical_text,
    form_text,
    parse,
    render,
    stop_texts,
)
from factory.text.lint import lint
from factory.trainers.rows import tokenise
from factory.trainers.tokens import add_tokens, grow_embeddings, write_tokens

FORM = OutputForm()
RELEASED = OutputForm(opening="<think>", closing="</think>")
MARK = "|special_token|"
GOOD = f"{MARK} 3 + 4 = 7. {MARK} It makes \\boxed{{7}}."
PROBLEM = Problem(id="p", prompt="3 + 4", reference="7", kind="math", source="s")


def test_a_form_text_is_split_into_thoughts_summary_and_the_boxed_answer() -> None:
    response = parse(GOOD, form=FORM)
    assert response.is_well_formed and response.problem == ""
    assert response.reasoning == "3 + 4 = 7."
    assert (response.summary, response.answer) == ("It makes \\boxed{7}.", "7")


def test_without_a_box_the_whole_summary_is_the_answer() -> None:
    response = parse("<think> hm </think> Paris is its capital.", form=RELEASED)
    assert response.answer == response.summary == "Paris is its capital."


MALFORMED = [
    ("7", "no marks"),
    (f"{MARK} so far", "unfinished thinking"),
    (f"Sure. {GOOD}", "text before"),
    (f"{GOOD} {MARK}", "more than two marks"),
    (f"{MARK} a {MARK} ", "the answer is empty"),
    (f"{MARK} a {MARK} \\boxed{{ }}", "the answer is empty"),
    (f"{MARK} a {MARK} \\boxed{{7", "a box that is never closed"),
    (f"{MARK} a {MARK} \\boxed{{7}} or \\boxed{{8}}", "more than one boxed answer"),
    (f"{MARK} a {MARK} \\boxed{{7}}\nUser: and now?", "a made-up turn: user:"),
    (f"{MARK} a {MARK} \\boxed{{7}} <|im_end|> So.", "a made-up turn: <|im_end|>"),
    (f"{MARK} a {MARK} Paris.\nHuman: and now?", "a made-up turn: human:"),
    (f"{MARK} a\nUser: b\nAssistant: c {MARK} 7", "a made-up turn: user:"),
    (f"{MARK} <answer> 8 </answer> {MARK} \\boxed{{7}}", "a look-alike tag"),
    (f"{MARK} |Special_Token| 8 {MARK} \\boxed{{7}}", "a look-alike mark"),
    (f"{MARK} | special _ token | 8 {MARK} \\boxed{{7}}", "a look-alike mark"),
    (f"{MARK} \uff5cspecial_token\uff5c {MARK} \\boxed{{7}}", "a look-alike mark"),
]


@pytest.mark.parametrize(("text", "problem"), MALFORMED)
def test_whatever_is_not_the_form_names_its_problem_and_has_no_answer(text, problem) -> None:
    response = parse(text, form=FORM)
    assert not response.is_well_formed and response.answer is None and response.summary is None
    assert response.problem.startswith(problem)


@pytest.mark.parametrize(
    ("thoughts", "summary"),
    [
        ("System:\nx + y = 10", "It makes 7."),
        ("<|im_end|> ends a turn, [INST] opens one", "It makes 7."),
        ("a", "User: the person who asks."),
        ("a", "```\nuser: ann\nassistant: bob\n```"),
        ("a", "System: two equations.\nSo \\boxed{7}.\nSystem: solved."),
    ],
)
def test_text_that_speaks_of_turns_is_well_formed(thoughts: str, summary: str) -> None:
    for form in (FORM, RELEASED):
        response = parse(form_text(thoughts, summary, form), form=form)
        assert (response.reasoning, response.summary) == (thoughts, summary)


def test_different_marks_must_come_in_their_order() -> None:
    assert parse("</think> a <think> b", form=RELEASED).problem == "marks out of order"
    assert parse("<think> a <think> b", form=RELEASED).problem == "marks out of order"


def test_two_equal_boxes_are_one_answer() -> None:
    assert parse(f"{MARK} a {MARK} \\boxed{{7}}, so \\boxed{{ 7 }}", form=FORM).answer == "7"


def test_a_summary_cut_by_the_length_limit_is_unfinished_and_graded_as_truncated() -> None:
    cut = f"{MARK} a {MARK} It makes 7"
    assert parse(cut, form=FORM).is_well_formed
    assert parse(cut, form=FORM, is_cut=True).problem == "unfinished summary"
    verdict = grade_item(GradeItem(PROBLEM, cut, finish_reason="length", form=FORM))
    assert verdict.outcome == "truncated"


def test_graders_see_the_boxed_answer_of_the_form_and_nothing_of_the_other_form() -> None:
    items = [
        GradeItem(PROBLEM, GOOD, form=FORM),
        GradeItem(PROBLEM, GOOD.replace("{7}", "{8}"), form=FORM),
        GradeItem(PROBLEM, GOOD),
        GradeItem(PROBLEM, "<think> a </think> <answer> 7 </answer>", form=FORM),
        # sympy has to look at this one: it goes to a process and back.
        GradeItem(PROBLEM, GOOD.replace("{7}", "{\\sqrt{49}}"), form=FORM),
    ]
    with GradingPool(1) as pool:
        outcomes = [verdict.outcome for verdict in pool.grade(items)]
    assert outcomes == ["correct", "wrong", "no_answer", "no_answer", "correct"]
    assert grade(PROBLEM, "<think> a </think> <answer> 7 </answer>").is_correct


@pytest.mark.parametrize("piece", ["|", MARK[:-1], MARK, "\\boxed{", "<think", "\u0316\u0301"])
def test_hostile_text_is_parsed_in_linear_time(piece: str) -> None:
    text = f"{MARK} a {MARK}" + piece * (500_000 // len(piece))
    began = time.process_time()
    parse(text, form=FORM)
    assert time.process_time() - began < 3.0


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("no form at all", "no marks"),
        (form_text("", "\\boxed{7}", FORM), "the thoughts are empty"),
        (form_text("It is 7.", "It is  7.", FORM), "the summary repeats the thoughts"),
        (form_text("a \u200b b", "\\boxed{7}", FORM), "invisible characters: U+200B"),
        (GOOD, "white space differs from the canonical text"),
    ],
)
def test_the_linter_names_what_a_parser_lets_pass(text: str, fault: str) -> None:
    assert fault in lint(text, form=FORM)


def test_the_linter_is_silent_about_good_text_in_both_forms() -> None:
    assert lint(form_text("3 + 4 = 7.", "It makes \\boxed{7}.", FORM), form=FORM) == []
    assert lint("<think> a </think> <answer> 7 </answer>") == []
    assert lint("<think> </think>") == ["no answer after the thinking"]


def test_a_trace_in_tags_is_written_in_the_form_with_its_answer_boxed() -> None:
    assert canonical_text("a", "7", None, FORM) == f"{MARK}\na\n{MARK}\n\\boxed{{7}}"
    assert canonical_text("a", "7", "So \\boxed{7}", FORM) == f"{MARK}\na\n{MARK}\nSo \\boxed{{7}}"
    assert canonical_text("a", "7", None, None) == "<think> a </think> <answer> 7 </answer>"


@pytest.mark.parametrize("mark", ["a b", "ab", " |x|", "x" * 65])
def test_a_mark_is_one_run_of_visible_characters(mark: str) -> None:
    with pytest.raises(ValidationError):
        OutputForm(opening=mark)


def test_a_mark_inside_the_other_and_a_form_for_the_zero_style_are_refused() -> None:
    with pytest.raises(ValidationError, match="holds the other"):
        OutputForm(opening="<think>", closing="<think>>")
    with pytest.raises(ValidationError, match="style zero names the tags"):
        PromptConfig(style="zero", form=FORM)


def test_requests_and_demonstrations_are_written_in_the_form() -> None:
    tokenizer = byte_tokenizer()
    text = render("q", PromptConfig(style="reflect", form=FORM), tokenizer)
    assert f"between {MARK} and {MARK}" in text and "<think>" not in text
    shown = Demonstration(question="1 + 1", reasoning="a", answer="2", summary="So \\boxed{2}.")
    few = PromptConfig(style="few_shot", demonstrations=(shown,), form=FORM)
    assert f"{MARK}\na\n{MARK}\nSo \\boxed{{2}}.<|im_end|>" in render("q", few, tokenizer)
    assert stop_texts(few) == ()


def test_a_special_token_as_mark_is_refused() -> None:
    form = OutputForm(opening="<|im_start|>", closing="|end|")
    with pytest.raises(RecipeError, match="is a special token"):
        render("q", PromptConfig(form=form), byte_tokenizer())


CORPUS = ["The answer is special token think 3 + 4 = 7 so the sum is seven |||", "assistant user"]
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
KINDS = ("qwen2", "llama3", "smollm2")


def tokenizer_like(kind: str) -> PreTrainedTokenizerFast:
    """A small trained byte-level BPE, split, begun and templated as this family's is."""
    qwen = kind == "qwen2"
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    if kind == "llama3":
        specials = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    inner = Tokenizer(models.BPE())
    if qwen:
        inner.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated")
    first = pre_tokenizers.Digits(individual_digits=True) if kind == "smollm2" else split
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind == "smollm2")
    inner.pre_tokenizer = pre_tokenizers.Sequence([first, level])
    inner.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = BpeTrainer(
        vocab_size=320, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(CORPUS * 20, trainer)
    inner.add_special_tokens([AddedToken(text, special=True) for text in specials])
    begin = specials[0] if kind == "llama3" else None
    if begin:
        inner.post_processor = TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token=begin,
        eos_token=specials[-1],
        pad_token=specials[-1],
        chat_template=LLAMA3_TEMPLATE if begin else CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def form_trace(summary: str | None = "The sum is \\boxed{7}.") -> Trace:
    return Trace(
        problem_id="p", sample=0, question="What is 3 + 4?", prompt="", completion="",
        reasoning="3 + 4 = 7, so the sum is seven.", answer="7", summary=summary,
        finish_reason="stop", completion_tokens=0, seed=0, sampling=SamplingConfig(), style="chat",
        model="", verdict=Verdict(outcome="correct", answer="7", explanation=""),
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", [FORM, RELEASED], ids=["paper", "released"])
@pytest.mark.parametrize("new", [True, False], ids=["new tokens", "old tokens"])
def test_what_is_trained_is_what_is_served(kind: str, form: OutputForm, new: bool) -> None:
    tokenizer = tokenizer_like(kind)
    if new:
        assert set(add_tokens(tokenizer, form.marks)) == set(form.marks)
    prompt = PromptConfig(form=form)
    trace = form_trace()
    (row,) = tokenise([trace], prompt, tokenizer)
    # Served: the prompt as generate asks it, then the ids that the model writes.
    requested = tokenizer(render(trace.question, prompt, tokenizer), add_special_tokens=False)
    assert list(row.prompt_ids) == requested["input_ids"]
    written = tokenizer.decode(row.completion_ids, skip_special_tokens=True)
    response = parse(written, form=form)
    assert (response.reasoning, response.summary) == (trace.reasoning, trace.summary)
    # And as an earlier turn of a conversation, through the chat template as a whole.
    turns = [
        {"role": "user", "content": trace.question},
        {"role": "assistant", "content": written},
    ]
    full = tokenizer.apply_chat_template(turns, tokenize=False)
    ids = tokenizer(full, add_special_tokens=False)["input_ids"]
    trained = [*row.prompt_ids, *row.completion_ids]
    assert ids[: len(trained)] == trained
    if new:
        mark_ids = tokenizer.convert_tokens_to_ids(list(form.marks))
        assert [i for i in row.completion_ids if i in mark_ids] == [mark_ids[0], mark_ids[-1]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_written_tokenizer_has_the_same_new_tokens(kind: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = tokenizer_like(kind)
    tokenizer.save_pretrained(tmp_path)
    pieces = add_tokens(tokenizer, RELEASED.marks)
    write_tokens(tmp_path, tuple(pieces))
    text = form_text("3 + 4", "\\boxed{7}", RELEASED)
    reopened = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert reopened(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert reopened.decode(reopened(text, add_special_tokens=False)["input_ids"]) == text
    assert add_tokens(reopened, RELEASED.marks) == {}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("style", ["chat", "zero", "few_shot"])
def test_no_text_of_a_trace_becomes_a_special_token(kind: str, style: Style) -> None:
    tokenizer = tokenizer_like(kind)
    shown = Demonstration(question="1", reasoning="one", answer="1") if style != "chat" else None
    prompt = PromptConfig(style=style, demonstrations=(shown,) if shown else ())
    special = set(tokenizer.all_special_ids)
    plain = tokenise([form_trace()], prompt, tokenizer)[0]
    for token in tokenizer.all_special_tokens:
        messages = {"question": token, "reasoning": f"The text '{token}' ends a turn."}
        (row,) = tokenise([form_trace().model_copy(update=messages)], prompt, tokenizer)
        assert not special.intersection(row.completion_ids[:-1])
        assert tokenizer.decode(row.completion_ids[:-1]).count(token) == 1
        (frame, framed) = ([i for i in x.prompt_ids if i in special] for x in (plain, row))
        assert framed == frame
        assert tokenizer.decode(row.prompt_ids).count(token) == 1 + frame.count(
            tokenizer.convert_tokens_to_ids(token)
        )


def test_a_row_that_cannot_be_written_in_the_form_is_named() -> None:
    broken = form_trace().model_copy(update={"reasoning": f"so {MARK} so"})
    with pytest.raises(DataError, match="p/0 cannot be written in the output form: more than two"):
        tokenise([broken], PromptConfig(form=FORM), byte_tokenizer())


@pytest.mark.parametrize(("architecture", "is_tied"), [("llama", True), ("qwen2", False)])
def test_new_rows_are_means_of_their_pieces_and_old_rows_stay(
    float64_here: None, architecture: str, is_tied: bool
) -> None:
    model, tokenizer = tiny_model(architecture, hidden=32, layers=1), byte_tokenizer()
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    before = [table.weight.detach().clone() for table in tables]
    pieces = add_tokens(tokenizer, RELEASED.marks)
    grow_embeddings(model, tokenizer, pieces)
    assert model.config.vocab_size == 261
    for table, old in zip(
        (model.get_input_embeddings(), model.get_output_embeddings()), before, strict=True
    ):
        assert table.weight.shape[0] == 261
        assert torch.equal(table.weight[:259], old)
        for position, ids in enumerate(pieces.values()):
            assert torch.allclose(table.weight[259 + position], old[list(ids)].mean(0), atol=CLOSE)
    shared = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert shared == is_tied
    # Had the rows been drawn or left empty, a piece missing from the mean would not show.
    ids = pieces["<think>"]
    assert not torch.allclose(tables[0].weight[259], before[0][list(ids[1:])].mean(0), atol=CLOSE)


def test_spare_rows_of_a_padded_table_are_taken(float64_here: None) -> None:
    model, tokenizer = tiny_model("qwen2", hidden=32, layers=1), byte_tokenizer()
    model.resize_token_embeddings(320, mean_resizing=False)
    pieces = add_tokens(tokenizer, FORM.marks)
    grow_embeddings(model, tokenizer, pieces)
    table = model.get_input_embeddings().weight
    assert table.shape[0] == 320
    assert torch.allclose(table[259], table[list(pieces[MARK])].mean(0), atol=CLOSE)
