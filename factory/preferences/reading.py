"""Texts by strangers as tokens: no text can write a special token, a turn or a frame's mark."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from factory.text.chat import PromptConfig, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def framed_ids(
    frame: str, texts: Mapping[str, str], tokenizer: "PreTrainedTokenizerBase"
) -> tuple[int, ...]:
    """Token ids of a rendered frame with each key of `texts` replaced by its text.

    The frame's special tokens count; those that a text spells out (`<|im_end|>`) are split into
    ordinary characters, so that no text ends its own turn and begins another.
    """
    keys = "|".join(re.escape(key) for key in texts)
    ids: list[int] = []
    for piece in re.split(f"({keys})", frame):
        is_text = piece in texts
        words = texts[piece] if is_text else piece
        if words:
            encoded = tokenizer(words, add_special_tokens=False, split_special_tokens=is_text)
            ids += encoded["input_ids"]
    return tuple(ids)


def response_ids(
    prompt: str, response: str, tokenizer: "PreTrainedTokenizerBase"
) -> tuple[int, ...]:
    """What a reward model reads: the prompt as the user's turn, then the response, unfinished.

    In training and in scoring alike. No end-of-text token follows: where padding is that token
    (SmolLM2), a sequence classifier that looks for the last token that is not padding would skip
    it, and read its score elsewhere than it does without padding.
    """
    mark = "\ue000prompt\ue000"
    ids = framed_ids(render(mark, PromptConfig(), tokenizer), {mark: prompt}, tokenizer)
    said = tokenizer(response, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return (*ids, *said)
