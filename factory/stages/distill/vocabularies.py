"""Whether two models read and write the same tokens."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from factory.core.errors import RecipeError
from factory.sampling.ends import answer_end, end_ids
from factory.text.chat import PromptConfig
from factory.text.templates import open_tokenizer

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
        full_state = json.loads(backend.to_str())
        parts = {name: part for name, part in full_state.items() if name not in NOT_OF_TOKENS}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def first_difference(own: "PreTrainedTokenizerBase", other: "PreTrainedTokenizerBase") -> str:
    """In words: how two tokenizers differ, by the lowest id that means different things."""
    first, second = ({i: t for t, i in x.get_vocab().items()} for x in (own, other))
    for number in sorted({*first, *second}):
        if first.get(number) != second.get(number):
            return f"id {number} is {first.get(number)!r} here and {second.get(number)!r} there"
    return "the same pieces, cut or joined by other rules"


def shared_tokenizer(student: Path, teacher: Path) -> "PreTrainedTokenizerBase":
    """The student's tokenizer; RecipeError where an id means something else to the teacher."""
    own, other = (open_tokenizer(folder) for folder in (student, teacher))
    if tokenizer_fingerprint(own) != tokenizer_fingerprint(other):
        raise RecipeError(
            f"teacher: its tokens are not the student's ({first_difference(own, other)}), and "
            "distributions are compared id by id: take a teacher of the student's family, or "
            "learn from its texts with sft"
        )
    return own


def require_shared_ends(
    ends: Sequence[int],
    teacher: Path,
    prompt: PromptConfig,
    *,
    tokenizer: "PreTrainedTokenizerBase",
) -> None:
    """RecipeError where the teacher ends its answers elsewhere than at the student's `ends`.

    A student of such a teacher learns never to stop: its own end becomes unlikely, or it learns one
    at which it is not stopped. `tokenizer` is the student's.
    """
    own = open_tokenizer(teacher)
    theirs = end_ids(teacher, own)
    learned = answer_end(tokenizer, prompt)
    if learned in theirs and set(theirs) <= set(ends):
        return
    ours, others = (tokenizer.convert_ids_to_tokens(list(ids)) for ids in (ends, theirs))
    raise RecipeError(
        f"teacher: ends its answers with {_listed(others)}, and the student's end with "
        f"{tokenizer.convert_ids_to_tokens(learned)} and are stopped at {_listed(ours)}: the "
        "student would learn not to stop. Take a teacher with the student's end of turn, or give "
        "both model stages the same turns"
    )


def _listed(tokens: Sequence[str]) -> str:
    return " or ".join(map(str, tokens)) or "nothing"
