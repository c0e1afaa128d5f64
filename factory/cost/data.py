"""What stages take that bring, choose and mix: model, problems, written, select, review, mix."""

from collections.abc import Sequence
from pathlib import Path

from factory.cost.amounts import Answers, examples, kept_rows, questions
from factory.cost.formulas import DISK_BYTES_PER_SECOND
from factory.cost.shapes import model_shape
from factory.cost.site import PROCESS_BYTES, Amount, Model, Site, Taken
from factory.plan import Step
from factory.stages.mix import TABLE_5, Domain, MixConfig
from factory.stages.model import Embedded, Hub, ModelConfig
from factory.stages.problems import ProblemsConfig
from factory.stages.review import ReviewConfig
from factory.stages.select import SelectConfig
from factory.stages.written import WrittenConfig

FETCH_BYTES_PER_SECOND = 50e6
"""Of the hub; an assumption."""
DEQUANTISE_SECONDS = 22.0
"""Of the embedded model's 4-bit file, in the fitted build."""


def make_model(config: ModelConfig, step: Step, site: Site) -> tuple[Taken, Amount]:
    source = config.source
    shape = model_shape(config)
    model = Model(shape, 2 if isinstance(source, Hub) else 4)
    rate = FETCH_BYTES_PER_SECOND if isinstance(source, Hub) else DISK_BYTES_PER_SECOND
    seconds = 1.0 + model.file_bytes / rate
    if isinstance(source, Embedded):
        seconds = DEQUANTISE_SECONDS
    memory = PROCESS_BYTES + 1.5 * model.file_bytes * isinstance(source, Embedded)
    return Taken(seconds, 0.0, memory, model.file_bytes), model


def make_problems(config: ProblemsConfig, step: Step, site: Site) -> tuple[Taken, Amount]:
    found = questions(config, step.seed)
    number = sum(found.train.values()) + sum(found.held_out.values())
    return Taken(0.3 + 4e-4 * number, disk=1000.0 * number), found


def written(config: WrittenConfig, step: Step, site: Site) -> tuple[Taken, Amount]:
    return _light(examples(Path(config.path)))


def select(config: SelectConfig, step: Step, site: Site) -> tuple[Taken, Amount]:
    traces: Answers = site.read(step, "traces")
    share = site.kept.get(step.name)
    assumed = kept_rows(traces, config.max_per_problem)
    rows = assumed if share is None else share * traces.rows
    problems = min(rows, traces.problems)
    return _light(Answers(rows, problems, traces.question, traces.completion), read=traces.rows)


def _light(answers: Answers, *, read: float = 0.0) -> tuple[Taken, Amount]:
    """A stage without a model: it reads and writes lines of traces."""
    line = 500 + 2 * answers.question + 8 * answers.completion
    rows = max(read, answers.rows)
    return Taken(0.01 + 5e-5 * rows, disk=rows * line), answers


def review(config: ReviewConfig, step: Step, site: Site) -> tuple[Taken, Amount]:
    return _light(site.read(step, "traces"))


def mix(config: MixConfig, step: Step, site: Site) -> tuple[Taken, Amount]:
    parts: list[Answers] = [
        site.read(step, f"parts.{number}.traces") for number in range(len(config.parts))
    ]
    taken = _quotas(config, [part.rows for part in parts])
    rows = max(1.0, sum(taken))
    kept = min(rows, config.limit or rows)

    def mean(name: str) -> float:
        return sum(getattr(a, name) * n for a, n in zip(parts, taken, strict=True)) / rows

    mixture = Answers(kept, kept, mean("question"), mean("completion"))
    return _light(mixture, read=sum(part.rows for part in parts))


def _quotas(config: MixConfig, available: Sequence[float]) -> list[float]:
    """Rows taken of each part: the largest mixture that its shares allow, or all, or counts."""
    parts = config.parts
    weights: list[float] = [part.share or 0.0 for part in parts]
    if config.quotas:
        domains: list[Domain] = [part.domain for part in parts if part.domain is not None]
        whole: dict[Domain, float] = dict.fromkeys(domains, 0.0)
        for domain, rows in zip(domains, available, strict=True):
            whole[domain] += rows
        weights = [
            TABLE_5[domain] * rows / whole[domain]
            for domain, rows in zip(domains, available, strict=True)
        ]
    if not any(weights):
        return [min(rows, part.count or rows) for part, rows in zip(parts, available, strict=True)]
    scale = min(rows / weight for rows, weight in zip(available, weights, strict=True) if weight)
    return [scale * weight for weight in weights]
