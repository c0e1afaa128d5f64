"""Stage `written`: worked examples from a file, written by people or programs, graded like any.

R1's cold start began with traces that people had written (arXiv 2501.12948 v2, B.3.2), and a
quarter of its SFT set needs no reasoning: writing, factual questions, self-cognition, translation
(B.3.3). Answers of kind `open` have no rule that could grade them: they are taken as written.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import model_validator

from factory.artifacts import Artifact, Inputs
from factory.chat import completion_text
from factory.context import Context, Metrics
from factory.cost.context import CostContext, StageCost
from factory.cost.flows import Answers, examples
from factory.cost.work import line_work
from factory.data_file import DataFile
from factory.errors import DataError, Unpriced
from factory.grading import GRADING_PACKAGES, GradeItem, GradingPool
from factory.jsonl import read_records, write_records
from factory.lint import lint
from factory.problems.sizes import QUESTION_CHARACTERS, lines
from factory.problems.splits import problem_id, question_key
from factory.problems.trace_source import (
    TRACE_SOURCES,
    AnyTraceSource,
    LocalExamples,
    TraceSource,
    TraceSourceConfig,
    WorkedExample,
)
from factory.records import (
    AddedLater,
    Problem,
    ProblemsRef,
    SamplingConfig,
    Trace,
    Verdict,
)
from factory.stages.stage import (
    Origin,
    StageConfig,
    file_origin,
    light_stage,
    register,
)

WRITTEN_TOKENS = 500.0
"""Of a worked example of a plug-in's source; assumed."""


class WrittenConfig(StageConfig):
    kind: Literal["written"]
    path: DataFile = DataFile("")
    """JSONL of worked examples, relative to the recipe or to the current folder."""
    source: Annotated[AnyTraceSource | None, AddedLater()] = None
    """Another source of them, instead of `path`."""
    unlike: ProblemsRef
    """No question of its held-out split may be learned from: such examples are left out."""
    licence: Annotated[str, AddedLater()] = ""
    """Of the examples; those in recipes/data/ are under this repository's."""

    @model_validator(mode="after")
    def _has_one_source(self) -> "WrittenConfig":
        if bool(self.path) == (self.source is not None):
            raise ValueError("give either path, a file of worked examples, or source")
        return self

    @property
    def chosen(self) -> TraceSourceConfig:
        return self.source or LocalExamples(path=self.path)

    @property
    def row(self) -> TraceSource:
        return TRACE_SOURCES[self.chosen.type]

    @property
    def label(self) -> str:
        """What messages call it: the file, or the name of the source."""
        return self.path or f"trace source {self.chosen.type}"


def run(config: WrittenConfig, inputs: Inputs, out: Path, context: Context) -> Metrics:
    """Write traces.jsonl in the file's order; an example that grades as wrong is a DataError."""
    held_out = {
        question_key(problem.prompt)
        for problem in read_records(inputs["unlike"].file("held_out.jsonl"), Problem)
    }
    examples = list(config.row.examples(config.chosen))
    kept = [e for e in examples if question_key(e.question) not in held_out]
    if not kept:
        raise DataError(f"{config.label}: none of {len(examples)} examples is left to learn from")
    verdicts = _verdicts(kept)
    for example, verdict in zip(kept, verdicts, strict=True):
        if not verdict.is_correct and example.kind != "open":
            raise DataError(
                f"{config.label}: {example.question!r} is worked to {example.answer!r}: "
                f"{verdict.outcome}: {verdict.explanation}"
            )
    write_records(
        out / "traces.jsonl",
        (
            Trace(
                problem_id=problem_id(example.topic, example.question),
                sample=0,
                question=example.question,
                prompt=example.question,
                completion=completion_text(example.reasoning, example.answer),
                reasoning=example.reasoning,
                answer=example.answer,
                finish_reason="stop",
                completion_tokens=0,
                seed=0,
                sampling=SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=1),
                style="written",
                model="",
                verdict=verdict,
            )
            for example, verdict in zip(kept, verdicts, strict=True)
        ),
    )
    return {"traces": float(len(kept)), "held_out": float(len(examples) - len(kept))}


def _verdicts(examples: Sequence[WorkedExample]) -> list[Verdict]:
    """By the graders; one of kind `open` only has to be well-formed, and its verdict says so."""
    with GradingPool() as pool:
        graded = iter(pool.grade([_item(e) for e in examples if e.kind != "open"]))
    verdicts = []
    for example in examples:
        if example.kind != "open":
            verdicts.append(next(graded))
            continue
        faults = lint(completion_text(example.reasoning, example.answer))
        if faults:
            raise DataError(f"worked example {example.question!r}: {'; '.join(faults)}")
        taken = "taken as written: no rule grades open answers"
        verdicts.append(Verdict(outcome="ungradable", answer=example.answer, explanation=taken))
    return verdicts


def _item(example: WorkedExample) -> GradeItem:
    problem = Problem(
        id=problem_id("written", example.question),
        prompt=example.question,
        reference=example.reference or example.answer,
        kind=example.kind,
        source="written",
    )
    return GradeItem(problem, completion_text(example.reasoning, example.answer))


def external_files(config: WrittenConfig) -> tuple[Path, ...]:
    """Files outside the store that decide what this stage makes."""
    return config.row.files(config.chosen)


def estimate(config: WrittenConfig, cost: CostContext) -> tuple[StageCost, Answers]:
    source, row = config.chosen, config.row
    if isinstance(source, LocalExamples):
        return line_work(examples(Path(source.path)))
    files = row.files(source)
    if row.size is None and not files:
        raise Unpriced(f"{config.label} states neither size nor files")
    number = row.size(source) if row.size else sum(map(lines, files))
    return line_work(Answers(number, number, QUESTION_CHARACTERS, WRITTEN_TOKENS))


def origins(artifact: Artifact) -> list[Origin]:
    config = artifact.manifest.config
    source = config.get("source")
    return [Origin(source["type"], config.get("licence") or "") if source else file_origin(config)]


STAGE = register(
    light_stage(
        WrittenConfig,
        produces="traces",
        version=3,
        run=run,
        estimate=estimate,
        packages=GRADING_PACKAGES,
        external_files=external_files,
        uses=lambda config: {("graders", name) for name in config.row.graders(config.chosen)},
        origins=origins,
    )
)
