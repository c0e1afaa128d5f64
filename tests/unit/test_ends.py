"""Where an answer ends: one set of ids in every engine, and the token that training teaches."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, Qwen2Config

from factory.core.errors import ArtifactError, RecipeError
from factory.core.machine import Machine
from factory.core.records import SamplingConfig
from factory.models.tiny import CHAT_TEMPLATE, byte_tokenizer
from factory.sampling import open_sampler
from factory.sampling.ends import answer_end, end_ids, training_ends
from factory.sampling.engine import Engine, Order
from factory.sampling.sampler import Completion, Request, Sampler
from factory.stages.distill.vocabularies import require_shared_ends
from factory.text.chat import PromptConfig
from factory.trainers.opening import open_model

MACHINE = Machine(device="cpu", threads=1, engine="transformers", engine_memory_gib=0.25, block=8)
TEXT, TURN, PLAIN, UNNAMED = 0, 2, 259, 261
"""<|endoftext|>, <|im_end|>, <|end|> (in the tokenizer, not special), and an id that it lacks."""
TABLE, WIDTH, LEAD = 264, 288, 9.0
LIMIT = 5
SAMPLING = SamplingConfig(temperature=0.0, max_new_tokens=LIMIT)
LOGPROB = LEAD - math.log(math.exp(LEAD) + TABLE - 1)
"""Of every token: its score is LEAD, that of all others 0."""
SCRIPT = {"a": TEXT, "b": TURN, "c": PLAIN, "d": UNNAMED}
"""To a prompt with this letter the model says the capital, this id, and then y without end."""


def said(text: str) -> int:
    return byte_tokenizer()(text)["input_ids"][0]


def scripted_folder(folder: Path, files: Mapping[str, Any], **tokens: Any) -> Path:
    """A model that says SCRIPT, each token by the one before it, and `files` of its settings.

    Token t is the unit vector t. Attention and MLP add nothing, so the normed state is sqrt(WIDTH)
    times it, and the head gives LEAD to the token that comes next.
    """
    model = AutoModelForCausalLM.from_config(
        Qwen2Config(
            vocab_size=TABLE, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=1,
            num_attention_heads=9, num_key_value_heads=9, max_position_embeddings=256,
            tie_word_embeddings=False, rms_norm_eps=1e-12,
        ),
        dtype=torch.float32,
    )  # fmt: skip
    after = dict.fromkeys(range(TABLE), said("y"))
    for letter, end in SCRIPT.items():
        after |= {said(letter): said(letter.upper()), said(letter.upper()): end}
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.model.norm.weight.fill_(1.0)
        for layer in model.model.layers:
            layer.input_layernorm.weight.fill_(1.0)
            layer.post_attention_layernorm.weight.fill_(1.0)
        for now, following in after.items():
            model.model.embed_tokens.weight[now, now] = 1.0
            model.lm_head.weight[following, now] = LEAD / math.sqrt(WIDTH)
    model.save_pretrained(folder)
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken("<|end|>", special=False, normalized=False)])
    for name, value in tokens.items():
        setattr(tokenizer, name, value)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    for name in ("config.json", "generation_config.json"):
        if name in files or name == "config.json":
            path = folder / name
            stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            stored.pop("eos_token_id", None)
            path.write_text(json.dumps({**stored, **files.get(name, {})}), encoding="utf-8")
    return folder


def named(value: Any) -> dict[str, Any]:
    return {"eos_token_id": value}


FOLDERS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[int, ...]]] = {
    # Phi-3's: its turns end at another token than the tokenizer's.
    "a list that leaves out the tokenizer's": (
        {"generation_config.json": named([TEXT, PLAIN]), "config.json": named(UNNAMED)},
        {"eos_token": "<|im_end|>"},
        (TURN, TEXT, PLAIN),
    ),
    "a list with an id that the tokenizer lacks": (
        {"generation_config.json": named([UNNAMED, TEXT, TEXT, TABLE + 700])},
        {"eos_token": "<|endoftext|>"},
        (TEXT, UNNAMED, TABLE + 700),
    ),
    "one id in config.json alone": (
        {"config.json": named(TEXT)},
        {"eos_token": "<|im_end|>"},
        (TURN, TEXT),
    ),
    "a list in config.json, and a generation config without one": (
        {"generation_config.json": {"do_sample": True}, "config.json": named([PLAIN, UNNAMED])},
        {"eos_token": None},
        (PLAIN, UNNAMED),
    ),
    "the tokenizer's alone": ({}, {"eos_token": "<|endoftext|>"}, (TEXT,)),
}  # fmt: skip


def check(sampler: Sampler, ends: tuple[int, ...]) -> list[Completion]:
    """Every row stops at its end if that is one of `ends`, and only there."""
    requests = [Request((said("q"), said(letter)), 0) for letter in SCRIPT]
    completions = sampler.sample(requests, SAMPLING)
    for (letter, end), completion in zip(SCRIPT.items(), completions, strict=True):
        first = said(letter.upper())
        assert completion.logprobs == pytest.approx([LOGPROB] * len(completion.token_ids), abs=1e-4)
        if end in ends:
            assert completion.finish_reason == "stop"
            assert completion.token_ids == (first, end), "the end that was drawn stays"
            assert completion.text == letter.upper(), "and its text does not"
        else:
            assert completion.finish_reason == "length"
            assert completion.token_ids == (first, end, *[said("y")] * (LIMIT - 2))
    return completions


@pytest.mark.parametrize(("files", "tokens", "ends"), FOLDERS.values(), ids=FOLDERS)
def test_every_engine_that_is_ours_ends_an_answer_at_every_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: Any, tokens: Any, ends: Any
) -> None:
    folder = scripted_folder(tmp_path, files, **tokens)
    sampler: Any = open_sampler(folder, MACHINE, max_length=64)
    assert end_ids(folder, sampler._tokenizer) == ends
    by_decoder = check(sampler, ends)
    # A node of a cluster opens the same engine by itself.
    order = Order(folder, {}, MACHINE, 64, 64, {})
    assert check(Engine().opened(order, []), ends) == by_decoder
    monkeypatch.setattr("factory.sampling.transformers.covers", lambda config: False)
    plain = check(open_sampler(folder, MACHINE, max_length=64), ends)
    assert [item.token_ids for item in plain] == [item.token_ids for item in by_decoder]


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("files", "tokens", "ends"), list(FOLDERS.values())[1:4], ids=list(FOLDERS)[1:4]
)
def test_vllm_ends_an_answer_where_the_other_engines_do(
    tmp_path: Path, files: Any, tokens: Any, ends: Any
) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    folder = scripted_folder(tmp_path, files, **tokens)
    ours = open_sampler(folder, MACHINE, max_length=64)
    machine = MACHINE.model_copy(update={"engine": "vllm"})
    sampler = open_sampler(folder, machine, max_length=64, training=True)
    try:
        result, wanted = check(sampler, ends), check(ours, ends)
        assert [(item.token_ids, item.text) for item in result] == [
            (item.token_ids, item.text) for item in wanted
        ]
    finally:
        sampler.close()


def test_a_trainer_names_further_ends_for_its_engine_and_for_trl(tmp_path: Path) -> None:
    folder = scripted_folder(tmp_path, {"config.json": named(TEXT)}, eos_token="<|endoftext|>")
    ends = training_ends(folder, byte_tokenizer(), PromptConfig())
    assert ends == (TURN, TEXT)
    check(open_sampler(folder, MACHINE, max_length=64, training=True, ends=[TURN]), ends)
    model = open_model(folder, ends=ends)
    assert model.config.eos_token_id == model.generation_config.eos_token_id == [TURN, TEXT]


@pytest.mark.parametrize("value", ["</s>", [2, None], -1, True, 2.0, {"id": 2}])
def test_an_end_that_is_no_id_is_refused_by_name(tmp_path: Path, value: Any) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(named(value)), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"generation_config.json.*eos_token_id is"):
        end_ids(tmp_path, byte_tokenizer())


def test_ends_of_a_model_with_several_parts_are_those_of_its_text(tmp_path: Path) -> None:
    fields = {"text_config": {"eos_token_id": [1, 106]}}
    (tmp_path / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    assert end_ids(tmp_path, byte_tokenizer()) == (TURN, 1, 106)


LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else "
    "m['role'] }}\n{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
)
R1_DISTILL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}<|User|>{{ m['content'] }}"
    "{% else %}<|Assistant|>{{ m['content'].split('</think>')[-1] }}{{ eos_token }}{% endif %}"
    "{% endfor %}"
)
PHI3 = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
)
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}<think>"
    "\n\n</think>\n\n{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<s>[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }} </s>{% endif %}{% endfor %}"
)
OPEN_ENDED = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


def family(template: str, specials: str, *, eos: str, bos: str | None = None) -> Any:
    """A byte tokenizer with a family's special tokens, template and end of text."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken(item, special=True) for item in specials.split()])
    tokenizer.eos_token, tokenizer.bos_token = eos, bos or eos
    tokenizer.chat_template = template
    return tokenizer


FAMILIES = {
    "smollm2": (byte_tokenizer, "<|im_end|>"),
    "qwen2.5 base": (lambda: family(CHAT_TEMPLATE, "", eos="<|endoftext|>"), "<|im_end|>"),
    "qwen3": (lambda: family(QWEN3, "<think> </think>", eos="<|im_end|>"), "<|im_end|>"),
    "llama3": (
        lambda: family(
            LLAMA3, "<|begin_of_text|> <|end_of_text|> <|start_header_id|> <|end_header_id|> "
            "<|eot_id|>", bos="<|begin_of_text|>", eos="<|end_of_text|>",
        ),
        "<|eot_id|>",
    ),
    "gemma": (
        lambda: family(
            GEMMA, "<eos> <bos> <start_of_turn> <end_of_turn>", bos="<bos>", eos="<eos>"
        ),
        "<end_of_turn>",
    ),
    "phi3": (
        lambda: family(PHI3, "<|user|> <|assistant|> <|end|>", eos="<|endoftext|>"), "<|end|>"
    ),
    "r1-distill": (
        lambda: family(R1_DISTILL, "<|begin|> <|end|> <|User|> <|Assistant|>", bos="<|begin|>",
                       eos="<|end|>"),
        "<|end|>",
    ),
    "llama2": (lambda: family(LLAMA2, "<s> </s>", bos="<s>", eos="</s>"), "</s>"),
    "nothing after an answer": (lambda: family(OPEN_ENDED, "</s>", eos="</s>"), "</s>"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "end"), FAMILIES.values(), ids=FAMILIES)
def test_what_is_taught_is_what_the_template_writes_after_an_answer(make: Any, end: str) -> None:
    tokenizer = make()
    for style in ("chat", "reflect", "brief"):
        taught = answer_end(tokenizer, PromptConfig(style=style))
        assert tokenizer.convert_ids_to_tokens(taught) == end
    # Plain text without turns ends as texts do.
    assert answer_end(tokenizer, PromptConfig(style="zero")) == tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}### {{ m['role'] }}\n{{ m['content'] }} ### End\n{% endfor %}",
         "ends an answer with ' ### End"),
        # The token of a base whose vocabulary lacks it.
        (CHAT_TEMPLATE.replace("im_end", "eom"), r"ends an answer with '<\|eom\|>"),
        ("{{ messages[0]['content'] }}", "it leaves the answer out"),
        ("{{ raise_exception('one turn only') }}", "one turn only"),
        ("{{ messages[5]['content'].x.y }}", "cannot write a question with its answer"),
    ],
)  # fmt: skip
def test_a_template_whose_turns_have_no_end_is_refused_with_the_remedy(
    template: str, reason: str
) -> None:
    tokenizer = family(template, "", eos="<|im_end|>")
    with pytest.raises(RecipeError, match=rf"{reason}(?s:.*)turns: chatml"):
        answer_end(tokenizer, PromptConfig())
    assert answer_end(tokenizer, PromptConfig(style="zero")) == TURN


def test_an_unknown_piece_is_no_end_though_its_id_is_a_special_tokens() -> None:
    from lab.vocabulary import world_tokenizer

    tokenizer = world_tokenizer()  # reads what it does not know as <pad>
    assert tokenizer.convert_ids_to_tokens(answer_end(tokenizer, PromptConfig())) == "<eos>"
    tokenizer.chat_template += " <|end|>"
    with pytest.raises(RecipeError, match=r"'<\|end\|>'|' <\|end\|>'"):
        answer_end(tokenizer, PromptConfig())


def model_folder(folder: Path, *, eos: str, ends: Any) -> Path:
    folder.mkdir()
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = eos
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps(named(ends)), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("student", "teacher", "style", "is_right"),
    [
        (("<|im_end|>", TURN), ("<|im_end|>", TURN), "chat", True),
        (("<|im_end|>", TURN), ("<|im_end|>", TURN), "zero", True),
        # They differ in eos_token alone: the teacher may end where the student is not stopped.
        (("<|im_end|>", TURN), ("<|endoftext|>", TURN), "chat", False),
        # A base student learns the template's end, which an instruct teacher ends with.
        (("<|endoftext|>", TEXT), ("<|im_end|>", [TURN, TEXT]), "chat", True),
        (("<|endoftext|>", TEXT), ("<|im_end|>", [TURN, TEXT]), "zero", False),
        # A base teacher ends no turn with it.
        (("<|im_end|>", [TURN, TEXT]), ("<|endoftext|>", TEXT), "chat", False),
    ],
)
def test_a_teacher_ends_where_its_student_does_or_is_refused(
    tmp_path: Path, student: Any, teacher: Any, style: Any, is_right: bool
) -> None:
    from transformers import AutoTokenizer

    own = model_folder(tmp_path / "student", eos=student[0], ends=student[1])
    other = model_folder(tmp_path / "teacher", eos=teacher[0], ends=teacher[1])
    tokenizer, prompt = AutoTokenizer.from_pretrained(own), PromptConfig(style=style)
    ends = training_ends(own, tokenizer, prompt)
    if is_right:
        require_shared_ends(ends, other, prompt, tokenizer=tokenizer)
    else:
        with pytest.raises(RecipeError, match="the student would learn not to stop"):
            require_shared_ends(ends, other, prompt, tokenizer=tokenizer)
