"""A model on a server as a folder: who is to be asked, and a tokenizer to write prompts with.

With the served model's own tokenizer the folder writes prompts as any model's folder does. Without
it a stand-in takes its place: it writes the messages of a conversation as JSON and reads bytes, so
that the server's own template can make the prompt. No text in a message can pass for a message.
"""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from factory.core.records import Record, Url

FILE = "endpoint.json"
MARK = "<|messages|>"
"""What a conversation in JSON begins with; any other prompt is plain text."""
TEMPLATE = MARK + "{{ messages | tojson }}"

Message = dict[str, Any]


class Served(Record):
    """A model behind a server with OpenAI's HTTP interface."""

    url: Url
    """Up to and with its version, e.g. http://127.0.0.1:8000/v1. Without names, passwords and
    queries: it is recorded in manifests."""
    name: str = Field(min_length=1)
    """The server's name of the model."""
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls the most tokens of a completion in a chat."""
    fields: dict[str, Any] = Field(default_factory=dict)
    """Further fields of every request, e.g. `reasoning_effort: high`."""
    has_tokenizer: bool
    """Whether the folder has the model's own tokenizer."""


def write_served(folder: Path, served: Served) -> None:
    """Write `endpoint.json`, and the stand-in for a tokenizer unless the folder has one."""
    (folder / FILE).write_text(served.model_dump_json(indent=2) + "\n", encoding="utf-8")
    if not served.has_tokenizer:
        messages_tokenizer().save_pretrained(folder)


def read_served(folder: Path) -> Served | None:
    """Who is to be asked; None where the folder holds weights."""
    path = folder / FILE
    return Served.model_validate_json(path.read_bytes()) if path.is_file() else None


def messages_tokenizer() -> Any:
    """One token a byte; its template writes messages as JSON."""
    from factory.models.tiny import byte_tokenizer

    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.model_max_length = 2**31
    return tokenizer


def messages_of(prompt: str) -> tuple[list[Message], str] | None:
    """The messages of a prompt and the prefill behind them; None for plain text."""
    if not prompt.startswith(MARK):
        return None
    messages, end = json.JSONDecoder().raw_decode(prompt, len(MARK))
    return messages, prompt[end:]
