"""Talk to a checkpoint in the terminal."""

from pathlib import Path

from factory.core.artifacts import Artifact, verify
from factory.core.errors import ArtifactError
from factory.core.machine import Machine
from factory.core.records import SamplingConfig
from factory.core.seeds import derive
from factory.publish.template import stored_prompt
from factory.text.chat import parse_completion, render, with_stops
from factory.text.templates import open_tokenizer
from factory.ui.console import Console, Text


def chat(
    artifact: Artifact,
    sampling: SamplingConfig,
    machine: Machine,
    console: Console,
) -> None:
    """Answer one question a line until end of input; each stands alone, as in training.

    The model is asked as it was trained, to the token as its published folder asks; ArtifactError
    where the store does not say how that was.
    """
    if artifact.manifest.kind != "model":
        raise ArtifactError(f"{artifact.path}: holds {artifact.manifest.kind}, a model is needed")
    verify(artifact, was_checked=True)

    from factory.sampling import Request, open_sampler

    prompt = stored_prompt(artifact)
    folder: Path = artifact.path
    tokenizer = open_tokenizer(folder)
    sampler = open_sampler(folder, machine, max_length=2048)
    sampling = with_stops(sampling, prompt)
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
