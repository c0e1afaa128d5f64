"""Evaluated checkpoints in stage order, and what changed between them on the same problems."""

from collections.abc import Iterable, Mapping, Sequence

from factory.core.blocks import OUTCOME_WORDS
from factory.core.jsonl import read_records
from factory.core.readable import count, plural
from factory.core.records import EvalSample, Mode, Outcome, Score
from factory.evaluation.paired import holm, paired
from factory.evaluation.statistics import clusters
from factory.evaluation.summary import ByMode, common_samples, read_answers, trap
from factory.report.lineage import model_input, teachers, weight_ancestors
from factory.report.records import Comparison, Evaluation, Relation, Role, Step, Tally

AllAnswers = dict[str, ByMode]
"""By evaluation label, then (benchmark, mode), then problem id in the file's order."""

MODES: tuple[Mode, ...] = ("sampled", "greedy")


def evaluations(by_name: Mapping[str, Step]) -> list[Evaluation]:
    """The sealed evaluations, ordered by the plan's order of their models."""
    order = {name: position for position, name in enumerate(by_name)}
    rows = []
    for step in by_name.values():
        model = model_input(step, by_name) if step.produces == "scores" else None
        if step.artifact is None or model is None:
            continue
        scores = tuple(read_records(step.artifact.file("scores.jsonl"), Score))
        rows.append((model, step, scores, _prompt(step, scores)))
    rows.sort(key=lambda row: (order[row[0]], order[row[1].name]))
    roles = _roles([model for model, *_ in rows], by_name)
    labels = _labels([(model, prompt, step.name) for model, step, _, prompt in rows])
    return [
        Evaluation(
            label=label,
            model=model,
            model_kind=by_name[model].stage,
            stage=step.name,
            prompt=prompt,
            role=role,
            scores=scores,
        )
        for label, role, (model, step, scores, prompt) in zip(labels, roles, rows, strict=True)
    ]


def _prompt(step: Step, scores: Sequence[Score]) -> str:
    """`zero, 2 examples`: the styles of the scores and the demonstrations of the config."""
    styles = "+".join(dict.fromkeys(score.prompt_style for score in scores))
    settings = step.config.get("prompt") or {}
    examples = len(settings.get("demonstrations") or ())
    return f"{styles}, {plural(examples, 'example')}" if examples else styles


def _labels(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    """The model's name; with the prompt, and if need be the stage, where that is not enough."""
    models = [model for model, _, _ in rows]
    pairs = [(model, prompt) for model, prompt, _ in rows]
    labels = []
    for model, prompt, stage in rows:
        if models.count(model) == 1:
            labels.append(model)
        elif pairs.count((model, prompt)) == 1:
            labels.append(f"{model} ({prompt})")
        else:
            labels.append(f"{model} ({stage})")
    return labels


def _roles(models: Sequence[str], by_name: Mapping[str, Step]) -> list[Role | None]:
    """First model; a teacher where the last model learned from its traces, and all its students."""
    roles: list[Role | None] = [None] * len(models)
    if not models:
        return roles
    writers = [name for name in teachers(models[-1], by_name) if name in models[:-1]]
    if writers:
        roles[_last(models, writers[-1])] = "teacher"
        for position, model in enumerate(models):
            if writers[-1] in teachers(model, by_name):
                roles[position] = "student"
    if roles[0] is None:
        roles[0] = "first model"
    return roles


def _last(models: Sequence[str], name: str) -> int:
    return max(position for position, model in enumerate(models) if model == name)


def all_answers(rows: Sequence[Evaluation], by_name: Mapping[str, Step]) -> AllAnswers:
    """Every graded completion behind the scores."""
    artifacts = {row.label: by_name[row.stage].artifact for row in rows}
    return {label: read_answers(made) for label, made in artifacts.items() if made is not None}


def benchmarks(rows: Sequence[Evaluation]) -> list[str]:
    """Benchmarks in order of importance: most evaluated first, then as first seen."""
    seen: dict[str, int] = {}
    for row in rows:
        for name in dict.fromkeys(score.benchmark for score in row.scores):
            seen[name] = seen.get(name, 0) + 1
    return sorted(seen, key=lambda name: -seen[name])


def main_benchmark(rows: Sequence[Evaluation]) -> str | None:
    """The benchmark a headline is about: the most evaluated one with pass@1 or greedy scores."""
    for name in benchmarks(rows):
        if any(main_score(row, name) is not None for row in rows):
            return name
    return None


def main_score(row: Evaluation, benchmark: str) -> Score | None:
    """pass@1 where it was measured, else the greedy score."""
    return find_score(row, benchmark, "pass@1") or find_score(row, benchmark, "greedy")


def find_score(row: Evaluation, benchmark: str, metric: str) -> Score | None:
    """The score of that name, or None where it was not measured."""
    for score in row.scores:
        if score.benchmark == benchmark and score.metric == metric:
            return score
    return None


def compare(
    rows: Sequence[Evaluation], answers: AllAnswers, by_name: Mapping[str, Step]
) -> list[Comparison]:
    """Paired comparisons of each checkpoint with where it started, its forerunner, its teacher.

    Their p-values are corrected for their number, together.
    """
    comparisons: list[Comparison] = []
    for position, after in enumerate(rows):
        for relation, before in _befores(position, rows, by_name):
            for benchmark in benchmarks(rows):
                for mode in MODES:
                    comparison = _compare_pair(
                        before, after, answers, key=(benchmark, mode), relation=relation
                    )
                    if comparison is not None:
                        comparisons.append(comparison)
    corrected = holm([row.p_value for row in comparisons])
    return [
        row.model_copy(update={"p_corrected": p_value})
        for row, p_value in zip(comparisons, corrected, strict=True)
    ]


def _befores(
    position: int, rows: Sequence[Evaluation], by_name: Mapping[str, Step]
) -> list[tuple[Relation, Evaluation]]:
    """What a row is compared with, and why; no row twice."""
    after = rows[position]
    evaluated = {row.model for row in rows}
    ancestors = [name for name in weight_ancestors(after.model, by_name) if name in evaluated]
    befores: list[tuple[Relation, Evaluation]] = [
        ("start", row) for row in rows if ancestors and row.model == ancestors[0]
    ]
    if after.role == "student":
        befores.extend(("teacher", row) for row in rows if row.role == "teacher")
    if position:
        befores.append(("order", rows[position - 1]))
    distinct: dict[str, tuple[Relation, Evaluation]] = {}
    for relation, before in befores:
        distinct.setdefault(before.label, (relation, before))
    return list(distinct.values())


def _compare_pair(
    before: Evaluation,
    after: Evaluation,
    answers: AllAnswers,
    *,
    key: tuple[str, Mode],
    relation: Relation,
) -> Comparison | None:
    """None where fewer than two problems, or different versions of the benchmark, are shared."""
    benchmark, mode = key
    versions = [
        {score.version for score in row.scores if score.benchmark == benchmark}
        for row in (before, after)
    ]
    old = answers[before.label].get(key, {})
    new = answers[after.label].get(key, {})
    shared = [problem for problem in old if problem in new]
    if len(shared) < 2 or versions[0] != versions[1]:
        return None
    old, new, fewest = common_samples(
        {problem: old[problem] for problem in shared}, {problem: new[problem] for problem in shared}
    )
    old_means = [correct_share(old[problem]) for problem in shared]
    new_means = [correct_share(new[problem]) for problem in shared]
    counts = {len(answers[row.label][key][shared[0]]) for row in (before, after)}
    result = paired(new_means, old_means, samples=fewest, groups=clusters(shared))
    change = result.difference
    pairs = list(zip(old_means, new_means, strict=True))
    return Comparison(
        benchmark=benchmark,
        mode=mode,
        before=before.label,
        after=after.label,
        relation=relation,
        n=len(shared),
        samples=fewest if len(counts) > 1 else None,
        difference=change.value,
        low=change.low,
        high=change.high,
        improved=sum(b > a for a, b in pairs),
        declined=sum(b < a for a, b in pairs),
        p_value=result.p_value,
        p_corrected=result.p_value,
    )


def traps(rows: Sequence[Evaluation], answers: AllAnswers) -> list[str]:
    """Which evaluations are zero by their protocol, each with its explanation."""
    messages = []
    for row in rows:
        for (benchmark, mode), problems in answers[row.label].items():
            message = trap([sample for samples in problems.values() for sample in samples])
            if message:
                messages.append(f"{row.label} on {benchmark}, {mode}: {message}")
    return messages


def tallies(rows: Sequence[Evaluation], answers: AllAnswers) -> list[Tally]:
    """Every evaluation's right answers problem by problem."""
    return [
        Tally(
            stage=row.stage,
            benchmark=benchmark,
            mode=mode,
            samples=min(map(len, problems.values())),
            ended_early=any(
                score.stopped is not None and score.stopped.asked > score.k
                for score in row.scores
                if score.benchmark == benchmark and mode == "sampled"
            ),
            shares={name: correct_share(samples) for name, samples in problems.items()},
        )
        for row in rows
        for (benchmark, mode), problems in answers[row.label].items()
    ]


def outcome_words(counts: Iterable[tuple[Outcome, int]]) -> str:
    """`341 correct, 102 wrong, 37 cut off`."""
    return ", ".join(f"{count(n)} {OUTCOME_WORDS[name]}" for name, n in counts if n) or "none"


def correct_share(samples: Sequence[EvalSample]) -> float:
    """Share of one problem's samples that strict grading calls correct."""
    return sum(sample.trace.verdict.is_correct for sample in samples) / len(samples)
