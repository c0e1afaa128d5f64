"""Tiny random models and a byte tokenizer built in code: nothing to download."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from factory.transformers4 import write_tokenizer_fields

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

Architecture = Literal["llama", "qwen2"]

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer() -> "PreTrainedTokenizerFast":
    """A tokenizer with one token a byte and ChatML's markers; any text round-trips exactly.

    Ids 0 <|endoftext|> (unknown), 1 <|im_start|>, 2 <|im_end|> (end of text and padding, as in
    SmolLM2), then the 256 bytes.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*specials, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in specials])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<|endoftext|>",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def tiny_model(
    architecture: Architecture, *, hidden: int = 64, layers: int = 2, seed: int = 0
) -> "PreTrainedModel":
    """A random float32 model; two query heads share one key-value head."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

    config_class = {"llama": LlamaConfig, "qwen2": Qwen2Config}[architecture]
    config = config_class(
        vocab_size=259,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=max(1, hidden // 64),
        max_position_embeddings=1024,
        tie_word_embeddings=architecture == "llama",
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        initializer_range=0.05,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def save_tiny_model(
    folder: Path, architecture: Architecture, *, hidden: int = 64, layers: int = 2, seed: int = 0
) -> Path:
    """Write a tiny model with its tokenizer as a Hugging Face folder; returns the folder."""
    tiny_model(architecture, hidden=hidden, layers=layers, seed=seed).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    write_tokenizer_fields(folder)
    return folder
