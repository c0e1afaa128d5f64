"""Where an answer ends: the token ids that end a model's answers, and the one that is learned.

Every engine, trainer and check asks here, so that none of them goes on where another stops.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from factory.core.errors import ArtifactError, RecipeError
from factory.text.chat import PromptConfig
from factory.text.templates import TemplateFault, written_messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUESTION, ANSWER = "What is 2 + 3?", "Five."
REMEDY = (
    "give its model stage a template that ends turns (turns: chatml or turns: llama3), or train "
    "in prompt style zero"
)


def end_ids(folder: Path, tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """Token ids at which an answer of the folder's model ends, each once.

    The tokenizer's end of text first, then every `eos_token_id` of generation_config.json, or of
    config.json where the former names none: what vLLM and transformers do with such a folder, taken
    together. Empty where nothing is named. ArtifactError where a value is no token id.
    """
    named = _named(folder / "generation_config.json") or _named(folder / "config.json")
    return tuple(dict.fromkeys((*listed(tokenizer.eos_token_id), *named)))


def answer_end(tokenizer: "PreTrainedTokenizerBase", prompt: PromptConfig) -> int:
    """The token that a trained answer closes with: what the model's own template writes there.

    That is the first special token after the answer of a rendered turn. Where the template writes
    nothing there, the text is over, and in prompt style zero there is no template: then it is the
    tokenizer's end of text. ArtifactError where the tokenizer has none; RecipeError where the
    template ends an answer with words, or cannot write one.
    """
    if prompt.style != "zero" and tokenizer.chat_template is not None:
        after = _after_answer(tokenizer)
        ids = tokenizer(after, add_special_tokens=False)["input_ids"]
        mark = next((number for number in ids if _is_mark(number, after, tokenizer)), None)
        if mark is not None:
            return int(mark)
        if after.strip():
            raise RecipeError(
                f"the model's chat template ends an answer with {after!r}, which is no special "
                f"token: the model could not learn where to stop; {REMEDY}"
            )
    end = cast(int | None, tokenizer.eos_token_id)
    if end is None:
        raise ArtifactError("the model's tokenizer has no end-of-text token to learn")
    return end


def training_ends(
    folder: Path, tokenizer: "PreTrainedTokenizerBase", prompt: PromptConfig
) -> tuple[int, ...]:
    """Token ids at which answers end while a model is trained with this prompt, and ever after.

    Those of the folder, and the one that is learned: a base model's folder may not name it.
    """
    return tuple(dict.fromkeys((*end_ids(folder, tokenizer), answer_end(tokenizer, prompt))))


def listed(value: Any) -> list[int]:
    """An `eos_token_id` as a list: it may be one id, several, or none. ValueError for others."""
    ids = value if isinstance(value, list | tuple) else [] if value is None else [value]
    if not all(type(number) is int and number >= 0 for number in ids):
        raise ValueError(f"eos_token_id is {value!r}: one token id, or a list of them, is wanted")
    return list(ids)


def written(ends: Iterable[int]) -> int | list[int]:
    """Ends as `eos_token_id` holds them: a single one is no list."""
    ids = list(ends)
    return ids[0] if len(ids) == 1 else ids


def name_ends(model: Any, ends: Iterable[int]) -> None:
    """Have a model's config and generation config name all of these ends, each once.

    Those that do so already stay as they are.
    """
    wanted = list(ends)
    for settings in (model.config, model.generation_config):
        if sorted(listed(getattr(settings, "eos_token_id", None))) != sorted(wanted):
            settings.eos_token_id = written(wanted)


def without_end(text: str, last: int, tokenizer: "PreTrainedTokenizerBase") -> str:
    """A completion's text without that of its end token `last`, which not every tokenizer hides."""
    return text.removesuffix(decoded(tokenizer, [last]))


def decoded(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> str:
    """The text of one completion, without special tokens."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))


def _named(path: Path) -> list[int]:
    if not path.is_file():
        return []
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        inner = fields.get("text_config") or {}
        return listed(fields.get("eos_token_id", inner.get("eos_token_id")))
    except (ValueError, AttributeError) as error:
        raise ArtifactError(f"{path}: cannot be read: {error}") from error


def _after_answer(tokenizer: "PreTrainedTokenizerBase") -> str:
    """What the chat template writes behind an answer."""
    turn = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    try:
        text, reason = written_messages(turn, tokenizer, opens=False), "it leaves the answer out"
    except TemplateFault as error:
        text, reason = "", str(error)
    if ANSWER not in text:
        raise RecipeError(
            f"the model's chat template cannot write a question with its answer ({reason}); "
            f"{REMEDY}"
        )
    return text.rpartition(ANSWER)[2]


def _is_mark(number: int, text: str, tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether an id of this text is a token that no words make.

    Its text must stand there: an unknown piece may get the id of a special token.
    """
    added = tokenizer.added_tokens_decoder.get(number)
    name = (added.content if added else str(tokenizer.convert_ids_to_tokens(number))).strip()
    if number == tokenizer.bos_token_id != tokenizer.eos_token_id:
        return False  # it begins a text
    return (number == tokenizer.eos_token_id or added is not None) and bool(name) and name in text
