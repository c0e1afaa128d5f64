"""Preferences as token rows for a reward model, and who is held out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from factory.core.records import Labelled, Pair
from factory.core.seeds import derive
from factory.preferences.reading import response_ids
from factory.problems.splits import question_key

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PairRow:
    """A pair as tokens, each side with the prompt before it."""

    prompt: str
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]

    @property
    def tokens(self) -> int:
        return max(len(self.chosen_ids), len(self.rejected_ids))


@dataclass(frozen=True)
class LabelRow:
    """A labelled response as tokens, with the prompt before it."""

    prompt: str
    ids: tuple[int, ...]
    is_safe: bool

    @property
    def tokens(self) -> int:
        return len(self.ids)


Row = PairRow | LabelRow


def pair_rows(pairs: Sequence[Pair], tokenizer: "PreTrainedTokenizerBase") -> list[PairRow]:
    """Both sides of every pair as a reward model reads them."""
    return [
        PairRow(
            pair.prompt,
            response_ids(pair.prompt, pair.chosen, tokenizer),
            response_ids(pair.prompt, pair.rejected, tokenizer),
        )
        for pair in pairs
    ]


def label_rows(labels: Sequence[Labelled], tokenizer: "PreTrainedTokenizerBase") -> list[LabelRow]:
    """Every labelled response as a reward model reads it."""
    return [
        LabelRow(label.prompt, response_ids(label.prompt, label.response, tokenizer), label.is_safe)
        for label in labels
    ]


def hold_out(rows: Sequence[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """(rows to train on, rows held out): a share of the prompts, at least one, at most all but one.

    By prompt, so that no prompt is on both sides; which ones depends on seed and text alone.
    """
    keys = {row.prompt: question_key(row.prompt) for row in rows}
    order = sorted(set(keys.values()), key=lambda key: (derive(seed, "held out", key), key))
    count = min(max(1, math.ceil(share * len(order))), len(order) - 1)
    held_out = set(order[:count])
    return (
        [row for row in rows if keys[row.prompt] not in held_out],
        [row for row in rows if keys[row.prompt] in held_out],
    )
