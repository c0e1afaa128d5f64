"""Servers of vLLM that a stage starts for itself, asked as any served model is.

Each holds the whole model on its own GPUs and takes an equal share of the requests. The share of
one that fails goes to the others. What is answered is on disk as it comes.
"""

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx

from factory.core.engines import Replicas, visible_gpus
from factory.core.errors import EngineError
from factory.core.interpreter import die_with_parent, module_command
from factory.core.machine import EndpointAccess, Machine
from factory.core.records import SamplingConfig
from factory.install import REINSTALL
from factory.sampling.endpoint import EndpointSampler
from factory.sampling.sampler import Completion, OnEnd, Request, nobody
from factory.sampling.served import Served, write_served
from factory.sampling.server import HOST, server_command, server_environment

KEY_NAME = "FACTORY_REPLICA_KEY"
"""Environment variable with the key that the servers of this process ask for: other users of this
machine reach their ports too."""
RETRIES = 3
"""Of a request, on a server of our own: what does not answer then has ended."""
LOOK_SECONDS = 0.5
END_SECONDS = 30.0
MODEL_NAME = "model"


class ReplicaSampler:
    """As many servers as the machine file says; they end with this sampler, or with its process."""

    name = "replicas"

    def __init__(
        self,
        model: Path,
        machine: Machine,
        settings: Replicas,
        *,
        max_length: int,
        scratch: Path,
        notify: Callable[[str], None] | None = None,
    ) -> None:
        if not find_spec("vllm"):
            raise EngineError(
                f"machine file: replicas: vLLM is not installed; {REINSTALL}, or leave replicas out"
            )
        os.environ[KEY_NAME] = secrets.token_hex(32)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._samplers: list[EndpointSampler] = []
        self._reasons: list[str] = []
        self._notify = notify
        devices = _devices(machine, settings)
        folders = [scratch / f"replica-{number}" for number in range(1, len(devices) + 1)]
        try:
            urls = [
                self._start(model, machine, folder, visible, max_length)
                for folder, visible in zip(folders, devices, strict=True)
            ]
            self._await(urls, folders, settings.start_seconds)
            for folder, url in zip(folders, urls, strict=True):
                self._samplers.append(
                    self._ask(model, machine, folder, url, max_length, notify, settings)
                )
        except BaseException:
            self.close()
            raise

    def sample(
        self, requests: Sequence[Request], sampling: SamplingConfig, on_end: OnEnd = nobody
    ) -> list[Completion]:
        answers: dict[int, Completion] = {}
        while len(answers) < len(requests):
            left = [index for index in range(len(requests)) if index not in answers]
            shares = [left[number :: len(self._samplers)] for number in range(len(self._samplers))]
            with ThreadPoolExecutor(len(shares)) as threads:
                futures = [
                    threads.submit(
                        sampler.sample, [requests[index] for index in share], sampling, on_end
                    )
                    for sampler, share in zip(self._samplers, shares, strict=True)
                ]
            for sampler, share, future in zip([*self._samplers], shares, futures, strict=True):
                try:
                    answers |= zip(share, future.result(), strict=True)
                except EngineError as error:
                    self._do_without(sampler, error)
        return [answers[index] for index in range(len(requests))]

    def _do_without(self, sampler: EndpointSampler, error: EngineError) -> None:
        """Leave a server out that failed; EngineError with all reasons when none is left."""
        self._samplers.remove(sampler)
        sampler.close()
        self._reasons.append(str(error))
        if not self._samplers:
            raise EngineError("replicas: no server is left. " + "; ".join(self._reasons)) from error
        if self._notify is not None:
            self._notify(f"replicas: {error}; the others draw its share")

    def load_weights(self, weights: Iterable[tuple[str, Any]]) -> None:
        raise EngineError("replicas: servers take no weights; leave replicas out where it trains")

    def close(self) -> None:
        for sampler in self._samplers:
            sampler.close()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()

    def _start(
        self, model: Path, machine: Machine, folder: Path, visible: str | None, max_length: int
    ) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = probe.getsockname()[1]
        environ = {**server_environment(machine), "VLLM_API_KEY": os.environ[KEY_NAME]}
        if visible is None:
            environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # else all take the first cores
        else:
            environ["CUDA_VISIBLE_DEVICES"] = visible
        command = server_command(str(model), MODEL_NAME, machine, port=port, max_length=max_length)
        with (folder / "log.txt").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    module_command("factory.sampling.keeper", *command),
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ,
                    preexec_fn=die_with_parent,
                )
            )  # fmt: skip
        return f"http://{HOST}:{port}"

    def _await(self, urls: Sequence[str], folders: Sequence[Path], seconds: float) -> None:
        """Until every server answers; EngineError with the end of its log if one does not."""
        end = time.monotonic() + seconds
        for url, folder, process in zip(urls, folders, self._processes, strict=True):
            while not _is_up(url):
                status = process.poll()
                if status is None and time.monotonic() < end:
                    time.sleep(LOOK_SECONDS)
                    continue
                log = (folder / "log.txt").read_text(encoding="utf-8", errors="replace")
                what = (
                    f"did not answer in {seconds:g} seconds"
                    if status is None
                    else (f"ended with status {status}")
                )
                tail = "\n".join(log.splitlines()[-8:])
                raise EngineError(f"{folder.name}: the server {what}; its last lines:\n{tail}")

    def _ask(
        self, model: Path, machine: Machine, folder: Path, url: str, max_length: int,
        notify: Callable[[str], None] | None, settings: Replicas,
    ) -> EndpointSampler:  # fmt: skip
        served = Served(url=f"{url}/v1", name=MODEL_NAME, has_tokenizer=True)
        own = folder / "served"
        own.mkdir(exist_ok=True)
        for path in model.iterdir():
            if path.is_file() and path.suffix != ".safetensors":
                shutil.copyfile(path, own / path.name)
        write_served(own, served)
        access = EndpointAccess(
            url=served.url, key_env=KEY_NAME, concurrency=settings.concurrency,
            logprobs=True, retries=RETRIES,
        )  # fmt: skip
        reached = machine.model_copy(update={"endpoints": (access,)})
        # Kept answers are told apart by what is asked, which names no port.
        return EndpointSampler(
            own, served, reached, max_length=max_length, notify=notify, scratch=folder
        )


def _devices(machine: Machine, settings: Replicas) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES of each server; None on CPUs. EngineError where there are too few."""
    if not machine.takes_gpu():
        return [None] * (settings.count or 1)
    stated = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = stated.split(",") if stated else list(map(str, range(visible_gpus())))
    each = machine.tensor_parallel
    count = settings.count or len(names) // each
    if count < 1 or count * each > len(names):
        raise EngineError(
            f"machine file: replicas.count: {count} servers of {each} GPUs, and there are "
            f"{len(names)} GPUs; ask for at most {len(names) // each}"
        )
    return [",".join(names[number * each : (number + 1) * each]) for number in range(count)]


def _is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5.0).is_success
    except httpx.HTTPError:
        return False
