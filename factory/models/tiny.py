"""Tiny random models and a byte tokenizer built in code: nothing to download."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from factory.models.transformers4 import write_tokenizer_fields

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

Architecture = Literal["llama", "qwen2", "qwen3", "gemma2", "phi3"]
"""Shapes of layers; `byte_tokenizer` writes turns as that family does."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_FORGETTING_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' and not loop.last %}"
    "{{ message['content'].split('</think>')[-1].lstrip('\\n') }}"
    "{% else %}{{ message['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_GEMMA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}<start_of_turn>"
    "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
_PHI_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_TURNS: dict[Architecture, tuple[tuple[str, str, str], int, str]] = {
    "llama": (_CHATML, 2, CHAT_TEMPLATE),
    "qwen2": (_CHATML, 2, CHAT_TEMPLATE),
    "qwen3": (_CHATML, 2, _FORGETTING_TEMPLATE),
    "gemma2": (("<eos>", "<start_of_turn>", "<end_of_turn>"), 0, _GEMMA_TEMPLATE),
    "phi3": (("<|endoftext|>", "<|assistant|>", "<|end|>"), 0, _PHI_TEMPLATE),
}
"""(special tokens, which of them is the tokenizer's end of text, chat template). Gemma's and Phi's
turns end with another token, and Qwen3's template forgets earlier thoughts."""


def byte_tokenizer(architecture: Architecture = "llama") -> "PreTrainedTokenizerFast":
    """A tokenizer with one token a byte and a family's markers; any text round-trips exactly.

    With ChatML: ids 0 <|endoftext|> (unknown), 1 <|im_start|>, 2 <|im_end|> (end of text and
    padding, as in SmolLM2), then the 256 bytes.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    specials, end, template = _TURNS[architecture]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*specials, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in specials])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=specials[0],
        bos_token=specials[1],
        eos_token=specials[end],
        pad_token=specials[end],
        chat_template=template,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def tiny_model(
    architecture: Architecture, *, hidden: int = 64, layers: int = 2, seed: int = 0
) -> "PreTrainedModel":
    """A random float32 model; two query heads share one key-value head."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    own: dict[str, object] = {"head_dim": 32} if architecture in ("qwen3", "gemma2") else {}
    if architecture == "gemma2":
        own |= {"query_pre_attn_scalar": 32, "sliding_window": 1024}
    config = AutoConfig.for_model(
        architecture,
        vocab_size=259,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=max(1, hidden // 64),
        max_position_embeddings=1024,
        tie_word_embeddings=architecture in ("llama", "gemma2"),
        bos_token_id=1,
        eos_token_id=_TURNS[architecture][1],
        pad_token_id=_TURNS[architecture][1],
        initializer_range=0.05,
        **own,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def save_tiny_model(
    folder: Path, architecture: Architecture, *, hidden: int = 64, layers: int = 2, seed: int = 0
) -> Path:
    """Write a tiny model with its tokenizer as a Hugging Face folder; returns the folder."""
    tiny_model(architecture, hidden=hidden, layers=layers, seed=seed).save_pretrained(folder)
    byte_tokenizer(architecture).save_pretrained(folder)
    write_tokenizer_fields(folder)
    return folder
