"""Traces as token rows for supervised fine-tuning: lengths, what is dropped, and the order."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from factory.core.errors import DataError
from factory.core.records import Trace
from factory.core.seeds import derive
from factory.sampling.ends import answer_end
from factory.text.chat import OutputForm, PromptConfig, canonical_text, render
from factory.text.lint import lint
from factory.text.templates import token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""Label of a position that carries no loss, in torch and in TRL."""
AT_ONCE = 2**18
"""Characters that are tokenised in one call: a tokenizer takes over 100 bytes a token for them."""


@dataclass(frozen=True)
class Row:
    """One trace as tokens: what the student reads, then what it learns to write."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    """Ends with the token that ends a turn in the model's template: the student learns to stop."""

    @property
    def tokens(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)

    @property
    def labels(self) -> list[int]:
        """The completion's ids at their places, the prompt ignored.

        Set by position, never by comparing ids: where padding equals end-of-text (SmolLM2), a
        mask of padding ids would also hide the one token that teaches the model to stop.
        """
        return [IGNORED] * len(self.prompt_ids) + list(self.completion_ids)


def tokenise(
    traces: Iterable[Trace],
    prompt: PromptConfig,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    verbatim: bool = False,
) -> list[Row]:
    """All of `token_rows` at once."""
    return list(token_rows(traces, prompt, tokenizer, verbatim=verbatim))


def token_rows(
    traces: Iterable[Trace],
    prompt: PromptConfig,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    verbatim: bool = False,
) -> Iterator[Row]:
    """One row a trace, in order; those of a few traces are held at a time.

    Prompt and completion are tokenised apart, as they are when the student is sampled. A special
    token that a trace spells out (`<|im_end|>`) is tokenised as ordinary characters. `verbatim`
    takes completions as they were sampled; else DataError if a trace has no reasoning or answer to
    write in the canonical form. DataError if there is no trace at all. Each ends with `answer_end`,
    whose errors say that there is none.
    """
    end = answer_end(tokenizer, prompt)
    opening = prompt.form.opening if prompt.form else "<think>"
    texts: list[tuple[str, str, str]] = []
    characters, is_empty = 0, True
    for trace in traces:
        is_empty = False
        rendered = render(trace.question, prompt, tokenizer)
        completion = _completion(trace, prompt.form, verbatim=verbatim)
        texts.append((trace.question, rendered, _continue(rendered, completion, opening)))
        characters += len(rendered) + len(completion)
        if characters >= AT_ONCE:
            yield from _rows(texts, prompt, tokenizer, end)
            texts, characters = [], 0
    if texts:
        yield from _rows(texts, prompt, tokenizer, end)
    if is_empty:
        raise DataError("sft: the traces artifact is empty; nothing to learn from")


def _rows(
    texts: Sequence[tuple[str, str, str]],
    prompt: PromptConfig,
    tokenizer: "PreTrainedTokenizerBase",
    end: int,
) -> Iterator[Row]:
    """Rows of (question, rendered prompt, completion)."""
    questions, prompts, completions = (list(column) for column in zip(*texts, strict=True))
    prompt_ids = token_ids(prompts, tokenizer)
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    for index, question in enumerate(questions):
        if any(token in question for token in special):
            prompt_ids[index] = _with_text(prompts[index], question, prompt, tokenizer)
    completion_ids = token_ids(completions, tokenizer, is_text=True)
    for before, after in zip(prompt_ids, completion_ids, strict=True):
        yield Row(tuple(before), (*after, end))


def _with_text(
    rendered: str, question: str, prompt: PromptConfig, tokenizer: "PreTrainedTokenizerBase"
) -> list[int]:
    """Ids of a rendered prompt in which the question's special tokens are ordinary characters."""
    mark = "\ue000question\ue000"
    start = render(mark, prompt, tokenizer).index(mark)
    # Some templates take the blanks around a message away.
    text = question if rendered.startswith(question, start) else question.strip()
    pieces = (rendered[:start], text, rendered[start + len(text) :])
    ids: list[int] = []
    for piece, is_text in zip(pieces, (False, True, False), strict=True):
        ids += token_ids([piece], tokenizer, is_text=is_text)[0]
    return ids


def _completion(trace: Trace, form: OutputForm | None, *, verbatim: bool) -> str:
    if verbatim:
        return trace.completion.strip()
    if trace.reasoning is None or trace.answer is None:
        raise DataError(
            f"sft: trace {trace.problem_id}/{trace.sample} has no reasoning or no answer; "
            "put a select stage that keeps well-formed traces before this one"
        )
    text = canonical_text(trace.reasoning, trace.answer, trace.summary, form)
    faults = lint(text, form=form) if form is not None else []
    if faults:
        raise DataError(
            f"sft: trace {trace.problem_id}/{trace.sample} cannot be written in the output form: "
            f"{'; '.join(faults)}"
        )
    return text


def _continue(prompt: str, completion: str, opening: str) -> str:
    """The completion without the opening tag or mark where the prompt already wrote it."""
    if prompt.rstrip().endswith(opening):
        completion = completion.removeprefix(opening)
        return completion.lstrip() if prompt[-1].isspace() else completion
    return completion


def plan_order(
    lengths: Sequence[int],
    *,
    epochs: int,
    batch: int,
    micro_batch: int,
    level: bool,
    seed: int,
    longest_first: bool = False,
) -> list[int]:
    """Row indices in the order of training: whole batches, each cut into micro-batches.

    Every epoch is a fresh shuffle, and one batch may span two epochs. The last batch is filled
    from one more shuffle, so that all steps weigh the same. What shares a batch depends on the
    seed alone. Inside a batch the order is free, since gradients add up, and serves speed:
    longest first, so that the rows of a micro-batch need little padding; with `level`, the rows
    are dealt out so that micro-batches hold about equally many tokens (packed: no padding, and
    the fullest micro-batch sets the memory). `longest_first` has the batch that needs most memory
    change places with the first: the one with the longest row, or with `level` of most tokens.
    """
    import numpy as np

    steps = step_count(len(lengths), epochs=epochs, batch=batch)
    same = list(range(len(lengths)))  # a number is one object, however often it is in the order
    stream: list[int] = []
    for epoch in range(math.ceil(steps * batch / len(lengths))):
        keys = np.fromiter((derive(seed, "epoch", epoch, "row", row) for row in same), np.int64)
        stream += [same[row] for row in keys.argsort(kind="stable").tolist()]
    batches = [
        sorted(stream[start : start + batch], key=lambda row: (-lengths[row], row))
        for start in range(0, steps * batch, batch)
    ]
    del stream
    if longest_first:
        sizes = [sorted((lengths[row] for row in rows), reverse=True) for rows in batches]
        heaviest = max(range(steps), key=lambda at: (sum(sizes[at]) if level else 0, sizes[at]))
        batches[0], batches[heaviest] = batches[heaviest], batches[0]
    return [
        row for rows in batches for row in (_deal(rows, batch // micro_batch) if level else rows)
    ]


def _deal(rows: Sequence[int], hands: int) -> list[int]:
    """Rows dealt to and fro over `hands`, so that each gets as many and a fair mix of lengths."""
    dealt: list[list[int]] = [[] for _ in range(hands)]
    for index, row in enumerate(rows):
        turn, seat = divmod(index, hands)
        dealt[seat if turn % 2 == 0 else hands - 1 - seat].append(row)
    return [row for hand in dealt for row in hand]


def step_count(rows: int, *, epochs: int, batch: int) -> int:
    """Optimizer steps that show every row `epochs` times, the last batch filled up."""
    return math.ceil(rows * epochs / batch)
