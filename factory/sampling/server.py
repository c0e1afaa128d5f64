"""vLLM's OpenAI-compatible server as a process of this machine."""

import os

from factory.core.interpreter import SAFE_PATH, module_command
from factory.core.machine import Machine

HOST = "127.0.0.1"


def server_command(
    folder: str, name: str, machine: Machine, *, port: int, max_length: int
) -> list[str]:
    """The server's command line; on a CPU with the settings of our own CPU engine."""
    on_gpu = machine.takes_gpu()
    common = {
        "--model": folder,
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


def server_environment(machine: Machine) -> dict[str, str]:
    """This process's environment with what a CPU engine reads from there."""
    added = {**SAFE_PATH, "VLLM_NO_USAGE_STATS": "1"}
    if not machine.takes_gpu():
        cores = sorted(os.sched_getaffinity(0))[: machine.thread_count()]
        added["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores))
        # Whole GiB: the server takes no fractions.
        added["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, round(machine.engine_memory_gib)))
    return {**os.environ, **added}
