"""Chat templates that can be given to a base model, with the token that ends a turn."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from factory.core.data_file import DataFile
from factory.core.errors import RecipeError
from factory.core.records import Record
from factory.models.tiny import CHAT_TEMPLATE
from factory.models.transformers4 import write_tokenizer_fields
from factory.text.templates import LONGEST_TEMPLATE, open_tokenizer


class TemplateFile(Record):
    """A chat template of your own, for models of other families."""

    template: DataFile
    """A Jinja file, beside the recipe or in the current folder."""
    end: str = Field(min_length=1)
    """The token of the model's vocabulary with which the template ends a turn."""


NamedTurns = Literal["chatml", "llama3", "plain"]
Turns = NamedTurns | TemplateFile

LLAMA3_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}"
    "<|end_header_id|>\n\n{{ message['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
PLAIN_TEMPLATE = (
    "{{ bos_token or '' }}{% for message in messages %}{{ message['role'] | capitalize }}:\n"
    "{{ message['content'] }}{{ eos_token if message['role'] == 'assistant' else '' }}\n\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:\n{% endif %}"
)
"""Roles in words and the tokenizer's own end of text, for vocabularies without tokens of turns."""


@dataclass(frozen=True)
class TurnFormat:
    template: str
    begin: str
    """The token that opens a turn; empty where words do."""
    end: str
    """The token that ends a turn; the model learns to end its text with it. Empty: its own."""


FORMATS: dict[NamedTurns, TurnFormat] = {
    "chatml": TurnFormat(CHAT_TEMPLATE, "<|im_start|>", "<|im_end|>"),
    "llama3": TurnFormat(LLAMA3_TEMPLATE, "<|start_header_id|>", "<|eot_id|>"),
    "plain": TurnFormat(PLAIN_TEMPLATE, "", ""),
}


def fitting(vocabulary: Collection[str]) -> NamedTurns:
    """The first of the formats whose tokens a vocabulary has."""
    return next(
        name for name, form in FORMATS.items() if {form.begin, form.end} - {""} <= set(vocabulary)
    )


def set_turns(folder: Path, turns: Turns) -> None:
    """Rewrite a model folder's tokenizer, config and generation config for this chat template.

    RecipeError where the model's vocabulary lacks the template's tokens: new tokens would have
    untrained embeddings.
    """
    if isinstance(turns, TemplateFile):
        form, name = TurnFormat(_template_of(turns), "", turns.end), str(turns.template)
    else:
        form, name = FORMATS[turns], turns
    tokenizer = open_tokenizer(folder)
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in (form.begin, form.end) if token and token not in vocabulary]
    end = form.end or tokenizer.eos_token
    if missing or not end:
        missing = missing or ["end of text"]
        raise RecipeError(
            f"turns: {name}: the model's vocabulary has no {' and no '.join(missing)}; "
            f"take another of {', '.join(FORMATS)}, or a file of your own: "
            "{template: turns.jinja, end: TOKEN}"
        )
    tokenizer.chat_template = form.template
    tokenizer.eos_token = end
    if tokenizer.pad_token is None:
        tokenizer.pad_token = end
    tokenizer.save_pretrained(folder)
    # A special_tokens_map.json of the source would go on naming the earlier end of text.
    write_tokenizer_fields(folder)
    for name in ("config.json", "generation_config.json"):
        path = folder / name
        fields = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        fields["eos_token_id"] = tokenizer.eos_token_id
        fields["pad_token_id"] = tokenizer.pad_token_id
        path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def keep_default_template(folder: Path) -> None:
    """Of several named chat templates leave the one that is used, `default`, so that all later
    stages see one. RecipeError where none is called so."""
    path = folder / "tokenizer_config.json"
    fields = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    listed = fields.get("chat_template") if isinstance(fields, dict) else None
    if not isinstance(listed, list):
        return
    named = {t.get("name"): t.get("template") for t in listed if isinstance(t, dict)}
    if not isinstance(named.get("default"), str):
        raise RecipeError(
            f"the model has chat templates named {', '.join(map(str, named)) or 'nothing'} and no "
            "default: give it one by `turns`"
        )
    fields["chat_template"] = named["default"]
    path.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _template_of(turns: TemplateFile) -> str:
    try:
        data = Path(turns.template).read_bytes()[: LONGEST_TEMPLATE + 1]
        text = data.decode("utf-8")
    except (OSError, ValueError) as error:
        raise RecipeError(f"turns: {turns.template}: cannot be read: {error}") from error
    if len(data) > LONGEST_TEMPLATE:
        raise RecipeError(f"turns: {turns.template}: longer than {LONGEST_TEMPLATE} bytes")
    return text
