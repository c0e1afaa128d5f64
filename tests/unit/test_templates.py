"""A chat template is a stranger's program: it ends, in bounded memory, or is refused in words."""

import json
import resource
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from factory.building.plan import check_prompts, make_plan
from factory.building.recipe import load_recipe
from factory.core.errors import ArtifactError, RecipeError
from factory.models.tiny import CHAT_TEMPLATE, byte_tokenizer, save_tiny_model
from factory.sampling.ends import answer_end
from factory.text import templates
from factory.text.chat import PromptConfig, render
from factory.text.templates import TemplateFault, open_tokenizer, written_messages

ASKED = [{"role": "user", "content": "What is 2 + 3?"}]
THOUSAND = "range(100000)"
ENDLESS = f"{{% for a in {THOUSAND} %}}{{% for b in {THOUSAND} %}}{{% endfor %}}{{% endfor %}}"
DOUBLING = (
    "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}"
    "{% endfor %}{{ ns.x|length }}"
)
HOSTILE = {
    "loops in loops": (ENDLESS, "does not end within"),
    "a power without end": ("{{ 9 ** (9 ** (9 ** 9)) }}", "does not end within|takes more than"),
    "a sorted sea": (f"{{% for a in {THOUSAND} %}}{{{{ {THOUSAND}|list|sort }}}}{{% endfor %}}",
                     "does not end within|takes more than"),
    "one wide text": ("{{ 'a' * 10 ** 11 }}", "takes more than 1 GiB"),
    "a wide number": ("{{ '%099999999999d' % 1 }}", "takes more than 1 GiB|too big"),
    "doubling": (DOUBLING, "takes more than 1 GiB"),
    "much text": ("{{ 'a' * (17 * 2 ** 20) }}", "writes more than 16777216 characters"),
    "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    "division": ("{{ 1 / 0 }}", "division by zero"),
    "a type": ("{{ messages + 1 }}", "can only concatenate"),
    "an attribute": ("{{ messages.__class__.__mro__ }}", "unsafe|access"),
    "a refusal": ("{{ raise_exception('no such role') }}", "no such role"),
    "no template": ("{% for %}", "."),
    "nested brackets": ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "."),
    "a large one": ("{# " + "x" * 2**20 + " #}", "more than 1048576 characters"),
}  # fmt: skip


def tokenizer_with(template: str) -> Any:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def bounds() -> tuple[Any, ...]:
    """What holds for this process; a timer of the test's own may run."""
    is_timed = signal.getitimer(signal.ITIMER_REAL)[0] > 0
    return resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGALRM), is_timed


@pytest.mark.parametrize("name", HOSTILE)
def test_a_template_that_takes_too_much_or_raises_is_a_fault_in_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    template, reason = HOSTILE[name]
    if "does not end" in reason:  # else time must not run out before what is tried, under any load
        monkeypatch.setattr(templates, "SECONDS", 1.0)
    before = bounds()
    with pytest.raises(TemplateFault, match=reason) as caught:
        written_messages(ASKED, tokenizer_with(template), opens=True)
    assert "\n" not in str(caught.value)
    assert bounds() == before


def test_it_may_strike_at_certain_words_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """So one look at it is not enough: every conversation is bounded."""
    monkeypatch.setattr(templates, "SECONDS", 1.0)
    sly = f"{{% if '7' in messages[-1].content %}}{ENDLESS}{{% endif %}}{CHAT_TEMPLATE}"
    tokenizer = tokenizer_with(sly)
    requested = render("What is 2 + 3?", PromptConfig(), tokenizer)
    assert requested == render("What is 2 + 3?", PromptConfig(), tokenizer_with(CHAT_TEMPLATE))
    with pytest.raises(RecipeError, match=r"chat template refuses .*does not end within 1 seconds"):
        render("What is 2 + 7?", PromptConfig(), tokenizer)
    with pytest.raises(RecipeError, match="cannot write a question with its answer"):
        answer_end(tokenizer_with(ENDLESS), PromptConfig())


def test_an_honest_template_writes_what_transformers_writes() -> None:
    tokenizer = tokenizer_with(CHAT_TEMPLATE)
    for opens in (True, False):
        own = tokenizer.apply_chat_template(ASKED, tokenize=False, add_generation_prompt=opens)
        assert written_messages(ASKED, tokenizer, opens=opens) == own
    # In another thread too, where no alarm can be set.
    written: list[str] = []
    thread = threading.Thread(
        target=lambda: written.append(written_messages(ASKED, tokenizer, opens=False))
    )
    thread.start()
    thread.join()
    assert written == [own]


def test_the_day_is_always_the_same_one() -> None:
    template = "{{ strftime_now('%d %b %Y') }}"
    assert written_messages(ASKED, tokenizer_with(template), opens=True) == "26 Jul 2024"


def test_an_alarm_of_somebody_else_still_comes() -> None:
    calls: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: calls.append(number))
    timer = signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        written_messages(ASKED, tokenizer_with(CHAT_TEMPLATE), opens=True)
        end = time.monotonic() + 20
        while not calls and time.monotonic() < end:
            time.sleep(0.01)
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer)
    assert calls == [signal.SIGALRM]


BROKEN = {
    "another format": '{"version": "1.0"}',
    "no JSON": "{",
    "empty": "",
    "a list": "[]",
    "no model": '{"version": "1.0", "model": {"type": "Nonesuch"}}',
}


def recipe(folder: Path, **stages: Any) -> Path:
    base = {"kind": "model", "source": {"type": "local", "path": str(folder / "source")}}
    sums = {
        "kind": "problems",
        "sources": [{"type": "reasoning_gym", "family": "chain_sum", "train": 2, "held_out": 2}],
    }
    path = folder / "recipe.json"
    text = json.dumps({"name": "x", "stages": {"base": base, "sums": sums, **stages}})
    path.write_text(text, encoding="utf-8")
    return path


ASKS = {"kind": "generate", "model": "base", "problems": "sums", "samples": 1}


@pytest.mark.parametrize("name", BROKEN)
def test_a_tokenizer_that_does_not_open_is_refused_by_the_plan_of_who_asks_it(
    name: str, tmp_path: Path
) -> None:
    source = save_tiny_model(tmp_path / "source", "llama", hidden=32, layers=1)
    for other in ("tokenizer_config.json", "special_tokens_map.json"):
        (source / other).unlink(missing_ok=True)
    (source / "tokenizer.json").write_text(BROKEN[name], encoding="utf-8")
    with pytest.raises(ArtifactError, match="its tokenizer cannot be opened") as caught:
        open_tokenizer(source)
    assert "\n" not in str(caught.value)
    plan = make_plan(load_recipe(recipe(tmp_path, traces=ASKS)))
    with pytest.raises(ArtifactError, match="source: its tokenizer cannot be opened"):
        check_prompts(plan, plan)
    # Nobody asks it here: its weights may be wanted alone.
    alone = make_plan(load_recipe(recipe(tmp_path)))
    check_prompts(alone, alone)


def test_a_prompt_that_the_template_refuses_is_refused_by_the_plan(tmp_path: Path) -> None:
    source = save_tiny_model(tmp_path / "source", "llama", hidden=32, layers=1)
    tokenizer_with("{{ raise_exception('no turns') }}").save_pretrained(source)
    plan = make_plan(load_recipe(recipe(tmp_path, traces=ASKS)))
    with pytest.raises(RecipeError, match=r"stages\.traces\.model: .*no turns"):
        check_prompts(plan, plan)
    zero = {**ASKS, "prompt": {"style": "zero"}}
    plan = make_plan(load_recipe(recipe(tmp_path, traces=zero)))
    check_prompts(plan, plan)


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8"])
def test_quantised_weights_may_be_asked_and_are_refused_where_they_would_be_trained(
    method: str, tmp_path: Path
) -> None:
    source = save_tiny_model(tmp_path / "source", "llama", hidden=32, layers=1)
    fields = json.loads((source / "config.json").read_text(encoding="utf-8"))
    fields["quantization_config"] = {"quant_method": method, "bits": 4}
    (source / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    plan = make_plan(load_recipe(recipe(tmp_path, traces=ASKS)))
    check_prompts(plan, plan)
    trains = {"kind": "sft", "model": "base", "traces": "traces"}
    plan = make_plan(load_recipe(recipe(tmp_path, traces=ASKS, student=trains)))
    with pytest.raises(RecipeError, match=rf"stages\.student\.model: .*quantised \({method}\)"):
        check_prompts(plan, plan)


def test_a_tokenizer_of_another_model_is_refused_by_the_plan_of_who_asks_it(tmp_path: Path) -> None:
    source = save_tiny_model(tmp_path / "source", "llama", hidden=32, layers=1)
    tokenizer = open_tokenizer(source)
    tokenizer.add_tokens(["<|one|>", "<|two|>"])
    tokenizer.save_pretrained(source)
    plan = make_plan(load_recipe(recipe(tmp_path, traces=ASKS)))
    with pytest.raises(ArtifactError, match="ids up to 260, its embedding has 259 rows"):
        check_prompts(plan, plan)
