"""What stages take in which a model writes: generate, evaluate, rewrite, judge, pairs, labels."""

from typing import cast

from factory.chat import PromptConfig
from factory.cost.amounts import KEPT_SHARE, Answers, Questions, Texts, questions, texts
from factory.cost.formulas import Draw
from factory.cost.shapes import Unpriced
from factory.cost.site import ENGINE_BYTES, Amount, Model, Site, Taken
from factory.plan import Step
from factory.problems.bundled import BUNDLES, BundledSource
from factory.records import SamplingConfig
from factory.stages.evaluate import BenchmarkConfig, EvaluateConfig
from factory.stages.generate import GenerateConfig
from factory.stages.judge import JudgeConfig
from factory.stages.labels import JudgedLabels, LabelsConfig
from factory.stages.pairs import JudgedPairs, PairsConfig
from factory.stages.problems import ProblemsConfig
from factory.stages.rewrite import RewriteConfig

HARNESS_SECONDS = 2.5
"""Of lm-eval, fitted."""
REWRITTEN_SHARE = 0.5
"""Of drafts whose rewriting passes; an assumption, r1-small's was 0.13."""
JUDGED_SHARE = 0.5
"""Of pairs that a judge decides and that balancing keeps; an assumption."""
INSTRUCTION_CHARACTERS = 1500
"""Of what a judge is told before it reads."""


def generate(config: GenerateConfig, step: Step, site: Site) -> tuple[Taken, Amount]:
    model = site.model(step)
    asked: Questions = site.read(step, "problems")
    problems, question = asked.asked(config.split, config.sources, config.limit)
    limit = config.sampling.max_new_tokens
    completion, is_assumed = site.expected(step, limit)
    samples = float(config.samples)
    if config.enough is not None:
        samples = min(samples, config.enough / KEPT_SHARE)
    rows = problems * samples
    draw = site.draw(
        model, config.prompt, question=question, prompts=problems, rows=rows,
        completion=completion, limit=limit,
    )  # fmt: skip
    taken = _sampled(site, model, draw, is_assumed=is_assumed)
    return taken, Answers(rows, problems, question, completion)


def _sampled(site: Site, model: Model, draw: Draw, *, is_assumed: bool) -> Taken:
    """A stage that does nothing but draw. A trace's line holds its question, its prompt, and its
    text twice (whole and in parts)."""
    letters = model.shape.characters_per_token
    line = 400 + letters * (draw.frame + 2 * draw.own + 2 * draw.completion)
    return Taken(
        site.start + site.draw_seconds(model, draw) / site.engines,
        draw.tokens,
        ENGINE_BYTES * (not site.on_gpu) + site.engine_memory(model, draw),
        draw.rows * line,
        is_assumed=is_assumed,
    )


def evaluate(config: EvaluateConfig, step: Step, site: Site) -> tuple[Taken, Amount]:
    model = site.model(step)
    parts = []
    for number, one in enumerate(config.benchmarks):
        problems, question = _benchmark(one, number, step, site)
        limit = (one.sampling or config.sampling).max_new_tokens
        completion, is_assumed = site.expected(step, limit)
        for samples in (config.samples_of(one), int(config.greedy)):
            if samples:
                draw = site.draw(
                    model, config.prompt, question=question, prompts=problems,
                    rows=problems * samples, completion=completion, limit=limit,
                )  # fmt: skip
                parts.append(_sampled(site, model, draw, is_assumed=is_assumed))
    start = site.start
    return Taken(
        start + HARNESS_SECONDS + sum(part.seconds - start for part in parts),
        sum(part.tokens for part in parts),
        max(part.memory for part in parts),
        sum(part.disk for part in parts),
        is_assumed=any(part.is_assumed for part in parts),
    ), None


def _benchmark(one: BenchmarkConfig, number: int, step: Step, site: Site) -> tuple[int, float]:
    """Problems of a benchmark and characters of a question."""
    if one.problems is not None:
        asked: Questions = site.read(step, f"benchmarks.{number}.problems")
        found = asked.asked("held_out", [one.source] if one.source else [], one.limit)
        return found
    known = _bundled(str(one.task))
    if known is None and one.limit is None:
        raise Unpriced(
            f"how many questions lm-eval's task {one.task} has is not known here: give its "
            "benchmark a limit"
        )
    number_known, characters = known or (cast("int", one.limit), 400.0)
    return (min(number_known, one.limit) if one.limit else number_known), characters


def _bundled(task: str) -> tuple[int, float] | None:
    """Questions of a benchmark that comes with the install, and characters of one."""
    if task not in BUNDLES:
        return None
    source = BundledSource.model_validate({"type": "bundled", "name": task})
    config = ProblemsConfig(kind="problems", sources=(source,))
    return questions(config, seed=0).asked("held_out")


def rewrite(config: RewriteConfig, step: Step, site: Site) -> tuple[Taken, Amount]:
    traces: Answers = site.read(step, "traces")
    drafts = min(traces.rows, config.limit or traces.rows)
    shown = sum(
        len(one.question) + len(one.draft) + len(one.reasoning) + 300 for one in config.examples
    )
    characters = 400 + shown + traces.question
    taken = _asked(
        site, step, "model", config.sampling, question=characters, extra=traces.completion,
        prompts=drafts, samples=config.samples,
    )  # fmt: skip
    kept = drafts * REWRITTEN_SHARE
    return taken, Answers(kept, kept, traces.question, traces.completion)


def judge(config: JudgeConfig, step: Step, site: Site) -> tuple[Taken, Amount]:
    traces: Answers = site.read(step, "traces")
    taken = _asked(
        site, step, "model", config.sampling, question=600 + traces.question,
        extra=traces.completion, prompts=traces.rows, samples=config.votes,
    )  # fmt: skip
    return taken, traces


def _asked(
    site: Site, step: Step, path: str, sampling: SamplingConfig, *, question: float, extra: float,
    prompts: float, samples: int,
) -> Taken:  # fmt: skip
    """A model asked about texts: `extra` are tokens of what it reads besides the question."""
    model = site.model(step, path)
    limit = sampling.max_new_tokens
    completion, is_assumed = site.expected(step, limit)
    draw = site.draw(
        model, PromptConfig(), prompts=prompts, rows=prompts * samples, completion=completion,
        question=question + extra * model.shape.characters_per_token, limit=limit,
    )  # fmt: skip
    return _sampled(site, model, draw, is_assumed=is_assumed)


def pairs(config: PairsConfig, step: Step, site: Site) -> tuple[Taken, Amount]:
    source = config.source
    if not isinstance(source, JudgedPairs):
        return Taken(0.01), texts(source, 2)
    return _judged(site, step, source, at_once=2, kept=JUDGED_SHARE)


def labels(config: LabelsConfig, step: Step, site: Site) -> tuple[Taken, Amount]:
    source = config.source
    if not isinstance(source, JudgedLabels):
        return Taken(0.01), texts(source, 1)
    return _judged(site, step, source, at_once=1, kept=1.0)


def _judged(
    site: Site, step: Step, source: JudgedPairs | JudgedLabels, *, at_once: int, kept: float
) -> tuple[Taken, Amount]:
    """A judge that reads so many answers at once, and the share of its decisions that is kept."""
    traces: Answers = site.read(step, "source.traces")
    decisions = traces.rows / at_once
    taken = _asked(
        site, step, "source.judge", source.sampling,
        question=INSTRUCTION_CHARACTERS + traces.question, extra=at_once * traces.completion,
        prompts=decisions, samples=source.votes,
    )  # fmt: skip
    characters = traces.question + 3.6 * traces.completion
    return taken, Texts(kept * decisions, at_once, characters)
