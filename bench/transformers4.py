"""Tiny models of every type that a card calls compared, in transformers 5 and in an old release.

    python bench/transformers4.py OUT                    # makes folders and logits, in this install
    OLD/python bench/transformers4.py OUT                # with transformers 4: compares with them

The old interpreter needs transformers 4.56.2 and torch; nothing of the factory is imported there.
It ends with status 1 where logits are more than 1e-5 apart.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

IDS = torch.arange(3, 60)[None]
BASE = 54321.0
SMALL: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.2,
}  # fmt: skip
MIXTURE = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
OWN: dict[str, dict[str, Any]] = {
    "deepseek_v3": {
        **MIXTURE, "num_key_value_heads": 4, "n_routed_experts": 4, "n_group": 1, "topk_group": 1,
        "first_k_dense_replace": 1, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 16,
        "qk_nope_head_dim": 16, "v_head_dim": 16,
    },
    "falcon": {"num_key_value_heads": 4},
    "glm4_moe": {**MIXTURE, "n_routed_experts": 4, "head_dim": 32},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 32},
    "qwen2_moe": {**MIXTURE, "num_experts": 4, "shared_expert_intermediate_size": 32},
    "qwen3_moe": {**MIXTURE, "num_experts": 4, "head_dim": 32},
    "gemma3_text": {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]},
}  # fmt: skip
YARN = {"factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {**YARN, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONG = {name: [1.0 + step / 10 for step in range(8)] for name in ("short_factor", "long_factor")}
FURTHER: dict[str, tuple[str, dict[str, Any]]] = {
    "llama llama3": ("llama", {"rope_type": "llama3", **LLAMA3}),
    "llama yarn": ("llama", {"rope_type": "yarn", **YARN, "attention_factor": 1.3}),
    "llama linear": ("llama", {"rope_type": "linear", "factor": 4.0}),
    "qwen2 yarn": ("qwen2", {"rope_type": "yarn", **YARN}),
    "qwen3 yarn": ("qwen3", {"rope_type": "yarn", **YARN}),
    "phi3 longrope": ("phi3", {"rope_type": "longrope", "partial_rotary_factor": 1.0, **LONG}),
    "phi half": ("phi", {"rope_type": "default", "partial_rotary_factor": 0.5}),
    "gpt_neox half": ("gpt_neox", {"rope_type": "default", "partial_rotary_factor": 0.5}),
}


def make(out: Path) -> None:
    """A folder for every type and for further kinds of scaling, as `publish` writes them."""
    from factory.models.transformers4 import COMPARED, with_old_keys

    cases = {kind: (kind, None) for kind in sorted(COMPARED)} | FURTHER
    for name, (kind, rope) in cases.items():
        settings = {**SMALL, **OWN.get(kind, {})}
        config = AutoConfig.for_model(kind, **settings)
        _set_rope(config, rope)
        torch.manual_seed(0)
        folder = out / name.replace(" ", "-")
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
        path = folder / "config.json"
        read = AutoConfig.from_pretrained(folder).to_dict()
        path.write_text(json.dumps(with_old_keys(json.loads(path.read_text()), read)))
        torch.save(logits(folder), folder / "logits.pt")


def _set_rope(config: Any, rope: dict[str, Any] | None) -> None:
    own = getattr(config, "rope_parameters", None)
    if rope is not None:
        config.rope_parameters = {"rope_theta": BASE, **rope}
    elif own and any(isinstance(layer, dict) for layer in own.values()):
        for number, layer in enumerate(own.values()):
            layer["rope_theta"] = BASE / (1 + number)
    elif own:
        own["rope_theta"] = BASE


@torch.no_grad()
def logits(folder: Path) -> torch.Tensor:
    """All logits of one row in float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32)
    return model.eval()(input_ids=IDS).logits


def compare(out: Path) -> int:
    """Print the largest difference of every folder; 1 if one is above 1e-5."""
    worst = 0.0
    for folder in sorted(path for path in out.iterdir() if (path / "logits.pt").is_file()):
        wanted = torch.load(folder / "logits.pt")
        apart = float((logits(folder) - wanted).abs().max())
        print(f"{transformers.__version__} {folder.name} {apart:.2e}")
        worst = max(worst, apart)
    return int(worst > 1e-5)


if __name__ == "__main__":
    if transformers.__version__.startswith("4."):
        sys.exit(compare(Path(sys.argv[1])))
    make(Path(sys.argv[1]))
