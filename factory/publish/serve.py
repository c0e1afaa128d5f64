"""vLLM's OpenAI-compatible server on this machine, asked as training asked."""

import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path

from factory.core.artifacts import Artifact, verify
from factory.core.errors import ArtifactError, EngineError
from factory.core.machine import Machine
from factory.install import REINSTALL
from factory.publish.export import is_weights, refuse_served, write_settings
from factory.publish.lineage import ancestry
from factory.publish.template import training_prompt
from factory.sampling.server import server_command, server_environment

ENDS_WITHIN = 30.0
"""Seconds that a server may take to end its engine."""


def serve(artifact: Artifact, machine: Machine, *, port: int, max_length: int) -> int:
    """Run the server until it ends; returns its exit status.

    It listens on the loopback address only and knows no password. The template and R1's sampling
    are those that `publish` would write; a request may overrule the sampling.
    """
    if artifact.manifest.kind != "model":
        raise ArtifactError(f"{artifact.path}: holds {artifact.manifest.kind}, a model is needed")
    refuse_served(artifact)
    verify(artifact, was_checked=True)
    if not find_spec("vllm"):
        raise EngineError(f"serve: vLLM is not installed: {REINSTALL}, or use factory chat")
    with tempfile.TemporaryDirectory(prefix="factory-serve-") as scratch:
        folder = Path(scratch)
        prompt = training_prompt(artifact, ancestry(artifact, artifact.path.parent))
        write_settings(artifact, prompt, folder)
        for name in filter(is_weights, artifact.manifest.files):
            (folder / name).symlink_to((artifact.path / name).resolve())
        command = server_command(scratch, artifact.name, machine, port=port, max_length=max_length)
        process = subprocess.Popen(command, env=server_environment(machine))
        try:
            return process.wait()
        except KeyboardInterrupt:
            # Ctrl-C reaches the server too; it ends its engine by itself.
            process.wait(ENDS_WITHIN)
            return 0
        finally:
            process.kill()
