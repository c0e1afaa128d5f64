"""The chat template that a checkpoint is served with: it asks exactly as training asked."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from factory.core.artifacts import Artifact, find
from factory.core.errors import ArtifactError
from factory.text.chat import PromptConfig, render
from factory.text.templates import TemplateFault, written_messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORGET_THOUGHTS = (
    "{%- set kept = namespace(messages=[], last=0) -%}{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}{%- set kept.last = loop.index -%}{%- endif -%}"
    "{%- endfor -%}{%- for message in messages -%}"
    "{%- if loop.index < kept.last and message['role'] == 'assistant'"
    " and message['content'] is string and MARK in message['content'] -%}"
    "{%- set kept.messages = kept.messages + [{'role': 'assistant', 'content': "
    "message['content'].split(MARK)[-1].strip()}] -%}"
    "{%- else -%}{%- set kept.messages = kept.messages + [message] -%}{%- endif -%}"
    "{%- endfor -%}{%- set messages = kept.messages %}"
)
"""Thoughts of turns before the last question, up to the mark that closes them, are dropped, as the
released R1 family's templates do. Training never holds an earlier turn, so this changes nothing it
saw; an answer to the last question keeps its thoughts, for who trains on or goes on writing."""
_SWITCH = re.compile(r"\b[a-z_]*(?:think|reason)[a-z_]*\b")
"""Names by which a template may be told to think or not."""
MOST_SWITCHES = 16
QUESTION = "What is 2 + 3?"
PROBES = (QUESTION, "Zähle: 1, 2, …\n\n  <b>x</b>", " ")
"""Questions that are rendered and tokenised in two ways, to compare."""


def training_prompt(artifact: Artifact, ancestors: Sequence[Artifact]) -> PromptConfig:
    """How the model was asked when its weights last changed; the bare chat template if never."""
    by_fingerprint = {ancestor.fingerprint: ancestor for ancestor in ancestors}
    current: Artifact | None = artifact
    while current is not None:
        if "prompt" in current.manifest.config:
            fields = current.manifest.config["prompt"]
            return PromptConfig.model_validate(fields, strict=False)
        entry = current.manifest.inputs.get("model")
        current = None if entry is None else by_fingerprint.get(entry.fingerprint)
    return PromptConfig()


def stored_prompt(artifact: Artifact) -> PromptConfig:
    """`training_prompt` of a model in a store, whatever else of its ancestry is gone from there.

    ArtifactError where a model between it and the stage that last trained it is gone.
    """
    models, current = [], artifact
    while "prompt" not in current.manifest.config and "model" in current.manifest.inputs:
        entry, store = current.manifest.inputs["model"], artifact.path.parent
        source = find(store, entry.fingerprint)
        if source is None:
            raise ArtifactError(
                f"{current.name}: how it was asked in training is not known: its model "
                f"{entry.name} ({entry.fingerprint[:12]}) is not in {store}; build it again"
            )
        models.append(source)
        current = source
    return training_prompt(artifact, models)


def serving_template(tokenizer: "PreTrainedTokenizerBase", prompt: PromptConfig) -> str:
    """A Jinja template that renders a lone question to what training showed, to the character.

    The checkpoint's own template, with the system message and the prefilled beginning of the
    answer that training had, and without the thoughts of earlier turns. ArtifactError for styles
    that no chat template can ask in.
    """
    template = tokenizer.chat_template
    if prompt.style != "chat" or not isinstance(template, str):
        reason = f"trained with prompt style {prompt.style!r}" if template else "no chat template"
        raise ArtifactError(
            f"{reason}: a served chat would not ask as training did; publish a checkpoint that was "
            "trained in style chat"
        )
    messages = [{"role": "user", "content": QUESTION}]
    closing = prompt.form.closing if prompt.form is not None else "</think>"
    head = FORGET_THOUGHTS.replace("MARK", _literal(closing))
    if prompt.system is not None:
        messages = [{"role": "system", "content": prompt.system}, *messages]
        head += (
            "{%- if messages[0]['role'] != 'system' -%}{%- set messages = [{'role': 'system', "
            f"'content': {_literal(prompt.system)}}}] + messages -%}}{{%- endif %}}"
        )
    bare = written_messages(messages, tokenizer, opens=True)
    # Where the template opens the thoughts by itself, training added nothing to it.
    prefill = render(QUESTION, prompt, tokenizer).removeprefix(bare)
    asks = "".join(
        f" and not ({name} is defined and {name} == {str(value).lower()})"
        for name, value in _switches(tokenizer, messages, bare, (closing, prefill.strip()))
    )
    tail = f"{{% if add_generation_prompt{asks} %}}{{{{ {_literal(prefill)} }}}}{{% endif %}}"
    # Jinja drops a template's last line break; with a tail behind it, it would count.
    return head + template.removesuffix("\n") + (tail if prefill else "")


def _switches(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Mapping[str, str]],
    bare: str,
    marks: Sequence[str],
) -> list[tuple[str, bool]]:
    """(variable, value) with which a template opens or closes thoughts where it does not by itself:
    what training wrote there must not stand behind it."""
    switches: list[tuple[str, bool]] = []
    names = dict.fromkeys(_SWITCH.findall(str(tokenizer.chat_template)))
    for name in list(names)[:MOST_SWITCHES]:
        for value in (False, True):
            try:
                text = written_messages(messages, tokenizer, opens=True, **{name: value})
            except TemplateFault:
                continue
            added = text.rpartition(QUESTION)[2].removeprefix(bare.rpartition(QUESTION)[2])
            if any(mark and mark in added for mark in marks):
                switches.append((name, value))
    return switches


def _literal(text: str) -> str:
    """A Jinja string literal."""
    return json.dumps(text, ensure_ascii=False)
