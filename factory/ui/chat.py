"""Talk to a checkpoint in the terminal."""

from pathlib import Path

from factory.artifacts import Artifact
from factory.chat import OutputForm, PromptConfig, parse_completion, render, stop_texts
from factory.errors import ArtifactError
from factory.machine import Machine
from factory.records import SamplingConfig
from factory.seeds import derive
from factory.ui.console import Console, Text


def chat(
    artifact: Artifact,
    sampling: SamplingConfig,
    machine: Machine,
    console: Console,
) -> None:
    """Answer one question a line until end of input; each stands alone, as in training.

    Answers are read in the output form that the model's manifest says it was trained in.
    """
    if artifact.manifest.kind != "model":
        raise ArtifactError(f"{artifact.path}: holds {artifact.manifest.kind}, a model is needed")
    from transformers import AutoTokenizer

    from factory.sampling import Request, open_sampler

    prompt = PromptConfig(form=trained_form(artifact))
    folder: Path = artifact.path
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    sampler = open_sampler(folder, machine, max_length=2048)
    sampling = sampling.model_copy(update={"stop": stop_texts(prompt)})
    console.print(Text("One question a line; Ctrl-D ends.", "dim"))
    turn = 0
    while True:
        try:
            question = console.input(Text("> ", "bold cyan")).strip()
        except EOFError:
            break
        if not question:
            continue
        ids = tokenizer(render(question, prompt, tokenizer), add_special_tokens=False)["input_ids"]
        request = Request(tuple(ids), derive(0, "chat", turn))
        completion = sampler.sample([request], sampling)[0]
        response = parse_completion(completion.text, completion.finish_reason, prompt)
        if response.reasoning is not None:
            console.print(Text(response.reasoning.strip(), "dim italic"))
            console.print(Text(response.summary or response.answer or "(no answer)", "bold"))
        else:
            console.print(Text(completion.text.strip()))
        if completion.finish_reason == "length":
            console.print(Text(f"(cut at {sampling.max_new_tokens} tokens)", "yellow"))
        turn += 1
    sampler.close()


def trained_form(artifact: Artifact) -> OutputForm | None:
    """The output form of the stage that made a model; None where it is that of the tags."""
    form = artifact.manifest.config.get("prompt", {}).get("form")
    return form and OutputForm.model_validate(form)
