"""Stage `written`: worked examples from a file, written by people or programs, graded like any.

R1's cold start began with traces that people had written (arXiv 2501.12948 v2, B.3.2), and a
quarter of its SFT set needs no reasoning: writing, factual questions, self-cognition, translation
(B.3.3). Answers of kind `open` have no rule that could grade them: they are taken as written.
It is `imported` for examples that state question, reasoning and answer, and reads other shapes too.
"""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import model_validator

from factory.core.artifacts import Artifact, Inputs
from factory.core.context import Context, Metrics
from factory.core.data_file import DataFile
from factory.core.errors import Unpriced
from factory.core.records import AddedLater, ProblemsRef
from factory.cost.context import CostContext, StageCost
from factory.cost.flows import Answers, examples
from factory.cost.work import line_work
from factory.grading import GRADING_PACKAGES
from factory.problems.sizes import QUESTION_CHARACTERS, lines
from factory.problems.trace_source import (
    TRACE_SOURCES,
    AnyTraceSource,
    LocalExamples,
    TraceSource,
    TraceSourceConfig,
)
from factory.reading.files import at_rest
from factory.stages.fates import fates
from factory.stages.stage import Origin, Shows, file_origin, light_stage, register
from factory.stages.texts import Policy, TextsConfig, held_out_keys, surveys, write_traces

WRITTEN_TOKENS = 500.0
"""Of a worked example of a plug-in's source; assumed."""


class WrittenConfig(TextsConfig):
    kind: Literal["written"]
    path: DataFile = DataFile("")
    """A file of worked examples, relative to the recipe or to the current folder."""
    source: Annotated[AnyTraceSource | None, AddedLater()] = None
    """Another source of them, instead of `path`."""
    unlike: Annotated[ProblemsRef | None, AddedLater()] = None
    """No question of its held-out split may be learned from: such examples are left out."""

    @model_validator(mode="after")
    def _has_one_source(self) -> "WrittenConfig":
        if bool(self.path) == (self.source is not None):
            raise ValueError("give either path, a file of worked examples, or source")
        return self

    def outlook(self) -> list[str]:
        """How files are read that are no plain ones of worked examples."""
        read = [] if self.row.missing(self.chosen) else surveys(self, self.policy)
        return [
            line
            for part in read
            if part.reading.columns.preset != "worked"
            for line in part.lines()
        ]

    @property
    def chosen(self) -> TraceSourceConfig:
        return self.source or LocalExamples(path=self.path)

    @property
    def row(self) -> TraceSource:
        return TRACE_SOURCES[self.chosen.type]

    @property
    def policy(self) -> Policy:
        label = self.path or f"trace source {self.chosen.type}"
        return Policy(
            self.chosen, label, "written",
            keeps_empty_thoughts=True, is_lenient=True, unlisted=("held_out",),
        )  # fmt: skip


def run(config: WrittenConfig, inputs: Inputs, out: Path, context: Context) -> Metrics:
    """Write traces.jsonl in the file's order; dropped.jsonl has the examples that are refused."""
    held_out = held_out_keys(
        [inputs["unlike"]] if config.unlike is not None else [],
    )
    with at_rest(partial(external_files, config)):
        tally, _ = write_traces(config, config.policy, held_out, out, context)
    if tally.refused:
        context.note(f"written: {config.policy.label}: {tally.summary()}")
    rejected = {f"rejected.{name}": float(n) for name, n in sorted(tally.counts.items())}
    held = rejected.pop("rejected.held_out", 0.0)
    return {"traces": float(tally.kept), "held_out": held, **rejected}


def external_files(config: WrittenConfig) -> tuple[Path, ...]:
    """Files outside the store that decide what this stage makes."""
    return config.row.files(config.chosen)


def estimate(config: WrittenConfig, cost: CostContext) -> tuple[StageCost, Answers]:
    source, row = config.chosen, config.row
    if isinstance(source, LocalExamples):
        return line_work(examples(Path(source.path)))
    files = row.files(source)
    if row.size is None and not files:
        raise Unpriced(f"{config.policy.label} states neither size nor files")
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
        missing=lambda config: config.row.missing(config.chosen),
        origins=origins,
        shows=Shows("selection", fates),
    )
)
