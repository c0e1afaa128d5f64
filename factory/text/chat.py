"""Prompts and their answers as text: the templates a model is asked with, and the strict parser.

Well-formed is one thing only, whatever the prompt style:

    <think> reasoning </think> <answer> answer </answer>

or, where the prompt has an output form, R1's cold-start form (R1v1, 2.3.1) with its two marks:

    |special_token| reasoning |special_token| summary

with nothing but white space outside and no further tag or mark inside. Everything else (an answer
inside the thoughts, a second answer, a made-up further turn, look-alike tags) names its problem
and is never graded, so it can never be rewarded. Thoughts may speak of turns and their marks: that
is text. An exchange that they make up, and any further turn behind the answer, is a problem.
"""

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from factory.core.errors import RecipeError
from factory.core.records import AddedLater, FinishReason, Record, SamplingConfig
from factory.text.lookalike import (
    TAG,
    TAG_LIKE,
    fold,
    made_up_exchange,
    made_up_turn,
    without_end,
    without_quotations,
)
from factory.text.templates import TemplateFault, written_messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Style = Literal["zero", "chat", "few_shot", "reflect", "brief"]

ZERO_FRAME = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant "
    "solves it. The assistant first thinks about the reasoning process in the mind and then "
    "provides the user with the answer. The reasoning process and answer are enclosed within "
    "<think> </think> and <answer> </answer> tags, respectively, i.e., <think> reasoning process "
    "here </think> <answer> answer here </answer>."
)
"""DeepSeek-R1 (arXiv 2501.12948), Table 1, up to the user's turn."""

REQUESTS = {
    "reflect": "Give a detailed answer. Reason step by step {thinking}: reflect on each step, "
    "verify the result, and correct what is wrong. Then {ending}.",
    "brief": "Think in one or two short sentences {thinking}, then {ending}.",
}
"""Ours, for what the paper describes: detailed answers that reflect and verify (R1v1, 2.3.1), and
the short chain of thought before answers that need little reasoning (R1v2, B.3.3)."""

GRAMMAR = ("<think>", "</think>", "<answer>", "</answer>")


class OutputForm(Record):
    """R1's cold-start form `|special_token|<reasoning_process>|special_token|<summary>` (R1v1,
    2.3.1): two marks instead of four tags, and a summary that closes the answer for its reader.

    With the marks `<think>` and `</think>` it is the form of the released R1.
    """

    opening: str = Field(default="|special_token|", pattern=r"^\S{3,64}$")
    """Written before the thoughts."""
    closing: str = Field(default="|special_token|", pattern=r"^\S{3,64}$")
    """Written between the thoughts and the summary."""

    @property
    def marks(self) -> tuple[str, ...]:
        """The marks, each once."""
        return tuple(dict.fromkeys((self.opening, self.closing)))

    @model_validator(mode="after")
    def _marks_are_apart(self) -> "OutputForm":
        if self.opening != self.closing and (
            self.opening in self.closing or self.closing in self.opening
        ):
            raise ValueError(f"one of {self.opening!r} and {self.closing!r} holds the other")
        return self


class Demonstration(Record):
    """A worked example shown before the question."""

    question: str
    """As it would be asked."""
    reasoning: str
    """The thoughts."""
    answer: str
    """What would be graded."""
    summary: Annotated[str | None, AddedLater()] = None
    """What closes it in an output form; by default the boxed answer."""


class PromptConfig(Record):
    """How a question becomes a prompt."""

    style: Style = "chat"
    """`zero`: the paper's Table 1 as plain text, for base models. `chat`: the model's own chat
    template. `few_shot`: that, after worked examples. `reflect`: that, asking for verification.
    `brief`: that, asking for a sentence or two of thoughts."""
    demonstrations: tuple[Demonstration, ...] = ()
    """Worked examples for `zero` (ours: the paper shows none) and `few_shot`."""
    system: str | None = None
    """System message of the chat styles; none is sent unless given."""
    prefill: str = ""
    """Text put into the model's mouth, e.g. "<think>\\n" as DeepSeek advises for its distills."""
    form: Annotated[OutputForm | None, AddedLater()] = None
    """What a well-formed answer looks like; None: the four tags of R1-Zero's template."""

    @model_validator(mode="after")
    def _fits_its_style(self) -> "PromptConfig":
        if self.style == "few_shot" and not self.demonstrations:
            raise ValueError("style few_shot needs at least one demonstration")
        if self.style not in ("few_shot", "zero") and self.demonstrations:
            raise ValueError(f"style {self.style} takes no demonstrations; few_shot and zero do")
        if self.style == "zero" and self.system is not None:
            raise ValueError("style zero is plain text without a system message")
        if self.style == "zero" and self.form is not None:
            raise ValueError("style zero names the tags in its own words; form is for the others")
        return self


class Response(Record):
    """A completion split into its parts."""

    reasoning: str | None
    """The thoughts; also those of unfinished thinking. None if the text opens none first."""
    answer: str | None
    """What is graded; None unless the text is well-formed."""
    summary: str | None = None
    """What closes a well-formed text in an output form; None in the form of the tags."""
    is_well_formed: bool
    problem: str
    """Why it is not well-formed; empty if it is."""


def completion_text(reasoning: str, answer: str) -> str:
    """The canonical well-formed completion of these parts."""
    return f"<think> {reasoning.strip()} </think> <answer> {answer.strip()} </answer>"


def form_text(reasoning: str, summary: str, form: OutputForm) -> str:
    """The canonical well-formed completion of these parts in an output form."""
    return f"{form.opening}\n{reasoning.strip()}\n{form.closing}\n{summary.strip()}"


def canonical_text(
    reasoning: str, answer: str, summary: str | None, form: OutputForm | None
) -> str:
    """The canonical completion of a trace's parts in any form.

    A trace that was written in the form of the tags has no summary: its boxed answer is one in
    every language.
    """
    if form is None:
        return completion_text(reasoning, answer)
    return form_text(reasoning, summary or f"\\boxed{{{answer}}}", form)


def stop_texts(prompt: PromptConfig) -> tuple[str, ...]:
    """Texts that end a completion asked for in this style.

    A base model, or a chat model following examples, has not learned to end after its answer and
    would invent the next turn, so `</answer>` ends it, but for one that thoughts only quote. In
    style `chat` only the model's own end-of-text does: not ending by itself is a fault that
    training should see. In an output form nothing else can end a summary.
    """
    return () if prompt.style == "chat" or prompt.form is not None else ("</answer>",)


def with_stops(sampling: SamplingConfig, prompt: PromptConfig) -> SamplingConfig:
    """The sampling settings with the prompt style's own stop texts added."""
    stops = tuple(dict.fromkeys((*sampling.stop, *stop_texts(prompt))))
    return sampling.model_copy(update={"stop": stops})


def render(question: str, prompt: PromptConfig, tokenizer: "PreTrainedTokenizerBase") -> str:
    """The whole prompt as text, to be tokenised with add_special_tokens=False.

    Worked examples stand in it with their thoughts. RecipeError if a chat style meets a tokenizer
    without a chat template, or one that refuses the messages or leaves an example out. A chat
    template that adds a system message of its own would be at odds with `system: None`: the
    `model` stage saves templates without such a default.
    """
    if prompt.style == "zero":
        text = _leading_token(tokenizer) + _zero_text(question, prompt.demonstrations)
        return f"{text} {prompt.prefill}" if prompt.prefill else text
    if getattr(tokenizer, "chat_template", None) is None:
        raise RecipeError(
            f"prompt.style {prompt.style}: the model's tokenizer has no chat template; "
            "use style zero, or give it one by `turns` of its model stage"
        )
    if prompt.form is not None:
        _check_marks(prompt.form, tokenizer)
    text = _conversation(question, prompt, tokenizer)
    # Templates of R1's distills already open the thoughts; opening them twice is malformed.
    opened = prompt.prefill.strip() and text.rstrip().endswith(prompt.prefill.strip())
    return text if opened else text + prompt.prefill


def _conversation(question: str, prompt: PromptConfig, tokenizer: "PreTrainedTokenizerBase") -> str:
    """The rendered messages, up to where the model writes, each worked example as it stands.

    Templates of reasoning models leave out the thoughts of earlier turns, and an example without
    its thoughts shows the wrong thing. They look for the mark that closes the thoughts: such a
    template renders names in place of the examples, which are written in afterwards.
    """
    answers = [
        canonical_text(shown.reasoning, shown.answer, shown.summary, prompt.form)
        for shown in prompt.demonstrations
    ]
    text = _rendered(_messages(question, prompt, answers), prompt, tokenizer)
    # A template may write its messages as JSON, for a server to render.
    if _in_order(answers, text) or _in_order([_quoted(answer) for answer in answers], text):
        return text
    names = [f"\ue000example {number}\ue000" for number in range(len(answers))]
    text = _rendered(_messages(question, prompt, names), prompt, tokenizer)
    lost = [name for name in names if text.count(name) != 1]
    if lost:
        raise RecipeError(
            f"prompt.demonstrations: the model's chat template does not show {len(lost)} of "
            f"{len(names)} worked examples as they stand; use style zero, or a model whose "
            "template shows earlier turns"
        )
    for name, answer in zip(names, answers, strict=True):
        text = text.replace(name, answer)
    return text


def _rendered(
    messages: list[dict[str, str]], prompt: PromptConfig, tokenizer: "PreTrainedTokenizerBase"
) -> str:
    try:
        return written_messages(messages, tokenizer, opens=True)
    except TemplateFault as error:
        raise RecipeError(
            f"prompt.style {prompt.style}: the model's chat template refuses the roles "
            f"{', '.join(message['role'] for message in messages)}: {error}; leave out what it "
            "has no turn for, such as prompt.system, or use style zero"
        ) from error


def _in_order(parts: Sequence[str], text: str) -> bool:
    """Whether every part is in the text, one behind the other."""
    position = 0
    for part in parts:
        start = text.find(part, position)
        if start < 0:
            return False
        position = start + len(part)
    return True


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _check_marks(form: OutputForm, tokenizer: "PreTrainedTokenizerBase") -> None:
    """RecipeError where an engine would leave a mark out of what the model wrote."""
    special = [mark for mark in form.marks if mark in tokenizer.all_special_tokens]
    if special:
        raise RecipeError(
            f"prompt.form: {' and '.join(special)} is a special token of this tokenizer, which "
            "engines leave out of their text; take other marks"
        )


def _zero_text(question: str, demonstrations: tuple[Demonstration, ...]) -> str:
    """Table 1 as it stands; with demonstrations, turns on lines of their own in the same frame.

    Differs from the paper: the table's full stop after the question is left out where the
    question ends in a mark of its own ("3 + 4 =", "why?"), and demonstrations are ours.
    """
    if not demonstrations:
        stop = "." if question[-1:].isalnum() else ""
        return f"{ZERO_FRAME} User: {question}{stop} Assistant:"
    turns = [
        f"User: {shown.question}\nAssistant: {completion_text(shown.reasoning, shown.answer)}"
        for shown in demonstrations
    ]
    return "\n".join([ZERO_FRAME, *turns, f"User: {question}\nAssistant:"])


def _messages(question: str, prompt: PromptConfig, answers: Sequence[str]) -> list[dict[str, str]]:
    messages: list[dict[str, str]] = []
    if prompt.system is not None:
        messages.append({"role": "system", "content": prompt.system})
    for shown, answer in zip(prompt.demonstrations, answers, strict=True):
        messages.append({"role": "user", "content": shown.question})
        messages.append({"role": "assistant", "content": answer})
    if prompt.style in REQUESTS:
        question = f"{question}\n\n{request_text(REQUESTS[prompt.style], prompt.form)}"
    return [*messages, {"role": "user", "content": question}]


def request_text(request: str, form: OutputForm | None) -> str:
    """A request with {thinking} and {ending} filled in: where the parts of an answer go."""
    thinking = "inside <think> </think>"
    ending = "write the final answer, and nothing else, inside <answer> </answer>"
    if form is not None:
        thinking = f"between {form.opening} and {form.closing}"
        ending = "close with a short summary that states the final answer in \\boxed{}"
    return request.format(thinking=thinking, ending=ending)


def _leading_token(tokenizer: "PreTrainedTokenizerBase") -> str:
    """The beginning-of-text token if this tokenizer puts one before plain text (Llama does)."""
    ids = tokenizer("")["input_ids"]
    return str(tokenizer.bos_token) if ids and ids[0] == tokenizer.bos_token_id else ""


def parse(
    text: str, *, prefill: str = "", form: OutputForm | None = None, is_cut: bool = False
) -> Response:
    """Split a completion into reasoning and answer, strictly; linear in the length of any text.

    `prefill` is what the prompt already put into the model's mouth ("<think>\\n"). Empty thoughts
    are well-formed, an empty answer is not. In an output form the answer is what the summary boxes,
    or the whole summary where it boxes nothing; `is_cut` says that the length limit ended the text:
    nothing marks the end of a summary, so a cut one is not well-formed.
    """
    full_text = prefill + without_end(text)
    if form is not None:
        return _parse_form(full_text, form, is_cut=is_cut)
    written = list(TAG.finditer(full_text))
    matches = without_quotations(written, full_text)
    tags = tuple(match.group() for match in matches)
    reasoning = None
    if tags[:1] == ("<think>",):
        end = matches[1].start() if len(matches) > 1 else len(full_text)
        reasoning = full_text[matches[0].end() : end].strip()
    problem = _tag_problem(tags) or _text_problem(full_text, matches, len(written))
    answer = None if problem else full_text[matches[2].end() : matches[3].start()].strip()
    return Response(reasoning=reasoning, answer=answer, is_well_formed=not problem, problem=problem)


def parse_completion(text: str, finish_reason: FinishReason, prompt: PromptConfig) -> Response:
    """`parse` of what a model returned to a prompt: with its prefill, form and how it ended."""
    is_cut = finish_reason != "stop"
    return parse(text, prefill=prompt.prefill, form=prompt.form, is_cut=is_cut)


def _parse_form(full_text: str, form: OutputForm, *, is_cut: bool) -> Response:
    # Looked for ahead of every place, so that two marks that share a character are two.
    matches = list(re.finditer(f"(?=({'|'.join(map(re.escape, form.marks))}))", full_text))
    marks = tuple(match.group(1) for match in matches)
    reasoning = None
    if marks[:1] == (form.opening,):
        end = matches[1].start() if len(matches) > 1 else len(full_text)
        reasoning = full_text[matches[0].end(1) : end].strip()
    problem = _mark_problem(marks, form)
    if problem:
        return Response(reasoning=reasoning, answer=None, is_well_formed=False, problem=problem)
    summary = full_text[matches[1].end(1) :].strip()
    boxed = boxes(summary) or []
    answer = (boxed[0] if boxed else summary).strip()
    if full_text[: matches[0].start()].strip():
        problem = f"text before {form.opening}"
    elif is_cut:
        problem = "unfinished summary"
    elif boxes(summary) is None:
        problem = "a box that is never closed"
    elif len({box.strip() for box in boxed}) > 1:
        problem = "more than one boxed answer"
    elif not fold(answer).strip():
        problem = "the answer is empty"
    else:
        problem = (
            disturbance(reasoning or "", form)
            or made_up_turn(summary)
            or disturbance(summary, form)
        )
    return Response(
        reasoning=reasoning,
        answer=None if problem else answer,
        summary=None if problem else summary,
        is_well_formed=not problem,
        problem=problem,
    )


def _mark_problem(marks: tuple[str, ...], form: OutputForm) -> str:
    if marks == (form.opening, form.closing):
        return ""
    if not marks:
        return "no marks"
    if marks == (form.opening,):
        return "unfinished thinking"
    return "more than two marks" if len(marks) > 2 else "marks out of order"


def disturbance(text: str, form: OutputForm | None = None) -> str:
    """What in a text, meant to stand inside another, would break out of it; empty if nothing.

    Made-up exchanges, tags and what looks like them, and the marks of the form. Special tokens are
    a matter of the tokenizer: text is tokenised so that it cannot become one.
    """
    problem = made_up_exchange(text)
    if problem:
        return problem
    folded = fold(text)
    if TAG_LIKE.search(folded):
        return "a look-alike tag"
    squeezed = "".join(folded.split())
    if form is not None and any(_squeezed(mark) in squeezed for mark in form.marks):
        return "a look-alike mark"
    return ""


def _squeezed(mark: str) -> str:
    return "".join(fold(mark).split())


def boxes(text: str) -> list[str] | None:
    """Contents of every \\boxed{...}, nested braces kept; None if one is never closed."""
    contents: list[str] = []
    depths = 0
    start = text.find("\\boxed{")
    while start >= 0:
        begin = start + len("\\boxed{")
        depths = 1
        for position in range(begin, len(text)):
            depths += {"{": 1, "}": -1}.get(text[position], 0)
            if depths == 0:
                contents.append(text[begin:position])
                break
        else:
            return None
        start = text.find("\\boxed{", position)
    return contents


def _tag_problem(tags: tuple[str, ...]) -> str:
    if tags == GRAMMAR:
        return ""
    if not tags:
        return "no tags"
    if tags == GRAMMAR[: len(tags)]:
        return ("unfinished thinking", "no answer after the thinking", "unfinished answer")[
            len(tags) - 1
        ]
    doubled = [tag for tag in GRAMMAR if tags.count(tag) > 1]
    if doubled:
        return f"more than one {doubled[0]}"
    missing = [tag for tag in GRAMMAR if tag not in tags]
    if missing:
        return f"no {missing[0]}"
    return "tags out of order: " + " ".join(tags)


def _text_problem(full_text: str, matches: list[re.Match[str]], written: int) -> str:
    """What is wrong with a text whose four tags are right; `written` counts quoted ones too."""
    thoughts, between, answer = (
        full_text[matches[part].end() : matches[part + 1].start()] for part in range(3)
    )
    behind = full_text[matches[3].end() :]
    # What stands behind the answer is not its first line.
    turn = made_up_exchange(thoughts) or made_up_turn(answer) or made_up_turn(f"|\n{behind}")
    if turn:
        return turn
    if full_text[: matches[0].start()].strip():
        return "text before <think>"
    if between.strip():
        return "text between the thinking and the answer"
    if behind.strip():
        return "text after </answer>"
    if not fold(answer).strip():
        return "the answer is empty"
    if len(TAG_LIKE.findall(fold(full_text))) > written:
        return "a look-alike tag"
    return ""
