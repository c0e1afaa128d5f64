"""The gate, first half: what can be said about a folder without running the model.

Every check ends as passed, refused with its reason, or not run with why. One refusal is enough.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import yaml

from factory.core.artifacts import Artifact, sha256_file
from factory.core.errors import FactoryError
from factory.core.records import Record
from factory.publish.earlier import limits, old_faults
from factory.publish.export import is_weights
from factory.publish.licences import Terms
from factory.publish.scan import executables, machine_paths, secrets
from factory.publish.template import PROBES
from factory.sampling.ends import answer_end, end_ids, listed
from factory.text.chat import PromptConfig, render
from factory.text.templates import open_tokenizer, written_messages
from factory.text.visible import hidden_characters

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Status = Literal["passed", "refused", "not run", "gap"]
"""A gap would be refused where others are to use the folder; a private export names it."""
GAPS = frozenset(
    {
        "licences", "scores", "secrets", "paths", "row secrets", "row paths", "transformers 4",
        "stops", "thinks", "benchmark", "vllm",
    }
)  # fmt: skip
"""Checks of what others would have to know. The rest asks whether the folder is the checkpoint, and
refuses a private export too."""
TOLD = 3
"""Faults of one check that its reason names."""


class Check(Record):
    """One thing that was looked at."""

    name: str
    status: Status
    reason: str


@dataclass(frozen=True)
class Subject:
    """A folder that wants to be published, and the checkpoint that it claims to be."""

    folder: Path
    artifact: Artifact
    prompt: PromptConfig
    scores: Sequence[Artifact]
    terms: Terms
    places: tuple[Path, ...]
    """Folders of this machine that nothing published may name."""


def check(name: str, faults: Sequence[str], passed: str) -> Check:
    """Passed with what was seen, or refused with the first faults."""
    if not faults:
        return Check(name=name, status="passed", reason=passed)
    more = f"; and {len(faults) - TOLD} more" if len(faults) > TOLD else ""
    return Check(name=name, status="refused", reason="; ".join(faults[:TOLD]) + more)


def as_gaps(checks: Sequence[Check]) -> list[Check]:
    """The checks of a private export."""
    return [
        check.model_copy(update={"status": "gap"})
        if check.status == "refused" and check.name in GAPS
        else check
        for check in checks
    ]


def examine_text(subject: Subject) -> list[Check]:
    """Checks of licences and of every file but the weights; for models and data sets alike."""
    folder = subject.folder
    return [
        check("licences", subject.terms.problems, f"published under {subject.terms.licence}"),
        check("code", executables(folder), "no pickle, no code, no link"),
        check("secrets", secrets(folder), "no token-like string in a text file"),
        check("paths", machine_paths(folder, subject.places), "no folder of this machine named"),
        check("card", card_faults(folder / "README.md"), "nothing unescaped, nothing hidden"),
    ]


def examine_settings(subject: Subject) -> list[Check]:
    """Checks of what a server reads: stop token, special tokens, template, scores."""
    unmeasured = [] if subject.scores else [
        f"{subject.artifact.name}: no evaluation of it is in the store; evaluate it first"
    ]  # fmt: skip
    return [
        check("scores", unmeasured, f"{len(subject.scores)} evaluation(s) of this checkpoint"),
        _guarded("stop token", _stop_faults, subject, "generation ends where training ended"),
        _guarded("template", _template_faults, subject, "a served question is the trained one"),
        _examine_old(subject),
    ]


def examine_weights(subject: Subject) -> Check:
    """Whether the folder's tensors are those of the checkpoint, to the bit."""
    return _guarded("weights", _weight_faults, subject, "every tensor is the checkpoint's")


def _guarded(
    name: str, faults: Callable[[Subject], list[str]], subject: Subject, passed: str
) -> Check:
    """A check whose reading may fail: a file that cannot be read is a fault, not a crash."""
    try:
        return check(name, faults(subject), passed)
    except (FactoryError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else "no message"
        return check(name, [f"cannot be read: {type(error).__name__}: {reason}"], passed)


_FENCE = re.compile(r"^(`{3,})[a-z]*$")
_UNESCAPED = {
    "raw HTML": re.compile(r"<[A-Za-z/!?]"),
    "a link or an image": re.compile(r"(?<!\\)\]\s?[(\[]"),
}


def card_faults(path: Path) -> list[str]:
    """Text in a card that Markdown or HTML would act on, or that a reader cannot see.

    The card's own text holds no HTML and no link, so any that is found came in from outside.
    """
    text = path.read_text(encoding="utf-8")
    head, body = _split_card(text)
    faults = []
    if not isinstance(_yaml_or_none(head), dict):
        faults.append("README.md: its front matter is not a YAML mapping")
    outside = _outside_fences(body)
    for kind, pattern in _UNESCAPED.items():
        if match := pattern.search(outside):
            line = outside[: match.start()].count("\n") + 1
            faults.append(f"README.md: {kind} in the text (line {line} after the front matter)")
    controls = {c for c in text if unicodedata.category(c) == "Cc"} - {"\n", "\t"}
    hidden = hidden_characters(text) | controls
    faults += [f"README.md: the invisible character U+{ord(c):04X}" for c in sorted(hidden)]
    return faults


def _split_card(text: str) -> tuple[str, str]:
    parts = text.split("\n---\n", 1)
    if text.startswith("---\n") and len(parts) == 2:
        return parts[0].removeprefix("---\n"), parts[1]
    return "", text


def _yaml_or_none(text: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None


def _outside_fences(body: str) -> str:
    """The text with the lines of fenced blocks emptied; an open fence hides all that follows."""
    kept, fence = [], ""
    for line in body.splitlines():
        if fence:
            fence = "" if line == fence else fence
            kept.append("")
            continue
        match = _FENCE.match(line)
        fence = match.group(1) if match else ""
        kept.append("" if match else line)
    return "\n".join(kept)


def _stop_faults(subject: Subject) -> list[str]:
    """The token that training taught to end with must end generation, and a turn, when served."""
    own, served = open_tokenizer(subject.artifact.path), open_tokenizer(subject.folder)
    faults = [
        f"{name}: {getattr(served, name)!r} here, {getattr(own, name)!r} in training"
        for name in ("eos_token", "bos_token", "pad_token", "eos_token_id", "bos_token_id")
        if getattr(served, name) != getattr(own, name)
    ]
    fields = json.loads((subject.folder / "generation_config.json").read_text(encoding="utf-8"))
    ends = listed(fields.get("eos_token_id"))
    taught = answer_end(own, subject.prompt)
    token = own.convert_ids_to_tokens(taught)
    if taught not in ends:
        faults.append(
            f"generation_config.json: eos_token_id is {ends}, training taught the model to end "
            f"with {taught} ({token}): it would never stop"
        )
    elif lost := set(end_ids(subject.artifact.path, own)) - set(ends):
        faults.append(
            f"generation_config.json: eos_token_id is {ends}, the checkpoint also ends its answers "
            f"with {sorted(lost)}: it would go on there"
        )
    if answer_end(served, subject.prompt) != taught:
        faults.append(f"chat_template.jinja: does not end an answer with {token}")
    return faults


def _template_faults(subject: Subject) -> list[str]:
    """The tokens of a served question must be those that training showed."""
    own, served = open_tokenizer(subject.artifact.path), open_tokenizer(subject.folder)
    faults = []
    for question in PROBES:
        trained = own(render(question, subject.prompt, own), add_special_tokens=False)["input_ids"]
        if served_ids(served, question) != list(trained):
            faults.append(
                f"chat_template.jinja: {question!r} becomes {served_text(served, question)!r}, "
                f"training showed {render(question, subject.prompt, own)!r}"
            )
    return faults[:1]


def served_text(tokenizer: "PreTrainedTokenizerBase", question: str) -> str:
    """What a server makes of a lone question."""
    messages = [{"role": "user", "content": question}]
    return written_messages(messages, tokenizer, opens=True)


def served_ids(tokenizer: "PreTrainedTokenizerBase", question: str) -> list[int]:
    """Token ids of a lone question as a server asks it."""
    return list(tokenizer(served_text(tokenizer, question), add_special_tokens=False)["input_ids"])


def _examine_old(subject: Subject) -> Check:
    """Whether transformers 4 reads in every JSON file what version 5 does; it is not run here."""
    examined = _guarded(
        "transformers 4", _old_faults, subject, "every JSON file says the same to it"
    )
    if examined.status == "refused" or not (missing := limits(subject.folder)):
        return examined
    return examined.model_copy(update={"status": "not run", "reason": "; ".join(missing)})


def _old_faults(subject: Subject) -> list[str]:
    return old_faults(subject.folder, subject.artifact.path)


def _weight_faults(subject: Subject) -> list[str]:
    entries = subject.artifact.manifest.files
    same = [
        is_weights(name)
        and (subject.folder / name).is_file()
        and sha256_file(subject.folder / name) == entries[name].sha256
        for name in entries
        if name.endswith(".safetensors") and "/" not in name
    ]
    return [] if same and all(same) else _tensor_faults(subject.artifact.path, subject.folder)


def _tensor_faults(own: Path, published: Path) -> list[str]:
    """Tensors that differ, by name; weights that were cut into shards have other files."""
    import torch
    from safetensors import SafetensorError, safe_open

    def places(folder: Path) -> dict[str, Path]:
        paths = {}
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                paths.update(dict.fromkeys(file.keys(), path))
        return paths

    def read(path: Path, name: str) -> "torch.Tensor":
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name)

    try:
        ours, theirs = places(own), places(published)
        paths = [f"{name}: only on one side" for name in sorted(set(ours) ^ set(theirs))]
        for name in sorted(set(ours) & set(theirs)):
            mine, other = read(ours[name], name), read(theirs[name], name)
            if mine.dtype != other.dtype or not torch.equal(mine, other):
                paths.append(f"{theirs[name].name}: the tensor {name} is not the checkpoint's")
    except SafetensorError as error:
        return [f"a weights file cannot be read: {error}"]
    return paths
