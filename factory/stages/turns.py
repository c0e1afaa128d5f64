"""Chat templates that can be given to a base model, with the token that ends a turn."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from factory.errors import RecipeError
from factory.templates import open_tokenizer
from factory.tiny import CHAT_TEMPLATE
from factory.transformers4 import write_tokenizer_fields

Turns = Literal["chatml", "llama3"]

LLAMA3_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}"
    "<|end_header_id|>\n\n{{ message['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


@dataclass(frozen=True)
class TurnFormat:
    template: str
    begin: str
    """The token that opens a turn."""
    end: str
    """The token that ends a turn; the model learns to end its text with it."""


FORMATS: dict[Turns, TurnFormat] = {
    "chatml": TurnFormat(CHAT_TEMPLATE, "<|im_start|>", "<|im_end|>"),
    "llama3": TurnFormat(LLAMA3_TEMPLATE, "<|start_header_id|>", "<|eot_id|>"),
}


def set_turns(folder: Path, turns: Turns) -> None:
    """Rewrite a model folder's tokenizer, config and generation config for this chat template.

    RecipeError where the model's vocabulary lacks the template's tokens: new tokens would have
    untrained embeddings.
    """
    form = FORMATS[turns]
    tokenizer = open_tokenizer(folder)
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in (form.begin, form.end) if token not in vocabulary]
    if missing:
        raise RecipeError(
            f"turns: {turns}: the model's vocabulary has no {' and no '.join(missing)}; "
            f"take another of {', '.join(FORMATS)}, or leave turns out"
        )
    tokenizer.chat_template = form.template
    tokenizer.eos_token = form.end
    if tokenizer.pad_token is None:
        tokenizer.pad_token = form.end
    tokenizer.save_pretrained(folder)
    # A special_tokens_map.json of the source would go on naming the earlier end of text.
    write_tokenizer_fields(folder)
    for name in ("config.json", "generation_config.json"):
        path = folder / name
        fields = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        fields["eos_token_id"] = tokenizer.eos_token_id
        fields["pad_token_id"] = tokenizer.pad_token_id
        path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
