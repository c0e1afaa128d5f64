"""`factory chat` asks a model as it was trained, and as its published folder asks."""

import shutil
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import pytest

import factory.sampling
from factory.core.artifacts import Artifact
from factory.core.errors import ArtifactError
from factory.core.machine import Machine
from factory.core.records import SamplingConfig
from factory.models.tiny import byte_tokenizer, save_tiny_model
from factory.publish.earlier import open_tokenizer
from factory.publish.export import write_settings
from factory.publish.gate import served_ids
from factory.sampling.sampler import Completion, OnEnd, Request, nobody
from factory.sampling.scripted import ScriptedSampler
from factory.text.chat import Demonstration, OutputForm, PromptConfig, render
from factory.ui.chat import chat
from factory.ui.console import Console
from tests import published

QUESTIONS = ("What is 3 + 4?", "Zähle: 1, 2, …", "<b>x</b>")
RELEASED = OutputForm(opening="<think>", closing="</think>")
SHOWN = Demonstration(question="1 + 1 =", reasoning="1 + 1 = 2.", answer="2")


class Recorder(ScriptedSampler):
    """Remembers the sampling settings too."""

    def __init__(self) -> None:
        super().__init__(lambda _: " seven </think> <answer> 7 </answer>", byte_tokenizer())
        self.stops: list[tuple[str, ...]] = []

    def sample(
        self, requests: Sequence[Request], sampling: SamplingConfig, on_end: OnEnd = nobody
    ) -> list[Completion]:
        self.stops.append(sampling.stop)
        return super().sample(requests, sampling)


def made(folder: Path, prompt: PromptConfig, template: str = "") -> dict[str, Artifact]:
    """A store with a student that was trained with a prompt, under a template."""
    student = save_tiny_model(folder / "student", "llama")
    if template:
        (student / "chat_template.jinja").write_text(template, encoding="utf-8")
    changes = {"prompt": prompt.model_dump(mode="json")}
    return published.make_store(folder, student, student=changes, eval_student=changes)[1]


def talked(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> tuple[Recorder, str]:
    sampler, lines = Recorder(), iter(QUESTIONS)
    shown = StringIO()
    console = Console(file=shown, width=200)

    def line(*_: object) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(console, "input", line)
    monkeypatch.setattr(factory.sampling, "open_sampler", lambda *_, **__: sampler)
    chat(artifact, SamplingConfig(stop=("END",)), Machine(device="cpu"), console)
    return sampler, shown.getvalue()


@pytest.mark.parametrize(
    "prompt",
    [
        PromptConfig(),
        PromptConfig(prefill="<think>"),
        PromptConfig(prefill="<think>\n", system='Say "é" \\ ok'),
        PromptConfig(form=RELEASED, prefill="<think>\n"),
        PromptConfig(form=OutputForm(), system="Think first."),
    ],
)
@pytest.mark.parametrize("opens", [False, True], ids=["plain", "opens the thoughts"])
def test_chat_asks_to_the_token_as_the_published_folder_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prompt: PromptConfig, opens: bool
) -> None:
    template = str(byte_tokenizer().chat_template)
    if opens:
        template = template.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
    student = made(tmp_path, prompt, template)["student"]
    sampler, _ = talked(student, monkeypatch)
    folder = tmp_path / "folder"
    folder.mkdir()
    write_settings(student, prompt, folder)
    served = open_tokenizer(folder)
    requests = [list(request.prompt_ids) for (request,) in sampler.calls]
    assert requests == [served_ids(served, question) for question in QUESTIONS]
    assert sampler.stops == [("END",)] * 3


@pytest.mark.parametrize(
    "prompt",
    [
        PromptConfig(style="zero", demonstrations=(SHOWN,), prefill="<think>"),
        PromptConfig(style="few_shot", demonstrations=(SHOWN,), system="S"),
        PromptConfig(style="brief", prefill="<think>\n"),
    ],
)
def test_chat_asks_in_the_styles_that_no_folder_is_published_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prompt: PromptConfig
) -> None:
    sampler, _ = talked(made(tmp_path, prompt)["student"], monkeypatch)
    tokenizer = byte_tokenizer()
    requests = [tokenizer.decode(request.prompt_ids) for (request,) in sampler.calls]
    assert requests == [render(question, prompt, tokenizer) for question in QUESTIONS]
    assert sampler.stops == [("END", "</answer>")] * 3


def test_the_thoughts_that_a_prefill_opened_are_shown_as_thoughts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, shown = talked(made(tmp_path, PromptConfig(prefill="<think>"))["student"], monkeypatch)
    assert "seven\n7\n" in shown and "</think>" not in shown


def test_a_base_is_asked_bare_and_a_model_without_its_origin_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts = made(tmp_path, PromptConfig(system="S"))
    sampler, _ = talked(artifacts["base"], monkeypatch)
    tokenizer = byte_tokenizer()
    bare = render(QUESTIONS[0], PromptConfig(), tokenizer)
    assert tokenizer.decode(sampler.calls[0][0].prompt_ids) == bare
    # What only the student's other inputs were made from does not matter.
    shutil.rmtree(artifacts["kept"].path)
    sampler, _ = talked(artifacts["student"], monkeypatch)
    assert "S" in tokenizer.decode(sampler.calls[0][0].prompt_ids)
    own = artifacts["student"].manifest
    later = Artifact(artifacts["student"].path, own.model_copy(update={"config": {}}))
    sampler, _ = talked(later, monkeypatch)
    assert tokenizer.decode(sampler.calls[0][0].prompt_ids) == bare
    shutil.rmtree(artifacts["base"].path)
    with pytest.raises(ArtifactError, match=r"how it was asked in training is not known: .* base"):
        talked(later, monkeypatch)
