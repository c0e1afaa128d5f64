"""Pre-training a small model with transformers' Trainer: every token once, exact resume."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)

from factory.core.context import Context
from factory.cpu.attention import TWO_PRODUCTS
from factory.models.transformers4 import write_tokenizer_fields
from factory.trainers.arguments import trainer_arguments
from factory.trainers.checkpoints import CompleteCheckpoints
from factory.trainers.running import run_trainer
from factory.trainers.telemetry import Logs, Telemetry
from lab.corpus import CorpusConfig, documents
from lab.pretrain.config import SPARSE_SAVES, PretrainConfig
from lab.pretrain.muon import MuonWithAdamW
from lab.vocabulary import WORDS, world_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


CONTEXT = 512
"""Positions of the model: several times the longest trace."""


class Sequences(torch.utils.data.Dataset[dict[str, Tensor]]):
    """The corpus laid end to end and cut into rows of equal length."""

    def __init__(self, corpus: CorpusConfig, seed: int, *, rows: int, length: int) -> None:
        number_of = {word: number for number, word in enumerate(WORDS)}
        ids: list[int] = []
        stream = documents(corpus, seed)
        while len(ids) < rows * length:
            ids += [number_of[word] for word in next(stream).split(" ")]
        self._rows = torch.tensor(ids[: rows * length], dtype=torch.uint8).view(rows, length)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = self._rows[index].long()
        return {"input_ids": row, "labels": row}


SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def new_model(config: PretrainConfig, seed: int) -> "PreTrainedModel":
    """A random float32 model of this shape, with the world's vocabulary.

    Llama's type, since transformers 5.17 forces Qwen2's own tokenizer class, which does not read
    words, on every model of type qwen2.
    """
    tokenizer = world_tokenizer()
    shape = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=config.hidden,
        intermediate_size=config.feed_forward,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        **{name: getattr(tokenizer, name) for name in SPECIAL_IDS},
        initializer_range=0.04,
    )
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(
        shape, dtype=torch.float32, attn_implementation=TWO_PRODUCTS
    )


def training_arguments(config: PretrainConfig, context: Context) -> TrainingArguments:
    """The whole of the Trainer's configuration."""
    shared = trainer_arguments(
        context,
        rows=config.batch,
        steps=config.steps,
        # A small model's steps are cheap to redo: far fewer checkpoints.
        save_every=SPARSE_SAVES * context.machine.checkpoint_steps,
    )
    shared["gradient_checkpointing"] = False  # a small model has room for its activations
    return TrainingArguments(
        **shared,
        lr_scheduler_type="linear",
        warmup_steps=config.warmup_steps,
        max_grad_norm=1.0,
        train_sampling_strategy="sequential",
    )


def train(config: PretrainConfig, out: Path, context: Context) -> None:
    """Train a new model on the corpus and write it with its tokenizer to `out`."""
    arguments = training_arguments(config, context)
    rows = Sequences(
        config.corpus, context.seed, rows=config.steps * config.batch, length=config.sequence
    )
    model = new_model(config, context.seed)
    optimizer = MuonWithAdamW(
        model,
        matrix_learning_rate=config.matrix_learning_rate,
        weight_decay=config.weight_decay,
        learning_rate=config.learning_rate,
        betas=config.adam_betas,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        optimizers=(optimizer, None),
        callbacks=[
            CompleteCheckpoints(),
            Telemetry(context.scratch / "telemetry.jsonl", context, values=_values),
        ],
    )
    trainer.remove_callback(PrinterCallback)
    run_trainer(trainer, context)
    model.config.use_cache = True
    model.save_pretrained(out)
    world_tokenizer().save_pretrained(out)
    write_tokenizer_fields(out)


def _values(logs: Logs) -> dict[str, float]:
    # A Trainer logs the rate of the first group: that of the matrices.
    return {name: logs[name] for name in ("loss", "learning_rate", "grad_norm")}
