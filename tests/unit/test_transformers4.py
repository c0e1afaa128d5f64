"""What transformers 4 reads in our folders, worked out by hand and read as plain JSON."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from factory.models.tiny import byte_tokenizer, save_tiny_model
from factory.models.transformers4 import tokenizer_fields, unsaid, with_old_keys
from factory.publish.card import _versions
from factory.publish.earlier import limits, old_faults, open_tokenizer
from factory.publish.export import write_settings
from factory.stages.turns import set_turns
from factory.text.chat import PromptConfig
from tests import published

SIZE = {
    "vocab_size": 259, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 512,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
FACTORS = {"short_factor": [1.5] * 16, "long_factor": [2.5] * 16}
LINEAR = {"rope_type": "linear", "factor": 8.0}
BY_LAYER = {
    "full_attention": {**LINEAR, "rope_theta": 9e5},
    "sliding_attention": {"rope_type": "default", "rope_theta": 7e3},
}
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("qwen2", {"rope_type": "default", "rope_theta": 1e6},
     {"rope_theta": 1e6, "rope_scaling": None}),
    ("qwen3", {"rope_type": "yarn", "rope_theta": 2e6, "factor": 4.0,
               "original_max_position_embeddings": 128},
     {"rope_theta": 2e6, "rope_scaling": {"rope_type": "yarn", "factor": 4.0,
                                          "original_max_position_embeddings": 128}}),
    ("llama", {**LLAMA3, "rope_theta": 5e5}, {"rope_theta": 5e5, "rope_scaling": LLAMA3}),
    ("gemma3_text", BY_LAYER,
     {"rope_theta": 9e5, "rope_local_base_freq": 7e3, "rope_scaling": LINEAR}),
    ("phi", {"rope_type": "default", "rope_theta": 3e4, "partial_rotary_factor": 0.25},
     {"rope_theta": 3e4, "partial_rotary_factor": 0.25, "rope_scaling": None}),
    ("phi3", {"rope_type": "longrope", "rope_theta": 3e4, "partial_rotary_factor": 1.0, **FACTORS},
     {"rope_theta": 3e4, "partial_rotary_factor": 1.0,
      "rope_scaling": {"type": "longrope", **FACTORS}}),
    ("gpt_neox", {"rope_type": "default", "rope_theta": 2e4, "partial_rotary_factor": 0.5},
     {"rotary_emb_base": 2e4, "rotary_pct": 0.5, "rope_scaling": None}),
]  # fmt: skip
"""Type, RoPE as transformers 5 has it, and the keys that transformers 4.56 reads."""


def folder_of(path: Path, kind: str, rope: dict[str, Any]) -> Path:
    """A model folder without weights, as transformers 5 saves it."""
    from transformers import AutoConfig

    extra = {"layer_types": ["sliding_attention", "full_attention"]} if "gemma3" in kind else {}
    config = AutoConfig.for_model(kind, rope_parameters=rope, dtype="bfloat16", **SIZE, **extra)
    config.save_pretrained(path)
    byte_tokenizer().save_pretrained(path)
    (path / "model.safetensors").write_bytes(b"")
    return path


def written(tmp_path: Path, source: Path) -> Path:
    """The settings of a student whose folder is `source`."""
    student = published.make_store(tmp_path, source)[1]["student"]
    folder = tmp_path / "published"
    folder.mkdir()
    write_settings(student, PromptConfig(), folder)
    return folder


def fields(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("kind", "rope", "old"), CASES, ids=[case[0] for case in CASES])
def test_a_published_config_says_the_same_in_the_words_of_both_versions(
    tmp_path: Path, kind: str, rope: dict[str, Any], old: dict[str, Any]
) -> None:
    from transformers import AutoConfig

    source = folder_of(tmp_path / "source", kind, rope)
    before = AutoConfig.from_pretrained(source)
    folder = written(tmp_path, source)
    stored = fields(folder / "config.json")
    assert {key: stored[key] for key in old} == old
    assert stored["torch_dtype"] == stored["dtype"] == "bfloat16"
    after = AutoConfig.from_pretrained(folder)
    kept = {k: v for k, v in after.rope_parameters.items() if k != "type"}
    assert (kept, after.dtype) == (before.rope_parameters, before.dtype)
    assert old_faults(folder, source) == [] and limits(folder) == []


def test_sub_configs_are_written_too() -> None:
    inner = {"model_type": "gemma3_text", "rope_parameters": BY_LAYER, "dtype": "float32"}
    read = {"model_type": "gemma3", "text_config": inner, "dtype": "float32"}
    made = with_old_keys({"text_config": {"model_type": "gemma3_text"}}, read)
    assert made["torch_dtype"] == "float32" and "rope_theta" not in made
    assert made["text_config"]["rope_local_base_freq"] == 7e3


def test_a_config_in_the_old_form_keeps_its_base_and_stale_keys_are_overwritten(
    tmp_path: Path,
) -> None:
    source = save_tiny_model(tmp_path / "source", "qwen2")
    path = source / "config.json"
    stored = fields(path)
    stored.pop("rope_parameters")
    stored["torch_dtype"] = stored.pop("dtype")
    path.write_text(json.dumps({**stored, "rope_theta": 1e6}), encoding="utf-8")
    made = fields(written(tmp_path / "a", source) / "config.json")
    assert made["rope_theta"] == made["rope_parameters"]["rope_theta"] == 1e6
    stale = {"rope_parameters": {"rope_type": "default", "rope_theta": 4e4}, "rope_theta": 1e6}
    path.write_text(json.dumps({**stored, **stale}), encoding="utf-8")
    made = fields(written(tmp_path / "b", source) / "config.json")
    assert made["rope_theta"] == made["rope_parameters"]["rope_theta"] == 4e4


@pytest.mark.parametrize(
    ("kind", "rope", "named"),
    [
        ("olmo3", BY_LAYER, "rope_parameters of olmo3 by kind of layer"),
        ("gemma3_text", {name: {**LINEAR, "rope_theta": 1e4} for name in BY_LAYER}, "gemma3_text"),
        ("phimoe", {**LINEAR, "rope_type": "longrope"}, "rope_parameters of phimoe of type longr"),
    ],
)
def test_what_the_old_keys_cannot_say_is_named(kind: str, rope: dict[str, Any], named: str) -> None:
    (line,) = unsaid({"model_type": kind, "rope_parameters": rope})
    assert named in line
    same = {name: {"rope_type": "default", "rope_theta": 1e4} for name in BY_LAYER}
    assert unsaid({"model_type": kind, "rope_parameters": same}) == []


def test_the_card_says_which_releases_were_tried(tmp_path: Path) -> None:
    import transformers

    rope = {"rope_type": "default", "rope_theta": 1e6}
    folder = written(tmp_path, folder_of(tmp_path / "source", "qwen2", rope))
    said = _versions(folder)
    assert f"Tried in transformers {transformers.__version__}" in said
    assert "this model was not run there" in said and "4.56.2" in said
    other = {name: {**layer, "rope_type": "default"} for name, layer in BY_LAYER.items()}
    unlike = folder_of(tmp_path / "unlike", "olmo3", other)
    assert "It needs transformers 5: transformers 4 has no key for rope_parameters of olmo3" in (
        _versions(unlike)
    )
    assert "models of type olmo3 were not compared" in _versions(unlike)


def test_tokens_that_only_version_5_makes_of_the_file_are_told(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, pre_tokenizers

    # Version 5 puts Qwen2's own pre-tokenizer in the place of the one in the file.
    folder = save_tiny_model(tmp_path / "model", "qwen2")
    assert limits(folder) == []
    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)
    tokenizer.save(str(path))
    (line,) = limits(folder)
    assert line == "transformers 4 makes other tokens of 'What is 2 + 3?'"


@pytest.mark.parametrize("name", ["TokenizersBackend", "PythonBackend"])
def test_every_class_that_only_version_5_has_is_replaced(tmp_path: Path, name: str) -> None:
    source = save_tiny_model(tmp_path / "source", "llama")
    path = source / "tokenizer_config.json"
    later = {"tokenizer_class": name, "backend": "tokenizers", "extra_special_tokens": ["<|x|>"]}
    path.write_text(json.dumps({**fields(path), **later}), encoding="utf-8")
    folder = written(tmp_path, source)
    made = fields(folder / "tokenizer_config.json")
    assert made["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "extra_special_tokens" not in made
    assert made["additional_special_tokens"] == ["<|x|>"]
    text = "What is 2 + 3? é<|im_end|>"
    assert open_tokenizer(folder)(text)["input_ids"] == byte_tokenizer()(text)["input_ids"]


def test_a_class_that_both_have_stays() -> None:
    new = {"tokenizer_class": "SentencePieceBackend"}
    both = {"tokenizer_class": "PreTrainedTokenizerFast"}
    assert tokenizer_fields(new, has_file=True) == both
    named = {"tokenizer_class": "Qwen2Tokenizer", "extra_special_tokens": {"image": "<i>"}}
    assert tokenizer_fields(named, has_file=True) == named


def test_no_folder_that_we_make_names_a_class_of_version_5(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "tiny", "llama")
    assert fields(folder / "tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"
    byte_tokenizer().save_pretrained(folder)
    set_turns(folder, "chatml")
    assert fields(folder / "tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_turns_overwrite_the_end_of_text_of_an_older_file(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "tiny", "llama")
    stale = {"eos_token": {"content": "<|endoftext|>"}, "additional_special_tokens": ["<|x|>"]}
    (folder / "special_tokens_map.json").write_text(json.dumps(stale), encoding="utf-8")
    assert open_tokenizer(folder).eos_token == "<|endoftext|>"
    set_turns(folder, "chatml")
    assert open_tokenizer(folder).eos_token == "<|im_end|>"
    assert fields(folder / "special_tokens_map.json")["eos_token"] == "<|im_end|>"


def test_old_faults_name_file_and_key(tmp_path: Path) -> None:
    rope = {"rope_type": "default", "rope_theta": 1e6}
    source = folder_of(tmp_path / "source", "qwen2", rope)
    folder = written(tmp_path, source)

    def faults(name: str, change: dict[str, Any]) -> list[str]:
        broken = shutil.copytree(folder, tmp_path / "broken", dirs_exist_ok=True)
        path = broken / name
        stored = {**(fields(path) if path.is_file() else {}), **change}
        path.write_text(json.dumps({k: v for k, v in stored.items() if v != "gone"}))
        return old_faults(broken, source)

    message = "is missing, transformers 5 reads 1000000.0"
    assert faults("config.json", {"rope_theta": "gone"}) == [f"config.json: rope_theta {message}"]
    (line,) = faults("config.json", {"rope_theta": 1e4})
    assert line.startswith("config.json: rope_theta is 10000.0")
    assert len(faults("config.json", {"torch_dtype": "float32", "rope_scaling": {"a": 1}})) == 2
    (line,) = faults("tokenizer_config.json", {"tokenizer_class": "TokenizersBackend"})
    assert "transformers 4 has no TokenizersBackend" in line
    (line,) = faults("tokenizer_config.json", {"extra_special_tokens": []})
    assert "extra_special_tokens is a list" in line
    (line,) = faults("special_tokens_map.json", {"eos_token": "<|endoftext|>"})
    assert "special_tokens_map.json: eos_token is '<|endoftext|>'" in line
