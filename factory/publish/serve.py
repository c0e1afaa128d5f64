"""vLLM's OpenAI-compatible server on this machine, asked as training asked."""

import os
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path

from factory.artifacts import Artifact, verify
from factory.errors import ArtifactError, EngineError
from factory.interpreter import SAFE_PATH, module_command
from factory.machine import Machine
from factory.publish.export import is_weights, refuse_served, write_settings
from factory.publish.lineage import ancestry
from factory.publish.template import training_prompt

HOST = "127.0.0.1"
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
        raise EngineError("serve: vLLM is not installed: run `make install`, or use factory chat")
    with tempfile.TemporaryDirectory(prefix="factory-serve-") as scratch:
        folder = Path(scratch)
        prompt = training_prompt(artifact, ancestry(artifact, artifact.path.parent))
        write_settings(artifact, prompt, folder)
        for name in filter(is_weights, artifact.manifest.files):
            (folder / name).symlink_to((artifact.path / name).resolve())
        command = arguments(folder, artifact.name, machine, port=port, max_length=max_length)
        process = subprocess.Popen(command, env=environment(machine))
        try:
            return process.wait()
        except KeyboardInterrupt:
            # Ctrl-C reaches the server too; it ends its engine by itself.
            process.wait(ENDS_WITHIN)
            return 0
        finally:
            process.kill()


def arguments(
    folder: Path, name: str, machine: Machine, *, port: int, max_length: int
) -> list[str]:
    """The server's command line; on a CPU with the settings of our own CPU engine."""
    on_gpu = machine.takes_gpu()
    common = {
        "--model": str(folder),
        "--served-model-name": name,
        "--host": HOST,
        "--port": str(port),
        "--dtype": machine.torch_dtype_name(on_gpu=on_gpu),
        "--max-model-len": str(max_length),
    }
    if on_gpu:
        common["--tensor-parallel-size"] = str(machine.tensor_parallel)
        common["--gpu-memory-utilization"] = str(machine.gpu_memory_fraction)
    else:
        common["--max-num-batched-tokens"] = str(max(max_length, 4096))
    flags = [] if on_gpu else ["--enforce-eager", "--no-enable-chunked-prefill"]
    options = [*(word for pair in common.items() for word in pair), *flags]
    return module_command("vllm.entrypoints.openai.api_server", *options)


def environment(machine: Machine) -> dict[str, str]:
    """This process's environment with what a CPU engine reads from there."""
    added = {**SAFE_PATH, "VLLM_NO_USAGE_STATS": "1"}
    if not machine.takes_gpu():
        cores = sorted(os.sched_getaffinity(0))[: machine.thread_count()]
        added["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores))
        # Whole GiB: the server takes no fractions.
        added["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, round(machine.engine_memory_gib)))
    return {**os.environ, **added}
