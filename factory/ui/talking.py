"""The verbs `chat` and `serve`: a checkpoint in the terminal, or behind a port of this machine."""

from typing import Annotated

import typer

from factory.ui.options import STORE, ArtifactName, MachinePath, Store
from factory.ui.verbs import errors_in_words, open_console


@errors_in_words
def chat(
    artifact: ArtifactName,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.6,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, tokens.")] = 512,
    machine: MachinePath = None,
    store: Store = STORE,
) -> None:
    """Talk to a checkpoint in the terminal; its thinking is shown dimmed."""
    from factory.building.recipe import load_machine
    from factory.core.records import SamplingConfig
    from factory.ui.chat import chat as run_chat
    from factory.ui.tables import resolve

    sampling = SamplingConfig(temperature=temperature, max_new_tokens=max_new_tokens)
    run_chat(resolve(artifact, store), sampling, load_machine(machine), open_console())


@errors_in_words
def serve(
    artifact: ArtifactName,
    port: Annotated[int, typer.Option(help="On 127.0.0.1.")] = 8000,
    max_length: Annotated[int, typer.Option(help="Longest prompt with its answer, tokens.")] = 2048,
    machine: MachinePath = None,
    store: Store = STORE,
) -> None:
    """Serve a checkpoint with vLLM's OpenAI-compatible interface, on this machine only."""
    from factory.building.recipe import load_machine
    from factory.publish.serve import serve as run_server
    from factory.ui.tables import resolve

    status = run_server(
        resolve(artifact, store), load_machine(machine), port=port, max_length=max_length
    )
    if status:
        raise typer.Exit(1)
