"""Whether two models read and write the same tokens."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import AutoTokenizer

from factory.errors import RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NOT_OF_TOKENS = ("truncation", "padding", "post_processor")
"""Parts of a tokenizer's file that change no id here, where texts are written without the special
tokens that a tokenizer adds by itself."""


def tokenizer_fingerprint(tokenizer: "PreTrainedTokenizerBase") -> str:
    """sha256 over what decides a text's ids and an id's text; equal ones may share ids.

    The chat template is not in it: it decides the text, not its ids.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        parts = tokenizer.get_vocab()
    else:
        whole = json.loads(backend.to_str())
        parts = {name: part for name, part in whole.items() if name not in NOT_OF_TOKENS}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def first_difference(one: "PreTrainedTokenizerBase", other: "PreTrainedTokenizerBase") -> str:
    """In words: how two tokenizers differ, by the lowest id that means different things."""
    first, second = ({i: t for t, i in x.get_vocab().items()} for x in (one, other))
    for number in sorted({*first, *second}):
        if first.get(number) != second.get(number):
            return f"id {number} is {first.get(number)!r} here and {second.get(number)!r} there"
    return "the same pieces, cut or joined by other rules"


def shared_tokenizer(student: Path, teacher: Path) -> "PreTrainedTokenizerBase":
    """The student's tokenizer; RecipeError where an id means something else to the teacher."""
    own, other = (
        AutoTokenizer.from_pretrained(folder, local_files_only=True)
        for folder in (student, teacher)
    )
    if tokenizer_fingerprint(own) != tokenizer_fingerprint(other):
        raise RecipeError(
            f"teacher: its tokens are not the student's ({first_difference(own, other)}), and "
            "distributions are compared id by id: take a teacher of the student's family, or "
            "learn from its texts with sft"
        )
    return own
