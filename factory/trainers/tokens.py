"""Tokens of their own for the marks of an output form: tokenizer, embeddings, saved files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import AddedToken, Tokenizer

from factory.core.errors import RecipeError
from factory.models.parts import embedding_of, head_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Pieces = Mapping[str, tuple[int, ...]]
"""By new token: the ids that its text was before it had one of its own."""


def add_tokens(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> Pieces:
    """Give each text that is not one token yet an id of its own, in this tokenizer object.

    They are ordinary tokens, not special ones: engines leave special tokens out of their text, and
    the parser would never see them.
    """
    pieces: dict[str, tuple[int, ...]] = {}
    for text in texts:
        ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        if len(ids) > 1:
            pieces[text] = ids
    tokens: list[Any] = [_token(text) for text in pieces]  # transformers annotates its own class
    tokenizer.add_tokens(tokens)
    return pieces


def _token(text: str) -> AddedToken:
    return AddedToken(text, special=False, normalized=False)


def grow_embeddings(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", pieces: Pieces
) -> None:
    """Room and a start for the new tokens: each row is the mean of the rows of its old pieces.

    The rows already there stay as they are. Where the table is larger than the vocabulary (Qwen
    pads it) its spare rows are taken. Tied tables stay tied; an untied head gets rows of its own.
    Differs from transformers' own resizing, which draws rows at random.
    """
    needed = 1 + max(tokenizer.get_vocab().values())
    if needed > embedding_of(model).weight.shape[0]:
        model.resize_token_embeddings(needed, mean_resizing=False)
    with torch.no_grad():
        for table in (embedding_of(model), head_of(model)):
            for text, ids in pieces.items():
                new = tokenizer.convert_tokens_to_ids(text)
                table.weight[new] = table.weight[list(ids)].mean(dim=0)


def write_tokens(folder: Path, texts: Sequence[str]) -> None:
    """Add the tokens to the tokenizer file of a saved model folder."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise RecipeError(
            "add_tokens: the model has no tokenizer.json to add tokens to; take marks that its "
            "vocabulary has"
        )
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_tokens([_token(text) for text in texts])
    tokenizer.save(str(path))
