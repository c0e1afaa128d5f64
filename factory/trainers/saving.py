"""A trainer's finished model as a Hugging Face folder: its input with other weights."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, Trainer

from factory.sampling.ends import name_ends
from factory.trainers.adapters import ADAPTER, merged, save_adapters, unpacked_shape, untied
from factory.trainers.tokens import write_tokens

TOKENIZER_FILES = (
    "tokenizer*",
    "chat_template*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
)


def save_model(
    trainer: Trainer,
    source: Path,
    out: Path,
    *,
    new_tokens: Sequence[str] = (),
    ends: Sequence[int] = (),
    keeps_adapters: bool = False,
) -> None:
    """Write the trained model to `out` in the dtype of the model in `source`, adapters merged.

    Weights are safetensors. The tokenizer's files are copied, since loading and saving a tokenizer
    leaves traces of how it was loaded; `new_tokens` are added to them. `ends` are where the model's
    answers end: trainers put the tokenizer's own in their place, or twice into their list. Of
    several ranks all must call this; the first one writes. `keeps_adapters` leaves them in the
    folder `adapter` too.
    """
    state: dict[str, Any] = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if not trainer.is_world_process_zero():
        return
    source_config = AutoConfig.from_pretrained(source, local_files_only=True)
    dtype = source_config.dtype or torch.float32
    model = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "get_base_model"):
        if keeps_adapters:
            save_adapters(model, state, source, out / ADAPTER)
        state = merged(model, state)
        model = unpacked_shape(model.get_base_model())
    state = untied(model, state)
    # Trainers turn the cache off, which would make whoever generates with the saved model slow.
    model.config.use_cache = getattr(source_config, "use_cache", True)
    state = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in state.items()
    }
    if ends:
        name_ends(model, ends)
    model.save_pretrained(out, state_dict=state)
    model.config.dtype = dtype  # the call above notes the dtype that was trained in
    model.config.save_pretrained(out)
    for pattern in TOKENIZER_FILES:
        for path in sorted(source.glob(pattern)):
            shutil.copyfile(path, out / path.name)
    if new_tokens:
        write_tokens(out, new_tokens)
