"""lm-eval with the factory's sampler behind it.

lm-eval hands over the requests of all runs at once. They are sampled in fixed blocks that stay on
disk, so an evaluation that was killed goes on where it stopped and ends with the same bytes.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate

from factory.context import Context
from factory.evaluation.rounds import IsEnough, rounds
from factory.evaluation.runs import EvalRequest, Run, Sampled
from factory.evaluation.tasks import foreign_sampling
from factory.records import SamplingConfig
from factory.sampling.blocks import sample_blocks
from factory.sampling.sampler import Completion, Request, Sampler
from factory.seeds import derive


@dataclass(eq=False)
class SamplerLM(LM):
    """What lm-eval takes for a model.

    `ask` renders a question as a prompt, `tokenize(text, add_special_tokens)` gives token ids.
    `open_sampler(max_length, mean_length)` is called once, when all prompts are known;
    `open_scorer` makes lm-eval's own model for tasks that compare likelihoods, only if there are
    such. `on_sampled` hears of every round's completions, before the next round and before lm-eval
    asks for any score; `is_enough` ends a run that may end early.
    """

    runs: dict[str, Run]
    ask: Callable[[str], str]
    tokenize: Callable[[str, bool], Sequence[int]]
    max_new_tokens: int
    """For foreign tasks that state no limit."""
    open_sampler: Callable[[int, int], Sampler]
    open_scorer: Callable[[], LM]
    on_sampled: Callable[[Sampled], None]
    context: Context
    is_enough: IsEnough = lambda run, samples: False

    def __post_init__(self) -> None:
        super().__init__()
        self._scorer: LM | None = None

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        draws = list(self._draws(requests))
        completions: dict[int, Completion] = {}
        with closing(self._rounds(draws)) as drawing:
            for drawn in drawing:
                self.on_sampled([(draws[place], completion) for place, completion in drawn.items()])
                completions |= drawn
        # lm-eval wants a text for every sample that it asked for. Those of a run that ended early
        # count nowhere: verdicts decide the scores of our tasks.
        return [
            _reply(draw, completions[place]) if place in completions else ""
            for place, draw in enumerate(draws)
        ]

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        return self._likelihood_model().loglikelihood(requests)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        return self._likelihood_model().loglikelihood_rolling(requests)

    def _likelihood_model(self) -> LM:
        if self._scorer is None:
            self._scorer = self.open_scorer()
        return self._scorer

    def _draws(self, requests: Sequence[Instance]) -> Iterator[EvalRequest]:
        """One draw a request; lm-eval repeats an instance as often as it wants samples of it."""
        for _, group in groupby(requests, key=id):
            for sample, instance in enumerate(group):
                run = self.runs[str(instance.task_name)]
                text, arguments = instance.arguments
                if run.problems is None:
                    question, document = text, f"{instance.doc_id}.{instance.idx}"
                    prompt = text if run.is_raw else self.ask(text)
                else:
                    # Our tasks' text is the whole prompt already.
                    question, document = instance.doc["prompt"], instance.doc["id"]
                    prompt = text
                yield EvalRequest(
                    run=run,
                    document=document,
                    sample=sample,
                    question=question,
                    prompt=prompt,
                    seed=derive(self.context.seed, run.name, document, sample),
                    sampling=self._sampling(run, arguments),
                )

    def _sampling(self, run: Run, arguments: dict[str, Any]) -> SamplingConfig:
        if run.problems is not None and run.sampling is not None:
            return run.sampling
        own = foreign_sampling(arguments, self.max_new_tokens)
        if run.sampling is None:
            return own
        # Where a foreign task's text ends is part of the task.
        return run.sampling.model_copy(update={"stop": own.stop})

    def _rounds(self, draws: Sequence[EvalRequest]) -> Generator[dict[int, Completion]]:
        """The completions of each round by the place of their draw, in the order of `draws`."""
        requests = [
            Request(tuple(self.tokenize(draw.prompt, draw.run.is_raw)), draw.seed) for draw in draws
        ]
        lengths = [
            len(request.prompt_ids) + draw.sampling.max_new_tokens
            for draw, request in zip(draws, requests, strict=True)
        ]
        sampler = self.open_sampler(max(lengths), sum(lengths) // len(lengths))
        number = finished = 0
        try:
            for places in rounds(draws, self.is_enough):
                drawn: dict[int, Completion] = {}
                for sampling in dict.fromkeys(draws[i].sampling for i in places):
                    members = [i for i in places if draws[i].sampling == sampling]
                    texts = sample_blocks(
                        sampler,
                        [(draws[i].key, requests[i]) for i in members],
                        sampling,
                        segment=self.context.scratch / f"samples-{number}.jsonl",
                        block=self.context.machine.requests_at_once,
                        on_block=lambda start, block, before=finished: self.context.progress(
                            before + start + len(block), len(draws), unit="samples"
                        ),
                    )
                    drawn.update(zip(members, texts, strict=True))
                    number, finished = number + 1, finished + len(members)
                yield {place: drawn[place] for place in places}
        finally:
            sampler.close()


def _reply(draw: EvalRequest, completion: Completion) -> str:
    """The text for lm-eval: whole for our graders, without the stop text for foreign filters."""
    if draw.run.problems is not None:
        return completion.text
    ends = [completion.text.find(stop) for stop in draw.sampling.stop]
    return completion.text[: min((end for end in ends if end >= 0), default=None)]


def run_harness(runs: Sequence[Run], lm: SamplerLM) -> dict[str, Any]:
    """lm-eval's results for these runs: its metrics, versions and settings, and its samples."""
    limits = {
        run.name: list(range(min(run.limit, len(run.task.eval_docs))))
        for run in runs
        if run.problems is None and run.limit is not None
    }
    results = evaluate(
        lm=lm,
        task_dict={"tasks": {run.name: run.task for run in runs}},
        samples=limits or None,
        # Its standard errors know nothing of the other samples of a problem; ours do.
        bootstrap_iters=0,
        log_samples=True,
    )
    # It returns nothing on ranks other than the first; an evaluation has one process.
    return dict(results or {})


def harness_record(results: dict[str, Any]) -> dict[str, Any]:
    """What of lm-eval's results is kept: all numbers and settings, no paths, times or code."""
    kept = ("results", "versions", "n-shot", "n-samples", "higher_is_better")
    settings = ("output_type", "repeats", "num_fewshot", "generation_kwargs", "metric_list")
    return {
        **{key: results[key] for key in kept},
        "configs": {
            name: {key: config[key] for key in settings if key in config}
            for name, config in results["configs"].items()
        },
    }


@contextmanager
def datasets_cache(folder: Path) -> Iterator[None]:
    """Let `datasets` prepare its files in this folder, not in the user's home, for a while."""
    import datasets

    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = folder
    try:
        yield
    finally:
        datasets.config.HF_DATASETS_CACHE = before
