"""Answers whose thoughts were closed: what a model is worth that may think for so many tokens only.

The first tokens of an answer do not depend on where it will be cut. So nothing is thought twice: an
answer that was drawn whole is cut where its budget is spent, the mark that ends thoughts is written
behind it, and the model writes the answer alone, with a seed of its own.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from pydantic import Field

from factory.core.errors import RecipeError
from factory.core.records import EvalSample, Mode, Record
from factory.core.seeds import derive
from factory.evaluation.asking import EvaluatedModel
from factory.evaluation.runs import EvalRequest, OwnRun, Sampled
from factory.sampling.ends import decoded
from factory.sampling.sampler import Completion
from factory.text.chat import GRAMMAR, OutputForm, PromptConfig, canonical_text

FILE = "budgets.jsonl"
"""Of an evaluation with budgets: a `Spent` a line."""


class Spent(Record):
    """What one answer took under one budget, and whether it is right."""

    benchmark: str
    mode: Mode
    problem_id: str
    sample: int
    budget: int | None
    """None: as it was drawn."""
    thinking_tokens: int
    """Up to the end of the thoughts; all tokens of a text that never ends them."""
    tokens: int
    """That the model drew, thoughts and answer; the mark that we wrote is none of them."""
    is_correct: bool
    """Strictly."""
    closed: EvalSample | None = Field(default=None, exclude_if=lambda value: value is None)
    """The text with its closed thoughts; None where the budget was not spent."""


@dataclass(frozen=True)
class ClosedRequest(EvalRequest):
    """The answer to thoughts that were closed; its prompt holds them."""

    budget: int = 0
    opening: str = ""
    """The thoughts with the mark behind them: how the completion begins."""
    thinking_tokens: int = 0

    @property
    def key(self) -> str:
        return f"{super().key}/{self.budget}"

    def completed(self, answer: Completion) -> Completion:
        """The completion that is graded: thoughts, mark and answer."""
        tokens = self.thinking_tokens + answer.tokens
        return replace(answer, text=self.opening + answer.text, token_ids=(), counted=tokens)


@dataclass
class Closing:
    """The budgets of one evaluation: takes its answers, says what is to be asked, keeps rows."""

    budgets: Sequence[int]
    """In rising order."""
    runs: Sequence[OwnRun]
    """All of them; `closes` says whose thoughts are closed."""
    model: EvaluatedModel
    rows: list[Spent] = field(default_factory=list)
    _requests: list[ClosedRequest] = field(default_factory=list)

    def __post_init__(self) -> None:
        for run in filter(self.closes, self.runs):
            room = run.sampling.max_new_tokens - len(self._mark)
            if self.budgets and self.budgets[-1] >= room:
                raise RecipeError(
                    f"budgets: {self.budgets[-1]} of the {run.sampling.max_new_tokens} tokens that "
                    f"benchmark {run.benchmark} allows leave none for an answer: at most "
                    f"{room - 1}, or raise max_new_tokens"
                )

    @cached_property
    def _mark(self) -> tuple[int, ...]:
        return self._ids(closing_text(self.model.prompt.form))

    def closes(self, run: OwnRun) -> bool:
        """Sampled answers, and greedy ones where a benchmark has no others."""
        if not self.budgets:
            return False
        names = {other.name for other in self.runs}
        return run.mode == "sampled" or f"{run.benchmark}.sampled" not in names

    def at_most(self, requests: Sequence[EvalRequest]) -> int:
        """How many answers there may be to closed thoughts."""
        names = {run.name for run in self.runs if self.closes(run)}
        return len(self.budgets) * sum(request.run.name in names for request in requests)

    def take(self, sampled: Sampled, samples: Sequence[EvalSample]) -> None:
        """Answers as they were drawn, with their verdicts; or those to closed thoughts."""
        for (request, completion), sample in zip(sampled, samples, strict=True):
            if isinstance(request, ClosedRequest):
                self._add(sample, request.budget, request.thinking_tokens, completion, sample)
            elif isinstance(request.run, OwnRun) and self.closes(request.run):
                self._cut(request, completion, sample)

    def requests(self) -> list[ClosedRequest]:
        """The answers to ask for, once all are drawn; budget by budget."""
        return sorted(self._requests, key=lambda request: request.budget)

    def _cut(self, request: EvalRequest, completion: Completion, sample: EvalSample) -> None:
        tokenizer, prompt = self.model.tokenizer, self.model.prompt
        # A server that gives no ids: its text has them by the tokenizer that writes its prompts.
        ids = completion.token_ids or self._ids(completion.text)
        end = thinking_tokens(ids, tokenizer, prompt)
        thinking = len(ids) if end is None else end
        self._add(sample, None, thinking, completion)
        for budget in self.budgets:
            if budget >= thinking:
                self._add(sample, budget, thinking, completion)
                continue
            kept = whole_tokens(ids[:budget], tokenizer, prompt)
            opening = decoded(tokenizer, kept) + closing_text(prompt.form)
            seed = derive(request.seed, "budget", budget)
            limit = request.sampling.max_new_tokens - len(kept) - len(self._mark)
            self._requests.append(
                ClosedRequest(
                    request.run, request.document, request.sample, request.question, request.prompt,
                    (*request.prompt_ids, *kept, *self._mark), seed, request.sampling,
                    limit=limit, budget=budget, opening=opening, thinking_tokens=len(kept),
                )
            )  # fmt: skip

    def _add(
        self, sample: EvalSample, budget: int | None, thinking: int, completion: Completion,
        closed: EvalSample | None = None,
    ) -> None:  # fmt: skip
        row = Spent(
            benchmark=sample.benchmark, mode=sample.mode, problem_id=sample.trace.problem_id,
            sample=sample.trace.sample, budget=budget, thinking_tokens=thinking,
            tokens=completion.tokens, is_correct=sample.trace.verdict.is_correct, closed=closed,
        )  # fmt: skip
        self.rows.append(row)

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.model.tokenizer(text, add_special_tokens=False)["input_ids"])

    def in_order(self) -> list[Spent]:
        """By benchmark and mode, problem, sample, and rising budget, as drawn last."""
        order = {
            (run.benchmark, run.mode, problem.id): number
            for number, (run, problem) in enumerate(
                (run, problem) for run in self.runs for problem in run.problems
            )
        }
        endless = max(self.budgets, default=0) + 1
        return sorted(
            self.rows,
            key=lambda row: (
                order[row.benchmark, row.mode, row.problem_id], row.sample, row.budget or endless
            ),
        )  # fmt: skip


def closing_mark(form: OutputForm | None) -> str:
    """What a model writes to end its thoughts."""
    return GRAMMAR[1] if form is None else form.closing


def closing_text(form: OutputForm | None) -> str:
    """What stands between thoughts and answer in `canonical_text`, without white space behind."""
    text = canonical_text("\0", "\1", "\1", form)
    return text.partition("\0")[2].partition("\1")[0].rstrip()


def thoughts_end(text: str, prompt: PromptConfig) -> int | None:
    """Where a completion's thoughts are over, behind the mark; None while they are not."""
    mark, full_text, begin = closing_mark(prompt.form), prompt.prefill + text, 0
    if prompt.form is not None and prompt.form.opening == mark:
        begin = full_text.find(mark) + len(mark)
        if begin < len(mark):
            return None
    position = full_text.find(mark, begin)
    return None if position < 0 else max(0, position + len(mark) - len(prompt.prefill))


def thinking_tokens(ids: Sequence[int], tokenizer: Any, prompt: PromptConfig) -> int | None:
    """How many of a completion's tokens its thoughts take, with the mark that ends them; None for
    thoughts that do not end."""

    def is_over(count: int) -> bool:
        return thoughts_end(decoded(tokenizer, ids[:count]), prompt) is not None

    return bisect_left(range(len(ids)), True, key=is_over) if is_over(len(ids)) else None


def whole_tokens(ids: Sequence[int], tokenizer: Any, prompt: PromptConfig) -> Sequence[int]:
    """The tokens without a torn end: a piece of a character, or of the mark that is to follow."""
    mark = closing_mark(prompt.form)
    first = max(0, len(ids) - 4 * len(mark))
    text = decoded(tokenizer, ids[first:])
    torn = next((n for n in range(len(mark) - 1, 0, -1) if text.endswith(mark[:n])), 0)
    end = len(ids)
    while end > first and len(decoded(tokenizer, ids[first:end])) > len(text) - torn:
        end -= 1
    for _ in range(3):
        if end > first and decoded(tokenizer, ids[first:end]).endswith("\ufffd"):
            end -= 1
    return ids[:end]


def check_budgets(
    budgets: Sequence[int], prompt: PromptConfig, *, limits: Mapping[str, int | None], judged: bool
) -> None:
    """ValueError where no thoughts could be closed so.

    `limits` are new tokens by benchmark, None for tasks of lm-eval's registry.
    """
    if list(budgets) != sorted(set(budgets)):
        raise ValueError("budgets: each once, in rising order")
    for name, limit in limits.items():
        if limit is None:
            raise ValueError(
                f"budgets: benchmark {name} is a task of lm-eval's registry, asked in a form "
                "without thoughts: evaluate it in a stage without budgets"
            )
        if budgets[-1] >= limit:
            raise ValueError(
                f"budgets: {budgets[-1]} leaves no token of benchmark {name} (max_new_tokens: "
                f"{limit}) for an answer; answers as they are drawn are measured anyway"
            )
    if judged:
        raise ValueError(
            "budgets: a judge decides when all answers are drawn: evaluate open problems in a "
            "stage without budgets"
        )
    if thoughts_end("", prompt) is not None:
        raise ValueError("budgets: prompt.prefill ends the thoughts already: there are none")
