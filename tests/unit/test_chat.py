"""Prompts word for word, and the strict grammar of answers."""

import re
import time

import pytest
from pydantic import ValidationError

from factory.core.errors import RecipeError
from factory.models.tiny import CHAT_TEMPLATE, byte_tokenizer
from factory.sampling.served import messages_of, messages_tokenizer
from factory.text.chat import (
    Demonstration,
    OutputForm,
    PromptConfig,
    completion_text,
    parse,
    render,
    stop_texts,
)
from factory.text.lookalike import only_quotes

SHOWN = Demonstration(question="1 + 1 =", reasoning="1 + 1 = 2.", answer="2")
GOOD = "<think> 3 + 4 = 7. </think> <answer> 7 </answer>"


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


def test_zero_style_is_the_papers_table_word_for_word(tokenizer):
    assert render("What is 3 + 4", PromptConfig(style="zero"), tokenizer) == (
        "A conversation between User and Assistant. The user asks a question, and the Assistant "
        "solves it. The assistant first thinks about the reasoning process in the mind and then "
        "provides the user with the answer. The reasoning process and answer are enclosed within "
        "<think> </think> and <answer> </answer> tags, respectively, i.e., <think> reasoning "
        "process here </think> <answer> answer here </answer>. User: What is 3 + 4. Assistant:"
    )


def test_zero_style_adds_no_stop_after_a_question_that_ends_in_a_mark(tokenizer):
    assert render("3 + 4 =", PromptConfig(style="zero"), tokenizer).endswith(
        "User: 3 + 4 = Assistant:"
    )


def test_zero_demonstrations_are_turns_in_the_same_frame(tokenizer):
    prompt = PromptConfig(style="zero", demonstrations=(SHOWN, SHOWN))
    turn = "User: 1 + 1 =\nAssistant: <think> 1 + 1 = 2. </think> <answer> 2 </answer>\n"
    text = render("3 + 4 =", prompt, tokenizer)
    assert text.endswith("</answer>.\n" + turn + turn + "User: 3 + 4 =\nAssistant:")


def test_zero_style_starts_with_the_token_that_the_tokenizer_puts_before_text():
    class LlamaLike:
        bos_token, bos_token_id = "<s>", 1

        def __call__(self, text):
            return {"input_ids": [1]}

    assert render("q", PromptConfig(style="zero"), LlamaLike()).startswith("<s>A conversation")


def test_chat_style_has_a_system_message_only_if_given(tokenizer):
    assert render("hi", PromptConfig(), tokenizer) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert render("hi", PromptConfig(system="Be brief."), tokenizer).startswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
    )


def test_few_shot_style_shows_examples_as_earlier_turns(tokenizer):
    text = render("q", PromptConfig(style="few_shot", demonstrations=(SHOWN,)), tokenizer)
    assert text == (
        "<|im_start|>user\n1 + 1 =<|im_end|>\n<|im_start|>assistant\n<think> 1 + 1 = 2. </think> "
        "<answer> 2 </answer><|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
    )


# As Qwen3's and R1's: of an earlier answer only what follows the thoughts is written.
STRIPS = CHAT_TEMPLATE.replace("['content']", "['content'].split('</think>')[-1].lstrip()")
REWRITES = CHAT_TEMPLATE.replace(
    "{{ message['content'] }}",
    "{{ message['content'] | replace('<think>', '[') | replace('</think>', ']') | trim }}",
)
FORMED = OutputForm(opening="<think>", closing="</think>")


@pytest.mark.parametrize("template", [STRIPS, REWRITES], ids=["strips", "rewrites"])
@pytest.mark.parametrize("form", [None, FORMED, OutputForm()])
def test_worked_examples_keep_their_thoughts_under_every_template(tokenizer, template, form):
    other = Demonstration(question="2 + 2 =", reasoning="Two and\ntwo.", answer="4")
    prompt = PromptConfig(
        style="few_shot", demonstrations=(SHOWN, other, SHOWN), system="S", form=form
    )
    stripping = byte_tokenizer()
    stripping.chat_template = template
    text = render("q", prompt, stripping)
    assert text == render("q", prompt, tokenizer)
    assert text.count(SHOWN.reasoning) == 2 and text.count(other.reasoning) == 1


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}",
        "{{ messages[-1].content }}",
        CHAT_TEMPLATE.replace("['content']", "['content'] | upper"),
    ],
)
def test_a_template_that_shows_no_worked_example_as_it_stands_is_refused(template):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    prompt = PromptConfig(style="few_shot", demonstrations=(SHOWN,))
    with pytest.raises(RecipeError, match="does not show 1 of 1 worked examples"):
        render("q", prompt, tokenizer)


def test_messages_as_json_hold_the_worked_examples_and_stay_json():
    shown = Demonstration(question="1", reasoning='say "two"\n\\', answer="2")
    prompt = PromptConfig(style="few_shot", demonstrations=(shown,))
    result = messages_of(render("q", prompt, messages_tokenizer()))
    assert result is not None
    assert result[0][1]["content"] == completion_text(shown.reasoning, shown.answer)


def test_a_template_that_refuses_the_messages_is_told_in_words():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(RecipeError, match=r"refuses the roles system, user: System role not"):
        render("q", PromptConfig(system="S"), tokenizer)


def test_reflect_style_asks_for_reflection_verification_and_tags(tokenizer):
    text = render("q", PromptConfig(style="reflect"), tokenizer)
    assert all(word in text for word in ("q\n\n", "reflect", "verify", "<think>", "<answer>"))


def test_prefill_is_not_repeated_where_the_template_already_opens_the_thoughts(tokenizer):
    prompt = PromptConfig(prefill="<think>\n")
    assert render("q", prompt, tokenizer).endswith("assistant\n<think>\n")
    opening = byte_tokenizer()
    opening.chat_template = tokenizer.chat_template + "<think>\n"
    assert render("q", prompt, opening).count("<think>") == 1


def test_a_chat_style_without_a_chat_template_is_refused():
    plain = byte_tokenizer()
    plain.chat_template = None
    with pytest.raises(RecipeError, match="no chat template; use style zero"):
        render("q", PromptConfig(), plain)


@pytest.mark.parametrize(
    "settings",
    [
        {"style": "few_shot"},
        {"style": "chat", "demonstrations": (SHOWN,)},
        {"style": "zero", "system": "x"},
    ],
)
def test_settings_that_do_not_fit_the_style_are_refused(settings):
    with pytest.raises(ValidationError):
        PromptConfig(**settings)


def test_only_the_chat_style_must_end_by_itself():
    assert stop_texts(PromptConfig()) == ()
    assert stop_texts(PromptConfig(style="zero")) == ("</answer>",)


def test_a_well_formed_completion_is_split_into_its_parts():
    response = parse(f"\n {GOOD} \n")
    assert (response.reasoning, response.answer) == ("3 + 4 = 7.", "7")
    assert response.is_well_formed and response.problem == ""


def test_a_prefilled_opening_tag_counts():
    rest = GOOD.removeprefix("<think>")
    assert parse(rest, prefill="<think>\n").answer == "7"
    assert parse(rest).problem == "no <think>"
    assert parse(GOOD, prefill="<think>\n").problem == "more than one <think>"


def test_unfinished_thinking_keeps_its_thoughts():
    response = parse("<think> so far")
    assert (response.reasoning, response.answer) == ("so far", None)
    assert response.problem == "unfinished thinking"


def thought(thoughts):
    return f"<think>\n{thoughts}\n</think> <answer> 7 </answer>"


def answered(answer):
    return f"<think> a </think> <answer> {answer} </answer>"


MALFORMED = [
    ("7", "no tags"),
    ("", "no tags"),
    ("<think> a </think>", "no answer after the thinking"),
    ("<think> a </think> 7", "no answer after the thinking"),
    ("<think> a </think> <answer> 7", "unfinished answer"),
    ("<answer> 7 </answer>", "no <think>"),
    ("<think> a <answer> 7 </answer>", "no </think>"),
    ("<think> a <answer> 7 </answer> </think>", "tags out of order"),
    ("<answer> 7 </answer> <think> a </think>", "tags out of order"),
    (GOOD + " <answer> 8 </answer>", "more than one <answer>"),
    ("<think> <think> a </think> </think> <answer> 7 </answer>", "more than one <think>"),
    ("Sure. " + GOOD, "text before <think>"),
    ("<think> a </think> so <answer> 7 </answer>", "text between"),
    (GOOD + " Done.", "text after </answer>"),
    ("<think> a </think> <answer> \n </answer>", "the answer is empty"),
    (GOOD + "\nUser: and 5 + 5?", "a made-up turn: user:"),
    (GOOD + "<|im_start|>user\nnext", "a made-up turn: <|im_start|>"),
    (GOOD + "<\uff5cUser\uff5c> next", "a made-up turn: <|user|>"),
    (GOOD + "[INST] b [/INST]", "a made-up turn: [inst]"),
    (GOOD + "<start_of_turn>user", "a made-up turn"),
    (GOOD + "\n### Human: b", "a made-up turn: ### human:"),
    (GOOD + "\n**User:** b", "a made-up turn: **user:"),
    (GOOD + "\n\uff35ser\uff1a b", "a made-up turn: user:"),
    (GOOD + "\nUs\u200ber: b", "a made-up turn: user:"),
    (answered("7\nUser: and 5 + 5?"), "a made-up turn: user:"),
    (answered("```\n7\n```\nHuman: and 5 + 5?"), "a made-up turn: human:"),
    (answered("```\nUser: an open fence hides nothing"), "a made-up turn: user:"),
    (answered("7 <|im_end|>"), "a made-up turn: <|im_end|>"),
    (answered("[INST] b"), "a made-up turn: [inst]"),
    (thought("User: 5 + 5?\nAssistant: 10"), "a made-up turn: user:"),
    (thought("a\n### Human: b\n\n**Assistant:** c\nd"), "a made-up turn: ### human:"),
    (thought("System: x\n\uff35ser\uff1a b\nAss\u200bistant: c"), "a made-up turn: user:"),
    ("<think> </Think> a </think> <answer> 7 </answer>", "a look-alike tag"),
    ("<think> < / answer > a </think> <answer> 7 </answer>", "a look-alike tag"),
    ("<think> <\u0430nswer> 8 </think> <answer> 7 </answer>", "a look-alike tag"),  # Cyrillic a
    ("<think> \uff1canswer\uff1e 8 </think> <answer> 7 </answer>", "a look-alike tag"),
    ("<think> <ans\u200bwer> 8 </think> <answer> 7 </answer>", "a look-alike tag"),
    ("<think> a </think> <answer> 7 <answer/> </answer>", "a look-alike tag"),
    ("<think> &lt;answer&gt; 8 </think> <answer> 7 </answer>", "a look-alike tag"),
    ("<think> <\\answer> 8 </think> <answer> 7 </answer>", "a look-alike tag"),
    ("<think> <a n s w e r> 8 </think> <answer> 7 </answer>", "a look-alike tag"),
    ("<think> <ans\u3164wer> 8 </think> <answer> 7 </answer>", "a look-alike tag"),
    ("<think> <answer class=x> 8 </think> <answer> 7 </answer>", "a look-alike tag"),
    ("<think> a </think> <answer> \u200b\u3164 </answer>", "the answer is empty"),
    ("<th\u0456nk> a </th\u0456nk> <answer> 7 </answer>", "no <think>"),  # Ukrainian i
]


@pytest.mark.parametrize(
    "thoughts",
    ["if a < answers and b > 3", "x<think y> z", "the norm <|x|> of x", "we thank the user: yes"],
)
def test_ordinary_text_is_no_tag_and_no_turn(thoughts):
    assert parse(f"<think> {thoughts} </think> <answer> 7 </answer>").is_well_formed


QUOTES = [
    "it wants <answer> </answer> at the end",
    "I close with `</answer>` then",
    'first "<answer>", then "</answer>"',
    "the tags '<think>' and '</think>' go first",
    "als \u201e<answer>\u201c und \u201e</answer>\u201c",
    "jako \u201e<answer>\u201d, \u201e</answer>\u201d",
    "\u6700\u540e\u5199\u300c</answer>\u300d\u3002",
    "\u300e<answer>\u300f then \u2039</answer>\u203a",
    "<answer> ... </answer>",
]


@pytest.mark.parametrize("thoughts", QUOTES)
def test_thoughts_may_speak_of_the_form_and_generation_goes_on(thoughts: str) -> None:
    text = f"<think> {thoughts} so 7. </think> <answer> 7 </answer>"
    assert parse(text).answer == "7"
    assert parse(text.removeprefix("<think>"), prefill="<think>").answer == "7"
    ends = [match.end() for match in re.finditer("</answer>", text)]
    assert [end for end in ends if not only_quotes(text[:end], "Assistant:")] == [len(text)]
    inside = [end - len("<think>") for end in ends]
    opened = [e for e in inside if not only_quotes(text[7 : e + 7], "Assistant: <think>\n")]
    assert opened == inside[-1:]


@pytest.mark.parametrize(
    "text",
    [
        "<think> a </think> <answer> 7 </answer>",
        "<think> a </think> <answer> '</answer>",
        "<think> a </think> <answer> </answer>",
        "<think> so <answer> 7 </answer>",
        "<think> it is `<answer> 7 </answer>",
        "<think> so 7 </answer>",
        "<answer> </answer>",
        "7 </answer>",
    ],
)
def test_generation_ends_where_an_answer_ends_or_no_thoughts_are_open(text: str) -> None:
    assert not only_quotes(text, "Assistant:")


def test_an_answer_between_marks_of_quotation_in_the_thoughts_stays_an_answer() -> None:
    text = "<think> say `<answer> 8 </answer>` </think> <answer> 7 </answer>"
    assert parse(text).problem == "more than one <answer>"


@pytest.mark.parametrize(
    "thoughts",
    [
        "System:\n  x + y = 10\n  x - y = 4\nAdding gives x = 7.",
        "User: wants the sum.\nSystem: has two equations.",
        "Assistant: is the role that I have.\nUser: is the other.",
        "### Human: 206 bones\n**Instruction:** read again",
        "read mem[inst], then ops[INST]; [/inst] is no name",
        "Llama writes [INST] and [/INST] and <<SYS>> around a question.",
        "The text '<|im_start|>user' opens a turn and `<|im_end|>` ends it.",
        "<|im_start|>user\nhi<|im_end|>",
        "<\uff5cUser\uff5c> and <start_of_turn> are marks too, </s> as well.",
        "```\nUser: hi\nAssistant: hello\n```\nis how a log looks.",
        "~~~yaml\nuser: ann\nassistant: bob\n~~~",
    ],
)
def test_thoughts_may_speak_of_turns(thoughts):
    response = parse(thought(thoughts))
    assert (response.reasoning, response.answer) == (thoughts.strip(), "7")


@pytest.mark.parametrize(
    "answer",
    [
        '```python\ntext = """\nuser: ann\nassistant: bob\n<|im_end|>\n"""\n```',
        "User: a person who uses a thing",
        "x = 7\nSystem: two equations",
        "mem[inst]",
    ],
)
def test_an_answer_may_hold_a_program_and_name_a_role(answer):
    assert parse(answered(answer)).answer == answer


@pytest.mark.parametrize(("text", "problem"), MALFORMED)
def test_whatever_is_not_the_grammar_names_its_problem_and_has_no_answer(text, problem):
    response = parse(text)
    assert not response.is_well_formed and response.answer is None
    assert response.problem.startswith(problem)


def test_ordinary_mathematics_in_the_thoughts_is_no_tag():
    text = "<think> if a < b and b > c, the answer is > 3 </think> <answer> 7 </answer>"
    assert parse(text).is_well_formed


HOSTILE = {
    "brackets": "<" * 500_000,
    "tags": "<think>" * 100_000,
    "half tags": "<think" * 100_000,
    "spaces": "<think>" + ("\n" + " " * 50) * 10_000 + "</think> <answer> 1 </answer>",
    "marks": "<think>" + "\u0316\u0301" * 200_000 + "</think> <answer> 1 </answer>",
    "roles": "<think>\n" + "user:\n" * 100_000 + "</think> <answer> 1 </answer>",
    "fences": "<think>" + "```\n````\n" * 60_000 + "</think> <answer> 1 </answer>",
    "markers": "<think>" + "<|" * 200_000 + "</think> <answer> 1 </answer>",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_parsed_in_linear_time(name):
    began = time.perf_counter()
    parse(HOSTILE[name])
    assert time.perf_counter() - began < 3.0


def test_the_canonical_completion_is_well_formed():
    response = parse(completion_text(" a ", " 7 "))
    assert (response.reasoning, response.answer) == ("a", "7")
