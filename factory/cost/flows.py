"""What passes between stages, as numbers: questions, answers, texts; counted where they can be,
else by a stated assumption."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from factory.core.artifacts import Artifact
from factory.core.errors import Unpriced
from factory.cost.shapes import Shape
from factory.preferences.sources import HubRows, Stored
from factory.problems.sizes import (
    QUESTION_CHARACTERS,
    first_rows,
    hub_rows,
    lines,
    mean,
    text_length,
)
from factory.text.chat import REQUESTS, ZERO_FRAME, PromptConfig, completion_text

COMPLETION_SHARE = 0.55
"""Of `max_new_tokens`, where no earlier run tells. Small limits are set by what is needed: the
stages of r1-small used 0.43 to 0.66 of theirs."""
RL_SHARE = 0.75
"""The same while a policy is trained, which has not learned to end yet: 0.67, 0.76 and 0.80."""
COMPLETION_TOKENS = 6094.0
"""The same for large limits: the mean of R1's mathematical SFT samples, whose limit was 32,768
(arXiv 2501.12948 v2, Table 5)."""
KEPT_SHARE = 0.6
"""Of answers that selection keeps; of problems with one answer kept. The four of r1-small kept
0.31, 0.45, 0.67 and 0.70."""
WRITTEN_CHARACTERS = 2.0
"""A token, of worked texts, which are full of digits and signs; 1.9 in r1-small's traces."""
CHAT_TOKENS = 10
"""What a chat template puts around a question; 9 in ChatML."""

Split = Literal["train", "held_out"]


@dataclass(frozen=True)
class Questions:
    """A problems artifact: how many of each source, and characters of a question."""

    train: Mapping[str, int]
    held_out: Mapping[str, int]
    characters: Mapping[str, float]

    def count_and_length(
        self, split: Split, sources: Sequence[str] = (), limit: int | None = None
    ) -> tuple[int, float]:
        """(number, mean characters) of the questions of a split; Unpriced if there are none."""
        counts = self.train if split == "train" else self.held_out
        chosen = {name: n for name, n in counts.items() if n and (not sources or name in sources)}
        number = sum(chosen.values())
        if not number:
            raise Unpriced(f"no {split} problem of {list(sources) or 'any source'}")
        mean = sum(n * self.characters[name] for name, n in chosen.items()) / number
        return (number if limit is None else min(number, limit)), mean


@dataclass(frozen=True)
class Answers:
    """A traces artifact."""

    rows: float
    problems: float
    question: float
    """Characters of a question."""
    completion: float
    """Tokens of a completion."""


@dataclass(frozen=True)
class Texts:
    """Pairs or labels: rows, responses in each, characters of a prompt with one response."""

    rows: float
    responses: int
    characters: float


@dataclass(frozen=True)
class Prompt:
    """Tokens of a prompt: those that all prompts of a stage begin with, and a question's own."""

    frame: float
    own: float

    @property
    def tokens(self) -> float:
        return self.frame + self.own


def prompt_tokens(prompt: PromptConfig, question: float, shape: Shape) -> Prompt:
    """Tokens of a prompt whose question has so many characters."""
    frame = len(ZERO_FRAME) if prompt.style == "zero" else len(REQUESTS.get(prompt.style, ""))
    frame += len(prompt.system or "")
    for shown in prompt.demonstrations:
        tags = len("\nUser: \nAssistant: <think>  </think> <answer>  </answer>")
        frame += len(shown.question) + len(shown.reasoning) + len(shown.answer) + tags
    chat = 0 if prompt.style == "zero" else CHAT_TOKENS
    own = (question + len(prompt.prefill)) / shape.characters_per_token
    return Prompt(frame / shape.characters_per_token, own + chat)


def completion_tokens(limit: int, *, trains: bool = False) -> float:
    """Tokens of a completion by assumption: min(0.55 limit, 6,094), or 0.75 of it in RL."""
    return min((RL_SHARE if trains else COMPLETION_SHARE) * limit, COMPLETION_TOKENS)


def kept_rows(answers: Answers, per_problem: int) -> float:
    """Answers left by a selection that takes at most so many of a problem, by assumption."""
    samples = answers.rows / max(1.0, answers.problems)
    return KEPT_SHARE * answers.problems * min(samples, per_problem)


def texts(source: Stored, responses: int) -> Texts:
    """Pairs (two responses) or labels (one) of a file or a data set."""
    if isinstance(source, HubRows):
        rows = source.limit if source.limit is not None else hub_rows(source.id)
        return Texts(rows, responses, 4 * QUESTION_CHARACTERS)
    path = Path(source.path)
    names = ("prompt", "chosen" if responses == 2 else "response")
    length = mean(text_length(row, *names) for row in first_rows(path))
    return Texts(lines(path), responses, length)


def examples(path: Path) -> Answers:
    """The worked examples of a file."""
    rows = first_rows(path)
    number = lines(path)
    written = mean(
        len(completion_text("", "")) + text_length(row, "reasoning", "answer") for row in rows
    )
    question = mean(text_length(row, "question") for row in rows)
    return Answers(number, number, question, written / WRITTEN_CHARACTERS)


def sealed_questions(artifact: Artifact) -> Questions:
    """The questions of a sealed artifact."""
    counts: dict[Split, dict[str, int]] = {"train": {}, "held_out": {}}
    lengths: dict[str, list[int]] = {}
    for split in counts:
        with artifact.file(f"{split}.jsonl").open(encoding="utf-8") as file:
            for row in map(json.loads, file):
                label = row["source"]
                counts[split][label] = counts[split].get(label, 0) + 1
                lengths.setdefault(label, []).append(len(row["prompt"]))
    return Questions(
        counts["train"],
        counts["held_out"],
        {name: mean(length) for name, length in lengths.items()},
    )


def sealed_answers(artifact: Artifact) -> Answers:
    """The traces of a sealed artifact: their number, and means over the first of them."""
    metrics = artifact.manifest.metrics
    path = artifact.file("traces.jsonl")
    rows = first_rows(path)
    number = metrics.get("kept", metrics.get("traces")) or lines(path)
    tokens = mean(
        row["completion_tokens"] or len(row["completion"]) / WRITTEN_CHARACTERS for row in rows
    )
    return Answers(
        number, metrics.get("problems", number), mean(len(row["question"]) for row in rows), tokens
    )


def sealed_texts(artifact: Artifact) -> Texts:
    """The pairs or labels of a sealed artifact."""
    name = f"{artifact.manifest.kind}.jsonl"
    responses = 2 if artifact.manifest.kind == "pairs" else 1
    fields = ("prompt", "chosen" if responses == 2 else "response")
    path = artifact.file(name)
    length = mean(text_length(row, *fields) for row in first_rows(path))
    return Texts(lines(path), responses, length)
