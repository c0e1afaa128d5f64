"""Prompts and their answers as text: the templates a model is asked with, and the strict parser.

Well-formed is one thing only, whatever the prompt style:

    <think> reasoning </think> <answer> answer </answer>

with nothing but white space outside the two blocks and no further tag inside them. Everything
else (an answer inside the thoughts, a second answer, a made-up further turn, look-alike tags)
names its problem and is never graded, so it can never be rewarded.
"""

import re
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from factory.errors import RecipeError
from factory.records import Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Style = Literal["zero", "chat", "few_shot", "reflect"]

ZERO_FRAME = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant "
    "solves it. The assistant first thinks about the reasoning process in the mind and then "
    "provides the user with the answer. The reasoning process and answer are enclosed within "
    "<think> </think> and <answer> </answer> tags, respectively, i.e., <think> reasoning process "
    "here </think> <answer> answer here </answer>."
)
"""DeepSeek-R1 (arXiv 2501.12948), Table 1, up to the user's turn."""

REFLECT_REQUEST = (
    "Give a detailed answer. Reason step by step inside <think> </think>: reflect on each step, "
    "verify the result, and correct what is wrong. Then write the final answer, and nothing else, "
    "inside <answer> </answer>."
)
"""Ours, for what the paper describes (R1 v1, 2.3.1): detailed answers that reflect and verify."""

GRAMMAR = ("<think>", "</think>", "<answer>", "</answer>")


class Demonstration(Record):
    """A worked example shown before the question."""

    question: str
    reasoning: str
    answer: str


class PromptConfig(Record):
    """How a question becomes a prompt."""

    style: Style = "chat"
    """`zero`: the paper's Table 1 as plain text, for base models. `chat`: the model's own chat
    template. `few_shot`: that, after worked examples. `reflect`: that, asking for verification."""
    demonstrations: tuple[Demonstration, ...] = ()
    """Worked examples for `zero` (ours: the paper shows none) and `few_shot`."""
    system: str | None = None
    """System message of the chat styles; none is sent unless given."""
    prefill: str = ""
    """Text put into the model's mouth, e.g. "<think>\\n" as DeepSeek advises for its distills."""

    @model_validator(mode="after")
    def _fits_its_style(self) -> "PromptConfig":
        if self.style == "few_shot" and not self.demonstrations:
            raise ValueError("style few_shot needs at least one demonstration")
        if self.style in ("chat", "reflect") and self.demonstrations:
            raise ValueError(f"style {self.style} takes no demonstrations; few_shot and zero do")
        if self.style == "zero" and self.system is not None:
            raise ValueError("style zero is plain text without a system message")
        return self


class Response(Record):
    """A completion split into its parts."""

    reasoning: str | None
    """The thoughts; also those of unfinished thinking. None if the text opens none first."""
    answer: str | None
    """None unless the text is well-formed."""
    is_well_formed: bool
    problem: str
    """Why it is not well-formed; empty if it is."""


def completion_text(reasoning: str, answer: str) -> str:
    """The canonical well-formed completion of these parts."""
    return f"<think> {reasoning.strip()} </think> <answer> {answer.strip()} </answer>"


def stop_texts(prompt: PromptConfig) -> tuple[str, ...]:
    """Texts that end a completion asked for in this style.

    A base model, or a chat model following examples, has not learned to end after its answer and
    would invent the next turn, so `</answer>` ends it. In style `chat` only the model's own
    end-of-text does: not ending by itself is a fault that training should see.
    """
    return () if prompt.style == "chat" else ("</answer>",)


def render(question: str, prompt: PromptConfig, tokenizer: "PreTrainedTokenizerBase") -> str:
    """The whole prompt as text, to be tokenised with add_special_tokens=False.

    RecipeError if a chat style meets a tokenizer without a chat template. A chat template that
    adds a system message of its own would be at odds with `system: None`: the `model` stage saves
    templates without such a default.
    """
    if prompt.style == "zero":
        text = _leading_token(tokenizer) + _zero_text(question, prompt.demonstrations)
        return f"{text} {prompt.prefill}" if prompt.prefill else text
    if tokenizer.chat_template is None:
        raise RecipeError(
            f"prompt.style {prompt.style}: the model's tokenizer has no chat template; "
            "use style zero or a model that has one"
        )
    text = tokenizer.apply_chat_template(
        _messages(question, prompt), tokenize=False, add_generation_prompt=True
    )
    # Templates of R1's distills already open the thoughts; opening them twice is malformed.
    opened = prompt.prefill.strip() and text.rstrip().endswith(prompt.prefill.strip())
    return text if opened else text + prompt.prefill


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


def _messages(question: str, prompt: PromptConfig) -> list[dict[str, str]]:
    messages = []
    if prompt.system is not None:
        messages.append({"role": "system", "content": prompt.system})
    for shown in prompt.demonstrations:
        answer = completion_text(shown.reasoning, shown.answer)
        messages.append({"role": "user", "content": shown.question})
        messages.append({"role": "assistant", "content": answer})
    if prompt.style == "reflect":
        question = f"{question}\n\n{REFLECT_REQUEST}"
    return [*messages, {"role": "user", "content": question}]


def _leading_token(tokenizer: "PreTrainedTokenizerBase") -> str:
    """The beginning-of-text token if this tokenizer puts one before plain text (Llama does)."""
    ids = tokenizer("")["input_ids"]
    return tokenizer.bos_token if ids and ids[0] == tokenizer.bos_token_id else ""


_TAG = re.compile(r"</?(?:think|answer)>")
# These two look at folded text: lower case, compatibility forms and look-alikes undone. Every
# repetition is bounded, so that a flood of "<" costs linear time.
_TURN = re.compile(
    r"<\|[a-z_\u2581 ]{3,40}\|>"
    r"|<(?:start|end)_of_turn>|\[/?inst\]|<</?sys>>"
    r"|(?m:^)[ \t*#>_-]{0,12}(?:user|assistant|system|human|instruction)[ \t*_]{0,4}:"
)
_TAG_LIKE = re.compile(
    r"<[\s/\\]{0,16}(?:t\s?h\s?i\s?n\s?k|a\s?n\s?s\s?w\s?e\s?r)(?:ing|s)?"
    r"(?:\s{1,4}[a-z_]{1,20}=[^<>]{0,40})?[\s/\\]{0,16}>"
)
_WRITTEN_OUT = {"&lt;": "<", "&gt;": ">"}
_INVISIBLE = frozenset("\u115f\u1160\u3164\uffa0\u2800")
"""Letters and signs that show nothing, though Unicode counts them as letters or symbols."""
_CONFUSABLES = {
    "<": "\u2039\u3008\u27e8\u276e\u02c2\u1438\u300a\u00ab",
    ">": "\u203a\u3009\u27e9\u276f\u02c3\u1433\u300b\u00bb",
    "/": "\u2215\u2044\u2571",
    "a": "\u0430\u0251\u03b1",
    "e": "\u0435\u0454\u03b5",
    "h": "\u04bb\u0570",
    "i": "\u0456\u0131\u0269\u03b9",
    "k": "\u043a\u03ba",
    "n": "\u043f\u0578\u03b7",
    "r": "\u0433\u0280\u1d26",
    "s": "\u0455\ua731",
    "t": "\u0442\u03c4\u1d1b",
    "w": "\u051d\u1d21\u0561\u03c9",
}
"""Characters of other scripts that look like those of the tags, after case folding."""
_LATIN = {other: letter for letter, others in _CONFUSABLES.items() for other in others}


def parse(text: str, *, prefill: str = "") -> Response:
    """Split a completion into reasoning and answer, strictly; linear in the length of any text.

    `prefill` is what the prompt already put into the model's mouth ("<think>\\n"). Empty thoughts
    are well-formed, an empty answer is not.
    """
    whole = prefill + text
    found = list(_TAG.finditer(whole))
    tags = tuple(match.group() for match in found)
    reasoning = None
    if tags[:1] == ("<think>",):
        end = found[1].start() if len(found) > 1 else len(whole)
        reasoning = whole[found[0].end() : end].strip()
    problem = _tag_problem(tags) or _text_problem(whole, found)
    answer = None if problem else whole[found[2].end() : found[3].start()].strip()
    return Response(reasoning=reasoning, answer=answer, is_well_formed=not problem, problem=problem)


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


def _text_problem(whole: str, found: list[re.Match[str]]) -> str:
    """What is wrong with a text whose four tags are right."""
    folded = _fold(whole)
    turn = _TURN.search(folded)
    if turn:
        return f"a made-up turn: {turn.group().strip()}"
    if whole[: found[0].start()].strip():
        return "text before <think>"
    if whole[found[1].end() : found[2].start()].strip():
        return "text between the thinking and the answer"
    if whole[found[3].end() :].strip():
        return "text after </answer>"
    if not _fold(whole[found[2].end() : found[3].start()]).strip():
        return "the answer is empty"
    if len(_TAG_LIKE.findall(folded)) > len(GRAMMAR):
        return "a look-alike tag"
    return ""


def _fold(text: str) -> str:
    """Text as a reader may see it: compatibility forms, case, accents and other scripts undone.

    Folded character by character: normalising a whole hostile text (long runs of combining
    marks) takes quadratic time.
    """
    folded = text.translate({ord(c): _fold_character(c) for c in set(text)})
    for written, sign in _WRITTEN_OUT.items():
        folded = folded.replace(written, sign)
    return folded


@lru_cache(maxsize=4096)
def _fold_character(character: str) -> str:
    plain = unicodedata.normalize("NFKD", character).casefold()
    seen = (
        c
        for c in plain
        if unicodedata.category(c) not in ("Mn", "Me", "Cf") and c not in _INVISIBLE
    )
    return "".join(_LATIN.get(c, c) for c in seen)
