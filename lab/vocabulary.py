"""The words of the world, one token each, in two scripts."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIALS = ("<pad>", "<bos>", "<eos>")
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
FIRST = (
    *"0123456789", "+", "-", "*", "=", "so", "wait", "check", "try", "make", "yes", "no", ";",
)  # fmt: skip
"""Digits, signs and words of worked traces as English writes them."""
SECOND = (
    *"零一二三四五六七八九", "加", "减", "乘", "等于", "所以", "等等", "检查", "试", "得", "对",
    "不", "。",
)  # fmt: skip
"""The same words, one for one, in a second script."""
FRAME = (
    "user", "assistant", ":", "?", ".", "Q", "A", "add", "mul", "chain", "ops", "copy", "reverse",
    "think", "in", "then", "give", "the", "answer", "is", "idk",
)  # fmt: skip
WORDS = (*SPECIALS, *TAGS, *FIRST, *SECOND, *FRAME)

TO_SECOND: dict[str, str] = dict(zip(FIRST, SECOND, strict=True))
TO_FIRST: dict[str, str] = dict(zip(SECOND, FIRST, strict=True))

CHAT_TEMPLATE = (
    "<bos>{% for message in messages %}{% if message['role'] == 'user' %} user : "
    "{{ message['content'] }} ? think in <think> then give <answer> .{% else %} "
    "{{ message['role'] }} : {{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} assistant :{% endif %}"
)
"""R1-Zero's frame in this world's words."""


def second_script_share(text: str) -> float | None:
    """Share of the second script among the words that exist in both; None if there are none."""
    words = text.split()
    second = sum(word in TO_FIRST for word in words)
    first = sum(word in TO_SECOND for word in words)
    return second / (first + second) if first + second else None


def plus_share(answer: str) -> float | None:
    """Share of plus signs among the signs of an answer, in either script; None without signs."""
    signs = [
        sign for word in answer.split() if (sign := TO_FIRST.get(word, word)) in ("+", "-", "*")
    ]
    return signs.count("+") / len(signs) if signs else None


def retries(text: str) -> int:
    """How often a text stops and starts again: `wait`, in either script."""
    return sum(word in ("wait", TO_SECOND["wait"]) for word in text.split())


def world_tokenizer() -> "PreTrainedTokenizerFast":
    """One token a word; text is words with single spaces, and such text round-trips exactly."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIALS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
