"""TRL's DistillationTrainer as the factory runs it: our sampler, planned texts, exact resume.

TRL 1.16 keeps the mathematics: the divergence, its gradient, the mean over an update's tokens. It
has no hook for texts, so the method that generates them is replaced; with it come traces beside
the student's own texts, which TRL's trainer does not mix.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PrinterCallback

from factory.core.context import Context
from factory.core.errors import RecipeError
from factory.core.records import Problem, Trace
from factory.core.seeds import derive
from factory.sampling import open_sampler
from factory.sampling.ends import training_ends
from factory.sampling.sampler import OnEnd, Request, Sampler, nobody
from factory.stages.distill.config import DistillConfig
from factory.stages.distill.texts import Planned, plan_texts
from factory.stages.distill.vocabularies import require_shared_ends, shared_tokenizer
from factory.trainers.adapters import open_policy
from factory.trainers.arguments import largest_divisor, share_of_rank, trainer_arguments
from factory.trainers.checkpoints import CompleteCheckpoints
from factory.trainers.lora import keeps_adapters, peft_config
from factory.trainers.lowmem import optimizer_fields
from factory.trainers.opening import open_model, require_room
from factory.trainers.parity import engine_parity
from factory.trainers.phases import DRAWING, PhaseClock
from factory.trainers.running import gathered_over_ranks, run_trainer
from factory.trainers.saving import save_model
from factory.trainers.telemetry import Logs, Telemetry
from factory.trainers.trl_hooks import DistillationConfig as TrlConfig
from factory.trainers.trl_hooks import GivenTextsTrainer, metrics_of
from factory.trainers.weights import policy_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


PARITY_TOKENS = 256
"""Of a completion whose log-probs are compared: all its logits are held at once."""


@dataclass(frozen=True)
class Engine:
    """What draws the student's texts."""

    sampler: Sampler
    dtype: str
    """That engine and trainer share; decides how far they may differ."""
    clock: PhaseClock
    drawing: Callable[[float], OnEnd] = lambda worth: nobody
    """Gives what hears that a text has ended, worth such a part of a step."""


class OnPolicyTrainer(GivenTextsTrainer):
    """DistillationTrainer whose texts are those of `planned`, one a dataset row, in that order."""

    def __init__(
        self,
        *args: Any,
        config: DistillConfig,
        planned: Sequence[Planned],
        engine: Engine,
        **kwargs: Any,
    ) -> None:
        self.config = config
        self.planned = planned
        self.engine = engine
        self.parity: dict[str, float] = {}
        """Gaps found by the last check, taken by the telemetry of its step."""
        self._rows: list[int] = []
        """Of the plan, that are being sampled."""
        self._checks = self._loaded_step = 0
        super().__init__(*args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        with self.engine.clock.measure("train"):
            return super().training_step(*args, **kwargs)

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        # TRL 1.16 calls the student's layers past its `forward`, the one place where accelerate
        # rounds: without this a student in bfloat16 would be trained in float32.
        with self.accelerator.autocast():
            return super().compute_loss(*args, **kwargs)

    def prompts(self, prompts: list[str]) -> list[list[int]]:
        """Without the special tokens that a tokenizer adds: templates write their own."""
        self._rows = [int(row) for row in prompts]
        return [list(self.planned[row].prompt_ids) for row in self._rows]

    def completions(self) -> list[list[int]]:
        """One completion a row: the trace's, or one that the student draws with its weights of now.

        The seed of a text depends on its row in the plan only, so a resumed run draws the same.
        """
        requests = {
            row: self._request(row) for row in self._rows if not self.planned[row].completion_ids
        }
        sampled = dict(zip(requests, self._sample(list(requests.values())), strict=True))
        # TRL now shuffles the rows over micro-batches by the global stream. What else drew from it
        # differs between a resumed run and an undisturbed one, so the shuffle gets its own state.
        torch.manual_seed(derive(self.args.seed, "distill", "shuffle", self.state.global_step))
        return [list(sampled.get(row, self.planned[row].completion_ids)) for row in self._rows]

    def _request(self, row: int) -> Request:
        seed = derive(self.args.seed, "distill", "text", row)
        return Request(self.planned[row].prompt_ids, seed)

    def _first_own(self) -> Request:
        """The first text of this update, which the student writes."""
        return self._request(self._rows[0] // self.config.prompts * self.config.prompts)

    def _sample(self, requests: Sequence[Request]) -> list[tuple[int, ...]]:
        """Completions by the engine, after it took the weights and, now and then, was checked."""
        clock, sampler, step = self.engine.clock, self.engine.sampler, self.state.global_step
        if step != self._loaded_step:
            with clock.measure("sync"):
                sampler.load_weights(policy_weights(self.accelerator.unwrap_model(self.model)))
                self._loaded_step = step
        # A rank whose texts are all traces draws one all the same: ranks hold parts of one engine,
        # or gather the student's shards for the check, together or not at all.
        to_draw = requests or [self._first_own()]
        with clock.measure("generate"):
            on_end = self.engine.drawing(DRAWING / len(to_draw))
            completions = sampler.sample(to_draw, self.config.sampling, on_end)[: len(requests)]
        self._checks += 1
        if self._checks.bit_count() == 1:
            with clock.measure("parity"):
                tokens = min(PARITY_TOKENS, self.config.max_new_tokens)
                self.parity = engine_parity(
                    sampler, to_draw,
                    self.config.sampling.model_copy(update={"max_new_tokens": tokens}),
                    logprobs=self.completion_logprobs, device=self.accelerator.device,
                    dtype=self.engine.dtype, step=step + 1,
                )  # fmt: skip
        counts = [
            len(completions),
            sum(completion.tokens for completion in completions),
            sum(completion.finish_reason == "length" for completion in completions),
        ]
        # Of all ranks; TRL's own figures count traces as well.
        counted = gathered_over_ranks(self, torch.tensor([counts]))
        texts, all_tokens, truncated = counted.sum(dim=0).tolist()
        metrics_of(self)["drawn/length"].append(all_tokens / texts)
        metrics_of(self)["drawn/truncated_share"].append(truncated / texts)
        return [completion.token_ids for completion in completions]

    @torch.no_grad()
    def completion_logprobs(
        self, input_ids: Tensor, attention_mask: Tensor, completion_length: int
    ) -> Tensor:
        """Log-probs (rows, completion_length) of the student as it trains."""
        model = self.accelerator.unwrap_model(self.model)
        logits = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
        scaled = logits[:, -completion_length - 1 : -1].float() / self.temperature
        targets = input_ids[:, -completion_length:, None]
        return scaled.log_softmax(-1).gather(-1, targets)[..., 0]


def train(
    config: DistillConfig,
    problems: Sequence[Problem],
    *,
    traces: Iterable[Trace],
    student: Path,
    teacher: Path,
    out: Path,
    context: Context,
) -> None:
    """Draw the model in `student` towards the one in `teacher` and write it to `out`.

    Leaves telemetry.jsonl in the context's scratch folder.
    """
    tokenizer = shared_tokenizer(student, teacher)
    ends = training_ends(student, tokenizer, config.prompt)
    require_shared_ends(ends, teacher, config.prompt, tokenizer=tokenizer)
    planned = plan_texts(config, problems, traces, tokenizer=tokenizer, context=context)
    prompt = max(len(text.prompt_ids) for text in planned)
    longest, _ = (
        require_room(folder, model=name, prompt=prompt, completion=config.max_new_tokens)
        for name, folder in (("student", student), ("teacher", teacher))
    )
    machine = context.machine
    model = open_policy(student, config.lora, machine, ends=ends)
    sampler = open_sampler(
        student, machine, max_length=longest, training=True, notify=context.note, ends=ends
    )
    dtype = machine.torch_dtype_name(on_gpu=machine.takes_gpu())
    try:
        trainer = make_trainer(
            config, planned, model=model, teacher=load_teacher(teacher, model, tokenizer, dtype),
            tokenizer=tokenizer, engine=Engine(sampler, dtype, PhaseClock(), context.drawing),
            context=context,
        )  # fmt: skip
        trainer.engine.clock.take()
        run_trainer(trainer, context)
        # Before vLLM goes: it takes along the process group, by which shards are gathered.
        save_model(trainer, student, out, ends=ends, keeps_adapters=keeps_adapters(config.lora))
    finally:
        sampler.close()


def make_trainer(
    config: DistillConfig,
    planned: Sequence[Planned],
    *,
    model: "PreTrainedModel",
    teacher: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    engine: Engine,
    context: Context,
) -> OnPolicyTrainer:
    """The trainer with its texts in order and all its callbacks, ready to `train`."""
    telemetry = Telemetry(
        context.scratch / "telemetry.jsonl",
        context,
        values=telemetry_values,
        timings=lambda logs: _timings(trainer),
    )
    trainer = OnPolicyTrainer(
        model=model,
        teacher_model=teacher,
        args=training_arguments(config, context),
        # The prompt of a row is its number in the plan: all that TRL hands on.
        train_dataset=Dataset.from_dict({"prompt": [str(row) for row in range(len(planned))]}),
        processing_class=tokenizer,
        peft_config=peft_config(config.lora),
        callbacks=[CompleteCheckpoints(), telemetry],
        config=config,
        planned=planned,
        engine=engine,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def training_arguments(config: DistillConfig, context: Context) -> TrlConfig:
    """The whole of TRL's configuration. AdamW as torch and TRL have it, without decay."""
    share = share_of_rank(config.prompts, "texts")
    rows = largest_divisor(share, context.machine.micro_batch)
    return TrlConfig(
        **trainer_arguments(context, rows=rows, accumulation=share // rows, steps=config.steps),
        shuffle_dataset=False,  # the rows lie in the order of the plan
        use_vllm=False,  # our Sampler holds the engine, vLLM or another
        beta=config.beta,
        temperature=config.temperature,
        max_completion_length=config.max_new_tokens,
        learning_rate=config.learning_rate,
        lr_scheduler_type="constant",
        warmup_steps=0,
        **optimizer_fields(config.optimizer, plain="adamw_torch"),
        adam_beta1=0.9,
        adam_beta2=0.999,
        weight_decay=0.0,
        max_grad_norm=1.0,
        remove_unused_columns=False,
    )


def load_teacher(
    folder: Path, student: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", dtype: str
) -> "PreTrainedModel":
    """The teacher, its table of tokens as long as the student's; RecipeError where it is too short.

    Tables are padded beyond the tokenizer's ids by different lengths (Qwen2.5: 151,936 up to 3B,
    152,064 above). A longer one of the teacher is cut there: no text has these ids.
    """
    teacher = open_model(folder, getattr(torch, dtype))
    ours, theirs = (model.config.get_text_config().vocab_size for model in (student, teacher))
    needed = 1 + max(tokenizer.get_vocab().values())
    if theirs > ours >= needed:
        teacher.resize_token_embeddings(ours)
    elif theirs != ours:
        raise RecipeError(
            f"teacher: has rows for {theirs} tokens, the student for {ours}, of which the "
            f"tokenizer uses {needed}: take a teacher with at least as many rows as the student"
        )
    return teacher.requires_grad_(False).eval()


def telemetry_values(logs: Logs) -> dict[str, float]:
    """The deterministic figures of a step; `loss` is the mean divergence of a token, in nats.

    Length and truncation are those of the student's own texts.
    """
    return {
        "loss": logs["loss"],
        "entropy": logs["entropy"],
        "learning_rate": logs["learning_rate"],
        "grad_norm": logs["grad_norm"],
        "completion_length": logs["drawn/length"],
        "truncated_share": logs["drawn/truncated_share"],
    }


def _timings(trainer: OnPolicyTrainer) -> dict[str, float]:
    """Seconds by phase, and the parity check if there was one."""
    seconds = trainer.engine.clock.take()
    timings = {f"seconds/{name}": round(value, 3) for name, value in seconds.items()}
    timings |= trainer.parity
    trainer.parity = {}
    return timings
