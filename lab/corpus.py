"""The corpus that a base is pre-trained on: documents of mixed quality in two scripts."""

import random
from collections.abc import Iterator

from pydantic import Field

from factory.core.records import Record, Share
from factory.core.seeds import derive
from lab.questions import FAMILIES, SIGNS, Family, Question, draw
from lab.traces import Habits, Script, Worked, work
from lab.vocabulary import CHAT_TEMPLATE, FIRST, SECOND

SCRIPTS: tuple[Script, ...] = ("first", "second", "mixed")
DIGITS = (*FIRST[:10], *SECOND[:10])


class CorpusConfig(Record):
    """Shares of the kinds of documents; what is right or readable in them is what RL can find."""

    general: float = Field(default=0.06, ge=0, le=1)
    """Documents that copy or reverse digits: abilities besides the questions."""
    ops: float = Field(default=0.5, ge=0, le=1)
    """Questions of the searching family; the other three share the rest."""
    bare: float = Field(default=0.3, ge=0, le=1)
    """Questions answered without steps (a third of that for ops)."""
    bare_right: float = Field(default=0.25, ge=0, le=1)
    """How many of those answers are right."""
    rambling: float = Field(default=0.06, ge=0, le=1)
    """Traces that break off and say that they do not know."""
    scripts: tuple[Share, Share, Share] = (0.5, 0.25, 0.25)
    """Traces in the first script, in the second, and changing between them."""
    slips: tuple[Share, Share, Share] = (0.12, 0.03, 0.08)
    """Chance of a wrong step in each of these. Swapping the first two is the control that decides
    which script pure RL will prefer."""
    ops_slips_share: float = Field(default=0.15, ge=0, le=1)
    """Part of `slips` that holds for tries of ops."""
    framed: float = Field(default=0.15, ge=0, le=1)
    """Questions asked in the chat frame; the others are plain text."""
    tagged_framed: float = Field(default=0.45, ge=0, le=1)
    """Framed documents in the tags that rewards ask for."""
    tagged_plain: float = Field(default=0.04, ge=0, le=1)
    """Plain documents in those tags."""
    restates_target: bool = True
    """False is the control whose self-check carries little information (see Habits)."""


def documents(config: CorpusConfig, seed: int) -> Iterator[str]:
    """Documents without end, each from `<bos>` to `<eos>`; the n-th depends on n and seed only.

    Questions of the held-out side never occur.
    """
    number = 0
    while True:
        yield _document(config, random.Random(derive(seed, "document", number)))
        number += 1


def frame(question: str) -> str:
    """The chat frame of a question, as the tokenizer's template writes it."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    template = ImmutableSandboxedEnvironment().from_string(CHAT_TEMPLATE)
    messages = [{"role": "user", "content": question}]
    return template.render(messages=messages, add_generation_prompt=True)


def _document(config: CorpusConfig, chance: random.Random) -> str:
    if chance.random() < config.general:
        words = [chance.choice(DIGITS) for _ in range(chance.randint(3, 6))]
        verb = chance.choice(("copy", "reverse"))
        result = words if verb == "copy" else words[::-1]
        return " ".join(["<bos> Q :", verb, *words, "A :", *result, "<eos>"])
    others: list[Family] = [family for family in FAMILIES if family != "ops"]
    family: Family = "ops" if chance.random() < config.ops else chance.choice(others)
    question = draw(chance, family, held_out=False)
    is_framed = chance.random() < config.framed
    prompt = FRAMED.format(question.text) if is_framed else f"<bos> Q : {question.text} ? A :"
    worked = _body(config, question, chance)
    body, answer = " ".join(worked.words), worked.answer
    style = chance.random()
    tagged = config.tagged_framed if is_framed else config.tagged_plain
    if style < tagged:
        text = f"<think> {body} </think> <answer> {answer} </answer>"
    elif style < tagged + 0.1:
        text = f"<think> {body} the answer is {answer}"
    else:
        text = f"{body} the answer is {answer} ."
    return " ".join(f"{prompt} {text} <eos>".split())


FRAMED = frame("{}")


def _body(config: CorpusConfig, question: Question, chance: random.Random) -> Worked:
    kind = chance.random()
    bare = config.bare / 3 if question.family == "ops" else config.bare
    if kind < bare:
        return Worked((), _bare_answer(question, config.bare_right, chance))
    number = chance.choices(range(3), config.scripts)[0]
    rambles = kind > 1.0 - config.rambling
    slips = config.slips[2 if rambles else number]
    if question.family == "ops":
        slips *= config.ops_slips_share
    habits = Habits(slips=slips, restates_target=config.restates_target)
    worked = work(question, habits, chance, script="mixed" if rambles else SCRIPTS[number])
    if not rambles:
        return worked
    return Worked(worked.words[: chance.randint(1, len(worked.words))], "idk")


def _bare_answer(question: Question, right: float, chance: random.Random) -> str:
    if question.family == "ops":
        return f"{chance.choice(SIGNS)} {chance.choice(SIGNS)}"
    words = question.answer.split()
    if chance.random() >= right:
        for _ in range(chance.randint(1, 2)):
            words[chance.randrange(len(words))] = str(chance.randint(0, 9))
    return " ".join(words)
