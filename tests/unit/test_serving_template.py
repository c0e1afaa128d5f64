"""The published template under the switches and the ways that libraries use it in."""

from typing import Any

import pytest

from factory.models.tiny import byte_tokenizer
from factory.publish.template import serving_template
from factory.text.chat import PromptConfig

TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
)
CLOSED = "<think>\n\n</think>\n\n"
SWITCHED = {
    "qwen3": ("{% if enable_thinking is defined and enable_thinking is false %}" + repr(CLOSED),
              "enable_thinking", False, CLOSED),
    "smollm3": ("{% if not (enable_thinking | default(true)) %}" + repr(CLOSED),
                "enable_thinking", False, CLOSED),
    "deepseek": ("{% if thinking is defined and thinking %}'<think>\\n'",
                 "thinking", True, "<think>\n"),
    "granite": ("{% if use_reasoning is defined and not use_reasoning %}" + repr(CLOSED),
                "use_reasoning", False, CLOSED),
}  # fmt: skip
"""(what a template writes where an answer begins, its switch, the value, what it then writes)."""
PREFILL = "<think>\n"
QUESTION = [{"role": "user", "content": "1 + 1?"}]


def published(template: str) -> Any:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    tokenizer.chat_template = serving_template(tokenizer, PromptConfig(prefill=PREFILL))
    return tokenizer


def written(tokenizer: Any, messages: list[dict[str, str]], **settings: Any) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, **settings))


@pytest.mark.parametrize("family", SWITCHED)
def test_a_switch_of_the_template_writes_what_it_did_and_nothing_behind_it(family: str) -> None:
    begin, name, value, text = SWITCHED[family]
    condition, _, literal = begin.partition("%}")
    template = f"{TURNS}{condition}%}}{{{{ {literal} }}}}{{% endif %}}{{% endif %}}"
    tokenizer = published(template)
    start = "<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n"
    opened = {"add_generation_prompt": True}
    assert written(tokenizer, QUESTION, **opened) == start + PREFILL
    assert written(tokenizer, QUESTION, **opened, **{name: value}) == start + text
    assert written(tokenizer, QUESTION, **opened, **{name: not value}) == start + PREFILL


def test_only_turns_before_the_last_question_forget_their_thoughts() -> None:
    tokenizer = published(TURNS + "{% endif %}")
    answer = {"role": "assistant", "content": "<think>\nTwo.\n</think>\n\n2"}
    alone = written(tokenizer, [*QUESTION, answer])
    assert alone.endswith("assistant\n<think>\nTwo.\n</think>\n\n2<|im_end|>\n")
    talk = [*QUESTION, answer, {"role": "user", "content": "And?"}, answer]
    text = written(tokenizer, talk)
    assert text.count("Two.") == 1 and text.index("Two.") > text.index("And?")
    goes_on = written(tokenizer, [*QUESTION, answer], continue_final_message=True)
    assert goes_on.endswith("<think>\nTwo.\n</think>\n\n2")
    assert "Two." not in written(tokenizer, talk[:3], add_generation_prompt=True)
