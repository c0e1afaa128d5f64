"""The model stage: what it brings in, and which folders it refuses."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from transformers import AutoTokenizer

from factory.core.artifacts import Inputs
from factory.core.context import Context
from factory.core.errors import ArtifactError, RecipeError
from factory.core.machine import Machine
from factory.models.tiny import Architecture, byte_tokenizer, save_tiny_model
from factory.sampling.ends import answer_end
from factory.sampling.served import messages_of, read_served
from factory.stages.model import STAGE, ModelConfig, prompt_fault
from factory.stages.turns import LLAMA3_TEMPLATE, fitting
from factory.text.chat import PromptConfig, render

TINY = {"type": "tiny", "architecture": "qwen2", "hidden": 32, "layers": 1}


def config(**source: object) -> ModelConfig:
    return ModelConfig.model_validate_json(json.dumps({"kind": "model", "source": source}))


def make_changed(folder: Path, **changes: object) -> dict[str, float]:
    folder.mkdir()
    fields = {"kind": "model", "source": TINY, **changes}
    changed = ModelConfig.model_validate_json(json.dumps(fields))
    return STAGE.run(changed, Inputs(), folder, Context(1, Machine(), folder))


def make(folder: Path, seed: int = 1, **source: object) -> dict[str, float]:
    folder.mkdir()
    return STAGE.run(config(**source), Inputs(), folder, Context(seed, Machine(), folder))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_a_tiny_model_is_the_same_bytes_each_time(tmp_path: Path, architecture: str) -> None:
    for name in ("one", "two"):
        metrics = make(tmp_path / name, type="tiny", architecture=architecture, hidden=32, layers=1)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(content(tmp_path / "one"))
    assert metrics["parameters"] > 259 * 32
    make(tmp_path / "other", 2, type="tiny", architecture=architecture, hidden=32, layers=1)
    assert content(tmp_path / "one") != content(tmp_path / "other")


def test_a_local_folder_is_copied_without_what_could_run(tmp_path: Path) -> None:
    source = save_tiny_model(tmp_path / "source", "llama", hidden=32, layers=1)
    (source / "modeling_evil.py").write_text("raise SystemExit", encoding="utf-8")
    (source / "pytorch_model.bin").write_bytes(b"pickle")
    make(tmp_path / "out", type="local", path=str(source))
    names = set(content(tmp_path / "out"))
    assert "model.safetensors" in names
    assert not {"modeling_evil.py", "pytorch_model.bin"} & names


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ("config.json", "no config.json"),
        ("model.safetensors", "no *.safetensors file"),
        ("tokenizer.json", "no tokenizer.json or tokenizer.model"),
    ],
)
def test_an_incomplete_folder_is_refused_before_anything_runs(
    tmp_path: Path, missing: str, expected: str
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in {"config.json", "model.safetensors", "tokenizer.json"} - {missing}:
        (source / name).write_text("{}", encoding="utf-8")
    with pytest.raises(ArtifactError) as caught:
        STAGE.external_files(config(type="local", path=str(source)))
    assert str(source) in str(caught.value) and expected in str(caught.value)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such model folder"):
        STAGE.external_files(config(type="local", path=str(tmp_path / "none")))


@pytest.mark.parametrize(
    "source",
    [
        {"type": "hub", "id": "owner/name", "revision": "main"},
        {"type": "hub", "id": "name", "revision": "0" * 40},
        {"type": "local", "path": "x", "trust_remote_" + "code": False},
        {"type": "tiny", "architecture": "gpt2"},
        {"type": "pickle", "path": "x"},
    ],
)
def test_a_source_that_is_not_pinned_or_not_known_is_refused(source: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        config(**source)


def test_turns_give_a_template_and_its_end_of_turn_as_end_of_text(tmp_path: Path) -> None:
    from transformers import AutoTokenizer, GenerationConfig

    source = save_tiny_model(tmp_path / "source", "qwen2", hidden=32, layers=1)
    before = AutoTokenizer.from_pretrained(source)
    before.eos_token, before.chat_template = "<|endoftext|>", "{{ 'default system message' }}"
    before.save_pretrained(source)
    make_changed(tmp_path / "out", source={"type": "local", "path": str(source)}, turns="chatml")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    requests = [{"role": "user", "content": "1 + 1?"}]
    text = tokenizer.apply_chat_template(requests, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.eos_token == "<|im_end|>"
    served = GenerationConfig.from_pretrained(tmp_path / "out")
    stored = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert served.eos_token_id == stored["eos_token_id"] == tokenizer.eos_token_id


def test_turns_whose_tokens_the_vocabulary_lacks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no <\|start_header_id\|> and no <\|eot_id\|>"):
        make_changed(tmp_path / "out", turns="llama3")


REFUSAL = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
NO_SYSTEM: list[tuple[Architecture, str, str]] = [
    ("qwen2", REFUSAL, "refuses the roles system, user: no system"),
    ("phi3", REFUSAL, "refuses the roles system, user: no system"),
    ("gemma2", "{{ messages[1].content[0].text.missing }}", "chat template"),
]


@pytest.mark.parametrize(("family", "begins", "message"), NO_SYSTEM)
@pytest.mark.parametrize("is_learned", [False, True])
def test_a_template_that_takes_no_system_message_is_told_before_anything_is_made(
    family: Architecture, begins: str, message: str, is_learned: bool
) -> None:
    tokenizer = byte_tokenizer(family)
    if "[1]" in begins:  # only a conversation that begins with a system message is refused
        begins = "{% if messages[0].role == 'system' %}" + begins + "{% endif %}"
    tokenizer.chat_template = begins + str(tokenizer.chat_template)
    assert prompt_fault(tokenizer, PromptConfig(), is_learned=is_learned) == ""
    fault = prompt_fault(tokenizer, PromptConfig(system="Be brief."), is_learned=is_learned)
    assert message in fault and "\n" not in fault


def without_template(folder: Path, family: Architecture) -> Path:
    """A base model's folder: no chat template."""
    save_tiny_model(folder, family, hidden=32, layers=1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = None
    (folder / "chat_template.jinja").unlink()
    tokenizer.save_pretrained(folder)
    return folder


OWN = "{% for m in messages %}[{{ m.role }}] {{ m.content }}<|end|>\n{% endfor %}"
CASES: list[tuple[Architecture, str, str, str]] = [
    ("phi3", "plain", "<|assistant|>User:\n1?\n\nAssistant:\n2<|endoftext|>", "<|endoftext|>"),
    ("gemma2", "plain", "<start_of_turn>User:\n1?\n\nAssistant:\n2<eos>", "<eos>"),
    ("phi3", "own", "[user] 1?<|end|>\n[assistant] 2<|end|>", "<|end|>"),
]


@pytest.mark.parametrize(("family", "turns", "text", "end"), CASES)
def test_a_model_of_any_family_is_given_turns(
    tmp_path: Path, family: Architecture, turns: str, text: str, end: str
) -> None:
    source, own = without_template(tmp_path / "source", family), tmp_path / "own.jinja"
    own.write_text(OWN, encoding="utf-8")
    given: Any = {"template": str(own), "end": end} if turns == "own" else turns
    fields = {"source": {"type": "local", "path": str(source)}, "turns": given}
    make_changed(tmp_path / "out", **fields)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    talk = [{"role": "user", "content": "1?"}, {"role": "assistant", "content": "2"}]
    assert tokenizer.apply_chat_template(talk, tokenize=False).rstrip("\n") == text
    assert tokenizer.eos_token == end
    assert answer_end(tokenizer, PromptConfig()) == tokenizer.convert_tokens_to_ids(end)
    changed = ModelConfig.model_validate_json(json.dumps({"kind": "model", **fields}))
    assert (own in STAGE.external_files(changed)) == (turns == "own")


@pytest.mark.parametrize(
    ("template", "end", "reason"),
    [("turns.jinja", "<|none|>", "no <|none|>"), ("missing.jinja", "<|end|>", "cannot be read")],
)
def test_a_template_of_ones_own_that_does_not_fit_is_refused(
    tmp_path: Path, template: str, end: str, reason: str
) -> None:
    (tmp_path / "turns.jinja").write_text(OWN, encoding="utf-8")
    given = {"template": str(tmp_path / template), "end": end}
    with pytest.raises(RecipeError, match=re.escape(reason)):
        make_changed(tmp_path / "out", turns=given)


def test_turns_that_fit_are_those_whose_tokens_a_vocabulary_has() -> None:
    assert fitting(["<|im_start|>", "<|im_end|>", "a"]) == "chatml"
    assert fitting(["<|start_header_id|>", "<|eot_id|>"]) == "llama3"
    assert fitting(["<|im_start|>", "a"]) == "plain"


def test_the_llama3_template_writes_that_familys_turns() -> None:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    template = ImmutableSandboxedEnvironment().from_string(LLAMA3_TEMPLATE)
    text = template.render(
        bos_token="<B>", messages=[{"role": "user", "content": "hi"}], add_generation_prompt=True
    )
    assert text == (
        "<B><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_a_longer_context_is_what_the_model_then_reads(tmp_path: Path) -> None:
    from factory.trainers.opening import row_limit

    make_changed(tmp_path / "out", context={"tokens": 4096, "rope_theta": 3e5})
    stored = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert stored["rope_parameters"]["rope_theta"] == 3e5
    assert row_limit(tmp_path / "out", 32768) == 4096
    with pytest.raises(RecipeError, match="1024 is no more than the 1024 that the model has"):
        make_changed(tmp_path / "again", context={"tokens": 1024, "rope_theta": 3e5})


def test_a_served_model_is_an_address_and_a_tokenizer(tmp_path: Path) -> None:
    source = save_tiny_model(tmp_path / "source", "llama", hidden=32, layers=1)
    address: Any = {
        "type": "endpoint",
        "url": "http://127.0.0.1:8000/v1",
        "name": "m",
        "as_of": "May",
    }
    own = {**address, "tokenizer": {"type": "local", "path": str(source)}}
    assert make(tmp_path / "own", **own) == {}
    kept = content(tmp_path / "own")
    assert kept["tokenizer.json"] == (source / "tokenizer.json").read_bytes()
    assert not any(name.endswith(".safetensors") for name in kept)
    result = read_served(tmp_path / "own")
    assert result is not None and result.has_tokenizer
    assert STAGE.external_files(config(**own))

    make(tmp_path / "address", **address)
    result = read_served(tmp_path / "address")
    assert result is not None and (result.name, result.has_tokenizer) == ("m", False)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "address", local_files_only=True)
    text = render("What?", PromptConfig(style="chat"), tokenizer)
    assert messages_of(text) == ([{"role": "user", "content": "What?"}], "")
    assert STAGE.external_files(config(**address)) == ()

    open_commit = {**address, "tokenizer": {"type": "hub", "id": "a/b"}}
    assert STAGE.missing(config(**open_commit)) == [
        "source.tokenizer.revision: the commit of huggingface.co/a/b to build from"
    ]
    with pytest.raises(ValidationError, match="asked as it is"):
        make_changed(tmp_path / "changed", source=address, turns="chatml")


def _refusals() -> list[Exception]:
    import httpx
    from huggingface_hub.errors import (
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    wanted = httpx.Request("GET", "https://huggingface.co/api/models/o/n")
    reply = httpx.Response(404, request=wanted)
    return [
        RevisionNotFoundError("404 Client Error.\n\nRevision Not Found", response=reply),
        RepositoryNotFoundError("404 Client Error.", response=reply),
        LocalEntryNotFoundError("not in the cache"),
        OfflineModeIsEnabled("offline"),
        httpx.ConnectError("no route"),
        OSError(28, "No space left on device"),
    ]


@pytest.mark.parametrize("error", _refusals(), ids=lambda error: type(error).__name__)
def test_a_model_that_the_hub_does_not_give_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(
        ArtifactError, match=f"model o/n at {'a' * 40}: cannot be fetched"
    ) as caught:
        make(tmp_path / "out", type="hub", id="o/n", revision="a" * 40)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("index", [0, 1])
def test_of_named_templates_the_default_is_kept(tmp_path: Path, index: int) -> None:
    source = save_tiny_model(tmp_path / "source", "qwen2", hidden=32, layers=1)
    text = (source / "chat_template.jinja").read_text(encoding="utf-8")
    (source / "chat_template.jinja").unlink()
    path = source / "tokenizer_config.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    named = [{"name": "tool_use", "template": "x"}, {"name": "rag", "template": "y"}]
    named.insert(index, {"name": "default", "template": text})
    path.write_text(json.dumps({**fields, "chat_template": named}), encoding="utf-8")
    make(tmp_path / "out", type="local", path=str(source))
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == text
    del named[index]
    path.write_text(json.dumps({**fields, "chat_template": named}), encoding="utf-8")
    with pytest.raises(RecipeError, match="named tool_use, rag and no default"):
        make(tmp_path / "again", type="local", path=str(source))
