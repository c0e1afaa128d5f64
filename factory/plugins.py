"""The public names: all that a plug-in may import, without torch.

docs/architecture.md says what holds for doors; `examples/` has plug-ins as a user writes them.
"""

from factory.core.artifacts import Artifact, Inputs
from factory.core.blocks import Bullets, Code, Fold, Sample, Samples, Section, Table, Text
from factory.core.context import Context, Metrics
from factory.core.jsonl import read_records, write_records
from factory.core.records import EvalSample, Problem, Record, Trace, TracesRef, Verdict
from factory.cost.context import CostContext, Flow, StageCost
from factory.cost.work import line_work
from factory.evaluation.measure import measure
from factory.grading.grader import correct, grader, wrong
from factory.grading.numbers import plain_number
from factory.problems.benchmark import benchmark
from factory.problems.source import SourceConfig, new_problem, source
from factory.problems.trace_source import TraceSourceConfig, WorkedExample, trace_source
from factory.report.build import Build
from factory.report.section import section
from factory.rewards.reward import GradedCompletion, reward
from factory.stages.stage import Shows, Stage, StageConfig, light_stage, register

__all__ = [
    "Artifact", "Build", "Bullets", "Code", "Context", "CostContext", "EvalSample", "Flow", "Fold",
    "GradedCompletion", "Inputs", "Metrics", "Problem", "Record", "Sample", "Samples", "Section",
    "Shows", "SourceConfig", "Stage", "StageConfig", "StageCost", "Table", "Text", "Trace",
    "TraceSourceConfig", "TracesRef", "Verdict", "WorkedExample", "benchmark", "correct", "grader",
    "light_stage", "line_work", "measure", "new_problem", "plain_number", "read_records",
    "register", "reward", "section", "source", "trace_source", "write_records", "wrong",
]  # fmt: skip
