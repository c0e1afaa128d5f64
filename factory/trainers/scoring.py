"""Scores of a reward model: one number a text, and what that number means."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import AutoModelForSequenceClassification

from factory.core.errors import ArtifactError
from factory.core.jsonl import read_records
from factory.core.ranks import whole_weights
from factory.core.records import Record
from factory.models.parts import move
from factory.preferences.reading import response_ids
from factory.text.templates import open_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CARD = "reward_model.json"
"""File that makes a model folder a reward model."""

Objective = Literal["pairs", "labels"]


class RewardCard(Record):
    """What a reward model learned from, and the scale of its scores."""

    objective: Objective
    """pairs: a score means something only beside another one. labels: it is the logit of safe."""
    mean: float
    """Of the scores of training texts; 0 for labels."""
    deviation: float
    """Their standard deviation; 1 for labels."""


def read_card(folder: Path) -> RewardCard:
    """The card of a reward model; DataError where it is broken or missing."""
    return next(read_records(folder / CARD, RewardCard))


class Scorer:
    """Holds one reward model in memory."""

    def __init__(self, folder: Path, *, device: Any, dtype: torch.dtype, rows: int) -> None:
        """`rows` are scored in one pass."""
        self.card = read_card(folder)
        self.rows = rows
        self.device = torch.device(device)
        self.tokenizer = open_tokenizer(folder)
        self.model = open_classifier(folder, dtype).eval()
        move(self.model, self.device)

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """The raw score of each response, whatever its length (R1v2 3.1: no limit at inference)."""
        texts = zip(prompts, responses, strict=True)
        return self.score_ids([response_ids(p, r, self.tokenizer) for p, r in texts])

    def reward(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Scores as rewards in (0, 1): sigmoid((score - mean) / deviation) by the card.

        The paper adds a reward model's output to rewards of 0 and 1 and states no scale. A score
        learned from pairs has no zero and no unit of its own, so it is measured against those of
        the training texts: a text as good as their mean has 1/2. For a score learned from labels
        this is the probability of being safe.
        """
        card = self.card
        scores = torch.tensor(self.score(prompts, responses), dtype=torch.float64)
        return ((scores - card.mean) / card.deviation).sigmoid().tolist()

    @torch.no_grad()
    def score_ids(self, texts: Sequence[Sequence[int]]) -> list[float]:
        """Scores of texts that are tokens already, in their order."""
        order = sorted(range(len(texts)), key=lambda row: (-len(texts[row]), row))
        scores = [0.0] * len(texts)
        for start in range(0, len(order), self.rows):
            places = order[start : start + self.rows]
            batch = padded([texts[row] for row in places], self.model.config.pad_token_id)
            outputs = self.model(
                input_ids=batch["input_ids"].to(self.device),
                attention_mask=batch["attention_mask"].to(self.device),
                use_cache=False,
            ).logits
            for row, score in zip(places, outputs[:, 0].float().tolist(), strict=True):
                scores[row] = score
        return scores


def open_classifier(folder: Path, dtype: torch.dtype, *, seed: int = 0) -> "PreTrainedModel":
    """The model of a folder with one score; a head that it lacks is drawn from `seed`.

    The score is read at the last token that is not padding. ArtifactError if it cannot be opened.
    """
    tokenizer = open_tokenizer(folder)
    padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    if padding is None:
        raise ArtifactError(f"{folder}: its tokenizer has neither padding nor an end of text")
    with torch.random.fork_rng(devices=[]), whole_weights():
        torch.manual_seed(seed)
        try:
            model = AutoModelForSequenceClassification.from_pretrained(
                folder, num_labels=1, dtype=dtype, use_safetensors=True, local_files_only=True
            )
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{folder}: not a model that can give scores: {error}") from error
    model.config.get_text_config().pad_token_id = padding
    return model


def padded(texts: Sequence[Sequence[int]], padding: int) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` (texts, longest), padded on the right."""
    width = max(len(text) for text in texts)
    ids = torch.full((len(texts), width), padding, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
        mask[row, : len(text)] = 1
    return {"input_ids": ids, "attention_mask": mask}
