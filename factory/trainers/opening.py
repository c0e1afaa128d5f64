"""A model's folder opened for training, and the tokens that it has room for."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from factory.core.errors import ArtifactError, RecipeError
from factory.core.ranks import whole_weights
from factory.sampling.ends import name_ends

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def open_model(
    folder: Path, dtype: torch.dtype | None = None, *, ends: Sequence[int] = (), **where: Any
) -> "PreTrainedModel":
    """The causal language model of a folder, in float32 unless another dtype is given;
    ArtifactError if it cannot be opened.

    What learns is opened in float32 whatever it is stored in: updates are smaller than bfloat16 can
    add. Its configs name `ends`, where TRL looks for them, if any are given.
    """
    try:
        with whole_weights():
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype or torch.float32, use_safetensors=True, local_files_only=True,
                **where,
            )  # fmt: skip
    except (OSError, ImportError) as error:  # a package that quantised weights ask for
        raise ArtifactError(f"{folder}: not a model that can be opened: {error}") from error
    if ends:
        name_ends(model, ends)
    return model


def context_length(folder: Path) -> int | None:
    """Positions of the model in a folder, or None if its configuration does not say."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
    return getattr(config, "max_position_embeddings", None)


def row_limit(model: Path, context: int) -> int:
    """Tokens a row may have: the recipe's context, or the model's own if that is less."""
    return min(context, context_length(model) or context)


def require_room(folder: Path, *, prompt: int, completion: int, model: str = "model") -> int:
    """Tokens of the longest prompt with its completion; RecipeError if the model ends before.

    `model` says whose folder it is, in words.
    """
    needed = prompt + completion
    context = context_length(folder) or needed
    if needed > context:
        raise RecipeError(
            f"max_new_tokens: {completion} and the longest prompt of {prompt} tokens are more than "
            f"the {model}'s {context}: at most {context - prompt} are possible"
        )
    return needed
